//! Opening a store for a command, and what a command says of it when that fails.

use std::path::Path;

use serde::Serialize;

use super::arguments::StoreDir;
use crate::cli::JsonFailure;
use crate::session::{SessionError, SessionOptions, SessionReader, SessionStoreV2};

pub(super) fn failure(error: &SessionError) -> JsonFailure {
    JsonFailure::new(error.class().as_str(), error)
}

/// The document of a failed command.
#[derive(Serialize)]
pub(super) struct Failed {
    pub(super) ok: bool,
    pub(super) error: JsonFailure,
}

/// Opens a store for reading. The store must exist, because a mistyped directory must not look like an empty store.
pub(super) fn reader(store: &StoreDir) -> anyhow::Result<SessionReader> {
    must_exist(&store.dir)?;
    Ok(SessionStoreV2::open_for_inspection(&store.dir, &SessionOptions::default())?)
}

/// Every store has at least one of these; a copy may lack empty directories.
pub(super) const SIGNS: [&str; 6] =
    ["segments", "index", "checkpoints", "migrations", "tmp", "manifest.json"];

/// Refuses a directory in which `append` and `import` must not make a store. Other programs have a `tmp`, an `index` or a `manifest.json`,
/// too.
pub(super) fn refuse_foreign(dir: &Path) -> anyhow::Result<()> {
    crate::cli::refuse_foreign(dir, "session store", |names| {
        names.iter().any(|name| name == "segments" || name == "store.mutation.lock")
            || names.iter().all(|name| SIGNS.contains(&name.as_str()))
    })
}

pub(super) fn must_exist(dir: &Path) -> anyhow::Result<()> {
    crate::cli::must_exist(dir, "session store", "the first `burn session append`", &SIGNS)
}
