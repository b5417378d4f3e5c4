//! Containers on a vSphere that fails: every call of a pull, a create, a start, a stop and a removal in turn, and twenty
//! containers at once of which some are removed while they start.

use std::path::Path;
use std::time::{Duration, Instant};

use registry_server::installed;
use vic_tests::lab::{Lab, text};
use vic_tests::suite::NAME;

use crate::containers::said;
use crate::guests::{busybox_registry, busybox_vch, reset};
use crate::images::REGISTRY;

const PATIENCE: Duration = Duration::from_secs(180);

/// What can happen to a call, in `vic-lab`'s words.
const REFUSED: &[&str] = &["--fault", "GenericVmConfigFault"];
const FAILED: &[&str] = &["--fault", "GenericVmConfigFault", "--in-task"];
const UNHEARD: &[&str] = &["--drop", "before"];
const UNANSWERED: &[&str] = &["--drop", "after"];

/// Every call that changes something, for each operation.
const CREATE: &[&str] = &["CreateChildVM_Task", "ReconfigVM_Task"];
const START: &[&str] = &["ReconfigVM_Task", "PowerOnVM_Task"];
const STOP: &[&str] = &["ReconfigVM_Task"];
const REMOVE: &[&str] = &["PowerOffVM_Task", "DeleteDatastoreFile_Task", "Destroy_Task"];
const PULL: &[&str] = &["MakeDirectory", "ReconfigVM_Task", "PUT /folder", "MoveDatastoreFile_Task"];

/// A docker command, and what it changes in vSphere.
struct Operation<'a> {
    command: &'a [&'a str],
    calls: &'a [&'a str],
    effects: &'a [&'a [&'a str]],
    /// Brings about what the command finds.
    before: &'a dyn Fn(),
    /// Whether it has been done, whatever was answered.
    done: &'a dyn Fn() -> bool,
}

/// Runs the operation with one of its calls disturbed, for each of its calls in turn, until it has none left; then again,
/// undisturbed.
fn disturb(lab: &Lab, operation: &Operation<'_>) {
    let Operation { command, calls, effects, before, done } = operation;
    let docker = || lab.docker(&lab.stage.folder.path().join(NAME), command);
    for (call, effect) in calls.iter().flat_map(|call| effects.iter().map(move |effect| (call, effect))) {
        for nth in 1.. {
            let at = format!("docker {command:?} with {effect:?} at {call} number {nth}");
            before();
            let number = nth.to_string();
            let rule = ["faults", "add", "--method", call, "--nth", &number, "--times", "1"];
            let added = lab.run(&[&rule[..], effect].concat());
            assert!(added.status.success(), "{at}: {}", text(&added));
            let first = docker();
            let met = seen(lab) >= nth;
            assert!(lab.run(&["faults", "clear"]).status.success());
            let words = text(&first);
            if !first.status.success() {
                assert!(met, "{at}: it was not met, and it failed: {words}");
                let docker_shaped = words.contains("Error response from daemon") || command[0] == "pull";
                assert!(docker_shaped && words.trim().len() > 40, "{at}: {words}");
                // What it was about to do may have happened, and Docker says so then.
                let second = docker();
                assert!(second.status.success() || done(), "{at}: {words}\nagain: {}", text(&second));
            }
            assert!(done(), "{at}: it is not so: {words}\n{}", said(lab, &["ps", "-a"]));
            if !met {
                break;
            }
        }
    }
}

/// How many calls the one rule has met.
fn seen(lab: &Lab) -> u64 {
    let listed = lab.run(&["faults", "list"]);
    let rule: serde_json::Value =
        serde_json::from_slice(&listed.stdout).unwrap_or_else(|_| panic!("{}", text(&listed)));
    rule["seen"].as_u64().unwrap()
}

/// The files of the datastore, by their paths; the disks of the image store have random names.
fn files(lab: &Lab) -> Vec<String> {
    fn below(folder: &Path, root: &Path, all: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => below(&path, root, all),
                false => all.push(path.strip_prefix(root).unwrap().display().to_string()),
            }
        }
    }
    let root = lab.folder().join("datastores/datastore1");
    let mut all = Vec::new();
    below(&root, &root, &mut all);
    for path in &mut all {
        if let [vch, "images", _, file] = path.split('/').collect::<Vec<_>>()[..] {
            *path = format!("{vch}/images/*/{file}");
        }
    }
    all.sort();
    all
}

/// Inventory and files once the image store has as many disks: one that is made ahead is among them.
fn at_rest(lab: &Lab, disks: usize) -> (Vec<String>, Vec<String>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let files = files(lab);
        if files.iter().filter(|path| path.ends_with("/images/*/disk.vmdk")).count() == disks {
            return (lab.stage.inventory(), files);
        }
        assert!(Instant::now() < end, "{files:#?}");
    }
}

/// Waits until nothing is on the datastore and in the inventory but what was there before.
fn nothing_left(lab: &Lab, before: &(Vec<String>, Vec<String>)) {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = (lab.stage.inventory(), files(lab));
        if now == *before {
            return;
        }
        assert!(Instant::now() < end, "left: {now:#?}\nbefore: {before:#?}");
    }
}

