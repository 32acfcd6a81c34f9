//! Rebuilds that cannot succeed: a ledger truncated under the map, a file-size limit, a full disk. Each ends with exit
//! code 1 and a message that says what to do; the old archive stays, and no temporary file remains. Also files that may
//! only be read, and wrong usage.
#![cfg(unix)]

use std::fs::{self, File, Permissions};
use std::io::BufRead as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::common::archives::Place;
use crate::common::dump::{self, Dump, fingerprint, open_like_the_reference};
use crate::common::processes::{Peer, burn, failure, rebuild, rebuild_offline, role_played, say, success};
use crate::common::{Random, ledgers, names, scale};
use relayburn_ledger::archive::Options;
use relayburn_ledger::dev::Profile;

/// An archive of a small ledger, so that every rebuild from a larger one would change it.
fn old_archive() -> (Place, Dump) {
    let place = Place::with_ledger(&ledgers::generated(Profile::Mixed, 100_000, 1).0);
    place.full(&Options::default());
    fs::remove_file(&place.paths.ledger).unwrap();
    let rows = dump::by_rowid(place.archive());
    (place, rows)
}

#[track_caller]
fn assert_untouched(archive: &Path, rows: &Dump, what: &str) {
    assert_eq!(names(archive.parent().unwrap()), ["archive.sqlite"], "{what}: something was left behind");
    dump::assert_same(&dump::by_rowid(archive), rows, what);
    dump::assert_whole(archive);
}

#[test]
fn a_ledger_truncated_while_it_is_read_is_an_error() {
    let (place, rows) = old_archive();
    let elsewhere = Place::new();
    let ledger = &elsewhere.paths.ledger;
    let (whole, _) = ledgers::generated(Profile::Mixed, 16_000_000, 2);
    let mut random = Random::new(6);
    for io in ["mmap", "read"] {
        let (mut hits, mut tries) = (0, 0);
        while hits < 3 * scale() {
            tries += 1;
            assert!(tries < 40 * scale(), "{io}: no truncation hit a running build");
            fs::write(ledger, &whole).unwrap();
            let mut command = rebuild_offline(ledger, place.archive());
            let mut child =
                command.args(["--io", io]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            // The new file is created after the ledger is opened.
            while !names(place.directory()).iter().any(|name| name.contains(".rebuild-")) {
                assert!(child.try_wait().unwrap().is_none(), "the build ended at once");
                sleep(Duration::from_micros(200));
            }
            sleep(Duration::from_millis(random.below(60)));
            let length = [0, 5_000, random.below(whole.len() as u64)][hits % 3];
            File::options().write(true).open(ledger).unwrap().set_len(length).unwrap();
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                // The truncation came too late, after the ledger was read. Put the old archive back.
                place.tamper("PRAGMA user_version = 0");
                fs::write(ledger, ledgers::generated(Profile::Mixed, 100_000, 1).0).unwrap();
                assert!(rebuild_offline(ledger, place.archive()).output().unwrap().status.success());
                continue;
            }
            hits += 1;
            let message = failure(&output);
            assert!(message.contains("was truncated while it was read"), "{io}: {message}");
            assert!(message.contains(ledger.to_str().unwrap()), "{io}: {message}");
            assert_untouched(place.archive(), &rows, io);
        }
        println!("{io}: {hits} of {tries} truncations hit");
    }
}

/// Holds a read transaction on the archive until its input ends.
#[test]
#[ignore = "runs as another process of the other tests, which start it: cargo test --test archive faults"]
fn role() {
    let Some(role) = role_played() else { return };
    let archive = open_like_the_reference(Path::new(&role[0])).unwrap();
    archive.execute_batch("BEGIN").unwrap();
    let held = fingerprint(&archive).unwrap();
    say("reading");
    std::io::stdin().lock().lines().count();
    assert_eq!(fingerprint(&archive).unwrap(), held);
    archive.execute_batch("COMMIT").unwrap();
    assert_eq!(fingerprint(&archive).unwrap(), held, "a build that failed changed the archive");
}

fn reader(archive: &Path) -> Peer {
    let mut reader = Peer::start(module_path!(), &[&archive]);
    assert_eq!(reader.hear(), "reading");
    reader
}

