//! vic-machine against govmomi's simulator, with a guest that is played by writing the status keys.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers")]

use std::net::TcpListener;

use vic_tests::proxy::{Act, Proxy};
use vic_tests::vcsim::{Shape, Vcsim};
use vic_tests::{Stage, cut, write_iso};

const NAME: &str = "vch1";
const TLS: [&str; 2] = ["--tls-cname", "vch.example"];

fn create_and_delete(shape: Shape) {
    let sim = Vcsim::start(shape, "play");
    let stage = &sim.stage;
    let before = stage.picture();

    let args = stage.create_args(NAME, &[&TLS[..], &["--output", "json"]].concat());
    let created = stage.vic("create", &args);
    created.ended_with(0);
    let created = created.json();
    assert_eq!(created["state"], "ready", "{created}");
    assert_eq!(created["docker_host"], "vch.example:2376", "the name in the certificate");
    for file in ["ca.pem", "cert.pem", "key.pem", "vch1.env"] {
        assert!(stage.folder.path().join(NAME).join(file).exists(), "{file}");
    }

    let listed = stage.vic("ls", &["--output", "json"]);
    let listed = listed.ended_with(0).json();
    assert_eq!(listed["vchs"][0]["name"], NAME, "{listed}");
    assert_eq!(listed["vchs"][0]["upgrade_status"], "Up to date");

    let inspected = stage.vic("inspect", &["--name", NAME, "--output", "json"]);
    assert_eq!(inspected.ended_with(0).json()["docker_command"], created["docker_command"]);
    let id = created["id"].as_str().unwrap();
    stage.vic("inspect", &["--id", id]).ended_with(0);

    stage.vic("create", &args).ended_with(7).said("already exists");

    let plan = stage.vic("delete", &["--name", NAME, "--dry-run"]);
    assert!(plan.ended_with(0).stdout.contains("endpoint VM"), "{}", plan.stdout);
    stage.vic("delete", &["--name", NAME]).ended_with(0);
    assert_eq!(stage.picture(), before, "delete leaves the inventory as it was before create");
    stage.vic("delete", &["--name", NAME]).ended_with(6);
    stage.check_wire_log();
}

#[test]
fn create_ls_inspect_delete_on_vcenter() {
    create_and_delete(Shape::VCenter);
}

#[test]
fn create_ls_inspect_delete_on_an_esxi_host_makes_and_removes_the_bridge_network() {
    create_and_delete(Shape::Esxi);
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let sim = Vcsim::start(Shape::VCenter, "play");
    let before = sim.stage.picture();
    let plan = sim.stage.vic("create", &sim.stage.create_args(NAME, &[&TLS[..], &["--dry-run"]].concat()));
    for part in ["VM folder", "vApp", "endpoint VM", "upload", "power on"] {
        assert!(plan.ended_with(0).stdout.contains(part), "{part}: {}", plan.stdout);
    }
    assert_eq!(sim.stage.picture(), before);
    assert!(!sim.stage.folder.path().join(NAME).exists(), "no certificates are written");
    sim.stage.check_wire_log();
}

#[test]
fn login_and_trust_failures_are_told_apart() {
    let sim = Vcsim::start(Shape::VCenter, "play");
    let wrong = Stage {
        password: "not-it".into(),
        folder: tempfile::tempdir().unwrap(),
        target: sim.stage.target.clone(),
        thumbprint: sim.stage.thumbprint.clone(),
        user: "admin".into(),
        place: Vec::new(),
    };
    wrong.vic("ls", &[]).ended_with(4).said("InvalidLogin").said("check --user and --password");

    let other = "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33";
    let refused = sim.stage.vic("ls", &["--thumbprint", other]);
    refused.ended_with(4).said(other).said(&sim.stage.thumbprint).said("subject: CN=simulated vCenter");
    refused.said("issuer:").said("valid:").said("thumbprint does not match");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = sim.stage.vic("ls", &["--target", &format!("https://{free}")]);
    unreachable.ended_with(1).said("cannot reach").said("check that");
}

#[test]
fn names_that_stand_for_nothing_get_suggestions() {
    let sim = Vcsim::start(Shape::VCenter, "play");
    let stage = &sim.stage;
    let before = stage.picture();
    let with = |args: &[&str]| stage.vic("create", &[&TLS[..], args].concat());
    let dc = format!("{}/DC9", stage.target);
    with(&["--target", &dc]).ended_with(3).said("Datacenter \"DC9\" in --target is not found").said("DC0");
    with(&["-r", "DC0_C9", "-i", "LocalDS_0", "-b", "DC0_DVPG0"]).ended_with(3).said("DC0_C0");
    with(&["-r", "DC0_C0", "-i", "LocalDS_9", "-b", "DC0_DVPG0"])
        .ended_with(3)
        .said("Suggested values for --image-store: LocalDS_0");
    with(&["-r", "DC0_C0", "-i", "LocalDS_0", "-b", "DC0_DVPG9"])
        .ended_with(3)
        .said("network 'DC0_DVPG9' not found")
        .said("DC0_DVPG0");
    with(&["-r", "DC0_C0", "-i", "LocalDS_0", "-b", "DC0_DVPG0", "--public-network", "x"])
        .ended_with(3)
        .said("network 'x' not found");
    // All problems at once.
    with(&["-r", "DC0_C0", "-i", "nope", "-b", "nope"])
        .ended_with(3)
        .said("image-store")
        .said("bridge-network")
        .said("2 problems");
    assert_eq!(stage.picture(), before);
    stage.check_wire_log();
}

