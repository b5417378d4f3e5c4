//! Folders, pools, vApps; renaming, moving and destroying what is in the inventory.

use vim25_types::soap::Fault;
use vim25_types::{
    ManagedObjectReference as Moref, ResourceAllocationInfo, ResourceConfigSpec, VAppConfigInfo, VAppConfigSpec,
    methods as m,
};

use super::dispatch::Cx;
use super::{fault, vm};
use crate::settings::Shape;
use crate::world::{Entry, EventKind, Object, Pool, VApp, World};

/// Longest name of an object.
const MAX_NAME: usize = 80;

/// A name as vSphere keeps it: `/`, `\` and `%` are escaped.
pub(super) fn checked_name(name: &str) -> Result<String, Fault> {
    if name.trim().is_empty() || name.chars().count() > MAX_NAME {
        return Err(fault::invalid_name(name));
    }
    Ok(escaped_name(name))
}

/// A name with `/`, `\` and `%` escaped; what is escaped already stays.
pub(crate) fn escaped_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let escaped = ["%2f", "%2F", "%5c", "%5C", "%25"].iter().find(|e| rest.starts_with(**e));
        match (c, escaped) {
            (_, Some(done)) => {
                out.push_str(done);
                rest = &rest[3..];
                continue;
            }
            ('/', _) => out.push_str("%2f"),
            ('\\', _) => out.push_str("%5c"),
            ('%', _) => out.push_str("%25"),
            _ => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// The object that `this` names.
pub(super) fn entry<'w>(world: &'w World, this: &Moref) -> Result<&'w Entry, Fault> {
    world.get(&this.value).ok_or_else(|| fault::not_found(this))
}

/// Whether `name` is free beside the children of `parent`.  VMs and folders of one VM folder share their names.
pub(super) fn free_name(world: &World, parent: &str, name: &str) -> Result<(), Fault> {
    match world.child_named(parent, name) {
        Some(taken) => Err(fault::duplicate_name(name, taken.moref())),
        None => Ok(()),
    }
}

/// Whether a folder takes children of a type.
pub(super) fn takes(world: &World, folder: &Moref, kind: &str) -> Result<(), Fault> {
    match &entry(world, folder)?.object {
        Object::Folder { children } if children.iter().any(|c| c == kind) => Ok(()),
        _ => Err(fault::not_supported(&format!("{folder} takes no {kind}"))),
    }
}

pub(super) async fn create_folder(cx: &Cx, request: m::CreateFolder) -> Result<Moref, Fault> {
    let name = checked_name(&request.name)?;
    cx.lab.change(|w| {
        takes(w, &request.this, "Folder")?;
        free_name(w, &request.this.value, &name)?;
        let Object::Folder { children } = entry(w, &request.this)?.object.clone() else {
            return Err(fault::not_found(&request.this));
        };
        let letter = match children.iter().find(|c| *c != "Folder").map(String::as_str) {
            Some("Datacenter") => "d",
            Some("ComputeResource") => "h",
            Some("Datastore") => "s",
            Some("Network") => "n",
            _ => "v",
        };
        let id = w.fresh("group").replace('-', &format!("-{letter}"));
        Ok(w.insert(Entry { id, name, parent: Some(request.this.value), object: Object::Folder { children } }))
    })
}

/// What the parts of an allocation become, checked.
fn allocation(old: &ResourceAllocationInfo, new: &ResourceAllocationInfo) -> Result<ResourceAllocationInfo, Fault> {
    let merged = ResourceAllocationInfo {
        reservation: new.reservation.or(old.reservation),
        expandable_reservation: new.expandable_reservation.or(old.expandable_reservation),
        limit: new.limit.or(old.limit),
        shares: new.shares.clone().or_else(|| old.shares.clone()),
        overhead_limit: old.overhead_limit,
    };
    let (reservation, limit) = (merged.reservation.unwrap_or(0), merged.limit.unwrap_or(-1));
    if reservation < 0 || limit < -1 || (limit >= 0 && reservation > limit) {
        return Err(fault::invalid_argument("spec.limit", "a limit is not below its reservation"));
    }
    Ok(merged)
}

fn config(old: &ResourceConfigSpec, new: &ResourceConfigSpec) -> Result<ResourceConfigSpec, Fault> {
    Ok(ResourceConfigSpec {
        entity: None,
        change_version: Some(crate::world::now().0),
        cpu_allocation: allocation(&old.cpu_allocation, &new.cpu_allocation)?,
        memory_allocation: allocation(&old.memory_allocation, &new.memory_allocation)?,
        ..old.clone()
    })
}

