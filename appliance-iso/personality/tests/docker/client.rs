//! Every command of `docker --help` on a VCH that holds nothing: each does its work, or says which endpoint is missing or
//! which object, and none hangs.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{LIMIT, installed, ours::Ours};

/// A command line, and what its output holds: `!` before it when the command fails.
const COMMANDS: &[(&str, &str)] = &[
    // What a VCH of today does.
    ("version", "vSphere Integrated Containers"),
    ("info", "Name: vch"),
    ("ps -a", "CONTAINER ID"),
    ("container ls", "CONTAINER ID"),
    ("images", "REPOSITORY"),
    ("network ls", "NETWORK ID"),
    ("volume ls", "VOLUME NAME"),
    ("plugin ls", "ENABLED"),
    ("system df", "Images          0"),
    ("stats --no-stream", "CONTAINER ID"),
    // What names an object that is not there; clients before 23 have words of their own for some.
    ("attach web", "!No such container: web"),
    ("cp web:/etc DIR/x", "!No such container"),
    ("cp DIR/file web:/tmp", "!No such container"),
    ("diff web", "!No such container: web"),
    ("exec web ls", "!No such container: web"),
    ("export web", "!No such container: web"),
    ("inspect web", "!No such object: web"),
    ("kill web", "!No such container: web"),
    ("logs web", "!No such container: web"),
    ("pause web", "!No such container: web"),
    ("port web", "!No such container: web"),
    ("rename web front", "!No such container: web"),
    ("restart web", "!No such container: web"),
    ("rm web", "!No such container: web"),
    ("start web", "!No such container: web"),
    ("stats --no-stream web", "!No such container: web"),
    ("stop web", "!No such container: web"),
    ("top web", "!No such container: web"),
    ("unpause web", "!No such container: web"),
    ("update --cpus 1 web", "!No such container: web"),
    ("wait web", "!No such container: web"),
    ("history nginx", "!No such image: nginx"),
    ("image inspect nginx", "!No such image: nginx"),
    ("push nginx", "!No such image: "),
    ("rmi nginx", "!No such image: nginx"),
    ("tag nginx mine", "!No such image: nginx"),
    ("network inspect front", "!front"),
    ("network rm front", "!front"),
    ("network connect front web", "!network front not found"),
    ("network disconnect front web", "!network front not found"),
    ("volume inspect data", "!data"),
    ("volume rm data", "!data"),
    ("plugin inspect vieux/sshfs", "!vieux/sshfs"),
    ("plugin disable vieux/sshfs", "!plugin \"vieux/sshfs"),
    // What is missing.
    ("run busybox", "!this VCH has no image store"),
    ("create busybox", "!this VCH has no image store"),
    ("build DIR", "!does not yet implement POST /build"),
    ("builder prune -f", "Total reclaimed space: 0B"),
    ("commit web", "!does not yet implement POST /commit"),
    ("container prune -f", "Total reclaimed space: 0B"),
    ("events --since 1 --until 2", ""),
    ("image prune -f", "Total reclaimed space: 0B"),
    ("import DIR/file", "!does not yet implement POST /images/create"),
    ("load -i DIR/file", "!does not yet implement POST /images/load"),
    ("login -u a -p b registry.invalid", "!registry.invalid"),
    ("network create front", "!does not yet implement POST /networks/create"),
    ("network prune -f", ""),
    ("plugin install vieux/sshfs", "!does not yet implement GET /plugins/privileges"),
    ("pull busybox", "!this VCH has no image store"),
    ("save nginx", "!does not yet implement GET /images/get"),
    ("search nginx", "!does not yet implement GET /images/search"),
    ("system events --since 1 --until 2", ""),
    ("system prune -f", "Total reclaimed space: 0B"),
    ("volume create data", "!does not yet implement POST /volumes/create"),
    ("volume prune -f", "Total reclaimed space: 0B"),
    ("config create settings DIR/file", "!does not yet implement POST /configs/create"),
    ("config inspect settings", "!does not yet implement GET /configs"),
    ("config ls", "!does not yet implement GET /configs"),
    ("config rm settings", "!does not yet implement DELETE /configs/{id}"),
    ("node inspect n", "!does not yet implement GET /nodes/{id}"),
    ("node ls", "!does not yet implement GET /nodes"),
    ("node rm n", "!does not yet implement DELETE /nodes/{id}"),
    ("secret create key DIR/file", "!does not yet implement POST /secrets/create"),
    ("secret ls", "!does not yet implement GET /secrets"),
    ("service create busybox", "!does not yet implement POST /services/create"),
    ("service inspect web", "!does not yet implement GET /services/{id}"),
    ("service ls", "!does not yet implement GET /services"),
    ("service rm web", "!does not yet implement DELETE /services/{id}"),
    ("stack ls", "!does not yet implement GET /services"),
    ("stack ps web", "!does not yet implement GET /tasks"),
    ("swarm ca", "!does not yet implement GET /swarm"),
    ("swarm init", "!does not yet implement POST /swarm/init"),
    ("swarm join 127.0.0.1", "!does not yet implement POST /swarm/join"),
    ("swarm leave", "!does not yet implement POST /swarm/leave"),
];

/// Runs the client, and ends it by its process id when it hangs.
pub(crate) fn docker(ours: &Ours, folder: &Path, line: &str) -> (bool, String) {
    let arguments = line.split(' ').map(|word| word.replace("DIR", &folder.display().to_string()));
    let mut child = Command::new("docker")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        // Without BuildKit's client, whose presence depends on the machine.
        .env("DOCKER_BUILDKIT", "0")
        .args(["--host", &format!("unix://{}", ours.socket().display())])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || {
        let (mut text, mut errors) = (String::new(), String::new());
        let _ = std::io::Read::read_to_string(&mut out, &mut text);
        let _ = std::io::Read::read_to_string(&mut err, &mut errors);
        let _ = sender.send(text + &errors);
    });
    let text = ended.recv_timeout(LIMIT);
    if text.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    (status.success(), text.unwrap_or_else(|_| format!("(hung for {LIMIT:?})")))
}

#[test]
fn every_command_works_or_says_what_is_missing() {
    if !installed("docker") {
        return;
    }
    let ours = Ours::serve();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    // Large enough that a server that does not read it is noticed.
    std::fs::write(folder.path().join("file"), vec![b'x'; 8 << 20]).unwrap();
    let mut wrong = Vec::new();
    for (line, expected) in COMMANDS {
        let (succeeded, text) = docker(&ours, folder.path(), line);
        let (fails, expected) = expected.strip_prefix('!').map_or((false, *expected), |rest| (true, rest));
        if succeeded == fails || !text.contains(expected) {
            wrong.push(format!("docker {line}: {} with {text:?}", if succeeded { "succeeds" } else { "fails" }));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_stream_of_requests_on_one_connection_survives_refused_uploads() {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };
    let ours = Ours::serve();
    let mut stream = UnixStream::connect(ours.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    for _ in 0..3 {
        let body = vec![b'x'; 3 << 20];
        write!(stream, "POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
        stream.write_all(&body).unwrap();
        let mut answer = [0; 1024];
        let count = stream.read(&mut answer).unwrap();
        assert!(answer[..count].starts_with(b"HTTP/1.1 501"), "{}", String::from_utf8_lossy(&answer[..count]));
    }
}
