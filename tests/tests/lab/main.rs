//! Suites on the embedded vSphere, with real guests.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "test helpers")]

mod containers;
mod disturbed;
mod docker_py;
mod failures;
mod guests;
mod images;
mod oracle;
mod pyvmomi;
mod registries;
mod rules;
mod vch;
