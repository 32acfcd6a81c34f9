//! Session logs of Claude Code: a JSON line for every prompt, answer and result.
//!
//! A log is read in pieces. The lines before the cursor are read again, because later lines refer to them
//! ([`piece::State`]). The lines after the cursor make records ([`piece::Piece`]). Records are written up to the first
//! line that may still change, and the next cursor is the offset of that line.

mod across;
mod graph;
mod key;
mod line;
mod log;
mod marker;
mod message;
mod packed;
mod piece;

use std::path::{Path, PathBuf};
use std::time::Instant;

use bumpalo::Bump;

pub(super) use self::across::{Across, settled_note};

pub(super) use self::log::LogFacts;
use self::log::{AgentMeta, Evidence, LogKind};
use self::piece::{Log, Piece, PieceEnd, Place, State};
use super::AgentsError;
use super::cursors::touched_cursor;
use super::js::{self, RecordText};
use super::lines::{Ending, LineSource};
use super::pass::{Agent, Candidate, Gathered, HandOver, Handed, Pass, ReadOptions, RootsOf, Stat};
use super::project::ProjectKeys;
use super::walk::{self, Unreadable};
use crate::scan::json::{Document, trim_js};

/// The size of a piece: the records of so many bytes are written together.
const PIECE_BYTES: u64 = 512 << 10;

/// The size of a piece when only a part of the log is read.
const SMALL_PIECE_BYTES: u64 = 64 << 10;

/// A part of a log ends after so many bytes. 1 MiB of a log takes a few milliseconds to read and to append in a release
/// build.
const PART_BYTES: u64 = 1 << 20;

/// How long a message with a final stop reason may still get lines.
const SETTLED_MS: f64 = 5_000.0;

/// The state of a log with at least so many bytes before its cursor is kept, because reading these bytes again takes
/// noticeable time.
const STATE_MIN_BYTES: u64 = 256 << 10;

/// A log that was not written for so long has probably ended, so its state is not kept.
const GROWS_MS: f64 = 24.0 * 3600.0 * 1000.0;

/// The member of a note that has the stamp of a branch whose turns repeat another session.
pub(super) const CARRIED: &str = "branch";

/// How many bytes before the cursor are hashed. The hash shows that a log was rewritten.
const WITNESS_BYTES: u64 = 4096;

/// Returns the roots of logs.
pub(super) fn roots(of: &RootsOf<'_>) -> Vec<PathBuf> {
    let mut roots = vec![of.user.join(".claude/projects")];
    if !of.as_reference {
        let dirs = (of.variable)("CLAUDE_CONFIG_DIR").map(|dirs| walk::folders_of(&dirs)).unwrap_or_default();
        roots.extend(dirs.into_iter().map(|dir| dir.join("projects")));
        let config = (of.variable)("XDG_CONFIG_HOME").unwrap_or_else(|| of.user.join(".config"));
        roots.push(config.join("claude/projects"));
    }
    roots
}

/// Returns the logs of a root: the `.jsonl` files of its folders, and the logs of the sub-agents of their sessions, to any
/// depth.
pub(super) fn discover(root: &Path, as_reference: bool, unreadable: &mut Vec<Unreadable>) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut add = |path| found.push(Candidate { agent: Agent::Claude, path, extra: None });
    let is_log = |path: &Path| walk::has_extension(path, "jsonl");
    for project in walk::folders(root, as_reference, unreadable) {
        for entry in walk::entries(&project, as_reference, unreadable) {
            walk::logs(std::slice::from_ref(&entry), as_reference, is_log, unreadable)
                .into_iter()
                .for_each(&mut add);
            if entry.is_folder && !as_reference {
                let agents = entry.path.join("subagents");
                // Agents of workflows and of agents have folders of their own, with other files beside their logs.
                let is_log_of_agent = |path: &Path| {
                    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
                    is_log(path) && (path.parent() == Some(&*agents) || name.starts_with(b"agent-"))
                };
                walk::logs_below(&agents, as_reference, &is_log_of_agent, unreadable)
                    .into_iter()
                    .for_each(&mut add);
            }
        }
    }
    found
}

/// The name of a log without folder and extension, which is its session.
fn base_name(path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = name.strip_suffix(".jsonl").filter(|stem| !stem.is_empty()).unwrap_or(&name);
    stem.as_bytes().to_vec()
}

/// The cursor of a log.
struct ClaudeCursor {
    inode: f64,
    offset: f64,
    mtime_ms: f64,
    last_user_text: Option<Vec<u8>>,
}

