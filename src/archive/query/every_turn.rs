//! Reads every turn of an archive on all cores, for sums, where the order of turns does not matter.
//!
//! Touches: reads the archive. Guarantees: all threads read the same state of the archive. Rows come from the pages of their
//! table where that is possible (`archive::stored`), and else from SQLite.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Row, Statement};

use super::AddedColumns;
use super::all_cores::{
    Begun, LeftRows, PAGES_PER_STEP_MAX, ROWS_FOR_THREADS, begin, begin_reader, begin_reading, on_each,
    row_bounds, scan_pages,
};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::open::{self, ArchiveReader, ArchiveState};
use crate::archive::stored::{PageBuffers, StoredIndex, StoredTable};
use crate::interrupt::Interrupt;
use crate::record::columns::{Table, tool_calls, turns};
use crate::record::time::{HOUR_LEN, is_time_like};

/// The columns to read in addition to the columns that every sum needs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TurnColumns {
    pub keys: bool,
    pub projects: bool,
    pub activity: bool,
    pub subagents: bool,
    pub calls: bool,
}

/// A number in the type that is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum StoredNumber {
    Whole(i64),
    Real(f64),
    /// Text, a blob, or NULL.
    None,
}

/// The columns of a turn that sums need. Columns that were not asked for read as NULL.
#[derive(Debug)]
pub(crate) struct TurnFields<'a> {
    pub source: &'a str,
    pub session: &'a str,
    pub message: &'a str,
    pub ts: &'a str,
    pub model: &'a str,
    pub project: Option<&'a str>,
    pub project_key: Option<&'a str>,
    pub activity: Option<&'a str>,
    pub is_sidechain: bool,
    pub subagent_type: Option<&'a str>,
    /// Input, output, reasoning, cache read, cache writes of 5 minutes and of 1 hour.
    pub usage: [StoredNumber; 6],
    pub enrichment: &'a [u8],
    pub fidelity: Option<&'a str>,
    /// The names of the turn's tool calls, in the order of the calls.
    pub calls: &'a [&'a str],
}

/// Bounds on the text of `ts`, the first inclusive, the second exclusive. A local date is at most a day from the date in
/// UTC, so the bounds of a `ts` that ends in `Z` are narrower.
#[derive(Debug, Clone)]
pub(crate) struct TsBounds {
    pub any_offset: (String, String),
    pub utc: (String, String),
}

impl TsBounds {
    /// The bounds of every turn.
    pub(crate) fn all() -> Self {
        let all = (String::new(), "\u{10ffff}".to_owned());
        Self { any_offset: all.clone(), utc: all }
    }

    /// The condition on turns. SQLite decides it from the index of `ts`, without a look at the row.
    const CONDITION: &str =
        "ts >= ?1 AND ts < ?2 AND ((ts >= ?3 AND ts < ?4) OR substr(ts, -1) NOT IN ('Z', 'z'))";

    /// The same as [`Self::CONDITION`].
    fn have(&self, ts: &[u8]) -> bool {
        let are_around = |(first, end): &(String, String)| (first.as_bytes()..end.as_bytes()).contains(&ts);
        are_around(&self.any_offset) && (are_around(&self.utc) || !matches!(ts, [.., b'Z' | b'z']))
    }

    /// Whether there can be a text within the bounds that begins with `start`.
    fn may_begin_with(&self, start: &[u8]) -> bool {
        let (first, end) = &self.any_offset;
        start < end.as_bytes() && (start >= first.as_bytes() || first.as_bytes().starts_with(start))
    }

    fn values(&self) -> [&dyn rusqlite::ToSql; 4] {
        [&self.any_offset.0, &self.any_offset.1, &self.utc.0, &self.utc.1]
    }
}

