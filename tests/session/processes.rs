//! Session stores between processes: one writer at a time, readers beside the writer, a writer that is killed at any
//! moment, a closed pipe.

#![cfg(unix)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relayburn_ledger::session::{EntryPayload, NewEntry, SessionErrorClass, SessionOptions, SessionStoreV2};

/// A directory, and the path of a store in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("talk.v2");
    (directory, root)
}

fn append(root: &Path, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(["session", "append"])
        .arg(root)
        .args(["--max-segment-bytes", "4000"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn line(number: usize) -> String {
    let parent = if number == 0 { String::new() } else { format!("\"parentEntryId\":\"e{}\",", number - 1) };
    format!(
        "{{\"entryId\":\"e{number}\",{parent}\"entryType\":\"message\",\"payload\":{{\"n\":{number},\"text\":\"{}\"}}}}\n",
        "x".repeat(number % 900)
    )
}

/// Appends the entries `e0`, `e1` and so on, in groups.
fn append_lines(root: &Path, count: usize, arguments: &[&str]) {
    let mut writer = append(root, &[&["--group"], arguments].concat());
    let mut input = writer.stdin.take().unwrap();
    let drain = std::thread::spawn(move || writer.wait_with_output().unwrap());
    (0..count).for_each(|number| input.write_all(line(number).as_bytes()).unwrap());
    drop(input);
    assert!(drain.join().unwrap().status.success());
}

/// Opens a store for a caller that does not need the report.
fn open(root: &Path) -> SessionStoreV2 {
    SessionStoreV2::create(root, &SessionOptions::default()).unwrap().0
}

#[test]
fn acknowledged_entries_survive_a_killed_writer() {
    let (_directory, root) = place();
    let mut there = 0;
    for round in 0..25 {
        let mut writer = append(&root, if round % 2 == 0 { &[] } else { &["--group"] });
        let mut input = writer.stdin.take().unwrap();
        let feeder = std::thread::spawn(move || {
            let mut number = there;
            while input.write_all(line(number).as_bytes()).is_ok() {
                number += 1;
            }
        });
        let mut output = BufReader::new(writer.stdout.take().unwrap());
        let deadline = Instant::now() + Duration::from_millis(15 + round * 7);
        let (mut acknowledged, mut text) = (there, String::new());
        while Instant::now() < deadline && output.read_line(&mut text).unwrap() > 0 {
            let seq: usize = text.split('\t').next().unwrap().parse().unwrap();
            acknowledged = acknowledged.max(seq);
            text.clear();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        feeder.join().unwrap();
        let store = open(&root);
        assert!(store.row_count() >= acknowledged, "{acknowledged} acknowledged");
        there = store.row_count();
        let ids: Vec<&str> = store.entry_ids().collect();
        assert!(ids.iter().enumerate().all(|(number, id)| *id == format!("e{number}")));
        store.validate_integrity().unwrap();
        drop(store);
        assert!(!SessionStoreV2::create(&root, &SessionOptions::default()).unwrap().1.changed_files());
    }
    assert!(there > 25);
}

#[test]
fn a_killed_import_is_there_wholly_or_not_at_all() {
    const LINES: usize = 4000;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("talk.jsonl");
    // Every entry has the next entry as its parent, so half of an import could not be opened.
    let lines: String = (0..LINES)
        .map(|number| {
            let parent = if number + 1 == LINES { "null".to_owned() } else { format!("\"e{}\"", number + 1) };
            let text = "x".repeat(700);
            format!(
                "{{\"type\":\"message\",\"id\":\"e{number}\",\"parentId\":{parent},\"text\":\"{text}\"}}\n"
            )
        })
        .collect();
    std::fs::write(&file, lines).unwrap();
    let mut interrupted = 0;
    for round in 0..24 {
        let root = directory.path().join(format!("talk-{round}.v2"));
        let before = if round % 2 == 0 { 0 } else { 3 };
        if before > 0 {
            let mut store = open(&root);
            for number in 0..before {
                let payload = EntryPayload::verbatim("{}").unwrap();
                let id = format!("old{number}").into();
                store
                    .append_entry(&NewEntry { id, parent_id: None, entry_type: "custom".into(), payload })
                    .unwrap();
            }
        }
        let mut import = Command::new(env!("CARGO_BIN_EXE_burn"))
            .args(["session", "import"])
            .args([&root, &file])
            .args(["--max-segment-bytes", "900000"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // The writer is killed when a certain length is written, or when it has finished.
        let wanted = 120_000 * (round as u64 + 1);
        let written = |root: &Path| -> u64 {
            let Ok(entries) = std::fs::read_dir(root.join("segments")) else { return 0 };
            entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|metadata| metadata.len()).sum()
        };
        while written(&root) < wanted && import.try_wait().unwrap().is_none() {}
        import.kill().unwrap();
        import.wait().unwrap();
        let (store, report) = SessionStoreV2::create(&root, &SessionOptions::default()).unwrap();
        let rows = store.row_count();
        assert!([before, before + LINES].contains(&rows), "round {round}: {rows} rows");
        interrupted += u32::from(report.import_taken_back);
        store.validate_integrity().unwrap();
        drop(store);
        assert!(!SessionStoreV2::create(&root, &SessionOptions::default()).unwrap().1.changed_files());
    }
    assert!(interrupted > 3, "{interrupted}");
}

#[test]
fn a_second_writer_is_refused_and_readers_see_entries_as_they_come() {
    let (_directory, root) = place();
    let mut writer = append(&root, &[]);
    let mut input = writer.stdin.take().unwrap();
    let mut output = BufReader::new(writer.stdout.take().unwrap());
    let mut reader = SessionStoreV2::open_for_inspection(&root, &SessionOptions::default()).unwrap();
    for number in 0..40 {
        input.write_all(line(number).as_bytes()).unwrap();
        input.flush().unwrap();
        let mut text = String::new();
        output.read_line(&mut text).unwrap();
        assert_eq!(text, format!("{}\te{number}\n", number + 1));
        let view = reader.view().unwrap();
        assert_eq!(view.row_count(), number + 1);
        assert_eq!(view.read_active_path(&format!("e{number}")).unwrap().len(), number + 1);
        if number == 7 {
            assert_eq!(
                SessionStoreV2::create(&root, &SessionOptions::default()).unwrap_err().class(),
                SessionErrorClass::Locked
            );
            let refused = append(&root, &["--json"]).wait_with_output().unwrap();
            assert_eq!(refused.status.code(), Some(1));
            assert!(String::from_utf8(refused.stdout).unwrap().contains("\"locked\""));
        }
    }
    drop(input);
    assert!(writer.wait().unwrap().success());
    open(&root);
}

#[test]
fn readers_beside_a_busy_writer_never_see_anything_wrong() {
    let (_directory, root) = place();
    let mut writer = append(&root, &["--group"]);
    let mut input = writer.stdin.take().unwrap();
    let mut output = writer.stdout.take().unwrap();
    let feeder = std::thread::spawn(move || {
        (0..20_000).for_each(|number| input.write_all(line(number).as_bytes()).unwrap())
    });
    let drain = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()).unwrap());
    let mut reader = SessionStoreV2::open_for_inspection(&root, &SessionOptions::default()).unwrap();
    let (mut views, mut last) = (0, 0);
    while last < 20_000 {
        let view = reader.view().unwrap();
        assert!(view.row_count() >= last);
        last = view.row_count();
        views += 1;
        for frame in view.read_tail_entries(3) {
            frame.unwrap();
        }
        let head = view.head().map(|head| head.entry_seq);
        assert_eq!(head.unwrap_or(0), last as u64);
    }
    feeder.join().unwrap();
    drain.join().unwrap();
    assert!(writer.wait().unwrap().success() && views > 3);
    reader.view().unwrap().validate_integrity().unwrap();
}

fn burn(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_burn"))
        .arg("session")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn usage_failures_and_closed_pipes_have_their_exit_codes() {
    let (_directory, root) = place();
    let dir = root.to_str().unwrap();
    assert_eq!(burn(&["show"]).status.code(), Some(2));
    assert_eq!(burn(&["show", dir, "--tail", "x"]).status.code(), Some(2));
    assert_eq!(burn(&["frobnicate", dir]).status.code(), Some(2));
    assert_eq!(burn(&["checkpoint", dir, "--list", "--reason", "x"]).status.code(), Some(2));
    let missing = burn(&["check", dir]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stdout.is_empty() && String::from_utf8(missing.stderr).unwrap().contains(dir));
    append_lines(&root, 2000, &["--json"]);
    let mut show = Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(["session", "show", dir])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(show.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert!(first.starts_with("1\te0\t-\tmessage\t"));
    let closed = show.wait_with_output().unwrap();
    assert!(closed.status.success() && closed.stderr.is_empty(), "a closed pipe ends quietly");
}

#[test]
fn input_that_is_no_text_or_no_entry_is_named_by_line_and_byte() {
    let (directory, root) = place();
    let mut input = line(0).into_bytes();
    let second = input.len();
    input.extend_from_slice(b"{\"entryId\":\"e1\",\"entryType\":\"\xff\",\"payload\":1}\n");
    let mut writer = append(&root, &[]);
    writer.stdin.take().unwrap().write_all(&input).unwrap();
    let output = writer.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"1\te0\n", "what came before is kept and acknowledged");
    assert!(told.contains(&format!("line 2 (byte {second}): byte {}", second + 29)), "{told}");
    let file = directory.path().join("talk.jsonl");
    std::fs::write(&file, &input).unwrap();
    let copy = directory.path().join("copy.v2");
    let refused = burn(&["import", copy.to_str().unwrap(), file.to_str().unwrap()]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        told.contains("nothing was imported") && told.contains(&format!("byte {}", second + 29)),
        "{told}"
    );
    assert!(!copy.exists());
    let mut writer = append(&root, &[]);
    let again = b"\n{\"entryId\":\"e0\",\"entryType\":\"a\",\"payload\":1}\n";
    writer.stdin.take().unwrap().write_all(again).unwrap();
    let told = String::from_utf8(writer.wait_with_output().unwrap().stderr).unwrap();
    assert!(told.contains("standard input, line 2 (byte 1): entry id \"e0\""), "{told}");
}

#[test]
fn a_line_longer_than_a_frame_may_be_is_refused_before_it_is_read_whole() {
    let (_directory, root) = place();
    let mut writer = append(&root, &[]);
    let mut input = writer.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        let first = line(0);
        input.write_all(first.as_bytes()).unwrap();
        // The reader closes the pipe in the middle.
        let piece = vec![b'x'; 1 << 20];
        (0..110).take_while(|_| input.write_all(&piece).is_ok()).count()
    });
    let output = writer.wait_with_output().unwrap();
    let pieces = feeder.join().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b"1\te0\n"[..]), "{told}");
    assert!(told.contains("line 2 (byte ") && told.contains("longer than 104857600 bytes"), "{told}");
    assert!((100..105).contains(&pieces), "{pieces} MiB were read");
}

