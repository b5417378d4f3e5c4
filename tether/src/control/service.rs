//! [`Service`]: the calls.

use std::{fs::File, future::pending, path::Path, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt as _, stream};
use tether_proto::{
    Container,
    control::{
        AttachReply, AttachRequest, Attached, ExecReply, ExecRequest, ExecStateReply, ExecStateRequest, HelloReply,
        HelloRequest, ResizeReply, ResizeRequest, SignalExecRequest, SignalReply, SignalRequest, StopReply, TopReply,
        TopRequest, attach_reply, attach_request, control_server::Control, exec_request,
    },
    signal,
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{
    exec::{Execs, set_size},
    main_process::MainProcess,
    sessions::Call,
    top,
};
use crate::{contain::send, feed::Next, process::Place, scoped};

/// The container's process is to end: by which signal, and within how many seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StopRequest {
    pub(crate) signal: Option<i32>,
    pub(crate) seconds: Option<u64>,
}

/// What the endpoint VM may ask; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    container: Arc<Container>,
    place: Place,
    main: Arc<MainProcess>,
    execs: Execs,
    stops: mpsc::UnboundedSender<StopRequest>,
}

/// Passes a client's input to the process.
async fn pass_input(main: Arc<MainProcess>, call: Call, mut requests: Streaming<AttachRequest>) {
    loop {
        match requests.message().await {
            Ok(Some(AttachRequest { what: Some(attach_request::What::Stdin(bytes)) })) => {
                let input = main.input();
                // Room first: whether it is still ours to give is known when it is given.
                let room = match &input {
                    Some(input) => input.reserve().await.ok(),
                    None => None,
                };
                if !call.take(bytes, room) {
                    return;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) if call.is_current() => return main.input_ended(),
            // The client has let go, or the line is lost: its input goes on with the next call.
            Ok(None) | Err(_) => return,
        }
    }
}

/// Where a client is that is attached.
struct Attachment {
    main: Arc<MainProcess>,
    call: Option<Call>,
    /// The time of the output that it was given last.
    after: u64,
    /// Bytes of its input that it knows to be taken.
    taken: u64,
}

impl Attachment {
    /// The next reply, and what follows it.
    async fn next(mut self) -> Option<(Result<AttachReply, Status>, Option<Self>)> {
        let taken = async {
            match &self.call {
                Some(call) => call.more_than(self.taken).await,
                None => pending().await,
            }
        };
        let what = tokio::select! {
            next = self.main.feed.after(self.after) => match next {
                Next::Output(output) => {
                    self.after = output.time_ns;
                    attach_reply::What::Output(output)
                }
                Next::End => return None,
                Next::Lost => return Some((Err(Status::out_of_range("that output is not held any more")), None)),
            },
            taken = taken => {
                self.taken = taken;
                attach_reply::What::StdinTaken(taken)
            }
        };
        Some((Ok(AttachReply { what: Some(what) }), Some(self)))
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Service {
    /// Calls about `container` and its process; who asks it to stop is heard at `stops`.
    pub(crate) fn new(
        container: Arc<Container>,
        place: Place,
        main: Arc<MainProcess>,
        stops: mpsc::UnboundedSender<StopRequest>,
    ) -> Self {
        Self { container, place, main, execs: Execs::default(), stops }
    }

    /// The process if it still runs.
    fn running(&self) -> Result<&MainProcess, Status> {
        if self.main.runs() {
            Ok(&self.main)
        } else {
            Err(Status::failed_precondition("the container's process does not run"))
        }
    }
}

#[tonic::async_trait]
impl Control for Service {
    type AttachStream = Replies<AttachReply>;
    type ExecStream = Replies<ExecReply>;

    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(HelloReply { version, id: self.container.id.clone() }))
    }

    async fn attach(&self, request: Request<Streaming<AttachRequest>>) -> Result<Response<Self::AttachStream>, Status> {
        let mut requests = request.into_inner();
        let start = match requests.message().await?.and_then(|r| r.what) {
            Some(attach_request::What::Start(start)) => start,
            _ => return Err(Status::invalid_argument("the first request is not `start`")),
        };
        let main = Arc::clone(&self.main);
        let after = if start.from_now { main.feed.last_ns() } else { start.after_ns };
        let call = start.stdin.then(|| main.sessions.begin(&start.session));
        if let Some(call) = call.clone() {
            tokio::spawn(pass_input(Arc::clone(&main), call, requests));
        }
        let taken = call.as_ref().map(|call| call.taken);
        let attached = Attached { started_ns: main.started_ns, after_ns: after, stdin_taken: taken };
        let attachment = Attachment { main, call, after, taken: taken.unwrap_or_default() };
        let first = AttachReply { what: Some(attach_reply::What::Attached(attached)) };
        let rest = stream::unfold(Some(attachment), |attachment| async { attachment?.next().await });
        let replies = stream::iter([Ok(first)]).chain(rest);
        Ok(Response::new(Box::pin(replies)))
    }

    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let mut requests = request.into_inner();
        let start = match requests.message().await?.and_then(|r| r.what) {
            Some(exec_request::What::Start(start)) => start,
            _ => return Err(Status::invalid_argument("the first request is not `start`")),
        };
        self.running()?;
        let running = self.execs.start(start, &self.place);
        let mut input = running.input;
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                if let (Some(exec_request::What::Stdin(bytes)), Some(input)) = (request.what, &mut input) {
                    let _ = input.send(bytes).await;
                }
            }
        });
        let mut replies = running.replies;
        let replies = stream::poll_fn(move |context| replies.poll_recv(context).map(|reply| reply.map(Ok)));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn exec_state(&self, request: Request<ExecStateRequest>) -> Result<Response<ExecStateReply>, Status> {
        let id = request.into_inner().id;
        let state = self.execs.state(&id);
        state.map(Response::new).ok_or_else(|| Status::not_found(format!("there was no process {id}")))
    }

    async fn resize(&self, request: Request<ResizeRequest>) -> Result<Response<ResizeReply>, Status> {
        let ResizeRequest { exec_id, width, height } = request.into_inner();
        let none = || Status::failed_precondition("it has no terminal");
        if exec_id.is_empty() {
            let main = self.running()?;
            let terminal: &File = main.terminal.as_ref().ok_or_else(none)?;
            set_size(terminal, width, height);
        } else {
            set_size(&*self.execs.terminal(&exec_id).ok_or_else(none)?, width, height);
        }
        Ok(Response::new(ResizeReply {}))
    }

    async fn signal(&self, request: Request<SignalRequest>) -> Result<Response<SignalReply>, Status> {
        let text = request.into_inner().signal;
        let number = signal::number(&text).ok_or_else(|| invalid(&text))?;
        send(self.running()?.pid, number);
        Ok(Response::new(SignalReply {}))
    }

    async fn signal_exec(&self, request: Request<SignalExecRequest>) -> Result<Response<SignalReply>, Status> {
        let SignalExecRequest { id, signal: text } = request.into_inner();
        let number = signal::number(&text).ok_or_else(|| invalid(&text))?;
        let pid = self.execs.running(&id).ok_or_else(|| Status::not_found(format!("no process {id} runs")))?;
        send(pid, number);
        Ok(Response::new(SignalReply {}))
    }

    async fn stop(&self, request: Request<tether_proto::control::StopRequest>) -> Result<Response<StopReply>, Status> {
        let tether_proto::control::StopRequest { signal, seconds } = request.into_inner();
        let signal = match signal.as_str() {
            "" => None,
            text => Some(signal::number(text).ok_or_else(|| invalid(text))?),
        };
        self.running()?;
        let _ = self.stops.send(StopRequest { signal, seconds });
        Ok(Response::new(StopReply {}))
    }

    async fn top(&self, _: Request<TopRequest>) -> Result<Response<TopReply>, Status> {
        let passwd = scoped::resolve(&self.place.root, "/etc/passwd").and_then(std::fs::read).unwrap_or_default();
        Ok(Response::new(top::look(Path::new("/proc"), &String::from_utf8_lossy(&passwd))))
    }
}

fn invalid(signal: &str) -> Status {
    Status::invalid_argument(format!("Invalid signal: {signal}"))
}
