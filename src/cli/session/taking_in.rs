//! `burn session append` and `import`: entries from JSON Lines.

use std::io::{BufRead, Read};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::arguments::{AppendArgs, ImportArgs};
use super::store::{Failed, refuse_foreign};
use crate::cli::{JsonFailure, counted, print, print_error, print_json, print_result, printable, warn};
use crate::session::{
    EntryPayload, ImportLine, MAX_ID_BYTES, MAX_LINE_BYTES, NewEntry, SessionError, SessionStoreV2,
    StoreHead, parse_first_import_line, parse_import_line,
};
use crate::store::Durability;

/// The number of entries that `append --group` acknowledges together.
const GROUP_ENTRIES: usize = 1000;

/// The place of a line of input, for messages.
struct InputPlace<'a> {
    name: &'a str,
    /// From 1.
    number: u64,
    /// First byte.
    offset: u64,
}

impl InputPlace<'_> {
    fn text<'t>(&self, bytes: &'t [u8]) -> anyhow::Result<&'t str> {
        if bytes.len() as u64 > MAX_LINE_BYTES {
            return Err(anyhow!(
                "{self}: longer than {MAX_LINE_BYTES} bytes, the most that a line may have; split the payload over several entries"
            ));
        }
        std::str::from_utf8(bytes).map_err(|error| {
            anyhow!(
                "{self}: byte {} is not UTF-8 text; write the line as UTF-8",
                self.offset + error.valid_up_to() as u64
            )
        })
    }
}

/// Returns the failure of a line of input, for a document.
fn failure_in_line(error: &anyhow::Error, number: u64, offset: u64) -> JsonFailure {
    let class = error.downcast_ref::<SessionError>().map_or("invalid_line", |error| error.class().as_str());
    JsonFailure::new(class, &format!("{error:#}")).in_line(number, offset)
}

impl std::fmt::Display for InputPlace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {} (byte {})", self.name, self.number, self.offset)
    }
}

pub(super) fn append(args: &AppendArgs) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct EntriesAppended {
        ok: bool,
        appended: u64,
        head: Option<StoreHead>,
        error: Option<JsonFailure>,
    }
    let durability = if args.group { Durability::Os } else { Durability::Immediate };
    refuse_foreign(&args.writer.store.dir)?;
    let mut store = args.writer.open(durability)?;
    let (mut waiting, mut appended) = (Vec::new(), 0);
    let acknowledge = |store: &mut SessionStoreV2, waiting: &mut Vec<String>| -> anyhow::Result<()> {
        store.sync()?;
        if !args.writer.store.json {
            print(waiting.concat().as_bytes())?;
        }
        waiting.clear();
        Ok(())
    };
    let mut input = std::io::stdin().lock();
    let mut at = InputPlace { name: "standard input", number: 0, offset: 0 };
    let mut line = Vec::new();
    loop {
        at.number += 1;
        at.offset += line.len() as u64;
        line.clear();
        // One byte more than a line may have, so that a longer line is noticed.
        let mut limited = (&mut input).take(MAX_LINE_BYTES + 1);
        if limited.read_until(b'\n', &mut line).context("cannot read standard input")? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let entry = at.text(&line).and_then(|text| parse_entry(text).with_context(|| at.to_string()));
        let row = match entry.and_then(|entry| store.append_entry(&entry).with_context(|| at.to_string())) {
            Ok(row) => row,
            Err(error) => {
                // Entries before the line are acknowledged first. A store that the error has closed says so and no more.
                if let Err(failed) = acknowledge(&mut store, &mut waiting)
                    && !matches!(failed.downcast_ref(), Some(SessionError::Poisoned { .. }))
                {
                    return Err(failed);
                }
                if !args.writer.store.json {
                    return Err(error);
                }
                print_error(&error)?;
                let error = Some(failure_in_line(&error, at.number, at.offset));
                print_json(&EntriesAppended { ok: false, appended, head: store.head(), error })?;
                return Ok(ExitCode::FAILURE);
            }
        };
        appended += 1;
        waiting.push(format!("{}\t{}\n", row.entry_seq, printable::line(&row.entry_id)));
        if !args.group || waiting.len() >= GROUP_ENTRIES {
            acknowledge(&mut store, &mut waiting)?;
        }
    }
    acknowledge(&mut store, &mut waiting)?;
    if args.writer.store.json {
        print_json(&EntriesAppended { ok: true, appended, head: store.head(), error: None })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads an entry to append and sorts the keys of its payload, because the format's other writers do so.
fn parse_entry(line: &str) -> Result<NewEntry<'_>, SessionError> {
    let entry = parse_import_line(line)?;
    Ok(NewEntry { payload: EntryPayload::sorted(entry.payload.get())?, ..entry })
}

