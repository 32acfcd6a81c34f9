//! Validates a job against the state and against the jobs that were accepted before it in the same batch.
//!
//! Touches nothing. Guarantees: the first reason for a refusal, in the order of checks that docs/books.md gives; no accepted job
//! takes a balance out of range or below its floor.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use talea_core::store::{AccountCfg, StoreError};
use talea_core::types::{AccountDef, AccountId, AssetDef, AssetId, Direction, Posting};

use super::error::BookError;
use super::job::Draft;
use super::state::{BookState, PostingRef, balance_after, normal_balance};
use super::view::Assets;

impl<'a> From<&'a Posting> for PostingRef<'a> {
    fn from(posting: &'a Posting) -> Self {
        Self {
            book: &posting.account.book.0,
            path: &posting.account.path,
            asset: posting.amount.asset().as_str(),
            minor: posting.amount.minor(),
            is_credit: posting.direction == Direction::Credit,
        }
    }
}

/// The changes that the accepted jobs of a batch will make to the state.
#[derive(Default)]
pub(super) struct Overlay {
    pub(super) debit_balances: HashMap<u32, i64>,
    /// Accepted events by key.
    pub(super) keys: HashMap<Arc<str>, usize>,
    opened: Vec<(AccountDef, AccountCfg)>,
    /// Index in `opened` by account.
    opened_at: HashMap<AccountId, usize>,
    pub(super) registered: Vec<AssetDef>,
}

impl Overlay {
    /// Returns the index of an account. Accounts that this batch opens follow those of the state.
    pub(super) fn find(&self, state: &BookState, id: &AccountId) -> Option<u32> {
        state.find(&id.book.0, &id.path).or_else(|| {
            let at = self.opened_at.get(id)?;
            Some((state.account_count() + at) as u32)
        })
    }

    /// Adds an account that [`Overlay::find`] does not find.
    pub(super) fn open(&mut self, def: &AccountDef, cfg: &AccountCfg) {
        self.opened_at.insert(def.id.clone(), self.opened.len());
        self.opened.push((def.clone(), cfg.clone()));
    }

    pub(super) fn account<'s>(
        &'s self,
        state: &'s BookState,
        index: u32,
    ) -> (&'s AccountDef, &'s AccountCfg) {
        let (def, cfg) = match (index as usize).checked_sub(state.account_count()) {
            None => &*state.account(index).opened,
            Some(at) => &self.opened[at],
        };
        (def, cfg)
    }

    fn debit_balance(&self, state: &BookState, index: u32) -> i64 {
        self.debit_balances.get(&index).copied().unwrap_or_else(|| {
            match (index as usize) < state.account_count() {
                true => state.account(index).debit_balance,
                false => 0,
            }
        })
    }

    /// Returns the definition of an asset, if it has one.
    pub(super) fn asset(&self, assets: &Assets, id: &AssetId) -> Option<AssetDef> {
        let here = self.registered.iter().find(|asset| asset.id == *id);
        here.cloned().or_else(|| assets.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned())
    }

    /// Validates a transaction whose key is free; returns the balances after it.
    pub(super) fn validate(&self, state: &BookState, draft: &Draft) -> Result<Vec<(u32, i64)>, StoreError> {
        if draft.book.is_reserved() {
            return Err(StoreError::InvalidBook(draft.book.clone()));
        }
        // In the order of their first posting, in which the first broken floor is named.
        let mut balances: Vec<(u32, i64)> = Vec::new();
        let mut places: HashMap<u32, usize> = HashMap::new();
        let mut indices = Vec::with_capacity(draft.postings.len());
        for posting in &draft.postings {
            let index = self
                .find(state, &posting.account)
                .ok_or_else(|| StoreError::UnknownAccount(posting.account.clone()))?;
            let (def, _) = self.account(state, index);
            if def.asset != *posting.amount.asset() {
                return Err(StoreError::AssetMismatch {
                    account: posting.account.clone(),
                    account_asset: def.asset.clone(),
                    asset: posting.amount.asset().clone(),
                });
            }
            indices.push(index);
        }
        for (posting, index) in draft.postings.iter().zip(indices) {
            let at = *places.entry(index).or_insert_with(|| {
                balances.push((index, self.debit_balance(state, index)));
                balances.len() - 1
            });
            let is_credit = posting.direction == Direction::Credit;
            balances[at].1 = balance_after(balances[at].1, posting.amount.minor(), is_credit)
                // The smallest integer has no negative for the balance on the other side.
                .filter(|debit_balance| *debit_balance != i64::MIN)
                .ok_or_else(|| BookError::Overflow { account: posting.account.clone() })?;
        }
        for (index, debit_balance) in &balances {
            let (def, cfg) = self.account(state, *index);
            let would_be = normal_balance(*debit_balance, cfg).unwrap_or(i64::MAX);
            if let Some(min_balance) = cfg.min_balance.filter(|min_balance| would_be < *min_balance) {
                return Err(StoreError::ConstraintViolation {
                    account: def.id.clone(),
                    min_balance,
                    would_be,
                });
            }
        }
        Ok(balances)
    }
}
