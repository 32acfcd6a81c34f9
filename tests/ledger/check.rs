//! `burn ledger check` finds every kind of fault and names its offset, counts oddities, and changes nothing.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const USAGE: &str =
    r#""usage":{"input":1,"output":2,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0}"#;

fn turn(session: &str, number: u32, ts: &str) -> String {
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"x","sessionId":"{session}","messageId":"m{number}","turnIndex":{number},"ts":"{ts}","model":"m",{USAGE},"toolCalls":[]}}}}"#
    )
}

fn burn(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_burn")).args(args).env("RELAYBURN_HOME", home).output().unwrap()
}

/// Exit code and report.
fn check(home: &Path, args: &[&str]) -> (i32, Value) {
    let output = burn(home, &[&["ledger", "check", "--json"], args].concat());
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), report)
}

/// Verdict, file, offset and length of every finding. The file is named by its extension.
fn findings(report: &Value) -> Vec<(String, String, u64, u64)> {
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .map(|f| {
            (
                text(f, "verdict"),
                match Path::new(&text(f, "file")).extension().unwrap().to_str().unwrap() {
                    "idx" => "index".to_owned(),
                    _ => "ledger".to_owned(),
                },
                f["offset"].as_u64().unwrap(),
                f["length"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn every_fault_has_an_offset_and_every_oddity_a_count() {
    let home = tempfile::tempdir().unwrap();
    let mut ledger: Vec<u8> = Vec::new();
    let mut expected = Vec::new();
    let mut line = |bytes: &[u8], problem: Option<&str>| {
        if let Some(problem) = problem {
            let length = bytes.len() as u64 + 1;
            expected.push((problem.to_owned(), "ledger".to_owned(), ledger.len() as u64, length));
        }
        ledger.extend_from_slice(bytes);
        ledger.push(b'\n');
    };
    line(turn("a", 1, "t3").as_bytes(), None);
    line(b"", None);
    line(b"{\"v\":1,", Some("malformed"));
    // A line that is older than an earlier line of its session, then a repeated line, then a line of another session.
    line(turn("a", 2, "t1").as_bytes(), None);
    line(turn("a", 1, "t3").as_bytes(), None);
    line(turn("b", 1, "t1").as_bytes(), None);
    line(turn("a", 3, "t3").replace("\"model\":\"m\",", "").as_bytes(), Some("rejected"));
    line(b"{\"v\":1,\"kind\":\"news\"}", Some("unknown"));
    line(b"{\"v\":1,\"kind\":\"news\",\"n\":2}\r", Some("unknown"));
    line(b"{\"v\":2,\"kind\":\"turn\"}", Some("unknown"));
    line(b"[]", Some("unknown"));
    let mut bad_text = turn("c", 1, "t1").into_bytes();
    let model = bad_text.windows(9).position(|window| window == b"\"model\":\"").unwrap() + 9;
    bad_text[model] = 0xFF;
    line(&bad_text, Some("invalidUtf8"));
    let torn = b"{\"v\":1,\"kind\":\"turn\"";
    expected.push(("torn".to_owned(), "ledger".to_owned(), ledger.len() as u64, torn.len() as u64));
    ledger.extend_from_slice(torn);
    fs::write(home.path().join("ledger.jsonl"), &ledger).unwrap();
    assert!(burn(home.path(), &["state", "rebuild", "index"]).status.success());

    let (code, report) = check(home.path(), &[]);
    assert_eq!(code, 1);
    assert_eq!(findings(&report), expected);
    for (key, count) in [
        ("lines", 11),
        ("malformedLines", 1),
        ("rejectedLines", 1),
        ("invalidUtf8Lines", 1),
        ("tornLines", 1),
        ("unknownLines", 4),
        ("repeatedRecords", 1),
        ("outOfOrderLines", 1),
    ] {
        assert_eq!(report[key], count, "{key}");
    }
    assert_eq!(report["unknownKinds"]["kind news"], 2);
    assert_eq!(report["unknownKinds"]["version 2"], 1);
    assert_eq!(report["index"]["missingIds"], 0);
    assert_eq!(fs::read(home.path().join("ledger.jsonl")).unwrap(), ledger);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 4, "a check leaves nothing behind");

    let table = String::from_utf8(burn(home.path(), &["ledger", "check"]).stdout).unwrap();
    let malformed = expected.iter().find(|finding| finding.0 == "malformed").unwrap();
    assert!(table.contains(&format!("ledger.jsonl at byte {} (8 bytes): malformed", malformed.2)), "{table}");
}

#[test]
fn unknown_kinds_without_end_are_counted_together_and_long_ones_shortened() {
    let home = tempfile::tempdir().unwrap();
    let pad = "k".repeat(200);
    let lines: String =
        (0..20_000).map(|number| format!("{{\"v\":1,\"kind\":\"{number}{pad}\"}}\n")).collect();
    fs::write(home.path().join("ledger.jsonl"), &lines).unwrap();
    let (code, report) = check(home.path(), &[]);
    assert_eq!((code, &report["unknownLines"]), (0, &Value::from(20_000)));
    let kinds = report["unknownKinds"].as_object().unwrap();
    let len_bytes: usize = kinds.keys().map(String::len).sum();
    assert!(len_bytes < (1 << 20) + 100 && kinds.keys().all(|kind| kind.len() < 110), "{len_bytes}");
    assert!(kinds["other kinds"].as_u64().unwrap() > 5000);
    assert_eq!(kinds.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 20_000);
}

#[test]
fn an_index_that_disagrees_is_named_id_by_id() {
    let home = tempfile::tempdir().unwrap();
    let lines: String = (0..5).map(|number| turn("a", number, "t1") + "\n").collect();
    fs::write(home.path().join("ledger.jsonl"), &lines).unwrap();
    let (code, report) = check(home.path(), &[]);
    assert_eq!((code, &report["index"]["exists"]), (1, &Value::Bool(false)));
    assert_eq!(findings(&report), [("noIndex".to_owned(), "index".to_owned(), 0, 0)]);

    assert!(burn(home.path(), &["state", "rebuild", "index"]).status.success());
    assert_eq!(check(home.path(), &[]).0, 0);
    let index = fs::read_to_string(home.path().join("ledger.idx")).unwrap();
    // The second id is missing, one id belongs to no line, one line is no id, and the first id is there three times.
    let first = &index[..17];
    let changed = format!("{first}00000000000000ff\nno id\n{}{first}{first}", &index[34..]);
    let end = changed.len() as u64;
    fs::write(home.path().join("ledger.idx"), changed).unwrap();
    let (code, report) = check(home.path(), &[]);
    let length = turn("a", 1, "t1").len() as u64 + 1;
    let expected = [
        ("missingId", "ledger", length, length),
        ("extraId", "index", 17, 17),
        ("repeatedId", "index", end - 34, 17),
        ("repeatedId", "index", end - 17, 17),
        ("notAnId", "index", 34, 6),
    ];
    let expected: Vec<_> =
        expected.map(|(p, f, offset, len)| (p.to_owned(), f.to_owned(), offset, len)).into();
    assert_eq!((code, findings(&report)), (1, expected));
    for (key, count) in
        [("ids", 5), ("missingIds", 1), ("extraIds", 1), ("repeatedIds", 2), ("invalidLines", 1)]
    {
        assert_eq!(report["index"][key], count, "{key}");
    }
    assert!(burn(home.path(), &["state", "rebuild", "index", "--force"]).status.success());
    assert_eq!(check(home.path(), &[]).0, 0);

    // A repeated id alone is a fault too.
    fs::write(home.path().join("ledger.idx"), format!("{index}{first}")).unwrap();
    let (code, report) = check(home.path(), &[]);
    assert_eq!((code, findings(&report).len(), &report["index"]["repeatedIds"]), (1, 1, &1.into()));
    let said = String::from_utf8(burn(home.path(), &["ledger", "check"]).stdout).unwrap();
    assert!(said.contains("ledger.idx at byte 85 (17 bytes): repeated in the index"), "{said}");
}

#[test]
fn a_ledger_that_was_cut_is_told_of_and_its_index_kept() {
    let home = tempfile::tempdir().unwrap();
    let [ledger, index] = ["ledger.jsonl", "ledger.idx"].map(|name| home.path().join(name));
    let lines: Vec<String> = (0..9).map(|number| turn("a", number, "t1") + "\n").collect();
    let whole = lines.concat();
    fs::write(&ledger, &whole).unwrap();
    assert!(burn(home.path(), &["state", "rebuild", "all"]).status.success());
    let (code, report) = check(home.path(), &[]);
    assert_eq!((code, report["archive"]["ledgerOffsetBytes"].as_u64()), (0, Some(whole.len() as u64)));
    let ids = fs::read_to_string(&index).unwrap();

    // Cut, and replaced by a ledger of the same length.
    let (kept, lost) = (lines[..2].concat(), lines[2..].concat().len() as u64);
    let other = whole.replacen("\"m0\"", "\"mX\"", 1);
    for (text, offset, length) in [(&kept, kept.len() as u64, lost), (&other, 0, whole.len() as u64)] {
        fs::write(&ledger, text).unwrap();
        let (code, report) = check(home.path(), &[]);
        assert_eq!(
            (code, &findings(&report)[0]),
            (1, &("cut".to_owned(), "ledger".to_owned(), offset, length))
        );
        let reasons: Vec<_> =
            report["findings"].as_array().unwrap().iter().map(|f| f["reason"].as_str().unwrap()).collect();
        assert!(
            reasons[0].contains("archive.sqlite") && reasons[0].contains("restore it from a backup"),
            "{reasons:?}"
        );
        assert!(!reasons.iter().any(|reason| reason.contains("rebuild index")), "{reasons:?}");
    }

    // Dropping a line that is no id, or a repeated id, loses nothing; dropping an id does.
    fs::write(&ledger, &kept).unwrap();
    let odd = format!("\nno id\n{ids}{ids}");
    fs::write(&index, &odd).unwrap();
    for what in ["index", "all"] {
        let output = burn(home.path(), &["state", "rebuild", what]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        assert!(
            said.contains("ledger.idx at byte 41 and after: 7 ids") && said.contains("--force"),
            "{said}"
        );
        assert_eq!(fs::read_to_string(&index).unwrap(), odd, "{what}");
    }
    let output = burn(home.path(), &["state", "rebuild", "index", "--force", "--json"]);
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&done["ids"], &done["droppedIds"]), (&2.into(), &7.into()));
    assert_eq!(fs::read_to_string(&index).unwrap(), ids[..34]);

    // A rebuild drops no id of an index that is missing or has its ids twice.
    for text in [None, Some(format!("{}\nno id\n{}", &ids[..34], &ids[..34]))] {
        match text {
            None => fs::remove_file(&index).unwrap(),
            Some(text) => fs::write(&index, text).unwrap(),
        }
        assert!(burn(home.path(), &["state", "rebuild", "index"]).status.success());
        assert_eq!(fs::read_to_string(&index).unwrap(), ids[..34]);
    }
}

/// The findings of a check when `meanwhile` changes the home after the ledger is read and before the index is read.
fn check_while(
    home: &Path,
    meanwhile: impl Fn(&Path),
) -> Result<(relayburn_ledger::ledger::CheckReport, Vec<relayburn_ledger::ledger::Problem>), String> {
    use relayburn_ledger::ledger::{CheckFiles, Problem, check};
    let mut problems = Vec::new();
    let files = CheckFiles::of_home(&relayburn_ledger::home::Home::at(home));
    let report = check(&files, &mut |finding| {
        if finding.problem == Problem::Unknown && problems.is_empty() {
            meanwhile(home);
        }
        problems.push(finding.problem);
    });
    report.map(|report| (report, problems)).map_err(|error| error.to_string())
}

fn append(path: &Path, text: &str) {
    std::io::Write::write_all(&mut fs::OpenOptions::new().append(true).open(path).unwrap(), text.as_bytes())
        .unwrap();
}

/// A home whose ledger ends in a line of an unknown kind.
fn home_that_is_told_of() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let lines: String = (0..5).map(|number| turn("a", number, "t1") + "\n").collect();
    fs::write(home.path().join("ledger.jsonl"), format!("{lines}{{\"v\":2}}\n")).unwrap();
    assert!(burn(home.path(), &["state", "rebuild", "index"]).status.success());
    home
}

#[test]
fn what_happens_to_the_files_during_a_check_is_no_fault_of_theirs() {
    use relayburn_ledger::ledger::Problem;
    // Lines and ids that are appended meanwhile, by a writer with locks, and by a writer who writes them slowly.
    let more = turn("b", 9, "t1") + "\n";
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("ledger.jsonl"), &more).unwrap();
    assert!(burn(other.path(), &["state", "rebuild", "index"]).status.success());
    let id = fs::read_to_string(other.path().join("ledger.idx")).unwrap();

    let home = home_that_is_told_of();
    let (report, problems) = check_while(home.path(), |home| {
        append(&home.join("ledger.jsonl"), &more);
        append(&home.join("ledger.idx"), &id);
    })
    .unwrap();
    assert_eq!((report.ok, report.lines, problems.len()), (true, 7, 1));
    assert_eq!(report.bytes, fs::metadata(home.path().join("ledger.jsonl")).unwrap().len());

    // The ledger ends with half a line when the check begins. Its writer, who holds the lock, ends the line, and writes
    // the id after the locks are released.
    let home = home_that_is_told_of();
    let (front, back) = more.split_at(40);
    append(&home.path().join("ledger.jsonl"), front);
    let (report, problems) = std::thread::scope(|scope| {
        check_while(home.path(), |home| {
            let (has_lock, wait_for_lock) = std::sync::mpsc::channel();
            let (id, home) = (&id, home.to_owned());
            scope.spawn(move || {
                use relayburn_ledger::{home::Home, home::LockName, lock};
                lock::with_lock(&Home::at(&home).lock(LockName::Ledger), |_| {
                    has_lock.send(()).unwrap();
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    append(&home.join("ledger.jsonl"), back);
                    Ok::<_, lock::LockError>(())
                })
                .unwrap();
                std::thread::sleep(std::time::Duration::from_millis(120));
                append(&home.join("ledger.idx"), id);
            });
            wait_for_lock.recv().unwrap();
        })
    })
    .unwrap();
    assert_eq!((report.ok, report.lines, problems.len()), (true, 7, 1), "{problems:?}");

    // Another file in the place of the ledger, or no file.
    for is_deleted in [false, true] {
        let home = home_that_is_told_of();
        let (report, problems) = check_while(home.path(), |home| {
            fs::rename(home.join("ledger.jsonl"), home.join("old")).unwrap();
            if !is_deleted {
                fs::copy(home.join("old"), home.join("ledger.jsonl")).unwrap();
            }
        })
        .unwrap();
        assert_eq!((report.ok, &report.index), (false, &None));
        assert_eq!(problems, [Problem::Unknown, Problem::Replaced]);
    }

    // The same file, cut.
    let home = home_that_is_told_of();
    let said = check_while(home.path(), |home| {
        fs::OpenOptions::new().write(true).open(home.join("ledger.jsonl")).unwrap().set_len(10).unwrap();
    });
    assert!(said.as_ref().is_err_and(|said| said.contains("was truncated while it was read")), "{said:?}");
}

#[test]
fn a_file_anywhere_is_checked_with_the_index_beside_it_if_there_is_one() {
    let home = tempfile::tempdir().unwrap();
    let copy = home.path().join("copy.jsonl");
    fs::write(&copy, turn("a", 1, "t1") + "\n").unwrap();
    let (code, report) = check(home.path(), &[copy.to_str().unwrap()]);
    assert_eq!((code, &report["index"]), (0, &Value::Null));
    fs::write(home.path().join("copy.idx"), "").unwrap();
    let (code, report) = check(home.path(), &[copy.to_str().unwrap()]);
    assert_eq!((code, &report["index"]["missingIds"]), (1, &Value::from(1)));

    let missing = burn(home.path(), &["ledger", "check", "nowhere.jsonl"]);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(said.contains("nowhere.jsonl") && said.contains("name a file that exists"), "{said}");
    let missing = burn(home.path(), &["ledger", "check", "nowhere.jsonl", "--json"]);
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(1), 0));
    // A home without any append has no fault.
    assert_eq!(check(&home.path().join("none"), &[]).0, 0);
}

