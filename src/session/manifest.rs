//! Reading, comparing and writing the manifest.
//!
//! Touches: replaces `manifest.json`.
//!
//! Guarantees: the hash of a manifest is verified when it is read; a manifest is written from verified frames only.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::{LinePlace, SessionError};
use super::format::{
    MANIFEST_SCHEMA, Manifest, ManifestCounters, ManifestFiles, ManifestIntegrity, ManifestInvariants,
    StoreHead,
};
use super::frame::hex_text;
use super::layout::{SessionLayout, read_if_exists};
use super::time;
use super::view::SessionView;
use super::writer::SessionStoreV2;

const STORE_VERSION: u8 = 2;
const NO_CRC: &str = "00000000";

impl Manifest {
    /// Returns the hash that belongs into `integrity.manifestHash`.
    pub fn hash(&self) -> String {
        let mut bare = self.clone();
        bare.integrity.manifest_hash.clear();
        // Strings, numbers and booleans always serialise.
        let text = serde_json::to_vec(&bare).unwrap_or_default();
        hex_text(&Sha256::digest(text).into())
    }
}

impl SessionLayout {
    /// Reads the manifest without verifying its hash; `None` when there is no such file.
    pub(super) fn read_manifest(&self) -> Result<Option<Manifest>, SessionError> {
        let path = self.manifest();
        let Some(bytes) = read_if_exists(&path)? else { return Ok(None) };
        match serde_json::from_slice(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(error) => Err(SessionError::ManifestUnreadable { path, reason: error.to_string() }),
        }
    }
}

impl SessionView {
    /// Reads the manifest and verifies its schema, version and hash; `None` when there is no such file.
    ///
    /// # Errors
    /// [`SessionError::ManifestUnreadable`], [`SessionError::UnsupportedSchema`], [`SessionError::ManifestHashMismatch`], or what the system
    /// says.
    pub fn read_manifest(&self) -> Result<Option<Manifest>, SessionError> {
        let path = self.layout.manifest();
        let Some(manifest) = self.layout.read_manifest()? else { return Ok(None) };
        if manifest.schema != MANIFEST_SCHEMA || manifest.store_version != STORE_VERSION {
            let found = format!("{} version {}", manifest.schema, manifest.store_version);
            return Err(SessionError::UnsupportedSchema { place: LinePlace::of_document(&path), found });
        }
        let found = manifest.hash();
        if found != manifest.integrity.manifest_hash {
            let expected = manifest.integrity.manifest_hash;
            return Err(SessionError::ManifestHashMismatch { path, expected, found });
        }
        Ok(Some(manifest))
    }

