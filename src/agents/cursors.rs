//! Reads and writes `cursors.json`, the offsets up to which logs were read, and the side file with further notes on
//! logs.
//!
//! Touches `cursors.json` under lock `cursors`, and `ingest.side.json`. The first is shared with the TypeScript package
//! and has exactly its form. The second belongs to the first and to the ledger: without it, a run reads all logs again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::AgentsError;
use super::js::{self, RecordText};
use super::known::{LedgerWitness, has_line, is_without_ledger};
use super::ledger_turns::NotedLedger;
use super::pass::Agent;
use crate::disk::{self, Replacing};
use crate::home::{Home, LockName};
use crate::interrupt::Interrupt;
use crate::ledger::{ExtraIds, Ledger, LedgerError};
use crate::lock::with_lock;
use crate::scan::json::{Document, Kind, Value, trim_js, write_js_string};

/// The loaded cursors, and the changes since.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    entries: HashMap<Vec<u8>, Vec<u8>>,
    changed: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Returns a cursor with another time.
pub(super) fn touched_cursor(cursor: Value<'_>, mtime_ms: f64) -> Vec<u8> {
    let mut touched = RecordText::default();
    touched.members_of(cursor, |touched, key| {
        let is_time = key == b"mtimeMs";
        if is_time {
            touched.number("mtimeMs", mtime_ms);
        }
        is_time
    });
    touched.finish()
}

/// Returns the name of a log in the cursors. A byte 0x80 to 0xFF that is not UTF-8 becomes the lone surrogate U+DC80 to
/// U+DCFF, so that two logs never have one name. JavaScript keeps lone surrogates.
pub(super) fn key_of(path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_encoded_bytes();
    let mut key = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        key.extend_from_slice(chunk.valid().as_bytes());
        for byte in chunk.invalid() {
            key.extend_from_slice(&[0xED, 0xB0 | byte >> 6, 0x80 | byte & 0x3F]);
        }
    }
    key
}

/// The entries of a file of cursors, in JavaScript's order; no entries if the file is missing, broken or has another
/// form.
fn parse(text: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut document = Document::default();
    let Ok(root) = document.parse(trim_js(text)) else { return Vec::new() };
    let files = root.get("files").filter(|files| files.kind() == Kind::Object);
    let entries = files.into_iter().flat_map(Value::members);
    entries.map(|(key, value)| (key.as_wtf8().to_vec(), js::json(value))).collect()
}

/// The bytes of a file; none if it is missing.
fn read(path: &Path) -> Result<Vec<u8>, AgentsError> {
    Ok(disk::if_there(disk::read(path))?.unwrap_or_default())
}

/// Returns whether a home has lost its ledger: the ledger is missing or empty, and something shows that it had records. Logs
/// without a record leave cursors, too, and no ledger.
pub(super) fn is_ledger_lost(home: &Home) -> Result<bool, AgentsError> {
    if !is_without_ledger(home)? {
        return Ok(false);
    }
    let text = read(&home.ingest_notes())?;
    let mut had_records = NotedHome::of(&text).is_some_and(|noted| noted.ledger.len_bytes > 0);
    for derived in [home.ids_index(), home.fingerprints_index(), home.archive()] {
        had_records |= disk::if_there(disk::metadata_of_target(&derived))?.is_some();
    }
    Ok(had_records)
}

/// Something by which a home may know of lines that its ledger lacks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// A file that does not belong to the ledger.
    Whole(PathBuf),
    /// Cursors that have moved although the ledger has not grown, by their keys. Another program may have read lines that make no
    /// record.
    Cursors(HashSet<Vec<u8>>),
}

