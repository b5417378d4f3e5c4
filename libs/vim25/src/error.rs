//! [`Error`]: what can go wrong between us and vSphere.

use std::time::Duration;

use vim25_types::soap::Fault;
use vim25_types::{AnyMethodFault, ManagedObjectReference};

use crate::datastore::DatastorePath;
use crate::trust::TrustProblem;

/// What can go wrong between us and vSphere.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// vSphere refused, or a task of its ended with a fault.
    #[error("{method} on {object}: {}", describe(.fault))]
    Fault {
        /// The method, as it is named on the wire.
        method: String,
        /// What it was called on.
        object: ManagedObjectReference,
        /// Why it was refused.
        fault: Box<Fault>,
    },
    /// The server's certificate is not trusted.
    #[error(transparent)]
    Trust(Box<TrustProblem>),
    /// No connection, or one that broke.
    #[error("cannot reach {target}")]
    Unreachable {
        /// `host[:port]`.
        target: String,
        /// What the network says.
        source: reqwest::Error,
    },
    /// An HTTP answer that is none of vSphere's.
    #[error("{url} answered HTTP {status}")]
    Http {
        /// Without its query.
        url: String,
        /// Status code.
        status: u16,
    },
    /// A file that a running VM has open, which neither its host nor vCenter would read.
    #[error(
        "{file} can be read through the host that runs {vm} only, and that failed (vCenter answered HTTP {status}): let \
         this machine reach the hosts on TCP port 443"
    )]
    Held {
        /// The file.
        file: DatastorePath,
        /// The VM.
        vm: ManagedObjectReference,
        /// vCenter's answer.
        status: u16,
        /// Why the host did not read it.
        source: Box<Error>,
    },
    /// An answer that does not follow the protocol.
    #[error("{what}: the answer is not what vSphere sends: {reason}")]
    Protocol {
        /// What was asked.
        what: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The time for one call is over.
    #[error("{what} took longer than {} s", .after.as_secs())]
    Deadline {
        /// What was asked.
        what: String,
        /// The time it had.
        after: Duration,
    },
    /// A local file could not be read or written.
    #[error("{path}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// What the caller gave cannot be used.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// Name of the fault's type, such as `DuplicateName`.
    pub fn fault_name(&self) -> Option<&str> {
        self.fault().map(Fault::type_name)
    }

    /// The fault that vSphere answered with.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault { fault, .. } => Some(fault),
            _ => None,
        }
    }

    /// Whether the object of the call, or the file it names, does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self.fault_name(), Some("ManagedObjectNotFound" | "FileNotFound" | "NotFound"))
            || matches!(self, Self::Http { status: 404, .. })
    }

    /// Whether vSphere does not take the account's password, or has locked the account: the fault is `InvalidLogin` or one derived
    /// from it.  Every further try brings the account nearer to being locked, or keeps it so, for everybody who uses it.
    pub fn is_refused_login(&self) -> bool {
        matches!(self.fault_name(), Some("InvalidLogin" | "PasswordExpired" | "InvalidClientCertificate"))
    }

    /// Whether the session of the call has gone.
    pub(crate) fn is_not_authenticated(&self) -> bool {
        self.fault_name() == Some("NotAuthenticated")
    }

    /// Whether the same call may succeed in a moment: the connection broke, or vSphere was busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Deadline { .. } => true,
            Self::Http { status, .. } => *status >= 500,
            _ => self.is_busy() || matches!(self.fault_name(), Some("ConcurrentAccess" | "HostCommunication")),
        }
    }

    /// Whether vSphere has done nothing for another task has the object; the second of them is a vApp's, the third of those is told
    /// while vSphere Fault Tolerance has the VM.
    pub fn is_busy(&self) -> bool {
        let busy = ["TaskInProgress", "VAppTaskInProgress", "FailToLockFaultToleranceVMs"];
        self.fault_name().is_some_and(|name| busy.contains(&name))
    }
}

/// The fault in words: its type, its message, and what it names.
fn describe(fault: &Fault) -> String {
    let detail = match &fault.detail {
        AnyMethodFault::NoPermission(f) => match &f.privilege_id {
            Some(p) => format!(" (privilege {p} is missing on {})", f.object.as_ref().map_or("", |o| &o.value)),
            None => String::new(),
        },
        AnyMethodFault::DuplicateName(f) => format!(" (name {:?})", f.name),
        AnyMethodFault::InvalidArgument(f) => match &f.invalid_property {
            Some(p) => format!(" (property {p})"),
            None => String::new(),
        },
        _ => String::new(),
    };
    let message = fault.message.trim();
    if message.is_empty() {
        format!("{}{detail}", fault.type_name())
    } else {
        format!("{}: {message}{detail}", fault.type_name())
    }
}
