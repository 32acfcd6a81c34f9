//! Symbolic links in the place of files that a command writes or measures, and values that look like words of a table.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::common::everything::Everything;

fn document(made: &Everything, words: &[&str]) -> Value {
    let output = made.run(words, "");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_report_is_written_through_links() {
    let made = Everything::new();
    fs::create_dir_all(made.path("pages/deep")).unwrap();
    fs::write(made.path("pages/there.html"), "<!doctype html><!-- burn report 1 -->old").unwrap();
    symlink("pages/there.html", made.path("there")).unwrap();
    symlink("../new.html", made.path("pages/deep/next")).unwrap();
    symlink(made.path("pages/deep/next"), made.path("new")).unwrap();
    for (link, page) in [("there", "pages/there.html"), ("new", "pages/new.html")] {
        let output = made.run(&["report", "--since", "2020", "--out", link], "");
        assert!(output.status.success(), "{link}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::symlink_metadata(made.path(link)).unwrap().is_symlink(), "{link}");
        let written = fs::symlink_metadata(made.path(page)).unwrap();
        assert!(written.is_file(), "{page}");
        let text = fs::read_to_string(made.path(page)).unwrap();
        assert!(text.starts_with("<!doctype html>") && text.ends_with("</html>\n"), "{page}: {text}");
    }
    // A file of somebody else is refused through a link, too.
    fs::write(made.path("pages/mine.html"), "mine").unwrap();
    symlink("pages/mine.html", made.path("mine")).unwrap();
    assert_eq!(made.run(&["report", "--since", "2020", "--out", "mine"], "").status.code(), Some(1));
    assert_eq!(fs::read_to_string(made.path("pages/mine.html")).unwrap(), "mine");
    symlink("round", made.path("round")).unwrap();
    assert_eq!(made.run(&["report", "--since", "2020", "--out", "round"], "").status.code(), Some(1));
    let names = fs::read_dir(made.path("pages")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains(".tmp")));
}

#[test]
fn vacuuming_reports_the_length_of_the_archive_and_not_of_its_link() {
    let made = Everything::new();
    fs::create_dir(made.path("disk")).unwrap();
    fs::rename(made.path("home/archive.sqlite"), made.path("disk/archive.sqlite")).unwrap();
    symlink("../disk/archive.sqlite", made.path("home/archive.sqlite")).unwrap();
    let vacuumed = document(&made, &["state", "vacuum", "--json"]);
    let len_bytes = fs::metadata(made.path("disk/archive.sqlite")).unwrap().len();
    assert!(len_bytes > 4096 && vacuumed["beforeBytes"].as_u64() >= Some(len_bytes), "{vacuumed}");
    assert_eq!(vacuumed["afterBytes"], json!(len_bytes));
    assert!(fs::symlink_metadata(made.path("home/archive.sqlite")).unwrap().is_symlink());
}

#[test]
fn values_cannot_be_taken_for_words_of_the_table() {
    let made = Everything { directory: tempfile::tempdir().unwrap() };
    let mut lines = String::new();
    for (number, (source, session, project)) in [
        ("a/b", "c", json!("(none)")),
        ("a", "b/c", Value::Null),
        ("100%", "*", json!("")),
        ("x", "(none)", json!("total")),
    ]
    .into_iter()
    .enumerate()
    {
        let mut turn = json!({
            "source": source, "sessionId": session, "messageId": format!("m{number}"), "turnIndex": 0,
            "ts": "2026-04-20T00:00:00.000Z", "model": "m", "toolCalls": [],
            "usage": {"input": number + 1, "output": 0, "reasoning": 0, "cacheRead": 0, "cacheCreate5m": 0, "cacheCreate1h": 0},
        });
        if !project.is_null() {
            turn["project"] = project;
        }
        lines.push_str(&format!("{turn}\n"));
    }
    let appended = made.run(&["ledger", "append", "--kind", "turns", "--lenient"], &lines);
    assert!(appended.status.success(), "{}", String::from_utf8_lossy(&appended.stderr));
    let usage = document(&made, &["usage", "session", "--json"]);
    let mut keys: Vec<&str> =
        usage["rows"].as_array().unwrap().iter().map(|row| row["period"]["key"].as_str().unwrap()).collect();
    keys.sort();
    assert_eq!(keys, ["100%25/*", "a%2Fb/c", "a/b/c", "x/(none)"]);
    let names = |by: &str| {
        let output = made.run(&["usage", "--by", by], "");
        let text = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<String> = text
            .lines()
            .skip(2)
            .filter(|line| !line.starts_with("no price") && !line.starts_with("total"))
            .map(|line| line.split_whitespace().next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("session"), ["\"(none)\"", "*", "b/c", "c"]);
    assert_eq!(names("project"), ["\"\"", "\"(none)\"", "\"total\"", "(none)"]);
}
