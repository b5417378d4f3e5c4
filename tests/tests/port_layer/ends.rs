//! How containers end when neither the guest nor vSphere does what is usual.

use std::time::Duration;

use port_layer::container::phase::Phase;
use port_layer::container::table::{Container, Table};
use vim25::types::{ManagedObjectReference, methods};

use crate::stage::{Stage, in_time, runtime};

const ALWAYS: &str = r#"{"RestartPolicy":{"Name":"always"}}"#;

async fn until(stage: &Stage, what: &str, accept: impl Fn(&Container) -> bool) {
    stage.until(what, |table| table.find("one").is_ok_and(&accept)).await;
}

fn one(table: &Table) -> Container {
    table.find("one").unwrap().clone()
}

#[test]
fn a_guest_that_still_writes_its_disk_is_not_cut_off() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        // Longer than a process has that was given no time.
        stage.create("one", &["slow", "7000"], "{}").await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        stage.faults(&["add", "--method", "PowerOffVM_Task", "--delay", "0"]);
        in_time("stop", stage.engine.stop_container("one", None, Some(Duration::ZERO))).await.unwrap();
        assert_eq!(one(&stage.engine.table()).phase().exit_code(), 143);
        let rule = stage.faults(&["list"]);
        assert!(rule.contains(r#""seen":0"#), "{rule}");
        stage.clean_up().await;
    });
}

#[test]
fn a_guest_that_an_admin_restarts_goes_on() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        stage.create("one", &["run"], ALWAYS).await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        let first = one(&stage.engine.table());
        stage.faults(&["add", "--method", "Power*", "--delay", "0"]);
        let this = ManagedObjectReference::new("VirtualMachine", &first.vm);
        stage.admin.call(&methods::RebootGuest { this }).await.unwrap();
        until(&stage, "the next run", |c| c.phase() == Phase::Running && c.run != first.run).await;
        // Nobody waits for the VM to go off, with the container's lock.
        in_time("start", stage.engine.start_container("one")).await.unwrap();
        let rule = stage.faults(&["list"]);
        assert!(rule.contains(r#""seen":0"#), "{rule}");
        in_time("stop", stage.engine.stop_container("one", None, None)).await.unwrap();
        assert_eq!(one(&stage.engine.table()).restarts.count, 0);
        stage.clean_up().await;
    });
}

#[test]
fn a_start_that_fails_leaves_a_container_that_can_be_started() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        stage.create("one", &["run"], ALWAYS).await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        in_time("stop", stage.engine.stop_container("one", None, None)).await.unwrap();
        for restart in [false, true] {
            stage.faults(&["add", "--method", "PowerOnVM_Task", "--times", "1", "--fault", "SystemError"]);
            let failed = match restart {
                false => in_time("start", stage.engine.start_container("one")).await,
                true => in_time("restart", stage.engine.restart_container("one", None, None)).await,
            };
            failed.unwrap_err();
            let phase = one(&stage.engine.table()).phase();
            assert!(matches!(phase, Phase::Exited { .. }), "its policy takes no part: {phase:?}");
        }
        let started = in_time("start", stage.engine.start_container("one")).await.unwrap();
        assert_eq!(started, port_layer::Outcome::Done);
        stage.clean_up().await;
    });
}

#[test]
fn a_removal_that_fails_leaves_the_restart_policy_to_its_work() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        stage.create("one", &["run"], ALWAYS).await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        let first = one(&stage.engine.table());
        // Long enough for the policy to look at it meanwhile.
        stage.faults(&["add", "--method", "Destroy_Task", "--times", "1", "--delay", "1000"]);
        stage.faults(&["add", "--method", "Destroy_Task", "--times", "1", "--fault", "SystemError"]);
        in_time("rm -f", stage.engine.remove_container("one", true)).await.unwrap_err();
        until(&stage, "the next run", |c| c.phase() == Phase::Running && c.run != first.run).await;
        stage.clean_up().await;
    });
}

#[test]
fn what_vanishes_while_nobody_watches_is_cleared_away_all_the_same() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["exit", "0", "0"], "{}").await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        in_time("its end", stage.engine.wait_for("one", port_layer::Until::NotRunning)).await.unwrap();
        until(&stage, "off", |c| c.power == port_layer::container::phase::Power::Off).await;
        stage.lose().await;
        let this = ManagedObjectReference::new("VirtualMachine", &one(&stage.engine.table()).vm);
        stage.admin.run(&methods::DestroyTask { this }).await.unwrap();
        let next = stage.next_engine().await;
        assert!(next.table().find(&id).is_err());
        stage.nothing_is_left().await;
    });
}
