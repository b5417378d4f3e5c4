//! The appliance's ISO file: is it one, is it whole, which version is it?
//!
//! ECMA-119: the primary volume descriptor is sector 16; it says how many sectors the volume has, and its publisher
//! field ends with our version.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::problem::Problem;

const SECTOR: u64 = 2048;
/// Offset of the descriptor in the file, and of its fields in the descriptor (ECMA-119 8.4).
const DESCRIPTOR: u64 = 16 * SECTOR;
const VOLUME_SPACE_SIZE: usize = 80;
const PUBLISHER: std::ops::Range<usize> = 318..446;

/// An ISO file that has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Iso {
    /// What it boots: `appliance` or `bootstrap`.
    pub(crate) kind: &'static str,
    pub(crate) path: PathBuf,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Last word of the publisher field; empty when there is none.
    pub(crate) version: String,
}

impl Iso {
    /// Looks at the file.
    pub(crate) fn open(kind: &'static str, path: &Path) -> Result<Self, Problem> {
        let (name, flag) = (path.display(), format!("--{kind}-iso"));
        let unreadable = |e: std::io::Error| {
            Problem::validation(format!("{flag}: {name} cannot be read"))
                .why(e)
                .remedy(format!("give the file with {flag}; appliance-iso builds it"))
        };
        let mut file = std::fs::File::open(path).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let mut sector = [0_u8; 2048];
        let read = file.seek(SeekFrom::Start(DESCRIPTOR)).and_then(|_| file.read_exact(&mut sector));
        if read.is_err() || sector[0] != 1 || &sector[1..6] != b"CD001" {
            return Err(Problem::validation(format!("{flag}: {name} is no ISO 9660 image"))
                .why(format!("it has {size} bytes and no primary volume descriptor"))
                .remedy("build or download it again"));
        }
        let sectors = u32::from_le_bytes([0, 1, 2, 3].map(|i| sector[VOLUME_SPACE_SIZE + i]));
        let whole = u64::from(sectors) * SECTOR;
        if size < whole {
            return Err(Problem::validation(format!("{flag}: {name} is truncated"))
                .why(format!("it has {size} bytes, and its volume descriptor says {whole}"))
                .remedy("build or download it again"));
        }
        let publisher = String::from_utf8_lossy(&sector[PUBLISHER]).trim().to_owned();
        let version = publisher.split_whitespace().last().unwrap_or("").to_owned();
        Ok(Self { kind, path: path.to_owned(), size, version })
    }

    /// The name of the file on the datastore: versions stand beside each other there.
    pub(crate) fn upload_name(&self) -> String {
        let kind = self.kind;
        let safe: String = self
            .version
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || ".-_+".contains(c) { c } else { '_' })
            .collect();
        if safe.is_empty() { format!("{kind}-unknown.iso") } else { format!("{kind}-{safe}.iso") }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest file that passes for an ISO image.
    pub(crate) fn image(version: &str, sectors: u32) -> Vec<u8> {
        let mut bytes = vec![0; sectors as usize * 2048];
        let at = 16 * 2048;
        bytes[at] = 1;
        bytes[at + 1..at + 6].copy_from_slice(b"CD001");
        bytes[at + VOLUME_SPACE_SIZE..at + VOLUME_SPACE_SIZE + 4].copy_from_slice(&sectors.to_le_bytes());
        let publisher = format!("{:128}", format!("VIC ENGINE {version}"));
        bytes[at + 318..at + 446].copy_from_slice(publisher.as_bytes());
        bytes
    }

    #[test]
    fn version_and_size_are_read_and_faults_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("appliance.iso");
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Iso::open("appliance", &path).map_err(|p| p.to_string())
        };
        let whole = image("1.2.3", 20);
        let iso = open(&whole).unwrap();
        assert_eq!((iso.version.as_str(), iso.upload_name().as_str()), ("1.2.3", "appliance-1.2.3.iso"));
        assert!(open(&whole[..18 * 2048]).unwrap_err().contains("truncated"));
        assert!(open(&whole[..100]).unwrap_err().contains("no ISO 9660"));
        assert!(open(b"").unwrap_err().contains("no ISO 9660"));
        let missing = Iso::open("appliance", &dir.path().join("none.iso")).unwrap_err();
        assert!(missing.to_string().contains("cannot be read"), "{missing}");
    }
}
