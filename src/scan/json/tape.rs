//! Parses a line to the tape of a SIMD parser: the fast path, tried before [`Document`](super::Document).
//!
//! The fast path reads only ordinary lines. JavaScript may accept a line that this parser refuses, so a refusal here is never a
//! verdict.

use simd_json::{Buffers, Node, StaticNode, Tape};

/// Bytes after a line that the parser may read.
pub(crate) const PADDING_BYTES: usize = simd_json::INPUT_PADDING;

/// Buffers that grew beyond this size for a long line are dropped.
pub(crate) const KEEP_LINE_BYTES: usize = 4 << 20;

/// The parser and its buffers; one per thread.
pub(crate) struct TapeParser {
    buffers: Buffers,
    tape: Tape<'static>,
}

impl std::fmt::Debug for TapeParser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TapeParser")
    }
}

impl Default for TapeParser {
    fn default() -> Self {
        Self { buffers: Buffers::default(), tape: Tape(Vec::new()) }
    }
}

impl TapeParser {
    /// Calls `read` with the value in `padded`, up to the last [`PADDING_BYTES`]; returns `None` when the parser refuses the
    /// value. Strings are unescaped in place.
    #[inline]
    pub(crate) fn parse<'a, T>(
        &mut self,
        padded: &'a mut [u8],
        read: impl FnOnce(Walk<'_, 'a>) -> Option<T>,
    ) -> Option<T> {
        let len_bytes = padded.len().checked_sub(PADDING_BYTES).filter(|len_bytes| *len_bytes > 0)?;
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let made = match simd_json::fill_tape_padded(padded, len_bytes, &mut self.buffers, &mut tape) {
            Ok(()) => read(Walk { nodes: &tape.0 }),
            Err(_) => None,
        };
        self.tape = tape.reset();
        if len_bytes > KEEP_LINE_BYTES {
            *self = Self::default();
        }
        made
    }
}

/// A walk over the tape: values in the order of the text, whole values skipped by their node count.
#[derive(Clone, Copy)]
pub(crate) struct Walk<'t, 'a> {
    nodes: &'t [Node<'a>],
}

/// The members of an object: each a name, and a walk over its value; `None` where the tape has another shape than expected.
pub(crate) struct TapeMembers<'w, 't, 'a> {
    walk: &'w mut Walk<'t, 'a>,
    left: usize,
}

impl<'t, 'a> Iterator for TapeMembers<'_, 't, 'a> {
    type Item = Option<(&'a str, Walk<'t, 'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.walk.key().zip(self.walk.take()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for TapeMembers<'_, '_, '_> {}

impl<'t, 'a> Walk<'t, 'a> {
    pub(crate) fn next(&mut self) -> Option<Node<'a>> {
        let (first, rest) = self.nodes.split_first()?;
        self.nodes = rest;
        Some(*first)
    }

    /// Skips one value and returns a walk that starts with the value.
    pub(crate) fn take(&mut self) -> Option<Walk<'t, 'a>> {
        let len = match self.nodes.first()? {
            Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
            Node::String(_) | Node::Static(_) => 1,
        };
        let (value, rest) = self.nodes.split_at_checked(len)?;
        self.nodes = rest;
        Some(Walk { nodes: value })
    }

    fn key(&mut self) -> Option<&'a str> {
        match self.next()? {
            Node::String(key) => Some(key),
            _ => None,
        }
    }

    /// The members of the next value, an object.
    pub(crate) fn object(&mut self) -> Option<TapeMembers<'_, 't, 'a>> {
        match self.next()? {
            Node::Object { len, .. } => Some(TapeMembers { walk: self, left: len }),
            _ => None,
        }
    }

    /// The members of the next value if the value is an object; nothing for null.
    pub(crate) fn object_or_null(&mut self) -> Option<Option<TapeMembers<'_, 't, 'a>>> {
        if self.is_null() { self.next().map(|_| None) } else { self.object().map(Some) }
    }

    pub(crate) fn array(&mut self) -> Option<usize> {
        match self.next()? {
            Node::Array { len, .. } => Some(len),
            _ => None,
        }
    }

    pub(crate) fn str(&mut self) -> Option<&'a str> {
        match self.next()? {
            Node::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whether the next value is null.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.nodes.first(), Some(Node::Static(StaticNode::Null)))
    }

    pub(crate) fn bool(&mut self) -> Option<bool> {
        match self.next()? {
            Node::Static(StaticNode::Bool(value)) => Some(value),
            _ => None,
        }
    }
}

/// Notes that a known key was seen. A repeated key is for the exact path.
pub(crate) fn once(seen: &mut u64, bit: u32) -> Option<()> {
    let mask = 1 << bit;
    if *seen & mask != 0 {
        return None;
    }
    *seen |= mask;
    Some(())
}
