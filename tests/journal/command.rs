//! `burn journal` from the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn burn(args: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.arg("journal").args(args).arg(directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(args: &[&str], directory: &Path) -> Output {
    burn(args, directory).output().unwrap()
}

fn append(directory: &Path, input: &[u8]) -> Output {
    let mut child = burn(&["append"], directory).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A child that refuses to start reads nothing.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn document(output: &Output) -> Value {
    assert_eq!(text(&output.stdout).lines().count(), 1);
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn lines_become_records_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let output = append(directory.path(), b"first\n\ttab \\ \xff\n\nlast without an end");
    assert_eq!(text(&output.stdout), "0\n45\n93\n133\n");
    let output = run(&["read"], directory.path());
    assert_eq!(text(&output.stdout), "0\tfirst\n45\t\\ttab \\\\ \\xff\n93\t\n133\tlast without an end\n");
    let output = run(&["read", "--from", "93"], directory.path());
    assert_eq!(text(&output.stdout), "93\t\n133\tlast without an end\n");
    let json = document(&run(&["read", "--json"], directory.path()));
    assert_eq!(json["next"], 192);
    assert_eq!(json["records"][0]["payload"], "Zmlyc3Q=");
    assert_eq!(json["records"][0]["nextOffset"], 45);
    assert_eq!(json["records"][0]["blake3"], blake3::hash(b"first").to_string());
    let refused = run(&["read", "--from", "7"], directory.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("no record starts at offset 7"));
}

#[test]
fn each_line_is_acknowledged_while_the_input_stays_open_and_followers_see_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = burn(&["append"], directory.path()).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = writer.stdin.take().unwrap();
    let mut offsets = BufReader::new(writer.stdout.take().unwrap()).lines();
    writeln!(input, "one").unwrap();
    assert_eq!(offsets.next().unwrap().unwrap(), "0");
    let mut follower = burn(&["read", "--follow"], directory.path()).spawn().unwrap();
    let mut followed = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(followed.next().unwrap().unwrap(), "0\tone");
    writeln!(input, "two").unwrap();
    assert_eq!(offsets.next().unwrap().unwrap(), "43");
    assert_eq!(followed.next().unwrap().unwrap(), "43\ttwo");

    let second = append(directory.path(), b"x\n");
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second.stderr).contains("another process writes to this journal"));
    drop(input);
    assert!(writer.wait().unwrap().success());
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn damage_is_named_set_aside_on_request_and_shown_by_status() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path(), b"first\nsecond\nthird\n");
    let segment = directory.path().join("0000000000000000.wal");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[32 + 45 + 41] ^= 1;
    std::fs::write(&segment, bytes).unwrap();

    let refused = append(directory.path(), b"fourth\n");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("0000000000000000.wal at byte 77"), "{}", text(&refused.stderr));
    let refused = run(&["recover", "--json"], directory.path());
    assert_eq!(refused.status.code(), Some(1));
    let json = document(&refused);
    assert_eq!((&json["ok"], &json["damages"][0]["offset"]), (&Value::Bool(false), &77.into()));

    let report = document(&run(&["recover", "--skip-corrupt", "--json"], directory.path()));
    assert_eq!(report["quarantined"][0]["length"], 46);
    assert!(directory.path().join(report["quarantined"][0]["savedAs"].as_str().unwrap()).exists());
    assert_eq!(text(&run(&["read"], directory.path()).stdout), "0\tfirst\n91\tthird\n");
    let status = document(&run(&["status", "--json"], directory.path()));
    assert_eq!((&status["end"], &status["skipped"][0][0]), (&136.into(), &45.into()));
    assert_eq!(status["quarantine"].as_array().unwrap().len(), 1);
    let human = run(&["status"], directory.path());
    assert!(text(&human.stdout).contains("skipped    offsets 45 to 91"));
    assert!(run(&["recover"], directory.path()).status.success());
    assert!(append(directory.path(), b"fourth\n").status.success());
}

