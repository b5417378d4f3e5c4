//! What a client uploads to an endpoint that does not want it.
//!
//! A client writes its body before it reads the answer; a server that closes on an unread body resets the connection, and
//! the client shows "broken pipe" where the answer has the reason.  So the rest of the body of a refused request is read and
//! thrown away, within limits.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

/// So much of an unwanted body is read, and so long.
const SIZE: usize = 64 << 20;
const TIME: Duration = Duration::from_secs(10);

/// A request's body, shared by the handler and by who reads what the handler left.
#[derive(Debug, Clone)]
pub(super) struct Upload(Arc<Mutex<Body>>);

impl Upload {
    pub(super) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    /// The body for the handler.
    pub(super) fn body(&self) -> Body {
        Body::new(self.clone())
    }

    /// Reads what is left.
    pub(super) async fn throw_away(mut self) {
        let rest = async {
            let mut left = SIZE;
            while let Some(Ok(frame)) = self.frame().await {
                let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
                left = rest;
            }
        };
        // A client that dawdles may meet its broken pipe.
        let _ = timeout(TIME, rest).await;
    }

    fn with<T>(&self, look: impl FnOnce(&mut Body) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.with(|body| Pin::new(body).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}
