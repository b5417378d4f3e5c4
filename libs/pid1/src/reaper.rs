//! Reaps children: services, and orphans of theirs that the kernel hands to PID 1.
//!
//! The reaper only records and forwards: it waits for any child, tells the one who started it, and forgets the orphans.

use std::{
    collections::HashMap,
    fmt, io,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use nix::{sys::signal::Signal, unistd::Pid};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal: its number, for real-time signals have no names.
    Killed(i32),
}

impl fmt::Display for Ending {
    /// In words for a log: `exited with code 1`, `was killed by SIGKILL`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was killed by {signal}"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
        }
    }
}

/// Starts and reaps children; clones share the children.
#[derive(Debug, Clone, Default)]
pub struct Reaper {
    // Held while a child is started and recorded, and while ended ones are looked up, so that no ending comes before its
    // record.  Never held over an await.
    children: Arc<Mutex<HashMap<Pid, oneshot::Sender<Ending>>>>,
}

impl Reaper {
    /// Starts `command`; the receiver yields how it ended.
    ///
    /// # Errors
    /// What the system says: [`io::ErrorKind::NotFound`] when there is no such program.
    pub fn spawn(&self, command: &mut Command) -> io::Result<(Pid, oneshot::Receiver<Ending>)> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        // Dropping the handle neither kills nor waits: reaping is done here.
        let child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        let (sender, receiver) = oneshot::channel();
        children.insert(pid, sender);
        Ok((pid, receiver))
    }

    /// Reaps for ever.
    pub async fn run(self) {
        let mut signals = match signal(SignalKind::child()) {
            Ok(signals) => signals,
            Err(error) => return log::error!("cannot watch for ended processes: {error}"),
        };
        loop {
            self.reap();
            signals.recv().await;
        }
    }

    /// Reaps all that have ended; one signal may stand for several.
    fn reap(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut status = 0;
            // The library's own takes a child from the kernel that a real-time signal has killed, and then fails.
            // SAFETY: it writes one number, which is there.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            let ending = match pid {
                // Nobody else has ended.
                0 => return,
                -1 => match nix::Error::last() {
                    nix::Error::EINTR => continue,
                    // There are no children at all: normal, too.
                    nix::Error::ECHILD => return,
                    error => return log::error!("cannot wait for ended processes: {error}"),
                },
                _ if libc::WIFEXITED(status) => Ending::Exited(libc::WEXITSTATUS(status)),
                _ if libc::WIFSIGNALED(status) => Ending::Killed(libc::WTERMSIG(status)),
                _ => continue,
            };
            if let Some(waiting) = children.remove(&Pid::from_raw(pid)) {
                let _ = waiting.send(ending);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_child_reports_to_who_started_it_and_orphans_vanish() {
        let reaper = Reaper::default();
        tokio::spawn(reaper.clone().run());
        // Not recorded: what an orphan looks like.
        #[expect(clippy::zombie_processes, reason = "the orphan that the reaper is there for")]
        Command::new("true").spawn().unwrap();
        let (_, three) = reaper.spawn(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let (_, killed) = reaper.spawn(Command::new("sh").args(["-c", "kill -9 $$"])).unwrap();
        assert_eq!(three.await.unwrap().to_string(), "exited with code 3");
        assert_eq!(killed.await.unwrap().to_string(), "was killed by SIGKILL");
        let (_, without_a_name) = reaper.spawn(Command::new("sh").args(["-c", "kill -37 $$"])).unwrap();
        assert_eq!(without_a_name.await.unwrap().to_string(), "was killed by signal 37");
        assert!(reaper.children.lock().unwrap().is_empty());
    }
}
