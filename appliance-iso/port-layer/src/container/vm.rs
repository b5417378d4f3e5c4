//! A container's VM: made, started, ended, removed.
//!
//! ```text
//! create: CreateChildVM_Task with the record, its controllers and its NIC -> ReconfigVM_Task with disk, CD and ports
//! ```
//! The files' places are known only when the VM is there, hence two calls.  A VM whose record is there and whose guest's
//! document is not, nor the copy of it, is half-made: an engine that finds one which it is not making removes it.

use std::collections::BTreeSet;
use std::time::Duration;

use tether_proto::{Container as Guest, Document, Interface, KEY_CONTAINER, KEY_EXIT, Run};
use tokio::time::{Instant, sleep};
use vch_config::{KEY_UUIDS, UUIDS};
use vim25::datastore::DatastorePath;
use vim25::property::Object;
use vim25::types::{
    AnyValue, AnyVirtualDevice, ManagedObjectReference, Method, OptionValue, ParaVirtualSCSIController, VirtualCdrom,
    VirtualCdromIsoBackingInfo, VirtualController, VirtualDevice, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecFileOperation, VirtualDeviceConfigSpecOperation, VirtualDeviceConnectInfo,
    VirtualDeviceFileBackingInfo, VirtualDisk, VirtualDiskFlatVer2BackingInfo, VirtualEthernetCard,
    VirtualIDEController, VirtualMachineConfigSpec, VirtualMachineConnectionState, VirtualMachineFileInfo,
    VirtualMachinePowerState, VirtualMachineSnapshotInfo, VirtualSCSIController, VirtualSCSISharing, VirtualSerialPort,
    VirtualSerialPortFileBackingInfo, VirtualVmxnet, VirtualVmxnet3, methods,
};
use vim25::{Error, Result};

use super::question::Question;
use super::record::{KEY_RECORD, Record, is_name};
use super::restart::{KEY_RESTARTS, Restarts};
use crate::Site;
use crate::site::{card, disk_file, port_file, value};

/// Name of the file that takes the process's output, in the VM's folder.
pub const OUTPUT: &str = "output.log";
/// Name of the file that takes the kernel's and tether's words.
const CONSOLE: &str = "tether.log";
/// Key of a copy of the guest's document, which is not visible in the guest.  vSphere forgets the guest's keys when the VM goes off,
/// if anybody has saved its settings while it was on: an admin in the host's client, with no change at all.
const KEY_GUEST: &str = "vic.guest";
/// The word on a run before the first one: no document, and not empty, for an empty value is no key.
const NO_WORD: &str = "-";
/// vSphere's limit on a VM's name.
const NAME_LIMIT: usize = 80;
/// How long another task may have a VM that is to be changed, and the pause between two tries.
const BUSY: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(300);
/// Controllers have a key before they are there, and what hangs on them says it.
const SCSI: i32 = -2;

/// What a container's VM is made from.
#[derive(Debug, Clone, Copy)]
pub struct New<'a> {
    /// The Docker-side record.
    pub record: &'a Record,
    /// What tether is told.
    pub guest: &'a Guest,
    /// The image's topmost disk: the container's own is its child.
    pub image: &'a DatastorePath,
    /// Memory of the VM in MiB.
    pub memory_mib: u32,
    /// CPUs of the VM.
    pub cpus: u32,
}

/// Why a container's VM was not made.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct NotMade {
    /// Why.
    #[source]
    pub error: Error,
    /// What is left of it, for it could not be removed either.
    pub left: Option<ManagedObjectReference>,
}

