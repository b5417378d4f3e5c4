//! The lab misbehaves on demand: each rule, seen by libs/vim25 as its client.

use std::time::{Duration, Instant};

use vic_tests::block_on;
use vic_tests::lab::{Lab, text};
use vim25::property::{paths, reachable, step};
use vim25::types::{
    ManagedObjectReference, UserSession, VirtualMachineConfigSpec, VirtualMachineFileInfo, VirtualMachinePowerState,
    VirtualMachineQuestionInfo, methods,
};
use vim25::{Error, Session};

fn rule(lab: &Lab, args: &[&str]) {
    let mut all = vec!["faults", "add"];
    all.extend(args);
    let added = lab.run(&all);
    assert!(added.status.success(), "{}", text(&added));
}

fn clear(lab: &Lab) {
    let cleared = lab.run(&["faults", "clear"]);
    assert!(cleared.status.success(), "{}", text(&cleared));
    assert_eq!(text(&lab.run(&["faults", "list"])), "");
}

fn vm_folder() -> ManagedObjectReference {
    ManagedObjectReference::new("Folder", "group-v3")
}

async fn make_folder(session: &Session, name: &str) -> Result<ManagedObjectReference, Error> {
    session.call(&methods::CreateFolder { this: vm_folder(), name: name.into() }).await
}

async fn exists(session: &Session, name: &str) -> bool {
    let this = session.content().search_index.clone().unwrap();
    let find = methods::FindChild { this, entity: vm_folder(), name: name.into() };
    session.call(&find).await.unwrap().is_some()
}

/// A VM with no devices beyond those that every VM has: its firmware finds nothing to boot, and stays on.
async fn make_vm(session: &Session, name: &str) -> ManagedObjectReference {
    let vm_path_name = Some("[datastore1]".into());
    let config = VirtualMachineConfigSpec {
        name: Some(name.into()),
        memory_mb: Some(32),
        files: Some(VirtualMachineFileInfo { vm_path_name, ..VirtualMachineFileInfo::default() }),
        ..VirtualMachineConfigSpec::default()
    };
    let pool = ManagedObjectReference::new("ResourcePool", "resgroup-8");
    let create = methods::CreateVMTask { this: vm_folder(), config, pool, host: None };
    session.run(&create).await.unwrap().unwrap().get().unwrap()
}

#[test]
fn a_session_that_is_lost_comes_again_and_one_that_was_ended_does_not() {
    let lab = Lab::bare(&[]);
    block_on(async {
        let admin = lab.stage.session().await;
        let this = admin.content().session_manager.clone().unwrap();
        let sessions = async || -> Vec<String> {
            let all: Vec<UserSession> = admin.read(&this, &["sessionList"]).await.unwrap().all("sessionList").unwrap();
            all.into_iter().map(|session| session.key).collect()
        };
        let own = sessions().await;
        let session = lab.stage.session().await;
        let other: Vec<_> = sessions().await.into_iter().filter(|key| !own.contains(key)).collect();
        assert_eq!(other.len(), 1);
        admin.call(&methods::TerminateSession { this: this.clone(), session_id: other }).await.unwrap();
        make_folder(&session, "after").await.unwrap();
        assert_eq!(sessions().await.len(), own.len() + 1);
        session.logout().await.unwrap();
        let late = make_folder(&session, "late").await.unwrap_err();
        assert_eq!(late.fault_name(), Some("NotAuthenticated"), "{late}");
        assert_eq!(sessions().await.len(), own.len());
        admin.logout().await.unwrap();
    });
}

