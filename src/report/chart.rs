//! Draws charts as SVG: stacked bars with a line above them, and grids of squares.
//!
//! A chart fills the available width, and its letters keep their size, because everything that scales is placed in
//! percent and bars are in an inner `svg` that is stretched. Colours are classes and tooltips are `title`, so that dark
//! mode and hover need only CSS.

use maud::{Markup, html};

/// A colour and its name: `s0` to `s5` for series, `l0` to `l8` for levels.
pub(super) struct Series {
    pub class: &'static str,
    /// A value for each bar.
    pub values: Vec<f64>,
}

/// Classes of series, the last one for others.
pub(super) const SERIES: [&str; 6] = ["s0", "s1", "s2", "s3", "s4", "s5"];

/// Stacked bars.
pub(super) struct StackedBars<'c> {
    /// Unique on the page.
    pub id: &'c str,
    pub title: &'c str,
    pub description: &'c str,
    /// From below.
    pub series: Vec<Series>,
    /// The tooltip of each bar.
    pub tips: Vec<String>,
    /// Whether the time of each bar has not ended yet.
    pub open: Vec<bool>,
    /// Prints a value of the left axis.
    pub axis: fn(f64) -> String,
    /// Labels below: place as a share of the width, and text.
    pub labels: Vec<(f64, String)>,
    /// A share from 0 to 1 for each bar, drawn as a line, with its axis on the right.
    pub line: Option<Vec<Option<f64>>>,
}

/// Height of the bars in pixels.
const PLOT_HEIGHT: f64 = 200.0;
/// Room above for the uppermost label.
const PLOT_TOP: f64 = 10.0;
/// Width of the bars in units, which are stretched to the available width.
const PLOT_UNITS: f64 = 1000.0;
/// The bars' left end in percent of the width: at 640 pixels room for six letters.
const PLOT_LEFT: f64 = 8.0;
/// The share of its place that a bar fills.
const BAR_SHARE: f64 = 0.78;
/// Room on the right for the axis of a line, in percent.
const LINE_AXIS: f64 = 6.0;

impl StackedBars<'_> {
    pub(super) fn draw(&self) -> Markup {
        let count = self.tips.len();
        let sums: Vec<f64> =
            (0..count).map(|bar| self.series.iter().map(|series| series.values[bar]).sum()).collect();
        let (top, ticks) = scale(sums.iter().copied().fold(0.0, f64::max));
        let right = if self.line.is_some() { LINE_AXIS } else { 0.0 };
        let width = 100.0 - PLOT_LEFT - right;
        let height = PLOT_TOP + PLOT_HEIGHT + 26.0;
        html! {
            svg.chart height=(height) role="img" aria-labelledby={ (self.id) "-t " (self.id) "-d" } {
                title id={ (self.id) "-t" } { (self.title) }
                desc id={ (self.id) "-d" } { (self.description) }
                @for tick in &ticks {
                    @let y = short(PLOT_TOP + PLOT_HEIGHT * (1.0 - tick / top));
                    line.rule x1={ (PLOT_LEFT) "%" } x2={ (short(100.0 - right)) "%" } y1=(y) y2=(y) {}
                    text x={ (short(PLOT_LEFT - 0.8)) "%" } y=(y) dy="4" text-anchor="end" { ((self.axis)(*tick)) }
                }
                @if self.line.is_some() {
                    @for share in [0.0, 0.5, 1.0] {
                        text x={ (short(100.0 - right + 0.8)) "%" } y=(short(PLOT_TOP + PLOT_HEIGHT * (1.0 - share))) dy="4" {
                            (format!("{:.0} %", share * 100.0))
                        }
                    }
                }
                svg x={ (PLOT_LEFT) "%" } y=(PLOT_TOP) width={ (short(width)) "%" } height=(PLOT_HEIGHT)
                    viewBox={ "0 0 " (PLOT_UNITS) " " (PLOT_HEIGHT) } preserveAspectRatio="none" {
                    (self.bars(top))
                    (self.stripes(&sums, top))
                    @if let Some(shares) = &self.line { (line(shares)) }
                    @for (bar, tip) in self.tips.iter().enumerate() {
                        rect.hit x=(short(self.left(bar))) y="0" width=(short(self.step())) height=(PLOT_HEIGHT) { title { (tip) } }
                    }
                }
                svg x={ (PLOT_LEFT) "%" } y=(PLOT_TOP + PLOT_HEIGHT) width={ (short(width)) "%" } height="26" overflow="visible" {
                    @for (at, label) in &self.labels {
                        text x={ (short(at * 100.0)) "%" } y="18" text-anchor="middle" { (label) }
                    }
                }
            }
        }
    }

    fn step(&self) -> f64 {
        PLOT_UNITS / self.tips.len().max(1) as f64
    }

    fn left(&self, bar: usize) -> f64 {
        bar as f64 * self.step()
    }

    /// One path for each series.
    fn bars(&self, top: f64) -> Markup {
        let (step, bar_width) = (self.step(), self.step() * BAR_SHARE);
        let mut bases = vec![0.0; self.tips.len()];
        let paths: Vec<(&str, String)> = self
            .series
            .iter()
            .map(|series| {
                let mut path = String::new();
                for (bar, value) in series.values.iter().enumerate() {
                    let (y, height) = (PLOT_HEIGHT * (1.0 - bases[bar] / top), PLOT_HEIGHT * value / top);
                    bases[bar] += value;
                    if height >= 0.05 {
                        let left = self.left(bar) + (step - bar_width) / 2.0;
                        let (x, width) = (short(left), short(bar_width));
                        path += &format!("M{x} {}h{width}v-{}h-{width}z", short(y), short(height));
                    }
                }
                (series.class, path)
            })
            .collect();
        html! { @for (class, path) in &paths { @if !path.is_empty() { path class=(class) d=(path) {} } } }
    }

    /// Stripes over bars whose time has not ended yet.
    fn stripes(&self, sums: &[f64], top: f64) -> Markup {
        let mut path = String::new();
        for (bar, _) in self.open.iter().enumerate().filter(|(_, is_open)| **is_open) {
            let mut y = PLOT_HEIGHT - 2.0;
            while y > PLOT_HEIGHT * (1.0 - sums[bar] / top) {
                path += &format!("M{} {}h{}", short(self.left(bar)), short(y), short(self.step()));
                y -= 4.0;
            }
        }
        html! { @if !path.is_empty() { path.stripes d=(path) {} } }
    }
}

