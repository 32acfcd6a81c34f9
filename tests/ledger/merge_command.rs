//! `burn ledger merge`, `export` and `machine`, and several `--ledger`.
#![cfg(unix)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use relayburn_ledger::dev::{GenerateOptions, Profile, generate_file};
use serde_json::Value;

/// Homes `a`, `b` and `c` in a directory, each with a generated ledger; `b` has some of the lines of `a`.
struct Homes {
    directory: tempfile::TempDir,
}

impl Homes {
    fn new() -> Self {
        let homes = Self { directory: tempfile::tempdir().unwrap() };
        for (seed, name) in (1..).zip(["a", "b", "c"]) {
            fs::create_dir_all(homes.path(name)).unwrap();
            let ledger = homes.path(name).join("ledger.jsonl");
            let options = GenerateOptions { size_bytes: 200_000, seed, profile: Profile::Mixed };
            generate_file(&ledger, &options, true, |_| {}).unwrap();
        }
        let of_a = fs::read_to_string(homes.path("a/ledger.jsonl")).unwrap();
        let mut of_b = fs::File::options().append(true).open(homes.path("b/ledger.jsonl")).unwrap();
        of_a.lines().skip(20).take(60).for_each(|line| writeln!(of_b, "{line}").unwrap());
        homes
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut burn = Command::new(env!("CARGO_BIN_EXE_burn"));
        burn.args(args)
            .current_dir(self.directory.path())
            .env("RELAYBURN_HOME", self.path("home"))
            .env("HOME", self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        burn
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(args).spawn().unwrap();
        // A command that fails early does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that succeeds.
    fn ok(&self, args: &[&str], input: &[u8]) -> String {
        let output = self.run(args, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, args: &[&str], code: i32, reason: &str) {
        let output = self.run(args, b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(reason), "{args:?}: no {reason} in {said}");
    }

    fn ledger(&self, home: &str) -> Vec<u8> {
        fs::read(self.path(home).join("ledger.jsonl")).unwrap()
    }
}

fn usage(homes: &Homes, args: &[&str]) -> Value {
    let args = [&["usage", "--by", "machine", "--json", "--tz", "UTC"], args].concat();
    serde_json::from_str(&homes.ok(&args, b"")).unwrap()
}

/// The rows of an answer, without the place of its ledger.
fn rows(answer: &Value) -> [&Value; 2] {
    [&answer["rows"], &answer["total"]]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

/// Frames of zstd whose blocks are not compressed: a frame to skip, and two frames of one segment each.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frames = vec![0x50, 0x2A, 0x4D, 0x18, 2, 0, 0, 0, b'x', b'y'];
    for piece in [&bytes[..1000], &bytes[1000..]] {
        // A single segment, whose length has four bytes.
        frames.extend([0x28, 0xB5, 0x2F, 0xFD, 0b1010_0000]);
        frames.extend((piece.len() as u32).to_le_bytes());
        let blocks = piece.chunks(100_000);
        let last = blocks.len() - 1;
        for (place, block) in blocks.enumerate() {
            let header = (block.len() as u32) << 3 | u32::from(place == last);
            frames.extend(&header.to_le_bytes()[..3]);
            frames.extend(block);
        }
    }
    frames
}

#[test]
fn homes_files_patterns_compressed_files_and_standard_input_are_ledgers() {
    let homes = Homes::new();
    assert_eq!(homes.ok(&["ledger", "machine", "--home", "a"], b""), "");
    homes.ok(&["ledger", "--home", "a", "machine", "desk"], b"");
    assert_eq!(homes.ok(&["ledger", "machine", "--home", "a"], b""), "desk\n");
    let said = homes.ok(&["ledger", "merge", "a", "b", "c", "--into", "all"], b"");
    assert!(said.contains("3 ledgers") && said.contains("machine desk"), "{said}");
    let all = homes.ledger("all");
    fs::write(homes.path("c.gz"), gzip(&homes.ledger("c"))).unwrap();
    fs::write(homes.path("b.zst"), zstd(&homes.ledger("b"))).unwrap();
    let more: &[(&[&str], &[u8])] = &[
        (&["c.gz", "b", "a"], b""),
        (&["b.zst", "c", "a"], b""),
        (&["[a-c]"], b""),
        (&["a", "-", "[bc]/ledger.jsonl"], &gzip(&homes.ledger("b"))),
        (&["c", "a/ledger.jsonl", "b/ledger.jsonl", "b", "a"], b""),
    ];
    for (number, (ledgers, input)) in more.iter().enumerate() {
        let into = format!("into{number}");
        let args = [&["ledger", "merge"], *ledgers, &["--into", &into]].concat();
        homes.ok(&args, input);
        assert!(homes.ledger(&into) == all, "{ledgers:?}");
    }
    // Answers over several ledgers are those of the merged ledger.
    let merged = usage(&homes, &["--home", "all"]);
    let machines: Vec<&Value> =
        merged["rows"].as_array().unwrap().iter().map(|row| &row["machine"]).collect();
    assert!(machines.contains(&&Value::from("desk")) && machines.contains(&&Value::Null), "{machines:?}");
    for more in [
        &["--ledger", "[abc]"][..],
        &["--ledger", "a", "--ledger", "b/ledger.jsonl", "--ledger", "c.gz"],
        &["--ledger", "[abc]", "--from", "ledger"],
        &["--ledger", "[abc]", "--archive", "many.sqlite"],
        &["--ledger", "[abc]", "--archive", "many.sqlite", "--no-build"],
    ] {
        assert_eq!(rows(&usage(&homes, more)), rows(&merged), "{more:?}");
    }
    assert!(homes.path("many.sqlite.ledger.jsonl").exists());
    homes.ok(&["state", "rebuild", "archive", "--ledger", "[abc]", "--archive", "built.sqlite"], b"");
    let built = usage(&homes, &["--ledger", "built.sqlite.ledger.jsonl", "--archive", "built.sqlite"]);
    assert_eq!(rows(&built), rows(&merged));
    let turns = homes.ok(&["query", "turns", "--tag", "machine=desk", "--ledger", "[abc]", "--jsonl"], b"");
    let of_home = homes.ok(&["query", "turns", "--tag", "machine=desk", "--home", "all", "--jsonl"], b"");
    assert!(!turns.is_empty() && turns == of_home);
    // No temporary file is left.
    let left: Vec<String> = crate::common::names(homes.directory.path())
        .into_iter()
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_file_that_no_merge_made_is_not_replaced() {
    let homes = Homes::new();
    let own = homes.path("own.ledger.jsonl");
    fs::copy(homes.path("c/ledger.jsonl"), &own).unwrap();
    let several = ["usage", "--json", "--ledger", "a", "--ledger", "b", "--archive", "own"];
    let refused = homes.run(&several, b"");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("own.ledger.jsonl") && said.contains("move it away"), "{said}");
    assert!(fs::read(&own).unwrap() == homes.ledger("c"));
    // What the last run made is replaced, unless somebody has changed it since.
    fs::remove_file(&own).unwrap();
    homes.ok(&several, b"");
    homes.ok(&several, b"");
    let mut file = fs::File::options().append(true).open(&own).unwrap();
    file.write_all(&homes.ledger("c")).unwrap();
    assert_eq!(homes.run(&several, b"").status.code(), Some(1));
}

#[test]
fn copies_of_compressed_ledgers_have_no_name() {
    let homes = Homes::new();
    fs::create_dir(homes.path("tmp")).unwrap();
    fs::write(homes.path("a.gz"), gzip(&homes.ledger("a"))).unwrap();
    let mut command = homes.command(&["usage", "--ledger", "a.gz", "--ledger", "-"]);
    let mut child = command.env("TMPDIR", homes.path("tmp")).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(&homes.ledger("b")).unwrap();
    // The command waits for the end of its input.
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    drop(input);
    assert_eq!(walk(&homes.path("tmp")), Vec::<PathBuf>::new());
}

/// All paths below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn wrong_ledgers_are_refused_with_a_reason() {
    let homes = Homes::new();
    fs::create_dir(homes.path("empty")).unwrap();
    fs::write(homes.path("torn.gz"), &gzip(&homes.ledger("a"))[..500]).unwrap();
    fs::write(homes.path("x.zst"), [0x28, 0xB5, 0x2F, 0xFD, 9]).unwrap();
    for (ledgers, reason) in [
        (&["missing"][..], "cannot open"),
        (&["nothing-*"], "no file matches nothing-*"),
        (&["empty"], "there is no ledger at empty/ledger.jsonl"),
        (&["-", "-"], "standard input can be read once"),
        (&["torn.gz"], "cannot copy torn.gz"),
        (&["x.zst"], "cannot copy x.zst"),
    ] {
        let args = [&["ledger", "merge"], ledgers, &["--into", "into"]].concat();
        homes.refused(&args, 1, reason);
        let named: Vec<&str> = ledgers.iter().flat_map(|ledger| ["--ledger", ledger]).collect();
        let args = [&["usage", "--since", "7d"], &*named].concat();
        homes.refused(&args, 1, if ledgers == ["missing"] { "missing" } else { reason });
    }
    homes.refused(&["ledger", "merge", "a", "--into", "torn.gz"], 1, "is a file, not a home");
    homes.refused(&["state", "rebuild", "archive", "--ledger", "a"], 2, "--ledger needs --archive");
    homes.refused(&["ledger", "machine", "a\u{7}b", "--home", "a"], 1, "is no name of a machine");
    fs::write(homes.path("a/machine.json"), "[]").unwrap();
    homes.refused(&["ledger", "merge", "a", "--into", "into"], 1, "has no name of a machine");
}

#[test]
fn exported_lines_are_appended_elsewhere_once() {
    let homes = Homes::new();
    let whole = homes.ledger("a");
    assert!(homes.ok(&["ledger", "export", "--home", "a"], b"").as_bytes() == whole);
    let start = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let (first, since) = (homes.run(&["ledger", "export", "--home", "a"], b""), start.to_string());
    assert!(String::from_utf8(first.stderr).unwrap().ends_with(&format!("--since {}\n", whole.len())));
    let rest = homes.ok(&["ledger", "export", "--home", "a", "--since", &since], b"");
    assert!(rest.as_bytes() == &whole[start..]);
    for _ in 0..2 {
        homes.ok(&["ledger", "append", "--home", "copy", "--lenient"], &whole);
    }
    let turns = |home| {
        homes.ok(&["query", "turns", "--home", home, "--from", "ledger", "--jsonl"], b"").lines().count()
    };
    let distinct: std::collections::HashSet<String> = String::from_utf8(whole.clone())
        .unwrap()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["kind"] == "turn")
        .map(|line| format!("{} {}", line["record"]["sessionId"], line["record"]["messageId"]))
        .collect();
    assert_eq!(turns("copy"), distinct.len());
    // An unfinished line waits, and an offset within a line is refused with the next.
    fs::File::options()
        .append(true)
        .open(homes.path("a/ledger.jsonl"))
        .unwrap()
        .write_all(b"{\"v\":1")
        .unwrap();
    assert!(homes.ok(&["ledger", "export", "--home", "a"], b"").as_bytes() == whole);
    homes.refused(
        &["ledger", "export", "--home", "a", "--since", "1"],
        1,
        &format!("the next one begins at byte {start}"),
    );
    let beyond = (whole.len() + 1).to_string();
    homes.refused(&["ledger", "export", "--home", "a", "--since", &beyond], 1, "it was cut or replaced");
}

/// Two answers of one millisecond, model and counts.
fn simultaneous_answers() -> [String; 2] {
    ["msg_a", "msg_b"].map(|id| {
        format!(
            r#"{{"source":"opencode","sessionId":"s-{id}","messageId":"{id}","turnIndex":0,"ts":"2026-04-20T00:00:00.000Z","model":"m","usage":{{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}},"toolCalls":[]}}"#
        )
    })
}

#[test]
fn exported_turns_with_certain_ids_are_appended_by_their_ids() {
    let homes = Homes::new();
    let turns = simultaneous_answers();
    let appended = |home: &str, args: &[&str], line: &str| {
        let args = [&["ledger", "append", "--json", "--home", home], args].concat();
        let done: Value = serde_json::from_str(&homes.ok(&args, format!("{line}\n").as_bytes())).unwrap();
        done["appended"].as_u64().unwrap()
    };
    for (turn, of_record) in turns.iter().zip([1, 0]) {
        let line = format!(r#"{{"v":1,"kind":"turn","record":{turn}}}"#);
        assert_eq!(appended("lines", &[], &line), 1, "{line}");
        assert_eq!(appended("lines", &[], &line), 0, "{line}");
        // The rule of appends that share the ledger with other programs.
        assert_eq!(appended("records", &["--kind", "turns"], turn), of_record, "{turn}");
    }
}

#[test]
fn answers_from_several_homes_do_not_copy_content() {
    let homes = Homes::new();
    fs::create_dir(homes.path("a/content")).unwrap();
    fs::write(homes.path("a/content/s1.jsonl"), "{\"text\":\"1\"}\n").unwrap();
    let args = ["state", "rebuild", "archive", "--ledger", "[ab]", "--archive", "built.sqlite", "--json"];
    let built: Value = serde_json::from_str(&homes.ok(&args, b"")).unwrap();
    assert_eq!(built["merge"]["contentLines"], 0, "{built}");
    let args = ["ledger", "--json", "merge", "a", "b", "--into", "all"];
    let merged: Value = serde_json::from_str(&homes.ok(&args, b"")).unwrap();
    assert_eq!(merged["contentLines"], 1, "{merged}");
}

/// File systems of macOS refuse such a name.
#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_not_utf_8_is_printed_into_the_document() {
    use std::os::unix::ffi::OsStrExt;
    let homes = Homes::new();
    let name = std::ffi::OsStr::from_bytes(b"\xFF.jsonl");
    let turn = &simultaneous_answers()[0];
    let line = format!(r#"{{"v":1,"kind":"turn","record":{turn}}}"#);
    fs::write(homes.path("").join(name), format!("{line}\nnot json\n")).unwrap();
    let output = homes.command(&["ledger", "--json", "merge", "--into", "all"]).arg(name).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let merged: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(merged["inputs"][0]["ledger"], "\u{FFFD}.jsonl", "{merged}");
    assert_eq!(merged["findings"][0]["line"]["ledger"], "\u{FFFD}.jsonl", "{merged}");
}

/// Kills a merge at many moments. Whole lines are left, and another merge makes the same ledger.
#[test]
fn a_killed_merge_is_completed_by_the_next() {
    let homes = Homes::new();
    let options = GenerateOptions { size_bytes: 40_000_000, seed: 9, profile: Profile::Mixed };
    generate_file(&homes.path("c/ledger.jsonl"), &options, true, |_| {}).unwrap();
    homes.ok(&["ledger", "merge", "a", "b", "c", "--into", "all"], b"");
    let all = String::from_utf8(homes.ledger("all")).unwrap();
    let all: Vec<&str> = all.lines().collect();
    let len_bytes = fs::metadata(homes.path("all/ledger.jsonl")).unwrap().len();
    let mut left = 0;
    for round in 0..6 * crate::common::scale() {
        let into = format!("killed{round}");
        let mut child = homes.command(&["ledger", "merge", "c", "a", "b", "--into", &into]).spawn().unwrap();
        let file = homes.path(&into).join("ledger.jsonl");
        // After the first piece, or a little later.
        while !is_longer(&file, 1) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(round as u64 * 7));
        child.kill().unwrap();
        child.wait().unwrap();
        left += u64::from(fs::metadata(&file).unwrap().len() < len_bytes);
        homes.ok(&["ledger", "merge", "c", "a", "b", "--into", &into], b"");
        // A write that was cut off may leave a part of a line, which the next append ends.
        let merged = String::from_utf8(homes.ledger(&into)).unwrap();
        let mut expected = all.iter().peekable();
        let parts: Vec<&str> =
            merged.lines().filter(|line| expected.next_if(|whole| *whole == line).is_none()).collect();
        assert!(expected.next().is_none() && parts.len() <= 1, "round {round}: {parts:?}");
        assert!(
            parts.iter().all(|part| serde_json::from_str::<Value>(part).is_err()),
            "round {round}: {parts:?}"
        );
        let checked = homes.run(&["ledger", "check", "--home", &into, "--json"], b"");
        let checked: Value = serde_json::from_slice(&checked.stdout).unwrap();
        assert_eq!(checked["findings"].as_array().unwrap().len(), parts.len(), "round {round}: {checked}");
        fs::remove_dir_all(homes.path(&into)).unwrap();
    }
    assert!(left > 0, "every merge was done before it was killed");
}

fn is_longer(file: &Path, len_bytes: u64) -> bool {
    fs::metadata(file).is_ok_and(|found| found.len() >= len_bytes)
}

#[test]
fn a_link_in_place_of_machine_json_stays_and_the_file_that_it_leads_to_gets_the_name() {
    let homes = Homes::new();
    fs::write(homes.path("dotfile.json"), "{\"machine\":\"desk\"}\n").unwrap();
    let link = homes.path("a/machine.json");
    std::os::unix::fs::symlink("../dotfile.json", &link).unwrap();
    homes.ok(&["ledger", "machine", "laptop", "--home", "a"], b"");
    assert_eq!(homes.ok(&["ledger", "machine", "--home", "a"], b""), "laptop\n");
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(homes.path("dotfile.json")).unwrap(), "{\"machine\":\"laptop\"}\n");
}

