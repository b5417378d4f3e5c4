//! What containers' VMs ask (ADR 19): told to who starts one, and answered for who ends one.

use std::time::Duration;

use tokio::time::sleep;

use super::{Engine, Failure, vm};
use crate::container::table::{Container, Table};

/// Pause before a question is answered again.
const AGAIN: Duration = Duration::from_millis(300);

impl Engine {
    /// Sees `work` through, which ends the container, and answers meanwhile what its VM asks so that it does.
    pub(super) async fn answering<T>(&self, container: &Container, work: impl Future<Output = T>) -> T {
        let id = &container.record.id;
        let open = |table: &Table, answered: Option<&String>| {
            let question = table.find(id).ok().and_then(|c| c.question.clone());
            question.filter(|question| answered != Some(&question.id))
        };
        let mut answered = None;
        // First, for a VM is off as long as its power-on waits: the work would find that it has ended.
        if let Some(question) = open(&self.table(), None)
            && self.site.answer(&vm(container), &question).await.is_ok()
        {
            answered = Some(question.id);
        }
        let answers = async {
            loop {
                let asked = self.watched().until(|table| open(table, answered.as_ref()));
                // What is not seen the work runs into.
                let Ok(question) = asked.await else { return std::future::pending().await };
                match self.site.answer(&vm(container), &question).await {
                    Ok(()) => answered = Some(question.id),
                    // Somebody else may have answered, or it fails now and not in a moment.
                    Err(_) => sleep(AGAIN).await,
                }
            }
        };
        tokio::select! {
            done = work => done,
            never = answers => never,
        }
    }

    /// Waits until the container's VM asks something; that in words.
    pub(super) async fn asks(&self, id: &str) -> Failure {
        match self.watched().until(|table| asked(table, id)).await {
            Ok(asks) => asks,
            // Whoever waits for something else learns of that, too.
            Err(_) => std::future::pending().await,
        }
    }
}

/// What a container's VM asks, in words.
pub(super) fn asked(table: &Table, id: &str) -> Option<Failure> {
    let container = table.find(id).ok()?;
    let text = container.question.as_ref()?.text.clone();
    Some(Failure::Asks { name: container.record.name.clone(), text })
}
