//! Rollouts of Codex.
//!
//! Touches only logs, for reading. With our rules a changed log is read from its beginning, so that any number of
//! passes gives the lines of one, and written records are not returned again. A second engine with the rules of the
//! TypeScript package keeps the cursor for that package.

mod engine;
mod parts;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use self::engine::{Engine, Own, RolloutLine, RolloutRules, Written, written_of, written_text};
use self::parts::RolloutCounts;
use super::cursors::touched_cursor;
use super::js::{self, RecordText};
use super::ledger_turns::LedgerTurns;
use super::lines::{Ending, LineSource};
use super::measure;
use super::pass::{
    Agent, Candidate, Common, ContentMode, Gathered, HandOver, Handed, Pass, Prepared, Reason, RootsOf, Stat,
};
use super::walk::Unreadable;
use super::{AgentsError, walk};
use crate::disk;
use crate::scan::ZstdFrames;
use crate::scan::json::{Document, Kind, Value, trim_js};

const SOURCE: &str = "codex";

/// How many bytes before the end of the last reading are compared, to see that the rest continues the same log.
const TAIL_BYTES: u64 = 256;

/// Returns the roots of rollouts: the folders of Codex.
pub(super) fn roots(of: &RootsOf<'_>) -> Vec<PathBuf> {
    let usual = of.user.join(".codex");
    if of.as_reference {
        return vec![usual];
    }
    match (of.variable)("CODEX_HOME") {
        Some(list) => walk::folders_of(&list),
        None => vec![usual],
    }
}

/// Returns the folders of a root that have logs.
pub(super) fn log_folders(root: &Path, as_reference: bool) -> Vec<PathBuf> {
    let folders = ["sessions", "archived_sessions"];
    if folders.iter().any(|name| root.ends_with(name)) {
        return vec![root.to_owned()];
    }
    folders.iter().take(if as_reference { 1 } else { 2 }).map(|name| root.join(name)).collect()
}

/// Returns the files of logs under a folder of Codex.
pub(super) fn discover(root: &Path, as_reference: bool, unreadable: &mut Vec<Unreadable>) -> Vec<Candidate> {
    let is_log = |path: &Path| {
        walk::has_extension(path, "jsonl")
            || (!as_reference && path.as_os_str().as_encoded_bytes().ends_with(b".jsonl.zst"))
    };
    let folders = log_folders(root, as_reference).into_iter();
    let paths = folders.flat_map(|folder| walk::logs_below(&folder, as_reference, &is_log, unreadable));
    paths.map(|path| Candidate { agent: Agent::Codex, path, extra: None }).collect()
}

fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "zst")
}

/// A file's name without `.zst` and `.jsonl`.
fn log_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    // Two logs whose names are not UTF-8 have different names.
    let name =
        name.to_str().map_or_else(|| name.as_encoded_bytes().escape_ascii().to_string(), str::to_owned);
    let name = name.strip_suffix(".zst").unwrap_or(&name);
    name.strip_suffix(".jsonl").unwrap_or(name).to_owned()
}

/// Returns the key of a log's note. The key is the log's name, because Codex moves and compresses its logs.
pub(super) fn note_key(path: &Path) -> Vec<u8> {
    format!("codex:{}", log_name(path)).into_bytes()
}

/// Keeps the longest copy of each log. A compressed copy that is damaged is reported.
pub(super) fn each_log_once(candidates: Vec<Candidate>, unreadable: &mut Vec<Unreadable>) -> Vec<Candidate> {
    let mut places: HashMap<String, Vec<usize>> = HashMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        places.entry(log_name(&candidate.path)).or_default().push(at);
    }
    let mut chosen = HashSet::new();
    for group in places.values() {
        // Of equally long copies the first is read: plain before compressed, sessions before archived.
        let lens = group.iter().map(|at| match group.len() {
            1 => (0, None),
            _ => len_bytes(&candidates[*at].path),
        });
        let mut copies: Vec<_> = group.iter().copied().zip(lens).collect();
        let rank = |(at, (len, _)): &(usize, (u64, Option<String>))| {
            (*len, !is_compressed(&candidates[*at].path), std::cmp::Reverse(*at))
        };
        copies.sort_by_key(|copy| std::cmp::Reverse(rank(copy)));
        let longest = copies.first().map(|(at, _)| *at);
        // The longest copy is named when it is read.
        for (at, (_, error)) in copies.into_iter().skip(1) {
            let path = &candidates[at].path;
            unreadable.extend(error.map(|error| Unreadable { path: path.clone(), error }));
        }
        chosen.extend(longest);
    }
    let kept = candidates.into_iter().enumerate().filter(|(at, _)| chosen.contains(at));
    kept.map(|(_, candidate)| candidate).collect()
}

