//! [`Run`]: how the container's process fares, and how it ended.

use serde::{Deserialize, Serialize};
use vch_config::{Document, SCHEMA};

/// One run of a container: one boot of its VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// [`crate::Container::id`].
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// When the process started, nanoseconds since 1970; absent before.
    #[serde(default)]
    pub started_ns: Option<u64>,
    /// When the process ended, nanoseconds since 1970; absent before.  It is there while the state is still [`State::Running`]: then
    /// what the process has written is on its way to the disk.
    #[serde(default)]
    pub finished_ns: Option<u64>,
    /// The process's id in its VM; absent before it started, and where a tether wrote this that did not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// Disks, mounts and network are being made ready.
    Preparing,
    /// The process runs.
    Running,
    /// The process ended.
    Exited {
        /// Docker's exit code: the process's own, or 128 and the signal's number.
        code: i32,
        /// Whether the kernel killed it for want of memory.
        #[serde(default)]
        out_of_memory: bool,
    },
    /// There was no process: what Docker shows as the error of a start.
    Failed {
        /// Docker's exit code: 127 no such program, 126 it cannot be run, 128 anything else.
        code: i32,
        /// Why, in a sentence.
        error: String,
    },
}

impl Run {
    /// A run of the container `id` that has just begun.
    pub fn new(id: &str) -> Self {
        Self {
            schema: SCHEMA,
            id: id.to_owned(),
            state: State::Preparing,
            started_ns: None,
            finished_ns: None,
            pid: None,
        }
    }
}

impl Document for Run {
    const NAME: &'static str = "the container's run (guestinfo.vic.exit)";
    fn schema(&self) -> u32 {
        self.schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tether_that_does_not_tell_the_pid_is_understood() {
        let read = |text: &str| Run::from_text(text).map(|run| (run.state, run.pid)).ok();
        assert_eq!(read(r#"{"schema":1,"id":"c","state":{"state":"running"}}"#), Some((State::Running, None)));
        let told = Run { state: State::Running, pid: Some(77), ..Run::new("c") };
        assert_eq!(read(&told.to_text()), Some((State::Running, Some(77))));
    }
}
