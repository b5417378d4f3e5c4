//! VMs that wait for an answer in vSphere.

use port_layer::container::phase::{Phase, Power};
use port_layer::container::table::{Change, Container};
use port_layer::{Failure, Outcome};
use vim25::types::{ManagedObjectReference, OptionValue};

use crate::admin::told_of;
use crate::stage::{Stage, in_time, runtime};

const ALWAYS: &str = r#"{"RestartPolicy":{"Name":"always"}}"#;
const MOVED: &str = "msg.uuid.altered:This virtual machine might have been moved or copied.";
const FULL: &str = "msg.hbacommon.outofspace:There is no more space for virtual disk 'one.vmdk'.";

fn one(stage: &Stage) -> Container {
    stage.engine.table().find("one").unwrap().clone()
}

async fn until(stage: &Stage, what: &str, accept: impl Fn(&Container) -> bool) {
    stage.until(what, |table| table.find("one").is_ok_and(&accept)).await;
}

/// Starts the container, whose VM asks.
async fn start_asking(stage: &Stage) {
    stage.faults(&["add", "--method", "PowerOnVM_Task", "--times", "1", "--question", MOVED]);
    let failure = in_time("start", stage.engine.start_container("one")).await.unwrap_err();
    assert!(matches!(&failure, Failure::Asks { .. }), "{failure:?}");
    let text = failure.to_string();
    assert!(text.contains(MOVED) && text.contains("start the container again"), "{text}");
}

#[test]
fn a_start_whose_vm_asks_says_so_and_goes_on_with_the_answer() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        stage.create("one", &["run"], "{}").await.unwrap();
        let this = ManagedObjectReference::new("VirtualMachine", &one(&stage).vm);
        let options: Vec<OptionValue> =
            stage.admin.read(&this, &["config.extraConfig"]).await.unwrap().all("config.extraConfig").unwrap();
        let action = options.iter().find(|o| o.key == "uuid.action").and_then(|o| o.value.as_ref()?.get().ok());
        assert_eq!(action, Some("keep".to_owned()), "what is asked most often is not asked");

        start_asking(&stage).await;
        assert_eq!(one(&stage).phase(), Phase::Created { failed: None });
        // Nor does another one wait.
        let again = in_time("start", stage.engine.start_container("one")).await.unwrap_err();
        assert!(matches!(again, Failure::Asks { .. }), "{again:?}");
        stage.answer("one", "0").await;
        until(&stage, "its process", |c| c.phase() == Phase::Running).await;
        assert_eq!(in_time("start", stage.engine.start_container("one")).await.unwrap(), Outcome::Already);
        in_time("stop", stage.engine.stop_container("one", None, None)).await.unwrap();

        // One that has run before remembers how it ended.
        start_asking(&stage).await;
        assert_eq!(one(&stage).phase().exit_code(), 143);
        stage.answer("one", "1").await;
        until(&stage, "no question", |c| c.question.is_none()).await;
        in_time("start", stage.engine.start_container("one")).await.unwrap();
        stage.clean_up().await;
    });
}

#[test]
fn what_waits_for_an_answer_at_its_start_is_stopped_and_removed_all_the_same() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        for force in [false, true] {
            stage.create("one", &["run"], "{}").await.unwrap();
            start_asking(&stage).await;
            let stopped = in_time("stop", stage.engine.stop_container("one", None, None)).await.unwrap();
            assert_eq!(stopped, Outcome::Already);
            assert_eq!(one(&stage).question, None);
            start_asking(&stage).await;
            // Nor is it given up when the answer fails at first.
            stage.faults(&["add", "--method", "AnswerVM", "--times", "1", "--fault", "SystemError"]);
            in_time("rm", stage.engine.remove_container("one", force)).await.unwrap();
            stage.nothing_is_left().await;
        }
        // Or started anew.
        stage.create("one", &["run"], "{}").await.unwrap();
        start_asking(&stage).await;
        in_time("restart", stage.engine.restart_container("one", None, None)).await.unwrap();
        assert_eq!(one(&stage).phase(), Phase::Running);
        stage.clean_up().await;
        // By itself.
        stage.create("one", &["run"], r#"{"AutoRemove":true}"#).await.unwrap();
        start_asking(&stage).await;
        stage.nothing_is_left().await;
    });
}

#[test]
fn a_running_container_whose_vm_asks_can_be_ended() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        for how in ["kill", "stop", "restart", "rm -f"] {
            stage.create("one", &["run"], ALWAYS).await.unwrap();
            stage.engine.start_container("one").await.unwrap();
            let first = one(&stage);
            stage.ask("one", FULL).await;
            until(&stage, "its question", |c| c.question.is_some()).await;
            assert_eq!(one(&stage).phase(), Phase::Running, "nobody has ended it");
            let engine = &stage.engine;
            match how {
                "kill" => in_time(how, engine.kill_container("one", "KILL")).await.map(drop),
                "stop" => in_time(how, engine.stop_container("one", None, None)).await.map(drop),
                "restart" => in_time(how, engine.restart_container("one", None, None)).await.map(drop),
                _ => in_time(how, engine.remove_container("one", true)).await.map(drop),
            }
            .unwrap_or_else(|failure| panic!("{how}: {failure:?}"));
            match how {
                "kill" | "stop" => {
                    let now = one(&stage);
                    assert_eq!((now.power, now.phase().exit_code()), (Power::Off, 137), "{how}");
                    assert!(now.restarts.stopped && matches!(now.phase(), Phase::Exited { .. }), "{how}: {now:?}");
                }
                "restart" => until(&stage, "its next run", |c| c.phase() == Phase::Running && c.run != first.run).await,
                _ => {}
            }
            stage.clean_up().await;
        }
    });
}

#[test]
fn a_question_while_a_container_is_being_stopped_does_not_hold_that_up() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["deaf"], "{}").await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        let limit = Some(std::time::Duration::from_secs(600));
        let asks = async {
            // The guest is asked to end, and has the time.
            stage.until("the stop", |_| told_of(&stage, &id).contains(&Change::Kill { signal: 15 })).await;
            stage.ask("one", FULL).await;
        };
        let (stopped, ()) = tokio::join!(in_time("stop", stage.engine.stop_container("one", None, limit)), asks);
        stopped.unwrap();
        assert_eq!(one(&stage).phase().exit_code(), 137);
        stage.clean_up().await;
    });
}

#[test]
fn a_restart_policy_goes_on_when_its_start_is_answered() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        stage.create("one", &["exit", "3", "0"], ALWAYS).await.unwrap();
        stage.faults(&["add", "--method", "PowerOnVM_Task", "--nth", "2", "--times", "1", "--question", MOVED]);
        stage.engine.start_container("one").await.unwrap();
        until(&stage, "its question", |c| c.question.is_some()).await;
        assert_eq!(one(&stage).phase().status(), "restarting");
        stage.answer("one", "0").await;
        until(&stage, "its second restart", |c| c.restarts.count >= 2).await;
        stage.clean_up().await;
    });
}
