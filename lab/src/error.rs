//! What goes wrong in the lab's own machinery (the API's faults are another matter).

use std::path::PathBuf;

/// A failure of the lab: what was being done, to what, why, and what helps.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, directory or socket did not do as asked.
    #[error("cannot {what} {path}")]
    File {
        /// The verb, with its preposition.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system refused something that is not about a file.
    #[error("cannot {what}")]
    System {
        /// What was asked for.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot run {program} (is it installed?)")]
    Spawn {
        /// Its name.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program ended badly.
    #[error("{program} failed ({status}) while the lab tried to {what}: {output}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// What it was run for.
        what: String,
        /// The last of its output.
        output: String,
    },
    /// QEMU answered a command with an error.
    #[error("QEMU refused {command}: {reason}")]
    Qmp {
        /// The QMP command.
        command: String,
        /// QEMU's description.
        reason: String,
    },
    /// A QEMU process is gone or does not speak.
    #[error("the QEMU process of {vm} is gone: {reason}")]
    Gone {
        /// Which VM.
        vm: String,
        /// What was seen of it.
        reason: String,
    },
    /// A document of the lab is not readable.
    #[error("{path} is not a document of this lab: {reason}")]
    Document {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// What was asked for cannot be, and the message says what helps.
    #[error("{0}")]
    Refused(String),
}

/// Result with the lab's error.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err` on file operations.
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    /// For `map_err` on system calls.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }

    /// The whole chain of causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