#[test]
fn what_killed_runs_left_is_deleted_an_hour_later() {
    let homes = Homes::new();
    let age = |path: &Path| {
        let hours_ago = std::time::SystemTime::now() - Duration::from_secs(2 * 3600);
        fs::File::open(path).unwrap().set_modified(hours_ago).unwrap();
    };
    for name in [".burn-merge-old", ".burn-merge-new", ".burn-merge-busy"] {
        fs::create_dir(homes.path(name)).unwrap();
        fs::write(homes.path(name).join("ledger.jsonl"), "").unwrap();
    }
    fs::write(homes.path(".burn-generate-old.tmp"), "").unwrap();
    fs::write(homes.path(".burn-generate-new.tmp"), "").unwrap();
    age(&homes.path(".burn-merge-old/ledger.jsonl"));
    age(&homes.path(".burn-generate-old.tmp"));
    [".burn-merge-old", ".burn-merge-busy"].iter().for_each(|name| age(&homes.path(name)));
    homes.ok(
        &["state", "rebuild", "archive", "--ledger", "a", "--ledger", "b", "--archive", "all.sqlite"],
        b"",
    );
    homes.ok(&["dev", "generate-ledger", "new.jsonl", "--size", "1KB"], b"");
    let mut left: Vec<_> = fs::read_dir(homes.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".burn-"))
        .collect();
    left.sort();
    assert_eq!(left, [".burn-generate-new.tmp", ".burn-merge-busy", ".burn-merge-new"]);
}

