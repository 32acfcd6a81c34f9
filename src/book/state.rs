//! The state of a book: accounts, sums, and the positions of its events. Replaying makes it, and the writer changes it.
//!
//! Touches only the scratch file. Guarantees: memory grows with the number of accounts and not with the number of events, because
//! the details of postings and events move to the scratch file every [`FLUSH_EVENTS`]; a reader with a copy of an [`AccountView`] reads a
//! history while the writer goes on.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use talea_core::store::{AccountCfg, TrialBalanceRow};
use talea_core::types::{AccountDef, AssetId, Direction, Seq};
use uuid::Uuid;

use super::error::BookError;
use super::scratch::{self, HistoryBlock, HistoryBlocks, HistoryRow, Positions, ScratchFile, SeqIndex};

/// Number of events, or of postings, after which their details move out of memory.
const FLUSH_EVENTS: usize = 1 << 16;

/// The position of an event's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FramePos {
    /// The first number of the segment, which names it.
    pub base: Seq,
    /// The byte offset of the frame's header.
    pub offset: u64,
}

/// The parts of a posting that change a state.
pub(super) struct PostingRef<'a> {
    pub book: &'a str,
    pub path: &'a str,
    pub asset: &'a str,
    pub minor: i64,
    pub is_credit: bool,
}

/// An account.
#[derive(Debug, Clone)]
pub(super) struct Account {
    /// As it was opened.
    pub opened: Arc<(AccountDef, AccountCfg)>,
    /// Debit-positive balance.
    pub debit_balance: i64,
    /// The last event that touched it; 0 for none.
    pub updated_seq: Seq,
    /// The last block of its history in the scratch file.
    last_block: Option<u64>,
    /// Its history after that block.
    recent: Vec<HistoryRow>,
}

impl Account {
    pub(super) fn new(def: AccountDef, cfg: AccountCfg) -> Self {
        Self {
            opened: Arc::new((def, cfg)),
            debit_balance: 0,
            updated_seq: 0,
            last_block: None,
            recent: Vec::new(),
        }
    }
}

/// Returns the balance on the account's normal side. `None` for the smallest integer on the credit side, which has no negative.
pub(super) fn normal_balance(debit_balance: i64, cfg: &AccountCfg) -> Option<i64> {
    if cfg.normal_side == Some(Direction::Credit) { debit_balance.checked_neg() } else { Some(debit_balance) }
}

/// The positions of a book's events, and the transactions that the events posted. All but the recent entries are in the scratch
/// file.
#[derive(Debug, Clone)]
pub(super) struct EventIndex {
    /// First numbers of the segments, ascending.
    bases: Vec<Seq>,
    positions: Positions,
    txids: SeqIndex,
    scratch: Option<Arc<ScratchFile>>,
}

impl EventIndex {
    /// Returns the position of event `seq`, which must have been applied.
    pub(super) fn position(&self, seq: Seq) -> Result<FramePos, BookError> {
        let base = self.bases[self.bases.partition_point(|base| *base <= seq) - 1];
        Ok(FramePos { base, offset: self.positions.get(self.scratch.as_deref(), seq)? })
    }

    /// Calls `visit` with every transaction's id and number; of an id used twice the later comes later.
    pub(super) fn each_txid(
        &self,
        mut visit: impl FnMut(Uuid, Seq) -> Result<(), BookError>,
    ) -> Result<(), BookError> {
        self.txids.visit(self.scratch.as_deref(), |entries| {
            entries.iter().try_for_each(|(txid, seq)| visit(Uuid::from_u128(*txid), *seq))
        })
    }

    /// Calls `visit` with every posting of an account, oldest first.
    pub(super) fn each_row(
        &self,
        account: &Account,
        mut visit: impl FnMut(&HistoryRow) -> Result<(), BookError>,
    ) -> Result<(), BookError> {
        if let (Some(scratch), Some(last)) = (&self.scratch, account.last_block) {
            let mut block = HistoryBlock::find(scratch, last, |block| block.is_first())?;
            while let Some(current) = block {
                current.rows(scratch)?.iter().try_for_each(&mut visit)?;
                block = current.next(scratch, last)?;
            }
        }
        account.recent.iter().try_for_each(visit)
    }
}

