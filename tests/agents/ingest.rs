//! The promises of `burn ingest`: any number of passes gives the lines of one pass, each record is written once
//! whatever is killed or runs beside it, nothing is skipped in silence, and hooks never fail.
#![cfg(unix)]

use crate::common;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

const SESSION: &str = "a0000000-0000-4000-8000-000000000001";

/// A user's folder.
pub(super) struct User(pub(super) tempfile::TempDir);

impl User {
    pub(super) fn new() -> Self {
        User(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        let path = self.path(".claude/projects/-work").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(super) fn burn(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
        command
            .args(words)
            .env_clear()
            .env("HOME", self.0.path())
            .env("RELAYBURN_HOME", self.path(".relayburn"))
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    pub(super) fn ingest(&self, words: &[&str]) -> Output {
        let output = self.burn(&[&["ingest"], words].concat()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The lines of ledger and content, sorted, without the name of the folder.
    pub(super) fn lines(&self) -> Vec<String> {
        let home = self.path(".relayburn");
        let mut files = vec![home.join("ledger.jsonl")];
        let content = fs::read_dir(home.join("content")).into_iter().flatten();
        files.extend(content.map(|entry| entry.unwrap().path()));
        let texts = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default());
        let here = self.0.path().to_str().unwrap().to_owned();
        let text = texts.collect::<String>().replace(&here, "~");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

pub(super) fn age(path: &Path, seconds: u64) {
    fs::File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
}

/// Writes a file in a folder that may be missing.
pub(super) fn put(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Writes a log that is at rest.
pub(super) fn put_at_rest(path: &Path, bytes: impl AsRef<[u8]>) {
    put(path, bytes);
    age(path, 3600);
}

pub(super) fn put_pipe(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Builds a log.
#[derive(Default)]
pub(super) struct Log {
    lines: Vec<Value>,
    last: Option<String>,
}

impl Log {
    fn line(&mut self, kind: &str, message: Value) -> &mut Value {
        let number = self.lines.len() + 1;
        let uuid = format!("00000000-0000-4000-8000-{number:012}");
        let parent = self.last.replace(uuid.clone());
        self.lines.push(json!({
            "type": kind, "message": message, "uuid": uuid, "parentUuid": parent, "isSidechain": false,
            "timestamp": format!("2026-04-20T00:{:02}:{:02}.000Z", number / 60, number % 60),
            "sessionId": SESSION, "cwd": "/work", "version": "2.1.0",
        }));
        self.lines.last_mut().unwrap()
    }

    fn prompt(&mut self, text: &str) {
        self.line("user", json!({"role": "user", "content": text}));
    }

    fn answer(&mut self, id: &str, block: Value, stop: Value, output: u64) {
        self.line(
            "assistant",
            json!({"id": id, "role": "assistant", "model": "claude-opus-4-7", "content": [block], "stop_reason": stop,
                "usage": {"input_tokens": 3, "output_tokens": output, "cache_read_input_tokens": 50}}),
        );
    }

    fn result(&mut self, id: &str, text: &str, is_error: bool) {
        self.line(
            "user",
            json!({"role": "user", "content":
                [{"type": "tool_result", "tool_use_id": id, "content": text, "is_error": is_error}]}),
        );
    }

    /// Turns with lines that a pass may separate: lines of one message, results, prompts, a compaction.
    pub(super) fn conversation(turns: usize) -> Self {
        let mut log = Log::default();
        for turn in 0..turns {
            log.prompt(&format!("prompt {turn}: fix the bug"));
            let (message, call) = (format!("msg_{turn}"), format!("toolu_{turn}"));
            log.answer(&message, json!({"type": "text", "text": "looking"}), Value::Null, 1);
            let edit = json!({"file_path": "/a.rs", "old_string": "a", "new_string": "b"});
            log.answer(
                &message,
                json!({"type": "tool_use", "id": call, "name": "Edit", "input": edit}),
                json!("tool_use"),
                40,
            );
            log.result(&call, "edited", turn % 3 == 0);
            log.answer(&format!("end_{turn}"), json!({"type": "text", "text": "done"}), json!("end_turn"), 9);
            if turn % 2 == 1 {
                log.line("system", Value::Null)["subtype"] = json!("compact_boundary");
            }
        }
        log
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| format!("{line}\n").into_bytes()).collect()
    }
}

#[test]
fn reading_in_any_number_of_passes_gives_the_lines_of_one_pass() {
    let bytes = Log::conversation(4).bytes();
    let whole = User::new();
    put_at_rest(&whole.log("s.jsonl"), &bytes);
    whole.ingest(&[]);
    let wanted = whole.lines();
    assert_eq!(wanted.iter().filter(|line| line.contains(r#""kind":"turn""#)).count(), 8);
    assert!(wanted.iter().any(|line| line.contains("tokensBeforeCompact")));

    let line_ends: Vec<usize> =
        bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    let cuts =
        [line_ends.clone(), (1..12).map(|part| bytes.len() * part / 12).chain([bytes.len()]).collect()];
    for cuts in cuts {
        let user = User::new();
        for cut in &cuts {
            fs::write(user.log("s.jsonl"), &bytes[..*cut]).unwrap();
            user.ingest(&[]);
        }
        age(&user.log("s.jsonl"), 3600);
        user.ingest(&[]);
        assert_eq!(user.lines(), wanted);
        user.ingest(&[]);
        assert_eq!(user.lines(), wanted, "a further run changes nothing");
    }
}

#[test]
fn the_size_before_a_compaction_is_the_same_in_any_number_of_passes_though_a_count_is_none() {
    let mut log = Log::default();
    log.prompt("hello");
    log.answer("m", json!({"type": "text", "text": "a"}), json!("end_turn"), 1);
    log.lines[1]["message"]["usage"]["cache_read_input_tokens"] = json!("many");
    // The state of a log of this length is kept for the next pass.
    log.prompt(&"x".repeat(300 << 10));
    let first = log.bytes();
    log.line("system", Value::Null)["subtype"] = json!("compact_boundary");
    let lines_of = |passes: &[&[u8]]| {
        let user = User::new();
        for bytes in passes {
            put_at_rest(&user.log("s.jsonl"), bytes);
            user.ingest(&[]);
        }
        user.lines()
    };
    let whole = lines_of(&[&log.bytes()]);
    assert!(whole.iter().any(|line| line.contains(r#""tokensBeforeCompact":0"#)), "{whole:?}");
    assert_eq!(lines_of(&[&first, &log.bytes()]), whole);
}

#[test]
fn a_message_that_grows_is_counted_at_its_full_size() {
    let user = User::new();
    let mut log = Log::default();
    log.prompt("hello");
    log.answer("m", json!({"type": "text", "text": "a"}), json!("end_turn"), 1);
    fs::write(user.log("s.jsonl"), log.bytes()).unwrap();
    user.ingest(&[]);
    assert!(!user.lines().iter().any(|line| line.contains(r#""kind":"turn""#)), "the message may still grow");
    log.answer("m", json!({"type": "text", "text": "b"}), json!("end_turn"), 1000);
    fs::write(user.log("s.jsonl"), log.bytes()).unwrap();
    age(&user.log("s.jsonl"), 30);
    user.ingest(&[]);
    let turns: Vec<String> =
        user.lines().into_iter().filter(|line| line.contains(r#""kind":"turn""#)).collect();
    assert_eq!(turns.len(), 1);
    assert!(turns[0].contains(r#""output":1000"#), "{}", turns[0]);
}

#[test]
fn a_log_that_was_cut_and_has_grown_again_is_read_from_its_beginning() {
    let user = User::new();
    let first = Log::conversation(3).bytes();
    put_at_rest(&user.log("s.jsonl"), &first);
    user.ingest(&[]);
    let mut other = Log::default();
    for number in 0..12 {
        other.prompt(&format!("another prompt {number}, longer than those before it"));
        other.answer(&format!("other_{number}"), json!({"type": "text", "text": "x"}), json!("end_turn"), 5);
    }
    // The same inode, and longer than the cursor.
    fs::File::options()
        .write(true)
        .truncate(true)
        .open(user.log("s.jsonl"))
        .unwrap()
        .write_all(&other.bytes())
        .unwrap();
    assert!(other.bytes().len() > first.len());
    age(&user.log("s.jsonl"), 1800);
    user.ingest(&[]);
    let count =
        |lines: Vec<String>| lines.iter().filter(|line| line.contains(r#""messageId":"other_"#)).count();
    assert!(count(user.lines()) >= 12);
    for number in 0..12 {
        let id = format!(r#""messageId":"other_{number}","turnIndex""#);
        assert_eq!(user.lines().iter().filter(|line| line.contains(&id)).count(), 1, "{id}");
    }
}

#[test]
fn results_that_have_moved_in_their_log_are_written_once() {
    let user = User::new();
    let mut log = Log::conversation(2);
    put_at_rest(&user.log("s.jsonl"), log.bytes());
    user.ingest(&[]);
    let results = || {
        let lines = user.lines().into_iter().filter(|line| line.contains("tool_result_event"));
        let of = |line: String| serde_json::from_str::<Value>(&line).unwrap()["record"]["toolUseId"].clone();
        lines.map(of).collect::<Vec<_>>()
    };
    assert_eq!(results(), ["toolu_0", "toolu_1"]);
    // Another log in its place has one more result at its front, so that the others get other numbers.
    let mut front = log.lines[3].clone();
    front["message"]["content"][0]["tool_use_id"] = json!("toolu_new");
    front["uuid"] = json!("00000000-0000-4000-8000-000000000099");
    log.lines.insert(0, front);
    let beside = user.path("beside");
    fs::write(&beside, log.bytes()).unwrap();
    age(&beside, 3600);
    fs::rename(beside, user.log("s.jsonl")).unwrap();
    user.ingest(&[]);
    let mut found = results();
    found.sort_by_key(|call| call.to_string());
    assert_eq!(found, ["toolu_0", "toolu_1", "toolu_new"]);
}

#[test]
fn a_resumed_session_counts_no_message_twice() {
    let user = User::new();
    let bytes = Log::conversation(3).bytes();
    fs::write(user.log("s.jsonl"), &bytes).unwrap();
    let copy = String::from_utf8(bytes).unwrap().replace(SESSION, "b0000000-0000-4000-8000-000000000002");
    for name in ["s.jsonl", "t.jsonl"] {
        if name == "t.jsonl" {
            fs::write(user.log(name), &copy).unwrap();
        }
        age(&user.log(name), 3600);
    }
    let document: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
    assert_eq!(document["appended"]["turns"], 6);
    assert!(document["leftOut"]["replay"].as_u64().unwrap() >= 6, "{document}");
    // A later run also knows the whole ledger.
    put_at_rest(&user.log("u.jsonl"), copy.replace("b0000000", "c0000000"));
    let document: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
    assert_eq!(document["appended"]["turns"], 0);
}

#[test]
fn a_log_that_continues_another_is_found_however_the_id_is_spelt() {
    let user = User::new();
    let mut first = Log::default();
    first.prompt("hello");
    first.answer("m", json!({"type": "text", "text": "a"}), json!("end_turn"), 1);
    let mut second = Log { last: first.last.clone(), ..Log::default() };
    second.prompt("go on");
    second.lines[0]["uuid"] = json!("10000000-0000-4000-8000-000000000001");
    second.lines[0]["sessionId"] = json!("second");
    let escaped = first.lines[1].to_string().replace("00000000-0000-4000", r"0000\u0030000-0000-4000");
    fs::write(user.log("first.jsonl"), format!("{}\n{escaped}\n", first.lines[0])).unwrap();
    fs::write(user.log("second.jsonl"), second.bytes()).unwrap();
    ["first.jsonl", "second.jsonl"].iter().for_each(|name| age(&user.log(name), 3600));
    user.ingest(&[]);
    let mut lines = user.lines().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let relationship = lines.find(|line| line["record"]["relationshipType"] == "continuation");
    assert_eq!(relationship.unwrap()["record"]["relatedSessionId"], "first");
}

#[test]
fn models_that_advise_have_turns_of_their_own() {
    let user = User::new();
    let mut log = Log::default();
    log.prompt("go");
    let of_advisor = |output: u64| json!({"type": "advisor_message", "model": "claude-opus-4-7", "input_tokens": 1000, "output_tokens": output});
    let id = "msg_0123456789abcdefghijkl";
    // Each line of the message repeats the iterations before it, and the last iteration of a line may still grow.
    for (advisors, output) in [(&[5][..], 20), (&[50, 6], 30)] {
        log.answer(id, json!({"type": "text", "text": "a"}), json!("end_turn"), output);
        let iterations = advisors.iter().flat_map(|output| [json!({"type": "message"}), of_advisor(*output)]);
        let iterations = Value::Array(iterations.collect());
        log.lines.last_mut().unwrap()["message"]["usage"]["iterations"] = iterations;
    }
    fs::write(user.log("s.jsonl"), log.bytes()).unwrap();
    // A session that was resumed has a copy.
    log.lines.iter_mut().for_each(|line| line["sessionId"] = json!("resumed"));
    log.prompt("more");
    fs::write(user.log("t.jsonl"), log.bytes()).unwrap();
    ["s.jsonl", "t.jsonl"].iter().for_each(|name| age(&user.log(name), 3600));
    user.ingest(&[]);
    let turns = user.lines().into_iter().filter(|line| line.contains(r#""kind":"turn""#));
    let mut turns: Vec<(String, String, u64, u64)> = turns
        .map(|line| {
            let record = serde_json::from_str::<Value>(&line).unwrap()["record"].take();
            let [id, model] = ["messageId", "model"].map(|key| record[key].as_str().unwrap().to_owned());
            let [input, output] = ["input", "output"].map(|key| record["usage"][key].as_u64().unwrap());
            (id, model, input, output)
        })
        .collect();
    turns.sort();
    let advisor =
        |number: u8, output| (format!("{id}+advisor{number}"), "claude-opus-4-7".to_owned(), 1000, output);
    let main = (id.to_owned(), "claude-opus-4-7".to_owned(), 3, 30);
    assert_eq!(turns, [main, advisor(1, 50), advisor(2, 6)]);
}

#[test]
fn the_logs_of_agents_of_workflows_and_of_agents_are_read() {
    let user = User::new();
    let log = |name: &str| {
        let mut log = Log::default();
        log.prompt("go");
        log.answer(&format!("msg_{name}"), json!({"type": "text", "text": "a"}), json!("end_turn"), 7);
        log.lines.iter_mut().for_each(|line| line["isSidechain"] = json!(name != "main"));
        log.bytes()
    };
    let below = format!("{SESSION}/subagents");
    let paths = [
        ("main", format!("{SESSION}.jsonl")),
        ("plain", format!("{below}/agent-plain.jsonl")),
        ("flow", format!("{below}/workflows/wf_1/agent-flow.jsonl")),
        ("nested", format!("{below}/agent-plain/subagents/agent-nested.jsonl")),
    ];
    for (name, path) in &paths {
        fs::write(user.log(path), log(name)).unwrap();
        age(&user.log(path), 3600);
    }
    // Not a log.
    fs::write(user.log(&format!("{below}/workflows/wf_1/journal.jsonl")), "{\"type\":\"started\"}\n")
        .unwrap();
    let report: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
    assert_eq!(
        (&report["agents"][0]["foundFiles"], &report["appended"]["turns"]),
        (&4.into(), &4.into()),
        "{report}"
    );
    let turns = user.lines().into_iter().filter(|line| line.contains(r#""kind":"turn""#));
    let mut messages: Vec<String> = turns
        .map(|line| serde_json::from_str::<Value>(&line).unwrap()["record"]["messageId"].to_string())
        .collect();
    messages.sort();
    assert_eq!(messages, ["flow", "main", "nested", "plain"].map(|name| format!("\"msg_{name}\"")));
}

#[test]
fn the_type_of_an_agent_comes_from_the_file_beside_its_log() {
    let user = User::new();
    let below = format!("{SESSION}/subagents");
    for (name, meta) in [
        ("a1", r#"{"agentType":"Explore","description":"look","toolUseId":"toolu_1"}"#),
        ("a2", r#"{"agentType":"#),
        ("a3", ""),
    ] {
        let mut log = Log::default();
        log.prompt("go");
        log.answer(&format!("msg_{name}"), json!({"type": "text", "text": "a"}), json!("end_turn"), 7);
        log.lines.iter_mut().for_each(|line| line["isSidechain"] = json!(true));
        log.lines.iter_mut().for_each(|line| line["agentId"] = json!(name));
        put_at_rest(&user.log(&format!("{below}/agent-{name}.jsonl")), log.bytes());
        if !meta.is_empty() {
            fs::write(user.log(&format!("{below}/agent-{name}.meta.json")), meta).unwrap();
        }
    }
    user.ingest(&[]);
    let lines = user.lines().into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let lines: Vec<Value> = lines.collect();
    for (kind, part) in [("turn", "/record/subagent"), ("relationship", "/record")] {
        let of_agent = |name: &str| {
            let mut agents =
                lines.iter().filter(|line| line["kind"] == kind).filter_map(|line| line.pointer(part));
            let agent = agents.find(|agent| agent["agentId"] == name).unwrap();
            (agent["subagentType"].clone(), agent["description"].clone())
        };
        assert_eq!(of_agent("a1"), (json!("Explore"), json!("look")), "{kind}");
        assert_eq!(of_agent("a2"), (Value::Null, Value::Null), "{kind}");
        assert_eq!(of_agent("a3"), (Value::Null, Value::Null), "{kind}");
    }
}

#[test]
fn each_line_that_made_no_record_is_named() {
    let user = User::new();
    let mut log = Log::default();
    log.prompt("hello");
    log.answer("m", json!({"type": "text", "text": "a"}), json!("end_turn"), 1);
    let good = log.bytes();
    let odd = "{\"type\":\"assistant\",\n[1]\n{\"type\":\"summary\"}\n{\"type\":\"torn\"";
    put_at_rest(&user.log("s.jsonl"), [&good[..], odd.as_bytes()].concat());
    let report = user.path("report.jsonl");
    let output = user.ingest(&["--check", "--report", report.to_str().unwrap()]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let reasons = json!({"malformed": 1, "notARecord": 1, "unknownType": 1, "torn": 1});
    assert_eq!(document["leftOut"], reasons);
    assert!(!user.path(".relayburn").exists(), "--check writes nothing");
    let named = fs::read_to_string(&report).unwrap();
    let first: Value = serde_json::from_str(named.lines().next().unwrap()).unwrap();
    assert_eq!(first["offset"], good.len());
    assert_eq!(first["length"], 21);
    assert_eq!(first["reason"], "malformed");
    assert_eq!(named.lines().count(), 4);
    let agent =
        document["agents"].as_array().unwrap().iter().find(|agent| agent["agent"] == "claude").unwrap();
    assert_eq!(agent["lines"], 6);
    assert_eq!(agent["foundFiles"], 1);
}

#[test]
fn a_root_that_cannot_be_read_is_an_error_that_names_it() {
    let user = User::new();
    fs::create_dir(user.path(".claude")).unwrap();
    fs::write(user.path(".claude/projects"), "no folder").unwrap();
    let output = user.burn(&["ingest"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(".claude/projects"), "{error}");
}

#[test]
fn a_line_without_end_is_passed_over_and_named() {
    let user = User::new();
    let file = fs::File::create(user.log("s.jsonl")).unwrap();
    // A hole in the file: zeros without blocks on the disk.
    let long = (256 << 20) + 5;
    file.set_len(long).unwrap();
    let mut log = Log::default();
    log.prompt("hello");
    log.answer("m", json!({"type": "text", "text": "a"}), json!("end_turn"), 1);
    let mut file = fs::File::options().append(true).open(user.log("s.jsonl")).unwrap();
    file.write_all(&[b"\n", &log.bytes()[..]].concat()).unwrap();
    age(&user.log("s.jsonl"), 3600);
    let document: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
    assert_eq!(document["leftOut"]["tooLong"], 1);
    assert_eq!(document["appended"]["turns"], 1);
    assert_eq!(document["bytesRead"], long + 1 + log.bytes().len() as u64);
}

#[test]
fn a_hook_never_fails() {
    let user = User::new();
    let path = user.log("s.jsonl");
    fs::write(&path, Log::conversation(1).bytes()).unwrap();
    let payload = json!({"session_id": SESSION, "transcript_path": path, "hook_event_name": "PostToolUse",
        "tool_use_id": "toolu_0", "tool_response": "edited"});
    for payload in
        ["", "{", "null", "[]", "5", r#"{"session_id":"x","transcript_path":"/none"}"#, &payload.to_string()]
    {
        let mut child = user
            .burn(&["ingest", "--hook", "claude"])
            .env("RELAYBURN_HOOK_MS", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(payload.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{payload}");
    }
    // A ledger that cannot be written does not make a hook fail either.
    fs::remove_dir_all(user.path(".relayburn")).unwrap();
    fs::write(user.path(".relayburn"), "no folder").unwrap();
    let mut child = user
        .burn(&["ingest", "--hook", "claude"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(payload.to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Logs of many sessions.
fn fill(user: &User, sessions: usize) {
    for session in 0..sessions {
        let name = format!("{session:08}-0000-4000-8000-000000000000");
        let text = String::from_utf8(Log::conversation(30).bytes()).unwrap();
        let text = text.replace(SESSION, &name).replace("msg_", &format!("msg_{session}_"));
        let text =
            text.replace("end_", &format!("end_{session}_")).replace("toolu_", &format!("toolu_{session}_"));
        // The times differ, because turns with equal time and usage have the same fingerprint.
        let text = text.replace("2026-04-20T", &format!("20{:02}-04-20T", session % 90 + 10));
        let path = user.log(&format!("{name}.jsonl"));
        fs::write(&path, text).unwrap();
        age(&path, 3600);
    }
}

/// Removes the locks of a killed holder, which are taken over after five seconds: a test need not wait for that.
fn remove_locks(user: &User) {
    for entry in fs::read_dir(user.path(".relayburn")).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "lock") {
            let _ = fs::remove_file(path);
        }
    }
}

/// `BURN_TEST_SCALE=17` makes 102 kills.
#[test]
fn a_run_that_is_killed_at_any_time_is_made_good_by_the_next() {
    let sessions = 30;
    let whole = User::new();
    fill(&whole, sessions);
    let started = std::time::Instant::now();
    whole.ingest(&[]);
    let whole_micros = started.elapsed().as_micros() as u64;
    let wanted = whole.lines();
    let mut random = common::Random::new(41);
    for round in 0..2 * common::scale() {
        let user = User::new();
        fill(&user, sessions);
        for _ in 0..3 {
            let mut child =
                user.burn(&["ingest"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(random.below(whole_micros)));
            child.kill().unwrap();
            child.wait().unwrap();
            remove_locks(&user);
        }
        user.ingest(&[]);
        // A kill may leave half a line, which the next append ends.
        let mut lines = user.lines();
        lines.retain(|line| serde_json::from_str::<Value>(line).is_ok());
        assert!(lines == wanted, "round {round}: {} lines, not {}", lines.len(), wanted.len());
    }
}

/// Another program appends whole lines under its own lock files, as the TypeScript package does.
#[test]
fn a_run_beside_the_typescript_package_loses_and_repeats_nothing() {
    const APPENDER: &str = r#"
import os, sys, time
home, count = sys.argv[1], int(sys.argv[2])
os.makedirs(home, exist_ok=True)
def acquire(path):
    while True:
        try:
            return os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            time.sleep(0.005)
for number in range(count):
    acquire(home + "/ledger.lock")
    with open(home + "/ledger.jsonl", "a") as ledger:
        ledger.write('{"v":1,"kind":"compaction","record":{"v":1,"source":"codex","sessionId":"x","ts":"2026-04-20T00:00:%02d.000Z"}}\n' % number)
    os.unlink(home + "/ledger.lock")
    time.sleep(0.01)
"#;
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("python3 not found: the part played by the TypeScript package is skipped");
        return;
    }
    let whole = User::new();
    fill(&whole, 12);
    whole.ingest(&[]);
    let user = User::new();
    fill(&user, 12);
    let mut other = Command::new("python3");
    let mut other = other.arg("-c").arg(APPENDER).arg(user.path(".relayburn")).arg("40").spawn().unwrap();
    user.ingest(&[]);
    assert!(other.wait().unwrap().success());
    user.ingest(&[]);
    let (theirs, ours): (Vec<String>, Vec<String>) =
        user.lines().into_iter().partition(|line| line.contains(r#""sessionId":"x""#));
    assert_eq!(theirs.len(), 40);
    assert_eq!(theirs.iter().collect::<std::collections::BTreeSet<_>>().len(), 40);
    assert!(ours == whole.lines());
}

#[test]
fn hooks_beside_a_run_write_each_result_once() {
    let sessions = 12;
    let user = User::new();
    fill(&user, sessions);
    let mut children =
        vec![user.burn(&["ingest"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()];
    for session in 0..sessions {
        let name = format!("{session:08}-0000-4000-8000-000000000000");
        let payload = json!({"session_id": name, "transcript_path": user.log(&format!("{name}.jsonl")),
            "hook_event_name": "PostToolUse", "tool_use_id": format!("toolu_{session}_3"), "tool_response": "edited"});
        let mut hook = user
            .burn(&["ingest", "--hook", "claude"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let _ = hook.stdin.take().unwrap().write_all(payload.to_string().as_bytes());
        children.push(hook);
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    // What a hook could not take in within its time waits for the next run.
    user.ingest(&[]);
    let mut turns = std::collections::BTreeMap::new();
    let mut results = std::collections::BTreeMap::new();
    for line in fs::read_to_string(user.path(".relayburn/ledger.jsonl")).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let record = &line["record"];
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        match line["kind"].as_str().unwrap() {
            "turn" => *turns.entry(text("messageId")).or_insert(0) += 1,
            // What a hook reports has no time. The log's report of the same result is left out if the hook was first.
            "tool_result_event" => {
                let (of_log, of_hook) = results.entry(text("toolUseId")).or_insert((0, 0));
                *if record["ts"].is_string() { of_log } else { of_hook } += 1;
            }
            _ => {}
        }
    }
    assert_eq!((turns.len(), results.len()), (60 * sessions, 30 * sessions));
    assert!(turns.values().all(|times| *times == 1), "{turns:?}");
    assert!(results.values().all(|times| matches!(times, (1, 0 | 1) | (0, 1))), "{results:?}");
}

#[test]
fn a_run_says_what_each_agent_gave() {
    let user = User::new();
    fill(&user, 2);
    let said = String::from_utf8(user.ingest(&[]).stdout).unwrap();
    assert!(said.starts_with("[burn] ingest: ingested 2 sessions (+120 turns)\n"), "{said}");
    assert!(said.contains("claude    2 logs: 2 read, 0 unchanged, 0 skipped; 120 turns and"), "{said}");
    assert!(said.contains("codex     no logs in "), "{said}");
    let said = String::from_utf8(user.ingest(&[]).stdout).unwrap();
    assert!(said.starts_with("[burn] ingest: ingested 0 sessions (+0 turns)\n"), "{said}");
    assert!(
        said.contains("2 logs: 0 read, 2 unchanged, 0 skipped; 0 turns and 0 other records new"),
        "{said}"
    );
    let said = String::from_utf8(user.ingest(&["--quiet"]).stdout).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn watch_takes_what_comes_and_ends_with_a_signal() {
    let user = User::new();
    fill(&user, 1);
    let mut command = common::processes::with_signals();
    command.args(["ingest", "--watch", "--interval", "50"]).env_clear().env("HOME", user.0.path());
    command.env("RELAYBURN_HOME", user.path(".relayburn")).stdin(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let turns = || user.lines().iter().filter(|line| line.contains(r#""kind":"turn""#)).count();
    let wait_for = |wanted: usize| {
        let started = std::time::Instant::now();
        while turns() < wanted {
            assert!(started.elapsed() < Duration::from_secs(30), "{} of {wanted} turns", turns());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for(60);
    // In a folder that was not there before.
    let name = "b0000000-0000-4000-8000-000000000009";
    let folder = user.path(".claude/projects/-new");
    fs::create_dir_all(&folder).unwrap();
    let text = String::from_utf8(Log::conversation(2).bytes()).unwrap();
    let text = text.replace(SESSION, name).replace("msg_", "new_").replace("end_", "new_end_");
    let path = folder.join(format!("{name}.jsonl"));
    fs::write(&path, text.replace("2026-", "2025-")).unwrap();
    age(&path, 3600);
    wait_for(64);
    // SAFETY: a plain call, to a child that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("watching every 50 ms") && said.contains("ingested 1 session (+60 turns)"),
        "{said}"
    );
}

#[test]
fn two_runs_at_once_write_each_record_once() {
    let sessions = 12;
    let whole = User::new();
    fill(&whole, sessions);
    whole.ingest(&[]);
    let user = User::new();
    fill(&user, sessions);
    let children: Vec<_> = (0..3)
        .map(|_| user.burn(&["ingest"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert!(user.lines() == whole.lines());
}
