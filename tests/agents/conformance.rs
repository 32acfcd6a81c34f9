//! Compares `burn ingest` with the output of the TypeScript package for the same logs, in both modes.
//!
//! Cases come from the folder `agents` of `BURN_GOLDEN` (default `../shared/golden`), whose README describes them. With
//! `--as-reference` every home must be equal byte for byte. Without it, a case's `accept` lists the differences that
//! are allowed. If a case shows a mended defect that it does not accept, `mended.txt` names the defect and every
//! difference, and no other difference is allowed.
#![cfg(unix)]

use crate::common;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regex::Regex;
use serde_json::Value;

/// The cases that show a mended defect and do not accept all differences: the name, the defect, and each difference. A
/// step lists only differences that the step before did not have. Its output is compared in full.
const MENDED: &str = include_str!("mended.txt");

const GROUPS: [&str; 4] = ["claude", "codex", "ingest", "opencode"];

/// Cases with counts that are no numbers. The TypeScript package writes some of them unchanged, and the specification
/// leaves this open.
const LENIENT: [&str; 2] = ["codex/usage-odd-values", "opencode/usage-odd-values"];

/// The home of a case has a name of 21 bytes, so that offsets in logs that contain the name are the same everywhere.
struct Sandbox {
    folder: PathBuf,
    home: String,
}

impl Sandbox {
    fn new() -> Self {
        loop {
            let name: String = uuid::Uuid::new_v4().simple().to_string()[..8].into();
            let folder = PathBuf::from(format!("/tmp/bg-{name}"));
            if fs::create_dir(&folder).is_ok() {
                let home = format!("/tmp/bg-{name}/home");
                fs::create_dir(&home).unwrap();
                return Sandbox { folder, home };
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key).and_then(Value::as_str)
}

fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, from.as_bytes()) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to.as_bytes());
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// A running case.
struct Case<'c> {
    dir: &'c Path,
    case: Value,
    sandbox: Sandbox,
    started: SystemTime,
}

