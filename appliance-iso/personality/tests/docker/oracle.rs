//! What a real Docker daemon without containers says, beside what we say.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::Value;

use crate::{LIMIT, daemon::Daemon, ours::Ours};

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

/// Status and body of a request; `None` when nobody answers.  In HTTP/1.0, so that the body ends with the connection.
pub(crate) fn get(socket: &Path, method: &str, path: &str) -> Option<(u16, String, String)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, head.to_owned(), body.to_owned()))
}

/// The kind of each value by its path.  A list's elements share one path, so that how many there are does not count.
fn shape(path: &str, value: &Value, into: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(list) => {
            list.iter().for_each(|element| shape(&format!("{path}[]"), element, into));
            "list"
        }
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| shape(&format!("{path}.{key}"), value, into));
            "object"
        }
    };
    into.insert(path.to_owned(), kind);
}

/// Whether one stands for the other: Go writes an empty list or map as null, or leaves it out.
fn alike(a: Option<&str>, b: Option<&str>) -> bool {
    let null = |kind: Option<&str>| kind == Some("null");
    let nothing = |kind: Option<&str>| kind.is_none_or(|kind| ["null", "list", "object"].contains(&kind));
    a == b || (null(a) && nothing(b)) || (null(b) && nothing(a))
}

#[test]
fn answers_have_the_shape_of_dockers() {
    let Some(daemon) = Daemon::start() else { return };
    let ours = Ours::serve();
    let mut unexplained = Vec::new();
    for path in
        ["/version", "/info", "/containers/json", "/images/json", "/networks", "/volumes", "/plugins", "/system/df"]
    {
        let of = |socket: &Path| {
            let (status, _, body) = get(socket, "GET", path).unwrap();
            assert_eq!(status, 200, "{path}: {body}");
            let mut found = BTreeMap::new();
            shape(&format!("{path} "), &serde_json::from_str(&body).unwrap(), &mut found);
            found
        };
        let (docker, here) = (of(&daemon.socket()), of(&ours.socket()));
        let keys: std::collections::BTreeSet<_> = docker.keys().chain(here.keys()).collect();
        for key in keys {
            let (theirs, mine) = (docker.get(key).copied(), here.get(key).copied());
            let same = alike(theirs, mine);
            // What hangs below a map or list that is empty on one side says nothing.
            let below_nothing = |side: &BTreeMap<String, &str>| {
                key.match_indices(['.', '[']).any(|(end, _)| {
                    let parent = &key[..end];
                    let empty = !side.keys().any(|other| other.len() > end && other.starts_with(&key[..=end]));
                    empty && side.get(parent).is_some_and(|kind| ["null", "list"].contains(kind))
                })
            };
            let explained = DIFFERENCES.iter().any(|(prefix, _)| key.starts_with(prefix));
            if !same && !explained && !below_nothing(&docker) && !below_nothing(&here) {
                unexplained.push(format!("{key}: Docker has {theirs:?}, we have {mine:?}"));
            }
        }
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
}

#[test]
fn what_is_not_there_is_refused_in_dockers_words() {
    let Some(daemon) = Daemon::start() else { return };
    let ours = Ours::serve();
    for (method, path) in REQUESTS {
        let of = |socket: &Path| {
            let (status, _, body) = get(socket, method, path).unwrap();
            (status, serde_json::from_str::<Value>(&body).unwrap())
        };
        assert_eq!(of(&ours.socket()), of(&daemon.socket()), "{method} {path}");
    }
}

#[test]
fn a_ping_has_dockers_headers() {
    let Some(daemon) = Daemon::start() else { return };
    let ours = Ours::serve();
    let names = |socket: &Path| {
        let (status, head, body) = get(socket, "GET", "/_ping").unwrap();
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
