//! Reads the sessions of OpenCode: the JSON files of its `storage` folder, and its databases.
//!
//! Touches only OpenCode's files, for reading. One session is in memory at a time.

mod database;
mod gather;
mod server;
mod session;
mod stream;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use self::gather::gather_session;
pub(super) use self::server::{Received, Request};
use self::session::records::HandedMessages;
pub(super) use self::session::records::{Awaited, RecordRules};
use self::session::{Part, SessionHead, SessionMessage, SpawningTask};
pub(super) use self::stream::StreamState;
use super::js::{self, RecordText};
use super::pass::{Agent, Candidate, Gathered, HandOver, Handed, Pass, Reason, RootsOf, Stat};
use super::walk::Unreadable;
use super::{AgentsError, GivenUp, walk};
use crate::disk;
use crate::scan::json::{Document, Kind, Value, trim_js};

/// The longest JSON file that is read. OpenCode writes one file for each part, and an agent could not have read a
/// longer part.
const FILE_MAX_BYTES: u64 = 256 << 20;

/// Returns the roots of sessions: folders with `storage` and databases.
pub(super) fn roots(of: &RootsOf<'_>) -> Vec<PathBuf> {
    let usual = of.user.join(".local/share/opencode");
    if of.as_reference {
        return vec![usual];
    }
    let mut roots = vec![usual];
    let other = (of.variable)("XDG_DATA_HOME").map(|data| data.join("opencode"));
    let database = (of.variable)("OPENCODE_DB").filter(|path| path.is_absolute());
    for root in other.into_iter().chain(database) {
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}

/// Returns the folder `storage` of a root.
pub(super) fn storage_of(root: &Path) -> PathBuf {
    if root.ends_with("storage") { root.to_owned() } else { root.join("storage") }
}

/// Returns the databases under a root, then its session files. A root may be a database itself.
pub(super) fn discover(root: &Path, as_reference: bool, unreadable: &mut Vec<Unreadable>) -> Vec<Candidate> {
    let database = |path| Candidate { agent: Agent::OpenCode, path, extra: None };
    if !as_reference && root.is_file() {
        return vec![database(root.to_owned())];
    }
    let mut found = Vec::new();
    if !as_reference {
        let entries = walk::entries(root, as_reference, unreadable);
        let is_database = |path: &Path| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            name.starts_with(b"opencode") && name.ends_with(b".db")
        };
        let databases = walk::logs(&entries, as_reference, is_database, unreadable);
        found.extend(databases.into_iter().map(database));
    }
    let is_session = |path: &Path| {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        name.starts_with(b"ses_") && name.ends_with(b".json")
    };
    let storage = storage_of(root);
    for path in walk::logs_below(&storage.join("session"), as_reference, &is_session, unreadable) {
        let messages = storage.join("message").join(path.file_stem().unwrap_or_default());
        found.push(Candidate { agent: Agent::OpenCode, path, extra: Some(messages) });
    }
    found
}

/// Reads a session file, or all sessions of a database.
pub(super) fn read(pass: &Pass<'_>, hand: &mut HandOver<'_>) -> Result<(), AgentsError> {
    match &pass.candidate.extra {
        Some(messages) => {
            hand(read_files(pass, messages)?);
            Ok(())
        }
        None => database::read(pass, hand),
    }
}

/// The note of the side file about a session.
#[derive(Default)]
struct SessionNote {
    /// Unfinished answers and half files. OpenCode may rewrite them without changing the folder's time.
    is_waiting: bool,
    session_mtime_ms: f64,
    changed_ms: Option<f64>,
    newest_ms: f64,
    /// The call that started the session.
    task: Option<SpawningTask>,
}

fn before_of(side: &[u8]) -> Option<SessionNote> {
    let mut document = Document::default();
    let side = document.parse(side).ok()?;
    Some(SessionNote {
        is_waiting: js::is_true(side, "isWaiting"),
        session_mtime_ms: js::number(side, "sessionMtimeMs")?,
        changed_ms: js::number(side, "changedMs"),
        newest_ms: js::number(side, "newestMs")?,
        task: side.get("task").and_then(|task| {
            let text = |key| js::text(task, key).map(<[u8]>::to_vec);
            Some(SpawningTask { call: text("call")?, kind: text("kind"), description: text("description") })
        }),
    })
}

