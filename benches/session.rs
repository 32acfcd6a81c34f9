//! Measures session stores at full size: rebuilding the index compared with a plain reading of segments, opening,
//! look-ups, appends.
//!
//! ```text
//! cargo bench --bench session                      1 GB of segments, payloads of 1 KiB, in a temporary directory
//! SESSION_BENCH_MB=100 cargo bench --bench session  smaller
//! SESSION_BENCH_ENTRIES=1000000 cargo bench --bench session  as many entries, beside a store of 1000
//! SESSION_BENCH_DIR=/fast cargo bench --bench session  elsewhere
//! ```
//!
//! The plain way reads every segment line by line on one thread with serde_json into a struct with a `RawValue` and
//! hashes the payload with sha2; it writes nothing. Both run alternately on a warm page cache, and medians are
//! compared. The bench also writes and syncs the bytes of the index alone, which is the disk's share of a rebuild.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use relayburn_ledger::session::{EntryPayload, NewEntry, SessionOptions, SessionStoreV2, Verify};
use relayburn_ledger::store::Durability;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 5;
const PAYLOAD_BYTES: usize = 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)] // Read as a whole, as a reader would.
struct PlainFrame {
    schema: String,
    segment_seq: u64,
    frame_seq: u64,
    entry_seq: u64,
    entry_id: String,
    #[serde(default)]
    parent_entry_id: Option<String>,
    entry_type: String,
    timestamp: String,
    payload_sha256: String,
    payload_bytes: u64,
    payload: Box<RawValue>,
}

/// By a table, because `format!` for each byte would cost the plain way as much as the hash itself.
fn hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(64);
    for byte in digest {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    text
}

