//! `burn session show`, `path` and `export`: entries as lines, each verified.

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use serde::Serialize;

use super::arguments::{ExportArgs, PathArgs, ShowArgs, StoreDir};
use super::store::{Failed, reader};
use crate::cli::{
    JsonArray, JsonFailure, STDOUT, counted, print_json, print_result, printable, warn, wrong_usage,
};
use crate::disk;
use crate::session::{SegmentFrame, SessionError, SessionProblem, SessionReader, SessionView, export_line};

pub(super) fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let mut reader = reader(&args.store)?;
    warn_if_entries_are_missing(&mut reader)?;
    let view = reader.view()?;
    let json = args.store.json;
    match (&args.entry, args.from, args.tail) {
        (Some(id), ..) => match view.lookup_entry_by_id(id)? {
            Some(frame) => print_frames(|| std::iter::once(Ok(frame.clone())), json),
            None => no_entry(&args.store, id),
        },
        (None, Some(from), _) => {
            if view.head().is_none_or(|head| head.entry_seq < from) {
                let head = view.head().map_or("the store is empty".to_owned(), |head| {
                    format!("the last one is {}", head.entry_seq)
                });
                warn(&format!("{} has no entry from {from} on; {head}", args.store.dir.display()));
            }
            print_frames(|| view.read_entries_from(from), json)
        }
        (None, None, Some(count)) => print_frames(|| view.read_tail_entries(count), json),
        (None, None, None) => print_frames(|| view.read_all_entries(), json),
    }
}

pub(super) fn path(args: &PathArgs) -> anyhow::Result<ExitCode> {
    let mut reader = reader(&args.store)?;
    warn_if_entries_are_missing(&mut reader)?;
    let view = reader.view()?;
    let Some(leaf) = args.leaf.clone().or_else(|| view.head().map(|head| head.entry_id)) else {
        return print_frames(|| view.read_all_entries(), args.store.json);
    };
    let path = view.read_active_path(&leaf)?;
    if path.len() == 0 {
        return no_entry(&args.store, &leaf);
    }
    // Every entry was verified when its parent was looked up.
    if args.store.json { print_document(path) } else { print_lines(path) }
}

/// Fails because the store does not have the entry.
fn no_entry(store: &StoreDir, id: &str) -> anyhow::Result<ExitCode> {
    let message =
        format!("{} has no entry {id:?}; `burn session show` lists the entries", store.dir.display());
    if store.json {
        print_json(&Failed { ok: false, error: JsonFailure::new("entry_not_found", &message) })?;
    }
    bail!(message);
}

/// Prints what the index lacks, because reading by the index skips these entries.
fn warn_if_entries_are_missing(reader: &mut SessionReader) -> Result<(), SessionError> {
    let left = reader.unindexed()?;
    let lines = left.iter().filter(|left| matches!(left.problem, SessionProblem::Unindexed { .. }));
    lines.for_each(|left| warn(&format!("not shown: {left}")));
    Ok(())
}

/// Prints entries as lines or as one document. A document begins only when all entries are sound. Because memory holds one entry at
/// a time, they are read twice.
fn print_frames<F: Iterator<Item = Result<SegmentFrame, SessionError>>>(
    frames: impl Fn() -> F,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if json {
        frames().try_for_each(|frame| frame.map(drop))?;
        return print_document(frames());
    }
    print_lines(frames())
}

/// Prints a document of entries that were verified before. If an entry has changed since, the document ends in the middle with an
/// error.
fn print_document(
    frames: impl Iterator<Item = Result<SegmentFrame, SessionError>>,
) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut entries = JsonArray::new(4);
    let mut text = "{\n  \"entries\": ".to_owned();
    for frame in frames {
        // As text, because a document has begun, and no second one with the error may follow.
        let mut frame = frame.map_err(|error| anyhow!("{error}"))?;
        frame.schema = Cow::Borrowed("");
        entries.push(&frame, &mut text)?;
        out.write_all(text.as_bytes()).context(STDOUT)?;
        text.clear();
    }
    writeln!(out, "{text}{}\n}}", entries.end()).and_then(|()| out.flush()).context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}

fn print_lines(frames: impl Iterator<Item = Result<SegmentFrame, SessionError>>) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for frame in frames {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                out.flush().context(STDOUT)?;
                return Err(error.into());
            }
        };
        let parent = frame.parent_entry_id.as_deref().unwrap_or("-");
        let number = frame.entry_seq.to_string();
        let columns =
            [&*number, &*frame.entry_id, parent, &*frame.entry_type, &*frame.timestamp, frame.payload.get()];
        let columns = columns.map(printable::line).join("\t");
        writeln!(out, "{columns}").context(STDOUT)?;
    }
    out.flush().context(STDOUT)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn export(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct Exported {
        exported: usize,
    }
    if args.file.is_none() && args.store.json {
        wrong_usage(
            &["session", "export"],
            "--json tells how many entries were exported: name a FILE for them",
        );
    }
    let mut reader = reader(&args.store)?;
    warn_if_entries_are_missing(&mut reader)?;
    let view = reader.view()?;
    let Some(path) = &args.file else {
        let mut out = BufWriter::new(std::io::stdout().lock());
        for frame in view.read_all_entries() {
            writeln!(out, "{}", export_line(&frame?)).context(STDOUT)?;
        }
        out.flush().context(STDOUT)?;
        return Ok(ExitCode::SUCCESS);
    };
    let file = disk::File::create_new(path)?;
    let written = write_export(&file, view);
    if written.is_err() {
        // Half an export must not be mistaken for a whole one.
        let _ = disk::remove_file(path);
    }
    let exported = written?;
    print_result(args.store.json, &Exported { exported }, || {
        format!("{} exported\n", counted(exported as u64, "line"))
    })
}

fn write_export(file: &disk::File, view: &SessionView) -> Result<usize, SessionError> {
    const BLOCK_BYTES: usize = 1 << 20;
    let (mut block, mut exported) = (Vec::with_capacity(BLOCK_BYTES), 0);
    for frame in view.read_all_entries() {
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
