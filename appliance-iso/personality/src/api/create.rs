//! `POST /containers/create`: Docker's options become a record, and a document for the guest; what a VM cannot honour is
//! refused by its name.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State as Shared},
    http::StatusCode,
    routing::post,
};
use bollard_stubs::models::{
    ContainerConfig, ContainerCreateBody, ContainerCreateResponse, EndpointSettings, HostConfig,
    HostConfigCgroupnsModeEnum, HostConfigIsolationEnum, ImageConfig, MountType, RestartPolicyNameEnum,
};
use image_store::index::Index;
use port_layer::Size;
use port_layer::container::record::{FOREVER, Record};
use port_layer::guest;
use serde::Deserialize;
use serde_json::Value;

use super::container::done;
use super::images::{self, find};
use super::{State, container_name};
use crate::error::ApiError;

/// Memory of a container that asks for none, MiB.
const MEMORY: u32 = 2048;
/// A guest needs so much for itself and a small process.
const MEMORY_LEAST: u32 = 128;
/// vSphere counts a VM's memory in steps of these.
const MEMORY_STEP: u32 = 4;
/// Most CPUs that a VM of this kind can have.
const CPUS_MOST: u32 = 128;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/containers/create", post(create))
}

#[derive(Debug, Deserialize)]
struct CreateQuery {
    name: Option<String>,
    platform: Option<String>,
}

async fn create(
    Shared(state): Shared<Arc<State>>,
    Query(query): Query<CreateQuery>,
    body: Bytes,
) -> Result<(StatusCode, Json<ContainerCreateResponse>), ApiError> {
    let mut body = read(&body)?;
    if let Some(platform) = query.platform.filter(|p| !["", "linux", "linux/amd64"].contains(&p.as_str())) {
        return Err(ApiError::Bad(format!("platform {platform:?}: containers of a VCH are linux/amd64")));
    }
    let name = query.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
    container_name::check(&name)?;
    let host = body.host_config.take().unwrap_or_default();
    let networks = body.networking_config.take().and_then(|n| n.endpoints_config).unwrap_or_default();
    networks.iter().try_for_each(|(name, network)| refuse_endpoint(name, network))?;
    let size = size(&host)?;
    refuse(&host)?;
    let wanted = body.image.clone().unwrap_or_default();
    if wanted.is_empty() {
        return Err(ApiError::Bad("no image specified".to_owned()));
    }
    let engine = state.engine().await?;
    let engine = engine.ok_or_else(|| ApiError::NotFound(format!("No such image: {wanted}")))?;
    // Its disk stays although somebody removes the image, until the container is listed as its user.
    let own = |index: &Index| find(index, &wanted).ok().map(|(_, image)| image.disk.clone());
    let (index, held) = engine.images().hold(own).await;
    let (image_id, image) = find(&index, &wanted)?;
    let disk = index.disks.get(&image.disk).map(|d| d.name.clone());
    let disk = disk.ok_or_else(|| ApiError::Failed(format!("image {wanted} has no disk in the image store")))?;
    let of_image = images::Config::of(image).config.and_then(|c| serde_json::from_value(c).ok()).unwrap_or_default();
    let mut warnings = Vec::new();
    let id = container_name::id();
    let mut config = merge(body, of_image, &id);
    check(&mut config, &mut warnings)?;
    check_log(&host, &mut warnings)?;
    if let Some(signal) = config.stop_signal.as_deref().filter(|signal| guest::signal::number(signal).is_none()) {
        return Err(ApiError::Bad(format!("Invalid signal: {signal}")));
    }
    let name = if name.is_empty() { container_name::random(&engine.table()) } else { name };
    let guest = guest(&id, &config, &host)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = |value: serde_json::Result<String>| value.map_err(|e| ApiError::Failed(e.to_string()));
    let record = Record {
        schema: vch_config::SCHEMA,
        id: id.clone(),
        name,
        vch: state.config.id.clone(),
        created_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        image: wanted,
        image_id: image_id.to_string(),
        disk,
        config: text(serde_json::to_string(&config))?,
        host_config: text(serde_json::to_string(&host))?,
    };
    let create = async move {
        let _held = held;
        engine.create_container(record, guest, size).await
    };
    done(create).await?;
    Ok((StatusCode::CREATED, Json(ContainerCreateResponse { id, warnings })))
}

