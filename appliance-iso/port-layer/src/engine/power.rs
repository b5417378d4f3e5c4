//! Starts and ends of a container's process, and with it of its VM: start, stop, kill, restart.

use std::time::Duration;

use tether_proto::signal;
use tokio::time::timeout;

use super::questions::asked;
use super::{Engine, Failure, OFF, Outcome, Result, guest, late, of, vm};
use crate::container::admission::Operation;
use crate::container::phase::{Phase, Power};
use crate::container::restart::{Policy, Restarts};
use crate::container::table::{Change, Container, NotFound, Table};

/// How long a guest may take from power-on to its first word: its firmware and its kernel, on a host that may have others to boot.
const BOOT: Duration = Duration::from_secs(300);
/// How long it may take from then on to its process.
const PREPARE: Duration = Duration::from_secs(180);
/// Docker's time for a container to end by itself.
const STOP: Duration = Duration::from_secs(10);
/// What the way to the guest and back may take beyond that.
const GRACE: Duration = Duration::from_secs(5);
/// How long the guest of a process that has ended may take to write what is left in its memory to its disk.
const FLUSH: Duration = Duration::from_secs(600);
/// The signal that asks a process to end, unless its container has one of its own.
const SIGTERM: i32 = 15;
/// The signal that no process survives, and that the end of its VM amounts to.
pub(super) const SIGKILL: i32 = 9;

impl Engine {
    /// `docker start`: returns when the process runs, or has run.
    ///
    /// # Errors
    /// [`Failure`]; `NoProcess` when the guest could not run it.
    pub async fn start_container(&self, wanted: &str) -> Result<Outcome> {
        let id = self.table().find(wanted)?.record.id.clone();
        let lock = self.lock(&id);
        let held = lock.lock().await;
        if self.admit(&id, Operation::Start)? == Outcome::Already {
            let table = self.table();
            let still = table.find(&id)?.phase() == Phase::Starting;
            return asked(&table, &id).filter(|_| still).map_or(Ok(Outcome::Already), Err);
        }
        let outcome = self.power_on(&id, 0).await;
        self.after_start(&id, &outcome).await;
        drop(held);
        // One whose guest has told of a failure goes as if it had run.
        if outcome.as_ref().is_err_and(|failure| !matches!(failure, Failure::NoProcess { .. })) {
            let own = self.table().find(&id).ok().cloned();
            if own.is_some_and(|own| own.record.goes_with_its_process() && own.phase() != Phase::Running) {
                // Docker's `run --rm` waits until it is gone, and no end of a process will take it along.
                let _ = self.remove(&id, true, false).await;
            }
        }
        outcome
    }

    /// A policy counts from a start on that has succeeded: after one that has not, the container is as if it was stopped.  One whose
    /// VM asks may start yet.
    async fn after_start(&self, id: &str, outcome: &Result<Outcome>) {
        let may_run = |failure: &Failure| matches!(failure, Failure::NoProcess { .. } | Failure::Asks { .. });
        let failed = outcome.as_ref().is_err_and(|failure| !may_run(failure));
        let container = self.table().find(id).ok().filter(|c| failed && !c.phase().is_alive()).cloned();
        if let Some(container) = container {
            // Where that fails, too, the policy goes on: the client has asked for a container that runs.
            let _ = self.mark_stopped(&container).await;
        }
    }

    /// Starts a container, by its policy for the time `count`, or by a client.
    pub(super) async fn power_on(&self, id: &str, count: u32) -> Result<Outcome> {
        // Nobody here knows the answer, and a start that waits for it holds the container's lock for ever.
        tokio::select! {
            biased;
            asks = self.asks(id) => Err(asks),
            outcome = self.power_on_unasked(id, count) => outcome,
        }
    }

