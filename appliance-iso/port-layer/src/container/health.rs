//! Health checks: a further process in the container, again and again, whose exit code says how it is.
//!
//! ```text
//! Starting -- 0 --> Healthy        Starting, Healthy -- `retries` failures one after the other --> Unhealthy -- 0 --> Healthy
//! ```
//! In the start period failures do not count.  The endpoint VM asks: one that was started again begins with Starting, and asks on.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tether_proto::control::{SignalExecRequest, exec_reply};
use tokio::time::{sleep, timeout};

use super::attach::answered;
use super::exec::{self, Exec, ExecSpec, ExecState};
use super::reconciler::Watched;
use super::table::{Container, Table};
use crate::control::{Line, Switchboard};

/// So many results are shown, as with Docker.
const SHOWN: usize = 5;
/// Bytes of a check's output that are shown.
const OUTPUT: usize = 4096;

/// How a container is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    args: Vec<String>,
    interval: Duration,
    timeout: Duration,
    retries: u32,
    start_period: Duration,
    start_interval: Duration,
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not known yet.
    Starting,
    /// The last check said so.
    Healthy,
    /// The last checks did not.
    Unhealthy,
}

/// One check's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// The check's exit code; -1 when it took too long or could not be asked.
    pub code: i32,
    /// What it said.
    pub output: String,
}

/// How a container is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// How it is.
    pub status: Status,
    /// Failures one after the other.
    pub failing_streak: u32,
    /// The latest results, oldest first.
    pub log: VecDeque<Probe>,
}

impl Default for Health {
    fn default() -> Self {
        Self { status: Status::Starting, failing_streak: 0, log: VecDeque::new() }
    }
}

impl Status {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct Config {
    #[serde(default, rename = "Healthcheck")]
    check: Option<Wire>,
    #[serde(default, rename = "Shell")]
    shell: Option<Vec<String>>,
}

/// Docker's `Healthcheck`; times in nanoseconds, 0 for its default.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Wire {
    test: Option<Vec<String>>,
    interval: Option<i64>,
    timeout: Option<i64>,
    retries: Option<i64>,
    start_period: Option<i64>,
    start_interval: Option<i64>,
}

impl Check {
    /// The check in Docker's `Config`; none where there is none.
    pub fn of(config: &str) -> Option<Self> {
        let config: Config = serde_json::from_str(config).ok()?;
        let wire = config.check?;
        let test = wire.test.unwrap_or_default();
        let args = match test.split_first()? {
            (kind, args) if kind == "CMD" && !args.is_empty() => args.to_vec(),
            (kind, text) if kind == "CMD-SHELL" && !text.is_empty() => {
                let shell = config.shell.filter(|s| !s.is_empty());
                let mut args = shell.unwrap_or_else(|| ["/bin/sh", "-c"].map(str::to_owned).to_vec());
                args.extend_from_slice(text);
                args
            }
            _ => return None,
        };
        let time = |ns: Option<i64>, usual: u64| match ns.and_then(|ns| u64::try_from(ns).ok()) {
            Some(ns @ 1..) => Duration::from_nanos(ns),
            _ => Duration::from_secs(usual),
        };
        Some(Self {
            args,
            interval: time(wire.interval, 30),
            timeout: time(wire.timeout, 30),
            retries: wire.retries.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(3),
            start_period: time(wire.start_period, 0),
            start_interval: time(wire.start_interval, 5),
        })
    }
}

impl Health {
    /// Takes in a result; returns the status if it has changed.
    fn take(&mut self, probe: Probe, check: &Check, in_start_period: bool) -> Option<Status> {
        let before = self.status;
        if probe.code == 0 {
            self.failing_streak = 0;
            self.status = Status::Healthy;
        } else if !(in_start_period && self.status == Status::Starting) {
            self.failing_streak += 1;
            if self.failing_streak >= check.retries {
                self.status = Status::Unhealthy;
            }
        }
        self.log.push_back(probe);
        while self.log.len() > SHOWN {
            self.log.pop_front();
        }
        (self.status != before).then_some(self.status)
    }
}

/// How containers are in their last run that was checked, which is known by the time of its start; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Healths(Arc<Mutex<HashMap<String, (u64, Health)>>>);

