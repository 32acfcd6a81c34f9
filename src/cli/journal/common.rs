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
    if !holds_journal(&names) {
        bail!("there is no journal at {}; the first append makes one", dir.display());
    }
    Ok(())
}

/// Whether the files with these names in a directory are a journal. Other programs have a LOCK, too: it counts where nothing else is
/// there but what a journal may have left.
pub(super) fn holds_journal(names: &[String]) -> bool {
    let has = |sign: &str| names.iter().any(|name| name == sign);
    let is_segment = |name: &String| {
        let base = name.strip_suffix(".wal").unwrap_or_default();
        base.len() == 16 && base.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let is_known = |name: &String| {
        ["LOCK", "SKIPS", "cursors", "quarantine"].contains(&name.as_str())
            || name.starts_with("DELIVERED")
            || name.ends_with(".tmp")
    };
    has("SYNCED")
        || has("IDENTITY")
        || names.iter().any(is_segment)
        || has("LOCK") && names.iter().all(is_known)
}

/// RFC 4648, with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}