pub(super) fn import(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Imported {
        imported: usize,
        header: bool,
        head: Option<StoreHead>,
    }
    let (bytes, name) = read_input(args)?;
    let (mut entries, mut places, mut session_id, mut header) = (Vec::new(), Vec::new(), None, false);
    // With --json the document names the line.
    let refused = |error: anyhow::Error, number, offset| {
        if !args.writer.store.json {
            return Err(error);
        }
        print_error(&error)?;
        print_json(&Failed { ok: false, error: failure_in_line(&error, number, offset) })?;
        Ok(ExitCode::FAILURE)
    };
    let mut at = InputPlace { name: &name, number: 0, offset: 0 };
    let mut held_bytes = bytes.len() as u64;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        at.number += 1;
        if !line.trim_ascii().is_empty() {
            let is_first = entries.is_empty() && !header;
            let read = at.text(line).context("nothing was imported").and_then(|text| {
                let line = if is_first {
                    parse_first_import_line(text)
                } else {
                    parse_import_line(text).map(ImportLine::Entry)
                };
                line.with_context(|| format!("{at}; nothing was imported"))
            });
            match read {
                Ok(ImportLine::Entry(entry)) => {
                    held_bytes += ENTRY_BYTES + entry.payload.copied_bytes();
                    if held_bytes > args.memory {
                        let error =
                            too_much(args, &format!("{at}: the input and the entries up to here take"));
                        return refused(error, at.number, at.offset);
                    }
                    entries.push(entry);
                    places.push((at.number, at.offset));
                }
                Ok(ImportLine::Header(id)) => (session_id, header) = (id, true),
                Err(error) => return refused(error, at.number, at.offset),
            }
        }
        at.offset += line.len() as u64;
    }
    refuse_foreign(&args.writer.store.dir)?;
    let mut store = args.writer.open(Durability::Immediate)?;
    if session_id.is_some() {
        // A manifest that cannot be read would not be replaced after the import.
        store.read_manifest().context("nothing was imported")?;
    }
    let next_seq = store.entry_count().saturating_add(1);
    if let Err(error) = store.import(&entries) {
        return match refused_entry(&error, &entries, next_seq).and_then(|entry| places.get(entry)) {
            Some(&(number, offset)) => {
                let at = InputPlace { name: &name, number, offset };
                let error = anyhow::Error::new(error).context(format!("{at}; nothing was imported"));
                refused(error, number, offset)
            }
            None => Err(anyhow::Error::new(error).context(format!("{name}: nothing was imported"))),
        };
    }
    if let Some(session_id) = session_id {
        let written = store.write_manifest(&session_id, "jsonl_v3");
        written.context("the entries were imported, but the manifest was not written")?;
        warn("the session header is not an entry; its id is in the manifest");
    } else if header {
        warn("the session header is not an entry; it has no id, so no manifest was written");
    }
    let imported = Imported { imported: entries.len(), header, head: store.head() };
    print_result(args.writer.store.json, &imported, || {
        format!("{} imported\n", counted(entries.len() as u64, "line"))
    })
}

/// What an entry of an import takes beside its line: measured with 150,000 lines of 160 bytes.
const ENTRY_BYTES: u64 = 600;

/// The whole input, and its name for messages.
fn read_input(args: &ImportArgs) -> anyhow::Result<(Vec<u8>, String)> {
    let name = args.file.as_ref().map_or("standard input".to_owned(), |file| file.display().to_string());
    let mut bytes = Vec::new();
    let read = match &args.file {
        None => std::io::stdin().lock().take(args.memory.saturating_add(1)).read_to_end(&mut bytes),
        Some(file) => std::fs::File::open(file)
            .and_then(|file| file.take(args.memory.saturating_add(1)).read_to_end(&mut bytes)),
    };
    read.map_err(|error| anyhow!("cannot read {name}: {error}; name a file of JSON Lines that can be read"))?;
    if bytes.len() as u64 > args.memory {
        return Err(too_much(args, &format!("{name}: it takes")));
    }
    Ok((bytes, name))
}

fn too_much(args: &ImportArgs, what_takes: &str) -> anyhow::Error {
    anyhow!(
        "{what_takes} more than {} bytes of memory; nothing was imported; give a larger --memory, or import the lines in several \
         parts, parents first",
        args.memory
    )
}

/// Which entry of a group an import was refused for, if it was for one.
fn refused_entry(error: &SessionError, entries: &[NewEntry<'_>], next_seq: u64) -> Option<usize> {
    match error {
        SessionError::DuplicateEntryId { entry_id, .. }
        | SessionError::MissingParent { entry_id, .. }
        | SessionError::CyclicParent { entry_id } => entries.iter().rposition(|entry| entry.id == *entry_id),
        SessionError::InvalidArgument { .. } => {
            entries.iter().position(|entry| entry.id.len() > MAX_ID_BYTES)
        }
        SessionError::FrameTooLarge { place, .. } => {
            usize::try_from(place.entry_seq.checked_sub(next_seq)?).ok()
        }
        _ => None,
    }
}
