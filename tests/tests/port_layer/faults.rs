//! vSphere fails, or cannot be heard, at every call of an operation in turn: the operation tells or succeeds, the next try works,
//! and a removal by force leaves nothing.

use std::time::Duration;

use port_layer::container::phase::Phase;
use port_layer::{Failure, Outcome};
use tokio::time::timeout;

use crate::stage::{DEADLINE, Stage, in_time, runtime};

/// What happens to the chosen call.
const EFFECTS: [&[&str]; 4] = [
    &["--fault", "SystemError"],
    &["--fault", "SystemError", "--in-task"],
    &["--drop", "before"],
    &["--drop", "after"],
];

/// An operation on a container named `one`.
#[derive(Debug, Clone, Copy)]
enum Operation {
    Create,
    Start,
    StartAgain,
    Stop,
    StopForGood,
    Kill,
    Restart,
    Rename,
    Remove,
    RemoveByForce,
}

const OPERATIONS: [Operation; 10] = [
    Operation::Create,
    Operation::Start,
    Operation::StartAgain,
    Operation::Stop,
    Operation::StopForGood,
    Operation::Kill,
    Operation::Restart,
    Operation::Rename,
    Operation::Remove,
    Operation::RemoveByForce,
];

impl Operation {
    /// The calls that it makes, but for those of the one loop that waits for updates.
    fn calls(self) -> &'static [&'static str] {
        match self {
            Self::Create => &["CreateChildVM_Task", "RetrievePropertiesEx", "ReconfigVM_Task"],
            Self::Start => &["PowerOnVM_Task"],
            Self::StartAgain => &["ReconfigVM_Task", "PowerOnVM_Task"],
            Self::Stop => &["ShutdownGuest"],
            Self::StopForGood => &["ReconfigVM_Task", "ShutdownGuest"],
            Self::Kill => &["PowerOffVM_Task"],
            Self::Restart => &["ShutdownGuest", "ReconfigVM_Task", "PowerOnVM_Task"],
            Self::Rename => &["ReconfigVM_Task"],
            Self::Remove => &[
                "RetrievePropertiesEx",
                "DeleteDatastoreFile_Task",
                "ReconfigVM_Task",
                "DeleteVirtualDisk_Task",
                "Destroy_Task",
            ],
            Self::RemoveByForce => &[
                "PowerOffVM_Task",
                "RetrievePropertiesEx",
                "DeleteDatastoreFile_Task",
                "ReconfigVM_Task",
                "DeleteVirtualDisk_Task",
                "Destroy_Task",
            ],
        }
    }

    /// Brings about what it is done to.
    async fn prepare(self, stage: &Stage) {
        let (process, policy): (&[&str], _) = match self {
            Self::Create => return,
            Self::StartAgain | Self::Remove => (&["exit", "3", "0"], "{}"),
            Self::StopForGood => (&["run"], r#"{"RestartPolicy":{"Name":"always"}}"#),
            _ => (&["run"], "{}"),
        };
        stage.create("one", process, policy).await.unwrap();
        if !matches!(self, Self::Start | Self::Rename) {
            stage.engine.start_container("one").await.unwrap();
        }
        if matches!(self, Self::StartAgain | Self::Remove) {
            in_time("its end", stage.engine.wait_for("one", port_layer::Until::NotRunning)).await.unwrap();
        }
    }

    async fn perform(self, stage: &Stage) -> Result<Outcome, Failure> {
        let engine = &stage.engine;
        match self {
            Self::Create => stage.create("one", &["run"], "{}").await.map(|_| Outcome::Done),
            Self::Start | Self::StartAgain => engine.start_container("one").await,
            Self::Stop | Self::StopForGood => engine.stop_container("one", None, None).await,
            Self::Kill => engine.kill_container("one", "KILL").await,
            Self::Restart => engine.restart_container("one", None, None).await,
            Self::Rename => engine.rename_container("one", "two").await.map(|()| Outcome::Done),
            Self::Remove => engine.remove_container("one", false).await,
            Self::RemoveByForce => engine.remove_container("one", true).await,
        }
    }

    /// Whether the second try tells that the first had its effect, although its answer was lost.
    fn has_been_done(self, second: &Failure) -> bool {
        match self {
            Self::Remove | Self::RemoveByForce | Self::Rename => matches!(second, Failure::NotFound(_)),
            Self::Kill => matches!(second, Failure::Refused { .. }),
            _ => false,
        }
    }
}

