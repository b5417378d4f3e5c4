//! Virtual machines: made, changed, destroyed.

use std::path::PathBuf;
use std::sync::Arc;

use vim25_types::soap::Fault;
use vim25_types::{
    AnyValue, AnyVirtualDevice as Device, GenericVmConfigFault, ManagedObjectReference as Moref,
    VirtualDeviceConfigSpec, VirtualDeviceConfigSpecOperation, VirtualMachineConfigSpec, VirtualMachinePowerState,
    methods as m,
};

use super::datastore::room_for;
use super::device::{self, Env, Plan};
use super::dispatch::Cx;
use super::inventory::{checked_name, entry, free_name, takes};
use super::task::Outcome;
use super::{disk, fault, question, vm_config};
use crate::error::Error;
use crate::lab::Lab;
use crate::settings::Shape;
use crate::vm::Vm;
use crate::world::{DatastorePath, Entry, EventKind, Object, Snapshot, VmObject, World, now};

pub(super) fn vm<'w>(world: &'w World, this: &Moref) -> Result<&'w VmObject, Fault> {
    world.vm(&this.value).ok_or_else(|| fault::not_found(this))
}

pub(super) fn failed(error: &Error) -> Fault {
    let detail = GenericVmConfigFault { reason: error.chain(), ..GenericVmConfigFault::default() };
    Fault::new(detail, error.chain())
}

pub(super) fn runtime(lab: &Lab, this: &Moref) -> Vm {
    lab.runtime().vm(&this.value)
}

/// Refuses what cannot be done to a VM that is on.
pub(super) fn must_be_off(lab: &Lab, this: &Moref) -> Result<(), Fault> {
    if lab.read(|w| vm(w, this).map(VmObject::is_on))? {
        let off = VirtualMachinePowerState::PoweredOff;
        return Err(fault::power_state(VirtualMachinePowerState::PoweredOn, Some(off)));
    }
    Ok(())
}

/// Refuses what is done to a VM that waits for an answer, or whose files are out of reach.
pub(super) fn must_be_ready(lab: &Lab, this: &Moref) -> Result<(), Fault> {
    question::must_not_ask(lab, this)?;
    if lab.read(|w| w.is_lost(&this.value)) {
        return Err(fault::invalid_state("the virtual machine is inaccessible"));
    }
    Ok(())
}

/// Kills the QEMU process of the VM of that name, as a crash of the hypervisor would.
pub(super) fn kill(lab: &Arc<Lab>, name: &str) {
    let id = lab.read(|w| w.vms().find(|(e, _)| e.name == name || e.id == name).map(|(e, _)| e.id.clone()));
    if let Some(id) = id {
        let vm = lab.runtime().vm(&id);
        tokio::spawn(async move {
            // One that is off is dead enough.
            let _ = vm.kill().await;
        });
    }
}

// Create.

pub(super) async fn create(cx: &Cx, request: m::CreateVMTask) -> Result<Moref, Fault> {
    let parent = request.this.clone();
    start_create(cx, "Folder.createVm", &request.this, Some(parent), request.pool, request.host, request.config)
}

pub(super) async fn create_child(cx: &Cx, request: m::CreateChildVMTask) -> Result<Moref, Fault> {
    let pool = request.this.clone();
    // In a vApp the VM is in the vApp's folder; in a pool alone there is none to be in.
    let folder = cx.lab.read(|w| {
        let vapp = w.pool(&pool.value).and_then(|p| p.vapp.as_ref())?;
        vapp.folder.as_ref().map(|f| Moref::new("Folder", f))
    });
    let folder = folder.ok_or_else(|| fault::not_supported("the pool is no vApp with a folder"))?;
    start_create(cx, "ResourcePool.createVm", &request.this, Some(folder), pool, request.host, request.config)
}

fn start_create(
    cx: &Cx,
    operation: &str,
    entity: &Moref,
    folder: Option<Moref>,
    pool: Moref,
    host: Option<Moref>,
    spec: VirtualMachineConfigSpec,
) -> Result<Moref, Fault> {
    let (lab, user) = (cx.lab.clone(), cx.user());
    Ok(cx.task(operation, entity, async move { make(&lab, folder, &pool, host, spec, &user).await }))
}

