//! Compares charges with those of genai-prices itself, to the last digit.
//!
//! Cases are the lines of `fixtures/prices.jsonl`, and of `prices.jsonl` in the folder `BURN_GOLDEN`.

use crate::common;
use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::process::Command;

use relayburn_ledger::usage::prices::{Class, PricedModel, Rates, RequestContext, Size, TokenCounts};
use relayburn_ledger::usage::turn::{PricingKeys, RecordedUsage};
use relayburn_ledger::usage::{Instant, PriceTable, Prices};
use serde_json::{Value, json};

/// Charges every case of a file. Returns the number of cases.
fn check(file: &Path) -> usize {
    let text = fs::read_to_string(file).unwrap();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        assert_eq!(charge(&case), case["expect"], "{}: {line}", file.display());
    }
    text.lines().count()
}

/// The charge of a case: of a request, or of a turn as the ledger has it.
fn charge(case: &Value) -> Value {
    let case_of = case.get("turn").unwrap_or(case);
    let at = Instant::of_turn(case_of["ts"].as_str().unwrap()).unwrap();
    let name = case_of["model"].as_str().unwrap();
    let count = |key: &str| match &case_of["usage"][key] {
        Value::Null => 0,
        count => count.as_u64().unwrap(),
    };
    if case.get("turn").is_some() {
        let source = case_of["source"].as_str().unwrap();
        let keys = PricingKeys::read(|key| case_of["enrichment"][key].as_str().map(Cow::Borrowed));
        let usage = RecordedUsage {
            input: count("input"),
            output: count("output"),
            reasoning: count("reasoning"),
            cache_read: count("cacheRead"),
            cache_create_5m: count("cacheCreate5m"),
            cache_create_1h: count("cacheCreate1h"),
        };
        let prices = Prices::built_in();
        let Some(model) = prices.of_turn(keys.provider.as_deref(), name) else {
            return json!({"unknown": "model"});
        };
        let counts = usage.counts(source);
        let rates = model.rates(at, &keys.context, keys.size(source), &counts);
        return charged(&model, &rates, &counts, keys.web_searches);
    }
    let context: RequestContext = case
        .get("context")
        .map_or_else(RequestContext::new, |context| serde_json::from_value(context.clone()).unwrap());
    let counts = TokenCounts {
        input: count("input"),
        cache_read: count("cacheRead"),
        cache_write_5m: count("cacheWrite5m"),
        cache_write_1h: count("cacheWrite1h"),
        output: count("output"),
        reasoning: count("reasoning"),
    };
    match PriceTable::built_in().find(case["provider"].as_str(), name) {
        Err(unknown) => json!({"unknown": unknown.as_str()}),
        Ok(model) => {
            let rates = model.rates(at, &context, Size::AllInput, &counts);
            charged(&model, &rates, &counts, count("webSearches"))
        }
    }
}

fn charged(model: &PricedModel<'_>, rates: &Rates, counts: &TokenCounts, web_searches: u64) -> Value {
    let usd = rates.charge(counts, web_searches, 1).unwrap().usd;
    let mut answer = json!({"provider": model.provider(), "model": model.model(), "usd": usd.to_string()});
    let unpriced = rates.unpriced(counts);
    if !unpriced.is_empty() {
        answer["unpriced"] = unpriced.into_iter().map(Class::as_str).collect();
    }
    if rates.is_tier_unknown {
        answer["tierUnknown"] = Value::Bool(true);
    }
    answer
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
    let burn = |model: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_burn"));
        command.env("HOME", home.path()).env("RELAYBURN_HOME", home.path());
        let output = command.args(["prices", model]).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    assert_eq!(burn("my-gateway").0, Some(1));
    let (code, before, _) = burn("claude-opus-4-7");
    assert_eq!(code, Some(0));
    let own = r#"{"format":1,"providers":[{"id":"me","match":{"starts":"my-"},
        "models":[{"id":"gateway","match":{"is":"my-gateway"},"prices":[{"input":"0.125","output":["1",[1000,"2"]]}]}]}]}"#;
    fs::write(home.path().join("prices.json"), own).unwrap();
    let (code, text, _) = burn("my-gateway");
    assert_eq!(code, Some(0));
    assert!(text.contains("0.125") && text.contains("above 1,000 tokens of input: output 2"), "{text}");
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
