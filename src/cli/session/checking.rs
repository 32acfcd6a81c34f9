//! `burn session check` and `reindex`: validate or recover a store, and report the result.

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::arguments::{CheckArgs, ReindexArgs, StoreDir, WriterArgs};
use super::store::{failure, must_exist};
use crate::cli::{JsonFailure, counted, in_store, print, print_json, printable, tell_recovery, warn};
use crate::session::{
    self, Loss, SessionError, SessionOptions, SessionProblem, SessionRecoveryReport, SessionStatus,
    SessionStoreV2, UnindexedRange,
};
use crate::store::Durability;

impl WriterArgs {
    /// Opens the store; what recovery did goes to standard error.
    pub(super) fn open(&self, durability: Durability) -> Result<SessionStoreV2, SessionError> {
        let (store, report) =
            SessionStoreV2::create(&self.store.dir, &SessionOptions { durability, ..self.options() })?;
        tell(&self.store.dir, &report);
        Ok(store)
    }
}

/// The document of `check` and `reindex`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct StoreSummary {
    /// Whether there is no error and no whole line that the index lacks.
    ok: bool,
    #[serde(flatten)]
    status: SessionStatus,
    error: Option<JsonFailure>,
    /// The ranges that the index lacks; `None` for `reindex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    unindexed: Option<Vec<UnindexedRange>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery: Option<SessionRecoveryReport>,
}

impl StoreSummary {
    fn of_failure(error: &SessionError) -> Self {
        Self { error: Some(failure(error)), ..Self::default() }
    }
}

