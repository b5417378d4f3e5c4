//! A tether and an endpoint VM of different versions talk to each other: `control.proto` beside this file is an older
//! version of the protocol, and stays as it is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says how it fails by panicking")]

#[allow(
    unreachable_pub,
    missing_debug_implementations,
    unused_qualifications,
    clippy::pedantic,
    dead_code,
    reason = "generated"
)]
mod generated;

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use generated as old;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tether_proto::control as new;
use tonic::body::Body;
use tonic::codegen::http::{self, Request, Response};
use tonic::codegen::{BoxFuture, Context, Poll, Service};
use tonic::{Code, Status, Streaming};

/// gRPC calls on one connection.
#[derive(Clone)]
struct Wire(hyper::client::conn::http2::SendRequest<Body>);

impl Service<Request<Body>> for Wire {
    type Response = Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }
    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A connection to `service`.
async fn connect<S>(service: S) -> Wire
where
    S: Service<Request<hyper::body::Incoming>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    tokio::spawn(server.serve_connection(TokioIo::new(far), TowerToHyperService::new(service)));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.unwrap();
    tokio::spawn(connection);
    Wire(sender)
}

fn origin() -> http::Uri {
    http::Uri::from_static("https://container")
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A tether of yesterday.
struct OldTether;

#[tonic::async_trait]
impl old::control_server::Control for OldTether {
    type AttachStream = Replies<old::AttachReply>;
    type ExecStream = Replies<old::ExecReply>;
    async fn hello(&self, _: tonic::Request<old::HelloRequest>) -> Result<tonic::Response<old::HelloReply>, Status> {
        Ok(tonic::Response::new(old::HelloReply { version: "0".into(), id: "c1".into() }))
    }
    async fn attach(
        &self,
        request: tonic::Request<Streaming<old::AttachRequest>>,
    ) -> Result<tonic::Response<Self::AttachStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap().what.unwrap();
        assert!(matches!(first, old::attach_request::What::Start(start) if start.from_now && start.stdin));
        let attached = old::attach_reply::What::Attached(old::Attached { started_ns: 5 });
        let output = old::Output { stream: old::Stream::Stderr.into(), bytes: b"words".to_vec() };
        let replies = [attached, old::attach_reply::What::Output(output)];
        let replies = replies.map(|what| Ok(old::AttachReply { what: Some(what) }));
        Ok(tonic::Response::new(Box::pin(stream::iter(replies))))
    }
    async fn exec(
        &self,
        request: tonic::Request<Streaming<old::ExecRequest>>,
    ) -> Result<tonic::Response<Self::ExecStream>, Status> {
        let first = request.into_inner().message().await?.unwrap().what.unwrap();
        let old::exec_request::What::Start(start) = first else { panic!("{first:?}") };
        assert_eq!((start.args, start.tty), (vec!["ls".to_owned()], true));
        let exited = old::exec_reply::What::Exited(old::ExecExited { code: 3 });
        Ok(tonic::Response::new(Box::pin(stream::iter([Ok(old::ExecReply { what: Some(exited) })]))))
    }
    async fn resize(&self, _: tonic::Request<old::ResizeRequest>) -> Result<tonic::Response<old::ResizeReply>, Status> {
        Ok(tonic::Response::new(old::ResizeReply {}))
    }
    async fn signal(
        &self,
        request: tonic::Request<old::SignalRequest>,
    ) -> Result<tonic::Response<old::SignalReply>, Status> {
        assert_eq!(request.into_inner().signal, "HUP");
        Ok(tonic::Response::new(old::SignalReply {}))
    }
}

