//! The same requests against a VCH and against a real Docker daemon: statuses, messages and shapes of what they answer.

use std::process::Command;

use docker_oracle::{Daemon, ask, differences};
use registry_server::installed;
use registry_server::tarball::busybox;
use serde_json::{Value, json};
use vic_tests::lab::{ADDRESS, Lab};
use vic_tests::suite::NAME;

use crate::containers::said;
use crate::guests::busybox_vch;
use crate::images::REGISTRY;

/// Where our answers have another shape than Docker's, and why.  What was asked comes first; a path stands for all below it.
const DIFFERENCES: &[(&str, &str)] = &[
    ("GET /containers/one/json .Config.Labels.for", "the VCH's image has a label"),
    ("GET /containers/uno/json .Config.Labels.for", "as above"),
    ("GET /containers/one/json .HostConfig.KernelMemory", "Docker removed it, and KernelMemoryTCP, in API 1.42"),
    ("GET /containers/uno/json .HostConfig.KernelMemory", "as above"),
    ("GET /containers/one/json .NetworkSettings.Networks", "a VCH has no network `none` yet"),
    ("GET /containers/uno/json .NetworkSettings.Networks", "as above"),
    ("GET /containers/three/json .NetworkSettings.Networks", "as above"),
    ("GET /containers/three/json .HostConfig.KernelMemory", "as KernelMemory above"),
    ("GET /containers/three/json .Config.Labels.for", "as the label above"),
    ("GET /containers/json [].NetworkSettings.Networks", "as above"),
    ("GET /containers/json?all=1 [].NetworkSettings.Networks", "as above"),
    ("GET /containers/json?size=1 [].NetworkSettings.Networks", "as above"),
    ("GET /containers/json?size=1 [].Labels.for", "as above"),
    ("GET /containers/json [].Labels.for", "as above"),
    ("GET /containers/json?all=1 [].Labels.for", "as above"),
    ("GET /images/json [].Labels.for", "as above"),
    ("GET /images/busybox/json .Config", "Docker shows the image's own configuration alone since API 1.50"),
    ("GET /images/busybox/json .Container", "Docker removed it, and ContainerConfig, in API 1.45"),
    ("GET /images/json [].VirtualSize", "Docker removed it in API 1.44"),
];

/// Where our status or our words differ, and why.
const WORDS: &[(&str, &str)] = &[
    ("POST /containers/one/kill", "newer daemons say it in lower case; we call a container by its name"),
    ("POST /containers/uno/kill", "as above"),
    ("POST /containers/uno/exec", "as above"),
    ("POST /containers/one/exec", "as above"),
    ("GET /containers/one/top", "as above"),
    ("DELETE /containers/one", "as above"),
    (
        "GET /containers/json?all=1&filters=%7B%22expose%22%3A%5B%22x%22%5D%7D",
        "Docker says 500, and repeats what Go's library said",
    ),
    ("POST /containers/uno/attach?stream=1&detachKeys=nonsense", "Docker refuses it without a word"),
    ("POST /containers/uno/wait?condition=nonsense", "newer daemons refuse it as we do"),
    ("POST /images/busybox/tag?repo=Mine", "newer daemons say 400 as we do"),
    ("POST /containers/three/start", "Docker tells of its runtime's steps before the reason"),
];

/// One request of the script; `{exec}` in a path is the last further process.
struct Step {
    method: &'static str,
    path: &'static str,
    body: Value,
}

fn step(method: &'static str, path: &'static str, body: Value) -> Step {
    Step { method, path, body }
}

