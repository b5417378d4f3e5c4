//! The QEMU command line of a VM, and the same devices as QMP arguments for hot-plug.
//!
//! Every device is described once, as a JSON object that both `-device`/`-blockdev` and `device_add`/`blockdev-add`
//! accept.  Its QEMU id follows from vSphere's device key, so nothing has to be remembered about a running QEMU: a
//! restarted daemon finds every device again.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::spec::{Cdrom, Controller, ControllerModel, Disk, Nic, NicModel, Serial, VmSpec};
use crate::accel::Accelerator;

/// QEMU's machine.  Firmware reads its CD drives, which are on AHCI, several times as fast as those of the older machine, on
/// which a drive's bytes pass one by one; and its table of interrupts is a table, not a program that the kernel interprets for
/// each device, 0.1 s under TCG.
pub(crate) const MACHINE: &str = "q35";

/// The PCI bridge that NICs are behind: on the machine's own bus nothing can come or go while it runs.
const NICS: &str = "nics";

/// Where the files of a running VM are.
#[derive(Debug, Clone)]
pub(crate) struct RunFiles {
    /// QMP socket.
    pub qmp: PathBuf,
    /// Guest info socket.
    pub guestinfo: PathBuf,
    /// QEMU's own pid file.
    pub pid: PathBuf,
    /// The process, so that no other is taken for it.
    pub process: PathBuf,
    /// What QEMU prints.
    pub log: PathBuf,
    /// The hardware it was started with, as changed since.
    pub spec: PathBuf,
}

impl RunFiles {
    /// The files of VM `id` in the lab's run folder.
    pub(crate) fn of(run: &Path, id: &str) -> Self {
        let file = |suffix: &str| run.join(format!("{id}.{suffix}"));
        Self {
            qmp: file("qmp"),
            guestinfo: file("guestinfo"),
            pid: file("pid"),
            process: file("process"),
            log: file("log"),
            spec: file("spec"),
        }
    }

