//! Writes the page: heading, cards, charts, tables, limits of the cost, and the data block.

use maud::{Markup, PreEscaped, html};

use super::calendar::{DAILY_MAX, MONTHS, WEEKDAYS, bar_labels, place_of};
use super::chart::{self, DayGrid, GridCell, HourGrid, SERIES, Series, StackedBars};
use super::data;
use super::gather::{PageAnswers, SERIES_MAX, day_of_row};
use super::tables;
use super::text::{amount, counted, exact, money, name, percent};
use crate::record::time::{civil, date, month_after, weekday};
use crate::usage::shown::{dollars, grouped, short};
use crate::usage::{Answer, Filters, Sums, UnpricedReason, Usd};

/// The first bytes of every page. A file with other first bytes is no report.
pub const MARKER: &str = "<!doctype html><!-- burn report 1 -->";

const STYLE: &str = include_str!("style.css");

/// The policy forbids loading and scripts, and allows only the style inside the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Returns the whole page.
pub(super) fn page(gathered: &PageAnswers, title: Option<&str>) -> String {
    let title = title.map_or("Agents' usage".to_owned(), name);
    let span = span(gathered);
    let markup = html! {
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                title { (title) ", " (span) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { bdi { (title) } ", " span.span { (span) } }
                    p { (about(gathered)) }
                }
                main {
                    @if gathered.total.total.turns == 0 {
                        (no_turns(gathered))
                    } @else {
                        (cards(gathered))
                        (cost(gathered))
                        @if gathered.span.is_some_and(|span| span.days() > DAILY_MAX) { (days(gathered)) }
                        (hours(gathered))
                        (tokens(gathered))
                        section aria-labelledby="where" {
                            h2 id="where" { "Where it went" }
                            (tables::all(gathered))
                        }
                    }
                    (not_in_the_cost(&gathered.total))
                }
                footer {
                    p {
                        "Made by burn " (env!("CARGO_PKG_VERSION")) ". This file loads nothing and runs nothing. It ends with its numbers as JSON, in the \
                         element " code { "#data" } ": the documents of " code { "burn usage --json" } "."
                    }
                }
                script type="application/json" id="data" { (PreEscaped(data_block(gathered))) }
            }
        }
    };
    format!("{MARKER}\n{}\n", markup.into_string())
}

fn data_block(gathered: &PageAnswers) -> String {
    // Every answer has a JSON form, so this cannot fail.
    data::for_script(&serde_json::to_string(gathered).unwrap_or_default())
}

/// The first and the last requested date.
fn span(gathered: &PageAnswers) -> String {
    let question = &gathered.question;
    let until = question.zone.date_of(question.until.unwrap_or(gathered.now));
    match question.since.map(|since| question.zone.date_of(since)) {
        Some(since) if since == until => until,
        Some(since) => format!("{since} to {until}"),
        None => format!("up to {until}"),
    }
}

/// The sources of the numbers, as sentences.
fn about(gathered: &PageAnswers) -> Markup {
    let question = &gathered.question;
    let answer = &gathered.total;
    let own = answer.prices.own.as_ref().map(|(path, _)| name(&path.to_string_lossy()));
    let filters = filters(&question.filters);
    html! {
        "Days and hours of " (name(question.zone.name())) ". Prices of "
        @if let Some(own) = own { bdi { (own) } " and " }
        (answer.prices.package) " " (answer.prices.version)
        ", each turn at the price of its time. The ledger up to byte " (grouped(answer.ledger.taken_in_bytes))
        @if answer.ledger.taken_in_bytes < answer.ledger.bytes {
            " of " (grouped(answer.ledger.bytes))
        }
        ". Made " (question.zone.minute_of(gathered.now)) "."
        @if !filters.is_empty() { " Only turns with " bdi { (filters) } "." }
    }
}

