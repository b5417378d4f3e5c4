//! Client of the vSphere API (SOAP vim25 over HTTPS), for vCenter and ESXi 6.5 and later.
//!
//! * [`Session`]: login, calls, re-login inside a call on `NotAuthenticated`, keep-alive, logout;
//! * [`trust`]: how a server's certificate is judged: CA bundle, the system's roots, or pinned thumbprints;
//! * [`property`]: reads through the property collector, with paging;
//! * [`watch`]: the one `WaitForUpdatesEx` loop of a session, for tasks and for watches;
//! * [`inventory`]: inventory paths, names and suggestions;
//! * [`datastore`]: files on datastores, up and down, with progress and retry;
//! * [`vm_file`]: files that a running VM has open, through its host.

pub mod datastore;
mod error;
pub mod inventory;
pub mod property;
mod session;
pub mod trust;
pub mod vm_file;
pub mod watch;
mod wire_log;

pub use error::Error;
pub use session::{Credentials, Options, Session};
pub use vim25_types as types;

/// What the operations of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;
