//! Scans a range of the ledger before a build: finds every stamp and, on request, the sessions of the range's turns.
//!
//! Stamps must be known before rows are made, because the workers enrich each turn once. A line can only be a stamp
//! when it has the bytes `"stamp"` or spells a letter of the word with an escape. So a substring search skips most
//! lines at the speed of memory. The remaining lines are parsed as the build parses them; lines that are not stamps
//! are left to the build.

use std::collections::{BTreeSet, HashSet};
use std::ops::{Bound, Range};
use std::sync::{Mutex, PoisonError};

use bumpalo::Bump;
use rayon::ThreadPool;
use rayon::iter::{ParallelBridge, ParallelIterator};

use super::cursor::Restart;
use super::error::ArchiveError;
use super::pipeline::PipelineInput;
use crate::record::LINE_MAX_BYTES;
use crate::record::columns::turns;
use crate::record::fold::{Assignment, Fold, Selector, Stamp, TimeRange};
use crate::record::maker::RowMaker;
use crate::record::rows::Rows;
use crate::record::stamp::possible_stamps;
use crate::scan::{self, chunks, is_long_line};

self_cell::self_cell!(
    /// Stamps with the arena that holds their text.
    pub struct StampSet {
        owner: Bump,
        #[covariant]
        dependent: Stamps,
    }
);

/// Stamps in the order of the ledger.
pub type Stamps<'a> = Vec<Stamp<'a>>;

/// The result of a survey.
#[derive(Default)]
#[allow(missing_debug_implementations)]
pub struct Survey {
    /// The stamps, a set for each chunk that has any.
    pub stamps: Vec<StampSet>,
    /// Keys of the turns in the range, when they were asked for.
    pub turns: TurnKeys,
    /// Why the archive has to be built from byte 0 instead of from the start of the range.
    pub restart: Option<Restart>,
}

/// The stamps of all sets.
pub(crate) fn stamps_of(sets: &[StampSet]) -> impl Iterator<Item = &Stamp<'_>> {
    sets.iter().flat_map(|set| set.borrow_dependent())
}

/// The keys of turns that decide which stamps may apply to the turns.
#[derive(Debug)]
pub struct TurnKeys {
    /// Session ids of the turns.
    pub sessions: HashSet<String>,
    /// Message ids and times of the turns; `None` when the turns have more than [`TURN_KEYS_MAX`] message ids or
    /// times, or after `keep_sessions_only`.
    messages_and_times: Option<(HashSet<String>, BTreeSet<String>)>,
}

/// With more message ids or times than this, [`TurnKeys::may_match`] is true for every stamp, because most stamps then apply.
pub const TURN_KEYS_MAX: usize = 20_000;

impl Default for TurnKeys {
    fn default() -> Self {
        Self { sessions: HashSet::new(), messages_and_times: Some(Default::default()) }
    }
}

impl TurnKeys {
    /// Adds a turn.
    pub fn add(&mut self, session: &str, message: &str, ts: &str) {
        if !self.sessions.contains(session) {
            self.sessions.insert(session.to_owned());
        }
        if let Some((messages, times)) = &mut self.messages_and_times {
            messages.insert(message.to_owned());
            times.insert(ts.to_owned());
            if messages.len().max(times.len()) > TURN_KEYS_MAX {
                self.messages_and_times = None;
            }
        }
    }

    /// From now on compares only sessions.
    pub fn keep_sessions_only(&mut self) {
        self.messages_and_times = None;
    }

    fn extend(&mut self, other: Self) {
        self.sessions.extend(other.sessions);
        self.messages_and_times = match (self.messages_and_times.take(), other.messages_and_times) {
            (Some((mut messages, mut times)), Some((more_messages, more_times))) => {
                messages.extend(more_messages);
                times.extend(more_times);
                (messages.len().max(times.len()) <= TURN_KEYS_MAX).then_some((messages, times))
            }
            _ => None,
        };
    }

    /// Whether a stamp with this selector may apply to one of the turns; the selector's session is not compared.
    pub fn may_match(&self, selector: &Selector<'_>) -> bool {
        let Some((messages, times)) = &self.messages_and_times else { return true };
        let in_range = |range: TimeRange<'_>| {
            let from = range.from.map_or(Bound::Unbounded, Bound::Included);
            let first = times.range::<str, _>((from, Bound::Unbounded)).next();
            first.is_some_and(|first| range.to.is_none_or(|to| first.as_str() <= to))
        };
        selector.message.is_none_or(|message| messages.contains(message))
            && selector.range.is_none_or(in_range)
    }
}

/// What a survey finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SurveyOf {
    /// The stamps.
    Stamps,
    /// The stamps, and the keys of the turns, which needs a look at every line.
    StampsAndTurnKeys,
}

