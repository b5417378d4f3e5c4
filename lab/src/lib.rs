//! The lab: vSphere on one Linux machine.
//!
//! A daemon that serves the vim25 API in a vCenter or an ESXi shape, with VMs that are QEMU processes on networks that
//! are kernel bridges in a network namespace.  It is the embedded default of the demo and the stage of the end-to-end
//! tests.  It shares the generated schema types with the product and no logic.
#![allow(clippy::result_large_err, reason = "a fault ends a request: it is made once and moved to its answer")]

mod accel;
mod api;
pub mod cli;
mod control;
mod daemon;
mod dir;
mod error;
mod faults;
mod identity;
mod lab;
mod net;
mod process;
mod settings;
mod store;
mod vm;
mod world;
