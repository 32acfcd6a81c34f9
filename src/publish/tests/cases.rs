//! What can stand in the archive's place, and what can go wrong, one at a time.

use std::cell::Cell;
use std::path::Path;

use rusqlite::Connection;

use super::super::connection::open;
use super::super::{FoundLive, Method, PublishError, prepare};
use super::{Home, Peer, attach, check, fill, fs, generation, header_modes, publish_here};
use crate::disk::faults::{Fault, Harness};
use crate::disk::with_suffix as beside;
use crate::interrupt::Interrupt;

fn method(live: &Path, generation: i64) -> Method {
    publish_here(live, generation).unwrap().method
}

#[test]
fn a_missing_archive_is_created_private_and_in_wal_mode() {
    let home = Home::new();
    let plan = prepare(&home.archive).unwrap();
    assert_eq!((plan.found(), plan.is_in_use(), plan.page_size()), (FoundLive::Missing, false, 16384));
    assert_eq!(plan.build_path().parent(), home.archive.parent());
    fill(plan.build_path(), 1, plan.page_size());
    assert_eq!(plan.publish(|| true).unwrap().method, Method::Created);
    assert_eq!(check(&home.archive), 1);
    assert_eq!(header_modes(&home.archive), [2, 2]);
    assert_eq!(home.names(), ["archive.sqlite"]);
    #[cfg(unix)]
    assert_eq!(mode(&home.archive), 0o600);
}

#[cfg(unix)]
fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[cfg(unix)]
#[test]
fn the_mode_of_the_replaced_file_is_kept() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::with_archive(1);
    fs::set_permissions(&home.archive, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(method(&home.archive, 2), Method::Renamed);
    assert_eq!(mode(&home.archive), 0o640);
}

#[test]
fn a_plan_that_is_dropped_leaves_nothing() {
    let home = Home::with_archive(1);
    let plan = prepare(&home.archive).unwrap();
    assert_eq!(home.names().len(), 2);
    // A build that died in the middle of a transaction.
    for sidecar in ["-wal", "-shm", "-journal"] {
        fs::write(beside(plan.build_path(), sidecar), "x").unwrap();
    }
    drop(plan);
    assert_eq!(home.names(), ["archive.sqlite"]);
    assert_eq!(check(&home.archive), 1);
}

/// The log of an archive that vanished belongs to other pages; SQLite would apply it.
#[test]
fn sidecars_of_a_vanished_archive_are_not_applied() {
    let home = Home::with_archive(1);
    let writer = Connection::open(&home.archive).unwrap();
    writer.execute("UPDATE rows SET generation = 99", []).unwrap();
    let stale: Vec<_> = ["-wal", "-shm"].map(|it| (it, fs::read(beside(&home.archive, it)).unwrap())).into();
    drop(writer);
    fs::remove_file(&home.archive).unwrap();
    for (suffix, bytes) in &stale {
        fs::write(beside(&home.archive, suffix), bytes).unwrap();
    }
    fs::write(beside(&home.archive, "-journal"), [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7]).unwrap();
    assert_eq!(method(&home.archive, 2), Method::Created);
    assert_eq!(home.names(), ["archive.sqlite"]);
    assert_eq!(check(&home.archive), 2);
}

/// A log that a killed writer left is the archive's own: folded into the old file, and gone with it.
#[test]
fn a_log_that_a_killed_writer_left_goes_with_the_old_file() {
    let home = Home::with_archive(1);
    attach(&home, "writing").kill();
    assert!(beside(&home.archive, "-wal").exists());
    assert_eq!(method(&home.archive, 2), Method::Renamed);
    assert_eq!(home.names(), ["archive.sqlite"]);
    assert_eq!(check(&home.archive), 2);
}

