//! The columns of the files: which columns of the archive a table's files have, with which type and encoding, and which of
//! them hold personal text.
//!
//! `record::columns` is the one table of columns; the types here follow from how a column is read. Touches nothing.

use std::str::FromStr;

use crate::record::columns::{Field, Reading, Table, compactions, tool_calls, tool_result_events, turns};

/// A table that is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ExportTable {
    /// `turns`, with the stamps folded into them.
    Turns,
    /// `tool_calls`, each with the `ts` of its turn.
    ToolCalls,
    /// `tool_result_events`.
    ToolResultEvents,
    /// `compactions`.
    Compactions,
}

impl ExportTable {
    /// Every table, in the order in which tables are exported.
    pub const ALL: [Self; 4] = [Self::Turns, Self::ToolCalls, Self::ToolResultEvents, Self::Compactions];

    /// The table's name in the archive and in paths.
    pub fn as_str(self) -> &'static str {
        self.table().name
    }

    pub(super) fn table(self) -> &'static Table {
        match self {
            Self::Turns => &turns::TABLE,
            Self::ToolCalls => &tool_calls::TABLE,
            Self::ToolResultEvents => &tool_result_events::TABLE,
            Self::Compactions => &compactions::TABLE,
        }
    }

    /// The place of `ts` in a row of the archive. A tool call has the `ts` of its turn after its own columns.
    pub(super) fn ts_place(self) -> usize {
        match self {
            Self::Turns => turns::TS,
            Self::ToolCalls => tool_calls::COLUMNS,
            Self::ToolResultEvents => tool_result_events::TS,
            Self::Compactions => compactions::TS,
        }
    }

    /// The places of the primary key.
    pub(super) fn key(self) -> &'static [usize] {
        match self {
            Self::Turns => &[turns::SOURCE, turns::SESSION_ID, turns::MESSAGE_ID],
            Self::ToolCalls => {
                &[tool_calls::SOURCE, tool_calls::SESSION_ID, tool_calls::MESSAGE_ID, tool_calls::CALL_INDEX]
            }
            Self::ToolResultEvents => &[
                tool_result_events::SOURCE,
                tool_result_events::SESSION_ID,
                tool_result_events::MESSAGE_ID,
                tool_result_events::TOOL_USE_ID,
                tool_result_events::EVENT_INDEX,
            ],
            Self::Compactions => &[compactions::SOURCE, compactions::SESSION_ID, compactions::TS],
        }
    }

    /// The columns that are read from members of JSON objects.
    fn fields(self) -> &'static [&'static [Field]] {
        match self {
            Self::Turns => &[
                turns::record::FIELDS,
                turns::subagent::FIELDS,
                turns::usage::FIELDS,
                turns::enrichment::FIELDS,
            ],
            Self::ToolCalls => &[tool_calls::call::FIELDS],
            Self::ToolResultEvents => &[tool_result_events::record::FIELDS],
            Self::Compactions => &[compactions::record::FIELDS],
        }
    }

    /// The type of the column at a place of the archive's row.
    fn kind_at(self, place: usize) -> ColumnKind {
        let reading = self
            .fields()
            .iter()
            .copied()
            .flatten()
            .find(|field| field.place == place)
            .map(|field| field.reading);
        match (self, reading) {
            (_, Some(Reading::Flag | Reading::OptionalFlag)) => ColumnKind::Flag,
            (
                _,
                Some(
                    Reading::Number
                    | Reading::OptionalNumber
                    | Reading::NumberOrZero
                    | Reading::PositiveNumber,
                ),
            ) => ColumnKind::Number,
            (_, Some(_)) => ColumnKind::Text,
            (Self::Turns, None) if [turns::TOKENS_PRESENT, turns::COST_PRESENT].contains(&place) => {
                ColumnKind::Flag
            }
            (Self::ToolCalls, None) if place == tool_calls::CALL_INDEX => ColumnKind::Number,
            (_, None) => ColumnKind::Text,
        }
    }

    /// The kind of personal text that a column holds, if it holds any.
    fn personal_at(self, place: usize) -> Option<PersonalText> {
        PersonalText::ALL
            .into_iter()
            .find(|kind| kind.columns().iter().any(|(table, of)| *table == self && *of == place))
    }

    /// Whether a column has hashes without a key of text that files lack. Whoever reads them can try candidates, unless they are
    /// hashed again with a key.
    fn is_hash_of_left_out(self, place: usize, personal: &PersonalColumns) -> bool {
        match self {
            Self::ToolCalls => {
                place == tool_calls::ARGS_HASH && !personal.plain.contains(&PersonalText::Target)
            }
            Self::ToolResultEvents => place == tool_result_events::CONTENT_HASH,
            Self::Turns | Self::Compactions => false,
        }
    }

    /// The columns of this table's files, without those that every file has at its end.
    pub(super) fn columns(self, personal: &PersonalColumns) -> Vec<ExportColumn> {
        let table = self.table();
        let mut columns = Vec::new();
        for (place, name) in table.columns.iter().copied().enumerate() {
            let is_hashed = match self.personal_at(place) {
                Some(kind) if personal.plain.contains(&kind) => false,
                Some(_) if personal.key.is_some() => true,
                Some(_) => continue,
                None => personal.key.is_some() && self.is_hash_of_left_out(place, personal),
            };
            columns.push(ExportColumn { name, place, kind: self.kind_at(place), is_hashed });
        }
        if self.ts_place() == table.columns.len() {
            columns.push(ExportColumn {
                name: "ts",
                place: self.ts_place(),
                kind: ColumnKind::Text,
                is_hashed: false,
            });
        }
        columns
    }
}

