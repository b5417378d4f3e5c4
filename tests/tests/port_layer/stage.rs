//! [`Stage`]: a VCH without an appliance, its engine, an admin beside it, and what must hold when all is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use port_layer::container::events::{Event, History, Subject};
use port_layer::container::record::Record;
use port_layer::container::table::{Change, Table};
use port_layer::{Engine, Failure, Site, Size};
use tether_proto::{Container, Disk, Process};
use tokio::sync::broadcast;
use tokio::time::timeout;
use vch_config::{
    Addressing, ApiConfig, ApiTls, BridgeConfig, Document as _, Interface, KEY_CONFIG, Role, SCHEMA, StorageConfig,
    VchConfig, VsphereConfig,
};
use vic_tests::lab::Lab;
use vim25::Session;
use vim25::datastore::DatastorePath;
use vim25::inventory::Inventory;
use vim25::types::{
    AnyValue, AnyVirtualDevice, FileBackedVirtualDiskSpec, ManagedObjectReference, OptionValue,
    ParaVirtualSCSIController, ResourceAllocationInfo, ResourceConfigSpec, SharesInfo, SharesLevel, VAppConfigSpec,
    VirtualController, VirtualDevice, VirtualDeviceConfigSpec, VirtualDeviceConfigSpecOperation,
    VirtualDeviceDeviceBackingInfo, VirtualDeviceFileBackingInfo, VirtualDisk, VirtualDiskFlatVer2BackingInfo,
    VirtualDiskSpec, VirtualEthernetCard, VirtualEthernetCardNetworkBackingInfo, VirtualMachineConfigSpec,
    VirtualMachineFileInfo, VirtualMachineQuestionInfo, VirtualSCSIController, VirtualSCSISharing, VirtualVmxnet,
    VirtualVmxnet3, methods,
};

/// Nothing that is asked of the engine takes longer, on a busy machine either: the slowest is a stop of a process that is deaf.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What a client asks for at create, and the record keeps.
pub(crate) const CONFIG: &str =
    r#"{"Cmd":["sleep","1000"],"Env":["A=1","B=two"],"Labels":{"tier":"web","team":"one"},"Image":"played"}"#;

const DATACENTER: &str = "dc1";
pub(crate) const STORE: &str = "datastore1";
/// A name with a dot is no disk of the image store's, which removes those that no image has.
pub(crate) const DISK: &str = "base.disk";
const VCH: &str = "6d7a3c1e-0000-4000-8000-000000000001";

/// A VCH's place on a lab, and its engine.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) engine: Arc<Engine>,
    pub(crate) history: History,
    /// Another login: who works on the VMs beside the engine.
    pub(crate) admin: Session,
    pub(crate) config: VchConfig,
    /// A VM that has the image's disk: with the last one goes the disk, if an admin destroys it on a vCenter.
    pub(crate) holder: ManagedObjectReference,
    pool: ManagedObjectReference,
    /// What was there before the first container.
    before: Contents,
    /// Containers made so far: each has an id of its own.
    made: AtomicU64,
}

/// What containers could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Contents {
    vms: BTreeSet<String>,
    /// Of the datastore's root, and of the VCH's folder.
    files: BTreeSet<String>,
}

impl Stage {
    /// On two hosts: what a running VM has open, vCenter cannot read.
    pub(crate) async fn up() -> Self {
        Self::with_hosts(2).await
    }

    pub(crate) async fn with_hosts(hosts: u32) -> Self {
        let lab = Lab::played(&["--hosts", &hosts.to_string()]);
        let admin = lab.stage.session().await;
        let (config, pool, holder) = make_vch(&admin, &lab).await;
        let history = History::default();
        let engine = start(&lab, &config, &history).await;
        let before = contents(&lab, &admin, &pool).await;
        Self { lab, engine, history, admin, config, holder, pool, before, made: AtomicU64::new(0) }
    }

