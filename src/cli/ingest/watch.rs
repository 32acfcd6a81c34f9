//! `burn ingest --watch`: a run for each burst of changes, and a run from time to time in case a change was not reported.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::notes::{IngestNotes, sentence};
use crate::agents::{
    AgentsError, EventScope, EventStream, Ingest, IngestObserver as _, LogWatch, StreamStep,
};
use crate::cli::{grouped, warn, wrong_usage};
use crate::interrupt::Interrupt;

/// The time between two runs where changes are not reported, in milliseconds.
const POLL_MS: u64 = 1_000;
/// The time between two runs where changes are reported, in case a report is lost, and because a message is written after
/// its log has been at rest for some time.
const NET: Duration = Duration::from_secs(30);
/// When a run follows that saw a change: a finished message is written 5 s after its last line.
const SETTLED: Duration = Duration::from_millis(5_100);
/// How long to wait at a time, so that an interrupt is seen.
const SLICE: Duration = Duration::from_millis(50);

/// The options that only have an effect with `--watch`.
#[derive(Debug, clap::Args)]
pub(super) struct WatchArgs {
    /// With --watch: run every MS milliseconds, instead of when the system reports a change of a log.
    #[arg(long, value_name = "MS")]
    interval: Option<String>,
    /// With --watch: follow the events of an OpenCode server, too.
    #[arg(long)]
    opencode_stream: bool,
    /// With --opencode-stream: the server [default: OPENCODE_SERVER_URL, else http://127.0.0.1:4096].
    #[arg(long, value_name = "URL")]
    opencode_url: Option<String>,
    /// With --opencode-stream: follow the events of all projects of the server.
    #[arg(long)]
    opencode_global: bool,
    #[arg(long, hide = true)]
    daemon: bool,
}

impl WatchArgs {
    /// Refuses a daemon and an interval that is none. Warns of options that have no effect without another one.
    pub(super) fn check(&self, watches: bool, is_quiet: bool) {
        if watches {
            if self.daemon {
                wrong_usage(&["ingest"], "--daemon is not supported; run --watch under a service manager");
            }
            self.interval_ms();
        }
        for (name, is_given, needed, is_there) in [
            ("--interval", self.interval.is_some(), "--watch", watches),
            ("--opencode-stream", self.opencode_stream, "--watch", watches),
            ("--daemon", self.daemon, "--watch", watches),
            ("--opencode-url", self.opencode_url.is_some(), "--opencode-stream", self.opencode_stream),
            ("--opencode-global", self.opencode_global, "--opencode-stream", self.opencode_stream),
        ] {
            if is_given && !is_there && !is_quiet {
                warn(&format!("{name} only has an effect with {needed}"));
            }
        }
    }

    /// The time between two runs, if it is given.
    fn interval_ms(&self) -> Option<u64> {
        match self.interval.as_ref()?.parse() {
            Ok(0) | Err(_) => {
                wrong_usage(&["ingest"], "--interval must be a positive integer in milliseconds")
            }
            Ok(ms) => Some(ms),
        }
    }
}

/// What makes the next run begin.
enum WatchPace {
    /// Only the time: every so many milliseconds.
    Polls(u64),
    /// A change, or the time.
    Changes(Box<LogWatch>),
}

impl WatchPace {
    fn of(args: &WatchArgs, ingest: &Ingest) -> Result<Self, AgentsError> {
        match args.interval_ms() {
            Some(ms) => Ok(WatchPace::Polls(ms)),
            // The TypeScript package polls.
            None if ingest.as_reference() => Ok(WatchPace::Polls(POLL_MS)),
            None => Ok(WatchPace::Changes(Box::new(LogWatch::of(ingest)?))),
        }
    }

    /// Gives events up when they cannot be relied on, and says why.
    fn give_up_if_faulty(&mut self, notes: &mut IngestNotes) {
        let WatchPace::Changes(watch) = self else { return };
        if let Some(reason) = watch.fault() {
            let every = grouped(POLL_MS);
            notes.say(&format!("[burn] ingest: {reason}; every {every} ms a run looks for changes instead"));
            *self = WatchPace::Polls(POLL_MS);
        }
    }

    /// Whether a change was reported that no run has read yet.
    fn has_changes(&self) -> bool {
        matches!(self, WatchPace::Changes(watch) if watch.has_changes())
    }

    /// Makes all changes before this moment part of the run that follows.
    fn begin_run(&mut self) {
        if let WatchPace::Changes(watch) = self {
            watch.catch_up();
        }
    }
}

/// Runs until a signal comes.
pub(super) fn run(
    args: &WatchArgs,
    ingest: &mut Ingest,
    notes: &mut IngestNotes,
    interrupt: &Interrupt,
) -> anyhow::Result<ExitCode> {
    let mut pace = WatchPace::of(args, ingest)?;
    pace.begin_run();
    pace.give_up_if_faulty(notes);
    notes.say(&match &pace {
        WatchPace::Polls(ms) => {
            format!("[burn] ingest: watching every {} ms; SIGINT or SIGTERM ends it", grouped(*ms))
        }
        WatchPace::Changes(_) => "[burn] ingest: watching for changes; SIGINT or SIGTERM ends it".to_owned(),
    });
    let mut stream = if args.opencode_stream { connect(args, ingest, notes, interrupt) } else { None };
    let mut saw_change = true;
    while !interrupt.is_requested() {
        let started = Instant::now();
        notes.forget_older();
        match ingest.run(notes, interrupt) {
            Ok(report) if report.appended_turns > 0 => notes.say(&sentence(&report)),
            Ok(_) => {}
            Err(AgentsError::Interrupted) => break,
            Err(error) => notes.note(&format!("[burn] ingest: {error}")),
        }
        notes.spinner.clear();
        let waiting = RunWait::after(&pace, started, Instant::now(), saw_change);
        saw_change = waiting.wait(&pace, &mut stream, ingest, notes, interrupt);
        if let (WatchPace::Changes(watch), false) = (&pace, saw_change) {
            watch.distrust();
        }
        pace.begin_run();
        pace.give_up_if_faulty(notes);
    }
    Ok(ExitCode::SUCCESS)
}

