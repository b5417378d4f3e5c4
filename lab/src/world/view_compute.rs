//! What clusters, hosts, pools, vApps and datastores show.

use vim25_types::xml::Element;
use vim25_types::{
    ClusterComputeResourceSummary, ClusterConfigInfo, ClusterConfigInfoEx, ClusterDasConfigInfo, ClusterDrsConfigInfo,
    ComputeResourceConfigInfo, ComputeResourceSummary, DatastoreCapability, DatastoreHostMount, DatastoreInfo,
    DatastoreSummary, DrsBehavior, HostConfigInfo, HostConfigManager, HostConfigSummary, HostHardwareSummary,
    HostListSummary, HostMountInfo, HostRuntimeInfo, HostSystemConnectionState, HostSystemPowerState,
    ManagedEntityStatus, ManagedObjectReference as Moref, ResourcePoolResourceUsage, ResourcePoolRuntimeInfo,
    ResourcePoolSummary, Value, VirtualAppSummary, VirtualAppVAppState, VmfsDatastoreInfo,
};

use super::objects::{Compute, Entry, Host, Object, Pool};
use super::view::{many, one, some};
use super::{World, firewall, now};
use crate::settings::Shape;

const CPUS: i16 = 8;
const MHZ: i32 = 2400;
const MEMORY: i64 = 64 << 30;

impl World {
    pub(super) fn compute_property(&self, entry: &Entry, name: &str) -> Vec<Element> {
        match &entry.object {
            Object::Compute(compute) => self.cluster_property(entry, compute, name),
            Object::Host(host) => self.host_property(entry, host, name),
            Object::Pool(pool) => self.pool_property(entry, pool, name),
            _ => Vec::new(),
        }
    }

