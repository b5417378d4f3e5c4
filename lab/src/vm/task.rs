//! The task that owns one VM.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use super::guest::{GuestChannel, Said};
use super::qmp::{Event, Qmp};
use super::spec::{Cdrom, Disk, Nic, VmSpec};
use super::{Host, Place, Power, RunFiles, Tclo, VmState, qemu};
use crate::accel::Accelerator;
use crate::error::{Error, Result};
use crate::process::{self, Process, ProcessId};

/// How long QEMU may take to end by itself.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);

/// How long a guest may hold on to a device.
const UNPLUG_PATIENCE: Duration = Duration::from_secs(10);

type Reply = oneshot::Sender<Result<()>>;

/// A request to a VM's task.
#[derive(Debug)]
pub(super) enum Command {
    PowerOn(Box<VmSpec>, Reply),
    PowerOff(Reply),
    Kill(Reply),
    Reset(Reply),
    Pause(bool, Reply),
    Guest(Tclo, Reply),
    AddDisk(Disk, Reply),
    RemoveDisk(i32, Reply),
    AddNic(Nic, Reply),
    RemoveNic(i32, Reply),
    ChangeNic(Nic, Reply),
    ChangeMedium(Cdrom, Reply),
}

/// A running QEMU.
struct Running {
    spec: VmSpec,
    process: Process,
    qmp: Qmp,
    events: mpsc::UnboundedReceiver<Event>,
    /// Events that came while another one was waited for.
    backlog: VecDeque<Event>,
    guest: GuestChannel,
    said: mpsc::UnboundedReceiver<Said>,
}

/// The state of a VM that is off.
pub(super) fn off() -> VmState {
    VmState { power: Power::Off, booted: None, tools: false, address: None, generation: 0 }
}

pub(super) struct VmTask {
    id: String,
    files: RunFiles,
    place: Place,
    host: Arc<dyn Host>,
    state: watch::Sender<VmState>,
    running: Option<Running>,
}

