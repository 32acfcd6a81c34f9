//! `burn report`: with any ledger the page is well-formed and harmless, its numbers are those of `burn usage`, and it
//! replaces no other file.
#![cfg(all(feature = "cli", unix))]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod statusline;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

const NOW: &str = "2026-11-29T17:20:00Z";

fn burn_at(now: &str, home: &Path, args: &[&str]) -> Output {
    command(home, now).args(args).current_dir(home).env_remove("TZ").output().unwrap()
}

/// `burn` with a home that is also the user's.
fn command(home: &Path, now: &str) -> Command {
    let mut command = common::processes::burn(home);
    command.env("HOME", home).env("BURN_NOW", now).env("LC_ALL", "C.UTF-8");
    command
}

#[track_caller]
fn succeeded(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn burn(home: &Path, args: &[&str]) -> String {
    succeeded(burn_at(NOW, home, args))
}

#[track_caller]
fn page(home: &Path, args: &[&str]) -> String {
    burn(home, &[&["report", "--out", "-", "--tz", "UTC"], args].concat())
}

fn home_with(lines: &[Value]) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(home.path().join("ledger.jsonl"), text).unwrap();
    home
}

/// A turn of ordinary size; `more` replaces and adds members of its record.
fn turn(message: &str, ts: &str, more: Value) -> Value {
    let mut record = json!({
        "source": "claude-code", "sessionId": "s-1", "messageId": message, "turnIndex": 0, "ts": ts, "model": "claude-opus-4-7",
        "usage": {"input": 1000, "output": 200, "reasoning": 0, "cacheRead": 5000, "cacheCreate5m": 300, "cacheCreate1h": 0},
        "toolCalls": [{"id": "t", "name": "Bash", "argsHash": "x"}]
    });
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"v": 1, "kind": "turn", "record": record})
}

fn stamp(selector: Value, enrichment: Value) -> Value {
    json!({"v": 1, "kind": "stamp", "ts": "2026-11-29T00:00:00Z", "selector": selector, "enrichment": enrichment})
}

/// An element of a page.
#[derive(Debug)]
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    /// Its text, without the text of inner elements.
    text: String,
}

impl Element {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }
}

/// Every element of a page. Panics unless the HTML is strict: elements are closed in order, attributes are quoted and
/// unique, texts have neither `<` nor an unknown entity.
#[track_caller]
fn elements(html: &str) -> Vec<Element> {
    let mut rest = html.strip_prefix("<!doctype html><!-- burn report 1 -->\n").unwrap();
    let mut elements: Vec<Element> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    loop {
        let end = rest.find('<').unwrap_or(rest.len());
        match open.last() {
            Some(&last) => elements[last].text.push_str(&decoded(&rest[..end])),
            None => assert_eq!(rest[..end].trim(), ""),
        }
        rest = &rest[end..];
        if rest.is_empty() {
            break;
        }
        let tag_end = rest.find('>').unwrap();
        let tag = &rest[1..tag_end];
        rest = &rest[tag_end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(elements[open.pop().unwrap()].name, name);
            continue;
        }
        let (name, attributes) = attributes(tag);
        let is_void = name == "meta";
        elements.push(Element { name: name.to_owned(), attributes, text: String::new() });
        if name == "script" || name == "style" {
            let end = rest.find(&format!("</{name}>")).unwrap();
            elements.last_mut().unwrap().text = rest[..end].to_owned();
            rest = &rest[end + name.len() + 3..];
        } else if !is_void {
            open.push(elements.len() - 1);
        }
    }
    assert!(open.is_empty());
    elements
}