#[test]
fn a_command_drops_no_entry_of_a_whole_index_and_reindex_says_how_many_in_one_line() {
    let (directory, root) = place();
    let dir = root.to_str().unwrap();
    append_lines(&root, 1000, &[]);
    let segment = root.join("segments/0000000000000001.seg");
    let text = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, text.replacen("\"frameSeq\":7,", "\"frameSeq\":6,", 1)).unwrap();
    let lines = directory.path().join("more.jsonl");
    std::fs::write(&lines, "{\"entryId\":\"more\",\"entryType\":\"custom\",\"payload\":1}\n").unwrap();
    for words in [
        &["append", dir][..],
        &["import", dir, lines.to_str().unwrap()],
        &["checkpoint", dir],
        &["rollback", dir, "1"],
        &["manifest", dir, "--write"],
    ] {
        let refused = burn(words);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{words:?}: {told}");
        assert_eq!(told.lines().count(), 1, "{words:?}: {told}");
        assert!(
            told.contains("would drop 994 entries") && told.contains("frameSeq is 6, 7 was expected"),
            "{told}"
        );
    }
    let accepted = burn(&["reindex", dir]);
    let told = String::from_utf8(accepted.stderr).unwrap();
    assert_eq!(accepted.status.code(), Some(0), "{told}");
    let lost: Vec<&str> = told.lines().filter(|line| line.contains("left the store")).collect();
    assert!(
        lost.len() == 1 && lost[0].contains("994 entries") && lost[0].contains("7 (e6) to 1000 (e999)"),
        "{told}"
    );
    assert!(burn(&["check", dir]).status.success());
}