impl VmTask {
    /// Starts the task; it is `Starting` until it knows whether an earlier daemon left a process.
    pub(super) fn start(
        id: String,
        files: RunFiles,
        place: Place,
        host: Arc<dyn Host>,
    ) -> (mpsc::UnboundedSender<Command>, watch::Receiver<VmState>) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let (state, watched) = watch::channel(VmState { power: Power::Starting, ..off() });
        let task = Self { id, files, place, host, state, running: None };
        tokio::spawn(task.run(inbox));
        (commands, watched)
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        self.adopt().await;
        loop {
            let Some(running) = self.running.as_mut() else {
                match inbox.recv().await {
                    Some(command) => self.handle(command).await,
                    None => return,
                }
                continue;
            };
            if let Some(event) = running.backlog.pop_front() {
                self.take_event(&event).await;
                continue;
            }
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => return,
                },
                event = running.events.recv() => match event {
                    Some(event) => self.take_event(&event).await,
                    None => self.lost().await,
                },
                Some(said) = running.said.recv() => self.take_said(said),
                () = running.process.ended() => self.lost().await,
            }
        }
    }

    fn set(&self, change: impl FnOnce(&mut VmState)) {
        let before = self.state.borrow().clone();
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return;
        }
        after.generation += 1;
        // The inventory learns first, so that whoever waits for the new state finds it there too.
        self.host.changed(&self.id, &after);
        self.state.send_replace(after);
    }

    async fn handle(&mut self, command: Command) {
        match command {
            Command::PowerOn(spec, reply) => {
                let outcome = self.power_on(*spec).await;
                let _ = reply.send(outcome);
            }
            Command::PowerOff(reply) => {
                let outcome = self.power_off().await;
                let _ = reply.send(outcome);
            }
            Command::Kill(reply) => {
                let outcome = match &self.running {
                    Some(running) => {
                        running.process.kill().await;
                        Ok(())
                    }
                    None => Err(Error::Refused(format!("{} is powered off", self.id))),
                };
                let _ = reply.send(outcome);
            }
            Command::Guest(what, reply) => self.ask_guest(what, reply),
            Command::Reset(reply) => {
                let outcome = self.with(async |r| r.qmp.execute("system_reset", json!({})).await.map(|_| ())).await;
                let _ = reply.send(outcome);
            }
            Command::Pause(still, reply) => {
                let command = if still { "stop" } else { "cont" };
                let outcome = self.with(async |r| r.qmp.execute(command, json!({})).await.map(|_| ())).await;
                let _ = reply.send(outcome);
            }
            Command::AddDisk(disk, reply) => {
                let outcome = self.with(async |r| r.add_disk(disk).await).await;
                let _ = reply.send(outcome);
            }
            Command::RemoveDisk(key, reply) => {
                let outcome = self.with(async |r| r.remove_disk(key).await).await;
                let _ = reply.send(outcome);
            }
            Command::AddNic(nic, reply) => {
                let network = self.place.network.clone();
                let outcome = self
                    .with(async |r| {
                        network.add_tap(&nic.tap, &nic.bridge)?;
                        r.add_nic(nic).await
                    })
                    .await;
                let _ = reply.send(outcome);
            }
            Command::RemoveNic(key, reply) => {
                let network = self.place.network.clone();
                let outcome = self
                    .with(async |r| {
                        let nic = r.remove_nic(key).await?;
                        network.remove_tap(&nic.tap)
                    })
                    .await;
                let _ = reply.send(outcome);
            }
            Command::ChangeNic(nic, reply) => {
                let network = self.place.network.clone();
                let outcome = self
                    .with(async |r| {
                        network.add_tap(&nic.tap, &nic.bridge)?;
                        r.change_nic(nic).await
                    })
                    .await;
                let _ = reply.send(outcome);
            }
            Command::ChangeMedium(cdrom, reply) => {
                let outcome = self.with(async |r| r.change_medium(cdrom).await).await;
                let _ = reply.send(outcome);
            }
        }
    }

    /// Does something with the running QEMU, and keeps the hardware as it is then.
    async fn with(&mut self, action: impl AsyncFnOnce(&mut Running) -> Result<()>) -> Result<()> {
        let Some(running) = self.running.as_mut() else {
            return Err(Error::Refused(format!("{} is powered off", self.id)));
        };
        action(running).await?;
        crate::store::write_json(&self.files.spec, &running.spec)
    }

    async fn power_on(&mut self, spec: VmSpec) -> Result<()> {
        if self.running.is_some() {
            return Err(Error::Refused(format!("{} is powered on already", spec.name)));
        }
        self.set(|s| s.power = Power::Starting);
        match self.launch(spec).await {
            Ok(running) => {
                self.running = Some(running);
                self.set(|s| *s = VmState { power: Power::On, booted: Some(now()), generation: s.generation, ..off() });
                Ok(())
            }
            Err(error) => {
                self.set(|s| s.power = Power::Off);
                Err(error)
            }
        }
    }

    /// Starts QEMU; once more under TCG where KVM fails it.
    async fn launch(&self, spec: VmSpec) -> Result<Running> {
        let accelerator = self.place.accelerator.now();
        let reason = match self.launch_with(spec.clone(), accelerator).await {
            Ok(running) => match running.gave_up().await {
                false => return Ok(running),
                true => {
                    running.process.end(QUIT_PATIENCE).await;
                    Error::Gone { vm: spec.name.clone(), reason: "KVM gave up on its guest".into() }
                }
            },
            Err(error) => error,
        };
        if accelerator == Accelerator::Tcg {
            return Err(reason);
        }
        // What fails under both is not KVM's fault.
        let running = self.launch_with(spec, Accelerator::Tcg).await?;
        self.place.accelerator.distrust(&reason.chain());
        Ok(running)
    }

    async fn launch_with(&self, spec: VmSpec, accelerator: Accelerator) -> Result<Running> {
        self.files.clear();
        for nic in &spec.nics {
            self.place.network.add_tap(&nic.tap, &nic.bridge)?;
        }
        let args = qemu::command_line(&spec, accelerator, &self.files);
        let log = std::fs::File::create(&self.files.log).map_err(Error::file("create", &self.files.log))?;
        let errors = log.try_clone().map_err(Error::file("share", &self.files.log))?;
        // QEMU puts itself into the background once its machine is complete, so that its parent's status tells.
        let mut child = self
            .place
            .network
            .namespace()
            .run(move || {
                std::process::Command::new("qemu-system-x86_64")
                    .args(args)
                    .stdin(std::process::Stdio::null())
                    .stdout(log)
                    .stderr(errors)
                    .spawn()
                    .map_err(|source| Error::Spawn { program: "qemu-system-x86_64".into(), source })
            })
            .await?;
        let status = tokio::task::spawn_blocking(move || child.wait())
            .await
            .map_err(|e| Error::Refused(e.to_string()))?
            .map_err(Error::system("wait for QEMU"))?;
        let output = || process::tail(&std::fs::read(&self.files.log).unwrap_or_default());
        if !status.success() {
            return Err(Error::Program {
                program: "qemu-system-x86_64".into(),
                status: status.to_string(),
                what: format!("power on {}", spec.name),
                output: output(),
            });
        }
        let id = process::from_pid_file(&self.files.pid)
            .ok_or_else(|| Error::Gone { vm: spec.name.clone(), reason: format!("ended at once: {}", output()) })?;
        process::remember(&self.files.process, id)?;
        crate::store::write_json(&self.files.spec, &spec)?;
        let running = self.connect(spec, id).await?;
        for nic in running.spec.nics.clone().iter().filter(|n| !n.connected) {
            running.set_link(nic.key, false).await?;
        }
        Ok(running)
    }

    async fn connect(&self, spec: VmSpec, id: ProcessId) -> Result<Running> {
        let gone = |reason: &str| Error::Gone { vm: spec.name.clone(), reason: reason.into() };
        let process = id.open().ok_or_else(|| gone("it ended"))?;
        let (qmp, events) = Qmp::connect(&spec.name, &self.files.qmp).await?;
        let (said, heard) = mpsc::unbounded_channel();
        let (socket, state) = (self.files.guestinfo.clone(), self.state.subscribe());
        let guest = GuestChannel::open(self.id.clone(), socket, self.host.clone(), said, state);
        Ok(Running { spec, process, qmp, events, backlog: VecDeque::new(), guest, said: heard })
    }

    /// Finds the process that an earlier daemon left.
    async fn adopt(&mut self) {
        let spec = crate::store::read_json::<VmSpec>(&self.files.spec).ok().flatten();
        let (Some(id), Some(spec)) = (process::recall(&self.files.process), spec) else {
            self.files.clear();
            self.set(|s| s.power = Power::Off);
            return;
        };
        match self.connect(spec, id).await {
            Ok(running) => {
                // Whatever it stood still for the earlier daemon has forgotten.
                let _ = running.qmp.execute("cont", json!({})).await;
                let booted = std::fs::metadata(&self.files.process).and_then(|m| m.modified()).map(Into::into).ok();
                // The guest was up before: its address is what it last said.
                let address = self.host.guest_get(&self.id, "guestinfo.ip");
                self.running = Some(running);
                self.set(|s| {
                    s.power = Power::On;
                    s.booted = booted;
                    s.tools = address.is_some();
                    s.address = address;
                });
            }
            Err(error) => {
                tracing::warn!("{} is not adopted: {}", self.id, error.chain());
                if let Some(process) = id.open() {
                    process.kill().await;
                }
                self.files.clear();
                self.set(|s| s.power = Power::Off);
            }
        }
    }

    async fn power_off(&mut self) -> Result<()> {
        let Some(running) = self.running.as_ref() else {
            return Err(Error::Refused(format!("{} is powered off already", self.id)));
        };
        self.set(|s| s.power = Power::Stopping);
        // An ending QEMU may close the connection before it answers.
        let _ = tokio::time::timeout(QUIT_PATIENCE, running.qmp.execute("quit", json!({}))).await;
        if tokio::time::timeout(QUIT_PATIENCE, running.process.ended()).await.is_err() {
            running.process.kill().await;
        }
        self.lost().await;
        Ok(())
    }

    /// The process has ended, or stopped speaking.
    async fn lost(&mut self) {
        let Some(running) = self.running.take() else { return };
        // A QEMU whose control connection is gone while it lives cannot be managed: it must not go on.
        running.process.end(QUIT_PATIENCE).await;
        for nic in &running.spec.nics {
            if let Err(error) = self.place.network.remove_tap(&nic.tap) {
                tracing::warn!("{}: {}", self.id, error.chain());
            }
        }
        self.files.clear();
        self.set(|s| *s = VmState { generation: s.generation, ..off() });
    }

    fn ask_guest(&self, what: Tclo, reply: Reply) {
        let tools = self.state.borrow().tools;
        match &self.running {
            Some(running) if tools => {
                let asked = running.guest.ask(what);
                tokio::spawn(async move {
                    let _ = reply.send(asked.await);
                });
            }
            _ => {
                let _ = reply.send(Err(Error::Refused(format!("the guest tools of {} do not run", self.id))));
            }
        }
    }

    async fn take_event(&mut self, event: &Event) {
        match event.name.as_str() {
            "RESET" => self.born_anew(),
            "STOP" => {
                if let Some(running) = &self.running
                    && running.gave_up().await
                {
                    self.start_over().await;
                }
            }
            _ => {}
        }
    }

    /// A new life of the guest: what the last one said is void.
    fn born_anew(&self) {
        self.set(|s| {
            s.tools = false;
            s.address = None;
            s.booted = Some(now());
        });
    }

    /// KVM gave up on the guest.  To the guest and to clients it is a reset; when TCG cannot take over, the VM has crashed.
    async fn start_over(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.process.end(QUIT_PATIENCE).await;
        let spec = running.spec.clone();
        self.place.accelerator.distrust(&format!("it gave up on {}", spec.name));
        match self.launch(spec).await {
            Ok(again) => {
                self.running = Some(again);
                self.born_anew();
            }
            Err(error) => {
                tracing::warn!("{}: {}", self.id, error.chain());
                self.running = Some(running);
                self.lost().await;
            }
        }
    }

    fn take_said(&self, said: Said) {
        self.set(|s| match said {
            Said::Tools => s.tools = true,
            Said::Address(address) => s.address = (!address.is_empty()).then_some(address),
        });
    }
}

