//! `burn state prune` and `burn state reset`: both list what they would delete or move, and act only with `--force`.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{anyhow, bail};
use clap::Args;

use super::{counted, human_bytes, print_result, warn};
use crate::archive::{self, Paths};
use crate::disk;
use crate::home::Home;
use crate::ledger::{Belonging, Ledger, Reset, ResetScope, Sidecar, Sidecars};
use crate::record::time::iso_millis;

/// Overrides `content.retentionDays` of config.json.
const TTL_VARIABLE: &str = "RELAYBURN_CONTENT_TTL_DAYS";

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// How many days content is kept, or `forever` [default: RELAYBURN_CONTENT_TTL_DAYS, else content.retentionDays of
    /// config.json, else forever]
    #[arg(long, value_name = "N|forever", value_parser = parse_days)]
    days: Option<Days>,
    /// Delete expired content.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(super) struct ResetArgs {
    /// Also move the ledger, the content, cursors.json, hwm.json and ingest.side.json to a trash directory.
    #[arg(long)]
    everything: bool,
    /// Delete and move the files.
    #[arg(long)]
    force: bool,
}

const DAY_SECONDS: f64 = 86_400.0;

/// How long content is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Days {
    Forever,
    Count(f64),
}

fn parse_days(text: &str) -> Result<Days, String> {
    match text.trim() {
        "forever" => Ok(Days::Forever),
        number => match number.parse::<f64>() {
            Ok(days) if Duration::try_from_secs_f64(days * DAY_SECONDS).is_ok() => Ok(Days::Count(days)),
            Ok(days) if days > 0.0 => {
                Err("that is longer than any clock counts; `forever` keeps everything".to_owned())
            }
            _ => Err("a number of days, or `forever`, is needed".to_owned()),
        },
    }
}

/// The days that the environment or config.json set.
fn configured_days(home: &Home) -> anyhow::Result<Days> {
    if let Some(days) = std::env::var_os(TTL_VARIABLE).filter(|days| !days.is_empty()) {
        return parse_days(&days.to_string_lossy())
            .map_err(|reason| anyhow::anyhow!("{TTL_VARIABLE} is {}: {reason}", days.display()));
    }
    let path = home.config();
    let text = disk::if_there(disk::read(&path));
    let Some(text) = text.map_err(|error| anyhow!("{error}; give --days, or repair it"))? else {
        return Ok(Days::Forever);
    };
    let config: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| anyhow!("{} is not JSON: {error}; give --days, or repair it", path.display()))?;
    match &config["content"]["retentionDays"] {
        serde_json::Value::Null => Ok(Days::Forever),
        serde_json::Value::String(text) => parse_days(text),
        other => parse_days(&other.to_string()),
    }
    .map_err(|reason| anyhow::anyhow!("content.retentionDays in {}: {reason}", path.display()))
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Pruned<'p> {
    /// Days; null for `forever`.
    retention_days: Option<f64>,
    /// Content last written at or before this time is expired.
    cut_off: Option<String>,
    forced: bool,
    /// Expired files.
    files: Vec<PrunedFile<'p>>,
    bytes: u64,
    /// The number of files that are kept.
    kept: u64,
    kept_files: Vec<PrunedFile<'p>>,
    kept_bytes: u64,
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct PrunedFile<'p> {
    #[serde(serialize_with = "disk::lossy::one")]
    path: &'p Path,
    session_id: &'p str,
    bytes: u64,
    modified: String,
}

pub(super) fn prune(args: &PruneArgs, home: Home, json: bool) -> anyhow::Result<ExitCode> {
    let days = match args.days {
        Some(days) => days,
        None => configured_days(&home)?,
    };
    let ledger = Ledger::new(home);
    let now = SystemTime::now();
    let cut_off = match days {
        Days::Forever => None,
        Days::Count(days) => now.checked_sub(Duration::from_secs_f64(days * DAY_SECONDS)),
    };
    let sidecars = match (cut_off, args.force) {
        // Without a cut-off, all content is kept.
        (None, _) => ledger.expired_content(SystemTime::UNIX_EPOCH, |_| true)?,
        (Some(cut_off), false) => ledger.expired_content(cut_off, |_| false)?,
        (Some(cut_off), true) => ledger.prune_content(cut_off, |_| false)?,
    };
    let (bytes, kept_bytes) = (total(&sidecars.expired), total(&sidecars.kept));
    let document = Pruned {
        retention_days: if let Days::Count(days) = days { Some(days) } else { None },
        cut_off: cut_off.map(iso_millis),
        forced: args.force,
        files: pruned_files(&sidecars.expired),
        bytes,
        kept: sidecars.kept.len() as u64,
        kept_files: pruned_files(&sidecars.kept),
        kept_bytes,
    };
    print_result(json, &document, || pruned_text(&sidecars, days, now, args.force))
}

