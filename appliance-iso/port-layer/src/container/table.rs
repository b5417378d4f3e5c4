//! [`Table`]: every container, found as Docker finds them, and what changed between two looks at vSphere.

use std::collections::{BTreeMap, BTreeSet};

use tether_proto::Run;
use vim25::datastore::DatastorePath;

use super::health::Status;
use super::phase::{Phase, Power, VANISHED};
use super::question::Question;
use super::record::Record;
use super::restart::{Policy, Restarts};

/// A container as the cache has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The VM's managed object id.
    pub vm: String,
    /// The folder of the VM's files; none when vSphere does not tell.
    pub files: Option<DatastorePath>,
    /// The name that an admin has given it in vSphere and that its record does not have yet.
    pub named: Option<String>,
    /// What it was made as.
    pub record: Record,
    /// The VM's power.
    pub power: Power,
    /// What the VM waits for an answer to.
    pub question: Option<Question>,
    /// The id of the host that the VM is on; empty when it is not known.
    pub host: String,
    /// The guest's last word on its run.
    pub run: Option<Run>,
    /// The MAC address of its card on the bridge network, lower-case with colons; empty when it is not known.
    pub mac: String,
    /// Its restart policy; read once, for its phase hangs on it.
    pub policy: Policy,
    /// What is remembered of its restarts.
    pub restarts: Restarts,
    /// vSphere has lost what its guest is to be told, or the guest's word: that is to be given back before it is started.
    pub lost: bool,
    /// Its removal has begun.
    pub removing: bool,
}

impl Container {
    /// Whether its process has ended, although its guest may still write its disk.
    pub fn has_ended(&self) -> bool {
        !self.phase().is_alive() || self.run.as_ref().is_some_and(|run| run.finished_ns.is_some())
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        match Phase::of(self.power, self.run.as_ref()) {
            _ if self.removing => Phase::Removing,
            Phase::Exited { code, out_of_memory } if self.policy.wants(code, &self.restarts) => {
                Phase::Restarting { code, out_of_memory }
            }
            phase => phase,
        }
    }
}

/// Why no container was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// Neither id, name nor the beginning of an id.
    #[error("No such container: {0}")]
    None(String),
    /// The beginning of several ids.
    #[error("Multiple IDs found with provided prefix: {0}")]
    Several(String),
}

/// What happened to a container, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has appeared.
    Create,
    /// Its process runs.
    Start,
    /// The kernel killed its process for want of memory.
    Oom,
    /// A client has sent its process a signal.
    Kill {
        /// The signal's number.
        signal: i32,
    },
    /// Its process has ended.
    Die {
        /// Docker's exit code.
        code: i32,
    },
    /// A client has stopped it.
    Stop,
    /// A client has stopped and started it.
    Restart,
    /// Its VM was suspended.
    Pause,
    /// Its VM goes on.
    Unpause,
    /// A client looks at its output.
    Attach,
    /// A client has let go of it by its keys.
    Detach,
    /// A client has told its terminal its size.
    Resize {
        /// Characters.
        width: u32,
        /// Lines.
        height: u32,
    },
    /// A client has looked at its processes.
    Top,
    /// A client has prepared a further process.
    ExecCreate {
        /// Which.
        id: String,
        /// Program and arguments.
        command: String,
    },
    /// A client has started it.
    ExecStart {
        /// Which.
        id: String,
        /// Program and arguments.
        command: String,
    },
    /// It has ended.
    ExecDie {
        /// Which.
        id: String,
        /// Docker's exit code.
        code: i32,
    },
    /// Its checks say another thing of it.
    Health {
        /// How it is.
        status: Status,
    },
    /// It has another name.
    Rename {
        /// The one before.
        old: String,
    },
    /// It is gone.
    Destroy,
}

/// Every container, by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    containers: BTreeMap<String, Entry>,
    /// VMs of creates that have not come to their end, with the containers' ids.
    half_made: BTreeMap<String, String>,
    /// VMs of which nobody knows what they are: their files cannot be reached since before they were seen.
    unread: BTreeSet<String>,
    /// VMs that have a container's record and are not the container, with the disk that the record names.
    copies: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    container: Container,
    told: Told,
}

/// What has been told of a container's process, so that every end follows a start and nothing is told twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Told {
    /// The run whose start was told last, by its time.
    run: Option<u64>,
    /// Its end was not told yet.
    alive: bool,
    paused: bool,
}

impl Table {
    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Container> {
        self.containers.values().map(|e| &e.container)
    }