impl Case<'_> {
    fn filled(&self, bytes: &[u8]) -> Vec<u8> {
        let bytes = replace(bytes, "{HOME}", &self.sandbox.home);
        let times = regex::bytes::Regex::new(r"\{NOW([+-]\d+)\}").unwrap();
        times
            .replace_all(&bytes, |found: &regex::bytes::Captures<'_>| {
                let seconds: i64 = std::str::from_utf8(&found[1]).unwrap().parse().unwrap();
                let now = self.started.duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
                let time = jiff::Timestamp::from_millisecond(now + seconds * 1000).unwrap();
                time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string().into_bytes()
            })
            .into_owned()
    }

    fn input(&self, name: &str) -> Vec<u8> {
        self.filled(&fs::read(self.dir.join("in").join(name)).unwrap())
    }

    fn operate(&self, op: &Value) {
        let path = Path::new(&self.sandbox.home).join(text(op, "path").unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let data = || {
            let data = match text(op, "text") {
                Some(text) => self.filled(text.as_bytes()),
                None => self.input(text(op, "from").unwrap()),
            };
            match op.get("bytes") {
                Some(range) => {
                    let at = |index: usize| range[index].as_u64().unwrap() as usize;
                    data[at(0).min(data.len())..at(1).min(data.len())].to_vec()
                }
                None => data,
            }
        };
        match text(op, "op").unwrap() {
            "put" => {
                let mut file =
                    fs::File::options().create(true).truncate(true).write(true).open(&path).unwrap();
                file.write_all(&data()).unwrap();
            }
            "append" => {
                fs::File::options()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .unwrap()
                    .write_all(&data())
                    .unwrap();
            }
            "replace" => {
                let new = PathBuf::from(format!("{}.new", path.display()));
                fs::write(&new, data()).unwrap();
                fs::rename(&new, &path).unwrap();
            }
            "truncate" => {
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_len(op["size"].as_u64().unwrap()).unwrap();
            }
            "rm" if path.is_dir() && !path.is_symlink() => fs::remove_dir_all(&path).unwrap(),
            "rm" => fs::remove_file(&path).unwrap(),
            "mkdir" => fs::create_dir_all(&path).unwrap(),
            "symlink" => {
                let to = String::from_utf8(self.filled(text(op, "to").unwrap().as_bytes())).unwrap();
                std::os::unix::fs::symlink(to, &path).unwrap();
                return;
            }
            "sub" => {
                let old = fs::read_to_string(&path).unwrap();
                let with = text(op, "with").unwrap().replace('$', "$$");
                let with = Regex::new(r"\\g<(\d+)>").unwrap().replace_all(&with, "$${$1}").into_owned();
                let new = Regex::new(text(op, "re").unwrap()).unwrap().replacen(&old, 1, with).into_owned();
                assert_ne!(old, new, "no match for {}", op["re"]);
                fs::write(&path, new).unwrap();
            }
            "touch" => {}
            other => panic!("unknown operation {other}"),
        }
        let time = match op.get("mtime") {
            None => return,
            Some(mtime) if mtime == "now" => self.started + Duration::from_secs(1),
            Some(mtime) => {
                let ns: u64 =
                    mtime.as_str().map_or_else(|| mtime.as_u64().unwrap(), |text| text.parse().unwrap());
                UNIX_EPOCH + Duration::from_nanos(ns)
            }
        };
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
    }

    fn environment(&self) -> BTreeMap<String, String> {
        let home = &self.sandbox.home;
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()),
            ("HOME".into(), home.clone()),
            ("RELAYBURN_HOME".into(), format!("{home}/.relayburn")),
            ("TZ".into(), "UTC".into()),
            ("LC_ALL".into(), "C.UTF-8".into()),
            ("RELAYBURN_PROGRESS".into(), "0".into()),
            ("NO_COLOR".into(), "1".into()),
            // A hook has no time limit here, because these cases do not test what a hook leaves to the next run.
            ("RELAYBURN_HOOK_MS".into(), "0".into()),
        ]);
        for (name, value) in self.case.get("env").and_then(Value::as_object).into_iter().flatten() {
            match value.as_str() {
                Some(value) => environment.insert(name.clone(), value.replace("{HOME}", home)),
                None => environment.remove(name),
            };
        }
        environment
    }

    /// Runs a step against a server of events, which sends the files that `serve` names. Returns the exit code; none if
    /// the request differs from the expected request.
    fn run_beside_server(&self, step: &Value, argv: &[String]) -> Option<i32> {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        // A cursor of an earlier step names another port.
        let cursors = Path::new(&self.sandbox.home).join(".relayburn/cursors.json");
        if let Ok(text) = fs::read_to_string(&cursors) {
            let text =
                Regex::new(r"http://127\.0\.0\.1:\d+").unwrap().replace_all(&text, &url[..]).into_owned();
            fs::write(&cursors, text).unwrap();
        }
        let body = self.input(text(step, "serve").unwrap());
        let asked = std::thread::spawn(move || {
            let (mut connection, _) = server.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
            connection.write_all(&body).unwrap();
            (connection, String::from_utf8(head).unwrap())
        });
        let mut child = common::processes::with_signals()
            .args(argv.iter().map(|word| word.replace("{SERVER}", &url)))
            .env_clear()
            .envs(self.environment())
            .current_dir(&self.sandbox.home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (connection, head) = asked.join().unwrap();
        std::thread::sleep(Duration::from_millis(2500));
        // SAFETY: a call without pointers, for a child that was not waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
        let exit = child.wait().unwrap().code();
        drop(connection);
        let mut asked: Vec<String> = head.lines().map(str::to_lowercase).collect();
        asked.retain(|line| {
            ["get ", "accept:", "last-event-id:", "authorization:"].iter().any(|s| line.starts_with(s))
        });
        asked.sort();
        let wanted =
            step["request"].as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_lowercase());
        let mut wanted: Vec<String> = wanted.collect();
        wanted.sort();
        if asked == wanted { exit } else { None }
    }

    fn run(&self, step: &Value, as_reference: bool) -> Option<i32> {
        for op in step.get("ops").and_then(Value::as_array).into_iter().flatten() {
            self.operate(op);
        }
        let argv = step.get("argv").and_then(Value::as_array);
        let mut argv: Vec<String> = match argv {
            Some(argv) => argv.iter().map(|word| word.as_str().unwrap().to_owned()).collect(),
            None => vec!["ingest".into()],
        };
        if let Some(agent) = text(&self.case, "agent").filter(|_| argv == ["ingest"]) {
            argv.extend(["--agent".into(), agent.into()]);
        }
        if as_reference && argv[0] == "ingest" {
            argv.push("--as-reference".into());
        }
        if step.get("serve").is_some() {
            return self.run_beside_server(step, &argv);
        }
        let stdin = match (text(step, "stdin"), text(step, "stdin_from")) {
            (Some(stdin), _) => self.filled(stdin.as_bytes()),
            (None, Some(name)) => self.input(name),
            (None, None) => Vec::new(),
        };
        let mut child = Command::new(env!("CARGO_BIN_EXE_burn"))
            .args(argv)
            .env_clear()
            .envs(self.environment())
            .current_dir(&self.sandbox.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // A command that does not read its input may have ended already.
        let _ = child.stdin.take().unwrap().write_all(&stdin);
        child.wait().unwrap().code()
    }

    /// The compared files of the home, by name.
    fn found(&self) -> BTreeMap<String, Vec<u8>> {
        let home = &self.sandbox.home;
        let root = self.environment().get("RELAYBURN_HOME").cloned();
        let root = PathBuf::from(root.unwrap_or_else(|| format!("{home}/.relayburn")));
        let masks = self.case.get("mask").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut found = BTreeMap::new();
        for name in ["ledger.jsonl", "ledger.idx", "ledger.content.idx", "cursors.json", "hwm.json"] {
            let Ok(bytes) = fs::read(root.join(name)) else { continue };
            let mut bytes = replace(&bytes, home, "{HOME}");
            let mut mask = |pattern: &str, with: &str| {
                let pattern = regex::bytes::Regex::new(pattern).unwrap();
                bytes = pattern.replace_all(&bytes, with.as_bytes()).into_owned();
            };
            if name == "cursors.json" {
                mask(r#"("inode": )\d+"#, "${1}0");
                mask(r"http://127\.0\.0\.1:\d+", "{SERVER}");
                if masks.iter().any(|mask| mask == "mtimeMs") {
                    mask(r#"("mtimeMs": )-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"#, "${1}0");
                }
            }
            if name == "ledger.jsonl" && masks.iter().any(|mask| mask == "stamp.ts") {
                mask(r#"(?m)^(\{"v":1,"kind":"stamp","ts":)"[^"]*""#, r#"${1}"T""#);
                mask(
                    r#"(?m)^(\{"v":1,"kind":"relationship","record":\{"v":1,"source":"spawn-env".*"ts":)"[^"]*""#,
                    r#"${1}"T""#,
                );
            }
            found.insert(name.to_owned(), bytes);
        }
        let names = |folder: &str| {
            let entries = fs::read_dir(root.join(folder)).ok();
            let mut names: Vec<String> = entries
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        for name in names("content") {
            let bytes = fs::read(root.join("content").join(&name)).unwrap();
            found.insert(format!("content/{name}"), replace(&bytes, home, "{HOME}"));
        }
        if root.join("pending-stamps").is_dir() {
            let list: String = names("pending-stamps").into_iter().map(|name| name + "\n").collect();
            found.insert("pending-stamps.txt".into(), list.into_bytes());
        }
        found
    }
}

/// The expected home after a step: the home after the step before, changed by the files of `expect/<step>`.
fn expected(dir: &Path, step: usize, mut state: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, found) } else { found.push(path) }
        }
    }
    let base = dir.join("expect").join(step.to_string());
    let mut changed = Vec::new();
    files(&base, &mut changed);
    for path in changed {
        let name = path.strip_prefix(&base).unwrap().to_str().unwrap().to_owned();
        let bytes = fs::read(&path).unwrap();
        if name == "removed.txt" {
            String::from_utf8(bytes).unwrap().split_whitespace().for_each(|name| {
                state.remove(name);
            });
        } else if let Some(name) = name.strip_suffix(".tail") {
            state.get_mut(name).unwrap().extend(bytes);
        } else {
            state.insert(name, bytes);
        }
    }
    state
}

