//! Device changes: from a VM's devices and a list of changes to the devices that it has then.
//!
//! [`plan`] is a pure function: what must be done to files and to a running QEMU follows from its result.  Keys, units
//! and buses are given out as ESXi does; what ESXi refuses is refused.

use std::collections::HashMap;

use vim25_types::soap::Fault;
use vim25_types::{
    AnyDescription, AnyVirtualDevice as Device, AnyVirtualDeviceBackingInfo as Backing, Description,
    ParaVirtualSCSIController, TooManyDevices, VirtualController, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecFileOperation as FileOperation, VirtualDeviceConfigSpecOperation as Operation,
    VirtualDeviceConnectInfo, VirtualDisk, VirtualDiskFlatVer2BackingInfo, VirtualEthernetCard, VirtualIDEController,
    VirtualKeyboard, VirtualMachinePowerState, VirtualMachineVMCIDevice, VirtualMachineVideoCard, VirtualPCIController,
    VirtualPS2Controller, VirtualPointingDevice, VirtualSIOController,
};

use super::disk::Image;
use super::fault;
use crate::world::{DatastorePath, World};

/// Serial ports that a VM may have; the third port of the machine is the lab's guest info channel.
const MAX_SERIAL: usize = 2;

/// Disks on one paravirtual SCSI controller: units 0 to 64, of which the adapter itself has 7.
pub(super) const PVSCSI_DISKS: usize = 64;

/// Disks on one of the other SCSI controllers.
pub(super) const SCSI_DISKS: usize = 15;

/// Network adapters that a VM may have.
const MAX_NICS: usize = 10;

/// What the plan may ask about.
pub(super) struct Env<'a> {
    pub(super) world: &'a World,
    /// The VM's name, which its new disks are named after.
    pub(super) name: &'a str,
    /// The VM's folder.
    pub(super) folder: &'a DatastorePath,
    /// Whether it is powered on.
    pub(super) on: bool,
}

/// A disk to be made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NewDisk {
    pub(super) path: DatastorePath,
    pub(super) capacity: i64,
    pub(super) parent: Option<DatastorePath>,
}

/// What becomes of the devices.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) devices: Vec<Device>,
    pub(super) create: Vec<NewDisk>,
    pub(super) destroy: Vec<DatastorePath>,
}

/// Whether it is a network adapter.
pub(crate) fn is_nic(device: &Device) -> bool {
    card(device).is_some()
}

/// The network adapter's part of a device.
pub(crate) fn card(device: &Device) -> Option<&VirtualEthernetCard> {
    match device {
        Device::VirtualEthernetCard(card) => Some(card),
        Device::VirtualVmxnet(card) => Some(card),
        Device::VirtualVmxnet3(card) => Some(card),
        Device::VirtualE1000(card) => Some(card),
        _ => None,
    }
}

fn card_mut(device: &mut Device) -> Option<&mut VirtualEthernetCard> {
    match device {
        Device::VirtualEthernetCard(card) => Some(card),
        Device::VirtualVmxnet(card) => Some(card),
        Device::VirtualVmxnet3(card) => Some(card),
        Device::VirtualE1000(card) => Some(card),
        _ => None,
    }
}

fn controller(device: &Device) -> Option<&VirtualController> {
    match device {
        Device::VirtualController(c) => Some(c),
        Device::VirtualIDEController(c) => Some(c),
        Device::VirtualPCIController(c) => Some(c),
        Device::VirtualPS2Controller(c) => Some(c),
        Device::VirtualSIOController(c) => Some(c),
        Device::VirtualSCSIController(c) => Some(c),
        Device::ParaVirtualSCSIController(c) => Some(c),
        Device::VirtualLsiLogicController(c) => Some(c),
        _ => None,
    }
}

