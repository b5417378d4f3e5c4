//! `/_ping`, `/version`, `/info`.

use std::{collections::HashMap, sync::Arc};

use axum::{Json, Router, extract::State as Shared, http::header, response::IntoResponse, routing::get};
use bollard_stubs::models::{
    IndexInfo, LocalNodeState, PluginsInfo, RegistryServiceConfig, SwarmInfo, SystemInfo, SystemInfoIsolationEnum,
    SystemVersion, SystemVersionComponents, SystemVersionPlatform,
};
use secret::Secret;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use url::Url;
use vch_config::Limits;

use super::State;
use crate::{machine::Machine, version};

const PRODUCT: &str = "vSphere Integrated Containers";
/// Docker's name for a log that `docker logs` can read: the one that there is.
const LOG_DRIVER: &str = "json-file";

pub(super) fn routes() -> Router<Arc<State>> {
    // GET handlers answer HEAD too, without the body.
    Router::new().route("/_ping", get(ping)).route("/version", get(version)).route("/info", get(info))
}

async fn ping() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE.as_str(), "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL.as_str(), "no-cache, no-store, must-revalidate"),
        (header::PRAGMA.as_str(), "no-cache"),
        // 1: clients are not to assume BuildKit.
        ("builder-version", "1"),
        ("swarm", "inactive"),
    ];
    (headers, "OK")
}

