//! [`Datastore`]: disks that are made, written by the endpoint VM, and let go.

use std::path::PathBuf;

use image_store::{Backend, BackendError, OpenDisk};
use tokio::sync::Mutex;
use uuid::Uuid;
use vim25::Result;
use vim25::datastore::DatastorePath;
use vim25::types::{
    AnyVirtualDevice, VirtualDevice, VirtualDeviceConfigSpec, VirtualDeviceConfigSpecFileOperation,
    VirtualDeviceConfigSpecOperation, VirtualDeviceFileBackingInfo, VirtualDisk, VirtualDiskFlatVer2BackingInfo,
    VirtualMachineConfigSpec, methods,
};

use super::device;
use crate::Site;
use crate::site::disk_file;

/// What an image and a container on it can hold; a disk is thin, and takes what is written.
const CAPACITY_KIB: i64 = 8 << 20;
/// Units of a paravirtual SCSI controller; the controller itself has the one that is left out.
const UNITS: std::ops::Range<i32> = 0..64;
const CONTROLLER: i32 = 7;
/// Bytes that a pull leaves free.
const RESERVE: u64 = 1 << 30;
/// The disk's file in its folder.
const DISK: &str = "disk.vmdk";

/// The images' part of the datastore.
#[derive(Debug)]
pub struct Datastore {
    site: Site,
    /// The endpoint VM is changed by one at a time.
    changing: Mutex<()>,
    /// A disk that nobody has used, attached and with an empty file system: one that vSphere need not be waited for.  Like all that
    /// no index names it goes at the next start, and with the endpoint VM when that is destroyed.
    spare: Mutex<Option<Spare>>,
}

#[derive(Debug)]
struct Spare {
    name: String,
    device: PathBuf,
}

impl Datastore {
    /// The images' part of `site`'s datastore.  What another left mounted in this process is let go of; a disk that it left attached
    /// is in no index, and goes with [`image_store::ImageStore::collect`].
    pub async fn open(site: Site) -> Self {
        device::release_all().await;
        Self { site, changing: Mutex::default(), spare: Mutex::default() }
    }

    fn folder(&self, name: &str) -> DatastorePath {
        self.site.images.join(name)
    }

    /// Where the VMDK of a disk is.
    pub fn disk(&self, name: &str) -> DatastorePath {
        self.folder(name).join(DISK)
    }

    /// The disks of the endpoint VM.
    async fn attached(&self) -> Result<Vec<AnyVirtualDevice>> {
        self.site.disks(&self.site.endpoint).await
    }

    /// Makes a disk and attaches it; gives its unit.
    async fn attach(&self, name: &str, parent: Option<&str>) -> Result<u32> {
        let _alone = self.changing.lock().await;
        let devices = self.site.devices(&self.site.endpoint).await?;
        let invalid = |text: &str| vim25::Error::Invalid(text.to_owned());
        let controller = devices
            .iter()
            .find(|d| matches!(d, AnyVirtualDevice::ParaVirtualSCSIController(_)))
            .ok_or_else(|| invalid("the endpoint VM has no paravirtual SCSI controller"))?;
        let key = controller.key;
        let taken = |unit: i32| devices.iter().any(|d| d.controller_key == Some(key) && d.unit_number == Some(unit));
        let unit = UNITS.into_iter().find(|u| *u != CONTROLLER && !taken(*u));
        let unit = unit.ok_or_else(|| invalid("the endpoint VM's SCSI controller is full"))?;
        let file =
            |path: &DatastorePath| VirtualDeviceFileBackingInfo { file_name: path.to_string(), ..Default::default() };
        let below = |name: &str| VirtualDiskFlatVer2BackingInfo { base: file(&self.disk(name)), ..Default::default() };
        let backing = VirtualDiskFlatVer2BackingInfo {
            base: file(&self.disk(name)),
            // A snapshot of the endpoint VM, a backup's, is none of what is written to it.
            disk_mode: "independent_persistent".into(),
            thin_provisioned: Some(true),
            parent: parent.map(|p| Box::new(below(p))),
            ..Default::default()
        };
        let disk = VirtualDisk {
            base: VirtualDevice {
                key: -1,
                backing: Some(backing.into()),
                controller_key: Some(key),
                unit_number: Some(unit),
                ..Default::default()
            },
            capacity_in_kb: if parent.is_none() { CAPACITY_KIB } else { 0 },
            ..Default::default()
        };
        let change = VirtualDeviceConfigSpec {
            operation: Some(VirtualDeviceConfigSpecOperation::Add),
            file_operation: Some(VirtualDeviceConfigSpecFileOperation::Create),
            device: disk.into(),
            ..Default::default()
        };
        self.reconfigure(change).await?;
        Ok(u32::try_from(unit).unwrap_or_default())
    }

    /// Takes a disk from the endpoint VM; its file stays.
    async fn detach(&self, disk: AnyVirtualDevice) -> Result<()> {
        let _alone = self.changing.lock().await;
        if let Some(unit) = disk.unit_number.and_then(|u| u32::try_from(u).ok()) {
            device::forget(unit);
        }
        let change = VirtualDeviceConfigSpec {
            operation: Some(VirtualDeviceConfigSpecOperation::Remove),
            device: disk,
            ..Default::default()
        };
        self.reconfigure(change).await
    }

