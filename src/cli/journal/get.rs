//! `burn journal get`: read from a store that `burn journal drain` fills.
//!
//! May touch: the store, which it opens under its lock and does not change. Guarantees: a key is printed with its whole value, decoded
//! where the value is of a known kind and in base64 where it is not.

use std::path::{Path, PathBuf};

use anyhow::bail;
use serde_json::{Value, json};

use super::super::arguments::{HomeArg, JsonArg};
use super::super::{must_exist, print, print_text};
use super::common::base64;
use super::drain::watch_engines;
use crate::ingest::{HybridStore, KVStore, KeyValue, Payload, deserialize};

/// Print what a store has under a key: an assertion, a vote, an epoch, a subject's list, a record that was set aside.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Keys are H:HASH (an assertion), S:SUBJECT (the hashes of its assertions), V:ASSERTION:VOTE, E:ID, Q:OFFSET (a record that was \
set aside, with the reason), C:offset and C:journal. A store that `burn journal drain` has open cannot be read.

Examples:
  burn journal get S:water
  burn journal get --prefix Q: --json
  burn journal get --store ./store --prefix V:")]
pub struct GetArgs {
    /// The key, or with --prefix its beginning.
    key: String,
    /// The store's directory [default: ingest in the home].
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Print all keys that begin with KEY.
    #[arg(long)]
    prefix: bool,
    #[command(flatten)]
    form: JsonArg,
    #[command(flatten)]
    home: HomeArg,
}

/// Runs `burn journal get`.
pub fn run(args: &GetArgs) -> anyhow::Result<()> {
    let store = match &args.store {
        Some(store) => store.clone(),
        None => args.home.home()?.root().join("ingest"),
    };
    must_exist(&store, "store", "`burn journal drain`", &["index.redb"])?;
    watch_engines(store.clone());
    let entries = entries(&HybridStore::open(&store)?, args)?;
    if entries.is_empty() && !args.prefix {
        bail!(
            "the store at {} has no key {}; `burn journal get --prefix KEY` prints all that begin with KEY",
            store.display(),
            args.key
        );
    }
    if args.form.json {
        return print(format!("{}\n", document(&store, &entries)).as_bytes());
    }
    let lines = entries.iter().map(|(key, value)| {
        let key = String::from_utf8_lossy(key).into_owned();
        format!("{}\t{}\n", key.replace(['\n', '\t'], "\u{FFFD}"), decoded(key.as_bytes(), value))
    });
    print_text(&lines.collect::<String>())
}

fn entries(store: &HybridStore, args: &GetArgs) -> anyhow::Result<Vec<KeyValue>> {
    let key = args.key.as_bytes();
    if args.prefix {
        return Ok(store.scan_prefix(key)?);
    }
    Ok(store.get(key)?.map(|value| (key.to_vec(), value)).into_iter().collect())
}

fn document(store: &Path, entries: &[KeyValue]) -> Value {
    let entry = |(key, value): &KeyValue| json!({ "key": String::from_utf8_lossy(key), "value": decoded(key, value) });
    json!({ "store": store.to_string_lossy(), "entries": entries.iter().map(entry).collect::<Vec<_>>() })
}

/// A value as the key says what it is.
fn decoded(key: &[u8], value: &[u8]) -> Value {
    let known = match key {
        b"C:offset" => value.try_into().ok().map(|offset| json!({ "offset": u64::from_le_bytes(offset) })),
        b"C:journal" => value.split_at_checked(16).map(
            |(identity, path)| json!({ "identity": hex(identity), "path": String::from_utf8_lossy(path) }),
        ),
        [b'S', b':', ..] if value.len().is_multiple_of(32) => {
            Some(json!({ "assertions": value.chunks_exact(32).map(hex).collect::<Vec<_>>() }))
        }
        [b'Q', b':', ..] => set_aside(value),
        [b'H' | b'V' | b'E', b':', ..] => record(value),
        _ => None,
    };
    known.unwrap_or_else(|| json!({ "bytes": base64(value) }))
}

/// A record that was set aside: the length of the reason, the reason, the payload.
fn set_aside(value: &[u8]) -> Option<Value> {
    let (len, rest) = value.split_first_chunk::<4>()?;
    let (reason, payload) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some(json!({ "reason": String::from_utf8_lossy(reason), "payload": base64(payload) }))
}

fn record(value: &[u8]) -> Option<Value> {
    match deserialize(value).ok()? {
        Payload::Assertion(assertion) => Some(json!({
            "subject": assertion.subject, "predicate": assertion.predicate, "object": assertion.object,
            "source": assertion.source, "confidence": assertion.confidence, "timestampMs": assertion.timestamp_ms,
        })),
        Payload::Vote(vote) => Some(json!({
            "assertion": hex(&vote.assertion), "agent": vote.agent, "weight": vote.weight,
            "timestampMs": vote.timestamp_ms,
        })),
        Payload::Epoch(epoch) => Some(json!({
            "id": hex(&epoch.id), "name": epoch.name, "startMs": epoch.start_ms, "endMs": epoch.end_ms,
            "supersedes": epoch.supersedes.map(|id| hex(&id)),
        })),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