impl ClaudeCursor {
    fn parse(text: &[u8]) -> Option<Self> {
        let mut document = Document::default();
        let root = document.parse(text).ok()?;
        Some(ClaudeCursor {
            inode: js::number(root, "inode")?,
            // A value that is no number compares as 0.
            offset: js::number(root, "offsetBytes").unwrap_or(0.0),
            mtime_ms: js::number(root, "mtimeMs").unwrap_or(0.0),
            last_user_text: js::text(root, "lastUserText").map(<[u8]>::to_vec),
        })
    }
}

/// A log that is being read.
struct Reader<'r, 't> {
    path: PathBuf,
    base_name: Vec<u8>,
    kind: LogKind,
    agent: AgentMeta,
    stat: Stat,
    options: &'r ReadOptions,
    projects: &'r ProjectKeys,
    /// Where the state is kept; none when it is not kept.
    state_path: Option<PathBuf>,
    state: State<'t>,
    /// The memory of the pieces, one after the other.
    arena: Bump,
    lines: Vec<u8>,
    /// The compared evidence, in the form of the note.
    compared: Option<Vec<u8>>,
    /// The log that this log continues.
    continues: Option<Vec<u8>>,
    /// The stamp of the branch that an earlier pass kept for the next turn.
    carried: Option<Vec<u8>>,
    /// When the log was first seen as it is, if its modification time is later.
    seen_ms: Option<f64>,
    /// Byte offset of the next piece.
    at: u64,
    /// Byte offset up to which the last piece has read.
    seen: u64,
    piece_bytes: u64,
}

/// The work that a log needs.
enum Opened<'r, 't> {
    /// Nothing is new; the cursor gets a new time.
    NothingNew(Option<Vec<u8>>),
    /// Something may be new.
    Reader(Box<Reader<'r, 't>>),
}

/// Returns whether a log is as its cursor says, so that it need not be read.
pub(super) fn is_unchanged(stat: Stat, cursor: &[u8]) -> bool {
    ClaudeCursor::parse(cursor).is_some_and(|cursor| {
        cursor.inode == stat.inode
            && cursor.mtime_ms == stat.mtime_ms
            && cursor.offset == stat.size_bytes as f64
    })
}

/// Reads a log piece by piece, to its end or to the end of a part.
pub(super) fn read(pass: &Pass<'_>, hand: &mut HandOver<'_>) -> Result<(), AgentsError> {
    let texts = Bump::new();
    let mut reader = match Reader::open(pass, &texts)? {
        Opened::NothingNew(cursor) => {
            hand(Handed::Unchanged(cursor));
            return Ok(());
        }
        Opened::Reader(reader) => reader,
    };
    let from = reader.at;
    loop {
        let (mut gathered, has_more) = reader.next()?;
        // A part ends only after the cursor has moved, so that each part goes on where the part before it has ended,
        // however slow the machine is.
        let is_part = pass.options.part_until.is_some_and(|until| {
            reader.at > from && (reader.at - from >= PART_BYTES || Instant::now() >= until)
        });
        let is_over = !has_more || is_part;
        if is_over {
            gathered.state = reader.state_to_keep();
        }
        if !hand(Handed::Piece(Box::new(gathered), !has_more)) || is_over {
            return Ok(());
        }
    }
}

impl<'r, 't> Reader<'r, 't> {
    /// Looks at a log and reads the lines before its cursor. `texts` is the memory of its state.
    fn open(pass: &Pass<'r>, texts: &'t Bump) -> Result<Opened<'r, 't>, AgentsError> {
        let cursor = pass.cursor.and_then(ClaudeCursor::parse);
        let stat = pass.stat;
        let is_as_seen = cursor.as_ref().is_some_and(|cursor| cursor.mtime_ms == stat.mtime_ms);
        let noted_ms = pass.side.filter(|_| is_as_seen).and_then(seen_ms_of);
        let size = stat.size_bytes as f64;
        // A log that was not written since is not opened.
        let is_same = |cursor: &ClaudeCursor| cursor.mtime_ms == stat.mtime_ms && cursor.offset == size;
        let cursor = cursor.filter(|cursor| {
            cursor.inode == stat.inode
                && stat.mtime_ms >= cursor.mtime_ms
                && size >= cursor.offset
                && cursor.offset >= 0.0
                && (pass.options.as_reference || is_same(cursor) || witness_holds(pass, cursor.offset as u64))
        });
        if let Some(cursor) = cursor.as_ref().filter(|cursor| cursor.offset >= size) {
            let refreshed = refresh(pass.cursor.unwrap_or_default(), stat.mtime_ms);
            let is_same = cursor.mtime_ms == stat.mtime_ms;
            return Ok(Opened::NothingNew(refreshed.filter(|_| !is_same)));
        }
        let at = cursor.as_ref().map_or(0, |cursor| cursor.offset as u64);
        let path = pass.candidate.path.clone();
        let kind = if pass.options.as_reference { LogKind::Session } else { LogKind::of(&path) };
        let mut reader = Reader {
            base_name: base_name(&path),
            kind,
            agent: match kind {
                LogKind::Session => AgentMeta::default(),
                LogKind::SubAgent => AgentMeta::beside(&path),
            },
            path,
            stat,
            options: pass.options,
            projects: pass.projects,
            state_path: pass.state_dir.map(|folder| folder.join(state_name(&pass.candidate.path))),
            state: State::new(texts),
            arena: Bump::new(),
            lines: Vec::new(),
            compared: None,
            continues: None,
            carried: None,
            seen_ms: pass.options.seen_ms(stat.mtime_ms, noted_ms),
            at,
            seen: 0,
            piece_bytes: pass.options.part_until.map_or(PIECE_BYTES, |_| SMALL_PIECE_BYTES),
        };
        if at > 0 {
            reader.recall(pass.side);
        }
        reader.read_before()?;
        if let Some(text) = cursor.and_then(|cursor| cursor.last_user_text)
            && reader.state.prompt.is_none()
        {
            reader.state.prompt = Some(text.into());
        }
        Ok(Opened::Reader(Box::new(reader)))
    }