/// Reads the body, of which Docker takes some lists as one word, too.
fn read(body: &[u8]) -> Result<ContainerCreateBody, ApiError> {
    let invalid = |e: serde_json::Error| ApiError::Bad(format!("invalid JSON: {e}"));
    let mut body: Value = serde_json::from_slice(body).map_err(invalid)?;
    for key in ["Cmd", "Entrypoint"] {
        if let Some(word @ Value::String(_)) = body.get_mut(key) {
            *word = Value::Array(vec![word.take()]);
        }
    }
    // It stood here before API 1.44.
    if body.get("MacAddress").and_then(Value::as_str).is_some_and(|mac| !mac.is_empty()) {
        return Err(not_supported("--mac-address"));
    }
    let policy = body.pointer("/HostConfig/RestartPolicy/Name").and_then(Value::as_str).unwrap_or_default();
    let known = ["no", "always", "on-failure", "unless-stopped"];
    if !policy.is_empty() && !known.contains(&policy) {
        let known = known.join(", ");
        return Err(ApiError::Bad(format!("invalid restart policy: unknown policy '{policy}'; use one of {known}")));
    }
    serde_json::from_value(body).map_err(invalid)
}

fn not_supported(option: &str) -> ApiError {
    ApiError::Bad(format!("{option} is not supported: a container of a VCH is a VM of its own"))
}

/// Refuses networks that are not there, addresses of the client's own, for vSphere gives them, and names that nobody would answer
/// to.
fn refuse_endpoint(name: &str, network: &EndpointSettings) -> Result<(), ApiError> {
    if !["default", "bridge", "none"].contains(&name) {
        return Err(ApiError::NotFound(format!("network {name} not found")));
    }
    let set = |text: Option<&String>| text.is_some_and(|t| !t.is_empty());
    let ip = network.ipam_config.as_ref();
    let given = [
        ("--mac-address", set(network.mac_address.as_ref())),
        ("--ip", ip.is_some_and(|ip| set(ip.ipv4_address.as_ref()))),
        ("--ip6", ip.is_some_and(|ip| set(ip.ipv6_address.as_ref()))),
        ("--link-local-ip", ip.is_some_and(|ip| ip.link_local_ips.as_ref().is_some_and(|ips| !ips.is_empty()))),
    ];
    if let Some((option, _)) = given.iter().find(|(_, set)| *set) {
        return Err(not_supported(option));
    }
    if network.links.as_ref().is_some_and(|links| !links.is_empty()) {
        return Err(ApiError::NotYet { endpoint: "--link of a container".to_owned() });
    }
    if network.aliases.as_ref().is_some_and(|names| !names.is_empty()) {
        let text = "network-scoped alias is supported only for containers in user defined networks";
        return Err(ApiError::Bad(text.to_owned()));
    }
    Ok(())
}

/// The VM's size: `--memory`, and `--cpus` or `--cpuset-cpus`.
fn size(host: &HostConfig) -> Result<Size, ApiError> {
    let memory_mib = match host.memory.unwrap_or_default() {
        0 => MEMORY,
        bytes => {
            let mib = u32::try_from(bytes.max(0).unsigned_abs().div_ceil(1 << 20)).unwrap_or(u32::MAX);
            if mib < MEMORY_LEAST {
                return Err(ApiError::Bad(format!("Minimum memory limit allowed is {MEMORY_LEAST}MB")));
            }
            mib.div_ceil(MEMORY_STEP).saturating_mul(MEMORY_STEP)
        }
    };
    let nano = host.nano_cpus.unwrap_or_default();
    let set = host.cpuset_cpus.as_deref().unwrap_or_default();
    let cpus = match (nano, set) {
        (0, "") => u64::try_from(host.cpu_count.unwrap_or_default()).unwrap_or_default().max(1),
        (0, set) => u64::from(cpu_set(set)?),
        (nano, "") if nano > 0 => nano.unsigned_abs().div_ceil(1_000_000_000),
        (_, "") => return Err(ApiError::Bad("--cpus must be positive".to_owned())),
        _ => {
            let text =
                "Conflicting options: CPUs and CPU set cannot both be given: either is the number of the VM's CPUs";
            return Err(ApiError::Bad(text.to_owned()));
        }
    };
    match u32::try_from(cpus) {
        Ok(cpus) if cpus <= CPUS_MOST => Ok(Size { memory_mib, cpus }),
        _ => Err(ApiError::Bad(format!("{cpus} CPUs: a container's VM has at most {CPUS_MOST}"))),
    }
}

/// How many CPUs a set names: `0-2,4`.  One number alone is the number of CPUs, as it always was with a VCH.
fn cpu_set(text: &str) -> Result<u32, ApiError> {
    let invalid = || ApiError::Bad(format!("Invalid value {text} for cpuset cpus"));
    if let Ok(count) = text.parse::<u32>() {
        return Ok(count.max(1));
    }
    let mut count = 0_u32;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
        count = count.saturating_add(last.checked_sub(first).ok_or_else(invalid)?.saturating_add(1));
    }
    Ok(count)
}

