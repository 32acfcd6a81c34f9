//! Session logs of coding agents: from what Claude Code, Codex, OpenCode and Gemini CLI write to lines of the ledger.
//!
//! [`Ingest::run`] finds the logs, reads what is new in them, and appends turns, prompts, tool results, compactions and relations
//! between sessions to the ledger of a home. What each agent logs and how it becomes a record is in `docs/agents.md`.
//!
//! Touches: the logs, for reading alone; the ledger and the sidecars by their ordinary appends; `cursors.json`,
//! `ingest.side.json` and `pending-stamps/` of the home.
//!
//! Guarantees: a message is counted once, however often its agent wrote it; reading in any number of passes gives the lines of
//! one pass; a run that was killed is made good by the next one; each line that made no record is counted by its reason.
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
mod calls;
mod claude;
mod codex;
mod cursors;
mod error;
mod fidelity;
mod follow;
mod gemini;
mod hook;
mod js;
mod kept;
mod known;
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
mod walk;

pub use error::AgentsError;
pub use follow::{EventScope, EventStream, StreamStep};
pub use kept::{HookCall, keep_hook};
pub use pass::{Agent, ContentMode, Reason};
pub use report::{
    AgentReport, HookReport, IngestObserver, IngestOptions, IngestReport, NamedLine, NoObserver,
    RecordCounts, SkippedFile,
};
pub use run::Ingest;
pub use walk::Unreadable;
