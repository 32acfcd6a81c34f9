//! The promises of the ledger when the disk fails: every operation of every kind of append failing once, and every
//! moment of a durable append cut by a power failure; and what its index does when others touch it.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::index::sorted_path;
use super::*;
use crate::disk;
use crate::disk::faults::{Harness, each_failure};
use crate::interrupt::Interrupt;
use crate::lock::LockError;

const TURN: &str = r#"{"source":"codex","sessionId":"s1","messageId":"m1","turnIndex":0,"ts":"2026-04-20T00:00:00.000Z","model":"m","usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0},"toolCalls":[]}"#;

/// A turn that differs from others by its number, also in its fingerprint.
fn turn(number: usize) -> String {
    TURN.replace("\"m1\"", &format!("\"m{number}\"")).replace("\"input\":1", &format!("\"input\":{number}"))
}

fn turns(numbers: std::ops::Range<usize>) -> Batch {
    let mut batch = Batch::new();
    numbers.for_each(|number| batch.push(RecordKind::Turn, turn(number).as_bytes()).unwrap());
    batch
}

fn ledger(directory: &Path) -> Ledger {
    Ledger::new(Home::at(directory.join("home")))
}

fn place() -> (tempfile::TempDir, Ledger) {
    let directory = tempfile::tempdir().unwrap();
    let ledger = ledger(directory.path());
    (directory, ledger)
}

