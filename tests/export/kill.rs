//! SIGKILL at random moments of an export, exporters against each other, and the memory of an export.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use relayburn_ledger::dev::Profile;
use serde_json::Value;

use crate::common::ledgers::{generated, turn};
use crate::common::processes::{peak_anonymous, success};
use crate::common::{Random, scale};
use crate::support::{Scene, assert_whole, read_json};

/// The locks of a killed process are taken over after five seconds; a test need not wait for that.
fn remove_locks(scene: &Scene) {
    for directory in [scene.home(), scene.out().join("v1/_manifests")] {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "lock") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_manifest_or_the_new_one() {
    let mut random = Random::new(41);
    let (ledger, _) = generated(Profile::Mixed, 1_500_000, 4);
    let scene = Scene::new(&ledger[..ledger.len() / 2]);
    let read = |path: &str| fs::read(scene.out().join(path)).unwrap();
    let started = std::time::Instant::now();
    scene.export(&[]);
    let usual = started.elapsed();
    let (mut killed, mut last) = (0, scene.manifest());
    for round in 0..12 * scale() {
        // Other columns give every file other bytes.
        let more: &[&str] = if round % 2 == 0 { &["--with", "project,target"] } else { &[] };
        let mut child =
            scene.export_command(more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(usual.mul_f64(random.below(1000) as f64 / 900.0));
        let _ = child.kill();
        killed += usize::from(!child.wait().unwrap().success());
        remove_locks(&scene);
        let manifest = scene.manifest();
        assert_whole(&manifest, read);
        if manifest != last {
            assert_eq!(manifest["seq"].as_u64(), last["seq"].as_u64().map(|seq| seq + 1));
        }
        last = manifest;
    }
    assert!(killed > 0);
    fs::write(scene.ledger(), &ledger).unwrap();
    let summary = scene.export(&[]);
    assert_eq!(summary["ledgerBytes"].as_u64(), Some(ledger.len() as u64));
    assert_whole(&scene.manifest(), read);
    // What the kills left is garbage, and gone after a collection.
    let mut gc = scene.burn(&["gc", "--grace", "0s", "--json", "--out"]);
    let collected: Value = success(&gc.arg(scene.out()).output().unwrap());
    assert_eq!(collected["filesOther"], 0, "{collected}");
    assert_whole(&scene.manifest(), read);
    assert_eq!(scene.data_files().len(), scene.manifest()["files"].as_array().unwrap().len());
}

#[test]
fn exporters_of_one_home_at_once_leave_one_whole_manifest() {
    let scene = Scene::new(&generated(Profile::Mixed, 400_000, 8).0);
    scene.export(&[]);
    let children: Vec<_> = (0..3)
        .map(|number| {
            let more: &[&str] = if number == 1 { &["--with", "project"] } else { &[] };
            let mut command = scene.export_command(more);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        success(&child.wait_with_output().unwrap());
    }
    let manifest = scene.manifest();
    assert!((2..=3).contains(&manifest["seq"].as_u64().unwrap()), "{}", manifest["seq"]);
    assert_whole(&manifest, |path| fs::read(scene.out().join(path)).unwrap());
}

#[test]
fn homes_export_into_one_place_at_once() {
    let scenes: Vec<Scene> =
        (0..4).map(|seed| Scene::new(&generated(Profile::Mixed, 200_000, seed).0)).collect();
    let out = scenes[0].out();
    let children: Vec<_> = scenes
        .iter()
        .map(|scene| {
            let mut command = scene.burn(&["parquet", "--json", "--out"]);
            command.arg(&out).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        success(&child.wait_with_output().unwrap());
    }
    let manifests = scenes[0].manifest_paths();
    assert_eq!(manifests.len(), 4);
    for path in manifests {
        assert_whole(&read_json(&path), |path| fs::read(out.join(path)).unwrap());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn the_memory_of_an_export_does_not_grow_with_a_day() {
    let ledger_of = |turns: u32| -> String {
        let ts =
            |number: u32| format!("2026-04-20T{:02}:{:02}:{:02}.000Z", number % 24, number % 60, number % 59);
        (0..turns)
            .map(|number| turn(&format!("s-{}", number / 50), &format!("message-{number}"), &ts(number)))
            .collect()
    };
    let peak_mib = |turns: u32| {
        let scene = Scene::new(ledger_of(turns).as_bytes());
        // The build of the archive has a bound of its own.
        let built = scene.burn(&[]).arg("--help").output().unwrap();
        assert!(built.status.success());
        let mut build = crate::common::processes::rebuild(&scene.home(), &[]);
        assert!(build.output().unwrap().status.success());
        let (peak_kib, output) = peak_anonymous(scene.export_command(&[]), |_| {});
        assert_eq!(success(&output)["rows"].as_u64(), Some(u64::from(turns)));
        peak_kib / 1024
    };
    // One row group, and three: memory holds the first and the next while it is written.
    let (small, large) = (peak_mib(60_000), peak_mib(200_000));
    assert!(large < small + 40 && large < 150, "{small} MiB, {large} MiB");
}

#[test]
fn sigterm_ends_an_export_within_a_second_and_leaves_no_lock() {
    let (ledger, _) = generated(Profile::Mixed, 4_000_000, 9);
    let scene = Scene::new(&ledger);
    let mut child = scene.export_command(&[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(150));
    // SAFETY: a plain call with the id of a child that was not waited for.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let asked = std::time::Instant::now();
    let status = child.wait().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(3));
    assert!(status.code() == Some(143) || status.success(), "{status}");
    assert!(!scene.home().join("export.lock").exists() && !scene.home().join("archive.lock").exists());
}
