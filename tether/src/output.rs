//! Carries the process's output, record by record, to the serial port that ends in a file.

use std::{
    fs::File,
    io::{Read, Write},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use tether_proto::record::{self, MAX_BYTES, Stream};
use tokio::{sync::oneshot, time::timeout};

use crate::feed::Feed;

/// So many records wait for the port; then the process waits, as it does with Docker.
const WAITING: usize = 64;
/// How long output may take to arrive once every process is gone: the port may be slow.
const LIMIT: Duration = Duration::from_secs(30);

/// The output's way out.  Each stream has a thread that reads it, and one more writes: a slow port holds up nobody else.
#[derive(Debug)]
pub(crate) struct Output {
    /// Held from the time that a record gets until it waits for the port, so that the log has them in the order of their times:
    /// who reads on from a time would miss one that comes late.
    sender: Arc<Mutex<SyncSender<Vec<u8>>>>,
    feed: Feed,
    written: oneshot::Receiver<()>,
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl Output {
    /// Output that goes to `port`, and to whoever listens to `feed`.
    pub(crate) fn to(mut port: File, feed: Feed) -> Self {
        let (sender, records) = sync_channel::<Vec<u8>>(WAITING);
        let (done, written) = oneshot::channel();
        let ours = feed.clone();
        thread::spawn(move || {
            for record in records {
                if let Err(error) = port.write_all(&record) {
                    log::error!("cannot write the container's output: {error}");
                }
            }
            // Every stream has ended.
            feed.end();
            if let Err(error) = port.write_all(&record::end(now_ns().max(feed.last_ns()))) {
                log::error!("cannot write the end of the container's output: {error}");
            }
            // A port of a real machine has bytes under way; ENOTTY where it is a file.
            let _ = nix::sys::termios::tcdrain(&port);
            let _ = done.send(());
        });
        Self { sender: Arc::new(Mutex::new(sender)), feed: ours, written }
    }

    /// Reads `source` until its end.
    pub(crate) fn carry(&self, stream: Stream, mut source: File) {
        let (sender, feed) = (Arc::clone(&self.sender), self.feed.clone());
        thread::spawn(move || {
            let mut bytes = vec![0; MAX_BYTES];
            loop {
                match source.read(&mut bytes) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    // A terminal ends with EIO.
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
                        let time_ns = feed.push(stream, now_ns(), &bytes[..count]);
                        if sender.send(record::encode(stream, time_ns, &bytes[..count])).is_err() {
                            return;
                        }
                    }
                }
            }
        });
    }

    /// Waits until all streams have ended and everything is written.
    pub(crate) async fn finish(self) {
        drop(self.sender);
        if timeout(LIMIT, self.written).await.is_err() {
            log::error!("the container's output is not complete: its port takes no more");
        }
    }
}

#[cfg(test)]
mod tests {
    use tether_proto::record::Reader;

    use super::*;

    const WRITES: usize = 50_000;

    #[tokio::test]
    async fn records_of_both_streams_are_in_the_order_of_their_times() {
        let port = tempfile::NamedTempFile::new().unwrap();
        let output = Output::to(port.reopen().unwrap(), Feed::default());
        let writers: Vec<_> = [Stream::Stdout, Stream::Stderr]
            .map(|stream| {
                let (reader, mut writer) = std::io::pipe().unwrap();
                output.carry(stream, File::from(std::os::fd::OwnedFd::from(reader)));
                thread::spawn(move || (0..WRITES).for_each(|_| writer.write_all(b"x").unwrap()))
            })
            .into();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        output.finish().await;
        let mut records = Reader::default().read(&std::fs::read(port.path()).unwrap());
        let end = records.pop().unwrap();
        assert!(end.bytes.is_empty(), "{end:?}");
        assert_eq!(records.iter().map(|record| record.bytes.len()).sum::<usize>(), 2 * WRITES);
        assert!(records.windows(2).all(|two| two[0].time_ns < two[1].time_ns));
    }
}
