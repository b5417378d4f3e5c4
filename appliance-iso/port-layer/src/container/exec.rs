//! `docker exec`: further processes in a container.
//!
//! ```text
//! Created -- start --> Running -- it ends, or the container does --> Ended      Created -- it cannot be run --> Ended
//! ```
//! They live in the guest and are remembered here: an endpoint VM that was started again knows nothing of them, as a Docker
//! daemon does not.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::stream;
use tether_proto::control::{
    ExecReply, ExecRequest, ExecStart, ExecStateReply, ExecStateRequest, exec_reply, exec_request,
};
use tether_proto::record::{Record, Stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Streaming};

use super::attach::{answered, record};
use super::events::History;
use super::phase::VANISHED;
use super::reconciler::Watched;
use super::table::Table;
use crate::control::{Line, Switchboard};

/// So many pieces of output or input wait for a slow client, or a slow process.
const QUEUE: usize = 16;
/// Pause between two questions after a process whose line broke.
const LOOK: Duration = Duration::from_secs(1);
/// Exit code of one that has ended well and whose output is lost: Docker's for what failed on its own side, and no process that was
/// killed has it, for there is no signal 0.
const LOST: i32 = 128;
/// So long one that has ended is remembered: Docker's.
const REMEMBERED: Duration = Duration::from_secs(300);

/// What is to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=VALUE`, the container's own among them.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// `USER[:GROUP]`; empty means root.
    pub user: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it has standard input.
    pub stdin: bool,
    /// Which of its streams a client wants: what the client says to whoever inspects it.
    pub attach: [bool; 2],
    /// The keys with which its client lets go, in Docker's notation; empty for Docker's own.
    pub detach_keys: String,
}

/// A further process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The container's id.
    pub container: String,
    /// What is run.
    pub spec: ExecSpec,
    /// Where it stands.
    pub state: ExecState,
}

/// Where a further process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecState {
    /// It was not started yet.
    Created,
    /// It runs.
    Running {
        /// Its process id in the container's VM.
        pid: u32,
    },
    /// It has ended, or could not be run.
    Ended {
        /// Docker's exit code.
        code: i32,
    },
}

/// What the client of a further process is given.
#[derive(Debug)]
pub struct ExecStreams {
    /// Output; its end is the process's.
    pub output: mpsc::Receiver<Record>,
    /// Input; dropping it is the end of it.
    pub input: mpsc::Sender<Vec<u8>>,
}

/// Further processes; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Execs(Arc<Mutex<HashMap<String, Known>>>);

#[derive(Debug)]
struct Known {
    exec: Exec,
    ended: Option<Instant>,
    /// Somebody starts it.
    taken: bool,
}

/// Why one cannot be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// There is none of that id.
    None,
    /// It was started already.
    Again,
}

impl Execs {
    pub(crate) fn add(&self, exec: Exec) {
        let mut all = self.lock();
        all.retain(|_, known| known.ended.is_none_or(|at| at.elapsed() < REMEMBERED));
        all.insert(exec.id.clone(), Known { exec, ended: None, taken: false });
    }

    pub(crate) fn find(&self, id: &str) -> Option<Exec> {
        self.lock().get(id).map(|known| known.exec.clone())
    }

    /// Those of a container that have not ended.  The others can still be asked for by id, as with Docker; a client asks for the
    /// container before each of its execs, and would be given all that there were.
    pub(crate) fn of(&self, container: &str) -> Vec<String> {
        let all = self.lock();
        let of = |k: &&Known| k.exec.container == container && !matches!(k.exec.state, ExecState::Ended { .. });
        let mut ids: Vec<_> = all.values().filter(of).map(|k| k.exec.id.clone()).collect();
        ids.sort();
        ids
    }

    /// Takes one to start it: it can be started once.
    pub(crate) fn take(&self, id: &str) -> Result<Exec, Start> {
        let mut all = self.lock();
        let known = all.get_mut(id).ok_or(Start::None)?;
        if known.taken {
            return Err(Start::Again);
        }
        known.taken = true;
        Ok(known.exec.clone())
    }

    /// It could not even be tried.
    pub(crate) fn give_back(&self, id: &str) {
        if let Some(known) = self.lock().get_mut(id) {
            known.taken = false;
        }
    }

    pub(crate) fn set(&self, id: &str, state: ExecState) {
        if let Some(known) = self.lock().get_mut(id) {
            known.exec.state = state;
            if matches!(state, ExecState::Ended { .. }) {
                known.ended = Some(Instant::now());
            }
        }
    }

