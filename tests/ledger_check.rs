//! `burn ledger check`: every kind of fault is found and named by its offset, oddities are counted, nothing is changed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const USAGE: &str =
    r#""usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}"#;

fn turn(session: &str, number: u32, ts: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"x","sessionId":"{session}","messageId":"m{number}","turnIndex":{number},"ts":"{ts}","model":"m",{USAGE},"toolCalls":[]}}}}"#
    )
}

fn burn(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_burn")).args(args).env("RELAYBURN_HOME", home).output().unwrap()
}

/// Exit code and report.
fn check(home: &Path, args: &[&str]) -> (i32, Value) {
    let output = burn(home, &[&["ledger", "check", "--json"], args].concat());
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

/// Problem, file, offset and length of every finding.
fn findings(report: &Value) -> Vec<(String, String, u64, u64)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .map(|f| {
            (
                text(f, "problem"),
                text(f, "file"),
                f["offset"].as_u64().unwrap(),
                f["length"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn every_fault_has_an_offset_and_every_oddity_a_count() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger: Vec<u8> = Vec::new();
    let mut expected = Vec::new();
    let mut line = |bytes: &[u8], problem: Option<&str>| {
        if let Some(problem) = problem {
            expected.push((problem.to_owned(), "ledger".to_owned(), ledger.len() as u64, bytes.len() as u64));
        }
        ledger.extend_from_slice(bytes);
        ledger.push(b'\n');
    };
    line(turn("a", 1, "t3").as_bytes(), None);
    line(b"", None);
    line(b"{\"v\":1,", Some("malformed"));
    // Older than a line of its session before it, then repeated, then of another session.
    line(turn("a", 2, "t1").as_bytes(), None);
    line(turn("a", 1, "t3").as_bytes(), None);
    line(turn("b", 1, "t1").as_bytes(), None);
    line(turn("a", 3, "t3").replace("\"model\":\"m\",", "").as_bytes(), Some("rejected"));
    line(b"{\"v\":1,\"kind\":\"news\"}", Some("unknown"));
    line(b"{\"v\":1,\"kind\":\"news\",\"n\":2}\r", Some("unknown"));
    line(b"{\"v\":2,\"kind\":\"turn\"}", Some("unknown"));
    line(b"[]", Some("unknown"));
    let mut bad_text = turn("c", 1, "t1").into_bytes();
    let model = bad_text.windows(9).position(|window| window == b"\"model\":\"").unwrap() + 9;
    bad_text[model] = 0xFF;
    line(&bad_text, Some("invalidUtf8"));
    let torn = b"{\"v\":1,\"kind\":\"turn\"";
    expected.push(("torn".to_owned(), "ledger".to_owned(), ledger.len() as u64, torn.len() as u64));
    ledger.extend_from_slice(torn);
    fs::write(home.path().join("ledger.jsonl"), &ledger).unwrap();
    assert!(burn(home.path(), &["state", "rebuild", "index"]).status.success());

    let (code, report) = check(home.path(), &[]);
    assert_eq!(code, 1);
    assert_eq!(findings(&report), expected);
    for (key, count) in [
        ("lines", 11),
        ("malformedLines", 1),
        ("rejectedLines", 1),
        ("invalidUtf8Lines", 1),
        ("tornLines", 1),
        ("unknownLines", 4),
        ("repeatedRecords", 1),
        ("outOfOrderLines", 1),
    ] {
        assert_eq!(report[key], count, "{key}");
    }
    assert_eq!(report["unknownKinds"]["kind news"], 2);
    assert_eq!(report["unknownKinds"]["version 2"], 1);
    assert_eq!(report["index"]["missingIds"], 0);
    assert_eq!(fs::read(home.path().join("ledger.jsonl")).unwrap(), ledger);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 4, "a check leaves nothing behind");

    let table = String::from_utf8(burn(home.path(), &["ledger", "check"]).stdout).unwrap();
    let malformed = expected.iter().find(|finding| finding.0 == "malformed").unwrap();
    assert!(table.contains(&format!("ledger byte {} (7 bytes): malformed", malformed.2)), "{table}");
}

#[test]
fn an_index_that_disagrees_is_named_id_by_id() {
    let home = tempfile::tempdir().unwrap();
    let lines: String = (0..5).map(|number| turn("a", number, "t1") + "\n").collect();
    fs::write(home.path().join("ledger.jsonl"), &lines).unwrap();
    let (code, report) = check(home.path(), &[]);
    assert_eq!((code, &report["index"]["exists"]), (1, &Value::Bool(false)));
    assert_eq!(findings(&report), [("noIndex".to_owned(), "index".to_owned(), 0, 0)]);

    assert!(burn(home.path(), &["state", "rebuild", "index"]).status.success());
    assert_eq!(check(home.path(), &[]).0, 0);
    let index = fs::read_to_string(home.path().join("ledger.idx")).unwrap();
    // The second id is gone, one is there that no line has, and one line is no id.
    let changed = format!("{}00000000000000ff\nno id\n{}", &index[..17], &index[34..]);
    fs::write(home.path().join("ledger.idx"), changed).unwrap();
    let (code, report) = check(home.path(), &[]);
    let length = turn("a", 1, "t1").len() as u64;
    let expected = [
        ("missingId", "ledger", length + 1, length),
        ("extraId", "index", 17, 16),
        ("notAnId", "index", 34, 5),
    ];
    let expected: Vec<_> =
        expected.map(|(p, f, offset, len)| (p.to_owned(), f.to_owned(), offset, len)).into();
    assert_eq!((code, findings(&report)), (1, expected));
}

#[test]
fn a_file_anywhere_is_checked_with_the_index_beside_it_if_there_is_one() {
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("copy.jsonl");
    fs::write(&copy, turn("a", 1, "t1") + "\n").unwrap();
    let (code, report) = check(home.path(), &[copy.to_str().unwrap()]);
    assert_eq!((code, &report["index"]), (0, &Value::Null));
    fs::write(home.path().join("copy.idx"), "").unwrap();
    let (code, report) = check(home.path(), &[copy.to_str().unwrap()]);
    assert_eq!((code, &report["index"]["missingIds"]), (1, &Value::from(1)));

    let missing = burn(home.path(), &["ledger", "check", "nowhere.jsonl"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(said.contains("nowhere.jsonl") && said.contains("name a file that exists"), "{said}");
    let missing = burn(home.path(), &["ledger", "check", "nowhere.jsonl", "--json"]);
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(1), 0));
    // A home where nothing was ever appended has nothing wrong.
    assert_eq!(check(&home.path().join("none"), &[]).0, 0);
}

/// Ids come out alike whether a line takes the fast path, the exact one, or is rejected.
#[test]
fn the_checks_ids_are_those_of_the_index_for_odd_lines_too() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden");
    let golden = std::env::var_os("BURN_GOLDEN").map_or(golden, Into::into);
    let mut ledgers: Vec<std::path::PathBuf> = Vec::new();
    match fs::read_dir(golden.join("archive")) {
        Ok(cases) => ledgers.extend(cases.map(|case| case.unwrap().path().join("ledger.jsonl"))),
        Err(_) => println!("{} is not there: its ledgers are not checked", golden.display()),
    }
    let home = tempfile::tempdir().unwrap();
    let odd = home.path().join("odd.jsonl");
    let generate =
        ["dev", "generate-ledger", odd.to_str().unwrap(), "--size", "3MB", "--profile", "adversarial"];
    assert!(burn(home.path(), &generate).status.success());
    ledgers.push(odd);
    for ledger in ledgers.iter().filter(|ledger| ledger.exists()) {
        let home = tempfile::tempdir().unwrap();
        fs::copy(ledger, home.path().join("ledger.jsonl")).unwrap();
        assert!(burn(home.path(), &["state", "rebuild", "index"]).status.success());
        let (_, report) = check(home.path(), &[]);
        let index = &report["index"];
        assert_eq!(
            (&index["missingIds"], &index["extraIds"]),
            (&0.into(), &0.into()),
            "{}",
            ledger.display()
        );
    }
    println!("{} ledgers", ledgers.len());
}
