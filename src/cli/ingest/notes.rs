//! What `burn ingest` says while it works: notes on stderr, progress on a terminal.

use std::collections::HashSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use super::left_out::LeftOutFile;
use crate::agents::{Agent, IngestObserver, IngestProgress, IngestReport, NamedLine};
use crate::cli::output::counted;
use crate::cli::progress::Spinner;
use crate::cli::{grouped, human_bytes};
use crate::printable;

/// Notes go to stderr, progress to a terminal.
pub(super) struct IngestNotes {
    is_quiet: bool,
    pub(super) spinner: Spinner,
    /// When the logs of the agent at work were begun.
    started: Option<(Agent, Instant)>,
    /// With `--watch`: the notes of the last run, and of this run. A run does not repeat what the last run said.
    said: [HashSet<String>; 2],
    pub(super) left_out: Option<LeftOutFile>,
}

/// How far a run is: logs, bytes, and from the second second on the rate and the time left.
fn progress_text(progress: IngestProgress, elapsed: Duration) -> String {
    let IngestProgress { agent, done_logs, logs, done_bytes, bytes, .. } = progress;
    let mut text = format!("{}: {} of {}", agent.as_str(), grouped(done_logs), counted(logs, "log"));
    if bytes == 0 {
        return text;
    }
    text += &format!(", {} of {}", human_bytes(done_bytes), human_bytes(bytes));
    let rate = done_bytes as f64 / elapsed.as_secs_f64();
    if elapsed >= Duration::from_secs(1) && rate >= 1.0 {
        let left_seconds = bytes.saturating_sub(done_bytes) as f64 / rate;
        text += &format!(", {}/s, {left_seconds:.0} s left", human_bytes(rate as u64));
    }
    text
}

impl IngestNotes {
    pub(super) fn new(is_quiet: bool, left_out: Option<LeftOutFile>) -> Self {
        IngestNotes { is_quiet, spinner: Spinner::new(), started: None, said: Default::default(), left_out }
    }

    /// Prints a note, unless notes are off.
    pub(super) fn say(&self, text: &str) {
        if self.is_quiet {
            return;
        }
        self.spinner.suspend(|| {
            // IngestNotes are for people; a closed stderr is no reason to lose records.
            let _ = std::io::stderr().lock().write_all(printable::lines(&format!("{text}\n")).as_bytes());
        });
    }

    /// Begins another run, which does not repeat the notes of the last.
    pub(super) fn forget_older(&mut self) {
        let [before, now] = &mut self.said;
        *before = std::mem::take(now);
    }
}

impl IngestObserver for IngestNotes {
    fn note(&mut self, text: &str) {
        let [before, now] = &mut self.said;
        now.insert(text.to_owned());
        if !before.contains(text) {
            self.say(text);
        }
    }

    fn progress(&mut self, progress: IngestProgress) {
        let started = match self.started {
            Some((agent, started)) if agent == progress.agent => started,
            _ => {
                let now = Instant::now();
                self.started = Some((progress.agent, now));
                now
            }
        };
        self.spinner.say(|| progress_text(progress, started.elapsed()));
    }

    fn left_out(&mut self, lines: &[NamedLine]) -> std::io::Result<()> {
        self.left_out.as_mut().map_or(Ok(()), |left_out| left_out.write(lines))
    }
}

/// The sentence that other programs may look for.
pub(super) fn sentence(report: &IngestReport) -> String {
    let (sessions, turns) = (report.ingested_sessions, report.appended_turns);
    format!("[burn] ingest: ingested {} (+{})", counted(sessions, "session"), counted(turns, "turn"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::agents::{Ingest, IngestOptions};
    use crate::home::Home;
    use crate::interrupt::Interrupt;

    #[test]
    fn progress_tells_rate_and_time_left_once_they_mean_something() {
        struct Last<'r>(&'r mut Option<IngestProgress>);
        impl IngestObserver for Last<'_> {
            fn note(&mut self, _text: &str) {}
            fn progress(&mut self, progress: IngestProgress) {
                if progress.done_logs == 1 && self.0.is_none() {
                    *self.0 = Some(progress);
                }
            }
        }
        let mut report = None;
        let folder = tempfile::tempdir().unwrap();
        let logs = folder.path().join("projects/-w");
        std::fs::create_dir_all(&logs).unwrap();
        for name in ["a", "b"] {
            std::fs::write(logs.join(format!("{name}.jsonl")), "{}\n".repeat(1_000)).unwrap();
        }
        let roots = vec![(Agent::Claude, folder.path().join("projects"))];
        let options =
            IngestOptions { agents: vec![Agent::Claude], roots, check: true, ..IngestOptions::default() };
        let mut ingest = Ingest::new(Home::at(folder.path().join("home")), options);
        ingest.run(&mut Last(&mut report), &Interrupt::new()).unwrap();
        let progress = report.unwrap();
        assert_eq!((progress.logs, progress.bytes, progress.done_bytes), (2, 6_000, 3_000));
        let early = progress_text(progress, Duration::from_millis(200));
        assert_eq!(early, format!("claude: 1 of 2 logs, {} of {}", human_bytes(3_000), human_bytes(6_000)));
        let later = progress_text(progress, Duration::from_secs(2));
        assert_eq!(later, format!("{early}, {}/s, 2 s left", human_bytes(1_500)));
    }
}