/// Surveys `input` on the threads of `pool`.
///
/// # Errors
/// When the ledger cannot be read, and [`ArchiveError::Interrupted`].
pub fn survey(pool: &ThreadPool, input: &PipelineInput<'_>, of: SurveyOf) -> Result<Survey, ArchiveError> {
    pool.install(|| {
        chunks(input.source, input.range.clone(), input.chunk_bytes)
            .par_bridge()
            .map(|chunk| survey_chunk(input, chunk?, of))
            .try_reduce(Survey::default, |mut all, part| {
                all.stamps.extend(part.stamps);
                all.turns.extend(part.turns);
                Ok(all)
            })
    })
}

static LONG_LINE: Mutex<()> = Mutex::new(());

/// Surveys a chunk of `input`, as [`survey`] does.
///
/// # Errors
/// As [`survey`].
pub fn survey_chunk(
    input: &PipelineInput<'_>,
    chunk: Range<u64>,
    of: SurveyOf,
) -> Result<Survey, ArchiveError> {
    if input.interrupt.is_requested() {
        return Err(ArchiveError::Interrupted);
    }
    let is_long = is_long_line(&chunk, input.chunk_bytes);
    if is_long && chunk.end - chunk.start > LINE_MAX_BYTES + 1 {
        // The build rejects a line of this length.
        return Ok(Survey::default());
    }
    // Parsing takes several times the memory of a line, so long lines are parsed one at a time.
    let _one_at_a_time = is_long.then(|| LONG_LINE.lock().unwrap_or_else(PoisonError::into_inner));
    let mut buffer = Vec::new();
    let bytes = input.source.bytes(chunk.clone(), &mut buffer)?;
    let nothing = Fold::default();
    let mut maker = RowMaker::default();
    let mut turn_keys = TurnKeys::default();
    // The arena of a line holds the line and its rows; the stamp is copied out of the arena.
    let mut line_arena = Bump::new();
    let stamps = StampSet::new(Bump::new(), |arena| {
        let mut stamps = Stamps::new();
        let mut look = |offset: u64, line: &[u8]| {
            line_arena.reset();
            let mut rows = Rows::default();
            maker.add(offset, line, &nothing, &line_arena, &mut rows);
            for line in &rows.stamps {
                let previous = stamps.last().copied();
                stamps.push(copied(&line.stamp, previous, arena));
            }
            for turn in &rows.turns {
                let [session, message, ts] = [turns::SESSION_ID, turns::MESSAGE_ID, turns::TS]
                    .map(|place| turn.cells[place].as_text());
                turn_keys.add(session, message, ts);
            }
        };
        match of {
            SurveyOf::StampsAndTurnKeys => {
                scan::lines(chunk.start, bytes).for_each(|(offset, line)| look(offset, line));
            }
            SurveyOf::Stamps => {
                for line in possible_stamps(bytes) {
                    look(chunk.start + line.start as u64, &bytes[line]);
                }
            }
        }
        stamps.shrink_to_fit();
        stamps
    });
    input.source.check_len()?;
    let stamps = if stamps.borrow_dependent().is_empty() { Vec::new() } else { vec![stamps] };
    Ok(Survey { stamps, turns: turn_keys, restart: None })
}

/// Copies `stamp` into `arena`; text that the previous stamp has already is shared with the previous stamp.
fn copied<'a>(stamp: &Stamp<'_>, previous: Option<Stamp<'a>>, arena: &'a Bump) -> Stamp<'a> {
    let keep = |text: Option<&str>, near: Option<&'a str>| {
        text.map(|text| near.filter(|near| *near == text).unwrap_or_else(|| &*arena.alloc_str(text)))
    };
    let near = previous.map(|stamp| stamp.selector).unwrap_or_default();
    let near_entries = previous.map_or(&[][..], |stamp| stamp.entries);
    let entries = stamp.entries.iter().enumerate().map(|(place, entry)| Assignment {
        key_json: near_entries
            .get(place)
            .map(|near| near.key_json)
            .filter(|near| *near == entry.key_json)
            .unwrap_or_else(|| arena.alloc_str(entry.key_json)),
        array_index: entry.array_index,
        value: entry.value.copied(arena),
    });
    Stamp {
        ts: arena.alloc_str(stamp.ts),
        offset: stamp.offset,
        selector: Selector {
            session: keep(stamp.selector.session, near.session),
            message: keep(stamp.selector.message, near.message),
            range: stamp
                .selector
                .range
                .map(|range| TimeRange { from: keep(range.from, None), to: keep(range.to, None) }),
        },
        entries: arena.alloc_slice_fill_iter(entries),
    }
}
