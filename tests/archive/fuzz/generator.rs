//! Generates hostile ledgers. The bytes are put together from literals, without any code of the library.

#[path = "literals.rs"]
mod literals;

use literals::{CLASSES, NUMBERS, STRINGS, VALUES};

/// SplitMix64, so that the ledgers are the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'p, T: ?Sized>(&mut self, from: &[&'p T]) -> &'p T {
        from[self.below(from.len())]
    }
}

/// An object or an array that is being built.
#[derive(Clone)]
struct Object(Vec<(Vec<u8>, Vec<u8>)>);

impl Object {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn with(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.push((key.as_bytes().to_vec(), value.as_ref().to_vec()));
        self
    }
}

/// Values that the lines of one ledger share, so that the lines refer to each other, and the share of odd lines.
pub struct Generator<'r> {
    random: &'r mut Random,
    sources: Vec<Vec<u8>>,
    sessions: Vec<Vec<u8>>,
    messages: Vec<Vec<u8>>,
    tools: Vec<Vec<u8>>,
    times: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
    texts: Vec<Vec<u8>>,
    /// One of this many objects is changed.
    odd_in: usize,
    /// One of this many lines is damaged.
    damaged_in: usize,
    numbers_are_odd: bool,
}

impl<'r> Generator<'r> {
    pub fn new(random: &'r mut Random) -> Self {
        let odd_in = [2, 5, 20, 100_000][random.below(4)];
        let damaged_in = [3, 10, 50, 100_000][random.below(4)];
        let numbers_are_odd = random.one_in(2);
        let none = Vec::new;
        let mut generator = Self {
            random,
            sources: none(),
            sessions: none(),
            messages: none(),
            tools: none(),
            times: none(),
            keys: none(),
            texts: none(),
            odd_in,
            damaged_in,
            numbers_are_odd,
        };
        generator.sources = generator.pool(3, "source");
        generator.sessions = generator.pool(5, "session");
        generator.messages = generator.pool(12, "message");
        generator.tools = generator.pool(6, "tool");
        generator.keys = generator.pool(12, "key");
        generator.texts = generator.pool(12, "text");
        for key in ["workflowId", "agentId", "persona", "tier"] {
            generator.keys.push(key.into());
        }
        for second in 0..1 + generator.random.below(12) {
            generator.times.push(format!("2026-04-20T00:00:{second:02}.000Z").into_bytes());
        }
        let odd = [
            "",
            "2026-04-20",
            "2026-04-20T00:00:03+02:00",
            "2026-04-20T00:00:03Z",
            "2026-04-19t23:00:02.5-01:00",
            "2026-04-20T24:00:00.000Z",
            "t",
            "\u{ffff}",
            "0",
            r"2026\u002d04-21",
        ];
        for _ in 0..generator.random.below(4) {
            let odd = generator.random.pick(&odd);
            generator.times.push(odd.into());
        }
        generator
    }

    /// Up to `most` literals, plain and odd, a few of them long.
    fn pool(&mut self, most: usize, name: &str) -> Vec<Vec<u8>> {
        let odd_in = [1, 3, 50][self.random.below(3)];
        let count = 1 + self.random.below(most);
        let one = |number: usize| match self.random.below(80) {
            0 => {
                let len = [60, 250, 1000, 5000, 20_000][self.random.below(5)];
                [vec![b'x'; self.random.below(len)], format!("{number}").into_bytes()].concat()
            }
            _ if self.random.one_in(odd_in) => self.random.pick(&STRINGS).to_vec(),
            _ => format!("{name}-{number}").into_bytes(),
        };
        (0..count).map(one).collect()
    }

    /// Returns a ledger: lines, mostly with an LF each.
    pub fn ledger(&mut self, lines_max: usize) -> Vec<u8> {
        let lines = match self.random.below(10) {
            0 => self.random.below(4),
            1..=6 => self.random.below(60.min(lines_max)),
            7 | 8 => self.random.below(200.min(lines_max)),
            _ => self.random.below(lines_max),
        };
        let of_kinds =
            [[10, 3, 1, 4, 2], [3, 10, 1, 1, 0], [4, 4, 4, 4, 4], [10, 0, 1, 1, 0]][self.random.below(4)];
        let end: &[u8] = if self.random.one_in(8) { b"\r\n" } else { b"\n" };
        let mut ledger = if self.random.one_in(20) { b"\xef\xbb\xbf".to_vec() } else { Vec::new() };
        let mut earlier: Vec<Vec<u8>> = Vec::new();
        for _ in 0..lines {
            let mut line = match self.random.below(8) {
                0 if !earlier.is_empty() => earlier[self.random.below(earlier.len())].clone(),
                _ => self.line(of_kinds),
            };
            if self.random.one_in(self.damaged_in) {
                self.damage(&mut line);
            }
            earlier.push(line.clone());
            ledger.extend(line);
            ledger.extend(end);
        }
        match self.random.below(6) {
            0 => _ = ledger.pop(),
            1 => {
                let line = self.line(of_kinds);
                let len = self.random.below(line.len() + 1);
                ledger.extend(&line[..len]);
            }
            _ => {}
        }
        ledger
    }

