//! TCLO: what the host asks the guest, and the least that a guest answers for vSphere to show its tools as running.
//!
//! | request | answer | effect |
//! | --- | --- | --- |
//! | `reset` | `OK ATR toolbox` | the host starts anew |
//! | `ping` | `OK ` | |
//! | `Capabilities_Register` | `OK ` | the guest registers its capabilities and version over RPCI |
//! | `Set_Option ...` | `OK ` | none |
//! | `OS_Halt`, `OS_Reboot` | `OK ` | [`HostRequest`] to the owner |
//! | `OS_Suspend`, `OS_Resume`, `OS_PowerOn` | `OK ` | none: nothing in the guest has to prepare for them |
//! | anything else | `ERROR Unknown command` | |

use std::sync::Arc;

use crate::{Carrier, channel::call};

/// What the host wants the guest to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRequest {
    /// Stop and power off.
    Halt,
    /// Stop and start again.
    Reboot,
}

/// The tools' name for themselves: vSphere looks for it.
const APPLICATION: &str = "toolbox";

/// "Managed by the guest's own packages": vSphere then offers no upgrade.  Of VMware's `tools.set.versiontype`.
const VERSION_UNMANAGED: u32 = 2_147_483_647;

/// Kinds of `SetGuestInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuestInfo {
    /// Host name.
    DnsName = 1,
    /// Name of the operating system for people.
    OsNameFull = 5,
    /// Its short name in vSphere's list of guests.
    OsName = 6,
}

/// The request that reports one fact about the guest.
pub(crate) fn guest_info(kind: GuestInfo, value: &str) -> String {
    format!("SetGuestInfo  {} {value}", kind as u8)
}

/// The requests by which a guest says that its tools are there and what they can do.
pub(crate) fn registration() -> Vec<String> {
    vec![
        format!("vmx.capability.unified_loop {APPLICATION}"),
        "tools.capability.statechange ".into(),
        "tools.capability.softpowerop_retry ".into(),
        // 4: open-vm-tools type, which vSphere reports as guestToolsUnmanaged and running.
        format!("tools.set.versiontype {VERSION_UNMANAGED} 4"),
        format!("tools.set.version {VERSION_UNMANAGED}"),
        guest_info(GuestInfo::OsNameFull, "vSphere Integrated Containers (Linux)"),
        guest_info(GuestInfo::OsName, "other4xLinux64Guest"),
    ]
}

/// Answers the host.
pub(crate) struct Responder {
    rpci: Arc<dyn Carrier>,
    on_request: Box<dyn Fn(HostRequest) + Send>,
}

impl Responder {
    pub(crate) fn new(rpci: Arc<dyn Carrier>, on_request: impl Fn(HostRequest) + Send + 'static) -> Self {
        Self { rpci, on_request: Box::new(on_request) }
    }

    /// Acts upon one request; returns its answer and the RPCI requests that follow once the answer is sent.
    pub(crate) fn answer(&self, request: &[u8]) -> (Vec<u8>, Vec<String>) {
        let text = String::from_utf8_lossy(request);
        let text = text.trim_end_matches('\0');
        let ok = |then| (b"OK ".to_vec(), then);
        match text.split(' ').next().unwrap_or_default() {
            "reset" => (format!("OK ATR {APPLICATION}").into_bytes(), Vec::new()),
            "ping" | "Set_Option" | "OS_Suspend" | "OS_Resume" | "OS_PowerOn" => ok(Vec::new()),
            "Capabilities_Register" => ok(registration()),
            "OS_Halt" => ok(self.forward(HostRequest::Halt, 1)),
            "OS_Reboot" => ok(self.forward(HostRequest::Reboot, 2)),
            _ => (b"ERROR Unknown command".to_vec(), Vec::new()),
        }
    }

    /// Hands the request to the owner; "1" then tells the host that it is being carried out.
    fn forward(&self, request: HostRequest, state: u8) -> Vec<String> {
        (self.on_request)(request);
        vec![format!("tools.os.statechange.status 1 {state}")]
    }

    /// Sends what follows an answer.  A host that does not know one of the requests refuses it; the others still count.
    pub(crate) fn follow_up(&self, requests: Vec<String>) {
        for request in requests {
            let _ = call(&*self.rpci, &request);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;
    use crate::Error;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<String>>);
    impl Carrier for Recorder {
        fn call(&self, request: &[u8]) -> Result<Vec<u8>, Error> {
            self.0.lock().unwrap().push(String::from_utf8_lossy(request).into_owned());
            Ok(b"0 Unknown command".to_vec())
        }
    }

    #[test]
    fn each_request_has_the_answer_of_the_table() {
        for (request, answer) in [
            ("reset", "OK ATR toolbox"),
            ("ping", "OK "),
            ("Set_Option synctime 0", "OK "),
            ("Capabilities_Register", "OK "),
            ("OS_Suspend", "OK "),
            ("OS_Halt", "OK "),
            ("OS_Reboot\0", "OK "),
            ("Eject 1", "ERROR Unknown command"),
            ("", "ERROR Unknown command"),
        ] {
            let responder = Responder::new(Arc::new(Recorder::default()), |_| {});
            assert_eq!(String::from_utf8_lossy(&responder.answer(request.as_bytes()).0), answer, "{request:?}");
        }
    }

    #[test]
    fn halt_and_reboot_reach_the_owner() {
        let (sender, receiver) = mpsc::channel();
        let responder = Responder::new(Arc::new(Recorder::default()), move |r| sender.send(r).unwrap());
        responder.answer(b"OS_Reboot");
        responder.answer(b"OS_Halt");
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [HostRequest::Reboot, HostRequest::Halt]);
    }

    #[test]
    fn registration_names_every_capability_even_when_one_is_refused() {
        let recorder = Arc::new(Recorder::default());
        let responder = Responder::new(recorder.clone(), |_| {});
        responder.follow_up(responder.answer(b"Capabilities_Register").1);
        assert_eq!(*recorder.0.lock().unwrap(), registration());
    }
}
