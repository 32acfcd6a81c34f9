//! Generates ledgers of a given size in three profiles. Writes to any sink, or to a new file that appears whole or not at all.
//! Keeps at most a few groups of lines in memory, and reads nothing but the path of the new file.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::DevError;
use super::odd::{Deck, LINE_1_MIB, ODD_KINDS, OddKind, OddVerdict, push_odd};
use super::rng::Rng;
use super::turns::{
    GeneratedLines, LineKind, Turns, push_message_stamp, push_range_stamp, push_session_stamp,
};

/// Lines are written to the sink when this many bytes are waiting.
const WRITE_LEN_BYTES: usize = 256 << 10;
/// The first `line_1_mib` is due at this offset; `LINE_1_MIB_EVERY` is the distance to each following line.
const FIRST_LINE_1_MIB: u64 = 3_000_000;
const LINE_1_MIB_EVERY: u64 = 64_000_000;

/// What a generated ledger is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Turns, tool result events and user turns of interleaved sessions, with few stamps.
    Mixed,
    /// The lines of mixed, and after each turn two or three stamps on average.
    Stamps,
    /// As mixed, with odd lines of 136 kinds between its turns: what a reader must accept, pass over or report.
    Adversarial,
}

/// Size, seed and profile of a ledger to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerateOptions {
    /// The ledger ends with the first line that reaches this many bytes; 0 gives an empty ledger.
    pub size_bytes: u64,
    /// Ledgers with the same seed and profile are prefixes of each other; ledgers with different seeds share no session.
    pub seed: u64,
    /// The contents of the lines.
    pub profile: Profile,
}

/// How many lines of a kind there are, and how many bytes they have, LFs included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindTotals {
    /// Lines.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Counts of the generated lines. Lines of odd kinds count only as `odd`, whatever record they look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedSummary {
    /// Length of the ledger in bytes.
    pub bytes: u64,
    /// Number of lines.
    pub lines: u64,
    /// Turn lines; both copies of a turn that is written twice are counted.
    pub turns: KindTotals,
    /// User turn lines.
    pub user_turns: KindTotals,
    /// Tool result event lines.
    pub tool_result_events: KindTotals,
    /// Relationship lines.
    pub relationships: KindTotals,
    /// Stamp lines.
    pub stamps: KindTotals,
    /// Compaction lines.
    pub compactions: KindTotals,
    /// Odd lines of all kinds.
    pub odd: KindTotals,
    /// Odd lines by kind, in the order of [`ODD_KINDS`].
    pub odd_lines: [u64; ODD_KINDS.len()],
}

impl GeneratedSummary {
    fn new() -> Self {
        let none = KindTotals::default();
        Self {
            bytes: 0,
            lines: 0,
            turns: none,
            user_turns: none,
            tool_result_events: none,
            relationships: none,
            stamps: none,
            compactions: none,
            odd: none,
            odd_lines: [0; ODD_KINDS.len()],
        }
    }

    fn count(&mut self, kind: LineKind, len_bytes: u64) {
        let totals = match kind {
            LineKind::Turn => &mut self.turns,
            LineKind::UserTurn => &mut self.user_turns,
            LineKind::ToolResultEvent => &mut self.tool_result_events,
            LineKind::Relationship => &mut self.relationships,
            LineKind::Stamp => &mut self.stamps,
            LineKind::Compaction => &mut self.compactions,
            LineKind::Odd(kind) => {
                self.odd_lines[kind] += 1;
                &mut self.odd
            }
        };
        totals.lines += 1;
        totals.bytes += len_bytes;
        self.lines += 1;
        self.bytes += len_bytes;
    }

    /// Number of odd lines with this verdict.
    pub fn odd_lines_with(&self, verdict: OddVerdict) -> u64 {
        let of_verdict = |(kind, _): &(&OddKind, &u64)| kind.verdict == verdict;
        ODD_KINDS.iter().zip(&self.odd_lines).filter(of_verdict).map(|(_, lines)| lines).sum()
    }
}

