//! What is said of a container in Docker's words.

use std::collections::HashMap;

use bollard_stubs::models::{self, ContainerConfig, HostConfig, PortSummary, PortSummaryTypeEnum};
use image_store::index::Index;
use port_layer::container::health::{Health, Probe, Status};
use port_layer::container::phase::Phase;
use port_layer::container::record::Record;
use port_layer::container::table::Container;
use serde_json::{Map, Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::images::find;

/// Docker's `Config` of the container.
pub(super) fn config(record: &Record) -> ContainerConfig {
    serde_json::from_str(&record.config).unwrap_or_default()
}

/// Docker's `HostConfig` of the container.
pub(super) fn host_config(record: &Record) -> HostConfig {
    serde_json::from_str(&record.host_config).unwrap_or_default()
}

/// Docker's defaults of a `HostConfig`.
const HOST_CONFIG: &str = r#"{
    "AutoRemove": false, "Binds": null, "BlkioDeviceReadBps": null, "BlkioDeviceReadIOps": null,
    "BlkioDeviceWriteBps": null, "BlkioDeviceWriteIOps": null, "BlkioWeight": 0, "BlkioWeightDevice": [],
    "CapAdd": null, "CapDrop": null, "Cgroup": "", "CgroupParent": "", "CgroupnsMode": "private",
    "ConsoleSize": [0, 0], "ContainerIDFile": "", "CpuCount": 0, "CpuPercent": 0, "CpuPeriod": 0, "CpuQuota": 0,
    "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpuShares": 0, "CpusetCpus": "", "CpusetMems": "",
    "DeviceCgroupRules": null, "DeviceRequests": null, "Devices": [], "Dns": [], "DnsOptions": [], "DnsSearch": [],
    "ExtraHosts": null, "GroupAdd": null, "IOMaximumBandwidth": 0, "IOMaximumIOps": 0, "IpcMode": "private",
    "Isolation": "", "Links": null, "LogConfig": {"Type": "json-file", "Config": {}}, "MaskedPaths": [], "Memory": 0,
    "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": null, "NanoCpus": 0, "NetworkMode": "default",
    "OomKillDisable": false, "OomScoreAdj": 0, "PidMode": "", "PidsLimit": null, "PortBindings": {},
    "Privileged": false, "PublishAllPorts": false, "ReadonlyPaths": [], "ReadonlyRootfs": false,
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "Runtime": "vic", "SecurityOpt": null,
    "ShmSize": 67108864, "UTSMode": "", "Ulimits": null, "UsernsMode": "", "VolumeDriver": "", "VolumesFrom": null
}"#;

/// Docker's `HostConfig` with everything that a client may look for: what was not asked for has Docker's default.
pub(super) fn whole_host_config(record: &Record) -> Value {
    let read = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let (mut whole, mut given) = (read(HOST_CONFIG), read(&record.host_config));
    // Of these a client may give a part.
    for name in ["LogConfig", "RestartPolicy"] {
        if let (Some(Value::Object(part)), Some(Value::Object(given))) = (whole.get_mut(name), given.remove(name)) {
            lay_over(part, given);
        }
    }
    lay_over(&mut whole, given);
    Value::Object(whole)
}

/// Puts what a client gives in the place of the defaults.
fn lay_over(defaults: &mut Map<String, Value>, given: Map<String, Value>) {
    // What it leaves empty it has not said.
    let nothing = |value: &Value| value.is_null() || *value == json!("") || *value == json!(0);
    defaults.extend(given.into_iter().filter(|(_, value)| !nothing(value)));
}

/// The ports that image and client say a container has, while it runs; nobody publishes them yet.
pub(super) fn ports(record: &Record, phase: &Phase) -> Vec<PortSummary> {
    if !phase.is_alive() || host_config(record).network_mode.as_deref() == Some("none") {
        return Vec::new();
    }
    let one = |port: String| {
        let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
        let typ = match protocol {
            "tcp" => PortSummaryTypeEnum::TCP,
            "udp" => PortSummaryTypeEnum::UDP,
            "sctp" => PortSummaryTypeEnum::SCTP,
            _ => return None,
        };
        Some(PortSummary { private_port: number.parse().ok()?, typ: Some(typ), ip: None, public_port: None })
    };
    config(record).exposed_ports.into_iter().flatten().filter_map(one).collect()
}

/// Docker's `NetworkSettings` of a container that has no network yet.
pub(super) fn network_settings(ports: &[PortSummary]) -> Value {
    let key = |port: &PortSummary| Some(format!("{}/{}", port.private_port, port.typ?));
    let ports: Map<String, Value> = ports.iter().filter_map(key).map(|port| (port, Value::Null)).collect();
    json!({
        "Bridge": "", "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
        "HairpinMode": false, "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0, "MacAddress": "", "Networks": {}, "Ports": ports, "SandboxID": "", "SandboxKey": "",
        "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null,
    })
}

