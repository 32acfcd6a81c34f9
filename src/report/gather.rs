//! Collects all numbers of a page as answers of `usage`.
//!
//! The archive is read twice. The first reading chooses the models, sessions and tags that are shown by name, and the
//! length of a bar. The second reading gives all numbers, so that they come from one state of the archive.

use super::calendar::{self, BarUnit, ChartBar, DaySpan};
use crate::archive::Paths;
use crate::interrupt::Interrupt;
use crate::usage::{
    self, Answer, AnswerRow, Dimension, Filters, Instant, Pattern, Period, Prices, Question, SortKey, Sums,
    UsageError,
};

/// The greatest number of models with their own colour.
pub(super) const SERIES_MAX: usize = 5;
/// The number of rows of a table before all others are added up in one row.
pub(super) const ROWS_MAX: usize = 20;
/// The greatest number of tags with their own table.
const TAGS_MAX: usize = 3;
/// A tag has its own table if at least one of so many turns has the tag.
const TAG_SHARE: u64 = 10;
/// Keys without a table of tags: the keys that decide the price of a turn, and `machine`, which always has its own
/// table.
const NO_TAGS: [&str; 7] =
    ["provider", "serviceTier", "speed", "processing", "webSearches", "contextTokens", "machine"];

/// The answers of a page. As JSON, they are its data block.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageAnswers {
    /// The version of the data block.
    pub version: u32,
    /// The time at which the page is made.
    #[serde(skip)]
    pub now: Instant,
    /// The filters, bounds and zone of the page.
    #[serde(skip)]
    pub question: Question,
    /// The days of the charts; none without turns.
    #[serde(skip)]
    pub span: Option<DaySpan>,
    #[serde(skip)]
    pub unit: BarUnit,
    #[serde(skip)]
    pub bars: Vec<ChartBar>,
    pub total: Answer,
    /// By day.
    pub days: Answer,
    /// By period of a bar and by model, for the models with a colour.
    pub chart: Answer,
    /// By weekday and hour.
    pub hours: Answer,
    pub models: Answer,
    /// For each row of `models` the model of the price table; empty for the row of all others.
    #[serde(skip)]
    pub priced_as: Vec<String>,
    pub projects: Answer,
    pub sources: Answer,
    pub subagents: Answer,
    pub tools: Answer,
    pub activities: Answer,
    pub machines: Answer,
    /// The sessions with the highest cost.
    pub sessions: Answer,
    /// Projects and models of these sessions.
    pub session_parts: Answer,
    pub tags: Vec<Answer>,
}

/// The values that the page shows by name.
struct Choice {
    models: Vec<String>,
    sessions: Vec<String>,
    tags: Vec<String>,
    span: Option<DaySpan>,
}

/// The subject of a page, and the sources of its numbers.
pub(super) struct PageRequest<'p> {
    pub paths: &'p Paths,
    /// Filters, bounds, zone.
    pub base: Question,
    /// Whether the user gave the first instant.
    pub is_since_given: bool,
    pub prices: &'p Prices,
    pub now: Instant,
    pub interrupt: &'p Interrupt,
}

pub(super) fn gather(request: &PageRequest<'_>) -> Result<PageAnswers, UsageError> {
    let PageRequest { paths, base, prices, now, interrupt, .. } = request;
    let choice = choose(request)?;
    let unit = choice.span.map_or(BarUnit::Day, BarUnit::of);
    let bars = choice
        .span
        .map_or(Vec::new(), |span| calendar::bars(span, unit, base.week_start, &base.zone, now.seconds));
    let questions = questions(base, &choice, unit);
    let mut answers = usage::ask_all(paths, &questions, prices, interrupt)?.into_iter();
    // There is one answer for each question, in the order of the questions.
    let mut next = || answers.next().ok_or(UsageError::Archive(crate::archive::ArchiveError::Interrupted));
    let mut gathered = PageAnswers {
        version: 1,
        now: *now,
        question: base.clone(),
        span: choice.span,
        unit,
        bars,
        total: next()?,
        days: next()?,
        chart: next()?,
        hours: next()?,
        models: next()?,
        projects: next()?,
        sources: next()?,
        subagents: next()?,
        tools: next()?,
        activities: next()?,
        machines: next()?,
        sessions: next()?,
        session_parts: next()?,
        tags: Vec::new(),
        priced_as: Vec::new(),
    };
    gathered.priced_as = gathered.models.rows.iter().map(|row| priced_as(row, prices)).collect();
    gathered.tags.extend(answers);
    Ok(gathered)
}

