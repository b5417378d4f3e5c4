//! `docker exec`: create, start, inspect, resize.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::{Body, to_bytes},
    extract::{Path, Query, State as Shared},
    http::{Request, Response, StatusCode},
    response::IntoResponse,
    routing::{get, post},
};
use bollard_stubs::models::{ExecConfig, ExecInspectResponse, ExecStartConfig, ProcessConfig};
use futures_util::{StreamExt, stream};
use port_layer::Failure;
use port_layer::container::Stream;
use port_layer::container::exec::{ExecSpec, ExecState};
use serde_json::{Value, json};

use super::attach::ResizeQuery;
use super::container::done;
use super::detach::Keys;
use super::hijack::{self, Form, Said, Streams};
use super::{State, container_name, words};
use crate::error::ApiError;
use crate::version::ApiVersion;

/// Bytes of a request that says how to start.
const REQUEST: usize = 64 * 1024;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/json", get(inspect))
        .route("/exec/{id}/resize", post(resize))
}

async fn create(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Json(wanted): Json<ExecConfig>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let args = wanted.cmd.unwrap_or_default();
    if args.is_empty() {
        return Err(ApiError::Bad("No exec command specified".to_owned()));
    }
    if wanted.privileged.unwrap_or_default() {
        let text =
            "--privileged is not supported: a container of a VCH is a VM of its own, and its processes have all of it";
        return Err(ApiError::Bad(text.to_owned()));
    }
    let detach_keys = wanted.detach_keys.unwrap_or_default();
    Keys::read(&detach_keys)?;
    let engine = state.engine_for(&id).await?;
    let table = engine.table();
    let container = table.find(&id).map_err(|e| ApiError::NotFound(e.to_string()))?;
    let own = words::config(&container.record);
    let tty = wanted.tty.unwrap_or_default();
    let given = |text: Option<String>| text.filter(|t| !t.is_empty());
    let mut env: Vec<String> = own.env.unwrap_or_default();
    env.extend(wanted.env.unwrap_or_default());
    let spec = ExecSpec {
        args,
        env,
        cwd: given(wanted.working_dir).or(own.working_dir).unwrap_or_default(),
        user: given(wanted.user).or(own.user).unwrap_or_default(),
        tty,
        stdin: wanted.attach_stdin.unwrap_or_default(),
        attach: [wanted.attach_stdout.unwrap_or_default(), wanted.attach_stderr.unwrap_or_default()],
        detach_keys,
    };
    let id = engine.create_exec(&container.record.id, container_name::id(), spec)?;
    // The published type writes it in lower case, which no client reads but Go's.
    Ok((StatusCode::CREATED, Json(json!({"Id": id}))))
}

async fn start(
    Shared(state): Shared<Arc<State>>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, REQUEST).await.map_err(|e| ApiError::Bad(format!("invalid request: {e}")))?;
    let wanted: ExecStartConfig = match body.trim_ascii() {
        b"" => ExecStartConfig::default(),
        json => serde_json::from_slice(json).map_err(|e| ApiError::Bad(format!("invalid JSON: {e}")))?,
    };
    let none = || ApiError::NotFound(format!("No such exec instance: {id}"));
    let engine = state.engine().await?.ok_or_else(none)?;
    let exec = engine.exec(&id)?;
    let size = match wanted.console_size.as_deref() {
        // Height comes first.
        Some([height, width]) => (side(*width), side(*height)),
        _ => (0, 0),
    };
    let starting = Arc::clone(&engine);
    let which = id.clone();
    let started = tokio::spawn(async move { starting.start_exec(&which, size).await }).await;
    let started = started.map_err(|_| ApiError::Failed("the operation ended without an answer".to_owned()))?;
    if wanted.detach.unwrap_or_default() {
        // Nobody wants its output.
        drop(started?);
        return Ok(StatusCode::OK.into_response());
    }
    let tty = exec.spec.tty;
    let [stdout, stderr] = exec.spec.attach;
    let form = Form { tty, version, stdout, stderr: stderr && !tty };
    let (output, input) = match started {
        Ok(streams) => {
            let output = stream::unfold(streams.output, |mut output| async move {
                let record = output.recv().await?;
                Some((Said::Output(record.stream, record.bytes), output))
            });
            (output.boxed(), exec.spec.stdin.then_some(streams.input))
        }
        // Docker has answered by then, and says it within the answer; the client finds the exit code by asking.
        Err(Failure::NoProcess { error, .. }) => {
            let text = format!("OCI runtime exec failed: exec failed: unable to start container process: {error}\r\n");
            (stream::iter([Said::Output(Stream::Stdout, text.into_bytes())]).boxed(), None)
        }
        Err(other) => return Err(other.into()),
    };
    let streams = Streams {
        output,
        input,
        keys: (tty && exec.spec.stdin).then(|| Keys::read(&exec.spec.detach_keys)).transpose()?,
        hold: Box::new(()),
        detached: Box::new(|| {}),
    };
    // The body was read: what comes after it is input.
    Ok(hijack::answer(Request::from_parts(head, Body::empty()), form, streams))
}

fn side(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

async fn inspect(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let none = || ApiError::NotFound(format!("No such exec instance: {id}"));
    let exec = state.engine().await?.ok_or_else(none)?.exec(&id)?;
    let (running, exit_code, pid) = match exec.state {
        ExecState::Created => (false, None, 0),
        ExecState::Running { pid } => (true, None, i64::from(pid)),
        ExecState::Ended { code } => (false, Some(i64::from(code)), 0),
    };
    let (program, arguments) =
        exec.spec.args.split_first().map_or((String::new(), Vec::new()), |(p, a)| (p.clone(), a.to_vec()));
    let [stdout, stderr] = exec.spec.attach;
    let answer = ExecInspectResponse {
        can_remove: Some(false),
        container_id: Some(exec.container),
        detach_keys: Some(exec.spec.detach_keys),
        exit_code,
        id: Some(exec.id),
        open_stdin: Some(exec.spec.stdin),
        open_stderr: Some(stderr),
        open_stdout: Some(stdout),
        running: Some(running),
        process_config: Some(ProcessConfig {
            arguments: Some(arguments),
            entrypoint: Some(program),
            privileged: Some(false),
            tty: Some(exec.spec.tty),
            user: Some(exec.spec.user).filter(|user| !user.is_empty()),
        }),
        pid: Some(pid),
    };
    let mut answer = serde_json::to_value(answer).map_err(|e| ApiError::Failed(e.to_string()))?;
    // The published type leaves it out where there is none; clients look for it.
    answer["ExitCode"] = exit_code.into();
    Ok(Json(answer))
}

async fn resize(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<ResizeQuery>,
) -> Result<StatusCode, ApiError> {
    let (width, height) = query.size()?;
    let none = || ApiError::NotFound(format!("No such exec instance: {id}"));
    let engine = state.engine().await?.ok_or_else(none)?;
    done(async move { engine.resize_exec(&id, width, height).await }).await?;
    Ok(StatusCode::OK)
}
