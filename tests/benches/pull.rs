//! What `docker pull` takes on the lab, with a real endpoint VM, each against its counterpart in the same run.
//!
//! * With the latencies of a vCenter: what comes on top of the download, which is the same manifest, configuration and blobs
//!   fetched from the same registry inside the lab's network by curl, one after the other on one connection.  On a VCH at rest,
//!   which has its spare disk, and right after another pull; an image on one disk, and one whose base has a disk of its own.
//! * vSphere calls: an image against the same one without its empty layers, and against its three large layers alone; with what
//!   is done after the pull for the next one.
//! * Without latencies: against a real dockerd in a VM like the endpoint VM, a container of the VCH, with the same CPU, memory,
//!   network and kind of disk.  The image store on this machine itself is measured in `appliance-iso/image/benches`, and against
//!   a dockerd on this machine itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench says how it fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "stdout is the figure, stderr the progress")]

use std::collections::BTreeSet;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use image_store::Digest;
use registry_server::sample::{LARGE_BASE, Layer, SMALL_BASE, ten_layers, without_empty};
use registry_server::tarball::{Tarball, busybox, gzip};
use vic_tests::block_on;
use vic_tests::lab::text;
use vic_tests::machine::{cpu_of_guests, touch_memory};
use vic_tests::suite::NAME;
use vic_tests::vch::{REGISTRY, Vch};
use vim25::types::AnyVirtualDevice;

const ROUNDS: usize = 5;
/// Of those against dockerd.
const AGAINST: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Per cent of a CPU that guests take together which have nothing to do, and more.
const IDLE: u64 = 20;
/// Seconds.
const BEYOND: f64 = 4.0;
/// How the lab calls the attach of a disk.
const ATTACH: &str = "ReconfigVM_Task:attach";
/// How the end of a task is waited for: how many of these there are tells how long it took, not what it cost.
const WAITS: [&str; 3] = ["*WaitForUpdates*", "CreateFilter", "DestroyPropertyFilter"];

/// The middle one.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Pushes an image; gives the paths of all that a client fetches for it.
fn push(vch: &Vch, name: &str, layers: &[Layer]) -> Vec<String> {
    let pushed: Vec<_> = layers.iter().map(|(sent, content)| (sent.clone(), &content[..])).collect();
    let id = block_on(vch.served.push(&format!("{name}:1"), &pushed));
    let blobs = layers.iter().map(|(sent, _)| Digest::new(sent)).chain([id]);
    let blobs = blobs.map(|digest| format!("/v2/{name}/blobs/{digest}"));
    [format!("/v2/{name}/manifests/1")].into_iter().chain(blobs).collect()
}