fn now() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc()
}

impl Running {
    /// Whether KVM met something that it cannot do ("KVM internal error"), and stopped the guest for good.
    async fn gave_up(&self) -> bool {
        let status = self.qmp.execute("query-status", json!({})).await;
        status.is_ok_and(|status| status["status"] == "internal-error")
    }

    async fn add_disk(&mut self, disk: Disk) -> Result<()> {
        self.qmp.execute("blockdev-add", qemu::disk_image(&disk)).await?;
        if let Err(error) = self.qmp.execute("device_add", qemu::disk_device(&disk)).await {
            let _ = self.qmp.execute("blockdev-del", json!({ "node-name": qemu::disk_node(disk.key) })).await;
            return Err(error);
        }
        self.spec.disks.push(disk);
        Ok(())
    }

    async fn remove_disk(&mut self, key: i32) -> Result<()> {
        self.unplug(&qemu::disk_id(key)).await?;
        self.qmp.execute("blockdev-del", json!({ "node-name": qemu::disk_node(key) })).await?;
        self.spec.disks.retain(|d| d.key != key);
        Ok(())
    }

    async fn add_nic(&mut self, nic: Nic) -> Result<()> {
        self.qmp.execute("netdev_add", qemu::nic_netdev(&nic)).await?;
        if let Err(error) = self.qmp.execute("device_add", qemu::nic_device(&nic)).await {
            let _ = self.qmp.execute("netdev_del", json!({ "id": qemu::nic_backend(nic.key) })).await;
            return Err(error);
        }
        let (key, connected) = (nic.key, nic.connected);
        self.spec.nics.push(nic);
        if connected { Ok(()) } else { self.set_link(key, false).await }
    }

