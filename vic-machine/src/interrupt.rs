//! Ctrl-C, termination and `--timeout` end the work, not the process: what was done is undone, and the session is closed.

use std::future::Future;
use std::time::Duration;

use crate::problem::{Exit, Problem};

/// Runs `work` unless the user or the clock ends it first.
pub(crate) async fn unless<T>(
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let clock = async {
        match timeout {
            Some(after) => {
                tokio::time::sleep(after).await;
                after
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        outcome = work => outcome,
        what = signal() => Err(Problem::new(Exit::Failed, format!("interrupted by {what}"))),
        after = clock => Err(Problem::new(Exit::Deadline, format!("exceeded time limit of {} s (--timeout)", after.as_secs()))
            .remedy("increase it with --timeout, or leave it out: each stage has a limit of its own")),
    }
}

#[cfg(unix)]
async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut hup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "Ctrl-C",
        _ = term.recv() => "SIGTERM",
        _ = hup.recv() => "SIGHUP",
    }
}

#[cfg(not(unix))]
async fn signal() -> &'static str {
    match tokio::signal::ctrl_c().await {
        Ok(()) => "Ctrl-C",
        Err(_) => std::future::pending().await,
    }
}
