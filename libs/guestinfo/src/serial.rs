//! The lab's carrier: [`crate::wire`] lines over a serial port.
//!
//! Three threads, so that none holds a lock over I/O: one reads lines and hands each to whom it is for, one writes
//! lines, one answers the host's own requests.  A caller registers the number of its request, queues its line, and waits
//! on its own channel; an answer with an unknown number (to a request given up on) is dropped.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Write},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    sys::termios::{self, ControlFlags, SetArg},
};

use crate::{
    Carrier, Error,
    channel::shown,
    tclo::Responder,
    wire::{Kind, Line, MAX_LINE},
};

/// Time limits of the serial carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long one sending of a request waits for its answer before it is sent again.
    pub attempt: Duration,
    /// How long a request may take, over all its sendings.
    pub total: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { attempt: Duration::from_secs(2), total: Duration::from_secs(10) }
    }
}

/// The carrier; clones share the port.
#[derive(Debug, Clone)]
pub struct Serial {
    outgoing: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Mutex<HashMap<u32, mpsc::SyncSender<Vec<u8>>>>>,
    next: Arc<AtomicU32>,
    timing: Timing,
}

/// Opens the port for reading and writing, in raw mode if it is a terminal.
pub(crate) fn open(path: &Path) -> Result<(File, File), Error> {
    let attempt = || -> std::io::Result<(File, File)> {
        use std::os::unix::fs::OpenOptionsExt;
        let port = File::options().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(path)?;
        if let Ok(mut settings) = termios::tcgetattr(&port) {
            termios::cfmakeraw(&mut settings);
            // Whether the host's end is connected does not matter: without CLOCAL, a host that goes would hang the port up.
            settings.control_flags.insert(ControlFlags::CLOCAL | ControlFlags::CREAD);
            // The speed by its bits: the C library's setter for it cannot be linked statically.
            settings.control_flags.remove(ControlFlags::from_bits_retain(libc::CBAUD));
            settings.control_flags.insert(ControlFlags::from_bits_retain(libc::B115200));
            termios::tcsetattr(&port, SetArg::TCSANOW, &settings)?;
        }
        Ok((port.try_clone()?, port))
    };
    attempt().map_err(|source| Error::Open { path: path.into(), source })
}

impl Serial {
    /// Starts the reading and the writing thread.  The receiver yields the host's requests.
    pub(crate) fn start(
        reader: impl Read + Send + 'static,
        mut writer: impl Write + Send + 'static,
        timing: Timing,
    ) -> (Self, mpsc::Receiver<Line>) {
        let (outgoing, lines) = mpsc::channel::<Vec<u8>>();
        let (host_requests, receiver) = mpsc::channel();
        let waiting: Arc<Mutex<HashMap<u32, mpsc::SyncSender<Vec<u8>>>>> = Arc::default();
        // The empty line ends whatever half line the boot before has left in the host's buffer.
        let _ = outgoing.send(b"\n".to_vec());
        // Numbers start at the clock, so that a late answer to the boot before matches nothing.
        let seed = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.subsec_nanos());
        thread::spawn(move || {
            for line in lines {
                // A port that cannot be written shows as time-outs of the callers, who retry.
                let _ = writer.write_all(&line).and_then(|()| writer.flush());
            }
        });
        let answers = Arc::clone(&waiting);
        thread::spawn(move || {
            read_lines(reader, |line| match line.kind {
                Kind::Answer => {
                    let sender = answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&line.seq);
                    if let Some(sender) = sender {
                        let _ = sender.try_send(line.body);
                    }
                }
                Kind::Tclo => {
                    let _ = host_requests.send(line);
                }
                Kind::Request | Kind::TcloAnswer => {}
            });
        });
        (Self { outgoing, waiting, next: Arc::new(AtomicU32::new(seed)), timing }, receiver)
    }

    /// Starts the thread that answers the host's requests.
    pub(crate) fn answer_host(&self, requests: mpsc::Receiver<Line>, responder: Responder) {
        let outgoing = self.outgoing.clone();
        thread::spawn(move || {
            for request in requests {
                let (body, then) = responder.answer(&request.body);
                let _ = outgoing.send(Line { kind: Kind::TcloAnswer, seq: request.seq, body }.encode());
                responder.follow_up(then);
            }
        });
    }
}

impl Carrier for Serial {
    fn call(&self, request: &[u8]) -> Result<Vec<u8>, Error> {
        let start = Instant::now();
        while let Some(left) = self.timing.total.checked_sub(start.elapsed()).filter(|d| !d.is_zero()) {
            let seq = self.next.fetch_add(1, Ordering::Relaxed);
            let (sender, receiver) = mpsc::sync_channel(1);
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(seq, sender);
            let _ = self.outgoing.send(Line { kind: Kind::Request, seq, body: request.to_vec() }.encode());
            let answer = receiver.recv_timeout(self.timing.attempt.min(left));
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
            if let Ok(answer) = answer {
                return Ok(answer);
            }
        }
        Err(Error::Timeout { request: shown(request), waited: self.timing.total })
    }
}

