//! `burn ingest` against what the TypeScript package wrote for the same logs, in both of its modes.
//!
//! Cases come from the folder `agents` of `BURN_GOLDEN` (by default `../shared/golden`), whose README says what they hold. With
//! `--as-reference` every home must come out to the byte. Without it a case's `accept` says what may differ; where a case shows
//! a mended defect and accepts nothing, it stands in [`MENDED`] with the reason, and must differ.
#![cfg(all(unix, feature = "cli"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use regex::Regex;
use serde_json::Value;

/// Cases that accept nothing and show a mended defect all the same.
const MENDED: &[(&str, &str)] = &[
    ("claude/activity-prompt", "D1"),
    ("claude/compaction-forms", "D1: what is no number counts as 0"),
    ("claude/content-config-array", "D1"),
    ("claude/content-config-broken", "D1"),
    ("claude/content-config-env-wins", "D1"),
    ("claude/content-config-odd", "D1"),
    ("claude/content-config-off", "D1"),
    ("claude/content-mode-bad-env", "D1"),
    ("claude/content-mode-env-empty", "D1"),
    ("claude/content-mode-hash-only", "D1"),
    ("claude/content-mode-off", "D1"),
    ("claude/content-records", "D1"),
    ("claude/discovery-order", "I12"),
    ("claude/fx-all-together", "D2"),
    ("claude/fx-incomplete-then-complete", "D2"),
    ("claude/fx-line-by-line", "D2"),
    ("claude/fx-nested-subagent-steps", "D3"),
    ("claude/lines-no-final-newline", "D3"),
    ("claude/message-merge", "D1"),
    ("claude/message-missing-fields", "a model that is no string is none"),
    ("claude/project-cwd", "D1"),
    ("claude/project-git-remotes", "D19"),
    ("claude/step-cursor-fields", "D8: a cursor behind the end of its log"),
    ("claude/step-last-user-text", "D2"),
    ("claude/step-ledger-lost", "D3"),
    ("claude/step-mtime-fractions", "D3"),
    ("claude/step-open-first-line", "D13"),
    ("claude/step-replace-inode", "D12"),
    ("claude/step-resume-later", "D3"),
    ("claude/step-truncate", "D3"),
    ("claude/sub-parallel-and-nested", "D1"),
    ("claude/tool-call-repeats", "D1"),
    ("claude/user-turn-links", "D1"),
    ("ingest/hook-errors", "a hook never fails"),
    ("ingest/hook-tool-use", "D3"),
    ("ingest/options", "I13"),
];

/// Groups of cases of the agents whose logs are read, and cases among them that need another agent.
const GROUPS: [&str; 2] = ["claude", "ingest"];
const OTHER_AGENTS: [&str; 4] = [
    "ingest/all-agents",
    "ingest/discovery-codex-opencode",
    "ingest/pending-codex",
    "ingest/pending-opencode",
];

/// The home of a case has a name of 21 bytes, so that offsets in logs that hold it are the same everywhere.
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

/// A case at work.
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
        ]);
        for (name, value) in self.case.get("env").and_then(Value::as_object).into_iter().flatten() {
            match value.as_str() {
                Some(value) => environment.insert(name.clone(), value.replace("{HOME}", home)),
                None => environment.remove(name),
            };
        }
        environment
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

    /// What is compared of the home, by name.
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

/// The home after a step: what the step before left, changed by the files of `expect/<step>`.
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

/// Whether every item of `part` is in `whole`, as often.
fn is_among(part: &[String], whole: &[String]) -> bool {
    let mut counts: HashMap<&str, i64> = HashMap::new();
    whole.iter().for_each(|line| *counts.entry(line).or_default() += 1);
    part.iter().all(|line| {
        let count = counts.entry(line).or_default();
        *count -= 1;
        *count >= 0
    })
}

/// Whether a file may differ in this way.
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