fn connect(
    args: &WatchArgs,
    ingest: &Ingest,
    notes: &mut IngestNotes,
    interrupt: &Interrupt,
) -> Option<EventStream> {
    let scope = if args.opencode_global { EventScope::Global } else { EventScope::Project };
    let connected = ingest.connect(args.opencode_url.as_deref(), scope, interrupt);
    connected.map_err(|error| notes.say(&stream_is_over(&error.to_string()))).ok()
}

fn stream_is_over(reason: &str) -> String {
    format!("[burn] ingest: OpenCode event stream unavailable ({reason}); the runs go on")
}

/// The wait for the next run.
struct RunWait {
    /// When the run begins at the latest.
    until: Instant,
    /// When the run begins at the earliest, even if a log changes.
    not_before: Instant,
}

impl RunWait {
    /// The wait after a run that began at `started` and ended at `ended`.
    fn after(pace: &WatchPace, started: Instant, ended: Instant, saw_change: bool) -> Self {
        let usual = match pace {
            WatchPace::Polls(ms) => {
                return RunWait { until: ended + Duration::from_millis(*ms), not_before: ended };
            }
            WatchPace::Changes(_) if saw_change => SETTLED,
            WatchPace::Changes(_) => NET,
        };
        // Reading takes a third of the time at most, however many logs there are.
        let not_before = ended + (ended - started) * 2;
        RunWait { until: not_before.max(started + usual), not_before }
    }

    /// Waits for the next run. Returns whether something has changed. Events of OpenCode that come meanwhile are taken; those
    /// about sessions are a reason to run as soon as a run may begin.
    fn wait(
        &self,
        pace: &WatchPace,
        stream: &mut Option<EventStream>,
        ingest: &mut Ingest,
        notes: &mut IngestNotes,
        interrupt: &Interrupt,
    ) -> bool {
        let mut is_wanted = false;
        loop {
            let now = Instant::now();
            let left = self.until.saturating_duration_since(now);
            if left.is_zero() || interrupt.is_requested() {
                // A burst of changes that has not ended yet is a change, too.
                return is_wanted || pace.has_changes();
            }
            let may_run = is_wanted && now >= self.not_before;
            let slice = left.min(SLICE);
            let wait_here = match stream {
                None if may_run => return true,
                None => slice,
                Some(following) => match ingest.follow(following, slice, notes, interrupt) {
                    Ok(StreamStep::Taken { is_about_sessions }) => {
                        is_wanted |= is_about_sessions;
                        continue;
                    }
                    Ok(StreamStep::Ended(reason)) => {
                        if !interrupt.is_requested() {
                            notes.say(&stream_is_over(&reason));
                        }
                        *stream = None;
                        continue;
                    }
                    Ok(_) if may_run => return true,
                    Ok(_) => Duration::ZERO,
                    Err(error) => {
                        notes.say(&stream_is_over(&error.to_string()));
                        *stream = None;
                        continue;
                    }
                },
            };
            match pace {
                WatchPace::Changes(watch) if watch.wait(wait_here, self.not_before) => return true,
                WatchPace::Changes(_) => {}
                WatchPace::Polls(_) => std::thread::sleep(wait_here),
            }
        }
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::agents::{Agent, IngestOptions};
    use crate::home::Home;

    #[test]
    fn a_run_begins_late_after_a_long_run_and_knows_of_changes_meanwhile() {
        let sandbox = tempfile::tempdir().unwrap();
        let root = sandbox.path().join("projects");
        std::fs::create_dir_all(root.join("-p")).unwrap();
        let roots = vec![(Agent::Claude, root.clone())];
        let options = IngestOptions { agents: vec![Agent::Claude], roots, ..IngestOptions::default() };
        let mut ingest = Ingest::new(Home::at(sandbox.path().join("home")), options);
        let mut watch = LogWatch::of(&ingest).unwrap();
        watch.catch_up();
        let pace = WatchPace::Changes(Box::new(watch));

        let started = Instant::now();
        let seconds = |seconds| started + Duration::from_secs(seconds);
        for saw_change in [true, false] {
            let after = RunWait::after(&pace, started, seconds(3), saw_change);
            assert_eq!(after.not_before, seconds(9));
            assert_eq!(after.until, if saw_change { seconds(9) } else { seconds(30) });
        }

        let (mut notes, interrupt) = (IngestNotes::new(true, None), Interrupt::new());
        let mut wait = |pace: &WatchPace| {
            let now = Instant::now();
            let waiting = RunWait { until: now, not_before: now };
            waiting.wait(pace, &mut None, &mut ingest, &mut notes, &interrupt)
        };
        assert!(!wait(&pace), "nothing has changed");
        std::fs::write(root.join("-p/a.jsonl"), "x").unwrap();
        while !pace.has_changes() {
            assert!(started.elapsed() < Duration::from_secs(30), "the change is not reported");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(wait(&pace), "the change was reported before the wait");
    }
}
