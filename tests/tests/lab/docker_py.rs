//! docker-py, a client that nobody here wrote: `tests/docker-py/suite.py`.

use registry_server::installed;
use vic_tests::lab::{ADDRESS, Lab, text};
use vic_tests::suite::NAME;

use crate::guests::busybox_registry;
use crate::images::REGISTRY;

#[test]
fn docker_py_drives_a_vch() {
    if !installed() {
        return;
    }
    let lab = Lab::up(&[]);
    let (_, _serving) = busybox_registry(&lab);
    let certificates = lab.stage.folder.path().join(NAME);
    // PATH leads to the Python that has docker-py: ./scripts/test sees to that.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docker-py/suite.py");
    let host = format!("DOCKER_HOST=tcp://{ADDRESS}:2376");
    let path = format!("DOCKER_CERT_PATH={}", certificates.display());
    let image = format!("IMAGE={REGISTRY}/busybox:1");
    let search = format!("PATH={}", std::env::var("PATH").unwrap());
    // Nothing else: a machine's own proxies and CAs are not meant.
    let env = ["exec", "--", "env", "-i", &search, &host, "DOCKER_TLS_VERIFY=1", &path, &image, "python3", script];
    let output = lab.run(&env);
    assert!(output.status.success(), "{}", text(&output));
    lab.stage.vic("delete", &["--name", NAME, "--force"]).ended_with(0);
}
