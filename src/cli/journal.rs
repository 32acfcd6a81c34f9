//! `burn journal`: append to, read, drain, look at, recover and clean up a write-ahead log.
//!
//! May touch: the journal's directory, standard input and output. Guarantees: an offset is printed only for a record on
//! stable storage; `read` and `status` take no lock; with `--json` only one document goes to standard output.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

mod common;
mod drain;
mod get;

use self::common::{base64, holds_journal, require_journal};
use super::arguments::JsonArg;
use super::{JsonFailure, STDOUT, counted, cut_off, in_store, refuse_foreign, warn};
use crate::journal::{
    self, DEFAULT_MAX_PAYLOAD_BYTES, Damage, JournalError, JournalOptions, JournalReader, OnCorruption,
    RecoveryReport, SavedRange, SegmentManager, recover, status,
};
use crate::store::{Cut, Finding};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// How often `read --follow` looks for new records.
const POLL: Duration = Duration::from_millis(20);

/// What `append` reads of its input at a time, and how many records it makes of that at once: an empty line is one, too.
const INPUT_BYTES: usize = 1 << 20;
const BATCH_RECORDS: usize = 16 * 1024;

/// Write to and read from a journal: a write-ahead log in segments.
///
/// One process writes at a time; any number may read meanwhile.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  printf 'first\\nsecond\\n' | burn journal append ./log
  burn journal read ./log --follow
  burn journal read ./log --from 45 --json
  burn journal drain ./log --store ./store
  burn journal recover ./log --skip-corrupt")]
pub struct JournalArgs {
    #[command(subcommand)]
    command: JournalCommand,
}

#[derive(Debug, clap::Subcommand)]
enum JournalCommand {
    /// Append the lines of standard input, each as one record.
    ///
    /// Prints each record's offset on a line of its own once the record is on stable storage. Lines that are there at
    /// the same time share a sync.
    #[command(after_help = "Examples:
  printf 'first\\nsecond\\n' | burn journal append ./log
  tail -f app.log | burn journal append ./log > offsets")]
    Append {
        /// The journal's directory; created when missing.
        dir: PathBuf,
    },
    /// Print records: offset, tab, payload.
    ///
    /// Control characters, those that change the direction of text, backslashes and bytes that are not UTF-8 are escaped: \n,
    /// \t, \r, \\, \x1b.
    #[command(after_help = "Examples:
  burn journal read ./log --from 45
  burn journal read ./log --follow
  burn journal read ./log --json")]
    Read {
        /// The journal's directory.
        dir: PathBuf,
        /// Start at the record with this offset instead of the first.
        #[arg(long, value_name = "OFFSET")]
        from: Option<u64>,
        /// Go on with records as they are appended.
        #[arg(long, conflicts_with = "json")]
        follow: bool,
        #[command(flatten)]
        form: JsonArg,
    },
    /// Show segments, offsets, cursors and what was set aside.
    #[command(after_help = "Examples:
  burn journal status ./log
  burn journal status ~/.relayburn/journal --json")]
    Status {
        /// The journal's directory.
        dir: PathBuf,
        #[command(flatten)]
        form: JsonArg,
    },
    Drain(drain::DrainArgs),
    Get(get::GetArgs),
    /// Check every record; cut off torn writes, and set damage aside when asked.
    ///
    /// Bytes that are cut off or stepped over are first saved under quarantine/ in the journal's directory.
    #[command(after_help = "Examples:
  burn journal recover ./log
  burn journal recover ./log --skip-corrupt --json")]
    Recover {
        /// The journal's directory.
        dir: PathBuf,
        /// Set damaged ranges aside, so that reads step over them.
        #[arg(long)]
        skip_corrupt: bool,
        #[command(flatten)]
        form: JsonArg,
    },
    /// Delete the sealed segments that every cursor has passed. Without a cursor, none.
    #[command(after_help = "Examples:
  burn journal cleanup ./log")]
    Cleanup {
        /// The journal's directory.
        dir: PathBuf,
        #[command(flatten)]
        form: JsonArg,
    },
}

