//! What the commands of `burn journal` share.

use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};
use base64::prelude::{BASE64_STANDARD, Engine as _};

/// Refuses a directory that is not there: only appending makes one.
pub(super) fn require_journal(dir: &Path) -> anyhow::Result<()> {
    crate::cli::must_exist(dir, "journal", "the first append", &[])?;
    let names = std::fs::read_dir(dir).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
    });
    let names = names.with_context(|| format!("cannot list {}", dir.display()))?;
    let has = |sign: &str| names.iter().any(|name| name == sign);
    // A book has a LOCK, too.
    let is_one = has("SYNCED") || has("IDENTITY") || has("LOCK") && !has("books");
    if !is_one && !names.iter().any(|name| name.ends_with(".wal")) {
        bail!("there is no journal at {}; the first append makes one", dir.display());
    }
    Ok(())
}

/// RFC 4648, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}