fn read_files(pass: &Pass<'_>, folder: &Path) -> Result<Handed, AgentsError> {
    let options = pass.options;
    // A session without a folder of messages is counted as found and left alone.
    let folder_stat = match Stat::of(folder) {
        Ok(stat) => stat,
        Err(AgentsError::Disk(error)) if error.is_not_found() => return Ok(Handed::Unchanged(None)),
        Err(error) => return Err(error),
    };
    let mut cursor_document = Document::default();
    let cursor = pass.cursor.and_then(|text| cursor_document.parse(text).ok());
    let cursor_ms = cursor.and_then(|cursor| js::number(cursor, "mtimeMs"));
    let is_same_file = cursor.and_then(|cursor| js::number(cursor, "inode")) == Some(pass.stat.inode);
    let before = if options.as_reference { None } else { pass.side.and_then(before_of) };
    let is_unchanged = is_same_file && cursor_ms == Some(folder_stat.mtime_ms);
    let session_changed = before.as_ref().is_some_and(|before| before.session_mtime_ms != pass.stat.mtime_ms);
    // Without a note, an answer may wait whose file changes in place.
    let waits = before.as_ref().map_or(!options.as_reference, |before| before.is_waiting);
    if is_unchanged && !session_changed && !waits {
        return Ok(Handed::Unchanged(None));
    }
    let goes_on = is_same_file && cursor_ms.is_some_and(|before| before <= folder_stat.mtime_ms);
    let seen_before: Vec<Vec<u8>> = cursor
        .filter(|_| goes_on)
        .and_then(|cursor| cursor.get("seenMessageIds"))
        .into_iter()
        .flat_map(Value::items)
        .filter_map(|id| js::wtf8(id).map(<[u8]>::to_vec))
        .collect();
    let seen: HashSet<Vec<u8>> = seen_before.iter().cloned().collect();

    let mut gathered =
        Gathered { session_mtime_ms: pass.stat.mtime_ms.max(folder_stat.mtime_ms), ..Gathered::default() };
    let store = pass.candidate.path.ancestors().nth(3).unwrap_or(Path::new("/")).to_owned();
    let mut reader = Files {
        pass,
        gathered: &mut gathered,
        newest_ms: folder_stat.mtime_ms,
        mtime_ms: 0.0,
        half_files: 0,
    };
    let mut session = reader.session()?;
    if let Some(session) = &mut session {
        session.messages = reader.messages(&store, &session.id)?;
        if let Some(parent) = session.parent.clone().filter(|_| !options.as_reference) {
            let known = before.as_ref().and_then(|before| before.task.clone());
            session.task = match known {
                Some(task) => Some(task),
                None => reader.task(&store, &parent, &session.id)?,
            };
        }
    }
    let Files { newest_ms, half_files, .. } = reader;
    let is_moving = before.as_ref().is_some_and(|before| before.newest_ms != newest_ms);
    let noted_ms = if is_moving { Some(options.now_ms) } else { before.as_ref().and_then(|b| b.changed_ms) };
    let changed_ms = options.seen_ms(newest_ms, noted_ms);
    let handed = match &session {
        Some(session) => {
            let rules = RecordRules {
                as_reference: options.as_reference,
                content: options.content,
                projects: pass.projects,
                session_path: pass.candidate.path.as_os_str().as_encoded_bytes().to_vec(),
                awaited: Awaited::of(options, newest_ms, changed_ms),
                is_stream: false,
            };
            gather_session(session, &rules, &seen, pass, &mut gathered)?
        }
        None => {
            let place = (0, pass.stat.size_bytes);
            gathered.left_out.add(options, place, Reason::NotARecord, || "no session".to_owned());
            HandedMessages::default()
        }
    };
    if session.is_some() || options.as_reference {
        let mut new_cursor = RecordText::default();
        new_cursor.text("kind", b"opencode");
        new_cursor.number("inode", pass.stat.inode);
        new_cursor.number("mtimeMs", folder_stat.mtime_ms);
        let all: Vec<&Vec<u8>> = seen_before.iter().chain(&handed.seen).collect();
        new_cursor.texts("seenMessageIds", &all);
        gathered.cursor = Some(new_cursor.finish());
    }
    if !options.as_reference {
        let mut side = RecordText::default();
        side.flag("isWaiting", !handed.open.is_empty() || half_files > 0);
        side.number("sessionMtimeMs", pass.stat.mtime_ms);
        side.number("newestMs", newest_ms);
        if let Some(session) = &session {
            side.number("reportedUsd", session.reported_usd());
            if let Some(task) = &session.task {
                let mut noted = RecordText::default();
                noted.text("call", &task.call);
                noted.maybe_text("kind", task.kind.as_deref());
                noted.maybe_text("description", task.description.as_deref());
                side.raw("task", &noted.finish());
            }
        }
        side.maybe_number("changedMs", changed_ms);
        gathered.side = Some(side.finish());
    }
    Ok(Handed::Piece(Box::new(gathered), true))
}

/// The JSON files of one session.
struct Files<'f, 'p> {
    pass: &'f Pass<'p>,
    gathered: &'f mut Gathered,
    newest_ms: f64,
    /// The time of the file that was read last.
    mtime_ms: f64,
    /// The number of files that OpenCode may have written in half: it rewrites files in place.
    half_files: usize,
}

