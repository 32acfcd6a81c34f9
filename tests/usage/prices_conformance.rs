//! Compares `burn dev price` with the charges of genai-prices itself, to the last digit.
//!
//! Cases are the lines of `fixtures/prices.jsonl`, and of `prices.jsonl` in the folder `BURN_GOLDEN`.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::{burn_of, run};
use crate::common::{self, everything};

/// Charges every case of a file. Returns the number of cases.
fn check(file: &Path) -> usize {
    let cases = fs::read(file).unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let mut burn = burn_of(nowhere.path());
    burn.args(["dev", "price"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let text = String::from_utf8(cases).unwrap();
    let output = everything::finish(burn.spawn().unwrap(), &text);
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answers.lines().count(), text.lines().count());
    for (case, answer) in text.lines().zip(answers.lines()) {
        let expected: Value = serde_json::from_str(case).unwrap();
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!(answer, expected["expect"], "{}: {case}", file.display());
    }
    text.lines().count()
}

#[test]
fn every_case_is_charged_as_the_package_charges_it() {
    let mut count = check(&common::fixture("prices.jsonl"));
    assert!(count >= 500);
    if let Some(golden) = common::golden() {
        count += check(&golden.join("prices.jsonl"));
    }
    println!("{count} cases of prices");
}

#[test]
fn prices_of_ones_own_come_first_and_damaged_ones_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let burn = |model: &str| run(burn_of(home.path()).args(["prices", model]));
    assert_eq!(burn("my-gateway").0, Some(1));
    let (code, before, _) = burn("claude-opus-4-7");
    assert_eq!(code, Some(0));
    let own = r#"{"format":1,"providers":[{"id":"me","match":{"starts":"my-"},
        "models":[{"id":"gateway","match":{"is":"my-gateway"},"prices":[{"input":"0.125","output":["1",[1000,"2"]]}]}]}]}"#;
    fs::write(home.path().join("prices.json"), own).unwrap();
    let (code, text, _) = burn("my-gateway");
    assert_eq!(code, Some(0));
    assert!(text.contains("0.125") && text.contains("above 1,000 tokens of input: output 2"), "{text}");
    let named = format!("prices of {} and genai-prices", home.path().join("prices.json").display());
    assert!(text.contains(&named) && !before.contains(" and genai-prices"), "{text}");
    let (_, after, _) = burn("claude-opus-4-7");
    assert_eq!(before.lines().nth(2), after.lines().nth(2));
    fs::write(home.path().join("prices.json"), &own[..own.len() - 3]).unwrap();
    let (code, text, error) = burn("claude-opus-4-7");
    assert_eq!((code, &*text), (Some(1), ""));
    assert!(error.contains("prices.json is no price table: ") && error.contains("line 2"), "{error}");
    // A name may have any length.
    fs::remove_file(home.path().join("prices.json")).unwrap();
    assert_eq!(burn(&"m[".repeat(5_000)).0, Some(1));
}
