//! The order of things: channel, configuration, links, services; and what runs beside them.

use std::{future, path::Path, time::Duration};

use guestinfo::{Channel, HostRequest};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use vch_config::{
    Addressing, Document, EndpointStatus, HEARTBEAT_SECONDS, KEY_HEARTBEAT, KEY_STATUS, Role, Stage, VchConfig,
};

use crate::{
    documents::{self, CONFIG_DIR, Documents, Keys},
    early, network, power,
    reaper::Reaper,
    service::{PERSONALITY, Runner, Service},
    status::Board,
    system::{self, End, Linux, System},
};

/// Pause before the configuration, or the channel, is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The late modules wait so long for the services to answer: a service that never does must not keep the disks away.
const LATE_MODULES: Duration = Duration::from_secs(5);
/// The multi-call binary.
const PROGRAM: &str = "/usr/sbin/vic-endpoint";

/// Runs the endpoint VM until the host ends it; returns when a task of it is lost, or the kernel refuses to end.
pub(crate) async fn run() {
    let version = std::fs::read_to_string("/etc/vic/version").unwrap_or_default().trim().to_owned();
    log::info!("vSphere Integrated Containers endpoint {version}");
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let board = Board::new(boot_id.trim().to_owned(), version);
    let reaper = Reaper::default();
    let mut beside = JoinSet::new();
    beside.spawn(reaper.clone().run());

    let (requests, mut from_host) = mpsc::unbounded_channel();
    let channel = open_channel(requests).await;
    log::info!("guestinfo over the {}", channel.carrier_name());
    beside.spawn(publish(channel.clone(), board.watch()));
    beside.spawn(heartbeat(channel.clone()));
    beside.spawn(report_address(channel.clone(), board.watch()));

    let (stop, stopping) = watch::channel(false);
    let mut runners = JoinSet::new();
    let request = tokio::select! {
        request = from_host.recv() => request.ok_or_else(|| "the guestinfo channel has closed".to_owned()),
        defect = serve(&channel, &board, &reaper, &stopping, &mut runners) => Err(defect),
        defect = lost(&mut beside) => Err(defect),
    };
    let end = match request {
        Ok(HostRequest::Reboot) => End::Reboot,
        Ok(HostRequest::Halt) => End::PowerOff,
        Err(defect) => return log::error!("{defect}"),
    };
    power::end(&Linux, end, &stop, &mut runners).await;
}

/// Waits until one of `tasks` panics, and says so; one that ends by itself has done its work.
async fn lost(tasks: &mut JoinSet<()>) -> String {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) => return format!("a task of init is lost: {error}"),
            Some(Ok(())) => {}
            None => future::pending().await,
        }
    }
}

/// Opens the channel; tried until it works.
async fn open_channel(requests: mpsc::UnboundedSender<HostRequest>) -> Channel {
    loop {
        let requests = requests.clone();
        match Channel::open(&guestinfo::Options::default(), move |request| {
            let _ = requests.send(request);
        }) {
            Ok(channel) => return channel,
            Err(error) => log::error!("{error}"),
        }
        sleep(RETRY).await;
    }
}

/// Brings up links and services; returns only a defect.
async fn serve(
    channel: &Channel,
    board: &Board,
    reaper: &Reaper,
    stopping: &watch::Receiver<bool>,
    runners: &mut JoinSet<()>,
) -> String {
    let documents = read_documents(channel, board).await;
    let config = &documents.config;
    if let Err(error) = Linux.set_host_name(&config.name) {
        log::warn!("cannot set the host name {:?}: {error}", config.name);
    }
    board.configured(config);
    if config.debug >= 2 {
        // A debugging door: the kernel's SysRq keys on the VM's console.
        if let Err(error) = std::fs::write("/proc/sys/kernel/sysrq", "1") {
            log::warn!("cannot enable the SysRq keys: {error}");
        }
    }
    let resolver = network::Resolver::new(config.dns_servers.clone(), "/etc/resolv.conf".into());
    let mut links = JoinSet::new();
    for link in network::plan(config) {
        links.spawn(network::keep(link, config.name.clone(), board.clone(), resolver.clone()));
    }
    while let Err(error) = documents::lay_out(&documents, Path::new(CONFIG_DIR)) {
        log::error!("cannot write the configuration into {CONFIG_DIR}: {error}");
        sleep(RETRY).await;
    }
    wait_for_addresses(board, config).await;
    for service in services() {
        let runner = Runner { service, reaper: reaper.clone(), board: board.clone(), stop: stopping.clone() };
        runners.spawn(runner.run());
    }
    board.services_started();
    // What is loaded now is not needed for the API's first answer, and would take the processor from it.
    let _ = timeout(LATE_MODULES, board.watch().wait_for(|status| status.stage == Stage::Ready)).await;
    // Off the event loop: a driver may take its time to look for its device.
    let _ = spawn_blocking(|| early::load_late_modules(&Linux)).await;
    tokio::select! {
        defect = lost(&mut links) => defect,
        defect = lost(runners) => defect,
    }
}

