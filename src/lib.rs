//! Append-only logs that can be trusted, and the stores derived from them.
//!
//! A log of this crate is only ever appended to. Everything derived from a log can be deleted and built again. Damage is
//! found and named by byte offset. Bytes that may have been acknowledged are set aside and never destroyed, and nothing is
//! skipped in silence. The main log is the ledger of people who work with AI coding agents, `ledger.jsonl`: a JSON line for
//! each turn, tool result, user turn, compaction, relationship and stamp. Its archive, `archive.sqlite`, is built in parallel.
//!
//! The crate is no database server, no sync service and no analytics tool. It uses the files, locks and archives of the
//! TypeScript package `@relayburn/ledger` 1.x, and both programs may work on one home at the same time.
//!
//! Append a turn twice, build the archive, and query it: a record with an id is written once.
//!
//! ```
//! use relayburn_ledger::archive::{self, Options, Paths, Unobserved};
//! use relayburn_ledger::home::Home;
//! use relayburn_ledger::ledger::{AppendOptions, Batch, Filter, Ledger, RecordKind};
//! use std::ops::ControlFlow;
//!
//! let directory = tempfile::tempdir()?;
//! let home = Home::at(directory.path());
//! let ledger = Ledger::new(home.clone());
//! let mut batch = Batch::new();
//! batch.push(
//!     RecordKind::Turn,
//!     br#"{"source":"claude-code","sessionId":"s-1","messageId":"m-1","turnIndex":0,"ts":"2026-04-20T00:00:00.000Z",
//!     "model":"model-a","usage":{"input":10,"output":20,"reasoning":0,"cacheRead":0,"cacheCreate5m":0,"cacheCreate1h":0},
//!     "toolCalls":[]}"#,
//! )?;
//! assert_eq!(ledger.append(&batch, &AppendOptions::default())?.appended, 1);
//! assert_eq!(ledger.append(&batch, &AppendOptions::default())?.duplicates, 1);
//!
//! let paths = Paths::of_home(&home);
//! assert_eq!(archive::build_tail(&paths, &Options::default(), &mut Unobserved)?.turns_applied, 1);
//!
//! let mut models = Vec::new();
//! archive::query::turns(&paths.archive, &Filter::default(), &mut |turn| {
//!     models.extend(serde_json::from_str::<serde_json::Value>(turn).map(|turn| turn["model"].clone()));
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(models, ["model-a"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Modules
//!
//! | module | what it is for | it uses |
//! | --- | --- | --- |
//! | [`record`] | what a ledger line is: kinds, columns, readers, ids, stamps, typed records | `scan` |
//! | [`ledger`] | appends, index files, merges, queries over the ledger, check, prune, reset | `record`, `archive`, `scan`, `lock`, `disk`, `home`, `interrupt` |
//! | [`archive`] | builds, status, queries over the archive | `record`, `sqlite_file`, `publish`, `scan`, `lock`, `disk`, `home`, `interrupt` |
//! | [`scan`] | mapped logs, chunks that end at line ends, exact JSON | nothing of ours |
//! | [`lock`] | the lock-file protocol shared with other programs | `disk`, `interrupt` |
//! | [`journal`] | a write-ahead log of opaque payloads | `store`, `scan`, `disk`, `home`, `interrupt` |
//! | `session` | segmented session stores | `store`, `scan`, `disk`, `interrupt` |
//! | `book` | double-entry books | `store`, `scan`, `disk`, `interrupt` |
//! | `agents` | reads session logs of coding agents into the ledger | `ledger`, `record`, `scan`, `lock`, `disk`, `home`, `interrupt` |
//! | `ingest` | from a journal into a key-value store and the ledger | `journal`, `ledger`, `store`, `lock`, `disk`, `home`, `interrupt` |
//! | `usage` | prices, and totals and costs over the turns of the archive | `archive`, `record`, `scan`, `home`, `interrupt` |
//! | `report` | one HTML page with charts and tables of usage and costs | `usage`, `archive`, `record`, `interrupt`, `printable` |
//! | `export` | the archive as Parquet files in a directory or an object store | `archive`, `record`, `disk`, `home`, `interrupt`, `lock` |
//! | [`store`] | the vocabulary of all logs: durability, what opening changed, the lock of the one writer | `disk` |
//! | [`disk`] | durable file operations, the place where faults are injected | nothing of ours |
//! | [`home`] | where files live; session ids that may become paths | nothing of ours |
//! | [`interrupt`] | a request to stop, which long work looks at | nothing of ours |
//! | `printable` | text without characters that a terminal would obey | nothing of ours |
//!
//! # Features
//!
//! `cli` is the default and turns everything on. A program that wants the ledger alone sets `default-features = false`.

#[cfg(feature = "agents")]
pub mod agents;
pub mod archive;
#[cfg(feature = "book")]
pub mod book;
#[cfg(feature = "cli")]
#[doc(hidden)] // The command, for `main.rs` and the tests.
pub mod cli;
#[cfg(feature = "cli")]
#[doc(hidden)] // Generators, for the benches and tests of this package.
pub mod dev;
pub mod disk;
#[cfg(feature = "parquet")]
pub mod export;
pub mod home;
#[cfg(feature = "ingest")]
pub mod ingest;
pub mod interrupt;
pub mod journal;
pub mod ledger;
pub mod lock;
#[cfg(any(feature = "cli", feature = "report"))]
mod printable;
#[doc(hidden)] // For the benches and tests of this package; it may change in any release.
pub mod publish;
pub mod record;
#[cfg(feature = "report")]
pub mod report;
pub mod scan;
#[cfg(feature = "session")]
pub mod session;
#[doc(hidden)] // As `publish`.
pub mod sqlite_file;
pub mod store;
#[cfg(feature = "usage")]
pub mod usage;

/// The examples of the manual, compiled and run by `cargo test --doc`.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../docs/library.md")]
mod manual {}

/// The examples for users of other systems.
#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../docs/coming-from.md")]
mod coming_from {}
