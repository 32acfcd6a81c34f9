//! Adding up: a turn goes in, and the sums of its row grow.
//!
//! One [`Tally`] a thread; they are merged at the end. Guarantees: sums are whole numbers, checked, so neither the order of turns
//! nor the number of threads is of account.

use std::borrow::Cow;
use std::collections::HashMap;

use super::instant::{DAY_SECONDS, Instant, civil};
use super::money::{TooLarge, Usd};
use super::prices::{Context, Counts, PricedModel, Prices, Rates, Size};
use super::question::{Dimension, Pattern, Period, Question};
use super::turn::{PricingKeys, RecordedUsage};
use super::zone::{Span, weekday};
use crate::archive::query::{StoredNumber, TurnColumns, TurnFields};
use crate::scan::json::Document;

/// Sums over turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many turns.
    pub turns: u64,
    /// How many tool calls, where tools are asked for.
    pub calls: u64,
    /// Tokens, as [`Sums::COUNTS`] names them.
    pub counts: [i128; 6],
    /// The cost of everything that has a price.
    pub usd: Usd,
    /// Tokens without a price.
    pub unpriced_tokens: i128,
    /// Turns of which usage or price is only a lower bound.
    pub lower_bound_turns: u64,
}

impl Sums {
    /// The names of [`Sums::counts`]: `reasoning` is a part of `output`.
    pub const COUNTS: [&'static str; 6] =
        ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"];

    /// All tokens.
    pub fn tokens(&self) -> i128 {
        let [input, output, _, cache_read, cache_create_5m, cache_create_1h] = self.counts;
        input + output + cache_read + cache_create_5m + cache_create_1h
    }

    pub(super) fn add(&mut self, other: &Self) -> Result<(), TooLarge> {
        self.turns += other.turns;
        self.calls += other.calls;
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            // Counts are at most 10^12, so their sum fits whatever their number.
            *sum += count;
        }
        self.usd = self.usd.plus(other.usd)?;
        self.unpriced_tokens += other.unpriced_tokens;
        self.lower_bound_turns += other.lower_bound_turns;
        Ok(())
    }
}

/// Why tokens have no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Only some classes of the model have none.
    Class,
    /// No table knows the model.
    Model,
    /// The turn has no time.
    Undated,
}

impl Reason {
    /// As documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Model => "model",
            Self::Undated => "undated",
        }
    }
}

/// A turn behind a row.
#[derive(Debug, Clone)]
pub struct ExplainedTurn {
    /// Where its line begins in the ledger, in bytes.
    pub offset: u64,
    /// The bytes of the line, LF included.
    pub length: u64,
    /// Its time, as the line has it.
    pub ts: String,
    /// Its source.
    pub source: String,
    /// Its session.
    pub session: String,
    /// Its message.
    pub message: String,
    /// Its model.
    pub model: String,
    /// Its cost; none without a price.
    pub usd: Option<Usd>,
    /// What it was priced as.
    pub priced: Option<PricedAs>,
    /// Offsets of earlier lines of the same turn.
    pub superseded: Vec<u64>,
    /// The row's share of its tokens, where a turn is divided among tools.
    pub share: Option<[i128; 6]>,
}

/// What a turn was priced as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedAs {
    /// The provider.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The context of the request.
    pub context: Context,
    /// Its size.
    pub size: Size,
}

/// Texts as numbers; 0 is none.
#[derive(Debug)]
pub(super) struct Texts {
    texts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Texts {
    fn new() -> Self {
        Self { texts: vec!["".into()], numbers: HashMap::new() }
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    fn optional(&mut self, text: Option<&str>) -> u32 {
        text.map_or(0, |text| self.number(text))
    }

    pub(super) fn get(&self, number: u32) -> Option<&str> {
        (number > 0).then(|| &*self.texts[number as usize])
    }
}

/// Which period a turn belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PeriodKey {
    /// No period was asked for.
    None,
    /// It has no time.
    Undated,
    /// An hour of local time, and the offset in force.
    Hour(i64, i64),
    /// A day, the first of a week, or of a month.
    Day(i64),
    /// A source and a session.
    Session(u32, u32),
    /// An hour of UTC; blocks are made of them.
    Block(i64),
}

pub(super) type Dimensions = [u32; super::question::DIMENSIONS_MAX];

/// A row under way.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub sums: Sums,
    pub turns_at: Vec<ExplainedTurn>,
    /// The turns in it and whether each is a lower bound; only where rows of tools may be added up.
    pub turn_numbers: Vec<(u64, bool)>,
}