/// A book.
#[derive(Debug)]
pub(super) struct BookState {
    directory: PathBuf,
    pub next_seq: Seq,
    pub last_at: Option<DateTime<Utc>>,
    accounts: Vec<Account>,
    /// Index in `accounts` by path, by book. Nearly all accounts are of one book.
    ids: HashMap<String, HashMap<String, u32>>,
    /// Debits and credits by asset.
    sums: HashMap<String, (i64, i64)>,
    pub(super) index: EventIndex,
    /// Accounts with recent postings.
    touched: Vec<u32>,
    recent_rows: usize,
    /// Number of details at which a flush is due; doubled after a failed flush.
    flush_at: usize,
}

impl BookState {
    /// A book without events; its scratch file will be made in `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            next_seq: 1,
            last_at: None,
            accounts: Vec::new(),
            ids: HashMap::new(),
            sums: HashMap::new(),
            index: EventIndex {
                bases: Vec::new(),
                positions: Positions::new(),
                txids: SeqIndex::default(),
                scratch: None,
            },
            touched: Vec::new(),
            recent_rows: 0,
            flush_at: FLUSH_EVENTS,
        }
    }

    /// Returns the index of an account.
    pub(super) fn find(&self, book: &str, path: &str) -> Option<u32> {
        self.ids.get(book)?.get(path).copied()
    }

    pub(super) fn account(&self, index: u32) -> &Account {
        &self.accounts[index as usize]
    }

    pub(super) fn account_count(&self) -> usize {
        self.accounts.len()
    }

    /// Accounts in the order of their opening.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.iter()
    }

    /// Adds an account, unless it is known.
    pub(super) fn add_account(&mut self, def: &AccountDef, cfg: &AccountCfg) {
        if self.find(&def.id.book.0, &def.id.path).is_some() {
            return;
        }
        let index = self.accounts.len() as u32;
        self.ids.entry(def.id.book.0.clone()).or_default().insert(def.id.path.clone(), index);
        self.accounts.push(Account::new(def.clone(), cfg.clone()));
    }

    /// Adds the segment that begins with the event `base`.
    pub(super) fn add_segment(&mut self, base: Seq) {
        self.index.bases.push(base);
    }

    /// Adds the position of the next event; [`BookState::advance`] counts the event.
    pub(super) fn add_position(&mut self, offset: u64) {
        self.index.positions.push(offset);
    }

    /// Counts an event.
    pub(super) fn advance(&mut self, seq: Seq, at: DateTime<Utc>) {
        self.next_seq = seq + 1;
        self.last_at = Some(at);
    }

    /// Adds the transaction id of an event.
    pub(super) fn add_txid(&mut self, txid: Uuid, seq: Seq) {
        self.index.txids.insert(txid.as_u128(), seq);
    }

    /// Applies a posted transaction. Postings to unknown accounts change only the sums; no store accepts such a posting.
    ///
    /// # Errors
    /// The account whose balance leaves the 64-bit range. The state cannot be used afterwards.
    pub(super) fn post<'a>(
        &mut self,
        seq: Seq,
        at: DateTime<Utc>,
        txid: Uuid,
        postings: impl Iterator<Item = PostingRef<'a>>,
    ) -> Result<(), String> {
        for posting in postings {
            let PostingRef { book, path, asset, minor, is_credit } = posting;
            if let Some(index) = self.find(book, path) {
                let account = &mut self.accounts[index as usize];
                account.debit_balance = balance_after(account.debit_balance, minor, is_credit)
                    .ok_or_else(|| account.opened.0.id.to_key())?;
                account.updated_seq = seq;
                let row = HistoryRow { seq, at, txid, minor, is_credit, raw_after: account.debit_balance };
                self.add_row(index, row);
            }
            self.add_to_sums(asset, minor, is_credit);
        }
        self.add_txid(txid, seq);
        self.advance(seq, at);
        Ok(())
    }

    fn add_to_sums(&mut self, asset: &str, minor: i64, is_credit: bool) {
        match self.sums.get_mut(asset) {
            Some(sums) => add_to_side(sums, minor, is_credit),
            None => {
                let mut sums = (0, 0);
                add_to_side(&mut sums, minor, is_credit);
                self.sums.insert(asset.to_owned(), sums);
            }
        }
    }

    /// Adds a posting to an account's history.
    pub(super) fn add_row(&mut self, index: u32, row: HistoryRow) {
        let account = &mut self.accounts[index as usize];
        if account.recent.is_empty() {
            self.touched.push(index);
        }
        account.recent.push(row);
        self.recent_rows += 1;
    }

    /// Sets the balance of an account to that of a snapshot; [`BookState::add_row`] adds its history.
    pub(super) fn restore_account(&mut self, index: u32, debit_balance: i64, updated_seq: Seq) {
        let account = &mut self.accounts[index as usize];
        account.debit_balance = debit_balance;
        account.updated_seq = updated_seq;
    }

    /// Sets the sums of an asset to those of a snapshot.
    pub(super) fn restore_sums(&mut self, asset: String, debits: i64, credits: i64) {
        self.sums.insert(asset, (debits, credits));
    }

    /// Whether enough details are in memory for a flush.
    pub(super) fn is_flush_due(&self) -> bool {
        let most = self.index.positions.recent_len().max(self.recent_rows).max(self.index.txids.recent_len());
        most >= self.flush_at
    }

    /// Returns the scratch file, created on first use.
    pub(super) fn scratch(&mut self) -> Result<Arc<ScratchFile>, BookError> {
        if let Some(scratch) = &self.index.scratch {
            return Ok(Arc::clone(scratch));
        }
        let scratch = Arc::new(ScratchFile::create(&self.directory)?);
        self.index.scratch = Some(Arc::clone(&scratch));
        Ok(scratch)
    }

    /// Returns the scratch file, if there is one yet.
    pub(super) fn scratch_if_any(&self) -> Option<&ScratchFile> {
        self.index.scratch.as_deref()
    }

    /// Moves recent details to the scratch file. A failure is logged and costs memory, nothing else.
    pub(super) fn flush(&mut self) {
        match self.try_flush() {
            Ok(()) => self.flush_at = FLUSH_EVENTS,
            Err(error) => {
                self.flush_at = self.flush_at.saturating_mul(2);
                tracing::warn!(directory = %self.directory.display(), %error, "history stays in memory");
            }
        }
    }

    /// Flushes, and merges index runs while a merge is due. Only before the book is open, because a merge takes long.
    pub(super) fn tidy(&mut self) {
        self.flush();
        while let Some((scratch, older, newer)) = self.merge_due() {
            match scratch::merge(&scratch, &older, &newer) {
                Ok(merged) => self.install_merged(merged),
                Err(error) => {
                    tracing::warn!(directory = %self.directory.display(), %error, "the index stays in pieces");
                    return;
                }
            }
        }
    }

    fn try_flush(&mut self) -> Result<(), BookError> {
        let scratch = self.scratch()?;
        let mut blocks = HistoryBlocks::new(&scratch);
        let mut moved = Vec::with_capacity(self.touched.len());
        for index in &self.touched {
            let account = &self.accounts[*index as usize];
            moved.push((*index, blocks.push(account.last_block, &account.recent)?));
        }
        blocks.write()?;
        for (index, block) in moved {
            let account = &mut self.accounts[index as usize];
            account.last_block = Some(block);
            account.recent = Vec::new();
        }
        self.touched.clear();
        self.recent_rows = 0;
        self.index.positions.flush(&scratch)?;
        self.index.txids.flush(&scratch)
    }

    /// Two runs of the transaction index that are due to be merged, and their file.
    pub(super) fn merge_due(
        &self,
    ) -> Option<(Arc<ScratchFile>, Arc<scratch::IndexRun>, Arc<scratch::IndexRun>)> {
        let (older, newer) = self.index.txids.merge_due()?;
        Some((Arc::clone(self.index.scratch.as_ref()?), older, newer))
    }

    /// Replaces the two runs by the merged run.
    pub(super) fn install_merged(&mut self, merged: scratch::IndexRun) {
        self.index.txids.install(merged);
    }

    /// Returns the first numbers of the segments, ascending.
    pub(super) fn bases(&self) -> &[Seq] {
        &self.index.bases
    }

    /// Returns the latest transaction with this id.
    pub(super) fn latest_with_txid(&self, txid: Uuid) -> Result<Option<Seq>, BookError> {
        Ok(self.index.txids.find(self.scratch_if_any(), txid.as_u128())?.into_iter().max())
    }

    /// Returns sums by asset, in the order of the assets' bytes.
    pub(super) fn trial_balance(&self) -> Vec<TrialBalanceRow> {
        trial_balance_rows(&self.sums)
    }

    /// Returns a copy of what is needed to read all histories and positions as they are now.
    pub(super) fn image(&self) -> StateImage {
        StateImage {
            next_seq: self.next_seq,
            last_at: self.last_at,
            accounts: self.accounts.clone(),
            sums: self.sums.clone(),
            index: self.index.clone(),
        }
    }

    /// Returns a view for [`AccountView::last`] with the same `early`.
    pub(super) fn view_before(&self, index: u32, early: impl Fn(&HistoryRow) -> bool) -> AccountView {
        let recent = &self.account(index).recent;
        self.view(index, recent[..recent.partition_point(early)].last().copied().into_iter().collect())
    }

    /// Returns a view for [`AccountView::page`] with the same `after` and `limit`.
    pub(super) fn view_page(&self, index: u32, after: Seq, limit: usize) -> AccountView {
        let mut page = Page { after, limit, rows: Vec::new(), events: 0 };
        page.take(&self.account(index).recent);
        self.view(index, page.rows)
    }

    fn view(&self, index: u32, recent: Vec<HistoryRow>) -> AccountView {
        let account = self.account(index);
        AccountView {
            opened: Arc::clone(&account.opened),
            last_block: account.last_block,
            scratch: self.index.scratch.clone(),
            recent,
        }
    }
}