/// The folder that a new VM gets: its own name, or the next that is free.
fn new_folder(world: &World, spec: &VirtualMachineConfigSpec, name: &str) -> Result<DatastorePath, Fault> {
    let given = spec.files.as_ref().and_then(|f| f.vm_path_name.clone()).unwrap_or_default();
    let path: DatastorePath = given.parse().map_err(|()| fault::datastore_path(&given))?;
    if world.datastore_named(&path.datastore).is_none() {
        return Err(fault::datastore_path(&given));
    }
    if path.path.ends_with(".vmx") {
        let taken = world.file(&path.to_string()).is_some_and(|f| f.exists());
        return if taken { Err(fault::file_exists(&given)) } else { Ok(path) };
    }
    let exists = |p: &DatastorePath| world.file(&p.to_string()).is_none_or(|f| f.exists());
    let folders = std::iter::once(name.to_owned()).chain((1..).map(|n| format!("{name}_{n}")));
    let folder = if path.path.is_empty() {
        folders.map(|f| path.join(&f)).find(|p| !exists(p)).ok_or_else(|| fault::file_exists(&given))?
    } else {
        path
    };
    Ok(folder.join(&format!("{name}.vmx")))
}

async fn make(
    lab: &Arc<Lab>,
    folder: Option<Moref>,
    pool: &Moref,
    host: Option<Moref>,
    spec: VirtualMachineConfigSpec,
    user: &str,
) -> Outcome {
    let given = spec.name.clone().ok_or_else(|| fault::invalid_name(""))?;
    let name = checked_name(&given)?;
    let (config, plan, host, vmx) = lab.read(|w| {
        if let Some(folder) = &folder {
            takes(w, folder, "VirtualMachine")?;
            free_name(w, &folder.value, &name)?;
        }
        let owner = &w.pool(&pool.value).ok_or_else(|| fault::not_found(pool))?.owner;
        let mut hosts = w.children(owner).filter(|e| matches!(e.object, Object::Host(_)));
        let host = match &host {
            None => hosts.next().map(|e| e.id.clone()),
            Some(host) => hosts.find(|e| e.id == host.value).map(|e| e.id.clone()),
        };
        let host = host.ok_or_else(|| fault::invalid_argument("host", "it is not one of the pool's"))?;
        let vmx = new_folder(w, &spec, &name)?;
        let mut config = vm_config::blank(&name, &vmx);
        vm_config::merge(&mut config, &VirtualMachineConfigSpec { change_version: None, ..spec.clone() }, false)?;
        let env = Env { world: w, name: &name, folder: &vmx.parent(), on: false };
        let plan = device::plan(&config.hardware.device, &spec.device_change, &env)?;
        Ok::<_, Fault>((config, plan, host, vmx))
    })?;
    let file = lab.read(|w| w.file(&vmx.to_string())).ok_or_else(|| fault::datastore_path(&vmx.to_string()))?;
    room_for(lab, &vmx, 0)?;
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent).map_err(|e| fault::system(&Error::file("make the folder", parent)(e)))?;
    }
    let text = format!("displayName = \"{name}\"\nuuid.bios = \"{}\"\n", config.uuid);
    crate::store::write(&file, text.as_bytes()).map_err(|e| fault::system(&e))?;
    make_disks(lab, &plan).await?;
    let vm = lab.change(|w| {
        // Two at once with one name: the second finds it taken now.
        if let Some(folder) = &folder {
            free_name(w, &folder.value, &name)?;
        }
        let id = w.fresh("vm");
        let mut object = VmObject::new(config, pool.value.clone(), host);
        object.config.hardware.device.clone_from(&plan.devices);
        vm_config::finish(&mut object, &spec.extra_config);
        let parent = folder.as_ref().map(|f| f.value.clone());
        let moref = w.insert(Entry { id, name, parent, object: Object::Vm(Box::new(object)) });
        w.vm_event(user, &moref.value, EventKind::Created);
        Ok::<_, Fault>(moref)
    })?;
    Ok(Some(AnyValue::of(&vm)))
}

