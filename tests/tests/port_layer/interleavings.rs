//! Random scripts of concurrent clients and of an admin: whatever they do at once, each gets an answer that Docker would give, and
//! in the end everything can be removed and nothing is left.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use port_layer::container::phase::Power;
use port_layer::container::table::Container;
use port_layer::{Failure, Outcome};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use vim25::types::{ManagedObjectReference, VirtualMachineQuestionInfo, methods};

use crate::stage::{Stage, Told, in_time, runtime};

/// Few, so that clients meet.
const NAMES: [&str; 3] = ["one", "two", "three"];
const CASES: u32 = 16;

/// What the process of a container does; see `played-guest`.
const PROCESSES: [&[&str]; 6] = [&["run"], &["exit", "0", "0"], &["exit", "3", "60"], &["deaf"], &["fail"], &["crash"]];

/// How a container ends.
const ENDINGS: [&str; 4] = [
    "{}",
    r#"{"AutoRemove":true}"#,
    r#"{"RestartPolicy":{"Name":"always"}}"#,
    r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":2}}"#,
];

/// One thing that is done, to the container of a name.
#[derive(Debug, Clone)]
enum Act {
    Create {
        process: usize,
        ending: usize,
    },
    Start,
    Stop,
    Kill,
    Restart,
    Rename(usize),
    Remove {
        force: bool,
    },
    WaitForEnd,
    AdminPowersOff,
    AdminRenames,
    AdminDestroys,
    /// The VM asks now if it is on, or else when it is powered on.
    Asks,
    AdminAnswers,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => container(),
        6 => Just(Act::Start),
        2 => Just(Act::Stop),
        2 => Just(Act::Kill),
        2 => Just(Act::Restart),
        2 => (0..NAMES.len()).prop_map(Act::Rename),
        3 => any::<bool>().prop_map(|force| Act::Remove { force }),
        1 => Just(Act::WaitForEnd),
        2 => Just(Act::AdminPowersOff),
        1 => Just(Act::AdminRenames),
        1 => Just(Act::AdminDestroys),
        3 => Just(Act::Asks),
        1 => Just(Act::AdminAnswers),
    ]
}

fn container() -> impl Strategy<Value = Act> {
    // What runs until it is asked to end is met in most states.
    let process = prop_oneof![8 => Just(0), 3 => Just(1), 3 => Just(2), 1 => Just(3), 1 => Just(4), 1 => Just(5)];
    (process, 0..ENDINGS.len()).prop_map(|(process, ending)| Act::Create { process, ending })
}

/// What is done by one client to make the containers, and then by several at once.
#[derive(Debug)]
struct Script {
    /// Up to so many milliseconds later, by turns, does vSphere do what it is called for: as fast as the lab's does nothing overtake.
    latency: u64,
    first: Vec<Act>,
    /// One thing after another.
    clients: Vec<Vec<(usize, Act)>>,
}

fn script() -> impl Strategy<Value = Script> {
    let client = proptest::collection::vec((0..NAMES.len(), act()), 1..8);
    let clients = proptest::collection::vec(client, 2..6);
    let first = proptest::collection::vec(container(), NAMES.len());
    let latency = prop_oneof![2 => Just(0), 1 => Just(40)];
    (latency, first, clients).prop_map(|(latency, first, clients)| Script { latency, first, clients })
}

/// What Docker, too, would refuse.
fn is_dockers(failure: &Failure) -> bool {
    match failure {
        Failure::NotFound(_) | Failure::NameTaken { .. } | Failure::Refused { .. } => true,
        Failure::NoProcess { code, .. } => *code == 127,
        // Its VM went off while it started: the guest's crash, or the admin's doing.
        Failure::Late { what, .. } => what.contains("went off"),
        // Its VM has asked: when it was started, or when it was to be changed.
        Failure::Asks { .. } => true,
        Failure::Vsphere(error) => error.fault_name() == Some("QuestionPending"),
        _ => false,
    }
}

