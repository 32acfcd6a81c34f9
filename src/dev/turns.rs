//! Sessions, their turns and the lines that come with a turn: the lines that every profile shares. Appends whole lines to a
//! buffer. Guarantee: a stream of turns depends only on its seed, never on the lines that a profile adds.

use super::rng::Rng;
use super::text::{
    START_MS, WORDS, hex16, hex24, hex32, push, push_number, push_odd_ending, push_timestamp, push_words,
    uuid,
};

/// The kind of a generated line; the position in `GeneratedSummary`'s tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    Turn,
    UserTurn,
    ToolResultEvent,
    Relationship,
    Stamp,
    Compaction,
    /// A line of the odd kind at this index of `ODD_KINDS`.
    Odd(usize),
}

/// Whole lines waiting to be written, and the end of each.
#[derive(Default)]
pub(super) struct GeneratedLines {
    pub(super) bytes: Vec<u8>,
    /// For each line not yet counted: kind, and position in `bytes` after the LF.
    pub(super) ends: Vec<(LineKind, usize)>,
}

impl GeneratedLines {
    /// Ends the line whose text was appended to `bytes`.
    pub(super) fn end(&mut self, kind: LineKind) {
        self.bytes.push(b'\n');
        self.ends.push((kind, self.bytes.len()));
    }
}

const MODELS: [&str; 6] =
    ["claude-opus-4-7", "claude-sonnet-4-6", "claude-haiku-4-5", "gpt-5", "gpt-5-codex", "gemini-2.5-pro"];
const TOOLS: [&str; 11] = [
    "Bash",
    "Edit",
    "Glob",
    "Grep",
    "Read",
    "Task",
    "TodoWrite",
    "WebFetch",
    "Write",
    "apply_patch",
    "shell",
];
const STOP_REASONS: [&str; 3] = ["end_turn", "max_tokens", "tool_use"];
const ACTIVITIES: [&str; 9] = [
    "coding",
    "conversation",
    "debugging",
    "docs",
    "exploration",
    "git",
    "planning",
    "refactoring",
    "testing",
];
const SUBAGENT_TYPES: [&str; 3] = ["Explore", "Plan", "general-purpose"];
const COVERAGE: [&str; 9] = [
    "hasInputTokens",
    "hasOutputTokens",
    "hasReasoningTokens",
    "hasCacheReadTokens",
    "hasCacheCreateTokens",
    "hasToolCalls",
    "hasToolResultEvents",
    "hasSessionRelationships",
    "hasRawContent",
];
const FULL_FIDELITY: &str = concat!(
    r#","fidelity":{"granularity":"per-turn","coverage":{"hasInputTokens":true,"hasOutputTokens":true,"#,
    r#""hasReasoningTokens":true,"hasCacheReadTokens":true,"hasCacheCreateTokens":true,"hasToolCalls":true,"#,
    r#""hasToolResultEvents":true,"hasSessionRelationships":true,"hasRawContent":true},"class":"full"}"#
);
/// How many turns in a thousand have 0, 1, ... 6 tool calls: 0.772 on average.
const CALLS_PER_MILLE: [u32; 7] = [560, 250, 105, 48, 22, 10, 5];
/// Sessions that grow at the same time.
const INTERLEAVED: usize = 4;
/// Turns between two message stamps of the shared stream.
const TURNS_PER_MESSAGE_STAMP: u64 = 50_000;

/// A session that is being written.
pub(super) struct GeneratedSession {
    pub(super) source: &'static str,
    pub(super) id: String,
    pub(super) model: &'static str,
    /// `"v":1,"source":"…","sessionId":"…"`, the start of each of the session's records.
    pub(super) record_head: Vec<u8>,
    /// The text from the end of `toolCalls` to `projectKey`.
    turn_tail: Vec<u8>,
    project: String,
    /// "full" or the class of the session's incomplete turns.
    fidelity: &'static str,
    /// The agent of the session's sidechain turns, for one session in five.
    agent_id: Option<[u8; 36]>,
    turns_left: u32,
    pub(super) next_turn_index: u64,
    next_event_index: u64,
    pub(super) time_ms: u64,
    /// The message id of the session's last turn, empty before the first.
    pub(super) last_message: Vec<u8>,
}