/// Where a datastore path is on the machine.
fn on_disk(lab: &Lab, path: &DatastorePath) -> Result<PathBuf, Fault> {
    lab.read(|w| w.file(&path.to_string())).ok_or_else(|| fault::datastore_path(&path.to_string()))
}

/// Makes the disks of a plan; what was made before one failed is removed.
async fn make_disks(lab: &Lab, plan: &Plan) -> Result<(), Fault> {
    let mut made = Vec::new();
    for new in &plan.create {
        // Thin: what it takes comes with the guest's writes.
        if let Err(full) = room_for(lab, &new.path, 0) {
            unmake(&made);
            return Err(full);
        }
        let file = on_disk(lab, &new.path)?;
        let parent = new.parent.as_ref().map(|p| on_disk(lab, p)).transpose()?;
        if let Err(error) = disk::make(&file, new.capacity, parent.as_deref()).await {
            unmake(&made);
            return Err(fault::system(&error));
        }
        made.push(file);
    }
    Ok(())
}

fn unmake(files: &[PathBuf]) {
    for file in files {
        if let Err(error) = std::fs::remove_file(file) {
            tracing::warn!("{} stays behind: {error}", file.display());
        }
    }
}

// Change.

pub(super) async fn reconfigure(cx: &Cx, request: m::ReconfigVMTask) -> Result<Moref, Fault> {
    let (lab, user, this) = (cx.lab.clone(), cx.user(), request.this.clone());
    Ok(cx.task("VirtualMachine.reconfigure", &request.this, async move {
        change(&lab, &this, &request.spec, &user).await?;
        Ok(None)
    }))
}

/// Moves a VM to another host; its files stay where they are.  Of a running one the serial ports that write to files are left
/// disconnected, as ESXi does it; the lab's write on all the same.
pub(super) async fn relocate(cx: &Cx, request: m::RelocateVMTask) -> Result<Moref, Fault> {
    let (lab, this, spec) = (cx.lab.clone(), request.this.clone(), request.spec);
    Ok(cx.task("VirtualMachine.relocate", &request.this, async move {
        if spec.datastore.is_some() || spec.folder.is_some() || spec.pool.is_some() || !spec.device_change.is_empty() {
            return Err(fault::not_supported("moving a VM elsewhere than to another host"));
        }
        let to = spec.host.ok_or_else(|| fault::invalid_argument("spec.host", "it is missing"))?;
        lab.change(|w| {
            let pool = w.pool(&vm(w, &this)?.pool).ok_or_else(|| fault::not_found(&this))?;
            let near = w.children(&pool.owner).any(|e| e.id == to.value && matches!(e.object, Object::Host(_)));
            if !near {
                return Err(fault::invalid_argument("spec.host", "it is not one of the pool's"));
            }
            let vm = w.vm_mut(&this.value).ok_or_else(|| fault::not_found(&this))?;
            vm.host = to.value;
            let ports = vm.config.hardware.device.iter_mut().filter(|d| matches!(d, Device::VirtualSerialPort(_)));
            for connect in ports.filter_map(|port| port.connectable.as_mut()) {
                connect.connected = false;
            }
            Ok(None)
        })
    }))
}

/// Makes a snapshot, of which only the fact is kept.
pub(super) async fn create_snapshot(cx: &Cx, request: m::CreateSnapshotTask) -> Result<Moref, Fault> {
    let (lab, this) = (cx.lab.clone(), request.this.clone());
    Ok(cx.task("VirtualMachine.createSnapshot", &request.this, async move {
        lab.change(|w| {
            let id = w.fresh("snapshot");
            let vm = w.vm_mut(&this.value).ok_or_else(|| fault::not_found(&this))?;
            let on = vm.is_on();
            let one = Snapshot {
                id,
                name: request.name,
                description: request.description.unwrap_or_default(),
                created: now().0,
                on,
                quiesced: request.quiesce,
            };
            let moref = one.moref();
            vm.snapshots.push(one);
            Ok(Some(AnyValue::of(&moref)))
        })
    }))
}

