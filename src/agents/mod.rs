//! Session logs of coding agents: from what Claude Code, Codex, OpenCode and Gemini CLI write to lines of the ledger.

mod activity;
mod calls;
mod claude;
mod codex;
mod cursors;
mod error;
mod fidelity;
mod gemini;
mod hook;
mod js;
mod known;
mod lines;
mod measure;
mod opencode;
mod pass;
mod pending;
mod project;
mod run;
mod settings;
mod walk;

pub use error::AgentsError;
pub use pass::{Agent, ContentMode, Reason, Unreadable};
pub use run::{
    AgentReport, HookReport, Ingest, IngestObserver, IngestOptions, IngestReport, NamedLine, NoObserver,
    RecordCounts, SkippedFile,
};
