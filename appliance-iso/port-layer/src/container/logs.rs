//! `docker logs`: the output file on the datastore, read in pieces, so that neither the guest nor a long log matters.
//!
//! ```text
//! find the place: the beginning, or a window at the end that holds the last lines
//! read to the end -> the process runs and it is followed: read on -> it has ended: read the rest, end
//! ```

use std::time::Duration;

use tether_proto::record::{Reader, Record, Stream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use vim25::Result;
use vim25::datastore::{DatastorePath, Piece};
use vim25::types::{AnyVirtualDevice, ManagedObjectReference};
use vim25::vm_file::VmFile;

use super::audience::Seat;
use super::output::{Line, Lines};
use super::phase::Power;
use super::reconciler::Watched;
use super::table::Container;
use super::vm::OUTPUT;
use crate::Site;
use crate::site::port_file;

/// Bytes read at once.
const PIECE: usize = 256 * 1024;
/// The first window at the end of the file in which the last lines are looked for.
const WINDOW: u64 = 64 * 1024;
/// Pauses between two looks at a file that is followed.
const LOOK: Duration = Duration::from_millis(500);
/// How long the VM of an ended process may take to go off, when the last of its output is on the datastore for certain.
const OFF: Duration = Duration::from_secs(10);
/// Lines that wait for a slow client: so much is read of a log that is about to be removed.
const QUEUE: usize = 1024;

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// None before this time, nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// None after this time.
    pub until_ns: Option<u64>,
    /// Only so many at the end, of both streams; then those of other streams and times are left out.
    pub tail: Option<u64>,
    /// Go on while the process runs.
    pub follow: bool,
}

/// Lines as they come; the end of the channel is the end of the log.
pub type LogLines = mpsc::Receiver<Result<Line>>;

/// The output file of one container.
pub(super) struct Output(VmFile);

/// A place in the output file, and what stands before it of a record that is not complete.
#[derive(Debug, Default)]
pub(super) struct Place {
    at: u64,
    reader: Reader,
}

impl Output {
    pub(super) async fn find(site: &Site, vm: &str) -> Result<Self> {
        let vm = ManagedObjectReference::new("VirtualMachine", vm);
        let facts = site.session.read(&vm, &["config.files.vmPathName", "config.hardware.device"]).await?;
        let file = match port(&facts.all("config.hardware.device")?) {
            Some(file) => file,
            None => {
                let path: String = facts.require("config.files.vmPathName")?;
                let vmx = DatastorePath::parse(&path)
                    .ok_or_else(|| vim25::Error::Invalid(format!("the VM's file {path:?} is no datastore path")))?;
                vmx.parent().join(OUTPUT)
            }
        };
        Ok(Self(VmFile::new(&site.session, &site.datacenter_path, vm, file)))
    }

    /// A piece from `offset` on; a process that has not run has no file.
    async fn read(&self, offset: u64, length: usize) -> Result<Piece> {
        match self.0.read_piece(offset, length).await {
            Err(e) if e.is_not_found() => Ok(Piece::default()),
            other => other,
        }
    }

    /// A place before which there is no record later than `after_ns`.
    pub(super) async fn place(&self, after_ns: u64) -> Result<Place> {
        let size = self.read(0, 1).await?.size;
        let mut window = WINDOW;
        loop {
            let at = size.saturating_sub(window);
            let first = match at {
                0 => None,
                _ => Reader::default().read(&self.read(at, PIECE).await?.bytes).into_iter().next(),
            };
            if at == 0 || first.is_some_and(|record| record.time_ns <= after_ns) {
                return Ok(Place { at, reader: Reader::default() });
            }
            window = window.saturating_mul(4);
        }
    }

    /// The records from `place` to the end of the file, a piece of them at a time; none at its end.
    pub(super) async fn records(&self, place: &mut Place) -> Result<Option<Vec<Record>>> {
        let piece = self.read(place.at, PIECE).await?;
        if piece.bytes.is_empty() {
            return Ok(None);
        }
        place.at += piece.bytes.len() as u64;
        Ok(Some(place.reader.read(&piece.bytes)))
    }

