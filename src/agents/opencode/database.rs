//! Reads the databases of OpenCode, which it has since version 1.2.
//!
//! A session is read again when its rows changed.

use super::gather::gather_session;
use super::session::records::{Awaited, RecordRules};
use super::session::{Part, SessionHead, SessionMessage, SpawningTask, Tool};
use crate::agents::AgentsError;
use crate::agents::js::{self, RecordText};
use crate::agents::pass::{Gathered, HandOver, Handed, Pass, Reason, Stat};
use crate::agents::sqlite::{ForeignDatabase, bytes_of, unusable};
use crate::disk;
use crate::scan::json::{Document, Kind, Value, write_js_string};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A database of OpenCode.
struct Database(ForeignDatabase);

/// A row's session, time of change and JSON text.
struct Stored {
    id: Vec<u8>,
    kind: Vec<u8>,
    data: Vec<u8>,
}

/// Reads every session whose rows have changed since the last pass.
pub(super) fn read(pass: &Pass<'_>, hand: &mut HandOver<'_>) -> Result<(), AgentsError> {
    let path = &pass.candidate.path;
    let wal = Stat::of(&disk::with_suffix(path, "-wal")).unwrap_or_default();
    let stamp = format!(
        "{} {} {} {} {}",
        pass.stat.inode, pass.stat.mtime_ms, pass.stat.size_bytes, wal.mtime_ms, wal.size_bytes
    );
    let newest_ms = pass.stat.mtime_ms.max(wal.mtime_ms);
    let mut side_document = Document::default();
    let side = pass.side.and_then(|side| side_document.parse(side).ok());
    let is_waiting = side.is_some_and(|side| js::is_true(side, "isWaiting"));
    let is_unchanged = side.and_then(|side| js::any_text(side, "stamp")) == Some(stamp.as_bytes());
    let seen_ms = side.filter(|_| is_unchanged).and_then(|side| js::number(side, "changedMs"));
    let changed_ms = pass.options.seen_ms(newest_ms, seen_ms);
    let awaited = Awaited::of(pass.options, newest_ms, changed_ms);
    let awaited_end = side.is_none_or(|side| !js::is_true(side, "isAtRest"));
    let is_due = match awaited {
        Awaited::End => false,
        Awaited::Tokens => awaited_end,
        Awaited::Nothing => true,
    };
    if is_unchanged && !(is_waiting && is_due) {
        hand(Handed::Unchanged(None));
        return Ok(());
    }
    let known: BTreeMap<Vec<u8>, Vec<u8>> = side
        .and_then(|side| side.get("sessions"))
        .into_iter()
        .flat_map(Value::members)
        .filter_map(|(id, digest)| Some((id.as_wtf8().to_vec(), js::wtf8(digest)?.to_vec())))
        .collect();
    let database = Database(ForeignDatabase::open(path)?);
    let fails = |error: rusqlite::Error| unusable(path, error);
    let mut digests: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut open_messages = 0;
    let mut costs: BTreeMap<Vec<u8>, f64> = side
        .and_then(|side| side.get("costs"))
        .into_iter()
        .flat_map(Value::members)
        .filter_map(|(id, cost)| Some((id.as_wtf8().to_vec(), cost.as_number()?.as_f64())))
        .collect();
    if let Some(lack) = database.lack().map_err(fails)? {
        return Err(unusable(path, lack));
    }
    let orphans = database.orphans().map_err(fails)?;
    for mut session in database.sessions().map_err(fails)?.into_iter().chain(orphans) {
        let (digest, rows_changed_ms) = database.digest(&session.id).map_err(fails)?;
        if known.get(&session.id) == Some(&digest) {
            digests.push((session.id, digest));
            continue;
        }
        let mut gathered = Gathered { session_mtime_ms: newest_ms, ..Gathered::default() };
        session.messages = database.messages(&session.id, pass, &mut gathered).map_err(fails)?;
        if let Some(parent) = &session.parent {
            session.task = database.task(parent, &session.id).map_err(fails)?;
        }
        let mut copied = HashSet::new();
        if let Some((source, boundary)) = &session.fork {
            let mut of_source = Gathered::default();
            let originals = database.messages(source, pass, &mut of_source).map_err(fails)?;
            copied = session.copied(&originals, boundary.as_deref());
            for id in &copied {
                let name = || format!("message {} of a fork", js::to_utf8(id));
                gathered.left_out.add(pass.options, (0, 0), Reason::Replay, name);
            }
        }
        let rules = RecordRules {
            as_reference: false,
            content: pass.options.content,
            projects: pass.projects,
            session_path: path.as_os_str().as_encoded_bytes().to_vec(),
            awaited: match awaited {
                // Other sessions change the file, so the rows say when nothing more comes.
                Awaited::Tokens if rows_changed_ms > 0.0 && pass.options.has_ended(rows_changed_ms, None) => {
                    Awaited::Nothing
                }
                awaited => awaited,
            },
            is_stream: false,
        };
        let handed = gather_session(&session, &rules, &copied, pass, &mut gathered)?;
        let has_open = !handed.open.is_empty();
        open_messages += gathered.open_messages;
        // A session with unfinished answers is read again even if its rows are unchanged.
        digests.push((session.id.clone(), if has_open { Vec::new() } else { digest }));
        costs.insert(session.id.clone(), session.reported_usd());
        if !hand(Handed::Piece(Box::new(gathered), false)) {
            return Ok(());
        }
    }
    let mut sessions = RecordText::default();
    for (id, digest) in &digests {
        sessions.member(id, |out| write_js_string(digest, out));
    }
    let mut side = RecordText::default();
    side.text("stamp", stamp.as_bytes());
    side.maybe_number("changedMs", changed_ms);
    side.flag_if("isWaiting", open_messages > 0);
    side.flag_if("isAtRest", open_messages > 0 && awaited == Awaited::Tokens);
    side.raw("sessions", &sessions.finish());
    let mut noted = RecordText::default();
    for (id, cost) in costs.iter().filter(|(_, cost)| **cost > 0.0) {
        noted.member(id, |out| js::write_number(*cost, out));
    }
    side.raw("costs", &noted.finish());
    side.number("reportedUsd", costs.values().sum());
    let side = Some(side.finish());
    let last = Gathered { side, open_messages, session_mtime_ms: newest_ms, ..Gathered::default() };
    hand(Handed::Piece(Box::new(last), true));
    Ok(())
}

