//! `burn statusline`: its costs are those of `burn usage`, and it never fails or waits.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant as Clock};

use relayburn_ledger::archive::{Options, Paths, Unobserved, build_tail};
use relayburn_ledger::home::Home;
use relayburn_ledger::interrupt::Interrupt;
use relayburn_ledger::usage::{self, Filters, Instant, Pattern, Prices, Question};
use serde_json::{Value, json};

use super::common::{self, Random};
use super::{NOW, home_with, turn};

fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command
        .arg("statusline")
        .args(args)
        .current_dir("/")
        .env("RELAYBURN_HOME", home)
        .env("BURN_NOW", NOW)
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        // A debug build on a busy machine takes longer than the limit of the command.
        .env("BURN_DEADLINE_MS", "60000");
    command
}

fn statusline(home: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = command(home, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// The line. Panics unless the command succeeds without a message.
#[track_caller]
fn line(home: &Path, args: &[&str], input: &[u8]) -> String {
    let output = statusline(home, args, input);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{text}");
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    text.strip_suffix('\n').unwrap().to_owned()
}

/// The input that Claude Code gives to its status line.
fn input() -> Value {
    json!({
        "hook_event_name": "Status", "session_id": "s-1", "transcript_path": "/home/ada/t.jsonl", "cwd": "/home/ada/work/kettle/src",
        "version": "2.1.90", "model": {"id": "claude-opus-4-7", "display_name": "Opus 4.7"},
        "workspace": {"current_dir": "/home/ada/work/kettle/src", "project_dir": "/home/ada/work/kettle"},
        "cost": {"total_cost_usd": 3.4159, "total_duration_ms": 45000, "total_lines_added": 156},
        "context_window": {"used_percentage": 41.4, "context_window_size": 200000},
        "rate_limits": {
            "five_hour": {"used_percentage": 23, "resets_at": 1795980600},
            "seven_day": {"used_percentage": 80.5, "resets_at": "2026-12-02T20:00:00Z"},
            "spend_limit": {"used_percentage": 7}
        }
    })
}

/// The path of every member of a document.
fn paths(value: &Value, before: &[String], found: &mut Vec<Vec<String>>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = [before, std::slice::from_ref(key)].concat();
        paths(value, &path, found);
        found.push(path);
    }
}

#[test]
fn a_line_has_the_parts_that_are_known() {
    let home = home_with(&[
        turn("m1", "2026-11-29T08:00:00Z", json!({"sessionId": "s-1"})),
        turn("m2", "2026-11-28T08:00:00Z", json!({"sessionId": "s-1"})),
        turn("m3", "2026-11-29T08:00:00Z", json!({"sessionId": "s-2", "model": "claude-haiku-4-5"})),
        turn(
            "m4",
            "2026-11-02T08:00:00Z",
            json!({"sessionId": "s-2", "fidelity": {"class": "partial", "granularity": "per-turn", "coverage": {}}}),
        ),
    ]);
    let text = serde_json::to_vec(&input()).unwrap();
    let whole = "$0.03 session · $0.02 today · ctx 41 % · 5h 23 % (2h10m) · 7d 80 % (3d2h) · spend 7 %";
    // Without an archive, and with one.
    assert_eq!(line(home.path(), &[], &text), whole);
    super::burn(home.path(), &["usage"]);
    assert_eq!(line(home.path(), &[], &text), whole);
    assert_eq!(
        line(home.path(), &["--show", "month,model,project,5h"], &text),
        "≥ $0.05 month · Opus 4.7 · kettle · 5h 23 % (2h10m)"
    );
    assert_eq!(
        line(home.path(), &["--format", "[{model}] {session}; {nothing}"], &text),
        "[Opus 4.7] $0.03 session; {nothing}"
    );
    assert_eq!(
        line(home.path(), &["--show", "ctx,7d", "--color"], &text),
        "ctx 41 % · \u{1b}[33m7d 80 % (3d2h)\u{1b}[0m"
    );
    assert_eq!(
        line(home.path(), &["--show", "ctx", "--color", "--limit-warn", "41"], &text),
        "\u{1b}[33mctx 41 %\u{1b}[0m"
    );
    // A session that is not in the ledger yet.
    let mut other = input();
    other["session_id"] = json!("s-9");
    assert_eq!(
        line(home.path(), &["--show", "session"], &serde_json::to_vec(&other).unwrap()),
        "~$3.42 session"
    );
    // Nothing has no sign.
    other["cost"]["total_cost_usd"] = json!(-0.0);
    other["context_window"]["used_percentage"] = json!(-0.0);
    assert_eq!(
        line(home.path(), &["--show", "session,ctx"], &serde_json::to_vec(&other).unwrap()),
        "~$0.00 session · ctx 0 %"
    );
    for words in [&["--show", "weather"][..], &["--tz", "Mars/Olympus"]] {
        assert_eq!(statusline(home.path(), words, &text).status.code(), Some(2));
    }
}

#[test]
fn no_input_is_in_the_way() {
    let home = home_with(&[turn("m1", "2026-11-29T08:00:00Z", json!({}))]);
    super::burn(home.path(), &["usage"]);
    let mut found = Vec::new();
    paths(&input(), &[], &mut found);
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    let strange = [
        Value::Null,
        json!(-1e300),
        json!("\u{1b}[31m\u{202e}\n*"),
        json!([[]]),
        json!({"used_percentage": {}}),
        json!(true),
    ];
    for path in &found {
        let (last, parents) = path.split_last().unwrap();
        let with = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut input = input();
            let parent = parents.iter().fold(&mut input, |value, key| &mut value[key]);
            change(parent.as_object_mut().unwrap());
            serde_json::to_vec(&input).unwrap()
        };
        inputs.push(with(&|object| drop(object.remove(last))));
        inputs.extend(
            strange.iter().map(|value| with(&|object| drop(object.insert(last.clone(), value.clone())))),
        );
    }
    let whole = serde_json::to_vec(&input()).unwrap();
    inputs.extend((0..whole.len()).step_by(40).map(|end| whole[..end].to_vec()));
    inputs.extend([
        b"\xff\xfe".to_vec(),
        b"[]".to_vec(),
        "[".repeat(100_000).into_bytes(),
        vec![b' '; 10 << 20],
    ]);
    println!("{} inputs", inputs.len());
    assert!(inputs.len() > 170);
    let show = ["--show", "session,today,month,ctx,5h,7d,spend,model,project"];
    common::in_parallel(&inputs, |input| {
        let line = line(home.path(), &show, input);
        assert!(!line.contains(['\u{1b}', '\u{202e}', '\r']), "{line:?}");
    });
}

