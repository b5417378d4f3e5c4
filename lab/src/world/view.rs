//! What the inventory's objects show: one function from a property's name to its elements.
//!
//! An absent property gives no element, an array one element an item; all are named after the property.

use vim25_types::xml::Element;
use vim25_types::{AboutInfo, ManagedEntityStatus, ManagedObjectReference as Moref, Value};

use super::objects::{Entry, NetworkKind, Object};
use super::{Singletons, World};
use crate::settings::Shape;

/// The elements of one value.
pub(crate) fn one<T: Value>(name: &str, value: &T) -> Vec<Element> {
    vec![value.encode(name)]
}

/// The elements of a value that may be absent.
pub(crate) fn some<T: Value>(name: &str, value: &Option<T>) -> Vec<Element> {
    value.iter().map(|v| v.encode(name)).collect()
}

/// The elements of an array.
pub(crate) fn many<T: Value>(name: &str, values: impl IntoIterator<Item = T>) -> Vec<Element> {
    values.into_iter().map(|v| v.encode(name)).collect()
}

impl World {
    /// The version of the product that the lab behaves as.
    pub(crate) fn about(&self) -> AboutInfo {
        let vcenter = self.shape() == Shape::Vcenter;
        let text = |vc: &str, esx: &str| if vcenter { vc.to_owned() } else { esx.to_owned() };
        AboutInfo {
            name: text("VMware vCenter Server", "VMware ESXi"),
            full_name: text(
                "VMware vCenter Server 7.0.3 build-19480866 (vic-lab)",
                "VMware ESXi 7.0.3 build-19482537 (vic-lab)",
            ),
            vendor: "VMware, Inc.".into(),
            version: "7.0.3".into(),
            patch_level: Some("0".into()),
            build: text("19480866", "19482537"),
            locale_version: Some("INTL".into()),
            locale_build: Some("000".into()),
            os_type: text("linux-x64", "vmnix-x86"),
            product_line_id: text("vpx", "embeddedEsx"),
            api_type: text("VirtualCenter", "HostAgent"),
            api_version: "7.0.3.0".into(),
            instance_uuid: vcenter.then(|| self.settings().instance.clone()),
            license_product_name: Some(text("VMware VirtualCenter Server", "VMware ESX Server")),
            license_product_version: Some("7.0".into()),
        }
    }

    /// The elements of a property of an object of the inventory.
    pub(crate) fn property(&self, entry: &Entry, name: &str) -> Vec<Element> {
        match name {
            "name" => one(name, &entry.name),
            "parent" => many(name, self.shown_parent(entry)),
            "overallStatus" | "configStatus" => one(name, &ManagedEntityStatus::Green),
            "effectiveRole" => one(name, &-1_i32),
            "alarmActionsEnabled" => one(name, &true),
            "recentTask" => {
                let tasks = self.recent_tasks().filter(|t| t.entity.as_ref().is_some_and(|e| e.value == entry.id));
                many(name, tasks.filter(|t| t.complete_time.is_none()).map(|t| t.task.clone()))
            }
            _ => match &entry.object {
                Object::Folder { children } => self.folder_property(entry, children, name),
                Object::Datacenter(_) => self.datacenter_property(entry, name),
                Object::Compute(_) | Object::Host(_) | Object::Pool(_) => self.compute_property(entry, name),
                Object::Vm(vm) => self.vm_property(entry, vm, name),
                Object::Datastore(_) => self.datastore_property(entry, name),
                Object::Network(_) | Object::Switch { .. } => self.network_property(entry, name),
            },
        }
    }

    /// The parent as vSphere shows it: vCenter's root has none.
    fn shown_parent(&self, entry: &Entry) -> Option<Moref> {
        self.get(entry.parent.as_deref()?).map(Entry::moref)
    }

    /// References to all objects that `test` accepts.
    pub(crate) fn all(&self, test: impl Fn(&Object) -> bool) -> Vec<Moref> {
        self.entries().filter(|e| test(&e.object)).map(Entry::moref).collect()
    }

    /// All hosts.
    pub(crate) fn hosts(&self) -> Vec<Moref> {
        self.all(|o| matches!(o, Object::Host(_)))
    }

    /// All datastores.
    pub(crate) fn datastores(&self) -> Vec<Moref> {
        self.all(|o| matches!(o, Object::Datastore(_)))
    }

