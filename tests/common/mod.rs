//! Shared by the integration tests: the folder of reference data, archives in a canonical form, generated ledgers, and
//! child processes. Each test file uses a part.
//!
//! Environment: `BURN_GOLDEN` names the folder with the whole reference data (default `../shared/golden`), of which
//! `fixtures/` has a part; `BURN_TEST_SCALE` (default 1) multiplies the counts of long tests, `BURN_TEST_LOADER`
//! (`bulk` or `insert`) chooses their loader, and `BURN_TEST_SEED` (default 1) changes their random numbers.
#![allow(dead_code, clippy::unwrap_used)]

pub mod archives;
pub mod dump;
#[cfg(feature = "cli")]
pub mod everything;
pub mod ledgers;
pub mod processes;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Returns the factor for the counts of long tests.
pub fn scale() -> usize {
    std::env::var("BURN_TEST_SCALE").map_or(1, |scale| scale.parse().unwrap())
}

/// Returns a file or folder under `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Returns the folder with all reference data. Prints a message if it is missing.
pub fn golden() -> Option<PathBuf> {
    let folder = std::env::var_os("BURN_GOLDEN")
        .map_or(Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/golden"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!(
        "no reference data at {}: fixtures alone are tested (BURN_GOLDEN names another folder)",
        folder.display()
    );
    None
}

/// Runs `check` for every item on a few threads. A panic in one of them becomes a panic of the caller. There are more
/// threads than cores, because builds wait for the disk.
pub fn in_parallel<T: Sync>(items: &[T], check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(item);
                }
            });
        }
    });
}

/// Returns the names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A small generator of random numbers (xorshift64*). Tests print their seed, so that a failure can be run again.
pub struct Random(u64);

impl Random {
    /// `stream` gives tests with one seed different numbers.
    pub fn new(stream: u64) -> Self {
        let seed: u64 = std::env::var("BURN_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
        println!("BURN_TEST_SEED={seed}");
        Self((seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03)) | 1)
    }

    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)) * u128::from(bound)) >> 64) as u64
    }
}
