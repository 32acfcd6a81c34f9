//! `burn statusline`: its costs are those of `burn usage`, and it never fails or waits.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant as Clock};

use relayburn_ledger::archive::{Options, Paths, Unobserved, build_tail};
use relayburn_ledger::home::Home;
use relayburn_ledger::interrupt::Interrupt;
use relayburn_ledger::usage::{self, Filters, Instant, Pattern, Prices, Question};
use serde_json::{Value, json};

use super::common::{self, Random};
use super::{NOW, home_with, turn};

fn command(home: &Path, args: &[&str]) -> Command {
    let mut command = super::command(home, NOW);
    command.arg("statusline").args(args).current_dir("/").env("TZ", "UTC");
    // A debug build on a busy machine takes longer than the limit of the command.
    command.env("BURN_DEADLINE_MS", "60000");
    command
}

fn statusline(home: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = command(home, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The command may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

/// The line. Panics unless the command succeeds without a message.
#[track_caller]
fn line(home: &Path, args: &[&str], input: &[u8]) -> String {
    let output = statusline(home, args, input);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{text}");
    assert_eq!(text.matches('\n').count(), 1, "{text:?}");
    text.strip_suffix('\n').unwrap().to_owned()
}

/// The input that Claude Code gives to its status line.
fn input() -> Value {
    json!({
        "hook_event_name": "Status", "session_id": "s-1", "transcript_path": "/home/ada/t.jsonl", "cwd": "/home/ada/work/kettle/src",
        "version": "2.1.90", "model": {"id": "claude-opus-4-7", "display_name": "Opus 4.7"},
        "workspace": {"current_dir": "/home/ada/work/kettle/src", "project_dir": "/home/ada/work/kettle"},
        "cost": {"total_cost_usd": 3.4159, "total_duration_ms": 45000, "total_lines_added": 156},
        "context_window": {"used_percentage": 41.4, "context_window_size": 200000},
        "rate_limits": {
            "five_hour": {"used_percentage": 23, "resets_at": 1795980600},
            "seven_day": {"used_percentage": 80.5, "resets_at": "2026-12-02T20:00:00Z"},
            "spend_limit": {"used_percentage": 7}
        }
    })
}

/// The path of every member of a document.
fn paths(value: &Value, before: &[String], found: &mut Vec<Vec<String>>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = [before, std::slice::from_ref(key)].concat();
        paths(value, &path, found);
        found.push(path);
    }
}

#[test]
fn a_line_has_the_parts_that_are_known() {
    let home = home_with(&[
        turn("m1", "2026-11-29T08:00:00Z", json!({"sessionId": "s-1"})),
        turn("m2", "2026-11-28T08:00:00Z", json!({"sessionId": "s-1"})),
        turn("m3", "2026-11-29T08:00:00Z", json!({"sessionId": "s-2", "model": "claude-haiku-4-5"})),
        turn(
            "m4",
            "2026-11-02T08:00:00Z",
            json!({"sessionId": "s-2", "fidelity": {"class": "partial", "granularity": "per-turn", "coverage": {}}}),
        ),
    ]);
    let text = serde_json::to_vec(&input()).unwrap();
    let whole = "$0.03 session · $0.02 today · ctx 41 % · 5h 23 % (2h10m) · 7d 80 % (3d2h) · spend 7 %";
    // Without an archive, and with one.
    assert_eq!(line(home.path(), &[], &text), whole);
    super::burn(home.path(), &["usage"]);
    assert_eq!(line(home.path(), &[], &text), whole);
    assert_eq!(
        line(home.path(), &["--show", "month,model,project,5h"], &text),
        "≥ $0.05 month · Opus 4.7 · kettle · 5h 23 % (2h10m)"
    );
    assert_eq!(
        line(home.path(), &["--format", "[{model}] {session}; {nothing}"], &text),
        "[Opus 4.7] $0.03 session; {nothing}"
    );
    assert_eq!(
        line(home.path(), &["--show", "ctx,7d", "--color"], &text),
        "ctx 41 % · \u{1b}[33m7d 80 % (3d2h)\u{1b}[0m"
    );
    assert_eq!(
        line(home.path(), &["--show", "ctx", "--color", "--limit-warn", "41"], &text),
        "\u{1b}[33mctx 41 %\u{1b}[0m"
    );
    // A session that is not in the ledger yet.
    let mut other = input();
    other["session_id"] = json!("s-9");
    assert_eq!(
        line(home.path(), &["--show", "session"], &serde_json::to_vec(&other).unwrap()),
        "~$3.42 session"
    );
    // Nothing has no sign.
    other["cost"]["total_cost_usd"] = json!(-0.0);
    other["context_window"]["used_percentage"] = json!(-0.0);
    assert_eq!(
        line(home.path(), &["--show", "session,ctx"], &serde_json::to_vec(&other).unwrap()),
        "~$0.00 session · ctx 0 %"
    );
    for words in [&["--show", "weather"][..], &["--tz", "Mars/Olympus"]] {
        assert_eq!(statusline(home.path(), words, &text).status.code(), Some(2));
    }
}

#[test]
fn no_input_is_in_the_way() {
    let home = home_with(&[turn("m1", "2026-11-29T08:00:00Z", json!({}))]);
    super::burn(home.path(), &["usage"]);
    let mut found = Vec::new();
    paths(&input(), &[], &mut found);
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    let strange = [
        Value::Null,
        json!(-1e300),
        json!("\u{1b}[31m\u{202e}\n*"),
        json!([[]]),
        json!({"used_percentage": {}}),
        json!(true),
    ];
    for path in &found {
        let (last, parents) = path.split_last().unwrap();
        let with = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
            let mut input = input();
            let parent = parents.iter().fold(&mut input, |value, key| &mut value[key]);
            change(parent.as_object_mut().unwrap());
            serde_json::to_vec(&input).unwrap()
        };
        inputs.push(with(&|object| drop(object.remove(last))));
        inputs.extend(
            strange.iter().map(|value| with(&|object| drop(object.insert(last.clone(), value.clone())))),
        );
    }
    let whole = serde_json::to_vec(&input()).unwrap();
    inputs.extend((0..whole.len()).step_by(40).map(|end| whole[..end].to_vec()));
    inputs.extend([
        b"\xff\xfe".to_vec(),
        b"[]".to_vec(),
        "[".repeat(100_000).into_bytes(),
        vec![b' '; 10 << 20],
    ]);
    println!("{} inputs", inputs.len());
    assert!(inputs.len() > 170);
    let show = ["--show", "session,today,month,ctx,5h,7d,spend,model,project"];
    common::in_parallel(&inputs, |input| {
        let line = line(home.path(), &show, input);
        assert!(!line.contains(['\u{1b}', '\u{202e}', '\r']), "{line:?}");
    });
}

