//! QMP: how the lab speaks with a running QEMU.
//!
//! One reader task per connection hands answers to whoever waits for them and events to the VM's task.  The connection
//! ends with the process; the event channel then closes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};

/// How long QEMU may take over one command.
const PATIENCE: Duration = Duration::from_secs(20);

/// Something that QEMU says by itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// `SHUTDOWN`, `RESET`, `DEVICE_DELETED`, ...
    pub name: String,
    /// Its particulars.
    pub data: Value,
}

type Answer = Result<Value, String>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connection to one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    vm: String,
    write: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: AtomicU64,
}

impl Qmp {
    /// Connects to the socket of the QEMU of `vm` and leaves its negotiation mode.
    ///
    /// # Errors
    /// When nobody listens there, or it does not speak QMP.
    pub(crate) async fn connect(vm: &str, socket: &Path) -> Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        let stream = UnixStream::connect(socket).await.map_err(Error::file("connect to", socket))?;
        let (read, write) = stream.into_split();
        let waiting = Waiting::default();
        let (events, inbox) = mpsc::unbounded_channel();
        let shared = waiting.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                dispatch(&line, &shared, &events);
            }
            // Whoever still waits learns that no answer will come.
            lock(&shared).clear();
        });
        let qmp = Self { vm: vm.into(), write: tokio::sync::Mutex::new(write), waiting, next: AtomicU64::new(1) };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok((qmp, inbox))
    }

    /// Executes a command and gives what it returns.
    ///
    /// # Errors
    /// [`Error::Qmp`] when QEMU refuses, [`Error::Gone`] when it does not answer.
    pub(crate) async fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let gone = |reason: &str| Error::Gone { vm: self.vm.clone(), reason: format!("{command}: {reason}") };
        let exchange = async {
            self.write.lock().await.write_all(line.as_bytes()).await.map_err(|e| gone(&e.to_string()))?;
            answer.await.map_err(|_| gone("the connection ended"))
        };
        let outcome = tokio::time::timeout(PATIENCE, exchange).await;
        lock(&self.waiting).remove(&id);
        outcome.map_err(|_| gone("no answer"))??.map_err(|reason| Error::Qmp { command: command.into(), reason })
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dispatch(line: &str, waiting: &Waiting, events: &mpsc::UnboundedSender<Event>) {
    let Ok(mut message) = serde_json::from_str::<Value>(line) else { return };
    if let Some(name) = message["event"].as_str() {
        let _ = events.send(Event { name: name.into(), data: message["data"].clone() });
        return;
    }
    let Some(sender) = message["id"].as_u64().and_then(|id| lock(waiting).remove(&id)) else { return };
    let answer = match message.get("error") {
        Some(error) => Err(error["desc"].as_str().unwrap_or("no reason given").into()),
        None => Ok(message["return"].take()),
    };
    let _ = sender.send(answer);
}