#[test]
fn calls_fail_break_and_tarry_as_the_rules_say() {
    let lab = Lab::bare(&[]);
    block_on(async {
        let session = lab.stage.session().await;

        rule(&lab, &["--method", "CreateFolder", "--nth", "2", "--times", "1", "--fault", "ResourceInUse"]);
        make_folder(&session, "first").await.unwrap();
        let failed = make_folder(&session, "second").await.unwrap_err();
        assert_eq!(failed.fault_name(), Some("ResourceInUse"), "{failed}");
        make_folder(&session, "third").await.unwrap();
        assert!(!exists(&session, "second").await, "a call that fails by rule has no effect");
        clear(&lab);

        // The rule may name the object, by name or by id; the call succeeds and its task does not.
        rule(&lab, &["--method", "Rename_Task", "--object", "first", "--fault", "InvalidState", "--in-task"]);
        let this = make_folder(&session, "other").await.unwrap();
        session.run(&methods::RenameTask { this: this.clone(), new_name: "another".into() }).await.unwrap();
        let find = methods::FindChild {
            this: session.content().search_index.clone().unwrap(),
            entity: vm_folder(),
            name: "first".into(),
        };
        let this = session.call(&find).await.unwrap().unwrap();
        let failed = session.run(&methods::RenameTask { this, new_name: "x".into() }).await.unwrap_err();
        assert_eq!(failed.fault_name(), Some("InvalidState"), "{failed}");
        clear(&lab);

        for (when, name, done) in [("before", "dropped-before", false), ("after", "dropped-after", true)] {
            rule(&lab, &["--method", "CreateFolder", "--times", "1", "--drop", when]);
            let broken = make_folder(&session, name).await.unwrap_err();
            assert!(matches!(broken, Error::Unreachable { .. }), "{when}: {broken:?}");
            assert_eq!(exists(&session, name).await, done, "{when}");
            clear(&lab);
        }

        // The client logs in again within the call.
        rule(&lab, &["--method", "CreateFolder", "--times", "1", "--expire-session"]);
        make_folder(&session, "after-expiry").await.unwrap();
        clear(&lab);
        // What belongs to the session is made anew, too.
        let root = session.content().root_folder.clone();
        rule(&lab, &["--method", "RetrievePropertiesEx", "--times", "1", "--expire-session"]);
        let found = session.contained(&root, "Datacenter", true, &["name"]).await.unwrap();
        assert_eq!(found.len(), 1);
        clear(&lab);
        // And a login that is refused then is told; the session does not try another, whoever calls.
        let refused = lab.stage.session().await;
        rule(&lab, &["--method", "CreateFolder", "--times", "1", "--expire-session"]);
        rule(&lab, &["--method", "Login", "--times", "1", "--fault", "InvalidLogin"]);
        for name in ["never", "nor-now"] {
            let failed = make_folder(&refused, name).await.unwrap_err();
            assert_eq!(failed.fault_name(), Some("InvalidLogin"), "{failed}");
        }
        clear(&lab);
        make_folder(&session, "in-the-end").await.unwrap();

        rule(&lab, &["--method", "CreateFolder", "--delay", "300", "--jitter", "50"]);
        let begun = Instant::now();
        make_folder(&session, "slow").await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
        clear(&lab);

        rule(&lab, &["--fill-datastore", "datastore1"]);
        let store = ManagedObjectReference::new("Datastore", "datastore-10");
        let read = session.read(&store, &["summary.freeSpace"]).await.unwrap();
        assert_eq!(read.get::<i64>("summary.freeSpace").unwrap(), Some(0));
        clear(&lab);
        let read = session.read(&store, &["summary.freeSpace"]).await.unwrap();
        assert!(read.get::<i64>("summary.freeSpace").unwrap() > Some(0));
        session.logout().await.unwrap();
    });
    for wrong in [
        &["faults", "add", "--preset", "no-such"][..],
        &["faults", "add", "--fill-datastore", "no-such"],
        &["faults", "add", "--fault", "InvalidState", "--drop", "before"],
        &["faults", "add", "--method", "CreateFolder"],
    ] {
        assert!(!lab.run(wrong).status.success(), "{wrong:?}");
    }
}

#[test]
fn a_vm_dies_by_rule_and_a_vcenter_takes_its_time() {
    let lab = Lab::bare(&[]);
    block_on(async {
        let session = lab.stage.session().await;
        let vm = make_vm(&session, "mortal").await;
        rule(&lab, &["--preset", "vcenter"]);
        let begun = Instant::now();
        session.run(&methods::PowerOnVMTask { this: vm.clone(), host: None }).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
        clear(&lab);

        rule(&lab, &["--method", "CurrentTime", "--times", "1", "--kill-vm", "mortal"]);
        let mut watch = session.watch(&vm, &["runtime.powerState"]).await.unwrap();
        let this = ManagedObjectReference::new("ServiceInstance", "ServiceInstance");
        session.call(&methods::CurrentTime { this }).await.unwrap();
        let mut last = None;
        let off = watch.until(&vm, |state| {
            last = state.get::<VirtualMachinePowerState>("runtime.powerState")?;
            Ok::<_, Error>((last == Some(VirtualMachinePowerState::PoweredOff)).then_some(()))
        });
        let off = tokio::time::timeout(Duration::from_secs(30), off).await;
        off.unwrap_or_else(|_| panic!("the VM is still {last:?}")).unwrap();
        // It can be started again, and goes when it is asked to.
        session.run(&methods::PowerOnVMTask { this: vm.clone(), host: None }).await.unwrap();
        session.run(&methods::PowerOffVMTask { this: vm.clone() }).await.unwrap();
        session.run(&methods::DestroyTask { this: vm }).await.unwrap();
        session.logout().await.unwrap();
    });
}

