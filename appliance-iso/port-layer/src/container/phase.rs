//! [`Phase`]: where a container stands, read from its VM.

use tether_proto::{Run, State};

/// A VM's power, as vSphere tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// `poweredOn`
    On,
    /// `poweredOff`
    Off,
    /// `suspended`: nothing runs, and power-on goes on where it was.
    Suspended,
}

/// Where a container stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It has never run.  `error` tells of a start that did not lead to a process, as Docker shows it.
    Created {
        /// Exit code and text of a start that failed.
        failed: Option<(i32, String)>,
    },
    /// The VM is on, the process is not there yet.
    Starting,
    /// The process runs.
    Running,
    /// The VM is suspended: Docker's `paused`.
    Paused,
    /// The process has ended.
    Exited {
        /// Docker's exit code.
        code: i32,
        /// Whether the kernel killed it for want of memory.
        out_of_memory: bool,
    },
    /// The process has ended, and its restart policy will start it again.
    Restarting {
        /// Docker's exit code of the run before.
        code: i32,
        /// Whether the kernel killed it for want of memory.
        out_of_memory: bool,
    },
    /// It is being removed.
    Removing,
}

/// Exit code of a process whose end nobody saw: the VM went off under it, as a kill would have it.
pub const VANISHED: i32 = 128 + 9;

impl Phase {
    /// Reads the phase from the VM's power and the guest's last word on its run.
    pub fn of(power: Power, run: Option<&Run>) -> Self {
        let state = run.map(|r| &r.state);
        match (power, state) {
            (Power::Suspended, _) => Self::Paused,
            // The VM goes off by itself after its last word.
            (_, Some(State::Exited { code, out_of_memory })) => {
                Self::Exited { code: *code, out_of_memory: *out_of_memory }
            }
            (_, Some(State::Failed { code, error })) => Self::Created { failed: Some((*code, error.clone())) },
            (Power::On, Some(State::Running)) => Self::Running,
            (Power::On, Some(State::Preparing) | None) => Self::Starting,
            (Power::Off, Some(State::Running | State::Preparing)) => {
                Self::Exited { code: VANISHED, out_of_memory: false }
            }
            (Power::Off, None) => Self::Created { failed: None },
        }
    }

    /// Docker's word for it (`State.Status`).
    pub fn status(&self) -> &'static str {
        match self {
            Self::Created { .. } => "created",
            // Docker knows no time between; a client that has started it sees it run.
            Self::Starting | Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited { .. } => "exited",
            Self::Restarting { .. } => "restarting",
            Self::Removing => "removing",
        }
    }

    /// Whether a process is there or will be.
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused)
    }

    /// Docker's `State.Running`: a container that will be started again counts.
    pub fn is_up(&self) -> bool {
        self.is_alive() || matches!(self, Self::Restarting { .. })
    }

    /// Docker's exit code; 0 where there is none yet.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exited { code, .. } | Self::Restarting { code, .. } | Self::Created { failed: Some((code, _)) } => {
                *code
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: State) -> Run {
        Run { state, ..Run::new("c") }
    }

    #[test]
    fn a_vm_that_goes_off_under_its_process_counts_as_killed() {
        let running = run(State::Running);
        assert_eq!(Phase::of(Power::On, Some(&running)), Phase::Running);
        assert_eq!(Phase::of(Power::Off, Some(&running)).exit_code(), 137);
        assert_eq!(Phase::of(Power::Off, Some(&run(State::Preparing))).status(), "exited");
    }

    #[test]
    fn the_guests_last_word_stands_before_the_vm_is_off_and_after() {
        let exited = run(State::Exited { code: 3, out_of_memory: false });
        for power in [Power::On, Power::Off] {
            assert_eq!(Phase::of(power, Some(&exited)), Phase::Exited { code: 3, out_of_memory: false });
        }
    }

    #[test]
    fn a_start_without_a_process_leaves_a_created_container_with_its_error() {
        let failed = run(State::Failed { code: 127, error: "no such program".into() });
        let phase = Phase::of(Power::Off, Some(&failed));
        assert_eq!((phase.status(), phase.exit_code()), ("created", 127));
        assert_eq!(Phase::of(Power::Off, None), Phase::Created { failed: None });
        assert_eq!(Phase::of(Power::On, None), Phase::Starting);
    }
}
