//! Ends the machine: services first, then what is left, then the power.

use std::time::Duration;

use pid1::{End, System};
use tokio::{sync::watch, task::JoinSet, time::timeout};

/// How long all services together may take to end.  Each is killed after 10 s by its runner.
const LIMIT: Duration = Duration::from_secs(12);

/// Stops the services and ends the machine; returns only when the kernel refuses.
pub(crate) async fn end(system: &impl System, end: End, stop: &watch::Sender<bool>, runners: &mut JoinSet<()>) {
    log::info!("{end:?}: stopping services");
    stop.send_replace(true);
    if timeout(LIMIT, async { while runners.join_next().await.is_some() {} }).await.is_err() {
        log::warn!("services did not end within {LIMIT:?}");
    }
    log::info!("{end:?}: now");
    if let Err(error) = system.end(end) {
        log::error!("the kernel refused {end:?}: {error}");
    }
}