#[test]
fn the_remedy_that_check_names_for_a_stray_line_helps() {
    let (_directory, root) = place();
    let dir = root.to_str().unwrap();
    append_lines(&root, 40, &[]);
    let sealed = root.join("segments/0000000000000001.seg");
    assert!(root.join("segments/0000000000000002.seg").exists());
    let sound = std::fs::read(&sealed).unwrap();
    std::fs::write(&sealed, [&sound[..], b"what is this\n"].concat()).unwrap();
    let check = burn(&["check", dir]);
    let told = String::from_utf8(check.stderr).unwrap();
    assert!(check.status.code() == Some(1) && told.contains("`burn session reindex`"), "{told}");
    let told = String::from_utf8(burn(&["reindex", dir]).stderr).unwrap();
    assert!(told.contains("0000000000000001.seg.cut"), "{told}");
    assert_eq!(std::fs::read(&sealed).unwrap(), sound);
    assert!(burn(&["check", dir]).status.success());
}

/// A signal ends long work at once by its default effect, which a shell shows as 130 or 143. The next command finds a
/// sound store.
#[test]
fn long_work_ends_within_a_second_of_a_signal() {
    use std::os::unix::process::ExitStatusExt;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("talk.jsonl");
    let text = "x".repeat(300);
    let lines: String = (0..60_000)
        .map(|number| format!("{{\"type\":\"message\",\"id\":\"e{number}\",\"text\":\"{text}\"}}\n"))
        .collect();
    std::fs::write(&file, lines).unwrap();
    let root = directory.path().join("talk.v2");
    let (dir, file) = (root.to_str().unwrap(), file.to_str().unwrap());
    let mut done = 0;
    for (words, signal) in [
        (&["import", dir, file][..], libc::SIGINT),
        (&["import", dir, file], libc::SIGTERM),
        (&["import", dir, file], 0),
        (&["check", dir], libc::SIGINT),
        (&["reindex", dir, "--rebuild"], libc::SIGTERM),
    ] {
        let mut child = crate::common::processes::with_signals()
            .arg("session")
            .args(words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if signal == 0 {
            assert!(child.wait().unwrap().success());
            continue;
        }
        std::thread::sleep(Duration::from_millis(60));
        let sent = Instant::now();
        // SAFETY: a call without pointers, for a child that was not waited for.
        unsafe { libc::kill(child.id() as i32, signal) };
        let status = child.wait().unwrap();
        assert!(sent.elapsed() < Duration::from_secs(1), "{words:?}: {:?}", sent.elapsed());
        assert!(status.success() || status.signal() == Some(signal), "{words:?}: {status}");
        done += u32::from(!status.success());
        open(&root);
    }
    assert!(done > 1, "{done} were interrupted");
    assert!(burn(&["check", dir]).status.success());
}

#[test]
fn entries_checkpoints_manifests_and_plain_lines_from_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (dir, copy, file, out) = (at("a.v2"), at("b.v2"), at("a.jsonl"), at("b.jsonl"));
    std::fs::write(
        &file,
        "{\"type\":\"session\",\"id\":\"talk-1\"}\n{\"type\":\"message\",\"id\":\"m1\",\"parentId\":null,\"z\":1,\"a\":2}\n\
         {\"type\":\"message\",\"id\":\"m2\",\"parentId\":\"m3\"}\n{\"type\":\"compaction\",\"id\":\"m3\",\"parentId\":\"m1\"}\n",
    )
    .unwrap();
    let ok = |arguments: &[&str]| {
        let output = burn(arguments);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(output.stderr));
        text(output.stdout)
    };
    assert!(ok(&["import", &dir, &file]).contains("3 lines imported"));
    let exported = ok(&["export", &dir]);
    let source = std::fs::read_to_string(&file).unwrap();
    assert_eq!(exported, source.split_once('\n').unwrap().1, "what came in goes out, byte for byte");
    assert!(ok(&["manifest", &dir]).contains("talk-1"));
    assert!(ok(&["checkpoint", &dir]).contains("checkpoint 1 at entry 3"));
    assert!(
        ok(&["path", &dir, "m2"]).lines().map(|line| line.split('\t').nth(1).unwrap()).eq(["m1", "m3", "m2"])
    );
    assert!(ok(&["show", &dir, "--entry", "m3"]).starts_with("3\tm3\tm1\tcompaction"));
    ok(&["export", &dir, &out]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), exported);
    assert_eq!(burn(&["export", &dir, &out]).status.code(), Some(1), "an existing file is not overwritten");
    std::fs::write(&out, exported + "{\"entryId\":\"m9\",\"entryType\":\"custom\",\"payload\":[]}\n")
        .unwrap();
    ok(&["import", &copy, &out]);
    assert!(ok(&["check", &copy]).starts_with("sound"));
    std::fs::write(&out, "{\"entryId\":\"n1\",\"entryType\":\"custom\",\"payload\":[]}\n{\"oops\":1}\n")
        .unwrap();
    let refused = burn(&["import", &copy, &out]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused.status.code() == Some(1) && told.contains("line 2") && told.contains("nothing was imported"),
        "{told}"
    );
    std::fs::write(&out, "{\"entryId\":\"n1\",\"entryType\":\"custom\",\"payload\":[]}\n").unwrap();
    ok(&["import", &dir, &out]);
    assert_eq!(
        burn(&["manifest", &dir]).status.code(),
        Some(1),
        "the manifest no longer says what the store holds"
    );
    assert_eq!(ok(&["rollback", &dir, "1"]), "back at checkpoint 1: entry 3 (m3)\n");
    assert!(ok(&["manifest", &dir]).contains("up to date"));
    assert!(ok(&["checkpoint", &dir, "--list"]).starts_with("1\t3\t"));
    ok(&["check", &dir]);
    let checkpoint = directory.path().join("a.v2/checkpoints/0000000000000001.json");
    std::fs::write(&checkpoint, "{").unwrap();
    let checked = burn(&["check", &dir]);
    let told =
        String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.code() == Some(1) && told.contains("0000000000000001.json"), "{told}");
}