fn filters(filters: &Filters) -> String {
    let lists = filters.lists().into_iter().filter(|(_, patterns)| !patterns.is_empty());
    let mut parts: Vec<String> = lists
        .map(|(kind, patterns)| {
            let texts: Vec<String> = patterns.iter().map(|pattern| name(pattern.as_str())).collect();
            format!("{kind} {}", texts.join(" or "))
        })
        .collect();
    let tags = filters.tag.iter();
    parts.extend(tags.map(|(key, value)| format!("tag {}={}", name(key), name(value.as_str()))));
    parts.join(" and ")
}

fn no_turns(gathered: &PageAnswers) -> Markup {
    html! {
        section.none {
            p { strong { "There are no turns in this time." } }
            @if !gathered.question.filters.is_empty() {
                p { "The filters let none pass." }
            }
            p { "What agents did gets into the ledger by " code { "burn ingest" } "; " code { "--since" } " shows another time." }
        }
    }
}

/// The cards: cost, turns, tokens, cache, unpriced tokens, this month.
fn cards(gathered: &PageAnswers) -> Markup {
    let answer = &gathered.total;
    let total = &answer.total;
    let read = total.counts[3];
    let input = total.tokens() - total.counts[1];
    html! {
        div.cards {
            div { b title=(exact(total)) { (money(total)) } span { "cost" } }
            div { b { (grouped(total.turns)) } span { "turns in " (counted(gathered.session_count(), "session")) } }
            div { b title=(grouped(u64::try_from(total.tokens()).unwrap_or(u64::MAX))) { (short(total.tokens())) } span { "tokens" } }
            div {
                b { (percent(read, input)) " %" }
                span { "of input read from the cache" @if answer.cache_saved > Usd::ZERO { ", " (dollars(answer.cache_saved)) " saved" } }
            }
            @if total.unpriced_tokens > 0 {
                div.warn { b { (short(total.unpriced_tokens)) } span { "tokens without a price" } }
            }
            @if let Some((month, so_far, at_this_rate)) = this_month(gathered) {
                div {
                    b title=(exact(&so_far)) { (money(&so_far)) }
                    span { (month) " so far" @if let Some(usd) = at_this_rate { ", " (dollars(usd)) " at this rate" } }
                }
            }
        }
    }
}

/// The name of the current month, its turns, and the cost of its complete days extrapolated to the whole month. None if
/// the page does not include the whole month so far.
fn this_month(gathered: &PageAnswers) -> Option<(&'static str, Sums, Option<Usd>)> {
    let question = &gathered.question;
    let today = question.zone.day_of(gathered.now);
    let (year, month, day) = civil(today);
    let first = today - i64::from(day) + 1;
    let days = i128::from(month_after(year, month) - first);
    let begins = question.since.is_none_or(|since| since.seconds <= question.zone.day_start(first));
    if !begins || question.until.is_some_and(|until| until < gathered.now) {
        return None;
    }
    let mut so_far = Sums::default();
    let mut whole_days = Sums::default();
    for row in &gathered.days.rows {
        match day_of_row(row) {
            Some(day) if (first..today).contains(&day) => whole_days.grow(&row.sums),
            Some(day) if day == today => so_far.grow(&row.sums),
            _ => {}
        }
    }
    so_far.grow(&whole_days);
    let gone = i128::from(today - first);
    let rate = (gone > 0).then(|| whole_days.usd.units().checked_mul(days)).flatten();
    Some((MONTH_NAMES[month as usize - 1], so_far, rate.map(|units| Usd::from_units(units / gone))))
}

const MONTH_NAMES: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Sums of each bar, from days.
fn bar_sums(gathered: &PageAnswers) -> Vec<Sums> {
    let mut sums = vec![Sums::default(); gathered.bars.len()];
    for row in &gathered.days.rows {
        if let Some(place) = day_of_row(row).and_then(|day| place_of(&gathered.bars, day)) {
            sums[place].grow(&row.sums);
        }
    }
    sums
}

