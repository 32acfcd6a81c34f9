//! Tables: columns without lines, two blanks apart, nothing behind the last. A record is a line. On a terminal columns shrink to
//! its width, what is cut off ends in an ellipsis, and columns that it has no room for are left out.

use std::borrow::Cow;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets};

/// Less of a text says nothing; in characters.
const TEXT_WIDTH: usize = 8;
/// `2026-04-20T10:15`, in characters.
const MINUTES: usize = 16;
const ID_WIDTH: usize = 8;
const PATH_WIDTH: usize = 24;

/// Blanks between columns.
const GAP: usize = 2;

/// How a column is laid out, and what a terminal that is too narrow for all columns shows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Left-aligned, cut at its end.
    Text,
    /// Right-aligned and never cut, because half a number is a lie.
    Number,
    /// Down to its minutes, because a time without minutes is no use.
    Time,
    /// Its first 8 characters, which tell one id from another in most tables.
    Id,
    /// Its last 24 characters, because the end of a path says more than its beginning.
    Path,
}

/// A column's title and shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heading<'t> {
    pub(super) title: &'t str,
    shape: Shape,
}

impl<'t> Heading<'t> {
    pub(super) const fn new(title: &'t str, shape: Shape) -> Self {
        Self { title, shape }
    }

    pub(super) const fn text(title: &'t str) -> Self {
        Self::new(title, Shape::Text)
    }

    pub(super) const fn number(title: &'t str) -> Self {
        Self::new(title, Shape::Number)
    }

    pub(super) const fn time(title: &'t str) -> Self {
        Self::new(title, Shape::Time)
    }

    /// A cell as a narrow terminal shows it.
    fn shortened<'c>(self, cell: &'c str) -> Cow<'c, str> {
        let count = cell.chars().count();
        match self.shape {
            Shape::Time if count > MINUTES && cell.is_char_boundary(MINUTES) => {
                Cow::Owned(cell[..MINUTES].replacen('T', " ", 1))
            }
            Shape::Id if count > ID_WIDTH + 1 => {
                Cow::Owned(cell.chars().take(ID_WIDTH).chain(['…']).collect())
            }
            Shape::Path if count > PATH_WIDTH => {
                Cow::Owned(['…'].into_iter().chain(cell.chars().skip(count - PATH_WIDTH + 1)).collect())
            }
            _ => Cow::Borrowed(cell),
        }
    }

    /// The least width of a column whose longest cell is `longest` characters.
    fn least(self, longest: usize) -> usize {
        if self.shape == Shape::Text { longest.min(TEXT_WIDTH) } else { longest }
    }
}

