//! The same cases through `burn session`.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::*;
use crate::common::everything::finish;

fn burn(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.arg("session").args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = finish(command.spawn().unwrap(), input);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn burn_json(arguments: &[&str], input: &str) -> Value {
    let (code, out, err) = burn(&[arguments, &["--json"]].concat(), input);
    let found: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"));
    let failed = found.get("ok") == Some(&json!(false));
    assert_eq!(code, Some(i32::from(failed)), "{arguments:?}: {out} {err}");
    found
}

/// A list of ids, or the class of the failure, from `show` and `path`.
fn shown(arguments: &[&str]) -> Value {
    let found = burn_json(arguments, "");
    match found.get("error") {
        Some(error) => json!({"error_class": error["class"]}),
        None => {
            let frames = found["entries"].as_array().unwrap().iter();
            json!({"ok": frames.map(|frame| frame["entryId"].clone()).collect::<Vec<_>>()})
        }
    }
}

#[test]
fn the_command_line_inspects_every_case() {
    for case in cases() {
        let (_directory, root) = case.copy();
        let dir = root.to_str().unwrap();
        let before = files(&root);
        let expected = &case.expect["inspection"];
        let check = burn_json(&["check", dir], "");
        let validity = match &check["error"] {
            Value::Null => json!({"ok": null}),
            error => json!({"error_class": error["class"]}),
        };
        case.compare("/inspection/validate_integrity", &expected["validate_integrity"], &validity);
        if let Some(ids) = expected["index_entry_ids"].get("ok") {
            assert_eq!(&check["entryIds"], ids, "{case}");
            assert_eq!(check["indexSummary"], expected["index_summary"]["ok"], "{case}");
        }
        if check["ok"] == json!(true) && case.expect["recovering_open"]["changes"] == json!([]) {
            assert_eq!(check["chainHash"], case.expect["recovering_open"]["chain_hash"], "{case}");
        }
        case.compare("/inspection/all_entry_ids", &expected["all_entry_ids"], &shown(&["show", dir]));
        let from = shown(&["show", dir, "--from", "3"]);
        case.compare("/inspection/from_seq_3_entry_ids", &expected["from_seq_3_entry_ids"], &from);
        let tail = shown(&["show", dir, "--tail", "2"]);
        case.compare("/inspection/tail_2_entry_ids", &expected["tail_2_entry_ids"], &tail);
        for (leaf, path) in expected["active_paths"].as_object().unwrap() {
            let mut found = shown(&["path", dir, leaf]);
            // The library returns an empty list, like the reference; the command line reports that it found nothing.
            if found == json!({"error_class": "entry_not_found"}) {
                found = json!({"ok": []});
            }
            case.compare(&format!("/inspection/active_paths/{leaf}"), path, &found);
        }
        assert_eq!(files(&root), before, "{case}");
    }
}

#[test]
fn the_command_line_recovers_every_case() {
    for case in cases() {
        let (_directory, root) = case.copy();
        let dir = root.to_str().unwrap();
        let before = files(&root);
        let better = &case.expect["recovering_open_better"]["outcome"];
        let expected = if better.is_object() { better } else { &case.expect["recovering_open"] };
        let size = case.expect["max_segment_bytes"].to_string();
        let found = burn_json(&["reindex", dir, "--max-segment-bytes", &size], "");
        if expected["result"] == "error" {
            let class = &found["error"]["class"];
            match expected["error_class_one_of"].as_array() {
                Some(classes) => assert!(classes.contains(class), "{case}"),
                None => assert_eq!(class, &expected["error_class"], "{case}"),
            }
            let lock = "store.mutation.lock";
            let mut after = files(&root);
            after.remove(lock);
            assert_eq!(after, before, "{case}: a refusal changes nothing");
            continue;
        }
        assert_eq!(found["ok"], json!(true), "{case}: {found}");
        assert_eq!(found["entryCount"], expected["entry_count"], "{case}");
        assert_eq!(found["head"], expected["head"], "{case}");
        assert_eq!(found["chainHash"], expected["chain_hash"], "{case}");
        assert_eq!(found["totalBytes"], expected["total_bytes"], "{case}");
        assert_eq!(json!({"ok": found["indexSummary"]}), expected["views"]["index_summary"], "{case}");
        assert_eq!(json!({"ok": found["entryIds"]}), expected["views"]["index_entry_ids"], "{case}");
        assert_eq!(json!(binding_files(&root)), expected["files_after"], "{case}");
        if !better.is_object() {
            let truncated: Vec<_> =
                changes(&case, "truncated").filter(|(path, _)| path.ends_with(".seg")).collect();
            let reported = found["recovery"]["truncated"].as_array().unwrap().iter();
            assert_eq!(
                truncated,
                reported
                    .map(|cut| (cut["file"].clone(), cut["length"].clone()))
                    .map(pair)
                    .collect::<Vec<_>>()
            );
            let quarantined: Vec<_> = changes(&case, "quarantined").map(|(path, _)| path).collect();
            let reported = found["recovery"]["quarantined"].as_array().unwrap().iter();
            assert_eq!(
                quarantined,
                reported.map(|file| file["file"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            );
            assert_eq!(found["recovery"]["indexRebuilt"], expected["index_replaced"], "{case}");
        }
        let again = burn_json(&["reindex", dir, "--max-segment-bytes", &size], "");
        assert_eq!(again["recovery"]["indexRebuilt"], json!(false));
        assert_eq!(json!(binding_files(&root)), expected["files_after"], "{case}");

        let mut probe = json!({"entryId": "probe-entry", "entryType": "custom", "payload": {"probe": true}});
        if let Some(head) = found["head"].as_object() {
            probe["parentEntryId"] = head["entryId"].clone();
        }
        let appended = burn_json(&["append", dir, "--max-segment-bytes", &size], &format!("{probe}\n"));
        assert_eq!(appended["appended"], json!(1));
        let after = burn_json(&["check", dir], "");
        let expected = &expected["append_probe"]["ok"];
        assert_eq!(after["chainHash"], expected["chain_hash_after"], "{case}");
        assert_eq!(after["totalBytes"], expected["total_bytes_after"], "{case}");
        assert_eq!(after["head"]["segmentSeq"], expected["segmentSeq"], "{case}");
        assert_eq!(after["head"]["entrySeq"], expected["entrySeq"], "{case}");
    }
}

fn changes<'c>(case: &'c Case, kind: &'c str) -> impl Iterator<Item = (String, Value)> + 'c {
    let all = case.expect["recovering_open"]["changes"].as_array().unwrap().iter();
    all.filter(move |change| change["kind"] == kind)
        .map(|change| (change["path"].as_str().unwrap().to_owned(), change["to_bytes"].clone()))
}

fn pair((file, length): (Value, Value)) -> (String, Value) {
    (file.as_str().unwrap().to_owned(), length)
}

#[test]
fn the_command_line_rolls_back_and_sums_up() {
    for case in cases() {
        let (_directory, root) = case.copy();
        let dir = root.to_str().unwrap();
        if case.expect["manifest"].is_object() {
            let found = burn_json(&["manifest", dir], "");
            for (key, value) in case.expect["manifest"]["document"].as_object().unwrap() {
                assert_eq!(&found[key], value);
            }
            assert_eq!(found["differences"], json!([]));
        }
        let expected = &case.expect["rollback"];
        if expected.is_object() {
            let event = &expected["event"];
            let migration = event["migrationId"].as_str().unwrap();
            let correlation = expected["correlation_id"].as_str().unwrap();
            let number = expected["checkpoint_seq"].to_string();
            let arguments =
                ["rollback", dir, &number, "--migration-id", migration, "--correlation-id", correlation];
            case.compare("/rollback/event", event, &burn_json(&arguments, ""));
            let check = burn_json(&["check", dir], "");
            assert_eq!(check["chainHash"], expected["checkpoint"]["chainHash"]);
        }
    }
}
