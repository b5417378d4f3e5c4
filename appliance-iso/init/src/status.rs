//! The board: what each task last said, and the [`EndpointStatus`] that follows from it.
//!
//! Tasks write facts; [`derive`] is a pure function from the facts to the status; watchers wake only when it changes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use vch_config::{Addressing, EndpointStatus, SCHEMA, ServiceState, ServiceStatus, Stage, VchConfig};

/// What is known of one link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LinkFacts {
    /// `address/prefix`.
    pub(crate) addresses: Vec<String>,
    /// Why it has none, in a sentence.
    pub(crate) problem: String,
}

/// What the tasks know.
#[derive(Debug, Clone, Default)]
struct Facts {
    boot_id: String,
    version: String,
    config: Option<VchConfig>,
    config_problem: String,
    /// By MAC address.
    links: BTreeMap<String, LinkFacts>,
    services: BTreeMap<String, ServiceStatus>,
    services_started: bool,
    was_ready: bool,
}

/// The board; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    facts: Arc<Mutex<Facts>>,
    status: Arc<watch::Sender<EndpointStatus>>,
}

impl Board {
    /// An empty board of this boot.
    pub(crate) fn new(boot_id: String, version: String) -> Self {
        let facts = Facts { boot_id, version, ..Facts::default() };
        let status = derive(&facts);
        Self { facts: Arc::new(Mutex::new(facts)), status: Arc::new(watch::Sender::new(status)) }
    }

    fn update(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut facts);
        let status = derive(&facts);
        facts.was_ready |= status.stage == Stage::Ready;
        // Under the lock, so that the last fact gives the last status.  The watch has no await.
        self.status.send_if_modified(|old| {
            if *old == status {
                return false;
            }
            if old.stage != status.stage || old.problem != status.problem {
                log::info!("stage {:?} {}", status.stage, status.problem);
            }
            *old = status;
            true
        });
    }

    /// The configuration was read.
    pub(crate) fn configured(&self, config: &VchConfig) {
        self.update(|facts| {
            facts.config = Some(config.clone());
            facts.config_problem.clear();
        });
    }

    /// The configuration cannot be read.
    pub(crate) fn not_configured(&self, problem: &str) {
        self.update(|facts| problem.clone_into(&mut facts.config_problem));
    }

    /// What is known of the link with this MAC address.
    pub(crate) fn link(&self, mac: &str, link: LinkFacts) {
        self.update(|facts| {
            facts.links.insert(mac.to_owned(), link);
        });
    }

    /// Services are being started.
    pub(crate) fn services_started(&self) {
        self.update(|facts| facts.services_started = true);
    }

    /// What a service is doing.
    pub(crate) fn service(&self, name: &str, status: ServiceStatus) {
        self.update(|facts| {
            facts.services.insert(name.to_owned(), status);
        });
    }

    /// Follows the status.
    pub(crate) fn watch(&self) -> watch::Receiver<EndpointStatus> {
        self.status.subscribe()
    }
}

/// The status that the facts amount to.
fn derive(facts: &Facts) -> EndpointStatus {
    let config = facts.config.as_ref();
    let (stage, problem) = stage(facts);
    let mut addresses = BTreeMap::new();
    for interface in config.map(|c| c.interfaces.as_slice()).unwrap_or_default() {
        let known = facts.links.get(&interface.mac).map(|l| l.addresses.clone()).unwrap_or_default();
        if !known.is_empty() {
            addresses.extend(interface.roles.iter().map(|role| (*role, known.clone())));
        }
    }
    EndpointStatus {
        schema: SCHEMA,
        vch_id: config.map(|c| c.id.clone()).unwrap_or_default(),
        boot_id: facts.boot_id.clone(),
        version: facts.version.clone(),
        stage,
        problem,
        addresses,
        services: facts.services.clone(),
    }
}