/// Entry point and command.
pub(super) fn argv(config: &ContainerConfig) -> Vec<String> {
    [&config.entrypoint, &config.cmd].into_iter().flatten().flatten().cloned().collect()
}

/// A command line as Docker shows it: arguments with blanks in quotes.
pub(super) fn command(argv: &[String]) -> String {
    let Some((program, arguments)) = argv.split_first() else { return String::new() };
    let quoted = |argument: &String| if argument.contains(' ') { format!("'{argument}'") } else { argument.clone() };
    [program.clone()].into_iter().chain(arguments.iter().map(quoted)).collect::<Vec<_>>().join(" ")
}

/// Whether a filter's `name` or `name=value` is among the labels.
pub(super) fn has_label(labels: &HashMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|l| l == value),
        None => labels.contains_key(wanted),
    }
}

/// Whether the container was made from the image that a filter names, by reference or id.
pub(super) fn is_image(record: &Record, wanted: &str) -> bool {
    let id = record.image_id.trim_start_matches("sha256:");
    let tagged = format!("{wanted}:latest");
    record.image == wanted
        || record.image == tagged
        || record.image.strip_suffix(":latest") == Some(wanted)
        || (!wanted.is_empty() && id.starts_with(wanted.trim_start_matches("sha256:")))
}

/// The image that a list shows: as the client named it, or by its id where that name is gone or has become another image's.
pub(super) fn image(record: &Record, index: &Index) -> String {
    match find(index, &record.image) {
        Ok((id, _)) if id.as_str() == record.image_id => record.image.clone(),
        _ => record.image_id.clone(),
    }
}

/// Bytes of the image's files: all that is known of what is in a container's root.
pub(super) fn size(record: &Record, index: &Index) -> Option<i64> {
    let image = index.images.iter().find(|(id, _)| id.as_str() == record.image_id).map(|(_, image)| image);
    image.and_then(|image| i64::try_from(image.bytes).ok())
}

/// RFC 3339 with nanoseconds; Docker's zero where there is none.
pub(super) fn time(ns: Option<u64>) -> String {
    ns.and_then(|ns| OffsetDateTime::from_unix_timestamp_nanos(ns.into()).ok())
        .and_then(|t| t.format(&Rfc3339).ok())
        .unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned())
}

/// Docker's `State.Health`.
pub(super) fn health(health: &Health) -> models::Health {
    let probe = |probe: &Probe| models::HealthcheckResult {
        start: Some(time(Some(probe.start_ns))),
        end: Some(time(Some(probe.end_ns))),
        exit_code: Some(probe.code.into()),
        output: Some(probe.output.clone()),
    };
    models::Health {
        status: Some(match health.status {
            Status::Starting => models::HealthStatusEnum::STARTING,
            Status::Healthy => models::HealthStatusEnum::HEALTHY,
            Status::Unhealthy => models::HealthStatusEnum::UNHEALTHY,
        }),
        failing_streak: Some(health.failing_streak.into()),
        log: Some(health.log.iter().map(probe).collect()),
    }
}

/// `Up 3 minutes`, `Exited (0) 5 seconds ago`.
pub(super) fn status(container: &Container, phase: &Phase, health: Option<&Health>, now: OffsetDateTime) -> String {
    let since = |ns: Option<u64>| {
        let then = ns.and_then(|ns| OffsetDateTime::from_unix_timestamp_nanos(ns.into()).ok()).unwrap_or(now);
        human(now - then)
    };
    let run = container.run.as_ref();
    let (started, finished) = (run.and_then(|r| r.started_ns), run.and_then(|r| r.finished_ns));
    match phase {
        Phase::Created { .. } => "Created".to_owned(),
        Phase::Starting | Phase::Running => {
            let health = match health.map(|h| h.status) {
                None => "",
                Some(Status::Starting) => " (health: starting)",
                Some(Status::Healthy) => " (healthy)",
                Some(Status::Unhealthy) => " (unhealthy)",
            };
            format!("Up {}{health}", since(started))
        }
        Phase::Paused => format!("Up {} (Paused)", since(started)),
        Phase::Exited { code, .. } => format!("Exited ({code}) {} ago", since(finished)),
        Phase::Restarting { code, .. } => format!("Restarting ({code}) {} ago", since(finished)),
        Phase::Removing => "Removal In Progress".to_owned(),
    }
}