/// Returns what does not fit; none if the files are as the last run left them or as other programs have changed them since. Another
/// program appends ids together with lines, and moves cursors past lines that it has appended.
pub(super) fn misfit(home: &Home) -> Result<Option<Misfit>, AgentsError> {
    if is_without_ledger(home)? {
        return Ok(None);
    }
    let index_bytes = index_bytes(home)?;
    let cursors = || Ok::<_, AgentsError>(parse(&read(&home.cursors())?));
    let Some(noted) = NotedHome::of(&read(&home.ingest_notes())?) else {
        // A home that only the TypeScript package has filled has no notes either, and its cursors are right.
        let is_missing = is_of_this_program(home)? && !cursors()?.is_empty();
        return Ok(is_missing.then(|| Misfit::Whole(home.ingest_notes())));
    };
    if !noted.ledger.holds(home)? {
        return Ok(Some(Misfit::Whole(home.ledger())));
    }
    let len_bytes =
        disk::if_there(disk::metadata_of_target(&home.ledger()))?.map_or(0, |found| found.len_bytes);
    let grown_bytes = len_bytes.saturating_sub(noted.ledger.len_bytes);
    let index_max = noted.index_bytes.map(|noted| noted + grown_bytes / LINE_BYTES_PER_ID_BYTE);
    if index_max.is_some_and(|max| index_bytes > max) {
        return Ok(Some(Misfit::Whole(home.ids_index())));
    }
    let Some(noted) = noted.cursors.filter(|_| grown_bytes == 0) else { return Ok(None) };
    let moved = cursors()?.into_iter().filter(|cursor| !noted.contains(&hash_of(cursor)));
    let moved: HashSet<_> = moved.map(|(key, _)| key).collect();
    Ok((!moved.is_empty()).then_some(Misfit::Cursors(moved)))
}

/// An id of the index needs 17 bytes, and its line of the ledger more than four times as many.
const LINE_BYTES_PER_ID_BYTE: u64 = 4;

/// The length of `ledger.idx` in bytes.
fn index_bytes(home: &Home) -> Result<u64, AgentsError> {
    Ok(disk::if_there(disk::metadata_of_target(&home.ids_index()))?.map_or(0, |found| found.len_bytes))
}

/// Returns whether a ledger has records, and no id of them is in an index.
pub(super) fn lacks_index(home: &Home) -> Result<bool, AgentsError> {
    Ok(index_bytes(home)? == 0 && has_line(home, b"\"record\":")?)
}

