//! SIGKILL at every step, beside a connection in every state.

use super::super::connection::{is_busy, open};
use super::super::steps::PublishStep;
use super::{Home, PAUSE_AT, PAUSED, Peer, attach, check, fill, fs, generation, header_modes};
use crate::disk::with_suffix;

#[derive(Clone, Copy, PartialEq)]
enum Before {
    Archive,
    Missing,
    Empty,
    Damaged,
}

/// Kills a publisher of generation 2 at `step`, lets the attached connection go on, and publishes generation 3.
fn kill_at(step: PublishStep, before: Before, state: Option<&str>, survivor: i64) {
    let case = format!("{step:?} beside {state:?}");
    let home = home_with(before);
    let mut attached = state.map(|state| attach(&home, state));
    paused_publisher(&home, step).kill();

    if survivor > 0 {
        assert_eq!(check(&home.archive), survivor, "{case}");
    }
    if let Some(peer) = &mut attached {
        peer.say("go");
        let then = peer.hear("then").unwrap();
        let reads_old_or_new = then == "1" || then == survivor.to_string();
        assert!(reads_old_or_new || then.starts_with("error"), "{case}: {then}");
        // A damaged archive stays damaged until the next rebuild.
        if survivor > 0 {
            assert_eq!(peer.hear("reopened").unwrap(), survivor.to_string(), "{case}");
        }
    }

    let mut publisher = Peer::start("publisher", &home.archive, &[("BURN_TEST_GENERATION", "3")]);
    assert!(publisher.hear("published").is_some(), "{case}: the next rebuild failed");
    assert!(publisher.finish().success());
    if let Some(peer) = attached {
        assert_eq!(check(&home.archive), 3, "{case}");
        assert!(peer.finish().success());
    }
    assert_eq!(check(&home.archive), 3, "{case}");
    assert_eq!(home.names(), ["archive.sqlite"], "{case}: leftovers");
    assert_eq!(header_modes(&home.archive), [2, 2], "{case}");
}

/// A publisher of generation 2 that stands still after a step.
fn paused_publisher(home: &Home, step: PublishStep) -> Peer {
    let step = format!("{step:?}");
    let generation = ("BURN_TEST_GENERATION", "2");
    let mut publisher = Peer::start("publisher", &home.archive, &[generation, (PAUSE_AT, &step)]);
    assert!(publisher.hear(PAUSED).is_some(), "{step}: never reached");
    publisher
}

fn home_with(before: Before) -> Home {
    let home = Home::with_archive(1);
    match before {
        Before::Archive => {}
        Before::Missing => fs::remove_file(&home.archive).unwrap(),
        Before::Empty => fs::write(&home.archive, "").unwrap(),
        Before::Damaged => {
            let mut bytes = fs::read(&home.archive).unwrap();
            bytes[100..1000].fill(0xA5);
            fs::write(&home.archive, bytes).unwrap();
        }
    }
    home
}

#[test]
fn killed_while_nobody_has_a_hold_of_the_archive() {
    for state in [None, Some("opened")] {
        for (step, survivor) in [
            (PublishStep::Sealed, 1),
            (PublishStep::Held, 1),
            (PublishStep::Folded, 1),
            (PublishStep::Disarmed, 1),
            (PublishStep::Renamed, 2),
            (PublishStep::Cut, 2),
            (PublishStep::Synced, 2),
            (PublishStep::Overwritten, 2),
        ] {
            kill_at(step, Before::Archive, state, survivor);
        }
    }
}

#[test]
fn killed_while_written_in_place() {
    for state in ["snapshot", "reading", "writing"] {
        for (step, survivor) in [
            (PublishStep::Sealed, 1),
            (PublishStep::Resized, 1),
            (PublishStep::BackupHalf, 1),
            (PublishStep::BackupCommitted, 2),
            (PublishStep::Checkpointed, 2),
        ] {
            kill_at(step, Before::Archive, Some(state), survivor);
        }
    }
}