impl Healths {
    /// How a container is in a run; the default when nothing is known of that one.
    pub(crate) fn of(&self, id: &str, started_ns: u64) -> Health {
        let all = self.lock();
        all.get(id).filter(|(run, _)| *run == started_ns).map(|(_, health)| health.clone()).unwrap_or_default()
    }

    fn change<T>(&self, id: &str, started_ns: u64, change: impl FnOnce(&mut Health) -> T) -> T {
        let mut all = self.lock();
        let (run, health) = all.entry(id.to_owned()).or_default();
        if *run != started_ns {
            (*run, *health) = (started_ns, Health::default());
        }
        change(health)
    }

    pub(crate) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (u64, Health)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run of a container that is to be checked.
pub(crate) struct Checked {
    pub(crate) container: Container,
    pub(crate) check: Check,
    pub(crate) started_ns: u64,
}

/// The runs that are to be checked now.
pub(crate) fn due(table: &Table) -> impl Iterator<Item = Checked> {
    table.iter().filter(|c| c.phase() == super::phase::Phase::Running).filter_map(|container| {
        let check = Check::of(&container.record.config)?;
        let started_ns = container.run.as_ref()?.started_ns?;
        Some(Checked { container: container.clone(), check, started_ns })
    })
}

impl Checked {
    /// Checks until the run is over; `tell` hears of every change.
    pub(crate) async fn watch(
        self,
        healths: Healths,
        watched: Watched,
        switchboard: Switchboard,
        tell: impl Fn(&Container, Status),
    ) {
        let id = self.container.record.id.clone();
        let over = watched.until(|table| (!same_run(table, &id, self.started_ns)).then_some(()));
        let checking = async {
            loop {
                let starts = self.in_start_period(&healths, &id);
                sleep(if starts { self.check.start_interval } else { self.check.interval }).await;
                let start_ns = now_ns();
                let line = timeout(self.check.timeout, switchboard.line(&id)).await;
                let starts = self.in_start_period(&healths, &id);
                let probe = match line {
                    Ok(line) => self.probe(&line).await,
                    // A guest that hangs is what checks are for.
                    Err(_) => Probe { start_ns, end_ns: now_ns(), code: -1, output: "its guest does not call".into() },
                };
                let changed = healths.change(&id, self.started_ns, |health| health.take(probe, &self.check, starts));
                if let Some(status) = changed {
                    tell(&self.container, status);
                }
            }
        };
        tokio::select! {
            // When vSphere is not watched any more, the next engine goes on with the same run.
            _ = over => {}
            () = checking => {}
        }
    }

    fn in_start_period(&self, healths: &Healths, id: &str) -> bool {
        let age = Duration::from_nanos(now_ns().saturating_sub(self.started_ns));
        age < self.check.start_period && healths.of(id, self.started_ns).status == Status::Starting
    }

    /// Runs the check once.
    async fn probe(&self, line: &Line) -> Probe {
        let start_ns = now_ns();
        let spec = ExecSpec { args: self.check.args.clone(), ..self.spec() };
        let exec = Exec {
            id: format!("health-{start_ns}"),
            container: self.container.record.id.clone(),
            spec,
            state: ExecState::Created,
        };
        let mut output = Vec::new();
        let run = timeout(self.check.timeout, said(line, &exec, &mut output)).await;
        let code = match run {
            Ok(Ok(code)) => code,
            Ok(Err(status)) => {
                output = status.message().as_bytes().to_vec();
                -1
            }
            Err(_) => {
                let kill = SignalExecRequest { id: exec.id.clone(), signal: "SIGKILL".to_owned() };
                // One that is gone already needs none.
                let _ = answered(line.client().signal_exec(kill)).await;
                output = format!("Health check exceeded timeout ({:?})", self.check.timeout).into_bytes();
                -1
            }
        };
        output.truncate(OUTPUT);
        Probe { start_ns, end_ns: now_ns(), code, output: String::from_utf8_lossy(&output).into_owned() }
    }

