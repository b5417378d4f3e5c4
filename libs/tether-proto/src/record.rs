//! Records of a process's output on a serial port that ends in a file.
//!
//! ```text
//! offset  0     4        5        13       17      21
//!         magic stream   time     length   CRC-32  bytes
//!         4     1        8        4        4       length
//! ```
//! Numbers are big-endian; the time is nanoseconds since 1970; the CRC covers stream, time, length and bytes.  A VM that is
//! powered off leaves half a record, and the next boot appends to the file: a reader that meets what is no record looks for
//! the next magic.

use crc32fast::Hasher;

/// Begins a record.
const MAGIC: [u8; 4] = *b"\xf1vL\n";
/// Bytes before the output.
const HEADER: usize = 21;
/// Most bytes of output in one record; longer output is cut into several.
pub const MAX_BYTES: usize = 16 * 1024;

/// Where output comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it comes from.
    pub stream: Stream,
    /// When it was read, nanoseconds since 1970.
    pub time_ns: u64,
    /// The bytes, at most [`MAX_BYTES`].
    pub bytes: Vec<u8>,
}

impl Stream {
    fn number(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

fn crc(header: &[u8], bytes: &[u8]) -> [u8; 4] {
    let mut hasher = Hasher::new();
    hasher.update(header);
    hasher.update(bytes);
    hasher.finalize().to_be_bytes()
}

/// The records of `bytes`, as they go onto the port.
pub fn encode(stream: Stream, time_ns: u64, bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(MAX_BYTES).flat_map(|bytes| piece(stream, time_ns, bytes)).collect()
}

fn piece(stream: Stream, time_ns: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + HEADER);
    out.extend(MAGIC);
    out.push(stream.number());
    out.extend(time_ns.to_be_bytes());
    // It is never longer than MAX_BYTES.
    out.extend(u32::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
    let crc = crc(&out[MAGIC.len()..], bytes);
    out.extend(crc);
    out.extend(bytes);
    out
}

/// The end of a run, as it goes onto the port: a record without bytes for each stream, so that what follows in the file is no
/// part of a line that the process has left open.
pub fn end(time_ns: u64) -> Vec<u8> {
    [Stream::Stdout, Stream::Stderr].iter().flat_map(|stream| piece(*stream, time_ns, &[])).collect()
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Record(Record, usize),
    /// It may become a record when more bytes come.
    Part,
    Nothing,
}

fn find(bytes: &[u8]) -> Found {
    let begun = bytes.len().min(MAGIC.len());
    if bytes[..begun] != MAGIC[..begun] {
        return Found::Nothing;
    }
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Found::Part };
    let stream = match header[4] {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Found::Nothing,
    };
    let mut time = [0; 8];
    time.copy_from_slice(&header[5..13]);
    let mut length = [0; 4];
    length.copy_from_slice(&header[13..17]);
    let Some(length) = usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= MAX_BYTES) else {
        return Found::Nothing;
    };
    let Some(body) = bytes.get(HEADER..HEADER + length) else { return Found::Part };
    if header[17..] != crc(&header[4..17], body) {
        return Found::Nothing;
    }
    let record = Record { stream, time_ns: u64::from_be_bytes(time), bytes: body.to_vec() };
    Found::Record(record, HEADER + length)
}

/// Reads records from bytes as they come.
#[derive(Debug, Default)]
pub struct Reader {
    pending: Vec<u8>,
}

impl Reader {
    /// Takes more bytes; returns the records that they complete.  What is no record is skipped.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Record> {
        self.pending.extend(bytes);
        let mut records = Vec::new();
        let mut at = 0;
        while at < self.pending.len() {
            match find(&self.pending[at..]) {
                Found::Record(record, length) => {
                    records.push(record);
                    at += length;
                }
                Found::Nothing => at += 1,
                Found::Part => break,
            }
        }
        self.pending.drain(..at);
        records
    }

    /// The file ends here: a record that was begun will not be completed, and what lies within it is looked at anew.
    pub fn end(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while !self.pending.is_empty() {
            self.pending.remove(0);
            records.extend(self.read(&[]));
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
        (stream, any::<u64>(), proptest::collection::vec(any::<u8>(), 1..80))
            .prop_map(|(stream, time_ns, bytes)| Record { stream, time_ns, bytes })
    }

    fn encoded(record: &Record) -> Vec<u8> {
        encode(record.stream, record.time_ns, &record.bytes)
    }

    #[test]
    fn long_output_is_cut() {
        let bytes = vec![7; MAX_BYTES * 2 + 1];
        let records = Reader::default().read(&encode(Stream::Stderr, 5, &bytes));
        assert_eq!(records.iter().map(|r| r.bytes.len()).collect::<Vec<_>>(), [MAX_BYTES, MAX_BYTES, 1]);
        assert!(records.iter().all(|r| (r.stream, r.time_ns) == (Stream::Stderr, 5)));
    }

    proptest! {
        #[test]
        fn records_survive_however_the_bytes_arrive(
            records in proptest::collection::vec(record(), 0..8),
            cut in 1_usize..64,
        ) {
            let bytes: Vec<u8> = records.iter().flat_map(encoded).collect();
            let mut reader = Reader::default();
            let mut found: Vec<_> = bytes.chunks(cut).flat_map(|chunk| reader.read(chunk)).collect();
            found.extend(reader.end());
            prop_assert_eq!(found, records);
        }

        #[test]
        fn a_record_cut_off_costs_no_other(before in record(), half in record(), keep in 0_usize..21, after in record()) {
            let mut bytes = encoded(&before);
            bytes.extend(&encoded(&half)[..keep]);
            bytes.extend(encoded(&after));
            let mut reader = Reader::default();
            let mut found = reader.read(&bytes);
            found.extend(reader.end());
            prop_assert_eq!(found, vec![before, after]);
        }

        #[test]
        fn noise_makes_no_record_and_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::default();
            prop_assert!(reader.read(&noise).is_empty());
            prop_assert!(reader.end().is_empty());
        }
    }
}
