//! Where vSphere refuses, the lab refuses, with the same fault: the rules, met through the API.

use vim25_types::soap::Fault;
use vim25_types::{
    AnyMethodFault, AnyValue, AnyVirtualDevice as Device, AnyVirtualDeviceBackingInfo as Backing,
    DistributedVirtualSwitchPortConnection, HostPortGroupSpec, ManagedObjectReference as Moref, OptionValue,
    ParaVirtualSCSIController, SessionManagerGenericServiceTicket, SessionManagerHttpServiceRequestSpec,
    VirtualDeviceConfigSpec, VirtualDeviceConfigSpecFileOperation as FileOperation,
    VirtualDeviceConfigSpecOperation as Operation, VirtualDeviceFileBackingInfo, VirtualDisk,
    VirtualDiskFlatVer2BackingInfo, VirtualEthernetCardDistributedVirtualPortBackingInfo, VirtualLsiLogicController,
    VirtualMachineConfigSpec, VirtualMachineFileInfo, VirtualMachineRelocateSpec, VirtualSCSISharing,
    VirtualSerialPort, VirtualSerialPortFileBackingInfo, VirtualVmxnet3, methods as m,
};

use super::bench::{Bench, READER, fault_of};
use super::device::{PVSCSI_DISKS, SCSI_DISKS};
use crate::faults::{Effect, Rule};
use crate::vm::Power;

/// Says why a test that needs `qemu-img` cannot run here.
fn no_qemu_img() -> bool {
    let missing = std::process::Command::new("qemu-img").arg("--version").output().is_err();
    if missing {
        println!("skipped: qemu-img is not installed");
    }
    missing
}

fn add(device: impl Into<Device>) -> VirtualDeviceConfigSpec {
    VirtualDeviceConfigSpec {
        operation: Some(Operation::Add),
        device: device.into(),
        ..VirtualDeviceConfigSpec::default()
    }
}

fn pvscsi() -> VirtualDeviceConfigSpec {
    let mut controller = ParaVirtualSCSIController::default();
    (controller.key, controller.shared_bus) = (-1, VirtualSCSISharing::NoSharing);
    add(controller)
}

/// A disk on the controller `key`: a new file, or the one that is named.
fn disk(key: i32, file: &str, unit: Option<i32>) -> VirtualDeviceConfigSpec {
    let mut backing = VirtualDiskFlatVer2BackingInfo { disk_mode: "persistent".into(), ..Default::default() };
    backing.file_name = file.into();
    let mut device = VirtualDisk { capacity_in_kb: 1024, ..VirtualDisk::default() };
    (device.key, device.controller_key, device.unit_number) = (-10, Some(key), unit);
    device.backing = Some(backing.into());
    let operation = file.is_empty().then_some(FileOperation::Create);
    VirtualDeviceConfigSpec { file_operation: operation, ..add(device) }
}

fn spec(name: &str, devices: Vec<VirtualDeviceConfigSpec>) -> VirtualMachineConfigSpec {
    let vm_path_name = Some("[datastore1]".into());
    VirtualMachineConfigSpec {
        name: Some(name.into()),
        files: Some(VirtualMachineFileInfo { vm_path_name, ..VirtualMachineFileInfo::default() }),
        device_change: devices,
        ..VirtualMachineConfigSpec::default()
    }
}

fn creation(bench: &Bench, config: VirtualMachineConfigSpec) -> m::CreateVMTask {
    let (this, pool) = (bench.find("Folder", "vm"), bench.find("ResourcePool", "Resources"));
    m::CreateVMTask { this, config, pool, host: None }
}

async fn create(bench: &Bench, name: &str, devices: Vec<VirtualDeviceConfigSpec>) -> Moref {
    bench.run(&creation(bench, spec(name, devices))).await.unwrap().unwrap()
}

async fn change(bench: &Bench, vm: &Moref, devices: Vec<VirtualDeviceConfigSpec>) -> Result<(), Fault> {
    let spec = VirtualMachineConfigSpec { device_change: devices, ..VirtualMachineConfigSpec::default() };
    bench.run(&m::ReconfigVMTask { this: vm.clone(), spec }).await.map(drop)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Fault>, fault: &str) -> Fault {
    let refusal = outcome.expect_err(fault);
    assert_eq!(refusal.type_name(), fault, "{}", refusal.message);
    refusal
}