fn attributes(tag: &str) -> (&str, Vec<(String, String)>) {
    let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{tag}");
    let mut attributes: Vec<(String, String)> = Vec::new();
    while !rest.is_empty() {
        let (key, behind) = rest.split_once("=\"").unwrap_or_else(|| panic!("{tag}"));
        let (value, behind) = behind.split_once('"').unwrap_or_else(|| panic!("{tag}"));
        assert!(key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{tag}");
        assert!(attributes.iter().all(|(known, _)| known != key), "{tag}");
        attributes.push((key.to_owned(), decoded(value)));
        rest = behind.strip_prefix(' ').unwrap_or(behind);
    }
    (name, attributes)
}

fn decoded(text: &str) -> String {
    for entity in text.split('&').skip(1) {
        assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|known| entity.starts_with(known)), "{text}");
    }
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// The elements of a page. Panics unless the page follows all rules: no element that loads or runs anything, unique
/// ids, references with a target, no forbidden character.
#[track_caller]
fn checked(html: &str) -> Vec<Element> {
    let elements = elements(html);
    const KNOWN: &str = "html head meta title style body header main footer h1 h2 h3 p section div span b strong i bdi code ul li svg \
                         desc line text rect path details summary table caption thead tbody tfoot tr th td script";
    let known: BTreeSet<&str> = KNOWN.split_whitespace().collect();
    let mut ids = BTreeSet::new();
    for element in &elements {
        assert!(known.contains(&*element.name), "{element:?}");
        for (key, value) in &element.attributes {
            assert!(!key.starts_with("on") && !["src", "href", "action"].contains(&&**key), "{element:?}");
            assert!(key != "id" || ids.insert(value), "{value} is twice");
            if key == "style" {
                let share = value.strip_prefix("--w:").and_then(|value| value.strip_suffix('%')).unwrap();
                assert!(share.parse::<f64>().unwrap() <= 100.0, "{element:?}");
            }
        }
        if element.name == "style" {
            assert!(!element.text.contains("url(") && !element.text.contains("@import"));
        }
        if element.name == "svg" && element.attribute("role").is_some() {
            assert_eq!(element.attribute("role"), Some("img"));
            assert!(element.attribute("aria-labelledby").is_some(), "{element:?}");
        }
    }
    let references = elements.iter().filter_map(|element| element.attribute("aria-labelledby"));
    for reference in references.flat_map(str::split_whitespace) {
        assert!(ids.contains(&reference.to_owned()), "{reference}");
    }
    let of_name = |name: &str| elements.iter().filter(|element| element.name == name).collect::<Vec<_>>();
    assert_eq!(of_name("h1").len(), 1);
    assert_eq!(of_name("style").len(), 1);
    let scripts = of_name("script");
    let [script] = &scripts[..] else { panic!("{} scripts", scripts.len()) };
    assert_eq!(script.attribute("type"), Some("application/json"));
    assert_eq!(script.attribute("id"), Some("data"));
    let policies = elements.iter().filter(|element| element.attribute("http-equiv").is_some());
    let policies: Vec<_> = policies.map(|element| element.attribute("content").unwrap()).collect();
    assert_eq!(
        policies,
        ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]
    );
    let is_bad = |c: char| {
        (c.is_control() && c != '\n') || ('\u{fdd0}'..='\u{fdef}').contains(&c) || c as u32 & 0xfffe == 0xfffe
    };
    assert!(!html.chars().any(is_bad));
    elements
}

/// The page's data block.
fn data(elements: &[Element]) -> Value {
    let script = elements.iter().find(|element| element.name == "script").unwrap();
    serde_json::from_str(&script.text).unwrap()
}

/// The rows of an answer in the data block.
fn rows(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["rows"].as_array().unwrap().iter()
}

fn texts(elements: &[Element]) -> String {
    elements
        .iter()
        .filter(|element| element.name != "script")
        .map(|element| format!("{}\n", element.text))
        .collect()
}

/// JSON without the blanks between its tokens.
fn compact(json: &str) -> String {
    let (mut is_inside, mut is_escaped) = (false, false);
    json.chars()
        .filter(|character| {
            let is_kept = is_inside || !character.is_whitespace();
            match character {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = is_inside,
                '"' => is_inside = !is_inside,
                _ => {}
            }
            is_kept
        })
        .collect()
}

/// The words of the `burn usage` that prints a document of a page.
fn usage_words(name: &str, document: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut words = vec!["usage".to_owned()];
    words.extend(document["period"].as_str().map(str::to_owned));
    let by: Vec<String> = document["by"].as_array().unwrap().iter().map(text).collect();
    if !by.is_empty() {
        words.extend(["--by".to_owned(), by.join(",")]);
    }
    let mut option = |name: &str, value: String| words.push(format!("--{name}={value}"));
    option("tz", text(&document["zone"]));
    option("week-start", text(&document["weekStart"]));
    for bound in ["since", "until"] {
        if let Some(at) = document[bound].as_str() {
            option(bound, at.to_owned());
        }
    }
    for (filter, values) in document["filters"].as_object().unwrap() {
        values.as_array().unwrap().iter().for_each(|value| option(filter, text(value)));
    }
    if !["total", "days", "chart", "hours", "sessionParts"].contains(&name) {
        option("limit", "20".to_owned());
    }
    if name == "sessions" {
        option("sort", "usd".to_owned());
    }
    words.extend(["--json".to_owned(), "--no-build".to_owned()]);
    words
}

