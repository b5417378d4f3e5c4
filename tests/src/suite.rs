//! What holds on any vSphere: vic-machine's suites on a simulator and on the lab alike.

use std::net::TcpListener;

use crate::{Stage, cut, write_iso};

/// Name of the VCH in every suite: stages are apart.
pub const NAME: &str = "vch1";
/// The name in its certificate.
pub const TLS: [&str; 2] = ["--tls-cname", "vch.example"];

/// The plan names every step and nothing is changed.
pub fn a_dry_run_prints_the_plan_and_changes_nothing(stage: &Stage) {
    let before = stage.picture();
    let plan = stage.vic("create", &stage.create_args(NAME, &[&TLS[..], &["--dry-run"]].concat()));
    for part in ["VM folder", "vApp", "endpoint VM", "upload", "power on"] {
        assert!(plan.ended_with(0).stdout.contains(part), "{part}: {}", plan.stdout);
    }
    assert_eq!(stage.picture(), before);
    assert!(!stage.folder.path().join(NAME).exists(), "no certificates are written");
    stage.check_wire_log();
}

/// A wrong password, another certificate than the one expected, and nobody there.
pub fn login_and_trust_failures_are_told_apart(stage: &Stage) {
    let wrong = Stage { password: "not-it".into(), ..stage.beside() };
    wrong.vic("ls", &[]).ended_with(4).said("InvalidLogin").said("check --user and --password");

    let other = "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33";
    let refused = stage.vic("ls", &["--thumbprint", other]);
    refused.ended_with(4).said(other).said(&stage.thumbprint).said("subject: ");
    refused.said("issuer:").said("valid:").said("thumbprint does not match");

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = stage.vic("ls", &["--target", &format!("https://{free}")]);
    unreachable.ended_with(1).said("cannot reach").said("check that");
    stage.check_wire_log();
}

/// Datacenter, cluster, datastore and networks that are not there: what is there is named, all problems at once.
pub fn names_that_stand_for_nothing_get_suggestions(stage: &Stage) {
    let before = stage.picture();
    let place = &stage.place;
    let with = |compute: &str, store: &str, bridge: &str, more: &[&str]| {
        let place = ["-r", compute, "-i", store, "-b", bridge];
        stage.vic("create", &[&TLS[..], &place, more].concat())
    };
    let (compute, store, bridge) = (place.compute, place.store, place.bridge);
    let dc = format!("{}/nope", stage.target);
    with(compute, store, bridge, &["--target", &dc])
        .ended_with(3)
        .said("Datacenter \"nope\" in --target is not found")
        .said(place.datacenter);
    with("nope", store, bridge, &[]).ended_with(3).said(compute);
    with(compute, "nope", bridge, &[]).ended_with(3).said(&format!("Suggested values for --image-store: {store}"));
    with(compute, store, "nope", &[]).ended_with(3).said("network 'nope' not found").said(bridge);
    with(compute, store, bridge, &["--public-network", "x"]).ended_with(3).said("network 'x' not found");
    with(compute, "nope", "nope", &[]).ended_with(3).said("image-store").said("bridge-network").said("2 problems");
    assert_eq!(stage.picture(), before);
    stage.check_wire_log();
}

/// Names, options and images that cannot be used.
pub fn bad_values_are_refused_before_anything_is_asked(stage: &Stage) {
    let with = |name: &str, args: &[&str]| stage.vic("create", &stage.create_args(name, &[&TLS[..], args].concat()));
    with(&"x".repeat(32), &[]).ended_with(3).said("exceeds the permitted 31 characters limit");
    with("a/b", &[]).ended_with(3).said("contains '/'");
    with(NAME, &["--appliance-iso", "missing.iso"]).ended_with(3).said("missing.iso cannot be read");
    let iso = stage.folder.path().join("old.iso");
    write_iso(&iso, "0.0.1", 1 << 20);
    with(NAME, &["--appliance-iso", "old.iso"]).ended_with(3).said("is of version \"0.0.1\"");
    std::fs::File::options().write(true).open(&iso).unwrap().set_len(1 << 19).unwrap();
    with(NAME, &["--appliance-iso", "old.iso"]).ended_with(3).said("is truncated");
    let pair = |name: &str, days: i64| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["vch.example".to_owned()]).unwrap();
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days);
        params.not_before = params.not_after - time::Duration::days(9);
        let path = |kind: &str| stage.folder.path().join(format!("{name}.{kind}"));
        std::fs::write(path("crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
    };
    pair("late", -1);
    pair("good", 1);
    let files = |cert: &str, key: &str| with(NAME, &["--tls-server-cert", cert, "--tls-server-key", key]);
    files("late.crt", "late.key").ended_with(3).said("has expired");
    files("good.crt", "late.key").ended_with(3).said("do not belong together");
    files("good.key", "good.crt").ended_with(3).said("PEM inputs may have been switched");
    with(NAME, &["--vsphere-address", "a b"]).ended_with(3).said("--vsphere-address \"a b\" cannot be used");
    with(NAME, &["--vsphere-address", "user@host/path"]).ended_with(3).said("it is no HOST[:PORT]");
    let lost = Stage { inside: String::new(), ..stage.beside() };
    lost.vic("create", &lost.create_args(NAME, &TLS)).ended_with(3).said("the VCH cannot reach vSphere at 127.0.0.1");
    with(NAME, &["--no-such-option"]).ended_with(2);
    with(NAME, &["stray"]).ended_with(2);
    stage.vic("create", &stage.create_args(NAME, &[])).ended_with(3).said("provide Common Name");
}

/// Ctrl-C, once in each stage of create.  The guest must take longer to come up than Ctrl-C to arrive.
pub fn ctrl_c_at_any_stage_leaves_nothing(stage: &Stage) {
    let before = stage.picture();
    for step in [
        "create VM folder",
        "create vApp",
        "create endpoint VM",
        "upload",
        "attach the ISO",
        "power on",
        "wait for the appliance",
    ] {
        let mut create = stage.start("create", &stage.create_args(NAME, &TLS));
        create.wait_for(step);
        create.signal(libc::SIGINT);
        create.finish().ended_with(1).said("interrupted by Ctrl-C");
        assert_eq!(stage.picture(), before, "after Ctrl-C at {step:?}");
    }
    stage.check_wire_log();
}

/// The target goes away in the middle of the upload.
pub fn a_target_that_dies_in_the_upload_is_told_and_delete_finishes_the_job(stage: &Stage) {
    let before = stage.inventory();
    write_iso(&stage.folder.path().join("appliance.iso"), env!("CARGO_PKG_VERSION"), 32 << 20);
    let real = stage.target.trim_start_matches("https://").parse().unwrap();
    let flaky = format!("https://{}", cut::relay(real, 8 << 20));
    let args = stage.create_args(NAME, &[&TLS[..], &["--target", &flaky]].concat());
    stage.vic("create", &args).ended_with(1).said("cannot upload").said("run vic-machine delete");
    // Its session could not be closed: the way was cut.
    let left = stage.picture();
    assert!(left.iter().any(|l| l == "VirtualMachine vch1"), "{left:?}");
    stage.vic("delete", &["--name", NAME]).ended_with(0);
    assert_eq!(stage.inventory(), before);
    stage.check_wire_log();
}