fn envelope(body: &str) -> String {
    format!(
        "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
    )
}

#[tokio::test]
async fn elements_that_the_schema_does_not_have_are_refused() {
    let bench = Bench::new(false).await;
    let folder = "<_this type=\"Folder\">group-v3</_this>";
    for (body, says) in [
        (
            format!("<CreateFolder xmlns=\"urn:vim25\">{folder}<name>a</name><colour>red</colour></CreateFolder>"),
            "colour",
        ),
        (format!("<CreateFolder xmlns=\"urn:vim25\"><name>a</name>{folder}</CreateFolder>"), "_this"),
        (format!("<CreateFolder xmlns=\"urn:vim25\">{folder}</CreateFolder>"), "name"),
        (format!("<CreateFolder xmlns=\"urn:vim25\">{folder}<name>a</name><name>b</name></CreateFolder>"), "name"),
        (format!("<NoSuchMethod xmlns=\"urn:vim25\">{folder}</NoSuchMethod>"), "NoSuchMethod"),
        (format!("<PowerOnVM_Task xmlns=\"urn:vim25\">{folder}</PowerOnVM_Task>"), "PowerOnVM_Task"),
        (
            format!(
                "<CreateVM_Task xmlns=\"urn:vim25\">{folder}<config><memoryMB>64</memoryMB><name>a</name></config>\
                 <pool type=\"ResourcePool\">resgroup-8</pool></CreateVM_Task>"
            ),
            "name",
        ),
        (
            format!(
                "<CreateVM_Task xmlns=\"urn:vim25\">{folder}<config><name>a</name><memoryMB>much</memoryMB></config>\
                 <pool type=\"ResourcePool\">resgroup-8</pool></CreateVM_Task>"
            ),
            "memoryMB",
        ),
    ] {
        let fault = fault_of(&bench.post(&envelope(&body)).await);
        assert_eq!(fault.type_name(), "InvalidRequest", "{body}");
        assert!(fault.message.contains(says), "{body}: {}", fault.message);
    }
    assert!(bench.lab.read(|w| w.child_named("group-v3", "a").is_none()));
}

#[tokio::test]
async fn documents_nested_deeper_than_a_hundred_are_refused() {
    let bench = Bench::new(false).await;
    let deep = |levels: usize| envelope(&format!("{}{}", "<a>".repeat(levels), "</a>".repeat(levels)));
    let refusal = fault_of(&bench.post(&deep(99)).await);
    assert!(refusal.message.contains("depth exceeds 100"), "{}", refusal.message);
    // One level less is read, and is no method.
    assert!(fault_of(&bench.post(&deep(98)).await).message.contains("no method a"));
}

#[tokio::test]
async fn device_keys_are_those_of_the_vm() {
    if no_qemu_img() {
        return;
    }
    let bench = Bench::new(false).await;
    let vm = create(&bench, "vm", vec![pvscsi(), disk(-1, "", None)]).await;
    let index = |fault: Fault| match fault.detail {
        AnyMethodFault::InvalidDeviceSpec(detail) => detail.device_index,
        other => panic!("{other:?}"),
    };
    assert_eq!(index(refused(change(&bench, &vm, vec![disk(4711, "", None)]).await, "InvalidDeviceSpec")), 0);
    // A negative key holds within one request only.
    assert_eq!(index(refused(change(&bench, &vm, vec![disk(-1, "", None)]).await, "InvalidDeviceSpec")), 0);
    let taken = change(&bench, &vm, vec![disk(1000, "", Some(1)), disk(1000, "", Some(0))]).await;
    assert_eq!(index(refused(taken, "InvalidDeviceSpec")), 1);
    refused(change(&bench, &vm, vec![disk(1000, "", Some(7))]).await, "InvalidDeviceSpec");
    let mut remove = add(VirtualDisk::default());
    remove.operation = Some(Operation::Remove);
    remove.device.key = 2042;
    refused(change(&bench, &vm, vec![remove]).await, "DeviceNotFound");
    let disks = bench.lab.read(|w| w.vm(&vm.value).unwrap().disk_files().len());
    assert_eq!(disks, 1, "a refused change changes nothing");
}

