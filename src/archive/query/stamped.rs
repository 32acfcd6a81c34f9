//! Finds the sessions whose turns can have an enrichment, so that a query by enrichment need not read every turn.
//!
//! Touches: reads the archive. Guarantees: the session of every turn that passes is found.
//!
//! Why: a turn has a key only because a stamp assigned the key and the value to the turn, and the stamp's selector matched
//! the turn ([`fold`](crate::record::fold)). Builds store a stamp in the transaction in which they fold the stamp, with the
//! session of its selector, or `*`. A stamp is stored as JSON.stringify prints it, so the assignment is in the text as `"key":"value"`,
//! with nothing in between. No other text can hide the assignment, and a text that only looks like it adds a session.

use rusqlite::{Connection, params_from_iter};

use crate::record::columns::turns::enrichment;
use crate::record::{Pattern, PatternKind};
use crate::scan::json::write_js_string;

/// With more sessions than this, reading the turns by time returns the first ones sooner.
const SESSIONS_MAX: usize = 16;
/// With more patterns for a key than this, SQLite's limit of the depth of an expression is near.
const PATTERNS_MAX: usize = 100;

/// Returns the sessions of all turns that pass `tags`; `None` when they are not few, or when the stamps do not tell.
pub(super) fn sessions(
    archive: &Connection,
    tags: &[(String, Pattern)],
) -> Result<Option<Vec<String>>, rusqlite::Error> {
    let mut fewest: Option<Vec<String>> = None;
    for (key, _) in tags {
        let of_key = tags.iter().filter(|(other, _)| other == key);
        let Some(texts) = of_key.map(|(_, pattern)| assignment(key, pattern)).collect::<Option<Vec<_>>>()
        else {
            continue;
        };
        if texts.len() > PATTERNS_MAX {
            continue;
        }
        let conditions = vec!["instr(enrichment_json, ?)"; texts.len()].join(" OR ");
        let sql =
            format!("SELECT DISTINCT session_id FROM stamps WHERE {conditions} LIMIT {}", SESSIONS_MAX + 1);
        let mut statement = archive.prepare(&sql)?;
        let found = statement.query_map(params_from_iter(texts), |row| {
            Ok(row.get_ref(0)?.as_str().ok().filter(|session| *session != "*").map(str::to_owned))
        })?;
        let Some(sessions) = found.collect::<Result<Option<Vec<String>>, _>>()? else { continue };
        if sessions.len() <= fewest.as_ref().map_or(SESSIONS_MAX, Vec::len) {
            fewest = Some(sessions);
        }
    }
    Ok(fewest)
}

