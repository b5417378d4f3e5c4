//! What a new lab has, and the ids of the objects that every vSphere has.

use vim25_types::{
    ManagedObjectReference as Moref, ResourceAllocationInfo, ResourceConfigSpec, SharesInfo, SharesLevel,
};

use super::objects::{
    Compute, Datacenter, Datastore, Entry, Host, Network, NetworkKind, Object, Pool, PortGroup, StandardSwitch,
};
use super::{World, now};
use crate::settings::Shape;

/// The objects that every vSphere has: type, id on vCenter, id on ESXi (empty: not there).
const SINGLETONS: &[(&str, &str, &str)] = &[
    ("ServiceInstance", "ServiceInstance", "ServiceInstance"),
    ("SessionManager", "SessionManager", "ha-sessionmgr"),
    ("PropertyCollector", "propertyCollector", "ha-property-collector"),
    ("ViewManager", "ViewManager", "ViewManager"),
    ("SearchIndex", "SearchIndex", "ha-searchindex"),
    ("TaskManager", "TaskManager", "ha-taskmgr"),
    ("EventManager", "EventManager", "ha-eventmgr"),
    ("FileManager", "FileManager", "ha-nfc-file-manager"),
    ("VirtualDiskManager", "virtualDiskManager", "ha-vdiskmanager"),
    ("LicenseManager", "LicenseManager", "ha-license-manager"),
    ("LicenseAssignmentManager", "LicenseAssignmentManager", ""),
    ("OptionManager", "VpxSettings", "HostAgentSettings"),
    ("AuthorizationManager", "AuthorizationManager", "ha-authmgr"),
    ("ExtensionManager", "ExtensionManager", ""),
];

/// The objects that every vSphere has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Singletons(pub Shape);