pub(super) async fn remove_all_snapshots(cx: &Cx, request: m::RemoveAllSnapshotsTask) -> Result<Moref, Fault> {
    let (lab, this) = (cx.lab.clone(), request.this.clone());
    Ok(cx.task("VirtualMachine.removeAllSnapshots", &request.this, async move {
        lab.change(|w| {
            w.vm_mut(&this.value).ok_or_else(|| fault::not_found(&this))?.snapshots.clear();
            Ok(None)
        })
    }))
}

/// A disk that a snapshot has can be destroyed, and not taken away.
fn must_have_no_snapshot(vm: &VmObject, spec: &VirtualMachineConfigSpec) -> Result<(), Fault> {
    let takes_disk = |change: &VirtualDeviceConfigSpec| {
        change.operation == Some(VirtualDeviceConfigSpecOperation::Remove)
            && change.file_operation.is_none()
            && matches!(vm.devices().iter().find(|d| d.key == change.device.key), Some(Device::VirtualDisk(_)))
    };
    match spec.device_change.iter().position(takes_disk).filter(|_| !vm.snapshots.is_empty()) {
        Some(index) => Err(fault::device(index, "the disk is part of a snapshot of the virtual machine")),
        None => Ok(()),
    }
}

async fn change(lab: &Arc<Lab>, this: &Moref, spec: &VirtualMachineConfigSpec, user: &str) -> Result<(), Fault> {
    let name = spec.name.as_deref().map(checked_name).transpose()?;
    let (config, plan, old, on) = lab.read(|w| {
        let entry = entry(w, this)?;
        let known = vm(w, this)?;
        if let (Some(name), Some(parent)) = (&name, &entry.parent)
            && *name != entry.name
        {
            free_name(w, parent, name)?;
        }
        must_have_no_snapshot(known, spec)?;
        let mut config = known.config.clone();
        vm_config::merge(&mut config, spec, known.is_on())?;
        let vmx: DatastorePath = known.vmx().parse().map_err(|()| fault::datastore_path(known.vmx()))?;
        let env = Env { world: w, name: &entry.name, folder: &vmx.parent(), on: known.is_on() };
        let plan = device::plan(known.devices(), &spec.device_change, &env)?;
        Ok::<_, Fault>((config, plan, known.devices().to_vec(), known.is_on()))
    })?;
    for path in &plan.destroy {
        let others = lab.read(|w| users(w, &path.to_string(), &this.value));
        if others {
            return Err(fault::file_locked(&path.to_string()));
        }
    }
    make_disks(lab, &plan).await?;
    if on && let Err(fault) = hot(lab, this, &old, &plan.devices).await {
        let made: Vec<_> = plan.create.iter().filter_map(|new| on_disk(lab, &new.path).ok()).collect();
        unmake(&made);
        return Err(fault);
    }
    for path in &plan.destroy {
        let file = on_disk(lab, path)?;
        if let Err(error) = std::fs::remove_file(&file) {
            tracing::warn!("{path} stays behind: {error}");
        }
    }
    lab.change(|w| {
        if let Some(vm) = w.vm_mut(&this.value) {
            // The guest may have set keys meanwhile: what it set stays.
            let extra = std::mem::take(&mut vm.config.extra_config);
            let name = vm.config.name.clone();
            vm.config = config;
            vm.config.extra_config = extra;
            vm.config.name = name;
            vm.config.hardware.device = plan.devices;
            vm_config::finish(vm, &spec.extra_config);
        }
        if let Some(name) = name {
            super::inventory::rename_entry(w, this, name)?;
        }
        w.vm_event(user, &this.value, EventKind::Reconfigured);
        Ok(())
    })
}

/// Whether another VM has the file as a disk or below one.
fn users(world: &World, file: &str, except: &str) -> bool {
    world.vms().any(|(e, vm)| e.id != except && vm.disk_files().iter().any(|f| f == file))
}

