//! Reads relationships and user turns, which have no table, from the tape: what a check of a ledger needs of them.
//!
//! Computes only. Guarantees: where a record is returned, the exact reader finds the same id and the same time, and a strict
//! rule is broken only in a record that is doubtful. All other records are left to the exact reader.

use bumpalo::Bump;

use super::id::parts_of;
use super::strict::{RELATIONSHIP, USER_TURN, USER_TURN_BLOCK, is_doubtful};
use super::{Cell, RecordKind};
use crate::scan::json::tape::{Walk, once};

/// The largest number of parts of an id.
const PARTS_MAX: usize = 6;

/// A record that has no row.
#[derive(Debug)]
pub(crate) struct UnarchivedRecord<'a> {
    parts: [&'a str; PARTS_MAX],
    parts_len: usize,
    pub ts: Option<&'a str>,
    /// Whether a value may break a strict rule.
    pub is_doubtful: bool,
}

impl<'a> UnarchivedRecord<'a> {
    /// The parts of the id; the first two are source and session.
    pub(crate) fn id_parts(&self) -> &[&'a str] {
        &self.parts[..self.parts_len]
    }

    /// Reads a relationship or a user turn; `None` when the exact reader has to read the record.
    pub(super) fn read(kind: RecordKind, mut record: Walk<'_, 'a>, bump: &'a Bump) -> Option<Self> {
        let (keys, is_optional) = parts_of(kind);
        let fields = if kind == RecordKind::UserTurn { USER_TURN } else { RELATIONSHIP };
        let mut parts = [None; PARTS_MAX];
        let (mut seen, mut ts, mut is_doubtful) = (0, None, false);
        for member in record.object()? {
            let (key, mut value) = member?;
            if let Some(field) = fields.iter().find(|field| field.member == key) {
                let cell = field.reading.on_tape(value, bump)?;
                is_doubtful |= self::is_doubtful(&[cell], std::slice::from_ref(field));
                if let ("ts", Cell::Text(text)) = (key, cell) {
                    ts = Some(text);
                }
            }
            if let Some(place) = keys.iter().position(|part| *part == key) {
                once(&mut seen, place as u32)?;
                parts[place] = if is_optional && value.is_null() { None } else { Some(value.str()?) };
            } else if key == "ts" {
                once(&mut seen, PARTS_MAX as u32)?;
            } else if key == "blocks" && kind == RecordKind::UserTurn {
                once(&mut seen, PARTS_MAX as u32 + 1)?;
                is_doubtful |= has_doubtful_block(value, bump)?;
            }
        }
        // Without a source and a session, a record has no place in the order of times.
        let mut texts = [""; PARTS_MAX];
        for (place, part) in parts[..keys.len()].iter().enumerate() {
            texts[place] = if is_optional && place >= 2 { part.unwrap_or_default() } else { (*part)? };
        }
        Some(Self { parts: texts, parts_len: keys.len(), ts, is_doubtful })
    }
}

fn has_doubtful_block<'a>(mut blocks: Walk<'_, 'a>, bump: &'a Bump) -> Option<bool> {
    let mut has_doubtful = false;
    for _ in 0..blocks.array()? {
        let mut seen = 0;
        for member in blocks.object()? {
            let (key, value) = member?;
            if let Some(place) = USER_TURN_BLOCK.iter().position(|field| field.member == key) {
                once(&mut seen, place as u32)?;
                let cell = USER_TURN_BLOCK[place].reading.on_tape(value, bump)?;
                has_doubtful |= is_doubtful(&[cell], &USER_TURN_BLOCK[place..=place]);
            }
        }
    }
    Some(has_doubtful)
}