#[test]
fn what_is_no_database_is_replaced() {
    for (content, found) in [
        (b"not a database, and long enough to be one".repeat(50), FoundLive::NotADatabase),
        (b"short".to_vec(), FoundLive::NotADatabase),
        (Vec::new(), FoundLive::Archive { page_size_bytes: 4096 }),
    ] {
        let home = Home::new();
        fs::write(&home.archive, &content).unwrap();
        fs::write(beside(&home.archive, "-wal"), "stale").unwrap();
        let plan = prepare(&home.archive).unwrap();
        assert_eq!(plan.found(), found);
        fill(plan.build_path(), 2, plan.page_size());
        assert_eq!(plan.publish(|| true).unwrap().method, Method::Renamed);
        assert_eq!(check(&home.archive), 2);
        assert_eq!(home.names(), ["archive.sqlite"]);
    }
}

#[test]
fn a_damaged_archive_is_replaced_unless_somebody_holds_it() {
    let home = Home::with_archive(1);
    let reader = attach(&home, "reading");
    let mut bytes = fs::read(&home.archive).unwrap();
    bytes[100..1000].fill(0xA5);
    fs::write(&home.archive, bytes).unwrap();

    let plan = prepare(&home.archive).unwrap();
    assert_eq!((plan.found(), plan.is_in_use()), (FoundLive::Damaged, true));
    fill(plan.build_path(), 2, plan.page_size());
    let refusal = plan.publish(|| true).unwrap_err();
    assert!(matches!(refusal, PublishError::InUse { .. }), "{refusal}");
    assert!(refusal.to_string().contains("close it, then rebuild again"), "{refusal}");
    assert!(!home.names().iter().any(|name| name.contains("rebuild")));

    reader.kill();
    assert_eq!(method(&home.archive, 3), Method::Renamed);
    assert_eq!(check(&home.archive), 3);
    assert_eq!(home.names(), ["archive.sqlite"]);
}

/// A descriptor that was opened beside SQLite's and closed would drop the connection's lock, and the next attempt would replace the
/// file under it.
#[cfg(unix)]
#[test]
fn a_damaged_archive_that_this_process_holds_is_not_replaced_either() {
    for header in [false, true] {
        let home = Home::with_archive(1);
        let reader = open(&home.archive).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        generation(&reader).unwrap();
        // By another process, because closing the file here would drop the reader's lock.
        let (seek, count) = if header { (0, 1000) } else { (100, 900) };
        let script = format!(
            "head -c {count} /dev/zero | tr '\\0' x | dd of=\"$0\" bs=1 seek={seek} conv=notrunc 2>/dev/null"
        );
        let status = std::process::Command::new("sh").args(["-c", &script]).arg(&home.archive).status();
        assert!(status.unwrap().success());
        let plan = prepare(&home.archive).unwrap();
        assert_eq!(plan.found(), if header { FoundLive::NotADatabase } else { FoundLive::Damaged });
        if header {
            assert!(matches!(plan.move_aside(), Err(PublishError::InUse { .. })));
        }
        fill(plan.build_path(), 2, plan.page_size());
        assert!(matches!(plan.publish(|| true), Err(PublishError::InUse { .. })), "{header}");
        drop(reader);
        assert_eq!(method(&home.archive, 3), Method::Renamed);
        assert_eq!(check(&home.archive), 3);
    }
}

#[test]
fn a_copy_that_is_kept_is_whole_and_disturbs_nobody() {
    let home = Home::with_archive(1);
    let writer = open(&home.archive).unwrap();
    writer.execute("UPDATE rows SET generation = 2", []).unwrap();
    writer.execute_batch("BEGIN").unwrap();
    assert_eq!(generation(&writer).unwrap(), 2);
    let plan = prepare(&home.archive).unwrap();
    let kept = plan.keep_copy(&Interrupt::new()).unwrap().path;
    fill(plan.build_path(), 3, plan.page_size());
    plan.publish(|| true).unwrap();
    assert_eq!(generation(&writer).unwrap(), 2);
    drop(writer);
    assert_eq!(check(&home.archive), 3);
    assert!(kept.to_str().unwrap().contains(".sqlite.set-aside-"), "{kept:?}");
    assert_eq!(check(&kept), 2, "what the log held is in the copy");
    assert_eq!(header_modes(&kept), [2, 2]);
    #[cfg(unix)]
    assert_eq!(mode(&kept), mode(&home.archive));
    assert_eq!(super::super::kept(&home.archive).unwrap(), [kept]);
    assert_eq!(home.names().len(), 2);
}

