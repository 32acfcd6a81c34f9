//! Reads turns from the ledger, for answers without an archive and for explanations, which name lines.
//!
//! Touches the ledger, for reading. Guarantees: the turns are the same as in an archive of the same bytes; the same code reads
//! lines and folds stamps. The ledger is read twice: the first reading finds the stamps and the last line of each turn. The first
//! reading does not parse an ordinary line ([`claimed_key`]). The second reading parses the lines of turns, also those that a
//! later line supersedes, and compares their keys. If the first reading was wrong about a line, both readings are repeated with
//! every line parsed. The only line of a turn is not parsed if its time is out of the question's bounds
//! ([`TurnTimeBounds::exclude`]).

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::{ControlFlow, Range};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bumpalo::Bump;
use foldhash::quality::RandomState;
use memchr::memmem::Finder;
use rayon::slice::ParallelSliceMut;

use super::answer::LinesLeftOut;
use super::error::UsageError;
use super::question::{Period, Question};
use super::tally::{LineAt, NumberMap, UsageTally};
use crate::archive::ArchiveError;
use crate::archive::pipeline::{PipelineInput, workers};
use crate::archive::query::{StoredNumber, TurnFields};
use crate::archive::survey::{StampSet, SurveyOf, stamps_of, survey, survey_chunk};
use crate::interrupt::Interrupt;
use crate::record::Cell;
use crate::record::columns::{tool_calls, turns};
use crate::record::fold::Fold;
use crate::record::maker::RowMaker;
use crate::record::rows::{Rows, TurnRow};
use crate::record::time::Instant;
use crate::scan::in_order::{WorkFailure, Workers, in_order};
use crate::scan::json::is_in_braces;
use crate::scan::{self, ScanError, Source, chunks};

/// How much of the ledger the search for stamps reads at a time.
const SURVEY_CHUNK_BYTES: u64 = 1 << 20;
/// Small, so that a chunk stays in the cache of a core while it is searched several times.
const CHUNK_BYTES: u64 = 128 << 10;

/// The hashes of source, session and message with two seeds, so that two turns never share a key in practice.
type TurnKey = (u64, u64);

/// Makes the keys of turns.
#[derive(Default)]
struct TurnHasher(RandomState, RandomState);

impl TurnHasher {
    fn key(&self, texts: [&[u8]; 3]) -> TurnKey {
        (self.0.hash_one(texts), self.1.hash_one(texts))
    }

    fn key_of(&self, turn: &TurnRow<'_>) -> TurnKey {
        let key = [turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID];
        self.key(key.map(|place| turn.cells[place].as_text().as_bytes()))
    }
}

/// A line of a turn.
struct LineOfTurn {
    offset: u64,
    key: TurnKey,
    /// Whether the line counts, because no later line is of the same turn.
    is_last: bool,
}

/// The lines of turns.
struct TurnLinesFound {
    /// By offset. A turn whose only line is out of bounds has none.
    lines: Vec<LineOfTurn>,
    /// The offsets of all lines but the last of each turn.
    superseded: BTreeMap<TurnKey, Vec<u64>>,
}

/// The sums of each worker, and the lines that gave no turn.
type Tallied<'q> = (Vec<UsageTally<'q>>, LinesLeftOut);

/// Adds up the turns of a ledger up to a line end.
pub(super) fn tally_ledger<'q>(
    source: &Source,
    end: u64,
    question: &Question,
    interrupt: &Interrupt,
    new: impl Fn() -> UsageTally<'q> + Sync,
) -> Result<Tallied<'q>, UsageError> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if question.threads == 0 { cores() } else { question.threads };
    let work = LedgerPass { source, end, threads, interrupt };
    match work.tally(KeyReading::Unparsed, question, &new)? {
        Some(tallied) => Ok(tallied),
        None => Ok(work.tally(KeyReading::Parsed, question, &new)?.unwrap_or_default()),
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
    /// Adds up the turns. `None` means that the first reading was wrong about a line.
    fn tally<'q>(
        &self,
        keys: KeyReading,
        question: &Question,
        new: &(impl Fn() -> UsageTally<'q> + Sync),
    ) -> Result<Option<Tallied<'q>>, UsageError> {
        let hasher = TurnHasher::default();
        let (found, stamps, left_out) = find_lines(self, keys, &hasher, TurnTimeBounds::of(question))?;
        let fold = Fold::new(stamps_of(&stamps));
        let is_wrong = AtomicBool::new(false);
        // A worker sends its sums when it ends.
        let tallies = SentTallies::new(Vec::new());
        self.each_chunk(
            || TallyWorker { state: Some(new()), out: &tallies, lines: TurnReader::default() },
            |worker, chunk, bytes| {
                let Some(tally) = &mut worker.state else { return Ok(()) };
                let mut lines = worker.lines.of_chunk();
                for LineOfTurn { offset, key, is_last } in found.within(&chunk) {
                    if lines.is_full() {
                        drop(lines);
                        lines = worker.lines.of_chunk();
                    }
                    let line = scan::lines(*offset, &bytes[(offset - chunk.start) as usize..]).next();
                    let text = line.map_or(&[][..], |(_, text)| text);
                    let superseded = || found.superseded.get(key).map_or(&[][..], Vec::as_slice);
                    let line_at = question.explain.then(|| LineAt {
                        offset: *offset,
                        length: text.len() as u64 + 1,
                        superseded: superseded(),
                    });
                    let is_as_claimed = lines.read(*offset, text, &fold, |turn, rows, arena| {
                        if *is_last {
                            with_fields(turn, rows, arena, |fields| tally.add(fields, line_at));
                        }
                        keys == KeyReading::Parsed || hasher.key_of(turn) == *key
                    });
                    if is_as_claimed != Some(true) {
                        is_wrong.store(true, Ordering::Relaxed);
                    }
                }
                Ok(())
            },
            |()| {},
        )?;
        if is_wrong.into_inner() && keys == KeyReading::Unparsed {
            return Ok(None);
        }
        Ok(Some((tallies.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner), left_out)))
    }
}