/// Refuses what a VM of its own cannot honour, or what a VCH does not have yet.
fn refuse(host: &HostConfig) -> Result<(), ApiError> {
    fn some<T>(list: Option<&Vec<T>>) -> bool {
        list.is_some_and(|l| !l.is_empty())
    }
    fn word(text: Option<&String>, harmless: &[&str]) -> bool {
        text.is_some_and(|t| !t.is_empty() && !harmless.contains(&t.as_str()))
    }
    fn number(n: Option<i64>, harmless: &[i64]) -> bool {
        n.is_some_and(|n| n != 0 && !harmless.contains(&n))
    }
    let map = |m: Option<&HashMap<String, String>>| m.is_some_and(|m| !m.is_empty());
    let driver = host.log_config.as_ref().and_then(|l| l.typ.clone());
    // What no VM of its own has: there is no kernel to share, nothing of a host to hand in.
    let never = [
        ("--privileged", host.privileged == Some(true)),
        ("--cap-drop", some(host.cap_drop.as_ref())),
        ("--device", some(host.devices.as_ref())),
        ("--device-cgroup-rule", some(host.device_cgroup_rules.as_ref())),
        ("--gpus", some(host.device_requests.as_ref())),
        ("--security-opt", some(host.security_opt.as_ref())),
        ("--pid", word(host.pid_mode.as_ref(), &[])),
        ("--ipc", word(host.ipc_mode.as_ref(), &["private", "shareable"])),
        ("--uts", word(host.uts_mode.as_ref(), &[])),
        ("--userns", word(host.userns_mode.as_ref(), &["host"])),
        ("--cgroupns", host.cgroupns_mode == Some(HostConfigCgroupnsModeEnum::HOST)),
        ("--cgroup-parent", word(host.cgroup_parent.as_ref(), &[])),
        ("--runtime", word(host.runtime.as_ref(), &["runc"])),
        ("--cpu-shares", number(host.cpu_shares, &[])),
        ("--cpu-period", number(host.cpu_period, &[])),
        ("--cpu-quota", number(host.cpu_quota, &[-1])),
        ("--cpu-rt-period", number(host.cpu_realtime_period, &[])),
        ("--cpu-rt-runtime", number(host.cpu_realtime_runtime, &[])),
        ("--cpuset-mems", word(host.cpuset_mems.as_ref(), &[])),
        ("--memory-reservation", number(host.memory_reservation, &[])),
        ("--memory-swap", number(host.memory_swap, &[-1]) && host.memory_swap != host.memory.map(|m| m * 2)),
        ("--memory-swappiness", number(host.memory_swappiness, &[-1])),
        ("--oom-kill-disable", host.oom_kill_disable == Some(true)),
        ("--oom-score-adj", number(host.oom_score_adj, &[])),
        ("--pids-limit", number(host.pids_limit, &[-1])),
        ("--blkio-weight", host.blkio_weight.is_some_and(|w| w != 0)),
        ("--blkio-weight-device", some(host.blkio_weight_device.as_ref())),
        ("--device-read-bps", some(host.blkio_device_read_bps.as_ref())),
        ("--device-write-bps", some(host.blkio_device_write_bps.as_ref())),
        ("--device-read-iops", some(host.blkio_device_read_iops.as_ref())),
        ("--device-write-iops", some(host.blkio_device_write_iops.as_ref())),
        ("--io-maxiops", number(host.io_maximum_iops, &[])),
        ("--io-maxbandwidth", number(host.io_maximum_bandwidth, &[])),
        ("--cpu-percent", number(host.cpu_percent, &[])),
        ("--sysctl", map(host.sysctls.as_ref())),
        ("--storage-opt", map(host.storage_opt.as_ref())),
        ("--log-driver", word(driver.as_ref(), &["json-file"])),
        ("--network host", host.network_mode.as_deref() == Some("host")),
    ];
    if let Some((option, _)) = never.iter().find(|(_, set)| *set) {
        return Err(not_supported(option));
    }
    if host.isolation.is_some_and(|i| ![HostConfigIsolationEnum::EMPTY, HostConfigIsolationEnum::DEFAULT].contains(&i))
    {
        return Err(not_supported("--isolation"));
    }
    if host.shm_size.is_some_and(|bytes| bytes < 0) {
        return Err(ApiError::Bad("SHM size can not be less than 0".to_owned()));
    }
    if let Some(path) = host.tmpfs.iter().flat_map(HashMap::keys).find(|path| !path.starts_with('/')) {
        return Err(ApiError::Bad(format!("invalid mount path: '{path}' mount path must be absolute")));
    }
    if let Some(wrong) = host.cap_add.iter().flatten().find(|name| !is_capability(name)) {
        return Err(ApiError::Bad(format!("invalid CapAdd: unknown capability: \"{wrong}\"")));
    }
    let soon = [
        ("--volume", some(host.binds.as_ref())),
        ("--mount", host.mounts.iter().flatten().any(|mount| mount.typ != Some(MountType::TMPFS))),
        ("--volume-driver", word(host.volume_driver.as_ref(), &["local"])),
        ("--volumes-from", some(host.volumes_from.as_ref())),
        ("--publish", host.port_bindings.as_ref().is_some_and(|p| p.values().any(|b| some(b.as_ref())))),
        ("--publish-all", host.publish_all_ports == Some(true)),
        ("--link", some(host.links.as_ref())),
        ("--network", word(host.network_mode.as_ref(), &["default", "bridge", "none"])),
    ];
    match soon.iter().find(|(_, set)| *set) {
        Some((option, _)) => Err(ApiError::NotYet { endpoint: format!("{option} of a container") }),
        None => policy(host),
    }
}

