//! The hypervisor's side of the backdoor: its commands, the message protocol, and the RPCI and TCLO services behind it.
//!
//! Written from the protocol alone, sharing no constant with the client, so that one mistake cannot hide in both.

use std::collections::{BTreeMap, VecDeque};

use guestinfo::backdoor::message::Registers;

/// One open conversation.
#[derive(Debug, Default)]
struct Conversation {
    tclo: bool,
    cookie: (u32, u32),
    incoming: Vec<u8>,
    expected: usize,
    outgoing: VecDeque<Vec<u8>>,
    sent: usize,
}

/// The hypervisor.
#[derive(Debug, Default)]
pub(crate) struct Backdoor {
    /// The VM's `guestinfo.*` keys.
    pub(crate) keys: BTreeMap<String, String>,
    /// What the host will ask over TCLO, in this order.
    pub(crate) host_requests: VecDeque<String>,
    /// What the guest answered over TCLO.
    pub(crate) answers: Vec<String>,
    /// RPCI requests other than for keys.
    pub(crate) other_requests: Vec<String>,
    /// Steps until a checkpoint cuts every conversation, once.
    pub(crate) checkpoint_after: Option<u32>,
    /// Instructions answered.
    pub(crate) steps: u32,
    /// Commands that are not emulated.
    pub(crate) unknown: Vec<u16>,
    open: BTreeMap<u16, Conversation>,
    opened: u16,
}

const VMXH: u32 = 0x564d_5868;

impl Backdoor {
    /// Conversations that are open.
    pub(crate) fn open_conversations(&self) -> usize {
        self.open.len()
    }

    /// Answers one instruction on port 0x5658.
    pub(crate) fn exchange(&mut self, r: Registers) -> Registers {
        self.steps += 1;
        let (command, step) = ((r.ecx & 0xffff) as u16, (r.ecx >> 16) as u16);
        match command {
            // Version: 6, and the product is ESX.
            10 => Registers { eax: 6, ebx: VMXH, ecx: 2, ..r },
            30 => self.message(step, r),
            other => {
                self.unknown.push(other);
                Registers { eax: u32::MAX, ..r }
            }
        }
    }

    fn message(&mut self, step: u16, r: Registers) -> Registers {
        let status = |bits: u32| Registers { ecx: bits << 16, ..r };
        let channel = (r.edx >> 16) as u16;
        if step == 0 {
            let tclo = match r.ebx & 0x7fff_ffff {
                0x4943_5052 => false,
                0x4f4c_4354 => true,
                _ => return status(0),
            };
            self.opened += 1;
            let cookie = (0xc00c_1e00 | u32::from(self.opened), 0x5eed);
            self.open.insert(self.opened, Conversation { tclo, cookie, ..Conversation::default() });
            return Registers {
                ecx: 1 << 16,
                edx: u32::from(self.opened) << 16 | (r.edx & 0xffff),
                esi: cookie.0,
                edi: cookie.1,
                ..r
            };
        }
        if self.checkpoint_after.is_some_and(|after| self.steps > after) {
            self.checkpoint_after = None;
            self.open.clear();
            return status(0x10);
        }
        let Some(conversation) = self.open.get_mut(&channel) else { return status(0) };
        if conversation.cookie != (r.esi, r.edi) {
            return status(0);
        }
        match step {
            1 => {
                conversation.incoming.clear();
                conversation.expected = r.ebx as usize;
                if conversation.expected == 0 {
                    self.taken(channel);
                }
                status(1)
            }
            2 => {
                conversation.incoming.extend(r.ebx.to_le_bytes());
                if conversation.incoming.len() >= conversation.expected {
                    conversation.incoming.truncate(conversation.expected);
                    self.taken(channel);
                }
                status(1)
            }
            3 => match conversation.outgoing.front() {
                None => status(1),
                Some(message) => {
                    let size = u32::try_from(message.len()).unwrap();
                    conversation.sent = 0;
                    Registers { ebx: size, ecx: 3 << 16, edx: 1 << 16 | (r.edx & 0xffff), ..r }
                }
            },
            4 => {
                let message = conversation.outgoing.front().cloned().unwrap_or_default();
                let mut word = [0; 4];
                for (to, from) in word.iter_mut().zip(message.iter().skip(conversation.sent)) {
                    *to = *from;
                }
                conversation.sent += 4;
                Registers { ebx: u32::from_le_bytes(word), ecx: 1 << 16, edx: 2 << 16 | (r.edx & 0xffff), ..r }
            }
            5 => {
                conversation.outgoing.pop_front();
                status(1)
            }
            6 => {
                self.open.remove(&channel);
                status(1)
            }
            _ => status(0),
        }
    }

    /// The guest's message on `channel` is complete.
    fn taken(&mut self, channel: u16) {
        let Some(mut conversation) = self.open.remove(&channel) else { return };
        let text = String::from_utf8_lossy(&conversation.incoming).into_owned();
        if conversation.tclo {
            if !text.is_empty() {
                self.answers.push(text);
            }
            conversation.outgoing.extend(self.host_requests.pop_front().map(String::into_bytes));
        } else {
            let answer = self.rpci(text.trim_end_matches('\0'));
            conversation.outgoing.push_back(answer.into_bytes());
        }
        self.open.insert(channel, conversation);
    }

    fn rpci(&mut self, request: &str) -> String {
        let mut words = request.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("info-get"), Some(key), None) => {
                self.keys.get(key).map_or_else(|| "0 No value found".to_owned(), |value| format!("1 {value}"))
            }
            (Some("info-set"), Some(key), value) => {
                self.keys.insert(key.to_owned(), value.unwrap_or_default().to_owned());
                "1 ".to_owned()
            }
            _ => {
                self.other_requests.push(request.to_owned());
                "1 ".to_owned()
            }
        }
    }
}