/// Returns whether a home has files that only this program writes when it appends or reads logs.
fn is_of_this_program(home: &Home) -> Result<bool, AgentsError> {
    for path in [Ledger::sorted_index(home), home.ingest_known(), home.ingest_states_dir()] {
        if disk::if_there(disk::metadata(&path))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The hash of a log's place in `cursors.json`, in 16 hexadecimal digits. A cursor also has the time of its log, which changes
/// without a new line.
fn hash_of((key, cursor): &(Vec<u8>, Vec<u8>)) -> Vec<u8> {
    let mut place = [&key[..], b"\0"].concat();
    let mut document = Document::default();
    let members = document.parse(cursor).into_iter().flat_map(Value::members_in_text_order);
    for (name, value) in members.filter(|(name, _)| name.as_wtf8() != b"mtimeMs") {
        place.extend_from_slice(&[name.as_wtf8(), b"\0", &js::json(value), b"\0"].concat());
    }
    blake3::hash(&place).to_hex().as_bytes()[..16].to_vec()
}

impl Cursors {
    /// Loads the cursors of a home. `warn` gets a sentence about a file that is no JSON, which counts as empty.
    pub(super) fn load(home: &Home, warn: impl FnOnce(&str)) -> Result<Self, AgentsError> {
        let path = home.cursors();
        let text = read(&path)?;
        let entries = parse(&text).into_iter().collect();
        let text = trim_js(&text);
        if !text.is_empty() && Document::default().parse(text).is_err() {
            warn(&format!("{} is not JSON; all logs are read again", path.display()));
        }
        Ok(Cursors { entries, changed: Vec::new() })
    }

    /// Returns whether a home has cursors of a lost ledger.
    fn are_of_lost_ledger(home: &Home) -> Result<bool, AgentsError> {
        Ok(is_ledger_lost(home)? && !parse(&read(&home.cursors())?).is_empty())
    }

    /// Returns whether a home knows something of a ledger that is missing or empty: cursors of logs, or ids.
    pub(super) fn know_lost_ledger(home: &Home) -> Result<bool, AgentsError> {
        Ok(Self::are_of_lost_ledger(home)? || !Ledger::new(home.clone()).orphaned_indexes()?.is_empty())
    }

    /// Forgets what a home knows of lines that its ledger had and lacks: drops their ids from the index, and deletes the
    /// cursors. Returns the file that shows this, and copies of the index that have these ids; none if no line is missing.
    /// If only cursors do not fit, it drops these, and returns none.
    ///
    /// The notes go last, because they tell the next run that there is something to forget.
    pub(super) fn forget_lost_lines(
        home: &Home,
        interrupt: &Interrupt,
    ) -> Result<Option<(PathBuf, Vec<PathBuf>)>, AgentsError> {
        if misfit(home)?.is_none() {
            return Ok(None);
        }
        // Another run may have saved its cursors, and not its notes yet.
        let found = with_lock(&home.lock(LockName::Cursors), |held| {
            let found = misfit(home)?;
            if let Some(Misfit::Cursors(moved)) = &found {
                held.still_held()?;
                Self::forget_logs(home, moved)?;
            }
            Ok::<_, AgentsError>(found)
        })?;
        let Some(Misfit::Whole(shown_by)) = found else { return Ok(None) };
        let notes = read(&home.ingest_notes())?;
        let ledger = Ledger::new(home.clone());
        let mut copies = Vec::new();
        match ledger.rebuild_index(ExtraIds::Refuse, interrupt) {
            Err(LedgerError::WouldDropIds { index, .. }) => {
                let ids = disk::File::open_read(&index)?;
                copies.push(disk::quarantine(
                    &ids,
                    0..ids.len_bytes()?,
                    home.root(),
                    "ledger.idx.set-aside",
                )?);
                ledger.rebuild_index(ExtraIds::Drop, interrupt)?;
            }
            rebuilt => {
                rebuilt?;
            }
        }
        // Every id has a line, so another program has added ids that the index lacked.
        let is_sound = shown_by == home.ids_index() && copies.is_empty();
        with_lock(&home.lock(LockName::Cursors), |held| {
            // Another run may have forgotten and read meanwhile.
            if read(&home.ingest_notes())? != notes {
                return Ok(());
            }
            held.still_held()?;
            if is_sound {
                return Side { is_changed: true, ..Side::load(home) }.save(home, &read(&home.cursors())?);
            }
            disk::replace(&home.cursors(), &print(&[]), Replacing::Unsynced)?;
            disk::remove_file_if_exists(&home.ingest_notes())?;
            Ok::<_, AgentsError>(())
        })?;
        Ok((!is_sound).then_some((shown_by, copies)))
    }

    /// Drops the cursors of some logs and the notes on them, so that the next run reads these logs from their beginning.
    fn forget_logs(home: &Home, logs: &HashSet<Vec<u8>>) -> Result<(), AgentsError> {
        let mut entries = parse(&read(&home.cursors())?);
        entries.retain(|(key, _)| !logs.contains(key));
        let text = print(&entries);
        let mut side = Side { is_changed: true, ..Side::load(home) };
        side.files.retain(|key, _| !logs.contains(key));
        disk::replace(&home.cursors(), &text, Replacing::Unsynced)?;
        side.save(home, &text)
    }

    /// Forgets what a home knows of a ledger that is missing or empty and had records: deletes the cursors, and sets the
    /// ids aside, because with either of them a run would not write the records again. Returns the new paths of the ids;
    /// none if there was nothing to forget.
    ///
    /// This is done before a record is appended, because a run that is killed after its first append would leave the cursors
    /// of the other logs with a ledger that lacks their records. The cursors go first: if a run is killed after them, the ids
    /// tell the next run that the ledger is lost.
    pub(super) fn forget_without_ledger(home: &Home) -> Result<Option<Vec<PathBuf>>, AgentsError> {
        if !Self::know_lost_ledger(home)? {
            return Ok(None);
        }
        let had_cursors = with_lock(&home.lock(LockName::Cursors), |held| {
            // Another run may have appended records meanwhile.
            if !Self::are_of_lost_ledger(home)? {
                return Ok(false);
            }
            held.still_held()?;
            disk::replace(&home.cursors(), &print(&[]), Replacing::Unsynced)?;
            Ok::<_, AgentsError>(true)
        })?;
        let set_aside = Ledger::new(home.clone()).set_orphaned_indexes_aside()?;
        Ok((had_cursors || !set_aside.is_empty()).then_some(set_aside))
    }

    /// Returns the cursor of a log, if it has this kind.
    pub(super) fn get(&self, path: &Path, kind: &str) -> Option<&[u8]> {
        let cursor = self.entries.get(&key_of(path))?;
        let mut document = Document::default();
        let is_of_kind = js::any_text(document.parse(cursor).ok()?, "kind") == Some(kind.as_bytes());
        is_of_kind.then_some(cursor.as_slice())
    }

    /// Sets a cursor; it is saved by the next [`Cursors::save`].
    pub(super) fn set(&mut self, key: Vec<u8>, cursor: Vec<u8>) {
        let mut document = Document::default();
        let Ok(cursor) = document.parse(&cursor).map(js::json) else { return };
        if self.entries.get(&key).is_some_and(|known| *known == cursor) {
            return;
        }
        self.entries.insert(key.clone(), cursor.clone());
        match self.changed.iter_mut().find(|(changed, _)| *changed == key) {
            Some((_, known)) => *known = cursor,
            None => self.changed.push((key, cursor)),
        }
    }

    /// Writes the changes into the present file, then the notes, which have hashes of its cursors. If the run is killed before the
    /// notes, the ledger has grown since the notes before, unless the lines had no records.
    pub(super) fn save(&mut self, home: &Home, side: Option<&mut Side>) -> Result<(), AgentsError> {
        // Without notes, the next run takes cursors for those of another ledger.
        let lacks_notes = || {
            !self.entries.is_empty() && disk::metadata(&home.ingest_notes()).is_err_and(|e| e.is_not_found())
        };
        let has_notes =
            side.as_ref().is_some_and(|side| side.is_changed || lacks_notes()) && home.root().is_dir();
        if self.changed.is_empty() && !has_notes {
            return Ok(());
        }
        disk::create_dir_all(home.root())?;
        with_lock(&home.lock(LockName::Cursors), |held| {
            let mut text = read(&home.cursors())?;
            if !self.changed.is_empty() {
                text = print(&self.changed_entries(parse(&text)));
                held.still_held()?;
                disk::replace(&home.cursors(), &text, Replacing::Unsynced)?;
            }
            let Some(side) = side else { return Ok(()) };
            side.is_changed = true;
            held.still_held()?;
            side.save(home, &text)
        })?;
        self.changed.clear();
        Ok(())
    }

    /// Returns entries of a file with the changes: new entries at the end, others at their places.
    fn changed_entries(&self, mut entries: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let places: HashMap<Vec<u8>, usize> =
            entries.iter().enumerate().map(|(place, (key, _))| (key.clone(), place)).collect();
        for (key, cursor) in &self.changed {
            match places.get(key) {
                Some(place) => entries[*place].1.clone_from(cursor),
                None => entries.push((key.clone(), cursor.clone())),
            }
        }
        entries
    }
}

/// The file as `JSON.stringify` prints it with an indent of two.
fn print(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = b"{\n  \"files\": {".to_vec();
    let mut document = Document::default();
    for (place, (key, cursor)) in entries.iter().enumerate() {
        out.extend_from_slice(if place == 0 { b"\n    " } else { b",\n    " });
        write_js_string(key, &mut out);
        out.extend_from_slice(b": ");
        match document.parse(cursor) {
            Ok(value) => pretty(value, 2, &mut out),
            Err(_) => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(if entries.is_empty() { b"}\n}" } else { b"\n  }\n}" });
    out
}

/// Prints a value with an indent of two, inside `depth` containers.
pub(super) fn pretty(value: Value<'_>, depth: usize, out: &mut Vec<u8>) {
    let text = js::json(value);
    let mut depth = depth;
    let mut in_string = false;
    let mut is_escaped = false;
    let newline = |depth: usize, out: &mut Vec<u8>| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (at, byte) in text.iter().enumerate() {
        if in_string {
            out.push(*byte);
            in_string = is_escaped || *byte != b'"';
            is_escaped = !is_escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(*byte);
                if !matches!(text.get(at + 1), Some(b'}' | b']')) {
                    depth += 1;
                    newline(depth, out);
                }
            }
            b'}' | b']' => {
                if !matches!(text[at - 1], b'{' | b'[') {
                    depth -= 1;
                    newline(depth, out);
                }
                out.push(*byte);
            }
            b',' => {
                out.push(b',');
                newline(depth, out);
            }
            b':' => out.extend_from_slice(b": "),
            other => {
                in_string = *other == b'"';
                out.push(*other);
            }
        }
    }
}

/// The state of a home's files when notes were saved.
struct NotedHome {
    ledger: LedgerWitness,
    /// The hashes of the cursors; none in notes of an earlier version.
    cursors: Option<HashSet<Vec<u8>>>,
    /// The length of `ledger.idx` in bytes; none in notes of an earlier version.
    index_bytes: Option<u64>,
}

impl NotedHome {
    /// Reads the state from notes; none if they are missing or damaged.
    fn of(notes: &[u8]) -> Option<Self> {
        let mut document = Document::default();
        let root = document.parse(trim_js(notes)).ok()?;
        let ledger = root.get("ledger")?;
        let text = |value, key| std::str::from_utf8(js::text(value, key)?).ok();
        Some(NotedHome {
            ledger: LedgerWitness {
                len_bytes: js::number(ledger, "bytes")? as u64,
                hash: u64::from_str_radix(text(ledger, "hash")?, 16).ok()?,
            },
            cursors: root
                .get("cursors")
                .map(|hashes| hashes.items().filter_map(js::wtf8).map(<[u8]>::to_vec).collect()),
            index_bytes: js::number(root, "indexBytes").map(|bytes| bytes as u64),
        })
    }
}

/// Notes on logs besides their cursors.
#[derive(Debug, Default)]
pub(super) struct Side {
    files: HashMap<Vec<u8>, Vec<u8>>,
    noted: BTreeMap<Agent, NotedLedger>,
    is_changed: bool,
    /// Logs whose cursors a later run has to look at.
    moved: HashSet<Vec<u8>>,
    /// The notes in the home are of a ledger that has other lines now. They stay, because the next run sees by them that lines are
    /// lost.
    is_of_another_ledger: bool,
}

impl Side {
    /// Loads the notes. A broken file counts as missing, and so do notes that were made with another
    /// ledger: a log that they call read may have no record in this ledger.
    pub(super) fn load(home: &Home) -> Self {
        let text = read(&home.ingest_notes()).unwrap_or_default();
        if !NotedHome::of(&text).is_none_or(|noted| noted.ledger.holds(home).unwrap_or(false)) {
            return Side { is_of_another_ledger: true, ..Side::default() };
        }
        let mut document = Document::default();
        let root = document.parse(trim_js(&text)).ok();
        let noted = root.and_then(|root| root.get("ledgerTurns")).into_iter().flat_map(Value::members);
        let noted = noted
            .filter_map(|(name, noted)| Some((Agent::parse(&name.to_utf8_lossy())?, NotedLedger::of(noted))));
        Side { noted: noted.collect(), files: parse(&text).into_iter().collect(), ..Side::default() }
    }

    /// Leaves the cursors of some logs to a later run. The notes are saved with the ledger that this run leaves, because that run
    /// looks for moved cursors only beside a ledger that has not grown.
    pub(super) fn leave(&mut self, moved: HashSet<Vec<u8>>) {
        self.is_changed |= !moved.is_empty();
        self.moved = moved;
    }

    /// Returns how much of the ledger the notes on an agent's logs know.
    pub(super) fn noted(&self, agent: Agent) -> NotedLedger {
        self.noted.get(&agent).cloned().unwrap_or_default()
    }

    /// Sets how much of the ledger the notes on an agent's logs know. It is saved with the next note, or when it is less or has
    /// grown much, because the next run reads the bytes after it.
    pub(super) fn set_noted(&mut self, agent: Agent, noted: NotedLedger) {
        let before = self.noted.entry(agent).or_default();
        self.is_changed |= noted.bytes < before.bytes || noted.bytes - before.bytes >= NOTED_STEP_BYTES;
        *before = noted;
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.files.get(key).map(Vec::as_slice)
    }

    pub(super) fn set(&mut self, key: Vec<u8>, side: Vec<u8>) {
        if self.files.get(&key).is_none_or(|known| *known != side) {
            self.is_changed = true;
            self.files.insert(key, side);
        }
    }

    /// Replaces the file, which belongs to this text of `cursors.json`. Two runs at the same time may lose notes of each other; a
    /// later run then reads these logs again.
    fn save(&mut self, home: &Home, cursors: &[u8]) -> Result<(), AgentsError> {
        if !self.is_changed || self.is_of_another_ledger {
            return Ok(());
        }
        let mut keys: Vec<_> = self.files.iter().collect();
        keys.sort();
        let mut files = RecordText::default();
        for (key, side) in keys {
            files.member(key, |out| out.extend_from_slice(side));
        }
        let mut document = RecordText::default();
        document.count("v", 1);
        let mut ledger = RecordText::default();
        let witness = LedgerWitness::of(home)?;
        ledger.number("bytes", witness.len_bytes as f64);
        ledger.text("hash", format!("{:016x}", witness.hash).as_bytes());
        document.raw("ledger", &ledger.finish());
        document.number("indexBytes", index_bytes(home)? as f64);
        let cursors = parse(cursors);
        let settled = cursors.iter().filter(|(key, _)| !self.moved.contains(key));
        let hashes: Vec<_> = settled.map(hash_of).collect();
        document.texts("cursors", &hashes);
        let mut noted = RecordText::default();
        for (agent, of_agent) in &self.noted {
            noted.raw(agent.as_str(), &of_agent.text());
        }
        document.raw("ledgerTurns", &noted.finish());
        document.raw("files", &files.finish());
        let mut text = document.finish();
        text.push(b'\n');
        disk::replace(&home.ingest_notes(), &text, Replacing::Unsynced)?;
        self.is_changed = false;
        Ok(())
    }
}

/// See [`Side::set_noted`].
const NOTED_STEP_BYTES: u64 = 1 << 20;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn logs_whose_names_are_not_utf8_have_names_of_their_own() {
        use std::os::unix::ffi::OsStrExt;
        let path = |name: &[u8]| Path::new(std::ffi::OsStr::from_bytes(name)).to_owned();
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        let names = [&b"a"[..], b"a\xff", b"a\xfe", "a\u{fffd}".as_bytes(), b"a\x80\xc3", b"\xed\xbf\xbf"];
        let cursor = |at: usize| format!(r#"{{"kind":"claude","offsetBytes":{at}}}"#).into_bytes();
        let (mut cursors, mut side) = (Cursors::default(), Side::default());
        for (at, name) in names.iter().enumerate() {
            cursors.set(key_of(&path(name)), cursor(at));
            side.set(key_of(&path(name)), cursor(at));
        }
        cursors.save(&home, Some(&mut side)).unwrap();
        let text = std::fs::read_to_string(home.cursors()).unwrap();
        assert!(text.contains(r#""a\udcff""#), "{text}");
        let (cursors, side) = (Cursors::load(&home, |_| {}).unwrap(), Side::load(&home));
        for (at, name) in names.iter().enumerate() {
            assert_eq!(cursors.get(&path(name), "claude"), Some(&cursor(at)[..]), "{name:?}");
            assert_eq!(side.get(&key_of(&path(name))), Some(&cursor(at)[..]), "{name:?}");
        }
    }

    #[test]
    fn cursors_are_printed_as_javascript_prints_them() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::at(directory.path());
        std::fs::write(
            home.cursors(),
            r#"{"x":1,"files":{"b":{"kind":"other","a":[]},"a":{"kind":"claude","z":{}}}}"#,
        )
        .unwrap();
        let mut cursors = Cursors::load(&home, |_| {}).unwrap();
        assert_eq!(cursors.get(Path::new("b"), "claude"), None);
        assert!(cursors.get(Path::new("a"), "claude").is_some());
        cursors.set(b"a".to_vec(), br#"{"kind":"claude","mtimeMs":1777000000123.4568,"t":"a\"{b"}"#.to_vec());
        cursors.set(b"c".to_vec(), br#"{"kind":"claude","l":[1,{"k":null}]}"#.to_vec());
        // Another program has changed the file in the meantime.
        std::fs::write(home.cursors(), r#"{"files":{"d":{"kind":"x"},"a":{}}}"#).unwrap();
        cursors.save(&home, None).unwrap();
        let text = std::fs::read_to_string(home.cursors()).unwrap();
        assert_eq!(
            text,
            r#"{
  "files": {
    "d": {
      "kind": "x"
    },
    "a": {
      "kind": "claude",
      "mtimeMs": 1777000000123.4568,
      "t": "a\"{b"
    },
    "c": {
      "kind": "claude",
      "l": [
        1,
        {
          "k": null
        }
      ]
    }
  }
}"#
        );
        std::fs::write(home.cursors(), "[]").unwrap();
        cursors.save(&home, None).unwrap();
        assert_eq!(std::fs::read_to_string(home.cursors()).unwrap(), "[]", "nothing has changed");
    }
}
