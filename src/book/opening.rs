//! Opens one book: loads a snapshot, indexes the runs, replays the later events, repairs the end of the log.
//!
//! May cut the last segment, set damaged bytes and misleading snapshots aside, delete runs and leftovers, write a run;
//! docs/books.md says when. Guarantees: bytes that may hold an acknowledged event are saved before they are cut; a log that
//! cannot be repaired is refused, with file and offset; every event of an opened book is durable, even when the
//! writer before was killed between a write and its sync.

use std::path::{Path, PathBuf};

use talea_core::store::SYSTEM_BOOK;
use talea_core::types::{AssetDef, Direction, Seq};

use super::error::BookError;
use super::files::{self, Listing};
use super::frame::{FrameFinder, PostingIn, Replayed};
use super::keys::{Covered, KeyOutcome, Keys};
use super::options::LogStoreOptions;
use super::scan::{self, BadFrame, ScannedItem};
use super::snapshot;
use super::state::{BookState, PostingRef};
use crate::disk;
use crate::scan::{Io, Source};
use crate::store::{self, Cut, Recovery, SetAside};

/// Keys that are replayed before the first are spilled, where the limit is smaller, because a run should be worth its file.
const REPLAY_HOT_MIN: usize = 1 << 16;

/// A book as it is after opening.
#[derive(Debug)]
pub(super) struct OpenedBook {
    pub state: BookState,
    pub keys: Keys,
    /// Registrations in its log.
    pub assets: Vec<AssetDef>,
    /// The last segment, to append to.
    pub active: disk::File,
    pub active_len_bytes: u64,
    /// Events after the snapshot that the book was opened with.
    pub events_since_snapshot: u64,
    /// What opening cut or renamed.
    pub recovery: Recovery,
}

/// Creates a book: its directory and an empty segment, durable on return.
pub(super) fn create(directory: &Path, options: &LogStoreOptions) -> Result<OpenedBook, BookError> {
    disk::create_dir_all(directory)?;
    // An existing directory may come from a call that failed before it synced the name.
    disk::sync_dir(disk::parent_of(directory))?;
    read(directory, "", options)?.finish()
}

/// A book that was read and is sound except for the end of its log. Dropping it leaves the log as it is.
#[derive(Debug)]
pub(super) struct ReadBook {
    pub name: String,
    pub directory: PathBuf,
    listing: Listing,
    state: BookState,
    keys: Keys,
    assets: Vec<AssetDef>,
    /// Events in the log.
    events: Seq,
    /// The first bad frame of the last segment.
    bad: Option<BadFrame>,
    /// The last event in a snapshot or a run: everything up to it was acknowledged once.
    acknowledged: Seq,
    snapshot_seq: Seq,
    keys_were_missing: bool,
}

/// Reads the book in `directory` without changing its log.
///
/// # Errors
/// Damage that cannot be repaired, with file and offset; reading.
pub(super) fn read(directory: &Path, name: &str, options: &LogStoreOptions) -> Result<ReadBook, BookError> {
    let listing = prepare(directory)?;
    // The registry needs all registrations, and a snapshot holds none.
    let snapshots = if name == SYSTEM_BOOK { &[][..] } else { &listing.snapshots[..] };
    let mut start = load_newest(snapshots, 0, directory, options);
    let mut runs = listing.runs.clone();
    let max_seq = max_seq(&listing)?;
    let mut keys_were_missing = false;
    let mut acknowledged = listing.snapshots.first().map_or(0, |(last, _)| *last);
    let (replay, snapshot_seq, bad) = loop {
        let (state, keys, candidate) = match start.take() {
            Some((state, keys, candidate)) => (state, keys, Some(candidate)),
            None => (BookState::new(directory), Keys::new(directory, options.idem_hot_cap), None),
        };
        let snapshot_seq = candidate.map_or(0, |at| snapshots[at].0);
        let mut replay = Replay {
            name,
            listing: &listing,
            state,
            keys,
            covered: Covered::default(),
            assets: Vec::new(),
            events: 0,
        };
        replay.covered = replay.keys.attach_runs(
            &runs,
            snapshot_seq.saturating_add(1),
            max_seq,
            &mut replay.state,
            &mut acknowledged,
        )?;
        if candidate.is_some() && !replay.has_all_keys(snapshot_seq) {
            tracing::warn!(directory = %directory.display(), "keys are missing from runs; replaying the whole log for them");
            keys_were_missing = true;
            continue;
        }
        let bad = replay.run(snapshot_seq)?;
        if let Some(bad) = bad.as_ref().filter(|bad| bad.segment + 1 < listing.segments.len()) {
            let path = listing.segments[bad.segment].1.clone();
            return Err(BookError::Frame { path, offset: bad.offset, reason: bad.reason.clone() });
        }
        if let Some(at) = candidate.filter(|_| replay.events < snapshot_seq) {
            start = load_newest(snapshots, at + 1, directory, options);
            continue;
        }
        if !replay.covered.is_confirmed(replay.events) {
            tracing::warn!(directory = %directory.display(), "runs disagree with the log; they are built again from the log");
            replay.keys.discard_runs()?;
            runs.clear();
            continue;
        }
        break (replay, snapshot_seq, bad);
    };
    let Replay { state, keys, assets, events, .. } = replay;
    Ok(ReadBook {
        name: name.to_owned(),
        directory: directory.to_owned(),
        listing,
        state,
        keys,
        assets,
        events,
        bad,
        acknowledged,
        snapshot_seq,
        keys_were_missing,
    })
}

