//! [`MainProcess`]: the container's own process, as those see it who are attached.

use std::{
    fs::File,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::unistd::Pid;

use super::sessions::Sessions;
use crate::{
    feed::Feed,
    input::{self, Input},
    process::Streams,
};

/// The container's own process.
#[derive(Debug)]
pub(crate) struct MainProcess {
    pub(crate) pid: Pid,
    /// Nanoseconds since 1970.
    pub(crate) started_ns: u64,
    pub(crate) feed: Feed,
    pub(crate) terminal: Option<File>,
    input: Mutex<Option<Input>>,
    /// Who sends it.
    pub(crate) sessions: Sessions,
    /// Its input ends with the first client's.
    input_once: bool,
    ended: AtomicBool,
}

impl MainProcess {
    /// The process `pid` with our ends of its streams; its output is carried elsewhere, and comes here by `feed`.
    pub(crate) fn new(pid: Pid, started_ns: u64, feed: Feed, streams: &mut Streams, input_once: bool) -> Self {
        let input = Mutex::new(streams.input.take().map(input::into));
        Self {
            pid,
            started_ns,
            feed,
            terminal: streams.terminal.take(),
            input,
            sessions: Sessions::default(),
            input_once,
            ended: AtomicBool::new(false),
        }
    }

    /// It has ended; its output may still be had.
    pub(crate) fn has_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Whether it runs.
    pub(crate) fn runs(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// Where its input goes; none when it has no input, or no more.
    pub(crate) fn input(&self) -> Option<Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A client has no more input.
    pub(crate) fn input_ended(&self) {
        if self.input_once {
            self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}
