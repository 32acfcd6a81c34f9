//! Reads turns from the ledger, for answers without an archive and for explanations, which name lines.
//!
//! Touches the ledger, for reading. Guarantees: the turns are the same as in an archive of the same bytes, because the
//! same code reads lines and folds stamps. The ledger is read twice, because the first reading finds the last line of
//! each turn. A line that cannot be a turn is not parsed ([`may_be_turn`]), and the first reading takes the key of an
//! ordinary line without parsing it ([`key_without_parsing`]). When a line that counts, or that
//! an explanation names, then proves to be no turn, both readings are repeated with every line parsed.

use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bumpalo::Bump;

use super::error::UsageError;
use super::tally::{LineAt, NumberMap, UsageTally};
use crate::archive::ArchiveError;
use crate::archive::pipeline::{PipelineInput, workers};
use crate::archive::query::{StoredNumber, TurnFields};
use crate::archive::survey::survey;
use crate::interrupt::Interrupt;
use crate::record::Cell;
use crate::record::columns::{tool_calls, turns};
use crate::record::fold::Fold;
use crate::record::maker::RowMaker;
use crate::record::rows::{Rows, TurnRow};
use crate::scan::in_order::{WorkFailure, Workers, in_order};
use crate::scan::{self, ScanError, Source, chunks};
use memchr::memmem::Finder;

const CHUNK_BYTES: u64 = 1 << 20;

/// The last line of a turn, which counts.
struct LastLine {
    offset: u64,
    length: u64,
    /// Offsets of earlier lines; kept only for explanations.
    superseded: Vec<u64>,
}

/// Adds up the turns of a ledger up to a line end.
pub(super) fn tally_ledger<'q>(
    source: &Source,
    end: u64,
    threads: usize,
    is_explained: bool,
    interrupt: &Interrupt,
    new: impl Fn() -> UsageTally<'q> + Sync,
) -> Result<Vec<UsageTally<'q>>, UsageError> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores() } else { threads };
    let work = LedgerPass { source, end, threads, interrupt };
    let stamps = {
        let pool = workers(threads)?;
        let input = PipelineInput {
            source,
            range: 0..end,
            chunk_bytes: CHUNK_BYTES,
            cut_at: 0,
            interrupt: interrupt.clone(),
        };
        survey(&pool, &input, false)?.stamps
    };
    let fold = Fold::new(stamps.iter().flat_map(|set| set.borrow_dependent()));
    match work.tally(&fold, KeyReading::Unparsed, is_explained, &new)? {
        Some(tallies) => Ok(tallies),
        None => Ok(work.tally(&fold, KeyReading::Parsed, is_explained, &new)?.unwrap_or_default()),
    }
}

/// How the first reading finds the key of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyReading {
    /// By parsing each line.
    Parsed,
    /// From the bytes of ordinary lines.
    Unparsed,
}

/// Sums that workers have sent.
type SentTallies<S> = std::sync::Mutex<Vec<S>>;

