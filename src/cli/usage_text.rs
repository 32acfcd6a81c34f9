//! Answers about usage as text: a table that fits its terminal, and CSV.
//!
//! Guarantees: a number is never cut. Columns for which there is no room are named below the table.

use std::collections::HashMap;

use super::printable;
use super::table::{beginning, ending, terminal_width, width};
use crate::usage::shown::{cost, dollars, grouped, short};
use crate::usage::{
    Answer, AnswerRow, Dimension, ExplainedTurn, Instant, Period, RowPeriod, Sums, UnpricedReason,
};

/// How a table may look.
pub(super) struct TableLook {
    /// Cells of a line; none for a pipe.
    width: Option<usize>,
    /// All digits.
    is_exact: bool,
    is_unicode: bool,
    is_coloured: bool,
}

impl TableLook {
    pub(super) fn of_terminal(is_exact: bool, is_terminal: bool) -> Self {
        let width = terminal_width().map_or(80, usize::from);
        Self {
            width: is_terminal.then_some(width),
            is_exact,
            is_unicode: is_unicode(),
            is_coloured: is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        }
    }

    fn tokens(&self, count: i128) -> String {
        if self.is_exact { count.to_string() } else { short(count) }
    }

    fn usd(&self, sums: &Sums) -> String {
        let sign = if self.is_unicode { "≥ " } else { "> " };
        cost(sums, sign, |usd| if self.is_exact { format!("${usd}") } else { dollars(usd) })
    }

    fn bar(&self, share: f64) -> String {
        const CELLS: usize = 8;
        if !self.is_unicode {
            return "#".repeat((share * CELLS as f64).round() as usize);
        }
        let eighths = (share * (CELLS * 8) as f64).round() as usize;
        let part = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8];
        format!("{}{part}", "█".repeat(eighths / 8))
    }
}

/// Whether the locale is UTF-8.
pub(super) fn is_unicode() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    locale.is_some_and(|name| {
        let name = name.to_ascii_lowercase();
        name.contains("utf-8") || name.contains("utf8")
    })
}

struct TextColumn {
    title: String,
    is_number: bool,
    cells: Vec<String>,
}

impl TextColumn {
    fn of_sums(title: &str, sums: &[&Sums], cell: &dyn Fn(&Sums) -> String) -> Self {
        let cells = sums.iter().map(|sums| cell(sums)).collect();
        Self { title: title.to_owned(), is_number: true, cells }
    }

    fn width(&self) -> usize {
        self.cells.iter().chain([&self.title]).map(|cell| width(cell)).max().unwrap_or(0)
    }
}

/// The columns of a table, from left to right.
struct TextColumns<'s> {
    names: Vec<TextColumn>,
    counts: Vec<TextColumn>,
    costs: Vec<TextColumn>,
    bar: Option<TextColumn>,
    /// Sums of each row, then the total.
    sums: &'s [&'s Sums],
    look: &'s TableLook,
}