    fn line(&mut self, of_kinds: [usize; 5]) -> Vec<u8> {
        let mut at = self.random.below(of_kinds.iter().sum());
        let kind = of_kinds
            .iter()
            .position(|many| {
                at < *many || {
                    at -= many;
                    false
                }
            })
            .unwrap();
        let (kind, body) = match kind {
            0 => ("turn", self.turn()),
            1 => ("stamp", self.stamp()),
            2 => ("compaction", self.compaction()),
            3 => ("tool_result_event", self.event()),
            _ => self.other(),
        };
        let version = if self.random.one_in(40) {
            self.random.pick(&[
                "1.0",
                "1e0",
                "10e-1",
                "2",
                "0",
                "\"1\"",
                "true",
                "null",
                "1.0000000000000000001",
            ])
        } else {
            "1"
        };
        let kind = if self.random.one_in(60) {
            self.random
                .pick(&["\"\\u0074urn\"", "\"st\\u0061mp\"", "\"Turn\"", "\"later\"", "1", "null", "\"\""])
                .into()
        } else {
            format!("\"{kind}\"")
        };
        let mut line = Object::new().with("v", version).with("kind", kind);
        line.0.extend(body.0);
        self.write(line)
    }

    fn turn(&mut self) -> Object {
        let mut usage = Object::new();
        for key in ["input", "output", "reasoning", "cacheRead", "cacheCreate5m", "cacheCreate1h"] {
            usage = usage.with(key, self.number());
        }
        let calls = if self.random.one_in(2) { self.random.below(5) } else { 0 };
        let calls: Vec<_> = (0..calls).map(|_| self.call()).collect();
        let mut record = Object::new()
            .with("source", self.of(|all| &all.sources))
            .with("sessionId", self.of(|all| &all.sessions))
            .with("messageId", self.of(|all| &all.messages))
            .with("turnIndex", self.number())
            .with("ts", self.of(|all| &all.times))
            .with("model", self.of(|all| &all.texts))
            .with("usage", self.write(usage))
            .with("toolCalls", array(&calls));
        for key in ["project", "projectKey", "activity", "stopReason", "sessionPath", "enrichment"] {
            if self.random.one_in(3) {
                record = record.with(key, self.of(|all| &all.texts));
            }
        }
        for key in ["hasEdits", "retries"] {
            if self.random.one_in(3) {
                record = record.with(key, self.count_or_flag(key == "hasEdits"));
            }
        }
        if self.random.one_in(3) {
            let mut subagent = Object::new();
            for key in ["agentId", "parentAgentId", "parentToolUseId", "subagentType", "description"] {
                if self.random.one_in(2) {
                    subagent = subagent.with(key, self.of(|all| &all.texts));
                }
            }
            subagent = subagent.with("isSidechain", self.count_or_flag(true));
            record = record.with("subagent", self.write(subagent));
        }
        if self.random.one_in(3) {
            let class = format!("\"{}\"", self.random.pick(&CLASSES));
            let granularity =
                self.random.pick(&["\"per-turn\"", "\"cost-only\"", "\"cost\\u002donly\"", "1"]);
            let mut coverage = Object::new();
            for key in ["hasInputTokens", "hasOutputTokens", "hasReasoningTokens", "hasRawContent"] {
                if self.random.one_in(2) {
                    coverage = coverage.with(key, self.count_or_flag(true));
                }
            }
            let fidelity = Object::new()
                .with("class", class)
                .with("granularity", granularity)
                .with("coverage", self.write(coverage));
            record = record.with("fidelity", self.write(fidelity));
        }
        Object::new().with("record", self.write(record))
    }

