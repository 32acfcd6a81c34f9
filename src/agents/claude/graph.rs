//! Finds the sub-agents of a log and the calls that spawned them, from the graph of lines and their parents.
//!
//! A sub-agent's first line is a user line whose parent is the assistant line that called the tool `Agent` or `Task`.
//! Example: u1 ← a1 (calls Task t1) ← u2 (side chain) ← a2 (side chain). The walk from a2 reaches u2 and then a1. a1
//! has the call t1, and u2 does not answer t1, so a2 belongs to the agent u2, which t1 spawned.

use std::rc::Rc;

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use foldhash::{HashMap, HashSet};

use super::super::js;
use super::key::{Key, hash};
use super::line::Line;
use super::packed::{Packer, Unpacker};
use crate::scan::json::Value;

/// The greatest depth of agents that spawn agents.
const DEPTH_MAX: usize = 65;

/// A call that spawns an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SpawnCall<'t> {
    id: &'t [u8],
    subagent_type: Option<&'t [u8]>,
    description: Option<&'t [u8]>,
    /// Hash of the text that the agent is given.
    prompt_hash: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Role<'t> {
    Assistant {
        spawns: &'t [SpawnCall<'t>],
    },
    User {
        /// The tool use ids that the line answers.
        results: &'t [&'t [u8]],
        /// Hash of the line's plain text, on side chains.
        text_hash: Option<u64>,
    },
}

#[derive(Debug, Clone, Copy)]
struct Node<'t> {
    parent: Option<Key<'t>>,
    is_side: bool,
    role: Role<'t>,
}

/// An agent, as a line of its side chain shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Invocation {
    pub agent_id: Vec<u8>,
    pub parent_tool_use_id: Vec<u8>,
    pub subagent_type: Option<Vec<u8>>,
    pub description: Option<Vec<u8>>,
    pub parent_agent_id: Option<Vec<u8>>,
}

/// The lines of a log that have a uuid. Their texts are in the memory of the log.
#[derive(Debug, Default)]
pub(super) struct Graph<'t> {
    nodes: HashMap<Key<'t>, Node<'t>>,
    /// The ids of the calls that spawn agents.
    spawns: HashSet<&'t [u8]>,
}

/// The answers that a graph has already computed.
#[derive(Debug, Default)]
pub(super) struct Answers<'t> {
    /// The agents by their first lines.
    invocations: HashMap<Key<'t>, Option<Rc<Invocation>>>,
    crossings: HashMap<Key<'t>, Option<(Key<'t>, Key<'t>)>>,
}

impl<'t> Graph<'t> {
    /// Adds an assistant line.
    pub(super) fn add_assistant(&mut self, texts: &'t Bump, line: &Line<'_>, every_spawn: bool) {
        let mut spawns = BumpVec::new_in(texts);
        for block in line.content.into_iter().flat_map(Value::items) {
            let is_spawn = js::any_text(block, "type") == Some(b"tool_use")
                && matches!(js::any_text(block, "name"), Some(b"Agent" | b"Task"));
            let Some(id) = js::any_text(block, "id").filter(|_| is_spawn) else { continue };
            let input = block.get("input");
            let of = |key| input.and_then(|input| js::any_text(input, key));
            let kept = |key| of(key).map(|text| &*texts.alloc_slice_copy(text));
            spawns.push(SpawnCall {
                id: texts.alloc_slice_copy(id),
                subagent_type: kept("subagent_type"),
                description: kept("description"),
                prompt_hash: of("prompt").map(hash),
            });
            if !every_spawn {
                break;
            }
        }
        self.spawns.extend(spawns.iter().map(|spawn| spawn.id));
        self.add(texts, line, Role::Assistant { spawns: spawns.into_bump_slice() });
    }

    fn add(&mut self, texts: &'t Bump, line: &Line<'_>, role: Role<'t>) {
        let Some(uuid) = line.uuid else { return };
        let parent = line.parent_uuid.map(|parent| Key::of(parent).kept(texts));
        self.nodes.insert(Key::of(uuid).kept(texts), Node { parent, is_side: line.is_side, role });
    }

    /// Adds a user line.
    pub(super) fn add_user(&mut self, texts: &'t Bump, line: &Line<'_>, plain_text: &[u8]) {
        let results = line.content.into_iter().flat_map(Value::items).filter_map(|block| {
            let is_result = js::any_text(block, "type") == Some(b"tool_result");
            let id = js::any_text(block, "tool_use_id").filter(|_| is_result)?;
            Some(&*texts.alloc_slice_copy(id))
        });
        let role = Role::User {
            results: BumpVec::from_iter_in(results, texts).into_bump_slice(),
            text_hash: (line.is_side && !plain_text.is_empty()).then(|| hash(plain_text)),
        };
        self.add(texts, line, role);
    }