impl<'s> TextColumns<'s> {
    fn new(answer: &Answer, sums: &'s [&'s Sums], look: &'s TableLook) -> Self {
        let number = |title, cell: &dyn Fn(&Sums) -> String| TextColumn::of_sums(title, sums, cell);
        let mut counts = Vec::new();
        if answer.question.by.contains(&Dimension::Tool) {
            counts.push(number("calls", &|sums| look.tokens(i128::from(sums.calls))));
        }
        counts.push(number("turns", &|sums| look.tokens(i128::from(sums.turns))));
        counts.push(number("input", &|sums| look.tokens(sums.counts[0])));
        counts.push(number("output", &|sums| look.tokens(sums.counts[1])));
        counts.push(number("cache r", &|sums| look.tokens(sums.counts[3])));
        counts.push(number("cache w", &|sums| look.tokens(sums.counts[4] + sums.counts[5])));
        let bars = answer.rows.iter().map(|row| look.bar(share(answer, &row.sums)));
        let bar = TextColumn {
            title: String::new(),
            is_number: false,
            cells: bars.chain([String::new()]).collect(),
        };
        let costs = vec![
            number("cost", &|sums| look.usd(sums)),
            number("%", &|sums| format!("{:.1}", 100.0 * share(answer, sums))),
        ];
        Self { names: names(answer), counts, costs, bar: Some(bar), sums, look }
    }

    fn all(&self) -> impl Iterator<Item = &TextColumn> {
        self.names.iter().chain(&self.counts).chain(&self.costs).chain(&self.bar)
    }

    fn width(&self) -> usize {
        self.all().map(|column| column.width() + 2).sum::<usize>().saturating_sub(2)
    }

    /// Leaves out columns, and cuts names, until the table has at most `width` cells. Returns the titles of counts that
    /// were left out, and of the shares. The cost stays.
    fn fit(&mut self, width: usize, answer: &Answer) -> Vec<&'static str> {
        let mut left_out = Vec::new();
        if self.width() > width {
            self.bar = None;
        }
        if self.width() > width {
            self.counts.truncate(self.counts.len() - 2);
            let look = self.look;
            let cache = |sums: &Sums| look.tokens(sums.counts[3..].iter().sum());
            self.counts.push(TextColumn::of_sums("cache", self.sums, &cache));
        }
        for name in ["input", "turns", "cache", "output", "calls"] {
            if self.width() > width && self.counts.iter().any(|column| column.title == name) {
                self.counts.retain(|column| column.title != name);
                left_out.push(name);
            }
        }
        let over = self.width().saturating_sub(width);
        cut_names(&mut self.names, over, answer);
        if self.width() > width {
            self.costs.truncate(1);
            left_out.push("%");
        }
        left_out
    }

    /// A line of the table, in an ANSI style if the table has colours.
    fn line(&self, widths: &[usize], cell: impl Fn(&TextColumn) -> &str, style: Option<&str>) -> String {
        let mut out = String::new();
        for (column, column_width) in self.all().zip(widths) {
            let cell = cell(column);
            let blanks = " ".repeat(column_width - width(cell));
            if !out.is_empty() {
                out.push_str("  ");
            }
            let (first, second) = if column.is_number { (&*blanks, cell) } else { (cell, &*blanks) };
            out.push_str(first);
            out.push_str(second);
        }
        match style.filter(|_| self.look.is_coloured) {
            Some(style) => format!("\u{1b}[{style}m{}\u{1b}[0m\n", out.trim_end()),
            None => format!("{}\n", out.trim_end()),
        }
    }
}

/// The answer as a table, with a caption above and what is unsure below.
pub(super) fn table(answer: &Answer, now: Instant, look: &TableLook) -> String {
    let sums: Vec<&Sums> = answer.rows.iter().map(|row| &row.sums).chain([&answer.total]).collect();
    let mut columns = TextColumns::new(answer, &sums, look);
    let left_out = look.width.map(|width| columns.fit(width, answer)).unwrap_or_default();
    let widths: Vec<usize> = columns.all().map(TextColumn::width).collect();
    let mut text = caption(answer, now, look);
    text.push_str(&columns.line(&widths, |column| &column.title, Some("2")));
    for place in 0..sums.len() {
        let is_total = place + 1 == sums.len();
        text.push_str(&columns.line(&widths, |column| &column.cells[place], is_total.then_some("1")));
        for turn in answer.rows.get(place).into_iter().flat_map(|row| &row.turns_at) {
            text.push_str(&format!("{}\n", printable::line(&explained(turn))));
        }
    }
    text.push_str(&notes(answer, look, &left_out));
    text
}

/// A turn of a row: where its line is, what it is, and its cost.
fn explained(turn: &ExplainedTurn) -> String {
    let usd = turn.usd.map_or("unpriced".to_owned(), |usd| format!("${usd}"));
    let superseded = match &*turn.superseded {
        [] => String::new(),
        offsets => {
            let offsets: Vec<String> = offsets.iter().map(u64::to_string).collect();
            format!(", in place of the lines at {}", offsets.join(", "))
        }
    };
    format!(
        "  byte {} ({} bytes): {} {}/{}/{} {} {usd}{superseded}",
        turn.offset, turn.length, turn.ts, turn.source, turn.session, turn.message, turn.model
    )
}

