//! What goes through the control channel, driven by the docker client: run, attach, exec, top, signals; and that all of it
//! works again when the endpoint VM was reset.

use std::io::{Read as _, Write as _};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use registry_server::tarball::{busybox, gzip, noise};
use registry_server::{Served, Serving, installed};
use vic_tests::block_on;
use vic_tests::lab::{ADDRESS, Lab, text};
use vic_tests::suite::NAME;
use vim25::property::Object;
use vim25::types::{ManagedObjectReference, methods};

use crate::containers::{refused, said};
use crate::images::{REGISTRY, inside};

const PATIENCE: Duration = Duration::from_secs(120);

/// Runs docker with input; what it prints, and how it ends.
fn docker(lab: &Lab, args: &[&str], input: &[u8]) -> (i32, Vec<u8>, String) {
    let mut command = lab.docker_command(&lab.stage.folder.path().join(NAME), args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A process may end before it has read all.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (output.status.code().unwrap(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn shell(lab: &Lab, args: &[&str], script: &str, input: &[u8]) -> (i32, String, String) {
    let (code, out, err) = docker(lab, &[args, &["sh", "-c", script]].concat(), input);
    (code, String::from_utf8_lossy(&out).into_owned(), err)
}

fn said_so(code: i32, out: &str, err: &str) -> (i32, String, String) {
    (code, out.to_owned(), err.to_owned())
}

/// Runs a command until its output is as wanted.
fn until(lab: &Lab, what: &str, args: &[&str], wanted: impl Fn(&Output) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = lab.docker(&lab.stage.folder.path().join(NAME), args);
        if wanted(&output) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: docker {args:?}: {}", text(&output));
    }
}

/// Makes a VCH, and a registry in the lab's network with a busybox; returns the endpoint VM's id.
pub(crate) fn busybox_registry(lab: &Lab) -> (String, (Served, Serving)) {
    let stage = &lab.stage;
    let served = Served::start();
    let root = busybox();
    block_on(served.push("busybox:1", &[(gzip(&root), &root[..])]));
    let ip = format!("{ADDRESS}/24");
    let args =
        ["--public-network-ip", &ip, "--public-network-gateway", "192.168.120.1", "--insecure-registry", REGISTRY];
    let created = stage.vic("create", &stage.create_args(NAME, &[&args[..], &["--output", "json"]].concat()));
    let serving = inside(lab, &served);
    (created.ended_with(0).json()["id"].as_str().unwrap().to_owned(), (served, serving))
}

/// Makes a VCH with the image `busybox`; returns the endpoint VM's id.
pub(crate) fn busybox_vch(lab: &Lab) -> String {
    let (endpoint, _serving) = busybox_registry(lab);
    said(lab, &["pull", &format!("{REGISTRY}/busybox:1")]);
    said(lab, &["tag", &format!("{REGISTRY}/busybox:1"), "busybox"]);
    endpoint
}

/// Presses the reset button of a VM.
pub(crate) fn reset(lab: &Lab, vm: &str) {
    block_on(async {
        let session = lab.stage.session().await;
        let vm = ManagedObjectReference::new("VirtualMachine", vm);
        session.run(&methods::ResetVMTask { this: vm }).await.unwrap();
        session.logout().await.unwrap();
    });
}

#[test]
fn containers_are_kept_running_and_checked() {
    if !installed() {
        return;
    }
    let lab = Lab::up(&[]);
    let endpoint = busybox_vch(&lab);
    let run = |args: &[&str], script: &str| {
        said(&lab, &[&["run", "-d", "-m", "128m"], args, &["busybox", "sh", "-c", script]].concat())
    };
    let state = |name: &str, field: &str, wanted: &str| {
        let format = format!("{{{{.{field}}}}}");
        until(&lab, field, &["inspect", "--format", &format, name], |o| {
            o.status.success() && String::from_utf8_lossy(&o.stdout).trim() == wanted
        });
    };
    run(&["--name", "fails", "--restart", "on-failure:2"], "echo run; exit 3");
    run(&["--name", "always", "--restart", "always"], "trap 'exit 0' TERM; while :; do sleep 0.1; done");
    run(&["--name", "stopped", "--restart", "unless-stopped"], "trap 'exit 0' TERM; while :; do sleep 0.1; done");
    let check = ["--health-cmd", "test -f /tmp/ok || { echo no; exit 1; }", "--health-interval", "300ms"];
    let more = ["--name", "checked", "--health-retries", "2", "--restart", "always"];
    run(&[&check[..], &more].concat(), "while :; do sleep 0.1; done");
    state("checked", "State.Health.Status", "unhealthy");
    assert!(
        said(&lab, &["ps", "--filter", "health=unhealthy", "--format", "{{.Names}} {{.Status}}"])
            .starts_with("checked Up ")
    );
    assert_eq!(said(&lab, &["inspect", "--format", "{{(index .State.Health.Log 0).Output}}", "checked"]), "no");
    // It outlives a VM that is powered off.
    said(&lab, &["exec", "checked", "sh", "-c", "touch /tmp/ok; sync"]);
    state("checked", "State.Health.Status", "healthy");

    // As often as it may, then no more.
    state("fails", "RestartCount", "2");
    state("fails", "State.Status", "exited");
    assert_eq!(said(&lab, &["logs", "fails"]), "run\nrun\nrun");
    assert_eq!(said(&lab, &["wait", "fails"]), "3");

    // Who stops it means it, up to the next start of the endpoint VM.
    for name in ["always", "stopped"] {
        said(&lab, &["stop", name]);
        state(name, "State.Status", "exited");
    }
    // An admin who powers it off does not.
    block_on(async {
        let session = lab.stage.session().await;
        let root = session.content().root_folder.clone();
        let vms = session.contained(&root, "VirtualMachine", true, &["name"]).await.unwrap();
        let named = |vm: &Object| vm.require::<String>("name").unwrap().starts_with("checked-");
        let vm = vms.into_iter().find(named).unwrap().reference;
        session.run(&methods::PowerOffVMTask { this: vm }).await.unwrap();
        session.logout().await.unwrap();
    });
    state("checked", "RestartCount", "1");
    state("checked", "State.Status", "running");
    reset(&lab, &endpoint);
    state("always", "State.Status", "running");
    state("checked", "State.Health.Status", "healthy");
    state("checked", "RestartCount", "1");
    state("stopped", "State.Status", "exited");
    said(&lab, &["stop", "checked"]);
    state("checked", "State.Health.Status", "unhealthy");
    let all = said(&lab, &["ps", "-aq"]);
    said(&lab, &[&["rm", "-f"][..], &all.lines().collect::<Vec<_>>()].concat());
    lab.stage.vic("delete", &["--name", NAME]).ended_with(0);
}

#[test]
fn docker_speaks_with_guests() {
    if !installed() {
        return;
    }
    let lab = Lab::up(&[]);
    let stage = &lab.stage;
    let endpoint = busybox_vch(&lab);
    // One that lives for a moment, with both streams and its exit code.
    let run = ["run", "--rm", "-m", "256m", "busybox"];
    assert_eq!(shell(&lab, &run, "echo out; echo err >&2; exit 7", b""), said_so(7, "out\n", "err\n"));
    let (code, _, err) = docker(&lab, &[&run[..], &["no-such-program"]].concat(), b"");
    assert!(code == 127 && err.contains("no-such-program"), "{code} {err}");

    // Input and its end, whatever the bytes are.
    // More than is held of output, which is slower than the input.
    let bytes = noise(3_000_000);
    let cat = ["run", "--rm", "-i", "-m", "256m", "busybox", "cat"];
    let (code, out, err) = docker(&lab, &cat, &bytes);
    assert!(code == 0 && out == bytes, "{code}: {} of {} bytes: {err}", out.len(), bytes.len());
    // Without -i there is none.
    assert_eq!(shell(&lab, &run, "wc -c", b"ignored").1.trim(), "0");
    let terminal = ["run", "--rm", "-t", "-m", "256m", "busybox"];
    assert_eq!(shell(&lab, &terminal, "tty; echo to >&2", b"").1, "/dev/pts/0\r\nto\r\n");

    // A closed root, in an image that has none of the folders; and the limits that services count on.
    let closed = ["run", "--rm", "-m", "256m", "--read-only", "--tmpfs", "/run:rw,noexec,nosuid,size=65536k"];
    let closed = [&closed[..], &["--tmpfs", "/run/in:exec", "-w", "/none/yet", "busybox"]].concat();
    let look = "touch /x 2>/dev/null || echo closed; pwd; ulimit -n; touch /run/in/y && grep -c ' /run/in tmpfs rw,nosuid,nodev,rel' /proc/mounts";
    assert_eq!(shell(&lab, &closed, look, b""), said_so(0, "closed\n/none/yet\n1048576\n1\n", ""));

    // There are no volumes yet; their folders are.
    let volume = ["run", "--rm", "-m", "256m", "-v", "/data/in", "busybox"];
    assert!(shell(&lab, &volume, "touch /data/in/x && echo made", b"").1.contains("made"));

    // One that stays.
    let script = "trap 'echo hup' HUP; trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done";
    let stays = [
        "run", "-d", "--name", "stays", "-h", "here", "-m", "256m", "-e", "A=own", "-w", "/tmp", "-u", "app", "busybox",
    ];
    said(&lab, &[&stays[..], &["sh", "-c", script]].concat());
    // vSphere shows where it is and what it is called, as of any guest with tools.
    let shown = block_on(async {
        let session = stage.session().await;
        let root = session.content().root_folder.clone();
        let facts = ["name", "guest.ipAddress", "guest.toolsRunningStatus", "guest.hostName"];
        let vms = session.contained(&root, "VirtualMachine", true, &facts).await.unwrap();
        session.logout().await.unwrap();
        let stays = vms.into_iter().find(|vm| vm.require::<String>("name").unwrap().starts_with("stays-")).unwrap();
        let fact = |name: &str| stays.get::<String>(name).unwrap().unwrap_or_default();
        [fact("guest.ipAddress"), fact("guest.toolsRunningStatus"), fact("guest.hostName")]
    });
    assert!(shown[0].starts_with("fe80::"), "{shown:?}");
    assert_eq!(shown[1..], ["guestToolsRunning", "here"]);
    let exec = ["exec", "stays"];
    assert_eq!(shell(&lab, &exec, "pwd; id -un; echo $A; exit 9", b"ignored"), said_so(9, "/tmp\napp\nown\n", ""));
    let (_, out, _) = docker(&lab, &["exec", "-i", "stays", "cat"], &bytes);
    assert!(out == bytes, "{} of {} bytes", out.len(), bytes.len());
    let more = ["exec", "-e", "A=more", "-e", "B=b", "-w", "/", "-u", "0", "stays"];
    assert_eq!(shell(&lab, &more, "pwd; id -u; echo $A$B", b"").1, "/\n0\nmoreb\n");
    assert_eq!(shell(&lab, &["exec", "-t", "stays"], "tty", b"").1, "/dev/pts/0\r\n");
    let (code, out, _) = docker(&lab, &["exec", "stays", "/no/such"], b"");
    let out = String::from_utf8_lossy(&out).into_owned();
    assert!(code == 127 && out.contains("OCI runtime exec failed") && out.contains("/no/such"), "{code} {out}");
    // The root has Docker's mark and nothing of its file system's own; what no kernel runs has no shell to run it.
    let root = "test -f /.dockerenv && test ! -e /lost+found && echo echo x >/tmp/plain && chmod 755 /tmp/plain";
    assert_eq!(shell(&lab, &exec, root, b""), said_so(0, "", ""));
    let (code, out, err) = docker(&lab, &["exec", "stays", "/tmp/plain"], b"");
    assert_eq!((code, out.len(), err.as_str()), (1, 0, "exec /tmp/plain: exec format error\n"));
    let pid = said(&lab, &["inspect", "--format", "{{.State.Pid}}", "stays"]);
    assert_eq!(said(&lab, &["exec", "stays", "grep", "-c", "echo hup", &format!("/proc/{pid}/cmdline")]), "1");
    assert!(refused(&lab, &["cp", "stays:/etc/hosts", "-"]).contains("use `docker exec CONTAINER tar"));
    said(&lab, &["exec", "-d", "stays", "sh", "-c", "echo done >/tmp/done"]);
    until(&lab, "a detached process", &["exec", "stays", "cat", "/tmp/done"], |o| o.stdout == b"done\n");
    // Only those that run: every exec of a client begins with a look at the container.
    let execs = ["inspect", "--format", "{{len .ExecIDs}}", "stays"];
    until(&lab, "no further process", &execs, |o| o.stdout == b"0\n");
    said(&lab, &["exec", "-d", "stays", "sleep", "1000"]);
    assert_eq!(said(&lab, &execs), "1");
    let top = said(&lab, &["top", "stays"]);
    assert!(top.starts_with("UID ") && top.contains("trap 'echo hup'") && top.contains("app"), "{top}");
    assert_eq!(said(&lab, &["top", "stays", "-o", "pid,comm"]).lines().next(), Some("PID                 COMMAND"));
    assert!(refused(&lab, &["top", "stays", "--forest"]).contains("are not known"));
    for (wrong, words) in
        [(["-w", "/none"], "no such file"), (["-w", "tmp"], "absolute path"), (["-u", "x"], "find user x")]
    {
        let (code, out, _) = docker(&lab, &[&["exec"], &wrong[..], &["stays", "true"]].concat(), b"");
        assert!(code == 126 && String::from_utf8_lossy(&out).contains(words), "{code} {words}");
    }

    // A network card comes and goes while the guest runs.
    let cards = ["exec", "stays", "ls", "/sys/class/net"];
    let card = block_on(lab.plug_nic("stays-"));
    let both = |o: &Output| o.stdout.split(|b| *b == b'\n').filter(|line| line.starts_with(b"eth")).count() == 2;
    until(&lab, "another card", &cards, both);
    block_on(lab.unplug_nic("stays-", card));
    assert_eq!(said(&lab, &cards), "eth0\nlo");

    // Attached: what it says from now on.
    let attach = lab
        .docker_command(&stage.folder.path().join(NAME), &["attach", "--no-stdin", "stays"])
        .stdout(Stdio::piped())
        .spawn();
    let mut attached = Attached::to(attach.unwrap());
    let heard = attached.until("hup\n", || drop(said(&lab, &["kill", "-s", "HUP", "stays"])));
    assert!(!heard.contains("up\nup") && heard.starts_with("hup\n"), "{heard}");
    assert!(refused(&lab, &["kill", "-s", "NONE", "stays"]).contains("Invalid signal: NONE"));

    // The endpoint VM is reset: containers run on, and all of it is there again.  One of them ends while nobody is there to see.
    let brief = ["run", "-d", "--name", "brief", "-m", "128m", "busybox"];
    said(&lab, &[&brief[..], &["sh", "-c", "sleep 2; echo last words; exit 4"]].concat());
    reset(&lab, &endpoint);
    attached.process.wait().unwrap();
    until(&lab, "the container", &["ps", "-q", "--filter", "name=stays"], |o| {
        o.status.success() && !o.stdout.is_empty()
    });
    until(&lab, "its guest", &["exec", "stays", "echo", "back"], |o| o.stdout == b"back\n");
    assert_eq!(said(&lab, &["wait", "brief"]), "4");
    assert_eq!(said(&lab, &["logs", "brief"]), "last words");
    assert!(said(&lab, &["ps", "-a", "--filter", "name=brief", "--format", "{{.Status}}"]).starts_with("Exited (4) "));
    said(&lab, &["rm", "brief"]);

    // Stopped by another signal than its own, and by its own.
    said(&lab, &["stop", "--time", "60", "stays"]);
    assert_eq!(said(&lab, &["inspect", "--format", "{{.State.ExitCode}}", "stays"]), "5");
    let logs = said(&lab, &["logs", "stays"]);
    assert!(logs.starts_with("up\nhup\n") && logs.ends_with("hup\nbye"), "{logs}");
    assert!(refused(&lab, &["exec", "stays", "true"]).contains("is not running"));
    // Started with somebody attached: all of its output, and none of the run before.
    let end = ["start", "-a", "stays"];
    let attach = lab.docker_command(&stage.folder.path().join(NAME), &end).stdout(Stdio::piped()).spawn();
    let mut attached = Attached::to(attach.unwrap());
    attached.until("up\n", || ());
    said(&lab, &["kill", "stays"]);
    assert_eq!(attached.process.wait().unwrap().code(), Some(137));
    assert_eq!(attached.heard(), "up\n");
    said(&lab, &["rm", "stays"]);

    // Several at once: nothing of any is lost.
    let brief = |n: usize| {
        let lab = &lab;
        move || shell(lab, &["run", "--rm", "-m", "128m", "busybox"], &format!("seq 1 {n}"), b"")
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (1..=6).map(|n| scope.spawn(brief(n * 100))).collect();
        for (n, one) in (1..).zip(all) {
            let expected: String = (1..=n * 100).map(|n| format!("{n}\n")).collect();
            assert_eq!(one.join().unwrap(), said_so(0, &expected, ""));
        }
    });
    until(&lab, "what is removed by itself", &["ps", "-aq"], |o| o.stdout.is_empty());
    stage.vic("delete", &["--name", NAME]).ended_with(0);
    stage.check_wire_log();
    stage.check_secrets();
}

/// A docker client that listens.
struct Attached {
    process: std::process::Child,
    heard: std::sync::Arc<std::sync::Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Attached {
    fn to(mut process: std::process::Child) -> Self {
        let mut stdout = process.stdout.take().unwrap();
        let heard = std::sync::Arc::<std::sync::Mutex<String>>::default();
        let hearing = std::sync::Arc::clone(&heard);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut bytes) {
                hearing.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { process, heard, reader: Some(reader) }
    }

    /// Waits until it has heard some words; meanwhile does something again and again.
    fn until(&self, words: &str, again: impl Fn()) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            again();
            let heard = self.heard.lock().unwrap().clone();
            if heard.contains(words) {
                return heard;
            }
            assert!(Instant::now() < deadline, "{words:?} is not heard: {heard:?}");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }

    /// All that it has heard, once it has ended.
    fn heard(&mut self) -> String {
        self.reader.take().unwrap().join().unwrap();
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
