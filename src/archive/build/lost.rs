//! Keeps a copy of an archive whose ledger lost lines that the archive has, because the archive may be the last copy
//! of them.
//!
//! Touches: reads the live archive and the new archive; writes a copy beside the archive through [`PublishPlan::keep_copy`].
//!
//! Guarantees: the copy is complete and durable before the archive is replaced. A strict build is refused instead.
//!
//! A tail build keeps the archive whenever it restarts because the ledger is not the ledger that the archive was
//! built from. A user asks for a full rebuild, often with another ledger on purpose. So a full rebuild keeps the
//! archive only when the ledger was cut: the ledger is shorter than the archive's cursor, and the new archive has
//! only turns that the old archive has, and fewer of them.

use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};

use super::run::Build;
use crate::archive::cursor::{self, Restart};
use crate::archive::error::{ArchiveError, SqliteContext};
use crate::archive::open;
use crate::publish::{KeptCopy, PublishPlan};
use crate::record::columns::turns;

/// How the ledger differs from the ledger that an archive with rows was built from.
pub(super) struct LedgerLoss {
    reason: Restart,
    /// Whether the archive is kept only when it has every turn of the new archive, and more.
    is_kept_if_cut: bool,
}

impl LedgerLoss {
    /// The loss of a tail build that restarts for `reason`.
    pub(super) fn of_tail(reason: Restart) -> Self {
        Self { reason, is_kept_if_cut: false }
    }
}

impl Build<'_> {
    /// Returns the loss that a full rebuild may cause, when the ledger is shorter than the archive's cursor.
    pub(super) fn look_for_cut(&self) -> Result<Option<LedgerLoss>, ArchiveError> {
        let path = &self.paths.archive;
        let Some(source) = &self.ledger.source else { return Ok(None) };
        let look = || -> Result<Option<LedgerLoss>, ArchiveError> {
            let archive = open::open_read_only(path)?;
            let Some(state) = open::read_state(&archive, path)? else { return Ok(None) };
            let fits =
                cursor::check(source, state.ledger_offset_bytes, state.ledger_mark, &self.ledger.checked)?;
            let has_turns =
                open::has_table(&archive, turns::TABLE.name).context(path, "reading its schema")?;
            Ok(fits
                .filter(|reason| has_turns && *reason == Restart::LedgerShrank)
                .map(|reason| LedgerLoss { reason, is_kept_if_cut: true }))
        };
        match look() {
            // There is no archive that could be read, now or later.
            Err(
                ArchiveError::Missing { .. }
                | ArchiveError::Damaged { .. }
                | ArchiveError::NotADatabase { .. },
            ) => Ok(None),
            looked => looked,
        }
    }

    /// Copies the archive that `plan` is about to replace, if the archive has to be kept because of `lost`, and adds the
    /// copy to the result.
    pub(super) fn keep_what_is_lost(
        &mut self,
        lost: Option<LedgerLoss>,
        plan: &PublishPlan,
    ) -> Result<Option<KeptCopy>, ArchiveError> {
        let Some(loss) = lost else { return Ok(None) };
        if loss.is_kept_if_cut && !is_part(plan.build_path(), &self.paths.archive)? {
            return Ok(None);
        }
        self.refuse_loss_if_strict(&loss)?;
        let aside = plan.keep_copy(&self.options.interrupt)?;
        self.result.set_aside = Some(aside.path.clone());
        self.result.set_aside_reason = Some(format!("{}, so the archive as it was is kept", loss.reason));
        Ok(Some(aside))
    }

    pub(super) fn refuse_loss_if_strict(&self, loss: &LedgerLoss) -> Result<(), ArchiveError> {
        if !self.options.strict {
            return Ok(());
        }
        Err(ArchiveError::LedgerLost {
            ledger: self.paths.ledger.clone(),
            archive: self.paths.archive.clone(),
            reason: loss.reason.clone(),
        })
    }
}

/// Whether the archive `live` has every turn of the archive `built`, and more turns.
fn is_part(built: &Path, live: &Path) -> Result<bool, ArchiveError> {
    let archive = open::open_read_only(live)?;
    // Bytes, not a string, because a path need not be valid UTF-8.
    let name = ToSqlOutput::Borrowed(ValueRef::Text(built.as_os_str().as_encoded_bytes()));
    archive.execute("ATTACH ?1 AS built", [name]).context(built, "opening it")?;
    let compared = archive.query_row(
        "SELECT (SELECT count(*) FROM built.turns) < (SELECT count(*) FROM main.turns)
            AND NOT EXISTS (
              SELECT 1 FROM built.turns AS new WHERE NOT EXISTS (
                SELECT 1 FROM main.turns AS old WHERE old.source = new.source
                   AND old.session_id = new.session_id AND old.message_id = new.message_id))",
        [],
        |row| row.get(0),
    );
    archive.settle(compared.context(live, "comparing it with the new archive"))
}
