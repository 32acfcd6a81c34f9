//! Reads files of zstd as a stream: consecutive frames. Only reads.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The decompressed bytes of all frames of a file.
pub(crate) struct ZstdFrames<R> {
    file: R,
    decoder: FrameDecoder,
    is_within: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    /// Reads `file` from where it is.
    pub(crate) fn new(file: R) -> Self {
        Self { file, decoder: FrameDecoder::new(), is_within: false }
    }

    /// Begins the next frame; false at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.file.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.file) {
                Ok(()) => {
                    self.is_within = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    io::copy(&mut (&mut self.file).take(u64::from(length)), &mut io::sink())?;
                }
                Err(_) => return Err(io::Error::other("a zstd frame has no whole header")),
            }
        }
        Ok(false)
    }

    /// Ends a frame. If the frame has a checksum, it must match the bytes.
    fn end(&mut self) -> io::Result<()> {
        self.is_within = false;
        let told = self.decoder.get_checksum_from_data();
        match told.zip(self.decoder.get_calculated_checksum()) {
            Some((told, found)) if told != found => {
                Err(io::Error::other("a zstd frame has a wrong checksum"))
            }
            _ => Ok(()),
        }
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.is_within && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let decoded =
                    self.decoder.decode_blocks(&mut self.file, BlockDecodingStrategy::UptoBlocks(1));
                decoded.map_err(|_| io::Error::other("a zstd frame is damaged or torn"))?;
            }
            match self.decoder.read(buffer)? {
                0 => self.end()?,
                count => return Ok(count),
            }
        }
    }
}
