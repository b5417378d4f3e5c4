//! What a VCH is, and how it fares: the documents in the endpoint VM's extraConfig.
//!
//! Pure data, no I/O.  `vic-machine` writes [`VchConfig`] and [`VchSecrets`]; the endpoint VM's init reads them and
//! writes [`EndpointStatus`] back.  vSphere is the database: nothing of this is kept anywhere else.
//!
//! | extraConfig key | document | written by | visible in the guest |
//! | --- | --- | --- | --- |
//! | [`KEY_CONFIG`] | [`VchConfig`] | vic-machine | yes |
//! | [`KEY_SECRETS`] | [`VchSecrets`] | vic-machine | yes |
//! | [`KEY_STATUS`] | [`EndpointStatus`] | the endpoint VM | yes |
//! | [`KEY_HEARTBEAT`] | seconds since the guest's boot, decimal | the endpoint VM, every [`HEARTBEAT_SECONDS`] | yes |
//! | [`KEY_OPERATION`] | [`Operation`] | vic-machine | no |
//!
//! Compatibility: a reader ignores fields it does not know and refuses a document whose `schema` is newer than its own.

mod config;
mod container;
mod operation;
mod status;

pub use config::*;
pub use container::*;
pub use operation::*;
pub use status::*;

/// Key of the [`VchConfig`] document.
pub const KEY_CONFIG: &str = "guestinfo.vic.config";
/// Key of the [`VchSecrets`] document.
pub const KEY_SECRETS: &str = "guestinfo.vic.secrets";
/// Key of the [`EndpointStatus`] document.
pub const KEY_STATUS: &str = "guestinfo.vic.status.endpoint";
/// Key of the heartbeat: a decimal number that grows while the guest lives.
pub const KEY_HEARTBEAT: &str = "guestinfo.vic.status.heartbeat";
/// Key of the journal and lease of a lifecycle operation; not visible in the guest.
pub const KEY_OPERATION: &str = "vic.operation";

/// Seconds between two heartbeats of the endpoint VM.
pub const HEARTBEAT_SECONDS: u64 = 5;

/// The newest document schema that this build reads and the one that it writes.
pub const SCHEMA: u32 = 1;

/// Why a document could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The text is not the JSON that the document's type asks for.
    #[error("{document} is not valid: {reason}")]
    Invalid {
        /// Which document.
        document: &'static str,
        /// What the parser says; names a position, never a value.
        reason: String,
    },
    /// The document was written by a newer version.
    #[error("{document} has schema {found}, and this build reads up to {SCHEMA}: use a newer version")]
    TooNew {
        /// Which document.
        document: &'static str,
        /// The schema number found.
        found: u32,
    },
}

/// A document with a schema number, stored as JSON text.
pub trait Document: serde::Serialize + serde::de::DeserializeOwned {
    /// Its name in messages.
    const NAME: &'static str;

    /// The schema number that the document carries.
    fn schema(&self) -> u32;

    /// Reads the document from its stored text.
    ///
    /// # Errors
    /// [`DocumentError`] when the text is not such a document or is from a newer version.
    fn from_text(text: &str) -> Result<Self, DocumentError> {
        let document: Self = serde_json::from_str(text).map_err(|e| DocumentError::Invalid {
            document: Self::NAME,
            // serde_json quotes values of the wrong type; a secret could be one.
            reason: format!("{:?} error at line {} column {}", e.classify(), e.line(), e.column()),
        })?;
        if document.schema() > SCHEMA {
            return Err(DocumentError::TooNew { document: Self::NAME, found: document.schema() });
        }
        Ok(document)
    }

    /// The text to store.
    fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a document has string keys and no failing serializer")
    }
}
