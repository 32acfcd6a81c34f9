//! Exports into a bucket of an S3 server in another process: the protocol, exporters against each other, kills, and faults of
//! the server and of the connection at every request.

use std::collections::BTreeSet;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use relayburn_ledger::dev::Profile;
use serde_json::{Value, json};

use crate::common::ledgers::{generated, turn, turn_with};
use crate::common::processes::success;
use crate::common::{Random, scale};
use crate::server::{BUCKET, Proxy, ProxyFault, Server};
use crate::support::{Scene, assert_whole, by_day, refusal};

fn on(day: u32, message: &str) -> String {
    turn("s", message, &format!("2026-04-{day:02}T12:00:00.000Z"))
}

fn three_days() -> Scene {
    Scene::new((on(20, "m-1") + &on(21, "m-2") + &on(22, "m-3")).as_bytes())
}

/// Asserts that the one manifest under a prefix is whole, and returns it.
#[track_caller]
fn whole(server: &Server, prefix: &str) -> Value {
    let manifests = server.manifests(prefix);
    assert_eq!(manifests.len(), 1);
    assert_whole(&manifests[0], |path| server.object(&format!("{prefix}/{path}")));
    manifests[0].clone()
}

#[test]
fn a_bucket_gets_the_files_of_a_directory_and_only_what_changed() {
    let Some(server) = Server::start() else { return };
    let scene = Scene::new(&generated(Profile::Mixed, 400_000, 2).0);
    let first = server.export(&scene, "a/b", &[]);
    assert!(first["manifest"].as_str().unwrap().starts_with("s3://fleet/a/b/v1/_manifests/"), "{first}");
    let manifest = whole(&server, "a/b");
    scene.export(&[]);
    assert_eq!(by_day(&manifest), by_day(&scene.manifest()));
    let again = server.export(&scene, "a/b", &[]);
    assert_eq!([&again["isManifestWritten"], &again["filesWritten"]], [&json!(false), &json!(0)]);
    scene.append(&turn("late", "m", "2026-01-02T00:00:00.000Z"));
    let changed = server.export(&scene, "a/b", &[]);
    assert_eq!([&changed["filesWritten"], &changed["seq"]], [&json!(1), &json!(2)]);
    whole(&server, "a/b");
    // The directory of the bucket itself.
    let root = format!("s3://{BUCKET}");
    let output = server.burn_at(server.port, &scene.home(), &["parquet", "--json", "--out", &root]).output();
    assert!(success(&output.unwrap())["manifest"].as_str().unwrap().starts_with("s3://fleet/v1/_manifests/"));
}

#[test]
fn gc_and_forget_work_in_a_bucket() {
    let Some(server) = Server::start() else { return };
    let scene = three_days();
    server.export(&scene, "p", &["--home-id", "h"]);
    scene.append(&on(20, "m-1").replace("\"output\":2", "\"output\":7"));
    server.export(&scene, "p", &[]);
    let other = three_days();
    server.export(&other, "p", &["--home-id", "h-2"]);
    assert_eq!(server.request("PUT", &format!("/{BUCKET}/p/v1/turns/notes.txt"), b"mine").0, 200);
    let out = format!("s3://{BUCKET}/p");
    let run = |args: &[&str]| {
        success(
            &server
                .burn_at(server.port, &scene.home(), &[args, &["--json", "--out", &out]].concat())
                .output()
                .unwrap(),
        )
    };
    let young = run(&["gc"]);
    assert_eq!(
        [&young["filesRemoved"], &young["filesYoung"], &young["filesOther"]],
        [&json!(0), &json!(1), &json!(1)]
    );
    let collected = run(&["gc", "--grace", "0s"]);
    assert_eq!([&collected["filesRemoved"], &collected["filesNamed"]], [&json!(1), &json!(6)]);
    let forgotten = run(&["forget", "--home-id", "h"]);
    assert_eq!([&forgotten["manifestsRemoved"], &forgotten["filesRemoved"]], [&json!(1), &json!(3)]);
    assert_eq!(whole(&server, "p")["homeId"], "h-2");
    assert_eq!(server.keys("p/v1/turns/").len(), 4);
    assert_eq!(server.object("p/v1/turns/notes.txt"), b"mine");
    let nothing =
        server.burn_at(server.port, &scene.home(), &["gc", "--out", "s3://fleet/wrong"]).output().unwrap();
    assert!(refusal(&nothing, 1).contains("there are no exports at s3://fleet/wrong"));
}

