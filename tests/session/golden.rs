//! Session stores that the format's first implementation wrote and that were then damaged: compares every result,
//! through the library and through `burn session`.
//!
//! The cases are in `fixtures/session-store`. The cases of the folder BURN_GOLDEN (default `../shared/golden`) run as
//! well if it exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use relayburn_ledger::session::{
    EntryPayload, Loss, NewEntry, SegmentFrame, SessionError, SessionErrorClass, SessionOptions,
    SessionStoreV2, SessionView,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::everything::files_in;
use crate::common::{fixture, golden};

mod command;

struct Case {
    name: String,
    folder: PathBuf,
    expect: Value,
    advisory: BTreeSet<String>,
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "case {}", self.name)
    }
}

impl Case {
    fn options(&self) -> SessionOptions {
        SessionOptions {
            max_segment_bytes: self.expect["max_segment_bytes"].as_u64().unwrap(),
            ..SessionOptions::default()
        }
    }

    /// Opened like `burn session reindex`, because the reference drops entries without a request.
    fn accepting(&self) -> SessionOptions {
        SessionOptions { loss: Loss::Accept, ..self.options() }
    }

    /// A fresh copy of the store.
    fn copy(&self) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("store");
        copy_tree(&self.folder.join("store"), &root);
        (directory, root)
    }

    /// Compares the members one by one, unless the expectation at `pointer` is advisory.
    fn compare(&self, pointer: &str, expected: &Value, found: &Value) {
        if self.advisory.contains(pointer) {
            return;
        }
        match (expected, found) {
            (Value::Object(expected), Value::Object(_))
                if self.advisory.iter().any(|at| at.starts_with(&format!("{pointer}/"))) =>
            {
                for (key, expected) in expected {
                    let key_pointer = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
                    self.compare(&key_pointer, expected, &found[key]);
                }
            }
            _ => assert_eq!(expected, found, "{self} {pointer}"),
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let folders = [Some(fixture("session-store")), golden().map(|golden| golden.join("session-store"))];
    for folder in folders.into_iter().flatten() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
            let expect: Value =
                serde_json::from_slice(&fs::read(entry.join("expect.json")).unwrap()).unwrap();
            let advisory =
                expect["advisory"].as_array().unwrap().iter().map(|at| at.as_str().unwrap().to_owned());
            cases.push(Case {
                name: entry.file_name().unwrap().to_str().unwrap().to_owned(),
                advisory: advisory.collect(),
                folder: entry,
                expect,
            });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    println!("{} cases", cases.len());
    assert!(cases.len() >= 23);
    cases
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file under `root`, with size and hash.
fn files(root: &Path) -> BTreeMap<String, Value> {
    let mut paths = Vec::new();
    files_in(root, &mut paths);
    let file = |path: PathBuf| {
        let bytes = fs::read(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        (name, json!({"bytes": bytes.len(), "sha256": hex(&bytes)}))
    };
    paths.into_iter().map(file).collect()
}

/// The files that a case may expect, without the lock, staging leftovers and bytes saved before a cut.
fn binding_files(root: &Path) -> BTreeMap<String, Value> {
    let mut found = files(root);
    found.retain(|name, _| {
        name != "store.mutation.lock"
            && !name.starts_with("tmp/")
            && !name.rsplit('/').next().unwrap().contains(".cut")
    });
    found
}

fn class(error: &SessionError) -> Value {
    json!({"error_class": error.class().as_str()})
}

fn ok_or_class(found: Result<Value, SessionError>) -> Value {
    match found {
        Ok(value) => json!({"ok": value}),
        Err(error) => class(&error),
    }
}

fn ids(frames: impl IntoIterator<Item = Result<SegmentFrame, SessionError>>) -> Result<Value, SessionError> {
    let ids: Result<Vec<String>, SessionError> =
        frames.into_iter().map(|frame| frame.map(|frame| frame.entry_id)).collect();
    Ok(json!(ids?))
}

/// The results of the reading operations that the cases list, on one view.
fn views(view: Result<&SessionView, SessionError>, expected: &Value) -> Value {
    let with = |operation: &dyn Fn(&SessionView) -> Result<Value, SessionError>| match &view {
        Ok(view) => ok_or_class(operation(view)),
        Err(error) => class(error),
    };
    let paths: serde_json::Map<String, Value> = expected["active_paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(|leaf| (leaf.clone(), with(&|view| ids(view.read_active_path(leaf)?))))
        .collect();
    json!({
        "active_paths": paths,
        "all_entry_ids": with(&|view| ids(view.read_all_entries())),
        "from_seq_3_entry_ids": with(&|view| ids(view.read_entries_from(3))),
        "index_entry_ids": with(&|view| Ok(json!(view.entry_ids().collect::<Vec<_>>()))),
        "index_summary": with(&|view| Ok(json!(view.index_summary()))),
        "lookup_seq_2": with(&|view| Ok(match view.lookup_entry(2)? {
            None => Value::Null,
            Some(frame) => json!({
                "entryId": frame.entry_id,
                "payload": serde_json::from_str::<Value>(frame.payload.get()).unwrap(),
            }),
        })),
        "tail_2_entry_ids": with(&|view| ids(view.read_tail_entries(2))),
        "validate_integrity": with(&|view| view.validate_integrity().map(|_| Value::Null)),
    })
}

/// All row and frame fields, as the cases list them.
fn entries(view: &SessionView) -> Value {
    let rows = view.read_index().zip(view.read_all_entries());
    rows.map(|(row, frame)| {
        let frame = frame.unwrap();
        json!({
            "byteLength": row.byte_length, "byteOffset": row.byte_offset, "crc32c": row.crc32c,
            "entryId": frame.entry_id, "entrySeq": frame.entry_seq, "entryType": frame.entry_type,
            "frameSeq": frame.frame_seq, "parentEntryId": frame.parent_entry_id,
            "payloadBytes": frame.payload_bytes, "payloadSha256": frame.payload_sha256,
            "segmentSeq": frame.segment_seq,
        })
    })
    .collect()
}

fn entry(id: &str, parent_id: Option<String>, payload: &str) -> NewEntry<'static> {
    NewEntry {
        id: id.to_owned().into(),
        parent_id: parent_id.map(Into::into),
        entry_type: "custom".into(),
        payload: EntryPayload::sorted(payload).unwrap(),
    }
}

#[test]
fn checkouts_are_whole() {
    for case in cases() {
        let expected: BTreeMap<String, Value> = case.expect["files"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, file)| (name.clone(), json!({"bytes": file["bytes"], "sha256": file["sha256"]})))
            .collect();
        assert_eq!(files(&case.folder.join("store")), expected, "{case}");
    }
}

#[test]
fn inspection_answers_as_the_reference_and_touches_nothing() {
    for case in cases() {
        let (_directory, root) = case.copy();
        let before = files(&root);
        let expected = &case.expect["inspection"];
        let mut reader = SessionStoreV2::open_for_inspection(&root, &case.options()).unwrap();
        let found = views(reader.view(), expected);
        case.compare("/inspection", expected, &found);
        assert_eq!(files(&root), before, "{case}");
        assert!(!root.join("tmp").exists() || case.folder.join("store/tmp").exists());
    }
}

#[test]
fn rows_that_fail_verification_are_never_handed_out() {
    for case in cases() {
        let (_directory, root) = case.copy();
        let Some(failing) = case.expect["rows_failing_verification"].as_array() else { continue };
        let mut reader = SessionStoreV2::open_for_inspection(&root, &case.options()).unwrap();
        let view = reader.view().unwrap();
        for row in view.read_index() {
            let outcome = view.lookup_entry(row.entry_seq);
            if failing.contains(&json!(row.entry_seq)) {
                let class = outcome.unwrap_err().class().as_str();
                assert!(["checksum_mismatch", "index_missing_frame"].contains(&class), "{class}");
            }
        }
    }
}

#[test]
fn an_explicit_rebuild_gives_the_reference_s_index() {
    for case in cases() {
        let (_directory, root) = case.copy();
        let expected = &case.expect["rebuild_index_only"];
        let found =
            ok_or_class(SessionStoreV2::open_rebuilding(&root, &case.options()).map(|(store, report)| {
                json!({
                    "chain_hash": store.chain_hash().unwrap(),
                    "rebuilt": report.rows_after,
                    "total_bytes": store.total_bytes(),
                })
            }));
        case.compare("/rebuild_index_only", expected, &found);
    }
}

/// Opens for writing, and describes the result in the words of the cases.
fn recovering_open(case: &Case, root: &Path, expected: &Value) -> Value {
    let index = root.join("index/offsets.jsonl");
    match SessionStoreV2::create(root, &case.accepting()) {
        Err(error) => json!({"result": "error", "error_class": error.class().as_str()}),
        Ok((store, _)) => {
            drop(store);
            let after = binding_files(root);
            let (mut store, second) = SessionStoreV2::create(root, &case.options()).unwrap();
            let unchanged = binding_files(root) == after && !second.changed_files();
            let view = &*store;
            let mut found = json!({
                "result": "ok",
                "entry_count": view.entry_count(),
                "head": view.head().map(|head| json!({
                    "segmentSeq": head.segment_seq, "entrySeq": head.entry_seq, "entryId": head.entry_id,
                })),
                "chain_hash": view.chain_hash().unwrap(),
                "total_bytes": view.total_bytes(),
                "entries": entries(view),
                "views": views(Ok(view), &expected["views"]),
                "files_after": after,
                "second_open": {"changes": if unchanged { json!([]) } else { json!("some") }, "result": "ok"},
            });
            let head = view.head().map(|head| head.entry_id);
            let row = store.append_entry(&entry("probe-entry", head, "{\"probe\":true}")).unwrap();
            found["append_probe"] = json!({"ok": {
                "byteLength": row.byte_length, "byteOffset": row.byte_offset,
                "chain_hash_after": store.chain_hash().unwrap(),
                "entrySeq": row.entry_seq, "frameSeq": row.frame_seq, "segmentSeq": row.segment_seq,
                "total_bytes_after": store.total_bytes(),
            }});
            drop(store);
            assert!(!SessionStoreV2::create(root, &case.options()).unwrap().1.changed_files());
            assert!(index.exists());
            found
        }
    }
}

#[test]
fn a_recovering_open_has_one_of_the_accepted_outcomes() {
    for case in cases() {
        let (_directory, root) = case.copy();
        let before = files(&root);
        let better = &case.expect["recovering_open_better"]["outcome"];
        let expected = if better.is_object() { better } else { &case.expect["recovering_open"] };
        let found = recovering_open(&case, &root, expected);
        for (key, expected) in expected.as_object().unwrap() {
            let pointer = format!("/recovering_open/{key}");
            match key.as_str() {
                // Where our opening differs, its files are compared.
                "changes" | "index_replaced" => {}
                "unchanged_files" => {
                    for name in expected.as_array().unwrap() {
                        let name = name.as_str().unwrap();
                        assert_eq!(files(&root)[name], before[name], "{case} {name}");
                    }
                }
                "error_class_one_of" => {
                    assert!(expected.as_array().unwrap().contains(&found["error_class"]), "{case}");
                }
                "second_open" if found["result"] == "error" => {
                    let after = binding_files(&root);
                    let again = recovering_open(&case, &root, expected);
                    assert_eq!(again["error_class"], found["error_class"], "{case}");
                    assert_eq!(binding_files(&root), after, "{case}");
                }
                "files_after" if found["result"] == "error" => {
                    let mut expected = expected.as_object().unwrap().clone();
                    expected.retain(|name, _| !name.starts_with("tmp/"));
                    case.compare(&pointer, &Value::Object(expected), &json!(binding_files(&root)));
                }
                _ => case.compare(&pointer, expected, &found[key]),
            }
        }
    }
}

#[test]
fn an_open_that_is_not_asked_to_drops_no_entry() {
    for case in cases() {
        let (_directory, root) = case.copy();
        let before = binding_files(&root);
        let (_other, other_root) = case.copy();
        let accepted = SessionStoreV2::create(&other_root, &case.accepting());
        let opened = SessionStoreV2::create(&root, &case.options());
        let drops = ["09", "12", "13"].iter().any(|number| case.name.starts_with(number));
        match (opened, accepted) {
            (Err(error), Ok((_, report))) => {
                assert!(drops && error.class() == SessionErrorClass::EntriesWouldBeLost, "{case}: {error}");
                let told = format!("would drop {} ", report.lost_entries.len());
                assert!(error.to_string().contains(&told), "{case}: {error}");
                assert_eq!(binding_files(&root), before, "{case}");
            }
            (Err(error), Err(accepted)) => assert_eq!(error.class(), accepted.class(), "{case}"),
            (Ok((_, mut report)), Ok((_, mut accepted))) => {
                assert!(!drops, "{case}");
                // These members have the path of the copy.
                (report.wide_directories, accepted.wide_directories) = (Vec::new(), Vec::new());
                (report.reason, accepted.reason) = (None, None);
                report.recovery = report.recovery.relative_to(&root);
                accepted.recovery = accepted.recovery.relative_to(&other_root);
                assert_eq!(report, accepted, "{case}");
            }
            (Ok(_), Err(error)) => panic!("{case}: {error}"),
        }
    }
}

#[test]
fn recovery_reports_what_it_did() {
    let case = |prefix: &str| cases().into_iter().find(|case| case.name.starts_with(prefix)).unwrap();
    let report = |prefix| {
        let case = case(prefix);
        let (_directory, root) = case.copy();
        let mut report = SessionStoreV2::create(&root, &case.accepting()).unwrap().1;
        report.recovery = report.recovery.relative_to(&root);
        report
    };
    assert!(!report("01").changed_files() && !report("20").changed_files());
    assert!(
        report("04").index_rebuilt && report("04").rows_before == Some(0) && report("04").rows_after == 5
    );
    assert!(report("05").rows_before.is_none());
    let torn = report("08");
    assert!(!torn.index_rebuilt);
    let cut = &torn.recovery.truncated[0];
    assert_eq!((cut.length, cut.from_length), (1004, 1174));
    assert_eq!(cut.saved_as.as_deref(), Some(Path::new("segments/0000000000000001.seg.cut")));
    let lost = report("09").lost_entries;
    assert_eq!((lost.len(), lost[0].entry_id.as_str()), (1, "q5"));
    assert_eq!(report("10").healed, ["segments/0000000000000001.seg"]);
    let wrong = report("12");
    assert_eq!(wrong.recovery.set_aside[0].saved_as, Path::new("segments/0000000000000003.seg.bak"));
    assert_eq!(wrong.lost_entries.len(), 5);
    let more = report("19");
    assert_eq!((more.rows_before, more.rows_after), (Some(3), 5));
    let altered = report("21").changed_crcs;
    assert_eq!((altered.len(), altered[0].entry_seq), (1, 2));
}

#[test]
fn rollback_leaves_the_reference_s_store() {
    for case in cases() {
        let expected = &case.expect["rollback"];
        if expected.is_null() {
            continue;
        }
        let (_directory, root) = case.copy();
        let (mut store, _) = SessionStoreV2::create(&root, &case.options()).unwrap();
        let number = expected["checkpoint_seq"].as_u64().unwrap();
        assert_eq!(json!(store.read_checkpoint(number).unwrap()), expected["checkpoint"]);
        let event = &expected["event"];
        let found = store
            .rollback_to_checkpoint(
                number,
                event["migrationId"].as_str().unwrap(),
                expected["correlation_id"].as_str().unwrap(),
            )
            .unwrap();
        case.compare("/rollback/event", event, &json!(found));
        assert_eq!(entries(&store), expected["entries_after"]);
        assert_eq!(store.read_migration_events().unwrap().events, [found]);
        let after = binding_files(&root);
        for (name, file) in expected["files_after"].as_object().unwrap() {
            let pointer = format!("/rollback/files_after/{}", name.replace('/', "~1"));
            case.compare(&pointer, file, after.get(name).unwrap_or(&Value::Null));
        }
        assert!(!after.contains_key("segments/0000000000000003.seg"));
        assert_eq!(
            after["segments/0000000000000003.seg.bak"],
            case.expect["files"]["segments/0000000000000003.seg"]
        );
        drop(store);
        assert!(!SessionStoreV2::create(&root, &case.options()).unwrap().1.changed_files());
    }
}

#[test]
fn manifests_are_read_compared_and_written_as_by_the_reference() {
    for case in cases() {
        let expected = &case.expect["manifest"];
        if expected.is_null() {
            continue;
        }
        let (_directory, root) = case.copy();
        let mut reader = SessionStoreV2::open_for_inspection(&root, &case.options()).unwrap();
        let view = reader.view().unwrap();
        let before = view.read_manifest().unwrap().unwrap();
        for (key, value) in expected["document"].as_object().unwrap() {
            assert_eq!(&json!(before)[key], value);
        }
        assert!(view.manifest_differences(&before).unwrap().is_empty());
        assert_eq!(json!(view.read_checkpoint(3).unwrap()), case.expect["checkpoint_3"]);
        let mut hashed = before.clone();
        hashed.integrity.manifest_hash.clear();
        assert_eq!(
            serde_json::to_string(&hashed).unwrap(),
            expected["manifest_hash_input_utf8"].as_str().unwrap()
        );

        let (mut store, _) = SessionStoreV2::create(&root, &case.options()).unwrap();
        let mut written = store.write_manifest(&before.session_id, &before.source_format).unwrap();
        assert_eq!(written.hash(), written.integrity.manifest_hash);
        written.updated_at.clone_from(&before.updated_at);
        written.integrity.manifest_hash.clone_from(&before.integrity.manifest_hash);
        assert_eq!(written, before);
        let mut text = fs::read_to_string(root.join("manifest.json")).unwrap();
        assert!(text.ends_with('}'));
        text = text.replace("\"messagesTotal\": 3", "\"messagesTotal\": 4");
        fs::write(root.join("manifest.json"), text).unwrap();
        assert_eq!(store.read_manifest().unwrap_err().class().as_str(), "manifest_hash_mismatch");
    }
}