#[test]
fn no_home_is_in_the_way_and_none_is_changed() {
    let text = serde_json::to_vec(&input()).unwrap();
    let limits = "~$3.42 session · ctx 41 % · 5h 23 % (2h10m) · 7d 80 % (3d2h) · spend 7 %";
    let nowhere = tempfile::tempdir().unwrap();
    let home = nowhere.path().join("none");
    assert_eq!(line(&home, &[], &text), limits);
    assert!(!home.exists());
    let home = home_with(&[turn("m1", "2026-11-29T08:00:00Z", json!({}))]);
    super::burn(home.path(), &["usage"]);
    let seen = || {
        let names = common::names(home.path());
        names
            .into_iter()
            .map(|name| {
                let metadata = fs::metadata(home.path().join(&name)).unwrap();
                (name, metadata.modified().unwrap(), metadata.len())
            })
            .collect::<Vec<_>>()
    };
    let before = seen();
    assert_eq!(line(home.path(), &["--show", "session,today"], &text), "$0.01 session · $0.01 today");
    assert_eq!(seen(), before);
    // Another process has the archive open and holds the lock.
    let writer = rusqlite::Connection::open(home.path().join("archive.sqlite")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE; UPDATE turns SET turn_index = 9").unwrap();
    fs::write(home.path().join("archive.lock"), "x").unwrap();
    assert_eq!(line(home.path(), &["--show", "session,today"], &text), "$0.01 session · $0.01 today");
    drop(writer);
    // If the ledger has more than can be read in time, the rest is left out, and the line shows it.
    let filler = format!("{}\n", "x".repeat(5 << 20));
    let mut ledger = fs::OpenOptions::new().append(true).open(home.path().join("ledger.jsonl")).unwrap();
    ledger.write_all(filler.as_bytes()).unwrap();
    assert_eq!(line(home.path(), &["--show", "today"], &text), "$0.01+ today");
    for damage in ["", "no database", &"SQLite format 3\0".repeat(1000)] {
        fs::write(home.path().join("archive.sqlite"), damage).unwrap();
        assert_eq!(line(home.path(), &["--show", "session,ctx"], &text), "~$3.42 session · ctx 41 %");
    }
    fs::write(home.path().join("prices.json"), "{").unwrap();
    assert_eq!(line(home.path(), &["--show", "ctx"], &text), "ctx 41 %");
}

#[test]
fn nobody_waits_for_an_input_that_does_not_end() {
    let home = home_with(&[]);
    let start = Clock::now();
    let mut command = command(home.path(), &[]);
    command.env_remove("BURN_DEADLINE_MS");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(0), &b"\n"[..], &b""[..]));
    drop(stdin);
}

