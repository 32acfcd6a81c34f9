//! `burn` without a command.
#![cfg(unix)]

use std::fs;
use std::process::Output;

use crate::common::everything::{Everything, finish, is_civil};

fn burn(made: &Everything) -> (Option<i32>, String, String) {
    let mut burn = made.burn(&[] as &[&str]);
    burn.env("BURN_NOW", "2026-04-21T12:00:00Z").env("TZ", "UTC");
    let output: Output = finish(burn.spawn().unwrap(), "");
    is_civil("burn", &output);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.code(), stdout, stderr)
}

#[test]
fn it_prints_the_last_seven_days_and_what_else_there_is() {
    let made = Everything::new();
    let (code, shown, said) = burn(&made);
    assert_eq!((code, &*said), (Some(0), ""));
    let mut usage = made.burn(&["usage", "day", "--since", "7d"]);
    usage.env("BURN_NOW", "2026-04-21T12:00:00Z").env("TZ", "UTC");
    let usage = String::from_utf8(finish(usage.spawn().unwrap(), "").stdout).unwrap();
    assert!(usage.contains("2026-04-15 to 2026-04-21"), "{usage}");
    let rest = shown.strip_prefix(&usage).unwrap_or_else(|| panic!("{shown} does not begin with {usage}"));
    let rest: Vec<&str> = rest.lines().filter(|line| !line.is_empty()).collect();
    assert!(
        rest.len() == 2 && rest[0].contains("`burn ingest`") && rest[1].contains("`burn help`"),
        "{rest:?}"
    );
}

#[test]
fn it_says_so_before_it_builds_an_archive() {
    let made = Everything::new();
    fs::remove_file(made.path("home/archive.sqlite")).unwrap();
    let (code, shown, said) = burn(&made);
    assert!(code == Some(0) && shown.contains("total"), "{shown}{said}");
    assert!(said.contains("archive.sqlite is missing: ") && said.lines().count() == 1, "{said}");
    let more = made.run(
        &["ledger", "append", "--kind", "compactions"],
        "{\"source\":\"x\",\"sessionId\":\"s1\",\"ts\":\"2026-04-20T00:00:09.000Z\"}\n",
    );
    assert!(more.status.success());
    let (code, _, said) = burn(&made);
    assert!(code == Some(0) && said.contains("archive.sqlite is out of date: "), "{said}");
    assert_eq!(burn(&made).2, "");
}

#[test]
fn without_a_ledger_it_says_how_to_begin() {
    let made = Everything { directory: tempfile::tempdir().unwrap() };
    let (code, shown, said) = burn(&made);
    assert_eq!((code, &*said), (Some(0), ""));
    assert!(shown.contains("There is no ledger in ") && shown.contains("`burn ingest` makes one"), "{shown}");
    assert!(!made.path("home").exists());
}
