//! `burn usage` with missing, wrong or too large input: a clear message, the exit code, and never a wrong number.

use std::fs;
use std::path::Path;
use std::process::Command;

fn turn(message: &str, model: &str, output: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"claude-code","sessionId":"s","messageId":"{message}","turnIndex":0,"ts":"2026-11-20T10:00:00.000Z","model":"{model}","usage":{{"input":1000,"output":{output},"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[]}}}}"#
    ) + "\n"
}

fn burn(home: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(args)
        .env("RELAYBURN_HOME", home)
        .env("BURN_NOW", "2026-11-21T12:00:00Z")
        .env("TZ", "Europe/Berlin")
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_home_without_a_ledger_says_how_to_get_one() {
    let home = tempfile::tempdir().unwrap();
    for args in
        [&["usage"][..], &["usage", "--json"], &["usage", "--from", "ledger"], &["summary", "--no-build"]]
    {
        let (code, out, error) = burn(home.path(), args);
        assert_eq!((code, &*out), (Some(1), ""), "{args:?}: {error}");
        assert!(error.starts_with("burn: ") && error.contains("burn "), "{error}");
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn text_csv_and_json_say_the_same() {
    let home = tempfile::tempdir().unwrap();
    let lines = [
        turn("m1", "claude-opus-4-7", "200"),
        turn("m2", "my-gateway", "5"),
        turn("m3", "claude-opus-4-7", "-1"),
    ];
    fs::write(home.path().join("ledger.jsonl"), lines.concat()).unwrap();
    let (code, text, error) = burn(home.path(), &["usage", "--by", "model"]);
    assert_eq!((code, &*error), (Some(0), ""));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("all turns, Europe/Berlin, prices of genai-prices "), "{text}");
    assert!(
        lines[2].starts_with("claude-opus-4-7      2  2.0 k     200") && lines[2].contains("≥ $0.02"),
        "{text}"
    );
    assert!(lines[3].starts_with("my-gateway           1") && lines[3].contains("unpriced"), "{text}");
    assert!(lines[4].starts_with("total                3"), "{text}");
    assert_eq!(lines[5], "no price: 1.0 k tokens of my-gateway; lower bound: 1 turn");
    assert_eq!(lines[6], "1 turn with a value that is no count, which is 0 here");
    let (_, csv, _) = burn(home.path(), &["summary", "day", "--by", "model", "--csv"]);
    assert_eq!(
        csv,
        "period,start,end,model,turns,input,output,reasoning,cacheRead,cacheCreate5m,cacheCreate1h,tokens,usd,unpricedTokens,\
         lowerBoundTurns\n\
         2026-11-20,2026-11-19T23:00:00.000Z,2026-11-20T23:00:00.000Z,claude-opus-4-7,2,2000,200,0,0,0,0,2200,0.015,0,1\n\
         2026-11-20,2026-11-19T23:00:00.000Z,2026-11-20T23:00:00.000Z,my-gateway,1,1000,5,0,0,0,0,1005,0,1005,0\n"
    );
    let (_, json, _) = burn(home.path(), &["usage", "--limit", "1", "--by", "model", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["rows"][1]["other"], true);
    assert_eq!(document["other"], 1);
    assert_eq!(document["ledger"]["takenIn"], document["ledger"]["bytes"]);
    // No turn passes the filter, which is no failure.
    let (code, _, error) = burn(home.path(), &["usage", "--model", "nobody"]);
    assert_eq!(code, Some(0));
    assert!(error.contains("no turn passes the filters; there are 3 turns without them"), "{error}");
}

#[test]
fn what_cannot_be_counted_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("ledger.jsonl"), turn("m1", "dear", "1000000000000")).unwrap();
    let prices = home.path().join("prices.json");
    let own = r#"{"format":1,"providers":[{"id":"me","match":{"is":"dear"},"models":[{"id":"dear","match":{"is":"dear"},"prices":[{"output":"999999999"}]}]}]}"#;
    fs::write(&prices, own).unwrap();
    for args in [&["usage", "--by", "model"][..], &["usage", "--json", "--from", "ledger"]] {
        let (code, out, error) = burn(home.path(), args);
        assert_eq!((code, &*out), (Some(1), ""), "{error}");
        assert!(error.contains("beyond 1.7 x 10^14 dollars"), "{error}");
    }
    fs::write(&prices, "{}").unwrap();
    let (code, out, error) = burn(home.path(), &["usage"]);
    assert_eq!((code, &*out), (Some(1), ""));
    assert!(error.contains("prices.json is no price table"), "{error}");
    fs::remove_file(&prices).unwrap();
    // An archive of another version is refused if it must not be built again.
    assert_eq!(burn(home.path(), &["usage"]).0, Some(0));
    let archive = rusqlite::Connection::open(home.path().join("archive.sqlite")).unwrap();
    archive.execute_batch("UPDATE archive_state SET archive_version = 99").unwrap();
    drop(archive);
    let (code, out, error) = burn(home.path(), &["usage", "--no-build"]);
    assert_eq!((code, &*out), (Some(1), ""), "{error}");
    assert!(error.contains("99"), "{error}");
    // Explanations need the ledger that was read.
    fs::remove_file(home.path().join("archive.sqlite")).unwrap();
    assert_eq!(burn(home.path(), &["usage"]).0, Some(0));
    fs::write(home.path().join("ledger.jsonl"), "").unwrap();
    let (code, out, error) = burn(home.path(), &["usage", "--explain", "--no-build"]);
    assert_eq!((code, &*out), (Some(1), ""), "{error}");
    assert!(error.contains("cannot explain"), "{error}");
}
