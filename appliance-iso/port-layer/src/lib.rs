//! The port layer: containers, images, volumes and networks expressed as vSphere objects.
//!
//! vSphere is the database.  What is kept here is a cache, which one reconciler owns: it reads, compares, repairs; every
//! question is answered from it, and only changes go to vSphere.

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
