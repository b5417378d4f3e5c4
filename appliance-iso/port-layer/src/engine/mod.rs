//! [`Engine`]: the port layer at work: what clients ask for, admitted, done under the container's lock, and seen through.

mod guest;
mod keep;
mod power;
mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tether_proto::{Container as Guest, Run};
use tokio::sync::watch;
use tokio::time::timeout;
use vch_config::Document as _;
use vim25::types::ManagedObjectReference;

use self::power::SIGKILL;
use crate::container::admission::{Operation, Refusal, Verdict, admit};
use crate::container::audience::Audience;
use crate::container::events::History;
use crate::container::logs::{self, LogLines, LogQuery};
use crate::container::phase::{Phase, VANISHED};
use crate::container::reconciler::{Reconciler, Watched};
use crate::container::record::Record;
use crate::container::restart::Restarts;
use crate::container::table::{Change, Container, NotFound, Table};
use crate::container::vm::{New, NotMade};
use crate::control::{AuthorityError, Guests};
use crate::images::{Datastore, Images};
use crate::{Site, SiteError};

/// How long a VM may take to go off once its process has ended, or once it is told to.
const OFF: Duration = Duration::from_secs(60);
/// Bytes of a text that vSphere keeps with a VM.
const DOCUMENT: usize = 64 << 10;
/// How long a removal waits for those who read the container's log.
const READ: Duration = Duration::from_secs(5);

/// The port layer at work.
#[derive(Debug)]
pub struct Engine {
    site: Site,
    reconciler: Reconciler,
    history: History,
    images: Arc<Images>,
    guests: Option<Guests>,
    /// Who reads logs.
    readers: Audience,
    /// Names of containers that are being made.
    naming: Mutex<BTreeSet<String>>,
    /// Ids of containers that are being made: their VMs are half-made for a while.
    making: watch::Sender<BTreeSet<String>>,
    holds: Mutex<BTreeMap<String, Arc<Hold>>>,
    /// Containers whose removal has begun, and how many times: by force it may begin again.
    removing: Mutex<BTreeMap<String, u32>>,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such container, or more than one.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// Another one has that name.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{id}\". You have to remove (or rename) \
         that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The other's id.
        id: String,
    },
    /// Not now.
    #[error("container {name} {refusal}")]
    Refused {
        /// The container's name.
        name: String,
        /// Why.
        refusal: Refusal,
    },
    /// The container has started and there is no process.
    #[error("{error}")]
    NoProcess {
        /// Docker's exit code: 127, 126 or 128.
        code: i32,
        /// Why.
        error: String,
    },
    /// The VM waits for an answer.
    #[error(
        "container {name} does not start before its VM is answered: answer it in vSphere and start the container again, or remove \
         it by force; the VM asks: {text}"
    )]
    Asks {
        /// The container's name.
        name: String,
        /// What the VM asks, in vSphere's words.
        text: String,
    },
    /// vSphere did it, and what was to follow did not.
    #[error("container {name} {what}")]
    Late {
        /// The container's name.
        name: String,
        /// What did not come.
        what: &'static str,
    },
    /// Somebody else has removed a disk that the image stands on; the text begins as Docker's does.
    #[error("No such image: {0}: a disk of its was removed from the datastore, pull it again")]
    ImageGone(String),
    /// vSphere refused, or was not reached.
    #[error(transparent)]
    Vsphere(#[from] vim25::Error),
    /// There is no further process of that id.
    #[error("No such exec instance: {0}")]
    NoExec(String),
    /// It was started already.
    #[error("Error: Exec command {0} has already run")]
    ExecStarted(String),
    /// The request makes no sense; the text is Docker's.
    #[error("{0}")]
    Invalid(String),
    /// The container's guest cannot be spoken to.
    #[error("container {name}: {reason}")]
    Guest {
        /// The container's name.
        name: String,
        /// Why, in a sentence.
        reason: String,
    },
    /// There is no control channel.
    #[error(transparent)]
    NoChannel(#[from] AuthorityError),
}

/// How large a container's VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// CPUs.
    pub cpus: u32,
}

/// What became of what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was so already.
    Already,
}

/// What `docker wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// That it does not run.
    NotRunning,
    /// Its next end.
    NextExit,
    /// That it is gone.
    Removed,
}

/// A `docker wait` under way.  It outlives an engine: the next one may know nothing any more of a container whose end was seen.
#[derive(Debug)]
pub struct Wait {
    until: Until,
    /// The run that was known when it began.
    before: Option<Run>,
    /// The container as it was seen last.
    last: Container,
}