fn controller_mut(device: &mut Device) -> Option<&mut VirtualController> {
    match device {
        Device::VirtualController(c) => Some(c),
        Device::VirtualIDEController(c) => Some(c),
        Device::VirtualPCIController(c) => Some(c),
        Device::VirtualPS2Controller(c) => Some(c),
        Device::VirtualSIOController(c) => Some(c),
        Device::VirtualSCSIController(c) => Some(c),
        Device::ParaVirtualSCSIController(c) => Some(c),
        Device::VirtualLsiLogicController(c) => Some(c),
        _ => None,
    }
}

pub(super) fn is_scsi(device: &Device) -> bool {
    matches!(device, Device::ParaVirtualSCSIController(_) | Device::VirtualLsiLogicController(_))
}

/// The disk's file.
pub(super) fn disk_backing(device: &Device) -> Option<&VirtualDiskFlatVer2BackingInfo> {
    match &device.backing {
        Some(Backing::VirtualDiskFlatVer2BackingInfo(backing)) => Some(backing),
        _ => None,
    }
}

fn label(text: String, summary: &str) -> Option<AnyDescription> {
    Some(Description { label: text, summary: summary.into() }.into())
}

/// The devices that every VM has.
pub(super) fn defaults() -> Vec<Device> {
    let mut all: Vec<Device> = Vec::new();
    for bus in 0..2 {
        let mut ide = VirtualIDEController::default();
        (ide.key, ide.bus_number, ide.device_info) = (200 + bus, bus, label(format!("IDE {bus}"), "IDE controller"));
        all.push(ide.into());
    }
    let mut ps2 = VirtualPS2Controller::default();
    (ps2.key, ps2.device_info) = (300, label("PS2 controller 0".into(), "PS2 controller"));
    all.push(ps2.into());
    let mut pci = VirtualPCIController::default();
    (pci.key, pci.device_info) = (100, label("PCI controller 0".into(), "PCI controller"));
    all.push(pci.into());
    let mut sio = VirtualSIOController::default();
    (sio.key, sio.device_info) = (400, label("SIO controller 0".into(), "SIO controller"));
    all.push(sio.into());
    let mut keyboard = VirtualKeyboard::default();
    (keyboard.key, keyboard.device_info) = (600, label("Keyboard".into(), "Keyboard"));
    (keyboard.controller_key, keyboard.unit_number) = (Some(300), Some(0));
    all.push(keyboard.into());
    let mut pointer = VirtualPointingDevice::default();
    (pointer.key, pointer.device_info) = (700, label("Pointing device".into(), "Pointing device; Device"));
    (pointer.controller_key, pointer.unit_number) = (Some(300), Some(1));
    all.push(pointer.into());
    let mut video = VirtualMachineVideoCard { video_ram_size_in_kb: Some(4096), ..Default::default() };
    (video.key, video.device_info) = (500, label("Video card".into(), "Video card"));
    (video.controller_key, video.unit_number) = (Some(100), Some(0));
    all.push(video.into());
    let mut vmci = VirtualMachineVMCIDevice::default();
    (vmci.key, vmci.device_info) = (12000, label("VMCI device".into(), "Virtual machine communication interface"));
    (vmci.controller_key, vmci.unit_number) = (Some(100), Some(17));
    all.push(vmci.into());
    list_children(&mut all);
    all
}

/// Controllers list the keys of the devices on them.
fn list_children(devices: &mut [Device]) {
    let on: Vec<(i32, i32)> = devices.iter().filter_map(|d| Some((d.controller_key?, d.key))).collect();
    for device in devices {
        let key = device.key;
        if let Some(controller) = controller_mut(device) {
            controller.device = on.iter().filter(|(c, _)| *c == key).map(|(_, k)| *k).collect();
        }
    }
}

/// Applies changes, one after the other.
pub(super) fn plan(old: &[Device], changes: &[VirtualDeviceConfigSpec], env: &Env<'_>) -> Result<Plan, Fault> {
    let mut planner = Planner { plan: Plan { devices: old.to_vec(), ..Plan::default() }, keys: HashMap::new(), env };
    for (index, change) in changes.iter().enumerate() {
        match change.operation.as_ref().unwrap_or(&Operation::Edit) {
            Operation::Add => planner.add(index, change)?,
            Operation::Remove => planner.remove(index, change)?,
            Operation::Edit => planner.edit(index, change)?,
            Operation::Other(other) => return Err(fault::device(index, other)),
        }
    }
    list_children(&mut planner.plan.devices);
    Ok(planner.plan)
}