/// Seconds of the download alone.
fn download(vch: &Vch, paths: &[String]) -> f64 {
    let mut args = vec!["exec".to_owned(), "--".into(), "curl".into(), "-fsS".into()];
    for path in paths {
        args.extend(["-o".into(), "/dev/null".into(), format!("http://{REGISTRY}{path}")]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let start = Instant::now();
    let output = vch.lab.run(&args);
    assert!(output.status.success(), "{}", text(&output));
    start.elapsed().as_secs_f64()
}

fn faults(vch: &Vch, args: &[&str]) -> String {
    let output = vch.lab.run(&[&["faults"], args].concat());
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// Waits until the VCH is at rest: its endpoint VM holds a disk for the next pull, and has made a file system on it, after which
/// nothing is to do.
fn rest(vch: &Vch) {
    let end = Instant::now() + PATIENCE;
    block_on(async {
        let session = vch.lab.stage.session().await;
        let root = &session.content().root_folder;
        let vms = session.contained(root, "VirtualMachine", true, &["name"]).await.unwrap();
        let endpoint = vms.iter().find(|vm| vm.get::<String>("name").unwrap().as_deref() == Some(NAME)).unwrap();
        loop {
            let read = session.read(&endpoint.reference, &["config.hardware.device"]).await.unwrap();
            let devices: Vec<AnyVirtualDevice> = read.all("config.hardware.device").unwrap();
            if devices.iter().any(|device| matches!(device, AnyVirtualDevice::VirtualDisk(_))) {
                break;
            }
            assert!(Instant::now() < end, "the endpoint VM gets no disk for the next pull");
        }
        session.logout().await.unwrap();
    });
    let end = Instant::now() + PATIENCE;
    loop {
        let before = cpu_of_guests(vch.lab.folder());
        #[expect(clippy::disallowed_methods, reason = "a share of a CPU is one of some time")]
        std::thread::sleep(Duration::from_secs(1));
        let taken = cpu_of_guests(vch.lab.folder()) - before;
        if taken < IDLE {
            return;
        }
        assert!(Instant::now() < end, "the guests do not come to rest: they take {taken} % of a CPU");
    }
}

/// Pulls an image that is not there, and removes it; gives the seconds of the pull.
fn pull(vch: &Vch, image: &str) -> f64 {
    let image = format!("{REGISTRY}/{image}:1");
    let took = vch.timed(&["pull", "-q", &image]);
    vch.docker(&["rmi", &image]);
    took
}

/// Seconds of pulls of an image, on a VCH at rest or not, and of the download alone.
fn pulls(vch: &Vch, image: &str, paths: &[String], at_rest: bool) -> (f64, f64) {
    let (mut pulls, mut downloads) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        downloads.push(download(vch, paths));
        if at_rest {
            rest(vch);
        }
        touch_memory();
        pulls.push(pull(vch, image));
        eprintln!(
            "pull {image}: round {round} of {ROUNDS}: {:.2} s, download {:.2} s",
            pulls[round - 1],
            downloads[round - 1]
        );
    }
    (median(&mut pulls), median(&mut downloads))
}

/// The vSphere calls of a pull of an image on one disk but for [`WAITS`], file transfers included.
fn calls(vch: &Vch, image: &str) -> i64 {
    let image = format!("{REGISTRY}/{image}:1");
    rest(vch);
    // Rules that change nothing count.
    for method in [ATTACH, "ReconfigVM_Task:*", "*"].iter().chain(&WAITS) {
        faults(vch, &["add", "--method", method, "--delay", "0"]);
    }
    vch.docker(&["pull", "-q", &image]);
    let end = Instant::now() + PATIENCE;
    let counted = loop {
        let counted: Vec<i64> = faults(vch, &["list"]).lines().map(seen).collect();
        // The attach of the disk for the next pull is the last call.
        if counted[0] > 0 {
            break counted;
        }
        assert!(Instant::now() < end, "the endpoint VM gets no disk for the next pull");
    };
    faults(vch, &["clear"]);
    vch.docker(&["rmi", &image]);
    // The second name of a reconfiguration is not a second call.
    counted[2] - counted[1] - counted[3..].iter().sum::<i64>()
}

/// How many calls a rule has met.
fn seen(rule: &str) -> i64 {
    serde_json::from_str::<serde_json::Value>(rule).unwrap()["seen"].as_i64().unwrap()
}

/// Where a dockerd in a container of the VCH listens.
const NEIGHBOUR: &str = "192.168.120.20";
/// What it is given: what the endpoint VM has.
const AS_THE_ENDPOINT: [&str; 4] = ["-m", "2g", "--cpus", "1"];

/// A root with this machine's dockerd, and the module of overlayfs for the container's kernel, as a layer.
fn dockerd() -> Vec<u8> {
    let programs = ["/usr/sbin/dockerd", "/usr/bin/containerd", "/usr/sbin/runc"];
    let ldd = Command::new("ldd").args(programs).output().unwrap();
    let said = text(&ldd);
    // `libc.so.6 => /lib/.../libc.so.6 (0x...)`, and the loader alone.
    let libraries: BTreeSet<_> = said.split_whitespace().filter(|word| word.starts_with("/lib")).collect();
    let overlay = std::env::var_os("VIC_OVERLAY_KO").expect("./scripts/bench pull sets VIC_OVERLAY_KO");
    let mut tarball = Tarball::new().file("lib/overlay.ko", &std::fs::read(overlay).unwrap());
    for path in programs.into_iter().chain(libraries) {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{path}: {e}"));
        tarball = tarball.entry(tar::EntryType::Regular, &path[1..], "", &bytes, 0o755);
    }
    tarball.bytes()
}

/// Starts a dockerd in a container of the VCH, which is a VM of its own.
fn start_neighbour(vch: &Vch) {
    let (root, layer) = (busybox(), dockerd());
    block_on(vch.served.push("dockerd:1", &[(gzip(&root), &root[..]), (gzip(&layer), &layer[..])]));
    let image = format!("{REGISTRY}/dockerd:1");
    vch.docker(&["pull", "-q", &image]);
    let script = format!(
        "until ip link set eth1 up 2>/dev/null; do sleep 0.1; done; ip addr add {NEIGHBOUR}/24 dev eth1; \
         mount -t cgroup2 cgroup2 /sys/fs/cgroup; insmod /lib/overlay.ko; \
         exec dockerd --storage-driver overlay2 --bridge none --iptables=false --ip6tables=false \
         --host tcp://{NEIGHBOUR}:2375 --tls=false --insecure-registry {REGISTRY}"
    );
    let run = ["run", "-d", "--name", "neighbour", "-e", "PATH=/usr/sbin:/usr/bin:/bin"];
    vch.docker(&[&run[..], &AS_THE_ENDPOINT, &[&image, "sh", "-c", &script]].concat());
    block_on(vch.lab.plug_nic("neighbour-"));
    let end = Instant::now() + PATIENCE;
    loop {
        let asked = neighbour(vch, &["version"]);
        if asked.status.success() {
            break;
        }
        assert!(
            Instant::now() < end,
            "dockerd does not answer: {}; {}",
            text(&asked),
            vch.docker(&["logs", "neighbour"])
        );
    }
}

/// The docker client against that dockerd.
fn neighbour(vch: &Vch, args: &[&str]) -> Output {
    let host = format!("tcp://{NEIGHBOUR}:2375");
    vch.lab.run(&[&["exec", "--", "docker", "--host", &host][..], args].concat())
}

/// Seconds of pulls here and there.  Each round has an image of its own: the dockerd removes none, for a file system that has just
/// lost many files makes new ones slowly.
fn against_dockerd(vch: &Vch) -> (f64, f64) {
    start_neighbour(vch);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=AGAINST {
        let name = format!("round{round}");
        push(vch, &name, &ten_layers(SMALL_BASE + round));
        touch_memory();
        let start = Instant::now();
        let output = neighbour(vch, &["pull", "-q", &format!("{REGISTRY}/{name}:1")]);
        theirs.push(start.elapsed().as_secs_f64());
        assert!(output.status.success(), "{}", text(&output));
        rest(vch);
        touch_memory();
        ours.push(pull(vch, &name));
        let last = ours.len() - 1;
        eprintln!("pull: round {round} of {AGAINST}: {:.2} s, dockerd {:.2} s", ours[last], theirs[last]);
    }
    (median(&mut ours), median(&mut theirs))
}

fn main() {
    let vch = Vch::up();
    let ten = ten_layers(SMALL_BASE);
    let paths = push(&vch, "ten", &ten);
    let full = without_empty(ten_layers(SMALL_BASE));
    push(&vch, "seven", &full);
    push(&vch, "three", &full.into_iter().filter(|(sent, _)| sent.len() > 4096).collect::<Vec<_>>());
    let large = ten_layers(LARGE_BASE);
    let large_paths = push(&vch, "large", &large);
    let size = |layers: &[Layer]| layers.iter().map(|(sent, _)| sent.len()).sum::<usize>() as f64 / 1e6;

    faults(&vch, &["add", "--preset", "vcenter"]);
    let (ours, download) = pulls(&vch, "ten", &paths, true);
    let beyond = ours - download;
    let (at_once, _) = pulls(&vch, "ten", &paths, false);
    let (large_ours, large_download) = pulls(&vch, "large", &large_paths, true);
    faults(&vch, &["clear"]);
    println!(
        "pull ratio {:.2} (ours {ours:.2} s with a vCenter's latencies, download {download:.2} s)",
        ours / download
    );
    println!(
        "pull beyond the download {beyond:.2} s (10 layers, 7 of them near empty, {:.1} MB; limit {BEYOND}), right after another \
         pull {:.2} s",
        size(&ten),
        at_once - download
    );
    let (large_plain, _) = pulls(&vch, "large", &large_paths, true);
    println!(
        "pull beyond the download {:.2} s with a base that has a disk of its own ({:.1} MB; {:.2} s of it are latencies)",
        large_ours - large_download,
        size(&large),
        large_ours - large_plain
    );

    let (ten, seven, three) = (calls(&vch, "ten"), calls(&vch, "seven"), calls(&vch, "three"));
    println!(
        "pull vSphere calls {} for 3 empty layers, {} for 4 near empty ones (limit 0; {ten} for all 10 layers)",
        ten - seven,
        seven - three
    );

    if Command::new("dockerd").arg("--version").output().is_err() {
        println!("skipped: pull dockerd ratio: dockerd is not installed");
    } else {
        let (ours, theirs) = against_dockerd(&vch);
        let status = vch.lab.run(&["status", "--output", "json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        println!(
            "pull dockerd ratio {:.2} (ours {ours:.2} s, dockerd with overlay2 {theirs:.2} s, each in a VM with accelerator {})",
            ours / theirs,
            status["accelerator"].as_str().unwrap_or("?")
        );
    }
    assert_eq!((ten, ten), (seven, three), "a layer without content costs vSphere calls");
    assert!(beyond <= BEYOND, "a pull takes too long beyond the download");
}