    /// Finds one as Docker does: by whole id, by name, by the beginning of an id.
    ///
    /// # Errors
    /// [`NotFound`] when there is none, or when it could be several.
    pub fn find(&self, wanted: &str) -> Result<&Container, NotFound> {
        if let Some(entry) = self.containers.get(wanted) {
            return Ok(&entry.container);
        }
        let name = wanted.strip_prefix('/').unwrap_or(wanted);
        if let Some(container) = self.iter().find(|c| c.record.name == name) {
            return Ok(container);
        }
        if wanted.is_empty() {
            return Err(NotFound::None(String::new()));
        }
        let mut hits = self.containers.range(wanted.to_owned()..).take_while(|(id, _)| id.starts_with(wanted));
        match (hits.next(), hits.next()) {
            (Some((_, entry)), None) => Ok(&entry.container),
            (Some(_), Some(_)) => Err(NotFound::Several(wanted.to_owned())),
            (None, _) => Err(NotFound::None(wanted.to_owned())),
        }
    }

    /// Takes in one container as it is now; returns what has happened since the last look, oldest first.
    pub fn observe(&mut self, now: Container) -> Vec<Change> {
        let id = now.record.id.clone();
        let mut changes = Vec::new();
        let mut told = Told::default();
        match self.containers.get(&id) {
            None => changes.push(Change::Create),
            Some(known) => {
                told = known.told;
                if known.container.record.name != now.record.name {
                    changes.push(Change::Rename { old: known.container.record.name.clone() });
                }
            }
        }
        told.tell(&now, &mut changes);
        self.containers.insert(id, Entry { container: now, told });
        changes
    }

    /// Takes in that a container is gone; returns what has happened.
    pub fn gone(&mut self, id: &str) -> Vec<Change> {
        let Some(last) = self.containers.remove(id) else { return Vec::new() };
        let mut changes = Vec::new();
        if last.told.alive {
            changes.push(Change::Die { code: VANISHED });
        }
        changes.push(Change::Destroy);
        changes
    }

    /// VMs that are no containers yet, by their managed object ids, with the ids of the containers that they are to be.
    pub(crate) fn half_made(&self) -> &BTreeMap<String, String> {
        &self.half_made
    }

    /// Takes in which VMs are no containers yet.
    pub(crate) fn set_half_made(&mut self, half_made: BTreeMap<String, String>) {
        self.half_made = half_made;
    }

    /// VMs, by their managed object ids, that may be containers and cannot be read.
    pub fn unread(&self) -> &BTreeSet<String> {
        &self.unread
    }

    /// Takes in which VMs cannot be read.
    pub(crate) fn set_unread(&mut self, unread: BTreeSet<String>) {
        self.unread = unread;
    }

    /// VMs, by their managed object ids, that have a container's record and are not the container, with the disk that the record
    /// names: clones, which are nobody's.
    pub fn copies(&self) -> &BTreeMap<String, String> {
        &self.copies
    }

    /// Takes in which VMs are copies.
    pub(crate) fn set_copies(&mut self, copies: BTreeMap<String, String>) {
        self.copies = copies;
    }

    /// Whether a VM stands on a disk of an image's, or may: one that cannot be read may stand on any, and a clone on that of its
    /// container.
    pub fn may_use(&self, disk: &str) -> bool {
        let mut used = self.iter().map(|container| &container.record.disk).chain(self.copies.values());
        !self.unread.is_empty() || used.any(|one| one == disk)
    }

    /// Takes in everything at once: what is not among `now` is gone.  Returns what has happened to which containers.
    pub fn observe_all(&mut self, now: Vec<Container>) -> Vec<(Record, Change)> {
        let there: BTreeSet<&str> = now.iter().map(|c| c.record.id.as_str()).collect();
        let lost = self.iter().map(|c| &c.record).filter(|r| !there.contains(r.id.as_str()));
        let lost: Vec<Record> = lost.cloned().collect();
        let mut changes = Vec::new();
        for record in lost {
            changes.extend(self.gone(&record.id).into_iter().map(|c| (record.clone(), c)));
        }
        for container in now {
            // The record is copied for a change only.
            let id = container.record.id.clone();
            for change in self.observe(container) {
                if let Some(entry) = self.containers.get(&id) {
                    changes.push((entry.container.record.clone(), change));
                }
            }
        }
        changes
    }
}