fn print_summary(summary: &StoreSummary, json: bool) -> anyhow::Result<ExitCode> {
    if let Some(error) = &summary.error {
        warn(&format!("{} ({})", error.message, error.class));
    }
    if json {
        print_json(summary)?;
    } else if summary.error.is_none() {
        let head = summary.status.head.as_ref().map_or("none".to_owned(), |head| {
            format!("{} (entry {}, segment {})", head.entry_id, head.entry_seq, head.segment_seq)
        });
        let chain = summary.status.chain_hash.as_deref().unwrap_or("unknown");
        let entries = summary.status.entry_ids.len();
        let state = if summary.ok { "sound" } else { "what the index has is sound, and it lacks entries" };
        let head = printable::line(&head);
        print(
            format!("{state}\nentries       {entries}\nhead          {head}\nbytes         {}\nchain         {chain}\n", summary.status.total_bytes)
                .as_bytes(),
        )?;
    }
    Ok(if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let StoreDir { dir, json } = &args.store;
    must_exist(dir)?;
    let check = match session::check(dir) {
        Ok(check) => check,
        Err(error) => return print_summary(&StoreSummary::of_failure(&error), *json),
    };
    let (mut lines, mut unfinished, mut error, mut unindexed) = (Vec::new(), Vec::new(), None, Vec::new());
    for finding in &check.findings {
        let length = match finding.problem {
            SessionProblem::Failed { class } => {
                error = Some(JsonFailure::new(class.as_str(), &finding.reason));
                continue;
            }
            SessionProblem::Unindexed { length } => {
                lines.push(finding);
                length
            }
            SessionProblem::Unfinished { length } => {
                unfinished.push(finding);
                length
            }
        };
        let file = in_store(dir, &finding.file).to_string_lossy().into_owned();
        unindexed.push(UnindexedRange { file, offset: finding.offset.unwrap_or_default(), length });
    }
    for alike in [lines, unfinished] {
        tell_first(&alike, ToString::to_string);
    }
    let unindexed = Some(unindexed);
    print_summary(
        &StoreSummary { ok: check.ok, status: check.status, error, unindexed, recovery: None },
        *json,
    )
}

pub(super) fn reindex(args: &ReindexArgs) -> anyhow::Result<ExitCode> {
    let WriterArgs { store: StoreDir { dir, json }, .. } = &args.writer;
    must_exist(dir)?;
    let options = SessionOptions { loss: Loss::Accept, ..args.writer.options() };
    let opened = if args.rebuild {
        SessionStoreV2::open_rebuilding(dir, &options)
    } else {
        SessionStoreV2::create(dir, &options)
    };
    let summary = match opened {
        Ok((mut store, mut report)) => {
            // The advice in the reason is to run this command.
            report.reason = report.reason.as_deref().map(|reason| without_remedy(reason).to_owned());
            let repaired = if args.repair_ledger { store.repair_ledger() } else { Ok(None) };
            let failed = repaired.map(|cut| report.recovery.truncated.extend(cut)).err();
            tell(dir, &report);
            report.recovery = report.recovery.relative_to(dir);
            // Opening has verified every frame.
            let mut summary =
                StoreSummary { recovery: Some(report), status: store.status(), ..StoreSummary::default() };
            match failed.map_or_else(|| store.chain_hash(), Err) {
                Ok(chain_hash) => (summary.ok, summary.status.chain_hash) = (true, Some(chain_hash)),
                Err(error) => summary.error = Some(failure(&error)),
            }
            summary
        }
        Err(error) => StoreSummary::of_failure(&error),
    };
    print_summary(&summary, *json)
}

/// Returns the failure of the old index without the advice to build it again.
fn without_remedy(reason: &str) -> &str {
    reason.split("; `burn session reindex`").next().unwrap_or(reason)
}

/// Prints one line about the first of several findings of a kind, and how many more there are, because there may be millions.
fn tell_first<T>(alike: &[T], line: impl Fn(&T) -> String) {
    if let Some(first) = alike.first() {
        let more = if alike.len() > 1 {
            format!("; and {} more of the kind", alike.len() - 1)
        } else {
            String::new()
        };
        warn(&format!("{}{more}", line(first)));
    }
}

/// Prints on standard error what recovery did and found.
pub(super) fn tell(dir: &Path, report: &SessionRecoveryReport) {
    let full = |file: &str| dir.join(file).display().to_string();
    if let Some(checkpoint) = report.resumed_rollback {
        warn(&format!("an interrupted rollback to checkpoint {checkpoint} was completed"));
    }
    if let Some(reason) = &report.abandoned_rollback {
        warn(&format!("the intent of an interrupted rollback was not followed: {reason}"));
    }
    if report.import_taken_back {
        warn(
            "an import that did not finish was undone; the bytes that it wrote are kept beside the segments",
        );
    }
    if report.index_rebuilt {
        let rows = counted(report.rows_after, "row");
        warn(&format!(
            "the index was built again, {rows}: {}",
            report.reason.as_deref().map_or("asked for", without_remedy)
        ));
    } else if report.rows_before.is_some_and(|before| before < report.rows_after) {
        let new = report.rows_after - report.rows_before.unwrap_or_default();
        warn(&format!("the index got the rows of {} that it lacked", counted(new, "entry")));
    }
    tell_recovery(&report.recovery, "there was nothing in it to save");
    for file in &report.healed {
        warn(&format!("{} got the line end that its last line lacked", full(file)));
    }
    if report.index_completed {
        warn("the index got the line end that its last row lacked");
    }
    tell_first(&report.changed_crcs, |entry| {
        format!(
            "entry {} ({}) was altered outside its payload: CRC-32C {} became {}",
            entry.entry_seq, entry.entry_id, entry.before, entry.after
        )
    });
    if let (Some(first), Some(last)) = (report.lost_entries.first(), report.lost_entries.last()) {
        let lost = counted(report.lost_entries.len() as u64, "entry");
        warn(&format!(
            "{lost} that the index had left the store: {} ({}) to {} ({})",
            first.entry_seq, first.entry_id, last.entry_seq, last.entry_id
        ));
    }
    tell_first(&report.gaps, |(first, last)| format!("there are no entries {first} to {last}"));
    tell_first(&report.unindexed, |left| {
        let (file, length) = (full(&left.file), counted(left.length, "byte"));
        format!("{file} at byte {} ({length}): no entries; left alone", left.offset)
    });
    for name in &report.ignored {
        warn(&format!(
            "{} does not have the name of a segment; left alone",
            full(&format!("segments/{name}"))
        ));
    }
    for directory in &report.wide_directories {
        warn(&format!("{directory} can be entered by other users; give it mode 0700"));
    }
}
