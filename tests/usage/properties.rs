//! Properties of every answer about usage, on random ledgers and with random questions.
//!
//! Ledgers have repeated and sidechain turns, stamps, unknown models, odd times and odd counts, around changes of
//! clocks. Each archive is built in several steps. Every answer is compared with the answer from the ledger and with
//! the answer of another number of threads.

use crate::common;
use std::fs;

use crate::common::Random;
use relayburn_ledger::archive::{ArchiveError, Options, Paths, Unobserved, build_tail, rebuild_full};
use relayburn_ledger::home::Home;
use relayburn_ledger::interrupt::Interrupt;
use relayburn_ledger::usage::{
    self, Answer, Bound, Dimension, Filters, Instant, Pattern, Period, Prices, Question, Sums, UsageError,
    WeekStart, Zone,
};

/// Zones with summer time, without, of half and of quarter hours, with days that begin at 01:00 and with midnights that come twice.
const ZONES: [&str; 10] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Havana",
    "America/Santiago",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "+05:45",
    "-03:30",
];
/// The zones whose offset changes by whole hours.
const OF_WHOLE_HOURS: usize = 7;

/// Around changes of clocks in 2026, in seconds.
const MOMENTS: [&str; 8] = [
    "2026-03-08T05:00:00Z",
    "2026-03-29T00:30:00Z",
    "2026-04-04T14:30:00Z",
    "2026-09-06T03:30:00Z",
    "2026-10-03T15:00:00Z",
    "2026-10-25T00:30:00Z",
    "2026-11-01T04:30:00Z",
    "2026-12-31T20:00:00Z",
];

/// Texts that are no times.
const ODD_TIMES: [&str; 4] = ["", "yesterday", "2026-13-01T00:00:00Z", "2026-03-29T24:00:00Z"];

fn seconds(text: &str) -> i64 {
    Instant::of_turn(text).unwrap().seconds
}

fn pick<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
    of[random.below(of.len() as u64) as usize]
}

fn ts(random: &mut Random) -> String {
    let at = seconds(pick(random, &MOMENTS)) + random.below(300_000) as i64 - 150_000;
    let text = Instant { seconds: at, nanos: random.below(1000) as u32 * 1_000_000 }.to_rfc3339();
    match random.below(40) {
        0 => pick(random, &ODD_TIMES).to_owned(),
        1 => text.replace('Z', "+05:45"),
        2 => text.replace('T', " ").replace('Z', ""),
        _ => text,
    }
}

fn line(random: &mut Random) -> String {
    if random.below(8) == 0 {
        let key = pick(random, &["machine", "workflowId", "serviceTier", "contextTokens", "provider"]);
        let value = pick(random, &["a", "batch", "priority", "300000", "openai", ""]);
        let selector = match random.below(2) {
            0 => format!(r#"{{"sessionId":"s{}"}}"#, random.below(5)),
            _ => format!(r#"{{"messageId":"m{}"}}"#, random.below(150)),
        };
        return format!(
            r#"{{"v":1,"kind":"stamp","ts":"{}","selector":{selector},"enrichment":{{"{key}":"{value}"}}}}"#,
            ts(random)
        );
    }
    let count = |random: &mut Random| match random.below(60) {
        0 => pick(random, &["-1", "1.5", "1e13", "1e3", "9007199254740993"]).to_owned(),
        _ => random.below(400_000).to_string(),
    };
    let model = pick(
        random,
        &[
            "claude-opus-4-7",
            "claude-sonnet-4-5[1m]",
            "gpt-5.6-sol",
            "openrouter/x-ai/grok-4",
            "my-gateway",
            "<synthetic>",
            "",
        ],
    );
    let calls: Vec<String> = (0..random.below(5))
        .map(|id| {
            format!(r#"{{"id":"t{id}","name":"{}","argsHash":"x"}}"#, pick(random, &["Bash", "Read", "Edit"]))
        })
        .collect();
    let more = pick(
        random,
        &[
            "",
            r#","activity":"coding""#,
            r#","project":"/p","projectKey":"k""#,
            r#","subagent":{"isSidechain":true}"#,
            r#","fidelity":{"class":"partial","granularity":"per-turn","coverage":{}}"#,
        ],
    );
    let counts: Vec<String> = ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"]
        .iter()
        .map(|name| format!(r#""{name}":{}"#, count(random)))
        .collect();
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"{}","sessionId":"s{}","messageId":"m{}","turnIndex":1,"ts":"{}","model":"{model}","usage":{{{}}},"toolCalls":[{}]{more}}}}}"#,
        pick(random, &["claude-code", "codex", "opencode"]),
        random.below(5),
        random.below(150),
        ts(random),
        counts.join(","),
        calls.join(",")
    )
}

fn plus(sums: impl IntoIterator<Item = Sums>) -> Sums {
    sums.into_iter().fold(Sums::default(), |all, sums| Sums {
        turns: all.turns + sums.turns,
        calls: all.calls + sums.calls,
        counts: std::array::from_fn(|place| all.counts[place] + sums.counts[place]),
        usd: all.usd.plus(sums.usd).unwrap(),
        unpriced_tokens: all.unpriced_tokens + sums.unpriced_tokens,
        lower_bound_turns: all.lower_bound_turns + sums.lower_bound_turns,
    })
}