impl Database {
    /// What the database lacks to be of a known generation, as while OpenCode migrates it.
    fn lack(&self) -> rusqlite::Result<Option<&'static str>> {
        let has = |table, column| self.0.columns(table).map(|columns| columns.contains(column));
        let (has_first, has_second) = (has("message", "data")?, has("session_message", "data")?);
        Ok(if !has("session_v2", "id")? && !has("session", "id")? {
            Some("it has no table of sessions that is known")
        } else if !has_first && !has_second {
            Some("it has no table of messages that is known")
        } else if has_first && !has("part", "data")? {
            Some("it has messages without a table of their parts that is known")
        } else {
            None
        })
    }

    /// The heads of all sessions.
    fn sessions(&self) -> rusqlite::Result<Vec<SessionHead>> {
        let mut found: Vec<SessionHead> = Vec::new();
        let mut ids = HashSet::new();
        for table in ["session_v2", "session"] {
            let columns = self.0.columns(table)?;
            if !columns.contains("id") {
                continue;
            }
            let column =
                |name: &str| if columns.contains(name) { name.to_owned() } else { "NULL".to_owned() };
            let text = format!(
                "SELECT id, {}, {}, {}, {}, {} FROM {table} ORDER BY id",
                column("parent_id"),
                column("directory"),
                column("version"),
                column("fork_session_id"),
                column("fork_boundary")
            );
            let mut statement = self.0.connection.prepare(&text)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let some =
                    |column| bytes_of(row, column).map(|bytes| Some(bytes).filter(|bytes| !bytes.is_empty()));
                let id = bytes_of(row, 0)?;
                if ids.insert(id.clone()) {
                    let (parent, directory, version) = (some(1)?, some(2)?, some(3)?);
                    let boundary = some(5)?;
                    let fork = some(4)?.map(|source| (source, boundary));
                    found.push(SessionHead {
                        id,
                        parent,
                        directory,
                        version,
                        fork,
                        ..SessionHead::default()
                    });
                }
            }
        }
        Ok(found)
    }

    /// Sessions of which the database has only messages. Their tokens were spent, so they count.
    fn orphans(&self) -> rusqlite::Result<Vec<SessionHead>> {
        let mut without: Vec<String> = Vec::new();
        for table in ["session_v2", "session"] {
            if self.0.columns(table)?.contains("id") {
                without.push(format!("AND session_id NOT IN (SELECT id FROM {table})"));
            }
        }
        let mut ids = BTreeSet::new();
        for table in ["session_message", "message"] {
            let columns = self.0.columns(table)?;
            if !columns.contains("session_id") || !columns.contains("data") {
                continue;
            }
            let text = format!(
                "SELECT DISTINCT session_id FROM {table} WHERE session_id IS NOT NULL {}",
                without.join(" ")
            );
            let mut statement = self.0.connection.prepare(&text)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                ids.insert(bytes_of(row, 0)?);
            }
        }
        Ok(ids.into_iter().map(|id| SessionHead { id, ..SessionHead::default() }).collect())
    }

    /// A fingerprint of the rows of a session: their number, sizes and times.
    fn digest(&self, session: &[u8]) -> rusqlite::Result<(Vec<u8>, f64)> {
        let (mut digest, mut changed_ms) = (String::new(), 0.0_f64);
        for table in ["message", "part", "session_message"] {
            let columns = self.0.columns(table)?;
            if !columns.contains("session_id") {
                continue;
            }
            let updated = if columns.contains("time_updated") { "max(time_updated)" } else { "0" };
            let text = format!(
                "SELECT count(*), coalesce(sum(length(data)), 0), coalesce({updated}, 0) FROM {table} WHERE session_id = ?1"
            );
            let id = js::to_utf8(session).into_owned();
            let (count, len, time): (i64, i64, f64) = self
                .0
                .connection
                .query_row(&text, [id], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)? as f64)))?;
            digest += &format!("{table} {count} {len} {time};");
            changed_ms = changed_ms.max(time);
        }
        Ok((digest.into_bytes(), changed_ms))
    }

    fn stored(&self, text: &str, id: &[u8]) -> rusqlite::Result<Vec<Stored>> {
        let mut statement = self.0.connection.prepare_cached(text)?;
        let id = js::to_utf8(id).into_owned();
        let rows = statement.query_map([id], |row| {
            Ok(Stored { id: bytes_of(row, 0)?, kind: bytes_of(row, 1)?, data: bytes_of(row, 2)? })
        })?;
        rows.collect()
    }

    /// The messages of a session, each id once. The second generation of tables comes first.
    fn messages(
        &self,
        session: &[u8],
        pass: &Pass<'_>,
        gathered: &mut Gathered,
    ) -> rusqlite::Result<Vec<SessionMessage>> {
        let mut messages = Vec::new();
        let mut ids = HashSet::new();
        let leave_out = |gathered: &mut Gathered, stored: &Stored, reason| {
            let name = || format!("message {}", js::to_utf8(&stored.id));
            gathered.left_out.add(pass.options, (0, stored.data.len() as u64), reason, name);
        };
        let columns = self.0.columns("session_message")?;
        if columns.contains("data") {
            let order = if columns.contains("seq") { "seq, id" } else { "id" };
            let text =
                format!("SELECT id, type, data FROM session_message WHERE session_id = ?1 ORDER BY {order}");
            for stored in self.stored(&text, session)? {
                gathered.lines += 1;
                gathered.bytes_read += stored.data.len() as u64;
                match second_generation(session, &stored) {
                    Ok(message) => {
                        ids.insert(stored.id.clone());
                        messages.push(message);
                    }
                    Err(reason) => leave_out(gathered, &stored, reason),
                }
            }
        }
        if self.0.columns("message")?.contains("data") {
            let text = "SELECT id, '', data FROM message WHERE session_id = ?1 ORDER BY id";
            for stored in self.stored(text, session)? {
                gathered.lines += 1;
                gathered.bytes_read += stored.data.len() as u64;
                if !ids.insert(stored.id.clone()) {
                    leave_out(gathered, &stored, Reason::Duplicate);
                    continue;
                }
                match first_generation(session, &stored) {
                    Ok(mut message) => {
                        message.parts = self.parts(&stored.id, pass, gathered)?;
                        messages.push(message);
                    }
                    Err(reason) => leave_out(gathered, &stored, reason),
                }
            }
        }
        Ok(messages)
    }

    /// The call in the parent session that started the session `child`.
    fn task(&self, parent: &[u8], child: &[u8]) -> rusqlite::Result<Option<SpawningTask>> {
        let mut document = Document::default();
        for table in ["part", "session_message"] {
            let columns = self.0.columns(table)?;
            if !columns.contains("data") || !columns.contains("session_id") {
                continue;
            }
            let text = format!("SELECT data FROM {table} WHERE session_id = ?1 AND instr(data, ?2) > 0");
            let mut statement = self.0.connection.prepare_cached(&text)?;
            let ids = [js::to_utf8(parent).into_owned(), js::to_utf8(child).into_owned()];
            let mut rows = statement.query(ids)?;
            while let Some(row) = rows.next()? {
                let data = bytes_of(row, 0)?;
                let Ok(data) = document.parse(&data) else { continue };
                let parts = data.get("content").into_iter().flat_map(Value::items).chain([data]);
                if let Some(task) = parts.filter_map(|part| SpawningTask::of_part(part, child)).next() {
                    return Ok(Some(task));
                }
            }
        }
        Ok(None)
    }

    fn parts(&self, message: &[u8], pass: &Pass<'_>, gathered: &mut Gathered) -> rusqlite::Result<Vec<Part>> {
        let stored =
            self.stored("SELECT id, '', data FROM part WHERE message_id = ?1 ORDER BY id", message)?;
        let mut document = Document::default();
        let mut parts = Vec::with_capacity(stored.len());
        for Stored { id, data, .. } in stored {
            gathered.lines += 1;
            gathered.bytes_read += data.len() as u64;
            match document.parse(&data) {
                Ok(value) => parts.push(Part::of(value, false)),
                Err(error) => {
                    let (id, message) = (js::to_utf8(&id), js::to_utf8(message));
                    let detail = || format!("part {id} of message {message}: {error}");
                    gathered.left_out.add(pass.options, (0, data.len() as u64), Reason::Malformed, detail);
                }
            }
        }
        Ok(parts)
    }
}

