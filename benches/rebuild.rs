//! Measures full rebuilds as separate processes: both loaders, the naive loader, and another program, interleaved.
//!
//! `cargo bench --bench rebuild -- LEDGER [--rounds N] [--subjects a,b,…] [--threads N] [--page-size BYTES] [--memory SIZE] [--yardstick PROGRAM SCHEMA] [--cold]`
//! prints a CSV line for each run. Subjects: `bulk`, `insert`, `naive`, `parse` (the pipeline with its rows thrown
//! away), `disk` (writing and syncing as many bytes as the archive has), `yardstick`. `scripts/bench-rebuild` and
//! `scripts/perf-gate` run it. `--cold` drops the system's page cache before each run, which needs the right to write
//! `/proc/sys/vm/drop_caches`. Without it the ledger is read once at the start.
//!
//! Memory is RssAnon + RssShmem of the process, sampled every 10 ms if the system reports it. Pages of the ledger and
//! of the archive in the page cache do not count. The CPU time, user and system, is from the last sample.

#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relayburn_ledger::archive::pipeline::{self, PipelineInput};
use relayburn_ledger::archive::{Load, Options, Paths, Unobserved, rebuild_full};
use relayburn_ledger::dev::parse_size;
use relayburn_ledger::record::fold::Fold;
use relayburn_ledger::scan::{Io, Source};

struct Wish {
    ledger: PathBuf,
    rounds: usize,
    subjects: Vec<String>,
    threads: usize,
    memory_bytes: u64,
    page_size_bytes: u32,
    is_cold: bool,
    yardstick: Option<(String, String)>,
}

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.first().is_some_and(|arg| arg == "--child") {
        child(&args.split_off(1));
        return;
    }
    let Some(wish) = parse(args) else {
        // `cargo test --benches` and a plain `cargo bench` give no ledger.
        println!("rebuild: give it a ledger, or run scripts/bench-rebuild");
        return;
    };
    let directory = tempfile::tempdir_in(wish.ledger.parent().unwrap()).unwrap();
    // A warm page cache for all subjects.
    std::io::copy(&mut std::fs::File::open(&wish.ledger).unwrap(), &mut std::io::sink()).unwrap();
    let ledger_bytes = std::fs::metadata(&wish.ledger).unwrap().len();
    println!(
        "subject,round,ledger_bytes,threads,memory_bytes,page_bytes,cache,seconds,cpu_seconds,peak_anon_kib,archive_bytes,detail"
    );
    let cache = if wish.is_cold { "cold" } else { "warm" };
    for round in 1..=wish.rounds {
        for subject in &wish.subjects {
            let archive = directory.path().join("archive.sqlite");
            if wish.is_cold
                && let Err(error) = std::fs::write("/proc/sys/vm/drop_caches", "1")
            {
                println!("# cold runs left out: /proc/sys/vm/drop_caches: {error}");
                return;
            }
            let (seconds, Watched { peak_kib, cpu_seconds }, detail) =
                match (subject.as_str(), &wish.yardstick) {
                    ("yardstick", Some((program, schema))) => yardstick(program, schema, &wish.ledger),
                    ("naive", _) => naive(&wish.ledger, &archive),
                    _ => ours(subject, &wish, &archive),
                };
            let archive_bytes = std::fs::metadata(&archive).map_or(0, |metadata| metadata.len());
            println!(
                "{subject},{round},{ledger_bytes},{},{},{},{cache},{seconds:.3},{cpu_seconds:.2},{peak_kib},{archive_bytes},{detail}",
                wish.threads, wish.memory_bytes, wish.page_size_bytes
            );
            for suffix in ["", "-wal", "-shm", ".lock"] {
                let _ = std::fs::remove_file(directory.path().join(format!("archive.sqlite{suffix}")));
            }
        }
    }
}

fn parse(args: Vec<String>) -> Option<Wish> {
    let mut args = args.into_iter();
    let mut wish = Wish {
        ledger: args.next()?.into(),
        rounds: 3,
        subjects: ["naive", "insert", "bulk"].map(String::from).to_vec(),
        threads: 0,
        memory_bytes: Options::default().memory_bytes as u64,
        page_size_bytes: Options::default().page_size_bytes,
        is_cold: false,
        yardstick: None,
    };
    while let Some(flag) = args.next() {
        let mut value = || args.next().unwrap_or_else(|| panic!("{flag} needs a value"));
        match flag.as_str() {
            "--rounds" => wish.rounds = value().parse().unwrap(),
            "--subjects" => wish.subjects = value().split(',').map(String::from).collect(),
            "--threads" => wish.threads = value().parse().unwrap(),
            "--memory" => wish.memory_bytes = parse_size(&value()).unwrap(),
            "--page-size" => wish.page_size_bytes = value().parse().unwrap(),
            "--cold" => wish.is_cold = true,
            "--yardstick" => wish.yardstick = Some((value(), value())),
            other => panic!("unknown flag {other}"),
        }
    }
    Some(wish)
}

