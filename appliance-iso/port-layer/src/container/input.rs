//! [`Input`]: what an attached client sends its process, whatever lines break.
//!
//! It is kept until the guest has taken it, which it tells in bytes from the beginning; a line that follows another begins after
//! what was taken before.

use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

use tokio::sync::mpsc;

/// Bytes that are under way; then the client waits.
const WINDOW: usize = 256 * 1024;

/// A client's input.
#[derive(Debug)]
pub(super) struct Input {
    pieces: mpsc::Receiver<Vec<u8>>,
    /// The client has no more.
    ended: bool,
    /// What the guest has not taken, as far as is known.
    kept: VecDeque<Vec<u8>>,
    /// Bytes of all input before that.
    taken: u64,
    /// How many pieces of what is kept this line was given; none until its guest has told where to begin.
    given: Option<usize>,
    /// The guest tells what it takes; one of an older version does not.
    told: bool,
    /// Of the line that waits.
    waker: Option<Waker>,
}

impl Input {
    pub(super) fn of(pieces: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { pieces, ended: false, kept: VecDeque::new(), taken: 0, given: None, told: true, waker: None }
    }

    /// Another line is to have it, when its guest has told what it has.
    pub(super) fn another_line(&mut self) {
        self.given = None;
    }

    /// The guest goes on after so many bytes, or tells nothing of it.
    pub(super) fn begin(&mut self, taken: Option<u64>) {
        self.told = taken.is_some();
        match taken {
            Some(taken) if taken >= self.taken => self.forget(taken),
            // It does not remember, and counts what comes from here on.
            Some(taken) => self.taken = taken,
            None => self.kept.clear(),
        }
        self.given = Some(0);
        self.wake();
    }

    /// The guest has taken so many bytes.
    pub(super) fn has_taken(&mut self, taken: u64) {
        self.forget(taken);
        self.wake();
    }

    fn forget(&mut self, taken: u64) {
        while let Some(first) = self.kept.front_mut() {
            let more = usize::try_from(taken.saturating_sub(self.taken)).unwrap_or(usize::MAX);
            if more == 0 {
                return;
            }
            if more < first.len() {
                first.drain(..more);
                self.taken = taken;
                return;
            }
            self.taken += first.len() as u64;
            self.kept.pop_front();
            self.given = self.given.map(|given| given.saturating_sub(1));
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next piece for the line; none when the client has no more.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        // Also for what comes of the guest.
        self.waker = Some(context.waker().clone());
        let Some(given) = self.given else { return Poll::Pending };
        if let Some(piece) = self.kept.get(given) {
            self.given = Some(given + 1);
            return Poll::Ready(Some(piece.clone()));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        if self.kept.iter().map(Vec::len).sum::<usize>() >= WINDOW {
            return Poll::Pending;
        }
        let Poll::Ready(piece) = self.pieces.poll_recv(context) else { return Poll::Pending };
        match &piece {
            Some(piece) if self.told => {
                self.kept.push_back(piece.clone());
                self.given = Some(given + 1);
            }
            Some(_) => {}
            None => self.ended = true,
        }
        Poll::Ready(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(input: &mut Input) -> Poll<Option<Vec<u8>>> {
        input.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// What a line is given now.
    fn given(input: &mut Input) -> String {
        let mut text = Vec::new();
        while let Poll::Ready(Some(piece)) = poll(input) {
            text.extend(piece);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_line_goes_on_where_the_guest_is() {
        let (client, pieces) = mpsc::channel(8);
        let mut input = Input::of(pieces);
        client.try_send(b"one ".to_vec()).unwrap();
        client.try_send(b"two ".to_vec()).unwrap();
        assert_eq!(given(&mut input), "", "its guest has not told where to begin");
        input.begin(Some(0));
        assert_eq!(given(&mut input), "one two ");
        input.has_taken(4);
        // The line breaks; what the guest has was told by nobody.
        input.another_line();
        client.try_send(b"three".to_vec()).unwrap();
        assert_eq!(given(&mut input), "");
        input.begin(Some(6));
        assert_eq!(given(&mut input), "o three");
        input.another_line();
        input.begin(Some(8));
        assert_eq!(given(&mut input), "three");
        drop(client);
        input.has_taken(13);
        assert_eq!(poll(&mut input), Poll::Ready(None));
        input.another_line();
        input.begin(Some(13));
        assert_eq!(poll(&mut input), Poll::Ready(None), "each line hears of the end");
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let (client, pieces) = mpsc::channel(8);
        let mut input = Input::of(pieces);
        input.begin(Some(0));
        for _ in 0..3 {
            client.try_send(vec![0; WINDOW]).unwrap();
        }
        assert_eq!(given(&mut input).len(), WINDOW);
        input.has_taken(WINDOW as u64);
        assert_eq!(given(&mut input).len(), WINDOW);
        // A guest that has forgotten counts anew.
        input.another_line();
        input.begin(Some(0));
        assert_eq!(given(&mut input).len(), WINDOW);
        input.has_taken(WINDOW as u64);
        assert_eq!(given(&mut input).len(), WINDOW);
    }

    #[test]
    fn an_older_guest_is_given_everything_once() {
        let (client, pieces) = mpsc::channel(8);
        let mut input = Input::of(pieces);
        input.begin(None);
        for _ in 0..3 {
            client.try_send(vec![0; WINDOW]).unwrap();
        }
        assert_eq!(given(&mut input).len(), 3 * WINDOW);
        input.another_line();
        input.begin(None);
        assert_eq!(given(&mut input), "");
    }
}