#[test]
fn a_lost_end_is_told_by_whoever_looks() {
    for len_bytes in [Some(115), Some(114), None] {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path(), b"a\nb\nc\n");
        assert!(run(&["status"], directory.path()).status.success());
        let segment = directory.path().join("0000000000000000.wal");
        match len_bytes {
            Some(len_bytes) => {
                std::fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(len_bytes).unwrap()
            }
            None => std::fs::remove_file(&segment).unwrap(),
        }
        let (end, left) = match len_bytes {
            Some(_) => (82, "0\ta\n41\tb\n"),
            None => (0, ""),
        };
        let told = format!("(offsets {end} to 123): these records were synced or consumed, and are gone");
        for args in
            [&["read"][..], &["read", "--follow"], &["read", "--json"], &["status"], &["status", "--json"]]
        {
            let output = run(args, directory.path());
            assert_eq!(output.status.code(), Some(1), "{args:?}");
            assert!(text(&output.stderr).contains(&told), "{args:?}: {}", text(&output.stderr));
            match args {
                ["read", "--json"] => {
                    let error = &document(&output)["error"];
                    assert_eq!(error["class"], "corrupt");
                    assert!(error["message"].as_str().unwrap().contains(&told));
                }
                ["read", ..] => assert_eq!(text(&output.stdout), left),
                ["status"] => {
                    assert!(text(&output.stdout).contains(&format!("lost       offsets {end} to 123")))
                }
                _ => assert_eq!(document(&output)["lost"]["offsets"], serde_json::json!([end, 123])),
            }
        }
        // After the range is set aside, every reader skips it.
        assert!(run(&["recover", "--skip-corrupt"], directory.path()).status.success());
        assert_eq!(text(&run(&["read"], directory.path()).stdout), left);
        assert!(run(&["status"], directory.path()).status.success());
    }
}

#[test]
fn a_journal_that_cannot_be_opened_is_told_in_the_document() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path(), b"first\n");
    std::fs::write(directory.path().join("SKIPS"), "damaged").unwrap();
    for args in [&["read", "--json"][..], &["read", "--json", "--from", "7"], &["status", "--json"]] {
        let output = run(args, directory.path());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let error = &document(&output)["error"];
        assert_eq!(error["class"], "damaged", "{args:?}");
        assert!(error["message"].as_str().unwrap().contains("SKIPS"), "{args:?}");
    }
}

#[test]
fn a_line_that_is_too_long_is_named_by_number_and_byte() {
    for end in ["", "\n", "\nlast\n"] {
        let directory = tempfile::tempdir().unwrap();
        let long = [&b"first\n\n"[..], &vec![b'x'; (64 << 20) + 1], end.as_bytes()].concat();
        let output = append(directory.path(), &long);
        assert_eq!(output.status.code(), Some(1));
        let told = text(&output.stderr);
        assert!(told.contains("line 3, which begins at byte 7 of the input"), "{told}");
        assert_eq!(text(&output.stdout), "0\n45\n", "what stands before it");
    }
}

