//! Commands whose standard error is a terminal: they show progress, and end.
#![cfg(target_os = "linux")]

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// A new terminal: the side of its user, and the path of the side of its programs.
fn terminal() -> (File, String) {
    let ours = OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
    let (mut locked, mut number) = (0_i32, 0_u32);
    // SAFETY: both calls read or write one integer that lives until they return, of the file that is open here.
    let done = unsafe {
        [
            libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &raw mut locked),
            libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTN, &raw mut number),
        ]
    };
    assert_eq!(done, [0, 0], "{}", std::io::Error::last_os_error());
    (ours, format!("/dev/pts/{number}"))
}

/// Runs a command with a terminal as its three streams, and returns its exit code and what the terminal got.
fn on_a_terminal(home: &Path, words: &[&str]) -> (Option<i32>, String) {
    let (mut ours, name) = terminal();
    let theirs = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
    let stream = || Stdio::from(theirs.try_clone().unwrap());
    let mut child = Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(words)
        .env("HOME", home)
        .env("RELAYBURN_HOME", home)
        .env("TERM", "xterm")
        .env_remove("RELAYBURN_PROGRESS")
        .stdin(stream())
        .stdout(stream())
        .stderr(stream())
        .spawn()
        .unwrap();
    drop(theirs);
    let reader = std::thread::spawn(move || {
        let mut shown = Vec::new();
        // Reading a terminal that nobody has open any more fails.
        let _ = ours.read_to_end(&mut shown);
        String::from_utf8_lossy(&shown).into_owned()
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("burn {words:?} did not end: {}", reader.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    (status.code(), reader.join().unwrap())
}

#[test]
fn commands_with_progress_end_and_say_what_they_did() {
    let home = tempfile::tempdir().unwrap();
    let logs = home.path().join(".claude/projects/-w");
    fs::create_dir_all(&logs).unwrap();
    let prompt = |number: u32| {
        format!(
            r#"{{"type":"user","uuid":"u{number}","sessionId":"s","timestamp":"2026-11-01T10:00:00.000Z","message":{{"role":"user","content":"hello"}}}}"#
        ) + "\n"
    };
    let answer = r#"{"type":"assistant","uuid":"a1","parentUuid":"u1","sessionId":"s","timestamp":"2026-11-01T10:00:01.000Z","message":{"id":"m1","role":"assistant","model":"claude-opus-4-7","stop_reason":"end_turn","content":[{"type":"text","text":"hi"}],"usage":{"input_tokens":10,"output_tokens":5}}}"#;
    fs::write(logs.join("s.jsonl"), prompt(1) + answer + "\n" + &prompt(2)).unwrap();
    // A log that rests: its last message is not open any more.
    let log = File::options().write(true).open(logs.join("s.jsonl")).unwrap();
    log.set_modified(SystemTime::now() - Duration::from_secs(86_400)).unwrap();
    for (words, said) in [
        (&["ingest"][..], "ingested 1 session"),
        (&["ingest"], "ingested 0 sessions"),
        (&["state", "rebuild", "archive"], "1 turn"),
        (&["usage"], "total"),
        (&["state", "rebuild", "all"], "built again"),
    ] {
        let (code, shown) = on_a_terminal(home.path(), words);
        assert_eq!(code, Some(0), "{words:?}: {shown}");
        assert!(shown.contains(said), "{words:?}: {shown}");
    }
}

#[test]
fn a_terminal_gets_totals_and_no_commands() {
    let home = tempfile::tempdir().unwrap();
    let line = r#"{"v":1,"kind":"turn","record":{"source":"claude-code","sessionId":"s","messageId":"m","turnIndex":0,"ts":"2026-11-01T10:00:00.000Z","model":"evil\u001b]0;name\u0007","usage":{"input":1,"output":1,"reasoning":0,"cacheRead":0,"cacheCreate5m":7.5,"cacheCreate1h":2},"toolCalls":[]}}"#;
    fs::write(home.path().join("ledger.jsonl"), format!("{line}\n")).unwrap();
    let (code, shown) = on_a_terminal(home.path(), &["usage", "--by", "model", "--since", "2026", "--csv"]);
    assert_eq!(code, Some(0), "{shown}");
    let (_, shown_table) = on_a_terminal(home.path(), &["query", "turns", "--columns", "model,cache w"]);
    assert!(shown_table.lines().last().unwrap().split_whitespace().eq(["total", "9.5"]), "{shown_table:?}");
    assert!(shown.contains("evil\u{fffd}]0;name\u{fffd}"), "{shown:?}");
}
