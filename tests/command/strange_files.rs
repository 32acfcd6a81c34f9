//! With a named pipe, a socket, a device or a directory in the place of each file that `burn` keeps, every command ends
//! in time and writes to none of them.
#![cfg(unix)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than the wait for a lock, 11 s.
const PATIENCE: Duration = Duration::from_secs(40);

const TURN: &str = "{\"sessionId\":\"s1\",\"source\":\"claude-code\",\"messageId\":\"m1\",\"ts\":\"2026-01-02T03:04:05.000Z\",\"model\":\"m\",\
\"usage\":{\"input\":1,\"output\":2,\"reasoning\":0,\"cacheRead\":0,\"cacheCreate5m\":0,\"cacheCreate1h\":0},\"toolCalls\":[],\"turnIndex\":0}\n";

/// Runs `burn` in `directory`. Returns its exit code and standard error. Panics if it does not end.
#[track_caller]
fn burn(directory: &Path, args: &[&str], stdin: &str) -> (i32, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(args)
        .current_dir(directory)
        .env("RELAYBURN_HOME", "home")
        .env("RELAYBURN_PROGRESS", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(fs::File::create(directory.join("stderr")).unwrap())
        .spawn()
        .unwrap();
    // The command may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return (status.code().unwrap(), fs::read_to_string(directory.join("stderr")).unwrap());
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("burn {args:?} hangs");
}

const HOME: [(&str, &str); 12] = [
    ("ledger append --kind turns", TURN),
    ("ledger append --kind content", "{\"sessionId\":\"s1\"}\n"),
    ("state rebuild archive", ""),
    ("state rebuild archive --full", ""),
    ("state rebuild archive --vacuum", ""),
    ("state vacuum", ""),
    ("state status", ""),
    ("state prune", ""),
    ("ledger check", ""),
    ("query turns", ""),
    ("query turns --from ledger --json", ""),
    ("state rebuild index", ""),
];

const JOURNAL: [(&str, &str); 6] = [
    ("journal append journal", "one\n"),
    ("journal read journal", ""),
    ("journal status journal", ""),
    ("journal drain journal --store ingested", ""),
    ("journal cleanup journal", ""),
    ("journal recover journal", ""),
];

const SESSION: [(&str, &str); 7] = [
    ("session append talk.v2", "{\"entryId\":\"e1\",\"entryType\":\"message\",\"payload\":{}}\n"),
    ("session checkpoint talk.v2", ""),
    ("session manifest talk.v2 --write", ""),
    ("session show talk.v2", ""),
    ("session check talk.v2", ""),
    ("session reindex talk.v2", ""),
    ("session rollback talk.v2 1", ""),
];

const BOOK: [(&str, &str); 6] = [
    ("book init books", ""),
    ("book asset books USD --precision 2 --name dollar", ""),
    ("book account books shop:cash --asset USD --kind asset", ""),
    ("book snapshot books", ""),
    ("book balance books", ""),
    ("book check books", ""),
];

fn run_all(directory: &Path, commands: &[(&str, &str)]) -> Vec<(i32, String)> {
    let run = |&(line, stdin): &(&str, &str)| burn(directory, &line.split(' ').collect::<Vec<_>>(), stdin);
    commands.iter().map(run).collect()
}

/// Files below a directory, relative to it, without the files that fjall creates and opens.
fn files(directory: &Path, inside: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory.join(inside)).unwrap() {
        let path = inside.join(entry.unwrap().file_name());
        match directory.join(&path).is_dir() {
            true if path.ends_with("fjall") => {}
            true => files(directory, &path, found),
            false => found.push(path),
        }
    }
}

/// Creates a file of this kind at a free path.
type Put = fn(&Path);

fn put_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn put_socket(path: &Path) {
    // The length of a socket's path is limited.
    let short = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(short.path().join("s")).unwrap());
    fs::rename(short.path().join("s"), path).unwrap();
}