impl GeneratedSession {
    fn new(rng: &mut Rng, number: u64, clock_ms: u64) -> Self {
        let (source, id) = match rng.below(20) {
            0..14 => ("claude-code", ascii(&uuid(rng))),
            14..17 => ("codex", format!("sess_{}", ascii(&hex32(rng)))),
            _ => ("opencode", format!("ses_{}", ascii(&hex32(rng)))),
        };
        let place = number % 40;
        let name = format!("{}-{place}", WORDS[(number % WORDS.len() as u64) as usize]);
        let project = format!("/home/dev{place}/work/{name}");
        Self {
            source,
            model: rng.pick(&MODELS),
            record_head: format!(r#""v":1,"source":"{source}","sessionId":"{id}""#).into_bytes(),
            turn_tail: format!(
                r#"],"sessionPath":"/home/dev/.claude/projects/github.com-acme-{name}/{id}.jsonl","project":"{project}","projectKey":"github.com/acme/{name}""#
            )
            .into_bytes(),
            id,
            project,
            fidelity: match rng.below(20) {
                0..16 => "full",
                16..18 => "usage-only",
                _ => "partial",
            },
            agent_id: rng.chance(200).then(|| uuid(rng)),
            turns_left: rng.between(1, 119),
            next_turn_index: 0,
            next_event_index: 0,
            time_ms: clock_ms + u64::from(rng.below(900_000)),
            last_message: Vec::new(),
        }
    }
}

fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| byte as char).collect()
}

/// The stream of turns that all profiles share.
pub(super) struct Turns {
    rng: Rng,
    sessions: Vec<GeneratedSession>,
    /// Which of `sessions` is writing, and how many more turns its burst has.
    current: usize,
    burst_left: u32,
    /// Bursts have 1 to this many turns.
    longest_burst: u32,
    sessions_begun: u64,
    /// Turns written, copies not counted.
    count: u64,
    /// The latest time of any turn; sessions start within a quarter of an hour after this time.
    clock_ms: u64,
    /// Buffers that are kept only to reuse their memory: the first copy of a turn that is written twice, and a turn's tool
    /// calls.
    early_copy: Vec<u8>,
    calls: Vec<Call>,
}

struct Call {
    id: [u8; 24],
    is_error: bool,
    is_task: bool,
}

impl Turns {
    pub(super) fn new(rng: Rng, longest_burst: u32) -> Self {
        let mut turns = Self {
            rng,
            sessions: Vec::new(),
            current: 0,
            burst_left: 0,
            longest_burst,
            sessions_begun: 0,
            count: 0,
            clock_ms: START_MS,
            early_copy: Vec::new(),
            calls: Vec::new(),
        };
        for _ in 0..INTERLEAVED {
            let session = turns.begin_session();
            turns.sessions.push(session);
        }
        turns
    }

    fn begin_session(&mut self) -> GeneratedSession {
        let number = self.sessions_begun;
        self.sessions_begun += 1;
        GeneratedSession::new(&mut self.rng, number, self.clock_ms)
    }

