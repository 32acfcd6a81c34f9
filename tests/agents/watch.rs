//! `burn ingest --watch` follows the changes that the system reports, and polls where there are no reports.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

use super::ingest::{Log, User};
use crate::common::processes::with_signals;

/// After this time a run without a reported change follows a run with one. Records that come earlier come by a report.
const SETTLED: Duration = Duration::from_millis(5_100);

/// A watching process, and its notes.
struct Watching<'u> {
    user: &'u User,
    child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl<'u> Watching<'u> {
    fn start(user: &'u User, words: &[&str]) -> Self {
        let mut command = with_signals();
        command.args(["ingest", "--watch"]).args(words).env_clear().env("HOME", user.0.path());
        command.env("RELAYBURN_HOME", user.path(".relayburn")).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (notes, stderr) = (Arc::clone(&said), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().for_each(|line| notes.lock().unwrap().push(line.unwrap()));
        });
        let watching = Watching { user, child, said };
        watching.until("it watches", || watching.has_said("SIGTERM ends it"));
        watching
    }

    fn has_said(&self, words: &str) -> bool {
        self.said.lock().unwrap().iter().any(|line| line.contains(words))
    }

    /// Waits until something holds, and returns how long that took.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn() -> bool) -> Duration {
        let started = Instant::now();
        while !holds() {
            assert!(started.elapsed() < Duration::from_secs(40), "not {what}: {:?}", self.said.lock());
            std::thread::sleep(Duration::from_millis(5));
        }
        started.elapsed()
    }

    /// Waits until the ledger has a turn, which must come sooner than without a report of the change.
    #[track_caller]
    fn until_turn(&self, id: &str) -> Duration {
        let turn = format!(r#""messageId":"{id}","turnIndex""#);
        let took = self.until(id, || self.user.lines().iter().any(|line| line.contains(&turn)));
        assert!(took < SETTLED - Duration::from_millis(500), "{id} came after {took:?}");
        took
    }

    /// Lets the runs pass that follow a change, so that no run but that of the next report is near.
    fn let_settle(&self) {
        std::thread::sleep(SETTLED + Duration::from_millis(900));
    }

    #[track_caller]
    fn end(mut self, signal: i32) {
        let started = Instant::now();
        // SAFETY: a plain call, to a child that was not waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn append(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_line_that_is_appended_is_in_the_ledger_at_once() {
    let user = User::new();
    let path = user.log("s.jsonl");
    let bytes = Log::conversation(60).bytes();
    let turn_ends: Vec<usize> = (1..=60).map(|turns| Log::conversation(turns).bytes().len()).collect();
    append(&path, &bytes[..turn_ends[0]]);
    let watching = Watching::start(&user, &[]);
    assert!(watching.has_said("watching for changes"));
    watching.until_turn("msg_0");
    watching.let_settle();
    let mut took = Vec::new();
    for turn in 1..6 {
        append(&path, &bytes[turn_ends[turn - 1]..turn_ends[turn]]);
        took.push(watching.until_turn(&format!("msg_{turn}")));
    }
    let shortest = took.iter().min().unwrap();
    assert!(*shortest < Duration::from_secs(1), "{took:?}");

    // A burst is one change, or two.
    let sentences =
        || watching.said.lock().unwrap().iter().filter(|line| line.contains("ingested 1")).count();
    let before = sentences();
    for turn in 6..60 {
        append(&path, &bytes[turn_ends[turn - 1]..turn_ends[turn]]);
    }
    watching.until_turn("msg_59");
    watching.until("the report", || sentences() > before);
    assert!(sentences() - before <= 3, "{:?}", watching.said.lock());
    watching.end(libc::SIGINT);
    let turns = user.lines().iter().filter(|line| line.contains(r#""kind":"turn""#)).count();
    assert!((119..=120).contains(&turns), "{turns}");
}

/// A line of a rollout.
fn rollout_line(kind: &str, payload: serde_json::Value) -> Vec<u8> {
    let line = json!({"timestamp": "2026-05-01T10:00:00.000Z", "type": kind, "payload": payload});
    format!("{line}\n").into_bytes()
}

/// The id of the `number`th turn, a UUID of version 7.
fn turn_id(number: u64) -> String {
    format!("019de4a0-{number:04}-7000-8000-000000000000")
}

/// A turn of a rollout, which is the `number`th of its session.
fn rollout_turn(number: u64) -> Vec<u8> {
    let id = turn_id(number);
    let used = json!({"input_tokens": 100 * number, "cached_input_tokens": 0, "output_tokens": 10 * number,
        "reasoning_output_tokens": 0, "total_tokens": 110 * number});
    [
        rollout_line("event_msg", json!({"type": "task_started", "turn_id": id})),
        rollout_line("event_msg", json!({"type": "token_count", "info": {"total_token_usage": used}})),
        rollout_line("event_msg", json!({"type": "task_complete", "turn_id": id})),
    ]
    .concat()
}

#[test]
fn folders_and_logs_that_come_move_and_go_are_followed() {
    const SESSION: &str = "019de4a0-0000-7000-8000-000000000001";
    let user = User::new();
    let watching = Watching::start(&user, &[]);
    watching.let_settle();
    // Neither the folder of Codex nor anything in it was there.
    let name = format!("rollout-2026-05-01T10-00-00-{SESSION}.jsonl");
    let active = user.path(".codex/sessions/2026/05/01").join(&name);
    let head = rollout_line("session_meta", json!({"id": SESSION, "cwd": "/w"}));
    append(&active, &[head.clone(), rollout_turn(1)].concat());
    watching.until_turn(&turn_id(1));
    // A new folder beside it.
    let other = user.path(".codex/sessions/2026/05/02/rollout-2026-05-02T10-00-00-other.jsonl");
    append(&other, &[rollout_line("session_meta", json!({"id": "other"})), rollout_turn(7)].concat());
    watching.until_turn(&turn_id(7));
    // A log is archived, and goes on.
    let archived = user.path(".codex/archived_sessions").join(&name);
    fs::create_dir_all(archived.parent().unwrap()).unwrap();
    fs::rename(&active, &archived).unwrap();
    append(&archived, &rollout_turn(2));
    watching.until_turn(&turn_id(2));
    // It is compressed, and went on before that.
    let whole = [head, rollout_turn(1), rollout_turn(2), rollout_turn(3)].concat();
    fs::write(archived.with_extension("jsonl.zst"), compress_to_vec(&whole[..], CompressionLevel::Fastest))
        .unwrap();
    fs::remove_file(&archived).unwrap();
    watching.until_turn(&turn_id(3));
    // Logs and their folders are deleted, and a folder comes again under its old name.
    fs::remove_dir_all(user.path(".codex/sessions")).unwrap();
    append(&other, &[rollout_line("session_meta", json!({"id": "other"})), rollout_turn(8)].concat());
    watching.until_turn(&turn_id(8));
    watching.end(libc::SIGTERM);
    let times = |number: u64| {
        let id = turn_id(number);
        let turn = format!(r#""messageId":"{id}","turnIndex""#);
        user.lines().iter().filter(|line| line.contains(&turn)).count()
    };
    assert_eq!([1, 2, 3, 7, 8].map(times), [1; 5]);
}

#[test]
fn where_changes_are_not_reported_runs_follow_each_other() {
    let user = User::new();
    let path = user.log("s.jsonl");
    let root = format!("claude={}", user.path(".claude/projects").display());
    // The kernel reports no changes of its own files.
    let watching = Watching::start(&user, &["--root", &root, "--root", "claude=/proc/self/fdinfo"]);
    assert!(watching.has_said("/proc/self does not report every change"), "{:?}", watching.said.lock());
    assert!(watching.has_said("every 1,000 ms"), "{:?}", watching.said.lock());
    // A log like a pipe is named once and not in each run.
    assert!(
        std::process::Command::new("mkfifo").arg(path.with_file_name("p.jsonl")).status().unwrap().success()
    );
    append(&path, &Log::conversation(2).bytes());
    watching.until_turn("msg_0");
    append(&path, b"{}\n");
    watching.until("the last turn", || user.lines().iter().any(|line| line.contains("end_1")));
    let named = watching.said.lock().unwrap().iter().filter(|line| line.contains("p.jsonl")).count();
    assert_eq!(named, 1, "{:?}", watching.said.lock());
    watching.end(libc::SIGINT);
}
