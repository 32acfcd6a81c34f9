//! A ledger that is lost while its index, cursors and other files remain: a run writes its records again, or ends before it
//! has changed anything.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use relayburn_ledger::agents::{Agent, Ingest, IngestObserver, IngestOptions, IngestProgress};
use relayburn_ledger::home::Home;
use relayburn_ledger::interrupt::Interrupt;
use serde_json::{Value, json};

use crate::ingest::{Log, User, put_at_rest};

fn user_with_log() -> User {
    let user = User::new();
    put_at_rest(&user.log("s.jsonl"), Log::conversation(4).bytes());
    user
}

/// A log whose messages no other log has.
fn another_log() -> String {
    let log = String::from_utf8(Log::conversation(9).bytes()).unwrap();
    log.replace("msg_", "more_").replace("end_", "last_")
}

/// Calls the hook as Claude Code does, without a limit of time.
fn hook(user: &User, payload: Value) {
    let mut command = user.burn(&["ingest", "--hook", "claude", "--quiet"]);
    let mut hook = command.env("RELAYBURN_HOOK_MS", "0").stdin(Stdio::piped()).spawn().unwrap();
    let _ = hook.stdin.take().unwrap().write_all(payload.to_string().as_bytes());
    assert!(hook.wait().unwrap().success());
}

#[test]
fn the_records_of_a_lost_ledger_are_written_again_though_its_index_remains() {
    for is_emptied in [false, true] {
        let user = user_with_log();
        user.ingest(&[]);
        let home = user.path(".relayburn");
        let wanted = user.lines();
        let indexes = ["ledger.idx", "ledger.content.idx"];
        let before = indexes.map(|name| fs::read(home.join(name)).unwrap());
        match is_emptied {
            true => fs::write(home.join("ledger.jsonl"), "").unwrap(),
            false => fs::remove_file(home.join("ledger.jsonl")).unwrap(),
        }
        user.ingest(&["--check"]);
        let kept = indexes.map(|name| fs::read(home.join(name)).unwrap());
        assert_eq!(kept, before, "a check changes nothing");

        let said = String::from_utf8(user.ingest(&[]).stderr).unwrap();
        assert!(said.contains("all logs are read from their beginning"), "{said}");
        assert!(said.contains("ledger.idx.set-aside"), "{said}");
        assert_eq!(user.lines(), wanted, "emptied: {is_emptied}");
        let aside = indexes.map(|name| fs::read(home.join(format!("{name}.set-aside"))).unwrap());
        assert_eq!(aside, before);
        let again = String::from_utf8(user.ingest(&[]).stderr).unwrap();
        assert!(!again.contains("from their beginning"), "{again}");
        assert_eq!(user.lines(), wanted);
    }
}

#[test]
fn lines_that_a_ledger_lacks_are_written_again() {
    // An older copy of the ledger is put back, without and with the index of its time; or its last lines are cut off.
    for (is_older, with_index) in [(true, false), (true, true), (false, false)] {
        let user = user_with_log();
        user.ingest(&[]);
        let home = user.path(".relayburn");
        let kept = ["ledger.jsonl", "ledger.idx", "ledger.content.idx"].map(|name| {
            let path = home.join(name);
            (path.clone(), fs::read(path).unwrap())
        });
        put_at_rest(&user.log("more.jsonl"), another_log());
        user.ingest(&[]);
        let wanted = user.lines();
        let ledger = fs::read(&kept[0].0).unwrap();
        match is_older {
            true => {
                let files = if with_index { &kept[..] } else { &kept[..1] };
                files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
            }
            false => {
                let end = ledger[..ledger.len() - 900].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
                fs::write(&kept[0].0, &ledger[..end]).unwrap();
            }
        }
        assert!(user.lines().len() < wanted.len());
        let cursors = fs::read(home.join("cursors.json")).unwrap();
        hook(&user, json!({"session_id": "s", "transcript_path": user.log("s.jsonl")}));
        user.ingest(&["--check"]);
        assert_eq!(
            fs::read(home.join("cursors.json")).unwrap(),
            cursors,
            "a hook and a check change nothing"
        );

        let said = String::from_utf8(user.ingest(&[]).stderr).unwrap();
        assert!(said.contains("is not as the last run left it, so all logs are read"), "{said}");
        assert_eq!(said.contains("ledger.idx.set-aside"), !with_index, "{said}");
        assert_eq!(user.lines(), wanted, "older: {is_older}, with its index: {with_index}");
        let again = String::from_utf8(user.ingest(&[]).stderr).unwrap();
        assert!(!again.contains("from their beginning"), "{again}");
        assert_eq!(user.lines(), wanted);
    }
}