    /// Reads the results of earlier comparisons of the log with other logs.
    fn recall(&mut self, side: Option<&[u8]>) {
        let mut document = Document::default();
        let Some(side) = side.and_then(|side| document.parse(side).ok()) else { return };
        self.carried = side.get(CARRIED).map(js::json);
        let Some(evidence) = side.get("evidence").map(Evidence::of_note) else { return };
        self.compared = evidence.note().filter(|_| js::is_true(side, "isCompared"));
        self.continues = evidence.continues;
    }

    fn log(&self) -> Log<'_> {
        Log {
            path: &self.path,
            base_name: &self.base_name,
            kind: self.kind,
            agent: &self.agent,
            options: self.options,
            projects: self.projects,
        }
    }

    /// Reads the lines before the cursor.
    fn read_before(&mut self) -> Result<(), AgentsError> {
        if self.at == 0 {
            return Ok(());
        }
        let load = |path: &PathBuf| State::load(path, self.place(), self.state.texts());
        if let Some(state) = self.state_path.as_ref().and_then(load) {
            self.state = state;
            return Ok(());
        }
        let mut source = LineSource::open(&self.path, 0, self.at)?;
        let mut document = Document::default();
        let mut state = self.state.take();
        let log = self.log();
        while let Some(line) = source.next()? {
            if line.ending == Ending::TooLong {
                continue;
            }
            if let Ok(root) = document.parse(trim_js(line.bytes)) {
                state.pass_over(root, &log);
            }
        }
        self.state = state;
        Ok(())
    }

    /// Reads the next piece. Returns whether more bytes follow.
    fn next(&mut self) -> Result<(Gathered, bool), AgentsError> {
        let from = self.at;
        let size = self.stat.size_bytes;
        let mut wanted = match self.options.as_reference {
            true => size,
            false => size.min(from.max(self.seen) + self.piece_bytes),
        };
        let mut state = self.state.take();
        let mut arena = std::mem::take(&mut self.arena);
        let lines = std::mem::take(&mut self.lines);
        arena.reset();
        let log = self.log();
        let mut piece = Piece::new(&log, &arena);
        // Without content the texts are shorter than the lines, so that they are not moved while they grow.
        piece.gathered.texts.reserve((wanted - from).min(PIECE_BYTES) as usize);
        let mut source = LineSource::open(&self.path, from, size)?.with_buffer(lines);
        let mut document = Document::default();
        let mut whole = from;
        let mut reached = from;
        while reached < wanted {
            let Some(line) = source.next()? else { break };
            let at = (line.offset, line.len_bytes);
            reached = line.end();
            // The piece before has counted the lines that it left to this piece.
            if line.offset >= self.seen {
                piece.gathered.lines += 1;
                piece.gathered.bytes_read += line.len_bytes;
            }
            match line.ending {
                // The last line of a log at rest is reported, but still waits, because it is no complete line.
                Ending::Torn => wanted = reached,
                Ending::TooLong | Ending::Whole => whole = reached,
            }
            match line.parse(&mut document) {
                None => {}
                Some(Ok(root)) => piece.line(&mut state, at, root)?,
                Some(Err((reason, detail))) => piece.leave_out(at, reason, || detail),
            }
        }
        let has_more = reached < size && reached >= wanted && !self.options.as_reference;
        let waiting = if has_more {
            PieceEnd::ForAll
        } else if self.options.has_settled(self.stat.mtime_ms, self.seen_ms) {
            PieceEnd::Nothing
        } else if self.options.now_ms - self.stat.mtime_ms >= SETTLED_MS {
            PieceEnd::ForPrompts
        } else {
            PieceEnd::ForAll
        };
        let (mut gathered, end) = piece.finish(&mut state, from, whole, waiting, !has_more)?;
        (self.state, self.arena, self.lines) = (state, arena, source.into_buffer());
        self.at = end;
        self.seen = reached;
        gathered.cursor = Some(self.cursor());
        gathered.carried = self.carried.take();
        let mut evidence = self.state.evidence.clone();
        evidence.continues.clone_from(&self.continues);
        let note = evidence.note().filter(|_| self.kind == LogKind::Session);
        let is_new = self.options.as_reference || note.is_some() && note != self.compared;
        if !self.options.as_reference {
            gathered.side = self.side(note.as_deref(), !is_new);
        }
        if !has_more {
            // An agent's log belongs to the session that its lines name, and is not a fork of this session.
            let (evidence, lines) = match self.kind {
                LogKind::Session => {
                    (evidence, self.state.graph.uuids().map(|key| key.hash() as u32).collect())
                }
                LogKind::SubAgent => (Evidence::default(), Vec::new()),
            };
            let base_name = self.base_name.clone();
            gathered.claude_facts = Some(Box::new(LogFacts { base_name, evidence, is_new, lines }));
        }
        Ok((gathered, has_more))
    }

    /// The file with the state at the cursor, and its bytes; none if the state is not worth the space.
    fn state_to_keep(&self) -> Option<(PathBuf, Vec<u8>)> {
        let grows = self.options.now_ms - self.stat.mtime_ms < GROWS_MS;
        let path = self.state_path.as_ref().filter(|_| grows && self.at >= STATE_MIN_BYTES)?;
        Some((path.clone(), self.state.saved(self.place())?))
    }

    fn place(&self) -> Place {
        Place { inode: self.stat.inode as u64, offset: self.at }
    }

    fn cursor(&self) -> Vec<u8> {
        let mut cursor = RecordText::default();
        cursor.text("kind", b"claude");
        cursor.number("inode", self.stat.inode);
        cursor.number("offsetBytes", self.at as f64);
        cursor.number("mtimeMs", self.stat.mtime_ms);
        cursor.maybe_text("lastUserText", self.state.prompt.as_deref().filter(|text| !text.is_empty()));
        cursor.finish()
    }

    /// The note on the log: a hash of the bytes before the cursor, and the evidence for its relationships.
    fn side(&self, evidence: Option<&[u8]>, is_compared: bool) -> Option<Vec<u8>> {
        let hash = witness_at(&self.path, self.at)?;
        let mut side = RecordText::default();
        side.number("offset", self.at as f64);
        side.text("before", hash.as_bytes());
        side.maybe_number("seenMs", self.seen_ms);
        if let Some(evidence) = evidence {
            side.raw("evidence", evidence);
            side.flag_if("isCompared", is_compared);
        }
        Some(side.finish())
    }
}

