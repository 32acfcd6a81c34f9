//! Knows which messages, results and events the ledger has, beyond their ids.
//!
//! An id is made of a session and a message. When a session is resumed, its agent copies messages into a new session,
//! so a message may come under two ids. A hook may also have reported an event before its log. This file reads the
//! ledger from the last known offset, and keeps hashes and offsets: 16 bytes for each turn, 32 for each result.
//!
//! Touches `ingest.known` of the home, which is derived from the ledger. A run writes it, the next run continues from
//! it, and a hook looks up a few entries in it. The file is used only as long as the ledger is not shorter than when the file
//! was made, and has the same first and last 4096 bytes of that length.

mod notes;
mod table;

use std::collections::hash_map::Entry;

use rustc_hash::{FxHashMap, FxHashSet};

use self::notes::hash;
pub(super) use self::notes::{
    EventNote, EventParts, LineNote, RecordNotes, ResultNote, TurnNote, session_key,
};
use self::table::{Base, EVENTS, HIGHEST, HOOKED, MESSAGES, RESULTS};
use super::AgentsError;
use super::js;
use crate::disk;
use crate::home::Home;
use crate::record::RecordKind;
use crate::scan::json::{Document, Value, trim_js};
use crate::scan::{self, Io, Source, chunks};

/// How much of the ledger is read at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// The file is written again when it lacks so much of the ledger.
const SAVE_BEHIND_BYTES: u64 = 4 << 20;

/// So many new entries are written before the end of a run: they need about 10 MB.
const ENTRIES_MAX: usize = 200_000;

/// How many bytes of a line are read at first, before the search for its end goes on.
const LINE_BYTES: u64 = 4 << 10;

/// Hashes of the messages, results and events of the ledger. The fast hasher will do for keys that are hashes already.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The entries from earlier runs.
    base: Option<Base>,
    is_loaded: bool,
    /// The number of ledger bytes that were read.
    covered_bytes: u64,
    /// Messages by id and time, with their session.
    messages: FxHashMap<u64, u64>,
    /// Results by session, line, call and hash, with the number of their event.
    results: FxHashMap<u64, f64>,
    /// Sessions with events of hooks.
    hooked: FxHashSet<u64>,
    /// Offset of the first line with an event of Claude Code, by session and tool use id.
    events: FxHashMap<u64, u64>,
    /// Offsets of the other lines; most calls have none.
    more_events: FxHashMap<u64, Vec<u64>>,
    /// The highest number of an event of Claude Code, by session.
    highest: FxHashMap<u64, f64>,
}

/// The part of the ledger from which notes were made: its length in bytes, and hashes of its first and last bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LedgerWitness {
    pub len_bytes: u64,
    pub hash: u64,
}

impl LedgerWitness {
    /// The whole ledger, as it is now. A missing ledger is empty.
    pub(super) fn of(home: &Home) -> Result<Self, AgentsError> {
        let Some(ledger) = open_ledger(home)? else { return Ok(Self::default()) };
        let len_bytes = ledger.len_bytes();
        Ok(LedgerWitness { len_bytes, hash: table::witness(&ledger, len_bytes)? })
    }

    /// Returns whether the ledger still has these bytes.
    pub(super) fn holds(self, home: &Home) -> Result<bool, AgentsError> {
        if self.len_bytes == 0 {
            return Ok(true);
        }
        let ledger = open_ledger(home)?.filter(|ledger| ledger.len_bytes() >= self.len_bytes);
        let found = ledger.map(|ledger| table::witness(&ledger, self.len_bytes)).transpose()?;
        Ok(found == Some(self.hash))
    }
}

/// Returns whether a home has no ledger, or an empty one. A link that leads nowhere is an error, because the disk that has
/// the ledger may be away.
pub(super) fn is_without_ledger(home: &Home) -> Result<bool, AgentsError> {
    let ledger = home.ledger();
    let found = disk::if_there(disk::metadata_of_target(&ledger))?;
    if found.is_none() && disk::if_there(disk::metadata(&ledger))?.is_some_and(|found| !found.is_file) {
        let reason =
            "it is a symbolic link that leads nowhere: restore the file that it names, or remove the link";
        return Err(AgentsError::Unusable { path: ledger, reason: reason.into() });
    }
    Ok(found.is_none_or(|found| found.len_bytes == 0))
}

/// The ledger; none when there is no file.
fn open_ledger(home: &Home) -> Result<Option<Source>, AgentsError> {
    match disk::metadata_of_target(&home.ledger()) {
        Err(error) if error.is_not_found() => return Ok(None),
        found => found?,
    };
    Ok(Some(Source::open(&home.ledger(), Io::default())?))
}

