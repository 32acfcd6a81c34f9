//! Checks whether an archive's cursor still fits its ledger.
//!
//! The cursor is the number of ledger bytes that the archive covers. The cursor fits when it is just after an LF, not
//! after the end of the ledger, and the bytes before the cursor are the bytes that the archive was built from. A mark
//! checks the last condition. Builds of this crate write the mark to `PRAGMA user_version`, which other programs
//! neither read nor write.
//!
//! The mark (31 bits): the upper 10 bits are a hash of the cursor, the lower 21 bits a checksum of the bytes before
//! the cursor. When the upper bits do not fit the cursor, another program has moved the cursor since the mark was
//! written, so there is nothing to compare. 0 means no mark.
//!
//! The checksum reads all bytes before the cursor up to [`WHOLE_MAX_BYTES`]. For a larger cursor, the checksum reads
//! the first and the last MiB and [`SAMPLES`] evenly spaced pieces of [`SAMPLE_BYTES`], so that its cost is bounded.
//! So a ledger that was rewritten only between the samples, at the same length, is not noticed.

use std::cell::Cell;

use crate::scan::{ScanError, Source};

/// Up to this cursor the checksum reads all bytes before the cursor.
const WHOLE_MAX_BYTES: u64 = 32 << 20;
const EDGE_BYTES: u64 = 1 << 20;
const SAMPLES: u64 = 1024;
const SAMPLE_BYTES: u64 = 4096;
/// Large, because with pieces of 64 KiB the system read ahead between the samples, and so all of a cold ledger of 96 MiB.
const PIECE_BYTES: u64 = 1 << 20;

const SUM_BITS: u32 = 21;
const SUM_MASK: u32 = (1 << SUM_BITS) - 1;

/// Why the archive has to be built from byte 0 instead of from its cursor.
///
/// Prints as a reason in words; JSON results have the same words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Restart {
    /// The archive has another schema version.
    OtherVersion,
    /// The ledger is shorter than the cursor.
    LedgerShrank,
    /// The cursor is not after a line end.
    CursorInsideLine,
    /// The bytes before the cursor are not the bytes that the archive was built from.
    LedgerRewritten,
    /// A stamp that the archive holds cannot be folded into new turns.
    UnreadableStamp {
        /// Offset of the stamp in the ledger, in bytes, as the archive has it.
        offset: u64,
        /// What is wrong with the stamp's row.
        reason: String,
    },
    /// New stamps change so many archived turns that a full rebuild is faster.
    RefoldsMost,
}

impl std::fmt::Display for Restart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OtherVersion => "the archive has another schema version",
            Self::LedgerShrank => "the ledger is shorter than when the archive was built",
            Self::CursorInsideLine => "the archive's cursor is not at a line end of the ledger",
            Self::LedgerRewritten => "the ledger was rewritten before the archive's cursor",
            Self::RefoldsMost => "new stamps change most of the archive's turns",
            Self::UnreadableStamp { offset, reason } => {
                return write!(f, "the archived stamp of ledger byte {offset} cannot be read: {reason}");
            }
        })
    }
}

impl serde::Serialize for Restart {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The sum of the pieces before the last MiB that a check has just read, with their distance: the next mark of a cursor with
/// the same distance need not read them again.
pub type CheckedPieces = Cell<Option<(u64, u32)>>;

/// Checks whether a build can go on at `cursor`. Returns `None` when it can.
///
/// # Errors
/// When the ledger cannot be read.
pub fn check(
    source: &Source,
    cursor: i64,
    mark: i32,
    checked: &CheckedPieces,
) -> Result<Option<Restart>, ScanError> {
    let Ok(cursor) = u64::try_from(cursor) else { return Ok(Some(Restart::CursorInsideLine)) };
    if cursor > source.len_bytes() {
        return Ok(Some(Restart::LedgerShrank));
    }
    if cursor > 0 && source.read(cursor - 1..cursor, &mut Vec::new())? != b"\n" {
        return Ok(Some(Restart::CursorInsideLine));
    }
    let mark = mark as u32;
    if mark != 0 && mark >> SUM_BITS == cursor_bits(cursor) {
        let (sum, pieces) = checksum(source, cursor, None)?;
        if sum != mark & SUM_MASK {
            return Ok(Some(Restart::LedgerRewritten));
        }
        checked.set(pieces);
    }
    Ok(None)
}

/// Whether `mark` was made for `cursor`: if so, no other program has moved the cursor since.
pub fn is_marked(cursor: i64, mark: i32) -> bool {
    let mark = mark as u32;
    u64::try_from(cursor).is_ok_and(|cursor| mark != 0 && mark >> SUM_BITS == cursor_bits(cursor))
}

/// Returns the mark of the bytes before `cursor`; never 0 when `cursor` is not 0. Takes what was checked, so that another
/// mark reads all pieces.
///
/// # Errors
/// When the ledger cannot be read.
pub fn mark(source: &Source, cursor: u64, checked: &CheckedPieces) -> Result<i32, ScanError> {
    if cursor == 0 {
        return Ok(0);
    }
    let (sum, _) = checksum(source, cursor, checked.take())?;
    Ok((cursor_bits(cursor) << SUM_BITS | sum) as i32)
}

/// Returns ten bits of the cursor, never all zero, so that no mark is 0.
fn cursor_bits(cursor: u64) -> u32 {
    crc32c::crc32c(&cursor.to_le_bytes()) % 1023 + 1
}

/// Returns the checksum of the bytes before `cursor`, and of a large cursor what [`CheckedPieces`] holds.
fn checksum(
    source: &Source,
    cursor: u64,
    known: Option<(u64, u32)>,
) -> Result<(u32, Option<(u64, u32)>), ScanError> {
    let mut buffer = Vec::new();
    let mut add = |sum: u32, start: u64, end: u64| -> Result<u32, ScanError> {
        let (mut sum, mut start) = (sum, start);
        while start < end {
            let stop = (start + PIECE_BYTES).min(end);
            sum = crc32c::crc32c_append(sum, source.read(start..stop, &mut buffer)?);
            start = stop;
        }
        Ok(sum)
    };
    let (mut sum, mut pieces) = (0, None);
    if cursor <= WHOLE_MAX_BYTES {
        sum = add(sum, 0, cursor)?;
    } else {
        let step = cursor / (SAMPLES + 1);
        pieces = known.filter(|(of, _)| *of == step);
        if let Some((_, known)) = pieces {
            sum = known;
        } else {
            sum = add(sum, 0, EDGE_BYTES)?;
            for sample in 1..=SAMPLES {
                sum = add(sum, sample * step, sample * step + SAMPLE_BYTES)?;
            }
            pieces = Some((step, sum));
        }
        sum = add(sum, cursor - EDGE_BYTES, cursor)?;
    }
    // After the end of a truncated file, its last page reads as zeros.
    source.check_len()?;
    Ok(((sum ^ sum >> SUM_BITS) & SUM_MASK, pieces))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::Io;

    #[test]
    fn a_ledger_cut_within_its_last_page_is_not_taken_for_one_rewritten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for io in [Io::Mmap, Io::Read] {
            std::fs::write(file.path(), "{\"v\":1}\n".repeat(40)).unwrap();
            let source = Source::open(file.path(), io).unwrap();
            assert_ne!(mark(&source, 320, &Cell::default()).unwrap(), 0);
            file.as_file().set_len(310).unwrap();
            assert!(
                matches!(mark(&source, 320, &Cell::default()), Err(ScanError::Truncated { .. })),
                "{io:?}"
            );
        }
    }
}