/// Adds an amount to a debit-positive balance.
pub(super) fn balance_after(debit_balance: i64, minor: i64, is_credit: bool) -> Option<i64> {
    if is_credit { debit_balance.checked_sub(minor) } else { debit_balance.checked_add(minor) }
}

/// Adds an amount to debits or credits.
pub(super) fn add_to_side(sums: &mut (i64, i64), minor: i64, is_credit: bool) {
    let side = if is_credit { &mut sums.1 } else { &mut sums.0 };
    *side = side.saturating_add(minor);
}

/// Returns sums as rows of a trial balance.
pub(super) fn trial_balance_rows(sums: &HashMap<String, (i64, i64)>) -> Vec<TrialBalanceRow> {
    let mut rows: Vec<_> = sums
        .iter()
        .map(|(asset, (debits, credits))| TrialBalanceRow {
            asset: AssetId::new(asset.as_str()),
            debits: *debits,
            credits: *credits,
        })
        .collect();
    rows.sort_by(|a, b| a.asset.as_str().cmp(b.asset.as_str()));
    rows
}

/// A state at one moment, for writing a snapshot while the book goes on.
#[derive(Debug)]
pub(super) struct StateImage {
    pub next_seq: Seq,
    pub last_at: Option<DateTime<Utc>>,
    pub accounts: Vec<Account>,
    pub sums: HashMap<String, (i64, i64)>,
    pub index: EventIndex,
}