fn drop_field(value: &mut Value, path: &str) {
    let (head, rest) = path.split_once('.').map_or((path, None), |(head, rest)| (head, Some(rest)));
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| drop_field(item, path)),
        Value::Object(members) => match (members.get_mut(head), rest) {
            (Some(member), Some(rest)) => drop_field(member, rest),
            (Some(_), None) => {
                members.remove(head);
            }
            (None, _) => {}
        },
        _ => {}
    }
}

fn softened(bytes: &[u8], ignored: &[&str]) -> Vec<String> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let soften = |line: &[u8]| match serde_json::from_slice::<Value>(line) {
        Ok(mut value) => {
            let is_ledger_line = value.get("record").is_some();
            let record = if is_ledger_line { value.get_mut("record").unwrap() } else { &mut value };
            ignored.iter().for_each(|field| drop_field(record, field));
            value.to_string()
        }
        Err(_) => String::from_utf8_lossy(line).into_owned(),
    };
    lines.map(soften).collect()
}

/// Returns whether every item of `part` is in `whole`, as often.
fn is_among(part: &[String], whole: &[String]) -> bool {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    whole.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    part.iter().all(|line| {
        let count = counts.entry(line).or_default();
        *count -= 1;
        *count >= 0
    })
}

/// Returns whether a file may differ in this way.
fn is_accepted(name: &str, want: Option<&Vec<u8>>, got: Option<&Vec<u8>>, accept: &Value) -> bool {
    let mode = text(accept, "mode");
    let list = |key: &str| -> Vec<&str> {
        accept.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let kinds = list("kinds");
    let is_content = name.starts_with("content/");
    if let (Some(want), Some(got)) = (want, got)
        && (name == "ledger.jsonl" || is_content)
    {
        let (mut want, mut got) = (softened(want, &list("ignore")), softened(got, &list("ignore")));
        if !kinds.is_empty() {
            if is_content {
                return true;
            }
            for lines in [&mut want, &mut got] {
                lines.retain(|line| {
                    let line: Value = serde_json::from_str(line).unwrap();
                    text(&line, "kind").is_some_and(|kind| kinds.contains(&kind))
                });
            }
        }
        let min = accept.get("min").and_then(Value::as_u64).unwrap_or(0) as usize;
        return want == got
            || mode == Some("superset") && is_among(&want, &got)
            || mode == Some("subset") && is_among(&got, &want) && got.len() >= want.len().min(min);
    }
    ["ledger.idx", "ledger.content.idx", "cursors.json"].contains(&name)
        || mode == Some("superset") && want.is_none()
        || got.is_none() && is_content && (mode == Some("subset") || !kinds.is_empty())
        || want.is_none() && is_content && !kinds.is_empty()
}

/// The subject of a line of the ledger or of a sidecar.
fn subject(line: &Value) -> String {
    let record = line.get("record").unwrap_or(line);
    let word = |key: &str| text(record, key).unwrap_or("-").to_owned();
    let id = match text(line, "kind").unwrap_or("content") {
        "turn" => word("messageId"),
        "user_turn" => word("userUuid"),
        "tool_result_event" => {
            format!("{} {} {}", word("toolUseId"), word("eventSource"), record["callIndex"])
        }
        "relationship" => {
            format!("{} {} {}", word("relationshipType"), word("sessionId"), word("relatedSessionId"))
        }
        "compaction" => word("ts"),
        "stamp" => line["selector"].to_string(),
        _ => format!("{} {}", word("messageId"), word("kind")),
    };
    format!("{} {id}", text(line, "kind").unwrap_or("content"))
}

/// A short text itself; for a long text its length and hash.
fn shortened(text: &str) -> String {
    if text.len() <= 60 {
        return text.to_owned();
    }
    format!("{} bytes {}", text.len(), &blake3::hash(text.as_bytes()).to_hex()[..12])
}

fn changed_fields(path: &str, want: &Value, got: &Value, found: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(wanted), Value::Object(given)) => {
            let keys: std::collections::BTreeSet<&String> = wanted.keys().chain(given.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match (wanted.get(key), given.get(key)) {
                    (Some(want), Some(got)) => changed_fields(&path, want, got, found),
                    (Some(want), None) => {
                        found.push(format!("{path}: {} -> none", shortened(&want.to_string())))
                    }
                    (_, got) => {
                        let got = got.map(Value::to_string).unwrap_or_default();
                        found.push(format!("{path}: none -> {}", shortened(&got)));
                    }
                }
            }
        }
        _ if want == got => {}
        _ => {
            found.push(format!("{path}: {} -> {}", shortened(&want.to_string()), shortened(&got.to_string())))
        }
    }
}

