//! `burn state`: the files derived from the ledger, and building them again.
//!
//! Touches the files that the library's functions touch, the report file of `--report`, and standard output and error. Guarantees:
//! `--json` prints one document; a report is never written over a file that the build reads or writes.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::arguments::{FilesArgs, HomeArg, JsonArg};
use super::clean::{self, PruneArgs, ResetArgs};
use super::ledgers::{LedgersArgs, Wanted, merge_summary};
use super::output::{create_report, left_out_line};
use super::progress::BuildBar;
use super::status;
use super::{counted, grouped, human_bytes, interrupt, print_result, print_text, warn, wrong_usage};
use crate::archive::{
    self, ArchiveError, BuildResult, Load, Observer, Options, Paths, Phase, Progress, Restart,
};
use crate::disk;
use crate::ledger::{ExtraIds, Ledger, MergeReport, Reindexed};
use crate::record::rows::UnarchivedLine;
use crate::scan::Io;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  burn state
  burn state --json
  burn state rebuild all")]
pub(super) struct StateArgs {
    #[command(subcommand)]
    command: Option<StateCommand>,
    #[command(flatten)]
    form: JsonArg,
    #[command(flatten)]
    home: HomeArg,
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Show the derived files and whether they are up to date (the default).
    #[command(after_help = "\
Examples:
  burn state
  burn state status --json
  burn state status --ledger copy/ledger.jsonl --archive copy/archive.sqlite")]
    Status(FilesArgs),
    /// Build derived files from the ledger.
    #[command(after_help = "\
Examples:
  burn state rebuild archive
  burn state rebuild archive --full
  burn state rebuild all")]
    Rebuild {
        #[command(subcommand)]
        what: RebuildCommand,
    },
    /// Give the space of deleted rows of the archive back to the file system.
    #[command(after_help = "\
The archive is rewritten in place. Builds leave free pages only where turns were replaced, so this is seldom needed.

Examples:
  burn state vacuum
  burn state vacuum --json")]
    Vacuum(FilesArgs),
    /// List expired content; with --force, delete it.
    #[command(after_help = "\
Content is the text of sessions, a file for each session under content/ in the home. Without --force nothing is changed.

Examples:
  burn state prune --days 90
  burn state prune --days 90 --force")]
    Prune(PruneArgs),
    /// List what a reset deletes, moves and keeps; with --force, reset.
    #[command(after_help = "\
A reset deletes the archive, the index files, ingest.known and ingest.state/, which can be made again. Run `burn state rebuild index` \
before the next append or import, because an append without the index writes records that the ledger has already. With --everything it also moves \
ledger, content, cursors.json, hwm.json and ingest.side.json to a directory trash-<time> in the home, and never deletes them.

A symbolic link is deleted or moved itself, never the file that it leads to. A relative link in the trash leads nowhere.

Examples:
  burn state reset
  burn state reset --everything --force")]
    Reset(ResetArgs),
}