/// First and last time.
pub(super) type Times = (Instant, Instant);

/// What an enrichment says, as far as it is asked.
#[derive(Debug)]
struct Enrichment {
    json: Box<[u8]>,
    keys: PricingKeys,
    /// The values of the tags that are dimensions, in their order.
    tags: Dimensions,
    passes: bool,
}

/// Enrichments are kept up to this number: those of most turns are one of a few.
const ENRICHMENTS_MAX: usize = 8192;
/// A count above this is none.
const COUNT_MAX: u64 = 1_000_000_000_000;

/// The sums of one thread.
pub(super) struct Tally<'q> {
    question: &'q Question,
    prices: &'q Prices,
    pub texts: Texts,
    pub rows: HashMap<(PeriodKey, Dimensions), Row>,
    pub total: Sums,
    pub unpriced: HashMap<(u32, Reason), i128>,
    pub undated_left_out: u64,
    pub invalid_turns: u64,
    /// All turns, whatever the filters.
    pub seen_turns: u64,
    pub session_times: HashMap<(u32, u32), Times>,
    /// The turns of each hour of UTC, whatever the bounds.
    pub hours: HashMap<i64, Times>,
    pub error: Option<TooLarge>,
    span: Option<Span>,
    document: Document,
    enrichments: Vec<Enrichment>,
    enrichment_numbers: HashMap<Box<[u8]>, u32>,
    models: HashMap<(u32, u32), Option<PricedModel<'q>>>,
    /// The enrichment, the model's text and the model of the turn before, which are mostly those of the next one.
    last: (usize, u32, Option<PricedModel<'q>>),
}

/// Where a turn's line is, for explanations.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineAt<'l> {
    pub offset: u64,
    pub length: u64,
    pub superseded: &'l [u64],
}

/// A turn's price.
struct Priced<'q> {
    model: Option<PricedModel<'q>>,
    rates: Option<Rates>,
    size: Size,
}

impl<'q> Tally<'q> {
    pub(super) fn new(question: &'q Question, prices: &'q Prices) -> Self {
        Self {
            question,
            prices,
            texts: Texts::new(),
            rows: HashMap::new(),
            total: Sums::default(),
            unpriced: HashMap::new(),
            undated_left_out: 0,
            invalid_turns: 0,
            seen_turns: 0,
            session_times: HashMap::new(),
            hours: HashMap::new(),
            error: None,
            span: None,
            document: Document::default(),
            enrichments: Vec::new(),
            enrichment_numbers: HashMap::new(),
            models: HashMap::new(),
            last: (0, 0, None),
        }
    }

    /// The columns that the question needs.
    pub(super) fn columns(question: &Question) -> TurnColumns {
        let filters = &question.filters;
        let by = |dimension: &Dimension| question.by.contains(dimension);
        TurnColumns {
            keys: by(&Dimension::Session)
                || question.period == Some(Period::Session)
                || !filters.session.is_empty(),
            projects: by(&Dimension::Project) || !filters.project.is_empty(),
            activity: by(&Dimension::Activity) || !filters.activity.is_empty(),
            subagents: by(&Dimension::Subagent) || !filters.subagent.is_empty(),
            calls: question.has_tool(),
        }
    }

    /// Adds a turn.
    pub(super) fn add(&mut self, turn: &TurnFields<'_>, line: Option<LineAt<'_>>) {
        if self.error.is_none()
            && let Err(error) = self.try_add(turn, line)
        {
            self.error = Some(error);
        }
    }