    async fn remove_nic(&mut self, key: i32) -> Result<Nic> {
        let at = self.spec.nics.iter().position(|n| n.key == key);
        let at = at.ok_or_else(|| Error::Refused(format!("{} has no NIC {key}", self.spec.name)))?;
        self.unplug(&qemu::nic_id(key)).await?;
        self.qmp.execute("netdev_del", json!({ "id": qemu::nic_backend(key) })).await?;
        Ok(self.spec.nics.remove(at))
    }

    async fn change_nic(&mut self, nic: Nic) -> Result<()> {
        self.set_link(nic.key, nic.connected).await?;
        // QEMU knew the NIC, so the hardware lists it.
        if let Some(known) = self.spec.nics.iter_mut().find(|n| n.key == nic.key) {
            *known = nic;
        }
        Ok(())
    }

    async fn set_link(&self, key: i32, up: bool) -> Result<()> {
        self.qmp.execute("set_link", json!({ "name": qemu::nic_id(key), "up": up })).await.map(|_| ())
    }

    async fn change_medium(&mut self, cdrom: Cdrom) -> Result<()> {
        let id = qemu::cdrom_id(cdrom.key);
        match &cdrom.iso {
            Some(iso) => {
                let change =
                    json!({ "id": id, "filename": iso, "format": "raw", "read-only-mode": "read-only", "force": true });
                self.qmp.execute("blockdev-change-medium", change).await?;
            }
            None => {
                self.qmp.execute("blockdev-open-tray", json!({ "id": id, "force": true })).await?;
                self.qmp.execute("blockdev-remove-medium", json!({ "id": id })).await?;
            }
        }
        if let Some(known) = self.spec.cdroms.iter_mut().find(|c| c.key == cdrom.key) {
            *known = cdrom;
        }
        Ok(())
    }

    /// Unplugs a device and waits until it is gone.
    async fn unplug(&mut self, id: &str) -> Result<()> {
        self.qmp.execute("device_del", json!({ "id": id })).await?;
        let gone = async {
            while let Some(event) = self.events.recv().await {
                if event.name == "DEVICE_DELETED" && event.data["device"] == id {
                    return true;
                }
                self.backlog.push_back(event);
            }
            false
        };
        match tokio::time::timeout(UNPLUG_PATIENCE, gone).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Gone { vm: self.spec.name.clone(), reason: "it ended".into() }),
            Err(_) => Err(Error::Qmp { command: "device_del".into(), reason: format!("the guest holds on to {id}") }),
        }
    }
}
