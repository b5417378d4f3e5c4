//! `docker attach`: a process's output as it comes, and its input.
//!
//! ```text
//! wait for the run -> line: Attach, output after the last that was seen -> its end: done
//!                      ^  |                              \-- lost: read the log up to now --/
//!                      |  +-- the connection breaks -----> the next line
//!                      any -- the run is over ----------> read the rest from the log: done
//! ```
//! The line is there to be quick; the log on the datastore has everything.  So nothing is lost of a process that ends before
//! its guest has called, or while the line is down.  "From now on" begins where the guest says that it begins: the client is
//! answered after that.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::stream;
use tether_proto::control::{AttachRequest, AttachStart, Output as Piece, Stream, attach_reply, attach_request};
use tether_proto::record::{self, Record};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tonic::Code;
use uuid::Uuid;
use vim25::Result;

use super::input::Input;
use super::logs::{self, Output};
use super::phase::Phase;
use super::reconciler::{Watched, not_watched};
use super::table::{Container, Table};
use crate::Site;
use crate::control::{Guests, Line, Switchboard};

/// So many pieces of output or input wait for a slow client, or a slow process.
const QUEUE: usize = 16;
/// Pause after a line broke, or refused.
const PAUSE: Duration = Duration::from_millis(200);
/// How long the guest of a run that is over may take to send the rest, before it is read from the log.
const REST: Duration = Duration::from_secs(2);
/// How long a client is not answered because the guest has not begun to give output.
const BEGIN: Duration = Duration::from_secs(2);

/// What an attached client is given.
#[derive(Debug)]
pub struct Attached {
    /// Output; its end is the end of the process's.
    pub output: mpsc::Receiver<Result<Record>>,
    /// Input; dropping it is the end of the client's.
    pub input: mpsc::Sender<Vec<u8>>,
    /// Whoever lets go of this lets go of the process, and its input stays open.
    pub hold: Hold,
    begun: oneshot::Receiver<Never>,
}

/// Only the end of those who would send it is of interest.
#[derive(Debug)]
enum Never {}

impl Attached {
    /// Waits until no output that is written from now on is missed, unless the guest is out of reach.
    pub(crate) async fn begun(mut self) -> Self {
        let _ = timeout(BEGIN, &mut self.begun).await;
        self
    }
}

/// Keeps a client attached.
#[derive(Debug)]
pub struct Hold(tokio::task::AbortHandle);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachQuery {
    /// Everything that the container has written so far, first.
    pub logs: bool,
    /// What it writes from now on; from the beginning of its next run when it does not run.
    pub stream: bool,
    /// The client has input.
    pub stdin: bool,
}

/// How a line has ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// With the process's output.
    Complete,
    /// Some output is in the log only.
    Lost,
    Broken,
    ClientGone,
}

struct Attachment {
    site: Site,
    watched: Watched,
    switchboard: Switchboard,
    container: Container,
    output: mpsc::Sender<Result<Record>>,
    input: Arc<Mutex<Input>>,
    /// Who sends it, to the guest.
    session: String,
    query: AttachQuery,
    /// The time of the last output that was given; none while it is "from now on".
    after_ns: Option<u64>,
    /// Held while output might be missed.
    beginning: Option<oneshot::Sender<Never>>,
}

/// Attaches to `container`.
pub(crate) fn attach(
    site: &Site,
    watched: &Watched,
    guests: &Guests,
    container: &Container,
    query: AttachQuery,
) -> Attached {
    let seat = guests.audience.sit(&container.record.id);
    let (output, receiver) = mpsc::channel(QUEUE);
    let (input, pieces) = mpsc::channel(QUEUE);
    let (beginning, begun) = oneshot::channel();
    let attachment = Attachment {
        site: site.clone(),
        watched: watched.clone(),
        switchboard: guests.switchboard.clone(),
        container: container.clone(),
        output: output.clone(),
        input: Arc::new(Mutex::new(Input::of(pieces))),
        session: Uuid::new_v4().simple().to_string(),
        query,
        after_ns: None,
        beginning: Some(beginning),
    };
    let task = tokio::spawn(async move {
        if let Err(error) = attachment.run().await {
            let _ = output.send(Err(error)).await;
        }
        drop(seat);
    });
    Attached { output: receiver, input, hold: Hold(task.abort_handle()), begun }
}

impl Attachment {
    async fn run(mut self) -> Result<()> {
        let joined = matches!(self.container.phase(), Phase::Running | Phase::Paused);
        if self.query.logs || !joined {
            self.beginning = None;
        }
        if self.query.logs {
            self.after_ns = Some(0);
            self.catch_up().await?;
        }
        if !self.query.stream {
            return Ok(());
        }
        let id = self.container.record.id.clone();
        let first = self.container.run.as_ref().and_then(|r| r.started_ns);
        let before = if joined { None } else { first };
        let found = self.watched.until(|table| run_after(table, &id, before, &self.container));
        let found = tokio::select! {
            found = found => found?,
            () = self.output.closed() => return Ok(()),
        };
        let Some(started_ns) = found else { return Ok(()) };
        if !joined && !self.query.logs {
            self.after_ns = Some(started_ns.saturating_sub(1));
        }
        loop {
            let (switchboard, watched) = (self.switchboard.clone(), self.watched.clone());
            let over = until_over(&watched, &id, started_ns);
            let rest = async {
                until_over(&watched, &id, started_ns).await;
                sleep(REST).await;
            };
            let ended = tokio::select! {
                line = switchboard.line(&id) => tokio::select! {
                    ended = self.stream(&line) => ended,
                    () = rest => Ended::Broken,
                },
                () = over => Ended::Broken,
                () = watched.ended() => Ended::Broken,
            };
            match ended {
                Ended::Complete | Ended::ClientGone => return Ok(()),
                Ended::Lost => self.catch_up().await?,
                Ended::Broken if is_over(&self.watched.table(), &id, started_ns) => {
                    logs::complete(&self.watched, &id).await;
                    return self.catch_up().await;
                }
                // Nobody would tell of the run's end.
                Ended::Broken if self.watched.is_over() => return Err(not_watched()),
                Ended::Broken => sleep(PAUSE).await,
            }
        }
    }

