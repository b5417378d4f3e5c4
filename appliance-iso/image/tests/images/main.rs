//! Images from a real registry, onto folders that stand for disks.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod backend;
mod crash;
mod malformed;
mod pull;
mod token;
mod unpack;
mod way;
