//! Pending stamps: stamps that `burn run` writes for a session which it starts, because it cannot know the session's
//! id.
//!
//! Touches `pending-stamps/` of the home. A run claims a stamp by renaming its file, so that two runs never apply the
//! same stamp. The claim has the line to append, so that a run which finds the claim of a dead process can see whether
//! the ledger has the line.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::js::{self, RecordText};
use super::pass::Agent;
use super::terms::stamp_text;
use super::{project, settings};
use crate::disk::{self, Replacing};
use crate::home::Home;
use crate::scan::json::{Document, Kind, Value, trim_js};

/// Older stamps are deleted.
const EXPIRED_MS: f64 = 24.0 * 3600.0 * 1000.0;

/// By how much a session's file may seem older than the start of its process, because the clock of files is late.
const SLACK_MS: f64 = 20.0;
const SLACK_AS_REFERENCE_MS: f64 = 1.0;

/// A stamp that waits for its session.
struct PendingStamp {
    path: PathBuf,
    harness: Vec<u8>,
    start_ms: f64,
    cwd: Vec<u8>,
    session_dir: Option<Vec<u8>>,
    /// As JSON text.
    enrichment: Vec<u8>,
}

/// A stamp that is being applied.
pub(super) struct Claimed {
    original: PathBuf,
    path: PathBuf,
    /// The line for the ledger.
    pub line: Vec<u8>,
}

/// The session that a stamp is searched for.
pub(super) struct StampTarget<'s> {
    pub agent: Agent,
    pub id: &'s [u8],
    pub cwd: Option<&'s [u8]>,
    pub path: &'s Path,
    pub mtime_ms: f64,
    pub as_reference: bool,
}

fn folder(home: &Home) -> PathBuf {
    home.root().join("pending-stamps")
}

fn files(home: &Home) -> Vec<PathBuf> {
    let paths = disk::list(&folder(home)).unwrap_or_default();
    paths.into_iter().filter(|path| disk::metadata(path).is_ok_and(|found| found.is_file)).collect()
}

/// Reads a stamp. None if it is invalid.
fn parse(path: &Path, text: &[u8]) -> Option<PendingStamp> {
    let mut document = Document::default();
    let root = document.parse(trim_js(text)).ok().filter(|root| root.kind() == Kind::Object)?;
    if root.get("v").and_then(Value::as_number)?.as_f64() != 1.0 {
        return None;
    }
    root.get("spawnerPid").and_then(Value::as_number)?;
    let harness = js::any_text(root, "harness").filter(|name| matches!(*name, b"codex" | b"opencode"))?;
    let start = js::any_text(root, "spawnStartTs")?;
    let start_ms = js::to_utf8(start).parse::<jiff::Timestamp>().ok()?.as_millisecond() as f64;
    let cwd = js::any_text(root, "cwd")?;
    let enrichment = root.get("enrichment").filter(|value| value.kind() == Kind::Object)?;
    if enrichment.members().any(|(_, value)| value.kind() != Kind::String) {
        return None;
    }
    let session_dir = match root.get("sessionDirHint") {
        None => None,
        Some(hint) => Some(js::wtf8(hint)?.to_vec()),
    };
    Some(PendingStamp {
        path: path.to_owned(),
        harness: harness.to_vec(),
        start_ms,
        cwd: cwd.to_vec(),
        session_dir,
        enrichment: js::json(enrichment),
    })
}

/// Deletes expired stamps. Errors are ignored.
pub(super) fn clean(home: &Home) {
    let now_ms = settings::now_ms();
    for path in files(home) {
        let is_stale = match disk::read(&path) {
            // It may be readable again.
            Err(_) => false,
            Ok(text) => match parse(&path, &text) {
                Some(stamp) => now_ms - stamp.start_ms > EXPIRED_MS,
                None => {
                    let modified = disk::metadata(&path).map(|found| found.modified);
                    let age =
                        modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
                    age.unwrap_or(Duration::ZERO).as_secs_f64() * 1000.0 > EXPIRED_MS
                }
            },
        };
        if is_stale {
            let _ = disk::remove_file(&path);
        }
    }
}