    fn try_add(&mut self, turn: &TurnFields<'_>, line: Option<LineAt<'_>>) -> Result<(), TooLarge> {
        self.seen_turns += 1;
        let question = self.question;
        let filters = &question.filters;
        let passes = |patterns: &[Pattern], value: Option<&str>| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(value))
        };
        let subagent = match turn.subagent_type {
            Some(name) if !name.is_empty() => name,
            _ if turn.is_sidechain => "subagent",
            _ => "main",
        };
        let is_of_project = filters.project.is_empty()
            || filters.project.iter().any(|pattern| match pattern.as_str() {
                "(none)" => turn.project.is_none() && turn.project_key.is_none(),
                _ => pattern.matches(turn.project) || pattern.matches(turn.project_key),
            });
        if !is_of_project
            || !passes(&filters.model, Some(turn.model))
            || !passes(&filters.source, Some(turn.source))
            || !passes(&filters.session, Some(turn.session))
            || !passes(&filters.subagent, Some(subagent))
            || !passes(&filters.activity, turn.activity)
        {
            return Ok(());
        }
        let enrichment_number = self.enrichment(turn.enrichment);
        if !self.enrichments[enrichment_number].passes {
            return Ok(());
        }
        let (last_enrichment, last_number, last_model) = self.last;
        let is_last = self.texts.get(last_number) == Some(turn.model);
        let model_number = if is_last { last_number } else { self.texts.number(turn.model) };
        let model = if is_last && last_enrichment == enrichment_number {
            last_model
        } else {
            self.model_of(enrichment_number, model_number, turn.model)
        };
        self.last = (enrichment_number, model_number, model);
        let enrichment = &self.enrichments[enrichment_number];
        let provider = model.map(|model| model.provider()).or(enrichment.keys.provider.as_deref());
        if !passes(&filters.provider, provider) {
            return Ok(());
        }
        let at = Instant::of_turn(turn.ts);
        if let (Some(Period::Block), Some(at)) = (question.period, at) {
            widen(self.hours.entry(at.seconds.div_euclid(3600)).or_insert((at, at)), at);
        }
        let is_bound = question.since.is_some() || question.until.is_some();
        match at {
            None if is_bound => {
                self.undated_left_out += 1;
                return Ok(());
            }
            Some(at)
                if question.since.is_some_and(|since| at < since)
                    || question.until.is_some_and(|until| at > until) =>
            {
                return Ok(());
            }
            _ => {}
        }

        let (usage, is_invalid) = usage_of(turn);
        let counts = usage.counts(turn.source);
        let size = enrichment.keys.size(turn.source);
        let rates = at.and_then(|at| Some(model?.rates(at, &enrichment.keys.context, size, &counts)));
        let priced = Priced { model, rates, size };
        let web_searches = enrichment.keys.web_searches;
        let mut sums = sums_of(&counts, priced.rates.as_ref(), web_searches, 1)?;
        let is_partial = matches!(turn.fidelity, Some("partial" | "cost-only"));
        let is_tier_unknown = priced.rates.is_some_and(|rates| rates.is_tier_unknown);
        let is_lower_bound = is_partial || is_tier_unknown || is_invalid;
        sums.turns = 1;
        sums.lower_bound_turns = u64::from(is_lower_bound);
        self.invalid_turns += u64::from(is_invalid);
        if sums.unpriced_tokens > 0 {
            let reason = match (at, model) {
                (None, _) => Reason::Undated,
                (_, None) => Reason::Model,
                _ => Reason::Class,
            };
            *self.unpriced.entry((model_number, reason)).or_default() += sums.unpriced_tokens;
        }

        let mut dimensions = Dimensions::default();
        let mut tag = 0;
        for (place, dimension) in question.by.iter().enumerate() {
            dimensions[place] = match dimension {
                Dimension::Model => model_number,
                Dimension::Provider => self.texts.optional(provider),
                Dimension::Project => self.texts.optional(turn.project_key.or(turn.project)),
                Dimension::Source => self.texts.number(turn.source),
                Dimension::Session => self.texts.number(turn.session),
                Dimension::Subagent => self.texts.number(subagent),
                Dimension::Activity => self.texts.optional(turn.activity),
                Dimension::Tag(_) | Dimension::Machine => {
                    tag += 1;
                    enrichment.tags[tag - 1]
                }
                Dimension::Tool => 0,
                Dimension::Weekday | Dimension::HourOfDay => match at {
                    None => 0,
                    Some(at) => {
                        let local = at.seconds + span(&mut self.span, question, at).offset;
                        let number = if *dimension == Dimension::Weekday {
                            weekday(local.div_euclid(DAY_SECONDS)) + 1
                        } else {
                            local.rem_euclid(DAY_SECONDS) / 3600
                        };
                        self.texts.number(&number.to_string())
                    }
                },
            };
        }
        let period = self.period_of(turn, at);

        let explained = line.map(|line| {
            let enrichment = &self.enrichments[enrichment_number];
            explain(turn, line, &priced, &enrichment.keys.context, sums.usd)
        });
        let Some(tool) = question.by.iter().position(|dimension| *dimension == Dimension::Tool) else {
            self.total.add(&sums)?;
            return self.add_to_row((period, dimensions), &sums, explained);
        };
        sums.calls = turn.calls.len() as u64;
        self.total.add(&sums)?;
        for (name, share) in shares(turn.calls, &counts, priced.rates.as_ref(), web_searches)? {
            let number = name.map_or(0, |name| self.texts.number(name));
            dimensions[tool] = number;
            let share = Sums { turns: 1, lower_bound_turns: sums.lower_bound_turns, ..share };
            let explained = explained.clone().map(|turn| ExplainedTurn {
                usd: turn.usd.map(|_| share.usd),
                share: Some(share.counts),
                ..turn
            });
            self.add_to_row((period, dimensions), &share, explained)?;
            if question.limit.is_some()
                && let Some(row) = self.rows.get_mut(&(period, dimensions))
            {
                row.turn_numbers.push((self.seen_turns, is_lower_bound));
            }
        }
        Ok(())
    }

    fn add_to_row(
        &mut self,
        key: (PeriodKey, Dimensions),
        sums: &Sums,
        explained: Option<ExplainedTurn>,
    ) -> Result<(), TooLarge> {
        let row = self.rows.entry(key).or_default();
        row.turns_at.extend(explained);
        row.sums.add(sums)
    }

    fn period_of(&mut self, turn: &TurnFields<'_>, at: Option<Instant>) -> PeriodKey {
        let question = self.question;
        let Some(period) = question.period else { return PeriodKey::None };
        if period == Period::Session {
            let key = (self.texts.number(turn.source), self.texts.number(turn.session));
            if let Some(at) = at {
                widen(self.session_times.entry(key).or_insert((at, at)), at);
            }
            return PeriodKey::Session(key.0, key.1);
        }
        let Some(at) = at else { return PeriodKey::Undated };
        if period == Period::Block {
            return PeriodKey::Block(at.seconds.div_euclid(3600));
        }
        let offset = span(&mut self.span, question, at).offset;
        let local = at.seconds + offset;
        let day = local.div_euclid(DAY_SECONDS);
        match period {
            Period::Hour => PeriodKey::Hour(local.div_euclid(3600), offset),
            Period::Week => PeriodKey::Day(question.week_start.week_of(day)),
            Period::Month => PeriodKey::Day(day - i64::from(civil(day).2) + 1),
            _ => PeriodKey::Day(day),
        }
    }

    /// The number of an enrichment that has been read.
    fn enrichment(&mut self, json: &[u8]) -> usize {
        if self.enrichments.get(self.last.0).is_some_and(|last| *last.json == *json) {
            return self.last.0;
        }
        if let Some(number) = self.enrichment_numbers.get(json) {
            return *number as usize;
        }
        if self.enrichments.len() >= ENRICHMENTS_MAX {
            self.last = (0, 0, None);
            self.enrichments.clear();
            self.enrichment_numbers.clear();
            self.models.clear();
        }
        let root = self.document.parse(json).ok();
        let get = |key: &str| -> Option<Cow<'static, str>> {
            let text = root?.get(key)?.as_js_str()?;
            Some(Cow::Owned(text.to_utf8_lossy().into_owned()))
        };
        let question = self.question;
        let mut tags = Dimensions::default();
        let keys = question.by.iter().filter_map(|dimension| match dimension {
            Dimension::Tag(key) => Some(&**key),
            Dimension::Machine => Some("machine"),
            _ => None,
        });
        for (tag, key) in tags.iter_mut().zip(keys) {
            *tag = self.texts.optional(get(key).as_deref());
        }
        let filters = &question.filters;
        // Of several patterns of one key any will do.
        let passes_tags = filters.tag.iter().all(|(key, _)| {
            let value = get(key);
            let mut same = filters.tag.iter().filter(|(other, _)| other == key);
            same.any(|(_, pattern)| pattern.matches(value.as_deref()))
        });
        let machine = get("machine");
        let mut machines = filters.machine.iter();
        let passes_machine =
            filters.machine.is_empty() || machines.any(|pattern| pattern.matches(machine.as_deref()));
        let keys = PricingKeys::read(get);
        let number = self.enrichments.len();
        self.enrichments.push(Enrichment {
            json: json.into(),
            keys,
            tags,
            passes: passes_tags && passes_machine,
        });
        self.enrichment_numbers.insert(json.into(), number as u32);
        number
    }

    fn model_of(&mut self, enrichment: usize, number: u32, model: &str) -> Option<PricedModel<'q>> {
        let provider = self.enrichments[enrichment].keys.provider.as_deref();
        let prices = self.prices;
        let find = || prices.of_turn(provider, model);
        *self.models.entry((enrichment as u32, number)).or_insert_with(find)
    }

    /// Takes over what another thread added up.
    pub(super) fn merge(&mut self, other: Self) -> Result<(), TooLarge> {
        if let Some(error) = other.error {
            return Err(error);
        }
        let numbers: Vec<u32> = (0..other.texts.texts.len() as u32)
            .map(|number| self.texts.optional(other.texts.get(number)))
            .collect();
        let here = |number: u32| numbers[number as usize];
        for ((period, dimensions), row) in other.rows {
            let period = match period {
                PeriodKey::Session(source, session) => PeriodKey::Session(here(source), here(session)),
                period => period,
            };
            let own = self.rows.entry((period, dimensions.map(here))).or_default();
            own.sums.add(&row.sums)?;
            own.turns_at.extend(row.turns_at);
            let seen = self.seen_turns;
            own.turn_numbers
                .extend(row.turn_numbers.iter().map(|(number, is_bound)| (seen + number, *is_bound)));
        }
        self.total.add(&other.total)?;
        for ((model, reason), tokens) in other.unpriced {
            *self.unpriced.entry((here(model), reason)).or_default() += tokens;
        }
        self.undated_left_out += other.undated_left_out;
        self.invalid_turns += other.invalid_turns;
        self.seen_turns += other.seen_turns;
        for ((source, session), times) in other.session_times {
            let own = self.session_times.entry((here(source), here(session))).or_insert(times);
            widen(own, times.0);
            widen(own, times.1);
        }
        for (hour, times) in other.hours {
            let own = self.hours.entry(hour).or_insert(times);
            widen(own, times.0);
            widen(own, times.1);
        }
        Ok(())
    }
}

