//! The order of a check: book after book, in each the log, then snapshots and runs, and at the end the assets of all.

use std::collections::HashSet;
use std::path::Path;

use talea_core::store::TrialBalanceRow;

use super::report::{BookCheckReport, BookFinding, BookFindingKind, Findings, Unbalanced};
use super::subject::{BookCheck, Held, Segment};
use crate::book::directory::{book_names, take_lock_if_there};
use crate::book::error::BookError;
use crate::book::files;
use crate::disk;

/// Checks the store in `directory` and changes nothing.
///
/// # Errors
/// When the store is in use, or is not there.
pub fn check(directory: &Path) -> Result<BookCheckReport, BookError> {
    let lock = take_lock_if_there(directory)?;
    let books_directory = directory.join("books");
    // A new store without its empty directory, which version control drops and opening makes again.
    let names =
        if lock.is_some() && !books_directory.exists() { Vec::new() } else { book_names(&books_directory)? };
    let mut findings = Findings::default();
    let mut books = Vec::new();
    let mut assets = HashSet::new();
    let mut held = Vec::new();
    for name in names {
        let mut check = BookCheck::new(&name, &books_directory.join(&name), &mut findings);
        if let Err(error) = check.run() {
            let directory = check.directory.clone();
            check.find(BookFindingKind::Unreadable, &directory, None, error.to_string());
        }
        assets.extend(check.assets);
        held.push((name, check.held));
        books.push(check.report);
    }
    for (book, held) in held {
        for (asset, Held { account, path, offset, more }) in
            held.into_iter().filter(|(asset, _)| !assets.contains(asset))
        {
            let more = if more > 0 { format!(" (and {more} more accounts)") } else { String::new() };
            findings.push(BookFinding {
                book: book.clone(),
                file: path,
                offset: Some(offset),
                kind: BookFindingKind::UnregisteredAsset,
                reason: format!(
                    "account {account} holds {asset}{more}, which is not registered; register it again with its precision, \
                     or restore the segments of _system from a backup"
                ),
            });
        }
    }
    let Findings { kept: findings, left_out: findings_left_out, .. } = findings;
    Ok(BookCheckReport { ok: findings.is_empty(), books, findings, findings_left_out })
}

impl BookCheck<'_> {
    fn run(&mut self) -> Result<(), BookError> {
        let listing = files::list(&self.directory)?;
        self.report.segments = listing.segments.len() as u64;
        self.report.snapshots = listing.snapshots.len() as u64;
        self.report.runs = listing.runs.len() as u64;
        for (base, path) in &listing.segments {
            self.report.segments_bytes += disk::metadata(path)?.len_bytes;
            self.segments.push(Segment { base: *base, path: path.clone(), source: None });
        }
        self.report.set_aside.clone_from(&listing.set_aside);
        let end = self.log(&listing)?;
        for row in self.state.trial_balance().into_iter().filter(|row| row.debits != row.credits) {
            let TrialBalanceRow { asset, debits, credits } = row;
            self.report.unbalanced.push(Unbalanced { asset: asset.as_str().to_owned(), debits, credits });
        }
        self.report.events = self.replayed() as u64;
        self.report.accounts = self.state.account_count() as u64;
        self.repeated_keys()?;
        self.snapshots_ahead(&listing, end);
        let covered = self.runs(&listing, end)?;
        self.missing_keys(&covered);
        Ok(())
    }
}
