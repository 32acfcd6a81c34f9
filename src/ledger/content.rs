//! Content sidecars: the content records of a home, in one file for each session.
//!
//! Touches `content/`, each sidecar under its lock `content.<sessionId>`. Guarantees: no path leaves that directory. A line
//! is written to a sidecar once. A sidecar is deleted only if a look under the lock shows that the last write is not after
//! the cut-off.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use super::append::{AppendOptions, Appended, append_lines, sync_lines};
use super::batch::{Batch, ContentEntry};
use super::lines::LineFile;
use super::sidecar_lines::{SidecarLines, standing};
use super::{Ledger, LedgerError};
use crate::disk;
use crate::home::{Home, LockName, SessionId};
use crate::scan::{self, Io, Source, chunks};

/// How much of a sidecar is compared and appended at a time by a merge, in bytes.
const CONTENT_PIECE_BYTES: u64 = 8 << 20;
const SUFFIX: &str = ".jsonl";

/// A content sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// The path of the file.
    pub path: PathBuf,
    /// The id of the session.
    pub session: String,
    /// The length of the file in bytes.
    pub len_bytes: u64,
    /// When the file was last written.
    pub modified: SystemTime,
}

/// The content sidecars of a home.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sidecars {
    /// The sidecars to delete, or the deleted sidecars, by session id.
    pub expired: Vec<Sidecar>,
    /// The sidecars that stay, by session id.
    pub kept: Vec<Sidecar>,
}

