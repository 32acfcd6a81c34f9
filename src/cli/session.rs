//! `burn session`: the arguments of its commands, and helpers that they share.

mod checking;
mod milestones;
mod reading;
mod taking_in;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Failure, counted, print_json};
use crate::disk;
use crate::session::{Durability, SessionError, SessionOptions, SessionReader, SessionStoreV2};

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
    /// Open with recovery: mend the index, save and cut a torn tail.
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

#[derive(Debug, Args)]
struct StoreDir {
    /// The store's directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct WriterArgs {
    #[command(flatten)]
    store: StoreDir,
    /// Begin a new segment file where one would grow beyond SIZE: bytes, or with KB, MB, GB, KiB, MiB, GiB.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = segment_size)]
    max_segment_bytes: u64,
}

fn segment_size(text: &str) -> Result<u64, String> {
    match crate::dev::parse_size(text).map_err(|error| error.to_string())? {
        0 => Err("a segment cannot have 0 bytes; 64MiB is usual".to_owned()),
        size => Ok(size),
    }
}

#[derive(Debug, Args)]
struct AppendArgs {
    #[command(flatten)]
    writer: WriterArgs,
    /// Make entries durable and acknowledge them in groups: much faster for many.
    #[arg(long)]
    group: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    #[command(flatten)]
    store: StoreDir,
    /// Only the last N entries.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "entry"])]
    tail: Option<usize>,
    /// Only entries with this sequence or a higher one.
    #[arg(long, value_name = "SEQ", conflicts_with = "entry")]
    from: Option<u64>,
    /// Only the entry with this id.
    #[arg(long, value_name = "ID")]
    entry: Option<String>,
}

#[derive(Debug, Args)]
struct PathArgs {
    #[command(flatten)]
    store: StoreDir,
    /// The id of the last entry of the path [default: the store's last entry]
    leaf: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    store: StoreDir,
}

#[derive(Debug, Args)]
struct ReindexArgs {
    #[command(flatten)]
    writer: WriterArgs,
    /// Build the index again even if it is sound.
    #[arg(long)]
    rebuild: bool,
    /// Also save and cut a torn last line of the migration ledger.
    #[arg(long)]
    repair_ledger: bool,
}

#[derive(Debug, Args)]
struct CheckpointArgs {
    #[command(flatten)]
    writer: WriterArgs,
    /// The checkpoint's number [default: the next one]
    #[arg(long, value_name = "N", conflicts_with = "list")]
    number: Option<u64>,
    /// Why it is made.
    #[arg(long, value_name = "TEXT", default_value = "manual")]
    reason: String,
    /// List the checkpoints.
    #[arg(long)]
    list: bool,
}

#[derive(Debug, Args)]
struct RollbackArgs {
    #[command(flatten)]
    writer: WriterArgs,
    /// The checkpoint to go back to.
    checkpoint: u64,
    /// The id of the migration in the ledger [default: a new UUID]
    #[arg(long, value_name = "ID")]
    migration_id: Option<String>,
    /// What ties the events of one attempt together [default: a new UUID]
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
}

#[derive(Debug, Args)]
struct ManifestArgs {
    #[command(flatten)]
    writer: WriterArgs,
    /// Write the manifest instead of comparing it.
    #[arg(long)]
    write: bool,
    /// The session's id [default: that of the manifest there is, else a new UUID]
    #[arg(long, value_name = "ID", requires = "write")]
    session_id: Option<String>,
    /// Where the entries came from: jsonl_v3, sqlite_v1, native_v2 [default: as there is, else native_v2]
    #[arg(long, value_name = "FORMAT", requires = "write")]
    source_format: Option<String>,
}

#[derive(Debug, Args)]
struct ImportArgs {
    #[command(flatten)]
    writer: WriterArgs,
    /// The file to read [default: standard input]
    file: Option<PathBuf>,
    /// Most memory of the entries, which are all held until their links are checked: bytes, or with KB, MB, GB, KiB, MiB, GiB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = crate::dev::parse_size)]
    memory: u64,
}

#[derive(Debug, Args)]
struct ExportArgs {
    #[command(flatten)]
    store: StoreDir,
    /// The file to write, which must not exist yet [default: standard output]
    file: Option<PathBuf>,
}

fn failure(error: &SessionError) -> Failure {
    Failure::new(error.class().as_str(), error)
}

pub(super) fn run(args: SessionArgs) -> anyhow::Result<ExitCode> {
    let json = args.command.json();
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
        Err(error) if json && error.downcast_ref::<SessionError>().is_some() => {
            if let Some(error) = error.downcast_ref::<SessionError>() {
                print_json(&Failed { ok: false, error: failure(error) })?;
            }
            Err(error)
        }
        other => other,
    }
}

/// The document of a failed command.
#[derive(Serialize)]
struct Failed {
    ok: bool,
    error: Failure,
}

