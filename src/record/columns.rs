//! The columns of the archive's tables: their names, and the member of a ledger line that each column is read from.
//!
//! Each column is declared once, in a line of a table below. The line defines the statement that creates the table, the fast
//! reader (`record::tape`), the exact reader (`record::exact`), the check that a required member is present, the constant for
//! the column's place in a row, and the printing of archived rows as JSON.
//!
//! Names, order and SQL types are a format shared with other programs (`docs/records.md`). They change only with the version of
//! the schema.

use bumpalo::Bump;

use super::Cell;
use crate::scan::json::tape::Walk;

/// A table of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// The table's name.
    pub name: &'static str,
    /// The table's columns, in the order of a new archive.
    pub columns: &'static [&'static str],
    /// The statement that creates the table.
    pub create: &'static str,
    /// The places of the columns in the primary key and in indexes that hold texts of ledger lines. The length of these texts is
    /// limited.
    pub indexed: &'static [usize],
}

/// How a member of a JSON object becomes a cell, and how a cell becomes a member again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// A string; the member is required.
    Text,
    /// A string or null; the member is required.
    NullableText,
    /// A string; NULL where the member is absent or null.
    OptionalText,
    /// A string; the empty string where the member is absent or null. An empty string is not printed.
    TextOrEmpty,
    /// A number; the member is required.
    Number,
    /// A number; NULL where the member is absent or null.
    OptionalNumber,
    /// A number; 0 where the member is absent or null.
    NumberOrZero,
    /// A number; NULL where the member is absent, null, or not above 0.
    PositiveNumber,
    /// 1 for values that are true in JavaScript, 0 for all others; NULL where the member is absent.
    OptionalFlag,
    /// Like `OptionalFlag`, but 0 where the member is absent.
    Flag,
    /// An array of strings as JSON text; NULL where the member is absent, null or empty.
    Strings,
}

impl Reading {
    pub(crate) const fn is_required(self) -> bool {
        matches!(self, Self::Text | Self::NullableText | Self::Number)
    }

    /// The cell's value when the member is absent.
    pub(crate) const fn absent(self) -> Cell<'static> {
        match self {
            Self::TextOrEmpty => Cell::Text(""),
            Self::NumberOrZero | Self::Flag => Cell::Int(0),
            _ => Cell::Null,
        }
    }
}

/// A column that is read from a member of a JSON object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    /// The column's place in a row.
    pub place: usize,
    /// The member's key.
    pub member: &'static str,
    pub reading: Reading,
}

/// The bits, one for each place, of the fields that must be present.
pub(crate) const fn required(fields: &[Field]) -> u64 {
    let mut bits = 0;
    let mut index = 0;
    while index < fields.len() {
        if fields[index].reading.is_required() {
            bits |= 1 << fields[index].place;
        }
        index += 1;
    }
    bits
}

/// A row in which every field is absent.
pub(crate) const fn absent_row<const COLUMNS: usize>(fields: &[Field]) -> [Cell<'static>; COLUMNS] {
    let mut row = [Cell::Null; COLUMNS];
    let mut index = 0;
    while index < fields.len() {
        row[fields[index].place] = fields[index].reading.absent();
        index += 1;
    }
    row
}

/// Returns the name in a column's definition, such as `source` of `source TEXT NOT NULL`.
const fn name_of(sql: &'static str) -> &'static str {
    let mut len = 0;
    while sql.as_bytes()[len] != b' ' {
        len += 1;
    }
    sql.split_at(len).0
}

/// The tape reader's result for a member: `None` when the exact reader has to decide, `Some(None)` for a member without a
/// column.
pub(crate) type OnTape<'a> = Option<Option<(usize, Cell<'a>)>>;

