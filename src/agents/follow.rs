//! Follows the event stream of an OpenCode server beside the ordinary runs.
//!
//! A thread reads the server's events. The owner of the [`EventStream`] takes them one by one and appends the records
//! that they lead to. The cursor is saved after each write, and at least every two seconds while events arrive.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::opencode::{Awaited, Received, RecordRules, Request, StreamState};
use super::pass::{Agent, Gathered};
use super::report::IngestObserver;
use super::run::{Ingest, Run};
use super::{AgentReport, AgentsError, settings};
use crate::interrupt::Interrupt;
use crate::scan::json::Document;

/// The greatest number of events that wait.
const WAITING_EVENTS: usize = 64;

/// How long a changed cursor waits to be saved while nothing is written.
const SAVE_EVERY: Duration = Duration::from_secs(2);

/// The default server.
const USUAL_URL: &str = "http://127.0.0.1:4096";

/// Selects the events of an OpenCode server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventScope {
    /// The events of the project that the server works in.
    #[default]
    Project,
    /// The events of all projects.
    Global,
}

/// The result of waiting for an event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamStep {
    /// No event has come.
    Nothing,
    /// An event was taken. The flag says whether it was about sessions, whose files may have changed.
    Taken {
        /// Whether an ordinary run may find something new now.
        is_about_sessions: bool,
    },
    /// The stream has ended, for this reason.
    Ended(String),
}

/// The events of an OpenCode server.
#[derive(Debug)]
pub struct EventStream {
    /// The name of its cursor.
    key: PathBuf,
    state: StreamState,
    received: Receiver<Received>,
    is_unsaved: bool,
    saved: Instant,
}

impl Ingest {
    /// Connects to an OpenCode server: `url`, else `OPENCODE_SERVER_URL`, else port 4096 of this machine. The stream
    /// continues after the last event that was taken from the same server. A thread makes the connection and ends with
    /// `interrupt`.
    ///
    /// # Errors
    /// When the URL is invalid, or the cursors cannot be read. [`Ingest::follow`] reports a server that does not
    /// answer.
    pub fn connect(
        &self,
        url: Option<&str>,
        scope: EventScope,
        interrupt: &Interrupt,
    ) -> Result<EventStream, AgentsError> {
        let variable = |name| settings::variable(name).map(|value| value.to_string_lossy().into_owned());
        let url = url.map(str::to_owned).or_else(|| variable("OPENCODE_SERVER_URL"));
        let url = url.unwrap_or_else(|| USUAL_URL.to_owned());
        let url = url.trim_end_matches('/');
        let user = variable("OPENCODE_SERVER_USERNAME").unwrap_or_else(|| "opencode".to_owned());
        let password = variable("OPENCODE_SERVER_PASSWORD");
        let login = password.as_ref().map(|password| (&user[..], &password[..]));
        let is_global = scope == EventScope::Global;
        let mut request = Request::of(url, is_global, login)
            .map_err(|reason| AgentsError::Unusable { path: PathBuf::from(url), reason })?;
        let key =
            PathBuf::from(format!("opencode-stream:{url}:{}", if is_global { "global" } else { "project" }));
        let state = self.stream_state(&key)?;
        request.last_event = state.last_event.as_ref().map(|id| String::from_utf8_lossy(id).into_owned());
        let (sender, received) = crossbeam_channel::bounded(WAITING_EVENTS);
        let interrupt = interrupt.clone();
        let thread = std::thread::Builder::new().name("burn-opencode".into());
        thread.spawn(move || request.follow(&sender, &interrupt)).map_err(|source| AgentsError::Read {
            path: key.clone(),
            offset_bytes: 0,
            source,
        })?;
        Ok(EventStream { key, state, received, is_unsaved: false, saved: Instant::now() })
    }

    fn stream_state(&self, key: &Path) -> Result<StreamState, AgentsError> {
        let cursors = super::cursors::Cursors::load(self.home(), |_| {})?;
        let mut document = Document::default();
        let cursor = cursors.get(key, "opencode-stream").and_then(|cursor| document.parse(cursor).ok());
        Ok(cursor.map(StreamState::resume).unwrap_or_default())
    }

    /// Waits at most `wait` for an event and takes it.
    ///
    /// # Errors
    /// When the ledger cannot be written or the cursors cannot be saved. The stream then keeps its place.
    pub fn follow(
        &mut self,
        stream: &mut EventStream,
        wait: Duration,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<StreamStep, AgentsError> {
        let step = match stream.received.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => StreamStep::Nothing,
            Err(RecvTimeoutError::Disconnected) => StreamStep::Ended("its thread has ended".into()),
            Ok(Received::Ended(reason)) => StreamStep::Ended(reason),
            Ok(Received::Event { id, data }) => self.event(stream, id, &data, observer, interrupt)?,
        };
        let is_over = matches!(step, StreamStep::Ended(_)) || interrupt.is_requested();
        if stream.is_unsaved && (is_over || stream.saved.elapsed() >= SAVE_EVERY) {
            self.write_stream(stream, Gathered::default(), observer, &Interrupt::new())?;
        }
        Ok(step)
    }

    fn event(
        &mut self,
        stream: &mut EventStream,
        id: Option<Vec<u8>>,
        data: &[u8],
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<StreamStep, AgentsError> {
        let as_reference = self.as_reference();
        let effect = stream.state.apply_event(data, as_reference);
        let mut gathered = Gathered::default();
        if let Some(session) = &effect.flushes {
            let run = Run::new(self, observer, interrupt)?;
            let rules = RecordRules {
                as_reference,
                content: run.options.content,
                projects: &run.projects,
                session_path: Vec::new(),
                awaited: Awaited::Nothing,
                is_stream: true,
            };
            match stream.state.new_records(session, &rules) {
                // The TypeScript package gives the stream up, and forgets the event.
                Err(reason) => return Ok(StreamStep::Ended(reason.0.to_owned())),
                Ok(records) => gathered = records,
            }
            gathered.session_mtime_ms = run.options.now_ms;
        }
        if let Some(id) = id.filter(|id| !id.is_empty()) {
            stream.state.last_event = Some(id);
        }
        stream.is_unsaved = true;
        if effect.flushes.is_some() {
            self.write_stream(stream, gathered, observer, interrupt)?;
        }
        Ok(StreamStep::Taken { is_about_sessions: effect.is_about_sessions })
    }

    /// Appends records and saves the cursor.
    fn write_stream(
        &mut self,
        stream: &mut EventStream,
        mut gathered: Gathered,
        observer: &mut dyn IngestObserver,
        interrupt: &Interrupt,
    ) -> Result<(), AgentsError> {
        self.forget_without_ledger(observer, interrupt)?;
        gathered.cursor = Some(stream.state.cursor());
        let mut run = Run::new(self, observer, interrupt)?;
        let mut tally = AgentReport::default();
        run.write(stream.key.clone(), Agent::OpenCode, gathered, &mut tally)?;
        stream.is_unsaved = false;
        stream.saved = Instant::now();
        Ok(())
    }
}