/// Whatever ends a build between copying the archive and replacing it: the next one finds the copy and makes no second one.
#[test]
fn a_copy_that_a_build_left_is_found_by_the_next_one() {
    let home = Home::with_archive(1);
    let copy = || prepare(&home.archive).unwrap().keep_copy(&Interrupt::new()).unwrap().path;
    let left = copy();
    assert_eq!(copy(), left, "the build ended before it replaced anything");
    // A row more is another archive.
    let writer = open(&home.archive).unwrap();
    writer.execute("INSERT INTO tail VALUES('more')", []).unwrap();
    let second = copy();
    assert_ne!(second, left);
    assert_eq!(copy(), second, "the log of the archive still has the row");
    drop(writer);
    assert_eq!(copy(), second, "now the archive itself has it");
    assert_eq!(super::super::kept(&home.archive).unwrap(), [left, second]);
    assert_eq!(home.names().len(), 3);
}

#[test]
fn a_copy_that_fails_at_any_file_operation_is_one_copy_when_it_is_made_again() {
    // Module `disk` writes nothing here, because SQLite does.
    let mut left_behind = 0;
    let mut scenario = |harness: &Harness| {
        let home = Home::with_archive(1);
        let plan = prepare(&home.archive).unwrap();
        let failed = harness.run(|| plan.keep_copy(&Interrupt::new()));
        let before = super::super::kept(&home.archive).unwrap();
        left_behind += usize::from(failed.is_err() && !before.is_empty());
        drop(plan);
        assert_eq!(check(&home.archive), 1);
        let kept = prepare(&home.archive).unwrap().keep_copy(&Interrupt::new()).unwrap().path;
        assert_eq!(super::super::kept(&home.archive).unwrap().as_slice(), std::slice::from_ref(&kept));
        assert_eq!(check(&kept), 1);
        assert_eq!(home.names().len(), 2, "{:?}", home.names());
    };
    for fault in [Fault::Io, Fault::NoSpace] {
        let clean = Harness::counting(fault);
        scenario(&clean);
        for fail_at in 0..clean.operations() {
            let harness = Harness::failing(fault, fail_at);
            scenario(&harness);
            assert!(harness.has_failed(), "{fault:?} at {fail_at}");
        }
    }
    assert!(left_behind > 0, "a directory that is not synced leaves the copy");
}

#[test]
fn copying_hears_an_interrupt_and_leaves_nothing() {
    let home = Home::with_archive(1);
    let interrupt = Interrupt::new();
    interrupt.request();
    let plan = prepare(&home.archive).unwrap();
    assert!(matches!(plan.keep_copy(&interrupt), Err(PublishError::Interrupted)));
    drop(plan);
    assert_eq!(home.names(), ["archive.sqlite"]);
}

#[test]
fn a_page_size_that_the_live_archive_cannot_take_is_rewritten() {
    let home = Home::with_archive(1);
    let mut reader = attach(&home, "reading");
    let plan = prepare(&home.archive).unwrap();
    assert_eq!((plan.is_in_use(), plan.page_size()), (true, 4096));
    fill(plan.build_path(), 2, 65536);
    assert!(matches!(plan.publish(|| true).unwrap().method, Method::InPlace { log_len_bytes: 1.. }));
    assert_eq!(check(&home.archive), 2);
    reader.say("go");
    assert_eq!(reader.hear("then").unwrap(), "1", "the snapshot is kept");
    assert_eq!(reader.hear("reopened").unwrap(), "2");
    assert!(reader.finish().success());
    assert_eq!(home.names(), ["archive.sqlite"]);
}

