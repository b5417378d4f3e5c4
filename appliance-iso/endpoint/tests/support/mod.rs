//! A virtual machine that boots the appliance, with the test in the place of vSphere.

mod certificates;
mod documents;
mod probe;

use std::{
    net::TcpListener,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

pub(crate) use certificates::Certificates;
pub(crate) use documents::config;
use guest_vm::{Guest, LIMIT};

/// MAC address of the guest's network card.
pub(crate) const MAC: &str = "00:50:56:00:00:01";

/// The ISO to boot: `VIC_APPLIANCE_ISO`, else the one that `./scripts/test` builds beside the binaries.
pub(crate) fn iso() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_vic-endpoint")).with_file_name("appliance.iso");
    let path = std::env::var_os("VIC_APPLIANCE_ISO").map_or(beside, PathBuf::from);
    assert!(path.exists(), "{} is missing: ./scripts/test lab builds it", path.display());
    path
}

/// A running endpoint VM.
pub(crate) struct Vch {
    guest: Guest,
    /// Port on 127.0.0.1 that leads to the guest's 2376.
    pub(crate) port: u16,
}

impl Deref for Vch {
    type Target = Guest;
    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl DerefMut for Vch {
    fn deref_mut(&mut self) -> &mut Guest {
        &mut self.guest
    }
}

impl Vch {
    /// Boots `iso`, with `keys` as the VM's extraConfig.
    pub(crate) fn boot(iso: &Path, keys: &[(&str, String)]) -> Self {
        // Free now; the race with others for it is lost so rarely that QEMU's own message will do.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let network = format!("user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:2376");
        let card = format!("vmxnet3,netdev=n,mac={MAC}");
        let options = ["-netdev".to_owned(), network, "-device".to_owned(), card];
        Self { guest: Guest::boot(iso, keys, None, &options), port }
    }

    /// Waits until the Docker API answers over mutual TLS; returns how long after power-on.
    pub(crate) fn wait_for_docker(&self, certificates: &Certificates) -> Duration {
        let tls = certificates.client_tls();
        // No answer can come before; and QEMU writes a complaint for every probe of a network card that is not up yet.
        self.wait("guestinfo.ip", "the guest's address", |ip| !ip.is_empty());
        loop {
            match probe::ping(self.port, &tls) {
                Ok(()) => return self.age(),
                Err(why) => assert!(self.age() < LIMIT, "no answer: {why}; console:\n{}", self.console()),
            }
        }
    }

    /// Runs the docker client against the guest.
    pub(crate) fn docker(&self, tls: &[&str], arguments: &[&str]) -> Output {
        Command::new("docker")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DOCKER_CONFIG", self.folder())
            .env("HOME", self.folder())
            .args(tls)
            .args(["-H", &format!("tcp://127.0.0.1:{}", self.port)])
            .args(arguments)
            .output()
            .expect("the docker client is not installed")
    }
}
