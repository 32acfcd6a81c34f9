//! Watches the folders of agents' logs, so that a run follows a change at once.
//!
//! Touches nothing; it asks the operating system to report changes. Guarantees: [`LogWatch::catch_up`] watches a folder
//! before a run lists the folder, so a change is either seen by this run or reported after it. Nothing depends on an
//! event, because events can be lost: the caller also runs from time to time, and polls when [`LogWatch::fault`] says
//! that events cannot be relied on.
//!
//! On Linux each folder is watched by itself, because the files of a new folder may be older than a watch that is added
//! for them. Elsewhere the system watches whole trees, and a root that is missing is found by the next run.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{CreateKind, ModifyKind, RemoveKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::readers::{LogFolder, log_folders};
use super::run::Ingest;
use super::{AgentsError, settings, walk};
use crate::disk;

/// A burst of changes is over when nothing has changed for this long.
const QUIET: Duration = Duration::from_millis(40);
/// The longest wait for the end of a burst.
const BURST: Duration = Duration::from_millis(400);

/// Whether each folder needs its own watch.
const WATCHES_EACH_FOLDER: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// The changes that were reported since the last run.
#[derive(Debug, Default)]
struct SeenChanges {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Whether a folder is gone or has moved, so that watches may be gone, too.
    has_lost_folders: bool,
    /// Whether a folder may be new, so that folders have to be listed.
    has_new_folders: bool,
    /// Why events cannot be relied on any more.
    fault: Option<String>,
}

type SharedChanges = Arc<(Mutex<SeenChanges>, Condvar)>;

fn locked(shared: &SharedChanges) -> MutexGuard<'_, SeenChanges> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reports changes of agents' logs.
#[derive(Debug)]
pub(crate) struct LogWatch {
    folders: Arc<[LogFolder]>,
    /// None while events cannot be relied on.
    watcher: Option<RecommendedWatcher>,
    watched: HashSet<PathBuf>,
    changes: SharedChanges,
}

impl LogWatch {
    /// Prepares to watch the roots of a reader. Watches nothing yet.
    ///
    /// # Errors
    /// When the user's folder is not known.
    pub(crate) fn of(ingest: &Ingest) -> Result<Self, AgentsError> {
        let user = settings::user_folder()?;
        let mut folders: Vec<LogFolder> = Vec::new();
        for agent in ingest.agents() {
            for root in ingest.roots_of(agent, &user) {
                // Events have absolute paths.
                let root = std::path::absolute(&root).unwrap_or(root);
                folders.extend(log_folders(agent, &root, ingest.as_reference()));
            }
        }
        let mut watch = LogWatch {
            folders: folders.into(),
            watcher: None,
            watched: HashSet::new(),
            changes: SharedChanges::default(),
        };
        let handler =
            ChangeHandler { folders: Arc::clone(&watch.folders), changes: Arc::clone(&watch.changes) };
        match notify::recommended_watcher(handler) {
            Ok(watcher) => watch.watcher = Some(watcher),
            Err(error) => watch.fail(error.to_string()),
        }
        Ok(watch)
    }

    /// Why events cannot be relied on; none if they can.
    pub(crate) fn fault(&self) -> Option<String> {
        locked(&self.changes).fault.clone()
    }

    /// Gives events up for this reason, and closes the watches.
    fn fail(&mut self, reason: String) {
        self.watcher = None;
        self.watched.clear();
        locked(&self.changes).fault.get_or_insert(reason);
    }

    /// Watches the folders that exist now, and forgets the changes so far. A run follows.
    pub(crate) fn catch_up(&mut self) {
        let changes = {
            let mut changes = locked(&self.changes);
            let fault = changes.fault.clone();
            std::mem::replace(&mut *changes, SeenChanges { fault, ..SeenChanges::default() })
        };
        let lists_folders = self.watched.is_empty() || changes.has_lost_folders || changes.has_new_folders;
        if changes.has_lost_folders {
            // Watching a watched folder again changes nothing.
            self.watched.clear();
        }
        if let Some(fault) = changes.fault {
            self.fail(fault);
        }
        if !lists_folders {
            return;
        }
        for folder in Arc::clone(&self.folders).iter() {
            if let Err(reason) = self.watch_folder(folder) {
                self.fail(reason);
            }
        }
    }

