//! Faults at every disk operation of a run.
#![allow(clippy::unwrap_used)]

use std::fs;

use super::*;
use crate::agents::NoObserver;
use crate::disk::faults::each_failure;

const SESSION: &str = "a0000000-0000-4000-8000-000000000001";

/// A log with two turns, a tool and its result. Every time is old, so that no rule waits.
fn log(session: &str, number: usize) -> String {
    let line = |place: usize, kind: &str, message: String| {
        format!(
            r#"{{"type":"{kind}","uuid":"u-{number}-{place}","sessionId":"{session}","cwd":"/w","timestamp":"2026-04-2{number}T00:00:0{place}.000Z","message":{message}}}"#
        ) + "\n"
    };
    let answer = |place: usize, content: &str, stop: &str| {
        let usage = r#"{"input_tokens":3,"output_tokens":7,"cache_read_input_tokens":5}"#;
        let message = format!(
            r#"{{"id":"msg_{number}_{place}","role":"assistant","model":"claude-opus-4-7","content":[{content}],"stop_reason":"{stop}","usage":{usage}}}"#
        );
        line(place, "assistant", message)
    };
    let tool =
        format!(r#"{{"type":"tool_use","id":"toolu_{number}","name":"Bash","input":{{"command":"ls"}}}}"#);
    let result = format!(
        r#"{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"toolu_{number}","content":"x"}}]}}"#
    );
    [
        line(1, "user", r#"{"role":"user","content":"look"}"#.to_owned()),
        answer(2, &tool, "tool_use"),
        line(3, "user", result),
        answer(4, r#"{"type":"text","text":"done"}"#, "end_turn"),
    ]
    .concat()
}

struct Sandbox(tempfile::TempDir);

impl Sandbox {
    fn new() -> Self {
        let sandbox = Sandbox(tempfile::tempdir().unwrap());
        let folder = sandbox.0.path().join("projects/-w");
        fs::create_dir_all(&folder).unwrap();
        for number in 0..2 {
            let session = SESSION.replace("a0", &format!("a{number}"));
            let path = folder.join(format!("{session}.jsonl"));
            fs::write(&path, log(&session, number)).unwrap();
            let old = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
            fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
        }
        sandbox
    }

    fn home(&self) -> PathBuf {
        self.0.path().join("home")
    }

    fn run(&self) -> Result<IngestReport, AgentsError> {
        let roots = vec![(Agent::Claude, self.0.path().join("projects"))];
        let options =
            IngestOptions { agents: vec![Agent::Claude], roots, threads: 1, ..IngestOptions::default() };
        Ingest::new(Home::at(self.home()), options).run(&mut NoObserver, &Interrupt::new())
    }

    /// The lines of ledger and content, sorted, without the folder's name.
    fn lines(&self) -> Vec<String> {
        let content = fs::read_dir(self.home().join("content")).into_iter().flatten();
        let mut files = vec![self.home().join("ledger.jsonl")];
        files.extend(content.map(|entry| entry.unwrap().path()));
        let text: String = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
        let mut lines: Vec<String> =
            text.replace(self.0.path().to_str().unwrap(), "~").lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// A process that ends leaves its locks behind, which are taken over after some seconds.
    fn remove_locks(&self) {
        for entry in fs::read_dir(self.home()).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "lock") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn a_run_of_which_any_operation_fails_is_made_good_by_the_next() {
    let whole = Sandbox::new();
    assert_eq!(whole.run().unwrap().appended.turns, 4);
    let wanted = whole.lines();
    each_failure(|harness| {
        let sandbox = Sandbox::new();
        let place = sandbox.0.path().to_str().unwrap().to_owned();
        match harness.run(|| sandbox.run()) {
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(&place), "{harness:?}: no path in {text}");
            }
            Ok(report) => {
                let named = report.skipped_files.iter().map(|skipped| &skipped.error);
                let named = named.chain(report.unreadable.iter().map(|found| &found.error));
                named.for_each(|error| assert!(error.contains(&place), "{harness:?}: no path in {error}"));
            }
        }
        sandbox.remove_locks();
        sandbox.run().unwrap();
        assert_eq!(sandbox.lines(), wanted, "{harness:?}");
        let report = sandbox.run().unwrap();
        assert_eq!((report.appended.total(), &report.skipped_files[..]), (0, &[][..]), "{harness:?}");
    });
}

/// A log of about 700 KB with a prompt and an answer for each of 1,000 turns. The log rests, but may grow again.
#[cfg(feature = "cli")]
fn sandbox_with_a_long_log() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox(tempfile::tempdir().unwrap());
    let path = sandbox.0.path().join("projects/-w").join(format!("{SESSION}.jsonl"));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let turn = |number: usize| {
        let line = |kind: &str, message: String| {
            let (minute, second) = (number / 60, number % 60);
            let uuid = format!("{kind}-{number}");
            format!(
                r#"{{"type":"{kind}","uuid":"{uuid}","sessionId":"{SESSION}","cwd":"/w","timestamp":"2026-04-20T00:{minute:02}:{second:02}.000Z","message":{message}}}"#
            ) + "\n"
        };
        let text = "x".repeat(200);
        line("user", format!(r#"{{"role":"user","content":"prompt {number}"}}"#))
            + &line(
                "assistant",
                format!(
                    r#"{{"id":"msg_{number}","role":"assistant","model":"claude-opus-4-7","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","usage":{{"input_tokens":3,"output_tokens":7}}}}"#
                ),
            )
    };
    fs::write(&path, (0..1_000).map(turn).collect::<String>()).unwrap();
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(hour_ago).unwrap();
    (sandbox, path)
}

#[cfg(feature = "cli")]
#[test]
fn each_part_of_a_log_goes_on_where_the_part_before_has_ended() {
    let (whole, _) = sandbox_with_a_long_log();
    assert_eq!(whole.run().unwrap().appended.turns, 1_000);
    let (parts, path) = sandbox_with_a_long_log();
    let call = format!(r#"{{"session_id":"{SESSION}","transcript_path":"{}"}}"#, path.display());
    let call = HookCall::parse(call.as_bytes()).unwrap().unwrap();
    let appended = |interrupt: &Interrupt| {
        let before = parts.lines().len();
        // The time is over when the part begins, as on a machine of any slowness.
        let told = Ingest::new(Home::at(parts.home()), IngestOptions::default()).import_part(
            &call,
            Instant::now(),
            interrupt,
        );
        told.map(|()| parts.lines().len() - before)
    };
    let mut count = 0;
    while appended(&Interrupt::new()).unwrap() > 0 {
        count += 1;
        let has_state = fs::read_dir(parts.home().join("ingest.state")).is_ok_and(|found| found.count() == 1);
        assert!(has_state || count <= 5, "{count}");
        // A part that is asked to stop at once changes nothing for the next.
        let interrupt = Interrupt::new();
        interrupt.request();
        assert!(matches!(appended(&interrupt), Err(AgentsError::Interrupted) | Ok(0)), "{count}");
    }
    assert!(count >= 8, "{count} parts");
    assert_eq!(parts.lines(), whole.lines());
}
