//! Runs one service: starts it, watches whether it answers, keeps its last words, starts it again.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream, unix::process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use pid1::{Ending, Reaper};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use vch_config::{ServiceState, ServiceStatus};

use super::{policy::Policy, words::LastWords};
use crate::status::Board;

/// Pause between two looks at whether a service answers: while it starts, and afterwards.
const PROBE_STARTING: Duration = Duration::from_millis(50);
const PROBE_RUNNING: Duration = Duration::from_secs(5);
/// How long one look may take.
const PROBE_LIMIT: Duration = Duration::from_secs(3);
/// How long a service may take to end before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// One service.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// Its name in the status and in the log.
    pub(crate) name: &'static str,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// A socket that answers `GET /_ping` once the service does its work; `None` counts a running process as answering.
    pub(crate) answers_on: Option<PathBuf>,
}

/// Name of the Docker API's service.
pub(crate) const PERSONALITY: &str = "personality";

/// Runs one service until it is told to stop.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) service: Service,
    pub(crate) reaper: Reaper,
    pub(crate) board: Board,
    /// Turns true when services must stop.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Runner {
    /// Runs until stopped; returns once the process is gone.
    pub(crate) async fn run(mut self) {
        let mut policy = Policy::default();
        let mut words = LastWords::default();
        loop {
            let started = Instant::now();
            let report = |state, words: &LastWords| ServiceStatus {
                state,
                restarts: policy.restarts(),
                last_words: if state == ServiceState::Running { String::new() } else { words.text() },
            };
            self.board.service(self.service.name, report(ServiceState::Starting, &words));
            words = LastWords::default();
            let on_answer = report(ServiceState::Running, &words);
            let ending = self.once(&mut words, on_answer).await;
            if *self.stop.borrow() {
                return;
            }
            words.push(&ending);
            let verdict = policy.ended(started.elapsed());
            log::warn!("the service {} {ending}; starting it again in {:?}", self.service.name, verdict.delay);
            let status = ServiceStatus { state: verdict.state, restarts: policy.restarts(), last_words: words.text() };
            self.board.service(self.service.name, status);
            tokio::select! {
                () = sleep(verdict.delay) => {}
                () = told_to(&mut self.stop) => return,
            }
        }
    }

    /// One life of the process; returns how it ended.
    async fn once(&mut self, words: &mut LastWords, on_answer: ServiceStatus) -> String {
        let (pid, mut ended, output) = match self.start() {
            Ok(started) => started,
            Err(error) => return format!("cannot be started: {error}"),
        };
        let mut lines = BufReader::new(output).split(b'\n');
        let mut silent = false;
        let mut answering = false;
        let (board, service) = (self.board.clone(), self.service.clone());
        let probe = watch_answers(&service, |answers| {
            if answers != answering {
                answering = answers;
                let state = if answers { ServiceState::Running } else { ServiceState::Starting };
                board.service(service.name, ServiceStatus { state, ..on_answer.clone() });
            }
        });
        tokio::pin!(probe);
        loop {
            tokio::select! {
                // Output before the ending, so that the last words are complete.
                biased;
                line = lines.next_segment(), if !silent => match line {
                    Ok(Some(line)) => {
                        let line = String::from_utf8_lossy(&line);
                        words.push(&line);
                        pid1::console::line(&format!("{}: {line}", self.service.name));
                    }
                    _ => silent = true,
                },
                ending = &mut ended => return in_words(ending.ok()),
                () = told_to(&mut self.stop) => return stop(pid, &mut ended).await,
                () = &mut probe => {}
            }
        }
    }

    /// Starts the process in a group of its own, its output going to the returned stream.
    fn start(&self) -> std::io::Result<(Pid, tokio::sync::oneshot::Receiver<Ending>, UnixStream)> {
        let (program, arguments) =
            self.service.command.split_first().ok_or_else(|| std::io::Error::other("it has no command"))?;
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        let (pid, ended) = self.reaper.spawn(
            Command::new(program)
                .args(arguments)
                .env_clear()
                .env("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
                .stdin(Stdio::null())
                .stdout(Stdio::from(theirs.try_clone()?))
                .stderr(Stdio::from(theirs))
                .process_group(0),
        )?;
        Ok((pid, ended, UnixStream::from_std(ours)?))
    }
}