impl TurnLinesFound {
    /// The lines that begin in a chunk.
    fn within(&self, chunk: &Range<u64>) -> &[LineOfTurn] {
        let place = |at| self.lines.partition_point(|line| line.offset < at);
        &self.lines[place(chunk.start)..place(chunk.end)]
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

/// The times that a question is about.
#[derive(Debug, Clone, Copy)]
struct TurnTimeBounds {
    since: Option<Instant>,
    until: Option<Instant>,
}

impl TurnTimeBounds {
    /// `None` if turns of all times matter. Blocks are made from all turns.
    fn of(question: &Question) -> Option<Self> {
        let Question { since, until, period, .. } = question;
        let is_bound = (since.is_some() || until.is_some()) && *period != Some(Period::Block);
        is_bound.then_some(Self { since: *since, until: *until })
    }

    /// Whether a line can only be a turn out of bounds, if it is a turn. The line has no backslash.
    ///
    /// A turn has a key and a time, and a member has one spelling in such a line. So a member whose name occurs once,
    /// anywhere in the line, is the member of the turn.
    fn exclude(self, line: &[u8]) -> bool {
        static TS: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"ts\""));
        let is_once = |name: &Finder<'_>| after(line, name).is_some_and(|rest| name.find(rest).is_none());
        let time = || Instant::of_turn(std::str::from_utf8(text_of(line, &TS)?).ok()?);
        let is_out = |at: Instant| {
            self.since.is_some_and(|since| at < since) || self.until.is_some_and(|until| at > until)
        };
        time().is_some_and(is_out) && is_once(&TS) && MEMBERS.iter().all(is_once)
    }
}

/// Finds the lines of turns, and the stamps: a chunk is still in the cache of a core when it is searched for both.
fn find_lines(
    work: &LedgerPass<'_>,
    keys: KeyReading,
    hasher: &TurnHasher,
    bounds: Option<TurnTimeBounds>,
) -> Result<(TurnLinesFound, Vec<StampSet>, LinesLeftOut), UsageError> {
    // The keys are hashes, so nobody can choose them.
    let mut last: NumberMap<TurnKey, (u64, bool)> = NumberMap::default();
    let mut superseded = BTreeMap::<TurnKey, Vec<u64>>::new();
    let nothing = Fold::default();
    let (mut stamps, mut left_out) = (Vec::new(), LinesLeftOut::default());
    let input = PipelineInput {
        source: work.source,
        range: 0..work.end,
        // Only longer lines are searched one at a time.
        chunk_bytes: SURVEY_CHUNK_BYTES,
        cut_at: 0,
        interrupt: work.interrupt.clone(),
    };
    work.each_chunk(
        TurnReader::default,
        |lines, chunk, bytes| {
            let stamps = survey_chunk(&input, chunk.clone(), SurveyOf::Stamps)?.stamps;
            let mut lines = lines.of_chunk();
            let (mut found, mut left_out) = (Vec::new(), LinesLeftOut::default());
            for (offset, line, has_backslash) in lines_and_backslashes(chunk.start, bytes) {
                if !has_backslash && !may_be_turn(line) && is_in_braces(line) {
                    continue;
                }
                let is_ordinary = keys == KeyReading::Unparsed && !has_backslash;
                if let Some(key) = claimed_key(line).filter(|_| is_ordinary) {
                    let is_excluded = bounds.is_some_and(|bounds| bounds.exclude(line));
                    found.push((offset, hasher.key(key), is_excluded));
                } else if let Some(key) = lines.read(offset, line, &nothing, |turn, _, _| hasher.key_of(turn))
                {
                    found.push((offset, key, false));
                } else if let Some(line) = lines.rows.findings.pop() {
                    left_out.add(LinesLeftOut { count: 1, first: Some(line) });
                }
            }
            Ok((found, stamps, left_out))
        },
        |(found, of_chunk, left_out_of_chunk): (Vec<_>, Vec<_>, _)| {
            stamps.extend(of_chunk);
            left_out.add(left_out_of_chunk);
            for (offset, key, is_excluded) in found {
                if let Some((earlier, _)) = last.insert(key, (offset, is_excluded)) {
                    superseded.entry(key).or_default().push(earlier);
                    // A later line that proves to be no turn supersedes nothing.
                    last.insert(key, (offset, false));
                }
            }
        },
    )?;
    let earlier = superseded.iter().flat_map(|(key, offsets)| offsets.iter().map(|offset| (*offset, *key)));
    let mut lines: Vec<_> = earlier.map(|(offset, key)| LineOfTurn { offset, key, is_last: false }).collect();
    let wanted = last.into_iter().filter(|(_, (_, is_excluded))| !is_excluded);
    lines.extend(wanted.map(|(key, (offset, _))| LineOfTurn { offset, key, is_last: true }));
    lines.par_sort_unstable_by_key(|line| line.offset);
    Ok((TurnLinesFound { lines, superseded }, stamps, left_out))
}