impl Known {
    /// Reads the lines that were appended since the last call. A caller that needs all lines holds lock `ledger`.
    pub(super) fn catch_up(&mut self, home: &Home) -> Result<(), AgentsError> {
        let Some(source) = self.look(home)? else { return Ok(()) };
        let mut document = Document::default();
        self.covered_bytes = each_line(&source, self.covered_bytes, |offset, line| {
            self.take_line(offset, line, &mut document);
        })?;
        Ok(())
    }

    /// Returns the number of ledger bytes that [`Known::catch_up`] would read.
    pub(super) fn behind_bytes(&mut self, home: &Home) -> Result<u64, AgentsError> {
        let source = self.look(home)?;
        Ok(source.map_or(0, |source| source.len_bytes() - self.covered_bytes))
    }

    /// Returns the length of the loaded file.
    pub(super) fn base_len_bytes(&self) -> u64 {
        self.base.as_ref().map_or(0, Base::len_bytes)
    }

    /// Opens the ledger, and forgets all entries when the ledger is gone or shorter than the part that was read.
    fn look(&mut self, home: &Home) -> Result<Option<Source>, AgentsError> {
        let source = open_ledger(home)?;
        let Some(found) = &source else {
            *self = Known::default();
            return Ok(None);
        };
        if found.len_bytes() < self.covered_bytes {
            *self = Known::default();
        }
        if !self.is_loaded {
            self.is_loaded = true;
            self.base = Base::open(&home.ingest_known(), found);
            self.covered_bytes = self.base.as_ref().map_or(0, Base::covered_bytes);
        }
        Ok(source)
    }

    /// Does the same as [`Known::save`] when the entries need much memory.
    pub(super) fn save_if_many(&mut self, home: &Home) -> Result<(), AgentsError> {
        let entries = self.messages.len() + self.results.len() + self.events.len();
        if entries >= ENTRIES_MAX { self.save(home) } else { Ok(()) }
    }

    /// Writes the entries for the next run when enough of them are new. A failure ends the run with an error; records that
    /// were appended before stay.
    pub(super) fn save(&mut self, home: &Home) -> Result<(), AgentsError> {
        let saved_bytes = self.base.as_ref().map_or(0, Base::covered_bytes);
        if self.covered_bytes < saved_bytes + SAVE_BEHIND_BYTES {
            return Ok(());
        }
        let Some(ledger) = open_ledger(home)?.filter(|source| source.len_bytes() >= self.covered_bytes)
        else {
            return Ok(());
        };
        let pairs =
            |map: &FxHashMap<u64, u64>| -> Vec<_> { map.iter().map(|(key, value)| (*key, *value)).collect() };
        let mut events = pairs(&self.events);
        let more_events = self.more_events.iter();
        events.extend(more_events.flat_map(|(key, more)| more.iter().map(|at| (*key, *at))));
        let numbers = |map: &FxHashMap<u64, f64>| -> Vec<_> {
            map.iter().map(|(key, number)| (*key, number.to_bits())).collect()
        };
        let hooked = self.hooked.iter().map(|session| (*session, 0)).collect();
        let added = [pairs(&self.messages), numbers(&self.results), events, hooked, numbers(&self.highest)];
        table::write(&home.ingest_known(), self.base.as_ref(), added, &ledger, self.covered_bytes)?;
        *self = Known::default();
        Ok(())
    }

    fn take_line(&mut self, offset: u64, line: &[u8], document: &mut Document) {
        let kinds = [&b"\"turn\""[..], b"\"tool_result_event\"", b"\"user_turn\""];
        if !kinds.iter().any(|kind| memchr::memmem::find(line, kind).is_some()) {
            return;
        }
        let Ok(root) = document.parse(trim_js(line)) else { return };
        let Some(record) = root.get("record") else { return };
        let notes = match js::any_text(root, "kind") {
            Some(b"turn") => RecordNotes::of(RecordKind::Turn, record),
            Some(b"user_turn") => RecordNotes::of(RecordKind::UserTurn, record),
            // The line of a result is looked up, but not noted.
            Some(b"tool_result_event") => {
                RecordNotes { line: None, ..RecordNotes::of(RecordKind::ToolResultEvent, record) }
            }
            _ => return,
        };
        notes.turn.into_iter().for_each(|note| self.add_message(note.key, note.session));
        notes.line.into_iter().for_each(|note| self.add_message(note.key, note.session));
        notes.result.into_iter().for_each(|note| self.add_result(note));
        notes.event.into_iter().for_each(|note| self.add_event(offset, note));
    }

