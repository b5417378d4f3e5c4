//! pyVmomi, a client that nobody here wrote: `tests/pyvmomi/suite.py` on both shapes.

use std::process::Command;

use vic_tests::lab::{Lab, text};

/// A user with the read-only role.
const READER: &str = "reader";

fn suite(args: &[&str]) {
    let mut up = vec!["--readonly-user", READER];
    up.extend(args);
    let lab = Lab::bare(&up);
    // What `curious` is for.
    let ask = ["faults", "add", "--method", "PowerOnVM_Task", "--object", "curious", "--question", "msg.test:Go on?"];
    assert!(lab.run(&ask).status.success());
    let (host, port) = lab.stage.target.trim_start_matches("https://").rsplit_once(':').unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/pyvmomi/suite.py");
    // PATH leads to the Python that has pyVmomi: ./scripts/test sees to that.
    let output = Command::new("python3")
        .args(["-W", "ignore::ResourceWarning", script])
        .env("LAB_HOST", host)
        .env("LAB_PORT", port)
        .env("LAB_USER", &lab.stage.user)
        .env("LAB_PASSWORD", &lab.stage.password)
        .env("LAB_READONLY", READER)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}\nThe lab says:\n{}", text(&output), lab.log());
}

#[test]
fn pyvmomi_on_a_vcenter() {
    suite(&[]);
}

#[test]
fn pyvmomi_on_an_esxi_host() {
    suite(&["--esxi"]);
}