/// Content of session `s1`.
fn content(text: &str) -> Batch {
    let mut batch = Batch::new();
    batch.push_content(format!(r#"{{"sessionId":"s1","text":"{text}"}}"#).as_bytes()).unwrap();
    batch
}

/// A batch of three records of each kind, under its name.
fn batches() -> Vec<(&'static str, Batch)> {
    let push = |kind, template: &str| {
        let mut batch = Batch::new();
        for number in 0..3 {
            batch.push(kind, template.replace('#', &number.to_string()).as_bytes()).unwrap();
        }
        batch
    };
    let mut content = Batch::new();
    for number in 0..3 {
        let session = if number == 2 { "s2" } else { "s1" };
        let record = format!(r#"{{"sessionId":"{session}","text":"{number}"}}"#);
        content.push_content(record.as_bytes()).unwrap();
    }
    let mut stamp = Batch::new();
    stamp
        .push_stamp(br#"{"v":1,"kind":"stamp","ts":"t","selector":{"sessionId":"c"},"enrichment":{"parentAgentId":"p"}}"#)
        .unwrap();
    vec![
        ("turns", turns(0..3)),
        ("compactions", push(RecordKind::Compaction, r#"{"source":"x","sessionId":"s","ts":"t#"}"#)),
        (
            "relationships",
            push(RecordKind::Relationship, r#"{"source":"x","sessionId":"s#","relationshipType":"root"}"#),
        ),
        (
            "events",
            push(
                RecordKind::ToolResultEvent,
                r#"{"source":"x","sessionId":"s","toolUseId":"u","eventIndex":#,"status":"ok","eventSource":"e"}"#,
            ),
        ),
        (
            "user turns",
            push(
                RecordKind::UserTurn,
                r#"{"source":"x","sessionId":"s","userUuid":"u#","ts":"t","blocks":[]}"#,
            ),
        ),
        ("content", content),
        ("stamp", stamp),
    ]
}

/// The lines of every file of lines in a home, which must all be whole, with how often each occurs.
fn lines(home: &Home) -> HashMap<String, usize> {
    let mut files = vec![home.ledger()];
    if let Ok(sidecars) = fs::read_dir(home.content_dir()) {
        files.extend(sidecars.map(|entry| entry.unwrap().path()));
    }
    let mut lines = HashMap::new();
    for text in files.iter().filter_map(|file| fs::read_to_string(file).ok()) {
        assert!(text.is_empty() || text.ends_with('\n'), "half a line: {text:?}");
        text.lines().for_each(|line| *lines.entry(line.to_owned()).or_default() += 1);
    }
    lines
}

/// What a failed operation may have left of locks: the next process waits until they are stale, a test does not.
fn remove_locks(home: &Home) {
    for entry in fs::read_dir(home.root()).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "lock" || extension == "rob") {
            fs::remove_file(path).unwrap();
        }
    }
}

fn is_sound(home: &Home) {
    let mut findings = Vec::new();
    let report = check(&CheckFiles::of_home(home), &mut |finding| findings.push(finding.clone())).unwrap();
    assert!(report.ok, "{findings:?}");
}

#[test]
fn any_failed_operation_leaves_whole_lines_and_the_next_attempt_completes_the_batch() {
    for (name, batch) in batches() {
        for has_history in [false, true] {
            each_failure(|harness| {
                let (directory, ledger) = place();
                let home = ledger.home();
                let mut before = HashMap::new();
                if has_history {
                    ledger.append(&turns(100..103), &AppendOptions::default()).unwrap();
                    before = lines(home);
                }
                // Half a line that another program left behind; content goes elsewhere and does not end it.
                let is_torn = has_history && name != "content";
                if is_torn {
                    let torn = [fs::read(home.ledger()).unwrap(), b"{\"v\":1,\"ki".to_vec()].concat();
                    fs::write(home.ledger(), torn).unwrap();
                }
                let outcome = harness.run(|| ledger.append(&batch, &AppendOptions::durable()));
                if let Err(error) = &outcome {
                    let text = error.to_string();
                    assert!(
                        text.contains(directory.path().to_str().unwrap()),
                        "{name}, {harness:?}: no path in {text}"
                    );
                }
                let landed = match &outcome {
                    Err(LedgerError::Partial { landed, .. }) => *landed,
                    _ => 0,
                };
                remove_locks(home);
                let is_untouched = is_torn && landed == 0 && outcome.is_err();
                if !is_untouched {
                    lines(home);
                }
                let again = ledger.append(&batch, &AppendOptions::default()).unwrap();
                let found = lines(home);
                let records = batch.len() as u64;
                assert_eq!(again.appended + again.duplicates, records, "{name}, {harness:?}");
                if outcome.is_ok() && name != "stamp" {
                    assert_eq!(again.duplicates, records, "{name}, {harness:?}");
                }
                if landed > 0 && name != "content" && name != "stamp" {
                    assert!(again.duplicates >= landed, "{name}, {harness:?}: {landed} landed, {again:?}");
                }
                for entry in
                    batch.entries.iter().map(|entry| &entry.line).chain(batch.content.iter().map(|c| &c.line))
                {
                    let line = std::str::from_utf8(batch.line(entry)).unwrap().trim_end();
                    let times = found.get(line).copied().unwrap_or(0);
                    // Stamps have no id: one that was written before the error is written again.
                    let wanted = if line.contains("\"kind\":\"stamp\"") { 1..=2 } else { 1..=1 };
                    assert!(wanted.contains(&times), "{name}, {harness:?}: {times} times {line}");
                }
                for line in before.keys() {
                    assert_eq!(found.get(line), Some(&1), "{name}, {harness:?}: lost {line}");
                }
                if !has_history {
                    is_sound(home);
                }
            });
        }
    }
}

#[test]
fn lines_whose_sync_failed_are_cut_off_so_that_a_retry_writes_them() {
    for batch in [turns(0..2), content("said")] {
        let mut cut_off = 0;
        each_failure(|harness| {
            let (_directory, ledger) = place();
            let before = content("before");
            ledger.append(&before, &AppendOptions::durable()).unwrap();
            ledger.append(&turns(100..101), &AppendOptions::durable()).unwrap();
            let torn = [fs::read(ledger.home().ledger()).unwrap(), b"{\"v\":1".to_vec()].concat();
            fs::write(ledger.home().ledger(), &torn).unwrap();
            let sidecar = ledger.home().content(crate::home::SessionId::new("s1").unwrap());
            let said = fs::read(&sidecar).unwrap();
            let Err(LedgerError::NotDurable { landed: 0, .. }) =
                harness.run(|| ledger.append(&batch, &AppendOptions::durable()))
            else {
                return;
            };
            cut_off += 1;
            assert_eq!(fs::read(ledger.home().ledger()).unwrap(), torn);
            assert_eq!(fs::read(&sidecar).unwrap(), said);
            remove_locks(ledger.home());
            let again = ledger.append(&batch, &AppendOptions::durable()).unwrap();
            assert_eq!((again.appended, again.duplicates), (batch.len() as u64, 0), "{harness:?}");
        });
        assert!(cut_off > 0);
    }
}

#[test]
fn a_failed_sync_of_lines_that_were_there_is_not_made_good_by_the_next_sync() {
    for batch in [turns(0..1), content("said")] {
        let mut refused = 0;
        each_failure(|harness| {
            let (_directory, ledger) = place();
            ledger.append(&batch, &AppendOptions::default()).unwrap();
            let durable = || ledger.append(&batch, &AppendOptions::durable());
            let Err(LedgerError::SyncFailed { reason, .. }) = harness.run(durable) else { return };
            refused += 1;
            remove_locks(ledger.home());
            assert!(
                matches!(durable(), Err(LedgerError::SyncFailed { reason: again, .. }) if again == reason)
            );
            assert_eq!(ledger.append(&batch, &AppendOptions::default()).unwrap().duplicates, 1);
        });
        assert!(refused > 0);
    }
}

#[test]
fn a_durable_append_survives_a_power_cut_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    let mut acknowledged = Vec::new();
    harness.run(|| {
        for number in 0..3 {
            let batch = turns(number..number + 1);
            ledger(directory.path()).append(&batch, &AppendOptions::durable()).unwrap();
            acknowledged.push((harness.events(), turn(number)));
        }
    });
    let mut images = 0;
    harness.each_image(|image| {
        images += 1;
        let ledger = ledger(image.path());
        remove_locks(ledger.home());
        ledger.append(&turns(0..4), &AppendOptions::default()).unwrap();
        let text = fs::read_to_string(ledger.home().ledger()).unwrap();
        for (events, record) in &acknowledged {
            if *events <= image.after_events() {
                assert!(text.contains(record), "{image}: lost {record}");
            }
        }
        assert!(text.contains(&turn(3)) && text.ends_with('\n'), "{image}");
    });
    assert!(images > 100, "{images} images");
}

#[test]
fn a_durable_append_of_what_is_there_already_makes_it_durable() {
    let directory = tempfile::tempdir().unwrap();
    let harness = Harness::recording(directory.path());
    let mut acknowledged = 0;
    harness.run(|| {
        let ledger = ledger(directory.path());
        for batch in [&turns(0..1), &content("said")] {
            ledger.append(batch, &AppendOptions::default()).unwrap();
            assert_eq!(ledger.append(batch, &AppendOptions::durable()).unwrap().duplicates, 1);
        }
        acknowledged = harness.events();
    });
    let (mut images, mut behind) = (0, 0);
    harness.each_image(|image| {
        images += 1;
        if acknowledged <= image.after_events() {
            behind += 1;
            let ledger = ledger(image.path());
            let home = ledger.home();
            assert!(fs::read_to_string(home.ledger()).unwrap().contains(&turn(0)), "{image}");
            let sidecar = home.content(crate::home::SessionId::new("s1").unwrap());
            assert!(fs::read_to_string(sidecar).unwrap().contains("said"), "{image}");
        }
    });
    assert!(images > 50 && behind > 0, "{images} images, {behind} of them after the last sync");
}

#[test]
fn a_process_that_died_between_ledger_and_index_costs_no_second_line() {
    let (_directory, ledger) = place();
    ledger.append(&turns(0..2), &AppendOptions::default()).unwrap();
    // The line is there, its id is not: what a kill between the two writes leaves.
    let line = format!("{{\"v\":1,\"kind\":\"turn\",\"record\":{}}}\n", turn(2));
    let text = fs::read_to_string(ledger.home().ledger()).unwrap() + &line;
    fs::OpenOptions::new()
        .append(true)
        .open(ledger.home().ledger())
        .and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes()))
        .unwrap();
    let done = ledger.append(&turns(0..3), &AppendOptions::default()).unwrap();
    assert_eq!((done.appended, done.duplicates), (0, 3));
    assert_eq!(fs::read_to_string(ledger.home().ledger()).unwrap(), text);
    is_sound(ledger.home());
}

/// Lines of ids that no record of these tests has.
fn foreign_ids(count: u64) -> String {
    (0..count).map(|number| format!("{:016x}\n", number.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect()
}

#[test]
fn ids_that_another_program_appended_or_rebuilt_are_known() {
    let (_directory, ledger) = place();
    let options = AppendOptions::default();
    fs::create_dir(ledger.home().root()).unwrap();
    // Enough for sorted ids and for some behind them.
    fs::write(ledger.home().ids_index(), foreign_ids(20_000)).unwrap();
    ledger.append(&turns(0..3), &options).unwrap();
    let mut index = fs::read_to_string(ledger.home().ids_index()).unwrap();
    assert!(fs::metadata(sorted_path(ledger.home())).unwrap().len() > 20_000 * 16);

    // Appended behind our back.
    let batch = turns(3..4);
    let id = batch.entries[0].id.unwrap();
    fs::write(ledger.home().ids_index(), format!("{index}{id}\n")).unwrap();
    assert_eq!(ledger.append(&batch, &options).unwrap().duplicates, 1);

    // Rebuilt in another order, of the same length: only the sum of its content tells.
    let turned: String = index.lines().rev().map(|line| format!("{line}\n")).collect();
    let temporary = ledger.home().root().join("new");
    fs::write(&temporary, &turned).unwrap();
    fs::rename(&temporary, ledger.home().ids_index()).unwrap();
    assert_eq!(ledger.append(&turns(0..3), &options).unwrap().duplicates, 3);

    // Rebuilt without one of them: what the ledger still has comes back only through a rebuild, not through old sorted ids.
    let lost = turns(1..2).entries[0].id.unwrap().to_string();
    index = index.replace(&format!("{lost}\n"), "");
    fs::write(ledger.home().ids_index(), &index).unwrap();
    fs::remove_file(ledger.home().fingerprints_index()).unwrap();
    assert_eq!(ledger.append(&turns(0..3), &options).unwrap().appended, 1);
    let text = fs::read_to_string(ledger.home().ledger()).unwrap();
    assert_eq!(text.matches("\"m1\"").count(), 2);
}

#[test]
fn an_index_made_while_the_ledger_is_replaced_is_of_the_new_one() {
    for is_deleted in [false, true] {
        let (directory, ledger) = place();
        ledger.append(&turns(0..50), &AppendOptions::default()).unwrap();
        let home = ledger.home();
        let before = fs::read(home.ids_index()).unwrap();
        let made = std::thread::scope(|scope| {
            let rebuild = crate::lock::with_lock(&home.lock(crate::home::LockName::Ledger), |_| {
                let rebuild = scope.spawn(|| ledger.rebuild_index(ExtraIds::Drop, &Interrupt::new()));
                // Time for it to have read the old ledger; it then waits for the lock.
                std::thread::sleep(std::time::Duration::from_millis(300));
                let other = directory.path().join("other");
                fs::write(&other, turns_text(100..200)).unwrap();
                fs::rename(&other, home.ledger()).unwrap();
                if is_deleted {
                    fs::remove_file(home.ledger()).unwrap();
                }
                Ok::<_, LockError>(rebuild)
            });
            rebuild.unwrap().join().unwrap()
        });
        if is_deleted {
            // Nothing is known of a ledger that is gone, but its index.
            assert!(matches!(made, Err(LedgerError::Missing { .. })), "{made:?}");
            assert_eq!(fs::read(home.ids_index()).unwrap(), before);
            continue;
        }
        assert_eq!(made.unwrap().ids, 100);
        is_sound(home);
    }
}

fn turns_text(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| format!("{{\"v\":1,\"kind\":\"turn\",\"record\":{}}}\n", turn(number))).collect()
}

#[test]
fn damaged_sorted_ids_never_drop_a_record() {
    let (_directory, ledger) = place();
    fs::create_dir(ledger.home().root()).unwrap();
    fs::write(ledger.home().ids_index(), foreign_ids(5000)).unwrap();
    ledger.append(&turns(0..1), &AppendOptions::default()).unwrap();
    let sound = fs::read(sorted_path(ledger.home())).unwrap();
    let new = turns(7..8);
    let id = new.entries[0].id.unwrap().0.to_be_bytes();
    for at in (0..sound.len()).step_by(97).chain(0..256) {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x41;
        fs::write(sorted_path(ledger.home()), &damaged).unwrap();
        let done = ledger.append(&turns(0..1), &AppendOptions::default()).unwrap();
        assert_eq!((done.appended, done.duplicates), (0, 1), "byte {at}");
    }
    // Sorted ids that claim to know a record.
    let mut lying = sound;
    let entry = 256 + 16 * lying[256..].as_chunks::<16>().0.partition_point(|entry| entry[..8] < id[..]);
    lying[entry..entry + 8].copy_from_slice(&id);
    fs::write(sorted_path(ledger.home()), &lying).unwrap();
    assert_eq!(ledger.append(&new, &AppendOptions::default()).unwrap().appended, 1);
}

#[test]
fn the_window_of_fingerprints_holds_ten_thousand() {
    let (_directory, ledger) = place();
    let options = AppendOptions::default();
    ledger.append(&turns(0..9_999), &options).unwrap();
    let window = || fs::read_to_string(ledger.home().fingerprints_index()).unwrap();
    let first = window().lines().next().unwrap().to_owned();
    ledger.append(&turns(9_999..10_000), &options).unwrap();
    assert_eq!((window().lines().count(), window().starts_with(&first)), (10_000, true));
    ledger.append(&turns(10_000..10_003), &options).unwrap();
    assert_eq!((window().lines().count(), window().contains(&first)), (10_000, false));
    // The same content under other ids: dropped while its fingerprint is in the window, written when it has left.
    let renamed = |number: usize| {
        let mut batch = Batch::new();
        let record = turn(number).replace(&format!("\"m{number}\""), &format!("\"other-{number}\""));
        batch.push(RecordKind::Turn, record.as_bytes()).unwrap();
        batch
    };
    assert_eq!(ledger.append(&renamed(5_000), &options).unwrap().duplicates, 1);
    assert_eq!(ledger.append(&renamed(0), &options).unwrap().appended, 1);
    let before = window();
    ledger.rebuild_index(ExtraIds::Refuse, &Interrupt::new()).unwrap();
    assert_eq!(window().lines().count(), 10_000);
    // A rebuild has each fingerprint where it was first seen; the one written again stands at the end only here.
    assert!(before.lines().skip(1).take(9_000).all(|line| window().contains(line)));
}

#[test]
fn handles_on_several_homes_work_from_any_thread() {
    let directory = tempfile::tempdir().unwrap();
    let ledgers = ["a", "b"].map(|name| Ledger::new(Home::at(directory.path().join(name))));
    let batch = turns(0..1);
    std::thread::scope(|scope| {
        for ledger in ledgers.iter().cycle().take(16) {
            let batch = &batch;
            scope.spawn(move || ledger.append(batch, &AppendOptions::default()).unwrap());
        }
    });
    for ledger in &ledgers {
        assert_eq!(lines(ledger.home()).into_values().collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn records_that_lack_something_are_refused_with_their_line() {
    let cases: [(RecordKind, &str, &str); 10] = [
        (RecordKind::Turn, "[]", "no JSON object"),
        (RecordKind::Turn, "{", "not JSON"),
        (RecordKind::Turn, &TURN.replace(",\"toolCalls\":[]", ""), "toolCalls"),
        (RecordKind::Turn, &TURN.replace("\"input\":1,", ""), "input"),
        (RecordKind::Turn, &TURN.replace("\"s1\"", "7"), "sessionId"),
        (RecordKind::Compaction, r#"{"source":"x","sessionId":"s"}"#, "no ts"),
        (RecordKind::Relationship, r#"{"source":"x","sessionId":"s"}"#, "relationshipType"),
        (RecordKind::ToolResultEvent, r#"{"source":"x","sessionId":"s","toolUseId":"u"}"#, "eventIndex"),
        (
            RecordKind::ToolResultEvent,
            r#"{"source":"x","sessionId":"s","toolUseId":"u","eventIndex":0,"status":null,"eventSource":"e"}"#,
            "status",
        ),
        (
            RecordKind::UserTurn,
            r#"{"source":"x","sessionId":"s","userUuid":"u","ts":"t","blocks":[{}]}"#,
            "kind",
        ),
    ];
    for (kind, record, reason) in cases {
        let mut batch = Batch::new();
        batch.push(kind, b" \t").unwrap();
        let refusal = batch.push(kind, record.as_bytes()).unwrap_err();
        assert_eq!(refusal.line_number, 2, "{record}");
        assert!(refusal.reason.contains(reason), "{record}: {refusal}");
        assert!(batch.is_empty());
    }
}

#[test]
fn lines_are_printed_as_javascript_would() {
    let record = r#" {"b":1e1,"source":"x","2":-0,"sessionId":"s","1":9007199254740993,"ts":"\u0061\ud800","ts":"t","n":1.50,"m":1E400} "#;
    let mut batch = Batch::new();
    batch.push(RecordKind::Compaction, record.as_bytes()).unwrap();
    let expected = r#"{"v":1,"kind":"compaction","record":{"1":9007199254740993,"2":0,"b":10,"source":"x","sessionId":"s","ts":"t","n":1.5,"m":null}}"#;
    assert_eq!(std::str::from_utf8(batch.line(&batch.entries[0].line)).unwrap().trim_end(), expected);
    let mut whole = Batch::new();
    whole.push_line(expected.as_bytes()).unwrap();
    assert_eq!(whole.entries[0].id, batch.entries[0].id);
}

#[test]
fn content_that_cannot_be_written_leaves_stamps_unwritten() {
    let (_directory, ledger) = place();
    let mut batch = Batch::new();
    batch
        .push_stamp(
            br#"{"v":1,"kind":"stamp","ts":"t","selector":{"sessionId":"c"},"enrichment":{"tier":"gold"}}"#,
        )
        .unwrap();
    batch.push_content(br#"{"sessionId":"s1","text":"said"}"#).unwrap();
    fs::create_dir_all(ledger.home().root()).unwrap();
    fs::write(ledger.home().content_dir(), b"a file").unwrap();
    let failed = ledger.append(&batch, &AppendOptions::default()).unwrap_err();
    assert!(matches!(failed, LedgerError::Disk(_)), "{failed}");
    // Nothing of the ledger's lines was written, as the error says, so they may be appended again.
    fs::remove_file(ledger.home().content_dir()).unwrap();
    ledger.append(&batch, &AppendOptions::default()).unwrap();
    assert_eq!(fs::read_to_string(ledger.home().ledger()).unwrap().lines().count(), 1);
}

#[test]
fn a_worker_that_panics_is_an_error_and_leaves_nobody_waiting() {
    use std::ops::ControlFlow;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    fs::write(&path, "line\n".repeat(200)).unwrap();
    let source = crate::scan::Source::open(&path, crate::scan::Io::Read).unwrap();
    let work = super::pipeline::LedgerWork { source: &source, range: 0..1000, chunk_bytes: 5, threads: 3 };
    let mut taken = 0;
    let failed = super::pipeline::in_order(
        &work,
        || (),
        |(), offset, _| assert_ne!(offset, 500, "this worker fails"),
        |()| {
            taken += 1;
            Ok(ControlFlow::Continue(()))
        },
    );
    assert!(matches!(failed, Err(LedgerError::Worker { number: 100, .. })), "{failed:?}");
    assert_eq!(taken, 100);
}

#[test]
fn a_ledger_that_became_shorter_or_went_while_the_index_was_opened_is_taken_as_it_is() {
    for left in [None, Some(""), Some("x\ny")] {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        fs::write(home.ledger(), format!("{}\nunfinished", turn(1))).unwrap();
        let open = super::lines::LineFile::open(&home.ledger()).unwrap();
        fs::remove_file(home.ledger()).unwrap();
        if let Some(left) = left {
            fs::write(home.ledger(), left).unwrap();
        }
        super::index::IdIndex::open(&home, &open).unwrap();
    }
}

/// Where a ledger may stand after a reset: in its place, or in a trash directory.
fn ledgers_of(home: &Path) -> Vec<Vec<u8>> {
    let inside = fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path());
    let places = inside.filter(|path| path.is_dir()).map(|trash| trash.join("ledger.jsonl"));
    places.chain([home.join("ledger.jsonl")]).filter_map(|path| fs::read(path).ok()).collect()
}

#[test]
fn a_power_cut_at_any_moment_of_a_reset_leaves_the_ledger_here_or_in_the_trash() {
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path().join("home");
    let ledger = ledger(directory.path());
    ledger.append(&turns(0..3), &AppendOptions::durable()).unwrap();
    let text = fs::read(ledger.home().ledger()).unwrap();
    let harness = Harness::recording(directory.path());
    harness.run(|| ledger.reset(ResetScope::Everything).unwrap());
    assert!(!home.join("ledger.jsonl").exists());
    let mut in_trash = 0;
    harness.each_image(|image| {
        let home = image.path().join("home");
        assert_eq!(ledgers_of(&home), [text.as_slice()], "{image}");
        in_trash += usize::from(!home.join("ledger.jsonl").exists());
    });
    assert!(in_trash > 0);
}

/// The images above keep names in the order of their changes; file systems that do not need a sync of both directories, the
/// one with the new name first.
#[test]
fn a_reset_that_fails_anywhere_loses_nothing_and_syncs_the_trash_before_the_home() {
    let mut synced = Vec::new();
    each_failure(|harness| {
        let (_directory, ledger) = place();
        ledger.append(&turns(0..3), &AppendOptions::default()).unwrap();
        let text = fs::read(ledger.home().ledger()).unwrap();
        let outcome = harness.run(|| ledger.reset(ResetScope::Everything));
        assert_eq!(ledgers_of(ledger.home().root()), [text], "{harness:?}");
        if let Err(LedgerError::Disk(disk::Error::Io {
            operation: disk::Operation::SyncDirectory,
            path,
            ..
        })) = outcome
        {
            synced.push(path.strip_prefix(ledger.home().root()).unwrap().to_string_lossy().into_owned());
        }
    });
    // Each is failed in turn: the home when the trash gets its name, then the trash, then the home again.
    let names: Vec<&str> =
        synced.iter().map(|name| if name.starts_with("trash-") { "trash" } else { name }).collect();
    assert_eq!(names, ["", "trash", ""]);
}

/// A merge whose every operation fails once: the error names a path, whole lines are left, and the next merge completes it.
#[test]
fn a_merge_that_fails_is_completed_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| Home::at(directory.path().join(name)));
    for (home, numbers) in [(&a, 0..20), (&b, 10..30)] {
        let ledger = Ledger::new(home.clone());
        ledger.append(&turns(numbers), &AppendOptions::default()).unwrap();
        ledger.set_machine(&MachineName::new("desk").unwrap()).unwrap();
        ledger.append(&content("1"), &AppendOptions::default()).unwrap();
    }
    let inputs = [a, b].map(|home| MergeInput::of_home(&home).unwrap());
    let merged = |name: &str| Ledger::new(Home::at(directory.path().join(name)));
    let expected = {
        let ledger = merged("expected");
        ledger.merge(&inputs, &mut |_| {}).unwrap();
        std::fs::read(ledger.home().ledger()).unwrap()
    };
    let (mut round, mut refused) = (0, 0);
    each_failure(|harness| {
        round += 1;
        let ledger = merged(&format!("into{round}"));
        let outcome = harness.run(|| ledger.merge(&inputs, &mut |_| {}));
        if let Err(error) = &outcome {
            let said = error.to_string();
            assert!(said.contains(&*directory.path().to_string_lossy()), "{said}");
        } else {
            assert_eq!(std::fs::read(ledger.home().ledger()).unwrap(), expected);
        }
        remove_locks(ledger.home());
        match ledger.merge(&inputs, &mut |_| {}) {
            // A ledger that could not be synced is not written again until the program is started again.
            Err(LedgerError::SyncFailed { .. }) if outcome.is_err() => {
                refused += 1;
                let text = std::fs::read(ledger.home().ledger()).unwrap();
                assert!(text.last().is_none_or(|byte| *byte == b'\n'), "after {outcome:?}");
                return;
            }
            again => drop(again.unwrap()),
        }
        let text = std::fs::read(ledger.home().ledger()).unwrap();
        assert_eq!(text, expected, "after {outcome:?}");
        assert_eq!(
            std::fs::read_to_string(ledger.home().content_dir().join("s1.jsonl")).unwrap().lines().count(),
            1
        );
    });
    assert!(round > 20 && refused < 4, "{round} rounds, {refused} refused");
}
