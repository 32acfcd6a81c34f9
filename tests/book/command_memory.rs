//! The memory of `burn book` does not depend on the length of its input or of its output.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::common::processes::peak_anonymous;

/// Runs `burn book`. Also returns its peak of anonymous memory in KiB.
fn burn(args: &[&str], input: impl FnOnce(&mut dyn std::io::Write) + Send) -> (u64, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
    command.arg("book").args(args);
    peak_anonymous(command, input)
}

fn append(segment: &mut Vec<u8>, event: &str) {
    segment.extend_from_slice(&(event.len() as u32).to_le_bytes());
    segment.extend_from_slice(&crc32fast::hash(event.as_bytes()).to_le_bytes());
    segment.extend_from_slice(event.as_bytes());
}

const AT: &str = "2026-01-01T00:00:00Z";

/// A store with `accounts` accounts and `sales` postings to the first account, written as the format says.
fn made(directory: &Path, accounts: usize, sales: usize) -> String {
    fs::create_dir_all(directory.join("books/_system")).unwrap();
    fs::create_dir_all(directory.join("books/shop")).unwrap();
    fs::write(directory.join("LOCK"), b"").unwrap();
    let mut system = Vec::new();
    append(
        &mut system,
        &format!(
            r#"{{"seq":1,"at":"{AT}","event":{{"kind":"asset_registered","id":"USD","class":"fiat","precision":2,"name":"USD"}}}}"#
        ),
    );
    fs::write(directory.join("books/_system/segment-00000000000000000001.log"), system).unwrap();
    let mut shop = Vec::new();
    for number in 1..=accounts {
        append(
            &mut shop,
            &format!(
                r#"{{"seq":{number},"at":"{AT}","event":{{"kind":"account_opened","def":{{"id":{{"book":"shop","path":"a{number}"}},"asset":"USD","kind":"asset"}},"cfg":{{"normal_side":"debit","min_balance":null}}}}}}"#
            ),
        );
    }
    for number in 0..sales {
        let seq = accounts + number + 1;
        append(
            &mut shop,
            &format!(
                r#"{{"seq":{seq},"at":"{AT}","event":{{"kind":"transaction_posted","id":"00000000-0000-0000-0000-{number:012}","book":"shop","postings":[{{"account":{{"book":"shop","path":"a1"}},"amount":{{"minor":1,"asset":"USD"}},"direction":"debit"}}],"idempotency_key":"k{number}","external_refs":[],"metadata":{{}},"occurred_at":"{AT}"}}}}"#
            ),
        );
    }
    fs::write(directory.join("books/shop/segment-00000000000000000001.log"), shop).unwrap();
    directory.to_str().unwrap().to_owned()
}

fn line(key: &str, metadata: &str) -> String {
    format!(
        "{{\"idempotency_key\":\"{key}\",\"postings\":[{{\"account\":\"shop:a1\",\"amount\":{{\"minor\":1,\"asset\":\"USD\"}},\
         \"direction\":\"debit\"}}],\"metadata\":{metadata}}}\n"
    )
}

#[test]
fn long_lines_are_posted_in_the_memory_of_a_few() {
    let directory = tempfile::tempdir().unwrap();
    let dir = made(directory.path(), 1, 0);
    let text = format!("\"{}\"", "x".repeat(1 << 20));
    let (peak_kib, output) = burn(&["post", &dir], |stdin| {
        for number in 0..200 {
            stdin.write_all(line(&format!("k{number}"), &text).as_bytes()).unwrap();
        }
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 200);
    println!("200 lines of 1 MiB: {peak_kib} KiB");
    assert!(peak_kib < 150 << 10, "{peak_kib} KiB");
    // The postings are listed page by page.
    let (peak_kib, output) = burn(&["events", &dir, "shop"], |_| ());
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 201);
    println!("events: {peak_kib} KiB");
    assert!(peak_kib < 100 << 10, "{peak_kib} KiB");
}

