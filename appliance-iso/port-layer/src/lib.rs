//! The port layer: containers, images, volumes and networks expressed as vSphere objects.
//!
//! vSphere is the database.  What is kept here is a cache, which one reconciler owns: it reads, compares, repairs; every
//! question is answered from it, and only changes go to vSphere.

use std::io::Write as _;

#[cfg(test)]
#[path = "../tests/support/contained.rs"]
mod contained;
pub mod container;
pub mod control;
mod engine;
pub mod images;
mod site;

pub use engine::{Engine, Failure, Outcome, Size, Until, Wait};
pub use tether_proto as guest;

pub use site::{Site, SiteError};

/// A line in the log, which is standard error.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
