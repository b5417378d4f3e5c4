//! What happens to containers without a client: removed when they end or came to nothing, started again, checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use vim25::datastore::DatastorePath;
use vim25::types::ManagedObjectReference;

use super::{Engine, Failure, vm};
use crate::container::health;
use crate::container::phase::{Phase, Power};
use crate::container::reconciler::Watched;
use crate::container::restart::{self, Policy};
use crate::container::table::{Change, Container, Table};
use crate::control::Guests;

/// So many VMs are looked at together.
const AT_ONCE: usize = 8;
/// Pause before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// Something that is tried until it succeeds.
struct Tries {
    what: String,
    said: bool,
}

impl Tries {
    /// `what` cannot be done, when it cannot.
    fn of(what: String) -> Self {
        Self { what, said: false }
    }

    /// Waits after a failure; the first one stands in the log.
    async fn failed(&mut self, error: impl Into<Failure>) {
        if !std::mem::replace(&mut self.said, true) {
            let error = error.into();
            crate::say(&format!("{}: {error}; it is tried again every {} s", self.what, AGAIN.as_secs()));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Removes VMs of creates that came to nothing: their answers were lost, or the engine before this one died at them.
pub(super) async fn sweep(engine: Weak<Engine>, watched: Watched) {
    let mut begun: BTreeSet<String> = BTreeSet::new();
    loop {
        let due = watched.until(|table| {
            begun.retain(|vm| table.half_made().contains_key(vm));
            let due = table.half_made().iter().filter(|(vm, _)| !begun.contains(*vm));
            let due: Vec<_> = due.map(|(vm, id)| (vm.clone(), id.clone())).collect();
            (!due.is_empty()).then_some(due)
        });
        let Ok(due) = due.await else { return };
        for (vm, id) in due {
            begun.insert(vm.clone());
            tokio::spawn(sweep_one(engine.clone(), ManagedObjectReference::new("VirtualMachine", vm), id));
        }
    }
}

/// Removes one once nobody makes it any more, and tries again until it is gone, or whole.
async fn sweep_one(engine: Weak<Engine>, vm: ManagedObjectReference, id: String) {
    let what = format!("the VM {} of container {id}, which came to nothing, cannot be removed", vm.value);
    let mut tries = Tries::of(what);
    loop {
        let Some(engine) = engine.upgrade() else { return };
        // A create of this engine ends with what vSphere has of it then: whole, or never to be.
        let _ = engine.making.subscribe().wait_for(|making| !making.contains(&id)).await;
        let Err(error) = engine.site.remove_half_made(&vm).await else { return };
        drop(engine);
        tries.failed(error).await;
    }
}

/// Removes what a create could not take back, and tries again until it is gone.
pub(super) async fn discard(engine: Weak<Engine>, vm: ManagedObjectReference) {
    let mut tries = Tries::of(format!("the VM {} of a create that failed cannot be removed", vm.value));
    tokio::time::sleep(AGAIN).await;
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let Err(error) = engine.site.destroy(&vm).await else { return };
        drop(engine);
        tries.failed(error).await;
    }
}

/// Gives containers the names that an admin has given their VMs.
pub(super) async fn follow_names(engine: Weak<Engine>, watched: Watched) {
    let mut begun: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let due = watched.until(|table| {
            let named = table.iter().filter_map(|c| Some((c.record.id.clone(), c.named.clone()?)));
            let named: BTreeMap<_, _> = named.collect();
            let due: Vec<_> = named.clone().into_iter().filter(|(id, name)| begun.get(id) != Some(name)).collect();
            begun.clone_from(&named);
            (!due.is_empty()).then_some(due)
        });
        let Ok(due) = due.await else { return };
        for (id, name) in due {
            tokio::spawn(follow_name(engine.clone(), id, name));
        }
    }
}

/// Gives one its name, and tries again while it is to have it.
async fn follow_name(engine: Weak<Engine>, id: String, name: String) {
    let mut tries = Tries::of(format!("container {id} cannot be named {name:?} as its VM is"));
    loop {
        let Some(engine) = engine.upgrade() else { return };
        if !engine.table().find(&id).is_ok_and(|c| c.named.as_deref() == Some(&name)) {
            return;
        }
        let Err(error) = engine.rename(&id, &name, true).await else { return };
        drop(engine);
        // Another container may have it: then it is free one day.
        tries.failed(error).await;
    }
}

/// Lets go of what is kept for containers that are gone, here and on the datastore, whoever removed them.  `before` is what the
/// engine before this one saw last.
pub(super) async fn forget(engine: Weak<Engine>, watched: Watched, before: Table) {
    let files = |table: &Table| table.iter().map(|c| (c.record.id.clone(), c.files.clone())).collect();
    let mut known: BTreeMap<String, Option<DatastorePath>> = files(&before);
    loop {
        let gone = watched.until(|table| {
            let now = files(table);
            let mut gone = std::mem::replace(&mut known, now);
            gone.retain(|id, _| !known.contains_key(id));
            (!gone.is_empty()).then_some(gone)
        });
        let (Ok(gone), Some(engine)) = (gone.await, engine.upgrade()) else { return };
        for (id, files) in gone {
            engine.forget(&id);
            if let Some(files) = files {
                tokio::spawn(clean_up(Arc::downgrade(&engine), files));
            }
        }
    }
}

/// Removes what is left of the files of a container that is gone, and tries again until there is nothing.  vSphere does not know
/// all of them to be the VM's: an admin who destroys it leaves some, and so does a removal that was cut off.
async fn clean_up(engine: Weak<Engine>, files: DatastorePath) {
    let mut tries = Tries::of(format!("what is left of a container in {files} cannot be removed"));
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let Err(error) = engine.site.remove_leavings(&files).await else { return };
        drop(engine);
        tries.failed(error).await;
    }
}