impl SessionCommand {
    fn json(&self) -> bool {
        match self {
            Self::Append(args) => args.writer.store.json,
            Self::Show(args) => args.store.json,
            Self::Path(args) => args.store.json,
            Self::Check(args) => args.store.json,
            Self::Reindex(args) => args.writer.store.json,
            Self::Checkpoint(args) => args.writer.store.json,
            Self::Rollback(args) => args.writer.store.json,
            Self::Manifest(args) => args.writer.store.json,
            Self::Import(args) => args.writer.store.json,
            Self::Export(args) => args.store.json,
        }
    }
}

/// Opens a store for reading. The store must exist, because a mistyped directory must not look like an empty store.
fn reader(store: &StoreDir) -> anyhow::Result<SessionReader> {
    must_exist(&store.dir)?;
    Ok(SessionStoreV2::open_for_inspection(&store.dir, &SessionOptions::default())?)
}

/// Every store has at least one of these; a copy may lack empty directories.
const SIGNS: [&str; 6] = ["segments", "index", "checkpoints", "migrations", "tmp", "manifest.json"];

fn must_exist(dir: &Path) -> anyhow::Result<()> {
    super::must_exist(dir, "session store", "the first `burn session append`", &SIGNS)
}

/// A range of a segment that is in no row of the index.
struct NotIndexed {
    path: PathBuf,
    range: Range<u64>,
    /// Whether the range has a whole line, which is an entry that no command shows. Otherwise it is an unfinished write.
    has_lines: bool,
    /// Whether an entry follows in the same segment. Then nothing can be cut there.
    is_between_entries: bool,
}

impl NotIndexed {
    /// Returns what `burn session reindex` does about the range.
    fn remedy(&self) -> &'static str {
        if self.is_between_entries {
            "`burn session reindex` takes in entries; if it does not, restore the segment from a copy"
        } else {
            "`burn session reindex` takes in entries and sets the rest aside"
        }
    }
}

impl std::fmt::Display for NotIndexed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (start, len_bytes) = (self.range.start, self.range.end - self.range.start);
        let what = if self.has_lines { "in no row of the index" } else { "an unfinished write" };
        write!(f, "{} at byte {start} ({}): {what}", self.path.display(), counted(len_bytes, "byte"))
    }
}

/// How often, and after how long, unindexed lines are looked at again, because a writer writes a line before its row.
const LOOKS_MAX: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// A line that is unindexed for so many looks is not about to be indexed.
const LOOKS_TO_SETTLE: u32 = 4;

/// Returns the ranges that the index lacks, without the lines that a writer is about to index.
fn unindexed(reader: &mut SessionReader) -> Result<Vec<NotIndexed>, SessionError> {
    let mut before = None;
    let mut settled = 0;
    for look in 1.. {
        let mut found = Vec::new();
        for (path, range) in reader.view()?.unindexed()? {
            let has_lines = has_lines(&path, range.clone())?;
            let is_between_entries = range.end < disk::metadata(&path)?.len_bytes;
            found.push(NotIndexed { path, range, has_lines, is_between_entries });
        }
        let first = found.iter().find(|found| found.has_lines);
        let first = first.map(|first| (first.path.clone(), first.range.start));
        settled = if first == before { settled + 1 } else { 0 };
        if first.is_none() || settled == LOOKS_TO_SETTLE {
            return Ok(found);
        }
        if look == LOOKS_MAX {
            break;
        }
        before = first;
        std::thread::sleep(BETWEEN_LOOKS);
    }
    Ok(Vec::new())
}

/// Whether a line that is not blank ends in this range.
fn has_lines(path: &Path, range: Range<u64>) -> Result<bool, SessionError> {
    const BLOCK_BYTES: u64 = 1 << 16;
    let file = disk::File::open_read_no_follow(path)?;
    let mut block = vec![0; BLOCK_BYTES.min(range.end - range.start) as usize];
    let (mut at, mut is_blank) = (range.start, true);
    while at < range.end {
        let wanted = BLOCK_BYTES.min(range.end - at) as usize;
        let read = file.read_at(&mut block[..wanted], at)?;
        if read == 0 {
            break;
        }
        for byte in &block[..read] {
            match byte {
                b'\n' if !is_blank => return Ok(true),
                other => is_blank &= other.is_ascii_whitespace(),
            }
        }
        at += read as u64;
    }
    Ok(false)
}

impl WriterArgs {
    fn options(&self) -> SessionOptions {
        SessionOptions { max_segment_bytes: self.max_segment_bytes, ..SessionOptions::default() }
    }

    /// Opens the store; what recovery did goes to standard error.
    fn open(&self, durability: Durability) -> Result<SessionStoreV2, SessionError> {
        let (store, report) =
            SessionStoreV2::create(&self.store.dir, &SessionOptions { durability, ..self.options() })?;
        checking::tell(&self.store.dir, &report);
        Ok(store)
    }
}
