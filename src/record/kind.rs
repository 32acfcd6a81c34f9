//! The kinds of lines, and the envelope that says which kind a parsed line is.

use crate::scan::json::{Kind as JsonKind, Value};

/// The kinds of lines that the ledger knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LedgerLineKind {
    /// A line with a `record` member.
    Record(RecordKind),
    /// A stamp, which assigns keys to turns.
    Stamp,
}

/// The kinds of records that have an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// One answer of a model, with its usage and tool calls.
    Turn,
    /// A compaction of a context.
    Compaction,
    /// A relationship between two sessions.
    Relationship,
    /// The outcome of a tool call.
    ToolResultEvent,
    /// Input from the user, or from a tool on the user's behalf.
    UserTurn,
}

impl LedgerLineKind {
    /// The name in the ledger: the value of `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Record(kind) => kind.as_str(),
            Self::Stamp => "stamp",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "stamp" { Some(Self::Stamp) } else { RecordKind::from_name(name).map(Self::Record) }
    }
}

/// Defines the name of each kind of record, and the list of all kinds. The list is complete: without a name for every kind
/// the match in `as_str` does not compile.
macro_rules! named {
    ($($Kind:ident $name:literal,)*) => {
        impl RecordKind {
            /// All kinds of records.
            pub const ALL: &'static [Self] = &[$(Self::$Kind,)*];

            /// The name in the ledger: the value of `kind`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$Kind => $name,)* }
            }
        }
    };
}

named! {
    Turn "turn",
    Compaction "compaction",
    Relationship "relationship",
    ToolResultEvent "tool_result_event",
    UserTurn "user_turn",
}

impl RecordKind {
    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

/// The type of a parsed line of a ledger.
pub(crate) enum ParsedLine<'d> {
    /// A record: the object in `record`.
    Record(RecordKind, Value<'d>),
    /// A line of a known kind whose `record` is missing or not an object.
    Shapeless(RecordKind),
    /// A stamp.
    Stamp,
    /// Another version, another kind, or not an object.
    Unknown,
}

/// Returns the kind of a parsed line; `Unknown` unless `v` is 1 and `kind` is known.
pub(crate) fn line_of(root: Value<'_>) -> ParsedLine<'_> {
    let version = root.get("v").and_then(Value::as_number);
    if version.is_none_or(|version| version.as_f64() != 1.0) {
        return ParsedLine::Unknown;
    }
    let Some(kind) = root.get("kind").and_then(Value::as_str) else { return ParsedLine::Unknown };
    match LedgerLineKind::from_name(&kind) {
        Some(LedgerLineKind::Record(kind)) => match root.get("record") {
            Some(record) if record.kind() == JsonKind::Object => ParsedLine::Record(kind, record),
            _ => ParsedLine::Shapeless(kind),
        },
        Some(LedgerLineKind::Stamp) => ParsedLine::Stamp,
        None => ParsedLine::Unknown,
    }
}