#[tokio::test]
async fn a_controller_takes_so_many_disks_and_no_more() {
    if no_qemu_img() {
        return;
    }
    let bench = Bench::new(false).await;
    let many = |key, count: usize| (0..count).map(|_| disk(key, "", None)).collect::<Vec<_>>();
    let vm = create(&bench, "many", vec![pvscsi()]).await;
    let mut lsi = VirtualLsiLogicController::default();
    (lsi.key, lsi.bus_number, lsi.shared_bus) = (-1, 1, VirtualSCSISharing::NoSharing);
    change(&bench, &vm, vec![add(lsi)]).await.unwrap();
    for (key, room) in [(1000, PVSCSI_DISKS), (1001, SCSI_DISKS)] {
        refused(change(&bench, &vm, many(key, room + 1)).await, "TooManyDevices");
    }
    // With room for as many: nothing is made, the plan alone is looked at.
    change(&bench, &vm, many(1001, SCSI_DISKS)).await.unwrap();
    refused(change(&bench, &vm, many(1001, 1)).await, "TooManyDevices");
    refused(change(&bench, &vm, vec![pvscsi(), pvscsi(), pvscsi()]).await, "TooManyDevices");
}

#[tokio::test]
async fn a_disk_of_a_vm_that_is_on_is_nobody_elses() {
    if no_qemu_img() {
        return;
    }
    let bench = Bench::new(false).await;
    let owner = create(&bench, "owner", vec![pvscsi(), disk(-1, "", None)]).await;
    let file = "[datastore1] owner/owner.vmdk";
    // Two VMs may have it while they are off; only one may be on.
    let other = create(&bench, "other", vec![pvscsi(), disk(-1, file, None)]).await;
    bench.set_power(&owner, Power::On);
    let refusal = refused(bench.run(&m::PowerOnVMTask { this: other.clone(), host: None }).await, "FileLocked");
    assert!(refusal.message.contains(file), "{}", refusal.message);
    let files = bench.lab.read(|w| w.service_content());
    let delete = m::DeleteVirtualDiskTask {
        this: files.virtual_disk_manager.unwrap(),
        name: file.into(),
        datacenter: Some(bench.find("Datacenter", "dc1")),
    };
    refused(bench.run(&delete).await, "FileLocked");
    bench.set_power(&owner, Power::Off);
    refused(bench.run(&delete).await, "FileLocked");
}

#[tokio::test]
async fn a_file_below_a_disk_in_use_stays() {
    if no_qemu_img() {
        return;
    }
    let bench = Bench::new(false).await;
    let base = create(&bench, "base", vec![pvscsi(), disk(-1, "", None)]).await;
    let file = "[datastore1] base/base.vmdk";
    let mut child = disk(-1, "", None);
    if let Device::VirtualDisk(device) = &mut child.device {
        let mut parent = VirtualDiskFlatVer2BackingInfo { disk_mode: "persistent".into(), ..Default::default() };
        parent.file_name = file.into();
        let mut backing = VirtualDiskFlatVer2BackingInfo { disk_mode: "persistent".into(), ..Default::default() };
        backing.parent = Some(Box::new(parent));
        device.backing = Some(backing.into());
    }
    create(&bench, "child", vec![pvscsi(), child]).await;
    // The base's own VM goes, and leaves the file to the child.
    bench.run(&m::DestroyTask { this: base }).await.unwrap();
    let manager = bench.lab.read(|w| w.service_content()).file_manager.unwrap();
    for name in [file, "[datastore1] base"] {
        let delete = m::DeleteDatastoreFileTask {
            this: manager.clone(),
            name: name.into(),
            datacenter: Some(bench.find("Datacenter", "dc1")),
        };
        refused(bench.run(&delete).await, "FileLocked");
    }
    assert!(bench.lab.read(|w| w.file(file)).unwrap().exists());
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let bench = Bench::new(false).await;
    let vm = create(&bench, "taken", Vec::new()).await;
    let again = refused(bench.run(&creation(&bench, spec("taken", Vec::new()))).await, "DuplicateName");
    match again.detail {
        AnyMethodFault::DuplicateName(detail) => assert_eq!((detail.name.as_str(), detail.object), ("taken", vm)),
        other => panic!("{other:?}"),
    }
    let this = bench.find("Folder", "vm");
    refused(bench.call(&m::CreateFolder { this, name: "taken".into() }).await, "DuplicateName");
    let other = create(&bench, "other", Vec::new()).await;
    refused(bench.run(&m::RenameTask { this: other, new_name: "taken".into() }).await, "DuplicateName");
}

