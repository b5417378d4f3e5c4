//! The inventory: what exists in the lab's vSphere.
//!
//! One value behind one lock that is never held across an await.  Each object is an [`Entry`], stored as a JSON file of
//! its own; a change marks its entry, and [`World::commit`] writes the marked ones before the caller is answered.
//! Children are found by their parent's id, so no link can point to nowhere.  What only matters while the daemon lives
//! (tasks, power states) is not stored.

mod events;
mod firewall;
mod host_network;
mod objects;
mod path;
mod seed;
mod view;
mod view_compute;
mod view_vm;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use vim25_types::{DateTime, ManagedObjectReference as Moref, TaskInfo};

pub(crate) use events::EventKind;
pub(crate) use host_network::UPLINK;
pub(crate) use objects::{
    Datastore, Entry, Host, NetworkKind, Object, Pool, PortGroup, Question, Snapshot, StandardSwitch, VApp, VmObject,
};
pub(crate) use path::DatastorePath;
pub(crate) use seed::Singletons;

use crate::error::{Error, Result};
use crate::settings::{Settings, Shape};

/// How many finished tasks are remembered.
const TASKS_KEPT: usize = 500;

/// The inventory.
#[derive(Debug)]
pub(crate) struct World {
    folder: PathBuf,
    datastores: PathBuf,
    settings: Settings,
    entries: BTreeMap<String, Entry>,
    tasks: BTreeMap<u64, TaskInfo>,
    events: events::Events,
    options: BTreeMap<String, String>,
    /// Datastores that have no room, whatever the machine's disk has.
    filled: BTreeSet<String>,
    /// Names or ids of VMs whose files are out of reach.
    lost: BTreeSet<String>,
    next: u64,
    version: u64,
    dirty: BTreeSet<String>,
}

/// The time as vSphere writes it.
pub(crate) fn now() -> DateTime {
    format_time(time::OffsetDateTime::now_utc())
}