/// With tools a turn is in several rows, so these members do not add up.
fn without_turns(sums: Sums) -> Sums {
    Sums { turns: 0, lower_bound_turns: 0, ..sums }
}

/// The document without the member `ledger`.
fn document(answer: &Answer) -> String {
    let text = serde_json::to_string(answer).unwrap();
    let (ledger, rows) = (text.find("\"ledger\":").unwrap(), text.find("\"rows\":").unwrap());
    format!("{}{}", &text[..ledger], &text[rows..])
}

fn question(random: &mut Random) -> Question {
    let zone = Zone::named(pick(random, &ZONES)).unwrap();
    let periods = [
        None,
        Some(Period::Hour),
        Some(Period::Day),
        Some(Period::Week),
        Some(Period::Month),
        Some(Period::Session),
        Some(Period::Block),
    ];
    let period = periods[random.below(7) as usize];
    let all = "model provider project source session subagent activity machine tool weekday hour-of-day tag:workflowId";
    let all: Vec<&str> = all.split(' ').collect();
    let mut by: Vec<Dimension> = Vec::new();
    for _ in 0..random.below(4) {
        let dimension = Dimension::named(pick(random, &all)).unwrap();
        if !by.contains(&dimension) {
            by.push(dimension);
        }
    }
    let mut filters = Filters::default();
    match random.below(6) {
        0 => filters.model.push(Pattern::new("claude-*")),
        1 => filters.machine.push(Pattern::new("(none)")),
        2 => filters.source.extend([Pattern::new("codex"), Pattern::new("opencode")]),
        _ => {}
    }
    let week_start = [WeekStart::Monday, WeekStart::Sunday, WeekStart::Saturday][random.below(3) as usize];
    let mut bounds = [seconds(pick(random, &MOMENTS)), seconds(pick(random, &MOMENTS))];
    bounds.sort_unstable();
    let is_bound = random.below(3) == 0;
    Question {
        period,
        by,
        zone,
        week_start,
        filters,
        since: is_bound.then(|| Instant::at(bounds[0])),
        until: is_bound.then(|| Instant { seconds: bounds[1], nanos: 999_999_999 }),
        limit: (random.below(3) == 0).then(|| 1 + random.below(4) as usize),
        ..Question::default()
    }
}

