//! [`Budget`]: how much may be read of a stream before somebody allows more.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Bytes that may still be read; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Budget(Rc<Cell<u64>>);

/// A reader that fails when its budget is used up.
pub(crate) struct Budgeted<R> {
    inner: R,
    budget: Budget,
}

impl Budget {
    /// From now on so many bytes may be read.
    pub(crate) fn allow(&self, bytes: u64) {
        self.0.set(bytes);
    }

    pub(crate) fn reader<R: Read>(&self, inner: R) -> Budgeted<R> {
        Budgeted { inner, budget: self.clone() }
    }
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.budget.0.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("an entry's headers are too long"));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let n = self.inner.read(&mut buffer[..most])?;
        self.budget.0.set(left - n as u64);
        Ok(n)
    }
}