fn script() -> Vec<Step> {
    let none = || Value::Null;
    let container = || {
        json!({
            "Image": "busybox", "Cmd": ["sh", "-c", "echo up; trap 'exit 5' TERM; while :; do sleep 0.1; done"],
            "Labels": {"tier": "front"}, "Env": ["A=1"], "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {"NetworkMode": "none", "Memory": 268_435_456},
        })
    };
    vec![
        step("POST", "/containers/create?name=one", container()),
        step("POST", "/containers/create?name=one", container()),
        step("POST", "/containers/create?name=a/b", container()),
        step("POST", "/containers/create?name=two", json!({"Image": "nothing", "Cmd": ["true"]})),
        step("POST", "/containers/create?name=two", json!({"Image": "busybox", "Cmd": ["true"], "WorkingDir": "x"})),
        step("POST", "/containers/create?name=two", json!({"Image": "busybox", "Cmd": ["true"], "Env": ["=x"]})),
        step(
            "POST",
            "/containers/create?name=two",
            json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"LogConfig": {"Type": "json-file", "Config": {"x": "1"}}}}),
        ),
        step(
            "POST",
            "/containers/create?name=two",
            json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"ExtraHosts": ["db"]}}),
        ),
        step(
            "POST",
            "/containers/create?name=two",
            json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"ExtraHosts": ["db:elsewhere"]}}),
        ),
        step("GET", "/containers/one/json", none()),
        step("GET", "/containers/one/logs", none()),
        step("POST", "/containers/one/kill", none()),
        step("GET", "/containers/one/top", none()),
        step("POST", "/containers/one/exec", json!({"Cmd": ["true"]})),
        step("POST", "/containers/one/start", none()),
        step("POST", "/containers/one/start", none()),
        step("GET", "/containers/one/json", none()),
        step("GET", "/containers/json", none()),
        step("GET", "/containers/json?size=1", none()),
        step("GET", "/containers/json?filters=%7B%22status%22%3A%5B%22nonsense%22%5D%7D", none()),
        step("GET", "/containers/json?all=1&filters=%7B%22network%22%3A%5B%22none-such%22%5D%7D", none()),
        step("GET", "/containers/json?all=1&filters=%7B%22is-task%22%3A%5B%22true%22%5D%7D", none()),
        step("GET", "/containers/json?all=1&filters=%7B%22publish%22%3A%5B%2280%22%5D%7D", none()),
        step("GET", "/containers/json?all=1&filters=%7B%22expose%22%3A%5B%22x%22%5D%7D", none()),
        step("GET", "/containers/json?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D", none()),
        step("GET", "/containers/one/top", none()),
        step("POST", "/containers/one/exec", json!({"Cmd": []})),
        step(
            "POST",
            "/containers/one/exec",
            json!({"Cmd": ["true"], "AttachStdout": true, "Env": ["B=2"], "User": "0"}),
        ),
        step("GET", "/exec/{exec}/json", none()),
        step("POST", "/exec/{exec}/start", json!({"Detach": true})),
        step("POST", "/exec/{exec}/start", json!({"Detach": true})),
        step("GET", "/containers/one/json", none()),
        step("POST", "/containers/one/kill?signal=NONE", none()),
        step("POST", "/containers/one/kill?signal=USR2x", none()),
        step("DELETE", "/containers/one", none()),
        step("POST", "/containers/one/rename?name=", none()),
        step("POST", "/containers/one/rename?name=one", none()),
        step("POST", "/containers/one/rename?name=uno", none()),
        step("POST", "/containers/uno/attach?stream=1&detachKeys=nonsense", none()),
        step("POST", "/containers/uno/stop?t=10", none()),
        step("POST", "/containers/uno/stop", none()),
        step("POST", "/containers/uno/wait", none()),
        step("POST", "/containers/uno/wait?condition=nonsense", none()),
        step("POST", "/containers/uno/kill", none()),
        step("POST", "/containers/uno/exec", json!({"Cmd": ["true"]})),
        step("GET", "/containers/uno/json", none()),
        step("GET", "/containers/json?all=1", none()),
        step("GET", "/images/json", none()),
        step("GET", "/images/busybox/json", none()),
        step("GET", "/images/busybox/history", none()),
        step("POST", "/images/busybox/tag?repo=mine&tag=1", none()),
        step("POST", "/images/busybox/tag?repo=Mine", none()),
        step("DELETE", "/images/mine:1", none()),
        step("DELETE", "/images/busybox", none()),
        step("GET", "/events?since=1&until=2", none()),
        step("DELETE", "/containers/uno", none()),
        step("DELETE", "/containers/uno", none()),
        step(
            "POST",
            "/containers/create?name=three",
            json!({"Image": "busybox", "Cmd": ["no-such-program"], "HostConfig": {"NetworkMode": "none"}}),
        ),
        step("POST", "/containers/three/start", none()),
        step("GET", "/containers/three/json", none()),
        step("POST", "/containers/prune", none()),
    ]
}

