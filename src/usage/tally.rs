//! Adds turns to the sums of their rows.
//!
//! Each thread has a [`UsageTally`], and the tallies are merged at the end. Guarantees: sums are whole numbers, so the order of
//! turns and the number of threads do not change them. A sum or a cost out of range is an error.

use std::borrow::Cow;
use std::collections::HashMap;

use super::money::{TooLarge, Usd};
use super::prices::{PricedModel, Prices, Rates, RequestContext, Size, TokenCounts};
use super::question::{Dimension, Filters, Period, Question};
use super::turn::{PricingKeys, RecordedUsage};
use crate::archive::query::{StoredNumber, TurnColumns, TurnFields};
use crate::record::time::{DAY_SECONDS, Instant, Span, civil, weekday};
use crate::record::{passes, passes_tags};
use crate::scan::json::Document;

/// Sums over turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// How many turns.
    pub turns: u64,
    /// The number of tool calls, if the question has the dimension tool.
    pub calls: u64,
    /// Tokens in the order of [`Sums::COUNTS`].
    pub counts: [i128; 6],
    /// The cost of all tokens with a price.
    pub usd: Usd,
    /// Tokens without a price.
    pub unpriced_tokens: i128,
    /// The number of turns whose usage or price is only a lower bound.
    pub lower_bound_turns: u64,
}

impl Sums {
    /// The names of [`Sums::counts`]: `reasoning` is a part of `output`.
    pub const COUNTS: [&'static str; 6] =
        ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"];

    /// Returns all tokens.
    pub fn tokens(&self) -> i128 {
        let [input, output, _, cache_read, cache_create_5m, cache_create_1h] = self.counts;
        input + output + cache_read + cache_create_5m + cache_create_1h
    }

    /// Adds a part of a sum that is within the range.
    #[cfg(feature = "report")]
    pub(crate) fn grow(&mut self, part: &Self) {
        // Costs are not negative, so a part of a sum within the range is within the range too.
        let _ = self.add(part);
    }

    pub(super) fn add(&mut self, other: &Self) -> Result<(), TooLarge> {
        self.turns += other.turns;
        self.calls += other.calls;
        for (sum, count) in self.counts.iter_mut().zip(other.counts) {
            // Counts are at most 10^12, so any possible number of them fits.
            *sum += count;
        }
        self.usd = self.usd.plus(other.usd)?;
        self.unpriced_tokens += other.unpriced_tokens;
        self.lower_bound_turns += other.lower_bound_turns;
        Ok(())
    }
}

/// The number of lower-bound turns for each reason. A turn may have several reasons; [`Sums::lower_bound_turns`] counts
/// it once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LowerBounds {
    /// Turns whose agent recorded only a part of the usage.
    pub partial_turns: u64,
    /// Turns whose request size, and so whose price, is unknown.
    pub tier_unknown_turns: u64,
    /// Turns with a value that is no count.
    pub invalid_turns: u64,
}

impl LowerBounds {
    fn add(&mut self, other: Self) {
        self.partial_turns += other.partial_turns;
        self.tier_unknown_turns += other.tier_unknown_turns;
        self.invalid_turns += other.invalid_turns;
    }
}

/// Why tokens have no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnpricedReason {
    /// Some classes of the model have no price.
    Class,
    /// No table has the model.
    Model,
    /// The turn has no time.
    Undated,
}

impl UnpricedReason {
    /// As documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Class => "class",
            Self::Model => "model",
            Self::Undated => "undated",
        }
    }
}

/// A turn of a row, for explanations.
#[derive(Debug, Clone)]
pub struct ExplainedTurn {
    /// Byte offset of the turn's line in the ledger.
    pub offset: u64,
    /// Length of the line in bytes, LF included.
    pub length: u64,
    /// The time, as in the line.
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
    /// The request as which the turn was priced.
    pub priced: Option<PricedAs>,
    /// Offsets of earlier lines of the same turn.
    pub superseded: Vec<u64>,
    /// The row's share of the turn's tokens, if turns are divided among tools.
    pub share: Option<[i128; 6]>,
}

