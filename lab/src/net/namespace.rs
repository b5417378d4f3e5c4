//! The lab's network namespace, and a thread that lives in it.
//!
//! The daemon itself stays in the machine's namespace.  Whatever must happen inside (making a socket, starting a
//! process) is sent as a closure to one thread that has entered the namespace for good: sockets and processes keep the
//! namespace they were made in, whoever uses them afterwards.

use std::fs::File;
use std::path::PathBuf;
use std::sync::mpsc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::process;

type Job = Box<dyn FnOnce() + Send>;

/// A named network namespace with a thread inside.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    jobs: mpsc::Sender<Job>,
}

/// Where `ip netns` keeps the namespace `name`.
fn handle(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Moves the calling thread into the namespace `name`, for good.
///
/// # Errors
/// When there is no such namespace or the caller may not enter it.
pub(crate) fn enter(name: &str) -> Result<()> {
    let path = handle(name);
    let file = File::open(&path).map_err(Error::file("open the network namespace", &path))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| Error::system(format!("enter the network namespace {name}"))(e.into()))
}

impl Namespace {
    /// Opens the namespace `name`, making it where it is missing.
    ///
    /// # Errors
    /// When not root, or when `ip netns` fails.
    pub(crate) fn open(name: &str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::Refused(
                "the lab's networks need root: run it with sudo (a user namespace instead is not supported yet)".into(),
            ));
        }
        if !handle(name).exists() {
            process::run("ip", &["netns", "add", name], "make its network namespace")?;
        }
        process::run("ip", &["-n", name, "link", "set", "lo", "up"], "bring up its loopback")?;
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, entered) = mpsc::channel();
        let inside = name.to_owned();
        std::thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                let outcome = enter(&inside);
                let go = outcome.is_ok();
                let _ = ready.send(outcome);
                if go {
                    while let Ok(job) = inbox.recv() {
                        job();
                    }
                }
            })
            .map_err(Error::system("start a thread"))?;
        entered.recv().map_err(|_| Error::Refused("the network namespace's thread died".into()))??;
        Ok(Self { name: name.into(), jobs })
    }

    /// A stand-in that no namespace is behind, for tests of what does not reach it.
    #[cfg(test)]
    pub(crate) fn absent() -> Self {
        Self { name: "none".into(), jobs: mpsc::channel().0 }
    }

    /// The name that `ip netns` knows it by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `job` inside.  Jobs run one after the other and must be short.
    ///
    /// # Errors
    /// Those of the job.
    pub(crate) async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let (answer, outcome) = oneshot::channel();
        let dead = || Error::Refused("the network namespace's thread died".into());
        self.jobs
            .send(Box::new(move || {
                let _ = answer.send(job());
            }))
            .map_err(|_| dead())?;
        outcome.await.map_err(|_| dead())?
    }

    /// A TCP listener inside.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) async fn listen(&self, address: std::net::SocketAddr) -> Result<tokio::net::TcpListener> {
        let what = format!("listen on {address} inside the lab");
        let listener = self
            .run(move || {
                let listener = std::net::TcpListener::bind(address).map_err(Error::system(what))?;
                listener.set_nonblocking(true).map_err(Error::system("make a socket non-blocking"))?;
                Ok(listener)
            })
            .await?;
        tokio::net::TcpListener::from_std(listener).map_err(Error::system("watch a socket"))
    }

    /// A TCP connection from inside.
    ///
    /// # Errors
    /// When the peer does not answer.
    pub(crate) async fn connect(&self, peer: std::net::SocketAddr) -> Result<tokio::net::TcpStream> {
        let socket = self
            .run(move || {
                let socket =
                    if peer.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
                socket.map_err(Error::system("make a socket"))
            })
            .await?;
        socket.connect(peer).await.map_err(Error::system(format!("connect to {peer} inside the lab")))
    }
}

/// Removes the namespace `name` with all that is in it; one that is not there is fine.
///
/// # Errors
/// When `ip netns` fails.
pub(crate) fn remove(name: &str) -> Result<()> {
    if !handle(name).exists() {
        return Ok(());
    }
    process::run("ip", &["netns", "delete", name], "remove its network namespace").map(|_| ())
}