/// An account's history at one moment.
#[derive(Debug)]
pub(super) struct AccountView {
    /// As it was opened.
    pub opened: Arc<(AccountDef, AccountCfg)>,
    last_block: Option<u64>,
    scratch: Option<Arc<ScratchFile>>,
    recent: Vec<HistoryRow>,
}

impl AccountView {
    /// Returns the last posting for which `early` holds. When it holds for a posting, it must hold for every earlier one.
    pub(super) fn last(&self, early: impl Fn(&HistoryRow) -> bool) -> Result<Option<HistoryRow>, BookError> {
        if let Some(row) = self.recent.last() {
            return Ok(Some(*row));
        }
        let (Some(scratch), Some(last)) = (&self.scratch, self.last_block) else { return Ok(None) };
        let Some(block) = HistoryBlock::find(scratch, last, |block| early(&block.first))? else {
            return Ok(None);
        };
        let rows = block.rows(scratch)?;
        let end = rows.partition_point(early);
        Ok(Some(rows[end - 1]))
    }

    /// Postings after event `after`, of at most `limit` events, none of them split.
    pub(super) fn page(&self, after: Seq, limit: usize) -> Result<Vec<HistoryRow>, BookError> {
        let mut page = Page { after, limit, rows: Vec::new(), events: 0 };
        if let (Some(scratch), Some(last)) = (&self.scratch, self.last_block) {
            // The block that has `after`, or the first.
            let mut block = match HistoryBlock::find(scratch, last, |block| block.first.seq <= after)? {
                None => HistoryBlock::find(scratch, last, |block| block.is_first())?,
                found => found,
            };
            while let Some(current) = block {
                if !page.take(&current.rows(scratch)?) {
                    return Ok(page.rows);
                }
                block = current.next(scratch, last)?;
            }
        }
        page.take(&self.recent);
        Ok(page.rows)
    }
}

struct Page {
    after: Seq,
    limit: usize,
    rows: Vec<HistoryRow>,
    events: usize,
}

impl Page {
    /// Adds rows; returns `false` when a row did not fit.
    fn take(&mut self, rows: &[HistoryRow]) -> bool {
        for row in &rows[rows.partition_point(|row| row.seq <= self.after)..] {
            if self.rows.last().is_none_or(|last| last.seq != row.seq) {
                if self.events == self.limit {
                    return false;
                }
                self.events += 1;
            }
            self.rows.push(*row);
        }
        true
    }
}
