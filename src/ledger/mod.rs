//! The ledger: appending records, asking for them, checking and tidying what stands in a home.
//!
//! [`Ledger`] is a handle on one [`Home`]; it holds no file open and no state, so a process may have as many as it
//! likes, on one home or on several, in any thread. Appends exclude each other across processes by the lock files
//! `ledger`, `ledger-index` and `content.<sessionId>`; queries and checks take none (a check that finds the index wanting
//! looks again under them). `docs/ledger.md` describes every file.
//!
//! This room promises: the ledger is only ever appended to, in whole lines; a record that has an id is written once however
//! often and by however many processes it is delivered; an error says how much of a batch was written, and trying again is
//! always right for those. Stamps have no id and are written each time.
//!
//! ```
//! use relayburn_ledger::home::Home;
//! use relayburn_ledger::ledger::{AppendOptions, Batch, Filter, Ledger, RecordKind};
//! use std::ops::ControlFlow;
//!
//! let directory = tempfile::tempdir()?;
//! let ledger = Ledger::new(Home::at(directory.path()));
//! let mut batch = Batch::new();
//! batch.push(RecordKind::Compaction, br#"{"source":"codex","sessionId":"s1","ts":"2026-04-20T00:00:02.000Z"}"#)?;
//! assert_eq!(ledger.append(&batch, &AppendOptions::default())?.appended, 1);
//! assert_eq!(ledger.append(&batch, &AppendOptions::default())?.duplicates, 1);
//!
//! let mut found = Vec::new();
//! ledger.query(RecordKind::Compaction, &Filter::default(), &mut |record| {
//!     found.push(record.to_string());
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(found.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod append;
mod batch;
mod check;
mod content;
mod error;
mod finder;
mod ids;
mod index;
mod lines;
mod pipeline;
mod read;
mod reset;
mod sorted;

pub use append::{AppendOptions, Appended};
pub use batch::{Batch, Refusal};
pub use check::{CheckFiles, CheckFinding, CheckReport, IndexCheck, Problem, check};
pub use content::{Sidecar, Sidecars};
pub use error::LedgerError;
pub use ids::Id;
pub use index::Reindexed;
pub use read::PassedOver;
pub use reset::{Belonging, Reset};

pub use crate::archive::query::Filter;

use crate::home::Home;

/// A handle on the ledger of one home. It opens nothing until it is asked to do something.
#[derive(Debug, Clone)]
pub struct Ledger {
    home: Home,
}

impl Ledger {
    /// The ledger of `home`, which need not exist yet: the first append creates it.
    pub fn new(home: Home) -> Self {
        Self { home }
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }
}

/// The kinds of records that have an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// One answer of a model, with its usage and tool calls.
    Turn,
    /// A context that was compacted.
    Compaction,
    /// How two sessions belong together.
    Relationship,
    /// What became of a tool call.
    ToolResultEvent,
    /// What the user, or a tool on their behalf, sent.
    UserTurn,
}

impl RecordKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Turn, Self::Compaction, Self::Relationship, Self::ToolResultEvent, Self::UserTurn];

    /// Its name in the ledger: the value of `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Compaction => "compaction",
            Self::Relationship => "relationship",
            Self::ToolResultEvent => "tool_result_event",
            Self::UserTurn => "user_turn",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What a parsed line of a ledger is.
pub(crate) enum Line<'d> {
    /// A record, an object: what `record` holds.
    Record(RecordKind, crate::scan::json::Value<'d>),
    /// A line of a known kind whose `record` is no object.
    Shapeless,
    /// A stamp.
    Stamp,
    /// Another version, another kind, or no object at all.
    Unknown,
}

/// Says what a parsed line is.
pub(crate) fn line_of(root: crate::scan::json::Value<'_>) -> Line<'_> {
    let version = root.get("v").and_then(|version| version.as_number());
    if version.is_none_or(|version| version.as_f64() != 1.0) {
        return Line::Unknown;
    }
    let Some(kind) = root.get("kind").and_then(|kind| kind.as_str()) else { return Line::Unknown };
    match RecordKind::from_name(&kind) {
        Some(kind) => match root.get("record") {
            Some(record) if record.kind() == crate::scan::json::Kind::Object => Line::Record(kind, record),
            _ => Line::Shapeless,
        },
        None if kind == "stamp" => Line::Stamp,
        None => Line::Unknown,
    }
}

#[cfg(all(test, unix))]
mod tests;
