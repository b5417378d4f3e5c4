//! Ctrl-C, termination and `--timeout` end the work, not the process: what was done is undone, and the session is closed.
//!
//! ```text
//! running -- signal or clock --> fired -- signal --> fired again
//! ```
//! Work that may be dropped anywhere runs under [`Interrupt::cut`].  A call that changes vSphere runs under
//! [`Interrupt::finish`]: it goes on to its answer when interrupted, so that we know what it made; a second signal ends it.

use std::future::{Future, pending};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::printer::Printer;
use crate::problem::{Exit, Problem};

/// Listens for signals from when it is made, and for the end of `--timeout`.
#[derive(Debug)]
pub(crate) struct Interrupt {
    signals: Signals,
    clock: Option<(Instant, Duration)>,
    fired: Option<Problem>,
    printer: Printer,
}

impl Interrupt {
    pub(crate) fn new(timeout: Option<Duration>, printer: Printer) -> Self {
        let clock = timeout.map(|after| (Instant::now() + after, after));
        Self { signals: Signals::new(), clock, fired: None, printer }
    }

    /// Runs `work`; drops it when interrupted.
    pub(crate) async fn cut<T>(&mut self, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        self.check()?;
        tokio::select! {
            outcome = Box::pin(work) => outcome,
            why = self.next() => {
                self.fired = Some(why.clone());
                Err(why)
            }
        }
    }

    /// Runs `work` to its end although it is interrupted meanwhile, which the next use tells.
    pub(crate) async fn finish<T>(&mut self, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        self.check()?;
        let mut work = Box::pin(work);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                why = self.next() => {
                    if self.fired.is_some() {
                        return Err(why);
                    }
                    self.printer.info(format!("{why}: waiting for the call under way (Ctrl-C again to leave at once)"));
                    self.fired = Some(why);
                }
            }
        }
    }

    /// From here on a new signal counts, and the clock no longer.
    pub(crate) fn rearm(&mut self) {
        self.fired = None;
        self.clock = None;
    }

    fn check(&self) -> Result<(), Problem> {
        self.fired.clone().map_or(Ok(()), Err)
    }

    async fn next(&mut self) -> Problem {
        let clock = async {
            match self.clock {
                Some((at, after)) => {
                    sleep_until(at).await;
                    after
                }
                None => pending().await,
            }
        };
        tokio::select! {
            what = self.signals.next() => Problem::new(Exit::Failed, format!("interrupted by {what}")),
            after = clock => {
                self.clock = None;
                Problem::new(Exit::Deadline, format!("exceeded time limit of {} s (--timeout)", after.as_secs()))
                    .remedy("increase it with --timeout, or leave it out: each stage has a limit of its own")
            }
        }
    }
}

/// The process's signals, each kept until it is asked for.
#[cfg(unix)]
#[derive(Debug)]
struct Signals(Vec<(tokio::signal::unix::Signal, &'static str)>);

#[cfg(unix)]
impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [
            (SignalKind::interrupt(), "Ctrl-C"),
            (SignalKind::terminate(), "SIGTERM"),
            (SignalKind::hangup(), "SIGHUP"),
        ];
        Self(kinds.into_iter().filter_map(|(kind, name)| signal(kind).ok().map(|s| (s, name))).collect())
    }

    async fn next(&mut self) -> &'static str {
        std::future::poll_fn(|context| {
            for (signal, name) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*name);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

#[cfg(windows)]
#[derive(Debug)]
struct Signals(Option<tokio::signal::windows::CtrlC>);

#[cfg(windows)]
impl Signals {
    fn new() -> Self {
        Self(tokio::signal::windows::ctrl_c().ok())
    }

    async fn next(&mut self) -> &'static str {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => pending().await,
        }
        "Ctrl-C"
    }
}
