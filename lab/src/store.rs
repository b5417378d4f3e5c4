//! Durable documents: JSON files that are replaced whole or not at all.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Replaces `path` by the JSON of `value`: written aside, synced, renamed, so that a crash leaves the old or the new.
///
/// # Errors
/// When a step fails; the old document then stands.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let bytes =
        serde_json::to_vec_pretty(value).map_err(|e| Error::Document { path: path.into(), reason: e.to_string() })?;
    write(path, &bytes)
}

/// Replaces `path` by `bytes`, readable by its owner only.
///
/// # Errors
/// As [`write_json`].
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut aside = tempfile::NamedTempFile::new_in(folder).map_err(Error::file("write aside", path))?;
    aside.write_all(bytes).map_err(Error::file("write", path))?;
    aside.as_file().sync_all().map_err(Error::file("sync", path))?;
    aside.persist(path).map_err(|e| Error::file("replace", path)(e.error))?;
    // The rename itself lasts only once the folder is synced.
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(Error::file("sync", folder))
}

/// Reads a document; `None` when there is none.
///
/// # Errors
/// When the file cannot be read or is not such a document.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if crate::process::is_absent(&e) => return Ok(None),
        Err(e) => return Err(Error::file("read", path)(e)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::Document { path: path.into(), reason: e.to_string() })
}
