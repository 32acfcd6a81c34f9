//! Tables: columns without lines, two blanks apart, nothing behind the last. A record is a line. On a terminal columns shrink to
//! its width, what is cut off ends in an ellipsis, and columns that it has no room for are left out.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};

/// Less of a text says nothing; in characters.
const TEXT_WIDTH: usize = 8;

/// Blanks between columns.
const GAP: usize = 2;

/// What stands above a column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heading {
    pub(super) title: &'static str,
    /// Numbers stand on the right, and are never cut: half a number is a lie.
    is_number: bool,
    /// To how many characters a text may be cut.
    least: usize,
}

impl Heading {
    pub(super) const fn text(title: &'static str) -> Self {
        Self { title, is_number: false, least: TEXT_WIDTH }
    }

    pub(super) const fn number(title: &'static str) -> Self {
        Self { title, is_number: true, least: 0 }
    }

    /// Times, up to their seconds: without its minutes a time is no use.
    pub(super) const fn time(title: &'static str) -> Self {
        Self { title, is_number: false, least: "2026-04-20T10:15:00…".len() - "…".len() + 1 }
    }
}

/// The lines of a table, each with its LF.
pub(super) fn text(headings: &[Heading], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_truncation_indicator("…");
    let shown = fitting(headings, rows, table.width().map_or(usize::MAX, usize::from));
    table.set_header(line(shown.iter().map(|at| headings[*at].title)));
    table.add_rows(rows.iter().map(|row| line(shown.iter().map(|at| row[*at].as_str()))));
    for (column, at) in table.column_iter_mut().zip(shown) {
        column.set_padding((0, GAP as u16));
        let Heading { is_number, least, .. } = headings[at];
        if is_number {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::ContentWidth);
        } else if least > TEXT_WIDTH {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed((least + GAP) as u16)));
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A table that is printed piece by piece and laid out as if it were one: its rows are seen twice, first to measure them.
pub(super) struct Pieces<'h> {
    headings: &'h [Heading],
    /// The longest text of each column.
    widest: Vec<String>,
    is_first: bool,
}

impl<'h> Pieces<'h> {
    pub(super) fn new(headings: &'h [Heading]) -> Self {
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
fn fitting(headings: &[Heading], rows: &[Vec<String>], width: usize) -> Vec<usize> {
    let mut left = width;
    let fits = |(at, heading): (usize, &Heading)| {
        let cells = rows.iter().map(|row| row[at].chars().count());
        let longest = cells.chain([heading.title.chars().count()]).max().unwrap_or(0);
        let needed = GAP
            + match heading {
                Heading { is_number: true, .. } => longest,
                Heading { least, .. } if *least > TEXT_WIDTH => *least,
                Heading { least, .. } => longest.min(*least),
            };
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
    fn a_narrow_terminal_gets_the_columns_that_it_has_room_for() {
        let headings = [
            Heading::time("time"),
            Heading::text("source"),
            Heading::text("session"),
            Heading::text("model"),
            Heading::number("input"),
            Heading::number("output"),
            Heading::number("cache read"),
            Heading::number("calls"),
            Heading::text("project"),
        ];
        let cells = [
            "2026-04-20T10:15:00.000Z",
            "claude-code",
            "session-1",
            "model-x",
            "12",
            "3",
            "145212",
            "1",
            "p",
        ];
        let rows = vec![cells.map(str::to_owned).to_vec()];
        let shown = |width| -> Vec<&str> {
            fitting(&headings, &rows, width).into_iter().map(|at| headings[at].title).collect()
        };
        assert_eq!(shown(10), ["time"]);
        assert_eq!(shown(40), ["time", "source", "input"]);
        assert_eq!(shown(80), ["time", "source", "session", "model", "input", "output", "cache read"]);
        assert_eq!(shown(200).len(), headings.len());
        assert!(text(&headings, &rows).lines().all(|line| line == line.trim_end()));
    }
}
