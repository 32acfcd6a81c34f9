//! Measures the bulk loader and SQLite's own inserting, and tests one file beyond 1 GiB. Not part of a normal run:
//!
//! ```text
//! cargo test --release --test bulk_speed -- --ignored --nocapture speed
//! cargo test --release --test bulk_speed -- --ignored --nocapture gibibyte
//! ```
//!
//! `BURN_BENCH_TURNS` is the number of turns, 160 000 (about 150 MB) unless set; `BURN_BENCH_MEMORY` the budget in MiB.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use relayburn_ledger::sqlite_file::{Duplicates, Loaded, Loader, Schema, SqlValue};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement};

/// The large tables of the archive.
const TABLES: &str = "
CREATE TABLE turns (source TEXT NOT NULL, session_id TEXT NOT NULL, message_id TEXT NOT NULL,
  turn_index INTEGER NOT NULL, ts TEXT NOT NULL, model TEXT NOT NULL, project TEXT, project_key TEXT, activity TEXT,
  stop_reason TEXT, has_edits INTEGER, retries INTEGER, is_sidechain INTEGER, subagent_id TEXT,
  parent_subagent_id TEXT, parent_tool_use_id TEXT, subagent_type TEXT, subagent_description TEXT,
  input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL,
  cache_read_tokens INTEGER NOT NULL, cache_create_5m_tokens INTEGER NOT NULL,
  cache_create_1h_tokens INTEGER NOT NULL, workflow_id TEXT, agent_id TEXT, persona TEXT, tier TEXT,
  enrichment_json TEXT, attribution_fidelity TEXT, tokens_present INTEGER, cost_present INTEGER,
  PRIMARY KEY (source, session_id, message_id));
CREATE TABLE tool_calls (source TEXT NOT NULL, session_id TEXT NOT NULL, message_id TEXT NOT NULL,
  call_index INTEGER NOT NULL, tool_use_id TEXT, tool_name TEXT NOT NULL, target TEXT, args_hash TEXT,
  is_error INTEGER, replaced_tools TEXT, collapsed_calls INTEGER,
  PRIMARY KEY (source, session_id, message_id, call_index));
CREATE TABLE tool_result_events (source TEXT NOT NULL, session_id TEXT NOT NULL, message_id TEXT NOT NULL,
  tool_use_id TEXT NOT NULL, call_index INTEGER NOT NULL, event_index INTEGER NOT NULL, status TEXT,
  content_length INTEGER, content_hash TEXT, is_error INTEGER, subagent_session_id TEXT, agent_id TEXT,
  event_source TEXT, ts TEXT, PRIMARY KEY (source, session_id, message_id, tool_use_id, event_index));";

const INDEXES: &str = "
CREATE INDEX idx_turns_ts ON turns(ts);
CREATE INDEX idx_turns_session ON turns(source, session_id, turn_index);
CREATE INDEX idx_turns_model ON turns(model);
CREATE INDEX idx_turns_activity ON turns(activity);
CREATE INDEX idx_turns_project_key ON turns(project_key);
CREATE INDEX idx_turns_workflow ON turns(workflow_id);
CREATE INDEX idx_turns_attribution_fidelity ON turns(attribution_fidelity);
CREATE INDEX idx_tool_calls_name ON tool_calls(tool_name);
CREATE INDEX idx_tool_calls_use_id ON tool_calls(tool_use_id);
CREATE INDEX idx_tool_result_events_use_id ON tool_result_events(tool_use_id);
CREATE INDEX idx_tool_result_events_session ON tool_result_events(source, session_id);
CREATE INDEX idx_tool_result_events_subagent ON tool_result_events(subagent_session_id);";