async fn version(Shared(state): Shared<Arc<State>>) -> Json<SystemVersion> {
    let newest = version::NEWEST.to_string();
    let oldest = version::OLDEST.to_string();
    let details = [
        ("ApiVersion", newest.as_str()),
        ("MinAPIVersion", &oldest),
        ("Arch", "amd64"),
        ("Os", "linux"),
        ("KernelVersion", &state.machine.kernel),
        ("Experimental", "false"),
        ("GoVersion", "none (Rust)"),
    ];
    let engine = SystemVersionComponents {
        name: "Engine".to_owned(),
        version: state.version.to_owned(),
        details: Some(details.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
    };
    Json(SystemVersion {
        platform: Some(SystemVersionPlatform { name: PRODUCT.to_owned() }),
        components: Some(vec![engine]),
        version: Some(state.version.to_owned()),
        api_version: Some(newest),
        min_api_version: Some(oldest),
        git_commit: Some(String::new()),
        go_version: Some("none (Rust)".to_owned()),
        os: Some("linux".to_owned()),
        arch: Some("amd64".to_owned()),
        kernel_version: Some(state.machine.kernel.clone()),
        // Docker leaves it out when it is false.
        experimental: None,
        build_time: Some(String::new()),
    })
}

async fn info(Shared(state): Shared<Arc<State>>) -> Json<SystemInfo> {
    let config = &state.config;
    let (cpus, memory) = capacity(&config.limits, &state.machine);
    let driver = format!("{PRODUCT} {} Backend Engine", state.version);
    let mut status = Vec::new();
    // The leading blank is part of the original's keys: it indents them under the driver.
    let mut say = |key: &str, value: String| status.push(vec![key.to_owned(), value]);
    let stores: Vec<_> = config.storage.volume_stores.iter().map(|store| store.label.as_str()).collect();
    say("VolumeStores", stores.join(" "));
    say(&driver, "RUNNING".to_owned());
    let unlimited = || "unlimited".to_owned();
    say(" VCH CPU limit", config.limits.cpu_mhz.map_or_else(unlimited, |mhz| format!("{mhz} MHz")));
    say(" VCH memory limit", config.limits.memory_mib.map_or_else(unlimited, |mib| size(mib.saturating_mul(1 << 20))));
    if let Some(bytes) = config.limits.storage_bytes {
        say(" VCH storage limit", size(bytes));
    }
    if let Some(count) = config.limits.containers {
        say(" VCH container limit", count.to_string());
    }
    say(" VCH image store", config.storage.image_store.clone());
    // What is told does not wait for vSphere.
    let engine = state.reach.at_hand();
    let table = engine.as_ref().map(|e| e.table()).unwrap_or_default();
    let [running, paused, stopped] = counts(table.iter().map(|c| c.phase().status()));
    let images = engine.map_or(0, |e| e.images().index().images.len());
    Json(SystemInfo {
        id: Some(config.id.clone()),
        name: Some(config.name.clone()),
        containers: i64::try_from(table.iter().count()).ok(),
        containers_running: Some(running),
        containers_paused: Some(paused),
        containers_stopped: Some(stopped),
        images: i64::try_from(images).ok(),
        driver: Some(driver),
        driver_status: Some(status),
        plugins: Some(PluginsInfo {
            volume: Some(vec!["vsphere".to_owned()]),
            network: Some(vec!["bridge".to_owned()]),
            authorization: None,
            log: Some(vec![LOG_DRIVER.to_owned()]),
        }),
        memory_limit: Some(true),
        swap_limit: Some(false),
        cpu_cfs_period: Some(false),
        cpu_cfs_quota: Some(false),
        cpu_shares: Some(true),
        cpu_set: Some(true),
        pids_limit: Some(false),
        oom_kill_disable: Some(false),
        ipv4_forwarding: Some(true),
        debug: Some(config.debug > 0),
        system_time: OffsetDateTime::now_utc().format(&Rfc3339).ok(),
        kernel_version: Some(state.machine.kernel.clone()),
        operating_system: Some(format!("{PRODUCT} endpoint (Linux)")),
        os_type: Some("linux".to_owned()),
        architecture: Some("x86_64".to_owned()),
        ncpu: Some(cpus),
        mem_total: Some(memory),
        index_server_address: Some("https://index.docker.io/v1/".to_owned()),
        registry_config: Some(RegistryServiceConfig {
            insecure_registry_cidrs: Some(
                config.registry.insecure.iter().filter(|r| r.contains('/')).cloned().collect(),
            ),
            index_configs: Some(index_configs(&config.registry.insecure)),
            mirrors: Some(Vec::new()),
        }),
        labels: Some(Vec::new()),
        experimental_build: Some(false),
        server_version: Some(state.version.to_owned()),
        live_restore_enabled: Some(false),
        security_options: Some(Vec::new()),
        swarm: Some(SwarmInfo {
            node_id: Some(String::new()),
            node_addr: Some(String::new()),
            local_node_state: Some(LocalNodeState::INACTIVE),
            control_available: Some(false),
            error: Some(String::new()),
            ..SwarmInfo::default()
        }),
        warnings: Some(Vec::new()),
        logging_driver: Some(LOG_DRIVER.to_owned()),
        n_events_listener: Some(0),
        nfd: open_files(),
        os_version: Some(state.version.to_owned()),
        http_proxy: Some(shown(state.proxies.http.as_ref())),
        https_proxy: Some(shown(state.proxies.https.as_ref())),
        no_proxy: Some(config.registry.no_proxy.clone().unwrap_or_default()),
        isolation: Some(SystemInfoIsolationEnum::EMPTY),
        ..SystemInfo::default()
    })
}

/// How many containers run, are paused, and do neither: with Docker these are all, one that is about to be started again among them.
fn counts(states: impl Iterator<Item = &'static str>) -> [i64; 3] {
    let mut counts = [0; 3];
    for state in states {
        counts[match state {
            "running" => 0,
            "paused" => 1,
            _ => 2,
        }] += 1;
    }
    counts
}

/// A proxy's URL as Docker shows it: without who logs in there.
fn shown(proxy: Option<&Secret>) -> String {
    let Some(text) = proxy.map(Secret::reveal) else { return String::new() };
    // vic-machine lets nothing else through; what cannot be read may hold a password all the same.
    let Some(mut url) = Url::parse(text).ok().filter(Url::has_host) else { return String::new() };
    if url.username().is_empty() && url.password().is_none() {
        return text.to_owned();
    }
    if url.set_username("xxxxx").and_then(|()| url.set_password(Some("xxxxx"))).is_err() {
        return String::new();
    }
    let masked = url.to_string();
    // The slash is the reader's.
    if text.ends_with('/') { masked } else { masked.trim_end_matches('/').to_owned() }
}

/// What is said of registries: of Docker's own, and of those that need not be trusted.
fn index_configs(insecure: &[String]) -> HashMap<String, IndexInfo> {
    let one = |name: &String| {
        let info = IndexInfo { name: Some(name.clone()), secure: Some(false), official: Some(false), ..docker_hub() };
        (name.clone(), info)
    };
    let named = insecure.iter().filter(|name| !name.contains('/')).map(one);
    named.chain([("docker.io".to_owned(), docker_hub())]).collect()
}

/// The registry that image names without a registry mean.
fn docker_hub() -> IndexInfo {
    IndexInfo {
        name: Some("docker.io".to_owned()),
        mirrors: Some(Vec::new()),
        secure: Some(true),
        official: Some(true),
    }
}

/// How many files this process has open.
fn open_files() -> Option<i64> {
    i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

/// Processors and bytes of memory: the VCH's limits, or what the endpoint VM has where there are none.
fn capacity(limits: &Limits, machine: &Machine) -> (i64, i64) {
    let cpus = match limits.cpu_mhz {
        // A limit is in MHz of the hosts, of which this VM's processor is one.
        Some(limit) if machine.cpu_mhz > 0 => i64::try_from((limit / machine.cpu_mhz).max(1)).unwrap_or(i64::MAX),
        _ => machine.cpus,
    };
    let memory =
        limits.memory_mib.map_or(machine.memory, |mib| i64::try_from(mib.saturating_mul(1 << 20)).unwrap_or(i64::MAX));
    (cpus, memory)
}

/// Bytes for people, as Docker's client writes them: `1.5 GiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut divisor = 1_u64;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1024 {
        divisor *= 1024;
        unit += 1;
    }
    let tenths = (u128::from(bytes) * 10 / u128::from(divisor)).to_string();
    let (whole, tenth) = tenths.split_at(tenths.len() - 1);
    let whole = if whole.is_empty() { "0" } else { whole };
    if tenth == "0" { format!("{whole} {}", UNITS[unit]) } else { format!("{whole}.{tenth} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 30, "1 GiB"), (u64::MAX, "16777215.9 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn every_container_is_counted_once() {
        let states = ["running", "exited", "restarting", "paused", "created", "running", "removing"];
        assert_eq!(counts(states.into_iter()), [2, 1, 4]);
    }

    #[test]
    fn a_proxy_is_shown_without_who_logs_in() {
        for (proxy, expected) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("https://proxy.example/", "https://proxy.example/"),
            ("http://ann:secret1@proxy.example:3128", "http://xxxxx:xxxxx@proxy.example:3128"),
            ("http://ann@proxy.example:3128/", "http://xxxxx:xxxxx@proxy.example:3128/"),
            ("http://:secret1@proxy.example", "http://xxxxx:xxxxx@proxy.example"),
            ("http://ann:sec@ret1@proxy.example", "http://xxxxx:xxxxx@proxy.example"),
            // A URL all the same to whoever goes through the proxy.
            (r"http:\\ann:secret1@proxy.example", "http://xxxxx:xxxxx@proxy.example"),
            ("ann:secret1@proxy.example:3128", ""),
        ] {
            assert_eq!(shown(Some(&Secret::new(proxy))), expected, "{proxy}");
        }
        assert_eq!(shown(None), "");
    }

    #[test]
    fn capacity_is_the_limits_else_the_machines() {
        let machine = Machine { kernel: String::new(), cpus: 2, cpu_mhz: 2000, memory: 1 << 30 };
        assert_eq!(capacity(&Limits::default(), &machine), (2, 1 << 30));
        let limits = Limits { cpu_mhz: Some(9000), memory_mib: Some(4096), ..Limits::default() };
        assert_eq!(capacity(&limits, &machine), (4, 4 << 30));
        let limits = Limits { cpu_mhz: Some(100), ..Limits::default() };
        assert_eq!(capacity(&limits, &machine).0, 1);
    }
}
