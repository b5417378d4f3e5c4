//! Runs of a container in a scratch root, as whoever runs the tests: the kernel's part is played by a recorder, the process is
//! real.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says how it fails by panicking")]

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use guestinfo::{HostRequest, Keys};
use nix::mount::MsFlags;
use pid1::{End, Reaper, System};
use tempfile::TempDir;
use tether::{Confinement, Guest, Links, Places};
use tether_proto::{
    Container, Disk, Document, Interface, KEY_EXIT, Process, Rlimit, Run, State, Tmpfs, Volume,
    record::{Reader, Record, Stream},
};
use tokio::{sync::mpsc, time::timeout};

const LIMIT: Duration = Duration::from_secs(60);
/// So many runs of a moment.
const THOUSANDS: usize = 2000;

/// The kernel: it does nothing and remembers what it was asked.
#[derive(Debug, Clone, Default)]
struct Recorder {
    asked: Arc<Mutex<Vec<String>>>,
    /// A mount at a place that ends so fails.
    refuses: Option<&'static str>,
}

impl Recorder {
    fn note(&self, text: String) {
        self.asked.lock().unwrap().push(text);
    }
}

impl System for Recorder {
    fn mount(&self, source: &str, kind: &str, at: &Path, flags: MsFlags, data: &str) -> io::Result<()> {
        if self.refuses.is_some_and(|end| at.ends_with(end)) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let read_only = if flags.contains(MsFlags::MS_RDONLY) { " read-only" } else { "" };
        self.note(format!("mount {source} {kind} {} {data}{read_only}", at.display()));
        Ok(())
    }
    fn load_module(&self, _: &Path, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn set_host_name(&self, name: &str) -> io::Result<()> {
        self.note(format!("host name {name}"));
        Ok(())
    }
    fn disable_reset_keys(&self) -> io::Result<()> {
        Ok(())
    }
    fn unmount(&self, at: &Path) -> io::Result<()> {
        self.note(format!("unmount {}", at.display()));
        Ok(())
    }
    fn kill_others(&self) {}
    fn end(&self, _: End) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Clone, Default)]
struct Memory {
    keys: Arc<Mutex<BTreeMap<String, String>>>,
    /// Every run that was told.
    told: Arc<Mutex<Vec<Run>>>,
}

impl Keys for Memory {
    fn get(&self, key: &str) -> Result<Option<String>, guestinfo::Error> {
        Ok(self.keys.lock().unwrap().get(key).cloned())
    }
    fn set(&self, key: &str, value: &str) -> Result<(), guestinfo::Error> {
        assert_eq!(key, KEY_EXIT);
        self.told.lock().unwrap().push(Run::from_text(value).unwrap());
        Ok(())
    }
}

struct NoLinks;

impl Links for NoLinks {
    async fn bring_up(&self, _: &[Interface]) -> Result<(), String> {
        Ok(())
    }
}

/// A container, its root and what came of it.
struct Scratch {
    folder: TempDir,
    container: Container,
    system: Recorder,
}

struct Outcome {
    end: End,
    told: Vec<Run>,
    records: Vec<Record>,
    asked: Vec<String>,
}

impl Outcome {
    fn text(&self, stream: Stream) -> String {
        let of = self.records.iter().filter(|record| record.stream == stream);
        of.map(|record| String::from_utf8_lossy(&record.bytes).into_owned()).collect()
    }

    fn state(&self) -> &State {
        &self.told.last().unwrap().state
    }
}

impl Scratch {
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for path in ["root/etc", "sys/block", "dev"] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let process = Process { args, ..Process::default() };
        let container =
            Container { schema: 1, id: "c1".into(), process, host_name: "web".into(), ..Container::default() };
        let scratch = Self { folder, container, system: Recorder::default() };
        scratch.disk("sda", 0);
        scratch
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Attaches a disk.
    fn disk(&self, name: &str, unit: u32) {
        let block = self.at("sys/block").join(name);
        std::fs::create_dir_all(&block).unwrap();
        symlink(format!("../../0:0:{unit}:0"), block.join("device")).unwrap();
        std::fs::write(self.at("dev").join(name), "").unwrap();
    }

