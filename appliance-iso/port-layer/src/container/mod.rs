//! Containers: one VM each.
//!
//! ```text
//!            start            process runs          process ends, or the VM goes off
//! Created ----------> Starting ----------> Running ------------------------------> Exited
//!    ^                   |                                                         |  |
//!    +--- never ran -----+                  Starting <----------- start -----------+  |
//!                                           Removing <-- remove, from any ------------+
//! ```
//! [`phase`] reads where a container stands from what vSphere and the guest say; [`admission`] says what may be done there;
//! [`table`] is the cache that answers questions, [`reconciler`] keeps it, and [`vm`] does what changes vSphere.  [`logs`]
//! reads what the process wrote, [`output`] makes lines of it, [`attach`] and [`exec`] have it at once from the guest, and
//! [`events`] tells what happens.

pub mod admission;
pub mod attach;
pub(crate) mod audience;
pub mod events;
pub mod exec;
pub mod health;
mod input;
pub mod logs;
pub mod output;
pub mod phase;
pub mod question;
pub mod reconciler;
pub mod record;
pub mod restart;
pub mod table;
pub mod vm;

pub use tether_proto::record::Stream;