/// Declares a table: its columns in order, in groups. Each group is read from one JSON object or filled by other code. A line
/// is `PLACE "column SQL-TYPE" "member" Reading;`, without the last two for a column that is filled by other code.
macro_rules! table {
    ($(#[$doc:meta])* $table:ident of $Cells:ident at $Place:ident, key $key:literal, indexed [$($INDEXED:ident)*] {
        $( $group:ident { $( $PLACE:ident $sql:literal $($member:literal $reading:ident)? ; )* } )*
    }) => {
        $(#[$doc])*
        pub mod $table {
            use super::*;

            #[allow(clippy::upper_case_acronyms, non_camel_case_types)]
            enum $Place { $($($PLACE,)*)* END }

            $($(
                #[doc = concat!("The place of `", $sql, "`.")]
                pub const $PLACE: usize = $Place::$PLACE as usize;
            )*)*

            /// The number of columns; the length of a row.
            pub const COLUMNS: usize = $Place::END as usize;

            /// A row, in the order of the columns.
            pub type $Cells<'a> = [Cell<'a>; COLUMNS];

            /// The table.
            pub const TABLE: Table = Table {
                name: stringify!($table),
                columns: &[$($(name_of($sql),)*)*],
                create: concat!(
                    "CREATE TABLE ", stringify!($table), " (\n",
                    $($("  ", $sql, ",\n",)*)*
                    "  PRIMARY KEY (", $key, ")\n)"
                ),
                indexed: &[$($INDEXED),*],
            };

            $(
                #[allow(dead_code)]
                pub(crate) mod $group {
                    use super::*;

                    /// The columns that are read from this object.
                    pub(crate) const FIELDS: &[Field] = &[
                        $($( Field { place: super::$PLACE, member: $member, reading: Reading::$reading }, )?)*
                    ];

                    /// The bits, one for each place, of the members that must be present.
                    pub(crate) const REQUIRED: u64 = required(FIELDS);

                    /// A row in which every member is absent.
                    pub(crate) const ABSENT: $Cells<'static> = absent_row(FIELDS);

                    /// Reads the member `key` from the tape.
                    #[inline(always)]
                    #[allow(unused_variables)]
                    pub(crate) fn on_tape<'a>(key: &str, value: Walk<'_, 'a>, bump: &'a Bump) -> OnTape<'a> {
                        match key {
                            $($( $member => {
                                Some(Some((super::$PLACE, Reading::$reading.on_tape(value, bump)?)))
                            } )?)*
                            _ => Some(None),
                        }
                    }
                }
            )*
        }
    };
}

table! {
    /// One row for each turn, by source, session and message.
    turns of TurnCells at TurnColumn, key "source, session_id, message_id",
    indexed [SOURCE SESSION_ID MESSAGE_ID TS MODEL PROJECT_KEY ACTIVITY WORKFLOW_ID ATTRIBUTION_FIDELITY] {
        record {
            SOURCE "source TEXT NOT NULL" "source" Text;
            SESSION_ID "session_id TEXT NOT NULL" "sessionId" Text;
            MESSAGE_ID "message_id TEXT NOT NULL" "messageId" Text;
            TURN_INDEX "turn_index INTEGER NOT NULL" "turnIndex" Number;
            TS "ts TEXT NOT NULL" "ts" Text;
            MODEL "model TEXT NOT NULL" "model" Text;
            PROJECT "project TEXT" "project" OptionalText;
            PROJECT_KEY "project_key TEXT" "projectKey" OptionalText;
            ACTIVITY "activity TEXT" "activity" OptionalText;
            STOP_REASON "stop_reason TEXT" "stopReason" OptionalText;
            HAS_EDITS "has_edits INTEGER" "hasEdits" OptionalFlag;
            RETRIES "retries INTEGER" "retries" OptionalNumber;
        }
        subagent {
            IS_SIDECHAIN "is_sidechain INTEGER" "isSidechain" Flag;
            SUBAGENT_ID "subagent_id TEXT" "agentId" OptionalText;
            PARENT_SUBAGENT_ID "parent_subagent_id TEXT" "parentAgentId" OptionalText;
            PARENT_TOOL_USE_ID "parent_tool_use_id TEXT" "parentToolUseId" OptionalText;
            SUBAGENT_TYPE "subagent_type TEXT" "subagentType" OptionalText;
            SUBAGENT_DESCRIPTION "subagent_description TEXT" "description" OptionalText;
        }
        usage {
            INPUT_TOKENS "input_tokens INTEGER NOT NULL DEFAULT 0" "input" Number;
            OUTPUT_TOKENS "output_tokens INTEGER NOT NULL DEFAULT 0" "output" Number;
            REASONING_TOKENS "reasoning_tokens INTEGER NOT NULL DEFAULT 0" "reasoning" Number;
            CACHE_READ_TOKENS "cache_read_tokens INTEGER NOT NULL DEFAULT 0" "cacheRead" Number;
            CACHE_CREATE_5M_TOKENS "cache_create_5m_tokens INTEGER NOT NULL DEFAULT 0" "cacheCreate5m" Number;
            CACHE_CREATE_1H_TOKENS "cache_create_1h_tokens INTEGER NOT NULL DEFAULT 0" "cacheCreate1h" Number;
        }
        enrichment {
            WORKFLOW_ID "workflow_id TEXT" "workflowId" OptionalText;
            AGENT_ID "agent_id TEXT" "agentId" OptionalText;
            PERSONA "persona TEXT" "persona" OptionalText;
            TIER "tier TEXT" "tier" OptionalText;
        }
        derived {
            ENRICHMENT_JSON "enrichment_json TEXT";
            ATTRIBUTION_FIDELITY "attribution_fidelity TEXT";
            TOKENS_PRESENT "tokens_present INTEGER";
            COST_PRESENT "cost_present INTEGER";
        }
    }
}