impl FromStr for ExportTable {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|table| table.as_str() == name).ok_or_else(|| {
            format!("{name:?} is no table; tables are {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// Text that may be personal or secret. Files lack the columns that hold it unless an export asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PersonalText {
    /// `tool_calls.target`: commands, paths, addresses.
    Target,
    /// `turns.project` and `turns.project_key`: paths and repositories.
    Project,
    /// `turns.subagent_description`: a sentence about a task.
    Description,
    /// `turns.enrichment_json`: every key of every stamp. The keys workflowId, agentId, persona and tier have columns of
    /// their own, which files always have.
    Enrichment,
}

impl PersonalText {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Target, Self::Project, Self::Description, Self::Enrichment];

    /// The name as an option has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Project => "project",
            Self::Description => "description",
            Self::Enrichment => "enrichment",
        }
    }

    fn columns(self) -> &'static [(ExportTable, usize)] {
        match self {
            Self::Target => &[(ExportTable::ToolCalls, tool_calls::TARGET)],
            Self::Project => {
                &[(ExportTable::Turns, turns::PROJECT), (ExportTable::Turns, turns::PROJECT_KEY)]
            }
            Self::Description => &[(ExportTable::Turns, turns::SUBAGENT_DESCRIPTION)],
            Self::Enrichment => &[(ExportTable::Turns, turns::ENRICHMENT_JSON)],
        }
    }
}

impl FromStr for PersonalText {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
            format!(
                "{name:?} names no columns that are left out; these are {}",
                Self::ALL.map(Self::as_str).join(", ")
            )
        })
    }
}

/// The key of the hashes that replace personal text. Does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct HashKey([u8; blake3::KEY_LEN]);

/// The fewest bytes of a secret. Shorter secrets are guessed.
pub const HASH_SECRET_MIN_BYTES: usize = 16;

/// A secret is too short for a [`HashKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a hash key needs at least {HASH_SECRET_MIN_BYTES} bytes, and this one has {len_bytes}: make one with `openssl rand -hex 32`"
)]
pub struct ShortSecret {
    /// The length of the secret in bytes, without the line end after it.
    pub len_bytes: usize,
}

/// Hex digits of a hash: 128 bits, so that equal hashes mean equal texts.
const HASH_HEX_LEN: usize = 32;

impl HashKey {
    /// Derives a key from a secret of any form. A line end after the secret does not count.
    ///
    /// # Errors
    /// When the secret has fewer than [`HASH_SECRET_MIN_BYTES`] bytes.
    pub fn of_secret(secret: &[u8]) -> Result<Self, ShortSecret> {
        let secret = secret.strip_suffix(b"\n").unwrap_or(secret);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if secret.len() < HASH_SECRET_MIN_BYTES {
            return Err(ShortSecret { len_bytes: secret.len() });
        }
        Ok(Self(blake3::derive_key("relayburn-ledger 2026-11-30 personal text of an export", secret)))
    }

    /// The first 32 hex digits of the keyed BLAKE3 of a text.
    pub fn hash(&self, text: &[u8]) -> String {
        let mut hex = blake3::keyed_hash(&self.0, text).to_hex().to_string();
        hex.truncate(HASH_HEX_LEN);
        hex
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey")
    }
}

