//! One run of a container, from its configuration to its exit status.
//!
//! ```text
//! preparing: disks, mounts, files, host name, links -> running -> exited
//!        \------------------- failed <-- no process --/
//! ```
//! The run's document is written at each arrow; the last one is written before the machine ends, or not at all.

use std::{fs::File, path::Path, sync::Arc, time::Duration};

use guestinfo::{HostRequest, Keys};
use nix::unistd::Pid;
use pid1::{End, Ending, Reaper, System};
use tether_proto::{Container, Document, KEY_EXIT, Run, State, signal};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use crate::{
    control::{self, MainProcess, Service, StopRequest},
    feed::Feed,
    files,
    network::Links,
    output::{Output, now_ns},
    process::{self, Confinement, NoProcess, Place, Started},
    storage::{self, Places},
};

/// Time that a process has to end when the container names none: Docker's.
const STOP_SECONDS: u64 = 10;
/// How long the host may refuse the last word on the run.
const LAST_WORD: Duration = Duration::from_secs(60);
/// Pause before it is said again.
const RETRY: Duration = Duration::from_millis(500);

/// What a run happens in.
#[derive(Debug)]
pub struct Guest<S, K, L> {
    /// The kernel.
    pub system: S,
    /// The host's keys.
    pub keys: K,
    /// The network.
    pub links: L,
    /// Where things are.
    pub places: Places,
    /// What the process is confined to.
    pub confinement: Confinement,
    /// Starts and reaps.
    pub reaper: Reaper,
}

impl<S: System, K: Keys, L: Links> Guest<S, K, L> {
    /// Runs `container`, its output going to `port`; returns how the machine is to end.
    pub async fn contain(
        &self,
        container: &Container,
        port: File,
        requests: &mut mpsc::UnboundedReceiver<HostRequest>,
    ) -> End {
        let mut run = Run::new(&container.id);
        let mut end = End::PowerOff;
        let place = self.place(container);
        let (over, is_over) = watch::channel(false);
        let (stops, mut asked) = mpsc::unbounded_channel();
        let mut channel = None;
        let (_, prepared) = tokio::join!(self.tell(&run), self.prepare(container));
        match prepared.and_then(|()| process::start(&container.process, &place, |_| ())) {
            Err(NoProcess { code, error }) => {
                log::error!("{error}");
                run.state = State::Failed { code, error };
            }
            Ok(started) => {
                run.started_ns = Some(now_ns());
                run.state = State::Running;
                let feed = Feed::default();
                let output = Output::to(port, feed.clone());
                let killed_before = self.killed_for_memory();
                let Started { pid, mut ended, mut streams } = started;
                run.pid = u32::try_from(pid.as_raw()).ok();
                for (stream, source) in streams.outputs.drain(..) {
                    output.carry(stream, source);
                }
                let started_ns = run.started_ns.unwrap_or_default();
                let process = MainProcess::new(pid, started_ns, feed, &mut streams, container.process.stdin_once);
                let process = Arc::new(process);
                self.tell(&run).await;
                // Not before: its handshake is much work, and who has started the container waits for this word.
                let shared = Arc::new(container.clone());
                let service = Service::new(Arc::clone(&shared), place, Arc::clone(&process), stops);
                channel = Some(tokio::spawn(control::keep(shared, service, is_over)));
                let ending = tokio::select! {
                    ending = &mut ended => ending.ok(),
                    // A channel that has closed asks for nothing.
                    Some(request) = requests.recv() => {
                        if request == HostRequest::Reboot {
                            end = End::Reboot;
                        }
                        stop(container, pid, &mut ended, &StopRequest::default()).await
                    }
                    Some(request) = asked.recv() => stop(container, pid, &mut ended, &request).await,
                };
                process.has_ended();
                run.finished_ns = Some(now_ns());
                // What it has written may be long in coming to its disk, and who has asked it to end must not take it for deaf.
                self.tell(&run).await;
                // What the process has left behind ends with it, and with that the streams.
                self.system.kill_others();
                output.finish().await;
                let out_of_memory =
                    ending == Some(Ending::Killed(libc::SIGKILL)) && self.killed_for_memory() > killed_before;
                run.state = State::Exited { code: exit_code(ending), out_of_memory };
            }
        }
        if run.finished_ns.is_none() {
            run.finished_ns = Some(now_ns());
        }
        storage::unmount_disks(&self.system, container, &self.places);
        self.tell_last(&run).await;
        over.send_replace(true);
        if let Some(channel) = channel {
            let _ = channel.await;
        }
        end
    }