/// The cost of each bar by series, in units of 10^-24 dollar: the models with a colour, then all others.
fn bar_costs(gathered: &PageAnswers, series: &[(&str, Sums)], sums: &[Sums]) -> Vec<Vec<Usd>> {
    let mut costs = vec![vec![Usd::ZERO; sums.len()]; series.len()];
    for row in &gathered.chart.rows {
        let model = row.values.first().and_then(Option::as_deref);
        let number = series.iter().position(|(name, _)| Some(*name) == model);
        if let (Some(number), Some(place)) =
            (number, day_of_row(row).and_then(|day| place_of(&gathered.bars, day)))
        {
            let cost = &mut costs[number][place];
            *cost = Usd::from_units(cost.units().saturating_add(row.sums.usd.units()));
        }
    }
    let rest = |(place, sums): (usize, &Sums)| {
        let named: i128 = costs.iter().map(|costs| costs[place].units()).sum();
        Usd::from_units(sums.usd.units() - named)
    };
    let others: Vec<Usd> = sums.iter().enumerate().map(rest).collect();
    costs.push(others);
    costs
}

fn heading(gathered: &PageAnswers, what: &str) -> String {
    format!("{what} by {}", gathered.unit.name())
}

/// The chart of cost by day, week or month, stacked by model.
fn cost(gathered: &PageAnswers) -> Markup {
    let series = gathered.series();
    let sums = bar_sums(gathered);
    let costs = bar_costs(gathered, &series, &sums);
    let others: i128 = costs[series.len()].iter().map(|usd| usd.units()).sum();
    let mut names: Vec<(String, Usd)> = series.iter().map(|(model, sums)| (name(model), sums.usd)).collect();
    names.push(("others".to_owned(), Usd::from_units(others)));
    let is_shown =
        |place: usize| place < series.len() || gathered.models.rows.len() > SERIES_MAX || others > 0;
    let class = |place: usize| if place == series.len() { SERIES[SERIES_MAX] } else { SERIES[place] };
    let tip = |bar: usize| {
        let mut tip = format!(
            "{}\n{}, {}",
            gathered.bars[bar].name,
            money(&sums[bar]),
            counted(sums[bar].turns, "turn")
        );
        for (place, (name, _)) in names.iter().enumerate().filter(|(place, _)| costs[*place][bar] > Usd::ZERO)
        {
            tip += &format!("\n{name} {}", amount(costs[place][bar]));
        }
        tip
    };
    let title = heading(gathered, "Cost");
    let chart = StackedBars {
        id: "cost",
        title: &title,
        description: "Stacked bars, a colour for each model. The table below has the same numbers.",
        series: (0..names.len())
            .map(|place| Series {
                class: class(place),
                values: costs[place].iter().map(|usd| in_dollars(*usd)).collect(),
            })
            .collect(),
        tips: (0..sums.len()).map(tip).collect(),
        open: gathered.bars.iter().map(|bar| bar.is_open).collect(),
        axis: axis_dollars,
        labels: bar_labels(&gathered.bars, gathered.unit),
        line: None,
    };
    let head: Vec<String> = names.iter().map(|(name, _)| name.clone()).chain(["total".to_owned()]).collect();
    let rows = (0..sums.len()).map(|bar| {
        let cells = costs.iter().map(|costs| amount(costs[bar])).chain([money(&sums[bar])]);
        (gathered.bars[bar].name.clone(), cells.collect())
    });
    html! {
        section aria-labelledby="cost-h" {
            h2 id="cost-h" { (title) " and model" }
            (scrolling("cost-h", &chart.draw()))
            ul.key {
                @for (place, (name, usd)) in names.iter().enumerate().filter(|(place, _)| is_shown(*place)) {
                    li { i.(class(place)) {} bdi { (name) } " " b { (amount(*usd)) } }
                }
            }
            @if gathered.bars.iter().any(|bar| bar.is_open) { p.small { "Striped: not over yet." } }
            (numbers(&title, gathered.unit.name(), &head, rows))
        }
    }
}