/// Performs `operation` with one call disturbed; false when it has not so many.
async fn disturb(stage: &Stage, operation: Operation, call: &str, nth: u32, effect: &[&str]) -> bool {
    operation.prepare(stage).await;
    let nth = nth.to_string();
    stage.faults(&[&["add", "--method", call, "--nth", &nth, "--times", "1"], effect].concat());
    let what = format!("{operation:?} with call {nth} of {call} disturbed by {effect:?}");
    let first = in_time(&what, Box::pin(operation.perform(stage))).await;
    let rule: serde_json::Value = serde_json::from_str(stage.faults(&["list"]).trim()).unwrap();
    let hit = rule["seen"].as_u64() >= nth.parse().ok();
    stage.faults(&["clear"]);
    match &first {
        Ok(_) => {}
        // It is told as it is: vSphere has failed.
        Err(Failure::Vsphere(_)) if hit => {
            let second = in_time(&what, Box::pin(operation.perform(stage))).await;
            let works = second.as_ref().map_or_else(|failure| operation.has_been_done(failure), |_| true);
            assert!(works, "{what}: at first {first:?}, then {second:?}");
        }
        Err(failure) => panic!("{what}: {failure:?}"),
    }
    stage.clean_up().await;
    hit
}

#[test]
fn after_a_fault_at_any_call_the_next_try_works_and_nothing_is_left() {
    let runtime = runtime();
    // A stage for each: rules are a lab's, and most of the time is spent waiting.
    let all = EFFECTS.iter().map(|effect| async move {
        let stage = Stage::up().await;
        for operation in OPERATIONS {
            for call in operation.calls() {
                if effect.contains(&"--in-task") && !call.ends_with("_Task") {
                    continue;
                }
                let mut nth = 1;
                while Box::pin(disturb(&stage, operation, call, nth, effect)).await {
                    nth += 1;
                }
                assert!(nth > 1, "{operation:?} makes no call of {call}");
            }
        }
    });
    runtime.block_on(futures_util::future::join_all(all));
}

/// A container's life; each step may fail once, as vSphere does.
async fn live(stage: &Stage, what: &str) {
    let steps = [Operation::Create, Operation::Start, Operation::Stop, Operation::StartAgain, Operation::RemoveByForce];
    for step in steps {
        let first = in_time(what, Box::pin(step.perform(stage))).await;
        match &first {
            Ok(_) => continue,
            Err(Failure::Vsphere(_)) => {}
            Err(failure) => panic!("{what}: {step:?}: {failure:?}"),
        }
        let second = in_time(what, Box::pin(step.perform(stage))).await;
        let works = second.as_ref().map_or_else(|failure| step.has_been_done(failure), |_| true);
        assert!(works, "{what}: {step:?}: at first {first:?}, then {second:?}");
    }
}

/// Calls that only the loop makes which waits for updates, and those that only the session makes, fail too.
#[test]
fn a_life_goes_on_whichever_call_fails() {
    // A session that ends meets two that log in again, at whatever call: many are tried.  Of the others a few do.
    let effects: [(&[&str], usize); 4] = [
        (&["--expire-session"], 2),
        (&["--fault", "SystemError"], 7),
        (&["--drop", "before"], 7),
        (&["--drop", "after"], 5),
    ];
    let runtime = runtime();
    let all = effects.into_iter().map(|(effect, step)| async move {
        let stage = Stage::up().await;
        for nth in (1..).step_by(step) {
            let at = nth.to_string();
            let what = format!("a life with call {nth} disturbed by {effect:?}");
            stage.faults(&[&["add", "--nth", &at, "--times", "1"], effect].concat());
            Box::pin(live(&stage, &what)).await;
            let rule: serde_json::Value = serde_json::from_str(stage.faults(&["list"]).trim()).unwrap();
            stage.faults(&["clear"]);
            stage.clean_up().await;
            if rule["seen"].as_u64() < Some(nth) {
                return;
            }
        }
    });
    runtime.block_on(futures_util::future::join_all(all));
}

