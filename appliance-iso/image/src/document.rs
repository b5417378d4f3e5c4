//! The index's document, which is replaced as a whole or not at all, however late.
//!
//! ```text
//! write index.json.new -- rename it --> index.json
//! ```
//! A rename whose answer was lost may still be under way, in a process that died, too.  So before the index is believed, what
//! would be renamed is removed; and where a rename is not one step, what it left is completed.

use crate::store::{Backend, BackendError};

/// The index's name among the documents.
pub(crate) const INDEX: &str = "index.json";
/// Where it is written before it takes its place.
const ASIDE: &str = "index.json.new";

/// Replaces the index.
pub(crate) async fn replace(backend: &impl Backend, bytes: Vec<u8>) -> Result<(), BackendError> {
    backend.write(ASIDE, bytes).await?;
    backend.rename(ASIDE, INDEX).await
}

/// The index as it stays: a replacement that was begun before has happened by now, or never will.
pub(crate) async fn settled(backend: &impl Backend) -> Result<Option<Vec<u8>>, BackendError> {
    let before = backend.read(INDEX).await?;
    if before.is_some() {
        backend.delete(ASIDE).await?;
    } else if let Some(aside) = backend.read(ASIDE).await? {
        if serde_json::from_slice::<serde::de::IgnoredAny>(&aside).is_err() && backend.disks().await?.is_empty() {
            // The first write of all was cut, before there was anything to be listed.
            backend.delete(ASIDE).await?;
        } else {
            // All that there is: the rename was cut between removing the old one and placing the new.
            backend.rename(ASIDE, INDEX).await?;
        }
    }
    // Until then a rename could happen.
    let now = backend.read(INDEX).await?;
    if let (Some(old), None) = (&before, &now) {
        // One in two steps has removed the old one and finds nothing any more to put there.
        replace(backend, old.clone()).await?;
        return Ok(before);
    }
    Ok(now)
}
