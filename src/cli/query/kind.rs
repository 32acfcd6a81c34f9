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
        RecordKind::ALL.iter().copied().find(|kind| Self::of(*kind) == self)
    }

    fn of(kind: RecordKind) -> Self {
        match kind {
            RecordKind::Turn => Self::Turns,
            RecordKind::Compaction => Self::Compactions,
            RecordKind::Relationship => Self::Relationships,
            RecordKind::ToolResultEvent => Self::ToolResultEvents,
            RecordKind::UserTurn => Self::UserTurns,
        }
    }
}
