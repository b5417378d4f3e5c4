//! For tests: a virtual machine of QEMU's that boots an ISO, with the test in the place of vSphere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says how it fails by panicking")]
#![allow(clippy::missing_panics_doc, reason = "everything here panics when it fails")]

mod host;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub use host::Host;
use tempfile::TempDir;

/// How long anything in the guest may take; generous, for the machines are noisy.
pub const LIMIT: Duration = Duration::from_secs(90);

/// A running guest.  Killed, by its process id, when dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: Child,
    /// The host's side of guestinfo.
    pub host: Host,
    folder: TempDir,
    started: Instant,
}

impl Guest {
    /// Boots `iso`, with `keys` as the VM's extraConfig, `output` as what its second serial port writes to, and further
    /// `options` of QEMU: disks, network cards.
    pub fn boot(iso: &Path, keys: &[(&str, String)], output: Option<&Path>, options: &[String]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let started = Instant::now();
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-M", "q35,accel=tcg", "-m", "512", "-nographic", "-vga", "none", "-monitor", "none", "-no-reboot"])
            // As the lab does; like any CPU that ESXi runs on, it has RDRAND.
            .args(["-cpu", "max,erms=off"])
            .args(["-cdrom", &iso.display().to_string(), "-boot", "d"])
            .args(["-serial", &format!("file:{}", at("console"))])
            .args(["-serial", &output.map_or_else(|| "null".to_owned(), |path| format!("file:{}", path.display()))])
            .args(["-serial", &format!("unix:{},server=on,wait=off", at("guestinfo"))])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", at("qmp"))])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("qemu")).unwrap())
            .spawn()
            .unwrap();
        let socket = folder.path().join("guestinfo");
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => {
                    assert!(started.elapsed() < LIMIT, "QEMU did not open its serial port: {error}");
                    std::thread::yield_now();
                }
            }
        };
        let host = Host::start(stream, keys);
        Self { qemu, host, folder, started }
    }

    /// Time since the machine was switched on.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The end of the console's log and of QEMU's messages, for a failure's message.
    pub fn console(&self) -> String {
        let mut text = String::new();
        for name in ["qemu", "console"] {
            let bytes = std::fs::read(self.folder.path().join(name)).unwrap_or_default();
            let all = String::from_utf8_lossy(&bytes).into_owned();
            let lines: Vec<_> = all.lines().collect();
            text.push_str(&lines[lines.len().saturating_sub(40)..].join("\n"));
            text.push('\n');
        }
        text
    }

    /// Waits until the key's value satisfies `wanted`, and returns it.
    pub fn wait(&self, key: &str, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.host
            .wait(key, LIMIT, wanted)
            .unwrap_or_else(|last| panic!("{what} did not come; {key} is {last:?}; console:\n{}", self.console()))
    }

    /// Waits until the console shows `line`; returns how long after power-on.
    pub fn wait_for_line(&self, line: &str) -> Duration {
        while !self.console().contains(line) {
            assert!(self.age() < LIMIT, "{line:?} did not come; console:\n{}", self.console());
            std::thread::park_timeout(Duration::from_millis(2));
        }
        self.age()
    }

    /// Waits until QEMU has ended by itself.
    pub fn wait_for_power_off(&mut self) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.qemu.try_wait().unwrap() {
                assert!(status.success(), "QEMU ended with {status}; console:\n{}", self.console());
                return;
            }
            assert!(start.elapsed() < LIMIT, "the guest did not power off; console:\n{}", self.console());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// A folder that lives as long as the guest.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Presses keys on the VM's console.
    pub fn press(&self, keys: &[&str]) {
        let keys: Vec<_> = keys.iter().map(|key| serde_json::json!({"type": "qcode", "data": key})).collect();
        Qmp::connect(self.folder.path()).call(&serde_json::json!({"execute": "send-key", "arguments": {"keys": keys}}));
    }

    /// Sends a request of the host that ends the guest; returns QEMU's reason for its own end.
    pub fn ask_to_end(&mut self, request: &str) -> String {
        let mut qmp = Qmp::connect(self.folder.path());
        self.host.ask(request);
        let reason = qmp.shutdown();
        self.wait_for_power_off();
        reason
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// QEMU's control socket.
struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn connect(folder: &Path) -> Self {
        let stream = UnixStream::connect(folder.join("qmp")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut qmp = Self(BufReader::new(stream));
        qmp.next();
        qmp.call(&serde_json::json!({"execute": "qmp_capabilities"}));
        qmp
    }

    /// The next message.
    fn next(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("QEMU says nothing");
        serde_json::from_str(&line).unwrap()
    }

    /// Runs a command and waits for its answer; events in between are dropped.
    fn call(&mut self, command: &serde_json::Value) {
        writeln!(self.0.get_mut(), "{command}").unwrap();
        loop {
            let answer = self.next();
            assert_eq!(answer.get("error"), None, "{command}");
            if answer.get("return").is_some() {
                return;
            }
        }
    }

    /// Waits until QEMU says that it ends, and why.
    fn shutdown(&mut self) -> String {
        loop {
            let message = self.next();
            if message["event"] == "SHUTDOWN" {
                return message["data"]["reason"].as_str().unwrap_or_default().to_owned();
            }
        }
    }
}