    async fn run(&self) -> Outcome {
        let (_sender, requests) = mpsc::unbounded_channel();
        self.run_with(requests).await
    }

    async fn run_with(&self, requests: mpsc::UnboundedReceiver<HostRequest>) -> Outcome {
        self.run_under(reaper(), requests).await
    }

    async fn run_under(&self, reaper: Reaper, mut requests: mpsc::UnboundedReceiver<HostRequest>) -> Outcome {
        let keys = Memory::default();
        let guest = Guest {
            system: self.system.clone(),
            keys: keys.clone(),
            links: NoLinks,
            places: Places { root: self.at("root"), sys: self.at("sys"), dev: self.at("dev"), own: self.at("own") },
            confinement: Confinement::None,
            reaper,
        };
        let port = File::create(self.at("output")).unwrap();
        let run = guest.contain(&self.container, port, &mut requests);
        let end = timeout(LIMIT, run).await.unwrap_or_else(|_| panic!("it hangs: {:?}", keys.told));
        let mut reader = Reader::default();
        let mut records = reader.read(&std::fs::read(self.at("output")).unwrap());
        records.extend(reader.end());
        let told = keys.told.lock().unwrap().clone();
        Outcome { end, told, records, asked: self.system.asked.lock().unwrap().clone() }
    }
}

/// What reaps the processes of a test: there is one, for it takes every child that ends.
fn reaper() -> Reaper {
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run());
    reaper
}

#[tokio::test]
async fn a_short_life_loses_nothing() {
    let scratch = Scratch::new("echo out; echo err >&2; exit 7");
    let outcome = scratch.run().await;
    assert_eq!(outcome.state(), &State::Exited { code: 7, out_of_memory: false });
    assert_eq!((outcome.text(Stream::Stdout), outcome.text(Stream::Stderr)), ("out\n".into(), "err\n".into()));
    assert_eq!(outcome.end, End::PowerOff);
    let states: Vec<_> = outcome.told.iter().map(|run| run.state.clone()).collect();
    assert_eq!(states[..2], [State::Preparing, State::Running]);
    assert!(outcome.told[0].pid.is_none() && outcome.told[1].pid.is_some(), "{:?}", outcome.told);
    let last = outcome.told.last().unwrap();
    assert!(last.started_ns.unwrap() <= outcome.records[0].time_ns, "{last:?}");
    assert!(last.started_ns <= last.finished_ns, "{last:?}");
}

#[tokio::test]
async fn thousands_of_lives_of_a_moment_lose_nothing() {
    let reaper = reaper();
    for run in 0..THOUSANDS {
        let mut scratch = Scratch::new("");
        scratch.container.process.args = vec!["/bin/echo".into(), run.to_string()];
        let (_sender, requests) = mpsc::unbounded_channel();
        let outcome = scratch.run_under(reaper.clone(), requests).await;
        assert_eq!(outcome.state(), &State::Exited { code: 0, out_of_memory: false }, "run {run}");
        assert_eq!(outcome.text(Stream::Stdout), format!("{run}\n"));
    }
}

#[tokio::test]
async fn much_output_arrives_whole_and_in_order() {
    let scratch = Scratch::new("seq 1 50000");
    let expected: String = (1..=50000).map(|n| format!("{n}\n")).collect();
    assert!(scratch.run().await.text(Stream::Stdout) == expected);
}

#[tokio::test]
async fn the_environment_and_the_working_directory_are_dockers() {
    let mut scratch = Scratch::new("env; pwd; ulimit -n");
    scratch.container.process.env = vec!["A=1".into(), "HOME=/elsewhere".into()];
    scratch.container.process.cwd = "/srv/made".into();
    scratch.container.process.rlimits = vec![Rlimit { name: "nofile".into(), soft: Some(99), hard: Some(99) }];
    let text = scratch.run().await.text(Stream::Stdout);
    for line in ["A=1", "HOME=/elsewhere", "HOSTNAME=web", "99"] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(text.contains("PATH=/usr/local/sbin:"), "{text}");
    assert!(!text.contains("TERM="), "{text}");
    assert!(text.contains("root/srv/made\n"), "{text}");
}

