//! An export from its beginning to its manifest.
//!
//! Touches `export.json` of the home, the archive, which is brought up to date first, and the place. Guarantees: a manifest is
//! replaced last and in one step, so a crash leaves the old manifest or the new manifest with all files that it names. A file
//! is written only if its content differs from the file of the last manifest, so late stamps, repeated turns and a new version
//! of this program all converge without notes about changes.

use super::columns::{ExportTable, HashKey, PersonalColumns, PersonalText};
use super::day::ExportDay;
use super::days::DaySplitter;
use super::error::ExportError;
use super::file::{FileFormat, MadeFile};
use super::identity::{ExportIdentity, LedgerHead};
use super::layout::{HomeId, MANIFEST_FORMAT, data_path, manifest_path};
use super::manifest::{ExportFile, ExportManifest, FilesByDay};
use super::place::ExportPlace;
use super::store::{ExportStore, ManifestReplaced, PlaceStillHeld, Put, StoredManifest};
use crate::archive::query::ArchiveSnapshot;
use crate::archive::{self, Observer, Options, Paths};
use crate::home::{Home, LockName};
use crate::interrupt::Interrupt;
use crate::lock::{Held, with_lock_unless};
use crate::record::time::Instant;

/// How often an export starts over because another exporter of the home replaced the manifest.
const ATTEMPTS_MAX: u32 = 8;

/// What to export. Take the remaining fields from `ExportOptions::default()`.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The id of the home; `None` means the id that the home has, or a random id for the first export. The home keeps an id
    /// that is given.
    pub home_id: Option<HomeId>,
    /// The tables. The files of other tables stay in the manifest as they are.
    pub tables: Vec<ExportTable>,
    /// The kinds of personal text that are written as they are.
    pub with: Vec<PersonalText>,
    /// The key for hashes in the place of other personal text; without a key the columns are left out.
    pub hash_key: Option<HashKey>,
    /// The first day to export. The files of earlier days stay in the manifest as they are. Rows without a time are always
    /// exported.
    pub since: Option<ExportDay>,
    /// When requested, ends the export with [`ExportError::Interrupted`].
    pub interrupt: Interrupt,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            home_id: None,
            tables: ExportTable::ALL.to_vec(),
            with: Vec::new(),
            hash_key: None,
            since: None,
            interrupt: Interrupt::new(),
        }
    }
}

/// What an export did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportSummary {
    /// The id of the home.
    pub home_id: String,
    /// The generation of the home's ledger.
    pub generation: String,
    /// Why the export began a generation that the place had nothing of; `None` if it went on with one.
    pub is_new_generation: bool,
    /// The manifest.
    pub manifest: String,
    /// The number of the manifest.
    pub seq: u64,
    /// Whether the manifest was written. A manifest stays when it would say the same.
    pub is_manifest_written: bool,
    /// The number of ledger bytes whose rows are exported.
    pub ledger_bytes: u64,
    /// What was read, by table.
    pub tables: Vec<ExportedTable>,
    /// Number of files that the manifest names.
    pub files: u64,
    /// Number of bytes of these files.
    pub bytes: u64,
    /// Number of rows in these files.
    pub rows: u64,
    /// Number of files that were written.
    pub files_written: u64,
    /// Number of bytes that were written.
    pub bytes_written: u64,
    /// Number of files that are new in the manifest, but that an export that did not end had written.
    pub files_found: u64,
    /// Number of files that the last manifest named and this manifest does not. `burn export gc` removes them later.
    pub files_superseded: u64,
    /// How often the export started over, because another exporter of the home replaced the manifest.
    pub restarts: u32,
}

/// What was read from a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportedTable {
    /// The table's name.
    pub table: &'static str,
    /// Number of rows.
    pub rows: u64,
    /// Number of days that have rows.
    pub days: u64,
    /// Number of cells whose value changed, because it is not of the column's type: truncated, converted, or null.
    pub lossy: u64,
}

/// Brings the archive of a home up to date and exports it to a place.
///
/// # Errors
/// Any [`ExportError`]. The last manifest is then unchanged, unless the error is about the time after its replacement.
pub fn export_parquet(
    home: &Home,
    place: &ExportPlace,
    options: &ExportOptions,
    observer: &mut impl Observer,
) -> Result<ExportSummary, ExportError> {
    let store = place.open_for(home, &options.interrupt)?;
    let ledger = home.ledger();
    if !ledger.try_exists().unwrap_or(true) {
        return Err(ExportError::NoLedger { path: ledger });
    }
    with_lock_unless(&home.lock(LockName::Export), &options.interrupt, |held| {
        for restarts in 0..ATTEMPTS_MAX {
            let attempt = ExportAttempt { home, store: &*store, options, held };
            match attempt.run(observer)? {
                Attempted::Done(summary) => return Ok(ExportSummary { restarts, ..*summary }),
                Attempted::Overtaken { manifest } if restarts + 1 == ATTEMPTS_MAX => {
                    return Err(ExportError::Contended { place: manifest, attempts: ATTEMPTS_MAX });
                }
                Attempted::Overtaken { .. } => {}
            }
        }
        Err(ExportError::Contended { place: place.to_string(), attempts: ATTEMPTS_MAX })
    })
}