    async fn power_on_unasked(&self, id: &str, count: u32) -> Result<Outcome> {
        // A guest whose process has ended powers itself off.
        if self.off(id).await? {
            // Or starts anew, for somebody has told it to.
            let _ = timeout(PREPARE, self.until(id, |phase| *phase != Phase::Starting)).await;
            return Ok(Outcome::Already);
        }
        let before = self.table().find(id)?.clone();
        self.hang_up(id);
        if before.lost {
            self.site.restore_guest(&vm(&before), before.run.as_ref()).await.map_err(|error| of(&before, error))?;
        }
        // First, for by it the guest's word on the run before is told from the first of the new one's.
        self.note(&before, |_| Restarts { count, last: before.run.clone(), ..Restarts::default() }).await?;
        self.site.start(&vm(&before)).await.map_err(|error| of(&before, error))?;
        // What the guest has said in this life.
        let word = |table: &Table| {
            let Ok(now) = table.find(id) else { return Some(None) };
            (now.run != before.run && now.run.is_some()).then(|| Some(now.phase()))
        };
        let began = || self.watched().until(|table| word(table).filter(|phase| *phase != Some(Phase::Starting)));
        let went_off = async {
            if self.site.until_off(&vm(&before)).await.is_err() {
                // Then the time that it has tells.
                std::future::pending::<()>().await;
            }
        };
        let starts = async {
            match timeout(BOOT, self.watched().until(word)).await {
                Ok(_) => (timeout(PREPARE, began()).await, "was powered on, and its guest does not get to the process"),
                Err(silent) => {
                    (Err(silent), "was powered on, and its guest says nothing: look at its console in vSphere")
                }
            }
        };
        let (phase, what) = tokio::select! {
            started = starts => started,
            // The guest has crashed, or somebody has switched it off; the word on a short run will show all the same.
            () = went_off => {
                let last = self.site.last_word(&vm(&before)).await.map_err(|error| of(&before, error))?;
                let patience = if last == before.run { Duration::ZERO } else { OFF };
                (timeout(patience, began()).await, "was powered on, and went off before its process ran")
            }
        };
        match phase.map_err(|_| late(&before, what))?? {
            None => Err(NotFound::None(id.to_owned()).into()),
            Some(Phase::Created { failed: Some((code, error)) }) => Err(Failure::NoProcess { code, error }),
            Some(_) => Ok(Outcome::Done),
        }
    }

