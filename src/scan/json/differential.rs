//! Compares this module with JavaScript: thousands of odd lines in one Node process, and files that the reference wrote.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::properties::odd_line;
use super::tests::rewritten;
use super::*;

const LINES: usize = 5000;

/// Reads `<line in hex> <our text in hex>`. For each pair, prints what JavaScript makes of the line (a leading `+`, then truth,
/// trimmed text and its JSON, or `-`), and the JSON of our text read back.
const SCRIPT: &str = r#"
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const hex = (text) => Buffer.from(text, 'utf8').toString('hex');
const answers = [];
for (const pair of require('fs').readFileSync(0, 'latin1').split('\n').slice(0, -1)) {
  const [line, ours] = pair.split(' ').map((text) => Buffer.from(text, 'hex'));
  const trimmed = decoder.decode(line).trim();
  let answer;
  try {
    const value = JSON.parse(trimmed);
    answer = '+ ' + Boolean(value) + ' ' + hex(trimmed) + ' ' + hex(JSON.stringify(value));
  } catch (error) {
    answer = '- false ' + hex(trimmed) + ' ';
  }
  const again = ours.length ? hex(JSON.stringify(JSON.parse(decoder.decode(ours)))) : '';
  answers.push(answer + ' ' + again);
}
process.stdout.write(answers.join('\n'));
"#;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether JavaScript would round an integer literal somewhere in this value.
fn holds_wide_integer(value: Value<'_>) -> bool {
    let is_wide = |number: JsonNumber<'_>| number.is_integer_literal() && number.literal().len() > 15;
    value.as_number().is_some_and(is_wide)
        || value.items().any(holds_wide_integer)
        || value.members().any(|(_, value)| holds_wide_integer(value))
}

#[test]
fn node_accepts_the_same_lines_and_prints_the_same_text() {
    let node = Command::new("node").args(["-e", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut node) = node else {
        eprintln!("node is not installed: nothing compared");
        return;
    };
    let mut runner = TestRunner::deterministic();
    let strategy = odd_line();
    let lines: Vec<Vec<u8>> = (0..LINES).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect();
    let ours: Vec<Result<String, JsonError>> = lines.iter().map(|line| rewritten(line)).collect();
    let mut question = String::new();
    for (line, ours) in lines.iter().zip(&ours) {
        question += &format!("{} {}\n", hex(line), hex(ours.as_deref().unwrap_or("").as_bytes()));
    }
    node.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
    let mut answers = String::new();
    node.stdout.take().unwrap().read_to_string(&mut answers).unwrap();
    assert!(node.wait().unwrap().success());

    let (mut accepted, mut exact) = (0, 0);
    let mut document = Document::default();
    for ((line, ours), answer) in lines.iter().zip(&ours).zip(answers.lines()) {
        let told = String::from_utf8_lossy(line);
        let [verdict, truth, trimmed, text, again] = answer.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{answer}")
        };
        assert_eq!(hex(String::from_utf8_lossy(trim_js(line)).as_bytes()), trimmed, "{told}");
        assert_eq!(verdict == "+", ours.is_ok(), "{told}: {ours:?}");
        let Ok(ours) = ours else { continue };
        accepted += 1;
        let value = document.parse(trim_js(line)).unwrap();
        assert_eq!(value.is_truthy(), truth == "true", "{told}");
        assert_eq!(again, text, "{told}: {ours}");
        if !holds_wide_integer(value) {
            exact += 1;
            assert_eq!(hex(ours.as_bytes()), text, "{told}: {ours}");
        }
    }
    assert_eq!(answers.lines().count(), LINES);
    assert!(accepted > LINES / 3 && accepted < LINES * 9 / 10 && exact > accepted / 2, "{accepted}, {exact}");
}

/// The cases of `fixtures/lines.jsonl`, each with its ledger.
pub(crate) fn odd_lines() -> Vec<(serde_json::Value, Vec<u8>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lines.jsonl");
    let cases = std::fs::read_to_string(file).unwrap();
    let read = |case: &str| {
        // One row has a bare Infinity. Infinity is not JSON and is not compared here.
        let case: serde_json::Value = serde_json::from_str(&case.replace(": Infinity", ": null")).unwrap();
        let ledger = base64(case["ledger_b64"].as_str().unwrap());
        (case, ledger)
    };
    cases.lines().map(read).collect()
}

#[test]
fn the_lines_that_the_reference_calls_malformed_and_no_others_are_refused() {
    let mut stamps = 0;
    for (case, ledger) in odd_lines() {
        let mut refused = 0;
        for line in ledger.split(|byte| *byte == b'\n').map(trim_js).filter(|line| !line.is_empty()) {
            let mut document = Document::default();
            let Ok(value) = document.parse(line) else {
                refused += 1;
                continue;
            };
            let rows = case["rows"].as_array().into_iter().flatten();
            for row in rows.filter(|row| row["table"] == "stamps").map(|row| &row["row"]) {
                let Some(selector) = value.get("selector") else { continue };
                stamps += 1;
                assert_eq!(row["selector_json"], selector.to_string(), "{}", case["name"]);
                assert_eq!(
                    row["enrichment_json"],
                    value.get("enrichment").unwrap().to_string(),
                    "{}",
                    case["name"]
                );
            }
        }
        assert_eq!(refused, usize::from(case["verdict"] == "malformed"), "{}", case["name"]);
    }
    assert!(stamps > 10);
}

#[test]
fn ledger_lines_that_the_reference_wrote_are_written_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = std::env::var_os("BURN_GOLDEN").map_or_else(|| root.join("../shared/golden"), Into::into);
    for case in ["replay", "fingerprints", "stamps-with-parents"] {
        let Ok(ledger) = std::fs::read_to_string(golden.join(format!("append/{case}/home/ledger.jsonl")))
        else {
            eprintln!("no {case} in {}: nothing compared", golden.display());
            return;
        };
        assert!(!ledger.is_empty());
        for line in ledger.lines() {
            assert_eq!(rewritten(line.as_bytes()).as_deref(), Ok(line), "{case}");
        }
    }
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut width) = (Vec::new(), 0u32, 0);
    for digit in text.bytes().filter(|byte| *byte != b'=') {
        bits = bits << 6 | DIGITS.iter().position(|known| *known == digit).unwrap() as u32;
        width += 6;
        if width >= 8 {
            width -= 8;
            bytes.push((bits >> width) as u8);
        }
    }
    bytes
}