/// The differences of a file with a JSON document on each line: missing lines, new lines, fields, the order.
fn changed_lines(name: &str, want: &[u8], got: &[u8], found: &mut Vec<String>) {
    let entries = |bytes: &[u8]| {
        let mut times: HashMap<String, usize> = HashMap::new();
        let mut entries: Vec<(String, Value)> = Vec::new();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line = serde_json::from_slice(line)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(line).into_owned()));
            let subject = subject(&line);
            let time = times.entry(subject.clone()).or_default();
            *time += 1;
            let subject = if *time > 1 { format!("{subject} #{time}") } else { subject };
            entries.push((subject, line));
        }
        entries
    };
    let (want, got) = (entries(want), entries(got));
    let (wanted, given): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (want.iter().cloned().collect(), got.iter().cloned().collect());
    for (subject, line) in &want {
        let Some(got) = given.get(subject) else {
            found.push(format!("{name}: - {subject}"));
            continue;
        };
        let mut fields = Vec::new();
        changed_fields("", line, got, &mut fields);
        let in_record = |field: String| field.strip_prefix("record.").map_or(field.clone(), str::to_owned);
        found.extend(fields.into_iter().map(|field| format!("{name}: {subject}: {}", in_record(field))));
    }
    for (subject, line) in got.iter().filter(|(subject, _)| !wanted.contains_key(subject)) {
        found.push(format!("{name}: + {subject}: {}", shortened(&line.to_string())));
    }
    let order = |entries: &[(String, Value)], others: &BTreeMap<String, Value>| -> Vec<String> {
        entries
            .iter()
            .map(|(subject, _)| subject.clone())
            .filter(|subject| others.contains_key(subject))
            .collect()
    };
    let given_order = order(&got, &wanted);
    if order(&want, &given) != given_order {
        found.push(format!("{name}: another order, {}", shortened(&format!("{given_order:?}"))));
    }
}