impl Files<'_, '_> {
    /// A file's bytes; none if the file is gone, is no regular file or is too long.
    fn bytes(&mut self, path: &Path) -> Result<Option<Vec<u8>>, AgentsError> {
        match disk::metadata_of_target(path) {
            Ok(found) if found.is_file => {}
            Err(error) if error.is_not_found() => return Ok(None),
            // Opening a pipe would wait.
            _ => {
                self.leave_out(path, 0, Reason::NotARecord);
                return Ok(None);
            }
        }
        let Ok(stat) = Stat::of(path) else { return Ok(None) };
        self.mtime_ms = stat.mtime_ms;
        self.newest_ms = self.newest_ms.max(stat.mtime_ms);
        if stat.size_bytes > FILE_MAX_BYTES {
            self.leave_out(path, stat.size_bytes, Reason::TooLong);
            return Ok(None);
        }
        let bytes = disk::if_there(disk::read(path))?;
        if let Some(bytes) = &bytes {
            self.gathered.bytes_read += bytes.len() as u64;
            self.gathered.lines += 1;
        }
        Ok(bytes)
    }

    fn leave_out(&mut self, path: &Path, len_bytes: u64, reason: Reason) {
        let name = || path.display().to_string();
        self.gathered.left_out.add(self.pass.options, (0, len_bytes), reason, name);
    }

    /// Leaves out a file that is not JSON. After a day nobody is writing it any more.
    fn leave_out_malformed(&mut self, path: &Path, len_bytes: u64) {
        let Pass { options, .. } = self.pass;
        let may_grow = !options.as_reference && !options.has_ended(self.mtime_ms, None);
        self.half_files += usize::from(may_grow);
        self.leave_out(path, len_bytes, Reason::Malformed);
    }

    fn session(&mut self) -> Result<Option<SessionHead>, AgentsError> {
        let path = &self.pass.candidate.path;
        let Some(bytes) = self.bytes(path)? else { return Ok(None) };
        let mut document = Document::default();
        let value = document.parse(trim_js(&bytes)).ok();
        Ok(value.filter(|value| value.kind() == Kind::Object).and_then(SessionHead::of))
    }

    /// Paths of the JSON files of a folder, in the order of their names.
    fn json_files(&self, folder: &Path) -> Result<Vec<PathBuf>, AgentsError> {
        let paths = match disk::list(folder) {
            Ok(paths) => paths,
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        Ok(paths.into_iter().filter(|path| walk::has_extension(path, "json")).collect())
    }

    fn messages(&mut self, store: &Path, session: &[u8]) -> Result<Vec<SessionMessage>, AgentsError> {
        let folder = store.join("message").join(js::to_utf8(session).as_ref());
        let mut messages = Vec::new();
        for path in self.json_files(&folder)? {
            let Some(bytes) = self.bytes(&path)? else { continue };
            let mut document = Document::default();
            match document.parse(trim_js(&bytes)).map(SessionMessage::of) {
                Ok(Some(mut message)) => {
                    let half_files = self.half_files;
                    message.parts = self.parts(store, &message.id)?;
                    // Without half of a part, the message waits for the run that reads the part whole.
                    if self.half_files == half_files {
                        messages.push(message);
                    }
                }
                Ok(None) => self.leave_out(&path, bytes.len() as u64, Reason::NotARecord),
                Err(_) => self.leave_out_malformed(&path, bytes.len() as u64),
            }
        }
        Ok(messages)
    }

    /// The call in the parent session that started the session `child`.
    fn task(&self, store: &Path, parent: &[u8], child: &[u8]) -> Result<Option<SpawningTask>, AgentsError> {
        let finder = memchr::memmem::Finder::new(child);
        let mut document = Document::default();
        let messages = self.json_files(&store.join("message").join(js::to_utf8(parent).as_ref()))?;
        for message in messages.iter().filter_map(|message| message.file_stem()) {
            for path in self.json_files(&store.join("part").join(message))? {
                // A part that cannot be read is reported when its session is read.
                let Ok(bytes) = disk::read(&path) else { continue };
                if finder.find(&bytes).is_none() {
                    continue;
                }
                let Ok(part) = document.parse(trim_js(&bytes)) else { continue };
                if let Some(task) = SpawningTask::of_part(part, child) {
                    return Ok(Some(task));
                }
            }
        }
        Ok(None)
    }

    fn parts(&mut self, store: &Path, message: &[u8]) -> Result<Vec<Part>, AgentsError> {
        let folder = store.join("part").join(js::to_utf8(message).as_ref());
        let as_reference = self.pass.options.as_reference;
        let mut parts: Vec<(Vec<u8>, Part)> = Vec::new();
        for path in self.json_files(&folder)? {
            let Some(bytes) = self.bytes(&path)? else { continue };
            let mut document = Document::default();
            match document.parse(trim_js(&bytes)) {
                Err(_) => self.leave_out_malformed(&path, bytes.len() as u64),
                Ok(value) if value.is_null() && as_reference => {
                    return Err(GivenUp("a part that is null").at(&self.pass.candidate.path));
                }
                Ok(value) if value.is_null() => self.leave_out(&path, bytes.len() as u64, Reason::NotARecord),
                Ok(value) => {
                    let id = js::any_text(value, "id").unwrap_or_default().to_vec();
                    parts.push((id, Part::of(value, as_reference)));
                }
            }
        }
        parts.sort_by(|(a, _), (b, _)| js::compare_utf16(a, b));
        Ok(parts.into_iter().map(|(_, part)| part).collect())
    }
}
