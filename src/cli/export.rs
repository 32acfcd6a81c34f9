//! `burn export`: the archive as Parquet files in a directory or a bucket, and the removal of such files.
//!
//! Touches `export.json` of the home, the archive, which it first brings up to date, and the place that is named. Guarantees: as
//! the module `export`. Without the feature `parquet`, the commands exist and say how to build a program that has it.

#![cfg_attr(not(feature = "parquet"), allow(dead_code))] // The commands are parsed, so that help and completions are the same.

use std::path::PathBuf;
#[cfg(not(feature = "parquet"))]
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::arguments::{HomeArg, JsonArg};

#[derive(Debug, Args)]
#[command(after_help = "\
Engines read the files of many homes at once: see docs/export.md.

Examples:
  burn export parquet --out ~/exports
  burn export gc --out ~/exports --grace 7d
  burn export forget --out ~/exports --home-id laptop-7")]
pub(super) struct ExportCommandArgs {
    #[command(subcommand)]
    command: ExportCommand,
    #[command(flatten)]
    form: JsonArg,
}

#[derive(Debug, Subcommand)]
enum ExportCommand {
    /// Write the days that changed as Parquet files, then the manifest that names all files.
    #[command(after_help = "\
Columns with personal or secret text are left out unless --with names them: target (commands, paths), project, description (of \
sub-agents' tasks), enrichment (all keys of stamps). With --hash-key they are hashes instead. Content is never exported.

A bucket needs AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or the credentials of the machine's role; AWS_ENDPOINT names \
another server, and AWS_ALLOW_HTTP=true allows one without TLS.

Examples:
  burn export parquet --out ~/exports
  burn export parquet --out s3://fleet/burn --home-id laptop-7 --hash-key ~/.burn-hash-key
  burn export parquet --out ~/exports --tables turns --with project --since 2026-11-01")]
    Parquet(ParquetArgs),
    /// Remove the files that no manifest names and that are older than a grace.
    #[command(after_help = "\
Examples:
  burn export gc --out ~/exports --grace 7d
  burn export gc --out s3://fleet/burn --grace 30d")]
    Gc(GcArgs),
    /// Remove all files of a home: its manifests, then its data files.
    #[command(after_help = "\
Examples:
  burn export forget --out s3://fleet/burn --home-id laptop-7")]
    Forget(ForgetArgs),
}

/// Where the files are.
#[derive(Debug, Args)]
struct PlaceArg {
    /// A directory, which is created when it is missing, or s3://bucket/prefix.
    #[arg(long, value_name = "DIR|URL")]
    out: String,
}

#[derive(Debug, Args)]
struct ParquetArgs {
    #[command(flatten)]
    place: PlaceArg,
    /// The id of this home in paths and rows; the home keeps it [default: random, made once]
    #[arg(long, value_name = "ID")]
    home_id: Option<String>,
    /// Only these tables: turns, tool_calls, tool_result_events, compactions.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tables: Vec<String>,
    /// Also columns with personal text: target, project, description, enrichment.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    with: Vec<String>,
    /// Hashes of personal text that --with does not name, keyed with the content of this file.
    #[arg(long, value_name = "FILE")]
    hash_key: Option<PathBuf>,
    /// Only days from this day on, in UTC: 2026-11-05.
    #[arg(long, value_name = "DAY")]
    since: Option<String>,
    #[command(flatten)]
    home: HomeArg,
}

#[derive(Debug, Args)]
struct GcArgs {
    #[command(flatten)]
    place: PlaceArg,
    /// Keep files that are younger: 7d, 36h. Longer than readers use a manifest, and than an export takes.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_grace)]
    grace: Duration,
}

#[derive(Debug, Args)]
struct ForgetArgs {
    #[command(flatten)]
    place: PlaceArg,
    /// The home.
    #[arg(long, value_name = "ID")]
    home_id: String,
}

/// Reads a number of days, hours, minutes or seconds.
fn parse_grace(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let read = UNITS.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(*unit)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| number.parse::<u64>().ok()?.checked_mul(*seconds))?
    });
    read.map(Duration::from_secs).ok_or_else(|| "a time such as 7d, 36h, 90m or 0s is needed".to_owned())
}

#[cfg(not(feature = "parquet"))]
pub(super) fn run(_: ExportCommandArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!(
        "`burn export` needs the feature `parquet`, which this program was built without: \
         `cargo install --path . --features parquet` in its source directory builds one with it, `--features s3` one that also writes to buckets"
    )
}

#[cfg(feature = "parquet")]
pub(super) use with_parquet::run;

#[cfg(feature = "parquet")]
mod with_parquet {
    use std::path::Path;
    use std::process::ExitCode;
    use std::str::FromStr;

    use anyhow::Context as _;

    use super::super::state::BuildObserver;
    use super::super::{counted, human_bytes, interrupt, print_result, warn, wrong_usage};
    use super::{ExportCommand, ExportCommandArgs, ForgetArgs, GcArgs, ParquetArgs};
    use crate::disk;
    use crate::export::{
        self, ExportDay, ExportOptions, ExportPlace, ExportSummary, ExportTable, HashKey, HomeId,
        PersonalText,
    };

    /// The most bytes of a file with a hash key, so that a wrong name does not read a disk.
    const HASH_SECRET_MAX_BYTES: u64 = 64 << 10;

