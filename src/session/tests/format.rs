//! What the format's first implementation must find in what we write, and we in what others left.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::{entry, files, fill, names, open, options};
use crate::session::{
    EntryPayload, ImportLine, MigrationEvent, NewEntry, OffsetIndexEntry, SegmentFrame, SessionErrorClass,
    SessionOptions, SessionProblem, SessionStoreV2, Verify, check, export_line, frame_to_session_entry,
    has_v2_sidecar, parse_first_import_line, parse_import_line, status, v2_sidecar_path,
};
use crate::store::{Durability, Finding};

/// A new store in a directory of its own.
fn store_of(max_segment_bytes: u64) -> (tempfile::TempDir, SessionStoreV2) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), &options(max_segment_bytes));
    (directory, store)
}

fn class(outcome: Result<impl std::fmt::Debug, crate::session::SessionError>) -> SessionErrorClass {
    outcome.unwrap_err().class()
}

#[test]
fn an_empty_store_has_its_directories_and_no_index() {
    let directory = tempfile::tempdir().unwrap();
    let session = directory.path().join("talk.jsonl");
    let root = v2_sidecar_path(&session);
    let (store, report) = SessionStoreV2::create(&root, &options(1000)).unwrap();
    assert!(!report.changed_files() && report.wide_directories.is_empty());
    assert_eq!(
        files(&root).keys().map(|path| path.file_name().unwrap()).collect::<Vec<_>>(),
        ["store.mutation.lock"]
    );
    for name in ["segments", "index", "checkpoints", "migrations", "tmp"] {
        assert_eq!(crate::disk::metadata(&root.join(name)).unwrap().mode, 0o700, "{name}");
    }
    let view = &*store;
    assert_eq!(
        (view.entry_count(), view.head(), view.index_summary(), view.total_bytes()),
        (0, None, None, 0)
    );
    assert_eq!(view.chain_hash().unwrap(), "0".repeat(64));
    assert!(!has_v2_sidecar(&session));
    drop(store);
    open(&root, &options(1000)).append_entry(&entry("a", None, 1)).unwrap();
    assert!(has_v2_sidecar(&session));
}

#[test]
fn lines_are_byte_for_byte_what_the_format_says() {
    let (directory, mut store) = store_of(1000);
    store.append_entry(&entry("r", None, 0)).unwrap();
    store
        .append_entry(&NewEntry {
            id: "ü/\"\u{1}".into(),
            parent_id: Some("r".into()),
            entry_type: "label".into(),
            payload: EntryPayload::from_value(&json!({"b": 1.5, "a": [null, "é\n"]})).unwrap(),
        })
        .unwrap();
    let frame = store.lookup_entry(2).unwrap().unwrap();
    let text = fs::read_to_string(directory.path().join("segments/0000000000000001.seg")).unwrap();
    let line = text.lines().nth(1).unwrap();
    assert_eq!(
        line,
        format!(
            "{{\"schema\":\"pi.session_store_v2.segment_frame.v1\",\"segmentSeq\":1,\"frameSeq\":2,\"entrySeq\":2,\
             \"entryId\":\"ü/\\\"\\u0001\",\"parentEntryId\":\"r\",\"entryType\":\"label\",\"timestamp\":\"{}\",\
             \"payloadSha256\":\"{}\",\"payloadBytes\":27,\"payload\":{{\"a\":[null,\"é\\n\"],\"b\":1.5}}}}",
            frame.timestamp, frame.payload_sha256
        )
    );
    assert_eq!(serde_json::to_string(&frame).unwrap(), line);
    let read: SegmentFrame = serde_json::from_str(line).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), line);
    let rows = fs::read_to_string(directory.path().join("index/offsets.jsonl")).unwrap();
    let row = rows.lines().nth(1).unwrap();
    assert_eq!(serde_json::from_str::<OffsetIndexEntry>(row).unwrap(), store.read_index().nth(1).unwrap());
    assert_eq!(serde_json::to_string(&store.read_index().nth(1).unwrap()).unwrap(), row);
    let offset = text.find('\n').unwrap() + 1;
    let crc = crc32c::crc32c(&text.as_bytes()[offset..]);
    assert_eq!(
        rows.lines().nth(1).unwrap(),
        format!(
            "{{\"schema\":\"pi.session_store_v2.offset_index.v1\",\"entrySeq\":2,\"entryId\":\"ü/\\\"\\u0001\",\
             \"segmentSeq\":1,\"frameSeq\":2,\"byteOffset\":{offset},\"byteLength\":{},\"crc32c\":\"{crc:08X}\",\
             \"state\":\"active\"}}",
            line.len() + 1
        )
    );
}