/// What is wrong with a case; nothing when it passes.
fn check(dir: &Path, as_reference: bool) -> Option<String> {
    let case: Value = serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
    let case = Case { dir, case, sandbox: Sandbox::new(), started: SystemTime::now() };
    let accept = case.case.get("accept").filter(|accept| !as_reference && !accept.is_null());
    let mut want = BTreeMap::new();
    for (step, number) in case.case["steps"].as_array().unwrap().iter().zip(1..) {
        let exit = case.run(step, as_reference);
        let wanted = step.get("exit").and_then(Value::as_i64).unwrap_or(0) as i32;
        if exit != Some(wanted) {
            return Some(format!("step {number}: exit {exit:?}, want {wanted}"));
        }
        want = expected(dir, number, want);
        let got = case.found();
        let names: std::collections::BTreeSet<&String> = want.keys().chain(got.keys()).collect();
        for name in names {
            let (want, got) = (want.get(name), got.get(name));
            if want == got || accept.is_some_and(|accept| is_accepted(name, want, got, accept)) {
                continue;
            }
            let (Some(want), Some(got)) = (want, got) else {
                let what = if want.is_none() { "not expected" } else { "missing" };
                return Some(format!("step {number}: {name}: {what}"));
            };
            let (want, got) = (String::from_utf8_lossy(want), String::from_utf8_lossy(got));
            let at = want.lines().zip(got.lines()).position(|(want, got)| want != got);
            let at = at.unwrap_or(want.lines().count().min(got.lines().count()));
            let line = |text: &str| text.lines().nth(at).unwrap_or("<end>").to_owned();
            return Some(format!(
                "step {number}: {name} line {}\n  want {}\n  got  {}",
                at + 1,
                line(&want),
                line(&got)
            ));
        }
    }
    None
}

/// Whether all inputs of a case are there.
fn is_whole(dir: &Path) -> bool {
    let case: Value = serde_json::from_slice(&fs::read(dir.join("case.json")).unwrap()).unwrap();
    case["steps"].as_array().unwrap().iter().all(|step| {
        let ops = step.get("ops").and_then(Value::as_array).into_iter().flatten();
        ops.filter_map(|op| text(op, "from")).all(|name| dir.join("in").join(name).exists())
    })
}

/// The cases, and how many are left out: those with a server of events, which this program does not follow, those that need
/// another agent, and those of which an input is missing.
fn cases() -> Option<(Vec<PathBuf>, usize)> {
    let root = common::golden()?.join("agents");
    let mut found = Vec::new();
    let mut served = 0;
    for group in GROUPS.map(|group| root.join(group)) {
        for dir in fs::read_dir(group).unwrap().map(|entry| entry.unwrap().path()) {
            let Ok(case) = fs::read_to_string(dir.join("case.json")) else { continue };
            let is_of_another = OTHER_AGENTS.contains(&name_of(&dir).as_str());
            if case.contains("\"serve\"") || is_of_another || !is_whole(&dir) {
                served += 1;
            } else {
                found.push(dir);
            }
        }
    }
    found.sort();
    Some((found, served))
}

fn name_of(dir: &Path) -> String {
    let group = dir.parent().unwrap().file_name().unwrap().to_str().unwrap();
    format!("{group}/{}", dir.file_name().unwrap().to_str().unwrap())
}

fn check_all(as_reference: bool) {
    let Some((dirs, served)) = cases() else { return };
    let failures = Mutex::new(Vec::new());
    common::in_parallel(&dirs, |dir| {
        let name = name_of(dir);
        let mended = MENDED.iter().find(|(mended, _)| !as_reference && *mended == name);
        match (check(dir, as_reference), mended) {
            (Some(wrong), None) => failures.lock().unwrap().push(format!("{name}: {wrong}")),
            (None, Some(_)) => {
                failures.lock().unwrap().push(format!("{name}: passes, though it shows a defect"))
            }
            _ => {}
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let mended = if as_reference { 0 } else { MENDED.len() };
    println!("{} cases, {mended} of them with a mended defect; {served} are not run", dirs.len());
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
