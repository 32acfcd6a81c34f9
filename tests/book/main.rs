//! Tests of books with processes: `burn book`, kills, memory.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../book_store/support.rs"]
mod support;

mod command;
mod command_memory;
mod killed;
mod memory;