/// One attempt at an export.
struct ExportAttempt<'a> {
    home: &'a Home,
    store: &'a dyn ExportStore,
    options: &'a ExportOptions,
    held: &'a Held,
}

enum Attempted {
    Done(Box<ExportSummary>),
    /// Another exporter replaced the manifest.
    Overtaken {
        manifest: String,
    },
}

/// The manifest that an attempt goes on from.
struct LastManifest {
    path: String,
    version: Option<String>,
    manifest: Option<ExportManifest>,
}

impl ExportAttempt<'_> {
    fn run(&self, observer: &mut impl Observer) -> Result<Attempted, ExportError> {
        let paths = Paths::of_home(self.home);
        let build = Options { interrupt: self.options.interrupt.clone(), ..Options::default() };
        archive::build_tail(&paths, &build, observer)?;
        let snapshot = ArchiveSnapshot::begin(&paths.archive)?;
        let ledger = LedgerHead::of(&paths.ledger, snapshot.ledger_offset_bytes())?;
        let (identity, saved) = ExportIdentity::of_home(self.home, self.options.home_id.as_ref(), &ledger)?;
        let mut attempted = None;
        self.store.exclusively(&identity.home_id, &mut |place_held| {
            let (identity, last) = self.go_on_from(identity.clone(), &ledger)?;
            identity.save(self.home, saved.as_ref())?;
            let (manifest, summary) = self.export(&snapshot, &identity, &ledger, &last)?;
            attempted = Some(self.publish(last, manifest, summary, place_held)?);
            Ok(())
        })?;
        attempted
            .ok_or_else(|| ExportError::Unwritable { reason: "the store did not run the export".to_owned() })
    }

    /// Reads the last manifest of the generation. A manifest that covers more of the ledger than there is begins a new
    /// generation: the ledger was put back from a backup, or this home is a copy of the home that exported more.
    fn go_on_from(
        &self,
        identity: ExportIdentity,
        ledger: &LedgerHead,
    ) -> Result<(ExportIdentity, LastManifest), ExportError> {
        let last = self.last_manifest(&identity)?;
        if last.manifest.as_ref().is_some_and(|manifest| manifest.ledger_bytes > ledger.bytes) {
            let identity = ExportIdentity::begin(identity.home_id, ledger);
            let last = self.last_manifest(&identity)?;
            return Ok((identity, last));
        }
        Ok((identity, last))
    }

    fn last_manifest(&self, identity: &ExportIdentity) -> Result<LastManifest, ExportError> {
        let path = manifest_path(&identity.home_id, &identity.generation);
        let Some(StoredManifest { bytes, version }) = self.store.read(&path)? else {
            return Ok(LastManifest { path, version: None, manifest: None });
        };
        let shown = self.store.shown(&path);
        let manifest = ExportManifest::parse(&bytes, &shown, &identity.home_id, &identity.generation)?;
        Ok(LastManifest { path, version: Some(version), manifest: Some(manifest) })
    }

    /// Makes the files, and the manifest that names them.
    fn export(
        &self,
        snapshot: &ArchiveSnapshot,
        identity: &ExportIdentity,
        ledger: &LedgerHead,
        last: &LastManifest,
    ) -> Result<(ExportManifest, ExportSummary), ExportError> {
        let old = match &last.manifest {
            Some(manifest) => manifest.by_day().map_err(|reason| ExportError::Unwritable { reason })?,
            None => FilesByDay::new(),
        };
        let summary = ExportSummary {
            home_id: identity.home_id.to_string(),
            generation: identity.generation.clone(),
            is_new_generation: last.manifest.is_none(),
            manifest: self.store.shown(&last.path),
            ledger_bytes: ledger.bytes,
            ..ExportSummary::default()
        };
        let personal =
            PersonalColumns { plain: self.options.with.clone(), key: self.options.hash_key.clone() };
        let new = self.kept(&old);
        let mut work =
            ExportWork { attempt: self, snapshot, identity, personal: &personal, old, new, summary };
        for table in ExportTable::ALL.into_iter().filter(|table| self.options.tables.contains(table)) {
            work.table(table)?;
        }
        let ExportWork { old, new, mut summary, .. } = work;
        snapshot.settle()?;
        summary.files_superseded =
            old.iter().filter(|(day, file)| new.get(day).is_none_or(|new| new.path != file.path)).count()
                as u64;
        let (with, hashed) = personal.names();
        let manifest = ExportManifest {
            format: MANIFEST_FORMAT,
            schema: archive::schema::VERSION,
            burn_version: env!("CARGO_PKG_VERSION").to_owned(),
            home_id: identity.home_id.clone(),
            generation: identity.generation.clone(),
            ledger_bytes: ledger.bytes,
            seq: last.manifest.as_ref().map_or(0, |manifest| manifest.seq) + 1,
            created_at: Instant::at(jiff::Timestamp::now().as_second()).to_rfc3339_seconds(),
            with,
            hashed,
            files: new.into_values().collect(),
        };
        Ok((manifest, summary))
    }

    /// The files of the last manifest that this export does not look at.
    fn kept(&self, old: &FilesByDay) -> FilesByDay {
        let is_kept = |table: ExportTable, day: ExportDay| {
            !self.options.tables.contains(&table) || self.options.since.is_some_and(|since| day < since)
        };
        old.iter()
            .filter(|((table, day), _)| is_kept(*table, *day))
            .map(|(key, file)| (*key, file.clone()))
            .collect()
    }

    /// Replaces the last manifest, unless the new one says the same.
    fn publish(
        &self,
        last: LastManifest,
        manifest: ExportManifest,
        mut summary: ExportSummary,
        place_held: PlaceStillHeld<'_>,
    ) -> Result<Attempted, ExportError> {
        (summary.bytes, summary.rows) = manifest.totals();
        summary.files = manifest.files.len() as u64;
        if let Some(old) = &last.manifest {
            let same =
                ExportManifest { seq: old.seq, created_at: old.created_at.clone(), ..manifest.clone() };
            if same == *old {
                summary.seq = old.seq;
                return Ok(Attempted::Done(Box::new(summary)));
            }
        }
        summary.seq = manifest.seq;
        summary.is_manifest_written = true;
        self.held.still_held()?;
        place_held()?;
        if self.options.interrupt.is_requested() {
            return Err(ExportError::Interrupted);
        }
        match self.store.replace(&last.path, &manifest.to_bytes()?, last.version.as_deref())? {
            ManifestReplaced::Yes => Ok(Attempted::Done(Box::new(summary))),
            ManifestReplaced::No => Ok(Attempted::Overtaken { manifest: summary.manifest }),
        }
    }
}

