//! Accepts connections and serves HTTP/1.1 on them, within limits that a slow or greedy client cannot pass.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use crate::api::App;

/// Pause after the system refused to accept (out of file descriptors): the state lasts, so a tight loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client that was silent for so long is asked whether it is there, and again each time as long after.
const ALIVE_AFTER: Duration = Duration::from_secs(15);
/// So often; then its connection is over.
const ALIVE_PROBES: u32 = 3;

/// What one client, and all together, may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; more wait in the system's queue.
    pub connections: usize,
    /// Time for the TLS handshake.
    pub handshake: Duration,
    /// Time for a request's head, idle time between two requests included.
    pub head: Duration,
    /// Bytes of a request's head.
    pub head_size: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(60),
            head_size: 64 * 1024,
        }
    }
}

/// Serves the API on TCP, over TLS when there is an acceptor.
pub async fn serve_tcp(listener: TcpListener, tls: Option<TlsAcceptor>, app: App, limits: Limits) -> Infallible {
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        // A slot first: a connection without one stays in the queue and costs nothing here.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { continue };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let _ = keep_alive(&stream);
        let (tls, app) = (tls.clone(), app.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(stream, app, limits).await,
                // A handshake that fails or dawdles is the client's affair.
                Some(tls) => {
                    if let Ok(Ok(stream)) = timeout(limits.handshake, tls.accept(stream)).await {
                        serve(stream, app, limits).await;
                    }
                }
            }
            drop(slot);
        });
    }
}

/// A client may vanish without a word while nothing is said to it either (`docker wait`, `logs -f`, attach): unasked, it would keep
/// its slot until the container ends.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(stream, ALIVE_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, ALIVE_AFTER)?;
    sockopt::set_tcp_keepcnt(stream, ALIVE_PROBES)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

/// Serves the API on a local socket, plain.
pub async fn serve_unix(listener: UnixListener, app: App) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, app.clone(), Limits::default()));
            }
            Err(io::Error { .. }) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, app: App, limits: Limits) {
    let service = service_fn(move |request: Request<Incoming>| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(app.answer(request.map(Body::new)).await) }
    });
    // How a connection ends concerns its client only.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_size)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_has_vanished_is_noticed_within_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        keep_alive(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let (idle, between) = (sockopt::tcp_keepidle(&stream).unwrap(), sockopt::tcp_keepintvl(&stream).unwrap());
        assert_eq!((idle, between), (Duration::from_secs(15), Duration::from_secs(15)));
        assert_eq!(idle + between * sockopt::tcp_keepcnt(&stream).unwrap(), Duration::from_secs(60));
    }
}