/// Status, and body as JSON, or as text where it is none.
type Said = (u16, Value);

fn json_of(status: u16, body: &str) -> Said {
    (status, serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned())))
}

/// Asks the VCH.
fn ask_vch(lab: &Lab, method: &str, path: &str, body: &str) -> Said {
    let certificates = lab.stage.folder.path().join(NAME);
    let file = |name: &str| certificates.join(name).display().to_string();
    // In the version that the oracle speaks.
    let url = format!("https://{ADDRESS}:2376/v1.41{path}");
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let args = [
        "exec",
        "--",
        "curl",
        "-sS",
        "-g",
        "-X",
        method,
        "--cacert",
        &ca,
        "--cert",
        &cert,
        "--key",
        &key,
        "-w",
        "\n%{http_code}",
        "-H",
        "Content-Type: application/json",
        "-d",
        body,
        &url,
    ];
    let output = lab.run(&args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{method} {path}: {output:?}"));
    json_of(status.parse().unwrap(), body)
}

/// A refusal's words, without what differs from run to run.
fn plain(said: &Value) -> String {
    let is_id = |word: &str| [12, 64].contains(&word.len()) && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = said["message"].as_str().unwrap_or_default().split_whitespace();
    words.map(|word| if is_id(word.trim_matches(['"', '.'])) { "ID" } else { word }).collect::<Vec<_>>().join(" ")
}

fn import(daemon: &Daemon) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("root.tar");
    std::fs::write(&file, busybox()).unwrap();
    let host = format!("unix://{}", daemon.socket().display());
    let output =
        Command::new("docker").args(["-H", &host, "import", &file.display().to_string(), "busybox"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_vch_answers_as_docker_does() {
    if !installed() {
        return;
    }
    let Some(daemon) = Daemon::start() else { return };
    import(&daemon);
    let lab = Lab::up(&[]);
    busybox_vch(&lab);
    // One name, as the oracle's has.
    said(&lab, &["rmi", &format!("{REGISTRY}/busybox:1")]);
    let mut unexplained = Vec::new();
    let mut execs = [String::new(), String::new()];
    for Step { method, path, body } in script() {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let asked = format!("{method} {path}");
        let at = |exec: &str| path.replace("{exec}", exec);
        let answer = ask(&daemon.socket(), method, &format!("/v1.41{}", at(&execs[0])), &body).unwrap();
        let (status, theirs) = json_of(answer.status, &answer.body);
        let (ours_status, ours) = ask_vch(&lab, method, &at(&execs[1]), &body);
        if path.ends_with("/exec") && status == 201 {
            execs = [&theirs, &ours].map(|said| said["Id"].as_str().unwrap_or_default().to_owned());
        }
        let explained = WORDS.iter().any(|(prefix, _)| asked.starts_with(prefix));
        if status != ours_status && !explained {
            unexplained.push(format!("{asked}: Docker says {status} {theirs}, we say {ours_status} {ours}"));
        } else if status >= 400 && !explained {
            if !plain(&theirs).eq_ignore_ascii_case(&plain(&ours)) {
                unexplained.push(format!("{asked}: Docker says {:?}, we say {:?}", plain(&theirs), plain(&ours)));
            }
        } else if status < 400 && ours_status < 400 {
            unexplained.extend(differences(&asked, &theirs, &ours, DIFFERENCES));
        }
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    lab.stage.vic("delete", &["--name", NAME, "--force"]).ended_with(0);
}
