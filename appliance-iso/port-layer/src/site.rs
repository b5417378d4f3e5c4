//! [`Site`]: the VCH's own place in vSphere, found from the endpoint VM's configuration.

use vch_config::{Document, KEY_CONFIG, Role, VchConfig};
use vim25::datastore::DatastorePath;
use vim25::property::Object;
use vim25::types::{
    AnyVirtualDevice, AnyVirtualDeviceBackingInfo, ManagedObjectReference, OptionValue, VirtualEthernetCard,
};
use vim25::{Error, Session};

/// Where the VCH's VMs live.
#[derive(Debug, Clone)]
pub struct Site {
    pub(crate) session: Session,
    /// The VCH's identity.
    pub(crate) vch: String,
    /// vApp, or the pool where there are no vApps.
    pub(crate) pool: ManagedObjectReference,
    pub(crate) folder: ManagedObjectReference,
    pub(crate) datastore: String,
    pub(crate) datacenter: ManagedObjectReference,
    /// The datacenter's inventory path without the leading slash, as `/folder` wants it.
    pub(crate) datacenter_path: String,
    pub(crate) endpoint: ManagedObjectReference,
    /// Where images are.
    pub(crate) images: DatastorePath,
    pub(crate) bootstrap_iso: DatastorePath,
    /// What the endpoint VM's NIC on the bridge network is connected to, and the containers' are.
    pub(crate) bridge: AnyVirtualDeviceBackingInfo,
}

/// Why the VCH's place cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// vSphere refused, or was not reached.
    #[error(transparent)]
    Call(#[from] Error),
    /// The images cannot be read.
    #[error(transparent)]
    Images(#[from] image_store::StoreError),
    /// No VM in the pool carries the VCH's configuration.
    #[error("no VM in {pool} is the endpoint VM of VCH {vch}: was it moved to another pool?")]
    NoEndpoint {
        /// The pool.
        pool: ManagedObjectReference,
        /// The VCH's id.
        vch: String,
    },
    /// The endpoint VM is not as it was made.
    #[error("the endpoint VM has no NIC with the address {mac}, which was its bridge network's")]
    NoBridge {
        /// The MAC address.
        mac: String,
    },
    /// A path in the configuration is none.
    #[error("{what} is {text:?}, which is no datastore path")]
    Path {
        /// Which one.
        what: &'static str,
        /// What stands there.
        text: String,
    },
}

impl Site {
    /// Finds it.
    ///
    /// # Errors
    /// [`SiteError`].
    pub async fn find(session: &Session, config: &VchConfig) -> Result<Self, SiteError> {
        let path = |what: &'static str, text: &str| {
            DatastorePath::parse(text).ok_or_else(|| SiteError::Path { what, text: text.to_owned() })
        };
        let pool = pool(&config.vsphere.pool);
        let vms = session.contained(&pool, "VirtualMachine", false, &["config.extraConfig"]).await?;
        let is_ours = |vm: &&Object| {
            let options = vm.all("config.extraConfig").unwrap_or_default();
            let ours = value(&options, KEY_CONFIG).and_then(|text| VchConfig::from_text(&text).ok());
            ours.is_some_and(|ours| ours.id == config.id)
        };
        let found: Vec<_> = vms.iter().filter(is_ours).map(|vm| vm.reference.clone()).collect();
        if found.is_empty() {
            return Err(SiteError::NoEndpoint { pool, vch: config.id.clone() });
        }
        let interface = config.interfaces.iter().find(|i| i.roles.contains(&Role::Bridge));
        let mac = interface.map(|i| i.mac.clone()).unwrap_or_default();
        let mut place = None;
        // A clone has the configuration, too, and another card.
        for vm in found {
            let devices: Vec<AnyVirtualDevice> =
                session.read(&vm, &["config.hardware.device"]).await?.all("config.hardware.device")?;
            let mut cards = devices.iter().filter_map(card);
            let bridge = cards.find(|c| c.mac_address.as_ref().is_some_and(|m| m.eq_ignore_ascii_case(&mac)));
            if let Some(bridge) = bridge.and_then(|card| card.backing.clone()) {
                place = Some((vm, unbound(bridge)));
            }
        }
        let (endpoint, bridge) = place.ok_or(SiteError::NoBridge { mac })?;
        let datacenter = ManagedObjectReference::new("Datacenter", &config.vsphere.datacenter);
        let images = path("the image store", &config.storage.image_store)?;
        Ok(Self {
            session: session.clone(),
            vch: config.id.clone(),
            pool,
            folder: ManagedObjectReference::new("Folder", &config.vsphere.folder),
            images: images.join("images"),
            datastore: images.datastore,
            datacenter_path: inventory_path(session, &datacenter).await?,
            datacenter,
            endpoint,
            bootstrap_iso: path("the containers' boot image", &config.storage.bootstrap_iso)?,
            bridge,
        })
    }

    /// The devices of a VM.
    pub(crate) async fn devices(&self, vm: &ManagedObjectReference) -> vim25::Result<Vec<AnyVirtualDevice>> {
        self.session.read(vm, &["config.hardware.device"]).await?.all("config.hardware.device")
    }

    /// The disks of a VM.
    pub(crate) async fn disks(&self, vm: &ManagedObjectReference) -> vim25::Result<Vec<AnyVirtualDevice>> {
        let mut devices = self.devices(vm).await?;
        devices.retain(|d| matches!(d, AnyVirtualDevice::VirtualDisk(_)));
        Ok(devices)
    }
}

