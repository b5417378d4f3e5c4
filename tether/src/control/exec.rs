//! Further processes in the container: `docker exec`, and health checks.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::Read,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::unistd::Pid;
use pid1::Ending;
use tether_proto::{
    Process,
    control::{
        ExecExited, ExecFailed, ExecReply, ExecStart, ExecStarted, ExecStateReply, MAX_BYTES, Output, Stream,
        exec_reply::What,
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{
    contain::exit_code,
    input::{self, Input},
    output::now_ns,
    process::{self, NoProcess, Place, Started},
};

/// So many replies wait for a slow client; then the process does, as it does with Docker.
const WAITING: usize = 16;
/// What a process has left behind may hold its streams; Docker waits so long for them.
const STREAMS: Duration = Duration::from_secs(2);
/// What two pipes hold: so many bytes may be unread when a process has ended.
const PIPES: usize = 2 * 64 * 1024;
/// So many ended processes are remembered.
const REMEMBERED: usize = 256;

/// Further processes; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Execs(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<String, Exec>,
    ended: VecDeque<String>,
}

#[derive(Debug)]
struct Exec {
    pid: u32,
    code: Option<i32>,
    /// Bytes of output that were to be sent before its end was told.
    output_bytes: Option<u64>,
    terminal: Option<Arc<File>>,
}

/// A process that was started for a client.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) replies: mpsc::Receiver<ExecReply>,
    pub(crate) input: Option<Input>,
}

impl Execs {
    /// Starts one.  A program that cannot be run is told in the replies.
    pub(crate) fn start(&self, wanted: ExecStart, place: &Place) -> Running {
        let ExecStart { id, args, env, cwd, user, tty, stdin, width, height } = wanted;
        let process = Process { args, env, cwd, user, tty, stdin, ..Process::default() };
        let (sender, replies) = mpsc::channel(WAITING);
        let mut started = match process::start_further(&process, place, |terminal| set_size(terminal, width, height)) {
            Ok(started) => started,
            Err(NoProcess { code, error }) => {
                let _ = sender.try_send(reply(What::Failed(ExecFailed { code, error })));
                return Running { replies, input: None };
            }
        };
        let pid = u32::try_from(started.pid.as_raw()).unwrap_or_default();
        let terminal = started.streams.terminal.take().map(Arc::new);
        self.lock().by_id.insert(id.clone(), Exec { pid, code: None, output_bytes: None, terminal });
        let input = started.streams.input.take().map(input::into);
        // The queue is new: there is room.
        let _ = sender.try_send(reply(What::Started(ExecStarted { pid })));
        tokio::spawn(self.clone().see_through(id, started, sender));
        Running { replies, input }
    }

    /// Carries its output, and tells its end last.
    async fn see_through(self, id: String, started: Started, replies: mpsc::Sender<ExecReply>) {
        // Never used to send: it is dropped with the last of the threads.
        let (open, mut closed) = mpsc::channel::<()>(1);
        let carried = Arc::new(Carried::default());
        for (stream, source) in started.streams.outputs {
            carry(Stream::from(stream), source, replies.clone(), open.clone(), Arc::clone(&carried));
        }
        drop(open);
        let code = ended(started.ended).await;
        let written = carried.bytes.load(Ordering::SeqCst) + PIPES;
        while timeout(STREAMS, closed.recv()).await.is_err() {
            // A client that takes its time has all that the process has written, but not what others write after it.
            let more = carried.waiting.load(Ordering::SeqCst) > 0 && carried.bytes.load(Ordering::SeqCst) <= written;
            if !more {
                break;
            }
        }
        self.remember(&id, code, carried.bytes.load(Ordering::SeqCst));
        let _ = replies.send(reply(What::Exited(ExecExited { code }))).await;
    }

    fn remember(&self, id: &str, code: i32, output_bytes: usize) {
        let mut inner = self.lock();
        if let Some(exec) = inner.by_id.get_mut(id) {
            exec.code = Some(code);
            exec.output_bytes = u64::try_from(output_bytes).ok();
            exec.terminal = None;
        }
        inner.ended.push_back(id.to_owned());
        if inner.ended.len() > REMEMBERED
            && let Some(oldest) = inner.ended.pop_front()
        {
            inner.by_id.remove(&oldest);
        }
    }

    /// What became of one; none when there was none.
    pub(crate) fn state(&self, id: &str) -> Option<ExecStateReply> {
        let inner = self.lock();
        let Exec { pid, code, output_bytes, .. } = inner.by_id.get(id)?;
        Some(ExecStateReply { pid: *pid, code: *code, output_bytes: *output_bytes })
    }

    /// The process id of one that runs.
    pub(crate) fn running(&self, id: &str) -> Option<Pid> {
        let inner = self.lock();
        let exec = inner.by_id.get(id).filter(|exec| exec.code.is_none())?;
        i32::try_from(exec.pid).ok().map(Pid::from_raw)
    }

    /// The terminal of one.
    pub(crate) fn terminal(&self, id: &str) -> Option<Arc<File>> {
        self.lock().by_id.get(id)?.terminal.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ended(ended: oneshot::Receiver<Ending>) -> i32 {
    exit_code(ended.await.ok())
}

fn reply(what: What) -> ExecReply {
    ExecReply { what: Some(what) }
}

/// Tells a terminal its size, when it is known.
pub(crate) fn set_size(terminal: &File, width: u32, height: u32) {
    let side = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
    if width > 0
        && height > 0
        && let Err(error) = process::resize(terminal, side(width), side(height))
    {
        log::warn!("cannot resize a terminal: {error}");
    }
}

/// How the output of a process fares.
#[derive(Debug, Default)]
struct Carried {
    /// Bytes that were read.
    bytes: AtomicUsize,
    /// Streams whose piece waits for the client.
    waiting: AtomicUsize,
}

/// Reads `source` until its end, on a thread of its own; output that nobody takes is thrown away.
fn carry(
    stream: Stream,
    mut source: File,
    replies: mpsc::Sender<ExecReply>,
    open: mpsc::Sender<()>,
    carried: Arc<Carried>,
) {
    thread::spawn(move || {
        let mut bytes = vec![0; MAX_BYTES];
        loop {
            match source.read(&mut bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A terminal ends with EIO.
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    let output = Output { stream: stream.into(), time_ns: now_ns(), bytes: bytes[..count].to_vec() };
                    carried.bytes.fetch_add(count, Ordering::SeqCst);
                    carried.waiting.fetch_add(1, Ordering::SeqCst);
                    let _ = replies.blocking_send(reply(What::Output(output)));
                    carried.waiting.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
        drop(open);
    });
}
