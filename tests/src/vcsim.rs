//! govmomi's simulator as a stage: an independent vSphere that nobody here wrote.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crate::{Place, Stage, write_iso};

/// A simulator that runs; it ends when its standard input closes, that is with this value.
#[derive(Debug)]
pub struct Vcsim {
    child: Child,
    /// The stage on it.
    pub stage: Stage,
}

impl Drop for Vcsim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which of the two shapes of vSphere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// vCenter with a cluster.
    VCenter,
    /// One ESXi host.
    Esxi,
}

impl Vcsim {
    /// Starts a simulator whose guests behave as `guest` says (see tests/vcsim/main.go).
    pub fn start(shape: Shape, guest: &str) -> Self {
        Self::start_with(shape, guest, &[])
    }

    /// The same with more options.
    pub fn start_with(shape: Shape, guest: &str, options: &[&str]) -> Self {
        let mut command = Command::new(crate::program("vcsim"));
        command.args(["-guest", guest]).args(options);
        if shape == Shape::Esxi {
            command.arg("-esx");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let says: serde_json::Value = serde_json::from_str(&line).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for iso in ["appliance.iso", "bootstrap.iso"] {
            write_iso(&folder.path().join(iso), env!("CARGO_PKG_VERSION"), 1 << 20);
        }
        let place = match shape {
            Shape::VCenter => Place { datacenter: "DC0", compute: "DC0_C0", store: "LocalDS_0", bridge: "DC0_DVPG0" },
            Shape::Esxi => Place { datacenter: "ha-datacenter", compute: "", store: "", bridge: "bridge" },
        };
        let stage = Stage {
            target: says["url"].as_str().unwrap().to_owned(),
            thumbprint: says["thumbprint"].as_str().unwrap().to_owned(),
            user: "admin".into(),
            // The guest is played: it calls nobody.
            inside: "vcenter.example".into(),
            password: "s3cret-of-the-test".into(),
            place,
            folder,
            said: Arc::default(),
        };
        Self { child, stage }
    }
}
