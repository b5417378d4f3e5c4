//! [`Problem`]: what went wrong, on which object, why, and what to do; and the exit code that scripts see.

use std::fmt;

use vim25::Error;

/// What `vic-machine` ends with.  Part of its interface: see `docs/reference/vic-machine.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Validation = 3,
    TrustOrLogin = 4,
    Permission = 5,
    NotFound = 6,
    Conflict = 7,
    Deadline = 8,
    Resumable = 9,
}

/// Something that went wrong, told so that the reader can act.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    /// What could not be done, and on which object.
    pub(crate) what: String,
    /// Why; one entry a cause, outermost first.
    pub(crate) why: Vec<String>,
    /// What to do about it; one entry a suggestion.
    pub(crate) remedy: Vec<String>,
    pub(crate) exit: Exit,
}

impl Problem {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { what: what.into(), why: Vec::new(), remedy: Vec::new(), exit }
    }

    /// A fault in what the admin gave; found before anything was changed.
    pub(crate) fn validation(what: impl Into<String>) -> Self {
        Self::new(Exit::Validation, what)
    }

    pub(crate) fn why(mut self, why: impl fmt::Display) -> Self {
        self.why.push(why.to_string());
        self
    }

    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy.push(remedy.into());
        self
    }

    /// Says what we were about to do when `error` came.
    pub(crate) fn doing(what: impl Into<String>, error: &Error) -> Self {
        let mut problem = Self::from(error);
        let inner = std::mem::replace(&mut problem.what, what.into());
        problem.why.insert(0, inner);
        problem
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for why in &self.why {
            write!(f, ": {why}")?;
        }
        Ok(())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let mut problem = Self::new(exit_for(error), error.to_string());
        let mut source = std::error::Error::source(error);
        while let Some(e) = source {
            problem.why.push(e.to_string());
            source = e.source();
        }
        problem.remedy = remedies(error);
        problem
    }
}

fn exit_for(error: &Error) -> Exit {
    match error {
        Error::Trust(_) => Exit::TrustOrLogin,
        Error::Deadline { .. } => Exit::Deadline,
        Error::Invalid(_) => Exit::Validation,
        _ if error.is_refused_login() => Exit::TrustOrLogin,
        _ => match error.fault_name() {
            Some("NotAuthenticated") => Exit::TrustOrLogin,
            Some("NoPermission") => Exit::Permission,
            Some("ManagedObjectNotFound" | "NotFound" | "FileNotFound") => Exit::NotFound,
            Some("DuplicateName" | "AlreadyExists" | "ConcurrentAccess" | "TaskInProgress" | "ResourceInUse") => {
                Exit::Conflict
            }
            _ => Exit::Failed,
        },
    }
}

fn remedies(error: &Error) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    match error {
        Error::Trust(problem) => {
            let mut lines = Vec::new();
            for print in &problem.expected {
                lines.push(format!("expected thumbprint: {print}"));
            }
            if let Some(found) = &problem.found {
                lines.push(format!("found thumbprint:    {} (SHA-1)", found.sha1));
                lines.push(format!("                     {} (SHA-256)", found.sha256));
                lines.push(format!("subject: {}", found.subject));
                lines.push(format!("issuer:  {}", found.issuer));
                lines.push(format!("valid:   {} to {}", found.not_before, found.not_after));
                lines.push(
                    "compare it with what the vSphere administrator tells you; if it is right, pass it as --thumbprint"
                        .to_owned(),
                );
            }
            lines
        }
        Error::Unreachable { target, .. } => {
            vec![format!(
                "check that {target} is the address of a vCenter or ESXi, and that this machine can reach it on that port"
            )]
        }
        _ if error.is_refused_login() => one("check --user and --password; vCenter users are written user@domain"),
        _ => match error.fault_name() {
            Some("NoPermission") => one("give the user the missing privilege, or use another user"),
            Some("NoDiskSpace") => one("free space on the datastore, or choose another with --image-store"),
            _ => Vec::new(),
        },
    }
}