/// The request as which a turn was priced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PricedAs {
    /// The provider.
    pub provider: String,
    /// The model.
    pub model: String,
    /// The context of the request.
    pub context: RequestContext,
    /// Its size.
    pub size: Size,
}

/// A map whose keys are numbers that this program assigns. The standard hasher, which resists chosen collisions, took a
/// tenth of the CPU time of `burn report` over 882,107 turns on 2026-11-30.
pub(super) type NumberMap<K, V> = rustc_hash::FxHashMap<K, V>;

/// Interned texts by number. 0 means no text.
#[derive(Debug)]
pub(super) struct Texts {
    texts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
}

impl Texts {
    fn new() -> Self {
        Self { texts: vec!["".into()], numbers: HashMap::default() }
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

    /// The number of a text. Compares with the text of number `last` first, because a comparison is faster than a
    /// look-up.
    fn number_near(&mut self, last: u32, text: &str) -> u32 {
        if self.get(last) == Some(text) { last } else { self.number(text) }
    }

    fn optional(&mut self, text: Option<&str>) -> u32 {
        text.map_or(0, |text| self.number(text))
    }

    pub(super) fn get(&self, number: u32) -> Option<&str> {
        (number > 0).then(|| &*self.texts[number as usize])
    }
}

/// The period that a turn belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum PeriodKey {
    /// The question has no period.
    None,
    /// The turn has no time.
    Undated,
    /// Hours of local time since 1970, and the offset in force, in seconds.
    Hour(i64, i64),
    /// Days since 1970: the day, or the first day of the week or the month.
    Day(i64),
    /// The numbers of a source and of a session among the texts of the tally.
    Session(u32, u32),
    /// Hours of UTC since 1970, from which blocks are made.
    Block(i64),
}

pub(super) type Dimensions = [u32; super::question::DIMENSIONS_MAX];

/// A row that is being added up.
#[derive(Debug, Default)]
pub(super) struct GrowingRow {
    pub sums: Sums,
    pub turns_at: Vec<ExplainedTurn>,
    /// The turns of the row, and whether each is a lower bound. Kept only if rows of tools may be added up.
    pub turn_numbers: Vec<(u64, bool)>,
}

/// First and last time.
pub(super) type Times = (Instant, Instant);

/// The parts of an enrichment that the questions need.
#[derive(Debug)]
struct KnownEnrichment {
    json: Box<[u8]>,
    keys: PricingKeys,
    /// The values of [`UsageTally::tag_keys`], in their order.
    tags: Box<[u32]>,
    /// Whether the enrichment passes the filters of each selection.
    passes: Box<[bool]>,
    /// The number of turns of the first selection with this enrichment, if keys are counted.
    turns: u64,
}

/// The greatest number of cached enrichments. Most turns have one of a few.
const ENRICHMENTS_MAX: usize = 8192;
/// A greater value is no count.
const COUNT_MAX: u64 = 1_000_000_000_000;

/// The turns with the filters of one or more questions, added up once for all of these questions.
#[derive(Debug)]
pub(super) struct Selection<'q> {
    filters: &'q Filters,
    since: Option<Instant>,
    until: Option<Instant>,
    has_blocks: bool,
    /// Whether the turn that is being added passes.
    passes: bool,
    /// For the number of each session that was seen, whether the session passes.
    sessions: NumberMap<u32, bool>,
    pub total: Sums,
    pub cache_saved: Usd,
    pub unpriced: NumberMap<(u32, UnpricedReason), i128>,
    pub lower_bounds: LowerBounds,
    pub undated_left_out: u64,
    /// The time of the last turn within the bounds.
    pub last: Option<Instant>,
    /// The turns of each hour of UTC, without bounds. Kept only for blocks.
    pub hours: NumberMap<i64, Times>,
}

