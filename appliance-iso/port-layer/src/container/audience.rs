//! [`Audience`]: who listens to a container whose output goes with it.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// How many clients listen to which containers; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Audience(watch::Sender<BTreeMap<String, usize>>);

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Seat {
    audience: Audience,
    id: String,
}

impl Audience {
    /// Takes a seat.
    pub(crate) fn sit(&self, id: &str) -> Seat {
        self.0.send_modify(|all| *all.entry(id.to_owned()).or_default() += 1);
        Seat { audience: self.clone(), id: id.to_owned() }
    }

    /// Waits until nobody listens to a container any more.
    pub(crate) async fn left(&self, id: &str) {
        // The sender is this value's own.
        let _ = self.0.subscribe().wait_for(|all| !all.contains_key(id)).await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.audience.0.send_modify(|all| {
            if let Some(count) = all.get_mut(&self.id) {
                *count -= 1;
                if *count == 0 {
                    all.remove(&self.id);
                }
            }
        });
    }
}
