//! Which files an export writes, which it leaves, and what it refuses.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use relayburn_ledger::archive::{self, Load, Options, Paths, Unobserved};
use relayburn_ledger::dev::Profile;
use relayburn_ledger::home::Home;
use serde_json::{Value, json};

use crate::common::ledgers::{generated, stamp, turn};
use crate::common::processes;
use crate::support::{Scene, assert_whole, by_day, files_of, read_json, refusal};

/// A turn at noon of a day in April 2026.
fn on(day: u32, message: &str) -> String {
    turn("s", message, &format!("2026-04-{day:02}T12:00:00.000Z"))
}

fn three_days() -> Scene {
    Scene::new((on(20, "m-1") + &on(21, "m-2") + &on(22, "m-3")).as_bytes())
}

fn number(summary: &Value, member: &str) -> u64 {
    summary[member].as_u64().unwrap()
}

#[test]
fn an_export_without_changes_writes_nothing() {
    let scene = Scene::new(&generated(Profile::Mixed, 300_000, 3).0);
    let first = scene.export(&[]);
    assert_eq!(first["isManifestWritten"], true);
    assert_eq!(number(&first, "filesWritten"), number(&first, "files"));
    let before = (fs::read(&scene.manifest_paths()[0]).unwrap(), scene.data_files());
    let second = scene.export(&[]);
    assert_eq!((&second["isManifestWritten"], number(&second, "filesWritten")), (&json!(false), 0));
    assert_eq!((fs::read(&scene.manifest_paths()[0]).unwrap(), scene.data_files()), before);
    // A line of a kind that is in no table moves the archive, and with it the manifest alone.
    scene.append("{\"v\":1,\"kind\":\"unheard\"}\n");
    let third = scene.export(&[]);
    assert_eq!((number(&third, "seq"), number(&third, "filesWritten")), (2, 0));
    assert_eq!(number(&third, "ledgerBytes"), fs::metadata(scene.ledger()).unwrap().len());
}