fn by(base: &Question, dimensions: &[Dimension]) -> Question {
    Question { by: dimensions.to_vec(), limit: Some(ROWS_MAX), ..base.clone() }
}

fn dearest_sessions(base: &Question) -> Question {
    let sort = Some((SortKey::Usd, true));
    Question { period: Some(Period::Session), sort, limit: Some(ROWS_MAX), ..base.clone() }
}

/// The model of the price table whose prices apply to a row of models.
fn priced_as(row: &AnswerRow, prices: &Prices) -> String {
    let [Some(model), provider] = &row.values[..] else { return String::new() };
    match prices.of_turn(provider.as_deref(), model) {
        Some(priced) if priced.is_built_in() => priced.model().to_owned(),
        Some(priced) => format!("{} (own prices)", priced.model()),
        None => "no price".to_owned(),
    }
}

/// Reads the archive to choose the values that are shown by name.
fn choose(request: &PageRequest<'_>) -> Result<Choice, UsageError> {
    let PageRequest { paths, base, prices, interrupt, .. } = request;
    let models = Question { by: vec![Dimension::Model], ..base.clone() };
    let days = Question { period: Some(Period::Day), ..base.clone() };
    let questions = [models, days, dearest_sessions(base)];
    let (answers, key_turns) = usage::ask_all_and_keys(paths, &questions, prices, interrupt)?;
    let [models, days, sessions] = &answers[..] else {
        return Ok(Choice { models: Vec::new(), sessions: Vec::new(), tags: Vec::new(), span: None });
    };
    let mut tags: Vec<(String, u64)> = key_turns
        .into_iter()
        .filter(|(key, turns)| !NO_TAGS.contains(&&**key) && turns * TAG_SHARE >= models.total.turns)
        .collect();
    tags.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    tags.truncate(TAGS_MAX);
    let names = models.rows.iter().filter_map(|row| row.values.first().cloned().flatten());
    Ok(Choice {
        models: names.take(SERIES_MAX).collect(),
        sessions: sessions.rows.iter().filter_map(session_id).collect(),
        tags: tags.into_iter().map(|(key, _)| key).collect(),
        span: day_span(request, days),
    })
}

/// Returns the session of a row of sessions, whose key is `SOURCE/SESSION`.
pub(super) fn session_id(row: &AnswerRow) -> Option<String> {
    Some(row.period.as_ref()?.key.split_once('/')?.1.to_owned())
}

/// The days from the first requested day, or else from the first turn, to today or the last turn, within the bounds.
fn day_span(request: &PageRequest<'_>, days: &Answer) -> Option<DaySpan> {
    let PageRequest { base, now, is_since_given, .. } = request;
    let mut with_turns = days.rows.iter().filter_map(day_of_row);
    let first_turn = with_turns.next()?;
    let last_turn = with_turns.next_back().unwrap_or(first_turn);
    let day = |at: Instant| base.zone.day_of(at);
    let first = base.since.filter(|_| *is_since_given).map_or(first_turn, day);
    let last = last_turn.max(day(*now));
    Some(DaySpan { first, last: base.until.map_or(last, |until| day(until).min(last)).max(first) })
}