/// A chart that scrolls if it is wider than the page.
fn scrolling(heading: &str, chart: &Markup) -> Markup {
    html! { div.scroll role="group" tabindex="0" aria-labelledby=(heading) { (chart) } }
}

/// The numbers of a chart as a folded table.
fn numbers(
    caption: &str,
    first: &str,
    head: &[String],
    rows: impl Iterator<Item = (String, Vec<String>)>,
) -> Markup {
    html! {
        details {
            summary { "The numbers" }
            div.scroll role="group" tabindex="0" aria-label={ (caption) ", numbers" } {
                table {
                    caption { (caption) }
                    thead { tr { th scope="col" { (first) } @for head in head { th.n scope="col" { bdi { (head) } } } } }
                    tbody {
                        @for (name, cells) in rows {
                            tr { th scope="row" { (name) } @for cell in &cells { td.n { (cell) } } }
                        }
                    }
                }
            }
        }
    }
}

fn in_dollars(usd: Usd) -> f64 {
    usd.units() as f64 / 1e24
}

fn axis_dollars(value: f64) -> String {
    match value {
        v if v >= 1000.0 => format!("${} k", (v / 100.0).round() / 10.0),
        v if v >= 2.5 || v == 0.0 => format!("${}", (v * 10.0).round() / 10.0),
        v => format!("${}", format!("{v:.4}").trim_end_matches('0').trim_end_matches('.')),
    }
}

fn axis_tokens(value: f64) -> String {
    short(value as i128)
}

/// The names of a grid's rows: weekdays from the first day of the week.
fn weekday_names(gathered: &PageAnswers) -> [&'static str; 7] {
    let first = weekday(gathered.question.week_start.week_of(0)) as usize;
    std::array::from_fn(|row| WEEKDAYS[(first + row) % 7])
}

/// Weeks in one block of the calendar.
const BLOCK_WEEKS: i64 = 53;
/// The greatest number of blocks.
const BLOCKS_MAX: i64 = 5;

/// A square for each day.
fn days(gathered: &PageAnswers) -> Markup {
    let Some(span) = gathered.span else { return html! {} };
    let question = &gathered.question;
    let mut by_day: std::collections::HashMap<i64, Sums> = std::collections::HashMap::new();
    for row in &gathered.days.rows {
        if let Some(day) = day_of_row(row) {
            by_day.insert(day, row.sums);
        }
    }
    let most = by_day.values().map(|sums| in_dollars(sums.usd)).fold(0.0, f64::max);
    let last_week = question.week_start.week_of(span.last);
    let weeks = (last_week - question.week_start.week_of(span.first)) / 7 + 1;
    let blocks = ((weeks - 1) / BLOCK_WEEKS + 1).min(BLOCKS_MAX);
    let grid = |block: i64| {
        let first_week = last_week - 7 * (BLOCK_WEEKS * (blocks - block) - 1);
        let first_week = first_week.max(question.week_start.week_of(span.first));
        let end = last_week - 7 * (BLOCK_WEEKS * (blocks - block - 1) - 1);
        let days = first_week.max(span.first)..end.min(span.last + 1);
        let column = |day: i64| ((day - first_week) / 7) as usize;
        let cells = days.clone().map(|day| {
            let sums = by_day.get(&day).copied().unwrap_or_default();
            let tip = format!(
                "{} {}: {}, {}",
                WEEKDAYS[weekday(day) as usize],
                date(day),
                money(&sums),
                counted(sums.turns, "turn")
            );
            let share = if most > 0.0 { in_dollars(sums.usd) / most } else { 0.0 };
            GridCell { column: column(day), row: ((day - first_week) % 7) as usize, share, tip }
        });
        let labels = days.clone().filter(|day| civil(*day).2 == 1).map(|day| {
            let (year, month, _) = civil(day);
            let label = if month == 1 { year.to_string() } else { MONTHS[month as usize - 1].to_owned() };
            (column(day), label)
        });
        DayGrid {
            id: &format!("days-{block}"),
            title: &format!("Cost of each day, {} to {}", date(days.start), date(days.end - 1)),
            description: "A square for each day, darker or brighter with its cost. The table below has the same numbers.",
            rows: weekday_names(gathered),
            columns: column(days.end - 1) + 1,
            labels: labels.collect(),
            cells: cells.collect(),
        }
        .draw()
    };
    let head = ["turns", "tokens", "cost"].map(str::to_owned);
    let rows = gathered.days.rows.iter().filter_map(|row| {
        let cells = vec![grouped(row.sums.turns), short(row.sums.tokens()), money(&row.sums)];
        Some((date(day_of_row(row)?), cells))
    });
    html! {
        section aria-labelledby="days-h" {
            h2 id="days-h" { "Every day" }
            @for block in 0..blocks { (scrolling("days-h", &grid(block))) }
            (chart::shades())
            (numbers("Days with turns", "day", &head, rows))
        }
    }
}