#[test]
fn an_export_reads_nothing_only_when_nothing_can_have_changed() {
    let scene = three_days();
    let ledger = fs::File::options().write(true).open(scene.ledger()).unwrap();
    ledger.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    // Until the time of a write can be told from the time of a later one.
    let rest = || std::thread::sleep(Duration::from_millis(3100));
    let key = scene.directory.path().join("key");
    fs::write(&key, "0123456789abcdef").unwrap();
    let is_unchanged = |more: &[&str]| scene.export(more)["isUnchanged"] == true;
    assert!(!is_unchanged(&[]));
    rest();
    let read = scene.export(&[]);
    let (manifest, archive) = (scene.manifest(), fs::read(scene.archive()).unwrap());
    let unread = scene.export(&[]);
    assert_eq!((&read["isUnchanged"], &unread["isUnchanged"]), (&json!(false), &json!(true)));
    let as_read = serde_json::Map::from_iter(
        unread.as_object().unwrap().clone().into_iter().chain([("isUnchanged".to_owned(), json!(false))]),
    );
    assert_eq!(read, Value::Object(as_read));
    assert_eq!((scene.manifest(), fs::read(scene.archive()).unwrap()), (manifest, archive));
    // Other options, and the same again.
    for more in [
        &["--tables", "turns"][..],
        &["--since", "2026-04-21"],
        &["--with", "project"],
        &["--hash-key", key.to_str().unwrap()],
        &[],
        &["--home-id", "other"],
    ] {
        assert!(!is_unchanged(more), "{more:?}");
        assert!(is_unchanged(more), "{more:?}");
    }
    // Another manifest, or none.
    let path = scene.manifest_paths().pop().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"seq\": ", "\"seq\": 1", 1)).unwrap();
    assert!(!is_unchanged(&[]));
    fs::remove_file(&path).unwrap();
    let written = scene.export(&[]);
    assert_eq!((&written["isUnchanged"], &written["isManifestWritten"]), (&json!(false), &json!(true)));
    assert!(is_unchanged(&[]));
    // Rows that another program changes without the state row, seen at once and after a rest.
    let change = |model: &str| {
        let archive = rusqlite::Connection::open(scene.archive()).unwrap();
        archive.execute("UPDATE turns SET model = ?", [model]).unwrap();
    };
    let models = || {
        let rows = scene.rows(&read_json(&path), "turns");
        rows.iter().map(|row| row.text("model").unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    for at in ["now", "later"] {
        change(at);
        if at == "later" {
            rest();
        }
        assert!(!is_unchanged(&[]));
        assert_eq!(models().into_iter().collect::<Vec<_>>(), [at]);
    }
    assert!(is_unchanged(&[]));
    // A change that is in the log alone.
    let open = rusqlite::Connection::open(scene.archive()).unwrap();
    open.execute("UPDATE turns SET model = 'logged'", []).unwrap();
    rest();
    assert!(!is_unchanged(&[]) && !is_unchanged(&[]));
    assert_eq!(models().into_iter().collect::<Vec<_>>(), ["logged"]);
    drop(open);
    scene.append(&on(23, "m-4"));
    assert_eq!(number(&scene.export(&[]), "rows"), 4);
}

#[test]
fn a_late_stamp_and_a_repeated_turn_rewrite_only_their_days() {
    let scene = three_days();
    scene.export(&[]);
    let before = by_day(&scene.manifest());
    let of_second =
        r#"{"sessionId":"s","range":{"fromTs":"2026-04-21T00:00:00Z","toTs":"2026-04-21T23:00:00Z"}}"#;
    scene.append(&stamp("2026-04-29T00:00:00Z", of_second, r#"{"workflowId":"late"}"#));
    let changed = |before: &std::collections::BTreeMap<(String, String), String>| {
        let after = by_day(&scene.manifest());
        let changed: BTreeSet<String> = after
            .iter()
            .filter(|(day, path)| before.get(*day) != Some(path))
            .map(|((_, day), _)| day.clone())
            .collect();
        (changed, after)
    };
    let summary = scene.export(&[]);
    let (days, after) = changed(&before);
    assert_eq!(days.into_iter().collect::<Vec<_>>(), ["2026-04-21"], "{summary}");
    assert_eq!((number(&summary, "filesWritten"), number(&summary, "filesSuperseded")), (1, 1));
    scene.append(&on(20, "m-1").replace("\"output\":2", "\"output\":7"));
    let summary = scene.export(&[]);
    assert_eq!(changed(&after).0.into_iter().collect::<Vec<_>>(), ["2026-04-20"]);
    assert_eq!(number(&summary, "filesWritten"), 1);
    let turns = scene.rows(&scene.manifest(), "turns");
    assert_eq!(turns.len(), 3);
    assert_eq!(turns[1].text("workflow_id"), Some("late"));
    // A turn that moves to another day leaves its old day without a file.
    scene.append(&on(25, "m-1"));
    scene.export(&[]);
    let days: Vec<String> = by_day(&scene.manifest()).into_keys().map(|(_, day)| day).collect();
    assert_eq!(days, ["2026-04-21", "2026-04-22", "2026-04-25"]);
    assert_whole(&scene.manifest(), |path| fs::read(scene.out().join(path)).unwrap());
}

#[test]
fn tables_and_days_that_are_not_asked_for_keep_their_files() {
    let scene = Scene::new(&generated(Profile::Mixed, 600_000, 5).0);
    scene.export(&["--tables", "turns,compactions"]);
    let tables: BTreeSet<String> = by_day(&scene.manifest()).into_keys().map(|(table, _)| table).collect();
    assert!(tables.contains("turns") && !tables.contains("tool_calls"), "{tables:?}");
    let turns = by_day(&scene.manifest());
    scene.export(&["--tables", "tool_calls", "--with", "target"]);
    let both = by_day(&scene.manifest());
    assert!(turns.iter().all(|(day, path)| both.get(day) == Some(path)) && both.len() > turns.len());
    let first = |table: &str| both.keys().find(|(of, _)| of == table).unwrap().1.clone();
    // Other columns make other files, so a later day on shows which files were made again.
    let since = both
        .keys()
        .filter(|(of, _)| of == "turns")
        .nth(1)
        .map_or_else(|| first("turns"), |(_, day)| day.clone());
    scene.export(&["--since", &since, "--with", "project", "--tables", "turns"]);
    let after = by_day(&scene.manifest());
    for ((table, day), path) in &after {
        let is_kept = both.get(&(table.clone(), day.clone())) == Some(path);
        assert_eq!(is_kept, table != "turns" || day < &since, "{table} {day}");
    }
    assert_eq!(after.len(), both.len());
}

#[test]
fn the_same_rows_give_the_same_files_whatever_the_history_of_the_archive() {
    let (ledger, _) = generated(Profile::Adversarial, 600_000, 11);
    let (mixed, _) = generated(Profile::Mixed, 600_000, 12);
    let ledger = [ledger, mixed].concat();
    let first = Scene::new(&ledger);
    first.export(&["--home-id", "h"]);
    let files = first.data_files();
    assert!(files.len() > 4, "{files:?}");
    let identity = fs::read(first.home().join("export.json")).unwrap();
    let same = |scene: &Scene, what: &str| {
        fs::write(scene.home().join("export.json"), &identity).unwrap();
        scene.export(&[]);
        assert!(scene.data_files() == files, "{what}");
    };
    for (threads, chunk_bytes, load) in
        [(1, 1, Load::Insert), (2, 4096, Load::Bulk), (7, 100_000, Load::Bulk)]
    {
        let scene = Scene::new(&ledger);
        let options = Options { threads, chunk_bytes, load, ..Options::default() };
        archive::rebuild_full(&Paths::of_home(&Home::at(scene.home())), &options, &mut Unobserved).unwrap();
        same(&scene, &format!("{threads} threads, chunks of {chunk_bytes}"));
    }
    // Line by line at first, then in larger tails, so that turns are repeated and folded again in the live archive.
    let scene = Scene::new(b"");
    let paths = Paths::of_home(&Home::at(scene.home()));
    let mut len = 0_usize;
    for step in [500, 500, 10_000, 100_000, 300_000, usize::MAX] {
        len = ledger.len().min(len.max(1).saturating_add(step));
        fs::write(scene.ledger(), &ledger[..len]).unwrap();
        archive::build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
    }
    same(&scene, "tails");
    // Rows in another order, as another program may have written them.
    let db = rusqlite::Connection::open(scene.archive()).unwrap();
    for table in ["turns", "tool_calls", "tool_result_events", "compactions"] {
        db.execute_batch(&format!(
            "CREATE TEMP TABLE moved AS SELECT * FROM {table} ORDER BY random(); DELETE FROM {table};
             INSERT INTO {table} SELECT * FROM moved; DROP TABLE moved"
        ))
        .unwrap();
    }
    drop(db);
    same(&scene, "another order");
}

#[test]
fn a_ledger_that_was_replaced_or_cut_begins_a_generation_and_empties_no_history() {
    let scene = three_days();
    let first = scene.export(&[]);
    let old = scene.manifest();
    fs::write(scene.ledger(), on(20, "m-1")).unwrap();
    let cut = scene.export(&[]);
    assert_eq!(first["homeId"], cut["homeId"]);
    assert_ne!(first["generation"], cut["generation"]);
    assert_eq!((&cut["isNewGeneration"], number(&cut, "seq"), number(&cut, "rows")), (&json!(true), 1, 1));
    fs::write(scene.ledger(), on(27, "m-8") + &on(28, "m-9")).unwrap();
    let replaced = scene.export(&[]);
    assert_ne!(replaced["generation"], cut["generation"]);
    let manifests: Vec<Value> = scene.manifest_paths().iter().map(|path| read_json(path)).collect();
    assert_eq!(manifests.len(), 3);
    assert!(manifests.contains(&old));
    manifests
        .iter()
        .for_each(|manifest| assert_whole(manifest, |path| fs::read(scene.out().join(path)).unwrap()));
    // An empty ledger has no rows and takes none away.
    fs::write(scene.ledger(), "").unwrap();
    assert_eq!(number(&scene.export(&[]), "files"), 0);
    assert_eq!(scene.manifest_paths().len(), 4);
}

#[test]
fn a_copy_of_a_home_takes_no_rows_of_the_other_away() {
    let scene = three_days();
    scene.export(&[]);
    let copy = Scene::new(&fs::read(scene.ledger()).unwrap());
    fs::copy(scene.home().join("export.json"), copy.home().join("export.json")).unwrap();
    scene.append(&on(23, "m-4"));
    scene.export(&[]);
    let ahead = scene.manifest();
    let mut command = copy.burn(&["parquet", "--json", "--out"]);
    let of_copy = processes::success(&command.arg(scene.out()).output().unwrap());
    assert_eq!(of_copy["isNewGeneration"], true);
    assert_eq!(of_copy["homeId"], ahead["homeId"]);
    assert!(scene.manifest_paths().iter().any(|path| read_json(path) == ahead));
}

#[test]
fn a_copy_of_a_home_with_more_lines_takes_no_rows_of_the_other_away() {
    let scene = three_days();
    scene.export(&[]);
    let copy = Scene::new(&fs::read(scene.ledger()).unwrap());
    fs::copy(scene.home().join("export.json"), copy.home().join("export.json")).unwrap();
    scene.append(&on(23, "m-4"));
    scene.export(&[]);
    let before = scene.manifest();
    copy.append(&(on(24, "m-5") + &on(25, "m-6")));
    let mut command = copy.burn(&["parquet", "--json", "--out"]);
    let of_copy = processes::success(&command.arg(scene.out()).output().unwrap());
    assert_eq!((&of_copy["isNewGeneration"], number(&of_copy, "rows")), (&json!(true), 5));
    assert!(scene.manifest_paths().iter().any(|path| read_json(path) == before));
    // Both go on with generations of their own.
    scene.append(&on(26, "m-7"));
    let on_with = scene.export(&[]);
    assert_eq!((&on_with["generation"], number(&on_with, "seq")), (&before["generation"], 3));
    assert_eq!(scene.manifest_paths().len(), 2);
}

#[test]
fn a_seq_is_not_given_twice_when_the_manifest_is_gone() {
    let scene = three_days();
    let first = scene.export(&[]);
    scene.append(&on(23, "m-4"));
    assert_eq!(number(&scene.export(&[]), "seq"), 2);
    fs::remove_file(&scene.manifest_paths()[0]).unwrap();
    let again = scene.export(&[]);
    assert_eq!((&again["generation"], number(&again, "seq")), (&first["generation"], 3));
    scene.append(&on(24, "m-5"));
    assert_eq!(number(&scene.export(&[]), "seq"), 4);
}

#[test]
fn a_manifest_names_the_personal_text_of_files_that_stay() {
    let scene = three_days();
    scene.export(&["--with", "project,target"]);
    scene.export(&["--since", "2026-04-22"]);
    assert_eq!(scene.manifest()["with"], json!(["target", "project"]));
    scene.export(&[]);
    assert_eq!(scene.manifest()["with"], json!([]));
}

#[test]
fn an_export_names_the_lines_that_its_build_leaves_out() {
    let scene = Scene::new((on(20, "m-1") + "garbage line\n" + &on(21, "m-2")).as_bytes());
    let output = scene.export_command(&[]).output().unwrap();
    assert_eq!(number(&processes::success(&output), "rows"), 2);
    let said = String::from_utf8(output.stderr).unwrap();
    let at = on(20, "m-1").len();
    assert!(said.contains(&format!("at byte {at} (13 bytes): malformed")), "{said}");
}

/// Makes every file under a directory older.
fn age(directory: &Path, by: Duration) {
    for path in crate::support::walk(directory, directory) {
        let file = fs::File::options().write(true).open(directory.join(path)).unwrap();
        file.set_modified(SystemTime::now() - by).unwrap();
    }
}

#[test]
fn gc_removes_what_no_manifest_names_after_the_grace_and_nothing_else() {
    let scene = three_days();
    scene.export(&[]);
    scene.append(&on(20, "m-1").replace("\"output\":2", "\"output\":7"));
    scene.export(&[]);
    let stray = scene.out().join("v1/turns/dt=2026-04-20/README.txt");
    fs::write(&stray, "mine").unwrap();
    let named = by_day(&scene.manifest());
    fs::write(
        scene
            .out()
            .join(&named[&("turns".to_owned(), "2026-04-21".to_owned())])
            .with_extension(format!("parquet.{}.tmp", "0f".repeat(16))),
        "x",
    )
    .unwrap();
    let gc = |more: &[&str]| {
        let mut command = scene.burn(&["gc", "--json", "--out"]);
        processes::success(&command.arg(scene.out()).args(more).output().unwrap())
    };
    let young = gc(&[]);
    assert_eq!(
        [number(&young, "filesRemoved"), number(&young, "filesYoung"), number(&young, "filesOther")],
        [0, 2, 1]
    );
    age(&scene.out(), Duration::from_secs(8 * 86_400));
    // A file that is shorter than its manifest says is as good as none.
    let cut = named.values().next().unwrap();
    let whole = fs::read(scene.out().join(cut)).unwrap();
    fs::write(scene.out().join(cut), &whole[..7]).unwrap();
    assert_eq!(gc(&["--grace", "7000d"])["filesMissing"], json!([cut]));
    fs::write(scene.out().join(cut), whole).unwrap();
    let old = gc(&["--grace", "7d"]);
    assert_eq!(
        [number(&old, "filesRemoved"), number(&old, "filesYoung"), number(&old, "filesNamed")],
        [2, 0, 3]
    );
    assert_eq!(old["filesMissing"], json!([]));
    assert!(stray.exists());
    assert_whole(&scene.manifest(), |path| fs::read(scene.out().join(path)).unwrap());
    assert_eq!(scene.data_files().len(), 4);
    // A file that a manifest names is missed, and a manifest that nobody can read keeps every file.
    let gone = named[&("turns".to_owned(), "2026-04-22".to_owned())].clone();
    fs::remove_file(scene.out().join(&gone)).unwrap();
    assert_eq!(gc(&[])["filesMissing"], json!([gone]));
    let manifest = scene.manifest_paths()[0].clone();
    fs::write(&manifest, "{").unwrap();
    let mut command = scene.burn(&["gc", "--grace", "0s", "--out"]);
    let refused = refusal(&command.arg(scene.out()).output().unwrap(), 1);
    assert!(refused.contains(manifest.to_str().unwrap()) && refused.contains("delete it"), "{refused}");
    assert_eq!(scene.data_files().len(), 3);
    // Without its manifest the home writes everything again, also the file that was gone.
    fs::remove_file(&manifest).unwrap();
    scene.export(&[]);
    assert_whole(&scene.manifest(), |path| fs::read(scene.out().join(path)).unwrap());
}

#[test]
fn forget_removes_one_home_with_all_its_generations() {
    let scene = three_days();
    scene.export(&["--home-id", "a"]);
    fs::write(scene.ledger(), on(20, "m-1")).unwrap();
    scene.export(&[]);
    let other = three_days();
    let mut command = other.burn(&["parquet", "--home-id", "a-b", "--out"]);
    assert!(command.arg(scene.out()).output().unwrap().status.success());
    let forget = |id: &str| {
        let mut command = scene.burn(&["forget", "--json", "--home-id", id, "--out"]);
        processes::success(&command.arg(scene.out()).output().unwrap())
    };
    assert_eq!(number(&forget("b"), "filesRemoved"), 0);
    let forgotten = forget("a");
    assert_eq!([number(&forgotten, "manifestsRemoved"), number(&forgotten, "filesRemoved")], [2, 4]);
    let manifest = scene.manifest();
    assert_eq!(manifest["homeId"], "a-b");
    assert_eq!(scene.data_files().len(), files_of(&manifest).len());
    assert_whole(&manifest, |path| fs::read(scene.out().join(path)).unwrap());
}

#[test]
fn wrong_usage_is_refused_with_exit_code_2_before_anything_is_touched() {
    let scene = three_days();
    for (more, reason) in [
        (&["--tables", "turns,stamps"][..], "\"stamps\" is no table"),
        (&["--with", "content"], "names no columns that are left out"),
        (&["--since", "2026-02-30"], "is no day"),
        (&["--since", "7d"], "is no day"),
        (&["--since", "unknown"], "always exported"),
        (&["--home-id", "../x"], "cannot be part of a path"),
        (&["--home-id", "a=b"], "cannot be part of a path"),
        (&["--home-id", ""], "cannot be part of a path"),
        (&["--out", "gs://bucket/x"], "names no place of exports"),
        (&["--out", ""], "names no place of exports"),
    ] {
        let mut command = scene.burn(&["parquet"]);
        if !more.contains(&"--out") {
            command.arg("--out").arg(scene.out());
        }
        let refused = refusal(&command.args(more).output().unwrap(), 2);
        assert!(refused.contains(reason), "{more:?}: {refused}");
    }
    for (args, reason) in [
        (&["parquet"][..], "--out"),
        (&["gc", "--out", "x", "--grace", "7"], "a time such as 7d"),
        (&["forget", "--out", "x"], "--home-id"),
        (&["forget", "--out", "x", "--home-id", "a/b"], "cannot be part of a path"),
    ] {
        let refused = refusal(&scene.burn(args).output().unwrap(), 2);
        assert!(refused.contains(reason), "{args:?}: {refused}");
    }
    assert_eq!(crate::common::names(&scene.home()), ["ledger.jsonl"]);
    assert!(!scene.out().exists());
}

#[test]
fn a_place_or_a_key_that_cannot_serve_is_refused_with_its_remedy() {
    let scene = three_days();
    let file = scene.directory.path().join("file");
    fs::write(&file, "short\n").unwrap();
    let inside = scene.home().join("exports");
    for (out, reason) in [
        (file.as_path(), "is not a directory"),
        (inside.as_path(), "one inside the other"),
        (scene.directory.path(), "one inside the other"),
    ] {
        let mut command = scene.burn(&["parquet", "--out"]);
        let refused = refusal(&command.arg(out).output().unwrap(), 1);
        assert!(refused.contains(reason) && refused.contains(out.to_str().unwrap()), "{refused}");
    }
    let short = refusal(&scene.export_command(&["--hash-key", file.to_str().unwrap()]).output().unwrap(), 1);
    assert!(short.contains("at least 16 bytes") && short.contains(file.to_str().unwrap()), "{short}");
    let none = refusal(&scene.export_command(&["--hash-key", "/nowhere"]).output().unwrap(), 1);
    assert!(none.contains("/nowhere"), "{none}");
    for command in ["gc", "forget"] {
        let mut command = scene.burn(&[command, "--out"]);
        if command.get_args().any(|arg| arg == "forget") {
            command.arg(scene.out()).args(["--home-id", "a"]);
        } else {
            command.arg(scene.out());
        }
        let refused = refusal(&command.output().unwrap(), 1);
        assert!(refused.contains("there are no exports"), "{refused}");
    }
    assert!(!scene.out().exists() && !inside.exists());
    fs::remove_file(scene.ledger()).unwrap();
    let none = refusal(&scene.export_command(&[]).output().unwrap(), 1);
    assert!(none.contains("there is no ledger") && none.contains("burn ingest"), "{none}");
}

#[test]
fn a_damaged_manifest_or_identity_is_refused_with_its_remedy_and_stays() {
    let scene = three_days();
    scene.export(&[]);
    let manifest = scene.manifest_paths()[0].clone();
    let sound = fs::read_to_string(&manifest).unwrap();
    for (damaged, reason) in [
        (sound.replace("dt=2026-04-21", "dt=2026-04-21/../../.."), "is damaged"),
        (sound[..sound.len() / 2].to_owned(), "is damaged"),
        (sound.replace("\"format\": 1", "\"format\": 9"), "has format 9"),
        (sound.replace("\"seq\": 1", "\"seq\": \"1\""), "is damaged"),
    ] {
        fs::write(&manifest, &damaged).unwrap();
        let refused = refusal(&scene.export_command(&[]).output().unwrap(), 1);
        assert!(refused.contains(reason) && refused.contains(manifest.to_str().unwrap()), "{refused}");
        assert_eq!(fs::read_to_string(&manifest).unwrap(), damaged);
    }
    fs::write(&manifest, &sound).unwrap();
    let identity = scene.home().join("export.json");
    fs::write(&identity, "{}").unwrap();
    let refused = refusal(&scene.export_command(&[]).output().unwrap(), 1);
    assert!(refused.contains("export.json is damaged") && refused.contains("--home-id"), "{refused}");
}

#[test]
fn every_command_explains_itself_with_examples() {
    let scene = three_days();
    for command in [&[][..], &["parquet"], &["gc"], &["forget"]] {
        let output = scene.burn(command).arg("--help").env("COLUMNS", "100").output().unwrap();
        assert!(output.status.success(), "{command:?}");
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(
            help.contains("\nExamples:\n  burn export ") && help.contains("Usage: burn export"),
            "{help}"
        );
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}

#[test]
fn files_and_directories_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let scene = three_days();
    scene.export(&[]);
    for path in crate::support::walk(scene.directory.path(), scene.directory.path()) {
        let path = scene.directory.path().join(path);
        if path.starts_with(scene.out()) || path.ends_with("export.json") {
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            if path.starts_with(scene.out()) {
                assert_eq!(mode(path.parent().unwrap()), 0o700, "{}", path.display());
            }
        }
    }
}