table! {
    /// One row for each tool call of a turn.
    tool_calls of ToolCallCells at ToolCallColumn, key "source, session_id, message_id, call_index",
    indexed [SOURCE SESSION_ID MESSAGE_ID TOOL_USE_ID TOOL_NAME] {
        of_turn {
            SOURCE "source TEXT NOT NULL";
            SESSION_ID "session_id TEXT NOT NULL";
            MESSAGE_ID "message_id TEXT NOT NULL";
            CALL_INDEX "call_index INTEGER NOT NULL";
        }
        call {
            TOOL_USE_ID "tool_use_id TEXT" "id" OptionalText;
            TOOL_NAME "tool_name TEXT NOT NULL" "name" Text;
            TARGET "target TEXT" "target" OptionalText;
            ARGS_HASH "args_hash TEXT" "argsHash" OptionalText;
            IS_ERROR "is_error INTEGER" "isError" OptionalFlag;
            REPLACED_TOOLS "replaced_tools TEXT" "replacedTools" Strings;
            COLLAPSED_CALLS "collapsed_calls INTEGER" "collapsedCalls" PositiveNumber;
        }
    }
}

table! {
    /// One row for each tool result event.
    tool_result_events of ToolResultEventCells at ToolResultEventColumn, key "source, session_id, message_id, tool_use_id, event_index",
    indexed [SOURCE SESSION_ID MESSAGE_ID TOOL_USE_ID SUBAGENT_SESSION_ID] {
        record {
            SOURCE "source TEXT NOT NULL" "source" Text;
            SESSION_ID "session_id TEXT NOT NULL" "sessionId" Text;
            MESSAGE_ID "message_id TEXT NOT NULL" "messageId" TextOrEmpty;
            TOOL_USE_ID "tool_use_id TEXT NOT NULL" "toolUseId" Text;
            CALL_INDEX "call_index INTEGER NOT NULL" "callIndex" NumberOrZero;
            EVENT_INDEX "event_index INTEGER NOT NULL" "eventIndex" Number;
            STATUS "status TEXT" "status" NullableText;
            CONTENT_LENGTH "content_length INTEGER" "contentLength" OptionalNumber;
            CONTENT_HASH "content_hash TEXT" "contentHash" OptionalText;
            IS_ERROR "is_error INTEGER" "isError" OptionalFlag;
            SUBAGENT_SESSION_ID "subagent_session_id TEXT" "subagentSessionId" OptionalText;
            AGENT_ID "agent_id TEXT" "agentId" OptionalText;
            EVENT_SOURCE "event_source TEXT" "eventSource" NullableText;
            TS "ts TEXT" "ts" OptionalText;
        }
    }
}

table! {
    /// One row for each compaction.
    compactions of CompactionCells at CompactionColumn, key "source, session_id, ts",
    indexed [SOURCE SESSION_ID TS] {
        record {
            SOURCE "source TEXT NOT NULL" "source" Text;
            SESSION_ID "session_id TEXT NOT NULL" "sessionId" Text;
            TS "ts TEXT NOT NULL" "ts" Text;
            PRECEDING_MESSAGE_ID "preceding_message_id TEXT" "precedingMessageId" OptionalText;
            TOKENS_BEFORE_COMPACT "tokens_before_compact INTEGER" "tokensBeforeCompact" OptionalNumber;
        }
    }
}

