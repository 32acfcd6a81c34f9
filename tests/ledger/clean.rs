//! `burn state prune`, `reset` and `rebuild`, and the files that they never delete.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

const DAY: Duration = Duration::from_secs(86_400);

fn burn(home: &Path, args: &[&str], days: Option<&str>) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.args(args).env("RELAYBURN_HOME", home).env_remove("RELAYBURN_CONTENT_TTL_DAYS");
    days.map(|days| command.env("RELAYBURN_CONTENT_TTL_DAYS", days));
    let output = command.output().unwrap();
    let text = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn names(directory: &Path) -> BTreeSet<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// A home with content of 1, 10 and 100 days, and with a file that is not from `burn`.
fn home_with_content() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let content = home.path().join("content");
    fs::create_dir(&content).unwrap();
    for (name, days) in [("new.jsonl", 1), ("old.jsonl", 10), ("older.jsonl", 100), ("notes.txt", 500)] {
        let file = fs::File::create(content.join(name)).unwrap();
        file.set_len(100).unwrap();
        file.set_modified(SystemTime::now() - DAY * days).unwrap();
    }
    home
}

#[test]
fn prune_says_what_would_go_and_deletes_with_force_alone() {
    let home = home_with_content();
    let content = home.path().join("content");
    let all = names(&content);
    let (code, text) = burn(home.path(), &["state", "prune", "--days", "9"], None);
    assert_eq!(code, 0);
    assert!(text.contains("old.jsonl  100 bytes, 10 days old"), "{text}");
    assert!(text.contains("2 content files would go, 200 bytes; 1 file kept, 100 bytes; --force"), "{text}");
    let line = |title: &str, name: &str| {
        let is_there = text.lines().any(|line| line.starts_with(title) && line.contains(name));
        assert!(is_there, "{title} {name}: {text}");
    };
    line("would delete", "/old.jsonl  100 bytes, 10 days old");
    line("would delete", "/older.jsonl  100 bytes, 100 days old");
    line("stays", "/new.jsonl  100 bytes, 1 day old");
    assert_eq!(names(&content), all);

    let (_, json) = burn(home.path(), &["state", "prune", "--days", "9", "--json", "--force"], None);
    let done: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&done["bytes"], &done["kept"], &done["forced"]), (&200.into(), &1.into(), &true.into()));
    assert_eq!(done["files"][0]["sessionId"], "old");
    assert_eq!((&done["keptFiles"][0]["sessionId"], &done["keptBytes"]), (&"new".into(), &100.into()));
    assert_eq!(done["keptFiles"].as_array().unwrap().len(), 1);
    assert_eq!(names(&content), set(["new.jsonl", "notes.txt"]));
    assert_eq!(names(home.path()), set(["content"]), "no lock is left");
}

