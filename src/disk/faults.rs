//! Faults and power cuts for tests: fail the Nth file operation, or record them all and lay out the directory as a
//! power cut could have left it.
//!
//! A [`Harness`] works on the threads that entered it with [`Harness::run`] and on no other, so tests stay parallel;
//! code that starts threads hands them [`current`]. Only what passes through `disk` is seen: mapped memory and SQLite
//! are not.
//!
//! ```ignore
//! faults::each_failure(|harness| {
//!     let directory = tempfile::tempdir().unwrap();
//!     let outcome = harness.run(|| append_and_acknowledge(directory.path()));
//!     // outside `run` nothing fails: reopen, and see that nothing acknowledged is lost
//! });
//!
//! let harness = Harness::recording(directory.path());
//! harness.run(|| { append(b"a"); acknowledged.push((harness.events(), b"a")); });
//! harness.each_image(|image| { /* recover image.path(); image.after_events() says what must be there */ });
//! ```

use super::{Operation, Target};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, fs};

/// Power cuts tear writes between multiples of this many bytes.
const SECTOR_BYTES: u64 = 512;

/// How many random outcomes [`Harness::each_image`] lays out for every point of time, besides the four pure ones.
const TORN_IMAGES: u64 = 6;

thread_local! {
    static CURRENT: RefCell<Option<Harness>> = const { RefCell::new(None) };
}

/// How a chosen operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO, once; any operation.
    Io,
    /// ENOSPC, from then on, as a full disk does: operations that take space.
    NoSpace,
    /// Half the bytes of a write land, then ENOSPC, from then on.
    PartialWrite,
}

impl Fault {
    fn concerns(self, operation: &Operation) -> bool {
        match self {
            Self::Io => true,
            Self::NoSpace => matches!(
                operation,
                Operation::Create
                    | Operation::CreateDirectory
                    | Operation::Write { .. }
                    | Operation::Rename { .. }
                    | Operation::Sync
            ),
            Self::PartialWrite => matches!(operation, Operation::Write { .. }),
        }
    }

    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => libc::EIO,
            Self::NoSpace | Self::PartialWrite => libc::ENOSPC,
        })
    }
}

/// Counts operations, fails one, or records them; clones share the same counts.
#[derive(Clone)]
pub struct Harness(Arc<Mutex<State>>);

struct State {
    fault: Fault,
    /// The operation to fail, counted from 0; none in a clean run.
    fail_at: Option<u64>,
    operations: u64,
    recording: Option<Recording>,
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(f, "{:?} at operation {:?} of {}", state.fault, state.fail_at, state.operations)
    }
}

impl Harness {
    fn new(fault: Fault, fail_at: Option<u64>, recording: Option<Recording>) -> Self {
        Self(Arc::new(Mutex::new(State { fault, fail_at, operations: 0, recording })))
    }

    /// Fails nothing; counts the operations that `fault` could hit.
    pub fn counting(fault: Fault) -> Self {
        Self::new(fault, None, None)
    }

    /// Fails operation number `fail_at`, from 0, of those that `fault` can hit.
    pub fn failing(fault: Fault, fail_at: u64) -> Self {
        Self::new(fault, Some(fail_at), None)
    }