/// Compares every document of a page with the output of `burn usage`, digit by digit. Returns the number of documents.
#[track_caller]
fn is_what_usage_says(now: &str, home: &Path, html: &str) -> usize {
    let elements = checked(html);
    let script = elements.iter().find(|element| element.name == "script").unwrap();
    let script = script.text.replace("\\u003c", "<").replace("<\\/", "</");
    let documents = data(&elements);
    let mut count = 0;
    for (name, document) in documents.as_object().unwrap().iter().filter(|(name, _)| *name != "version") {
        let list = document.as_array().cloned().unwrap_or_else(|| vec![document.clone()]);
        for document in list {
            let words = usage_words(name, &document);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let answer = compact(&succeeded(burn_at(now, home, &words)));
            assert!(script.contains(&answer), "{words:?}: {answer}");
            count += 1;
        }
    }
    count
}

#[test]
fn every_number_is_that_of_usage() {
    let folders = fs::read_dir(common::fixture("usage")).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = folders.filter(|path| path.is_dir()).collect();
    folders.sort();
    let questions: [&[&str]; 4] = [
        &["--tz", "UTC"],
        &["--tz", "America/St_Johns", "--week-start", "sunday", "--since", "2020"],
        &["--tz", "-03:30", "--since", "2w", "--model", "claude-*", "--model", "gpt*"],
        &["--tz", "Europe/Berlin", "--since", "2026-10", "--until", "2026-11-20", "--tag", "workflowId=a"],
    ];
    // Every ledger with two of the questions.
    let places = (0..folders.len()).flat_map(|folder| [(folder, folder % 4), (folder, (folder + 1) % 4)]);
    let cases: Vec<_> = places.map(|(folder, question)| (&folders[folder], questions[question])).collect();
    assert_eq!(cases.len(), 14);
    common::in_parallel(&cases, |(folder, args)| {
        let case: Value = serde_json::from_slice(&fs::read(folder.join("case.json")).unwrap()).unwrap();
        let now = case["now"].as_str().unwrap();
        let home = tempfile::tempdir().unwrap();
        fs::copy(folder.join("ledger.jsonl"), home.path().join("ledger.jsonl")).unwrap();
        let html = succeeded(burn_at(now, home.path(), &[&["report", "--out", "-"], *args].concat()));
        assert!(is_what_usage_says(now, home.path(), &html) >= 13, "{folder:?}");
        // The cost of the page is the cost of its question.
        let out = succeeded(burn_at(now, home.path(), &[&["report", "--json"], *args].concat()));
        let written: Value = serde_json::from_str(&out).unwrap();
        let total = &data(&checked(&html))["total"];
        assert_eq!(written["usd"], total["total"]["usd"]);
        assert_eq!(written["turns"], total["total"]["turns"]);
        assert_eq!((&written["since"], &written["until"]), (&total["since"], &total["until"]));
        assert_eq!(fs::read_to_string(home.path().join("burn-report.html")).unwrap(), html);
        assert_eq!(written["bytes"], html.len());
    });
}