#[test]
fn a_call_that_fails_fails_one_command_and_leaves_nothing() {
    if !installed() {
        return;
    }
    let lab = Lab::up(&[]);
    let (endpoint, _serving) = busybox_registry(&lab);
    let image = format!("{REGISTRY}/busybox:1");
    let docker = |args: &[&str]| {
        let output = lab.docker(&lab.stage.folder.path().join(NAME), args);
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let is = |field: &str, value: &str| {
        docker(&["inspect", "--format", &format!("{{{{.State.{field}}}}}"), "one"]) == (true, value.to_owned())
    };
    // The image store's documents come with the first image and stay.
    said(&lab, &["pull", &image]);
    said(&lab, &["rmi", &image]);
    let before = at_rest(&lab, 1);

    disturb(
        &lab,
        &Operation {
            command: &["pull", &image],
            calls: PULL,
            effects: &[REFUSED, FAILED, UNHEARD, UNANSWERED],
            before: &|| drop(docker(&["rmi", &image])),
            done: &|| docker(&["image", "inspect", &image]).0,
        },
    );
    disturb(
        &lab,
        &Operation {
            command: &["create", "--name", "one", "-m", "128m", &image, "sleep", "1000"],
            calls: CREATE,
            effects: &[REFUSED, FAILED, UNHEARD, UNANSWERED],
            before: &|| drop(docker(&["rm", "-f", "one"])),
            done: &|| is("Status", "created"),
        },
    );
    said(&lab, &["rm", "one"]);
    // With a policy, so that there is something to remember of a stop.
    said(&lab, &["create", "--name", "one", "--restart", "on-failure", "-m", "128m", &image, "sleep", "1000"]);
    disturb(
        &lab,
        &Operation {
            command: &["start", "one"],
            calls: START,
            effects: &[FAILED, UNANSWERED],
            before: &|| drop(docker(&["kill", "one"])),
            done: &|| is("Running", "true"),
        },
    );
    disturb(
        &lab,
        &Operation {
            command: &["stop", "--time", "0", "one"],
            calls: STOP,
            effects: &[REFUSED, UNANSWERED],
            before: &|| drop(docker(&["start", "one"])),
            done: &|| is("Status", "exited"),
        },
    );
    disturb(
        &lab,
        &Operation {
            command: &["rm", "-f", "one"],
            calls: &REMOVE[1..],
            effects: &[REFUSED, FAILED, UNANSWERED],
            before: &|| drop(docker(&["create", "--name", "one", "-m", "128m", &image, "true"])),
            done: &|| !docker(&["inspect", "one"]).0,
        },
    );
    disturb(
        &lab,
        &Operation {
            command: &["rm", "-f", "one"],
            calls: &REMOVE[..1],
            effects: &[FAILED, UNANSWERED],
            before: &|| drop(docker(&["run", "-d", "--name", "one", "-m", "128m", &image, "sleep", "1000"])),
            done: &|| !docker(&["inspect", "one"]).0,
        },
    );
    said(&lab, &["rmi", &image]);
    // What could not be taken away when it was to be, the next start of the endpoint VM does.
    reset(&lab, &endpoint);
    nothing_left(&lab, &before);
    lab.stage.vic("delete", &["--name", NAME]).ended_with(0);
    lab.stage.check_wire_log();
}

/// What the kernel and tether of a container have said.
fn guest_log(lab: &Lab, container: &str) -> String {
    let vms = std::fs::read_dir(lab.folder().join("datastores/datastore1")).unwrap().flatten();
    let own = |name: &str| name.rsplit_once('-').is_some_and(|(name, _)| name == container);
    let vm = vms.map(|vm| vm.path()).find(|vm| vm.file_name().is_some_and(|name| own(&name.to_string_lossy())));
    let log = vm.map(|vm| std::fs::read(vm.join("tether.log")).unwrap_or_default());
    format!("its guest: {:?}", log.map(|log| String::from_utf8_lossy(&log).into_owned()))
}

#[test]
fn twenty_containers_at_once_leave_nothing() {
    if !installed() {
        return;
    }
    let lab = Lab::up(&[]);
    busybox_vch(&lab);
    let before = at_rest(&lab, 2);
    let docker = |args: &[&str]| lab.docker(&lab.stage.folder.path().join(NAME), args);
    // Lives of a moment: nothing of any is lost.
    std::thread::scope(|scope| {
        let docker = &docker;
        for n in 0..20 {
            scope.spawn(move || {
                let said = docker(&["run", "--rm", "-m", "128m", "busybox", "echo", &format!("life {n}")]);
                assert!(said.status.success(), "{}", text(&said));
                assert_eq!(text(&said), format!("life {n}\n"));
            });
        }
    });
    // Lives that are cut short.
    std::thread::scope(|scope| {
        let (docker, lab) = (&docker, &lab);
        for n in 0..20 {
            scope.spawn(move || {
                let name = format!("c{n}");
                let created = docker(&["create", "--name", &name, "-m", "128m", "busybox", "sleep", "1000"]);
                assert!(created.status.success(), "{name}: {}", text(&created));
                // Every fourth is removed by somebody else while it starts: who wins is not said, that nothing hangs is.
                let remover = (n % 4 == 3).then(|| scope.spawn(move || docker(&["rm", "-f", &format!("c{n}")])));
                let started = docker(&["start", &name]);
                let Some(remover) = remover else {
                    assert!(started.status.success(), "{name}: {}{}", text(&started), guest_log(lab, &name));
                    let said = docker(&["exec", &name, "echo", &name]);
                    assert_eq!(text(&said).trim(), name);
                    let removed = docker(&["rm", "-f", &name]);
                    assert!(removed.status.success(), "{name}: {}", text(&removed));
                    return;
                };
                let removed = remover.join().unwrap();
                assert!(removed.status.success(), "{name}: {}", text(&removed));
            });
        }
    });
    nothing_left(&lab, &before);
    lab.stage.vic("delete", &["--name", NAME]).ended_with(0);
}