/// The files of a home that a backup has, without its folders.
fn files_of(home: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn an_older_ledger_is_noticed_by_any_file_that_does_not_belong_to_it() {
    // The files that come from the backup, and the files that are deleted.
    let ledger_and_index = &["ledger.jsonl", "ledger.idx", "ledger.content.idx"][..];
    let all = &[
        "ledger.jsonl",
        "ledger.idx",
        "ledger.content.idx",
        "ledger.idx.sorted",
        "cursors.json",
        "ingest.side.json",
    ];
    let all_but = |but: &str| all.iter().copied().filter(|name| *name != but).collect::<Vec<_>>();
    for (old, deleted, shown_by) in [
        (ledger_and_index.to_vec(), &["ingest.side.json"][..], "ingest.side.json is missing or damaged"),
        (vec!["ledger.jsonl"], &["ingest.side.json"], "ingest.side.json is missing or damaged"),
        (all_but("cursors.json"), &[], ""),
        (all_but("ledger.idx"), &[], "ledger.idx is not as the last run left it"),
        (all_but("ingest.side.json"), &[], "ledger.jsonl is not as the last run left it"),
    ] {
        let user = user_with_log();
        user.ingest(&[]);
        let home = user.path(".relayburn");
        let backup = files_of(&home);
        put_at_rest(&user.log("more.jsonl"), another_log());
        user.ingest(&[]);
        let wanted = user.lines();
        for (path, bytes) in backup {
            if old.iter().any(|name| path.ends_with(name)) {
                fs::write(path, bytes).unwrap();
            }
        }
        deleted.iter().for_each(|name| fs::remove_file(home.join(name)).unwrap());
        assert!(user.lines().len() < wanted.len());

        let before = files_of(&home);
        hook(&user, json!({"session_id": "s", "transcript_path": user.log("s.jsonl")}));
        user.ingest(&["--check"]);
        assert!(files_of(&home) == before, "{shown_by}: a hook and a check change nothing");

        let said = String::from_utf8(user.ingest(&[]).stderr).unwrap();
        match shown_by {
            // Only the logs whose cursors have moved are read again.
            "" => assert!(!said.contains("from their beginning"), "{said}"),
            _ => assert!(said.contains(&format!("{shown_by}, so all logs are read")), "{said}"),
        }
        assert_eq!(user.lines(), wanted, "{shown_by}");
        let again = user.ingest(&["--json"]);
        let said = String::from_utf8(again.stderr).unwrap();
        assert!(!said.contains("from their beginning"), "{said}");
        assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap()["bytesRead"], 0, "{shown_by}");
    }
}

#[test]
fn a_log_that_was_rewritten_is_noticed_without_notes() {
    let user = user_with_log();
    user.ingest(&[]);
    let before = user.lines().len();
    fs::write(user.log("s.jsonl"), another_log()).unwrap();
    put_at_rest(&user.log("s.jsonl"), another_log());
    fs::remove_file(user.path(".relayburn/ingest.side.json")).unwrap();
    user.ingest(&[]);
    let turns =
        |id: &str| user.lines().iter().filter(|line| line.contains("turn\"") && line.contains(id)).count();
    assert!(user.lines().len() > before && turns("more_") >= 9, "{}", turns("more_"));
}