#[test]
fn pages_are_what_they_were() {
    let home = home_with(&[
        turn("m1", "2026-11-26T09:10:00Z", json!({"project": "/home/ada/work/kettle", "activity": "coding"})),
        turn(
            "m2",
            "2026-11-26T23:59:59Z",
            json!({"model": "gpt-5.5", "source": "codex", "sessionId": "s-2"}),
        ),
        turn(
            "m3",
            "2026-11-28T14:00:00Z",
            json!({"model": "my-gateway", "subagent": {"isSidechain": true, "subagentType": "reviewer"}}),
        ),
        turn(
            "m4",
            "2026-11-29T08:00:00Z",
            json!({"toolCalls": [], "fidelity": {"class": "partial", "granularity": "per-turn", "coverage": {}}}),
        ),
        turn("m5", "yesterday", json!({})),
        stamp(json!({"sessionId": "s-1"}), json!({"machine": "desk", "workflowId": "triage"})),
    ]);
    let whole = page(home.path(), &["--since", "2026-11-25"]);
    is_what_usage_says(NOW, home.path(), &whole);
    let is_of_version = |text: &str| text.contains(concat!("Made by burn ", env!("CARGO_PKG_VERSION"), ". "));
    assert!(is_of_version(&whole));
    let until = |html: &str, mark: &str| html.find(mark).unwrap();
    let shown = format!(
        "{}{}",
        &whole[..until(&whole, "<style>")],
        &whole[until(&whole, "</style>")..until(&whole, "<footer>")]
    );
    // One element a line, so that a difference can be read.
    insta::assert_snapshot!("page", shown.replace("><", ">\n<"));
}

#[test]
fn the_same_ledger_gives_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    fs::copy(common::fixture("usage/10-tools/ledger.jsonl"), home.path().join("ledger.jsonl")).unwrap();
    let first = page(home.path(), &[]);
    for args in [&[][..], &["--threads", "1"], &["--threads", "5"], &["--no-build"]] {
        assert!(page(home.path(), args) == first, "{args:?}");
    }
}

/// Texts that try to become an element, an attribute, or a control character.
const HOSTILE: [&str; 8] = [
    "</style><script>alert(1)</script>",
    "\" onload=\"alert(1)",
    "'><img src=http://x/y>",
    "</script><!--<script>",
    "<svg/onload=alert(1)>&amp;&lt;&#60;",
    "a\u{1b}[31m\u{0}\u{7f}\u{85}\u{2028}\u{fffe}\u{fdd0}",
    "\u{202e}\u{2066}\u{200f}txt.exe",
    "]]><![CDATA[ ${x} {{x}} %n",
];

#[test]
fn hostile_texts_stay_texts() {
    let mut lines = Vec::new();
    for (number, text) in HOSTILE.into_iter().chain(["x".repeat(10_000).as_str()]).enumerate() {
        let ts = format!("2026-11-{:02}T10:00:00Z", number + 10);
        lines.push(turn(
            &format!("m{number}"),
            &ts,
            json!({
                "source": text, "sessionId": format!("{text}{number}"), "model": text, "project": text, "activity": text,
                "subagent": {"isSidechain": true, "subagentType": text},
                "toolCalls": [{"id": "t", "name": text, "argsHash": "x"}]
            }),
        ));
        let enrichment = json!({"machine": text, text: text, "workflowId": text, "provider": text});
        lines.push(stamp(json!({"messageId": format!("m{number}")}), enrichment));
    }
    lines.push(stamp(
        json!({"sessionId": format!("{}0", HOSTILE[0])}),
        json!({HOSTILE[3]: HOSTILE[0], "</bdi>": "x"}),
    ));
    let home = home_with(&lines);
    let everything = ["--title", HOSTILE[0], "--since", "2026-11-01"];
    let html = page(home.path(), &everything);
    let elements = checked(&html);
    let data = data(&elements);
    assert_eq!(data["total"]["total"]["turns"], 9);
    // The page has the texts as texts.
    assert!(texts(&elements).contains("</style><script>alert(1)</script>, "), "{}", texts(&elements));
    assert!(texts(&elements).contains("a\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}\n"));
    let models: Vec<&str> = rows(&data["models"]).map(|row| row["model"].as_str().unwrap()).collect();
    assert!(HOSTILE.iter().all(|text| models.contains(text)));
    assert!(html.len() < 1_000_000);
    for text in HOSTILE.into_iter().filter(|text| !text.contains('\0')) {
        for filter in ["--model", "--project", "--session", "--subagent", "--activity", "--machine"] {
            checked(&page(home.path(), &[filter, text]));
        }
        checked(&page(home.path(), &["--tag", &format!("k={text}"), "--redact"]));
    }
}