    async fn reconfigure(&self, change: VirtualDeviceConfigSpec) -> Result<()> {
        let spec = VirtualMachineConfigSpec { device_change: vec![change], ..Default::default() };
        let this = self.site.endpoint.clone();
        self.site.change(&methods::ReconfigVMTask { this, spec }).await.map(drop)
    }

    /// Makes a disk and attaches it; without a parent it gets an empty file system.
    async fn make(&self, parent: Option<&str>) -> Result<Spare, BackendError> {
        let name = Uuid::new_v4().simple().to_string();
        let ready = async {
            self.site.make_folder(&self.folder(&name)).await?;
            let device = device::appear(self.attach(&name, parent).await?).await?;
            if parent.is_none() {
                device::format(&device).await?;
            }
            Ok(device)
        };
        match ready.await {
            Ok(device) => Ok(Spare { name, device }),
            Err(e) => {
                // What cannot be removed now goes at the next start.
                let _ = self.delete_disk(&name).await;
                Err(e)
            }
        }
    }

    /// Whether the datastore has room.  vSphere stops a VM whose thin disk has none any more, and asks the admin: here the endpoint
    /// VM itself.
    async fn room(&self, bytes: u64) -> Result<(), BackendError> {
        let Some(free) = self.site.free_space().await? else { return Ok(()) };
        if bytes.saturating_add(RESERVE) <= free {
            return Ok(());
        }
        let mb = |bytes: u64| bytes / 1_000_000;
        let (datastore, needed, free, reserve) = (&self.site.datastore, mb(bytes), mb(free), mb(RESERVE));
        let text = format!(
            "no space left on device: datastore {datastore} has {free} MB free; the image needs some {needed} MB, and {reserve} MB \
             are left to the VMs"
        );
        Err(text.into())
    }

    /// Unmounts and detaches a disk; whether it was attached.
    async fn let_go(&self, name: &str) -> Result<bool, BackendError> {
        let path = self.disk(name);
        let mut found = false;
        let (released, attached) = tokio::join!(device::release(name), self.attached());
        released?;
        for disk in attached? {
            if disk_file(&disk).as_ref() == Some(&path) {
                self.detach(disk).await?;
                found = true;
            }
        }
        Ok(found)
    }
}

impl Backend for Datastore {
    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BackendError> {
        let bytes = self.site.read_file(&self.folder(name)).await?;
        // What is not there is made anew: it must not be there for certain.
        if bytes.is_none() && self.site.list_files(&self.site.images).await?.iter().any(|n| n == name) {
            return Err(format!("{} is there, and cannot be read", self.folder(name)).into());
        }
        Ok(bytes)
    }

    async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), BackendError> {
        let file = self.folder(name);
        match self.site.write_file(&file, bytes.clone()).await {
            Err(e) if e.is_not_found() => {
                self.site.make_folder(&self.site.images).await?;
                Ok(self.site.write_file(&file, bytes).await?)
            }
            other => Ok(other?),
        }
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), BackendError> {
        Ok(self.site.move_file(&self.folder(from), &self.folder(to)).await?)
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        Ok(self.site.delete_files(&self.folder(name)).await?)
    }

    async fn open_disk(&self, parent: Option<&str>, bytes: u64) -> Result<OpenDisk, BackendError> {
        self.room(bytes).await?;
        let spare = if parent.is_none() { self.spare.lock().await.take() } else { None };
        let Spare { name, device } = match spare {
            Some(spare) => spare,
            None => self.make(parent).await?,
        };
        let attached = match (device::attach(device, &name).await, parent) {
            // An image's own may be in a layer of its.
            (Ok(root), None) => device::empty(root).await,
            (other, _) => other,
        };
        match attached {
            Ok(root) => Ok(OpenDisk { name, root }),
            Err(e) => {
                let _ = self.delete_disk(&name).await;
                Err(e.into())
            }
        }
    }

    async fn prepare(&self) {
        let mut spare = self.spare.lock().await;
        if spare.is_none() {
            // Without one the next pull makes its own, and says what is wrong.
            *spare = self.make(None).await.ok();
        }
    }

    async fn close_disk(&self, name: &str) -> Result<(), BackendError> {
        if self.let_go(name).await? {
            return Ok(());
        }
        // A storage vMotion takes along what hangs on the endpoint VM, under another name.
        Err(format!("{} hangs on the endpoint VM no more: was it moved to another datastore?", self.disk(name)).into())
    }

    async fn delete_disk(&self, name: &str) -> Result<(), BackendError> {
        self.let_go(name).await?;
        let disk = self.disk(name);
        self.site.make_deletable(&disk).await?;
        self.site.delete_virtual_disk(&disk).await?;
        Ok(self.site.delete_files(&self.folder(name)).await?)
    }

    async fn is_gone(&self, name: &str) -> bool {
        self.site.is_gone(&self.disk(name)).await
    }

    async fn disks(&self) -> Result<Vec<String>, BackendError> {
        let names = self.site.list_files(&self.site.images).await?;
        // Documents have a dot in their names.
        Ok(names.into_iter().filter(|n| !n.contains('.')).collect())
    }
}