/// What a command of `burn session` prints for this input, and its exit code.
fn session(arguments: &[&str], root: &Path, input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.arg("session").arg(arguments[0]).arg(root).args(&arguments[1..]);
    let streams = [Stdio::piped(), Stdio::piped(), Stdio::piped()];
    let [stdin, stdout, stderr] = streams;
    let mut child = command.stdin(stdin).stdout(stdout).stderr(stderr).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), out, error)
}

#[test]
fn an_entry_whose_payload_is_null_makes_the_round_trip() {
    let (directory, root) = place();
    let entry = r#"{"entryId":"e1","entryType":"custom","payload":null,"type":"message","id":"OTHER"}"#;
    let (code, out, error) = session(&["append"], &root, entry);
    assert_eq!((code, &*out, &*error), (Some(0), "1\te1\n", ""));
    let (_, exported, _) = session(&["export"], &root, "");
    assert!(exported.contains("\"payload\":null"), "{exported}");
    let other = directory.path().join("other.v2");
    assert_eq!(session(&["import"], &other, &exported).0, Some(0));
    let imported = session(&["export"], &other, "").1;
    assert!(imported.contains("\"entryId\":\"e1\"") && imported.contains("\"payload\":null"), "{imported}");
}

#[test]
fn an_import_says_what_became_of_entries_and_manifest() {
    let (_directory, root) = place();
    let header = "{\"type\":\"session\",\"id\":\"S\"}\n";
    let first = format!("{header}{{\"type\":\"message\",\"id\":\"a\",\"parentId\":null}}\n");
    let (code, _, error) = session(&["import"], &root, &first);
    assert_eq!((code, error.contains("its id is in the manifest")), (Some(0), true), "{error}");
    std::fs::write(root.join("manifest.json"), "{\"garbage").unwrap();
    let second = format!("{header}{{\"type\":\"message\",\"id\":\"b\",\"parentId\":\"a\"}}\n");
    let (code, _, error) = session(&["import"], &root, &second);
    assert_eq!((code, error.contains("nothing was imported")), (Some(1), true), "{error}");
    assert_eq!(session(&["export"], &root, "").1.lines().count(), 1);
    std::fs::remove_file(root.join("manifest.json")).unwrap();
    let (code, _, error) = session(&["import"], &root, "{\"type\":\"session\"}\n");
    assert_eq!((code, error.contains("it has no id")), (Some(0), true), "{error}");
    let (_, _, error) = session(&["append"], &root, "{} x\n");
    assert!(error.contains("line 1 (byte 0): trailing characters at byte 3 of the line"), "{error}");
}

