//! Clones that an admin makes of containers' VMs: they have the container's record, and are nobody's.

use port_layer::Outcome;
use port_layer::container::phase::Phase;
use vim25::types::{
    AnyValue, ManagedObjectReference, OptionValue, VirtualMachineConfigSpec, VirtualMachinePowerState, methods,
};

use crate::admin::told_of;
use crate::stage::{Stage, in_time, runtime};

const ALWAYS: &str = r#"{"RestartPolicy":{"Name":"always"}}"#;

async fn seen(stage: &Stage, copy: &ManagedObjectReference) {
    stage.until("the clone", |t| t.copies().contains_key(&copy.value)).await;
}

#[test]
fn a_clone_takes_no_part_in_its_containers_life() {
    runtime().block_on(async {
        let mut stage = Stage::up().await;
        let id = stage.create("one", &["run"], ALWAYS).await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        let own = stage.engine.table().find("one").unwrap().clone();
        let copy = stage.copy_container("one").await;
        seen(&stage, &copy).await;
        let rename = methods::RenameTask { this: copy.clone(), new_name: "two".into() };
        stage.admin.run(&rename).await.unwrap();
        assert_eq!(in_time("stop", stage.engine.stop_container("one", None, None)).await.unwrap(), Outcome::Done);
        assert_eq!(in_time("start", stage.engine.start_container("one")).await.unwrap(), Outcome::Done);
        let now = stage.engine.table().find("one").unwrap().clone();
        assert_eq!((&now.vm, now.phase(), now.record.name.as_str()), (&own.vm, Phase::Running, "one"));

        // An endpoint VM that starts knows neither.
        stage.engine = stage.another_engine().await;
        seen(&stage, &copy).await;
        assert_eq!(stage.engine.table().find("one").unwrap().vm, own.vm);
        in_time("rm -f", stage.engine.remove_container("one", true)).await.unwrap();
        stage.engine = stage.another_engine().await;
        seen(&stage, &copy).await;
        assert_eq!(stage.engine.table().iter().count(), 0, "the clone is no container for want of another");
        let power = stage.admin.read(&copy, &["runtime.powerState"]).await.unwrap();
        assert_eq!(power.get("runtime.powerState").unwrap(), Some(VirtualMachinePowerState::PoweredOff));
        stage.admin.run(&methods::DestroyTask { this: copy }).await.unwrap();
        stage.nothing_is_left().await;
        assert_eq!(told_of(&stage, &id).iter().filter(|c| format!("{c:?}") == "Create").count(), 1);
    });
}

#[test]
fn a_container_of_an_earlier_version_is_told_from_its_clone_by_who_was_there_before() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        stage.create("one", &["run"], "{}").await.unwrap();
        let own = stage.engine.table().find("one").unwrap().clone();
        // An empty value takes a key away.
        let empty = OptionValue { key: "vic.uuids".into(), value: Some(AnyValue::of(&String::new())) };
        let this = ManagedObjectReference::new("VirtualMachine", &own.vm);
        let spec = VirtualMachineConfigSpec { extra_config: vec![empty], ..Default::default() };
        stage.admin.run(&methods::ReconfigVMTask { this, spec }).await.unwrap();
        let copy = stage.copy_container("one").await;
        seen(&stage, &copy).await;
        let next = stage.another_engine().await;
        assert_eq!(next.table().find("one").unwrap().vm, own.vm);
        drop(next);
        // It does not take the place of what is gone, either.
        in_time("rm", stage.engine.remove_container("one", false)).await.unwrap();
        assert_eq!(stage.engine.table().iter().count(), 0);
        stage.admin.run(&methods::DestroyTask { this: copy }).await.unwrap();
        stage.nothing_is_left().await;
    });
}
