//! What the suites share: a vSphere to run against, the built programs, and what must hold after each of their runs.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    reason = "test support: a failed step fails the test"
)]

pub mod cut;
pub mod lab;
pub mod machine;
pub mod proxy;
mod run;
pub mod suite;
pub mod vch;
pub mod vcsim;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use run::{Finished, Running};
use secret::Secret;
use vim25::inventory::Inventory;
use vim25::trust::Trust;
use vim25::{Credentials, Options, Session};

/// A vSphere, and a folder for one test.
#[derive(Debug)]
pub struct Stage {
    /// `https://host:port`
    pub target: String,
    /// SHA-1 thumbprint of its certificate.
    pub thumbprint: String,
    /// Who may log in.
    pub user: String,
    /// Planted: it must show nowhere.
    pub password: String,
    /// `--vsphere-address`: where guests reach it.
    pub inside: String,
    /// The place of a VCH there.
    pub place: Place,
    /// The test's folder: working directory of the programs.
    pub folder: tempfile::TempDir,
    /// All that the programs under test have said.
    pub said: Arc<Mutex<String>>,
}

/// Where a VCH is to be made; an empty name stands for an option that is not given.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The only datacenter.
    pub datacenter: &'static str,
    /// `--compute-resource`
    pub compute: &'static str,
    /// `--image-store`
    pub store: &'static str,
    /// `--bridge-network`
    pub bridge: &'static str,
}

impl Place {
    /// As options.
    fn args<'a>(self) -> impl Iterator<Item = &'a str> {
        let options =
            [("--compute-resource", self.compute), ("--image-store", self.store), ("--bridge-network", self.bridge)];
        options.into_iter().filter(|(_, value)| !value.is_empty()).flat_map(|(name, value)| [name, value])
    }
}

/// A built program of this workspace.
pub fn program(name: &str) -> PathBuf {
    // Tests lie in target/PROFILE/deps.
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join(name);
    assert!(path.exists(), "{} is missing: build the workspace first, as ./scripts/test does", path.display());
    path
}

impl Stage {
    /// Starts `vic-machine` with the options of this stage.
    pub fn start(&self, command: &str, args: &[&str]) -> Running {
        let mut process = std::process::Command::new(program("vic-machine"));
        process
            .arg(command)
            .args(args)
            .current_dir(self.folder.path())
            .env("VIC_MACHINE_TARGET", &self.target)
            .env("VIC_MACHINE_USER", &self.user)
            .env("VIC_MACHINE_PASSWORD", &self.password)
            .env("VIC_MACHINE_VSPHERE_ADDRESS", &self.inside)
            .env("VIC_MACHINE_NO_INPUT", "true")
            .env("VIC_WIRE_LOG", self.wire_log());
        if !args.contains(&"--thumbprint") {
            process.env("VIC_MACHINE_THUMBPRINT", &self.thumbprint);
        }
        Running::start(process, Arc::clone(&self.said))
    }

    /// Runs `vic-machine` to its end.
    pub fn vic(&self, command: &str, args: &[&str]) -> Finished {
        let finished = self.start(command, args).finish();
        if args.windows(2).any(|w| w == ["--output", "json"]) {
            let folder = self.folder.path().join("json");
            std::fs::create_dir_all(&folder).unwrap();
            let number = std::fs::read_dir(&folder).unwrap().count();
            std::fs::write(folder.join(format!("{number}-{command}")), &finished.stdout).unwrap();
        }
        finished
    }

