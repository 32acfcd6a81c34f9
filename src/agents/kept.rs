//! Calls of hooks: reads their payload, and keeps calls that could not finish in time.
//!
//! A hook must not keep its agent waiting, so it stops after a moment, and the next run handles its call. Touches
//! `hooks/` of the home: a file for each such call, `<milliseconds>-<process>-<uuid>.json`. Guarantees: such a file has
//! lengths and hashes and no text, whatever `RELAYBURN_CONTENT_STORE` says; a call that is handled twice is written
//! once.

use std::path::{Path, PathBuf};

use super::hook::HookRecords;
use super::js::{self, RecordText};
use super::{AgentsError, settings};
use crate::disk::{self, Replacing};
use crate::home::Home;
use crate::scan::json::{Document, JsonError, Value, trim_js};

/// A call of a hook of Claude Code: its event, and the log of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookCall {
    pub(super) records: HookRecords,
    pub(super) transcript: PathBuf,
}

impl HookCall {
    /// Reads a hook's payload, a JSON text. None when the payload names no session or no log, because such a call needs
    /// no work.
    ///
    /// # Errors
    /// When the payload is neither empty nor JSON.
    pub fn parse(payload: &[u8]) -> Result<Option<Self>, JsonError> {
        let payload = trim_js(payload);
        if payload.is_empty() {
            return Ok(None);
        }
        let mut document = Document::default();
        let root = document.parse(payload)?;
        let (Some(session), Some(path)) = (js::text(root, "session_id"), js::text(root, "transcript_path"))
        else {
            return Ok(None);
        };
        let transcript = PathBuf::from(&*js::to_utf8(path));
        Ok(Some(HookCall { records: HookRecords::of(session, root), transcript }))
    }

    fn of_kept(root: Value<'_>) -> Option<Self> {
        Some(HookCall {
            records: HookRecords {
                session: js::text(root, "session")?.to_vec(),
                relationship: root.get("relationship").map(js::json),
                event: root.get("event").map(js::json),
            },
            transcript: PathBuf::from(&*js::to_utf8(js::text(root, "transcript")?)),
        })
    }

    fn write(&self, kept: &mut RecordText) {
        kept.text("session", &self.records.session);
        kept.text("transcript", self.transcript.to_string_lossy().as_bytes());
        for (key, record) in [("relationship", &self.records.relationship), ("event", &self.records.event)] {
            if let Some(record) = record {
                kept.raw(key, record);
            }
        }
    }
}

/// Keeps a call for the next run, with the reason why it could not finish. Without a call only the reason is kept.
///
/// # Errors
/// When the home cannot be written.
pub fn keep_hook(home: &Home, call: Option<&HookCall>, reason: &str) -> Result<(), AgentsError> {
    let mut kept = RecordText::default();
    kept.count("v", 1);
    kept.text("reason", reason.as_bytes());
    if let Some(call) = call {
        call.write(&mut kept);
    }
    let folder = folder(home);
    disk::create_dir_all(&folder)?;
    let name = format!(
        "{:013}-{}-{}.json",
        settings::now_ms().max(0.0) as u64,
        std::process::id(),
        uuid::Uuid::new_v4().simple()
    );
    disk::replace(&folder.join(name), &kept.finish(), Replacing::Unsynced)?;
    Ok(())
}

/// A kept call of a hook.
pub(super) struct Kept {
    pub path: PathBuf,
    pub reason: String,
    pub call: Option<HookCall>,
}

fn folder(home: &Home) -> PathBuf {
    home.root().join("hooks")
}

/// A longer file is not from this program, because a call has only hashes and lengths.
const CALL_MAX_BYTES: u64 = 16 << 20;

/// Reads a regular file up to the greatest length. A pipe is refused, because opening it would wait.
fn read_regular(path: &Path) -> Result<Vec<u8>, disk::Error> {
    let file = disk::File::open_read(path)?;
    let len_bytes = file.metadata()?.len_bytes.min(CALL_MAX_BYTES);
    let mut bytes = vec![0; len_bytes as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Whether a file has the name that [`keep_hook`] gives.
fn is_named_as_kept(path: &Path) -> bool {
    let parts = |name: &str| {
        let mut parts = name.strip_suffix(".json")?.split('-');
        let [ms, process, uuid] = [parts.next()?, parts.next()?, parts.next()?];
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_uuid = uuid.len() == 32 && uuid.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some(parts.next().is_none() && is_number(ms) && is_number(process) && is_uuid)
    };
    path.file_name().and_then(|name| parts(name.to_str()?)) == Some(true)
}

fn parse(path: &Path, text: &[u8]) -> Result<Kept, String> {
    let mut document = Document::default();
    let root = document.parse(trim_js(text)).map_err(|error| error.to_string())?;
    let reason = js::any_text(root, "reason").ok_or("it has no reason")?;
    Ok(Kept {
        reason: js::to_utf8(reason).into_owned(),
        call: HookCall::of_kept(root),
        path: path.to_owned(),
    })
}

/// Returns the kept calls, oldest first. A damaged call is named, and renamed so that no later run names it again. A file
/// of another program is left alone.
pub(super) fn kept(home: &Home, note: &mut dyn FnMut(&str)) -> Vec<Kept> {
    let paths = disk::list(&folder(home)).unwrap_or_default();
    let read = |path: PathBuf| {
        let text = match read_regular(&path) {
            Ok(text) => text,
            // Another run has handled the call.
            Err(error) if error.is_not_found() => return None,
            Err(error) => {
                note(&format!("[burn] ingest: a kept call of a hook: {error}; the next run tries again"));
                return None;
            }
        };
        let damage = match parse(&path, &text) {
            Ok(kept) => return Some(kept),
            Err(damage) => damage,
        };
        let aside = disk::with_suffix(&path, ".damaged");
        let fate = match disk::rename(&path, &aside) {
            Ok(()) => format!("it is kept as {}", aside.display()),
            Err(error) if error.is_not_found() => return None,
            Err(error) => error.to_string(),
        };
        note(&format!("[burn] ingest: {} is a damaged call of a hook: {damage}; {fate}", path.display()));
        None
    };
    paths.into_iter().filter(|path| is_named_as_kept(path)).filter_map(read).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_kept_without_what_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let payload = br#"{"session_id":"s","transcript_path":"/t.jsonl","hook_event_name":"PostToolUse","tool_use_id":"t",
            "tool_response":{"secret":"\ud800 words"}}"#;
        let call = HookCall::parse(payload).unwrap().unwrap();
        keep_hook(&home, Some(&call), "no time").unwrap();
        keep_hook(&home, None, "no JSON").unwrap();
        let mut found = kept(&home, &mut |note| panic!("{note}"));
        found.sort_by_key(|kept| kept.call.is_none());
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].call.as_ref(), &found[0].reason[..]), (Some(&call), "no time"));
        assert_eq!((found[1].call.as_ref(), &found[1].reason[..]), (None, "no JSON"));
        let text = std::fs::read_to_string(&found[0].path).unwrap();
        assert!(text.contains("contentHash") && !text.contains("words"), "{text}");
        assert!(HookCall::parse(b" ").unwrap().is_none() && HookCall::parse(b"null").unwrap().is_none());
        assert!(HookCall::parse(b"{").is_err());
    }
}
