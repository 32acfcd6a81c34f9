//! Opening a store for writing: its lock, then what an interrupted rollback or import left, then recovery.
//!
//! May create the store's directories, and change what rollback, import and recovery may.

use std::path::Path;

use super::error::SessionError;
use super::layout::Layout;
use super::options::SessionOptions;
use super::recovery::{self, Recovered};
use super::report::SessionRecoveryReport;
use super::snapshot::Snapshot;
use super::writer::SessionStoreV2;
use super::{import, rollback};
use crate::disk;

impl SessionStoreV2 {
    /// Opens a store for writing, creating it when there is none, and recovers what a crash or damage left.
    ///
    /// Recovery takes in complete frames that the index does not have, completes a last line that lacks its LF, saves a
    /// torn tail aside before it cuts it, and builds the index again when it is lost or wrong. The report says what it
    /// did; for a sound store it is empty and nothing was changed. What a killed writer wrote and did not sync is synced
    /// before anything is answered from it.
    ///
    /// # Errors
    /// [`SessionError::EntriesWouldBeLost`] unless [`SessionOptions::loss`] accepts it. [`SessionError::Locked`] while another handle writes. Damage that recovery must not touch is refused and left as it is:
    /// [`SessionError::SegmentFrameCorrupt`], [`SessionError::SegmentLineUnreadable`], [`SessionError::PayloadIntegrityMismatch`],
    /// [`SessionError::ActiveSegmentMissing`], [`SessionError::IndexMissingFrame`], [`SessionError::DuplicateEntryId`],
    /// [`SessionError::MissingParent`], [`SessionError::CyclicParent`], [`SessionError::UnsupportedSchema`], [`SessionError::FrameTooLarge`].
    /// [`SessionError::InvalidArgument`] for a segment size of 0, [`SessionError::SymbolicLink`], and what the system says.
    pub fn create(
        root: impl AsRef<Path>,
        options: &SessionOptions,
    ) -> Result<(Self, SessionRecoveryReport), SessionError> {
        Self::open_with(root.as_ref(), options, |layout, limit_bytes| {
            recovery::recover(layout, options, limit_bytes)
        })
    }

    /// Opens a store for writing after building its index again from the segments, whatever the index holds: entries that it
    /// has and the segments do not have are lost, as with [`super::Loss::Accept`]. Frames are verified, ids and parents are
    /// not.
    ///
    /// # Errors
    /// As [`SessionStoreV2::create`].
    pub fn open_rebuilding(
        root: impl AsRef<Path>,
        options: &SessionOptions,
    ) -> Result<(Self, SessionRecoveryReport), SessionError> {
        Self::open_with(root.as_ref(), options, |layout, _| recovery::rebuild(layout))
    }

    fn open_with(
        root: &Path,
        options: &SessionOptions,
        recover: impl FnOnce(&Layout, u64) -> Result<Recovered, SessionError>,
    ) -> Result<(Self, SessionRecoveryReport), SessionError> {
        let limit_bytes = options.frame_limit_bytes()?;
        let layout = Layout { root: root.to_owned() };
        let wide = layout.create_directories()?;
        let lock = lock(&layout)?;
        let resumed = rollback::resume(&layout, limit_bytes)?;
        let taken_back = import::resume(&layout)?;
        let recovered = recover(&layout, limit_bytes)?;
        let mut report = recovered.report;
        report.wide_directories = wide.iter().map(|path| path.display().to_string()).collect();
        report.resumed_rollback = resumed.completed;
        report.abandoned_rollback = resumed.abandoned;
        report.import_taken_back = taken_back.is_some();
        let taken_back = taken_back.unwrap_or_default();
        report.truncated.splice(0..0, resumed.truncated.into_iter().chain(taken_back.truncated));
        report.quarantined.splice(0..0, resumed.quarantined.into_iter().chain(taken_back.quarantined));
        let snapshot = Snapshot::with_hashes(recovered.rows, recovered.payload_hashes);
        Ok((Self::over(layout, options, snapshot, lock)?, report))
    }
}

/// Takes the writer's lock. The file stays.
fn lock(layout: &Layout) -> Result<disk::KernelLock, SessionError> {
    let mut lock = disk::KernelLock::open(&layout.lock())?;
    if lock.try_lock()? { Ok(lock) } else { Err(SessionError::Locked { path: layout.lock() }) }
}
