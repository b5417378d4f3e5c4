//! The lab as a stage: vim25 with real guests, in a folder and a network namespace of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use vim25::Session;
use vim25::property::Object;
use vim25::types::{
    AnyVirtualDevice, VirtualDevice, VirtualDeviceConfigSpec, VirtualDeviceConfigSpecOperation,
    VirtualDeviceDeviceBackingInfo, VirtualEthernetCard, VirtualEthernetCardNetworkBackingInfo,
    VirtualMachineConfigSpec, VirtualVmxnet, VirtualVmxnet3, methods,
};

use crate::{Place, Stage, program};

/// A lab that runs; it is taken down with this value.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
    /// What `up` is told beyond the usual.
    args: Vec<String>,
    /// Where its daemon finds programs before it looks elsewhere.
    programs: Option<PathBuf>,
    /// The stage on it.
    pub stage: Stage,
}

/// The address of the endpoint VM in every test: labs are apart, each in its own namespace.
pub const ADDRESS: &str = "192.168.120.10";

impl Lab {
    /// Starts a lab with the images beside it; `args` go to `vic-lab up`.
    pub fn up(args: &[&str]) -> Self {
        let lab = Self::bare(args);
        for iso in ["appliance.iso", "bootstrap.iso"] {
            std::fs::copy(program(iso), lab.stage.folder.path().join(iso)).unwrap();
        }
        lab
    }

    /// Starts a lab and nothing else; `args` go to `vic-lab up`.
    pub fn bare(args: &[&str]) -> Self {
        Self::with(args, false)
    }

    /// Starts a lab whose VMs are no QEMU: their guests are played (see `src/bin/played-guest.rs`), and a VM is there in tens of
    /// milliseconds.  All else is the lab's own: what it refuses, it refuses as ever.  `args` go to `vic-lab up`.
    pub fn played(args: &[&str]) -> Self {
        Self::with(args, true)
    }

    fn with(args: &[&str], played: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lab = folder.path().join("lab");
        let (datacenter, compute) = if args.contains(&"--esxi") { ("ha-datacenter", "") } else { ("dc1", "cluster1") };
        let place = Place { datacenter, compute, store: "datastore1", bridge: "bridge" };
        let args = args.iter().map(|&a| a.to_owned()).collect();
        let programs = played.then(|| {
            let programs = folder.path().join("programs");
            std::fs::create_dir(&programs).unwrap();
            std::os::unix::fs::symlink(program("played-guest"), programs.join("qemu-system-x86_64")).unwrap();
            programs
        });
        let stage = Stage {
            target: String::new(),
            thumbprint: String::new(),
            user: String::new(),
            inside: String::new(),
            password: "s3cret-of-the-lab".into(),
            place,
            folder,
            said: Arc::default(),
        };
        let mut lab = Self { folder: lab, args, programs, stage };
        lab.start();
        lab
    }

    /// Starts the daemon, at first or again.
    pub fn start(&mut self) {
        let mut args = vec!["up", "--listen", "127.0.0.1:0", "--range", "192.168.120.0/24"];
        args.extend(self.args.iter().map(String::as_str));
        let up = self.run(&args);
        assert!(up.status.success(), "{}", text(&up));
        let env = text(&self.run(&["env"]));
        let value = |name: &str| {
            let line = env.lines().find_map(|l| l.strip_prefix(&format!("export VIC_MACHINE_{name}=")));
            line.unwrap_or_else(|| panic!("{name} is missing: {env}")).trim_matches('\'').to_owned()
        };
        self.stage.target = value("TARGET");
        self.stage.thumbprint = value("THUMBPRINT");
        self.stage.user = value("USER");
        self.stage.inside = value("VSPHERE_ADDRESS");
    }