struct Planner<'a> {
    plan: Plan,
    /// Keys that the changes used for new devices, and those that they got.
    keys: HashMap<i32, i32>,
    env: &'a Env<'a>,
}

impl Planner<'_> {
    fn find(&self, key: i32) -> Option<&Device> {
        self.plan.devices.iter().find(|d| d.key == key)
    }

    fn only_off(&self) -> Result<(), Fault> {
        let on = VirtualMachinePowerState::PoweredOn;
        if self.env.on { Err(fault::power_state(on, Some(VirtualMachinePowerState::PoweredOff))) } else { Ok(()) }
    }

    fn free_key(&self, base: i32) -> i32 {
        (base..).find(|&k| self.find(k).is_none()).unwrap_or(base)
    }

    fn add(&mut self, index: usize, change: &VirtualDeviceConfigSpec) -> Result<(), Fault> {
        let mut device = change.device.clone();
        let asked = device.key;
        // A key that a device has already is not taken for a new one: ESXi gives another.
        if controller(&device).is_some() {
            if self.add_controller(index, &mut device)? {
                self.plan.devices.push(device.clone());
            }
        } else {
            let key = device.controller_key.map(|k| *self.keys.get(&k).unwrap_or(&k));
            device.controller_key = key;
            let nic = is_nic(&device);
            match &mut device {
                Device::VirtualDisk(disk) => self.add_disk(index, disk, change.file_operation.as_ref())?,
                Device::VirtualCdrom(_) => self.add_cdrom(index, &mut device)?,
                Device::VirtualSerialPort(_) => self.add_serial(index, &mut device)?,
                _ if nic => self.add_nic(index, &mut device)?,
                other => {
                    let kind = vim25_types::Value::type_name(other).to_owned();
                    return Err(fault::device(index, &format!("the lab has no {kind}")));
                }
            }
            self.plan.devices.push(device.clone());
        }
        self.keys.insert(asked, device.key);
        Ok(())
    }

    /// Whether it is a new one: the buses that every VM has are there already.
    fn add_controller(&mut self, index: usize, device: &mut Device) -> Result<bool, Fault> {
        let bus = controller(device).map_or(0, |c| c.bus_number);
        let built_in = match device {
            Device::VirtualIDEController(_) if (0..2).contains(&bus) => Some(200 + bus),
            Device::VirtualPCIController(_) if bus == 0 => Some(100),
            Device::VirtualPS2Controller(_) if bus == 0 => Some(300),
            Device::VirtualSIOController(_) if bus == 0 => Some(400),
            _ => None,
        };
        if let Some(key) = built_in {
            device.key = key;
            return Ok(false);
        }
        if !is_scsi(device) {
            return Err(fault::device(index, "no such controller"));
        }
        self.only_off()?;
        let taken: Vec<i32> = self.plan.devices.iter().filter(|d| is_scsi(d)).map(|d| d.key - 1000).collect();
        let bus = if taken.contains(&bus) || !(0..4).contains(&bus) {
            (0..4).find(|b| !taken.contains(b))
        } else {
            Some(bus)
        };
        let bus = bus.ok_or_else(|| Fault::new(TooManyDevices::default(), "There are too many SCSI controllers."))?;
        device.key = 1000 + bus;
        device.controller_key = Some(100);
        device.unit_number = Some(3 + bus);
        device.device_info = label(format!("SCSI controller {bus}"), "VMware paravirtual SCSI");
        if let Some(controller) = controller_mut(device) {
            controller.bus_number = bus;
        }
        if let Device::ParaVirtualSCSIController(ParaVirtualSCSIController { base }) = device {
            base.hot_add_remove = Some(true);
            base.scsi_ctlr_unit_number = Some(7);
        }
        Ok(true)
    }

    /// A unit of the controller: the one that is asked for, or the first that is free.
    fn unit(&self, index: usize, key: i32, asked: Option<i32>, units: &[i32]) -> Result<i32, Fault> {
        let taken =
            |unit: i32| self.plan.devices.iter().any(|d| d.controller_key == Some(key) && d.unit_number == Some(unit));
        match asked.filter(|&u| u >= 0) {
            Some(unit) if !units.contains(&unit) => Err(fault::device(index, &format!("there is no unit {unit}"))),
            Some(unit) if taken(unit) => Err(fault::device(index, &format!("unit {unit} is taken"))),
            Some(unit) => Ok(unit),
            None => {
                units.iter().copied().find(|&u| !taken(u)).ok_or_else(|| {
                    Fault::new(TooManyDevices::default(), "The controller has no room for another device.")
                })
            }
        }
    }

    fn add_disk(
        &mut self,
        index: usize,
        disk: &mut VirtualDisk,
        operation: Option<&FileOperation>,
    ) -> Result<(), Fault> {
        let missing = || fault::device(index, "a disk needs a SCSI controller");
        let key = disk.controller_key.ok_or_else(missing)?;
        let bus = self.find(key).ok_or_else(missing)?;
        if !is_scsi(bus) {
            return Err(fault::device(index, "the lab has disks on SCSI controllers only"));
        }
        let room = if matches!(bus, Device::ParaVirtualSCSIController(_)) { PVSCSI_DISKS } else { SCSI_DISKS };
        let units: Vec<i32> = (0..).filter(|&u| u != 7).take(room).collect();
        disk.unit_number = Some(self.unit(index, key, disk.unit_number, &units)?);
        disk.key = self.free_key(2000 + (key - 1000) * 100);
        let number = self.plan.devices.iter().filter(|d| matches!(d, Device::VirtualDisk(_))).count() + 1;

        let Some(Backing::VirtualDiskFlatVer2BackingInfo(mut backing)) = disk.backing.take() else {
            return Err(fault::device(index, "a disk is a file (VirtualDiskFlatVer2BackingInfo)"));
        };
        let path = match operation {
            Some(FileOperation::Create) => self.create_disk(index, disk, &backing)?,
            None => self.attach_disk(index, disk, &backing)?,
            Some(other) => return Err(fault::device(index, &format!("fileOperation {}", other.as_str()))),
        };
        let taken = |d: &Device| disk_backing(d).is_some_and(|b| b.file_name == path.to_string());
        if self.plan.devices.iter().any(taken) {
            return Err(fault::device(index, "the VM has this disk already"));
        }
        if backing.disk_mode.is_empty() {
            backing.disk_mode = "persistent".into();
        }
        backing.file_name = path.to_string();
        backing.datastore = self.env.world.datastore_named(&path.datastore).map(|(e, _)| e.moref());
        backing.uuid = Some(super::disk::uuid(&path));
        backing.thin_provisioned = Some(true);
        backing.parent = match self.plan.create.last().filter(|new| new.path == path) {
            Some(new) => new.parent.as_ref().map(|p| Box::new(chain(self.env.world, p))),
            None => chain(self.env.world, &path).parent,
        };
        disk.backing = Some(backing.into());
        disk.capacity_in_kb = disk.capacity_in_bytes.unwrap_or_default() / 1024;
        disk.device_info = label(format!("Hard disk {number}"), &format!("{} KB", disk.capacity_in_kb));
        Ok(())
    }

    fn datastore_path(&self, text: &str) -> Result<DatastorePath, Fault> {
        let path: DatastorePath = text.parse().map_err(|()| fault::datastore_path(text))?;
        match self.env.world.datastore_named(&path.datastore) {
            Some(_) => Ok(path),
            None => Err(fault::datastore_path(text)),
        }
    }

    fn exists(&self, path: &DatastorePath) -> bool {
        self.env.world.file(&path.to_string()).is_some_and(|f| f.exists())
    }

    fn create_disk(
        &mut self,
        index: usize,
        disk: &mut VirtualDisk,
        backing: &VirtualDiskFlatVer2BackingInfo,
    ) -> Result<DatastorePath, Fault> {
        let given = match backing.file_name.trim() {
            "" => self.env.folder.clone(),
            text => self.datastore_path(text)?,
        };
        let taken = |p: &DatastorePath| self.exists(p) || self.plan.create.iter().any(|new| new.path == *p);
        let path = if given.path.is_empty() || backing.file_name.trim().is_empty() {
            let folder = if given.path.is_empty() && given.datastore != self.env.folder.datastore {
                given.join(self.env.name)
            } else {
                self.env.folder.clone()
            };
            let names = std::iter::once(String::new()).chain((1..).map(|n| format!("_{n}")));
            let mut paths = names.map(|suffix| folder.join(&format!("{}{suffix}.vmdk", self.env.name)));
            paths.find(|p| !taken(p)).ok_or_else(|| fault::device(index, "no name is free"))?
        } else {
            if taken(&given) {
                return Err(fault::file_exists(&given.to_string()));
            }
            given
        };
        let parent = match &backing.parent {
            None => None,
            Some(parent) => {
                let parent = self.datastore_path(&parent.file_name)?;
                if !self.exists(&parent) {
                    return Err(fault::file_not_found(&parent.to_string()));
                }
                Some(parent)
            }
        };
        let inherited =
            parent.as_ref().and_then(|p| Image::read(&self.env.world.file(&p.to_string())?)).map(|i| i.capacity);
        let asked = disk.capacity_in_bytes.filter(|&b| b > 0).unwrap_or(disk.capacity_in_kb * 1024);
        let capacity = if asked > 0 { asked } else { inherited.unwrap_or(0) };
        if capacity <= 0 || inherited.is_some_and(|i| capacity < i) {
            return Err(fault::device(index, "the capacity is not right"));
        }
        disk.capacity_in_bytes = Some(capacity);
        self.plan.create.push(NewDisk { path: path.clone(), capacity, parent });
        Ok(path)
    }

    fn attach_disk(
        &self,
        index: usize,
        disk: &mut VirtualDisk,
        backing: &VirtualDiskFlatVer2BackingInfo,
    ) -> Result<DatastorePath, Fault> {
        let path = self.datastore_path(&backing.file_name)?;
        let file = self.env.world.file(&path.to_string()).filter(|f| f.exists());
        let file = file.ok_or_else(|| fault::file_not_found(&path.to_string()))?;
        let image = Image::read(&file).ok_or_else(|| fault::device(index, &format!("{path} is not a virtual disk")))?;
        disk.capacity_in_bytes = Some(image.capacity);
        Ok(path)
    }

    fn add_cdrom(&mut self, index: usize, device: &mut Device) -> Result<(), Fault> {
        self.only_off()?;
        let key = device.controller_key.ok_or_else(|| fault::device(index, "a CD-ROM drive needs a controller"))?;
        if !matches!(self.find(key), Some(Device::VirtualIDEController(_))) {
            return Err(fault::device(index, "the lab has CD-ROM drives on IDE only"));
        }
        device.unit_number = Some(self.unit(index, key, device.unit_number, &[0, 1])?);
        device.key = self.free_key(3000 + (key - 200) * 2);
        let number = self.plan.devices.iter().filter(|d| matches!(d, Device::VirtualCdrom(_))).count() + 1;
        device.device_info = label(format!("CD/DVD drive {number}"), "CD/DVD drive");
        self.check_backing(index, device)?;
        connectable(device, self.env.on);
        Ok(())
    }

    fn add_serial(&mut self, index: usize, device: &mut Device) -> Result<(), Fault> {
        self.only_off()?;
        let count = self.plan.devices.iter().filter(|d| matches!(d, Device::VirtualSerialPort(_))).count();
        if count == MAX_SERIAL {
            let message = "A VM of the lab has two serial ports: the third is its guest info channel.";
            return Err(Fault::new(TooManyDevices::default(), message));
        }
        device.controller_key = Some(400);
        device.key = self.free_key(9000);
        device.unit_number = Some(i32::try_from(count).unwrap_or_default());
        device.device_info = label(format!("Serial port {}", count + 1), "Serial port");
        self.check_backing(index, device)?;
        connectable(device, self.env.on);
        Ok(())
    }

    fn add_nic(&mut self, index: usize, device: &mut Device) -> Result<(), Fault> {
        let count = self.plan.devices.iter().filter(|d| is_nic(d)).count();
        if count == MAX_NICS {
            return Err(Fault::new(TooManyDevices::default(), "A VM has no room for another network adapter."));
        }
        self.check_backing(index, device)?;
        device.controller_key = Some(100);
        device.unit_number = Some(self.unit(index, 100, None, &(7..17).collect::<Vec<_>>())?);
        device.key = self.free_key(4000);
        device.device_info = label(format!("Network adapter {}", count + 1), "Network adapter");
        connectable(device, self.env.on);
        if let Some(card) = card_mut(device) {
            let manual = card.address_type.as_deref().is_some_and(|t| t.eq_ignore_ascii_case("manual"));
            match card.mac_address.as_deref().filter(|m| manual && !m.is_empty()) {
                Some(mac) if !is_mac(mac) => return Err(fault::device(index, &format!("{mac} is not a MAC address"))),
                Some(mac) => card.mac_address = Some(mac.to_ascii_lowercase()),
                None => {
                    card.mac_address = Some(fresh_mac());
                    card.address_type = Some("assigned".into());
                }
            }
        }
        Ok(())
    }

    /// Whether what the device is connected to exists.
    fn check_backing(&self, index: usize, device: &Device) -> Result<(), Fault> {
        match &device.backing {
            _ if is_nic(device) => match self.env.world.network_of(device) {
                Some(network) => {
                    let switch_fits = match &device.backing {
                        Some(Backing::VirtualEthernetCardDistributedVirtualPortBackingInfo(backing)) => {
                            self.env.world.switch_uuid(network).as_deref() == Some(&*backing.port.switch_uuid)
                        }
                        // A distributed port group is not a network of the host.
                        _ => self.env.world.switch_uuid(network).is_none(),
                    };
                    if switch_fits { Ok(()) } else { Err(fault::device(index, "the port group is on another switch")) }
                }
                None => Err(fault::device(index, "there is no such network")),
            },
            Some(Backing::VirtualCdromIsoBackingInfo(backing)) => self.datastore_path(&backing.file_name).map(|_| ()),
            Some(Backing::VirtualSerialPortFileBackingInfo(backing)) => {
                self.datastore_path(&backing.file_name).map(|_| ())
            }
            Some(
                Backing::VirtualSerialPortURIBackingInfo(_)
                | Backing::VirtualCdromRemotePassthroughBackingInfo(_)
                | Backing::VirtualCdromAtapiBackingInfo(_),
            ) => Ok(()),
            None => Err(fault::device(index, "the device has no backing")),
            Some(other) => {
                let kind = vim25_types::Value::type_name(other).to_owned();
                Err(fault::device(index, &format!("the lab has no {kind}")))
            }
        }
    }

    fn remove(&mut self, index: usize, change: &VirtualDeviceConfigSpec) -> Result<(), Fault> {
        let at = self.plan.devices.iter().position(|d| d.key == change.device.key);
        let at = at.ok_or_else(|| {
            let key = change.device.key;
            let base = vim25_types::InvalidDeviceSpec {
                device_index: i32::try_from(index).unwrap_or_default(),
                ..Default::default()
            };
            let detail = vim25_types::DeviceNotFound { base };
            Fault::new(detail, format!("The VM has no device with key {key}."))
        })?;
        let device = &self.plan.devices[at];
        if !matches!(device, Device::VirtualDisk(_)) && !is_nic(device) {
            self.only_off()?;
        }
        let built_in = matches!(device.key, 100 | 200 | 201 | 300 | 400 | 500 | 600 | 700 | 12000);
        let in_use = self.plan.devices.iter().any(|d| d.controller_key == Some(device.key));
        if built_in || (controller(device).is_some() && in_use) {
            return Err(fault::device(index, "the device cannot be removed"));
        }
        if change.file_operation == Some(FileOperation::Destroy)
            && let Some(path) = disk_backing(device).and_then(|b| b.file_name.parse().ok())
        {
            self.plan.destroy.push(path);
        }
        self.plan.devices.remove(at);
        Ok(())
    }

    fn edit(&mut self, index: usize, change: &VirtualDeviceConfigSpec) -> Result<(), Fault> {
        let new = &change.device;
        let at = self.plan.devices.iter().position(|d| d.key == new.key);
        let at = at.ok_or_else(|| fault::device(index, &format!("the VM has no device with key {}", new.key)))?;
        let mut device = self.plan.devices[at].clone();
        if std::mem::discriminant(&device) != std::mem::discriminant(new) {
            return Err(fault::device(index, "the device is of another type"));
        }
        match &device {
            Device::VirtualCdrom(_) => {}
            _ if is_nic(&device) => {}
            Device::VirtualDisk(disk) => {
                let same = match (disk_backing(&device), disk_backing(new)) {
                    (Some(a), Some(b)) => a.file_name.parse::<DatastorePath>() == b.file_name.parse(),
                    (_, None) => true,
                    _ => false,
                };
                let size = match new {
                    Device::VirtualDisk(n) => n.capacity_in_kb == 0 || n.capacity_in_kb == disk.capacity_in_kb,
                    _ => false,
                };
                if !same || !size {
                    return Err(fault::device(index, "a disk of the lab keeps its file and its size"));
                }
                return Ok(());
            }
            _ => self.only_off()?,
        }
        if let Some(connect) = &new.connectable {
            device.connectable = Some(connect.clone());
        }
        if new.backing.is_some() {
            device.backing.clone_from(&new.backing);
            self.check_backing(index, &device)?;
        }
        if let (Some(card), Some(asked)) = (card_mut(&mut device), card(new))
            && let Some(mac) =
                asked.mac_address.as_ref().filter(|m| Some(*m) != card.mac_address.as_ref() && !m.is_empty())
        {
            self.only_off()?;
            if !is_mac(mac) {
                return Err(fault::device(index, &format!("{mac} is not a MAC address")));
            }
            card.mac_address = Some(mac.to_ascii_lowercase());
        }
        self.plan.devices[at] = device;
        Ok(())
    }
}

