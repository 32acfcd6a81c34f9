//! Reads the session logs of Claude Code, Codex, OpenCode and Gemini CLI into the ledger.
//!
//! [`Ingest::run`] finds the logs, reads their new lines, and appends turns, user turns, tool results, compactions and
//! relationships between sessions to the ledger of a home. `docs/agents.md` describes each agent's logs and how they
//! become records.
//!
//! Touches: the logs, for reading only; the ledger and the sidecars, by ordinary appends; `cursors.json`,
//! `pending-stamps/`, `hooks/`, `ingest.side.json` and the derived `ingest.known` and `ingest.state/` of the home.
//!
//! Guarantees: a message counts once, however often its agent wrote it; reading in any number of passes gives the lines
//! of one pass; after a run was killed, the next run completes its work; each line that made no record is counted by
//! its reason.
//!
//! ```no_run
//! use relayburn_ledger::agents::{Agent, Ingest, IngestOptions, NoObserver};
//! use relayburn_ledger::home::Home;
//! use relayburn_ledger::interrupt::Interrupt;
//!
//! let options = IngestOptions { agents: vec![Agent::Claude, Agent::Codex], ..IngestOptions::default() };
//! let report = Ingest::new(Home::from_env()?, options).run(&mut NoObserver, &Interrupt::new())?;
//! println!("{} turns are new, {} lines are broken", report.appended.turns, report.malformed_lines);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod activity;
mod burn_database;
mod calls;
mod claude;
mod codex;
mod content;
mod cursors;
mod error;
mod fidelity;
mod follow;
mod gemini;
mod hook;
mod js;
mod kept;
mod known;
mod ledger_turns;
mod lines;
mod measure;
mod opencode;
mod pass;
mod pending;
mod project;
mod readers;
mod report;
mod run;
mod settings;
mod sqlite;
mod terms;
mod tokens;
mod walk;
#[cfg(feature = "cli")]
mod watch;

pub use error::AgentsError;
use error::GivenUp;
pub use follow::{EventScope, EventStream, StreamStep};
pub use kept::{HookCall, keep_hook};
pub use pass::{Agent, ContentMode, Reason};
pub use report::{
    AgentReport, HookReport, IngestObserver, IngestOptions, IngestProgress, IngestReport, NamedLine,
    NoObserver, RecordCounts, SkippedFile,
};
pub use run::Ingest;
pub use walk::Unreadable;
#[cfg(feature = "cli")]
pub(crate) use watch::LogWatch;