/// The lines of a table, each with its LF.
pub(super) fn text(headings: &[Heading<'_>], rows: &[Vec<String>]) -> String {
    text_and_left_out(headings, rows).0
}

/// The lines of a table, and the columns that the terminal has no room for.
pub(super) fn text_and_left_out(headings: &[Heading<'_>], rows: &[Vec<String>]) -> (String, Vec<usize>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_truncation_indicator("…");
    let width = table.width().map_or(usize::MAX, usize::from);
    let is_narrow = width_of(headings, rows) > width;
    let cell = |heading: &Heading<'_>, cell: &str| {
        if is_narrow { heading.shortened(cell).into_owned() } else { cell.to_owned() }
    };
    let cells =
        |row: &Vec<String>| headings.iter().zip(row).map(|(heading, text)| cell(heading, text)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let shown = fitting(headings, &rows, width);
    table.set_header(line(shown.iter().map(|at| headings[*at].title)));
    table.add_rows(rows.iter().map(|row| line(shown.iter().map(|at| row[*at].as_str()))));
    for (column, at) in table.column_iter_mut().zip(&shown) {
        column.set_padding((0, GAP as u16));
        let shape = headings[*at].shape;
        if shape == Shape::Number {
            column.set_cell_alignment(CellAlignment::Right);
        }
        if shape != Shape::Text {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let text = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    let is_left_out = |at: &usize| !shown.contains(at);
    (text, (0..headings.len()).filter(is_left_out).collect())
}

fn longest(heading: &Heading<'_>, rows: &[Vec<String>], at: usize) -> usize {
    let cells = rows.iter().map(|row| row[at].chars().count());
    cells.chain([heading.title.chars().count()]).max().unwrap_or(0)
}

/// The width of a table with every cell whole.
fn width_of(headings: &[Heading<'_>], rows: &[Vec<String>]) -> usize {
    headings.iter().enumerate().map(|(at, heading)| longest(heading, rows, at) + GAP).sum()
}

/// A table that is printed piece by piece and laid out as if it were one: its rows are seen twice, first to measure them.
pub(super) struct Pieces<'h> {
    headings: &'h [Heading<'h>],
    /// The longest text of each column.
    widest: Vec<String>,
    is_first: bool,
}

impl<'h> Pieces<'h> {
    pub(super) fn new(headings: &'h [Heading<'h>]) -> Self {
        Self { headings, widest: vec![String::new(); headings.len()], is_first: true }
    }

    /// Takes note of how wide a row is.
    pub(super) fn measure(&mut self, row: &[String]) {
        for (widest, cell) in self.widest.iter_mut().zip(row) {
            if cell.chars().count() > widest.chars().count() {
                widest.clone_from(cell);
            }
        }
    }

    /// The next lines. The first piece, which may be without rows, has the headings.
    pub(super) fn text(&mut self, mut rows: Vec<Vec<String>>) -> String {
        // A row of the longest texts gives all pieces the same widths; it is not shown.
        rows.insert(0, self.widest.clone());
        let text = text(self.headings, &rows);
        let mut lines = text.split_inclusive('\n');
        let headings = lines.next().filter(|_| std::mem::take(&mut self.is_first));
        headings.into_iter().chain(lines.skip(1)).collect()
    }
}

/// A row that is one line.
fn line<'c>(cells: impl Iterator<Item = &'c str>) -> Row {
    let mut row = Row::from(cells.collect::<Vec<_>>());
    row.max_height(1);
    row
}

/// Which columns a terminal of `width` characters has room for, from the left; the first always.
fn fitting(headings: &[Heading<'_>], rows: &[Vec<String>], width: usize) -> Vec<usize> {
    let mut left = width;
    let fits = |(at, heading): (usize, &Heading<'_>)| {
        let needed = GAP + heading.least(longest(heading, rows, at));
        let has_room = needed <= left || at == 0;
        if has_room {
            left = left.saturating_sub(needed);
        }
        has_room.then_some(at)
    };
    headings.iter().enumerate().filter_map(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_table_make_up_the_table() {
        let headings = [Heading::number("event"), Heading::text("account"), Heading::time("time")];
        let rows: Vec<Vec<String>> = (0..7_u32)
            .map(|at| vec![10_u64.pow(at).to_string(), "a".repeat(12 - at as usize), at.to_string()])
            .collect();
        for size in [1, 3, 7] {
            let mut pieces = Pieces::new(&headings);
            rows.iter().for_each(|row| pieces.measure(row));
            let printed: String = rows.chunks(size).map(|piece| pieces.text(piece.to_vec())).collect();
            assert_eq!(printed, text(&headings, &rows));
        }
        assert_eq!(Pieces::new(&headings).text(Vec::new()), text(&headings, &[]));
    }

    #[test]
    fn a_narrow_terminal_gets_short_cells_and_the_columns_that_it_has_room_for() {
        let headings = [
            Heading::time("time"),
            Heading::new("session", Shape::Id),
            Heading::text("model"),
            Heading::number("input"),
            Heading::number("output"),
            Heading::number("cache r"),
            Heading::number("cache w"),
            Heading::new("project", Shape::Path),
            Heading::text("source"),
        ];
        let cells = [
            "2026-04-20T10:15:00.000Z",
            "0c04ca41-dca9-2972-ea90-00b6fd2c5001",
            "claude-opus-4-7",
            "1211",
            "32111",
            "145212",
            "14521",
            "/home/somebody/work/acme/relay/burn",
            "claude-code",
        ];
        let short: Vec<String> =
            headings.iter().zip(cells).map(|(heading, cell)| heading.shortened(cell).into_owned()).collect();
        assert_eq!(short[..2], ["2026-04-20 10:15", "0c04ca41…"]);
        assert_eq!(short[7], "…dy/work/acme/relay/burn");
        let rows = vec![short];
        let shown = |width| -> Vec<&str> {
            fitting(&headings, &rows, width).into_iter().map(|at| headings[at].title).collect()
        };
        assert_eq!(shown(10), ["time"]);
        assert_eq!(shown(40), ["time", "session", "model"]);
        let at_80 = ["time", "session", "model", "input", "output", "cache r", "cache w"];
        assert_eq!(shown(80), at_80);
        assert_eq!(shown(200).len(), headings.len());
        assert!(text(&headings, &rows).lines().all(|line| line == line.trim_end()));
        // Times and ids that are short, or are no ASCII, stay.
        for cell in ["", "yesterday", "é".repeat(30).as_str()] {
            assert!(Heading::time("time").shortened(cell).chars().count() <= 30, "{cell}");
        }
        assert_eq!(Heading::new("session", Shape::Id).shortened("session-1"), "session-1");
    }
}