#[tokio::test]
async fn a_missing_privilege_is_named_with_its_object() {
    let mut bench = Bench::new(false).await;
    let vm = create(&bench, "guarded", Vec::new()).await;
    bench.log_in(READER).await.unwrap();
    let refusal = refused(bench.call(&m::PowerOnVMTask { this: vm.clone(), host: None }).await, "NoPermission");
    match refusal.detail {
        AnyMethodFault::NoPermission(detail) => {
            assert_eq!(detail.object, Some(vm));
            assert_eq!(detail.privilege_id.as_deref(), Some("VirtualMachine.Interact.PowerOn"));
        }
        other => panic!("{other:?}"),
    }
    // On a datastore, which the call names by a path.
    let delete = m::DeleteDatastoreFileTask {
        this: bench.lab.read(|w| w.service_content()).file_manager.unwrap(),
        name: "[datastore1] guarded".into(),
        datacenter: None,
    };
    match refused(bench.call(&delete).await, "NoPermission").detail {
        AnyMethodFault::NoPermission(detail) => assert_eq!(detail.object, Some(bench.find("Datastore", "datastore1"))),
        other => panic!("{other:?}"),
    }
    refused(bench.log_in("nobody").await, "InvalidLogin");
}

/// A VM whose serial port writes a file, which is there.
async fn writer(bench: &Bench) -> Moref {
    let file_name = "[datastore1] writer/output.log".into();
    let base = VirtualDeviceFileBackingInfo { file_name, ..Default::default() };
    let backing = VirtualSerialPortFileBackingInfo { base };
    let mut port = VirtualSerialPort::default();
    (port.key, port.backing) = (-1, Some(backing.into()));
    let vm = create(bench, "writer", vec![add(port)]).await;
    let file = |name: &str| bench.lab.read(|w| w.file(&format!("[datastore1] writer/{name}"))).unwrap();
    for name in ["output.log", "other.log"] {
        std::fs::write(file(name), name).unwrap();
    }
    vm
}

/// The URL of the file that it writes, on a host.
fn output_on(host: &str) -> String {
    format!("https://{host}/folder/writer/output.log?dcPath=ha-datacenter&dsName=datastore1")
}

async fn ticket(bench: &Bench, url: &str) -> Result<SessionManagerGenericServiceTicket, Fault> {
    let this = bench.lab.read(|w| w.service_content()).session_manager.unwrap();
    let spec =
        SessionManagerHttpServiceRequestSpec { method: Some("httpGet".into()), url: url.into(), ..Default::default() };
    bench.call(&m::AcquireGenericServiceTicket { this, spec: spec.into() }).await
}

/// The status of a GET with a cookie.
async fn get(bench: &Bench, url: &str, cookie: &str) -> u16 {
    let request = hyper::Request::get(url).header(hyper::header::COOKIE, cookie).body(()).unwrap();
    let answer = super::folder_http::read(&bench.lab, &request).await;
    answer.unwrap_or_else(|refusal| refusal).status().as_u16()
}

/// The status of a GET with a ticket that was asked for `asked`.
async fn by_ticket(bench: &Bench, asked: &str, url: &str) -> u16 {
    let ticket = ticket(bench, asked).await.unwrap();
    get(bench, url, &format!("vmware_cgi_ticket={}", ticket.id)).await
}

