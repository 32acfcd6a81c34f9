//! `burn ledger`: appends records, merges and exports ledgers, and checks the ledger.
//!
//! May touch: what the library's functions for it touch, standard input, output and error. Promises: records are said to be
//! written only when they are; a check changes nothing.

mod input;
mod kind;
mod merge;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};

use self::input::CheckedInput;
use self::kind::AppendKind;
use self::merge::MergeArgs;
use super::arguments::{HomeArg, JsonArg};
use super::journal::cut_text;
use super::{
    JsonFailure, STDOUT, counted, grouped, human_bytes, interrupt, print_result, printable, warn, wrong_usage,
};
use crate::home::Home;
use crate::ingest::queue_batch;
use crate::ledger::{AppendOptions, Appended, CheckFiles, CheckFinding, CheckReport, Ledger, Pieces, check};

/// How long an append to the journal waits for others who append to it, one write and one sync each.
const QUEUE_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  burn ledger append --kind turns < turns.jsonl
  burn ledger merge /mnt/laptop/.relayburn /mnt/server/.relayburn --into all
  burn ledger check")]
pub(super) struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
    #[command(flatten)]
    form: JsonArg,
    #[command(flatten)]
    home: HomeArg,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Append JSON records from standard input, one a line; those that are there already are dropped (stamps never are).
    #[command(after_help = "\
The lines of one run are one batch. All lines are checked first; a record that cannot be appended is an error that names its \
line, and nothing is written. Input of more than 16 MiB is kept in an unnamed file in the home until it is checked, and is then \
appended in pieces. A line of the input has at most 32 MiB; a record has at most 16 MiB as a line of the ledger. Without --kind each record is \
given as its whole line, as `burn ledger export` \
writes it; with --kind stamp, too; with any other kind as the member `record` of its line.

A record is also refused when a time in it is not RFC 3339 with date, time and zone, a count is not a whole number \
from 0 to 2^53-1, or a required text is empty. --lenient accepts these, as the TypeScript package does.

With --via-journal the batch does not wait for the lock of the ledger: it is checked and appended to the journal in the home \
with one write and one sync (one of each for a piece of larger input), and the next `burn journal drain` delivers each record once.

Examples:
  burn ledger append --kind turns < turns.jsonl
  burn ledger append --kind compactions --durable --json < compactions.jsonl
  burn ledger append --kind turns --via-journal < turns.jsonl && burn journal drain
  burn ledger append --kind stamp < stamps.jsonl
  burn ledger append --lenient < copy.jsonl

A stamp:
  {\"v\":1,\"kind\":\"stamp\",\"ts\":\"2026-04-20T00:00:00.000Z\",
   \"selector\":{\"sessionId\":\"s1\"},\"enrichment\":{\"tier\":\"gold\"}}")]
    Append {
        /// The kind of the records.
        #[arg(long, value_enum, default_value_t = AppendKind::Lines)]
        kind: AppendKind,
        /// Accept what the TypeScript package accepts: also invalid times, invalid counts and empty texts.
        #[arg(long)]
        lenient: bool,
        /// Return when the lines would survive a power cut.
        #[arg(long)]
        durable: bool,
        /// Queue the batch in the journal of the home, durably, instead of waiting for the ledger.
        #[arg(long)]
        via_journal: bool,
    },
    /// Append to one ledger the lines of others that it lacks.
    #[command(after_help = "\
The ledgers are only read. The result depends on the set of their lines alone: the order of the ledgers, repetition, and a ledger that comes \
in parts change nothing. A home is given as its directory: its content sidecars are merged, too, and its turns get the name of its \
machine, if `burn ledger machine` has set one.

Lines with one id and different contents are all kept and named. The one with more output tokens counts, else the longer one. A turn that has the \
fingerprint of a turn of another ledger is that turn under another id, unless their message ids are unique and differ; it is named and left out. Malformed lines are named and kept. A last \
line without an end is named and left out.

Lines are appended in pieces of 16 MiB, as appends do; other programs may append meanwhile. After an error or a crash, merge the same \
ledgers again.

Examples:
  burn ledger merge ~/.relayburn /mnt/server/.relayburn --into all
  burn ledger merge 'backup/*/ledger.jsonl.zst' --into all --json
  ssh server cat .relayburn/ledger.jsonl | burn ledger merge - --into ~/.relayburn")]
    Merge(MergeArgs),
    /// Write the ledger's whole lines to standard output, for `burn ledger append` on another machine.
    #[command(after_help = "\
Standard error says where the next export begins. Records that the other ledger has are dropped there by their ids; stamps have no id, so a \
stamp that is sent twice is there twice, with the same effect.