/// Runs rebuilds with more and more space, in units of `step_bytes`, until one succeeds. Every rebuild that fails must
/// leave the old archive. `command` gets the space in bytes. Returns the number of failures.
fn until_there_is_room(
    archive: &Path,
    rows: &Dump,
    step_bytes: u64,
    beside_reader: bool,
    mut command: impl FnMut(u64) -> Command,
) -> u32 {
    let mut failures = 0;
    for step in 1.. {
        assert!(step < 60, "no room is enough");
        let mut reader = beside_reader.then(|| reader(archive));
        let output = command(step * step_bytes).output().unwrap();
        if output.status.success() {
            break;
        }
        if let Some(reader) = &mut reader {
            assert!(reader.wait().success());
        }
        failures += 1;
        let message = failure(&output);
        let what = format!("{} bytes of room, {message}", step * step_bytes);
        assert!(message.contains(archive.parent().unwrap().to_str().unwrap()), "no file is named: {what}");
        let helps = ["space", "limit", "too large", "full", "room"].iter().any(|word| message.contains(word));
        assert!(helps, "no reason is given: {what}");
        assert_untouched(archive, rows, &what);
    }
    dump::assert_whole(archive);
    assert_ne!(&dump::by_rowid(archive), rows);
    assert_eq!(names(archive.parent().unwrap()), ["archive.sqlite"]);
    failures
}

/// Every loader, alone and beside a reader.
const SETTINGS: [(&str, bool); 4] = [("bulk", false), ("bulk", true), ("insert", false), ("insert", true)];

