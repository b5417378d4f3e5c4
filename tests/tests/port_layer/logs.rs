//! The log of a container that runs: its file is the one that the host of its VM has locked.

use std::io::Write as _;
use std::time::Duration;

use port_layer::Failure;
use port_layer::container::logs::LogQuery;
use port_layer::container::vm::OUTPUT;
use tether_proto::record::{Stream, encode};
use vim25::Error;
use vim25::datastore::DatastorePath;
use vim25::types::{AnyVirtualDevice, ManagedObjectReference, VirtualMachineRelocateSpec, methods};
use vim25::vm_file::VmFile;

use crate::stage::{Stage, in_time, runtime};

const ALL: LogQuery =
    LogQuery { stdout: true, stderr: true, since_ns: None, until_ns: None, tail: None, follow: false };

/// A container whose process has not run yet, and its VM.
async fn create(stage: &Stage) -> ManagedObjectReference {
    let id = stage.create("one", &["run"], "{}").await.unwrap();
    ManagedObjectReference::new("VirtualMachine", &stage.engine.table().find(&id).unwrap().vm)
}

/// Whether the VM's ports are connected, of which it has two.
async fn are_connected(stage: &Stage, vm: &ManagedObjectReference) -> bool {
    let devices = stage.admin.read(vm, &["config.hardware.device"]).await.unwrap();
    let devices: Vec<AnyVirtualDevice> = devices.all("config.hardware.device").unwrap();
    let ports = devices.iter().filter(|d| matches!(d, AnyVirtualDevice::VirtualSerialPort(_)));
    ports.filter(|p| p.connectable.as_ref().is_some_and(|c| c.connected)).count() == 2
}

/// Where the VM's output goes.
async fn output(stage: &Stage, vm: &ManagedObjectReference) -> DatastorePath {
    let facts = stage.admin.read(vm, &["config.files.vmPathName"]).await.unwrap();
    let vmx: String = facts.require("config.files.vmPathName").unwrap();
    DatastorePath::parse(&vmx).unwrap().parent().join(OUTPUT)
}

/// Writes a line as the VM's port does.
async fn say(stage: &Stage, vm: &ManagedObjectReference, line: &str) {
    write(stage, vm, &format!("{line}\n")).await;
}

async fn write(stage: &Stage, vm: &ManagedObjectReference, text: &str) {
    let file = output(stage, vm).await;
    let path = stage.lab.folder().join("datastores").join(&file.datastore).join(&file.path);
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    file.write_all(&encode(Stream::Stdout, 1, text.as_bytes())).unwrap();
}

async fn log(stage: &Stage) -> Result<String, Failure> {
    log_of(stage, ALL).await
}

async fn log_of(stage: &Stage, query: LogQuery) -> Result<String, Failure> {
    let read = async {
        let mut lines = stage.engine.logs("one", query).await?;
        let mut text = String::new();
        while let Some(line) = lines.recv().await {
            text.push_str(&String::from_utf8(line?.bytes).unwrap());
        }
        Ok(text)
    };
    in_time("logs", Box::pin(read)).await
}

/// How many requests for files have come to `server`: "" is vCenter.
fn seen(stage: &Stage, server: &str) -> u64 {
    let rules = stage.faults(&["list"]);
    let mut rules = rules.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    rules.find(|r| r["method"] == format!("GET {server}/folder")).unwrap()["seen"].as_u64().unwrap()
}

