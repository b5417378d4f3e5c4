//! Carrying out the plan, and undoing it.
//!
//! [`Made`] records what exists because of us as soon as it does; what a call may have made before its answer was lost
//! is found by name under a parent where the name was free.

use vch_config::{Document as _, KEY_CONFIG, KEY_SECRETS};
use vim25::Session;
use vim25::datastore::DatastorePath;
use vim25::property::Object;
use vim25::types::{
    AnyValue, AnyVirtualDevice, AnyVirtualDeviceBackingInfo, HostNetworkPolicy, HostPortGroupSpec,
    HostVirtualSwitchSpec, ManagedObjectReference, OptionValue, ParaVirtualSCSIController, ResourceAllocationInfo,
    ResourceConfigSpec, SharesInfo, SharesLevel, VAppConfigSpec, VirtualCdrom, VirtualCdromIsoBackingInfo,
    VirtualController, VirtualDevice, VirtualDeviceBackingInfo, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecOperation, VirtualDeviceConnectInfo, VirtualDeviceDeviceBackingInfo,
    VirtualDeviceFileBackingInfo, VirtualEthernetCard, VirtualEthernetCardDistributedVirtualPortBackingInfo,
    VirtualEthernetCardNetworkBackingInfo, VirtualIDEController, VirtualMachineConfigSpec, VirtualMachineFileInfo,
    VirtualSCSIController, VirtualSCSISharing, VirtualSerialPort, VirtualSerialPortFileBackingInfo, VirtualVmxnet,
    VirtualVmxnet3, methods,
};

use super::plan::{Plan, Step};
use super::site::{Housing, Network};
use crate::interrupt::Interrupt;
use crate::lease::Lease;
use crate::printer::{Activity, Printer};
use crate::problem::{Exit, Problem};
use crate::remove;
use crate::vch::GUEST_NAME;

/// What exists because of this create.
#[derive(Debug, Default)]
pub(crate) struct Made {
    certificates: bool,
    folder: Option<ManagedObjectReference>,
    pool: Option<ManagedObjectReference>,
    vm: Option<ManagedObjectReference>,
    bridge: Option<Network>,
    /// Steps whose calls may have been sent.
    begun: Vec<Step>,
}

impl Made {
    /// The endpoint VM, which a step before has made.
    pub(crate) fn vm(&self) -> Result<&ManagedObjectReference, Problem> {
        self.vm.as_ref().ok_or_else(|| Problem::new(Exit::Failed, "the endpoint VM is made by an earlier step"))
    }
}

/// Carries out every step.
pub(crate) async fn apply(
    plan: &Plan,
    session: &Session,
    printer: Printer,
    interrupt: &mut Interrupt,
    lease: &mut Lease,
    made: &mut Made,
) -> Result<(), Problem> {
    for step in &plan.steps {
        let what = plan.describe(*step);
        lease.step(step);
        if *step == Step::Upload {
            let vm = made.vm()?.clone();
            let work = lease.during(session, &vm, upload(plan, session, printer, &vm));
            let outcome = interrupt.cut(async { Ok(work.await) }).await?;
            outcome.map_err(|e| Problem::doing(format!("cannot {what}"), &e))?;
            continue;
        }
        let activity = (*step != Step::Certificates).then(|| printer.wait(&what));
        interrupt
            .finish(async {
                made.begun.push(*step);
                one(*step, plan, session, lease, made).await.map_err(|problem| match problem {
                    Failed::Problem(problem) => problem,
                    Failed::Call(e) => Problem::doing(format!("cannot {what}"), &e),
                })
            })
            .await?;
        activity.into_iter().for_each(Activity::done);
    }
    Ok(())
}

/// Why a step failed.
enum Failed {
    Problem(Problem),
    Call(vim25::Error),
}