impl<'q> Selection<'q> {
    fn of(question: &'q Question) -> Self {
        Self {
            filters: &question.filters,
            since: question.since,
            until: question.until,
            has_blocks: false,
            passes: false,
            sessions: NumberMap::default(),
            total: Sums::default(),
            cache_saved: Usd::ZERO,
            unpriced: NumberMap::default(),
            lower_bounds: LowerBounds::default(),
            undated_left_out: 0,
            last: None,
            hours: NumberMap::default(),
        }
    }

    fn is_of(&self, question: &Question) -> bool {
        *self.filters == question.filters && self.since == question.since && self.until == question.until
    }

    /// Returns whether a turn passes the filters on its own fields. `session` is the number of its session, if it is known.
    fn passes_fields(&mut self, turn: &TurnFields<'_>, subagent: &str, session: Option<u32>) -> bool {
        let filters = self.filters;
        let passes_session = || passes(&filters.session, &[Some(turn.session)]);
        let is_session_wanted = match session {
            _ if filters.session.is_empty() => true,
            Some(number) => *self.sessions.entry(number).or_insert_with(passes_session),
            None => passes_session(),
        };
        if !is_session_wanted {
            return false;
        }
        passes(&filters.project, &[turn.project, turn.project_key])
            && passes(&filters.model, &[Some(turn.model)])
            && passes(&filters.source, &[Some(turn.source)])
            && passes(&filters.subagent, &[Some(subagent)])
            && passes(&filters.activity, &[turn.activity])
    }

    /// Returns whether a turn that passes the filters is within the bounds. Counts a turn without a time.
    fn passes_bounds(&mut self, at: Option<Instant>) -> bool {
        let Some(at) = at else {
            let is_bound = self.since.is_some() || self.until.is_some();
            self.undated_left_out += u64::from(is_bound);
            return !is_bound;
        };
        let passes = self.since.is_none_or(|since| at >= since) && self.until.is_none_or(|until| at <= until);
        if passes {
            self.last = self.last.max(Some(at));
        }
        passes
    }

    fn merge(&mut self, other: Self, here: impl Fn(u32) -> u32) -> Result<(), TooLarge> {
        self.total.add(&other.total)?;
        self.cache_saved = self.cache_saved.plus(other.cache_saved)?;
        for ((model, reason), tokens) in other.unpriced {
            *self.unpriced.entry((here(model), reason)).or_default() += tokens;
        }
        self.undated_left_out += other.undated_left_out;
        self.last = self.last.max(other.last);
        self.lower_bounds.add(other.lower_bounds);
        for (hour, times) in other.hours {
            let own = self.hours.entry(hour).or_insert(times);
            widen(own, times.0);
            widen(own, times.1);
        }
        Ok(())
    }
}

/// The rows of one question.
#[derive(Debug)]
pub(super) struct QuestionRows<'q> {
    pub question: &'q Question,
    /// The index of its selection.
    pub selection: usize,
    /// The indexes of its dimensions among the dimensions of all questions.
    places: Vec<usize>,
    pub rows: NumberMap<(PeriodKey, Dimensions), GrowingRow>,
    pub session_times: NumberMap<(u32, u32), Times>,
    /// The span of the previous turn.
    span: Option<Span>,
}

/// A dimension of any question, and the source of its values.
#[derive(Debug)]
struct WantedDimension<'q> {
    dimension: &'q Dimension,
    /// For a tag, its index in [`UsageTally::tag_keys`].
    tag: usize,
    /// For weekdays and hours, the index of the question whose zone applies. So two questions never share these dimensions.
    zone_of: Option<usize>,
}

