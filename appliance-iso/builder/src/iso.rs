//! Authors the ISO 9660 file system with xorriso, bootable by a BIOS through isolinux.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::error::Error;

/// What the volume descriptor's publisher field holds before the version.
const PUBLISHER: &str = "VIC ENGINE";
/// Its length in ISO 9660.
const PUBLISHER_LENGTH: usize = 128;

/// What goes onto the volume.
#[derive(Debug)]
pub struct Contents<'a> {
    /// Volume identifier.
    pub volume_id: &'a str,
    /// Version, the last word of the publisher field.
    pub version: &'a str,
    /// The kernel.
    pub kernel: &'a [u8],
    /// The initramfs, compressed.
    pub initramfs: &'a [u8],
    /// The kernel's command line.
    pub command_line: &'a str,
    /// isolinux.bin.
    pub isolinux: &'a [u8],
    /// ldlinux.c32, which isolinux loads.
    pub ldlinux: &'a [u8],
    /// Seconds since 1970 for every date.
    pub epoch: i64,
}

/// The publisher field for `version`.
///
/// # Errors
/// A version that is not one word, or too long for the field.
pub fn publisher(version: &str) -> Result<String, String> {
    if version.is_empty() || version.contains(char::is_whitespace) || !version.is_ascii() {
        return Err(format!("the version {version:?} must be one ASCII word"));
    }
    let field = format!("{PUBLISHER} {version}");
    if field.len() > PUBLISHER_LENGTH {
        return Err(format!("the version {version:?} does not fit the volume descriptor"));
    }
    Ok(field)
}

/// Writes the ISO to `out`.
///
/// # Errors
/// [`Error::Tool`] or [`Error::Write`].
pub fn write(contents: &Contents<'_>, out: &Path) -> Result<(), Error> {
    let failed = |reason| Error::Tool { tool: "xorriso", purpose: format!("write {}", out.display()), reason };
    let publisher = publisher(contents.version).map_err(failed)?;
    let stage = tempfile::tempdir().map_err(|source| Error::Write { path: std::env::temp_dir(), source })?;
    // No prompt, no menu, no way to add words to the command line.
    let configuration = format!(
        "default vic\nprompt 0\ntimeout 0\nnoescape 1\nallowoptions 0\nlabel vic\n  kernel /boot/vmlinuz\n  \
         initrd /boot/initramfs\n  append {}\n",
        contents.command_line
    );
    for (path, bytes) in [
        ("boot/vmlinuz", contents.kernel),
        ("boot/initramfs", contents.initramfs),
        ("isolinux/isolinux.bin", contents.isolinux),
        ("isolinux/ldlinux.c32", contents.ldlinux),
        ("isolinux/isolinux.cfg", configuration.as_bytes()),
    ] {
        let path = stage.path().join(path);
        let put = || {
            std::fs::create_dir_all(path.parent().unwrap_or(stage.path()))?;
            std::fs::write(&path, bytes)
        };
        put().map_err(|source| Error::Write { path: path.clone(), source })?;
    }
    let output = Command::new("xorriso")
        .args(["-as", "mkisofs", "-quiet", "-r", "-J", "-V", contents.volume_id, "-publisher", &publisher])
        .args(["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat"])
        .args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-o"])
        .arg(out)
        .args(["--set_all_file_dates", &format!("={}", contents.epoch)])
        .arg(stage.path())
        // xorriso takes the volume's dates and its UUID from it.
        .env("SOURCE_DATE_EPOCH", contents.epoch.to_string())
        .env("TZ", "UTC")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(())
}

/// The version that the volume descriptor of an ISO names; `None` when `iso` is not one of ours.
pub fn version(iso: &[u8]) -> Option<String> {
    // The primary volume descriptor is sector 16; the publisher field is at 318 in it.
    let descriptor = iso.get(16 * 2048..17 * 2048)?;
    if descriptor.get(1..6)? != b"CD001" {
        return None;
    }
    let field = std::str::from_utf8(descriptor.get(318..318 + PUBLISHER_LENGTH)?).ok()?;
    Some(field.trim_end().strip_prefix(PUBLISHER)?.split_whitespace().next_back()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_last_word_of_the_publisher() {
        let mut iso = vec![b' '; 17 * 2048];
        iso[16 * 2048 + 1..16 * 2048 + 6].copy_from_slice(b"CD001");
        let field = publisher("0.1.0+abc").unwrap();
        iso[16 * 2048 + 318..16 * 2048 + 318 + field.len()].copy_from_slice(field.as_bytes());
        assert_eq!(version(&iso).as_deref(), Some("0.1.0+abc"));
        assert_eq!(version(&iso[..100]), None);
    }

    #[test]
    fn a_version_of_two_words_is_refused() {
        for bad in ["", "1 2", &"1".repeat(200)] {
            assert!(publisher(bad).is_err(), "{bad:?}");
        }
    }
}
