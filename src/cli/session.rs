//! `burn session`: its commands, and the document of one that failed.

mod arguments;
mod checking;
mod milestones;
mod reading;
mod store;
mod taking_in;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::arguments::{
    AppendArgs, CheckArgs, CheckpointArgs, ExportArgs, ImportArgs, ManifestArgs, PathArgs, ReindexArgs,
    RollbackArgs, ShowArgs,
};
use self::store::{Failed, failure};
use super::arguments::JsonArg;
use super::print_json;
use crate::session::SessionError;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  burn session append talk.v2 < entries.jsonl
  burn session show talk.v2 --tail 10
  burn session check talk.v2
  burn session reindex talk.v2")]
pub(super) struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
    #[command(flatten)]
    form: JsonArg,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// Append entries from standard input.
    #[command(after_help = "\
One JSON object a line: {\"entryId\":\"e2\",\"parentEntryId\":\"e1\",\"entryType\":\"message\",\"payload\":{...}}, or a line \
of a session file, {\"type\":\"message\",\"id\":\"e2\",\"parentId\":\"e1\",...}. Payloads are stored compact with sorted keys. \
Each entry is acknowledged by a line with its sequence and id once it is durable.

Examples:
  echo '{\"entryId\":\"e1\",\"entryType\":\"message\",\"payload\":{\"role\":\"user\"}}' | burn session append talk.v2
  burn session append talk.v2 --group < entries.jsonl")]
    Append(AppendArgs),
    /// Print entries, each verified.
    #[command(after_help = "\
Examples:
  burn session show talk.v2 --tail 10
  burn session show talk.v2 --from 120 --json
  burn session show talk.v2 --entry e17")]
    Show(ShowArgs),
    /// Print the entries from a root to a leaf.
    #[command(after_help = "\
Examples:
  burn session path talk.v2
  burn session path talk.v2 e17 --json")]
    Path(PathArgs),
    /// Verify everything, changing nothing.
    #[command(after_help = "\
Examples:
  burn session check talk.v2
  burn session check talk.v2 --json")]
    Check(CheckArgs),
    /// Open with recovery: repair the index, save and cut a torn tail.
    #[command(after_help = "\
Adds rows for entries that the index lacks, saves and cuts a torn tail, builds a lost index again. Entries that no segment \
has, or that follow a frame with wrong numbers, leave the store; every other command refuses to drop them. Their bytes are \
kept beside the segments. Other damage is refused with file, line and byte offset, and nothing is changed.

Examples:
  burn session reindex talk.v2
  burn session reindex talk.v2 --rebuild --json")]
    Reindex(ReindexArgs),
    /// Certify the last entry, or list the checkpoints.
    #[command(after_help = "\
Examples:
  burn session checkpoint talk.v2 --reason 'before the refactoring'
  burn session checkpoint talk.v2 --list")]
    Checkpoint(CheckpointArgs),
    /// Go back to a checkpoint; bytes that leave the store are kept as .bak and .cut.
    #[command(after_help = "\
Examples:
  burn session rollback talk.v2 3
  burn session rollback talk.v2 3 --correlation-id ticket-4711 --json")]
    Rollback(RollbackArgs),
    /// Verify the manifest and compare it with the store, or write it.
    #[command(after_help = "\
Examples:
  burn session manifest talk.v2
  burn session manifest talk.v2 --write --session-id 0b0c0d0e-1111-4222-8333-444455556666")]
    Manifest(ManifestArgs),
    /// Append entries from plain JSON Lines, all or none.
    #[command(after_help = "\
The lines are those of append and export; a child may come before its parent. Payloads keep their text. Either all entries \
are imported or none. The header of a session file is not an entry; its id goes into the manifest.

Examples:
  burn session import talk.v2 talk.jsonl")]
    Import(ImportArgs),
    /// Write the entries as plain JSON Lines.
    #[command(after_help = "\
An entry is its payload alone where that carries the same id, parent and type, else an object with all of them.

Examples:
  burn session export talk.v2 > talk.jsonl
  burn session export talk.v2 talk.jsonl")]
    Export(ExportArgs),
}

pub(super) fn run(args: SessionArgs) -> anyhow::Result<ExitCode> {
    let outcome = match args.command {
        SessionCommand::Append(args) => taking_in::append(&args),
        SessionCommand::Show(args) => reading::show(&args),
        SessionCommand::Path(args) => reading::path(&args),
        SessionCommand::Check(args) => checking::check(&args),
        SessionCommand::Reindex(args) => checking::reindex(&args),
        SessionCommand::Checkpoint(args) => milestones::checkpoint(&args),
        SessionCommand::Rollback(args) => milestones::rollback(&args),
        SessionCommand::Manifest(args) => milestones::manifest(&args),
        SessionCommand::Import(args) => taking_in::import(&args),
        SessionCommand::Export(args) => reading::export(&args),
    };
    match outcome {
        // With --json a failure of the store is a document too.
        Err(error) if args.form.json && error.downcast_ref::<SessionError>().is_some() => {
            if let Some(error) = error.downcast_ref::<SessionError>() {
                print_json(&Failed { ok: false, error: failure(error) })?;
            }
            Err(error)
        }
        other => other,
    }
}
