//! Standard input of a process: a queue that a thread empties into it, so that a process that does not read holds up nobody.

use std::{fs::File, io::Write, thread};

use tokio::sync::mpsc;

/// So many pieces wait; then the client does.
const WAITING: usize = 16;

/// Where input is put in; the process's input ends when the last one is dropped.
pub(crate) type Input = mpsc::Sender<Vec<u8>>;

/// Input that goes into `file`.
pub(crate) fn into(mut file: File) -> Input {
    let (sender, mut pieces) = mpsc::channel::<Vec<u8>>(WAITING);
    thread::spawn(move || {
        while let Some(piece) = pieces.blocking_recv() {
            // A process that has closed its input wants no more of it.
            if file.write_all(&piece).is_err() {
                return;
            }
        }
    });
    sender
}