    /// Appends the next turn and the lines that come with it; returns true when the turn ended a burst. The session that wrote
    /// the turn is `last_session` until the next call.
    pub(super) fn next_turn(&mut self, lines: &mut GeneratedLines) -> bool {
        if self.burst_left == 0 {
            self.current = self.rng.below(INTERLEAVED as u32) as usize;
            self.burst_left = self.rng.between(1, self.longest_burst);
        }
        if self.sessions[self.current].turns_left == 0 {
            self.sessions[self.current] = self.begin_session();
        }
        self.burst_left -= 1;

        let Self { rng, calls, early_copy, .. } = self;
        let session = &mut self.sessions[self.current];
        session.time_ms += u64::from(rng.between(500, 89_999));
        session.turns_left -= 1;
        self.clock_ms = self.clock_ms.max(session.time_ms);
        self.count += 1;

        let message = [b"msg_".as_slice(), &hex24(rng)].concat();
        push_turn(lines, rng, session, &message, calls, early_copy);
        for (place, call) in calls.iter().enumerate() {
            if rng.chance(900) {
                push_event(lines, rng, session, call, place as u64);
            }
        }
        if rng.chance(900) {
            push_user_turn(lines, rng, session, &message, calls);
        }
        if session.next_turn_index == 0 {
            let out = &mut lines.bytes;
            push!(out, r#"{"v":1,"kind":"relationship","record":{"#, session.record_head);
            push!(out, r#","relationshipType":"root","ts":""#);
            push_timestamp(out, session.time_ms);
            push!(out, r#"","sourceSessionId":""#, session.id, r#""}}"#);
            lines.end(LineKind::Relationship);
        }
        if rng.chance(10) {
            push_session_stamp(lines, rng, session);
        }
        if rng.chance(3) {
            let out = &mut lines.bytes;
            push!(out, r#"{"v":1,"kind":"compaction","record":{"#, session.record_head, r#","ts":""#);
            push_timestamp(out, session.time_ms);
            push!(out, r#"","precedingMessageId":""#, message, r#"","tokensBeforeCompact":"#);
            push_number(out, u64::from(rng.between(90_000, 190_000)));
            push!(out, "}}");
            lines.end(LineKind::Compaction);
        }
        session.next_turn_index += 1;
        session.last_message = message;
        if self.count.is_multiple_of(TURNS_PER_MESSAGE_STAMP) {
            push_message_stamp(lines, rng, session);
        }
        self.burst_left == 0
    }

    pub(super) fn last_session(&self) -> &GeneratedSession {
        &self.sessions[self.current]
    }
}

/// Appends the turn's line, in one case of a hundred after an early copy of the turn: fewer output tokens, no tool calls yet.
fn push_turn(
    lines: &mut GeneratedLines,
    rng: &mut Rng,
    session: &GeneratedSession,
    message: &[u8],
    calls: &mut Vec<Call>,
    early_copy: &mut Vec<u8>,
) {
    let out = &mut lines.bytes;
    let start = out.len();
    push!(out, r#"{"v":1,"kind":"turn","record":{"#, session.record_head, r#","messageId":""#, message);
    push!(out, r#"","turnIndex":"#);
    push_number(out, session.next_turn_index);
    push!(out, r#","ts":""#);
    push_timestamp(out, session.time_ms);
    push!(out, r#"","model":""#, session.model, r#"","usage":{"input":"#);
    push_number(out, u64::from(rng.between(10, 3_999)));
    push!(out, r#","output":"#);
    let output_at = out.len();
    let output = u64::from(rng.between(5, 2_999));
    push_number(out, output);
    let output_end = out.len();
    push!(out, r#","reasoning":0,"cacheRead":"#);
    push_number(out, u64::from(rng.between(500, 149_999)));
    push!(out, r#","cacheCreate5m":"#);
    push_number(out, u64::from(rng.below(9_000)));
    push!(out, r#","cacheCreate1h":0},"toolCalls":["#);
    let calls_at = out.len();

    let mut edited = Vec::new();
    calls.clear();
    for _ in 0..call_count(rng) {
        if !calls.is_empty() {
            out.push(b',');
        }
        push_call(out, rng, session, calls, &mut edited);
    }
    let calls_end = out.len();
    push!(out, session.turn_tail);
    if rng.chance(900) {
        push!(out, r#","stopReason":""#, rng.pick(&STOP_REASONS), r#"""#);
    }
    if let Some(agent_id) = session.agent_id.filter(|_| rng.chance(500)) {
        push!(out, r#","subagent":{"isSidechain":true,"parentToolUseId":"toolu_"#, hex24(rng));
        push!(out, r#"","agentId":""#, agent_id, r#"","parentAgentId":""#, session.id);
        push!(out, r#"","subagentType":""#, rng.pick(&SUBAGENT_TYPES), r#"","description":""#);
        let word_count = rng.between(4, 8);
        push_words(out, rng, word_count);
        push_odd_ending(out, rng);
        push!(out, r#""}"#);
    }
    for (i, path) in edited.iter().enumerate() {
        push!(out, if i == 0 { r#","filesTouched":[""# } else { r#",""# });
        out.extend_from_within(path.clone());
        out.push(b'"');
    }
    if !edited.is_empty() {
        out.push(b']');
    }
    if rng.chance(965) {
        push_fidelity(out, rng, session.fidelity);
    }
    if rng.chance(940) {
        push!(out, r#","activity":""#, rng.pick(&ACTIVITIES), r#"","retries":"#);
        out.push(if rng.chance(45) { b'1' } else { b'0' });
        push!(out, r#","hasEdits":"#, if edited.is_empty() { "false" } else { "true" });
    }
    push!(out, "}}");

    if rng.chance(10) {
        early_copy.clear();
        push!(early_copy, out[start..output_at]);
        push_number(early_copy, 1 + output / 3);
        push!(early_copy, out[output_end..calls_at], out[calls_end..], "\n");
        let early_end = start + early_copy.len();
        out.splice(start..start, early_copy.drain(..));
        lines.ends.push((LineKind::Turn, early_end));
    }
    lines.end(LineKind::Turn);
}

fn call_count(rng: &mut Rng) -> usize {
    let mut left = rng.below(1000);
    CALLS_PER_MILLE
        .iter()
        .position(|&share| {
            let here = left < share;
            left = left.wrapping_sub(share);
            here
        })
        .unwrap_or(0)
}

/// Appends one tool call. If the call touched a file, remembers the place of the call's target in `out`.
fn push_call(
    out: &mut Vec<u8>,
    rng: &mut Rng,
    session: &GeneratedSession,
    calls: &mut Vec<Call>,
    edited: &mut Vec<std::ops::Range<usize>>,
) {
    let tool = rng.pick(&TOOLS);
    let call = Call { id: hex24(rng), is_error: rng.chance(100), is_task: tool == "Task" };
    push!(out, r#"{"id":"toolu_"#, call.id, r#"","name":""#, tool, r#"","target":""#);
    let target_at = out.len();
    if matches!(tool, "Edit" | "Read" | "Write") {
        push!(out, session.project, "/src/", rng.pick(&WORDS), "/");
        if rng.chance(500) {
            push!(out, rng.pick(&WORDS), "/");
        }
        push!(out, rng.pick(&WORDS), ".rs");
    } else {
        let word_count = rng.between(2, 13);
        push_words(out, rng, word_count);
    }
    push_odd_ending(out, rng);
    if matches!(tool, "Edit" | "Write") {
        edited.push(target_at..out.len());
    }
    push!(out, r#"","argsHash":""#, hex16(rng.next()), r#"""#);
    if call.is_error || rng.chance(670) {
        push!(out, r#","isError":"#, if call.is_error { "true" } else { "false" });
    }
    if tool == "Edit" {
        push!(
            out,
            r#","editPreHash":""#,
            hex16(rng.next()),
            r#"","editPostHash":""#,
            hex16(rng.next()),
            r#"""#
        );
    }
    if rng.chance(8) {
        push!(out, r#","replacedTools":[""#, rng.pick(&TOOLS), r#"",""#, rng.pick(&TOOLS));
        push!(out, r#""],"collapsedCalls":"#);
        push_number(out, u64::from(rng.between(2, 9)));
    }
    out.push(b'}');
    calls.push(call);
}

fn push_fidelity(out: &mut Vec<u8>, rng: &mut Rng, class: &str) {
    if class == "full" {
        push!(out, FULL_FIDELITY);
        return;
    }
    push!(out, r#","fidelity":{"granularity":"per-turn","coverage":{"#);
    let covered = rng.next();
    for (i, name) in COVERAGE.iter().enumerate() {
        push!(out, if i == 0 { "\"" } else { ",\"" }, name);
        push!(out, if covered >> i & 1 == 1 { "\":true" } else { "\":false" });
    }
    push!(out, r#"},"class":""#, class, r#""}"#);
}

fn push_event(
    lines: &mut GeneratedLines,
    rng: &mut Rng,
    session: &mut GeneratedSession,
    call: &Call,
    place: u64,
) {
    let out = &mut lines.bytes;
    push!(out, r#"{"v":1,"kind":"tool_result_event","record":{"#, session.record_head);
    push!(out, r#","toolUseId":"toolu_"#, call.id, r#"","callIndex":0,"eventIndex":"#);
    push_number(out, session.next_event_index);
    session.next_event_index += 1;
    push!(out, r#","status":""#, if call.is_error { "errored" } else { "completed" });
    push!(out, r#"","eventSource":"tool_result""#);
    if rng.chance(950) {
        push!(out, r#","messageId":""#, uuid(rng), r#"""#);
    }
    push!(out, r#","ts":""#);
    push_timestamp(out, session.time_ms + 10 * place);
    push!(out, r#"","contentLength":"#);
    push_number(out, u64::from(rng.between(100, 39_999)));
    push!(out, r#","contentHash":""#, hex16(rng.next()), r#"""#);
    if call.is_error {
        push!(out, r#","isError":true"#);
    }
    if call.is_task {
        push!(out, r#","subagentSessionId":""#, uuid(rng), r#"","agentId":""#, uuid(rng), r#"""#);
    }
    push!(out, "}}");
    lines.end(LineKind::ToolResultEvent);
}

fn push_user_turn(
    lines: &mut GeneratedLines,
    rng: &mut Rng,
    session: &GeneratedSession,
    message: &[u8],
    calls: &[Call],
) {
    let out = &mut lines.bytes;
    push!(out, r#"{"v":1,"kind":"user_turn","record":{"#, session.record_head, r#","userUuid":""#, uuid(rng));
    push!(out, r#"","ts":""#);
    push_timestamp(out, session.time_ms);
    push!(out, r#"","blocks":["#);
    let mut push_sizes = |out: &mut Vec<u8>, most_bytes, most_tokens| {
        push!(out, r#","byteLen":"#);
        push_number(out, u64::from(rng.below(most_bytes)));
        push!(out, r#","approxTokens":"#);
        push_number(out, u64::from(rng.between(1, most_tokens)));
        out.push(b'}');
    };
    if calls.is_empty() {
        push!(out, r#"{"kind":"text""#);
        push_sizes(out, 900, 199);
    }
    for (i, call) in calls.iter().enumerate() {
        push!(
            out,
            if i == 0 { "" } else { "," },
            r#"{"kind":"tool_result","toolUseId":"toolu_"#,
            call.id,
            r#"""#
        );
        push_sizes(out, 40_000, 8_999);
    }
    push!(out, r#"],"followingMessageId":""#, message, r#"""#);
    if !session.last_message.is_empty() {
        push!(out, r#","precedingMessageId":""#, session.last_message, r#"""#);
    }
    push!(out, "}}");
    lines.end(LineKind::UserTurn);
}

/// A stamp on the session with 1 to 3 keys, within five seconds of its last turn.
pub(super) fn push_session_stamp(lines: &mut GeneratedLines, rng: &mut Rng, session: &GeneratedSession) {
    let mut keys = ["agentId", "branch", "persona", "ticket", "tier", "workflowId"];
    let key_count = rng.between(1, 3) as usize;
    let out = &mut lines.bytes;
    push!(out, r#"{"v":1,"kind":"stamp","ts":""#);
    push_timestamp(out, session.time_ms - 5_000 + u64::from(rng.below(10_001)));
    push!(out, r#"","selector":{"sessionId":""#, session.id, r#""},"enrichment":{"#);
    for i in 0..key_count {
        let drawn = rng.between(i as u32, 5) as usize;
        keys.swap(i, drawn);
        push!(out, if i == 0 { "\"" } else { ",\"" }, keys[i], r#"":""#, keys[i], "-");
        push_number(out, u64::from(rng.below(100)));
        out.push(b'"');
    }
    push!(out, "}}");
    lines.end(LineKind::Stamp);
}

/// A stamp on the session's last turn.
pub(super) fn push_message_stamp(lines: &mut GeneratedLines, rng: &mut Rng, session: &GeneratedSession) {
    let out = &mut lines.bytes;
    push!(out, r#"{"v":1,"kind":"stamp","ts":""#);
    push_timestamp(out, session.time_ms + 1);
    push!(out, r#"","selector":{"messageId":""#, session.last_message, r#""},"enrichment":{"tier":"m-"#);
    push_number(out, u64::from(rng.below(8)));
    push!(out, r#""}}"#);
    lines.end(LineKind::Stamp);
}

/// A stamp on the session's last minute up to its last turn.
pub(super) fn push_range_stamp(lines: &mut GeneratedLines, rng: &mut Rng, session: &GeneratedSession) {
    let out = &mut lines.bytes;
    push!(out, r#"{"v":1,"kind":"stamp","ts":""#);
    push_timestamp(out, session.time_ms + 2);
    push!(out, r#"","selector":{"sessionId":""#, session.id, r#"","range":{"fromTs":""#);
    push_timestamp(out, session.time_ms - 60_000);
    push!(out, r#"","toTs":""#);
    push_timestamp(out, session.time_ms);
    push!(out, r#""}},"enrichment":{"persona":"r-"#);
    push_number(out, u64::from(rng.below(9)));
    push!(out, r#""}}"#);
    lines.end(LineKind::Stamp);
}
