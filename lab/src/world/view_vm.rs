//! What virtual machines show.

use vim25_types::xml::Element;
use vim25_types::{
    AnyVirtualDevice, AnyVirtualDeviceBackingInfo, DateTime, GuestInfo, ManagedEntityStatus,
    ManagedObjectReference as Moref, ResourceConfigSpec, VirtualMachineCapability, VirtualMachineConfigSummary,
    VirtualMachineConnectionState, VirtualMachineFaultToleranceState, VirtualMachineFileLayoutEx,
    VirtualMachineFileLayoutExFileInfo, VirtualMachineGuestSummary, VirtualMachinePowerState, VirtualMachineQuickStats,
    VirtualMachineRecordReplayState, VirtualMachineRuntimeInfo, VirtualMachineSnapshotInfo, VirtualMachineSnapshotTree,
    VirtualMachineStorageInfo, VirtualMachineStorageSummary, VirtualMachineSummary, VirtualMachineToolsStatus,
    VirtualMachineUsageOnDatastore,
};

use super::objects::{Entry, Object, VmObject};
use super::path::DatastorePath;
use super::view::{many, one};
use super::{World, format_time, now};
use crate::vm::guest::KEY_HOST_NAME;

impl World {
    pub(super) fn vm_property(&self, entry: &Entry, vm: &VmObject, name: &str) -> Vec<Element> {
        match name {
            // vSphere reads them from the files.
            "config" | "layoutEx" | "snapshot" if self.is_lost(&entry.id) => Vec::new(),
            "config" => one(name, &vm.config),
            "runtime" => one(name, &self.vm_runtime(entry, vm)),
            "guest" => one(name, &guest(vm)),
            "guestHeartbeatStatus" => one(name, &heartbeat(vm)),
            "summary" => one(
                name,
                &VirtualMachineSummary {
                    vm: Some(entry.moref()),
                    runtime: self.vm_runtime(entry, vm),
                    guest: Some(guest_summary(vm)),
                    config: config_summary(vm),
                    storage: Some(self.storage(vm)),
                    quick_stats: VirtualMachineQuickStats {
                        guest_heartbeat_status: heartbeat(vm),
                        ..Default::default()
                    },
                    overall_status: ManagedEntityStatus::Green,
                },
            ),
            "capability" => one(name, &VirtualMachineCapability::default()),
            "resourcePool" => many(name, self.get(&vm.pool).map(Entry::moref)),
            "parentVApp" => many(name, self.get(&vm.pool).filter(|p| p.kind() == "VirtualApp").map(Entry::moref)),
            "resourceConfig" => one(
                name,
                &ResourceConfigSpec {
                    entity: Some(entry.moref()),
                    cpu_allocation: vm.config.cpu_allocation.clone().unwrap_or_default(),
                    memory_allocation: vm.config.memory_allocation.clone().unwrap_or_default(),
                    ..ResourceConfigSpec::default()
                },
            ),
            "datastore" => many(name, self.datastores_of(vm)),
            "network" => many(name, self.networks_of(vm)),
            "storage" => {
                let total = self.storage(vm);
                let usage =
                    self.datastores_of(vm).into_iter().take(1).map(|datastore| VirtualMachineUsageOnDatastore {
                        datastore,
                        committed: total.committed,
                        uncommitted: total.uncommitted,
                        unshared: total.unshared,
                    });
                one(name, &VirtualMachineStorageInfo { per_datastore_usage: usage.collect(), timestamp: now() })
            }
            "layoutEx" => one(name, &self.layout(vm)),
            "snapshot" => snapshots(entry, vm).iter().flat_map(|info| one(name, info)).collect(),
            _ => Vec::new(),
        }
    }

    fn vm_runtime(&self, entry: &Entry, vm: &VmObject) -> VirtualMachineRuntimeInfo {
        VirtualMachineRuntimeInfo {
            host: self.get(&vm.host).map(Entry::moref),
            connection_state: if self.is_lost(&entry.id) {
                VirtualMachineConnectionState::Inaccessible
            } else {
                VirtualMachineConnectionState::Connected
            },
            power_state: power_state(vm),
            fault_tolerance_state: VirtualMachineFaultToleranceState::NotConfigured,
            question: vm.asks().map(crate::api::question::info),
            boot_time: vm.booted.filter(|_| vm.is_on()).map(format_time),
            record_replay_state: VirtualMachineRecordReplayState::Inactive,
            clean_power_off: Some(vm.clean),
            ..VirtualMachineRuntimeInfo::default()
        }
    }

