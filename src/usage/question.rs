//! A question: periods, dimensions, filters, bounds, order.

use crate::archive::query::TsBounds;
use crate::record::Pattern;
use crate::record::time::{Instant, WeekStart, Zone, civil, date};

/// Spans of time by which turns are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// Local hours, with a separate hour for each offset.
    Hour,
    /// Local dates.
    Day,
    /// Seven local dates.
    Week,
    /// Local months.
    Month,
    /// Sessions.
    Session,
    /// Blocks of five hours.
    Block,
}

impl Period {
    /// As documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Session => "session",
            Self::Block => "block",
        }
    }

    /// Returns the period that a word names: `day`, `daily`, `sessions`, ...
    pub fn named(word: &str) -> Option<Self> {
        Some(match word {
            "hour" | "hourly" => Self::Hour,
            "day" | "daily" => Self::Day,
            "week" | "weekly" => Self::Week,
            "month" | "monthly" => Self::Month,
            "session" | "sessions" => Self::Session,
            "block" | "blocks" => Self::Block,
            _ => return None,
        })
    }

    /// Returns whether the period is a part of the calendar.
    pub const fn is_of_calendar(self) -> bool {
        matches!(self, Self::Hour | Self::Day | Self::Week | Self::Month)
    }
}

/// A property by which turns are grouped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dimension {
    /// The model's text.
    Model,
    /// The provider whose price applies, else the provider in the enrichment.
    Provider,
    /// The project's key, else the project.
    Project,
    /// The source.
    Source,
    /// The session's id.
    Session,
    /// The type of a subagent, `subagent`, or `main`.
    Subagent,
    /// The activity.
    Activity,
    /// The value of a key of the enrichment.
    Tag(String),
    /// The value of the key `machine` of the enrichment.
    Machine,
    /// The tools that a turn called.
    Tool,
    /// 1 (Monday) to 7, local.
    Weekday,
    /// 0 to 23, local.
    HourOfDay,
}

impl Dimension {
    /// Returns the dimension that a word names.
    pub fn named(word: &str) -> Option<Self> {
        Some(match word {
            "model" => Self::Model,
            "provider" => Self::Provider,
            "project" => Self::Project,
            "source" => Self::Source,
            "session" => Self::Session,
            "subagent" => Self::Subagent,
            "activity" => Self::Activity,
            "machine" => Self::Machine,
            "tool" => Self::Tool,
            "weekday" => Self::Weekday,
            "hour-of-day" => Self::HourOfDay,
            _ => Self::Tag(word.strip_prefix("tag:").filter(|key| !key.is_empty())?.to_owned()),
        })
    }

    /// As documents have it.
    pub fn name(&self) -> String {
        match self {
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Project => "project",
            Self::Source => "source",
            Self::Session => "session",
            Self::Subagent => "subagent",
            Self::Activity => "activity",
            Self::Machine => "machine",
            Self::Tool => "tool",
            Self::Weekday => "weekday",
            Self::HourOfDay => "hour-of-day",
            Self::Tag(key) => return format!("tag:{key}"),
        }
        .to_owned()
    }

    /// Returns whether the values of the dimension are numbers.
    pub const fn is_number(&self) -> bool {
        matches!(self, Self::Weekday | Self::HourOfDay)
    }
}

/// The greatest number of dimensions.
pub const DIMENSIONS_MAX: usize = 4;

/// Selects turns. A turn passes a list if any pattern of the list matches, and must pass every list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Filters {
    pub model: Vec<Pattern>,
    pub provider: Vec<Pattern>,
    /// The project or its key.
    pub project: Vec<Pattern>,
    pub source: Vec<Pattern>,
    pub session: Vec<Pattern>,
    pub subagent: Vec<Pattern>,
    pub activity: Vec<Pattern>,
    pub machine: Vec<Pattern>,
    /// Keys of the enrichment with patterns for their values, in the given order.
    pub tag: Vec<(String, Pattern)>,
}

impl Filters {
    /// Returns whether every turn passes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the lists with their names.
    pub(crate) fn lists(&self) -> [(&'static str, &[Pattern]); 8] {
        [
            ("model", &self.model),
            ("provider", &self.provider),
            ("project", &self.project),
            ("source", &self.source),
            ("session", &self.session),
            ("subagent", &self.subagent),
            ("activity", &self.activity),
            ("machine", &self.machine),
        ]
    }
}

/// The first key of the order of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SortKey {
    /// The period.
    Period,
    /// The cost.
    Usd,
    /// All tokens.
    Tokens,
    /// The number of turns.
    Turns,
    /// A class of tokens, by its place in [`Sums::COUNTS`](super::Sums::COUNTS).
    Count(usize),
    /// A dimension, by its place in the question.
    Dimension(usize),
}

/// A question.
#[derive(Debug, Clone)]
pub struct Question {
    /// The period of rows; `None` for rows without a period.
    pub period: Option<Period>,
    /// Dimensions, at most [`DIMENSIONS_MAX`], each once.
    pub by: Vec<Dimension>,
    /// The zone of dates and hours.
    pub zone: Zone,
    /// The first day of weeks.
    pub week_start: WeekStart,
    /// The first instant that counts.
    pub since: Option<Instant>,
    /// The last instant that counts.
    pub until: Option<Instant>,
    /// Which turns count.
    pub filters: Filters,
    /// The first key of the order, and whether it descends; `None` orders by period, then by cost.
    pub sort: Option<(SortKey, bool)>,
    /// The number of rows before all others are added up in one row.
    pub limit: Option<usize>,
    /// Whether empty hours, days, weeks and months get rows of zeros.
    pub fill: bool,
    /// Whether each row lists its turns. The answer then comes from the ledger.
    pub explain: bool,
    /// The greatest number of threads; 0 means one for each core.
    pub threads: usize,
}

impl Default for Question {
    /// The total of all turns, in UTC.
    fn default() -> Self {
        Self {
            period: None,
            by: Vec::new(),
            zone: Zone::utc(),
            week_start: WeekStart::default(),
            since: None,
            until: None,
            filters: Filters::default(),
            sort: None,
            limit: None,
            fill: false,
            explain: false,
            threads: 0,
        }
    }
}

impl Question {
    /// Returns the question with implied filters: blocks are those of Claude Code unless a source is given.
    pub(super) fn completed(&self) -> Self {
        let mut question = self.clone();
        if question.period == Some(Period::Block) && question.filters.source.is_empty() {
            question.filters.source.push(Pattern::new("claude-code"));
        }
        question
    }

    /// Bounds on the text of `ts`; `None` if the question has no first instant.
    pub(super) fn ts_bounds(&self) -> Option<TsBounds> {
        // Blocks are made from all turns, so bounds do not apply.
        let since = self.since.filter(|_| self.period != Some(Period::Block))?;
        let date = |days: i64| (0..10_000).contains(&civil(days).0).then(|| date(days));
        let end = |days: i64| {
            let end = self.until.and_then(|until| date(until.day() + days));
            end.unwrap_or_else(|| ":".to_owned())
        };
        Some(TsBounds { any_offset: (date(since.day() - 1)?, end(2)), utc: (date(since.day())?, end(1)) })
    }

    pub(super) fn has_tool(&self) -> bool {
        self.by.contains(&Dimension::Tool)
    }
}