    /// Where reading is to begin, and how many lines are to be passed over from there, for the last `wanted` lines.  One without
    /// its line feed is one of them when the process has `ended`.
    async fn tail(&self, wanted: u64, ended: bool) -> Result<(u64, u64)> {
        let size = self.read(0, 1).await?.size;
        let mut window = WINDOW;
        loop {
            let start = size.saturating_sub(window);
            let mut count = Counted::default();
            let mut decoder = Decoder::new(start == 0);
            let mut at = start;
            while at < size {
                let piece = self.read(at, PIECE).await?;
                if piece.bytes.is_empty() {
                    break;
                }
                at += piece.bytes.len() as u64;
                decoder.read(&piece.bytes, |line| count.add(&line));
            }
            if ended {
                decoder.end(|line| count.add(&line));
            }
            if start == 0 || count.holds(wanted) {
                return Ok((start, count.lines.saturating_sub(wanted)));
            }
            window = window.saturating_mul(4);
        }
    }
}

/// The file of the VM's port for output.  After a Storage vMotion it stays where it was, and the VM's configuration does not.
fn port(devices: &[AnyVirtualDevice]) -> Option<DatastorePath> {
    devices.iter().filter_map(port_file).find(|file| file.path.rsplit('/').next() == Some(OUTPUT))
}

/// Lines in a window.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    lines: u64,
    /// Up to and with the last one whose beginning lies before the window.
    broken: u64,
}

impl Counted {
    fn add(&mut self, line: &Line) {
        self.lines += 1;
        if !line.whole {
            self.broken = self.lines;
        }
    }

    /// Whether the last `wanted` lines are there as a whole.
    fn holds(&self, wanted: u64) -> bool {
        self.lines - self.broken >= wanted
    }
}

/// Bytes of the file to lines.
struct Decoder {
    reader: Reader,
    lines: Lines,
}

impl Decoder {
    fn new(from_the_beginning: bool) -> Self {
        Self { reader: Reader::default(), lines: Lines::new(from_the_beginning) }
    }

    fn read(&mut self, bytes: &[u8], emit: impl FnMut(Line)) {
        let records = self.reader.read(bytes);
        self.take(&records, emit);
    }

    fn take(&mut self, records: &[Record], mut emit: impl FnMut(Line)) {
        for record in records {
            self.lines.read(record, &mut emit);
        }
    }

    fn end(&mut self, mut emit: impl FnMut(Line)) {
        let records = self.reader.end();
        self.take(&records, &mut emit);
        self.lines.end(emit);
    }
}

impl LogQuery {
    fn wants(&self, line: &Line) -> bool {
        let stream = match line.stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        stream && self.since_ns.is_none_or(|t| line.time_ns >= t) && self.until_ns.is_none_or(|t| line.time_ns <= t)
    }
}

