//! A lab for tests of the API: an inventory with no daemon, no network and no QEMU around it.
//!
//! Requests go in as envelopes, at the place where the HTTP server hands them over, and come back as envelopes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use secret::Secret;
use vim25_types::soap::{self, Body, Fault};
use vim25_types::{ManagedObjectReference as Moref, Method, TaskInfoState, Value, methods as m};

use super::dispatch::{self, Reply};
use crate::accel::Choice;
use crate::dir::LabDir;
use crate::lab::Lab;
use crate::net::Network;
use crate::settings::{Settings, Wanted};
use crate::vm::{Place, Power};

/// A user with the read-only role on every bench.
pub(super) const READER: &str = "reader";

const PASSWORD: &str = "bench";

/// How long a task of the bench may take: `qemu-img` is the slowest thing in it.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Bench {
    pub(super) lab: Arc<Lab>,
    cookie: Option<String>,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// A lab of the vCenter shape, or of the ESXi one, with the administrator logged in.
    pub(super) async fn new(esxi: bool) -> Self {
        Self::wanted(Wanted { esxi, ..Wanted::default() }).await
    }

    /// A vCenter's with so many hosts.
    pub(super) async fn with_hosts(hosts: u32) -> Self {
        Self::wanted(Wanted { hosts: Some(hosts), ..Wanted::default() }).await
    }

    async fn wanted(wanted: Wanted) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = LabDir::open(folder.path()).unwrap();
        let wanted = Wanted { password: Some(Secret::new(PASSWORD)), readonly: vec![READER.into()], ..wanted };
        let settings = Settings::settle(None, &wanted).unwrap();
        let network = Arc::new(Network::unwired(settings.range.parse().unwrap()));
        let place = Place { run: folder.path().join("run"), network, accelerator: Arc::new(Choice::tcg()) };
        let lab = Lab::open(&dir, settings, place, "AB:CD".into()).unwrap();
        let mut bench = Self { lab, cookie: None, _folder: folder };
        let user = bench.lab.settings().shape.user();
        bench.log_in(user).await.unwrap();
        bench
    }

    /// Goes on as another user.
    pub(super) async fn log_in(&mut self, user: &str) -> Result<(), Fault> {
        self.cookie = None;
        let this = self.lab.read(|w| w.service_content()).session_manager.unwrap();
        let login = m::Login { this, user_name: user.into(), password: PASSWORD.into(), locale: None };
        match self.post(&soap::request(&login)).await {
            Reply::Response { cookie, .. } => {
                self.cookie = cookie;
                Ok(())
            }
            other => Err(fault_of(&other)),
        }
    }

    /// The key of the session that is logged in.
    pub(super) fn cookie(&self) -> &str {
        self.cookie.as_deref().unwrap()
    }

    /// Sends an envelope as it is.
    pub(super) async fn post(&self, envelope: &str) -> Reply {
        let (peer, agent) = (IpAddr::V4(Ipv4Addr::LOCALHOST), "bench".to_owned());
        let at = SocketAddr::new(peer, 443);
        dispatch::answer(self.lab.clone(), peer, at, agent, self.cookie.clone(), envelope).await
    }

    /// Calls a method.
    pub(super) async fn call<M: Method>(&self, method: &M) -> Result<M::Response, Fault> {
        let reply = self.post(&soap::request(method)).await;
        let Reply::Response { text, .. } = &reply else { return Err(fault_of(&reply)) };
        match soap::open(text).unwrap() {
            Body::Call(element) => Ok(M::decode_response(&element).unwrap()),
            Body::Fault(fault) => Err(*fault),
        }
    }

    /// Calls a method and waits for its task.
    pub(super) async fn run<M: Method<Response = Moref>>(&self, method: &M) -> Result<Option<Moref>, Fault> {
        let task = self.call(method).await?;
        let mut changed = self.lab.watch();
        let ended =
            changed.wait_for(|_| self.lab.read(|w| w.task(&task.value).is_some_and(|t| t.complete_time.is_some())));
        let waited = tokio::time::timeout(PATIENCE, ended).await;
        let info = self.lab.read(|w| w.task(&task.value).cloned()).unwrap();
        assert!(waited.is_ok(), "the task does not end: {info:?}");
        match info.state {
            TaskInfoState::Success => Ok(info.result.and_then(|r| Moref::decode(r.element()).ok())),
            _ => {
                let error = info.error.unwrap();
                Err(Fault { detail: *error.fault, message: error.localized_message.unwrap_or_default() })
            }
        }
    }

    /// The object of a type whose name is given.
    pub(super) fn find(&self, kind: &str, name: &str) -> Moref {
        let found = self.lab.read(|w| w.entries().find(|e| e.kind() == kind && e.name == name).map(|e| e.moref()));
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// Makes the inventory believe that a VM is on or off: no process is behind it.
    pub(super) fn set_power(&self, vm: &Moref, power: Power) {
        self.lab.change(|w| {
            w.vm_state_mut(&vm.value).unwrap().power = power;
            w.vm_mut(&vm.value).filter(|vm| !vm.is_on()).map(crate::world::VmObject::forget_volatile)
        });
    }
}

/// The fault in a reply.
pub(super) fn fault_of(reply: &Reply) -> Fault {
    let Reply::Fault { text } = reply else { panic!("no fault, but {reply:?}") };
    match soap::open(text).unwrap() {
        Body::Fault(fault) => *fault,
        Body::Call(other) => panic!("no fault, but {other:?}"),
    }
}