/// The decompressed length up to the first byte that cannot be read, and why that byte cannot be read.
fn len_bytes(path: &Path) -> (u64, Option<String>) {
    if !is_compressed(path) {
        return (disk::metadata_of_target(path).map_or(0, |found| found.len_bytes), None);
    }
    let mut reader = match open_compressed(path) {
        Ok(reader) => reader,
        Err(error) => return (0, Some(error.to_string())),
    };
    let (mut total, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return (total, None),
            Ok(count) => total += count as u64,
            Err(error) => return (total, Some(error.to_string())),
        }
    }
}

fn open_compressed(path: &Path) -> Result<ZstdFrames<BufReader<File>>, AgentsError> {
    let read_error = |source| AgentsError::Read { path: path.to_owned(), offset_bytes: 0, source };
    Ok(ZstdFrames::new(BufReader::new(File::open(path).map_err(read_error)?)))
}

fn open(path: &Path, from: u64, to: u64) -> Result<LineSource, AgentsError> {
    if is_compressed(path) {
        Ok(LineSource::of(path, Box::new(open_compressed(path)?), 0))
    } else {
        LineSource::open(path, from, to)
    }
}

/// The logs of a run by their sessions.
#[derive(Default)]
struct Rollouts {
    of_path: HashMap<PathBuf, Own>,
    of_session: HashMap<Vec<u8>, PathBuf>,
    /// The turn ids of logs. Each log is read once.
    turns: Mutex<HashMap<PathBuf, Arc<HashSet<Vec<u8>>>>>,
}

/// Reads the heads of all logs, so that a fork knows its parents in any order of reading.
pub(super) fn prepare(common: &Common<'_>, candidates: &[Candidate]) -> Result<Prepared, AgentsError> {
    if common.options.as_reference {
        return Ok(Prepared::default());
    }
    let mut rollouts = Rollouts::default();
    for candidate in candidates {
        let path = &candidate.path;
        let known = (common.side)(path).and_then(|side| own_of_side(path, &side));
        // A log that cannot be read is reported later, when it is read.
        let Some(own) = known.or_else(|| own_of(path).ok()) else { continue };
        rollouts.of_session.entry(own.session.clone()).or_insert_with(|| path.clone());
        rollouts.of_path.insert(path.clone(), own);
    }
    let from = common.noted.start(|session| rollouts.of_session.contains_key(session));
    let written = LedgerTurns::read(common.home, SOURCE, &common.noted, from)?;
    Ok(Prepared { written, facts: Some(Box::new(rollouts)) })
}

/// Adds what the ledger has of the turns of a session to the note on its log. Returns whether the note lacked something.
fn add_written(ledger: &LedgerTurns, session: &[u8], written: &mut HashMap<Vec<u8>, Written>) -> bool {
    let mut is_behind = false;
    for turn in ledger.of_session(session) {
        is_behind |= written.entry(turn.id.clone()).or_default().add(turn);
    }
    is_behind
}

/// Adds what the ledger has under other sessions of the log's own turns. The TypeScript package writes the turns of a fork
/// under its parent, and a fork of a fork may have been read when no log told whose turns it repeats.
fn add_written_elsewhere(ledger: &LedgerTurns, engine: &Engine<'_>, written: &mut HashMap<Vec<u8>, Written>) {
    for id in engine.own_turns() {
        if !written.contains_key(id) {
            for turn in ledger.of_id(id) {
                written.entry(id.to_vec()).or_default().add(turn);
            }
        }
    }
}

