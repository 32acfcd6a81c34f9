//! Values of the tape as cells. `None` always means: not what was asked for, the exact path decides.

use simd_json::{Node, StaticNode};

use crate::archive::rows::Cell;
use crate::scan::json::tape::{Members, Walk, once};

/// Values as cells.
impl<'a> Walk<'_, 'a> {
    pub(super) fn text(&mut self) -> Option<Cell<'a>> {
        self.str().map(Cell::Text)
    }

    pub(super) fn text_or_null(&mut self) -> Option<Cell<'a>> {
        match self.next()? {
            Node::String(text) => Some(Cell::Text(text)),
            Node::Static(StaticNode::Null) => Some(Cell::Null),
            _ => None,
        }
    }

    pub(super) fn int(&mut self) -> Option<Cell<'a>> {
        match self.next()? {
            Node::Static(StaticNode::I64(n)) => Some(Cell::Int(n)),
            Node::Static(StaticNode::U64(n)) => i64::try_from(n).ok().map(Cell::Int),
            _ => None,
        }
    }

    pub(super) fn int_or_null(&mut self) -> Option<Cell<'a>> {
        if self.is_null() { Some(Cell::Null) } else { self.int() }
    }

    /// A flag that is stored: null is 0.
    pub(super) fn flag(&mut self) -> Option<Cell<'a>> {
        match self.next()? {
            Node::Static(StaticNode::Bool(value)) => Some(Cell::Int(i64::from(value))),
            Node::Static(StaticNode::Null) => Some(Cell::Int(0)),
            _ => None,
        }
    }
}

/// Reads the members of an object into `cells`. For each, `field` says which cell its value goes to and what that
/// holds then, or that it is of no interest. Answers, a bit a cell, which were there.
#[inline(always)]
pub(super) fn fill<'t, 'a, const CELLS: usize>(
    members: Members<'_, 't, 'a>,
    cells: &mut [Cell<'a>; CELLS],
    mut field: impl FnMut(&'a str, Walk<'t, 'a>) -> Option<Field<'a>>,
) -> Option<u64> {
    let mut seen = 0;
    for member in members {
        let (key, value) = member?;
        if let Some((place, cell)) = field(key, value)? {
            once(&mut seen, place)?;
            cells[place as usize] = cell;
        }
    }
    Some(seen)
}

/// A cell's place and content; `None` for a member without one.
pub(super) type Field<'a> = Option<(u32, Cell<'a>)>;
