//! What an admin does to a container's VM beside the engine, and Docker follows.

use std::time::Duration;

use image_store::Digest;
use image_store::index::{Disk, Image, Index};
use port_layer::container::events::Subject;
use port_layer::container::phase::{Phase, Power};
use port_layer::container::table::{Change, Container, Table};
use port_layer::{Failure, Until};
use vim25::types::{
    AnyVirtualDevice, AnyVirtualDeviceBackingInfo, ManagedObjectReference, VirtualDeviceConfigSpec,
    VirtualDeviceConfigSpecOperation, VirtualMachineConfigSpec, methods,
};

use crate::stage::{DISK, STORE, Stage, in_time, runtime};

/// What was told of a container, oldest first.
pub(crate) fn told_of(stage: &Stage, id: &str) -> Vec<Change> {
    let (past, _) = stage.history.listen();
    let told = past.iter().filter_map(|event| match &event.subject {
        Subject::Container { record, change } if record.id == id => Some(change.clone()),
        _ => None,
    });
    told.collect()
}

fn renamed(old: &str) -> Change {
    Change::Rename { old: old.into() }
}

#[test]
fn a_vm_that_an_admin_renames_or_destroys_is_followed() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["run"], "{}").await.unwrap();
        stage.create("two", &["run"], "{}").await.unwrap();
        let this = ManagedObjectReference::new("VirtualMachine", &stage.engine.table().find(&id).unwrap().vm);
        let rename = async |new_name: &str| {
            let rename = methods::RenameTask { this: this.clone(), new_name: new_name.into() };
            stage.admin.run(&rename).await.unwrap();
        };
        let is = |name: &'static str| {
            let id = id.clone();
            move |table: &Table| table.find(&id).is_ok_and(|c| c.record.name == name)
        };
        // As the engine names VMs, and as people do.
        rename(&format!("web-{}", &id[..12])).await;
        stage.until("web", is("web")).await;
        rename("db").await;
        stage.until("db", is("db")).await;
        let vm = stage.admin.read(&this, &["name"]).await.unwrap();
        assert_eq!(vm.get::<String>("name").unwrap().as_deref(), Some("db"), "the admin's name stays");
        // Neither another's name nor one that Docker does not know.
        rename(&format!("two-{}", &id[..12])).await;
        rename("no name of Docker's").await;
        stage.engine.rename_container("db", "again").await.unwrap();
        stage.until("again", is("again")).await;
        let named = |c: &Container| c.record.name.clone();
        let mut names: Vec<_> = stage.engine.table().iter().map(named).collect();
        names.sort();
        assert_eq!(names, ["again", "two"]);

        stage.admin.run(&methods::DestroyTask { this: this.clone() }).await.unwrap();
        stage.until("gone", |table| table.find(&id).is_err()).await;
        assert_eq!(
            told_of(&stage, &id),
            [Change::Create, renamed("one"), renamed("web"), renamed("db"), Change::Destroy]
        );
        stage.clean_up().await;
    });
}

#[test]
fn a_name_that_a_client_gives_after_an_admin_stays() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["deaf"], "{}").await.unwrap();
        stage.engine.start_container(&id).await.unwrap();
        let vm = stage.engine.table().find(&id).unwrap().vm.clone();
        let this = ManagedObjectReference::new("VirtualMachine", vm);
        let admin = async {
            stage.admin.run(&methods::RenameTask { this, new_name: "of-an-admin".into() }).await.unwrap();
            // Its name is seen, and comes to wait for the container's lock, behind the client's.
            stage
                .until("the admin's name", |t| t.find(&id).is_ok_and(|c| c.named.is_some() || c.record.name != "one"))
                .await;
        };
        // Each waits for the one before, which holds the container's lock: the first until it sees that the process is deaf.
        let stop = in_time("stop", stage.engine.stop_container(&id, None, Some(Duration::ZERO)));
        let client = in_time("rename", stage.engine.rename_container(&id, "two"));
        let (stopped, named, ()) = tokio::join!(stop, client, admin);
        stopped.unwrap();
        named.unwrap();
        // Behind all of them.
        in_time("start", stage.engine.start_container(&id)).await.unwrap();
        assert_eq!(stage.engine.table().find(&id).unwrap().record.name, "two");
        let renames: Vec<_> = told_of(&stage, &id).into_iter().filter(|c| matches!(c, Change::Rename { .. })).collect();
        assert_eq!(renames, [renamed("one")]);
        stage.clean_up().await;
    });
}

#[test]
fn a_running_container_that_vanishes_was_killed_to_those_who_wait() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["run"], "{}").await.unwrap();
        stage.engine.start_container(&id).await.unwrap();
        let vm = stage.engine.table().find(&id).unwrap().vm.clone();
        // The engine sees nothing until both are done: the VM is gone at once.
        stage.faults(&["add", "--method", "*WaitForUpdates*", "--delay", "1000"]);
        let admin = async {
            let this = || ManagedObjectReference::new("VirtualMachine", &vm);
            stage.admin.run(&methods::PowerOffVMTask { this: this() }).await.unwrap();
            stage.admin.run(&methods::DestroyTask { this: this() }).await.unwrap();
        };
        let waiting = in_time("its end", stage.engine.wait_for(&id, Until::Removed));
        let (code, ()) = tokio::join!(waiting, admin);
        assert_eq!(code.unwrap(), 137);
        stage.faults(&["clear"]);
        stage.clean_up().await;
    });
}

