//! [`Reconciler`]: keeps the [`Table`] as vSphere has it, and tells what happens.
//!
//! It watches every VM of the VCH's pool.  What it sees is levels, not edges: a state that comes twice does no harm, and what
//! happened while nobody watched is told when it is seen.

use std::sync::Arc;

use tether_proto::{Document, KEY_CONTAINER, KEY_EXIT, Run};
use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;
use vim25::property::{Object, paths, reachable, step};
use vim25::types::VirtualMachinePowerState;
use vim25::{Error, Result};

use super::phase::Power;
use super::record::{KEY_RECORD, Record};
use super::table::{Change, Container, Table};
use crate::Site;
use crate::site::value;

/// So many events wait for a slow listener; then it misses the oldest, as it does with Docker.
const EVENTS: usize = 1024;

/// The cache, and the task that keeps it; the task ends with this value.
#[derive(Debug)]
pub struct Reconciler {
    table: watch::Receiver<Arc<Table>>,
    events: broadcast::Sender<Event>,
    task: AbortHandle,
}

/// Something that has happened to a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The container's id.
    pub id: String,
    /// What.
    pub change: Change,
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reconciler {
    /// Begins to watch; returns when the first state is in.
    ///
    /// # Errors
    /// Those of vSphere.
    pub async fn start(site: &Site) -> Result<Self> {
        let wanted = paths("VirtualMachine", &["name", "runtime.powerState", "config.extraConfig"]);
        let vms = step("vms", "ResourcePool", "vm", &[]);
        let mut seen = site.session.watcher().watch(reachable(site.pool.clone(), vec![wanted], vec![vms])).await?;
        let mut table = Table::default();
        table.observe_all(containers(&seen.next().await?, &site.vch));
        let (sender, receiver) = watch::channel(Arc::new(table.clone()));
        let (events, _) = broadcast::channel(EVENTS);
        let (told, vch) = (events.clone(), site.vch.clone());
        let task = tokio::spawn(async move {
            // The loop in vim25 mends what can be mended; what it gives up on ends the service, which is started anew.
            while let Ok(objects) = seen.next().await {
                let changes = table.observe_all(containers(&objects, &vch));
                // Whoever hears of a change finds it in the table.
                let _ = sender.send(Arc::new(table.clone()));
                for (id, change) in changes {
                    let _ = told.send(Event { id, change });
                }
            }
        })
        .abort_handle();
        Ok(Self { table: receiver, events, task })
    }

    /// The containers as they are now.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Waits until `accept` finds what it looks for.
    ///
    /// # Errors
    /// [`Error::Invalid`] when vSphere is not watched any more.
    pub async fn until<T>(&self, mut accept: impl FnMut(&Table) -> Option<T>) -> Result<T> {
        let mut table = self.table.clone();
        loop {
            let found = accept(&table.borrow_and_update());
            if let Some(found) = found {
                return Ok(found);
            }
            if table.changed().await.is_err() {
                return Err(Error::Invalid("vSphere is not watched any more".into()));
            }
        }
    }
}

/// The containers of the VCH among some VMs.
fn containers(objects: &[Object], vch: &str) -> Vec<Container> {
    objects.iter().filter_map(|o| container(o).filter(|c| c.record.vch == vch)).collect()
}

/// Reads a container from its VM; none when it is none, or is half-made.
fn container(object: &Object) -> Option<Container> {
    let options = object.all("config.extraConfig").ok()?;
    let record = Record::from_text(&value(&options, KEY_RECORD)?).ok()?;
    value(&options, KEY_CONTAINER)?;
    let run = value(&options, KEY_EXIT).and_then(|text| Run::from_text(&text).ok());
    let power = match object.get("runtime.powerState").ok()?? {
        VirtualMachinePowerState::PoweredOn => Power::On,
        VirtualMachinePowerState::Suspended => Power::Suspended,
        _ => Power::Off,
    };
    Some(Container { vm: object.reference.value.clone(), record, power, run, removing: false })
}
