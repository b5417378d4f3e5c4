//! vic-machine against govmomi's simulator, with a guest that is played by writing the status keys.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers")]

use vic_tests::proxy::{Act, Proxy};
use vic_tests::suite::{self, NAME, TLS};
use vic_tests::vcsim::{Shape, Vcsim};
use vim25::types::methods;

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
    let plan = stage.vic("delete", &["--name", NAME, "--dry-run", "--output", "json"]);
    assert_eq!(plan.ended_with(0).json()["steps"][0]["step"].as_str().map(|s| s != "house"), Some(true));
    let plan = stage.create_args("other", &[&TLS[..], &["--dry-run", "--output", "json"]].concat());
    assert_eq!(stage.vic("create", &plan).ended_with(0).json()["name"], "other");

    let plan = stage.vic("delete", &["--name", NAME, "--dry-run"]);
    assert!(plan.ended_with(0).stdout.contains("endpoint VM"), "{}", plan.stdout);
    let deleted = stage.vic("delete", &["--name", NAME, "--output", "json"]).ended_with(0).json();
    assert_eq!(deleted["deleted"], NAME);
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
    suite::a_dry_run_prints_the_plan_and_changes_nothing(&Vcsim::start(Shape::VCenter, "play").stage);
}

#[test]
fn login_and_trust_failures_are_told_apart() {
    suite::login_and_trust_failures_are_told_apart(&Vcsim::start(Shape::VCenter, "play").stage);
}

#[test]
fn names_that_stand_for_nothing_get_suggestions() {
    suite::names_that_stand_for_nothing_get_suggestions(&Vcsim::start(Shape::VCenter, "play").stage);
}

#[test]
fn bad_values_are_refused_before_anything_is_asked() {
    suite::bad_values_are_refused_before_anything_is_asked(&Vcsim::start(Shape::VCenter, "play").stage);
}

#[test]
fn ctrl_c_at_any_stage_leaves_nothing() {
    suite::ctrl_c_at_any_stage_leaves_nothing(&Vcsim::start(Shape::VCenter, "silent").stage);
}

#[test]
fn a_target_that_dies_in_the_upload_is_told_and_delete_finishes_the_job() {
    let sim = Vcsim::start(Shape::VCenter, "play");
    suite::a_target_that_dies_in_the_upload_is_told_and_delete_finishes_the_job(&sim.stage);
}

/// Without DRS a cluster has neither pools of one's own nor vApps: the VCH shares the cluster's root pool.
#[test]
fn on_a_cluster_without_drs_the_vch_shares_the_pool() {
    let sim = Vcsim::start_with(Shape::VCenter, "play", &["-no-drs"]);
    let stage = &sim.stage;
    let before = stage.picture();
    let create = stage.vic("create", &stage.create_args(NAME, &[&TLS[..], &["--memory", "2048"]].concat()));
    create.ended_with(0).said("DRS is off").said("--cpu and --memory have no effect");
    assert!(!create.stderr.contains("create vApp"), "{}", create.stderr);
    let more: Vec<String> = stage.picture().into_iter().filter(|line| !before.contains(line)).collect();
    assert_eq!(more, ["Folder /DC0/vm/vch1", "VirtualMachine vch1"]);
    stage.vic("delete", &["--name", NAME]).ended_with(0);
    assert_eq!(stage.picture(), before);
    stage.check_wire_log();
}

/// A pool that is not ours is not taken for what an interrupted create left, although it is empty and of the VCH's name.
#[test]
fn delete_leaves_an_empty_resource_pool_of_the_same_name_alone() {
    let sim = Vcsim::start(Shape::VCenter, "play");
    let stage = &sim.stage;
    vic_tests::block_on(async {
        let session = stage.session().await;
        let root = session.content().root_folder.clone();
        let pools = session.contained(&root, "ResourcePool", true, &["name"]).await.unwrap();
        let spec = session.read(&pools[0].reference, &["config"]).await.unwrap().require("config").unwrap();
        let make = methods::CreateResourcePool { this: pools[0].reference.clone(), name: NAME.into(), spec };
        session.call(&make).await.unwrap();
        session.logout().await.unwrap();
    });
    let before = stage.picture();
    stage.vic("delete", &["--name", NAME]).ended_with(6);
    assert_eq!(stage.picture(), before);
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
fn delete_disturbed_at_every_call(shape: Shape) {
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

#[test]
fn delete_disturbed_at_every_call_is_finished_by_the_next_on_vcenter() {
    delete_disturbed_at_every_call(Shape::VCenter);
}

#[test]
fn delete_disturbed_at_every_call_is_finished_by_the_next_on_esxi() {
    delete_disturbed_at_every_call(Shape::Esxi);
}
