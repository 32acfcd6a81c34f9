//! `export.json` of a home: the id under which the home exports, the generation of its ledger, and what the last export left.
//!
//! Touches `export.json`, and reads the beginning of the ledger. Guarantees: an id and a generation are on the disk before a
//! file has them in its name, so that an export after a crash goes on under the same names. A ledger that was replaced or
//! became shorter begins a new generation, because the files of the rows that the ledger lost must stay.
//!
//! `{"version":1,"homeId":"…","generation":"…","seqs":{"<manifest>":…},"ledger":{"bytes":…,"headBytes":…,"headBlake3":"…"},"last":{"proof":"…","tables":[…]}}`

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::error::ExportError;
use super::layout::{HomeId, is_generation};
use super::unchanged::LastExport;
use crate::disk::{self, Replacing};
use crate::home::Home;
use crate::record::time::Instant;

/// The version of `export.json`.
const VERSION: u32 = 1;
/// So many bytes of the ledger tell it from another.
const HEAD_MAX_BYTES: u64 = 64 << 10;
/// So many bytes before an offset tell whether another ledger has the same lines there.
const TAIL_MAX_BYTES: u64 = 4 << 10;

/// The content of `export.json`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ExportIdentity {
    version: u32,
    pub home_id: HomeId,
    pub generation: String,
    /// The seq of the last manifest of this generation at each place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    seqs: BTreeMap<String, u64>,
    ledger: LedgerHead,
    /// What the last export left; `None` when it could not be told from a later state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastExport>,
}

/// What tells a ledger from another ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LedgerHead {
    /// The number of bytes that the archive covered.
    pub bytes: u64,
    head_bytes: u64,
    head_blake3: String,
}

impl LedgerHead {
    /// Reads the head of a ledger of which an archive covers `bytes`.
    pub(super) fn of(ledger: &Path, bytes: u64) -> Result<Self, ExportError> {
        let head_bytes = bytes.min(HEAD_MAX_BYTES);
        Ok(Self { bytes, head_bytes, head_blake3: head_blake3(ledger, head_bytes)? })
    }
}

fn head_blake3(ledger: &Path, head_bytes: u64) -> Result<String, ExportError> {
    blake3_within(ledger, 0..head_bytes.min(HEAD_MAX_BYTES))
}

/// BLAKE3 of the last bytes of a ledger's first `bytes`. Copies of a ledger differ there as soon as each has grown by itself.
pub(super) fn tail_blake3(ledger: &Path, bytes: u64) -> Result<String, ExportError> {
    blake3_within(ledger, bytes.saturating_sub(TAIL_MAX_BYTES)..bytes)
}

fn blake3_within(ledger: &Path, range: Range<u64>) -> Result<String, ExportError> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    disk::File::open_read(ledger)?.read_exact_at(&mut bytes, range.start)?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

impl ExportIdentity {
    /// The identity of the home for this ledger, which [`ExportIdentity::save`] has to save before the identity is used. An
    /// id that is given replaces the id of the home and begins a generation.
    pub(super) fn of_home(
        home: &Home,
        given: Option<&HomeId>,
        ledger: &LedgerHead,
    ) -> Result<(Self, Option<Self>), ExportError> {
        let saved = Self::load(&home.export())?;
        let home_id = || given.cloned().unwrap_or_else(HomeId::random);
        let identity = match &saved {
            Some(saved) if given.is_none_or(|given| *given == saved.home_id) => {
                let is_same = ledger.bytes >= saved.ledger.bytes
                    && head_blake3(&home.ledger(), saved.ledger.head_bytes)? == saved.ledger.head_blake3;
                if is_same {
                    Self { ledger: ledger.clone(), ..saved.clone() }
                } else {
                    Self::begin(saved.home_id.clone(), ledger)
                }
            }
            _ => Self::begin(home_id(), ledger),
        };
        Ok((identity, saved))
    }

    /// A new generation of a home.
    pub(super) fn begin(home_id: HomeId, ledger: &LedgerHead) -> Self {
        let seconds = jiff::Timestamp::now().as_second();
        let mut generation = Instant::at(seconds).to_rfc3339_seconds().replace(['-', ':'], "");
        // Two copies of a home may begin in the same second.
        let random = uuid::Uuid::new_v4().simple().to_string();
        generation.push_str(&random[..4]);
        Self {
            version: VERSION,
            home_id,
            generation,
            seqs: BTreeMap::new(),
            ledger: ledger.clone(),
            last: None,
        }
    }