/// Whether Docker knows a capability of that name (capabilities(7)), with its prefix or without.
fn is_capability(name: &str) -> bool {
    const NAMES: &str = "ALL AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE \
        DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN \
        NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT \
        SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM";
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.split_whitespace().any(|known| known == name)
}

/// Refuses a restart policy that makes no sense.
fn policy(host: &HostConfig) -> Result<(), ApiError> {
    let Some(policy) = &host.restart_policy else { return Ok(()) };
    let name = policy.name.unwrap_or(RestartPolicyNameEnum::EMPTY);
    let limit = policy.maximum_retry_count.unwrap_or_default();
    let bad = |text: String| Err(ApiError::Bad(format!("invalid restart policy: {text}")));
    let none = [RestartPolicyNameEnum::EMPTY, RestartPolicyNameEnum::NO].contains(&name);
    if name == RestartPolicyNameEnum::ON_FAILURE {
        if limit < 0 {
            return bad("maximum retry count cannot be negative".to_owned());
        }
    } else if limit != 0 {
        return bad(format!("maximum retry count cannot be used with restart policy '{name}'"));
    }
    if !none && host.auto_remove == Some(true) {
        return Err(ApiError::Bad("can't create 'AutoRemove' container with restart policy".to_owned()));
    }
    Ok(())
}

/// The container's configuration: what the client leaves out is the image's.
fn merge(body: ContainerCreateBody, image: ImageConfig, id: &str) -> ContainerConfig {
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let list = |list: Option<Vec<String>>| list.filter(|l| !l.is_empty());
    let mut env = body.env.unwrap_or_default();
    let named = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let known: Vec<String> = env.iter().map(|e| named(e)).collect();
    env.splice(0..0, image.env.unwrap_or_default().into_iter().filter(|e| !known.contains(&named(e))));
    let mut labels = image.labels.unwrap_or_default();
    labels.extend(body.labels.unwrap_or_default());
    let union = |mine: Option<Vec<String>>, images: Option<Vec<String>>| {
        let mut all = images.unwrap_or_default();
        all.extend(mine.unwrap_or_default());
        all.sort();
        all.dedup();
        Some(all).filter(|a| !a.is_empty())
    };
    // An entry point of the client's own does not go with the image's command.
    let (entrypoint, cmd) = match body.entrypoint {
        Some(mine) if mine == [""] => (None, list(body.cmd)),
        Some(mine) if !mine.is_empty() => (Some(mine), list(body.cmd)),
        _ => (image.entrypoint, list(body.cmd).or(image.cmd)),
    };
    ContainerConfig {
        hostname: given(body.hostname).or_else(|| Some(id.chars().take(12).collect())),
        domainname: Some(body.domainname.unwrap_or_default()),
        user: given(body.user).or(image.user).or_else(|| Some(String::new())),
        attach_stdin: Some(body.attach_stdin.unwrap_or_default()),
        attach_stdout: Some(body.attach_stdout.unwrap_or_default()),
        attach_stderr: Some(body.attach_stderr.unwrap_or_default()),
        exposed_ports: union(body.exposed_ports, image.exposed_ports),
        tty: Some(body.tty.unwrap_or_default()),
        open_stdin: Some(body.open_stdin.unwrap_or_default()),
        stdin_once: Some(body.stdin_once.unwrap_or_default()),
        env: Some(env),
        cmd,
        healthcheck: body.healthcheck.or(image.healthcheck),
        image: body.image,
        volumes: union(body.volumes, image.volumes),
        working_dir: given(body.working_dir).or(image.working_dir).or_else(|| Some(String::new())),
        entrypoint,
        labels: Some(labels),
        stop_signal: given(body.stop_signal).or(image.stop_signal),
        stop_timeout: body.stop_timeout,
        ..Default::default()
    }
}