impl LedgerPass<'_> {
    /// Adds up the turns. `None` means that a line that counts, or one that an explanation names, is no turn.
    fn tally<'q>(
        &self,
        fold: &Fold<'_>,
        keys: KeyReading,
        is_explained: bool,
        new: &(impl Fn() -> UsageTally<'q> + Sync),
    ) -> Result<Option<Vec<UsageTally<'q>>>, UsageError> {
        let last_lines = last_lines(self, keys, is_explained)?;
        let mut superseded: Vec<u64> =
            last_lines.iter().flat_map(|line| line.superseded.iter().copied()).collect();
        superseded.sort_unstable();
        let has_other_lines = AtomicBool::new(false);
        // A worker sends its sums when it ends.
        let tallies = SentTallies::new(Vec::new());
        self.each_chunk(
            || TallyWorker { state: Some(new()), out: &tallies, lines: TurnReader::default() },
            |worker, chunk, bytes| {
                let first = last_lines.partition_point(|line| line.offset < chunk.start);
                let mut expected = last_lines[first..].iter().peekable();
                let first = superseded.partition_point(|offset| *offset < chunk.start);
                let mut superseded = superseded[first..].iter().peekable();
                let Some(tally) = &mut worker.state else { return };
                for (offset, text) in scan::lines(chunk.start, bytes) {
                    if superseded.next_if_eq(&&offset).is_some()
                        && !worker.lines.read(offset, text, fold, |_, _| {})
                    {
                        has_other_lines.store(true, Ordering::Relaxed);
                    }
                    let Some(line) = expected.next_if(|line| line.offset == offset) else { continue };
                    let line_at = is_explained.then_some(LineAt {
                        offset,
                        length: line.length,
                        superseded: &line.superseded,
                    });
                    let is_turn = worker.lines.read(offset, text, fold, |turn, rows| {
                        with_fields(turn, rows, |fields| tally.add(fields, line_at));
                    });
                    if !is_turn {
                        has_other_lines.store(true, Ordering::Relaxed);
                    }
                }
            },
            |()| {},
        )?;
        if has_other_lines.into_inner() && keys == KeyReading::Unparsed {
            return Ok(None);
        }
        Ok(Some(tallies.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}

/// A worker's state, which goes to `out` when the worker ends.
struct TallyWorker<'o, 'f, S> {
    state: Option<S>,
    out: &'o SentTallies<S>,
    lines: TurnReader<'f>,
}

impl<S> Drop for TallyWorker<'_, '_, S> {
    fn drop(&mut self) {
        if let Some(state) = self.state.take() {
            self.out.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(state);
        }
    }
}

/// The last line of each turn, by offset.
fn last_lines(
    work: &LedgerPass<'_>,
    keys: KeyReading,
    is_explained: bool,
) -> Result<Vec<LastLine>, UsageError> {
    // A key has two hashes with different seeds, so that two turns never share a key in practice.
    let (one, other) = (RandomState::new(), RandomState::new());
    // The keys are hashes, so nobody can choose them.
    let mut last: NumberMap<(u64, u64), LastLine> = NumberMap::default();
    let nothing = Fold::default();
    work.each_chunk(
        TurnReader::default,
        |lines, chunk, bytes| {
            let mut found = Vec::new();
            let mut add = |offset: u64, line: &[u8], key: [&[u8]; 3]| {
                found.push(((one.hash_one(key), other.hash_one(key)), offset, line.len() as u64 + 1));
            };
            for (offset, line) in scan::lines(chunk.start, bytes).filter(|(_, line)| may_be_turn(line)) {
                match key_without_parsing(line).filter(|_| keys == KeyReading::Unparsed) {
                    Some(key) => add(offset, line, key),
                    None => {
                        lines.read(offset, line, &nothing, |turn, _| {
                            let key = [turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID];
                            add(offset, line, key.map(|place| turn.cells[place].as_text().as_bytes()));
                        });
                    }
                }
            }
            found
        },
        |found: Vec<_>| {
            for (key, offset, length) in found {
                let line = LastLine { offset, length, superseded: Vec::new() };
                if let Some(earlier) = last.insert(key, line)
                    && is_explained
                    && let Some(line) = last.get_mut(&key)
                {
                    line.superseded = earlier.superseded;
                    line.superseded.push(earlier.offset);
                }
            }
        },
    )?;
    let mut lines: Vec<LastLine> = last.into_values().collect();
    lines.sort_unstable_by_key(|line| line.offset);
    Ok(lines)
}

/// Reads lines. Each thread has one.
#[derive(Default)]
struct TurnReader<'f> {
    maker: RowMaker<'f>,
    arena: Bump,
}

impl<'f> TurnReader<'f> {
    /// Calls `take` with the turn of a line. Returns whether the line is a turn.
    fn read(
        &mut self,
        offset: u64,
        line: &[u8],
        fold: &Fold<'f>,
        take: impl FnOnce(&TurnRow<'_>, &Rows<'_>),
    ) -> bool {
        self.arena.reset();
        let mut rows = Rows::default();
        self.maker.add(offset, line, fold, &self.arena, &mut rows);
        let turn = rows.turns.first();
        if let Some(turn) = turn {
            take(turn, &rows);
        }
        turn.is_some()
    }
}

