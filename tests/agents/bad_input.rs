//! What `burn ingest` finds in the places of logs, and cannot read: each is named, the rest is read, and the exit code
//! says that something was left out.
#![cfg(unix)]

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use super::ingest::{Log, User, age, put, put_pipe};

/// Runs a command that must end, although a pipe has no writer.
#[track_caller]
fn in_time(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let [stdout, stderr] = [
        std::thread::spawn(move || std::io::read_to_string(&mut stdout).unwrap()),
        std::thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap()),
    ];
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Output {
        status,
        stdout: stdout.join().unwrap().into_bytes(),
        stderr: stderr.join().unwrap().into_bytes(),
    }
}

fn turns(user: &User) -> usize {
    user.lines().iter().filter(|line| line.contains(r#""kind":"turn""#)).count()
}

/// Runs `burn ingest --json`, which must say that something was left out. Returns its document and what it said.
#[track_caller]
fn incomplete(user: &User, words: &[&str]) -> (Value, String) {
    let output = in_time(user.burn(&[&["ingest", "--json"], words].concat()));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("burn: ") && last.contains("the next run tries again"), "{said}");
    (serde_json::from_slice(&output.stdout).unwrap(), said)
}

/// A session of OpenCode in files: its file, a prompt and an answer.
fn put_opencode_session(storage: &Path, session: &str) {
    put(&storage.join(format!("session/p/{session}.json")), json!({"id": session}).to_string().as_bytes());
    let answer = json!({"id": format!("msg_{session}"), "sessionID": session, "role": "assistant", "modelID": "m",
        "time": {"created": 1_777_629_601_000_u64, "completed": 1_777_629_602_000_u64},
        "tokens": {"input": 5, "output": 6, "reasoning": 0, "cache": {"read": 0, "write": 0}}});
    put(&storage.join(format!("message/{session}/msg_{session}.json")), answer.to_string().as_bytes());
}

#[test]
fn what_is_no_log_is_named_and_the_rest_is_read() {
    let user = User::new();
    put(&user.log("good.jsonl"), Log::conversation(2).bytes());
    age(&user.log("good.jsonl"), 3600);
    let projects = user.path(".claude/projects");
    let codex = user.path(".codex/sessions/2026");
    let opencode = user.path(".local/share/opencode");
    let gemini = user.path(".gemini/tmp/p/chats");
    put_opencode_session(&opencode.join("storage"), "ses_good");
    // Folders, pipes, links to themselves, and links to what is not there.
    let mut named: Vec<PathBuf> = vec![
        projects.join("-work/folder.jsonl"),
        codex.join("folder.jsonl"),
        opencode.join("opencode-folder.db"),
        gemini.join("session-folder.json"),
    ];
    named.iter().for_each(|path| fs::create_dir_all(path).unwrap());
    for path in [
        projects.join("-work/pipe.jsonl"),
        projects.join("-work/session/subagents/pipe.jsonl"),
        codex.join("pipe.jsonl"),
        codex.join("pipe.jsonl.zst"),
        opencode.join("opencode-pipe.db"),
        opencode.join("storage/session/p/ses_pipe.json"),
        gemini.join("session-pipe.jsonl"),
    ] {
        put_pipe(&path);
        named.push(path);
    }
    for (path, target) in [
        (projects.join("-work/ring.jsonl"), "ring.jsonl"),
        (projects.join("-work/away.jsonl"), "nowhere/away.jsonl"),
        (projects.join("-away"), "nowhere"),
        (codex.join("ring.jsonl"), "ring.jsonl"),
        (opencode.join("opencode-ring.db"), "opencode-ring.db"),
        (gemini.join("session-away.json"), "nowhere"),
    ] {
        symlink(target, &path).unwrap();
        named.push(path);
    }
    // What the next program writes over a log that was cut.
    put(&codex.join("torn.jsonl.zst"), [0x28_u8, 0xb5, 0x2f, 0xfd, 0, 1, 2]);
    named.push(codex.join("torn.jsonl.zst"));
    // A damaged copy beside a log that is read.
    put(&codex.join("copied.jsonl.zst"), [0x28_u8, 0xb5, 0x2f, 0xfd, 0, 1, 2]);
    put(&codex.join("copied.jsonl"), b"\n");
    named.push(codex.join("copied.jsonl.zst"));
    for run in 0..2 {
        let (document, said) = incomplete(&user, &[]);
        let list = |key: &str| document[key].as_array().unwrap().clone();
        let mut told: Vec<PathBuf> = [list("unreadable"), list("skippedFiles")]
            .concat()
            .iter()
            .map(|found| PathBuf::from(found["path"].as_str().unwrap()))
            .collect();
        told.sort();
        let mut wanted = named.clone();
        wanted.sort();
        assert_eq!(told, wanted, "run {run}");
        for path in &named {
            assert!(said.contains(path.to_str().unwrap()), "{} is not in {said}", path.display());
        }
        for agent in document["agents"].as_array().unwrap() {
            let count = |key: &str| agent[key].as_u64().unwrap();
            let explained = count("readFiles") + count("unchangedFiles") + count("skippedFiles");
            assert_eq!(count("foundFiles"), explained, "{agent}");
        }
        assert_eq!(turns(&user), 5, "run {run}");
    }
    let output = in_time(user.burn(&["ingest", "--as-reference", "--quiet"]));
    assert_eq!(output.status.code(), Some(0), "the TypeScript package ends with 0");
}

#[test]
fn folders_that_lead_to_themselves_are_read_once() {
    let user = User::new();
    let sessions = user.path(".codex/sessions");
    let line = |kind: &str, payload: Value| {
        format!("{}\n", json!({"timestamp": "2026-05-01T10:00:00.000Z", "type": kind, "payload": payload}))
    };
    let log = line("session_meta", json!({"id": "s"}))
        + &line("event_msg", json!({"type": "task_started", "turn_id": "t"}))
        + &line("event_msg", json!({"type": "task_complete", "turn_id": "t"}));
    put(&sessions.join("2026/a.jsonl"), log.as_bytes());
    // Of three links the paths would be endless, and as many as there are combinations of links.
    for name in ["one", "two", "three"] {
        symlink("..", sessions.join("2026").join(name)).unwrap();
    }
    symlink(".", user.path(".claude")).unwrap();
    symlink(".", user.path("projects")).unwrap();
    let output = in_time(user.burn(&["ingest", "--json", "--quiet"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["scannedSessions"], &document["appended"]["turns"]), (&json!(1), &json!(1)));
}

#[test]
fn names_of_any_bytes_are_read_and_named() {
    let user = User::new();
    let name = |bytes: &[u8]| user.log("x").with_file_name(OsStr::from_bytes(bytes));
    let text = String::from_utf8(Log::conversation(2).bytes()).unwrap();
    put(&name(b"\xff.jsonl"), text.as_bytes());
    let other = text.replace("msg_", "other_").replace("end_", "last_").replace("2026-", "2025-");
    put(&name(b"\xfe.jsonl"), [other.as_bytes(), b"no record\n"].concat());
    age(&name(b"\xff.jsonl"), 3600);
    age(&name(b"\xfe.jsonl"), 3600);
    put_pipe(&name(b"\xfd.jsonl"));
    let report = user.path("report.jsonl");
    let (document, said) = incomplete(&user, &["--report", report.to_str().unwrap()]);
    assert_eq!(document["appended"]["turns"], 8);
    assert!(document["unreadable"][0]["path"].as_str().unwrap().ends_with("\u{fffd}.jsonl"), "{document}");
    assert!(said.contains("\u{fffd}.jsonl"), "{said}");
    let text = fs::read_to_string(report).unwrap();
    let mut named = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let malformed = named.find(|line| line["reason"] == "malformed").unwrap();
    assert_eq!(malformed["offset"], other.len());
    assert!(malformed["path"].as_str().unwrap().ends_with("\u{fffd}.jsonl"), "{malformed}");
    for line in fs::read_to_string(user.path(".relayburn/ledger.jsonl")).unwrap().lines() {
        serde_json::from_str::<Value>(line).unwrap();
    }
    assert_eq!(incomplete(&user, &[]).0["appended"]["turns"], 0);
}

#[test]
fn ten_thousand_logs_are_found_and_read_once() {
    let user = User::new();
    for number in 0..10_000 {
        let line = format!("{{\"type\":\"summary\",\"number\":{number}}}\n");
        put(&user.path(&format!(".claude/projects/-{}/{number}.jsonl", number % 100)), line.as_bytes());
    }
    for (read, unchanged) in [(10_000, 0), (0, 10_000)] {
        let document: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
        let claude = &document["agents"][0];
        let counts = ["foundFiles", "readFiles", "unchangedFiles", "skippedFiles"]
            .map(|key| claude[key].as_u64().unwrap());
        assert_eq!(counts, [10_000, read, unchanged, 0]);
        assert_eq!(document["leftOut"].get("unknownType"), (read > 0).then(|| json!(read)).as_ref());
    }
}

/// Writes these lines as a log, and returns the offset of each.
fn put_lines(path: &Path, lines: &[&str]) -> Vec<usize> {
    put(path, lines.concat().as_bytes());
    age(path, 3600);
    lines.iter().scan(0, |end, line| Some(std::mem::replace(end, *end + line.len()))).collect()
}

#[test]
fn lines_without_a_record_are_counted_and_named_whatever_the_agent() {
    let user = User::new();
    let codex = user.path(".codex/sessions/a.jsonl");
    let codex_at = put_lines(
        &codex,
        &[
            "{\"type\":\"session_meta\",\"payload\":{\"id\":\"s\"}}\n",
            "{\n",
            "[1]\n",
            "{\"type\":\"other\",\"payload\":{}}\n",
            "{\"type\":\"event_msg\"}\n",
            "{\"type\":\"event_msg\",",
        ],
    );
    let gemini = user.path(".gemini/tmp/p/chats/session-a.jsonl");
    let answer = "{\"id\":\"a\",\"type\":\"gemini\",\"timestamp\":\"2026-05-01T10:00:00.000Z\",\"model\":\"m\",\"tokens\":{\"output\":5}}\n";
    let gemini_at = put_lines(
        &gemini,
        &[
            "{\"sessionId\":\"g\"}\n",
            "{\n",
            "[1]\n",
            "{\"x\":1}\n",
            answer,
            answer,
            "{\"id\":\"i\",\"type\":\"info\"}\n",
            "{\"id\":",
        ],
    );
    let chat =
        json!({"sessionId": "h", "messages": [{"type": "gemini", "model": "m", "tokens": {"output": 5}}]});
    put_lines(&user.path(".gemini/tmp/q/chats/session-b.json"), &[&chat.to_string()]);
    let storage = user.path(".local/share/opencode/storage");
    put_opencode_session(&storage, "ses_1");
    let opencode = ["message/ses_1/broken.json", "message/ses_1/list.json", "part/msg_ses_1/broken.json"];
    for (name, text) in opencode.iter().zip(["{", "[]", "{"]) {
        put(&storage.join(name), text.as_bytes());
    }
    let report = user.path("report.jsonl");
    let document: Value =
        serde_json::from_slice(&user.ingest(&["--json", "--report", report.to_str().unwrap()]).stdout)
            .unwrap();
    let text = fs::read_to_string(report).unwrap();
    let named: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let counts = document["leftOut"].as_object().unwrap().values();
    assert_eq!(counts.map(|count| count.as_u64().unwrap()).sum::<u64>(), named.len() as u64, "{text}");
    let is_named = |path: &Path, offset: usize, reason: &str| {
        let of = |line: &&Value| {
            line["path"] == path.to_str().unwrap() && line["offset"] == offset && line["reason"] == reason
        };
        assert_eq!(named.iter().filter(of).count(), 1, "{} at {offset}: {reason} in {text}", path.display());
    };
    for (at, reason) in
        [(1, "malformed"), (2, "notARecord"), (3, "unknownType"), (4, "notARecord"), (5, "torn")]
    {
        is_named(&codex, codex_at[at], reason);
    }
    let of_gemini = ["malformed", "notARecord", "unknownType", "", "duplicate", "nothingToKeep", "torn"];
    for (at, reason) in of_gemini.into_iter().enumerate().filter(|(_, reason)| !reason.is_empty()) {
        is_named(&gemini, gemini_at[at + 1], reason);
    }
    assert_eq!(
        named.iter().filter(|line| line["detail"] == "a gemini message without id").count(),
        1,
        "{text}"
    );
    for (name, reason) in opencode.iter().zip(["malformed", "notARecord", "malformed"]) {
        let path = storage.join(name);
        let of = |line: &&Value| line["reason"] == reason && line["detail"] == path.to_str().unwrap();
        assert_eq!(named.iter().filter(of).count(), 1, "{name}: {text}");
    }
}

#[test]
fn a_repeated_message_of_gemini_is_counted_once_and_named() {
    let user = User::new();
    let answer = json!({"id": "0195f000-0000-7000-8000-000000000001", "type": "gemini", "timestamp": "2026-05-01T10:00:00.000Z",
        "model": "gemini-2.5-pro", "content": "a", "tokens": {"input": 100, "output": 10},
        "toolCalls": [{"id": "c", "name": "read_file", "args": {}, "status": "success", "result": [1]}]});
    let mut answer_at = 0;
    for session in ["s1", "s2"] {
        let head = json!({"sessionId": session, "projectHash": "h"});
        let lines = [format!("{head}\n"), format!("{answer}\n")];
        let path = user.path(&format!(".gemini/tmp/p/chats/session-{session}.jsonl"));
        answer_at = put_lines(&path, &[&lines[0], &lines[1]])[1];
    }
    let report = user.path("report.jsonl");
    let words = ["--json", "--report", report.to_str().unwrap()];
    let document: Value = serde_json::from_slice(&user.ingest(&words).stdout).unwrap();
    assert_eq!((turns(&user), &document["leftOut"]), (1, &json!({"replay": 1})));
    let named: Value = serde_json::from_str(&fs::read_to_string(report).unwrap()).unwrap();
    assert_eq!((&named["offset"], &named["reason"]), (&json!(answer_at), &json!("replay")));
}

#[test]
fn a_file_of_opencode_that_was_read_in_half_is_read_again() {
    for name in ["message/ses_1/msg_ses_1.json", "part/msg_ses_1/prt_1.json"] {
        let user = User::new();
        let storage = user.path(".local/share/opencode/storage");
        put_opencode_session(&storage, "ses_1");
        let part = json!({"id": "prt_1", "type": "tool", "tool": "bash", "callID": "c1", "state": {"status": "completed"}});
        put(&storage.join("part/msg_ses_1/prt_1.json"), part.to_string().as_bytes());
        // OpenCode rewrites a file in place, so that neither the folder's time nor the file's identity changes.
        let path = storage.join(name);
        let whole = fs::read(&path).unwrap();
        for half in [&whole[..20], b""] {
            fs::write(&path, half).unwrap();
            let document: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
            assert_eq!((turns(&user), &document["leftOut"]["malformed"]), (0, &json!(1)), "{name}");
        }
        fs::write(&path, &whole).unwrap();
        user.ingest(&[]);
        assert_eq!(turns(&user), 1, "{name}");
        let line = user.lines().into_iter().find(|line| line.contains(r#""kind":"turn""#)).unwrap();
        assert!(line.contains(r#""name":"bash""#), "{line}");
        // After a day it stays as it is, and no later run reads it.
        let user = User::new();
        let storage = user.path(".local/share/opencode/storage");
        put_opencode_session(&storage, "ses_1");
        put(&storage.join(name), b"{");
        age(&storage.join(name), 2 * 86_400);
        user.ingest(&[]);
        let document: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
        assert_eq!(document["leftOut"], json!({}), "{name}: {document}");
    }
}

#[test]
fn a_log_that_changes_while_it_is_read_is_read_whole_in_the_end() {
    let bytes = Log::conversation(40).bytes();
    let whole = User::new();
    put(&whole.log("s.jsonl"), &bytes);
    age(&whole.log("s.jsonl"), 3600);
    whole.ingest(&[]);
    let user = User::new();
    let path = user.log("s.jsonl");
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = crate::common::Random::new(7);
            let mut file = fs::File::create(&path).unwrap();
            while !is_over.load(Ordering::Relaxed) {
                // It grows by pieces of lines, and is cut now and then.
                let len = random.below(bytes.len() as u64 + 1) as usize;
                file.set_len(0).unwrap();
                for piece in bytes[..len].chunks(997) {
                    file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                    file.write_all(piece).unwrap();
                }
            }
        });
        for _ in 0..8 {
            let output = in_time(user.burn(&["ingest"]));
            assert!(output.status.code().is_some(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    put(&path, &bytes);
    age(&path, 3600);
    user.ingest(&[]);
    let ids = |user: &User| -> Vec<String> {
        let lines = user.lines().into_iter();
        let of_turn = |line: String| {
            Some(line.split_once(r#""kind":"turn""#)?.1.split_once(r#","turnIndex""#)?.0.to_owned())
        };
        lines.filter_map(of_turn).collect()
    };
    assert_eq!(ids(&user), ids(&whole));
}

#[test]
fn a_database_that_is_locked_or_half_migrated_is_named_and_read_later() {
    let user = User::new();
    put(&user.log("good.jsonl"), Log::conversation(2).bytes());
    age(&user.log("good.jsonl"), 3600);
    let folder = user.path(".local/share/opencode");
    fs::create_dir_all(&folder).unwrap();
    let locked = Connection::open(folder.join("opencode.db")).unwrap();
    const TABLES: &str = "CREATE TABLE session(id TEXT); INSERT INTO session VALUES('ses_1');
        CREATE TABLE message(id TEXT, session_id TEXT, data TEXT);
        CREATE TABLE part(id TEXT, message_id TEXT, session_id TEXT, data TEXT);";
    locked.execute_batch(TABLES).unwrap();
    let answer = json!({"role": "assistant", "modelID": "m", "time": {"created": 1_777_629_601_000_u64, "completed": 1_777_629_602_000_u64},
        "tokens": {"input": 5, "output": 6, "reasoning": 0, "cache": {"read": 0, "write": 0}}});
    locked.execute("INSERT INTO message VALUES('msg_1', 'ses_1', ?1)", [answer.to_string()]).unwrap();
    locked.execute("INSERT INTO part VALUES('prt_1', 'msg_1', 'ses_1', '{\"type\"')", []).unwrap();
    // The writer is in the middle of its transaction, whose pages are partly in the file.
    locked.execute_batch("BEGIN EXCLUSIVE; UPDATE message SET data = '{}'").unwrap();
    let halves = [
        ("opencode-a.db", "CREATE TABLE other(id TEXT)", "no table of sessions"),
        ("opencode-b.db", "CREATE TABLE session_v2(id TEXT)", "no table of messages"),
        (
            "opencode-c.db",
            "CREATE TABLE session(id TEXT); CREATE TABLE message(id TEXT, session_id TEXT, data TEXT)",
            "table of their parts",
        ),
    ];
    for (name, tables, _) in halves {
        Connection::open(folder.join(name)).unwrap().execute_batch(tables).unwrap();
    }
    let (document, said) = incomplete(&user, &[]);
    assert_eq!(document["skippedFiles"].as_array().unwrap().len(), 4, "{said}");
    let reasons = halves.map(|(name, _, reason)| (name, reason));
    for (name, reason) in reasons.into_iter().chain([("opencode.db", "locked")]) {
        let is_named = |line: &str| line.contains(name) && line.contains(reason);
        assert!(said.lines().any(is_named), "{name}: {said}");
    }
    assert_eq!(turns(&user), 4, "the other logs are read");
    locked.execute_batch("ROLLBACK").unwrap();
    let report = user.path("report.jsonl");
    let (document, _) = incomplete(&user, &["--report", report.to_str().unwrap()]);
    assert_eq!(document["skippedFiles"].as_array().unwrap().len(), 3);
    assert_eq!(turns(&user), 5);
    assert!(fs::read_to_string(report).unwrap().contains("part prt_1"), "a part that is no JSON is named");
}

#[test]
fn a_disk_that_is_full_is_an_error_that_names_the_file_and_loses_nothing() {
    let whole = User::new();
    let bytes = Log::conversation(60).bytes();
    put(&whole.log("s.jsonl"), &bytes);
    age(&whole.log("s.jsonl"), 3600);
    whole.ingest(&[]);
    let user = User::new();
    put(&user.log("s.jsonl"), &bytes);
    age(&user.log("s.jsonl"), 3600);
    for limit_bytes in [0, 700, 20_000] {
        let mut command = user.burn(&["ingest"]);
        // SAFETY: the closure calls nothing but `setrlimit`, which is allowed between fork and exec.
        unsafe {
            command.pre_exec(move || {
                let limit = libc::rlimit { rlim_cur: limit_bytes, rlim_max: limit_bytes };
                match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let output = in_time(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{limit_bytes}: {said}");
        assert!(said.lines().last().unwrap().contains("/.relayburn/"), "{limit_bytes}: {said}");
    }
    user.ingest(&[]);
    assert_eq!(user.lines(), whole.lines());
}

#[test]
fn cursors_that_are_no_json_are_named_and_cost_no_record() {
    let user = User::new();
    put(&user.log("s.jsonl"), Log::conversation(3).bytes());
    age(&user.log("s.jsonl"), 3600);
    assert!(user.ingest(&[]).status.success());
    let before = user.lines();
    put(&user.path(".relayburn/cursors.json"), b"broken\n");
    let output = user.ingest(&[]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && error.contains("cursors.json is not JSON; all logs are read again"),
        "{error}"
    );
    assert_eq!(user.lines(), before);
    assert!(!String::from_utf8(user.ingest(&[]).stderr).unwrap().contains("is not JSON"));
}