/// Reads until the end of the stream; hands on each line that parses.
fn read_lines(mut reader: impl Read, mut take: impl FnMut(Line)) {
    let mut chunk = [0; 4096];
    let mut line = Vec::new();
    let mut overlong = false;
    loop {
        let count = match reader.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        for &byte in &chunk[..count] {
            if byte == b'\n' {
                if let Some(line) = Line::decode(&line).filter(|_| !overlong) {
                    take(line);
                }
                line.clear();
                overlong = false;
            } else if line.len() < MAX_LINE {
                line.push(byte);
            } else {
                overlong = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        os::unix::net::UnixStream,
    };

    use super::*;
    use crate::{Channel, HostRequest};

    const SHORT: Timing = Timing { attempt: Duration::from_millis(200), total: Duration::from_secs(20) };

    /// A channel, the host's end of its port, and what the host asked the guest to do.
    fn pair(timing: Timing) -> (Channel, BufReader<UnixStream>, mpsc::Receiver<HostRequest>) {
        let (guest, host) = UnixStream::pair().unwrap();
        let (sender, requests) = mpsc::channel();
        let channel = Channel::over_serial(guest.try_clone().unwrap(), guest, timing, move |r| {
            let _ = sender.send(r);
        });
        (channel, BufReader::new(host), requests)
    }

    fn next(host: &mut BufReader<UnixStream>) -> Line {
        loop {
            let mut text = Vec::new();
            assert_ne!(host.read_until(b'\n', &mut text).unwrap(), 0, "the guest closed its port");
            text.pop();
            if let Some(line) = Line::decode(&text) {
                return line;
            }
        }
    }

    fn answer(host: &mut BufReader<UnixStream>, seq: u32, body: &[u8]) {
        host.get_mut().write_all(&Line { kind: Kind::Answer, seq, body: body.to_vec() }.encode()).unwrap();
    }

    #[test]
    fn a_value_comes_back_whole_between_rubbish() {
        let (channel, mut host, _) = pair(SHORT);
        let value = "{\"pem\":\"-----BEGIN\\n\"}\nsecond line \\ \r".repeat(1000);
        let expected = format!("1 {value}").into_bytes();
        let server = thread::spawn(move || {
            let line = next(&mut host);
            assert_eq!(line.body, b"info-get guestinfo.vic.config");
            host.get_mut().write_all(b"half a li\nA 99 1 not yours\n").unwrap();
            answer(&mut host, line.seq, &expected);
        });
        assert_eq!(channel.get("guestinfo.vic.config").unwrap().unwrap(), value);
        server.join().unwrap();
    }

    #[test]
    fn a_request_whose_answer_is_lost_is_sent_again_with_a_new_number() {
        let (channel, mut host, _) = pair(SHORT);
        let server = thread::spawn(move || {
            let first = next(&mut host);
            let second = next(&mut host);
            assert_eq!(first.body, second.body);
            assert_ne!(first.seq, second.seq);
            answer(&mut host, first.seq, b"1 late");
            answer(&mut host, second.seq, b"1 in time");
        });
        assert_eq!(channel.get("guestinfo.x").unwrap().as_deref(), Some("in time"));
        server.join().unwrap();
    }

    #[test]
    fn a_silent_host_is_a_timeout_that_names_the_key_only() {
        let timing = Timing { attempt: Duration::from_millis(10), total: Duration::from_millis(30) };
        let (channel, _host, _) = pair(timing);
        let text = channel.set("guestinfo.vic.secrets", "hunter2").unwrap_err().to_string();
        assert!(text.contains("info-set guestinfo.vic.secrets") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_hosts_halt_arrives_while_a_request_is_under_way() {
        let (channel, mut host, requests) = pair(SHORT);
        let getter = thread::spawn(move || channel.get("guestinfo.x"));
        let pending = next(&mut host);
        host.get_mut().write_all(&Line { kind: Kind::Tclo, seq: 5, body: b"OS_Halt".to_vec() }.encode()).unwrap();
        assert_eq!(requests.recv_timeout(Duration::from_secs(10)).unwrap(), HostRequest::Halt);
        let mut replied = next(&mut host);
        while replied.kind != Kind::TcloAnswer {
            replied = next(&mut host);
        }
        assert_eq!((replied.seq, replied.body.as_slice()), (5, &b"OK "[..]));
        answer(&mut host, pending.seq, b"0 No value found");
        // The first sending may have been given up on by now: answer whatever else is sent.
        thread::spawn(move || {
            loop {
                let line = next(&mut host);
                answer(&mut host, line.seq, b"0 No value found");
            }
        });
        assert_eq!(getter.join().unwrap().unwrap(), None);
    }

    #[test]
    fn an_overlong_line_is_dropped_and_the_next_one_read() {
        let mut bytes = vec![b'A'; MAX_LINE + 10];
        bytes.extend(b"\nA 1 1 ok\n");
        let mut lines = Vec::new();
        read_lines(bytes.as_slice(), |line| lines.push(line));
        assert_eq!(lines, [Line { kind: Kind::Answer, seq: 1, body: b"1 ok".to_vec() }]);
    }
}