impl Rollouts {
    /// The session of a log and the turns of its ancestors.
    fn own(&self, path: &Path) -> Own {
        let Some(mut own) = self.of_path.get(path).cloned().or_else(|| own_of(path).ok()) else {
            return Own::default();
        };
        let (mut ids, mut seen) = (HashSet::new(), HashSet::from([own.session.clone()]));
        let mut parent = own.parent.clone();
        while let Some(session) = parent.filter(|session| seen.insert(session.clone())) {
            let Some(log) = self.of_session.get(&session) else { break };
            ids.extend(self.turns_of(log).iter().cloned());
            parent = self.of_path.get(log).and_then(|own| own.parent.clone());
        }
        own.ancestors_turns = Arc::new(ids);
        let original = own.parent.as_ref().and_then(|parent| self.of_session.get(parent));
        if let Some(original) = original.filter(|log| self.turns_of(log).is_empty()) {
            own.repeats_until = repeats_until(path, original).unwrap_or(0);
        }
        own
    }

    fn turns_of(&self, path: &Path) -> Arc<HashSet<Vec<u8>>> {
        if let Some(known) = self.turns.lock().ok().and_then(|turns| turns.get(path).cloned()) {
            return known;
        }
        let ids = Arc::new(turn_ids(path).unwrap_or_default());
        if let Ok(mut turns) = self.turns.lock() {
            turns.insert(path.to_owned(), Arc::clone(&ids));
        }
        ids
    }
}

fn turn_ids(path: &Path) -> Result<HashSet<Vec<u8>>, AgentsError> {
    let mut ids = HashSet::new();
    let mut lines = open(path, 0, u64::MAX)?;
    let mut document = Document::default();
    let finder = memchr::memmem::Finder::new(b"task_started");
    while let Some(line) = lines.next()? {
        if line.ending != Ending::Whole || finder.find(line.bytes).is_none() {
            continue;
        }
        let Ok(value) = document.parse(trim_js(line.bytes)) else { continue };
        let Ok(line) = RolloutLine::of(value, (0, 0)) else { continue };
        if line.kind == b"event_msg" && line.payload_kind == b"task_started" {
            ids.extend(js::any_text(line.payload, "turn_id").map(<[u8]>::to_vec));
        }
    }
    Ok(ids)
}

/// Returns the end of the last count that a log repeats of its parent's log. Older versions name no turns, and give the
/// repeated lines new times.
fn repeats_until(path: &Path, original: &Path) -> Result<u64, AgentsError> {
    let (mut lines, mut originals) = (open(path, 0, u64::MAX)?, open(original, 0, u64::MAX)?);
    let mut end = 0;
    while let (Some((totals, at)), Some((before, _))) =
        (next_totals(&mut lines)?, next_totals(&mut originals)?)
        && totals == before
    {
        end = at;
    }
    Ok(end)
}

/// The totals of the next count of a log, and the end of its line.
fn next_totals(lines: &mut LineSource) -> Result<Option<(RolloutCounts, u64)>, AgentsError> {
    let mut document = Document::default();
    while let Some(line) = lines.next()? {
        let end = line.end();
        if line.ending != Ending::Whole || memchr::memmem::find(line.bytes, b"total_token_usage").is_none() {
            continue;
        }
        let Ok(value) = document.parse(trim_js(line.bytes)) else { continue };
        let info = value.get("payload").and_then(|payload| payload.get("info"));
        if let Some(totals) = info.and_then(|info| info.get("total_token_usage")) {
            return Ok(Some((RolloutCounts::of(totals), end)));
        }
    }
    Ok(None)
}

/// How many lines may precede the session_meta of a log.
const HEAD_LINES: usize = 16;

