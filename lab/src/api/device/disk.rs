//! Disks: files that are made, or that are there.

use vim25_types::soap::Fault;
use vim25_types::{
    AnyVirtualDevice as Device, AnyVirtualDeviceBackingInfo as Backing,
    VirtualDeviceConfigSpecFileOperation as FileOperation, VirtualDisk, VirtualDiskFlatVer2BackingInfo,
};

use super::kind::{disk_backing, is_scsi, label};
use super::{NewDisk, Planner};
use crate::api::disk::{Image, uuid};
use crate::api::fault;
use crate::world::{DatastorePath, World};

/// Disks on one paravirtual SCSI controller: units 0 to 64, of which the adapter itself has 7.
pub(in crate::api) const PVSCSI_DISKS: usize = 64;

/// Disks on one of the other SCSI controllers.
pub(in crate::api) const SCSI_DISKS: usize = 15;

impl Planner<'_> {
    pub(super) fn add_disk(
        &mut self,
        index: usize,
        disk: &mut VirtualDisk,
        operation: Option<&FileOperation>,
    ) -> Result<(), Fault> {
        let missing = || fault::device(index, "a disk needs a SCSI controller");
        let key = disk.controller_key.ok_or_else(missing)?;
        let bus = self.find(key).ok_or_else(missing)?;
        if !is_scsi(bus) {
            return Err(fault::device(index, "the lab has disks on SCSI controllers only"));
        }
        let room = if matches!(bus, Device::ParaVirtualSCSIController(_)) { PVSCSI_DISKS } else { SCSI_DISKS };
        let units: Vec<i32> = (0..).filter(|&u| u != 7).take(room).collect();
        disk.unit_number = Some(self.unit(index, key, disk.unit_number, &units)?);
        disk.key = self.free_key(2000 + (key - 1000) * 100);
        let number = self.plan.devices.iter().filter(|d| matches!(d, Device::VirtualDisk(_))).count() + 1;

        let Some(Backing::VirtualDiskFlatVer2BackingInfo(mut backing)) = disk.backing.take() else {
            return Err(fault::device(index, "a disk is a file (VirtualDiskFlatVer2BackingInfo)"));
        };
        let path = match operation {
            Some(FileOperation::Create) => self.create_disk(index, disk, &backing)?,
            None => self.attach_disk(index, disk, &backing)?,
            Some(other) => return Err(fault::device(index, &format!("fileOperation {}", other.as_str()))),
        };
        let taken = |d: &Device| disk_backing(d).is_some_and(|b| b.file_name == path.to_string());
        if self.plan.devices.iter().any(taken) {
            return Err(fault::device(index, "the VM has this disk already"));
        }
        if backing.disk_mode.is_empty() {
            backing.disk_mode = "persistent".into();
        }
        backing.file_name = path.to_string();
        backing.datastore = self.env.world.datastore_named(&path.datastore).map(|(e, _)| e.moref());
        backing.uuid = Some(uuid(&path));
        backing.thin_provisioned = Some(true);
        backing.parent = match self.plan.create.last().filter(|new| new.path == path) {
            Some(new) => new.parent.as_ref().map(|p| Box::new(chain(self.env.world, p))),
            None => chain(self.env.world, &path).parent,
        };
        disk.backing = Some(backing.into());
        disk.capacity_in_kb = disk.capacity_in_bytes.unwrap_or_default() / 1024;
        disk.device_info = label(format!("Hard disk {number}"), &format!("{} KB", disk.capacity_in_kb));
        Ok(())
    }

    fn exists(&self, path: &DatastorePath) -> bool {
        self.env.world.file(&path.to_string()).is_some_and(|f| f.exists())
    }

    fn create_disk(
        &mut self,
        index: usize,
        disk: &mut VirtualDisk,
        backing: &VirtualDiskFlatVer2BackingInfo,
    ) -> Result<DatastorePath, Fault> {
        let given = match backing.file_name.trim() {
            "" => self.env.folder.clone(),
            text => self.datastore_path(text)?,
        };
        let taken = |p: &DatastorePath| self.exists(p) || self.plan.create.iter().any(|new| new.path == *p);
        let path = if given.path.is_empty() || backing.file_name.trim().is_empty() {
            let folder = if given.path.is_empty() && given.datastore != self.env.folder.datastore {
                given.join(self.env.name)
            } else {
                self.env.folder.clone()
            };
            let names = std::iter::once(String::new()).chain((1..).map(|n| format!("_{n}")));
            let mut paths = names.map(|suffix| folder.join(&format!("{}{suffix}.vmdk", self.env.name)));
            paths.find(|p| !taken(p)).ok_or_else(|| fault::device(index, "no name is free"))?
        } else {
            if taken(&given) {
                return Err(fault::file_exists(&given.to_string()));
            }
            given
        };
        let parent = match &backing.parent {
            None => None,
            Some(parent) => {
                let parent = self.datastore_path(&parent.file_name)?;
                if !self.exists(&parent) {
                    return Err(fault::file_not_found(&parent.to_string()));
                }
                Some(parent)
            }
        };
        let inherited =
            parent.as_ref().and_then(|p| Image::read(&self.env.world.file(&p.to_string())?)).map(|i| i.capacity);
        let asked = disk.capacity_in_bytes.filter(|&b| b > 0).unwrap_or(disk.capacity_in_kb * 1024);
        let capacity = if asked > 0 { asked } else { inherited.unwrap_or(0) };
        if capacity <= 0 || inherited.is_some_and(|i| capacity < i) {
            return Err(fault::device(index, "the capacity is not right"));
        }
        disk.capacity_in_bytes = Some(capacity);
        self.plan.create.push(NewDisk { path: path.clone(), capacity, parent });
        Ok(path)
    }

    fn attach_disk(
        &self,
        index: usize,
        disk: &mut VirtualDisk,
        backing: &VirtualDiskFlatVer2BackingInfo,
    ) -> Result<DatastorePath, Fault> {
        let path = self.datastore_path(&backing.file_name)?;
        let file = self.env.world.file(&path.to_string()).filter(|f| f.exists());
        let file = file.ok_or_else(|| fault::file_not_found(&path.to_string()))?;
        let image = Image::read(&file).ok_or_else(|| fault::device(index, &format!("{path} is not a virtual disk")))?;
        disk.capacity_in_bytes = Some(image.capacity);
        Ok(path)
    }
}

/// A disk's file and those that it is based on.
fn chain(world: &World, path: &DatastorePath) -> VirtualDiskFlatVer2BackingInfo {
    let mut backing = VirtualDiskFlatVer2BackingInfo { disk_mode: "persistent".into(), ..Default::default() };
    backing.file_name = path.to_string();
    backing.datastore = world.datastore_named(&path.datastore).map(|(e, _)| e.moref());
    backing.uuid = Some(uuid(path));
    let parent = world.file(&path.to_string()).and_then(|f| Image::read(&f)).and_then(|i| i.parent);
    backing.parent = parent.and_then(|p| world.path_of(&p)).map(|p| Box::new(chain(world, &p)));
    backing
}
