//! Session logs of coding agents: from what Claude Code, Codex, OpenCode and Gemini CLI write to lines of the ledger.

#![allow(dead_code)]

mod activity;
mod calls;
mod fidelity;
mod js;
mod measure;
mod project;