impl Ledger {
    /// Appends the content records of `batch`, session by session.
    pub(super) fn append_content(
        &self,
        batch: &Batch,
        options: &AppendOptions,
        known: &mut SidecarLines,
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
            // The batch has no invalid session id.
            let Ok(session) = SessionId::new(session) else { continue };
            disk::create_dir_all(&self.home().content_dir())?;
            self.locked(LockName::Content(session), |held| {
                let path = self.home().content(session);
                disk::refuse_other_case(&path)?;
                let mut file = LineFile::open(&path)?;
                let before = file.len_bytes();
                let fresh = known.fresh(&file, batch, &entries)?;
                let appended = fresh.len() as u64;
                if !fresh.is_empty() {
                    held.still_held()?;
                    let text = batch.joined(fresh.iter().map(|entry| &entry.line));
                    append_lines(&mut file, &text, fresh.len(), options)?;
                    known.take_appended(&file, before);
                } else {
                    sync_lines(&file, options)?;
                }
                done.appended += appended;
                done.duplicates += entries.len() as u64 - appended;
                Ok::<_, LedgerError>(())
            })?;
        }
        // Syncs the names of the sidecars, because an earlier append without a sync may have created some of them.
        if options.durable && !batch.content.is_empty() {
            disk::sync_dir(&self.home().content_dir())?;
        }
        Ok(())
    }

    /// Lists the sidecars that were last written at or before `cut_off`, except sidecars of sessions for which
    /// `is_recoverable` returns true. Changes nothing.
    ///
    /// # Errors
    /// When the directory or a file in the directory cannot be inspected.
    pub fn expired_content(
        &self,
        cut_off: SystemTime,
        mut is_recoverable: impl FnMut(SessionId<'_>) -> bool,
    ) -> Result<Sidecars, LedgerError> {
        let mut found = Sidecars::default();
        for sidecar in self.sidecars()? {
            // The list has only valid session ids.
            let Ok(session) = SessionId::new(&sidecar.session) else { continue };
            if sidecar.modified <= cut_off && !is_recoverable(session) {
                found.expired.push(sidecar);
            } else {
                found.kept.push(sidecar);
            }
        }
        Ok(found)
    }

    /// Deletes the sidecars that [`Ledger::expired_content`] lists. A sidecar that was written to meanwhile stays.
    ///
    /// # Errors
    /// The errors of [`Ledger::expired_content`], and an error when a lock cannot be taken or a file cannot be deleted;
    /// the sidecars before that file are then deleted.
    pub fn prune_content(
        &self,
        cut_off: SystemTime,
        is_recoverable: impl FnMut(SessionId<'_>) -> bool,
    ) -> Result<Sidecars, LedgerError> {
        let listed = self.expired_content(cut_off, is_recoverable)?;
        let mut pruned = Sidecars { expired: Vec::new(), kept: listed.kept };
        for mut sidecar in listed.expired {
            let Ok(session) = SessionId::new(&sidecar.session) else { continue };
            let is_gone = self.locked(LockName::Content(session), |held| -> Result<bool, LedgerError> {
                let Some(found) = disk::if_there(disk::metadata(&sidecar.path))? else { return Ok(true) };
                if found.modified <= cut_off {
                    held.still_held()?;
                    return Ok(disk::remove_file_if_exists(&sidecar.path)?);
                }
                (sidecar.len_bytes, sidecar.modified) = (found.len_bytes, found.modified);
                Ok(false)
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

    /// Appends the lines of the sidecars of `homes` that the sidecars of this home lack. Unfinished last lines are left
    /// out. Of the sidecars of one session the longest comes first, else the one with the lesser hash, so that the order of
    /// the homes changes nothing. Returns the number of appended lines.
    pub(super) fn merge_content(&self, homes: &[&Home]) -> Result<u64, LedgerError> {
        let mut of_session: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for home in homes {
            for sidecar in Ledger::new((*home).clone()).sidecars()? {
                of_session.entry(sidecar.session).or_default().push(sidecar.path);
            }
        }
        let mut appended = 0;
        for (session, paths) in of_session {
            let Ok(session) = SessionId::new(&session) else { continue };
            let opened: Result<Vec<Source>, _> =
                paths.iter().map(|path| Source::open(path, Io::default())).collect();
            let mut sources = opened?;
            if sources.len() > 1 {
                let mut buffer = Vec::new();
                let mut order = Vec::new();
                for source in sources {
                    let len_bytes = source.len_bytes();
                    let hash = *blake3::hash(source.bytes(0..len_bytes, &mut buffer)?).as_bytes();
                    order.push(((Reverse(len_bytes), hash), source));
                }
                order.sort_by_key(|(order, _)| *order);
                sources = order.into_iter().map(|(_, source)| source).collect();
            }
            for source in sources {
                appended += self.merge_sidecar(session, &source)?;
            }
        }
        if appended > 0 {
            disk::sync_dir(&self.home().content_dir())?;
        }
        Ok(appended)
    }

    /// Appends the lines of `source` that the sidecar of `session` lacks, and returns their number.
    fn merge_sidecar(&self, session: SessionId<'_>, source: &Source) -> Result<u64, LedgerError> {
        disk::create_dir_all(&self.home().content_dir())?;
        let path = self.home().content(session);
        let mut appended = 0;
        self.locked(LockName::Content(session), |held| {
            disk::refuse_other_case(&path)?;
            let mut file = LineFile::open(&path)?;
            let is_own = Source::open(&path, Io::Read)?.is_same_file(source);
            let end = if is_own { 0 } else { source.line_end_before(0, source.len_bytes())? };
            let mut buffer = Vec::new();
            for chunk in chunks(source, 0..end, CONTENT_PIECE_BYTES) {
                let piece = source.bytes(chunk?, &mut buffer)?.to_vec();
                // A map of a file that was cut has zeros after its new end.
                source.check_len()?;
                let lines: Vec<&[u8]> = scan::lines(0, &piece).map(|(_, line)| line).collect();
                let mut known = standing(&file, lines.iter().copied().collect())?;
                let fresh: Vec<&[u8]> = lines.into_iter().filter(|line| known.insert(*line)).collect();
                if !fresh.is_empty() {
                    held.still_held()?;
                    let text: Vec<u8> =
                        fresh.iter().flat_map(|line| line.iter().chain(b"\n")).copied().collect();
                    append_lines(&mut file, &text, fresh.len(), &AppendOptions::durable())?;
                    appended += fresh.len() as u64;
                }
            }
            Ok::<_, LedgerError>(())
        })?;
        Ok(appended)
    }

    /// Lists every sidecar, by session id. Other files in the directory are skipped.
    pub fn sidecars(&self) -> Result<Vec<Sidecar>, LedgerError> {
        let paths = disk::if_there(disk::list(&self.home().content_dir()))?.unwrap_or_default();
        let mut sidecars = Vec::new();
        for name in paths.iter().filter_map(|path| path.file_name()) {
            let session = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            let Some(session) = session.and_then(|session| SessionId::new(session).ok()) else { continue };
            let path = self.home().content(session);
            let found = disk::if_there(disk::metadata(&path))?.filter(|found| found.is_file);
            sidecars.extend(found.map(|found| Sidecar {
                path,
                session: session.as_str().to_owned(),
                len_bytes: found.len_bytes,
                modified: found.modified,
            }));
        }
        sidecars.sort_by(|a, b| a.session.cmp(&b.session));
        Ok(sidecars)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::home::Home;

    #[test]
    fn a_line_is_written_once_whoever_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(Home::at(folder.path()));
        let path = ledger.home().content(SessionId::new("s").unwrap());
        let mut known = SidecarLines::default();
        let mut append = |texts: &[&str]| {
            let mut batch = Batch::new();
            for text in texts {
                let session = text.chars().next().unwrap();
                batch
                    .push_content(format!(r#"{{"sessionId":"{session}","text":"{text}"}}"#).as_bytes())
                    .unwrap();
            }
            let mut done = Appended::default();
            ledger.append_content(&batch, &AppendOptions::default(), &mut known, &mut done).unwrap();
            (done.appended, done.duplicates)
        };
        assert_eq!(append(&["s1", "s2", "s1", "t1"]), (3, 1));
        assert_eq!(append(&["s1", "s3"]), (1, 1));
        assert_eq!(append(&["s3", "t1", "t2"]), (1, 2));
        // Another program appends, and leaves its last line unfinished.
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "{\"sessionId\":\"s\",\"text\":\"s4\"}\n{\"sessionId\":\"s\",\"text\":\"s5\"}";
        std::fs::write(&path, &text).unwrap();
        assert_eq!(append(&["s4", "s5", "s6", "s2"]), (1, 3));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 6);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(append(&["s1", "s1", "s6"]), (2, 1));
        assert_eq!(append(&["s6", "s2"]), (1, 1));
    }
}
