//! The port layer's containers, with real guests; the test stands where the endpoint VM's services will.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use port_layer::Site;
use port_layer::container::events::{History, Subject};
use port_layer::container::phase::Phase;
use port_layer::container::reconciler::{Reconciler, Watched};
use port_layer::container::record::Record;
use port_layer::container::table::{Change, Table};
use port_layer::container::vm::{New, OUTPUT};
use registry_server::tarball::{Tarball, gzip};
use registry_server::{Served, installed};
use tether_proto::record::{Reader, Stream};
use tether_proto::{Container, Disk, Process};
use tokio::time::timeout;
use vch_config::{Document as _, KEY_CONFIG, VchConfig};
use vic_tests::block_on;
use vic_tests::lab::{ADDRESS, Lab, text};
use vic_tests::suite::NAME;
use vic_tests::vch::{REGISTRY, inside};
use vim25::Session;
use vim25::datastore::DatastorePath;
use vim25::types::{ManagedObjectReference, OptionValue, VirtualMachineConfigSpec, VirtualMachineFileInfo, methods};

const PATIENCE: Duration = Duration::from_secs(120);

/// The only program of the image: says its arguments, then ends with 3, counts, or waits to be ended.
const PROGRAM: &str = r#"
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!("{}", words.join(" "));
    eprintln!("to stderr");
    if words[0] == "count" {
        for n in 1..=20000 {
            println!("line {n}");
        }
        print!("and no line feed");
    }
    if words[0] == "wait" {
        loop {
            std::thread::park();
        }
    }
    std::process::exit(3);
}
"#;

fn tool(command: &mut Command) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = command.env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The program, built.
pub(crate) fn static_program(folder: &Path) -> Vec<u8> {
    let at = |name: &str| folder.join(name);
    std::fs::write(at("program.rs"), PROGRAM).unwrap();
    tool(
        Command::new("rustc")
            .args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "strip=symbols"])
            .args(["--target", "x86_64-unknown-linux-gnu", "-o"])
            .args([at("program"), at("program.rs")]),
    );
    std::fs::read(at("program")).unwrap()
}

/// Makes the disk of an image as an image store would, and brings it to the datastore.
async fn image(session: &Session, folder: &Path) -> DatastorePath {
    let at = |name: &str| folder.join(name);
    std::fs::create_dir_all(at("root/bin")).unwrap();
    let program = static_program(folder);
    std::fs::write(at("root/bin/program"), program).unwrap();
    std::fs::set_permissions(at("root/bin/program"), std::fs::Permissions::from_mode(0o755)).unwrap();
    tool(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).args([at("root"), at("disk")]).arg("32M"));
    tool(
        Command::new("qemu-img")
            .args(["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat"])
            .args([at("disk"), at("image.vmdk")]),
    );
    for file in ["image.vmdk", "image-flat.vmdk"] {
        session.upload(&at(file), "dc1", &DatastorePath::new("datastore1", file), |_| {}).await.unwrap();
    }
    DatastorePath::new("datastore1", "image.vmdk")
}

async fn config(session: &Session, vm: &str) -> VchConfig {
    let vm = ManagedObjectReference::new("VirtualMachine", vm);
    let options: Vec<OptionValue> =
        session.read(&vm, &["config.extraConfig"]).await.unwrap().all("config.extraConfig").unwrap();
    let text: String = options.iter().find(|o| o.key == KEY_CONFIG).unwrap().value.as_ref().unwrap().get().unwrap();
    VchConfig::from_text(&text).unwrap()
}

fn documents(site_vch: &str, id: &str, name: &str, word: &str) -> (Record, Container) {
    let record = Record {
        schema: 1,
        id: id.repeat(64),
        name: name.into(),
        vch: site_vch.into(),
        created_ns: 1,
        image: "program".into(),
        image_id: "sha256:0".into(),
        disk: String::new(),
        config: "{}".into(),
        host_config: "{}".into(),
    };
    let process = Process {
        args: vec!["/bin/program".into(), word.into(), name.into()],
        stop_seconds: Some(5),
        ..Process::default()
    };
    let root = Disk { unit: 0, file_system: String::new() };
    let guest =
        Container { schema: 1, id: record.id.clone(), process, root, host_name: name.into(), ..Container::default() };
    (record, guest)
}

/// Waits until `accept` is true of the table.
async fn until(reconciler: &Watched, what: &str, accept: impl Fn(&Table) -> bool) {
    let found = timeout(PATIENCE, reconciler.until(|t| accept(t).then_some(()))).await;
    assert!(matches!(found, Ok(Ok(()))), "{what}: {:?}", reconciler.table());
}