/// The datacenter's path from the root folder, which is not part of it.
async fn inventory_path(session: &Session, datacenter: &ManagedObjectReference) -> Result<String, Error> {
    let mut at = datacenter.clone();
    let mut names: Vec<String> = Vec::new();
    loop {
        let object = session.read(&at, &["name", "parent"]).await?;
        let Some(parent) = object.get("parent")? else { break };
        names.push(object.require("name")?);
        at = parent;
    }
    names.reverse();
    Ok(names.join("/"))
}

/// The pool by its id, which tells its kind: `resgroup-v8` is a vApp's.
fn pool(id: &str) -> ManagedObjectReference {
    let kind = if id.starts_with("resgroup-v") { "VirtualApp" } else { "ResourcePool" };
    ManagedObjectReference::new(kind, id)
}

/// The network that a card is connected to, without what is that card's alone: on a distributed switch its port.
fn unbound(mut backing: AnyVirtualDeviceBackingInfo) -> AnyVirtualDeviceBackingInfo {
    if let AnyVirtualDeviceBackingInfo::VirtualEthernetCardDistributedVirtualPortBackingInfo(distributed) = &mut backing
    {
        (distributed.port.port_key, distributed.port.connection_cookie) = (None, None);
    }
    backing
}

/// The card that a device is.
pub(crate) fn card(device: &AnyVirtualDevice) -> Option<&VirtualEthernetCard> {
    match device {
        AnyVirtualDevice::VirtualVmxnet3(card) => Some(card),
        _ => None,
    }
}

/// The file of a disk.
pub(crate) fn disk_file(device: &AnyVirtualDevice) -> Option<DatastorePath> {
    match &device.backing {
        Some(AnyVirtualDeviceBackingInfo::VirtualDiskFlatVer2BackingInfo(backing)) => {
            DatastorePath::parse(&backing.file_name)
        }
        _ => None,
    }
}

/// The file that a serial port writes to.
pub(crate) fn port_file(device: &AnyVirtualDevice) -> Option<DatastorePath> {
    let AnyVirtualDevice::VirtualSerialPort(port) = device else { return None };
    match &port.backing {
        Some(AnyVirtualDeviceBackingInfo::VirtualSerialPortFileBackingInfo(file)) => {
            DatastorePath::parse(&file.file_name)
        }
        _ => None,
    }
}

/// The value of a key; the last one wins where a key stands twice.
pub(crate) fn value(options: &[OptionValue], key: &str) -> Option<String> {
    options.iter().rev().find(|o| o.key == key).and_then(|o| o.value.as_ref()?.get().ok())
}