/// A time as vSphere writes it.
pub(crate) fn format_time(at: time::OffsetDateTime) -> DateTime {
    const FORMAT: &[time::format_description::BorrowedFormatItem<'_>] =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    DateTime(at.format(FORMAT).unwrap_or_default())
}

impl World {
    /// Loads the inventory, or makes the one that a new lab has.
    ///
    /// # Errors
    /// When a document is not readable or cannot be written.
    pub(crate) fn open(folder: PathBuf, datastores: PathBuf, settings: Settings) -> Result<Self> {
        std::fs::create_dir_all(&folder).map_err(Error::file("make the folder", &folder))?;
        std::fs::create_dir_all(&datastores).map_err(Error::file("make the folder", &datastores))?;
        let mut world = Self {
            folder,
            datastores,
            settings,
            entries: BTreeMap::new(),
            tasks: BTreeMap::new(),
            events: events::Events::default(),
            options: BTreeMap::new(),
            filled: BTreeSet::new(),
            lost: BTreeSet::new(),
            next: 100,
            version: 1,
            dirty: BTreeSet::new(),
        };
        let files = std::fs::read_dir(&world.folder).map_err(Error::file("read", &world.folder))?;
        for file in files.filter_map(std::result::Result::ok) {
            let path = file.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            if path.file_stem().is_some_and(|s| s == "options") {
                world.options = crate::store::read_json(&path)?.unwrap_or_default();
                continue;
            }
            if let Some(entry) = crate::store::read_json::<Entry>(&path)? {
                let number = entry.id.rsplit('-').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
                world.next = world.next.max(number + 1);
                world.entries.insert(entry.id.clone(), entry);
            }
        }
        if world.entries.is_empty() {
            seed::seed(&mut world);
        }
        for entry in world.entries.values() {
            if matches!(entry.object, Object::Datastore(_)) {
                let folder = world.datastores.join(&entry.name);
                std::fs::create_dir_all(&folder).map_err(Error::file("make the folder", folder))?;
            }
        }
        world.commit()?;
        Ok(world)
    }

    /// What the lab is.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// vCenter or ESXi.
    pub(crate) fn shape(&self) -> Shape {
        self.settings.shape
    }

    /// Grows with each change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// A fresh id with the given prefix.
    pub(crate) fn fresh(&mut self, prefix: &str) -> String {
        self.next += 1;
        // ESXi numbers its VMs plainly.
        if prefix == "vm" && self.shape() == Shape::Esxi {
            self.next.to_string()
        } else {
            format!("{prefix}-{}", self.next)
        }
    }

    /// Adds an object.
    pub(crate) fn insert(&mut self, entry: Entry) -> Moref {
        let moref = entry.moref();
        self.touch(&entry.id);
        self.entries.insert(entry.id.clone(), entry);
        moref
    }

    /// Removes an object.
    pub(crate) fn remove(&mut self, id: &str) {
        self.entries.remove(id);
        self.touch(id);
    }

    fn touch(&mut self, id: &str) {
        self.version += 1;
        self.dirty.insert(id.to_owned());
    }

    /// Tells that something changed that is not stored.
    pub(crate) fn bump(&mut self) {
        self.version += 1;
    }

    /// Writes what has changed.
    ///
    /// # Errors
    /// When a document cannot be written.
    pub(crate) fn commit(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.dirty) {
            let path = self.folder.join(format!("{id}.json"));
            match self.entries.get(&id) {
                Some(entry) => crate::store::write_json(&path, entry)?,
                None => match std::fs::remove_file(&path) {
                    Err(e) if !crate::process::is_absent(&e) => return Err(Error::file("remove", path)(e)),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    /// All objects.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The object `id`.
    pub(crate) fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// The object `id`, to be changed.
    pub(crate) fn get_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.touch(id);
        self.entries.get_mut(id)
    }

    /// The VM `id`.
    pub(crate) fn vm(&self, id: &str) -> Option<&VmObject> {
        match &self.entries.get(id)?.object {
            Object::Vm(vm) => Some(vm),
            _ => None,
        }
    }

    /// The VM `id`, to be changed.
    pub(crate) fn vm_mut(&mut self, id: &str) -> Option<&mut VmObject> {
        match &mut self.get_mut(id)?.object {
            Object::Vm(vm) => Some(vm),
            _ => None,
        }
    }

    /// A VM's run time state, to be changed; nothing is stored.
    pub(crate) fn vm_state_mut(&mut self, id: &str) -> Option<&mut VmObject> {
        self.version += 1;
        match &mut self.entries.get_mut(id)?.object {
            Object::Vm(vm) => Some(vm),
            _ => None,
        }
    }

    /// The pool `id`.
    pub(crate) fn pool(&self, id: &str) -> Option<&Pool> {
        match &self.entries.get(id)?.object {
            Object::Pool(pool) => Some(pool),
            _ => None,
        }
    }

    /// The VMs.
    pub(crate) fn vms(&self) -> impl Iterator<Item = (&Entry, &VmObject)> {
        self.entries.values().filter_map(|e| match &e.object {
            Object::Vm(vm) => Some((e, &**vm)),
            _ => None,
        })
    }

    /// The objects whose parent is `id`.
    pub(crate) fn children<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.values().filter(move |e| e.parent.as_deref() == Some(id))
    }

    /// The VMs in the pool `id`.
    pub(crate) fn vms_in_pool<'a>(&'a self, id: &'a str) -> impl Iterator<Item = (&'a Entry, &'a VmObject)> {
        self.vms().filter(move |(_, vm)| vm.pool == id)
    }

    /// The child of `parent` with that name.
    pub(crate) fn child_named(&self, parent: &str, name: &str) -> Option<&Entry> {
        self.entries.values().find(|e| e.parent.as_deref() == Some(parent) && e.name == name)
    }

    /// The datastore with that name.
    pub(crate) fn datastore_named(&self, name: &str) -> Option<(&Entry, &Datastore)> {
        self.entries.values().find_map(|e| match &e.object {
            Object::Datastore(datastore) if e.name == name => Some((e, datastore)),
            _ => None,
        })
    }

    /// Names the datastores that have no room, and the VMs whose files are out of reach.
    pub(crate) fn set_trouble(&mut self, filled: BTreeSet<String>, lost: BTreeSet<String>) {
        if (&self.filled, &self.lost) != (&filled, &lost) {
            (self.filled, self.lost) = (filled, lost);
            self.bump();
        }
    }

    /// Whether the files of the VM `id` are out of reach.
    pub(crate) fn is_lost(&self, id: &str) -> bool {
        self.lost.contains(id) || self.get(id).is_some_and(|entry| self.lost.contains(&entry.name))
    }

    /// Whether the object `id` is somewhere below `above`.
    pub(crate) fn is_below(&self, id: &str, above: &str) -> bool {
        let mut at = self.entries.get(id).and_then(|e| e.parent.as_deref());
        while let Some(parent) = at {
            if parent == above {
                return true;
            }
            at = self.entries.get(parent).and_then(|e| e.parent.as_deref());
        }
        false
    }

    /// Adds a task.
    pub(crate) fn add_task(&mut self, make: impl FnOnce(u64, Moref) -> TaskInfo) -> Moref {
        self.next += 1;
        let number = self.next;
        let id = match self.shape() {
            Shape::Vcenter => format!("task-{number}"),
            Shape::Esxi => format!("haTask-{number}"),
        };
        let moref = Moref::new("Task", id);
        self.tasks.insert(number, make(number, moref.clone()));
        while self.tasks.len() > TASKS_KEPT {
            let done = self.tasks.iter().find(|(_, t)| t.complete_time.is_some()).map(|(&n, _)| n);
            match done {
                Some(n) => self.tasks.remove(&n),
                None => break,
            };
        }
        self.version += 1;
        moref
    }

    fn task_number(id: &str) -> Option<u64> {
        id.strip_prefix("task-").or_else(|| id.strip_prefix("haTask-"))?.parse().ok()
    }

    /// A task.
    pub(crate) fn task(&self, id: &str) -> Option<&TaskInfo> {
        self.tasks.get(&Self::task_number(id)?)
    }

    /// A task, to be changed.
    pub(crate) fn task_mut(&mut self, id: &str) -> Option<&mut TaskInfo> {
        self.version += 1;
        self.tasks.get_mut(&Self::task_number(id)?)
    }

    /// The tasks that are not finished, and those that finished last.
    pub(crate) fn recent_tasks(&self) -> impl Iterator<Item = &TaskInfo> {
        self.tasks.values().rev().take(20)
    }

    /// The advanced options.
    pub(crate) fn options(&self) -> &BTreeMap<String, String> {
        &self.options
    }

    /// Sets an advanced option.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub(crate) fn set_option(&mut self, key: String, value: String) -> Result<()> {
        self.options.insert(key, value);
        self.version += 1;
        crate::store::write_json(&self.folder.join("options.json"), &self.options)
    }
}
