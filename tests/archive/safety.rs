//! Three things that must never happen: a rebuild ends the locks of a reader in its own process; a reader without locks
//! gives a wrong answer; the last copy of rows is lost after the ledger lost its lines.
#![cfg(unix)]

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::common::archives::Place;
use crate::common::dump::{self, Dump};
use crate::common::processes::{burn, failure, rebuild, success};
use crate::common::{ledgers, names};
use relayburn_ledger::archive::query::turns;
use relayburn_ledger::archive::{self, ArchiveError, Options, Unobserved};
use relayburn_ledger::dev::Profile;
use relayburn_ledger::record::Filter;

/// A POSIX lock ends when its process closes any descriptor of the file. A rebuild that opened and closed the live
/// archive without SQLite ended the lock of a query in another thread, and the next rebuild, by another process,
/// replaced the file under the query.
#[test]
fn a_query_outlives_rebuilds_by_its_own_process_and_by_others() {
    let place = Place::with_ledger(&ledgers::generated(Profile::Mixed, 1_500_000, 3).0);
    place.full(&Options::default());
    let expected = dump::by_key(place.archive())["turns"].len();
    let (say_begun, begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    std::thread::scope(|scope| {
        let archive = place.archive();
        let reader = scope.spawn(move || {
            let mut found = 0;
            turns(archive, &Filter::default(), &mut |_| {
                if found == 0 {
                    say_begun.send(()).unwrap();
                    may_go_on.recv().unwrap();
                }
                found += 1;
                ControlFlow::Continue(())
            })
            .map(|()| found)
        });
        begun.recv().unwrap();
        place.full(&Options::default());
        place.tail(&Options::default());
        archive::status(&place.paths).unwrap();
        // Another process must see the query's lock.
        for more in [&["--full", "--json"][..], &["--json"]] {
            success(&rebuild(place.directory(), more).output().unwrap());
        }
        go_on.send(()).unwrap();
        assert_eq!(reader.join().unwrap().unwrap(), expected);
    });
    dump::assert_whole(place.archive());
    let mut ledger = fs::read(&place.paths.ledger).unwrap();
    ledger.extend(ledgers::turn("late", "m", "2026-04-20T00:00:00.000Z").bytes());
    fs::write(&place.paths.ledger, ledger).unwrap();
    place.tail(&Options::default());
    dump::assert_whole(place.archive());
    assert_eq!(dump::by_key(place.archive())["turns"].len(), expected + 1);
    assert_eq!(place.names(), ["archive.sqlite", "ledger.jsonl"]);
}

/// `burn` as another user, who may read the home and not write to it.
struct Guest {
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Guest {
    /// `None` if this process may not become another user.
    fn new() -> Option<Self> {
        // SAFETY: a call without arguments that cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            println!("only root can become another user: skipped");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let program = directory.path().join("burn");
        fs::copy(burn(Path::new("/")).get_program(), &program).unwrap();
        Some(Self { directory, program })
    }

    fn burn(&self, home: &Path) -> Command {
        const NOBODY: u32 = 65_534;
        let mut command = Command::new(&self.program);
        command.env("RELAYBURN_HOME", home).env("RELAYBURN_PROGRESS", "0");
        command.uid(NOBODY).gid(NOBODY).current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }
}

#[test]
fn an_archive_that_its_owner_changes_under_a_guest_is_an_error() {
    let Some(guest) = Guest::new() else { return };
    let place = Place::with_ledger(&ledgers::generated(Profile::Mixed, 2_000_000, 3).0);
    place.full(&Options::default());
    fs::set_permissions(place.directory(), Permissions::from_mode(0o755)).unwrap();
    for file in [place.archive(), &place.paths.ledger] {
        fs::set_permissions(file, Permissions::from_mode(0o644)).unwrap();
    }
    let turns = dump::by_key(place.archive())["turns"].len();
    for form in ["--jsonl", "--json"] {
        let ask = || {
            let mut command = guest.burn(place.directory());
            command.args(["query", "turns", form]).stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        };
        let output = ask().output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert!(lines >= turns, "{lines} lines of {turns} turns");

        // The query waits in the middle, because the pipe is full long before the last row.
        let mut child = ask().spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        let more = ledgers::turn("late", form, "2026-04-20T00:00:00.000Z");
        std::io::Write::write_all(
            &mut File::options().append(true).open(&place.paths.ledger).unwrap(),
            more.as_bytes(),
        )
        .unwrap();
        place.tail(&Options::default());
        out.read_to_end(&mut Vec::new()).unwrap();
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{message}");
        assert!(message.contains("archive.sqlite") && message.contains("run it again"), "{message}");
    }
    assert!(guest.burn(place.directory()).args(["state"]).output().unwrap().status.success());
}

/// The other files beside ledger and archive.
fn kept(place: &Place) -> Vec<PathBuf> {
    let names = names(place.directory());
    let kept = names.iter().filter(|name| name.starts_with("archive.sqlite.set-aside-"));
    let kept = kept.map(|name| place.directory().join(name)).collect();
    assert!(names.iter().all(|name| !name.contains(".rebuild-")), "{names:?}");
    kept
}

/// A home with some hundred turns in ledger and archive.
fn built() -> (Place, Vec<u8>, Dump) {
    let (ledger, _) = ledgers::generated(Profile::Mixed, 400_000, 5);
    let place = Place::with_ledger(&ledger);
    place.full(&Options::default());
    let rows = dump::by_rowid(place.archive());
    (place, ledger, rows)
}

fn set(place: &Place, ledger: &[u8]) {
    fs::write(&place.paths.ledger, ledger).unwrap();
}

/// The changes of a ledger: emptied, cut at a line end, cut inside a line, replaced by another ledger of about the same
/// length.
fn losses(ledger: &[u8]) -> [Vec<u8>; 4] {
    let half = ledgers::last_line_end(&ledger[..ledger.len() / 2]);
    let (mut other, _) = ledgers::generated(Profile::Mixed, 500_000, 6);
    other.truncate(ledgers::last_line_end(&other));
    [Vec::new(), ledger[..half].to_vec(), ledger[..half + 10].to_vec(), other]
}

#[test]
fn an_archive_whose_ledger_lost_lines_is_kept_by_tail_builds() {
    let (_, ledger, _) = built();
    for (round, lost) in losses(&ledger).into_iter().enumerate() {
        for has_reader in [false, true] {
            let (place, _, rows) = built();
            set(&place, &lost);
            let strict = failure(&rebuild(place.directory(), &["--strict"]).output().unwrap());
            assert!(strict.contains("nothing was changed") && strict.contains("--strict"), "{strict}");
            assert!(kept(&place).is_empty());
            dump::assert_same(&dump::by_rowid(place.archive()), &rows, "strict");

            let reader = has_reader.then(|| rusqlite::Connection::open(place.archive()).unwrap());
            let fingerprint = reader.as_ref().map(|reader| {
                reader.execute_batch("BEGIN").unwrap();
                dump::fingerprint(reader).unwrap()
            });
            let output = rebuild(place.directory(), &["--json"]).output().unwrap();
            let result = success(&output);
            let files = kept(&place);
            assert_eq!(files.len(), 1, "round {round}");
            let file = files[0].to_str().unwrap();
            assert!(result["restarted"].is_string() && result["setAsideReason"].is_string(), "{result}");
            assert!(
                result["setAside"]
                    .as_str()
                    .unwrap()
                    .ends_with(files[0].file_name().unwrap().to_str().unwrap())
            );
            assert!(String::from_utf8(output.stderr).unwrap().contains(file), "{file} is not named");
            assert_eq!(reader.as_ref().map(|reader| dump::fingerprint(reader).unwrap()), fingerprint);
            drop(reader);

            dump::assert_whole(&files[0]);
            dump::assert_same(&dump::by_rowid(&files[0]), &rows, "what is kept");
            assert_eq!(fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777, 0o600);
            let fresh = Place::with_ledger(&lost);
            fresh.full(&Options::default());
            dump::assert_same(
                &dump::by_key(place.archive()),
                &dump::by_key(fresh.archive()),
                "the tables follow",
            );

            // The copy stays and is named, and no second copy is made.
            place.tail(&Options::default());
            assert_eq!(kept(&place), files);
            let state = burn(place.directory()).args(["state"]).output().unwrap();
            assert!(String::from_utf8(state.stdout).unwrap().contains(file));
            let state = success(&burn(place.directory()).args(["state", "--json"]).output().unwrap());
            assert_eq!(state["setAside"].as_array().unwrap().len(), 1);
        }
    }
    let (place, _, _) = built();
    let state = success(&burn(place.directory()).args(["state", "--json"]).output().unwrap());
    assert!(state.get("setAside").is_none());
}

/// A user asks for a full rebuild, but probably not because the ledger lost lines at its end.
#[test]
fn a_full_rebuild_keeps_the_archive_of_a_ledger_that_was_cut() {
    let (_, ledger, _) = built();
    for (lost, is_kept) in losses(&ledger).iter().zip([true, true, true, false]) {
        let (place, _, rows) = built();
        set(&place, lost);
        let strict = Options { strict: true, ..Options::default() };
        let refused = archive::rebuild_full(&place.paths, &strict, &mut Unobserved);
        assert_eq!(matches!(refused, Err(ArchiveError::LedgerLost { .. })), is_kept);
        let (result, _) = place.full(&Options::default());
        assert_eq!((result.set_aside.is_some(), kept(&place).len()), (is_kept, usize::from(is_kept)));
        if is_kept {
            dump::assert_same(&dump::by_rowid(&kept(&place)[0]), &rows, "what is kept");
        }
        dump::assert_whole(place.archive());
    }
    // The same ledger again, and a ledger that has grown.
    let (place, mut ledger, _) = built();
    place.full(&Options::default());
    ledger.extend(ledgers::turn("late", "m", "2026-04-20T00:00:00.000Z").bytes());
    set(&place, &ledger);
    place.full(&Options::default());
    assert!(kept(&place).is_empty());
}