/// Weekdays by hours.
fn hours(gathered: &PageAnswers) -> Markup {
    let names = weekday_names(gathered);
    let mut sums = [[Sums::default(); 24]; 7];
    let first = weekday(gathered.question.week_start.week_of(0)) as usize;
    for row in &gathered.hours.rows {
        let number =
            |place: usize| row.values.get(place).and_then(|value| value.as_deref()?.parse::<usize>().ok());
        if let (Some(day @ 1..=7), Some(hour @ 0..24)) = (number(0), number(1)) {
            sums[(day - 1 + 7 - first) % 7][hour].grow(&row.sums);
        }
    }
    let most = sums.iter().flatten().map(|sums| in_dollars(sums.usd)).fold(0.0, f64::max);
    let places = (0..7).flat_map(|row| (0..24).map(move |hour| (row, hour)));
    let cells = places.map(|(row, hour)| {
        let sums = &sums[row][hour];
        let tip = format!(
            "{} {hour:02}:00 to {hour:02}:59: {}, {}",
            names[row],
            money(sums),
            counted(sums.turns, "turn")
        );
        let share = if most > 0.0 { in_dollars(sums.usd) / most } else { 0.0 };
        GridCell { column: hour, row, share, tip }
    });
    let chart = HourGrid {
        id: "hours",
        title: "Cost by weekday and hour",
        description: "A field for each hour of each weekday, darker or brighter with its cost. The table below has the same numbers.",
        rows: names,
        cells: cells.collect(),
    };
    let rows =
        (0..24).map(|hour| (format!("{hour:02}:00"), sums.iter().map(|hours| money(&hours[hour])).collect()));
    html! {
        section aria-labelledby="hours-h" {
            h2 id="hours-h" { "When" }
            p { "Cost by weekday and hour, " (name(gathered.question.zone.name())) "." }
            (scrolling("hours-h", &chart.draw()))
            (chart::shades())
            (numbers("Cost by weekday and hour", "hour", &names.map(str::to_owned), rows))
        }
    }
}

/// Classes of tokens on the page: a name, a colour, and the counts of the class.
const CLASSES: [(&str, &str, &[usize]); 4] = [
    ("cache reads", SERIES[0], &[3]),
    ("cache writes", SERIES[1], &[4, 5]),
    ("input", SERIES[2], &[0]),
    ("output", SERIES[3], &[1]),
];