    fn add_event(&mut self, offset: u64, EventNote { call, session, number }: EventNote) {
        match self.events.entry(call) {
            Entry::Vacant(first) => drop(first.insert(offset)),
            Entry::Occupied(_) => self.more_events.entry(call).or_default().push(offset),
        }
        let highest = self.highest.entry(session).or_insert(number);
        *highest = highest.max(number);
    }

    /// Takes the lines that this run has appended, so that they are not read again: where they end, and the length and
    /// the note of each. Turns and results of the lines were added before. If there are other new lines before them,
    /// they are read with these by the next [`Known::catch_up`].
    pub(super) fn take_appended(&mut self, end_bytes: u64, lines: &[(u64, Option<EventNote>)]) {
        let start = end_bytes.checked_sub(lines.iter().map(|(len_bytes, _)| len_bytes).sum());
        if start != Some(self.covered_bytes) {
            return;
        }
        for (len_bytes, note) in lines {
            if let Some(note) = note {
                self.add_event(self.covered_bytes, *note);
            }
            self.covered_bytes += len_bytes;
        }
    }

    /// Adds a turn or a user turn that is in the ledger.
    pub(super) fn add_message(&mut self, key: u64, session: u64) {
        if self.values_of_base(MESSAGES, key).is_empty() {
            self.messages.entry(key).or_insert(session);
        }
    }

    /// Returns whether another session of Claude Code has the prompt or the result line.
    pub(super) fn is_user_line_of_another(&self, note: LineNote) -> bool {
        self.owner_of(note.key).is_some_and(|owner| owner != note.session)
    }

    /// The values of a key in a table of the file.
    fn values_of_base(&self, table: usize, key: u64) -> Vec<u64> {
        self.base.as_ref().map(|base| base.values(table, key)).unwrap_or_default()
    }

    /// The hash of the session that has a message or a user line.
    fn owner_of(&self, key: u64) -> Option<u64> {
        let of_base = || self.values_of_base(MESSAGES, key).first().copied();
        self.messages.get(&key).copied().or_else(of_base)
    }

    /// A result that is in the ledger.
    pub(super) fn add_result(&mut self, note: ResultNote) {
        match note {
            ResultNote::OfLog { key, number } => {
                self.results.insert(key, number);
            }
            ResultNote::OfHook { session } => {
                self.hooked.insert(session);
            }
        }
    }

    /// Returns whether any session has the message.
    pub(super) fn has_message(&self, note: TurnNote) -> bool {
        self.owner_of(note.key).is_some()
    }

    /// Returns whether another session has the message.
    pub(super) fn is_of_another(&self, note: TurnNote) -> bool {
        note.has_id && self.owner_of(note.key).is_some_and(|owner| owner != note.session)
    }

    /// Returns whether the ledger has the result under another number, as after a rewrite of its log that changed
    /// earlier lines. Under its own number, the append recognises it by its id.
    pub(super) fn has_result(&self, note: ResultNote) -> bool {
        let ResultNote::OfLog { key, number } = note else { return false };
        let of_base = || self.values_of_base(RESULTS, key).first().map(|bits| f64::from_bits(*bits));
        self.results.get(&key).copied().or_else(of_base).is_some_and(|known| known != number)
    }

    /// Returns whether the session with this [`session_key`] has events of hooks.
    pub(super) fn is_hooked(&self, session: u64) -> bool {
        self.hooked.contains(&session) || !self.values_of_base(HOOKED, session).is_empty()
    }

    /// Returns the highest number among the events of a session of Claude Code, in the part of the ledger that was
    /// read.
    pub(super) fn highest_number(&self, session: &[u8]) -> Option<f64> {
        let key = session_key(session);
        let of_base = self.values_of_base(HIGHEST, key).into_iter().map(f64::from_bits);
        of_base.chain(self.highest.get(&key).copied()).reduce(f64::max)
    }