/// Returns the day of a row of days.
pub(super) fn day_of_row(row: &AnswerRow) -> Option<i64> {
    calendar::day_of_key(&row.period.as_ref()?.key)
}

/// The questions in the order of [`PageAnswers`], with the questions about tags last.
fn questions(base: &Question, choice: &Choice, unit: BarUnit) -> Vec<Question> {
    let filtered = |filters: Filters| Question { filters, ..base.clone() };
    let patterns = |texts: &[String]| texts.iter().map(Pattern::exact).collect::<Vec<_>>();
    let none = || vec![Pattern::new("(none)")];
    let or_none = |texts: &[String]| if texts.is_empty() { none() } else { patterns(texts) };
    let of_models = filtered(Filters { model: or_none(&choice.models), ..base.filters.clone() });
    let of_sessions = filtered(Filters { session: or_none(&choice.sessions), ..base.filters.clone() });
    let mut questions = vec![
        base.clone(),
        Question { period: Some(Period::Day), ..base.clone() },
        Question { period: Some(unit.period()), by: vec![Dimension::Model], ..of_models },
        Question { by: vec![Dimension::Weekday, Dimension::HourOfDay], ..base.clone() },
        by(base, &[Dimension::Model, Dimension::Provider]),
        Question { by: vec![Dimension::Project], ..base.clone() },
        by(base, &[Dimension::Source]),
        by(base, &[Dimension::Subagent]),
        by(base, &[Dimension::Tool]),
        by(base, &[Dimension::Activity]),
        by(base, &[Dimension::Machine]),
        dearest_sessions(base),
        Question {
            period: Some(Period::Session),
            by: vec![Dimension::Project, Dimension::Model],
            ..of_sessions
        },
    ];
    questions.extend(choice.tags.iter().map(|key| by(base, &[Dimension::Tag(key.clone())])));
    questions
}

impl PageAnswers {
    /// Adds up the projects after the first rows. Before this step all projects are present, so that they can be
    /// numbered.
    pub(super) fn limit_projects(&mut self) -> Result<(), usage::TooLarge> {
        self.projects.limit_rows(ROWS_MAX)
    }

    pub(super) fn answers_mut(&mut self) -> Vec<&mut Answer> {
        let mut all = vec![
            &mut self.total,
            &mut self.days,
            &mut self.chart,
            &mut self.hours,
            &mut self.models,
            &mut self.projects,
            &mut self.sources,
            &mut self.subagents,
            &mut self.tools,
            &mut self.activities,
            &mut self.machines,
            &mut self.sessions,
            &mut self.session_parts,
        ];
        all.extend(&mut self.tags);
        all
    }

    /// Returns the number of sessions.
    pub(super) fn session_count(&self) -> u64 {
        let shown = self.sessions.rows.iter().filter(|row| !row.is_other).count() as u64;
        shown + self.sessions.other_rows.unwrap_or(0)
    }

    /// Returns the models with a colour, highest cost first.
    pub(super) fn series(&self) -> Vec<(&str, Sums)> {
        let models = sums_by_value(self.chart.rows.iter(), 0).into_iter();
        models.map(|(model, sums)| (model.unwrap_or_default(), sums)).collect()
    }
}

/// Adds up rows by the value of one of their dimensions, highest cost first.
pub(super) fn sums_by_value<'r>(
    rows: impl Iterator<Item = &'r AnswerRow>,
    place: usize,
) -> Vec<(Option<&'r str>, Sums)> {
    let mut all: Vec<(Option<&str>, Sums)> = Vec::new();
    for row in rows {
        let value = row.values.get(place).and_then(Option::as_deref);
        match all.iter_mut().find(|(known, _)| *known == value) {
            Some((_, sums)) => sums.grow(&row.sums),
            None => all.push((value, row.sums)),
        }
    }
    all.sort_by(|a, b| (b.1.usd, b.1.tokens(), a.0).cmp(&(a.1.usd, a.1.tokens(), b.0)));
    all
}
