//! A file that is being made: in memory while it is small, then in a file without a name, because the name of a finished
//! file has its hash.
//!
//! Touches an unnamed file in the home, which has room for an archive and is readable by its owner alone. Guarantees: nothing
//! is left after a crash.

use std::io;
use std::path::Path;

use super::error::ExportError;
use crate::disk;

/// A larger file goes to the disk. Most days of a home are smaller.
const MEMORY_MAX_BYTES: usize = 4 << 20;
/// Bytes that are read back at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The bytes of a file, with their number and their hash.
pub(super) struct FileSpool<'h> {
    directory: &'h Path,
    memory: Vec<u8>,
    file: Option<disk::File>,
    len_bytes: u64,
    hasher: blake3::Hasher,
    /// The error behind the last `io::Error`, which has no place for it.
    failure: Option<disk::Error>,
}

impl<'h> FileSpool<'h> {
    /// An empty spool that may make an unnamed file in `directory`.
    pub(super) fn new(directory: &'h Path) -> Self {
        Self {
            directory,
            memory: Vec::new(),
            file: None,
            len_bytes: 0,
            hasher: blake3::Hasher::new(),
            failure: None,
        }
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// The BLAKE3 of the bytes, in hex.
    pub(super) fn blake3(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }

    /// Takes the error of the file operation that made the last write fail.
    pub(super) fn take_failure(&mut self) -> Option<disk::Error> {
        self.failure.take()
    }

    /// Passes the bytes to `each`, piece by piece.
    pub(super) fn pieces(
        &self,
        mut each: impl FnMut(&[u8]) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        if let Some(file) = &self.file {
            let on_disk = self.len_bytes - self.memory.len() as u64;
            let mut buffer = vec![0; PIECE_BYTES.min(usize::try_from(on_disk).unwrap_or(PIECE_BYTES))];
            let mut offset = 0;
            while offset < on_disk {
                let len = (on_disk - offset).min(PIECE_BYTES as u64);
                let piece = &mut buffer[..len as usize];
                file.read_exact_at(piece, offset)?;
                each(piece)?;
                offset += len;
            }
        }
        if self.memory.is_empty() { Ok(()) } else { each(&self.memory) }
    }

    /// Moves the bytes in memory to the file.
    fn spill(&mut self) -> Result<(), disk::Error> {
        let file = match self.file.take() {
            Some(file) => file,
            None => disk::File::create_unnamed(self.directory)?,
        };
        let written = file.write_all(&self.memory);
        self.file = Some(file);
        written?;
        self.memory.clear();
        Ok(())
    }
}

impl io::Write for FileSpool<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.memory.extend_from_slice(bytes);
        self.len_bytes += bytes.len() as u64;
        if self.memory.len() > MEMORY_MAX_BYTES
            && let Err(error) = self.spill()
        {
            let kind = error.kind();
            self.failure = Some(error);
            return Err(kind.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn small_and_large_files_come_back_whole_and_leave_nothing() {
        let directory = tempfile::tempdir().unwrap();
        for len_bytes in [0, 1, MEMORY_MAX_BYTES, 2 * MEMORY_MAX_BYTES + PIECE_BYTES + 7] {
            let bytes: Vec<u8> = (0..len_bytes).map(|at| (at * 31 % 251) as u8).collect();
            let mut spool = FileSpool::new(directory.path());
            bytes.chunks(65_537).for_each(|chunk| spool.write_all(chunk).unwrap());
            let mut read = Vec::new();
            let collected = spool.pieces(|piece| {
                read.extend_from_slice(piece);
                Ok(())
            });
            collected.unwrap();
            assert!(read == bytes && spool.len_bytes() == len_bytes as u64, "{len_bytes}");
            assert_eq!(spool.blake3(), blake3::hash(&bytes).to_hex().to_string());
            assert_eq!(spool.file.is_some(), len_bytes > MEMORY_MAX_BYTES);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