/// The session of a log: from its first session_meta, else from its name.
fn own_of(path: &Path) -> Result<Own, AgentsError> {
    let name = log_name(path);
    let named =
        name.get(name.len().saturating_sub(36)..).filter(|id| parts::uuid_of(id.as_bytes()).is_some());
    let named = named.unwrap_or_default().as_bytes().to_vec();
    let mut own = Own { created_ms: parts::millis_of_uuid7(&named), session: named, ..Own::default() };
    let mut has_meta = false;
    let mut lines = open(path, 0, u64::MAX)?;
    let mut document = Document::default();
    for _ in 0..HEAD_LINES {
        let Some(line) = lines.next()? else { break };
        let Ok(value) = document.parse(trim_js(line.bytes)) else { continue };
        let Ok(line) = RolloutLine::of(value, (0, 0)) else { continue };
        let id = js::text(line.payload, "id").filter(|_| line.kind == b"session_meta");
        match id {
            Some(id) if !has_meta => {
                own_of_meta(&line, id, &mut own);
                has_meta = true;
            }
            None if !has_meta => continue,
            // Older versions do not name the parent of a fork, but the copied history begins with the parent's session_meta.
            Some(id) if id != own.session => {
                own.parent = Some(id.to_vec());
                own.is_fork = true;
            }
            _ => {}
        }
        if own.parent.is_some() || id.is_none_or(|id| id != own.session) {
            own.has_head = true;
            break;
        }
    }
    Ok(own)
}

/// Reads the session_meta of a log.
fn own_of_meta(line: &RolloutLine<'_>, id: &[u8], own: &mut Own) {
    let meta = line.payload;
    let stamped = js::text(meta, "timestamp").and_then(parts::millis_of);
    own.created_ms = stamped.or_else(|| parts::millis_of_uuid7(id)).or_else(|| parts::millis_of(line.stamp));
    own.session = id.to_vec();
    let spawn = meta.get("source").and_then(|source| source.get("subagent"));
    let spawn = spawn.and_then(|subagent| subagent.get("thread_spawn"));
    let forked = js::text(meta, "forked_from_id");
    let spawned = spawn.and_then(|spawn| js::text(spawn, "parent_thread_id"));
    let spawned = spawned.or_else(|| js::text(meta, "parent_thread_id"));
    let named = js::first_text(meta, &["forkSessionId", "fork_session_id"]);
    let parent = forked.or(spawned).or(named).filter(|parent| *parent != id);
    own.parent = parent.map(<[u8]>::to_vec);
    own.is_fork = forked.is_some();
    own.is_child = spawned.is_some();
    own.agent_role = spawn.and_then(|spawn| js::text(spawn, "agent_role")).map(<[u8]>::to_vec);
    own.agent_name = spawn.and_then(|spawn| js::text(spawn, "agent_nickname")).map(<[u8]>::to_vec);
}

/// The session from the side file, if the log is still the same file.
fn own_of_side(path: &Path, side: &[u8]) -> Option<Own> {
    let mut document = Document::default();
    let side = document.parse(side).ok()?;
    let (before, stat) = (Stat::of_note(side)?, Stat::of(path).ok()?);
    if before.inode != stat.inode || before.size_bytes > stat.size_bytes {
        return None;
    }
    let text = |key| js::any_text(side, key).map(<[u8]>::to_vec);
    Some(Own {
        session: text("session").filter(|_| js::is_true(side, "hasHead"))?,
        has_head: true,
        parent: text("parent"),
        created_ms: js::number(side, "createdMs"),
        is_child: js::is_true(side, "isChild"),
        is_fork: js::is_true(side, "isFork"),
        agent_role: text("agentRole"),
        agent_name: text("agentName"),
        ..Own::default()
    })
}

/// The note of the side file about the last reading of a log.
#[derive(Default)]
struct RolloutNote {
    stat: Stat,
    /// Byte offset after the last complete line that was read.
    end: u64,
    tail: Vec<u8>,
    /// When the log was first seen in its present state.
    changed_ms: Option<f64>,
    waits: bool,
    written: HashMap<Vec<u8>, Written>,
}

fn before_of(side: &[u8]) -> Option<RolloutNote> {
    let mut document = Document::default();
    let side = document.parse(side).ok()?;
    Some(RolloutNote {
        stat: Stat::of_note(side)?,
        end: js::number(side, "end")? as u64,
        tail: js::any_text(side, "tail")?.to_vec(),
        changed_ms: js::number(side, "changedMs"),
        waits: js::is_true(side, "waits"),
        written: side.get("written").map(written_of).unwrap_or_default(),
    })
}

