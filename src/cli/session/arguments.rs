//! The arguments of the commands of `burn session`.

use std::path::PathBuf;

use clap::Args;

use crate::session::SessionOptions;

#[derive(Debug, Args)]
pub(super) struct StoreDir {
    /// The store's directory.
    #[arg(value_name = "DIR")]
    pub(super) dir: PathBuf,
    #[arg(from_global)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct WriterArgs {
    #[command(flatten)]
    pub(super) store: StoreDir,
    /// Begin a new segment file where one would grow beyond SIZE: bytes, or with KB, MB, GB, KiB, MiB, GiB.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = segment_size)]
    pub(super) max_segment_bytes: u64,
}

impl WriterArgs {
    pub(super) fn options(&self) -> SessionOptions {
        SessionOptions { max_segment_bytes: self.max_segment_bytes, ..SessionOptions::default() }
    }
}

#[derive(Debug, Args)]
pub(super) struct AppendArgs {
    #[command(flatten)]
    pub(super) writer: WriterArgs,
    /// Make entries durable and acknowledge them in groups: much faster for many.
    #[arg(long)]
    pub(super) group: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    pub(super) store: StoreDir,
    /// Only the last N entries.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "entry"])]
    pub(super) tail: Option<usize>,
    /// Only entries with this sequence or a higher one.
    #[arg(long, value_name = "SEQ", conflicts_with = "entry")]
    pub(super) from: Option<u64>,
    /// Only the entry with this id.
    #[arg(long, value_name = "ID")]
    pub(super) entry: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct PathArgs {
    #[command(flatten)]
    pub(super) store: StoreDir,
    /// The id of the last entry of the path [default: the store's last entry]
    pub(super) leaf: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) store: StoreDir,
}

#[derive(Debug, Args)]
pub(super) struct ReindexArgs {
    #[command(flatten)]
    pub(super) writer: WriterArgs,
    /// Build the index again even if it is sound.
    #[arg(long)]
    pub(super) rebuild: bool,
    /// Also save and cut a torn last line of the migration ledger.
    #[arg(long)]
    pub(super) repair_ledger: bool,
}

#[derive(Debug, Args)]
pub(super) struct CheckpointArgs {
    #[command(flatten)]
    pub(super) writer: WriterArgs,
    /// The checkpoint's number [default: the next one]
    #[arg(long, value_name = "N", conflicts_with = "list")]
    pub(super) number: Option<u64>,
    /// The reason for the checkpoint.
    #[arg(long, value_name = "TEXT", default_value = "manual", conflicts_with = "list")]
    pub(super) reason: String,
    /// List the checkpoints.
    #[arg(long)]
    pub(super) list: bool,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    pub(super) writer: WriterArgs,
    /// The checkpoint to go back to.
    pub(super) checkpoint: u64,
    /// The id of the migration in the ledger [default: a new UUID]
    #[arg(long, value_name = "ID")]
    pub(super) migration_id: Option<String>,
    /// An id that all events of one attempt share [default: a new UUID]
    #[arg(long, value_name = "ID")]
    pub(super) correlation_id: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ManifestArgs {
    #[command(flatten)]
    pub(super) writer: WriterArgs,
    /// Write the manifest instead of comparing it.
    #[arg(long)]
    pub(super) write: bool,
    /// The session's id [default: that of the existing manifest, else a new UUID]
    #[arg(long, value_name = "ID", requires = "write")]
    pub(super) session_id: Option<String>,
    /// Where the entries came from [default: as there is, else native_v2]
    #[arg(long, value_name = "FORMAT", requires = "write", value_parser = ["jsonl_v3", "sqlite_v1", "native_v2"])]
    pub(super) source_format: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    #[command(flatten)]
    pub(super) writer: WriterArgs,
    /// The file to read [default: standard input]
    pub(super) file: Option<PathBuf>,
    /// Most memory of the entries, which are all held until their links are checked: bytes, or with KB, MB, GB, KiB, MiB, GiB.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = crate::dev::parse_size)]
    pub(super) memory: u64,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub(super) store: StoreDir,
    /// The file to write, which must not exist yet [default: standard output]
    pub(super) file: Option<PathBuf>,
}

pub(super) fn segment_size(text: &str) -> Result<u64, String> {
    match crate::dev::parse_size(text).map_err(|error| error.to_string())? {
        0 => Err("a segment cannot have 0 bytes; 64MiB is usual".to_owned()),
        size => Ok(size),
    }
}