impl Singletons {
    fn id(self, row: &(&'static str, &'static str, &'static str)) -> &'static str {
        match self.0 {
            Shape::Vcenter => row.1,
            Shape::Esxi => row.2,
        }
    }

    /// The singleton of a type.
    pub(crate) fn of(self, kind: &str) -> Option<Moref> {
        let row = SINGLETONS.iter().find(|row| row.0 == kind)?;
        let id = self.id(row);
        (!id.is_empty()).then(|| Moref::new(row.0, id))
    }

    /// The type of the singleton with that id.
    pub(crate) fn kind(self, id: &str) -> Option<&'static str> {
        SINGLETONS.iter().find(|row| self.id(row) == id && !id.is_empty()).map(|row| row.0)
    }

    /// The root folder.
    pub(crate) fn root(self) -> Moref {
        Moref::new("Folder", if self.0 == Shape::Vcenter { "group-d1" } else { "ha-folder-root" })
    }
}

/// A pool's settings when nothing is limited.
pub(super) fn unlimited() -> ResourceConfigSpec {
    let allocation = |shares| ResourceAllocationInfo {
        reservation: Some(0),
        expandable_reservation: Some(true),
        limit: Some(-1),
        shares: Some(SharesInfo { shares, level: SharesLevel::Normal }),
        ..ResourceAllocationInfo::default()
    };
    ResourceConfigSpec {
        change_version: Some(now().0),
        cpu_allocation: allocation(4000),
        memory_allocation: allocation(163_840),
        ..ResourceConfigSpec::default()
    }
}

fn add(world: &mut World, id: &str, name: &str, parent: Option<&str>, object: Object) {
    world.insert(Entry { id: id.into(), name: name.into(), parent: parent.map(Into::into), object });
}

fn folder(children: &[&str]) -> Object {
    Object::Folder { children: children.iter().map(|&c| c.to_owned()).collect() }
}

fn host() -> Object {
    let firewall = super::firewall::initial();
    let port_group = |name: &str, kernel| PortGroup { name: name.into(), switch: "vSwitch0".into(), vlan: 0, kernel };
    Object::Host(Host {
        uuid: uuid::Uuid::new_v4().to_string(),
        firewall,
        switches: vec![StandardSwitch {
            name: "vSwitch0".into(),
            ports: 128,
            mtu: 1500,
            uplinks: vec![super::host_network::UPLINK.into()],
        }],
        port_groups: vec![port_group("VM Network", false), port_group("Management Network", true)],
    })
}

fn datastore() -> Object {
    Object::Datastore(Datastore { uuid: uuid::Uuid::new_v4().simple().to_string() })
}

/// Fills an empty inventory.
pub(super) fn seed(world: &mut World) {
    match world.shape() {
        Shape::Vcenter => vcenter(world),
        Shape::Esxi => esxi(world),
    }
}

fn vcenter(world: &mut World) {
    add(world, "group-d1", "Datacenters", None, folder(&["Folder", "Datacenter"]));
    let centre = Datacenter {
        vm: "group-v3".into(),
        host: "group-h4".into(),
        datastore: "group-s5".into(),
        network: "group-n6".into(),
    };
    add(world, "datacenter-2", "dc1", Some("group-d1"), Object::Datacenter(centre));
    let dc = Some("datacenter-2");
    add(world, "group-v3", "vm", dc, folder(&["Folder", "VirtualMachine", "VirtualApp"]));
    add(world, "group-h4", "host", dc, folder(&["Folder", "ComputeResource"]));
    add(world, "group-s5", "datastore", dc, folder(&["Folder", "Datastore", "StoragePod"]));
    add(world, "group-n6", "network", dc, folder(&["Folder", "Network", "DistributedVirtualSwitch"]));
    let compute = Compute { cluster: true, pool: "resgroup-8".into(), drs: true };
    add(world, "domain-c7", "cluster1", Some("group-h4"), Object::Compute(compute));
    let pool = Pool { owner: "domain-c7".into(), config: unlimited(), vapp: None };
    add(world, "resgroup-8", "Resources", Some("domain-c7"), Object::Pool(Box::new(pool)));
    for number in 0..world.settings().hosts {
        add(world, &format!("host-{}", 20 + number), &format!("esx{}.lab.test", number + 1), Some("domain-c7"), host());
    }
    add(world, "datastore-10", "datastore1", Some("group-s5"), datastore());
    add(world, "datastore-11", "datastore2", Some("group-s5"), datastore());
    let standard = Network { bridge: crate::net::SERVED_BRIDGE.into(), kind: NetworkKind::Standard };
    add(world, "network-12", "VM Network", Some("group-n6"), Object::Network(standard));
    let switch = Object::Switch { uuid: dvs_uuid() };
    add(world, "dvs-13", "dvs1", Some("group-n6"), switch);
    for (id, name) in [("dvportgroup-14", "bridge"), ("dvportgroup-15", "backend")] {
        let kind = NetworkKind::Distributed { switch: "dvs-13".into() };
        let network = Network { bridge: format!("br-{name}"), kind };
        add(world, id, name, Some("group-n6"), Object::Network(network));
    }
}

/// A UUID in the form that vSphere gives to distributed switches.
fn dvs_uuid() -> String {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    let hex = |part: &[u8]| part.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
    format!("{}-{}", hex(&bytes[..8]), hex(&bytes[8..]))
}

fn esxi(world: &mut World) {
    add(world, "ha-folder-root", "ha-folder-root", None, folder(&["Datacenter"]));
    let centre = Datacenter {
        vm: "ha-folder-vm".into(),
        host: "ha-folder-host".into(),
        datastore: "ha-folder-datastore".into(),
        network: "ha-folder-network".into(),
    };
    add(world, "ha-datacenter", "ha-datacenter", Some("ha-folder-root"), Object::Datacenter(centre));
    let dc = Some("ha-datacenter");
    add(world, "ha-folder-vm", "vm", dc, folder(&["VirtualMachine"]));
    add(world, "ha-folder-host", "host", dc, folder(&["ComputeResource"]));
    add(world, "ha-folder-datastore", "datastore", dc, folder(&["Datastore"]));
    add(world, "ha-folder-network", "network", dc, folder(&["Network"]));
    let compute = Compute { cluster: false, pool: "ha-root-pool".into(), drs: false };
    add(world, "ha-compute-res", "esx1.lab.test", Some("ha-folder-host"), Object::Compute(compute));
    let pool = Pool { owner: "ha-compute-res".into(), config: unlimited(), vapp: None };
    add(world, "ha-root-pool", "Resources", Some("ha-compute-res"), Object::Pool(Box::new(pool)));
    add(world, "ha-host", "esx1.lab.test", Some("ha-compute-res"), host());
    for name in ["datastore1", "datastore2"] {
        let object = datastore();
        let id = match &object {
            Object::Datastore(d) => format!("{}-{}", &d.uuid[..8], &d.uuid[8..16]),
            _ => continue,
        };
        add(world, &id, name, Some("ha-folder-datastore"), object);
    }
    let network = Network { bridge: crate::net::SERVED_BRIDGE.into(), kind: NetworkKind::Standard };
    add(world, "HaNetwork-VM Network", "VM Network", Some("ha-folder-network"), Object::Network(network));
}
