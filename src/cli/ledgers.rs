//! The ledgers that a command is given: files, homes, patterns, compressed files and standard input.
//!
//! Touches the named files, for reading, decompressed copies in temporary files without names, and a temporary directory with a
//! merged ledger, which is removed at the end. The merged ledger of an archive is written beside the archive.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use tempfile::TempDir;

use super::arguments::HomeArg;
use super::{counted, grouped, warn, wrong_usage};
use crate::archive::{self, Options, Paths, Unobserved};
use crate::disk::{self, Replacing};
use crate::home::Home;
use crate::interrupt::Interrupt;
use crate::ledger::{Ledger, LedgerError, LedgerLineAt, MergeFinding, MergeInput, MergeReport};
use crate::scan::ZstdFrames;
use crate::store;

/// Which ledgers, and which archive.
#[derive(Debug, Args)]
pub(super) struct LedgersArgs {
    /// This ledger instead of the home's: a file, also of gzip or zstd, a home, a pattern in quotes, or - for standard input.
    /// Given again: the ledgers are merged.
    #[arg(long, value_name = "LEDGER")]
    ledger: Vec<PathBuf>,
    /// The archive of these ledgers.
    #[arg(long, value_name = "FILE", requires = "ledger")]
    archive: Option<PathBuf>,
}

/// What has to be made of several ledgers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The merged ledger, for a command that reads lines or builds the archive itself.
    Ledger,
    /// The merged ledger and its archive.
    Archive,
    /// What was made the last time.
    AsItIs,
}

/// A ledger and its archive. Temporary files are removed when this is dropped.
pub(super) struct OpenLedgers {
    pub(super) paths: Paths,
    /// The report of the merge that made the ledger.
    pub(super) merged: Option<MergeReport>,
    _temporary: Option<TempDir>,
}

impl LedgersArgs {
    /// Whether the files are those of the home.
    pub(super) fn is_home(&self) -> bool {
        self.ledger.is_empty()
    }

    /// Whether `--archive` has to be given, and is not.
    pub(super) fn lacks_archive(&self) -> bool {
        !self.ledger.is_empty() && self.archive.is_none()
    }

    /// The files of the home, those that are named, or those made by merging. Wrong options end the program with the usage of
    /// `command`. `interrupt` is called before ledgers are merged.
    pub(super) fn open(
        &self,
        home: &HomeArg,
        wanted: Wanted,
        command: &[&str],
        interrupt: impl FnOnce() -> Interrupt,
    ) -> anyhow::Result<OpenLedgers> {
        let named = |paths| OpenLedgers { paths, merged: None, _temporary: None };
        if self.ledger.is_empty() {
            return Ok(named(Paths::of_home(&home.home()?)));
        }
        if let [ledger] = &*self.ledger
            && is_plain(ledger)?
        {
            let archive = match (&self.archive, wanted) {
                (Some(archive), _) => archive.clone(),
                // Nobody asks or builds an archive.
                (None, Wanted::Ledger) => disk::parent_of(ledger).join("archive.sqlite"),
                (None, _) => {
                    wrong_usage(command, "one plain ledger needs --archive, the archive to ask or to build")
                }
            };
            return Ok(named(Paths::offline(ledger.clone(), archive)));
        }
        if wanted == Wanted::AsItIs && self.archive.is_none() {
            wrong_usage(command, "--no-build needs --archive, an archive that was built before");
        }
        let merged_beside = |archive: &Path| disk::with_suffix(archive, ".ledger.jsonl");
        // Before the temporary directory is made, because a signal may end the process while it waits for standard input.
        let ledgers = match wanted {
            Wanted::AsItIs => None,
            Wanted::Ledger | Wanted::Archive => {
                if let Some(archive) = &self.archive {
                    let merged = merged_beside(archive);
                    MergedMark::of(&merged).refuse_others(&merged)?;
                }
                Some(NamedLedgers::open(&self.ledger)?)
            }
        };
        let temporary = match &self.archive {
            Some(_) => None,
            None => Some(
                disk::temporary_dir_in(&std::env::temp_dir(), "burn-ledgers-")
                    .context("set TMPDIR to a directory with space")?,
            ),
        };
        let archive = match (&self.archive, &temporary) {
            (Some(archive), _) => archive.clone(),
            (None, temporary) => {
                temporary.as_ref().map_or(Path::new(""), TempDir::path).join("archive.sqlite")
            }
        };
        let paths = Paths::offline(merged_beside(&archive), archive);
        let interrupt = interrupt();
        let merged = match ledgers {
            Some(ledgers) => Some(merge_to(&ledgers, &paths.ledger, &interrupt)?),
            None => None,
        };
        if wanted == Wanted::Archive {
            let options = Options { interrupt, ..Options::default() };
            archive::rebuild_full(&paths, &options, &mut Unobserved)?;
        }
        Ok(OpenLedgers { paths, merged, _temporary: temporary })
    }
}