/// Returns a number that no event of the log exceeds, because a frame is longer than 16 bytes. The names of files can say anything.
fn max_seq(listing: &Listing) -> Result<Seq, BookError> {
    let mut len_bytes = 0_u64;
    for (_, path) in &listing.segments {
        len_bytes = len_bytes.saturating_add(disk::metadata_of_regular_file(path)?.len_bytes);
    }
    Ok((len_bytes / 16) as Seq)
}

impl ReadBook {
    /// Cuts the log at its first bad frame, sets misleading snapshots aside, and opens the book for writing.
    pub(super) fn finish(self) -> Result<OpenedBook, BookError> {
        let Self { listing, mut state, mut keys, events, .. } = self;
        let mut recovery = Recovery::default();
        let last_path = &listing.segments[listing.segments.len() - 1].1;
        if let Some(bad) = &self.bad {
            recovery.truncated.push(repair(last_path, bad, self.acknowledged > events)?);
        }
        for (_, path) in listing.snapshots.iter().filter(|(last, _)| *last > events) {
            recovery.set_aside.push(set_aside(path)?);
        }
        if self.keys_were_missing {
            // A program that starts from the snapshot finds older keys in runs only.
            let through = listing.snapshots.first().map_or(0, |(last, _)| *last);
            let count = keys.hot().take_while(|(_, outcome)| outcome.seq <= through).count();
            spill(&self.name, &mut state, &mut keys, count);
        }
        if keys.is_spill_due() {
            let count = keys.excess();
            spill(&self.name, &mut state, &mut keys, count);
        }
        // The last writer may have been killed before it synced, and a power cut would take the event of a key that was
        // acknowledged. Earlier segments were synced before the next one was created.
        store::sync_inherited([last_path], [&self.directory])?;
        let (active, _) = disk::File::open_append(last_path)?;
        let active_len_bytes = active.len_bytes()?;
        let events_since_snapshot = (events - self.snapshot_seq) as u64;
        let assets = self.assets;
        Ok(OpenedBook { state, keys, assets, active, active_len_bytes, events_since_snapshot, recovery })
    }
}

/// Spills the oldest keys. A failure is logged and costs memory, nothing else.
fn spill(book: &str, state: &mut BookState, keys: &mut Keys, count: usize) {
    let spilled = state.scratch().and_then(|scratch| keys.spill(count, &scratch));
    if let Err(error) = spilled {
        tracing::warn!(book, %error, "keys stay in memory");
    }
}

/// Lists the directory, removes leftovers, renames segments to their canonical names, and creates the first one where there is none.
fn prepare(directory: &Path) -> Result<Listing, BookError> {
    let mut listing = files::list(directory)?;
    for leftover in &listing.leftovers {
        disk::remove_file_if_exists(leftover)?;
    }
    for (base, path) in &mut listing.segments {
        let named = files::segment_path(directory, *base);
        if *path != named {
            // A second file of one number stays, and the scan refuses it as a gap.
            if disk::metadata(&named).is_err_and(|error| error.is_not_found()) {
                disk::rename(path, &named)?;
                disk::sync_dir(directory)?;
                *path = named;
            }
        }
    }
    if listing.segments.is_empty() {
        let path = files::segment_path(directory, 1);
        disk::File::create_new(&path)?;
        disk::sync_dir(directory)?;
        listing.segments.push((1, path));
    }
    Ok(listing)
}

/// Loads the newest snapshot that can be read, beginning with index `from`.
fn load_newest(
    snapshots: &[(Seq, PathBuf)],
    from: usize,
    directory: &Path,
    options: &LogStoreOptions,
) -> Option<(BookState, Keys, usize)> {
    for (at, (last, path)) in snapshots.iter().enumerate().skip(from) {
        match snapshot::load(path, *last, directory, options.idem_hot_cap) {
            Ok((state, keys)) => return Some((state, keys, at)),
            Err(error) => tracing::warn!(%error, "snapshot skipped"),
        }
    }
    None
}