#[test]
fn how_a_container_ended_is_known_although_vsphere_is_lost_and_the_container_goes() {
    runtime().block_on(async {
        let mut stage = Stage::up().await;
        let id = stage.create("one", &["exit", "3", "0"], "{}").await.unwrap();
        let vm = stage.engine.table().find(&id).unwrap().vm.clone();
        // As `docker run` does: before it starts the container.
        let mut wait = stage.engine.begin_wait(&id, Until::Removed).unwrap();
        let lost = async {
            stage.engine.start_container(&id).await.unwrap();
            let ended = |c: &Container| c.power == Power::Off && matches!(c.phase(), Phase::Exited { .. });
            stage.until("its end", |t| t.find(&id).is_ok_and(ended)).await;
            stage.lose().await;
        };
        let (code, ()) = tokio::join!(in_time("the engine's end", stage.engine.wait_on(&mut wait)), lost);
        code.unwrap_err();
        let this = ManagedObjectReference::new("VirtualMachine", vm);
        stage.admin.run(&methods::DestroyTask { this }).await.unwrap();
        stage.engine = stage.next_engine().await;
        assert_eq!(in_time("its removal", stage.engine.wait_on(&mut wait)).await.unwrap(), 3);
    });
}

#[test]
fn what_an_admin_leaves_of_a_container_goes_although_vsphere_fails_at_first() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["exit", "0", "0"], "{}").await.unwrap();
        stage.engine.start_container(&id).await.unwrap();
        in_time("its end", stage.engine.wait_for(&id, Until::NotRunning)).await.unwrap();
        let vm = stage.engine.table().find(&id).unwrap().vm.clone();
        stage.until("off", |t| t.find(&id).is_ok_and(|c| c.power == Power::Off)).await;
        stage.faults(&["add", "--method", "SearchDatastore_Task", "--times", "1", "--fault", "SystemError"]);
        stage
            .admin
            .run(&methods::DestroyTask { this: ManagedObjectReference::new("VirtualMachine", vm) })
            .await
            .unwrap();
        stage.until("gone", |t| t.find(&id).is_err()).await;
        stage.nothing_is_left().await;
        let rule = stage.faults(&["list"]);
        assert!(rule.contains(r#""seen":2"#), "{rule}");
    });
}

#[test]
fn the_last_container_of_an_image_does_not_take_the_image_along() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        stage.admin.call(&methods::UnregisterVM { this: stage.holder.clone() }).await.unwrap();
        for force in [false, true] {
            stage.create("one", &["run"], "{}").await.unwrap();
            if force {
                stage.engine.start_container("one").await.unwrap();
            }
            in_time("rm", stage.engine.remove_container("one", force)).await.unwrap();
            assert!(stage.image().exists(), "after rm with force {force}");
        }
        // Nor does a create that is taken back while vSphere still gives the VM its disk.
        stage.faults(&["add", "--method", "ReconfigVM_Task", "--times", "1", "--drop", "after"]);
        stage.create("one", &["run"], "{}").await.unwrap_err();
        stage.nothing_is_left().await;
        assert!(stage.image().exists(), "after a create that failed");
    });
}

#[test]
fn a_clone_of_the_endpoint_vm_is_not_taken_for_it() {
    runtime().block_on(async {
        let mut stage = Stage::up().await;
        stage.copy_endpoint().await;
        stage.engine = stage.another_engine().await;
        stage.create("one", &["run"], "{}").await.unwrap();
        in_time("rm", stage.engine.remove_container("one", false)).await.unwrap();
    });
}

#[test]
fn what_has_no_room_with_a_vm_is_refused() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let failure = stage.create("one", &["x".repeat(70_000).as_str()], "{}").await.unwrap_err();
        assert!(matches!(&failure, Failure::Invalid(text) if text.contains("65536 bytes")), "{failure:?}");
        stage.nothing_is_left().await;
    });
}

#[test]
fn a_container_with_snapshots_can_be_removed() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        for force in [false, true] {
            stage.create("one", &["run"], "{}").await.unwrap();
            let this = ManagedObjectReference::new("VirtualMachine", &stage.engine.table().find("one").unwrap().vm);
            if force {
                stage.engine.start_container("one").await.unwrap();
            }
            // A backup's, and another one over it.
            for name in ["one", "two"] {
                let (this, name) = (this.clone(), name.to_owned());
                let snapshot =
                    methods::CreateSnapshotTask { this, name, description: None, memory: false, quiesce: true };
                stage.admin.run(&snapshot).await.unwrap();
            }
            in_time("rm", stage.engine.remove_container("one", force)).await.unwrap();
            assert!(stage.image().exists());
        }
        stage.nothing_is_left().await;
    });
}