#[test]
fn killed_where_nothing_was() {
    for (step, survivor) in
        [(PublishStep::Sealed, 0), (PublishStep::StaleRemoved, 0), (PublishStep::Linked, 2)]
    {
        kill_at(step, Before::Missing, None, survivor);
    }
}

#[test]
fn killed_while_a_damaged_archive_is_replaced() {
    for state in [None, Some("opened")] {
        for (step, survivor) in [
            (PublishStep::Held, 0),
            (PublishStep::Folded, 0),
            (PublishStep::Disarmed, 0),
            (PublishStep::Renamed, 2),
            (PublishStep::Synced, 2),
        ] {
            // A survivor of 0 cannot be read back by the attached connection either.
            kill_at(step, Before::Damaged, if survivor == 0 { None } else { state }, survivor);
        }
    }
}

/// The lock of path A lasts from the hold to the rename, also while the process stands still.
#[test]
fn nobody_gets_in_between_the_hold_and_the_rename() {
    for step in [PublishStep::Held, PublishStep::Folded, PublishStep::Disarmed] {
        let home = Home::with_archive(1);
        let publisher = paused_publisher(&home, step);
        let opener = open(&home.archive).unwrap();
        let turned_away = generation(&opener).unwrap_err();
        assert!(is_busy(&turned_away), "{step:?}: {turned_away}");
        publisher.kill();
        assert_eq!(generation(&opener).unwrap(), 1, "{step:?}");
    }
}

/// What row two of the table in docs/publishing.md says: between rename and cut, an old connection makes no log.
#[test]
fn an_old_connection_makes_no_log_beside_the_new_file() {
    for (step, before) in [
        (PublishStep::Renamed, Before::Archive),
        (PublishStep::Cut, Before::Archive),
        (PublishStep::Synced, Before::Archive),
        (PublishStep::Overwritten, Before::Archive),
        (PublishStep::Renamed, Before::Empty),
        (PublishStep::Overwritten, Before::Empty),
        (PublishStep::Renamed, Before::Damaged),
        (PublishStep::Overwritten, Before::Damaged),
    ] {
        let home = home_with(before);
        let mut old = attach(&home, "opened");
        paused_publisher(&home, step).kill();
        old.say("go");
        let then = old.hear("then").unwrap();
        let expected = match step {
            PublishStep::Renamed if before != Before::Damaged => "readonly database",
            PublishStep::Overwritten => "not a database",
            _ => "malformed",
        };
        assert!(then.contains(expected), "{step:?}: {then}");
        // It opens the new archive then, as it may, and closes it; killed in between, it would leave a log of that one.
        assert_eq!(old.hear("reopened").unwrap(), "2", "{step:?}");
        assert_eq!(home.names(), ["archive.sqlite"], "{step:?}");
        old.kill();
        assert_eq!(check(&home.archive), 2);
    }
}

/// An archive of another page size, killed while it is rewritten, leaves its second temporary file to the sweep.
#[test]
fn the_sweep_takes_every_file_of_a_dead_rebuild_and_nothing_else() {
    let home = Home::with_archive(1);
    let beside = |suffix: &str| with_suffix(&home.archive, suffix);
    let dead = ".rebuild-4711-0123456789abcdef0123456789abcdef";
    for suffix in ["", "-wal", "-shm", "-journal"] {
        fs::write(beside(&format!("{dead}{suffix}")), "x").unwrap();
    }
    let kept = [".rebuild-note", ".rebuild-1-0", ".lock", ".bak"];
    for suffix in kept {
        fs::write(beside(suffix), "x").unwrap();
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(beside(".bak"), beside(&dead.replace("4711", "4712"))).unwrap();
    fill(&beside(".other"), 7, 4096);
    drop(super::super::prepare(&home.archive).unwrap());
    for suffix in kept {
        assert!(beside(suffix).exists(), "{suffix}");
    }
    assert_eq!(check(&beside(".other")), 7);
    let left: Vec<_> = home.names().into_iter().filter(|name| name.contains("abcdef")).collect();
    assert_eq!(left, ["archive.sqlite.rebuild-4712-0123456789abcdef0123456789abcdef"]);
}
