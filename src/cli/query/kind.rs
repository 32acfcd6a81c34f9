//! What `burn query` can be asked for.

use clap::ValueEnum;

use crate::ledger::RecordKind;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum KindArg {
    Turns,
    Compactions,
    Relationships,
    ToolResultEvents,
    UserTurns,
    Sessions,
    Stamps,
    ToolCalls,
}

impl KindArg {
    /// The kind of record; `None` for tables that the archive alone has.
    pub(super) fn record(self) -> Option<RecordKind> {
        Some(match self {
            Self::Turns => RecordKind::Turn,
            Self::Compactions => RecordKind::Compaction,
            Self::Relationships => RecordKind::Relationship,
            Self::ToolResultEvents => RecordKind::ToolResultEvent,
            Self::UserTurns => RecordKind::UserTurn,
            Self::Sessions | Self::Stamps | Self::ToolCalls => return None,
        })
    }
}