fn complete(spec: &ResourceConfigSpec) -> Result<(), Fault> {
    for (name, part) in [("cpuAllocation", &spec.cpu_allocation), ("memoryAllocation", &spec.memory_allocation)] {
        let whole = part.reservation.is_some()
            && part.expandable_reservation.is_some()
            && part.limit.is_some()
            && part.shares.is_some();
        if !whole {
            return Err(fault::invalid_argument(&format!("spec.{name}"), "a new pool needs all of its settings"));
        }
    }
    Ok(())
}

pub(super) async fn create_pool(cx: &Cx, request: m::CreateResourcePool) -> Result<Moref, Fault> {
    let name = checked_name(&request.name)?;
    complete(&request.spec)?;
    cx.lab.change(|w| {
        let parent = w.pool(&request.this.value).ok_or_else(|| fault::not_found(&request.this))?.clone();
        free_name(w, &request.this.value, &name)?;
        let config = config(&request.spec, &request.spec)?;
        let id = w.fresh("resgroup");
        let object = Object::Pool(Box::new(Pool { owner: parent.owner, config, vapp: None }));
        Ok(w.insert(Entry { id, name, parent: Some(request.this.value), object }))
    })
}

fn vapp_config(old: VAppConfigInfo, spec: VAppConfigSpec) -> VAppConfigInfo {
    let mut config = old;
    if let Some(annotation) = spec.annotation.clone() {
        config.annotation = annotation;
    }
    if let Some(managed_by) = spec.managed_by.clone() {
        // An empty owner takes the mark away.
        config.managed_by = Some(managed_by).filter(|m| !m.extension_key.is_empty());
    }
    for entity in spec.entity_config {
        config.entity_config.retain(|e| e.key != entity.key);
        config.entity_config.push(entity);
    }
    config
}

pub(super) async fn create_vapp(cx: &Cx, request: m::CreateVApp) -> Result<Moref, Fault> {
    let name = checked_name(&request.name)?;
    complete(&request.res_spec)?;
    cx.lab.change(|w| {
        if w.shape() == Shape::Esxi {
            return Err(fault::not_supported("a host without vCenter makes no vApps"));
        }
        let parent = w.pool(&request.this.value).ok_or_else(|| fault::not_found(&request.this))?.clone();
        let drs = matches!(w.get(&parent.owner).map(|e| &e.object), Some(Object::Compute(c)) if c.drs);
        if !drs {
            return Err(fault::invalid_state("vApps need a cluster with DRS"));
        }
        free_name(w, &request.this.value, &name)?;
        // A vApp in a vApp has no folder of its own.
        let folder = match (&parent.vapp, &request.vm_folder) {
            (Some(_), Some(_)) => return Err(fault::invalid_argument("vmFolder", "the parent is a vApp")),
            (Some(_), None) => None,
            (None, Some(folder)) => {
                takes(w, folder, "VirtualApp")?;
                free_name(w, &folder.value, &name)?;
                Some(folder.value.clone())
            }
            (None, None) => return Err(fault::invalid_argument("vmFolder", "a vApp in a pool needs a VM folder")),
        };
        let config = config(&request.res_spec, &request.res_spec)?;
        let info = VAppConfigInfo { instance_uuid: Some(uuid::Uuid::new_v4().to_string()), ..Default::default() };
        let vapp = VApp { config: vapp_config(info, request.config_spec), folder };
        let id = format!("resgroup-v{}", w.fresh("x").trim_start_matches("x-"));
        let object = Object::Pool(Box::new(Pool { owner: parent.owner, config, vapp: Some(vapp) }));
        Ok(w.insert(Entry { id, name, parent: Some(request.this.value), object }))
    })
}

fn pool_mut<'w>(world: &'w mut World, this: &Moref) -> Result<&'w mut Pool, Fault> {
    match world.get_mut(&this.value).map(|e| &mut e.object) {
        Some(Object::Pool(pool)) => Ok(pool),
        _ => Err(fault::not_found(this)),
    }
}

