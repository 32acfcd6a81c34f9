//! Compares `burn usage` with the answers of an independent program: every question, from the archive and from the
//! ledger, on one thread and on several.
//!
//! Cases are the folders of `usage` in `BURN_GOLDEN` (default `../shared/golden`). Without that folder a part of them
//! in `fixtures/usage` runs.

use crate::common;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use relayburn_ledger::scan::json::{Document, Kind, Value};

use super::{burn_of, run};

/// A JSON value whose numbers are decimals: `7.50e-1` and `0.75` are equal.
#[derive(Debug, Clone, PartialEq)]
enum Exact {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Exact>),
    Object(BTreeMap<String, Exact>),
}

impl Exact {
    fn of(value: Value<'_>) -> Self {
        match value.kind() {
            Kind::Null => Self::Null,
            Kind::Number => Self::Number(decimal(value.as_number().unwrap().literal())),
            Kind::String => Self::Text(value.as_str().unwrap().into_owned()),
            Kind::Array => Self::List(value.items().map(Self::of).collect()),
            Kind::Object => {
                let members = value.members();
                Self::Object(
                    members.map(|(key, value)| (key.to_utf8_lossy().into(), Self::of(value))).collect(),
                )
            }
            _ => Self::Bool(value.as_bool().unwrap()),
        }
    }

    fn parse(json: &[u8]) -> Self {
        Self::of(Document::default().parse(json).unwrap())
    }

    fn get(&self, key: &str) -> &Self {
        match self {
            Self::Object(members) => members.get(key).unwrap_or(&Self::Null),
            other => panic!("{other:?}"),
        }
    }

    fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            other => panic!("{other:?}"),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }
}

/// Sign, digits without zeros at either end, and the power of ten of the last one.
fn decimal(literal: &str) -> String {
    let (number, exponent) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
    let (sign, number) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let power = exponent.parse::<i64>().unwrap() - decimals.len() as i64;
    let digits = format!("{whole}{decimals}");
    let kept = digits.trim_end_matches('0');
    let power = power + (digits.len() - kept.len()) as i64;
    let kept = kept.trim_start_matches('0');
    if kept.is_empty() { "0".to_owned() } else { format!("{sign}{kept}e{power}") }
}

#[test]
fn decimals_are_compared_by_their_value() {
    for (one, other) in [("0", "-0.0e5"), ("7.5e-05", "0.0000750"), ("100", "1e2"), ("-12.30", "-123E-1")] {
        assert_eq!(decimal(one), decimal(other));
    }
    assert_ne!(decimal("0.1"), decimal("0.10000000000000001"));
}

fn folders() -> Vec<PathBuf> {
    let root = common::golden().map_or_else(|| common::fixture("usage"), |golden| golden.join("usage"));
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn burn(home: &Path, now: &str, args: &[&str]) -> (Option<i32>, String, String) {
    run(burn_of(home).args(args).env("BURN_NOW", now).env_remove("TZ"))
}

/// The first difference, with its path.
fn difference(path: &str, found: &Exact, wanted: &Exact) -> Option<String> {
    match (found, wanted) {
        (Exact::Object(a), Exact::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|key| match (a.get(key), b.get(key)) {
                (Some(found), Some(wanted)) => difference(&format!("{path}.{key}"), found, wanted),
                (found, wanted) => Some(format!("{path}.{key}: {found:?}, not {wanted:?}")),
            })
        }
        (Exact::List(a), Exact::List(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(place, (a, b))| difference(&format!("{path}[{place}]"), a, b))
        }
        _ => (found != wanted).then(|| format!("{path}: {found:?}, not {wanted:?}")),
    }
}

#[test]
fn every_question_is_answered_as_the_reference_answers_it() {
    let (mut questions, mut wrong) = (0, Vec::new());
    let folders = folders();
    assert!(!folders.is_empty());
    for folder in &folders {
        let case = Exact::parse(&fs::read(folder.join("case.json")).unwrap());
        let home = tempfile::tempdir().unwrap();
        fs::copy(folder.join("ledger.jsonl"), home.path().join("ledger.jsonl")).unwrap();
        let now = case.get("now").text();
        // The first question builds the archive.
        let (code, _, error) = burn(home.path(), now, &["usage", "--json"]);
        assert_eq!(code, Some(0), "{}: {error}", folder.display());
        let queries = case.get("queries").items();
        questions += queries.len();
        let failures = std::sync::Mutex::new(Vec::new());
        common::in_parallel(queries, |query| {
            let args: Vec<&str> = query.get("args").items().iter().map(Exact::text).collect();
            let mut all = vec!["usage"];
            all.extend(&args);
            all.push("--json");
            if !args.contains(&"--tz") {
                all.extend(["--tz", "UTC"]);
            }
            for from in [&["--no-build"][..], &["--from", "ledger", "--threads", "1"]] {
                let (code, stdout, error) = burn(home.path(), now, &[&all, from].concat());
                let problem = if *query.get("exit") == Exact::Number("2e0".to_owned()) {
                    (code != Some(2) || !stdout.is_empty()).then(|| format!("exit {code:?}: {error}"))
                } else if code != Some(0) {
                    Some(format!("exit {code:?}: {error}"))
                } else {
                    let Exact::Object(mut found) = Exact::parse(stdout.as_bytes()) else { panic!() };
                    assert!(found.remove("prices").is_some() && found.remove("ledger").is_some());
                    difference("", &Exact::Object(found), query.get("expect"))
                };
                if let Some(problem) = problem {
                    let name = folder.file_name().unwrap().to_string_lossy().into_owned();
                    failures.lock().unwrap().push(format!("{name}: {all:?} {from:?}: {problem}"));
                }
            }
        });
        wrong.extend(failures.into_inner().unwrap());
    }
    println!("{questions} questions of {} ledgers", folders.len());
    assert!(wrong.is_empty(), "{} of {questions}:\n{}", wrong.len(), wrong.join("\n"));
}