fn put_device(path: &Path) {
    // Reading it never ends.
    std::os::unix::fs::symlink("/dev/zero", path).unwrap();
}

fn put_directory(path: &Path) {
    fs::create_dir(path).unwrap();
}

/// Puts each kind in the place of each file that the commands create, and of the files `more`, and runs all commands
/// again.
fn meet(commands: &[(&str, &str)], more: &[&str]) {
    let kinds: [(&str, Put); 4] =
        [("pipe", put_pipe), ("socket", put_socket), ("device", put_device), ("directory", put_directory)];
    let made = tempfile::tempdir().unwrap();
    for (number, (code, stderr)) in run_all(made.path(), commands).into_iter().enumerate() {
        assert_eq!(code, 0, "{}: {stderr}", commands[number].0);
    }
    fs::remove_file(made.path().join("stderr")).unwrap();
    let mut places = Vec::new();
    files(made.path(), Path::new(""), &mut places);
    assert!(places.len() >= 3, "{places:?}");
    places.extend(more.iter().map(PathBuf::from));
    for place in &places {
        for (kind, put) in kinds {
            let directory = tempfile::tempdir().unwrap();
            let copied =
                Command::new("cp").arg("-a").arg(made.path().join(".")).arg(directory.path()).status();
            assert!(copied.unwrap().success());
            let target = directory.path().join(place);
            let _ = fs::remove_file(&target);
            put(&target);
            let outcomes = run_all(directory.path(), commands);
            let told = outcomes.iter().map(|(code, stderr)| format!("{code} {stderr}")).collect::<String>();
            assert!(outcomes.iter().all(|(code, _)| [0, 1].contains(code)), "{kind} at {place:?}: {told}");
            assert!(!told.contains("panicked"), "{kind} at {place:?}: {told}");
            if std::env::var_os("SHOW").is_some() {
                println!("{kind} at {place:?}:\n{told}");
            }
            // Nothing was written to the pipe.
            if kind == "pipe" && fs::symlink_metadata(&target).is_ok_and(|found| found.file_type().is_fifo())
            {
                let mut pipe = fs::OpenOptions::new();
                pipe.read(true).write(true);
                std::os::unix::fs::OpenOptionsExt::custom_flags(&mut pipe, libc::O_NONBLOCK);
                let read = std::io::Read::read(&mut pipe.open(&target).unwrap(), &mut [0; 8]);
                assert!(read.is_err(), "written into the pipe at {place:?}");
            }
        }
    }
}

#[test]
fn of_a_home() {
    let more = ["archive.sqlite-wal", "archive.sqlite-shm", "archive.sqlite-journal", "config.json"];
    meet(&HOME, &more.map(|name| ["home", name].join("/")).each_ref().map(String::as_str));
}

#[test]
fn of_a_journal_and_its_store() {
    meet(&JOURNAL, &["journal/SKIPS"]);
}

#[test]
fn of_a_session_store() {
    meet(&SESSION, &["talk.v2/migrations/ledger.jsonl"]);
}

#[test]
fn of_a_book() {
    meet(&BOOK, &[]);
}

/// A lock file is not opened, so it becomes stale like any other; its side file may be of any kind.
#[test]
fn of_a_lock() {
    for (name, put) in
        [("ledger.lock", put_pipe as Put), ("ledger.lock.rob", put_pipe), ("ledger.lock.rob", put_directory)]
    {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("ledger.lock"), b"").unwrap();
        let old = std::time::SystemTime::now() - Duration::from_secs(60);
        fs::File::open(home.join("ledger.lock")).unwrap().set_modified(old).unwrap();
        let _ = fs::remove_file(home.join(name));
        put(&home.join(name));
        assert_eq!(
            burn(directory.path(), &["ledger", "append", "--kind", "turns"], TURN),
            (0, String::new()),
            "{name}"
        );
        assert!(!home.join("ledger.lock").exists());
    }
}