/// The message of a row of `message`. Its parts have rows of their own.
fn first_generation(session: &[u8], stored: &Stored) -> Result<SessionMessage, Reason> {
    let mut document = Document::default();
    let data = document.parse(&stored.data).ok().filter(|data| data.kind() == Kind::Object);
    let data = data.ok_or(Reason::Malformed)?;
    let model = ["modelID", "providerID"].map(|key| data.get(key));
    let role = js::any_text(data, "role").unwrap_or_default();
    SessionMessage::of_row(data, [&stored.id, session], role, model).ok_or(Reason::NotARecord)
}

/// The message of a row of `session_message`. The row's type gives the role, and its content gives the parts.
fn second_generation(session: &[u8], stored: &Stored) -> Result<SessionMessage, Reason> {
    let role: &[u8] = match &stored.kind[..] {
        b"assistant" => b"assistant",
        b"user" | b"synthetic" | b"compaction" => b"user",
        _ => return Err(Reason::UnknownType),
    };
    let mut document = Document::default();
    let data = document.parse(&stored.data).map_err(|_| Reason::Malformed)?;
    let named = data.get("model");
    let model = [("id", "modelID"), ("providerID", "providerID")]
        .map(|(key, own_key)| named.and_then(|named| named.get(key)).or_else(|| data.get(own_key)));
    let message = SessionMessage::of_row(data, [&stored.id, session], role, model);
    let mut message = message.ok_or(Reason::NotARecord)?;
    if stored.kind == b"compaction" {
        message.parts.push(Part::Compaction);
    }
    if let Some(words) = js::text(data, "text") {
        message.parts.push(Part::Text { text: words.to_vec(), is_synthetic: stored.kind == b"synthetic" });
    }
    for part in data.get("content").into_iter().flat_map(Value::items) {
        message.parts.push(content_part(part, stored.kind == b"synthetic"));
    }
    Ok(message)
}

/// The part of an entry of `content`. The entry is like a part of the first generation, except for the names of a tool.
fn content_part(entry: Value<'_>, is_synthetic: bool) -> Part {
    if js::any_text(entry, "type") != Some(b"tool") {
        return match Part::of(entry, false) {
            Part::Text { text, .. } if is_synthetic => Part::Text { text, is_synthetic },
            part => part,
        };
    }
    let first = |keys: [&str; 2]| keys.iter().find_map(|key| entry.get(key));
    let (call, name) = (first(["callID", "id"]), first(["tool", "name"]));
    Part::Tool(Box::new(Tool::of_parts(None, call, name, entry.get("state"), &["output", "content"], false)))
}
