//! gRPC calls on one HTTP/2 connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tether_proto::control::control_client::ControlClient;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response, Uri};

/// The client of a container's VM.
pub type Client = ControlClient<Wire>;

/// One connection; clones share it.
#[derive(Debug, Clone)]
pub struct Wire(SendRequest<Body>);

/// The client on a connection.
pub(super) fn client(sender: SendRequest<Body>) -> Client {
    // gRPC asks for an authority; who it is was decided by TLS.
    ControlClient::with_origin(Wire(sender), Uri::from_static("https://container"))
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