#[test]
fn exporters_of_one_home_at_once_leave_one_whole_manifest() {
    let Some(server) = Server::start() else { return };
    let first = Scene::new(&generated(Profile::Mixed, 300_000, 6).0);
    server.export(&first, "race", &[]);
    // Copies have locks of their own, so only the condition of the manifest keeps them apart.
    let copies: Vec<Scene> = (0..3)
        .map(|_| {
            let copy = Scene::new(&fs::read(first.ledger()).unwrap());
            fs::copy(first.home().join("export.json"), copy.home().join("export.json")).unwrap();
            copy
        })
        .collect();
    let columns: [&[&str]; 3] = [&["--with", "project"], &["--with", "target"], &["--with", "enrichment"]];
    let mut restarts = 0;
    for round in 1..=3 * scale() as u64 {
        let children: Vec<_> = copies
            .iter()
            .enumerate()
            .map(|(at, copy)| {
                let more = columns[(at + round as usize) % 3];
                let mut command = server.export_command(server.port, copy, "race", more);
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let done: Vec<Value> =
            children.into_iter().map(|child| success(&child.wait_with_output().unwrap())).collect();
        restarts += done.iter().map(|summary| summary["restarts"].as_u64().unwrap()).sum::<u64>();
        let manifest = whole(&server, "race");
        // Every manifest that was written has a number of its own: none replaced a manifest that its exporter had not read.
        let written: BTreeSet<u64> = done
            .iter()
            .filter(|summary| summary["isManifestWritten"] == true)
            .map(|summary| summary["seq"].as_u64().unwrap())
            .collect();
        let count = done.iter().filter(|summary| summary["isManifestWritten"] == true).count();
        assert_eq!(written.len(), count, "{done:?}");
        assert_eq!(written.last().copied(), manifest["seq"].as_u64());
        let winner = done.iter().find(|summary| summary["seq"] == manifest["seq"]).unwrap();
        assert_eq!(manifest["files"].as_array().unwrap().len() as u64, winner["files"].as_u64().unwrap());
    }
    println!("{restarts} exports began again");
}

#[test]
fn a_kill_at_any_moment_leaves_the_old_manifest_or_the_new_one() {
    let Some(server) = Server::start() else { return };
    let mut random = Random::new(42);
    let scene = Scene::new(&generated(Profile::Mixed, 500_000, 4).0);
    let started = Instant::now();
    server.export(&scene, "kill", &[]);
    let usual = started.elapsed();
    let mut killed = 0;
    for round in 0..8 * scale() {
        let more: &[&str] = if round % 2 == 0 { &["--with", "project,target"] } else { &[] };
        let mut command = server.export_command(server.port, &scene, "kill", more);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(usual.mul_f64(random.below(1000) as f64 / 900.0));
        let _ = child.kill();
        killed += usize::from(!child.wait().unwrap().success());
        for lock in ["export.lock", "archive.lock"] {
            let _ = fs::remove_file(scene.home().join(lock));
        }
        whole(&server, "kill");
    }
    assert!(killed > 0);
    server.export(&scene, "kill", &[]);
    let manifest = whole(&server, "kill");
    let out = format!("s3://{BUCKET}/kill");
    let mut gc =
        server.burn_at(server.port, &scene.home(), &["gc", "--grace", "0s", "--json", "--out", &out]);
    success(&gc.output().unwrap());
    assert_eq!(whole(&server, "kill"), manifest);
    let data = server.keys("kill/v1/t").len() + server.keys("kill/v1/compactions").len();
    assert_eq!(data, manifest["files"].as_array().unwrap().len());
}

#[test]
fn a_fault_at_any_request_is_repeated_and_the_manifest_counts_once() {
    let Some(server) = Server::start() else { return };
    let scene = three_days();
    let clean = Proxy::start(&server, |_, _| None);
    success(&server.export_command(clean.port, &scene, "clean", &[]).output().unwrap());
    let requests = clean.requests.load(Ordering::SeqCst);
    assert!(requests >= 8, "{requests}");
    for fault in [ProxyFault::Refuse, ProxyFault::RefuseAfter, ProxyFault::Cut, ProxyFault::CutAfter] {
        for at in 0..requests {
            let prefix = format!("{fault:?}-{at}");
            let proxy = Proxy::start(&server, move |number, _| (number == at).then_some(fault));
            let output = server.export_command(proxy.port, &scene, &prefix, &[]).output().unwrap();
            let met = proxy.faults.lock().unwrap().clone();
            assert_eq!(met.len(), 1, "{prefix}");
            let summary = success(&output);
            assert_eq!((&summary["seq"], &summary["rows"]), (&json!(1), &json!(3)), "{met:?}");
            let manifest = whole(&server, &prefix);
            assert_eq!(manifest["seq"], 1, "{met:?}");
        }
    }
}

#[test]
fn an_answer_that_does_not_come_is_asked_for_again() {
    let Some(server) = Server::start() else { return };
    for what in [
        "PUT /fleet/slow-data/v1/turns/",
        "PUT /fleet/slow-manifest/v1/_manifests/",
        "GET /fleet/slow-read/v1/_manifests/",
    ] {
        let scene = three_days();
        let prefix = what.split('/').nth(2).unwrap().to_owned();
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let proxy = Proxy::start(&server, move |_, line| {
            (line.starts_with(what) && is_first.swap(false, Ordering::SeqCst)).then_some(ProxyFault::Stall)
        });
        let mut command = server.export_command(proxy.port, &scene, &prefix, &[]);
        let summary = success(&command.env("AWS_TIMEOUT", "1s").output().unwrap());
        assert_eq!(proxy.faults.lock().unwrap().len(), 1, "{what}");
        assert_eq!(summary["seq"], 1, "{what}");
        assert_eq!(whole(&server, &prefix)["seq"], 1);
    }
}

#[test]
fn a_server_that_stays_broken_leaves_the_last_manifest_and_is_named() {
    let Some(server) = Server::start() else { return };
    let scene = three_days();
    server.export(&scene, "broken", &[]);
    let before = whole(&server, "broken");
    scene.append(&on(23, "m-4"));
    let proxy = Proxy::start(&server, |_, line| line.starts_with("PUT").then_some(ProxyFault::Refuse));
    let refused = refusal(&server.export_command(proxy.port, &scene, "broken", &[]).output().unwrap(), 1);
    assert!(refused.contains("cannot write s3://fleet/broken/v1/turns/dt=2026-04-23/"), "{refused}");
    assert!(refused.contains("500") && refused.contains("run again"), "{refused}");
    assert_eq!(whole(&server, "broken"), before);
    server.export(&scene, "broken", &[]);
    assert_eq!(whole(&server, "broken")["seq"], 2);
}

#[test]
fn a_large_file_goes_up_in_parts_also_when_a_part_fails() {
    let Some(server) = Server::start() else { return };
    let mut random = Random::new(43);
    let mut text = |len: usize| -> String {
        (0..len / 16).map(|_| format!("{:016x}", random.below(u64::MAX))).collect()
    };
    let lines = (0..110).map(|at| {
        let project = format!(r#","project":"{}""#, text(400_000));
        turn_with("s", &format!("m-{at}"), "2026-04-20T00:00:00.000Z", &project)
    });
    let scene = Scene::new(lines.collect::<String>().as_bytes());
    for (prefix, fault) in [
        ("parts", None),
        ("part-refused", Some(ProxyFault::Refuse)),
        ("part-cut", Some(ProxyFault::CutAfter)),
    ] {
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let proxy = Proxy::start(&server, move |_, line| {
            let is_hit = line.starts_with("PUT")
                && line.contains("partNumber=")
                && is_first.swap(false, Ordering::SeqCst);
            fault.filter(|_| is_hit)
        });
        let mut command = server.export_command(proxy.port, &scene, prefix, &["--with", "project"]);
        let summary = success(&command.output().unwrap());
        assert!(summary["bytesWritten"].as_u64().unwrap() > 17 << 20, "{summary}");
        assert_eq!(proxy.faults.lock().unwrap().len(), usize::from(fault.is_some()), "{prefix}");
        whole(&server, prefix);
    }
}

#[test]
fn a_bucket_that_is_not_there_wrong_credentials_and_plain_http_are_refused_with_their_remedy() {
    let Some(server) = Server::start() else { return };
    let scene = three_days();
    let mut command = server.burn_at(server.port, &scene.home(), &["parquet", "--out", "s3://nowhere/x"]);
    let refused = refusal(&command.output().unwrap(), 1);
    assert!(
        refused.contains("s3://nowhere/x") && refused.contains("check the name of the bucket"),
        "{refused}"
    );
    let mut command = server.export_command(server.port, &scene, "p", &[]);
    let refused = refusal(&command.env_remove("AWS_ALLOW_HTTP").output().unwrap(), 1);
    assert!(refused.contains("s3://fleet") && refused.contains("AWS_ALLOW_HTTP"), "{refused}");
    // From now on the server checks who asks.
    assert_eq!(server.request("POST", "/moto-api/reset-auth", b"0").0, 200);
    let refused = refusal(&server.export_command(server.port, &scene, "p", &[]).output().unwrap(), 1);
    assert!(refused.contains("AWS_ACCESS_KEY_ID") && refused.contains("s3://fleet/p/"), "{refused}");
}

#[test]
fn sigterm_ends_an_export_that_waits_for_a_server() {
    let Some(server) = Server::start() else { return };
    let scene = three_days();
    let proxy = Proxy::start(&server, |_, line| line.starts_with("PUT").then_some(ProxyFault::Stall));
    let mut command = server.export_command(proxy.port, &scene, "term", &[]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    while proxy.faults.lock().unwrap().is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: a plain call with the id of a child that was not waited for.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
    let asked = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(asked.elapsed() < Duration::from_secs(3));
    assert!(server.manifests("term").is_empty());
}