/// Runs a subject as a child process. Returns its seconds, what was seen meanwhile, and the times of its phases.
fn ours(subject: &str, wish: &Wish, archive: &Path) -> (f64, Watched, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("--child")
        .arg(subject)
        .arg(&wish.ledger)
        .arg(archive)
        .arg(wish.threads.to_string())
        .arg(wish.memory_bytes.to_string())
        .arg(wish.page_size_bytes.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let watched = watch(&mut child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{subject} failed");
    let text = String::from_utf8(output.stdout).unwrap();
    let (seconds, detail) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    (seconds.parse().unwrap(), watched, detail.to_string())
}

fn naive(ledger: &Path, archive: &Path) -> (f64, Watched, String) {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_burn"))
        .args(["dev", "naive-load"])
        .args([ledger, archive])
        .spawn()
        .unwrap();
    let watched = watch(&mut child);
    assert!(child.wait().unwrap().success(), "naive failed");
    (started.elapsed().as_secs_f64(), watched, String::new())
}

fn yardstick(program: &str, schema: &str, ledger: &Path) -> (f64, Watched, String) {
    let mut child = Command::new(program)
        .arg(ledger)
        .arg(schema)
        .arg("deferfastp16m8")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let watched = watch(&mut child);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let after = |mark: &str| -> f64 {
        let rest = &text[text.find(mark).unwrap() + mark.len()..];
        rest.trim_start().split([' ', 's', '\n']).next().unwrap().parse().unwrap()
    };
    let (parse, total) = (after("parse"), after("TOTAL"));
    (parse + total, watched, format!("parse={:.0} write={:.0}", parse * 1e3, total * 1e3))
}

/// What was seen of a process; zeros if the system does not report it.
#[derive(Default)]
struct Watched {
    /// The peak of RssAnon + RssShmem.
    peak_kib: u64,
    cpu_seconds: f64,
}

/// Looks at a process every 10 ms until it ends.
fn watch(child: &mut Child) -> Watched {
    // Clock ticks of /proc/PID/stat, whatever the machine.
    const TICKS_PER_SECOND: f64 = 100.0;
    let id = child.id();
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
    let look = |seen: &mut Watched| {
        let text = read("status");
        let of = |field: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(field));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        seen.peak_kib = seen.peak_kib.max(of("RssAnon:") + of("RssShmem:"));
        // The 12th and 13th field after the name, which may have spaces: user and system time.
        let ticks: f64 = read("stat").rsplit(") ").next().map_or(0.0, |fields| {
            fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum()
        });
        seen.cpu_seconds = seen.cpu_seconds.max(ticks / TICKS_PER_SECOND);
    };
    let mut seen = Watched::default();
    loop {
        look(&mut seen);
        if child.try_wait().unwrap().is_some() {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One measured run: prints its seconds and the times of its phases.
fn child(args: &[String]) {
    let [subject, ledger, archive, threads, memory_bytes, page_size_bytes] = args else {
        panic!("six arguments")
    };
    let (ledger, archive) = (PathBuf::from(ledger), PathBuf::from(archive));
    let options = Options {
        threads: threads.parse().unwrap(),
        memory_bytes: memory_bytes.parse().unwrap(),
        page_size_bytes: page_size_bytes.parse().unwrap(),
        load: if subject == "insert" { Load::Insert } else { Load::Bulk },
        ..Options::default()
    };
    let started = Instant::now();
    let mut detail = String::new();
    match subject.as_str() {
        "bulk" | "insert" => {
            let paths = Paths::offline(ledger, archive);
            let result = rebuild_full(&paths, &options, &mut Unobserved).unwrap();
            let serde_json::Value::Object(timings) = serde_json::to_value(result.timings).unwrap() else {
                return;
            };
            detail = timings.iter().map(|(phase, ms)| format!("{phase}={ms} ")).collect();
        }
        "parse" => {
            let source = Source::open(&ledger, Io::Mmap).unwrap();
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let pool = pipeline::workers(if options.threads == 0 { cores } else { options.threads }).unwrap();
            let range = 0..source.line_end_before(0, source.len_bytes()).unwrap();
            let input = PipelineInput {
                source: &source,
                range,
                chunk_bytes: options.chunk_bytes,
                cut_at: 0,
                interrupt: options.interrupt.clone(),
            };
            pipeline::run(&pool, &input, &Fold::default(), |_, _| Ok(()), |_, _| Ok(())).unwrap();
        }
        "disk" => {
            // An archive has about two thirds of the size of its ledger.
            let file = std::fs::File::create(&archive).unwrap();
            let block = vec![0x55; 1 << 20];
            for _ in 0..(std::fs::metadata(&ledger).unwrap().len() * 2 / 3) >> 20 {
                std::io::Write::write_all(&mut &file, &block).unwrap();
            }
            file.sync_all().unwrap();
        }
        other => panic!("no subject {other}"),
    }
    println!("{:.3} {}", started.elapsed().as_secs_f64(), detail.trim());
}
