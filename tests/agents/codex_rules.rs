//! Rules for rollouts of Codex that a single log shows.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use relayburn_ledger::agents::{Agent, Ingest, IngestObserver, IngestOptions, IngestProgress};
use relayburn_ledger::home::Home;
use relayburn_ledger::interrupt::Interrupt;
use serde_json::{Value, json};

use super::ingest::age;

const SESSION: &str = "019de4a0-0000-7000-8000-000000000001";

struct Sandbox(tempfile::TempDir);

impl Sandbox {
    fn new() -> Self {
        Sandbox(tempfile::tempdir().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.0.path().join(format!(".codex/sessions/2026/05/01/rollout-2026-05-01T10-00-00-{SESSION}.jsonl"))
    }

    /// Writes the log as it is after an hour of rest.
    fn put(&self, lines: &[Value]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::create_dir_all(self.log().parent().unwrap()).unwrap();
        fs::write(self.log(), text).unwrap();
        age(&self.log(), 3600);
    }

    fn ingest(&self, words: &[&str]) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
        command.args(["ingest", "--agent", "codex", "--json"]).args(words).env_clear();
        command.env("HOME", self.0.path()).env("RELAYBURN_HOME", self.home());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("burn")
    }

    /// Makes a later run see a log that has been at rest since it changed.
    fn rest(&self) {
        super::histories::forget_when_it_was_seen(&self.home());
    }

    fn lines(&self, kind: &str) -> Vec<Value> {
        let ledger = fs::read_to_string(self.home().join("ledger.jsonl")).unwrap();
        let lines = ledger.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["kind"] == kind).collect()
    }
}

fn line(kind: &str, payload: Value) -> Value {
    json!({"timestamp": "2026-05-01T10:00:00.000Z", "type": kind, "payload": payload})
}

fn event(kind: &str, mut payload: Value) -> Value {
    payload["type"] = json!(kind);
    line("event_msg", payload)
}

fn meta(more: Value) -> Value {
    let mut payload = json!({"id": SESSION, "timestamp": "2026-05-01T10:00:00.000Z", "cwd": "/w"});
    payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    line("session_meta", payload)
}

/// The id of the `number`th turn, a UUID of version 7.
fn id(number: u64) -> String {
    format!("019de4a0-{number:04}-7000-8000-000000000000")
}

fn started(number: u64) -> Value {
    event("task_started", json!({"turn_id": id(number)}))
}

fn complete(number: u64) -> Value {
    event("task_complete", json!({"turn_id": id(number)}))
}

fn says(text: &str) -> Value {
    line(
        "response_item",
        json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}),
    )
}

fn answers(text: &str) -> Value {
    line(
        "response_item",
        json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}),
    )
}

/// A count of all input so far, and of the last call.
fn count(total: u64, last: u64) -> Value {
    let usage = |input: u64| {
        json!({"input_tokens": input, "cached_input_tokens": 0, "output_tokens": input / 10,
            "reasoning_output_tokens": 0, "total_tokens": input + input / 10})
    };
    event(
        "token_count",
        json!({"info": {"total_token_usage": usage(total), "last_token_usage": usage(last)}}),
    )
}

fn ids(turns: &[Value]) -> Vec<String> {
    turns.iter().map(|turn| turn["record"]["messageId"].as_str().unwrap().to_owned()).collect()
}

fn inputs(turns: &[Value]) -> Vec<u64> {
    turns.iter().map(|turn| turn["record"]["usage"]["input"].as_u64().unwrap()).collect()
}

#[test]
fn a_user_turn_after_an_interrupted_turn_is_recognised_under_its_old_id() {
    let log = [
        meta(json!({})),
        says("one"),
        started(1),
        answers("working"),
        count(100, 100),
        // The turn never ends. The TypeScript package writes the next user turn as if none was before it.
        says("two"),
        started(2),
        answers("done"),
        count(300, 200),
        complete(2),
    ];
    let of = |words: &[&[&str]]| {
        let sandbox = Sandbox::new();
        sandbox.put(&log);
        for words in words {
            sandbox.ingest(words);
            // Each run reads the log from its beginning.
            fs::remove_file(sandbox.home().join("cursors.json")).unwrap();
        }
        let user_turns = sandbox.lines("user_turn");
        let uuids = user_turns.iter().map(|line| line["record"]["userUuid"].as_str().unwrap().to_owned());
        uuids.map(|uuid| uuid.replace(&format!("{SESSION}:"), "")).collect::<Vec<_>>()
    };
    let (first, after) = (format!("start->{}", id(1)), format!("start->{}", id(2)));
    assert_eq!(of(&[&["--as-reference"]]), [first.clone(), after.clone()]);
    assert_eq!(of(&[&[]]), [first.clone(), format!("{}->{}", id(1), id(2))]);
    assert_eq!(of(&[&["--as-reference"], &[], &[]]), [first, after], "it is not written under its new id");
}

