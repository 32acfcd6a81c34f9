//! An export from its beginning to its manifest.
//!
//! Touches `export.json` of the home, the archive, which is brought up to date first, and the place. Guarantees: a manifest is
//! replaced last and in one step, so a crash leaves the old manifest or the new manifest with all files that it names. A file
//! is written only if its content differs from the file of the last manifest, so late stamps, repeated turns and a new version
//! of this program all converge without notes about changes.

use super::columns::{ExportTable, PersonalColumns};
use super::day::ExportDay;
use super::days::DaySplitter;
use super::error::ExportError;
use super::file::{FileFormat, MadeFile};
use super::identity::{ExportIdentity, LedgerHead, tail_blake3};
use super::layout::{MANIFEST_FORMAT, data_path, manifest_path};
use super::manifest::{ExportFile, ExportManifest, FilesByDay};
use super::options::{ExportOptions, ExportSummary, ExportedTable};
use super::place::ExportPlace;
use super::store::{ExportStore, ManifestReplaced, PlaceStillHeld, Put, StoredManifest};
use super::unchanged::LastExport;
use crate::archive::query::{ArchiveAtRest, ArchiveSnapshot, RowReading};
use crate::archive::{self, Observer, Options, Paths};
use crate::home::{Home, LockName};
use crate::lock::{Held, with_lock_unless};
use crate::record::time::Instant;

