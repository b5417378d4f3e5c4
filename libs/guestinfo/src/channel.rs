//! [`Channel`]: the guest's end of RPCI, whatever carries it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    backdoor,
    serial::{self, Serial, Timing},
    tclo::{HostRequest, Responder},
};

/// The lab's carrier: the third serial port.
pub const SERIAL_PATH: &str = "/dev/ttyS2";

/// Why a key could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The serial port cannot be opened.
    #[error("cannot open {path}, the serial port that carries guestinfo outside VMware; is it a lab guest?")]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The host did not answer in time.
    #[error("the host did not answer {request:?} within {waited:?}; is the lab's daemon running?")]
    Timeout {
        /// The request, up to its key: never a value.
        request: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The host refused the request.
    #[error("the host refused {request:?}: {reason}")]
    Refused {
        /// The request, up to its key: never a value.
        request: String,
        /// The host's words.
        reason: String,
    },
    /// The answer is not what RPCI prescribes.
    #[error("the host's answer to {request:?} is not valid: {reason}")]
    Protocol {
        /// The request, up to its key: never a value.
        request: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The key or value cannot be carried.
    #[error("{key:?} cannot be carried: {reason}")]
    Unsendable {
        /// The key.
        key: String,
        /// Why not.
        reason: &'static str,
    },
}

/// Carries one request to the host and its raw answer back.
pub trait Carrier: Send + Sync {
    /// Sends `request` and waits for the answer, status digit included.
    ///
    /// # Errors
    /// [`Error::Timeout`] or [`Error::Protocol`]; a refusal is an answer, not an error here.
    fn call(&self, request: &[u8]) -> Result<Vec<u8>, Error>;
}

/// Which carrier to use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Selection {
    /// The backdoor when CPUID says VMware, else the serial port.
    #[default]
    ByCpuid,
    /// The backdoor, whatever CPUID says.
    Backdoor,
    /// The serial port, whatever CPUID says.
    Serial,
}

/// How to open a [`Channel`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Which carrier.
    pub selection: Selection,
    /// The serial port.
    pub serial_path: PathBuf,
    /// Time limits of the serial carrier.
    pub timing: Timing,
}

impl Default for Options {
    fn default() -> Self {
        Self { selection: Selection::default(), serial_path: SERIAL_PATH.into(), timing: Timing::default() }
    }
}

/// The guest's end of RPCI.  Cheap to clone; calls block, and may come from several threads.
#[derive(Clone)]
pub struct Channel {
    carrier: Arc<dyn Carrier>,
    name: &'static str,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("carrier", &self.name).finish_non_exhaustive()
    }
}

impl Channel {
    /// Opens the channel and starts answering the host.  `on_request` runs on the channel's own thread.
    ///
    /// # Errors
    /// [`Error::Open`] when the serial port is to be used and cannot be opened.
    pub fn open(options: &Options, on_request: impl Fn(HostRequest) + Send + 'static) -> Result<Self, Error> {
        let vmware = match options.selection {
            Selection::ByCpuid => backdoor::is_vmware(),
            Selection::Backdoor => true,
            Selection::Serial => false,
        };
        if vmware {
            let channel = Self { carrier: Arc::new(backdoor::Rpci::new()), name: "VMware backdoor" };
            let responder = Responder::new(Arc::clone(&channel.carrier), on_request);
            backdoor::answer_host(responder);
            Ok(channel)
        } else {
            let (reader, writer) = serial::open(&options.serial_path)?;
            Ok(Self::over_serial(reader, writer, options.timing, on_request))
        }
    }

    /// A channel over an open byte stream that speaks [`crate::wire`].
    pub fn over_serial(
        reader: impl std::io::Read + Send + 'static,
        writer: impl std::io::Write + Send + 'static,
        timing: Timing,
        on_request: impl Fn(HostRequest) + Send + 'static,
    ) -> Self {
        let (serial, requests) = Serial::start(reader, writer, timing);
        let carrier: Arc<dyn Carrier> = Arc::new(serial.clone());
        serial.answer_host(requests, Responder::new(Arc::clone(&carrier), on_request));
        Self { carrier, name: "serial port" }
    }

