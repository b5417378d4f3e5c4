//! Images: pulled from registries, unpacked onto disks while they arrive, kept in an index.
//!
//! ```text
//! Registry: reference -> manifest, configuration -> plan: which disks -> download, check, unpack -> index
//! ```
//! Nothing here knows vSphere: where disks come from and documents go is a [`Backend`]'s.  A process that dies leaves
//! disks that no index names; [`ImageStore::collect`] removes them.

mod access;
mod budget;
mod digest;
mod document;
pub mod index;
mod layer;
pub mod name;
pub mod plan;
mod pull;
pub mod registry;
mod sparse;
mod store;
mod token;
pub mod unpack;

pub use digest::{Digest, NoDigest};
pub use layer::LayerError;
pub use oci_client::Reference;
pub use pull::{PullError, Pulled, Pulling, Step, Told};
pub use store::{Backend, BackendError, Held, ImageStore, OpenDisk, StoreError};