/// Whether a line may be a turn. The kind is the JSON string `"turn"`, which has another spelling only with a
/// backslash.
fn may_be_turn(line: &[u8]) -> bool {
    static TURN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"turn\""));
    TURN.find(line).is_some() || memchr::memchr(b'\\', line).is_some()
}

/// The source, the session and the message of a line, if the line is a turn; `None` if only a parser can tell.
///
/// A turn has these members, and in a line without a backslash a member has one spelling. So a member whose name occurs
/// once, anywhere in the line, is the member of the turn.
fn key_without_parsing(line: &[u8]) -> Option<[&[u8]; 3]> {
    static KIND: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"kind\":\"turn\""));
    static MEMBERS: LazyLock<[Finder<'static>; 3]> =
        LazyLock::new(|| [&b"\"source\""[..], b"\"sessionId\"", b"\"messageId\""].map(Finder::new));
    if memchr::memchr(b'\\', line).is_some() || KIND.find(line).is_none() {
        return None;
    }
    let [source, session, message] = &*MEMBERS;
    Some([only_text(line, source)?, only_text(line, session)?, only_text(line, message)?])
}

/// The text after the only occurrence of a member's name.
fn only_text<'l>(line: &'l [u8], name: &Finder<'_>) -> Option<&'l [u8]> {
    let rest = &line[name.find(line)? + name.needle().len()..];
    let text = rest.strip_prefix(b":\"")?;
    let end = memchr::memchr(b'"', text)?;
    name.find(rest).is_none().then_some(&text[..end])
}

/// A few complete lines of a ledger in memory, and the stamps among them.
pub(super) struct TurnLines {
    base: u64,
    bytes: Vec<u8>,
    stamps: Vec<crate::archive::survey::StampSet>,
}

impl TurnLines {
    pub(super) fn read(
        source: &Source,
        range: Range<u64>,
        interrupt: &Interrupt,
    ) -> Result<Self, UsageError> {
        let input = PipelineInput {
            source,
            range: range.clone(),
            chunk_bytes: CHUNK_BYTES,
            cut_at: 0,
            interrupt: interrupt.clone(),
        };
        let stamps = survey(&workers(1)?, &input, false)?.stamps;
        let mut buffer = Vec::new();
        let bytes = source.bytes(range.clone(), &mut buffer)?.to_vec();
        Ok(Self { base: range.start, bytes, stamps })
    }

    /// Calls `each` with every turn and the offset of its line.
    pub(super) fn each(&self, mut each: impl FnMut(u64, &TurnFields<'_>)) {
        let fold = Fold::new(self.stamps.iter().flat_map(|set| set.borrow_dependent()));
        let mut lines = TurnReader::default();
        for (offset, line) in scan::lines(self.base, &self.bytes).filter(|(_, line)| may_be_turn(line)) {
            lines.read(offset, line, &fold, |turn, rows| {
                with_fields(turn, rows, |fields| each(offset, fields))
            });
        }
    }
}

struct LedgerPass<'s> {
    source: &'s Source,
    end: u64,
    threads: usize,
    interrupt: &'s Interrupt,
}

impl LedgerPass<'_> {
    /// Maps every chunk on all threads, and calls `take` with the results in the order of the ledger.
    fn each_chunk<W, T: Send>(
        &self,
        worker: impl Fn() -> W + Sync,
        work: impl Fn(&mut W, Range<u64>, &[u8]) -> T + Sync,
        mut take: impl FnMut(T),
    ) -> Result<(), UsageError> {
        let threads = if self.end <= CHUNK_BYTES || self.threads <= 1 { 0 } else { self.threads };
        in_order(
            Workers::Threads(threads),
            vec![(); (threads * 2).max(1)],
            chunks(self.source, 0..self.end, CHUNK_BYTES),
            || (worker(), Vec::new()),
            |(state, buffer), (), chunk: Result<Range<u64>, ScanError>, _| -> Result<T, ArchiveError> {
                if self.interrupt.is_requested() {
                    return Err(ArchiveError::Interrupted);
                }
                let chunk = chunk?;
                let made = work(state, chunk.clone(), self.source.bytes(chunk, buffer)?);
                // A result counts only if the file was not truncated meanwhile.
                self.source.check_len()?;
                Ok(made)
            },
            |made| {
                take(made);
                Ok(ControlFlow::Continue(()))
            },
        )
        .map_err(|failure| match failure {
            WorkFailure::Work(error) => error.into(),
            WorkFailure::Panic { number, .. } => {
                ArchiveError::Worker { ledger: self.source.path().to_owned(), number }.into()
            }
        })
    }
}