fn pruned_text(sidecars: &Sidecars, days: Days, now: SystemTime, is_forced: bool) -> String {
    let [bytes, kept_bytes] = [&sidecars.expired, &sidecars.kept].map(|list| total(list));
    let mut text = String::new();
    let goes = if is_forced { "deleted" } else { "would delete" };
    for (title, list) in [(goes, &sidecars.expired), ("stays", &sidecars.kept)] {
        for Sidecar { path, len_bytes, modified, .. } in list {
            let age = now.duration_since(*modified).unwrap_or_default().as_secs() / 86_400;
            let (size, age) = (human_bytes(*len_bytes), counted(age, "day"));
            text.push_str(&format!("{title:<12}  {}  {size}, {age} old\n", path.display()));
        }
    }
    let files = counted(sidecars.expired.len() as u64, "content file");
    let kept = format!("{} kept, {}", counted(sidecars.kept.len() as u64, "file"), human_bytes(kept_bytes));
    text.push_str(&match (days, is_forced) {
        (Days::Forever, _) => format!("content is kept for ever; {kept}\n"),
        (_, true) => format!("{files} deleted, {}; {kept}\n", human_bytes(bytes)),
        (_, false) if sidecars.expired.is_empty() => format!("nothing to delete; {kept}\n"),
        (_, false) => {
            format!("{files} would go, {}; {kept}; --force deletes what would go\n", human_bytes(bytes))
        }
    });
    text
}

fn total(list: &[Sidecar]) -> u64 {
    list.iter().map(|sidecar| sidecar.len_bytes).sum()
}

fn pruned_files(list: &[Sidecar]) -> Vec<PrunedFile<'_>> {
    let files = list.iter().map(|sidecar| PrunedFile {
        path: &sidecar.path,
        session_id: &sidecar.session,
        bytes: sidecar.len_bytes,
        modified: iso_millis(sidecar.modified),
    });
    files.collect()
}

pub(super) fn reset(args: &ResetArgs, home: Home, json: bool) -> anyhow::Result<ExitCode> {
    let ledger = Ledger::new(home);
    let scope = if args.everything { ResetScope::Everything } else { ResetScope::Derived };
    if let Some(reason) = worth_keeping(&Paths::of_home(ledger.home())) {
        if args.force {
            bail!("{reason}; nothing was deleted");
        }
        warn(&format!("{reason}; --force refuses to delete it"));
    }
    let done = if args.force { ledger.reset(scope)? } else { ledger.plan_reset(scope)? };
    let mut document = serde_json::to_value(&done)?;
    document["forced"] = args.force.into();
    print_result(json, &document, || reset_text(&done, args.force))
}

/// Why the archive may not be derived from the ledger: it is another program's database, or the ledger lost lines.
fn worth_keeping(paths: &Paths) -> Option<String> {
    let archive = paths.archive.display();
    let ledger_bytes = disk::metadata_of_target(&paths.ledger).map_or(0, |found| found.len_bytes);
    let may_be_last = match archive::status(paths) {
        Ok(status) if status.is_foreign => {
            return Some(format!("{archive} is a database of another program; move it away"));
        }
        Ok(status) => status.ledger_offset_bytes.unsigned_abs() > ledger_bytes,
        // An archive that cannot be read is built again, but only from a ledger.
        Err(_) => ledger_bytes == 0 && disk::metadata(&paths.archive).is_ok_and(|found| found.is_file),
    };
    may_be_last.then(|| {
        format!(
            "{} is shorter than what {archive} was built from, so the archive may have the last copy of lines; put the ledger \
             back, or move the archive away",
            paths.ledger.display()
        )
    })
}

fn reset_text(done: &Reset, is_forced: bool) -> String {
    let mut text = String::new();
    let mut list = |title: &str, belongings: &[Belonging]| {
        for Belonging { path, len_bytes } in belongings {
            text.push_str(&format!("{title:<12}  {}  {}\n", path.display(), human_bytes(*len_bytes)));
        }
    };
    let (delete, move_aside) = if is_forced { ("deleted", "moved") } else { ("would delete", "would move") };
    list(delete, &done.deleted);
    list(move_aside, &done.moved);
    list("stays", &done.kept);
    let total = |list: &[Belonging]| human_bytes(list.iter().map(|belonging| belonging.len_bytes).sum());
    let is_nothing = done.deleted.is_empty() && done.moved.is_empty();
    if !is_nothing {
        text.push_str(&format!("{delete} {}", total(&done.deleted)));
        if !done.moved.is_empty() {
            text.push_str(&format!(", {move_aside} {}", total(&done.moved)));
        }
        text.push_str(&format!("; {} kept\n", total(&done.kept)));
    }
    let has_index = done.deleted.iter().any(|belonging| belonging.path.ends_with("ledger.idx"));
    if has_index && done.moved.is_empty() {
        text.push_str("without its index the ledger takes its own records a second time; `burn state rebuild index` makes the index again\n");
    }
    match (&done.trash, is_forced) {
        (Some(trash), _) => text.push_str(&format!("what was moved is in {}\n", trash.display())),
        (None, _) if is_nothing => text.push_str("there is nothing to reset\n"),
        (None, true) => {}
        (None, false) => text.push_str("nothing was changed; --force does it\n"),
    }
    text
}
