//! The kinds of objects in the inventory, as they are stored.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use vim25_types::{
    AnyVirtualDevice, AnyVirtualDeviceBackingInfo, ManagedObjectReference as Moref, OptionValue, ResourceConfigSpec,
    VAppConfigInfo, VirtualMachineConfigInfo,
};

use super::xml;
use crate::vm::Power;

/// An object of the inventory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Managed object id.
    pub id: String,
    /// Name, with `/`, `\` and `%` escaped as vSphere does.
    pub name: String,
    /// The parent's id.
    pub parent: Option<String>,
    /// What it is.
    pub object: Object,
}

/// What an object is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "object")]
pub(crate) enum Object {
    /// A folder, and the types that may be in it.
    Folder {
        /// Types of its children.
        children: Vec<String>,
    },
    /// A datacenter.
    Datacenter(Datacenter),
    /// A cluster, or the compute resource of a host that stands alone.
    Compute(Compute),
    /// A host.
    Host(Host),
    /// A resource pool or a vApp.
    Pool(Box<Pool>),
    /// A virtual machine.
    Vm(Box<VmObject>),
    /// A datastore.
    Datastore(Datastore),
    /// A port group.
    Network(Network),
    /// A distributed switch.
    Switch {
        /// Its UUID.
        uuid: String,
    },
}

/// A datacenter and its four folders.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Datacenter {
    /// Folder of VMs.
    pub vm: String,
    /// Folder of hosts and clusters.
    pub host: String,
    /// Folder of datastores.
    pub datastore: String,
    /// Folder of networks.
    pub network: String,
}

/// A cluster or a lone host's compute resource.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Compute {
    /// Whether it is a cluster.
    pub cluster: bool,
    /// Its root resource pool.
    pub pool: String,
    /// Whether DRS is on.
    pub drs: bool,
}

/// A host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Host {
    /// BIOS UUID.
    pub uuid: String,
    /// Firewall rule sets and whether they are enabled.
    pub firewall: BTreeMap<String, bool>,
    /// Its own switches.
    pub switches: Vec<StandardSwitch>,
    /// The port groups on its own switches.
    pub port_groups: Vec<PortGroup>,
}

/// A host's own switch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StandardSwitch {
    /// Name, one of its kind on the host.
    pub name: String,
    /// How many ports it was made with.
    pub ports: i32,
    /// Largest frame, bytes.
    pub mtu: i32,
    /// The host's network adapters that lead out of it.
    pub uplinks: Vec<String>,
}

/// A port group of a host's own switch.  Those of one name on several hosts are one [`Network`] of the inventory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PortGroup {
    /// Name as the admin gave it, one of its kind on the host.
    pub name: String,
    /// The switch that it is on.
    pub switch: String,
    /// VLAN, 0 to 4095.
    pub vlan: i32,
    /// Whether the host's own traffic goes over it: then no VM can, and it is no [`Network`].
    pub kernel: bool,
}

/// A resource pool; a vApp if it has the configuration of one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pool {
    /// The compute resource that it divides.
    pub owner: String,
    /// Shares, limits and reservations.
    #[serde(with = "xml")]
    pub config: ResourceConfigSpec,
    /// What makes it a vApp.
    pub vapp: Option<VApp>,
}

/// What a vApp has beyond a pool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VApp {
    /// Its configuration.
    #[serde(with = "xml")]
    pub config: VAppConfigInfo,
    /// The VM folder that shows it.
    pub folder: Option<String>,
}

/// A virtual machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VmObject {
    /// Its configuration, as `config` shows it.
    #[serde(with = "xml")]
    pub config: VirtualMachineConfigInfo,
    /// The pool or vApp that it is in.
    pub pool: String,
    /// The host that it is on.
    pub host: String,
    /// Whether it was shut down rather than cut off, as far as is known.
    #[serde(default)]
    pub clean: bool,
    /// Keys of its extraConfig that go when it is powered off; see [`VmObject::set_extra_now`].
    #[serde(default)]
    pub volatile: BTreeSet<String>,
    /// Its snapshots, oldest first.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
    /// What it is doing now.
    #[serde(skip, default = "powered_off")]
    pub power: Power,
    /// Whether the guest's tools speak.
    #[serde(skip)]
    pub tools: bool,
    /// The guest's address.
    #[serde(skip)]
    pub address: Option<String>,
    /// When it was powered on.
    #[serde(skip)]
    pub booted: Option<time::OffsetDateTime>,
    /// What it wants to know before it goes on.
    #[serde(skip)]
    pub question: Option<Question>,
}

/// Something that a VM asks.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// One of its kind.
    pub id: String,
    /// `msg.id:text`
    pub text: String,
    /// Which choice was taken; until the power-on that waits for it has seen it.
    pub answer: Option<usize>,
}

/// A snapshot, as far as the lab has any: a VM with one keeps its disks.  What was in them then is not kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Of its managed object.
    pub id: String,
    pub name: String,
    pub description: String,
    /// When it was made.
    pub created: String,
    /// Whether the VM was on then.
    pub on: bool,
    pub quiesced: bool,
}