    /// All port groups.
    pub(crate) fn networks(&self) -> Vec<Moref> {
        self.all(|o| matches!(o, Object::Network(_)))
    }

    fn folder_property(&self, entry: &Entry, children: &[String], name: &str) -> Vec<Element> {
        match name {
            "childType" => many(name, children.iter().cloned()),
            "childEntity" => {
                let vapps = self.entries().filter(|e| match &e.object {
                    Object::Pool(pool) => pool.vapp.as_ref().is_some_and(|v| v.folder.as_deref() == Some(&entry.id)),
                    _ => false,
                });
                many(name, self.children(&entry.id).chain(vapps).map(Entry::moref))
            }
            _ => Vec::new(),
        }
    }

    fn datacenter_property(&self, entry: &Entry, name: &str) -> Vec<Element> {
        let Object::Datacenter(centre) = &entry.object else { return Vec::new() };
        let folder = |id: &str| one(name, &Moref::new("Folder", id));
        match name {
            "vmFolder" => folder(&centre.vm),
            "hostFolder" => folder(&centre.host),
            "datastoreFolder" => folder(&centre.datastore),
            "networkFolder" => folder(&centre.network),
            "datastore" => many(name, self.datastores()),
            "network" => many(name, self.networks()),
            _ => Vec::new(),
        }
    }

    fn network_property(&self, entry: &Entry, name: &str) -> Vec<Element> {
        use vim25_types::{
            DVPortgroupConfigInfo, DVSConfigInfo, DVSSummary, DistributedVirtualSwitchHostMember,
            DistributedVirtualSwitchHostMemberConfigInfo, DistributedVirtualSwitchProductSpec, NetworkSummary,
            VMwareDVSConfigInfo,
        };
        let product = || DistributedVirtualSwitchProductSpec {
            name: Some("DVS".into()),
            vendor: Some("VMware, Inc.".into()),
            version: Some("7.0.3".into()),
            ..Default::default()
        };
        match (&entry.object, name) {
            (Object::Network(_), "summary") => one(
                name,
                &NetworkSummary {
                    network: Some(entry.moref()),
                    name: entry.name.clone(),
                    accessible: true,
                    ..NetworkSummary::default()
                },
            ),
            (Object::Network(network), "host") => many(name, self.hosts_with(&entry.name, network)),
            (Object::Network(_), "vm") => {
                let on = self.vms().filter(|(_, vm)| self.networks_of(vm).contains(&entry.moref()));
                many(name, on.map(|(e, _)| e.moref()))
            }
            (Object::Network(network), "key" | "config") => {
                let NetworkKind::Distributed { switch } = &network.kind else { return Vec::new() };
                if name == "key" {
                    return one(name, &entry.id);
                }
                one(
                    name,
                    &DVPortgroupConfigInfo {
                        key: entry.id.clone(),
                        name: entry.name.clone(),
                        num_ports: 128,
                        distributed_virtual_switch: Some(Moref::new("VmwareDistributedVirtualSwitch", switch)),
                        type_: "earlyBinding".into(),
                        backing_type: Some("standard".into()),
                        config_version: Some("1".into()),
                        auto_expand: Some(true),
                        uplink: Some(false),
                        ..DVPortgroupConfigInfo::default()
                    },
                )
            }
            (Object::Switch { uuid }, "uuid") => one(name, uuid),
            (Object::Switch { .. }, "portgroup") => {
                many(name, self.entries().filter(|e| on_switch(e, &entry.id)).map(Entry::moref))
            }
            (Object::Switch { uuid }, "summary") => one(
                name,
                &DVSSummary {
                    name: entry.name.clone(),
                    uuid: uuid.clone(),
                    num_ports: 256,
                    product_info: Some(product()),
                    host_member: self.hosts(),
                    host: self.hosts(),
                    portgroup_name: self
                        .entries()
                        .filter(|e| on_switch(e, &entry.id))
                        .map(|e| e.name.clone())
                        .collect(),
                    ..DVSSummary::default()
                },
            ),
            (Object::Switch { uuid }, "config") => {
                let member = |host| DistributedVirtualSwitchHostMember {
                    config: DistributedVirtualSwitchHostMemberConfigInfo {
                        host: Some(host),
                        max_proxy_switch_ports: 512,
                        ..Default::default()
                    },
                    product_info: Some(product()),
                    status: "up".into(),
                    ..Default::default()
                };
                let base = DVSConfigInfo {
                    uuid: uuid.clone(),
                    name: entry.name.clone(),
                    num_ports: 256,
                    max_ports: 8000,
                    host: self.hosts().into_iter().map(member).collect(),
                    product_info: product(),
                    config_version: "1".into(),
                    create_time: super::now(),
                    ..DVSConfigInfo::default()
                };
                let mut element = VMwareDVSConfigInfo { base, max_mtu: 1500, ..Default::default() }.encode(name);
                element.xsi_type = Some("VMwareDVSConfigInfo".into());
                vec![element]
            }
            _ => Vec::new(),
        }
    }