    fn call(&mut self) -> Vec<u8> {
        let mut call = Object::new().with("name", self.of(|all| &all.texts));
        if !self.random.one_in(4) {
            call = call.with("id", self.of(|all| &all.tools));
        }
        for key in ["target", "argsHash"] {
            if self.random.one_in(2) {
                call = call.with(key, self.of(|all| &all.texts));
            }
        }
        if self.random.one_in(3) {
            call = call.with("isError", self.count_or_flag(true));
        }
        if self.random.one_in(4) {
            call = call.with("collapsedCalls", self.number());
        }
        if self.random.one_in(4) {
            let tools: Vec<_> = (0..self.random.below(4)).map(|_| self.of(|all| &all.texts)).collect();
            call = call.with("replacedTools", array(&tools));
        }
        self.write(call)
    }

    fn event(&mut self) -> Object {
        let mut record = Object::new()
            .with("source", self.of(|all| &all.sources))
            .with("sessionId", self.of(|all| &all.sessions))
            .with("toolUseId", self.of(|all| &all.tools))
            .with("eventIndex", self.number())
            .with("status", self.random.pick(&["\"completed\"", "\"errored\"", "\"\"", "null"]))
            .with("eventSource", "\"tool_result\"");
        for key in ["messageId", "contentHash", "subagentSessionId", "agentId", "ts"] {
            if self.random.one_in(2) {
                let value = match key {
                    "messageId" => self.of(|all| &all.messages),
                    "subagentSessionId" => self.of(|all| &all.sessions),
                    "ts" => self.of(|all| &all.times),
                    _ => self.of(|all| &all.texts),
                };
                record = record.with(key, value);
            }
        }
        for key in ["callIndex", "contentLength", "isError"] {
            if self.random.one_in(2) {
                record = record.with(key, self.count_or_flag(key == "isError"));
            }
        }
        Object::new().with("record", self.write(record))
    }

    fn compaction(&mut self) -> Object {
        let mut record = Object::new()
            .with("source", self.of(|all| &all.sources))
            .with("sessionId", self.of(|all| &all.sessions))
            .with("ts", self.of(|all| &all.times));
        if self.random.one_in(2) {
            record = record.with("precedingMessageId", self.of(|all| &all.messages));
        }
        if self.random.one_in(2) {
            record = record.with("tokensBeforeCompact", self.number());
        }
        Object::new().with("record", self.write(record))
    }

    fn stamp(&mut self) -> Object {
        let mut selector = Object::new();
        if self.random.one_in(2) {
            selector = selector.with("sessionId", self.of(|all| &all.sessions));
        }
        if self.random.one_in(3) {
            selector = selector.with("messageId", self.of(|all| &all.messages));
        }
        if self.random.one_in(3) {
            let mut range = Object::new();
            for key in ["fromTs", "toTs", "fromMessageId"] {
                if self.random.one_in(2) {
                    range = range.with(key, self.of(|all| &all.times));
                }
            }
            let range = if self.random.one_in(12) { b"null".to_vec() } else { self.write(range) };
            selector = selector.with("range", range);
        }
        let mut enrichment = Object::new();
        let entries = if self.random.one_in(15) { self.random.below(80) } else { self.random.below(5) };
        for number in 0..entries {
            let key = match self.random.below(10) {
                0 => format!("{}", self.random.below(12)).into_bytes(),
                1 if entries > 5 => format!("key of a stamp {number}").into_bytes(),
                _ => self.keys[self.random.below(self.keys.len())].clone(),
            };
            let value = self.of(|all| &all.texts);
            enrichment.0.push((key, value));
        }
        Object::new()
            .with("ts", self.of(|all| &all.times))
            .with("selector", self.write(selector))
            .with("enrichment", self.write(enrichment))
    }

    fn other(&mut self) -> (&'static str, Object) {
        let kind = self.random.pick(&["relationship", "user_turn", "unknown"]);
        let record = Object::new()
            .with("source", self.of(|all| &all.sources))
            .with("sessionId", self.of(|all| &all.sessions))
            .with("relatedSessionId", self.of(|all| &all.sessions))
            .with("ts", self.of(|all| &all.times))
            .with("blocks", b"[{\"kind\":\"text\",\"byteLen\":5}]");
        (kind, Object::new().with("record", self.write(record)))
    }

    /// A literal from a pool, sometimes with another spelling.
    fn of(&mut self, pool: impl Fn(&Self) -> &Vec<Vec<u8>>) -> Vec<u8> {
        let text = {
            let place = self.random.next() as usize;
            let pool = pool(self);
            pool[place % pool.len()].clone()
        };
        let text = self.spelled(text);
        quoted(&text)
    }

