//! What commands say: results on standard output, warnings and errors on standard error, each once and clean.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context, anyhow};

use crate::printable;
use crate::record::rows::UnarchivedLine;
use crate::store::{Cut, Recovery, SetAside};
use crate::usage::shown::grouped;

/// The whole command line, for the usage that goes with a refusal; the program sets it when it starts.
pub(super) static COMMAND_LINE: OnceLock<fn() -> clap::Command> = OnceLock::new();

/// Whether an error only says that nobody reads our output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints an error and its causes on stderr, each once.
///
/// # Errors
/// When stderr cannot be written.
pub fn print_error(error: &anyhow::Error) -> io::Result<()> {
    let mut text = String::from("burn: ");
    let mut last = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !last.is_empty() && !last.contains(&cause) {
            text.push_str(": ");
        }
        if !last.contains(&cause) {
            text.push_str(&cause);
        }
        last = text.clone();
    }
    io::stderr().lock().write_all(format!("{}\n", printable::line(&text)).as_bytes())
}

/// The whole command line.
pub(super) fn command_line() -> clap::Command {
    COMMAND_LINE.get().map_or_else(|| clap::Command::new("burn"), |command_line| command_line())
}

/// Ends the program as clap does for a command line that it understands and that makes no sense: exit code 2, with the
/// usage of the subcommand that `words` name.
pub(super) fn wrong_usage(words: &[&str], reason: &str) -> ! {
    let mut command = command_line();
    command.build();
    for word in words {
        if let Some(named) = command.find_subcommand(word).cloned() {
            command = named;
        }
    }
    command.error(clap::error::ErrorKind::ArgumentConflict, printable::line(reason)).exit()
}

/// Writes text to stdout, without what a terminal would obey.
pub(super) fn print_text(text: &str) -> anyhow::Result<()> {
    print(printable::lines(text).as_bytes())
}

/// Writes data to stdout as it is.
pub(super) fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context(STDOUT)
}

/// What failed when results could not be written.
pub(super) const STDOUT: &str = "cannot write to standard output";