/// The services of the endpoint VM.
fn services() -> Vec<Service> {
    vec![Service {
        name: PERSONALITY,
        command: [PROGRAM, PERSONALITY, "--config-dir", CONFIG_DIR].map(Into::into).to_vec(),
        answers_on: Some(Path::new(CONFIG_DIR).join("personality.sock")),
    }]
}

/// Reads the documents; tried until they are there and valid.
async fn read_documents(channel: &impl Keys, board: &Board) -> Documents {
    loop {
        let keys = channel.clone();
        match spawn_blocking(move || documents::read(&keys)).await {
            Ok(Ok(documents)) => return documents,
            Ok(Err(problem)) => board.not_configured(&problem),
            Err(defect) => board.not_configured(&format!("reading the configuration panicked: {defect}")),
        }
        sleep(RETRY).await;
    }
}

/// Waits until every interface that is to have an address has one.
async fn wait_for_addresses(board: &Board, config: &VchConfig) {
    let roles: Vec<Role> =
        config.interfaces.iter().filter(|i| i.ipv4 != Addressing::None).flat_map(|i| i.roles.clone()).collect();
    let complete = |status: &EndpointStatus| roles.iter().all(|role| status.addresses.contains_key(role));
    // The board outlives this: its sender is never dropped while we hold it.
    let _ = board.watch().wait_for(complete).await;
}

/// Writes the status whenever it changes; a write that fails is tried again with what is true by then.
async fn publish(keys: impl Keys, mut status: watch::Receiver<EndpointStatus>) {
    loop {
        let text = status.borrow_and_update().to_text();
        if set(&keys, KEY_STATUS, text).await {
            if status.changed().await.is_err() {
                return;
            }
        } else {
            sleep(RETRY).await;
        }
    }
}

/// Writes the heartbeat for ever.
async fn heartbeat(keys: impl Keys) {
    let mut ticks = interval(Duration::from_secs(HEARTBEAT_SECONDS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        set(&keys, KEY_HEARTBEAT, system::uptime().as_secs().to_string()).await;
    }
}

/// Tells vSphere the address of the Docker API whenever it changes.
async fn report_address(keys: impl Keys, mut status: watch::Receiver<EndpointStatus>) {
    let mut told = String::new();
    loop {
        let address = status.borrow_and_update().addresses.get(&Role::Client).and_then(|list| list.first().cloned());
        let address = address.unwrap_or_default().split('/').next().unwrap_or_default().to_owned();
        if !address.is_empty() && address != told {
            if !set(&keys, "guestinfo.ip", address.clone()).await {
                sleep(RETRY).await;
                continue;
            }
            told = address;
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// Writes one key off the event loop; says whether it worked.
async fn set(keys: &impl Keys, key: &'static str, value: String) -> bool {
    let keys = keys.clone();
    match spawn_blocking(move || keys.set(key, &value)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            log::warn!("{error}");
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_lost_and_one_that_ends_is_not() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        tokio::select! {
            biased;
            defect = lost(&mut tasks) => panic!("{defect}"),
            () = tokio::task::yield_now() => {}
        }
        tasks.spawn(async { panic!("a defect") });
        assert!(lost(&mut tasks).await.contains("panicked"));
    }
}
