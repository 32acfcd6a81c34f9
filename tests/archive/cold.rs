//! Measures how much of a ledger outside the page cache a build reads.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

use relayburn_ledger::archive::{self, Options, Paths, Unobserved};
use relayburn_ledger::home::Home;

const LEDGER_BYTES: u64 = 96 << 20;

/// The number of bytes of the file in the page cache.
fn resident_bytes(file: &File) -> u64 {
    let len_bytes = file.metadata().unwrap().len() as usize;
    let page_bytes = 4096;
    let mut pages = vec![0u8; len_bytes.div_ceil(page_bytes)];
    // SAFETY: the map exists only during one call that reads no byte of it; `pages` has a byte for each page.
    let asked = unsafe {
        let (file, none) = (file.as_raw_fd(), std::ptr::null_mut());
        let map = libc::mmap(none, len_bytes, libc::PROT_READ, libc::MAP_SHARED, file, 0);
        assert_ne!(map, libc::MAP_FAILED);
        let asked = libc::mincore(map, len_bytes, pages.as_mut_ptr());
        libc::munmap(map, len_bytes);
        asked
    };
    assert_eq!(asked, 0);
    pages.iter().filter(|page| **page & 1 == 1).count() as u64 * page_bytes as u64
}

fn forget(file: &File) {
    file.sync_all().unwrap();
    // SAFETY: calls without pointers, on an open descriptor.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
}

#[test]
fn a_tail_build_on_a_cold_cache_reads_samples_and_the_tail() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let paths = Paths::of_home(&Home::at(home.path()));
    let mut ledger = File::options().create(true).append(true).read(true).open(&paths.ledger).unwrap();
    // Lines of an unknown kind are long and read quickly.
    let line = format!("{{\"v\":1,\"kind\":\"other\",\"text\":\"{}\"}}\n", "x".repeat((1 << 20) - 40));
    while ledger.metadata().unwrap().len() < LEDGER_BYTES {
        ledger.write_all(line.as_bytes()).unwrap();
    }
    archive::rebuild_full(&paths, &Options::default(), &mut Unobserved).unwrap();
    for tail_lines in [0, 4] {
        for _ in 0..tail_lines {
            ledger.write_all(line.as_bytes()).unwrap();
        }
        forget(&ledger);
        if resident_bytes(&ledger) > 1 << 20 {
            // A file system in memory keeps everything in the page cache.
            return;
        }
        let result = archive::build_tail(&paths, &Options::default(), &mut Unobserved).unwrap();
        assert_eq!((result.restarted, result.unknown_lines), (None, tail_lines));
        let resident = resident_bytes(&ledger);
        // 1,024 samples of two pages, a MiB at each end, and the tail.
        assert!(resident < (24 + tail_lines) << 20, "{resident} bytes of {LEDGER_BYTES} were read");
    }
}
