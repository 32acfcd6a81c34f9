//! Content sidecars: what the sessions of a home said, a file for each.
//!
//! Touches `content/`, each sidecar under its lock `content.<sessionId>`. Promises that no path leaves that directory, that
//! a line stands in a sidecar once, and that a sidecar is deleted only as old as it was when it was looked at under
//! the lock.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::SystemTime;

use super::append::{AppendOptions, Appended, append_lines, sync_lines};
use super::batch::{Batch, ContentEntry};
use super::lines::LineFile;
use super::{Ledger, LedgerError};
use crate::disk;
use crate::home::{LockName, SessionId};
use crate::scan::{self, Io, Source, chunks};

/// How much of a sidecar is read at a time.
const CHUNK_BYTES: u64 = 1 << 20;
const SUFFIX: &str = ".jsonl";

/// A content sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Its file.
    pub path: PathBuf,
    /// Its session.
    pub session: String,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// When it was last written.
    pub modified: SystemTime,
}

/// The content sidecars of a home.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sidecars {
    /// Those that are to go, or went, by session id.
    pub expired: Vec<Sidecar>,
    /// Those that stay, by session id.
    pub kept: Vec<Sidecar>,
}

impl Ledger {
    /// Appends the content records of `batch`, session by session.
    pub(super) fn append_content(
        &self,
        batch: &Batch,
        options: &AppendOptions,
        done: &mut Appended,
    ) -> Result<(), LedgerError> {
        // Sessions in the order in which they first occur.
        let mut sessions: Vec<(&str, Vec<&ContentEntry>)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for entry in &batch.content {
            let place = *places.entry(entry.session.as_str()).or_insert_with(|| {
                sessions.push((&entry.session, Vec::new()));
                sessions.len() - 1
            });
            sessions[place].1.push(entry);
        }
        for (session, entries) in sessions {
            // The batch took in none that is invalid.
            let Ok(session) = SessionId::new(session) else { continue };
            disk::create_dir_all(&self.home().content_dir())?;
            self.locked(LockName::Content(session), |held| {
                let path = self.home().content(session);
                disk::refuse_other_case(&path)?;
                let mut file = LineFile::open(&path)?;
                let lines: Vec<&[u8]> = entries.iter().map(|entry| batch.line(&entry.line)).collect();
                let mut known = standing(&file, &lines)?;
                let fresh: Vec<&[u8]> = lines.iter().copied().filter(|line| known.insert(*line)).collect();
                let appended = fresh.len() as u64;
                if !fresh.is_empty() {
                    held.still_held()?;
                    append_lines(&mut file, &fresh.concat(), fresh.len(), options)?;
                } else {
                    sync_lines(&file, options)?;
                }
                done.appended += appended;
                done.duplicates += entries.len() as u64 - appended;
                Ok::<_, LedgerError>(())
            })?;
        }
        // Names of sidecars: also of those that an append which did not sync had created.
        if options.durable && !batch.content.is_empty() {
            disk::sync_dir(&self.home().content_dir())?;
        }
        Ok(())
    }

    /// Lists the sidecars that were last written at or before `cut_off`, save those of sessions that `is_recoverable` calls
    /// recoverable. Changes nothing.
    ///
    /// # Errors
    /// When the directory or a file in it cannot be looked at.
    pub fn expired_content(
        &self,
        cut_off: SystemTime,
        mut is_recoverable: impl FnMut(SessionId<'_>) -> bool,
    ) -> Result<Sidecars, LedgerError> {
        let mut found = Sidecars::default();
        for sidecar in self.sidecars()? {
            // Listed are none but valid ones.
            let Ok(session) = SessionId::new(&sidecar.session) else { continue };
            if sidecar.modified <= cut_off && !is_recoverable(session) {
                found.expired.push(sidecar);
            } else {
                found.kept.push(sidecar);
            }
        }
        Ok(found)
    }

    /// Deletes the sidecars that [`Ledger::expired_content`] lists; one that was written to meanwhile stays.
    ///
    /// # Errors
    /// As that, and when a lock cannot be taken or a file not be deleted; those before it are then gone.
    pub fn prune_content(
        &self,
        cut_off: SystemTime,
        is_recoverable: impl FnMut(SessionId<'_>) -> bool,
    ) -> Result<Sidecars, LedgerError> {
        let listed = self.expired_content(cut_off, is_recoverable)?;
        let mut pruned = Sidecars { expired: Vec::new(), kept: listed.kept };
        for mut sidecar in listed.expired {
            let Ok(session) = SessionId::new(&sidecar.session) else { continue };
            let is_gone =
                self.locked(LockName::Content(session), |held| match disk::metadata(&sidecar.path) {
                    Ok(found) if found.modified <= cut_off => {
                        held.still_held()?;
                        disk::remove_file_if_exists(&sidecar.path).map_err(LedgerError::from)
                    }
                    Ok(found) => {
                        (sidecar.len_bytes, sidecar.modified) = (found.len_bytes, found.modified);
                        Ok(false)
                    }
                    Err(error) if error.is_not_found() => Ok(true),
                    Err(error) => Err(error.into()),
                })?;
            if is_gone {
                pruned.expired.push(sidecar);
            } else {
                pruned.kept.push(sidecar);
            }
        }
        pruned.kept.sort_by(|a, b| a.session.cmp(&b.session));
        Ok(pruned)
    }

    /// Every sidecar, by session id. Other files in the directory are none of ours.
    pub fn sidecars(&self) -> Result<Vec<Sidecar>, LedgerError> {
        let paths = match disk::list(&self.home().content_dir()) {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut sidecars = Vec::new();
        for name in paths.iter().filter_map(|path| path.file_name()) {
            let session = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let Some(session) = session.and_then(|session| SessionId::new(session).ok()) else { continue };
            let path = self.home().content(session);
            match disk::metadata(&path) {
                Ok(found) if found.is_file => sidecars.push(Sidecar {
                    path,
                    session: session.as_str().to_owned(),
                    len_bytes: found.len_bytes,
                    modified: found.modified,
                }),
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        sidecars.sort_by(|a, b| a.session.cmp(&b.session));
        Ok(sidecars)
    }
}

/// Those of `lines`, each with its LF, that stand in `file` already.
fn standing<'b>(file: &LineFile, lines: &[&'b [u8]]) -> Result<HashSet<&'b [u8]>, LedgerError> {
    let mut known = HashSet::new();
    if file.len_bytes() == 0 {
        return Ok(known);
    }
    // Without the LF, for the last line of the file may lack its own.
    let wanted: std::collections::HashMap<&[u8], &'b [u8]> =
        lines.iter().map(|line| (&line[..line.len() - 1], *line)).collect();
    let source = Source::open(file.file().path(), Io::Read)?;
    let mut buffer = Vec::new();
    for chunk in chunks(&source, 0..source.len_bytes(), CHUNK_BYTES) {
        for (_, line) in scan::lines(0, source.bytes(chunk?, &mut buffer)?) {
            known.extend(wanted.get(line));
        }
    }
    Ok(known)
}
