//! What `burn ledger append` can be given.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AppendKind {
    Turns,
    Compactions,
    Relationships,
    ToolResultEvents,
    UserTurns,
    /// What a session said, for its content sidecar.
    Content,
    /// Whole stamp lines.
    Stamp,
}