    /// The seq of the next manifest at `place`, where `last` is the seq of the manifest that is there. A place that lost its manifest
    /// gets no seq twice, because readers take a seq as a state that they know.
    pub(super) fn next_seq(&self, place: &str, last: Option<u64>) -> u64 {
        last.or(self.seqs.get(place).copied()).unwrap_or(0) + 1
    }

    /// The same identity, after a manifest with this seq was written at `place`.
    pub(super) fn with_seq(mut self, place: String, seq: u64) -> Self {
        self.seqs.insert(place, seq);
        self
    }

    /// The same identity, after an export.
    pub(super) fn with_last(self, last: LastExport) -> Self {
        Self { last: Some(last), ..self }
    }

    fn load(path: &Path) -> Result<Option<Self>, ExportError> {
        let Some(file) = disk::if_there(disk::File::open_read(path))? else { return Ok(None) };
        let mut bytes = vec![0; file.len_bytes()? as usize];
        file.read_exact_at(&mut bytes, 0)?;
        let damaged = |reason: String| ExportError::DamagedIdentity { path: path.to_owned(), reason };
        let identity: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if identity.version != VERSION {
            return Err(damaged(format!(
                "it has version {}, this program knows {VERSION}",
                identity.version
            )));
        }
        if !is_generation(&identity.generation) || identity.ledger.head_bytes > HEAD_MAX_BYTES {
            return Err(damaged("its generation or its headBytes is none".to_owned()));
        }
        Ok(Some(identity))
    }

    /// Saves the identity if it is not what is `saved`.
    pub(super) fn save(&self, home: &Home, saved: Option<&Self>) -> Result<(), ExportError> {
        if saved == Some(self) {
            return Ok(());
        }
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| ExportError::Unwritable { reason: error.to_string() })?;
        text.push(b'\n');
        Ok(disk::replace(&disk::target_of(&home.export())?, &text, Replacing::Durable)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    fn settle(home: &Home, given: Option<&str>) -> ExportIdentity {
        let bytes = fs::metadata(home.ledger()).unwrap().len();
        let ledger = LedgerHead::of(&home.ledger(), bytes).unwrap();
        let given = given.map(|id| id.parse().unwrap());
        let (identity, saved) = ExportIdentity::of_home(home, given.as_ref(), &ledger).unwrap();
        identity.save(home, saved.as_ref()).unwrap();
        identity
    }

    #[test]
    fn a_ledger_that_grows_keeps_its_generation_and_any_other_begins_one() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        let mut generations = Vec::new();
        for (ledger, is_new) in [
            ("", true),
            ("one\n", false),
            ("one\ntwo\n", false),
            ("one\n", true),
            ("two\nthree\n", true),
            ("two\nthree\nfour\n", false),
            ("", true),
        ] {
            fs::write(home.ledger(), ledger).unwrap();
            let identity = settle(&home, None);
            assert!(is_generation(&identity.generation), "{}", identity.generation);
            assert_eq!(generations.last() != Some(&identity.generation), is_new, "{ledger:?}");
            if is_new {
                generations.push(identity.generation);
            }
        }
        generations.sort();
        generations.dedup();
        assert_eq!(generations.len(), 4);
    }

    #[test]
    fn an_id_stays_until_another_is_given() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        fs::write(home.ledger(), "one\n").unwrap();
        let random = settle(&home, None);
        assert_eq!(random.home_id.as_str().len(), 16);
        assert_eq!(settle(&home, None), random);
        let given = settle(&home, Some("laptop"));
        assert_eq!(given.home_id.as_str(), "laptop");
        assert_ne!(given.generation, random.generation);
        assert_eq!(settle(&home, None), given);
        assert_eq!(settle(&home, Some("laptop")), given);
    }

    #[test]
    fn a_damaged_file_is_refused_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        fs::write(home.ledger(), "one\n").unwrap();
        settle(&home, None);
        let text = fs::read_to_string(home.export()).unwrap();
        let ledger = LedgerHead::of(&home.ledger(), 4).unwrap();
        for damaged in [
            "".to_owned(),
            text.replace("\"version\": 1", "\"version\": 2"),
            text.replace("\"headBytes\": 4", "\"headBytes\": 9999999"),
            text.replace("\"homeId\": \"", "\"homeId\": \"../"),
        ] {
            fs::write(home.export(), &damaged).unwrap();
            let error = ExportIdentity::of_home(&home, None, &ledger).unwrap_err();
            assert!(matches!(error, ExportError::DamagedIdentity { .. }), "{error}");
            assert_eq!(fs::read_to_string(home.export()).unwrap(), damaged);
        }
    }
}