    /// Another engine, as after a reboot of the endpoint VM.
    pub(crate) async fn another_engine(&self) -> Arc<Engine> {
        start(&self.lab, &self.config, &History::default()).await
    }

    /// vSphere is lost to the engine, and can be reached again.
    pub(crate) async fn lose(&self) {
        self.faults(&["add", "--method", "WaitForUpdatesEx", "--fault", "SystemError"]);
        in_time("the engine's end", self.engine.ended()).await;
        self.faults(&["clear"]);
    }

    /// The engine after one that has lost vSphere: it hears of what that one has seen.
    pub(crate) async fn next_engine(&self) -> Arc<Engine> {
        start(&self.lab, &self.config, &self.history).await
    }

    /// `docker create`; gives the id.
    pub(crate) async fn create(&self, name: &str, args: &[&str], host_config: &str) -> Result<String, Failure> {
        // Its beginning is in the VM's name, and tells it from others.
        let id = format!("{:012x}{}", self.made.fetch_add(1, Ordering::Relaxed), "0".repeat(52));
        let record = Record {
            schema: SCHEMA,
            id: id.clone(),
            name: name.into(),
            vch: String::new(),
            created_ns: 1,
            image: "played".into(),
            image_id: "sha256:0".into(),
            disk: DISK.into(),
            config: CONFIG.into(),
            host_config: host_config.into(),
        };
        let process = Process { args: args.iter().map(|&a| a.to_owned()).collect(), ..Process::default() };
        let root = Disk { unit: 0, file_system: String::new() };
        let guest = Container { schema: SCHEMA, id: id.clone(), process, root, ..Container::default() };
        let size = Size { memory_mib: 128, cpus: 1 };
        in_time("create", self.engine.create_container(record, guest, size)).await?;
        Ok(id)
    }

    /// A VM with the endpoint VM's configuration, as a clone has it, and a card of its own or none.
    pub(crate) async fn copy_endpoint(&self) {
        let text = AnyValue::of(&self.config.to_text());
        self.copy(vec![OptionValue { key: KEY_CONFIG.into(), value: Some(text) }]).await;
    }

    /// A VM with all that a container's has in its extraConfig, as a clone of it has.
    pub(crate) async fn copy_container(&self, container: &str) -> ManagedObjectReference {
        let vm = self.engine.table().find(container).unwrap().vm.clone();
        let this = ManagedObjectReference::new("VirtualMachine", vm);
        let facts = self.admin.read(&this, &["config.extraConfig"]).await.unwrap();
        self.copy(facts.all("config.extraConfig").unwrap()).await
    }

    async fn copy(&self, extra_config: Vec<OptionValue>) -> ManagedObjectReference {
        let config = VirtualMachineConfigSpec {
            name: Some("copy".into()),
            guest_id: Some("other3xLinux64Guest".into()),
            files: Some(VirtualMachineFileInfo { vm_path_name: Some(format!("[{STORE}]")), ..Default::default() }),
            extra_config,
            ..Default::default()
        };
        let create = methods::CreateChildVMTask { this: self.pool.clone(), config, host: None };
        self.admin.run(&create).await.unwrap().unwrap().get().unwrap()
    }

    /// The image's disk.
    pub(crate) fn image(&self) -> std::path::PathBuf {
        self.lab.folder().join("datastores").join(STORE).join("vch/images").join(DISK).join("disk.vmdk")
    }

    /// `vic-lab faults ...`
    pub(crate) fn faults(&self, args: &[&str]) -> String {
        let output = self.lab.run(&[&["faults"], args].concat());
        assert!(output.status.success(), "{}", vic_tests::lab::text(&output));
        vic_tests::lab::text(&output)
    }

    /// Makes a container's VM ask something, which is on.
    pub(crate) async fn ask(&self, container: &str, text: &str) {
        let vm = self.engine.table().find(container).unwrap().vm.clone();
        self.faults(&["add", "--method", "Reload", "--object", &vm, "--times", "1", "--question", text]);
        let this = ManagedObjectReference::new("VirtualMachine", vm);
        self.admin.call(&methods::Reload { this }).await.unwrap();
    }