#[test]
fn an_import_is_refused_before_it_takes_more_memory_than_it_may() {
    let directory = tempfile::tempdir().unwrap();
    let import = |arguments: &[&str], input: &str| {
        std::fs::write(directory.path().join("in.jsonl"), input).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_burn"))
            .args(["session", "import", "talk.v2", "in.jsonl"])
            .args(arguments)
            .current_dir(directory.path())
            .output()
            .unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (output.status.code(), out, err)
    };
    let lines: String = (0..200).map(line).collect();
    let bytes = lines.len();
    // First the input alone is too long, then the records made from its lines.
    let (code, _, said) = import(&["--memory", "1000"], &lines);
    assert!(code == Some(1) && said.contains("in.jsonl: it takes more than 1000 bytes"), "{said}");
    let memory = (bytes + 100 * 600).to_string();
    let (code, out, said) = import(&["--memory", &memory, "--json"], &lines);
    let place = format!("in.jsonl, line 101 (byte {})", (0..100).map(|n| line(n).len()).sum::<usize>());
    assert!(code == Some(1) && said.contains(&place) && said.contains("larger --memory"), "{said}");
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&document["ok"], &document["error"]["line"]), (&false.into(), &101.into()), "{document}");
    // A payload with blanks is copied without them.
    let blanks = lines.replace("\"payload\":{", "\"payload\":{ ");
    let memory = (blanks.len() + 200 * 600 + 1000).to_string();
    let (code, _, said) = import(&["--memory", &memory], &blanks);
    assert!(code == Some(1) && said.contains("in.jsonl, line "), "{said}");
    assert!(!directory.path().join("talk.v2").exists());
    let (code, _, said) = import(&[], &lines);
    assert_eq!(code, Some(0), "{said}");
    let (code, out, said) = import(&["--json"], "");
    assert!(code == Some(0) && out.contains("\"entrySeq\": 200"), "{out} {said}");
}
