//! Makes an answer from tallies: rows in order, their total, and tokens without a price.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::error::UsageError;
use super::money::{TooLarge, Usd};
use super::question::{DIMENSIONS_MAX, Dimension, Period, Question, SortKey};
use super::tally::{
    Dimensions, ExplainedTurn, GrowingRow, LowerBounds, NumberMap, PeriodKey, QuestionRows, Sums, Times,
    UnpricedReason, UsageTally,
};
use crate::record::rows::UnarchivedLine;
use crate::record::time::{DAY_SECONDS, Instant, Zone, civil, date, month_after};

/// Length of a block in hours.
const BLOCK_HOURS: i64 = 5;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The question, with the source filter that blocks add to it.
    pub question: Question,
    /// The price tables of the answer.
    pub prices: PricesUsed,
    /// The ledger of the answer.
    pub ledger: LedgerUsed,
    /// The rows in order. The row of all others is last.
    pub rows: Vec<AnswerRow>,
    /// The sums of all rows.
    pub total: Sums,
    /// The cost that tokens read from caches would have had as plain input, minus their actual cost. Only tokens with
    /// both prices count.
    pub cache_saved: Usd,
    /// The number of lower-bound turns for each reason.
    pub lower_bounds: LowerBounds,
    /// Tokens without a price: most tokens first.
    pub unpriced: Vec<Unpriced>,
    /// The number of turns without a time that a bound left out.
    pub undated_left_out: u64,
    /// The time of the last turn; `None` if no turn has a time.
    pub last: Option<Instant>,
    /// The number of turns with a value that is no count.
    pub invalid_turns: u64,
    /// The number of rows that the last row adds up; `None` without such a row.
    pub other_rows: Option<u64>,
    /// The number of turns that were read, without filters and bounds.
    pub turns_seen: u64,
    /// The lines that gave no turn. Empty for answers from the archive, because builds name such lines.
    pub lines_left_out: LinesLeftOut,
}

/// Lines of the ledger that are not JSON, or turns that an archive would not store. A line in braces that cannot be a turn is
/// mostly not parsed, and then not counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinesLeftOut {
    /// The number of lines.
    pub count: u64,
    /// The first line.
    pub first: Option<UnarchivedLine>,
}

impl LinesLeftOut {
    /// Adds lines that come later in the ledger.
    pub(super) fn add(&mut self, later: Self) {
        self.count += later.count;
        self.first = self.first.take().or(later.first);
    }
}

/// The price tables of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricesUsed {
    /// The package of the built-in table.
    pub package: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the built-in table.
    pub sha256: String,
    /// The user's own table and its SHA-256.
    pub own: Option<(PathBuf, String)>,
}

/// The ledger of an answer, and the part of it that the answer includes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerUsed {
    /// The ledger.
    pub path: PathBuf,
    /// The number of ledger bytes that the answer includes.
    pub taken_in_bytes: u64,
    /// The length of the ledger in bytes.
    pub bytes: u64,
}

/// Tokens of a model without a price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpriced {
    /// The model, as the turns name it.
    pub model: String,
    /// Why.
    pub reason: UnpricedReason,
    /// How many.
    pub tokens: i128,
}

/// A row.
#[derive(Debug, Clone)]
pub struct AnswerRow {
    /// The period. `None` without a period in the question, for undated turns, and in the row of all others.
    pub period: Option<RowPeriod>,
    /// Values of the dimensions, in their order. Empty in the row of all others.
    pub values: Vec<Option<String>>,
    /// The sums.
    pub sums: Sums,
    /// The turns of the row by offset, if the question asks for explanations.
    pub turns_at: Vec<ExplainedTurn>,
    /// Whether this row adds up all rows beyond the limit.
    pub is_other: bool,
    /// The turns of the row, and whether each is a lower bound. Kept only if a turn may be in several rows that are
    /// added up.
    turn_numbers: Vec<(u64, bool)>,
}

/// The period of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPeriod {
    /// Its name.
    pub key: String,
    /// The first instant; for a session the time of its first turn, `None` without a time.
    pub start: Option<Instant>,
    /// The instant after the last; for a session the time of its last turn.
    pub end: Option<Instant>,
}

