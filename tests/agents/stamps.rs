//! A turn with special terms gets a stamp with these terms, once.
#![cfg(unix)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

const SESSION: &str = "a0000000-0000-4000-8000-000000000001";

fn ingest(user: &Path, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.args(["ingest", "--agent", "claude"]).args(words).env_clear().env("HOME", user);
    let output = command.env("RELAYBURN_HOME", user.join("burn")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn lines(user: &Path, kind: &str) -> Vec<Value> {
    let ledger = fs::read_to_string(user.join("burn/ledger.jsonl")).unwrap();
    let lines = ledger.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["kind"] == kind).collect()
}

fn log() -> String {
    let mut text = String::new();
    for (number, (id, model, more)) in [
        ("msg_1", "claude-opus-4-7", json!({"service_tier": "standard"})),
        ("msg_2", "claude-opus-4-7", json!({"service_tier": "priority", "speed": "fast"})),
        ("msg_bdrk_3", "claude-opus-4-7", json!({})),
        ("msg_4", "claude-opus-4-7", json!({"server_tool_use": {"web_search_requests": 2}})),
    ]
    .into_iter()
    .enumerate()
    {
        let mut usage = json!({"input_tokens": number + 1, "output_tokens": 5});
        usage.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        // A first line without the terms, as at the beginning of a streamed answer.
        for usage in [json!({"input_tokens": number + 1, "output_tokens": 1}), usage] {
            let line = json!({"type": "assistant", "uuid": format!("u{number}"), "sessionId": SESSION, "cwd": "/w",
                "timestamp": format!("2026-04-20T00:00:0{number}.000Z"),
                "message": {"id": id, "role": "assistant", "model": model, "content": [{"type": "text", "text": "x"}],
                    "stop_reason": "end_turn", "usage": usage}});
            text += &format!("{line}\n");
        }
    }
    text
}

#[test]
fn terms_that_are_not_the_ordinary_ones_are_stamped_once() {
    let user = tempfile::tempdir().unwrap();
    let path = user.path().join(".claude/projects/-w").join(format!("{SESSION}.jsonl"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, log()).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    fs::File::open(&path).unwrap().set_modified(old).unwrap();
    ingest(user.path(), &[]);
    let stamps = lines(user.path(), "stamp");
    let told: Vec<(&Value, &Value)> =
        stamps.iter().map(|stamp| (&stamp["selector"]["messageId"], &stamp["enrichment"])).collect();
    let wanted = [
        (json!("msg_2"), json!({"serviceTier": "priority", "speed": "fast"})),
        (json!("msg_bdrk_3"), json!({"provider": "aws"})),
        (json!("msg_4"), json!({"webSearches": "2"})),
    ];
    assert_eq!(told, wanted.iter().map(|(id, terms)| (id, terms)).collect::<Vec<_>>());
    assert!(stamps.iter().all(|stamp| stamp["selector"]["sessionId"] == SESSION && stamp["ts"].is_string()));
    assert_eq!(lines(user.path(), "turn").len(), 4);

    // Reading a log again adds nothing.
    fs::remove_file(user.path().join("burn/cursors.json")).unwrap();
    ingest(user.path(), &[]);
    assert_eq!(lines(user.path(), "stamp").len(), 3);

    let reference = tempfile::tempdir().unwrap();
    let root = format!("claude={}", user.path().join(".claude/projects").display());
    ingest(reference.path(), &["--root", &root, "--as-reference"]);
    assert_eq!(lines(reference.path(), "turn").len(), 4);
    assert!(lines(reference.path(), "stamp").is_empty());
}

#[test]
fn the_branch_of_a_session_is_stamped_once_and_at_each_change() {
    let user = tempfile::tempdir().unwrap();
    let path = user.path().join(".claude/projects/-w").join(format!("{SESSION}.jsonl"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let branches = [Some("main"), Some("main"), None, Some("topic"), Some("topic"), Some("main")];
    let line = |number, side, branch| line_on(SESSION, number, side, branch);
    // A sub-agent may work on another branch, and does not change that of the session.
    let lines: Vec<String> = branches
        .iter()
        .enumerate()
        .map(|(number, branch)| line(number, false, *branch) + &line(number, true, Some("agent")))
        .collect();
    // The log is read in two passes, the second of which goes on in the middle of a branch.
    for end in [2, lines.len()] {
        fs::write(&path, lines[..end].concat()).unwrap();
        super::ingest::age(&path, 3600);
        ingest(user.path(), &[]);
    }
    let stamps = lines_of_stamps(user.path());
    let wanted = [
        (json!({"sessionId": SESSION}), json!({"gitBranch": "main"})),
        (
            json!({"sessionId": SESSION, "range": {"fromTs": "2026-04-20T00:00:03.000Z"}}),
            json!({"gitBranch": "topic"}),
        ),
        (
            json!({"sessionId": SESSION, "range": {"fromTs": "2026-04-20T00:00:05.000Z"}}),
            json!({"gitBranch": "main"}),
        ),
    ];
    assert_eq!(stamps, wanted);
    fs::remove_file(user.path().join("burn/cursors.json")).unwrap();
    ingest(user.path(), &[]);
    assert_eq!(lines_of_stamps(user.path()), wanted, "reading a log again adds nothing");
}

/// An answer of Claude Code at the second `number`, on the main thread or on a side chain.
fn line_on(session: &str, number: usize, side: bool, branch: Option<&str>) -> String {
    let mut line = json!({"type": "assistant", "uuid": format!("u{number}{side}"), "sessionId": session, "cwd": "/w",
        "isSidechain": side, "timestamp": format!("2026-04-20T00:00:0{number}.000Z"),
        "message": {"id": format!("msg_{number}{side}"), "role": "assistant", "model": "claude-opus-4-7", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": "x"}], "usage": {"input_tokens": number + 1, "output_tokens": 5}}});
    if let Some(branch) = branch {
        line["gitBranch"] = json!(branch);
    }
    format!("{line}\n")
}

#[test]
fn each_session_of_a_log_has_a_stamp_of_its_branch() {
    let user = tempfile::tempdir().unwrap();
    let path = user.path().join(".claude/projects/-w").join(format!("{SESSION}.jsonl"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // The log begins with lines of the session that it goes on with.
    let sessions = ["earlier", "earlier", SESSION, SESSION, SESSION];
    let lines: Vec<String> = sessions
        .iter()
        .enumerate()
        .map(|(number, session)| line_on(session, number, false, Some("main")))
        .collect();
    for end in [1, 3, lines.len()] {
        fs::write(&path, lines[..end].concat()).unwrap();
        super::ingest::age(&path, 3600);
        ingest(user.path(), &[]);
    }
    let stamp = |session: &str| (json!({"sessionId": session}), json!({"gitBranch": "main"}));
    assert_eq!(lines_of_stamps(user.path()), [stamp("earlier"), stamp(SESSION)]);
}

/// The selectors and enrichments of the stamps.
fn lines_of_stamps(user: &Path) -> Vec<(Value, Value)> {
    let of = |stamp: Value| (stamp["selector"].clone(), stamp["enrichment"].clone());
    lines(user, "stamp").into_iter().map(of).collect()
}
