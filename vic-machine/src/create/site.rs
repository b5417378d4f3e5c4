//! [`Site`]: the vSphere objects that the settings name, checked.  All problems are reported at once.

use std::collections::BTreeMap;

use vch_config::{MadeNetwork, Role};
use vim25::Session;
use vim25::datastore::DatastorePath;
use vim25::inventory::{Inventory, Lookup, Node};
use vim25::property::Object;
use vim25::types::{
    AnyComputeResourceConfigInfo, HostVirtualSwitch, KeyValue, ManagedObjectReference, methods, schema,
};

use super::settings::Settings;
use crate::printer::Printer;
use crate::problem::{Exit, Problem};
use crate::{names, remove, vch};

/// Where a VCH is made.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) vcenter: bool,
    pub(crate) datacenter: Node,
    /// Inventory path of the datacenter, as `/folder` wants it.
    pub(crate) datacenter_path: String,
    pub(crate) vm_folder: ManagedObjectReference,
    pub(crate) compute: Node,
    pub(crate) compute_path: String,
    /// The pool in which the VCH's vApp or pool is made.
    pub(crate) parent_pool: ManagedObjectReference,
    /// Whether the VCH gets a vApp of its own, a pool of its own, or shares the parent pool.
    pub(crate) housing: Housing,
    pub(crate) datastore: Node,
    pub(crate) networks: BTreeMap<String, Network>,
    /// On an ESXi host without the bridge network: the switch and port group to make for it.
    pub(crate) bridge_to_make: Option<MadeNetwork>,
    /// Leftovers of an earlier create that died: an empty folder or pool of the VCH's name, which is used again.
    pub(crate) found_folder: Option<ManagedObjectReference>,
    pub(crate) found_pool: Option<ManagedObjectReference>,
}

/// Networks that reach every host of a cluster, as containers on different hosts need.
const BRIDGES: &[&str] = &["DistributedVirtualPortgroup", "OpaqueNetwork"];

/// What holds the VCH's VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Housing {
    /// A vApp: vCenter with DRS.
    VApp,
    /// A resource pool: ESXi.
    Pool,
    /// The chosen pool itself: a cluster without DRS can have no pools.
    Shared,
}

/// A port group and how a NIC is connected to it.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) reference: ManagedObjectReference,
    pub(crate) name: String,
    /// UUID of the distributed switch and key of the port group.
    pub(crate) distributed: Option<(String, String)>,
}

/// Checks the settings against the inventory.
pub(crate) async fn validate(settings: &Settings, session: &Session, printer: Printer) -> Result<Site, Vec<Problem>> {
    let inventory =
        Inventory::load(session).await.map_err(|e| vec![Problem::doing("cannot read the inventory", &e)])?;
    let datacenter = datacenter(settings, &inventory).map_err(|p| vec![p])?;
    let dc = Some(&datacenter.reference);
    let mut problems = Vec::new();
    let compute = match compute(settings, &inventory, dc) {
        Ok(compute) => Some(compute),
        Err(p) => {
            problems.push(p);
            None
        }
    };
    let mut check = Check { settings, session, inventory: &inventory, problems, printer };
    let outcome = check.all(&datacenter, compute).await;
    let mut problems = std::mem::take(&mut check.problems);
    match outcome {
        Ok(Some(site)) if problems.is_empty() => Ok(site),
        Ok(_) => Err(problems),
        Err(e) => {
            problems.push(Problem::doing("the prerequisites cannot be checked", &e));
            Err(problems)
        }
    }
}

/// What is wrong with a folder for the images on a datastore where only VMs' own folders can be, as on vSAN.
fn without_folders(store: &DatastorePath) -> Option<Problem> {
    (!store.path.is_empty()).then(|| {
        Problem::validation(format!("--image-store: there can be no folder {:?} on {:?}", store.path, store.datastore))
            .why("this datastore has no folders but those of VMs, as vSAN")
            .remedy(format!("give --image-store {}: the images are in the VCH's own folder then", store.datastore))
    })
}