/// What the connection from before does once the new archive's log holds pages: new rows or an error, never old ones.
#[test]
fn an_old_connection_never_mixes_old_rows_into_the_new_archive() {
    let home = Home::with_archive(1);
    let mut old = attach(&home, "opened");
    let plan = prepare(&home.archive).unwrap();
    // The page size of the old one, with which the old pages would fit.
    fill(plan.build_path(), 2, 4096);
    assert_eq!(plan.publish(|| true).unwrap().method, Method::Renamed);
    let writer = open(&home.archive).unwrap();
    writer.execute("INSERT INTO tail VALUES(zeroblob(40000))", []).unwrap();
    old.say("go");
    let then = old.hear("then").unwrap();
    assert!(then == "2" || then.contains("malformed"), "{then}");
    assert_eq!(old.hear("reopened").unwrap(), "2");
    assert!(old.finish().success());
    drop(writer);
    assert_eq!(check(&home.archive), 2);
}

#[test]
fn a_lost_lock_publishes_nothing_by_any_path() {
    for (state, questions) in [(None, 0), (Some("snapshot"), 0), (Some("snapshot"), 5)] {
        let home = Home::with_archive(1);
        let reader = state.map(|state| attach(&home, state));
        let plan = prepare(&home.archive).unwrap();
        fill(plan.build_path(), 2, plan.page_size());
        let asked = Cell::new(0);
        let refusal = plan.publish(|| {
            asked.set(asked.get() + 1);
            asked.get() <= questions
        });
        assert!(matches!(refusal, Err(PublishError::LockLost { .. })));
        assert_eq!(asked.get(), questions + 1);
        assert_eq!(check(&home.archive), 1);
        if let Some(reader) = reader {
            assert!(reader.finish().success());
        }
        assert_eq!(check(&home.archive), 1);
        assert_eq!(home.names(), ["archive.sqlite"]);
    }
    let home = Home::new();
    let plan = prepare(&home.archive).unwrap();
    fill(plan.build_path(), 2, plan.page_size());
    assert!(matches!(plan.publish(|| false), Err(PublishError::LockLost { .. })));
    assert_eq!(home.names(), [""; 0]);
}

#[test]
fn a_build_that_is_gone_empty_or_open_is_refused() {
    let home = Home::with_archive(1);
    let plan = prepare(&home.archive).unwrap();
    assert!(matches!(plan.publish(|| true), Err(PublishError::BuildUnfit { .. })));

    let plan = prepare(&home.archive).unwrap();
    fill(plan.build_path(), 2, 16384);
    let still_open = Connection::open(plan.build_path()).unwrap();
    generation(&still_open).unwrap();
    assert!(matches!(plan.publish(|| true), Err(PublishError::BuildUnfit { .. })));
    drop(still_open);

    let plan = prepare(&home.archive).unwrap();
    drop(prepare(&home.archive).unwrap());
    assert!(matches!(plan.publish(|| true), Err(PublishError::BuildGone { .. })));
    assert_eq!(check(&home.archive), 1);
    assert_eq!(home.names(), ["archive.sqlite"]);
}

#[cfg(unix)]
#[test]
fn a_link_is_kept_and_its_target_replaced() {
    let home = Home::with_archive(1);
    let link = home.archive.with_file_name("link.sqlite");
    std::os::unix::fs::symlink("archive.sqlite", &link).unwrap();
    assert_eq!(method(&link, 2), Method::Renamed);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(check(&home.archive), 2);
    fs::remove_file(&home.archive).unwrap();
    assert_eq!(method(&link, 3), Method::Created);
    assert_eq!(check(&home.archive), 3);
}