/// Tokens by class, and the cache's share of the input.
fn tokens(gathered: &PageAnswers) -> Markup {
    let sums = bar_sums(gathered);
    let count =
        |sums: &Sums, counts: &[usize]| -> i128 { counts.iter().map(|place| sums.counts[*place]).sum() };
    let input = |sums: &Sums| sums.tokens() - sums.counts[1];
    let share = |sums: &Sums| (input(sums) > 0).then(|| sums.counts[3] as f64 / input(sums) as f64);
    let shown_share = |sums: &Sums| {
        if input(sums) > 0 { format!("{} %", percent(sums.counts[3], input(sums))) } else { "–".to_owned() }
    };
    let tip = |bar: usize| {
        let mut tip = format!("{}\n{} tokens", gathered.bars[bar].name, short(sums[bar].tokens()));
        for (name, _, counts) in CLASSES {
            tip += &format!("\n{name} {}", short(count(&sums[bar], counts)));
        }
        tip + &format!("\nread from the cache {}", shown_share(&sums[bar]))
    };
    let title = heading(gathered, "Tokens");
    let values = |counts: &[usize]| sums.iter().map(|sums| count(sums, counts) as f64).collect();
    let chart = StackedBars {
        id: "tokens",
        title: &title,
        description: "Stacked bars, a colour for each class of tokens, and a line for the share of the input that was read from the cache. The \
                      table below has the same numbers.",
        series: CLASSES.iter().map(|(_, class, counts)| Series { class, values: values(counts) }).collect(),
        tips: (0..sums.len()).map(tip).collect(),
        open: gathered.bars.iter().map(|bar| bar.is_open).collect(),
        axis: axis_tokens,
        labels: bar_labels(&gathered.bars, gathered.unit),
        line: Some(sums.iter().map(share).collect()),
    };
    let head: Vec<String> =
        CLASSES.iter().map(|(name, ..)| *name).chain(["all", "from cache"]).map(str::to_owned).collect();
    let rows = (0..sums.len()).map(|bar| {
        let sums = &sums[bar];
        let cells = CLASSES.iter().map(|(_, _, counts)| short(count(sums, counts)));
        (gathered.bars[bar].name.clone(), cells.chain([short(sums.tokens()), shown_share(sums)]).collect())
    });
    html! {
        section aria-labelledby="tokens-h" {
            h2 id="tokens-h" { (title) }
            (scrolling("tokens-h", &chart.draw()))
            ul.key {
                @for (name, class, counts) in CLASSES {
                    li { i.(class) {} (name) " " b { (short(count(&gathered.total.total, counts))) } }
                }
                li { i.line {} "share of input read from the cache " b { (shown_share(&gathered.total.total)) } }
            }
            (numbers(&title, gathered.unit.name(), &head, rows))
        }
    }
}

/// The limits of the cost: tokens without a price, lower bounds, turns that are left out.
fn not_in_the_cost(answer: &Answer) -> Markup {
    const MODELS_MAX: usize = 20;
    let mut parts: Vec<String> = Vec::new();
    for unpriced in answer.unpriced.iter().take(MODELS_MAX) {
        let model = if unpriced.model.is_empty() {
            "turns without a model".to_owned()
        } else {
            name(&unpriced.model)
        };
        let why = match unpriced.reason {
            UnpricedReason::Model => "no price table knows the model",
            UnpricedReason::Class => "the model has no price for this class of tokens",
            UnpricedReason::Undated => "the turns have no time",
        };
        parts.push(format!("{} tokens of {model}: {why}", short(unpriced.tokens)));
    }
    let more: i128 = answer.unpriced.iter().skip(MODELS_MAX).map(|unpriced| unpriced.tokens).sum();
    if more > 0 {
        parts.push(format!("{} tokens of {} more models", short(more), answer.unpriced.len() - MODELS_MAX));
    }
    let bounds = answer.lower_bounds;
    for (turns, why) in [
        (bounds.partial_turns, "their source recorded only a part of their usage"),
        (bounds.tier_unknown_turns, "the size of their requests, and with it their price, is not known"),
        (bounds.invalid_turns, "a value in them is no count, and is 0 here"),
    ] {
        if turns > 0 {
            parts.push(format!("{} cost at least what is shown: {why}", counted(turns, "turn")));
        }
    }
    if answer.undated_left_out > 0 {
        parts.push(format!("{} left out: they have no time", counted(answer.undated_left_out, "turn")));
    }
    html! {
        section aria-labelledby="not-h" {
            h2 id="not-h" { "What is not in the cost" }
            @if parts.is_empty() {
                p { "Nothing." }
            } @else {
                ul.parts { @for part in &parts { li { bdi { (part) } } } }
            }
        }
    }
}