Examples:
  burn ledger export > copy.jsonl
  burn ledger export --since 118476 | ssh desk burn ledger append --lenient")]
    Export {
        /// Where to begin: the offset of a line, in bytes.
        #[arg(long, value_name = "OFFSET", default_value_t = 0, hide_default_value = true)]
        since: u64,
    },
    /// Print the name of this home's machine, or set it.
    #[command(after_help = "\
The name is kept in machine.json in the home. Where several ledgers are merged, the turns of this home get it: see `burn usage --by machine`. \
To remove the name, delete the file.

Examples:
  burn ledger machine
  burn ledger machine laptop")]
    Machine {
        /// The name to set.
        name: Option<String>,
    },
    /// Find everything that is wrong with a ledger; exit 1 if there is anything.
    #[command(after_help = "\
Faults are lines that are malformed, rejected, torn or not UTF-8; ids of the index that are missing, too many, repeated \
or not ids; and a ledger that no longer begins with the bytes that the home's archive has read. Each fault is listed with its byte offset. Lines of unknown kinds, repeated records, lines out of time \
order and lines that only `burn ledger append --lenient` accepts are counted; they are not faults. Other programs may append meanwhile. The index of FILE is FILE with the extension idx, if \
that exists.

Examples:
  burn ledger check
  burn ledger check copy/ledger.jsonl --json")]
    Check {
        /// Another ledger than the home's [default: ledger.jsonl in the home]
        file: Option<PathBuf>,
    },
}

pub(super) fn run(args: LedgerArgs) -> anyhow::Result<ExitCode> {
    let json = args.form.json;
    match args.command {
        LedgerCommand::Append { kind, lenient, durable, via_journal } => {
            if via_journal && kind == AppendKind::Content {
                let text = "content goes to the sidecars of its sessions, not to the ledger, and waits for nobody: \
                            append it without --via-journal";
                wrong_usage(&["ledger", "append"], text);
            }
            let home = args.home.home()?;
            let input = CheckedInput::read(kind, lenient, home.root())?;
            if via_journal { queue(input, &home, json) } else { append(input, home, durable, json) }
        }
        LedgerCommand::Merge(merge) => merge::merge(&merge, json),
        LedgerCommand::Export { .. } if json => {
            wrong_usage(
                &["ledger", "export"],
                "unexpected argument '--json': the output is the ledger's lines",
            );
        }
        LedgerCommand::Export { since } => merge::export(args.home.home()?, since),
        LedgerCommand::Machine { name } => merge::machine(args.home.home()?, name.as_deref(), json),
        LedgerCommand::Check { file } => {
            let files = match file {
                Some(file) => CheckFiles::of_ledger(file),
                None => CheckFiles::of_home(&args.home.home()?),
            };
            check_ledger(&files, json)
        }
    }
}

fn queue(input: CheckedInput, home: &Home, json: bool) -> anyhow::Result<ExitCode> {
    let (mut queued, mut offsets) = (0, Vec::new());
    input.each_batch(|batch| {
        let lines = batch.lines().map(std::str::from_utf8).collect::<Result<Vec<_>, _>>()?;
        let (more, recovery) = queue_batch(&home.journal_dir(), &lines, queued > 0, QUEUE_WAIT)
            .with_context(|| {
                format!("of standard input, {} had been queued before this", counted(queued, "record"))
            })?;
        recovery.truncated.iter().for_each(|cut| warn(&cut_text(cut)));
        queued += more.len() as u64;
        if json {
            offsets.extend(more);
        }
        Ok(())
    })?;
    let document = serde_json::json!({ "queued": queued, "offsets": offsets });
    print_result(json, &document, || format!("{} queued\n", grouped(queued)))
}

fn append(input: CheckedInput, home: Home, durable: bool, json: bool) -> anyhow::Result<ExitCode> {
    let options = if durable { AppendOptions::durable() } else { AppendOptions::default() };
    // Until here a signal has its usual effect, because no lock is held.
    let interrupt = interrupt::watch();
    let ledger = Ledger::new(home).with_interrupt(&interrupt);
    let mut done = Appended { skipped: input.skipped, ..Appended::default() };
    let mut pieces = (!input.is_one_batch()).then(Pieces::default);
    input.each_batch(|batch| {
        let appended = match &mut pieces {
            None => ledger.append(batch, &options)?,
            Some(_) if interrupt.is_requested() => bail!("interrupted{}", before(&done)),
            Some(pieces) => ledger
                .append_piece(batch, &options, pieces)
                .map_err(|error| anyhow!("{error}{}", before(&done)))?,
        };
        done.appended += appended.appended;
        done.duplicates += appended.duplicates;
        Ok(())
    })?;
    print_result(json, &done, || {
        let mut text = format!("{} appended", grouped(done.appended));
        if done.duplicates > 0 {
            text.push_str(&format!(", {}", counted(done.duplicates, "duplicate")));
        }
        if done.skipped > 0 {
            text.push_str(&format!(", {} skipped", grouped(done.skipped)));
        }
        text + "\n"
    })
}