    /// Records everything that happens under `root`, whose present content counts as durable.
    pub fn recording(root: &Path) -> Self {
        Self::new(Fault::Io, None, Some(Recording::start(root)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `scenario` with this harness on this thread.
    pub fn run<T>(&self, scenario: impl FnOnce() -> T) -> T {
        struct Restore(Option<Harness>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        scenario()
    }

    /// How many operations the fault could have hit so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Whether the chosen operation was reached.
    pub fn has_failed(&self) -> bool {
        let state = self.state();
        state.fail_at.is_some_and(|fail_at| state.operations > fail_at)
    }

    /// How many events are recorded so far: the time stamp of an acknowledgement.
    pub fn events(&self) -> usize {
        self.state().recording.as_ref().map_or(0, |recording| recording.events.len())
    }

    /// Lays out one directory tree in `into` as a power cut after the first `events` events could have left it.
    pub fn lay_out(&self, events: usize, survival: Survival, into: &Path) {
        let state = self.state();
        let recording = state.recording.as_ref().expect("only a recording harness can lay out images");
        let mut model = recording.base.clone();
        for event in &recording.events[..events] {
            model.apply(event);
        }
        model.cut_power(survival);
        model.write_out(ROOT, into);
    }

    /// Calls `check` for every point of time and for every way the power cut could have gone that [`Survival`] knows.
    pub fn each_image(&self, mut check: impl FnMut(&Image)) {
        let pure = [Survival::Nothing, Survival::Names, Survival::Content, Survival::Everything];
        for after_events in 0..=self.events() {
            let torn = (0..TORN_IMAGES).map(|seed| Survival::Torn { seed: after_events as u64 * 101 + seed });
            for survival in pure.into_iter().chain(torn) {
                let directory = tempfile::tempdir().expect("a temporary directory");
                self.lay_out(after_events, survival, directory.path());
                check(&Image { directory, after_events, survival });
            }
        }
    }
}

/// The harness of this thread, for handing to a thread it starts.
pub fn current() -> Option<Harness> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs `scenario` once cleanly for each [`Fault`], then once for every operation of that run with that one failing.
/// The scenario starts from nothing each time, calls [`Harness::run`] around the part that may fail, and asserts.
pub fn each_failure(mut scenario: impl FnMut(&Harness)) {
    for fault in [Fault::Io, Fault::NoSpace, Fault::PartialWrite] {
        let clean = Harness::counting(fault);
        scenario(&clean);
        assert!(clean.operations() > 0, "the scenario has no operation that {fault:?} could hit");
        for fail_at in 0..clean.operations() {
            let harness = Harness::failing(fault, fail_at);
            scenario(&harness);
            assert!(
                harness.has_failed(),
                "operation {fail_at} was not reached: the scenario is not repeatable"
            );
        }
    }
}

/// A directory as a power cut could have left it. Prints as the point of time and what survived.
#[derive(Debug)]
pub struct Image {
    directory: tempfile::TempDir,
    after_events: usize,
    survival: Survival,
}

impl Image {
    /// Where it lies, in place of the recorded root.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// How many events had happened: what was acknowledged at or before this count must be there.
    pub fn after_events(&self) -> usize {
        self.after_events
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "power cut after {} events, surviving: {:?}", self.after_events, self.survival)
    }
}

/// What of the unsynced changes reached the disk before the power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// None of it.
    Nothing,
    /// Names (created, renamed, deleted), no file content: what a rename before its sync risks.
    Names,
    /// File content, no names.
    Content,
    /// All of it, as after SIGKILL.
    Everything,
    /// Some of it, by seed: a prefix of the names; of each file either a prefix of its changes, torn at a sector, or
    /// any of the sectors, with zeros where a lost one stood before a surviving one.
    Torn {
        /// Chooses what survives.
        seed: u64,
    },
}

/// Called by `perform` around every operation.
pub(super) fn intercept<T>(
    operation: &Operation,
    target: &Target<'_>,
    run: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(harness) = current() else { return run() };
    // Held over the operation itself, so that the recorded order is the true one.
    let mut state = harness.state();
    if state.fault.concerns(operation) {
        let number = state.operations;
        state.operations += 1;
        let fault = state.fault;
        match state.fail_at {
            Some(fail_at) if number == fail_at => {
                if fault == Fault::PartialWrite {
                    write_half(operation, target)?;
                }
                return Err(fault.error());
            }
            Some(fail_at) if number > fail_at && fault != Fault::Io => return Err(fault.error()),
            _ => {}
        }
    }
    let Some(recording) = &mut state.recording else { return run() };
    let event = recording.event_before(operation, target);
    let outcome = run()?;
    recording.note(event, operation, target);
    Ok(outcome)
}

fn write_half(operation: &Operation, target: &Target<'_>) -> io::Result<()> {
    let mut file = target.file.expect("a write has a file");
    let half = &target.bytes[..target.bytes.len() / 2];
    match operation {
        Operation::Write { offset: Some(offset), .. } => super::write_all_at(file, half, *offset),
        _ => file.write_all(half),
    }
}

/// A file or directory of the model; never reused, unlike an inode number.
type NodeId = usize;

const ROOT: NodeId = 0;

struct Recording {
    root: PathBuf,
    base: Model,
    events: Vec<Event>,
    /// Inode number to model node, for handles; a new file takes over the number of a deleted one.
    nodes: HashMap<u64, NodeId>,
    next_node: NodeId,
}

#[derive(Debug, Clone)]
enum Event {
    CreateFile { path: PathBuf, node: NodeId },
    CreateDirectory { path: PathBuf, node: NodeId },
    Write { node: NodeId, offset: u64, bytes: Vec<u8> },
    SetLength { node: NodeId, len_bytes: u64 },
    Sync { node: NodeId },
    SyncDirectory { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

impl Recording {
    fn start(root: &Path) -> Self {
        let mut recording = Self {
            root: root.to_owned(),
            base: Model { nodes: BTreeMap::from([(ROOT, Node::default())]), pending_names: Vec::new() },
            events: Vec::new(),
            nodes: HashMap::new(),
            next_node: ROOT + 1,
        };
        recording.take_in(root, ROOT);
        recording
    }

    fn take_in(&mut self, directory: &Path, parent: NodeId) {
        for entry in fs::read_dir(directory).expect("the recorded directory can be read") {
            let entry = entry.expect("the recorded directory can be read");
            let is_directory = entry.file_type().expect("a file type").is_dir();
            let node = self.new_node(&entry.path());
            let content =
                if is_directory { Vec::new() } else { fs::read(entry.path()).expect("a readable file") };
            self.base.nodes.insert(
                node,
                Node { is_directory, live: content.clone(), durable: content, ..Node::default() },
            );
            self.base.link(parent, entry.file_name(), Some(node));
            if is_directory {
                self.take_in(&entry.path(), node);
            }
        }
        self.base.pending_names.clear();
        let children = self.base.nodes[&parent].live_names.clone();
        self.base.nodes.entry(parent).and_modify(|node| node.durable_names = children);
    }

    fn new_node(&mut self, path: &Path) -> NodeId {
        let node = self.next_node;
        self.next_node += 1;
        self.nodes.insert(inode(&fs::symlink_metadata(path).expect("a file just created")), node);
        node
    }

    fn relative(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    fn node(&self, target: &Target<'_>) -> Option<NodeId> {
        self.relative(target.path)?;
        let inode = inode(&target.file.expect("an open file").metadata().expect("metadata of an open file"));
        let known = self.nodes.get(&inode);
        Some(*known.unwrap_or_else(|| panic!("{} was not created through disk", target.path.display())))
    }

    /// The event an operation is about to cause; creations get theirs afterwards, when there is an inode.
    fn event_before(&self, operation: &Operation, target: &Target<'_>) -> Option<Event> {
        let path = self.relative(target.path);
        match operation {
            Operation::Write { offset, .. } => {
                let node = self.node(target)?;
                let file = target.file.expect("a write has a file");
                let offset = offset.unwrap_or_else(|| append_offset(file));
                Some(Event::Write { node, offset, bytes: target.bytes.to_vec() })
            }
            Operation::SetLength { len_bytes } => {
                Some(Event::SetLength { node: self.node(target)?, len_bytes: *len_bytes })
            }
            Operation::Sync => Some(Event::Sync { node: self.node(target)? }),
            Operation::SyncDirectory => Some(Event::SyncDirectory { path: path? }),
            Operation::Rename { to } => Some(Event::Rename {
                from: path?,
                to: self.relative(to).expect("renamed within the recorded directory"),
            }),
            Operation::Remove => Some(Event::Remove { path: path? }),
            _ => None,
        }
    }

    fn note(&mut self, event: Option<Event>, operation: &Operation, target: &Target<'_>) {
        let event = match (operation, self.relative(target.path)) {
            (Operation::Create, Some(path)) => {
                Some(Event::CreateFile { path, node: self.new_node(target.path) })
            }
            (Operation::CreateDirectory, Some(path)) => {
                Some(Event::CreateDirectory { path, node: self.new_node(target.path) })
            }
            _ => event,
        };
        self.events.extend(event);
    }
}

fn inode(metadata: &fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

/// Where a write without an offset lands: at the end for append handles, else at the handle's position.
fn append_offset(mut file: &fs::File) -> u64 {
    use std::os::fd::AsRawFd;
    // SAFETY: F_GETFL on a descriptor that `file` keeps open takes and gives plain integers.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags & libc::O_APPEND != 0 {
        file.metadata().expect("metadata of an open file").len()
    } else {
        io::Seek::stream_position(&mut file).expect("the position of an open file")
    }
}

/// The file system as programs see it (live), as it would be after losing everything unsynced (durable), and the
/// changes in between, in order.
#[derive(Clone)]
struct Model {
    nodes: BTreeMap<NodeId, Node>,
    pending_names: Vec<NameChange>,
}

#[derive(Clone, Default)]
struct Node {
    is_directory: bool,
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<ContentChange>,
    live_names: BTreeMap<OsString, NodeId>,
    durable_names: BTreeMap<OsString, NodeId>,
}

#[derive(Clone)]
enum ContentChange {
    Write { offset: u64, bytes: Vec<u8> },
    SetLength { len_bytes: u64 },
}

/// Entries set or deleted together: a rename is one change of two entries.
#[derive(Clone)]
struct NameChange(Vec<(NodeId, OsString, Option<NodeId>)>);

impl Model {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::CreateFile { path, node } | Event::CreateDirectory { path, node } => {
                let is_directory = matches!(event, Event::CreateDirectory { .. });
                self.nodes.insert(*node, Node { is_directory, ..Node::default() });
                let (parent, name) = self.entry(path);
                self.link(parent, name, Some(*node));
            }
            Event::Write { node, offset, bytes } => {
                self.change(*node, ContentChange::Write { offset: *offset, bytes: bytes.clone() });
            }
            Event::SetLength { node, len_bytes } => {
                self.change(*node, ContentChange::SetLength { len_bytes: *len_bytes });
            }
            Event::Sync { node } => {
                let node = self.node_mut(*node);
                node.pending.clear();
                node.durable.clone_from(&node.live);
            }
            Event::SyncDirectory { path } => {
                let directory = self.resolve(path);
                let (synced, rest) = std::mem::take(&mut self.pending_names)
                    .into_iter()
                    .partition(|change| change.0.iter().any(|(parent, ..)| *parent == directory));
                self.pending_names = rest;
                self.make_durable(synced);
            }
            Event::Rename { from, to } => {
                let node = self.resolve(from);
                let (from_parent, from_name) = self.entry(from);
                let (to_parent, to_name) = self.entry(to);
                self.change_names(NameChange(vec![
                    (from_parent, from_name, None),
                    (to_parent, to_name, Some(node)),
                ]));
            }
            Event::Remove { path } => {
                let (parent, name) = self.entry(path);
                self.link(parent, name, None);
            }
        }
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        self.nodes.get_mut(&node).expect("a node the recording created")
    }

    fn resolve(&self, path: &Path) -> NodeId {
        path.components().filter(|part| !matches!(part, Component::CurDir)).fold(ROOT, |node, part| {
            let names = &self.nodes[&node].live_names;
            *names.get(part.as_os_str()).unwrap_or_else(|| panic!("{} was never recorded", path.display()))
        })
    }

    fn entry(&self, path: &Path) -> (NodeId, OsString) {
        let name = path.file_name().expect("a named file").to_owned();
        (self.resolve(path.parent().unwrap_or(Path::new(""))), name)
    }

    fn link(&mut self, parent: NodeId, name: OsString, node: Option<NodeId>) {
        self.change_names(NameChange(vec![(parent, name, node)]));
    }

    fn change_names(&mut self, change: NameChange) {
        for (parent, name, node) in &change.0 {
            set_name(&mut self.node_mut(*parent).live_names, name, *node);
        }
        self.pending_names.push(change);
    }

    fn make_durable(&mut self, changes: Vec<NameChange>) {
        for (parent, name, node) in changes.into_iter().flat_map(|change| change.0) {
            set_name(&mut self.node_mut(parent).durable_names, &name, node);
        }
    }

    fn change(&mut self, node: NodeId, change: ContentChange) {
        let node = self.node_mut(node);
        apply_change(&mut node.live, &change);
        node.pending.push(change);
    }

    /// Turns the durable state into what the power cut left.
    fn cut_power(&mut self, survival: Survival) {
        let mut random = Random(match survival {
            Survival::Torn { seed } => seed,
            _ => 0,
        });
        let names = std::mem::take(&mut self.pending_names);
        let surviving_names = match survival {
            Survival::Nothing | Survival::Content => 0,
            Survival::Names | Survival::Everything => names.len(),
            Survival::Torn { .. } => random.below(names.len() as u64 + 1) as usize,
        };
        self.make_durable(names.into_iter().take(surviving_names).collect());
        for node in self.nodes.values_mut() {
            match survival {
                Survival::Nothing | Survival::Names => {}
                Survival::Content | Survival::Everything => node.durable.clone_from(&node.live),
                Survival::Torn { .. } if random.below(2) == 0 => node.keep_prefix(&mut random),
                Survival::Torn { .. } => node.keep_sectors(&mut random),
            }
        }
    }

    fn write_out(&self, node: NodeId, into: &Path) {
        for (name, child) in &self.nodes[&node].durable_names {
            let (path, child_node) = (into.join(name), &self.nodes[child]);
            if child_node.is_directory {
                fs::create_dir(&path).expect("an image directory");
                self.write_out(*child, &path);
            } else {
                fs::write(&path, &child_node.durable).expect("an image file");
            }
        }
    }
}

impl Node {
    fn keep_prefix(&mut self, random: &mut Random) {
        let surviving = random.below(self.pending.len() as u64 + 1) as usize;
        for change in &self.pending[..surviving] {
            apply_change(&mut self.durable, change);
        }
        if let Some(ContentChange::Write { offset, bytes }) = self.pending.get(surviving) {
            let sectors: Vec<_> = sectors(*offset, bytes).collect();
            for (offset, bytes) in &sectors[..random.below(sectors.len() as u64 + 1) as usize] {
                apply_change(
                    &mut self.durable,
                    &ContentChange::Write { offset: *offset, bytes: bytes.to_vec() },
                );
            }
        }
    }

    fn keep_sectors(&mut self, random: &mut Random) {
        for change in &self.pending {
            match change {
                ContentChange::SetLength { .. } => {
                    if random.below(2) == 0 {
                        apply_change(&mut self.durable, change);
                    }
                }
                ContentChange::Write { offset, bytes } => {
                    for (offset, bytes) in sectors(*offset, bytes) {
                        if random.below(2) == 0 {
                            let bytes = bytes.to_vec();
                            apply_change(&mut self.durable, &ContentChange::Write { offset, bytes });
                        }
                    }
                }
            }
        }
    }
}

fn set_name(names: &mut BTreeMap<OsString, NodeId>, name: &OsString, node: Option<NodeId>) {
    match node {
        Some(node) => drop(names.insert(name.clone(), node)),
        None => drop(names.remove(name)),
    }
}

fn apply_change(content: &mut Vec<u8>, change: &ContentChange) {
    match change {
        ContentChange::SetLength { len_bytes } => content.resize(*len_bytes as usize, 0),
        ContentChange::Write { offset, bytes } => {
            let (start, end) = (*offset as usize, *offset as usize + bytes.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(bytes);
        }
    }
}

/// The parts of a write that lie in different sectors, with their offsets.
fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = offset + at as u64;
        let end = (at + (SECTOR_BYTES - start % SECTOR_BYTES) as usize).min(bytes.len());
        let part = &bytes[at..end];
        at = end;
        (!part.is_empty()).then_some((start, part))
    })
}

/// SplitMix64: a test's choices follow from its seed alone.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}