#[test]
fn segments_rotate_where_the_format_says() {
    let directory = tempfile::tempdir().unwrap();
    let measure =
        |store: &mut SessionStoreV2, id: &str, len| store.append_entry(&entry(id, None, len)).unwrap();
    let line_bytes = {
        let (mut store, _) =
            SessionStoreV2::create(directory.path().join("measure"), &options(1 << 20)).unwrap();
        measure(&mut store, "a0", 100).byte_length
    };
    let root = directory.path().join("store");
    let mut store = open(&root, &options(2 * line_bytes));
    let places: Vec<(u64, u64, u64)> = [("a0", 100), ("a1", 100), ("a2", 100), ("big", 5000), ("a3", 100)]
        .into_iter()
        .map(|(id, len)| measure(&mut store, id, len))
        .map(|row| (row.segment_seq, row.frame_seq, row.byte_offset))
        .collect();
    assert_eq!(
        places,
        [(1, 1, 0), (1, 2, line_bytes), (2, 1, 0), (3, 1, 0), (4, 1, 0)],
        "filled exactly: no rotation"
    );
    drop(store);
    let mut store = open(&root, &options(2 * line_bytes));
    assert_eq!(measure(&mut store, "a4", 100).segment_seq, 4, "the segment's length is known after opening");
}

#[test]
fn what_would_not_open_again_is_refused_before_it_is_written() {
    let (directory, mut store) = store_of(1000);
    store.append_entry(&entry("a", None, 1)).unwrap();
    let before = files(directory.path());
    assert_eq!(class(store.append_entry(&entry("a", None, 1))), SessionErrorClass::DuplicateEntryId);
    assert_eq!(class(store.append_entry(&entry("b", Some("ghost"), 1))), SessionErrorClass::MissingParent);
    assert_eq!(class(store.append_entry(&entry("b", Some("b"), 1))), SessionErrorClass::CyclicParent);
    let group = [entry("b", Some("a"), 1), entry("b", None, 1)];
    assert_eq!(class(store.append_entries(&group)), SessionErrorClass::DuplicateEntryId);
    assert_eq!(
        class(store.append_entries(&[entry("c", Some("d"), 1), entry("d", None, 1)])),
        SessionErrorClass::MissingParent
    );
    for bad in [
        vec![entry("b", Some("c"), 1), entry("c", Some("b"), 1)],
        vec![entry("b", Some("b"), 1)],
        vec![entry("b", Some("ghost"), 1)],
        vec![entry("a", None, 1)],
        vec![entry("b", None, 1), entry("b", None, 1)],
    ] {
        assert!(store.import(&bad).is_err());
    }
    assert_eq!(files(directory.path()), before);
    store.import(&[entry("c", Some("b"), 1), entry("b", Some("a"), 1)]).unwrap();
    let path: Vec<String> =
        store.read_active_path("c").unwrap().map(|frame| frame.unwrap().entry_id).collect();
    assert_eq!(path, ["a", "b", "c"]);
    assert_eq!(
        class(SessionStoreV2::create(directory.path().join("x"), &options(0))),
        SessionErrorClass::InvalidArgument
    );
    assert_eq!(
        class(SessionStoreV2::open_for_inspection(directory.path(), &options(0))),
        SessionErrorClass::InvalidArgument
    );
}

