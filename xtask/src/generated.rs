//! Generated files: written, or held against what would be written.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;

/// Whether to write the generated files or to compare them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    Check,
}

/// Brings the file at `path` to `text`, formatted, or says that `command` would change it.
pub(crate) fn settle(path: &Path, text: &str, mode: Mode, command: &str) -> Result<()> {
    let text = rustfmt(text)?;
    match mode {
        Mode::Write => {
            std::fs::create_dir_all(path.parent().ok_or("a file lies in a folder")?)?;
            std::fs::write(path, text)?;
        }
        Mode::Check if std::fs::read_to_string(path).unwrap_or_default() != text => {
            return Err(format!("{} is stale: run `{command}`", path.display()).into());
        }
        Mode::Check => {}
    }
    Ok(())
}

fn rustfmt(text: &str) -> Result<String> {
    let config = crate::root().join("rustfmt.toml");
    pipe(Command::new("rustfmt").args(["--edition", "2024", "--config-path"]).arg(config), text)
}

/// Runs a filter with `input` on its standard input.
pub(crate) fn pipe(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| "the writer of a filter's input failed")??;
    if !output.status.success() {
        return Err(format!("{command:?} failed ({})", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