/// The sums of one thread, for any number of questions. Each turn is priced once.
pub(super) struct UsageTally<'q> {
    prices: &'q Prices,
    pub texts: Texts,
    pub selections: Vec<Selection<'q>>,
    pub groups: Vec<QuestionRows<'q>>,
    dimensions: Vec<WantedDimension<'q>>,
    /// The values of `dimensions` for the turn that is being added.
    values: Vec<u32>,
    tag_keys: Vec<&'q str>,
    /// The number of turns of the first selection with each key of the enrichment; `None` if keys are not counted.
    key_turns: Option<HashMap<String, u64>>,
    /// The number of all turns, without filters.
    pub seen_turns: u64,
    pub error: Option<TooLarge>,
    document: Document,
    enrichments: Vec<KnownEnrichment>,
    enrichment_numbers: HashMap<Box<[u8]>, u32, foldhash::fast::RandomState>,
    models: NumberMap<(u32, u32), Option<ModelPrice<'q>>>,
    /// Prices that always apply.
    rates: Vec<Rates>,
    /// Whether a question is about periods of sessions, so that sessions have numbers.
    has_sessions: bool,
    /// The source and the session of the last turn.
    session: (u32, u32),
    /// The enrichment, the model's text and the model of the last turn. The next turn mostly has the same.
    last: (usize, u32, Option<ModelPrice<'q>>),
}

/// The place of a turn's line, for explanations.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineAt<'l> {
    pub offset: u64,
    pub length: u64,
    pub superseded: &'l [u64],
}

/// The model whose prices apply to a turn.
#[derive(Debug, Clone, Copy)]
struct ModelPrice<'q> {
    model: PricedModel<'q>,
    /// The index of the model's prices in [`UsageTally::rates`], if they depend neither on the time nor on the size of a
    /// request.
    always: Option<usize>,
}

/// A turn's price.
struct Priced<'q> {
    model: Option<PricedModel<'q>>,
    rates: Option<Rates>,
    size: Size,
}

/// A turn that passes a selection, with all values that its rows need.
struct Counted<'t, 'q> {
    turn: &'t TurnFields<'t>,
    at: Option<Instant>,
    counts: TokenCounts,
    priced: Priced<'q>,
    sums: Sums,
    web_searches: u64,
    enrichment: usize,
    line: Option<LineAt<'t>>,
}

impl<'q> UsageTally<'q> {
    pub(super) fn new(questions: &'q [Question], prices: &'q Prices) -> Self {
        let mut tally = Self {
            prices,
            texts: Texts::new(),
            selections: Vec::new(),
            groups: Vec::new(),
            dimensions: Vec::new(),
            values: Vec::new(),
            tag_keys: Vec::new(),
            key_turns: None,
            seen_turns: 0,
            error: None,
            document: Document::default(),
            enrichments: Vec::new(),
            enrichment_numbers: HashMap::default(),
            models: NumberMap::default(),
            rates: Vec::new(),
            has_sessions: questions.iter().any(|question| question.period == Some(Period::Session)),
            session: (0, 0),
            last: (0, 0, None),
        };
        questions.iter().for_each(|question| tally.add_question(question));
        tally.values = vec![0; tally.dimensions.len()];
        tally
    }

    /// Also counts the turns of the first question by key of the enrichment.
    #[cfg(feature = "report")]
    pub(super) fn counting_keys(self) -> Self {
        Self { key_turns: Some(HashMap::new()), ..self }
    }

    fn add_question(&mut self, question: &'q Question) {
        let known = self.selections.iter().position(|selection| selection.is_of(question));
        let selection = known.unwrap_or_else(|| {
            self.selections.push(Selection::of(question));
            self.selections.len() - 1
        });
        self.selections[selection].has_blocks |= question.period == Some(Period::Block);
        let number = self.groups.len();
        let places = question.by.iter().map(|dimension| {
            let zone_of = dimension.is_number().then_some(number);
            let same =
                |wanted: &WantedDimension<'_>| wanted.dimension == dimension && wanted.zone_of == zone_of;
            if let Some(place) = self.dimensions.iter().position(same) {
                return place;
            }
            let key = match dimension {
                Dimension::Tag(key) => Some(&**key),
                Dimension::Machine => Some("machine"),
                _ => None,
            };
            let tag = self.tag_keys.len();
            self.tag_keys.extend(key);
            self.dimensions.push(WantedDimension { dimension, tag, zone_of });
            self.dimensions.len() - 1
        });
        let places = places.collect();
        let group = QuestionRows {
            question,
            selection,
            places,
            rows: NumberMap::default(),
            session_times: NumberMap::default(),
            span: None,
        };
        self.groups.push(group);
    }