/// The time in a note at which the log was first seen in its state.
fn seen_ms_of(side: &[u8]) -> Option<f64> {
    let mut document = Document::default();
    js::number(document.parse(side).ok()?, "seenMs")
}

/// The name of the file with the state of a log.
fn state_name(path: &Path) -> String {
    blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..32].to_owned()
}

fn witness_at(path: &Path, at: u64) -> Option<String> {
    let from = at.saturating_sub(WITNESS_BYTES);
    let mut bytes = vec![0; (at - from) as usize];
    crate::disk::File::open_read(path).ok()?.read_exact_at(&mut bytes, from).ok()?;
    Some(blake3::hash(&bytes).to_hex()[..32].to_owned())
}

/// Returns whether the bytes before the cursor are still the bytes that were read. Returns true without a note.
fn witness_holds(pass: &Pass<'_>, offset: u64) -> bool {
    let mut document = Document::default();
    let Some(note) = pass.side.and_then(|side| document.parse(side).ok()) else { return true };
    let (Some(at), Some(hash)) = (js::number(note, "offset"), js::text(note, "before")) else { return true };
    // A note for another cursor does not apply, because cursors.json decides.
    at != offset as f64
        || witness_at(&pass.candidate.path, offset).is_none_or(|found| found.as_bytes() == hash)
}

/// The cursor with another time.
fn refresh(cursor: &[u8], mtime_ms: f64) -> Option<Vec<u8>> {
    let mut document = Document::default();
    Some(touched_cursor(document.parse(cursor).ok()?, mtime_ms))
}
