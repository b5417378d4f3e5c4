//! Carrying out the plan, and undoing it.
//!
//! [`Made`] records what exists because of us as soon as it does; what a call may have made before its answer was lost
//! is found by name under a parent where the name was free.

use vch_config::{Document as _, KEY_CONFIG, KEY_SECRETS};
use vim25::Session;
use vim25::datastore::DatastorePath;
use vim25::property::Object;
use vim25::types::{
    AnyValue, AnyVirtualDevice, AnyVirtualDeviceBackingInfo, ManagedObjectReference, OptionValue,
    ParaVirtualSCSIController, ResourceAllocationInfo, ResourceConfigSpec, SharesInfo, SharesLevel, VAppConfigSpec,
    VirtualCdrom, VirtualCdromIsoBackingInfo, VirtualController, VirtualDevice, VirtualDeviceBackingInfo,
    VirtualDeviceConfigSpec, VirtualDeviceConfigSpecOperation, VirtualDeviceConnectInfo,
    VirtualDeviceDeviceBackingInfo, VirtualDeviceFileBackingInfo, VirtualEthernetCard,
    VirtualEthernetCardDistributedVirtualPortBackingInfo, VirtualEthernetCardNetworkBackingInfo, VirtualIDEController,
    VirtualMachineConfigSpec, VirtualMachineFileInfo, VirtualSCSIController, VirtualSCSISharing, VirtualSerialPort,
    VirtualSerialPortFileBackingInfo, VirtualVmxnet, VirtualVmxnet3, methods,
};

use super::plan::{Plan, Step};
use super::site::{Housing, Network};
use crate::printer::Printer;
use crate::problem::Problem;
use crate::remove;
use crate::vch::GUEST_NAME;

/// What exists because of this create.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) certificates: bool,
    pub(crate) folder: Option<ManagedObjectReference>,
    pub(crate) pool: Option<ManagedObjectReference>,
    /// The call to create the VM has been sent.
    pub(crate) vm_asked: bool,
    pub(crate) vm: Option<ManagedObjectReference>,
}

/// Carries out every step.
pub(crate) async fn apply(plan: &Plan, session: &Session, printer: Printer, made: &mut Made) -> Result<(), Problem> {
    for step in &plan.steps {
        let what = plan.describe(*step);
        let failed = |e: vim25::Error| Problem::doing(format!("cannot {what}"), &e);
        if *step == Step::Certificates {
            made.certificates = true;
            plan.settings.certificates.write()?;
            continue;
        }
        if *step == Step::Upload {
            upload(plan, session, printer, made).await.map_err(failed)?;
            continue;
        }
        let activity = printer.wait(&what);
        match step {
            Step::Certificates | Step::Upload => {}
            Step::Folder => made.folder = Some(folder(plan, session).await.map_err(failed)?),
            Step::Pool => made.pool = Some(pool(plan, session, made).await.map_err(failed)?),
            Step::EndpointVm => {
                made.vm_asked = true;
                made.vm = Some(endpoint_vm(plan, session, made).await.map_err(failed)?);
            }
            Step::Configure => configure(plan, session, made).await.map_err(failed)?,
            Step::PowerOn => {
                let this = vm_of(made).map_err(failed)?;
                session.run(&methods::PowerOnVMTask { this, host: None }).await.map_err(failed)?;
            }
        }
        activity.done();
    }
    Ok(())
}