    /// Returns the columns that the questions need.
    pub(super) fn columns(questions: &[Question]) -> TurnColumns {
        let filters = |is_set: fn(&Filters) -> bool| questions.iter().any(|asked| is_set(&asked.filters));
        let by = |dimension: &Dimension| questions.iter().any(|asked| asked.by.contains(dimension));
        TurnColumns {
            keys: by(&Dimension::Session)
                || questions.iter().any(|asked| asked.period == Some(Period::Session))
                || filters(|filters| !filters.session.is_empty()),
            projects: by(&Dimension::Project) || filters(|filters| !filters.project.is_empty()),
            activity: by(&Dimension::Activity) || filters(|filters| !filters.activity.is_empty()),
            subagents: by(&Dimension::Subagent) || filters(|filters| !filters.subagent.is_empty()),
            calls: by(&Dimension::Tool),
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
        let subagent = match turn.subagent_type {
            Some(name) if !name.is_empty() => name,
            _ if turn.is_sidechain => "subagent",
            _ => "main",
        };
        if self.has_sessions {
            let (source, session) = self.session;
            self.session =
                (self.texts.number_near(source, turn.source), self.texts.number_near(session, turn.session));
        }
        let session = self.has_sessions.then_some(self.session.1);
        let mut is_wanted = false;
        for selection in &mut self.selections {
            selection.passes = selection.passes_fields(turn, subagent, session);
            is_wanted |= selection.passes;
        }
        if !is_wanted {
            return Ok(());
        }
        let enrichment = self.enrichment(turn.enrichment);
        let (model_number, model) = self.model(enrichment, turn.model);
        let provider = model.map(|price| price.model.provider());
        let provider = provider.or(self.enrichments[enrichment].keys.provider.as_deref());
        let at = Instant::of_turn(turn.ts);
        let mut is_wanted = false;
        for (place, selection) in self.selections.iter_mut().enumerate() {
            selection.passes &= self.enrichments[enrichment].passes[place]
                && passes(&selection.filters.provider, &[provider]);
            if let (true, true, Some(at)) = (selection.passes, selection.has_blocks, at) {
                widen(selection.hours.entry(at.seconds.div_euclid(3600)).or_insert((at, at)), at);
            }
            selection.passes = selection.passes && selection.passes_bounds(at);
            is_wanted |= selection.passes;
        }
        if !is_wanted {
            return Ok(());
        }
        let mut values = std::mem::take(&mut self.values);
        let texts = &mut self.texts;
        let mut number_near =
            |last: u32, text: Option<&str>| text.map_or(0, |text| texts.number_near(last, text));
        for (value, wanted) in values.iter_mut().zip(&self.dimensions) {
            *value = match wanted.dimension {
                Dimension::Model => model_number,
                Dimension::Provider => number_near(*value, provider),
                Dimension::Project => number_near(*value, turn.project_key.or(turn.project)),
                Dimension::Source => number_near(*value, Some(turn.source)),
                Dimension::Session => number_near(*value, Some(turn.session)),
                Dimension::Subagent => number_near(*value, Some(subagent)),
                Dimension::Activity => number_near(*value, turn.activity),
                Dimension::Tag(_) | Dimension::Machine => self.enrichments[enrichment].tags[wanted.tag],
                // These values depend on a turn's calls and on a question's zone.
                Dimension::Tool | Dimension::Weekday | Dimension::HourOfDay => 0,
            };
        }
        self.values = values;
        let counted = self.count(turn, at, enrichment, (model_number, model), line)?;
        (0..self.groups.len()).try_for_each(|group| self.add_to_group(group, &counted))
    }

    /// Prices a turn, and adds it to the totals of the selections that it passes.
    fn count<'t>(
        &mut self,
        turn: &'t TurnFields<'t>,
        at: Option<Instant>,
        enrichment: usize,
        (model_number, model): (u32, Option<ModelPrice<'q>>),
        line: Option<LineAt<'t>>,
    ) -> Result<Counted<'t, 'q>, TooLarge> {
        let keys = &self.enrichments[enrichment].keys;
        let (usage, is_invalid) = usage_of(turn);
        let counts = usage.counts(turn.source);
        let size = keys.size(turn.source);
        let rates = at.zip(model).map(|(at, price)| {
            let always = price.always.map(|index| self.rates[index]);
            always.unwrap_or_else(|| price.model.rates(at, &keys.context, size, &counts))
        });
        let priced = Priced { model: model.map(|price| price.model), rates, size };
        let web_searches = keys.web_searches;
        let mut sums = sums_of(&counts, priced.rates.as_ref(), web_searches, 1)?;
        let is_partial = matches!(turn.fidelity, Some("partial" | "cost-only"));
        let is_tier_unknown = priced.rates.is_some_and(|rates| rates.is_tier_unknown);
        sums.turns = 1;
        sums.lower_bound_turns = u64::from(is_partial || is_tier_unknown || is_invalid);
        let bounds = LowerBounds {
            partial_turns: u64::from(is_partial),
            tier_unknown_turns: u64::from(is_tier_unknown),
            invalid_turns: u64::from(is_invalid),
        };
        let saved = match &priced.rates {
            Some(rates) => rates.saved_by_cache(&counts)?,
            None => Usd::ZERO,
        };
        let reason = match (at, model) {
            (None, _) => UnpricedReason::Undated,
            (_, None) => UnpricedReason::Model,
            _ => UnpricedReason::Class,
        };
        for selection in self.selections.iter_mut().filter(|selection| selection.passes) {
            selection.total.add(&sums)?;
            selection.total.calls += turn.calls.len() as u64;
            selection.cache_saved = selection.cache_saved.plus(saved)?;
            selection.lower_bounds.add(bounds);
            if sums.unpriced_tokens > 0 {
                *selection.unpriced.entry((model_number, reason)).or_default() += sums.unpriced_tokens;
            }
        }
        if self.key_turns.is_some() && self.selections[0].passes {
            self.enrichments[enrichment].turns += 1;
        }
        Ok(Counted { turn, at, counts, priced, sums, web_searches, enrichment, line })
    }

    /// Adds a turn to the rows of one question, if it belongs to them.
    fn add_to_group(&mut self, group: usize, counted: &Counted<'_, 'q>) -> Result<(), TooLarge> {
        let Counted { turn, at, counts, priced, sums, web_searches, line, .. } = counted;
        let group = &mut self.groups[group];
        if !self.selections[group.selection].passes {
            return Ok(());
        }
        let mut dimensions = Dimensions::default();
        let by = group.question.by.iter().zip(&group.places);
        for (number, (dimension, place)) in dimensions.iter_mut().zip(by) {
            *number = match (dimension, at) {
                (Dimension::Weekday | Dimension::HourOfDay, Some(at)) => {
                    let local = at.seconds + span(&mut group.span, group.question, *at).offset;
                    let number = match dimension {
                        Dimension::Weekday => weekday(local.div_euclid(DAY_SECONDS)) + 1,
                        _ => local.rem_euclid(DAY_SECONDS) / 3600,
                    };
                    self.texts.number(NUMBERS[number as usize])
                }
                _ => self.values[*place],
            };
        }
        let period = group.period_of(self.session, *at);
        let line = line.filter(|_| group.question.explain);
        let explained = |line: LineAt<'_>| {
            let context = &self.enrichments[counted.enrichment].keys.context;
            explain(turn, line, priced, context, sums.usd)
        };
        let Some(tool) = group.question.by.iter().position(|dimension| *dimension == Dimension::Tool) else {
            let row = group.rows.entry((period, dimensions)).or_default();
            row.turns_at.extend(line.map(explained));
            return row.sums.add(sums);
        };
        for (name, share) in shares(turn.calls, counts, priced.rates.as_ref(), *web_searches)? {
            let number = name.map_or(0, |name| self.texts.number(name));
            dimensions[tool] = number;
            let share = Sums { turns: 1, lower_bound_turns: sums.lower_bound_turns, ..share };
            let row = group.rows.entry((period, dimensions)).or_default();
            if let Some(line) = line {
                let turn = explained(line);
                let usd = turn.usd.map(|_| share.usd);
                row.turns_at.push(ExplainedTurn { usd, share: Some(share.counts), ..turn });
            }
            row.sums.add(&share)?;
            if group.question.limit.is_some() {
                row.turn_numbers.push((self.seen_turns, sums.lower_bound_turns > 0));
            }
        }
        Ok(())
    }

