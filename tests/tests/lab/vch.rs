//! vic-machine, the appliance and docker.

use std::time::{Duration, Instant};

use vic_tests::block_on;
use vic_tests::lab::{ADDRESS, Lab, text};
use vic_tests::suite::NAME;
use vim25::types::{ManagedObjectReference, methods};

fn create(lab: &Lab) -> serde_json::Value {
    let ip = format!("{ADDRESS}/24");
    let more = ["--public-network-ip", &ip, "--public-network-gateway", "192.168.120.1", "--output", "json"];
    lab.stage.vic("create", &lab.stage.create_args(NAME, &more)).ended_with(0).json()
}

/// Waits until docker reaches the VCH.
fn docker_answers(lab: &Lab) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        // The client itself waits for the connection; each try takes its time.
        let info = lab.docker(&lab.stage.folder.path().join(NAME), &["info", "--format", "{{.Name}}"]);
        if info.status.success() {
            assert_eq!(text(&info).trim(), NAME);
            return;
        }
        assert!(Instant::now() < deadline, "docker does not reach the VCH: {}", text(&info));
    }
}

#[test]
fn create_docker_ls_inspect_delete() {
    let lab = Lab::up(&[]);
    let before = lab.stage.picture();
    let created = create(&lab);
    assert_eq!(
        (created["state"].as_str(), created["docker_host"].as_str()),
        (Some("ready"), Some("192.168.120.10:2376"))
    );

    let certificates = lab.stage.folder.path().join(NAME);
    let version = lab.docker(&certificates, &["version", "--format", "{{.Server.Platform.Name}}"]);
    assert!(text(&version).contains("vSphere Integrated Containers"), "{}", text(&version));
    docker_answers(&lab);
    for (what, args) in
        [("containers", &["ps", "-aq"][..]), ("images", &["images", "-q"]), ("volumes", &["volume", "ls", "-q"])]
    {
        let list = lab.docker(&certificates, args);
        assert!(list.status.success() && text(&list).is_empty(), "{what}: {}", text(&list));
    }
    let missing = lab.docker(&certificates, &["create", "--pull", "never", "busybox"]);
    assert!(!missing.status.success() && text(&missing).contains("No such image: busybox"), "{}", text(&missing));

    // Without a certificate, and with one of a foreign CA.
    let ca = certificates.join("ca.pem");
    let host = format!("{ADDRESS}:2376");
    let bare =
        lab.run(&["exec", "--", "curl", "-sS", "--cacert", ca.to_str().unwrap(), &format!("https://{host}/version")]);
    assert!(!bare.status.success() && text(&bare).contains("certificate required"), "{}", text(&bare));
    let foreign = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
    std::fs::copy(&ca, foreign.path().join("ca.pem")).unwrap();
    std::fs::write(foreign.path().join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(foreign.path().join("key.pem"), key.serialize_pem()).unwrap();
    let refused = lab.docker(foreign.path(), &["version"]);
    assert!(!refused.status.success() && text(&refused).contains("tls"), "{}", text(&refused));

    let listed = lab.stage.vic("ls", &["--output", "json"]).ended_with(0).json();
    assert_eq!(listed["vchs"][0]["state"], "ready", "{listed}");
    lab.stage.vic("inspect", &["--name", NAME]).ended_with(0);
    lab.stage.vic("delete", &["--name", NAME]).ended_with(0);
    assert_eq!(lab.stage.picture(), before, "delete leaves the inventory as it was before create");
    lab.stage.check_wire_log();
}

#[test]
fn the_vch_survives_a_reset_of_its_vm_and_the_death_of_the_labs_daemon() {
    let mut lab = Lab::up(&[]);
    let created = create(&lab);
    docker_answers(&lab);
    lab.stage.check_secrets();
    let vm = ManagedObjectReference::new("VirtualMachine", created["id"].as_str().unwrap());
    block_on(async {
        let session = lab.stage.session().await;
        session.run(&methods::ResetVMTask { this: vm.clone() }).await.unwrap();
        session.logout().await.unwrap();
    });
    docker_answers(&lab);

    // SAFETY: kill(2) touches no memory; the id is the daemon's own answer.
    unsafe { libc::kill(lab.daemon(), libc::SIGKILL) };
    lab.start();
    docker_answers(&lab);
    let inspected = lab.stage.vic("inspect", &["--name", NAME, "--output", "json"]);
    assert_eq!(inspected.ended_with(0).json()["id"], created["id"]);
    lab.stage.vic("delete", &["--name", NAME]).ended_with(0);
}

#[test]
fn a_vch_on_a_lone_esxi_host() {
    let lab = Lab::up(&["--esxi"]);
    // A new host has "VM Network" alone: create makes the bridge network, and delete takes it away.
    let before = lab.stage.picture();
    create(&lab);
    docker_answers(&lab);
    let listed = lab.stage.vic("ls", &["--output", "json"]).ended_with(0).json();
    assert_eq!(listed["vchs"][0]["state"], "ready", "{listed}");
    lab.stage.vic("delete", &["--name", NAME]).ended_with(0);
    assert_eq!(lab.stage.picture(), before, "delete leaves the inventory as it was before create");
    lab.stage.check_wire_log();
}
