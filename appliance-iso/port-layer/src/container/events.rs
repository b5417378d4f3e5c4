//! [`History`]: what has happened to containers and images, for whoever listens, and as it was last seen.
//!
//! It outlives a connection to vSphere: what happened while there was none is told when the next one is there.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use super::record::Record;
use super::table::{Change, Table};

/// So many past events are kept for those who ask later; as many as Docker's.
const KEPT: usize = 256;
/// So many events wait for a slow listener; then it misses the oldest, as it does with Docker.
const WAITING: usize = 1024;

/// Something that has happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When it was noticed, nanoseconds since 1970.
    pub time_ns: u64,
    /// To what, and what.
    pub subject: Subject,
}

/// What something has happened to.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// A container.
    Container {
        /// As it was then.
        record: Box<Record>,
        /// What has happened.
        change: Change,
    },
    /// An image.
    Image {
        /// Its id, or the name by which it was pulled.
        id: String,
        /// What of it is concerned: a name, or its id.
        name: String,
        /// What has happened.
        change: ImageChange,
    },
}

/// What has happened to an image, in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageChange {
    /// It was pulled.
    Pull,
    /// It has one name more.
    Tag,
    /// It has one name less.
    Untag,
    /// It is gone.
    Delete,
}

/// What has happened; clones share it.
#[derive(Debug, Clone)]
pub struct History(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    past: VecDeque<Arc<Event>>,
    listeners: broadcast::Sender<Arc<Event>>,
    seen: Option<Table>,
}

/// The history while nobody else adds to it.
#[derive(Debug)]
pub(crate) struct Telling<'a>(MutexGuard<'a, Inner>);

impl Default for History {
    fn default() -> Self {
        let (listeners, _) = broadcast::channel(WAITING);
        Self(Arc::new(Mutex::new(Inner { past: VecDeque::new(), listeners, seen: None })))
    }
}

impl History {
    /// The latest events, oldest first, and those to come: none is in both, none is left out.
    pub fn listen(&self) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let inner = self.lock();
        (inner.past.iter().cloned().collect(), inner.listeners.subscribe())
    }

    /// Tells what has happened to an image.
    pub fn tell_of_image(&self, id: &str, name: &str, change: ImageChange) {
        self.telling().tell_of(Subject::Image { id: id.to_owned(), name: name.to_owned(), change });
    }

    /// Keeps others from telling, so that what is told is in the order of what is seen.
    pub(crate) fn telling(&self) -> Telling<'_> {
        Telling(self.lock())
    }

    /// The containers as they were last seen; none before they were seen at all.
    pub(crate) fn seen(&self) -> Option<Table> {
        self.lock().seen.clone()
    }

    /// Looks at the containers as they were last seen.
    pub(crate) fn look<T>(&self, look: impl FnOnce(Option<&Table>) -> T) -> T {
        look(self.lock().seen.as_ref())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telling<'_> {
    pub(crate) fn tell(&mut self, record: Record, change: Change) {
        self.tell_of(Subject::Container { record: Box::new(record), change });
    }

    fn tell_of(&mut self, subject: Subject) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let event = Arc::new(Event { time_ns, subject });
        self.0.past.push_back(Arc::clone(&event));
        if self.0.past.len() > KEPT {
            self.0.past.pop_front();
        }
        let _ = self.0.listeners.send(event);
    }

    pub(crate) fn saw(&mut self, table: Table) {
        self.0.seen = Some(table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: usize) -> Record {
        Record::sample(&id.to_string(), "n")
    }

    #[test]
    fn past_events_are_kept_up_to_a_bound_and_new_ones_follow_them() {
        let history = History::default();
        for id in 0..KEPT + 2 {
            history.telling().tell(record(id), Change::Create);
        }
        let (past, mut next) = history.listen();
        history.telling().tell(record(7), Change::Start);
        assert_eq!(past.len(), KEPT);
        assert!(matches!(&past[0].subject, Subject::Container { record, .. } if record.id == "2"));
        assert!(past.windows(2).all(|two| two[0].time_ns <= two[1].time_ns));
        let next_one = next.try_recv().unwrap();
        assert!(matches!(&next_one.subject, Subject::Container { change: Change::Start, .. }));
        assert!(next.try_recv().is_err());
    }
}