#[test]
fn one_writer_at_a_time_and_readers_beside_it() {
    let (directory, mut store) = store_of(1000);
    assert_eq!(class(SessionStoreV2::create(directory.path(), &options(1000))), SessionErrorClass::Locked);
    let mut reader = SessionStoreV2::open_for_inspection(directory.path(), &options(1000)).unwrap();
    for number in 0..20 {
        store.append_entry(&entry(&format!("e{number}"), None, number * 20)).unwrap();
        let view = reader.view().unwrap();
        assert_eq!(view.entry_count(), number as u64 + 1);
        assert_eq!(view.head(), store.head());
        assert_eq!(
            view.lookup_entry_by_id(&format!("e{number}")).unwrap().unwrap().entry_seq,
            number as u64 + 1
        );
    }
    store.create_checkpoint(1, "").unwrap();
    store.append_entry(&entry("gone", None, 1)).unwrap();
    assert_eq!(reader.view().unwrap().row_count(), 21);
    store.rollback_to_checkpoint(1, "m", "c").unwrap();
    assert_eq!(reader.view().unwrap().row_count(), 20, "an index replaced is read again");
    drop(store);
    SessionStoreV2::create(directory.path(), &options(1000)).unwrap();
}

#[test]
fn a_writer_notices_another_that_takes_no_lock() {
    let (directory, mut store) = store_of(10_000);
    store.append_entry(&entry("a", None, 1)).unwrap();
    let segment = directory.path().join("segments/0000000000000001.seg");
    let mut foreign = fs::read(&segment).unwrap();
    foreign.extend_from_slice(b"{}\n");
    fs::write(&segment, &foreign).unwrap();
    assert_eq!(class(store.append_entry(&entry("b", None, 1))), SessionErrorClass::StaleHandle);
    assert_eq!(fs::read(&segment).unwrap(), foreign, "the other's bytes stay");
    assert_eq!(class(store.append_entry(&entry("b", None, 1))), SessionErrorClass::PoisonedHandle);
}

#[test]
fn frames_in_front_of_the_last_row_come_back_and_foreign_bytes_there_stay() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(900);
    fill(&mut open(directory.path(), &options), &names(8), 60);
    let index = directory.path().join("index/offsets.jsonl");
    let whole = fs::read_to_string(&index).unwrap();
    let without: String = whole
        .split_inclusive('\n')
        .enumerate()
        .filter(|(row, _)| ![1, 4].contains(row))
        .map(|(_, row)| row)
        .collect();
    for verify in [Verify::Full, Verify::Rows] {
        fs::write(&index, &without).unwrap();
        let (store, report) =
            SessionStoreV2::create(directory.path(), &SessionOptions { verify, ..options.clone() }).unwrap();
        assert!(report.index_rebuilt && report.lost_entries.is_empty());
        assert_eq!(store.row_count(), 8);
        assert_eq!(fs::read_to_string(&index).unwrap(), whole);
    }
    // Bytes behind the last frame of an earlier segment that are no frames.
    let first = directory.path().join("segments/0000000000000001.seg");
    let mut bytes = fs::read(&first).unwrap();
    let end = bytes.len() as u64;
    bytes.extend_from_slice(b"what is this\n");
    fs::write(&first, &bytes).unwrap();
    let (mut store, report) = SessionStoreV2::create(directory.path(), &options).unwrap();
    assert!(!report.changed_files());
    assert_eq!((report.unindexed[0].offset, report.unindexed[0].length), (end, 13));
    let manifest = store.write_manifest("s", "native_v2").unwrap();
    assert!(!manifest.invariants.branch_heads_indexed);
    assert_eq!(fs::read(&first).unwrap(), bytes);
}