#[test]
fn each_compressed_ledger_takes_one_open_file() {
    let homes = Homes::new();
    for number in 0..40 {
        let line = format!(
            "{{\"v\":1,\"kind\":\"stamp\",\"ts\":\"2026-04-20T00:00:{number:02}.000Z\",\"selector\":{{\"sessionId\":\"s\"}},\"enrichment\":{{\"a\":\"b\"}}}}\n"
        );
        fs::write(homes.path(&format!("{number:02}.gz")), gzip(line.as_bytes())).unwrap();
    }
    let limited =
        format!("ulimit -n 64; exec '{}' ledger merge '[0-9]*.gz' --into all", env!("CARGO_BIN_EXE_burn"));
    let output = Command::new("sh").args(["-c", &limited]).current_dir(homes.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(homes.ledger("all").iter().filter(|byte| **byte == b'\n').count(), 40);
}

#[test]
fn a_named_ledger_that_is_no_file_is_refused_although_there_is_an_archive() {
    let homes = Homes::new();
    let archive = ["--archive", "all.sqlite"];
    homes.ok(&[&["state", "rebuild", "archive", "--ledger", "a/ledger.jsonl"], &archive[..]].concat(), b"");
    for command in [&["usage"][..], &["usage", "--no-build"], &["report"], &["query", "turns"]] {
        let args = [command, &["--ledger", "/dev/null"], &archive].concat();
        homes.refused(&args, 1, "/dev/null is not a regular file; name a file or a home");
    }
}