    /// The number of a model's text, and the model whose prices apply to it with this enrichment.
    fn model(&mut self, enrichment: usize, text: &str) -> (u32, Option<ModelPrice<'q>>) {
        let (last_enrichment, last_number, last_model) = self.last;
        let is_last = self.texts.get(last_number) == Some(text);
        let number = if is_last { last_number } else { self.texts.number(text) };
        let model = if is_last && last_enrichment == enrichment {
            last_model
        } else {
            self.model_of(enrichment, number, text)
        };
        self.last = (enrichment, number, model);
        (number, model)
    }

    /// The number of an enrichment, which is parsed if it is new.
    fn enrichment(&mut self, json: &[u8]) -> usize {
        if self.enrichments.get(self.last.0).is_some_and(|last| *last.json == *json) {
            return self.last.0;
        }
        if let Some(number) = self.enrichment_numbers.get(json) {
            return *number as usize;
        }
        if self.enrichments.len() >= ENRICHMENTS_MAX {
            self.count_keys();
            self.last = (0, 0, None);
            self.enrichments.clear();
            self.enrichment_numbers.clear();
            self.models.clear();
            self.rates.clear();
        }
        let root = self.document.parse(json).ok();
        let get = |key: &str| -> Option<Cow<'static, str>> {
            let text = root?.get(key)?.as_js_str()?;
            Some(Cow::Owned(text.to_utf8_lossy().into_owned()))
        };
        let tags = self.tag_keys.iter().map(|key| self.texts.optional(get(key).as_deref())).collect();
        let passes = |filters: &Filters| {
            passes_tags(&filters.tag, get) && passes(&filters.machine, &[get("machine").as_deref()])
        };
        let passes = self.selections.iter().map(|selection| passes(selection.filters)).collect();
        let keys = PricingKeys::read(get);
        let number = self.enrichments.len();
        self.enrichments.push(KnownEnrichment { json: json.into(), keys, tags, passes, turns: 0 });
        self.enrichment_numbers.insert(json.into(), number as u32);
        number
    }

    /// Adds the turns of the cached enrichments to the counts of their keys.
    fn count_keys(&mut self) {
        let Some(counts) = &mut self.key_turns else { return };
        for enrichment in &mut self.enrichments {
            let turns = std::mem::take(&mut enrichment.turns);
            let Some(root) = (turns > 0).then(|| self.document.parse(&enrichment.json).ok()).flatten() else {
                continue;
            };
            for (key, value) in root.members() {
                if value.as_js_str().is_some() {
                    *counts.entry(key.to_utf8_lossy().into_owned()).or_default() += turns;
                }
            }
        }
    }

    /// Returns the number of turns of the first question with each key of the enrichment, if they were counted.
    #[cfg(feature = "report")]
    pub(super) fn into_key_turns(mut self) -> HashMap<String, u64> {
        self.count_keys();
        self.key_turns.unwrap_or_default()
    }

    fn model_of(&mut self, enrichment: usize, number: u32, model: &str) -> Option<ModelPrice<'q>> {
        let keys = &self.enrichments[enrichment].keys;
        let prices = self.prices;
        let rates = &mut self.rates;
        let find = || {
            let model = prices.of_turn(keys.provider.as_deref(), model)?;
            let always = model.rates_at_all_times(&keys.context);
            let index = rates.len();
            rates.extend(always);
            Some(ModelPrice { model, always: always.map(|_| index) })
        };
        *self.models.entry((enrichment as u32, number)).or_insert_with(find)
    }

    /// Adds the sums of another thread.
    pub(super) fn merge(&mut self, mut other: Self) -> Result<(), TooLarge> {
        if let Some(error) = other.error {
            return Err(error);
        }
        other.count_keys();
        let numbers: Vec<u32> = (0..other.texts.texts.len() as u32)
            .map(|number| self.texts.optional(other.texts.get(number)))
            .collect();
        let here = |number: u32| numbers[number as usize];
        for (own, other) in self.groups.iter_mut().zip(other.groups) {
            own.merge(other, self.seen_turns, here)?;
        }
        for (own, other) in self.selections.iter_mut().zip(other.selections) {
            own.merge(other, here)?;
        }
        self.seen_turns += other.seen_turns;
        if let Some(counts) = &mut self.key_turns {
            for (key, turns) in other.key_turns.into_iter().flatten() {
                *counts.entry(key).or_default() += turns;
            }
        }
        Ok(())
    }
}