#[test]
fn bad_values_are_refused_before_anything_is_asked() {
    let sim = Vcsim::start(Shape::VCenter, "play");
    let stage = &sim.stage;
    let with = |name: &str, args: &[&str]| stage.vic("create", &stage.create_args(name, &[&TLS[..], args].concat()));
    with(&"x".repeat(32), &[]).ended_with(3).said("exceeds the permitted 31 characters limit");
    with("a/b", &[]).ended_with(3).said("contains '/'");
    with(NAME, &["--appliance-iso", "missing.iso"]).ended_with(3).said("missing.iso cannot be read");
    let iso = stage.folder.path().join("old.iso");
    write_iso(&iso, "0.0.1", 1 << 20);
    with(NAME, &["--appliance-iso", "old.iso"]).ended_with(3).said("is of version \"0.0.1\"");
    std::fs::File::options().write(true).open(&iso).unwrap().set_len(1 << 19).unwrap();
    with(NAME, &["--appliance-iso", "old.iso"]).ended_with(3).said("is truncated");
    with(NAME, &["--no-such-option"]).ended_with(2);
    with(NAME, &["stray"]).ended_with(2);
    stage.vic("create", &stage.create_args(NAME, &[])).ended_with(3).said("provide Common Name");
}

#[test]
fn an_appliance_that_does_not_come_up_is_told_by_its_stage_and_removed() {
    for (guest, text, code) in [
        ("silent", "exceeded time limit", 8),
        ("no-address", "exceeded time limit", 8),
        ("off", "has powered off while it was starting", 1),
    ] {
        let sim = Vcsim::start(Shape::VCenter, guest);
        let before = sim.stage.picture();
        let args = sim.stage.create_args(NAME, &[&TLS[..], &["--timeout", "4s"]].concat());
        sim.stage.vic("create", &args).ended_with(code).said(text);
        assert_eq!(sim.stage.picture(), before, "{guest}: nothing is left");
        assert!(!sim.stage.folder.path().join(NAME).exists(), "{guest}: no certificates are left");
        sim.stage.check_wire_log();
    }
}

#[test]
fn ctrl_c_at_any_stage_leaves_nothing() {
    let sim = Vcsim::start(Shape::VCenter, "silent");
    let before = sim.stage.picture();
    for stage in [
        "create VM folder",
        "create vApp",
        "create endpoint VM",
        "upload",
        "attach the ISO",
        "power on",
        "wait for the appliance",
    ] {
        let mut create = sim.stage.start("create", &sim.stage.create_args(NAME, &TLS));
        create.wait_for(stage);
        create.signal(libc::SIGINT);
        create.finish().ended_with(1).said("interrupted by Ctrl-C");
        assert_eq!(sim.stage.picture(), before, "after Ctrl-C at {stage:?}");
    }
    sim.stage.check_wire_log();
}

#[test]
fn a_target_that_dies_in_the_upload_is_told_and_delete_finishes_the_job() {
    let sim = Vcsim::start(Shape::VCenter, "play");
    let before = sim.stage.inventory();
    write_iso(&sim.stage.folder.path().join("appliance.iso"), env!("CARGO_PKG_VERSION"), 32 << 20);
    let real = sim.stage.target.trim_start_matches("https://").parse().unwrap();
    let flaky = format!("https://{}", cut::relay(real, 8 << 20));
    let args = sim.stage.create_args(NAME, &[&TLS[..], &["--target", &flaky]].concat());
    sim.stage.vic("create", &args).ended_with(1).said("cannot upload").said("run vic-machine delete");
    // Its session could not be closed: the way was cut.
    let left = sim.stage.picture();
    assert!(left.iter().any(|l| l == "VirtualMachine vch1"), "{left:?}");
    sim.stage.vic("delete", &["--name", NAME]).ended_with(0);
    assert_eq!(sim.stage.inventory(), before);
}

/// A stage whose calls go through a proxy.
fn disturbed(shape: Shape) -> (Vcsim, Proxy) {
    let mut sim = Vcsim::start(shape, "play");
    let proxy = Proxy::start(&sim.stage.target);
    sim.stage.target = proxy.target();
    sim.stage.thumbprint = proxy.thumbprint().to_owned();
    (sim, proxy)
}

