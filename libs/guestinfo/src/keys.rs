//! [`Keys`]: what most users of a [`Channel`] need of it, so that tests can stand in its place.

use crate::{Channel, Error};

/// The guest's keys.
pub trait Keys: Clone + Send + Sync + 'static {
    /// Reads a key.  Blocks.
    ///
    /// # Errors
    /// See [`Error`].
    fn get(&self, key: &str) -> Result<Option<String>, Error>;
    /// Writes a key.  Blocks.
    ///
    /// # Errors
    /// See [`Error`].
    fn set(&self, key: &str, value: &str) -> Result<(), Error>;
}

impl Keys for Channel {
    fn get(&self, key: &str) -> Result<Option<String>, Error> {
        Self::get(self, key)
    }

    fn set(&self, key: &str, value: &str) -> Result<(), Error> {
        Self::set(self, key, value)
    }
}