/// The text of an assignment that passes the pattern, up to the end of the pattern; `None` when a turn passes without an
/// assignment, or when the text may be spelled in another way.
fn assignment(key: &str, pattern: &Pattern) -> Option<String> {
    let (value, is_whole) = match pattern.kind() {
        PatternKind::Absent => return None,
        PatternKind::Whole(value) => (value, true),
        PatternKind::Start(value) => (value, false),
    };
    // A lone surrogate is stored as an escape and read as U+FFFD.
    if [key, value].iter().any(|text| text.contains(char::REPLACEMENT_CHARACTER)) {
        return None;
    }
    let mut text = Vec::new();
    write_js_string(key.as_bytes(), &mut text);
    text.push(b':');
    // Early versions of the TypeScript package folded numbers, too, and a column of texts stores them as texts.
    if enrichment::FIELDS.iter().any(|field| field.member == key) {
        return String::from_utf8(text).ok();
    }
    write_js_string(value.as_bytes(), &mut text);
    text.truncate(text.len() - usize::from(!is_whole));
    String::from_utf8(text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::archive::{Options, Paths, Unobserved, build_tail};
    use crate::record::{Filter, passes_tags};
    use crate::scan::json::{Document, Value};

    /// Texts of a ledger, as JSON.
    const SESSIONS: usize = 24;
    const KEYS: [&str; 6] =
        ["\"tier\"", "\"workflowId\"", r#""k""#, r#""\u006b""#, r#""a\"b\u0001""#, r#""\ud800""#];
    const VALUES: [&str; 7] = [
        r#""v""#,
        r#""\u0076w""#,
        r#""""#,
        r#""x\"y\\\u0002é""#,
        r#""\ud83d\ude00""#,
        r#""\ud800""#,
        r#""\ufffd""#,
    ];
    /// Keys and patterns of a filter.
    const ASKED: [&str; 6] = ["tier", "workflowId", "k", "a\"b\u{1}", "\u{fffd}", "nobody"];
    const PATTERNS: [&str; 10] =
        ["v", "vw", "v*", "", "*", "x\"y\\\u{2}é", "x\"*", "\u{1f600}", "\u{fffd}", "(none)"];

    fn session(number: usize) -> String {
        if number == 0 { "*".to_owned() } else { format!("s{number}") }
    }

    /// The project and its key of a turn, and what a filter asks for.
    const PROJECTS: [&str; 4] =
        ["", r#","project":"/p""#, r#","projectKey":"/p""#, r#","project":"/q","projectKey":"k""#];
    const ASKED_PROJECTS: [&[&str]; 6] = [&[], &["/p"], &["/q", "/p"], &["k"], &["/*"], &["(none)"]];

    fn ledger(projects: &[usize], stamps: &[(usize, usize, [usize; 4])]) -> String {
        let mut lines = Vec::new();
        for number in 0..SESSIONS * 2 {
            lines.push(format!(
                r#"{{"v":1,"kind":"turn","record":{{"source":"c{}","sessionId":"{}","messageId":"m{}","turnIndex":0,"ts":"t{number:02}","model":"x"{},"usage":{{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[]}}}}"#,
                number % 3,
                session(number / 2),
                number % 5,
                PROJECTS[projects[number]],
            ));
        }
        for (number, (kind, place, [key, value, other_key, other_value])) in stamps.iter().enumerate() {
            let selector = match kind {
                0 => format!(r#""messageId":"m{}""#, place % 5),
                1 => format!(r#""range":{{"fromTs":"t{place:02}","toTs":"t{:02}"}}"#, place + 2),
                2 => format!(r#""sessionId":"{}","messageId":"m{}""#, session(*place), number % 5),
                _ => format!(r#""sessionId":"{}""#, session(*place)),
            };
            lines.push(format!(
                r#"{{"v":1,"kind":"stamp","ts":"t{number:02}","selector":{{{selector}}},"enrichment":{{{}:{},{}:{}}}}}"#,
                KEYS[*key], VALUES[*value], KEYS[*other_key], VALUES[*other_value],
            ));
        }
        lines.join("\n") + "\n"
    }

    fn turns(archive: &Path, filter: &Filter) -> Vec<String> {
        let mut found = Vec::new();
        let mut sink = |turn: &str| {
            found.push(turn.to_owned());
            ControlFlow::Continue(())
        };
        super::super::turns(archive, filter, &mut sink).unwrap();
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_turns_are_those_of_a_full_scan(
            projects in prop::collection::vec(
                prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(2), 1 => Just(3)], SESSIONS * 2),
            stamps in prop::collection::vec(
                (0..6usize, 0..SESSIONS, [0..KEYS.len(), 0..VALUES.len(), 0..KEYS.len(), 0..VALUES.len()]), 0..40),
            asked in prop::collection::vec(
                (0..ASKED_PROJECTS.len(), prop::collection::vec((0..ASKED.len(), 0..PATTERNS.len()), 0..3)), 1..24),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let at = |name: &str| directory.path().join(name);
            let paths = Paths::offline(at("ledger.jsonl"), at("archive.sqlite"));
            std::fs::write(&paths.ledger, ledger(&projects, &stamps)).unwrap();
            build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
            let all = turns(&paths.archive, &Filter::default());
            let mut document = Document::default();
            for (projects, tags) in asked {
                let pair = |(key, pattern): (usize, usize)| (ASKED[key].to_owned(), Pattern::new(PATTERNS[pattern]));
                let filter = Filter {
                    project: ASKED_PROJECTS[projects].iter().copied().map(Pattern::new).collect(),
                    enrichment: tags.into_iter().map(pair).collect(),
                    ..Filter::default()
                };
                let mut expected = all.clone();
                expected.retain(|turn| {
                    let turn = document.parse(turn.as_bytes()).unwrap();
                    let project = ["project", "projectKey"].map(|key| turn.get(key).and_then(Value::as_str));
                    let passes = |pattern: &Pattern| match pattern.kind() {
                        PatternKind::Absent => project.iter().all(Option::is_none),
                        _ => project.iter().any(|text| pattern.matches(text.as_deref().map(str::as_bytes))),
                    };
                    let enrichment = turn.get("enrichment").unwrap();
                    (filter.project.is_empty() || filter.project.iter().any(passes))
                        && passes_tags(&filter.enrichment, |key| enrichment.get(key).and_then(Value::as_str))
                });
                prop_assert_eq!(turns(&paths.archive, &filter), expected, "{:?}", filter);
            }
        }
    }
}
