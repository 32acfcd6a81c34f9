//! Faults and power cuts at every operation of an export into a directory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::archive::Unobserved;
use crate::disk::faults::{self, Harness};
use crate::home::Home;
use crate::interrupt::Interrupt;

fn turn(message: &str, day: u32) -> String {
    format!(
        r#"{{"v":1,"kind":"turn","record":{{"source":"codex","sessionId":"s","messageId":"{message}","turnIndex":0,"ts":"2026-04-{day:02}T10:00:00.000Z","model":"m","usage":{{"input":1,"output":2,"reasoning":3,"cacheRead":4,"cacheCreate5m":5,"cacheCreate1h":6}},"toolCalls":[]}}}}"#
    ) + "\n"
}

/// A home with an archive that is up to date, and a directory for exports that has the export of the first two days.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(scene.home().root()).unwrap();
        fs::write(scene.home().ledger(), turn("m-1", 20) + &turn("m-2", 21)).unwrap();
        scene.export().unwrap();
        // A turn of the second day again, and one of a third.
        let more = turn("m-2", 21).replace("\"output\":2", "\"output\":3") + &turn("m-3", 22);
        fs::write(scene.home().ledger(), fs::read_to_string(scene.home().ledger()).unwrap() + &more).unwrap();
        let paths = crate::archive::Paths::of_home(&scene.home());
        crate::archive::build_tail(&paths, &crate::archive::Options::default(), &mut Unobserved).unwrap();
        scene
    }

    fn home(&self) -> Home {
        Home::at(self.directory.path().join("home"))
    }

    fn out(&self) -> std::path::PathBuf {
        self.directory.path().join("out")
    }

    /// Removes the locks whose release failed. They would be taken over after five seconds.
    fn remove_locks(&self) {
        for path in walk(self.directory.path()) {
            if path.to_string_lossy().contains(".lock") {
                fs::remove_file(path).unwrap();
            }
        }
    }

    fn export(&self) -> Result<ExportSummary, ExportError> {
        self.export_of(&self.home())
    }

    fn export_of(&self, home: &Home) -> Result<ExportSummary, ExportError> {
        let options = ExportOptions { home_id: Some("h".parse().unwrap()), ..ExportOptions::default() };
        export_parquet(home, &ExportPlace::Directory(self.out()), &options, &mut Unobserved)
    }
}

/// The rows by day of the only manifest in a place, if there is one; every file that the manifest names must be whole.
fn exported(out: &Path) -> Option<(u64, BTreeMap<String, u64>)> {
    let manifests: Vec<_> = fs::read_dir(out.join("v1/_manifests"))
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    let [manifest] = &*manifests else {
        assert!(manifests.is_empty(), "{manifests:?}");
        return None;
    };
    let manifest: ExportManifest = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    let mut rows = BTreeMap::new();
    for file in &manifest.files {
        let bytes = fs::read(out.join(&file.path)).unwrap();
        assert_eq!(bytes.len() as u64, file.bytes, "{}", file.path);
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), file.blake3, "{}", file.path);
        rows.insert(format!("{} {}", file.table.as_str(), file.day), file.rows);
    }
    Some((manifest.seq, rows))
}

fn rows(days: &[u32]) -> BTreeMap<String, u64> {
    days.iter().map(|day| (format!("turns 2026-04-{day}"), 1)).collect()
}

#[test]
fn a_fault_at_any_operation_leaves_the_old_manifest_or_the_new_and_the_next_export_converges() {
    let (mut failed, mut survived) = (0, 0);
    faults::each_failure(|harness| {
        let scene = Scene::new();
        let outcome = harness.run(|| scene.export());
        let (seq, found) = exported(&scene.out()).unwrap();
        match &outcome {
            Ok(summary) => {
                survived += 1;
                assert_eq!((seq, &found), (2, &rows(&[20, 21, 22])), "{harness:?}");
                assert!(summary.is_manifest_written);
            }
            Err(error) => {
                failed += 1;
                let text = error.to_string();
                assert!(text.contains(scene.directory.path().to_str().unwrap()), "{harness:?}: {text}");
                assert!(seq == 1 && found == rows(&[20, 21]) || seq == 2 && found == rows(&[20, 21, 22]));
            }
        }
        scene.remove_locks();
        scene.export().unwrap();
        assert_eq!(exported(&scene.out()).unwrap(), (2, rows(&[20, 21, 22])), "{harness:?}");
    });
    // The canary: faults do make exports fail, and most operations matter.
    assert!(failed > 20 && survived < failed, "{failed} {survived}");
}