    /// An admin's answer to what a container's VM asks.
    pub(crate) async fn answer(&self, container: &str, choice: &str) {
        let this = ManagedObjectReference::new("VirtualMachine", &self.engine.table().find(container).unwrap().vm);
        let facts = self.admin.read(&this, &["runtime.question"]).await.unwrap();
        let question: VirtualMachineQuestionInfo = facts.require("runtime.question").unwrap();
        let (question_id, answer_choice) = (question.id, choice.to_owned());
        self.admin.call(&methods::AnswerVM { this, question_id, answer_choice }).await.unwrap();
    }

    /// Waits until the engine sees its containers as they are to be.
    pub(crate) async fn until(&self, what: &str, accept: impl Fn(&Table) -> bool) {
        let seen = async {
            while !accept(&self.engine.table()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time(what, seen).await;
    }

    /// Every container can be removed by force; then there is nothing of any.
    pub(crate) async fn clean_up(&self) {
        let table = self.engine.table();
        let removals = table.iter().map(|container| async move {
            let id = &container.record.id;
            match in_time("rm -f at the end", self.engine.remove_container(id, true)).await {
                // One with `--rm` may go by itself.
                Ok(_) | Err(Failure::NotFound(_)) => {}
                Err(failure) => panic!("rm -f of {container:?}: {failure:?}"),
            }
        });
        futures_util::future::join_all(removals).await;
        assert_eq!(self.engine.table().iter().count(), 0, "{:?}", self.engine.table());
        self.nothing_is_left().await;
    }

    /// There is no VM and no file that was not there before the first container.
    pub(crate) async fn nothing_is_left(&self) {
        // What a failed create or an admin left is removed by the engine itself, in a moment.
        let clean = async {
            loop {
                let now = contents(&self.lab, &self.admin, &self.pool).await;
                if now == self.before {
                    return;
                }
                // Files cannot be watched.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(DEADLINE, clean).await.is_err() {
            panic!("left: {:?} of {:?}", contents(&self.lab, &self.admin, &self.pool).await, self.before);
        }
    }
}

/// A runtime with two threads, as the endpoint VM's: what happens at once happens at once.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What comes of `operation`, which must come in time.
pub(crate) async fn in_time<T>(what: &str, operation: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, operation).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what} did not return"),
    }
}

async fn start(lab: &Lab, config: &VchConfig, history: &History) -> Arc<Engine> {
    let session = lab.stage.session().await;
    let site = Site::find(&session, config).await.unwrap();
    Engine::start(site, history.clone(), None).await.unwrap()
}