#[derive(Debug, Subcommand)]
enum RebuildCommand {
    /// Bring archive.sqlite up to date with the ledger.
    #[command(after_help = "\
Without --full, a build reads the lines that were appended since the last build. With --full, a build reads the ledger from byte 0 into a \
new file, which then replaces the archive; the old archive stays readable until that moment. A file that is not an \
SQLite database is left alone, unless --force renames it.

Several ledgers are merged, as `burn ledger merge` does, into a file beside the archive, named like the archive with .ledger.jsonl \
added; the archive is then built from this file, from byte 0. A ledger is a file (plain, gzip or zstd), a home, a pattern in quotes, \
or - for standard input.

Examples:
  burn state rebuild archive
  burn state rebuild archive --full --report bad-lines.jsonl
  burn state rebuild archive --full --ledger copy/ledger.jsonl --archive copy/archive.sqlite
  burn state rebuild archive --ledger 'homes/*' --ledger old.jsonl.gz --archive all.sqlite")]
    Archive(ArchiveArgs),
    /// Build ledger.idx and ledger.content.idx again from the ledger.
    #[command(after_help = "\
Other programs may append meanwhile. This is needed when `burn ledger check` finds that the index disagrees. An index with ids that no line of \
the ledger has is refused, because the ledger may have been cut; --force drops these ids.

Examples:
  burn state rebuild index
  burn state rebuild index --json")]
    Index {
        /// Drop ids that no line of the ledger has.
        #[arg(long)]
        force: bool,
    },
    /// Build the index files again, then bring the archive up to date.
    #[command(after_help = "\
Examples:
  burn state rebuild all
  burn state rebuild all --json")]
    All {
        /// Drop ids that no line of the ledger has.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct ArchiveArgs {
    /// Build everything from byte 0 of the ledger.
    #[arg(long)]
    full: bool,
    /// If a file that is not an SQLite database has the archive's name, rename the file and build.
    #[arg(long, requires = "full")]
    force: bool,
    /// The older name of `burn state vacuum`.
    #[arg(long, hide = true, conflicts_with_all = ["full", "strict", "report", "threads", "io", "loader", "memory", "no_verify"])]
    vacuum: bool,
    /// Treat a malformed or rejected line as an error, and change nothing.
    #[arg(long)]
    strict: bool,
    /// Write a JSON object for each malformed or rejected line to FILE, which must not exist yet.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    files: LedgersArgs,
    /// Parse with N threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// How to read the ledger.
    #[arg(long, hide = true, default_value = "mmap", value_parser = io_parser())]
    io: Io,
    /// The loader that writes the rows of a full rebuild.
    #[arg(long, hide = true, default_value = "bulk", value_parser = loader_parser())]
    loader: Load,
    /// Sixteen times the memory that the bulk loader uses before it spills rows to a file: bytes, or with KB, MB, GB, KiB, MiB, GiB.
    #[arg(long, hide = true, value_name = "SIZE", default_value = "512MiB", value_parser = crate::dev::parse_size)]
    memory: u64,
    /// Publish a full rebuild without checking it first.
    #[arg(long, hide = true)]
    no_verify: bool,
}

fn io_parser() -> impl TypedValueParser<Value = Io> {
    let io = |word: String| if word == "read" { Io::Read } else { Io::Mmap };
    PossibleValuesParser::new(["mmap", "read"]).map(io)
}

fn loader_parser() -> impl TypedValueParser<Value = Load> {
    let load = |word: String| if word == "insert" { Load::Insert } else { Load::Bulk };
    PossibleValuesParser::new(["bulk", "insert"]).map(load)
}

pub(super) fn run(args: StateArgs) -> anyhow::Result<ExitCode> {
    let StateArgs { command, form: JsonArg { json }, home } = args;
    match command {
        None => print_home_status(&home, json),
        Some(StateCommand::Status(files)) => match files.named()? {
            Some(paths) => status::print_status(&paths, None, json),
            None => print_home_status(&home, json),
        },
        Some(StateCommand::Rebuild { what: RebuildCommand::Archive(archive) }) => {
            rebuild_archive(archive, &home, json)
        }
        Some(StateCommand::Rebuild { what: RebuildCommand::Index { force } }) => {
            rebuild_index(&Ledger::new(home.home()?), extra_ids(force), json)
        }
        Some(StateCommand::Rebuild { what: RebuildCommand::All { force } }) => {
            rebuild_all(&Ledger::new(home.home()?), extra_ids(force), json)
        }
        Some(StateCommand::Vacuum(files)) => vacuum(&writable_paths(&files, &home)?, json),
        Some(StateCommand::Prune(prune)) => clean::prune(&prune, home.home()?, json),
        Some(StateCommand::Reset(reset)) => clean::reset(&reset, home.home()?, json),
    }
}

fn print_home_status(home: &HomeArg, json: bool) -> anyhow::Result<ExitCode> {
    let home = home.home()?;
    status::print_status(&Paths::of_home(&home), Some(&home), json)
}

fn extra_ids(force: bool) -> ExtraIds {
    if force { ExtraIds::Drop } else { ExtraIds::Refuse }
}

fn rebuild_index(ledger: &Ledger, extra: ExtraIds, json: bool) -> anyhow::Result<ExitCode> {
    let result = ledger.rebuild_index(extra, &interrupt::watch())?;
    warn_if_missing(&ledger.home().ledger())?;
    print_result(json, &result, || reindexed(ledger, &result))
}

fn reindexed(ledger: &Ledger, result: &Reindexed) -> String {
    let seconds = result.duration_ms as f64 / 1000.0;
    let mut text = format!(
        "{} built again: {} read in {seconds:.2} s, {}, {}\n",
        ledger.home().ids_index().display(),
        human_bytes(result.scanned_bytes),
        counted(result.ids, "id"),
        counted(result.fingerprints, "fingerprint")
    );
    if result.dropped_ids > 0 {
        let ids = counted(result.dropped_ids, "id");
        text.push_str(&format!("  dropped: {ids} in no line of the ledger\n"));
    }
    if result.malformed_lines > 0 {
        let lines = counted(result.malformed_lines, "malformed line");
        text.push_str(&format!("  left out: {lines}; `burn ledger check` lists them\n"));
    }
    text
}

fn rebuild_all(ledger: &Ledger, extra: ExtraIds, json: bool) -> anyhow::Result<ExitCode> {
    #[derive(serde::Serialize)]
    struct Rebuilt {
        index: Reindexed,
        archive: BuildResult,
    }
    let index = ledger.rebuild_index(extra, &interrupt::watch())?;
    warn_if_missing(&ledger.home().ledger())?;
    if !json {
        print_text(&reindexed(ledger, &index))?;
    }
    let paths = Paths::of_home(ledger.home());
    let options = Options { interrupt: interrupt::watch(), ..Options::default() };
    let archive = build(&paths, None, |observer| archive::build_tail(&paths, &options, observer))?;
    let rebuilt = Rebuilt { index, archive };
    print_result(json, &rebuilt, || summary(&paths, &rebuilt.archive))?;
    exit_code(&paths, &rebuilt.archive)
}

/// The number of findings that are printed; `--report` has all findings.
const FINDINGS_SHOWN: u64 = 5;

pub(super) struct BuildObserver {
    ledger: PathBuf,
    bar: BuildBar,
    report: Option<ReportFile>,
    report_error: Option<std::io::Error>,
    findings: u64,
}

impl BuildObserver {
    pub(super) fn new(ledger: PathBuf, report: Option<ReportFile>) -> Self {
        Self { ledger, bar: BuildBar::new(), report, report_error: None, findings: 0 }
    }