fn datacenter(settings: &Settings, inventory: &Inventory) -> Result<Node, Problem> {
    let all: Vec<&Node> = inventory.of_kind("Datacenter").collect();
    let names = || inventory.suggestions(&all);
    match &settings.target.datacenter {
        Some(wanted) => match inventory.find(&["Datacenter"], None, wanted) {
            Lookup::Found(node) => Ok(node),
            Lookup::Ambiguous(paths) => Err(vch::ambiguous("--target", wanted, &paths)),
            Lookup::NotFound(_) => Err(Problem::validation(format!("Datacenter {wanted:?} in --target is not found"))
                .remedy(format!("Suggested datacenters: {}", names::nearest(wanted, &names()).join(", ")))),
        },
        None => match all.as_slice() {
            [one] => Ok((*one).clone()),
            [] => Err(Problem::new(Exit::Permission, "there is no datacenter that this user can see")
                .remedy("give the user the ReadOnly role on the datacenter")),
            _ => Err(Problem::validation("Datacenter must be specified in --target (e.g. https://addr/datacenter)")
                .remedy(format!("Suggested datacenters: {}", names().join(", ")))),
        },
    }
}

fn compute(settings: &Settings, inventory: &Inventory, dc: Option<&ManagedObjectReference>) -> Result<Node, Problem> {
    if let Some(wanted) = &settings.compute_resource {
        return vch::compute(inventory, dc, wanted);
    }
    match inventory.candidates(&["ComputeResource"], dc).as_slice() {
        [one] => Ok((*one).clone()),
        many => Err(Problem::validation(
            "No unambiguous default compute resource available: --compute-resource must be specified",
        )
        .remedy(format!("Suggested values for --compute-resource: {}", inventory.suggestions(many).join(", ")))),
    }
}

struct Check<'a> {
    settings: &'a Settings,
    session: &'a Session,
    inventory: &'a Inventory,
    problems: Vec<Problem>,
    printer: Printer,
}

