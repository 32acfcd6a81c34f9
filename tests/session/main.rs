//! Tests of the session store.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

mod damage;
mod golden;
mod processes;