    /// Ends the progress bar, and says how many lines were left out and not named.
    #[cfg(feature = "parquet")]
    pub(super) fn finish(self) {
        self.bar.finish();
        warn_of_more(self.findings);
    }
}

fn warn_of_more(findings: u64) {
    if findings > FINDINGS_SHOWN {
        let more = counted(findings - FINDINGS_SHOWN, "more line");
        warn(&format!(
            "and {more} left out; `burn state rebuild archive --full --report FILE` lists all of them"
        ));
    }
}

impl Observer for BuildObserver {
    fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
        self.bar.update(progress);
        // The report is whole before anything is committed or published.
        if progress.phase != Phase::Rows
            && let Some((_, report)) = &mut self.report
            && let Err(error) = std::io::Write::flush(report)
        {
            self.report_error.get_or_insert(error);
        }
        if self.report_error.is_some() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: &UnarchivedLine) {
        self.findings += 1;
        if self.findings <= FINDINGS_SHOWN {
            self.bar.line(&format!("burn: {}", left_out_line(&self.ledger, finding)));
        }
        if let Some((_, report)) = &mut self.report {
            let written = serde_json::to_writer(&mut *report, finding)
                .map_err(std::io::Error::from)
                .and_then(|()| std::io::Write::write_all(report, b"\n"));
            if let Err(error) = written {
                self.report_error.get_or_insert(error);
            }
        }
    }
}

/// A file for the lines that a build leaves out, and its path.
pub(super) type ReportFile = (PathBuf, std::io::BufWriter<std::fs::File>);

/// Builds an archive with a progress bar. Says which lines were left out, and what was set aside.
pub(super) fn build(
    paths: &Paths,
    report: Option<ReportFile>,
    run: impl FnOnce(&mut BuildObserver) -> Result<BuildResult, ArchiveError>,
) -> anyhow::Result<BuildResult> {
    let mut observer = BuildObserver::new(paths.ledger.clone(), report);
    let result = run(&mut observer);
    let BuildObserver { bar, report, report_error, findings, .. } = observer;
    bar.finish();
    if let (Err(_), 0, Some((path, _))) = (&result, findings, &report)
        && disk::metadata(path).is_ok_and(|found| found.is_file)
    {
        // The build failed before it found anything, so the next attempt may use the name.
        disk::remove_file_if_exists(path)?;
    }
    if let Some((path, mut report)) = report {
        // As text, because a closed pipe here must not be mistaken for a closed stdout.
        if let Err(error) = report_error.map_or_else(|| std::io::Write::flush(&mut report), Err) {
            let archive = match &result {
                Ok(_) => "up to date all the same; `--full --report FILE` lists everything again",
                Err(_) => "as it was",
            };
            anyhow::bail!("cannot write the report {}: {error}; the archive is {archive}", path.display());
        }
    }
    let result = result?;
    warn_if_missing(&paths.ledger)?;
    warn_of_set_aside(&result);
    warn_of_more(findings);
    Ok(result)
}

