//! The columns of the tables that `burn query` prints: which there are, what a record has in them, and their totals.

use std::fmt;

use super::kind::KindArg;
use crate::cli::printable;
use crate::cli::table::{Heading, Shape};
use crate::scan::json::{Kind, Value};

/// A column, and where its value is in a record.
#[derive(Debug, Clone)]
pub(super) struct QueryColumn {
    title: String,
    shape: Shape,
    /// Members from the record down, for one value or for several numbers that are added.
    paths: Vec<Vec<String>>,
    /// Whether numbers of several records may be added: tokens may, indices may not.
    has_total: bool,
}

/// A name that is no column of a kind of record.
#[derive(Debug, thiserror::Error)]
#[error("a column is a member's name, such as {example}, and parts are joined by dots; {name:?} is none")]
pub(super) struct NoColumn {
    name: String,
    example: &'static str,
}

impl QueryColumn {
    /// What a record has there: of an array, how many items.
    pub(super) fn cell(&self, record: Value<'_>) -> String {
        if let [path] = &self.paths[..] {
            return match find(record, path) {
                None => String::new(),
                Some(value) if value.kind() == Kind::Array => value.len().to_string(),
                Some(value) => {
                    let text = value.as_str().unwrap_or_else(|| value.to_string().into());
                    printable::line(&text).into_owned()
                }
            };
        }
        let mut numbers = self.paths.iter().filter_map(|path| find(record, path)?.as_number()).peekable();
        if numbers.peek().is_none() {
            return String::new();
        }
        let mut sum = CellSum::default();
        for number in numbers {
            match number.as_i64() {
                Some(whole) => sum.whole += i128::from(whole),
                None => sum.rest += number.as_f64(),
            }
        }
        sum.to_string()
    }

    pub(super) fn heading(&self) -> Heading<'_> {
        Heading::new(&self.title, self.shape)
    }
}

fn find<'d>(record: Value<'d>, path: &[String]) -> Option<Value<'d>> {
    path.iter().try_fold(record, |value, key| value.get(key))
}

/// A sum of integers, and of numbers that are no integers.
#[derive(Debug, Clone, Copy, Default)]
struct CellSum {
    whole: i128,
    rest: f64,
}

impl fmt::Display for CellSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rest == 0.0 { self.whole.fmt(f) } else { (self.whole as f64 + self.rest).fmt(f) }
    }
}

/// Sums of the columns that have one, over all rows of a table.
#[derive(Debug)]
pub(super) struct Totals(Vec<Option<CellSum>>);

impl Totals {
    pub(super) fn new(columns: &[QueryColumn]) -> Self {
        Self(columns.iter().map(|column| column.has_total.then(CellSum::default)).collect())
    }

    pub(super) fn add(&mut self, row: &[String]) {
        for (total, cell) in self.0.iter_mut().zip(row) {
            let Some(total) = total else { continue };
            match cell.parse::<i128>() {
                Ok(number) => total.whole = total.whole.saturating_add(number),
                Err(_) => total.rest += cell.parse().unwrap_or(0.0),
            }
        }
    }

    /// The last row of a table; none where no column has a total.
    pub(super) fn row(&self) -> Option<Vec<String>> {
        self.0.iter().any(Option::is_some).then(|| {
            let cell = |(place, total): (usize, &Option<CellSum>)| match total {
                Some(total) => total.to_string(),
                None if place == 0 => "total".to_owned(),
                None => String::new(),
            };
            self.0.iter().enumerate().map(cell).collect()
        })
    }
}

fn column(title: &str, shape: Shape, paths: &[&str]) -> QueryColumn {
    let path = |path: &&str| path.split('.').map(str::to_owned).collect();
    QueryColumn { title: title.to_owned(), shape, paths: paths.iter().map(path).collect(), has_total: false }
}

fn total(title: &str, paths: &[&str]) -> QueryColumn {
    QueryColumn { has_total: true, ..column(title, Shape::Number, paths) }
}

