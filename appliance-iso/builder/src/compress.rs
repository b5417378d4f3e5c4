//! The forms that the kernel unpacks an initramfs from.

use std::io::Write;

use crate::recipe::Compression;

/// zstd's: above it takes many times the time for some per cent.
const ZSTD_LEVEL: i32 = 9;

/// Compresses `bytes`; the same bytes give the same bytes.
///
/// # Errors
/// What the encoder says; writing into memory does not fail.
pub fn compress(bytes: &[u8], form: Compression) -> std::io::Result<Vec<u8>> {
    Ok(match form {
        Compression::None => bytes.to_vec(),
        Compression::Zstd => zstd::bulk::compress(bytes, ZSTD_LEVEL)?,
        Compression::Gzip => {
            // flate2 writes no date and no name unless told to.
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(bytes)?;
            encoder.finish()?
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_unpacks(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let packed = compress(&bytes, Compression::Zstd).unwrap();
            let mut out = Vec::new();
            ruzstd::decoding::StreamingDecoder::new(&packed[..]).unwrap().read_to_end(&mut out).unwrap();
            prop_assert_eq!(out, bytes);
        }
    }
}