fn stage(facts: &Facts) -> (Stage, String) {
    let Some(config) = &facts.config else {
        let stage = if facts.config_problem.is_empty() { Stage::Booted } else { Stage::Failed };
        return (stage, facts.config_problem.clone());
    };
    let link_problem = config
        .interfaces
        .iter()
        .filter(|interface| interface.ipv4 != Addressing::None)
        .filter_map(|interface| match facts.links.get(&interface.mac) {
            Some(link) if !link.addresses.is_empty() => None,
            Some(link) => Some(link.problem.clone()),
            None => Some(format!("the interface on {} is not up yet", interface.port_group)),
        })
        .collect::<Vec<_>>()
        .join("; ");
    if !facts.services_started {
        return (Stage::Network, link_problem);
    }
    let service_problem = facts
        .services
        .iter()
        .filter(|(_, service)| service.state != ServiceState::Running)
        .map(|(name, service)| {
            let last = service.last_words.lines().rev().take(2).collect::<Vec<_>>();
            let words = last.into_iter().rev().collect::<Vec<_>>().join("; ");
            let state = match service.state {
                ServiceState::Starting | ServiceState::Running => {
                    return format!("the service {name} does not answer yet");
                }
                ServiceState::Waiting => "has ended and is started again",
                ServiceState::Failed => "keeps ending",
            };
            format!("the service {name} {state}: {words}")
        })
        .collect::<Vec<_>>()
        .join("; ");
    let problem = [link_problem, service_problem].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("; ");
    if problem.is_empty() && !facts.services.is_empty() {
        (Stage::Ready, problem)
    } else if facts.was_ready {
        (Stage::Degraded, problem)
    } else if facts.services.values().any(|s| s.state == ServiceState::Failed) {
        // Never ready and dying again and again: what it was told does not work.
        (Stage::Failed, problem)
    } else {
        (Stage::Services, problem)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use vch_config::Role;

    use super::*;
    use crate::documents::tests::config;

    pub(crate) fn board() -> Board {
        Board::new("boot".into(), "0.1.0".into())
    }

    fn service(state: ServiceState, last_words: &str) -> ServiceStatus {
        ServiceStatus { state, restarts: 0, last_words: last_words.into() }
    }

    fn stage_of(board: &Board) -> (Stage, String) {
        let status = board.watch().borrow().clone();
        (status.stage, status.problem)
    }

    #[test]
    fn the_stage_follows_what_the_tasks_say() {
        let board = board();
        assert_eq!(stage_of(&board), (Stage::Booted, String::new()));
        board.not_configured("missing");
        assert_eq!(stage_of(&board), (Stage::Failed, "missing".into()));
        board.configured(&config());
        assert_eq!(stage_of(&board), (Stage::Network, "the interface on VM Network is not up yet".into()));
        let mac = "00:50:56:00:00:01";
        board.link(mac, LinkFacts { addresses: vec![], problem: "no DHCP answer".into() });
        assert_eq!(stage_of(&board), (Stage::Network, "no DHCP answer".into()));
        board.link(mac, LinkFacts { addresses: vec!["10.0.0.2/24".into()], problem: String::new() });
        board.services_started();
        assert_eq!(stage_of(&board).0, Stage::Services);
        board.service("personality", service(ServiceState::Failed, "a\nb\nc"));
        assert_eq!(stage_of(&board), (Stage::Failed, "the service personality keeps ending: b; c".into()));
        board.service("personality", service(ServiceState::Running, ""));
        assert_eq!(stage_of(&board), (Stage::Ready, String::new()));
        board.service("personality", service(ServiceState::Waiting, "bang"));
        assert_eq!(stage_of(&board).0, Stage::Degraded);
        board.service("personality", service(ServiceState::Running, ""));
        assert_eq!(stage_of(&board).0, Stage::Ready);
    }

    #[test]
    fn an_address_counts_for_every_role_of_its_interface_and_the_bridge_needs_none() {
        let board = board();
        board.configured(&config());
        board.link("00:50:56:00:00:01", LinkFacts { addresses: vec!["10.0.0.2/24".into()], problem: String::new() });
        let status = board.watch().borrow().clone();
        assert_eq!(status.problem, "");
        assert_eq!(
            status.addresses.keys().copied().collect::<Vec<_>>(),
            [Role::Public, Role::Client, Role::Management]
        );
    }

    #[test]
    fn watchers_wake_only_when_something_changes() {
        let board = board();
        let mut watch = board.watch();
        board.not_configured("missing");
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        board.not_configured("missing");
        assert!(!watch.has_changed().unwrap());
    }
}
