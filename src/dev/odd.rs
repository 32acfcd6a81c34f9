//! Odd lines for the adversarial profile: every oddity that a reader of ledgers must accept, skip, report or reject. Each line
//! contains ids of its session, so that no two lines share a key. Also gives the verdict that a reader must reach on each line,
//! so that a test can compare its counts with a [`super::GeneratedSummary`].

use super::rng::Rng;
use super::text::{hex16, push, push_number, push_timestamp, push_words};
use super::turns::{GeneratedLines, GeneratedSession, LineKind};

/// How a reader must treat a line of an odd kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OddVerdict {
    /// The reader reads the line as a record.
    Accepted,
    /// The reader reads the line as a record, or rejects and reports it: a value has a type that the format does not allow,
    /// though some readers store the value.
    Lenient,
    /// The reader skips the line: nothing but white space.
    Blank,
    /// The reader skips and counts the line: valid JSON, but not a record of version 1 and of a known kind.
    Unknown,
    /// The reader reports the line: not JSON.
    Malformed,
    /// The reader reports the line: JSON, but without a member that a record of its kind needs.
    Rejected,
}

/// One kind of odd line.
#[derive(Debug)]
pub struct OddKind {
    /// The name; equal to the name of the golden case with this oddity, if there is such a case.
    pub name: &'static str,
    /// The verdict that a reader must reach.
    pub verdict: OddVerdict,
    /// The line, with `@name` where `fill` puts a value.
    template: &'static str,
}

const fn odd(name: &'static str, verdict: OddVerdict, template: &'static str) -> OddKind {
    OddKind { name, verdict, template }
}

