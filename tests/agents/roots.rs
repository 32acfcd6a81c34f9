//! The folders in which logs are looked for: lists in variables, relative folders, and folders of agents that are not read.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde_json::Value;

use crate::ingest::{Log, User, put_at_rest};

fn write_log(path: &Path) {
    put_at_rest(path, Log::conversation(1).bytes());
}

fn new_turns(user: &User, variable: &str, value: &OsStr) -> Value {
    let output = user.burn(&["ingest", "--json"]).env(variable, value).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["appended"]["turns"].clone()
}

#[test]
fn an_empty_entry_of_a_list_is_no_folder() {
    let user = User::new();
    write_log(&user.path("projects/-work/s.jsonl"));
    for list in ["none,", ",", " , ", ",none"] {
        assert_eq!(new_turns(&user, "CLAUDE_CONFIG_DIR", OsStr::new(list)), 0, "{list:?}");
    }
    assert_eq!(new_turns(&user, "CLAUDE_CONFIG_DIR", user.path("").as_os_str()), 2);
}

#[test]
fn a_folder_of_a_list_need_not_be_utf8() {
    let user = User::new();
    let folder = user.path("x").with_file_name(OsStr::from_bytes(b"logs-\xff"));
    write_log(&folder.join("projects/-work/s.jsonl"));
    let list = [b"none, ", folder.as_os_str().as_bytes()].concat();
    assert_eq!(new_turns(&user, "CLAUDE_CONFIG_DIR", &OsString::from_vec(list)), 2);
}

#[test]
fn a_relative_root_is_stored_as_an_absolute_path() {
    let user = User::new();
    write_log(&user.path("logs/-work/s.jsonl"));
    user.ingest(&["--agent", "claude", "--root", "claude=logs"]);
    let cursors = fs::read_to_string(user.path(".relayburn/cursors.json")).unwrap();
    assert!(cursors.contains(user.path("logs/-work/s.jsonl").to_str().unwrap()), "{cursors}");
    let lines = user.lines();
    assert!(lines.iter().any(|line| line.contains(r#""sessionPath":"~/logs/-work/s.jsonl""#)), "{lines:?}");
    let again = user.ingest(&["--json", "--agent", "claude", "--root", "claude=logs"]);
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap()["bytesRead"], 0);
}

#[test]
fn a_root_has_one_path_however_it_is_spelt() {
    let user = User::new();
    write_log(&user.path("logs/-work/s.jsonl"));
    std::fs::create_dir(user.path("other")).unwrap();
    let spelt = |root: &str| {
        let output = user.ingest(&["--json", "--agent", "claude", "--root", &format!("claude={root}")]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["bytesRead"].as_u64().unwrap()
    };
    assert!(spelt("logs") > 0);
    let whole = user.path("other/../logs");
    for root in ["./logs", "other/../logs", "logs/", whole.to_str().unwrap()] {
        assert_eq!(spelt(root), 0, "{root}");
    }
}

#[test]
fn a_root_of_an_agent_that_is_not_read_is_named() {
    let user = User::new();
    let words = ["--root", "codex=/x", "--agent", "claude"];
    let said = String::from_utf8(user.ingest(&words).stderr).unwrap();
    assert!(said.contains("--root codex=DIR only has an effect"), "{said}");
    let said = String::from_utf8(user.ingest(&[&words[..], &["--quiet"]].concat()).stderr).unwrap();
    assert_eq!(said, "");
    let said = String::from_utf8(user.ingest(&["--root", "codex=/x", "--agent", "codex"]).stderr).unwrap();
    assert!(!said.contains("only has an effect"), "{said}");
}
