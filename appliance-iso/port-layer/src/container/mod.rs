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
//! [`table`] is the cache that answers questions, [`reconciler`] keeps it, and [`vm`] does what changes vSphere.

pub mod admission;
pub mod phase;
pub mod reconciler;
pub mod record;
pub mod table;
pub mod vm;