fn widen(times: &mut Times, at: Instant) {
    times.0 = times.0.min(at);
    times.1 = times.1.max(at);
}

/// The offset in force; most turns are in the span of the turn before.
fn span(known: &mut Option<Span>, question: &Question, at: Instant) -> Span {
    match known {
        Some(span) if (span.from..span.to).contains(&at.seconds) => *span,
        _ => *known.insert(question.zone.span_at(at)),
    }
}

/// The usage of a turn, and whether a value was no count and is taken for 0.
fn usage_of(turn: &TurnFields<'_>) -> (RecordedUsage, bool) {
    let mut is_invalid = false;
    let counts = turn.usage.map(|number| {
        let count = match number {
            StoredNumber::Whole(number) => u64::try_from(number).ok(),
            StoredNumber::Real(number) => {
                (number.fract() == 0.0 && (0.0..=COUNT_MAX as f64).contains(&number)).then_some(number as u64)
            }
            StoredNumber::None => None,
        };
        let count = count.filter(|count| *count <= COUNT_MAX);
        is_invalid |= count.is_none();
        count.unwrap_or(0)
    });
    let [input, output, reasoning, cache_read, cache_create_5m, cache_create_1h] = counts;
    let usage = RecordedUsage { input, output, reasoning, cache_read, cache_create_5m, cache_create_1h };
    (usage, is_invalid)
}