/// Waits until a VM asks something else than `before`, which may be nothing; gives that.
async fn question(session: &Session, vm: &ManagedObjectReference, before: Option<&str>) -> Option<String> {
    let mut watch = session.watch(vm, &["runtime.question"]).await.unwrap();
    let asked = watch.until(vm, |state| {
        let question = state.get::<VirtualMachineQuestionInfo>("runtime.question")?.map(|question| question.id);
        Ok::<_, Error>((question.as_deref() != before).then_some(question))
    });
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("it asks the same").unwrap()
}

#[test]
fn a_vm_asks_by_rule_and_its_power_hangs_on_the_answer() {
    let lab = Lab::bare(&[]);
    block_on(async {
        let session = lab.stage.session().await;
        let vm = make_vm(&session, "curious").await;
        let power = async || -> VirtualMachinePowerState {
            session.read(&vm, &["runtime.powerState"]).await.unwrap().require("runtime.powerState").unwrap()
        };
        let answer = async |id: &str, choice: &str| {
            let (question_id, answer_choice) = (id.to_owned(), choice.to_owned());
            session.call(&methods::AnswerVM { this: vm.clone(), question_id, answer_choice }).await
        };
        let power_on = methods::PowerOnVMTask { this: vm.clone(), host: None };
        rule(&lab, &["--method", "PowerOnVM_Task", "--question", "msg.uuid.altered:Moved or copied?"]);
        for (choice, goes_on) in [("1", false), ("0", true)] {
            let answered = async {
                let id = question(&session, &vm, None).await.unwrap();
                assert_eq!(power().await, VirtualMachinePowerState::PoweredOff);
                answer(&id, choice).await.unwrap();
                let again = answer(&id, choice).await.unwrap_err();
                assert_eq!(again.fault_name(), Some("ConcurrentAccess"), "{again}");
            };
            let (outcome, ()) = tokio::join!(session.run(&power_on), answered);
            assert_eq!(outcome.err().and_then(|e| e.fault_name().map(str::to_owned)).is_none(), goes_on);
        }
        clear(&lab);

        // One that is on asks at any call; Retry lets it go on, Cancel ends it.
        for (choice, goes_on) in [("0", true), ("1", false)] {
            rule(
                &lab,
                &["--method", "Reload", "--object", "curious", "--times", "1", "--question", "msg.full:No room."],
            );
            session.call(&methods::Reload { this: vm.clone() }).await.unwrap();
            clear(&lab);
            let id = question(&session, &vm, None).await.unwrap();
            let refused = session.run(&methods::PowerOffVMTask { this: vm.clone() }).await.unwrap_err();
            assert_eq!(refused.fault_name(), Some("QuestionPending"), "{refused}");
            answer(&id, choice).await.unwrap();
            assert_eq!(question(&session, &vm, Some(&id)).await, None);
            if goes_on {
                assert_eq!(power().await, VirtualMachinePowerState::PoweredOn);
                continue;
            }
            let mut watch = session.watch(&vm, &["runtime.powerState"]).await.unwrap();
            let off = watch.until(&vm, |state| {
                let off = state.get("runtime.powerState")? == Some(VirtualMachinePowerState::PoweredOff);
                Ok::<_, Error>(off.then_some(()))
            });
            tokio::time::timeout(Duration::from_secs(30), off).await.expect("it is still on").unwrap();
        }
        session.run(&methods::DestroyTask { this: vm }).await.unwrap();
        session.logout().await.unwrap();
    });
}

