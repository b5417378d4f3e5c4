//! The host's end of the guest info channel: answers RPCI requests, sends TCLO ones.
//!
//! One task per running VM.  It reconnects for as long as its QEMU lives, because QEMU is the server of the socket; a
//! reset of the guest only clears what the guest had said of itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use guestinfo::wire::{Kind, Line, MAX_LINE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{Host, Power, VmState};
use crate::error::{Error, Result};

/// Longest value that a guest may set; VMware's limit on one RPCI message.
const MAX_VALUE: usize = 64 * 1024;

/// Kinds of `SetGuestInfo`, of open-vm-tools.
const HOST_NAME: &str = "1";
const OS_NAME_FULL: &str = "5";
const OS_NAME: &str = "6";
/// Where a guest's host name is kept.
pub(crate) const KEY_HOST_NAME: &str = "guestinfo.hostname";

/// How long a guest may take to answer a TCLO request.
const TCLO_PATIENCE: Duration = Duration::from_secs(10);

/// What a guest says of itself over the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Its tools speak.
    Tools,
    /// Its primary address (`guestinfo.ip`).
    Address(String),
}

/// A request of the host to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tclo {
    /// Shut down.
    Halt,
    /// Shut down and start again.
    Reboot,
}

impl Tclo {
    fn text(self) -> &'static str {
        match self {
            Self::Halt => "OS_Halt",
            Self::Reboot => "OS_Reboot",
        }
    }
}

type TcloRequest = (Tclo, oneshot::Sender<Result<(), String>>);

/// The channel to one running guest; ends when dropped.
#[derive(Debug)]
pub(crate) struct GuestChannel {
    tclo: mpsc::UnboundedSender<TcloRequest>,
    task: JoinHandle<()>,
}