/// The words of the command, for errors of usage.
const WORDS: [&str; 3] = ["state", "rebuild", "archive"];

/// Two names of one file are found only when both are opened. Nothing is changed by then, so the error counts as wrong usage.
fn same_file_is_wrong_usage<T>(done: Result<T, ArchiveError>) -> Result<T, ArchiveError> {
    if let Err(error @ ArchiveError::SameFile { .. }) = &done {
        wrong_usage(&WORDS, &error.to_string());
    }
    done
}

/// The files that two options name, or those of the home, which is made if it is missing.
fn writable_paths(files: &FilesArgs, home: &HomeArg) -> anyhow::Result<Paths> {
    if let Some(paths) = files.named()? {
        return Ok(paths);
    }
    let home = home.home()?;
    disk::create_dir_all(home.root())?;
    Ok(Paths::of_home(&home))
}

fn vacuum(paths: &Paths, json: bool) -> anyhow::Result<ExitCode> {
    let vacuumed = same_file_is_wrong_usage(archive::vacuum(paths, &interrupt::watch()))?;
    print_result(json, &vacuumed, || {
        let archive = vacuumed.archive_path.display();
        if !vacuumed.existed {
            return format!("{archive}: there is no archive\n");
        }
        let (before, after) = (grouped(vacuumed.before_bytes), grouped(vacuumed.after_bytes));
        // The archive grows when the version of SQLite lays pages out in another way.
        let sign = if vacuumed.reclaimed_bytes < 0 { "-" } else { "" };
        let reclaimed = format!("{sign}{}", grouped(vacuumed.reclaimed_bytes.unsigned_abs()));
        format!("{archive}: {before} bytes before, {after} after, {reclaimed} reclaimed\n")
    })
}

fn rebuild_archive(args: ArchiveArgs, home: &HomeArg, json: bool) -> anyhow::Result<ExitCode> {
    if args.files.lacks_archive() {
        wrong_usage(&WORDS, "--ledger needs --archive, the archive to build");
    }
    let ledgers = args.files.open(
        home,
        if args.vacuum { Wanted::AsItIs } else { Wanted::Ledger },
        &WORDS,
        interrupt::watch,
    )?;
    let paths = &ledgers.paths;
    if args.files.is_home() {
        disk::create_dir_all(disk::parent_of(&paths.archive))?;
    }
    if args.vacuum {
        return vacuum(paths, json);
    }
    let options = Options {
        threads: args.threads.map_or(0, usize::from),
        io: args.io,
        strict: args.strict,
        force: args.force,
        load: args.loader,
        memory_bytes: usize::try_from(args.memory).unwrap_or(usize::MAX),
        verify: !args.no_verify,
        interrupt: interrupt::watch(),
        ..Options::default()
    };
    let report = match args.report {
        Some(path) => {
            refuse_to_overwrite(&path, paths);
            let file = create_report(&path, &WORDS)?;
            Some((path, std::io::BufWriter::new(file)))
        }
        None => None,
    };
    let from_zero = args.full || ledgers.merged.is_some();
    let result = build(paths, report, |observer| {
        same_file_is_wrong_usage(if from_zero {
            archive::rebuild_full(paths, &options, observer)
        } else {
            archive::build_tail(paths, &options, observer)
        })
    })?;
    #[derive(serde::Serialize)]
    struct BuiltOfLedgers<'r> {
        #[serde(flatten)]
        build: &'r BuildResult,
        #[serde(skip_serializing_if = "Option::is_none")]
        merge: &'r Option<MergeReport>,
    }
    let merged = &ledgers.merged;
    print_result(json, &BuiltOfLedgers { build: &result, merge: merged }, || {
        let merged = merged.as_ref().map_or(String::new(), |report| merge_summary(report, &paths.ledger));
        merged + &summary(paths, &result)
    })?;
    exit_code(paths, &result)
}

/// Warns when there is no ledger, because a mistyped home must not look like an empty one.
fn warn_if_missing(ledger: &std::path::Path) -> anyhow::Result<()> {
    if !ledger.try_exists().with_context(|| format!("cannot look at {}", ledger.display()))? {
        warn(&format!("there is no ledger at {}; nothing was read", ledger.display()));
    }
    Ok(())
}

