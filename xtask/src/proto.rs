//! Generates the Rust of the control channel from `libs/tether-proto/proto/`.

use std::path::Path;

use crate::{
    Result,
    generated::{Mode, settle},
    root,
};

/// The protocol as it is, and as it was: a test has them talk to each other.
const SOURCES: [(&str, &str); 2] = [
    ("libs/tether-proto/proto/control.proto", "libs/tether-proto/src/control/generated.rs"),
    ("libs/tether-proto/tests/yesterday/control.proto", "libs/tether-proto/tests/yesterday/generated.rs"),
];

/// Writes the files, or compares them.
pub(crate) fn run(mode: Mode) -> Result<()> {
    for (source, target) in SOURCES {
        settle(&root().join(target), &generate(&root().join(source))?, mode, "cargo xtask proto")?;
    }
    Ok(())
}

fn generate(source: &Path) -> Result<String> {
    let folder = source.parent().ok_or("a source lies in a folder")?;
    let files = protox::compile([source], [folder])?;
    let out = tempfile::tempdir()?;
    tonic_prost_build::configure().out_dir(out.path()).emit_rerun_if_changed(false).compile_fds(files)?;
    Ok(std::fs::read_to_string(out.path().join("vic.tether.v1.rs"))?)
}