    /// Calls back with the events of a call in a session of Claude Code, in the order of the ledger, in the part that
    /// was read.
    pub(super) fn each_event_of(
        &self,
        home: &Home,
        (session, call): (&[u8], &[u8]),
        take: &mut dyn FnMut(Value<'_>),
    ) -> Result<(), AgentsError> {
        let key = hash(&[session, call]);
        let mut offsets = self.values_of_base(EVENTS, key);
        offsets.extend(self.events.get(&key));
        offsets.extend(self.more_events.get(&key).into_iter().flatten());
        if offsets.is_empty() {
            return Ok(());
        }
        let Some(ledger) = open_ledger(home)? else { return Ok(()) };
        let mut document = Document::default();
        let mut buffer = Vec::new();
        for offset in offsets {
            let Some(line) = line_at(&ledger, offset, &mut buffer)? else { continue };
            let Ok(root) = document.parse(trim_js(line)) else { continue };
            let Some(event) = root.get("record") else { continue };
            // Two calls may have the same hash.
            let text = |key| js::any_text(event, key);
            if text("sessionId") == Some(session)
                && text("toolUseId") == Some(call)
                && text("source") == Some(b"claude-code")
            {
                take(event);
            }
        }
        Ok(())
    }
}

/// The line of the ledger that begins at `offset`.
fn line_at<'b>(
    ledger: &Source,
    offset: u64,
    buffer: &'b mut Vec<u8>,
) -> Result<Option<&'b [u8]>, AgentsError> {
    let mut len_bytes = LINE_BYTES;
    loop {
        let end = offset.saturating_add(len_bytes).min(ledger.len_bytes());
        if offset >= end {
            return Ok(None);
        }
        ledger.read(offset..end, buffer)?;
        if let Some(at) = memchr::memchr(b'\n', buffer) {
            return Ok(Some(&buffer[..at]));
        }
        if end == ledger.len_bytes() {
            return Ok(None);
        }
        len_bytes *= 16;
    }
}