    async fn prepare(&self, container: &Container) -> Result<(), NoProcess> {
        let prepare = async {
            storage::mount_all(&self.system, container, &self.places).await?;
            for (at, text) in [
                ("/etc/hostname", format!("{}\n", container.host_name)),
                ("/etc/hosts", files::hosts(container)),
                ("/etc/resolv.conf", files::resolv_conf(&container.dns)),
            ] {
                storage::lay_over(&self.system, at, &text, &self.places)?;
            }
            if let Err(error) = storage::mark(&self.places) {
                // It is a mark, and no more: a full disk may have no room for it.
                log::warn!("{error}");
            }
            storage::close_root(&self.system, container, &self.places)?;
            if !container.host_name.is_empty() {
                self.system
                    .set_host_name(&container.host_name)
                    .map_err(|e| format!("cannot set the host name {:?}: {e}", container.host_name))?;
            }
            self.links.bring_up(&container.interfaces).await
        };
        prepare.await.map_err(|error: String| NoProcess { code: 128, error })
    }

    fn place(&self, container: &Container) -> Place {
        Place {
            root: self.places.root.clone(),
            host_name: container.host_name.clone(),
            confinement: self.confinement,
            reaper: self.reaper.clone(),
        }
    }

    /// Says how the run stands; when that does not work, a later word has it too.
    async fn tell(&self, run: &Run) -> bool {
        let (keys, text) = (self.keys.clone(), run.to_text());
        match spawn_blocking(move || keys.set(KEY_EXIT, &text)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                log::warn!("{error}");
                false
            }
            Err(_) => false,
        }
    }

    /// Says it until it is heard: nobody can afterwards.
    async fn tell_last(&self, run: &Run) {
        let start = Instant::now();
        while !self.tell(run).await && start.elapsed() < LAST_WORD {
            sleep(RETRY).await;
        }
    }

    /// How many processes the kernel has killed for want of memory.
    fn killed_for_memory(&self) -> u64 {
        killed_for_memory(&std::fs::read_to_string(Path::new("/proc/vmstat")).unwrap_or_default())
    }
}

fn killed_for_memory(vmstat: &str) -> u64 {
    vmstat.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

/// Docker's exit code; a process whose ending is not known counts as killed.
pub(crate) fn exit_code(ending: Option<Ending>) -> i32 {
    match ending {
        Some(Ending::Exited(code)) => code,
        Some(Ending::Killed(signal)) => 128 + signal,
        None => 128 + libc::SIGKILL,
    }
}

/// Asks the process to end, and kills it when it does not.
async fn stop(
    container: &Container,
    pid: Pid,
    ended: &mut tokio::sync::oneshot::Receiver<Ending>,
    request: &StopRequest,
) -> Option<Ending> {
    let process = &container.process;
    let signal = request.signal.or_else(|| signal::number(&process.stop_signal)).unwrap_or(libc::SIGTERM);
    send(pid, signal);
    let limit = Duration::from_secs(request.seconds.or(process.stop_seconds).unwrap_or(STOP_SECONDS));
    if let Ok(ending) = timeout(limit, &mut *ended).await {
        return ending.ok();
    }
    log::info!("the process did not end within {limit:?} of signal {signal}");
    send(pid, libc::SIGKILL);
    ended.await.ok()
}

/// Sends a signal by its number: real-time signals have no names in the libraries.
pub(crate) fn send(pid: Pid, signal: i32) {
    // SAFETY: it takes two numbers and touches no memory of ours.
    let _ = unsafe { libc::kill(pid.as_raw(), signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_dockers() {
        assert_eq!(exit_code(Some(Ending::Exited(3))), 3);
        assert_eq!(exit_code(Some(Ending::Killed(libc::SIGTERM))), 143);
        assert_eq!(exit_code(None), 137);
    }

    #[test]
    fn the_kernels_count_is_read() {
        assert_eq!(killed_for_memory("nr_free_pages 5\noom_kill 2\nx 1\n"), 2);
        assert_eq!(killed_for_memory(""), 0);
    }
}