#[test]
fn get_prints_what_a_store_has_under_a_key() {
    use relayburn_ledger::ingest::{Assertion, serialize_assertion};
    use relayburn_ledger::journal::Journal;
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(&directory.path().join("log")).unwrap();
    let assertion = Assertion {
        subject: "water".to_owned(),
        predicate: "boils at".to_owned(),
        object: "100 \u{1b}[31m°C".to_owned(),
        source: "textbook".to_owned(),
        confidence: 0.5,
        timestamp_ms: 5,
    };
    let payload = serialize_assertion(&assertion).unwrap();
    journal.append_batch(&[&payload[..], b"no payload"]).unwrap();
    journal.close().unwrap();
    let burn = |words: &[&str]| {
        let words = [&["journal"], words].concat();
        let burn = env!("CARGO_BIN_EXE_burn");
        std::process::Command::new(burn).args(words).current_dir(directory.path()).output().unwrap()
    };
    assert!(burn(&["drain", "log", "--store", "store"]).status.success());
    #[cfg(unix)]
    assert_private(&directory.path().join("store"));
    let hash = blake3::hash(&payload).to_string();
    let output = burn(&["get", "--store", "store", "S:water", "--json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        json!({"store": "store", "entries": [{"key": "S:water", "value": {"assertions": [hash]}}]})
    );
    let output = burn(&["get", "--store", "store", &format!("H:{hash}")]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (key, value) = text.trim_end().split_once('\t').unwrap();
    assert_eq!(key, format!("H:{hash}"));
    assert_eq!(serde_json::from_str::<Value>(value).unwrap()["object"], "100 \u{1b}[31m°C");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let output = burn(&["get", "--store", "store", "--prefix", "Q:", "--json"]);
    let aside = serde_json::from_slice::<Value>(&output.stdout).unwrap();
    assert_eq!(aside["entries"][0]["value"]["payload"], "bm8gcGF5bG9hZA==");
    let missing = burn(&["get", "--store", "store", "S:nobody"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("has no key S:nobody; "), "{missing:?}");
    let wrong = burn(&["get", "--store", "log", "S:water"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no store at log; "), "{wrong:?}");
}

/// Checks that the user alone can read a directory and all that is in it.
#[cfg(unix)]
fn assert_private(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = path.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
    if metadata.is_dir() {
        path.read_dir().unwrap().for_each(|entry| assert_private(&entry.unwrap().path()));
    }
}

#[test]
fn cleanup_without_cursors_deletes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path(), b"first\n");
    let report = document(&run(&["cleanup", "--json"], directory.path()));
    assert_eq!((&report["deletedBytes"], &report["start"]), (&0.into(), &0.into()));
}

#[test]
fn a_directory_that_is_not_there_is_an_error_and_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    for command in ["read", "status", "recover", "cleanup"] {
        let output = run(&[command], &missing);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert!(text(&output.stderr).contains("missing"), "{command}: {}", text(&output.stderr));
        assert!(!missing.exists());
    }
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run(&["read", "--follow", "--json"], directory.path()).status.code(), Some(2));
    assert_eq!(run(&["polish"], directory.path()).status.code(), Some(2));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let directory = tempfile::tempdir().unwrap();
    let lines: String = (0..40_000).map(|number| format!("line {number}\n")).collect();
    assert!(append(directory.path(), lines.as_bytes()).status.success());
    let mut reader = burn(&["read"], directory.path()).spawn().unwrap();
    let mut first = [0; 10];
    reader.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn the_remedy_for_damaged_skips_can_be_pasted() {
    let parent = tempfile::tempdir().unwrap();
    for name in ["log", "it's a log"] {
        let directory = parent.path().join(name);
        append(&directory, b"first\n");
        std::fs::write(directory.join("SKIPS"), "x").unwrap();
        let refused = run(&["read"], &directory);
        assert_eq!(refused.status.code(), Some(1));
        let said = text(&refused.stderr);
        let (_, remedy) = said.split_once("`burn ").unwrap();
        let (remedy, _) = remedy.split_once('`').unwrap();
        let pasted = Command::new("sh")
            .args(["-c", &format!("\"$BURN\" {remedy}")])
            .env("BURN", env!("CARGO_BIN_EXE_burn"))
            .output()
            .unwrap();
        assert!(pasted.status.success(), "{remedy}: {}", text(&pasted.stderr));
        assert_eq!(text(&run(&["read"], &directory).stdout), "0\tfirst\n");
    }
}

#[test]
fn status_names_a_damaged_identity_and_a_damaged_mark() {
    let directory = tempfile::tempdir().unwrap();
    append(directory.path(), b"first\n");
    std::fs::write(directory.path().join("SYNCED"), "x").unwrap();
    for form in [&["status"][..], &["status", "--json"]] {
        let output = run(form, directory.path());
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stderr).contains("SYNCED is damaged"), "{}", text(&output.stderr));
    }
    std::fs::write(directory.path().join("IDENTITY"), "x").unwrap();
    for form in [&["status"][..], &["status", "--json"]] {
        let output = run(form, directory.path());
        assert_eq!(output.status.code(), Some(1));
        assert!(!output.stdout.is_empty());
        assert!(text(&output.stderr).contains("IDENTITY is damaged"), "{}", text(&output.stderr));
    }
}
