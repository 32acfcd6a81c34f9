//! Writes the tables of a page: by dimension, sessions, days.

use std::cmp::Reverse;

use maud::{Markup, html};

use super::calendar::WEEKDAYS;
use super::gather::{PageAnswers, ROWS_MAX, day_of_row, session_id, sums_by_value};
use super::text::{exact, length, money, name, percent, value};
use crate::record::time::{date, weekday};
use crate::usage::shown::{grouped, short};
use crate::usage::{Answer, AnswerRow, Dimension, Sums};

/// A table of numbers: the first column names the rows, the last two are cost and share.
struct CostTable<'t> {
    /// Unique on the page.
    id: &'t str,
    title: &'t str,
    /// A note under the heading.
    note: Option<&'t str>,
    /// Headings of the columns of text. The first column names the rows.
    texts: &'t [&'t str],
    /// Heading of the count before the tokens.
    count: &'t str,
    rows: Vec<CostRow>,
    total: CostRow,
}

struct CostRow {
    /// One text for each heading, or fewer.
    texts: Vec<RowText>,
    count: u64,
    sums: Sums,
}

/// A text of a row.
struct RowText {
    shown: String,
    /// The whole text, if only its beginning is shown.
    whole: Option<String>,
}

impl From<String> for RowText {
    fn from(shown: String) -> Self {
        Self { shown, whole: None }
    }
}

impl CostTable<'_> {
    fn draw(&self) -> Markup {
        html! {
            section.table.(self.id) aria-labelledby=(self.id) {
                h3 id=(self.id) { (self.title) }
                @if let Some(note) = self.note { p { (note) } }
                div.scroll role="group" tabindex="0" aria-labelledby=(self.id) {
                    table {
                        thead { tr {
                            @for head in self.texts { th scope="col" { (head) } }
                            th.n scope="col" { (self.count) }
                            th.n scope="col" { "tokens" }
                            th.n.costs scope="col" { "cost" }
                            th.n scope="col" { "%" }
                        } }
                        tbody { @for row in &self.rows { (self.row(row)) } }
                        tfoot { (self.row(&self.total)) }
                    }
                }
            }
        }
    }

    fn row(&self, row: &CostRow) -> Markup {
        let empty = RowText::from(String::new());
        let texts = row.texts.iter().chain(std::iter::repeat(&empty)).take(self.texts.len());
        let share = share(&row.sums, &self.total.sums);
        html! {
            tr {
                @for (place, text) in texts.enumerate() {
                    @if place == 0 {
                        th scope="row" { bdi { (text.shown) } }
                    } @else {
                        td title=[&text.whole] { bdi { (text.shown) } }
                    }
                }
                td.n { (grouped(row.count)) }
                td.n title=(count_with_digits(row.sums.tokens())) { (short(row.sums.tokens())) }
                td.n.cost title=(exact(&row.sums)) style={ "--w:" (share) "%" } { (money(&row.sums)) }
                td.n { (share) }
            }
        }
    }
}

/// A row's share of the cost, or of the tokens if the total cost is zero.
fn share(part: &Sums, whole: &Sums) -> String {
    match whole.usd.units() {
        0 => percent(part.tokens(), whole.tokens()),
        units => percent(part.usd.units(), units),
    }
}

fn count_with_digits(count: i128) -> String {
    grouped(u64::try_from(count).unwrap_or(u64::MAX))
}

/// The texts of a row: its values, or those of the row of all others.
fn texts(row: &AnswerRow, answer: &Answer) -> Vec<RowText> {
    if row.is_other {
        return vec![others(answer.other_rows.unwrap_or(0))];
    }
    row.values.iter().map(|text| value(text.as_deref()).into()).collect()
}

fn others(rows: u64) -> RowText {
    if rows == 1 { "1 other".to_owned() } else { format!("{} others", grouped(rows)) }.into()
}

/// The last row of a table.
fn total(answer: &Answer, count: u64) -> CostRow {
    CostRow { texts: vec!["total".to_owned().into()], count, sums: answer.total }
}

/// A table of an answer with dimensions and without a period.
fn by_dimension(id: &str, title: &str, head: &str, answer: &Answer) -> Markup {
    let has_tool = answer.question.by.contains(&Dimension::Tool);
    let count = |sums: &Sums| if has_tool { sums.calls } else { sums.turns };
    let row =
        |row: &AnswerRow| CostRow { texts: texts(row, answer), count: count(&row.sums), sums: row.sums };
    let table = CostTable {
        id,
        title,
        note: has_tool
            .then_some("A turn's tokens are shared out among its calls; a turn without a call is (none)."),
        texts: &[head],
        count: if has_tool { "calls" } else { "turns" },
        rows: answer.rows.iter().map(row).collect(),
        total: total(answer, count(&answer.total)),
    };
    table.draw()
}

fn has_value(answer: &Answer) -> bool {
    answer.rows.iter().any(|row| row.values.iter().any(Option::is_some))
}

