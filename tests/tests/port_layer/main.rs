//! The port layer's engine against a lab whose guests are played: thousands of operations instead of dozens.
//!
//! Why this fake: the lab refuses what vSphere refuses (a VM that another task has, a power state that does not fit, a file in
//! use), and those refusals are what concurrent clients run into; its API is served over real HTTPS, and its fault rules hit any
//! call.  govmomi's simulator excludes no tasks and locks no files, tells updates four times a second, and reads everything anew
//! for each.  What is played is the guest alone (`src/bin/played-guest.rs`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "test helpers")]

mod admin;
mod clones;
mod ends;
mod faults;
mod interleavings;
mod logs;
mod questions;
mod reach;
mod stage;
mod unreachable;
