//! The stock docker client on our API, and our API against a real Docker daemon.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test says how it fails by panicking")]

mod client;
mod login;
mod oracle;
mod ours;

use std::{process::Command, time::Duration};

/// How long anything may take; generous, for the machines are noisy.
const LIMIT: Duration = Duration::from_secs(60);

/// Whether `program` is installed; says that the test is skipped when it is not.
fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}