pub(super) async fn update_pool(cx: &Cx, request: m::UpdateConfig) -> Result<(), Fault> {
    let name = request.name.as_deref().map(checked_name).transpose()?;
    cx.lab.change(|w| {
        if let Some(spec) = &request.config {
            let merged = config(&pool_mut(w, &request.this)?.config, spec)?;
            pool_mut(w, &request.this)?.config = merged;
        }
        match name {
            Some(name) => rename_entry(w, &request.this, name),
            None => Ok(()),
        }
    })
}

pub(super) async fn update_vapp(cx: &Cx, request: m::UpdateVAppConfig) -> Result<(), Fault> {
    cx.lab.change(|w| {
        let pool = pool_mut(w, &request.this)?;
        let vapp = pool.vapp.as_mut().ok_or_else(|| fault::not_found(&request.this))?;
        vapp.config = vapp_config(vapp.config.clone(), request.spec);
        Ok(())
    })
}

pub(super) async fn destroy_children(cx: &Cx, request: m::DestroyChildren) -> Result<(), Fault> {
    cx.lab.change(|w| {
        let children: Vec<String> = w.children(&request.this.value).map(|e| e.id.clone()).collect();
        for child in children {
            dissolve(w, &child, &request.this.value);
        }
        Ok(())
    })
}

/// Removes a pool: what is in it moves up, as vSphere does.
fn dissolve(world: &mut World, pool: &str, parent: &str) {
    let pools: Vec<String> = world.children(pool).map(|e| e.id.clone()).collect();
    for child in pools {
        if let Some(entry) = world.get_mut(&child) {
            entry.parent = Some(parent.to_owned());
        }
    }
    let vms: Vec<String> = world.vms_in_pool(pool).map(|(e, _)| e.id.clone()).collect();
    for vm in vms {
        if let Some(vm) = world.vm_mut(&vm) {
            vm.pool = parent.to_owned();
        }
    }
    world.remove(pool);
}

pub(super) async fn move_into_pool(cx: &Cx, request: m::MoveIntoResourcePool) -> Result<(), Fault> {
    cx.lab.change(|w| {
        for object in &request.list {
            match &entry(w, object)?.object {
                Object::Vm(_) => {
                    if let Some(vm) = w.vm_mut(&object.value) {
                        vm.pool.clone_from(&request.this.value);
                    }
                }
                Object::Pool(_) if !w.is_below(&request.this.value, &object.value) => {
                    free_name(w, &request.this.value, &entry(w, object)?.name.clone())?;
                    if let Some(entry) = w.get_mut(&object.value) {
                        entry.parent = Some(request.this.value.clone());
                    }
                }
                _ => return Err(fault::invalid_argument("list", &object.value)),
            }
        }
        Ok(())
    })
}

pub(super) async fn move_into_folder(cx: &Cx, request: m::MoveIntoFolderTask) -> Result<Moref, Fault> {
    if cx.lab.read(World::shape) == Shape::Esxi {
        return Err(fault::not_supported("a host without vCenter has no folders to move things between"));
    }
    let lab = cx.lab.clone();
    let this = request.this.clone();
    Ok(cx.task("Folder.moveInto", &request.this, async move {
        lab.change(|w| {
            for object in &request.list {
                let moved = entry(w, object)?;
                takes(w, &this, moved.kind())?;
                if this.value == moved.id || w.is_below(&this.value, &moved.id) {
                    return Err(fault::invalid_argument("list", "a folder cannot be in itself"));
                }
                if moved.parent.as_deref() == Some(&this.value) {
                    continue;
                }
                free_name(w, &this.value, &moved.name.clone())?;
                let id = moved.id.clone();
                match w.get_mut(&id) {
                    Some(Entry { object: Object::Pool(pool), .. }) => {
                        if let Some(vapp) = &mut pool.vapp {
                            vapp.folder = Some(this.value.clone());
                        }
                    }
                    Some(entry) => entry.parent = Some(this.value.clone()),
                    None => {}
                }
            }
            Ok(None)
        })
    }))
}

/// Gives an object another name.
pub(super) fn rename_entry(world: &mut World, this: &Moref, name: String) -> Result<(), Fault> {
    let known = entry(world, this)?;
    if known.name == name {
        return Ok(());
    }
    if let Some(parent) = known.parent.clone() {
        free_name(world, &parent, &name)?;
    }
    let mut renamed = false;
    if let Some(entry) = world.get_mut(&this.value) {
        entry.name.clone_from(&name);
        if let Object::Vm(vm) = &mut entry.object {
            vm.config.name = name;
            renamed = true;
        }
    }
    if renamed {
        world.vm_event("", &this.value, EventKind::Renamed);
    }
    Ok(())
}