#[test]
fn a_running_containers_log_is_read_through_its_host_and_follows_it_to_another() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let vm = create(&stage).await;
        stage.engine.start_container("one").await.unwrap();
        for server in ["", "host"] {
            stage.faults(&["add", "--method", &format!("GET {server}/folder"), "--delay", "0"]);
        }
        say(&stage, &vm, "first").await;
        assert_eq!(log(&stage).await.unwrap(), "first\n");
        stage.faults(&["add", "--method", "GET host/folder", "--nth", "1", "--times", "1", "--drop", "before"]);
        assert_eq!(log(&stage).await.unwrap(), "first\n", "a host is asked once more when the connection broke");

        let mut followed = stage.engine.logs("one", LogQuery { follow: true, ..ALL }).await.unwrap();
        let mut next = async || {
            let line = in_time("the next line", followed.recv()).await.unwrap().unwrap();
            String::from_utf8(line.bytes).unwrap()
        };
        assert_eq!(next().await, "first\n");
        let hosts =
            stage.admin.contained(&stage.admin.content().root_folder, "HostSystem", true, &["vm"]).await.unwrap();
        let empty = |host: &&vim25::property::Object| host.all::<ManagedObjectReference>("vm").unwrap().is_empty();
        let host = Some(hosts.iter().find(empty).unwrap().reference.clone());
        let spec = VirtualMachineRelocateSpec { host, ..Default::default() };
        stage.admin.run(&methods::RelocateVMTask { this: vm.clone(), spec, priority: None }).await.unwrap();
        // vSphere leaves its ports disconnected.
        let ports = async {
            while !are_connected(&stage, &vm).await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time("its ports", ports).await;
        say(&stage, &vm, "second").await;
        assert_eq!(next().await, "second\n");
        assert!(seen(&stage, "host") > 0);
        assert_eq!(seen(&stage, ""), 0, "vCenter would have refused");

        stage.engine.kill_container("one", "KILL").await.unwrap();
        assert_eq!(log(&stage).await.unwrap(), "first\nsecond\n");
        assert!(seen(&stage, "") > 0, "nobody has it open");
        stage.faults(&["clear"]);
        stage.clean_up().await;
    });
}

#[test]
fn a_line_is_one_when_it_has_ended_or_its_process_has() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let vm = create(&stage).await;
        let last = LogQuery { tail: Some(1), ..ALL };
        stage.engine.start_container("one").await.unwrap();
        say(&stage, &vm, "first").await;
        write(&stage, &vm, "sec").await;
        assert_eq!(log(&stage).await.unwrap(), "first\n");
        assert_eq!(log_of(&stage, last).await.unwrap(), "first\n");
        let mut followed = stage.engine.logs("one", LogQuery { follow: true, ..last }).await.unwrap();
        let mut next = async || {
            let line = in_time("the next line", followed.recv()).await.unwrap().unwrap();
            String::from_utf8(line.bytes).unwrap()
        };
        assert_eq!(next().await, "first\n");
        say(&stage, &vm, "ond").await;
        assert_eq!(next().await, "second\n");
        write(&stage, &vm, "third").await;
        stage.engine.kill_container("one", "KILL").await.unwrap();
        assert_eq!(next().await, "third");
        assert_eq!(log(&stage).await.unwrap(), "first\nsecond\nthird");
        assert_eq!(log_of(&stage, last).await.unwrap(), "third");
        stage.clean_up().await;
    });
}

#[test]
fn a_vm_that_is_switched_on_between_two_reads_is_found_at_its_host() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let vm = create(&stage).await;
        stage.engine.start_container("one").await.unwrap();
        say(&stage, &vm, "first").await;
        stage.engine.kill_container("one", "KILL").await.unwrap();
        let file = VmFile::new(&stage.admin, "dc1", vm.clone(), output(&stage, &vm).await);
        let before = file.read_piece(0, 1000).await.unwrap();
        stage.engine.start_container("one").await.unwrap();
        assert_eq!(file.read_piece(0, 1000).await.unwrap(), before);
        stage.clean_up().await;
    });
}

#[test]
fn where_the_host_cannot_be_asked_vcenter_is() {
    runtime().block_on(async {
        for (hosts, readable) in [(1, true), (2, false)] {
            let stage = Stage::with_hosts(hosts).await;
            let vm = create(&stage).await;
            stage.engine.start_container("one").await.unwrap();
            say(&stage, &vm, "first").await;
            let refusals = [
                ["--method", "GET host/folder", "--drop", "before"],
                ["--method", "GET host/folder", "--fault", "SystemError"],
                ["--method", "AcquireGenericServiceTicket", "--fault", "NoPermission"],
            ];
            for refusal in refusals {
                stage.faults(&[&["add"], &refusal[..]].concat());
                match log(&stage).await {
                    Ok(text) => assert!(readable && text == "first\n", "{refusal:?}: {text}"),
                    Err(Failure::Vsphere(error @ Error::Held { .. })) => {
                        assert!(!readable && error.to_string().contains("TCP port 443"), "{refusal:?}: {error}");
                    }
                    Err(failure) => panic!("{refusal:?}: {failure:?}"),
                }
                stage.faults(&["clear"]);
            }
            stage.clean_up().await;
        }
    });
}