#[tokio::test]
async fn a_file_that_a_running_vm_writes_is_read_through_its_host() {
    let bench = Bench::with_hosts(2).await;
    let vm = writer(&bench).await;
    let (one, two) = (output_on("esx1.lab.test"), output_on("esx2.lab.test"));
    let vcenter = "https://vcenter.lab.test/folder/writer/output.log?dcPath=dc1&dsName=datastore1";
    let session = format!("vmware_soap_session={}", bench.cookie());
    let statuses = async || {
        let (one, two) = (by_ticket(&bench, &one, &one).await, by_ticket(&bench, &two, &two).await);
        (one, two, get(&bench, vcenter, &session).await)
    };
    assert_eq!(statuses().await, (200, 200, 200));
    bench.set_power(&vm, Power::On);
    assert_eq!(statuses().await, (200, 500, 500));
    let other = vcenter.replace("output", "other");
    assert_eq!(get(&bench, &other, &session).await, 200, "nobody has it open");
    let spec =
        VirtualMachineRelocateSpec { host: Some(bench.find("HostSystem", "esx2.lab.test")), ..Default::default() };
    bench.run(&m::RelocateVMTask { this: vm.clone(), spec, priority: None }).await.unwrap();
    assert_eq!(statuses().await, (500, 200, 500));
    bench.set_power(&vm, Power::Off);
    assert_eq!(statuses().await, (200, 200, 200));

    let alone = Bench::new(false).await;
    let vm = writer(&alone).await;
    alone.set_power(&vm, Power::On);
    let session = format!("vmware_soap_session={}", alone.cookie());
    assert_eq!(get(&alone, vcenter, &session).await, 200, "there is no wrong host");
}

#[tokio::test]
async fn a_ticket_is_for_one_request_of_one_url() {
    let mut bench = Bench::with_hosts(2).await;
    writer(&bench).await;
    let one = output_on("esx1.lab.test");
    let cookie = format!("vmware_cgi_ticket={}", ticket(&bench, &one).await.unwrap().id);
    assert_eq!(get(&bench, &one, &cookie).await, 200);
    assert_eq!(get(&bench, &one, &cookie).await, 401, "it is used up");
    assert_eq!(by_ticket(&bench, &one, &one.replace("output", "other")).await, 401);
    assert_eq!(get(&bench, &one, "vmware_cgi_ticket=made-up").await, 401);
    let centre = one.replace("ha-datacenter", "dc1");
    assert_eq!(by_ticket(&bench, &centre, &centre).await, 404, "a host knows no datacenter of vCenter's");
    for url in [&output_on("esx3.lab.test"), "no URL"] {
        refused(ticket(&bench, url).await, "InvalidArgument");
    }
    bench.log_in(READER).await.unwrap();
    assert_eq!(by_ticket(&bench, &one, &one).await, 403, "it may no more than who asked for it");
}

#[tokio::test]
async fn extra_config_has_its_limits() {
    let bench = Bench::new(false).await;
    let vm = create(&bench, "vm", Vec::new()).await;
    let set = |key: &str, length: usize| {
        let value = Some(AnyValue::of(&"x".repeat(length)));
        let extra_config = vec![OptionValue { key: key.into(), value }];
        let spec = VirtualMachineConfigSpec { extra_config, ..VirtualMachineConfigSpec::default() };
        m::ReconfigVMTask { this: vm.clone(), spec }
    };
    bench.run(&set("guestinfo.a", super::vm_config::MAX_EXTRA)).await.unwrap();
    refused(bench.run(&set("guestinfo.a", super::vm_config::MAX_EXTRA + 1)).await, "InvalidArgument");
    refused(bench.run(&set("", 1)).await, "InvalidArgument");
    let kept = bench.lab.read(|w| w.vm(&vm.value).unwrap().extra("guestinfo.a")).unwrap();
    assert_eq!(kept.len(), super::vm_config::MAX_EXTRA);
}