/// Checks what client and image say together.
fn check(config: &mut ContainerConfig, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    if super::words::argv(config).is_empty() {
        return Err(ApiError::Bad("No command specified".to_owned()));
    }
    if let Some(check) = &config.healthcheck {
        let times = [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ];
        if let Some((name, _)) = times.iter().find(|(_, ns)| ns.is_some_and(|ns| ns != 0 && ns < 1_000_000)) {
            return Err(ApiError::Bad(format!("{name} in Healthcheck cannot be less than 1ms")));
        }
        if check.retries.is_some_and(|n| n < 0) {
            return Err(ApiError::Bad("Retries in Healthcheck cannot be negative".to_owned()));
        }
    }
    if let Some(volumes) = &config.volumes {
        warnings.push(format!(
            "no volumes yet: what is written to {} is kept on the container's own disk",
            volumes.join(", ")
        ));
    }
    if config.working_dir.as_ref().is_some_and(|d| !d.is_empty() && !d.starts_with('/')) {
        let wrong = config.working_dir.clone().unwrap_or_default();
        let text = format!("the working directory '{wrong}' is invalid, it needs to be an absolute path");
        return Err(ApiError::Bad(text));
    }
    if let Some(wrong) = config.env.iter().flatten().find(|e| e.starts_with('=') || e.is_empty()) {
        return Err(ApiError::Bad(format!("invalid environment variable: {wrong}")));
    }
    Ok(())
}

/// Checks the log's options: Docker's own are known and, for the log is a file of the VM's, not heeded.
fn check_log(host: &HostConfig, warnings: &mut Vec<String>) -> Result<(), ApiError> {
    const KNOWN: [&str; 10] = [
        "max-file",
        "max-size",
        "compress",
        "labels",
        "labels-regex",
        "env",
        "env-regex",
        "tag",
        "mode",
        "max-buffer-size",
    ];
    let given: BTreeSet<&str> =
        host.log_config.iter().filter_map(|l| l.config.as_ref()).flat_map(|c| c.keys()).map(String::as_str).collect();
    if let Some(wrong) = given.iter().find(|name| !KNOWN.contains(name)) {
        return Err(ApiError::Bad(format!("unknown log opt '{wrong}' for json-file log driver")));
    }
    if !given.is_empty() {
        let given = Vec::from_iter(given).join(", ");
        warnings.push(format!("--log-opt {given}: not heeded, the whole output is kept with the container's VM"));
    }
    Ok(())
}

/// `--add-host`: addresses and names for the container's /etc/hosts.
fn extra_hosts(host: &HostConfig) -> Result<Vec<(IpAddr, String)>, ApiError> {
    let one = |entry: &String| {
        let bad = || ApiError::Bad(format!("bad format for add-host: {entry:?}"));
        let (name, address) = entry.split_once([':', '=']).filter(|(name, _)| !name.is_empty()).ok_or_else(bad)?;
        if address == "host-gateway" {
            // Docker's word for its bridge's address: here there is none to give.
            let endpoint = format!("--add-host {name}:host-gateway (a container has no gateway yet: give an address)");
            return Err(ApiError::NotYet { endpoint });
        }
        let invalid = |_| ApiError::Bad(format!("invalid IP address in add-host: {address:?}"));
        Ok((address.parse().map_err(invalid)?, name.to_owned()))
    };
    host.extra_hosts.iter().flatten().map(one).collect()
}

/// `--tmpfs` and `--mount type=tmpfs`: file systems in memory, with their options.
fn tmpfs(host: &HostConfig) -> Result<Vec<guest::Tmpfs>, ApiError> {
    let plain = host.tmpfs.iter().flatten().map(|(at, options)| (at.clone(), options.clone()));
    let mut all: Vec<_> = plain.map(|(at, options)| guest::Tmpfs { at, options }).collect();
    for mount in host.mounts.iter().flatten() {
        let at = mount.target.clone().unwrap_or_default();
        let bad = |what: &str| Err(ApiError::Bad(format!("invalid mount config for type \"tmpfs\": {what}")));
        if mount.source.as_ref().is_some_and(|source| !source.is_empty()) {
            return bad("field Source must not be specified");
        }
        if !at.starts_with('/') || at.trim_matches('/').is_empty() {
            return bad(&format!("invalid mount path: '{at}': it must be absolute, and not the root"));
        }
        if all.iter().any(|other| other.at == at) {
            return Err(ApiError::Bad(format!("Duplicate mount point: {at}")));
        }
        let own = mount.tmpfs_options.as_ref();
        let mut options = Vec::new();
        options.extend(mount.read_only.filter(|read_only| *read_only).map(|_| "ro".to_owned()));
        options.extend(own.and_then(|o| o.size_bytes).filter(|n| *n > 0).map(|n| format!("size={n}")));
        options.extend(own.and_then(|o| o.mode).filter(|n| *n > 0).map(|n| format!("mode={n:o}")));
        // A word, or a name and its value.
        options.extend(own.and_then(|o| o.options.as_ref()).into_iter().flatten().map(|words| words.join("=")));
        all.push(guest::Tmpfs { at, options: options.join(",") });
    }
    Ok(all)
}

