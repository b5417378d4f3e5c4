//! [`Container`]: what a containerVM is to be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use secret::Secret;
use serde::{Deserialize, Serialize};
use vch_config::Document;

/// What a containerVM is to be.  Images, defaults and Docker's own rules are resolved by who writes it, save for what stands in
/// the image's files: users, groups and the program's path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// [`vch_config::SCHEMA`] of the writer.
    pub schema: u32,
    /// The container's identity.
    pub id: String,
    /// The process to run.
    pub process: Process,
    /// The disk with the root file system.
    pub root: Disk,
    /// Whether the root file system is read-only.
    #[serde(default)]
    pub root_read_only: bool,
    /// Folders that are made where the image has none: volumes that are kept on the container's own disk.
    #[serde(default)]
    pub folders: Vec<String>,
    /// Volumes, in the order in which to mount them.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// File systems in memory, mounted after the volumes.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    /// Size of /dev/shm in bytes; 0 means Docker's default, 64 MiB.
    #[serde(default)]
    pub shm_bytes: u64,
    /// Host name, without domain.
    #[serde(default)]
    pub host_name: String,
    /// Domain; empty for none.
    #[serde(default)]
    pub domain_name: String,
    /// Further lines of /etc/hosts: address and name.
    #[serde(default)]
    pub extra_hosts: Vec<(IpAddr, String)>,
    /// /etc/resolv.conf.
    #[serde(default)]
    pub dns: Dns,
    /// Network interfaces.
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// The control channel; none for a container that is not to have one.
    #[serde(default)]
    pub control: Option<Control>,
}

/// The way to the endpoint VM, and who this container is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The endpoint's address; a link-local one is on the link of the first of the container's interfaces.
    pub address: Ipv6Addr,
    /// TCP port.
    pub port: u16,
    /// The CA that the endpoint's certificate must chain to, PEM.
    pub ca_pem: String,
    /// The container's certificate, PEM.
    pub cert_pem: String,
    /// The certificate's private key, PEM.
    #[serde(serialize_with = "secret::expose")]
    pub key_pem: Secret,
}

/// A process, in Docker's terms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Program and arguments: entry point and command.  A program without a slash is looked for in PATH.
    pub args: Vec<String>,
    /// `NAME=VALUE`; what Docker adds (PATH, HOME, HOSTNAME, TERM) is added in the guest.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory, made if it is not there; empty means `/`.
    #[serde(default)]
    pub cwd: String,
    /// `USER[:GROUP]`, each a name of the image or a number; empty means root.
    #[serde(default)]
    pub user: String,
    /// Further groups (`--group-add`), names or numbers.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether it has a terminal instead of pipes.
    #[serde(default)]
    pub tty: bool,
    /// Whether it has standard input.
    #[serde(default)]
    pub stdin: bool,
    /// Whether its standard input ends when the first client that is attached to it has no more.
    #[serde(default)]
    pub stdin_once: bool,
    /// Limits that differ from the guest's own.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// The signal that asks it to end, by name or number; empty means SIGTERM.
    #[serde(default)]
    pub stop_signal: String,
    /// Seconds that it has to end; absent means Docker's default, 10.
    #[serde(default)]
    pub stop_seconds: Option<u64>,
}

/// One limit (`--ulimit`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Docker's name of it: `nofile`, `nproc`, ...
    pub name: String,
    /// Soft limit; absent means none.
    pub soft: Option<u64>,
    /// Hard limit; absent means none.
    pub hard: Option<u64>,
}

/// A disk of the VM, by its place on the first SCSI controller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Unit number on the controller.
    pub unit: u32,
    /// File system on it; empty means ext4.
    #[serde(default)]
    pub file_system: String,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its disk.
    pub disk: Disk,
    /// Where it is mounted in the container.
    pub at: String,
    /// Whether it is read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// A file system in memory (`--tmpfs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Where it is mounted in the container.
    pub at: String,
    /// Options of tmpfs: `size=64m,mode=1777`.
    #[serde(default)]
    pub options: String,
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers.
    #[serde(default)]
    pub servers: Vec<IpAddr>,
    /// Search domains.
    #[serde(default)]
    pub search: Vec<String>,
    /// Options.
    #[serde(default)]
    pub options: Vec<String>,
}

/// A network interface with addresses that are given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// MAC address, lower-case with colons; how the guest finds it.
    pub mac: String,
    /// Its name in the container: `eth0`.
    pub name: String,
    /// `address/prefix`; empty for none.
    #[serde(default)]
    pub address: String,
    /// Next hop of the default route; absent on all interfaces but one.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
}

impl Document for Container {
    const NAME: &'static str = "the container's configuration (guestinfo.vic.container)";
    fn schema(&self) -> u32 {
        self.schema
    }
}