/// The hash of the last bytes before `end`.
fn tail_of(path: &Path, end: u64) -> Result<Vec<u8>, AgentsError> {
    if is_compressed(path) {
        return Ok(Vec::new());
    }
    let file = disk::File::open_read(path)?;
    let from = end.saturating_sub(TAIL_BYTES);
    let mut bytes = vec![0; (end - from) as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(measure::hash16(&bytes[..filled]).to_vec())
}

/// The offset of the cursor, if the cursor belongs to this file.
fn offset_of_cursor(cursor: Value<'_>, stat: &Stat) -> Option<u64> {
    let offset = js::number(cursor, "offsetBytes")?;
    let is_same = js::number(cursor, "inode") == Some(stat.inode)
        && js::number(cursor, "mtimeMs").is_some_and(|mtime_ms| mtime_ms <= stat.mtime_ms)
        && offset <= stat.size_bytes as f64;
    is_same.then_some(offset as u64)
}

/// Reads a log.
pub(super) fn read(pass: &Pass<'_>, hand: &mut HandOver<'_>) -> Result<(), AgentsError> {
    let mut document = Document::default();
    let cursor = pass.cursor.and_then(|text| document.parse(text).ok());
    let resumed_at = cursor.and_then(|cursor| offset_of_cursor(cursor, &pass.stat));
    let resumption =
        Resumption { cursor: cursor.filter(|_| resumed_at.is_some()), at: resumed_at.unwrap_or(0) };
    hand(match pass.options.as_reference {
        true => read_as_reference(pass, &resumption)?,
        false => read_by_our_rules(pass, &resumption)?,
    });
    Ok(())
}

/// Where the rules of the TypeScript package go on.
struct Resumption<'c> {
    /// The cursor, if it belongs to this file.
    cursor: Option<Value<'c>>,
    /// Byte offset after the cursor.
    at: u64,
}

impl Resumption<'_> {
    /// The cursor of a log that has nothing after it, with the time of the log.
    fn at_end(&self, stat: &Stat) -> Option<Vec<u8>> {
        let cursor = self.cursor.filter(|_| self.at >= stat.size_bytes)?;
        Some(touched_cursor(cursor, stat.mtime_ms))
    }

    /// An engine with the rules of the TypeScript package that goes on after the cursor.
    fn engine<'p>(&self, pass: &Pass<'p>, content: ContentMode) -> Engine<'p> {
        let rules = RolloutRules { as_reference: true, content, ..rules_of(pass, Own::default()) };
        let mut engine = Engine::new(rules, self.at);
        if let Some(cursor) = self.cursor {
            engine.resume(cursor);
        }
        engine
    }
}

/// Our rules for a log that names its turns.
fn rules_of<'p>(pass: &Pass<'p>, own: Own) -> RolloutRules<'p> {
    RolloutRules {
        as_reference: false,
        content: pass.options.content,
        session_path: pass.candidate.path.as_os_str().as_encoded_bytes().to_vec(),
        projects: pass.projects,
        own,
        has_no_turn_lines: false,
    }
}

/// Reads the lines after the cursor by the rules of the TypeScript package.
fn read_as_reference(pass: &Pass<'_>, resumption: &Resumption<'_>) -> Result<Handed, AgentsError> {
    if let Some(cursor) = resumption.at_end(&pass.stat) {
        return Ok(Handed::Unchanged(Some(cursor)));
    }
    let mut gathered = Gathered { session_mtime_ms: pass.stat.mtime_ms, ..Gathered::default() };
    let mut engine = resumption.engine(pass, pass.options.content);
    let path = &pass.candidate.path;
    let mut takes = |line: &RolloutLine<'_>| engine.line(line).map_err(|given_up| given_up.at(path));
    each_line(pass, resumption.at, 0, &mut gathered, &mut takes)?;
    gathered.cursor = Some(engine.cursor(pass.stat.inode, pass.stat.mtime_ms));
    engine.hand_over(0, &mut HashMap::new(), false, &mut gathered);
    Ok(Handed::Piece(Box::new(gathered), true))
}