#[test]
fn a_line_that_would_take_too_much_memory_is_refused_by_its_number_and_the_others_go_through() {
    let directory = tempfile::tempdir().unwrap();
    let dir = made(directory.path(), 1, 0);
    let (peak_kib, output) = burn(&["post", &dir], |stdin| {
        stdin.write_all(line("first", "null").as_bytes()).unwrap();
        let objects = format!("[{}0]", "{\"\":0},".repeat(400_000));
        stdin.write_all(line("objects", &objects).as_bytes()).unwrap();
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..140 {
            stdin.write_all(&piece).unwrap();
        }
        stdin.write_all(format!("\n{}", line("last", "{\"a\":[1]}")).as_bytes()).unwrap();
    });
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 2, "{complaint}");
    assert!(complaint.contains("line 2 (byte ") && complaint.contains("bytes of memory"), "{complaint}");
    assert!(
        complaint.contains("line 3 (byte ") && complaint.contains("134217728 are allowed"),
        "{complaint}"
    );
    println!("refused lines: {peak_kib} KiB");
    assert!(peak_kib < 400 << 10, "{peak_kib} KiB");
}

#[test]
fn printing_many_accounts_or_postings_takes_the_memory_of_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let dir = made(directory.path(), 60_000, 60_000);
    let (opened_kib, output) = burn(&["trial-balance", &dir], |_| ());
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 2);
    for args in [
        &["balance", &dir][..],
        &["balance", &dir, "--json"],
        &["account", &dir],
        &["history", &dir, "shop:a1"],
        &["history", &dir, "shop:a1", "--json"],
    ] {
        let (peak_kib, output) = burn(args, |_| ());
        println!("{args:?}: {peak_kib} KiB, opening {opened_kib} KiB");
        match args.last() {
            Some(&"--json") => {
                let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(document.as_array().unwrap().len(), 60_000);
                assert_eq!(serde_json::to_vec_pretty(&document).unwrap(), output.stdout.trim_ascii_end());
            }
            _ => {
                let text = String::from_utf8(output.stdout).unwrap();
                assert_eq!(text.lines().count(), 60_001);
                // All pages have the columns of the first page.
                let column = |line: &str| line.find("USD");
                let rows = || text.lines().skip(1);
                assert!(
                    rows()
                        .all(|line| column(line).is_some() && column(line) == rows().next().and_then(column))
                );
            }
        }
        assert!(peak_kib < opened_kib + (16 << 10), "{args:?}: {peak_kib} KiB, opening {opened_kib} KiB");
    }
}

#[test]
fn findings_without_end_are_counted_and_only_some_of_them_kept() {
    const EVENTS: i64 = 120_000;
    let directory = tempfile::tempdir().unwrap();
    let dir = made(directory.path(), 1, 0);
    let (sound_kib, output) = burn(&["check", &dir], |_| ());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Each event is older than the event before it.
    let mut shop = Vec::new();
    let base: jiff::Timestamp = AT.parse().unwrap();
    for seq in 1..=EVENTS {
        let at = base - jiff::SignedDuration::from_secs(seq);
        append(
            &mut shop,
            &format!(
                r#"{{"seq":{seq},"at":"{at}","event":{{"kind":"account_opened","def":{{"id":{{"book":"shop","path":"a{seq}"}},"asset":"USD","kind":"asset"}},"cfg":{{"normal_side":"debit","min_balance":null}}}}}}"#
            ),
        );
    }
    fs::write(directory.path().join("books/shop/segment-00000000000000000001.log"), shop).unwrap();
    let (opened_kib, _) = burn(&["balance", &dir, "shop:a1"], |_| ());
    let (peak_kib, output) = burn(&["check", &dir], |_| ());
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("119,999 findings"), "{complaint}");
    let text = String::from_utf8(output.stdout).unwrap();
    let listed = text.lines().filter(|line| line.contains("segment-") && line.contains(" at byte ")).count();
    let left_out = text.lines().find(|line| line.contains("left out")).unwrap();
    println!("{peak_kib} KiB, opening {opened_kib} KiB, sound {sound_kib} KiB, {listed} listed, {left_out}");
    assert!(listed > 1000 && listed < 119_999, "{listed}");
    assert!(peak_kib < opened_kib + (64 << 10), "{peak_kib} KiB, opening {opened_kib} KiB");
    let (_, output) = burn(&["check", &dir, "--json"], |_| ());
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = document["findings"].as_array().unwrap().len() as u64;
    assert_eq!(kept + document["findingsLeftOut"].as_u64().unwrap(), 119_999);
    assert_eq!(kept as usize, listed);
}
