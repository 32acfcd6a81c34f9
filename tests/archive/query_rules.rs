//! Queries without golden data: enrichment keys of any characters, filters of every kind, a missing or old archive,
//! output that nobody reads.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use super::burn;
use crate::common::{everything, processes};

fn turn(session: &str, message: &str, ts: &str, more: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"x","sessionId":"{session}","messageId":"{message}","turnIndex":0,"ts":"{ts}","model":"m","usage":{{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[]{more}}}}}"#
    )
}

/// A home with this ledger, archived.
fn home(lines: &[String]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("ledger.jsonl"), lines.join("\n") + "\n").unwrap();
    assert_eq!(burn(home.path(), &["state", "rebuild", "archive", "--full"]).0, 0);
    home
}

/// The message ids of the found turns, asked for on Saturday 2026-11-21 at noon.
fn found(home: &Path, from: &str, filter: &[&str]) -> Vec<String> {
    let mut query = processes::burn(home);
    query
        .args(["query", "turns", "--from", from, "--json"])
        .args(filter)
        .env("BURN_NOW", "2026-11-21T12:00:00Z");
    let turns = processes::success(&query.output().unwrap());
    let turns = turns.as_array().unwrap();
    turns.iter().map(|turn| turn["messageId"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_enrichment_key_is_a_plain_key_whatever_characters_it_has() {
    let keys = "plain|| |.|a.b|$|$.a|[0]|a[0]|0|17|\"|a\"b|'|\\|a\\|\n|\t|%|_|*|?|--|é|日本|😀|a=b|=|==|a=|workflowId|tier|__proto\
                |\u{1}|{}|/*";
    let keys: Vec<&str> = keys.split('|').collect();
    assert_eq!(keys.len(), 36);
    let mut lines = Vec::new();
    for (number, key) in keys.iter().enumerate() {
        lines.push(turn("s", &format!("m{number}"), "t", ""));
        let stamp = json!({"v": 1, "kind": "stamp", "ts": "t", "selector": {"messageId": format!("m{number}")},
            "enrichment": {*key: format!("v={number}")}});
        lines.push(stamp.to_string());
    }
    let home = home(&lines);
    for (number, key) in keys.iter().enumerate() {
        for from in ["archive", "ledger"] {
            let pair = format!("{key}=v={number}");
            assert_eq!(
                found(home.path(), from, &["--enrichment", &pair]),
                [format!("m{number}")],
                "{from} {key:?}"
            );
            let other = format!("{key}=v");
            assert!(found(home.path(), from, &["--enrichment", &other]).is_empty(), "{from} {key:?}");
        }
    }
    let (code, _, stderr) = burn(home.path(), &["query", "turns", "--enrichment", "no equals sign"]);
    assert_eq!(code, 2, "{stderr}");
}

#[test]
fn filters_compare_bytes_and_take_both_bounds_in() {
    let lines = [
        turn("s", "a", "2026-04-20T00:00:01.000Z", r#","project":"/p""#),
        turn("s", "b", "2026-04-20T00:00:02.000Z", r#","projectKey":"/p""#),
        turn("t", "c", "2026-04-20T00:00:02.000Z", r#","project":"/q""#),
        turn("t", "d", "2026-04-20", ""),
        // The same turn again: the ledger returns both lines.
        turn("s", "a", "2026-04-20T00:00:01.000Z", r#","project":"/p","n":2"#),
    ];
    let home = home(&lines);
    let both = |filter: &[&str]| ["archive", "ledger"].map(|from| found(home.path(), from, filter).join(""));
    assert_eq!(both(&[]), ["dabc", "abcda"]);
    assert_eq!(both(&["--since", "2026-04-20T00:00:02.000Z"]), ["bc", "bc"]);
    assert_eq!(both(&["--until", "2026-04-20T00:00:01.000Z"]), ["da", "ada"]);
    assert_eq!(both(&["--project", "/p"]), ["ab", "aba"]);
    assert_eq!(both(&["--session", "t"]), ["dc", "cd"]);
    assert_eq!(both(&["--session", "t", "--source", "y"]), ["", ""]);
}

#[test]
fn times_are_days_of_a_zone_instants_and_ages_and_nothing_else() {
    let home = home(&[
        turn("s", "a", "2026-01-01T04:59:59.999Z", ""),
        turn("s", "b", "2026-01-01T05:00:00.000Z", ""),
        turn("s", "c", "2026-01-01T23:59:59.999Z", ""),
        turn("s", "d", "2026-01-02T04:59:59.999Z", ""),
    ]);
    for from in ["archive", "ledger"] {
        let ask = |filter: &[&str]| found(home.path(), from, filter).concat();
        assert_eq!(ask(&["--tz", "UTC", "--until", "2026-01-01"]), "abc");
        assert_eq!(ask(&["--tz", "UTC", "--since", "2026-01-02"]), "d");
        let day = ["--tz", "America/New_York", "--since", "2026-01-01", "--until", "2026-01-01"];
        assert_eq!(ask(&day), "bcd");
        assert_eq!(ask(&["--since", "2026-01-01T06:00:00+01:00"]), "bcd");
        assert_eq!(ask(&["--since", "today"]), "");
        assert_eq!(ask(&["--until", "24h"]), "abcd");
        for odd in ["1/5/2026", "last week", "2026-13-45", "2026-1", "7", "-3d", ""] {
            for option in ["--since", "--until"] {
                let (code, out, stderr) = burn(home.path(), &["query", "turns", "--from", from, option, odd]);
                assert!(code == 2 && out.is_empty() && stderr.contains("is no time"), "{odd}: {stderr}");
            }
        }
    }
    let (code, _, stderr) = burn(home.path(), &["query", "turns", "--tz", "Nowhere/City"]);
    assert!(code == 2 && stderr.contains("--tz"), "{stderr}");
}

/// As `burn usage` reads them, in Berlin.
#[test]
fn a_query_reads_times_as_the_sums_do() {
    let times = [
        ("a", "2026-11-14T22:59:59.999Z"),
        ("b", "2026-11-14T23:00:00.000Z"),
        ("c", "2026-11-16T00:00:00.000Z"),
        ("d", "2026-11-20T22:59:59.999999999Z"),
        ("e", "2026-11-21T09:00:00.000Z"),
        ("f", "2026-11-21T12:00:00.001Z"),
        ("g", "9999-12-31T23:00:00.000Z"),
    ];
    let home = home(&times.map(|(message, ts)| turn("s", message, ts, "")));
    for (args, wanted) in [
        (&["--since", "7d"][..], "bcdefg"),
        (&["--since", "1w"], "bcdefg"),
        (&["--until", "7d"], "a"),
        (&["--since", "14d", "--until", "7d"], "a"),
        (&["--since", "3h", "--until", "now"], "e"),
        (&["--since", "yesterday", "--until", "yesterday"], "d"),
        (&["--since", "this-week"], "cdefg"),
        (&["--since", "this-week", "--week-start", "sunday"], "bcdefg"),
        (&["--until", "last-week", "--week-start", "saturday"], "abcd"),
        (&["--since", "2026-11", "--until", "2026"], "abcdef"),
        (&["--until", "2026-11-20"], "abcd"),
        (&["--since", "2026-11-21T10:00", "--until", "2026-11-21 10:00:00.5"], "e"),
        (&["--until", "9999-12-31"], "abcdef"),
        (&["--until", "9999-12-31", "--tz", "America/New_York"], "abcdefg"),
        (&["--since", "9999-12-31", "--tz", "UTC"], "g"),
        (&["--since", "0000", "--until", "0000", "--tz", "+14:00"], ""),
    ] {
        for from in ["archive", "ledger"] {
            let zone: &[&str] = if args.contains(&"--tz") { &[] } else { &["--tz", "Europe/Berlin"] };
            let mut found = found(home.path(), from, &[args, zone].concat());
            found.sort();
            assert_eq!(found.concat(), wanted, "{from} {args:?}");
        }
    }
}

#[test]
fn a_query_reads_filters_as_the_sums_do() {
    let lines = [
        turn("s-1", "a", "t1", r#","project":"/work/api""#),
        turn("s-2", "b", "t2", r#","projectKey":"/work/web""#),
        turn("t-1", "c", "t3", ""),
        turn("*", "d", "t4", r#","project":"(none)""#),
        json!({"v": 1, "kind": "stamp", "ts": "t", "selector": {"messageId": "a"}, "enrichment": {"k": "v1", "tier": "x"}})
            .to_string(),
        json!({"v": 1, "kind": "stamp", "ts": "t", "selector": {"messageId": "b"}, "enrichment": {"k": "v2"}}).to_string(),
    ];
    let home = home(&lines);
    for (args, wanted) in [
        (&["--project", "/work/*"][..], "ab"),
        (&["--project", "(none)"], "c"),
        (&["--project", "/work/api", "--project", "/work/web"], "ab"),
        (&["--project", "/work/*", "--session", "s-2"], "b"),
        (&["--session", "s-1", "--session", "t-1"], "ac"),
        (&["--session", "s-*"], "ab"),
        (&["--session", "s-*", "--session", "t-1", "--source", "x"], "abc"),
        (&["--session", "**"], "d"),
        (&["--session", "(none)"], ""),
        (&["--source", "y", "--source", "x"], "abcd"),
        (&["--tag", "k=v1", "--tag", "k=v2"], "ab"),
        (&["--tag", "k=v*", "--enrichment", "tier=x"], "a"),
        (&["--tag", "k=(none)"], "cd"),
        (&["--tag", "tier=(none)"], "bcd"),
    ] {
        for from in ["archive", "ledger"] {
            assert_eq!(found(home.path(), from, args).concat(), wanted, "{from} {args:?}");
        }
    }
}

#[test]
fn stored_times_of_other_offsets_and_precisions_are_found_by_their_instant() {
    let lines = [
        // Half past nine, and half past eleven.
        turn("s", "a", "2026-04-20T11:30:00+02:00", ""),
        turn("s", "b", "2026-04-20T09:30:00.123-02:00", ""),
        turn("s", "c", "2026-04-20T10:00:00Z", ""),
        turn("s", "d", "2026-04-20T10:00:00.000Z", ""),
        turn("s", "e", "2026-04-20T10:00:00.000000001Z", ""),
        // Two dates away from its date in UTC.
        turn("s", "f", "2026-04-21T09:59:00.000+23:59", ""),
        turn("s", "g", "2026-04-20T09:59:59.999Z", ""),
        // A `ts` that is no time is compared as text.
        turn("s", "h", "2026-04-20", ""),
        turn("s", "i", "soon", ""),
    ];
    let event = |id: &str, ts: &str| {
        format!(
            r#"{{"v":1,"kind":"tool_result_event","record":{{"source":"x","sessionId":"s","toolUseId":"{id}","eventIndex":0,"status":"ok","eventSource":"e","ts":"{ts}"}}}}"#
        )
    };
    let compaction = |ts: &str| {
        format!(
            r#"{{"v":1,"kind":"compaction","record":{{"source":"x","sessionId":"s","ts":"{ts}","tokensBeforeCompact":7}}}}"#
        )
    };
    let others = ["2026-04-20T11:30:00+02:00", "2026-04-20T09:30:00.123-02:00"];
    let others = others.iter().enumerate();
    let others = others.flat_map(|(n, ts)| [event(&format!("u{n}"), ts), compaction(ts)]);
    let home = home(&lines.into_iter().chain(others).collect::<Vec<_>>());
    for from in ["archive", "ledger"] {
        let ask = |filter: &[&str]| {
            let mut found = found(home.path(), from, filter);
            found.sort();
            found.concat()
        };
        let ten = "2026-04-20T10:00:00Z";
        assert_eq!(ask(&["--since", ten]), "bcdefi", "{from}");
        assert_eq!(ask(&["--until", ten]), "acdfgh", "{from}");
        assert_eq!(ask(&["--since", ten, "--until", ten]), "cdf", "{from}");
        assert_eq!(ask(&["--since", ten, "--source", "x"]), "bcdefi", "{from}");
        assert_eq!(ask(&["--since", "2026-04-20T12:00:00.001+02:00"]), "bi", "{from}");
        assert_eq!(ask(&["--tz", "UTC", "--until", "2026-04-19"]), "", "{from}");
        for kind in ["tool-result-events", "compactions"] {
            let (code, out, stderr) =
                burn(home.path(), &["query", kind, "--from", from, "--jsonl", "--since", ten]);
            assert_eq!(code, 0, "{stderr}");
            assert!(out.lines().count() == 1 && out.contains("-02:00"), "{kind} of {from}: {out}");
        }
    }
}

#[test]
fn no_text_has_what_a_terminal_obeys() {
    let hostile = "\u{1b}[31m\u{9b}2J\u{7f}\u{202e}";
    let home = tempfile::tempdir().unwrap();
    let named = home.path().join(format!("x{hostile}"));
    fs::create_dir(&named).unwrap();
    let kind = format!("{{\"v\":1,\"kind\":{},\"record\":{{}}}}\n", json!(hostile));
    let odd = json!({"v": 1, "kind": "compaction", "record": {"source": hostile, "sessionId": hostile, "ts": hostile}});
    fs::write(named.join("ledger.jsonl"), format!("{kind}{odd}\nno {hostile} json\n")).unwrap();
    for words in [
        &["ledger", "check"][..],
        &["query", "compactions"],
        &["query", "turns"],
        &["state"],
        &["state", "rebuild", "index"],
        &["state", "rebuild", "archive"],
        &["state", "rebuild", "archive", "--full", "--ledger", "nope", "--archive", hostile],
        &["state", "reset"],
        &["state", "prune"],
        &["session", "show", hostile],
        &["journal", "read", hostile],
        &["book", "check", hostile],
    ] {
        let (_, stdout, stderr) = burn(&named, words);
        let text = stdout + &stderr;
        assert!(!text.is_empty(), "{words:?}");
        let is_bad = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || c == '\u{202e}';
        assert!(!text.contains(is_bad), "{words:?}: {text:?}");
    }
}

#[test]
fn a_relationship_is_found_from_either_end_and_what_has_no_time_at_any_time() {
    let lines = [
        r#"{"v":1,"kind":"relationship","record":{"source":"x","sessionId":"a","relatedSessionId":"b","relationshipType":"fork"}}"#,
        r#"{"v":1,"kind":"relationship","record":{"source":"x","sessionId":"c","relationshipType":"root","ts":"2026-04-21T00:00:00.000Z"}}"#,
        r#"{"v":1,"kind":"tool_result_event","record":{"source":"x","sessionId":"a","toolUseId":"u","eventIndex":0,"status":"ok","eventSource":"e"}}"#,
        r#"{"v":1,"kind":"compaction","record":{"source":"x","sessionId":"a","ts":"2026-04-21T00:00:00.000Z","tokensBeforeCompact":7}}"#,
    ];
    let home = home(&lines.map(str::to_owned));
    let count = |args: &[&str]| {
        let (code, stdout, stderr) = burn(home.path(), &[&["query"], args, &["--jsonl"]].concat());
        assert_eq!(code, 0, "{stderr}");
        stdout.lines().count()
    };
    assert_eq!(count(&["relationships", "--session", "b"]), 1);
    assert_eq!(count(&["relationships", "--since", "2026-04-22"]), 1);
    assert_eq!(count(&["tool-result-events", "--since", "2026-04-22"]), 1);
    assert_eq!(count(&["tool-result-events", "--since", "2026-04-22", "--from", "archive"]), 1);
    assert_eq!(count(&["compactions", "--from", "archive", "--until", "2026-04-19"]), 0);
    let (_, text, _) = burn(home.path(), &["query", "compactions", "--from", "archive", "--jsonl"]);
    assert_eq!(
        text,
        "{\"v\":1,\"source\":\"x\",\"sessionId\":\"a\",\"ts\":\"2026-04-21T00:00:00.000Z\",\"tokensBeforeCompact\":7}\n"
    );
    assert_eq!(burn(home.path(), &["query", "relationships", "--from", "archive"]).0, 2);
    let (code, _, stderr) = burn(home.path(), &["query", "compactions", "--enrichment", "k=v"]);
    assert!(code == 0 && stderr.contains("no effect"), "{stderr}");
    for kind in ["compactions", "relationships", "tool-result-events", "user-turns"] {
        let (code, _, stderr) = burn(home.path(), &["query", kind, "--project", "p"]);
        assert!(code == 2 && stderr.contains("only turns have a project"), "{kind}: {stderr}");
    }
}

#[test]
fn an_archive_that_is_missing_or_behind_says_how_to_build_it_and_stays_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("ledger.jsonl"), turn("s", "a", "t", "") + "\n").unwrap();
    let (code, _, stderr) = burn(home.path(), &["query", "turns"]);
    assert!(code == 1 && stderr.contains("burn state rebuild archive"), "{stderr}");
    assert!(!home.path().join("archive.sqlite").exists());

    assert_eq!(burn(home.path(), &["state", "rebuild", "archive"]).0, 0);
    assert_eq!(burn(home.path(), &["query", "turns"]).2, "");
    let ledger = fs::read_to_string(home.path().join("ledger.jsonl")).unwrap();
    fs::write(home.path().join("ledger.jsonl"), ledger + &turn("s", "b", "t", "") + "\n").unwrap();
    let (code, stdout, stderr) = burn(home.path(), &["query", "turns", "--jsonl"]);
    assert_eq!((code, stdout.lines().count()), (0, 1));
    assert!(stderr.contains("lacks the last"), "{stderr}");
    assert_eq!(found(home.path(), "ledger", &[]), ["a", "b"]);
}

#[test]
fn tables_have_a_line_a_record_and_no_control_characters() {
    let home = home(&[turn("s\\u001b[31m", "a", "t1", ""), turn("s", "b", "t2", r#","project":"/p""#)]);
    let (_, table, _) = burn(home.path(), &["query", "turns"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(!table.contains('\u{1b}') && table.contains("t1") && table.contains("/p"), "{table}");
}

#[test]
fn the_newest_come_first_and_no_more_than_asked_for() {
    let lines: Vec<String> = (0..50)
        .map(|at| turn("s", &format!("m{at}"), &format!("2026-04-20T00:00:{:02}.000Z", at / 3), ""))
        .collect();
    let home = home(&lines);
    let all = found(home.path(), "archive", &[]);
    let reversed: Vec<String> = all.iter().rev().cloned().collect();
    assert_eq!(found(home.path(), "archive", &["--reverse"]), reversed);
    let calls = [turn("t", "n", "2026-04-21T00:00:00.000Z", "").replace(
        r#""toolCalls":[]"#,
        r#""toolCalls":[{"id":"1","name":"a","argsHash":"x"},{"id":"2","name":"b","argsHash":"y"}]"#,
    )];
    let called = self::home(&calls);
    for (order, wanted) in [(&[][..], ["a", "b"]), (&["--reverse"], ["b", "a"])] {
        let (_, stdout, _) = burn(called.path(), &[&["query", "tool-calls", "--json"], order].concat());
        let found: Vec<Value> = serde_json::from_str(&stdout).unwrap();
        assert_eq!(found.iter().map(|call| call["name"].as_str().unwrap()).collect::<Vec<_>>(), wanted);
    }
    for from in ["archive", "ledger"] {
        assert_eq!(found(home.path(), from, &["--limit", "7"]), all[..7], "{from}");
        for limit in ["1", "7", "50", "999"] {
            let wanted = &reversed[..limit.parse::<usize>().unwrap().min(50)];
            assert_eq!(found(home.path(), from, &["--reverse", "--limit", limit]), wanted, "{from} {limit}");
        }
    }
    for wrong in [&["--limit", "0"][..], &["--from", "ledger", "--reverse"], &["--columns", "usage..input"]] {
        let (code, _, stderr) = burn(home.path(), &[&["query", "turns"], wrong].concat());
        assert_eq!(code, 2, "{wrong:?}: {stderr}");
    }
}

#[test]
fn a_table_has_the_columns_that_are_asked_for() {
    let home = home(&[turn("s", "m", "2026-04-20T00:00:00.000Z", r#","project":"p""#)]);
    let columns = ["query", "turns", "--columns", "messageId, output,usage.reasoning,cache w,nothing.here"];
    let (code, stdout, stderr) = burn(home.path(), &columns);
    assert_eq!((code, &*stderr), (0, ""));
    let lines: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        lines,
        [
            vec!["messageId", "output", "usage.reasoning", "cache", "w", "nothing.here"],
            vec!["m", "2", "0", "0"]
        ]
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lines: Vec<String> = (0..20_000).map(|n| turn("s", &format!("m{n}"), "t", "")).collect();
    let home = home(&lines);
    for from in ["ledger", "archive"] {
        let mut child = processes::burn(home.path())
            .args(["query", "turns", "--jsonl", "--from", from])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut [0; 100]).unwrap();
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }
}

/// The peak of a query's anonymous memory, in bytes, and what it wrote.
#[cfg(target_os = "linux")]
fn peak_of_query(home: &Path) -> (u64, Vec<u8>) {
    let mut query = processes::burn(home);
    query.args(["query", "turns", "--jsonl", "--from", "ledger"]);
    let (peak_kib, output) = processes::peak_anonymous(query, |_| ());
    assert!(output.status.success(), "{output:?}");
    (peak_kib << 10, output.stdout)
}

/// `QUERY_LEDGER_SIZE` (default 48MB) sizes both ledgers.
#[test]
#[cfg(target_os = "linux")]
fn memory_follows_the_stamps_and_not_the_ledger() {
    let size = std::env::var("QUERY_LEDGER_SIZE").unwrap_or("48MB".to_owned());
    for profile in ["mixed", "stamps"] {
        let home = tempfile::tempdir().unwrap();
        let ledger = home.path().join("ledger.jsonl");
        let args =
            ["dev", "generate-ledger", ledger.to_str().unwrap(), "--size", &size, "--profile", profile];
        assert_eq!(burn(home.path(), &args).0, 0);
        let bytes = fs::read(&ledger).unwrap();
        let stamps = bytes
            .split(|byte| *byte == b'\n')
            .filter(|l| l.starts_with(b"{\"v\":1,\"kind\":\"stamp\""))
            .count();
        let allowed = (16 << 20) + 300 * stamps as u64;
        let (peak, _) = peak_of_query(home.path());
        println!("{profile}: {peak} bytes at most, {stamps} stamps, {allowed} allowed");
        assert!(peak > 0 && peak < allowed, "{profile}: {peak} bytes, {stamps} stamps");
    }
}

/// A stamp is in the enrichment of every turn of its session: 2,000 of 100 kB are 200 MB of output.
#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_follow_the_enrichment_of_a_chunk() {
    let home = tempfile::tempdir().unwrap();
    let stamp = json!({
        "v": 1, "kind": "stamp", "ts": "2026-04-20T00:00:00.000Z",
        "selector": { "sessionId": "s" }, "enrichment": { "note": "n".repeat(100_000) },
    });
    let turns = (0..2000).map(|n| turn("s", &format!("m{n}"), "2026-04-20T00:00:00.000Z", ""));
    let lines: Vec<String> = std::iter::once(stamp.to_string()).chain(turns).collect();
    fs::write(home.path().join("ledger.jsonl"), lines.join("\n") + "\n").unwrap();
    let (peak, records) = peak_of_query(home.path());
    println!("{peak} bytes at most");
    assert!(peak > 0 && peak < 24 << 20, "{peak} bytes");
    let records: Vec<&[u8]> = records.trim_ascii_end().split(|byte| *byte == b'\n').collect();
    assert_eq!(records.len(), 2000);
    for (n, record) in records.into_iter().enumerate() {
        let start = String::from_utf8_lossy(&record[..80]);
        assert!(start.contains(&format!("\"messageId\":\"m{n}\"")), "{n}: {start}");
        assert!(record.ends_with(b"nnn\"}}"), "{n}");
    }
}

#[test]
fn entry_ids_of_a_session_store_reach_no_terminal_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    let session = |args: &[&str], input: &str| {
        let mut burn = processes::burn(home.path());
        burn.arg("session").args(args).current_dir(home.path());
        burn.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = everything::finish(burn.spawn().unwrap(), input);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(output.status.success(), "{args:?}: {said}");
        said
    };
    let entry = r#"{"entryId":"a\u001b[31m\n\u202eb","entryType":"message","payload":{}}"#;
    let appended = session(&["append", "s"], entry);
    let said = [
        session(&["checkpoint", "s"], ""),
        session(&["checkpoint", "s", "--list"], ""),
        session(&["show", "s"], ""),
        session(&["path", "s"], ""),
        session(&["check", "s"], ""),
        session(&["reindex", "s"], ""),
        session(&["rollback", "s", "1"], ""),
    ];
    assert_eq!(appended, "1\ta\u{fffd}[31m\u{fffd}\u{fffd}b\n");
    for said in said {
        assert!(!said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
    }
}