const TURNS: usize = 0;
const CALLS: usize = 1;
const EVENTS: usize = 2;
const NAMES: [&str; 3] = ["turns", "tool_calls", "tool_result_events"];
const TURNS_A_BATCH: u64 = 1000;

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn letters<'a>(out: &'a mut [u8; 40], start: &str, n: u64, length: usize) -> SqlValue<'a> {
    let (mut bits, alphabet) = (mix(n), b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefgh");
    out[..start.len()].copy_from_slice(start.as_bytes());
    for (place, byte) in out[start.len()..length].iter_mut().enumerate() {
        *byte = alphabet[(bits >> 59) as usize];
        bits = bits.rotate_left(5) ^ if place == 11 { mix(!n) } else { 0 };
    }
    SqlValue::Text(&out[..length])
}

fn uuid(out: &mut [u8; 40], n: u64) -> SqlValue<'_> {
    let (high, low) = (mix(n), mix(!n));
    for (place, byte) in out[..36].iter_mut().enumerate() {
        let bits = if place < 18 { high >> (3 * place) } else { low >> (3 * (place - 18)) };
        *byte =
            if matches!(place, 8 | 13 | 18 | 23) { b'-' } else { b"0123456789abcdef"[(bits & 15) as usize] };
    }
    SqlValue::Text(&out[..36])
}