/// The clause about the batches that were appended before one failed.
fn before(done: &Appended) -> String {
    match done.appended {
        0 => String::new(),
        appended => format!(
            "; {} of standard input stand in the ledger: append it again, and what has an id is not written twice",
            counted(appended, "record")
        ),
    }
}

fn check_ledger(files: &CheckFiles, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut written: io::Result<()> = Ok(());
    let mut findings = 0u64;
    let checked = check(files, &mut |finding| {
        if written.is_ok() {
            written = if json {
                write_json_finding(&mut out, finding, findings)
            } else {
                write_finding(&mut out, finding)
            };
        }
        findings += 1;
    });
    let report = match checked {
        Err(error) if json && findings > 0 && written.is_ok() => {
            // The findings are on stdout already, so the document is completed.
            let said = serde_json::to_string(&JsonFailure::new("io", &error))?;
            writeln!(out, "\n  ],\n  \"ok\": false,\n  \"error\": {said}\n}}").context(STDOUT)?;
            return Err(error.into());
        }
        checked => checked?,
    };
    written.context(STDOUT)?;
    let ended = if json {
        // The members of the report follow the findings, which were printed as they were found.
        let report = serde_json::to_string_pretty(&report)?;
        let members = report.strip_prefix('{').unwrap_or(&report);
        writeln!(out, "{}],{members}", if findings > 0 { "\n  " } else { "{\n  \"findings\": [" })
    } else {
        out.write_all(printable::lines(&describe(&report)).as_bytes())
    };
    ended.and_then(|()| out.flush()).context(STDOUT)?;
    if report.ok && !report.exists {
        warn(&format!("there is no ledger at {}; nothing was checked", report.ledger.display()));
    } else if !report.ok {
        warn(&format!(
            "{}: {}",
            report.ledger.display(),
            counted(findings.saturating_sub(report.unknown_lines), "fault")
        ));
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_json_finding(out: &mut impl Write, finding: &CheckFinding, before: u64) -> io::Result<()> {
    // The document begins with the first finding, so that a check that fails at once leaves stdout empty.
    out.write_all(if before > 0 { b",\n    " } else { b"{\n  \"findings\": [\n    " })?;
    serde_json::to_writer(&mut *out, finding).map_err(io::Error::from)
}

fn write_finding(out: &mut impl Write, finding: &CheckFinding) -> io::Result<()> {
    let CheckFinding { file, offset, length, problem, reason } = finding;
    let (file, length) = (file.display(), counted(*length, "byte"));
    let line = format!("{file} at byte {offset} ({length}): {}: {reason}", problem.as_str());
    writeln!(out, "{}", printable::line(&line))
}

fn describe(report: &CheckReport) -> String {
    let mut text = format!(
        "{}: {}, {}, checked in {:.2} s: {}\n",
        report.ledger.display(),
        human_bytes(report.bytes),
        counted(report.lines, "line"),
        report.duration_ms as f64 / 1000.0,
        match (report.ok, report.exists) {
            (false, _) => "there are faults",
            (true, true) => "nothing is wrong",
            (true, false) => "there is no ledger",
        }
    );
    let mut line = |name: &str, count: u64| text.push_str(&format!("  {name:<22} {}\n", grouped(count)));
    line("malformed", report.malformed_lines);
    line("rejected", report.rejected_lines);
    line("not UTF-8", report.invalid_utf8_lines);
    line("torn", report.torn_lines);
    line("unknown", report.unknown_lines);
    for (kind, count) in &report.unknown_kinds {
        line(&format!("  {}", printable::line(kind)), *count);
    }
    line("repeated records", report.repeated_records);
    line("out of time order", report.out_of_order_lines);
    let strict = &report.strict_refusals;
    line("not for strict append", strict.lines);
    for (name, count) in [
        ("  no times", strict.bad_times),
        ("  no counts", strict.bad_counts),
        ("  empty texts", strict.empty_texts),
    ] {
        if count > 0 {
            line(name, count);
        }
    }
    if let Some(offset) = strict.first_offset {
        line("  the first at byte", offset);
    }
    match &report.index {
        Some(index) => {
            line("ids in the index", index.ids);
            line("  missing", index.missing_ids);
            line("  too many", index.extra_ids);
            line("  repeated", index.repeated_ids);
            line("  no ids", index.invalid_lines);
        }
        None => text.push_str("  ids were not compared with an index\n"),
    }
    match &report.archive {
        Some(archive) => {
            text.push_str(&format!("  {:<22} {}\n", "bytes archived", grouped(archive.ledger_offset_bytes)))
        }
        None => text.push_str("  the ledger was not compared with an archive\n"),
    }
    text
}