fn phase(table: &Table, name: &str) -> Option<Phase> {
    table.find(name).ok().map(|c| c.phase())
}

#[test]
fn a_container_is_a_vm() {
    let lab = Lab::up(&[]);
    let stage = &lab.stage;
    let args = ["--tls-cname", "vch.example", "--output", "json"];
    let created = stage.vic("create", &stage.create_args(NAME, &args)).ended_with(0).json();
    block_on(async {
        let session = stage.session().await;
        let endpoint = ManagedObjectReference::new("VirtualMachine", created["id"].as_str().unwrap());
        // Its engine removes half-made VMs that it is not making itself: here the test is the engine.
        session.run(&methods::PowerOffVMTask { this: endpoint }).await.unwrap();
        let disk = image(&session, stage.folder.path()).await;
        let config = config(&session, created["id"].as_str().unwrap()).await;
        let site = Site::find(&session, &config).await.unwrap();
        let history = History::default();
        let task = Reconciler::start(&site, &history).await.unwrap();
        let reconciler = task.watched();
        assert_eq!(reconciler.table().iter().count(), 0);

        // One that says a word and ends.
        let (record, guest) = documents(&config.id, "a", "talker", "hello");
        let new = |record, guest| New { record, guest, image: &disk, memory_mib: 256, cpus: 1 };
        let talker = site.create(new(&record, &guest)).await.unwrap();
        until(reconciler, "created", |t| phase(t, "talker") == Some(Phase::Created { failed: None })).await;
        site.start(&talker).await.unwrap();
        let exited = Some(Phase::Exited { code: 3, out_of_memory: false });
        until(reconciler, "exited", |t| phase(t, "talker") == exited).await;

        // Its output stands on the datastore, whole, although nobody was attached.
        let vmx: String = session
            .read(&talker, &["config.files.vmPathName"])
            .await
            .unwrap()
            .require("config.files.vmPathName")
            .unwrap();
        let output = DatastorePath::parse(&vmx).unwrap().parent().join(OUTPUT);
        let local = stage.folder.path().join("output");
        session.download("dc1", &output, &local, |_| {}).await.unwrap();
        let mut said = [String::new(), String::new()];
        for record in Reader::default().read(&std::fs::read(&local).unwrap()) {
            said[usize::from(record.stream == Stream::Stderr)].push_str(&String::from_utf8_lossy(&record.bytes));
        }
        assert_eq!(said, ["hello talker\n", "to stderr\n"]);

        // One that stays, is started when it runs, is stopped by the guest's own end, and is gone by force.
        let (record, guest) = documents(&config.id, "b", "waiter", "wait");
        let waiter = site.create(new(&record, &guest)).await.unwrap();
        site.start(&waiter).await.unwrap();
        until(reconciler, "running", |t| phase(t, "waiter") == Some(Phase::Running)).await;
        site.start(&waiter).await.unwrap();
        site.shut_down(&waiter).await.unwrap();
        let stopped = Some(Phase::Exited { code: 143, out_of_memory: false });
        until(reconciler, "stopped", |t| phase(t, "waiter") == stopped).await;
        site.power_off(&waiter).await.unwrap();
        site.start(&waiter).await.unwrap();
        until(reconciler, "running again", |t| phase(t, "waiter") == Some(Phase::Running)).await;

        // An admin powers it off in vSphere.
        session.run(&methods::PowerOffVMTask { this: waiter.clone() }).await.unwrap();
        let killed = Some(Phase::Exited { code: 137, out_of_memory: false });
        until(reconciler, "powered off by an admin", |t| phase(t, "waiter") == killed).await;

        for vm in [&talker, &waiter] {
            site.destroy(vm).await.unwrap();
            site.destroy(vm).await.unwrap();
        }
        until(reconciler, "destroyed", |t| t.iter().count() == 0).await;
        let mut told = Vec::new();
        for event in history.listen().0 {
            match &event.subject {
                Subject::Container { record, change } if record.id.starts_with('b') => told.push(change.clone()),
                _ => {}
            }
        }
        assert_eq!(
            told,
            [
                Change::Create,
                Change::Start,
                Change::Die { code: 143 },
                Change::Start,
                Change::Die { code: 137 },
                Change::Destroy
            ]
        );
        session.logout().await.unwrap();
    });
    stage.vic("delete", &["--name", NAME]).ended_with(0);
    stage.check_wire_log();
}