/// Tokens and cost of counts; without prices everything is unpriced.
fn sums_of(
    counts: &Counts,
    rates: Option<&Rates>,
    web_searches: u64,
    requests: u64,
) -> Result<Sums, TooLarge> {
    let mut sums = Sums {
        counts: [
            counts.input,
            counts.output,
            counts.reasoning,
            counts.cache_read,
            counts.cache_write_5m,
            counts.cache_write_1h,
        ]
        .map(i128::from),
        ..Sums::default()
    };
    match rates {
        None => sums.unpriced_tokens = sums.tokens(),
        Some(rates) => {
            let charge = rates.charge(counts, web_searches, requests)?;
            sums.usd = charge.usd;
            sums.unpriced_tokens = i128::from(charge.unpriced_tokens);
        }
    }
    Ok(sums)
}

/// What each tool gets of a turn: of `n` calls each gets the whole part of a count divided by `n`, and the first ones, as many as
/// are left over, one more. Searches and the request itself go to the first call.
fn shares<'t>(
    calls: &'t [String],
    counts: &Counts,
    rates: Option<&Rates>,
    web_searches: u64,
) -> Result<Vec<(Option<&'t str>, Sums)>, TooLarge> {
    let n = calls.len() as u64;
    if n == 0 {
        return Ok(vec![(None, sums_of(counts, rates, web_searches, 1)?)]);
    }
    let mut shares: Vec<(Option<&str>, Sums)> = Vec::new();
    for (place, name) in (0..).zip(calls) {
        let share = |count: u64| count / n + u64::from(place < count % n);
        let counts = Counts {
            input: share(counts.input),
            cache_read: share(counts.cache_read),
            cache_write_5m: share(counts.cache_write_5m),
            cache_write_1h: share(counts.cache_write_1h),
            output: share(counts.output),
            reasoning: share(counts.reasoning),
        };
        let (searches, requests) = if place == 0 { (web_searches, 1) } else { (0, 0) };
        let mut sums = sums_of(&counts, rates, searches, requests)?;
        sums.calls = 1;
        match shares.iter_mut().find(|(known, _)| *known == Some(name)) {
            Some((_, known)) => known.add(&sums)?,
            None => shares.push((Some(name), sums)),
        }
    }
    Ok(shares)
}

fn explain(
    turn: &TurnFields<'_>,
    line: LineAt<'_>,
    priced: &Priced<'_>,
    context: &Context,
    usd: Usd,
) -> ExplainedTurn {
    let is_priced = priced.rates.is_some();
    ExplainedTurn {
        offset: line.offset,
        length: line.length,
        ts: turn.ts.to_owned(),
        source: turn.source.to_owned(),
        session: turn.session.to_owned(),
        message: turn.message.to_owned(),
        model: turn.model.to_owned(),
        usd: is_priced.then_some(usd),
        priced: priced.model.filter(|_| is_priced).map(|model| PricedAs {
            provider: model.provider().to_owned(),
            model: model.model().to_owned(),
            context: context.clone(),
            size: priced.size,
        }),
        superseded: line.superseded.to_vec(),
        share: None,
    }
}
