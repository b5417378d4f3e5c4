//! The appliance, booted in a real virtual machine, with the test in the place of vSphere.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test says how it fails by panicking")]

mod support;

use std::net::TcpStream;

use support::{Certificates, Vch, config};
use vch_config::{
    ApiTls, Document, EndpointStatus, KEY_CONFIG, KEY_HEARTBEAT, KEY_SECRETS, KEY_STATUS, Role, ServiceState, Stage,
    VchSecrets,
};

fn status(text: &str) -> Option<EndpointStatus> {
    EndpointStatus::from_text(text).ok()
}

fn at(stage: Stage) -> impl Fn(&str) -> bool {
    move |text| status(text).is_some_and(|status| status.stage == stage)
}

fn options(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_appliance_boots_serves_docker_over_mutual_tls_and_powers_off() {
    let iso = support::iso();
    let certificates = Certificates::make();
    let tls = ApiTls::Mutual { server_cert_pem: certificates.server.clone(), client_ca_pem: certificates.ca.clone() };
    let secrets = VchSecrets::new(
        "planted-password".to_owned().into(),
        certificates.server_key.clone().into(),
        String::new().into(),
    );
    let keys = [(KEY_CONFIG, config(tls).to_text()), (KEY_SECRETS, secrets.to_text())];
    let mut guest = Vch::boot(&iso, &keys);

    // QEMU's CPUID does not say VMware.
    guest.wait_for_line("init: guestinfo over the serial port");
    guest.wait(KEY_HEARTBEAT, "the first heartbeat", |text| !text.is_empty());
    println!("figure: switched on to init's first heartbeat {:.2} s", guest.age().as_secs_f64());
    let answered = guest.wait_for_docker(&certificates);
    println!("figure: switched on to an answer of the Docker API {:.2} s", answered.as_secs_f64());
    let ready = guest.wait(KEY_STATUS, "Ready", at(Stage::Ready));
    let ready = status(&ready).unwrap();
    assert_eq!((ready.vch_id.as_str(), ready.problem.as_str()), ("6b1f", ""));
    assert_eq!(ready.addresses[&Role::Client], ["10.0.2.15/24"]);
    assert_eq!(ready.services["personality"].state, ServiceState::Running);
    guest.wait("guestinfo.ip", "the address for vSphere", |ip| ip == "10.0.2.15");

    let folder = tempfile::tempdir().unwrap();
    let trusted = certificates.client_options(folder.path());
    let docker = |arguments: &[&str]| guest.docker(&options(&trusted), arguments);
    let version = docker(&["version", "--format", "{{.Server.Platform.Name}} {{.Server.APIVersion}}"]);
    assert_eq!(text(&version), "vSphere Integrated Containers 1.53\n", "console:\n{}", guest.console());
    let info = docker(&["info", "--format", "{{.Name}} {{.MemTotal}} {{.OSType}}"]);
    assert_eq!(text(&info), "vch-boot 4294967296 linux\n");
    // There is no vSphere here, which is told, and told of whom.
    let ps = docker(&["ps", "-aq"]);
    assert!(
        !ps.status.success() && text(&ps).contains("vSphere is not reached: cannot reach 192.0.2.1"),
        "{}",
        text(&ps)
    );
    let create = docker(&["create", "--pull", "never", "busybox"]);
    assert!(!create.status.success() && text(&create).contains("vSphere is not reached"), "{}", text(&create));
    let volume = docker(&["volume", "create", "v"]);
    assert!(!volume.status.success() && text(&volume).contains("does not yet implement POST"), "{}", text(&volume));

    // Without a certificate, and with one of a foreign CA.
    let ca = folder.path().join("ca.pem").display().to_string();
    let bare = guest.docker(&["--tlsverify", "--tlscacert", &ca, "--tlscert=", "--tlskey="], &["version"]);
    assert!(!bare.status.success() && text(&bare).contains("certificate required"), "{}", text(&bare));
    let foreign_folder = tempfile::tempdir().unwrap();
    let mut foreign = Certificates::make().client_options(foreign_folder.path());
    foreign[1] = format!("--tlscacert={ca}");
    let foreign = guest.docker(&options(&foreign), &["version"]);
    assert!(!foreign.status.success() && text(&foreign).contains("tls"), "{}", text(&foreign));

    // A client that connects and says nothing holds nobody up.
    let silent: Vec<_> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", guest.port)).unwrap()).collect();
    assert!(docker(&["version"]).status.success());
    drop(silent);

    // SysRq-F has the kernel kill the largest process, which is the personality.
    guest.press(&["alt", "sysrq", "f"]);
    let died = guest.wait(KEY_STATUS, "a status that shows the service's end", |text| {
        status(text).is_some_and(|s| s.services["personality"].restarts == 1)
    });
    let died = status(&died).unwrap();
    assert_eq!(died.stage, Stage::Degraded);
    let last_words = &died.services["personality"].last_words;
    assert!(last_words.lines().any(|l| l == "was killed by SIGKILL"), "{last_words}");
    let back = guest.wait(KEY_STATUS, "Ready again", at(Stage::Ready));
    assert_eq!(status(&back).unwrap().services["personality"].restarts, 1);
    assert!(docker(&["version"]).status.success());

    let console = guest.console();
    for planted in ["planted-password", "PRIVATE KEY"] {
        assert!(!console.contains(planted), "{console}");
        assert!(!guest.host.get(KEY_STATUS).unwrap().contains(planted));
    }
    assert_eq!(guest.ask_to_end("OS_Halt"), "guest-shutdown");
    assert!(guest.console().contains("init: PowerOff: now"), "{}", guest.console());
    assert!(!guest.console().contains("did not end within"), "{}", guest.console());
    assert_eq!(guest.host.get("answer.7").as_deref(), Some("OK "));
}

#[test]
fn a_configuration_that_comes_late_or_is_wrong_is_said_and_waited_for() {
    let iso = support::iso();
    let mut guest = Vch::boot(&iso, &[]);
    let failed = guest.wait(KEY_STATUS, "a failure that names the configuration", at(Stage::Failed));
    assert!(status(&failed).unwrap().problem.contains("guestinfo.vic.config) is missing"), "{failed}");

    guest
        .host
        .set(KEY_SECRETS, &VchSecrets::new(String::new().into(), String::new().into(), String::new().into()).to_text());
    guest.host.set(KEY_CONFIG, "{");
    guest.wait(KEY_STATUS, "a failure that says what is wrong", |text| text.contains("is not valid"));

    // A key that is not one: the service keeps ending, with its reason as its last words.
    let tls = ApiTls::Server { server_cert_pem: "not a certificate".into() };
    guest.host.set(KEY_CONFIG, &config(tls).to_text());
    let failed = guest.wait(KEY_STATUS, "the service's failure", |text| {
        status(text).is_some_and(|s| s.services.values().any(|s| s.state == ServiceState::Failed))
    });
    let failed = status(&failed).unwrap();
    assert_eq!(failed.stage, Stage::Failed);
    assert!(failed.problem.contains("the server certificate"), "{}", failed.problem);
    // QEMU was told to end instead of starting the guest again.
    assert_eq!(guest.ask_to_end("OS_Reboot"), "guest-reset");
}
