//! What a real Docker daemon without containers says, beside what we say.

use std::path::Path;

use docker_oracle::{Answer, Daemon, ask, differences};
use serde_json::Value;

use crate::ours::Ours;

/// Where our answers have another shape than Docker's, and why.  A path stands for all below it.
const DIFFERENCES: &[(&str, &str)] = &[
    ("/version .Components[].Details.BuildTime", "the build is reproducible: it has no time"),
    ("/version .Components[].Details.GitCommit", "the version names the build"),
    ("/info .Swarm", "a VCH is never part of a swarm, and its absence is how clients tell"),
    ("/info .Runtimes", "there is no container runtime: the VM is the box"),
    ("/info .DefaultRuntime", "as Runtimes"),
    ("/info .ContainerdCommit", "as Runtimes"),
    ("/info .RuncCommit", "as Runtimes"),
    ("/info .InitCommit", "as Runtimes"),
    ("/info .InitBinary", "as Runtimes"),
    ("/info .Containerd", "as Runtimes"),
    ("/info .CgroupDriver", "containers are not cgroups of this machine"),
    ("/info .CgroupVersion", "as CgroupDriver"),
    ("/info .NGoroutines", "there are none"),
    ("/info .KernelMemory", "Docker removed it in API 1.42"),
    ("/info .KernelMemoryTCP", "as KernelMemory"),
    ("/info .BridgeNfIptables", "Docker removed it in API 1.50"),
    ("/info .BridgeNfIp6tables", "as BridgeNfIptables"),
    ("/info .DockerRootDir", "a VCH keeps nothing on the endpoint VM"),
    ("/info .RegistryConfig.AllowNondistributableArtifacts", "Docker removed it in API 1.50"),
    ("/info .FirewallBackend", "newer than the oracle's"),
    ("/info .DiscoveredDevices", "newer than the oracle's"),
    ("/info .CDISpecDirs", "there are no devices to pass"),
    ("/networks []", "Docker has host and none, which a VCH does not; bridge comes with its networks"),
    ("/system/df .ImageUsage", "newer than the clients that are spoken to"),
    ("/system/df .ContainerUsage", "as ImageUsage"),
    ("/system/df .VolumeUsage", "as ImageUsage"),
    ("/system/df .BuildCacheUsage", "as ImageUsage"),
];

/// Requests about what is not there: the answer is Docker's, status and words.
const REQUESTS: &[(&str, &str)] = &[
    ("GET", "/nonsense"),
    ("DELETE", "/info"),
    ("GET", "/containers/web/json"),
    ("POST", "/containers/web/start"),
    ("POST", "/containers/web/wait"),
    ("GET", "/containers/web/archive?path=/etc"),
    ("DELETE", "/containers/web"),
    ("DELETE", "/images/nginx"),
    ("GET", "/images/nginx/history"),
    ("POST", "/images/nginx/tag?repo=mine"),
    ("GET", "/volumes/data"),
    ("DELETE", "/volumes/data"),
    ("GET", "/networks/front"),
    ("DELETE", "/networks/front"),
    ("GET", "/exec/4e7c/json"),
    ("GET", "/plugins/sshfs/json"),
];

#[test]
fn answers_have_the_shape_of_dockers() {
    let Some(daemon) = Daemon::start() else { return };
    let ours = Ours::serve();
    let mut unexplained = Vec::new();
    for path in
        ["/version", "/info", "/containers/json", "/images/json", "/networks", "/volumes", "/plugins", "/system/df"]
    {
        let of = |socket: &Path| {
            let answer = ask(socket, "GET", path, "").unwrap();
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            serde_json::from_str(&answer.body).unwrap()
        };
        unexplained.extend(differences(path, &of(&daemon.socket()), &of(&ours.socket()), DIFFERENCES));
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
}

#[test]
fn what_is_not_there_is_refused_in_dockers_words() {
    let Some(daemon) = Daemon::start() else { return };
    let ours = Ours::serve();
    for (method, path) in REQUESTS {
        let of = |socket: &Path| {
            let answer = ask(socket, method, path, "").unwrap();
            (answer.status, serde_json::from_str::<Value>(&answer.body).unwrap())
        };
        assert_eq!(of(&ours.socket()), of(&daemon.socket()), "{method} {path}");
    }
}

#[test]
fn a_ping_has_dockers_headers() {
    let Some(daemon) = Daemon::start() else { return };
    let ours = Ours::serve();
    let names = |socket: &Path| {
        let Answer { status, head, body } = ask(socket, "GET", "/_ping", "").unwrap();
        assert_eq!((status, body.as_str()), (200, "OK"));
        let mut names: Vec<_> =
            head.lines().skip(1).filter_map(|line| Some(line.split_once(':')?.0.to_ascii_lowercase())).collect();
        // Newer daemons say both; the oracle may be older.
        names.retain(|name| !["builder-version", "swarm", "connection"].contains(&name.as_str()));
        names.sort_unstable();
        names
    };
    assert_eq!(names(&ours.socket()), names(&daemon.socket()));
}
