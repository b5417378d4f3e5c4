//! `GET /containers/{id}/logs`.

use std::sync::Arc;

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use port_layer::container::Stream;
use port_layer::container::logs::LogQuery;
use port_layer::container::output::Line;
use serde::Deserialize;

use super::query::{fixed, timestamp, truth};
use super::{State, words};
use crate::error::ApiError;
use crate::multiplex::{Channel, frame, media_type};
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/containers/{id}/logs", get(logs))
}

#[derive(Debug, Deserialize)]
struct LogsQuery {
    stdout: Option<String>,
    stderr: Option<String>,
    since: Option<String>,
    until: Option<String>,
    tail: Option<String>,
    follow: Option<String>,
    timestamps: Option<String>,
    details: Option<String>,
}

/// How a line is written.
#[derive(Debug, Clone, Copy)]
struct Form {
    timestamps: bool,
    details: bool,
    /// A terminal's output has no streams to tell apart.
    tty: bool,
}

async fn logs(
    Shared(state): Shared<Arc<State>>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    Query(query): Query<LogsQuery>,
) -> Result<Response, ApiError> {
    let (stdout, stderr) = (truth(query.stdout.as_ref()), truth(query.stderr.as_ref()));
    if !stdout && !stderr {
        return Err(ApiError::Bad("Bad parameters: you must choose at least one stream".to_owned()));
    }
    let wanted = LogQuery {
        stdout,
        stderr,
        since_ns: timestamp("since", query.since.as_ref())?,
        until_ns: timestamp("until", query.until.as_ref())?,
        // Docker: what is no number is all.
        tail: query.tail.and_then(|t| t.parse().ok()),
        follow: truth(query.follow.as_ref()),
    };
    let engine = state.engine_for(&id).await?;
    let table = engine.table();
    let container = table.find(&id).map_err(|e| ApiError::NotFound(e.to_string()))?;
    let form = Form {
        timestamps: truth(query.timestamps.as_ref()),
        details: truth(query.details.as_ref()),
        tty: words::config(&container.record).tty.unwrap_or_default(),
    };
    let lines = engine.logs(&container.record.id, wanted).await?;
    let body = stream::unfold(lines, move |mut lines| async move {
        let bytes = match lines.recv().await? {
            Ok(line) => form.write(&line),
            // The answer has begun: the error can only stand within it.
            Err(error) => form.complain(&format!("Error grabbing logs: {error}\n")),
        };
        Some((Ok::<_, std::convert::Infallible>(bytes), lines))
    });
    Ok(([(CONTENT_TYPE, media_type(form.tty, version))], Body::from_stream(body)).into_response())
}

impl Form {
    fn write(self, line: &Line) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(line.bytes.len() + 40);
        if self.timestamps {
            bytes.extend(fixed(line.time_ns).bytes());
            bytes.push(b' ');
        }
        if self.details {
            // No container has log attributes; their place stays.
            bytes.push(b' ');
        }
        bytes.extend_from_slice(&line.bytes);
        let channel = match line.stream {
            Stream::Stdout => Channel::Stdout,
            Stream::Stderr => Channel::Stderr,
        };
        if self.tty { bytes } else { frame(channel, &bytes) }
    }

    fn complain(self, text: &str) -> Vec<u8> {
        if self.tty { text.as_bytes().to_vec() } else { frame(Channel::SystemError, text.as_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_framed_unless_it_is_a_terminals() {
        let line = Line { stream: Stream::Stderr, time_ns: 1_000_000_001, bytes: b"x\n".to_vec(), whole: true };
        let plain = Form { timestamps: false, details: false, tty: false };
        assert_eq!(plain.write(&line), b"\x02\0\0\0\0\0\0\x02x\n");
        let told = Form { timestamps: true, details: true, tty: true };
        assert_eq!(told.write(&line), b"1970-01-01T00:00:01.000000001Z  x\n");
    }
}
