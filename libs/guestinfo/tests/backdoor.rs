//! The client against an emulation of VMware's backdoor; the emulation against VMware's own client.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test says how it fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "registers are cut into halves on purpose")]

mod emulation;

use std::process::Command;

use emulation::{Backdoor, Outcome, run};

/// Our client.
fn ours(arguments: &[&str], backdoor: &mut Backdoor) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rpci"));
    command.args(arguments).env("VIC_RPCI_CARRIER", "backdoor");
    run(&mut command, backdoor).unwrap()
}

/// VMware's client; `None`, with the reason printed, when it cannot be run.
fn vmwares(request: &str, backdoor: &mut Backdoor) -> Option<Outcome> {
    match run(Command::new("vmware-rpctool").arg(request), backdoor) {
        Ok(outcome) => Some(outcome),
        Err(reason) => {
            println!("skipped: {reason}; vmware-rpctool comes with Debian's open-vm-tools");
            None
        }
    }
}

fn ok(output: &str) -> Outcome {
    Outcome { code: Some(0), output: format!("{output}\n") }
}

#[test]
fn vmwares_own_client_and_ours_see_the_same_host() {
    let mut host = Backdoor::default();
    host.keys.insert("guestinfo.vic.config".into(), "{\"schema\":1}".into());
    let Some(read) = vmwares("info-get guestinfo.vic.config", &mut host) else { return };
    assert_eq!(read, ok("{\"schema\":1}"), "VMware's client on the emulation: {host:?}");
    assert_eq!(ours(&["info-get guestinfo.vic.config"], &mut host), ok("{\"schema\":1}"));

    let written = vmwares("info-set guestinfo.a from VMware's", &mut host).unwrap();
    assert_eq!(written.code, Some(0));
    assert_eq!(ours(&["info-get guestinfo.a"], &mut host), ok("from VMware's"));
    assert_eq!(ours(&["info-set guestinfo.b from ours"], &mut host), ok(""));
    assert_eq!(vmwares("info-get guestinfo.b", &mut host).unwrap(), ok("from ours"));

    let missing = vmwares("info-get guestinfo.none", &mut host).unwrap();
    let ours = ours(&["info-get guestinfo.none"], &mut host);
    assert_eq!((missing.code, ours.code), (Some(1), Some(1)));
}

#[test]
fn values_of_any_length_come_back_whole() {
    for length in [0, 1, 3, 4, 5, 4096, 9001] {
        let mut host = Backdoor::default();
        let value: String = ('a'..='z').cycle().take(length).collect();
        host.keys.insert("guestinfo.x".into(), value.clone());
        assert_eq!(ours(&["info-get guestinfo.x"], &mut host), ok(&value), "{length}");
        assert_eq!(ours(&[&format!("info-set guestinfo.y {value}")], &mut host), ok(""), "{length}");
        assert_eq!(host.keys["guestinfo.y"], value, "{length}");
    }
}

#[test]
fn a_checkpoint_at_any_step_costs_nothing_but_a_repetition() {
    for after in 1..14 {
        let mut host = Backdoor::default();
        host.checkpoint_after = Some(after);
        host.keys.insert("guestinfo.x".into(), "survives".into());
        assert_eq!(ours(&["info-get guestinfo.x"], &mut host), ok("survives"), "after {after} steps");
    }
}

#[test]
fn every_rpci_conversation_is_closed() {
    let mut host = Backdoor::default();
    host.keys.insert("guestinfo.x".into(), "v".into());
    ours(&["info-get guestinfo.x"], &mut host);
    // At most the TCLO conversation is left: the process ended in the middle of it.
    assert!(host.open_conversations() <= 1, "{host:?}");
    assert_eq!(host.unknown, [], "commands that nobody emulates");
}

#[test]
fn the_tools_register_and_the_hosts_halt_arrives() {
    let requests = ["reset", "Capabilities_Register", "ping", "OS_Halt"];
    let mut host = Backdoor::default();
    host.host_requests = requests.map(Into::into).into();
    assert_eq!(ours(&["--wait"], &mut host), ok("Halt"));
    // The answer to the halt may come too late to be seen.
    assert_eq!(host.answers[..3], ["OK ATR toolbox", "OK ", "OK "]);
    for capability in ["tools.capability.statechange", "tools.set.version", "SetGuestInfo"] {
        assert!(host.other_requests.iter().any(|r| r.starts_with(capability)), "{capability}: {host:?}");
    }
}