#[test]
fn words_of_the_harness_are_no_prompt() {
    let activity = |text: &str| {
        let sandbox = Sandbox::new();
        sandbox.put(&[meta(json!({})), started(1), says(text), answers("yes"), count(100, 100), complete(1)]);
        sandbox.ingest(&[]);
        let turns = sandbox.lines("turn");
        // The text is still measured, because it was sent.
        let blocks = &sandbox.lines("user_turn")[0]["record"]["blocks"];
        assert_eq!(blocks[0]["byteLen"], text.len(), "{blocks}");
        turns[0]["record"]["activity"].as_str().unwrap().to_owned()
    };
    assert_eq!(activity("fix the crash"), "debugging");
    for tag in ["user_instructions", "turn_aborted", "subagent_notification", "skill", "user_shell_command"] {
        assert_eq!(activity(&format!("<{tag}>fix the crash</{tag}>")), "conversation", "{tag}");
    }
}

#[test]
fn turns_and_parts_of_turns_with_equal_counts_are_different_turns() {
    let sandbox = Sandbox::new();
    // Two turns of the same moment, model and usage, and a third that goes on twice with equal counts.
    let log = [
        meta(json!({})),
        started(1),
        count(100, 100),
        complete(1),
        started(2),
        count(200, 100),
        complete(2),
        started(3),
        count(300, 100),
        count(400, 100),
        count(500, 100),
    ];
    for end in [4, 7, 9, 10, 11] {
        sandbox.put(&log[..end]);
        for _ in 0..2 {
            sandbox.ingest(&[]);
            sandbox.rest();
        }
    }
    let turns = sandbox.lines("turn");
    let wanted = [id(1), id(2), id(3), format!("{}+1", id(3)), format!("{}+2", id(3))];
    assert_eq!((ids(&turns), inputs(&turns)), (wanted.to_vec(), vec![100; 5]));
}

#[test]
fn half_a_line_at_the_end_of_a_log_at_rest_keeps_no_turn_open() {
    let sandbox = Sandbox::new();
    sandbox.put(&[meta(json!({})), started(1), says("go"), count(100, 100)]);
    let mut log = fs::File::options().append(true).open(sandbox.log()).unwrap();
    log.write_all(br#"{"timestamp":"2026-05-01T10:0"#).unwrap();
    age(&sandbox.log(), 3600);
    sandbox.rest();
    sandbox.ingest(&[]);
    assert!(!sandbox.home().join("ledger.jsonl").exists(), "the line may be finished");
    sandbox.ingest(&[]);
    assert_eq!(inputs(&sandbox.lines("turn")), [100]);
    // The line that goes on is malformed; the next turn is a turn of its own.
    let next =
        [started(2), says("on"), count(250, 150), complete(2)].map(|line| format!("{line}\n")).concat();
    log.write_all(format!("\n{next}").as_bytes()).unwrap();
    age(&sandbox.log(), 3600);
    sandbox.ingest(&[]);
    assert_eq!(inputs(&sandbox.lines("turn")), [100, 150]);
}

#[test]
fn a_turn_goes_on_after_its_notes_are_lost() {
    let log = [
        meta(json!({})),
        started(1),
        answers("one"),
        count(100, 100),
        answers("two"),
        count(300, 200),
        answers("three"),
        count(600, 300),
        complete(1),
        // A count after the end of the turn.
        count(1_000, 400),
    ];
    // The notes are deleted, or as old as those of a run that was killed before it saved its own.
    for loses in ["deleted", "old"] {
        let sandbox = Sandbox::new();
        let side = sandbox.home().join("ingest.side.json");
        for end in [4, 6, 8, 10] {
            sandbox.put(&log[..end]);
            sandbox.ingest(&[]);
            sandbox.rest();
            let old = fs::read(&side).unwrap();
            sandbox.ingest(&[]);
            match loses {
                "old" => fs::write(&side, old).unwrap(),
                _ => fs::remove_file(&side).unwrap(),
            }
        }
        let turns = sandbox.lines("turn");
        assert_eq!(inputs(&turns), [100, 200, 300, 400], "{loses}: {:?}", ids(&turns));
        assert_eq!(sandbox.ingest(&[])["appended"]["turns"], 0, "{loses}");
    }
}

/// Lets the log grow and another run read it once the first run has read it.
struct Meanwhile<'s> {
    sandbox: &'s Sandbox,
    log: &'s [Value],
    is_done: bool,
}