/// What becomes of personal text: the kinds that are written as they are; a key makes hashes of the others.
#[derive(Debug, Clone, Default)]
pub(super) struct PersonalColumns {
    pub plain: Vec<PersonalText>,
    pub key: Option<HashKey>,
}

impl PersonalColumns {
    /// The names of the kinds that are written as they are, and of those that are hashed. Both have the kinds of
    /// files that stay from the last export.
    pub(super) fn names_beside(
        &self,
        [plain_of_stay, hashed_of_stay]: [&[String]; 2],
    ) -> (Vec<String>, Vec<String>) {
        let names = |is_one: &dyn Fn(PersonalText) -> bool, of_stay: &[String]| {
            let is_named = |kind: &PersonalText| of_stay.iter().any(|name| name == kind.as_str());
            let kinds = PersonalText::ALL.into_iter().filter(|kind| is_one(*kind) || is_named(kind));
            kinds.map(|kind| kind.as_str().to_owned()).collect()
        };
        let is_plain = |kind| self.plain.contains(&kind);
        let is_hashed = |kind| self.key.is_some() && !is_plain(kind);
        (names(&is_plain, plain_of_stay), names(&is_hashed, hashed_of_stay))
    }
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnKind {
    /// UTF-8 text.
    Text,
    /// A 64-bit integer.
    Number,
    /// A boolean.
    Flag,
}

/// A column of a file that is read from the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct ExportColumn {
    pub name: &'static str,
    /// The place in the archive's row.
    pub place: usize,
    pub kind: ColumnKind,
    /// Whether hashes replace the texts.
    pub is_hashed: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(columns: &[ExportColumn]) -> Vec<&str> {
        columns.iter().map(|column| column.name).collect()
    }

    #[test]
    fn the_types_are_those_of_the_archive() {
        let all = PersonalColumns { plain: PersonalText::ALL.to_vec(), key: None };
        for table in ExportTable::ALL {
            for column in table.columns(&all) {
                let sql = table.table().create;
                let declared = sql
                    .lines()
                    .find_map(|line| line.trim().strip_prefix(column.name)?.strip_prefix(' '))
                    .unwrap_or("TEXT");
                assert_eq!(
                    declared.starts_with("TEXT"),
                    column.kind == ColumnKind::Text,
                    "{}.{}",
                    table.as_str(),
                    column.name
                );
            }
        }
        let flags: Vec<&str> = ExportTable::ALL
            .into_iter()
            .flat_map(|table| table.columns(&all))
            .filter(|column| column.kind == ColumnKind::Flag)
            .map(|column| column.name)
            .collect();
        assert_eq!(
            flags,
            ["has_edits", "is_sidechain", "tokens_present", "cost_present", "is_error", "is_error"]
        );
    }

    #[test]
    fn personal_text_is_left_out_unless_it_is_asked_for_or_hashed() {
        let left_out = ["project", "project_key", "subagent_description", "enrichment_json", "target"];
        let columns = |personal: &PersonalColumns| {
            ExportTable::ALL.into_iter().flat_map(|table| table.columns(personal)).collect::<Vec<_>>()
        };
        let none = columns(&PersonalColumns::default());
        assert!(left_out.iter().all(|name| !names(&none).contains(name)));
        let project = PersonalColumns { plain: vec![PersonalText::Project], key: None };
        let found = columns(&project);
        assert_eq!(found.len(), none.len() + 2);
        assert!(names(&found).contains(&"project_key") && found.iter().all(|column| !column.is_hashed));
        let key = HashKey::of_secret(b"0123456789abcdef\n").unwrap();
        let hashed = columns(&PersonalColumns { key: Some(key), ..project.clone() });
        let of_hashed: Vec<ExportColumn> = hashed.iter().copied().filter(|column| column.is_hashed).collect();
        assert_eq!(names(&of_hashed), ["subagent_description", "enrichment_json", "target"]);
    }

    #[test]
    fn a_hash_depends_on_the_secret_and_not_on_the_line_end_after_it() {
        let key = |secret: &[u8]| HashKey::of_secret(secret).unwrap();
        assert_eq!(key(b"0123456789abcdef").hash(b"/home/a"), key(b"0123456789abcdef\r\n").hash(b"/home/a"));
        assert_ne!(key(b"0123456789abcdef").hash(b"/home/a"), key(b"0123456789abcdeg").hash(b"/home/a"));
        assert_eq!(key(b"0123456789abcdef").hash(b"").len(), 32);
        assert_eq!(HashKey::of_secret(b"0123456789abcde\n"), Err(ShortSecret { len_bytes: 15 }));
    }
}
