//! A VM's configuration: what a spec makes of it, and what QEMU needs of it.

use vim25_types::soap::Fault;
use vim25_types::{
    AnyVirtualDevice as Device, AnyVirtualDeviceBackingInfo as Backing, OptionValue, ResourceAllocationInfo,
    SharesInfo, SharesLevel, ToolsConfigInfo, VirtualHardware, VirtualMachineConfigInfo, VirtualMachineConfigSpec,
    VirtualMachineFileInfo, VirtualMachineFlagInfo, VirtualMachinePowerState,
};

use super::{device, fault};
use crate::vm::{Cdrom, Controller, ControllerModel, Disk, Nic, NicModel, Serial, VmSpec};
use crate::world::{DatastorePath, Object, VmObject, World, now};

/// Longest extraConfig value that the lab takes.
pub(super) const MAX_EXTRA: usize = 64 * 1024;

/// The configuration that a new VM starts from.
pub(super) fn blank(name: &str, vmx: &DatastorePath) -> VirtualMachineConfigInfo {
    let folder = format!("{}/", vmx.parent());
    VirtualMachineConfigInfo {
        name: name.into(),
        version: "vmx-19".into(),
        guest_id: "otherGuest64".into(),
        guest_full_name: "Other (64-bit)".into(),
        uuid: vmware_uuid(),
        instance_uuid: Some(uuid::Uuid::new_v4().to_string()),
        create_date: Some(now()),
        files: VirtualMachineFileInfo {
            vm_path_name: Some(vmx.to_string()),
            snapshot_directory: Some(folder.clone()),
            suspend_directory: Some(folder.clone()),
            log_directory: Some(folder),
            ..VirtualMachineFileInfo::default()
        },
        tools: Some(ToolsConfigInfo { tools_upgrade_policy: Some("manual".into()), ..ToolsConfigInfo::default() }),
        flags: VirtualMachineFlagInfo { enable_logging: Some(true), ..VirtualMachineFlagInfo::default() },
        hardware: VirtualHardware {
            num_cpu: 1,
            num_cores_per_socket: Some(1),
            memory_mb: 256,
            device: device::defaults(),
            ..VirtualHardware::default()
        },
        cpu_allocation: Some(unlimited(1000)),
        memory_allocation: Some(unlimited(2560)),
        firmware: Some("bios".into()),
        swap_placement: Some("inherit".into()),
        ..VirtualMachineConfigInfo::default()
    }
}

fn unlimited(shares: i32) -> ResourceAllocationInfo {
    ResourceAllocationInfo {
        reservation: Some(0),
        expandable_reservation: Some(false),
        limit: Some(-1),
        shares: Some(SharesInfo { shares, level: SharesLevel::Normal }),
        ..ResourceAllocationInfo::default()
    }
}

/// A BIOS UUID of the form that ESXi gives out.
fn vmware_uuid() -> String {
    let random = uuid::Uuid::new_v4().to_string();
    format!("564d{}", &random[4..])
}