type Files = BTreeMap<String, Vec<u8>>;

/// The differences between a home and the expected home. The indexes follow from the ledger and the sidecars.
fn differences(want: &Files, got: &Files) -> Vec<String> {
    let mut found = Vec::new();
    let names: std::collections::BTreeSet<&String> = want.keys().chain(got.keys()).collect();
    for name in names.into_iter().filter(|name| !name.ends_with(".idx")) {
        match (want.get(name), got.get(name)) {
            (want, got) if want == got => {}
            (Some(want), Some(got)) if name == "cursors.json" => {
                let parsed = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
                let mut fields = Vec::new();
                changed_fields("", &parsed(want), &parsed(got), &mut fields);
                found.extend(fields.into_iter().map(|field| format!("{name}: {field}")));
            }
            (want, got) if name.ends_with(".jsonl") => {
                let of = |file: Option<&Vec<u8>>| file.cloned().unwrap_or_default();
                changed_lines(name, &of(want), &of(got), &mut found);
            }
            (_, got) => {
                let got = got.map_or("none".into(), |got| shortened(&String::from_utf8_lossy(got)));
                found.push(format!("{name}: {got}"));
            }
        }
    }
    found
}

/// Returns whether every file of a home is as expected, or differs as the case accepts.
fn is_as_accepted(want: &Files, got: &Files, accept: Option<&Value>) -> bool {
    let names: std::collections::BTreeSet<&String> = want.keys().chain(got.keys()).collect();
    names.into_iter().all(|name| {
        let (want, got) = (want.get(name), got.get(name));
        want == got || accept.is_some_and(|accept| is_accepted(name, want, got, accept))
    })
}

/// The differences that a case does not accept, step by step; empty if the case passes.
fn check(dir: &Path, as_reference: bool) -> Vec<String> {
    let case: Value = serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
    let case = Case { dir, case, sandbox: Sandbox::new(), started: SystemTime::now() };
    let accept = case.case.get("accept").filter(|accept| !as_reference && !accept.is_null());
    let mut want = BTreeMap::new();
    let (mut found, mut before) = (Vec::new(), Vec::new());
    let mut passes = true;
    for (step, number) in case.case["steps"].as_array().unwrap().iter().zip(1..) {
        let exit = case.run(step, as_reference);
        let wanted = step.get("exit").and_then(Value::as_i64).unwrap_or(0) as i32;
        if exit != Some(wanted) {
            passes = false;
            found.push(format!("step {number}: exit {wanted} -> {exit:?}"));
        }
        want = expected(dir, number, want);
        let got = case.found();
        passes &= is_as_accepted(&want, &got, accept);
        let differences = differences(&want, &got);
        let is_new = |difference: &&String| !before.contains(*difference);
        found.extend(differences.iter().filter(is_new).map(|text| format!("step {number}: {text}")));
        let is_gone = |difference: &&String| !differences.contains(*difference);
        found.extend(before.iter().filter(is_gone).map(|text| format!("step {number}: no more: {text}")));
        before = differences;
        if !passes && found.is_empty() {
            found.push(format!("step {number}: an index differs"));
        }
    }
    if passes { Vec::new() } else { found }
}

