//! [`Sessions`]: who sends the container's process its input, and how much of it was taken.
//!
//! A client's input may come by several calls, one after the other: lines break, and a call ends whose reader was too slow.  What
//! the process gets is all of it, in its order, once: what a call has under way when the next one of its session begins is not
//! taken, and the next one is told where to go on.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{mpsc::Permit, watch};

/// So many sessions are remembered, the newest.
const REMEMBERED: usize = 64;

/// The sessions of a process.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<VecDeque<(String, Session)>>);

type Session = Arc<watch::Sender<State>>;

#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// The newest call's number.
    call: u64,
    /// Bytes.
    taken: u64,
}

/// A call of a session.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    session: Session,
    number: u64,
    /// Bytes that were taken before it.
    pub(crate) taken: u64,
}

impl Sessions {
    /// Begins a call; from here on the one before takes nothing.  One without a session is one of its own.
    pub(crate) fn begin(&self, id: &str) -> Call {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().find(|(known, _)| known == id && !id.is_empty()).map(|(_, session)| Arc::clone(session));
        let session = known.unwrap_or_else(|| {
            let session = Session::default();
            if !id.is_empty() {
                all.push_back((id.to_owned(), Arc::clone(&session)));
                while all.len() > REMEMBERED {
                    all.pop_front();
                }
            }
            session
        });
        session.send_modify(|state| state.call += 1);
        let State { call: number, taken } = *session.borrow();
        Call { session, number, taken }
    }
}

impl Call {
    /// Takes input, which goes to `to`, or nowhere when there is none any more; false when another call has begun.
    pub(crate) fn take(&self, bytes: Vec<u8>, to: Option<Permit<'_, Vec<u8>>>) -> bool {
        self.session.send_if_modified(|state| {
            let current = state.call == self.number;
            if current {
                state.taken += bytes.len() as u64;
                if let Some(to) = to {
                    to.send(bytes);
                }
            }
            current
        })
    }

    /// Whether no other call has begun.
    pub(crate) fn is_current(&self) -> bool {
        self.session.borrow().call == self.number
    }

    /// Waits until more than `before` bytes were taken; tells how many.
    pub(crate) async fn more_than(&self, before: u64) -> u64 {
        let mut changes = self.session.subscribe();
        // The sender is here.
        changes.wait_for(|state| state.taken > before).await.map_or(before, |state| state.taken)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn the_next_call_goes_on_and_the_one_before_takes_nothing() {
        let (to, mut input) = mpsc::channel(8);
        let sessions = Sessions::default();
        let first = sessions.begin("a");
        assert!(first.take(b"one".to_vec(), Some(to.reserve().await.unwrap())));
        assert_eq!((first.taken, first.more_than(0).await), (0, 3));
        let other = sessions.begin("b");
        let second = sessions.begin("a");
        assert_eq!((second.taken, other.taken), (3, 0));
        assert!(!first.take(b"lost".to_vec(), Some(to.reserve().await.unwrap())) && !first.is_current());
        // Its process has closed its input: what comes is taken all the same.
        assert!(second.take(b"two".to_vec(), None) && second.is_current());
        assert!(other.take(b"three".to_vec(), Some(to.reserve().await.unwrap())));
        assert_eq!(sessions.begin("a").taken, 6);
        // Of those that have none each is one of its own.
        assert!(sessions.begin("").take(b"four".to_vec(), None));
        assert_eq!(sessions.begin("").taken, 0);
        drop(to);
        let mut seen = Vec::new();
        while let Some(bytes) = input.recv().await {
            seen.push(bytes);
        }
        assert_eq!(seen, [b"one".to_vec(), b"three".to_vec()]);
    }
}
