//! What the commands of `burn book` share.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::Args;
use talea_core::store::StoreError;
use talea_core::types::{AccountId, Book};

use crate::book::{self, BookError, LogStoreOptions, LogTaleaStore};
use crate::cli::{tell_recovery, warn};
use crate::store::Recovery;

#[derive(Debug, Args)]
pub(super) struct BookDir {
    /// The store's directory.
    pub(super) dir: PathBuf,
    #[arg(from_global)]
    pub(super) json: bool,
}

/// The inverse of `AccountId::to_key`.
pub(super) fn parse_account(text: &str) -> Result<AccountId, String> {
    let mut book = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next() {
            Some('\\') => book.extend(rest.next()),
            Some(':') => break,
            Some(other) => book.push(other),
            None => return Err("an account is named BOOK:PATH, as in shop:cash".to_owned()),
        }
    }
    Ok(AccountId { book: Book(book), path: rest.collect() })
}

pub(super) fn require_books(directory: &Path) -> anyhow::Result<()> {
    crate::cli::must_exist(directory, "book store", "`burn book init`", &["books", "LOCK"])?;
    // A LOCK alone is left of a store whose empty directory was deleted; one among other files is a journal's.
    let is_alone = || std::fs::read_dir(directory).is_ok_and(|entries| entries.count() == 1);
    if !directory.join("books").exists() && !is_alone() {
        bail!("there is no book store at {}; `burn book init` makes one", directory.display());
    }
    Ok(())
}

/// An error of a store in words for people; the trait's own prints Rust's names.
pub(super) fn in_words(error: &StoreError) -> String {
    match error {
        StoreError::ConstraintViolation { account, min_balance, would_be } => format!(
            "account {} must not fall below {min_balance} minor units, and would be at {would_be}",
            account.to_key()
        ),
        StoreError::UnknownAccount(account) => {
            format!("there is no account {}; `burn book account` opens it", account.to_key())
        }
        StoreError::UnknownAsset(asset) => {
            format!("there is no asset {}; `burn book asset` registers it", asset.as_str())
        }
        StoreError::AssetMismatch { account, account_asset, asset } => {
            format!("account {} holds {}, not {}", account.to_key(), account_asset.as_str(), asset.as_str())
        }
        StoreError::AlreadyExists { what } => format!("{what} is there already, with another definition"),
        StoreError::InvalidBook(book) => {
            format!("a book cannot be named {:?}: names that begin with '_' are reserved", book.0)
        }
        StoreError::Io(inner) => inner.to_string(),
        other => other.to_string(),
    }
}

/// What kind of error of a store it is.
pub(super) fn class(error: &StoreError) -> &'static str {
    match error {
        StoreError::ConstraintViolation { .. } => "constraint_violation",
        StoreError::UnknownAccount(_) => "unknown_account",
        StoreError::UnknownAsset(_) => "unknown_asset",
        StoreError::AssetMismatch { .. } => "asset_mismatch",
        StoreError::AlreadyExists { .. } => "already_exists",
        StoreError::InvalidBook(_) => "invalid_book",
        StoreError::Saturated => "saturated",
        StoreError::Io(_) => "io",
    }
}

pub(super) fn user_books(store: &LogTaleaStore) -> anyhow::Result<Vec<String>> {
    Ok(store.books()?.into_iter().filter(|name| !name.starts_with('_')).collect())
}

/// Opens a store that is there; only `init` makes one.
pub(super) async fn open(directory: &Path) -> anyhow::Result<LogTaleaStore> {
    require_books(directory)?;
    Ok(open_or_create(directory).await.map_err(told_to_copy)?.0)
}

/// Adds to an error that the user may not write there what can be done to read the books all the same.
fn told_to_copy(error: anyhow::Error) -> anyhow::Error {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let disk_error = match error.downcast_ref::<StoreError>() {
        Some(StoreError::Io(inner)) => match inner.downcast_ref::<BookError>() {
            Some(BookError::Disk(error)) => error,
            _ => return error,
        },
        _ => return error,
    };
    match disk_error.kind() {
        PermissionDenied | ReadOnlyFilesystem => anyhow!(
            "{disk_error}. Opening finishes and syncs what a killed program left, so every command but `burn book check` opens \
             books for writing: to read books where you may not write, copy their store"
        ),
        _ => error,
    }
}

/// Opens a store, or makes one. Says on standard error what opening did.
pub(super) async fn open_or_create(directory: &Path) -> anyhow::Result<(LogTaleaStore, Recovery)> {
    for link in book::linked_books(directory)? {
        warn(&format!("{}: {}", link.display(), book::LINK_LEFT_OUT));
    }
    let (store, recovery) = book::open(directory, &LogStoreOptions::default()).await?;
    tell_recovery(&recovery, "what was cut was an unfinished frame, not kept");
    Ok((store, recovery))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::disk;

    #[test]
    fn who_may_not_write_is_told_how_to_read() {
        let operation = disk::Operation::Open;
        for (kind, is_told) in [
            (std::io::ErrorKind::ReadOnlyFilesystem, true),
            (std::io::ErrorKind::PermissionDenied, true),
            (std::io::ErrorKind::StorageFull, false),
        ] {
            let error =
                disk::Error::Io { operation: operation.clone(), path: "b/LOCK".into(), source: kind.into() };
            let text = told_to_copy(StoreError::from(BookError::Disk(error)).into()).to_string();
            assert_eq!(text.contains("copy their store"), is_told, "{text}");
        }
    }
}