impl IngestObserver for Meanwhile<'_> {
    fn note(&mut self, _text: &str) {}

    fn progress(&mut self, _progress: IngestProgress) {
        if !std::mem::replace(&mut self.is_done, true) {
            self.sandbox.put(self.log);
            self.sandbox.ingest(&[]);
        }
    }
}

#[test]
fn two_runs_at_once_count_a_turn_once() {
    let first = [meta(json!({})), started(1), count(100, 100), count(300, 200), count(600, 300)];
    let log: Vec<Value> = first.into_iter().chain([complete(1), started(2), count(700, 100)]).collect();
    // The turn is new, or a part of it is written.
    for before in [None, Some(&log[..3])] {
        let sandbox = Sandbox::new();
        let settle = || {
            for _ in 0..2 {
                sandbox.rest();
                sandbox.ingest(&[]);
            }
        };
        if let Some(before) = before {
            sandbox.put(before);
            settle();
        }
        sandbox.put(&log[..4]);
        if before.is_some() {
            // This run notes when it saw the log.
            sandbox.ingest(&[]);
            sandbox.rest();
        }
        let options = IngestOptions {
            agents: vec![Agent::Codex],
            roots: vec![(Agent::Codex, sandbox.0.path().join(".codex/sessions"))],
            ..IngestOptions::default()
        };
        let mut meanwhile = Meanwhile { sandbox: &sandbox, log: &log, is_done: false };
        let mut first = Ingest::new(Home::at(sandbox.home()), options);
        first.run(&mut meanwhile, &Interrupt::new()).unwrap();
        assert!(meanwhile.is_done);
        settle();
        let turns = sandbox.lines("turn");
        assert_eq!(inputs(&turns).iter().sum::<u64>(), 700, "{before:?}: {:?}", ids(&turns));
        assert_eq!(sandbox.ingest(&[])["appended"]["turns"], 0, "{before:?}");
    }
}

#[test]
fn a_run_without_a_log_keeps_what_its_note_lacks() {
    let log = [meta(json!({})), started(1), count(100, 100), complete(1), count(300, 200), count(600, 300)];
    let sandbox = Sandbox::new();
    let side = sandbox.home().join("ingest.side.json");
    sandbox.put(&log[..4]);
    sandbox.ingest(&[]);
    sandbox.rest();
    let old = fs::read(&side).unwrap();
    sandbox.put(&log[..5]);
    sandbox.rest();
    sandbox.ingest(&[]);
    sandbox.rest();
    sandbox.ingest(&[]);
    assert_eq!(inputs(&sandbox.lines("turn")), [100, 200]);
    // The run that wrote the second part was killed before it saved its notes. A run with another root saves notes.
    fs::write(&side, old).unwrap();
    let elsewhere = sandbox.0.path().join("elsewhere");
    let folder = elsewhere.join("sessions");
    fs::create_dir_all(&folder).unwrap();
    let other = "019de4a0-0000-7000-8000-00000000ffff";
    let meta = line("session_meta", json!({"id": other, "cwd": "/w"}));
    fs::write(folder.join(format!("rollout-2026-05-01T10-00-00-{other}.jsonl")), format!("{meta}\n"))
        .unwrap();
    sandbox.ingest(&["--root", &format!("codex={}", elsewhere.display())]);
    sandbox.put(&log);
    for _ in 0..3 {
        sandbox.rest();
        sandbox.ingest(&[]);
    }
    assert_eq!(inputs(&sandbox.lines("turn")), [100, 200, 300]);
}