/// Calls back with the lines of the ledger from byte `from` on that have `word` in their text and are JSON, each with its
/// byte offset. Returns the end of the last complete line. A missing ledger has no lines.
pub(super) fn each_line_with(
    home: &Home,
    from: u64,
    word: &[u8],
    take: &mut dyn FnMut(u64, Value<'_>),
) -> Result<u64, AgentsError> {
    let Some(ledger) = open_ledger(home)? else { return Ok(0) };
    let finder = memchr::memmem::Finder::new(word);
    let mut document = Document::default();
    each_line(&ledger, from.min(ledger.len_bytes()), |offset, line| {
        if finder.find(line).is_some()
            && let Ok(root) = document.parse(trim_js(line))
        {
            take(offset, root);
        }
    })
}

/// Calls back with the lines of the ledger from byte `from` on, each with its byte offset. Returns the end of the last
/// complete line.
fn each_line(ledger: &Source, from: u64, mut take: impl FnMut(u64, &[u8])) -> Result<u64, AgentsError> {
    let mut buffer = Vec::new();
    let mut end = from;
    for chunk in chunks(ledger, from..ledger.len_bytes(), CHUNK_BYTES) {
        let chunk = chunk?;
        let base = chunk.start;
        let bytes = ledger.bytes(chunk, &mut buffer)?;
        // Bytes after the last line feed are still being written.
        let whole = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        scan::lines(base, &bytes[..whole]).for_each(|(offset, line)| take(offset, line));
        end = base + whole as u64;
    }
    ledger.check_len()?;
    Ok(end)
}

/// Calls back with the stamps of the ledger.
pub(super) fn each_stamp(home: &Home, take: &mut dyn FnMut(Value<'_>)) -> Result<(), AgentsError> {
    each_line_with(home, 0, b"\"stamp\"", &mut |_, root| {
        if js::any_text(root, "kind") == Some(b"stamp") {
            take(root);
        }
    })?;
    Ok(())
}

/// Returns whether a line, or a part of one, is in the ledger.
pub(super) fn has_line(home: &Home, line: &[u8]) -> Result<bool, AgentsError> {
    let Some(ledger) = open_ledger(home)? else { return Ok(false) };
    let finder = memchr::memmem::Finder::new(line);
    let mut buffer = Vec::new();
    for chunk in chunks(&ledger, 0..ledger.len_bytes(), CHUNK_BYTES) {
        if finder.find(ledger.bytes(chunk?, &mut buffer)?).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn turn(session: &str, id: u64) -> String {
        format!(
            r#"{{"v":1,"kind":"turn","record":{{"v":1,"source":"claude-code","sessionId":"{session}","messageId":"m{id}","ts":"T"}}}}"#
        )
    }

    fn event(session: &str, id: u64) -> String {
        format!(
            r#"{{"v":1,"kind":"tool_result_event","record":{{"v":1,"source":"claude-code","sessionId":"{session}","toolUseId":"t{}","eventIndex":{id},"eventSource":"tool_result","messageId":"u{id}","ts":"T","contentHash":"{}"}}}}"#,
            id % 5,
            "x".repeat(id as usize % 6000)
        )
    }

    fn events_of(known: &Known, home: &Home, session: &str) -> (Option<f64>, Vec<f64>) {
        let mut found = Vec::new();
        for call in ["t0", "t3", "t5"] {
            known
                .each_event_of(home, (session.as_bytes(), call.as_bytes()), &mut |event| {
                    found.push(js::number(event, "eventIndex").unwrap());
                })
                .unwrap();
        }
        (known.highest_number(session.as_bytes()), found)
    }

    fn parsed<T>(line: &str, look: impl FnOnce(Value<'_>) -> T) -> T {
        let mut document = Document::default();
        look(document.parse(line.as_bytes()).unwrap().get("record").unwrap())
    }

    #[test]
    fn what_was_saved_is_known_as_if_the_ledger_had_been_read() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let mut ledger = String::new();
        for id in 0..3000 {
            let session = format!("s{}", id % 7);
            ledger += &format!("{}\n{}\n", turn(&session, id), event(&session, id));
        }
        std::fs::write(home.ledger(), &ledger).unwrap();
        let mut known = Known::default();
        known.catch_up(&home).unwrap();
        known.save(&home).unwrap();
        assert!(home.ingest_known().exists(), "the ledger has {} bytes", ledger.len());
        // Several saves, and entries that no file has.
        for (round, more) in [(1, 12_000), (2, 12_100)] {
            for id in more - 3000 * (2 - round)..more {
                ledger += &format!("{}\n{}\n", turn("s3", id), event("s3", id));
            }
            std::fs::write(home.ledger(), &ledger).unwrap();
            assert!(known.behind_bytes(&home).unwrap() < ledger.len() as u64);
            known.catch_up(&home).unwrap();
            known.save(&home).unwrap();
        }
        ledger += &format!("{}\n{}\n", turn("s3", 20_000), event("s3", 20_000));
        std::fs::write(home.ledger(), &ledger).unwrap();
        let mut known = Known::default();
        known.catch_up(&home).unwrap();
        assert!(known.base.is_some() && known.messages.len() < 200, "{}", known.messages.len());
        let mut fresh = Known { is_loaded: true, ..Known::default() };
        fresh.catch_up(&home).unwrap();
        for session in ["s0", "s3", "s6", "s7"] {
            assert_eq!(events_of(&known, &home, session), events_of(&fresh, &home, session), "{session}");
        }
        for id in (0..3000).chain([10_000, 11_999, 20_000, 30_000]) {
            for session in ["s0", "s3"] {
                let line = turn(session, id);
                let is_of_another =
                    |known: &Known| parsed(&line, |turn| known.is_of_another(TurnNote::of(turn).unwrap()));
                assert_eq!(is_of_another(&known), is_of_another(&fresh), "turn {id} of {session}");
                let line = event(session, id).replace("\"eventIndex\":", "\"eventIndex\":1");
                let has_result = |known: &Known| {
                    parsed(&line, |event| {
                        known.has_result(RecordNotes::of(RecordKind::ToolResultEvent, event).result.unwrap())
                    })
                };
                assert_eq!(has_result(&known), has_result(&fresh), "event {id} of {session}");
            }
        }
    }

    #[test]
    fn what_was_made_from_another_ledger_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        let ledger: String = (0..20_000).map(|id| turn("s", id) + "\n").collect();
        std::fs::write(home.ledger(), &ledger).unwrap();
        let source = open_ledger(&home).unwrap().unwrap();
        let none = table::KnownEntries::default();
        table::write(&home.ingest_known(), None, none, &source, ledger.len() as u64).unwrap();
        let is_used = || {
            let mut known = Known::default();
            known.look(&home).unwrap();
            known.base.is_some()
        };
        assert!(is_used());
        std::fs::write(home.ledger(), ledger.replace("m0\"", "n0\"")).unwrap();
        assert!(!is_used(), "the first line has changed");
        std::fs::write(home.ledger(), &ledger).unwrap();
        assert!(is_used());
        let bytes = std::fs::read(home.ingest_known()).unwrap();
        for cut in [0, 10, 63, bytes.len() - 1] {
            std::fs::write(home.ingest_known(), &bytes[..cut]).unwrap();
            assert!(!is_used(), "cut to {cut} bytes");
        }
        std::fs::write(home.ledger(), b"").unwrap();
        assert!(!is_used());
    }
}
