//! Dispatches to the readers of the agents: finds roots and logs, and reads logs.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::cursors::key_of;
use super::pass::{Agent, Candidate, Common, HandOver, Pass, Prepared, RootsOf, Stat};
use super::walk::{Unreadable, is_link};
use super::{AgentsError, claude, codex, gemini, opencode};
use crate::disk;

/// Returns the roots of an agent's logs.
pub(super) fn roots_of(agent: Agent, of: &RootsOf<'_>) -> Vec<PathBuf> {
    match agent {
        Agent::Claude => claude::roots(of),
        Agent::Codex => codex::roots(of),
        Agent::OpenCode => opencode::roots(of),
        Agent::Gemini => gemini::roots(of),
    }
}

/// A folder with logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogFolder {
    pub path: PathBuf,
    /// Number of levels of folders below this folder that have logs, too.
    pub levels: usize,
}

/// Returns the folders below a root in which logs are looked for. They need not exist.
pub(super) fn log_folders(agent: Agent, root: &Path, as_reference: bool) -> Vec<LogFolder> {
    let folder = |path: PathBuf, levels| LogFolder { path, levels };
    match agent {
        // Projects, sessions, sub-agents. Agents of workflows and of agents are below these.
        Agent::Claude => vec![folder(root.to_owned(), 3)],
        Agent::Codex => {
            let folders = codex::log_folders(root, as_reference).into_iter();
            folders.map(|path| folder(path, usize::MAX)).collect()
        }
        Agent::OpenCode if root.is_file() => vec![folder(disk::parent_of(root).to_owned(), 0)],
        Agent::OpenCode => {
            let storage = opencode::storage_of(root);
            vec![
                folder(root.to_owned(), 0),
                folder(storage.join("session"), usize::MAX),
                folder(storage.join("message"), 1),
            ]
        }
        // Projects, chats, sub-agents.
        Agent::Gemini => vec![folder(root.join("tmp"), 3)],
    }
}

/// Returns the logs below a root.
pub(super) fn discover(
    agent: Agent,
    root: &Path,
    as_reference: bool,
    unreadable: &mut Vec<Unreadable>,
) -> Vec<Candidate> {
    match agent {
        Agent::Claude => claude::discover(root, as_reference, unreadable),
        Agent::Codex => codex::discover(root, as_reference, unreadable),
        Agent::OpenCode => opencode::discover(root, as_reference, unreadable),
        Agent::Gemini => gemini::discover(root, as_reference, unreadable),
    }
}

/// Returns the facts about all logs that an agent's reader needs before it reads one log; `None` if the reader needs none.
pub(super) fn prepare(
    agent: Agent,
    common: &Common<'_>,
    candidates: &[Candidate],
) -> Result<Option<Prepared>, AgentsError> {
    match agent {
        Agent::Codex => codex::prepare(common, candidates).map(Some),
        Agent::Gemini => gemini::prepare(common, candidates).map(Some),
        Agent::Claude | Agent::OpenCode => Ok(None),
    }
}

/// Whether the metadata of a log show that nothing is new after its cursor. Reads no line.
pub(super) fn is_unchanged(agent: Agent, stat: Stat, cursor: &[u8]) -> bool {
    agent == Agent::Claude && claude::is_unchanged(stat, cursor)
}

/// Reads a log to its end.
pub(super) fn read_log(pass: &Pass<'_>, hand: &mut HandOver<'_>) -> Result<(), AgentsError> {
    match pass.candidate.agent {
        Agent::Claude => claude::read(pass, hand),
        Agent::Codex => codex::read(pass, hand),
        Agent::OpenCode => opencode::read(pass, hand),
        Agent::Gemini => gemini::read(pass, hand),
    }
}

/// Returns the key of a log's note in the side file.
pub(super) fn note_key(agent: Agent, path: &Path) -> Vec<u8> {
    match agent {
        Agent::Codex => codex::note_key(path),
        _ => key_of(path),
    }
}

/// Keeps one file of each log. Copies of the logs of Claude Code and Gemini CLI may differ, so all are kept.
pub(super) fn each_log_once(
    agent: Agent,
    candidates: Vec<Candidate>,
    unreadable: &mut Vec<Unreadable>,
) -> Vec<Candidate> {
    let files = each_file_once(candidates);
    match agent {
        Agent::Codex => codex::each_log_once(files, unreadable),
        Agent::OpenCode => files,
        Agent::Claude => longest_copy_first(files, |path| {
            let name = path.file_name().unwrap_or_default().to_owned();
            // The logs of sub-agents are named within their session.
            let agents = disk::parent_of(path).ancestors().find(|folder| folder.ends_with("subagents"));
            let session = agents.and_then(Path::parent).and_then(Path::file_name);
            (session.map(OsStr::to_owned), name)
        }),
        Agent::Gemini => longest_copy_first(files, |path| {
            let session = disk::parent_of(path).file_name().filter(|name| *name != "chats");
            (session.map(OsStr::to_owned), path.file_stem().unwrap_or_default().to_owned())
        }),
    }
}

/// Sorts the logs of one name by length, longest first, within the places that these logs have. An older copy may end within
/// a message, and of two turns of one message the first is kept.
fn longest_copy_first(
    mut files: Vec<Candidate>,
    name_of: impl Fn(&Path) -> (Option<OsString>, OsString),
) -> Vec<Candidate> {
    let mut places: HashMap<_, Vec<usize>> = HashMap::new();
    for (place, file) in files.iter().enumerate() {
        places.entry(name_of(&file.path)).or_default().push(place);
    }
    for places in places.into_values().filter(|places| places.len() > 1) {
        let mut copies: Vec<Candidate> = places.iter().map(|place| files[*place].clone()).collect();
        let len_bytes =
            |copy: &Candidate| disk::metadata_of_target(&copy.path).map_or(0, |found| found.len_bytes);
        copies.sort_by_cached_key(|copy| std::cmp::Reverse(len_bytes(copy)));
        for (place, copy) in places.into_iter().zip(copies) {
            files[place] = copy;
        }
    }
    files
}

/// Keeps one path of a file with several paths: its own path rather than a link, else the first path.
fn each_file_once(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let is_link = |candidate: &Candidate| is_link(&candidate.path);
    let mut first_way: HashMap<disk::Identity, usize> = HashMap::new();
    let mut kept: Vec<Option<Candidate>> = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let place = kept.len();
        if let Ok(found) = disk::metadata_of_target(&candidate.path) {
            let first = *first_way.entry(found.identity).or_insert(place);
            if first != place {
                if is_link(&candidate) || !kept[first].as_ref().is_some_and(is_link) {
                    continue;
                }
                kept[first] = None;
                first_way.insert(found.identity, place);
            }
        }
        kept.push(Some(candidate));
    }
    kept.into_iter().flatten().collect()
}
