//! Random histories of Claude Code: messages that are streamed in several lines whose counts grow, lines that are written again,
//! results between the lines of their message, resumed and forked sessions that repeat the history, sub-agents with logs of their
//! own or on side chains, with or without a copy of their caller's history, compactions, logs in two folders.
#![cfg(unix)]

use std::path::PathBuf;

use relayburn_ledger::agents::Agent;
use serde_json::{Value, json};

use super::histories::{self, History, LogFile, OtherPlace, Tokens, iso, plus};
use crate::common::Random;

/// A line of a log, as it is copied into other logs.
#[derive(Clone)]
struct Line {
    value: Value,
    /// Whether it begins a message or a prompt: a copy may begin here.
    begins: bool,
}

struct Session {
    id: String,
    lines: Vec<Line>,
    agents: Vec<(String, Vec<Line>)>,
}

struct Maker {
    random: Random,
    millis: u64,
    number: u64,
    used: Tokens,
    /// Whether only the last line of a message has a stop reason.
    stops_last: bool,
}

/// Whose lines are written.
#[derive(Clone)]
struct Voice {
    session: String,
    agent: Option<String>,
    is_side: bool,
    last: Option<String>,
}

impl Maker {
    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn is_one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn uuid(&mut self) -> String {
        self.number += 1;
        format!("{:08x}-0000-4000-8000-{:012x}", self.below(1 << 32), self.number)
    }

    fn line(&mut self, voice: &mut Voice, kind: &str, message: Value, begins: bool) -> Line {
        self.millis += 1 + self.below(9_000);
        let uuid = self.uuid();
        let mut value = json!({
            "type": kind, "uuid": uuid, "parentUuid": voice.last, "sessionId": voice.session, "timestamp": iso(self.millis),
            "isSidechain": voice.is_side, "cwd": "/w/p", "version": "2.1.9", "gitBranch": "main", "message": message,
        });
        if let Some(agent) = &voice.agent {
            value["agentId"] = agent[..].into();
        }
        voice.last = Some(uuid);
        Line { value, begins }
    }

    fn prompt(&mut self, voice: &mut Voice, lines: &mut Vec<Line>) {
        lines.push(self.line(voice, "user", json!({"role": "user", "content": "add a test"}), true));
    }

    /// What a message uses in the end.
    fn tokens(&mut self) -> Tokens {
        [
            1 + self.below(900),
            1 + self.below(9_000),
            0,
            self.below(150_000),
            self.below(20_000),
            self.below(2) * self.below(9_000),
        ]
    }

    /// A message of one to four lines, with its tools and their results.
    fn message(&mut self, voice: &mut Voice, lines: &mut Vec<Line>) {
        let tokens = self.tokens();
        self.used = plus(self.used, tokens);
        self.number += 1;
        let id = format!("msg_01{:022x}", self.number);
        let count = 1 + self.below(4);
        let asks = self.is_one_in(2);
        let stop = if asks { "tool_use" } else { "end_turn" };
        for place in 0..count {
            let is_last = place + 1 == count;
            let block = match asks && (is_last || self.is_one_in(3)) {
                true => {
                    json!({"type": "tool_use", "id": format!("toolu_{id}_{place}"), "name": "Bash", "input": {"command": "ls"}})
                }
                false => json!({"type": "text", "text": "looking"}),
            };
            // Early lines know few of the tokens.
            let output = if is_last { tokens[1] } else { tokens[1].min(1 + self.below(8)) };
            let mut usage = json!({"input_tokens": tokens[0], "output_tokens": output, "cache_read_input_tokens": tokens[3],
                "cache_creation_input_tokens": tokens[4] + tokens[5]});
            if tokens[5] > 0 || self.is_one_in(2) {
                usage["cache_creation"] =
                    json!({"ephemeral_5m_input_tokens": tokens[4], "ephemeral_1h_input_tokens": tokens[5]});
            }
            let stops = is_last || !self.stops_last;
            let message = json!({"id": id, "role": "assistant", "model": "claude-opus-4-7", "content": [block],
                "stop_reason": if stops { json!(stop) } else { Value::Null }, "usage": usage});
            let line = self.line(voice, "assistant", message, place == 0);
            let tool = line.value["message"]["content"][0]["id"].as_str().map(str::to_owned);
            let again = self.is_one_in(8).then(|| line.clone());
            lines.push(line);
            lines.extend(again.map(|line| Line { begins: false, ..line }));
            if let Some(tool) = tool {
                let content = json!([{"type": "tool_result", "tool_use_id": tool, "content": "x", "is_error": self.is_one_in(9)}]);
                lines.push(self.line(voice, "user", json!({"role": "user", "content": content}), false));
            }
        }
    }

