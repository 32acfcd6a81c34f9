//! Reads every turn of an archive on all cores, for sums, where the order of turns does not matter.
//!
//! Touches: reads the archive. Guarantees: all threads read the same state of the archive. Each thread has its own
//! transaction. Another connection checks whether a commit happened while the transactions began; if so, all of them
//! begin again.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use rusqlite::types::ValueRef;
use rusqlite::{Row, Statement};

use super::AddedColumns;
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::open::{self, ArchiveReader, ArchiveState};
use crate::interrupt::Interrupt;
use crate::record::columns::{Table, tool_calls, turns};

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
    pub calls: &'a [String],
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
/// With fewer rows, one thread is faster than several.
const ROWS_FOR_THREADS: i64 = 20_000;
/// Number of times that readers try to begin together, because another program may commit meanwhile.
const ATTEMPTS_MAX: usize = 20;

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
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if scan.threads == 0 { cores() } else { scan.threads };
    let main = super::open_for_query(archive)?;
    let begun = main.settle(Begun::new(&main, archive))?;
    if let Some(bounds) = &scan.between
        && begun.rows_between(&main, archive, bounds)? < begun.rows() / 4
    {
        let mut state = new();
        let read = read_between(&main, archive, scan, bounds, &mut state, &each);
        main.settle(read)?;
        return Ok((begun.state, vec![state]));
    }
    let (mut readers, begun) = if threads == 1 || (scan.threads == 0 && begun.rows() < ROWS_FOR_THREADS) {
        (vec![main], begun)
    } else {
        drop(main);
        begin_together(archive, threads)?
    };
    let count = readers.len();
    let calls =
        scan.columns.calls.then(|| CallNames::read(&mut readers, archive, scan.interrupt)).transpose()?;
    let left = LeftRows::all(begun.first_row, begun.last_row, count);
    let states = on_each(&mut readers, |reader| {
        let mut state = new();
        let select = Select::new(reader, archive, scan.columns, "rowid BETWEEN ?1 AND ?2", calls.as_ref());
        let read = select.and_then(|mut select| {
            left.read(scan.interrupt, |first, last| {
                select.read(archive, [&first, &last], |turn| each(&mut state, turn))
            })
        });
        reader.settle(read).map(|()| state)
    })?;
    Ok((begun.state, states))
}

