//! Models a power cut: a file system in memory that distinguishes the state that programs see from the state on the disk.
//!
//! The model is stricter than real file systems: syncing a file does not make its name durable, and content may be lost
//! although a later change of names survived. Names survive in the order in which they were changed.
#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Power cuts tear writes between multiples of this many bytes.
const SECTOR_BYTES: u64 = 512;

/// A file or directory of the model; never reused, unlike an inode number.
pub(super) type NodeId = usize;

pub(super) const ROOT: NodeId = 0;

/// One operation that changed something; paths are relative to the recorded directory.
#[derive(Debug, Clone)]
pub(super) enum Event {
    CreateFile { path: PathBuf, node: NodeId },
    CreateDirectory { path: PathBuf, node: NodeId },
    Write { node: NodeId, offset: u64, bytes: Vec<u8> },
    SetLength { node: NodeId, len_bytes: u64 },
    Sync { node: NodeId },
    SyncDirectory { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

/// Which unsynced changes reached the disk before the power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survival {
    /// No change.
    Nothing,
    /// Changes of names (created, renamed, deleted), but no file content, as a rename before its sync risks.
    Names,
    /// Changes of file content, but no names.
    Content,
    /// All changes, as after SIGKILL.
    Everything,
    /// Some changes, chosen by a seed: a prefix of the names; for each file either a prefix of its changes, torn at a
    /// sector, or any of the sectors, with zeros for a lost sector before a surviving sector.
    Torn {
        /// Chooses the changes that survive.
        seed: u64,
    },
}

/// The file system as programs see it (live), the file system after the loss of all unsynced changes (durable), and the
/// changes between the two, in order.
#[derive(Clone)]
pub(super) struct Model {
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

/// Entries that are set or deleted together: a rename is one change of two entries.
#[derive(Clone)]
struct NameChange(Vec<(NodeId, OsString, Option<NodeId>)>);

impl Model {
    pub(super) fn empty() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Node::default())]), pending_names: Vec::new() }
    }

    /// Adds a file or directory that existed durably before the recording began.
    pub(super) fn take_in(
        &mut self,
        parent: NodeId,
        name: OsString,
        node: NodeId,
        is_directory: bool,
        content: Vec<u8>,
    ) {
        let new = Node { is_directory, live: content.clone(), durable: content, ..Node::default() };
        self.nodes.insert(node, new);
        let parent = self.node_mut(parent);
        parent.live_names.insert(name.clone(), node);
        parent.durable_names.insert(name, node);
    }

    pub(super) fn apply(&mut self, event: &Event) {
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

    /// Turns the durable state into the state after the power cut.
    pub(super) fn cut_power(&mut self, survival: Survival) {
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

    pub(super) fn write_out(&self, node: NodeId, into: &Path) {
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

/// Returns the parts of a write that are in different sectors, with their offsets.
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

/// SplitMix64: the seed alone decides a test's choices.
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
