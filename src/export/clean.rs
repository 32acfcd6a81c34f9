//! Removes exported files: those that no manifest names, or all files of a home.
//!
//! Touches the place, and in a directory the lock of each home. Guarantees: a file that a manifest names is never removed
//! before the manifest is. If a manifest cannot be read, nothing is removed, because nobody knows which files the manifest
//! names. A file that is not of this layout stays.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::columns::ExportTable;
use super::error::ExportError;
use super::layout::{
    HomeId, MANIFESTS, directory, leftover_of, manifest_path, owner_of_data, owner_of_manifest,
};
use super::manifest::ExportManifest;
use super::place::ExportPlace;
use super::store::{ExportStore, StoredFile};
use crate::interrupt::Interrupt;

/// What [`collect_garbage`] found and removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectedGarbage {
    /// Number of manifests.
    pub manifests: u64,
    /// Number of data files that manifests name.
    pub files_named: u64,
    /// Number of files that were removed.
    pub files_removed: u64,
    /// Number of bytes of these files.
    pub bytes_removed: u64,
    /// Number of files that no manifest names and that are younger than the grace.
    pub files_young: u64,
    /// Number of files that are not of this layout. They stay.
    pub files_other: u64,
    /// Files that a manifest names and that are not there, or have another length. The next export of their home does not write them again, unless
    /// the manifest is deleted first.
    pub files_missing: Vec<String>,
}

/// What [`forget_home`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ForgottenHome {
    /// The home.
    pub home_id: String,
    /// Number of manifests that were removed: one for each generation.
    pub manifests_removed: u64,
    /// Number of data files that were removed.
    pub files_removed: u64,
    /// Number of bytes of these files.
    pub bytes_removed: u64,
}

/// The home id and the generation of a file.
type Owner = (HomeId, String);

/// A file that may be removed.
struct GarbageCandidate {
    path: String,
    len_bytes: u64,
}

/// Removes the data files that no manifest names and that are older than `grace`: superseded files, files of exports that did
/// not end, and files of homes that were forgotten half. `grace` has to be longer than readers use a manifest and than an
/// export takes.
///
/// # Errors
/// [`ExportError::NoExports`], the errors of manifests, and those of the place.
pub fn collect_garbage(
    place: &ExportPlace,
    grace: Duration,
    interrupt: &Interrupt,
) -> Result<CollectedGarbage, ExportError> {
    let store = place.open_existing(interrupt)?;
    let store = &*store;
    let mut collected = CollectedGarbage::default();
    // The files are listed before the manifests are read: a file that a manifest names later was written later, or is written
    // again before it is named, and so is young when it is looked at for the second time.
    let mut files = Vec::new();
    each_file(store, interrupt, &mut |file| {
        files.push(file);
        Ok(())
    })?;
    if files.is_empty() {
        return Err(ExportError::NoExports { place: place.to_string() });
    }
    let named = named_files(store, interrupt, &mut collected)?;
    let there: HashMap<&str, u64> = files.iter().map(|file| (file.path.as_str(), file.len_bytes)).collect();
    for (path, len_bytes) in &named {
        let is_missing = match there.get(path.as_str()) {
            Some(found) => found != len_bytes,
            // An export may have written it since the listing.
            None => store.age(path)?.is_none(),
        };
        if is_missing {
            collected.files_missing.push(path.clone());
        }
    }
    collected.files_missing.sort();
    let mut candidates: BTreeMap<Owner, Vec<GarbageCandidate>> = BTreeMap::new();
    for StoredFile { path, len_bytes, age } in &files {
        let owner = owner_of_data(path).or_else(|| leftover_of(path));
        match owner {
            None if owner_of_manifest(path).is_some() || is_lock(path) => {}
            None => collected.files_other += 1,
            Some(_) if named.contains_key(path) => {}
            Some(_) if *age < grace => collected.files_young += 1,
            Some((home_id, generation)) => {
                let candidate = GarbageCandidate { path: path.clone(), len_bytes: *len_bytes };
                candidates.entry((home_id, generation.to_owned())).or_default().push(candidate);
            }
        }
    }
    // Of each home and generation what its manifest, read once more, does not name.
    for (owner, candidates) in &candidates {
        store.exclusively(&owner.0, &mut |still_held| {
            let manifest = read_manifest(store, &owner.0, &owner.1)?;
            let files = manifest.iter().flat_map(|manifest| &manifest.files);
            let named: HashSet<&str> = files.map(|file| file.path.as_str()).collect();
            for candidate in candidates.iter().filter(|candidate| !named.contains(candidate.path.as_str())) {
                if interrupt.is_requested() {
                    return Err(ExportError::Interrupted);
                }
                // An export may have written the file again.
                if store.age(&candidate.path)?.is_some_and(|age| age >= grace) {
                    still_held()?;
                    store.delete(&candidate.path)?;
                    collected.files_removed += 1;
                    collected.bytes_removed += candidate.len_bytes;
                }
            }
            Ok(())
        })?;
    }
    Ok(collected)
}