#[test]
fn a_check_says_what_is_wrong() {
    let home = home_with(&[turn("m1", "2026-11-29T08:00:00Z", json!({}))]);
    let text = serde_json::to_vec(&input()).unwrap();
    let check = |home: &Path, input: &[u8]| {
        let output = statusline(home, &["--check"], input);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(check(home.path(), &text), (Some(0), "nothing is wrong\n".to_owned()));
    let (code, said) = check(home.path(), b"{");
    assert!(code == Some(1) && said.contains("it is no JSON"), "{said}");
    let (code, said) = check(home.path(), b"{}");
    assert!(code == Some(1) && said.contains("no session_id"), "{said}");
    fs::write(home.path().join("archive.sqlite"), "no database").unwrap();
    let (code, said) = check(home.path(), &text);
    assert!(code == Some(1) && said.contains("archive.sqlite"), "{said}");
    let (code, said) = check(&home.path().join("none"), &text);
    assert!(code == Some(1) && said.contains("burn ingest"), "{said}");
}

#[test]
fn costs_are_those_of_usage() {
    let mut random = Random::new(78);
    let interrupt = Interrupt::new();
    for _ in 0..10 * common::scale() {
        let models = ["claude-opus-4-7", "gpt-5.5", "my-gateway", "<synthetic>"];
        let times = [
            "2026-11-29T00:00:00Z",
            "2026-11-28T23:59:59.999Z",
            "2026-11-29 10:00",
            "2026-11-30T01:00:00+02:00",
            "soon",
            "2026-11-01T10:00:00Z",
        ];
        let lines: Vec<String> = (0..200)
            .map(|_| {
                let more = json!({
                    "source": (["claude-code", "codex"][random.below(2) as usize]), "sessionId": (format!("s-{}", random.below(4))),
                    "model": (models[random.below(4) as usize]),
                    "usage": {"input": (random.below(1000)), "output": (random.below(90)), "reasoning": 0, "cacheRead": 7, "cacheCreate5m": 0, "cacheCreate1h": 1}
                });
                let line = turn(&format!("m{}", random.below(60)), times[random.below(6) as usize], more);
                if random.below(20) == 0 { "no line\n".to_owned() } else { format!("{line}\n") }
            })
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        let paths = Paths::of_home(&home);
        let prices = Prices::of_home(&home).unwrap();
        let since = |text: &str| Question { since: Instant::of_turn(text), ..Question::default() };
        let session = |id: &str| Question {
            filters: Filters { session: vec![Pattern::new(id)], ..Filters::default() },
            ..Question::default()
        };
        let questions = [
            since("2026-11-29T00:00:00Z"),
            session("s-1"),
            since("2026-11-01T00:00:00Z"),
            session("s-9"),
            Question::default(),
        ];
        let read = random.below(200) as usize;
        fs::write(home.ledger(), lines[..read].concat()).unwrap();
        if random.below(4) > 0 {
            build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
        }
        // The last line is not complete yet.
        fs::write(home.ledger(), format!("{}{}", lines.concat(), &lines[0][..lines[0].len() / 2])).unwrap();
        let glance = usage::glance(&paths, &questions, &prices, &interrupt).unwrap();
        assert!(!glance.is_behind);
        build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
        for (question, sums) in questions.iter().zip(&glance.sums) {
            assert_eq!(
                usage::ask(&paths, question, &prices, &interrupt).unwrap().total,
                *sums,
                "{question:?}"
            );
        }
        assert_eq!(usage::glance(&paths, &questions, &prices, &interrupt).unwrap(), glance);
    }
}
