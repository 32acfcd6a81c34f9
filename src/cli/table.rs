//! Lays out tables: columns two blanks apart, without rules, and no blanks after the last column. Each record is one line. Widths
//! are cells of a terminal; a wide character takes two. On a terminal that is too narrow for the whole table, cells are
//! shortened: an ellipsis marks the cut end of a text or an id and the cut beginning of a path, and times end after the minutes.
//! Columns that still do not fit are left out.

use std::borrow::Cow;

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The least width in cells of a text column that is shown.
const TEXT_WIDTH_MIN: usize = 8;
/// `2026-04-20T10:15`, in cells.
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
    /// Right-aligned and never cut: half a number is another number.
    Number,
    /// A time, shortened to minutes. It is never shortened further.
    Time,
    /// Its first 8 cells, which tell one id from another in most tables.
    Id,
    /// An ellipsis and the last 23 cells: the end of a path says more than its beginning.
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

    /// The headings of a table: `#title` of numbers, `@title` of times, any other title of texts.
    pub(super) fn list<const N: usize>(titles: [&'t str; N]) -> [Self; N] {
        titles.map(|title| match title.split_at(1) {
            ("#", title) => Self::new(title, Shape::Number),
            ("@", title) => Self::new(title, Shape::Time),
            _ => Self::new(title, Shape::Text),
        })
    }

    /// A cell as a narrow terminal shows it.
    fn shortened<'c>(self, cell: &'c str) -> Cow<'c, str> {
        let count = width(cell);
        match self.shape {
            Shape::Time if count > MINUTES && cell.is_char_boundary(MINUTES) => {
                Cow::Owned(cell[..MINUTES].replacen('T', " ", 1))
            }
            Shape::Id if count > ID_WIDTH + 1 => Cow::Owned(format!("{}…", beginning(cell, ID_WIDTH))),
            Shape::Path if count > PATH_WIDTH => Cow::Owned(format!("…{}", ending(cell, PATH_WIDTH - 1))),
            _ => Cow::Borrowed(cell),
        }
    }

    /// The least width of a column whose widest text takes `longest` cells.
    fn least(self, longest: usize) -> usize {
        if self.shape == Shape::Text { longest.min(TEXT_WIDTH_MIN) } else { longest }
    }
}

/// How many cells of a terminal a text takes.
pub(super) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// The longest beginning of a text that takes at most so many cells.
pub(super) fn beginning(text: &str, cells: usize) -> &str {
    let mut taken = 0;
    let beyond = text.char_indices().find(|(_, character)| {
        taken += character.width().unwrap_or(0);
        taken > cells
    });
    beyond.map_or(text, |(at, _)| &text[..at])
}

/// Returns the longest end of a text that takes at most `cells` cells, without combining characters at its
/// beginning.
pub(super) fn ending(text: &str, cells: usize) -> &str {
    let mut taken = 0;
    let beyond = text.char_indices().rev().find(|(_, character)| {
        taken += character.width().unwrap_or(0);
        taken > cells
    });
    beyond.map_or(text, |(at, character)| {
        text[at + character.len_utf8()..].trim_start_matches(|character: char| character.width() == Some(0))
    })
}

/// The width of the terminal in cells, 80 if the terminal does not know it; none without a terminal.
pub(super) fn terminal_width() -> Option<u16> {
    Table::new().width().map(|width| if width == 0 { 80 } else { width })
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
    if let Some(width) = terminal_width() {
        table.set_width(width);
    }
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
    rows.iter().map(|row| width(&row[at])).chain([width(heading.title)]).max().unwrap_or(0)
}

/// The width of a table with every cell whole.
fn width_of(headings: &[Heading<'_>], rows: &[Vec<String>]) -> usize {
    headings.iter().enumerate().map(|(at, heading)| longest(heading, rows, at) + GAP).sum()
}

/// A table that is printed in pieces with the widths of the whole table. The caller passes all rows twice: first to
/// `measure`, then to `text`.
pub(super) struct TablePieces<'h> {
    headings: &'h [Heading<'h>],
    /// The longest text of each column.
    widest: Vec<String>,
    is_first: bool,
}

impl<'h> TablePieces<'h> {
    pub(super) fn new(headings: &'h [Heading<'h>]) -> Self {
        Self { headings, widest: vec![String::new(); headings.len()], is_first: true }
    }

    /// Takes note of how wide a row is.
    pub(super) fn measure(&mut self, row: &[String]) {
        for (widest, cell) in self.widest.iter_mut().zip(row) {
            if width(cell) > width(widest) {
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

/// Which columns a terminal of `width` cells has room for, from the left; the first always.
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
        let headings = Heading::list(["#event", "account", "@time"]);
        let rows: Vec<Vec<String>> = (0..7_u32)
            .map(|at| vec![10_u64.pow(at).to_string(), "a".repeat(12 - at as usize), at.to_string()])
            .collect();
        for size in [1, 3, 7] {
            let mut pieces = TablePieces::new(&headings);
            rows.iter().for_each(|row| pieces.measure(row));
            let printed: String = rows.chunks(size).map(|piece| pieces.text(piece.to_vec())).collect();
            assert_eq!(printed, text(&headings, &rows));
        }
        assert_eq!(TablePieces::new(&headings).text(Vec::new()), text(&headings, &[]));
    }

    #[test]
    fn widths_are_cells_of_a_terminal() {
        // Six wide characters, and an accent that takes no cell of its own.
        let (wide, accent) = ("日本語日本語", "e\u{301}tude");
        assert_eq!((width(wide), width(accent)), (12, 5));
        assert_eq!((beginning(wide, 5), ending(wide, 5)), ("日本", "本語"));
        assert_eq!((beginning(accent, 1), ending(accent, 4)), ("e\u{301}", "tude"));
        assert_eq!((beginning("ab", 9), ending("ab", 9), beginning("ab", 0)), ("ab", "ab", ""));
        let headings = Heading::list(["name", "#count"]);
        let rows = [[wide, "1"], [accent, "22"], ["plain", "333"]].map(|row| row.map(str::to_owned).to_vec());
        let table = text(&headings, &rows);
        assert!(table.lines().skip(1).all(|line| width(line) == 19), "{table}");
        let id = Heading::new("session", Shape::Id).shortened(wide);
        assert_eq!((&*id, width(&id)), ("日本語日…", 9));
        let path = "/日本語/".repeat(5);
        let path = Heading::new("project", Shape::Path).shortened(&path);
        assert!(width(&path) <= PATH_WIDTH && path.starts_with('…') && path.ends_with("語/"), "{path}");
    }

    #[test]
    fn a_narrow_terminal_gets_short_cells_and_the_columns_that_it_has_room_for() {
        let headings = [
            Heading::new("time", Shape::Time),
            Heading::new("session", Shape::Id),
            Heading::new("model", Shape::Text),
            Heading::new("input", Shape::Number),
            Heading::new("output", Shape::Number),
            Heading::new("cache r", Shape::Number),
            Heading::new("cache w", Shape::Number),
            Heading::new("project", Shape::Path),
            Heading::new("source", Shape::Text),
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
            assert!(Heading::new("time", Shape::Time).shortened(cell).chars().count() <= 30, "{cell}");
        }
        assert_eq!(Heading::new("session", Shape::Id).shortened("session-1"), "session-1");
    }
}
