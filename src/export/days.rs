//! Splits the rows of a table, sorted by the text of `ts`, into the files of their days.
//!
//! Touches the spools of the files. Guarantees: a day has one file, and memory holds the row groups of at most four files,
//! whatever the order of times and offsets in the archive.
//!
//! ```text
//! 2026-04-20T23:00:00.000Z        day 2026-04-20: its file opens
//! 2026-04-21T00:30:00.000+02:00   day 2026-04-20: the text is sorted after midnight, the time is before it
//! 2026-04-21T01:00:00.000Z        day 2026-04-21
//! 2026-04-22T00:00:00.000Z        day 2026-04-22: no later text can be of 2026-04-20, so its file ends
//! ```
//!
//! An offset is less than a day, so the date that a text begins with is at most a day from its day in UTC. Rows without a time
//! may come anywhere; their file ends last.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::ValueRef;

use super::columns::{ExportTable, HashKey};
use super::day::{ExportDay, RowTime};
use super::error::ExportError;
use super::file::{ColumnBuffers, DayFile, FileFormat, MadeFile};
use super::row_group::{RowGroup, RowReader};

/// Takes a finished file.
type OnFinished<'f, 'h> = &'f mut dyn FnMut(ExportDay, MadeFile<'h>) -> Result<(), ExportError>;

/// The files of a table that are being written.
pub(super) struct DaySplitter<'f, 'h> {
    format: &'f FileFormat,
    reader: RowReader<'f>,
    ts_place: usize,
    directory: &'h Path,
    open: BTreeMap<ExportDay, DayFile<'h>>,
    /// Empty row groups of files that ended, because their buffers cost more to make than to keep.
    spare: Vec<RowGroup>,
    buffers: ColumnBuffers,
    /// The date that the last text with a time begins with.
    written_day: i64,
    finished: OnFinished<'f, 'h>,
}

impl<'f, 'h> DaySplitter<'f, 'h> {
    /// Begins with no file; files are spooled in `directory`.
    pub(super) fn new(
        table: ExportTable,
        format: &'f FileFormat,
        hash_key: Option<&'f HashKey>,
        directory: &'h Path,
        finished: OnFinished<'f, 'h>,
    ) -> Self {
        let place_of = |place: usize| format.columns.iter().position(|column| column.place == place);
        let reader = RowReader {
            columns: &format.columns,
            ts: place_of(table.ts_place()).unwrap_or_default(),
            key: table.key().iter().filter_map(|place| place_of(*place)).collect(),
            hash_key,
        };
        Self {
            format,
            reader,
            ts_place: table.ts_place(),
            directory,
            open: BTreeMap::new(),
            spare: Vec::new(),
            buffers: ColumnBuffers::default(),
            written_day: i64::MIN,
            finished,
        }
    }

    /// Adds a row to the file of its day, unless the day is before `since`.
    pub(super) fn push(&mut self, row: &[ValueRef<'_>], since: Option<ExportDay>) -> Result<(), ExportError> {
        let buffer;
        let ts = match row[self.ts_place] {
            // A BLOB comes after all texts, so its day would begin again.
            ValueRef::Text(text) => {
                buffer = simdutf8::basic::from_utf8(text)
                    .map_or_else(|_| String::from_utf8_lossy(text), Cow::Borrowed);
                Some(&*buffer)
            }
            _ => None,
        };
        let time = RowTime::of(ts);
        if let Some(written_day) = time.written_day.filter(|day| *day > self.written_day) {
            self.written_day = written_day;
            self.finish_before(ExportDay::Utc(written_day - 1))?;
        }
        if since.is_some_and(|since| time.day < since) {
            return Ok(());
        }
        let file = match self.open.entry(time.day) {
            std::collections::btree_map::Entry::Occupied(file) => file.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let group = self.spare.pop().unwrap_or_else(|| RowGroup::new(&self.format.columns));
                place.insert(DayFile::new(self.format, group, self.directory)?)
            }
        };
        let is_tie = file.group.is_tie(&self.reader, ts);
        let is_full = file.group.is_full(is_tie);
        if !is_tie || is_full {
            file.group.end_ties(&self.reader);
        }
        if is_full {
            file.write_group(self.format, &mut self.buffers)?;
        }
        file.group.push(&self.reader, row, time.ts_us);
        Ok(())
    }

    /// Ends all files.
    pub(super) fn finish(mut self) -> Result<(), ExportError> {
        while let Some((day, file)) = self.open.pop_first() {
            self.finish_file(day, file)?;
        }
        Ok(())
    }

    fn finish_before(&mut self, first: ExportDay) -> Result<(), ExportError> {
        while self.open.first_key_value().is_some_and(|(day, _)| *day < first) {
            if let Some((day, file)) = self.open.pop_first() {
                self.finish_file(day, file)?;
            }
        }
        Ok(())
    }

    fn finish_file(&mut self, day: ExportDay, mut file: DayFile<'h>) -> Result<(), ExportError> {
        file.group.end_ties(&self.reader);
        let (made, group) = file.finish(self.format, &mut self.buffers)?;
        self.spare.push(group);
        (self.finished)(day, made)
    }
}
