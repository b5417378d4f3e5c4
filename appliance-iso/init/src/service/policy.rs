//! When a service that ended is started again: a pure function of its past.
//!
//! ```text
//! Starting -- answers --> Running -- ends --> Waiting -- delay --> Starting
//!     \-- ends too often in a row --> Failed -- long delay --> Starting
//! ```
//! A run that lasted [`STEADY`] clears the record.  The delay doubles with each short run, up to [`LONGEST_DELAY`].

use std::time::Duration;

use vch_config::ServiceState;

/// A run of this length was a success, however it ended.
const STEADY: Duration = Duration::from_secs(60);
/// Delay after the first short run.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// Longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// So many short runs in a row are a failure.
const FAILED_AFTER: u32 = 5;

/// The record of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    short_runs: u32,
    restarts: u32,
}

/// What to do after a service ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// [`ServiceState::Waiting`] or [`ServiceState::Failed`].
    pub(crate) state: ServiceState,
    /// How long to wait before it is started again.
    pub(crate) delay: Duration,
}

impl Policy {
    /// The service ended after `lasted`.
    pub(crate) fn ended(&mut self, lasted: Duration) -> Verdict {
        self.short_runs = if lasted >= STEADY { 1 } else { self.short_runs.saturating_add(1) };
        self.restarts = self.restarts.saturating_add(1);
        let doublings = self.short_runs.saturating_sub(1).min(16);
        let delay = FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY);
        let state = if self.short_runs >= FAILED_AFTER { ServiceState::Failed } else { ServiceState::Waiting };
        Verdict { state, delay }
    }

    /// How often the service was started again.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_service_that_keeps_dying_is_failed_and_still_retried() {
        let mut policy = Policy::default();
        let states: Vec<_> = (0..7).map(|_| policy.ended(Duration::ZERO)).collect();
        assert_eq!(states[0], Verdict { state: ServiceState::Waiting, delay: FIRST_DELAY });
        assert_eq!(states[3].state, ServiceState::Waiting);
        assert_eq!(states[4].state, ServiceState::Failed);
        assert_eq!(states[6], Verdict { state: ServiceState::Failed, delay: Duration::from_secs(16) });
        assert_eq!(policy.restarts(), 7);
    }

    #[test]
    fn a_steady_run_clears_the_record() {
        let mut policy = Policy::default();
        for _ in 0..10 {
            policy.ended(Duration::ZERO);
        }
        assert_eq!(policy.ended(STEADY), Verdict { state: ServiceState::Waiting, delay: FIRST_DELAY });
    }

    proptest! {
        #[test]
        fn the_delay_never_leaves_its_bounds(runs in proptest::collection::vec(0_u64..100, 0..200)) {
            let mut policy = Policy::default();
            for seconds in runs {
                let verdict = policy.ended(Duration::from_secs(seconds));
                prop_assert!((FIRST_DELAY..=LONGEST_DELAY).contains(&verdict.delay));
            }
        }
    }
}