impl From<vim25::Error> for Failed {
    fn from(error: vim25::Error) -> Self {
        Self::Call(error)
    }
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

async fn one(step: Step, plan: &Plan, session: &Session, lease: &mut Lease, made: &mut Made) -> Result<(), Failed> {
    match step {
        Step::Certificates => {
            made.certificates = true;
            plan.settings.certificates.write()?;
        }
        Step::Folder => made.folder = Some(folder(plan, session).await?),
        Step::Pool => made.pool = Some(pool(plan, session, made).await?),
        Step::EndpointVm => made.vm = Some(endpoint_vm(plan, session, lease, made).await?),
        Step::Upload => {}
        Step::Bridge => made.bridge = Some(bridge(plan, session, made.vm()?).await?),
        Step::Configure => configure(plan, session, lease, made).await?,
        Step::PowerOn => {
            let this = made.vm()?.clone();
            session.run(&methods::PowerOnVMTask { this, host: None }).await?;
        }
    }
    Ok(())
}

/// Removes what exists because of this create; what cannot be removed is told.
pub(crate) async fn undo(plan: &Plan, made: &Made, session: &Session) -> Vec<Problem> {
    let mut problems = Vec::new();
    let name = &plan.settings.name;
    let begun = |step: Step| made.begun.contains(&step);
    let mut vm = made.vm.clone();
    if vm.is_none() && begun(Step::EndpointVm) {
        let holder = made.pool.as_ref().unwrap_or(&plan.site.parent_pool);
        match remove::child_named(session, holder, &["VirtualMachine"], name).await {
            Ok(found) => vm = found,
            Err(e) => problems.push(Problem::doing("cannot look for a half-made endpoint VM", &e)),
        }
    }
    let bridge = plan.site.bridge_to_make.as_ref().filter(|_| begun(Step::Bridge));
    if let Some(vm) = &vm
        && let Err(e) = remove::endpoint(session, &plan.site.datacenter.reference, vm, bridge).await
    {
        problems.push(Problem::doing(format!("the endpoint VM {name:?} could not be removed"), &e));
    }
    let pools: &[&str] = &["VirtualApp", "ResourcePool"];
    for (asked, known, holder, kinds) in [
        (begun(Step::Pool), &made.pool, &plan.site.parent_pool, pools),
        (begun(Step::Folder), &made.folder, &plan.site.vm_folder, &["Folder"]),
    ] {
        let found = match known {
            Some(known) => Ok(Some(known.clone())),
            None if asked => remove::child_named(session, holder, kinds, name).await,
            None => Ok(None),
        };
        let outcome = match found {
            Ok(Some(found)) => remove::if_empty(session, &found).await,
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = outcome {
            problems.push(Problem::doing(format!("{name:?} in {} could not be removed", holder.value), &e));
        }
    }
    if made.certificates {
        plan.settings.certificates.unwrite();
    }
    problems.into_iter().map(|p| p.remedy("run vic-machine delete, which continues from the inventory")).collect()
}

async fn folder(plan: &Plan, session: &Session) -> Result<ManagedObjectReference, vim25::Error> {
    if let Some(found) = &plan.site.found_folder {
        return Ok(found.clone());
    }
    session.call(&methods::CreateFolder { this: plan.site.vm_folder.clone(), name: plan.settings.name.clone() }).await
}

async fn pool(plan: &Plan, session: &Session, made: &Made) -> Result<ManagedObjectReference, vim25::Error> {
    if let Some(found) = &plan.site.found_pool {
        return Ok(found.clone());
    }
    let this = plan.site.parent_pool.clone();
    let name = plan.settings.name.clone();
    let limits = &plan.settings.limits;
    let res_spec = resources(limits.cpu_mhz, limits.memory_mib);
    match plan.site.housing {
        Housing::VApp => {
            let config_spec = VAppConfigSpec {
                annotation: Some(format!("Virtual Container Host {name}, managed by vic-machine")),
                ..Default::default()
            };
            session
                .call(&methods::CreateVApp { this, name, res_spec, config_spec, vm_folder: made.folder.clone() })
                .await
        }
        Housing::Pool | Housing::Shared => {
            session.call(&methods::CreateResourcePool { this, name, spec: res_spec }).await
        }
    }
}

/// The pool's shares and limits.  vSphere wants every field of a new pool.
fn resources(cpu_mhz: Option<u64>, memory_mib: Option<u64>) -> ResourceConfigSpec {
    let allocation = |limit: Option<u64>| ResourceAllocationInfo {
        reservation: Some(0),
        expandable_reservation: Some(true),
        limit: Some(limit.and_then(|l| i64::try_from(l).ok()).unwrap_or(-1)),
        shares: Some(SharesInfo { shares: 0, level: SharesLevel::Normal }),
        ..Default::default()
    };
    ResourceConfigSpec {
        cpu_allocation: allocation(cpu_mhz),
        memory_allocation: allocation(memory_mib),
        ..Default::default()
    }
}

async fn endpoint_vm(
    plan: &Plan,
    session: &Session,
    lease: &mut Lease,
    made: &Made,
) -> Result<ManagedObjectReference, vim25::Error> {
    let config = new_vm(plan, lease, made);
    let pool = made.pool.clone().unwrap_or_else(|| plan.site.parent_pool.clone());
    let folder = made.folder.clone().unwrap_or_else(|| plan.site.vm_folder.clone());
    let result = if pool.kind == "VirtualApp" {
        session.run(&methods::CreateChildVMTask { this: pool, config, host: None }).await?
    } else {
        session.run(&methods::CreateVMTask { this: folder, config, pool, host: None }).await?
    };
    let protocol = |reason: String| vim25::Error::Protocol { what: "creating the endpoint VM".into(), reason };
    result.ok_or_else(|| protocol("the task has no result".into()))?.get().map_err(|e| protocol(e.to_string()))
}

fn new_vm(plan: &Plan, lease: &mut Lease, made: &Made) -> VirtualMachineConfigSpec {
    let s = &plan.settings;
    let mut devices: Vec<AnyVirtualDevice> = vec![
        VirtualIDEController {
            base: VirtualController { base: VirtualDevice { key: -1, ..Default::default() }, ..Default::default() },
        }
        .into(),
        ParaVirtualSCSIController {
            base: VirtualSCSIController {
                base: VirtualController { base: VirtualDevice { key: -2, ..Default::default() }, ..Default::default() },
                shared_bus: VirtualSCSISharing::NoSharing,
                ..Default::default()
            },
        }
        .into(),
    ];
    for (key, (network, _)) in (-20..).zip(plan.interfaces()) {
        if let Some(network) = plan.site.networks.get(&network) {
            devices.push(nic(key, network));
        }
    }
    let memory = i64::from(s.endpoint_memory_mib);
    VirtualMachineConfigSpec {
        name: Some(s.name.clone()),
        guest_id: Some("other3xLinux64Guest".into()),
        alternate_guest_name: Some(format!("{GUEST_NAME} {}", crate::VERSION)),
        annotation: Some(format!("Endpoint VM of the Virtual Container Host {:?}, managed by vic-machine", s.name)),
        files: Some(VirtualMachineFileInfo {
            vm_path_name: Some(format!("[{}]", plan.site.datastore.name)),
            ..Default::default()
        }),
        num_cpus: Some(i32::from(s.endpoint_cpus)),
        memory_mb: Some(memory),
        device_change: devices.into_iter().map(add).collect(),
        // The control plane is idle most of the time; without a reservation it would be the first to be ballooned away.
        memory_allocation: Some(ResourceAllocationInfo { reservation: Some(memory), ..Default::default() }),
        // The document stands there from the first moment on: whatever happens next, this VM is known as a VCH.
        extra_config: vec![
            option(KEY_CONFIG, config(plan, made, None, &[]).to_text()),
            lease.option(),
            option("answer.msg.serial.file.open", "Append".into()),
            option("disk.EnableUUID", "TRUE".into()),
        ],
        ..Default::default()
    }
}

fn add(device: AnyVirtualDevice) -> VirtualDeviceConfigSpec {
    VirtualDeviceConfigSpec { operation: Some(VirtualDeviceConfigSpecOperation::Add), device, ..Default::default() }
}

fn option(key: &str, value: String) -> OptionValue {
    OptionValue { key: key.into(), value: Some(AnyValue::of(&value)) }
}

fn connected() -> VirtualDeviceConnectInfo {
    VirtualDeviceConnectInfo { start_connected: true, allow_guest_control: true, connected: true, ..Default::default() }
}

fn nic(key: i32, network: &Network) -> AnyVirtualDevice {
    let backing: AnyVirtualDeviceBackingInfo = match &network.distributed {
        Some((switch_uuid, portgroup_key)) => VirtualEthernetCardDistributedVirtualPortBackingInfo {
            port: vim25::types::DistributedVirtualSwitchPortConnection {
                switch_uuid: switch_uuid.clone(),
                portgroup_key: Some(portgroup_key.clone()),
                ..Default::default()
            },
            ..Default::default()
        }
        .into(),
        None => VirtualEthernetCardNetworkBackingInfo {
            base: VirtualDeviceDeviceBackingInfo { device_name: network.name.clone(), ..Default::default() },
            network: Some(network.reference.clone()),
            ..Default::default()
        }
        .into(),
    };
    let device = VirtualDevice { key, backing: Some(backing), connectable: Some(connected()), ..Default::default() };
    let card = VirtualEthernetCard { base: device, address_type: Some("generated".into()), ..Default::default() };
    VirtualVmxnet3 { base: VirtualVmxnet { base: card }, ..Default::default() }.into()
}

/// The configuration as far as it is known; `vm_files` is the folder of the endpoint VM.
fn config(
    plan: &Plan,
    made: &Made,
    vm_files: Option<&DatastorePath>,
    macs: &[(String, String)],
) -> vch_config::VchConfig {
    let folder = made.folder.as_ref().map_or("", |f| &f.value);
    let pool = made.pool.as_ref().unwrap_or(&plan.site.parent_pool);
    let images = image_store(plan, vm_files);
    let bootstrap = vm_files.unwrap_or(&images).join(&plan.settings.bootstrap.upload_name());
    plan.config(made.bridge.as_ref(), folder, &pool.value, &images, &bootstrap, macs)
}

/// The folder of the endpoint VM's files.
async fn vm_files(session: &Session, vm: &ManagedObjectReference) -> Result<DatastorePath, vim25::Error> {
    let vmx: String = session.read(vm, &["config.files.vmPathName"]).await?.require("config.files.vmPathName")?;
    let path = DatastorePath::parse(&vmx).ok_or_else(|| vim25::Error::Protocol {
        what: format!("the path of {vm}"),
        reason: format!("{vmx:?} is no datastore path"),
    })?;
    Ok(path.parent())
}

/// Where images go: where the admin said, else beside the endpoint VM.
fn image_store(plan: &Plan, vm_files: Option<&DatastorePath>) -> DatastorePath {
    match (&plan.settings.image_store, vm_files) {
        // The folder may be several VCHs'.
        (Some(given), _) if !given.path.is_empty() => given.join(&plan.id),
        (_, Some(files)) => files.clone(),
        _ => DatastorePath::new(plan.site.datastore.name.clone(), ""),
    }
}

async fn upload(
    plan: &Plan,
    session: &Session,
    printer: Printer,
    vm: &ManagedObjectReference,
) -> Result<(), vim25::Error> {
    let files = vm_files(session, vm).await?;
    for iso in plan.settings.images() {
        let file = files.join(&iso.upload_name());
        let activity = printer.upload(&format!("upload {} to {file}", iso.path.display()), iso.size);
        session.upload(&iso.path, &plan.site.datacenter_path, &file, activity.position()).await?;
        activity.done();
    }
    Ok(())
}

/// Makes the switch and port group of the bridge network on an ESXi host, and the VM's NIC on it.
async fn bridge(plan: &Plan, session: &Session, vm: &ManagedObjectReference) -> Result<Network, Failed> {
    let missing = |what: &str| vim25::Error::Protocol {
        what: "creating the bridge network".into(),
        reason: format!("{what} is missing"),
    };
    let made = plan.site.bridge_to_make.as_ref().ok_or_else(|| missing("its description"))?;
    let this = ManagedObjectReference::new("HostNetworkSystem", &made.network_system);
    // Validation has seen that a switch of this name, if there is one, is an empty leftover.
    let spec = HostVirtualSwitchSpec { num_ports: 1024, ..Default::default() };
    let switch = methods::AddVirtualSwitch { this: this.clone(), vswitch_name: made.name.clone(), spec: Some(spec) };
    match session.call(&switch).await {
        Err(e) if e.fault_name() == Some("AlreadyExists") => {}
        other => other?,
    }
    let portgrp = HostPortGroupSpec {
        name: made.name.clone(),
        vlan_id: 0,
        vswitch_name: made.name.clone(),
        policy: HostNetworkPolicy::default(),
    };
    session.call(&methods::AddPortGroup { this, portgrp }).await?;
    let networks = session.contained(&plan.site.datacenter.reference, "Network", true, &["name"]).await?;
    let mut found = None;
    for network in networks {
        if network.get::<String>("name")?.as_deref() == Some(made.name.as_str()) {
            found = Some(network.reference);
        }
    }
    let reference = found.ok_or_else(|| missing("the new port group's network"))?;
    let network = Network { reference, name: made.name.clone(), distributed: None };
    let device_change = vec![add(nic(-1, &network))];
    let spec = VirtualMachineConfigSpec { device_change, ..Default::default() };
    session.run(&methods::ReconfigVMTask { this: vm.clone(), spec }).await?;
    Ok(network)
}

async fn configure(plan: &Plan, session: &Session, lease: &mut Lease, made: &Made) -> Result<(), Failed> {
    let vm = made.vm()?;
    let files = vm_files(session, vm).await?;
    let iso = files.join(&plan.settings.appliance.upload_name());
    let object = session.read(vm, &["config.hardware.device"]).await?;
    let devices: Vec<AnyVirtualDevice> = object.all("config.hardware.device")?;
    let ide = devices.iter().find(|d| matches!(d, AnyVirtualDevice::VirtualIDEController(_))).map(|d| d.key);
    let macs = macs(plan, made, &object)?;
    let config = config(plan, made, Some(&files), &macs);
    let cdrom_backing = VirtualCdromIsoBackingInfo {
        base: VirtualDeviceFileBackingInfo {
            base: VirtualDeviceBackingInfo {},
            file_name: iso.to_string(),
            datastore: Some(plan.site.datastore.reference.clone()),
            ..Default::default()
        },
    };
    let cdrom = VirtualCdrom {
        base: VirtualDevice {
            key: -1,
            backing: Some(cdrom_backing.into()),
            connectable: Some(connected()),
            controller_key: ide,
            unit_number: Some(0),
            ..Default::default()
        },
    };
    let log_backing = VirtualSerialPortFileBackingInfo {
        base: VirtualDeviceFileBackingInfo { file_name: files.join("endpoint.log").to_string(), ..Default::default() },
    };
    let serial = VirtualSerialPort {
        base: VirtualDevice {
            key: -2,
            backing: Some(log_backing.into()),
            connectable: Some(connected()),
            ..Default::default()
        },
        yield_on_poll: true,
    };
    let spec = VirtualMachineConfigSpec {
        device_change: vec![add(cdrom.into()), add(serial.into())],
        extra_config: vec![
            option(KEY_CONFIG, config.to_text()),
            option(KEY_SECRETS, plan.secrets()?.to_text()),
            lease.option(),
        ],
        ..Default::default()
    };
    session.run(&methods::ReconfigVMTask { this: vm.clone(), spec }).await?;
    Ok(())
}

/// The MAC address of each network's NIC, as vSphere gave it.
fn macs(plan: &Plan, made: &Made, object: &Object) -> Result<Vec<(String, String)>, vim25::Error> {
    let mut out = Vec::new();
    for device in object.all::<AnyVirtualDevice>("config.hardware.device")? {
        let AnyVirtualDevice::VirtualVmxnet3(card) = &device else { continue };
        let on = |n: &Network| match (&card.backing, &n.distributed) {
            (
                Some(AnyVirtualDeviceBackingInfo::VirtualEthernetCardDistributedVirtualPortBackingInfo(b)),
                Some((_, key)),
            ) => b.port.portgroup_key.as_ref() == Some(key),
            (Some(AnyVirtualDeviceBackingInfo::VirtualEthernetCardNetworkBackingInfo(b)), None) => {
                b.network.as_ref() == Some(&n.reference) || b.device_name == n.name
            }
            _ => false,
        };
        let bridge = made.bridge.iter().map(|b| (&b.name, b));
        let network = plan.site.networks.iter().chain(bridge).find(|(_, n)| on(n));
        if let (Some((name, _)), Some(mac)) = (network, &card.mac_address) {
            out.push((name.clone(), mac.to_lowercase()));
        }
    }
    match plan.interfaces().iter().find(|(n, _)| !out.iter().any(|(name, _)| name == n)) {
        Some((network, _)) => Err(vim25::Error::Protocol {
            what: "the endpoint VM's NICs".into(),
            reason: format!("none is on network {network:?}"),
        }),
        None => Ok(out),
    }
}
