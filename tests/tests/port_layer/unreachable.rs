//! VMs whose files vSphere does not reach.

use port_layer::Failure;
use vim25::types::{ManagedObjectReference, VirtualMachineConnectionState};

use crate::stage::{STORE, Stage, in_time, runtime};

/// Puts the files of a container's VM out of reach.
async fn lose_files(stage: &Stage, container: &str) {
    let vm = stage.engine.table().find(container).unwrap().vm.clone();
    stage.faults(&["add", "--method", "no-call", "--lose-files", &vm]);
    let this = ManagedObjectReference::new("VirtualMachine", vm);
    let state = stage.admin.read(&this, &["runtime.connectionState"]).await.unwrap();
    assert_eq!(state.get("runtime.connectionState").unwrap(), Some(VirtualMachineConnectionState::Inaccessible));
}

#[test]
fn a_container_whose_files_are_out_of_reach_is_removed_by_force_alone() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        // With the options of one that goes by itself: that is no force.
        stage.create("one", &["run"], r#"{"AutoRemove":true}"#).await.unwrap();
        let files = stage.engine.table().find("one").unwrap().files.clone().unwrap();
        lose_files(&stage, "one").await;
        assert!(in_time("start", stage.engine.start_container("one")).await.is_err());
        let refused = in_time("rm", stage.engine.remove_container("one", false)).await.unwrap_err();
        assert!(matches!(&refused, Failure::Vsphere(_)), "{refused:?}");
        assert!(refused.to_string().contains("by force"), "{refused}");
        assert!(stage.engine.table().find("one").is_ok(), "it is listed as long as it is there");
        in_time("rm -f", stage.engine.remove_container("one", true)).await.unwrap();
        assert!(stage.engine.table().find("one").is_err());
        stage.faults(&["clear"]);
        // They were not to be had.
        let files = stage.lab.folder().join("datastores").join(STORE).join(&files.path);
        assert!(files.is_dir(), "{}", files.display());
        std::fs::remove_dir_all(files).unwrap();
        stage.nothing_is_left().await;
    });
}

#[test]
fn what_an_engine_cannot_read_may_stand_on_any_disk_and_comes_back() {
    runtime().block_on(async {
        let mut stage = Stage::up().await;
        let id = stage.create("one", &["run"], "{}").await.unwrap();
        lose_files(&stage, "one").await;
        assert!(!stage.engine.table().may_use("another"), "what it stands on is known");
        stage.engine = stage.another_engine().await;
        let table = stage.engine.table();
        assert!(table.find(&id).is_err() && table.may_use("another"), "{table:?}");
        stage.faults(&["clear"]);
        stage.until("its container", |t| t.find(&id).is_ok() && !t.may_use("another")).await;
        in_time("start", stage.engine.start_container("one")).await.unwrap();
        stage.clean_up().await;
    });
}