/// What a scan reads.
pub(crate) struct TurnScan<'q> {
    pub columns: TurnColumns,
    /// Applied only when few turns are between them.
    pub between: Option<TsBounds>,
    /// Whether a `ts` is not a time. Turns with such a `ts` are read whatever the bounds.
    pub is_undated: &'q (dyn Fn(&str) -> bool + Sync),
    /// Maximum number of threads; 0 means one for each core.
    pub threads: usize,
    pub interrupt: &'q Interrupt,
}

/// Maximum number of rows that a thread reads at a time.
const ROWS_PER_STEP_MAX: i64 = 8192;

/// Passes every turn to `each`, with the state of the thread that reads the turn, until a call of `each` breaks.
/// Returns the archive's state row and the states of all threads.
///
/// # Errors
/// As [`turns()`](super::turns()), and [`ArchiveError::Interrupted`].
pub(crate) fn scan_turns<S: Send>(
    archive: &Path,
    scan: &TurnScan<'_>,
    new: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, &TurnFields<'_>) -> ControlFlow<()> + Sync,
) -> Result<(ArchiveState, Vec<S>), ArchiveError> {
    let (mut first, begun) = begin_reader(archive)?;
    if let (Some(bounds), true) = (&scan.between, begun.state.are_turns_dated)
        && let Some(rows) = dated_rows_between(&first, bounds, ROWS_FOR_THREADS)
        && rows.len() as i64 <= ROWS_FOR_THREADS
        && let Some(states) =
            read_rows(std::slice::from_mut(&mut first), archive, scan, &rows, (&new, &each))?
    {
        return Ok((begun.state, states));
    }
    let (mut readers, begun) = begin_reading((first, begun), archive, scan.threads)?;
    if let Some(bounds) = &scan.between
        && let Some(states) = scan_between(&mut readers, archive, scan, bounds, &begun, (&new, &each))?
    {
        return Ok((begun.state, states));
    }
    let Some(first) = readers.first() else { return Err(ArchiveError::Interrupted) };
    let columns = scan.columns.names(&AddedColumns::of(first).context(archive, "reading its schema")?);
    let wants_calls = scan.columns.calls;
    let calls = wants_calls.then(|| CallNames::read(&mut readers, archive, scan.interrupt)).transpose()?;
    let table = (&turns::TABLE, columns);
    let new = || (new(), Vec::new());
    let states = scan_table(&mut readers, archive, table, scan.interrupt, new, |(state, names), values| {
        names.clear();
        if let Some(calls) = &calls {
            calls.of_turn([values[0], values[1], values[2]], names);
        }
        with_fields(values, names, |turn| each(state, turn))
    })?;
    Ok((begun.state, states.into_iter().map(|(state, _)| state).collect()))
}

