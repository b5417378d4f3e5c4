//! [`Reconciler`]: keeps the [`Table`] as vSphere has it, and tells what happens.
//!
//! It watches every VM of the VCH's pool.  What it sees is levels, not edges: a state that comes twice does no harm, and what
//! happened while nobody watched is told when it is seen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tether_proto::{Container as Guest, Document, KEY_CONTAINER, KEY_EXIT, Run};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use vch_config::UUIDS;
use vim25::property::{Object, paths, reachable, step};
use vim25::types::{ManagedObjectReference, VirtualMachinePowerState};
use vim25::{Error, Result};

use super::events::History;
use super::phase::Power;
use super::question::Question;
use super::record::{KEY_RECORD, Record};
use super::restart::{KEY_RESTARTS, Policy, Restarts};
use super::table::{Change, Container, Table};
use super::vm::{folder_of, guest_of, name_of_admin, own_uuids};
use crate::Site;
use crate::site::value;

/// Where a VM's records are.
const EXTRA_CONFIG: &str = "config.extraConfig";

/// The task that keeps the cache; it ends with this value.
#[derive(Debug)]
pub struct Reconciler {
    watched: Watched,
    task: AbortHandle,
}

/// The cache, for whoever asks or waits.
#[derive(Debug, Clone)]
pub struct Watched(watch::Receiver<Arc<Table>>);

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reconciler {
    /// Begins to watch; returns when the first state is in.  What happens is told to `history`, and so is what has happened
    /// since it saw the containers last.
    ///
    /// # Errors
    /// Those of vSphere.
    pub async fn start(site: &Site, history: &History) -> Result<Self> {
        let wanted = paths(
            "VirtualMachine",
            &[
                "name",
                UUIDS[0],
                UUIDS[1],
                "config.files.vmPathName",
                "runtime.powerState",
                "runtime.question",
                "runtime.host",
                EXTRA_CONFIG,
            ],
        );
        let vms = step("vms", "ResourcePool", "vm", &[]);
        let watcher = site.session.another_watcher();
        let mut seen = watcher.watch(reachable(site.pool.clone(), vec![wanted], vec![vms])).await?;
        let before = history.seen();
        let tell_first = before.is_some();
        let mut table = before.unwrap_or_default();
        let mut changes = observe(&mut table, &seen.next().await?, &site.vch);
        if !tell_first {
            // Nothing has happened yet: this is how it was found.
            changes.clear();
        }
        let (sender, receiver) = watch::channel(Arc::default());
        let (history, vch) = (history.clone(), site.vch.clone());
        let publish = move |table: &Table, changes| {
            // Whoever hears of a change finds it in the table, and who sees it there and tells what follows is heard after.
            let mut telling = history.telling();
            let _ = sender.send(Arc::new(table.clone()));
            telling.saw(table.clone());
            for (record, change) in changes {
                telling.tell(record, change);
            }
        };
        publish(&table, changes);
        let task = tokio::spawn(async move {
            // It ends with this.
            let _watcher = watcher;
            // The loop in vim25 mends what can be mended; what it gives up on ends the service, which is started anew.
            while let Ok(objects) = seen.next().await {
                let changes = observe(&mut table, &objects, &vch);
                publish(&table, changes);
            }
        })
        .abort_handle();
        Ok(Self { watched: Watched(receiver), task })
    }

    /// The cache, for whoever asks or waits.
    pub fn watched(&self) -> &Watched {
        &self.watched
    }
}

impl Watched {
    #[cfg(test)]
    pub(crate) fn of(table: watch::Receiver<Arc<Table>>) -> Self {
        Self(table)
    }

    /// The containers as they are now.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits until `accept` finds what it looks for.
    ///
    /// # Errors
    /// [`Error::Invalid`] when vSphere is not watched any more.
    pub async fn until<T>(&self, mut accept: impl FnMut(&Table) -> Option<T>) -> Result<T> {
        let mut table = self.0.clone();
        loop {
            let found = accept(&table.borrow_and_update());
            if let Some(found) = found {
                return Ok(found);
            }
            if table.changed().await.is_err() {
                return Err(not_watched());
            }
        }
    }

    /// Whether vSphere is not watched any more.
    pub(crate) fn is_over(&self) -> bool {
        self.0.has_changed().is_err()
    }

