//! SOAP 1.1 envelopes and vim25 faults.

use crate::codec::{Method, Value};
use crate::generated::data::AnyMethodFault;
use crate::xml::{Element, XmlError};

/// The namespace of vim25.
pub const NAMESPACE: &str = "urn:vim25";

/// A fault as it came over the wire, or as a task reports it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The fault object; [`AnyMethodFault::Unknown`] keeps the name of a type that is not curated.
    pub detail: AnyMethodFault,
    /// The server's message.
    pub message: String,
}

impl Fault {
    /// A fault with a message.
    pub fn new(detail: impl Into<AnyMethodFault>, message: impl Into<String>) -> Self {
        Self { detail: detail.into(), message: message.into() }
    }

    /// Name of the fault's type, such as `DuplicateName`.
    pub fn type_name(&self) -> &str {
        self.detail.type_name()
    }
}

/// What a SOAP body holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// A request or a response: the element named after the method.
    Call(Element),
    /// A fault.
    Fault(Box<Fault>),
}

/// Wraps the body's content in an envelope.
pub fn envelope(body: &Element) -> String {
    let mut out = String::with_capacity(1024);
    out.push_str(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<soapenv:Envelope \
         xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>",
    );
    let mut content = String::new();
    body.write(&mut content);
    if body.name.starts_with("soapenv:") {
        out.push_str(&content);
    } else {
        // The namespace stands on the method's element, right after its name.
        out.push('<');
        out.push_str(&body.name);
        out.push_str(" xmlns=\"urn:vim25\"");
        out.push_str(&content[1 + body.name.len()..]);
    }
    out.push_str("</soapenv:Body></soapenv:Envelope>");
    out
}

/// The envelope of a request.
pub fn request<M: Method>(method: &M) -> String {
    let mut el = Element::new(M::NAME);
    el.children.push(method.this().encode("_this"));
    method.encode_params(&mut el.children);
    envelope(&el)
}

/// The envelope of a response.
pub fn response<M: Method>(result: &M::Response) -> String {
    let mut el = Element::new(format!("{}Response", M::NAME));
    M::encode_response(result, &mut el.children);
    envelope(&el)
}

/// The envelope of a fault.
pub fn fault(fault: &Fault) -> String {
    let mut el = Element::new("soapenv:Fault");
    el.children.push(Element::with_text("faultcode", "ServerFaultCode"));
    el.children.push(Element::with_text("faultstring", &fault.message));
    let mut detail = Element::new("detail");
    let mut inner = fault.detail.encode(&format!("{}Fault", fault.type_name()));
    inner.xsi_type = Some(fault.type_name().to_owned());
    detail.children.push(inner);
    el.children.push(detail);
    envelope(&el)
}

/// Opens an envelope.
///
/// # Errors
/// [`XmlError`] when it is not one.
pub fn open(text: &str) -> Result<Body, XmlError> {
    let bad = |reason: &str| XmlError::Syntax { position: 0, reason: reason.to_owned() };
    let envelope = Element::parse(text)?;
    if envelope.name != "Envelope" {
        return Err(bad("no SOAP envelope"));
    }
    let body = envelope.children.into_iter().find(|c| c.name == "Body").ok_or_else(|| bad("no SOAP body"))?;
    let content = body.children.into_iter().next().ok_or_else(|| bad("an empty SOAP body"))?;
    if content.name != "Fault" {
        return Ok(Body::Call(content));
    }
    let text = |name: &str| content.child(name).map(|c| c.text.clone()).unwrap_or_default();
    let detail = content.child("detail").and_then(|d| d.children.first());
    let detail = match detail {
        None => AnyMethodFault::Unknown { type_name: text("faultcode"), base: Default::default() },
        Some(el) => {
            let mut el = el.clone();
            // Some servers name the element only: `<InvalidLoginFault/>`.
            el.xsi_type.get_or_insert_with(|| el.name.strip_suffix("Fault").unwrap_or(&el.name).to_owned());
            let type_name = el.xsi_type.clone().unwrap_or_default();
            AnyMethodFault::decode(&el)
                .unwrap_or_else(|_| AnyMethodFault::Unknown { type_name, base: Default::default() })
        }
    };
    Ok(Body::Fault(Box::new(Fault { detail, message: text("faultstring") })))
}
