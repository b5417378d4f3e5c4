//! Reaps children: services, and orphans of theirs that the kernel hands to PID 1.
//!
//! The reaper only records and forwards: it waits for any child, tells the one who started it, and forgets the orphans.

use std::{
    collections::HashMap,
    fmt, io,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    sys::{
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal.
    Killed(Signal),
}

impl fmt::Display for Ending {
    /// In words for a log: `exited with code 1`, `was killed by SIGKILL`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(signal) => write!(f, "was killed by {signal}"),
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
            let (pid, ending) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Ending::Exited(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Ending::Killed(signal)),
                // Nobody else has ended, or there are no children at all: both normal.
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return,
                Err(nix::Error::EINTR) | Ok(_) => continue,
                Err(error) => return log::error!("cannot wait for ended processes: {error}"),
            };
            if let Some(waiting) = children.remove(&pid) {
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
        assert!(reaper.children.lock().unwrap().is_empty());
    }
}
