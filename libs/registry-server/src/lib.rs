//! For tests: Debian's `docker-registry`, for as long as a value lives, and images pushed to it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_debug_implementations, reason = "for tests")]

pub mod sample;
pub mod tarball;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use image_store::{Digest, Reference, name};
use oci_client::Client;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// A registry at work; ended with the value.
pub struct Served {
    /// Its process, ended with it.
    pub process: Serving,
    /// `host:port`.
    pub address: String,
    folder: TempDir,
    auth: RegistryAuth,
}

/// A process that serves.
pub struct Serving(Child);

/// `ann`, whose password is `secret1`, as htpasswd has it.
const HTPASSWD: &str = "ann:$2y$04$1byFjYliH95h3CYiJ2ndteQp2sVQCqemxMV8G285WCVvdMj.asX8K\n";

/// The section `auth` that lets `ann` in alone.
fn htpasswd(folder: &Path) -> Value {
    let file = folder.join("htpasswd");
    std::fs::write(&file, HTPASSWD).unwrap();
    json!({"htpasswd": {"realm": "here", "path": file}})
}

impl From<Child> for Serving {
    fn from(process: Child) -> Self {
        Self(process)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether there is a registry to test with; CI installs one.
pub fn installed() -> bool {
    let there = Command::new("docker-registry").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        println!("skipped: docker-registry is not installed");
    }
    there
}

/// How a registry serves, beyond its images.
#[derive(Default)]
pub struct Setup {
    /// PEM files of its certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The section `auth` of its configuration.
    pub auth: Option<Value>,
}

fn serve(folder: &Path, address: &str, setup: &Setup, mut command: Command) -> Serving {
    let mut config = json!({
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": folder.join("data")}},
        "http": {"addr": address},
    });
    if let Some((certificate, key)) = &setup.tls {
        config["http"]["tls"] = json!({"certificate": certificate, "key": key});
    }
    if let Some(auth) = &setup.auth {
        config["auth"] = auth.clone();
    }
    // JSON is YAML.
    let file = folder.join(format!("{address}.yml"));
    std::fs::write(&file, config.to_string()).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    Serving(command.arg("serve").arg(file).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

/// Serves on a free port of this machine, from when this returns.
fn serve_here(folder: &Path, setup: &Setup) -> (Serving, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut process = serve(folder, &address, setup, Command::new("docker-registry"));
    let end = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(&address).is_err() {
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        assert!(process.0.try_wait().unwrap().is_none() && Instant::now() < end, "{log}");
        std::thread::yield_now();
    }
    (process, address)
}

impl Served {
    /// For anybody.
    pub fn start() -> Self {
        Self::with(tempfile::tempdir().unwrap(), &Setup::default(), RegistryAuth::Anonymous)
    }

    /// For `ann` only.
    pub fn private() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let auth = Some(htpasswd(folder.path()));
        let ann = RegistryAuth::Basic("ann".into(), "secret1".into());
        Self::with(folder, &Setup { auth, ..Setup::default() }, ann)
    }

    fn with(folder: TempDir, setup: &Setup, auth: RegistryAuth) -> Self {
        let (process, address) = serve_here(folder.path(), setup);
        Self { process, address, folder, auth }
    }

    /// Serves the same images at another address too; `command` runs `docker-registry`, perhaps elsewhere.
    pub fn also(&self, address: &str, setup: &Setup, command: Command) -> Serving {
        serve(self.folder.path(), address, setup, command)
    }

    /// The section `auth` that lets `ann` in alone, whose password is `secret1`.
    pub fn for_ann(&self) -> Value {
        htpasswd(self.folder.path())
    }

    /// Serves the same images on another port of this machine, in another way.
    pub fn also_as(&self, setup: &Setup) -> (Serving, String) {
        serve_here(self.folder.path(), setup)
    }

    /// How clients on this machine name an image of its.
    pub fn reference(&self, image: &str) -> Reference {
        name::parse(&format!("{}/{image}", self.address)).unwrap()
    }

    fn client(&self) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() })
    }

    /// Pushes an image of layers as they are sent, with the content that its configuration tells of; returns its id.
    pub async fn push(&self, image: &str, layers: &[(Vec<u8>, &[u8])]) -> Digest {
        let layers = layers.iter().map(|(sent, content)| (sent.clone(), Digest::new(content))).collect();
        self.push_known(image, layers).await
    }

    /// Pushes an image of layers whose `DiffID`s are known.
    pub async fn push_known(&self, image: &str, layers: Vec<(Vec<u8>, Digest)>) -> Digest {
        let (layers, diff_ids): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {"Cmd": ["sh"], "Labels": {"for": image}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        self.push_raw(image, layers, config.to_string(), IMAGE_DOCKER_CONFIG_MEDIA_TYPE).await
    }

    /// Pushes whatever it is.
    pub async fn push_raw(&self, image: &str, layers: Vec<Vec<u8>>, config: String, kind: &str) -> Digest {
        let id = Digest::new(config.as_bytes());
        let layers: Vec<ImageLayer> = layers
            .into_iter()
            .map(|sent| ImageLayer::new(sent, IMAGE_DOCKER_LAYER_GZIP_MEDIA_TYPE.to_owned(), None))
            .collect();
        let config = Config::new(config.into_bytes(), kind.to_owned(), None);
        let mut manifest = OciImageManifest::build(&layers, &config, None);
        manifest.media_type = Some("application/vnd.docker.distribution.manifest.v2+json".to_owned());
        let reference = self.reference(image);
        self.client().push(&reference, &layers, config, &self.auth, Some(manifest)).await.unwrap();
        id
    }

    /// Where the registry keeps a blob.
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        Path::new(self.folder.path()).join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }
}