/// What the guest is told.
fn guest(id: &str, config: &ContainerConfig, host: &HostConfig) -> Result<guest::Container, ApiError> {
    let addresses = |what: &str, list: Option<&Vec<String>>| -> Result<Vec<IpAddr>, ApiError> {
        let parsed = list.into_iter().flatten().map(|a| a.parse());
        parsed.collect::<Result<_, _>>().map_err(|_| ApiError::Bad(format!("{what}: {list:?}: it is no IP address")))
    };
    let limit = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    let process = guest::Process {
        args: super::words::argv(config),
        // A name alone takes the variable away.
        env: config.env.iter().flatten().filter(|e| e.contains('=')).cloned().collect(),
        cwd: config.working_dir.clone().unwrap_or_default(),
        user: config.user.clone().unwrap_or_default(),
        groups: host.group_add.clone().unwrap_or_default(),
        tty: config.tty.unwrap_or_default(),
        stdin: config.open_stdin.unwrap_or_default(),
        stdin_once: config.stdin_once.unwrap_or_default(),
        rlimits: host
            .ulimits
            .iter()
            .flatten()
            .map(|l| guest::Rlimit {
                name: l.name.clone().unwrap_or_default(),
                soft: limit(l.soft),
                hard: limit(l.hard),
            })
            .collect(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        stop_seconds: config.stop_timeout.map(|s| u64::try_from(s).unwrap_or(FOREVER)),
    };
    Ok(guest::Container {
        schema: vch_config::SCHEMA,
        id: id.to_owned(),
        process,
        root: guest::Disk { unit: 0, file_system: String::new() },
        root_read_only: host.readonly_rootfs.unwrap_or_default(),
        folders: config.volumes.clone().unwrap_or_default(),
        tmpfs: tmpfs(host)?,
        shm_bytes: host.shm_size.and_then(|s| u64::try_from(s).ok()).unwrap_or_default(),
        host_name: config.hostname.clone().unwrap_or_default(),
        domain_name: config.domainname.clone().unwrap_or_default(),
        extra_hosts: extra_hosts(host)?,
        dns: guest::Dns {
            servers: addresses("--dns", host.dns.as_ref())?,
            search: host.dns_search.clone().unwrap_or_default(),
            options: host.dns_options.clone().unwrap_or_default(),
        },
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(json: &str) -> HostConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_body_is_read_as_docker_reads_it() {
        let body = read(br#"{"Cmd":"true","Entrypoint":["a","b"]}"#).unwrap();
        assert_eq!((body.cmd, body.entrypoint), (Some(vec!["true".into()]), Some(vec!["a".into(), "b".into()])));
        for (json, words) in [
            (r#"{"MacAddress":"02:00:00:00:00:01"}"#, "--mac-address is not supported"),
            (r#"{"HostConfig":{"RestartPolicy":{"Name":"bogus"}}}"#, "unknown policy 'bogus'; use one of no, always"),
            ("[", "invalid JSON"),
        ] {
            assert!(read(json.as_bytes()).unwrap_err().to_string().contains(words), "{json}");
        }
    }

    #[test]
    fn memory_and_cpus_size_the_vm() {
        for (json, memory_mib, cpus) in [
            ("{}", 2048, 1),
            (r#"{"Memory":536870912,"NanoCpus":1500000000}"#, 512, 2),
            (r#"{"Memory":536870913,"CpusetCpus":"0-2,5"}"#, 516, 4),
            (r#"{"CpusetCpus":"3"}"#, 2048, 3),
        ] {
            assert_eq!(size(&host(json)).unwrap(), Size { memory_mib, cpus }, "{json}");
        }
        for (json, words) in [
            (r#"{"Memory":1048576}"#, "Minimum memory limit allowed is 128MB"),
            (r#"{"NanoCpus":-1}"#, "must be positive"),
            (r#"{"CpusetCpus":"2-1"}"#, "Invalid value 2-1 for cpuset cpus"),
            (r#"{"CpusetCpus":"a"}"#, "Invalid value a for cpuset cpus"),
            (r#"{"NanoCpus":1,"CpusetCpus":"0-1"}"#, "Conflicting options"),
            (r#"{"CpusetCpus":"999"}"#, "at most 128"),
        ] {
            assert!(size(&host(json)).unwrap_err().to_string().contains(words), "{json}");
        }
    }

    #[test]
    fn what_a_client_sends_by_default_is_accepted_and_what_a_vm_cannot_do_is_refused() {
        // As docker 20.10 sends it for `docker run -d busybox`.
        let usual = r#"{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},"NetworkMode":"default",
            "PortBindings":{},"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"",
            "VolumesFrom":null,"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],
            "ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"",
            "Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"",
            "UsernsMode":"","ShmSize":0,"ConsoleSize":[0,0],"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,
            "CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],"CpuPeriod":0,"CpuQuota":0,"CpusetCpus":"",
            "Devices":[],"DeviceRequests":null,"KernelMemory":0,"MemoryReservation":0,"MemorySwap":0,
            "MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":null,"MaskedPaths":null}"#;
        assert_eq!(refuse(&host(usual)), Ok(()));
        for (json, option) in [
            (r#"{"Privileged":true}"#, "--privileged is not supported: a container of a VCH is a VM of its own"),
            (r#"{"CapDrop":["ALL"]}"#, "--cap-drop is not supported"),
            (r#"{"PidMode":"host"}"#, "--pid is not supported"),
            (r#"{"OomScoreAdj":500}"#, "--oom-score-adj is not supported"),
            (r#"{"CgroupnsMode":"host"}"#, "--cgroupns is not supported"),
            (r#"{"IOMaximumIOps":7}"#, "--io-maxiops is not supported"),
            (r#"{"VolumeDriver":"nfs"}"#, "does not yet implement --volume-driver"),
            (r#"{"NetworkMode":"host"}"#, "--network host is not supported"),
            (r#"{"Binds":["/a:/b"]}"#, "does not yet implement --volume"),
            (
                r#"{"RestartPolicy":{"Name":"always"},"AutoRemove":true}"#,
                "can't create 'AutoRemove' container with restart",
            ),
            (
                r#"{"RestartPolicy":{"Name":"always","MaximumRetryCount":3}}"#,
                "cannot be used with restart policy 'always'",
            ),
            (r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}}"#, "cannot be negative"),
            (r#"{"Isolation":"hyperv"}"#, "--isolation is not supported"),
            (r#"{"ShmSize":-5}"#, "SHM size can not be less than 0"),
            (r#"{"Tmpfs":{"rel":""}}"#, "mount path must be absolute"),
            (r#"{"CapAdd":["NET_ADMIN","cap_chown","BOGUS"]}"#, "unknown capability: \"BOGUS\""),
            (r#"{"PortBindings":{"80/tcp":[{"HostPort":"80"}]}}"#, "does not yet implement --publish"),
        ] {
            let said = refuse(&host(json)).unwrap_err().to_string();
            assert!(said.contains(option), "{json}: {said}");
        }
    }

    #[test]
    fn what_no_network_gives_is_refused() {
        let said =
            |json: &str| refuse_endpoint("none", &serde_json::from_str(json).unwrap()).map_err(|e| e.to_string());
        let other = refuse_endpoint("front", &EndpointSettings::default());
        assert_eq!(other, Err(ApiError::NotFound("network front not found".to_owned())));
        // As a client sends it for a container without a word on networks.
        let usual = r#"{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"","DriverOpts":null}"#;
        assert_eq!(said(usual), Ok(()));
        for (json, words) in [
            (r#"{"IPAMConfig":{"IPv4Address":"192.0.2.9"}}"#, "--ip is not supported"),
            (r#"{"Links":["db:db"]}"#, "does not yet implement --link"),
            (r#"{"Aliases":["web"]}"#, "network-scoped alias is supported only for containers in user defined"),
        ] {
            assert!(said(json).is_err_and(|said| said.contains(words)), "{json}");
        }
    }

    #[test]
    fn names_of_hosts_have_addresses() {
        let read =
            |entry: &str| extra_hosts(&HostConfig { extra_hosts: Some(vec![entry.into()]), ..Default::default() });
        assert_eq!(read("db:192.0.2.9"), Ok(vec![([192, 0, 2, 9].into(), "db".to_owned())]));
        assert_eq!(read("db:::1"), Ok(vec![(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), "db".to_owned())]));
        for (entry, words) in [
            ("db", "bad format for add-host: \"db\""),
            (":192.0.2.9", "bad format for add-host"),
            ("db:elsewhere", "invalid IP address in add-host: \"elsewhere\""),
            (
                "host.docker.internal:host-gateway",
                "does not yet implement --add-host host.docker.internal:host-gateway",
            ),
        ] {
            let said = read(entry).unwrap_err().to_string();
            assert!(said.contains(words), "{entry}: {said}");
        }
    }

    #[test]
    fn file_systems_in_memory_are_asked_for_in_two_ways() {
        let read = |json: &str| tmpfs(&host(json)).map_err(|e| e.to_string());
        let at = |at: &str, options: &str| guest::Tmpfs { at: at.into(), options: options.into() };
        let mounts = r#"{"Tmpfs":{"/run":"size=1m"},"Mounts":[{"Type":"tmpfs","Target":"/cache"},
            {"Type":"tmpfs","Target":"/x","ReadOnly":true,
             "TmpfsOptions":{"SizeBytes":4096,"Mode":448,"Options":[["exec"],["uid","7"]]}}]}"#;
        let expected = [at("/run", "size=1m"), at("/cache", ""), at("/x", "ro,size=4096,mode=700,exec,uid=7")];
        assert_eq!(read(mounts), Ok(expected.to_vec()));
        assert_eq!(refuse(&host(mounts)), Ok(()));
        for (mount, words) in [
            (r#""Target":"rel""#, "invalid mount path: 'rel'"),
            (r#""Target":"/""#, "and not the root"),
            (r#""Target":"/x","Source":"/y""#, "field Source must not be specified"),
            (r#""Target":"/run""#, "Duplicate mount point: /run"),
        ] {
            let json = format!(r#"{{"Tmpfs":{{"/run":""}},"Mounts":[{{"Type":"tmpfs",{mount}}}]}}"#);
            assert!(read(&json).is_err_and(|said| said.contains(words)), "{json}");
        }
        assert!(refuse(&host(r#"{"Mounts":[{"Type":"bind"}]}"#)).is_err());
    }

    #[test]
    fn options_of_the_log_are_known_and_not_heeded() {
        let mut warnings = Vec::new();
        let log = |config: &str| host(&format!(r#"{{"LogConfig":{{"Type":"json-file","Config":{config}}}}}"#));
        assert_eq!(check_log(&log("{}"), &mut warnings), Ok(()));
        assert_eq!(warnings, [""; 0]);
        assert_eq!(check_log(&log(r#"{"max-size":"1m","max-file":"3"}"#), &mut warnings), Ok(()));
        assert!(warnings[0].starts_with("--log-opt max-file, max-size: not heeded"), "{warnings:?}");
        let refused = check_log(&log(r#"{"syslog-address":"x"}"#), &mut warnings).unwrap_err();
        assert_eq!(refused.to_string(), "unknown log opt 'syslog-address' for json-file log driver");
    }

    #[test]
    fn what_the_client_leaves_out_is_the_images() {
        let image: ImageConfig = serde_json::from_str(
            r#"{"Env":["PATH=/bin","A=image"],"Cmd":["sh"],"Entrypoint":["/init"],"User":"app","Labels":{"a":"1","b":"2"},
                "WorkingDir":"/srv","StopSignal":"SIGINT","ExposedPorts":{"80/tcp":{}}}"#,
        )
        .unwrap();
        let merged = |json: &str| merge(serde_json::from_str(json).unwrap(), image.clone(), &"c".repeat(64));
        let plain = merged("{}");
        assert_eq!(super::super::words::argv(&plain), ["/init", "sh"]);
        assert_eq!((plain.hostname.unwrap().len(), plain.user.unwrap()), (12, "app".to_owned()));
        let own = merged(r#"{"Cmd":["ls"],"Env":["A=mine","B="],"Labels":{"b":"3"},"User":"0","WorkingDir":""}"#);
        assert_eq!(super::super::words::argv(&own), ["/init", "ls"]);
        assert_eq!(own.env.unwrap(), ["PATH=/bin", "A=mine", "B="]);
        assert_eq!(own.labels.unwrap()["b"], "3");
        assert_eq!((own.user.unwrap().as_str(), own.working_dir.unwrap().as_str()), ("0", "/srv"));
        assert_eq!(super::super::words::argv(&merged(r#"{"Entrypoint":["/mine"]}"#)), ["/mine"]);
        let reset = merged(r#"{"Entrypoint":[""],"Cmd":["ls"]}"#);
        assert_eq!(super::super::words::argv(&reset), ["ls"]);
        let mut nothing = merge(ContainerCreateBody::default(), ImageConfig::default(), "c");
        assert_eq!(check(&mut nothing, &mut Vec::new()), Err(ApiError::Bad("No command specified".to_owned())));
    }
}
