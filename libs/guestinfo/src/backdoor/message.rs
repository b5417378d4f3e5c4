//! The backdoor's message protocol: conversations of length-prefixed messages, four bytes an instruction.
//!
//! ```text
//! open ---> (send size, payload*)  ---> receive size --- none --> ...
//!                                            |
//!                                            +-- payload*, status --> ...      close
//! ```
//! Each step is one `in` of the port with the command in CX, the step in the upper half of ECX, the channel number in the
//! upper half of EDX and the conversation's cookie in ESI and EDI.  The upper half of ECX says on return how it went.
//! The low-bandwidth form is enough: what is carried here is a few KiB.

/// Conversation in which the guest asks: "RPCI".
pub const PROTOCOL_RPCI: u32 = 0x4943_5052;
/// Conversation in which the host asks: "TCLO".
pub const PROTOCOL_TCLO: u32 = 0x4f4c_4354;

/// What EAX must hold for the port to listen: "VMXh".
pub const MAGIC: u32 = 0x564d_5868;
/// The low-bandwidth port, in DX.
pub const PORT: u16 = 0x5658;
/// The command of the message protocol, in CX.
pub const COMMAND_MESSAGE: u16 = 30;
/// Asks for a cookie at open.
pub const FLAG_COOKIE: u32 = 0x8000_0000;

/// Steps of a conversation, in the upper half of ECX.
pub mod step {
    /// Open.
    pub const OPEN: u16 = 0;
    /// Length of the message that follows.
    pub const SEND_SIZE: u16 = 1;
    /// Four bytes of it.
    pub const SEND_PAYLOAD: u16 = 2;
    /// Ask for the length of the host's message.
    pub const RECEIVE_SIZE: u16 = 3;
    /// Ask for four bytes of it.
    pub const RECEIVE_PAYLOAD: u16 = 4;
    /// Say that it arrived.
    pub const RECEIVE_STATUS: u16 = 5;
    /// Close.
    pub const CLOSE: u16 = 6;
}

/// Bits of the upper half of ECX on return.
pub mod status {
    /// It went well.
    pub const SUCCESS: u16 = 0x0001;
    /// The host has a message for the guest.
    pub const HAS_MESSAGE: u16 = 0x0002;
    /// The guest was suspended or moved meanwhile: start anew.
    pub const CHECKPOINT: u16 = 0x0010;
}

/// Longest message that is received; VMware's own limit is 64 KiB.
const MAX_MESSAGE: u32 = 1 << 20;

/// The registers that one `in` takes and gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers {
    /// Magic.
    pub eax: u32,
    /// Argument and result.
    pub ebx: u32,
    /// Command and step; status on return.
    pub ecx: u32,
    /// Port and channel.
    pub edx: u32,
    /// Cookie, first half.
    pub esi: u32,
    /// Cookie, second half.
    pub edi: u32,
}

/// Whatever answers the `in` instruction.
pub trait Port {
    /// Executes it.
    fn exchange(&mut self, registers: Registers) -> Registers;
}

/// Why a conversation broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The guest was suspended or moved: the whole conversation is to be repeated.
    #[error("the conversation was cut by a checkpoint")]
    Checkpoint,
    /// The host refused a step.
    #[error("the host refused the step {0:?}")]
    Refused(&'static str),
}

/// An open conversation; closed on drop.
#[derive(Debug)]
pub struct Conversation<P: Port> {
    port: P,
    channel: u16,
    cookie: (u32, u32),
}

fn upper(register: u32) -> u16 {
    (register >> 16) as u16
}

fn pack(high: u16, low: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

impl<P: Port> Conversation<P> {
    /// Opens a conversation of `protocol`.
    ///
    /// # Errors
    /// [`MessageError::Refused`] when the host has none left.
    pub fn open(mut port: P, protocol: u32) -> Result<Self, MessageError> {
        let reply = port.exchange(Registers {
            eax: MAGIC,
            ebx: protocol | FLAG_COOKIE,
            ecx: pack(step::OPEN, COMMAND_MESSAGE),
            edx: pack(0, PORT),
            ..Registers::default()
        });
        if upper(reply.ecx) & status::SUCCESS == 0 {
            return Err(MessageError::Refused("open"));
        }
        Ok(Self { port, channel: upper(reply.edx), cookie: (reply.esi, reply.edi) })
    }

    fn step(&mut self, step: u16, argument: u32) -> Registers {
        self.port.exchange(Registers {
            eax: MAGIC,
            ebx: argument,
            ecx: pack(step, COMMAND_MESSAGE),
            edx: pack(self.channel, PORT),
            esi: self.cookie.0,
            edi: self.cookie.1,
        })
    }

    fn checked(&mut self, step: u16, argument: u32, name: &'static str) -> Result<Registers, MessageError> {
        let reply = self.step(step, argument);
        let status = upper(reply.ecx);
        if status & status::SUCCESS != 0 {
            Ok(reply)
        } else if status & status::CHECKPOINT != 0 {
            Err(MessageError::Checkpoint)
        } else {
            Err(MessageError::Refused(name))
        }
    }

    /// Sends one message.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn send(&mut self, message: &[u8]) -> Result<(), MessageError> {
        let size = u32::try_from(message.len()).map_err(|_| MessageError::Refused("send: too long"))?;
        self.checked(step::SEND_SIZE, size, "send size")?;
        for chunk in message.chunks(4) {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.checked(step::SEND_PAYLOAD, u32::from_le_bytes(word), "send payload")?;
        }
        Ok(())
    }

    /// Receives the host's message; `None` when it has none.
    ///
    /// # Errors
    /// See [`MessageError`].
    pub fn receive(&mut self) -> Result<Option<Vec<u8>>, MessageError> {
        let reply = self.checked(step::RECEIVE_SIZE, 0, "receive size")?;
        if upper(reply.ecx) & status::HAS_MESSAGE == 0 {
            return Ok(None);
        }
        if reply.ebx > MAX_MESSAGE {
            return Err(MessageError::Refused("receive: too long"));
        }
        let size = reply.ebx as usize;
        let mut message = Vec::with_capacity(size + 3);
        while message.len() < size {
            let reply = self.checked(step::RECEIVE_PAYLOAD, u32::from(status::SUCCESS), "receive payload")?;
            message.extend(reply.ebx.to_le_bytes());
        }
        message.truncate(size);
        self.checked(step::RECEIVE_STATUS, u32::from(status::SUCCESS), "receive status")?;
        Ok(Some(message))
    }
}

impl<P: Port> Drop for Conversation<P> {
    fn drop(&mut self) {
        self.step(step::CLOSE, 0);
    }
}
