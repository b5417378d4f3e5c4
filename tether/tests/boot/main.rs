//! Containers in real virtual machines, with the test in the place of vSphere.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test says how it fails by panicking")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use guest_vm::Guest;
use tempfile::TempDir;
use tether_proto::{
    Container, Dns, Document, Interface, KEY_CONTAINER, KEY_EXIT, Process, Rlimit, Run, State,
    record::{Reader, Record, Stream},
};

const MAC: &str = "00:50:56:00:00:02";

/// The ISO to boot: `VIC_BOOTSTRAP_ISO`, else the one that `./scripts/test` builds beside the binaries.
fn iso() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_tether")).with_file_name("bootstrap.iso");
    let path = std::env::var_os("VIC_BOOTSTRAP_ISO").map_or(beside, PathBuf::from);
    assert!(path.exists(), "{} is missing: ./scripts/test lab builds it", path.display());
    path
}

/// Runs a tool that must succeed.
fn tool(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A VM whose disk holds an image with one program in it.
struct ContainerVm {
    folder: TempDir,
    guest: Guest,
}

impl ContainerVm {
    fn boot(keys: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("image/etc")).unwrap();
        std::fs::create_dir_all(at("image/bin")).unwrap();
        std::fs::write(at("image/etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/false\n").unwrap();
        std::fs::write(at("image/etc/group"), "root:x:0:\nweb:x:102:\nlogs:x:4:web\n").unwrap();
        std::fs::write(at("image/image"), "an image's file\n").unwrap();
        tool(
            Command::new("rustc")
                .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "strip=symbols"])
                .args(["--target", "x86_64-unknown-linux-gnu", "-o"])
                .arg(at("image/bin/program"))
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/program.rs")),
        );
        tool(
            Command::new("mkfs.ext4")
                .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
                .args(["-q", "-F", "-d"])
                .args([at("image"), at("disk")])
                .arg("32M"),
        );
        let options = [
            "-device",
            "pvscsi,id=scsi0",
            "-drive",
            &format!("if=none,id=root,format=raw,file={}", at("disk").display()),
            "-device",
            "scsi-hd,bus=scsi0.0,scsi-id=0,drive=root",
            "-netdev",
            "user,id=n,restrict=on",
            "-device",
            &format!("vmxnet3,netdev=n,mac={MAC}"),
        ]
        .map(str::to_owned);
        let guest = Guest::boot(&iso(), keys, Some(&at("output")), &options);
        Self { folder, guest }
    }

    /// Waits for a state of the run.
    fn wait(&self, what: &str, wanted: impl Fn(&State) -> bool) -> Run {
        let text = self.guest.wait(KEY_EXIT, what, |text| Run::from_text(text).is_ok_and(|run| wanted(&run.state)));
        Run::from_text(&text).unwrap()
    }

    fn records(&self) -> Vec<Record> {
        let mut reader = Reader::default();
        let mut records = reader.read(&std::fs::read(self.folder.path().join("output")).unwrap());
        records.extend(reader.end());
        records
    }

    fn text(&self, stream: Stream) -> String {
        let records = self.records();
        let of = records.iter().filter(|record| record.stream == stream);
        of.map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect()
    }
}

fn container(mode: &str) -> Container {
    Container {
        schema: 1,
        id: "c1".into(),
        host_name: "web".into(),
        process: Process { args: vec!["program".into(), mode.into()], ..Process::default() },
        ..Container::default()
    }
}

fn ended(state: &State) -> bool {
    matches!(state, State::Exited { .. } | State::Failed { .. })
}

