//! The lab: vSphere on one Linux machine.
//!
//! A daemon that serves the vim25 API in a vCenter or an ESXi shape, with VMs that are QEMU processes on networks that
//! are kernel bridges in a network namespace.  It is the embedded default of the demo and the stage of the end-to-end
//! tests.  It shares the generated schema types with the product and no logic.

pub mod accel;
pub mod dir;
pub mod error;
pub mod faults;
pub mod identity;
pub mod net;
pub mod process;
pub mod settings;
pub mod store;
pub mod vm;