#[test]
fn no_home_is_in_the_way_and_none_is_changed() {
    let text = serde_json::to_vec(&input()).unwrap();
    let limits = "~$3.42 session · ctx 41 % · 5h 23 % (2h10m) · 7d 80 % (3d2h) · spend 7 %";
    let nowhere = tempfile::tempdir().unwrap();
    let home = nowhere.path().join("none");
    assert_eq!(line(&home, &[], &text), limits);
    assert!(!home.exists());
    let home = home_with(&[turn("m1", "2026-11-29T08:00:00Z", json!({}))]);
    super::burn(home.path(), &["usage"]);
    let seen = || {
        let names = common::names(home.path());
        names
            .into_iter()
            .map(|name| {
                let metadata = fs::metadata(home.path().join(&name)).unwrap();
                (name, metadata.modified().unwrap(), metadata.len())
            })
            .collect::<Vec<_>>()
    };
    let before = seen();
    assert_eq!(line(home.path(), &["--show", "session,today"], &text), "$0.01 session · $0.01 today");
    assert_eq!(seen(), before);
    // Another process has the archive open and holds the lock.
    let writer = rusqlite::Connection::open(home.path().join("archive.sqlite")).unwrap();
    writer.execute_batch("BEGIN IMMEDIATE; UPDATE turns SET turn_index = 9").unwrap();
    fs::write(home.path().join("archive.lock"), "x").unwrap();
    assert_eq!(line(home.path(), &["--show", "session,today"], &text), "$0.01 session · $0.01 today");
    drop(writer);
    // If the ledger has more than can be read in time, the rest is left out, and the line shows it.
    let filler = format!("{}\n", "x".repeat(5 << 20));
    let mut ledger = fs::OpenOptions::new().append(true).open(home.path().join("ledger.jsonl")).unwrap();
    ledger.write_all(filler.as_bytes()).unwrap();
    assert_eq!(line(home.path(), &["--show", "today"], &text), "$0.01+ today");
    for damage in ["", "no database", &"SQLite format 3\0".repeat(1000)] {
        fs::write(home.path().join("archive.sqlite"), damage).unwrap();
        assert_eq!(line(home.path(), &["--show", "session,ctx"], &text), "~$3.42 session · ctx 41 %");
    }
    fs::write(home.path().join("prices.json"), "{").unwrap();
    assert_eq!(line(home.path(), &["--show", "ctx"], &text), "ctx 41 %");
}