/// Runs `burn journal`.
pub fn run(args: JournalArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        JournalCommand::Append { .. } | JournalCommand::Drain(_) | JournalCommand::Get(_) => {}
        JournalCommand::Read { dir, .. }
        | JournalCommand::Status { dir, .. }
        | JournalCommand::Recover { dir, .. }
        | JournalCommand::Cleanup { dir, .. } => require_journal(dir)?,
    }
    match args.command {
        JournalCommand::Append { dir } => append(&dir)?,
        JournalCommand::Read { dir, from, form, .. } if form.json => read_json(&dir, from)?,
        JournalCommand::Read { dir, from, follow, .. } => read_lines(&dir, from, follow)?,
        JournalCommand::Drain(args) => return drain::run(args),
        JournalCommand::Get(args) => get::run(&args)?,
        JournalCommand::Status { dir, form } => show_status(&dir, form.json)?,
        JournalCommand::Recover { dir, skip_corrupt, form } => {
            return run_recover(&dir, skip_corrupt, form.json);
        }
        JournalCommand::Cleanup { dir, form } => cleanup(&dir, form.json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn append(dir: &Path) -> anyhow::Result<()> {
    refuse_foreign(dir, "journal", holds_journal)?;
    let (journal, report) = journal::open(dir, &JournalOptions::default())?;
    report.recovery.truncated.iter().for_each(|cut| warn(&cut_text(cut)));
    let mut input = io::BufReader::with_capacity(INPUT_BYTES, io::stdin().lock());
    let mut output = io::BufWriter::new(io::stdout().lock());
    let mut acknowledge = |payloads: &[&[u8]]| -> anyhow::Result<()> {
        for payloads in payloads.chunks(BATCH_RECORDS) {
            for offset in journal.append_batch(payloads)? {
                writeln!(output, "{offset}").context(STDOUT)?;
            }
            output.flush().context(STDOUT)?;
        }
        Ok(())
    };
    // What was read and has no line end yet: which line that is, and where in the input it begins.
    let mut unfinished = Vec::new();
    let (mut line, mut begin) = (1, 0);
    let refuse_longer = |len_bytes: usize, line: u64, begin: usize| {
        if len_bytes > DEFAULT_MAX_PAYLOAD_BYTES as usize {
            bail!(
                "line {line}, which begins at byte {begin} of the input, has more than {DEFAULT_MAX_PAYLOAD_BYTES} bytes; \
                 split it: a record holds no more. The lines before it were appended"
            );
        }
        Ok(())
    };
    loop {
        let available = input.fill_buf().context("cannot read standard input")?;
        if available.is_empty() {
            break;
        }
        let len = available.len();
        let Some(last_end) = memchr::memrchr(b'\n', available) else {
            unfinished.extend_from_slice(available);
            input.consume(len);
            refuse_longer(unfinished.len(), line, begin)?;
            continue;
        };
        unfinished.extend_from_slice(&available[..last_end]);
        let payloads: Vec<&[u8]> = unfinished.split(|byte| *byte == b'\n').collect();
        // Only the first can be longer than what was read at a time.
        refuse_longer(payloads[0].len(), line, begin)?;
        acknowledge(&payloads)?;
        line += payloads.len() as u64;
        begin += unfinished.len() + 1;
        unfinished.clear();
        unfinished.extend_from_slice(&available[last_end + 1..]);
        input.consume(len);
    }
    if !unfinished.is_empty() {
        acknowledge(&[&unfinished])?;
    }
    Ok(journal.close()?)
}

fn read_lines(dir: &Path, from: Option<u64>, follow: bool) -> anyhow::Result<()> {
    let mut reader = JournalReader::open(dir)?;
    let mut offset = from.unwrap_or_else(|| reader.start());
    let mut output = io::BufWriter::new(io::stdout().lock());
    let mut line = String::new();
    let mut is_first = true;
    loop {
        while let Some(record) = reader.read(offset)? {
            offset = record.next_offset;
            line.clear();
            let _ = write!(line, "{}\t", record.offset);
            escape(record.payload, &mut line);
            line.push('\n');
            output.write_all(line.as_bytes()).context(STDOUT)?;
        }
        output.flush().context(STDOUT)?;
        if is_first {
            // The end is an error where records after it are known to be lost. A writer reports later losses itself.
            refuse_lost_end(dir, reader.lost_end()?)?;
            is_first = false;
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

/// Says that records which were synced or consumed are gone from the end.
fn refuse_lost_end(dir: &Path, lost: Option<Damage>) -> Result<(), JournalError> {
    match lost {
        None => Ok(()),
        Some(damage) => Err(JournalError::Corrupt { directory: dir.to_owned(), damages: vec![damage] }),
    }
}

/// One document, written record by record: a journal may be larger than memory.
fn read_json(dir: &Path, from: Option<u64>) -> anyhow::Result<()> {
    let mut reader = match JournalReader::open(dir) {
        Ok(reader) => reader,
        Err(error) => {
            print(&json!({ "from": from, "records": [], "next": from, "error": failure(&error) }))?;
            return Err(error.into());
        }
    };
    let mut offset = from.unwrap_or_else(|| reader.start());
    let mut output = io::BufWriter::new(io::stdout().lock());
    write!(output, "{{\"from\":{offset},\"records\":[").context(STDOUT)?;
    let mut separator = "";
    let ended = loop {
        let record = match reader.read(offset) {
            Ok(Some(record)) => record,
            Ok(None) => break reader.lost_end().and_then(|lost| refuse_lost_end(dir, lost)),
            Err(error) => break Err(error),
        };
        offset = record.next_offset;
        let record = json!({
            "offset": record.offset,
            "nextOffset": record.next_offset,
            "blake3": record.hash.to_string(),
            "payload": base64(record.payload),
        });
        write!(output, "{separator}{record}").context(STDOUT)?;
        separator = ",";
    };
    write!(output, "],\"next\":{offset}").context(STDOUT)?;
    if let Err(error) = &ended {
        // The good records before it are printed already, so the document says where and why it ends.
        write!(output, ",\"error\":{}", json!(failure(error))).context(STDOUT)?;
    }
    writeln!(output, "}}").and_then(|()| output.flush()).context(STDOUT)?;
    Ok(ended?)
}

fn show_status(dir: &Path, as_json: bool) -> anyhow::Result<()> {
    let status = match status(dir) {
        Err(error) if as_json => {
            print(&json!({ "error": failure(&error) }))?;
            return Err(error.into());
        }
        status => status?,
    };
    if as_json {
        print(&json!({
            "start": status.start,
            "end": status.end,
            "lost": status.lost.as_ref().map(|damage| damage_json(dir, damage)),
            "synced": status.synced,
            "segments": status.segments.iter().map(|segment| json!({
                "path": dir.join(segment.file_name()).to_string_lossy(), "base": segment.base, "lenBytes": segment.len_bytes,
            })).collect::<Vec<_>>(),
            "cursors": status.cursors.iter().map(|cursor| json!({
                "name": cursor.name, "offset": cursor.offset, "lagBytes": status.end.saturating_sub(cursor.offset),
            })).collect::<Vec<_>>(),
            "skipped": status.skipped.iter().map(|range| json!([range.start, range.end])).collect::<Vec<_>>(),
            "quarantine": lossy(&status.quarantine),
        }))?;
        return judge_status(dir, status.lost);
    }
    let mut text = String::new();
    let _ = writeln!(text, "records    offsets {} to {}", status.start, status.end);
    match status.synced {
        Some(mark) => drop(writeln!(text, "synced     up to {mark} at the last rotation or clean close")),
        None => text.push_str("synced     no mark\n"),
    }
    let total: u64 = status.segments.iter().map(|segment| segment.len_bytes).sum();
    let files = counted(status.segments.len() as u64, "file");
    let _ = writeln!(text, "segments   {files}, {}", counted(total, "byte"));
    for cursor in &status.cursors {
        let lag = status.end.saturating_sub(cursor.offset);
        let lag = counted(lag, "byte");
        let _ = writeln!(text, "cursor     {} at {}, {lag} behind", cursor.name, cursor.offset);
    }
    for range in &status.skipped {
        let _ = writeln!(text, "skipped    offsets {} to {}", range.start, range.end);
    }
    for path in &status.quarantine {
        let _ = writeln!(text, "set aside  {}", path.display());
    }
    if let Some(lost) = &status.lost {
        let _ = writeln!(text, "lost       offsets {} to {}", lost.offsets.start, lost.offsets.end);
    }
    super::print_text(&text)?;
    judge_status(dir, status.lost)
}

/// Fails when the journal has lost records, or no writer can open it. A damaged mark is only told, because every writer gets by without.
fn judge_status(dir: &Path, lost: Option<Damage>) -> anyhow::Result<()> {
    let [mark, identity] = journal::check_mark_and_identity(dir);
    if let Err(error) = mark {
        warn(&error.to_string());
    }
    refuse_lost_end(dir, lost)?;
    Ok(identity?)
}

fn run_recover(dir: &Path, skip_corrupt: bool, as_json: bool) -> anyhow::Result<ExitCode> {
    let on_corruption = if skip_corrupt { OnCorruption::SetAside } else { OnCorruption::Refuse };
    let error = match recover(dir, on_corruption) {
        Ok(report) if as_json => {
            print(&report_json(dir, &report))?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(report) => {
            super::print_text(&report_text(&report))?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => error,
    };
    if let JournalError::Corrupt { damages, .. } = &error {
        if as_json {
            let damages: Vec<Value> = damages.iter().map(|damage| damage_json(dir, damage)).collect();
            print(&json!({ "ok": false, "damages": damages, "error": failure(&error) }))?;
        } else {
            // The error itself names the first.
            damages.iter().skip(1).for_each(|damage| warn(&damage.to_string()));
        }
    }
    Err(error.into())
}

fn failure(error: &JournalError) -> JsonFailure {
    let class = match error {
        JournalError::Corrupt { .. } => "corrupt",
        JournalError::Disk(_) | JournalError::Scan(_) | JournalError::Quarantine(_) => "io",
        JournalError::Locked { .. } => "locked",
        JournalError::Unsupported { .. } => "unsupported_version",
        JournalError::NotARecord { .. } => "not_a_record",
        JournalError::BeyondEnd { .. } => "beyond_end",
        JournalError::Deleted { .. } => "deleted",
        JournalError::Damaged { .. } => "damaged",
        _ => "other",
    };
    JsonFailure::new(class, error)
}

fn report_text(report: &RecoveryReport) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}, {}, {} checked in {:.3} s; offsets {} to {}",
        counted(report.segments as u64, "segment"),
        counted(report.records, "record"),
        counted(report.bytes, "byte"),
        report.duration.as_secs_f64(),
        report.start,
        report.end
    );
    for cut in &report.recovery.truncated {
        let _ = writeln!(text, "{}", cut_text(cut));
    }
    for aside in &report.quarantined {
        let _ = writeln!(text, "{}", aside_text(aside));
    }
    for range in &report.skipped {
        let _ = writeln!(text, "reads step over offsets {} to {}", range.start, range.end);
    }
    text
}

/// The sentence for a torn end that was cut off.
pub(super) fn cut_text(cut: &Cut) -> String {
    let [start, end] = cut.offsets.unwrap_or_default();
    let reason = format!("offsets {start} to {end}: {}", cut.reason);
    cut_off(&Cut { reason, ..cut.clone() }, "there was nothing in it to save")
}

/// The sentence for a range that was set aside in its place.
fn aside_text(SavedRange { damage, len_bytes, saved }: &SavedRange) -> String {
    let Damage { segment, position, offsets, reason } = damage;
    let saved_as = saved
        .as_ref()
        .map_or("there was nothing to save".to_owned(), |path| format!("saved as {}", path.display()));
    format!(
        "{} bytes {position} to {} were set aside (offsets {} to {}: {reason}); {saved_as}",
        segment.display(),
        position + len_bytes,
        offsets.start,
        offsets.end
    )
}

fn report_json(dir: &Path, report: &RecoveryReport) -> Value {
    let quarantined = |aside: &SavedRange| {
        let mut value = damage_json(dir, &aside.damage);
        value["length"] = aside.len_bytes.into();
        value["savedAs"] =
            json!(aside.saved.as_ref().map(|saved| in_store(dir, saved).display().to_string()));
        value
    };
    json!({
        "ok": true,
        "segments": report.segments,
        "records": report.records,
        "bytes": report.bytes,
        "start": report.start,
        "end": report.end,
        "truncatedBytes": report.recovery.truncated_bytes(),
        "truncated": report.recovery.clone().relative_to(dir).truncated,
        "quarantined": report.quarantined.iter().map(quarantined).collect::<Vec<_>>(),
        "skipped": report.skipped.iter().map(|range| json!([range.start, range.end])).collect::<Vec<_>>(),
        "durationMs": report.duration.as_secs_f64() * 1000.0,
    })
}

fn damage_json(dir: &Path, damage: &Damage) -> Value {
    let finding = Finding::from(damage);
    json!(Finding { file: in_store(dir, &damage.segment), ..finding })
}

/// Paths for a document, which is Unicode text.
fn lossy(paths: &[PathBuf]) -> Vec<Cow<'_, str>> {
    paths.iter().map(|path| path.to_string_lossy()).collect()
}

fn cleanup(dir: &Path, as_json: bool) -> anyhow::Result<()> {
    let report = SegmentManager::open(dir)?.cleanup()?;
    if as_json {
        return print(&json!({
            "deleted": lossy(&report.deleted), "deletedBytes": report.deleted_bytes, "start": report.start,
        }));
    }
    let count = counted(report.deleted.len() as u64, "segment");
    let (bytes, start) = (counted(report.deleted_bytes, "byte"), report.start);
    super::print(format!("{count} deleted, {bytes}; the journal starts at offset {start}\n").as_bytes())
}

fn print(document: &Value) -> anyhow::Result<()> {
    super::print(format!("{document}\n").as_bytes())
}

/// Text as it is but for backslashes and what a terminal obeys; other bytes as `\x` and two digits.
fn escape(payload: &[u8], line: &mut String) {
    for chunk in payload.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                obeyed if super::printable::is_unprintable(obeyed) => {
                    for byte in obeyed.encode_utf8(&mut [0; 4]).bytes() {
                        let _ = write!(line, "\\x{byte:02x}");
                    }
                }
                other => line.push(other),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(line, "\\x{byte:02x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        let vectors = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, text) in vectors {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xFB, 0xFF]), "+/8=");
    }

    #[test]
    fn escaped_lines_stay_lines_and_tell_bytes_apart() {
        let mut line = String::new();
        escape(b"a\\n\n\t\r\x1b\xff\xc3\xa9\xc2\x9b\xe2\x80\xae", &mut line);
        assert_eq!(line, "a\\\\n\\n\\t\\r\\x1b\\xff\u{e9}\\xc2\\x9b\\xe2\\x80\\xae");
    }
}