/// The same command with a limit on the size of a file, in bytes.
fn limited(plain: &Command, file_max_bytes: u64) -> Command {
    let mut command = Command::new("sh");
    // POSIX counts in blocks of 512 bytes.
    command.args(["-c", &format!("ulimit -f {} && exec \"$0\" \"$@\"", file_max_bytes / 512)]);
    command.arg(plain.get_program()).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Beside a reader the new rows are written into the live file, through a log that is a little larger than the rows.
#[test]
fn a_file_size_limit_that_only_the_log_hits_is_an_error() {
    let elsewhere = Place::with_ledger(&ledgers::generated(Profile::Mixed, 1_000_000, 2).0);
    elsewhere.full(&Options::default());
    let file_max_bytes = fs::metadata(elsewhere.archive()).unwrap().len();
    let (place, rows) = old_archive();
    let mut reader = reader(place.archive());
    let build = rebuild_offline(&elsewhere.paths.ledger, place.archive());
    let output = limited(&build, file_max_bytes).output().unwrap();
    let message = failure(&output);
    println!("{message}");
    assert!(message.contains("archive.sqlite:"), "not the log was the file that was too large: {message}");
    assert!(reader.wait().success());
    assert_untouched(place.archive(), &rows, &message);
    assert!(limited(&build, file_max_bytes).status().unwrap().success());
}

#[test]
fn a_file_size_limit_is_an_error_that_names_it() {
    let elsewhere = Place::with_ledger(&ledgers::generated(Profile::Mixed, 3_000_000, 2).0);
    for (loader, beside_reader) in SETTINGS {
        let (place, rows) = old_archive();
        let failures = until_there_is_room(place.archive(), &rows, 300 * 1024, beside_reader, |room_bytes| {
            let build = rebuild_offline(&elsewhere.paths.ledger, place.archive());
            let mut command = limited(&build, room_bytes);
            command.args(["--loader", loader]);
            command
        });
        println!("{loader}, beside a reader {beside_reader}: {failures} rebuilds hit the limit");
        assert!(failures >= 3);
    }
}

/// A file system of a given size, which needs root; `None` if it cannot be made.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("no tmpfs can be mounted here (that needs root): the full disk is skipped");
        }
        mounted.then_some(Self(directory))
    }

    fn resize(&self, size_bytes: u64) {
        let size = format!("remount,size={size_bytes}");
        assert!(Command::new("mount").args(["-o", &size]).arg(self.0.path()).status().unwrap().success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_an_error_that_names_it() {
    let elsewhere = Place::with_ledger(&ledgers::generated(Profile::Mixed, 3_000_000, 2).0);
    for (loader, beside_reader) in SETTINGS {
        let Some(mount) = Mount::new() else { return };
        let (place, rows) = old_archive();
        let archive = mount.0.path().join("archive.sqlite");
        fs::copy(place.archive(), &archive).unwrap();
        let taken_bytes = fs::metadata(&archive).unwrap().blocks() * 512 + 256 * 1024;
        let failures = until_there_is_room(&archive, &rows, 300 * 1024, beside_reader, |room_bytes| {
            mount.resize(taken_bytes + room_bytes);
            let mut command = rebuild_offline(&elsewhere.paths.ledger, &archive);
            command.args(["--loader", loader]);
            command
        });
        println!("{loader}, beside a reader {beside_reader}: {failures} rebuilds filled the disk");
        assert!(failures >= 3);
    }
}

/// The output of `burn state` and `burn query`, on request with a file-size limit of zero. `None` for a command that
/// failed because of the write-ahead log.
fn answers(home: &Path, is_limited: bool) -> [Option<Vec<u8>>; 2] {
    [&["state", "--json"][..], &["query", "turns", "--json"]].map(|words| {
        let mut command = burn(home);
        command.args(words);
        if is_limited {
            command = limited(&command, 0);
        }
        let output = command.output().unwrap();
        if output.status.success() {
            return Some(output.stdout);
        }
        let message = failure(&output);
        assert!(message.contains("archive.sqlite") && message.contains("write-ahead log"), "{message}");
        None
    })
}

/// Queries the archive of a home while there is no space for a byte: `fill` takes the space, `free` releases it.
fn answers_without_room(home: &Path, is_limited: bool, fill: impl Fn(), free: impl Fn()) {
    fs::write(home.join("ledger.jsonl"), ledgers::generated(Profile::Mixed, 1_000_000, 3).0).unwrap();
    assert!(rebuild(home, &["--full"]).output().unwrap().status.success());
    let made = names(home);
    let before = answers(home, false);
    assert!(before.iter().all(Option::is_some));
    fill();
    for _ in 0..3 {
        assert_eq!(answers(home, is_limited), before);
        assert_eq!(
            names(home).iter().filter(|name| *name != "filler").collect::<Vec<_>>(),
            made.iter().collect::<Vec<_>>()
        );
    }
    free();
    assert_eq!((answers(home, false), names(home)), (before.clone(), made.clone()));

    // A log without a checkpoint: its writer is gone, and so is its `-shm`.
    let archive = home.join("archive.sqlite");
    let writer = open_like_the_reference(&archive).unwrap();
    writer
        .execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE turns SET model = 'of the log' WHERE rowid = 1")
        .unwrap();
    let log = fs::read(home.join("archive.sqlite-wal")).unwrap();
    assert!(!log.is_empty());
    let of_the_log = answers(home, false);
    assert_ne!(of_the_log[1], before[1]);
    let kept = fs::read(&archive).unwrap();
    drop(writer);
    fs::write(&archive, kept).unwrap();
    fs::write(home.join("archive.sqlite-wal"), &log).unwrap();
    fill();
    // The command fails with a message, or its answer includes the log. It never answers without the log.
    for (answer, expected) in answers(home, is_limited).iter().zip(&of_the_log) {
        assert!(answer.is_none() || answer == expected);
    }
    assert_eq!(
        fs::read(home.join("archive.sqlite-wal")).unwrap(),
        log,
        "the log stays until it can be taken in"
    );
    free();
    assert_eq!((answers(home, false), names(home)), (of_the_log, made));
}

/// The answers of `burn state` and `burn query` must not depend on space for the `-shm` file of SQLite, and no file
/// remains beside the archive when there is no space.
#[test]
fn a_full_disk_still_answers() {
    let Some(mount) = Mount::new() else { return };
    let home = mount.0.path();
    let filler = home.join("filler");
    // The size is larger than the space, so the write ends when the space is used.
    let fill = || assert!(fs::write(&filler, vec![1; 80 << 20]).is_err());
    answers_without_room(home, false, fill, || fs::remove_file(&filler).unwrap());
}

#[test]
fn files_that_may_not_grow_still_answer() {
    let home = tempfile::tempdir().unwrap();
    answers_without_room(home.path(), true, || {}, || {});
}

/// A program that uses the library has no handler of SIGBUS, so reading a map after the end of its file would end the
/// program.
#[test]
fn a_library_reads_a_ledger_that_is_truncated_without_a_signal_handler() {
    use relayburn_ledger::archive::{Observer, Phase, Progress};
    use relayburn_ledger::home::Home;
    use relayburn_ledger::ledger::{Filter, Ledger, RecordKind};
    use relayburn_ledger::record::rows::UnarchivedLine;
    use std::ops::ControlFlow;
    struct Truncating<'p>(&'p Path);
    impl Observer for Truncating<'_> {
        fn progress(&mut self, progress: Progress) -> ControlFlow<()> {
            if progress.phase == Phase::Rows {
                File::options().write(true).open(self.0).unwrap().set_len(5_000).unwrap();
            }
            ControlFlow::Continue(())
        }
        fn finding(&mut self, _: &UnarchivedLine) {}
    }
    let (whole, _) = ledgers::generated(Profile::Mixed, 24_000_000, 4);
    let place = Place::with_ledger(&whole);
    let ledger = &place.paths.ledger;
    let built = relayburn_ledger::archive::rebuild_full(
        &place.paths,
        &Options { threads: 1, ..Options::default() },
        &mut Truncating(ledger),
    );
    let message = built.unwrap_err().to_string();
    assert!(message.contains("was truncated while it was read"), "{message}");
    assert_eq!(place.names(), ["ledger.jsonl"]);

    fs::write(ledger, &whole).unwrap();
    let asked =
        Ledger::new(Home::at(place.directory())).query(RecordKind::Turn, &Filter::default(), &mut |_| {
            File::options().write(true).open(ledger).unwrap().set_len(5_000).unwrap();
            ControlFlow::Continue(())
        });
    let message = asked.map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("was truncated while it was read"), "{message}");
}