impl Snapshot {
    pub(crate) fn moref(&self) -> Moref {
        Moref::new("VirtualMachineSnapshot", &self.id)
    }
}

fn powered_off() -> Power {
    Power::Off
}

/// A datastore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Datastore {
    /// Its UUID, which is its folder under `/vmfs/volumes`.
    pub uuid: String,
}

/// What kind of port group it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum NetworkKind {
    /// On a host's own switch.
    Standard,
    /// On a distributed switch.
    Distributed {
        /// The switch's id.
        switch: String,
    },
}

/// A port group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Network {
    /// The bridge that it is.
    pub bridge: String,
    /// Standard or distributed.
    pub kind: NetworkKind,
}

impl Entry {
    /// The object's vim25 type.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.object {
            Object::Folder { .. } => "Folder",
            Object::Datacenter(_) => "Datacenter",
            Object::Compute(Compute { cluster: true, .. }) => "ClusterComputeResource",
            Object::Compute(_) => "ComputeResource",
            Object::Host(_) => "HostSystem",
            Object::Pool(pool) if pool.vapp.is_some() => "VirtualApp",
            Object::Pool(_) => "ResourcePool",
            Object::Vm(_) => "VirtualMachine",
            Object::Datastore(_) => "Datastore",
            Object::Network(Network { kind: NetworkKind::Standard, .. }) => "Network",
            Object::Network(_) => "DistributedVirtualPortgroup",
            Object::Switch { .. } => "VmwareDistributedVirtualSwitch",
        }
    }

    /// A reference to the object.
    pub(crate) fn moref(&self) -> Moref {
        Moref::new(self.kind(), &self.id)
    }
}

impl VmObject {
    /// A VM that was never on.
    pub(crate) fn new(config: VirtualMachineConfigInfo, pool: String, host: String) -> Self {
        Self {
            config,
            pool,
            host,
            clean: true,
            volatile: BTreeSet::new(),
            snapshots: Vec::new(),
            power: Power::Off,
            tools: false,
            address: None,
            booted: None,
            question: None,
        }
    }

    /// The value of an extraConfig key, as text.
    pub(crate) fn extra(&self, key: &str) -> Option<String> {
        let option = self.config.extra_config.iter().find(|o| o.key == key)?;
        option.value.as_ref()?.get::<String>().ok()
    }

    /// Sets an extraConfig key; an empty value removes it, as vSphere does.
    pub(crate) fn set_extra(&mut self, key: &str, value: &str) {
        let all = &mut self.config.extra_config;
        if value.is_empty() {
            all.retain(|o| o.key != key);
            return;
        }
        let value = Some(vim25_types::AnyValue::of(&value.to_owned()));
        match all.iter_mut().find(|o| o.key == key) {
            Some(known) => known.value = value,
            None => all.push(OptionValue { key: key.into(), value }),
        }
    }

    /// [`Self::set_extra`] as vSphere does it by and by: `guestinfo.*` is the running guest's, and does not outlive its power, if it
    /// first came while the VM was on, or if a reconfiguration wrote it then.  What was there before stays, whatever the guest
    /// makes of it.
    pub(crate) fn set_extra_now(&mut self, key: &str, value: &str, by_guest: bool) {
        let is_volatile = self.is_on() && (!by_guest || self.extra(key).is_none() || self.volatile.contains(key));
        if is_volatile && key.starts_with("guestinfo.") {
            self.volatile.insert(key.to_owned());
        } else {
            self.volatile.remove(key);
        }
        self.set_extra(key, value);
    }

    /// Forgets what does not outlive the VM's power.
    pub(crate) fn forget_volatile(&mut self) {
        let volatile = std::mem::take(&mut self.volatile);
        self.config.extra_config.retain(|option| !volatile.contains(&option.key));
    }

    /// Its devices.
    pub(crate) fn devices(&self) -> &[AnyVirtualDevice] {
        &self.config.hardware.device
    }

    /// Whether it is powered on, as vSphere sees it: a VM is on until its process has ended.
    pub(crate) fn is_on(&self) -> bool {
        matches!(self.power, Power::On | Power::Stopping)
    }

    /// What it asks, as long as nobody has answered.
    pub(crate) fn asks(&self) -> Option<&Question> {
        self.question.as_ref().filter(|question| question.answer.is_none())
    }

    /// The path of its configuration file, `[datastore] folder/name.vmx`.
    pub(crate) fn vmx(&self) -> &str {
        self.config.files.vm_path_name.as_deref().unwrap_or_default()
    }

    /// The datastore paths of the disks' files, each with those that it is based on.
    pub(crate) fn disk_files(&self) -> Vec<String> {
        let mut files = Vec::new();
        for device in self.devices() {
            if let Some(AnyVirtualDeviceBackingInfo::VirtualDiskFlatVer2BackingInfo(backing)) = &device.backing {
                let mut at = Some(backing);
                while let Some(b) = at {
                    files.push(b.file_name.clone());
                    at = b.parent.as_deref();
                }
            }
        }
        files
    }
}