#[test]
fn a_ledger_of_the_typescript_package_gets_what_it_lacks_and_no_more() {
    let call = |id: &str, kind: &str| {
        line(
            "response_item",
            json!({"type": kind, "call_id": id, "name": "shell", "arguments": "{}", "action": {"command": ["ls"]}}),
        )
    };
    let sandbox = Sandbox::new();
    sandbox.put(&[
        meta(json!({})),
        started(1),
        call("a", "function_call"),
        // That package does not know such a call.
        call("b", "local_shell_call"),
        count(100, 100),
        complete(1),
        started(2),
        count(200, 100),
        complete(2),
        // That package does not count between turns.
        count(250, 50),
    ]);
    sandbox.ingest(&["--as-reference"]);
    let wanted = [id(1), id(2), format!("{}+1", id(2))];
    for run in 0..3 {
        sandbox.ingest(&[]);
        let turns = sandbox.lines("turn");
        assert_eq!((ids(&turns), inputs(&turns)), (wanted.to_vec(), vec![100, 100, 50]), "run {run}");
    }
}

#[test]
fn the_terms_of_a_turn_are_stamped() {
    let stamps = |log: &[Value]| {
        let sandbox = Sandbox::new();
        sandbox.put(log);
        sandbox.ingest(&[]);
        let all = sandbox.lines("stamp");
        for stamp in &all {
            assert_eq!(stamp["selector"]["sessionId"], SESSION);
        }
        let of = |stamp: &Value| {
            (stamp["selector"]["messageId"].as_str().unwrap().to_owned(), stamp["enrichment"].clone())
        };
        all.iter().map(of).collect::<Vec<_>>()
    };
    let turn = |number: u64, counts: &[Value]| [&[started(number)], counts, &[complete(number)]].concat();
    let tier =
        |tier: &str| event("thread_settings_applied", json!({"thread_settings": {"service_tier": tier}}));

    // A provider of the whole session; OpenAI is the ordinary one.
    let with_provider = |provider: &str| {
        stamps(&[vec![meta(json!({"model_provider": provider}))], turn(1, &[count(100, 100)])].concat())
    };
    assert_eq!(with_provider("azure"), [(id(1), json!({"provider": "azure"}))]);
    assert!(with_provider("openai").is_empty());

    // A tier applies to the turns that begin after it.
    let log = [
        vec![meta(json!({})), tier("flex")],
        turn(1, &[count(100, 100), tier("priority")]),
        turn(2, &[count(300, 200)]),
        vec![tier("default")],
        turn(3, &[count(600, 300)]),
        vec![line("turn_context", json!({"turn_id": id(4), "service_tier": "flex", "model": "m"}))],
        turn(4, &[count(1_000, 400)]),
    ]
    .concat();
    let of_tier = |number: u64, tier: &str| (id(number), json!({"serviceTier": tier}));
    assert_eq!(stamps(&log), [of_tier(1, "flex"), of_tier(2, "priority"), of_tier(4, "flex")]);

    // The size of the requests, when the sum alone would be in the wrong tier, and only when one size stands for all.
    let log = [
        vec![meta(json!({}))],
        turn(1, &[count(200_000, 200_000), count(350_000, 150_000)]),
        turn(2, &[count(450_000, 100_000)]),
        turn(3, &[count(750_000, 300_000), count(850_000, 100_000)]),
    ]
    .concat();
    assert_eq!(stamps(&log), [(id(1), json!({"contextTokens": "200000"}))]);
}