fn time(out: &mut [u8; 40], ms: u64) -> SqlValue<'_> {
    out[..24].copy_from_slice(b"2026-01-01T00:00:00.000Z");
    let mut digits = |at: usize, length: usize, mut value: u64| {
        for byte in out[at..at + length].iter_mut().rev() {
            *byte = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    digits(20, 3, ms % 1000);
    digits(17, 2, ms / 1000 % 60);
    digits(14, 2, ms / 60_000 % 60);
    digits(11, 2, ms / 3_600_000 % 24);
    digits(8, 2, ms / 86_400_000 % 28 + 1);
    digits(5, 2, ms / 86_400_000 / 28 % 12 + 1);
    SqlValue::Text(&out[..24])
}

/// The rows of about one line of a ledger: a turn with its calls, and an event for about every second turn.
fn line(n: u64, mut push: impl FnMut(usize, &[SqlValue<'_>])) {
    let mut scratch = [[0; 40]; 8];
    let [session, message, ts, call, hash, event_hash, agent, parent_call] = &mut scratch;
    // Four sessions at once, each of 60 turns; every hundredth turn is written again four lines later.
    let session = uuid(session, n / 240 * 4 + n % 4);
    let turn = if n % 100 == 50 && n >= 4 { n - 4 } else { n };
    let message = letters(message, "msg_01", turn, 30);
    let ts = time(ts, n * 977 + mix(n) % 4000);
    let source = SqlValue::from(if n % 240 / 60 == 3 { "codex" } else { "claude-code" });
    let of = |names: &[&'static str], salt: u64| {
        SqlValue::from(names[(mix(n ^ salt) % names.len() as u64) as usize])
    };
    let number = |most: u64, salt: u64| SqlValue::Int((mix(n ^ salt) % most) as i64);
    let project = of(
        &["/home/dev/projects/ledger", "/home/dev/projects/website", "/home/dev/work/agents/tools"],
        n / 240,
    );
    let key = of(&["github.com/acme/ledger", "github.com/acme/website", "github.com/acme/tools"], n / 240);
    let subagent = n.is_multiple_of(8);
    let agent = if subagent { letters(agent, "agent_", n / 240, 20) } else { SqlValue::Null };
    let parent = if subagent { letters(parent_call, "toolu_01", n / 16, 30) } else { SqlValue::Null };
    push(
        TURNS,
        &[
            source,
            session,
            message,
            SqlValue::Int((n % 240 / 4) as i64),
            ts,
            of(
                &[
                    "claude-opus-4-5-20251101",
                    "claude-sonnet-4-5-20250929",
                    "gpt-5-codex",
                    "claude-haiku-4-5",
                ],
                1,
            ),
            project,
            key,
            of(&["coding", "debugging", "exploration", "planning", "testing", "docs", "chat"], 2),
            of(&["tool_use", "end_turn", "max_tokens"], 3),
            number(2, 4),
            number(3, 5),
            SqlValue::Int(i64::from(subagent)),
            agent,
            SqlValue::Null,
            parent,
            if subagent { of(&["general-purpose", "explore"], 6) } else { SqlValue::Null },
            if subagent { SqlValue::from("Look for the callers of this function") } else { SqlValue::Null },
            number(9000, 7),
            number(4000, 8),
            number(2, 9),
            number(200_000, 10),
            number(20_000, 11),
            SqlValue::Int(0),
            SqlValue::Null,
            SqlValue::Null,
            SqlValue::Null,
            SqlValue::Null,
            SqlValue::from("{}"),
            of(&["full", "full", "usage-only", "partial"], 12),
            SqlValue::Int(1),
            SqlValue::Int(0),
        ],
    );
    let call = letters(call, "toolu_01", n, 30);
    for place in 0..mix(n ^ 13) % 5 / 2 {
        push(
            CALLS,
            &[
                source,
                session,
                message,
                SqlValue::Int(place as i64),
                call,
                of(&["Bash", "Read", "Edit", "Grep", "Write", "TodoWrite", "WebFetch"], 14 + place),
                of(
                    &[
                        "/home/dev/projects/ledger/src/lib.rs",
                        "cargo test --lib",
                        "/home/dev/projects/website/a.ts",
                    ],
                    15,
                ),
                letters(hash, "", n ^ place << 40, 16),
                number(2, 16),
                SqlValue::Null,
                SqlValue::Null,
            ],
        );
    }
    if mix(n ^ 17) % 20 < 11 {
        push(
            EVENTS,
            &[
                source,
                session,
                message,
                call,
                SqlValue::Int(0),
                SqlValue::Int(0),
                of(&["completed", "completed", "errored"], 18),
                number(20_000, 19),
                letters(event_hash, "", n ^ 5 << 50, 16),
                number(2, 20),
                if subagent { session } else { SqlValue::Null },
                agent,
                SqlValue::from("tool_result"),
                ts,
            ],
        );
    }
}

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn load(path: &Path, turns: u64, threads: usize) -> (Loaded, f64) {
    let mut schema = Schema::from_sql(&format!("{TABLES}{INDEXES}"), 16384).unwrap();
    let ids = NAMES.map(|name| schema.table(name).unwrap());
    schema.on_duplicate(ids[TURNS], Duplicates::KeepLastAtFirst);
    schema.on_duplicate(ids[CALLS], Duplicates::KeepLast);
    schema.on_duplicate(ids[EVENTS], Duplicates::KeepLast);
    schema.children_of(ids[CALLS], ids[TURNS]).unwrap();
    let memory_bytes = (env("BURN_BENCH_MEMORY", 512) << 20) as usize;
    let loader = Loader::create(path, schema, memory_bytes).unwrap();
    let next = AtomicU64::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let sequence = next.fetch_add(1, Ordering::Relaxed);
                    if sequence * TURNS_A_BATCH >= turns {
                        break;
                    }
                    let mut batch = loader.batch(sequence);
                    for n in sequence * TURNS_A_BATCH..((sequence + 1) * TURNS_A_BATCH).min(turns) {
                        line(n, |table, row| batch.push(ids[table], row).unwrap());
                    }
                    loader.submit(batch).unwrap();
                }
            });
        }
    });
    let rows = started.elapsed().as_secs_f64();
    (loader.finish().unwrap(), rows)
}

struct Bound<'a>(SqlValue<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            SqlValue::Null => ValueRef::Null,
            SqlValue::Int(value) => ValueRef::Integer(value),
            SqlValue::Real(value) => ValueRef::Real(value),
            SqlValue::Text(bytes) => ValueRef::Text(bytes),
            SqlValue::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Eight rows a statement, indexes last, without protection against a crash.