impl Check<'_> {
    async fn all(&mut self, datacenter: &Node, compute: Option<Node>) -> Result<Option<Site>, vim25::Error> {
        self.version();
        let vcenter = self.session.is_vcenter();
        let folder: ManagedObjectReference =
            self.session.read(&datacenter.reference, &["vmFolder"]).await?.require("vmFolder")?;
        let Some(compute) = compute else {
            // Without hosts neither datastores nor networks can be judged, but their names can.
            self.datastore(datacenter, None);
            self.networks(datacenter, None, &mut None).await?;
            return Ok(None);
        };
        let owner = self.owner(&compute);
        let facts =
            self.session.read(&owner, &["host", "datastore", "network", "resourcePool", "configurationEx"]).await?;
        let hosts: Vec<ManagedObjectReference> = facts.all("host")?;
        let housing = self.housing(vcenter, &owner, &facts)?;
        let datastore = self.datastore(datacenter, Some(&facts.all("datastore")?));
        if let Some(datastore) = &datastore {
            self.space(datastore).await?;
        }
        let mut bridge_to_make = None;
        let networks = self.networks(datacenter, Some(&hosts), &mut bridge_to_make).await?;
        if vcenter {
            self.licence().await?;
        }
        self.clock().await?;
        let parent_pool = if schema::managed_is_a(&compute.reference.kind, "ResourcePool") {
            compute.reference.clone()
        } else {
            facts.require("resourcePool")?
        };
        let found_folder =
            if vcenter { self.name_in(&folder, &["Folder", "VirtualApp", "VirtualMachine"]).await? } else { None };
        let found_pool = if housing == Housing::Shared {
            None
        } else {
            self.name_in(&parent_pool, &["VirtualApp", "ResourcePool"]).await?
        };
        self.name_in(&parent_pool, &["VirtualMachine"]).await?;
        let Some(datastore) = datastore else { return Ok(None) };
        Ok(Some(Site {
            vcenter,
            datacenter: datacenter.clone(),
            datacenter_path: self.inventory.path(&datacenter.reference).trim_start_matches('/').to_owned(),
            vm_folder: folder,
            compute_path: self.inventory.path(&compute.reference),
            compute,
            parent_pool,
            housing,
            datastore,
            networks,
            bridge_to_make,
            found_folder,
            found_pool,
        }))
    }

    fn version(&mut self) {
        let about = &self.session.content().about;
        let mut parts = about.api_version.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version < (6, 5) {
            self.problems.push(
                Problem::validation(format!("{} is too old", about.full_name))
                    .why(format!("it speaks API version {}, and 6.5 is the oldest supported", about.api_version))
                    .remedy("upgrade vSphere"),
            );
        }
    }

    /// The compute resource that a pool belongs to, or itself.
    fn owner(&self, compute: &Node) -> ManagedObjectReference {
        if !schema::managed_is_a(&compute.reference.kind, "ResourcePool") {
            return compute.reference.clone();
        }
        let mut above = self.inventory.ancestors(&compute.reference);
        above
            .find(|n| schema::managed_is_a(&n.reference.kind, "ComputeResource"))
            .map_or_else(|| compute.reference.clone(), |n| n.reference.clone())
    }

    fn housing(&self, vcenter: bool, owner: &ManagedObjectReference, facts: &Object) -> Result<Housing, vim25::Error> {
        if !vcenter {
            return Ok(Housing::Pool);
        }
        if owner.kind != "ClusterComputeResource" {
            // A host of its own in vCenter can have pools, and its vApps need no DRS.
            return Ok(Housing::VApp);
        }
        let drs = match facts.get::<AnyComputeResourceConfigInfo>("configurationEx")? {
            Some(AnyComputeResourceConfigInfo::ClusterConfigInfoEx(c)) => c.drs_config.enabled.unwrap_or(false),
            _ => false,
        };
        if drs {
            return Ok(Housing::VApp);
        }
        let limits = &self.settings.limits;
        self.printer.warn("DRS is off on the cluster: the VCH gets no pool of its own");
        if limits.cpu_mhz.is_some() || limits.memory_mib.is_some() {
            self.printer.warn("DRS is off on the cluster: --cpu and --memory have no effect");
        }
        Ok(Housing::Shared)
    }

    fn datastore(&mut self, datacenter: &Node, usable: Option<&[ManagedObjectReference]>) -> Option<Node> {
        let flag = "--image-store";
        let dc = Some(&datacenter.reference);
        let all = self.inventory.candidates(&["Datastore"], dc);
        let usable: Vec<&Node> = all.into_iter().filter(|n| usable.is_none_or(|u| u.contains(&n.reference))).collect();
        let suggestions = self.inventory.suggestions(&usable);
        let problem = match &self.settings.image_store {
            Some(wanted) => match self.inventory.find(&["Datastore"], dc, &wanted.datastore) {
                Lookup::Found(node) if usable.iter().any(|n| n.reference == node.reference) => return Some(node),
                Lookup::Found(node) => {
                    Problem::validation(format!("Datastore {:?} is not accessible by the compute resource", node.name))
                        .remedy(format!("Suggested values for {flag}: {}", suggestions.join(", ")))
                }
                Lookup::Ambiguous(paths) => vch::ambiguous(flag, &wanted.datastore, &paths),
                Lookup::NotFound(_) => vch::not_found(flag, &wanted.datastore, &suggestions),
            },
            None => match usable.as_slice() {
                [one] => {
                    self.printer.info(format!("Using default datastore: {}", one.name));
                    return Some((*one).clone());
                }
                _ => Problem::validation("datastore empty: --image-store must be specified")
                    .remedy(format!("Suggested values for {flag}: {}", suggestions.join(", "))),
            },
        };
        self.problems.push(problem);
        None
    }

    /// The ISO, and the quota that the admin promises, must fit.
    async fn space(&mut self, datastore: &Node) -> Result<(), vim25::Error> {
        let folders = "capability.topLevelDirectoryCreateSupported";
        let paths = ["summary.freeSpace", "summary.accessible", folders];
        let facts = self.session.read(&datastore.reference, &paths).await?;
        if facts.get::<bool>("summary.accessible")? == Some(false) {
            self.problems.push(
                Problem::validation(format!("Datastore {:?} is not accessible", datastore.name))
                    .remedy("reconnect it, or choose another with --image-store"),
            );
            return Ok(());
        }
        let free = facts.get::<i64>("summary.freeSpace")?.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let images: u64 = self.settings.images().iter().map(|iso| iso.size).sum();
        if free < images {
            self.problems.push(
                Problem::validation(format!("Datastore {:?} is full", datastore.name))
                    .why(format!("{free} bytes are free, and the ISOs have {images}"))
                    .remedy("free space, or choose another with --image-store"),
            );
        }
        if facts.get::<bool>(folders)? == Some(false) {
            self.problems.extend(self.settings.image_store.as_ref().and_then(without_folders));
        }
        if let Some(quota) = self.settings.limits.storage_bytes.filter(|q| *q > free) {
            self.problems.push(
                Problem::validation("Storage quota exceeds datastore free space")
                    .why(format!("--storage-quota is {quota} bytes, and {free} are free on {:?}", datastore.name))
                    .remedy("give a smaller --storage-quota, or another --image-store"),
            );
        }
        Ok(())
    }

    async fn networks(
        &mut self,
        datacenter: &Node,
        hosts: Option<&[ManagedObjectReference]>,
        bridge_to_make: &mut Option<MadeNetwork>,
    ) -> Result<BTreeMap<String, Network>, vim25::Error> {
        let mut out = BTreeMap::new();
        let settings = self.settings;
        for wanted in &settings.networks {
            if out.contains_key(&wanted.network) {
                continue;
            }
            let flag = format!("--{}-network", wanted.role.name());
            let node = match self.inventory.find(&["Network"], Some(&datacenter.reference), &wanted.network) {
                Lookup::Found(node) => node,
                Lookup::Ambiguous(paths) => {
                    self.problems.push(vch::ambiguous(&flag, &wanted.network, &paths));
                    continue;
                }
                Lookup::NotFound(_) if wanted.role == Role::Bridge && !self.session.is_vcenter() => {
                    *bridge_to_make = self.new_switch(&flag, &wanted.network, hosts).await?;
                    continue;
                }
                Lookup::NotFound(mut names) => {
                    let bridge = wanted.role == Role::Bridge;
                    if bridge {
                        names = self
                            .inventory
                            .suggestions(&self.inventory.candidates(BRIDGES, Some(&datacenter.reference)));
                    }
                    let mut problem = vch::not_found(&flag, &wanted.network, &names);
                    problem.what = format!("{flag}: network '{}' not found", wanted.network);
                    if bridge {
                        problem.why.push(
                            "An existing distributed port group or opaque network must be specified for bridge network on vCenter"
                                .into(),
                        );
                    }
                    self.problems.push(problem);
                    continue;
                }
            };
            let facts = self.session.read(&node.reference, &["host"]).await?;
            let members: Vec<ManagedObjectReference> = facts.all("host")?;
            if wanted.role == Role::Bridge && self.session.is_vcenter() {
                self.bridge(&flag, &node, &members, hosts);
            }
            let distributed = self.distributed(&node).await?;
            let network = Network { reference: node.reference, name: node.name, distributed };
            out.insert(wanted.network.clone(), network);
        }
        Ok(out)
    }

    /// The switch to make for the bridge network.  One of its name that is empty is a leftover, and is used.
    async fn new_switch(
        &mut self,
        flag: &str,
        name: &str,
        hosts: Option<&[ManagedObjectReference]>,
    ) -> Result<Option<MadeNetwork>, vim25::Error> {
        let Some(host) = hosts.and_then(<[_]>::first) else { return Ok(None) };
        let facts = self.session.read(host, &["configManager.networkSystem"]).await?;
        let network_system: ManagedObjectReference = facts.require("configManager.networkSystem")?;
        if let Err(problem) = names::check_vch_name(name) {
            self.problems.push(Problem { what: format!("{flag}: a switch cannot be named {name:?}"), ..problem });
            return Ok(None);
        }
        let facts = self.session.read(&network_system, &["networkInfo.vswitch"]).await?;
        let switches: Vec<HostVirtualSwitch> = facts.all("networkInfo.vswitch")?;
        if switches.iter().any(|s| s.name == name && !(s.portgroup.is_empty() && s.pnic.is_empty())) {
            self.problems.push(
                Problem::validation(format!("{flag}: there is no port group {name:?}, and it cannot be created"))
                    .why(format!("a switch of that name is in use on {}", self.session.target()))
                    .remedy("choose another name, or name an existing port group"),
            );
            return Ok(None);
        }
        Ok(Some(MadeNetwork { network_system: network_system.value, name: name.to_owned() }))
    }

    /// Containers run on any host of the cluster, so every host must carry the bridge network.
    fn bridge(
        &mut self,
        flag: &str,
        node: &Node,
        members: &[ManagedObjectReference],
        hosts: Option<&[ManagedObjectReference]>,
    ) {
        if !BRIDGES.contains(&node.reference.kind.as_str()) {
            self.problems.push(
                Problem::validation(format!("{flag}: {:?} is a port group of a standard switch", node.name))
                    .why("An existing distributed port group or opaque network must be specified for bridge network on vCenter")
                    .remedy("create a distributed port group on a switch that every host of the cluster is a member of"),
            );
        } else if let Some(missing) = hosts.and_then(|h| h.iter().find(|h| !members.contains(h))) {
            let host = self.inventory.node(missing).map_or(missing.value.as_str(), |n| n.name.as_str());
            self.problems.push(
                Problem::validation(format!("{flag}: host {host:?} is not connected to {:?}", node.name))
                    .why("All cluster hosts must be in the vDS or Opaque Network")
                    .remedy("add the host to the distributed switch"),
            );
        }
    }

    async fn distributed(&self, node: &Node) -> Result<Option<(String, String)>, vim25::Error> {
        if node.reference.kind != "DistributedVirtualPortgroup" {
            return Ok(None);
        }
        let facts = self.session.read(&node.reference, &["key", "config.distributedVirtualSwitch"]).await?;
        let switch: ManagedObjectReference = facts.require("config.distributedVirtualSwitch")?;
        let uuid = self.session.read(&switch, &["uuid"]).await?.require("uuid")?;
        Ok(Some((uuid, facts.require("key")?)))
    }

    /// Distributed port groups are a licensed feature.
    async fn licence(&mut self) -> Result<(), vim25::Error> {
        let Some(manager) = self.session.content().license_manager.clone() else { return Ok(()) };
        let facts = self.session.read(&manager, &["licenseAssignmentManager"]).await?;
        let Some(this) = facts.get::<ManagedObjectReference>("licenseAssignmentManager")? else { return Ok(()) };
        let assigned = self.session.call(&methods::QueryAssignedLicenses { this, entity_id: None }).await?;
        let has_dvs = assigned.iter().flat_map(|a| &a.assigned_license.properties).any(|p| {
            let feature = p.value.get::<KeyValue>().map(|f| f.key).unwrap_or_default();
            p.key == "feature" && feature.split(':').next() == Some("dvs")
        });
        if !assigned.is_empty() && !has_dvs {
            self.problems.push(
                Problem::validation("License does not meet minimum requirements to use VIC")
                    .why("no assigned licence has the feature dvs (vSphere Distributed Switch)")
                    .remedy("assign an Enterprise Plus licence to the hosts"),
            );
        }
        Ok(())
    }

    /// Certificates fail when clocks differ by much.
    async fn clock(&mut self) -> Result<(), vim25::Error> {
        let skew = time::OffsetDateTime::now_utc().unix_timestamp() - vch::clock(self.session).await?;
        if skew.abs() > 3600 {
            self.printer.warn(format!(
                "the clock of {} differs from this machine's by {} s: certificates may be refused",
                self.session.target(),
                skew.abs()
            ));
        }
        Ok(())
    }

    /// A folder, pool or vApp of the VCH's name: taken, or an empty leftover of a create that died.
    async fn name_in(
        &mut self,
        holder: &ManagedObjectReference,
        kinds: &[&str],
    ) -> Result<Option<ManagedObjectReference>, vim25::Error> {
        let Some(found) = remove::child_named(self.session, holder, kinds, &self.settings.name).await? else {
            return Ok(None);
        };
        let holds_things = found.kind == "VirtualMachine" || {
            let mut inside = remove::children(self.session, &found).await?;
            // An empty vApp in the folder is judged where pools are.
            for i in (0..inside.len()).rev() {
                if inside[i].kind == "VirtualApp" && remove::children(self.session, &inside[i]).await?.is_empty() {
                    inside.remove(i);
                }
            }
            !inside.is_empty()
        };
        if holds_things {
            self.taken(&found);
            return Ok(None);
        }
        Ok(Some(found))
    }

    fn taken(&mut self, by: &ManagedObjectReference) {
        let what = format!("{:?} already exists: the name is already in use", self.settings.name);
        if self.problems.iter().any(|p| p.what == what) {
            return;
        }
        let mut problem = Problem::validation(what)
            .why(format!("{} {} has it", by.kind, by.value))
            .remedy("choose another --name, or remove the VCH with vic-machine delete");
        problem.exit = Exit::Conflict;
        self.problems.push(problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datastore_without_folders_takes_images_beside_the_endpoint_vm_only() {
        assert!(without_folders(&DatastorePath::new("vsan", "")).is_none());
        let problem = without_folders(&DatastorePath::new("vsan", "images")).unwrap();
        assert!(problem.what.contains("\"images\" on \"vsan\""), "{}", problem.what);
        assert!(problem.remedy[0].starts_with("give --image-store vsan:"), "{:?}", problem.remedy);
    }
}
