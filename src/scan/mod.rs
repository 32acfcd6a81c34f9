//! Scanning a log: the mapped file, chunks that end at line ends, lines, and JSON.
//!
//! Nothing here knows the meaning of the lines, writes a file or takes a lock. Offsets are absolute, in bytes from the start of
//! the file, so that every message can name them.

mod chunk;
pub(crate) mod in_order;
pub mod json;
mod sorted_entries;
mod source;
pub mod truncation;
#[cfg(feature = "agents")]
mod zstd_frames;

pub use chunk::{Chunks, chunks, is_long_line, lines};
pub(crate) use sorted_entries::{ENTRY_LEN_BYTES, SortedEntries};
pub use source::{Io, ScanError, Source};
#[cfg(feature = "agents")]
pub(crate) use zstd_frames::ZstdFrames;
