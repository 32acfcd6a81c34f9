//! Measures appends: one turn to homes of 1 000 and 1 000 000 ids as whole processes of `burn`, and turns a second of
//! one and of eight writers, as processes of `burn` and through the library. `scripts/bench-append` runs it.
//!
//! `cargo bench --bench append -- DIRECTORY [RUNS [SECONDS]]` creates homes in DIRECTORY and leaves them there.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relayburn_ledger::home::Home;
use relayburn_ledger::ledger::{AppendOptions, Batch, Ledger, RecordKind};

const HOMES: [usize; 2] = [1_000, 1_000_000];

/// A turn of about 400 bytes. Turns with different names or numbers have different ids and fingerprints.
fn turn(name: &str, number: usize) -> String {
    format!(
        r#"{{"source":"claude-code","sessionId":"{name}-{}","messageId":"{name}-{number}","turnIndex":{},"ts":"2026-04-20T00:00:00.{number:09}Z","model":"claude-{name}","usage":{{"input":12,"output":{number},"reasoning":0,"cacheRead":18210,"cacheCreate5m":512,"cacheCreate1h":0}},"toolCalls":[{{"id":"toolu_{number}","name":"Read","target":"src/main.rs","argsHash":"0f3a9c1d22"}}],"project":"/home/u/work/api"}}"#,
        number / 60,
        number % 60,
    )
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["writer", home, name, batch, durable, seconds] => writer(home, name, batch, durable, seconds),
        [directory] => figures(Path::new(directory), 50, 3),
        [directory, runs] => figures(Path::new(directory), runs.parse().unwrap(), 3),
        [directory, runs, seconds] => {
            figures(Path::new(directory), runs.parse().unwrap(), seconds.parse().unwrap());
        }
        // Without a directory, as under `cargo test --benches` and plain `cargo bench`, the bench does nothing.
        _ => println!("append: name a directory for the homes"),
    }
}

fn figures(directory: &Path, runs: usize, seconds: u64) {
    fs::create_dir_all(directory).unwrap();
    let homes = HOMES.map(|ids| (ids, filled_home(directory, ids)));
    println!("measure,ids,writers,batch,durable,value,unit");
    for durable in [false, true] {
        one_turn(directory, &homes, runs, durable);
    }
    // As processes in a shell's loop, and as a program that keeps running.
    for (how, through_library) in [("burn", false), ("library", true)] {
        for (ids, home) in &homes {
            for (batch, writers) in [(1, 1), (1, 8), (1000, 1), (1000, 8)] {
                for durable in [false, true] {
                    let rate = match through_library {
                        true => library_rate(home, writers, batch, durable, seconds),
                        false => burn_rate(directory, home, writers, batch, durable, seconds),
                    };
                    println!("{how},{ids},{writers},{batch},{durable},{rate:.0},turns a second");
                }
            }
        }
    }
}

/// A home with that many turns and their ids.
fn filled_home(directory: &Path, ids: usize) -> PathBuf {
    let home = directory.join(format!("home-{ids}"));
    let ledger = Ledger::new(Home::at(&home));
    for start in (0..ids).step_by(10_000) {
        let mut batch = Batch::new();
        for number in start..ids.min(start + 10_000) {
            batch.push(RecordKind::Turn, turn("fill", number).as_bytes()).unwrap();
        }
        ledger.append(&batch, &AppendOptions::default()).unwrap();
    }
    home
}

fn burn(home: &Path, input: &Path, durable: bool) -> Child {
    Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(["ledger", "append", "--kind", "turns"])
        .args(durable.then_some("--durable"))
        .env("RELAYBURN_HOME", home)
        .stdin(File::open(input).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Appends one turn to each home alternately. Prints the medians and their ratio.
fn one_turn(directory: &Path, homes: &[(usize, PathBuf); 2], runs: usize, durable: bool) {
    let input = directory.join("one.jsonl");
    let mut times = [Vec::new(), Vec::new()];
    for run in 0..=runs {
        for ((_, home), times) in homes.iter().zip(&mut times) {
            fs::write(&input, turn(if durable { "one-d" } else { "one" }, run)).unwrap();
            let started = Instant::now();
            assert!(burn(home, &input, durable).wait().unwrap().success());
            // The first run reads files that are not in the page cache.
            if run > 0 {
                times.push(started.elapsed());
            }
        }
    }
    let medians = times.map(median);
    for ((ids, _), median) in homes.iter().zip(medians) {
        println!("process,{ids},1,1,{durable},{:.2},ms median of {runs}", median.as_secs_f64() * 1e3);
    }
    println!(
        "process,,1,1,{durable},{:.2},{} ids to {}",
        medians[1].as_secs_f64() / medians[0].as_secs_f64(),
        HOMES[1],
        HOMES[0]
    );
}

/// Turns a second of `writers` that each start one `burn` after another.
fn burn_rate(
    directory: &Path,
    home: &Path,
    writers: usize,
    batch: usize,
    durable: bool,
    seconds: u64,
) -> f64 {
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let written: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                let name = format!("b{writers}-{writer}-{batch}-{durable}");
                let input = directory.join(format!("input-{writer}.jsonl"));
                scope.spawn(move || {
                    let mut number = 0;
                    while Instant::now() < until {
                        let lines: Vec<String> = (number..number + batch).map(|n| turn(&name, n)).collect();
                        fs::write(&input, lines.join("\n")).unwrap();
                        // With eight writers one may wait 11 s for the lock in vain. Its turns do not count.
                        if burn(home, &input, durable).wait().unwrap().success() {
                            number += batch;
                        }
                    }
                    number
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    written as f64 / started.elapsed().as_secs_f64()
}

/// Turns a second of `writers` processes that each keep a handle.
fn library_rate(home: &Path, writers: usize, batch: usize, durable: bool, seconds: u64) -> f64 {
    let started = Instant::now();
    let children: Vec<Child> = (0..writers)
        .map(|writer| {
            let name = format!("l{writers}-{writer}-{batch}-{durable}");
            Command::new(std::env::current_exe().unwrap())
                .arg("writer")
                .arg(home)
                .args([&name, &batch.to_string(), &durable.to_string(), &seconds.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let written: usize = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().unwrap()
        })
        .sum();
    written as f64 / started.elapsed().as_secs_f64()
}

/// Appends batch after batch, then prints the number of turns.
fn writer(home: &str, name: &str, batch: &str, durable: &str, seconds: &str) {
    let ledger = Ledger::new(Home::at(home));
    let options = if durable == "true" { AppendOptions::durable() } else { AppendOptions::default() };
    let size: usize = batch.parse().unwrap();
    let until = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
    let mut written = 0;
    while Instant::now() < until {
        let mut batch = Batch::new();
        for number in written..written + size {
            batch.push(RecordKind::Turn, turn(name, number).as_bytes()).unwrap();
        }
        match ledger.append(&batch, &options) {
            Ok(done) => written += done.appended as usize,
            Err(error) => eprintln!("{name}: {error}"),
        }
    }
    println!("{written}");
}