/// Names the file that a build set aside.
pub(super) fn warn_of_set_aside(result: &BuildResult) {
    if let (Some(aside), Some(reason)) = (&result.set_aside, &result.set_aside_reason) {
        warn(&format!("{reason}: {}", aside.display()));
    }
}

/// Refuses a report that would overwrite a file of the build.
fn refuse_to_overwrite(report: &std::path::Path, paths: &Paths) {
    // A file that does not exist is identified by its directory and name.
    let resolved = |path: &std::path::Path| {
        std::fs::canonicalize(path).ok().or_else(|| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or_else(|| std::path::Path::new("."));
            Some(std::fs::canonicalize(parent).ok()?.join(path.file_name()?))
        })
    };
    let mut taken = vec![paths.ledger.clone(), paths.archive.clone(), paths.lock.clone()];
    for archive in [Some(paths.archive.clone()), resolved(&paths.archive)].into_iter().flatten() {
        for suffix in ["-wal", "-shm", "-journal"] {
            taken.push(disk::with_suffix(&archive, suffix));
        }
    }
    let report_file = resolved(report);
    if report_file.is_some() && taken.iter().any(|file| resolved(file) == report_file) {
        let reason = format!(
            "{} is read or written by the build and cannot be its report: name another file",
            report.display()
        );
        wrong_usage(&WORDS, &reason);
    }
}

/// Fails, with a warning, when the build read the ledger from byte 0 and stored none of its lines, because then the file is
/// not a ledger.
pub(super) fn exit_code(paths: &Paths, result: &BuildResult) -> anyhow::Result<ExitCode> {
    let stored = result.turns_applied
        + result.tool_result_events_applied
        + result.compactions_applied
        + result.stamps_applied;
    let left_out = result.malformed_lines + result.rejected_lines + result.unknown_lines;
    if result.scanned_bytes == 0
        && let Some(found) = disk::if_there(disk::metadata_of_target(&paths.ledger))?
        && found.len_bytes > 0
        && archive::ledger_offset_bytes(&paths.archive)? == 0
    {
        warn(&format!(
            "{} has {} and no line feed (LF), so there is no whole line to read",
            paths.ledger.display(),
            counted(found.len_bytes, "byte")
        ));
    }
    if stored > 0
        || left_out == 0
        || archive::ledger_offset_bytes(&paths.archive)?.unsigned_abs() != result.scanned_bytes
    {
        return Ok(ExitCode::SUCCESS);
    }
    let ledger = paths.ledger.display();
    warn(&format!(
        "nothing of {ledger} was stored, {} left out; `burn ledger check {ledger}` says why",
        counted(left_out, "line")
    ));
    Ok(ExitCode::FAILURE)
}

fn summary(paths: &Paths, result: &BuildResult) -> String {
    let seconds = result.duration_ms as f64 / 1000.0;
    let read = human_bytes(result.scanned_bytes);
    let how = match (result.rebuilt_from_zero, &result.restarted) {
        (true, _) => "rebuilt from byte 0",
        (false, Some(Restart::RefoldsMost)) => "brought up to date by building it again",
        (false, Some(_)) => "built again from byte 0",
        (false, None) => "brought up to date",
    };
    let mut text = format!("{} {how}: {read}", paths.archive.display());
    text.push_str(&match &result.restarted {
        // The bytes are of the tail and the time is of the whole build, so there is no speed to print.
        Some(Restart::RefoldsMost) => format!(" more in {seconds:.2} s\n"),
        _ => {
            let speed = human_bytes((result.scanned_bytes as f64 / seconds.max(0.001)) as u64);
            format!(" read in {seconds:.2} s ({speed}/s)\n")
        }
    });
    if let Some(why) = &result.restarted {
        text.push_str(&format!("  because {why}\n"));
    }
    text.push_str(&format!(
        "  {}, {} touched, {}, {}, {}\n",
        counted(result.turns_applied, "turn"),
        counted(result.sessions_touched, "session"),
        counted(result.tool_result_events_applied, "tool result event"),
        counted(result.compactions_applied, "compaction"),
        counted(result.stamps_applied, "stamp"),
    ));
    let left_out = result.malformed_lines + result.rejected_lines + result.unknown_lines;
    if left_out > 0 {
        text.push_str(&format!(
            "  left out: {}, {} rejected, {} of unknown kind\n",
            counted(result.malformed_lines, "malformed line"),
            grouped(result.rejected_lines),
            grouped(result.unknown_lines),
        ));
    }
    text
}