type Result<T, E = Failure> = std::result::Result<T, E>;

impl Engine {
    /// Begins to look after the containers of the VCH whose place is `site`; what happens is told to `history`, and `guests`
    /// is the way into them.
    ///
    /// # Errors
    /// Those of vSphere.
    pub async fn start(site: Site, history: History, guests: Option<Guests>) -> Result<Arc<Self>, SiteError> {
        let images = Arc::new(Images::open(Datastore::open(site.clone()).await).await?);
        let before = history.seen();
        // The endpoint VM has just started, and nobody has seen a container yet.
        let first = before.is_none();
        let reconciler = Reconciler::start(&site, &history).await?;
        let swept = Arc::clone(&images);
        // What cannot be removed now is tried again at the next start.
        tokio::spawn(async move {
            let _ = swept.collect().await;
            swept.prepare().await;
        });
        let engine = Arc::new(Self {
            site,
            reconciler,
            history,
            images,
            guests,
            readers: Audience::default(),
            naming: Mutex::default(),
            making: watch::Sender::default(),
            holds: Mutex::default(),
            removing: Mutex::default(),
        });
        tokio::spawn(keep::sweep(Arc::downgrade(&engine), engine.watched().clone()));
        tokio::spawn(keep::follow_names(Arc::downgrade(&engine), engine.watched().clone()));
        tokio::spawn(keep::forget(Arc::downgrade(&engine), engine.watched().clone(), before.unwrap_or_default()));
        tokio::spawn(keep::reconnect(Arc::downgrade(&engine), engine.watched().clone()));
        tokio::spawn(keep::clear_away(Arc::downgrade(&engine), engine.watched().clone()));
        tokio::spawn(keep::tell(engine.watched().clone()));
        tokio::spawn(keep::restart(Arc::downgrade(&engine), engine.watched().clone(), first));
        if let Some(guests) = engine.guests.clone() {
            tokio::spawn(keep::check(Arc::downgrade(&engine), engine.watched().clone(), guests));
        }
        Ok(engine)
    }

    /// The containers as they are now.
    pub fn table(&self) -> Arc<Table> {
        self.watched().table()
    }

    /// Ends when vSphere is not watched any more: then another engine is to be started.
    pub async fn ended(&self) {
        self.watched().ended().await;
    }

    /// Where a container stands.
    pub fn phase(&self, container: &Container) -> Phase {
        let removing = self.removing.lock().unwrap_or_else(PoisonError::into_inner);
        if removing.contains_key(&container.record.id) { Phase::Removing } else { container.phase() }
    }

    /// The images.
    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    /// `docker create`: returns when the container is listed.
    ///
    /// # Errors
    /// [`Failure`]; then nothing is left, or what is left is removed as soon as vSphere lets it.
    pub async fn create_container(self: &Arc<Self>, mut record: Record, mut guest: Guest, size: Size) -> Result<()> {
        record.vch.clone_from(&self.site.vch);
        if let Some(guests) = &self.guests {
            guest.control = Some(guests.way_for(&record.id)?);
        }
        let largest = record.to_text().len().max(guest.to_text().len());
        if largest > DOCUMENT {
            let text = "the environment, the arguments and the labels of the container are too large";
            return Err(Failure::Invalid(format!("{text}: a VM keeps {DOCUMENT} bytes, and these need {largest}")));
        }
        let _named = self.reserve(&record.name)?;
        // Until it is listed, for a half-made VM may be listed before it is seen to be whole.
        let _making = Making::begin(&self.making, &record.id);
        let image = self.images.backend().disk(&record.disk);
        let new = New { record: &record, guest: &guest, image: &image, memory_mib: size.memory_mib, cpus: size.cpus };
        let vm = match self.site.create(new).await {
            Ok(vm) => vm,
            Err(NotMade { error, left }) => {
                if let Some(vm) = left {
                    tokio::spawn(keep::discard(Arc::downgrade(self), vm));
                }
                // When that cannot be told, the error is what is known.
                if error.is_not_found() && matches!(self.images.look_after(&record.disk).await, Ok(true)) {
                    return Err(Failure::ImageGone(record.image));
                }
                return Err(error.into());
            }
        };
        let listed = self.watched().until(|table| table.find(&record.id).is_ok().then_some(()));
        match timeout(OFF, listed).await {
            // Where vSphere is not watched any more the next engine lists it, for it is whole.
            Ok(_) => Ok(()),
            Err(_) => {
                tokio::spawn(keep::discard(Arc::downgrade(self), vm));
                Err(Failure::Late {
                    name: record.name,
                    what: "was created, and vSphere does not list it: it is removed again",
                })
            }
        }
    }

