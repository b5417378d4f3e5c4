//! Lines of a container's output, out of the records that tether wrote.

use tether_proto::record::{Record, Stream};

/// A longer line comes in pieces of this size, as Docker's own log drivers cut it.
const PIECE: usize = 16 * 1024;

/// A line of output, or a piece of a long one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it comes from.
    pub stream: Stream,
    /// When its beginning was read, nanoseconds since 1970.
    pub time_ns: u64,
    /// Its bytes with the line feed; without where the output ended, or where a long line was cut.
    pub bytes: Vec<u8>,
    /// Its beginning was seen: false for the rest of a line that began before the place where reading began.
    pub whole: bool,
}

/// Makes lines of records.
#[derive(Debug)]
pub struct Lines {
    open: [Open; 2],
}

/// A line whose end is still to come.
#[derive(Debug, Default)]
struct Open {
    time_ns: u64,
    bytes: Vec<u8>,
    whole: bool,
}

impl Lines {
    /// Lines of records that are read from the output's beginning, or from somewhere in it.
    pub fn new(from_the_beginning: bool) -> Self {
        let open = || Open { whole: from_the_beginning, ..Open::default() };
        Self { open: [open(), open()] }
    }

    /// Takes in a record; `emit` is given every line that it completes.
    pub fn read(&mut self, record: &Record, mut emit: impl FnMut(Line)) {
        let open = &mut self.open[index(record.stream)];
        if record.bytes.is_empty() {
            // The process has ended: its last line has no line feed.
            open.flush(record.stream, true, &mut emit);
        }
        for line in record.bytes.split_inclusive(|b| *b == b'\n') {
            let mut rest = line;
            while !rest.is_empty() {
                if open.bytes.is_empty() {
                    open.time_ns = record.time_ns;
                }
                let (piece, after) = rest.split_at(rest.len().min(PIECE - open.bytes.len()));
                open.bytes.extend_from_slice(piece);
                rest = after;
                let complete = piece.ends_with(b"\n");
                if complete || open.bytes.len() == PIECE {
                    open.flush(record.stream, complete, &mut emit);
                }
            }
        }
    }

    /// No more will come: gives what has no line feed, oldest first.
    pub fn end(&mut self, mut emit: impl FnMut(Line)) {
        let mut streams = [Stream::Stdout, Stream::Stderr];
        streams.sort_by_key(|s| self.open[index(*s)].time_ns);
        for stream in streams {
            self.open[index(stream)].flush(stream, true, &mut emit);
        }
    }
}

impl Open {
    /// Gives what there is; what follows is a whole line when this was `complete`, or when its beginning was seen.
    fn flush(&mut self, stream: Stream, complete: bool, emit: &mut impl FnMut(Line)) {
        if !self.bytes.is_empty() {
            let bytes = std::mem::take(&mut self.bytes);
            emit(Line { stream, time_ns: self.time_ns, bytes, whole: self.whole });
        }
        self.whole |= complete;
    }
}

fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Stderr)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(stream: Stream, time_ns: u64, bytes: &[u8]) -> Record {
        Record { stream, time_ns, bytes: bytes.to_vec() }
    }

    fn lines(from_the_beginning: bool, records: &[Record]) -> Vec<Line> {
        let mut lines = Lines::new(from_the_beginning);
        let mut out = Vec::new();
        for record in records {
            lines.read(record, |l| out.push(l));
        }
        lines.end(|l| out.push(l));
        out
    }

    fn texts(lines: &[Line]) -> Vec<(u64, String, bool)> {
        lines.iter().map(|l| (l.time_ns, String::from_utf8_lossy(&l.bytes).into_owned(), l.whole)).collect()
    }

    #[test]
    fn a_line_has_the_time_of_its_beginning_and_streams_do_not_mix() {
        let (out, err) = (Stream::Stdout, Stream::Stderr);
        let read = lines(
            true,
            &[record(out, 1, b"a"), record(err, 2, b"x\ny"), record(out, 3, b"b\nc"), record(err, 4, b"z")],
        );
        let expected = [(2, "x\n"), (1, "ab\n"), (2, "yz"), (3, "c")];
        assert_eq!(texts(&read), expected.map(|(at, text)| (at, text.to_owned(), true)));
    }

    #[test]
    fn a_process_that_ends_within_a_line_does_not_join_the_next_ones() {
        let out = Stream::Stdout;
        let read = lines(true, &[record(out, 1, b"first"), record(out, 2, b""), record(out, 3, b"second\n")]);
        assert_eq!(texts(&read), [(1, "first".to_owned(), true), (3, "second\n".to_owned(), true)]);
    }

    #[test]
    fn a_line_that_began_before_is_not_whole_up_to_its_line_feed() {
        let long = vec![b'x'; PIECE + 1];
        let read = lines(false, &[record(Stream::Stdout, 1, &long), record(Stream::Stdout, 2, b"\nnext\n")]);
        let seen: Vec<_> = read.iter().map(|l| (l.bytes.len(), l.whole)).collect();
        assert_eq!(seen, [(PIECE, false), (2, false), (5, true)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added_however_output_is_cut(
            bytes in proptest::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 1..400),
            cut in 1_usize..50,
        ) {
            let records: Vec<_> = bytes.chunks(cut).map(|c| record(Stream::Stdout, 1, c)).collect();
            let read = lines(true, &records);
            let joined: Vec<u8> = read.iter().flat_map(|l| l.bytes.clone()).collect();
            prop_assert_eq!(joined, bytes);
            for line in &read[..read.len() - 1] {
                prop_assert_eq!(line.bytes.iter().filter(|b| **b == b'\n').count(), 1);
                prop_assert!(line.bytes.ends_with(b"\n"));
            }
        }
    }
}