/// A line through the middles of the bars, with a gap where there is no value.
fn line(shares: &[Option<f64>]) -> Markup {
    let step = PLOT_UNITS / shares.len().max(1) as f64;
    let mut path = String::new();
    let mut is_down = false;
    for (bar, share) in shares.iter().enumerate() {
        let Some(share) = share else {
            is_down = false;
            continue;
        };
        let (x, y) = ((bar as f64 + 0.5) * step, PLOT_HEIGHT * (1.0 - share.clamp(0.0, 1.0)));
        path += &format!("{}{} {}", if is_down { 'L' } else { 'M' }, short(x), short(y));
        if !is_down {
            // A single point would be invisible.
            path += "h0.1";
        }
        is_down = true;
    }
    html! { path.line d=(path) {} }
}

/// A square of a grid.
pub(super) struct GridCell {
    pub column: usize,
    pub row: usize,
    /// From 0 to 1.
    pub share: f64,
    pub tip: String,
}

/// The number of shades of a grid, without the shade for zero.
const LEVELS: f64 = 8.0;

/// The class of a share of the largest value. Shades go by the square root, because costs of days differ by orders of
/// magnitude.
fn level(share: f64) -> String {
    let level = if share > 0.0 { (share.sqrt() * LEVELS).ceil().clamp(1.0, LEVELS) } else { 0.0 };
    format!("l{level}")
}

/// A grid whose cells fill the available width, for hours.
pub(super) struct HourGrid<'c> {
    pub id: &'c str,
    pub title: &'c str,
    pub description: &'c str,
    pub rows: [&'static str; 7],
    pub cells: Vec<GridCell>,
}

