//! Running VMs: one task owns each VM's state machine, each running VM is a QEMU process that outlives the daemon.
//!
//! ```text
//!            power on                    QEMU is up
//!   Off ----------------> Starting ----------------------> On
//!    ^                        |  QEMU refuses               |
//!    |<-----------------------+                             | power off, guest powers off, QEMU dies
//!    |                                                      v
//!    +------------------------- the process ended ------ Stopping
//! ```
//!
//! Power follows the process: `On` is left only when the process has ended, however it did.  A daemon that starts
//! finds the processes of the one before it and goes on in `On`.

pub(crate) mod guest;
mod qemu;
mod qmp;
mod spec;
mod task;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use guest::Tclo;
pub(crate) use qemu::{MACHINE, RunFiles};
pub(crate) use spec::{Cdrom, Controller, ControllerModel, Disk, Nic, NicModel, Serial, VmSpec};

use crate::accel::Choice;
use crate::error::{Error, Result};
use crate::net::Network;
use task::{Command, VmTask};

/// Where a VM's state machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    /// No process.
    Off,
    /// QEMU is being started.
    Starting,
    /// QEMU runs.
    On,
    /// QEMU was told to end.
    Stopping,
}

/// What is known of a VM at run time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct VmState {
    /// Its power state.
    pub power: Power,
    /// When the guest was started.
    pub booted: Option<time::OffsetDateTime>,
    /// Whether the guest has spoken on its guest info channel since it was last started or reset.
    pub tools: bool,
    /// The address that the guest says it has.
    pub address: Option<String>,
    /// Grows with each change.
    pub generation: u64,
}

/// What the runtime needs from the inventory.  Called from VM tasks; must not block.
pub(crate) trait Host: Send + Sync + 'static {
    /// The value of a `guestinfo.` key of a VM.
    fn guest_get(&self, vm: &str, key: &str) -> Option<String>;

    /// Stores a `guestinfo.` key of a VM.
    ///
    /// # Errors
    /// The reason, for the guest.
    fn guest_set(&self, vm: &str, key: &str, value: &str) -> Result<(), String>;

    /// A VM's state has changed.
    fn changed(&self, vm: &str, state: &VmState);
}

/// Where VMs run.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Folder of sockets and pid files.
    pub run: PathBuf,
    /// The lab's networks.
    pub network: Arc<Network>,
    /// How guests are run.
    pub accelerator: Arc<Choice>,
}

/// A handle on one VM's task.
#[derive(Debug, Clone)]
pub(crate) struct Vm {
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<VmState>,
}

impl Vm {
    /// The VM's state from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<VmState> {
        self.state.clone()
    }

    async fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<()>>) -> Command) -> Result<()> {
        let (answer, outcome) = oneshot::channel();
        let gone = || Error::Refused("the lab is shutting down".into());
        self.commands.send(command(answer)).map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    /// Starts the VM with the given hardware.
    ///
    /// # Errors
    /// When it is not off, or QEMU does not start.
    pub(crate) async fn power_on(&self, spec: VmSpec) -> Result<()> {
        self.ask(|answer| Command::PowerOn(Box::new(spec), answer)).await
    }

    /// Pulls the plug; returns when the process has ended.
    ///
    /// # Errors
    /// When it is off.
    pub(crate) async fn power_off(&self) -> Result<()> {
        self.ask(Command::PowerOff).await
    }

    /// Kills the process, as a crash of the hypervisor would.
    ///
    /// # Errors
    /// When it is off.
    pub(crate) async fn kill(&self) -> Result<()> {
        self.ask(Command::Kill).await
    }

    /// Pushes the reset button.
    ///
    /// # Errors
    /// When it is off.
    pub(crate) async fn reset(&self) -> Result<()> {
        self.ask(Command::Reset).await
    }

    /// Makes the guest stand still, or go on.
    ///
    /// # Errors
    /// When it is off.
    pub(crate) async fn pause(&self, still: bool) -> Result<()> {
        self.ask(|answer| Command::Pause(still, answer)).await
    }

    /// Asks the guest to shut down or reboot; returns when the guest has agreed.
    ///
    /// # Errors
    /// When it is off, its tools do not run, or it refuses.
    pub(crate) async fn ask_guest(&self, what: Tclo) -> Result<()> {
        self.ask(|answer| Command::Guest(what, answer)).await
    }

    /// Plugs in a disk.
    ///
    /// # Errors
    /// When the VM is off or QEMU refuses.
    pub(crate) async fn add_disk(&self, disk: Disk) -> Result<()> {
        self.ask(|answer| Command::AddDisk(disk, answer)).await
    }

    /// Unplugs a disk.
    ///
    /// # Errors
    /// When the VM is off or QEMU refuses.
    pub(crate) async fn remove_disk(&self, key: i32) -> Result<()> {
        self.ask(|answer| Command::RemoveDisk(key, answer)).await
    }

    /// Plugs in a NIC.
    ///
    /// # Errors
    /// When the VM is off or QEMU refuses.
    pub(crate) async fn add_nic(&self, nic: Nic) -> Result<()> {
        self.ask(|answer| Command::AddNic(nic, answer)).await
    }

    /// Unplugs a NIC.
    ///
    /// # Errors
    /// When the VM is off, or the guest does not let go.
    pub(crate) async fn remove_nic(&self, key: i32) -> Result<()> {
        self.ask(|answer| Command::RemoveNic(key, answer)).await
    }

    /// Moves a NIC to another port group, or plugs its cable in or out.
    ///
    /// # Errors
    /// When the VM is off or has no such NIC.
    pub(crate) async fn change_nic(&self, nic: Nic) -> Result<()> {
        self.ask(|answer| Command::ChangeNic(nic, answer)).await
    }

    /// Changes the medium of a CD-ROM drive.
    ///
    /// # Errors
    /// When the VM is off or QEMU refuses.
    pub(crate) async fn change_medium(&self, cdrom: Cdrom) -> Result<()> {
        self.ask(|answer| Command::ChangeMedium(cdrom, answer)).await
    }
}

/// All VMs of a lab.
pub(crate) struct Runtime {
    place: Place,
    host: Arc<dyn Host>,
    vms: Mutex<HashMap<String, Vm>>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Runtime {
    /// A runtime that reports to `host`.
    pub(crate) fn new(place: Place, host: Arc<dyn Host>) -> Self {
        Self { place, host, vms: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vm>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM `id`.  Its task is started at the first call, and finds the process of an earlier daemon.
    pub(crate) fn vm(&self, id: &str) -> Vm {
        self.lock()
            .entry(id.to_owned())
            .or_insert_with(|| {
                let files = RunFiles::of(&self.place.run, id);
                let (commands, state) = VmTask::start(id.to_owned(), files, self.place.clone(), self.host.clone());
                Vm { commands, state }
            })
            .clone()
    }

    /// Waits until the VM `id` of an earlier daemon is adopted or known to be off.
    pub(crate) async fn adopt(&self, id: &str) -> VmState {
        let mut state = self.vm(id).watch();
        let seen = state.wait_for(|s| s.power != Power::Starting).await.map(|s| s.clone());
        seen.unwrap_or_else(|_| task::off())
    }

    /// Ends the task of a VM that is no more.
    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Pulls the plug of every VM.
    pub(crate) async fn power_off_all(&self) {
        let vms: Vec<Vm> = self.lock().values().cloned().collect();
        for vm in vms {
            // One that is off already says so; that is what is wanted.
            let _ = vm.power_off().await;
        }
    }
}