#[test]
fn a_daemon_that_starts_anew_keeps_vms_and_inventory() {
    let lab = Lab::bare(&[]);
    block_on(async {
        let session = lab.stage.session().await;
        let vm = make_vm(&session, "steady").await;
        session.run(&methods::PowerOnVMTask { this: vm.clone(), host: None }).await.unwrap();
        let booted = session.read(&vm, &["summary.runtime.powerState"]).await.unwrap();
        rule(&lab, &["--method", "CreateFolder", "--restart"]);
        let broken = make_folder(&session, "lost").await.unwrap_err();
        assert!(matches!(broken, Error::Unreachable { .. }), "{broken:?}");
        let deadline = Instant::now() + Duration::from_secs(30);
        let after = loop {
            // The session is gone too: the client logs in again within the call.
            match session.read(&vm, &["summary.runtime.powerState"]).await {
                Ok(after) => break after,
                Err(error) => assert!(Instant::now() < deadline, "the lab is not back: {error}\n{}", lab.log()),
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(after.properties, booted.properties);
        assert!(!exists(&session, "lost").await);
        // The rule is gone with the daemon that had it.
        make_folder(&session, "found").await.unwrap();
        session.run(&methods::PowerOffVMTask { this: vm }).await.unwrap();
        session.logout().await.unwrap();
    });
}

#[test]
fn switches_and_port_groups_outlive_the_daemon() {
    use vim25::types::{HostNetworkInfo, HostPortGroupSpec};
    let mut lab = Lab::bare(&["--esxi"]);
    let system = ManagedObjectReference::new("HostNetworkSystem", "networkSystem-ha-host");
    let bridges =
        |lab: &Lab| text(&lab.run(&["exec", "--", "ip", "-br", "link", "show", "type", "bridge"])).lines().count();
    let before = bridges(&lab);
    block_on(async {
        let session = lab.stage.session().await;
        let (this, vswitch_name) = (system.clone(), "vSwitch1".to_owned());
        session.call(&methods::AddVirtualSwitch { this, vswitch_name, spec: None }).await.unwrap();
        let portgrp =
            HostPortGroupSpec { name: "own".into(), vswitch_name: "vSwitch1".into(), ..HostPortGroupSpec::default() };
        session.call(&methods::AddPortGroup { this: system.clone(), portgrp }).await.unwrap();
        session.logout().await.unwrap();
    });
    assert_eq!(bridges(&lab), before + 1, "a port group is a bridge");
    // SAFETY: kill(2) touches no memory; the id is the daemon's own answer.
    unsafe { libc::kill(lab.daemon(), libc::SIGKILL) };
    lab.start();
    block_on(async {
        let session = lab.stage.session().await;
        let info = session.read(&system, &["networkInfo"]).await.unwrap();
        let info: HostNetworkInfo = info.get("networkInfo").unwrap().unwrap();
        assert!(info.portgroup.iter().any(|p| p.spec.name == "own"), "{info:?}");
        let (this, vswitch_name) = (system.clone(), "vSwitch1".to_owned());
        session.call(&methods::RemoveVirtualSwitch { this, vswitch_name }).await.unwrap();
        session.logout().await.unwrap();
    });
    assert_eq!(bridges(&lab), before, "its bridge goes with it");
}

#[test]
fn what_is_watched_is_seen_whole_although_it_is_told_in_parts() {
    /// More than one answer tells of.
    const MANY: usize = 250;
    let lab = Lab::bare(&[]);
    block_on(async {
        let session = lab.stage.session().await;
        let this = make_folder(&session, "many").await.unwrap();
        for number in 1..MANY {
            let create = methods::CreateFolder { this: this.clone(), name: format!("f{number}") };
            session.call(&create).await.unwrap();
        }
        let below = step("below", "Folder", "childEntity", &[]);
        let spec = reachable(this.clone(), vec![paths("Folder", &["name"])], vec![below]);
        let mut watch = session.watcher().watch(spec).await.unwrap();
        assert_eq!(watch.next().await.unwrap().len(), MANY);
        let seen = async {
            loop {
                assert_eq!(watch.next().await.unwrap().len(), MANY);
            }
        };
        // Whenever another watch comes all of them are told again.
        let others = async {
            for _ in 0..5 {
                let mut other = session.watch(&this, &["name"]).await.unwrap();
                other.until(&this, |_| Ok::<_, Error>(Some(()))).await.unwrap();
            }
        };
        tokio::select! {
            () = seen => {}
            () = others => {}
        }
        session.logout().await.unwrap();
    });
}