/// Whether the path names one file whose lines can be read where they are.
fn is_plain(path: &Path) -> anyhow::Result<bool> {
    if path.as_os_str() == "-" {
        return Ok(false);
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Compression::of_file(path)? == Compression::None),
        Ok(found) if found.is_dir() => Ok(false),
        // Not left to the archive, which would answer alone.
        Ok(_) => bail!(
            "{} is not a regular file; name a file or a home, or write - for standard input",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if is_pattern(path) {
                return Ok(false);
            }
            bail!("there is no ledger at {}; name a file that is there", path.display())
        }
        Err(error) => Err(error).with_context(|| {
            format!("cannot look at {}; name a home or the file of a ledger", path.display())
        }),
    }
}

/// The beginning of the name of the directory in which ledgers are merged.
const MERGE_PREFIX: &str = ".burn-merge-";

/// Merges ledgers into the new file `merged`, which replaces an older one.
fn merge_to(ledgers: &NamedLedgers, merged: &Path, interrupt: &Interrupt) -> anyhow::Result<MergeReport> {
    let mark = MergedMark::of(merged);
    let beside = disk::parent_of(merged);
    store::remove_leftover_directories(beside, MERGE_PREFIX);
    let directory = disk::temporary_dir_in(beside, MERGE_PREFIX)?;
    let home = Home::at(directory.path());
    let mut said = MergeSpeaker::default();
    let ledger = Ledger::new(home.clone()).with_interrupt(interrupt);
    // The answers are about records alone.
    let inputs: Vec<MergeInput> = ledgers.inputs.iter().cloned().map(MergeInput::without_content).collect();
    let report = ledger.merge(&inputs, &mut |finding| said.say(&finding)).map_err(|error| match error {
        LedgerError::MergeInterrupted { .. } => {
            anyhow!("interrupted while ledgers were merged; no file was made")
        }
        error => error.into(),
    })?;
    said.finish();
    if disk::if_there(disk::metadata(&home.ledger()))?.is_none() {
        // Ledgers without a line.
        disk::File::create_new(&home.ledger())?;
    }
    mark.refuse_others(merged)?;
    mark.write(&disk::metadata(&home.ledger())?, merged)?;
    disk::rename(&home.ledger(), merged)?;
    Ok(report)
}

/// The file beside a merged ledger that says which file the last merge made, so that no other file is replaced. While the merged
/// ledger is replaced, it names the old file and the new one.
struct MergedMark(PathBuf);

impl MergedMark {
    fn of(merged: &Path) -> Self {
        Self(disk::with_suffix(merged, ".merged"))
    }

    /// Length and time of the last change: neither changes when a file is renamed.
    fn text(file: &disk::Metadata) -> String {
        let since = file.modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        format!("{} bytes, changed {} ns after 1970\n", file.len_bytes, since.as_nanos())
    }

    /// Refuses a file at `merged` that the last merge did not make.
    fn refuse_others(&self, merged: &Path) -> anyhow::Result<()> {
        let Some(found) = disk::if_there(disk::metadata(merged))? else { return Ok(()) };
        let marked = disk::if_there(disk::read(&self.0))?;
        let text = Self::text(&found);
        let names = |marked: Vec<u8>| {
            marked.split_inclusive(|byte| *byte == b'\n').any(|line| line == text.as_bytes())
        };
        if !marked.is_some_and(names) {
            bail!(
                "{} is no ledger that was merged here, and would be replaced; move it away, or name another --archive",
                merged.display()
            );
        }
        Ok(())
    }

