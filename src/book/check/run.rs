//! Checks the books one after another. In each book: the log, with each snapshot after its event; repeated keys;
//! snapshots of events after the log's end; runs; missing keys. Then links in `books/`, which are reported and not
//! followed. Last, the assets that accounts of any book hold.

use std::collections::HashSet;
use std::path::Path;

use talea_core::store::TrialBalanceRow;

use super::report::{
    BookFinding, BookFindingKind, BookProblem, BookReport, BookStatus, Findings, Unbalanced,
};
use super::subject::{BookCheck, HeldAsset, LogSegment};
use crate::book::directory::{LINK_LEFT_OUT, book_names, linked_books, take_lock_if_there};
use crate::book::error::BookError;
use crate::book::files;
use crate::store::Check;

/// Checks the store in `directory` and changes nothing.
///
/// # Errors
/// When the store is in use, or is not there.
pub fn check(directory: &Path) -> Result<Check<BookStatus, BookProblem>, BookError> {
    let _lock = take_lock_if_there(directory)?;
    let books_directory = directory.join("books");
    let names = names_of(directory)?;
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
    for file in linked_books(directory)? {
        let book = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        findings.push(BookFinding {
            file,
            offset: None,
            problem: BookProblem { book, kind: BookFindingKind::Unreadable },
            reason: LINK_LEFT_OUT.to_owned(),
        });
    }
    for (book, held) in held {
        for (asset, HeldAsset { account, path, offset, more }) in
            held.into_iter().filter(|(asset, _)| !assets.contains(asset))
        {
            let more = if more > 0 { format!(" (and {more} more accounts)") } else { String::new() };
            findings.push(BookFinding {
                file: path,
                offset: Some(offset),
                problem: BookProblem { book: book.clone(), kind: BookFindingKind::UnregisteredAsset },
                reason: format!(
                    "account {account} holds {asset}{more}, which is not registered; register it again with its precision, \
                     or restore the segments of _system from a backup"
                ),
            });
        }
    }
    Ok(Check::new(BookStatus { books }, findings.kept, findings.left_out))
}

/// Returns the names of the books. A new store may lack its empty `books/`, for example after a clone, because git keeps no
/// empty directories; it then has no books.
fn names_of(directory: &Path) -> Result<Vec<String>, BookError> {
    let is_there = |name: &str| directory.join(name).exists();
    if is_there("LOCK") && !is_there("books") {
        return Ok(Vec::new());
    }
    book_names(&directory.join("books"))
}

/// What the books of the store in `directory` hold, as far as names and lengths of files say: segments, snapshots, runs, and what was
/// set aside. Takes no lock and reads no event; [`check`] also counts events, accounts and transactions.
///
/// # Errors
/// When the store is not there.
pub fn status(directory: &Path) -> Result<BookStatus, BookError> {
    let report = |name: String| {
        let listing = files::list(&directory.join("books").join(&name))?;
        BookReport::of(name, &listing)
    };
    Ok(BookStatus { books: names_of(directory)?.into_iter().map(report).collect::<Result<_, _>>()? })
}

impl BookCheck<'_> {
    fn run(&mut self) -> Result<(), BookError> {
        let listing = files::list(&self.directory)?;
        self.report = BookReport::of(self.report.book.clone(), &listing)?;
        for (base, path) in &listing.segments {
            self.segments.push(LogSegment { base: *base, path: path.clone(), source: None });
        }
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
