//! The flat form of a parsed line.
//!
//! A document is one vector of 16-byte nodes in the order of the text: a container stands before what it holds and
//! knows where it ends, a key stands before its value. Nothing is boxed, nothing recurses; while a container is open
//! its link names the container around it, so the parser, `parser.rs`, needs no stack either.

/// No node: the parent of the outermost value, the value of a key that an earlier equal key took over.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Null,
    False,
    True,
    /// `start`, `len`: its literal in the line.
    Number,
    /// A string that stands in the line as it is. `start`, `len`: in the line.
    Plain,
    /// A string with escapes or with bytes that are not UTF-8. `start`, `len`: in the document's decoded text.
    Decoded,
    /// `len`: its items. `link`: the node behind its last item.
    Array,
    /// `len`: its members with different keys. `link`: the node behind its last value.
    Object,
    /// An object with array-index keys. `start`: where in the document's order its keys stand in JavaScript's order.
    IndexedObject,
}

/// A string that is a key links to its value: the node behind it, or that of the last equal key; [`NONE`] for equal
/// keys after the first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) tag: Tag,
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) link: u32,
}

/// A parsed line, to be filled again by the next without allocating.
///
/// Holding a [`Value`](super::Value) borrows both the document and the line, for strings without escapes are never copied.
#[derive(Debug, Default)]
pub struct Document {
    pub(super) nodes: Vec<Node>,
    /// Strings that had to be decoded, end to end, WTF-8.
    pub(super) decoded: Vec<u8>,
    /// Key nodes of objects with array-index keys, in JavaScript's order.
    pub(super) order: Vec<u32>,
}

impl Document {
    /// The WTF-8 of a string node.
    pub(super) fn string_bytes<'d>(&'d self, line: &'d [u8], node: u32) -> &'d [u8] {
        let node = self.nodes[node as usize];
        let source = if node.tag == Tag::Plain { line } else { &self.decoded };
        &source[node.start as usize..][..node.len as usize]
    }

    /// The node behind a value and all it holds.
    pub(super) fn behind(&self, value: u32) -> u32 {
        let node = self.nodes[value as usize];
        match node.tag {
            Tag::Array | Tag::Object | Tag::IndexedObject => node.link,
            _ => value + 1,
        }
    }

    /// The keys of an object in the order of the text, equal ones included.
    pub(super) fn keys(&self, object: u32) -> impl Iterator<Item = u32> {
        let end = self.nodes[object as usize].link;
        let first = Some(object + 1).filter(|key| *key < end);
        std::iter::successors(first, move |key| Some(self.behind(key + 1)).filter(|key| *key < end))
    }
}