#[tokio::test]
async fn guest_info_that_came_while_the_vm_was_on_does_not_outlive_its_power() {
    let bench = Bench::new(false).await;
    let vm = create(&bench, "vm", Vec::new()).await;
    let reconfigure = |keys: &[&str]| {
        let option = |&key: &&str| OptionValue { key: key.into(), value: Some(AnyValue::of(&"host".to_owned())) };
        let extra_config = keys.iter().map(option).collect();
        let spec = VirtualMachineConfigSpec { extra_config, ..VirtualMachineConfigSpec::default() };
        m::ReconfigVMTask { this: vm.clone(), spec }
    };
    bench.run(&reconfigure(&["guestinfo.kept", "guestinfo.saved", "kept"])).await.unwrap();
    bench.set_power(&vm, Power::On);
    // By the guest, one that was there and one that was not; and by whoever saves the settings of a VM that runs.
    bench.lab.change(|w| {
        let vm = w.vm_mut(&vm.value).unwrap();
        vm.set_extra_now("guestinfo.kept", "guest", true);
        vm.set_extra_now("guestinfo.new", "guest", true);
    });
    bench.run(&reconfigure(&["guestinfo.saved", "saved"])).await.unwrap();
    bench.set_power(&vm, Power::Off);
    let keys = ["guestinfo.kept", "guestinfo.new", "guestinfo.saved", "kept", "saved"];
    let left = bench.lab.read(|w| keys.map(|key| w.vm(&vm.value).unwrap().extra(key)));
    let [guest, host] = ["guest", "host"].map(|text| Some(text.to_owned()));
    assert_eq!(left, [guest, None, None, host.clone(), host]);
}

#[tokio::test]
async fn a_port_of_a_distributed_switch_is_one_cards() {
    let bench = Bench::new(false).await;
    let switch_uuid = bench.lab.read(|w| w.switch_uuid(w.get("dvportgroup-14").unwrap()).unwrap());
    let nic = |port_key: Option<String>| {
        let portgroup_key = Some("dvportgroup-14".into());
        let port = DistributedVirtualSwitchPortConnection {
            switch_uuid: switch_uuid.clone(),
            portgroup_key,
            port_key,
            ..Default::default()
        };
        let backing = VirtualEthernetCardDistributedVirtualPortBackingInfo { port, ..Default::default() };
        let mut nic = VirtualVmxnet3::default();
        (nic.key, nic.backing) = (-1, Some(backing.into()));
        vec![add(nic)]
    };
    let port_of = |vm: &Moref| {
        bench.lab.read(|w| {
            let backings = w.vm(&vm.value).unwrap().devices().iter().filter_map(|d| d.backing.clone());
            let mut ports = backings.filter_map(|backing| match backing {
                Backing::VirtualEthernetCardDistributedVirtualPortBackingInfo(b) => b.port.port_key,
                _ => None,
            });
            ports.next().unwrap()
        })
    };
    let one = create(&bench, "one", nic(None)).await;
    let two = create(&bench, "two", nic(None)).await;
    assert_ne!(port_of(&one), port_of(&two));
    let copied = bench.run(&creation(&bench, spec("three", nic(Some(port_of(&one)))))).await;
    refused(copied, "InvalidDeviceSpec");
}

#[tokio::test]
async fn a_vm_that_is_on_is_neither_destroyed_nor_unregistered() {
    let bench = Bench::new(false).await;
    let vm = create(&bench, "vm", Vec::new()).await;
    bench.set_power(&vm, Power::On);
    refused(bench.run(&m::DestroyTask { this: vm.clone() }).await, "InvalidPowerState");
    refused(bench.call(&m::UnregisterVM { this: vm.clone() }).await, "InvalidPowerState");
    let this = bench.find("Folder", "vm");
    let name = "inner".to_owned();
    let folder = bench.call(&m::CreateFolder { this: this.clone(), name }).await.unwrap();
    bench.run(&m::MoveIntoFolderTask { this: folder.clone(), list: vec![vm.clone()] }).await.unwrap();
    refused(bench.run(&m::DestroyTask { this: folder }).await, "InvalidPowerState");
    refused(bench.run(&m::DestroyTask { this }).await, "NotSupported");
    bench.set_power(&vm, Power::Off);
    bench.run(&m::DestroyTask { this: vm.clone() }).await.unwrap();
    refused(bench.run(&m::DestroyTask { this: vm }).await, "ManagedObjectNotFound");
}