    /// Waits until it is not.
    pub(crate) async fn ended(&self) {
        let _ = self.until(|_| None::<()>).await;
    }
}

/// What waits for something then does not learn of it.
pub(crate) fn not_watched() -> Error {
    Error::Invalid("vSphere is not watched any more".into())
}

/// What a VM of the VCH is.
enum Found {
    /// With how many UUIDs it has that the container was created with.
    Container(Box<Container>, usize),
    /// With the container's id.
    HalfMade(String),
    /// A clone of a container, with the image's disk that its record names.
    Copy(String),
    /// It cannot be read, and never was.
    Unread,
}

/// Takes in the VMs of the pool; returns what has happened to which containers.
fn observe(table: &mut Table, objects: &[Object], vch: &str) -> Vec<(Record, Change)> {
    let (mut half_made, mut copies, mut unreadable) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let mut containers: BTreeMap<String, (Container, usize)> = BTreeMap::new();
    for object in objects {
        let vm = object.reference.value.clone();
        match find(object, vch, table).or_else(|| unread(object, table)) {
            Some(Found::Container(container, own)) => {
                let id = container.record.id.clone();
                let mut claims = vec![(*container, own)];
                claims.extend(containers.remove(&id));
                // The one that is surely itself, also beside what vSphere has left of it under another id; or else the one that is
                // known, or nearest to it, or the older one.
                let best = |(c, own): &(Container, usize)| {
                    (*own == UUIDS.len(), is_known(table, &id, &c.vm), *own, Reverse(age(&c.vm)))
                };
                claims.sort_by_key(best);
                containers.extend(claims.pop().map(|one| (id, one)));
                copies.extend(claims.into_iter().map(|(copy, _)| (copy.vm, copy.record.disk)));
            }
            Some(Found::HalfMade(id)) => _ = half_made.insert(vm, id),
            Some(Found::Copy(disk)) => _ = copies.insert(vm, disk),
            Some(Found::Unread) => _ = unreadable.insert(vm),
            None => {}
        }
    }
    // One of a container that is whole is a clone from before.
    half_made.retain(|_, id| !containers.contains_key(id));
    table.set_half_made(half_made);
    table.set_copies(copies);
    table.set_unread(unreadable);
    table.observe_all(containers.into_values().map(|(container, _)| container).collect())
}

/// Whether a VM is the container `id` already.
fn is_known(table: &Table, id: &str, vm: &str) -> bool {
    table.find(id).is_ok_and(|known| known.vm == vm)
}

/// The order in which VMs were made: vSphere counts them.
fn age(vm: &str) -> (usize, String) {
    (vm.len(), vm.to_owned())
}

/// What a VM was when it could be read, while it cannot: vSphere leaves the configuration unset of one whose files it does not reach.
fn unread(object: &Object, table: &Table) -> Option<Found> {
    if object.properties.contains_key(EXTRA_CONFIG) {
        return None;
    }
    let vm = &object.reference.value;
    if let Some(id) = table.half_made().get(vm) {
        return Some(Found::HalfMade(id.clone()));
    }
    if let Some(disk) = table.copies().get(vm) {
        return Some(Found::Copy(disk.clone()));
    }
    let known = table.iter().find(|container| container.vm == *vm);
    // Its power, too, is what it was: what vSphere tells of a VM that it does not reach is no reason to remove or to start it.
    Some(known.map_or(Found::Unread, |known| {
        Found::Container(Box::new(Container { question: question_of(object), ..known.clone() }), 0)
    }))
}

fn question_of(object: &Object) -> Option<Question> {
    object.get("runtime.question").ok().flatten().map(|info| Question::of(&info))
}

