//! The forms that the kernel unpacks an initramfs from.

use std::io::Write;

use crate::recipe::Compression;

/// Marks LZ4's legacy frame, the one form of LZ4 that the kernel reads.
const LZ4_LEGACY_MAGIC: u32 = 0x184c_2102;
/// Every block of a legacy frame but the last holds this many bytes.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;

/// Compresses `bytes`; the same bytes give the same bytes.
///
/// # Errors
/// What gzip's encoder says; writing into memory does not fail.
pub fn compress(bytes: &[u8], form: Compression) -> std::io::Result<Vec<u8>> {
    Ok(match form {
        Compression::None => bytes.to_vec(),
        Compression::Lz4 => {
            let mut out = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
            for block in bytes.chunks(LZ4_LEGACY_BLOCK) {
                let packed = lz4_flex::block::compress(block);
                let size = u32::try_from(packed.len()).map_err(std::io::Error::other)?;
                out.extend(size.to_le_bytes());
                out.extend(packed);
            }
            out
        }
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
    use proptest::prelude::*;

    use super::*;

    fn unpack_legacy(mut frame: &[u8]) -> Vec<u8> {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
        assert_eq!(word(frame), LZ4_LEGACY_MAGIC);
        frame = &frame[4..];
        let mut out = Vec::new();
        while !frame.is_empty() {
            let size = word(frame) as usize;
            out.extend(lz4_flex::block::decompress(&frame[4..4 + size], LZ4_LEGACY_BLOCK).unwrap());
            frame = &frame[4 + size..];
        }
        out
    }

    #[test]
    fn a_long_archive_is_cut_into_blocks() {
        let bytes: Vec<u8> = (0..LZ4_LEGACY_BLOCK * 2 + 5).map(|i| i.to_le_bytes()[0] % 251).collect();
        assert!(unpack_legacy(&compress(&bytes, Compression::Lz4).unwrap()) == bytes);
    }

    proptest! {
        #[test]
        fn what_is_packed_unpacks(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            prop_assert_eq!(unpack_legacy(&compress(&bytes, Compression::Lz4).unwrap()), bytes);
        }
    }
}
