//! `burn state status`: the derived files and whether they are up to date. Changes nothing.

use std::path::Path;
use std::process::ExitCode;

use super::{counted, grouped, human_bytes, print_json, print_text};
use crate::archive::{self, Paths, Status};
use crate::disk;
use crate::home::Home;
use crate::ledger::Ledger;

/// Prints the state of an archive and, of a home, that of index and content.
pub(super) fn print_status(paths: &Paths, home: Option<&Home>, json: bool) -> anyhow::Result<ExitCode> {
    let status = archive::status(paths)?;
    if json {
        print_json(&status)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = describe(&status, &paths.ledger);
    for (place, path) in status.set_aside.iter().enumerate() {
        let name = if place == 0 { "set aside" } else { "" };
        text.push_str(&format!("{name:<13} {}; delete it when nothing in it is missed\n", path.display()));
    }
    for (place, path) in status.leftovers.iter().enumerate() {
        let name = if place == 0 { "unfinished" } else { "" };
        let path = path.display();
        text.push_str(&format!(
            "{name:<13} {path}; of a rebuild that runs or was killed; the next build deletes it\n"
        ));
    }
    if let Some(home) = home {
        text.push_str(&describe_home(home)?);
    }
    print_text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Index and content of a home.
fn describe_home(home: &Home) -> anyhow::Result<String> {
    /// An id or a fingerprint with its LF.
    const INDEX_LINE_BYTES: u64 = 17;
    let mut text = String::new();
    for (name, path, one) in
        [("index", home.ids_index(), "id"), ("", home.fingerprints_index(), "fingerprint")]
    {
        let what = disk::if_there(disk::metadata(&path))?.map_or_else(
            || "missing; `burn state rebuild index` makes it".to_owned(),
            |found| counted(found.len_bytes / INDEX_LINE_BYTES, one),
        );
        text.push_str(&format!("{name:<13} {}, {what}\n", path.display()));
    }
    let sidecars = Ledger::new(home.clone()).sidecars()?;
    let bytes = sidecars.iter().map(|sidecar| sidecar.len_bytes).sum();
    let files = counted(sidecars.len() as u64, "file");
    text.push_str(&format!(
        "{:<13} {}, {files}, {}\n",
        "content",
        home.content_dir().display(),
        human_bytes(bytes)
    ));
    Ok(text)
}

fn describe(status: &Status, ledger: &Path) -> String {
    let ledger = ledger.display();
    let mut text = format!("archive       {}\n", status.archive_path.display());
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<13} {value}\n"));
    let ledger_bytes = status.ledger_size_bytes;
    // Another program may have written a negative number.
    let taken_in_bytes = status.ledger_offset_bytes.max(0) as u64;
    if !status.exists {
        line("state", "missing; `burn state rebuild archive` builds it".to_string());
        line(
            "ledger",
            match ledger_bytes {
                Some(bytes) => format!("{ledger}, {} bytes", grouped(bytes)),
                None => format!("{ledger}, missing"),
            },
        );
        return text;
    }
    let state = match (status.archive_version, status.up_to_date) {
        _ if status.is_foreign => {
            "a database, but not an archive: it is left alone; name another file, or move it away".to_string()
        }
        (Some(version), _) if version != archive::schema::VERSION => {
            "of another schema version; `burn state rebuild archive` builds it again".to_string()
        }
        (None, _) => "without a state row; `burn state rebuild archive` completes it".to_string(),
        (_, true) => "up to date".to_string(),
        (_, false) => match ledger_bytes {
            Some(bytes) if bytes >= taken_in_bytes => {
                format!(
                    "lacks {} bytes of the ledger; `burn state rebuild archive` adds them",
                    grouped(bytes - taken_in_bytes)
                )
            }
            Some(_) => "the ledger is shorter than when the archive was built; `burn state rebuild archive` builds it again \
                        and keeps a copy of this one"
                .to_string(),
            None => "there is no ledger".to_string(),
        },
    };
    line("state", state);
    line(
        "schema",
        status.archive_version.map_or("unknown".to_string(), |version| format!("version {version}")),
    );
    line(
        "ledger",
        match ledger_bytes {
            Some(bytes) => {
                format!("{ledger}, {} of {} bytes in the archive", grouped(taken_in_bytes), grouped(bytes))
            }
            None => format!("{ledger}, missing"),
        },
    );
    line("last build", status.last_built_at.clone().unwrap_or("never".to_string()));
    line("last rebuild", status.last_rebuild_at.clone().unwrap_or("never".to_string()));
    let counts = status.row_counts;
    for (name, count) in [
        ("sessions", counts.sessions),
        ("turns", counts.turns),
        ("tool calls", counts.tool_calls),
        ("tool results", counts.tool_result_events),
        ("compactions", counts.compactions),
    ] {
        line(name, grouped(count));
    }
    if !status.fidelity_histogram.is_empty() {
        let classes: Vec<String> = status
            .fidelity_histogram
            .iter()
            .map(|(class, count)| format!("{class} {}", grouped(*count)))
            .collect();
        line("fidelity", classes.join(", "));
    }
    text
}
