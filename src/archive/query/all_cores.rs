//! Reads the pages of a table on all cores, where the order of rows does not matter.
//!
//! Touches: reads the archive. Guarantees: all threads read the same state of the archive. Each thread has its own
//! transaction. Another connection checks whether a commit happened while the transactions began; if so, all of them
//! begin again.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use rusqlite::types::ValueRef;

use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::open::{ArchiveReader, ArchiveState, open_read_only};
use crate::archive::stored::{PageBuffers, StoredTable};
use crate::interrupt::Interrupt;
use crate::record::columns::{Table, turns};

/// Maximum number of pages that a thread reads at a time.
pub(super) const PAGES_PER_STEP_MAX: i64 = 128;
/// With fewer rows, one thread is faster than several.
pub(super) const ROWS_FOR_THREADS: i64 = 20_000;
/// Number of times that readers try to begin together, because another program may commit meanwhile.
const ATTEMPTS_MAX: usize = 20;

/// The state that a transaction reads.
pub(super) struct Begun {
    pub state: ArchiveState,
    first_row: i64,
    last_row: i64,
}

impl Begun {
    fn new(reader: &ArchiveReader, archive: &Path) -> Result<Self, ArchiveError> {
        let state = begin(reader, archive)?;
        let (first_row, last_row) = row_bounds(reader, archive, &turns::TABLE)?;
        Ok(Self { state, first_row, last_row })
    }

    /// Upper bound of the number of turns, because rowids may have gaps.
    pub fn rows(&self) -> i64 {
        self.last_row.saturating_sub(self.first_row).saturating_add(1)
    }
}

/// Begins a transaction and returns the state row.
pub(super) fn begin(reader: &ArchiveReader, archive: &Path) -> Result<ArchiveState, ArchiveError> {
    reader.execute_batch("BEGIN").context(archive, "beginning to read")?;
    super::check_version(reader, archive)
}

/// Returns the first and the last rowid of a table; of an empty table 1 and 0.
pub(super) fn row_bounds(
    reader: &ArchiveReader,
    archive: &Path,
    table: &Table,
) -> Result<(i64, i64), ArchiveError> {
    let bound = |end: &str| -> Result<Option<i64>, ArchiveError> {
        let sql = format!("SELECT {end}(rowid) FROM {}", table.name);
        reader.query_row(&sql, [], |row| row.get(0)).context(archive, "looking for its rows")
    };
    Ok((bound("min")?.unwrap_or(1), bound("max")?.unwrap_or(0)))
}

/// Opens a reader and begins its transaction.
///
/// # Errors
/// As [`turns()`](super::turns()).
pub(super) fn begin_reader(archive: &Path) -> Result<(ArchiveReader, Begun), ArchiveError> {
    let reader = open_read_only(archive)?;
    let begun = reader.settle(Begun::new(&reader, archive))?;
    Ok((reader, begun))
}

/// Opens readers whose transactions read the same state: one for each core if `threads` is 0 and the archive is not small.
/// `first` is a reader in a transaction, which is ended if there are more; their state may be a later one.
///
/// # Errors
/// As [`turns()`](super::turns()).
pub(super) fn begin_reading(
    (first, begun): (ArchiveReader, Begun),
    archive: &Path,
    threads: usize,
) -> Result<(Vec<ArchiveReader>, Begun), ArchiveError> {
    let count = match threads {
        0 if begun.rows() < ROWS_FOR_THREADS => 1,
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    if count == 1 {
        return Ok((vec![first], begun));
    }
    first.execute_batch("COMMIT").context(archive, "ending a transaction")?;
    for _ in 0..ATTEMPTS_MAX {
        let version = || -> Result<i64, ArchiveError> {
            let version = first.query_row("PRAGMA data_version", [], |row| row.get(0));
            version.context(archive, "looking whether it changed")
        };
        let before = version()?;
        let begun: Vec<_> = (0..count).map(|_| begin_reader(archive)).collect::<Result<_, _>>()?;
        let (readers, mut states): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
        let is_one = states.windows(2).all(|pair| pair[0].state == pair[1].state);
        if let (true, true, Some(begun)) = (version()? == before, is_one, states.pop()) {
            return Ok((readers, begun));
        }
    }
    // Other programs commit all the time, so a single reader reads everything.
    begin_reader(archive).map(|(reader, begun)| (vec![reader], begun))
}

/// Passes the rowid and the values of every row of a table to `each`, with the state of the thread that reads the row, until a
/// call of `each` breaks. `None` stands for a column that reads as NULL. Returns the states of all threads, or `None` if only
/// SQLite can read the table, or can say what is wrong with it.
///
/// # Errors
/// [`ArchiveError::Interrupted`], [`ArchiveError::Changed`].
pub(super) fn scan_pages<const N: usize, S: Send>(
    readers: &mut [ArchiveReader],
    (table, columns): (&Table, [Option<&str>; N]),
    interrupt: &Interrupt,
    new: impl Fn() -> S + Sync,
    each: impl Fn(&mut S, i64, &[ValueRef<'_>; N]) -> ControlFlow<()> + Sync,
) -> Result<Option<Vec<S>>, ArchiveError> {
    let Some(first) = readers.first() else { return Err(ArchiveError::Interrupted) };
    let Some(stored) = StoredTable::open(first, table.name, columns) else { return Ok(None) };
    let left = LeftRows::all(0, stored.leaves() - 1, readers.len(), PAGES_PER_STEP_MAX);
    let states = on_each(readers, |reader| {
        let Some(stored) = StoredTable::open(reader, table.name, columns) else { return Ok(None) };
        let (mut state, mut buffers, mut is_readable) = (new(), PageBuffers::default(), true);
        let read = left.read(interrupt, |first, last| {
            let flow =
                stored.rows((first, last), &mut buffers, |rowid, values| each(&mut state, rowid, values));
            is_readable = flow.is_ok();
            Ok(flow.unwrap_or(ControlFlow::Break(())))
        });
        reader.settle(read).map(|()| is_readable.then_some(state))
    })?;
    Ok(states.into_iter().collect())
}

/// Runs `work` with each reader, on as many threads. When a thread does not start, the other threads do its work.
pub(super) fn on_each<T: Send>(
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

/// The rows of a table that several threads have still to read.
pub(super) struct LeftRows {
    next: AtomicI64,
    last: i64,
    step: i64,
    stop: AtomicBool,
}

impl LeftRows {
    pub fn all(first: i64, last: i64, threads: usize, step_max: i64) -> Self {
        let rows = last.saturating_sub(first).saturating_add(1);
        // Small enough that all threads end together.
        let step = (rows / (8 * threads as i64)).clamp(1, step_max);
        Self { next: AtomicI64::new(first), last, step, stop: AtomicBool::new(false) }
    }

    /// Passes ranges of rows, both ends inclusive, to `read` until no range is left, `read` breaks or another thread stops.
    pub fn read(
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
