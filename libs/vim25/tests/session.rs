//! A session that goes, on a vSphere that answers as it is told to: what the lab and govmomi's simulator do not do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says how it fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use secret::Secret;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use vim25::trust::Trust;
use vim25::types::soap::{self, Fault};
use vim25::types::{
    InvalidLogin, ManagedObjectReference, Method, NotAuthenticated, ServiceContent, UserSession, methods,
};
use vim25::{Credentials, Error, Options, Session};

const DEADLINE: Duration = Duration::from_secs(20);

/// An envelope, and the session that its header sets.
struct Answer {
    text: String,
    cookie: Option<&'static str>,
}

impl Answer {
    fn of<M: Method>(result: &M::Response) -> Self {
        Self { text: soap::response::<M>(result), cookie: None }
    }

    fn fault(fault: &Fault) -> Self {
        Self { text: soap::fault(fault), cookie: None }
    }

    /// A response as vSphere writes it, with this inside.
    fn recorded(method: &str, inside: &str) -> Self {
        let text = format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsd="http://www.w3.org/2001/XMLSchema"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>
<{method}Response xmlns="urn:vim25"><returnval>{inside}</returnval></{method}Response>
</soapenv:Body></soapenv:Envelope>"#
        );
        Self { text, cookie: None }
    }

    fn with_cookie(mut self, cookie: &'static str) -> Self {
        self.cookie = Some(cookie);
        self
    }
}

fn not_authenticated() -> Answer {
    Answer::fault(&Fault::new(NotAuthenticated::default(), "The session is not authenticated."))
}

/// The property `name` is missing because of this fault.
fn missing(fault: &str) -> String {
    format!(
        r#"<missingSet><path>name</path><fault><fault xsi:type="{fault}"><object type="Folder">group-d1</object>
<privilegeId>System.View</privilegeId></fault><localizedMessage>It is missing.</localizedMessage></fault></missingSet>"#
    )
}

/// A page with one object: its `name`, or the fault because of which that is missing.
fn page(method: &str, token: Option<&str>, vm: &str, name: Result<&str, &str>) -> Answer {
    let token = token.map(|t| format!("<token>{t}</token>")).unwrap_or_default();
    let property = match name {
        Ok(name) => format!(r#"<propSet><name>name</name><val xsi:type="xsd:string">{name}</val></propSet>"#),
        Err(fault) => missing(fault),
    };
    let object = format!(r#"<objects><obj type="VirtualMachine">{vm}</obj>{property}</objects>"#);
    Answer::recorded(method, &format!("{token}{object}"))
}

/// What was called, oldest first: the method, and the session of the caller.
type Calls = Arc<Mutex<Vec<(String, String)>>>;

/// A session on a vSphere that answers by `script` (method, session of the caller); logins it answers by itself, with the sessions
/// `s1`, `s2`, ... unless the script does.
async fn session(script: impl Fn(&str, &str) -> Option<Answer> + Send + 'static) -> (Session, Calls) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let calls = Calls::default();
    let seen = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (method, caller) = read(&mut stream).await;
            let logins = {
                let mut calls = seen.lock().unwrap();
                calls.push((method.clone(), caller.clone()));
                calls.iter().filter(|(method, _)| method == "Login").count()
            };
            let moref = |kind: &str| ManagedObjectReference::new(kind, kind);
            let answer = match (script(&method, &caller), method.as_str()) {
                (Some(answer), _) => answer,
                (None, "RetrieveServiceContent") => Answer::of::<methods::RetrieveServiceContent>(&ServiceContent {
                    property_collector: moref("PropertyCollector"),
                    session_manager: Some(moref("SessionManager")),
                    view_manager: Some(moref("ViewManager")),
                    ..ServiceContent::default()
                }),
                (None, "Login") => {
                    Answer::of::<methods::Login>(&UserSession::default()).with_cookie(["s1", "s2", "s3"][logins - 1])
                }
                (None, "CreatePropertyCollector") => {
                    Answer::of::<methods::CreatePropertyCollector>(&moref("OwnCollector"))
                }
                (None, "CreateFilter") => Answer::of::<methods::CreateFilter>(&moref("Filter")),
                (None, other) => panic!("the script has no {other} of {caller:?}"),
            };
            write(&mut stream, answer).await;
        }
    });
    let options = Options {
        target: target.parse().unwrap(),
        credentials: Credentials { user: "me".into(), password: Secret::new("planted") },
        trust: Trust::System,
        user_agent: "test".into(),
        deadline: DEADLINE,
    };
    (Session::connect(options).await.unwrap(), calls)
}