#[tokio::test]
async fn a_new_endpoint_speaks_to_an_old_tether() {
    let wire = connect(old::control_server::ControlServer::new(OldTether)).await;
    let mut client = new::control_client::ControlClient::with_origin(wire, origin());
    assert_eq!(client.hello(new::HelloRequest { version: "1".into() }).await.unwrap().into_inner().id, "c1");
    let start = new::AttachStart { from_now: true, after_ns: 0, stdin: true, session: "s".into() };
    let start = new::AttachRequest { what: Some(new::attach_request::What::Start(start)) };
    let mut replies = client.attach(stream::iter([start])).await.unwrap().into_inner();
    let mut what = async || replies.message().await.unwrap().map(|reply| reply.what.unwrap());
    assert_eq!(
        what().await,
        Some(new::attach_reply::What::Attached(new::Attached { started_ns: 5, ..Default::default() }))
    );
    let output = new::Output { stream: new::Stream::Stderr.into(), time_ns: 0, bytes: b"words".to_vec() };
    assert_eq!(what().await, Some(new::attach_reply::What::Output(output)));
    assert_eq!(what().await, None);
    let start = new::ExecStart { args: vec!["ls".into()], tty: true, width: 80, height: 24, ..Default::default() };
    let start = new::ExecRequest { what: Some(new::exec_request::What::Start(start)) };
    let replies = client.exec(stream::iter([start])).await.unwrap().into_inner();
    let replies: Vec<_> = replies.map(|reply| reply.unwrap().what.unwrap()).collect().await;
    assert_eq!(replies, [new::exec_reply::What::Exited(new::ExecExited { code: 3 })]);
    client.signal(new::SignalRequest { signal: "HUP".into() }).await.unwrap();
    // What it does not have it says.
    assert_eq!(client.top(new::TopRequest {}).await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(client.stop(new::StopRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
}

/// A tether of today.
struct NewTether;

#[tonic::async_trait]
impl new::control_server::Control for NewTether {
    type AttachStream = Replies<new::AttachReply>;
    type ExecStream = Replies<new::ExecReply>;
    async fn hello(&self, _: tonic::Request<new::HelloRequest>) -> Result<tonic::Response<new::HelloReply>, Status> {
        Ok(tonic::Response::new(new::HelloReply { version: "1".into(), id: "c1".into() }))
    }
    async fn attach(
        &self,
        _: tonic::Request<Streaming<new::AttachRequest>>,
    ) -> Result<tonic::Response<Self::AttachStream>, Status> {
        let attached =
            new::attach_reply::What::Attached(new::Attached { started_ns: 5, after_ns: 4, stdin_taken: Some(0) });
        let output = new::Output { stream: new::Stream::Stdout.into(), time_ns: 9, bytes: b"words".to_vec() };
        let replies = [attached, new::attach_reply::What::Output(output)];
        let replies = replies.map(|what| Ok(new::AttachReply { what: Some(what) }));
        Ok(tonic::Response::new(Box::pin(stream::iter(replies))))
    }
    async fn exec(
        &self,
        request: tonic::Request<Streaming<new::ExecRequest>>,
    ) -> Result<tonic::Response<Self::ExecStream>, Status> {
        let first = request.into_inner().message().await?.unwrap().what.unwrap();
        let new::exec_request::What::Start(start) = first else { panic!("{first:?}") };
        assert_eq!((start.id.as_str(), start.width), ("e1", 0), "what an older endpoint does not say is not known");
        let failed = new::exec_reply::What::Failed(new::ExecFailed { code: 127, error: "none".into() });
        Ok(tonic::Response::new(Box::pin(stream::iter([Ok(new::ExecReply { what: Some(failed) })]))))
    }
    async fn exec_state(
        &self,
        _: tonic::Request<new::ExecStateRequest>,
    ) -> Result<tonic::Response<new::ExecStateReply>, Status> {
        Err(Status::not_found("none"))
    }
    async fn resize(&self, _: tonic::Request<new::ResizeRequest>) -> Result<tonic::Response<new::ResizeReply>, Status> {
        Ok(tonic::Response::new(new::ResizeReply {}))
    }
    async fn signal(&self, _: tonic::Request<new::SignalRequest>) -> Result<tonic::Response<new::SignalReply>, Status> {
        Ok(tonic::Response::new(new::SignalReply {}))
    }
    async fn signal_exec(
        &self,
        _: tonic::Request<new::SignalExecRequest>,
    ) -> Result<tonic::Response<new::SignalReply>, Status> {
        Err(Status::not_found("none"))
    }
    async fn stop(&self, _: tonic::Request<new::StopRequest>) -> Result<tonic::Response<new::StopReply>, Status> {
        Ok(tonic::Response::new(new::StopReply {}))
    }
    async fn top(&self, _: tonic::Request<new::TopRequest>) -> Result<tonic::Response<new::TopReply>, Status> {
        Ok(tonic::Response::new(new::TopReply::default()))
    }
}

#[tokio::test]
async fn an_old_endpoint_speaks_to_a_new_tether() {
    let wire = connect(new::control_server::ControlServer::new(NewTether)).await;
    let mut client = old::control_client::ControlClient::with_origin(wire, origin());
    assert_eq!(client.hello(old::HelloRequest { version: "0".into() }).await.unwrap().into_inner().id, "c1");
    let start = old::AttachRequest { what: Some(old::attach_request::What::Start(old::AttachStart::default())) };
    let replies = client.attach(stream::iter([start])).await.unwrap().into_inner();
    let replies: Vec<_> = replies.map(|reply| reply.unwrap().what.unwrap()).collect().await;
    let output = old::Output { stream: old::Stream::Stdout.into(), bytes: b"words".to_vec() };
    let attached = old::attach_reply::What::Attached(old::Attached { started_ns: 5 });
    assert_eq!(replies, [attached, old::attach_reply::What::Output(output)]);
    let start = old::ExecStart { id: "e1".into(), ..Default::default() };
    let start = old::ExecRequest { what: Some(old::exec_request::What::Start(start)) };
    let mut replies = client.exec(stream::iter([start])).await.unwrap().into_inner();
    let failed = old::exec_reply::What::Failed(old::ExecFailed { code: 127, error: "none".into() });
    assert_eq!(replies.message().await.unwrap().unwrap().what, Some(failed));
    client.resize(old::ResizeRequest { exec_id: String::new(), width: 1, height: 2 }).await.unwrap();
    client.signal(old::SignalRequest { signal: "HUP".into() }).await.unwrap();
}