    pub(in crate::cli) fn run(args: ExportCommandArgs) -> anyhow::Result<ExitCode> {
        match args.command {
            ExportCommand::Parquet(of_command) => parquet(&of_command, args.form.json),
            ExportCommand::Gc(of_command) => gc(&of_command, args.form.json),
            ExportCommand::Forget(of_command) => forget(&of_command, args.form.json),
        }
    }

    /// Reads an argument. What makes no sense ends the program with the usage of the command.
    fn read<T: FromStr<Err: std::fmt::Display>>(command: &str, option: &str, text: &str) -> T {
        text.parse()
            .unwrap_or_else(|reason| wrong_usage(&["export", command], &format!("{option}: {reason}")))
    }

    fn parquet(args: &ParquetArgs, is_json: bool) -> anyhow::Result<ExitCode> {
        let place: ExportPlace = read("parquet", "--out", &args.place.out);
        let mut options = ExportOptions {
            home_id: args.home_id.as_deref().map(|id| read::<HomeId>("parquet", "--home-id", id)),
            with: args.with.iter().map(|name| read::<PersonalText>("parquet", "--with", name)).collect(),
            since: args.since.as_deref().map(since),
            interrupt: interrupt::watch(),
            ..ExportOptions::default()
        };
        if !args.tables.is_empty() {
            options.tables =
                args.tables.iter().map(|name| read::<ExportTable>("parquet", "--tables", name)).collect();
        }
        options.hash_key = args.hash_key.as_deref().map(hash_key).transpose()?;
        let home = args.home.home()?;
        let mut observer = BuildObserver::new(home.ledger(), None);
        let summary = export::export_parquet(&home, &place, &options, &mut observer);
        observer.finish();
        let summary = summary?;
        print_result(is_json, &summary, || sentence(&summary))?;
        for table in summary.tables.iter().filter(|table| table.lossy > 0) {
            let cells = counted(table.lossy, "cell");
            warn(&format!(
                "{}: {cells} hold a value of another type than their column; the files have it converted, or null",
                table.table
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn since(text: &str) -> ExportDay {
        match read("parquet", "--since", text) {
            ExportDay::Unknown => wrong_usage(
                &["export", "parquet"],
                "--since: rows of no day are always exported; a day is written as 2026-04-20",
            ),
            day => day,
        }
    }

    fn hash_key(path: &Path) -> anyhow::Result<HashKey> {
        let context = || format!("{} holds no hash key", path.display());
        let file = disk::File::open_read(path)?;
        let len_bytes = file.len_bytes()?;
        if len_bytes > HASH_SECRET_MAX_BYTES {
            anyhow::bail!(
                "{}: it has {len_bytes} bytes, at most {HASH_SECRET_MAX_BYTES} are read",
                context()
            );
        }
        let mut secret = vec![0; len_bytes as usize];
        file.read_exact_at(&mut secret, 0)?;
        HashKey::of_secret(&secret).with_context(context)
    }

    fn sentence(summary: &ExportSummary) -> String {
        let ExportSummary { files, rows, bytes, files_written, bytes_written, .. } = summary;
        let written = match (summary.is_manifest_written, *files_written) {
            (false, _) => "nothing changed".to_owned(),
            (true, 0) => "no file changed".to_owned(),
            (true, number) => {
                format!("{} written ({})", counted(number, "file"), human_bytes(*bytes_written))
            }
        };
        format!(
            "{}\nmanifest {} of home {}, generation {}: {} in {} ({}); {written}\n",
            summary.manifest,
            summary.seq,
            summary.home_id,
            summary.generation,
            counted(*rows, "row"),
            counted(*files, "file"),
            human_bytes(*bytes),
        )
    }

    fn gc(args: &GcArgs, is_json: bool) -> anyhow::Result<ExitCode> {
        let place: ExportPlace = read("gc", "--out", &args.place.out);
        let collected = export::collect_garbage(&place, args.grace, &interrupt::watch())?;
        print_result(is_json, &collected, || {
            format!(
                "{} removed ({}); {} that no manifest names are younger; {} name {}\n",
                counted(collected.files_removed, "file"),
                human_bytes(collected.bytes_removed),
                counted(collected.files_young, "file"),
                counted(collected.manifests, "manifest"),
                counted(collected.files_named, "file"),
            )
        })?;
        if let [first, more @ ..] = &*collected.files_missing {
            warn(&format!(
                "a manifest names {first}, which is not there{}; delete the manifest, and the next export of its home writes the \
                 files again",
                if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) }
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn forget(args: &ForgetArgs, is_json: bool) -> anyhow::Result<ExitCode> {
        let place: ExportPlace = read("forget", "--out", &args.place.out);
        let home_id: HomeId = read("forget", "--home-id", &args.home_id);
        let forgotten = export::forget_home(&place, &home_id, &interrupt::watch())?;
        print_result(is_json, &forgotten, || {
            format!(
                "home {home_id}: {} and {} removed ({})\n",
                counted(forgotten.manifests_removed, "manifest"),
                counted(forgotten.files_removed, "file"),
                human_bytes(forgotten.bytes_removed),
            )
        })?;
        if forgotten.manifests_removed == 0 && forgotten.files_removed == 0 {
            warn(&format!("{place} has no file of home {home_id}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}