/// Whether a file is the lock of a home, or the side file of a lock that is taken over.
fn is_lock(path: &str) -> bool {
    path.starts_with(MANIFESTS) && [".lock", ".lock.rob"].iter().any(|end| path.ends_with(end))
}

/// Removes a home from a place: its manifests first, so that no reader finds a manifest without its files, then the files of
/// all its generations. Running this function again after a failure removes what is left.
///
/// # Errors
/// [`ExportError::NoExports`], and the errors of the place.
pub fn forget_home(
    place: &ExportPlace,
    home_id: &HomeId,
    interrupt: &Interrupt,
) -> Result<ForgottenHome, ExportError> {
    let store = place.open_existing(interrupt)?;
    let store = &*store;
    let mut forgotten = ForgottenHome { home_id: home_id.to_string(), ..ForgottenHome::default() };
    let (mut manifests, mut files) = (Vec::new(), Vec::new());
    let is_of_home = |owner: Option<(HomeId, &str)>| owner.is_some_and(|(owner, _)| owner == *home_id);
    store.exclusively(home_id, &mut |still_held| {
        each_file(store, interrupt, &mut |file| {
            if is_of_home(owner_of_manifest(&file.path)) {
                manifests.push(file.path);
            } else if is_of_home(owner_of_data(&file.path).or_else(|| leftover_of(&file.path))) {
                files.push(file);
            }
            Ok(())
        })?;
        for manifest in &manifests {
            still_held()?;
            store.delete(manifest)?;
            forgotten.manifests_removed += 1;
        }
        for file in &files {
            if interrupt.is_requested() {
                return Err(ExportError::Interrupted);
            }
            still_held()?;
            store.delete(&file.path)?;
            forgotten.files_removed += 1;
            forgotten.bytes_removed += file.len_bytes;
        }
        Ok(())
    })?;
    Ok(forgotten)
}

/// Passes every file of the layout's directories to `each`.
fn each_file(
    store: &dyn ExportStore,
    interrupt: &Interrupt,
    each: &mut dyn FnMut(StoredFile) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let mut checked = |file: StoredFile| match interrupt.is_requested() {
        true => Err(ExportError::Interrupted),
        false => each(file),
    };
    for table in ExportTable::ALL {
        store.list(&directory(table), &mut checked)?;
    }
    store.list(MANIFESTS, &mut checked)
}

/// The paths that the manifests name.
fn named_files(
    store: &dyn ExportStore,
    interrupt: &Interrupt,
    collected: &mut CollectedGarbage,
) -> Result<HashMap<String, u64>, ExportError> {
    let mut owners = Vec::new();
    store.list(MANIFESTS, &mut |file| {
        owners.extend(
            owner_of_manifest(&file.path).map(|(home_id, generation)| (home_id, generation.to_owned())),
        );
        Ok(())
    })?;
    let mut named = HashMap::new();
    for (home_id, generation) in owners {
        if interrupt.is_requested() {
            return Err(ExportError::Interrupted);
        }
        // A home may be forgotten meanwhile.
        if let Some(manifest) = read_manifest(store, &home_id, &generation)? {
            collected.manifests += 1;
            collected.files_named += manifest.files.len() as u64;
            named.extend(manifest.files.into_iter().map(|file| (file.path, file.bytes)));
        }
    }
    Ok(named)
}

fn read_manifest(
    store: &dyn ExportStore,
    home_id: &HomeId,
    generation: &str,
) -> Result<Option<ExportManifest>, ExportError> {
    let path = manifest_path(home_id, generation);
    let Some(stored) = store.read(&path)? else { return Ok(None) };
    ExportManifest::parse(&stored.bytes, &store.shown(&path), home_id, generation).map(Some)
}