async fn perform(stage: &Stage, name: &str, act: &Act) -> Result<(), Failure> {
    let engine = &stage.engine;
    let done = |outcome: Result<Outcome, Failure>| outcome.map(drop);
    match act {
        Act::Create { process, ending } => stage.create(name, PROCESSES[*process], ENDINGS[*ending]).await.map(drop),
        Act::Start => done(engine.start_container(name).await),
        Act::Stop => done(engine.stop_container(name, None, Some(Duration::ZERO)).await),
        Act::Kill => done(engine.kill_container(name, "KILL").await),
        Act::Restart => done(engine.restart_container(name, None, Some(Duration::ZERO)).await),
        Act::Rename(to) => engine.rename_container(name, NAMES[*to]).await,
        Act::Remove { force } => done(engine.remove_container(name, *force).await),
        Act::WaitForEnd => {
            // One that nobody ends is not waited for.
            let wait = engine.wait_for(name, port_layer::Until::NotRunning);
            tokio::time::timeout(Duration::from_millis(100), wait).await.map_or(Ok(()), |ended| ended.map(drop))
        }
        Act::AdminPowersOff | Act::AdminRenames | Act::AdminDestroys | Act::Asks | Act::AdminAnswers => {
            let vm = engine.table().find(name)?.vm.clone();
            admin(stage, &ManagedObjectReference::new("VirtualMachine", vm), act).await;
            Ok(())
        }
    }
}

/// What vSphere refuses an admin is no matter of the port layer's.
async fn admin(stage: &Stage, vm: &ManagedObjectReference, act: &Act) {
    let this = || vm.clone();
    let _ = match act {
        Act::AdminRenames => {
            let new_name = format!("{}-of-an-admin", vm.value);
            stage.admin.run(&methods::RenameTask { this: this(), new_name }).await
        }
        Act::AdminDestroys => {
            let _ = stage.admin.run(&methods::PowerOffVMTask { this: this() }).await;
            stage.admin.run(&methods::DestroyTask { this: this() }).await
        }
        Act::Asks => {
            for method in ["PowerOnVM_Task", "Reload"] {
                let rule =
                    ["--method", method, "--object", &vm.value, "--times", "1", "--question", "msg.full:No room."];
                stage.faults(&[&["add"], &rule[..]].concat());
            }
            stage.admin.call(&methods::Reload { this: this() }).await.map(|()| None)
        }
        Act::AdminAnswers => {
            let facts = stage.admin.read(vm, &["runtime.question"]).await;
            let question: Option<VirtualMachineQuestionInfo> =
                facts.ok().and_then(|facts| facts.get("runtime.question").unwrap());
            let Some(question) = question else { return };
            let answer = methods::AnswerVM { this: this(), question_id: question.id, answer_choice: "0".into() };
            stage.admin.call(&answer).await.map(|()| None)
        }
        _ => stage.admin.run(&methods::PowerOffVMTask { this: this() }).await,
    };
}

/// What was done, for the message of a failure.
type Trace = Mutex<Vec<String>>;

async fn play(stage: &Stage, script: &Script, trace: &Trace) {
    let start = Instant::now();
    let note = |text: String| trace.lock().unwrap().push(format!("{:>6} ms {text}", start.elapsed().as_millis()));
    let mut told = Told::listen(&stage.history);
    stage.faults(&["clear"]);
    if script.latency > 0 {
        stage.faults(&["add", "--method", "*", "--delay", "0", "--jitter", &script.latency.to_string()]);
    }
    let one = async |name: usize, act: &Act| {
        let what = format!("{act:?} {}", NAMES[name]);
        note(format!("{what} ..."));
        let outcome = in_time(&what, Box::pin(perform(stage, NAMES[name], act))).await;
        note(format!("{what}: {outcome:?}"));
        if let Err(failure) = outcome {
            assert!(is_dockers(&failure), "{what}: {failure:?}");
        }
    };
    for (name, act) in script.first.iter().enumerate() {
        one(name, act).await;
    }
    let one = &one;
    let clients = script.clients.iter().map(|acts| async move {
        for (name, act) in acts {
            one(*name, act).await;
        }
    });
    futures_util::future::join_all(clients).await;
    stage.clean_up().await;
    told.check();
    // Nobody holds a name.
    let again = NAMES.iter().map(|name| stage.create(name, PROCESSES[0], ENDINGS[0]));
    for free in futures_util::future::join_all(again).await {
        assert!(free.is_ok(), "{free:?}");
    }
    stage.clean_up().await;
}

