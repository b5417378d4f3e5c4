//! What `docker ps` costs with 500 containers: the API on the real port layer, whose vSphere is a lab with played guests, against
//! dockerd with as many.  Both are asked the same on a local socket, in turns.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a bench says how it fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "stdout is the figure, stderr the progress")]
#![allow(dead_code, reason = "the stage has more than a bench needs")]

#[path = "../tests/port_layer/stage.rs"]
mod stage;

use std::path::Path;
use std::time::Instant;

use docker_oracle::{Daemon, ask};
use personality::{App, Reach, serve_unix};
use secret::Secret;
use vch_config::{Proxies, VchSecrets};

use stage::{CONFIG, Stage, runtime};

const CONTAINERS: usize = 500;
const ROUNDS: usize = 20;
const PS: &str = "/v1.41/containers/json?all=1";
const HOST_CONFIG: &str = r#"{"RestartPolicy":{"Name":"no"},"NetworkMode":"default"}"#;

fn main() {
    let Some(docker) = Daemon::start() else { panic!("there is no dockerd to compare with") };
    fill(&docker.socket());
    eprintln!("ps: dockerd has {CONTAINERS} containers");
    let runtime = runtime();
    let stage = runtime.block_on(async {
        let stage = Stage::up().await;
        for n in 0..CONTAINERS {
            stage.create(&format!("c{n}"), &["run"], HOST_CONFIG).await.unwrap();
        }
        stage
    });
    eprintln!("ps: the VCH has {CONTAINERS} containers");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let listener = {
        let _in = runtime.enter();
        tokio::net::UnixListener::bind(&socket).unwrap()
    };
    let password = Secret::new(&stage.lab.stage.password);
    let secrets = VchSecrets::new(password, Secret::new(""), Secret::new(""));
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let mut config = stage.config.clone();
    config.vsphere.thumbprints = vec![stage.lab.stage.thumbprint.clone()];
    config.vsphere.username = stage.lab.stage.user.clone();
    let kept = {
        let _in = runtime.enter();
        let (reach, kept) = Reach::keep(config.clone(), secrets, async { drop(ended.await) });
        tokio::spawn(serve_unix(listener, App::new(config, Proxies::default(), "bench", reach)));
        kept
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    // The first answer of each waits for what is being made ready.
    for _ in 0..=ROUNDS {
        ours.push(timed(&socket));
        theirs.push(timed(&docker.socket()));
    }
    let (ours, theirs) = (median(&ours[1..]), median(&theirs[1..]));
    println!(
        "ps ratio {:.2} (ours {:.4} ms a container, dockerd {:.4} ms, {CONTAINERS} containers each)",
        ours / theirs,
        ours * 1e3 / CONTAINERS as f64,
        theirs * 1e3 / CONTAINERS as f64
    );
    drop(end);
    runtime.block_on(kept).unwrap();
    runtime.block_on(stage.clean_up());
}

/// Seconds that a list takes.
fn timed(socket: &Path) -> f64 {
    let begin = Instant::now();
    let answer = ask(socket, "GET", PS, "").unwrap();
    let took = begin.elapsed().as_secs_f64();
    let listed: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(CONTAINERS), "{}", answer.head);
    took
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// As many containers of the image that CONFIG names.
fn fill(socket: &Path) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_cksum();
    tar.append_data(&mut header, "file", &b"hi"[..]).unwrap();
    let tar = String::from_utf8(tar.into_inner().unwrap()).expect("a tar of text is text");
    let imported = ask(socket, "POST", "/v1.41/images/create?fromSrc=-&repo=played", &tar).unwrap();
    assert_eq!(imported.status, 200, "{}", imported.body);
    for n in 0..CONTAINERS {
        let created = ask(socket, "POST", &format!("/v1.41/containers/create?name=c{n}"), CONFIG).unwrap();
        assert_eq!(created.status, 201, "{}", created.body);
    }
}
