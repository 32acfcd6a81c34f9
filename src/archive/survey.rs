//! The survey in front of a build: every stamp of a range of the ledger, and, when asked, the sessions of its turns.
//!
//! Stamps must be known before rows are made, so that turns are enriched once, by the workers. A line can only be a stamp if
//! it has the bytes `"stamp"` or spells a letter of it with an escape, so most lines are passed over by a substring search
//! at the speed of memory; the others are parsed as the build will parse them, and what is no stamp is left to it.

use std::collections::HashSet;
use std::ops::Range;

use bumpalo::Bump;
use rayon::ThreadPool;
use rayon::iter::{ParallelBridge, ParallelIterator};

use super::error::ArchiveError;
use super::pipeline::Input;
use crate::record::columns::turns;
use crate::record::fold::{Entry, Fold, Range as TimeRange, Selector, Stamp};
use crate::record::rows::{RowMaker, Rows};
use crate::record::stamp::possible_stamps;
use crate::scan::{self, chunks};

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

/// What a survey found.
#[derive(Default)]
#[allow(missing_debug_implementations)]
pub struct Survey {
    /// The stamps, a set for each chunk that has any.
    pub stamps: Vec<StampSet>,
    /// Ids of the sessions that have turns in the range, if they were asked for.
    pub sessions: HashSet<String>,
}

/// Finds the stamps in `input`, and the sessions of its turns when `with_sessions`, which parses every line.
///
/// # Errors
/// When the ledger cannot be read, and [`ArchiveError::Interrupted`].
pub fn survey(pool: &ThreadPool, input: &Input<'_>, with_sessions: bool) -> Result<Survey, ArchiveError> {
    pool.install(|| {
        chunks(input.source, input.range.clone(), input.chunk_bytes)
            .par_bridge()
            .map(|chunk| look_through(input, chunk?, with_sessions))
            .try_reduce(Survey::default, |mut all, part| {
                all.stamps.extend(part.stamps);
                all.sessions.extend(part.sessions);
                Ok(all)
            })
    })
}

fn look_through(input: &Input<'_>, chunk: Range<u64>, with_sessions: bool) -> Result<Survey, ArchiveError> {
    if input.interrupt.is_requested() {
        return Err(ArchiveError::Interrupted);
    }
    let mut buffer = Vec::new();
    let bytes = input.source.bytes(chunk.clone(), &mut buffer)?;
    let nothing = Fold::default();
    let mut maker = RowMaker::default();
    let mut sessions = HashSet::new();
    // The arena of a line holds the line and more; what is kept of a stamp is copied out of it.
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
                let session = turn.cells[turns::SESSION_ID].as_text();
                if !sessions.contains(session) {
                    sessions.insert(session.to_string());
                }
            }
        };
        if with_sessions {
            scan::lines(chunk.start, bytes).for_each(|(offset, line)| look(offset, line));
        } else {
            for line in possible_stamps(bytes) {
                look(chunk.start + line.start as u64, &bytes[line]);
            }
        }
        stamps.shrink_to_fit();
        stamps
    });
    input.source.check_len()?;
    let stamps = if stamps.borrow_dependent().is_empty() { Vec::new() } else { vec![stamps] };
    Ok(Survey { stamps, sessions })
}

/// A copy in `arena`; text that stands in the previous stamp already is shared with it.
fn copied<'a>(stamp: &Stamp<'_>, previous: Option<Stamp<'a>>, arena: &'a Bump) -> Stamp<'a> {
    let keep = |text: Option<&str>, near: Option<&'a str>| {
        text.map(|text| near.filter(|near| *near == text).unwrap_or_else(|| &*arena.alloc_str(text)))
    };
    let near = previous.map(|stamp| stamp.selector).unwrap_or_default();
    let near_entries = previous.map_or(&[][..], |stamp| stamp.entries);
    let entries = stamp.entries.iter().enumerate().map(|(place, entry)| Entry {
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
