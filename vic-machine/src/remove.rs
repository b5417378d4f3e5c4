//! Removing what a VCH consists of.  Everything here is idempotent: what is gone already is no error.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;
use vch_config::{ContainerLabel, KEY_RECORD, KEY_UUIDS, MadeNetwork, UUIDS, VchConfig, own_uuids};
use vim25::datastore::DatastorePath;
use vim25::types::{
    AnyVirtualDevice, AnyVirtualDeviceBackingInfo, HostDatastoreBrowserSearchResults, HostDatastoreBrowserSearchSpec,
    ManagedObjectReference, OptionValue, VirtualDeviceConfigSpec, VirtualDeviceConfigSpecOperation,
    VirtualMachineConfigSpec, VirtualMachinePowerState, methods,
};
use vim25::{Error, Session};

/// How long a guest may take to shut down before its VM is powered off.
const SHUT_DOWN: Duration = Duration::from_secs(15);

/// Powers off and destroys the endpoint VM, with the bridge network that was made for it, and the files that vSphere
/// does not know to be the VM's.
///
/// The network and the ISOs go first and the VM last, so that a run that is cut short finds the VM again.
pub(crate) async fn endpoint(
    session: &Session,
    datacenter: &ManagedObjectReference,
    vm: &ManagedObjectReference,
    bridge: Option<&MadeNetwork>,
) -> Result<(), Error> {
    match endpoint_inner(session, datacenter, vm, bridge).await {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

async fn endpoint_inner(
    session: &Session,
    datacenter: &ManagedObjectReference,
    vm: &ManagedObjectReference,
    bridge: Option<&MadeNetwork>,
) -> Result<(), Error> {
    let wanted = ["name", "config.files.vmPathName", "datastore"];
    let facts = session.read(vm, &wanted).await?;
    if facts.properties.is_empty() {
        return Ok(());
    }
    stop(session, vm).await?;
    if let Some(bridge) = bridge {
        unplug(session, vm, &bridge.name).await?;
        made_network(session, bridge).await?;
    }
    let files =
        facts.get::<String>("config.files.vmPathName")?.and_then(|p| DatastorePath::parse(&p)).map(|p| p.parent());
    // Never the root of a datastore.
    let files = files.filter(|f| !f.path.is_empty());
    if let Some(files) = &files {
        for datastore in facts.all::<ManagedObjectReference>("datastore")? {
            for iso in isos(session, &datastore, files).await? {
                delete_file(session, datacenter, &iso).await?;
            }
        }
    }
    session.run(&methods::DestroyTask { this: vm.clone() }).await?;
    match files {
        Some(files) => delete_file(session, datacenter, &files).await,
        None => Ok(()),
    }
}

/// Sees to it that a VM is off; what its guest can do by itself it may.
pub(crate) async fn stop(session: &Session, vm: &ManagedObjectReference) -> Result<(), Error> {
    let facts = session.read(vm, &["runtime.powerState"]).await?;
    if facts.get::<VirtualMachinePowerState>("runtime.powerState")? == Some(VirtualMachinePowerState::PoweredOff) {
        return Ok(());
    }
    shut_down(session, vm).await;
    power_off(session, vm).await
}

async fn power_off(session: &Session, vm: &ManagedObjectReference) -> Result<(), Error> {
    match session.run(&methods::PowerOffVMTask { this: vm.clone() }).await {
        // It is off already.
        Err(e) if e.fault_name() == Some("InvalidPowerState") => Ok(()),
        other => other.map(drop),
    }
}

/// A container of a VCH.
pub(crate) struct Container {
    pub(crate) vm: ManagedObjectReference,
    pub(crate) name: String,
    /// Its VM is on.
    pub(crate) on: bool,
    /// The folder of its files.
    pub(crate) files: Option<DatastorePath>,
}

/// The containers of VCH `id` in a pool.  A copy of one is none, although it has its record (ADR 26).
pub(crate) async fn containers(
    session: &Session,
    pool: &ManagedObjectReference,
    id: &str,
) -> Result<Vec<Container>, Error> {
    let mut out = Vec::new();
    let wanted = [&UUIDS[..], &["config.extraConfig", "config.files.vmPathName", "runtime.powerState"]].concat();
    for vm in session.contained(pool, "VirtualMachine", false, &wanted).await? {
        let options: Vec<OptionValue> = vm.all("config.extraConfig")?;
        let value = |key: &str| -> Option<String> {
            options.iter().rev().find(|o| o.key == key).and_then(|o| o.value.as_ref()?.get().ok())
        };
        let uuids = UUIDS.iter().filter_map(|path| vm.get(path).ok().flatten());
        let own = value(KEY_UUIDS).and_then(|own| own_uuids(&own, uuids));
        let label = value(KEY_RECORD).and_then(|text| ContainerLabel::from_record(&text));
        if let Some(label) = label.filter(|l| l.vch == id && own != Some(0)) {
            let state: Option<VirtualMachinePowerState> = vm.get("runtime.powerState")?;
            let on = state != Some(VirtualMachinePowerState::PoweredOff);
            let path = vm.get::<String>("config.files.vmPathName")?;
            let files = path.and_then(|p| DatastorePath::parse(&p)).map(|p| p.parent());
            // Never the root of a datastore.
            let files = files.filter(|f| !f.path.is_empty());
            out.push((label.id, own, Container { vm: vm.reference, name: label.name, on, files }));
        }
    }
    let mut most: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for (id, own, _) in &out {
        let most = most.entry(id.clone()).or_default();
        *most = (*most).max(*own);
    }
    Ok(out.into_iter().filter(|(id, own, _)| most.get(id) == Some(own)).map(|(_, _, container)| container).collect())
}

/// Removes a container, whatever it does.
pub(crate) async fn container(
    session: &Session,
    datacenter: &ManagedObjectReference,
    container: &Container,
) -> Result<(), Error> {
    let outcome = async {
        if container.on {
            power_off(session, &container.vm).await?;
        }
        // What its ports wrote is not the VM's to vSphere, and goes as long as the VM leads to it.
        if let Some(folder) = &container.files {
            for file in ["output.log", "tether.log"] {
                delete_file(session, datacenter, &folder.join(file)).await?;
            }
        }
        session.run(&methods::DestroyTask { this: container.vm.clone() }).await?;
        match &container.files {
            Some(folder) => delete_file(session, datacenter, folder).await,
            None => Ok(()),
        }
    };
    match outcome.await {
        Err(e) if Error::is_not_found(&e) => Ok(()),
        other => other,
    }
}

/// Removes a VCH's own folder in an image store that may be several VCHs'.
pub(crate) async fn image_folder(
    session: &Session,
    datacenter: &ManagedObjectReference,
    config: &VchConfig,
) -> Result<(), Error> {
    match DatastorePath::parse(&config.storage.image_store) {
        Some(folder) if folder.path.rsplit('/').next() == Some(&config.id) => {
            delete_file(session, datacenter, &folder).await
        }
        _ => Ok(()),
    }
}

/// Lets the guest end by itself, that its vSphere session be closed; one that does not listen is powered off anyway.
async fn shut_down(session: &Session, vm: &ManagedObjectReference) {
    if session.call(&methods::ShutdownGuest { this: vm.clone() }).await.is_err() {
        return;
    }
    let Ok(mut watch) = session.watch(vm, &["runtime.powerState"]).await else { return };
    let off = watch.until(vm, |object| {
        let state = object.get::<VirtualMachinePowerState>("runtime.powerState")?;
        Ok::<_, Error>((state == Some(VirtualMachinePowerState::PoweredOff)).then_some(()))
    });
    let _ = timeout(SHUT_DOWN, off).await;
}

/// Removes the NICs on the port group: one that is connected keeps it from being removed.
async fn unplug(session: &Session, vm: &ManagedObjectReference, port_group: &str) -> Result<(), Error> {
    let devices: Vec<AnyVirtualDevice> =
        session.read(vm, &["config.hardware.device"]).await?.all("config.hardware.device")?;
    let is_on = |d: &AnyVirtualDevice| match &d.backing {
        Some(AnyVirtualDeviceBackingInfo::VirtualEthernetCardNetworkBackingInfo(b)) => b.device_name == port_group,
        _ => false,
    };
    let device_change: Vec<_> = devices
        .into_iter()
        .filter(is_on)
        .map(|device| VirtualDeviceConfigSpec {
            operation: Some(VirtualDeviceConfigSpecOperation::Remove),
            device,
            ..Default::default()
        })
        .collect();
    if device_change.is_empty() {
        return Ok(());
    }
    let spec = VirtualMachineConfigSpec { device_change, ..Default::default() };
    session.run(&methods::ReconfigVMTask { this: vm.clone(), spec }).await.map(drop)
}

/// Removes a switch that `create` made, and its port group.
async fn made_network(session: &Session, network: &MadeNetwork) -> Result<(), Error> {
    let this = ManagedObjectReference::new("HostNetworkSystem", &network.network_system);
    let gone = |outcome: Result<(), Error>| match outcome {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    };
    gone(session.call(&methods::RemovePortGroup { this: this.clone(), pg_name: network.name.clone() }).await)?;
    gone(session.call(&methods::RemoveVirtualSwitch { this, vswitch_name: network.name.clone() }).await)
}

/// The ISO files in a VM's folder, if the datastore is the folder's.
async fn isos(
    session: &Session,
    datastore: &ManagedObjectReference,
    folder: &DatastorePath,
) -> Result<Vec<DatastorePath>, Error> {
    let facts = session.read(datastore, &["name", "browser"]).await?;
    if facts.get::<String>("name")?.as_deref() != Some(folder.datastore.as_str()) {
        return Ok(Vec::new());
    }
    let Some(this) = facts.get::<ManagedObjectReference>("browser")? else { return Ok(Vec::new()) };
    let spec = HostDatastoreBrowserSearchSpec { match_pattern: vec!["*.iso".into()], ..Default::default() };
    let search = methods::SearchDatastoreTask { this, datastore_path: folder.to_string(), search_spec: Some(spec) };
    let found = match session.run(&search).await {
        Ok(Some(result)) => result.get::<HostDatastoreBrowserSearchResults>().unwrap_or_default(),
        Ok(None) => return Ok(Vec::new()),
        Err(e) if e.is_not_found() => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    Ok(found.file.iter().map(|f| folder.join(&f.path)).collect())
}

async fn delete_file(
    session: &Session,
    datacenter: &ManagedObjectReference,
    file: &DatastorePath,
) -> Result<(), Error> {
    let Some(this) = session.content().file_manager.clone() else { return Ok(()) };
    let delete =
        methods::DeleteDatastoreFileTask { this, name: file.to_string(), datacenter: Some(datacenter.clone()) };
    match session.run(&delete).await {
        Err(e) if e.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

/// Destroys a folder, pool or vApp that holds nothing; one that does stays.
pub(crate) async fn if_empty(session: &Session, object: &ManagedObjectReference) -> Result<(), Error> {
    let outcome = async {
        if children(session, object).await?.is_empty() {
            session.run(&methods::DestroyTask { this: object.clone() }).await?;
        }
        Ok(())
    };
    match outcome.await {
        Err(e) if Error::is_not_found(&e) => Ok(()),
        other => other,
    }
}

/// What a folder, pool or vApp holds.
pub(crate) async fn children(
    session: &Session,
    object: &ManagedObjectReference,
) -> Result<Vec<ManagedObjectReference>, Error> {
    let found = session.contained(object, "ManagedEntity", false, &["name"]).await?;
    Ok(found.into_iter().map(|o| o.reference).collect())
}

/// The object of one of the types `kinds` (the first found wins) and that name directly in a folder, pool or vApp.
pub(crate) async fn child_named(
    session: &Session,
    holder: &ManagedObjectReference,
    kinds: &[&str],
    name: &str,
) -> Result<Option<ManagedObjectReference>, Error> {
    let found = session.contained(holder, "ManagedEntity", false, &["name"]).await?;
    for kind in kinds {
        for object in found.iter().filter(|o| o.reference.kind == *kind) {
            if object.get::<String>("name")?.as_deref() == Some(name) {
                return Ok(Some(object.reference.clone()));
            }
        }
    }
    Ok(None)
}