#[test]
fn what_a_container_has_written_elsewhere_goes_with_it() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        stage.create("one", &["exit", "0", "0"], "{}").await.unwrap();
        let this = ManagedObjectReference::new("VirtualMachine", &stage.engine.table().find("one").unwrap().vm);
        // As a storage vMotion leaves it: the files stay where they were.
        let facts = stage.admin.read(&this, &["config.hardware.device"]).await.unwrap();
        let mut devices: Vec<AnyVirtualDevice> = facts.all("config.hardware.device").unwrap();
        let folder = stage.lab.folder().join("datastores").join(STORE).join("before");
        std::fs::create_dir(&folder).unwrap();
        devices.retain(|device| matches!(device, AnyVirtualDevice::VirtualSerialPort(_)));
        for device in &mut devices {
            if let Some(AnyVirtualDeviceBackingInfo::VirtualSerialPortFileBackingInfo(file)) = &mut device.backing {
                let name = file.file_name.rsplit('/').next().unwrap().to_owned();
                file.file_name = format!("[{STORE}] before/{name}");
            }
        }
        let edit = |device| VirtualDeviceConfigSpec {
            operation: Some(VirtualDeviceConfigSpecOperation::Edit),
            device,
            ..Default::default()
        };
        let device_change = devices.into_iter().map(edit).collect();
        let spec = VirtualMachineConfigSpec { device_change, ..Default::default() };
        stage.admin.run(&methods::ReconfigVMTask { this, spec }).await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        in_time("its end", stage.engine.wait_for("one", Until::NotRunning)).await.unwrap();
        assert!(folder.join("output.log").exists());
        stage.clean_up().await;
    });
}

#[test]
fn an_image_that_an_admin_has_destroyed_with_a_container_is_none() {
    runtime().block_on(async {
        let mut stage = Stage::up().await;
        let mut index = Index::default();
        let [disk, id] = ["disk", "image"].map(|name| Digest::new(name.as_bytes()));
        let layers = vec![1];
        index.disks.insert(disk.clone(), Disk { name: DISK.into(), parent: None, layers });
        let (manifest, config) = (id.clone(), "{}".into());
        index.images.insert(id.clone(), Image { disk, manifest, config, bytes: 1, tagged_ns: 1 });
        index.tags.insert("docker.io/library/played:latest".into(), id);
        let file = stage.image().parent().unwrap().with_file_name("index.json");
        std::fs::write(file, serde_json::to_vec(&index).unwrap()).unwrap();
        stage.engine = stage.another_engine().await;
        stage.admin.call(&methods::UnregisterVM { this: stage.holder.clone() }).await.unwrap();

        stage.create("one", &["run"], "{}").await.unwrap();
        let this = ManagedObjectReference::new("VirtualMachine", &stage.engine.table().find("one").unwrap().vm);
        stage.admin.run(&methods::DestroyTask { this }).await.unwrap();
        assert!(!stage.image().exists());
        stage.until("its end", |table| table.iter().count() == 0).await;
        let failure = stage.create("two", &["run"], "{}").await.unwrap_err();
        assert!(matches!(failure, Failure::ImageGone(_)), "{failure:?}");
        // It is to be pulled again.
        assert_eq!(*stage.engine.images().index(), Index::default());
        stage.nothing_is_left().await;
    });
}

#[test]
fn a_container_whose_settings_an_admin_saves_while_it_runs_stays_one() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["run"], "{}").await.unwrap();
        stage.engine.start_container(&id).await.unwrap();
        let vm = stage.engine.table().find(&id).unwrap().vm.clone();
        let this = ManagedObjectReference::new("VirtualMachine", vm);
        // The host's client writes every key again.
        let extra_config = stage.admin.read(&this, &["config.extraConfig"]).await.unwrap();
        let extra_config = extra_config.all("config.extraConfig").unwrap();
        let spec = VirtualMachineConfigSpec { extra_config, ..Default::default() };
        stage.admin.run(&methods::ReconfigVMTask { this: this.clone(), spec }).await.unwrap();
        in_time("stop", stage.engine.stop_container(&id, None, None)).await.unwrap();
        stage.until("the keys' loss", |t| t.find(&id).is_ok_and(|c| c.lost)).await;
        assert_eq!(stage.engine.table().find(&id).unwrap().phase().exit_code(), 143);
        // Another engine knows no more how it ended, and leaves it where it is.
        let another = stage.another_engine().await;
        assert!(another.table().find(&id).is_ok_and(|c| c.lost));
        in_time("start", stage.engine.start_container(&id)).await.unwrap();
        in_time("stop", stage.engine.stop_container(&id, None, None)).await.unwrap();
        let container = stage.engine.table().find(&id).unwrap().clone();
        assert_eq!((container.lost, container.phase().exit_code()), (false, 143));
        stage.clean_up().await;
    });
}
