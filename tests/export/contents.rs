//! What is in the files: every row of the archive once, in the file of its day, and no text that nobody asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use parquet::record::Field;
use relayburn_ledger::dev::Profile;
use relayburn_ledger::record::time::Instant;
use rusqlite::Connection;
use rusqlite::types::Value as Cell;
use serde_json::json;

use crate::common::ledgers::{generated, stamp, turn, turn_with};
use crate::common::processes;
use crate::support::{ExportedRow, Scene, assert_whole, by_day, parquet_rows};

const TABLES: [&str; 4] = ["turns", "tool_calls", "tool_result_events", "compactions"];
const FLAGS: [&str; 5] = ["has_edits", "is_sidechain", "is_error", "tokens_present", "cost_present"];
const EVERYTHING: [&str; 2] = ["--with", "target,project,description,enrichment"];

/// The rows of a table of the archive, by column; a tool call has the `ts` of its turn.
fn archived(scene: &Scene, table: &str) -> Vec<BTreeMap<String, Cell>> {
    let archive = Connection::open(scene.archive()).unwrap();
    let sql = match table {
        "tool_calls" => {
            "SELECT c.*, t.ts FROM tool_calls c JOIN turns t USING (source, session_id, message_id)"
                .to_owned()
        }
        table => format!("SELECT * FROM {table}"),
    };
    let mut statement = archive.prepare(&sql).unwrap();
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| {
        names.iter().enumerate().map(|(at, name)| Ok((name.clone(), row.get(at)?))).collect()
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// A value as a column of this name has it, and whether it is converted.
fn expected(name: &str, cell: &Cell) -> Field {
    match cell {
        Cell::Null => Field::Null,
        Cell::Integer(number) if FLAGS.contains(&name) => Field::Bool(*number != 0),
        Cell::Integer(number) => Field::Long(*number),
        Cell::Real(number) if FLAGS.contains(&name) => Field::Bool(*number as i64 != 0),
        Cell::Real(number) => Field::Long(*number as i64),
        Cell::Text(text) => Field::Str(text.clone()),
        Cell::Blob(_) => panic!("the generator stores no blobs"),
    }
}

fn day_of(ts: &Cell) -> (String, Field) {
    let Cell::Text(ts) = ts else { return ("unknown".to_owned(), Field::Null) };
    let Some(instant) = Instant::of_turn(ts) else { return ("unknown".to_owned(), Field::Null) };
    let ts_us = instant.seconds * 1_000_000 + i64::from(instant.nanos / 1000);
    (instant.to_rfc3339()[..10].to_owned(), Field::TimestampMicros(ts_us))
}

#[track_caller]
fn assert_same_rows(scene: &Scene, more: &[&str]) -> BTreeMap<&'static str, usize> {
    let summary = scene.export(&[&EVERYTHING, more].concat());
    let manifest = scene.manifest();
    let mut counts = BTreeMap::new();
    for table in TABLES {
        let mut wanted: Vec<String> = archived(scene, table)
            .into_iter()
            .map(|row| {
                let (day, ts_us) = day_of(&row["ts"]);
                let mut cells: BTreeMap<String, Field> =
                    row.iter().map(|(name, cell)| (name.clone(), expected(name, cell))).collect();
                cells.insert("ts_us".to_owned(), ts_us);
                for name in ["home_id", "generation"] {
                    let key = if name == "home_id" { "homeId" } else { name };
                    cells.insert(name.to_owned(), Field::Str(summary[key].as_str().unwrap().to_owned()));
                }
                format!("{:?}", ExportedRow { day, cells })
            })
            .collect();
        let rows = scene.rows(&manifest, table);
        counts.insert(table, rows.len());
        let mut found: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
        wanted.sort();
        found.sort();
        assert_eq!(found.len(), wanted.len(), "{table}");
        for (found, wanted) in found.iter().zip(&wanted) {
            assert_eq!(found, wanted, "{table}");
        }
        // Within a day, rows are sorted by the text of `ts`.
        for pair in rows.windows(2).filter(|pair| pair[0].day == pair[1].day) {
            assert!(pair[0].text("ts") <= pair[1].text("ts"), "{table}: {pair:?}");
        }
    }
    counts
}

#[test]
fn every_row_of_a_generated_ledger_is_exported_once_in_the_file_of_its_day() {
    for (profile, size_bytes) in
        [(Profile::Mixed, 3_000_000), (Profile::Stamps, 500_000), (Profile::Adversarial, 1_500_000)]
    {
        let scene = Scene::new(&generated(profile, size_bytes, 7).0);
        let counts = assert_same_rows(&scene, &[]);
        assert!(counts["turns"] > 100, "{profile:?} {counts:?}");
        if profile == Profile::Mixed {
            assert!(counts.values().all(|count| *count > 0), "{counts:?}");
        }
        let manifest = scene.manifest();
        assert_whole(&manifest, |path| fs::read(scene.out().join(path)).unwrap());
        assert_eq!(
            by_day(&manifest).into_values().collect::<BTreeSet<_>>(),
            scene.data_files().into_iter().collect()
        );
    }
}

#[test]
fn times_of_every_form_are_in_the_day_of_their_instant() {
    let times = [
        "2026-04-20T00:00:00.000Z",
        "2026-04-20T23:59:59.999Z",
        "2026-04-21T00:30:00+02:00",
        "2026-04-19T23:30:00-02:00",
        "2026-04-22T23:58:00+23:59",
        "2026-04-18T00:01:00-23:59",
        "2026-04-20 12:00",
        "2026-04-20t12:00:00z",
        "2026-04-21T00:00:00.000Z",
        "2026-02-30T00:00:00.000Z",
        "2026-04-20T24:00:00.000Z",
        "",
        "yesterday",
        "2026-04-20",
        "1776643200000",
        "9999-12-31T23:59:59.999Z",
        "0001-01-01T00:00:00Z",
        "2026-04-20T00:00:00.000001999Z",
        "~",
        "2026-04-20T23:59:60Z",
    ];
    let ledger: String = times.iter().enumerate().map(|(at, ts)| turn("s", &format!("m-{at}"), ts)).collect();
    let event = |at: usize, ts: &str| {
        format!(
            r#"{{"v":1,"kind":"tool_result_event","record":{{"v":1,"source":"codex","sessionId":"s","messageId":"m","toolUseId":"t-{at}","callIndex":0,"eventIndex":{at},"status":"completed","eventSource":"x"{ts}}}}}"#
        ) + "\n"
    };
    let events: String =
        times.iter().enumerate().map(|(at, ts)| event(at, &format!(r#","ts":"{ts}""#))).collect();
    let scene = Scene::new((ledger + &events + &event(98, "") + &event(99, "")).as_bytes());
    let counts = assert_same_rows(&scene, &[]);
    assert_eq!([counts["turns"], counts["tool_result_events"]], [times.len(), times.len() + 2]);
    let days: Vec<String> = by_day(&scene.manifest())
        .into_keys()
        .filter(|(table, _)| table == "turns")
        .map(|(_, day)| day)
        .collect();
    assert_eq!(
        days,
        ["0001-01-01", "2026-04-19", "2026-04-20", "2026-04-21", "9999-12-31", "unknown"]
            .map(str::to_owned)
            .to_vec()
    );

    // With --since, a row is exported if its instant is not before the day, or if it has none.
    let other = Scene::new(&fs::read(scene.ledger()).unwrap());
    other.export(&["--since", "2026-04-21"]);
    let all = by_day(&scene.manifest());
    for ((table, day), _) in by_day(&other.manifest()) {
        assert!(day.as_str() >= "2026-04-21", "{table} {day}");
        let count =
            |scene: &Scene| scene.rows(&scene.manifest(), &table).iter().filter(|row| row.day == day).count();
        assert_eq!(count(&other), count(&scene), "{table} {day}");
    }
    let late = all.into_keys().filter(|(_, day)| day.as_str() >= "2026-04-21").count();
    assert_eq!(by_day(&other.manifest()).len(), late);
}

#[test]
fn personal_text_is_in_no_byte_of_the_files_unless_it_is_asked_for() {
    let personal = r#","project":"/SECRET/project","projectKey":"SECRET-key","subagent":{"isSidechain":true,"agentId":"a-1","description":"SECRET task"},"toolCalls":[{"id":"t-1","name":"Bash","target":"cat SECRET","argsHash":"x"}]"#;
    let line =
        turn_with("s", "m-1", "2026-04-20T00:00:00.000Z", personal).replacen(r#""toolCalls":[],"#, "", 1);
    let tags =
        stamp("2026-04-20T00:00:00Z", r#"{"sessionId":"s"}"#, r#"{"workflowId":"w-1","ticket":"SECRET-7"}"#);
    let scene = Scene::new((line + &tags).as_bytes());
    let bytes = |scene: &Scene| -> Vec<u8> {
        let manifest = scene.manifest();
        let paths = by_day(&manifest).into_values();
        // The rows as text, because pages are compressed, and the bytes, because footers are not.
        paths
            .flat_map(|path| {
                let bytes = fs::read(scene.out().join(path)).unwrap();
                let rows = format!("{:?}", parquet_rows(bytes.clone()));
                [bytes, rows.into_bytes()].concat()
            })
            .collect()
    };
    let count = |bytes: &[u8]| memchr::memmem::find_iter(bytes, "SECRET").count();
    scene.export(&[]);
    let plain = bytes(&scene);
    assert_eq!(count(&plain), 0);
    assert!(memchr::memmem::find(&plain, b"w-1").is_some());
    let turns = scene.rows(&scene.manifest(), "turns");
    assert!(!turns[0].cells.contains_key("project") && turns[0].text("workflow_id") == Some("w-1"));

    let key = scene.directory.path().join("key");
    fs::write(&key, "0123456789abcdef0123456789abcdef\n").unwrap();
    scene.export(&["--hash-key", key.to_str().unwrap()]);
    assert_eq!(count(&bytes(&scene)), 0);
    let manifest = scene.manifest();
    assert_eq!(manifest["hashed"], json!(["target", "project", "description", "enrichment"]));
    let turns = scene.rows(&manifest, "turns");
    let hash = |column: &str| turns[0].text(column).unwrap().to_owned();
    assert!(hash("project").len() == 32 && hash("project") != hash("project_key"));
    let calls = scene.rows(&manifest, "tool_calls");
    assert_eq!(calls[0].text("target").unwrap().len(), 32);
    // A hash without a key would let readers try candidates for the target.
    assert_eq!(calls[0].text("args_hash").unwrap().len(), 32);

    scene.export(&["--with", "project", "--hash-key", key.to_str().unwrap()]);
    let manifest = scene.manifest();
    assert_eq!(
        [&manifest["with"], &manifest["hashed"]],
        [&json!(["project"]), &json!(["target", "description", "enrichment"])]
    );
    let mixed = scene.rows(&manifest, "turns");
    assert_eq!(mixed[0].text("project"), Some("/SECRET/project"));
    assert_eq!(mixed[0].text("subagent_description"), Some(&*hash("subagent_description")));

    scene.export(&EVERYTHING);
    let calls = scene.rows(&scene.manifest(), "tool_calls");
    assert_eq!(calls[0].text("args_hash"), Some("x"));
    let all = scene.rows(&scene.manifest(), "turns");
    assert_eq!(all[0].text("enrichment_json"), Some(r#"{"workflowId":"w-1","ticket":"SECRET-7"}"#));
    // Nothing that was left out comes from the content of an earlier export: each day has one file in the manifest.
    assert_eq!(by_day(&scene.manifest()).len(), 2);
}

#[test]
fn a_value_of_another_type_is_converted_counted_and_announced() {
    let scene = Scene::new(turn("s", "m-1", "2026-04-20T00:00:00.000Z").as_bytes());
    scene.export(&[]);
    let archive = Connection::open(scene.archive()).unwrap();
    archive
        .execute_batch(
            "UPDATE turns SET input_tokens = 1.75, has_edits = 2, retries = 'many', model = x'6dff'",
        )
        .unwrap();
    let output = scene.export_command(&[]).output().unwrap();
    let summary = processes::success(&output);
    assert_eq!(summary["tables"][0], json!({"table": "turns", "rows": 1, "days": 1, "lossy": 4}));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("turns: 4 cells hold a value of another type"), "{stderr}");
    let rows = scene.rows(&scene.manifest(), "turns");
    assert_eq!(rows[0].cells["input_tokens"], Field::Long(1));
    assert_eq!(rows[0].cells["has_edits"], Field::Bool(true));
    assert_eq!(rows[0].cells["retries"], Field::Null);
    assert_eq!(rows[0].text("model"), Some("m\u{fffd}"));
}
