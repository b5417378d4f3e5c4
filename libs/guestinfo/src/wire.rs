//! The lab's carrier of RPCI: lines on a serial port.
//!
//! A line is `KIND SEQ TEXT\n`: one letter, a decimal number, and the RPCI bytes with backslash, CR and LF escaped.
//!
//! | kind | direction | meaning |
//! | --- | --- | --- |
//! | `Q` | guest to host | an RPCI request: `info-get guestinfo.KEY`, `info-set guestinfo.KEY VALUE`, ... |
//! | `A` | host to guest | its answer: `1 VALUE` on success, `0 REASON` on failure |
//! | `T` | host to guest | a TCLO request, as VMware sends them to its tools: `OS_Halt`, `OS_Reboot` |
//! | `R` | guest to host | its answer: `OK` or `ERROR REASON` |
//!
//! Either side may start in the middle of the other's line (a guest is reset, a daemon restarted), so a line that does
//! not parse is dropped, the guest sends an empty line when it opens the port, and a request whose answer does not come
//! is sent again with a new number.  Requests are idempotent.

/// The letter of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `Q`: request of the guest.
    Request,
    /// `A`: answer of the host.
    Answer,
    /// `T`: request of the host.
    Tclo,
    /// `R`: answer of the guest.
    TcloAnswer,
}

/// One line of the serial carrier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub kind: Kind,
    /// Pairs an answer with its request.
    pub seq: u32,
    /// The RPCI bytes, not escaped.
    pub body: Vec<u8>,
}

/// Longest line that is read; longer ones are dropped.  VMware's own limit on one RPCI message is 64 KiB.
pub const MAX_LINE: usize = 256 * 1024;

impl Line {
    /// The bytes to send, with the line feed.
    pub fn encode(&self) -> Vec<u8> {
        let letter = match self.kind {
            Kind::Request => 'Q',
            Kind::Answer => 'A',
            Kind::Tclo => 'T',
            Kind::TcloAnswer => 'R',
        };
        let mut out = format!("{letter} {} ", self.seq).into_bytes();
        for &byte in &self.body {
            match byte {
                b'\\' => out.extend(b"\\\\"),
                b'\n' => out.extend(b"\\n"),
                b'\r' => out.extend(b"\\r"),
                other => out.push(other),
            }
        }
        out.push(b'\n');
        out
    }

    /// Reads a line, without its line feed.  `None` for anything that is not one.
    pub fn decode(line: &[u8]) -> Option<Self> {
        let (&letter, rest) = line.split_first()?;
        let kind = match letter {
            b'Q' => Kind::Request,
            b'A' => Kind::Answer,
            b'T' => Kind::Tclo,
            b'R' => Kind::TcloAnswer,
            _ => return None,
        };
        let rest = rest.strip_prefix(b" ")?;
        let space = rest.iter().position(|&b| b == b' ')?;
        let seq = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let mut body = Vec::with_capacity(rest.len());
        let mut bytes = rest[space + 1..].iter();
        while let Some(&byte) = bytes.next() {
            body.push(match byte {
                b'\\' => match bytes.next()? {
                    b'\\' => b'\\',
                    b'n' => b'\n',
                    b'r' => b'\r',
                    _ => return None,
                },
                other => other,
            });
        }
        Some(Self { kind, seq, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let body: Vec<u8> = (0..=255).collect();
        let line = Line { kind: Kind::Request, seq: 7, body };
        let bytes = line.encode();
        assert_eq!(bytes.iter().filter(|&&b| b == b'\n').count(), 1, "one line feed, at the end");
        assert_eq!(Line::decode(&bytes[..bytes.len() - 1]), Some(line));
    }

    #[test]
    fn half_a_line_is_not_a_line() {
        for torn in [&b""[..], b"Q", b"Q 12", b"Q x y", b"fo-set guestinfo.a b", b"Q 1 a\\", b"Q 1 a\\x"] {
            assert_eq!(Line::decode(torn), None, "{}", String::from_utf8_lossy(torn));
        }
    }
}