pub(super) async fn rename(cx: &Cx, request: m::RenameTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    let this = request.this.clone();
    Ok(cx.task("ManagedEntity.rename", &request.this, async move {
        let name = checked_name(&request.new_name)?;
        lab.change(|w| {
            if matches!(entry(w, &this)?.object, Object::Datastore(_) | Object::Host(_)) {
                return Err(fault::not_supported("the lab's hosts and datastores keep their names"));
            }
            // Its name is that of the hosts' port groups.
            if entry(w, &this)?.kind() == "Network" {
                return Err(fault::not_supported("a standard network is renamed on its hosts"));
            }
            rename_entry(w, &this, name)?;
            Ok(None)
        })
    }))
}

pub(super) async fn reload(_: &Cx, _: m::Reload) -> Result<(), Fault> {
    Ok(())
}

pub(super) async fn destroy(cx: &Cx, request: m::DestroyTask) -> Result<Moref, Fault> {
    let this = request.this.clone();
    let kind = cx.lab.read(|w| entry(w, &this).map(Entry::kind))?;
    let (cx2, user) = (cx.clone(), cx.user());
    Ok(cx.task(&format!("{kind}.destroy"), &request.this, async move {
        let lab = cx2.lab;
        match kind {
            "VirtualMachine" => vm::destroy(&lab, &this, &user).await?,
            "Folder" => {
                let vms: Vec<Moref> = lab.read(|w| {
                    if entry(w, &this)?
                        .parent
                        .as_deref()
                        .and_then(|p| w.get(p))
                        .is_none_or(|p| p.kind() == "Datacenter")
                    {
                        return Err(fault::not_supported("this folder belongs to its datacenter"));
                    }
                    Ok(w.vms().filter(|(e, _)| w.is_below(&e.id, &this.value)).map(|(e, _)| e.moref()).collect())
                })?;
                // The VMs below go with their folder, and one that is on keeps the folder.
                for vm in &vms {
                    vm::must_be_off(&lab, vm)?;
                }
                for vm in vms {
                    vm::destroy(&lab, &vm, &user).await?;
                }
                lab.change(|w| {
                    let inside: Vec<String> =
                        w.entries().filter(|e| w.is_below(&e.id, &this.value)).map(|e| e.id.clone()).collect();
                    inside.iter().for_each(|id| w.remove(id));
                    w.remove(&this.value);
                });
            }
            "ResourcePool" => lab.change(|w| {
                let parent = entry(w, &this)?.parent.clone().unwrap_or_default();
                if w.pool(&parent).is_none() {
                    return Err(fault::not_supported("this is the root pool"));
                }
                dissolve(w, &this.value, &parent);
                Ok(())
            })?,
            "VirtualApp" => destroy_vapp(&lab, &this, &user).await?,
            _ => return Err(fault::not_supported(kind)),
        }
        Ok(None)
    }))
}

/// A vApp goes with all that is in it.
async fn destroy_vapp(lab: &std::sync::Arc<crate::lab::Lab>, this: &Moref, user: &str) -> Result<(), Fault> {
    let (vms, pools): (Vec<Moref>, Vec<Moref>) = lab.read(|w| {
        let mut pools = vec![this.clone()];
        let mut at = 0;
        while at < pools.len() {
            let below: Vec<Moref> = w.children(&pools[at].value).map(Entry::moref).collect();
            pools.extend(below);
            at += 1;
        }
        let vms = pools.iter().flat_map(|p| w.vms_in_pool(&p.value)).map(|(e, _)| e.moref()).collect();
        (vms, pools)
    });
    for vm in &vms {
        vm::must_be_off(lab, vm)?;
    }
    for vm in vms {
        vm::destroy(lab, &vm, user).await?;
    }
    lab.change(|w| pools.iter().rev().for_each(|p| w.remove(&p.value)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_as_vsphere_does() {
        for (given, kept) in [("a", "a"), ("a/b", "a%2fb"), ("a\\b", "a%5cb"), ("50%", "50%25"), ("a%2fb", "a%2fb")] {
            assert_eq!(checked_name(given).unwrap(), kept);
        }
        assert_eq!(checked_name(&"x".repeat(81)).unwrap_err().type_name(), "InvalidName");
        assert_eq!(checked_name(" ").unwrap_err().type_name(), "InvalidName");
    }
}