/// Sees to it that containers' output has a file to go to, wherever they are: a vMotion leaves ports disconnected that write to files.
pub(super) async fn reconnect(engine: Weak<Engine>, watched: Watched) {
    // Where their ports are connected, or will be with the VM's power.
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let due = watched.until(|table| {
            known.retain(|id, _| table.find(id).is_ok());
            let off = table.iter().filter(|c| c.power == Power::Off);
            known.extend(off.map(|c| (c.record.id.clone(), c.host.clone())));
            let moved = table.iter().filter(|c| c.power == Power::On && known.get(&c.record.id) != Some(&c.host));
            let due: Vec<_> = moved.cloned().collect();
            (!due.is_empty()).then_some(due)
        });
        let Ok(due) = due.await else { return };
        known.extend(due.iter().map(|c| (c.record.id.clone(), c.host.clone())));
        // At an engine's start all of them are due.
        let one = engine.clone();
        tokio::spawn(stream::iter(due).for_each_concurrent(AT_ONCE, move |c| reconnect_one(one.clone(), c)));
    }
}

/// Connects one's ports, and tries again as long as it is where it was.
async fn reconnect_one(engine: Weak<Engine>, container: Container) {
    let id = &container.record.id;
    let mut tries = Tries::of(format!("the ports of container {id}'s VM cannot be connected, and its output is lost"));
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let Err(error) = engine.site.reconnect_ports(&vm(&container)).await else { return };
        let is_there = |c: &Container| c.power == Power::On && c.host == container.host;
        if !engine.table().find(id).is_ok_and(is_there) {
            return;
        }
        drop(engine);
        tries.failed(error).await;
    }
}

/// Removes containers that are to go with their process, whoever sees it end, and however late.
pub(super) async fn clear_away(engine: Weak<Engine>, watched: Watched) {
    let mut begun: BTreeSet<String> = BTreeSet::new();
    loop {
        let due = watched.until(|table| {
            begun.retain(|id| table.find(id).is_ok());
            let due = table.iter().filter(|c| is_over(c) && !begun.contains(&c.record.id));
            let due: Vec<_> = due.map(|c| c.record.id.clone()).collect();
            (!due.is_empty()).then_some(due)
        });
        let Ok(due) = due.await else { return };
        for id in due {
            begun.insert(id.clone());
            tokio::spawn(clear_one(engine.clone(), watched.clone(), id));
        }
    }
}

/// Whether a container is to be removed now: its process has ended, or there was none, and its VM is off.
fn is_over(container: &Container) -> bool {
    let ended = matches!(container.phase(), Phase::Exited { .. } | Phase::Created { failed: Some(_) });
    ended && container.power == Power::Off && container.record.goes_with_its_process()
}

/// Removes one whenever it is over, until it is gone.
async fn clear_one(engine: Weak<Engine>, watched: Watched, id: String) {
    let mut tries = Tries::of(format!("container {id}, which is to go with its process, cannot be removed"));
    loop {
        // Somebody may have started it again: then it will be over again.
        let over = watched.until(|table| match table.find(&id) {
            Ok(container) => is_over(container).then_some(true),
            Err(_) => Some(false),
        });
        let (Ok(true), Some(engine)) = (over.await, engine.upgrade()) else { return };
        engine.heard(&id).await;
        let Err(error) = engine.remove_container(&id, false).await else { return };
        drop(engine);
        tries.failed(error).await;
    }
}

/// Says in the log what stands in the way and only an admin can change, once for as long as it does.
pub(super) async fn tell(watched: Watched) {
    let mut said = BTreeSet::new();
    loop {
        let new = watched.until(|table| {
            let lines = in_the_way(table);
            let new: Vec<_> = lines.difference(&said).cloned().collect();
            said = lines;
            (!new.is_empty()).then_some(new)
        });
        let Ok(new) = new.await else { return };
        new.iter().for_each(|line| crate::say(line));
    }
}