#[test]
fn a_start_that_fails_does_not_make_a_container_forget_how_it_ended() {
    let runtime = runtime();
    runtime.block_on(async {
        let stage = Stage::up().await;
        stage.create("one", &["exit", "3", "0"], "{}").await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        assert_eq!(in_time("its end", stage.engine.wait_for("one", port_layer::Until::NotRunning)).await.unwrap(), 3);
        stage.faults(&["add", "--method", "PowerOnVM_Task", "--times", "2", "--fault", "SystemError"]);
        for _ in 0..2 {
            stage.engine.start_container("one").await.unwrap_err();
            let phase = stage.engine.table().find("one").unwrap().phase();
            assert_eq!(phase, Phase::Exited { code: 3, out_of_memory: false });
        }
        stage.engine.start_container("one").await.unwrap();
        stage.clean_up().await;
    });
}

#[test]
fn who_waits_for_the_removal_of_a_container_hears_of_a_start_that_failed() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        // vSphere refuses, or the guest comes to nothing before its first word.
        for (process, refused) in [("run", true), ("crash", false)] {
            let id = stage.create("one", &[process], r#"{"AutoRemove":true}"#).await.unwrap();
            if refused {
                stage.faults(&["add", "--method", "PowerOnVM_Task", "--times", "1", "--fault", "SystemError"]);
            }
            let removed = in_time("its removal", stage.engine.wait_for(&id, port_layer::Until::Removed));
            let (_, started) = tokio::join!(removed, stage.engine.start_container(&id));
            started.unwrap_err();
            stage.nothing_is_left().await;
        }
    });
}

#[test]
fn a_stop_that_is_refused_leaves_the_restart_policy_alone() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["run"], r#"{"RestartPolicy":{"Name":"always"}}"#).await.unwrap();
        stage.engine.start_container(&id).await.unwrap();
        let refused = stage.engine.stop_container(&id, Some("SIGFOO"), None).await.unwrap_err();
        assert!(matches!(refused, Failure::Invalid(_)), "{refused}");
        assert!(!stage.engine.table().find(&id).unwrap().restarts.stopped);
        stage.clean_up().await;
    });
}

#[test]
fn a_restart_policy_outlives_a_start_that_fails() {
    let runtime = runtime();
    runtime.block_on(async {
        let stage = Stage::up().await;
        let id = stage.create("one", &["exit", "3", "0"], r#"{"RestartPolicy":{"Name":"always"}}"#).await.unwrap();
        stage.faults(&["add", "--method", "PowerOnVM_Task", "--nth", "2", "--times", "1", "--fault", "SystemError"]);
        stage.engine.start_container(&id).await.unwrap();
        let again = async {
            while stage.engine.table().find(&id).unwrap().restarts.count < 2 {
                stage.engine.wait_for(&id, port_layer::Until::NextExit).await.unwrap();
            }
        };
        timeout(DEADLINE, again).await.expect("its policy does not start it any more");
        stage.clean_up().await;
    });
}

#[test]
fn what_a_create_cannot_take_back_the_next_engine_removes() {
    let runtime = runtime();
    runtime.block_on(async {
        let mut stage = Stage::up().await;
        stage.faults(&["add", "--method", "ReconfigVM_Task", "--times", "1", "--fault", "SystemError"]);
        stage.faults(&["add", "--method", "Destroy_Task", "--fault", "SystemError"]);
        stage.create("one", &["run"], "{}").await.unwrap_err();
        stage.engine = stage.another_engine().await;
        stage.faults(&["clear"]);
        stage.nothing_is_left().await;
        stage.create("one", &["run"], "{}").await.unwrap();
        stage.clean_up().await;
    });
}

#[test]
fn a_create_that_takes_long_is_not_taken_for_one_that_came_to_nothing() {
    let runtime = runtime();
    runtime.block_on(async {
        let stage = Stage::up().await;
        stage.faults(&["add", "--method", "ReconfigVM_Task", "--times", "1", "--delay", "1500"]);
        let id = stage.create("one", &["run"], "{}").await.unwrap();
        stage.engine.start_container(&id).await.unwrap();
        stage.clean_up().await;

        // One whose client is gone, with all that waited for it.
        stage.faults(&["add", "--method", "ReconfigVM_Task", "--times", "1", "--delay", "1500"]);
        timeout(Duration::from_millis(500), stage.create("one", &["run"], "{}")).await.unwrap_err();
        stage.faults(&["clear"]);
        stage.nothing_is_left().await;
    });
}
