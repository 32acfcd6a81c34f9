//! Files in the archive's place that are no archives: databases of other programs stay, other files keep their content
//! under another name, and a report never overwrites a file.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use relayburn_ledger::archive::{self, Load, Options, Paths, Unobserved};
use relayburn_ledger::home::{Home, LockName};
use rusqlite::Connection;

use crate::common::{self, processes};

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::copy(common::fixture("sample/ledger.jsonl"), directory.path().join("l.jsonl")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `burn state rebuild archive` in the directory, ledger `l.jsonl`, archive `a.sqlite`.
    fn burn(&self, more: &[&str]) -> Output {
        self.rebuild("l.jsonl", "a.sqlite", more)
    }

    fn rebuild(&self, ledger: &str, archive: &str, more: &[&str]) -> Output {
        let directory = self.directory.path();
        let mut burn = processes::rebuild(directory, &["--ledger", ledger, "--archive", archive]);
        burn.current_dir(directory).args(more).output().unwrap()
    }

    /// The answer of an archive to a question with one.
    fn number(&self, archive: &str, sql: &str) -> i64 {
        Connection::open(self.path(archive)).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    fn refused(&self, more: &[&str]) -> String {
        let output = self.burn(more);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn databases_of_other_programs_are_left_byte_for_byte() {
    for schema in [
        "CREATE TABLE users(name); INSERT INTO users VALUES ('a')",
        "CREATE TABLE users(name); CREATE TABLE sessions(id, token); INSERT INTO users VALUES ('a')",
        "CREATE TABLE sessions(id, token); INSERT INTO sessions VALUES (1, 'x')",
        "CREATE TABLE archive_state(id)",
        "CREATE VIEW v AS SELECT 1",
    ] {
        let place = Place::new();
        let archive = place.path("a.sqlite");
        Connection::open(&archive).unwrap().execute_batch(schema).unwrap();
        let before = fs::read(&archive).unwrap();
        for more in [&[][..], &["--full"], &["--vacuum"]] {
            let stderr = place.refused(more);
            assert!(stderr.contains("a.sqlite"), "{stderr}");
            assert_eq!(fs::read(&archive).unwrap(), before, "{schema} {more:?}");
        }
    }
}

fn burn_at(home: &Path, words: &[&str]) -> (i32, String) {
    let (code, stdout, stderr) = super::burn(home, words);
    (code, stdout + &stderr)
}

#[test]
fn nothing_offers_to_complete_a_database_of_another_program() {
    let home = tempfile::tempdir().unwrap();
    Connection::open(home.path().join("archive.sqlite"))
        .unwrap()
        .execute_batch("CREATE TABLE users(name)")
        .unwrap();
    for words in [&["state", "status"][..], &["query", "turns"]] {
        let (_, text) = burn_at(home.path(), words);
        assert!(text.contains("not an archive") && !text.contains("completes it"), "{text}");
    }
}

#[test]
fn an_archive_that_lost_a_table_is_not_taken_for_an_empty_one() {
    for table in ["turns", "tool_calls", "stamps"] {
        let home = Place::new();
        let path = home.directory.path();
        fs::rename(home.path("l.jsonl"), home.path("ledger.jsonl")).unwrap();
        assert_eq!(burn_at(path, &["state", "rebuild", "archive"]).0, 0);
        let archive = Connection::open(home.path("archive.sqlite")).unwrap();
        archive.execute_batch(&format!("DROP TABLE {table}")).unwrap();
        for words in [&["state", "status"][..], &["query", "turns"], &["state", "rebuild", "archive"]] {
            let (code, text) = burn_at(path, words);
            assert_eq!(code, 1, "{words:?}: {text}");
            assert!(text.contains(&format!("it has no table {table}")) && text.contains("--full"), "{text}");
        }
        drop(archive);
        assert_eq!(burn_at(path, &["state", "rebuild", "archive", "--full"]).0, 0);
        let (code, text) = burn_at(path, &["query", "turns", "--jsonl"]);
        assert_eq!((code, text.lines().count()), (0, 111), "{text}");
    }
}

#[test]
fn a_database_that_somebody_keeps_locked_is_not_replaced() {
    let place = Place::new();
    let archive = place.path("a.sqlite");
    let other = Connection::open(&archive).unwrap();
    other.execute_batch("CREATE TABLE users(name); BEGIN EXCLUSIVE").unwrap();
    let stderr = place.refused(&["--full"]);
    assert!(stderr.contains("locked") || stderr.contains("in use"), "{stderr}");
    other.execute_batch("ROLLBACK").unwrap();
    other.query_row("SELECT count(*) FROM users", [], |_| Ok(())).unwrap();
}

#[test]
fn what_is_no_database_keeps_its_content_behind_a_link_too() {
    for linked in [false, true] {
        let place = Place::new();
        let precious = if linked { place.path("precious.txt") } else { place.path("a.sqlite") };
        fs::write(&precious, "somebody's notes").unwrap();
        if linked {
            std::os::unix::fs::symlink("precious.txt", place.path("a.sqlite")).unwrap();
        }
        let content = || -> Vec<PathBuf> {
            let files = fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().path());
            files.filter(|path| fs::read(path).is_ok_and(|text| text == b"somebody's notes")).collect()
        };

        // A build that fails gives the file its name back.
        place.refused(&["--full", "--force", "--strict"]);
        assert_eq!(fs::read(&precious).unwrap(), b"somebody's notes");
        for more in [&[][..], &["--full"]] {
            let stderr = place.refused(more);
            assert!(
                stderr.contains("is no SQLite database") && stderr.contains("--full --force"),
                "{stderr}"
            );
            assert_eq!(fs::read(&precious).unwrap(), b"somebody's notes");
        }

        let output = place.burn(&["--full", "--force"]);
        assert!(output.status.success(), "{output:?}");
        let kept = content();
        assert_eq!(kept.len(), 1, "{kept:?}");
        let name = kept[0].file_name().unwrap().to_str().unwrap();
        assert!(name.contains(".set-aside-"), "{name}");
        assert!(String::from_utf8(output.stderr).unwrap().contains(name));
        assert!(place.number("a.sqlite", "SELECT count(*) FROM turns") > 100);
    }
}

#[test]
fn a_report_does_not_go_over_what_it_reports_on() {
    let place = Place::new();
    for name in ["l.jsonl", "a.sqlite", "./a.sqlite", "a.sqlite-wal", "a.sqlite-shm", "a.sqlite.lock"] {
        let output = place.burn(&["--report", name]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("cannot be its report: name another file"), "{stderr}");
        assert!(!place.path("a.sqlite").exists());
    }
    assert!(place.burn(&["--report", "report.jsonl"]).status.success());
    assert_eq!(fs::read_to_string(place.path("report.jsonl")).unwrap().lines().count(), 2);
}

#[test]
fn a_report_goes_over_no_file_and_a_failed_build_leaves_none_behind() {
    let place = Place::new();
    fs::write(place.path("notes.md"), "notes").unwrap();
    let output = place.burn(&["--full", "--report", "notes.md"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("notes.md exists and is not overwritten"));
    assert_eq!(fs::read(place.path("notes.md")).unwrap(), b"notes");
    let output = place.burn(&["--full", "--report", "-"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8(output.stderr).unwrap().contains("/dev/stdout"));
    assert!(!place.path("a.sqlite").exists() && !place.path("-").exists());

    fs::write(place.path("a.sqlite"), "no database").unwrap();
    place.refused(&["--full", "--report", "r.jsonl"]);
    assert!(!place.path("r.jsonl").exists());
    assert!(place.burn(&["--full", "--force", "--report", "r.jsonl"]).status.success());
    assert_eq!(fs::read_to_string(place.path("r.jsonl")).unwrap().lines().count(), 2);
}

fn rebuild_in(place: &Place, ledger: &str, archive: &str, more: &[&str]) -> (Option<i32>, String) {
    let output = place.rebuild(ledger, archive, more);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_ledger_and_an_archive_that_are_swapped_stay_what_they_are() {
    let place = Place::new();
    assert!(place.burn(&[]).status.success());
    let ledger = fs::read(place.path("l.jsonl")).unwrap();
    for more in [&["--full"][..], &[]] {
        let (code, stderr) = rebuild_in(&place, "a.sqlite", "l.jsonl", more);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("l.jsonl is no SQLite database"), "{stderr}");
        assert_eq!(fs::read(place.path("l.jsonl")).unwrap(), ledger);
        assert!(place.burn(&[]).status.success());
    }
}

#[test]
fn a_ledger_that_is_named_must_be_there() {
    let place = Place::new();
    for more in [&["--full"][..], &[]] {
        let (code, stderr) = rebuild_in(&place, "nope.jsonl", "new.sqlite", more);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("there is no ledger at nope.jsonl"), "{stderr}");
        assert!(!place.path("new.sqlite").exists());
    }
}

#[test]
fn a_file_of_which_nothing_is_stored_is_no_ledger() {
    let place = Place::new();
    fs::write(place.path("notes.md"), "# Notes\n\n- one\n").unwrap();
    let (code, stderr) = rebuild_in(&place, "notes.md", "new.sqlite", &["--full"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("nothing of notes.md was stored, 2 lines left out"), "{stderr}");
    // A ledger without lines is a ledger, and so is a ledger whose lines are never archived.
    let relationship =
        r#"{"v":1,"kind":"relationship","record":{"source":"c","sessionId":"s","relationshipType":"root"}}"#;
    for text in ["", "\n", &format!("{relationship}\n")] {
        fs::write(place.path("small.jsonl"), text).unwrap();
        let (code, stderr) = rebuild_in(&place, "small.jsonl", "small.sqlite", &["--full"]);
        assert_eq!(code, Some(0), "{text:?}: {stderr}");
    }
    // Lines that end with CR alone are one line without an end.
    fs::write(place.path("cr.jsonl"), format!("{relationship}\r{relationship}\r")).unwrap();
    let (code, stderr) = rebuild_in(&place, "cr.jsonl", "cr.sqlite", &["--full"]);
    assert!(code == Some(0) && stderr.contains("no whole line to read"), "{stderr}");
    // A bad line in a tail is no reason to fail either.
    let mut ledger = fs::read(place.path("l.jsonl")).unwrap();
    assert!(place.burn(&[]).status.success());
    ledger.extend_from_slice(b"no json\n");
    fs::write(place.path("l.jsonl"), ledger).unwrap();
    assert!(place.burn(&[]).status.success());
}

/// A report that cannot be written stops a tail build before its commit.
#[test]
#[cfg(target_os = "linux")]
fn a_report_on_a_full_disk_leaves_the_archive_as_it_was() {
    let place = Place::new();
    assert!(place.burn(&[]).status.success());
    let cursor = || place.number("a.sqlite", "SELECT ledger_offset_bytes FROM archive_state");
    let before = cursor();
    let mut ledger = fs::OpenOptions::new().append(true).open(place.path("l.jsonl")).unwrap();
    std::io::Write::write_all(&mut ledger, b"{\"v\":1,\n").unwrap();
    let stderr = place.refused(&["--report", "/dev/full"]);
    assert!(stderr.contains("as it was"), "{stderr}");
    assert_eq!(cursor(), before);
}

#[test]
fn archives_of_any_page_size_are_rebuilt_in_place() {
    for page_size in [512, 1024, 65536] {
        let place = Place::new();
        assert!(place.burn(&["--full"]).status.success());
        let archive = Connection::open(place.path("a.sqlite")).unwrap();
        archive
            .execute_batch(&format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {page_size}; VACUUM"))
            .unwrap();
        drop(archive);
        // The file has a second name, so it must stay.
        fs::hard_link(place.path("a.sqlite"), place.path("b.sqlite")).unwrap();
        let output = place.burn(&["--full"]);
        assert!(output.status.success(), "{page_size}: {output:?}");
        assert!(place.number("b.sqlite", "SELECT count(*) FROM turns") > 100);
    }
}

/// Two builds with two names of one archive must not work at the same time.
#[test]
fn all_names_of_an_archive_have_one_lock() {
    let place = Place::new();
    assert!(place.burn(&["--full"]).status.success());
    let elsewhere = place.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(place.path("a.sqlite"), elsewhere.join("real.sqlite")).unwrap();
    std::os::unix::fs::symlink("elsewhere/real.sqlite", place.path("a.sqlite")).unwrap();
    let paths = |archive: &str| Paths::offline(place.path("l.jsonl"), place.path(archive));
    let real = fs::canonicalize(&elsewhere).unwrap().join("real.sqlite.lock");
    assert_eq!(paths("a.sqlite").lock, real);
    assert_eq!(
        fs::canonicalize(paths("elsewhere/real.sqlite").lock.parent().unwrap()).unwrap(),
        real.parent().unwrap()
    );
    let held = real.clone();
    fs::write(&held, format!("{}\n", std::process::id())).unwrap();
    let found = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| place.burn(&["--full"]));
        std::thread::sleep(std::time::Duration::from_millis(600));
        let is_waiting = !waiting.is_finished();
        fs::remove_file(&held).unwrap();
        assert!(waiting.join().unwrap().status.success());
        is_waiting
    });
    assert!(found, "the build did not wait for the lock beside the file that its archive's name leads to");
    assert!(!place.path("a.sqlite.lock").exists());
}

/// A home's archive has one lock, whether it is named by its home, its path or a link, and even if the home's file is
/// the link.
#[test]
fn the_archive_of_a_home_has_one_lock_by_home_and_by_path() {
    let place = Place::new();
    let home = Home::at(place.path("home"));
    fs::create_dir(home.root()).unwrap();
    std::os::unix::fs::symlink("home/archive.sqlite", place.path("linked")).unwrap();
    std::os::unix::fs::symlink("home", place.path("same")).unwrap();
    fs::write(home.ledger(), b"").unwrap();
    archive::build_tail(&Paths::of_home(&home), &Options::default(), &mut Unobserved).unwrap();
    for named in ["home/archive.sqlite", "home/./archive.sqlite", "linked", "same/archive.sqlite"] {
        let lock = Paths::offline(home.ledger(), place.path(named)).lock;
        let directory = fs::canonicalize(lock.parent().unwrap()).unwrap();
        assert_eq!(directory, fs::canonicalize(home.root()).unwrap(), "{named}");
        assert_eq!(lock.file_name(), home.lock(LockName::Archive).file_name(), "{named}");
    }
    // If a home's archive is a link to a file with another name, a build takes the locks of both names.
    fs::rename(home.archive(), place.path("real.sqlite")).unwrap();
    std::os::unix::fs::symlink("../real.sqlite", home.archive()).unwrap();
    for held in [home.lock(LockName::Archive), place.path("real.sqlite.lock")] {
        fs::write(&held, b"").unwrap();
        std::thread::scope(|scope| {
            let build = || archive::build_tail(&Paths::of_home(&home), &Options::default(), &mut Unobserved);
            let waiting = scope.spawn(build);
            std::thread::sleep(std::time::Duration::from_millis(600));
            assert!(!waiting.is_finished(), "{} was not asked for", held.display());
            fs::remove_file(&held).unwrap();
            waiting.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_page_size_that_sqlite_does_not_know_is_refused_whatever_the_loader() {
    let place = Place::new();
    for (loader, page_size_bytes) in [(Load::Bulk, 512), (Load::Insert, 5000), (Load::Insert, 0)] {
        let paths = Paths::offline(place.path("l.jsonl"), place.path("a.sqlite"));
        let options = Options { load: loader, page_size_bytes, ..Options::default() };
        let error = archive::rebuild_full(&paths, &options, &mut Unobserved).unwrap_err();
        assert!(error.to_string().contains(&page_size_bytes.to_string()), "{error}");
        assert!(!place.path("a.sqlite").exists());
    }
}

/// Another program may store a stamp that is no JSON, no UTF-8 or no text. The rows are then made from the ledger,
/// which has the original stamp.
#[test]
fn a_stored_stamp_that_cannot_be_read_is_named_by_its_place_in_the_ledger() {
    for stored in ["'[1'", "CAST(x'7b22ff227d' AS TEXT)", "x'7b7d'"] {
        a_stored_stamp_that_cannot_be_read(stored);
    }
}

fn a_stored_stamp_that_cannot_be_read(stored: &str) {
    let place = Place::new();
    let ledger = fs::read_to_string(place.path("l.jsonl")).unwrap();
    let (stamped, _) = ledger.trim_end().rsplit_once('\n').unwrap();
    let tail = &ledger[stamped.len() + 1..];
    fs::write(place.path("l.jsonl"), format!("{stamped}\n")).unwrap();
    assert!(place.burn(&["--full"]).status.success());
    let archive = Connection::open(place.path("a.sqlite")).unwrap();
    let of_first = "WHERE rowid = (SELECT min(rowid) FROM stamps)";
    archive.execute_batch(&format!("UPDATE stamps SET enrichment_json = {stored} {of_first}")).unwrap();
    let columns = format!("SELECT ledger_offset_bytes, session_id FROM stamps {of_first}");
    let (offset, session): (i64, String) =
        archive.query_row(&columns, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    drop(archive);
    // A stamp for the same session makes a build fold the session's turns again, from all stamps.
    let more = format!(
        "{{\"v\":1,\"kind\":\"stamp\",\"ts\":\"2026-01-02T00:00:00.000Z\",\"selector\":{{\"sessionId\":{session:?}}},\"enrichment\":{{\"again\":\"1\"}}}}\n"
    );
    fs::write(
        place.path("l.jsonl"),
        format!("{stamped}\n{tail}{}{more}", if tail.ends_with('\n') { "" } else { "\n" }),
    )
    .unwrap();
    let output = place.burn(&["--json"]);
    assert!(output.status.success(), "{output:?}");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let why = result["restarted"].as_str().unwrap();
    assert!(why.contains(&format!("byte {offset}")) && why.contains("enrichment"), "{why}");
}
