//! `docker exec`: further processes in a container.
//!
//! ```text
//! Created -- start --> Running -- it ends, or the container does --> Ended      Created -- it cannot be run --> Ended
//! ```
//! They live in the guest and are remembered here: an endpoint VM that was started again knows nothing of them, as a Docker
//! daemon does not.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::stream;
use tether_proto::control::{ExecReply, ExecRequest, ExecStart, ExecStateRequest, exec_reply, exec_request};
use tether_proto::record::Record;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::{Code, Streaming};

use super::attach::{answered, record};
use super::phase::VANISHED;
use super::reconciler::Watched;
use crate::control::{Line, Switchboard};

/// So many pieces of output or input wait for a slow client, or a slow process.
const QUEUE: usize = 16;
/// Pause between two questions after a process whose line broke.
const LOOK: Duration = Duration::from_secs(1);
/// So long one that has ended is remembered: Docker's.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=VALUE`, the container's own among them.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// `USER[:GROUP]`; empty means root.
    pub user: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has standard input.
    pub stdin: bool,
    /// Which of its streams a client wants: what the client says to whoever inspects it.
    pub attach: [bool; 2],
    /// The keys with which its client lets go, in Docker's notation; empty for Docker's own.
    pub detach_keys: String,
}

/// A further process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The container's id.
    pub container: String,
    /// What is run.
    pub spec: ExecSpec,
    /// Where it stands.
    pub state: ExecState,
}

/// Where a further process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecState {
    /// It was not started yet.
    Created,
    /// It runs.
    Running {
        /// Its process id in the container's VM.
        pid: u32,
    },
    /// It has ended, or could not be run.
    Ended {
        /// Docker's exit code.
        code: i32,
    },
}

/// What the client of a further process is given.
#[derive(Debug)]
pub struct ExecStreams {
    /// Output; its end is the process's.
    pub output: mpsc::Receiver<Record>,
    /// Input; dropping it is the end of it.
    pub input: mpsc::Sender<Vec<u8>>,
}

/// Further processes; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Execs(Arc<Mutex<HashMap<String, Known>>>);

#[derive(Debug)]
struct Known {
    exec: Exec,
    ended: Option<Instant>,
    /// Somebody starts it.
    taken: bool,
}

/// Why one cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// There is none of that id.
    None,
    /// It was started already.
    Again,
}

impl Execs {
    pub(crate) fn add(&self, exec: Exec) {
        let mut all = self.lock();
        all.retain(|_, known| known.ended.is_none_or(|at| at.elapsed() < REMEMBERED));
        all.insert(exec.id.clone(), Known { exec, ended: None, taken: false });
    }

    pub(crate) fn find(&self, id: &str) -> Option<Exec> {
        self.lock().get(id).map(|known| known.exec.clone())
    }

    /// Those of a container that have not ended.  The others can still be asked for by id, as with Docker; a client asks for the
    /// container before each of its execs, and would be given all that there were.
    pub(crate) fn of(&self, container: &str) -> Vec<String> {
        let all = self.lock();
        let of = |k: &&Known| k.exec.container == container && !matches!(k.exec.state, ExecState::Ended { .. });
        let mut ids: Vec<_> = all.values().filter(of).map(|k| k.exec.id.clone()).collect();
        ids.sort();
        ids
    }

    /// Takes one to start it: it can be started once.
    pub(crate) fn take(&self, id: &str) -> Result<Exec, Start> {
        let mut all = self.lock();
        let known = all.get_mut(id).ok_or(Start::None)?;
        if known.taken {
            return Err(Start::Again);
        }
        known.taken = true;
        Ok(known.exec.clone())
    }

    /// It could not even be tried.
    pub(crate) fn give_back(&self, id: &str) {
        if let Some(known) = self.lock().get_mut(id) {
            known.taken = false;
        }
    }

    pub(crate) fn set(&self, id: &str, state: ExecState) {
        if let Some(known) = self.lock().get_mut(id) {
            known.exec.state = state;
            if matches!(state, ExecState::Ended { .. }) {
                known.ended = Some(Instant::now());
            }
        }
    }

