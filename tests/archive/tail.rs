//! Tail builds over prefixes of a ledger that are cut anywhere, and over all changes of a ledger and an archive between
//! two builds. The final rows are those of one full rebuild.
#![cfg(unix)]

use std::fs;
use std::path::PathBuf;

use crate::common::archives::{Place, variants};
use crate::common::dump::{self, Dump};
use crate::common::{Random, ledgers, scale};
use proptest::prelude::*;
use relayburn_ledger::archive::{self, ArchiveError, BuildResult, Options, Restart, Unobserved};
use relayburn_ledger::dev::Profile;

const LEDGER_BYTES: u64 = 150_000;
const PROFILES: [Profile; 3] = [Profile::Adversarial, Profile::Stamps, Profile::Mixed];

fn config(cases: usize) -> ProptestConfig {
    let cases = (cases * scale()) as u32;
    ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() }
}

/// A place in a ledger, in millionths of its length.
fn anywhere() -> impl Strategy<Value = u64> {
    0..=1_000_000_u64
}

fn cut(ledger: &[u8], millionths: u64) -> usize {
    (ledger.len() as u64 * millionths / 1_000_000) as usize
}

/// The rows of a separate full rebuild.
fn rebuilt(ledger: &[u8]) -> Dump {
    let place = Place::with_ledger(ledger);
    place.full(&Options::default());
    dump::by_rowid(place.archive())
}

fn cursor(place: &Place) -> u64 {
    archive::status(&place.paths).unwrap().ledger_offset_bytes as u64
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn tails_over_twenty_prefixes_are_one_rebuild(
        profile in prop::sample::select(&PROFILES[..]),
        seed in 0..1_000_u64,
        cuts in prop::collection::vec(anywhere(), 20),
        variant in any::<prop::sample::Index>(),
    ) {
        let (ledger, _) = ledgers::generated(profile, LEDGER_BYTES, seed);
        let options = variants()[variant.index(variants().len())].clone();
        let mut ends: Vec<usize> = cuts.iter().map(|millionths| cut(&ledger, *millionths)).collect();
        ends.sort_unstable();
        ends.push(ledger.len());

        let place = Place::new();
        let (mut turns, mut stamps, mut reported) = (0, 0, Vec::new());
        let mut before = 0;
        for end in ends {
            fs::write(&place.paths.ledger, &ledger[..end]).unwrap();
            let (result, findings) = place.tail(&options);
            prop_assert_eq!(result.restarted, None);
            prop_assert_eq!(result.scanned_bytes, cursor(&place) - before);
            before += result.scanned_bytes;
            prop_assert_eq!(before, ledgers::last_line_end(&ledger[..end]) as u64);
            turns += result.turns_applied;
            stamps += result.stamps_applied;
            reported.extend(findings);
        }

        let whole = Place::with_ledger(&ledger);
        let (result, findings) = whole.full(&Options::default());
        prop_assert_eq!((turns, stamps, reported), (result.turns_applied, result.stamps_applied, findings));
        dump::assert_same(&dump::by_rowid(place.archive()), &dump::by_rowid(whole.archive()), "after all tails");
        dump::assert_whole(place.archive());
    }
}

/// A change before the next build.
#[derive(Clone, Debug)]
enum Event {
    /// The ledger is cut to this place, or grows up to it.
    EndsAt(u64),
    /// A digit in the first tenth becomes another digit; the size stays.
    OneByteDiffers(u64),
    /// Another program moved the cursor.
    CursorAt(u64),
    OtherVersion,
    NoStateRow,
    LedgerGone,
    LedgerIsDirectory,
    /// A path through a file gives ENOTDIR and not ENOENT, so the error is not "no ledger".
    LedgerUnreachable,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => anywhere().prop_map(Event::EndsAt),
        1 => anywhere().prop_map(Event::OneByteDiffers),
        1 => anywhere().prop_map(Event::CursorAt),
        1 => Just(Event::OtherVersion),
        1 => Just(Event::NoStateRow),
        1 => Just(Event::LedgerGone),
        1 => Just(Event::LedgerIsDirectory),
        1 => Just(Event::LedgerUnreachable),
    ]
}