#[test]
fn damage_in_an_unindexed_tail_is_refused_with_its_place_when_good_frames_follow() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(1 << 20);
    fill(&mut open(directory.path(), &options), &names(5), 60);
    let index = directory.path().join("index/offsets.jsonl");
    let rows = fs::read_to_string(&index).unwrap();
    fs::write(&index, rows.split_inclusive('\n').take(2).collect::<String>()).unwrap();
    let segment = directory.path().join("segments/0000000000000001.seg");
    let text = fs::read_to_string(&segment).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let offset = lines[..3].concat().len();
    for (from, to, expected) in [
        ("\"payload\":", "\"payload\"!", SessionErrorClass::SegmentFrameCorrupt),
        ("xx", "xy", SessionErrorClass::PayloadIntegrityMismatch),
    ] {
        let damaged = lines[..3].concat() + &lines[3].replacen(from, to, 1) + lines[4];
        fs::write(&segment, &damaged).unwrap();
        let before = files(directory.path());
        let error = SessionStoreV2::create(directory.path(), &options).unwrap_err();
        assert_eq!(error.class(), expected);
        let place = format!("{}", segment.display());
        assert!(
            error.to_string().contains(&place) && error.to_string().contains(&format!("byte {offset}")),
            "{error}"
        );
        assert_eq!(files(directory.path()), before);
        // With nothing good behind it the same line is a tail, saved before it is cut.
        fs::write(&segment, &damaged[..damaged.len() - lines[4].len()]).unwrap();
        let (store, report) = SessionStoreV2::create(directory.path(), &options).unwrap();
        assert_eq!(store.row_count(), 3);
        let saved = directory.path().join(report.recovery.truncated[0].saved_as.as_ref().unwrap());
        assert_eq!(fs::read(saved).unwrap(), &damaged.as_bytes()[offset..damaged.len() - lines[4].len()]);
        drop(store);
        fs::write(&index, rows.split_inclusive('\n').take(2).collect::<String>()).unwrap();
    }
}

#[test]
fn other_names_links_and_newer_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(1000);
    let root = directory.path();
    fill(&mut open(root, &options), &["a"], 1);
    for name in [
        "segments/1.seg",
        "segments/0000000000000002.seg.bak",
        "source-state.json",
        "tmp/rollback.intent.tmp",
        "checkpoints/x.json.bak",
    ] {
        fs::write(root.join(name), "not ours").unwrap();
    }
    fs::write(
        root.join("tmp/rollback.intent.json"),
        "{\"schema\":\"pi.session_store_v2.rollback_intent.v1\",\"checkpoint\":7}",
    )
    .unwrap();
    let before = files(root);
    let (store, report) = SessionStoreV2::create(root, &options).unwrap();
    assert_eq!(report.ignored, ["1.seg"]);
    assert!(report.abandoned_rollback.is_some());
    assert_eq!(files(root), before);
    drop(store);
    let segment = root.join("segments/0000000000000002.seg");
    std::os::unix::fs::symlink(root.join("segments/0000000000000001.seg"), &segment).unwrap();
    assert!(SessionStoreV2::create(root, &options).unwrap_err().to_string().contains("symbolic link"));
}

#[test]
fn a_torn_ledger_is_not_appended_to_until_it_is_repaired() {
    let (directory, mut store) = store_of(1000);
    store.append_entry(&entry("a", None, 1)).unwrap();
    store.create_checkpoint(1, "").unwrap();
    assert_eq!(class(store.rollback_to_checkpoint(9, "m", "c")), SessionErrorClass::CheckpointNotFound);
    let ledger = directory.path().join("migrations/ledger.jsonl");
    let good = fs::read(&ledger).unwrap();
    for torn in [&good[..40], &good[..good.len() - 1]] {
        fs::write(&ledger, [&good, torn].concat()).unwrap();
        let read = store.read_migration_events().unwrap();
        assert_eq!((read.events.len(), read.torn.unwrap().offset), (1, good.len() as u64));
        assert_eq!(
            class(store.append_migration_event(MigrationEvent::default())),
            SessionErrorClass::LedgerTorn
        );
        assert_eq!(class(store.rollback_to_checkpoint(1, "m", "c")), SessionErrorClass::LedgerTorn);
        store.repair_ledger().unwrap();
        assert!(store.read_migration_events().unwrap().torn.is_none());
    }
    assert_eq!(
        store.read_migration_events().unwrap().events.len(),
        2,
        "a line that only missed its LF is kept"
    );
    let event = store
        .append_migration_event(MigrationEvent { migration_id: "m".to_owned(), ..MigrationEvent::default() })
        .unwrap();
    assert_eq!(event.schema, crate::session::MIGRATION_EVENT_SCHEMA);
    assert_eq!(event.at.len(), 24);
}