    /// As the container's own process.
    fn spec(&self) -> ExecSpec {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Own {
            env: Option<Vec<String>>,
            user: Option<String>,
            working_dir: Option<String>,
        }
        let own: Own = serde_json::from_str(&self.container.record.config).unwrap_or_default();
        ExecSpec {
            env: own.env.unwrap_or_default(),
            cwd: own.working_dir.unwrap_or_default(),
            user: own.user.unwrap_or_default(),
            ..ExecSpec::default()
        }
    }
}

/// Runs a process to its end, keeping the beginning of what it says.
async fn said(line: &Line, exec: &Exec, output: &mut Vec<u8>) -> Result<i32, tonic::Status> {
    let started = exec::start(line, exec, (0, 0)).await?;
    if let exec_reply::What::Failed(failed) = &started.first {
        output.extend(failed.error.bytes());
        return Ok(failed.code);
    }
    let (streams, rest) = started.split();
    let mut replies = rest.replies();
    drop(streams);
    while let Some(reply) = replies.message().await? {
        match reply.what {
            Some(exec_reply::What::Output(piece)) if output.len() < OUTPUT => output.extend(piece.bytes),
            Some(exec_reply::What::Exited(exited)) => return Ok(exited.code),
            _ => {}
        }
    }
    Err(tonic::Status::unavailable("the container's guest did not say how the check ended"))
}

fn same_run(table: &Table, id: &str, started_ns: u64) -> bool {
    table
        .find(id)
        .is_ok_and(|c| c.phase().is_alive() && c.run.as_ref().and_then(|run| run.started_ns) == Some(started_ns))
}

fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(code: i32) -> Probe {
        Probe { start_ns: 1, end_ns: 2, code, output: String::new() }
    }

    #[test]
    fn a_check_is_read_from_dockers_configuration() {
        let check = |json: &str| Check::of(&format!(r#"{{"Healthcheck":{json}}}"#));
        let plain = check(r#"{"Test":["CMD-SHELL","curl -f localhost"]}"#).unwrap();
        assert_eq!(plain.args, ["/bin/sh", "-c", "curl -f localhost"]);
        assert_eq!((plain.interval.as_secs(), plain.timeout.as_secs(), plain.retries), (30, 30, 3));
        let own =
            check(r#"{"Test":["CMD","/ok"],"Interval":5000000,"Timeout":0,"Retries":1,"StartPeriod":7}"#).unwrap();
        assert_eq!((own.args[0].as_str(), own.interval.as_millis(), own.start_period.as_nanos()), ("/ok", 5, 7));
        for none in [r#"{"Test":["NONE"]}"#, r#"{"Test":[]}"#, r#"{"Test":["CMD"]}"#, "null", "7"] {
            assert_eq!(check(none), None, "{none}");
        }
    }

    #[test]
    fn failures_count_one_after_the_other_and_not_while_it_starts() {
        let check = Check::of(r#"{"Healthcheck":{"Test":["CMD","x"],"Retries":2}}"#).unwrap();
        let mut health = Health::default();
        assert_eq!(health.take(probe(1), &check, true), None);
        assert_eq!(health.failing_streak, 0);
        assert_eq!(health.take(probe(0), &check, true), Some(Status::Healthy));
        // It has started: from here on they count, start period or not.
        assert_eq!(health.take(probe(1), &check, true), None);
        assert_eq!(health.take(probe(0), &check, false), None);
        assert_eq!(health.take(probe(1), &check, false), None);
        assert_eq!(health.take(probe(-1), &check, false), Some(Status::Unhealthy));
        assert_eq!(health.take(probe(1), &check, false), None);
        assert_eq!((health.failing_streak, health.log.len()), (3, SHOWN));
        assert_eq!(health.take(probe(0), &check, false), Some(Status::Healthy));
    }

    #[test]
    fn a_run_has_nothing_of_the_one_before() {
        let check = Check::of(r#"{"Healthcheck":{"Test":["CMD","x"]}}"#).unwrap();
        let healths = Healths::default();
        healths.change("a", 1, |health| health.take(probe(0), &check, false));
        assert_eq!(healths.of("a", 1).status, Status::Healthy);
        assert_eq!(healths.of("a", 2), Health::default(), "one that began while vSphere was lost");
        healths.change("a", 2, |health| health.take(probe(1), &check, false));
        assert_eq!((healths.of("a", 2).status, healths.of("a", 2).log.len()), (Status::Starting, 1));
    }
}