/// Looks at the datastore from below: what vSphere does not list is there all the same.
async fn contents(lab: &Lab, admin: &Session, pool: &ManagedObjectReference) -> Contents {
    let vms = admin.contained(pool, "VirtualMachine", false, &["name"]).await.unwrap();
    let vms = vms.iter().filter_map(|vm| vm.get("name").unwrap()).collect();
    let root = lab.folder().join("datastores").join(STORE);
    let names = |folder: std::path::PathBuf| {
        let entries = std::fs::read_dir(folder).unwrap().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    let files = [root.clone(), root.join("vch")].into_iter().flat_map(names).collect();
    Contents { vms, files }
}

/// A vApp with a VM that carries the configuration, and an image's disk; the endpoint VM is never switched on.
async fn make_vch(admin: &Session, lab: &Lab) -> (VchConfig, ManagedObjectReference, ManagedObjectReference) {
    let inventory = Inventory::load(admin).await.unwrap();
    let named = |kind: &str, name: &str| {
        let node = inventory.of_kind("ManagedEntity").find(|n| n.reference.kind == kind && n.name == name);
        node.unwrap_or_else(|| panic!("there is no {kind} {name}")).reference.clone()
    };
    let datacenter = named("Datacenter", DATACENTER);
    let vms = admin.read(&datacenter, &["vmFolder"]).await.unwrap().require("vmFolder").unwrap();
    let cluster = named("ClusterComputeResource", "cluster1");
    let cluster = admin.read(&cluster, &["resourcePool"]).await.unwrap();
    let root_pool: ManagedObjectReference = cluster.require("resourcePool").unwrap();
    let folder = admin.call(&methods::CreateFolder { this: vms, name: "vch".into() }).await.unwrap();
    let allocation = || ResourceAllocationInfo {
        reservation: Some(0),
        expandable_reservation: Some(true),
        limit: Some(-1),
        shares: Some(SharesInfo { shares: 0, level: SharesLevel::Normal }),
        ..Default::default()
    };
    let create = methods::CreateVApp {
        this: root_pool.clone(),
        name: "vch".into(),
        res_spec: ResourceConfigSpec {
            cpu_allocation: allocation(),
            memory_allocation: allocation(),
            ..Default::default()
        },
        config_spec: VAppConfigSpec::default(),
        vm_folder: Some(folder.clone()),
    };
    let pool = admin.call(&create).await.unwrap();
    let store = DatastorePath::new(STORE, "vch");
    let file_manager = admin.content().file_manager.clone().unwrap();
    for path in ["images", &format!("images/{DISK}")] {
        let make = methods::MakeDirectory {
            this: file_manager.clone(),
            name: store.join(path).to_string(),
            datacenter: Some(datacenter.clone()),
            create_parent_directories: Some(true),
        };
        admin.call(&make).await.unwrap();
    }
    let disk = methods::CreateVirtualDiskTask {
        this: admin.content().virtual_disk_manager.clone().unwrap(),
        name: store.join("images").join(DISK).join("disk.vmdk").to_string(),
        datacenter: Some(datacenter.clone()),
        spec: FileBackedVirtualDiskSpec {
            base: VirtualDiskSpec { disk_type: "thin".into(), adapter_type: "lsiLogic".into() },
            capacity_kb: 64 << 10,
            ..Default::default()
        }
        .into(),
    };
    admin.run(&disk).await.unwrap();
    let bootstrap = store.join("bootstrap.iso");
    admin.write_file(DATACENTER, &bootstrap, b"never read".to_vec()).await.unwrap();

    let mac = "00:50:56:00:00:01";
    let config = VchConfig {
        schema: SCHEMA,
        id: VCH.into(),
        name: "vch".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        created: String::new(),
        debug: 0,
        vsphere: VsphereConfig {
            target: lab.stage.target.clone(),
            datacenter: datacenter.value,
            pool: pool.value.clone(),
            folder: folder.value,
            ..VsphereConfig::default()
        },
        interfaces: vec![Interface {
            mac: mac.into(),
            port_group: "VM Network".into(),
            network: String::new(),
            roles: vec![Role::Bridge],
            ipv4: Addressing::None,
        }],
        dns_servers: Vec::new(),
        bridge: BridgeConfig { range: "172.16.0.0/12".into(), width: 16, made: None },
        api: ApiConfig { port: 2375, tls: ApiTls::None },
        storage: StorageConfig {
            image_store: store.to_string(),
            bootstrap_iso: bootstrap.to_string(),
            volume_stores: Vec::new(),
        },
        registry: Default::default(),
        limits: Default::default(),
        create_options: Vec::new(),
    };
    let network = VirtualEthernetCardNetworkBackingInfo {
        base: VirtualDeviceDeviceBackingInfo { device_name: "VM Network".into(), ..Default::default() },
        network: Some(named("Network", "VM Network")),
        ..Default::default()
    };
    let card = VirtualEthernetCard {
        base: VirtualDevice { key: -1, backing: Some(network.into()), ..Default::default() },
        address_type: Some("manual".into()),
        mac_address: Some(mac.into()),
        ..Default::default()
    };
    let card = VirtualVmxnet3 { base: VirtualVmxnet { base: card }, ..Default::default() };
    let add = |device: AnyVirtualDevice| VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Add),
        device,
        ..Default::default()
    };
    let spec = VirtualMachineConfigSpec {
        name: Some("vch".into()),
        guest_id: Some("other3xLinux64Guest".into()),
        files: Some(VirtualMachineFileInfo { vm_path_name: Some(format!("[{STORE}]")), ..Default::default() }),
        num_cpus: Some(1),
        memory_mb: Some(128),
        // No SCSI controller: the engine, which is on the test's machine, must not take a disk of that for one of the VM's.
        device_change: vec![add(card.into())],
        extra_config: vec![OptionValue { key: KEY_CONFIG.into(), value: Some(AnyValue::of(&config.to_text())) }],
        ..Default::default()
    };
    admin.run(&methods::CreateChildVMTask { this: pool.clone(), config: spec, host: None }).await.unwrap();
    let controller = VirtualController { base: VirtualDevice { key: -1, ..Default::default() }, ..Default::default() };
    let controller = ParaVirtualSCSIController {
        base: VirtualSCSIController {
            base: controller,
            shared_bus: VirtualSCSISharing::NoSharing,
            ..Default::default()
        },
    };
    let file = VirtualDeviceFileBackingInfo {
        file_name: store.join("images").join(DISK).join("disk.vmdk").to_string(),
        ..Default::default()
    };
    let backing = VirtualDiskFlatVer2BackingInfo { base: file, disk_mode: "persistent".into(), ..Default::default() };
    let disk = VirtualDevice {
        key: -2,
        controller_key: Some(-1),
        unit_number: Some(0),
        backing: Some(backing.into()),
        ..Default::default()
    };
    let spec = VirtualMachineConfigSpec {
        name: Some("holder".into()),
        guest_id: Some("other3xLinux64Guest".into()),
        files: Some(VirtualMachineFileInfo { vm_path_name: Some(format!("[{STORE}]")), ..Default::default() }),
        device_change: vec![add(controller.into()), add(VirtualDisk { base: disk, ..Default::default() }.into())],
        ..Default::default()
    };
    let this = ManagedObjectReference::new("Folder", &config.vsphere.folder);
    let create = methods::CreateVMTask { this, config: spec, pool: root_pool, host: None };
    let holder = admin.run(&create).await.unwrap().unwrap().get().unwrap();
    (config, pool, holder)
}

