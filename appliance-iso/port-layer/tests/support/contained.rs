//! A container's end of the control channel: tether, with real processes, in the test's own.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use guestinfo::{HostRequest, Keys};
use nix::mount::MsFlags;
use pid1::{End, Reaper, System};
use tempfile::TempDir;
use tether::{Confinement, Guest, Links, Places};
use tether_proto::{Container, Control, Document, Interface, Process, Run, State};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The kernel's part is nobody's.
#[derive(Debug, Clone)]
struct Nothing;

impl System for Nothing {
    fn mount(&self, _: &str, _: &str, _: &Path, _: MsFlags, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn load_module(&self, _: &Path, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn set_host_name(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn disable_reset_keys(&self) -> io::Result<()> {
        Ok(())
    }
    fn unmount(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn kill_others(&self) {}
    fn end(&self, _: End) -> io::Result<()> {
        Ok(())
    }
}

impl Links for Nothing {
    async fn bring_up(&self, _: &[Interface]) -> Result<(), String> {
        Ok(())
    }
}

#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<Run>>>);

impl Keys for Told {
    fn get(&self, _: &str) -> Result<Option<String>, guestinfo::Error> {
        Ok(None)
    }
    fn set(&self, _: &str, value: &str) -> Result<(), guestinfo::Error> {
        self.0.lock().unwrap().push(Run::from_text(value).unwrap());
        Ok(())
    }
}

/// A container's end.
pub(crate) struct Contained {
    _folder: TempDir,
    told: Told,
    pub(crate) run: JoinHandle<End>,
    _requests: mpsc::UnboundedSender<HostRequest>,
}

/// The one reaper of this process: a second one would take its children.
fn reaper() -> Reaper {
    static REAPER: OnceLock<Reaper> = OnceLock::new();
    let start = || {
        let reaper = Reaper::default();
        let reaping = reaper.clone();
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(reaping.run());
        });
        reaper
    };
    REAPER.get_or_init(start).clone()
}

pub(crate) fn contain(id: &str, control: Control, script: &str, change: impl FnOnce(&mut Process)) -> Contained {
    let folder = tempfile::tempdir().unwrap();
    for path in ["root/etc", "root/dev", "sys/block/sda", "dev"] {
        std::fs::create_dir_all(folder.path().join(path)).unwrap();
    }
    std::os::unix::fs::symlink("../../0:0:0:0", folder.path().join("sys/block/sda/device")).unwrap();
    std::fs::write(folder.path().join("dev/sda"), "").unwrap();
    let mut process = Process { args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(), ..Process::default() };
    change(&mut process);
    let container = Container { schema: 1, id: id.into(), process, control: Some(control), ..Container::default() };
    let told = Told::default();
    let at = |path: &str| folder.path().join(path);
    let guest = Guest {
        system: Nothing,
        keys: told.clone(),
        links: Nothing,
        places: Places { root: at("root"), sys: at("sys"), dev: at("dev"), own: at("own") },
        confinement: Confinement::None,
        reaper: reaper(),
    };
    let port = File::create(at("output")).unwrap();
    let (sender, mut requests) = mpsc::unbounded_channel();
    let run = tokio::spawn(async move { guest.contain(&container, port, &mut requests).await });
    Contained { _folder: folder, told, run, _requests: sender }
}

impl Contained {
    pub(crate) async fn exit_code(self) -> i32 {
        timeout(LIMIT, self.run).await.expect("the run ends").unwrap();
        let told = self.told.0.lock().unwrap();
        match &told.last().unwrap().state {
            State::Exited { code, .. } => *code,
            other => panic!("{other:?}"),
        }
    }
}