#[test]
fn a_container_runs_as_dockers_would_and_its_vm_ends_with_it() {
    // Parked first: the identity comes later.
    let mut vm = ContainerVm::boot(&[]);
    vm.guest.wait_for_line("tether: parked");
    println!("figure: switched on to parked {:.2} s", vm.guest.age().as_secs_f64());
    let mut container = container("look");
    container.process.env = vec!["A=1".into()];
    container.process.cwd = "/srv/made".into();
    container.process.user = "web".into();
    container.process.rlimits = vec![Rlimit { name: "nofile".into(), soft: Some(77), hard: Some(99) }];
    container.dns = Dns { servers: vec!["192.0.2.1".parse().unwrap()], ..Dns::default() };
    container.interfaces = vec![Interface {
        mac: MAC.into(),
        name: "eth0".into(),
        address: "10.0.2.15/24".into(),
        gateway: Some([10, 0, 2, 2].into()),
    }];
    let bound = vm.guest.age();
    vm.guest.host.set(KEY_CONTAINER, &container.to_text());
    let run = vm.wait("the exit status", ended);
    println!("figure: bound to exit status {:.2} s", (vm.guest.age() - bound).as_secs_f64());
    assert_eq!(run.state, State::Exited { code: 3, out_of_memory: false }, "{}", vm.guest.console());
    assert!(run.started_ns < run.finished_ns, "{run:?}");
    vm.guest.wait_for_power_off();

    let text = vm.text(Stream::Stdout);
    for line in [
        "cwd /srv/made",
        "env A=1",
        "env HOME=/srv",
        "env HOSTNAME=web",
        "Uid:\t101\t101\t101\t101",
        "Gid:\t102\t102\t102\t102",
        "web",
        "10.0.2.15\tweb",
        "nameserver 192.0.2.1",
        "an image's file",
        "reopened",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
    assert!(text.contains("Groups:\t4 "), "{text}");
    let limits = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(limits.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["77", "99"]);
    for mount in ["/ ext4 rw", "/proc proc", "/sys sysfs", "/dev devtmpfs", "/dev/pts devpts", "/dev/shm tmpfs"] {
        assert!(text.contains(&format!(" {mount}")), "{mount} is not in\n{text}");
    }
    // The default route of /proc/net/route, in its own notation of 10.0.2.2.
    assert!(text.contains("eth0\t00000000\t0202000A"), "{text}");
    assert_eq!(vm.text(Stream::Stderr), "to stderr\n");
    // Its file system was unmounted, not torn off.
    tool(Command::new("e2fsck").env("PATH", "/usr/sbin:/sbin:/usr/bin").arg("-fn").arg(vm.folder.path().join("disk")));
    let superblock = std::fs::read(vm.folder.path().join("disk")).unwrap();
    assert_eq!(superblock[0x400 + 0x3a] & 1, 1, "the file system is not marked clean");
    assert_eq!(superblock[0x400 + 0x60] & 4, 0, "the file system's journal needs recovery");
}

#[test]
fn one_that_eats_all_memory_is_told_apart() {
    let vm = ContainerVm::boot(&[(KEY_CONTAINER, container("eat").to_text())]);
    let run = vm.wait("the exit status", ended);
    assert_eq!(run.state, State::Exited { code: 137, out_of_memory: true }, "{}", vm.guest.console());
}

#[test]
fn a_host_that_shuts_the_guest_down_stops_the_container() {
    let mut vm = ContainerVm::boot(&[(KEY_CONTAINER, container("wait").to_text())]);
    vm.wait("the process", |state| *state == State::Running);
    assert_eq!(vm.guest.ask_to_end("OS_Halt"), "guest-shutdown");
    let run = vm.wait("the exit status", ended);
    assert_eq!(run.state, State::Exited { code: 143, out_of_memory: false });
    assert!(["", "waiting\n"].contains(&vm.text(Stream::Stdout).as_str()));
}

#[test]
fn a_disk_that_is_no_file_system_is_the_containers_error() {
    let mut container = container("look");
    container.root.file_system = "xfs".into();
    let mut vm = ContainerVm::boot(&[(KEY_CONTAINER, container.to_text())]);
    match vm.wait("the failure", ended).state {
        State::Failed { code: 128, error } => assert!(error.contains("root file system"), "{error}"),
        other => panic!("{other:?}"),
    }
    vm.guest.wait_for_power_off();
}