    /// Validates the store and returns the members in which a manifest differs from it, such as `counters.entriesTotal`.
    ///
    /// # Errors
    /// As [`SessionView::validate_integrity`].
    pub fn manifest_differences(&self, manifest: &Manifest) -> Result<Vec<&'static str>, SessionError> {
        let now = self.sum_up()?;
        let (then, now) = (manifest, &now);
        let agreements = [
            ("head.segmentSeq", then.head.segment_seq == now.head.segment_seq),
            ("head.entrySeq", then.head.entry_seq == now.head.entry_seq),
            ("head.entryId", then.head.entry_id == now.head.entry_id),
            ("counters.entriesTotal", then.counters.entries_total == now.counters.entries_total),
            ("counters.messagesTotal", then.counters.messages_total == now.counters.messages_total),
            ("counters.branchesTotal", then.counters.branches_total == now.counters.branches_total),
            ("counters.compactionsTotal", then.counters.compactions_total == now.counters.compactions_total),
            ("counters.bytesTotal", then.counters.bytes_total == now.counters.bytes_total),
            ("files.segmentCount", then.files.segment_count == now.segment_count),
            ("integrity.chainHash", then.integrity.chain_hash == now.chain_hash),
            ("integrity.lastCrc32c", then.integrity.last_crc32c == now.last_crc32c),
        ];
        Ok(agreements.into_iter().filter(|(_, agrees)| !agrees).map(|(name, _)| name).collect())
    }

    fn sum_up(&self) -> Result<Sum, SessionError> {
        let validated = self.validate_integrity()?;
        let rows = &self.snapshot.rows;
        let segments: std::collections::BTreeSet<u64> =
            (0..rows.len()).map(|row| rows.numbers(row).segment_seq).collect();
        Ok(Sum {
            head: self.head().unwrap_or_default(),
            counters: ManifestCounters {
                entries_total: rows.len() as u64,
                messages_total: validated.messages_total,
                branches_total: validated.branches_total,
                compactions_total: validated.compactions_total,
                bytes_total: rows.total_bytes(),
            },
            segment_count: segments.len() as u64,
            chain_hash: validated.chain_hash,
            last_crc32c: rows.last().map_or(NO_CRC.to_owned(), |last| last.crc.as_str().to_owned()),
        })
    }

    /// Writes a manifest of the store.
    pub(super) fn write_manifest_of(&self, origin: ManifestOrigin) -> Result<Manifest, SessionError> {
        let sum = self.sum_up()?;
        let rows = &self.snapshot.rows;
        let segment = |row| rows.numbers(row).segment_seq;
        let mut manifest = Manifest {
            schema: MANIFEST_SCHEMA.to_owned(),
            store_version: STORE_VERSION,
            session_id: origin.session_id,
            source_format: origin.source_format,
            created_at: origin.created_at,
            updated_at: time::now(),
            head: sum.head,
            counters: sum.counters,
            files: ManifestFiles {
                segment_dir: "segments/".to_owned(),
                segment_count: sum.segment_count,
                index_path: "index/offsets.jsonl".to_owned(),
                checkpoint_dir: "checkpoints/".to_owned(),
                migration_ledger_path: "migrations/ledger.jsonl".to_owned(),
            },
            invariants: ManifestInvariants {
                // A store that fails validation gets no manifest.
                parent_links_closed: true,
                monotonic_entry_seq: true,
                index_within_segment_bounds: true,
                monotonic_segment_seq: (1..rows.len()).all(|row| segment(row - 1) <= segment(row)),
                branch_heads_indexed: self.unindexed()?.is_empty(),
                checkpoints_monotonic: self.layout.checkpoints_monotonic()?,
                hash_chain_valid: self.chain_hash()? == sum.chain_hash,
            },
            integrity: ManifestIntegrity {
                chain_hash: sum.chain_hash,
                manifest_hash: String::new(),
                last_crc32c: sum.last_crc32c,
            },
        };
        manifest.integrity.manifest_hash = manifest.hash();
        let path = self.layout.manifest();
        let text = serde_json::to_vec_pretty(&manifest).map_err(|error| {
            SessionError::ManifestUnreadable { path: path.clone(), reason: error.to_string() }
        })?;
        self.layout.replace("manifest.json.tmp", &path, |file| Ok(file.write_all(&text)?))?;
        Ok(manifest)
    }
}

/// The part of a manifest that follows from the entries.
struct Sum {
    head: StoreHead,
    counters: ManifestCounters,
    segment_count: u64,
    chain_hash: String,
    last_crc32c: String,
}

/// The part of a manifest that a new one takes over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestOrigin {
    pub(super) session_id: String,
    pub(super) source_format: String,
    pub(super) created_at: String,
}

impl SessionStoreV2 {
    /// Validates the store and writes its manifest. The time of creation is that of the manifest before, if there is one.
    ///
    /// # Errors
    /// As [`SessionView::validate_integrity`] and [`SessionStoreV2::sync`]; [`SessionError::ManifestUnreadable`] when the one there is none.
    pub fn write_manifest(
        &mut self,
        session_id: &str,
        source_format: &str,
    ) -> Result<Manifest, SessionError> {
        self.sync()?;
        let created_at = self.layout.read_manifest()?.map_or_else(time::now, |manifest| manifest.created_at);
        self.write_manifest_of(ManifestOrigin {
            session_id: session_id.to_owned(),
            source_format: source_format.to_owned(),
            created_at,
        })
    }
}