    /// Forgets those of a container that is gone.
    pub(crate) fn forget(&self, container: &str) {
        self.lock().retain(|_, known| known.exec.container != container);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that is being started: what it has said first, and what it will say.
pub(crate) struct Started {
    pub(crate) first: exec_reply::What,
    pub(crate) streams: ExecStreams,
    replies: Streaming<ExecReply>,
    output: mpsc::Sender<Record>,
}

/// Starts `exec` on `line`; `size` is its terminal's.
pub(crate) async fn start(line: &Line, exec: &Exec, size: (u32, u32)) -> Result<Started, tonic::Status> {
    let ExecSpec { args, env, cwd, user, tty, stdin, .. } = exec.spec.clone();
    let (width, height) = size;
    let start = ExecStart { id: exec.id.clone(), args, env, cwd, user, tty, stdin, width, height };
    let mut first = Some(exec_request::What::Start(start));
    let (input, mut pieces) = mpsc::channel::<Vec<u8>>(QUEUE);
    let requests = stream::poll_fn(move |context| {
        let what = match first.take() {
            Some(what) => Some(what),
            None => match pieces.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => piece.map(exec_request::What::Stdin),
            },
        };
        Poll::Ready(what.map(|what| ExecRequest { what: Some(what) }))
    });
    let mut client = line.client();
    let mut replies = answered(client.exec(requests)).await?;
    let broken = || tonic::Status::unavailable("the container's guest said nothing");
    let first = replies.message().await?.and_then(|reply| reply.what).ok_or_else(broken)?;
    let (output, receiver) = mpsc::channel(QUEUE);
    Ok(Started { first, streams: ExecStreams { output: receiver, input }, replies, output })
}

impl Started {
    /// The streams for the client, and what is left to be seen through.
    pub(crate) fn split(self) -> (ExecStreams, Rest) {
        (self.streams, Rest { replies: self.replies, output: self.output })
    }
}

/// What a process will say.
pub(crate) struct Rest {
    replies: Streaming<ExecReply>,
    output: mpsc::Sender<Record>,
}

impl Rest {
    /// What it will say, for who wants no streams.
    pub(crate) fn replies(self) -> Streaming<ExecReply> {
        self.replies
    }
}

/// Sees a process through to its end; returns its exit code.
pub(crate) async fn see_through(rest: Rest, exec: &Exec, watched: &Watched, switchboard: &Switchboard) -> i32 {
    let Rest { mut replies, output } = rest;
    let over = async {
        let gone = |c: &super::table::Container| !c.phase().is_alive();
        // While vSphere is not watched nobody knows, and the line goes on.
        if watched.until(|table| table.find(&exec.container).map_or(true, gone).then_some(())).await.is_err() {
            pending::<()>().await;
        }
    };
    let told = async {
        while let Ok(Some(reply)) = replies.message().await {
            match reply.what {
                // A client that has gone wants no more of it.
                Some(exec_reply::What::Output(piece)) => drop(output.send(record(piece)).await),
                Some(exec_reply::What::Exited(exited)) => return exited.code,
                Some(exec_reply::What::Failed(failed)) => return failed.code,
                Some(exec_reply::What::Started(_)) | None => {}
            }
        }
        // The line broke under it, and it lives on.  Its client asks for the code when the output ends: not before there is one.
        let code = asked(exec, switchboard).await;
        drop(output);
        code
    };
    tokio::select! {
        code = told => code,
        // Its container's end is its own; the guest says so, if it still can.
        () = async { over.await; sleep(LOOK).await } => VANISHED,
    }
}

/// Asks after a process until it has ended.
async fn asked(exec: &Exec, switchboard: &Switchboard) -> i32 {
    loop {
        let line = switchboard.line(&exec.container).await;
        let mut client = line.client();
        match answered(client.exec_state(ExecStateRequest { id: exec.id.clone() })).await {
            Ok(state) => {
                if let Some(code) = state.code {
                    return code;
                }
            }
            // Another run of the container, or a guest that does not know the question.
            Err(status) if [Code::NotFound, Code::Unimplemented].contains(&status.code()) => return VANISHED,
            Err(_) => {}
        }
        sleep(LOOK).await;
    }
}
