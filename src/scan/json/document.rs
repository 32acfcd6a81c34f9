//! The flat form of a parsed line.
//!
//! A document is one vector of 16-byte nodes in the order of the text. A container's node comes before the nodes of its content
//! and holds the place of the container's end; a key comes before its value. Nothing is boxed and nothing recurses. While a
//! container is open, its link is the node of the enclosing container, so the parser, `parser.rs`, needs no stack either.

/// No node: the parent of the outermost value, and the value of a key that repeats an earlier key.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Null,
    False,
    True,
    /// `start`, `len`: the literal in the line.
    Number,
    /// A string that is in the line without escapes. `start`, `len`: in the line.
    Plain,
    /// A string with escapes or with bytes that are not UTF-8. `start`, `len`: in the document's decoded text.
    Decoded,
    /// `len`: number of items. `link`: the node after the last item.
    Array,
    /// `len`: number of members with different keys. `link`: the node after the last value.
    Object,
    /// An object with array-index keys. `start`: where the object's keys begin in the document's `order`.
    IndexedObject,
}

/// A string that is a key links to its value: the node after the key, or the value of the last equal key. Equal keys after the
/// first link to [`NONE`].
#[derive(Debug, Clone, Copy)]
pub(super) struct JsonNode {
    pub(super) tag: Tag,
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) link: u32,
}

/// A parsed line. The next parse reuses the memory.
///
/// A [`Value`](super::Value) borrows both the document and the line, because strings without escapes are never copied.
#[derive(Debug, Default)]
pub struct Document {
    pub(super) nodes: Vec<JsonNode>,
    /// Decoded strings, end to end, as WTF-8.
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

    /// The node after a value and all nodes of the value.
    pub(super) fn behind(&self, value: u32) -> u32 {
        let node = self.nodes[value as usize];
        match node.tag {
            Tag::Array | Tag::Object | Tag::IndexedObject => node.link,
            _ => value + 1,
        }
    }

    /// The keys of an object in the order of the text, equal keys included.
    pub(super) fn keys(&self, object: u32) -> impl Iterator<Item = u32> {
        let end = self.nodes[object as usize].link;
        let first = Some(object + 1).filter(|key| *key < end);
        std::iter::successors(first, move |key| Some(self.behind(key + 1)).filter(|key| *key < end))
    }
}
