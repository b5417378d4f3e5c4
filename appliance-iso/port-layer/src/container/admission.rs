//! [`admit`]: may this be done now?  A pure function; what it allows is done under the container's own lock.

use super::phase::Phase;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `docker start`
    Start,
    /// `docker stop`
    Stop,
    /// `docker kill`
    Kill,
    /// `docker restart`
    Restart,
    /// `docker pause`
    Pause,
    /// `docker unpause`
    Unpause,
    /// `docker rm`
    Remove {
        /// `--force`
        force: bool,
    },
    /// `docker rename`
    Rename,
    /// `docker exec`
    Exec,
    /// `docker attach`
    Attach,
    /// `docker cp`, `docker logs`, `docker inspect`: what needs no process.
    Look,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Do it.
    Do,
    /// It is so already: Docker's 304.
    Already,
    /// Not now.
    Refuse(Refusal),
}

/// Why not.  Its text is what follows the container's name in Docker's message; all are conflicts (409).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It needs a process, and there is none.
    #[error("is not running")]
    NotRunning,
    /// It needs a process that is not paused.
    #[error("is paused, unpause the container first")]
    Paused,
    /// It needs a paused process.
    #[error("is not paused")]
    NotPaused,
    /// A running container is removed by force alone.
    #[error("is running: stop the container before removing or force remove")]
    Running,
    /// A paused container is removed by force alone.
    #[error("is paused and must be unpaused first")]
    RemovePaused,
    /// It needs a process, and there will be one.
    #[error("is restarting, wait until the container is running")]
    Restarting,
    /// A container that will be started again is removed by force alone.
    #[error("is restarting: stop the container before removing or force remove")]
    RemoveRestarting,
    /// Its removal has begun.
    #[error("is marked for removal and cannot be used")]
    Removing,
    /// Its removal has begun, and another is asked for.
    #[error("is already in progress")]
    RemovalInProgress,
}

/// Whether `operation` may be done on a container in `phase`.
pub fn admit(phase: &Phase, operation: Operation) -> Verdict {
    use Operation as O;
    use Verdict::{Already, Do, Refuse};
    match (phase, operation) {
        // `rm -f` always wins: a removal that got stuck is taken up again.
        (_, O::Remove { force: true }) | (_, O::Look) => Do,
        (Phase::Removing, O::Remove { force: false }) => Refuse(Refusal::RemovalInProgress),
        (Phase::Removing, _) => Refuse(Refusal::Removing),
        (_, O::Rename | O::Restart) => Do,

        (Phase::Created { .. } | Phase::Exited { .. }, O::Start | O::Remove { force: false }) => Do,
        (Phase::Created { .. } | Phase::Exited { .. }, O::Stop) => Already,
        // Docker attaches to a container that will be started.
        (Phase::Created { .. } | Phase::Exited { .. }, O::Attach) => Do,
        (Phase::Created { .. } | Phase::Exited { .. }, O::Unpause) => Refuse(Refusal::NotPaused),
        (Phase::Created { .. } | Phase::Exited { .. }, O::Kill | O::Pause | O::Exec) => Refuse(Refusal::NotRunning),

        (Phase::Starting | Phase::Running, O::Start) => Already,
        (Phase::Starting | Phase::Running, O::Unpause) => Refuse(Refusal::NotPaused),
        (Phase::Starting | Phase::Running, O::Remove { force: false }) => Refuse(Refusal::Running),
        (Phase::Starting | Phase::Running, O::Stop | O::Kill | O::Pause | O::Exec | O::Attach) => Do,

        (Phase::Restarting { .. }, O::Start) => Already,
        (Phase::Restarting { .. }, O::Stop | O::Kill | O::Attach) => Do,
        (Phase::Restarting { .. }, O::Unpause) => Refuse(Refusal::NotPaused),
        (Phase::Restarting { .. }, O::Pause | O::Exec) => Refuse(Refusal::Restarting),
        (Phase::Restarting { .. }, O::Remove { force: false }) => Refuse(Refusal::RemoveRestarting),

        (Phase::Paused, O::Stop | O::Kill | O::Unpause) => Do,
        (Phase::Paused, O::Start | O::Pause | O::Exec | O::Attach) => Refuse(Refusal::Paused),
        (Phase::Paused, O::Remove { force: false }) => Refuse(Refusal::RemovePaused),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: [Operation; 12] = [
        Operation::Start,
        Operation::Stop,
        Operation::Kill,
        Operation::Restart,
        Operation::Pause,
        Operation::Unpause,
        Operation::Remove { force: false },
        Operation::Remove { force: true },
        Operation::Rename,
        Operation::Exec,
        Operation::Attach,
        Operation::Look,
    ];

    /// What vSphere and the guest make of an admitted operation, in the end.
    fn after(phase: Phase, operation: Operation) -> Option<Phase> {
        let exited = Phase::Exited { code: 0, out_of_memory: false };
        Some(match operation {
            Operation::Start | Operation::Restart | Operation::Unpause => Phase::Running,
            Operation::Stop | Operation::Kill => exited,
            Operation::Pause => Phase::Paused,
            Operation::Remove { .. } => return None,
            Operation::Rename | Operation::Exec | Operation::Attach | Operation::Look => phase,
        })
    }

    fn phases() -> Vec<Phase> {
        vec![
            Phase::Created { failed: None },
            Phase::Created { failed: Some((127, "x".into())) },
            Phase::Starting,
            Phase::Running,
            Phase::Paused,
            Phase::Exited { code: 1, out_of_memory: false },
            Phase::Restarting { code: 1, out_of_memory: false },
            Phase::Removing,
        ]
    }

    #[test]
    fn removal_by_force_and_looking_are_never_refused() {
        for phase in phases() {
            assert_eq!(admit(&phase, Operation::Remove { force: true }), Verdict::Do, "{phase:?}");
            assert_eq!(admit(&phase, Operation::Look), Verdict::Do, "{phase:?}");
        }
    }

    #[test]
    fn no_phase_is_a_dead_end() {
        for phase in phases() {
            let ways = EVERY.iter().filter(|&&o| admit(&phase, o) == Verdict::Do && after(phase.clone(), o).is_none());
            assert!(ways.count() >= 1, "{phase:?} cannot be left");
        }
    }

    #[test]
    fn a_process_is_needed_where_docker_needs_one() {
        for phase in phases().iter().filter(|p| !p.is_up()) {
            for operation in [Operation::Kill, Operation::Exec, Operation::Pause] {
                assert!(matches!(admit(phase, operation), Verdict::Refuse(_)), "{phase:?} {operation:?}");
            }
        }
    }

    proptest! {
        /// Whatever clients ask for in whatever order: what is so already stays so, and what was done holds.
        #[test]
        fn any_order_of_operations_keeps_the_rules(wishes in proptest::collection::vec(0..EVERY.len(), 0..40)) {
            let mut phase = Phase::Created { failed: None };
            for operation in wishes.into_iter().map(|i| EVERY[i]) {
                match admit(&phase, operation) {
                    Verdict::Already => prop_assert!(matches!(operation, Operation::Start | Operation::Stop)),
                    Verdict::Refuse(_) => prop_assert!(operation != Operation::Look),
                    Verdict::Do => match after(phase.clone(), operation) {
                        Some(next) => phase = next,
                        None => return Ok(()),
                    },
                }
                if operation == Operation::Start && phase != Phase::Paused {
                    prop_assert!(phase.is_up());
                }
                if operation == Operation::Stop {
                    prop_assert!(!phase.is_up());
                }
            }
        }
    }
}