#[tokio::test]
async fn a_full_datastore_takes_no_more() {
    if no_qemu_img() {
        return;
    }
    let bench = Bench::new(false).await;
    let vm = create(&bench, "vm", vec![pvscsi(), disk(-1, "", None)]).await;
    let fill = |name: &str| Rule {
        id: 0,
        method: "*".into(),
        object: "*".into(),
        skip: 0,
        times: None,
        effect: Effect::FillDatastore { datastore: name.into() },
        seen: 0,
    };
    bench.lab.add_fault(fill("no-such-store")).unwrap_err();
    bench.lab.add_fault(fill("datastore1")).unwrap();
    match refused(change(&bench, &vm, vec![disk(1000, "", None)]).await, "NoDiskSpace").detail {
        AnyMethodFault::NoDiskSpace(detail) => assert_eq!(detail.datastore, "datastore1"),
        other => panic!("{other:?}"),
    }
    refused(bench.run(&creation(&bench, spec("other", Vec::new()))).await, "NoDiskSpace");
    let copy = m::CopyDatastoreFileTask {
        this: bench.lab.read(|w| w.service_content()).file_manager.unwrap(),
        source_name: "[datastore1] vm/vm.vmx".into(),
        source_datacenter: Some(bench.find("Datacenter", "dc1")),
        destination_name: "[datastore1] copy.vmx".into(),
        destination_datacenter: None,
        force: None,
    };
    refused(bench.run(&copy).await, "NoDiskSpace");
    let disks = bench.lab.read(|w| w.vm(&vm.value).unwrap().disk_files().len());
    assert_eq!(disks, 1);
    assert!(bench.lab.read(|w| w.file("[datastore1] other")).is_some_and(|f| !f.exists()), "nothing stays behind");
    bench.lab.clear_faults(None);
    change(&bench, &vm, vec![disk(1000, "", None)]).await.unwrap();
}

#[tokio::test]
async fn tasks_exclude_each_other_on_a_vm_and_not_in_a_folder() {
    if no_qemu_img() {
        return;
    }
    let bench = Bench::new(false).await;
    let vm = create(&bench, "vm", vec![pvscsi()]).await;
    // The first waits for `qemu-img` when the second comes.
    let spec = VirtualMachineConfigSpec { device_change: vec![disk(1000, "", None)], ..Default::default() };
    let (first, second) =
        (m::ReconfigVMTask { this: vm.clone(), spec }, m::RenameTask { this: vm, new_name: "x".into() });
    let (first, second) = tokio::join!(bench.run(&first), bench.run(&second));
    first.unwrap();
    refused(second, "TaskInProgress");
    let one = creation(&bench, spec_with_disk("one"));
    let two = creation(&bench, spec_with_disk("two"));
    let (one, two) = tokio::join!(bench.run(&one), bench.run(&two));
    assert_ne!(one.unwrap(), two.unwrap());
}

fn spec_with_disk(name: &str) -> VirtualMachineConfigSpec {
    spec(name, vec![pvscsi(), disk(-1, "", None)])
}

#[tokio::test]
async fn a_port_group_with_a_nic_on_it_stays() {
    let bench = Bench::new(true).await;
    let this = Moref::new("HostNetworkSystem", "networkSystem-ha-host");
    let group = HostPortGroupSpec { name: "pg".into(), vswitch_name: "vSwitch0".into(), ..Default::default() };
    bench.call(&m::AddPortGroup { this: this.clone(), portgrp: group.clone() }).await.unwrap();
    refused(bench.call(&m::AddPortGroup { this: this.clone(), portgrp: group }).await, "AlreadyExists");
    let mut nic = VirtualVmxnet3::default();
    let mut backing = vim25_types::VirtualEthernetCardNetworkBackingInfo::default();
    "pg".clone_into(&mut backing.device_name);
    (nic.key, nic.backing) = (-1, Some(backing.into()));
    let vm = create(&bench, "vm", vec![add(nic)]).await;
    let remove = m::RemovePortGroup { this, pg_name: "pg".into() };
    refused(bench.call(&remove).await, "ResourceInUse");
    bench.run(&m::DestroyTask { this: vm }).await.unwrap();
    bench.call(&remove).await.unwrap();
    refused(bench.call(&remove).await, "NotFound");
}