/// The process that has claimed a stamp: `<name>.json.claimed-PID-UUID`.
fn claimant(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.split_once(".json.claimed-")?.1.split('-').next()?.parse().ok()
}

#[cfg(unix)]
fn is_alive(pid: u32) -> bool {
    let Ok(pid) = i32::try_from(pid) else { return false };
    // SAFETY: a call without pointers. Signal 0 only asks whether the process exists.
    let asked = unsafe { libc::kill(pid, 0) };
    asked == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

#[cfg(not(unix))]
fn is_alive(_pid: u32) -> bool {
    true
}

/// Releases stamps whose claiming process died before it applied them. A stamp whose line is in the ledger was applied.
pub(super) fn take_over(home: &Home, is_in_ledger: &mut dyn FnMut(&[u8]) -> bool) {
    for path in files(home) {
        let Some(pid) = claimant(&path).filter(|pid| !is_alive(*pid)) else { continue };
        let Ok(text) = disk::read(&path) else { continue };
        let mut document = Document::default();
        let line = document.parse(trim_js(&text)).ok().and_then(|root| js::text(root, "line"));
        if line.is_some_and(&mut *is_in_ledger) {
            let _ = disk::remove_file(&path);
            continue;
        }
        let suffix = format!(".claimed-{pid}-");
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some((original, _)) = name.split_once(&suffix) {
            let _ = disk::rename(&path, &path.with_file_name(original));
        }
    }
}

/// Claims the oldest stamp that matches the session.
pub(super) fn claim(home: &Home, session: &StampTarget<'_>) -> Option<Claimed> {
    clean(home);
    let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let absolute = |text: &[u8]| project::absolute(&base, Path::new(&*js::to_utf8(text)));
    let slack_ms = if session.as_reference { SLACK_AS_REFERENCE_MS } else { SLACK_MS };
    let fits = |stamp: &PendingStamp| {
        stamp.harness == session.agent.as_str().as_bytes()
            && stamp.session_dir.as_ref().is_none_or(|dir| {
                absolute(session.path.as_os_str().as_encoded_bytes()).starts_with(absolute(dir))
            })
            && session.mtime_ms >= stamp.start_ms - slack_ms
            && session.cwd.is_none_or(|cwd| absolute(cwd) == absolute(&stamp.cwd))
    };
    let is_json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let read = |path: PathBuf| parse(&path, &disk::read(&path).ok()?);
    let mut found: Vec<PendingStamp> =
        files(home).into_iter().filter(is_json).filter_map(read).filter(|stamp| fits(stamp)).collect();
    found.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
    found.into_iter().find_map(|stamp| claim_one(stamp, session))
}

fn claim_one(stamp: PendingStamp, session: &StampTarget<'_>) -> Option<Claimed> {
    let mut selector = RecordText::default();
    selector.text("sessionId", session.id);
    let now = js::iso(settings::now_ms())?;
    let line = stamp_text(now.as_bytes(), &selector.finish(), &stamp.enrichment);
    let suffix = format!(".claimed-{}-{}", std::process::id(), uuid::Uuid::new_v4());
    let path = disk::with_suffix(&stamp.path, &suffix);
    disk::rename(&stamp.path, &path).ok()?;
    let claimed = Claimed { original: stamp.path, path, line };
    if claimed.note().is_none() {
        claimed.give_back();
        return None;
    }
    Some(claimed)
}

impl Claimed {
    /// Adds the line to the claim.
    fn note(&self) -> Option<()> {
        let text = disk::read(&self.path).ok()?;
        let mut document = Document::default();
        let root = document.parse(trim_js(&text)).ok()?;
        let mut noted = RecordText::default();
        noted.members_of(root, |_, key| key == b"line");
        noted.text("line", &self.line);
        disk::replace(&self.path, &noted.finish(), Replacing::Unsynced).ok()
    }

    /// Ends the claim: the line is in the ledger.
    pub(super) fn applied(self) {
        let _ = disk::remove_file(&self.path);
    }

    /// Releases the claim, because the line is not in the ledger. Another run may apply the stamp.
    pub(super) fn give_back(self) {
        let _ = disk::rename(&self.path, &self.original);
    }
}