    /// `create` with the place of this stage and an appliance image, then `args`.
    pub fn create_args<'a>(&'a self, name: &'a str, args: &[&'a str]) -> Vec<&'a str> {
        ["--name", name].into_iter().chain(self.place.args()).chain(args.iter().copied()).collect()
    }

    /// The same vSphere, with a folder of its own.
    pub fn beside(&self) -> Self {
        Self {
            target: self.target.clone(),
            thumbprint: self.thumbprint.clone(),
            user: self.user.clone(),
            password: self.password.clone(),
            inside: self.inside.clone(),
            place: self.place,
            folder: tempfile::tempdir().unwrap(),
            said: Arc::default(),
        }
    }

    /// [`Self::picture`] without its last line: a process that was killed could not log out.
    pub fn inventory(&self) -> Vec<String> {
        self.picture().into_iter().filter(|line| !line.ends_with(" sessions")).collect()
    }

    /// Where requests and responses are written.
    pub fn wire_log(&self) -> PathBuf {
        self.folder.path().join("wire")
    }

    /// A session beside the programs under test.
    pub async fn session(&self) -> Session {
        let options = Options {
            target: self.target.parse().unwrap(),
            credentials: Credentials { user: self.user.clone(), password: Secret::new(&self.password) },
            trust: Trust::Thumbprints(vec![self.thumbprint.parse().unwrap()]),
            user_agent: "vic-tests".into(),
            deadline: std::time::Duration::from_secs(30),
        };
        Session::connect(options).await.unwrap()
    }

    /// Everything that a VCH could leave: the inventory with its VMs, and how many others are logged in.
    pub fn picture(&self) -> Vec<String> {
        block_on(async {
            let session = self.session().await;
            let inventory = Inventory::load(&session).await.unwrap();
            let mut all: Vec<String> = inventory
                .of_kind("ManagedEntity")
                .map(|n| format!("{} {}", n.reference.kind, inventory.path(&n.reference)))
                .collect();
            let root = &session.content().root_folder;
            for vm in session.contained(root, "VirtualMachine", true, &["name"]).await.unwrap() {
                all.push(format!("VirtualMachine {}", vm.get::<String>("name").unwrap().unwrap_or_default()));
            }
            for host in session.contained(root, "HostSystem", true, &["configManager.networkSystem"]).await.unwrap() {
                let Some(network) = host.get("configManager.networkSystem").unwrap() else { continue };
                let network = session.read(&network, &["networkInfo.vswitch"]).await.unwrap();
                let switches: Vec<vim25::types::HostVirtualSwitch> = network.all("networkInfo.vswitch").unwrap();
                all.extend(switches.into_iter().map(|s| format!("HostVirtualSwitch {}", s.name)));
            }
            let manager = session.content().session_manager.clone().unwrap();
            let sessions = session.read(&manager, &["sessionList"]).await.unwrap();
            let sessions: Vec<vim25::types::UserSession> = sessions.all("sessionList").unwrap();
            all.push(format!("{} sessions", sessions.len()));
            session.logout().await.unwrap();
            all.sort();
            all
        })
    }

    /// Every request of this test follows the published schema, and no planted secret stands in any file of the test.
    pub fn check_wire_log(&self) {
        let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/tools/vim25_check.py");
        let output = std::process::Command::new("python3").arg(&tool).arg(self.wire_log()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "vim25_check: {text}{}", String::from_utf8_lossy(&output.stderr));
        self.check_documents();
        self.check_secrets();
    }

    /// Every document of `--output json` is as the published schema says.
    fn check_documents(&self) {
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/vic-machine.schema.json");
        let mut command = std::process::Command::new("python3");
        command.args(["-W", "ignore", "-m", "jsonschema"]);
        for document in files(&self.folder.path().join("json")) {
            command.arg("-i").arg(document);
        }
        if command.get_args().any(|a| a == "-i") {
            let output = command.arg(schema).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// No planted secret stands in what the programs said, in a log, or in the list of processes.
    pub fn check_secrets(&self) {
        let all = files(self.folder.path());
        let mut planted = vec![self.password.clone()];
        for key in all.iter().filter(|f| f.to_string_lossy().ends_with("key.pem")) {
            let pem = std::fs::read_to_string(key).unwrap();
            planted.extend(pem.lines().nth(1).map(str::to_owned));
        }
        let mut places = vec![("what was said".to_owned(), self.said.lock().unwrap().clone())];
        for file in all.iter().filter(|f| f.starts_with(self.wire_log()) || f.extension().is_some_and(|e| e == "log")) {
            places.push((
                file.display().to_string(),
                String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned(),
            ));
        }
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            // A process may end meanwhile.
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            places.push((process.path().display().to_string(), String::from_utf8_lossy(&line).into_owned()));
        }
        for (place, text) in places {
            for secret in &planted {
                assert!(!text.contains(secret.as_str()), "a planted secret stands in {place}");
            }
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out
}

/// Runs a future to its end.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Writes the smallest file that passes for an appliance image, padded to `size` bytes.
pub fn write_iso(path: &Path, version: &str, size: u64) {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let sectors = u32::try_from(size / 2048).unwrap();
    let mut file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut put = |at: u64, bytes: &[u8]| {
        file.seek(SeekFrom::Start(16 * 2048 + at)).unwrap();
        file.write_all(bytes).unwrap();
    };
    put(0, b"\x01CD001");
    put(80, &sectors.to_le_bytes());
    put(318, format!("{:128}", format!("VIC ENGINE {version}")).as_bytes());
}
