//! Nothing is left out in silence, and a report never destroys a file: reports, copies of logs, values that are no counts,
//! resets, names that are not UTF-8, and named pipes where files belong.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common;
use crate::ingest::{User, age, put_at_rest, put_pipe};

const SESSION: &str = "a0000000-0000-4000-8000-000000000001";

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A line of Claude Code. `second` tells it from other lines.
fn line(kind: &str, second: u64, message: Value) -> Value {
    json!({
        "type": kind, "message": message, "uuid": format!("00000000-0000-4000-8000-{second:012}"),
        "isSidechain": false, "timestamp": format!("2026-04-20T00:{:02}:{:02}.000Z", second / 60, second % 60),
        "sessionId": SESSION, "cwd": "/work", "version": "2.1.0",
    })
}

fn prompt(second: u64) -> Value {
    line("user", second, json!({"role": "user", "content": format!("question {second}")}))
}

fn answer(second: u64, id: &str, usage: Value) -> Value {
    let message = json!({"id": id, "role": "assistant", "model": "claude-opus-4-7", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": format!("answer {second}")}], "usage": usage});
    line("assistant", second, message)
}

fn text_of(lines: &[Value]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The turns of the ledger, by their ids.
fn turns(user: &User) -> BTreeMap<String, Value> {
    let text = fs::read_to_string(user.path(".relayburn/ledger.jsonl")).unwrap_or_default();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let turns = lines.filter(|line| line["kind"] == "turn").map(|line| line["record"].clone());
    turns.map(|turn| (turn["messageId"].as_str().unwrap().to_owned(), turn)).collect()
}

/// The entries of a report.
fn entries(report: &Path) -> Vec<Value> {
    let text = fs::read_to_string(report).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_report_is_never_written_over_a_file() {
    let user = User::new();
    let log = user.log("s.jsonl");
    put_at_rest(
        &log,
        format!("{}junk\n", text_of(&[prompt(1), answer(2, "m", json!({"output_tokens": 5}))])),
    );
    let notes = user.path("notes.txt");
    fs::write(&notes, "my notes").unwrap();
    fs::set_permissions(&notes, fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::symlink(&notes, user.path("link")).unwrap();
    std::os::unix::fs::symlink(user.path(".relayburn/ledger.jsonl"), user.path("dangling")).unwrap();
    let bytes_of_log = fs::read(&log).unwrap();
    fs::create_dir(user.path(".relayburn")).unwrap();
    for report in [
        notes.clone(),
        log.clone(),
        user.path("link"),
        user.path("dangling"),
        // Names that the home will have.
        user.path(".relayburn/ledger.jsonl"),
        user.path(".relayburn/Cursors.json"),
        user.path(".relayburn/../.relayburn/archive.sqlite-wal"),
        user.path(".relayburn/ledger.lock"),
    ] {
        let output = user.burn(&["ingest", "--report", report.to_str().unwrap()]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}: {output:?}", report.display());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("name another file"), "{error}");
        assert_eq!(common::names(&user.path(".relayburn")), Vec::<String>::new(), "nothing was read");
    }
    assert_eq!(fs::read(&notes).unwrap(), b"my notes");
    assert_eq!(fs::metadata(&notes).unwrap().permissions().mode() & 0o777, 0o644);
    assert!(fs::symlink_metadata(user.path("link")).unwrap().is_symlink());
    assert_eq!(fs::read(&log).unwrap(), bytes_of_log);

    // A pipe gets the lines and stays a pipe.
    let pipe = user.path("pipe");
    put_pipe(&pipe);
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read_to_string(pipe).unwrap()
    });
    user.ingest(&["--check", "--report", pipe.to_str().unwrap()]);
    assert!(reader.join().unwrap().contains(r#""reason":"malformed""#));
    assert!(fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());

    // A second run of the same command does not empty the first report.
    let report = user.path("left-out.jsonl");
    user.ingest(&["--report", report.to_str().unwrap()]);
    assert_eq!(fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(entries(&report).len(), 1);
    let again = user.burn(&["ingest", "--report", report.to_str().unwrap()]).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(entries(&report).len(), 1);
}

#[test]
fn lines_that_cannot_be_named_are_read_again() {
    let user = User::new();
    let good = text_of(&[prompt(1), answer(2, "m", json!({"output_tokens": 5}))]);
    put_at_rest(&user.log("s.jsonl"), format!("{good}junk\n"));
    let missing = user.path("none/report.jsonl");
    let output = user.burn(&["ingest", "--report", missing.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(!user.path(".relayburn").exists(), "nothing was read");
    // A device without room fails at the first line, after the log was read.
    if Path::new("/dev/full").exists() {
        let output = user.burn(&["ingest", "--report", "/dev/full"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("cannot write the report /dev/full"), "{error}");
    }
    let report = user.path("report.jsonl");
    let told = document(&user.ingest(&["--json", "--report", report.to_str().unwrap()]));
    assert_eq!(told["leftOut"], json!({"malformed": 1}));
    let named = entries(&report);
    assert_eq!((&named[0]["offset"], &named[0]["length"]), (&json!(good.len()), &json!(5)));
    assert_eq!(turns(&user).len(), 1);
}

#[test]
fn names_that_are_not_utf8_are_read_once_and_named() {
    let user = User::new();
    for name in [&b"z\xff.jsonl"[..], b"z\xfe.jsonl"] {
        put_at_rest(&user.log("x").with_file_name(OsStr::from_bytes(name)), "junk\n");
    }
    put_at_rest(&user.log("good.jsonl"), text_of(&[prompt(1), answer(2, "m", json!({"output_tokens": 5}))]));
    let report = user.path("report.jsonl");
    let told = document(&user.ingest(&["--json", "--report", report.to_str().unwrap()]));
    assert_eq!(told["leftOut"], json!({"malformed": 2}));
    let named = entries(&report);
    assert_eq!(named.len(), 2);
    assert!(
        named.iter().all(|entry| entry["path"].as_str().unwrap().ends_with("z\u{fffd}.jsonl")),
        "{named:?}"
    );
    let told = document(&user.ingest(&["--json"]));
    assert_eq!(
        (&told["bytesRead"], &told["leftOut"]),
        (&json!(0), &json!({})),
        "each log has its own cursor"
    );

    let home = user.path("x").with_file_name(OsStr::from_bytes(b"home-\xff"));
    fs::create_dir(&home).unwrap();
    for words in [
        &["ingest", "--json"][..],
        &["ingest", "--check"],
        &["state", "--json"],
        &["ledger", "check", "--json"],
        &["state", "rebuild", "all", "--json"],
        &["state", "vacuum", "--json"],
        &["state", "prune", "--days", "1", "--json"],
        &["state", "reset", "--json"],
        &["state", "reset", "--everything", "--force", "--json"],
    ] {
        let output = user.burn(words).env("RELAYBURN_HOME", &home).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        document(&output);
    }
    // A root that cannot be read is named, too.
    let other = user.path("x").with_file_name(OsStr::from_bytes(b"user-\xff"));
    fs::create_dir_all(other.join(".claude")).unwrap();
    fs::write(other.join(".claude/projects"), "no folder").unwrap();
    let output = user.burn(&["ingest", "--check"]).env("HOME", &other).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let unreadable = document(&output)["unreadable"][0]["path"].as_str().unwrap().to_owned();
    assert!(unreadable.contains("user-\u{fffd}"), "{unreadable}");
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
            age(&to, 3600);
        }
    }
}

#[test]
fn what_was_noted_of_another_ledger_does_not_count() {
    let user = User::new();
    copy(&common::fixture("logs/claude"), &user.path(".claude/projects"));
    copy(&common::fixture("logs/codex"), &user.path(".codex"));
    copy(&common::fixture("accounting/gemini-json/home"), &user.path(""));
    user.ingest(&[]);
    let wanted = turns(&user);
    assert!(
        ["codex", "gemini-cli"].iter().all(|source| wanted.values().any(|turn| turn["source"] == *source))
    );
    let home = user.path(".relayburn");
    let by_hand = |names: &[&str]| {
        for name in names {
            fs::remove_file(home.join(name)).unwrap();
        }
    };
    assert!(user.burn(&["state", "reset", "--everything", "--force"]).status().unwrap().success());
    user.ingest(&[]);
    assert_eq!(turns(&user), wanted, "after a reset");
    by_hand(&["ledger.jsonl", "cursors.json", "ledger.idx", "ledger.content.idx"]);
    user.ingest(&[]);
    assert_eq!(turns(&user), wanted, "after files were deleted by hand");
    by_hand(&["ingest.side.json"]);
    user.ingest(&[]);
    assert_eq!(turns(&user), wanted, "without notes");
    assert_eq!(document(&user.ingest(&["--json"]))["bytesRead"], 0);
}

#[test]
fn the_longest_copy_of_a_log_is_read_first() {
    let first = json!({"input_tokens": 1, "output_tokens": 3});
    let (start, rest) = (
        text_of(&[prompt(1), answer(2, "msg_0123456789012345678901", first)]),
        text_of(&[answer(
            3,
            "msg_0123456789012345678901",
            json!({"input_tokens": 1, "output_tokens": 5000}),
        )]),
    );
    let places = [".claude/projects/-w-p/s1.jsonl", ".config/claude/projects/-w-p/s1.jsonl"];
    for (stale, whole) in [(places[0], places[1]), (places[1], places[0])] {
        let user = User::new();
        put_at_rest(&user.path(stale), &start);
        put_at_rest(&user.path(whole), format!("{start}{rest}"));
        let report = user.path("report.jsonl");
        user.ingest(&["--report", report.to_str().unwrap()]);
        assert_eq!(turns(&user)["msg_0123456789012345678901"]["usage"]["output"], 5000, "{stale} is stale");
        // The lines of the stale copy are named.
        let stale = user.path(stale);
        let entries = entries(&report).into_iter();
        let named = entries.filter(|entry| Path::new(entry["path"].as_str().unwrap()) == stale);
        let offsets: Vec<u64> = named.map(|entry| entry["offset"].as_u64().unwrap()).collect();
        assert_eq!(offsets, [0, text_of(&[prompt(1)]).len() as u64]);
    }
    let message = |output: u64| {
        json!({"id": "a1", "timestamp": "2026-05-01T10:00:05.000Z", "type": "gemini", "content": "a",
            "model": "gemini-2.5-pro", "tokens": {"input": 100, "output": output, "total": 100 + output}})
    };
    let user = User::new();
    let chats = user.path(".gemini/tmp/p/chats");
    let head = json!({"sessionId": "g1", "projectHash": "p", "startTime": "2026-05-01T10:00:00.000Z"});
    let mut whole = head.clone();
    whole["messages"] = json!([message(3)]);
    put_at_rest(&chats.join("session-2026-05-01T10-00-g1.json"), whole.to_string());
    let further = json!({"id": "i1", "timestamp": "2026-05-01T10:00:06.000Z", "type": "info", "content": "x".repeat(200)});
    put_at_rest(&chats.join("session-2026-05-01T10-00-g1.jsonl"), text_of(&[head, message(5000), further]));
    user.ingest(&[]);
    assert_eq!(turns(&user)["a1"]["usage"]["output"], 5000);
}

#[test]
fn an_answer_of_opencode_counts_all_of_its_steps() {
    let step = |input: u64, output: u64| json!({"input": input, "output": output, "reasoning": 0, "cache": {"read": 0, "write": 0}});
    // The answer has the tokens of its last step, of none, and of more than its steps.
    for (of_answer, steps, wanted) in [
        (step(30, 3), vec![step(10, 2), step(30, 3)], [40, 5]),
        (step(0, 0), vec![step(10, 2)], [10, 2]),
        (step(100, 9), vec![step(10, 2), step(30, 3)], [100, 9]),
        (step(30, 9), vec![step(10, 2), step(30, 3)], [30, 9]),
    ] {
        let user = User::new();
        let store = user.path(".local/share/opencode/storage");
        let put = |name: &str, value: Value| put_at_rest(&store.join(name), value.to_string().as_bytes());
        put("session/p/ses_1.json", json!({"id": "ses_1"}));
        put(
            "message/ses_1/msg_1.json",
            json!({"id": "msg_1", "sessionID": "ses_1", "role": "assistant", "modelID": "m", "tokens": of_answer,
                "time": {"created": 1_777_629_601_000_u64, "completed": 1_777_629_602_000_u64}}),
        );
        for (number, tokens) in steps.into_iter().enumerate() {
            let part = json!({"id": format!("prt_{number}"), "type": "step-finish", "reason": "stop", "tokens": tokens});
            put(&format!("part/msg_1/prt_{number}.json"), part);
        }
        user.ingest(&[]);
        let line = user.lines().into_iter().find(|line| line.contains(r#""kind":"turn""#)).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        let usage = &line["record"]["usage"];
        assert_eq!(
            [&usage["input"], &usage["output"]],
            wanted.map(|count: u64| json!(count)).each_ref(),
            "{line}"
        );
    }
}

#[test]
fn a_message_of_gemini_that_grows_after_it_was_written_loses_nothing() {
    let message = |output: u64, calls: Value| {
        json!({"id": "a1", "timestamp": "2026-05-01T10:00:05.000Z", "type": "gemini", "content": "a",
            "model": "gemini-2.5-pro", "toolCalls": calls,
            "tokens": {"input": 100, "output": output, "thoughts": 10, "total": 110 + output}})
    };
    let call = json!([{"id": "c1", "name": "read_file", "args": {"file_path": "/a"}, "status": "success",
        "result": [{"functionResponse": {"response": {"output": "found"}}}]}]);
    let head = json!({"sessionId": "g1", "projectHash": "p", "startTime": "2026-05-01T10:00:00.000Z"});
    for extension in ["json", "jsonl"] {
        let user = User::new();
        let path = user.path(".gemini/tmp/p/chats").join(format!("session-2026-05-01T10-00-g1.{extension}"));
        // Another message follows, so that the message is closed.
        let follows =
            json!({"id": "i1", "timestamp": "2026-05-01T10:00:06.000Z", "type": "info", "content": "x"});
        let mut states = vec![message(500, json!([])), follows.clone()];
        for message in [message(500, json!([])), message(1_500, json!([])), message(1_500, call.clone())] {
            states.push(message);
            let text = match extension {
                "json" => {
                    let mut chat = head.clone();
                    chat["messages"] = json!([states.last(), follows]);
                    chat.to_string()
                }
                _ => format!("{head}\n{}", text_of(&states)),
            };
            put_at_rest(&path, text);
            user.ingest(&[]);
            user.ingest(&[]);
        }
        let turns = turns(&user);
        let ids: Vec<&str> = turns.keys().map(String::as_str).collect();
        assert_eq!(ids, ["a1", "a1+1", "a1+2"], "{extension}");
        let sum = |key: &str| turns.values().map(|turn| turn["usage"][key].as_u64().unwrap()).sum::<u64>();
        assert_eq!((sum("input"), sum("output"), sum("reasoning")), (100, 1_500, 10));
        assert_eq!(turns["a1+2"]["toolCalls"][0]["id"], "c1");
        let results =
            user.lines().iter().filter(|line| line.contains(r#""kind":"tool_result_event""#)).count();
        assert_eq!(results, 1);
    }
}

#[test]
fn a_message_of_gemini_grows_on_after_its_notes_are_lost() {
    // The notes are deleted, or as old as those of a run that was killed before it saved its own.
    for loses in ["deleted", "old"] {
        let user = User::new();
        let side = user.path(".relayburn/ingest.side.json");
        for output in [100, 150, 170, 200] {
            let chat = json!({"sessionId": "g1", "projectHash": "p", "startTime": "2026-05-01T10:00:00.000Z",
            "messages": [
                {"id": "u1", "timestamp": "2026-05-01T10:00:04.000Z", "type": "user", "content": "look"},
                {"id": "a1", "timestamp": "2026-05-01T10:00:05.000Z", "type": "gemini", "content": "a",
                    "model": "m", "tokens": {"input": 7, "output": output}},
                {"id": "i1", "timestamp": "2026-05-01T10:00:06.000Z", "type": "info", "content": "x"},
            ]});
            let old = fs::read(&side).ok();
            put_at_rest(&user.path(".gemini/tmp/p/chats/session-g1.json"), chat.to_string());
            user.ingest(&[]);
            match (loses, old) {
                ("old", Some(old)) => fs::write(&side, old).unwrap(),
                ("old", None) => {}
                _ => fs::remove_file(&side).unwrap(),
            }
        }
        user.ingest(&[]);
        let outputs: Vec<u64> =
            turns(&user).values().map(|turn| turn["usage"]["output"].as_u64().unwrap()).collect();
        assert_eq!(outputs, [100, 50, 20, 30], "{loses}");
        let prompts = user.lines().iter().filter(|line| line.contains(r#""kind":"user_turn""#)).count();
        assert_eq!(prompts, 1, "{loses}");
    }
}

#[test]
fn without_a_ledger_all_logs_are_read_from_their_beginning() {
    let user = User::new();
    copy(&common::fixture("logs/claude"), &user.path(".claude/projects"));
    copy(&common::fixture("logs/codex"), &user.path(".codex"));
    user.ingest(&[]);
    let wanted = turns(&user);
    assert!(!wanted.is_empty());
    for is_emptied in [false, true] {
        let home = user.path(".relayburn");
        match is_emptied {
            true => fs::write(home.join("ledger.jsonl"), "").unwrap(),
            false => fs::remove_file(home.join("ledger.jsonl")).unwrap(),
        }
        for name in ["ledger.idx", "ledger.content.idx"] {
            let _ = fs::remove_file(home.join(name));
        }
        let check = user.ingest(&["--check", "--json"]);
        assert!(document(&check)["bytesRead"].as_u64().unwrap() > 0, "emptied: {is_emptied}");
        let said = String::from_utf8(user.ingest(&[]).stderr).unwrap();
        assert!(said.contains("all logs are read from their beginning"), "{said}");
        assert_eq!(turns(&user), wanted, "emptied: {is_emptied}");
        let again = user.ingest(&["--json"]);
        assert_eq!(document(&again)["bytesRead"], 0);
        assert!(!String::from_utf8(again.stderr).unwrap().contains("from their beginning"));
    }
}

#[test]
fn a_value_that_is_no_count_makes_its_turn_invalid() {
    let odd = [json!(-5), json!("12"), json!(true), json!({}), json!(1.5), json!(1e300)];
    let user = User::new();
    for (number, value) in odd.iter().enumerate() {
        let second = 2 * number as u64;
        let usage = json!({"input_tokens": value, "output_tokens": 7});
        let log = text_of(&[prompt(second + 1), answer(second + 2, &format!("claude{number}"), usage)]);
        put_at_rest(&user.log(&format!("s{number}.jsonl")), log.replace(SESSION, &format!("s{number}")));
        let time = format!("2026-04-20T01:00:{number:02}.000Z");
        let message = json!({"id": format!("gemini{number}"), "timestamp": time, "type": "gemini", "content": "a",
            "model": "gemini-2.5-pro", "tokens": {"input": value, "cached": 3, "output": 7}});
        let chat = json!({"sessionId": format!("g{number}"), "startTime": time, "messages": [message]});
        let path = user.path(".gemini/tmp/p/chats").join(format!("session-{number}.json"));
        put_at_rest(&path, chat.to_string());
        let store = user.path(".local/share/opencode/storage");
        let session = format!("ses_{number}");
        put_at_rest(
            &store.join(format!("session/global/{session}.json")),
            json!({"id": session}).to_string(),
        );
        let message = json!({"id": format!("opencode{number}"), "role": "assistant", "sessionID": session,
            "time": {"created": 1_776_000_000_000_u64 + number as u64, "completed": 1_776_000_009_000_u64},
            "modelID": "m", "providerID": "p", "tokens": {"input": value, "output": 7, "reasoning": 0,
            "cache": {"read": 0, "write": 0}}});
        put_at_rest(&store.join(format!("message/{session}/msg_1.json")), message.to_string());
        age(&store.join(format!("message/{session}")), 3600);
    }
    let report = user.path("report.jsonl");
    let told = document(&user.ingest(&["--json", "--report", report.to_str().unwrap()]));
    let wanted = 3 * odd.len();
    assert_eq!(told["appended"]["turns"], wanted);
    assert_eq!(told["leftOut"]["invalidCount"], wanted, "{told}");
    let named = entries(&report).into_iter().filter(|entry| entry["reason"] == "invalidCount");
    let details: Vec<String> = named.map(|entry| entry["detail"].as_str().unwrap().to_owned()).collect();
    assert!(details.iter().all(|detail| detail.ends_with("has no count of input")), "{details:?}");
    let usage = document(&user.burn(&["usage", "--since", "2026-01-01", "--json"]).output().unwrap());
    assert_eq!(usage["invalidTurns"], wanted, "{usage}");
    assert_eq!(usage["total"]["output"], 7 * wanted);
    assert_eq!(usage["total"]["input"], 0);
}

#[test]
fn usage_that_is_no_object_is_no_usage() {
    let user = User::new();
    let usages = [json!(null), json!([]), json!("x")].into_iter().enumerate();
    let lines: Vec<Value> = usages.map(|(at, usage)| answer(at as u64, &format!("m{at}"), usage)).collect();
    put_at_rest(&user.log("s.jsonl"), text_of(&lines));
    let told = document(&user.ingest(&["--json"]));
    assert_eq!(told["leftOut"], json!({"noUsage": 3}));
}

#[test]
fn each_line_of_a_repeated_log_is_named() {
    let mut lines = Vec::new();
    for number in 0..3 {
        let second = 10 * number;
        lines.push(prompt(second));
        lines.push(answer(second + 1, &format!("m{number}"), json!({"output_tokens": 5})));
        let result =
            json!([{"type": "tool_result", "tool_use_id": format!("t{number}"), "content": "found"}]);
        lines.push(line("user", second + 2, json!({"role": "user", "content": result})));
        let mut compaction = line("system", second + 3, Value::Null);
        compaction["subtype"] = json!("compact_boundary");
        lines.push(compaction);
    }
    let text = text_of(&lines);
    // In one log, in a copy under another name, and in a further run.
    let user = User::new();
    put_at_rest(&user.log("s.jsonl"), format!("{text}{text}"));
    let report = |name: &str| user.path(name);
    let told = document(&user.ingest(&["--json", "--report", report("one").to_str().unwrap()]));
    assert_eq!(told["leftOut"], json!({"duplicate": 12}), "{told}");
    let offsets: Vec<u64> =
        entries(&report("one")).iter().map(|entry| entry["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets.len(), 12);
    assert!(offsets.iter().all(|offset| *offset >= text.len() as u64), "{offsets:?}");
    put_at_rest(&user.log("copy.jsonl"), &text);
    let told = document(&user.ingest(&["--json", "--report", report("two").to_str().unwrap()]));
    assert_eq!(told["leftOut"], json!({"duplicate": 12}), "{told}");
    let mut starts: Vec<u64> =
        entries(&report("two")).iter().map(|entry| entry["offset"].as_u64().unwrap()).collect();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), 12);
    assert_eq!(told["appended"]["turns"], 0);
}

#[test]
fn a_line_of_a_long_log_is_counted_once() {
    let user = User::new();
    let long = "x".repeat(1 << 20);
    let mut text = String::new();
    for second in 0..6 {
        let mut line = answer(second, &format!("m{second}"), json!({"output_tokens": 5}));
        line["message"]["content"] = json!([{"type": "text", "text": long}]);
        text += &format!("{line}\n");
        if second % 2 == 0 {
            text += "junk\n";
        }
    }
    put_at_rest(&user.log("s.jsonl"), &text);
    assert!(text.len() > 6 << 20);
    let report = user.path("report.jsonl");
    let told = document(&user.ingest(&["--json", "--report", report.to_str().unwrap()]));
    assert_eq!((&told["leftOut"], &told["openMessages"]), (&json!({"malformed": 3}), &json!(0)), "{told}");
    assert_eq!(told["agents"][0]["lines"], 9);
    assert_eq!(told["bytesRead"], text.len());
    assert_eq!(entries(&report).len(), 3);
}

#[test]
fn a_broken_chat_of_gemini_is_counted_once_and_named() {
    let user = User::new();
    let chats = user.path(".gemini/tmp/p/chats");
    put_at_rest(&chats.join("session-a.json"), "{\"sessionId\":");
    put_at_rest(
        &chats.join("session-b.jsonl"),
        "[1]\n{\"x\":1}\n{\"id\":\"a\",\"type\":\"user\"}\n{\"type\"",
    );
    let report = user.path("report.jsonl");
    let told = document(&user.ingest(&["--json", "--report", report.to_str().unwrap()]));
    let wanted = json!({"malformed": 1, "notARecord": 2, "torn": 1, "unknownType": 1});
    assert_eq!(told["leftOut"], wanted);
    assert_eq!(entries(&report).len(), 5);
    for entry in entries(&report) {
        assert_ne!(entry["detail"], "", "{entry}");
    }
}

#[test]
fn open_messages_are_named() {
    let user = User::new();
    let chat = json!({"sessionId": "g", "messages": [{"id": "a1", "timestamp": "2026-05-01T10:00:05.000Z",
        "type": "gemini", "model": "m", "tokens": {"input": 1, "output": 1}}]});
    let path = user.path(".gemini/tmp/p/chats/session-a.json");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, chat.to_string()).unwrap();
    let rollout = user.path(
        ".codex/sessions/2026/05/01/rollout-2026-05-01T10-00-00-01970000-0000-7000-8000-00000000000a.jsonl",
    );
    fs::create_dir_all(rollout.parent().unwrap()).unwrap();
    let lines = [
        json!({"timestamp": "2026-05-01T10:00:00.000Z", "type": "session_meta",
            "payload": {"id": "01970000-0000-7000-8000-00000000000a", "cwd": "/w"}}),
        json!({"timestamp": "2026-05-01T10:00:01.000Z", "type": "event_msg",
            "payload": {"type": "task_started", "turn_id": "01970000-0000-7000-8000-0000000000b1"}}),
    ];
    fs::write(&rollout, text_of(&lines)).unwrap();
    let report = user.path("report.jsonl");
    let told = document(&user.ingest(&["--json", "--report", report.to_str().unwrap()]));
    assert_eq!((&told["openMessages"], &told["leftOut"]["openMessage"]), (&json!(2), &json!(2)), "{told}");
    let open = |path: &PathBuf| {
        let entries = entries(&report).into_iter();
        let of = entries.filter(|entry| entry["reason"] == "openMessage");
        of.filter(|entry| Path::new(entry["path"].as_str().unwrap()) == path).collect::<Vec<_>>()
    };
    let length = text_of(&lines[1..]).len();
    assert_eq!(open(&rollout)[0]["length"], length);
    assert!(open(&path)[0]["detail"].as_str().unwrap().contains("a1"));

    // The message of several lines is named by its first line.
    let first = answer(2, "m", json!({"output_tokens": 5}));
    fs::write(
        user.log("s.jsonl"),
        text_of(&[prompt(1), first.clone(), answer(3, "m", json!({"output_tokens": 6}))]),
    )
    .unwrap();
    fs::remove_file(&report).unwrap();
    user.ingest(&["--report", report.to_str().unwrap()]);
    let named = &open(&user.log("s.jsonl"))[0];
    let place = (text_of(&[prompt(1)]).len(), text_of(&[first]).len());
    let length = named["length"].as_u64().unwrap() as usize;
    assert_eq!(named["offset"], place.0);
    assert!(length == place.1 || length + 1 == place.1, "{named}");
}

#[test]
fn content_of_a_session_that_names_no_file_is_named() {
    let user = User::new();
    let mut lines = [prompt(1), answer(2, "m", json!({"output_tokens": 5}))];
    lines.iter_mut().for_each(|line| line["sessionId"] = json!("../x"));
    put_at_rest(&user.log("s.jsonl"), text_of(&lines));
    let report = user.path("report.jsonl");
    let told = document(&user.ingest(&["--json", "--report", report.to_str().unwrap()]));
    assert_eq!(told["leftOut"], json!({"refused": 2}), "{told}");
    let offsets: Vec<u64> = entries(&report).iter().map(|entry| entry["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [0, text_of(&lines[..1]).len() as u64]);
    assert_eq!(turns(&user).len(), 1);
}

#[test]
fn a_pipe_in_the_place_of_a_file_stops_nothing() {
    let user = User::new();
    put_pipe(&user.path(".relayburn/config.json"));
    put_pipe(&user.path("project/.git/config"));
    put_pipe(&user.path(".gemini/tmp/p/.project_root"));
    put_pipe(&user.path(".gemini/projects.json"));
    let mut lines = [prompt(1), answer(2, "m", json!({"output_tokens": 5}))];
    lines.iter_mut().for_each(|line| line["cwd"] = json!(user.path("project")));
    put_at_rest(&user.log("s.jsonl"), text_of(&lines));
    let chat = json!({"sessionId": "g", "messages": [{"id": "a1", "timestamp": "2026-05-01T10:00:05.000Z",
        "type": "gemini", "model": "m", "tokens": {"input": 1, "output": 1}}]});
    put_at_rest(&user.path(".gemini/tmp/p/chats/session-a.json"), chat.to_string());
    let started = Instant::now();
    let mut child = user
        .burn(&["ingest"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("burn waits for a pipe");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(error.contains("config.json") && error.contains("a named pipe"), "{error}");
    assert_eq!(turns(&user).len(), 2);
}

#[test]
fn a_misspelt_content_setting_is_told() {
    let user = User::new();
    put_at_rest(&user.log("s.jsonl"), text_of(&[prompt(1), answer(2, "m", json!({"output_tokens": 5}))]));
    let output = user.burn(&["ingest"]).env("RELAYBURN_CONTENT_STORE", "nope").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains(r#"RELAYBURN_CONTENT_STORE is "nope""#) && error.contains("as with full"),
        "{error}"
    );
    assert!(user.path(".relayburn/content").exists());
    for word in ["Off", "hash-only", "FULL"] {
        let output = user.burn(&["ingest"]).env("RELAYBURN_CONTENT_STORE", word).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{word}");
    }
}

#[test]
fn messages_with_ids_of_their_own_all_count() {
    let usage = json!({"input_tokens": 1, "output_tokens": 5});
    for ids in [["msg_012345678901234567890001", "msg_012345678901234567890002"], ["short1", "short2"]] {
        // Two answers that only their ids tell apart.
        let mut lines = vec![prompt(1), answer(2, ids[0], usage.clone()), answer(2, ids[1], usage.clone())];
        lines[2]["uuid"] = json!("00000000-0000-4000-8000-999999999999");
        let whole = User::new();
        put_at_rest(&whole.log("s.jsonl"), text_of(&lines));
        whole.ingest(&[]);
        assert_eq!(turns(&whole).len(), 2);
        let parts = User::new();
        for end in 2..=lines.len() {
            put_at_rest(&parts.log("s.jsonl"), text_of(&lines[..end]));
            parts.ingest(&[]);
        }
        assert_eq!(parts.lines(), whole.lines());
        // Two sessions that work side by side.
        let two = User::new();
        for (name, line) in [("s", &lines[1]), ("t", &lines[2])] {
            let mut line = line.clone();
            line["sessionId"] = json!(name);
            put_at_rest(&two.log(&format!("{name}.jsonl")), text_of(&[line]));
        }
        two.ingest(&[]);
        assert_eq!(turns(&two).len(), 2, "{ids:?}");
    }
}

#[test]
fn a_resumed_session_that_is_read_in_parts_copies_nothing_of_its_parent() {
    const PARENT: &str = "b774eb52-48db-40af-8215-8370d269a9a5.jsonl";
    const CHILD: &str = "b12aa1f6-d42f-4dbb-8a86-f7a243c71b9a.jsonl";
    let folder = common::fixture("logs/claude/-home-ada-work-lighthouse");
    let (parent, child) = (fs::read(folder.join(PARENT)).unwrap(), fs::read(folder.join(CHILD)).unwrap());
    let read = |cuts: &[(usize, u64)]| {
        let user = User::new();
        put_at_rest(&user.log(PARENT), &parent);
        user.ingest(&[]);
        for (end, age_s) in cuts {
            fs::write(user.log(CHILD), &child[..*end]).unwrap();
            age(&user.log(CHILD), *age_s);
            user.ingest(&[]);
        }
        user.lines()
    };
    let wanted = read(&[(child.len(), 3600)]);
    let ends = child.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    // A log at rest is taken for finished, so its own lines are not waited for. The first 18 lines are copies.
    let ages = |number| if number < 18 { &[7200, 30, 0][..] } else { &[30, 0] };
    let cases: Vec<_> = ends
        .enumerate()
        .flat_map(|(number, end)| ages(number).iter().map(move |age_s| (end, *age_s)))
        .map(|cut| [cut, (child.len(), 3600)])
        .collect();
    common::in_parallel(&cases, |cuts| assert_eq!(read(cuts), wanted, "{cuts:?}"));
}

#[test]
fn a_log_whose_time_lies_in_the_future_comes_to_rest() {
    let user = User::new();
    let mut open = answer(4, "m2", json!({"output_tokens": 6}));
    open["message"]["stop_reason"] = Value::Null;
    let log = user.log("s.jsonl");
    fs::write(&log, text_of(&[prompt(1), answer(2, "m1", json!({"output_tokens": 5})), prompt(3), open]))
        .unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(86_400);
    fs::File::open(&log).unwrap().set_modified(later).unwrap();
    for _ in 0..2 {
        let told = document(&user.ingest(&["--json"]));
        assert_eq!(told["openMessages"], 1, "{told}");
    }
    // Runs have seen it as it is for 20 minutes.
    let path = user.path(".relayburn/ingest.side.json");
    let mut side: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let seen = &mut side["files"][log.to_str().unwrap()]["seenMs"];
    *seen = json!(seen.as_f64().unwrap() - 1_200_000.0);
    fs::write(&path, side.to_string()).unwrap();
    let told = document(&user.ingest(&["--json"]));
    assert_eq!((&told["openMessages"], &told["appended"]["turns"]), (&json!(0), &json!(1)), "{told}");
    assert_eq!(turns(&user).len(), 2);
}
