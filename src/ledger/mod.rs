//! The ledger: appends records, queries them, merges ledgers, and checks and tidies the files of a home.
//!
//! [`Ledger`] is a handle on one [`Home`]. The handle holds no open file and no state, so a process may have as many
//! handles as it likes, on one home or on several, in any thread. Appends exclude each other across processes by the lock
//! files `ledger`, `ledger-index` and `content.<sessionId>`. Queries take no lock. A check takes none either, except to
//! look again under the locks when the index does not match the ledger. `docs/ledger.md` describes every file.
//!
//! Guarantees: the ledger only grows, by whole lines. A record with an id is written once, however often and by however
//! many processes the record is delivered; an error says how much of a batch was written, and appending such records again
//! is always safe. Stamps have no id and are written each time.
//!
//! ```
//! use relayburn_ledger::home::Home;
//! use relayburn_ledger::ledger::{AppendOptions, Batch, Filter, Ledger, RecordKind};
//! use std::ops::ControlFlow;
//!
//! let directory = tempfile::tempdir()?;
//! let ledger = Ledger::new(Home::at(directory.path()));
//! let mut batch = Batch::new();
//! batch.push(RecordKind::Compaction, br#"{"source":"codex","sessionId":"s1","ts":"2026-04-20T00:00:02.000Z"}"#)?;
//! assert_eq!(ledger.append(&batch, &AppendOptions::default())?.appended, 1);
//! assert_eq!(ledger.append(&batch, &AppendOptions::default())?.duplicates, 1);
//!
//! let mut found = Vec::new();
//! ledger.query(RecordKind::Compaction, &Filter::default(), &mut |record| {
//!     found.push(record.to_string());
//!     ControlFlow::Continue(())
//! })?;
//! assert_eq!(found.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod append;
mod batch;
mod check;
mod content;
mod error;
mod export;
mod index;
mod lines;
mod machine;
mod merge;
mod pipeline;
mod read;
mod reset;
mod resume;
mod sidecar_lines;
mod sorted;

#[cfg(feature = "agents")]
pub(crate) use append::WrittenLines;
pub use append::{AppendOptions, Appended, Pieces};
pub use batch::{Batch, Refusal};
pub use check::{
    ArchiveCheck, CheckFiles, CheckFinding, CheckReport, IndexCheck, Problem, StrictCheck, check,
};
pub use content::{Sidecar, Sidecars};
pub use error::LedgerError;
pub use export::ExportedLines;
pub use index::{ExtraIds, Reindexed};
pub use machine::{InvalidMachineName, MachineName};
pub use merge::{LedgerLineAt, MergeFinding, MergeInput, MergeReport, MergedInput};
pub use read::{PassedOver, query};
pub use reset::{Belonging, Reset, ResetScope};
#[cfg(feature = "agents")]
pub(crate) use sidecar_lines::SidecarLines;

pub use crate::record::{Filter, Id, Pattern, RecordKind, RecordOrder};

use crate::home::{Home, LockName};
use crate::interrupt::Interrupt;
use crate::lock::{Held, LockError, with_lock_unless};

/// A handle on the ledger of one home. Making a handle opens no file.
#[derive(Debug, Clone)]
pub struct Ledger {
    home: Home,
    interrupt: Interrupt,
}

impl Ledger {
    /// The ledger of `home`, which need not exist yet: the first append creates it.
    pub fn new(home: Home) -> Self {
        Self { home, interrupt: Interrupt::new() }
    }

    /// The same handle, whose waits for locks end when `interrupt` is requested: then the error is
    /// [`LockError::Interrupted`].
    pub fn with_interrupt(self, interrupt: &Interrupt) -> Self {
        Self { interrupt: interrupt.clone(), ..self }
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Runs `work` under a lock of the home.
    fn locked<T, E: From<LockError>>(
        &self,
        lock: LockName<'_>,
        work: impl FnOnce(&Held) -> Result<T, E>,
    ) -> Result<T, E> {
        with_lock_unless(&self.home.lock(lock), &self.interrupt, work)
    }
}

#[cfg(all(test, unix))]
mod tests;
