//! `SearchIndex`: objects by path, name, UUID, address.

use vim25_types::soap::Fault;
use vim25_types::{ManagedObjectReference as Moref, methods as m};

use super::dispatch::Cx;
use super::fault;
use super::inventory::entry;
use crate::world::{DatastorePath, Entry, Object, World};

pub(super) async fn find_by_path(cx: &Cx, request: m::FindByInventoryPath) -> Result<Option<Moref>, Fault> {
    Ok(cx.lab.read(|w| {
        let mut at = w.entries().find(|e| e.parent.is_none())?;
        for part in request.inventory_path.split('/').filter(|p| !p.is_empty()) {
            at = child(w, at, part)?;
        }
        Some(at.moref())
    }))
}

/// The child of that name as inventory paths see it: a vApp is in its folder.
fn child<'w>(world: &'w World, at: &'w Entry, name: &str) -> Option<&'w Entry> {
    world.child_named(&at.id, name).or_else(|| {
        world.entries().find(|e| {
            e.name == name
                && match &e.object {
                    Object::Pool(pool) => pool.vapp.as_ref().is_some_and(|v| v.folder.as_deref() == Some(&at.id)),
                    Object::Vm(vm) => e.parent.is_none() && vm.pool == at.id,
                    _ => false,
                }
        })
    })
}

pub(super) async fn find_child(cx: &Cx, request: m::FindChild) -> Result<Option<Moref>, Fault> {
    cx.lab.read(|w| {
        let at = entry(w, &request.entity)?;
        Ok(child(w, at, &request.name).map(Entry::moref))
    })
}

pub(super) async fn find_by_uuid(cx: &Cx, request: m::FindByUuid) -> Result<Option<Moref>, Fault> {
    Ok(by_uuid(cx, &request.uuid, request.vm_search, request.instance_uuid == Some(true)).into_iter().next())
}

pub(super) async fn find_all_by_uuid(cx: &Cx, request: m::FindAllByUuid) -> Result<Vec<Moref>, Fault> {
    Ok(by_uuid(cx, &request.uuid, request.vm_search, request.instance_uuid == Some(true)))
}

fn by_uuid(cx: &Cx, uuid: &str, vm: bool, instance: bool) -> Vec<Moref> {
    cx.lab.read(|w| {
        let fits = |e: &&Entry| match &e.object {
            Object::Vm(m) if vm && instance => {
                m.config.instance_uuid.as_deref().is_some_and(|u| u.eq_ignore_ascii_case(uuid))
            }
            Object::Vm(m) if vm => m.config.uuid.eq_ignore_ascii_case(uuid),
            Object::Host(h) if !vm => h.uuid.eq_ignore_ascii_case(uuid),
            _ => false,
        };
        w.entries().filter(fits).map(Entry::moref).collect()
    })
}

pub(super) async fn find_by_ip(cx: &Cx, request: m::FindByIp) -> Result<Option<Moref>, Fault> {
    Ok(cx.lab.read(|w| {
        let found = w.vms().find(|(_, vm)| vm.is_on() && vm.address.as_ref() == Some(&request.ip));
        found.filter(|_| request.vm_search).map(|(e, _)| e.moref())
    }))
}

pub(super) async fn find_by_datastore_path(cx: &Cx, request: m::FindByDatastorePath) -> Result<Option<Moref>, Fault> {
    let path: DatastorePath = request.path.parse().map_err(|()| fault::datastore_path(&request.path))?;
    Ok(cx.lab.read(|w| w.vms().find(|(_, vm)| vm.vmx().parse() == Ok(path.clone())).map(|(e, _)| e.moref())))
}
