//! Opening a store for writing: the lock, interrupted rollbacks and imports, recovery.
//!
//! Touches: creates the store's directories, and changes what rollback, import and recovery change.

use std::path::Path;
use std::time::Duration;

use super::error::SessionError;
use super::layout::SessionLayout;
use super::options::SessionOptions;
use super::recovery::{self, Recovered};
use super::report::SessionRecoveryReport;
use super::snapshot::Snapshot;
use super::writer::SessionStoreV2;
use super::{import, rollback};
use crate::store;

/// Opens a store for writing, creates it if it is missing, and recovers it after a crash or damage.
///
/// Recovery adds rows for complete frames that the index lacks, appends the LF that a last line lacks, saves a torn tail
/// before it cuts it, and builds the index again when the index is lost or wrong. The report says what recovery did; for a
/// sound store it is empty and nothing was changed. Bytes that a killed writer did not sync are synced before the store
/// is used.
///
/// # Errors
/// [`SessionError::EntriesWouldBeLost`] unless [`SessionOptions::loss`] accepts it. [`SessionError::Locked`] while another handle writes. Damage that recovery must not touch is refused and left as it is:
/// [`SessionError::SegmentFrameCorrupt`], [`SessionError::SegmentLineUnreadable`], [`SessionError::PayloadIntegrityMismatch`],
/// [`SessionError::ActiveSegmentMissing`], [`SessionError::IndexMissingFrame`], [`SessionError::DuplicateEntryId`],
/// [`SessionError::MissingParent`], [`SessionError::CyclicParent`], [`SessionError::UnsupportedSchema`], [`SessionError::FrameTooLarge`].
/// [`SessionError::InvalidArgument`] for a segment size of 0. Symbolic links inside the store, and failures of the file system.
pub fn open(
    root: &Path,
    options: &SessionOptions,
) -> Result<(SessionStoreV2, SessionRecoveryReport), SessionError> {
    SessionStoreV2::open_with(root, options, |layout, limit_bytes| {
        recovery::recover(layout, options, limit_bytes)
    })
}

impl SessionStoreV2 {
    /// Opens a store for writing: [`open`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn create(
        root: impl AsRef<Path>,
        options: &SessionOptions,
    ) -> Result<(Self, SessionRecoveryReport), SessionError> {
        open(root.as_ref(), options)
    }

    /// Opens a store for writing after building its index again from the segments, whatever the index holds: entries that it
    /// has and the segments do not have are lost, as with `Loss::Accept`. Frames are verified, ids and parents are
    /// not.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open_rebuilding(
        root: impl AsRef<Path>,
        options: &SessionOptions,
    ) -> Result<(Self, SessionRecoveryReport), SessionError> {
        Self::open_with(root.as_ref(), options, |layout, _| recovery::rebuild(layout))
    }

    fn open_with(
        root: &Path,
        options: &SessionOptions,
        recover: impl FnOnce(&SessionLayout, u64) -> Result<Recovered, SessionError>,
    ) -> Result<(Self, SessionRecoveryReport), SessionError> {
        let limit_bytes = options.frame_limit_bytes()?;
        let layout = SessionLayout { root: root.to_owned() };
        let wide = layout.create_directories()?;
        let held = || SessionError::Locked { path: layout.lock() };
        let lock = store::lock(&layout.lock(), Duration::ZERO)?.ok_or_else(held)?;
        let resumed = rollback::resume(&layout, limit_bytes)?;
        let taken_back = import::resume(&layout)?;
        let recovered = recover(&layout, limit_bytes)?;
        let mut report = recovered.report;
        report.wide_directories = wide.iter().map(|path| path.display().to_string()).collect();
        report.resumed_rollback = resumed.completed;
        report.abandoned_rollback = resumed.abandoned;
        report.import_taken_back = taken_back.is_some();
        let mut recovery = resumed.recovery;
        recovery.append(taken_back.unwrap_or_default());
        recovery.append(std::mem::take(&mut report.recovery));
        report.recovery = recovery;
        let snapshot = Snapshot::with_hashes(recovered.rows, recovered.payload_hashes);
        Ok((Self::over(layout, options, snapshot, lock)?, report))
    }
}