#[tokio::test]
async fn a_vm_that_asks_takes_one_answer_and_nothing_else() {
    let bench = Bench::new(false).await;
    let vm = create(&bench, "vm", Vec::new()).await;
    let asks = Effect::Ask { question: "msg.uuid.altered:Moved or copied?".into() };
    let rule = Rule { id: 0, method: "*".into(), object: "vm".into(), skip: 0, times: None, effect: asks, seen: 0 };
    bench.lab.add_fault(rule).unwrap();
    // One that is off has nothing to ask.
    bench.call(&m::Reload { this: vm.clone() }).await.unwrap();
    assert!(bench.lab.read(|w| w.vm(&vm.value).unwrap().asks().is_none()));

    let task = bench.call(&m::PowerOnVMTask { this: vm.clone(), host: None }).await.unwrap();
    bench.lab.clear_faults(None);
    let mut changed = bench.lab.watch();
    let question = || bench.lab.read(|w| w.vm(&vm.value).unwrap().asks().cloned());
    changed.wait_for(|_| question().is_some()).await.unwrap();
    let id = question().unwrap().id;
    let rename = m::RenameTask { this: vm.clone(), new_name: "x".into() };
    match refused(bench.run(&rename).await, "QuestionPending").detail {
        AnyMethodFault::QuestionPending(detail) => assert!(detail.text.contains("Moved or copied"), "{}", detail.text),
        other => panic!("{other:?}"),
    }
    refused(bench.run(&m::PowerOffVMTask { this: vm.clone() }).await, "QuestionPending");
    refused(bench.call(&m::UnregisterVM { this: vm.clone() }).await, "QuestionPending");
    let answer = |question_id: &str, answer_choice: &str| m::AnswerVM {
        this: vm.clone(),
        question_id: question_id.into(),
        answer_choice: answer_choice.into(),
    };
    refused(bench.call(&answer("another", "1")).await, "InvalidArgument");
    refused(bench.call(&answer(&id, "Cancel")).await, "InvalidArgument");
    bench.call(&answer(&id, "1")).await.unwrap();
    refused(bench.call(&answer(&id, "1")).await, "ConcurrentAccess");
    let ended = |w: &crate::world::World| w.task(&task.value).and_then(|t| t.error.clone());
    changed.wait_for(|_| bench.lab.read(|w| ended(w).is_some())).await.unwrap();
    let error = bench.lab.read(ended).unwrap();
    assert!(matches!(*error.fault, AnyMethodFault::GenericVmConfigFault(_)), "{error:?}");
    bench.run(&m::DestroyTask { this: vm }).await.unwrap();
}

#[tokio::test]
async fn a_vm_whose_files_are_out_of_reach_can_be_unregistered_and_no_more() {
    let bench = Bench::new(false).await;
    let vm = create(&bench, "vm", Vec::new()).await;
    let lose = |vm: &str| Rule {
        id: 0,
        method: "*".into(),
        object: "*".into(),
        skip: 0,
        times: None,
        effect: Effect::LoseFiles { vm: vm.into() },
        seen: 0,
    };
    bench.lab.add_fault(lose("no-such-vm")).unwrap_err();
    bench.lab.add_fault(lose("vm")).unwrap();
    let entry = |w: &crate::world::World, name: &str| w.get(&vm.value).map(|e| w.property(e, name).len());
    assert_eq!(bench.lab.read(|w| entry(w, "config")), Some(0));
    refused(change(&bench, &vm, Vec::new()).await, "InvalidState");
    refused(bench.run(&m::DestroyTask { this: vm.clone() }).await, "InvalidState");
    bench.lab.clear_faults(None);
    change(&bench, &vm, Vec::new()).await.unwrap();
    bench.lab.add_fault(lose(&vm.value)).unwrap();
    bench.call(&m::UnregisterVM { this: vm.clone() }).await.unwrap();
    assert!(bench.lab.read(|w| w.file("[datastore1] vm/vm.vmx")).is_some_and(|file| file.exists()));
}