#[test]
fn checkpoints_keep_their_rules_and_failed_rollbacks_their_event() {
    let (directory, mut store) = store_of(600);
    assert_eq!(class(store.create_checkpoint(1, "")), SessionErrorClass::InvalidArgument, "an empty store");
    fill(&mut store, &["a", "b", "c"], 100);
    assert_eq!(class(store.create_checkpoint(0, "")), SessionErrorClass::InvalidArgument);
    assert_eq!(class(store.create_checkpoint(1, &"x".repeat(70_000))), SessionErrorClass::InvalidArgument);
    store.create_checkpoint(5, "manual").unwrap();
    assert_eq!(class(store.create_checkpoint(5, "manual")), SessionErrorClass::CheckpointInvalid);
    store.append_entry(&entry("d", None, 100)).unwrap();
    assert_eq!(
        class(store.create_checkpoint(4, "manual")),
        SessionErrorClass::CheckpointInvalid,
        "heads would fall"
    );
    let path = directory.path().join("checkpoints/0000000000000005.json");
    let text = fs::read_to_string(&path).unwrap();
    for (from, to, outcome, class_expected) in [
        ("\"headEntryId\": \"c\"", "\"headEntryId\": \"b\"", "recoverable_error", "integrity_mismatch"),
        ("\"chainHash\": \"", "\"chainHash\": \"0", "fatal_error", "session_error"),
        ("\"checkpointSeq\": 5", "\"checkpointSeq\": 6", "fatal_error", "session_error"),
        ("{", "[", "fatal_error", "json"),
    ] {
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let before = (store.row_count(), fs::read(directory.path().join("index/offsets.jsonl")).unwrap());
        store.rollback_to_checkpoint(5, "m", "c").unwrap_err();
        let after = (store.row_count(), fs::read(directory.path().join("index/offsets.jsonl")).unwrap());
        assert_eq!(before, after);
        let events = store.read_migration_events().unwrap().events;
        let last = events.last().unwrap();
        assert_eq!((last.outcome.as_str(), last.error_class.as_deref()), (outcome, Some(class_expected)));
    }
    assert_eq!(store.read_migration_events().unwrap().events.len(), 4, "one event an attempt");
    fs::write(&path, text).unwrap();
    let segment = directory.path().join("segments/0000000000000001.seg");
    let sound = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, sound.replacen("xx", "xy", 1)).unwrap();
    assert_eq!(
        class(store.rollback_to_checkpoint(5, "m", "c")),
        SessionErrorClass::RollbackVerificationFailed
    );
    let last = store.read_migration_events().unwrap().events.pop().unwrap();
    assert_eq!(
        (last.outcome.as_str(), last.error_class.as_deref()),
        ("fatal_error", Some("index_corruption"))
    );
    fs::write(&segment, sound).unwrap();
    store.rollback_to_checkpoint(5, "m", "c").unwrap();
    let twice = store.rollback_to_checkpoint(5, "m", "c").unwrap();
    assert_eq!(store.read_migration_events().unwrap().events.len(), 7);
    assert_eq!(twice.outcome, "ok");
    assert_eq!(store.entry_ids().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(store.append_entry(&entry("d", None, 100)).unwrap().entry_seq, 4);
}

#[test]
fn going_back_to_an_empty_store_leaves_an_empty_index_and_no_segments() {
    let (directory, mut store) = store_of(600);
    store.append_entry(&entry("a", None, 100)).unwrap();
    let checkpoint = json!({
        "schema": "pi.session_store_v2.checkpoint.v1", "checkpointSeq": 1, "at": "2026-11-21T00:09:09.762Z",
        "headEntrySeq": 0, "headEntryId": "", "snapshotRef": "checkpoints/0000000000000001.json",
        "compactedBeforeEntrySeq": 0, "chainHash": "0".repeat(64), "reason": "",
    });
    fs::write(directory.path().join("checkpoints/0000000000000001.json"), checkpoint.to_string()).unwrap();
    store.rollback_to_checkpoint(1, "m", "c").unwrap();
    assert_eq!(fs::read(directory.path().join("index/offsets.jsonl")).unwrap(), b"");
    assert!(!directory.path().join("segments/0000000000000001.seg").exists());
    assert!(directory.path().join("segments/0000000000000001.seg.bak").exists());
    assert_eq!(store.append_entry(&entry("b", None, 100)).unwrap().entry_seq, 1);
}