/// Reads a changed log from its beginning by our rules, and makes the cursor for the TypeScript package beside it.
fn read_by_our_rules(pass: &Pass<'_>, resumption: &Resumption<'_>) -> Result<Handed, AgentsError> {
    let path = &pass.candidate.path;
    let before = pass.side.and_then(before_of);
    let is_unchanged = before.as_ref().is_some_and(|before| before.stat == pass.stat);
    let changed_ms = pass.changed_ms(before.as_ref().map(|before| (before.stat, before.changed_ms)));
    let is_at_rest = pass.options.has_settled(pass.stat.mtime_ms, changed_ms);
    let waits = before.as_ref().is_some_and(|before| before.waits);
    let has_cursor = is_compressed(path) || resumption.cursor.is_some();
    let mut before = before.unwrap_or_default();
    let rollouts = pass.prepared.and_then(|prepared| prepared.facts.as_ref()?.downcast_ref::<Rollouts>());
    let session = rollouts.and_then(|rollouts| Some(&rollouts.of_path.get(path)?.session));
    let is_behind = pass
        .prepared
        .zip(session)
        .is_some_and(|(prepared, session)| add_written(&prepared.written, session, &mut before.written));
    if is_unchanged && has_cursor && !is_behind && !(waits && is_at_rest) {
        return Ok(Handed::Unchanged(None));
    }
    let before = continued(pass, before)?;
    let own = match rollouts {
        Some(rollouts) => rollouts.own(path),
        None => own_of(path)?,
    };
    let mut gathered = Gathered { session_mtime_ms: pass.stat.mtime_ms, ..Gathered::default() };
    let (mut engine, end) = read_lines(pass, resumption, before.end, &own, &mut gathered)?;
    // Half a line may be finished, unless an earlier run saw the log as it is: then it is what a killed Codex left. A compressed
    // copy that ends so was cut.
    let is_torn = gathered.left_out.counts.contains_key(&Reason::Torn);
    let is_at_rest = is_at_rest && (!is_torn || is_unchanged && !is_compressed(path));
    let is_open = !is_at_rest && engine.open_turn().is_some();
    if let Some((id, place)) = engine.open_turn().filter(|_| is_open) {
        let detail = || format!("turn {} is not complete", js::to_utf8(id));
        gathered.left_out.add(pass.options, place, Reason::OpenMessage, detail);
    }
    if is_at_rest {
        let _ = engine.end_turn(u64::MAX, true);
    }
    gathered.open_messages = u64::from(is_open);
    let mut written = before.written;
    if let Some(prepared) = pass.prepared {
        add_written_elsewhere(&prepared.written, &engine, &mut written);
    }
    let waits = engine.hand_over(before.end, &mut written, is_at_rest, &mut gathered);
    let tail = tail_of(path, end)?;
    let note = RolloutNote { stat: pass.stat, end, tail, changed_ms, waits: waits || is_open, written };
    gathered.side = Some(side_of(&note, &own));
    Ok(Handed::Piece(Box::new(gathered), true))
}

/// Returns the note, if the log goes on after its last reading. After a replacement or a cut, and for a compressed log,
/// the whole file is new, but written records stay written.
fn continued(pass: &Pass<'_>, note: RolloutNote) -> Result<RolloutNote, AgentsError> {
    let path = &pass.candidate.path;
    let goes_on = note.stat.inode == pass.stat.inode
        && note.end <= pass.stat.size_bytes
        && !is_compressed(path)
        && tail_of(path, note.end)? == note.tail;
    Ok(if goes_on { note } else { RolloutNote { written: note.written, ..RolloutNote::default() } })
}

