//! The suites that every vSphere must pass, and failures of real guests.

use vic_tests::lab::{ADDRESS, Lab};
use vic_tests::suite::{self, NAME, TLS};
use vic_tests::{block_on, write_iso};
use vim25::types::{ManagedObjectReference, methods};

#[test]
fn the_suites_of_every_vsphere() {
    let lab = Lab::up(&[]);
    suite::a_dry_run_prints_the_plan_and_changes_nothing(&lab.stage);
    suite::login_and_trust_failures_are_told_apart(&lab.stage);
    suite::names_that_stand_for_nothing_get_suggestions(&lab.stage);
    suite::bad_values_are_refused_before_anything_is_asked(&lab.stage);
    suite::ctrl_c_at_any_stage_leaves_nothing(&lab.stage);
    // Last, for it leaves an appliance's image that is none.
    suite::a_target_that_dies_in_the_upload_is_told_and_delete_finishes_the_job(&lab.stage);
}

#[test]
fn a_guest_that_does_not_come_up_is_told_by_its_stage_and_removed() {
    let lab = Lab::up(&[]);
    let stage = &lab.stage;
    let before = stage.picture();

    // "backend" has no DHCP server: the guest boots, and waits for an address that nobody gives.
    let mut create =
        stage.start("create", &stage.create_args(NAME, &[&TLS[..], &["--public-network", "backend"]].concat()));
    create.wait_for("waiting for addresses");
    create.signal(libc::SIGINT);
    create.finish().ended_with(1).said("interrupted by Ctrl-C");
    assert_eq!(stage.picture(), before);
    let args = stage.create_args(NAME, &[&TLS[..], &["--public-network", "backend", "--timeout", "40s"]].concat());
    stage.vic("create", &args).ended_with(8).said("waiting for addresses").said("exceeded time limit");
    assert_eq!(stage.picture(), before);

    // Somebody powers it off while it starts.
    let mut create = stage.start("create", &stage.create_args(NAME, &TLS));
    create.wait_for("wait for the appliance");
    block_on(async {
        let session = stage.session().await;
        let root = session.content().root_folder.clone();
        let vms = session.contained(&root, "VirtualMachine", true, &["name"]).await.unwrap();
        let this: ManagedObjectReference = vms[0].reference.clone();
        session.run(&methods::PowerOffVMTask { this }).await.unwrap();
        session.logout().await.unwrap();
    });
    create.finish().ended_with(1).said("has powered off while it was starting");
    assert_eq!(stage.picture(), before);

    // An image that bears our name and boots nothing.
    write_iso(&stage.folder.path().join("appliance.iso"), env!("CARGO_PKG_VERSION"), 1 << 20);
    let args = stage.create_args(NAME, &[&TLS[..], &["--timeout", "10s"]].concat());
    stage.vic("create", &args).ended_with(8).said("exceeded time limit");
    assert_eq!(stage.picture(), before);
    stage.check_wire_log();
}

#[test]
fn a_leased_address_and_a_name_in_the_certificate() {
    let lab = Lab::up(&[]);
    let stage = &lab.stage;
    let create = stage.vic("create", &stage.create_args(NAME, &[&TLS[..], &["--output", "json"]].concat()));
    let created = create.ended_with(0).said("vch.example does not resolve to").json();
    assert_eq!(created["docker_host"], "vch.example:2376", "the name that clients can verify");
    let leased = created["addresses"]["client"][0].as_str().unwrap().to_owned();
    assert!(leased.starts_with("192.168.120.") && !leased.starts_with(ADDRESS), "{leased}");
    let address = leased.split('/').next().unwrap();
    let file = |name: &str| stage.folder.path().join(NAME).join(name).display().to_string();
    let (resolve, ca, cert, key) =
        (format!("vch.example:2376:{address}"), file("ca.pem"), file("cert.pem"), file("key.pem"));
    let curl = ["exec", "--", "curl", "-sS", "--resolve", &resolve, "--cacert", &ca, "--cert", &cert, "--key", &key];
    let answer = lab.run(&[&curl[..], &["https://vch.example:2376/_ping"]].concat());
    assert_eq!(vic_tests::lab::text(&answer), "OK");
    stage.check_wire_log();
    stage.vic("delete", &["--name", NAME]).ended_with(0);
}
