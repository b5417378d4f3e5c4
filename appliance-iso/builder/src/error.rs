//! [`Error`]: what went wrong, on which object, why, and what to do about it.

use std::path::PathBuf;

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The recipe is not valid.
    #[error("the recipe {path} is not valid: {reason}")]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that the recipe asks the command line for was not given.
    #[error("the recipe needs the file {name:?}: give it with --file {name}=PATH")]
    MissingInput {
        /// Its name.
        name: String,
    },
    /// A tool is missing or fails.
    #[error("{tool} failed while it was to {purpose}: {reason}")]
    Tool {
        /// The program.
        tool: &'static str,
        /// What it was started for.
        purpose: String,
        /// Its words.
        reason: String,
    },
    /// The package source does not know a package.
    #[error("the package {package} cannot be found: {reason}")]
    NoPackage {
        /// Its name.
        package: String,
        /// Why.
        reason: String,
    },
    /// A package does not have the bytes that its source promised.
    #[error("the package {package} does not have the SHA-256 {expected} that its source promises, but {found}")]
    Checksum {
        /// Its name.
        package: String,
        /// As promised.
        expected: String,
        /// As downloaded.
        found: String,
    },
    /// A package's bytes are not a package.
    #[error("the package {package} cannot be unpacked: {reason}")]
    Unpack {
        /// Its name.
        package: String,
        /// Why.
        reason: String,
    },
    /// A package lacks a file.
    #[error("the package {package} holds no file {path}")]
    NoFile {
        /// Its name.
        package: String,
        /// The path or pattern looked for.
        path: String,
    },
    /// A kernel module is neither in the kernel's package nor built in.
    #[error("the kernel {kernel} has no module {module}{}", needed_by.as_ref().map(|n| format!(", which {n} needs")).unwrap_or_default())]
    NoModule {
        /// Version of the kernel.
        kernel: String,
        /// The module's name.
        module: String,
        /// The module that needs it.
        needed_by: Option<String>,
    },
    /// A kernel module's file is not one.
    #[error("the kernel module {path} cannot be read: {reason}")]
    BadModule {
        /// Its path in the package.
        path: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// What to do about it, where there is something.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Tool { tool: "xorriso", .. } => Some("install xorriso: apt-get install xorriso"),
            Self::Tool { .. } => Some("run apt-get update, and check that the machine reaches its package mirror"),
            Self::NoPackage { .. } => Some("run apt-get update, or correct the package's name in the recipe"),
            Self::Checksum { .. } | Self::Unpack { .. } => Some("remove the file from the cache and build again"),
            Self::NoModule { .. } => Some("remove the module from the recipe, or choose another kernel package"),
            Self::NoFile { .. } => Some("correct the path in the recipe: dpkg-deb -c lists a package's files"),
            _ => None,
        }
    }
}