/// Passes the whole log to an engine with our rules, and the lines after the cursor to an engine with the rules of the
/// TypeScript package. Returns the first engine and the end of the last complete line.
fn read_lines<'p>(
    pass: &Pass<'p>,
    resumption: &Resumption<'_>,
    counted_from: u64,
    own: &Own,
    gathered: &mut Gathered,
) -> Result<(Engine<'p>, u64), AgentsError> {
    let mut engine = Engine::new(rules_of(pass, own.clone()), 0);
    let mut shadow =
        (!is_compressed(&pass.candidate.path)).then(|| resumption.engine(pass, ContentMode::Off));
    let mut takes = |line: &RolloutLine<'_>| {
        if line.end > resumption.at && shadow.as_mut().is_some_and(|shadow| shadow.line(line).is_err()) {
            // The TypeScript package gives such a log up and has no cursor for it.
            shadow = None;
        }
        Ok(engine.line(line).unwrap_or(None))
    };
    let mut end = each_line(pass, 0, counted_from, gathered, &mut takes)?;
    if engine.looks_like_a_log_without_turn_lines() {
        let rules = RolloutRules { has_no_turn_lines: true, ..rules_of(pass, own.clone()) };
        engine = Engine::new(rules, 0);
        let mut takes = |line: &RolloutLine<'_>| Ok(engine.line(line).unwrap_or(None));
        end = each_line(pass, 0, counted_from, &mut Gathered::default(), &mut takes)?;
    }
    gathered.cursor = shadow.map(|shadow| {
        let at_end = resumption.at_end(&pass.stat);
        at_end.unwrap_or_else(|| shadow.cursor(pass.stat.inode, pass.stat.mtime_ms))
    });
    Ok((engine, end))
}

/// The side file: the note about this reading, and the session of the log.
fn side_of(note: &RolloutNote, own: &Own) -> Vec<u8> {
    let mut side = RecordText::default();
    note.stat.write(&mut side);
    side.number("end", note.end as f64);
    side.text("tail", &note.tail);
    side.maybe_number("changedMs", note.changed_ms);
    side.flag_if("waits", note.waits);
    side.text("session", &own.session);
    side.flag_if("hasHead", own.has_head);
    side.maybe_text("parent", own.parent.as_deref());
    side.maybe_number("createdMs", own.created_ms);
    side.flag_if("isChild", own.is_child);
    side.flag_if("isFork", own.is_fork);
    side.maybe_text("agentRole", own.agent_role.as_deref());
    side.maybe_text("agentName", own.agent_name.as_deref());
    side.raw("written", &written_text(&note.written));
    side.finish()
}

/// Passes every line to `takes`, counts lines after `counted_from` that have nothing to keep, and returns the end of
/// the last complete line.
fn each_line(
    pass: &Pass<'_>,
    from: u64,
    counted_from: u64,
    gathered: &mut Gathered,
    takes: &mut dyn FnMut(&RolloutLine<'_>) -> Result<Option<Reason>, AgentsError>,
) -> Result<u64, AgentsError> {
    let mut lines = open(&pass.candidate.path, from, pass.stat.size_bytes)?;
    let mut document = Document::default();
    let mut end = from;
    while let Some(line) = lines.next()? {
        gathered.bytes_read += line.len_bytes;
        let place = (line.offset, line.len_bytes);
        let line_end = line.end();
        let reason = match line.parse(&mut document) {
            None => None,
            Some(Err(reason)) => Some(reason),
            Some(Ok(value)) => match RolloutLine::of(value, (line.offset, line_end)) {
                Err(reason) => Some((reason, "the line has no payload".to_owned())),
                Ok(line) => takes(&line)?.map(|reason| (reason, kind_of(&line))),
            },
        };
        if line.ending != Ending::Torn {
            end = line_end;
        }
        if line_end > counted_from {
            gathered.lines += 1;
            if let Some((reason, detail)) = reason {
                gathered.left_out.add(pass.options, place, reason, || detail);
            }
        }
    }
    Ok(end)
}

fn kind_of(line: &RolloutLine<'_>) -> String {
    let kind = js::to_utf8(line.kind);
    match line.payload.kind() {
        Kind::Object if !line.payload_kind.is_empty() => format!("{kind} {}", js::to_utf8(line.payload_kind)),
        _ => kind.into_owned(),
    }
}
