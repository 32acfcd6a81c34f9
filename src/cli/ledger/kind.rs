//! What `burn ledger append` can be given.

use clap::ValueEnum;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum AppendKind {
    /// Whole lines of a ledger, as `burn ledger export` writes them.
    Lines,
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