    /// What carries the requests, for messages.
    pub fn carrier_name(&self) -> &'static str {
        self.name
    }

    /// Sends any RPCI request; returns the text after the status.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn request(&self, request: &str) -> Result<String, Error> {
        call(&*self.carrier, request)
    }

    /// The value of `key` (`guestinfo.` included), `None` when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get(&self, key: &str) -> Result<Option<String>, Error> {
        check_key(key)?;
        match self.request(&format!("info-get {key}")) {
            Ok(value) => Ok(Some(value)),
            // VMware says "No value found"; some versions just "No value".
            Err(Error::Refused { reason, .. }) if reason.to_ascii_lowercase().starts_with("no value") => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set(&self, key: &str, value: &str) -> Result<(), Error> {
        check_key(key)?;
        if value.contains('\0') {
            return Err(Error::Unsendable { key: key.into(), reason: "its value contains a NUL character" });
        }
        self.request(&format!("info-set {key} {value}")).map(drop)
    }

    /// Tells vSphere the guest's IPv4 or IPv6 address, which it shows as `guest.ipAddress`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn report_address(&self, address: std::net::IpAddr) -> Result<(), Error> {
        self.set("guestinfo.ip", &address.to_string())
    }

    /// Tells vSphere the guest's host name.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn report_host_name(&self, name: &str) -> Result<(), Error> {
        self.request(&crate::tclo::guest_info(crate::tclo::GuestInfo::DnsName, name)).map(drop)
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::Unsendable { key: key.into(), reason: "a key is one word" });
    }
    Ok(())
}

/// The request as it may be shown: its verb and key.
pub(crate) fn shown(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// One request over `carrier`, its status taken off.
pub(crate) fn call(carrier: &dyn Carrier, request: &str) -> Result<String, Error> {
    let answer = carrier.call(request.as_bytes())?;
    // "1 VALUE", "1", "0 REASON"; a carrier pads with NULs at times.
    let text = String::from_utf8_lossy(&answer);
    let text = text.trim_end_matches('\0');
    let body = |rest: &str| rest.strip_prefix(' ').unwrap_or(rest).to_owned();
    if let Some(rest) = text.strip_prefix('1') {
        Ok(body(rest))
    } else if let Some(rest) = text.strip_prefix('0') {
        Err(Error::Refused { request: shown(request.as_bytes()), reason: body(rest) })
    } else {
        Err(Error::Protocol { request: shown(request.as_bytes()), reason: "it starts with neither 0 nor 1" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Canned(Vec<u8>);
    impl Carrier for Canned {
        fn call(&self, _: &[u8]) -> Result<Vec<u8>, Error> {
            Ok(self.0.clone())
        }
    }

    fn channel(answer: &[u8]) -> Channel {
        Channel { carrier: Arc::new(Canned(answer.to_vec())), name: "canned" }
    }

    #[test]
    fn a_missing_key_is_none_and_an_empty_one_is_empty() {
        assert_eq!(channel(b"0 No value found").get("guestinfo.x").unwrap(), None);
        assert_eq!(channel(b"1 ").get("guestinfo.x").unwrap().as_deref(), Some(""));
        assert_eq!(channel(b"1").get("guestinfo.x").unwrap().as_deref(), Some(""));
        assert_eq!(channel(b"1 a b").get("guestinfo.x").unwrap().as_deref(), Some("a b"));
    }

    #[test]
    fn a_refusal_shows_the_key_and_never_the_value() {
        let error = channel(b"0 Permission denied").set("guestinfo.vic.secrets", "hunter2").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("guestinfo.vic.secrets") && text.contains("Permission denied"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_key_is_one_word() {
        for key in ["", "a b", "a\nb"] {
            assert!(matches!(channel(b"1 ").get(key), Err(Error::Unsendable { .. })), "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = channel(&answer).get("guestinfo.x");
        }
    }
}