/// The tables of an export: what is read, and what was made so far.
struct ExportWork<'a> {
    attempt: &'a ExportAttempt<'a>,
    snapshot: &'a ArchiveSnapshot,
    identity: &'a ExportIdentity,
    personal: &'a PersonalColumns,
    /// The files of the last manifest.
    old: FilesByDay,
    /// The files of the next manifest.
    new: FilesByDay,
    summary: ExportSummary,
}

impl ExportWork<'_> {
    /// Makes the files of a table, and puts those that differ from the last manifest's.
    fn table(&mut self, table: ExportTable) -> Result<(), ExportError> {
        let Self { attempt: ExportAttempt { home, store, options, .. }, identity, old, new, summary, .. } =
            self;
        let columns = table.columns(self.personal);
        let format = FileFormat::new(columns, identity.home_id.as_str(), &identity.generation)?;
        let mut exported = ExportedTable { table: table.as_str(), ..ExportedTable::default() };
        let finished = &mut |day: ExportDay, made: MadeFile<'_>| {
            exported.rows += made.rows;
            exported.days += 1;
            exported.lossy += made.lossy;
            let blake3 = made.content.blake3();
            let path = data_path(table, day, &identity.home_id, &identity.generation, &blake3);
            let bytes = made.content.len_bytes();
            let file = ExportFile { path, table, day, rows: made.rows, bytes, blake3 };
            if old.get(&(table, day)) != Some(&file) {
                match store.put(&file.path, &made.content)? {
                    Put::Written => {
                        summary.files_written += 1;
                        summary.bytes_written += bytes;
                    }
                    Put::WasThere => summary.files_found += 1,
                }
            }
            match new.insert((table, day), file) {
                None => Ok(()),
                // The second file would take the place of the first, whose rows would be lost.
                Some(_) => {
                    Err(ExportError::Unwritable { reason: format!("the rows of {day} are not together") })
                }
            }
        };
        let mut days = DaySplitter::new(table, &format, self.personal.key.as_ref(), home.root(), finished);
        let since = options.since.filter(|since| *since != ExportDay::Unknown);
        let first = since.map(|since| since.to_string());
        self.snapshot
            .rows(table.table(), first.as_deref(), &options.interrupt, |row| days.push(row, since))?;
        days.finish()?;
        summary.tables.push(exported);
        Ok(())
    }
}
