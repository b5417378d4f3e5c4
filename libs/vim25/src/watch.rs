//! The `WaitForUpdatesEx` loop of a session, shared by its tasks and watches.
//!
//! A [`Watch`] holds the last known properties of its objects: level-triggered, so that a state that is delivered
//! twice does no harm.  Whenever a filter comes or the connection went, the loop asks for everything again
//! (version `""`); what is large has a loop of its own ([`Session::another_watcher`]).
//!
//! ```text
//! idle (no filter) --watch--> waiting --update--> waiting
//!                               |  ^ error: new collector, every filter again
//!                               +--+ command: CancelWaitForUpdates, then version ""
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use vim25_types::soap::Fault;
use vim25_types::{
    AnyMethodFault, AnyValue, LocalizedMethodFault, ManagedObjectReference, ObjectUpdateKind, PropertyChangeOp,
    PropertyFilterSpec, TaskInfoState, UpdateSet, WaitOptions, methods,
};

use crate::property::{self, Object};
use crate::session::WeakSession;
use crate::{Error, Result, Session};

/// How long the server may hold one `WaitForUpdatesEx`.
const HOLD_SECONDS: i32 = 20;
/// So many objects are told of in one answer, at most; vSphere may choose to tell of fewer.  One that is truncated goes on in the next.
const AT_ONCE: i32 = 100;
/// Pauses between two cancels of one wait grow from the first to the second.
const CANCEL_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(320));
/// How often in a row the loop may fail before it tells its watches.
const PATIENCE: u32 = 6;

/// What a watch knows.
#[derive(Debug, Clone, Default)]
struct Snapshot {
    objects: BTreeMap<ManagedObjectReference, Object>,
    /// Every object is there: the first state has arrived, and is not being told anew.
    primed: bool,
    /// Why nothing more will come.
    failure: Option<std::sync::Arc<Error>>,
}

enum Command {
    Add { spec: Box<PropertyFilterSpec>, snapshot: watch::Sender<Snapshot>, id: oneshot::Sender<u64> },
    Remove(u64),
}

/// The loop; see the module.
#[derive(Debug)]
pub struct Watcher {
    commands: mpsc::UnboundedSender<Command>,
    task: tokio::task::AbortHandle,
}

/// Live properties of some objects.  Dropping it ends the filter on the server.
#[derive(Debug)]
pub struct Watch {
    id: u64,
    commands: mpsc::UnboundedSender<Command>,
    snapshot: watch::Receiver<Snapshot>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Remove(self.id));
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Watcher {
    /// Starts one; it ends when it is dropped.
    pub(crate) fn start(session: WeakSession) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let state =
            Loop { session, inbox, entries: BTreeMap::new(), next_id: 0, collector: None, version: String::new() };
        let task = tokio::spawn(state.run()).abort_handle();
        Self { commands, task }
    }

    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// Watches what `spec` selects.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the session has been closed.
    pub async fn watch(&self, spec: PropertyFilterSpec) -> Result<Watch> {
        let (sender, snapshot) = watch::channel(Snapshot::default());
        let (id, answer) = oneshot::channel();
        let closed = || Error::Invalid("the vSphere session has been closed".into());
        let add = Command::Add { spec: Box::new(spec), snapshot: sender, id };
        self.commands.send(add).map_err(|_| closed())?;
        let id = answer.await.map_err(|_| closed())?;
        Ok(Watch { id, commands: self.commands.clone(), snapshot })
    }
}

impl Watch {
    /// Waits until `accept` finds what it looks for in the watched object, whose properties it is shown at every change.
    ///
    /// # Errors
    /// What `accept` returns; `ManagedObjectNotFound` when the object is gone; the failure of the loop.
    pub async fn until<T, E: From<Error>>(
        &mut self,
        object: &ManagedObjectReference,
        mut accept: impl FnMut(&Object) -> Result<Option<T>, E>,
    ) -> Result<T, E> {
        loop {
            {
                let snapshot = self.snapshot.borrow_and_update();
                if let Some(failure) = &snapshot.failure {
                    return Err(Error::Protocol { what: "waiting for updates".into(), reason: chain(failure) }.into());
                }
                match snapshot.objects.get(object) {
                    Some(state) => {
                        if let Some(found) = accept(state)? {
                            return Ok(found);
                        }
                    }
                    None if snapshot.primed => return Err(gone(object).into()),
                    None => {}
                }
            }
            if self.snapshot.changed().await.is_err() {
                return Err(Error::Invalid("the vSphere session has been closed".into()).into());
            }
        }
    }
}

impl Watch {
    /// Waits for a change, and gives every watched object as it is then; the first call gives the first state.
    ///
    /// # Errors
    /// The failure of the loop.
    pub async fn next(&mut self) -> Result<Vec<Object>> {
        loop {
            if self.snapshot.changed().await.is_err() {
                return Err(Error::Invalid("the vSphere session has been closed".into()));
            }
            let snapshot = self.snapshot.borrow_and_update();
            if let Some(failure) = &snapshot.failure {
                return Err(Error::Protocol { what: "waiting for updates".into(), reason: chain(failure) });
            }
            if snapshot.primed {
                return Ok(snapshot.objects.values().cloned().collect());
            }
        }
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        text = format!("{text}: {e}");
        source = e.source();
    }
    text
}