#[test]
fn nobody_waits_for_an_input_that_does_not_end() {
    let home = home_with(&[]);
    let start = Clock::now();
    let mut command = command(home.path(), &[]);
    command.env_remove("BURN_DEADLINE_MS");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!((output.status.code(), &*output.stdout, &*output.stderr), (Some(0), &b"\n"[..], &b""[..]));
    drop(stdin);
}

#[test]
fn a_check_says_what_is_wrong() {
    let home = home_with(&[turn("m1", "2026-11-29T08:00:00Z", json!({}))]);
    let text = serde_json::to_vec(&input()).unwrap();
    let check = |home: &Path, input: &[u8]| {
        let output = statusline(home, &["--check"], input);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(check(home.path(), &text), (Some(0), "nothing is wrong\n".to_owned()));
    let (code, said) = check(home.path(), b"{");
    assert!(code == Some(1) && said.contains("it is no JSON"), "{said}");
    let (code, said) = check(home.path(), b"{}");
    assert!(code == Some(1) && said.contains("no session_id"), "{said}");
    fs::write(home.path().join("archive.sqlite"), "no database").unwrap();
    let (code, said) = check(home.path(), &text);
    assert!(code == Some(1) && said.contains("archive.sqlite"), "{said}");
    let (code, said) = check(&home.path().join("none"), &text);
    assert!(code == Some(1) && said.contains("burn ingest"), "{said}");
}

#[test]
fn costs_are_those_of_usage() {
    let mut random = Random::new(78);
    let interrupt = Interrupt::new();
    for _ in 0..10 * common::scale() {
        let models = ["claude-opus-4-7", "gpt-5.5", "my-gateway", "<synthetic>"];
        let times = [
            "2026-11-29T00:00:00Z",
            "2026-11-28T23:59:59.999Z",
            "2026-11-29 10:00",
            "2026-11-30T01:00:00+02:00",
            "soon",
            "2026-11-01T10:00:00Z",
        ];
        let lines: Vec<String> = (0..200)
            .map(|_| {
                let more = json!({
                    "source": (["claude-code", "codex"][random.below(2) as usize]), "sessionId": (format!("s-{}", random.below(4))),
                    "model": (models[random.below(4) as usize]),
                    "usage": {"input": (random.below(1000)), "output": (random.below(90)), "reasoning": 0, "cacheRead": 7, "cacheCreate5m": 0, "cacheCreate1h": 1}
                });
                let line = turn(&format!("m{}", random.below(60)), times[random.below(6) as usize], more);
                if random.below(20) == 0 { "no line\n".to_owned() } else { format!("{line}\n") }
            })
            .collect();
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        let paths = Paths::of_home(&home);
        let prices = Prices::of_home(&home).unwrap();
        let since = |text: &str| Question { since: Instant::of_turn(text), ..Question::default() };
        let session = |id: &str| Question {
            filters: Filters { session: vec![Pattern::new(id)], ..Filters::default() },
            ..Question::default()
        };
        let questions = [
            since("2026-11-29T00:00:00Z"),
            session("s-1"),
            since("2026-11-01T00:00:00Z"),
            session("s-9"),
            Question::default(),
        ];
        let read = random.below(200) as usize;
        fs::write(home.ledger(), lines[..read].concat()).unwrap();
        if random.below(4) > 0 {
            build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
        }
        // The last line is not complete yet.
        fs::write(home.ledger(), format!("{}{}", lines.concat(), &lines[0][..lines[0].len() / 2])).unwrap();
        let glance = usage::glance(&paths, &questions, &prices, &interrupt).unwrap();
        assert!(!glance.is_behind);
        build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
        for (question, sums) in questions.iter().zip(&glance.sums) {
            assert_eq!(
                usage::ask(&paths, question, &prices, &interrupt).unwrap().total,
                *sums,
                "{question:?}"
            );
        }
        assert_eq!(usage::glance(&paths, &questions, &prices, &interrupt).unwrap(), glance);
    }
}

/// The lines of a random home: turns of two days, some of them without a price, without a time or repeated.
fn random_lines(random: &mut Random) -> Vec<String> {
    let models = ["claude-opus-4-7", "gpt-5.5", "my-gateway"];
    let times = [
        "2026-11-29T00:00:00Z",
        "2026-11-28T23:59:59.999Z",
        "2026-11-29T16:10:00Z",
        "2026-11-29T09:00:00Z",
        "soon",
    ];
    let line = |random: &mut Random| {
        let more = json!({
            "source": (["claude-code", "codex"][random.below(2) as usize]), "model": (models[random.below(3) as usize]),
            "usage": {"input": (random.below(9000)), "output": (random.below(900)), "reasoning": 0, "cacheRead": 7, "cacheCreate5m": 0, "cacheCreate1h": 1}
        });
        format!("{}\n", turn(&format!("m{}", random.below(40)), times[random.below(5) as usize], more))
    };
    (0..random.below(60)).map(|_| line(random)).collect()
}

/// `0.0049` dollars in the form of the line; half a cent rounds to the even cent.
fn in_cents(usd: &str) -> String {
    let (whole, decimals) = usd.split_once('.').unwrap_or((usd, ""));
    let padded = format!("{decimals:0<24}");
    let cents: u64 = format!("{whole}{}", &padded[..2]).parse().unwrap();
    let rest: u128 = padded[2..].parse().unwrap();
    let half = 5 * 10_u128.pow(21);
    let is_up = rest > half || (rest == half && cents % 2 == 1);
    let cents = cents + u64::from(is_up);
    format!("${}.{:02}", cents / 100, cents % 100)
}

#[test]
fn the_line_says_what_usage_says() {
    let mut random = Random::new(79);
    let text = serde_json::to_vec(&input()).unwrap();
    for _ in 0..12 * common::scale() {
        let home = home_with(&[]);
        let lines = random_lines(&mut random);
        let read = random.below(lines.len() as u64 + 1) as usize;
        fs::write(home.path().join("ledger.jsonl"), lines[..read].concat()).unwrap();
        if random.below(4) > 0 {
            super::burn(home.path(), &["usage"]);
        }
        fs::write(home.path().join("ledger.jsonl"), lines.concat()).unwrap();
        let shown = line(home.path(), &["--show", "today,block"], &text);
        let total = |args: &[&str]| -> Value {
            let args = [&["usage", "--tz", "UTC", "--json"], args].concat();
            // Numbers keep all their digits as texts.
            let document: Box<serde_json::value::RawValue> =
                serde_json::from_str(&super::burn(home.path(), &args)).unwrap();
            let total = document.get().rsplit_once("\"total\":").unwrap().1;
            let usd = total.split_once("\"usd\":").unwrap().1.split_once(',').unwrap().0.trim();
            let count = |key: &str| -> u64 {
                let text = total.split_once(&format!("\"{key}\":")).unwrap().1;
                text.split([',', '}']).next().unwrap().trim().parse().unwrap()
            };
            json!([usd, count("unpricedTokens"), count("tokens"), count("lowerBoundTurns"), count("turns")])
        };
        let cost = |total: &Value| {
            let [unpriced, tokens, bounds] = [1, 2, 3].map(|place| total[place].as_u64().unwrap());
            let usd = total[0].as_str().unwrap();
            let sign = if unpriced > 0 || bounds > 0 { "≥ " } else { "" };
            if usd == "0" && unpriced > 0 && unpriced == tokens {
                "unpriced".to_owned()
            } else {
                format!("{sign}{}", in_cents(usd))
            }
        };
        let today = total(&["--since", "today"]);
        let block = total(&["--active"]);
        let mut wanted = format!("{} today", cost(&today));
        if block[4] != 0 {
            wanted += &format!(" · {} block (3h40m)", cost(&block));
        }
        assert_eq!(shown, wanted);
    }
}

#[test]
fn a_block_is_found_however_long_ago_the_last_pause_was() {
    let hours = |count: i64| -> Vec<String> {
        let now = Instant::of_turn(NOW).unwrap().seconds;
        let at = |hour: i64| Instant::at(now - hour * 3600 - 60).to_rfc3339();
        (0..count).map(|hour| format!("{}\n", turn(&format!("m{hour}"), &at(hour), json!({})))).collect()
    };
    let interrupt = Interrupt::new();
    let now = Instant::of_turn(NOW).unwrap();
    // Turns every hour for so long; the last pause is within a day, eight days, 64 days, or there is none.
    for count in [1, 7, 30, 24 * 20, 24 * 100] {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        let paths = Paths::of_home(&home);
        fs::write(home.ledger(), hours(count).concat()).unwrap();
        build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
        let prices = Prices::of_home(&home).unwrap();
        let block = usage::active_block(&paths, &prices, now, &interrupt).unwrap().unwrap();
        let blocks = Question { period: Some(usage::Period::Block), until: Some(now), ..Question::default() };
        let blocks = usage::ask(&paths, &blocks, &prices, &interrupt).unwrap();
        let last = blocks.rows.last().unwrap();
        let period = last.period.as_ref().unwrap();
        assert_eq!((Some(block.start), Some(block.end)), (period.start, period.end), "{count}");
        assert_eq!(block.sums, last.sums, "{count}");
        // Five hours later it is over.
        let later = Instant::at(now.seconds + 5 * 3600);
        assert_eq!(usage::active_block(&paths, &prices, later, &interrupt).unwrap(), None);
    }
}

/// The file operations of a run, from `strace`; `None` if it is not installed.
fn calls(home: &Path, args: &[&str], input: &[u8]) -> Option<Vec<String>> {
    let log = tempfile::NamedTempFile::new().unwrap();
    let plain = command(home, args);
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-e",
        "trace=%file,ftruncate,fcntl,flock,fsync,fdatasync,write,pwrite64,fchmod",
        "-o",
    ]);
    strace.arg(log.path()).arg(plain.get_program()).args(plain.get_args()).current_dir("/");
    for (name, value) in plain.get_envs() {
        strace.env(name, value.unwrap());
    }
    let mut child = match strace.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("{error}"),
    };
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty());
    Some(fs::read_to_string(log.path()).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn nothing_is_written_and_no_lock_is_taken() {
    let home = home_with(&[turn("m1", "2026-11-29T08:00:00Z", json!({"sessionId": "s-1"}))]);
    super::burn(home.path(), &["usage"]);
    let more = format!("{}\n", turn("m2", "2026-11-29T09:00:00Z", json!({})));
    let mut ledger = fs::OpenOptions::new().append(true).open(home.path().join("ledger.jsonl")).unwrap();
    ledger.write_all(more.as_bytes()).unwrap();
    let text = serde_json::to_vec(&input()).unwrap();
    let Some(calls) = calls(home.path(), &["--show", "session,today,month,block"], &text) else {
        println!("strace is not installed");
        return;
    };
    let root = home.path().to_str().unwrap();
    let mut opened = BTreeSet::new();
    for call in &calls {
        let is_writing_open = call.contains("open")
            && ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.contains(flag));
        let is_of_null = call.contains("\"/dev/null\"");
        assert!(!is_writing_open || is_of_null, "{call}");
        let changes = "unlink rename mkdir link( linkat truncate chmod fsync fdatasync pwrite flock( F_SETLK F_OFD_SETLK utime";
        let name = call.split_whitespace().nth(1).unwrap_or_default();
        assert!(!changes.split(' ').any(|change| name.starts_with(change) || (change.starts_with("F_") && call.contains(change))), "{call}");
        // Only standard output, and signals between threads.
        assert!(!name.starts_with("write(") || name.starts_with("write(1,"), "{call}");
        if call.contains("open")
            && !call.contains("ENOENT")
            && let Some(path) = call.split('"').nth(1)
        {
            opened.insert(path.to_owned());
        }
    }
    let of_home: Vec<&str> = opened.iter().filter_map(|path| path.strip_prefix(root)).collect();
    assert_eq!(of_home, ["/archive.sqlite", "/ledger.jsonl"], "{opened:?}");
    // The system's libraries and time zones, and its facts about the process.
    let system = ["/lib", "/usr/", "/etc/", "/proc/", "/sys/", "/dev/null", "/dev/urandom"];
    let others = opened.iter().filter(|path| !path.starts_with(root));
    let others: Vec<_> = others.filter(|path| !system.iter().any(|start| path.starts_with(start))).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn an_import_takes_in_the_log_of_the_session() {
    let home = home_with(&[]);
    let log = home.path().join("projects/p/s-7.jsonl");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    let message = json!({
        "type": "assistant", "uuid": "u-1", "sessionId": "s-7", "timestamp": "2026-11-29T08:00:00.000Z", "requestId": "r-1",
        "message": {"id": "msg-1", "role": "assistant", "model": "claude-opus-4-7", "content": [], "stop_reason": "end_turn",
            "usage": {"input_tokens": 1000, "output_tokens": 200, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}}
    });
    fs::write(&log, format!("{message}\n")).unwrap();
    let mut input = input();
    input["session_id"] = json!("s-7");
    input["transcript_path"] = json!(log);
    let text = serde_json::to_vec(&input).unwrap();
    let turns = || fs::read_to_string(home.path().join("ledger.jsonl")).unwrap().matches("msg-1").count();
    // Without the option, and while another process builds the archive, nothing is imported.
    assert_eq!(line(home.path(), &["--show", "session"], &text), "~$3.42 session");
    let lock = home.path().join("archive.lock");
    fs::write(&lock, "x").unwrap();
    assert_eq!(line(home.path(), &["--show", "session", "--import"], &text), "~$3.42 session");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(turns(), 0);
    fs::remove_file(&lock).unwrap();
    // The line comes before the import, so the next line has the turn. A debug build may need several imports.
    let deadline = Clock::now() + Duration::from_secs(60);
    while turns() == 0 {
        assert!(Clock::now() < deadline);
        assert_eq!(line(home.path(), &["--show", "session", "--import"], &text), "~$3.42 session");
        std::thread::sleep(Duration::from_millis(600));
    }
    assert_eq!(line(home.path(), &["--show", "session", "--import"], &text), "$0.01 session");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(turns(), 1);
    // An import belongs to one line, so a call that fails is not kept, unlike the call of a hook.
    assert_eq!(statusline(home.path(), &["--import", "--check"], &text).status.code(), Some(2));
    assert!(!home.path().join("hooks").exists());
}

/// Whatever the speed of the machine, an import takes in a part of the log, and the next one goes on after this part.
#[test]
fn imports_take_in_a_long_log_part_by_part() {
    const TURNS: usize = 800;
    let home = home_with(&[]);
    let log = home.path().join("projects/p/s-8.jsonl");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    let answer = |number: usize| {
        let (minute, second) = (number / 60, number % 60);
        let message = json!({
            "type": "assistant", "uuid": format!("u-{number}"), "sessionId": "s-8", "requestId": format!("r-{number}"),
            "timestamp": format!("2026-11-29T08:{minute:02}:{second:02}.000Z"),
            "message": {"id": format!("msg-{number}"), "role": "assistant", "model": "claude-opus-4-7",
                "content": [{"type": "text", "text": "x".repeat(1_500)}], "stop_reason": "end_turn",
                "usage": {"input_tokens": 1000, "output_tokens": 200}}
        });
        format!("{message}\n")
    };
    fs::write(&log, (0..TURNS).map(answer).collect::<String>()).unwrap();
    let mut input = input();
    input["session_id"] = json!("s-8");
    input["transcript_path"] = json!(log);
    let text = serde_json::to_vec(&input).unwrap();
    let turns = || fs::read_to_string(home.path().join("ledger.jsonl")).unwrap().matches("\"msg-").count();
    let deadline = Clock::now() + Duration::from_secs(120);
    while turns() < TURNS {
        assert!(Clock::now() < deadline, "{} turns of {TURNS}", turns());
        line(home.path(), &["--show", "ctx", "--import"], &text);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(turns(), TURNS);
}
