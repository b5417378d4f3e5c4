//! [`EndpointStatus`]: what the endpoint VM says of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Document, Role};

/// What the endpoint VM says of itself; rewritten whole whenever something in it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// [`crate::SCHEMA`] of the writer.
    pub schema: u32,
    /// [`crate::VchConfig::id`] that the guest booted with; a status of an earlier life does not match.
    pub vch_id: String,
    /// Identity of this boot of the guest, so that a reader can tell a status of the boot before.
    pub boot_id: String,
    /// Version of the software in the appliance.
    pub version: String,
    /// How far the endpoint VM has come.
    pub stage: Stage,
    /// Why it is not further, in a sentence; empty when all is well.
    #[serde(default)]
    pub problem: String,
    /// Addresses by role, each `address/prefix`.
    #[serde(default)]
    pub addresses: BTreeMap<Role, Vec<String>>,
    /// Services by name.
    #[serde(default)]
    pub services: BTreeMap<String, ServiceStatus>,
}

/// How far the endpoint VM has come.  It goes forward, except that `Ready` and `Degraded` alternate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The kernel runs and init has read its configuration.
    Booted,
    /// Interfaces are up or waiting for an address.
    Network,
    /// Every interface has its address; services are being started.
    Services,
    /// Every service is up and the Docker API answers.
    Ready,
    /// It was ready, and a service has failed since.
    Degraded,
    /// It cannot go on without a change of its configuration.
    Failed,
}

/// One supervised service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// What it is doing.
    pub state: ServiceState,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// Last lines of its log, when it has failed.
    #[serde(default)]
    pub last_words: String,
}

/// What a supervised service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Started, not yet answering.
    Starting,
    /// Up.
    Running,
    /// Died, and waits before it is started again.
    Waiting,
    /// Dies again and again; still retried, slowly.
    Failed,
}

impl Document for EndpointStatus {
    const NAME: &'static str = "the endpoint VM's status (guestinfo.vic.status.endpoint)";
    fn schema(&self) -> u32 {
        self.schema
    }
}