/// Refuses a path where no `store` is: a mistyped name must not look like an empty one. `made_by` makes one. Of `signs`,
/// names in its directory, it has at least one; where there are none, any directory will do.
pub(super) fn must_exist(dir: &Path, store: &str, made_by: &str, signs: &[&str]) -> anyhow::Result<()> {
    let none = || anyhow!("there is no {store} at {}; {made_by} makes one", dir.display());
    // Nothing but ENOENT counts as missing.
    let unseen = |path: &Path, error: io::Error| {
        anyhow!(
            "cannot look at {}: {error}; check the owner and the mode of {}",
            path.display(),
            dir.display()
        )
    };
    match std::fs::metadata(dir) {
        Ok(found) if !found.is_dir() => {
            return Err(anyhow!(
                "{} is a file, not the directory of a {store}; name the directory",
                dir.display()
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
        Err(error) => return Err(unseen(dir, error)),
    }
    for sign in signs.iter().map(|name| dir.join(name)) {
        if sign.try_exists().map_err(|error| unseen(&sign, error))? {
            return Ok(());
        }
    }
    if signs.is_empty() { Ok(()) } else { Err(none()) }
}

/// Refuses a directory that has files and no `store`, before a command makes a store in it: among the files of another program a
/// store would share its lock file, or look like a part of that program. `holds` says whether these names are those of a store.
/// `lost+found` is in every new file system.
pub(super) fn refuse_foreign(
    dir: &Path,
    store: &str,
    holds: impl FnOnce(&[String]) -> bool,
) -> anyhow::Result<()> {
    // Whoever makes the store says what is wrong with a directory that cannot be listed.
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.retain(|name| name != "lost+found");
    if names.is_empty() || holds(&names) {
        return Ok(());
    }
    Err(anyhow!(
        "{} has files and no {store}; nothing was changed: choose another directory or an empty one",
        dir.display()
    ))
}

/// Creates the file of `--report`. An existing file is wrong usage of the command that `words` name, and stays as it is. A
/// device or a pipe is written to, because it has nothing to lose.
pub(super) fn create_report(path: &Path, words: &[&str]) -> anyhow::Result<std::fs::File> {
    if path.as_os_str() == "-" {
        wrong_usage(words, "--report - names no file; /dev/stdout is standard output");
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let created = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if std::fs::metadata(path).map_or(true, |found| found.is_file()) {
                let reason = format!("{} exists and is not overwritten: name another file", path.display());
                wrong_usage(words, &reason);
            }
            std::fs::OpenOptions::new().write(true).open(path)
        }
        created => created,
    };
    created.map_err(|error| {
        let path = path.display();
        anyhow!("cannot create the report {path}: {error}; its directory must exist and be writable")
    })
}

/// The sentence for a file that recovery cut. `why_not` says why nothing was saved, when nothing was.
pub(super) fn cut_off(cut: &Cut, why_not: &str) -> String {
    let Cut { file, length, from_length, reason, saved_as, .. } = cut;
    let saved = saved_as
        .as_ref()
        .map_or(why_not.to_owned(), |saved_as| format!("what was cut is saved as {}", saved_as.display()));
    format!("{} was cut from {from_length} to {length} bytes ({reason}); {saved}", file.display())
}

/// Says on standard error which files recovery cut and renamed.
pub(super) fn tell_recovery(recovery: &Recovery, why_not_saved: &str) {
    recovery.truncated.iter().for_each(|cut| warn(&cut_off(cut, why_not_saved)));
    for SetAside { file, saved_as } in &recovery.set_aside {
        warn(&format!("{} was renamed to {}", file.display(), saved_as.display()));
    }
}

/// Writes a warning to stderr.
pub(super) fn warn(text: &str) {
    // A closed stderr is no reason to fail.
    let _ = io::stderr().lock().write_all(format!("burn: {}\n", printable::line(text)).as_bytes());
}

/// A failure as documents have it: what kind, and what is said on standard error.
#[derive(Debug, serde::Serialize)]
pub(super) struct JsonFailure {
    pub(super) class: &'static str,
    pub(super) message: String,
    /// Of the input, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<u64>,
    /// Where that line begins, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<u64>,
}

impl JsonFailure {
    pub(super) fn new(class: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self { class, message: error.to_string(), line: None, offset: None }
    }

    pub(super) fn in_line(self, number: u64, offset: u64) -> Self {
        Self { line: Some(number), offset: Some(offset), ..self }
    }
}

/// The name of a file of a store, as its reports have it: relative to the store's directory.
pub(super) fn in_store(dir: &Path, file: &Path) -> PathBuf {
    file.strip_prefix(dir).unwrap_or(file).to_owned()
}

/// Writes one JSON document to stdout.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    print(&text)
}

/// Prints the result of a command: its document, or a text about it.
pub(super) fn print_result(
    json: bool,
    document: &impl serde::Serialize,
    text: impl FnOnce() -> String,
) -> anyhow::Result<ExitCode> {
    if json {
        print_json(document)?
    } else {
        print_text(&text())?
    }
    Ok(ExitCode::SUCCESS)
}

/// An array of a JSON document, printed element by element as [`print_json`] prints it whole. A failure leaves it open.
pub(super) struct JsonArray {
    /// Blanks before an element.
    pub(super) indent: usize,
    pub(super) is_first: bool,
}

impl JsonArray {
    pub(super) const fn new(indent: usize) -> Self {
        Self { indent, is_first: true }
    }

    /// Appends an element to `out`.
    pub(super) fn push(&mut self, value: &impl serde::Serialize, out: &mut String) -> anyhow::Result<()> {
        let line_start = format!("\n{:1$}", "", self.indent);
        out.push(if std::mem::take(&mut self.is_first) { '[' } else { ',' });
        out.push_str(&line_start);
        // A line break within a text is escaped, so each one here is one of the layout.
        out.push_str(&serde_json::to_string_pretty(value)?.replace('\n', &line_start));
        Ok(())
    }

    /// The end of the array.
    pub(super) fn end(self) -> String {
        if self.is_first { "[]".to_owned() } else { format!("\n{:1$}]", "", self.indent - 2) }
    }
}

/// Bytes for people: `1.5 GB`, `312.0 kB`, `17 bytes`.
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match UNITS.iter().find(|(_, size)| bytes as f64 >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / size),
        None => format!("{bytes} bytes"),
    }
}

/// A line of a ledger that stores nothing, for people: its place, its length and the reason.
pub(super) fn left_out_line(ledger: &Path, line: &UnarchivedLine) -> String {
    let UnarchivedLine { offset, length, verdict, reason } = line;
    let length = counted(*length, "byte");
    format!("{} at byte {offset} ({length}): {}: {reason}", ledger.display(), verdict.as_str())
}

/// `1 turn`, `2 turns`; `2 entries`, `2 days`.
pub(super) fn counted(number: u64, one: &str) -> String {
    let number = match number {
        1 => return format!("1 {one}"),
        more => grouped(more),
    };
    match one.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u'])) {
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {one}s"),
    }
}
