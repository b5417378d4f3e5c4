//! The codec and the schema tables, seen from outside.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers")]

use proptest::prelude::*;
use vim25_types::soap::{self, Body};
use vim25_types::xml::{Element, XmlError};
use vim25_types::{methods, schema, *};

fn vm() -> ManagedObjectReference {
    ManagedObjectReference::new("VirtualMachine", "vm-7")
}

fn reconfigure() -> methods::ReconfigVMTask {
    let disk = VirtualDisk {
        base: VirtualDevice { key: -1, controller_key: Some(1000), unit_number: Some(0), ..Default::default() },
        capacity_in_kb: 8_000_000,
        ..Default::default()
    };
    let change = VirtualDeviceConfigSpec {
        operation: Some(VirtualDeviceConfigSpecOperation::Add),
        device: disk.into(),
        ..Default::default()
    };
    let option =
        OptionValue { key: "guestinfo.vic.config".into(), value: Some(AnyValue::of(&"{\"a\":\"<&>\"}".to_owned())) };
    let spec = VirtualMachineConfigSpec {
        name: Some("vch".into()),
        device_change: vec![change],
        extra_config: vec![option],
        ..Default::default()
    };
    methods::ReconfigVMTask { this: vm(), spec }
}

fn body(envelope: &str) -> Element {
    match soap::open(envelope).unwrap() {
        Body::Call(el) => el,
        Body::Fault(f) => panic!("a fault: {f:?}"),
    }
}

#[test]
fn a_request_comes_back_as_it_was_sent() {
    let sent = reconfigure();
    let el = body(&soap::request(&sent));
    assert_eq!(el.name, "ReconfigVM_Task");
    let got = methods::ReconfigVMTask::decode_params(vm(), &el).unwrap();
    assert_eq!(got, sent);
    assert_eq!(got.spec.device_change[0].device.controller_key, Some(1000), "base fields are reached through any type");
}

#[test]
fn a_type_of_a_newer_version_keeps_its_name_and_its_common_fields() {
    let xml = r#"<device xsi:type="VirtualQuantumLink"><key>9</key><qubits>3</qubits></device>"#;
    let device = AnyVirtualDevice::decode(&Element::parse(xml).unwrap()).unwrap();
    assert_eq!(device.type_name(), "VirtualQuantumLink");
    assert_eq!(device.key, 9);
}

#[test]
fn a_fault_is_typed_and_keeps_its_message() {
    let fault = soap::Fault::new(DuplicateName { name: "vch".into(), ..Default::default() }, "The name 'vch' exists.");
    match soap::open(&soap::fault(&fault)).unwrap() {
        Body::Fault(got) => assert_eq!(*got, fault),
        Body::Call(el) => panic!("a call: {el:?}"),
    }
}

#[test]
fn the_schema_accepts_what_the_codec_writes() {
    let el = body(&soap::request(&reconfigure()));
    assert_eq!(schema::violation(schema::method("ReconfigVM_Task").unwrap(), &el), None);
}

#[test]
fn the_schema_refuses_what_vsphere_refuses() {
    let method = schema::method("ReconfigVM_Task").unwrap();
    let this = r#"<_this type="VirtualMachine">vm-7</_this>"#;
    for (request, complaint) in [
        (format!("{this}<spec><numCPUs>1</numCPUs><name>x</name></spec>"), "out of order"),
        (format!("{this}<spec><nam>x</nam></spec>"), "unknown element"),
        (format!("{this}<spec><numCPUs>one</numCPUs></spec>"), "is no int"),
        (format!("{this}<spec><name>x</name><name>y</name></spec>"), "repeated"),
        (this.to_owned(), "required, and missing"),
        (format!("<spec/>{this}"), "_this is missing or not first"),
        (
            format!(r#"{this}<spec><deviceChange><operation>implode</operation></deviceChange></spec>"#),
            "is no VirtualDevice",
        ),
        (format!(r#"{this}<spec><extraConfig><key>k</key><value>v</value></extraConfig></spec>"#), "without xsi:type"),
        (format!(r#"{this}<spec><files xsi:type="VirtualDisk"/></spec>"#), "is no VirtualMachineFileInfo"),
    ] {
        let el = Element::parse(&format!("<ReconfigVM_Task>{request}</ReconfigVM_Task>")).unwrap();
        let found = schema::violation(method, &el).unwrap_or_default();
        assert!(found.contains(complaint), "{request}: expected {complaint:?}, found {found:?}");
    }
}

#[test]
fn documents_nested_too_deeply_or_cut_off_are_refused() {
    let deep = "<a>".repeat(101) + &"</a>".repeat(101);
    assert_eq!(Element::parse(&deep), Err(XmlError::TooDeep));
    assert!(matches!(Element::parse("<a><b/>"), Err(XmlError::Incomplete | XmlError::Syntax { .. })));
}

proptest! {
    #[test]
    fn any_text_that_xml_can_carry_survives(text in "[\\t\\n\\r -\u{d7ff}\u{e000}-\u{fffd}]*") {
        let mut xml = String::new();
        Element::with_text("a", &text).write(&mut xml);
        prop_assert_eq!(Element::parse(&xml).unwrap().text, text);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".*") {
        let _ = soap::open(&text);
    }
}
