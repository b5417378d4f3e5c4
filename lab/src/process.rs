//! Processes that outlive the daemon: told apart from a later process of the same id by their start time.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// A process, named so that no other can be taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// Its id.
    pub pid: i32,
    /// Its start time in clock ticks after boot (field 22 of `/proc/PID/stat`).
    pub start: u64,
}

/// A handle on a running process, which need not be a child.
#[derive(Debug)]
pub(crate) struct Process {
    fd: AsyncFd<OwnedFd>,
}

/// The start time and the state letter of `pid`, if there is such a process.
fn stat(pid: i32) -> Option<(u64, char)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name in parentheses may hold anything: fields are counted from the last parenthesis.
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some((fields.get(19)?.parse().ok()?, fields.first()?.chars().next()?))
}

impl ProcessId {
    /// The process that has the id `pid` now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        stat(pid).map(|(start, _)| Self { pid, start })
    }

    /// Whether that process still runs (a zombie does not).
    pub(crate) fn is_alive(self) -> bool {
        matches!(stat(self.pid), Some((start, state)) if start == self.start && state != 'Z' && state != 'X')
    }

    /// Opens the process; `None` when it is gone.  Needs a tokio runtime.
    pub(crate) fn open(self) -> Option<Process> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Asked after opening: from here on the descriptor names this process whatever becomes of its id.
        if !self.is_alive() {
            return None;
        }
        // SAFETY: an OwnedFd is always the same descriptor, open until the AsyncFd drops it.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()?;
        Some(Process { fd })
    }
}

impl Process {
    /// Returns when the process has ended.
    pub(crate) async fn ended(&self) {
        // A pidfd becomes readable when its process ends, and stays so; an error means that it cannot be watched any more.
        let _ = self.fd.readable().await;
    }

    /// Ends the process: asks, then insists.
    pub(crate) async fn end(&self, grace: Duration) {
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::TERM);
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            let _ = pidfd_send_signal(self.fd.get_ref(), Signal::KILL);
            self.ended().await;
        }
    }

    /// Ends the process at once.
    pub(crate) async fn kill(&self) {
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::KILL);
        self.ended().await;
    }
}

/// Reads the process id that a program wrote to its pid file, and turns it into a [`ProcessId`].
pub(crate) fn from_pid_file(path: &Path) -> Option<ProcessId> {
    let pid = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    ProcessId::of(pid)
}

/// Remembers `process` in `path`.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn remember(path: &Path, process: ProcessId) -> Result<()> {
    crate::store::write_json(path, &process)
}

/// The process remembered in `path`, if it is still the same and alive.
pub(crate) fn recall(path: &Path) -> Option<ProcessId> {
    crate::store::read_json::<ProcessId>(path).ok().flatten().filter(|p| p.is_alive())
}

/// Runs `program` to its end and gives its standard output.
///
/// # Errors
/// When it cannot be started or ends with a failure; the message carries what it wrote.
pub(crate) fn run(program: &str, args: &[&str], what: &str) -> Result<String> {
    let output = std::process::Command::new(program)
        .args(args)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|source| Error::Spawn { program: program.into(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Program {
        program: program.into(),
        status: output.status.to_string(),
        what: what.into(),
        output: tail(&output.stderr),
    })
}

/// The end of what a program wrote, as one line.
pub(crate) fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

/// Whether an error only says that a file is not there.
pub(crate) fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(id.is_alive());
        let process = id.open().unwrap();
        process.end(Duration::from_secs(5)).await;
        assert!(!id.is_alive(), "ended, though not yet waited for");
        child.wait().unwrap();
        assert!(id.open().is_none());
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive());
        assert!(!ProcessId { start: me.start + 1, ..me }.is_alive());
    }
}