/// What docker prints, of a command that must succeed.
pub(crate) fn said(lab: &Lab, args: &[&str]) -> String {
    let output = lab.docker(&lab.stage.folder.path().join(NAME), args);
    assert!(output.status.success(), "docker {args:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What docker prints to either stream, of a command that must succeed.
pub(crate) fn streams(lab: &Lab, args: &[&str]) -> [String; 2] {
    let output = lab.docker(&lab.stage.folder.path().join(NAME), args);
    assert!(output.status.success(), "docker {args:?}: {}", text(&output));
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What docker complains of.
pub(crate) fn refused(lab: &Lab, args: &[&str]) -> String {
    let output = lab.docker(&lab.stage.folder.path().join(NAME), args);
    assert!(!output.status.success(), "docker {args:?}: {}", text(&output));
    text(&output)
}

#[test]
fn docker_drives_containers() {
    if !installed() {
        return;
    }
    let lab = Lab::up(&[]);
    let stage = &lab.stage;
    let served = Served::start();
    let program = static_program(stage.folder.path());
    let root = Tarball::new().folder("bin/").entry(tar::EntryType::Regular, "bin/program", "", &program, 0o755).bytes();
    block_on(served.push("program:1", &[(gzip(&root), &root[..])]));
    let ip = format!("{ADDRESS}/24");
    let args =
        ["--public-network-ip", &ip, "--public-network-gateway", "192.168.120.1", "--insecure-registry", REGISTRY];
    stage.vic("create", &stage.create_args(NAME, &args)).ended_with(0);
    let _serving = inside(&lab, &served);
    let image = format!("{REGISTRY}/program:1");
    said(&lab, &["pull", &image]);
    let before = stage.inventory();
    assert_eq!(said(&lab, &["ps", "-aq"]), "");
    let create = |name: &str, word: &str| {
        said(&lab, &["create", "--name", name, "-m", "256m", &image, "/bin/program", word, name])
    };
    create("talker", "hello");
    let waiter = create("waiter", "wait");
    create("counter", "count");

    assert_eq!(said(&lab, &["ps", "-q"]), "");
    let all = ["ps", "-a", "--format", "{{.Names}} {{.State}} {{.Status}}"];
    let lines = |text: String| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    };
    assert_eq!(lines(said(&lab, &all)), "counter created Created\ntalker created Created\nwaiter created Created");
    assert_eq!(said(&lab, &["start", "talker"]), "talker");
    assert_eq!(said(&lab, &["wait", "talker"]), "3");
    let exited = said(&lab, &["ps", "-a", "--filter", "exited=3", "--format", "{{.Names}} {{.Status}}"]);
    assert!(exited.starts_with("talker Exited (3) ") && exited.ends_with(" ago"), "{exited}");

    assert_eq!(streams(&lab, &["logs", "talker"]), ["hello talker\n", "to stderr\n"]);
    assert_eq!(streams(&lab, &["logs", "--since", "2020-01-01", "--tail", "5", "talker"])[0], "hello talker\n");
    assert_eq!(streams(&lab, &["logs", "--until", "2020-01-01", "talker"]), ["", ""]);
    let stamped = said(&lab, &["logs", "--timestamps", "talker"]);
    assert!(stamped.starts_with("20") && stamped.ends_with("Z hello talker"), "{stamped}");
    assert_eq!(streams(&lab, &["logs", "-f", "waiter"]), ["", ""], "it has never run");
    assert!(refused(&lab, &["logs", "nobody"]).contains("No such container: nobody"));

    // More than one piece of the file, complete although the log is read while it is written.
    said(&lab, &["start", "counter"]);
    let counted = streams(&lab, &["logs", "--follow", "counter"]);
    let mut expected: String = (1..=20000).map(|n| format!("line {n}\n")).collect();
    expected.insert_str(0, "count counter\n");
    expected.push_str("and no line feed");
    assert!(counted[0] == expected, "{} bytes of {}", counted[0].len(), expected.len());
    let tail = streams(&lab, &["logs", "--tail", "3", "counter"]);
    assert_eq!(tail, ["line 19999\nline 20000\nand no line feed", ""]);
    assert_eq!(streams(&lab, &["logs", "--tail", "0", "counter"]), ["", ""]);

    said(&lab, &["start", "waiter"]);
    said(&lab, &["start", "waiter"]);
    assert!(said(&lab, &["ps", "--format", "{{.Names}} {{.Status}}"]).starts_with("waiter Up "));
    let state = ["inspect", "--format", "{{.State.Status}} {{.State.Running}} {{.Name}}", &waiter[..12]];
    assert_eq!(said(&lab, &state), "running true /waiter");
    assert!(refused(&lab, &["rm", "waiter"]).contains("is running: stop the container before removing"));
    said(&lab, &["restart", "-t", "3", "waiter"]);
    said(&lab, &["stop", "waiter"]);
    assert_eq!(said(&lab, &["inspect", "--format", "{{.State.ExitCode}}", "waiter"]), "143");
    assert!(refused(&lab, &["kill", "waiter"]).contains("container waiter is not running"));
    said(&lab, &["start", "waiter"]);
    said(&lab, &["kill", "waiter"]);
    assert_eq!(said(&lab, &["inspect", "--format", "{{.State.ExitCode}}", "waiter"]), "137");
    said(&lab, &["start", "waiter"]);
    said(&lab, &["rm", "-f", "waiter"]);
    said(&lab, &["rm", "talker"]);
    said(&lab, &["rm", "counter"]);

    // A VM that waits for an answer, at its power-on, and then with a guest that stands still.
    let asker = create("asker", "wait");
    let question = "msg.hbacommon.outofspace:There is no more space.";
    let rule = |method: &str| {
        let vm = format!("asker-{}", &asker[..12]);
        lab.run(&["faults", "add", "--method", method, "--object", &vm, "--times", "1", "--question", question])
    };
    assert!(rule("PowerOnVM_Task").status.success());
    let told = refused(&lab, &["start", "asker"]);
    assert!(told.contains(question) && told.contains("answer it in vSphere"), "{told}");
    assert_eq!(
        said(&lab, &["inspect", "--format", "{{.State.Status}} {{.State.Error}}", "asker"]),
        format!("created {question}")
    );
    said(&lab, &["stop", "asker"]);
    said(&lab, &["start", "asker"]);
    assert!(rule("Reload").status.success());
    block_on(async {
        let session = stage.session().await;
        let root = session.content().root_folder.clone();
        let vms = session.contained(&root, "VirtualMachine", true, &["name"]).await.unwrap();
        for vm in vms {
            session.call(&methods::Reload { this: vm.reference }).await.unwrap();
        }
        session.logout().await.unwrap();
    });
    said(&lab, &["kill", "asker"]);
    assert_eq!(said(&lab, &["inspect", "--format", "{{.State.ExitCode}}{{.State.Error}}", "asker"]), "137");
    assert!(rule("PowerOnVM_Task").status.success());
    refused(&lab, &["start", "asker"]);
    said(&lab, &["rm", "-f", "asker"]);
    // Whole seconds: the client waits for the end of this one.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1;
    let actions = |filter: &str| {
        let args = ["events", "--since", "1", "--until", &now.to_string(), "--filter", filter, "--format"];
        said(&lab, &[&args[..], &["{{.Action}}{{with .Actor.Attributes.exitCode}} {{.}}{{end}}"]].concat())
    };
    assert_eq!(actions("container=talker"), "create\nstart\ndie 3\ndestroy");
    let story = [
        "create", "start", "kill", "die 143", "stop", "start", "restart", "kill", "die 143", "stop", "start", "kill",
        "die 137", "start", "kill", "die 137", "destroy",
    ];
    assert_eq!(actions("container=waiter"), story.join("\n"));
    assert!(refused(&lab, &["rm", "talker"]).contains("No such container: talker"));
    assert_eq!(said(&lab, &["ps", "-aq"]), "");

    // A VM of the VCH's that cannot be read may be a container of any image's.
    let unread = block_on(async {
        let session = stage.session().await;
        let root = session.content().root_folder.clone();
        let vapps = session.contained(&root, "VirtualApp", true, &["name"]).await.unwrap();
        let this = vapps.into_iter().find(|vapp| vapp.get::<String>("name").unwrap().as_deref() == Some(NAME)).unwrap();
        let files = VirtualMachineFileInfo { vm_path_name: Some("[datastore1]".into()), ..Default::default() };
        let config = VirtualMachineConfigSpec { name: Some("unread".into()), files: Some(files), ..Default::default() };
        let create = methods::CreateChildVMTask { this: this.reference, config, host: None };
        let vm: ManagedObjectReference = session.run(&create).await.unwrap().unwrap().get().unwrap();
        session.logout().await.unwrap();
        vm
    });
    for kept in [true, false] {
        let rule: &[&str] = if kept { &["faults", "add", "--lose-files", "unread"] } else { &["faults", "clear"] };
        assert!(lab.run(rule).status.success());
        // What is listed later is seen later.
        create("last", "hello");
        said(&lab, &["rm", "last"]);
        said(&lab, &["image", "prune", "-af"]);
        assert_eq!(said(&lab, &["images", "-q"]).is_empty(), !kept);
    }
    block_on(async {
        let session = stage.session().await;
        session.run(&methods::DestroyTask { this: unread }).await.unwrap();
        session.logout().await.unwrap();
    });
    assert_eq!(stage.inventory(), before, "nothing of the containers is left");
    stage.vic("delete", &["--name", NAME]).ended_with(0);
}