    /// Writes the graph for [`Graph::unpack`].
    pub(super) fn pack(&self, packer: &mut Packer) {
        packer.count(self.nodes.len() as u64);
        for (key, node) in &self.nodes {
            packer.key(key);
            packer.maybe(node.parent.as_ref(), Packer::key);
            packer.flag(node.is_side);
            match &node.role {
                Role::Assistant { spawns } => {
                    packer.flag(true);
                    packer.count(spawns.len() as u64);
                    for spawn in *spawns {
                        packer.text(spawn.id);
                        packer.maybe_text(spawn.subagent_type);
                        packer.maybe_text(spawn.description);
                        packer.maybe(spawn.prompt_hash, Packer::count);
                    }
                }
                Role::User { results, text_hash } => {
                    packer.flag(false);
                    packer.count(results.len() as u64);
                    results.iter().for_each(|id| packer.text(id));
                    packer.maybe(*text_hash, Packer::count);
                }
            }
        }
    }

    /// Reads what [`Graph::pack`] wrote.
    pub(super) fn unpack(from: &mut Unpacker<'t>, texts: &'t Bump) -> Option<Self> {
        let mut ids = HashSet::default();
        let nodes = from.each(|from| {
            let (key, parent, is_side) = (from.key()?, from.maybe(Unpacker::key)?, from.flag()?);
            let role = if from.flag()? {
                let spawns = from.list(texts, |from| {
                    Some(SpawnCall {
                        id: from.text()?,
                        subagent_type: from.maybe_text()?,
                        description: from.maybe_text()?,
                        prompt_hash: from.maybe(Unpacker::count)?,
                    })
                })?;
                ids.extend(spawns.iter().map(|spawn: &SpawnCall<'_>| spawn.id));
                Role::Assistant { spawns }
            } else {
                Role::User {
                    results: from.list(texts, Unpacker::text)?,
                    text_hash: from.maybe(Unpacker::count)?,
                }
            };
            Some((key, Node { parent, is_side, role }))
        })?;
        Some(Graph { nodes, spawns: ids })
    }

    /// Returns whether a call with this id spawns an agent.
    pub(super) fn is_spawn(&self, id: &[u8]) -> bool {
        self.spawns.contains(id)
    }

    /// Returns the uuids of all lines.
    pub(super) fn uuids(&self) -> impl Iterator<Item = &Key<'t>> {
        self.nodes.keys()
    }

    /// The step from a user line to the assistant line that spawned the user line's agent, on the walk from `uuid` to
    /// its parents.
    fn crossing(&self, uuid: Key<'t>, answers: &mut Answers<'t>) -> Option<(Key<'t>, Key<'t>)> {
        let mut walked: Vec<Key<'t>> = Vec::new();
        let mut at = uuid;
        let found = loop {
            if let Some(known) = answers.crossings.get(&at) {
                break *known;
            }
            // A walk of more steps than there are lines goes in a circle.
            if walked.len() > self.nodes.len() {
                break None;
            }
            walked.push(at);
            let Some(node) = self.nodes.get(&at) else { break None };
            let Some(parent) = node.parent else { break None };
            let Some(above) = self.nodes.get(&parent) else { break None };
            if let (Role::User { results, .. }, Role::Assistant { spawns }) = (&node.role, &above.role)
                && spawns.first().is_some_and(|spawn| !results.contains(&spawn.id))
            {
                break Some((at, parent));
            }
            at = parent;
        };
        for key in walked {
            answers.crossings.insert(key, found);
        }
        found
    }

    /// Returns the agent of the line `uuid`.
    pub(super) fn invocation(&self, uuid: Key<'t>, answers: &mut Answers<'t>) -> Option<Rc<Invocation>> {
        self.invocation_at(uuid, answers, 0)
    }

    fn invocation_at(
        &self,
        uuid: Key<'t>,
        answers: &mut Answers<'t>,
        depth: usize,
    ) -> Option<Rc<Invocation>> {
        if depth >= DEPTH_MAX {
            return None;
        }
        let (user, assistant) = self.crossing(uuid, answers)?;
        if let Some(known) = answers.invocations.get(&user) {
            return known.clone();
        }
        let found = self.spawned(user, assistant, answers, depth).map(Rc::new);
        answers.invocations.insert(user, found.clone());
        found
    }

    /// The agent whose first line is `user` and that a call of the line `assistant` spawned.
    fn spawned(
        &self,
        user: Key<'t>,
        assistant: Key<'t>,
        answers: &mut Answers<'t>,
        depth: usize,
    ) -> Option<Invocation> {
        let node = self.nodes.get(&assistant)?;
        let Role::Assistant { spawns } = &node.role else { return None };
        let text_hash = match self.nodes.get(&user)?.role {
            Role::User { text_hash, .. } => text_hash,
            Role::Assistant { .. } => None,
        };
        let same_prompt = |spawn: &&SpawnCall| text_hash.is_some() && spawn.prompt_hash == text_hash;
        let spawn = spawns.iter().find(same_prompt).or(spawns.first())?;
        let parent = node.is_side.then(|| self.invocation_at(assistant, answers, depth + 1)).flatten();
        Some(Invocation {
            agent_id: user.text(),
            parent_tool_use_id: spawn.id.to_vec(),
            subagent_type: spawn.subagent_type.map(<[u8]>::to_vec),
            description: spawn.description.map(<[u8]>::to_vec),
            parent_agent_id: parent.map(|parent| parent.agent_id.clone()),
        })
    }
}