    /// Gives what the line gives.
    async fn stream(&mut self, line: &Line) -> Ended {
        let (after_ns, from_now) = (self.after_ns.unwrap_or_default(), self.after_ns.is_none());
        let (stdin, session) = (self.query.stdin, self.session.clone());
        let mut first = Some(attach_request::What::Start(AttachStart { from_now, after_ns, stdin, session }));
        self.input().another_line();
        let input = Arc::clone(&self.input);
        let requests = stream::poll_fn(move |context| {
            let what = match first.take() {
                Some(what) => Some(what),
                None => {
                    let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
                    match input.poll(context) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(piece) => piece.map(attach_request::What::Stdin),
                    }
                }
            };
            Poll::Ready(what.map(|what| AttachRequest { what: Some(what) }))
        });
        let mut replies = match line.client().attach(requests).await {
            Ok(replies) => replies.into_inner(),
            Err(status) => return ended(&status),
        };
        loop {
            let reply = tokio::select! {
                reply = replies.message() => reply,
                () = self.output.closed() => return Ended::ClientGone,
            };
            match reply {
                Ok(None) => return Ended::Complete,
                Err(status) => return ended(&status),
                Ok(Some(reply)) => match reply.what {
                    Some(attach_reply::What::Attached(attached)) => {
                        self.after_ns = Some(attached.after_ns);
                        self.beginning = None;
                        self.input().begin(attached.stdin_taken);
                    }
                    Some(attach_reply::What::StdinTaken(taken)) => self.input().has_taken(taken),
                    Some(attach_reply::What::Output(piece)) => {
                        self.after_ns = Some(piece.time_ns);
                        if self.output.send(Ok(record(piece))).await.is_err() {
                            return Ended::ClientGone;
                        }
                    }
                    None => {}
                },
            }
        }
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives from the log what is later than the last that was given, up to its end now.
    async fn catch_up(&mut self) -> Result<()> {
        let Some(after_ns) = self.after_ns else { return Ok(()) };
        let mut newest_ns = after_ns;
        let output = match Output::find(&self.site, &self.container.vm).await {
            // Its VM is gone, and what it has written with it.
            Err(error) if error.is_not_found() => return Ok(()),
            output => output?,
        };
        let mut place = output.place(after_ns).await?;
        while let Some(records) = output.records(&mut place).await? {
            for record in records {
                // An older tether may have written two streams' records in another order than that of their times.
                if record.time_ns <= after_ns {
                    continue;
                }
                newest_ns = newest_ns.max(record.time_ns);
                // The end of a run is a record without bytes.
                if !record.bytes.is_empty() && self.output.send(Ok(record)).await.is_err() {
                    return Ok(());
                }
            }
            self.after_ns = Some(newest_ns);
        }
        Ok(())
    }
}

/// The time of the first run after `before`; none inside when there will be none: the container is gone, or it has failed to
/// start since it was as `then`.
#[expect(clippy::option_option, reason = "the outer one is whether to wait on")]
fn run_after(table: &Table, id: &str, before: Option<u64>, then: &Container) -> Option<Option<u64>> {
    let Ok(now) = table.find(id) else { return Some(None) };
    if matches!(now.phase(), Phase::Created { failed: Some(_) }) && now.run != then.run {
        return Some(None);
    }
    let started = now.run.as_ref().and_then(|run| run.started_ns);
    started.filter(|_| started != before).map(Some)
}

/// Whether that run is over.
fn is_over(table: &Table, id: &str, started_ns: u64) -> bool {
    let Ok(now) = table.find(id) else { return true };
    let same = now.run.as_ref().and_then(|run| run.started_ns) == Some(started_ns);
    !same || !now.phase().is_alive()
}

/// Waits until that run is over.  While vSphere is not watched nobody knows, and the line goes on.
async fn until_over(watched: &Watched, id: &str, started_ns: u64) {
    if watched.until(|table| is_over(table, id, started_ns).then_some(())).await.is_err() {
        pending::<()>().await;
    }
}

fn ended(status: &tonic::Status) -> Ended {
    if status.code() == Code::OutOfRange { Ended::Lost } else { Ended::Broken }
}

pub(super) fn record(piece: Piece) -> Record {
    let stream = record::Stream::from(Stream::try_from(piece.stream).unwrap_or_default());
    Record { stream, time_ns: piece.time_ns, bytes: piece.bytes }
}

/// How long the guest may take to answer a call that is over in a moment.
const ANSWER: Duration = Duration::from_secs(10);

/// A call that is over in a moment.
pub(crate) async fn answered<T>(
    call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> std::result::Result<T, tonic::Status> {
    match timeout(ANSWER, call).await {
        Ok(reply) => reply.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded("the container's guest does not answer")),
    }
}
