//! [`Feed`]: the newest output of the container's process, for those who are attached.
//!
//! It is bounded, and nobody waits for a slow reader: what one has missed is in the container's log, where it is told to look.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tether_proto::{control::Output, record::Stream};
use tokio::sync::watch;

/// Bytes of output that are held.
const HELD: usize = 256 * 1024;

/// The newest output; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    held: VecDeque<Output>,
    bytes: usize,
    /// Of the last output that is not held any more.
    dropped_ns: u64,
    /// Of the newest.
    last_ns: u64,
    ended: bool,
}

/// What comes after some time.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// Output.
    Output(Output),
    /// There will be none.
    End,
    /// There was some that is not held any more.
    Lost,
}

impl Default for Feed {
    fn default() -> Self {
        Self { inner: Arc::default(), changed: watch::Sender::new(()) }
    }
}

impl Feed {
    /// Takes in output that is read at `now_ns`; returns the time that it gets, which is later than that of any other.
    pub(crate) fn push(&self, stream: Stream, now_ns: u64, bytes: &[u8]) -> u64 {
        let mut inner = self.lock();
        // Two may be read within a tick of the clock, and a clock may be set back.
        let time_ns = now_ns.max(inner.last_ns + 1);
        inner.last_ns = time_ns;
        inner.bytes += bytes.len();
        let stream = tether_proto::control::Stream::from(stream).into();
        inner.held.push_back(Output { stream, time_ns, bytes: bytes.to_vec() });
        while inner.bytes > HELD {
            let Some(oldest) = inner.held.pop_front() else { break };
            inner.bytes -= oldest.bytes.len();
            inner.dropped_ns = oldest.time_ns;
        }
        drop(inner);
        self.changed.send_replace(());
        time_ns
    }

    /// The process and everything that it has left behind is gone.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.changed.send_replace(());
    }

    /// The time of the newest output.
    pub(crate) fn last_ns(&self) -> u64 {
        self.lock().last_ns
    }

    /// Waits for what comes after `after_ns`.
    pub(crate) async fn after(&self, after_ns: u64) -> Next {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(next) = self.look(after_ns) {
                return next;
            }
            if changed.changed().await.is_err() {
                return Next::End;
            }
        }
    }

    fn look(&self, after_ns: u64) -> Option<Next> {
        let inner = self.lock();
        if after_ns < inner.dropped_ns {
            return Some(Next::Lost);
        }
        let at = inner.held.partition_point(|output| output.time_ns <= after_ns);
        match inner.held.get(at) {
            Some(output) => Some(Next::Output(output.clone())),
            None => inner.ended.then_some(Next::End),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_given_in_order_until_its_end() {
        let feed = Feed::default();
        assert_eq!(feed.push(Stream::Stdout, 5, b"a"), 5);
        assert_eq!(feed.push(Stream::Stderr, 5, b"b"), 6, "no two have one time");
        assert_eq!(feed.push(Stream::Stdout, 2, b"c"), 7, "nor does time run backwards");
        let mut seen = Vec::new();
        let mut after = 0;
        let waiting = feed.clone();
        let reader = tokio::spawn(async move {
            while let Next::Output(output) = waiting.after(after).await {
                after = output.time_ns;
                seen.extend(output.bytes);
            }
            seen
        });
        tokio::task::yield_now().await;
        feed.push(Stream::Stdout, 9, b"d");
        feed.end();
        assert_eq!(reader.await.unwrap(), b"abcd");
        assert_eq!((feed.last_ns(), feed.after(9).await), (9, Next::End));
    }

    #[tokio::test]
    async fn what_is_not_held_is_said_to_be_lost() {
        let feed = Feed::default();
        for time in 1..=40 {
            feed.push(Stream::Stdout, time, &[0; 16 * 1024]);
        }
        assert_eq!(feed.after(0).await, Next::Lost);
        assert_eq!(feed.after(23).await, Next::Lost);
        assert!(matches!(feed.after(24).await, Next::Output(output) if output.time_ns == 25));
    }
}
