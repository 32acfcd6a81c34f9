//! Builds archives in separate directories, in every way to run a full rebuild or a tail build.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use relayburn_ledger::archive::{
    self, ArchiveError, BuildResult, Load, Observer, Options, Paths, Progress, Unobserved,
};
use relayburn_ledger::record::rows::{UnarchivedLine, Verdict};
use relayburn_ledger::scan::Io;

/// Returns every combination of settings that must not change a row.
pub fn variants() -> Vec<Options> {
    let mut variants = vec![Options::default()];
    vary(&mut variants, [1, 2, 7], |options, threads| options.threads = threads);
    vary(&mut variants, [1, 64, Options::default().chunk_bytes], |options, bytes| {
        options.chunk_bytes = bytes
    });
    vary(&mut variants, [Io::Mmap, Io::Read], |options, io| options.io = io);
    vary(&mut variants, [Load::Bulk, Load::Insert], |options, load| options.load = load);
    variants
}

fn vary<T: Copy>(variants: &mut Vec<Options>, values: impl AsRef<[T]>, set: impl Fn(&mut Options, T)) {
    let all = variants.iter().flat_map(|options| {
        values.as_ref().iter().map(|value| {
            let mut options = options.clone();
            set(&mut options, *value);
            options
        })
    });
    *variants = all.collect();
}

/// A directory with a ledger and an archive, removed when dropped.
pub struct Place {
    directory: tempfile::TempDir,
    pub paths: Paths,
}

impl Place {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths_in(directory.path());
        Self { directory, paths }
    }

    /// Creates a directory with this ledger.
    pub fn with_ledger(ledger: &[u8]) -> Self {
        let place = Self::new();
        std::fs::write(&place.paths.ledger, ledger).unwrap();
        place
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn archive(&self) -> &Path {
        &self.paths.archive
    }

    pub fn names(&self) -> Vec<String> {
        super::names(self.directory())
    }

    pub fn full(&self, options: &Options) -> (BuildResult, Vec<UnarchivedLine>) {
        let mut findings = Findings::default();
        let result = archive::rebuild_full(&self.paths, options, &mut findings).unwrap();
        (result, findings.0)
    }

    pub fn tail(&self, options: &Options) -> (BuildResult, Vec<UnarchivedLine>) {
        let mut findings = Findings::default();
        let result = archive::build_tail(&self.paths, options, &mut findings).unwrap();
        (result, findings.0)
    }

    pub fn try_tail(&self) -> Result<BuildResult, ArchiveError> {
        archive::build_tail(&self.paths, &Options::default(), &mut Unobserved)
    }

    pub fn try_full(&self) -> Result<BuildResult, ArchiveError> {
        archive::rebuild_full(&self.paths, &Options::default(), &mut Unobserved)
    }

    /// Changes the archive as another program would.
    pub fn tamper(&self, sql: &str) {
        let archive = rusqlite::Connection::open(self.archive()).unwrap();
        archive.execute_batch(sql).unwrap();
    }
}

/// The paths of ledger and archive, with the names in a home.
fn paths_in(directory: &Path) -> Paths {
    let at = |name: &str| -> PathBuf { directory.join(name) };
    Paths { ledger: at("ledger.jsonl"), archive: at("archive.sqlite"), lock: at("archive.lock") }
}

/// An observer that keeps all reports.
#[derive(Default)]
pub struct Findings(pub Vec<UnarchivedLine>);

impl Observer for Findings {
    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: &UnarchivedLine) {
        self.0.push(finding.clone());
    }
}

/// Returns the number of findings with this verdict.
pub fn count(findings: &[UnarchivedLine], verdict: Verdict) -> u64 {
    findings.iter().filter(|finding| finding.verdict == verdict).count() as u64
}
