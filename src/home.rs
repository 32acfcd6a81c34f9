//! The paths of the files of `burn`, and the session ids that may be part of a path.
//!
//! Touches nothing: this module only makes paths. Guarantees: no path made here leaves the home, whatever the session id.
//! The layout is shared with the TypeScript `@relayburn/ledger` 1.x and must stay the same in both programs.

use std::fmt;
use std::path::{Path, PathBuf};

/// The environment variable that names the home.
pub const HOME_VARIABLE: &str = "RELAYBURN_HOME";

/// The length of the longest session id that may be part of a path, in bytes.
pub const MAX_SESSION_ID_LEN_BYTES: usize = 128;

/// The directory that holds ledger, indexes, content, archive and lock files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

/// The home directory could not be determined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no home directory is known for this user: set {HOME_VARIABLE} to the directory that holds the ledger"
)]
pub struct NoHome;

impl Home {
    /// `RELAYBURN_HOME` if it is set and not empty, else `.relayburn` in the user's home directory.
    pub fn from_env() -> Result<Self, NoHome> {
        match std::env::var_os(HOME_VARIABLE) {
            Some(root) if !root.is_empty() => Ok(Self::at(root)),
            _ => {
                let user = std::env::home_dir().filter(|path| !path.as_os_str().is_empty()).ok_or(NoHome)?;
                Ok(Self::at(user.join(".relayburn")))
            }
        }
    }

    /// A home at any directory, which need not exist yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory of the home.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `ledger.jsonl`, the source of truth: one JSON object a line, appended.
    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger.jsonl")
    }

    /// `ledger.idx`: the id of every record written, 16 hex digits a line.
    pub fn ids_index(&self) -> PathBuf {
        self.root.join("ledger.idx")
    }

    /// `ledger.content.idx`: the last 10 000 turn fingerprints, 16 hex digits a line.
    pub fn fingerprints_index(&self) -> PathBuf {
        self.root.join("ledger.content.idx")
    }

    /// `content/`, the directory of content sidecars.
    pub fn content_dir(&self) -> PathBuf {
        self.root.join("content")
    }

    /// `content/<sessionId>.jsonl`, the content sidecar of one session.
    pub fn content(&self, session: SessionId<'_>) -> PathBuf {
        self.content_dir().join(format!("{session}.jsonl"))
    }

    /// `archive.sqlite`, the derived archive; SQLite keeps `-wal` and `-shm` beside it.
    pub fn archive(&self) -> PathBuf {
        self.root.join("archive.sqlite")
    }

    /// `journal/`, the write-ahead log of the ledger.
    pub fn journal_dir(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// `config.json`, written by the user.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.json")
    }

    /// `cursors.json`: how far other programs have read their sources.
    pub fn cursors(&self) -> PathBuf {
        self.root.join("cursors.json")
    }

    /// `export.json`: the id under which the home exports, the generation of its ledger, and what the last export left.
    pub fn export(&self) -> PathBuf {
        self.root.join("export.json")
    }

    /// `hwm.json`: high-water marks kept by other programs.
    pub fn high_water_marks(&self) -> PathBuf {
        self.root.join("hwm.json")
    }

    /// `models.dev.json`: model prices kept by other programs.
    pub fn models(&self) -> PathBuf {
        self.root.join("models.dev.json")
    }

    /// `prices.json`: the user's own prices, which are looked up before the prices of the program.
    pub fn prices(&self) -> PathBuf {
        self.root.join("prices.json")
    }

    /// `machine.json`: the name that a person gave to the machine of this home.
    pub fn machine(&self) -> PathBuf {
        self.root.join("machine.json")
    }

    /// `ingest.side.json`: notes of `burn ingest` on agents' logs, which belong to the ledger and to `cursors.json`.
    pub(crate) fn ingest_notes(&self) -> PathBuf {
        self.root.join("ingest.side.json")
    }

    /// `ingest.known`: hashes of the messages and results of the ledger, derived from the ledger.
    pub(crate) fn ingest_known(&self) -> PathBuf {
        self.root.join("ingest.known")
    }

    /// `ingest.state/`: the states of the readers of long logs, derived from the logs before their cursors.
    pub(crate) fn ingest_states_dir(&self) -> PathBuf {
        self.root.join("ingest.state")
    }

    /// Whether a path is a file of this program in the home, or in a directory of this program there. The path need not
    /// exist.
    #[cfg(feature = "cli")]
    pub(crate) fn owns(&self, path: &Path) -> bool {
        const NAMES: [&str; 12] = [
            "config.json",
            "content",
            "cursors.json",
            "export.json",
            "hooks",
            "hwm.json",
            "ingest",
            "journal",
            "machine.json",
            "models.dev.json",
            "pending-stamps",
            "prices.json",
        ];
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = std::fs::canonicalize(directory.unwrap_or(Path::new(".")));
        let (Ok(directory), Ok(root)) = (directory, std::fs::canonicalize(&self.root)) else { return false };
        let path = directory.join(path.file_name().unwrap_or_default());
        let Ok(inside) = path.strip_prefix(root) else { return false };
        // Some file systems do not distinguish case.
        let name = inside.iter().next().unwrap_or_default().to_string_lossy().to_lowercase();
        let begins = ["archive.sqlite", "ingest.", "ledger."].iter().any(|start| name.starts_with(start));
        begins || name.ends_with(".lock") || NAMES.contains(&&*name)
    }

    /// `<name>.lock`, a file that exists while a process holds the lock.
    pub fn lock(&self, name: LockName<'_>) -> PathBuf {
        self.root.join(format!("{name}.lock"))
    }
}

