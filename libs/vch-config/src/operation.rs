//! [`Operation`]: who is changing a VCH right now, and since when.

use serde::{Deserialize, Serialize};

use crate::{Document, SCHEMA};

/// Seconds after its last heartbeat in which an operation holds the VCH.
pub const LEASE_SECONDS: i64 = 120;
/// Seconds between two heartbeats.
pub const BEAT_SECONDS: u64 = 20;

/// A lifecycle operation that has begun and not ended: its journal, and the lease that keeps others away.
///
/// Times are seconds since 1970 by vSphere's clock, which all who look at the VCH share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// What is being done.
    pub kind: OperationKind,
    /// The run that does it; another run has another.
    pub owner: String,
    /// Where it runs, for people.
    pub host: String,
    /// The step that was last begun.
    pub step: String,
    /// When it began.
    pub started: i64,
    /// When it last showed that it lives.
    pub beat: i64,
}

/// What can be done to a VCH.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// It is being created.
    Create,
}

impl Operation {
    /// A new operation that begins now.
    pub fn begin(kind: OperationKind, owner: String, host: String, now: i64) -> Self {
        Self { schema: SCHEMA, kind, owner, host, step: String::new(), started: now, beat: now }
    }

    /// Seconds for which it still holds the VCH; `None` when its lease is over.
    pub fn holds_for(&self, now: i64) -> Option<i64> {
        // A beat in the future is a clock that was set back: it counts as one of now.
        let age = now.saturating_sub(self.beat).max(0);
        (age < LEASE_SECONDS).then(|| LEASE_SECONDS - age)
    }
}

impl Document for Operation {
    const NAME: &'static str = "the journal of an operation (vic.operation)";

    fn schema(&self) -> u32 {
        self.schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_some_time_after_the_last_beat() {
        let operation = Operation::begin(OperationKind::Create, "o".into(), "h".into(), 1000);
        assert_eq!(operation.holds_for(1000), Some(LEASE_SECONDS));
        assert_eq!(operation.holds_for(1000 + LEASE_SECONDS - 1), Some(1));
        assert_eq!(operation.holds_for(1000 + LEASE_SECONDS), None);
        assert_eq!(operation.holds_for(900), Some(LEASE_SECONDS));
    }
}