    /// Runs `vic-lab`.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("vic-lab"));
        command.args(args).env("VIC_LAB_DIR", &self.folder).env("VIC_LAB_PASSWORD", &self.stage.password);
        if let Some(programs) = &self.programs {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let all = std::iter::once(programs.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(all).unwrap());
        }
        command
    }

    /// Runs the docker client inside the lab's network with the certificates in `folder`.
    pub fn docker(&self, folder: &Path, args: &[&str]) -> Output {
        self.docker_command(folder, args).output().unwrap()
    }

    /// The docker client inside the lab's network with the certificates in `folder`.
    pub fn docker_command(&self, folder: &Path, args: &[&str]) -> Command {
        let file = |name: &str| folder.join(name).display().to_string();
        let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
        let host = format!("{ADDRESS}:2376");
        let mut all = vec!["exec", "--", "docker", "-H", &host, "--tlsverify"];
        all.extend(["--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key]);
        all.extend(args);
        self.command(&all)
    }

    /// Gives the running VM whose name begins so another NIC, on `VM Network`; returns its device key.
    pub async fn plug_nic(&self, vm: &str) -> i32 {
        let session = self.stage.session().await;
        let root = session.content().root_folder.clone();
        let network = "VM Network".to_owned();
        let networks = session.contained(&root, "Network", true, &["name"]).await.unwrap();
        let found = networks.into_iter().find(|o| o.require::<String>("name").unwrap() == network).unwrap();
        let backing = VirtualEthernetCardNetworkBackingInfo {
            base: VirtualDeviceDeviceBackingInfo { device_name: network, ..Default::default() },
            network: Some(found.reference),
            ..Default::default()
        };
        let device = VirtualDevice { key: -1, backing: Some(backing.into()), ..Default::default() };
        let card = VirtualEthernetCard { base: device, address_type: Some("generated".into()), ..Default::default() };
        let card = VirtualVmxnet3 { base: VirtualVmxnet { base: card }, ..Default::default() };
        let before = nics(&session, vm).await.1;
        change(&session, vm, VirtualDeviceConfigSpecOperation::Add, card.into()).await;
        let key = |device: &AnyVirtualDevice| device.key;
        let after = nics(&session, vm).await.1;
        session.logout().await.unwrap();
        after.iter().map(key).find(|k| !before.iter().map(key).any(|b| b == *k)).unwrap()
    }

    /// Takes it away again.
    pub async fn unplug_nic(&self, vm: &str, key: i32) {
        let session = self.stage.session().await;
        let device = nics(&session, vm).await.1.into_iter().find(|d| d.key == key).unwrap();
        change(&session, vm, VirtualDeviceConfigSpecOperation::Remove, device).await;
        assert!(!nics(&session, vm).await.1.iter().any(|d| d.key == key));
        session.logout().await.unwrap();
    }

    /// The lab's own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the daemon has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default()
    }

    /// Process id of the daemon.
    pub fn daemon(&self) -> libc::pid_t {
        let status = self.run(&["status", "--output", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        libc::pid_t::try_from(status["pid"].as_i64().unwrap()).unwrap()
    }
}

/// A VM and its NICs.
async fn nics(session: &Session, vm: &str) -> (Object, Vec<AnyVirtualDevice>) {
    let root = session.content().root_folder.clone();
    let vms = session.contained(&root, "VirtualMachine", true, &["name", "config.hardware.device"]).await.unwrap();
    let vm = vms.into_iter().find(|o| o.require::<String>("name").unwrap().starts_with(vm)).unwrap();
    let devices: Vec<AnyVirtualDevice> = vm.all("config.hardware.device").unwrap();
    let is_nic = |device: &AnyVirtualDevice| matches!(device, AnyVirtualDevice::VirtualVmxnet3(_));
    (vm, devices.into_iter().filter(is_nic).collect())
}

async fn change(session: &Session, vm: &str, operation: VirtualDeviceConfigSpecOperation, device: AnyVirtualDevice) {
    let this = nics(session, vm).await.0.reference;
    let change = VirtualDeviceConfigSpec { operation: Some(operation), device, ..Default::default() };
    let spec = VirtualMachineConfigSpec { device_change: vec![change], ..Default::default() };
    session.run(&methods::ReconfigVMTask { this, spec }).await.unwrap();
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.run(&["down", "--wipe"]);
    }
}

/// What a program said.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