#[test]
fn a_link_of_the_sessions_folder_is_followed() {
    let sandbox = Sandbox::new();
    sandbox.put(&[meta(json!({})), started(1), count(100, 100), complete(1)]);
    let (sessions, elsewhere) =
        (sandbox.0.path().join(".codex/sessions"), sandbox.0.path().join("elsewhere"));
    fs::rename(&sessions, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &sessions).unwrap();
    assert_eq!(sandbox.ingest(&[])["appended"]["turns"], 1);
    // A link to a disk that is away is no empty folder.
    fs::rename(&elsewhere, Path::new(&sandbox.0.path().join("away"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.args(["ingest", "--agent", "codex"]).env_clear().env("HOME", sandbox.0.path());
    let output = command.env("RELAYBURN_HOME", sandbox.home()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("cannot read {}", sessions.display())), "{said}");
}

#[test]
fn a_fork_of_an_older_version_repeats_its_parent_without_naming_it() {
    // Neither the parent nor the turns are named, and the repeated lines have the time of the fork.
    let fork = "019de4a0-0000-7000-8000-000000000002";
    let fork_meta =
        line("session_meta", json!({"id": fork, "timestamp": "2026-05-01T11:00:00.000Z", "cwd": "/w"}));
    let turn = |text: &str, total: u64, last: u64| vec![says(text), answers("yes"), count(total, last)];
    let parent = [vec![meta(json!({}))], turn("one", 100, 100), turn("two", 300, 200)].concat();
    let at = |text: &str, lines: &[Value]| -> Vec<Value> {
        let stamped = |line: &Value| {
            let mut line = line.clone();
            line["timestamp"] = json!(text);
            line
        };
        lines.iter().map(stamped).collect()
    };
    let repeated = at("2026-05-01T11:00:00.005Z", &[&parent[..], &turn("three", 600, 300)].concat());
    let own = at("2026-05-01T11:05:00.000Z", &turn("three", 700, 400));
    let fork_log = [vec![fork_meta], repeated[..7].to_vec(), own].concat();
    let grown = [&parent[..], &turn("three", 600, 300)].concat();
    for parents in [[&parent[..], &grown], [&grown, &grown]] {
        let sandbox = Sandbox::new();
        let text: String = fork_log.iter().map(|line| format!("{line}\n")).collect();
        let path = sandbox.log().with_file_name(format!("rollout-2026-05-01T11-00-00-{fork}.jsonl"));
        for lines in parents {
            sandbox.put(lines);
            fs::write(&path, &text).unwrap();
            age(&path, 3600);
            for _ in 0..2 {
                sandbox.ingest(&[]);
                sandbox.rest();
            }
        }
        let of = |session: &str| {
            let turns = sandbox.lines("turn");
            inputs(
                &turns.into_iter().filter(|turn| turn["record"]["sessionId"] == session).collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(SESSION), [100, 200, 300]);
        assert_eq!(of(fork), [400]);
        let rows = sandbox.lines("relationship").into_iter().map(|row| row["record"].clone());
        let fork_row = rows.into_iter().find(|row| row["relationshipType"] == "fork").unwrap();
        assert_eq!((&fork_row["sessionId"], &fork_row["relatedSessionId"]), (&json!(fork), &json!(SESSION)));
    }
}

#[test]
fn counts_of_a_fork_before_its_first_turn_are_the_parents() {
    // A newer version has forked a log whose turns have no names.
    let sandbox = Sandbox::new();
    sandbox.put(&[
        meta(json!({"forked_from_id": "019de4a0-0000-7000-8000-00000000ffff"})),
        says("one"),
        answers("yes"),
        count(100, 100),
        started(1),
        answers("no"),
        count(300, 200),
        complete(1),
    ]);
    sandbox.ingest(&[]);
    assert_eq!(inputs(&sandbox.lines("turn")), [200]);
}

#[test]
fn counts_between_the_turns_of_a_fork_that_the_typescript_package_wrote_are_added() {
    let parent = "019de4a0-0000-7000-8000-00000000ffff";
    let sandbox = Sandbox::new();
    let log = [
        meta(json!({"forked_from_id": parent})),
        // That package takes this for the session of the file.
        line("session_meta", json!({"id": parent, "cwd": "/w"})),
        started(1),
        count(100, 100),
        complete(1),
        // That package does not count between turns.
        count(250, 150),
        started(2),
        count(300, 50),
        complete(2),
    ];
    sandbox.put(&log);
    sandbox.ingest(&["--as-reference"]);
    for _ in 0..3 {
        sandbox.ingest(&[]);
        let turns = sandbox.lines("turn");
        assert_eq!(ids(&turns), [id(1), id(2), format!("{}+1", id(1))]);
        assert_eq!(inputs(&turns), [100, 50, 150]);
    }
}

#[test]
fn a_command_that_was_killed_has_failed() {
    let call = |id: &str| {
        line(
            "response_item",
            json!({"type": "function_call", "call_id": id, "name": "exec_command", "arguments": "{}"}),
        )
    };
    let output = |id: &str, code: i32| {
        let text = format!("Wall time: 1 s\nProcess exited with code {code}\nOutput:\n");
        line("response_item", json!({"type": "function_call_output", "call_id": id, "output": text}))
    };
    let sandbox = Sandbox::new();
    let calls = [call("a"), output("a", 0), call("b"), output("b", -1), call("c"), output("c", 10)];
    sandbox.put(&[&[meta(json!({})), started(1)], &calls[..], &[count(100, 100), complete(1)]].concat());
    sandbox.ingest(&[]);
    let statuses =
        sandbox.lines("tool_result_event").into_iter().map(|line| line["record"]["status"].clone());
    assert_eq!(statuses.collect::<Vec<_>>(), ["completed", "errored", "errored"]);
}
