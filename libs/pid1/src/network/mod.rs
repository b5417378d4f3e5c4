//! The kernel's links, and what they get.

mod address;
mod kernel;

pub use address::{Network, Route, Settings};
pub use kernel::{Kernel, KernelLink};