fn connectable(device: &mut Device, on: bool) {
    let connect = device.connectable.get_or_insert_with(|| VirtualDeviceConnectInfo {
        start_connected: true,
        allow_guest_control: true,
        connected: on,
        ..VirtualDeviceConnectInfo::default()
    });
    if !on {
        connect.connected = false;
    }
    connect.status.get_or_insert_with(|| "untried".into());
}

/// A disk's file and those that it is based on.
fn chain(world: &World, path: &DatastorePath) -> VirtualDiskFlatVer2BackingInfo {
    let mut backing = VirtualDiskFlatVer2BackingInfo { disk_mode: "persistent".into(), ..Default::default() };
    backing.file_name = path.to_string();
    backing.datastore = world.datastore_named(&path.datastore).map(|(e, _)| e.moref());
    backing.uuid = Some(super::disk::uuid(path));
    let parent = world.file(&path.to_string()).and_then(|f| Image::read(&f)).and_then(|i| i.parent);
    backing.parent = parent.and_then(|p| world.path_of(&p)).map(|p| Box::new(chain(world, &p)));
    backing
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit()))
}

/// A MAC address of the range that vCenter gives out.
fn fresh_mac() -> String {
    let random = *uuid::Uuid::new_v4().as_bytes();
    format!("00:50:56:{:02x}:{:02x}:{:02x}", 0x80 | (random[0] & 0x3f), random[1], random[2])
}