#[test]
fn plain_lines_come_back_as_the_same_entries() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory.path().join("a"), &options(600));
    let lines = [
        r#"{"type":"message","id":"m2","parentId":"m1","message":{"role":"user","n":1.50}}"#,
        r#"{"type":"session_info","id":"m1","parentId":null,"name":"\u00e9"}"#,
        r#"{"entryId":"w","parentEntryId":"m2","entryType":"custom","payload":[1,{"z":0,"a":1}]}"#,
        r#"{"entryId":"x","entryType":"message","payload":{"type":"message","id":"other"}}"#,
    ];
    let parsed: Vec<NewEntry<'_>> = lines.iter().map(|line| parse_import_line(line).unwrap()).collect();
    store.import(&parsed).unwrap();
    let exported: Vec<String> = store.read_all_entries().map(|frame| export_line(&frame.unwrap())).collect();
    assert_eq!(exported[..2], lines[..2], "session lines are their payloads, byte for byte");
    assert!(exported[2].starts_with("{\"entryId\":\"w\",\"parentEntryId\":\"m2\""));
    let again: Vec<NewEntry<'_>> = exported
        .iter()
        .map(|line| match parse_first_import_line(line).unwrap() {
            ImportLine::Entry(entry) => entry,
            ImportLine::Header(_) => panic!("not a header"),
        })
        .collect();
    let (mut copy, _) = SessionStoreV2::create(directory.path().join("b"), &options(600)).unwrap();
    copy.import(&again).unwrap();
    assert_eq!(copy.chain_hash().unwrap(), store.chain_hash().unwrap());
    let key = |store: &SessionStoreV2| -> Vec<(String, Option<String>, String)> {
        store
            .read_all_entries()
            .map(Result::unwrap)
            .map(|frame| (frame.entry_id, frame.parent_entry_id, frame.entry_type))
            .collect()
    };
    assert_eq!(key(&copy), key(&store));
    let header = r#"{"type":"session","version":3,"id":"s-1","cwd":"/h"}"#;
    assert!(matches!(parse_first_import_line(header).unwrap(), ImportLine::Header(Some(id)) if id == "s-1"));
    for bad in ["", "[]", "{}", "{\"type\":\"message\"}", "{\"entryId\":\"a\",\"payload\":1}"] {
        assert_eq!(class(parse_first_import_line(bad)), SessionErrorClass::InvalidArgument, "{bad}");
        assert_eq!(class(parse_import_line(bad)), SessionErrorClass::InvalidArgument, "{bad}");
    }
    let values: Vec<Value> = exported.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(values.len(), 4);
}