#[tokio::test]
async fn a_terminal_is_one() {
    let mut scratch =
        Scratch::new("test -t 0 && test -t 1 && test -t 2 && echo $TERM && ps -o tty= -p $$ >/dev/null; tty");
    scratch.container.process.tty = true;
    let outcome = scratch.run().await;
    let text = outcome.text(Stream::Stdout);
    assert!(text.starts_with("xterm\r\n/dev/pts/"), "{text:?}");
    assert_eq!(outcome.text(Stream::Stderr), "");
}

#[tokio::test]
async fn what_cannot_be_run_has_dockers_exit_codes() {
    let mut scratch = Scratch::new("");
    std::fs::write(scratch.at("plain"), "text").unwrap();
    std::fs::set_permissions(scratch.at("plain"), PermissionsExt::from_mode(0o644)).unwrap();
    let plain = scratch.at("plain").display().to_string();
    for (args, user, code, words) in [
        (vec!["no-such-program"], "", 127, "exec: \"no-such-program\": executable file not found in $PATH"),
        (vec![plain.as_str()], "", 126, "permission denied"),
        (vec!["/bin/true"], "nobody-here", 128, "unable to find user nobody-here"),
        (vec![], "", 128, "no command"),
    ] {
        scratch.container.process.args = args.into_iter().map(str::to_owned).collect();
        user.clone_into(&mut scratch.container.process.user);
        match scratch.run().await.state() {
            State::Failed { code: found, error } => {
                assert_eq!(*found, code, "{error}");
                assert!(error.contains(words), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_the_kernel_does_not_run_has_been_a_process_and_said_so() {
    let reaper = reaper();
    let mut scratch = Scratch::new("");
    std::fs::create_dir(scratch.at("bin")).unwrap();
    let file = |name: &str, text: &str| {
        let file = scratch.at("bin").join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        file.display().to_string()
    };
    let plain = file("plain", "echo a shell ran it\n");
    let lost = file("lost", "#!/no/such/shell\n");
    scratch.container.process.env = vec![format!("PATH=/nonexistent:{}", scratch.at("bin").display())];
    for (program, said) in [
        (plain.as_str(), format!("exec {plain}: exec format error\n")),
        ("plain", format!("exec {plain}: exec format error\n")),
        ("lost", format!("exec {lost}: no such file or directory\n")),
    ] {
        scratch.container.process.args = vec![program.to_owned()];
        let (_sender, requests) = mpsc::unbounded_channel();
        let outcome = scratch.run_under(reaper.clone(), requests).await;
        assert_eq!(outcome.state(), &State::Exited { code: 1, out_of_memory: false }, "{program}");
        assert_eq!((outcome.text(Stream::Stderr), outcome.text(Stream::Stdout)), (said, String::new()));
    }
}

#[tokio::test]
async fn the_host_stops_it_with_its_own_signal() {
    let mut scratch = Scratch::new("trap 'echo bye; exit 5' USR1; trap '' TERM; echo ready; while :; do :; done");
    scratch.container.process.stop_signal = "USR1".into();
    let (sender, requests) = mpsc::unbounded_channel();
    let output = scratch.at("output");
    let watcher = tokio::spawn(async move {
        // Not before the trap is set.
        while !std::fs::read(&output).is_ok_and(|bytes| bytes.ends_with(b"ready\n")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sender.send(HostRequest::Reboot).unwrap();
        sender
    });
    let outcome = scratch.run_with(requests).await;
    assert_eq!(outcome.state(), &State::Exited { code: 5, out_of_memory: false });
    assert_eq!((outcome.end, outcome.text(Stream::Stdout).as_str()), (End::Reboot, "ready\nbye\n"));
    drop(watcher.await.unwrap());
}

#[tokio::test]
async fn one_that_does_not_stop_is_killed() {
    let mut scratch = Scratch::new("while :; do :; done");
    // A signal that no process minds, from its first moment on.
    scratch.container.process.stop_signal = "SIGURG".into();
    scratch.container.process.stop_seconds = Some(0);
    let (sender, requests) = mpsc::unbounded_channel();
    sender.send(HostRequest::Halt).unwrap();
    assert_eq!(scratch.run_with(requests).await.state(), &State::Exited { code: 137, out_of_memory: false });
}

#[tokio::test]
async fn everything_is_mounted_in_order_and_unmounted_in_reverse() {
    let mut scratch = Scratch::new("exit 0");
    scratch.disk("sdb", 3);
    let volume = Disk { unit: 3, file_system: "xfs".into() };
    scratch.container.volumes = vec![Volume { disk: volume, at: "/data".into(), read_only: true }];
    scratch.container.tmpfs = vec![Tmpfs { at: "/data/cache".into(), options: "size=1m".into() }];
    scratch.container.root_read_only = true;
    scratch.container.domain_name = "example.org".into();
    // A link of the image that would lead out of it.
    symlink("/run/resolv.conf", scratch.at("root/etc/resolv.conf")).unwrap();
    let outcome = scratch.run().await;
    let (root, dev, own) = (scratch.at("root"), scratch.at("dev"), scratch.at("own"));
    let (root, dev, own) = (root.display(), dev.display(), own.display());
    assert_eq!(
        outcome.asked,
        [
            format!("mount {dev}/sda ext4 {root} "),
            format!("mount proc proc {root}/proc "),
            format!("mount sysfs sysfs {root}/sys "),
            format!("mount devtmpfs devtmpfs {root}/dev mode=0755"),
            format!("mount devpts devpts {root}/dev/pts mode=0620,ptmxmode=0666,gid=5"),
            format!("mount tmpfs tmpfs {root}/dev/shm mode=1777,size=67108864"),
            format!("mount mqueue mqueue {root}/dev/mqueue "),
            format!("mount {dev}/sdb xfs {root}/data  read-only"),
            format!("mount tmpfs tmpfs {root}/data/cache size=1m"),
            format!("mount {own}/hostname  {root}/etc/hostname "),
            format!("mount {own}/hosts  {root}/etc/hosts "),
            format!("mount {own}/resolv.conf  {root}/run/resolv.conf "),
            // Only now, for what was mounted on needed a place to be made.
            format!("mount   {root}  read-only"),
            "host name web".to_owned(),
            format!("unmount {root}/run/resolv.conf"),
            format!("unmount {root}/etc/hosts"),
            format!("unmount {root}/etc/hostname"),
            format!("unmount {root}/data/cache"),
            format!("unmount {root}/data"),
            format!("unmount {root}/dev/mqueue"),
            format!("unmount {root}/dev/shm"),
            format!("unmount {root}/dev/pts"),
            format!("unmount {root}/dev"),
            format!("unmount {root}/sys"),
            format!("unmount {root}/proc"),
            format!("unmount {root}/"),
        ]
    );
}

#[tokio::test]
async fn the_root_has_dockers_mark() {
    let scratch = Scratch::new("exit 0");
    scratch.run().await;
    let mark = scratch.at("root/.dockerenv");
    assert_eq!(std::fs::read(&mark).unwrap(), b"");
    assert_eq!(std::fs::metadata(&mark).unwrap().permissions().mode() & 0o777, 0o755);
}

#[tokio::test]
async fn an_images_own_mark_stays() {
    let scratch = Scratch::new("exit 0");
    std::fs::write(scratch.at("root/.dockerenv"), "own").unwrap();
    assert_eq!(scratch.run().await.state(), &State::Exited { code: 0, out_of_memory: false });
    assert_eq!(std::fs::read(scratch.at("root/.dockerenv")).unwrap(), b"own");
}

#[tokio::test]
async fn a_mount_that_fails_is_the_containers_error() {
    let mut scratch = Scratch::new("exit 0");
    scratch.system.refuses = Some("dev/shm");
    match scratch.run().await.state() {
        State::Failed { code: 128, error } => assert!(error.contains("/dev/shm"), "{error}"),
        other => panic!("{other:?}"),
    }
}