/// The method that a request calls, and its session.
async fn read(stream: &mut TcpStream) -> (String, String) {
    let mut stream = BufReader::new(stream);
    let (mut length, mut caller) = (0, String::new());
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            // The request line has no such thing, and neither has the head's end.
            if line.trim().is_empty() { break } else { continue }
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "cookie" => caller = value.trim_start_matches("vmware_soap_session=").to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    match soap::open(std::str::from_utf8(&body).unwrap()).unwrap() {
        soap::Body::Call(call) => (call.name, caller),
        soap::Body::Fault(fault) => panic!("{fault:?} is no request"),
    }
}

async fn write(stream: &mut TcpStream, answer: Answer) {
    let status = if answer.text.contains("soapenv:Fault") { "500 Internal Server Error" } else { "200 OK" };
    let cookie = answer.cookie.map(|c| format!("Set-Cookie: vmware_soap_session={c}; Path=/\r\n")).unwrap_or_default();
    let (length, text) = (answer.text.len(), answer.text);
    let all = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{cookie}Content-Length: {length}\r\n\r\n{text}");
    stream.write_all(all.as_bytes()).await.unwrap();
}

fn vm(id: &str) -> ManagedObjectReference {
    ManagedObjectReference::new("VirtualMachine", id)
}

/// What was called after the first login, each as `method session`.
fn after_login(calls: &Calls) -> Vec<String> {
    calls.lock().unwrap().iter().skip(2).map(|(method, caller)| format!("{method} {caller}")).collect()
}

/// A read whose first answer is `refused` logs in and reads once more.
async fn is_read_in_another_session(refused: impl Fn() -> Answer + Send + Sync + 'static) {
    let (session, calls) = session(move |method, caller| match (method, caller) {
        ("RetrievePropertiesEx", "s2") => Some(page(method, None, "vm-1", Ok("one"))),
        ("RetrievePropertiesEx", _) => Some(refused()),
        _ => None,
    })
    .await;
    let read = session.read(&vm("vm-1"), &["name"]).await.unwrap();
    assert_eq!(read.require::<String>("name").unwrap(), "one");
    assert_eq!(after_login(&calls), ["RetrievePropertiesEx s1", "Login s1", "RetrievePropertiesEx s2"]);
}

#[tokio::test]
async fn properties_that_are_missing_for_want_of_a_session_are_read_again_in_another() {
    is_read_in_another_session(|| page("RetrievePropertiesEx", None, "vm-1", Err("NotAuthenticated"))).await;
}