    /// Names the file that will be at `merged`, and the file that is there.
    fn write(&self, file: &disk::Metadata, merged: &Path) -> Result<(), disk::Error> {
        let replaced = disk::if_there(disk::metadata(merged))?;
        let text = Self::text(file) + &replaced.map_or(String::new(), |replaced| Self::text(&replaced));
        disk::replace(&self.0, text.as_bytes(), Replacing::Unsynced)
    }
}

/// Ledgers that are named on a command line.
pub(super) struct NamedLedgers {
    pub(super) inputs: Vec<MergeInput>,
    has_standard_input: bool,
}

impl NamedLedgers {
    /// Finds the ledgers, in the order of the names, and copies those that have no file or are compressed.
    pub(super) fn open(names: &[PathBuf]) -> anyhow::Result<Self> {
        let mut ledgers = Self { inputs: Vec::new(), has_standard_input: false };
        for name in names {
            ledgers.add_named(name)?;
        }
        Ok(ledgers)
    }

    fn add_named(&mut self, name: &Path) -> anyhow::Result<()> {
        if name.as_os_str() == "-" {
            if std::mem::replace(&mut self.has_standard_input, true) {
                bail!("- is given twice: standard input can be read once");
            }
            let copy = copy("standard input", &mut io::stdin().lock())?;
            self.inputs.push(MergeInput::of_file(PathBuf::from("-"))?.read_from(copy));
            return Ok(());
        }
        let exists = name.try_exists().with_context(|| {
            format!("cannot look at {}; name a home or the file of a ledger", name.display())
        })?;
        if exists || !is_pattern(name) {
            return self.add_path(name);
        }
        let pattern = name.to_str().ok_or_else(|| anyhow!("{} is no pattern of text", name.display()))?;
        let matches = glob::glob(pattern).with_context(|| format!("{pattern} is no pattern"))?;
        let mut is_any = false;
        for found in matches {
            is_any = true;
            self.add_path(&found.with_context(|| format!("cannot look for {pattern}"))?)?;
        }
        if !is_any {
            bail!("no file matches {pattern}; a pattern has *, ?, [a-z] or **, and names ledgers or homes");
        }
        Ok(())
    }

    fn add_path(&mut self, path: &Path) -> anyhow::Result<()> {
        let home = Home::at(path);
        if path.is_dir() {
            if !home.ledger().try_exists().unwrap_or(true) {
                bail!("there is no ledger at {}; name a home or a file", home.ledger().display());
            }
            self.inputs.push(MergeInput::of_home(&home)?);
            return Ok(());
        }
        let mut input = MergeInput::of_file(path.to_owned())?;
        if Compression::of_file(path)? != Compression::None {
            let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            input = input.read_from(copy(&path.display().to_string(), &mut file)?);
        }
        self.inputs.push(input);
        Ok(())
    }
}

/// Copies what `from` has, decompressed, to a temporary file without a name, so that the copy goes when the process ends, however
/// it ends.
fn copy(name: &str, from: &mut dyn Read) -> anyhow::Result<disk::File> {
    let directory = std::env::temp_dir();
    let to = disk::File::create_unnamed(&directory).context("set TMPDIR to a directory with space")?;
    // The limit that is left counts the bytes that were read.
    let mut from = BufReader::with_capacity(1 << 18, from).take(u64::MAX);
    let start = from.fill_buf().with_context(|| format!("cannot read {name}"))?;
    let compression = Compression::of(start);
    let mut plain: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(&mut from),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(&mut from)),
        Compression::Zstd => Box::new(ZstdFrames::new(&mut from)),
    };
    let mut buffer = vec![0; 1 << 18];
    loop {
        match plain.read(&mut buffer) {
            Ok(0) => return Ok(to),
            Ok(len) => to.write_all(&buffer[..len]).with_context(|| {
                format!("cannot keep what {name} has; set TMPDIR to a directory with space")
            })?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                drop(plain);
                let at = u64::MAX - from.limit();
                return Err(match compression {
                    Compression::None => {
                        anyhow::Error::new(error).context(format!("cannot read {name} at byte {at}"))
                    }
                    Compression::Gzip => anyhow!(
                        "cannot copy {name}: no whole gzip file ({error}, before byte {at}); get a whole copy, or cut off what follows its last member"
                    ),
                    Compression::Zstd => {
                        anyhow!(
                            "cannot copy {name}: no whole zstd file ({error}, before byte {at}); get a whole copy"
                        )
                    }
                });
            }
        }
    }
}