/// Runs `work` with each reader, on as many threads. When a thread does not start, the other threads do its work.
fn on_each<T: Send>(
    readers: &mut [ArchiveReader],
    work: impl Fn(&ArchiveReader) -> Result<T, ArchiveError> + Sync,
) -> Result<Vec<T>, ArchiveError> {
    std::thread::scope(|scope| {
        let work = &work;
        let mut readers = readers.iter_mut();
        let own = readers.next();
        let mut handles = Vec::new();
        for reader in readers {
            let builder = std::thread::Builder::new().name("burn-turns".to_owned());
            handles.extend(builder.spawn_scoped(scope, move || work(reader)));
        }
        let mut results: Vec<_> = own.into_iter().map(|reader| work(reader)).collect();
        for handle in handles {
            match handle.join() {
                Ok(result) => results.push(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results.into_iter().collect()
    })
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

    /// Passes the turns within bounds to `each` until `each` breaks.
    pub(crate) fn turns_between(
        &self,
        columns: TurnColumns,
        bounds: &TsBounds,
        each: &mut impl FnMut(&TurnFields<'_>) -> ControlFlow<()>,
    ) -> Result<(), ArchiveError> {
        let mut statement = Select::new(&self.reader, &self.path, columns, TsBounds::CONDITION, None)?;
        statement.read(&self.path, bounds.values(), each).map(|_| ())
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
        let mut statement = Select::new(&self.reader, &self.path, columns, &condition, None)?;
        statement.read(&self.path, [&session], each).map(|_| ())
    }

    /// Returns `read`, or [`ArchiveError::Changed`] when the archive changed meanwhile.
    pub(crate) fn settle<T>(&self, read: Result<T, ArchiveError>) -> Result<T, ArchiveError> {
        self.reader.settle(read)
    }
}

/// The state that a transaction reads.
struct Begun {
    state: ArchiveState,
    first_row: i64,
    last_row: i64,
}

/// The rows of a table that several threads have still to read.
struct LeftRows {
    next: AtomicI64,
    last: i64,
    step: i64,
    stop: AtomicBool,
}

impl LeftRows {
    fn all(first: i64, last: i64, threads: usize) -> Self {
        let rows = last.saturating_sub(first).saturating_add(1);
        // Small enough that all threads end together.
        let step = (rows / (8 * threads as i64)).clamp(1, ROWS_PER_STEP_MAX);
        Self { next: AtomicI64::new(first), last, step, stop: AtomicBool::new(false) }
    }

    /// Passes ranges of rows, both ends inclusive, to `read` until no range is left, `read` breaks or another thread stops.
    fn read(
        &self,
        interrupt: &Interrupt,
        mut read: impl FnMut(i64, i64) -> Result<ControlFlow<()>, ArchiveError>,
    ) -> Result<(), ArchiveError> {
        while !self.stop.load(Ordering::Relaxed) {
            if interrupt.is_requested() {
                return Err(ArchiveError::Interrupted);
            }
            let first = self.next.fetch_add(self.step, Ordering::Relaxed);
            if first > self.last {
                break;
            }
            let flow = read(first, first.saturating_add(self.step - 1).min(self.last));
            if !matches!(flow, Ok(ControlFlow::Continue(()))) {
                self.stop.store(true, Ordering::Relaxed);
            }
            if flow?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Begun {
    fn new(reader: &ArchiveReader, archive: &Path) -> Result<Self, ArchiveError> {
        let state = begin(reader, archive)?;
        let (first_row, last_row) = row_bounds(reader, archive, &turns::TABLE)?;
        Ok(Self { state, first_row, last_row })
    }

    /// Upper bound of the number of turns, because rowids may have gaps.
    fn rows(&self) -> i64 {
        self.last_row.saturating_sub(self.first_row).saturating_add(1)
    }

    fn rows_between(
        &self,
        reader: &ArchiveReader,
        archive: &Path,
        bounds: &TsBounds,
    ) -> Result<i64, ArchiveError> {
        let (first, end) = &bounds.any_offset;
        let sql = "SELECT count(*) FROM (SELECT 1 FROM turns WHERE ts >= ?1 AND ts < ?2 LIMIT ?3)";
        let count =
            reader.query_row(sql, rusqlite::params![first, end, self.rows() / 4 + 1], |row| row.get(0));
        reader.settle(count.context(archive, "counting turns"))
    }
}

/// Begins a transaction and returns the state row.
fn begin(reader: &ArchiveReader, archive: &Path) -> Result<ArchiveState, ArchiveError> {
    reader.execute_batch("BEGIN").context(archive, "beginning to read")?;
    super::check_version(reader, archive)
}

/// Returns the first and the last rowid of a table; of an empty table 1 and 0.
fn row_bounds(reader: &ArchiveReader, archive: &Path, table: &Table) -> Result<(i64, i64), ArchiveError> {
    let bound = |end: &str| -> Result<Option<i64>, ArchiveError> {
        let sql = format!("SELECT {end}(rowid) FROM {}", table.name);
        reader.query_row(&sql, [], |row| row.get(0)).context(archive, "looking for its rows")
    };
    Ok((bound("min")?.unwrap_or(1), bound("max")?.unwrap_or(0)))
}

/// Opens readers whose transactions read the same state.
fn begin_together(archive: &Path, count: usize) -> Result<(Vec<ArchiveReader>, Begun), ArchiveError> {
    for _ in 0..ATTEMPTS_MAX {
        let watcher = open::open_read_only(archive)?;
        let version = || -> Result<i64, ArchiveError> {
            watcher
                .query_row("PRAGMA data_version", [], |row| row.get(0))
                .context(archive, "looking whether it changed")
        };
        let before = version()?;
        let mut readers = Vec::new();
        let mut states: Vec<Begun> = Vec::new();
        for _ in 0..count {
            let reader = super::open_for_query(archive)?;
            states.push(reader.settle(Begun::new(&reader, archive))?);
            readers.push(reader);
        }
        let is_one = states.windows(2).all(|pair| pair[0].state == pair[1].state);
        if let (true, true, Some(begun)) = (version()? == before, is_one, states.pop()) {
            return Ok((readers, begun));
        }
    }
    // Other programs commit all the time, so a single reader reads everything.
    let reader = super::open_for_query(archive)?;
    let begun = reader.settle(Begun::new(&reader, archive))?;
    Ok((vec![reader], begun))
}

/// Reads the turns within bounds by the index of `ts`, and all undated turns.
fn read_between<S>(
    reader: &ArchiveReader,
    archive: &Path,
    scan: &TurnScan<'_>,
    bounds: &TsBounds,
    state: &mut S,
    each: &impl Fn(&mut S, &TurnFields<'_>) -> ControlFlow<()>,
) -> Result<(), ArchiveError> {
    let mut statement = Select::new(reader, archive, scan.columns, TsBounds::CONDITION, None)?;
    let flow = statement.read(archive, bounds.values(), |turn| {
        if (scan.is_undated)(turn.ts) { ControlFlow::Continue(()) } else { each(state, turn) }
    })?;
    if flow.is_break() {
        return Ok(());
    }
    let mut undated = Vec::new();
    let mut look = reader.prepare("SELECT rowid, ts FROM turns").context(archive, "preparing a query")?;
    let mut rows = look.query([]).context(archive, "querying it")?;
    while let Some(row) = rows.next().context(archive, "querying it")? {
        if (scan.is_undated)(&text(row, 1).context(archive, "reading a row")?) {
            undated.push(row.get::<_, i64>(0).context(archive, "reading a row")?);
            if undated.len() % 1024 == 0 && scan.interrupt.is_requested() {
                return Err(ArchiveError::Interrupted);
            }
        }
    }
    let mut statement = Select::new(reader, archive, scan.columns, "rowid = ?1", None)?;
    for row in undated {
        if statement.read(archive, [&row], |turn| each(state, turn))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The names of a turn's tool calls.
const CALLS: &str = "SELECT tool_name FROM tool_calls
    WHERE source = ?1 AND session_id = ?2 AND message_id = ?3 ORDER BY call_index";

/// The names of all tool calls, by turn: one scan of their table is faster than a query for each turn when all turns are read.
///
/// Two hashes with different keys stand for a turn, because no two turns of an archive have both in common. A call takes 32 bytes.
struct CallNames {
    hashes: (RandomState, RandomState),
    names: Vec<String>,
    /// By turn, then by the place of the call in the turn.
    calls: Vec<CallAt>,
    turns: HashMap<TurnHash, Range<u32>>,
}

type TurnHash = (u64, u64);

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
    numbers: HashMap<String, u32>,
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
        let hashes = (RandomState::new(), RandomState::new());
        let Some(first) = readers.first() else { return Err(ArchiveError::Interrupted) };
        let (first_row, last_row) = first.settle(row_bounds(first, archive, &tool_calls::TABLE))?;
        let left = LeftRows::all(first_row, last_row, readers.len());
        let sql = "SELECT source, session_id, message_id, call_index, tool_name FROM tool_calls WHERE rowid BETWEEN ?1 AND ?2";
        let parts = on_each(readers, |reader| {
            let mut part = CallsRead::default();
            let mut read = || -> Result<(), ArchiveError> {
                let mut statement = reader.prepare(sql).context(archive, "preparing a query")?;
                left.read(interrupt, |first, last| {
                    let mut rows = statement.query([first, last]).context(archive, "querying it")?;
                    while let Some(row) = rows.next().context(archive, "querying it")? {
                        let call =
                            read_call(row, &hashes, &mut part).context(archive, "reading tool calls")?;
                        part.calls.push(call);
                    }
                    Ok(ControlFlow::Continue(()))
                })
            };
            let read = reader.settle(read());
            read.map(|()| part)
        })?;
        let mut all = CallsRead::default();
        for part in parts {
            let numbers: Vec<u32> = part.names.iter().map(|name| all.number(name)).collect();
            let here = |call: CallAt| CallAt { name: numbers[call.name as usize], ..call };
            all.calls.extend(part.calls.into_iter().map(here));
        }
        let CallsRead { mut calls, names, .. } = all;
        calls.sort_unstable();
        let mut turns = HashMap::new();
        let mut at = 0;
        for of_turn in calls.chunk_by(|a, b| a.turn == b.turn) {
            let end = at + of_turn.len() as u32;
            turns.insert(of_turn[0].turn, at..end);
            at = end;
        }
        Ok(Self { hashes, names, calls, turns })
    }

    /// Adds the names of a turn's calls to `out`, in the order of the calls.
    fn of_turn(&self, row: &Row<'_>, out: &mut Vec<String>) -> Result<(), rusqlite::Error> {
        let Some(range) = self.turns.get(&turn_hash(row, &self.hashes)?) else { return Ok(()) };
        let calls = &self.calls[range.start as usize..range.end as usize];
        out.extend(calls.iter().map(|call| self.names[call.name as usize].clone()));
        Ok(())
    }
}

/// Hashes the columns of a row that identify a turn; the columns are the first three.
fn turn_hash(row: &Row<'_>, hashes: &(RandomState, RandomState)) -> Result<TurnHash, rusqlite::Error> {
    let bytes = |place: usize| -> Result<&[u8], rusqlite::Error> {
        Ok(match row.get_ref(place)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
            _ => b"",
        })
    };
    let key = (bytes(0)?, bytes(1)?, bytes(2)?);
    Ok((hashes.0.hash_one(key), hashes.1.hash_one(key)))
}

fn read_call(
    row: &Row<'_>,
    hashes: &(RandomState, RandomState),
    part: &mut CallsRead,
) -> Result<CallAt, rusqlite::Error> {
    let index = match row.get_ref(3)? {
        ValueRef::Integer(index) => index,
        _ => 0,
    };
    let name = part.number(&text(row, 4)?);
    Ok(CallAt { turn: turn_hash(row, hashes)?, index, name })
}

/// Where the tool calls of a turn come from.
enum CallSource<'c> {
    Nowhere,
    Query(Statement<'c>),
    Known(&'c CallNames),
}

/// A statement that selects turns, and the names of their tool calls.
struct Select<'c> {
    turns: Statement<'c>,
    calls: CallSource<'c>,
}

impl<'c> Select<'c> {
    fn new(
        reader: &'c ArchiveReader,
        archive: &Path,
        wanted: TurnColumns,
        condition: &str,
        known: Option<&'c CallNames>,
    ) -> Result<Self, ArchiveError> {
        let added = AddedColumns::of(reader).context(archive, "reading its schema")?;
        let or_null = |is_wanted: bool, place: usize| {
            if is_wanted { added.column(&turns::TABLE, turns::TABLE.columns[place]) } else { "NULL" }
        };
        let columns = [
            or_null(true, turns::SOURCE),
            or_null(wanted.keys || wanted.calls, turns::SESSION_ID),
            or_null(wanted.keys || wanted.calls, turns::MESSAGE_ID),
            or_null(true, turns::TS),
            or_null(true, turns::MODEL),
            or_null(wanted.projects, turns::PROJECT),
            or_null(wanted.projects, turns::PROJECT_KEY),
            or_null(wanted.activity, turns::ACTIVITY),
            or_null(wanted.subagents, turns::IS_SIDECHAIN),
            or_null(wanted.subagents, turns::SUBAGENT_TYPE),
            or_null(true, turns::INPUT_TOKENS),
            or_null(true, turns::OUTPUT_TOKENS),
            or_null(true, turns::REASONING_TOKENS),
            or_null(true, turns::CACHE_READ_TOKENS),
            or_null(true, turns::CACHE_CREATE_5M_TOKENS),
            or_null(true, turns::CACHE_CREATE_1H_TOKENS),
            or_null(true, turns::ENRICHMENT_JSON),
            or_null(true, turns::ATTRIBUTION_FIDELITY),
        ];
        let sql = format!("SELECT {} FROM turns WHERE {condition}", columns.join(", "));
        let prepare = |sql: &str| reader.prepare(sql).context(archive, "preparing a query");
        let calls = match known {
            _ if !wanted.calls => CallSource::Nowhere,
            Some(known) => CallSource::Known(known),
            None => CallSource::Query(prepare(CALLS)?),
        };
        Ok(Self { turns: prepare(&sql)?, calls })
    }

    fn read<const N: usize>(
        &mut self,
        archive: &Path,
        values: [&dyn rusqlite::ToSql; N],
        mut each: impl FnMut(&TurnFields<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ArchiveError> {
        let mut calls_of_turn = Vec::new();
        let mut rows = self.turns.query(values.as_slice()).context(archive, "querying it")?;
        while let Some(row) = rows.next().context(archive, "querying it")? {
            calls_of_turn.clear();
            match &mut self.calls {
                CallSource::Nowhere => Ok(()),
                CallSource::Query(calls) => read_calls(row, calls, &mut calls_of_turn),
                CallSource::Known(known) => known.of_turn(row, &mut calls_of_turn),
            }
            .context(archive, "reading tool calls")?;
            let flow = with_fields(row, &calls_of_turn, &mut each).context(archive, "reading a row")?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn read_calls(
    row: &Row<'_>,
    calls: &mut Statement<'_>,
    out: &mut Vec<String>,
) -> Result<(), rusqlite::Error> {
    let mut rows = calls.query(super::values_at(row, [0, 1, 2])?)?;
    while let Some(call) = rows.next()? {
        out.push(text(call, 0)?.into_owned());
    }
    Ok(())
}

/// Returns a text. NULL and numbers read as empty; bytes that are not UTF-8 are replaced.
fn text<'r>(row: &'r Row<'_>, place: usize) -> Result<std::borrow::Cow<'r, str>, rusqlite::Error> {
    Ok(match row.get_ref(place)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => String::from_utf8_lossy(bytes),
        },
        _ => "".into(),
    })
}

fn with_fields(
    row: &Row<'_>,
    calls: &[String],
    each: &mut impl FnMut(&TurnFields<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, rusqlite::Error> {
    let optional = |place: usize| -> Result<Option<std::borrow::Cow<'_, str>>, rusqlite::Error> {
        match row.get_ref(place)? {
            ValueRef::Null => Ok(None),
            _ => text(row, place).map(Some),
        }
    };
    let (source, session, message, ts, model) =
        (text(row, 0)?, text(row, 1)?, text(row, 2)?, text(row, 3)?, text(row, 4)?);
    let (project, project_key, activity) = (optional(5)?, optional(6)?, optional(7)?);
    let (subagent_type, fidelity) = (optional(9)?, optional(17)?);
    let mut usage = [StoredNumber::None; 6];
    for (place, number) in usage.iter_mut().enumerate() {
        *number = match row.get_ref(10 + place)? {
            ValueRef::Integer(number) => StoredNumber::Whole(number),
            ValueRef::Real(number) => StoredNumber::Real(number),
            _ => StoredNumber::None,
        };
    }
    let enrichment: &[u8] = match row.get_ref(16)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => b"{}",
    };
    Ok(each(&TurnFields {
        source: &source,
        session: &session,
        message: &message,
        ts: &ts,
        model: &model,
        project: project.as_deref(),
        project_key: project_key.as_deref(),
        activity: activity.as_deref(),
        is_sidechain: row.get_ref(8)? == ValueRef::Integer(1),
        subagent_type: subagent_type.as_deref(),
        usage,
        enrichment,
        fidelity: fidelity.as_deref(),
        calls,
    }))
}