    /// Forgets those of a container that is gone.
    pub(crate) fn forget(&self, container: &str) {
        self.lock().retain(|_, known| known.exec.container != container);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process that is being started: what it has said first, and what it will say.
pub(crate) struct Started {
    pub(crate) first: exec_reply::What,
    pub(crate) streams: ExecStreams,
    replies: Streaming<ExecReply>,
    output: mpsc::Sender<Record>,
}

/// Starts `exec` on `line`; `size` is its terminal's.
pub(crate) async fn start(line: &Line, exec: &Exec, size: (u32, u32)) -> Result<Started, tonic::Status> {
    let ExecSpec { args, env, cwd, user, tty, stdin, .. } = exec.spec.clone();
    let (width, height) = size;
    let start = ExecStart { id: exec.id.clone(), args, env, cwd, user, tty, stdin, width, height };
    let mut first = Some(exec_request::What::Start(start));
    let (input, mut pieces) = mpsc::channel::<Vec<u8>>(QUEUE);
    let requests = stream::poll_fn(move |context| {
        let what = match first.take() {
            Some(what) => Some(what),
            None => match pieces.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => piece.map(exec_request::What::Stdin),
            },
        };
        Poll::Ready(what.map(|what| ExecRequest { what: Some(what) }))
    });
    let mut client = line.client();
    let mut replies = answered(client.exec(requests)).await?;
    let broken = || tonic::Status::unavailable("the container's guest said nothing");
    let first = replies.message().await?.and_then(|reply| reply.what).ok_or_else(broken)?;
    let (output, receiver) = mpsc::channel(QUEUE);
    Ok(Started { first, streams: ExecStreams { output: receiver, input }, replies, output })
}

impl Started {
    /// The streams for the client, and what is left to be seen through.
    pub(crate) fn split(self) -> (ExecStreams, Rest) {
        (self.streams, Rest { replies: self.replies, output: self.output })
    }
}

/// What a process will say.
pub(crate) struct Rest {
    replies: Streaming<ExecReply>,
    output: mpsc::Sender<Record>,
}

impl Rest {
    /// What it will say, for who wants no streams.
    pub(crate) fn replies(self) -> Streaming<ExecReply> {
        self.replies
    }
}

/// Sees a process through to its end; returns its exit code.  Its client asks for that when the output ends, so `rest` is to be let
/// go of when the code can be asked for.
pub(crate) async fn see_through(
    rest: &mut Rest,
    exec: &Exec,
    watched: &Watched,
    switchboard: &Switchboard,
    history: &History,
) -> i32 {
    let Rest { replies, output } = rest;
    let over = async {
        // While vSphere is not watched nobody knows, and the line goes on.
        if watched.until(|table| is_over(table, exec).then_some(())).await.is_err() {
            pending::<()>().await;
        }
    };
    let told = async {
        let mut given = 0;
        let why = loop {
            match replies.message().await {
                Ok(Some(reply)) => match reply.what {
                    Some(exec_reply::What::Output(piece)) => {
                        given += piece.bytes.len() as u64;
                        // A client that has gone wants no more of it.
                        drop(output.send(record(piece)).await);
                    }
                    Some(exec_reply::What::Exited(exited)) => return exited.code,
                    Some(exec_reply::What::Failed(failed)) => return failed.code,
                    Some(exec_reply::What::Started(_)) | None => {}
                },
                Ok(None) => break "its guest said no more".to_owned(),
                Err(status) => break status.message().to_owned(),
            }
        };
        // The line broke under it, and it lives on; what it says goes nowhere.
        let Some((code, all)) = asked(exec, switchboard, history).await else { return VANISHED };
        let listens = !output.is_closed() && exec.spec.attach != [false; 2];
        if !listens || all.is_some_and(|all| given >= all) {
            return code;
        }
        let _ = output.send(lost(exec, &why, code, all.map(|all| all - given))).await;
        if code == 0 { LOST } else { code }
    };
    tokio::select! {
        code = told => code,
        // Its container's end is its own; the guest says so, if it still can.
        () = async { over.await; sleep(LOOK).await } => VANISHED,
    }
}

/// What the client of a process is told whose output has not come whole: `bytes` are missing, if it is known how many.
fn lost(exec: &Exec, why: &str, code: i32, bytes: Option<u64>) -> Record {
    let Exec { container, spec, .. } = exec;
    let program = spec.args.first().map_or("", String::as_str);
    let missing = bytes.map_or_else(|| "output of it".to_owned(), |bytes| format!("{bytes} bytes of its output"));
    // A terminal has one stream, and wants to be told to begin the line.
    let (stream, end) = if spec.tty { (Stream::Stdout, "\r\n") } else { (Stream::Stderr, "\n") };
    let text = format!(
        "the connection to the guest of container {container:.12} broke while {program} ran ({why}), and {missing} may be lost: \
         it ended with exit code {code}, run it again to have the whole{end}"
    );
    Record { stream, time_ns: 0, bytes: text.into_bytes() }
}

/// Whether a process's container is over, and it with it.
fn is_over(table: &Table, exec: &Exec) -> bool {
    table.find(&exec.container).map_or(true, |container| !container.phase().is_alive())
}

/// Asks after a process until it has ended: its exit code, and how many bytes of output it had, which an older guest does not tell.
/// None when it went with its container.
async fn asked(exec: &Exec, switchboard: &Switchboard, history: &History) -> Option<(i32, Option<u64>)> {
    loop {
        if let Ok(line) = timeout(LOOK, switchboard.line(&exec.container)).await {
            match answered(line.client().exec_state(ExecStateRequest { id: exec.id.clone() })).await {
                Ok(ExecStateReply { code: Some(code), output_bytes, .. }) => return Some((code, output_bytes)),
                // Another run of the container, or a guest that does not know the question.
                Err(status) if [Code::NotFound, Code::Unimplemented].contains(&status.code()) => return None,
                _ => sleep(LOOK).await,
            }
        }
        // The engine that started it may be over, and its watch: the next one sees the container, or that it is gone.
        if history.look(|table| table.is_some_and(|table| is_over(table, exec))) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use secret::Secret;
    use tempfile::TempDir;
    use tether_proto::{Control, Run, State};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;
    use tokio::task::JoinHandle;

    use super::super::phase::Power;
    use super::super::restart::{Policy, Restarts};
    use super::super::table::Container;
    use super::*;
    use crate::contained::{Contained, LIMIT, contain};
    use crate::control::Guests;

    /// The connections between the two, which can be cut.
    #[derive(Clone, Default)]
    struct Wires(Arc<Mutex<Vec<JoinHandle<()>>>>);

    impl Wires {
        /// Those to a port, and the port that they are connected by.
        async fn before(behind: u16) -> (Self, u16) {
            let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let wires = Self::default();
            let kept = wires.clone();
            tokio::spawn(async move {
                while let Ok((mut near, _)) = listener.accept().await {
                    let wire = tokio::spawn(async move {
                        let Ok(mut far) = TcpStream::connect((Ipv6Addr::LOCALHOST, behind)).await else { return };
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    });
                    kept.0.lock().unwrap().push(wire);
                }
            });
            (wires, port)
        }

        /// Nothing comes through any more that was not through.
        async fn cut(&self) {
            let wires = std::mem::take(&mut *self.0.lock().unwrap());
            for wire in wires {
                wire.abort();
                let _ = wire.await;
            }
        }
    }

    /// The endpoint VM's end, and a container that runs until it is told to end.
    struct Stage {
        switchboard: Switchboard,
        wires: Wires,
        /// Whether the container may call.
        may_call: Arc<AtomicBool>,
        history: History,
        /// What the engine has of vSphere; none when it is over.
        table: Option<watch::Sender<Arc<Table>>>,
        watched: Watched,
        folder: TempDir,
        container: Contained,
    }

    impl Stage {
        async fn up() -> Self {
            let may_call = Arc::new(AtomicBool::new(true));
            let judge = Arc::clone(&may_call);
            let key = Secret::new(rcgen::KeyPair::generate().unwrap().serialize_pem());
            let guests = Guests::new("v", &key, Ipv6Addr::LOCALHOST, move |_, _| judge.load(Ordering::SeqCst)).unwrap();
            let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
            let (wires, port) = Wires::before(listener.local_addr().unwrap().port()).await;
            tokio::spawn(guests.switchboard.clone().serve(listener));
            let folder = tempfile::tempdir().unwrap();
            let control = Control { port, ..guests.way_for("c1").unwrap() };
            let container = contain("c1", control, &until(&folder.path().join("end"), "exit 0"), |_| {});
            let mut table = Table::default();
            table.observe(running("c1"));
            let history = History::default();
            history.telling().saw(table.clone());
            let (sender, receiver) = watch::channel(Arc::new(table));
            let (table, watched) = (Some(sender), Watched::of(receiver));
            Self { switchboard: guests.switchboard, wires, may_call, history, table, watched, folder, container }
        }

        /// Starts `script` as a further process, when the container's own runs.
        async fn start(&self, id: &str, script: &str) -> (Exec, ExecStreams, Rest) {
            let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
            let spec = ExecSpec { args, attach: [true; 2], ..ExecSpec::default() };
            let exec = Exec { id: id.to_owned(), container: "c1".to_owned(), spec, state: ExecState::Created };
            let started = async {
                loop {
                    let line = self.switchboard.line("c1").await;
                    if let Ok(started) = start(&line, &exec, (0, 0)).await {
                        return started;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let (streams, rest) = timeout(LIMIT, started).await.expect("it starts").split();
            (exec, streams, rest)
        }

        async fn code(&self, mut rest: Rest, exec: &Exec) -> i32 {
            let code = see_through(&mut rest, exec, &self.watched, &self.switchboard, &self.history);
            timeout(LIMIT, code).await.expect("it ends")
        }

        /// A process whose line breaks when it has said `one`, and that does `then` on the next one: its exit code, and what its
        /// client has of its output.
        async fn cut_off(&self, id: &str, then: &str, listens: bool) -> (i32, String, String) {
            let go = self.folder.path().join(id);
            let (exec, streams, rest) = self.start(id, &format!("echo one; {}", until(&go, then))).await;
            let client = async {
                let mut output = streams.output;
                let mut said = [String::new(), String::new()];
                let mut cut = false;
                while let Some(record) = output.recv().await {
                    said[usize::from(record.stream == Stream::Stderr)] += &String::from_utf8(record.bytes).unwrap();
                    if !cut {
                        cut = true;
                        self.wires.cut().await;
                        std::fs::write(&go, "").unwrap();
                    }
                    if !listens {
                        break;
                    }
                }
                said
            };
            let (code, [out, err]) = tokio::join!(self.code(rest, &exec), client);
            (code, out, err)
        }

        async fn down(self) {
            std::fs::write(self.folder.path().join("end"), "").unwrap();
            assert_eq!(self.container.exit_code().await, 0);
        }
    }

    /// A script that does something when there is a file.
    fn until(file: &Path, then: &str) -> String {
        format!("while [ ! -e {} ]; do sleep 0.05; done; {then}", file.display())
    }

    fn running(id: &str) -> Container {
        Container {
            vm: "vm-1".into(),
            files: None,
            named: None,
            record: super::super::record::Record::sample(id, "one"),
            power: Power::On,
            run: Some(Run { state: State::Running, started_ns: Some(1), ..Run::new(id) }),
            host: String::new(),
            mac: String::new(),
            policy: Policy::No,
            restarts: Restarts::default(),
            question: None,
            lost: false,
            removing: false,
        }
    }

    #[tokio::test]
    async fn output_that_is_lost_with_the_line_is_told_and_is_no_success() {
        let stage = Stage::up().await;
        let whole = (0, "one\n".to_owned(), String::new());
        assert_eq!(stage.cut_off("e1", "exit 0", true).await, whole, "nothing is lost");
        let told = |code: i32| format!("may be lost: it ended with exit code {code}, run it again to have the whole\n");
        for (id, own, code) in [("e2", 0, LOST), ("e3", 3, 3)] {
            let (ended, out, err) = stage.cut_off(id, &format!("echo two; exit {own}"), true).await;
            assert_eq!((ended, out.as_str()), (code, "one\n"), "{err}");
            assert!(err.contains("4 bytes of its output") && err.ends_with(&told(own)), "{err}");
        }
        assert_eq!(stage.cut_off("e4", "echo two; exit 0", false).await, whole, "nobody wants it");
        stage.down().await;
    }

    #[tokio::test]
    async fn a_process_ends_with_its_container_although_its_engine_is_over() {
        let mut stage = Stage::up().await;
        let (exec, _streams, rest) = stage.start("e1", "echo one; sleep 2").await;
        // vSphere is lost, and what the next engine sees is that the container is gone.
        stage.table = None;
        stage.history.telling().saw(Table::default());
        stage.may_call.store(false, Ordering::SeqCst);
        stage.wires.cut().await;
        assert_eq!(stage.code(rest, &exec).await, VANISHED);
        stage.down().await;
    }
}