#[test]
fn a_home_that_another_program_has_filled_is_read_on_from_its_cursors() {
    let user = user_with_log();
    let home = user.path(".relayburn");
    let bytes_read = |words: &[&str]| {
        let output = user.ingest(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("from their beginning"), "{said}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["bytesRead"].as_u64().unwrap()
    };
    // The TypeScript package writes neither notes nor sorted ids.
    assert!(bytes_read(&["--as-reference", "--json"]) > 0);
    let _ = fs::remove_file(home.join("ledger.idx.sorted"));
    assert_eq!(bytes_read(&["--json"]), 0);
    put_at_rest(&user.log("more.jsonl"), another_log());
    assert!(bytes_read(&["--json"]) > 0);
    // It goes on beside this program.
    put_at_rest(
        &user.log("third.jsonl"),
        another_log().replace("more_", "third_").replace("last_", "third_"),
    );
    assert!(bytes_read(&["--as-reference", "--json"]) > 0);
    assert_eq!(bytes_read(&["--json"]), 0);
    put_at_rest(
        &user.log("fourth.jsonl"),
        another_log().replace("more_", "fourth_").replace("last_", "fourth_"),
    );
    assert!(bytes_read(&["--json"]) > 0);
    // A line that makes no record moves the cursor of its log, and the ledger stays as it is.
    let log = user.log("third.jsonl");
    let longer = fs::read_to_string(&log).unwrap() + "{\"type\":\"summary\"}\n";
    put_at_rest(&log, &longer);
    assert!(bytes_read(&["--as-reference", "--json"]) > 0);
    assert_eq!(bytes_read(&["--json"]), longer.len() as u64, "only this log is read again");
    assert_eq!(bytes_read(&["--json"]), 0);
}

#[test]
fn hooks_go_on_in_a_home_that_another_program_has_filled() {
    let user = user_with_log();
    put_at_rest(&user.log("more.jsonl"), another_log());
    user.ingest(&["--as-reference"]);
    let _ = fs::remove_file(user.path(".relayburn/ledger.idx.sorted"));
    let after_tool = |tool: &str| {
        hook(
            &user,
            json!({"session_id": "s", "transcript_path": user.log("s.jsonl"), "hook_event_name": "PostToolUse",
                "tool_use_id": tool, "tool_name": "Bash"}),
        );
    };
    let waiting = || fs::read_dir(user.path(".relayburn/hooks")).map_or(0, Iterator::count);
    after_tool("toolu_a");
    after_tool("toolu_b");
    assert_eq!(waiting(), 0);
    let said = String::from_utf8(user.ingest(&[]).stderr).unwrap();
    assert!(!said.contains("from their beginning"), "{said}");

    // The cursor of another log has moved: a hook leaves it, and the next run reads that log.
    put_at_rest(&user.log("new.jsonl"), another_log().replace("more_", "new_").replace("last_", "end_"));
    user.ingest(&[]);
    let longer = another_log() + "{\"type\":\"summary\"}\n";
    put_at_rest(&user.log("more.jsonl"), &longer);
    user.ingest(&["--as-reference"]);
    after_tool("toolu_c");
    assert_eq!(waiting(), 0);
    let document: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
    assert_eq!(document["bytesRead"], longer.len());
}

#[test]
fn ids_that_a_rebuilt_index_has_besides_the_old_ones_are_no_sign_of_a_loss() {
    let user = user_with_log();
    user.ingest(&[]);
    let home = user.path(".relayburn");
    let ids = fs::read_to_string(home.join("ledger.idx")).unwrap();
    fs::write(home.join("ledger.idx"), &ids[..17]).unwrap();
    put_at_rest(&user.log("more.jsonl"), another_log());
    user.ingest(&[]);
    assert!(user.burn(&["state", "rebuild", "index"]).status().unwrap().success());
    for _ in 0..2 {
        let again = user.ingest(&["--json"]);
        assert_eq!(String::from_utf8(again.stderr).unwrap(), "");
        assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap()["bytesRead"], 0);
    }
}

#[test]
fn a_run_says_that_the_index_of_a_ledger_is_missing() {
    let user = user_with_log();
    user.ingest(&[]);
    fs::remove_file(user.path(".relayburn/ledger.idx")).unwrap();
    let said = String::from_utf8(user.ingest(&[]).stderr).unwrap();
    assert!(
        said.contains("ledger.idx is missing or empty") && said.contains("burn state rebuild index"),
        "{said}"
    );
    assert!(user.burn(&["state", "rebuild", "index"]).status().unwrap().success());
    assert_eq!(String::from_utf8(user.ingest(&["--json"]).stderr).unwrap(), "");
}

/// Cuts the ledger of a home as soon as a run has read something.
struct Cuts {
    ledger: PathBuf,
    is_done: bool,
}

impl IngestObserver for Cuts {
    fn note(&mut self, _text: &str) {}

    fn progress(&mut self, progress: IngestProgress) {
        if progress.done_bytes > 0 && !std::mem::replace(&mut self.is_done, true) {
            let bytes = fs::read(&self.ledger).unwrap();
            let end = bytes[..bytes.len() / 2].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
            fs::write(&self.ledger, &bytes[..end]).unwrap();
        }
    }
}

#[test]
fn lines_that_are_lost_during_a_run_are_written_again_by_the_next() {
    let user = user_with_log();
    put_at_rest(&user.log("more.jsonl"), another_log());
    user.ingest(&[]);
    let wanted = user.lines();
    fs::remove_dir_all(user.path(".relayburn")).unwrap();
    fs::remove_file(user.log("more.jsonl")).unwrap();
    user.ingest(&[]);
    put_at_rest(&user.log("more.jsonl"), another_log());
    let home = Home::at(user.path(".relayburn"));
    let mut cuts = Cuts { ledger: home.ledger(), is_done: false };
    let options = IngestOptions {
        agents: vec![Agent::Claude],
        roots: vec![(Agent::Claude, user.path(".claude/projects"))],
        ..IngestOptions::default()
    };
    Ingest::new(home, options).run(&mut cuts, &Interrupt::new()).unwrap();
    assert!(cuts.is_done);
    user.ingest(&[]);
    assert_eq!(user.lines(), wanted);
}