/// How often an export starts over because another exporter of the home replaced the manifest.
const ATTEMPTS_MAX: u32 = 8;

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
        match ArchiveAtRest::of(&paths) {
            Some(rest) => {
                if let Some(summary) = self.unchanged(&paths, &rest)? {
                    return Ok(Attempted::Done(Box::new(summary)));
                }
            }
            None => {
                let build = Options { interrupt: self.options.interrupt.clone(), ..Options::default() };
                archive::build_tail(&paths, &build, observer)?;
            }
        }
        let snapshot = ArchiveSnapshot::begin(&paths.archive)?;
        let ledger = LedgerHead::of(&paths.ledger, snapshot.ledger_offset_bytes())?;
        let (identity, saved) = self.identity(&ledger)?;
        let mut attempted = None;
        self.store.exclusively(&identity.home_id, &mut |place_held| {
            let (identity, last) = self.go_on_from(identity.clone(), &ledger)?;
            let seq_there = last.manifest.as_ref().map(|manifest| manifest.seq);
            let seq = identity.next_seq(&self.store.shown(&last.path), seq_there);
            identity.save(self.home, saved.as_ref())?;
            let (manifest, mut summary) = self.export(&snapshot, &identity, &ledger, &last, seq)?;
            let manifest = self.publish(last, manifest, &mut summary, place_held)?;
            if let Some(manifest) = &manifest
                && self.held.still_held().is_ok()
                && place_held().is_ok()
            {
                let mut left = identity.clone().with_seq(summary.manifest.clone(), manifest.seq);
                if let Ok(Some(files)) = snapshot.files_at_rest() {
                    left = left.with_last(LastExport::of(
                        self.options,
                        &files,
                        manifest,
                        summary.tables.clone(),
                    )?);
                }
                // Without it the next export only reads what it need not read.
                if let Err(error) = left.save(self.home, Some(&identity)) {
                    tracing::warn!("the next export reads all rows again: {error}");
                }
            }
            attempted = Some(match manifest {
                Some(_) => Attempted::Done(Box::new(summary)),
                None => Attempted::Overtaken { manifest: summary.manifest },
            });
            Ok(())
        })?;
        attempted
            .ok_or_else(|| ExportError::Unwritable { reason: "the store did not run the export".to_owned() })
    }

    /// The identity of the home, and what of it is saved.
    fn identity(&self, ledger: &LedgerHead) -> Result<(ExportIdentity, Option<ExportIdentity>), ExportError> {
        ExportIdentity::of_home(self.home, self.options.home_id.as_ref(), ledger)
    }

    /// The summary of an export that has nothing to do, if that is certain.
    fn unchanged(&self, paths: &Paths, rest: &ArchiveAtRest) -> Result<Option<ExportSummary>, ExportError> {
        let Some(files) = &rest.files else { return Ok(None) };
        let ledger = LedgerHead::of(&paths.ledger, rest.ledger_offset_bytes)?;
        let (identity, saved) = self.identity(&ledger)?;
        let Some(left) = identity.last.as_ref().filter(|_| saved.as_ref() == Some(&identity)) else {
            return Ok(None);
        };
        let last = self.last_manifest(&identity)?;
        let Some(manifest) = &last.manifest else { return Ok(None) };
        if !left.is_same(self.options, files, manifest)? {
            return Ok(None);
        }
        let (bytes, rows) = manifest.totals();
        Ok(Some(ExportSummary {
            seq: manifest.seq,
            is_unchanged: true,
            tables: left.tables.clone(),
            files: manifest.files.len() as u64,
            bytes,
            rows,
            ..self.summary(&identity, &ledger, &last)
        }))
    }

    /// A summary without numbers.
    fn summary(&self, identity: &ExportIdentity, ledger: &LedgerHead, last: &LastManifest) -> ExportSummary {
        ExportSummary {
            home_id: identity.home_id.to_string(),
            generation: identity.generation.clone(),
            is_new_generation: last.manifest.is_none(),
            manifest: self.store.shown(&last.path),
            ledger_bytes: ledger.bytes,
            ..ExportSummary::default()
        }
    }

    /// Reads the last manifest of the generation. A manifest that covers other bytes than the ledger has there, or more than
    /// there are, begins a new generation: the ledger was put back from a backup, or this home is a copy of the home that exported.
    fn go_on_from(
        &self,
        identity: ExportIdentity,
        ledger: &LedgerHead,
    ) -> Result<(ExportIdentity, LastManifest), ExportError> {
        let last = self.last_manifest(&identity)?;
        let is_of_other_ledger = match &last.manifest {
            None => false,
            Some(manifest) if manifest.ledger_bytes > ledger.bytes => true,
            Some(ExportManifest { ledger_tail_blake3: Some(tail), ledger_bytes, .. }) => {
                tail_blake3(&self.home.ledger(), *ledger_bytes)? != *tail
            }
            Some(_) => false,
        };
        if is_of_other_ledger {
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
        seq: u64,
    ) -> Result<(ExportManifest, ExportSummary), ExportError> {
        let old = match &last.manifest {
            Some(manifest) => manifest.by_day().map_err(|reason| ExportError::Unwritable { reason })?,
            None => FilesByDay::new(),
        };
        let (personal, summary) = (self.options.personal(), self.summary(identity, ledger, last));
        let new = self.kept(&old);
        // Files that stay may hold more personal text than this export makes.
        let stay = last.manifest.as_ref().filter(|_| !new.is_empty());
        let of_stay = stay.map_or([&[][..]; 2], |manifest| [&*manifest.with, &*manifest.hashed]);
        let (with, hashed) = personal.names_beside(of_stay);
        let mut work =
            ExportWork { attempt: self, snapshot, identity, personal: &personal, old, new, summary };
        for table in self.options.tables() {
            work.table(table)?;
        }
        let ExportWork { old, new, mut summary, .. } = work;
        snapshot.settle()?;
        summary.files_superseded =
            old.iter().filter(|(day, file)| new.get(day).is_none_or(|new| new.path != file.path)).count()
                as u64;
        let manifest = ExportManifest {
            format: MANIFEST_FORMAT,
            schema: archive::schema::VERSION,
            burn_version: env!("CARGO_PKG_VERSION").to_owned(),
            home_id: identity.home_id.clone(),
            generation: identity.generation.clone(),
            ledger_bytes: ledger.bytes,
            ledger_tail_blake3: Some(tail_blake3(&self.home.ledger(), ledger.bytes)?),
            seq,
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

    /// Replaces the last manifest, unless the new one says the same. Returns the manifest that is in place; `None` if another
    /// exporter replaced the last one.
    fn publish(
        &self,
        last: LastManifest,
        manifest: ExportManifest,
        summary: &mut ExportSummary,
        place_held: PlaceStillHeld<'_>,
    ) -> Result<Option<ExportManifest>, ExportError> {
        (summary.bytes, summary.rows) = manifest.totals();
        summary.files = manifest.files.len() as u64;
        if let Some(old) = last.manifest {
            let same =
                ExportManifest { seq: old.seq, created_at: old.created_at.clone(), ..manifest.clone() };
            if same == old {
                summary.seq = old.seq;
                return Ok(Some(old));
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
            ManifestReplaced::Yes => Ok(Some(manifest)),
            ManifestReplaced::No => Ok(None),
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
        if !self.table_read_by(RowReading::Pages, table)? {
            self.table_read_by(RowReading::Sqlite, table)?;
        }
        Ok(())
    }

    /// Returns `false` when the table cannot be read so; the files that were made by then count as those of an export that did not end.
    fn table_read_by(&mut self, reading: RowReading, table: ExportTable) -> Result<bool, ExportError> {
        let Self { attempt: ExportAttempt { home, store, options, .. }, identity, old, new, summary, .. } =
            self;
        let columns = table.columns(self.personal);
        let format = FileFormat::new(columns, identity.home_id.as_str(), &identity.generation)?;
        let mut exported = ExportedTable { table: table.as_str().to_owned(), ..ExportedTable::default() };
        let mut files = FilesByDay::new();
        let finished = &mut |day: ExportDay, made: MadeFile<'_>| {
            if options.interrupt.is_requested() {
                return Err(ExportError::Interrupted);
            }
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
            match files.insert((table, day), file) {
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
        let rows =
            self.snapshot.rows(reading, table.table(), first.as_deref(), &options.interrupt, |row| {
                days.push(row, since)
            })?;
        if rows {
            days.finish()?;
            new.append(&mut files);
            summary.tables.push(exported);
        }
        Ok(rows)
    }
}
