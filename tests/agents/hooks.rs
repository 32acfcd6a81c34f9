//! A hook of Claude Code never keeps its agent waiting: if it cannot finish in time, its call is kept for the next
//! `burn ingest`.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use relayburn_ledger::home::{Home, LockName};
use relayburn_ledger::lock::{LockError, with_lock};
use serde_json::{Value, json};

use super::ingest::{User, age};

const SESSION: &str = "a0000000-0000-4000-8000-000000000001";

/// How long a hook may take in these tests, in a debug build on a busy machine. Tests of the limit set it themselves.
const LATEST: Duration = Duration::from_secs(3);

impl User {
    fn home(&self) -> PathBuf {
        self.path(".relayburn")
    }

    fn session_log(&self) -> PathBuf {
        self.log(&format!("{SESSION}.jsonl"))
    }

    /// Runs a hook with a limit in milliseconds; 0 sets no limit.
    fn hook(&self, payload: &str, budget_ms: u32) -> String {
        let mut command = self.burn(&["ingest", "--hook", "claude"]);
        command.env("RELAYBURN_HOOK_MS", budget_ms.to_string()).stdin(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        // The hook may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(payload.as_bytes());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(started.elapsed() < LATEST, "{:?}", started.elapsed());
        String::from_utf8(output.stderr).unwrap()
    }

    fn payload(&self, call: &str) -> String {
        json!({"session_id": SESSION, "transcript_path": self.session_log(), "hook_event_name": "PostToolUse",
            "tool_use_id": call, "tool_response": format!("secret of {call}")})
        .to_string()
    }

    fn kept(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.home().join("hooks")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    /// Calls and numbers of the events of the ledger.
    fn events(&self) -> Vec<(String, u64, u64)> {
        let ledger = fs::read_to_string(self.home().join("ledger.jsonl")).unwrap_or_default();
        let of = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let record = &line["record"];
            let is_ours = line["kind"] == "tool_result_event" && record["sessionId"] == SESSION;
            let number = |key: &str| record[key].as_u64().unwrap();
            let call = || record["toolUseId"].as_str().unwrap().to_owned();
            is_ours.then(|| (call(), number("callIndex"), number("eventIndex")))
        };
        ledger.lines().filter_map(of).collect()
    }
}

/// A number of prompts, each with a call and its result.
fn conversation(from: usize, to: usize, result_bytes: usize) -> String {
    let uuid = |number: usize| format!("00000000-0000-4000-8000-{number:012}");
    let mut text = String::new();
    for turn in from..to {
        let mut line = |place: usize, kind: &str, message: Value| {
            let number = turn * 3 + place + 1;
            let parent = (number > 1).then(|| uuid(number - 1));
            let line = json!({
                "type": kind, "message": message, "uuid": uuid(number), "parentUuid": parent, "isSidechain": false,
                "timestamp": format!("2026-04-20T{:02}:{:02}:{:02}.{place:03}Z", turn / 3600, turn / 60 % 60, turn % 60),
                "sessionId": SESSION, "cwd": "/work", "version": "2.1.0",
            });
            text += &format!("{line}\n");
        };
        line(0, "user", json!({"role": "user", "content": format!("prompt {turn}")}));
        line(
            1,
            "assistant",
            json!({"id": format!("msg_{turn}"), "role": "assistant", "model": "claude-opus-4-7", "stop_reason": "tool_use",
                "content": [{"type": "tool_use", "id": format!("toolu_{turn}"), "name": "Bash", "input": {"command": "ls"}}],
                "usage": {"input_tokens": 3, "output_tokens": turn, "cache_read_input_tokens": 50}}),
        );
        let output = format!("{turn} ").repeat(result_bytes / 4);
        line(
            2,
            "user",
            json!({"role": "user", "content":
                [{"type": "tool_result", "tool_use_id": format!("toolu_{turn}"), "content": output}]}),
        );
    }
    text
}

#[test]
fn a_hook_that_must_wait_leaves_its_call_to_the_next_run() {
    let user = User::new();
    fs::write(user.session_log(), conversation(0, 2, 40)).unwrap();
    user.ingest(&["--json"]);
    let before = user.events();
    with_lock::<_, LockError>(&Home::at(user.home()).lock(LockName::Ledger), |_| {
        user.hook(&user.payload("toolu_a"), 40);
        user.hook(&user.payload("toolu_b"), 40);
        Ok(())
    })
    .unwrap();
    assert_eq!(user.events(), before);
    let kept = user.kept();
    assert_eq!(kept.len(), 2);
    for path in &kept {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains("contentHash") && !text.contains("secret"), "{text}");
    }
    let said = String::from_utf8(user.ingest(&["--json"]).stderr).unwrap();
    assert!(said.contains("a hook left to this run (2 times)"), "{said}");
    assert!(user.kept().is_empty());
    let after = user.events();
    assert_eq!(after[..before.len()], before);
    let next = before.len() as u64;
    let calls: BTreeSet<_> = after[before.len()..].iter().map(|(call, of, _)| (&call[..], *of)).collect();
    assert_eq!(calls, BTreeSet::from([("toolu_a", 0), ("toolu_b", 0)]));
    let numbers: BTreeSet<u64> = after[before.len()..].iter().map(|(_, _, number)| *number).collect();
    assert_eq!(numbers, BTreeSet::from([next, next + 1]));
    assert!(!String::from_utf8(user.ingest(&["--json"]).stderr).unwrap().contains("left to this run"));
}

