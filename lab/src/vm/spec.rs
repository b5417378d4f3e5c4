//! What a VM is made of, as far as QEMU is concerned: the bridge between vSphere's devices and QEMU's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The hardware of one VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct VmSpec {
    /// Managed object id; names files and processes.
    pub id: String,
    /// The VM's name, for messages and `ps`.
    pub name: String,
    /// BIOS UUID.
    pub uuid: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Number of CPUs.
    pub cpus: u32,
    /// CD-ROM drives: device key and ISO, if one is in.
    pub cdroms: Vec<Cdrom>,
    /// SCSI controllers.
    pub controllers: Vec<Controller>,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Network adapters, in the order of their slots.
    pub nics: Vec<Nic>,
    /// What `ttyS0` and `ttyS1` are connected to; `ttyS2` is always the guest info channel.
    pub serials: [Serial; 2],
}

/// A CD-ROM drive on IDE.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cdrom {
    /// vSphere's device key.
    pub key: i32,
    /// The ISO in the drive, if one is in and connected.
    pub iso: Option<PathBuf>,
}

/// A SCSI controller's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ControllerModel {
    /// VMware's paravirtual SCSI.
    Pvscsi,
    /// LSI Logic parallel.
    Lsi,
    /// LSI Logic SAS.
    LsiSas,
}

/// A SCSI controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Controller {
    /// vSphere's device key.
    pub key: i32,
    /// Its model.
    pub model: ControllerModel,
}

/// A disk on a SCSI controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// vSphere's device key.
    pub key: i32,
    /// The key of its controller.
    pub controller: i32,
    /// Unit number on the controller.
    pub unit: i32,
    /// Its VMDK.
    pub file: PathBuf,
    /// The serial number that the guest reads; at most 36 letters.
    pub serial: String,
}

/// A network adapter's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum NicModel {
    /// VMware's paravirtual adapter.
    Vmxnet3,
    /// Intel 82545EM.
    E1000,
    /// Intel 82574L.
    E1000e,
}

/// A network adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nic {
    /// vSphere's device key.
    pub key: i32,
    /// Its model.
    pub model: NicModel,
    /// MAC address.
    pub mac: String,
    /// Its tap inside the lab's namespace.
    pub tap: String,
    /// The bridge that the tap is on.
    pub bridge: String,
    /// Whether the cable is plugged in.
    pub connected: bool,
}

/// What a serial port is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Serial {
    /// Nothing: the port is there, and silent.
    #[default]
    None,
    /// A file that output is appended to.
    File(PathBuf),
    /// A TCP service inside the lab's networks that is dialled, again and again.
    Dial {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// A TCP port on the lab's own address that others dial.
    Listen {
        /// Address to listen on.
        host: String,
        /// TCP port.
        port: u16,
    },
}
