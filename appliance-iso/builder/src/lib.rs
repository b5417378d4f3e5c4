//! Builds a bootable ISO from a recipe and a package source, the same bytes from the same inputs.
//!
//! ```text
//! recipe.toml --+
//!               +-> packages --> kernel, modules ---+
//! source -------+         \----> files -------------+-> initramfs (cpio, zstd) -> ISO 9660 (isolinux)
//! --file NAME=PATH ---------------------------------+                             + .sha256 + .spdx.json
//! ```
//! Nothing is mounted, installed or run: packages are read as archives, so an ordinary user can build.

pub mod build;
pub mod compress;
pub mod error;
pub mod iso;
pub mod modules;
pub mod recipe;
pub mod sbom;
pub mod source;
pub mod tree;

use std::fmt::Write;

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
