//! [`Service`]: the calls.

use std::{fs::File, path::Path, pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
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
        if start.stdin {
            let main = Arc::clone(&main);
            tokio::spawn(async move {
                loop {
                    match requests.message().await {
                        Ok(Some(AttachRequest { what: Some(attach_request::What::Stdin(bytes)) })) => {
                            let Some(input) = main.input() else { continue };
                            let _ = input.send(bytes).await;
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => return main.input_ended(),
                        // The client has let go, or the connection is lost: its input goes on with the next call.
                        Err(_) => return,
                    }
                }
            });
        }
        let attached = Attached { started_ns: main.started_ns, after_ns: after };
        let first = attach_reply::What::Attached(attached);
        let replies = stream::unfold(Some((Some(first), after)), move |state| {
            let main = Arc::clone(&main);
            async move {
                let (first, after) = state?;
                if first.is_some() {
                    return Some((Ok(AttachReply { what: first }), Some((None, after))));
                }
                match main.feed.after(after).await {
                    Next::Output(output) => {
                        let after = output.time_ns;
                        let what = Some(attach_reply::What::Output(output));
                        Some((Ok(AttachReply { what }), Some((None, after))))
                    }
                    Next::End => None,
                    Next::Lost => Some((Err(Status::out_of_range("that output is not held any more")), None)),
                }
            }
        });
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