    /// Forgets a VM that is off.
    pub(crate) fn clear(&self) {
        for path in [&self.qmp, &self.guestinfo, &self.pid, &self.process, &self.spec] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// QEMU's id for the controller with vSphere's key `key`.
fn controller_id(key: i32) -> String {
    format!("scsi{key}")
}

/// QEMU's id for the device of a disk.
pub(crate) fn disk_id(key: i32) -> String {
    format!("disk{key}")
}

/// QEMU's name for the block node of a disk.
pub(crate) fn disk_node(key: i32) -> String {
    format!("disk{key}-image")
}

/// QEMU's id for a NIC.
pub(crate) fn nic_id(key: i32) -> String {
    format!("nic{key}")
}

/// QEMU's id for the host's end of a NIC.
pub(crate) fn nic_backend(key: i32) -> String {
    format!("nic{key}-tap")
}

/// QEMU's id for a CD-ROM drive.
pub(crate) fn cdrom_id(key: i32) -> String {
    format!("cdrom{key}")
}

/// The image of a disk.  A VMDK names its parent itself; QEMU opens the chain.
pub(crate) fn disk_image(disk: &Disk) -> Value {
    let node = disk_node(disk.key);
    json!({
        "driver": "vmdk",
        "node-name": node,
        "discard": "unmap",
        "file": { "driver": "file", "filename": disk.file },
    })
}

/// The SCSI target of a unit.  QEMU's paravirtual controller ends at target 63, where ESXi's ends at unit 64; no drive has
/// unit 7, which is the adapter's own on ESXi and a target like any other here.
fn target(unit: i32) -> i32 {
    if unit == 64 { 7 } else { unit }
}

/// The drive of a disk.
pub(crate) fn disk_device(disk: &Disk) -> Value {
    json!({
        "driver": "scsi-hd",
        "id": disk_id(disk.key),
        "drive": disk_node(disk.key),
        "bus": format!("{}.0", controller_id(disk.controller)),
        "scsi-id": target(disk.unit),
        "lun": 0,
        "vendor": "VMware",
        "product": "Virtual disk",
        "write-cache": "on",
        "serial": disk.serial,
    })
}

/// The host's end of a NIC.
pub(crate) fn nic_netdev(nic: &Nic) -> Value {
    json!({ "type": "tap", "id": nic_backend(nic.key), "ifname": nic.tap, "script": "no", "downscript": "no" })
}

/// The guest's end of a NIC.
pub(crate) fn nic_device(nic: &Nic) -> Value {
    let driver = match nic.model {
        NicModel::Vmxnet3 => "vmxnet3",
        NicModel::E1000 => "e1000-82545em",
        NicModel::E1000e => "e1000e",
    };
    // No boot ROM: firmware would spend seconds on asking the network for one.
    json!({
        "driver": driver,
        "id": nic_id(nic.key),
        "bus": NICS,
        "netdev": nic_backend(nic.key),
        "mac": nic.mac,
        "romfile": "",
    })
}

fn controller_device(controller: &Controller) -> Value {
    let driver = match controller.model {
        ControllerModel::Pvscsi => "pvscsi",
        ControllerModel::Lsi => "lsi53c895a",
        ControllerModel::LsiSas => "mptsas1068",
    };
    json!({ "driver": driver, "id": controller_id(controller.key) })
}

fn cdrom_args(args: &mut Vec<String>, index: usize, cdrom: &Cdrom) {
    let id = cdrom_id(cdrom.key);
    let mut device = json!({ "driver": "ide-cd", "id": id, "bus": format!("ide.{index}") });
    if let Some(iso) = &cdrom.iso {
        let node = format!("{id}-image");
        let image = json!({
            "driver": "raw", "node-name": node, "read-only": true,
            "file": { "driver": "file", "filename": iso, "read-only": true },
        });
        args.extend(["-blockdev".into(), image.to_string()]);
        device["drive"] = node.into();
        device["bootindex"] = json!(10 + index);
    }
    args.extend(["-device".into(), device.to_string()]);
}

/// The `-chardev` of a serial port.
fn serial_backend(id: &str, serial: &Serial) -> String {
    // A comma in a value is doubled for QEMU's option syntax.
    let text = |value: &str| value.replace(',', ",,");
    match serial {
        Serial::None => format!("null,id={id}"),
        Serial::File(path) => format!("file,id={id},append=on,path={}", text(&path.to_string_lossy())),
        Serial::Dial { host, port } => format!("socket,id={id},host={},port={port},server=off,reconnect=1", text(host)),
        Serial::Listen { host, port } => {
            format!("socket,id={id},host={},port={port},server=on,wait=off", text(host))
        }
    }
}

/// QEMU's arguments for `vm`.
pub(crate) fn command_line(vm: &VmSpec, accelerator: Accelerator, files: &RunFiles) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut push = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    push("-name", format!("guest={},debug-threads=off", vm.name.replace(',', ",,")));
    push("-machine", format!("{MACHINE},accel={},vmport=off,usb=off,dump-guest-core=off", accelerator.name()));
    push("-cpu", accelerator.cpu().into());
    push("-m", format!("{}M", vm.memory_mib));
    push("-smp", vm.cpus.to_string());
    push("-uuid", vm.uuid.clone());
    push("-boot", "strict=off,menu=off".into());
    push("-display", "none".into());
    push("-vga", "none".into());
    push("-qmp", format!("unix:{},server=on,wait=off", files.qmp.display()));
    push("-pidfile", files.pid.display().to_string());
    push("-rtc", "base=utc".into());
    args.extend(["-nodefaults", "-no-user-config", "-daemonize"].map(str::to_owned));
    for (index, serial) in vm.serials.iter().enumerate() {
        let id = format!("serial{index}");
        args.extend(["-chardev".into(), serial_backend(&id, serial)]);
        args.extend(["-device".into(), format!("isa-serial,chardev={id},index={index}")]);
    }
    args.extend([
        "-chardev".into(),
        format!("socket,id=guestinfo,path={},server=on,wait=off", files.guestinfo.display()),
    ]);
    args.extend(["-device".into(), "isa-serial,chardev=guestinfo,index=2".into()]);
    for (index, cdrom) in vm.cdroms.iter().enumerate() {
        cdrom_args(&mut args, index, cdrom);
    }
    args.extend(["-device".into(), format!("pci-bridge,id={NICS},bus=pcie.0,chassis_nr=1,shpc=off")]);
    for controller in &vm.controllers {
        args.extend(["-device".into(), controller_device(controller).to_string()]);
    }
    for (index, disk) in vm.disks.iter().enumerate() {
        args.extend(["-blockdev".into(), disk_image(disk).to_string()]);
        let mut device = disk_device(disk);
        device["bootindex"] = json!(20 + index);
        args.extend(["-device".into(), device.to_string()]);
    }
    for nic in &vm.nics {
        args.extend(["-netdev".into(), nic_netdev(nic).to_string()]);
        args.extend(["-device".into(), nic_device(nic).to_string()]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm() -> VmSpec {
        VmSpec {
            id: "vm-7".into(),
            name: "one, two".into(),
            uuid: "564d0000-0000-0000-0000-000000000000".into(),
            memory_mib: 256,
            cpus: 1,
            cdroms: vec![Cdrom { key: 3002, iso: Some("/iso/a.iso".into()) }, Cdrom { key: 3003, iso: None }],
            controllers: vec![Controller { key: 1000, model: ControllerModel::Pvscsi }],
            disks: vec![Disk {
                key: 2000,
                controller: 1000,
                unit: 3,
                file: "/ds/a b.vmdk".into(),
                serial: "6000c29".into(),
            }],
            nics: vec![],
            serials: [Serial::File("/ds/log,1".into()), Serial::None],
        }
    }

    #[test]
    fn names_with_commas_stay_one_value() {
        let args = command_line(&vm(), Accelerator::Tcg, &RunFiles::of(Path::new("/run/lab"), "vm-7"));
        assert!(args.contains(&"guest=one,, two,debug-threads=off".to_owned()));
        assert!(args.contains(&"file,id=serial0,append=on,path=/ds/log,,1".to_owned()));
        assert!(args.contains(&"null,id=serial1".to_owned()));
    }

    #[test]
    fn the_third_serial_port_is_the_guest_info_channel() {
        let args = command_line(&vm(), Accelerator::Tcg, &RunFiles::of(Path::new("/run/lab"), "vm-7"));
        let ports: Vec<_> = args.iter().filter(|a| a.starts_with("isa-serial")).collect();
        assert_eq!(ports[2], "isa-serial,chardev=guestinfo,index=2");
    }

    #[test]
    fn ids_follow_from_device_keys() {
        let device = disk_device(&vm().disks[0]);
        assert_eq!(device["id"], "disk2000");
        assert_eq!(device["bus"], "scsi1000.0");
        assert_eq!(device["scsi-id"], 3);
    }
}