/// The lines of a chunk as [`scan::lines`] returns them, and whether each has a backslash.
fn lines_and_backslashes(base: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8], bool)> {
    let mut marks = memchr::memchr2_iter(b'\n', b'\\', bytes);
    let mut start = 0;
    std::iter::from_fn(move || {
        if start >= bytes.len() {
            return None;
        }
        let mut has_backslash = false;
        let is_end = |at: &usize| bytes[*at] == b'\n';
        let end = marks.by_ref().inspect(|at| has_backslash |= !is_end(at)).find(is_end);
        let end = end.unwrap_or(bytes.len());
        let line = (base + start as u64, &bytes[start..end], has_backslash);
        start = end + 1;
        Some(line)
    })
}

/// Reads lines. Each thread has one.
#[derive(Default)]
struct TurnReader<'f> {
    maker: RowMaker<'f>,
    arena: Bump,
}

/// The texts of so many bytes are kept before their memory is used again.
const ARENA_MAX_BYTES: usize = 4 << 20;

/// Reads the lines of a chunk.
struct ChunkReader<'r, 'f> {
    maker: &'r mut RowMaker<'f>,
    arena: &'r Bump,
    rows: Rows<'r>,
}

impl<'f> TurnReader<'f> {
    fn of_chunk(&mut self) -> ChunkReader<'_, 'f> {
        self.arena.reset();
        ChunkReader { maker: &mut self.maker, arena: &self.arena, rows: Rows::default() }
    }
}

impl<'r, 'f> ChunkReader<'r, 'f> {
    /// Whether the texts of the lines so far have a few megabytes: stamps may give every turn a long text.
    fn is_full(&self) -> bool {
        self.arena.allocated_bytes() > ARENA_MAX_BYTES
    }

    /// Returns what `take` makes of the turn of a line; `None` if the line is no turn.
    fn read<T>(
        &mut self,
        offset: u64,
        line: &[u8],
        fold: &Fold<'f>,
        take: impl FnOnce(&TurnRow<'_>, &Rows<'_>, &Bump) -> T,
    ) -> Option<T> {
        self.rows.clear();
        self.maker.add(offset, line, fold, self.arena, &mut self.rows);
        self.rows.turns.first().map(|turn| take(turn, &self.rows, self.arena))
    }
}

/// Whether a line without a backslash may be a turn. The kind is the JSON string `"turn"`, which has another spelling only
/// with a backslash.
fn may_be_turn(line: &[u8]) -> bool {
    static TURN: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"turn\""));
    line.starts_with(USUAL_START) || TURN.find(line).is_some()
}

/// How most lines of turns begin.
const USUAL_START: &[u8] = br#"{"v":1,"kind":"turn","#;

/// The members that make the key of a turn.
static MEMBERS: LazyLock<[Finder<'static>; 3]> =
    LazyLock::new(|| [&b"\"source\""[..], b"\"sessionId\"", b"\"messageId\""].map(Finder::new));

/// The source, the session and the message that a line without a backslash has first; `None` if the line does not look
/// like a turn. Only a parser can tell whether the line is a turn with this key.
fn claimed_key(line: &[u8]) -> Option<[&[u8]; 3]> {
    static KIND: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"kind\":\"turn\""));
    if !line.starts_with(USUAL_START) {
        KIND.find(line)?;
    }
    let [source, session, message] = &*MEMBERS;
    Some([text_of(line, source)?, text_of(line, session)?, text_of(line, message)?])
}

