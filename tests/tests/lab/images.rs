//! Images of a real registry on a VCH with real guests, driven by the docker client.

use std::time::{Duration, Instant};

use registry_server::tarball::{Tarball, gzip, noise};
use registry_server::{Served, installed};
use serde_json::Value;
use vic_tests::block_on;
use vic_tests::lab::{ADDRESS, Lab};
use vic_tests::suite::NAME;
pub(crate) use vic_tests::vch::{REGISTRY, inside};
use vim25::types::{ManagedObjectReference, OptionValue, VirtualMachineConfigSpec, VirtualMachineFileInfo, methods};

use crate::containers::{refused, said, static_program, streams};

#[test]
fn docker_pulls_images_and_runs_them() {
    if !installed() {
        return;
    }
    let lab = Lab::up(&[]);
    let stage = &lab.stage;
    let served = Served::start();
    let program = static_program(stage.folder.path());
    let base = Tarball::new()
        .folder("bin/")
        .entry(tar::EntryType::Regular, "bin/program", "", &program, 0o755)
        // As large as a base that is worth a disk of its own.
        .file("noise", &noise(17 << 20))
        .file("etc/passwd", b"root:x:0:0::/:\napp:x:77:77::/:\n")
        .bytes();
    let top = Tarball::new().file("etc/motd", b"hi").bytes();
    let other = Tarball::new().file("etc/other", b"o").bytes();
    block_on(async {
        served.push("program:1", &[(gzip(&base), &base[..]), (gzip(&top), &top)]).await;
        served.push("program:2", &[(gzip(&base), &base[..]), (gzip(&other), &other)]).await;
    });
    let ip = format!("{ADDRESS}/24");
    let args =
        ["--public-network-ip", &ip, "--public-network-gateway", "192.168.120.1", "--insecure-registry", REGISTRY];
    let before = stage.inventory();
    stage.vic("create", &stage.create_args(NAME, &args)).ended_with(0);
    let _serving = inside(&lab, &served);

    let one = format!("{REGISTRY}/program:1");
    let two = format!("{REGISTRY}/program:2");
    assert!(refused(&lab, &["pull", &format!("{REGISTRY}/nothing")]).contains("manifest unknown"));
    let pulled = said(&lab, &["pull", &one]);
    assert!(pulled.contains(&format!("Status: Downloaded newer image for {one}")), "{pulled}");
    assert!(said(&lab, &["pull", &one]).contains("Image is up to date"));
    assert!(said(&lab, &["pull", &two]).contains("Already exists"), "the base is shared");
    let listed = said(&lab, &["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    let mut listed: Vec<_> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, [one.as_str(), two.as_str()]);
    assert_eq!(said(&lab, &["image", "inspect", "--format", "{{index .Config.Labels \"for\"}}", &one]), "program:1");
    said(&lab, &["tag", &one, "mine"]);
    assert_eq!(said(&lab, &["images", "mine", "--format", "{{.Repository}}:{{.Tag}}"]), "mine:latest");

    // A container of it, and its output.
    let run =
        ["run", "-d", "--name", "talker", "-m", "256m", "--label", "a=b", "mine", "/bin/program", "hello", "world"];
    let id = said(&lab, &run);
    assert_eq!(said(&lab, &["wait", "talker"]), "3");
    assert_eq!(streams(&lab, &["logs", "talker"])[0], "hello world\n");
    assert_eq!(said(&lab, &["ps", "-aq", "--no-trunc", "--filter", "label=a=b", "--filter", "ancestor=mine"]), id);
    assert_eq!(said(&lab, &["ps", "-aq", "--no-trunc", "--filter", &format!("ancestor={one}")]), id, "the same image");
    assert_eq!(said(&lab, &["ps", "-aq", "--filter", "ancestor=nothing"]), "");
    assert!(refused(&lab, &["ps", "--filter", "since=nobody"]).contains("No such container: nobody"));
    let taken = refused(&lab, &["create", "--name", "talker", "mine", "/bin/program"]);
    assert!(taken.contains("The container name \"/talker\" is already in use by container"), "{taken}");
    let second = ["run", "-d", "--name", "waiter", "-m", "256m", "--entrypoint", "/bin/program", &two, "wait"];
    said(&lab, &second);
    assert_eq!(said(&lab, &["ps", "--format", "{{.Names}} {{.Image}}"]), format!("waiter {two}"));
    let missing = refused(&lab, &["run", "-d", "-m", "256m", "mine", "/bin/nothing"]);
    assert!(missing.contains("/bin/nothing"), "{missing}");

    said(&lab, &["rename", "talker", "speaker"]);
    assert!(refused(&lab, &["rename", "speaker", "waiter"]).contains("is already in use by container"));
    assert_eq!(said(&lab, &["inspect", "--format", "{{.Name}} {{.State.ExitCode}}", &id]), "/speaker 3");
    let gone = said(&lab, &["run", "-d", "--rm", "--name", "brief", "-m", "256m", &one, "/bin/program", "x"]);
    let _ = lab.docker(&stage.folder.path().join(NAME), &["wait", &gone]);
    let end = Instant::now() + Duration::from_secs(60);
    while !said(&lab, &["ps", "-aq", "--filter", "name=brief"]).is_empty() {
        assert!(Instant::now() < end, "{}", said(&lab, &["ps", "-a"]));
    }
    let counts = ["info", "--format", "{{.Containers}} {{.ContainersRunning}} {{.Images}}"];
    assert_eq!(said(&lab, &counts), "3 1 2");
    let usage = said(&lab, &["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]);
    assert!(usage.starts_with("Images 2 2\nContainers 3 1\n"), "{usage}");

    // What is used stays, what is not goes.
    let used = refused(&lab, &["rmi", "-f", &two]);
    assert!(used.contains("conflict: unable to remove repository reference"), "{used}");
    assert_eq!(said(&lab, &["rmi", "mine"]), "Untagged: mine:latest");
    // Whose name is gone is shown by its id, and has been made from the name all the same.
    let image = said(&lab, &["image", "inspect", "--format", "{{.Id}}", &one]);
    let speaker = ["ps", "-as", "--filter", "name=speaker", "--format", "{{.Image}} {{.Size}}"];
    let shown = said(&lab, &speaker);
    assert!(shown.starts_with(&format!("{} 0B (virtual ", &image["sha256:".len()..][..12])), "{shown}");
    assert_eq!(
        said(&lab, &["inspect", "--format", "{{.Config.Image}} {{.Image}}", "speaker"]),
        format!("mine {image}")
    );
    let sizes = said(&lab, &["inspect", "-s", "--format", "{{.SizeRw}} {{.SizeRootFs}}", "speaker"]);
    assert!(sizes.starts_with("0 ") && !sizes.ends_with(" 0"), "{sizes}");
    assert!(refused(&lab, &["rm", "--link", "speaker"]).contains("cannot remove the default link name"));
    let all = said(&lab, &["ps", "-aq"]);
    said(&lab, &[&["rm", "-f"][..], &all.lines().collect::<Vec<_>>()].concat());
    assert!(said(&lab, &["rmi", &one]).contains("Deleted: sha256:"));
    assert!(said(&lab, &["rmi", &two]).contains("Deleted: sha256:"));
    assert_eq!(said(&lab, &["images", "-q"]), "");
    // And comes again, when there is room.
    let faults = |args: &[&str]| assert!(lab.run(&[&["faults"], args].concat()).status.success());
    faults(&["add", "--fill-datastore", "datastore1"]);
    let full = refused(&lab, &["pull", &one]);
    assert!(full.contains("no space left on device: datastore datastore1 has 0 MB free"), "{full}");
    faults(&["clear"]);
    said(&lab, &["pull", &one]);
    let out = said(&lab, &["create", "-m", "256m", &one, "/bin/program", "x"]);
    assert_eq!(out.len(), 64, "{out}");
    said(&lab, &["start", &out]);
    said(&lab, &["wait", &out]);
    said(&lab, &["rm", &out]);
    // An admin removes it on the datastore: who runs it has it pulled again.
    let files = lab.folder().join("datastores/datastore1");
    let folders: Vec<_> = files.read_dir().unwrap().map(|e| e.unwrap().path().join("images")).collect();
    let images = folders.iter().find(|images| images.join("index.json").exists()).unwrap();
    let index: Value = serde_json::from_slice(&std::fs::read(images.join("index.json")).unwrap()).unwrap();
    for disk in index["disks"].as_object().unwrap().values() {
        std::fs::remove_file(images.join(disk["name"].as_str().unwrap()).join("disk.vmdk")).unwrap();
    }
    let run = ["run", "-d", "--name", "stays", "-m", "256m", &one, "/bin/program", "wait"];
    let [_, told] = streams(&lab, &run);
    assert!(told.contains("Unable to find image") && told.contains("Downloaded newer image"), "{told}");
    // Containers go with the VCH: those that run, by force alone; a clone of one is no container.
    let delete = || stage.vic("delete", &["--name", NAME]).ended_with(7).stderr.clone();
    assert!(delete().contains("running containers"), "{}", delete());
    let copy = block_on(clone(&lab, "stays-"));
    said(&lab, &["kill", "stays"]);
    let told = delete();
    assert!(told.contains("holds 1 more objects") && told.contains(&copy), "{told}");
    block_on(async {
        let session = stage.session().await;
        session.run(&methods::DestroyTask { this: ManagedObjectReference::new("VirtualMachine", copy) }).await.unwrap();
        session.logout().await.unwrap();
    });
    said(&lab, &["start", "stays"]);
    stage.vic("delete", &["--name", NAME, "--force"]).ended_with(0);
    assert_eq!(stage.inventory(), before);
    let left: Vec<_> = files.read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    stage.vic("delete", &["--name", NAME]).ended_with(6);
}

/// Makes a VM beside the one whose name begins so, with all that is in its extraConfig, as a clone has it; returns its id.
async fn clone(lab: &Lab, vm: &str) -> String {
    let session = lab.stage.session().await;
    let root = session.content().root_folder.clone();
    let wanted = ["name", "resourcePool", "config.extraConfig"];
    let vms = session.contained(&root, "VirtualMachine", true, &wanted).await.unwrap();
    let vm = vms.iter().find(|one| one.require::<String>("name").unwrap().starts_with(vm)).unwrap();
    let config = VirtualMachineConfigSpec {
        name: Some("copy".into()),
        guest_id: Some("other3xLinux64Guest".into()),
        files: Some(VirtualMachineFileInfo { vm_path_name: Some("[datastore1]".into()), ..Default::default() }),
        extra_config: vm.all::<OptionValue>("config.extraConfig").unwrap(),
        ..Default::default()
    };
    let create = methods::CreateChildVMTask { this: vm.require("resourcePool").unwrap(), config, host: None };
    let made: ManagedObjectReference = session.run(&create).await.unwrap().unwrap().get().unwrap();
    session.logout().await.unwrap();
    made.value
}