fn gone(object: &ManagedObjectReference) -> Error {
    let fault = vim25_types::ManagedObjectNotFound { obj: object.clone(), ..Default::default() };
    Error::Fault {
        method: "WaitForUpdatesEx".into(),
        object: object.clone(),
        fault: Box::new(Fault::new(fault, "The object has been deleted or has not been completely created")),
    }
}

fn is_gone(error: &Error) -> bool {
    error.fault_name() == Some("ManagedObjectNotFound")
}

/// Whether `object` is the one that a `ManagedObjectNotFound` is about.
fn names(error: &Error, object: &ManagedObjectReference) -> bool {
    match error.fault().map(|f| &f.detail) {
        Some(AnyMethodFault::ManagedObjectNotFound(detail)) => detail.obj.value == object.value,
        _ => false,
    }
}

impl Session {
    /// Watches properties of one object.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the session has been closed.
    pub async fn watch(&self, object: &ManagedObjectReference, wanted: &[&str]) -> Result<Watch> {
        let spec = property::these(std::slice::from_ref(object), vec![property::paths(&object.kind, wanted)]);
        self.watcher().watch(spec).await
    }

    /// Waits for a task to end; `progress` is shown its percentage.  Gives the task's result.
    ///
    /// # Errors
    /// [`Error::Fault`] with the task's own fault, `method` and `object` as given.
    pub async fn finish(
        &self,
        task: &ManagedObjectReference,
        method: &str,
        object: &ManagedObjectReference,
        mut progress: impl FnMut(i32),
    ) -> Result<Option<AnyValue>> {
        let wanted = ["info.state", "info.progress", "info.error", "info.result"];
        let mut watch = self.watch(task, &wanted).await?;
        watch
            .until(task, |state| {
                if let Some(percent) = state.get("info.progress")? {
                    progress(percent);
                }
                match state.get::<TaskInfoState>("info.state")? {
                    Some(TaskInfoState::Success) => Ok(Some(state.properties.get("info.result").cloned())),
                    Some(TaskInfoState::Error) => {
                        let error: Option<LocalizedMethodFault> = state.get("info.error")?;
                        let error = error.unwrap_or_default();
                        let fault =
                            Fault { detail: *error.fault, message: error.localized_message.unwrap_or_default() };
                        let (method, object) = (method.to_owned(), object.clone());
                        Err(Error::Fault { method, object, fault: Box::new(fault) })
                    }
                    _ => Ok(None),
                }
            })
            .await
    }

    /// Starts a task with `method` and waits for its end.
    ///
    /// # Errors
    /// Those of the call, or the task's own fault.
    pub async fn run<M: vim25_types::Method<Response = ManagedObjectReference>>(
        &self,
        method: &M,
    ) -> Result<Option<AnyValue>> {
        let task = self.call(method).await?;
        self.finish(&task, M::NAME, method.this(), |_| {}).await
    }
}

struct Entry {
    spec: PropertyFilterSpec,
    filter: Option<ManagedObjectReference>,
    snapshot: watch::Sender<Snapshot>,
    /// The state that is being collected since the last version `""`.
    fresh: bool,
}

struct Loop {
    session: WeakSession,
    inbox: mpsc::UnboundedReceiver<Command>,
    entries: BTreeMap<u64, Entry>,
    next_id: u64,
    collector: Option<ManagedObjectReference>,
    version: String,
}

