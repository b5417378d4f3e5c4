//! What the image store takes on this machine itself, without vSphere and without an emulator.
//!
//! * Time, against a real dockerd pulling the same image from the same registry: the store's disks are files with the file
//!   system that the endpoint VM makes, mounted as loops; one over another begins as a copy of it.  dockerd's storage driver is
//!   vfs, which keeps a copy of everything below for every layer.
//! * Memory: the peak of a process that pulls a layer of 100 MB, and of 1 GB.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench says how it fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "stdout is the figure, stderr the progress")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use docker_oracle::Daemon;
use image_store::registry::{Access, Login};
use image_store::{Backend, BackendError, ImageStore, OpenDisk, name};
use registry_server::Served;
use registry_server::sample::{SMALL_BASE, big_layer, ten_layers};

const ROUNDS: u32 = 7;
const RATIO: f64 = 1.5;
/// MiB; three layers are downloaded at a time, each through a queue of 4 MiB.
const MEMORY: f64 = 64.0;
const CHILD: &str = "--child";

/// Files that stand for disks.
struct Loops(PathBuf);

impl Loops {
    fn file(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.disk"))
    }

    fn mount_point(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.mount"))
    }
}

fn run(program: &str, args: &[&str], paths: &[&Path]) -> Result<(), BackendError> {
    let output = Command::new(program).args(args).args(paths).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}").into()) }
}

impl Backend for Loops {
    async fn read(&self, _: &str) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(None)
    }

    async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), BackendError> {
        Ok(std::fs::write(self.0.join(name), bytes)?)
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), BackendError> {
        Ok(std::fs::rename(self.0.join(from), self.0.join(to))?)
    }

    async fn delete(&self, _: &str) -> Result<(), BackendError> {
        Ok(())
    }

    async fn open_disk(&self, parent: Option<&str>, _: u64) -> Result<OpenDisk, BackendError> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let (file, root) = (self.file(&name), self.mount_point(&name));
        if let Some(parent) = parent {
            run("cp", &["--sparse=always"], &[&self.file(parent), &file])?;
        } else {
            std::fs::File::create(&file)?.set_len(8 << 30)?;
            run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "nodiscard,assume_storage_prezeroed=1"], &[&file])?;
        }
        std::fs::create_dir(&root)?;
        run("mount", &["-o", "loop,nosuid,nodev,noexec,noatime"], &[&file, &root])?;
        Ok(OpenDisk { name, root })
    }

    async fn close_disk(&self, name: &str) -> Result<(), BackendError> {
        run("umount", &[], &[&self.mount_point(name)])
    }

    async fn delete_disk(&self, name: &str) -> Result<(), BackendError> {
        Ok(std::fs::remove_file(self.file(name))?)
    }

    async fn is_gone(&self, name: &str) -> bool {
        !self.file(name).exists()
    }

    async fn disks(&self) -> Result<Vec<String>, BackendError> {
        Ok(Vec::new())
    }
}

/// Pulls an image into a folder, and prints the peak of this process's memory.
fn child(image: &str, folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Arc::new(ImageStore::open(Loops(folder.to_owned())).await.unwrap());
        let pulling = store.pull(Access::default(), name::parse(image).unwrap(), Login::Anonymous);
        pulling.outcome().await.unwrap();
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().trim_end_matches(" kB"));
}

/// Seconds of a process that pulls an image, and the MiB that it has needed.
fn pull(image: &str) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own).arg(CHILD).arg(image).arg(folder.path()).output().unwrap();
    let took = start.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let peak: f64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
    (took, peak / 1024.0)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn time(served: &Served, runtime: &tokio::runtime::Runtime) {
    let Some(daemon) = Daemon::start() else { return };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        // One that is new to both: to remove it would leave the daemon a file system that is slow with new files for minutes.
        let ten = ten_layers(SMALL_BASE + round);
        let pushed: Vec<_> = ten.iter().map(|(sent, content)| (sent.clone(), &content[..])).collect();
        let name = format!("round{round}:1");
        runtime.block_on(served.push(&name, &pushed));
        let image = format!("{}/{name}", served.address);
        theirs.push(daemon.timed(&["pull", "-q", &image]));
        ours.push(pull(&image).0);
        let last = ours.len() - 1;
        eprintln!("pull: round {round} of {ROUNDS}: ours {:.2} s, dockerd {:.2} s", ours[last], theirs[last]);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!(
        "pull native ratio {:.2} (image store on this machine {ours:.2} s, dockerd {theirs:.2} s; limit {RATIO})",
        ours / theirs
    );
    assert!(ours / theirs <= RATIO, "the image store is slow");
}

fn memory(served: &Served, runtime: &tokio::runtime::Runtime) {
    let peaks = [100, 1000].map(|megabytes| {
        let image = format!("big:{megabytes}");
        runtime.block_on(served.push_known(&image, vec![big_layer(megabytes)]));
        let (took, peak) = pull(&format!("{}/{image}", served.address));
        eprintln!("pull: a layer of {megabytes} MB in {took:.1} s");
        peak
    });
    println!(
        "pull peak memory {:.1} MiB with a layer of 100 MB, {:.1} MiB with one of 1 GB (limit {MEMORY})",
        peaks[0], peaks[1]
    );
    assert!(peaks.iter().all(|peak| *peak < MEMORY), "a pull takes too much memory");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, flag, image, folder] = &args[..]
        && flag == CHILD
    {
        return child(image, Path::new(folder));
    }
    let served = Served::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    time(&served, &runtime);
    memory(&served, &runtime);
}
