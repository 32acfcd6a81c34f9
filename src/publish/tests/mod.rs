//! Publishing against other processes. They are this test executable again, in one of the roles below, and Python's
//! `sqlite3` where there is one. Every archive holds its generation in each of many rows, so that a mixture shows.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod cases;
mod crowd;
mod kills;
mod roles;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use rusqlite::Connection;

use super::{PublishStep, Published};

/// Rows of an archive; with their padding some 800 KB, many strides of path B.
const ROWS: i64 = 1500;

const PAUSE_AT: &str = "BURN_TEST_PAUSE_AT";
const PAUSED: &str = "paused";

/// Stops for good, to be killed, when the parent asked for it.
pub(super) fn reached(step: PublishStep) {
    if std::env::var_os(PAUSE_AT).is_some_and(|name| name == *format!("{step:?}")) {
        println!("{PAUSED}");
        loop {
            std::thread::park();
        }
    }
}

/// How many times more than in the quick run.
fn scale() -> u32 {
    std::env::var("BURN_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap())
}

struct Home {
    _directory: tempfile::TempDir,
    archive: PathBuf,
}

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().canonicalize().unwrap().join("archive.sqlite");
        Home { _directory: directory, archive }
    }

    /// A home whose archive was made by another program: WAL mode, 4096-byte pages.
    fn with_archive(generation: i64) -> Home {
        let home = Home::new();
        fill(&home.archive, generation, 4096);
        home
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.archive.parent().unwrap()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Makes a whole archive of one generation.
fn fill(path: &Path, generation: i64, page_size: u32) {
    let mut archive = Connection::open(path).unwrap();
    archive.pragma_update(None, "page_size", page_size).unwrap();
    archive.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
    let filling = archive.transaction().unwrap();
    filling
        .execute_batch(
            "CREATE TABLE rows(generation, pad); CREATE TABLE tail(pad); CREATE INDEX pads ON rows(pad);",
        )
        .unwrap();
    for row in 0..ROWS {
        let pad = format!("{row:0>200}");
        filling.execute("INSERT INTO rows VALUES(?1, ?2)", (generation, pad)).unwrap();
    }
    filling.commit().unwrap();
    archive.close().unwrap();
}

/// The generation of an archive of which every row must have the same.
fn generation(archive: &Connection) -> rusqlite::Result<i64> {
    let (low, high, count): (i64, i64, i64) =
        archive.query_row("SELECT min(generation), max(generation), count(pad) FROM rows", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    assert_eq!((low, count), (high, ROWS), "a mixture of two archives");
    Ok(low)
}

/// Opens the archive afresh, checks it whole, and returns its generation.
fn check(path: &Path) -> i64 {
    let archive = Connection::open(path).unwrap();
    let verdict: String = archive.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    generation(&archive).unwrap()
}

fn header_modes(path: &Path) -> [u8; 2] {
    let bytes = fs::read(path).unwrap();
    [bytes[18], bytes[19]]
}

fn publish_here(live: &Path, generation: i64) -> Result<Published, super::PublishError> {
    let plan = super::prepare(live)?;
    fill(plan.build_path(), generation, plan.page_size());
    plan.publish(|| true)
}

/// A connection of another process, in a state of its own.
fn attach(home: &Home, state: &str) -> Peer {
    let mut peer = Peer::start("attached", &home.archive, &[("BURN_TEST_STATE", state)]);
    peer.hear("attached").unwrap();
    peer
}

/// Another process in one of the roles of `roles`, spoken to in lines.
struct Peer {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    fn start(role: &str, archive: &Path, settings: &[(&str, &str)]) -> Peer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--ignored", "--exact", "publish::tests::roles::role", "--nocapture", "--quiet"])
            .env("BURN_TEST_ROLE", role)
            .env("BURN_TEST_ARCHIVE", archive)
            .envs(settings.iter().copied());
        Peer::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Peer {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Peer { stdin: child.stdin.take(), stdout, child }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The next line that begins with `word`, without it; `None` when the process ends before.
    fn hear(&mut self, word: &str) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if let Some(rest) = line.trim_end().strip_prefix(word) {
                return Some(rest.trim_start().to_owned());
            }
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn finish(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }
}
