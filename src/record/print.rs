//! Prints archived rows as the JSON of records.
//!
//! Members have the order in which the TypeScript package prints them: the order of the columns, except for the members that
//! [`order`] moves.

use rusqlite::Row;
use rusqlite::types::ValueRef;

use super::columns::{Field, Reading};
use crate::scan::json::{write_js_number, write_js_string};

/// `fields` in the order in which they are printed: the fields at the places `moved` come right after the field at `after`.
pub(crate) fn order<'f>(
    fields: &'f [Field],
    after: usize,
    moved: &'f [usize],
) -> impl Iterator<Item = &'f Field> + Clone {
    let is_moved = |field: &&Field| moved.contains(&field.place);
    let at = |place: usize| fields.iter().filter(move |field| field.place == place);
    let before = fields.iter().filter(move |field| field.place <= after && !is_moved(field));
    let behind = fields.iter().filter(move |field| field.place > after && !is_moved(field));
    before.chain(moved.iter().flat_map(move |place| at(*place))).chain(behind)
}

/// Writes the part of a turn's fidelity that the archive's three columns have.
pub(crate) fn write_fidelity(turn: &mut Object<'_>, class: &[u8], tokens_present: bool, cost_present: bool) {
    let is_full = class == b"full";
    let has_tokens = is_full || (matches!(class, b"usage-only" | b"partial") && tokens_present);
    let has_cache = is_full || (class == b"usage-only" && tokens_present);
    let mut fidelity = turn.object("fidelity");
    fidelity.text("class", ValueRef::Text(class));
    let granularity: &[u8] = if cost_present { b"cost-only" } else { b"per-turn" };
    fidelity.text("granularity", ValueRef::Text(granularity));
    let mut coverage = fidelity.object("coverage");
    for (key, value) in [
        ("hasInputTokens", has_tokens),
        ("hasOutputTokens", has_tokens),
        ("hasReasoningTokens", is_full),
        ("hasCacheReadTokens", has_cache),
        ("hasCacheCreateTokens", has_cache),
        ("hasToolCalls", is_full),
        ("hasToolResultEvents", is_full),
        ("hasSessionRelationships", is_full),
        ("hasRawContent", is_full),
    ] {
        coverage.flag(key, ValueRef::Integer(i64::from(value)));
    }
    coverage.close();
    fidelity.close();
}

/// An object that is being written. NULL members are left out.
pub(crate) struct Object<'o> {
    pub(crate) out: &'o mut Vec<u8>,
}

impl<'o> Object<'o> {
    /// Starts a record of version 1, overwriting `out`.
    pub(crate) fn new(out: &'o mut Vec<u8>) -> Self {
        out.clear();
        out.extend_from_slice(b"{\"v\":1");
        Self { out }
    }

    /// Starts an object after the content of `out`.
    pub(crate) fn empty(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out }
    }

    pub(crate) fn key(&mut self, key: &str) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// Starts a member that is an object. Close the object before the next member.
    pub(crate) fn object(&mut self, key: &str) -> Object<'_> {
        self.key(key);
        Object::empty(self.out)
    }

    /// Writes the members of `fields`, from the row's columns at their places, in the order of `fields`.
    ///
    /// # Errors
    /// When the row has fewer columns than `fields` needs.
    pub(crate) fn members<'f>(
        &mut self,
        fields: impl IntoIterator<Item = &'f Field>,
        row: &Row<'_>,
    ) -> Result<(), rusqlite::Error> {
        for field in fields {
            self.member(field, row.get_ref(field.place)?);
        }
        Ok(())
    }

    fn member(&mut self, field: &Field, value: ValueRef<'_>) {
        match field.reading {
            Reading::TextOrEmpty if matches!(value, ValueRef::Text(b"") | ValueRef::Blob(b"")) => {}
            Reading::Text | Reading::NullableText | Reading::OptionalText | Reading::TextOrEmpty => {
                self.text(field.member, value);
            }
            Reading::Number | Reading::OptionalNumber | Reading::NumberOrZero | Reading::PositiveNumber => {
                self.number(field.member, value)
            }
            Reading::Flag | Reading::OptionalFlag => self.flag(field.member, value),
            Reading::Strings => {
                if let ValueRef::Text(json) = value {
                    self.key(field.member);
                    self.out.extend_from_slice(json);
                }
            }
        }
    }

    pub(crate) fn text(&mut self, key: &str, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => {}
            ValueRef::Text(text) | ValueRef::Blob(text) => {
                self.key(key);
                write_js_string(String::from_utf8_lossy(text).as_bytes(), self.out);
            }
            number => self.number(key, number),
        }
    }

    pub(crate) fn number(&mut self, key: &str, value: ValueRef<'_>) {
        match value {
            ValueRef::Null => {}
            ValueRef::Integer(number) => {
                self.key(key);
                self.out.extend_from_slice(number.to_string().as_bytes());
            }
            ValueRef::Real(number) if number.is_finite() => {
                self.key(key);
                write_js_number(number, self.out);
            }
            ValueRef::Real(_) => {
                self.key(key);
                self.out.extend_from_slice(b"null");
            }
            text => self.text(key, text),
        }
    }

    pub(crate) fn flag(&mut self, key: &str, value: ValueRef<'_>) {
        let is_set = match value {
            ValueRef::Null => return,
            ValueRef::Integer(number) => number != 0,
            _ => true,
        };
        self.key(key);
        self.out.extend_from_slice(if is_set { b"true" } else { b"false" });
    }

    pub(crate) fn close(self) {
        self.out.push(b'}');
    }
}