/// Removes what exists because of this create; what cannot be removed is told.
pub(crate) async fn undo(plan: &Plan, made: &Made, session: &Session) -> Vec<Problem> {
    let mut problems = Vec::new();
    let name = &plan.settings.name;
    let mut vm = made.vm.clone();
    if vm.is_none() && made.vm_asked {
        let holder = made.pool.as_ref().unwrap_or(&plan.site.parent_pool);
        match remove::child_named(session, holder, &["VirtualMachine"], name).await {
            Ok(found) => vm = found,
            Err(e) => problems.push(Problem::doing("cannot look for a half-made endpoint VM", &e)),
        }
    }
    if let Some(vm) = &vm
        && let Err(e) = remove::endpoint(session, &plan.site.datacenter.reference, vm).await
    {
        problems.push(Problem::doing(format!("the endpoint VM {name:?} could not be removed"), &e));
    }
    let begun = |step: Step| plan.steps.contains(&step);
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

fn vm_of(made: &Made) -> Result<ManagedObjectReference, vim25::Error> {
    made.vm.clone().ok_or_else(|| vim25::Error::Invalid("the endpoint VM is made by an earlier step".into()))
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

async fn endpoint_vm(plan: &Plan, session: &Session, made: &Made) -> Result<ManagedObjectReference, vim25::Error> {
    let config = new_vm(plan, made);
    let pool = made.pool.clone().unwrap_or_else(|| plan.site.parent_pool.clone());
    let result = if pool.kind == "VirtualApp" {
        session.run(&methods::CreateChildVMTask { this: pool, config, host: None }).await?
    } else {
        let this = made.folder.clone().unwrap_or_else(|| plan.site.vm_folder.clone());
        session.run(&methods::CreateVMTask { this, config, pool, host: None }).await?
    };
    let protocol = |reason: String| vim25::Error::Protocol { what: "creating the endpoint VM".into(), reason };
    result.ok_or_else(|| protocol("the task has no result".into()))?.get().map_err(|e| protocol(e.to_string()))
}

fn new_vm(plan: &Plan, made: &Made) -> VirtualMachineConfigSpec {
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
            option(KEY_CONFIG, config(plan, made, &image_store(plan, None), &[]).to_text()),
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

fn config(plan: &Plan, made: &Made, image_store: &DatastorePath, macs: &[(String, String)]) -> vch_config::VchConfig {
    let folder = made.folder.as_ref().map_or("", |f| &f.value);
    let pool = made.pool.as_ref().unwrap_or(&plan.site.parent_pool);
    plan.config(folder, &pool.value, image_store, macs)
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
        (Some(given), _) if !given.path.is_empty() => given.clone(),
        (_, Some(files)) => files.clone(),
        _ => DatastorePath::new(plan.site.datastore.name.clone(), ""),
    }
}

async fn upload(plan: &Plan, session: &Session, printer: Printer, made: &Made) -> Result<(), vim25::Error> {
    let iso = &plan.settings.appliance;
    let file = vm_files(session, &vm_of(made)?).await?.join(&iso.upload_name("appliance"));
    let activity = printer.upload(&format!("upload {} to {file}", iso.path.display()), iso.size);
    session.upload(&iso.path, &plan.site.datacenter_path, &file, activity.position()).await?;
    activity.done();
    Ok(())
}

async fn configure(plan: &Plan, session: &Session, made: &Made) -> Result<(), vim25::Error> {
    let vm = vm_of(made)?;
    let files = vm_files(session, &vm).await?;
    let iso = files.join(&plan.settings.appliance.upload_name("appliance"));
    let object = session.read(&vm, &["config.hardware.device"]).await?;
    let devices: Vec<AnyVirtualDevice> = object.all("config.hardware.device")?;
    let ide = devices.iter().find(|d| matches!(d, AnyVirtualDevice::VirtualIDEController(_))).map(|d| d.key);
    let macs = macs(plan, &object)?;
    let config = config(plan, made, &image_store(plan, Some(&files)), &macs);
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
        extra_config: vec![option(KEY_CONFIG, config.to_text()), option(KEY_SECRETS, plan.secrets().to_text())],
        ..Default::default()
    };
    session.run(&methods::ReconfigVMTask { this: vm, spec }).await.map(drop)
}

/// The MAC address of each network's NIC, as vSphere gave it.
fn macs(plan: &Plan, object: &Object) -> Result<Vec<(String, String)>, vim25::Error> {
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
        let network = plan.site.networks.iter().find(|(_, n)| on(n));
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