/// Returns whether this process may ignore permissions.
fn is_root() -> bool {
    // SAFETY: a call without arguments that cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn a_ledger_that_cannot_be_written_is_enough() {
    let (ledger, _) = ledgers::generated(Profile::Mixed, 100_000, 5);
    let source = Place::with_ledger(&ledger);
    let target = Place::new();
    let (expected, _) = source.full(&Options::default());
    let rows = dump::by_rowid(source.archive());
    fs::remove_file(source.archive()).unwrap();
    fs::set_permissions(&source.paths.ledger, Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(source.directory(), Permissions::from_mode(0o555)).unwrap();

    let mut command = rebuild_offline(&source.paths.ledger, target.archive());
    let program = target.directory().join("burn");
    if is_root() {
        // A process of another user needs the program in a place that it can reach.
        const NOBODY: u32 = 65_534;
        fs::set_permissions(target.directory(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(command.get_program(), &program).unwrap();
        std::os::unix::fs::chown(target.directory(), Some(NOBODY), Some(NOBODY)).unwrap();
        let mut other = Command::new(&program);
        other.args(command.get_args()).uid(NOBODY).gid(NOBODY);
        other.env("RELAYBURN_HOME", "/dev/null/home").current_dir("/");
        command = other;
    }
    let output = command.arg("--json").output().unwrap();
    fs::set_permissions(source.directory(), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(success(&output)["turnsApplied"], expected.turns_applied);
    assert_eq!(names(source.directory()), ["ledger.jsonl"], "beside the ledger nothing is made");
    let _ = fs::remove_file(&program);
    assert_eq!(target.names(), ["archive.sqlite"]);
    dump::assert_same(&dump::by_rowid(target.archive()), &rows, "read-only");
    assert_eq!(fs::metadata(target.archive()).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn offline_builds_touch_no_home() {
    let place = Place::with_ledger(&ledgers::generated(Profile::Mixed, 100_000, 5).0);
    let home = Place::new();
    let never_made = home.directory().join("home");
    for more in [&["--full"][..], &[], &["--vacuum"]] {
        let mut command = rebuild(&never_made, more);
        command.env("HOME", &never_made).arg("--ledger").arg(&place.paths.ledger);
        success(&command.arg("--archive").arg(place.archive()).arg("--json").output().unwrap());
        assert!(home.names().is_empty(), "{more:?}");
        assert_eq!(place.names(), ["archive.sqlite", "ledger.jsonl"], "{more:?}");
    }
    // The lock is beside the target, with the name that it has in a home.
    let lock = place.directory().join("archive.lock");
    fs::write(&lock, "").unwrap();
    let mut child =
        rebuild_offline(&place.paths.ledger, place.archive()).stdout(Stdio::null()).spawn().unwrap();
    sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "the lock was not asked for");
    fs::remove_file(&lock).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let place = Place::with_ledger(b"");
    let wrong: [&[&str]; 11] = [
        &["--full", "--ledger", "ledger.jsonl"],
        &["--archive", "archive.sqlite"],
        &["--threads", "0"],
        &["--threads", "1025"],
        &["--threads", "many"],
        &["--io", "pipe"],
        &["--io"],
        &["--full", "--vacuum"],
        &["--strict", "--vacuum"],
        &["--fast"],
        &["something"],
    ];
    for arguments in wrong {
        let output = rebuild(place.directory(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
        assert_eq!(place.names(), ["ledger.jsonl"], "{arguments:?}");
    }
    for arguments in [["--threads", "1"], ["--threads", "64"], ["--io", "mmap"], ["--io", "read"]] {
        assert!(rebuild(place.directory(), &arguments).output().unwrap().status.success(), "{arguments:?}");
    }
}

#[test]
fn nobody_has_to_listen() {
    let place = Place::with_ledger(b"not json\n");
    for arguments in [&["--full"][..], &["--full", "--json"], &[]] {
        let (stdout_reader, stdout) = std::io::pipe().unwrap();
        let (stderr_reader, stderr) = std::io::pipe().unwrap();
        drop((stdout_reader, stderr_reader));
        let status = rebuild(place.directory(), arguments).stdout(stdout).stderr(stderr).status().unwrap();
        assert!(status.success(), "{arguments:?}: {status}");
        dump::assert_whole(place.archive());
    }
    let (reader, stdout) = std::io::pipe().unwrap();
    drop(reader);
    assert!(burn(place.directory()).args(["state", "status"]).stdout(stdout).status().unwrap().success());
}