#[test]
fn prune_takes_its_age_from_environment_or_config() {
    let home = home_with_content();
    let would_go = |days: Option<&str>| {
        let (code, text) = burn(home.path(), &["state", "prune", "--json"], days);
        assert_eq!(code, 0, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["files"].as_array().unwrap().len()
    };
    assert_eq!(would_go(None), 0, "without a word content is kept");
    assert_eq!(would_go(Some("50")), 1);
    assert_eq!(would_go(Some("forever")), 0);
    fs::write(home.path().join("config.json"), r#"{"content":{"retentionDays":5}}"#).unwrap();
    assert_eq!(would_go(None), 2);
    assert_eq!(would_go(Some("50")), 1);
    fs::write(home.path().join("config.json"), r#"{"content":{"retentionDays":"forever"}}"#).unwrap();
    assert_eq!(would_go(None), 0);
    for wrong in [r#"{"content":{"retentionDays":-1}}"#, "{"] {
        fs::write(home.path().join("config.json"), wrong).unwrap();
        let (code, text) = burn(home.path(), &["state", "prune"], None);
        assert_eq!(code, 1);
        assert!(text.contains("config.json"), "{text}");
    }
    assert_eq!(burn(home.path(), &["state", "prune", "--days", "-1"], None).0, 2);
}

#[test]
fn sessions_that_the_caller_can_recover_are_kept() {
    use relayburn_ledger::{home::Home, ledger::Ledger};
    let home = home_with_content();
    let ledger = Ledger::new(Home::at(home.path()));
    let cut_off = SystemTime::now() - DAY * 5;
    let pruned = ledger.prune_content(cut_off, |session| session.as_str() == "older").unwrap();
    let kept: Vec<&str> = pruned.kept.iter().map(|sidecar| sidecar.session.as_str()).collect();
    assert_eq!((pruned.expired.len(), kept), (1, vec!["new", "older"]));
    assert_eq!(names(&home.path().join("content")), set(["new.jsonl", "older.jsonl", "notes.txt"]));
}

/// A home with every file that can be in a home.
fn full_home() -> tempfile::TempDir {
    let home = home_with_content();
    let stamp =
        r#"{"v":1,"kind":"stamp","ts":"t","selector":{"sessionId":"s"},"enrichment":{"parentAgentId":"p"}}"#;
    fs::write(home.path().join("ledger.jsonl"), format!("{stamp}\n")).unwrap();
    for name in ["config.json", "cursors.json", "hwm.json", "models.dev.json"] {
        fs::write(home.path().join(name), "{}").unwrap();
    }
    fs::create_dir(home.path().join("journal")).unwrap();
    let (code, text) = burn(home.path(), &["state", "rebuild", "all"], None);
    assert_eq!(code, 0, "{text}");
    home
}

#[test]
fn reset_deletes_what_is_derived_and_moves_the_rest_to_the_trash() {
    let home = full_home();
    std::fs::write(home.path().join("ingest.side.json"), "{}").unwrap();
    std::fs::write(home.path().join("ingest.known"), "").unwrap();
    std::fs::create_dir(home.path().join("ingest.state")).unwrap();
    std::fs::write(home.path().join("ingest.state/0123"), "").unwrap();
    let before = names(home.path());
    let (code, text) = burn(home.path(), &["state", "reset", "--everything"], None);
    assert_eq!(code, 0);
    for (what, name) in
        [("would delete", "archive.sqlite"), ("would move", "content"), ("stays", "config.json")]
    {
        assert!(
            text.lines().any(|line| line.starts_with(what) && line.contains(name)),
            "{what} {name}: {text}"
        );
    }
    assert_eq!(names(home.path()), before, "a plan changes nothing");

    let (code, _) = burn(home.path(), &["state", "reset", "--force"], None);
    assert_eq!(code, 0);
    let kept = ["config.json", "models.dev.json", "journal"];
    let sources = ["content", "cursors.json", "hwm.json", "ingest.side.json", "ledger.jsonl"];
    assert_eq!(names(home.path()), set(kept).union(&set(sources)).cloned().collect());

    assert_eq!(burn(home.path(), &["state", "rebuild", "all"], None).0, 0);
    let (_, json) = burn(home.path(), &["state", "reset", "--everything", "--force", "--json"], None);
    let done: Value = serde_json::from_str(&json).unwrap();
    let trash = Path::new(done["trash"].as_str().unwrap());
    let mut left = set(kept);
    left.insert(trash.file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(names(home.path()), left);
    assert_eq!(names(trash), set(sources));
    assert_eq!(names(&trash.join("content")).len(), 4);

    let kept = done["kept"].as_array().unwrap().iter().map(|kept| Path::new(kept["path"].as_str().unwrap()));
    let kept: BTreeSet<String> =
        kept.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(kept, set(["config.json", "models.dev.json", "journal"]), "what stays is listed");

    // A second reset has nothing to do, and neither has a reset of a missing home.
    assert_eq!(burn(home.path(), &["state", "reset", "--everything", "--force"], None).0, 0);
    assert_eq!(names(home.path()), left);
    assert_eq!(burn(&home.path().join("none"), &["state", "reset", "--force"], None).0, 0);
    assert!(!home.path().join("none").exists());
}

#[test]
fn reset_spares_what_cannot_be_built_again() {
    let home = full_home();
    let (ledger, archive) = (home.path().join("ledger.jsonl"), home.path().join("archive.sqlite"));
    let turn = r#"{"v":1,"kind":"turn","record":{"source":"x","sessionId":"s","messageId":"m","turnIndex":0,"ts":"2026-04-20T00:00:00.000Z","model":"m","usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0},"toolCalls":[]}}"#;
    fs::write(&ledger, format!("{turn}\n")).unwrap();
    assert_eq!(burn(home.path(), &["state", "rebuild", "archive", "--full"], None).0, 0);
    fs::remove_file(&ledger).unwrap();
    let before = names(home.path());
    for more in [&["--force"][..], &["--force", "--everything"]] {
        let (code, said) = burn(home.path(), &[&["state", "reset"], more].concat(), None);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains("may have the last copy of lines"), "{said}");
    }
    // Another program's database, whatever the ledger is.
    fs::write(&ledger, format!("{turn}\n")).unwrap();
    fs::remove_file(&archive).unwrap();
    rusqlite::Connection::open(&archive).unwrap().execute_batch("CREATE TABLE mine (a)").unwrap();
    let (code, said) = burn(home.path(), &["state", "reset", "--force"], None);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("archive.sqlite is a database of another program"), "{said}");
    assert_eq!(names(home.path()), before.union(&set(["ledger.jsonl"])).cloned().collect());
}

#[test]
fn what_is_no_file_is_named_with_a_remedy_and_spared() {
    let home = full_home();
    let archive = home.path().join("archive.sqlite");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(home.path().join(format!("archive.sqlite{suffix}")));
    }
    fs::create_dir(&archive).unwrap();
    let rebuild = ["state", "rebuild", "archive"];
    for args in [&["state"][..], &rebuild, &["state", "rebuild", "archive", "--full"], &["query", "turns"]] {
        let (code, said) = burn(home.path(), args, None);
        assert_eq!(code, 1);
        assert!(said.contains("archive.sqlite is not a regular file; move it away"), "{args:?}: {said}");
    }
    assert_eq!(burn(home.path(), &["state", "reset", "--force"], None).0, 0);
    assert!(archive.is_dir());
    // A build looks at the archive before the ledger.
    fs::remove_dir(&archive).unwrap();
    fs::remove_file(home.path().join("ledger.jsonl")).unwrap();
    fs::create_dir(home.path().join("ledger.jsonl")).unwrap();
    for args in [&["ledger", "check"][..], &["query", "turns", "--from", "ledger"], &rebuild] {
        let (code, said) = burn(home.path(), args, None);
        assert_eq!(code, 1);
        assert!(said.contains("ledger.jsonl is not a regular file"), "{args:?}: {said}");
    }
    let ledger = home.path().join("x.jsonl");
    fs::write(&ledger, "").unwrap();
    let ledger = ledger.to_str().unwrap();
    let files = ["--full", "--ledger", ledger, "--archive", "/no/where/a.sqlite"];
    let (_, said) = burn(home.path(), &[&rebuild[..], &files].concat(), None);
    assert!(said.contains("directory /no/where does not exist: create it"), "{said}");
}

#[test]
fn vacuum_takes_no_options_of_a_build() {
    let home = tempfile::tempdir().unwrap();
    for option in [
        &["--full"][..],
        &["--strict"],
        &["--report", "f"],
        &["--threads", "1"],
        &["--io", "read"],
        &["--loader", "insert"],
        &["--memory", "1GB"],
        &["--no-verify"],
    ] {
        let (code, said) =
            burn(home.path(), &[&["state", "rebuild", "archive", "--vacuum"], option].concat(), None);
        assert!(code == 2 && said.contains("cannot be used with"), "{option:?}: {said}");
    }
    assert_eq!(burn(home.path(), &["state", "rebuild", "archive", "--vacuum"], None).0, 0);
}

#[test]
fn status_tells_of_index_and_content() {
    let home = full_home();
    let (_, text) = burn(home.path(), &["state"], None);
    for wanted in [
        "ledger.jsonl, ",
        "ledger.idx, 0 ids",
        "ledger.content.idx, 0 fingerprints",
        "content, 3 files, 300 bytes",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn completions_and_the_manual_know_every_command() {
    let home = tempfile::tempdir().unwrap();
    let (_, page) = burn(home.path(), &["man"], None);
    for command in [
        "burn ledger append",
        "burn ledger check",
        "burn query",
        "burn state prune",
        "burn state rebuild index",
        "burn state reset",
    ] {
        assert!(page.contains(&format!(".SS {command}\n")), "{command}");
    }
    for section in [".SH EXIT STATUS", ".SH ENVIRONMENT", "NO_COLOR", "RELAYBURN_HOME", "RELAYBURN_PROGRESS"]
    {
        assert!(page.contains(&format!("{section}\n")), "{section}");
    }
    assert!(page.contains(r"[\fB\-\-report\fR \fIFILE\fR]"), "values have names");
    // The examples are printed unchanged.
    assert!(page.contains(".nf\n\\&  burn ledger check\n"), "{page}");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (code, script) = burn(home.path(), &["completions", shell], None);
        assert_eq!(code, 0);
        assert!(script.contains("prune"), "{shell}");
    }
}