/// Weekdays and hours as texts.
const NUMBERS: [&str; 24] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17", "18",
    "19", "20", "21", "22", "23",
];

impl QuestionRows<'_> {
    /// The period of a turn. `key` is the numbers of its source and its session.
    fn period_of(&mut self, key: (u32, u32), at: Option<Instant>) -> PeriodKey {
        let question = self.question;
        let Some(period) = question.period else { return PeriodKey::None };
        if period == Period::Session {
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

    /// Adds the rows of another thread. This thread has seen `seen` turns.
    fn merge(&mut self, other: Self, seen: u64, here: impl Fn(u32) -> u32) -> Result<(), TooLarge> {
        for ((period, dimensions), row) in other.rows {
            let period = match period {
                PeriodKey::Session(source, session) => PeriodKey::Session(here(source), here(session)),
                period => period,
            };
            let own = self.rows.entry((period, dimensions.map(&here))).or_default();
            own.sums.add(&row.sums)?;
            own.turns_at.extend(row.turns_at);
            own.turn_numbers
                .extend(row.turn_numbers.iter().map(|(number, is_bound)| (seen + number, *is_bound)));
        }
        for ((source, session), times) in other.session_times {
            let own = self.session_times.entry((here(source), here(session))).or_insert(times);
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

/// The offset in force. Most turns are in the span of the last turn.
fn span(known: &mut Option<Span>, question: &Question, at: Instant) -> Span {
    match known {
        Some(span) if (span.from..span.to).contains(&at.seconds) => *span,
        _ => *known.insert(question.zone.span_at(at)),
    }
}

/// The usage of a turn, and whether a value was no count and became 0.
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

/// Tokens and cost of counts. Without prices all tokens are unpriced.
fn sums_of(
    counts: &TokenCounts,
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

/// Divides a turn among its `n` calls. Each call gets the whole part of a count divided by `n`, and the first calls get
/// one more until the remainder is used. Searches and the request itself belong to the first call.
fn shares<'t>(
    calls: &[&'t str],
    counts: &TokenCounts,
    rates: Option<&Rates>,
    web_searches: u64,
) -> Result<Vec<(Option<&'t str>, Sums)>, TooLarge> {
    let n = calls.len() as u64;
    if n == 0 {
        return Ok(vec![(None, sums_of(counts, rates, web_searches, 1)?)]);
    }
    let mut shares: Vec<(Option<&str>, Sums)> = Vec::new();
    for (place, &name) in (0..).zip(calls) {
        let share = |count: u64| count / n + u64::from(place < count % n);
        let counts = TokenCounts {
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
    context: &RequestContext,
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