impl Told {
    /// Tells what has happened to the process up to `now`.
    fn tell(&mut self, now: &Container, changes: &mut Vec<Change>) {
        let phase = Phase::of(now.power, now.run.as_ref());
        let run = now.run.as_ref().and_then(|r| r.started_ns);
        let another = run.is_some() && run != self.run;
        let ended = match &phase {
            Phase::Exited { code, out_of_memory } => Some((*code, *out_of_memory)),
            _ => None,
        };
        // Its end was missed, for another runs or none.
        if self.alive && (another || !(phase.is_alive() || ended.is_some())) {
            self.alive = false;
            changes.push(Change::Die { code: VANISHED });
        }
        if another && (ended.is_some() || matches!(phase, Phase::Running | Phase::Paused)) {
            *self = Self { run, alive: true, paused: false };
            changes.push(Change::Start);
        }
        if !self.alive {
            return;
        }
        if let Some((code, out_of_memory)) = ended {
            self.alive = false;
            if out_of_memory {
                changes.push(Change::Oom);
            }
            changes.push(Change::Die { code });
            return;
        }
        let paused = phase == Phase::Paused;
        if paused != self.paused {
            self.paused = paused;
            changes.push(if paused { Change::Pause } else { Change::Unpause });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tether_proto::State;

    use super::*;

    fn container(id: &str, name: &str, power: Power, run: Option<(u64, State)>) -> Container {
        let record = Record::sample(id, name);
        let run = run.map(|(at, state)| Run { state, started_ns: Some(at), ..Run::new(id) });
        Container {
            vm: format!("vm-{id}"),
            files: None,
            named: None,
            record,
            power,
            question: None,
            host: String::new(),
            run,
            mac: String::new(),
            policy: Policy::No,
            restarts: Restarts::default(),
            lost: false,
            removing: false,
        }
    }

    #[test]
    fn containers_are_found_by_id_name_and_beginning() {
        let mut table = Table::default();
        for (id, name) in [("abc1", "one"), ("abd2", "two"), ("b", "abc")] {
            table.observe(container(id, name, Power::Off, None));
        }
        let id = |wanted: &str| table.find(wanted).map(|c| c.record.id.clone());
        assert_eq!(id("abc1").as_deref(), Ok("abc1"));
        assert_eq!(id("/two").as_deref(), Ok("abd2"));
        assert_eq!(id("abc").as_deref(), Ok("b"), "a name wins over the beginning of an id");
        assert_eq!(id("abd").as_deref(), Ok("abd2"));
        assert_eq!(id("ab"), Err(NotFound::Several("ab".into())));
        assert_eq!(id("zz"), Err(NotFound::None("zz".into())));
        assert_eq!(id(""), Err(NotFound::None(String::new())));
    }

    #[test]
    fn what_was_not_seen_is_told_all_the_same() {
        let exited = State::Exited { code: 2, out_of_memory: true };
        let mut table = Table::default();
        assert_eq!(table.observe(container("a", "n", Power::Off, None)), [Change::Create]);
        let ended = container("a", "n", Power::Off, Some((5, exited)));
        assert_eq!(table.observe(ended.clone()), [Change::Start, Change::Oom, Change::Die { code: 2 }]);
        assert_eq!(table.observe(ended), []);
        let again = container("a", "m", Power::On, Some((9, State::Running)));
        assert_eq!(table.observe(again), [Change::Rename { old: "n".into() }, Change::Start]);
        let other = container("a", "m", Power::On, Some((11, State::Running)));
        assert_eq!(table.observe(other), [Change::Die { code: 137 }, Change::Start]);
        assert_eq!(table.gone("a"), [Change::Die { code: 137 }, Change::Destroy]);
        assert_eq!(table.gone("a"), []);
    }

    proptest! {
        /// For whatever is seen in whatever order, starts and ends of a container alternate, and the first is a create.
        #[test]
        fn starts_and_ends_alternate(seen in proptest::collection::vec((0..3_u8, 0..3_u64, 0..4_u8), 1..30)) {
            let mut table = Table::default();
            let mut alive = false;
            let mut latest = 0;
            for (index, (power, run, state)) in seen.into_iter().enumerate() {
                let power = [Power::On, Power::Off, Power::Suspended][usize::from(power)];
                let state = match state {
                    0 => State::Preparing,
                    1 => State::Running,
                    2 => State::Exited { code: 0, out_of_memory: false },
                    _ => State::Failed { code: 127, error: "x".into() },
                };
                // Times do not run backwards.
                latest += run;
                let run = (latest > 0).then_some((latest, state));
                for change in table.observe(container("a", "n", power, run)) {
                    match change {
                        Change::Create => prop_assert_eq!(index, 0),
                        Change::Start => {
                            prop_assert!(!alive);
                            alive = true;
                        }
                        Change::Die { .. } => {
                            prop_assert!(alive);
                            alive = false;
                        }
                        Change::Pause | Change::Unpause => prop_assert!(alive),
                        _ => {}
                    }
                }
            }
        }
    }
}
