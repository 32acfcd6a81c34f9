//! Session stores between processes: one writer at a time, readers beside it, a writer killed at any moment, a closed pipe.

#![cfg(all(unix, feature = "session", feature = "cli"))]
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relayburn_ledger::session::{Class, Options, Reader, Store};

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

#[test]
fn acknowledged_entries_survive_a_killed_writer() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("talk.v2");
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
        let (store, _) =
            Store::open(&root, &Options { max_segment_bytes: 4000, ..Options::default() }).unwrap();
        assert!(store.view().row_count() >= acknowledged, "{acknowledged} acknowledged");
        there = store.view().row_count();
        let ids: Vec<&str> = store.view().entry_ids().collect();
        assert!(ids.iter().enumerate().all(|(number, id)| *id == format!("e{number}")));
        store.view().validate().unwrap();
        drop(store);
        assert!(!Store::open(&root, &Options::default()).unwrap().1.changed_files());
    }
    assert!(there > 25);
}

#[test]
fn a_second_writer_is_refused_and_readers_see_entries_as_they_come() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("talk.v2");
    let mut writer = append(&root, &[]);
    let mut input = writer.stdin.take().unwrap();
    let mut output = BufReader::new(writer.stdout.take().unwrap());
    let mut reader = Reader::open(&root, &Options::default()).unwrap();
    for number in 0..40 {
        input.write_all(line(number).as_bytes()).unwrap();
        input.flush().unwrap();
        let mut text = String::new();
        output.read_line(&mut text).unwrap();
        assert_eq!(text, format!("{}\te{number}\n", number + 1));
        let view = reader.view().unwrap();
        assert_eq!(view.row_count(), number + 1);
        assert_eq!(view.active_path(&format!("e{number}")).unwrap().len(), number + 1);
        if number == 7 {
            assert_eq!(Store::open(&root, &Options::default()).unwrap_err().class(), Class::Locked);
            let refused = append(&root, &["--json"]).wait_with_output().unwrap();
            assert_eq!(refused.status.code(), Some(1));
            assert!(String::from_utf8(refused.stdout).unwrap().contains("\"locked\""));
        }
    }
    drop(input);
    assert!(writer.wait().unwrap().success());
    Store::open(&root, &Options::default()).unwrap();
}

#[test]
fn readers_beside_a_busy_writer_never_see_anything_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("talk.v2");
    let mut writer = append(&root, &["--group"]);
    let mut input = writer.stdin.take().unwrap();
    let mut output = writer.stdout.take().unwrap();
    let feeder = std::thread::spawn(move || {
        (0..20_000).for_each(|number| input.write_all(line(number).as_bytes()).unwrap())
    });
    let drain = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()).unwrap());
    let mut reader = Reader::open(&root, &Options::default()).unwrap();
    let (mut views, mut last) = (0, 0);
    while last < 20_000 {
        let view = reader.view().unwrap();
        assert!(view.row_count() >= last);
        last = view.row_count();
        views += 1;
        for frame in view.tail(3) {
            frame.unwrap();
        }
        let head = view.head().map(|head| head.entry_seq);
        assert_eq!(head.unwrap_or(0), last as u64);
    }
    feeder.join().unwrap();
    drain.join().unwrap();
    assert!(writer.wait().unwrap().success() && views > 3);
    reader.view().unwrap().validate().unwrap();
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
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("talk.v2");
    let dir = root.to_str().unwrap();
    assert_eq!(burn(&["show"]).status.code(), Some(2));
    assert_eq!(burn(&["show", dir, "--tail", "x"]).status.code(), Some(2));
    assert_eq!(burn(&["frobnicate", dir]).status.code(), Some(2));
    let missing = burn(&["check", dir]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(missing.stdout.is_empty() && String::from_utf8(missing.stderr).unwrap().contains(dir));
    let mut writer = append(&root, &["--group", "--json"]);
    let mut input = writer.stdin.take().unwrap();
    (0..2000).for_each(|number| input.write_all(line(number).as_bytes()).unwrap());
    drop(input);
    assert!(writer.wait_with_output().unwrap().status.success());
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
    ok(&["import", &dir, &{
        std::fs::write(&out, "{\"entryId\":\"n1\",\"entryType\":\"custom\",\"payload\":[]}\n").unwrap();
        out.clone()
    }]);
    assert_eq!(
        burn(&["manifest", &dir]).status.code(),
        Some(1),
        "the manifest no longer says what the store holds"
    );
    assert_eq!(ok(&["rollback", &dir, "1"]), "back at checkpoint 1: entry 3 (m3)\n");
    assert!(ok(&["manifest", &dir]).contains("up to date"));
    assert!(ok(&["checkpoint", &dir, "--list"]).starts_with("1\t3\t"));
}