    /// Takes a name that nobody has.
    fn reserve(&self, name: &str) -> Result<Named<'_>> {
        let taken = |id: &str| Failure::NameTaken { name: name.to_owned(), id: id.to_owned() };
        let mut naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if naming.contains(name) {
            return Err(taken("being created"));
        }
        if let Some(other) = self.table().iter().find(|c| c.record.name == name) {
            return Err(taken(&other.record.id));
        }
        naming.insert(name.to_owned());
        Ok(Named { all: &self.naming, name: name.to_owned() })
    }

    /// `docker rm`: with `force`, whatever the container does, and whoever holds its lock.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn remove_container(&self, wanted: &str, force: bool) -> Result<Outcome> {
        self.remove(wanted, force, force).await
    }

    /// Removes a container; with `give_up` also one whose files vSphere does not reach, which stay then (ADR 25).
    async fn remove(&self, wanted: &str, force: bool, give_up: bool) -> Result<Outcome> {
        let container = self.table().find(wanted)?.clone();
        let id = &container.record.id;
        self.admit(id, Operation::Remove { force })?;
        let lock = self.lock(id);
        let held = if force { None } else { Some(lock.lock().await) };
        // Who held it may have started the container.
        self.admit(id, Operation::Remove { force })?;
        let _removal = Removal::begin(&self.removing, id);
        drop(held);
        let container = self.table().find(id)?.clone();
        if container.phase().is_alive() {
            self.tell(&container, Change::Kill { signal: SIGKILL });
            // What does not work now the removal itself will tell.
            let _ = self.power_off(&container).await;
            // Who is attached has what is there, and hears of the end.
            self.heard(id).await;
        }
        // Who reads its log has what is there: it is a file of the VM's.
        let _ = timeout(READ, self.readers.left(id)).await;
        let destroyed = self.answering(&container, Box::pin(self.site.destroy(&vm(&container)))).await;
        if let Err(error) = destroyed {
            if !give_up || !self.site.give_up(&vm(&container)).await? {
                return Err(error.into());
            }
            let files = container.files.as_ref().map(ToString::to_string).unwrap_or_default();
            crate::say(&format!("container {id} was removed without its files, which vSphere does not reach: {files}"));
        }
        let gone = self.watched().until(|table| table.find(id).is_err().then_some(()));
        let gone = timeout(OFF, gone).await.map_err(|_| late(&container, "was destroyed, and is still listed"))?;
        self.forget(id);
        Ok(gone.map(|()| Outcome::Done)?)
    }

    /// Lets go of what is kept for a container that is gone.
    fn forget(&self, id: &str) {
        self.hang_up(id);
        if let Some(guests) = &self.guests {
            guests.execs.forget(id);
            guests.healths.forget(id);
        }
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// `docker rename`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn rename_container(&self, wanted: &str, name: &str) -> Result<()> {
        let id = self.table().find(wanted)?.record.id.clone();
        self.rename(&id, name, false).await
    }

    async fn rename(&self, id: &str, name: &str, by_admin: bool) -> Result<()> {
        let lock = self.lock(id);
        let _held = lock.lock().await;
        self.admit(id, Operation::Rename)?;
        let container = self.table().find(id)?.clone();
        // A client may have been before it.
        if by_admin && container.named.as_deref() != Some(name) {
            return Ok(());
        }
        let _named = self.reserve(name)?;
        let record = Record { name: name.to_owned(), ..container.record.clone() };
        self.site.rename(&vm(&container), &record, by_admin).await.map_err(|error| of(&container, error))?;
        let renamed = self.watched().until(|t| t.find(id).map_or(true, |c| c.record.name == name).then_some(()));
        match timeout(OFF, renamed).await {
            Ok(renamed) => Ok(renamed?),
            Err(_) => Err(late(&container, "was renamed, and is still listed by its old name")),
        }
    }

    /// `docker wait`: the exit code.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn wait_for(&self, wanted: &str, until: Until) -> Result<i32> {
        self.wait_on(&mut self.begin_wait(wanted, until)?).await
    }

    /// Begins a wait that [`Self::wait_on`] sees through.
    ///
    /// # Errors
    /// When there is no such container, or more than one.
    pub fn begin_wait(&self, wanted: &str, until: Until) -> Result<Wait> {
        let last = self.table().find(wanted)?.clone();
        Ok(Wait { until, before: last.run.clone(), last })
    }

    /// The exit code for who waits, be it since an engine before this one.
    ///
    /// # Errors
    /// When vSphere is not watched any more: then the next engine knows.
    pub async fn wait_on(&self, wait: &mut Wait) -> Result<i32> {
        let Wait { until, before, last } = wait;
        let code = self.watched().until(|table| {
            let Ok(now) = table.find(&last.record.id) else {
                // Nobody knows how a process ended that was seen alive last.
                return Some(if last.phase().is_alive() { VANISHED } else { last.phase().exit_code() });
            };
            last.clone_from(now);
            let ended = !now.phase().is_up();
            let done = match until {
                Until::NotRunning => ended,
                // Its end, and not the one that was known before.
                Until::NextExit => {
                    matches!(now.phase(), Phase::Exited { .. } | Phase::Restarting { .. }) && now.run != *before
                }
                Until::Removed => false,
            };
            done.then(|| now.phase().exit_code())
        });
        Ok(code.await?)
    }

    /// `docker logs`.
    ///
    /// # Errors
    /// [`Failure`] up to where reading begins; later ones come with the lines.
    pub async fn logs(&self, wanted: &str, query: LogQuery) -> Result<LogLines> {
        let container = self.table().find(wanted)?.clone();
        let seat = self.readers.sit(&container.record.id);
        Ok(logs::read(&self.site, self.watched(), &container, query, seat).await?)
    }

    fn watched(&self) -> &Watched {
        self.reconciler.watched()
    }

    fn tell(&self, container: &Container, change: Change) {
        self.history.telling().tell(container.record.clone(), change);
    }

    fn hold(&self, id: &str) -> Arc<Hold> {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(holds.entry(id.to_owned()).or_default())
    }

    fn lock(&self, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.hold(id).work)
    }

    fn admit(&self, id: &str, operation: Operation) -> Result<Outcome> {
        let table = self.table();
        let container = table.find(id)?;
        match admit(&self.phase(container), operation) {
            Verdict::Do => Ok(Outcome::Done),
            Verdict::Already => Ok(Outcome::Already),
            Verdict::Refuse(refusal) => Err(Failure::Refused { name: container.record.name.clone(), refusal }),
        }
    }
}

