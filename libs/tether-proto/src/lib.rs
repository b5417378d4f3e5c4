//! The contract between a containerVM and who made it: what tether is told, and what it tells.
//!
//! Pure data, and a protocol's generated code; no I/O.
//!
//! | where | what | written by |
//! | --- | --- | --- |
//! | extraConfig [`KEY_CONTAINER`] | [`Container`] | who makes the VM |
//! | extraConfig [`KEY_EXIT`] | [`Run`] | tether |
//! | the second serial port | [`record`]s of the process's output | tether |
//! | a connection to the endpoint VM | [`control`]: streams, further processes, signals | both |
//!
//! Compatibility is that of [`vch_config`]: unknown fields are ignored, a newer schema is refused.

mod container;
pub mod control;
pub mod record;
mod run;
pub mod signal;

pub use container::*;
pub use run::*;
pub use vch_config::Document;

/// Key of the [`Container`] document.
pub const KEY_CONTAINER: &str = "guestinfo.vic.container";
/// Key of the [`Run`] document.
pub const KEY_EXIT: &str = "guestinfo.vic.exit";