/// The text after the first occurrence of a member's name.
fn text_of<'l>(line: &'l [u8], name: &Finder<'_>) -> Option<&'l [u8]> {
    let text = after(line, name)?.strip_prefix(b":\"")?;
    Some(&text[..memchr::memchr(b'"', text)?])
}

/// The bytes after the first occurrence of a member's name.
fn after<'l>(line: &'l [u8], name: &Finder<'_>) -> Option<&'l [u8]> {
    Some(&line[name.find(line)? + name.needle().len()..])
}

/// A few complete lines of a ledger in memory, and the stamps among them.
pub(super) struct TurnLines {
    base: u64,
    bytes: Vec<u8>,
    stamps: Vec<StampSet>,
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
            chunk_bytes: SURVEY_CHUNK_BYTES,
            cut_at: 0,
            interrupt: interrupt.clone(),
        };
        let stamps = survey(&workers(1)?, &input, SurveyOf::Stamps)?.stamps;
        let mut buffer = Vec::new();
        let bytes = source.bytes(range.clone(), &mut buffer)?.to_vec();
        Ok(Self { base: range.start, bytes, stamps })
    }

    /// Calls `each` with every turn and the offset of its line.
    pub(super) fn each(&self, mut each: impl FnMut(u64, &TurnFields<'_>)) {
        let fold = Fold::new(stamps_of(&self.stamps));
        let mut reader = TurnReader::default();
        let mut lines = reader.of_chunk();
        for (offset, line, has_backslash) in lines_and_backslashes(self.base, &self.bytes) {
            if lines.is_full() {
                drop(lines);
                lines = reader.of_chunk();
            }
            if has_backslash || may_be_turn(line) {
                lines.read(offset, line, &fold, |turn, rows, arena| {
                    with_fields(turn, rows, arena, |fields| each(offset, fields));
                });
            }
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
        work: impl Fn(&mut W, Range<u64>, &[u8]) -> Result<T, ArchiveError> + Sync,
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
                let made = work(state, chunk.clone(), self.source.bytes(chunk, buffer)?)?;
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
fn with_fields(turn: &TurnRow<'_>, rows: &Rows<'_>, arena: &Bump, take: impl FnOnce(&TurnFields<'_>)) {
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
    let calls = arena.alloc_slice_fill_iter(calls.map(|call| call[tool_calls::TOOL_NAME].as_text()));
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
        calls,
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
        assert_eq!(claimed_key(ordinary.as_bytes()), Some(key));
        assert!(may_be_turn(ordinary.as_bytes()));
        for record in [
            r#""source":"codex","sessionId":"s""#,
            r#""source":"codex","sessionId":"s","messageId":7"#,
            r#""source" :"codex","sessionId":"s","messageId":"m""#,
        ] {
            assert_eq!(claimed_key(line(record).as_bytes()), None, "{record}");
        }
        assert!(!may_be_turn(br#"{"v":1,"kind":"user_turn","record":{}}"#));
        assert_eq!(claimed_key(ordinary.replace("turn", "stamp").as_bytes()), None);
        // A torn line has no key, or one that the second reading finds to be no turn's.
        assert_eq!(claimed_key(br#"{"kind":"turn","source":"codex","sessionId":"s","messageId":"m"#), None);
    }

    #[test]
    fn only_an_ordinary_line_is_out_of_bounds_without_parsing() {
        let bounds = TurnTimeBounds { since: Instant::of_turn("2026-02-01T00:00Z"), until: None };
        let ordinary = r#"{"v":1,"kind":"turn","record":{"source":"c","sessionId":"s","messageId":"m","ts":"2026-01-31T23:59:59Z"}}"#;
        assert!(bounds.exclude(ordinary.as_bytes()));
        for (from, to) in [
            ("2026-01-31", "2026-02-01"),
            ("2026-01-31", "last day"),
            ("ts\":", "ts\" :"),
            ("}}", ",\"ts\":\"2026-02-01T00:00:00Z\"}}"),
            ("}}", ",\"messageId\":\"n\"}}"),
            ("}}", "},\"project\":\"source\"}"),
        ] {
            assert!(!bounds.exclude(ordinary.replace(from, to).as_bytes()), "{to}");
        }
    }

    #[test]
    fn lines_and_their_backslashes_are_found() {
        let bytes = b"one\nt\\wo\\\n\nlast\\";
        let found: Vec<_> = lines_and_backslashes(7, bytes).collect();
        let lines: Vec<_> = scan::lines(7, bytes).collect();
        assert_eq!(found.iter().map(|line| (line.0, line.1)).collect::<Vec<_>>(), lines);
        assert_eq!(found.iter().map(|line| line.2).collect::<Vec<_>>(), [false, true, false, true]);
    }
}