/// Passes the values of every row of a table to `each`, with the state of the thread that reads the row, until a call of
/// `each` breaks. `None` stands for a column that reads as NULL. Returns the states of all threads.
fn scan_table<const N: usize, S: Send>(
    readers: &mut [ArchiveReader],
    archive: &Path,
    (table, columns): (&Table, [Option<&str>; N]),
    interrupt: &Interrupt,
    new: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, &[ValueRef<'_>; N]) -> ControlFlow<()> + Sync,
) -> Result<Vec<S>, ArchiveError> {
    let of_pages =
        scan_pages(readers, (table, columns), interrupt, &new, |state, _, values| each(state, values))?;
    if let Some(states) = of_pages {
        return Ok(states);
    }
    let Some(first) = readers.first() else { return Err(ArchiveError::Interrupted) };
    let (first_row, last_row) = first.settle(row_bounds(first, archive, table))?;
    let left = LeftRows::all(first_row, last_row, readers.len(), ROWS_PER_STEP_MAX);
    let columns = columns.map(|column| column.unwrap_or("NULL")).join(", ");
    let sql = format!("SELECT {columns} FROM {} WHERE rowid BETWEEN ?1 AND ?2", table.name);
    on_each(readers, |reader| {
        let mut state = new();
        let mut read = || -> Result<(), ArchiveError> {
            let mut statement = reader.prepare(&sql).context(archive, "preparing a query")?;
            left.read(interrupt, |first, last| {
                let mut rows = statement.query([first, last]).context(archive, "querying it")?;
                while let Some(row) = rows.next().context(archive, "querying it")? {
                    let values = values_of(row).context(archive, "reading a row")?;
                    if each(&mut state, &values).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            })
        };
        let read = reader.settle(read());
        read.map(|()| state)
    })
}

/// What reads the pages of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadBy {
    /// `archive::stored`, if it can.
    Pages,
    Sqlite,
}

/// An archive opened for a short read on this thread, without creating or writing a file.
pub(crate) struct Glimpse {
    reader: ArchiveReader,
    path: std::path::PathBuf,
    state: ArchiveState,
}

impl Glimpse {
    /// # Errors
    /// As [`turns()`](super::turns()).
    pub(crate) fn open(archive: &Path) -> Result<Self, ArchiveError> {
        let reader = open::open_without_trace(archive)?;
        let state = reader.settle(begin(&reader, archive))?;
        Ok(Self { reader, path: archive.to_owned(), state })
    }

    /// Returns the number of ledger bytes that the archive covers.
    pub(crate) fn cursor_bytes(&self) -> u64 {
        u64::try_from(self.state.ledger_offset_bytes).unwrap_or(0)
    }

    /// Passes the turns within bounds to `each` until `each` breaks. Returns `false` when turns were left out, because a page is
    /// unreadable: SQLite can read the page, or says why not.
    pub(crate) fn turns_between(
        &self,
        by: ReadBy,
        columns: TurnColumns,
        bounds: &TsBounds,
        each: &mut impl FnMut(&TurnFields<'_>) -> ControlFlow<()>,
    ) -> Result<bool, ArchiveError> {
        let stored = match by {
            ReadBy::Pages => dated_rows_between(&self.reader, bounds, i64::MAX).zip(StoredTurns::open(
                &self.reader,
                &self.path,
                columns,
            )?),
            ReadBy::Sqlite => None,
        };
        let Some((rows, mut turns)) = stored else {
            let mut statement = Select::new(&self.reader, &self.path, columns, TsBounds::CONDITION)?;
            return statement.read(&self.path, bounds.values(), each).map(|_| true);
        };
        Ok(turns.read(&rows, each)?.is_some())
    }

    /// Passes the turns of a session to `each` until `each` breaks.
    pub(crate) fn turns_of_session(
        &self,
        columns: TurnColumns,
        session: &str,
        each: &mut impl FnMut(&TurnFields<'_>) -> ControlFlow<()>,
    ) -> Result<(), ArchiveError> {
        // The primary key begins with the source, so the query names all sources.
        let sources = super::SOURCES.replace("{table}", "turns");
        let condition = format!("source IN ({sources}) AND session_id = ?1");
        let mut statement = Select::new(&self.reader, &self.path, columns, &condition)?;
        statement.read(&self.path, [&session], each).map(|_| ())
    }

    /// Returns `read`, or [`ArchiveError::Changed`] when the archive changed meanwhile.
    pub(crate) fn settle<T>(&self, read: Result<T, ArchiveError>) -> Result<T, ArchiveError> {
        self.reader.settle(read)
    }
}

/// Reads the turns within bounds, and all undated turns, if they are few. Otherwise reads no turn and returns `None`.
fn scan_between<S: Send>(
    readers: &mut [ArchiveReader],
    archive: &Path,
    scan: &TurnScan<'_>,
    bounds: &TsBounds,
    begun: &Begun,
    (new, each): (&(impl Fn() -> S + Sync), &(impl Fn(&mut S, &TurnFields<'_>) -> ControlFlow<()> + Sync)),
) -> Result<Option<Vec<S>>, ArchiveError> {
    let rows_max = begun.rows() / 4;
    let rows = match readers.first() {
        Some(first) if begun.state.are_turns_dated => dated_rows_between(first, bounds, rows_max),
        _ => rows_between(readers, scan, bounds, rows_max)?,
    };
    if let Some(rows) = rows {
        if rows.len() as i64 > rows_max {
            return Ok(None);
        }
        if let Some(states) = read_rows(readers, archive, scan, &rows, (new, each))? {
            return Ok(Some(states));
        }
    }
    let Some(first) = readers.first() else { return Err(ArchiveError::Interrupted) };
    select_between(first, archive, scan, bounds, rows_max, (new, each))
}

/// Reads the turns with these rowids, which are in order, from the pages of their table. Returns `None` if only SQLite can read
/// them.
fn read_rows<S: Send>(
    readers: &mut [ArchiveReader],
    archive: &Path,
    scan: &TurnScan<'_>,
    rows: &[i64],
    (new, each): (&(impl Fn() -> S + Sync), &(impl Fn(&mut S, &TurnFields<'_>) -> ControlFlow<()> + Sync)),
) -> Result<Option<Vec<S>>, ArchiveError> {
    let left = LeftRows::all(0, rows.len() as i64 - 1, readers.len(), ROWS_PER_STEP_MAX);
    let states = on_each(readers, |reader| {
        let mut state = new();
        let mut stored = StoredTurns::open(reader, archive, scan.columns)?;
        let mut is_whole = true;
        let read = left.read(scan.interrupt, |first, last| {
            let read = match (&mut stored, rows.get(first as usize..=last as usize)) {
                (Some(stored), Some(rows)) => stored.read(rows, |turn| each(&mut state, turn))?,
                _ => None,
            };
            is_whole = read.is_some();
            Ok(read.unwrap_or(ControlFlow::Break(())))
        });
        reader.settle(read).map(|()| is_whole.then_some(state))
    })?;
    Ok(states.into_iter().collect())
}

fn index_of_ts(reader: &ArchiveReader) -> Option<StoredIndex<'_>> {
    StoredIndex::open(reader, "idx_turns_ts", turns::TABLE.name, "ts")
}

/// The rowids of the turns within bounds, in order, from the pages of the index of `ts`; some of them if they are more than
/// `rows_max`. `None` if only SQLite can read the index.
fn dated_rows_between(reader: &ArchiveReader, bounds: &TsBounds, rows_max: i64) -> Option<Vec<i64>> {
    let index = index_of_ts(reader)?;
    let (mut rows, mut buffers) = (Vec::new(), PageBuffers::default());
    for (mut first, last) in index.pages_between(&bounds.any_offset.0, &bounds.any_offset.1).ok()? {
        while first <= last && rows.len() as i64 <= rows_max {
            let end = last.min(first + PAGES_PER_STEP_MAX - 1);
            let each = |ts: ValueRef<'_>, rowid| {
                rows.extend(matches!(ts, ValueRef::Text(ts) if bounds.have(ts)).then_some(rowid));
            };
            index.entries((first, end), &mut buffers, each).ok()?;
            first = end + 1;
        }
    }
    rows.sort_unstable();
    Some(rows)
}

/// The rowids of the turns within bounds and of all undated turns, in order, from the pages of the index of `ts`; some of them if
/// they are more than `rows_max`. `None` if only SQLite can read the index.
fn rows_between(
    readers: &mut [ArchiveReader],
    scan: &TurnScan<'_>,
    bounds: &TsBounds,
    rows_max: i64,
) -> Result<Option<Vec<i64>>, ArchiveError> {
    let pages = readers.first().and_then(index_of_ts).map(|index| index.pages());
    let Some(pages) = pages else { return Ok(None) };
    let left = LeftRows::all(0, pages - 1, readers.len(), PAGES_PER_STEP_MAX);
    let rows = on_each(readers, |reader| {
        let Some(index) = index_of_ts(reader) else { return Ok(None) };
        let (mut rows, mut buffers, mut is_readable) = (Vec::new(), PageBuffers::default(), true);
        // Neighbours in the index have mostly the same hour.
        let (mut dated, mut is_near) = (Vec::new(), true);
        let read = left.read(scan.interrupt, |first, last| {
            let read = index.entries((first, last), &mut buffers, |ts, rowid| {
                let is_time = matches!(ts, ValueRef::Text(ts) if is_time_like(&dated, ts));
                if is_time && !is_near {
                    return;
                }
                let is_between = matches!(ts, ValueRef::Text(ts) if bounds.have(ts));
                let is_undated = !is_time && (scan.is_undated)(&text(ts));
                if is_between || is_undated {
                    rows.push(rowid);
                }
                if let (false, false, ValueRef::Text(ts)) = (is_time, is_undated, ts) {
                    dated.clear();
                    dated.extend_from_slice(ts);
                    is_near = dated.get(..HOUR_LEN).is_none_or(|hour| bounds.may_begin_with(hour));
                }
            });
            is_readable = read.is_ok();
            let is_enough = !is_readable || rows.len() as i64 > rows_max;
            Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        reader.settle(read).map(|()| is_readable.then_some(rows))
    })?;
    let rows: Option<Vec<Vec<i64>>> = rows.into_iter().collect();
    let mut rows = rows.map(|rows| rows.concat());
    rows.iter_mut().for_each(|rows| rows.sort_unstable());
    Ok(rows)
}

/// Does the same as [`scan_between`], by SQLite.
fn select_between<S>(
    reader: &ArchiveReader,
    archive: &Path,
    scan: &TurnScan<'_>,
    bounds: &TsBounds,
    rows_max: i64,
    (new, each): (impl Fn() -> S, impl Fn(&mut S, &TurnFields<'_>) -> ControlFlow<()>),
) -> Result<Option<Vec<S>>, ArchiveError> {
    let (first, end) = &bounds.any_offset;
    let sql = "SELECT count(*) FROM (SELECT 1 FROM turns WHERE ts >= ?1 AND ts < ?2 LIMIT ?3)";
    let count =
        reader.query_row(sql, rusqlite::params![first, end, rows_max + 1], |row| row.get::<_, i64>(0));
    if reader.settle(count.context(archive, "counting turns"))? > rows_max {
        return Ok(None);
    }
    let read_dated = |reader: &ArchiveReader, state: &mut S| -> Result<(), ArchiveError> {
        let mut statement = Select::new(reader, archive, scan.columns, TsBounds::CONDITION)?;
        let _ = statement.read(archive, bounds.values(), |turn| {
            if (scan.is_undated)(turn.ts) { ControlFlow::Continue(()) } else { each(state, turn) }
        })?;
        Ok(())
    };
    let read_undated = |reader: &ArchiveReader, rows: &[i64], state: &mut S| -> Result<(), ArchiveError> {
        let mut statement = Select::new(reader, archive, scan.columns, "rowid = ?1")?;
        for (place, row) in rows.iter().enumerate() {
            if place % 1024 == 0 && scan.interrupt.is_requested() {
                return Err(ArchiveError::Interrupted);
            }
            if statement.read(archive, [row], |turn| each(state, turn))?.is_break() {
                break;
            }
        }
        Ok(())
    };
    let mut state = new();
    let read = read_dated(reader, &mut state)
        .and_then(|()| undated_in_rows(reader, archive, scan))
        .and_then(|rows| read_undated(reader, &rows, &mut state));
    reader.settle(read).map(|()| Some(vec![state]))
}

/// The rowids of all undated turns.
fn undated_in_rows(
    reader: &ArchiveReader,
    archive: &Path,
    scan: &TurnScan<'_>,
) -> Result<Vec<i64>, ArchiveError> {
    let mut undated = Vec::new();
    let mut look = reader.prepare("SELECT rowid, ts FROM turns").context(archive, "preparing a query")?;
    let mut rows = look.query([]).context(archive, "querying it")?;
    while let Some(row) = rows.next().context(archive, "querying it")? {
        let [rowid, ts] = values_of(row).context(archive, "reading a row")?;
        if let (true, ValueRef::Integer(rowid)) = ((scan.is_undated)(&text(ts)), rowid) {
            undated.push(rowid);
            if undated.len() % 1024 == 0 && scan.interrupt.is_requested() {
                return Err(ArchiveError::Interrupted);
            }
        }
    }
    Ok(undated)
}

/// The names of a turn's tool calls.
const CALLS: &str = "SELECT tool_name FROM tool_calls
    WHERE source = ?1 AND session_id = ?2 AND message_id = ?3 ORDER BY call_index";

/// The names of all tool calls, by turn: one scan of their table is faster than a query for each turn when all turns are read.
///
/// Two hashes stand for a turn, because no two turns of an archive have both in common. A call takes 32 bytes.
struct CallNames {
    hashes: TurnHashes,
    names: Vec<String>,
    /// By turn, then by the place of the call in the turn.
    calls: Vec<CallAt>,
    turns: HashMap<TurnHash, Range<u32>, foldhash::fast::RandomState>,
}

type TurnHash = (u64, u64);
/// Two different hash functions, whose keys nobody can guess.
type TurnHashes = (RandomState, foldhash::quality::RandomState);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct CallAt {
    turn: TurnHash,
    index: i64,
    name: u32,
}

/// The calls that one thread has read.
#[derive(Default)]
struct CallsRead {
    calls: Vec<CallAt>,
    names: Vec<String>,
    numbers: HashMap<String, u32, foldhash::fast::RandomState>,
}

impl CallsRead {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }
}

impl CallNames {
    fn read(
        readers: &mut [ArchiveReader],
        archive: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self, ArchiveError> {
        const COLUMNS: [usize; 5] = [
            tool_calls::SOURCE,
            tool_calls::SESSION_ID,
            tool_calls::MESSAGE_ID,
            tool_calls::CALL_INDEX,
            tool_calls::TOOL_NAME,
        ];
        let hashes = TurnHashes::default();
        let table = (&tool_calls::TABLE, COLUMNS.map(|place| Some(tool_calls::TABLE.columns[place])));
        let parts = scan_table(readers, archive, table, interrupt, CallsRead::default, |part, values| {
            let [source, session, message, index, name] = *values;
            let index = if let ValueRef::Integer(index) = index { index } else { 0 };
            let name = part.number(&text(name));
            part.calls.push(CallAt { turn: turn_hash([source, session, message], &hashes), index, name });
            ControlFlow::Continue(())
        })?;
        let mut all = CallsRead::default();
        for part in parts {
            let numbers: Vec<u32> = part.names.iter().map(|name| all.number(name)).collect();
            let here = |call: CallAt| CallAt { name: numbers[call.name as usize], ..call };
            all.calls.extend(part.calls.into_iter().map(here));
        }
        let CallsRead { mut calls, names, .. } = all;
        calls.sort_unstable();
        let mut turns = HashMap::default();
        let mut at = 0;
        for of_turn in calls.chunk_by(|a, b| a.turn == b.turn) {
            let end = at + of_turn.len() as u32;
            turns.insert(of_turn[0].turn, at..end);
            at = end;
        }
        Ok(Self { hashes, names, calls, turns })
    }

    /// Adds the names of a turn's calls to `out`, in the order of the calls.
    fn of_turn<'n>(&'n self, key: [ValueRef<'_>; 3], out: &mut Vec<&'n str>) {
        let Some(range) = self.turns.get(&turn_hash(key, &self.hashes)) else { return };
        let calls = &self.calls[range.start as usize..range.end as usize];
        out.extend(calls.iter().map(|call| &*self.names[call.name as usize]));
    }
}

/// Hashes source, session and message, which identify a turn.
fn turn_hash(key: [ValueRef<'_>; 3], hashes: &TurnHashes) -> TurnHash {
    let key = key.map(|value| match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => b"",
    });
    (hashes.0.hash_one(key), hashes.1.hash_one(key))
}

/// The number of columns of a turn that are read.
const FIELDS: usize = 18;

impl TurnColumns {
    /// The columns in the order in which [`with_fields`] takes their values; `None` for a column that is not read.
    fn names(self, added: &AddedColumns) -> [Option<&'static str>; FIELDS] {
        let columns = [
            (true, turns::SOURCE),
            (self.keys || self.calls, turns::SESSION_ID),
            (self.keys || self.calls, turns::MESSAGE_ID),
            (true, turns::TS),
            (true, turns::MODEL),
            (self.projects, turns::PROJECT),
            (self.projects, turns::PROJECT_KEY),
            (self.activity, turns::ACTIVITY),
            (self.subagents, turns::IS_SIDECHAIN),
            (self.subagents, turns::SUBAGENT_TYPE),
            (true, turns::INPUT_TOKENS),
            (true, turns::OUTPUT_TOKENS),
            (true, turns::REASONING_TOKENS),
            (true, turns::CACHE_READ_TOKENS),
            (true, turns::CACHE_CREATE_5M_TOKENS),
            (true, turns::CACHE_CREATE_1H_TOKENS),
            (true, turns::ENRICHMENT_JSON),
            (true, turns::ATTRIBUTION_FIDELITY),
        ];
        columns.map(|(is_wanted, place)| {
            is_wanted.then(|| added.known(&turns::TABLE, turns::TABLE.columns[place])).flatten()
        })
    }
}

/// A statement that selects turns, and a query for the names of the tool calls of each.
struct Select<'c> {
    turns: Statement<'c>,
    calls: Option<Statement<'c>>,
}

impl<'c> Select<'c> {
    fn new(
        reader: &'c ArchiveReader,
        archive: &Path,
        wanted: TurnColumns,
        condition: &str,
    ) -> Result<Self, ArchiveError> {
        let added = AddedColumns::of(reader).context(archive, "reading its schema")?;
        let columns = wanted.names(&added).map(|column| column.unwrap_or("NULL"));
        let sql = format!("SELECT {} FROM turns WHERE {condition}", columns.join(", "));
        let prepare = |sql: &str| reader.prepare(sql).context(archive, "preparing a query");
        let calls = wanted.calls.then(|| prepare(CALLS)).transpose()?;
        Ok(Self { turns: prepare(&sql)?, calls })
    }

    fn read<const N: usize>(
        &mut self,
        archive: &Path,
        values: [&dyn rusqlite::ToSql; N],
        mut each: impl FnMut(&TurnFields<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ArchiveError> {
        let mut rows = self.turns.query(values.as_slice()).context(archive, "querying it")?;
        while let Some(row) = rows.next().context(archive, "querying it")? {
            let names = self
                .calls
                .as_mut()
                .map_or(Ok(Vec::new()), |calls| calls_of(super::values_at(row, [0, 1, 2])?, calls));
            let names = names.context(archive, "reading tool calls")?;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let values = values_of(row).context(archive, "reading a row")?;
            let flow = with_fields(&values, &names, &mut each);
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Reads turns from the pages of their table, and the names of the tool calls of each from SQLite.
struct StoredTurns<'c> {
    archive: &'c Path,
    table: StoredTable<'c, FIELDS>,
    calls: Option<Statement<'c>>,
    buffers: PageBuffers,
}

impl<'c> StoredTurns<'c> {
    /// Returns `None` if only SQLite can read the table.
    fn open(
        reader: &'c ArchiveReader,
        archive: &'c Path,
        wanted: TurnColumns,
    ) -> Result<Option<Self>, ArchiveError> {
        let added = AddedColumns::of(reader).context(archive, "reading its schema")?;
        let Some(table) = StoredTable::open(reader, turns::TABLE.name, wanted.names(&added)) else {
            return Ok(None);
        };
        let calls = wanted.calls.then(|| reader.prepare(CALLS).context(archive, "preparing a query"));
        Ok(Some(Self { archive, table, calls: calls.transpose()?, buffers: PageBuffers::default() }))
    }

    /// Passes the turns with these rowids, which are in order, to `each` until `each` breaks. Returns `None` when a page is
    /// unreadable.
    fn read(
        &mut self,
        rows: &[i64],
        mut each: impl FnMut(&TurnFields<'_>) -> ControlFlow<()>,
    ) -> Result<Option<ControlFlow<()>>, ArchiveError> {
        let Self { archive, table, calls, buffers } = self;
        let mut failed = Ok(());
        let flow = table.rows_at(rows, buffers, |values| {
            let names = calls.as_mut().map_or(Ok(Vec::new()), |calls| {
                let [source, session, message, ..] = values.map(ToSqlOutput::Borrowed);
                calls_of([source, session, message], calls)
            });
            match names.context(archive, "reading tool calls") {
                Ok(names) => {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    with_fields(values, &names, &mut each)
                }
                Err(error) => {
                    failed = Err(error);
                    ControlFlow::Break(())
                }
            }
        });
        failed.map(|()| flow.ok())
    }
}

fn calls_of(turn: [ToSqlOutput<'_>; 3], calls: &mut Statement<'_>) -> Result<Vec<String>, rusqlite::Error> {
    let mut names = Vec::new();
    let mut rows = calls.query(turn)?;
    while let Some(call) = rows.next()? {
        names.push(text(call.get_ref(0)?).into_owned());
    }
    Ok(names)
}

/// Returns the first values of a row.
fn values_of<'r, const N: usize>(row: &'r Row<'_>) -> Result<[ValueRef<'r>; N], rusqlite::Error> {
    let mut values = [ValueRef::Null; N];
    for (place, value) in values.iter_mut().enumerate() {
        *value = row.get_ref(place)?;
    }
    Ok(values)
}

/// Returns a text. NULL and numbers read as empty; bytes that are not UTF-8 are replaced.
#[inline]
fn text(value: ValueRef<'_>) -> Cow<'_, str> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => match simdutf8::basic::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => String::from_utf8_lossy(bytes),
        },
        _ => "".into(),
    }
}

/// Passes the fields of a turn to `each`. The values are those of [`TurnColumns::names`].
fn with_fields(
    values: &[ValueRef<'_>; FIELDS],
    calls: &[&str],
    each: impl FnOnce(&TurnFields<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let [source, session, message, ts, model, project, project_key, activity, sidechain, subagent_type, ..] =
        *values;
    let [source, session, message, ts, model] = [source, session, message, ts, model].map(text);
    let [project, project_key, activity, subagent_type, fidelity] =
        [project, project_key, activity, subagent_type, values[17]]
            .map(|value| (value != ValueRef::Null).then(|| text(value)));
    let mut usage = [StoredNumber::None; 6];
    for (number, value) in usage.iter_mut().zip(&values[10..16]) {
        *number = match value {
            ValueRef::Integer(number) => StoredNumber::Whole(*number),
            ValueRef::Real(number) => StoredNumber::Real(*number),
            _ => StoredNumber::None,
        };
    }
    let enrichment: &[u8] = match values[16] {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => b"{}",
    };
    each(&TurnFields {
        source: &source,
        session: &session,
        message: &message,
        ts: &ts,
        model: &model,
        project: project.as_deref(),
        project_key: project_key.as_deref(),
        activity: activity.as_deref(),
        is_sidechain: sidechain == ValueRef::Integer(1),
        subagent_type: subagent_type.as_deref(),
        usage,
        enrichment,
        fidelity: fidelity.as_deref(),
        calls,
    })
}