impl Loop {
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            if self.entries.is_empty() {
                match self.inbox.recv().await {
                    Some(command) => self.take(command).await,
                    None => return,
                }
            }
            while let Ok(command) = self.inbox.try_recv() {
                self.take(command).await;
            }
            if self.entries.is_empty() {
                continue;
            }
            let Some(session) = self.session.upgrade() else { return };
            match self.turn(&session).await {
                Ok(()) => failures = 0,
                Err(e) if e.fault_name() == Some("RequestCanceled") => self.version.clear(),
                Err(e) => {
                    failures += 1;
                    self.collector = None;
                    self.version.clear();
                    for entry in self.entries.values_mut() {
                        entry.filter = None;
                    }
                    let hopeless = session.is_over()
                        || e.is_refused_login()
                        || !e.is_transient() && !matches!(e, Error::Fault { .. });
                    if hopeless || failures >= PATIENCE {
                        self.give_up(e);
                        failures = 0;
                    } else {
                        tokio::time::sleep(Duration::from_millis(100 << failures.min(5))).await;
                    }
                }
            }
        }
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::Add { spec, snapshot, id } => {
                self.next_id += 1;
                if id.send(self.next_id).is_ok() {
                    let entry = Entry { spec: *spec, filter: None, snapshot, fresh: true };
                    self.entries.insert(self.next_id, entry);
                    self.version.clear();
                }
            }
            Command::Remove(id) => {
                let filter = self.entries.remove(&id).and_then(|e| e.filter);
                if let (Some(this), Some(session)) = (filter, self.session.upgrade()) {
                    // A filter that cannot be ended now ends with the session.
                    let _ = session.call(&methods::DestroyPropertyFilter { this }).await;
                }
            }
        }
    }

    /// Tells every watch why nothing more will come.
    fn give_up(&mut self, error: Error) {
        let error = std::sync::Arc::new(error);
        for entry in std::mem::take(&mut self.entries).into_values() {
            entry.snapshot.send_modify(|s| s.failure = Some(std::sync::Arc::clone(&error)));
        }
    }

    /// One `WaitForUpdatesEx`, cut short when a command comes.
    async fn turn(&mut self, session: &Session) -> Result<()> {
        let collector = match &self.collector {
            Some(c) => c.clone(),
            None => {
                let this = session.content().property_collector.clone();
                let made = session.call(&methods::CreatePropertyCollector { this }).await?;
                self.collector.insert(made).clone()
            }
        };
        let mut refused = Vec::new();
        for (id, entry) in self.entries.iter_mut().filter(|(_, e)| e.filter.is_none()) {
            let create =
                methods::CreateFilter { this: collector.clone(), spec: entry.spec.clone(), partial_updates: false };
            match session.call(&create).await {
                Ok(filter) => entry.filter = Some(filter),
                // The object is gone: that concerns this watch alone.  The collector itself goes with its session.
                Err(e) if is_gone(&e) && !names(&e, &collector) => refused.push((*id, e)),
                Err(e) => return Err(e),
            }
        }
        for (id, _) in refused {
            if let Some(entry) = self.entries.remove(&id) {
                entry.snapshot.send_modify(|s| s.primed = true);
            }
        }
        if self.version.is_empty() {
            for entry in self.entries.values_mut() {
                entry.fresh = true;
            }
        }
        let options = WaitOptions { max_wait_seconds: Some(HOLD_SECONDS), max_object_updates: Some(AT_ONCE) };
        let wait = methods::WaitForUpdatesEx {
            this: collector.clone(),
            version: Some(self.version.clone()),
            options: Some(options),
        };
        let hold = Duration::from_secs(HOLD_SECONDS.unsigned_abs().into()) + session.options().deadline;
        let mut call = std::pin::pin!(session.whole(async || {
            let set = session.once(&wait, hold).await?;
            let objects = set.iter().flat_map(|set| &set.filter_set).flat_map(|update| &update.object_set);
            property::authenticated(&wait, objects.flat_map(|object| &object.missing_set))?;
            Ok(set)
        }));
        let mut early = None;
        let answer = tokio::select! {
            answer = &mut call => answer,
            command = self.inbox.recv() => {
                early = command;
                let mut pause = CANCEL_AGAIN.0;
                loop {
                    // The cancel may come before the server has begun to wait, so it is repeated; soon at first, for all that
                    // waits for an update waits for this.
                    let cancel = async {
                        let _ = session.call(&methods::CancelWaitForUpdates { this: collector.clone() }).await;
                        tokio::time::sleep(pause).await;
                    };
                    // Side by side: where the session has gone, each may wait for the other to log in.
                    tokio::select! {
                        answer = &mut call => break answer,
                        () = cancel => {}
                    }
                    pause = (pause * 2).min(CANCEL_AGAIN.1);
                }
            }
        };
        let outcome = answer.map(|set| set.into_iter().for_each(|set| self.apply(set)));
        // After the answer: a new filter clears the version, so that the next answer tells its state too.
        if let Some(command) = early {
            self.take(command).await;
        }
        outcome
    }

    fn apply(&mut self, set: UpdateSet) {
        let truncated = set.truncated == Some(true);
        for update in set.filter_set {
            let Some(entry) = self.entries.values_mut().find(|e| e.filter.as_ref() == Some(&update.filter)) else {
                continue;
            };
            let fresh = std::mem::take(&mut entry.fresh);
            entry.snapshot.send_modify(|snapshot| {
                if fresh {
                    snapshot.objects.clear();
                    // Until all of them have come again.
                    snapshot.primed = false;
                }
                for object in update.object_set {
                    if object.kind == ObjectUpdateKind::Leave {
                        snapshot.objects.remove(&object.obj);
                        continue;
                    }
                    let known = snapshot.objects.entry(object.obj.clone()).or_default();
                    known.reference = object.obj;
                    for change in object.change_set {
                        match (change.op, change.val) {
                            (PropertyChangeOp::Remove | PropertyChangeOp::IndirectRemove, _) | (_, None) => {
                                known.properties.remove(&change.name);
                            }
                            (_, Some(val)) => {
                                known.properties.insert(change.name, val);
                            }
                        }
                    }
                }
            });
        }
        if !truncated {
            for entry in self.entries.values_mut().filter(|e| e.filter.is_some()) {
                let primed = entry.snapshot.borrow().primed;
                if entry.fresh || !primed {
                    let vanished = std::mem::take(&mut entry.fresh);
                    entry.snapshot.send_modify(|s| {
                        s.primed = true;
                        if vanished {
                            s.objects.clear();
                        }
                    });
                }
            }
        }
        self.version = set.version;
    }
}