macro_rules! turn {
    ($body:literal) => {
        concat!(r#"{"v":1,"kind":"turn","record":{"#, $body, "}}")
    };
}

macro_rules! stamp {
    ($body:literal) => {
        concat!(r#"{"v":1,"kind":"stamp","#, $body, "}")
    };
}

macro_rules! event {
    ($body:literal) => {
        concat!(r#"{"v":1,"kind":"tool_result_event","record":{"#, $body, "}}")
    };
}

/// Every odd kind. All kinds but the last, `line_1_mib`, are dealt from a shuffled deck, so each has the same share.
#[rustfmt::skip]
pub const ODD_KINDS: [OddKind; 136] = [
    odd("plain", OddVerdict::Accepted, turn!("@turn")),
    odd("lone_high_surrogate", OddVerdict::Accepted, turn!(r#"@turn,"project":"/home/dev/half \ud83d""#)),
    odd("surrogate_pair_escape", OddVerdict::Accepted, turn!(r#"@turn,"project":"/home/dev/\ud83d\udee0""#)),
    odd("bom", OddVerdict::Accepted, "\u{feff}{\"v\":1,\"kind\":\"turn\",\"record\":{@turn}}"),
    odd("nbsp_lead", OddVerdict::Accepted, "\u{a0}{\"v\":1,\"kind\":\"turn\",\"record\":{@turn}}"),
    odd("crlf", OddVerdict::Accepted, "{\"v\":1,\"kind\":\"turn\",\"record\":{@turn}}\r"),
    odd("tabs", OddVerdict::Accepted, "\t {\"v\":1,\"kind\":\"turn\",\"record\":{@turn}} \t"),
    odd("v_1.0", OddVerdict::Accepted, r#"{"v":1.0,"kind":"turn","record":{@turn}}"#),
    odd("v_string", OddVerdict::Unknown, r#"{"v":"1","kind":"turn","record":{@turn}}"#),
    odd("v_2", OddVerdict::Unknown, r#"{"v":2,"kind":"turn","record":{@turn}}"#),
    odd("v_true", OddVerdict::Unknown, r#"{"v":true,"kind":"turn","record":{@turn}}"#),
    odd("v_missing", OddVerdict::Unknown, r#"{"kind":"turn","record":{@turn}}"#),
    odd("kind_escaped", OddVerdict::Accepted, r#"{"v":1,"kind":"t\u0075rn","record":{@turn}}"#),
    odd("kind_case", OddVerdict::Unknown, r#"{"v":1,"kind":"TURN","record":{@turn}}"#),
    odd("kind_number", OddVerdict::Unknown, r#"{"v":1,"kind":7,"record":{@turn}}"#),
    odd("dup_key_record_field", OddVerdict::Accepted, turn!(r#"@turn,"model":"@model-again""#)),
    odd("dup_kind_last_wins", OddVerdict::Accepted, r#"{"v":1,"kind":"compaction","kind":"turn","record":{@turn}}"#),
    odd("unknown_deep", OddVerdict::Accepted, turn!(r#"@turn,"later":@deep"#)),
    odd("turnIndex_1e1", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":1e1,@body,"toolCalls":[]"#)),
    odd("turnIndex_1.0", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":3.0,@body,"toolCalls":[]"#)),
    odd("turnIndex_1.5", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":2.5,@body,"toolCalls":[]"#)),
    odd("turnIndex_neg", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":-@number,@body,"toolCalls":[]"#)),
    odd("turnIndex_big", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":9007199254740993,@body,"toolCalls":[]"#)),
    odd("turnIndex_i64max", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":9223372036854775807,@body,"toolCalls":[]"#)),
    odd("turnIndex_huge", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":1e300,@body,"toolCalls":[]"#)),
    odd("turnIndex_1e400", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":1e400,@body,"toolCalls":[]"#)),
    odd("turnIndex_null", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":null,@body,"toolCalls":[]"#)),
    odd("turnIndex_missing", OddVerdict::Rejected, turn!(r#"@head,@body,"toolCalls":[]"#)),
    odd("turnIndex_string_num", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":"@number",@body,"toolCalls":[]"#)),
    odd("turnIndex_string", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":"first",@body,"toolCalls":[]"#)),
    odd("turnIndex_bool", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":true,@body,"toolCalls":[]"#)),
    odd("turnIndex_array", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":[@number],@body,"toolCalls":[]"#)),
    odd("usage_float", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":@index,"ts":"@ts","model":"@model","usage":{"input":@number.5,"output":2,"reasoning":0,"cacheRead":3,"cacheCreate5m":4,"cacheCreate1h":5},"toolCalls":[]"#)),
    odd("usage_missing", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,"ts":"@ts","model":"@model","toolCalls":[]"#)),
    odd("usage_null", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,"ts":"@ts","model":"@model","usage":null,"toolCalls":[]"#)),
    odd("usage_field_missing", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,"ts":"@ts","model":"@model","usage":{"input":@number},"toolCalls":[]"#)),
    odd("usage_string", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":@index,"ts":"@ts","model":"@model","usage":{"input":"@number","output":2,"reasoning":0,"cacheRead":3,"cacheCreate5m":4,"cacheCreate1h":5},"toolCalls":[]"#)),
    odd("toolCalls_missing", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,@body"#)),
    odd("toolCalls_null", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":null"#)),
    odd("toolCalls_string", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":"Bash""#)),
    odd("toolCalls_object", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":{}"#)),
    odd("toolCalls_elem_null", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[null]"#)),
    odd("toolCall_no_name", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","argsHash":"@fresh"}]"#)),
    odd("toolCall_no_id", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"name":"Bash"}]"#)),
    odd("toolCall_isError_str", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Grep","argsHash":"@fresh","isError":"false"}]"#)),
    odd("toolCall_isError_0", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Grep","argsHash":"@fresh","isError":0}]"#)),
    odd("toolCall_replaced_empty", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Grep","argsHash":"@fresh","replacedTools":[],"collapsedCalls":0}]"#)),
    odd("toolCall_replaced", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Grep","argsHash":"@fresh","replacedTools":["Grep","Lösch \"alles\""],"collapsedCalls":4}]"#)),
    odd("toolCall_replaced_string", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Grep","argsHash":"@fresh","replacedTools":"Grep","collapsedCalls":3.5}]"#)),
    odd("toolCall_collapsed_neg", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Grep","argsHash":"@fresh","collapsedCalls":-2}]"#)),
    odd("toolCall_collapsed_str", OddVerdict::Lenient, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Grep","argsHash":"@fresh","collapsedCalls":"@number"}]"#)),
    odd("project_null", OddVerdict::Accepted, turn!(r#"@turn,"project":null"#)),
    odd("project_empty", OddVerdict::Accepted, turn!(r#"@turn,"project":"""#)),
    odd("project_number", OddVerdict::Lenient, turn!(r#"@turn,"project":@number"#)),
    odd("project_float", OddVerdict::Lenient, turn!(r#"@turn,"project":@number.5"#)),
    odd("project_bool", OddVerdict::Rejected, turn!(r#"@turn,"project":true"#)),
    odd("project_object", OddVerdict::Rejected, turn!(r#"@turn,"project":{"name":"@fresh"}"#)),
    odd("sessionId_number", OddVerdict::Lenient, turn!(r#""v":1,"source":"@source","sessionId":@number,"messageId":"@fresh","turnIndex":@index,@body,"toolCalls":[]"#)),
    odd("sessionId_missing", OddVerdict::Rejected, turn!(r#""v":1,"source":"@source","messageId":"@fresh","turnIndex":@index,@body,"toolCalls":[]"#)),
    odd("sessionId_null", OddVerdict::Rejected, turn!(r#""v":1,"source":"@source","sessionId":null,"messageId":"@fresh","turnIndex":@index,@body,"toolCalls":[]"#)),
    odd("sessionId_empty", OddVerdict::Accepted, turn!(r#""v":1,"source":"@source","sessionId":"","messageId":"@fresh","turnIndex":@index,@body,"toolCalls":[]"#)),
    odd("messageId_missing", OddVerdict::Rejected, turn!(r#"@record,"turnIndex":@index,@body,"toolCalls":[]"#)),
    odd("source_missing", OddVerdict::Rejected, turn!(r#""v":1,"sessionId":"@session","messageId":"@fresh","turnIndex":@index,@body,"toolCalls":[]"#)),
    odd("source_unknown", OddVerdict::Accepted, turn!(r#""v":1,"source":"harness-of-tomorrow","sessionId":"@session","messageId":"@fresh","turnIndex":@index,@body,"toolCalls":[]"#)),
    odd("ts_missing", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,"model":"@model",@usage,"toolCalls":[]"#)),
    odd("model_missing", OddVerdict::Rejected, turn!(r#"@head,"turnIndex":@index,"ts":"@ts",@usage,"toolCalls":[]"#)),
    odd("hasEdits_null", OddVerdict::Accepted, turn!(r#"@turn,"hasEdits":null"#)),
    odd("hasEdits_0", OddVerdict::Lenient, turn!(r#"@turn,"hasEdits":0"#)),
    odd("hasEdits_str", OddVerdict::Lenient, turn!(r#"@turn,"hasEdits":"yes""#)),
    odd("retries_null", OddVerdict::Accepted, turn!(r#"@turn,"retries":null"#)),
    odd("activity_num", OddVerdict::Lenient, turn!(r#"@turn,"activity":@number"#)),
    odd("subagent_null", OddVerdict::Accepted, turn!(r#"@turn,"subagent":null"#)),
    odd("subagent_empty", OddVerdict::Accepted, turn!(r#"@turn,"subagent":{}"#)),
    odd("subagent_full", OddVerdict::Accepted, turn!(r#"@turn,"subagent":{"isSidechain":true,"agentId":"@fresh","parentAgentId":"@session","parentToolUseId":"toolu_@fresh","subagentType":"Plan","description":"weigh both ways"}"#)),
    odd("subagent_false_string", OddVerdict::Lenient, turn!(r#"@turn,"subagent":{"isSidechain":"false"}"#)),
    odd("subagent_array", OddVerdict::Lenient, turn!(r#"@turn,"subagent":[]"#)),
    odd("subagent_string", OddVerdict::Lenient, turn!(r#"@turn,"subagent":"@fresh""#)),
    odd("fidelity_null", OddVerdict::Accepted, turn!(r#"@turn,"fidelity":null"#)),
    odd("fidelity_no_coverage", OddVerdict::Rejected, turn!(r#"@turn,"fidelity":{"class":"partial"}"#)),
    odd("fidelity_no_class", OddVerdict::Rejected, turn!(r#"@turn,"fidelity":{"granularity":"per-turn","coverage":{}}"#)),
    odd("fidelity_cost_only", OddVerdict::Accepted, turn!(r#"@turn,"fidelity":{"granularity":"cost-only","coverage":{},"class":"cost-only"}"#)),
    odd("record_missing", OddVerdict::Rejected, r#"{"v":1,"kind":"turn"}"#),
    odd("record_null", OddVerdict::Rejected, r#"{"v":1,"kind":"turn","record":null}"#),
    odd("broken", OddVerdict::Malformed, r#"{"v":1,"kind":"turn","record":{@head"#),
    odd("empty", OddVerdict::Blank, ""),
    odd("spaces", OddVerdict::Blank, "     "),
    odd("array", OddVerdict::Unknown, r#"[@number,"@fresh"]"#),
    odd("null", OddVerdict::Unknown, "null"),
    odd("string", OddVerdict::Unknown, r#""@session""#),
    odd("number", OddVerdict::Unknown, "@number"),
    odd("trailing_comma", OddVerdict::Malformed, r#"{"v":1,"kind":"turn","record":{@turn},}"#),
    odd("single_quotes", OddVerdict::Malformed, "{'v':1,'kind':'turn'}"),
    odd("nan", OddVerdict::Malformed, turn!(r#"@head,"turnIndex":NaN,@body,"toolCalls":[]"#)),
    odd("leading_zero", OddVerdict::Malformed, turn!(r#"@head,"turnIndex":0@number,@body,"toolCalls":[]"#)),
    odd("plus_number", OddVerdict::Malformed, turn!(r#"@head,"turnIndex":+@number,@body,"toolCalls":[]"#)),
    odd("comment", OddVerdict::Malformed, r#"{"v":1,"kind":"turn","record":{@turn}} // @fresh"#),
    odd("bad_escape", OddVerdict::Malformed, turn!(r#"@turn,"project":"\x2fhome""#)),
    odd("stamp_session", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session"},"enrichment":{"workflowId":"w-@number","agentId":"a-@number","persona":"p-@number","tier":"t-@number","note":"@fresh"}"#)),
    odd("stamp_int_keys", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session"},"enrichment":{"branch":"b-@number","12":"twelve","3":"three","agentId":"a-@number"}"#)),
    odd("stamp_num_value", OddVerdict::Lenient, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session"},"enrichment":{"workflowId":@number,"share":2.5,"done":true,"none":null,"nested":{"list":[1,2]}}"#)),
    odd("stamp_empty_enrichment", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session"},"enrichment":{}"#)),
    odd("stamp_message", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"messageId":"@message"},"enrichment":{"tier":"m-@number"}"#)),
    odd("stamp_message_other", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"messageId":"@fresh"},"enrichment":{"tier":"nobody-@number"}"#)),
    odd("stamp_range_empty", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"range":{}},"enrichment":{"tier":"everywhere-@number"}"#)),
    odd("stamp_range_hit", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"range":{"fromTs":"@ts","toTs":"@ts"}},"enrichment":{"tier":"instant-@number"}"#)),
    odd("stamp_range_miss", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"range":{"toTs":"2025-12-31"}},"enrichment":{"tier":"before-@number"}"#)),
    odd("stamp_range_null", OddVerdict::Lenient, stamp!(r#""ts":"@ts","selector":{"range":null},"enrichment":{"tier":"null-@number"}"#)),
    odd("stamp_selector_empty", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{},"enrichment":{"tier":"nothing-@number"}"#)),
    odd("stamp_selector_missing", OddVerdict::Rejected, stamp!(r#""ts":"@ts","enrichment":{"note":"@fresh"}"#)),
    odd("stamp_selector_null", OddVerdict::Rejected, stamp!(r#""ts":"@ts","selector":null,"enrichment":{"note":"@fresh"}"#)),
    odd("stamp_session_null", OddVerdict::Lenient, stamp!(r#""ts":"@ts","selector":{"sessionId":null},"enrichment":{"tier":"null-@number"}"#)),
    odd("stamp_session_and_message", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session","messageId":"@message"},"enrichment":{"tier":"both-@number"}"#)),
    odd("stamp_enrichment_null", OddVerdict::Rejected, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session"},"enrichment":null"#)),
    odd("stamp_enrichment_array", OddVerdict::Lenient, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session"},"enrichment":["first-@number","second"]"#)),
    odd("stamp_enrichment_string", OddVerdict::Lenient, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session"},"enrichment":"text""#)),
    odd("stamp_ts_missing", OddVerdict::Rejected, stamp!(r#""selector":{"sessionId":"@session"},"enrichment":{"note":"@fresh"}"#)),
    odd("stamp_selector_extra_keys", OddVerdict::Accepted, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session","later":[1,2.0,1000.0]},"enrichment":{"note":"@fresh"}"#)),
    odd("stamp_enrichment_proto", OddVerdict::Lenient, stamp!(r#""ts":"@ts","selector":{"sessionId":"@session"},"enrichment":{"__proto__":"x-@number","note":"@fresh"}"#)),
    odd("event_min", OddVerdict::Accepted, event!(r#"@record,"toolUseId":"toolu_@fresh","eventIndex":@index,"status":"completed","eventSource":"tool_result""#)),
    odd("event_full", OddVerdict::Accepted, event!(r#"@record,"toolUseId":"toolu_@fresh","eventIndex":@index,"status":"completed","eventSource":"tool_result","messageId":"@message","callIndex":3,"ts":"@ts","contentLength":@number,"contentHash":"@fresh","isError":false,"subagentSessionId":"@fresh","agentId":"@fresh""#)),
    odd("event_no_status", OddVerdict::Rejected, event!(r#"@record,"toolUseId":"toolu_@fresh","eventIndex":@index,"eventSource":"tool_result""#)),
    odd("event_no_source_field", OddVerdict::Rejected, event!(r#"@record,"toolUseId":"toolu_@fresh","eventIndex":@index,"status":"completed""#)),
    odd("event_no_tool_use", OddVerdict::Rejected, event!(r#"@record,"eventIndex":@index,"status":"completed","eventSource":"tool_result""#)),
    odd("event_status_null", OddVerdict::Lenient, event!(r#"@record,"toolUseId":"toolu_@fresh","eventIndex":@index,"status":null,"eventSource":"tool_result""#)),
    odd("event_float_len", OddVerdict::Accepted, event!(r#"@record,"toolUseId":"toolu_@fresh","eventIndex":@index,"status":"completed","eventSource":"tool_result","contentLength":@number.5"#)),
    odd("compaction", OddVerdict::Accepted, r#"{"v":1,"kind":"compaction","record":{@record,"ts":"@ts"}}"#),
    odd("compaction_full", OddVerdict::Accepted, r#"{"v":1,"kind":"compaction","record":{@record,"ts":"@ts","precedingMessageId":"@message","tokensBeforeCompact":@number}}"#),
    odd("compaction_no_ts", OddVerdict::Rejected, r#"{"v":1,"kind":"compaction","record":{@record}}"#),
    odd("relationship", OddVerdict::Accepted, r#"{"v":1,"kind":"relationship","record":{"v":1,"source":"spawn-env","sessionId":"@session","relationshipType":"subagent","relatedSessionId":"@fresh"}}"#),
    odd("user_turn", OddVerdict::Accepted, r#"{"v":1,"kind":"user_turn","record":{@record,"userUuid":"@fresh","ts":"@ts","blocks":[]}}"#),
    odd("unknown_kind", OddVerdict::Unknown, r#"{"v":1,"kind":"kind_of_tomorrow","record":{"sessionId":"@session"}}"#),
    odd("invalid_utf8_in_string", OddVerdict::Accepted, turn!(r#"@turn,"project":"/home/@fffe/dev""#)),
    odd("invalid_utf8_trunc", OddVerdict::Accepted, turn!(r#"@turn,"project":"/home/dev/@f09f""#)),
    odd("raw_nul", OddVerdict::Malformed, turn!("@turn,\"project\":\"/home/\0dev\"")),
    odd("line_70_kb", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Bash","target":"@70kb","argsHash":"@fresh"}]"#)),
    odd("line_1_mib", OddVerdict::Accepted, turn!(r#"@head,"turnIndex":@index,@body,"toolCalls":[{"id":"toolu_@fresh","name":"Bash","target":"@1mib","argsHash":"@fresh"}]"#)),
];

/// The place of `line_1_mib`. The position in the file, not chance, decides when this line is due.
pub(super) const LINE_1_MIB: usize = ODD_KINDS.len() - 1;

/// Deals the odd kinds: each kind once, in random order, then all again in another order.
pub(super) struct Deck {
    order: [usize; LINE_1_MIB],
    dealt: usize,
}

impl Deck {
    pub(super) fn new() -> Self {
        Self { order: std::array::from_fn(|kind| kind), dealt: 0 }
    }

    pub(super) fn deal(&mut self, rng: &mut Rng) -> usize {
        let last = self.order.len() - 1;
        let drawn = rng.between(self.dealt as u32, last as u32) as usize;
        self.order.swap(self.dealt, drawn);
        let kind = self.order[self.dealt];
        self.dealt = if self.dealt == last { 0 } else { self.dealt + 1 };
        kind
    }
}

/// Appends a line of the odd kind at index `kind` of [`ODD_KINDS`]. The line belongs to `session` after its last turn.
pub(super) fn push_odd(lines: &mut GeneratedLines, rng: &mut Rng, session: &GeneratedSession, kind: usize) {
    fill(&mut lines.bytes, rng, session, ODD_KINDS[kind].template);
    lines.end(LineKind::Odd(kind));
}

const PLACEHOLDERS: [&str; 18] = [
    "turn", "head", "body", "usage", "record", "session", "message", "source", "model", "index", "ts",
    "number", "fresh", "deep", "fffe", "f09f", "70kb", "1mib",
];

fn fill(out: &mut Vec<u8>, rng: &mut Rng, session: &GeneratedSession, template: &str) {
    let mut parts = template.split('@');
    push!(out, parts.next().unwrap_or_default());
    for part in parts {
        let name = PLACEHOLDERS.into_iter().find(|name| part.starts_with(name)).unwrap_or_default();
        debug_assert!(!name.is_empty(), "unknown placeholder in {template}");
        match name {
            "turn" => fill(out, rng, session, r#"@head,"turnIndex":@index,@body,"toolCalls":[]"#),
            "head" => fill(out, rng, session, r#"@record,"messageId":"@fresh""#),
            "body" => fill(out, rng, session, r#""ts":"@ts","model":"@model",@usage"#),
            "usage" => fill(
                out,
                rng,
                session,
                r#""usage":{"input":@number,"output":@number,"reasoning":0,"cacheRead":@number,"cacheCreate5m":@number,"cacheCreate1h":0}"#,
            ),
            "record" => push!(out, session.record_head),
            "session" => push!(out, session.id),
            "message" => push!(out, session.last_message),
            "source" => push!(out, session.source),
            "model" => push!(out, session.model),
            "index" => push_number(out, session.next_turn_index),
            "ts" => push_timestamp(out, session.time_ms),
            "number" => push_number(out, u64::from(rng.between(1, 9_999))),
            "fresh" => push!(out, "odd_", hex16(rng.next())),
            "deep" => push!(out, [b'['; 200], "1", [b']'; 200]),
            "fffe" => push!(out, [0xff, 0xfe]),
            "f09f" => push!(out, [0xf0, 0x9f]),
            "70kb" => push_filler(out, rng, 70_000),
            "1mib" => push_filler(out, rng, 1 << 20),
            _ => {}
        }
        push!(out, part[name.len()..]);
    }
}

fn push_filler(out: &mut Vec<u8>, rng: &mut Rng, len_bytes: usize) {
    let end = out.len() + len_bytes;
    while out.len() < end {
        push_words(out, rng, 16);
        out.push(b' ');
    }
    out.truncate(end);
}
