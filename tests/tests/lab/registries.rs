//! A registry that is not for everybody, nor in everybody's reach, from a VCH with real guests and the docker client.

use std::net::IpAddr;
use std::process::Output;

use registry_server::tarball::{Tarball, gzip};
use registry_server::{Served, Setup, installed};
use vic_tests::block_on;
use vic_tests::lab::{ADDRESS, Lab, text};
use vic_tests::suite::NAME;
use vic_tests::vch::{PROXY, REGISTRY, inside_as, proxy};

/// Only the proxy resolves it: the same registry.
const FAR: &str = "registry.test";

#[test]
fn a_registry_with_a_private_ca_a_password_and_a_proxy_before_it_is_the_only_one_that_is_asked() {
    if !installed() {
        return;
    }
    let lab = Lab::up(&[]);
    let stage = &lab.stage;
    let served = Served::start();
    let layer = Tarball::new().file("f", b"1").bytes();
    block_on(served.push("app:1", &[(gzip(&layer), &layer[..])]));

    let at = |name: &str| stage.folder.path().join(name);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    std::fs::write(at("registry-ca.crt"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let host: IpAddr = REGISTRY.split(':').next().unwrap().parse().unwrap();
    let near = host.to_string();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![near.clone(), FAR.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(ca, &ca_key)).unwrap();
    let tls = (at("registry.crt"), at("registry.key"));
    std::fs::write(&tls.0, leaf.pem()).unwrap();
    std::fs::write(&tls.1, key.serialize_pem()).unwrap();

    let ip = format!("{ADDRESS}/24");
    let network = ["--public-network-ip", &ip, "--public-network-gateway", "192.168.120.1"];
    let far = format!("{FAR}:5000");
    let registry = ["--registry-ca", "registry-ca.crt", "--whitelist-registry", REGISTRY, "--whitelist-registry", &far];
    // Planted: it must be seen nowhere.
    let by = format!("http://eve:{}@{PROXY}", stage.password);
    let proxies = ["--https-proxy", &by, "--http-proxy", "http://proxy.test:8080", "--no-proxy", &near];
    stage.vic("create", &stage.create_args(NAME, &[&network[..], &registry, &proxies].concat())).ended_with(0);
    let _serving = inside_as(&lab, &served, &Setup { tls: Some(tls), auth: Some(served.for_ann()) });
    let _proxy = proxy(&lab, FAR, "eve", &stage.password);

    // A configuration of its own: logins are written there.
    let docker = |args: &[&str]| -> Output {
        let mut command = lab.docker_command(&at(NAME), args);
        command.env("DOCKER_CONFIG", at("docker")).output().unwrap()
    };
    let refused = |args: &[&str]| {
        let output = docker(args);
        assert!(!output.status.success(), "docker {args:?}: {}", text(&output));
        text(&output)
    };
    let image = format!("{REGISTRY}/app:1");
    let said = refused(&["pull", &image]);
    assert!(said.contains("may require 'docker login'"), "{said}");
    let said = refused(&["login", "-u", "ann", "-p", "wrong", REGISTRY]);
    assert!(said.contains("login attempt to") || said.contains("unauthorized"), "{said}");
    let said = refused(&["pull", "other.test:5000/app:1"]);
    assert!(
        said.contains("Access denied to unauthorized registry (other.test:5000) while VCH is in whitelist mode"),
        "{said}"
    );
    let output = docker(&["login", "-u", "ann", "-p", "secret1", REGISTRY]);
    assert!(text(&output).contains("Login Succeeded"), "{}", text(&output));
    let output = docker(&["pull", &image]);
    assert!(text(&output).contains("Status: Downloaded newer image"), "{}", text(&output));

    let asked = || std::fs::read_to_string(lab.folder().join("proxy.log")).unwrap();
    assert!(!asked().contains(": CONNECT "), "the near registry was reached by the proxy: {}", asked());
    let output = docker(&["login", "-u", "ann", "-p", "secret1", &far]);
    assert!(text(&output).contains("Login Succeeded"), "{}", text(&output));
    let output = docker(&["pull", &format!("{far}/app:1")]);
    assert!(text(&output).contains("Status: Downloaded newer image"), "{}", text(&output));
    assert!(asked().contains(&format!(": CONNECT {far} ")), "{}", asked());
    let output = docker(&["info", "--format", "{{.HTTPSProxy}} {{.HTTPProxy}} {{.NoProxy}}"]);
    let shown = format!("http://xxxxx:xxxxx@{PROXY} http://proxy.test:8080 {near}");
    assert_eq!(text(&output).trim(), shown);
    stage.check_wire_log();
    stage.vic("delete", &["--name", NAME]).ended_with(0);
}