/// Returns the sum of all threads; `None` without a thread.
pub(super) fn merge(tallies: Vec<UsageTally<'_>>) -> Result<Option<UsageTally<'_>>, TooLarge> {
    let mut tallies = tallies.into_iter();
    let Some(mut all) = tallies.next() else { return Ok(None) };
    if let Some(error) = all.error {
        return Err(error);
    }
    for tally in tallies {
        all.merge(tally)?;
    }
    Ok(Some(all))
}

/// Returns the answers, for each question in turn. Empties the rows.
pub(super) fn finish(
    all: &mut UsageTally<'_>,
    prices: &PricesUsed,
    ledger: &LedgerUsed,
) -> Result<Vec<Answer>, UsageError> {
    let groups = std::mem::take(&mut all.groups);
    groups.into_iter().map(|group| finish_group(group, all, prices, ledger)).collect()
}

fn finish_group(
    mut group: QuestionRows<'_>,
    all: &UsageTally<'_>,
    prices: &PricesUsed,
    ledger: &LedgerUsed,
) -> Result<Answer, UsageError> {
    let question = group.question;
    let selection = &all.selections[group.selection];
    if question.period == Some(Period::Block) {
        put_into_blocks(&mut group, &selection.hours)?;
    }
    let mut keyed: Vec<((PeriodKey, Dimensions), GrowingRow)> = group.rows.drain().collect();
    fill(question, &mut keyed)?;
    let mut periods: HashMap<PeriodKey, Option<RowPeriod>> = HashMap::new();
    let mut rows: Vec<AnswerRow> = keyed
        .into_iter()
        .map(|((key, dimensions), mut growing)| {
            growing.turns_at.sort_by_key(|turn| turn.offset);
            let period = periods.entry(key).or_insert_with(|| row_period(&group, key, all));
            AnswerRow {
                period: period.clone(),
                values: dimensions[..question.by.len()]
                    .iter()
                    .map(|number| all.texts.get(*number).map(str::to_owned))
                    .collect(),
                sums: growing.sums,
                turns_at: growing.turns_at,
                is_other: false,
                turn_numbers: growing.turn_numbers,
            }
        })
        .collect();
    rows.sort_by(|a, b| order(question, a, b));
    let other_rows = limit(question, &mut rows)?;
    let mut unpriced: Vec<Unpriced> = selection
        .unpriced
        .iter()
        .filter(|(_, tokens)| **tokens > 0)
        .map(|((model, reason), tokens)| Unpriced {
            model: all.texts.get(*model).unwrap_or_default().to_owned(),
            reason: *reason,
            tokens: *tokens,
        })
        .collect();
    unpriced.sort_by(|a, b| {
        b.tokens
            .cmp(&a.tokens)
            .then_with(|| (&a.model, a.reason.as_str()).cmp(&(&b.model, b.reason.as_str())))
    });
    let calls = if question.has_tool() { selection.total.calls } else { 0 };
    Ok(Answer {
        question: question.clone(),
        prices: prices.clone(),
        ledger: ledger.clone(),
        rows,
        total: Sums { calls, ..selection.total },
        cache_saved: selection.cache_saved,
        lower_bounds: selection.lower_bounds,
        unpriced,
        undated_left_out: selection.undated_left_out,
        last: selection.last,
        invalid_turns: selection.lower_bounds.invalid_turns,
        other_rows,
        turns_seen: all.seen_turns,
        lines_left_out: LinesLeftOut::default(),
    })
}

/// The length of a block, and of a pause that ends a block.
pub(super) const BLOCK_SECONDS: i64 = BLOCK_HOURS * 3600;

/// The hour of UTC at which the block of each hour begins. The hours ascend. A block begins at the hour of its first turn.
/// A turn 5 hours or more after that hour, or after the turn before it, begins the next block. Both limits lie between two
/// hours, so an hour is never divided.
pub(super) fn block_starts(hours: &[(i64, Times)]) -> Vec<i64> {
    let mut block: Option<(i64, Instant)> = None;
    let start_of = |(hour, (first, last)): &(i64, Times)| {
        let start = match block {
            Some((start, before)) if *hour < start + BLOCK_HOURS && !is_after_pause(before, *first) => start,
            _ => *hour,
        };
        block = Some((start, *last));
        start
    };
    hours.iter().map(start_of).collect()
}

/// Whether the pause before a turn ends the last block.
pub(super) fn is_after_pause(before: Instant, turn: Instant) -> bool {
    turn >= before.plus_nanos(i128::from(BLOCK_SECONDS) * 1_000_000_000)
}

/// Joins hours of UTC into blocks.
fn put_into_blocks(group: &mut QuestionRows<'_>, hours: &NumberMap<i64, Times>) -> Result<(), TooLarge> {
    let mut hours: Vec<_> = hours.iter().map(|(hour, times)| (*hour, *times)).collect();
    hours.sort_unstable();
    let starts: HashMap<i64, i64> = hours.iter().map(|(hour, _)| *hour).zip(block_starts(&hours)).collect();
    for ((key, dimensions), row) in std::mem::take(&mut group.rows) {
        let key = match key {
            PeriodKey::Block(hour) => PeriodKey::Block(starts.get(&hour).copied().unwrap_or(hour)),
            key => key,
        };
        let own = group.rows.entry((key, dimensions)).or_default();
        own.sums.add(&row.sums)?;
        own.turns_at.extend(row.turns_at);
        own.turn_numbers.extend(row.turn_numbers);
    }
    Ok(())
}

/// The greatest number of periods that are filled.
const FILL_MAX: usize = 1_000_000;

/// Adds rows of zeros for calendar periods without turns, between the bounds or between the first and the last row.
fn fill(
    question: &Question,
    rows: &mut Vec<((PeriodKey, Dimensions), GrowingRow)>,
) -> Result<(), UsageError> {
    let Some(period) = question.period.filter(|period| question.fill && period.is_of_calendar()) else {
        return Ok(());
    };
    let zone = &question.zone;
    let start_of = |key: &PeriodKey| match key {
        PeriodKey::Hour(hour, offset) => Some(hour_bounds(zone, *hour, *offset).0),
        PeriodKey::Day(day) => Some(zone.day_start(*day)),
        _ => None,
    };
    let starts = || rows.iter().filter_map(|((key, _), _)| start_of(key));
    let first = question.since.map(|since| since.seconds).or_else(|| starts().min());
    let last = question.until.map(|until| until.seconds).or_else(|| starts().max());
    let (Some(first), Some(last)) = (first, last) else { return Ok(()) };
    let known: std::collections::HashSet<PeriodKey> = rows.iter().map(|((key, _), _)| *key).collect();
    let mut at = first;
    for _ in 0..FILL_MAX {
        if at > last {
            return Ok(());
        }
        let span = zone.span_at(Instant::at(at));
        let local = at + span.offset;
        let day = local.div_euclid(DAY_SECONDS);
        let (key, next) = match period {
            Period::Hour => {
                let hour = local.div_euclid(3600);
                (PeriodKey::Hour(hour, span.offset), ((hour + 1) * 3600 - span.offset).min(span.to))
            }
            Period::Day => (PeriodKey::Day(day), zone.day_end(day)),
            Period::Week => {
                let week = question.week_start.week_of(day);
                (PeriodKey::Day(week), zone.day_end(week + 6))
            }
            _ => {
                let (year, month, day_of_month) = civil(day);
                let month_end = zone.day_end(month_after(year, month) - 1);
                (PeriodKey::Day(day - i64::from(day_of_month) + 1), month_end)
            }
        };
        if !known.contains(&key) {
            rows.push(((key, [0; DIMENSIONS_MAX]), GrowingRow::default()));
        }
        at = next.max(at + 1);
    }
    Err(UsageError::TooManyPeriods { period: period.as_str(), periods_max: FILL_MAX })
}

/// The bounds of an hour of local time. If a change of the offset cuts an hour short, its row is the part of the hour with this offset.
fn hour_bounds(zone: &Zone, hour: i64, offset: i64) -> (i64, i64) {
    let (start, end) = (hour * 3600 - offset, (hour + 1) * 3600 - offset);
    let within = [start, end - 1, start + 1800, start + 900, start + 2700];
    let mut in_force = within.into_iter().map(|at| zone.span_at(Instant::at(at)));
    let span = in_force.find(|span| span.offset == offset);
    span.map_or((start, end), |span| (start.max(span.from), end.min(span.to)))
}

fn row_period(group: &QuestionRows<'_>, key: PeriodKey, all: &UsageTally<'_>) -> Option<RowPeriod> {
    let question = group.question;
    let zone = &question.zone;
    let of = |key: String, start: i64, end: i64| {
        Some(RowPeriod { key, start: Some(Instant::at(start)), end: Some(Instant::at(end)) })
    };
    match key {
        PeriodKey::None | PeriodKey::Undated => None,
        PeriodKey::Hour(hour, offset) => {
            let (start, end) = hour_bounds(zone, hour, offset);
            let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
            let name = format!(
                "{}T{:02}:00:00{sign}{:02}:{:02}",
                date(hour.div_euclid(24)),
                hour.rem_euclid(24),
                minutes / 60,
                minutes % 60
            );
            of(name, start, end)
        }
        PeriodKey::Day(day) => {
            let start = zone.day_start(day);
            match question.period {
                Some(Period::Week) => of(date(day), start, zone.day_end(day + 6)),
                Some(Period::Month) => {
                    let (year, month, _) = civil(day);
                    of(format!("{year:04}-{month:02}"), start, zone.day_end(month_after(year, month) - 1))
                }
                _ => of(date(day), start, zone.day_end(day)),
            }
        }
        PeriodKey::Session(source, session) => {
            let name = |number| all.texts.get(number).unwrap_or_default();
            let times = group.session_times.get(&(source, session));
            Some(RowPeriod {
                // The first `/` ends the source.
                key: format!("{}/{}", name(source).replace('%', "%25").replace('/', "%2F"), name(session)),
                start: times.map(|times| times.0),
                end: times.map(|times| times.1),
            })
        }
        PeriodKey::Block(hour) => {
            let start = Instant::at(hour * 3600);
            of(start.to_rfc3339_seconds(), hour * 3600, (hour + BLOCK_HOURS) * 3600)
        }
    }
}

/// Undated turns come first, then sessions without a time, then periods by their start.
fn by_period(a: &AnswerRow, b: &AnswerRow) -> Ordering {
    fn key(row: &AnswerRow) -> Option<(Option<Instant>, &str)> {
        row.period.as_ref().map(|period| (period.start, &*period.key))
    }
    key(a).cmp(&key(b))
}

/// Sorts texts by bytes, numbers by size, and absent values last.
fn by_value(dimension: &Dimension, a: Option<&str>, b: Option<&str>) -> Ordering {
    let digits = |text: &str| if dimension.is_number() { text.len() } else { 0 };
    (a.is_none(), a.map(digits), a).cmp(&(b.is_none(), b.map(digits), b))
}

fn order(question: &Question, a: &AnswerRow, b: &AnswerRow) -> Ordering {
    let value_of = |place: usize| {
        let [a, b] = [a, b].map(|row| row.values.get(place)?.as_deref());
        by_value(&question.by[place], a, b)
    };
    let sorted = question.sort.as_ref().map_or(Ordering::Equal, |(key, is_descending)| {
        let ascending = match key {
            SortKey::Period => by_period(a, b),
            SortKey::Usd => a.sums.usd.cmp(&b.sums.usd),
            SortKey::Tokens => a.sums.tokens().cmp(&b.sums.tokens()),
            SortKey::Turns => a.sums.turns.cmp(&b.sums.turns),
            SortKey::Count(place) => a.sums.counts[*place].cmp(&b.sums.counts[*place]),
            SortKey::Dimension(place) => value_of(*place),
        };
        if *is_descending { ascending.reverse() } else { ascending }
    });
    sorted
        .then_with(|| by_period(a, b))
        .then_with(|| b.sums.usd.cmp(&a.sums.usd))
        .then_with(|| b.sums.tokens().cmp(&a.sums.tokens()))
        .then_with(|| (0..question.by.len()).map(value_of).find(|o| o.is_ne()).unwrap_or(Ordering::Equal))
}

/// Adds up the rows beyond the question's limit in one row.
fn limit(question: &Question, rows: &mut Vec<AnswerRow>) -> Result<Option<u64>, TooLarge> {
    let Some(limit) = question.limit.filter(|limit| *limit < rows.len()) else { return Ok(None) };
    let others = rows.split_off(limit);
    let mut sums = Sums::default();
    for row in &others {
        sums.add(&row.sums)?;
    }
    if question.has_tool() {
        // A turn that called several of these tools counts once.
        let numbers = others.iter().flat_map(|row| row.turn_numbers.iter().copied());
        let turns: HashMap<u64, bool> = numbers.collect();
        sums.turns = turns.len() as u64;
        sums.lower_bound_turns = turns.values().filter(|is_lower_bound| **is_lower_bound).count() as u64;
    }
    rows.push(AnswerRow {
        period: None,
        values: Vec::new(),
        sums,
        turns_at: Vec::new(),
        is_other: true,
        turn_numbers: Vec::new(),
    });
    Ok(Some(others.len() as u64))
}

impl Answer {
    /// Adds up all rows after the first `limit_rows` in one row, as a limit of the question does. Not for tools,
    /// because the turns of their rows are no longer known.
    #[cfg(feature = "report")]
    pub(crate) fn limit_rows(&mut self, limit_rows: usize) -> Result<(), TooLarge> {
        let question = Question { limit: Some(limit_rows), ..self.question.clone() };
        self.other_rows = limit(&question, &mut self.rows)?;
        Ok(())
    }

    /// Returns whether the cost is only a lower bound.
    pub fn is_lower_bound(sums: &Sums) -> bool {
        sums.unpriced_tokens > 0 || sums.lower_bound_turns > 0
    }
}

mod document {
    //! Prints an answer as the JSON document that docs/usage.md describes.

    use serde::Serialize;
    use serde::ser::{Error, SerializeMap, Serializer};
    use serde_json::value::RawValue;

    use super::{Answer, AnswerRow, BTreeMap, ExplainedTurn, Question, RowPeriod, Sums, Usd};
    use crate::usage::prices::Size;

    /// A number with all its digits.
    struct ExactUsd(Usd);

    impl Serialize for ExactUsd {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            RawValue::from_string(self.0.to_string()).map_err(S::Error::custom)?.serialize(serializer)
        }
    }

    fn sums<M: SerializeMap>(map: &mut M, sums: &Sums, has_calls: bool) -> Result<(), M::Error> {
        map.serialize_entry("turns", &sums.turns)?;
        if has_calls {
            map.serialize_entry("calls", &sums.calls)?;
        }
        for (name, count) in Sums::COUNTS.iter().zip(sums.counts) {
            map.serialize_entry(name, &count)?;
        }
        map.serialize_entry("tokens", &sums.tokens())?;
        map.serialize_entry("usd", &ExactUsd(sums.usd))?;
        map.serialize_entry("unpricedTokens", &sums.unpriced_tokens)?;
        map.serialize_entry("lowerBoundTurns", &sums.lower_bound_turns)
    }

    impl Serialize for RowPeriod {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(Some(3))?;
            map.serialize_entry("key", &self.key)?;
            map.serialize_entry("start", &self.start.map(super::Instant::to_rfc3339))?;
            map.serialize_entry("end", &self.end.map(super::Instant::to_rfc3339))?;
            map.end()
        }
    }

    /// A row with its question.
    struct RowDocument<'a>(&'a Question, &'a AnswerRow);

    impl Serialize for RowDocument<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let Self(question, row) = self;
            let mut map = serializer.serialize_map(None)?;
            if row.is_other {
                map.serialize_entry("other", &true)?;
            } else {
                if question.period.is_some() {
                    map.serialize_entry("period", &row.period)?;
                }
                for (dimension, value) in question.by.iter().zip(&row.values) {
                    let number = value.as_ref().filter(|_| dimension.is_number());
                    match number.and_then(|value| value.parse::<u8>().ok()) {
                        Some(number) => map.serialize_entry(&dimension.name(), &number)?,
                        None => map.serialize_entry(&dimension.name(), value)?,
                    }
                }
            }
            sums(&mut map, &row.sums, question.has_tool())?;
            if question.explain && !row.is_other {
                map.serialize_entry("turnsAt", &row.turns_at)?;
            }
            map.end()
        }
    }

    impl Serialize for ExplainedTurn {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("offset", &self.offset)?;
            map.serialize_entry("length", &self.length)?;
            map.serialize_entry("ts", &self.ts)?;
            map.serialize_entry("source", &self.source)?;
            map.serialize_entry("sessionId", &self.session)?;
            map.serialize_entry("messageId", &self.message)?;
            map.serialize_entry("model", &self.model)?;
            map.serialize_entry("usd", &self.usd.map(ExactUsd))?;
            let priced = self.priced.as_ref().map(|priced| {
                let request = match priced.size {
                    Size::AllInput => serde_json::Value::Null,
                    Size::Tokens(tokens) => tokens.into(),
                    Size::Unknown => "unknown".into(),
                };
                serde_json::json!({
                    "provider": priced.provider, "model": priced.model, "context": priced.context,
                    "request": request
                })
            });
            map.serialize_entry("priced", &priced)?;
            map.serialize_entry("superseded", &self.superseded)?;
            if let Some(share) = &self.share {
                let share: BTreeMap<&str, i128> = Sums::COUNTS.into_iter().zip(*share).collect();
                map.serialize_entry("share", &share)?;
            }
            map.end()
        }
    }

    impl Serialize for Answer {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let question = &self.question;
            let mut map = serializer.serialize_map(None)?;
            map.serialize_entry("version", &1)?;
            map.serialize_entry("period", &question.period.map(super::Period::as_str))?;
            let by: Vec<String> = question.by.iter().map(super::Dimension::name).collect();
            map.serialize_entry("by", &by)?;
            map.serialize_entry("zone", question.zone.name())?;
            map.serialize_entry("weekStart", question.week_start.as_str())?;
            map.serialize_entry("since", &question.since.map(super::Instant::to_rfc3339_nanos))?;
            map.serialize_entry("until", &question.until.map(super::Instant::to_rfc3339_nanos))?;
            map.serialize_entry("filters", &FiltersOf(question))?;
            map.serialize_entry(
                "prices",
                &serde_json::json!({
                    "package": self.prices.package, "version": self.prices.version, "sha256": self.prices.sha256,
                    "own": self.prices.own.as_ref().map(|(path, sha256)| serde_json::json!({
                        "path": path.to_string_lossy(), "sha256": sha256
                    })),
                }),
            )?;
            map.serialize_entry(
                "ledger",
                &serde_json::json!({
                    "path": self.ledger.path.to_string_lossy(), "takenIn": self.ledger.taken_in_bytes,
                    "bytes": self.ledger.bytes
                }),
            )?;
            let rows: Vec<RowDocument<'_>> = self.rows.iter().map(|row| RowDocument(question, row)).collect();
            map.serialize_entry("rows", &rows)?;
            map.serialize_entry("total", &Total(question, &self.total))?;
            let unpriced = self.unpriced.iter().map(|super::Unpriced { model, reason, tokens }| {
                UnpricedDocument { model, reason: reason.as_str(), tokens: *tokens }
            });
            let unpriced: Vec<_> = unpriced.collect();
            map.serialize_entry("unpriced", &unpriced)?;
            map.serialize_entry("leftOut", &serde_json::json!({"undatedTurns": self.undated_left_out}))?;
            map.serialize_entry("invalidTurns", &self.invalid_turns)?;
            map.serialize_entry("other", &self.other_rows)?;
            map.end()
        }
    }

    #[derive(Serialize)]
    struct UnpricedDocument<'a> {
        model: &'a str,
        reason: &'a str,
        tokens: i128,
    }

    struct Total<'a>(&'a Question, &'a Sums);

    impl Serialize for Total<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(None)?;
            sums(&mut map, self.1, self.0.has_tool())?;
            map.end()
        }
    }

    struct FiltersOf<'a>(&'a Question);

    impl Serialize for FiltersOf<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let filters = &self.0.filters;
            let mut map = serializer.serialize_map(None)?;
            for (name, patterns) in filters.lists() {
                if !patterns.is_empty() {
                    let texts: Vec<&str> = patterns.iter().map(crate::record::Pattern::as_str).collect();
                    map.serialize_entry(name, &texts)?;
                }
            }
            if !filters.tag.is_empty() {
                let pairs = filters.tag.iter().map(|(key, value)| format!("{key}={}", value.as_str()));
                map.serialize_entry("tag", &pairs.collect::<Vec<_>>())?;
            }
            map.end()
        }
    }
}