/// What is told of containers, from now on.
pub(crate) struct Told {
    history: History,
    events: broadcast::Receiver<Arc<Event>>,
}

impl Told {
    pub(crate) fn listen(history: &History) -> Self {
        Self { history: history.clone(), events: history.listen().1 }
    }

    /// Starts and ends of every container alternate between its create and its destroy, which is the last that it does.
    pub(crate) fn check(&mut self) {
        let mut stories: BTreeMap<String, Vec<Change>> = BTreeMap::new();
        // What is seen in the table may be about to be told: who looks at the history waits for that.
        let _ = self.history.listen();
        while let Ok(event) = self.events.try_recv() {
            if let Subject::Container { record, change } = &event.subject {
                stories.entry(record.id.clone()).or_default().push(change.clone());
            }
        }
        for (id, story) in stories {
            let (mut there, mut alive) = (false, false);
            for change in &story {
                let fits = match change {
                    Change::Create => !std::mem::replace(&mut there, true),
                    Change::Destroy => !alive && std::mem::replace(&mut there, false),
                    Change::Start => there && !std::mem::replace(&mut alive, true),
                    Change::Die { .. } => there && std::mem::replace(&mut alive, false),
                    // What a client did may be told when the container is gone.
                    _ => true,
                };
                assert!(fits, "{change:?} of {id} in {story:?}");
            }
            assert!(!there && !alive, "{id} is not at its end: {story:?}");
        }
    }
}
