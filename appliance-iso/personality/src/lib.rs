//! The Docker Engine API of a VCH.
//!
//! ```text
//! TCP -> limits -> TLS -> HTTP/1.1 -> version prefix -> router -> handlers
//! /run/vic/personality.sock ----------^   (init asks there whether the API answers)
//! ```
//! The listener is as the VCH's configuration says: mutual TLS, server-only TLS, or plain HTTP.  The socket is bound after
//! the listener, so that an answer on it means that clients are served.

mod api;
mod error;
mod machine;
mod multiplex;
mod reach;
mod server;
mod tls;
mod version;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
};
use vch_config::{Document, VchConfig, VchSecrets};

pub use api::App;
pub use reach::Reach;
pub use server::{Limits, serve_tcp, serve_unix};
pub use tls::{TlsError, acceptor};

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("usage: personality --config-dir DIR")]
    Usage,
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Document(#[from] vch_config::DocumentError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen on {place}")]
    Listen { place: String, source: std::io::Error },
    #[error("cannot start the event loop")]
    Runtime(#[source] std::io::Error),
}

/// Serves the API until the process is told to end; `arguments` are those after the service's name.
pub fn main(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let Err(error) = run(arguments) else { return ExitCode::SUCCESS };
    let mut text = format!("the Docker API cannot be served: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    // Init keeps the last line of a service that ends.
    port_layer::say(&text);
    ExitCode::FAILURE
}

fn run(arguments: impl IntoIterator<Item = String>) -> Result<(), StartError> {
    let arguments: Vec<String> = arguments.into_iter().collect();
    let [flag, folder] = arguments.as_slice() else { return Err(StartError::Usage) };
    if flag != "--config-dir" {
        return Err(StartError::Usage);
    }
    let folder = Path::new(folder);
    let config: VchConfig = document(&folder.join("config.json"))?;
    let secrets: VchSecrets = document(&folder.join("secrets.json"))?;
    let tls = acceptor(&config.api.tls, &secrets.server_key_pem)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Runtime)?;
    runtime.block_on(async {
        let address = SocketAddr::from(([0, 0, 0, 0], config.api.port));
        let listen = |place: String| move |source| StartError::Listen { place, source };
        let tcp = TcpListener::bind(address).await.map_err(listen(address.to_string()))?;
        let mut told = signal(SignalKind::terminate()).map_err(StartError::Runtime)?;
        let end = async move {
            told.recv().await;
        };
        let proxies = secrets.proxies.clone();
        let (reach, kept) = Reach::keep(config.clone(), secrets, end);
        let app = App::new(config, proxies, env!("CARGO_PKG_VERSION"), reach);
        let socket = folder.join("personality.sock");
        // Left by the process before; binding needs a free name.
        let _ = std::fs::remove_file(&socket);
        let unix = UnixListener::bind(&socket).map_err(listen(socket.display().to_string()))?;
        tokio::spawn(serve_unix(unix, app.clone()));
        tokio::select! {
            never = serve_tcp(tcp, tls, app, Limits::default()) => match never {},
            _ = kept => Ok(()),
        }
    })
}

fn document<T: Document>(path: &Path) -> Result<T, StartError> {
    let text = std::fs::read_to_string(path).map_err(|source| StartError::Read { path: path.into(), source })?;
    Ok(T::from_text(&text)?)
}