#[tokio::test]
async fn a_page_of_a_session_that_has_gone_is_asked_for_from_the_first_one_on() {
    let (session, calls) = session(|method, caller| match (method, caller) {
        ("RetrievePropertiesEx", _) => Some(page(method, Some("more"), "vm-1", Ok("one"))),
        ("ContinueRetrievePropertiesEx", "s1") => Some(page(method, None, "vm-2", Err("NotAuthenticated"))),
        ("ContinueRetrievePropertiesEx", _) => Some(page(method, None, "vm-2", Ok("two"))),
        _ => None,
    })
    .await;
    let read = session.read_all(&[vm("vm-1"), vm("vm-2")], &["name"]).await.unwrap();
    let names: Vec<String> = read.iter().map(|o| o.require("name").unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    let again = ["RetrievePropertiesEx s2", "ContinueRetrievePropertiesEx s2"];
    assert_eq!(
        after_login(&calls),
        [&["RetrievePropertiesEx s1", "ContinueRetrievePropertiesEx s1", "Login s1"][..], &again].concat()
    );
}

#[tokio::test]
async fn a_property_that_may_not_be_read_is_absent() {
    let (session, calls) = session(|method, _| {
        (method == "RetrievePropertiesEx").then(|| page(method, None, "vm-1", Err("NoPermission")))
    })
    .await;
    let read = session.read(&vm("vm-1"), &["name"]).await.unwrap();
    assert_eq!(read.get::<String>("name").unwrap(), None);
    assert_eq!(after_login(&calls), ["RetrievePropertiesEx s1"]);
}

#[tokio::test]
async fn updates_without_a_session_are_not_taken_for_a_state() {
    let (session, calls) = session(|method, caller| {
        let update = |property: &str| {
            let object = format!(r#"<kind>enter</kind><obj type="VirtualMachine">vm-1</obj>{property}"#);
            let filter = r#"<filter type="Filter">Filter</filter>"#;
            let set = format!("<filterSet>{filter}<objectSet>{object}</objectSet></filterSet>");
            Some(Answer::recorded(method, &format!("<version>1</version>{set}")))
        };
        let name = r#"<changeSet><name>name</name><op>assign</op><val xsi:type="xsd:string">one</val></changeSet>"#;
        match (method, caller) {
            ("WaitForUpdatesEx", "s1") => update(&missing("NotAuthenticated")),
            ("WaitForUpdatesEx", _) => update(name),
            _ => None,
        }
    })
    .await;
    let vm = vm("vm-1");
    let mut watch = session.watch(&vm, &["name"]).await.unwrap();
    let first = watch.until(&vm, |state| Ok::<_, Error>(Some(state.get::<String>("name")?)));
    let first = tokio::time::timeout(DEADLINE, first).await.unwrap().unwrap();
    assert_eq!(first.as_deref(), Some("one"));
    let waits = ["CreatePropertyCollector s1", "CreateFilter s1", "WaitForUpdatesEx s1", "Login s1"];
    assert_eq!(after_login(&calls)[..4], waits);
}

#[tokio::test]
async fn a_cookie_that_comes_with_a_fault_is_no_login() {
    is_read_in_another_session(|| not_authenticated().with_cookie("nobody")).await;
}

#[tokio::test]
async fn a_login_that_was_refused_is_not_tried_again_by_any_call_or_watch() {
    let (session, calls) = session(|method, caller| match (method, caller) {
        // The first one comes without a session.
        ("Login", "s1") => Some(Answer::fault(&Fault::new(InvalidLogin::default(), "Cannot complete login."))),
        ("RetrieveServiceContent" | "Login", _) => None,
        _ => Some(not_authenticated()),
    })
    .await;
    assert!(session.refusal().is_none());
    let mut watch = session.watch(&vm("vm-1"), &["name"]).await.unwrap();
    let (watched, read) = tokio::time::timeout(DEADLINE, async {
        tokio::join!(
            watch.next(),
            futures_util::future::join_all(
                (0..3).map(|_| async { session.read(&vm("vm-1"), &["name"]).await.unwrap_err() })
            )
        )
    })
    .await
    .unwrap();
    let told = watched.unwrap_err().to_string();
    assert!(told.contains("InvalidLogin: Cannot complete login."), "{told}");
    for error in read {
        assert!(error.is_refused_login(), "{error}");
    }
    assert!(session.refusal().unwrap().is_refused_login());
    assert!(session.read(&vm("vm-1"), &["name"]).await.unwrap_err().is_refused_login());
    let logins = after_login(&calls).iter().filter(|call| call.starts_with("Login")).count();
    assert_eq!(logins, 1, "{calls:?}");
}
