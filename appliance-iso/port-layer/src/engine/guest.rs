//! What is asked of a container's guest: streams, further processes, signals.

use std::time::Duration;

use tether_proto::control::{ExecFailed, ResizeRequest, SignalRequest, StopRequest, TopReply, TopRequest, exec_reply};
use tokio::time::timeout;
use tonic::{Code, Status};

use super::{Engine, Failure, Result};
use crate::container::admission::Operation;
use crate::container::attach::{self, AttachQuery, Attached, answered};
use crate::container::exec::{self, Exec, ExecSpec, ExecState, ExecStreams, Start};
use crate::container::health::{self, Check, Health};
use crate::container::phase::Phase;
use crate::container::table::{Change, Container};
use crate::control::{AuthorityError, Guests, Line};

/// How long a running container's guest may take to call: it may have been cut off a moment ago.
pub(super) const CALL: Duration = Duration::from_secs(10);
/// How long a client may take to read the last output of a container that is to go with its process.
const HEARD: Duration = Duration::from_secs(30);
/// Exit code of a process that could not even be tried.
const NOT_TRIED: i32 = 128;

impl Engine {
    /// `docker attach`.  `docker run` attaches before it starts the container: then everything from its beginning is given.
    ///
    /// # Errors
    /// [`Failure`]; later ones come with the output.
    pub async fn attach(&self, wanted: &str, query: AttachQuery) -> Result<Attached> {
        let container = self.table().find(wanted)?.clone();
        self.admit(&container.record.id, Operation::Attach)?;
        let guests = self.guests()?;
        self.tell(&container, Change::Attach);
        Ok(attach::attach(&self.site, self.watched(), guests, &container, query).begun().await)
    }

    /// A client has let go by its keys.
    pub fn detached(&self, wanted: &str) {
        if let Ok(container) = self.table().find(wanted) {
            self.tell(container, Change::Detach);
        }
    }

