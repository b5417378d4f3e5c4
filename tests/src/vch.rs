//! A VCH on the lab, and a registry that its guests reach.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use registry_server::{Served, Serving, Setup};

use crate::lab::{ADDRESS, Lab, text};
use crate::program;
use crate::suite::NAME;

/// Where guests of the lab reach a registry that runs in the lab's namespace.
pub const REGISTRY: &str = "192.168.120.1:5000";

/// Runs a registry of the same images inside the lab's network.
pub fn inside(lab: &Lab, served: &Served) -> Serving {
    inside_as(lab, served, &Setup::default())
}

/// The same in another way.
pub fn inside_as(lab: &Lab, served: &Served, setup: &Setup) -> Serving {
    let mut command = Command::new(program("vic-lab"));
    command.env("VIC_LAB_DIR", lab.folder()).args(["exec", "--", "docker-registry"]);
    let serving = served.also(REGISTRY, setup, command);
    let scheme = if setup.tls.is_some() { "https" } else { "http" };
    answers(lab, &format!("{scheme}://{REGISTRY}/v2/"));
    serving
}

/// Waits until there is an answer, whatever it is.
fn answers(lab: &Lab, url: &str) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let asked = lab.run(&["exec", "--", "curl", "-ksS", url]);
        if asked.status.success() {
            return;
        }
        assert!(Instant::now() < end, "{url} does not answer: {}", text(&asked));
    }
}

/// Where guests of the lab reach a proxy that runs in the lab's namespace.
pub const PROXY: &str = "192.168.120.1:3128";

/// Runs Debian's tinyproxy inside the lab's network, for one user.  It alone knows that the host `name` is where
/// [`REGISTRY`] is.  What it is asked for is in the lab's folder, in `proxy.log`.
pub fn proxy(lab: &Lab, name: &str, user: &str, password: &str) -> Serving {
    let at = |name: &str| lab.folder().join(name);
    let (proxy, registry): (SocketAddr, SocketAddr) = (PROXY.parse().unwrap(), REGISTRY.parse().unwrap());
    std::fs::write(at("proxy.hosts"), format!("{} {name}\n", registry.ip())).unwrap();
    let config = format!(
        "Listen {}\nPort {}\nLogFile \"{}\"\nBasicAuth {user} {password}\nConnectPort {}\n",
        proxy.ip(),
        proxy.port(),
        at("proxy.log").display(),
        registry.port(),
    );
    std::fs::write(at("proxy.conf"), config).unwrap();
    let run = "mount --bind \"$1\" /etc/hosts && exec tinyproxy -d -c \"$2\"";
    let mut command = Command::new(program("vic-lab"));
    command.env("VIC_LAB_DIR", lab.folder()).args(["exec", "--", "unshare", "--mount", "sh", "-c", run, "proxy"]);
    command.args([at("proxy.hosts"), at("proxy.conf")]).stdout(Stdio::null());
    let serving = Serving::from(command.spawn().unwrap());
    answers(lab, &format!("http://{PROXY}"));
    serving
}

/// A VCH with nothing on it; it goes with this value, and its lab too.
#[allow(missing_debug_implementations, reason = "for tests")]
pub struct Vch {
    /// Where it is.
    pub lab: Lab,
    /// The registry, as programs beside the lab reach it; [`REGISTRY`] has the same images.
    pub served: Served,
    _serving: Serving,
}

impl Vch {
    /// Makes it.
    pub fn up() -> Self {
        let lab = Lab::up(&[]);
        let served = Served::start();
        let ip = format!("{ADDRESS}/24");
        let args =
            ["--public-network-ip", &ip, "--public-network-gateway", "192.168.120.1", "--insecure-registry", REGISTRY];
        lab.stage.vic("create", &lab.stage.create_args(NAME, &args)).ended_with(0);
        let serving = inside(&lab, &served);
        Self { lab, served, _serving: serving }
    }

    /// What the docker client prints; it must succeed.
    pub fn docker(&self, args: &[&str]) -> String {
        let output = self.lab.docker(&self.lab.stage.folder.path().join(NAME), args);
        assert!(output.status.success(), "docker {args:?}: {}", text(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Seconds that the docker client takes.
    pub fn timed(&self, args: &[&str]) -> f64 {
        let start = Instant::now();
        self.docker(args);
        start.elapsed().as_secs_f64()
    }
}

impl Drop for Vch {
    fn drop(&mut self) {
        let _ = self.lab.stage.vic("delete", &["--name", NAME, "--force"]);
    }
}
