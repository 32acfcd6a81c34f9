//! The errors of the ledger module, each with what to do about the error.

use std::path::PathBuf;

use crate::archive::ArchiveError;
use crate::disk;
use crate::lock::LockError;
use crate::scan::ScanError;

/// An append, a query, a check or a clean-up failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// A write ended early. Whole lines that landed stay in the file and in the index, and will not be written again.
    #[error(
        "{landed} of {wanted} new lines were written to {}, then: {source}; append the same batch again: what \
         landed and has an id is not written twice", path.display()
    )]
    Partial {
        /// The ledger, or the content sidecar.
        path: PathBuf,
        /// Number of whole lines that were written.
        landed: u64,
        /// Number of lines to write.
        wanted: u64,
        /// What went wrong.
        source: disk::Error,
    },
    /// The lines are in the ledger, but their ids are not in the index. The next append finds and adds the missing ids.
    #[error(
        "all {landed} new lines were written to {}, but the index does not have them: {source}; append the same \
         batch again, or run `burn state rebuild index`", path.display()
    )]
    NotIndexed {
        /// The ledger.
        path: PathBuf,
        /// Number of lines that were written.
        landed: u64,
        /// What went wrong.
        source: Box<LedgerError>,
    },
    /// A rebuild of the index found no ledger, but the index has ids.
    #[error(
        "there is no ledger at {}, and {} has ids of one: it is kept; put the ledger back, or delete the index",
        ledger.display(), index.display()
    )]
    Missing {
        /// The path where the ledger should be.
        ledger: PathBuf,
        /// The index.
        index: PathBuf,
    },
    /// The index has ids that no line of the ledger has, and a rebuild would drop these ids.
    #[error(
        "{} at byte {offset} and after: {ids} ids are of no line of {}, so the ledger may have been cut; nothing was changed; \
         restore the ledger from a backup, or drop these ids with `burn state rebuild index --force`",
        index.display(), ledger.display()
    )]
    WouldDropIds {
        /// The index.
        index: PathBuf,
        /// The ledger.
        ledger: PathBuf,
        /// Number of different ids.
        ids: u64,
        /// The offset of the first such id in the index, in bytes.
        offset: u64,
    },
    /// The new lines could not be synced. The lines were cut off again, unless cutting failed too.
    #[error(
        "the new lines of {} could not be synced: {source}; {}", path.display(),
        match landed {
            0 => "they were cut off again: check the disk, then append the same batch again".to_owned(),
            landed => format!("{landed} of them are there and may be lost if the machine stops now"),
        }
    )]
    NotDurable {
        /// The ledger, or the content sidecar.
        path: PathBuf,
        /// Number of new lines that are in the file.
        landed: u64,
        /// What went wrong.
        source: disk::Error,
    },
    /// A sync failed in this process and left lines in the file. No later sync of the file can be believed, because the
    /// system may have dropped the lines. Nothing was written.
    #[error(
        "{} cannot be made durable: a sync of it failed ({reason}), and lines that were in it may be lost in a power cut, \
         whatever a later sync says; check the disk, put a copy of the file in its place, and start the program again",
        path.display()
    )]
    SyncFailed {
        /// The ledger, or the content sidecar.
        path: PathBuf,
        /// Why the sync failed.
        reason: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// A file could not be scanned.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// A lock could not be taken, or was lost.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Stamps could not be prepared for folding.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A worker thread panicked, because of a fault in this program.
    #[error(
        "a thread that read chunk {number} of {} failed inside; nothing was changed; please report it with that ledger",
        ledger.display()
    )]
    Worker {
        /// The ledger.
        ledger: PathBuf,
        /// The number of the chunk, counted from 0.
        number: u64,
    },
    /// A file to merge has no ledger line at all.
    #[error(
        "{} is no ledger: {}; from byte 0 it reads {start:?}; nothing was appended; name a home or the file of a ledger",
        path.display(),
        match lines {
            0 => "it has no line end and begins with no JSON object".to_owned(),
            1 => "its only line is no JSON object with \"v\" and \"kind\"".to_owned(),
            lines => format!("none of its {lines} lines is a JSON object with \"v\" and \"kind\""),
        }
    )]
    NotALedger {
        /// The file, as it was named.
        path: PathBuf,
        /// Number of lines that are not blank.
        lines: u64,
        /// The first bytes of the file.
        start: String,
    },
    /// A merge was interrupted between two pieces.
    #[error("interrupted; {appended} lines were appended to {}; merge the same ledgers again to append the others", ledger.display())]
    MergeInterrupted {
        /// The ledger that was appended to.
        ledger: PathBuf,
        /// Number of lines that were appended.
        appended: u64,
    },
    /// `machine.json` has no name of a machine.
    #[error("{} has no name of a machine: {reason}; set the name with `burn ledger machine NAME`", path.display())]
    MachineFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An export was to begin at an offset where no line begins.
    #[error(
        "no line of {} begins at byte {offset}; {}", path.display(),
        match next {
            Some(next) => format!("the next one begins at byte {next}: is the offset that of another ledger?"),
            None => format!(
                "its whole lines end at byte {end}, so it was cut or replaced: merge it instead, or export it from byte 0"
            ),
        }
    )]
    ExportFrom {
        /// The ledger.
        path: PathBuf,
        /// The offset, in bytes.
        offset: u64,
        /// The offset after the last whole line, in bytes.
        end: u64,
        /// Where the next line begins, in bytes; `None` when the offset is after the last line.
        next: Option<u64>,
    },
    /// Exported lines could not be written.
    #[error("cannot write the exported lines: {0}; export again from the same offset")]
    Output(#[source] std::io::Error),
    /// The caller was interrupted.
    #[error("interrupted; each index file is the old one or the new one")]
    Interrupted,
}
