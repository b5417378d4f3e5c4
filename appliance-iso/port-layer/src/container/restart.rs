//! Restart policies: which containers are started again when their process ends, how soon, and what is remembered of it in
//! the VM, so that it outlives the endpoint VM.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tether_proto::Run;
use vch_config::{Document, SCHEMA};

/// Key of the [`Restarts`] document; not visible in the guest.
pub const KEY_RESTARTS: &str = "vic.restarts";

/// Docker's pauses grow from the first to the second, each twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// A run of this length was no failure: the next pause is the first again.
const STEADY: Duration = Duration::from_secs(10);

/// `--restart`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `no`
    No,
    /// `always`: also one that was stopped, when the endpoint VM starts.
    Always,
    /// `unless-stopped`
    UnlessStopped,
    /// `on-failure[:LIMIT]`
    OnFailure {
        /// So often; without a limit when it is none.
        limit: Option<u32>,
    },
}

/// What is remembered of a container from one run to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// How often its policy has started it since a client did.
    #[serde(default)]
    pub count: u32,
    /// A client has stopped it.
    #[serde(default)]
    pub stopped: bool,
    /// Its run before the start that was tried last.  What the guest says of a run stays where it is until the next one's guest
    /// overwrites it: nothing is lost when the VM is not switched on after all, or was so already.
    #[serde(default)]
    pub last: Option<Run>,
}

impl Default for Restarts {
    fn default() -> Self {
        Self { schema: SCHEMA, count: 0, stopped: false, last: None }
    }
}

impl Document for Restarts {
    const NAME: &'static str = "the container's restarts (vic.restarts)";
    fn schema(&self) -> u32 {
        self.schema
    }
}

#[derive(Debug, Default, Deserialize)]
struct HostConfig {
    #[serde(default, rename = "RestartPolicy")]
    policy: Option<Wire>,
}

/// Docker's `RestartPolicy`.
#[derive(Debug, Default, Deserialize)]
struct Wire {
    #[serde(default, rename = "Name")]
    name: Option<String>,
    #[serde(default, rename = "MaximumRetryCount")]
    limit: Option<i64>,
}

impl Policy {
    /// The policy that Docker's `HostConfig` holds.
    pub fn of(host_config: &str) -> Self {
        let config: HostConfig = serde_json::from_str(host_config).unwrap_or_default();
        let wire = config.policy.unwrap_or_default();
        match wire.name.as_deref() {
            Some("always") => Self::Always,
            Some("unless-stopped") => Self::UnlessStopped,
            Some("on-failure") => {
                let limit = wire.limit.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0);
                Self::OnFailure { limit }
            }
            _ => Self::No,
        }
    }

    /// Whether a container whose process has ended with `code` is started again.
    pub fn wants(self, code: i32, restarts: &Restarts) -> bool {
        !restarts.stopped
            && match self {
                Self::No => false,
                Self::Always | Self::UnlessStopped => true,
                Self::OnFailure { limit } => code != 0 && limit.is_none_or(|limit| restarts.count < limit),
            }
    }
}

/// The pause before the next start: after one of length `before`, none when there was none yet, and a run of length `ran`.
pub(crate) fn pause(before: Option<Duration>, ran: Duration) -> Duration {
    match before {
        Some(before) if ran < STEADY => (before * 2).min(PAUSES.1),
        _ => PAUSES.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_dockers() {
        let policy = |json: &str| Policy::of(&format!(r#"{{"RestartPolicy":{json}}}"#));
        let on = |limit| Policy::OnFailure { limit };
        for (json, expected) in [
            (r#"{"Name":""}"#, Policy::No),
            (r#"{"Name":"no","MaximumRetryCount":0}"#, Policy::No),
            (r#"{"Name":"always","MaximumRetryCount":0}"#, Policy::Always),
            (r#"{"Name":"unless-stopped"}"#, Policy::UnlessStopped),
            (r#"{"Name":"on-failure"}"#, on(None)),
            (r#"{"Name":"on-failure","MaximumRetryCount":2}"#, on(Some(2))),
            ("null", Policy::No),
        ] {
            assert_eq!(policy(json), expected, "{json}");
        }
        let count = |count| Restarts { count, ..Restarts::default() };
        assert!(on(Some(2)).wants(1, &count(1)) && !on(Some(2)).wants(1, &count(2)) && !on(None).wants(0, &count(0)));
        assert!(Policy::Always.wants(0, &count(99)) && !Policy::No.wants(1, &count(0)));
        let stopped = Restarts { stopped: true, ..Restarts::default() };
        assert!(!Policy::Always.wants(1, &stopped) && !on(None).wants(1, &stopped));
    }

    #[test]
    fn pauses_grow_until_a_run_was_steady() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(11));
        let mut pauses = vec![pause(None, short)];
        for _ in 0..12 {
            pauses.push(pause(pauses.last().copied(), short));
        }
        assert_eq!((pauses[0].as_millis(), pauses[1].as_millis(), pauses[12].as_secs()), (100, 200, 60));
        assert_eq!(pause(Some(PAUSES.1), long), PAUSES.0);
    }
}