/// Reads a container of the VCH from its VM; none when it is none.
fn find(object: &Object, vch: &str, table: &Table) -> Option<Found> {
    let options = object.all(EXTRA_CONFIG).ok()?;
    let record = Record::from_text(&value(&options, KEY_RECORD)?).ok().filter(|record| record.vch == vch)?;
    let vm = object.reference.value.clone();
    // A container that is known stays one, whatever becomes of its VM's UUIDs; and so does a copy that was found out beside it, also
    // when the container is gone.
    let own = own_uuids(object, &options);
    let copied = own == Some(0) || table.copies().contains_key(&vm);
    if copied && !is_known(table, &record.id, &vm) {
        return Some(Found::Copy(record.disk));
    }
    let Some(guest) = guest_of(&options) else { return Some(Found::HalfMade(record.id)) };
    // A newer version's is not read, and the container is there all the same.
    let guest = Guest::from_text(&guest).unwrap_or_default();
    let mac = guest.interfaces.into_iter().next().map(|i| i.mac.to_ascii_lowercase()).unwrap_or_default();
    let policy = Policy::of(&record.host_config);
    let restarts = value(&options, KEY_RESTARTS).and_then(|text| Restarts::from_text(&text).ok()).unwrap_or_default();
    let power = match object.get("runtime.powerState").ok()?? {
        VirtualMachinePowerState::PoweredOn => Power::On,
        VirtualMachinePowerState::Suspended => Power::Suspended,
        _ => Power::Off,
    };
    let question = question_of(object);
    // While the VM is on, a word on the run before says that the new one's guest has not spoken yet.
    let is_old = |run: &Run| power == Power::On && restarts.last.as_ref() == Some(run);
    let word = value(&options, KEY_EXIT);
    let lost = word.is_none() || value(&options, KEY_CONTAINER).is_none();
    let run = match word {
        Some(text) => Run::from_text(&text).ok().filter(|run| !is_old(run)),
        // What was seen of it holds.
        None => table.find(&record.id).ok().and_then(|known| known.run.clone()),
    };
    let files = object.get("config.files.vmPathName").ok().flatten().and_then(|path: String| folder_of(&path));
    let named = object.get("name").ok().flatten().and_then(|name: String| name_of_admin(&name, &record));
    let host = object.get("runtime.host").ok().flatten().map(|host: ManagedObjectReference| host.value);
    let host = host.unwrap_or_default();
    let container = Container {
        vm,
        files,
        named,
        record,
        power,
        question,
        host,
        run,
        mac,
        policy,
        restarts,
        lost,
        removing: false,
    };
    Some(Found::Container(Box::new(container), own.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use vim25::types::{AnyValue, ManagedObjectReference, OptionValue};

    use super::*;

    /// A VM with these keys; none when its configuration cannot be read.
    fn vm(keys: Option<&[(&str, String)]>) -> Object {
        let reference = ManagedObjectReference::new("VirtualMachine", "vm-1");
        let mut properties =
            BTreeMap::from([("runtime.powerState".to_owned(), AnyValue::of(&VirtualMachinePowerState::PoweredOn))]);
        if let Some(keys) = keys {
            let option =
                |(key, text): &(&str, String)| OptionValue { key: (*key).into(), value: Some(AnyValue::of(text)) };
            let options: Vec<_> = keys.iter().map(option).collect();
            properties.insert(EXTRA_CONFIG.into(), AnyValue::of_all("OptionValue", &options));
        }
        Object { reference, properties }
    }

    #[test]
    fn of_two_vms_with_one_record_one_is_the_container_and_the_other_nobodys() {
        let record = Record::sample("c1", "one");
        let keys = |own: Option<&str>| {
            let mut keys =
                vec![(KEY_RECORD.to_owned(), record.to_text()), (KEY_CONTAINER.to_owned(), Guest::default().to_text())];
            keys.extend(own.map(|own| ("vic.uuids".to_owned(), own.to_owned())));
            keys
        };
        let claimant = |id: &str, uuid: &str, own: Option<&str>| {
            let keys = keys(own);
            let keys: Vec<_> = keys.iter().map(|(key, text)| (key.as_str(), text.clone())).collect();
            let mut object = vm(Some(&keys));
            object.reference.value = id.into();
            object.properties.insert("config.uuid".into(), AnyValue::of(&uuid.to_owned()));
            object
        };
        let seen =
            |table: &Table| (table.find("c1").ok().map(|c| c.vm.clone()), table.copies().keys().cloned().collect());
        let is = |vm: Option<&str>, copies: &[&str]| -> (Option<String>, Vec<String>) {
            (vm.map(str::to_owned), copies.iter().map(|&copy| copy.to_owned()).collect())
        };
        // Whichever comes first, and alone: a clone is told by its UUIDs.
        let (own, copy) = (claimant("vm-20", "a", Some("x a")), claimant("vm-3", "b", Some("x a")));
        let mut table = Table::default();
        observe(&mut table, &[copy.clone(), own.clone()], "v");
        assert_eq!(seen(&table), is(Some("vm-20"), &["vm-3"]));
        assert!(table.may_use(&record.disk));
        assert_eq!(observe(&mut table, std::slice::from_ref(&copy), "v"), [(record.clone(), Change::Destroy)]);
        assert_eq!(seen(&table), is(None, &["vm-3"]));
        // One that is known stays what it is, and its clone, which vSphere has made itself, too.
        observe(&mut table, std::slice::from_ref(&own), "v");
        let changed = claimant("vm-20", "c", Some("x a"));
        assert_eq!(observe(&mut table, &[changed, copy], "v"), []);
        assert_eq!(seen(&table), is(Some("vm-20"), &["vm-3"]));
        // One whose files were copied keeps a UUID: beside the container it is a copy, and stays one without it.
        let two = |id: &str, uuids: [&str; 2]| {
            let mut object = claimant(id, uuids[1], Some("x a"));
            object.properties.insert("config.instanceUuid".into(), AnyValue::of(&uuids[0].to_owned()));
            object
        };
        let (own, files) = (two("vm-20", ["x", "a"]), two("vm-3", ["y", "a"]));
        let mut table = Table::default();
        observe(&mut table, &[files.clone(), own.clone()], "v");
        assert_eq!(seen(&table), is(Some("vm-20"), &["vm-3"]));
        observe(&mut table, std::slice::from_ref(&files), "v");
        assert_eq!(seen(&table), is(None, &["vm-3"]));
        // What vSphere has left of a VM under its old id is not the container where the VM itself is there.
        let mut table = Table::default();
        observe(&mut table, std::slice::from_ref(&own), "v");
        let mut left = vm(None);
        left.reference.value = "vm-20".into();
        observe(&mut table, &[left, two("vm-31", ["x", "a"])], "v");
        assert_eq!(seen(&table), is(Some("vm-31"), &["vm-20"]));
        // Of an earlier version's the older one, and then the one that is known.
        let (old, new) = (claimant("vm-9", "a", None), claimant("vm-10", "b", None));
        let mut table = Table::default();
        observe(&mut table, &[new.clone(), old.clone()], "v");
        assert_eq!(seen(&table), is(Some("vm-9"), &["vm-10"]));
        assert_eq!(observe(&mut table, std::slice::from_ref(&new), "v"), [(record.clone(), Change::Destroy)]);
        assert_eq!(seen(&table), is(None, &["vm-10"]));
        let mut table = Table::default();
        observe(&mut table, std::slice::from_ref(&new), "v");
        observe(&mut table, &[old, new], "v");
        assert_eq!(seen(&table), is(Some("vm-10"), &["vm-9"]));
    }

    #[test]
    fn a_container_stays_while_its_configuration_cannot_be_read() {
        let record = Record::sample("c1", "one");
        let half_made = [(KEY_RECORD, record.to_text())];
        let made = [(KEY_RECORD, record.to_text()), (KEY_CONTAINER, Guest::default().to_text())];
        let mut table = Table::default();
        // Of a VM that was never read nothing is known: it may stand on anything.
        assert_eq!(observe(&mut table, &[vm(None)], "v"), []);
        assert!(table.unread().contains("vm-1") && table.may_use("any"));
        observe(&mut table, &[vm(Some(&half_made))], "v");
        observe(&mut table, &[vm(None)], "v");
        assert_eq!(table.half_made().values().collect::<Vec<_>>(), ["c1"]);
        assert_eq!(observe(&mut table, &[vm(Some(&made))], "v"), [(record.clone(), Change::Create)]);
        assert_eq!(observe(&mut table, &[vm(None)], "v"), []);
        assert!(table.find("one").is_ok());
        assert!(table.may_use(&record.disk) && !table.may_use("any"), "this one is known");
        // One that can be read and has no record is none.
        assert_eq!(observe(&mut table, &[vm(Some(&[]))], "v"), [(record.clone(), Change::Destroy)]);
        observe(&mut table, &[vm(Some(&made))], "v");
        assert_eq!(observe(&mut table, &[], "v"), [(record, Change::Destroy)]);
    }
}