    /// Some turns of a conversation.
    fn conversation(&mut self, voice: &mut Voice, turns: u64, lines: &mut Vec<Line>) {
        for _ in 0..turns {
            self.prompt(voice, lines);
            for _ in 0..1 + self.below(2) {
                self.message(voice, lines);
            }
            if self.is_one_in(6) {
                let mut line = self.line(voice, "system", Value::Null, true);
                line.value["subtype"] = "compact_boundary".into();
                lines.push(line);
            }
            if self.is_one_in(6) {
                let summary = json!({"type": "summary", "summary": "tests", "leafUuid": "x"});
                lines.push(Line { value: summary, begins: true });
            }
        }
    }

    /// An agent of a session: on a side chain within its log, or with a log of its own.
    fn agent(&mut self, session: &mut Session) {
        let is_within = self.is_one_in(3);
        self.number += 1;
        let name = format!("{:08x}", self.number);
        let agent = (!is_within).then(|| name.clone());
        let mut voice = Voice { session: session.id.clone(), agent, is_side: true, last: None };
        let mut lines = Vec::new();
        if !is_within && self.is_one_in(2) {
            // It begins with what its caller knew.
            let stamp = self.is_one_in(2).then_some(self.millis);
            lines = copy_of(&session.lines, &session.id, stamp);
            for line in &mut lines {
                line.value["isSidechain"] = true.into();
                line.value["agentId"] = name[..].into();
            }
        }
        let turns = 1 + self.below(2);
        self.conversation(&mut voice, turns, &mut lines);
        match is_within {
            true => session.lines.extend(lines),
            false => session.agents.push((name, lines)),
        }
    }

    fn session(&mut self, from: Option<&Session>) -> Session {
        let mut session = Session { id: self.uuid(), lines: Vec::new(), agents: Vec::new() };
        let mut voice = Voice { session: session.id.clone(), agent: None, is_side: false, last: None };
        if let Some(from) = from {
            // Resumed: the history again under the new id, with its own times or with new ones, perhaps without its front.
            let starts: Vec<usize> = (0..from.lines.len()).filter(|at| from.lines[*at].begins).collect();
            let start = if self.is_one_in(3) { starts[self.below(starts.len() as u64) as usize] } else { 0 };
            let stamp = self.is_one_in(3).then_some(self.millis);
            session.lines = copy_of(&from.lines[start..], &session.id, stamp);
            voice.last =
                session.lines.iter().rev().find_map(|line| line.value["uuid"].as_str().map(str::to_owned));
        }
        for _ in 0..1 + self.below(2) {
            let turns = 1 + self.below(2);
            self.conversation(&mut voice, turns, &mut session.lines);
            if self.is_one_in(3) {
                self.agent(&mut session);
            }
        }
        session
    }
}

/// The lines under another session id, with the time `stamp` if there is one.
fn copy_of(lines: &[Line], session: &str, stamp: Option<u64>) -> Vec<Line> {
    let mut copy = lines.to_vec();
    for line in copy.iter_mut().filter(|line| line.value["sessionId"].is_string()) {
        line.value["sessionId"] = session.into();
        if let Some(stamp) = stamp {
            line.value["timestamp"] = iso(stamp).into();
        }
    }
    copy
}

fn text_of(lines: &[Line]) -> Vec<u8> {
    lines.iter().flat_map(|line| format!("{}\n", line.value).into_bytes()).collect()
}

fn history(random: Random) -> History {
    let mut maker = Maker { random, millis: 1_777_600_000_000, number: 0, used: [0; 6], stops_last: false };
    maker.stops_last = maker.is_one_in(2);
    let mut sessions: Vec<Session> = Vec::new();
    for _ in 0..1 + maker.below(2) {
        let session = maker.session(None);
        sessions.push(session);
    }
    for _ in 0..maker.below(3) {
        let from = maker.below(sessions.len() as u64) as usize;
        let session = maker.session(Some(&sessions[from]));
        sessions.push(session);
    }
    let mut logs = Vec::new();
    for session in sessions {
        let name = format!("{}.jsonl", session.id);
        let other = PathBuf::from("-w-other").join(&name);
        let other = match maker.below(5) {
            0 => Some(OtherPlace::Copied(other)),
            1 => Some(OtherPlace::Moved(other)),
            _ => None,
        };
        logs.push(LogFile { place: PathBuf::from("-w-p").join(name), other, bytes: text_of(&session.lines) });
        for (agent, lines) in session.agents {
            let name = format!("agent-{agent}.jsonl");
            // Older versions put an agent's log beside its session's.
            let folder = match maker.is_one_in(3) {
                true => PathBuf::from("-w-p"),
                false => PathBuf::from("-w-p").join(&session.id).join("subagents"),
            };
            logs.push(LogFile { place: folder.join(name), other: None, bytes: text_of(&lines) });
        }
    }
    // A message that lies still for ten minutes is written as it is.
    History { agent: Agent::Claude, logs, used: maker.used, may_rest: false, in_any_order: false }
}

#[test]
fn every_token_is_counted_once_in_one_pass_and_in_many() {
    histories::check("Claude Code", history);
}
