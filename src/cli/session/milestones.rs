//! `burn session checkpoint`, `rollback` and `manifest`.

use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::arguments::{CheckpointArgs, ManifestArgs, RollbackArgs, StoreDir};
use super::store::{must_exist, reader};
use crate::cli::{print, print_json, print_text, printable, warn};
use crate::session::Manifest;
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
    if *json {
        print_json(&made)?;
    } else {
        let text = format!(
            "checkpoint {} at entry {} ({})\n",
            made.checkpoint_seq, made.head_entry_seq, made.head_entry_id
        );
        print_text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list_checkpoints(args: &StoreDir) -> anyhow::Result<ExitCode> {
    let mut reader = reader(args)?;
    let view = reader.view()?;
    let numbers = view.checkpoints()?;
    let found = numbers.iter().map(|number| view.read_checkpoint(*number)).collect::<Result<Vec<_>, _>>()?;
    let found: Vec<_> = found.into_iter().flatten().collect();
    if args.json {
        #[derive(Serialize)]
        struct Listed<T> {
            checkpoints: Vec<T>,
        }
        print_json(&Listed { checkpoints: found })?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines: String = found
        .iter()
        .map(|found| {
            format!(
                "{}\t{}\t{}\t{}\t{}\n",
                found.checkpoint_seq, found.head_entry_seq, found.head_entry_id, found.at, found.reason
            )
        })
        .collect();
    print_text(&lines)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rollback(args: &RollbackArgs) -> anyhow::Result<ExitCode> {
    must_exist(&args.writer.store.dir)?;
    let mut store = args.writer.open(Durability::Immediate)?;
    let id = |given: &Option<String>| given.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let event =
        store.rollback_to_checkpoint(args.checkpoint, &id(&args.migration_id), &id(&args.correlation_id))?;
    if args.writer.store.json {
        print_json(&event)?;
    } else {
        let head = store.head().map_or("an empty store".to_owned(), |head| {
            format!("entry {} ({})", head.entry_seq, head.entry_id)
        });
        print(format!("back at checkpoint {}: {}\n", args.checkpoint, printable::line(&head)).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
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
    if *json {
        print_json(&ComparedManifest { manifest: &manifest, differences })?;
    } else {
        let state =
            if same { "up to date".to_owned() } else { format!("differs in {}", differences.join(", ")) };
        let text = format!(
            "session       {}\nentries       {}\nbytes         {}\nchain         {}\nupdated       {}\nstate         {state}\n",
            manifest.session_id,
            manifest.counters.entries_total,
            manifest.counters.bytes_total,
            manifest.integrity.chain_hash,
            manifest.updated_at
        );
        print_text(&text)?;
    }
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
