//! `VIC_WIRE_LOG=DIR`: each request and response as a file, secrets masked.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use vim25_types::soap::{self, Body};
use vim25_types::xml::Element;

/// Numbers the files of all sessions of this process in the order of their calls.
static NEXT: AtomicU32 = AtomicU32::new(1);

/// Where to write, if anywhere.
#[derive(Debug, Clone)]
pub(crate) struct WireLog(Option<PathBuf>);

impl WireLog {
    /// As the environment says.
    pub(crate) fn from_env() -> Self {
        Self(std::env::var_os("VIC_WIRE_LOG").filter(|v| !v.is_empty()).map(PathBuf::from))
    }

    /// A number for one exchange.
    pub(crate) fn next(&self) -> u32 {
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes one envelope; `what` is `Method-request` or `Method-response`.  A log that cannot be written hinders nothing.
    pub(crate) fn write(&self, number: u32, what: &str, envelope: &str) {
        let Some(dir) = &self.0 else { return };
        let masked = match soap::open(envelope) {
            Ok(Body::Call(mut el)) => {
                mask(&mut el);
                soap::envelope(&el)
            }
            Ok(Body::Fault(f)) => soap::fault(&f),
            Err(e) => format!("<!-- not a SOAP envelope: {e} -->"),
        };
        let _ = std::fs::create_dir_all(dir);
        // A file stands there whole or not at all, even when the process is killed.
        let path = dir.join(format!("{:08}-{number:05}-{what}.xml", std::process::id()));
        let aside = path.with_extension("part");
        let _ = std::fs::write(&aside, masked).and_then(|()| std::fs::rename(&aside, path));
    }
}

/// Replaces what must not be shown: passwords, session keys, tickets, and values of options whose key speaks of secrets.
fn mask(el: &mut Element) {
    if el.name == "AcquireGenericServiceTicketResponse" {
        let fields = el.children.iter_mut().flat_map(|ticket| &mut ticket.children);
        fields.filter(|f| f.name == "id").for_each(|id| secret::PLACEHOLDER.clone_into(&mut id.text));
    }
    mask_keys(&mut el.text);
    let secret_option = el.child("key").is_some_and(|k| k.text.contains("secret"));
    let login = el.name == "LoginResponse" || el.child("userName").is_some_and(|_| el.child("loginTime").is_some());
    for child in &mut el.children {
        let hide =
            child.name == "password" || (secret_option && child.name == "value") || (login && child.name == "key");
        if hide && child.children.is_empty() {
            secret::PLACEHOLDER.clone_into(&mut child.text);
        } else {
            mask(child);
        }
    }
}

/// Replaces private keys in PEM (RFC 7468), which documents within an option's value may hold.
fn mask_keys(text: &mut String) {
    const KEY: &str = "PRIVATE KEY-----";
    let mut from = 0;
    while let Some(begin) = text[from..].find(KEY).map(|at| from + at + KEY.len()) {
        // Up to the dashes of its end, or all that there is.
        let end = text[begin..].find("-----").map_or(text.len(), |at| begin + at);
        text.replace_range(begin..end, secret::PLACEHOLDER);
        let rest = begin + secret::PLACEHOLDER.len();
        from = text[rest..].find(KEY).map_or(text.len(), |at| rest + at + KEY.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_masked() {
        let answer = "<AcquireGenericServiceTicketResponse><returnval><id>planted</id><hostName>esx1</hostName></returnval>\
                      </AcquireGenericServiceTicketResponse>";
        let mut el = Element::parse(answer).unwrap();
        mask(&mut el);
        let mut out = String::new();
        el.write(&mut out);
        assert!(!out.contains("planted") && out.contains("esx1"), "{out}");
    }

    #[test]
    fn passwords_and_secret_options_are_masked_and_nothing_else() {
        let mut el = Element::parse(
            "<R><password>p1</password><o><key>guestinfo.vic.secrets</key><value>p2</value></o>\
             <o><key>guestinfo.vic.config</key><value>kept</value></o>\
             <o><key>guestinfo.vic.container</key><value>-----BEGIN PRIVATE KEY-----\\np3\\n-----END PRIVATE KEY-----, more</value></o></R>",
        )
        .unwrap();
        mask(&mut el);
        let mut out = String::new();
        el.write(&mut out);
        assert!(["p1", "p2", "p3"].iter().all(|planted| !out.contains(planted)), "{out}");
        assert!(out.contains("kept") && out.contains("END PRIVATE KEY-----, more"), "{out}");
    }
}