/// Whether a VM that is on holds one of the files of a disk: nobody writes where somebody reads.
pub(super) fn check_locks(world: &World, except: &str, device: &Device) -> Result<(), Fault> {
    let Some(backing) = device::disk_backing(device) else { return Ok(()) };
    let mut below = Vec::new();
    let mut at = backing.parent.as_deref();
    while let Some(b) = at {
        below.push(b.file_name.as_str());
        at = b.parent.as_deref();
    }
    for (entry, vm) in world.vms().filter(|(e, vm)| e.id != except && vm.is_on()) {
        for other in vm.devices().iter().filter_map(device::disk_backing) {
            let taken = vm.disk_files().contains(&backing.file_name) || below.contains(&other.file_name.as_str());
            if taken {
                tracing::info!("{} is held by {}", backing.file_name, entry.name);
                return Err(fault::file_locked(&backing.file_name));
            }
        }
    }
    Ok(())
}

/// Brings a running QEMU from the old devices to the new.
async fn hot(lab: &Arc<Lab>, this: &Moref, old: &[Device], new: &[Device]) -> Result<(), Fault> {
    let vm = runtime(lab, this);
    let gone = old.iter().filter(|d| !new.iter().any(|n| n.key == d.key));
    for device in gone {
        match device {
            Device::VirtualDisk(_) => vm.remove_disk(device.key).await.map_err(|e| failed(&e))?,
            _ if device::is_nic(device) => vm.remove_nic(device.key).await.map_err(|e| failed(&e))?,
            _ => {}
        }
    }
    for device in new {
        let known = old.iter().find(|d| d.key == device.key);
        if known == Some(device) {
            continue;
        }
        let outcome = match device {
            Device::VirtualDisk(_) if known.is_none() => {
                let disk = lab.read(|w| {
                    check_locks(w, &this.value, device)?;
                    vm_config::disk(w, device)
                })?;
                vm.add_disk(disk).await
            }
            Device::VirtualCdrom(_) => vm.change_medium(lab.read(|w| vm_config::cdrom(w, device, false))).await,
            _ if device::is_nic(device) => {
                let mut nic = lab.read(|w| vm_config::nic(w, &this.value, device))?;
                nic.connected = device.connectable.as_ref().is_none_or(|c| c.connected);
                if known.is_none() { vm.add_nic(nic).await } else { vm.change_nic(nic).await }
            }
            _ => Ok(()),
        };
        outcome.map_err(|e| failed(&e))?;
    }
    Ok(())
}

// Remove.

pub(super) async fn unregister(cx: &Cx, request: m::UnregisterVM) -> Result<(), Fault> {
    must_be_off(&cx.lab, &request.this)?;
    question::must_not_ask(&cx.lab, &request.this)?;
    let user = cx.user();
    cx.lab.change(|w| {
        w.vm_event(&user, &request.this.value, EventKind::Removed);
        w.remove(&request.this.value);
    });
    cx.lab.runtime().forget(&request.this.value);
    Ok(())
}

/// Removes a VM with its disks and its configuration; a vCenter removes the disks below them, too, unless another VM has them.
/// What others have put into its folder stays, and the folder with it, as on ESXi.
pub(super) async fn destroy(lab: &Arc<Lab>, this: &Moref, user: &str) -> Result<(), Fault> {
    must_be_off(lab, this)?;
    let (disks, vmx) = lab.read(|w| {
        let known = vm(w, this)?;
        let disks = match w.shape() {
            Shape::Vcenter => known.disk_files(),
            Shape::Esxi => {
                known.devices().iter().filter_map(device::disk_backing).map(|b| b.file_name.clone()).collect()
            }
        };
        let own = disks.into_iter().filter(|file| !users(w, file, &this.value));
        let own: Vec<PathBuf> = own.filter_map(|file| w.file(&file)).collect();
        Ok::<_, Fault>((own, w.file(known.vmx())))
    })?;
    for file in disks.iter().chain(vmx.as_ref()) {
        match std::fs::remove_file(file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(fault::system(&Error::file("remove", file)(e)));
            }
            _ => {}
        }
    }
    if let Some(folder) = vmx.as_deref().and_then(std::path::Path::parent) {
        // Only an empty folder goes.
        let _ = std::fs::remove_dir(folder);
    }
    lab.change(|w| {
        w.vm_event(user, &this.value, EventKind::Removed);
        w.remove(&this.value);
    });
    lab.runtime().forget(&this.value);
    Ok(())
}