table! {
    /// One row for each stamp line; `source` is always `*`.
    stamps of StampCells at StampColumn, key "source, session_id, ts, ledger_offset_bytes",
    indexed [SOURCE SESSION_ID TS] {
        derived {
            SOURCE "source TEXT NOT NULL";
            SESSION_ID "session_id TEXT NOT NULL";
            TS "ts TEXT NOT NULL";
            SELECTOR_JSON "selector_json TEXT";
            ENRICHMENT_JSON "enrichment_json TEXT NOT NULL";
            LEDGER_OFFSET_BYTES "ledger_offset_bytes INTEGER NOT NULL";
        }
    }
}

table! {
    /// One row for each session that has turns, aggregated from `turns`.
    sessions of SessionCells at SessionColumn, key "source, session_id",
    indexed [] {
        derived {
            SOURCE "source TEXT NOT NULL";
            SESSION_ID "session_id TEXT NOT NULL";
            PROJECT "project TEXT";
            PROJECT_KEY "project_key TEXT";
            STARTED_AT "started_at TEXT";
            ENDED_AT "ended_at TEXT";
            TURN_COUNT "turn_count INTEGER NOT NULL DEFAULT 0";
            MODEL_SET_JSON "model_set_json TEXT";
            WORKFLOW_ID "workflow_id TEXT";
            AGENT_ID "agent_id TEXT";
            PARENT_AGENT_ID "parent_agent_id TEXT";
            HAS_SUBAGENT "has_subagent INTEGER NOT NULL DEFAULT 0";
            MIN_FIDELITY "min_fidelity TEXT";
            HAS_FULL_ATTRIBUTION "has_full_attribution INTEGER";
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::typed::LedgerLine;
    use crate::scan::json::{Document, stringify};

    const MANUAL: &str = include_str!("../../docs/records.md");

    /// The first two cells of each row of the manual's table after "table `name`:".
    fn described(name: &str) -> Vec<(String, String)> {
        let table = MANUAL.split(&format!("table `{name}`:\n")).nth(1).unwrap();
        let lines = table.lines().skip_while(|line| !line.starts_with("| `"));
        let cells = |line: &str| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            (cells[1].trim_matches('`').to_owned(), cells[2].trim_matches('`').to_owned())
        };
        lines.take_while(|line| line.starts_with('|')).map(cells).collect()
    }

    #[test]
    fn the_manual_describes_every_column_and_its_member() {
        let fields = |group: &str, fields: &[Field]| -> Vec<(usize, String)> {
            let member =
                |member: &str| if group.is_empty() { member.into() } else { format!("{group}{member}") };
            fields.iter().map(|field| (field.place, member(field.member))).collect()
        };
        let of_turns = [
            fields("", turns::record::FIELDS),
            fields("subagent.", turns::subagent::FIELDS),
            fields("usage.", turns::usage::FIELDS),
        ];
        for (table, members) in [
            (turns::TABLE, of_turns.concat()),
            (tool_calls::TABLE, fields("", tool_calls::call::FIELDS)),
            (tool_result_events::TABLE, fields("", tool_result_events::record::FIELDS)),
            (compactions::TABLE, fields("", compactions::record::FIELDS)),
            (stamps::TABLE, Vec::new()),
        ] {
            let described = described(table.name);
            let columns: Vec<&str> = described.iter().map(|(column, _)| &**column).collect();
            assert_eq!(columns, table.columns, "{}", table.name);
            for (place, member) in members {
                assert_eq!(described[place].1, member, "{}.{}", table.name, table.columns[place]);
            }
        }
    }

    #[test]
    fn the_manual_has_an_example_of_every_kind() {
        for kind in crate::record::RecordKind::ALL {
            let example = format!("## `{0}`\n\n```json\n{{\"v\":1,\"kind\":\"{0}\",", kind.as_str());
            assert!(MANUAL.contains(&example), "{example}");
        }
    }

    #[test]
    fn every_example_of_the_manual_is_a_line() {
        let examples = MANUAL.lines().filter(|line| line.starts_with("{\"v\":1,\"kind\":"));
        let mut count = 0;
        for example in examples {
            LedgerLine::from_json(example).unwrap();
            // The example is written as in the ledger: an append would not change a byte.
            let mut document = Document::default();
            let mut printed = Vec::new();
            stringify(document.parse(example.as_bytes()).unwrap(), &mut printed);
            assert_eq!(printed, example.as_bytes());
            count += 1;
        }
        assert_eq!(count, 8);
    }
}