    fn spelled(&mut self, mut text: Vec<u8>) -> Vec<u8> {
        if !text.is_empty() && !text.contains(&b'\\') && self.random.one_in(30) {
            let at = self.random.below(text.len());
            if text[at].is_ascii_alphanumeric() {
                text.splice(at..=at, format!("\\u{:04X}", text[at]).bytes());
            }
        }
        text
    }

    fn number(&mut self) -> &'static [u8] {
        if self.numbers_are_odd { self.random.pick(&NUMBERS) } else { self.random.pick(&NUMBERS[..8]) }
    }

    fn count_or_flag(&mut self, is_flag: bool) -> &'static [u8] {
        match self.random.below(10) {
            0 if is_flag => self.random.pick(&VALUES[..20]),
            1 if is_flag => self.random.pick(&NUMBERS),
            2 => b"null",
            _ if is_flag => self.random.pick(&[b"true", b"false"]),
            _ => self.number(),
        }
    }

    /// The object as text, sometimes changed in one of many ways.
    fn write(&mut self, object: Object) -> Vec<u8> {
        let Object(mut members) = object;
        if self.random.one_in(self.odd_in) {
            let at = self.random.below(members.len().max(1));
            let odd = match self.random.below(4) {
                0 => self.random.pick(&NUMBERS).to_vec(),
                1 => quoted(self.random.pick(&STRINGS)),
                2 => self.random.pick(&VALUES).to_vec(),
                _ => b"null".to_vec(),
            };
            match self.random.below(9) {
                _ if members.is_empty() => members.push((self.random.pick(&STRINGS).to_vec(), odd)),
                0 => _ = members.remove(at),
                1 | 2 => members[at].1 = odd,
                3 => {
                    let key = self.spelled(members[at].0.clone());
                    let before = self.random.below(members.len() + 1);
                    members.insert(before, (key, odd));
                }
                4 => {
                    let value = members[self.random.below(members.len())].1.clone();
                    members.push((members[at].0.clone(), value));
                }
                5 => members.push((self.random.pick(&STRINGS).to_vec(), odd)),
                6 => members[at].0 = self.spelled(members[at].0.clone()),
                7 => {
                    let depth = self.random.below(900);
                    members.push((b"deep".to_vec(), [b"[".repeat(depth), b"]".repeat(depth)].concat()));
                }
                _ => {
                    let other = self.random.below(members.len());
                    members.swap(at, other);
                }
            }
        }
        let space: &[u8] =
            if self.random.one_in(30) { self.random.pick(&[b" ", b"\t", b"\r", b"  "]) } else { b"" };
        let members = members
            .iter()
            .map(|(key, value)| [b"\"", &key[..], b"\"", space, b":", space, &value[..]].concat());
        [b"{", &members.collect::<Vec<_>>().join(&b","[..])[..], space, b"}"].concat()
    }

    /// Damages a line as between its writer and its reader.
    fn damage(&mut self, line: &mut Vec<u8>) {
        const AROUND: [&[u8]; 14] = [
            b"\xef\xbb\xbf",
            b"\r",
            b" ",
            b"\t",
            b"\x0b",
            b"\x0c",
            b"\xc2\xa0",
            b"\xe2\x80\xa8",
            b"\xe3\x80\x80",
            b"\xc2\x85",
            b"\x00",
            b"\xff",
            b"}",
            b"//",
        ];
        let at = self.random.below(line.len().max(1));
        match self.random.below(12) {
            _ if line.is_empty() => line.extend(self.random.pick(&AROUND)),
            0 | 1 => line.extend(self.random.pick(&AROUND)),
            2 | 3 => _ = line.splice(0..0, self.random.pick(&AROUND).iter().copied()),
            4 => line.truncate(at),
            5 => line[at] = self.random.next() as u8,
            6 => line[at] ^= 1 << self.random.below(8),
            7 => _ = line.remove(at),
            8 => line.insert(at, self.random.next() as u8),
            9 => {
                *line = self
                    .random
                    .pick(&[
                        b"" as &[u8],
                        b"   ",
                        b"\r",
                        b"[1]",
                        b"null",
                        b"12",
                        b"\"turn\"",
                        b"{broken",
                        b"{}",
                    ])
                    .to_vec()
            }
            10 => {
                let again = line.clone();
                line.extend(again);
            }
            _ => {
                let value = self.random.pick(&VALUES);
                line.splice(at..at, value.iter().copied());
            }
        }
    }
}

fn quoted(text: &[u8]) -> Vec<u8> {
    [b"\"", text, b"\""].concat()
}

fn array(items: &[Vec<u8>]) -> Vec<u8> {
    [b"[", &items.join(&b","[..])[..], b"]"].concat()
}