/// The blocks of [`MENDED`]: a case, then its differences.
fn mended() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut cases: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut case = "";
    for line in MENDED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix("  ") {
            Some(difference) => cases.get_mut(case).unwrap().push(difference),
            None => {
                let (name, defect) = line.split_once(": ").unwrap();
                assert!(!defect.trim().is_empty(), "{name} names no defect");
                case = name;
                assert!(cases.insert(name, Vec::new()).is_none(), "{name} is there twice");
            }
        }
    }
    cases
}

/// Returns whether all inputs of a case exist.
fn is_whole(dir: &Path) -> bool {
    let case: Value = serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
    case["steps"].as_array().unwrap().iter().all(|step| {
        let ops = step.get("ops").and_then(Value::as_array).into_iter().flatten();
        ops.filter_map(|op| text(op, "from")).all(|name| dir.join("in").join(name).exists())
    })
}

/// The cases, and the number of cases that are left out because their counts are no numbers or an input is missing.
fn cases() -> Option<(Vec<PathBuf>, usize)> {
    let root = common::golden()?.join("agents");
    let mut found = Vec::new();
    let mut left_out = 0;
    for group in GROUPS.map(|group| root.join(group)) {
        for dir in fs::read_dir(group).unwrap().map(|entry| entry.unwrap().path()) {
            if !dir.join("case.json").exists() {
                continue;
            }
            if LENIENT.contains(&name_of(&dir).as_str()) || !is_whole(&dir) {
                left_out += 1;
            } else {
                found.push(dir);
            }
        }
    }
    found.sort();
    Some((found, left_out))
}

fn name_of(dir: &Path) -> String {
    let group = dir.parent().unwrap().file_name().unwrap().to_str().unwrap();
    format!("{group}/{}", dir.file_name().unwrap().to_str().unwrap())
}

/// More differences of a case are named by their number and hash.
const DIFFERENCES_MAX: usize = 100;

fn check_all(as_reference: bool) {
    let Some((dirs, left_out)) = cases() else { return };
    let mended = if as_reference { BTreeMap::new() } else { mended() };
    let failures = Mutex::new(Vec::new());
    common::in_parallel(&dirs, |dir| {
        let name = name_of(dir);
        let mut found = check(dir, as_reference);
        if found.len() > DIFFERENCES_MAX {
            let hash = blake3::hash(found.join("\n").as_bytes()).to_hex();
            found = vec![format!("{} differences {}", found.len(), &hash[..12])];
        }
        match mended.get(name.as_str()) {
            None if found.is_empty() => {}
            Some(wanted) if *wanted == found && !found.is_empty() => {}
            wanted => {
                let what = if wanted.is_some() { "differs, but not as the table says" } else { "differs" };
                let found: String = found.iter().map(|line| format!("  {line}\n")).collect();
                failures.lock().unwrap().push(format!("{name}: {what}\n{found}"));
            }
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let names: Vec<String> = dirs.iter().map(|dir| name_of(dir)).collect();
    let unknown: Vec<_> = mended.keys().filter(|case| !names.iter().any(|name| name == *case)).collect();
    println!("{} cases, {} of them with a mended defect; {left_out} are not run", dirs.len(), mended.len());
    assert!(unknown.is_empty(), "the table has cases that were not run: {unknown:?}");
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), dirs.len(), failures.join("\n"));
}

#[test]
fn every_home_comes_out_to_the_byte_as_the_reference_writes_it() {
    check_all(true);
}

#[test]
fn every_home_comes_out_right_where_the_reference_is_wrong() {
    check_all(false);
}

#[test]
fn each_way_in_which_a_home_differs_is_named() {
    let line = |id: &str, output: u64| {
        format!(
            "{{\"kind\":\"turn\",\"record\":{{\"messageId\":\"{id}\",\"usage\":{{\"output\":{output}}}}}}}\n"
        )
    };
    let home = |ledger: String| Files::from([("ledger.jsonl".to_owned(), ledger.into_bytes())]);
    let want = home(line("a", 1) + &line("b", 2));
    assert!(differences(&want, &want).is_empty());
    for (got, named) in [
        (line("a", 1) + &line("b", 3), "ledger.jsonl: turn b: usage.output: 2 -> 3"),
        (line("a", 1), "ledger.jsonl: - turn b"),
        (line("b", 2) + &line("a", 1), "ledger.jsonl: another order, [\"turn b\", \"turn a\"]"),
        (line("a", 1) + &line("b", 2) + &line("b", 2), "ledger.jsonl: + turn b #2: 63 bytes a93e8cc8084f"),
    ] {
        let found = differences(&want, &home(got));
        assert!(found.len() == 1 && found[0].starts_with(named), "{found:?}, not {named}");
    }
}