/// What who works on a container has of it.
#[derive(Debug, Default)]
struct Hold {
    /// The container's lock: one thing is done to it at a time.
    work: Arc<tokio::sync::Mutex<()>>,
    /// What was written last of its restarts, which need not be seen yet; none when nobody knows.  Its lock is taken for the moment
    /// of the write alone: a kill writes, too, while another holds the container's.
    restarts: tokio::sync::Mutex<Option<Restarts>>,
}

/// A name that is being given, for as long as this lives.
struct Named<'a> {
    all: &'a Mutex<BTreeSet<String>>,
    name: String,
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

/// A container that is being made, for as long as this lives.
struct Making<'a> {
    all: &'a watch::Sender<BTreeSet<String>>,
    id: String,
}

impl<'a> Making<'a> {
    fn begin(all: &'a watch::Sender<BTreeSet<String>>, id: &str) -> Self {
        all.send_modify(|all| _ = all.insert(id.to_owned()));
        Self { all, id: id.to_owned() }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.all.send_modify(|all| _ = all.remove(&self.id));
    }
}

/// A removal, for as long as this lives.
struct Removal<'a> {
    all: &'a Mutex<BTreeMap<String, u32>>,
    id: String,
}

impl<'a> Removal<'a> {
    fn begin(all: &'a Mutex<BTreeMap<String, u32>>, id: &str) -> Self {
        *all.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default() += 1;
        Self { all, id: id.to_owned() }
    }
}

impl Drop for Removal<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.id);
            }
        }
    }
}

/// A failure of a call on a container's VM: where the VM is gone, so is the container.
fn of(container: &Container, error: vim25::Error) -> Failure {
    match error.fault_name() {
        Some("ManagedObjectNotFound") => NotFound::None(container.record.id.clone()).into(),
        _ => error.into(),
    }
}

fn vm(container: &Container) -> ManagedObjectReference {
    ManagedObjectReference::new("VirtualMachine", &container.vm)
}

fn late(container: &Container, what: &'static str) -> Failure {
    Failure::Late { name: container.record.name.clone(), what }
}