impl HourGrid<'_> {
    pub(super) fn draw(&self) -> Markup {
        const ROW: usize = 26;
        const LEFT: f64 = 6.0;
        let width = (100.0 - LEFT) / 24.0;
        let x = |column: usize| short(LEFT + column as f64 * width);
        html! {
            svg.chart height=(7 * ROW + 24) role="img" aria-labelledby={ (self.id) "-t " (self.id) "-d" } {
                title id={ (self.id) "-t" } { (self.title) }
                desc id={ (self.id) "-d" } { (self.description) }
                @for (row, name) in self.rows.iter().enumerate() {
                    text x={ (short(LEFT - 1.0)) "%" } y=(row * ROW + 16) text-anchor="end" { (name) }
                }
                @for cell in &self.cells {
                    rect.cell.(level(cell.share)) x={ (x(cell.column)) "%" } y=(cell.row * ROW) width={ (short(width - 0.3)) "%" }
                        height=(ROW - 3) rx="3" { title { (cell.tip) } }
                }
                @for hour in (0..24).step_by(3) {
                    text x={ (x(hour)) "%" } y=(7 * ROW + 15) { (format!("{hour:02}:00")) }
                }
            }
        }
    }
}

/// A grid with a column for each week, for days.
pub(super) struct DayGrid<'c> {
    pub id: &'c str,
    pub title: &'c str,
    pub description: &'c str,
    pub rows: [&'static str; 7],
    pub columns: usize,
    /// Names above columns, with the index of the column.
    pub labels: Vec<(usize, String)>,
    pub cells: Vec<GridCell>,
}

impl DayGrid<'_> {
    pub(super) fn draw(&self) -> Markup {
        const SIDE: usize = 15;
        const LEFT: usize = 34;
        const TOP: usize = 18;
        // At least the columns of a year, so that squares of short spans have the same size.
        let width = LEFT + self.columns.max(53) * SIDE;
        html! {
            svg.days viewBox={ "0 0 " (width) " " (TOP + 7 * SIDE) } role="img" aria-labelledby={ (self.id) "-t " (self.id) "-d" } {
                title id={ (self.id) "-t" } { (self.title) }
                desc id={ (self.id) "-d" } { (self.description) }
                @for (column, label) in &self.labels {
                    text x=(LEFT + column * SIDE) y="11" { (label) }
                }
                @for row in [0, 2, 4] {
                    text x=(LEFT - 6) y=(TOP + row * SIDE + 10) text-anchor="end" { (self.rows[row]) }
                }
                @for cell in &self.cells {
                    rect.cell.(level(cell.share)) x=(LEFT + cell.column * SIDE) y=(TOP + cell.row * SIDE) width="12" height="12" rx="2" {
                        title { (cell.tip) }
                    }
                }
            }
        }
    }
}

/// Returns the legend of the shades, from zero to the most.
pub(super) fn shades() -> Markup {
    html! {
        p.shades {
            "less "
            svg width="108" height="12" aria-hidden="true" {
                @for level in 0..9 {
                    rect.cell.{ "l" (level) } x=(level * 12) y="1" width="10" height="10" rx="2" {}
                }
            }
            " more"
        }
    }
}

/// The end of an axis at or above `most`, and its ticks: steps of 1, 2, 2.5 or 5 times a power of ten.
fn scale(most: f64) -> (f64, Vec<f64>) {
    let most = if most > 0.0 && most.is_finite() { most } else { 1.0 };
    let magnitude = 10_f64.powf((most / 4.0).log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * magnitude);
    let step = steps.into_iter().find(|step| step * 4.0 >= most).unwrap_or(most);
    let count = (most / step).ceil().max(1.0);
    let ticks = (0..=count as u32).map(|tick| f64::from(tick) * step).collect();
    (count * step, ticks)
}

/// A coordinate with one digit, or two where they matter.
fn short(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_above_the_largest_value_in_round_steps() {
        for (most, top, step) in [
            (0.0, 1.0, 0.25),
            (80.0, 80.0, 20.0),
            (81.0, 100.0, 25.0),
            (1234.5, 1500.0, 500.0),
            (0.03, 0.03, 0.01),
        ] {
            let (end, ticks) = scale(most);
            assert!((end - top).abs() < 1e-9 && (ticks[1] - step).abs() < 1e-9, "{most}: {end} {ticks:?}");
        }
        assert_eq!(scale(f64::NAN).0, 1.0);
    }

    #[test]
    fn shades_begin_with_nothing_and_end_with_most() {
        for (share, class) in [(0.0, "l0"), (1e-9, "l1"), (0.25, "l4"), (1.0, "l8"), (2.0, "l8")] {
            assert_eq!(level(share), class);
        }
    }
}