    /// `docker stop`: asks the process to end, and powers the VM off when it does not within `limit`.  Signal and limit are
    /// the container's own where they are none.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn stop_container(&self, wanted: &str, signal: Option<&str>, limit: Option<Duration>) -> Result<Outcome> {
        let id = self.table().find(wanted)?.record.id.clone();
        let lock = self.lock(&id);
        let _held = lock.lock().await;
        let admitted = self.admit(&id, Operation::Stop)?;
        let container = self.table().find(&id)?.clone();
        stop_signal(&container, signal)?;
        self.cut_short(&container).await?;
        if admitted == Outcome::Already {
            return Ok(Outcome::Already);
        }
        let container = self.table().find(&id)?.clone();
        self.mark_stopped(&container).await?;
        let outcome = match container.phase().is_alive() {
            true => self.end(&id, signal, limit).await?,
            false => Outcome::Done,
        };
        self.tell(&container, Change::Stop);
        Ok(outcome)
    }

    /// Remembers that a client has stopped a container, so that its policy leaves it alone; before it is stopped, for this
    /// process may die in between.
    async fn mark_stopped(&self, container: &Container) -> Result<()> {
        if container.policy == Policy::No {
            return Ok(());
        }
        let id = &container.record.id;
        let shown = self.table().find(id)?.restarts.clone();
        self.note(container, |written| Restarts { stopped: true, ..written }).await?;
        // Or else somebody has started it since: then that is what will be shown.
        let is_past = |c: &Container| c.restarts.stopped || c.restarts != shown;
        let seen = self.watched().until(|t| t.find(id).map_or(true, is_past).then_some(()));
        match timeout(OFF, seen).await {
            Ok(seen) => Ok(seen?),
            Err(_) => Err(late(container, "is to be left alone by its restart policy, and vSphere does not show it")),
        }
    }

    /// Writes down something of a container's restarts, which `change` makes of what was written last.
    async fn note(&self, container: &Container, change: impl FnOnce(Restarts) -> Restarts) -> Result<()> {
        let hold = self.hold(&container.record.id);
        let mut written = hold.restarts.lock().await;
        // What is cut off or fails may have been done or not: then it is what vSphere shows.
        let before = match written.take() {
            Some(before) => before,
            None => self.table().find(&container.record.id)?.restarts.clone(),
        };
        let now = change(before.clone());
        if now != before {
            self.site.remember(&vm(container), &now).await.map_err(|error| of(container, error))?;
        }
        *written = Some(now);
        Ok(())
    }

    async fn end(&self, id: &str, signal: Option<&str>, limit: Option<Duration>) -> Result<Outcome> {
        let container = self.table().find(id)?.clone();
        let (signal, number) = stop_signal(&container, signal)?;
        let limit = limit.or(container.record.stopping().1).unwrap_or(STOP);
        self.tell(&container, Change::Kill { signal: number });
        // Nor does one listen that stands still.
        let still = container.question.is_some();
        let mut asked = !still && self.ask_to_stop(&container, &signal, limit).await;
        if !asked && !still {
            asked = self.site.shut_down(&vm(&container)).await.is_ok();
        }
        // A guest that does not listen, yet or any more, is powered off at once.
        if !asked || !self.ends_within(id, limit + GRACE).await {
            return self.cut_off(&container).await;
        }
        self.until_off(&container).await
    }

    /// `docker kill`: sends the process a signal.  The one that no process survives is seen through, if need be by the VM's
    /// power.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn kill_container(&self, wanted: &str, signal: &str) -> Result<Outcome> {
        let number = signal::number(signal).ok_or_else(|| invalid_signal(signal))?;
        let mut container = self.table().find(wanted)?.clone();
        let id = &container.record.id.clone();
        self.admit(id, Operation::Kill)?;
        // No lock where it is alive: a kill ends what holds it.  Its policy may be about to start it, though.
        let mut _held = None;
        if container.question.is_some() && number == SIGKILL {
            // Nor does its policy start it again before that is told that it is not to; whoever holds the lock sees the question.
            _held = Some(self.lock(id).lock_owned().await);
            self.cut_short(&self.table().find(id)?.clone()).await?;
            container = self.table().find(id)?.clone();
        } else if !container.phase().is_alive() {
            tokio::select! {
                held = self.lock(id).lock_owned() => _held = Some(held),
                alive = self.until(id, Phase::is_alive) => alive?,
            }
            container = self.table().find(id)?.clone();
        }
        let (own, _) = container.record.stopping();
        // Docker: who kills it, or sends the signal that stops it, does not want it to come back.
        if number == SIGKILL || number == own.and_then(|own| signal::number(&own)).unwrap_or(SIGTERM) {
            self.mark_stopped(&container).await?;
        }
        if !container.phase().is_alive() {
            return Ok(Outcome::Done);
        }
        if number != SIGKILL {
            self.send_signal(&container, number, guest::CALL).await?;
            self.tell(&container, Change::Kill { signal: number });
            return Ok(Outcome::Done);
        }
        self.tell(&container, Change::Kill { signal: number });
        let sent = self.send_signal(&container, number, Duration::ZERO).await;
        if sent.is_err() || !self.ends_within(id, GRACE).await {
            self.power_off(&container).await?;
        }
        self.until_off(&container).await
    }

    /// `docker restart`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn restart_container(
        &self,
        wanted: &str,
        signal: Option<&str>,
        limit: Option<Duration>,
    ) -> Result<Outcome> {
        let id = self.table().find(wanted)?.record.id.clone();
        let lock = self.lock(&id);
        let _held = lock.lock().await;
        self.admit(&id, Operation::Restart)?;
        let container = self.table().find(&id)?.clone();
        if container.phase().is_alive() {
            self.end(&id, signal, limit).await?;
            self.tell(&container, Change::Stop);
        } else {
            self.cut_short(&container).await?;
        }
        let outcome = self.power_on(&id, 0).await;
        self.after_start(&id, &outcome).await;
        let outcome = outcome?;
        self.tell(&container, Change::Restart);
        Ok(outcome)
    }

    /// Waits until the container's phase is as wanted, or it is gone.
    pub(super) async fn until(&self, id: &str, wanted: impl Fn(&Phase) -> bool) -> Result<()> {
        let found = self.watched().until(|t| t.find(id).map_or(true, |c| wanted(&c.phase())).then_some(()));
        Ok(found.await?)
    }

    /// Waits until the container's process has ended, or it is gone; false when it does not within `limit`, or asks something
    /// before.
    async fn ends_within(&self, id: &str, limit: Duration) -> bool {
        let ended = self.watched().until(|table| match table.find(id) {
            Ok(container) if container.has_ended() => Some(true),
            Ok(container) => container.question.is_some().then_some(false),
            Err(_) => Some(true),
        });
        // Where vSphere is not watched any more the power tells.
        timeout(limit, ended).await.is_ok_and(|ended| ended.unwrap_or(true))
    }

    /// Ends what waits for an answer: a guest that stands still, or a power-on.  Nothing else can be done to the VM before.
    async fn cut_short(&self, container: &Container) -> Result<()> {
        if container.question.is_none() {
            return Ok(());
        }
        if container.phase().is_alive() {
            self.cut_off(container).await.map(drop)
        } else {
            self.power_off(container).await
        }
    }

    /// Ends a container whose guest does not.
    async fn cut_off(&self, container: &Container) -> Result<Outcome> {
        self.tell(container, Change::Kill { signal: SIGKILL });
        self.power_off(container).await?;
        self.until_off(container).await
    }

    /// Powers a container's VM off, whatever it asks.
    pub(super) async fn power_off(&self, container: &Container) -> Result<()> {
        let done = self.answering(container, Box::pin(self.site.power_off(&vm(container)))).await;
        done.map_err(|error| of(container, error))?;
        // Who starts it next does not run into what was answered.
        let id = &container.record.id;
        let quiet = self.watched().until(|t| t.find(id).map_or(true, |c| c.question.is_none()).then_some(()));
        match timeout(OFF, quiet).await {
            Ok(quiet) => Ok(quiet?),
            Err(_) => Err(late(container, "is to end, and its VM goes on asking: answer it in vSphere")),
        }
    }

    /// Waits until the VM is off, which it is about to be: as soon as its guest has written its disk.
    async fn until_off(&self, container: &Container) -> Result<Outcome> {
        let id = &container.record.id;
        let flushed = self
            .watched()
            .until(|t| t.find(id).map_or(true, |c| !c.phase().is_alive() || c.question.is_some()).then_some(()));
        let _ = timeout(FLUSH, flushed).await;
        // It does not get on with it.
        if self.table().find(id).is_ok_and(|c| c.question.is_some()) {
            self.power_off(container).await?;
        }
        let off = self.watched().until(|t| t.find(id).map_or(true, |c| c.power == Power::Off).then_some(()));
        match timeout(OFF, off).await {
            Ok(off) => Ok(off.map(|()| Outcome::Done)?),
            Err(_) => Err(late(container, "has ended, and its VM is still on")),
        }
    }

    /// Sees to it that the VM of a container without a process is off.  True when it is not, for its guest has started anew, and a
    /// process with it.
    async fn off(&self, id: &str) -> Result<bool> {
        let container = self.table().find(id)?.clone();
        let is_settled = |c: &Container| c.power == Power::Off || c.phase().is_alive();
        let settled = self.watched().until(|t| t.find(id).map_or(true, is_settled).then_some(()));
        if timeout(OFF, settled).await.is_err() {
            self.power_off(&container).await?;
            self.until_off(&container).await?;
        }
        Ok(self.table().find(id)?.phase().is_alive())
    }
}

/// The signal that asks a container's process to end, and its number.
fn stop_signal(container: &Container, wanted: Option<&str>) -> Result<(String, i32)> {
    let (own, _) = container.record.stopping();
    let name = wanted.map(str::to_owned).or(own).unwrap_or_else(|| "SIGTERM".to_owned());
    let number = signal::number(&name).ok_or_else(|| invalid_signal(&name))?;
    Ok((name, number))
}

fn invalid_signal(text: &str) -> Failure {
    Failure::Invalid(format!("Invalid signal: {text}"))
}
