//! The lab as one value: inventory, running VMs, sessions, faults.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use tokio::sync::watch;

use crate::api::{Sessions, Tickets};
use crate::control::VmStatus;
use crate::dir::LabDir;
use crate::error::{Error, Result};
use crate::faults::{Effect, Faults, Rule};
use crate::net::Network;
use crate::settings::Settings;
use crate::vm::{Host, Place, Power, Runtime, VmState};
use crate::world::{EventKind, Object, VmObject, World};

/// The lab.
#[derive(Debug)]
pub(crate) struct Lab {
    settings: Settings,
    network: Arc<Network>,
    world: Mutex<World>,
    changed: watch::Sender<u64>,
    runtime: OnceLock<Runtime>,
    faults: Faults,
    sessions: Sessions,
    tickets: Tickets,
    thumbprint: String,
    /// Objects that a task works on, with the task.
    busy: Mutex<HashMap<String, String>>,
}

/// What VM tasks report to; holds no claim on the lab, which owns them.
struct Link(Weak<Lab>);

/// Keeps an object for one task.
#[derive(Debug)]
pub(crate) struct Busy {
    lab: Arc<Lab>,
    id: String,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.lab.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Lab {
    /// Loads the inventory and makes ready to run VMs in `place`; `thumbprint` is that of the API's certificate.
    ///
    /// # Errors
    /// When the inventory cannot be read.
    pub(crate) fn open(dir: &LabDir, settings: Settings, place: Place, thumbprint: String) -> Result<Arc<Self>> {
        let world = World::open(dir.inventory(), dir.datastores(), settings.clone())?;
        let lab = Arc::new(Self {
            settings,
            network: place.network.clone(),
            changed: watch::Sender::new(world.version()),
            world: Mutex::new(world),
            runtime: OnceLock::new(),
            faults: Faults::default(),
            sessions: Sessions::default(),
            tickets: Tickets::default(),
            thumbprint,
            busy: Mutex::default(),
        });
        let link = Arc::new(Link(Arc::downgrade(&lab)));
        lab.runtime.get_or_init(|| Runtime::new(place, link));
        Ok(lab)
    }

    /// What the lab is.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The wires.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// The fault rules.
    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Adds a fault rule and gives its number.
    ///
    /// # Errors
    /// When it is about a datastore or a VM that is not there.
    pub(crate) fn add_fault(&self, rule: Rule) -> Result<u64> {
        if let Effect::FillDatastore { datastore } = &rule.effect
            && self.read(|w| w.datastore_named(datastore).is_none())
        {
            return Err(Error::Refused(format!("there is no datastore {datastore}")));
        }
        if let Effect::LoseFiles { vm } = &rule.effect
            && self.read(|w| !w.vms().any(|(entry, _)| entry.name == *vm || entry.id == *vm))
        {
            return Err(Error::Refused(format!("there is no VM {vm}")));
        }
        let id = self.faults.add(rule);
        self.change(|w| w.set_trouble(self.faults.filled(), self.faults.lost()));
        Ok(id)
    }

    /// Removes one fault rule, or all.
    pub(crate) fn clear_faults(&self, id: Option<u64>) {
        self.faults.clear(id);
        self.change(|w| w.set_trouble(self.faults.filled(), self.faults.lost()));
    }

    /// The API's sessions.
    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// The tickets for requests to hosts.
    pub(crate) fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// The SHA-1 thumbprint of the API's certificate, which is the hosts', too.
    pub(crate) fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// The running VMs.
    pub(crate) fn runtime(&self) -> &Runtime {
        self.runtime.get().expect("set before the lab is handed out")
    }

    /// Reads the inventory.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        read(&self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the inventory, stores what has changed and wakes whoever waits for changes.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = change(&mut world);
        if let Err(error) = world.commit() {
            tracing::error!("the inventory is not stored: {}", error.chain());
        }
        let version = world.version();
        drop(world);
        self.changed.send_if_modified(|v| std::mem::replace(v, version) != version);
        outcome
    }

    /// The inventory's version, to wait for changes.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Keeps the object `id` for `task`.
    ///
    /// # Errors
    /// The task that has it.
    pub(crate) fn occupy(self: &Arc<Self>, id: &str, task: &str) -> Result<Busy, String> {
        let mut all = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(id) {
            Some(other) => Err(other.clone()),
            None => {
                all.insert(id.to_owned(), task.to_owned());
                Ok(Busy { lab: self.clone(), id: id.to_owned() })
            }
        }
    }

    /// The bridges of the port groups.
    pub(crate) fn bridges(&self) -> Vec<String> {
        self.read(|w| {
            let networks = w.entries().filter_map(|e| match &e.object {
                Object::Network(network) => Some(network.bridge.clone()),
                _ => None,
            });
            networks.collect()
        })
    }

    /// Finds the VMs that an earlier daemon left running.
    pub(crate) async fn adopt(&self) {
        let ids: Vec<String> = self.read(|w| w.vms().map(|(e, _)| e.id.clone()).collect());
        for id in ids {
            self.runtime().adopt(&id).await;
            // One that went off while nobody looked.
            self.change(|w| w.vm_mut(&id).filter(|vm| !vm.is_on()).map(VmObject::forget_volatile));
        }
    }

    /// Pulls the plug of every VM.
    pub(crate) async fn stop(&self) {
        self.runtime().power_off_all().await;
    }

    /// The address of the guest of the VM of that name.
    pub(crate) fn guest_address(&self, name: &str) -> Option<Ipv4Addr> {
        self.read(|w| w.vms().find(|(e, vm)| e.name == name && vm.is_on()).and_then(|(_, vm)| vm.address.clone()))?
            .parse()
            .ok()
    }

    /// The VMs, for the status.
    pub(crate) fn vm_status(&self) -> Vec<VmStatus> {
        self.read(|w| {
            let vms = w.vms().map(|(entry, vm)| VmStatus {
                id: entry.id.clone(),
                name: entry.name.clone(),
                power: if vm.is_on() { "poweredOn" } else { "poweredOff" }.into(),
                address: vm.address.clone(),
            });
            vms.collect()
        })
    }
}

impl Host for Link {
    fn guest_get(&self, vm: &str, key: &str) -> Option<String> {
        self.0.upgrade()?.read(|w| w.vm(vm)?.extra(key))
    }

    fn guest_set(&self, vm: &str, key: &str, value: &str) -> Result<(), String> {
        let lab = self.0.upgrade().ok_or("the lab is shutting down")?;
        // What is written again unchanged is no change.
        if lab.read(|w| w.vm(vm).and_then(|v| v.extra(key))).as_deref() == Some(value) {
            return Ok(());
        }
        lab.change(|w| w.vm_mut(vm).map(|v| v.set_extra_now(key, value, true))).ok_or_else(|| "no such VM".into())
    }

    fn changed(&self, vm: &str, state: &VmState) {
        let Some(lab) = self.0.upgrade() else { return };
        lab.change(|w| {
            let Some(known) = w.vm_state_mut(vm) else { return };
            let was_on = known.is_on();
            known.power = state.power;
            known.tools = state.tools;
            known.address.clone_from(&state.address);
            known.booted = state.booted;
            let is_on = known.is_on();
            if was_on && !is_on {
                known.question = None;
            }
            if was_on && !is_on && !known.volatile.is_empty() {
                w.vm_mut(vm).map(VmObject::forget_volatile);
            }
            if was_on != is_on && state.power != Power::Starting {
                let kind = if is_on { EventKind::PoweredOn } else { EventKind::PoweredOff };
                w.vm_event("", vm, kind);
            }
        });
    }
}