/// The locks of a home. Prints as the name: `archive`, `ledger-index`, `content.<sessionId>`, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockName<'a> {
    /// Builds and rebuilds of the archive.
    Archive,
    /// Appends to `ledger.jsonl`, and rewriting it.
    Ledger,
    /// Writes to `ledger.idx` and `ledger.content.idx`.
    LedgerIndex,
    /// Writes to `cursors.json`.
    Cursors,
    /// Exports of the archive, and writes to `export.json`.
    Export,
    /// Writes to one content sidecar, and its deletion.
    Content(SessionId<'a>),
    /// Taken by test programs that share a home.
    TestSerialize,
}

impl fmt::Display for LockName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive => f.write_str("archive"),
            Self::Ledger => f.write_str("ledger"),
            Self::LedgerIndex => f.write_str("ledger-index"),
            Self::Cursors => f.write_str("cursors"),
            Self::Export => f.write_str("export"),
            Self::Content(session) => write!(f, "content.{session}"),
            Self::TestSerialize => f.write_str("test-serialize"),
        }
    }
}

/// A session id that may be part of a path: `[A-Za-z0-9][A-Za-z0-9._-]*`, at most 128 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId<'a>(&'a str);

/// A session id that cannot be part of a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "session id {id:?} cannot name a file: it must start with a letter or digit, go on with letters, digits, '.', '_' \
     or '-', and have at most {MAX_SESSION_ID_LEN_BYTES} characters"
)]
pub struct InvalidSessionId {
    /// The refused id.
    pub id: String,
}

impl<'a> SessionId<'a> {
    /// Checks an id. `.` and `..` fail the rule for the first character.
    pub fn new(id: &'a str) -> Result<Self, InvalidSessionId> {
        let starts_well = id.starts_with(|first: char| first.is_ascii_alphanumeric());
        let goes_on_well = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if starts_well && goes_on_well && id.len() <= MAX_SESSION_ID_LEN_BYTES {
            Ok(Self(id))
        } else {
            Err(InvalidSessionId { id: id.to_owned() })
        }
    }

    /// The id.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

impl fmt::Display for SessionId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn session_ids_that_could_leave_the_directory_are_refused() {
        let long = "a".repeat(129);
        for id in [
            "", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-rf", "_x", "a b", "a\n", "a\0", "é", "aé",
            &long,
        ] {
            let refused = SessionId::new(id).unwrap_err();
            assert_eq!(refused.id, id);
            assert!(refused.to_string().contains("cannot name a file"));
        }
        for id in ["a", "7", "a.b_c-d", "0194-..", &long[..128]] {
            assert_eq!(SessionId::new(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn paths_are_those_of_the_reference() {
        let home = Home::at("/h");
        let session = SessionId::new("s-1").unwrap();
        assert_eq!(home.content(session), Path::new("/h/content/s-1.jsonl"));
        assert_eq!(home.lock(LockName::Content(session)), Path::new("/h/content.s-1.lock"));
        assert_eq!(home.lock(LockName::LedgerIndex), Path::new("/h/ledger-index.lock"));
        assert_eq!(home.fingerprints_index(), Path::new("/h/ledger.content.idx"));
    }

    proptest! {
        #[test]
        fn a_valid_session_id_is_one_path_component(id in "\\PC{0,140}") {
            if let Ok(session) = SessionId::new(&id) {
                let path = Home::at("/h").content(session);
                prop_assert_eq!(path.parent(), Some(Path::new("/h/content")));
                prop_assert_eq!(path.components().count(), 4);
            }
        }
    }
}
