//! Records: the contents of the ledger's lines.
//!
//! A line is `{"v":1,"kind":…,…}`. Of the [`LedgerLineKind`]s, [five](RecordKind) have a `record` and an [`Id`]; the sixth is the stamp,
//! which assigns keys to the turns that its selector matches. `docs/records.md` describes every member.
//!
//! | module | contents |
//! | --- | --- |
//! | [`columns`] | the columns of the archive, and the member of a line that each column is read from |
//! | [`rows`] | the rows of a line |
//! | [`maker`] | makes rows from lines: with the tape, or with the exact reader where the tape refuses |
//! | `limits` | limits of a line, of an indexed text and of the rows of a line |
//! | [`fold`] | folds stamps into turns |
//! | `id`, `identify` | the id and the fingerprint of a record |
//! | `message_id` | which ids of messages are unique |
//! | `filter`, `pattern`, `print` | which records a query wants, and an archived row as JSON |
//! | `unarchived` | what a check needs of the kinds that have no table |
//! | `strict` | values that only a lenient append accepts |
//! | [`time`] | instants, time zones, and times as users write them |
//! | [`typed`] | records as Rust types, for programs that read or write a few records |
//!
//! Nothing here touches a file or a database.

#[cfg(test)]
pub(crate) mod agreement;
pub mod columns;
mod exact;
mod filter;
pub mod fold;
mod id;
pub(crate) mod identify;
mod kind;
mod limits;
pub mod maker;
pub(crate) mod message_id;
mod pattern;
pub(crate) mod print;
pub mod rows;
pub(crate) mod stamp;
pub(crate) mod strict;
mod tape;
pub mod time;
pub mod typed;
mod unarchived;

pub(crate) use exact::{stored_selector, stored_stamp};
pub use filter::{Filter, RecordOrder};
pub(crate) use filter::{ORDINARY, RangeEnd, TimeBound, TimeBounds};
#[cfg(feature = "agents")]
pub(crate) use id::Fingerprinted;
pub use id::Id;
pub(crate) use id::{Hasher, ID_LEN_BYTES, IdSet};
pub use kind::{LedgerLineKind, RecordKind};
pub(crate) use kind::{ParsedLine, line_of};
pub use limits::{INDEXED_TEXT_MAX_BYTES, LINE_MAX_BYTES, LINE_ROWS_MAX_BYTES};
pub use pattern::Pattern;
pub(crate) use pattern::{PatternKind, passes, passes_tags};

/// A value of a row, in SQLite's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// INTEGER.
    Int(i64),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(&'a str),
}

impl<'a> Cell<'a> {
    pub(crate) fn text(value: Option<&'a str>) -> Self {
        value.map_or(Cell::Null, Cell::Text)
    }

    pub(crate) fn as_text(self) -> &'a str {
        match self {
            Cell::Text(text) => text,
            _ => "",
        }
    }
}
