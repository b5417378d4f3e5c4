//! A real Docker daemon with a folder and a socket of its own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid},
};
use tempfile::TempDir;

use crate::{LIMIT, ask};

/// The daemon; ended, by its process id, when dropped.
pub struct Daemon {
    child: Child,
    folder: TempDir,
}

impl Daemon {
    /// Starts it; `None`, with the reason printed, where that cannot be.
    pub fn start() -> Option<Self> {
        if Command::new("dockerd").arg("--version").output().is_err() {
            println!("skipped: dockerd is not installed");
            return None;
        }
        if !Uid::effective().is_root() {
            println!("skipped: dockerd needs root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        // No bridge and no rules: it must not touch the machine's network.
        let child = Command::new("dockerd")
            .args(["--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .args(["--data-root", &at("root"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("socket"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut daemon = Self { child, folder };
        let start = Instant::now();
        while ask(&daemon.socket(), "GET", "/_ping", "").is_none() {
            let ended = daemon.child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > LIMIT {
                println!("skipped: dockerd does not run here: {}", daemon.last_words());
                return None;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        Some(daemon)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Seconds that the docker client takes with it; it must succeed.
    pub fn timed(&self, args: &[&str]) -> f64 {
        let start = Instant::now();
        let mut client = Command::new("docker");
        let output =
            client.arg("--host").arg(format!("unix://{}", self.socket().display())).args(args).output().unwrap();
        let took = start.elapsed().as_secs_f64();
        assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        took
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().last().unwrap_or_default().to_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It ends its containerd when it is asked to end; killed, it would leave it behind.
        let _ = i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        let start = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if start.elapsed() > LIMIT {
                let _ = self.child.kill();
            }
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
    }
}