/// The fields of a row from a line, as the archive stores them.
fn with_fields(turn: &TurnRow<'_>, rows: &Rows<'_>, take: impl FnOnce(&TurnFields<'_>)) {
    let cell = |place: usize| turn.cells[place];
    let text = |place: usize| cell(place).as_text();
    let optional = |place: usize| match cell(place) {
        Cell::Text(text) => Some(text),
        _ => None,
    };
    let number = |place: usize| match cell(place) {
        Cell::Int(number) => StoredNumber::Whole(number),
        Cell::Real(number) => StoredNumber::Real(number),
        _ => StoredNumber::None,
    };
    let calls = rows.calls[turn.calls.clone()].iter();
    let calls: Vec<&str> = calls.map(|call| call[tool_calls::TOOL_NAME].as_text()).collect();
    take(&TurnFields {
        source: text(turns::SOURCE),
        session: text(turns::SESSION_ID),
        message: text(turns::MESSAGE_ID),
        ts: text(turns::TS),
        model: text(turns::MODEL),
        project: optional(turns::PROJECT),
        project_key: optional(turns::PROJECT_KEY),
        activity: optional(turns::ACTIVITY),
        is_sidechain: cell(turns::IS_SIDECHAIN) == Cell::Int(1),
        subagent_type: optional(turns::SUBAGENT_TYPE),
        usage: [
            turns::INPUT_TOKENS,
            turns::OUTPUT_TOKENS,
            turns::REASONING_TOKENS,
            turns::CACHE_READ_TOKENS,
            turns::CACHE_CREATE_5M_TOKENS,
            turns::CACHE_CREATE_1H_TOKENS,
        ]
        .map(number),
        enrichment: optional(turns::ENRICHMENT_JSON).unwrap_or("{}").as_bytes(),
        fidelity: optional(turns::ATTRIBUTION_FIDELITY),
        calls: &calls,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ordinary_line_gives_its_key_without_parsing() {
        let line = |record: &str| format!(r#"{{"v":1,"kind":"turn","record":{{{record}}}}}"#);
        let ordinary = line(r#""source":"codex","sessionId":"s","messageId":"m","model":"x""#);
        let key: [&[u8]; 3] = [b"codex", b"s", b"m"];
        assert_eq!(key_without_parsing(ordinary.as_bytes()), Some(key));
        assert!(may_be_turn(ordinary.as_bytes()));
        for record in [
            r#""source":"codex","sessionId":"s""#,
            r#""source":"codex","sessionId":"s","messageId":7"#,
            r#""source" :"codex","sessionId":"s","messageId":"m""#,
            r#""source":"codex","sessionId":"s","messageId":"m","messageId":"n""#,
            r#""source":"codex","sessionId":"s","messageId":"m","project":"source""#,
            r#""source":"codex","sessionId":"s","messageId":"m","project":"\n""#,
        ] {
            assert_eq!(key_without_parsing(line(record).as_bytes()), None, "{record}");
        }
        assert!(may_be_turn(br#"{"v":1,"kind":"\u0074urn"}"#));
        assert!(!may_be_turn(br#"{"v":1,"kind":"user_turn","record":{}}"#));
        assert_eq!(key_without_parsing(ordinary.replace("turn", "stamp").as_bytes()), None);
        // A torn line has no key, or one that the second reading finds to be no turn's.
        assert_eq!(
            key_without_parsing(br#"{"kind":"turn","source":"codex","sessionId":"s","messageId":"m"#),
            None
        );
    }
}