impl Site {
    /// Makes a container's VM, powered off.
    ///
    /// # Errors
    /// [`NotMade`].
    pub async fn create(&self, new: New<'_>) -> Result<ManagedObjectReference, NotMade> {
        // Where the answer was lost there may be a VM all the same; it is half-made.
        let vm = self.create_bare(new).await.map_err(|error| NotMade { error, left: None })?;
        match self.furnish(&vm, new).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                let removed = self.destroy(&vm).await.is_ok();
                Err(NotMade { error, left: Some(vm).filter(|_| !removed) })
            }
        }
    }

    async fn create_bare(&self, new: New<'_>) -> Result<ManagedObjectReference> {
        let ide = VirtualIDEController { base: controller(-1) };
        let scsi = ParaVirtualSCSIController {
            base: VirtualSCSIController {
                base: controller(SCSI),
                shared_bus: VirtualSCSISharing::NoSharing,
                ..Default::default()
            },
        };
        let device = VirtualDevice {
            key: -3,
            backing: Some(self.bridge.clone()),
            connectable: Some(connected()),
            ..Default::default()
        };
        let card = VirtualEthernetCard { base: device, address_type: Some("generated".into()), ..Default::default() };
        let nic = VirtualVmxnet3 { base: VirtualVmxnet { base: card }, ..Default::default() };
        let name = vm_name(new.record);
        let config = VirtualMachineConfigSpec {
            guest_id: Some("other3xLinux64Guest".into()),
            annotation: Some(annotation(new.record)),
            files: Some(VirtualMachineFileInfo {
                vm_path_name: Some(format!("[{}]", self.datastore)),
                ..Default::default()
            }),
            num_cpus: i32::try_from(new.cpus).ok(),
            memory_mb: Some(new.memory_mib.into()),
            device_change: vec![add(ide.into()), add(scsi.into()), add(nic.into())],
            extra_config: vec![
                option(KEY_RECORD, new.record.to_text()),
                // What the guest says of its run outlives the VM's power only if the key was there before.
                option(KEY_EXIT, NO_WORD.into()),
                option("answer.msg.serial.file.open", "Append".into()),
                option("disk.EnableUUID", "TRUE".into()),
                // One that an admin moves with its files is the same: it does not ask at its next power-on whether it was copied.
                option("uuid.action", "keep".into()),
            ],
            name: Some(name),
            ..Default::default()
        };
        let pool = self.pool.clone();
        let result = if pool.kind == "VirtualApp" {
            self.change(&methods::CreateChildVMTask { this: pool, config, host: None }).await?
        } else {
            let this = self.folder.clone();
            self.change(&methods::CreateVMTask { this, config, pool, host: None }).await?
        };
        let protocol = |reason: String| Error::Protocol { what: "creating a container's VM".into(), reason };
        result.ok_or_else(|| protocol("the task has no result".into()))?.get().map_err(|e| protocol(e.to_string()))
    }

    async fn furnish(&self, vm: &ManagedObjectReference, new: New<'_>) -> Result<()> {
        let wanted = [&UUIDS[..], &["config.files.vmPathName", "config.hardware.device"]].concat();
        let facts = self.session.read(vm, &wanted).await?;
        let protocol = |reason: &str| Error::Protocol { what: format!("the new VM {vm}"), reason: reason.into() };
        let vmx: String = facts.require("config.files.vmPathName")?;
        let files = DatastorePath::parse(&vmx).ok_or_else(|| protocol("its path is no datastore path"))?.parent();
        let devices: Vec<AnyVirtualDevice> = facts.all("config.hardware.device")?;
        let card = devices.iter().find_map(card);
        let key = |is: fn(&AnyVirtualDevice) -> bool| devices.iter().find(|d| is(d)).map(|d| d.key);
        let ide = key(|d| matches!(d, AnyVirtualDevice::VirtualIDEController(_)));
        let scsi = key(|d| matches!(d, AnyVirtualDevice::ParaVirtualSCSIController(_)));

        let backing = VirtualDiskFlatVer2BackingInfo {
            disk_mode: "persistent".into(),
            thin_provisioned: Some(true),
            parent: Some(Box::new(VirtualDiskFlatVer2BackingInfo { base: file(new.image), ..Default::default() })),
            ..Default::default()
        };
        let disk = VirtualDisk {
            base: VirtualDevice {
                key: -1,
                backing: Some(backing.into()),
                controller_key: scsi,
                unit_number: i32::try_from(new.guest.root.unit).ok(),
                ..Default::default()
            },
            ..Default::default()
        };
        let disk = VirtualDeviceConfigSpec {
            file_operation: Some(VirtualDeviceConfigSpecFileOperation::Create),
            ..add(disk.into())
        };
        let cdrom = VirtualCdrom {
            base: VirtualDevice {
                key: -2,
                backing: Some(VirtualCdromIsoBackingInfo { base: file(&self.bootstrap_iso) }.into()),
                connectable: Some(connected()),
                controller_key: ide,
                unit_number: Some(0),
                ..Default::default()
            },
        };
        let port = |key, name: &str| VirtualSerialPort {
            base: VirtualDevice {
                key,
                backing: Some(VirtualSerialPortFileBackingInfo { base: file(&files.join(name)) }.into()),
                connectable: Some(connected()),
                ..Default::default()
            },
            yield_on_poll: true,
        };
        let mut guest = new.guest.clone();
        // Where vSphere gives it only at power-on the guest has one card, and finds it all the same.
        let mac = card.and_then(|c| c.mac_address.clone()).unwrap_or_default().to_ascii_lowercase();
        guest.interfaces.push(Interface { mac, name: "eth0".into(), address: String::new(), gateway: None });
        let spec = VirtualMachineConfigSpec {
            device_change: vec![disk, add(cdrom.into()), add(port(-3, CONSOLE).into()), add(port(-4, OUTPUT).into())],
            extra_config: vec![
                option(KEY_UUIDS, uuids(&facts).collect::<Vec<_>>().join(" ")),
                option(KEY_CONTAINER, guest.to_text()),
                option(KEY_GUEST, guest.to_text()),
            ],
            ..Default::default()
        };
        self.change(&methods::ReconfigVMTask { this: vm.clone(), spec }).await.map(drop)
    }

    /// Runs a task on a VM, or one that makes a VM; while another one has the VM, an admin's perhaps, it is tried again.
    pub(crate) async fn change<M>(&self, method: &M) -> Result<Option<AnyValue>>
    where
        M: Method<Response = ManagedObjectReference>,
    {
        let end = Instant::now() + BUSY;
        loop {
            match self.session.run(method).await {
                Err(error) if error.is_busy() && Instant::now() < end => {
                    sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// Powers the VM on.
    ///
    /// # Errors
    /// Those of vSphere; a VM that is on already is none.
    pub async fn start(&self, vm: &ManagedObjectReference) -> Result<()> {
        let power_on = methods::PowerOnVMTask { this: vm.clone(), host: None };
        self.power(&power_on, vm, VirtualMachinePowerState::PoweredOn, &["InvalidPowerState"]).await
    }

    /// Runs a task that brings a VM's power to be as wanted.  Those faults say that it was on its way somewhere: it may be so
    /// already, or a moment later vSphere does it after all.
    async fn power<M>(
        &self,
        method: &M,
        vm: &ManagedObjectReference,
        wanted: VirtualMachinePowerState,
        unsettled: &[&str],
    ) -> Result<()>
    where
        M: Method<Response = ManagedObjectReference>,
    {
        let end = Instant::now() + BUSY;
        loop {
            match self.change(method).await {
                Err(error) if error.fault_name().is_some_and(|name| unsettled.contains(&name)) => {
                    let now = self.session.read(vm, &["runtime.powerState"]).await?.get("runtime.powerState")?;
                    if now == Some(wanted.clone()) {
                        return Ok(());
                    }
                    if Instant::now() >= end {
                        return Err(error);
                    }
                    sleep(AGAIN).await;
                }
                other => return other.map(drop),
            }
        }
    }

    /// Remembers something of the container's restarts.
    ///
    /// # Errors
    /// Those of vSphere.
    pub async fn remember(&self, vm: &ManagedObjectReference, restarts: &Restarts) -> Result<()> {
        let extra_config = vec![option(KEY_RESTARTS, restarts.to_text())];
        let spec = VirtualMachineConfigSpec { extra_config, ..Default::default() };
        self.change(&methods::ReconfigVMTask { this: vm.clone(), spec }).await.map(drop)
    }

    /// Gives a VM that is off its guest's keys again: the guest's document, and `run` as the last word on it.
    ///
    /// # Errors
    /// Those of vSphere.
    pub(crate) async fn restore_guest(&self, vm: &ManagedObjectReference, run: Option<&Run>) -> Result<()> {
        let options = self.session.read(vm, &["config.extraConfig"]).await?.all("config.extraConfig")?;
        let guest = guest_of(&options).ok_or_else(|| {
            Error::Invalid(format!("the VM {vm} has lost what its guest is to be told ({KEY_GUEST})"))
        })?;
        let word = run.map_or_else(|| NO_WORD.into(), Document::to_text);
        let extra_config = vec![option(KEY_CONTAINER, guest), option(KEY_EXIT, word)];
        let spec = VirtualMachineConfigSpec { extra_config, ..Default::default() };
        self.change(&methods::ReconfigVMTask { this: vm.clone(), spec }).await.map(drop)
    }

    /// Gives the VM the record to keep, whose name is another, and its own name after it unless an admin has given it that.
    ///
    /// # Errors
    /// Those of vSphere.
    pub async fn rename(&self, vm: &ManagedObjectReference, record: &Record, by_admin: bool) -> Result<()> {
        let spec = VirtualMachineConfigSpec {
            name: Some(vm_name(record)).filter(|_| !by_admin),
            annotation: Some(annotation(record)),
            extra_config: vec![option(KEY_RECORD, record.to_text())],
            ..Default::default()
        };
        self.change(&methods::ReconfigVMTask { this: vm.clone(), spec }).await.map(drop)
    }

    /// Asks the guest to end its process, as `docker stop` does; tether powers the VM off afterwards.
    ///
    /// # Errors
    /// Those of vSphere: `ToolsUnavailable` while the guest does not listen.
    pub async fn shut_down(&self, vm: &ManagedObjectReference) -> Result<()> {
        match self.session.call(&methods::ShutdownGuest { this: vm.clone() }).await {
            Err(e) if e.fault_name() == Some("InvalidPowerState") => Ok(()),
            other => other,
        }
    }

    /// Powers the VM off at once.
    ///
    /// # Errors
    /// Those of vSphere; a VM that is off already is none.
    pub async fn power_off(&self, vm: &ManagedObjectReference) -> Result<()> {
        let power_off = methods::PowerOffVMTask { this: vm.clone() };
        // The second while the guest shuts itself down, the third until what it asks is answered.
        let unsettled = ["InvalidPowerState", "GenericVmConfigFault", "QuestionPending"];
        self.power(&power_off, vm, VirtualMachinePowerState::PoweredOff, &unsettled).await
    }

    /// Answers what the VM asks so that it ends, or what it asks about does not come to pass.
    ///
    /// # Errors
    /// Those of vSphere: `ConcurrentAccess` when somebody else has answered.
    pub(crate) async fn answer(&self, vm: &ManagedObjectReference, question: &Question) -> Result<()> {
        let (question_id, answer_choice) = (question.id.clone(), question.ending.clone());
        self.session.call(&methods::AnswerVM { this: vm.clone(), question_id, answer_choice }).await
    }

    /// Waits until the VM is off, or gone.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub(crate) async fn until_off(&self, vm: &ManagedObjectReference) -> Result<()> {
        let mut power = self.session.watch(vm, &["runtime.powerState"]).await?;
        let off = power.until(vm, |state| {
            let power = state.get::<VirtualMachinePowerState>("runtime.powerState")?;
            Ok(power.filter(|power| *power == VirtualMachinePowerState::PoweredOff))
        });
        gone(off.await.map(drop))
    }

    /// Connects the VM's ports again that are to be connected and are not.
    ///
    /// # Errors
    /// Those of vSphere.
    pub(crate) async fn reconnect_ports(&self, vm: &ManagedObjectReference) -> Result<()> {
        let lost = self.devices(vm).await?.into_iter().filter_map(|mut port| {
            let connect = Some(&mut port)
                .filter(|p| matches!(p, AnyVirtualDevice::VirtualSerialPort(_)))?
                .connectable
                .as_mut()?;
            let lost = connect.start_connected && !std::mem::replace(&mut connect.connected, true);
            lost.then_some(port)
        });
        let connect = |device| VirtualDeviceConfigSpec {
            operation: Some(VirtualDeviceConfigSpecOperation::Edit),
            device,
            ..Default::default()
        };
        let device_change: Vec<_> = lost.map(connect).collect();
        if device_change.is_empty() {
            return Ok(());
        }
        let spec = VirtualMachineConfigSpec { device_change, ..Default::default() };
        self.change(&methods::ReconfigVMTask { this: vm.clone(), spec }).await.map(drop)
    }

    /// What the guest said last of its run, as vSphere has it now.
    ///
    /// # Errors
    /// Those of vSphere.
    pub(crate) async fn last_word(&self, vm: &ManagedObjectReference) -> Result<Option<Run>> {
        let facts = self.session.read(vm, &["config.extraConfig"]).await?;
        Ok(value(&facts.all("config.extraConfig")?, KEY_EXIT).and_then(|text| Run::from_text(&text).ok()))
    }

    /// Removes a VM of whose create nothing will come any more.
    ///
    /// # Errors
    /// Those of vSphere; a VM that is gone already is none.
    pub(crate) async fn remove_half_made(&self, vm: &ManagedObjectReference) -> Result<()> {
        let options = match self.session.read(vm, &["config.extraConfig"]).await {
            Ok(facts) => facts.all("config.extraConfig")?,
            Err(e) => return gone(Err(e)),
        };
        // What was seen of it may have been old, or cannot be read now: then nobody knows what it is.
        let half_made = value(&options, KEY_RECORD).is_some() && guest_of(&options).is_none();
        if half_made { self.destroy(vm).await } else { Ok(()) }
    }

    /// Removes the VM with its files, whatever it does; its image stays.
    ///
    /// # Errors
    /// Those of vSphere; a VM that is gone already is none.
    pub async fn destroy(&self, vm: &ManagedObjectReference) -> Result<()> {
        // Somebody has switched it on, or another removal has taken its disks, since it was looked at; or it waits for an answer.
        let old = [
            "InvalidPowerState",
            "GenericVmConfigFault",
            "QuestionPending",
            "FileLocked",
            "DeviceNotFound",
            "InvalidDeviceSpec",
        ];
        let end = Instant::now() + BUSY;
        loop {
            match self.destroy_once(vm).await {
                Err(error) if error.fault_name().is_some_and(|name| old.contains(&name)) && Instant::now() < end => {
                    sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// Removes what the destruction of a VM left in its folder.  Where there is more than that the VM was not destroyed, but
    /// taken out of the pool or the inventory.
    ///
    /// # Errors
    /// Those of vSphere.
    pub(crate) async fn remove_leavings(&self, folder: &DatastorePath) -> Result<()> {
        let files = self.list_files(folder).await?;
        if files.iter().all(|file| [OUTPUT, CONSOLE].contains(&file.as_str())) {
            self.delete_files(folder).await?;
        }
        Ok(())
    }

    /// Takes a VM out of the inventory whose files vSphere does not reach, and which it therefore does not destroy: they stay.  False
    /// when it does reach them.
    ///
    /// # Errors
    /// Those of vSphere; a VM that is gone already is none.
    pub(crate) async fn give_up(&self, vm: &ManagedObjectReference) -> Result<bool> {
        match self.session.read(vm, &["runtime.connectionState"]).await {
            Ok(facts) if is_inaccessible(&facts)? => {}
            Ok(_) => return Ok(false),
            Err(e) => return gone(Err(e)).map(|()| true),
        }
        gone(self.session.call(&methods::UnregisterVM { this: vm.clone() }).await).map(|()| true)
    }

    async fn destroy_once(&self, vm: &ManagedObjectReference) -> Result<()> {
        let facts = [
            "runtime.connectionState",
            "runtime.powerState",
            "config.files.vmPathName",
            "config.hardware.device",
            "snapshot",
        ];
        let facts = match self.session.read(vm, &facts).await {
            Ok(facts) => facts,
            Err(e) => return gone(Err(e)),
        };
        if is_inaccessible(&facts)? {
            return Err(Error::Invalid(format!(
                "vSphere does not reach the files of the VM {vm}: bring its datastore back; removing the container by force leaves \
                 them there"
            )));
        }
        if facts.get("runtime.powerState")? != Some(VirtualMachinePowerState::PoweredOff) {
            gone(self.power_off(vm).await)?;
        }
        let folder = facts.get::<String>("config.files.vmPathName")?.and_then(|path| folder_of(&path));
        if facts.get::<VirtualMachineSnapshotInfo>("snapshot")?.is_some() {
            // A disk that is part of one, a backup's, cannot be taken away.  What is in them goes with the VM, and is not merged.
            let remove = methods::RemoveAllSnapshotsTask { this: vm.clone(), consolidate: Some(false), spec: None };
            gone(self.change(&remove).await.map(drop))?;
        }
        match self.remove_disks(vm, folder.as_ref()).await {
            // A file that is not found is no VM that is not.
            Err(e) if e.fault_name() != Some("ManagedObjectNotFound") => return Err(e),
            _ => {}
        }
        // vSphere does not know them to be the VM's, and would leave them: they go as long as the VM leads to them.
        let devices: Vec<AnyVirtualDevice> = facts.all("config.hardware.device")?;
        let ours =
            |file: &DatastorePath| [OUTPUT, CONSOLE].iter().any(|name| file.path.rsplit('/').next() == Some(name));
        let written: Vec<DatastorePath> = devices.iter().filter_map(port_file).filter(ours).collect();
        for file in &written {
            self.delete_files(file).await?;
        }
        gone(self.change(&methods::DestroyTask { this: vm.clone() }).await.map(drop))?;
        // The VM is gone, and so is the container; of one that was seen somebody else looks after what is left.
        if let Some(folder) = &folder {
            let _ = self.delete_files(folder).await;
        }
        // A storage vMotion leaves behind what the ports write.
        let others: BTreeSet<String> = written.iter().map(|file| file.parent().to_string()).collect();
        for other in others.iter().filter_map(|other| DatastorePath::parse(other)) {
            if Some(&other) != folder.as_ref() && !other.path.is_empty() {
                let _ = self.remove_leavings(&other).await;
            }
        }
        Ok(())
    }

    /// Takes the disks from a VM that is to be destroyed, and removes its own: a vCenter destroys, with a VM's disk, those below it
    /// that no other VM has, and an image's last container would take the image along.
    async fn remove_disks(&self, vm: &ManagedObjectReference, folder: Option<&DatastorePath>) -> Result<()> {
        let change = |device_change| {
            let spec = VirtualMachineConfigSpec { device_change, ..Default::default() };
            methods::ReconfigVMTask { this: vm.clone(), spec }
        };
        let mut disks = self.disks(vm).await?;
        if disks.is_empty() {
            // The change that gives it a disk may be under way, where its answer was lost: one that changes nothing comes after it.
            self.change(&change(Vec::new())).await?;
            disks = self.disks(vm).await?;
        }
        if disks.is_empty() {
            return Ok(());
        }
        let files = disks.iter().filter_map(disk_file).filter(|file| Some(&file.parent()) == folder);
        let own: Vec<_> = files.collect();
        let remove = |device| VirtualDeviceConfigSpec {
            operation: Some(VirtualDeviceConfigSpecOperation::Remove),
            device,
            ..Default::default()
        };
        self.change(&change(disks.into_iter().map(remove).collect())).await?;
        for file in own {
            self.delete_virtual_disk(&file).await?;
        }
        Ok(())
    }
}

fn uuids(facts: &Object) -> impl Iterator<Item = String> {
    UUIDS.iter().filter_map(|path| facts.get(path).ok().flatten())
}

/// How many UUIDs a VM has of the one that its `options` were written for; none where they do not say, as an earlier version left it.
pub(crate) fn own_uuids(facts: &Object, options: &[OptionValue]) -> Option<usize> {
    vch_config::own_uuids(&value(options, KEY_UUIDS)?, uuids(facts))
}

/// The guest's document, or the copy of it: one of a VM that was made to its end.
pub(crate) fn guest_of(options: &[OptionValue]) -> Option<String> {
    value(options, KEY_CONTAINER).or_else(|| value(options, KEY_GUEST))
}

/// The folder of a VM's configuration file; never the root of a datastore.
pub(crate) fn folder_of(vmx: &str) -> Option<DatastorePath> {
    DatastorePath::parse(vmx).map(|path| path.parent()).filter(|folder| !folder.path.is_empty())
}

/// Whether vSphere cannot read what a VM is: its datastore is away, its host knows it no more, or its configuration is broken.
fn is_inaccessible(facts: &Object) -> Result<bool> {
    use VirtualMachineConnectionState as State;
    let state = facts.get("runtime.connectionState")?;
    Ok(matches!(state, Some(State::Inaccessible | State::Invalid | State::Orphaned)))
}

/// A VM that is gone is as good.
fn gone(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// What vSphere's own interface shows of it.
fn annotation(record: &Record) -> String {
    format!("Container {} of image {}", record.name, record.image)
}

/// The container's name, for people, and the beginning of its id, so that it is nobody else's.
fn vm_name(record: &Record) -> String {
    let id = short(record);
    let name: String = record.name.chars().take(NAME_LIMIT - id.len() - 1).collect();
    format!("{name}-{id}")
}

/// The name that an admin has given a container by renaming its VM in vSphere; none when that says nothing new, or no name that
/// Docker knows.
pub(crate) fn name_of_admin(vm: &str, record: &Record) -> Option<String> {
    let name = vm.strip_suffix(short(record)).and_then(|rest| rest.strip_suffix('-')).unwrap_or(vm);
    let new = vm != vm_name(record) && name != record.name;
    (new && is_name(name)).then(|| name.to_owned())
}

/// The id as Docker shows it.
fn short(record: &Record) -> &str {
    record.id.get(..12).unwrap_or(&record.id)
}

fn controller(key: i32) -> VirtualController {
    VirtualController { base: VirtualDevice { key, ..Default::default() }, ..Default::default() }
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

fn file(path: &DatastorePath) -> VirtualDeviceFileBackingInfo {
    VirtualDeviceFileBackingInfo { file_name: path.to_string(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vms_name_fits_and_ends_with_the_id() {
        let record = Record {
            schema: 1,
            id: "0123456789abcdef".into(),
            name: "x".repeat(200),
            vch: String::new(),
            created_ns: 0,
            image: String::new(),
            image_id: String::new(),
            disk: String::new(),
            config: String::new(),
            host_config: String::new(),
        };
        let name = vm_name(&record);
        assert_eq!(name.len(), NAME_LIMIT);
        assert!(name.ends_with("x-0123456789ab"), "{name}");
        // What does not fit is no name of an admin's.
        assert_eq!(name_of_admin(&name, &record), None);
        let short = Record { name: "web".into(), ..record };
        for (vm, expected) in [
            ("web-0123456789ab", None),
            ("web", None),
            ("db-0123456789ab", Some("db")),
            ("db", Some("db")),
            ("my database", None),
            ("-0123456789ab", None),
        ] {
            assert_eq!(name_of_admin(vm, &short).as_deref(), expected, "{vm}");
        }
    }
}
