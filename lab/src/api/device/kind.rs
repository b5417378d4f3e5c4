//! What a device is, and the devices that every VM has.

use vim25_types::{
    AnyDescription, AnyVirtualDevice as Device, AnyVirtualDeviceBackingInfo as Backing, Description, VirtualController,
    VirtualDeviceConnectInfo, VirtualDiskFlatVer2BackingInfo, VirtualEthernetCard, VirtualIDEController,
    VirtualKeyboard, VirtualMachineVMCIDevice, VirtualMachineVideoCard, VirtualPCIController, VirtualPS2Controller,
    VirtualPointingDevice, VirtualSIOController,
};

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

pub(super) fn card_mut(device: &mut Device) -> Option<&mut VirtualEthernetCard> {
    match device {
        Device::VirtualEthernetCard(card) => Some(card),
        Device::VirtualVmxnet(card) => Some(card),
        Device::VirtualVmxnet3(card) => Some(card),
        Device::VirtualE1000(card) => Some(card),
        _ => None,
    }
}

pub(super) fn controller(device: &Device) -> Option<&VirtualController> {
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

pub(super) fn controller_mut(device: &mut Device) -> Option<&mut VirtualController> {
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

pub(in crate::api) fn is_scsi(device: &Device) -> bool {
    matches!(device, Device::ParaVirtualSCSIController(_) | Device::VirtualLsiLogicController(_))
}

/// The disk's file.
pub(in crate::api) fn disk_backing(device: &Device) -> Option<&VirtualDiskFlatVer2BackingInfo> {
    match &device.backing {
        Some(Backing::VirtualDiskFlatVer2BackingInfo(backing)) => Some(backing),
        _ => None,
    }
}

pub(super) fn label(text: String, summary: &str) -> Option<AnyDescription> {
    Some(Description { label: text, summary: summary.into() }.into())
}

/// The devices that every VM has.
pub(in crate::api) fn defaults() -> Vec<Device> {
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
pub(super) fn list_children(devices: &mut [Device]) {
    let on: Vec<(i32, i32)> = devices.iter().filter_map(|d| Some((d.controller_key?, d.key))).collect();
    for device in devices {
        let key = device.key;
        if let Some(controller) = controller_mut(device) {
            controller.device = on.iter().filter(|(c, _)| *c == key).map(|(_, k)| *k).collect();
        }
    }
}

pub(super) fn connectable(device: &mut Device, on: bool) {
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
