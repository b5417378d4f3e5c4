//! CD-ROM drives, serial ports, network adapters: devices that are connected to something.

use std::collections::BTreeSet;

use vim25_types::soap::Fault;
use vim25_types::{AnyVirtualDevice as Device, AnyVirtualDeviceBackingInfo as Backing, TooManyDevices};

use super::Planner;
use super::kind::{card_mut, connectable, is_nic, label};
use crate::api::fault;
use crate::world::{DatastorePath, VmObject};

/// Serial ports that a VM may have; the third port of the machine is the lab's guest info channel.
const MAX_SERIAL: usize = 2;
/// Network adapters that a VM may have.
const MAX_NICS: usize = 10;

impl Planner<'_> {
    pub(super) fn add_cdrom(&mut self, index: usize, device: &mut Device) -> Result<(), Fault> {
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

    pub(super) fn add_serial(&mut self, index: usize, device: &mut Device) -> Result<(), Fault> {
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

    pub(super) fn add_nic(&mut self, index: usize, device: &mut Device) -> Result<(), Fault> {
        let count = self.plan.devices.iter().filter(|d| is_nic(d)).count();
        if count == MAX_NICS {
            return Err(Fault::new(TooManyDevices::default(), "A VM has no room for another network adapter."));
        }
        self.check_backing(index, device)?;
        self.bind_port(index, device)?;
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

    /// Connects a card to a port of its distributed port group: the one that is asked for, or a free one.
    pub(super) fn bind_port(&self, index: usize, device: &mut Device) -> Result<(), Fault> {
        let port_of = |device: &Device| match &device.backing {
            Some(Backing::VirtualEthernetCardDistributedVirtualPortBackingInfo(backing)) => {
                backing.port.port_key.clone()
            }
            _ => None,
        };
        let key = device.key;
        let own = self.plan.devices.iter().filter(|d| d.key != key).filter_map(port_of);
        let is_own = |vm: &VmObject| vm.vmx().parse().is_ok_and(|vmx: DatastorePath| vmx.parent() == *self.env.folder);
        let others = self.env.world.vms().filter(|(_, vm)| !is_own(vm));
        let others = others.flat_map(|(_, vm)| vm.devices().iter().filter_map(port_of));
        let taken: BTreeSet<String> = others.chain(own).collect();
        let Some(Backing::VirtualEthernetCardDistributedVirtualPortBackingInfo(backing)) = &mut device.backing else {
            return Ok(());
        };
        let asked = backing.port.port_key.as_ref().filter(|port| !port.is_empty());
        if asked.is_some_and(|port| taken.contains(port)) {
            return Err(fault::device(index, "the port of the distributed switch is another card's"));
        }
        if asked.is_none() {
            backing.port.port_key = (0..).map(|n: u32| n.to_string()).find(|port| !taken.contains(port));
        }
        backing.port.connection_cookie.get_or_insert(1);
        Ok(())
    }

    /// Whether what the device is connected to exists.
    pub(super) fn check_backing(&self, index: usize, device: &Device) -> Result<(), Fault> {
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
}

pub(super) fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.chars().all(|c| c.is_ascii_hexdigit()))
}

/// A MAC address of the range that vCenter gives out.
fn fresh_mac() -> String {
    let random = *uuid::Uuid::new_v4().as_bytes();
    format!("00:50:56:{:02x}:{:02x}:{:02x}", 0x80 | (random[0] & 0x3f), random[1], random[2])
}
