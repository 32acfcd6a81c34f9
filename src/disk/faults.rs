//! Faults and power cuts for tests: fails the Nth file operation, or records all operations and writes the directory as a
//! power cut could have left it.
//!
//! A [`Harness`] works on the threads that entered it with [`Harness::run`] and on no other thread, so that tests stay
//! parallel. Code that starts threads passes [`current`] to the threads. The harness sees only operations that pass through
//! `disk`. Writes to mapped memory and writes of SQLite are not seen, except writes that pass through
//! [`write_elsewhere`](super::write_elsewhere).
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
#![allow(clippy::expect_used)]

pub(crate) use self::power_cut::Survival;
use self::power_cut::{Event, Model, NodeId, ROOT};
use super::{Operation, OperationTarget};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, fs};

/// How many random outcomes [`Harness::each_image`] writes for every point of time, besides the four pure outcomes.
const TORN_IMAGES: u64 = 6;

mod power_cut;

thread_local! {
    static CURRENT: RefCell<Option<Harness>> = const { RefCell::new(None) };
}

/// How a chosen operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO, once; for any operation.
    Io,
    /// ENOSPC, from then on, as on a full disk; for operations that need space.
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

/// Pauses the chosen operation until the test decides.
struct Gate {
    reached: Sender<()>,
    decision: Receiver<bool>,
}

/// Counts operations, fails one operation, or records operations. Clones share the same counts.
#[derive(Clone)]
pub struct Harness(Arc<Mutex<State>>);

struct State {
    fault: Fault,
    gate: Option<Gate>,
    /// The number of the operation to fail, counted from 0; `None` in a clean run.
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
        Self(Arc::new(Mutex::new(State { fault, gate: None, fail_at, operations: 0, recording })))
    }

    /// Makes a harness as [`Harness::failing`] does, but the chosen operation first sends a message to the returned
    /// receiver, and then waits for the returned sender, whose message says whether to fail.
    pub fn held(fault: Fault, fail_at: u64) -> (Self, Receiver<()>, Sender<bool>) {
        let harness = Self::new(fault, Some(fail_at), None);
        let ((reached, is_reached), (decide, decision)) = (channel(), channel());
        harness.state().gate = Some(Gate { reached, decision });
        (harness, is_reached, decide)
    }

    /// Fails no operation; counts the operations that `fault` could hit.
    pub fn counting(fault: Fault) -> Self {
        Self::new(fault, None, None)
    }

    /// Fails operation number `fail_at`, counted from 0, of the operations that `fault` can hit.
    pub fn failing(fault: Fault, fail_at: u64) -> Self {
        Self::new(fault, Some(fail_at), None)
    }

    /// Records all changes under `root`. The present content of `root` counts as durable.
    pub fn recording(root: &Path) -> Self {
        Self::new(Fault::Io, None, Some(Recording::start(root)))
    }

    /// Records as [`Harness::recording`] does, and fails operation number `fail_at` of those that [`Fault::Io`] can hit.
    pub fn recording_failure(root: &Path, fail_at: u64) -> Self {
        Self::new(Fault::Io, Some(fail_at), Some(Recording::start(root)))
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

    /// The number of events recorded so far, as the time stamp of an acknowledgement.
    pub fn events(&self) -> usize {
        self.state().recording.as_ref().map_or(0, |recording| recording.events.len())
    }

    /// Writes one directory tree to `into` as a power cut after the first `events` events could have left it.
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

    /// Calls `check` for every point of time and for every outcome of a power cut that [`Survival`] has.
    pub fn each_image(&self, mut check: impl FnMut(&Image)) {
        let pure = [Survival::Nothing, Survival::Names, Survival::Content, Survival::Everything];
        for after_events in 0..=self.events() {
            let torn = (0..TORN_IMAGES).map(|seed| Survival::Torn { seed: after_events as u64 * 101 + seed });
            for survival in pure.into_iter().chain(torn) {
                let directory = directory_in_memory();
                self.lay_out(after_events, survival, directory.path());
                check(&Image { directory, after_events, survival });
            }
        }
    }
}

/// A directory in memory, where the system has one: a file system on a disk takes most of the time of thousands of small
/// directories, and changes nothing of what an image holds.
fn directory_in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary directory")
}

/// Returns the harness of this thread, to pass to a new thread.
pub fn current() -> Option<Harness> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs `scenario` once without a failure for each [`Fault`], then once for every operation of that run, with that
/// operation failing. The scenario starts from nothing each time, calls [`Harness::run`] around the part that may fail, and asserts.
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

/// A directory as a power cut could have left it. Prints as the point of time and the survival.
#[derive(Debug)]
pub struct Image {
    directory: tempfile::TempDir,
    after_events: usize,
    survival: Survival,
}

impl Image {
    /// The directory of the image, in place of the recorded root.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// How many events had happened: data acknowledged at or before this count must be in the image.
    pub fn after_events(&self) -> usize {
        self.after_events
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "power cut after {} events, surviving: {:?}", self.after_events, self.survival)
    }
}

/// Called by `perform` around every operation.
pub(super) fn intercept<T>(
    operation: &Operation,
    target: &OperationTarget<'_>,
    run: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(harness) = current() else { return run() };
    // The mutex is held during the operation, so that the recorded order is the true order.
    let mut state = harness.state();
    if state.fault.concerns(operation) {
        let number = state.operations;
        state.operations += 1;
        let fault = state.fault;
        match state.fail_at {
            Some(fail_at) if number == fail_at => {
                if let Some(Gate { reached, decision }) = state.gate.take() {
                    reached.send(()).expect("the test waits for the operation");
                    if !decision.recv().expect("the test decides about the operation") {
                        return run();
                    }
                }
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

fn write_half(operation: &Operation, target: &OperationTarget<'_>) -> io::Result<()> {
    let half = &target.bytes[..target.bytes.len() / 2];
    if let Some(write) = target.elsewhere {
        return write(half);
    }
    let mut file = target.file.expect("a write has a file");
    match operation {
        Operation::Write { offset: Some(offset), .. } => super::write_all_at(file, half, *offset),
        _ => file.write_all(half),
    }
}

struct Recording {
    root: PathBuf,
    base: Model,
    events: Vec<Event>,
    /// The model node of each inode number, for handles; a new file may get the inode number of a deleted file.
    nodes: HashMap<u64, NodeId>,
    next_node: NodeId,
}

impl Recording {
    fn start(root: &Path) -> Self {
        let mut recording = Self {
            root: root.to_owned(),
            base: Model::empty(),
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
            self.base.take_in(parent, entry.file_name(), node, is_directory, content);
            if is_directory {
                self.take_in(&entry.path(), node);
            }
        }
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

    fn node(&self, target: &OperationTarget<'_>) -> Option<NodeId> {
        self.relative(target.path)?;
        let inode = inode(&target.file.expect("an open file").metadata().expect("metadata of an open file"));
        let known = self.nodes.get(&inode);
        Some(*known.unwrap_or_else(|| panic!("{} was not created through disk", target.path.display())))
    }

    /// Returns the event that an operation is about to cause. Creations get their event afterwards, when the inode exists.
    fn event_before(&self, operation: &Operation, target: &OperationTarget<'_>) -> Option<Event> {
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

    fn note(&mut self, event: Option<Event>, operation: &Operation, target: &OperationTarget<'_>) {
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

/// Returns the offset of a write without an offset: the end of the file for append handles, else the handle's position.
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