/// Reads the store in the plain way. Returns the number of frames whose payload matches the hash in the frame.
fn read_plainly(root: &Path) -> Outcome<u64> {
    let mut sound = 0;
    let mut segments: Vec<_> = std::fs::read_dir(root.join("segments"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    segments.sort();
    for segment in segments {
        for line in BufReader::new(File::open(segment)?).lines() {
            let frame: PlainFrame = serde_json::from_str(&line?)?;
            sound += u64::from(hex(&Sha256::digest(frame.payload.get())) == frame.payload_sha256);
        }
    }
    Ok(sound)
}

/// A payload of [`PAYLOAD_BYTES`]: an agent's message, text with a few escapes.
fn payload(number: u64) -> Outcome<EntryPayload<'static>> {
    let mut text = format!("{{\"content\":[{{\"type\":\"text\",\"text\":\"turn {number}: ");
    while text.len() < PAYLOAD_BYTES - 40 {
        text.push_str("let it read \\\"the file\\\" and say what it found; ");
    }
    text.truncate(PAYLOAD_BYTES - 40);
    while text.ends_with('\\') {
        text.pop();
    }
    text.push_str("\"}],\"role\":\"assistant\",\"n\":");
    let room = PAYLOAD_BYTES - text.len() - 1;
    text.push_str(&format!("{:0>room$}", 0).replace('0', "1"));
    text.push('}');
    Ok(EntryPayload::verbatim(Box::leak(text.into_boxed_str()))?)
}

/// The size of a store.
#[derive(Clone, Copy)]
enum Size {
    Megabytes(u64),
    Entries(u64),
}

impl Size {
    fn of_environment() -> Outcome<Self> {
        if let Ok(text) = std::env::var("SESSION_BENCH_ENTRIES") {
            return Ok(Self::Entries(text.parse()?));
        }
        Ok(Self::Megabytes(std::env::var("SESSION_BENCH_MB").map_or(Ok(1000), |text| text.parse())?))
    }
}

fn build(root: &Path, size: Size) -> Outcome<u64> {
    let options = SessionOptions { durability: Durability::Os, ..SessionOptions::default() };
    let (mut store, _) = SessionStoreV2::create(root, &options)?;
    let mut parent: Option<String> = None;
    let mut number = 0;
    let is_full = |store: &SessionStoreV2, number: u64| match size {
        Size::Megabytes(megabytes) => store.total_bytes() >= megabytes * 1_000_000,
        Size::Entries(entries) => number == entries,
    };
    while !is_full(&store, number) {
        let id = format!("{number:08x}-entry");
        let payload = payload(number)?;
        store.append_entry(&NewEntry {
            id: id.clone().into(),
            parent_id: parent.take().map(Into::into),
            entry_type: "message".into(),
            payload,
        })?;
        parent = Some(id);
        number += 1;
    }
    store.sync()?;
    Ok(number)
}

fn timed<T>(operation: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Duration)> {
    let start = Instant::now();
    let value = operation()?;
    Ok((value, start.elapsed()))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// CPU time of this process so far, user and system; `None` without `/proc`. A tick of Linux is 10 ms.
fn cpu_time() -> Option<[Duration; 2]> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut ticks = behind_name.split_whitespace().skip(11).map(str::parse::<u32>);
    let mut next = || Some(Duration::from_millis(10) * ticks.next()?.ok()?);
    Some([next()?, next()?])
}

fn write_alone(directory: &Path, bytes: &[u8]) -> Outcome<()> {
    let mut file = tempfile::tempfile_in(directory)?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

fn main() -> Outcome<()> {
    let size = Size::of_environment()?;
    let directory = match std::env::var_os("SESSION_BENCH_DIR") {
        Some(path) => tempfile::tempdir_in(path)?,
        None => tempfile::tempdir()?,
    };
    let root = directory.path().join("store.v2");
    let (entries, took) = timed(|| build(&root, size))?;
    let megabytes =
        SessionStoreV2::open_for_inspection(&root, &SessionOptions::default())?.view()?.total_bytes()
            / 1_000_000;
    println!("built        {entries} entries, {megabytes} MB, grouped appends: {took:.2?}");

    let (mut plain, mut rebuild, mut disk, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (sound, took) = timed(|| read_plainly(&root))?;
        assert_eq!(sound, entries);
        plain.push(took);
        std::fs::remove_file(root.join("index/offsets.jsonl"))?;
        let before = cpu_time();
        let (report, took) =
            timed(|| Ok(SessionStoreV2::open_rebuilding(&root, &SessionOptions::default())?.1))?;
        if let (Some(before), Some(after)) = (before, cpu_time()) {
            cpu.push([after[0] - before[0], after[1] - before[1]]);
        }
        assert_eq!(report.rows_after, entries);
        rebuild.push(took);
        let index = std::fs::read(root.join("index/offsets.jsonl"))?;
        let ((), took) = timed(|| write_alone(directory.path(), &index))?;
        disk.push(took);
    }
    println!("plain        {plain:.3?}");
    println!("rebuild      {rebuild:.3?}");
    println!("index alone  {disk:.3?}, written and synced");
    println!("rebuild, CPU {cpu:.2?}, its own and the kernel's");
    let (plain, rebuild) = (median(plain), median(rebuild));
    let ratio = plain.as_secs_f64() / rebuild.as_secs_f64();
    println!(
        "medians      plain {plain:.3?}, rebuild with index written and synced {rebuild:.3?}: {ratio:.2} times as fast"
    );

    for verify in [Verify::Full, Verify::Rows] {
        let options = SessionOptions { verify, ..SessionOptions::default() };
        let times = (0..ROUNDS)
            .map(|_| Ok(timed(|| SessionStoreV2::create(&root, &options).map(drop).map_err(Into::into))?.1))
            .collect::<Outcome<_>>()?;
        println!("open {verify:?}    {:.3?}", median(times));
    }
    let ((), took) = timed(|| {
        let mut reader = SessionStoreV2::open_for_inspection(&root, &SessionOptions::default())?;
        reader.view()?;
        Ok(())
    })?;
    println!("first view   {took:.3?}");
    let mut reader = SessionStoreV2::open_for_inspection(&root, &SessionOptions::default())?;
    reader.view()?;
    const LOOKUPS: u64 = 100_000;
    let ((), took) = timed(|| {
        for lookup in 0..LOOKUPS {
            let seq = lookup.wrapping_mul(0x9E37_79B9) % entries + 1;
            assert!(reader.view()?.lookup_entry(seq)?.is_some());
        }
        Ok(())
    })?;
    println!("lookup seq   {:.2?} each, refresh and verification included", took / LOOKUPS as u32);
    let ((), took) = timed(|| {
        for lookup in 0..LOOKUPS {
            let id = format!("{:08x}-entry", lookup.wrapping_mul(0x9E37_79B9) % entries);
            assert!(reader.view()?.lookup_entry_by_id(&id)?.is_some());
        }
        Ok(())
    })?;
    println!("lookup id    {:.2?} each", took / LOOKUPS as u32);
    let small = directory.path().join("small.v2");
    build(&small, Size::Entries(1000))?;
    measure_appends(&root, &small)
}

/// Appends to the full store and to a small one.
fn measure_appends(full: &Path, small: &Path) -> Outcome<()> {
    for (name, durability, count) in
        [("durable", Durability::Immediate, 200u32), ("grouped", Durability::Os, 2000)]
    {
        for root in [small, full] {
            let options = SessionOptions { verify: Verify::Rows, durability, ..SessionOptions::default() };
            let (mut store, _) = SessionStoreV2::create(root, &options)?;
            let before = store.row_count();
            let ((), took) = timed(|| {
                for number in 0..count {
                    let payload = payload(u64::from(number))?;
                    let id = format!("{name}-{number}").into();
                    store.append_entry(&NewEntry {
                        id,
                        parent_id: None,
                        entry_type: "message".into(),
                        payload,
                    })?;
                }
                Ok(store.sync()?)
            })?;
            println!("append       {name}, store of {before} entries: {:.2?} each", took / count);
        }
    }
    Ok(())
}
