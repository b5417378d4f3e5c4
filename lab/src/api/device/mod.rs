//! Device changes: from a VM's devices and a list of changes to the devices that it has then.
//!
//! [`plan`] is a pure function: what must be done to files and to a running QEMU follows from its result.  Keys, units
//! and buses are given out as ESXi does; what ESXi refuses is refused.

mod connected;
mod disk;
mod kind;

use std::collections::HashMap;

use vim25_types::soap::Fault;
use vim25_types::{
    AnyVirtualDevice as Device, ParaVirtualSCSIController, TooManyDevices, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecFileOperation as FileOperation, VirtualDeviceConfigSpecOperation as Operation,
    VirtualMachinePowerState,
};

use super::fault;
use crate::world::{DatastorePath, World};
use connected::is_mac;
#[cfg(test)]
pub(super) use disk::{PVSCSI_DISKS, SCSI_DISKS};
use kind::is_scsi;
pub(crate) use kind::{card, is_nic};
use kind::{card_mut, controller, controller_mut, label, list_children};
pub(super) use kind::{defaults, disk_backing};

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

    fn datastore_path(&self, text: &str) -> Result<DatastorePath, Fault> {
        let path: DatastorePath = text.parse().map_err(|()| fault::datastore_path(text))?;
        match self.env.world.datastore_named(&path.datastore) {
            Some(_) => Ok(path),
            None => Err(fault::datastore_path(text)),
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
            // Connected or not; what it is connected to stays.
            Device::VirtualSerialPort(_) if new.backing.is_none() || new.backing == device.backing => {}
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
            self.bind_port(index, &mut device)?;
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