/// Returns all tables of a page.
pub(super) fn all(gathered: &PageAnswers) -> Markup {
    html! {
        (models(gathered))
        (by_dimension("projects", "Projects", "project", &gathered.projects))
        div.pairs {
            (by_dimension("agents", "Agents", "source", &gathered.sources))
            (by_dimension("subagents", "Subagents", "subagent", &gathered.subagents))
            (by_dimension("tools", "Tools", "tool", &gathered.tools))
            @if has_value(&gathered.activities) {
                (by_dimension("activities", "Activities", "activity", &gathered.activities))
            }
            @if has_value(&gathered.machines) {
                (by_dimension("machines", "Machines", "machine", &gathered.machines))
            }
            @for (place, answer) in gathered.tags.iter().enumerate() {
                @if let Some(Dimension::Tag(key)) = answer.question.by.first() {
                    (by_dimension(&format!("tag-{}", place + 1), &format!("Tag {}", name(key)), "value", answer))
                }
            }
        }
        (sessions(gathered))
        (days(gathered))
    }
}

fn models(gathered: &PageAnswers) -> Markup {
    let answer = &gathered.models;
    let row = |(row, priced_as): (&AnswerRow, &String)| {
        let mut texts = texts(row, answer);
        if !row.is_other {
            texts.push(name(priced_as).into());
        }
        CostRow { texts, count: row.sums.turns, sums: row.sums }
    };
    let table = CostTable {
        id: "models",
        title: "Models",
        note: None,
        texts: &["model", "provider", "priced as"],
        count: "turns",
        rows: answer.rows.iter().zip(&gathered.priced_as).map(row).collect(),
        total: total(answer, answer.total.turns),
    };
    table.draw()
}

fn sessions(gathered: &PageAnswers) -> Markup {
    let answer = &gathered.sessions;
    let zone = &gathered.question.zone;
    let ids: Vec<String> = answer.rows.iter().filter_map(session_id).collect();
    let row = |row: &AnswerRow| {
        if row.is_other {
            let texts = vec![others(answer.other_rows.unwrap_or(0))];
            return CostRow { texts, count: row.sums.turns, sums: row.sums };
        }
        let period = row.period.as_ref();
        let start = period.and_then(|period| period.start);
        let end = period.and_then(|period| period.end);
        let lasted = start.zip(end).map_or(String::new(), |(start, end)| length(end.seconds - start.seconds));
        let [project, model] = session_parts(gathered, row);
        let texts = vec![
            start.map_or("no time".to_owned(), |start| zone.minute_of(start)).into(),
            lasted.into(),
            short_id(&session_id(row).unwrap_or_default(), &ids),
            project.into(),
            model.into(),
        ];
        CostRow { texts, count: row.sums.turns, sums: row.sums }
    };
    let table = CostTable {
        id: "sessions",
        title: "Sessions",
        note: None,
        texts: &["start", "length", "session", "project", "model"],
        count: "turns",
        rows: answer.rows.iter().map(row).collect(),
        total: total(answer, answer.total.turns),
    };
    table.draw()
}

/// The first eight characters of a long id, if no other id begins with them.
fn short_id(id: &str, ids: &[String]) -> RowText {
    let start = |id: &str| id.chars().take(8).collect::<String>();
    let own = start(id);
    let is_short = id.chars().count() <= 12;
    if is_short || ids.iter().any(|other| other != id && start(other) == own) {
        return name(id).into();
    }
    RowText { shown: name(&own), whole: Some(name(id)) }
}

/// The project and the model with the highest cost in a session, followed by `+2` if there are two more.
fn session_parts(gathered: &PageAnswers, session: &AnswerRow) -> [String; 2] {
    [0, 1].map(|place| {
        let parts = gathered.session_parts.rows.iter().filter(|part| part.period == session.period);
        match &sums_by_value(parts, place)[..] {
            [] => String::new(),
            [(text, _)] => value(*text),
            [(text, _), more @ ..] => format!("{} +{}", value(*text), more.len()),
        }
    })
}

fn days(gathered: &PageAnswers) -> Markup {
    let answer = &gathered.days;
    let mut rows: Vec<&AnswerRow> = answer.rows.iter().filter(|row| row.period.is_some()).collect();
    // The sort is stable, so the earlier of two equal days stays first.
    rows.sort_by_key(|row| Reverse((row.sums.usd, row.sums.tokens())));
    let rest = rows.split_off(rows.len().min(ROWS_MAX));
    let mut shown: Vec<CostRow> = rows
        .iter()
        .map(|row| {
            let day = day_of_row(row).unwrap_or(0);
            let texts = vec![date(day).into(), WEEKDAYS[weekday(day) as usize].to_owned().into()];
            CostRow { texts, count: row.sums.turns, sums: row.sums }
        })
        .collect();
    if !rest.is_empty() {
        let mut sums = Sums::default();
        rest.iter().for_each(|row| sums.grow(&row.sums));
        shown.push(CostRow { texts: vec![others(rest.len() as u64)], count: sums.turns, sums });
    }
    let table = CostTable {
        id: "days",
        title: "Days",
        note: None,
        texts: &["day", "weekday"],
        count: "turns",
        rows: shown,
        total: total(answer, answer.total.turns),
    };
    table.draw()
}
