//! `burn session show`, `path` and `export`: entries as lines, each verified.

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;

use super::{ExportArgs, PathArgs, ShowArgs, reader, unindexed};
use crate::cli::{STDOUT, counted, print, print_json, printable, warn, wrong_usage};
use crate::disk;
use crate::session::{Error, Frame, Reader, View, export_line};

pub(super) fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let mut reader = reader(&args.store)?;
    warn_if_entries_are_missing(&mut reader)?;
    let view = reader.view()?;
    let entries = match (&args.entry, args.from, args.tail) {
        (Some(id), ..) => match view.entry_with_id(id)? {
            Some(frame) => return print_frames([Ok(frame)].into_iter(), args.store.json),
            None => bail!("{} has no entry {id:?}", args.store.dir.display()),
        },
        (None, Some(from), _) => {
            if view.head().is_none_or(|head| head.entry_seq < from) {
                let head = view.head().map_or("the store is empty".to_owned(), |head| {
                    format!("the last one is {}", head.entry_seq)
                });
                warn(&format!("{} has no entry from {from} on; {head}", args.store.dir.display()));
            }
            view.entries_from(from)
        }
        (None, None, Some(count)) => view.tail(count),
        (None, None, None) => view.entries(),
    };
    print_frames(entries, args.store.json)
}

pub(super) fn path(args: &PathArgs) -> anyhow::Result<ExitCode> {
    let mut reader = reader(&args.store)?;
    warn_if_entries_are_missing(&mut reader)?;
    let view = reader.view()?;
    let leaf = args.leaf.clone().or_else(|| view.head().map(|head| head.entry_id));
    let frames = leaf.map_or_else(|| Ok(Vec::new()), |leaf| view.active_path(&leaf))?;
    if let (Some(leaf), true) = (&args.leaf, frames.is_empty()) {
        warn(&format!(
            "{} has no entry {leaf:?}; `burn session show` lists what there is",
            args.store.dir.display()
        ));
    }
    print_frames(frames.into_iter().map(Ok), args.store.json)
}

/// Says what the index lacks: reading goes by it, and would pass over those entries in silence.
fn warn_if_entries_are_missing(reader: &mut Reader) -> Result<(), Error> {
    for left in unindexed(reader)?.iter().filter(|left| left.has_lines) {
        warn(&format!("{left}, and not shown; `burn session reindex` takes it in"));
    }
    Ok(())
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
        for frame in view.entries() {
            writeln!(out, "{}", export_line(&frame?)).context(STDOUT)?;
        }
        out.flush().context(STDOUT)?;
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