/// Begins to read the log of `container`.  `seat` is held while the file is read.
///
/// # Errors
/// Those of vSphere up to where reading begins; later ones come through the channel.
pub(crate) async fn read(
    site: &Site,
    watched: &Watched,
    container: &Container,
    query: LogQuery,
    seat: Seat,
) -> Result<LogLines> {
    let output = Output::find(site, &container.vm).await?;
    let (start, pass) = match query.tail {
        Some(wanted) => output.tail(wanted, !container.phase().is_alive()).await?,
        None => (0, 0),
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let (watched, id) = (watched.clone(), container.record.id.clone());
    tokio::spawn(async move {
        let log = Log { output, watched, id, query, sender: sender.clone() };
        if let Err(error) = log.run(start, pass).await {
            let _ = sender.send(Err(error)).await;
        }
        drop(seat);
    });
    Ok(receiver)
}

/// A log that is being read for a client.
struct Log {
    output: Output,
    watched: Watched,
    id: String,
    query: LogQuery,
    sender: mpsc::Sender<Result<Line>>,
}

/// Whether more is wanted.
#[derive(PartialEq, Eq)]
enum Wanted {
    More,
    NoMore,
}

impl Log {
    async fn run(&self, start: u64, mut pass: u64) -> Result<()> {
        let mut decoder = Decoder::new(start == 0);
        let mut at = start;
        let end = self.query.until_ns.map(|until| Instant::now() + from_now(until));
        loop {
            // Asked before reading: what an ended process wrote is there then.
            let lives = self.lives();
            let more = self.query.follow && lives && end.is_none_or(|end| Instant::now() < end);
            loop {
                let piece = self.output.read(at, PIECE).await?;
                if piece.bytes.is_empty() {
                    break;
                }
                at += piece.bytes.len() as u64;
                let mut lines = Vec::new();
                decoder.read(&piece.bytes, |line| lines.push(line));
                if self.give(lines, &mut pass).await == Wanted::NoMore {
                    return Ok(());
                }
            }
            if !more {
                let mut lines = Vec::new();
                // As with Docker, what a process has written of a line is none before its line feed, or its own end.
                if !lives {
                    decoder.end(|line| lines.push(line));
                }
                self.give(lines, &mut pass).await;
                return Ok(());
            }
            if self.pause().await == Wanted::NoMore {
                return Ok(());
            }
        }
    }

    async fn give(&self, lines: Vec<Line>, pass: &mut u64) -> Wanted {
        for line in lines {
            if *pass > 0 {
                *pass -= 1;
            } else if self.query.wants(&line) && self.sender.send(Ok(line)).await.is_err() {
                return Wanted::NoMore;
            }
        }
        Wanted::More
    }

    fn lives(&self) -> bool {
        self.watched.table().find(&self.id).is_ok_and(|c| c.phase().is_alive())
    }

    /// Waits for more output: a moment, or until the process has ended and its output is there.
    async fn pause(&self) -> Wanted {
        let ended = self.watched.until(|t| t.find(&self.id).map_or(true, |c| !c.phase().is_alive()).then_some(()));
        tokio::select! {
            () = self.sender.closed() => return Wanted::NoMore,
            () = sleep(LOOK) => return Wanted::More,
            _ = ended => {}
        }
        complete(&self.watched, &self.id).await;
        Wanted::More
    }
}

/// Waits until the VM of a process that has ended is off: then the last of its output is on the datastore.
pub(super) async fn complete(watched: &Watched, id: &str) {
    // When vSphere is not watched any more it ends with what is there.
    let off = watched.until(|t| t.find(id).map_or(true, |c| c.power != Power::On).then_some(()));
    let _ = timeout(OFF, off).await;
}

fn from_now(ns: u64) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Beyond what a clock holds, for ever will do.
    Duration::from_nanos(ns).saturating_sub(now).min(Duration::from_secs(100 * 365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use vim25::types::{
        VirtualDevice, VirtualDeviceFileBackingInfo, VirtualSerialPort, VirtualSerialPortFileBackingInfo,
    };

    use super::*;

    fn line(stream: Stream, time_ns: u64, whole: bool) -> Line {
        Line { stream, time_ns, bytes: b"x\n".to_vec(), whole }
    }

    #[test]
    fn streams_and_times_are_chosen() {
        let all = LogQuery { stdout: true, stderr: true, since_ns: None, until_ns: None, tail: None, follow: false };
        assert!(all.wants(&line(Stream::Stderr, 5, true)));
        assert!(!LogQuery { stderr: false, ..all }.wants(&line(Stream::Stderr, 5, true)));
        let some = LogQuery { since_ns: Some(5), until_ns: Some(6), ..all };
        let times: Vec<u64> = (4..8).filter(|t| some.wants(&line(Stream::Stdout, *t, true))).collect();
        assert_eq!(times, [5, 6]);
    }

    #[test]
    fn the_output_is_where_the_port_writes_it() {
        let port_to = |name: &str| {
            let file = VirtualDeviceFileBackingInfo { file_name: name.into(), ..Default::default() };
            let backing = Some(VirtualSerialPortFileBackingInfo { base: file }.into());
            let base = VirtualDevice { backing, ..Default::default() };
            AnyVirtualDevice::from(VirtualSerialPort { base, yield_on_poll: true })
        };
        let devices = [port_to("[old] vm/tether.log"), port_to("[old] vm/output.log")];
        assert_eq!(port(&devices), Some(DatastorePath::new("old", "vm/output.log")));
        assert_eq!(port(&devices[..1]), None);
    }

    #[test]
    fn a_window_holds_the_last_lines_when_none_of_them_began_before_it() {
        let mut count = Counted::default();
        for whole in [false, true, true, false, true, true] {
            count.add(&line(Stream::Stdout, 1, whole));
        }
        assert_eq!(count, Counted { lines: 6, broken: 4 });
        assert_eq!([2, 3].map(|n| count.holds(n)), [true, false]);
    }
}