#[test]
fn answers_add_up_whatever_is_asked() {
    let mut random = Random::new(77);
    let interrupt = Interrupt::new();
    for _ in 0..2 * common::scale() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        let paths = Paths::of_home(&home);
        let prices = Prices::of_home(&home).unwrap();
        // Some ledgers have hardly an odd line, so that their lines are not all parsed.
        let odd_line_in = [30, 1500][random.below(2) as usize];
        let is_dated = random.below(2) == 0;
        let line = |random: &mut Random| {
            let mut line = line(random);
            // A torn line looks like a turn and is none, so it supersedes no line.
            if random.below(odd_line_in) == 0 {
                line.pop();
            }
            // The last of two equal names counts, so the line is of another turn, or of another time, than it seems at first.
            for repeated in ["\"messageId\":", "\"ts\":"] {
                if random.below(odd_line_in * 4) == 0 {
                    line =
                        line.replacen(repeated, &format!("{repeated}\"2026-01-01T00:00:00Z\",{repeated}"), 1);
                }
            }
            // Where each turn has a time, the answer does not look for others.
            for odd in ODD_TIMES.iter().filter(|_| is_dated) {
                line = line.replace(&format!("\"ts\":\"{odd}\""), "\"ts\":\"2026-10-25t00:30+0545\"");
            }
            line + "\n"
        };
        let lines: Vec<String> = (0..400).map(|_| line(&mut random)).collect();
        // Some builds before the last line.
        let cut = random.below(400) as usize;
        fs::write(home.ledger(), lines[..cut].concat()).unwrap();
        build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
        fs::write(home.ledger(), lines.concat()).unwrap();
        build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
        let full = tempfile::tempdir().unwrap();
        let full = Paths::offline(home.ledger(), full.path().join("archive.sqlite"));
        rebuild_full(&full, &Options::default(), &mut Unobserved).unwrap();
        // With changes in its log, SQLite reads this archive; the other archive is read from its pages.
        let writer = rusqlite::Connection::open(&full.archive).unwrap();
        writer.execute_batch("UPDATE sessions SET turn_count = turn_count").unwrap();

        for _ in 0..40 {
            let question = question(&mut random);
            let ask = |question: &Question| usage::ask(&paths, question, &prices, &interrupt).unwrap();
            let answer = ask(&question);
            let has_tool = question.by.contains(&Dimension::Tool);
            // 1: the rows, with the row of all others, add up to the total.
            let sum = plus(answer.rows.iter().map(|row| row.sums));
            if has_tool {
                assert_eq!(without_turns(sum), without_turns(answer.total), "{question:?}");
            } else {
                assert_eq!(sum, answer.total, "{question:?}");
            }
            // 2: the total depends only on filters and bounds (blocks are of one source unless one is given).
            let filters = answer.question.filters.clone();
            let plain =
                Question { filters, since: question.since, until: question.until, ..Question::default() };
            assert_eq!(Sums { calls: 0, ..answer.total }, ask(&plain).total, "{question:?}");
            // 5 and 6: the ledger, and an archive of one build, give the same answer.
            let from_ledger = usage::ask_ledger(&paths, &question, &prices, &interrupt).unwrap();
            let threads = 1 + random.below(4) as usize;
            let single = Question { threads, ..question.clone() };
            assert_eq!(document(&from_ledger), document(&answer), "{question:?}");
            assert_eq!(
                document(&usage::ask(&full, &single, &prices, &interrupt).unwrap()),
                document(&answer)
            );
            // 4: the totals of two adjacent spans add up to the total of both.
            if let (Some(since), Some(until)) = (question.since, question.until) {
                let middle = since.seconds + (until.seconds - since.seconds) / 3;
                let first = Question {
                    until: Some(Instant { seconds: middle, nanos: 999_999_999 }),
                    ..plain.clone()
                };
                let second = Question { since: Some(Instant::at(middle + 1)), ..plain.clone() };
                assert_eq!(plus([ask(&first).total, ask(&second).total]), ask(&plain).total);
            }
            // 8 and 9: the turns of a row add up to its cost, and each turn belongs to one row.
            let explained = Question { explain: true, limit: None, ..question.clone() };
            let explained = ask(&explained);
            let mut offsets = Vec::new();
            for row in &explained.rows {
                let costs = row.turns_at.iter().filter_map(|turn| turn.usd);
                let sum = costs.fold(usage::Usd::ZERO, |sum, usd| sum.plus(usd).unwrap());
                assert_eq!(sum, row.sums.usd, "{question:?}");
                offsets.extend(row.turns_at.iter().map(|turn| turn.offset));
            }
            if !has_tool {
                let turns = offsets.len() as u64;
                offsets.sort_unstable();
                offsets.dedup();
                assert_eq!((turns, offsets.len() as u64), (answer.total.turns, answer.total.turns));
            }
        }

        // 3: hours are parts of days, days of weeks and of months.
        for (place, zone) in ZONES.iter().enumerate() {
            let zone = Zone::named(zone).unwrap();
            let by = |period| {
                let question = Question { period: Some(period), zone: zone.clone(), ..Question::default() };
                usage::ask(&paths, &question, &prices, &interrupt).unwrap()
            };
            let parts =
                [(Period::Hour, Period::Day), (Period::Day, Period::Week), (Period::Day, Period::Month)];
            for (part, whole) in parts {
                if part == Period::Hour && place >= OF_WHOLE_HOURS {
                    continue;
                }
                let parts = by(part);
                for row in by(whole).rows {
                    let Some(period) = &row.period else { continue };
                    let is_within = |part: &&usage::AnswerRow| {
                        part.period.as_ref().is_some_and(|p| p.start >= period.start && p.end <= period.end)
                    };
                    let sum = plus(parts.rows.iter().filter(is_within).map(|row| row.sums));
                    assert_eq!(sum, row.sums, "{} of {} in {}", part.as_str(), period.key, zone.name());
                }
            }
        }
    }
}

#[test]
fn a_glance_that_is_stopped_shows_no_part_of_the_sums() {
    let mut random = Random::new(78);
    let directory = tempfile::tempdir().unwrap();
    let home = Home::at(directory.path());
    let paths = Paths::of_home(&home);
    let lines: Vec<String> = (0..40).map(|_| line(&mut random) + "\n").collect();
    fs::write(home.ledger(), lines.concat()).unwrap();
    build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
    let prices = Prices::of_home(&home).unwrap();
    let interrupt = Interrupt::new();
    interrupt.request();
    let stopped = usage::glance(&paths, &[Question::default()], &prices, &interrupt);
    assert!(matches!(stopped, Err(UsageError::Archive(ArchiveError::Interrupted))), "{stopped:?}");
}

#[test]
fn days_of_any_zone_follow_each_other_and_hold_their_instants() {
    let now = Instant::of_turn("2026-06-15T12:00:00Z").unwrap();
    for name in ZONES.iter().chain(&["Africa/Cairo", "Pacific/Chatham", "Pacific/Apia", "Asia/Gaza"]) {
        let zone = Zone::named(name).unwrap();
        let mut before: Option<Instant> = None;
        for day in 0..365 {
            let date = zone.date_of(Instant::at(seconds("2026-01-02T12:00:00Z") + day * 86_400));
            let read = |bound: Bound| bound.parse(&date, &zone, WeekStart::Monday, now).unwrap();
            let (since, until) = (read(Bound::Since), read(Bound::Until));
            assert!(since < until, "{name} {date}");
            assert_eq!((zone.date_of(since), zone.date_of(until)), (date.clone(), date.clone()), "{name}");
            if let Some(before) = before {
                let gap = (since.seconds - before.seconds, since.nanos, before.nanos);
                assert_eq!(gap, (1, 0, 999_999_999), "{name} {date}");
            }
            before = Some(until);
        }
    }
}