/// Renames a snapshot that is ahead of its log, because it would be believed again once the log is as long.
fn set_aside(snapshot: &Path) -> Result<SetAside, BookError> {
    let renamed = SetAside::rename(snapshot, ".stale")?;
    disk::sync_dir(disk::parent_of(snapshot))?;
    Ok(renamed)
}

struct Replay<'a> {
    name: &'a str,
    listing: &'a Listing,
    state: BookState,
    keys: Keys,
    covered: Covered,
    assets: Vec<AssetDef>,
    /// Events in the log.
    events: Seq,
}

impl Replay<'_> {
    /// Whether runs and memory have a key for each transaction up to the snapshot. Each transaction has a key of its own, and every
    /// other event opened an account.
    fn has_all_keys(&self, snapshot_seq: Seq) -> bool {
        let hot = self.keys.hot().filter(|(_, outcome)| !self.covered.contains(outcome.seq)).count() as u64;
        hot + self.covered.early() == (snapshot_seq as u64).saturating_sub(self.state.account_count() as u64)
    }

    /// Replays the events after the snapshot; returns the first bad frame.
    fn run(&mut self, snapshot_seq: Seq) -> Result<Option<BadFrame>, BookError> {
        let listing = self.listing;
        scan::scan(&listing.segments, snapshot_seq + 1, |found| match found {
            ScannedItem::Segment(index) => {
                self.state.add_segment(listing.segments[index].0);
                Ok(())
            }
            ScannedItem::Event(index, frame) => {
                self.events = frame.seq;
                self.state.add_position(frame.offset);
                if let Some((at, event)) = &frame.event {
                    self.apply(frame.seq, *at, event).map_err(|account| BookError::ReplayOverflow {
                        book: self.name.to_owned(),
                        account,
                        path: listing.segments[index].1.clone(),
                        offset: frame.offset,
                    })?;
                }
                if self.state.is_flush_due() {
                    self.state.tidy();
                }
                if self.keys.hot_len() > self.keys.cap().max(REPLAY_HOT_MIN) || self.keys.is_heavy() {
                    let count = self.keys.hot_len() / 2;
                    spill(self.name, &mut self.state, &mut self.keys, count);
                }
                Ok(())
            }
        })
    }

    fn apply(
        &mut self,
        seq: Seq,
        at: chrono::DateTime<chrono::Utc>,
        event: &Replayed<'_>,
    ) -> Result<(), String> {
        match event {
            Replayed::Asset(asset) => self.assets.push(asset.clone()),
            Replayed::Account(def, cfg) => self.state.add_account(def, cfg),
            Replayed::Posted(posted) => {
                self.state.post(seq, at, posted.txid, posted.postings.iter().map(PostingRef::from))?;
                let outcome = KeyOutcome { txid: posted.txid, seq, at };
                self.keys.replay(&posted.key, outcome, &mut self.covered);
            }
        }
        self.state.advance(seq, at);
        Ok(())
    }
}

impl<'a> From<&'a PostingIn<'_>> for PostingRef<'a> {
    fn from(posting: &'a PostingIn<'_>) -> Self {
        Self {
            book: &posting.account.book,
            path: &posting.account.path,
            asset: &posting.amount.asset,
            minor: posting.amount.minor,
            is_credit: posting.direction == Direction::Credit,
        }
    }
}

/// Cuts the last segment, `path`, at its first bad frame, and first saves bytes that may have been acknowledged.
fn repair(path: &Path, bad: &BadFrame, was_acknowledged: bool) -> Result<Cut, BookError> {
    let is_saved = was_acknowledged || is_worth_saving(path, bad)?;
    let end = if is_saved { disk::metadata_of_regular_file(path)?.len_bytes } else { bad.offset };
    let name = format!("{}.torn", path.file_name().unwrap_or_default().to_string_lossy());
    let copy = (disk::parent_of(path), &*name);
    let cut = Cut::save(path, bad.offset, bad.offset..end, copy, bad.reason.clone())?;
    cut.carry_out()?;
    Ok(cut)
}

/// Whether the bytes after the last good frame can be more than a write that was never acknowledged: they have a whole
/// frame, or begin with one in full length that is not zeros.
fn is_worth_saving(path: &Path, bad: &BadFrame) -> Result<bool, BookError> {
    let source = Source::open(path, Io::Mmap)?;
    let mut buffer = Vec::new();
    let tail = source.bytes(bad.offset..source.len_bytes(), &mut buffer)?;
    let has_whole_frame = FrameFinder::new(tail).next_whole(0).is_some();
    source.check_len()?;
    Ok(has_whole_frame || (!bad.is_torn && tail.iter().any(|byte| *byte != 0)))
}
