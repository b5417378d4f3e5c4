//! Developer tasks.
//!
//! * `cargo xtask check`: what CI holds every change against before it runs a test: formatting, lints, generated files.
//! * `cargo xtask vim25 [--check]`: generate `libs/vim25-types/src/generated/` from pyvmomi's metadata; `--check` only
//!   compares.  Needs `pip install pyvmomi`.
//! * `cargo xtask proto [--check]`: generate the Rust of the control channel from `libs/tether-proto/proto/`.
#![allow(clippy::print_stderr, clippy::exit, reason = "a developer's tool: its main owns the terminal")]

mod generated;
mod proto;
mod vim25;

use std::process::Command;

use generated::Mode;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["check"] => check(),
        ["vim25"] => vim25::run(Mode::Write),
        ["vim25", "--check"] => vim25::run(Mode::Check),
        ["proto"] => proto::run(Mode::Write),
        ["proto", "--check"] => proto::run(Mode::Check),
        _ => {
            eprintln!("usage: cargo xtask check | vim25 [--check] | proto [--check]");
            std::process::exit(2);
        }
    };
    if let Err(e) = outcome {
        eprintln!("xtask: {e}");
        std::process::exit(1);
    }
}

/// Everything that is checked without running the product.
fn check() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    proto::run(Mode::Check)?;
    vim25::run(Mode::Check)
}

fn cargo(args: &[&str]) -> Result<()> {
    let status = Command::new(env!("CARGO")).args(args).current_dir(root()).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed ({status})", args.join(" ")).into()) }
}

/// The workspace's root folder.
fn root() -> &'static std::path::Path {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}