#[test]
fn a_power_cut_at_any_moment_leaves_the_old_manifest_or_the_new_with_their_files() {
    let scene = Scene::new();
    let harness = Harness::recording(&scene.out());
    harness.run(|| scene.export()).unwrap();
    let acknowledged = harness.events();
    let mut seen = [0, 0];
    harness.each_image(|image| {
        let (seq, found) = exported(image.path()).unwrap();
        let days: &[u32] = if seq == 1 { &[20, 21] } else { &[20, 21, 22] };
        assert_eq!(found, rows(days), "{image}");
        assert!(seq == 2 || image.after_events() < acknowledged, "{image}");
        seen[(seq - 1) as usize] += 1;
    });
    assert!(seen[0] > 10 && seen[1] > 10, "{seen:?}");
}

#[test]
fn an_exporter_that_lost_the_lock_of_the_place_replaces_no_manifest() {
    let mut lost = 0;
    for at in (0..).step_by(3) {
        let scene = Scene::new();
        // A copy of the home has the same id and other locks in the home.
        let copy = Home::at(scene.directory.path().join("copy"));
        fs::create_dir(copy.root()).unwrap();
        for file in walk(scene.home().root()) {
            fs::copy(&file, copy.root().join(file.file_name().unwrap())).unwrap();
        }
        let (harness, is_reached, decide) = Harness::held(faults::Fault::Io, at);
        let outcome = std::thread::scope(|scope| {
            let first = scope.spawn(|| harness.run(|| scene.export()));
            while is_reached.recv_timeout(std::time::Duration::from_millis(5)).is_err() {
                if first.is_finished() {
                    return None;
                }
            }
            let lock = scene.out().join("v1/_manifests/h.lock");
            // With content, because no other thread gets a lock while a lock file is made.
            if fs::metadata(&lock).is_ok_and(|lock| lock.len() > 0) {
                // As another program does when the holder was stopped for seconds.
                fs::remove_file(lock).unwrap();
                scene.export_of(&copy).unwrap();
            }
            decide.send(false).unwrap();
            Some(first.join().unwrap())
        });
        let Some(outcome) = outcome else { break };
        assert_eq!(exported(&scene.out()).unwrap(), (2, rows(&[20, 21, 22])), "{harness:?}");
        if let Err(error) = outcome {
            assert!(error.to_string().contains("h.lock was lost to somebody else"), "{harness:?}: {error}");
            lost += 1;
        }
    }
    assert!(lost > 3, "{lost}");
}

#[test]
fn an_interrupt_ends_an_export_before_its_manifest() {
    let scene = Scene::new();
    let interrupt = Interrupt::new();
    interrupt.request();
    let options = ExportOptions { interrupt, ..ExportOptions::default() };
    let place = ExportPlace::Directory(scene.out());
    let error = export_parquet(&scene.home(), &place, &options, &mut Unobserved).unwrap_err();
    assert!(matches!(error, ExportError::Interrupted), "{error}");
    assert_eq!(exported(&scene.out()).unwrap().0, 1);
}

#[test]
fn a_fault_while_files_are_removed_leaves_every_named_file() {
    faults::each_failure(|harness| {
        let scene = Scene::new();
        scene.export().unwrap();
        let place = ExportPlace::Directory(scene.out());
        let collect = || collect_garbage(&place, std::time::Duration::ZERO, &Interrupt::new());
        let outcome = harness.run(collect);
        assert_eq!(exported(&scene.out()).unwrap(), (2, rows(&[20, 21, 22])), "{harness:?}");
        scene.remove_locks();
        let removed = outcome.map_or(0, |collected| collected.files_removed);
        let collected = collect().unwrap();
        assert!(removed + collected.files_removed <= 1, "{harness:?}");
        assert_eq!(collected.files_young + collected.files_other, 0);
        let data =
            |day: u32| fs::read_dir(scene.out().join(format!("v1/turns/dt=2026-04-{day}"))).unwrap().count();
        assert_eq!([data(20), data(21), data(22)], [1, 1, 1], "{harness:?}");
    });
}

#[test]
fn a_fault_while_a_home_is_forgotten_leaves_no_manifest_without_its_files() {
    faults::each_failure(|harness| {
        let scene = Scene::new();
        scene.export().unwrap();
        let place = ExportPlace::Directory(scene.out());
        let forget = || forget_home(&place, &"h".parse().unwrap(), &Interrupt::new());
        let outcome = harness.run(forget);
        if exported(&scene.out()).is_some() {
            assert!(outcome.is_err(), "{harness:?}");
        }
        scene.remove_locks();
        forget().unwrap();
        assert_eq!(exported(&scene.out()), None);
        let left = walk(&scene.out());
        assert!(left.is_empty(), "{harness:?}: {left:?}");
        // The home itself exports again.
        scene.export().unwrap();
        assert_eq!(exported(&scene.out()).unwrap(), (1, rows(&[20, 21, 22])));
    });
}

/// The files under a directory.
fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