#[test]
fn ids_alone_show_that_a_ledger_is_lost() {
    // A run that was killed after it had emptied the cursors leaves the ids.
    let user = user_with_log();
    user.ingest(&[]);
    let wanted = user.lines();
    let home = user.path(".relayburn");
    for name in ["ledger.jsonl", "cursors.json", "ingest.side.json"] {
        fs::remove_file(home.join(name)).unwrap();
    }
    user.ingest(&[]);
    assert_eq!(user.lines(), wanted);
}

#[test]
fn a_ledger_that_is_put_back_after_its_index_was_set_aside_gets_no_record_twice() {
    let user = user_with_log();
    user.ingest(&[]);
    let wanted = user.lines();
    let home = user.path(".relayburn");
    // What a run leaves that is killed before its first append.
    for name in ["ledger.idx", "ledger.content.idx"] {
        fs::rename(home.join(name), home.join(format!("{name}.set-aside"))).unwrap();
    }
    fs::write(home.join("cursors.json"), r#"{"version":1,"files":{}}"#).unwrap();
    user.ingest(&[]);
    assert_eq!(user.lines(), wanted);
}

#[test]
fn hooks_and_the_status_line_leave_a_lost_ledger_to_the_next_run() {
    let user = user_with_log();
    user.ingest(&[]);
    let wanted = user.lines();
    let home = user.path(".relayburn");
    fs::rename(home.join("ledger.jsonl"), home.join("away")).unwrap();
    let ids = fs::read(home.join("ledger.idx")).unwrap();
    let log = user.log("s.jsonl");
    let payload = json!({"session_id": "s", "transcript_path": log, "hook_event_name": "Stop"});
    for words in [&["ingest", "--hook", "claude", "--quiet"][..], &["statusline", "--import-alone"]] {
        let mut call = user.burn(words).stdin(Stdio::piped()).spawn().unwrap();
        // The call may end before it has read everything.
        let _ = call.stdin.take().unwrap().write_all(payload.to_string().as_bytes());
        assert!(call.wait().unwrap().success());
        assert!(!home.join("ledger.jsonl").exists(), "{words:?}");
        assert_eq!(fs::read(home.join("ledger.idx")).unwrap(), ids, "{words:?}");
    }
    assert_eq!(fs::read_dir(home.join("hooks")).unwrap().count(), 1, "the call is kept");
    fs::rename(home.join("away"), home.join("ledger.jsonl")).unwrap();
    user.ingest(&[]);
    assert_eq!(user.lines(), wanted);
}

#[test]
fn two_runs_at_once_write_the_records_of_a_lost_ledger_once() {
    for _ in 0..3 {
        let user = user_with_log();
        user.ingest(&[]);
        let wanted = user.lines();
        fs::remove_file(user.path(".relayburn/ledger.jsonl")).unwrap();
        let runs = [0, 1].map(|_| user.burn(&["ingest", "--quiet"]).spawn().unwrap());
        for mut run in runs {
            assert!(run.wait().unwrap().success());
        }
        assert_eq!(user.lines(), wanted);
    }
}

#[test]
fn a_ledger_that_is_a_link_to_nothing_is_named_before_anything_is_written() {
    let user = user_with_log();
    user.ingest(&[]);
    let home = user.path(".relayburn");
    let elsewhere = user.path("elsewhere.jsonl");
    fs::rename(home.join("ledger.jsonl"), &elsewhere).unwrap();
    symlink(user.path("away/ledger.jsonl"), home.join("ledger.jsonl")).unwrap();
    let cursors = fs::read(home.join("cursors.json")).unwrap();
    fs::remove_dir_all(home.join("content")).unwrap();
    let output = user.burn(&["ingest"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ledger.jsonl") && said.contains("a symbolic link that leads nowhere"), "{said}");
    assert_eq!(fs::read(home.join("cursors.json")).unwrap(), cursors);
    assert!(home.join("ledger.idx").exists() && !home.join("content").exists());
    // The disk is there again.
    fs::create_dir(user.path("away")).unwrap();
    fs::rename(&elsewhere, user.path("away/ledger.jsonl")).unwrap();
    let again: Value = serde_json::from_slice(&user.ingest(&["--json"]).stdout).unwrap();
    assert_eq!(again["bytesRead"], 0);
}

#[test]
fn content_that_is_a_link_to_nothing_is_named_as_one() {
    let user = user_with_log();
    let home = user.path(".relayburn");
    fs::create_dir(&home).unwrap();
    symlink(user.path("away"), home.join("content")).unwrap();
    let output = user.burn(&["ingest"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("content") && said.contains("a symbolic link that leads nowhere"), "{said}");
    assert!(!home.join("ledger.jsonl").exists());
}
