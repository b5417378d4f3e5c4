//! Streams of a process on the client's own connection: Docker's "hijacking".
//!
//! The connection stops being HTTP after the answer's head: raw bytes of input one way, output the other.  A client that
//! does not ask for the upgrade gets the output as an answer's body, and its request's body is the input.

use std::convert::Infallible;

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Request, Response, StatusCode, header},
    response::IntoResponse,
};
use futures_util::{StreamExt, stream};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use port_layer::container::Stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::mpsc,
};

use super::detach::{Detach, Keys};
use crate::{
    multiplex::{Channel, frame, media_type},
    version::ApiVersion,
};

/// Bytes of input that are read at once.
const PIECE: usize = 16 * 1024;

/// What is to be sent to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Output of the process.
    Output(Stream, Vec<u8>),
    /// Why there is no more: the answer has begun, so it can only stand within it.
    Error(String),
}

/// The process's side of the connection.
pub(super) struct Streams {
    /// Output; its end is the end of the connection.
    pub(super) output: stream::BoxStream<'static, Said>,
    /// Where input goes; none when the client has none.
    pub(super) input: Option<mpsc::Sender<Vec<u8>>>,
    /// The keys with which the client lets go.
    pub(super) keys: Option<Keys>,
    /// Dropped when the client lets go, or its connection is over.
    pub(super) hold: Box<dyn Send>,
    /// Called when the client lets go by its keys.
    pub(super) detached: Box<dyn FnOnce() + Send>,
}

/// How output is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// A terminal's output has no channels.
    pub(super) tty: bool,
    pub(super) version: ApiVersion,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Form {
    fn write(self, said: &Said) -> Option<Vec<u8>> {
        let (channel, bytes) = match said {
            Said::Output(Stream::Stdout, bytes) if self.stdout => (Channel::Stdout, bytes.as_slice()),
            Said::Output(Stream::Stderr, bytes) if self.stderr => (Channel::Stderr, bytes.as_slice()),
            Said::Output(..) => return None,
            Said::Error(text) => (Channel::SystemError, text.as_bytes()),
        };
        Some(if self.tty { bytes.to_vec() } else { frame(channel, bytes) })
    }
}

/// Whether the client asks for the connection itself.
fn upgrades(headers: &HeaderMap) -> bool {
    let names = |value: &header::HeaderValue| value.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("upgrade"));
    headers.contains_key(header::UPGRADE) && headers.get_all(header::CONNECTION).iter().any(names)
}

/// Answers `request` with the streams.
pub(super) fn answer(mut request: Request<Body>, form: Form, streams: Streams) -> Response<Body> {
    let content_type = media_type(form.tty, form.version);
    let upgrade = upgrades(request.headers()).then(|| request.extensions_mut().remove::<OnUpgrade>()).flatten();
    match upgrade {
        Some(upgrade) => {
            tokio::spawn(async move {
                // A client that has gone meanwhile needs nothing.
                if let Ok(upgraded) = upgrade.await {
                    let (from, to) = split(TokioIo::new(upgraded));
                    converse(from, to, form, streams).await;
                }
            });
            let headers =
                [(header::CONTENT_TYPE, content_type), (header::CONNECTION, "Upgrade"), (header::UPGRADE, "tcp")];
            (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
        }
        None => {
            let Streams { output, input, hold, .. } = streams;
            if let Some(input) = input {
                tokio::spawn(async move {
                    let mut body = request.into_body().into_data_stream();
                    while let Some(Ok(piece)) = body.next().await {
                        if input.send(piece.to_vec()).await.is_err() {
                            return;
                        }
                    }
                });
            }
            let output = output.filter_map(move |said| {
                let _held = &hold;
                std::future::ready(form.write(&said).map(|bytes| Ok::<_, Infallible>(Bytes::from(bytes))))
            });
            ([(header::CONTENT_TYPE, content_type)], Body::from_stream(output)).into_response()
        }
    }
}

type Io = TokioIo<hyper::upgrade::Upgraded>;

/// Carries both ways until the output ends, the client lets go, or its connection is lost.
async fn converse(from: ReadHalf<Io>, mut to: WriteHalf<Io>, form: Form, streams: Streams) {
    let Streams { mut output, input, keys, hold, detached } = streams;
    let inward = read(from, input, keys);
    tokio::pin!(inward);
    let mut reading = true;
    loop {
        tokio::select! {
            said = output.next() => {
                let Some(said) = said else { break };
                let Some(bytes) = form.write(&said) else { continue };
                if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                    return;
                }
            }
            end = &mut inward, if reading => {
                if let End::Detached(input) = end {
                    detached();
                    // Let go of first: then its end is not taken for the end of input.
                    drop(hold);
                    drop(input);
                    let _ = to.shutdown().await;
                    return;
                }
                reading = false;
            }
        }
    }
    let _ = to.shutdown().await;
}

enum End {
    /// The client has no more input; it may still want output.
    Closed,
    Detached(Option<mpsc::Sender<Vec<u8>>>),
}

async fn read(mut from: ReadHalf<Io>, input: Option<mpsc::Sender<Vec<u8>>>, keys: Option<Keys>) -> End {
    let mut detach = keys.map(Detach::new);
    let mut bytes = vec![0; PIECE];
    loop {
        let count = match from.read(&mut bytes).await {
            Ok(count) if count > 0 => count,
            _ => return End::Closed,
        };
        let mut piece = bytes[..count].to_vec();
        if let Some(detach) = &mut detach {
            let (rest, detached) = detach.pass(&piece);
            if detached {
                // What was typed before it still goes in, and the input stays open.
                if let (Some(input), false) = (&input, rest.is_empty()) {
                    let _ = input.send(rest).await;
                }
                return End::Detached(input);
            }
            piece = rest;
        }
        // A process that takes no more input may still have output.
        if let (Some(input), false) = (&input, piece.is_empty()) {
            let _ = input.send(piece).await;
        }
    }
}