/// A duration as Docker says it to people.
fn human(duration: Duration) -> String {
    let seconds = duration.whole_seconds().max(0);
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (.., 0 | 1) => "About an hour".to_owned(),
        (.., 2..48) => format!("{hours} hours"),
        (.., 48..336) => format!("{} days", hours / 24),
        (.., 336..1440) => format!("{} weeks", hours / 24 / 7),
        (.., 1440..17520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use image_store::Digest;
    use image_store::index::Image;

    use super::*;

    #[test]
    fn a_command_line_is_shown_with_quotes() {
        let shown = |argv: &[&str]| command(&argv.iter().map(|&a| a.to_owned()).collect::<Vec<_>>());
        assert_eq!(shown(&["sh", "-c", "exit 3"]), "sh -c 'exit 3'");
        assert_eq!(shown(&["/a b", "c"]), "/a b c");
        assert_eq!(shown(&[]), "");
    }

    fn record(image: &str, image_id: &str, host_config: &str) -> Record {
        Record {
            schema: 1,
            id: "ab12".into(),
            name: "web".into(),
            vch: "v".into(),
            created_ns: 1,
            image: image.into(),
            image_id: image_id.into(),
            disk: String::new(),
            config: "{}".into(),
            host_config: host_config.into(),
        }
    }

    #[test]
    fn a_container_is_shown_with_its_images_name_while_that_is_its_images() {
        let [old, new] = [&b"old"[..], b"new"].map(Digest::new);
        let image = Image { disk: old.clone(), manifest: old.clone(), config: "{}".into(), bytes: 1, tagged_ns: 1 };
        let images = [(old.clone(), image.clone()), (new.clone(), image)].into();
        let mut index = Index { images, ..Index::default() };
        let short: String = old.hex().chars().take(12).collect();
        let shown = |index: &Index, name: &str| super::image(&record(name, old.as_str(), "{}"), index);
        index.tags.insert("docker.io/library/nginx:1".into(), old.clone());
        assert_eq!([shown(&index, "nginx:1"), shown(&index, &short)], ["nginx:1", &short]);
        index.tags.insert("docker.io/library/nginx:1".into(), new);
        assert_eq!(shown(&index, "nginx:1"), old.as_str(), "the name is another image's");
        index.tags.clear();
        assert_eq!(shown(&index, "nginx:1"), old.as_str(), "the name is gone");
        assert_eq!(size(&record("nginx:1", old.as_str(), "{}"), &index), Some(1));
        index.images.clear();
        assert_eq!(shown(&index, &short), old.as_str(), "the image is gone");
    }

    #[test]
    fn what_was_not_asked_for_has_dockers_default() {
        let asked = r#"{"Memory":5,"NanoCpus":0,"RestartPolicy":{"Name":"always"},"IpcMode":"",
            "LogConfig":{"Type":"","Config":{"max-size":"1m"}}}"#;
        let mut record = record("nginx:1", "sha256:77", asked);
        let whole = whole_host_config(&record);
        assert_eq!(
            (&whole["Memory"], &whole["NanoCpus"], &whole["IpcMode"]),
            (&json!(5), &json!(0), &json!("private"))
        );
        assert_eq!(whole["RestartPolicy"], json!({"Name": "always", "MaximumRetryCount": 0}));
        assert_eq!(whole["LogConfig"], json!({"Type": "json-file", "Config": {"max-size": "1m"}}));
        record.host_config = "nonsense".into();
        assert_eq!(whole_host_config(&record)["ShmSize"], 67_108_864);
    }

    #[test]
    fn a_container_that_runs_has_the_ports_that_are_told_of_it() {
        let mut record = record("nginx:1", "sha256:77", "{}");
        record.config = r#"{"ExposedPorts":{"80":{},"53/udp":{},"odd":{}}}"#.into();
        let mut shown: Vec<_> = ports(&record, &Phase::Running).iter().map(|p| (p.private_port, p.typ)).collect();
        shown.sort_unstable();
        assert_eq!(shown, [(53, Some(PortSummaryTypeEnum::UDP)), (80, Some(PortSummaryTypeEnum::TCP))]);
        let settings = network_settings(&ports(&record, &Phase::Running));
        assert_eq!(settings["Ports"], json!({"53/udp": null, "80/tcp": null}));
        assert_eq!(ports(&record, &Phase::Created { failed: None }), []);
        record.host_config = r#"{"NetworkMode":"none"}"#.into();
        assert_eq!(ports(&record, &Phase::Running), []);
    }

    #[test]
    fn durations_are_said_as_docker_says_them() {
        for (seconds, said) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (730 * 86400, "2 years"),
        ] {
            assert_eq!(human(Duration::seconds(seconds)), said, "{seconds}");
        }
    }
}