    /// The elements of a property of one of the objects that every vSphere has.
    pub(crate) fn singleton_property(&self, kind: &str, name: &str) -> Vec<Element> {
        use vim25_types::OptionValue;
        let all = Singletons(self.shape());
        match (kind, name) {
            ("ServiceInstance", "content") => one(name, &self.service_content()),
            ("ServiceInstance", "serverClock") => one(name, &super::now()),
            ("TaskManager", "recentTask") => many(name, self.recent_tasks().map(|t| t.task.clone())),
            ("TaskManager" | "EventManager", "maxCollector") => one(name, &32_i32),
            ("EventManager", "latestEvent") => many(name, self.events().next_back().cloned()),
            ("OptionManager", "setting") => many(
                name,
                self.options().iter().map(|(key, value)| OptionValue {
                    key: key.clone(),
                    value: Some(vim25_types::AnyValue::of(value)),
                }),
            ),
            ("LicenseManager", "licenseAssignmentManager") => many(name, all.of("LicenseAssignmentManager")),
            ("LicenseManager", "licenses") => one(name, &self.license()),
            ("LicenseManager", "licensedEdition") => one(name, &"esx.enterprisePlus.cpuPackage".to_owned()),
            _ => Vec::new(),
        }
    }

    /// The licence that every host has.
    pub(crate) fn license(&self) -> vim25_types::LicenseManagerLicenseInfo {
        use vim25_types::{AnyValue, KeyAnyValue, KeyValue, LicenseManagerLicenseInfo};
        let feature = |key: &str, value: &str| KeyAnyValue {
            key: "feature".into(),
            value: AnyValue::of(&KeyValue { key: key.into(), value: value.into() }),
        };
        LicenseManagerLicenseInfo {
            license_key: "00000-00000-00000-00000-00000".into(),
            edition_key: "esx.enterprisePlus.cpuPackage".into(),
            name: "vSphere 7 Enterprise Plus (vic-lab)".into(),
            total: 0,
            used: Some(0),
            cost_unit: "cpuPackage".into(),
            properties: vec![
                feature("serialuri:2", "Remote virtual Serial Port Concentrator"),
                feature("dvs", "vSphere Distributed Switch"),
                feature("drs", "vSphere DRS"),
            ],
            ..LicenseManagerLicenseInfo::default()
        }
    }

    /// The entry point of the API.
    pub(crate) fn service_content(&self) -> vim25_types::ServiceContent {
        let all = Singletons(self.shape());
        vim25_types::ServiceContent {
            root_folder: all.root(),
            property_collector: all.of("PropertyCollector").unwrap_or_default(),
            view_manager: all.of("ViewManager"),
            about: self.about(),
            setting: all.of("OptionManager"),
            session_manager: all.of("SessionManager"),
            authorization_manager: all.of("AuthorizationManager"),
            event_manager: all.of("EventManager"),
            task_manager: all.of("TaskManager"),
            extension_manager: all.of("ExtensionManager"),
            license_manager: all.of("LicenseManager"),
            search_index: all.of("SearchIndex"),
            file_manager: all.of("FileManager"),
            virtual_disk_manager: all.of("VirtualDiskManager"),
            ..vim25_types::ServiceContent::default()
        }
    }
}

fn on_switch(entry: &Entry, id: &str) -> bool {
    match &entry.object {
        Object::Network(network) => matches!(&network.kind, NetworkKind::Distributed { switch } if switch == id),
        _ => false,
    }
}
