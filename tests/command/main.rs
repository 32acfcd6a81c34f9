//! Tests of the command line as a whole.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod alone;
mod answers;
mod damage;
mod ignore_case;
mod interrupted;
mod links;
mod options;
mod recovery;
mod shapes;
mod strange_files;
mod terminal;
mod walk;
