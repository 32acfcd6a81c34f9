//! Measures each phase of a rebuild alone: scan, parse (fast path, exact path), fold, insert; and the whole rebuild at
//! 64 MB.
//!
//! `cargo bench --bench archive` runs all phases, `cargo bench --bench archive -- parse` some. Throughput is in bytes
//! of the ledger.

#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::path::Path;

use bumpalo::Bump;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use relayburn_ledger::archive::load::InsertWriter;
use relayburn_ledger::archive::pipeline::{self, PipelineInput};
use relayburn_ledger::archive::{Options, Paths, Unobserved, rebuild_full, schema, survey};
use relayburn_ledger::dev::{GenerateOptions, Profile, generate};
use relayburn_ledger::record::fold::{Fold, FoldScratch};
use relayburn_ledger::record::maker::RowMaker;
use relayburn_ledger::record::rows::Rows;
use relayburn_ledger::scan::{self, Io, Source};

fn ledger(profile: Profile, size_bytes: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    generate(&GenerateOptions { size_bytes, seed: 1, profile }, &mut bytes, |_| {}).unwrap();
    bytes
}

/// A line with every member twice, so that the fast path leaves the line to the exact path.
fn odd(ledger: &[u8]) -> Vec<u8> {
    let mut odd = Vec::with_capacity(ledger.len() + ledger.len() / 50);
    for (_, line) in scan::lines(0, ledger) {
        odd.extend_from_slice(b"{\"v\":1,");
        odd.extend_from_slice(&line[1..]);
        odd.push(b'\n');
    }
    odd
}

fn on_disk(directory: &Path, bytes: &[u8]) -> Source {
    let path = directory.join("ledger.jsonl");
    std::fs::write(&path, bytes).unwrap();
    Source::open(&path, Io::Mmap).unwrap()
}

fn rows_of<'a>(bytes: &[u8], arena: &'a Bump) -> Rows<'a> {
    let (mut maker, fold, mut rows) = (RowMaker::default(), Fold::default(), Rows::default());
    for (offset, line) in scan::lines(0, bytes) {
        maker.add(offset, line, &fold, arena, &mut rows);
    }
    rows
}

fn parse(bytes: &[u8]) -> usize {
    rows_of(bytes, &Bump::new()).turns.len()
}

fn phases(c: &mut Criterion) {
    let mixed = ledger(Profile::Mixed, 8 << 20);
    let exact = odd(&mixed);
    let stamps = ledger(Profile::Stamps, 8 << 20);

    let mut group = c.benchmark_group("one thread");
    group.throughput(Throughput::Bytes(mixed.len() as u64));
    group.bench_function("scan", |b| {
        b.iter(|| scan::lines(0, black_box(&mixed)).map(|(_, line)| line.len()).sum::<usize>());
    });
    group.bench_function("parse, fast path", |b| b.iter(|| parse(black_box(&mixed))));
    group.throughput(Throughput::Bytes(exact.len() as u64));
    group.bench_function("parse, exact path", |b| b.iter(|| parse(black_box(&exact))));

    let arena = Bump::new();
    let rows = rows_of(&stamps, &arena);
    let fold = Fold::new(rows.stamps.iter().map(|line| &line.stamp));
    group.throughput(Throughput::Elements(rows.turns.len() as u64));
    group.bench_function("fold, per turn", |b| {
        let mut scratch = FoldScratch::default();
        b.iter(|| {
            rows.turns
                .iter()
                .map(|turn| {
                    let text = |column: usize| match turn.cells[column] {
                        relayburn_ledger::record::Cell::Text(text) => text,
                        _ => "",
                    };
                    fold.enrich(text(1), text(2), text(4), &mut scratch).json.len()
                })
                .sum::<usize>()
        });
    });

    let arena = Bump::new();
    let rows = rows_of(&mixed, &arena);
    group.throughput(Throughput::Bytes(mixed.len() as u64));
    group.bench_function("insert, tables only", |b| {
        b.iter_batched(
            || {
                let connection = rusqlite::Connection::open_in_memory().unwrap();
                for table in schema::TABLES {
                    connection.execute_batch(table.create).unwrap();
                }
                connection
            },
            |connection| {
                connection.execute_batch("BEGIN").unwrap();
                InsertWriter::new(&connection).unwrap().write(&rows).unwrap();
                connection.execute_batch("COMMIT").unwrap();
                connection
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn whole(c: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let bytes = ledger(Profile::Mixed, 64_000_000);
    let source = on_disk(directory.path(), &bytes);
    let mut group = c.benchmark_group("64 MB, all cores");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    let pool = pipeline::workers(std::thread::available_parallelism().map_or(1, usize::from)).unwrap();
    let input = PipelineInput {
        source: &source,
        range: 0..source.len_bytes(),
        chunk_bytes: 1 << 20,
        cut_at: 0,
        interrupt: Default::default(),
    };
    group.bench_function("survey", |b| {
        b.iter(|| survey::survey(&pool, &input, survey::SurveyOf::Stamps).unwrap().stamps.len());
    });
    group.bench_function("pipeline, rows thrown away", |b| {
        b.iter(|| {
            let mut turns = 0;
            let count = |rows: &Rows<'_>, _| {
                turns += rows.turns.len();
                Ok(())
            };
            pipeline::run(&pool, &input, &Fold::default(), |_, _| Ok(()), count).unwrap();
            turns
        });
    });
    let paths =
        Paths::offline(directory.path().join("ledger.jsonl"), directory.path().join("archive.sqlite"));
    group.bench_function("full rebuild", |b| {
        b.iter(|| rebuild_full(&paths, &Options::default(), &mut Unobserved).unwrap().turns_applied);
    });
    group.finish();
}

criterion_group!(benches, phases, whole);
criterion_main!(benches);
