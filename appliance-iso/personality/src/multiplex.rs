//! Docker's stream of several channels: frames of `[channel, 0, 0, 0, length as 4 bytes big-endian]` and so many bytes.

use crate::version::ApiVersion;

/// Which channel a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout = 1,
    Stderr = 2,
    /// The daemon's own words; the client fails with them.
    SystemError = 3,
}

/// One frame.
pub(crate) fn frame(channel: Channel, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(bytes.len() + 8);
    out.extend([channel as u8, 0, 0, 0]);
    out.extend(length.to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

/// The stream's media type; the one with channels has a name of its own since 1.42.
pub(crate) fn media_type(tty: bool, version: ApiVersion) -> &'static str {
    if !tty && version >= ApiVersion::new(1, 42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    }
}