/// A line has the same id through the fast path, through the exact path, and if it is rejected.
#[test]
fn the_checks_ids_are_those_of_the_index_for_odd_lines_too() {
    let cases = crate::common::golden().and_then(|golden| fs::read_dir(golden.join("archive")).ok());
    let cases = cases.into_iter().flatten().map(|case| case.unwrap().path().join("ledger.jsonl"));
    let mut ledgers: Vec<std::path::PathBuf> = cases.collect();
    let home = tempfile::tempdir().unwrap();
    let odd = home.path().join("odd.jsonl");
    let generate =
        ["dev", "generate-ledger", odd.to_str().unwrap(), "--size", "3MB", "--profile", "adversarial"];
    assert!(burn(home.path(), &generate).status.success());
    ledgers.push(odd);
    for ledger in ledgers.iter().filter(|ledger| ledger.exists()) {
        let home = tempfile::tempdir().unwrap();
        fs::copy(ledger, home.path().join("ledger.jsonl")).unwrap();
        assert!(burn(home.path(), &["state", "rebuild", "index"]).status.success());
        let (_, report) = check(home.path(), &[]);
        let index = &report["index"];
        assert_eq!(
            (&index["missingIds"], &index["extraIds"]),
            (&0.into(), &0.into()),
            "{}",
            ledger.display()
        );
    }
    println!("{} ledgers", ledgers.len());
}