fn in_the_way(table: &Table) -> BTreeSet<String> {
    let asked = table.iter().filter_map(|c| Some((&c.record.name, &c.question.as_ref()?.text)));
    let asked = asked.map(|(name, text)| {
        format!(
            "container {name} stands still until its VM is answered in vSphere, or it is ended; the VM asks: {text}"
        )
    });
    let unread = table.unread().iter().map(|vm| {
        format!(
            "the VM {vm} cannot be read, and may be a container: no image's disk is removed until its files can be reached, or it \
             is unregistered in vSphere"
        )
    });
    let copies = table.copies().keys();
    let copies = copies.map(|vm| format!("the VM {vm} is a copy of a container's: it is no container, and left alone"));
    asked.chain(unread).chain(copies).collect()
}

/// A run of a container, by the time of its start.
type RunOf = (String, Option<u64>);

/// Starts containers again whose policy says so.  `first` when the endpoint VM has just started: those that are to run always
/// do then, although they were stopped.
pub(super) async fn restart(engine: Weak<Engine>, watched: Watched, first: bool) {
    let mut seen: BTreeMap<String, Option<u64>> = BTreeMap::new();
    let mut pauses: BTreeMap<String, Duration> = BTreeMap::new();
    if first {
        let stopped = |c: &&Container| matches!(c.phase(), Phase::Exited { .. }) && c.policy == Policy::Always;
        for container in watched.table().iter().filter(stopped) {
            tokio::spawn(restart_one(engine.clone(), run_of(container), Duration::ZERO, container.restarts.count));
        }
    }
    loop {
        let due = watched.until(|table| {
            seen.retain(|id, _| table.find(id).is_ok());
            pauses.retain(|id, _| table.find(id).is_ok());
            let ended = table.iter().filter(|c| matches!(c.phase(), Phase::Restarting { .. }));
            let due: Vec<_> = ended.filter(|c| seen.get(&c.record.id) != Some(&run_of(c).1)).cloned().collect();
            (!due.is_empty()).then_some(due)
        });
        let Ok(due) = due.await else { return };
        for container in due {
            let (id, started) = run_of(&container);
            let finished = container.run.as_ref().and_then(|run| run.finished_ns);
            let ran = finished.zip(started).map_or(0, |(finished, started)| finished.saturating_sub(started));
            let pause = restart::pause(pauses.get(&id).copied(), Duration::from_nanos(ran));
            pauses.insert(id.clone(), pause);
            seen.insert(id.clone(), started);
            tokio::spawn(restart_one(engine.clone(), (id, started), pause, container.restarts.count + 1));
        }
    }
}

fn run_of(container: &Container) -> RunOf {
    (container.record.id.clone(), container.run.as_ref().and_then(|run| run.started_ns))
}

/// Starts one, and tries again until it runs, or nobody wants it to any more.
async fn restart_one(engine: Weak<Engine>, run: RunOf, pause: Duration, count: u32) {
    let (id, _) = &run;
    let mut tries = Tries::of(format!("container {id} cannot be started again"));
    tokio::time::sleep(pause).await;
    loop {
        let Some(engine) = engine.upgrade() else { return };
        let mut failed = None;
        {
            let lock = engine.lock(id);
            let _held = lock.lock().await;
            // Somebody may have started, stopped or removed it.
            let table = engine.table();
            let Ok(container) = table.find(id) else { return };
            let wanted = match engine.phase(container) {
                Phase::Restarting { .. } => Some(true),
                // One that was stopped, at the endpoint VM's start.
                Phase::Exited { .. } => Some(pause.is_zero()),
                // Left alone, unless it comes to nothing.
                Phase::Removing => None,
                _ => Some(false),
            };
            if wanted == Some(false) || run_of(container) != run {
                return;
            }
            if wanted.is_some() {
                match engine.power_on(id, count).await {
                    // What has no process now will have none in a moment either.
                    Ok(_) | Err(Failure::NotFound(_) | Failure::NoProcess { .. }) => return,
                    Err(error) => failed = Some(error),
                }
            }
        }
        drop(engine);
        match failed {
            Some(error) => tries.failed(error).await,
            None => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// Checks the health of containers that have a check.
pub(super) async fn check(engine: Weak<Engine>, watched: Watched, guests: Guests) {
    let mut begun: BTreeMap<String, u64> = BTreeMap::new();
    loop {
        let due = watched.until(|table| {
            begun.retain(|id, _| table.find(id).is_ok());
            let due: Vec<_> = health::due(table)
                .filter(|checked| begun.get(&checked.container.record.id) != Some(&checked.started_ns))
                .collect();
            (!due.is_empty()).then_some(due)
        });
        let Ok(due) = due.await else { return };
        for checked in due {
            begun.insert(checked.container.record.id.clone(), checked.started_ns);
            let engine = engine.clone();
            let tell = move |container: &Container, status| {
                if let Some(engine) = engine.upgrade() {
                    engine.tell(container, Change::Health { status });
                }
            };
            let (healths, switchboard) = (guests.healths.clone(), guests.switchboard.clone());
            tokio::spawn(checked.watch(healths, watched.clone(), switchboard, tell));
        }
    }
}