/// Takes over what a spec says, devices, extraConfig and name apart.
pub(super) fn merge(
    config: &mut VirtualMachineConfigInfo,
    spec: &VirtualMachineConfigSpec,
    on: bool,
) -> Result<(), Fault> {
    let hot = |changes: bool| {
        let state = VirtualMachinePowerState::PoweredOn;
        if on && changes { Err(fault::power_state(state, Some(VirtualMachinePowerState::PoweredOff))) } else { Ok(()) }
    };
    if let Some(version) = &spec.change_version
        && *version != config.change_version
    {
        return Err(fault::concurrent_access("the configuration was changed by another client meanwhile"));
    }
    if let Some(cpus) = spec.num_cpus {
        hot(cpus != config.hardware.num_cpu)?;
        if !(1..=128).contains(&cpus) {
            return Err(fault::invalid_argument("configSpec.numCPUs", "it is 1 to 128"));
        }
        config.hardware.num_cpu = cpus;
    }
    if let Some(memory) = spec.memory_mb {
        let memory = i32::try_from(memory).ok().filter(|&m| m >= 4 && m % 4 == 0);
        let memory = memory.ok_or_else(|| fault::invalid_argument("configSpec.memoryMB", "it is a multiple of 4"))?;
        hot(memory != config.hardware.memory_mb)?;
        config.hardware.memory_mb = memory;
    }
    if let Some(uuid) = &spec.uuid {
        hot(*uuid != config.uuid)?;
        let parsed = uuid::Uuid::try_parse(uuid);
        config.uuid = parsed.map_err(|_| fault::invalid_argument("configSpec.uuid", uuid))?.to_string();
    }
    if spec.firmware.as_deref().is_some_and(|f| f != "bios") {
        return Err(fault::invalid_argument("configSpec.firmware", "the lab's VMs have a BIOS"));
    }
    if spec.v_app_config.is_some() {
        return Err(fault::not_supported("vAppConfig of a virtual machine"));
    }
    set(&mut config.guest_id, &spec.guest_id);
    set(&mut config.version, &spec.version);
    set(&mut config.alternate_guest_name, &spec.alternate_guest_name);
    if let Some(name) = spec.alternate_guest_name.as_ref().filter(|n| !n.is_empty()) {
        config.guest_full_name.clone_from(name);
    }
    set_some(&mut config.instance_uuid, &spec.instance_uuid);
    set_some(&mut config.annotation, &spec.annotation);
    set_some(&mut config.tools, &spec.tools);
    set_some(&mut config.hardware.num_cores_per_socket, &spec.num_cores_per_socket);
    set_some(&mut config.memory_hot_add_enabled, &spec.memory_hot_add_enabled);
    set_some(&mut config.cpu_hot_add_enabled, &spec.cpu_hot_add_enabled);
    set_some(&mut config.boot_options, &spec.boot_options);
    set_some(&mut config.managed_by, &spec.managed_by);
    if config.managed_by.as_ref().is_some_and(|m| m.extension_key.is_empty()) {
        config.managed_by = None;
    }
    if let Some(flags) = &spec.flags {
        set_some(&mut config.flags.disk_uuid_enabled, &flags.disk_uuid_enabled);
        set_some(&mut config.flags.enable_logging, &flags.enable_logging);
    }
    for (kept, given) in
        [(&mut config.cpu_allocation, &spec.cpu_allocation), (&mut config.memory_allocation, &spec.memory_allocation)]
    {
        if let (Some(kept), Some(given)) = (kept, given) {
            set_some(&mut kept.reservation, &given.reservation);
            set_some(&mut kept.limit, &given.limit);
            set_some(&mut kept.shares, &given.shares);
        }
    }
    check_extra(&spec.extra_config)
}

fn set<T: Clone>(kept: &mut T, given: &Option<T>) {
    if let Some(value) = given {
        kept.clone_from(value);
    }
}

fn set_some<T: Clone>(kept: &mut Option<T>, given: &Option<T>) {
    if given.is_some() {
        kept.clone_from(given);
    }
}

fn check_extra(options: &[OptionValue]) -> Result<(), Fault> {
    for option in options {
        if option.key.is_empty() || option.key.len() > 256 {
            return Err(fault::invalid_argument("configSpec.extraConfig.key", &option.key));
        }
        if option.value.as_ref().is_some_and(|v| v.element().text.len() > MAX_EXTRA) {
            let reason = format!("the value of {} is longer than {MAX_EXTRA} bytes", option.key);
            return Err(fault::invalid_argument("configSpec.extraConfig.value", &reason));
        }
    }
    Ok(())
}

/// Takes over the extraConfig of a spec and marks the configuration as changed.
pub(super) fn finish(vm: &mut VmObject, options: &[OptionValue]) {
    for option in options {
        let value = option.value.as_ref().map(|v| v.element().text.clone()).unwrap_or_default();
        vm.set_extra_now(&option.key, &value, false);
    }
    vm.config.modified = now();
    vm.config.change_version = now().0;
}

/// The name of the tap of a VM's NIC; a link's name may have 15 letters.
fn tap(id: &str, key: i32) -> String {
    let number: String = id.chars().filter(char::is_ascii_digit).collect();
    format!("t{number}n{}", key - 4000)
}

/// A network adapter as QEMU needs it.
pub(super) fn nic(world: &World, id: &str, device: &Device) -> Result<Nic, Fault> {
    let card = device::card(device).ok_or_else(|| fault::device(0, "it is no network adapter"))?;
    let network = world.network_of(device).ok_or_else(|| fault::device(0, "its network is gone"))?;
    let Object::Network(port_group) = &network.object else { return Err(fault::not_found(&network.moref())) };
    Ok(Nic {
        key: device.key,
        model: match device {
            Device::VirtualE1000(_) => NicModel::E1000,
            _ => NicModel::Vmxnet3,
        },
        mac: card.mac_address.clone().unwrap_or_default(),
        tap: tap(id, device.key),
        bridge: port_group.bridge.clone(),
        connected: device.connectable.as_ref().is_none_or(|c| c.connected || c.start_connected),
    })
}