/// A digit in a number or a string, near the beginning.
fn change_one_digit(ledger: &mut [u8], millionths: u64) -> bool {
    let start = cut(ledger, millionths / 10);
    let Some(at) = ledger[start..].iter().position(|byte| (b'1'..=b'8').contains(byte)) else { return false };
    ledger[start + at] += 1;
    true
}

/// The expected decision of a build, by an independent rule: whether the ledger still has the bytes that the archive
/// covers.
fn expected_restart(ledger: &[u8], taken: &[u8], cursor: usize) -> Option<Restart> {
    if cursor > ledger.len() {
        Some(Restart::LedgerShrank)
    } else if cursor > 0 && ledger[cursor - 1] != b'\n' {
        Some(Restart::CursorInsideLine)
    } else if ledger[..cursor] != taken[..cursor] {
        Some(Restart::LedgerRewritten)
    } else {
        None
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn whatever_happens_between_builds_the_archive_is_that_of_its_ledger(
        profile in prop::sample::select(&PROFILES[..]),
        seed in 0..1_000_u64,
        events in prop::collection::vec(event(), 10),
    ) {
        let (original, _) = ledgers::generated(profile, LEDGER_BYTES / 3, seed);
        let mut source = original;
        let place = Place::new();
        // The present bytes of the ledger, and the bytes that the archive covers.
        let mut ledger: Vec<u8> = Vec::new();
        let mut taken: Vec<u8> = Vec::new();
        for event in events {
            let what = format!("{event:?}");
            let exists = place.archive().exists();
            let mut at = if exists { cursor(&place) as usize } else { 0 };
            let mut restart = None;
            match event {
                Event::EndsAt(millionths) => ledger = source[..cut(&source, millionths)].to_vec(),
                Event::OneByteDiffers(millionths) => {
                    change_one_digit(&mut source, millionths);
                    ledger = source[..ledger.len()].to_vec();
                }
                Event::CursorAt(millionths) if exists => {
                    let moved = cut(&source, millionths);
                    // The reference may have left a cursor at a line end, so a build cannot see that the cursor is
                    // wrong.
                    let is_line_end = moved > 0 && moved <= ledger.len() && ledger[moved - 1] == b'\n';
                    if !is_line_end {
                        place.tamper(&format!("UPDATE archive_state SET ledger_offset_bytes = {moved}"));
                        at = moved;
                    }
                }
                Event::OtherVersion if exists => {
                    place.tamper("UPDATE archive_state SET archive_version = 2");
                    restart = Some(Restart::OtherVersion);
                }
                Event::NoStateRow if exists => {
                    place.tamper("DELETE FROM archive_state");
                    at = 0;
                }
                Event::CursorAt(_) | Event::OtherVersion | Event::NoStateRow => {}
                Event::LedgerGone => {
                    let before = exists.then(|| dump::by_rowid(place.archive()));
                    // The ledger's file may not exist yet.
                    let _ = fs::remove_file(&place.paths.ledger);
                    let result = place.try_tail().unwrap();
                    prop_assert_eq!((result.scanned_bytes, result.turns_applied, result.restarted), (0, 0, None));
                    if let Some(before) = before {
                        dump::assert_same(&dump::by_rowid(place.archive()), &before, &what);
                    }
                    continue;
                }
                Event::LedgerIsDirectory | Event::LedgerUnreachable => {
                    let before = exists.then(|| dump::by_rowid(place.archive()));
                    let mut paths = place.paths.clone();
                    paths.ledger = match event {
                        Event::LedgerIsDirectory => place.directory().to_path_buf(),
                        _ => PathBuf::from("/dev/null/ledger.jsonl"),
                    };
                    let options = Options::default();
                    for error in [
                        archive::build_tail(&paths, &options, &mut Unobserved).unwrap_err(),
                        archive::rebuild_full(&paths, &options, &mut Unobserved).unwrap_err(),
                    ] {
                        prop_assert!(matches!(error, ArchiveError::Scan(_)), "{}: {}", what, error);
                        prop_assert!(error.to_string().contains(paths.ledger.to_str().unwrap()), "{}", error);
                    }
                    prop_assert_eq!(place.archive().exists(), exists);
                    if let Some(before) = before {
                        dump::assert_same(&dump::by_rowid(place.archive()), &before, &what);
                    }
                    continue;
                }
            }
            fs::write(&place.paths.ledger, &ledger).unwrap();
            let restart = restart.or_else(|| expected_restart(&ledger, &taken, at));
            let (result, _) = place.tail(&Options::default());
            prop_assert_eq!(&result.restarted, &restart, "{}", what);
            prop_assert_eq!(result.rebuilt_from_zero, false);
            let start = if result.restarted.is_some() { 0 } else { at };
            let end = ledgers::last_line_end(&ledger);
            prop_assert_eq!(result.scanned_bytes as usize, end - start, "{}", what);
            taken = ledger.clone();
            dump::assert_same(&dump::by_rowid(place.archive()), &rebuilt(&ledger), &what);
        }
        if place.archive().exists() {
            dump::assert_whole(place.archive());
        }
    }
}

/// A directory with an archive of a small ledger, and its rows.
fn built() -> (Place, Vec<u8>, Dump) {
    let (ledger, _) = ledgers::generated(Profile::Stamps, 40_000, 3);
    let place = Place::with_ledger(&ledger);
    place.full(&Options::default());
    let rows = dump::by_rowid(place.archive());
    (place, ledger, rows)
}

#[test]
fn without_a_ledger_a_tail_keeps_rows_and_cursor_and_sets_the_time() {
    let (place, _, rows) = built();
    let before = archive::status(&place.paths).unwrap();
    fs::remove_file(&place.paths.ledger).unwrap();
    let (result, _) = place.tail(&Options::default());
    assert_eq!(
        result,
        BuildResult { duration_ms: result.duration_ms, timings: result.timings, ..BuildResult::default() }
    );
    dump::assert_same(&dump::by_rowid(place.archive()), &rows, "without a ledger");
    let after = archive::status(&place.paths).unwrap();
    assert!(after.last_built_at > before.last_built_at, "{after:?}");
    assert_eq!(after.last_rebuild_at, before.last_rebuild_at);
}

#[test]
fn without_a_ledger_a_full_rebuild_makes_an_empty_archive_but_keeps_one_with_rows() {
    let (place, _, rows) = built();
    fs::remove_file(&place.paths.ledger).unwrap();
    let error = place.try_full().unwrap_err();
    assert!(matches!(error, ArchiveError::LedgerMissing { .. }), "{error}");
    dump::assert_same(&dump::by_rowid(place.archive()), &rows, "after the refusal");

    let place = Place::new();
    let (result, _) = place.full(&Options::default());
    assert!(result.rebuilt_from_zero);
    assert_eq!(archive::status(&place.paths).unwrap().archive_version, Some(3));
    dump::assert_whole(place.archive());
    // An archive without rows may be replaced.
    place.full(&Options::default());
}

/// The change is found wherever the byte is, because the whole prefix is read.
#[test]
fn one_byte_changed_anywhere_in_front_of_the_cursor_is_noticed() {
    let (place, ledger, _) = built();
    let step = ledger.len() / 40;
    for start in (0..ledger.len() - 200).step_by(step) {
        let mut rewritten = ledger.clone();
        let at = start + rewritten[start..].iter().position(|byte| (b'1'..=b'8').contains(byte)).unwrap();
        rewritten[at] += 1;
        // It may have grown as well.
        if start % 2 == 0 {
            rewritten.extend_from_slice(ledgers::turn("more", "more", "2026-05-01T00:00:00.000Z").as_bytes());
        }
        fs::write(&place.paths.ledger, &rewritten).unwrap();
        let (result, _) = place.tail(&Options::default());
        assert_eq!(result.restarted, Some(Restart::LedgerRewritten), "byte {at}");
        dump::assert_same(&dump::by_rowid(place.archive()), &rebuilt(&rewritten), format!("byte {at}"));
        fs::write(&place.paths.ledger, &ledger).unwrap();
        place.full(&Options::default());
    }
}

/// Every write sets the time of modification, so a ledger with the time of the last build is not compared.
#[test]
fn a_ledger_at_rest_is_compared_again_once_its_time_changes() {
    let (place, mut ledger, _) = built();
    let set_time = |seconds| {
        let file = fs::File::options().write(true).open(&place.paths.ledger).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    };
    set_time(1_700_000_000);
    place.tail(&Options::default());
    assert!(change_one_digit(&mut ledger, 500_000));
    fs::write(&place.paths.ledger, &ledger).unwrap();
    set_time(1_700_000_000);
    assert_eq!(place.tail(&Options::default()).0.restarted, None);
    set_time(1_700_000_001);
    assert_eq!(place.tail(&Options::default()).0.restarted, Some(Restart::LedgerRewritten));
    dump::assert_same(&dump::by_rowid(place.archive()), &rebuilt(&ledger), "after the change");
}

/// The reference moves the cursor without the mark; this is no reason to start again.
#[test]
fn a_cursor_that_another_program_moved_to_a_line_end_is_trusted() {
    let (ledger, _) = ledgers::generated(Profile::Mixed, 40_000, 3);
    let half = ledgers::last_line_end(&ledger[..20_000]);
    let place = Place::with_ledger(&ledger[..half]);
    place.full(&Options::default());
    fs::write(&place.paths.ledger, &ledger).unwrap();
    let rest = ledgers::last_line_end(&ledger[..30_000]);
    place.tamper(&format!("UPDATE archive_state SET ledger_offset_bytes = {rest}"));
    let (result, _) = place.tail(&Options::default());
    assert_eq!((result.restarted, result.scanned_bytes as usize), (None, ledger.len() - rest));
}

#[test]
fn a_file_that_is_no_database_is_an_error_unless_a_full_rebuild_may_set_it_aside() {
    let (place, ledger, rows) = built();
    for damage in [&b"SQLite format 4"[..], &[b'x'; 3 * 4096], b"{}"] {
        fs::write(place.archive(), damage).unwrap();
        let error = place.try_tail().unwrap_err();
        assert!(matches!(error, ArchiveError::NotADatabase { .. }), "{error}");
        assert!(error.to_string().contains("burn state rebuild archive --full --force"), "{error}");
        assert!(archive::status(&place.paths).is_err());
        let error = place.try_full().unwrap_err();
        assert!(matches!(error, ArchiveError::NotADatabase { .. }), "{error}");
        assert_eq!(fs::read(place.archive()).unwrap(), damage);
        let (result, _) = place.full(&Options { force: true, ..Options::default() });
        assert_eq!(fs::read(result.set_aside.unwrap()).unwrap(), damage);
        dump::assert_same(&dump::by_rowid(place.archive()), &rows, "rebuilt");
    }
    // A file of no bytes, or of one byte, is an empty database to SQLite, so filling it loses nothing.
    for nothing in ["", "x"] {
        fs::write(place.archive(), nothing).unwrap();
        place.tail(&Options::default());
        dump::assert_same(&dump::by_rowid(place.archive()), &rebuilt(&ledger), "filled");
    }
}

/// `burn state` changes nothing, even if a build would start again.
#[test]
fn status_never_drops_or_adds_anything() {
    let (place, _, _) = built();
    for sql in
        ["UPDATE archive_state SET archive_version = 2", "DELETE FROM archive_state", "DROP TABLE stamps"]
    {
        place.tamper(sql);
        let before = fs::read(place.archive()).unwrap();
        let status = archive::status(&place.paths).unwrap();
        assert!(status.exists && status.row_counts.turns > 0);
        assert!(sql.starts_with("DROP") || !status.up_to_date, "{sql}");
        assert_eq!(fs::read(place.archive()).unwrap(), before, "{sql}");
    }
}

#[test]
fn what_a_killed_rebuild_left_is_named_and_deleted_by_the_next_tail_build() {
    let place = Place::with_ledger(b"");
    place.full(&Options::default());
    let left = ["", "-journal"].map(|suffix| {
        let name = format!("archive.sqlite.rebuild-17-0123456789abcdef0123456789abcdef{suffix}");
        place.directory().join(name)
    });
    let foreign = place.directory().join("archive.sqlite.rebuild-of-mine");
    left.iter().chain([&foreign]).for_each(|path| fs::write(path, "x").unwrap());
    let mut named = archive::status(&place.paths).unwrap().leftovers;
    named.sort();
    assert_eq!(named, left);
    place.tail(&Options::default());
    assert!(archive::status(&place.paths).unwrap().leftovers.is_empty());
    assert!(left.iter().all(|path| !path.exists()) && foreign.exists());
}

/// The turns of a tail are added to the row of a long session, and the other turns are not aggregated again.
#[test]
fn turns_that_are_added_to_a_long_session_give_the_row_of_a_rebuild() {
    let mut random = Random::new(15);
    let mut ledger = String::new();
    for number in 0..2_500 {
        ledger += &ledgers::turn("s", &format!("m{number}"), "2026-04-20T12:00:00.000Z");
    }
    let place = Place::with_ledger(ledger.as_bytes());
    place.full(&Options::default());
    for round in 0..60 * scale() as u64 {
        for _ in 0..=random.below(3) {
            let mut pick = |values: &[&'static str]| values[random.below(values.len() as u64) as usize];
            let ts =
                pick(&["2026-04-19T00:00:00.000Z", "2026-04-20T12:00:00.000Z", "2026-04-21T00:00:00.000Z"]);
            let more = [
                pick(&[
                    "",
                    r#","project":"/b""#,
                    r#","project":"/a","projectKey":"k""#,
                    r#","project":null"#,
                ]),
                pick(&[
                    "",
                    r#","subagent":{"isSidechain":true,"parentAgentId":"p2"}"#,
                    r#","subagent":{"isSidechain":false,"parentAgentId":"p1"}"#,
                ]),
                pick(&[
                    "",
                    r#","fidelity":{"class":"full","granularity":"g","coverage":{}}"#,
                    r#","fidelity":{"class":"partial","granularity":"g","coverage":{}}"#,
                    r#","fidelity":{"class":"other","granularity":"g","coverage":{}}"#,
                ]),
            ]
            .concat();
            // Sometimes a repeated turn, and late in the test another model.
            let message = if random.below(6) == 0 {
                random.below(2_500)
            } else {
                10_000 * (round + 1) + random.below(9)
            };
            let mut turn = ledgers::turn_with("s", &format!("m{message}"), ts, &more);
            if round > 40 && random.below(4) == 0 {
                turn = turn.replace(r#""model":"m""#, r#""model":"a""#);
            }
            ledger += &turn;
            if random.below(8) == 0 {
                ledger += &ledgers::stamp(
                    ts,
                    &format!(r#"{{"messageId":"m{message}"}}"#),
                    r#"{"agentId":"a","workflowId":"w"}"#,
                );
            }
        }
        fs::write(&place.paths.ledger, &ledger).unwrap();
        assert_eq!(place.tail(&Options::default()).0.restarted, None);
        if round % 4 == 3 {
            dump::assert_same(
                &dump::by_rowid(place.archive()),
                &rebuilt(ledger.as_bytes()),
                format!("round {round}"),
            );
        }
    }
}
