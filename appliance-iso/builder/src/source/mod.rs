//! Where packages come from: one trait, one file per kind of source.

mod debian;

use std::path::{Path, PathBuf};

pub use debian::Debian;

use crate::{error::Error, recipe};

/// One version of one package.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of its file, lower-case hex.
    pub sha256: String,
    /// The source package it was built from.
    pub source: String,
    /// The packages that it depends on, first alternatives only.
    pub depends: Vec<String>,
    /// Package URL (purl) for the bill of materials.
    pub purl: String,
}

/// A place that packages come from.
pub trait PackageSource {
    /// The newest version of each package in `names`, in their order.  `cache` may keep what makes the next look faster.
    ///
    /// # Errors
    /// [`Error::NoPackage`] or [`Error::Tool`].
    fn resolve(&self, names: &[&str], cache: &Path) -> Result<Vec<Package>, Error>;

    /// The package's file, downloaded into `cache` unless it is there already; its checksum is verified either way.
    ///
    /// # Errors
    /// [`Error::Tool`], [`Error::Checksum`] or [`Error::Read`].
    fn fetch(&self, package: &Package, cache: &Path) -> Result<PathBuf, Error>;

    /// The regular files of a fetched package.
    ///
    /// # Errors
    /// [`Error::Unpack`].
    fn unpack(&self, package: &Package, file: &Path) -> Result<crate::tree::Files, Error>;
}

/// The source that a recipe names.
pub fn open(source: &recipe::Source) -> Box<dyn PackageSource> {
    match source {
        recipe::Source::Debian {} => Box::new(Debian),
    }
}