/// A disk as QEMU needs it.
pub(super) fn disk(world: &World, device: &Device) -> Result<Disk, Fault> {
    let backing = device::disk_backing(device).ok_or_else(|| fault::device(0, "it is no disk"))?;
    let file = world.file(&backing.file_name).filter(|f| f.exists());
    Ok(Disk {
        key: device.key,
        controller: device.controller_key.unwrap_or_default(),
        unit: device.unit_number.unwrap_or_default(),
        file: file.ok_or_else(|| fault::file_not_found(&backing.file_name))?,
        serial: backing.uuid.as_deref().unwrap_or_default().replace('-', "").to_ascii_lowercase(),
    })
}

/// A CD-ROM drive as QEMU needs it.  A missing ISO is an empty drive: ESXi powers such a VM on and warns.
pub(super) fn cdrom(world: &World, device: &Device, starting: bool) -> Cdrom {
    let connected = device.connectable.as_ref().is_none_or(|c| if starting { c.start_connected } else { c.connected });
    let iso = match &device.backing {
        Some(Backing::VirtualCdromIsoBackingInfo(backing)) if connected => {
            world.file(&backing.file_name).filter(|f| f.is_file())
        }
        _ => None,
    };
    Cdrom { key: device.key, iso }
}

fn serial(world: &World, device: &Device) -> Serial {
    if device.connectable.as_ref().is_some_and(|c| !c.start_connected) {
        return Serial::None;
    }
    match &device.backing {
        Some(Backing::VirtualSerialPortFileBackingInfo(backing)) => {
            let file = world.file(&backing.file_name).filter(|f| f.parent().is_some_and(std::path::Path::is_dir));
            file.map_or(Serial::None, Serial::File)
        }
        Some(Backing::VirtualSerialPortURIBackingInfo(backing)) => {
            let uri = backing.service_uri.rsplit("://").next().unwrap_or_default();
            let Some((host, port)) = uri.rsplit_once(':') else { return Serial::None };
            let Ok(port) = port.parse() else { return Serial::None };
            let host = if host.is_empty() { "0.0.0.0".to_owned() } else { host.to_owned() };
            match backing.direction.as_str() {
                "server" => Serial::Listen { host, port },
                _ => Serial::Dial { host, port },
            }
        }
        _ => Serial::None,
    }
}

/// A VM as QEMU needs it.
pub(super) fn hardware(world: &World, id: &str, vm: &VmObject) -> Result<VmSpec, Fault> {
    let devices = vm.devices();
    let mut serials = devices.iter().filter(|d| matches!(d, Device::VirtualSerialPort(_))).map(|d| serial(world, d));
    let model = |d: &Device| match d {
        Device::ParaVirtualSCSIController(_) => Some(ControllerModel::Pvscsi),
        Device::VirtualLsiLogicController(_) => Some(ControllerModel::Lsi),
        _ => None,
    };
    Ok(VmSpec {
        id: id.into(),
        name: vm.config.name.clone(),
        uuid: vm.config.uuid.clone(),
        memory_mib: u64::try_from(vm.config.hardware.memory_mb).unwrap_or_default(),
        cpus: u32::try_from(vm.config.hardware.num_cpu).unwrap_or(1),
        cdroms: devices
            .iter()
            .filter(|d| matches!(d, Device::VirtualCdrom(_)))
            .map(|d| cdrom(world, d, true))
            .collect(),
        controllers: devices.iter().filter_map(|d| model(d).map(|model| Controller { key: d.key, model })).collect(),
        disks: devices
            .iter()
            .filter(|d| matches!(d, Device::VirtualDisk(_)))
            .map(|d| disk(world, d))
            .collect::<Result<_, _>>()?,
        nics: devices.iter().filter(|d| device::is_nic(d)).map(|d| nic(world, id, d)).collect::<Result<_, _>>()?,
        serials: [serials.next().unwrap_or_default(), serials.next().unwrap_or_default()],
    })
}