/// Kills create at each call that changes something; then the same command again ends as if nothing had been.
fn killed_at_every_call(shape: Shape) {
    let (sim, proxy) = disturbed(shape);
    let stage = &sim.stage;
    let before = stage.inventory();
    let args = stage.create_args(NAME, &TLS);
    stage.vic("create", &args).ended_with(0);
    let undisturbed = stage.inventory();
    stage.vic("delete", &["--name", NAME]).ended_with(0);
    let mut killed = Vec::new();
    for act in [Act::KillBefore, Act::KillAfter] {
        for nth in 0.. {
            std::fs::remove_dir_all(stage.folder.path().join(NAME)).unwrap();
            let victim = proxy.arm(nth, act);
            let create = stage.start("create", &args);
            victim.set(create.id()).unwrap();
            let ended = create.finish();
            let Some(call) = proxy.disarm() else {
                ended.ended_with(0);
                stage.vic("delete", &["--name", NAME]).ended_with(0);
                break;
            };
            ended.ended_with(-1);
            let again = stage.vic("create", &args);
            // Killed after the very last call, which removes the journal, the VCH was complete.
            let complete = again.code == 7 && act == Act::KillAfter && call == "ReconfigVM_Task";
            assert!(again.code == 0 || complete, "{act:?} {call} ({nth}): {}", again.stderr);
            assert!(stage.folder.path().join(NAME).join("vch1.env").exists());
            assert_eq!(stage.inventory(), undisturbed, "{act:?} {call} ({nth})");
            stage.vic("delete", &["--name", NAME]).ended_with(0);
            assert_eq!(stage.inventory(), before, "{act:?} {call} ({nth})");
            killed.push(call);
        }
    }
    for call in ["PUT", "ReconfigVM_Task", "PowerOnVM_Task"] {
        assert!(killed.iter().any(|k| k == call), "{call} was never reached: {killed:?}");
    }
    stage.check_wire_log();
}

#[test]
fn create_killed_at_every_call_is_made_good_by_the_next_on_vcenter() {
    killed_at_every_call(Shape::VCenter);
}

#[test]
fn create_killed_at_every_call_is_made_good_by_the_next_on_esxi() {
    killed_at_every_call(Shape::Esxi);
}

/// Fails create at each call that changes something, before and after its effect: nothing is left.
fn failed_at_every_call(shape: Shape) {
    let (sim, proxy) = disturbed(shape);
    let stage = &sim.stage;
    let before = stage.picture();
    let args = stage.create_args(NAME, &TLS);
    for act in [Act::Fail, Act::DropAfter] {
        for nth in 0.. {
            proxy.arm(nth, act);
            let create = stage.vic("create", &args);
            let Some(call) = proxy.disarm() else {
                create.ended_with(0);
                stage.vic("delete", &["--name", NAME]).ended_with(0);
                break;
            };
            if call == "PUT" || create.stderr.contains("the journal of this create could not be removed") {
                // An upload is tried again, and the end of the operation needs no journal.
                create.ended_with(0);
                stage.vic("delete", &["--name", NAME]).ended_with(0);
                std::fs::remove_dir_all(stage.folder.path().join(NAME)).unwrap();
            } else {
                assert_eq!(create.code, 1, "{act:?} {call} ({nth}): {}", create.stderr);
                assert!(!stage.folder.path().join(NAME).exists(), "{act:?} {call}: certificates are left");
            }
            assert_eq!(stage.picture(), before, "{act:?} {call} ({nth}): {}", create.stderr);
        }
        // delete leaves the certificates, which are the admin's.
        let _ = std::fs::remove_dir_all(stage.folder.path().join(NAME));
    }
    stage.check_wire_log();
}

#[test]
fn create_failed_at_every_call_leaves_nothing_on_vcenter() {
    failed_at_every_call(Shape::VCenter);
}

#[test]
fn create_failed_at_every_call_leaves_nothing_on_esxi() {
    failed_at_every_call(Shape::Esxi);
}

/// Kills and fails delete at each call that changes something; then the same command again finishes the job.
#[test]
fn delete_disturbed_at_every_call_is_finished_by_the_next() {
    for shape in [Shape::VCenter, Shape::Esxi] {
        let (sim, proxy) = disturbed(shape);
        let stage = &sim.stage;
        let before = stage.inventory();
        let args = stage.create_args(NAME, &TLS);
        for act in [Act::KillBefore, Act::KillAfter, Act::Fail, Act::DropAfter] {
            for nth in 0.. {
                stage.vic("create", &args).ended_with(0);
                let victim = proxy.arm(nth, act);
                let delete = stage.start("delete", &["--name", NAME]);
                victim.set(delete.id()).unwrap();
                let ended = delete.finish();
                let Some(call) = proxy.disarm() else {
                    ended.ended_with(0);
                    break;
                };
                assert_ne!(ended.code, 0, "{act:?} {call}");
                let again = stage.vic("delete", &["--name", NAME]);
                // All of it was gone already when the last call was the one.
                assert!([0, 6].contains(&again.code), "{act:?} {call} ({nth}): {}", again.stderr);
                assert_eq!(stage.inventory(), before, "{act:?} {call} ({nth})");
            }
        }
        stage.check_wire_log();
    }
}
