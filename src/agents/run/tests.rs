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