#[test]
fn what_was_found_once_does_not_come_back() {
    let create = |process, ending| Act::Create { process, ending };
    let scripts = [
        // A guest that crashed, or was switched off, as it started kept its container locked for minutes.
        (create(5, 0), vec![vec![Act::Start], vec![Act::Remove { force: false }]]),
        (create(0, 0), vec![vec![Act::Start, Act::Restart], vec![Act::Kill, Act::Kill], vec![Act::AdminPowersOff; 3]]),
        // An admin who destroyed a VM left files; one who was faster than `--rm`, too.
        (create(0, 0), vec![vec![Act::Start, Act::AdminDestroys]]),
        (create(0, 1), vec![vec![Act::Start, Act::AdminDestroys], vec![Act::AdminPowersOff, Act::AdminDestroys]]),
        // A VM that had just gone off by itself was no VM that is off.
        (create(1, 2), vec![vec![Act::Start, Act::Remove { force: true }], vec![Act::Kill, Act::Stop]]),
    ];
    let runtime = runtime();
    let stage = runtime.block_on(Stage::up());
    for (first, clients) in scripts {
        let clients = clients.into_iter().map(|acts| acts.into_iter().map(|act| (0, act)).collect()).collect();
        let script = Script { latency: 0, first: vec![first], clients };
        runtime.block_on(play(&stage, &script, &Trace::default()));
    }
}

#[test]
fn a_kill_whose_word_a_restart_overwrites_returns() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let engine = &stage.engine;
        for (name, ending) in [("one", ENDINGS[2]), ("two", ENDINGS[0])] {
            stage.create(name, PROCESSES[0], ending).await.unwrap();
        }
        engine.start_container("one").await.unwrap();
        let until = async |what: &str, so: &dyn Fn() -> bool| {
            let seen = async {
                while !so() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            in_time(what, seen).await;
        };
        // The kill, which sees the container run, is long in writing that it was stopped.
        stage.faults(&["add", "--method", "ReconfigVM_Task", "--times", "1", "--delay", "2000"]);
        let kill = in_time("kill", engine.kill_container("one", "KILL"));
        let restart = async {
            until("the kill's call", &|| stage.faults(&["list"]).contains(r#""seen":1"#)).await;
            in_time("restart", engine.restart_container("one", None, Some(Duration::ZERO))).await
        };
        // The restart writes next; before both, the engine goes blind for longer than that.
        let blind = async {
            let is_off = |c: &Container| c.power == Power::Off;
            until("its end", &|| engine.table().find("one").is_ok_and(is_off)).await;
            stage.faults(&["add", "--method", "WaitForUpdatesEx", "--times", "1", "--delay", "4000"]);
            let this = ManagedObjectReference::new("VirtualMachine", &engine.table().find("two").unwrap().vm);
            stage.admin.call(&methods::RenameTask { this, new_name: "no name of Docker's".into() }).await.unwrap();
        };
        let (killed, restarted, ()) = tokio::join!(kill, restart, blind);
        killed.unwrap();
        restarted.unwrap();
        stage.faults(&["clear"]);
        stage.clean_up().await;
    });
}

#[test]
fn whatever_clients_do_at_once_leaves_nothing_stuck_and_nothing_behind() {
    let runtime = runtime();
    let stage = RefCell::new(None);
    let config = Config {
        cases: std::env::var_os("PROPTEST_CASES").map_or(CASES, |_| Config::default().cases),
        // What is found depends on time, too: a shorter script need not show it, and is not looked for long.
        max_shrink_iters: 30,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        source_file: Some(file!()),
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&script(), |script| {
        let trace = Trace::default();
        let played = catch_unwind(AssertUnwindSafe(|| {
            let stage = stage.borrow_mut().take().unwrap_or_else(|| runtime.block_on(Stage::up()));
            runtime.block_on(play(&stage, &script, &trace));
            stage
        }));
        match played {
            Ok(clean) => {
                stage.replace(Some(clean));
                Ok(())
            }
            // What a failure left must not be taken for the next one's: that one has a stage of its own.
            Err(_) => Err(TestCaseError::fail(trace.into_inner().unwrap().join("\n"))),
        }
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