    fn hosts_of<'a>(&'a self, compute: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.children(compute).filter(|e| matches!(e.object, Object::Host(_)))
    }

    fn cluster_property(&self, entry: &Entry, compute: &Compute, name: &str) -> Vec<Element> {
        let drs = || ClusterDrsConfigInfo {
            enabled: Some(compute.drs),
            default_vm_behavior: Some(DrsBehavior::FullyAutomated),
            vmotion_rate: Some(3),
            ..ClusterDrsConfigInfo::default()
        };
        let das = || ClusterDasConfigInfo { enabled: Some(false), ..ClusterDasConfigInfo::default() };
        let base = || ComputeResourceConfigInfo { vm_swap_placement: "vmDirectory".into(), ..Default::default() };
        match name {
            "resourcePool" => one(name, &Moref::new("ResourcePool", &compute.pool)),
            "host" => many(name, self.hosts_of(&entry.id).map(Entry::moref)),
            "datastore" => many(name, self.datastores()),
            "network" => many(name, self.networks()),
            "summary" => {
                let hosts = i16::try_from(self.hosts_of(&entry.id).count()).unwrap_or(i16::MAX);
                let summary = ComputeResourceSummary {
                    total_cpu: i32::from(hosts) * i32::from(CPUS) * MHZ,
                    total_memory: i64::from(hosts) * MEMORY,
                    num_cpu_cores: hosts * CPUS,
                    num_cpu_threads: hosts * CPUS,
                    effective_cpu: i32::from(hosts) * i32::from(CPUS) * MHZ,
                    effective_memory: i64::from(hosts) * (MEMORY >> 20),
                    num_hosts: hosts.into(),
                    num_effective_hosts: hosts.into(),
                    overall_status: ManagedEntityStatus::Green,
                };
                if !compute.cluster {
                    return one(name, &summary);
                }
                let mut element = ClusterComputeResourceSummary { base: summary, ..Default::default() }.encode(name);
                element.xsi_type = Some("ClusterComputeResourceSummary".into());
                vec![element]
            }
            "configurationEx" if compute.cluster => {
                let config = ClusterConfigInfoEx { base: base(), das_config: das(), drs_config: drs() };
                let mut element = config.encode(name);
                element.xsi_type = Some("ClusterConfigInfoEx".into());
                vec![element]
            }
            "configurationEx" => one(name, &base()),
            "configuration" if compute.cluster => {
                one(name, &ClusterConfigInfo { das_config: das(), drs_config: drs() })
            }
            _ => Vec::new(),
        }
    }

    fn host_property(&self, entry: &Entry, host: &Host, name: &str) -> Vec<Element> {
        let runtime = || HostRuntimeInfo {
            connection_state: HostSystemConnectionState::Connected,
            power_state: HostSystemPowerState::PoweredOn,
            in_maintenance_mode: false,
            ..HostRuntimeInfo::default()
        };
        let product = || {
            let mut about = self.about();
            "VMware ESXi".clone_into(&mut about.name);
            "VMware ESXi 7.0.3 build-19482537 (vic-lab)".clone_into(&mut about.full_name);
            "HostAgent".clone_into(&mut about.api_type);
            "embeddedEsx".clone_into(&mut about.product_line_id);
            about.instance_uuid = None;
            about
        };
        match name {
            "runtime" => one(name, &runtime()),
            "vm" => many(name, self.vms().filter(|(_, vm)| vm.host == entry.id).map(|(e, _)| e.moref())),
            "datastore" => many(name, self.datastores()),
            "network" => many(name, self.networks_on(&entry.id)),
            "datastoreBrowser" => {
                one(name, &Moref::new("HostDatastoreBrowser", format!("datastoreBrowser-{}", entry.id)))
            }
            "summary" => one(
                name,
                &HostListSummary {
                    host: Some(entry.moref()),
                    hardware: Some(HostHardwareSummary {
                        vendor: "QEMU".into(),
                        model: "vic-lab".into(),
                        uuid: host.uuid.clone(),
                        memory_size: MEMORY,
                        cpu_model: "QEMU".into(),
                        cpu_mhz: MHZ,
                        num_cpu_pkgs: 1,
                        num_cpu_cores: CPUS,
                        num_cpu_threads: CPUS,
                        num_nics: 1,
                        num_hbas: 1,
                        ..HostHardwareSummary::default()
                    }),
                    runtime: Some(runtime()),
                    config: HostConfigSummary {
                        name: entry.name.clone(),
                        port: 443,
                        product: Some(product()),
                        vmotion_enabled: true,
                        ..HostConfigSummary::default()
                    },
                    overall_status: ManagedEntityStatus::Green,
                    // On a lone ESXi this is what says that it belongs to no vCenter.
                    management_server_ip: (self.shape() == Shape::Vcenter).then(|| "127.0.0.1".into()),
                    ..HostListSummary::default()
                },
            ),
            "configManager" => one(
                name,
                &HostConfigManager {
                    firewall_system: Some(Moref::new("HostFirewallSystem", format!("firewallSystem-{}", entry.id))),
                    network_system: Some(Moref::new("HostNetworkSystem", format!("networkSystem-{}", entry.id))),
                    ..HostConfigManager::default()
                },
            ),
            "config" => one(
                name,
                &HostConfigInfo {
                    host: entry.moref(),
                    product: product(),
                    firewall: Some(firewall::info(host)),
                    network: Some(self.host_network(host)),
                    ..HostConfigInfo::default()
                },
            ),
            _ => Vec::new(),
        }
    }

    /// A property of one of a host's sub-systems.
    pub(crate) fn host_part_property(&self, kind: &str, host: &str, name: &str) -> Vec<Element> {
        let Some(Object::Host(host)) = self.get(host).map(|e| &e.object) else { return Vec::new() };
        match (kind, name) {
            ("HostFirewallSystem", "firewallInfo") => one(name, &firewall::info(host)),
            ("HostNetworkSystem", "networkInfo") => one(name, &self.host_network(host)),
            _ => Vec::new(),
        }
    }

    fn pool_property(&self, entry: &Entry, pool: &Pool, name: &str) -> Vec<Element> {
        let vapp_state = || {
            let on = self.vms_in_pool(&entry.id).any(|(_, vm)| vm.is_on());
            if on { VirtualAppVAppState::Started } else { VirtualAppVAppState::Stopped }
        };
        match name {
            "owner" => many(name, self.get(&pool.owner).map(Entry::moref)),
            "resourcePool" => many(name, self.children(&entry.id).map(Entry::moref)),
            "vm" => many(name, self.vms_in_pool(&entry.id).map(|(e, _)| e.moref())),
            "config" => {
                let mut config = pool.config.clone();
                config.entity = Some(entry.moref());
                one(name, &config)
            }
            "runtime" => one(name, &pool_runtime()),
            "summary" => {
                let mut config = pool.config.clone();
                config.entity = Some(entry.moref());
                let base = ResourcePoolSummary {
                    name: entry.name.clone(),
                    config,
                    runtime: pool_runtime(),
                    ..Default::default()
                };
                if pool.vapp.is_none() {
                    return one(name, &base);
                }
                let summary = VirtualAppSummary { base, v_app_state: Some(vapp_state()), ..Default::default() };
                let mut element = summary.encode(name);
                element.xsi_type = Some("VirtualAppSummary".into());
                vec![element]
            }
            _ => match &pool.vapp {
                None => Vec::new(),
                Some(vapp) => match name {
                    "vAppConfig" => one(name, &vapp.config),
                    "parentFolder" => some(name, &vapp.folder.as_ref().map(|f| Moref::new("Folder", f))),
                    "parentVApp" => {
                        let parent = entry.parent.as_deref().and_then(|p| self.get(p));
                        many(name, parent.filter(|p| p.kind() == "VirtualApp").map(Entry::moref))
                    }
                    "datastore" => many(name, self.datastores()),
                    "network" => many(name, self.networks()),
                    _ => Vec::new(),
                },
            },
        }
    }

    /// Total and free bytes of a datastore.
    pub(crate) fn space(&self, entry: &Entry) -> (u64, u64) {
        let folder = self.datastore_folder(&entry.name);
        let (total, free) = rustix::fs::statvfs(&folder)
            .map(|s| (s.f_blocks * s.f_frsize, s.f_bavail * s.f_frsize))
            .unwrap_or_default();
        (total, if self.filled.contains(&entry.name) { 0 } else { free })
    }

    /// Whether so many bytes more have room on a datastore.
    pub(crate) fn has_room(&self, datastore: &str, bytes: u64) -> bool {
        self.datastore_named(datastore).is_some_and(|(entry, _)| self.space(entry).1 >= bytes.max(1))
    }

    /// Where a datastore's files are.
    pub(crate) fn datastore_folder(&self, name: &str) -> std::path::PathBuf {
        self.datastores.join(name)
    }

    pub(super) fn datastore_property(&self, entry: &Entry, name: &str) -> Vec<Element> {
        let Object::Datastore(datastore) = &entry.object else { return Vec::new() };
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let url = format!("ds:///vmfs/volumes/{}/", datastore.uuid);
        match name {
            "summary" => {
                let (capacity, free) = self.space(entry);
                one(
                    name,
                    &DatastoreSummary {
                        datastore: Some(entry.moref()),
                        name: entry.name.clone(),
                        url,
                        capacity: signed(capacity),
                        free_space: signed(free),
                        uncommitted: Some(0),
                        accessible: true,
                        multiple_host_access: Some(self.hosts().len() > 1),
                        type_: "VMFS".into(),
                        maintenance_mode: Some("normal".into()),
                    },
                )
            }
            "info" => {
                let (_, free) = self.space(entry);
                let base = DatastoreInfo {
                    name: entry.name.clone(),
                    url,
                    free_space: signed(free),
                    max_file_size: 64 << 40,
                    timestamp: Some(now()),
                    ..DatastoreInfo::default()
                };
                let mut element = VmfsDatastoreInfo { base, ..Default::default() }.encode(name);
                element.xsi_type = Some("VmfsDatastoreInfo".into());
                vec![element]
            }
            "host" => many(
                name,
                self.hosts().into_iter().map(|key| DatastoreHostMount {
                    key,
                    mount_info: HostMountInfo {
                        path: Some(format!("/vmfs/volumes/{}", datastore.uuid)),
                        access_mode: "readWrite".into(),
                        mounted: Some(true),
                        accessible: Some(true),
                        ..HostMountInfo::default()
                    },
                }),
            ),
            "vm" => many(
                name,
                self.vms().filter(|(_, vm)| self.datastores_of(vm).contains(&entry.moref())).map(|(e, _)| e.moref()),
            ),
            "browser" => one(name, &Moref::new("HostDatastoreBrowser", format!("datastoreBrowser-{}", entry.id))),
            "capability" => one(
                name,
                &DatastoreCapability {
                    directory_hierarchy_supported: true,
                    per_file_thin_provisioning_supported: true,
                    top_level_directory_create_supported: Some(true),
                    ..DatastoreCapability::default()
                },
            ),
            _ => Vec::new(),
        }
    }
}

fn pool_runtime() -> ResourcePoolRuntimeInfo {
    let usage = |max| ResourcePoolResourceUsage {
        unreserved_for_pool: max,
        unreserved_for_vm: max,
        max_usage: max,
        ..Default::default()
    };
    ResourcePoolRuntimeInfo {
        memory: usage(MEMORY),
        cpu: usage(i64::from(MHZ) * i64::from(CPUS)),
        overall_status: ManagedEntityStatus::Green,
        ..ResourcePoolRuntimeInfo::default()
    }
}
