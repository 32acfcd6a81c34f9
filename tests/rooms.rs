//! Which room of the library may use which: docs/architecture.md has the same table.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room and the rooms it may use. Every room stands below those that it uses.
const ROOMS: [(&str, &[&str]); 12] = [
    ("scan", &[]),
    ("disk", &[]),
    ("home", &[]),
    ("dev", &[]),
    ("lock", &["disk"]),
    ("archive", &["scan", "disk", "home", "lock"]),
    ("ledger", &["archive", "scan", "disk", "home", "lock"]),
    ("journal", &["scan", "disk", "home"]),
    ("session", &["scan", "disk"]),
    ("book", &["scan", "disk"]),
    ("ingest", &["journal", "ledger", "disk", "home", "lock"]),
    (
        "cli",
        &["scan", "disk", "home", "dev", "lock", "archive", "ledger", "journal", "session", "book", "ingest"],
    ),
];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_owned());
    } else if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| sources(&entry.unwrap().path(), found));
    }
}

#[test]
fn rooms_use_only_what_stands_above_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (place, (room, allowed)) in ROOMS.iter().enumerate() {
        assert!(allowed.iter().all(|used| ROOMS[..place].iter().any(|(above, _)| above == used)), "{room}");
        let mut files = Vec::new();
        sources(&root.join(room), &mut files);
        sources(&root.join(format!("{room}.rs")), &mut files);
        assert!(!files.is_empty(), "no file of {room}");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let used: BTreeSet<&str> = text
                .split("crate::")
                .skip(1)
                .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next())
                .filter(|name| name != room && ROOMS.iter().any(|(other, _)| other == name))
                .collect();
            for used in used {
                assert!(allowed.contains(&used), "{} uses {used}", file.display());
            }
        }
    }
    // No room is left out of the table.
    for entry in fs::read_dir(&root).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_known = ["lib", "main"].contains(&name) || ROOMS.iter().any(|(room, _)| *room == name);
        assert!(is_known, "{name} is no room of the table");
    }
}