/// The share of a row in the total: of its cost, or of its tokens where nothing costs anything.
fn share(answer: &Answer, sums: &Sums) -> f64 {
    let (part, whole) = match answer.total.usd.units() {
        0 => (sums.tokens(), answer.total.tokens()),
        whole => (sums.usd.units(), whole),
    };
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The columns on the left: the period and the dimensions. The last cell is that of the total.
fn names(answer: &Answer) -> Vec<TextColumn> {
    let question = &answer.question;
    let other =
        answer.other_rows.map_or(String::new(), |rows| format!("(other {})", super::counted(rows, "row")));
    let mut columns = Vec::new();
    let column = |title: &str, cell: &dyn Fn(&AnswerRow) -> String| TextColumn {
        title: printable::line(title).into_owned(),
        is_number: false,
        cells: answer.rows.iter().map(|row| printable::line(&cell(row)).into_owned()).collect(),
    };
    if let Some(period) = question.period {
        columns.push(column(period.as_str(), &|row| match &row.period {
            Some(period) => period.key.clone(),
            None if row.is_other => String::new(),
            None => "undated".to_owned(),
        }));
    }
    for (place, dimension) in question.by.iter().enumerate() {
        columns.push(column(&dimension.name(), &|row| match row.values.get(place) {
            Some(Some(value)) => named(value),
            Some(None) if row.is_other => String::new(),
            Some(None) => "(none)".to_owned(),
            None => String::new(),
        }));
    }
    if columns.is_empty() {
        columns.push(column("", &|_| "all turns".to_owned()));
    }
    let first = &mut columns[0];
    if let Some((row, cell)) = answer.rows.iter().zip(&mut first.cells).next_back()
        && row.is_other
    {
        cell.clone_from(&other);
    }
    first.cells.push("total".to_owned());
    columns.iter_mut().skip(1).for_each(|column| column.cells.push(String::new()));
    columns
}

/// A value of a dimension, in quotes where a reader could take the value for a word of the table.
fn named(value: &str) -> String {
    let is_like_a_word = value.is_empty() || value == "total" || value.starts_with(['(', '"']);
    if is_like_a_word { format!("\"{value}\"") } else { value.to_owned() }
}

/// No name becomes shorter than this.
const NAME_MIN: usize = 8;

/// The width that names of models keep, because a price is found by the whole name.
const MODEL_MIN: usize = 40;

/// Makes names shorter by `over` cells: projects at the front, others in the middle.
fn cut_names(names: &mut [TextColumn], over: usize, answer: &Answer) {
    let mut over = over;
    let has_period = answer.question.period.is_some();
    for (place, column) in names.iter_mut().enumerate() {
        let dimension =
            place.checked_sub(usize::from(has_period)).and_then(|place| answer.question.by.get(place));
        let is_session = has_period && place == 0 && answer.question.period == Some(Period::Session);
        if over == 0 || (dimension.is_none() && !is_session) {
            continue;
        }
        let before = column.width();
        let least = if matches!(dimension, Some(Dimension::Model)) { MODEL_MIN } else { NAME_MIN };
        let wanted = before.saturating_sub(over).max(least).max(width(&column.title));
        let is_path = matches!(dimension, Some(Dimension::Project));
        // The first eight cells of an id are enough where they tell the rows apart.
        let is_id = is_session || matches!(dimension, Some(Dimension::Session));
        let starts: Vec<String> = column.cells.iter().map(|cell| beginning(cell, 8).to_owned()).collect();
        let mut id_of_start = HashMap::new();
        let are_apart = is_id
            && starts
                .iter()
                .zip(&column.cells)
                .all(|(start, id)| *id_of_start.entry(start).or_insert(id) == id);
        for (cell, start) in column.cells.iter_mut().zip(starts) {
            if width(cell) <= wanted {
                continue;
            }
            *cell = if are_apart {
                start
            } else if is_path {
                format!("…{}", ending(cell, wanted - 1))
            } else {
                let front = wanted / 2;
                format!("{}…{}", beginning(cell, front), ending(cell, wanted - 1 - front))
            };
        }
        over = over.saturating_sub(before - column.width());
    }
}

/// What is above the table: the time that it is about, the zone, the prices, and a sparkline of days.
fn caption(answer: &Answer, now: Instant, look: &TableLook) -> String {
    let question = &answer.question;
    let date = |at: Instant| question.zone.date_of(at);
    // Turns may say that they are of a day to come.
    let has_later_days = answer.last.is_some_and(|last| last > now && date(last) != date(now));
    let bounds = match (question.since, question.until) {
        (None, None) => "all turns".to_owned(),
        (Some(since), None) if has_later_days => format!("since {}", date(since)),
        (Some(since), until) => format!("{} to {}", date(since), date(until.unwrap_or(now))),
        (None, Some(until)) => format!("up to {}", date(until)),
    };
    let prices = &answer.prices;
    let own = prices.own.as_ref().map_or(String::new(), |(path, _)| format!("{} and ", path.display()));
    let line =
        format!("{bounds}, {}, prices of {own}{} {}", question.zone.name(), prices.package, prices.version);
    let mut text = printable::line(&line).into_owned();
    let is_days = question.period == Some(Period::Day) && question.by.is_empty();
    if is_days && look.is_unicode && look.width.is_some() {
        let costs =
            answer.rows.iter().filter(|row| row.period.is_some()).map(|row| row.sums.usd.units() as f64);
        let costs: Vec<f64> = costs.collect();
        let costs = &costs[costs.len().saturating_sub(30)..];
        let most = costs.iter().copied().fold(0.0, f64::max);
        let bars = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let room = look.width.unwrap_or(0).saturating_sub(width(&text) + 2);
        if most > 0.0 && costs.len() <= room {
            text.push_str("  ");
            text.extend(costs.iter().map(|cost| bars[((cost / most) * 7.0).round() as usize]));
        }
    }
    text.push('\n');
    text
}

/// What is below the table: why the cost is a lower bound, and what is not shown.
fn notes(answer: &Answer, look: &TableLook, left_out: &[&str]) -> String {
    let mut text = String::new();
    let mut parts = Vec::new();
    if !answer.unpriced.is_empty() {
        const MODELS_SHOWN: usize = 3;
        let name = |model: &str, reason: UnpricedReason| match reason {
            UnpricedReason::Undated => format!("{model} without a time"),
            UnpricedReason::Class => format!("{model}, a class without a price"),
            UnpricedReason::Model => {
                if model.is_empty() {
                    "no model".to_owned()
                } else {
                    model.to_owned()
                }
            }
        };
        let shown = answer.unpriced.iter().take(MODELS_SHOWN);
        let mut names: Vec<String> = shown
            .map(|unpriced| {
                format!(
                    "{} tokens of {}",
                    look.tokens(unpriced.tokens),
                    name(&unpriced.model, unpriced.reason)
                )
            })
            .collect();
        if answer.unpriced.len() > MODELS_SHOWN {
            names.push(format!("{} more", answer.unpriced.len() - MODELS_SHOWN));
        }
        parts.push(format!("no price: {}", names.join(", ")));
    }
    if answer.total.lower_bound_turns > 0 {
        parts.push(format!("lower bound: {}", super::counted(answer.total.lower_bound_turns, "turn")));
    }
    let mut line = |what: String| wrap(&printable::line(&what), look.width, &mut text);
    if !parts.is_empty() {
        line(parts.join("; "));
    }
    if answer.invalid_turns > 0 {
        line(format!(
            "{} with a value that is no count, which is 0 here",
            super::counted(answer.invalid_turns, "turn")
        ));
    }
    if answer.undated_left_out > 0 {
        line(format!("left out: {} without a time", super::counted(answer.undated_left_out, "turn")));
    }
    if answer.question.by.contains(&Dimension::Tool) {
        line("a turn's tokens are shared out among its calls".to_owned());
    }
    if !left_out.is_empty() {
        line(format!("no room for: {}", left_out.join(", ")));
    }
    text
}

/// Appends a text, in lines of at most so many characters where its words allow that.
fn wrap(text: &str, width: Option<usize>, out: &mut String) {
    let mut column = 0;
    for word in text.split(' ') {
        let len = super::table::width(word);
        if column > 0 && width.is_some_and(|width| column + 1 + len > width) {
            out.push_str("\n  ");
            column = 2;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out.push('\n');
}

/// What is known of the block that is under way.
pub(super) fn active(answer: &Answer, period: &RowPeriod, now: Instant) -> String {
    let (Some(start), Some(end)) = (period.start, period.end) else { return String::new() };
    let gone = (now.seconds - start.seconds).max(1);
    let left = end.seconds - now.seconds;
    let tokens = answer.total.tokens();
    let all = gone + left;
    // Cents are few enough for these products.
    let cents = answer.total.usd.cents();
    let money = |cents: i128| {
        format!("${}.{:02}", grouped(u64::try_from(cents / 100).unwrap_or(u64::MAX)), cents % 100)
    };
    let (gone, all) = (i128::from(gone), i128::from(all));
    format!(
        "{} h {:02} min left; {} tokens and {} a minute so far; {} tokens and {} at its end at this rate\n",
        left / 3600,
        left / 60 % 60,
        short(tokens * 60 / gone),
        money(cents * 60 / gone),
        short(tokens * all / gone),
        money(cents * all / gone)
    )
}

/// The answer as CSV (RFC 4180, lines end in LF).
pub(super) fn csv(answer: &Answer) -> String {
    let question = &answer.question;
    let mut header: Vec<String> = Vec::new();
    if question.period.is_some() {
        header.extend(["period", "start", "end"].map(str::to_owned));
    }
    header.extend(question.by.iter().map(Dimension::name));
    if question.by.contains(&Dimension::Tool) {
        header.push("calls".to_owned());
    }
    header.push("turns".to_owned());
    header.extend(Sums::COUNTS.map(str::to_owned));
    header.extend(["tokens", "usd", "unpricedTokens", "lowerBoundTurns"].map(str::to_owned));
    let mut text = csv_line(&header);
    for row in &answer.rows {
        let mut fields: Vec<String> = Vec::new();
        if question.period.is_some() {
            let time = |at: Option<Instant>| at.map_or(String::new(), Instant::to_rfc3339);
            match &row.period {
                Some(period) => fields.extend([period.key.clone(), time(period.start), time(period.end)]),
                None => fields.extend(["", "", ""].map(str::to_owned)),
            }
        }
        let values = (0..question.by.len()).map(|place| row.values.get(place).cloned().flatten());
        fields.extend(values.map(Option::unwrap_or_default));
        if row.is_other {
            match fields.first_mut() {
                Some(first) => *first = "(other)".to_owned(),
                None => fields.push("(other)".to_owned()),
            }
        }
        let sums = &row.sums;
        if question.by.contains(&Dimension::Tool) {
            fields.push(sums.calls.to_string());
        }
        fields.push(sums.turns.to_string());
        fields.extend(sums.counts.iter().map(i128::to_string));
        fields.extend([
            sums.tokens().to_string(),
            sums.usd.to_string(),
            sums.unpriced_tokens.to_string(),
            sums.lower_bound_turns.to_string(),
        ]);
        text.push_str(&csv_line(&fields));
    }
    text
}

fn csv_line(fields: &[String]) -> String {
    let field = |field: &String| {
        if field.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.clone()
        }
    };
    let fields: Vec<String> = fields.iter().map(field).collect();
    fields.join(",") + "\n"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short_and_never_four_digits() {
        for (count, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.0 k"),
            (99_949, "99.9 k"),
            (99_950, "100 k"),
            (842_499, "842 k"),
            (999_499, "999 k"),
            (999_500, "1.0 M"),
            (61_200_000, "61.2 M"),
        ] {
            assert_eq!(short(count), text, "{count}");
        }
    }

    #[test]
    fn a_table_fits_its_terminal_and_cuts_no_number() {
        use crate::archive::Paths;
        use crate::home::Home;
        use crate::interrupt::Interrupt;
        use crate::usage::{Bound, Prices, Question, WeekStart, Zone, ask_ledger};

        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        let turn = |message: u32, model: &str, count: u64| {
            format!(
                r#"{{"v":1,"kind":"turn","record":{{"source":"claude-code","sessionId":"0c04ca41-dca9-2972-ea90-00b6fd2c5{message:03}","messageId":"m{message}","turnIndex":0,"ts":"2026-11-{:02}T10:00:00.000Z","model":"{model}","project":"/home/somebody/work/a-long-name/relay/burn-{message}","usage":{{"input":{count},"output":{count},"reasoning":0,"cacheRead":{count},"cacheCreate5m":0,"cacheCreate1h":{count}}},"toolCalls":[]}}}}"#,
                10 + message % 9
            )
        };
        let models = ["claude-opus-4-7", "gpt-5.6-sol", "my-gateway", "claude-haiku-4-5-20251001"];
        let lines: Vec<String> = (0..40)
            .map(|message| turn(message, models[message as usize % 4], 7_u64.pow(message % 13)))
            .collect();
        std::fs::write(home.ledger(), lines.join("\n") + "\n").unwrap();
        let now = Instant::of_turn("2026-11-21T12:00:00Z").unwrap();
        let zone = Zone::named("America/Argentina/ComodRivadavia").unwrap();
        let since = Bound::Since.parse("30d", &zone, WeekStart::Monday, now).unwrap();
        for period in [None, Some(Period::Day), Some(Period::Session), Some(Period::Hour)] {
            for by in [&[][..], &["model"], &["project"], &["session", "source"], &["model", "project"]] {
                let question = Question {
                    period,
                    by: by.iter().filter_map(|word| Dimension::named(word)).collect(),
                    zone: zone.clone(),
                    since: Some(since),
                    ..Question::default()
                };
                let paths = Paths::of_home(&home);
                let answer = ask_ledger(&paths, &question, &Prices::built_in(), &Interrupt::new()).unwrap();
                let look = |width| TableLook { width, is_exact: false, is_unicode: true, is_coloured: false };
                let whole = table(&answer, now, &look(None));
                let wide = table(&answer, now, &look(Some(400)));
                assert_eq!(whole.lines().nth(1), wide.lines().nth(1));
                let text = table(&answer, now, &look(Some(80)));
                let rows = answer.rows.len() + 2;
                for line in text.lines().skip(1).take(rows) {
                    // Models lose nothing, so two names beside them may need more.
                    assert!(line.chars().count() <= 80 || by.len() == 2, "{line}");
                }
                if period == Some(Period::Day) && by == ["model"] {
                    let text = table(&answer, now, &look(Some(58)));
                    for line in text.lines().skip(1).take(rows) {
                        assert!(width(line) <= 58, "{line}");
                    }
                }
                // The total's cost is there, whole, at any width.
                let cost = look(None).usd(&answer.total);
                for width in [20, 40, 60, 80, 100, 120] {
                    assert!(table(&answer, now, &look(Some(width))).contains(&cost), "{width}");
                }
            }
        }
    }

    #[test]
    fn notes_are_wrapped_between_words() {
        let wrapped = |text: &str, width| {
            let mut out = String::new();
            wrap(text, width, &mut out);
            out
        };
        assert_eq!(wrapped("one two three", None), "one two three\n");
        assert_eq!(wrapped("one two three", Some(8)), "one two\n  three\n");
        assert_eq!(wrapped("onetwothree four", Some(4)), "onetwothree\n  four\n");
    }

    #[test]
    fn fields_of_csv_are_quoted_where_they_must_be() {
        let fields = ["a", "b,c", "d\"e", "f\ng", "=1+1", ""].map(str::to_owned);
        assert_eq!(csv_line(&fields), "a,\"b,c\",\"d\"\"e\",\"f\ng\",=1+1,\n");
    }
}