    /// Tells the container's terminal its size, in characters.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn resize_container(&self, wanted: &str, width: u32, height: u32) -> Result<()> {
        let container = self.table().find(wanted)?.clone();
        let line = self.running(&container).await?;
        let request = ResizeRequest { exec_id: String::new(), width, height };
        answered(line.client().resize(request)).await.map_err(|s| guest(&container, &s))?;
        self.tell(&container, Change::Resize { width, height });
        Ok(())
    }

    /// `docker top`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn top(&self, wanted: &str) -> Result<TopReply> {
        let container = self.table().find(wanted)?.clone();
        let line = self.running(&container).await?;
        let reply = answered(line.client().top(TopRequest {})).await.map_err(|s| guest(&container, &s))?;
        self.tell(&container, Change::Top);
        Ok(reply)
    }

    /// `docker exec`, its first half: returns the process's id.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn create_exec(&self, wanted: &str, id: String, spec: ExecSpec) -> Result<String> {
        let container = self.table().find(wanted)?.clone();
        self.admit(&container.record.id, Operation::Exec)?;
        let command = spec.args.join(" ");
        let exec = Exec { id: id.clone(), container: container.record.id.clone(), spec, state: ExecState::Created };
        self.guests()?.execs.add(exec);
        self.tell(&container, Change::ExecCreate { id: id.clone(), command });
        Ok(id)
    }

    /// A further process as it is now.
    ///
    /// # Errors
    /// [`Failure::NoExec`].
    pub fn exec(&self, id: &str) -> Result<Exec> {
        let found = self.guests.as_ref().and_then(|guests| guests.execs.find(id));
        found.ok_or_else(|| Failure::NoExec(id.to_owned()))
    }

    /// How a container is; none when it has no check, or has not run.
    pub fn health(&self, container: &Container) -> Option<Health> {
        Check::of(&container.record.config)?;
        let started_ns = container.run.as_ref()?.started_ns?;
        let known = self.guests.as_ref().map(|guests| guests.healths.of(&container.record.id, started_ns));
        let mut health = known.unwrap_or_default();
        // Docker's word for one that is not checked any more.
        if !container.phase().is_alive() {
            health.status = health::Status::Unhealthy;
        }
        Some(health)
    }

    /// The further processes of a container.
    pub fn execs_of(&self, container: &str) -> Vec<String> {
        self.guests.as_ref().map(|guests| guests.execs.of(container)).unwrap_or_default()
    }

    /// `docker exec`, its second half: returns when the process runs.  `size` is its terminal's, 0 when it is not known.
    ///
    /// # Errors
    /// [`Failure`]; `NoProcess` when it could not be run.
    pub async fn start_exec(&self, id: &str, size: (u32, u32)) -> Result<ExecStreams> {
        let guests = self.guests()?;
        let exec = guests.execs.take(id).map_err(|why| match why {
            Start::None => Failure::NoExec(id.to_owned()),
            Start::Again => Failure::ExecStarted(id.to_owned()),
        })?;
        let container = self.table().find(&exec.container)?.clone();
        let started = async {
            let line = self.running(&container).await?;
            exec::start(&line, &exec, size).await.map_err(|s| guest(&container, &s))
        };
        let started = match started.await {
            Ok(started) => started,
            Err(failure) => {
                guests.execs.give_back(id);
                return Err(failure);
            }
        };
        let end = |code| guests.execs.set(id, ExecState::Ended { code });
        match &started.first {
            exec_reply::What::Started(process) => {
                guests.execs.set(id, ExecState::Running { pid: process.pid });
                self.tell(&container, Change::ExecStart { id: id.to_owned(), command: exec.spec.args.join(" ") });
            }
            exec_reply::What::Failed(ExecFailed { code, error }) => {
                end(*code);
                return Err(Failure::NoProcess { code: *code, error: error.clone() });
            }
            other => {
                end(NOT_TRIED);
                let reason = format!("its guest answered {other:?}");
                return Err(Failure::Guest { name: container.record.name, reason });
            }
        }
        let (streams, mut rest) = started.split();
        // It must not keep the engine, which it may outlive: it may be there for months.
        let (history, watched) = (self.history.clone(), self.watched().clone());
        let (execs, switchboard) = (guests.execs.clone(), guests.switchboard.clone());
        tokio::spawn(async move {
            let code = exec::see_through(&mut rest, &exec, &watched, &switchboard, &history).await;
            execs.set(&exec.id, ExecState::Ended { code });
            history.telling().tell(container.record, Change::ExecDie { id: exec.id, code });
        });
        Ok(streams)
    }

    /// Tells the terminal of a further process its size, in characters.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn resize_exec(&self, id: &str, width: u32, height: u32) -> Result<()> {
        let exec = self.exec(id)?;
        let container = self.table().find(&exec.container)?.clone();
        let line = self.running(&container).await?;
        let request = ResizeRequest { exec_id: id.to_owned(), width, height };
        answered(line.client().resize(request)).await.map_err(|s| guest(&container, &s))?;
        Ok(())
    }

    /// Asks the guest to end its process; false when it cannot be asked.
    pub(super) async fn ask_to_stop(&self, container: &Container, signal: &str, limit: Duration) -> bool {
        let line = self.guests.as_ref().and_then(|guests| guests.switchboard.line_now(&container.record.id));
        let Some(line) = line else { return false };
        let request = StopRequest { signal: signal.to_owned(), seconds: Some(limit.as_secs()) };
        answered(line.client().stop(request)).await.is_ok()
    }

    /// Sends the container's process a signal by a line that is there, or by one that comes within `patience`.
    pub(super) async fn send_signal(&self, container: &Container, signal: i32, patience: Duration) -> Result<()> {
        let line = self.line(container, patience).await?;
        let request = SignalRequest { signal: signal.to_string() };
        answered(line.client().signal(request)).await.map_err(|s| guest(container, &s))?;
        Ok(())
    }

    /// Waits until those who are attached to a container that has ended have all of its output: it goes with its removal.
    pub(super) async fn heard(&self, id: &str) {
        if let Some(guests) = &self.guests {
            let _ = timeout(HEARD, guests.audience.left(id)).await;
        }
    }

    /// Gives up the line to a container whose VM is off, or is about to be on.
    pub(super) fn hang_up(&self, id: &str) {
        if let Some(guests) = &self.guests {
            guests.switchboard.hang_up(id);
        }
    }

    fn guests(&self) -> Result<&Guests> {
        self.guests.as_ref().ok_or(Failure::NoChannel(AuthorityError::NoKey))
    }

    /// The line to a container that runs.
    async fn running(&self, container: &Container) -> Result<Line> {
        let id = &container.record.id;
        self.admit(id, Operation::Exec)?;
        let _ = timeout(CALL, self.until(id, |phase| *phase != Phase::Starting)).await;
        self.admit(id, Operation::Exec)?;
        self.line(container, CALL).await
    }

    async fn line(&self, container: &Container, patience: Duration) -> Result<Line> {
        let switchboard = &self.guests()?.switchboard;
        timeout(patience, switchboard.line(&container.record.id)).await.map_err(|_| Failure::Guest {
            name: container.record.name.clone(),
            reason: "its guest does not call: the control channel over the bridge network is down".to_owned(),
        })
    }
}

/// The guest's refusal in words.
fn guest(container: &Container, status: &Status) -> Failure {
    let reason = match status.code() {
        Code::InvalidArgument => return Failure::Invalid(status.message().to_owned()),
        Code::Unimplemented => "its guest is of a version that cannot do that: recreate the container".to_owned(),
        _ => format!("its guest answered: {}", status.message()),
    };
    Failure::Guest { name: container.record.name.clone(), reason }
}
