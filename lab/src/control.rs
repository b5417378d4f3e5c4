//! How the command line speaks with the daemon: a JSON line there and one back, over a Unix socket.

use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::accel::Accelerator;
use crate::error::{Error, Result};
use crate::faults::Rule;
use crate::net::Published;
use crate::settings::Shape;

/// A request to the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// What the lab is and what runs in it.
    Status,
    /// End the VMs and the daemon.
    Stop,
    /// Publish a port.
    Publish(Published),
    /// Stop publishing a port.
    Unpublish {
        /// Where the machine listens.
        listen: SocketAddr,
    },
    /// Add a fault rule.
    AddFault(Rule),
    /// Add the rules of a preset.
    AddPreset {
        /// Its name.
        name: String,
    },
    /// List the fault rules.
    ListFaults,
    /// Remove one fault rule, or all.
    ClearFaults {
        /// Which.
        id: Option<u64>,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Done.
    Done,
    /// The lab's state.
    Status(Status),
    /// The publication as it stands.
    Published(Published),
    /// The fault rules concerned.
    Faults {
        /// The rules.
        rules: Vec<Rule>,
    },
    /// It could not be done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What a lab is and what runs in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// vCenter or ESXi.
    pub shape: Shape,
    /// The API's URL on the machine.
    pub url: String,
    /// The API's URL inside the lab's networks.
    pub inner_url: String,
    /// The certificate's SHA-1 thumbprint.
    pub thumbprint: String,
    /// How guests are run.
    pub accelerator: Accelerator,
    /// The network namespace.
    pub namespace: String,
    /// The daemon's process id.
    pub pid: u32,
    /// The VMs.
    pub vms: Vec<VmStatus>,
    /// Published ports.
    pub published: Vec<Published>,
}

/// One VM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VmStatus {
    /// Managed object id.
    pub id: String,
    /// Name.
    pub name: String,
    /// `poweredOn` or `poweredOff`.
    pub power: String,
    /// The guest's address.
    pub address: Option<String>,
}

/// Asks the daemon behind `socket`; `None` when there is no daemon, or one that ends without an answer.
///
/// # Errors
/// When the daemon refuses or does not speak.
pub(crate) async fn ask(socket: &Path, request: &Request) -> Result<Option<Answer>> {
    let mut stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(e) => return Err(Error::file("connect to", socket)(e)),
    };
    let document = |reason: String| Error::Document { path: socket.into(), reason };
    let mut line = serde_json::to_string(request).map_err(|e| document(e.to_string()))?;
    line.push('\n');
    let mut answer = String::new();
    let exchange = async {
        stream.write_all(line.as_bytes()).await?;
        BufReader::new(stream).read_line(&mut answer).await
    };
    match exchange.await {
        Ok(0) => return Ok(None),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => {
            return Ok(None);
        }
        other => other.map_err(Error::file("speak through", socket))?,
    };
    match serde_json::from_str(&answer).map_err(|e| document(e.to_string()))? {
        Answer::Refused { reason } => Err(Error::Refused(reason)),
        other => Ok(Some(other)),
    }
}

/// Serves one connection.
///
/// # Errors
/// When the peer goes away.
pub(crate) async fn serve<F: Future<Output = Answer>>(
    stream: UnixStream,
    handle: impl FnOnce(Request) -> F,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => handle(request).await,
        Err(e) => Answer::Refused { reason: format!("not a request: {e}") },
    };
    let mut text = serde_json::to_string(&answer).map_err(std::io::Error::other)?;
    text.push('\n');
    stream.get_mut().write_all(text.as_bytes()).await
}