    /// Makes [`LogWatch::catch_up`] watch all folders again, in case a loss was not reported.
    pub(crate) fn distrust(&self) {
        let mut changes = locked(&self.changes);
        changes.has_lost_folders |= WATCHES_EACH_FOLDER;
        changes.has_new_folders = true;
    }

    /// Returns whether a change was reported since the last [`LogWatch::catch_up`].
    pub(crate) fn has_changes(&self) -> bool {
        locked(&self.changes).first.is_some()
    }

    /// Waits for the end of a burst of changes, at most for `wait`. Returns whether there is one. A burst does not end before
    /// `not_before`.
    pub(crate) fn wait(&self, wait: Duration, not_before: Instant) -> bool {
        let until = Instant::now() + wait;
        let mut changes = locked(&self.changes);
        loop {
            let now = Instant::now();
            let ends = changes
                .first
                .zip(changes.last)
                .map(|(first, last)| (last + QUIET).min(first + BURST).max(not_before));
            if ends.is_some_and(|ends| ends <= now) {
                return true;
            }
            if until <= now {
                return false;
            }
            let next = ends.map_or(until, |ends| ends.min(until));
            let waited = self.changes.1.wait_timeout(changes, next - now);
            changes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn watch_folder(&mut self, folder: &LogFolder) -> Result<(), String> {
        if self.watcher.is_none() {
            return Ok(());
        }
        if !WATCHES_EACH_FOLDER {
            let is_deep = folder.levels > 0;
            let mode = if is_deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
            return if folder.path.is_dir() { self.watch(&folder.path, mode) } else { Ok(()) };
        }
        // The folder above is watched first, so that the creation of a missing folder is reported. It is looked at again,
        // because the folder may have been created in the meantime.
        let mut above = folder.path.parent();
        while let Some(path) = above.filter(|path| !path.is_dir()) {
            above = path.parent();
        }
        let mut at = above.map(Path::to_owned);
        while let Some(path) = at.take() {
            self.watch(&path, RecursiveMode::NonRecursive)?;
            let next = folder.path.strip_prefix(&path).ok().and_then(|rest| rest.components().next());
            at = next.map(|name| path.join(name)).filter(|path| path.is_dir());
        }
        self.watch_below(folder)
    }

    /// Watches the folders below a folder, each before it is listed.
    fn watch_below(&mut self, folder: &LogFolder) -> Result<(), String> {
        let mut seen: HashSet<disk::Identity> = HashSet::new();
        let mut level = if folder.path.is_dir() { vec![folder.path.clone()] } else { Vec::new() };
        let mut depth = 0;
        while !level.is_empty() {
            let mut below = Vec::new();
            for path in level {
                // A link may lead back to a folder above.
                let Ok(found) = disk::metadata_of_target(&path) else { continue };
                if !seen.insert(found.identity) {
                    continue;
                }
                self.watch(&path, RecursiveMode::NonRecursive)?;
                // Sub-agents of Claude Code may have sub-agents to any depth.
                if depth < folder.levels || path.iter().any(|name| name == "subagents") {
                    below.extend(walk::folders(&path, false, &mut Vec::new()));
                }
            }
            level = below;
            depth += 1;
        }
        Ok(())
    }

    fn watch(&mut self, path: &Path, mode: RecursiveMode) -> Result<(), String> {
        let Some(watcher) = self.watcher.as_mut().filter(|_| !self.watched.contains(path)) else {
            return Ok(());
        };
        if !reports_changes(path) {
            return Err(format!("the file system of {} does not report every change", path.display()));
        }
        match watcher.watch(path, mode) {
            Ok(()) => {
                self.watched.insert(path.to_owned());
                Ok(())
            }
            // The folder has gone in the meantime.
            Err(_) if !path.exists() => Ok(()),
            Err(error) => Err(format!("{} cannot be watched: {}", path.display(), reason_of(&error))),
        }
    }
}

fn reason_of(error: &notify::Error) -> String {
    match &error.kind {
        notify::ErrorKind::MaxFilesWatch => {
            "the system's limit of watches is reached (fs.inotify.max_user_watches)".to_owned()
        }
        notify::ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// Receives the events, in a thread of the watcher.
struct ChangeHandler {
    folders: Arc<[LogFolder]>,
    changes: SharedChanges,
}

impl notify::EventHandler for ChangeHandler {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        let now = Instant::now();
        let mut changes = locked(&self.changes);
        match event {
            Err(error) => {
                changes.fault.get_or_insert(format!("watching fails: {}", reason_of(&error)));
            }
            Ok(event) if event.need_rescan() => changes.has_lost_folders = true,
            Ok(event) if self.concerns_logs(&event) => {
                changes.has_lost_folders |= WATCHES_EACH_FOLDER && moves_folder(&event);
                changes.has_new_folders |=
                    matches!(event.kind, EventKind::Create(kind) if kind != CreateKind::File);
            }
            Ok(_) => return,
        }
        changes.first.get_or_insert(now);
        changes.last = Some(now);
        drop(changes);
        self.changes.1.notify_all();
    }
}

impl ChangeHandler {
    /// Whether a change may concern a log. Reading a log is no change.
    fn concerns_logs(&self, event: &Event) -> bool {
        if matches!(event.kind, EventKind::Access(_)) {
            return false;
        }
        if !WATCHES_EACH_FOLDER || event.paths.is_empty() {
            return true;
        }
        event.paths.iter().any(|path| {
            let concerns = |folder: &LogFolder| {
                folder.path.starts_with(path) || path.starts_with(&folder.path) && may_be_log(path)
            };
            self.folders.iter().any(concerns)
        })
    }
}

/// Whether a folder may be gone or have another name.
fn moves_folder(event: &Event) -> bool {
    match event.kind {
        EventKind::Remove(kind) => kind != RemoveKind::File,
        EventKind::Modify(ModifyKind::Name(_)) => !event.paths.iter().all(|path| is_named_as_log(path)),
        _ => false,
    }
}

fn is_named_as_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    [&b".jsonl"[..], b".jsonl.zst", b".json", b".db", b".db-wal"].iter().any(|end| name.ends_with(end))
}

/// Whether a path may be a log or a folder. A folder may be gone, so its name has to tell.
fn may_be_log(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    is_named_as_log(path) || !name.contains(&b'.') || path.is_dir()
}

/// Whether the file system of a folder reports every change of its files, so that one need not poll it. File systems of
/// other machines report only changes of this machine, and the kernel's own ones none.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reports_changes(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(name) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return true };
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the name ends with NUL, and the call fills the structure when it returns 0.
    let kind = unsafe {
        if libc::statfs(name.as_ptr(), found.as_mut_ptr()) != 0 {
            return true;
        }
        found.assume_init().f_type
    };
    // The type of the field depends on the architecture, and some magic numbers have their highest bit set.
    !SILENT_FILE_SYSTEMS.contains(&(kind as u32))
}

/// The magic numbers of NFS, SMB (three of them), Ceph, AFS, 9P, FUSE with virtiofs, proc and sysfs.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SILENT_FILE_SYSTEMS: [u32; 10] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x00c3_6400,
    0x5346_414f,
    0x0102_1997,
    0x6573_5546,
    0x9fa0,
    0x6265_6572,
];

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reports_changes(_path: &Path) -> bool {
    true
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use notify::EventHandler as _;
    use notify::event::{AccessKind, AccessMode, Flag};

    use super::*;
    use crate::agents::{Agent, IngestOptions};
    use crate::home::Home;

    fn watch_of(root: &Path) -> LogWatch {
        let roots = vec![(Agent::Claude, root.to_owned())];
        let options = IngestOptions { agents: vec![Agent::Claude], roots, ..IngestOptions::default() };
        LogWatch::of(&Ingest::new(Home::at(root.join("home")), options)).unwrap()
    }

    fn handler_of(watch: &LogWatch) -> ChangeHandler {
        ChangeHandler { folders: Arc::clone(&watch.folders), changes: Arc::clone(&watch.changes) }
    }

    /// Returns whether a change is reported within some seconds, and forgets it.
    fn is_told(watch: &mut LogWatch) -> bool {
        let told = watch.wait(Duration::from_secs(20), Instant::now());
        watch.catch_up();
        told
    }

    #[test]
    fn folders_that_come_and_go_are_watched() {
        let sandbox = tempfile::tempdir().unwrap();
        let root = sandbox.path().join("not/yet/projects");
        let mut watch = watch_of(&root);
        watch.catch_up();
        assert_eq!(watch.fault(), None);
        fs::create_dir_all(root.join("-p/session/subagents")).unwrap();
        assert!(is_told(&mut watch), "the root");
        for place in ["-p", "-p/session/subagents"] {
            let log = root.join(place).join("a.jsonl");
            fs::write(&log, "x").unwrap();
            assert!(is_told(&mut watch), "a log in {place}");
            fs::OpenOptions::new().append(true).open(&log).unwrap().set_len(9).unwrap();
            assert!(is_told(&mut watch), "a change in {place}");
        }
        // The same name leads to another folder, and back to the first.
        for (from, to) in [("-p", "-q"), ("-q", "-p")] {
            fs::rename(root.join(from), root.join(to)).unwrap();
            assert!(is_told(&mut watch), "{from} becomes {to}");
            fs::write(root.join(to).join("b.jsonl"), "x").unwrap();
            assert!(is_told(&mut watch), "a log in {to}");
        }
        fs::remove_dir_all(&root).unwrap();
        assert!(is_told(&mut watch), "the root is gone");
        fs::create_dir_all(root.join("-p")).unwrap();
        assert!(is_told(&mut watch), "the root is there again");
        fs::write(root.join("-p/c.jsonl"), "x").unwrap();
        assert!(is_told(&mut watch), "a log in the new root");
        fs::read(root.join("-p/c.jsonl")).unwrap();
        fs::write(root.join("-p/c.tmp"), "x").unwrap();
        assert!(!watch.wait(Duration::from_millis(300), Instant::now()), "reading a log is no change");
    }

    #[test]
    fn a_burst_is_one_change() {
        let sandbox = tempfile::tempdir().unwrap();
        let watch = watch_of(sandbox.path());
        let log = sandbox.path().join("-p/a.jsonl");
        let mut handler = handler_of(&watch);
        let event = || Ok(Event::new(EventKind::Create(CreateKind::File)).add_path(log.clone()));
        handler.handle_event(event());
        assert!(!watch.wait(Duration::ZERO, Instant::now()), "more may follow");
        let started = Instant::now();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Events without end, and the longest time between two of them.
            let events = scope.spawn(|| {
                let (mut last, mut longest) = (started, Duration::ZERO);
                while !is_over.load(Ordering::Relaxed) {
                    handler.handle_event(event());
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                    std::thread::sleep(Duration::from_millis(2));
                }
                longest
            });
            let is_change = watch.wait(Duration::from_secs(20), Instant::now());
            let waited = started.elapsed();
            is_over.store(true, Ordering::Relaxed);
            assert!(is_change, "a burst without end is a change, too");
            // On a busy machine the events may pause for so long that the burst ends.
            let longest = events.join().unwrap();
            assert!(
                waited >= BURST - QUIET || longest + Duration::from_millis(10) >= QUIET,
                "{waited:?}, {longest:?}"
            );
        });
    }

    #[test]
    fn a_lost_event_is_a_change_and_a_failure_is_a_fault() {
        let sandbox = tempfile::tempdir().unwrap();
        fs::create_dir(sandbox.path().join("-p")).unwrap();
        let mut watch = watch_of(sandbox.path());
        watch.catch_up();
        let watched = watch.watched.len();
        assert!(watched >= 2);
        let mut handler = handler_of(&watch);
        let log = sandbox.path().join("-p/a.jsonl");
        let read = Event::new(EventKind::Access(AccessKind::Open(AccessMode::Any))).add_path(log.clone());
        handler.handle_event(Ok(read));
        let other = Event::new(EventKind::Modify(ModifyKind::Any)).add_path("/elsewhere/a.jsonl".into());
        handler.handle_event(Ok(other));
        assert!(!watch.wait(QUIET * 2, Instant::now()));
        handler.handle_event(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert!(watch.wait(Duration::from_secs(20), Instant::now()));
        assert!(locked(&watch.changes).has_lost_folders);
        watch.catch_up();
        assert_eq!((watch.watched.len(), watch.fault()), (watched, None));
        handler.handle_event(Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)));
        assert!(watch.wait(Duration::from_secs(20), Instant::now()));
        watch.catch_up();
        assert!(watch.fault().unwrap().contains("max_user_watches") && watch.watched.is_empty());
    }

    #[test]
    fn file_systems_that_report_nothing_are_polled() {
        let sandbox = tempfile::tempdir().unwrap();
        assert!(reports_changes(sandbox.path()));
        assert!(!reports_changes(Path::new("/proc")));
        let mut watch = watch_of(Path::new("/proc/self/fdinfo"));
        watch.catch_up();
        assert!(watch.fault().unwrap().contains("/proc"), "{:?}", watch.fault());
    }
}