/// The columns of a kind, in the order of their use: a narrow terminal has no room for the last ones.
pub(super) fn usual(kind: KindArg) -> Vec<QueryColumn> {
    let text = |title, path| column(title, Shape::Text, &[path]);
    let number = |title, path| column(title, Shape::Number, &[path]);
    let project = || column("project", Shape::Path, &["project"]);
    let time = || column("time", Shape::Time, &["ts"]);
    let [session, source] = [column("session", Shape::Id, &["sessionId"]), text("source", "source")];
    match kind {
        KindArg::Turns => vec![
            time(),
            session,
            text("model", "model"),
            total("input", &["usage.input"]),
            total("output", &["usage.output"]),
            total("cache r", &["usage.cacheRead"]),
            total("cache w", &["usage.cacheCreate5m", "usage.cacheCreate1h"]),
            total("calls", &["toolCalls"]),
            project(),
            source,
        ],
        KindArg::Compactions => vec![time(), session, number("tokens before", "tokensBeforeCompact"), source],
        KindArg::Relationships => vec![
            time(),
            session,
            text("type", "relationshipType"),
            column("related session", Shape::Id, &["relatedSessionId"]),
            text("agent", "agentId"),
            source,
        ],
        KindArg::ToolResultEvents => vec![
            time(),
            session,
            text("tool use", "toolUseId"),
            number("event", "eventIndex"),
            text("status", "status"),
            total("bytes", &["contentLength"]),
            source,
        ],
        KindArg::UserTurns => {
            vec![
                time(),
                session,
                column("user turn", Shape::Id, &["userUuid"]),
                total("blocks", &["blocks"]),
                source,
            ]
        }
        KindArg::Sessions => vec![
            column("started", Shape::Time, &["startedAt"]),
            column("ended", Shape::Time, &["endedAt"]),
            session,
            total("turns", &["turnCount"]),
            number("models", "models"),
            project(),
            source,
        ],
        KindArg::Stamps => {
            vec![
                time(),
                text("selector", "selector"),
                text("enrichment", "enrichment"),
                number("byte", "ledgerOffset"),
            ]
        }
        KindArg::ToolCalls => vec![
            time(),
            session,
            number("call", "callIndex"),
            text("tool", "name"),
            column("target", Shape::Path, &["target"]),
            source,
        ],
    }
}

/// The columns that are asked for by name: a title of [`usual`], or members from the record down, joined by dots.
///
/// # Errors
/// A name that is empty or has an empty part.
pub(super) fn named(kind: KindArg, names: &[String]) -> Result<Vec<QueryColumn>, NoColumn> {
    let usual = usual(kind);
    let by_name = |name: &String| {
        let name = name.trim();
        let is_usual = |column: &&QueryColumn| {
            column.title == name || matches!(&column.paths[..], [path] if path.join(".") == name)
        };
        if let Some(found) = usual.iter().find(is_usual) {
            return Ok(found.clone());
        }
        if name.split('.').any(str::is_empty) {
            return Err(NoColumn { name: name.to_owned(), example: "model or usage.input" });
        }
        Ok(QueryColumn { title: printable::line(name).into_owned(), ..column(name, Shape::Text, &[name]) })
    };
    names.iter().map(by_name).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::scan::json::Document;

    fn cells(kind: KindArg, names: &[&str], record: &str) -> Vec<String> {
        let mut document = Document::default();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let columns = named(kind, &names).unwrap();
        let record = document.parse(record.as_bytes()).unwrap();
        columns.iter().map(|column| column.cell(record)).collect()
    }

    #[test]
    fn a_column_is_named_by_its_title_or_by_its_member() {
        let record = r#"{"model":"m\u001b[2J","usage":{"input":7,"cacheCreate5m":1,"cacheCreate1h":2},"toolCalls":[1,2]}"#;
        let names =
            ["model", "input", "usage.input", "cache w", "calls", "usage.reasoning", "subagent.agentId"];
        assert_eq!(cells(KindArg::Turns, &names, record), ["m\u{FFFD}[2J", "7", "7", "3", "2", "", ""]);
        for name in ["", ".", "usage.", ".input", "usage..input"] {
            let refused = named(KindArg::Turns, &[name.to_owned()]).unwrap_err().to_string();
            assert!(refused.contains(&format!("{name:?}")), "{refused}");
        }
    }

    #[test]
    fn tokens_have_a_total_and_indices_have_none() {
        let columns = usual(KindArg::ToolResultEvents);
        let mut totals = Totals::new(&columns);
        for bytes in ["12", "", "30"] {
            totals.add(&["t", "s", "u", "4", "ok", bytes, "claude-code"].map(str::to_owned));
        }
        assert_eq!(totals.row().unwrap(), ["total", "", "", "", "", "42", ""]);
        assert!(Totals::new(&usual(KindArg::Stamps)).row().is_none());
    }
}
