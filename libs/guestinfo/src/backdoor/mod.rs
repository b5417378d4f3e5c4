//! VMware's carrier: the hypervisor's backdoor I/O port.
//!
//! Every RPCI request has a conversation of its own ([`message`]): open, send, receive, close.  It costs microseconds, and no
//! state is left that a suspend, a vMotion or a snapshot could break.  TCLO keeps one conversation open and polls it.

pub mod message;
mod port;

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use message::{Conversation, MessageError, PROTOCOL_RPCI, PROTOCOL_TCLO};
pub use port::{Hypervisor, is_vmware};

use crate::{Carrier, Error, channel::shown, tclo::Responder};

/// How long a conversation that the host breaks off (checkpoint, vMotion) is tried again.
const RETRY_FOR: Duration = Duration::from_secs(10);
/// How many refusals of one request are tried again.
const REFUSALS: u32 = 2;
/// How often the host is asked whether it wants something: VMware's tools poll at this pace when idle.
const POLL: Duration = Duration::from_millis(500);

/// RPCI over the backdoor.
#[derive(Debug, Default)]
pub struct Rpci(());

impl Rpci {
    /// Makes the carrier.  To be used on VMware only: elsewhere the first call ends the process with SIGSEGV.
    pub fn new() -> Self {
        Self(())
    }
}

impl Carrier for Rpci {
    fn call(&self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let start = Instant::now();
        let mut refusals = 0;
        loop {
            let attempt = Conversation::open(Hypervisor, PROTOCOL_RPCI).and_then(|mut conversation| {
                conversation.send(request)?;
                // RPCI's answer is there as soon as the request was taken.
                conversation.receive()?.ok_or(MessageError::Refused("receive"))
            });
            match attempt {
                Ok(answer) => return Ok(answer),
                Err(MessageError::Checkpoint) if start.elapsed() < RETRY_FOR => {}
                Err(MessageError::Checkpoint) => {
                    return Err(Error::Timeout { request: shown(request), waited: RETRY_FOR });
                }
                // A conversation that a checkpoint ended while nobody was looking is refused like one that never was.
                Err(MessageError::Refused(_)) if refusals < REFUSALS => refusals += 1,
                Err(MessageError::Refused(step)) => {
                    return Err(Error::Protocol { request: shown(request), reason: step });
                }
            }
        }
    }
}

/// Starts the thread that polls the host for requests and answers them.
pub(crate) fn answer_host(responder: Responder) {
    thread::spawn(move || {
        // Never sent to: its timeout is the pace of the poll.
        let (_keep, pace) = mpsc::channel::<()>();
        loop {
            // An error closes the conversation; the next turn opens a new one and the host sends `reset` first.
            let _ = converse(&responder, &pace);
            let _ = pace.recv_timeout(POLL);
        }
    });
}

/// Polls one TCLO conversation until it breaks: what was answered is sent, then what is asked is received.
fn converse(responder: &Responder, pace: &mpsc::Receiver<()>) -> Result<(), MessageError> {
    let mut conversation = Conversation::open(Hypervisor, PROTOCOL_TCLO)?;
    let (mut answer, mut then) = (Vec::new(), Vec::new());
    loop {
        conversation.send(&answer)?;
        responder.follow_up(std::mem::take(&mut then));
        match conversation.receive()? {
            Some(request) if !request.is_empty() => (answer, then) = responder.answer(&request),
            _ => {
                answer.clear();
                let _ = pace.recv_timeout(POLL);
            }
        }
    }
}