/// Writes a ledger to `out`, whole lines in pieces of about 256 KiB, and calls `progress` with the bytes written so
/// far after each piece.
///
/// # Errors
///
/// Those of `out`; the bytes written before an error are a prefix of the ledger.
pub fn generate(
    options: &GenerateOptions,
    out: &mut impl Write,
    mut progress: impl FnMut(u64),
) -> io::Result<GeneratedSummary> {
    let mut summary = GeneratedSummary::new();
    let mut groups = Groups::new(options);
    let mut lines = GeneratedLines::default();
    while summary.bytes < options.size_bytes {
        let mut counted = lines.bytes.len();
        groups.push_next(&mut lines, summary.bytes);
        for (kind, end) in lines.ends.drain(..) {
            if summary.bytes < options.size_bytes {
                summary.count(kind, (end - counted) as u64);
                counted = end;
            }
        }
        lines.bytes.truncate(counted);
        if lines.bytes.len() >= WRITE_LEN_BYTES || summary.bytes >= options.size_bytes {
            out.write_all(&lines.bytes)?;
            lines.bytes.clear();
            progress(summary.bytes);
        }
    }
    out.flush()?;
    Ok(summary)
}

/// The lines of a profile, in groups of a turn and the lines that follow it.
struct Groups {
    profile: Profile,
    turns: Turns,
    /// Randomness for the lines that the profile adds. It is a stream of its own, so that the shared turns do not depend on the
    /// profile.
    extra: Rng,
    deck: Deck,
    next_line_1_mib: u64,
}

impl Groups {
    fn new(options: &GenerateOptions) -> Self {
        let longest_burst = if options.profile == Profile::Adversarial { 1 } else { 3 };
        Self {
            profile: options.profile,
            turns: Turns::new(Rng::new(options.seed, 0), longest_burst),
            extra: Rng::new(options.seed, 1),
            deck: Deck::new(),
            next_line_1_mib: FIRST_LINE_1_MIB,
        }
    }

    /// Appends the next group. The group starts at byte `offset` of the ledger.
    fn push_next(&mut self, lines: &mut GeneratedLines, offset: u64) {
        let burst_ended = self.turns.next_turn(lines);
        let (rng, session) = (&mut self.extra, self.turns.last_session());
        match self.profile {
            Profile::Mixed => {}
            Profile::Stamps => {
                push_session_stamp(lines, rng, session);
                push_session_stamp(lines, rng, session);
                if rng.chance(200) {
                    push_message_stamp(lines, rng, session);
                }
                if rng.chance(500) {
                    push_range_stamp(lines, rng, session);
                }
            }
            Profile::Adversarial => {
                if burst_ended && rng.chance(500) {
                    let kind = self.deck.deal(rng);
                    push_odd(lines, rng, session, kind);
                }
                if offset >= self.next_line_1_mib {
                    self.next_line_1_mib += LINE_1_MIB_EVERY;
                    push_odd(lines, rng, session, LINE_1_MIB);
                }
            }
        }
    }
}

/// The beginning of the name of a file that is being generated.
pub(crate) const TEMPORARY_PREFIX: &str = ".burn-generate-";

/// Calls [`generate`] on a new file at `path`, readable and writable by its owner alone. The file is written under another name
/// in the same directory and renamed when whole, so an error or a full disk leaves no file. A killed process leaves a file
/// named `.burn-generate-….tmp`. Nothing is synced, because a generated ledger can be made again.
///
/// # Errors
///
/// [`DevError::Exists`] when `path` exists and `force` is false, checked again at the rename; [`DevError::NotARegularFile`]
/// when `path` is a directory, a link or a device; [`DevError::Io`] for all else.
pub fn generate_file(
    path: &Path,
    options: &GenerateOptions,
    force: bool,
    progress: impl FnMut(u64),
) -> Result<GeneratedSummary, DevError> {
    let failed = |action, source| DevError::Io { action, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(DevError::NotARegularFile { path: path.to_owned() }),
        Ok(_) if !force => return Err(DevError::Exists { path: path.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("examine", error)),
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .suffix(".tmp")
        .tempfile_in(directory)
        // The error's text names the temporary file, a name that the user does not know.
        .map_err(|error| {
            failed("create", fs::metadata(directory).err().unwrap_or_else(|| error.kind().into()))
        })?;
    let summary = generate(options, &mut file, progress).map_err(|error| failed("write", error))?;
    let published = if force { file.persist(path) } else { file.persist_noclobber(path) };
    match published {
        Ok(_) => Ok(summary),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(DevError::Exists { path: path.to_owned() })
        }
        Err(error) => Err(failed("publish", error.error)),
    }
}