    /// The datastores that a VM has files on.
    pub(crate) fn datastores_of(&self, vm: &VmObject) -> Vec<Moref> {
        let mut files = vec![vm.vmx().to_owned()];
        files.extend(vm.disk_files());
        let mut all: Vec<Moref> = files
            .iter()
            .filter_map(|f| f.parse::<DatastorePath>().ok())
            .filter_map(|p| self.datastore_named(&p.datastore).map(|(e, _)| e.moref()))
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// The port groups that a VM's NICs are on.
    pub(crate) fn networks_of(&self, vm: &VmObject) -> Vec<Moref> {
        let mut all: Vec<Moref> = vm.devices().iter().filter_map(|d| self.network_of(d)).map(Entry::moref).collect();
        all.sort();
        all.dedup();
        all
    }

    /// The port group that a NIC is on.
    pub(crate) fn network_of(&self, device: &AnyVirtualDevice) -> Option<&Entry> {
        let entry = match device.backing.as_ref()? {
            AnyVirtualDeviceBackingInfo::VirtualEthernetCardNetworkBackingInfo(backing) => match &backing.network {
                Some(network) => self.get(&network.value),
                None => {
                    self.entries().find(|e| matches!(e.object, Object::Network(_)) && e.name == backing.device_name)
                }
            },
            AnyVirtualDeviceBackingInfo::VirtualEthernetCardDistributedVirtualPortBackingInfo(backing) => {
                backing.port.portgroup_key.as_ref().and_then(|key| self.get(key))
            }
            _ => None,
        }?;
        matches!(entry.object, Object::Network(_)).then_some(entry)
    }

    /// Where on the machine the file of a datastore path is.
    pub(crate) fn file(&self, path: &str) -> Option<std::path::PathBuf> {
        let path: DatastorePath = path.parse().ok()?;
        self.datastore_named(&path.datastore)?;
        Some(self.datastore_folder(&path.datastore).join(&path.path))
    }

    /// The datastore path of a file on the machine.
    pub(crate) fn path_of(&self, file: &std::path::Path) -> Option<DatastorePath> {
        let inside = file.strip_prefix(&self.datastores).ok()?.to_str()?;
        let (datastore, path) = inside.split_once('/')?;
        Some(DatastorePath { datastore: datastore.into(), path: path.into() })
    }

    /// The UUID of the distributed switch that a port group is on.
    pub(crate) fn switch_uuid(&self, network: &Entry) -> Option<String> {
        let Object::Network(port_group) = &network.object else { return None };
        let super::NetworkKind::Distributed { switch } = &port_group.kind else { return None };
        match &self.get(switch)?.object {
            Object::Switch { uuid } => Some(uuid.clone()),
            _ => None,
        }
    }

    fn size_of(&self, path: &str) -> i64 {
        use std::os::unix::fs::MetadataExt;
        let size = self.file(path).and_then(|f| std::fs::metadata(f).ok()).map_or(0, |m| m.blocks() * 512);
        i64::try_from(size).unwrap_or(i64::MAX)
    }

    fn storage(&self, vm: &VmObject) -> VirtualMachineStorageSummary {
        let committed = vm.disk_files().iter().map(|f| self.size_of(f)).sum();
        VirtualMachineStorageSummary { committed, unshared: committed, timestamp: now(), ..Default::default() }
    }

    fn layout(&self, vm: &VmObject) -> VirtualMachineFileLayoutEx {
        let mut files = vec![(vm.vmx().to_owned(), "config")];
        files.extend(vm.disk_files().into_iter().map(|f| (f, "diskDescriptor")));
        let file = (0..).zip(files).map(|(key, (name, kind))| VirtualMachineFileLayoutExFileInfo {
            key,
            size: self.size_of(&name),
            name,
            type_: kind.into(),
            accessible: Some(true),
            ..VirtualMachineFileLayoutExFileInfo::default()
        });
        VirtualMachineFileLayoutEx { file: file.collect(), timestamp: now() }
    }
}

/// The power state as vSphere shows it.
pub(crate) fn power_state(vm: &VmObject) -> VirtualMachinePowerState {
    if vm.is_on() { VirtualMachinePowerState::PoweredOn } else { VirtualMachinePowerState::PoweredOff }
}

/// The VM's snapshots, each the child of the one before; none where there are none.
fn snapshots(entry: &Entry, vm: &VmObject) -> Option<VirtualMachineSnapshotInfo> {
    let tree = vm.snapshots.iter().rev().fold(Vec::new(), |children, one| {
        let power = if one.on { VirtualMachinePowerState::PoweredOn } else { VirtualMachinePowerState::PoweredOff };
        vec![VirtualMachineSnapshotTree {
            snapshot: one.moref(),
            vm: entry.moref(),
            name: one.name.clone(),
            description: one.description.clone(),
            id: one.id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or_default(),
            create_time: DateTime(one.created.clone()),
            state: power,
            quiesced: one.quiesced,
            child_snapshot_list: children,
            ..VirtualMachineSnapshotTree::default()
        }]
    });
    let newest = vm.snapshots.last()?.moref();
    Some(VirtualMachineSnapshotInfo { current_snapshot: Some(newest), root_snapshot_list: tree })
}

fn heartbeat(vm: &VmObject) -> ManagedEntityStatus {
    if vm.is_on() && vm.tools { ManagedEntityStatus::Green } else { ManagedEntityStatus::Gray }
}

fn tools(vm: &VmObject) -> (VirtualMachineToolsStatus, &'static str) {
    if vm.is_on() && vm.tools {
        (VirtualMachineToolsStatus::ToolsOk, "guestToolsRunning")
    } else {
        (VirtualMachineToolsStatus::ToolsNotRunning, "guestToolsNotRunning")
    }
}

fn guest(vm: &VmObject) -> GuestInfo {
    let (status, running) = tools(vm);
    let on = running == "guestToolsRunning";
    GuestInfo {
        tools_status: Some(status),
        tools_version_status: Some("guestToolsUnmanaged".into()),
        tools_version_status2: Some("guestToolsUnmanaged".into()),
        tools_running_status: Some(running.into()),
        guest_id: Some(vm.config.guest_id.clone()),
        guest_full_name: Some(vm.config.guest_full_name.clone()),
        host_name: vm.extra(KEY_HOST_NAME),
        ip_address: vm.address.clone().filter(|_| on),
        guest_state: if on { "running" } else { "notRunning" }.into(),
        guest_operations_ready: Some(false),
        guest_state_change_supported: Some(on),
        ..GuestInfo::default()
    }
}

fn guest_summary(vm: &VmObject) -> VirtualMachineGuestSummary {
    let guest = guest(vm);
    VirtualMachineGuestSummary {
        guest_id: guest.guest_id,
        guest_full_name: guest.guest_full_name,
        tools_status: guest.tools_status,
        tools_version_status: guest.tools_version_status,
        tools_version_status2: guest.tools_version_status2,
        tools_running_status: guest.tools_running_status,
        host_name: guest.host_name,
        ip_address: guest.ip_address,
        ..VirtualMachineGuestSummary::default()
    }
}

fn config_summary(vm: &VmObject) -> VirtualMachineConfigSummary {
    let config = &vm.config;
    let count = |test: fn(&AnyVirtualDevice) -> bool| {
        Some(i32::try_from(vm.devices().iter().filter(|d| test(d)).count()).unwrap_or(i32::MAX))
    };
    VirtualMachineConfigSummary {
        name: config.name.clone(),
        vm_path_name: vm.vmx().into(),
        memory_size_mb: Some(config.hardware.memory_mb),
        num_cpu: Some(config.hardware.num_cpu),
        num_ethernet_cards: count(crate::api::device::is_nic),
        num_virtual_disks: count(|d| matches!(d, AnyVirtualDevice::VirtualDisk(_))),
        uuid: Some(config.uuid.clone()),
        instance_uuid: config.instance_uuid.clone(),
        guest_id: Some(config.guest_id.clone()),
        guest_full_name: Some(config.guest_full_name.clone()),
        annotation: config.annotation.clone(),
        managed_by: config.managed_by.clone(),
        ..VirtualMachineConfigSummary::default()
    }
}