/// A second name may be somebody's copy: it must stay an archive.
#[cfg(unix)]
#[test]
fn a_file_with_two_names_is_written_into() {
    let home = Home::with_archive(1);
    let second = home.archive.with_file_name("second.sqlite");
    fs::hard_link(&home.archive, &second).unwrap();
    assert_eq!(method(&home.archive, 2), Method::InPlace { log_len_bytes: 0 });
    assert_eq!((check(&home.archive), check(&second)), (2, 2));
}

#[test]
fn a_directory_in_the_archives_place_is_refused() {
    let home = Home::new();
    fs::create_dir(&home.archive).unwrap();
    assert!(matches!(prepare(&home.archive), Err(PublishError::NotAFile { .. })));
}

/// The file-size limit stands for a full disk: the log of path B cannot grow.
#[cfg(unix)]
#[test]
fn a_log_that_cannot_grow_leaves_the_old_archive_and_no_log() {
    let home = Home::with_archive(1);
    let reader = attach(&home, "snapshot");
    let limit = [("BURN_TEST_GENERATION", "2"), ("BURN_TEST_FILE_MAX", "400000")];
    let mut publisher = Peer::start("publisher", &home.archive, &limit);
    let refusal = publisher.hear("refused").unwrap();
    assert!(refusal.contains(home.archive.to_str().unwrap()), "{refusal}");
    assert!(refusal.contains("unchanged"), "{refusal}");
    assert!(publisher.finish().success());
    assert_eq!(check(&home.archive), 1);
    assert_eq!(fs::metadata(beside(&home.archive, "-wal")).unwrap().len(), 0, "its space is given back");
    assert!(!home.names().iter().any(|name| name.contains("rebuild")));
    assert!(reader.finish().success());
    assert!(matches!(method(&home.archive, 3), Method::Renamed));
    assert_eq!(check(&home.archive), 3);
}

#[test]
fn a_connection_of_this_process_is_treated_like_any_other() {
    let home = Home::with_archive(1);
    let own = open(&home.archive).unwrap();
    own.execute_batch("BEGIN").unwrap();
    assert_eq!(generation(&own).unwrap(), 1);
    for published in 2..4 {
        assert!(matches!(method(&home.archive, published), Method::InPlace { .. }));
        assert_eq!(generation(&own).unwrap(), 1);
    }
    own.execute_batch("COMMIT").unwrap();
    assert_eq!(generation(&own).unwrap(), 3);
    drop(own);
    assert_eq!(method(&home.archive, 4), Method::Renamed);
}

/// Each file operation of each path fails once, as EIO and as a full disk.
#[cfg(unix)]
#[test]
fn whatever_operation_fails_one_whole_archive_is_left() {
    use crate::disk::faults;

    faults::each_failure(|harness| {
        for before in ["archive", "read", "missing", "no database"] {
            let home = Home::new();
            match before {
                "missing" => {}
                "no database" => fs::write(&home.archive, "short").unwrap(),
                _ => fill(&home.archive, 1, 4096),
            }
            let reader = open(&home.archive).ok().filter(|_| before == "read");
            if let Some(reader) = &reader {
                assert_eq!(generation(reader).unwrap(), 1);
            }
            let outcome = harness.run(|| publish_here(&home.archive, 2));
            drop(reader);
            match outcome {
                Ok(_) | Err(PublishError::NotDurable { .. }) => {
                    assert_eq!(check(&home.archive), 2, "{before}")
                }
                Err(error) => {
                    assert!(error.to_string().contains("archive"), "{error}");
                    match before {
                        "missing" => assert!(!home.archive.exists(), "{error}"),
                        "no database" => {
                            assert!(fs::read(&home.archive).unwrap().starts_with(b"short"), "{error}")
                        }
                        _ => assert_eq!(check(&home.archive), 1, "{error}"),
                    }
                }
            }
            publish_here(&home.archive, 3).unwrap();
            assert_eq!(check(&home.archive), 3);
            assert_eq!(home.names(), ["archive.sqlite"]);
        }
    });
}