fn insert(path: &Path, turns: u64) -> f64 {
    let started = Instant::now();
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "PRAGMA page_size=16384; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE;
         PRAGMA cache_size=-2000000; PRAGMA temp_store=MEMORY;",
    )
    .unwrap();
    db.execute_batch(TABLES).unwrap();
    db.execute_batch("BEGIN").unwrap();
    let columns = [32, 11, 14];
    let statement = |table: usize, rows: usize| {
        let rows = vec![format!("({})", vec!["?"; columns[table]].join(",")); rows].join(",");
        let (or, conflict) = match table {
            TURNS => (
                "",
                " ON CONFLICT(source,session_id,message_id) DO UPDATE SET turn_index=excluded.turn_index",
            ),
            _ => ("OR REPLACE ", ""),
        };
        format!("INSERT {or}INTO {} VALUES {rows}{conflict}", NAMES[table])
    };
    let mut statements: Vec<(Statement<'_>, usize)> =
        (0..3).map(|table| (db.prepare(&statement(table, 8)).unwrap(), 0)).collect();
    for n in 0..turns {
        line(n, |table, row| {
            let (prepared, bound) = &mut statements[table];
            for value in row {
                *bound += 1;
                prepared.raw_bind_parameter(*bound, Bound(*value)).unwrap();
            }
            if *bound == 8 * columns[table] {
                prepared.raw_execute().unwrap();
                *bound = 0;
            }
        });
    }
    drop(statements);
    db.execute_batch(INDEXES).unwrap();
    db.execute_batch("COMMIT").unwrap();
    started.elapsed().as_secs_f64()
}

/// The peak of memory outside the page cache while `measured` runs, in MiB, sampled every few milliseconds; 0 if the
/// system does not report it.
fn peak_mib<T>(measured: impl FnOnce() -> T) -> (T, u64) {
    let peak_kib = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let value = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
                let lines = status
                    .lines()
                    .filter(|line| line.starts_with("RssAnon:") || line.starts_with("RssShmem:"));
                let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum();
                peak_kib.fetch_max(kib, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let value = measured();
        done.store(true, Ordering::Relaxed);
        value
    });
    (value, peak_kib.into_inner() >> 10)
}

#[test]
#[ignore = "a measurement: cargo test --release --test sqlite_file -- --ignored --nocapture --exact speed::speed"]
fn speed() {
    let turns = env("BURN_BENCH_TURNS", 160_000);
    let threads = std::thread::available_parallelism().unwrap().get();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let started = Instant::now();
    let mut values = 0;
    (0..turns).for_each(|n| line(n, |_, row| values += std::hint::black_box(row).len()));
    println!("making {values} values alone, one thread: {:.3} s", started.elapsed().as_secs_f64());
    for round in 0..3 {
        let started = Instant::now();
        let ((loaded, rows), peak) =
            peak_mib(|| load(&dir.path().join(format!("bulk{round}")), turns, threads));
        let total = started.elapsed().as_secs_f64();
        let started = Instant::now();
        loaded.file.sync_all().unwrap();
        let sync = started.elapsed().as_secs_f64();
        println!(
            "bulk, {threads} threads: {total:.3} s, of it rows {rows:.3} s; sync {sync:.3} s; peak {peak} MiB; {} MB, rows {:?}, spilled {} MB",
            loaded.len_bytes / 1_000_000,
            loaded.rows,
            loaded.spilled_bytes / 1_000_000,
        );
        if env("BURN_BENCH_SQLITE", 1) == 1 {
            let seconds = insert(&dir.path().join(format!("sqlite{round}")), turns);
            println!("SQLite: {seconds:.3} s; bulk takes {:.3} of it", total / seconds);
        }
        std::fs::remove_file(dir.path().join(format!("bulk{round}"))).unwrap();
    }
}

#[test]
#[ignore = "writes 1.3 GB and checks it in full: cargo test --release --test sqlite_file -- --ignored --exact speed::a_file_beyond_one_gibibyte"]
fn a_file_beyond_one_gibibyte() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("large");
    let (loaded, _) = load(&path, 1_600_000, 2);
    assert!(loaded.len_bytes > 1 << 30, "{}", loaded.len_bytes);
    let started = Instant::now();
    let db = Connection::open(&path).unwrap();
    let found: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
    println!("{} bytes, integrity_check {:.1} s", loaded.len_bytes, started.elapsed().as_secs_f64());
}