#[test]
fn a_payload_is_a_session_entry_only_if_it_says_what_its_frame_says() {
    let payloads = [
        (r#"{"type":"message","id":"b","parentId":"a","text":"hi"}"#, true),
        (r#"{"type":"message","id":"x","parentId":"a"}"#, false),
        (r#"{"type":"message","id":"b"}"#, false),
        (r#"{"type":"label","id":"b","parentId":"a"}"#, false),
        (r#"{"type":"message","parentId":"a"}"#, false),
        ("[1]", false),
    ];
    for (at, (payload, is_entry)) in payloads.into_iter().enumerate() {
        let (_directory, mut store) = store_of(1000);
        store.append_entry(&entry("a", None, 1)).unwrap();
        let new = NewEntry { payload: EntryPayload::verbatim(payload).unwrap(), ..entry("b", Some("a"), 1) };
        store.append_entry(&new).unwrap();
        let frame = store.lookup_entry(2).unwrap().unwrap();
        match frame_to_session_entry(&frame) {
            Ok(read) => assert!(is_entry && read.id == "b" && read.payload.get() == payload, "{at}"),
            Err(error) => {
                assert!(!is_entry && error.class() == SessionErrorClass::SessionError, "{at}: {error}")
            }
        }
    }
}

#[test]
fn a_segment_is_read_without_the_index() {
    let (directory, mut store) = store_of(1000);
    fill(&mut store, &names(5), 200);
    let last = store.head().unwrap().segment_seq;
    assert!(last > 1);
    std::fs::remove_file(directory.path().join("index/offsets.jsonl")).unwrap();
    let mut ids = Vec::new();
    for segment_seq in 1..=last {
        let frames = store.read_segment(segment_seq).unwrap();
        assert!(frames.iter().all(|frame| frame.segment_seq == segment_seq));
        ids.extend(frames.into_iter().map(|frame| frame.entry_id));
    }
    assert_eq!(ids, ["e0", "e1", "e2", "e3", "e4"]);
    assert!(store.read_segment(last + 1).unwrap().is_empty());
    // A payload that is not what its frame says, and a line that is no frame.
    let path = directory.path().join("segments/0000000000000001.seg");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("xxx", "xyx", 1)).unwrap();
    assert_eq!(class(store.read_segment(1)), SessionErrorClass::PayloadIntegrityMismatch);
    std::fs::write(&path, format!("{text}{{}}\n")).unwrap();
    let refused = store.read_segment(1).unwrap_err();
    assert!(refused.to_string().contains(&format!("at byte {} (line ", text.len())), "{refused}");
    drop(store);
}

#[test]
fn a_check_tells_damage_from_lines_without_rows_and_from_unfinished_writes() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let mut store = open(root, &options(1 << 20));
    fill(&mut store, &["a", "b", "c"], 10);
    let chain_hash = store.chain_hash().unwrap();
    let segment = store.segment_file_path(1);
    drop(store);
    let whole = fs::read(&segment).unwrap();
    let known = status(root).unwrap();
    assert_eq!((known.entry_count, known.total_bytes, known.chain_hash), (3, whole.len() as u64, None));
    let problems = |bytes: &[u8]| {
        fs::write(&segment, bytes).unwrap();
        let before = files(root);
        let found = check(root).unwrap();
        assert_eq!(files(root), before);
        assert_eq!(
            found.status.chain_hash,
            found.findings.iter().all(is_about_the_index).then(|| chain_hash.clone())
        );
        (
            found.ok,
            found.findings.into_iter().map(|finding| (finding.offset, finding.problem)).collect::<Vec<_>>(),
        )
    };
    fn is_about_the_index(finding: &Finding<SessionProblem>) -> bool {
        !matches!(finding.problem, SessionProblem::Failed { .. })
    }
    let end = Some(whole.len() as u64);
    assert_eq!(problems(&whole), (true, vec![]));
    let half = [&whole[..], b"half"].concat();
    assert_eq!(problems(&half), (true, vec![(end, SessionProblem::Unfinished { length: 4 })]));
    let line = [&half[..], b"\n"].concat();
    assert_eq!(problems(&line), (false, vec![(end, SessionProblem::Unindexed { length: 5 })]));
    let mut altered = whole.clone();
    altered[whole.len() - 20] ^= 1;
    let class = SessionErrorClass::ChecksumMismatch;
    assert_eq!(problems(&altered), (false, vec![(None, SessionProblem::Failed { class })]));
}

#[test]
fn batched_entries_become_durable_by_their_number_and_by_their_age() {
    let visible_after_each = |max_records, max_delay| {
        let directory = tempfile::tempdir().unwrap();
        let durability = Durability::Batched { max_records, max_delay };
        let options = SessionOptions { durability, ..options(1 << 20) };
        let mut store = open(directory.path(), &options);
        // The first entry of a store is always durable at once.
        let append = |id: &&str| {
            store.append_entry(&entry(id, None, 10)).unwrap();
            status(directory.path()).unwrap().entry_count
        };
        ["a", "b", "c", "d", "e"].iter().map(append).collect::<Vec<_>>()
    };
    assert_eq!(visible_after_each(3, Duration::MAX), [1, 1, 1, 4, 4]);
    assert_eq!(visible_after_each(0, Duration::MAX), [1, 2, 3, 4, 5]);
    assert_eq!(visible_after_each(usize::MAX, Duration::ZERO), [1, 2, 3, 4, 5]);
}