/// How a process ended; nothing is known only while init itself ends.
fn in_words(ending: Option<Ending>) -> String {
    ending.map_or_else(|| "ended".to_owned(), |ending| ending.to_string())
}

/// Waits until services must stop.
async fn told_to(stop: &mut watch::Receiver<bool>) {
    // An error means that init itself ends, which stops everything.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ends the process group: politely, then for good.
async fn stop(pid: Pid, ended: &mut tokio::sync::oneshot::Receiver<Ending>) -> String {
    let _ = killpg(pid, Signal::SIGTERM);
    if let Ok(ending) = timeout(STOP_LIMIT, &mut *ended).await {
        return in_words(ending.ok());
    }
    let _ = killpg(pid, Signal::SIGKILL);
    in_words(ended.await.ok())
}

/// Looks again and again whether the service answers; never returns.
async fn watch_answers(service: &Service, mut report: impl FnMut(bool)) {
    let mut pause = PROBE_STARTING;
    loop {
        let answers = match &service.answers_on {
            None => true,
            Some(socket) => matches!(timeout(PROBE_LIMIT, ping(socket)).await, Ok(Ok(true))),
        };
        if answers {
            pause = PROBE_RUNNING;
        }
        report(answers);
        sleep(pause).await;
    }
}

/// Whether the socket answers `GET /_ping` with 200.
async fn ping(socket: &std::path::Path) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: init\r\nConnection: close\r\n\r\n").await?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await?;
    Ok(&head == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::board;

    fn service(script: &str, answers_on: Option<PathBuf>) -> Service {
        Service { name: "test", command: ["/bin/sh", "-c", script].map(Into::into).to_vec(), answers_on }
    }

    async fn state(board: &Board, wanted: impl Fn(&ServiceStatus) -> bool) -> ServiceStatus {
        let mut watch = board.watch();
        let found =
            timeout(Duration::from_secs(20), watch.wait_for(|status| status.services.get("test").is_some_and(&wanted)))
                .await;
        match found {
            Ok(status) => status.unwrap().services["test"].clone(),
            Err(_) => panic!("the service is {:?}", board.watch().borrow().services),
        }
    }

    fn run(service: Service) -> (Board, watch::Sender<bool>, tokio::task::JoinHandle<()>) {
        let (reaper, board) = (Reaper::default(), board());
        tokio::spawn(reaper.clone().run());
        let (sender, stop) = watch::channel(false);
        let runner = Runner { service, reaper, board: board.clone(), stop };
        (board, sender, tokio::spawn(runner.run()))
    }

    #[tokio::test]
    async fn one_that_keeps_dying_is_failed_with_its_last_words() {
        let (board, _stop, _) = run(service("echo first; echo 'no such key' >&2; exit 7", None));
        let status = state(&board, |s| s.state == ServiceState::Failed).await;
        assert_eq!(status.last_words, "first\nno such key\nexited with code 7");
        assert_eq!(status.restarts, 5);
    }

    #[tokio::test]
    async fn one_that_is_killed_comes_back() {
        let (board, _stop, _) = run(service("sleep 0.3; kill -9 $$", None));
        state(&board, |s| s.state == ServiceState::Running && s.restarts == 0).await;
        let status = state(&board, |s| s.state == ServiceState::Waiting).await;
        assert!(status.last_words.contains("was killed by SIGKILL"), "{status:?}");
        state(&board, |s| s.state == ServiceState::Running && s.restarts == 1).await;
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_not_running_until_it_does() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let (board, _stop, _) = run(service("sleep 60", Some(socket.clone())));
        state(&board, |s| s.state == ServiceState::Starting).await;
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // A server that closes on an unread request resets the connection.
                let _ = stream.read(&mut [0; 256]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            }
        });
        state(&board, |s| s.state == ServiceState::Running).await;
    }

    #[tokio::test]
    async fn stopping_ends_the_whole_group() {
        let (board, stop, runner) = run(service("sleep 60 & sleep 60", None));
        state(&board, |s| s.state == ServiceState::Running).await;
        stop.send(true).unwrap();
        timeout(Duration::from_secs(20), runner).await.expect("the runner did not stop").unwrap();
    }
}