#[test]
fn numbers_take_the_place_of_names() {
    let names =
        ["/home/ada/secret", "git:secret/two", "session-secret", "desk-secret", "secretKey", "value-secret"];
    let more = |project: &str, session: &str| json!({"project": project, "sessionId": session});
    let home = home_with(&[
        turn("m1", "2026-11-20T10:00:00Z", more(names[0], names[2])),
        turn(
            "m2",
            "2026-11-20T11:00:00Z",
            json!({"projectKey": names[1], "sessionId": names[2], "usage": {"input": 1, "output": 1,
            "reasoning": 0, "cacheRead": 0, "cacheCreate5m": 0, "cacheCreate1h": 0}}),
        ),
        turn("m3", "2026-11-20T12:00:00Z", more(names[0], "another-secret")),
        stamp(json!({"sessionId": names[2]}), json!({"machine": names[3], names[4]: names[5]})),
    ]);
    let prices = home.path().join("secret-prices.json");
    fs::write(&prices, r#"{"format":1,"providers":[]}"#).unwrap();
    let plain = page(home.path(), &[]);
    assert!(names.iter().all(|name| plain.contains(name)));
    for args in [
        &[][..],
        &["--project", names[0]],
        &["--project", "*secret*", "--session", names[2], "--machine", names[3]],
        &["--tag", "secretKey=value-secret", "--machine", "secret-nowhere"],
        &["--tag", "secretOther=secret", "--prices", prices.to_str().unwrap()],
    ] {
        let html = page(home.path(), &[args, &["--redact"]].concat());
        assert!(!html.contains("secret") && !html.contains("/home") && !html.contains("/tmp"), "{args:?}");
        checked(&html);
    }
    let elements = checked(&page(home.path(), &["--redact"]));
    let data = data(&elements);
    assert_eq!(data["projects"]["rows"][0]["project"], "project 1");
    assert_eq!(data["projects"]["rows"][1]["project"], "project 2");
    assert_eq!(data["sessions"]["rows"][0]["period"]["key"], "claude-code/session 1");
    assert_eq!(data["machines"]["rows"][0]["machine"], "machine 1");
    assert_eq!(data["tags"][0]["rows"][0]["tag:tag 1"], "value 1");
    assert_eq!(data["sessionParts"]["filters"]["session"], json!(["session 1", "session 2"]));
    let all = texts(&elements);
    assert!(
        ["project 1\n", "session 1\n", "machine 1\n", "Tag tag 1\n", "value 1\n"]
            .iter()
            .all(|name| all.contains(name)),
        "{all}"
    );
}

#[test]
fn a_redacted_page_has_no_path_and_no_account_in_any_name() {
    let arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc";
    let file = "/models/private.gguf";
    let home = home_with(&[
        turn("m1", "2026-11-20T10:00:00Z", json!({"model": arn})),
        turn(
            "m2",
            "2026-11-20T11:00:00Z",
            json!({"model": file, "subagent": {"isSidechain": true, "subagentType": "/agents/private.md"}}),
        ),
        turn(
            "m3",
            "2026-11-20T12:00:00Z",
            json!({"toolCalls": [{"id": "t", "name": "/tools/private", "argsHash": "x"}]}),
        ),
        stamp(json!({"messageId": "m2"}), json!({"provider": "https://private.example"})),
    ]);
    let prices = home.path().join("prices.json");
    let own = r#"{"format":1,"providers":[{"id":"me","match":{"is":"abc"},"models":[{"id":"arn:aws:bedrock:private","match":{"is":"abc"},"prices":[{"input":"1"}]}]}]}"#;
    fs::write(&prices, own).unwrap();
    let plain = page(home.path(), &[]);
    assert!(
        ["123456789012", "bedrock:private", file, "private.md", "tools/private", "private.example"]
            .iter()
            .all(|name| plain.contains(name))
    );
    for args in [&[][..], &["--model", arn, "--model", file], &["--model", "arn:*"]] {
        let html = page(home.path(), &[args, &["--redact"]].concat());
        assert!(
            !html.contains("arn:") && !html.contains("private") && !html.contains("123456789012"),
            "{args:?}"
        );
        checked(&html);
    }
    let elements = checked(&page(home.path(), &["--redact"]));
    let data = data(&elements);
    let models: Vec<&str> = rows(&data["models"]).map(|row| row["model"].as_str().unwrap()).collect();
    assert_eq!(models, ["claude-opus-4-7", "model 1", "model 2"]);
    assert!(texts(&elements).contains("own prices"));
}

#[test]
fn a_session_of_a_source_that_is_a_path_has_the_number_of_the_source() {
    let of = |source: &str, session: &str| json!({"source": source, "sessionId": session});
    let home = home_with(&[
        turn("m1", "2026-11-20T10:00:00Z", of("/srv/kestrel", "s-1")),
        turn("m2", "2026-11-20T11:00:00Z", of("100%/srv/kestrel@desk", "s-2")),
        turn("m3", "2026-11-20T12:00:00Z", of("team/agent", "s-3")),
    ]);
    assert!(page(home.path(), &[]).contains("%2Fsrv%2Fkestrel/s-1"));
    let html = page(home.path(), &["--redact"]);
    assert!(!html.contains("kestrel"));
    let data = data(&checked(&html));
    let sources: BTreeSet<&str> = rows(&data["sources"]).map(|row| row["source"].as_str().unwrap()).collect();
    assert_eq!(sources, BTreeSet::from(["source 1", "source 2", "team/agent"]));
    let of_sessions: BTreeSet<&str> = rows(&data["sessions"])
        .map(|row| row["period"]["key"].as_str().unwrap().split_once('/').unwrap().0)
        .collect();
    assert_eq!(of_sessions, BTreeSet::from(["source 1", "source 2", "team%2Fagent"]));
}

#[test]
fn names_that_look_like_patterns_are_names() {
    let of = |session: &str, project: &str, model: &str| json!({"sessionId": session, "project": project, "model": model});
    let home = home_with(&[
        turn("m1", "2026-11-20T10:00:00Z", of("*", "/srv/heron", "claude-opus-4-7")),
        turn("m2", "2026-11-20T11:00:00Z", of("(none)", "/srv/plover", "claude-opus*")),
        turn("m3", "2026-11-20T12:00:00Z", of("s-3", "/srv/dunlin", "claude-opus-4-1")),
    ]);
    let data = data(&checked(&page(home.path(), &[])));
    let mut sessions: Vec<(&str, &str, u64)> = rows(&data["sessionParts"])
        .map(|row| {
            let session = row["period"]["key"].as_str().unwrap();
            (session, row["project"].as_str().unwrap(), row["turns"].as_u64().unwrap())
        })
        .collect();
    sessions.sort_unstable();
    let of_sessions = [
        ("claude-code/(none)", "/srv/plover", 1),
        ("claude-code/*", "/srv/heron", 1),
        ("claude-code/s-3", "/srv/dunlin", 1),
    ];
    assert_eq!(sessions, of_sessions);
    let models: BTreeSet<(&str, u64)> = rows(&data["chart"])
        .map(|row| (row["model"].as_str().unwrap(), row["turns"].as_u64().unwrap()))
        .collect();
    assert_eq!(models, BTreeSet::from([("claude-opus-4-1", 1), ("claude-opus-4-7", 1), ("claude-opus*", 1)]));
}

#[test]
fn a_page_without_turns_says_so() {
    let home = home_with(&[turn("m1", "never", json!({})), turn("m2", "2020-01-01T00:00:00Z", json!({}))]);
    let output = burn_at(NOW, home.path(), &["report", "--out", "-"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the page has no turns"));
    let html = succeeded(output);
    let all = texts(&checked(&html));
    assert!(
        all.contains("There are no turns in this time.")
            && all.contains("1 turn left out: they have no time"),
        "{all}"
    );
    assert_eq!(is_what_usage_says(NOW, home.path(), &html), 13);
    let filtered = texts(&checked(&page(home.path(), &["--since", "2020", "--model", "nobody"])));
    assert!(
        filtered.contains("The filters let none pass.") && filtered.contains("model nobody"),
        "{filtered}"
    );
    // A home without ledger and archive.
    let nothing = tempfile::tempdir().unwrap();
    let output = burn_at(NOW, nothing.path(), &["report"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("burn ingest"));
    assert_eq!(fs::read_dir(nothing.path()).unwrap().count(), 0);
}

#[test]
fn one_turn_is_a_page() {
    for (ts, zone) in
        [("2026-11-29T17:19:59Z", "Pacific/Marquesas"), ("2026-11-29T17:20:00+14:00", "Pacific/Kiritimati")]
    {
        let home = home_with(&[turn("m1", ts, json!({}))]);
        let html = burn(home.path(), &["report", "--out", "-", "--tz", zone]);
        is_what_usage_says(NOW, home.path(), &html);
        let all = texts(&checked(&html));
        assert!(all.contains("Cost by day") && all.contains("1 turn") && !all.contains("Every day"), "{all}");
    }
    // The number of bars is bounded even for centuries of empty time.
    let home = home_with(&[
        turn("m1", "0001-01-01T00:00:00Z", json!({})),
        turn("m2", "9999-12-31T23:59:59Z", json!({})),
    ]);
    let html = page(home.path(), &["--since", "0001"]);
    is_what_usage_says(NOW, home.path(), &html);
    assert!(html.len() < 600_000, "{}", html.len());
}

#[test]
fn a_year_of_many_projects_and_models_is_below_a_megabyte() {
    let turns = 20_000 * common::scale();
    let lines: Vec<Value> = (0..turns)
        .map(|number| {
            let (day, month) = (number % 28 + 1, number / 28 % 11 + 1);
            turn(
                &format!("m{number}"),
                &format!("2026-{month:02}-{day:02}T{:02}:00:00Z", number % 24),
                json!({
                    "project": format!("/home/ada/work/project-{}", number % (turns / 2)), "sessionId": format!("session-{}", number / 3),
                    "model": format!("claude-opus-4-7-{}", number % 60), "activity": format!("activity-{}", number % 50),
                    "subagent": {"isSidechain": true, "subagentType": format!("agent-{}", number % 70)},
                    "toolCalls": [{"id": "t", "name": format!("tool-{}", number % 300), "argsHash": "x"}]
                }),
            )
        })
        .chain((0..50).map(|number| {
            let enrichment = json!({"machine": format!("m{number}"), "a": "x", "b": "y", "c": "z", "d": "z"});
            stamp(json!({"sessionId": format!("session-{}", number * 40)}), enrichment)
        }))
        .collect();
    let home = home_with(&lines);
    let html = page(home.path(), &["--since", "2026"]);
    println!("{} bytes of {turns} turns", html.len());
    assert!(html.len() < 1_000_000, "{}", html.len());
    assert!(texts(&checked(&html)).contains(" others\n"));
}

#[test]
fn nobodys_file_is_replaced() {
    let home = home_with(&[turn("m1", "2026-11-20T10:00:00Z", json!({}))]);
    let at = |name: &str| home.path().join(name);
    assert_eq!(burn(home.path(), &["report"]), "burn-report.html\n");
    let page = fs::read_to_string(at("burn-report.html")).unwrap();
    checked(&page);
    assert_eq!(fs::metadata(at("burn-report.html")).unwrap().permissions().mode() & 0o777, 0o600);
    // An old report is replaced, and its mode stays.
    fs::write(at("burn-report.html"), "<!doctype html><!-- burn report 1 -->old").unwrap();
    fs::set_permissions(at("burn-report.html"), fs::Permissions::from_mode(0o644)).unwrap();
    burn(home.path(), &["report", "--tz", "UTC"]);
    assert_eq!(fs::metadata(at("burn-report.html")).unwrap().permissions().mode() & 0o777, 0o644);
    for content in ["", "<!doctype html><html>mine</html>", "<!doctype html><!-- burn report 1 --"] {
        fs::write(at("mine.html"), content).unwrap();
        let output = burn_at(NOW, home.path(), &["report", "--out", "mine.html"]);
        assert_eq!(output.status.code(), Some(1), "{content}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("mine.html exists and is no report; --force")
        );
        assert_eq!(fs::read_to_string(at("mine.html")).unwrap(), content);
    }
    assert_eq!(burn(home.path(), &["report", "--out", "mine.html", "--force"]), "mine.html\n");
    checked(&fs::read_to_string(at("mine.html")).unwrap());
    let output = burn_at(NOW, home.path(), &["report", "--out", "."]);
    assert_eq!(output.status.code(), Some(1));
    let output = burn_at(NOW, home.path(), &["report", "--out", "nowhere/x.html"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere"));
    for words in [
        &["report", "--out", "-", "--json"][..],
        &["report", "--since", "1/5/2026"],
        &["report", "--tag", "x"],
    ] {
        let output = burn_at(NOW, home.path(), words);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("Usage: burn report"), "{words:?}");
    }
    let rest = common::names(home.path());
    assert!(rest.iter().all(|name| !name.contains(".tmp")), "{rest:?}");
}
