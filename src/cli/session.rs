//! `burn session`: session stores, from appending to going back to a checkpoint.

use std::io::{BufRead, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{counted, print, print_json};
use crate::disk;
use crate::session::{
    Durability, Error, Frame, Head, ImportLine, IndexSummary, Manifest, NewEntry, Options, Payload, Reader,
    RecoveryReport, Store, View, export_line, parse_import_line,
};

#[derive(Debug, Args)]
pub(super) struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// Append entries from standard input.
    #[command(after_help = "\
One JSON object a line: {\"entryId\":\"e2\",\"parentEntryId\":\"e1\",\"entryType\":\"message\",\"payload\":{...}}, or a line of
a session file, {\"type\":\"message\",\"id\":\"e2\",\"parentId\":\"e1\",...}. Payloads are stored compact with sorted keys.
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
    /// Open with recovery: take in what the index misses, save and cut a torn tail, build a lost index again.
    #[command(after_help = "\
Damage that is not a torn tail is refused with file, line and byte offset, and nothing is changed.

Examples:
  burn session reindex talk.v2
  burn session reindex talk.v2 --rebuild --json")]
    Reindex(ReindexArgs),
    /// Certify the last entry, or list what was certified.
    #[command(after_help = "\
Examples:
  burn session checkpoint talk.v2 --reason 'before the refactoring'
  burn session checkpoint talk.v2 --list")]
    Checkpoint(CheckpointArgs),
    /// Go back to a checkpoint; what leaves the store is kept beside it as .bak and .cut.
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
    /// Take in plain JSON Lines.
    #[command(after_help = "\
Lines are those that append and export know; a child may come before its parent. Payloads keep their text. All of it is
taken in, or nothing. A session file's header is not an entry: its id goes into the manifest.

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
    /// Begin a new segment file where this one would grow beyond SIZE.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = crate::dev::parse_size)]
    max_segment_bytes: u64,
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
    /// Its number [default: the next one]
    #[arg(long, value_name = "N", conflicts_with = "list")]
    number: Option<u64>,
    /// Why.
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
    /// Write it.
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
    /// The file [default: standard input]
    file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ExportArgs {
    #[command(flatten)]
    store: StoreDir,
    /// A file that does not exist yet [default: standard output]
    file: Option<PathBuf>,
}

/// What `check` and `reindex` print.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    ok: bool,
    entry_count: u64,
    head: Option<Head>,
    chain_hash: Option<String>,
    total_bytes: u64,
    index_summary: Option<IndexSummary>,
    entry_ids: Vec<String>,
    error: Option<Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<RecoveryReport>,
}

#[derive(Debug, Serialize)]
struct Failure {
    class: &'static str,
    message: String,
}

impl Failure {
    fn of(error: &Error) -> Self {
        Self { class: error.class().as_str(), message: error.to_string() }
    }
}

pub(super) fn run(args: SessionArgs) -> anyhow::Result<ExitCode> {
    let json = args.command.json();
    let outcome = match args.command {
        SessionCommand::Append(args) => append(&args),
        SessionCommand::Show(args) => show(&args),
        SessionCommand::Path(args) => path(&args),
        SessionCommand::Check(args) => check(&args),
        SessionCommand::Reindex(args) => reindex(&args),
        SessionCommand::Checkpoint(args) => checkpoint(&args),
        SessionCommand::Rollback(args) => rollback(&args),
        SessionCommand::Manifest(args) => manifest(&args),
        SessionCommand::Import(args) => import(&args),
        SessionCommand::Export(args) => export(&args),
    };
    match outcome {
        // With --json a failure of the store is a document too.
        Err(error) if json && error.downcast_ref::<Error>().is_some() => {
            #[derive(Serialize)]
            struct Failed {
                ok: bool,
                error: Failure,
            }
            if let Some(error) = error.downcast_ref::<Error>() {
                print_json(&Failed { ok: false, error: Failure::of(error) })?;
            }
            Err(error)
        }
        other => other,
    }
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

/// A reader of a store that is there: a mistyped directory must not look like an empty store.
fn reader(store: &StoreDir) -> anyhow::Result<Reader> {
    must_exist(&store.dir)?;
    Ok(Reader::open(&store.dir, &Options::default())?)
}

fn must_exist(dir: &Path) -> anyhow::Result<()> {
    if !dir.is_dir() {
        bail!("{} is not a directory: no session store is there", dir.display());
    }
    Ok(())
}

impl WriterArgs {
    fn options(&self) -> Options {
        Options { max_segment_bytes: self.max_segment_bytes, ..Options::default() }
    }

    /// Opens the store; what recovery did goes to standard error.
    fn open(&self, durability: Durability) -> Result<Store, Error> {
        let (store, report) = Store::open(&self.store.dir, &Options { durability, ..self.options() })?;
        tell(&report);
        Ok(store)
    }
}

/// Says on standard error what recovery did and found.
fn tell(report: &RecoveryReport) {
    if let Some(checkpoint) = report.resumed_rollback {
        eprintln!("burn: an interrupted rollback to checkpoint {checkpoint} was completed");
    }
    if let Some(reason) = &report.abandoned_rollback {
        eprintln!("burn: the intent of an interrupted rollback was not followed: {reason}");
    }
    if report.index_rebuilt {
        let rows = counted(report.rows_after, "row");
        eprintln!(
            "burn: the index was built again, {rows}: {}",
            report.reason.as_deref().unwrap_or("asked for")
        );
    } else if report.rows_before.is_some_and(|before| before < report.rows_after) {
        let new = report.rows_after - report.rows_before.unwrap_or_default();
        eprintln!(
            "burn: {} that the index did not have came in",
            counted(new, "entry").replace("entrys", "entries")
        );
    }
    for cut in &report.truncated {
        let saved = cut.saved_as.as_deref().unwrap_or("nowhere: they were blank");
        eprintln!(
            "burn: {} was cut from {} to {} bytes; the rest is saved as {saved}",
            cut.file, cut.from_length, cut.length
        );
    }
    for renamed in &report.quarantined {
        eprintln!("burn: {} was renamed to {}", renamed.file, renamed.saved_as);
    }
    for file in &report.healed {
        eprintln!("burn: {file} got the line end its last line missed");
    }
    if report.index_completed {
        eprintln!("burn: the index got the line end its last row missed");
    }
    for entry in &report.changed_crcs {
        eprintln!(
            "burn: entry {} ({}) was altered outside its payload: CRC-32C {} became {}",
            entry.entry_seq, entry.entry_id, entry.before, entry.after
        );
    }
    for entry in &report.lost_entries {
        eprintln!("burn: entry {} ({}) is no longer there", entry.entry_seq, entry.entry_id);
    }
    for (first, last) in &report.gaps {
        eprintln!("burn: there are no entries {first} to {last}");
    }
    for left in &report.unindexed {
        eprintln!(
            "burn: bytes {} to {} of {} are no entries; left alone",
            left.range.start, left.range.end, left.file
        );
    }
    for name in &report.ignored {
        eprintln!("burn: segments/{name} is not named as a segment is; left alone");
    }
    for directory in &report.wide_directories {
        eprintln!("burn: {directory} can be entered by other users");
    }
}

fn append(args: &AppendArgs) -> anyhow::Result<ExitCode> {
    const GROUP_ENTRIES: usize = 1000;
    #[derive(Serialize)]
    struct Appended {
        appended: u64,
        head: Option<Head>,
    }
    let durability = if args.group { Durability::Grouped } else { Durability::Each };
    let mut store = args.writer.open(durability)?;
    let (mut waiting, mut appended) = (Vec::new(), 0);
    let acknowledge = |store: &mut Store, waiting: &mut Vec<String>| -> anyhow::Result<()> {
        store.sync()?;
        if !args.writer.store.json {
            print(waiting.concat().as_bytes())?;
        }
        waiting.clear();
        Ok(())
    };
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line.context("cannot read standard input")?;
        if line.trim().is_empty() {
            continue;
        }
        let row = match parse_entry(&line).and_then(|entry| store.append(&entry)) {
            Ok(row) => row,
            Err(error) => {
                // What came before is acknowledged first.
                acknowledge(&mut store, &mut waiting)?;
                return Err(
                    anyhow::Error::new(error).context(format!("line {} of standard input", number + 1))
                );
            }
        };
        appended += 1;
        waiting.push(format!("{}\t{}\n", row.entry_seq, row.entry_id));
        if !args.group || waiting.len() >= GROUP_ENTRIES {
            acknowledge(&mut store, &mut waiting)?;
        }
    }
    acknowledge(&mut store, &mut waiting)?;
    if args.writer.store.json {
        print_json(&Appended { appended, head: store.view().head() })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An entry to append: keys of its payload sorted, as the store's other writers do.
fn parse_entry(line: &str) -> Result<NewEntry<'_>, Error> {
    match parse_import_line(line, false)? {
        ImportLine::Entry(entry) => Ok(NewEntry { payload: Payload::sorted(entry.payload.get())?, ..entry }),
        ImportLine::Header(_) => {
            Err(Error::InvalidArgument { reason: "a session header is not an entry".to_owned() })
        }
    }
}

fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let mut reader = reader(&args.store)?;
    let view = reader.view()?;
    let entries = match (&args.entry, args.from, args.tail) {
        (Some(id), ..) => match view.entry_with_id(id)? {
            Some(frame) => return print_frames([Ok(frame)].into_iter(), args.store.json),
            None => bail!("{} has no entry {id:?}", args.store.dir.display()),
        },
        (None, Some(from), _) => view.entries_from(from),
        (None, None, Some(count)) => view.tail(count),
        (None, None, None) => view.entries(),
    };
    print_frames(entries, args.store.json)
}

fn path(args: &PathArgs) -> anyhow::Result<ExitCode> {
    let mut reader = reader(&args.store)?;
    let view = reader.view()?;
    let leaf = args.leaf.clone().or_else(|| view.head().map(|head| head.entry_id));
    let frames = leaf.map_or_else(|| Ok(Vec::new()), |leaf| view.active_path(&leaf))?;
    print_frames(frames.into_iter().map(Ok), args.store.json)
}

/// Entries as lines, or as one document; that is printed only when all of them were sound.
fn print_frames(frames: impl Iterator<Item = Result<Frame, Error>>, json: bool) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct Shown {
        entries: Vec<Frame>,
    }
    if json {
        print_json(&Shown { entries: frames.collect::<Result<_, _>>()? })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    for frame in frames {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                out.flush()?;
                return Err(error.into());
            }
        };
        let parent = frame.parent_entry_id.as_deref().unwrap_or("-");
        writeln!(
            out,
            "{}\t{}\t{parent}\t{}\t{}\t{}",
            frame.entry_seq,
            frame.entry_id,
            frame.entry_type,
            frame.timestamp,
            frame.payload.get()
        )?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What is known of a store, and whether all of it is sound.
fn summarize(view: &View<'_>) -> Summary {
    let mut summary = Summary {
        entry_count: view.entry_count(),
        head: view.head(),
        total_bytes: view.total_bytes(),
        index_summary: view.index_summary(),
        entry_ids: view.entry_ids().map(str::to_owned).collect(),
        ..Summary::default()
    };
    match view.validate() {
        Ok(validated) => {
            summary.ok = true;
            summary.chain_hash = Some(validated.chain_hash);
        }
        Err(error) => summary.error = Some(Failure::of(&error)),
    }
    summary
}

fn print_summary(summary: &Summary, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_json(summary)?;
    } else if let Some(error) = &summary.error {
        eprintln!("burn: {} ({})", error.message, error.class);
    } else {
        let head = summary.head.as_ref().map_or("none".to_owned(), |head| {
            format!("{} (entry {}, segment {})", head.entry_id, head.entry_seq, head.segment_seq)
        });
        let chain = summary.chain_hash.as_deref().unwrap_or("unknown");
        let entries = summary.entry_ids.len();
        print(
            format!("sound\nentries       {entries}\nhead          {head}\nbytes         {}\nchain         {chain}\n", summary.total_bytes)
                .as_bytes(),
        )?;
    }
    Ok(if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let mut reader = reader(&args.store)?;
    let summary = match reader.view() {
        Ok(view) => {
            for (path, range) in view.unindexed()? {
                eprintln!(
                    "burn: bytes {} to {} of {} are not in the index; `burn session reindex` looks at them",
                    range.start,
                    range.end,
                    path.display()
                );
            }
            summarize(&view)
        }
        Err(error) => Summary { error: Some(Failure::of(&error)), ..Summary::default() },
    };
    print_summary(&summary, args.store.json)
}

fn reindex(args: &ReindexArgs) -> anyhow::Result<ExitCode> {
    let WriterArgs { store: StoreDir { dir, json }, .. } = &args.writer;
    must_exist(dir)?;
    let opened = if args.rebuild {
        Store::open_rebuilding(dir, &args.writer.options())
    } else {
        Store::open(dir, &args.writer.options())
    };
    let summary = match opened {
        Ok((mut store, report)) => {
            tell(&report);
            if args.repair_ledger
                && let Some(cut) = store.repair_ledger()?
            {
                eprintln!("burn: {} was cut to {} bytes", cut.file, cut.length);
            }
            Summary { recovery: Some(report), ..summarize(&store.view()) }
        }
        Err(error) => Summary { error: Some(Failure::of(&error)), ..Summary::default() },
    };
    print_summary(&summary, *json)
}

fn checkpoint(args: &CheckpointArgs) -> anyhow::Result<ExitCode> {
    let StoreDir { dir, json } = &args.writer.store;
    must_exist(dir)?;
    if args.list {
        return list_checkpoints(&args.writer.store);
    }
    let mut store = args.writer.open(Durability::Each)?;
    let last = store.view().checkpoints()?.last().copied().unwrap_or(0);
    let made = store.create_checkpoint(args.number.unwrap_or(last.saturating_add(1)), &args.reason)?;
    if *json {
        print_json(&made)?;
    } else {
        let text = format!(
            "checkpoint {} at entry {} ({})\n",
            made.checkpoint_seq, made.head_entry_seq, made.head_entry_id
        );
        print(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list_checkpoints(args: &StoreDir) -> anyhow::Result<ExitCode> {
    let mut reader = reader(args)?;
    let view = reader.view()?;
    let numbers = view.checkpoints()?;
    let found = numbers.iter().map(|number| view.checkpoint(*number)).collect::<Result<Vec<_>, _>>()?;
    let found: Vec<_> = found.into_iter().flatten().collect();
    if args.json {
        #[derive(Serialize)]
        struct Listed<T> {
            checkpoints: Vec<T>,
        }
        print_json(&Listed { checkpoints: found })?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines: String = found
        .iter()
        .map(|found| {
            format!(
                "{}\t{}\t{}\t{}\t{}\n",
                found.checkpoint_seq, found.head_entry_seq, found.head_entry_id, found.at, found.reason
            )
        })
        .collect();
    print(lines.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn rollback(args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    must_exist(&args.writer.store.dir)?;
    let mut store = args.writer.open(Durability::Each)?;
    let id = |given: &Option<String>| given.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let event = store.rollback(args.checkpoint, &id(&args.migration_id), &id(&args.correlation_id))?;
    if args.writer.store.json {
        print_json(&event)?;
    } else {
        let head = store.view().head().map_or("an empty store".to_owned(), |head| {
            format!("entry {} ({})", head.entry_seq, head.entry_id)
        });
        print(format!("back at checkpoint {}: {head}\n", args.checkpoint).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn manifest(args: &ManifestArgs) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct Compared<'a> {
        #[serde(flatten)]
        manifest: &'a Manifest,
        differences: Vec<&'static str>,
    }
    let StoreDir { dir, json } = &args.writer.store;
    must_exist(dir)?;
    let (manifest, differences) = if args.write {
        let mut store = args.writer.open(Durability::Each)?;
        let before = store.view().manifest()?;
        let session_id =
            args.session_id.clone().or_else(|| before.as_ref().map(|before| before.session_id.clone()));
        let format = args.source_format.clone().or_else(|| before.map(|before| before.source_format));
        let session_id = session_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        (store.write_manifest(&session_id, format.as_deref().unwrap_or("native_v2"))?, Vec::new())
    } else {
        let mut reader = reader(&args.writer.store)?;
        let view = reader.view()?;
        let Some(manifest) = view.manifest()? else {
            bail!("{} has no manifest; `--write` writes one", dir.display());
        };
        let differences = view.manifest_differences(&manifest)?;
        (manifest, differences)
    };
    let same = differences.is_empty();
    if *json {
        print_json(&Compared { manifest: &manifest, differences })?;
    } else {
        let state =
            if same { "up to date".to_owned() } else { format!("differs in {}", differences.join(", ")) };
        let text = format!(
            "session       {}\nentries       {}\nbytes         {}\nchain         {}\nupdated       {}\nstate         {state}\n",
            manifest.session_id,
            manifest.counters.entries_total,
            manifest.counters.bytes_total,
            manifest.integrity.chain_hash,
            manifest.updated_at
        );
        print(text.as_bytes())?;
    }
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Imported {
        imported: usize,
        header: bool,
        head: Option<Head>,
    }
    let (text, name) = match &args.file {
        None => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).context("cannot read standard input")?;
            (text, "standard input".to_owned())
        }
        Some(file) => {
            let name = file.display().to_string();
            (std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?, name)
        }
    };
    let (mut entries, mut session_id, mut header) = (Vec::new(), None, false);
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let at = offset;
        offset += line.len();
        if line.trim().is_empty() {
            continue;
        }
        let read = parse_import_line(line, entries.is_empty() && !header)
            .with_context(|| format!("{name} line {} (byte {at}); nothing was imported", number + 1))?;
        match read {
            ImportLine::Entry(entry) => entries.push(entry),
            ImportLine::Header(id) => (session_id, header) = (id, true),
        }
    }
    let mut store = args.writer.open(Durability::Each)?;
    store.import(&entries).with_context(|| format!("{name}: nothing was imported"))?;
    if let Some(session_id) = session_id {
        store.write_manifest(&session_id, "jsonl_v3")?;
    }
    if header {
        eprintln!("burn: the session header is not an entry; its id is in the manifest");
    }
    if args.writer.store.json {
        print_json(&Imported { imported: entries.len(), header, head: store.view().head() })?;
    } else {
        print(format!("{} imported\n", counted(entries.len() as u64, "line")).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct Exported {
        exported: usize,
    }
    let mut reader = reader(&args.store)?;
    let view = reader.view()?;
    let Some(path) = &args.file else {
        if args.store.json {
            bail!("--json tells how many entries were exported; name a FILE for them");
        }
        let mut out = BufWriter::new(std::io::stdout().lock());
        for frame in view.entries() {
            writeln!(out, "{}", export_line(&frame?))?;
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    };
    let file = disk::File::create_new(path)?;
    let written = write_export(&file, &view);
    if written.is_err() {
        // Half an export under the name of a whole one would mislead.
        let _ = disk::remove_file(path);
    }
    let exported = written?;
    if args.store.json {
        print_json(&Exported { exported })?;
    } else {
        print(format!("{} exported\n", counted(exported as u64, "line")).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_export(file: &disk::File, view: &View<'_>) -> Result<usize, Error> {
    const BLOCK_BYTES: usize = 1 << 20;
    let (mut block, mut exported) = (Vec::with_capacity(BLOCK_BYTES), 0);
    for frame in view.entries() {
        block.extend_from_slice(export_line(&frame?).as_bytes());
        block.push(b'\n');
        exported += 1;
        if block.len() >= BLOCK_BYTES {
            file.write_all(&block)?;
            block.clear();
        }
    }
    file.write_all(&block)?;
    file.sync_all()?;
    Ok(exported)
}