impl GuestChannel {
    /// Serves the guest of `vm` on QEMU's `socket`, once its VM is shown to be on: a VM that is off says nothing.
    pub(crate) fn open(
        vm: String,
        socket: PathBuf,
        host: Arc<dyn Host>,
        said: mpsc::UnboundedSender<Said>,
        mut state: watch::Receiver<VmState>,
    ) -> Self {
        let (tclo, requests) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            if state.wait_for(|state| state.power == Power::On).await.is_err() {
                return;
            }
            drop(state);
            let mut server = Server { vm, host, said, requests, asked: None, seq: 0 };
            loop {
                // The socket exists as long as QEMU does; the VM's task ends this one with it.
                if let Ok(stream) = UnixStream::connect(&socket).await {
                    server.serve(stream).await;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self { tclo, task }
    }

    /// Sends a request and gives the guest's answer.
    pub(crate) fn ask(&self, what: Tclo) -> impl Future<Output = Result<()>> + use<> {
        let (answer, outcome) = oneshot::channel();
        let sent = self.tclo.send((what, answer));
        async move {
            let silent = || Error::Refused(format!("the guest does not answer {}", what.text()));
            sent.map_err(|_| silent())?;
            tokio::time::timeout(TCLO_PATIENCE, outcome)
                .await
                .map_err(|_| silent())?
                .map_err(|_| silent())?
                .map_err(|reason| Error::Refused(format!("the guest refuses {}: {reason}", what.text())))
        }
    }
}

impl Drop for GuestChannel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Server {
    vm: String,
    host: Arc<dyn Host>,
    said: mpsc::UnboundedSender<Said>,
    requests: mpsc::UnboundedReceiver<TcloRequest>,
    /// The TCLO request that the guest has not answered yet.
    asked: Option<(u32, oneshot::Sender<Result<(), String>>)>,
    seq: u32,
}

impl Server {
    /// Serves until the connection ends.
    async fn serve(&mut self, mut stream: UnixStream) {
        let mut pending = Vec::new();
        let mut chunk = vec![0_u8; 4096];
        loop {
            let out = tokio::select! {
                read = stream.read(&mut chunk) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(n) => {
                        pending.extend_from_slice(&chunk[..n]);
                        self.take_lines(&mut pending)
                    }
                },
                Some((what, answer)) = self.requests.recv() => {
                    self.seq = self.seq.wrapping_add(1);
                    self.asked = Some((self.seq, answer));
                    Line { kind: Kind::Tclo, seq: self.seq, body: what.text().into() }.encode()
                }
            };
            if !out.is_empty() && stream.write_all(&out).await.is_err() {
                return;
            }
        }
    }

    /// Consumes the whole lines of `pending` and gives what to send back.
    fn take_lines(&mut self, pending: &mut Vec<u8>) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(end) = pending.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            // A terminal in between may have added a carriage return; a carriage return of the body is escaped.
            match Line::decode(line.strip_suffix(b"\r").unwrap_or(line)) {
                Some(Line { kind: Kind::Request, seq, body }) => {
                    let _ = self.said.send(Said::Tools);
                    let body = self.answer(&body);
                    out.extend(Line { kind: Kind::Answer, seq, body }.encode());
                }
                Some(Line { kind: Kind::TcloAnswer, seq, body }) => self.take_tclo_answer(seq, &body),
                _ => {}
            }
        }
        if pending.len() > MAX_LINE {
            pending.clear();
        }
        out
    }

    fn take_tclo_answer(&mut self, seq: u32, body: &[u8]) {
        if let Some((_, answer)) = self.asked.take_if(|(asked, _)| *asked == seq) {
            let text = String::from_utf8_lossy(body);
            let _ = answer.send(match text.strip_prefix("ERROR") {
                Some(reason) => Err(reason.trim().to_owned()),
                None => Ok(()),
            });
        }
    }

    /// The answer to an RPCI request.
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let Ok(request) = std::str::from_utf8(request) else { return b"0 Request is not UTF-8".to_vec() };
        let (command, rest) = request.split_once(' ').unwrap_or((request, ""));
        match command {
            "info-get" => {
                let key = rest.trim_end();
                let value = key.starts_with("guestinfo.").then(|| self.host.guest_get(&self.vm, key)).flatten();
                value.map_or_else(|| b"0 No value found".to_vec(), |value| format!("1 {value}").into_bytes())
            }
            "info-set" => {
                let (key, value) = rest.split_once(' ').unwrap_or((rest, ""));
                match self.set(key, value) {
                    Ok(()) => b"1 ".to_vec(),
                    Err(reason) => format!("0 {reason}").into_bytes(),
                }
            }
            // Two blanks, kind and value, as VMware's tools have it.
            "SetGuestInfo" => match rest.trim_start().split_once(' ') {
                // It is kept where it outlives this process, as the address is.
                Some((HOST_NAME, name)) if self.host.guest_set(&self.vm, KEY_HOST_NAME, name).is_ok() => b"1 ".to_vec(),
                Some((OS_NAME_FULL | OS_NAME, _)) => b"1 ".to_vec(),
                _ => b"0 Unknown fact".to_vec(),
            },
            _ => b"0 Unknown command".to_vec(),
        }
    }

    fn set(&self, key: &str, value: &str) -> Result<(), String> {
        if !key.starts_with("guestinfo.") || key.len() == "guestinfo.".len() {
            return Err("Permission denied".into());
        }
        if value.len() > MAX_VALUE {
            return Err("Value too long".into());
        }
        self.host.guest_set(&self.vm, key, value)?;
        if key == "guestinfo.ip" {
            let _ = self.said.send(Said::Address(value.trim().to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Keys(Mutex<BTreeMap<String, String>>);

    impl Host for Keys {
        fn guest_get(&self, _vm: &str, key: &str) -> Option<String> {
            self.0.lock().unwrap().get(key).cloned()
        }
        fn guest_set(&self, _vm: &str, key: &str, value: &str) -> Result<(), String> {
            self.0.lock().unwrap().insert(key.into(), value.into());
            Ok(())
        }
        fn changed(&self, _vm: &str, _state: &VmState) {}
    }

    fn server() -> (Server, mpsc::UnboundedReceiver<Said>) {
        let (said, heard) = mpsc::unbounded_channel();
        let (_, requests) = mpsc::unbounded_channel();
        (Server { vm: "vm-1".into(), host: Arc::new(Keys::default()), said, requests, asked: None, seq: 0 }, heard)
    }

    #[test]
    fn a_guest_reads_back_what_it_set_and_nothing_else() {
        let (server, _heard) = server();
        for (request, answer) in [
            ("info-get guestinfo.a", "0 No value found"),
            ("info-set guestinfo.a one two ", "1 "),
            ("info-get guestinfo.a", "1 one two "),
            ("info-set guestinfo.empty ", "1 "),
            ("info-get guestinfo.empty", "1 "),
            ("info-get vic.operation", "0 No value found"),
            ("info-set vic.operation x", "0 Permission denied"),
            ("info-set guestinfo. x", "0 Permission denied"),
            ("vmx.capability.something 1", "0 Unknown command"),
            ("SetGuestInfo  1 web", "1 "),
            ("info-get guestinfo.hostname", "1 web"),
            ("SetGuestInfo  5 Linux", "1 "),
            ("SetGuestInfo  99 x", "0 Unknown fact"),
            ("SetGuestInfo", "0 Unknown fact"),
        ] {
            assert_eq!(String::from_utf8(server.answer(request.as_bytes())).unwrap(), answer, "{request}");
        }
        let long = format!("info-set guestinfo.long {}", "x".repeat(MAX_VALUE + 1));
        assert_eq!(server.answer(long.as_bytes()), b"0 Value too long");
    }

    #[test]
    fn torn_lines_are_dropped_and_whole_ones_answered() {
        let (mut server, mut heard) = server();
        let mut pending = b"fo-set guestinfo.a b\nQ 7 info-set guestinfo.ip 10.0.0.7\r\nQ 8 info-".to_vec();
        assert_eq!(server.take_lines(&mut pending), b"A 7 1 \n");
        assert_eq!(pending, b"Q 8 info-");
        assert_eq!(heard.try_recv().unwrap(), Said::Tools);
        assert_eq!(heard.try_recv().unwrap(), Said::Address("10.0.0.7".into()));
    }
}
