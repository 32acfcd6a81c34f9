//! simd-json's tape, read value by value. `None` always means: not what was asked for, the exact path decides.

use simd_json::{Node, StaticNode};

use crate::archive::rows::Cell;

/// A walk over the tape: values in the order of the text, whole values skipped by their node count.
#[derive(Clone, Copy)]
pub(super) struct Walk<'t, 'a> {
    pub nodes: &'t [Node<'a>],
}

impl<'t, 'a> Walk<'t, 'a> {
    pub fn next(&mut self) -> Option<Node<'a>> {
        let (first, rest) = self.nodes.split_first()?;
        self.nodes = rest;
        Some(*first)
    }

    /// Steps over one value and returns a walk that starts with it.
    pub fn take(&mut self) -> Option<Walk<'t, 'a>> {
        let len = match self.nodes.first()? {
            Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
            Node::String(_) | Node::Static(_) => 1,
        };
        let (value, rest) = self.nodes.split_at_checked(len)?;
        self.nodes = rest;
        Some(Walk { nodes: value })
    }

    pub fn key(&mut self) -> Option<&'a str> {
        match self.next()? {
            Node::String(key) => Some(key),
            _ => None,
        }
    }

    pub fn object(&mut self) -> Option<usize> {
        match self.next()? {
            Node::Object { len, .. } => Some(len),
            _ => None,
        }
    }

    /// An object, or nothing for null.
    pub fn object_or_null(&mut self) -> Option<Option<usize>> {
        match self.next()? {
            Node::Object { len, .. } => Some(Some(len)),
            Node::Static(StaticNode::Null) => Some(None),
            _ => None,
        }
    }

    pub fn array(&mut self) -> Option<usize> {
        match self.next()? {
            Node::Array { len, .. } => Some(len),
            _ => None,
        }
    }

    pub fn str(&mut self) -> Option<&'a str> {
        match self.next()? {
            Node::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn text(&mut self) -> Option<Cell<'a>> {
        self.str().map(Cell::Text)
    }

    pub fn text_or_null(&mut self) -> Option<Cell<'a>> {
        match self.next()? {
            Node::String(text) => Some(Cell::Text(text)),
            Node::Static(StaticNode::Null) => Some(Cell::Null),
            _ => None,
        }
    }

    pub fn int(&mut self) -> Option<Cell<'a>> {
        match self.next()? {
            Node::Static(StaticNode::I64(n)) => Some(Cell::Int(n)),
            Node::Static(StaticNode::U64(n)) => i64::try_from(n).ok().map(Cell::Int),
            _ => None,
        }
    }

    pub fn int_or_null(&mut self) -> Option<Cell<'a>> {
        match self.nodes.first()? {
            Node::Static(StaticNode::Null) => {
                self.next()?;
                Some(Cell::Null)
            }
            _ => self.int(),
        }
    }

    pub fn bool(&mut self) -> Option<bool> {
        match self.next()? {
            Node::Static(StaticNode::Bool(value)) => Some(value),
            _ => None,
        }
    }

    /// A flag that is stored: null is 0.
    pub fn flag(&mut self) -> Option<Cell<'a>> {
        match self.next()? {
            Node::Static(StaticNode::Bool(value)) => Some(Cell::Int(i64::from(value))),
            Node::Static(StaticNode::Null) => Some(Cell::Int(0)),
            _ => None,
        }
    }
}

/// Reads the `members` that follow of an object into `cells`. For each, `field` says which cell its value goes to and what that
/// holds then, or that it is of no interest. Answers, a bit a cell, which were there.
#[inline(always)]
pub(super) fn fill<'t, 'a, const CELLS: usize>(
    walk: &mut Walk<'t, 'a>,
    members: usize,
    cells: &mut [Cell<'a>; CELLS],
    mut field: impl FnMut(&'a str, Walk<'t, 'a>) -> Option<Field<'a>>,
) -> Option<u64> {
    let mut seen = 0;
    for _ in 0..members {
        let key = walk.key()?;
        let value = walk.take()?;
        if let Some((place, cell)) = field(key, value)? {
            once(&mut seen, place)?;
            cells[place as usize] = cell;
        }
    }
    Some(seen)
}

/// A cell's place and content; `None` for a member without one.
pub(super) type Field<'a> = Option<(u32, Cell<'a>)>;

/// Notes that a known key was seen; a second time is for the exact path.
pub(super) fn once(seen: &mut u64, bit: u32) -> Option<()> {
    let mask = 1 << bit;
    if *seen & mask != 0 {
        return None;
    }
    *seen |= mask;
    Some(())
}
