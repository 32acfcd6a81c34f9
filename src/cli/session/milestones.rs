//! `burn session checkpoint`, `rollback` and `manifest`.

use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::arguments::{CheckpointArgs, ManifestArgs, RollbackArgs, StoreDir};
use super::store::{must_exist, reader};
use crate::cli::{print_result, printable, warn};
use crate::session::{Checkpoint, Manifest};
use crate::store::Durability;

pub(super) fn checkpoint(args: &CheckpointArgs) -> anyhow::Result<ExitCode> {
    let StoreDir { dir, json } = &args.writer.store;
    must_exist(dir)?;
    if args.list {
        return list_checkpoints(&args.writer.store);
    }
    let mut store = args.writer.open(Durability::Immediate)?;
    let last = store.checkpoints()?.last().copied().unwrap_or(0);
    let made = store.create_checkpoint(args.number.unwrap_or(last.saturating_add(1)), &args.reason)?;
    print_result(*json, &made, || {
        let (number, head) = (made.checkpoint_seq, made.head_entry_seq);
        format!("checkpoint {number} at entry {head} ({})\n", made.head_entry_id)
    })
}

fn list_checkpoints(args: &StoreDir) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct Listed<'c> {
        checkpoints: &'c [Checkpoint],
    }
    let mut reader = reader(args)?;
    let view = reader.view()?;
    let numbers = view.checkpoints()?;
    let found = numbers.iter().map(|number| view.read_checkpoint(*number)).collect::<Result<Vec<_>, _>>()?;
    let found: Vec<_> = found.into_iter().flatten().collect();
    let line = |found: &Checkpoint| {
        let Checkpoint { checkpoint_seq, head_entry_seq, head_entry_id, at, reason, .. } = found;
        format!("{checkpoint_seq}\t{head_entry_seq}\t{head_entry_id}\t{at}\t{reason}\n")
    };
    print_result(args.json, &Listed { checkpoints: &found }, || found.iter().map(line).collect())
}

pub(super) fn rollback(args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    must_exist(&args.writer.store.dir)?;
    let mut store = args.writer.open(Durability::Immediate)?;
    let id = |given: &Option<String>| given.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let event =
        store.rollback_to_checkpoint(args.checkpoint, &id(&args.migration_id), &id(&args.correlation_id))?;
    print_result(args.writer.store.json, &event, || {
        let head = store.head().map_or("an empty store".to_owned(), |head| {
            format!("entry {} ({})", head.entry_seq, head.entry_id)
        });
        format!("back at checkpoint {}: {}\n", args.checkpoint, printable::line(&head))
    })
}

pub(super) fn manifest(args: &ManifestArgs) -> anyhow::Result<ExitCode> {
    #[derive(Serialize)]
    struct ComparedManifest<'a> {
        #[serde(flatten)]
        manifest: &'a Manifest,
        differences: Vec<&'static str>,
    }
    let StoreDir { dir, json } = &args.writer.store;
    must_exist(dir)?;
    let (manifest, differences) = if args.write {
        let mut store = args.writer.open(Durability::Immediate)?;
        let before = store.read_manifest()?;
        let session_id =
            args.session_id.clone().or_else(|| before.as_ref().map(|before| before.session_id.clone()));
        let format = args.source_format.clone().or_else(|| before.map(|before| before.source_format));
        let session_id = session_id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        (store.write_manifest(&session_id, format.as_deref().unwrap_or("native_v2"))?, Vec::new())
    } else {
        let mut reader = reader(&args.writer.store)?;
        let view = reader.view()?;
        let Some(manifest) = view.read_manifest()? else {
            bail!("{} has no manifest; `--write` writes one", dir.display());
        };
        let differences = view.manifest_differences(&manifest)?;
        (manifest, differences)
    };
    let same = differences.is_empty();
    if !same {
        warn(&format!(
            "{}: the manifest differs in {}; `--write` writes a new one",
            dir.display(),
            differences.join(", ")
        ));
    }
    let state = if same { "up to date".to_owned() } else { format!("differs in {}", differences.join(", ")) };
    print_result(*json, &ComparedManifest { manifest: &manifest, differences }, || {
        format!(
            "session       {}\nentries       {}\nbytes         {}\nchain         {}\nupdated       {}\nstate         {state}\n",
            manifest.session_id,
            manifest.counters.entries_total,
            manifest.counters.bytes_total,
            manifest.integrity.chain_hash,
            manifest.updated_at
        )
    })?;
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