/// A path that may be a pattern: only a path that names no file is one.
fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// How a file is compressed, by its first bytes: a ledger has other first bytes, whatever its name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1F, 0x8B, ..] => Self::Gzip,
            // A frame, or a frame to skip.
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    fn of_file(path: &Path) -> anyhow::Result<Self> {
        // Opening a pipe would wait for a writer.
        if !std::fs::metadata(path).is_ok_and(|found| found.is_file()) {
            return Ok(Self::None);
        }
        let mut start = Vec::new();
        let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut start));
        read.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self::of(&start))
    }
}

/// The lines about a merge that made `ledger`.
pub(super) fn merge_summary(report: &MergeReport, ledger: &Path) -> String {
    let mut text = format!(
        "{}: {} appended of {} in {:.2} s\n",
        ledger.display(),
        counted(report.appended, "line"),
        counted(report.inputs.len() as u64, "ledger"),
        report.duration_ms as f64 / 1000.0
    );
    for input in &report.inputs {
        let (name, lines) = (input.ledger.display(), counted(input.lines, "line"));
        text.push_str(&match (&input.machine, input.is_target) {
            (_, true) => format!("  {name}: the target itself\n"),
            (None, _) => format!("  {name}: {lines}\n"),
            (Some(machine), _) => format!("  {name}: {lines}, machine {machine}\n"),
        });
    }
    for (count, name) in [
        (report.conflicts, "records with several contents, all kept"),
        (report.again, "lines written again, so that the content that counts is last"),
        (report.same_turns, "turns left out that are there under another id"),
        (report.labels, "stamps that name machines"),
        (report.malformed_lines, "malformed lines, kept as they are"),
        (report.content_lines, "lines of content"),
    ] {
        if count > 0 {
            text.push_str(&format!("  {name}: {}\n", grouped(count)));
        }
    }
    text
}

/// The number of findings of one kind that are said.
const FINDINGS_SAID: u64 = 5;

/// Says on standard error what a merge finds: the first findings of each kind, and how many more there are.
#[derive(Default)]
pub(super) struct MergeSpeaker {
    counts: [u64; 4],
}

impl MergeSpeaker {
    const NAMES: [&str; 4] =
        ["records with several contents", "turns under another id", "malformed lines", "unfinished lines"];

    pub(super) fn say(&mut self, finding: &MergeFinding) {
        let (kind, text) = match finding {
            MergeFinding::Conflict { kind, id, versions, lines } => {
                let [counts, others @ ..] = &**lines else { return };
                let others: Vec<String> = others.iter().map(place).collect();
                let more = versions - lines.len();
                let more = if more > 0 {
                    format!(" and {}", counted(more as u64, "other line"))
                } else {
                    String::new()
                };
                let others = others.join(", ");
                let counts = place(counts);
                (
                    0,
                    format!(
                        "{kind} {id} has {versions} contents: {counts} counts; {others}{more} is kept before it"
                    ),
                )
            }
            MergeFinding::SameTurn { left_out, kept } => (
                1,
                format!(
                    "{}: left out, because it is the turn of {} under another id",
                    place(left_out),
                    place(kept)
                ),
            ),
            MergeFinding::Malformed { line, reason } => {
                (2, format!("{}: malformed, kept as it is: {reason}", place(line)))
            }
            MergeFinding::Unfinished { line } => {
                let text = "left out, because it has no end: its writer has died or is writing; merge again when the line is whole";
                (3, format!("{} ({}): {text}", place(line), counted(line.length, "byte")))
            }
        };
        self.counts[kind] += 1;
        if self.counts[kind] <= FINDINGS_SAID {
            warn(&text);
        }
    }

    /// Says how many findings were not said.
    pub(super) fn finish(self) {
        for (count, name) in self.counts.into_iter().zip(Self::NAMES) {
            if count > FINDINGS_SAID {
                let more = grouped(count - FINDINGS_SAID);
                warn(&format!("and {more} more: {name}; `burn ledger merge --json` lists all"));
            }
        }
    }
}

fn place(line: &LedgerLineAt) -> String {
    format!("{} at byte {}", line.ledger.display(), line.offset)
}