#[test]
fn a_hook_whose_input_never_ends_ends() {
    let user = User::new();
    let mut command = user.burn(&["ingest", "--hook", "claude"]);
    let started = Instant::now();
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let input = child.stdin.take();
    assert!(child.wait().unwrap().success());
    assert!(started.elapsed() < LATEST);
    drop(input);
}

#[test]
fn what_a_hook_failed_at_is_said_once_by_the_next_run() {
    let user = User::new();
    fs::create_dir_all(user.home()).unwrap();
    user.hook("{no JSON", 0);
    let said = String::from_utf8(user.ingest(&["--json"]).stderr).unwrap();
    assert!(said.contains("left to this run") && said.contains("payload cannot be used"), "{said}");
    assert!(user.kept().is_empty());
}

#[test]
fn a_damaged_call_is_named_once_and_kept_aside() {
    let user = User::new();
    let hooks = user.home().join("hooks");
    fs::create_dir_all(&hooks).unwrap();
    let name = format!("0001777000000-12-{}.json", "0af".repeat(11).split_at(32).0);
    for (name, text) in [(&name[..], "{\"garbage"), ("notes.json", "mine")] {
        fs::write(hooks.join(name), text).unwrap();
    }
    let said = String::from_utf8(user.ingest(&["--json"]).stderr).unwrap();
    assert!(said.contains(&name) && said.contains("damaged call of a hook"), "{said}");
    assert_eq!(fs::read_to_string(hooks.join(format!("{name}.damaged"))).unwrap(), "{\"garbage");
    assert_eq!(fs::read_to_string(hooks.join("notes.json")).unwrap(), "mine");
    assert!(!hooks.join(&name).exists());
    let again = String::from_utf8(user.ingest(&["--json"]).stderr).unwrap();
    assert!(!again.contains(&name), "{again}");
}

#[test]
fn a_log_outside_of_all_roots_is_read_when_a_kept_hook_names_it() {
    let user = User::new();
    let log = user.0.path().join("elsewhere.jsonl");
    fs::write(&log, conversation(0, 2, 40)).unwrap();
    age(&log, 3600);
    fs::create_dir_all(user.home()).unwrap();
    let payload =
        json!({"session_id": SESSION, "transcript_path": log, "hook_event_name": "Stop"}).to_string();
    with_lock::<_, LockError>(&Home::at(user.home()).lock(LockName::Ledger), |_| {
        user.hook(&payload, 40);
        Ok(())
    })
    .unwrap();
    assert_eq!(user.kept().len(), 1);
    let document: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
    assert_eq!(document["appended"]["turns"], 2, "{document}");
}

#[test]
fn a_hook_reads_no_large_ledger_and_finds_its_session_in_what_runs_have_read() {
    let user = User::new();
    fs::create_dir_all(user.home()).unwrap();
    let ledger = user.home().join("ledger.jsonl");
    let made = user.burn(&["dev", "generate-ledger", "--size", "18MB"]).arg(&ledger).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    fs::write(user.session_log(), conversation(0, 3, 40)).unwrap();
    user.hook(&user.payload("toolu_a"), 0);
    assert_eq!(user.kept().len(), 1, "more than 16 MiB were never read");
    assert!(user.events().is_empty());
    user.ingest(&["--json"]);
    assert!(user.home().join("ingest.known").exists());
    let events = user.events();
    assert_eq!(events.iter().filter(|event| event.0 == "toolu_a").count(), 1, "{events:?}");
    user.hook(&user.payload("toolu_b"), 0);
    assert!(user.kept().is_empty());
    let after = user.events();
    let highest = events.iter().map(|event| event.2).max().unwrap();
    assert_eq!(after.last().unwrap(), &("toolu_b".to_owned(), 0, highest + 1));
    // The same call again adds nothing.
    user.hook(&user.payload("toolu_b"), 0);
    assert_eq!(user.events(), after);
}

#[test]
fn a_log_that_grows_gives_the_lines_of_one_pass_whether_its_state_was_kept_or_not() {
    let (turns, steps) = (120, 6);
    let whole = User::new();
    fs::write(whole.session_log(), conversation(0, turns, 8_000)).unwrap();
    age(&whole.session_log(), 3600);
    whole.ingest(&[]);
    let lines_of = |user: &User| BTreeSet::from_iter(user.lines());
    let wanted = lines_of(&whole);
    assert!(wanted.len() > turns * 3);
    for loses_states in [false, true] {
        let user = User::new();
        let text = conversation(0, turns, 8_000);
        let mut was_used = false;
        for step in 1..=steps {
            // The cut may also be in the middle of a line.
            let end = text.len() * step / steps;
            let mut file = fs::File::options().create(true).append(true).open(user.session_log()).unwrap();
            let begin = text.len() * (step - 1) / steps;
            file.write_all(&text.as_bytes()[begin..end]).unwrap();
            let states = user.home().join("ingest.state");
            was_used |= states.exists();
            if loses_states {
                fs::remove_dir_all(&states).ok();
            }
            if step % 2 == 0 {
                user.hook(
                    &json!({"session_id": SESSION, "transcript_path": user.session_log()}).to_string(),
                    0,
                );
            } else {
                user.ingest(&["--json"]);
            }
        }
        age(&user.session_log(), 3600);
        user.ingest(&["--json"]);
        assert!(was_used, "a state is kept of a log of {} bytes", text.len());
        assert_eq!(lines_of(&user), wanted, "states are lost: {loses_states}");
    }
}
