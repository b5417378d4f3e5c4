//! A layer as a registry sends it: compressed or not, checked against its digests while it is read.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use crate::Digest;
use crate::unpack::{UnpackError, Unpacked, unpack};

/// Why a layer is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// What came is not what the manifest names.
    #[error("what was received has the digest {found}, not the manifest's {expected}")]
    Digest {
        /// The manifest's.
        expected: Digest,
        /// What was computed.
        found: Digest,
    },
    /// What was unpacked is not what the configuration names.
    #[error("its content has the digest {found}, not the configuration's {expected}")]
    DiffId {
        /// The configuration's.
        expected: Digest,
        /// What was computed.
        found: Digest,
    },
    /// It cannot be read or unpacked.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// Chunks of a download as a blocking reader.
pub(crate) struct Chunks {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
    gone: Box<dyn Fn() -> bool + Send>,
}

impl Chunks {
    /// Reads what comes through the channel; its end is the end of the stream.
    /// It breaks off as soon as `gone` says that nobody wants it any more, although some of it is there.
    pub(crate) fn new(receiver: mpsc::Receiver<io::Result<Bytes>>, gone: impl Fn() -> bool + Send + 'static) -> Self {
        Self { receiver, chunk: Bytes::new(), gone: Box::new(gone) }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if (self.gone)() {
                return Err(io::Error::other("nobody waits for it any more"));
            }
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => return Ok(0),
            }
        }
        let n = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// A reader that computes the SHA-256 of what passes.
struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Sha256::new() }
    }

    /// The digest of the whole stream: what nobody has read is read now.
    fn finish(mut self) -> io::Result<(Digest, R)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest::of(self.hasher), self.inner))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// Unpacks a layer into `root` while it arrives, and holds it against the digest of what is sent and of what is in it.
///
/// # Errors
/// [`LayerError`]; the folder is then in between.
pub(crate) fn apply(sent: impl Read, digest: &Digest, diff_id: &Digest, root: &Path) -> Result<Unpacked, LayerError> {
    let read = |e| LayerError::Unpack(UnpackError::Read(e));
    let sent = BufReader::with_capacity(64 * 1024, Hashing::new(sent));
    let mut content = Hashing::new(Decoder::new(sent).map_err(read)?);
    let unpacked = unpack(&mut content, root);
    let (found, decoder) = match content.finish() {
        Ok(done) => done,
        // What cannot be read to the end has no digest to speak of.
        Err(e) => return Err(unpacked.err().map_or_else(|| read(e), LayerError::Unpack)),
    };
    let (sent_as, _) = decoder.into_inner().into_inner().finish().map_err(read)?;
    if sent_as != *digest {
        // Which explains whatever else is wrong.
        return Err(LayerError::Digest { expected: digest.clone(), found: sent_as });
    }
    let unpacked = unpacked?;
    if found != *diff_id {
        return Err(LayerError::DiffId { expected: diff_id.clone(), found });
    }
    Ok(unpacked)
}

/// Whatever the layer is compressed with; its first bytes tell, for media types are often wrong.
enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(MultiGzDecoder<R>),
    Zstd(Box<Frames<R>>),
}

/// Zstandard frames one after the other.
struct Frames<R: BufRead> {
    from: R,
    decoder: FrameDecoder,
    within: bool,
}

impl<R: BufRead> Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(buffer);
            }
            if self.within && !self.decoder.is_finished() {
                let some = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.from, some).map_err(io::Error::other)?;
                continue;
            }
            self.within = false;
            if self.from.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.reset(&mut self.from) {
                Ok(()) => self.within = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.from.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(e) => return Err(io::Error::other(e)),
            }
        }
    }
}

impl<R: BufRead> Decoder<R> {
    fn new(mut from: R) -> io::Result<Self> {
        let begins = from.fill_buf()?;
        Ok(if begins.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip(MultiGzDecoder::new(from))
        } else if begins.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || skippable(begins) {
            Self::Zstd(Box::new(Frames { from, decoder: FrameDecoder::new(), within: false }))
        } else {
            Self::Plain(from)
        })
    }

    fn into_inner(self) -> R {
        match self {
            Self::Plain(from) => from,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(frames) => frames.from,
        }
    }
}

/// Frames that hold no content (RFC 8878, 3.1.2).
fn skippable(begins: &[u8]) -> bool {
    begins.len() >= 4 && (0x50..0x60).contains(&begins[0]) && begins[1..4] == [0x2a, 0x4d, 0x18]
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(from) => from.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}
