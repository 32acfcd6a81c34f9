//! Tests of the session store.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod golden;
mod processes;
