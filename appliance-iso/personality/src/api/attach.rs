//! `POST /containers/{id}/attach`, `/resize`, and `GET /containers/{id}/top`.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{Request, Response, StatusCode},
    routing::{get, post},
};
use bollard_stubs::models::ContainerTopResponse;
use futures_util::{StreamExt, stream};
use port_layer::container::attach::AttachQuery as Wanted;
use serde::Deserialize;

use super::detach::Keys;
use super::hijack::{self, Form, Said, Streams};
use super::query::truth;
use super::{State, top, words};
use crate::error::ApiError;
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/containers/{id}/attach", post(attach))
        .route("/containers/{id}/resize", post(resize))
        .route("/containers/{id}/top", get(processes))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttachQuery {
    detach_keys: Option<String>,
    logs: Option<String>,
    stream: Option<String>,
    stdin: Option<String>,
    stdout: Option<String>,
    stderr: Option<String>,
}

async fn attach(
    Shared(state): Shared<Arc<State>>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    Query(query): Query<AttachQuery>,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let engine = state.engine_for(&id).await?;
    let table = engine.table();
    let container = table.find(&id).map_err(|e| ApiError::NotFound(e.to_string()))?;
    let config = words::config(&container.record);
    let tty = config.tty.unwrap_or_default();
    let keys = Keys::read(query.detach_keys.as_deref().unwrap_or_default())?;
    let stdin = truth(query.stdin.as_ref()) && config.open_stdin.unwrap_or_default();
    let wanted = Wanted { logs: truth(query.logs.as_ref()), stream: truth(query.stream.as_ref()), stdin };
    let attached = engine.attach(&container.record.id, wanted).await?;
    let output = stream::unfold(attached.output, |mut output| async move {
        let said = match output.recv().await? {
            Ok(record) => Said::Output(record.stream, record.bytes),
            Err(error) => Said::Error(format!("attach: {error}\n")),
        };
        Some((said, output))
    });
    let form = Form { tty, version, stdout: truth(query.stdout.as_ref()), stderr: truth(query.stderr.as_ref()) };
    let id = container.record.id.clone();
    let engine_then = Arc::clone(&engine);
    let streams = Streams {
        output: output.boxed(),
        input: stdin.then_some(attached.input),
        keys: (tty && stdin).then_some(keys),
        hold: Box::new(attached.hold),
        detached: Box::new(move || engine_then.detached(&id)),
    };
    Ok(hijack::answer(request, form, streams))
}

#[derive(Debug, Deserialize)]
pub(super) struct ResizeQuery {
    h: Option<String>,
    w: Option<String>,
}

impl ResizeQuery {
    /// Width and height.
    pub(super) fn size(&self) -> Result<(u32, u32), ApiError> {
        let side = |name: &str, text: Option<&String>| {
            let text = text.map(String::as_str).unwrap_or_default();
            text.parse().map_err(|_| ApiError::Bad(format!("invalid resize {name} {text:?}: it is no number")))
        };
        Ok((side("width", self.w.as_ref())?, side("height", self.h.as_ref())?))
    }
}

async fn resize(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<ResizeQuery>,
) -> Result<StatusCode, ApiError> {
    let (width, height) = query.size()?;
    state.engine_for(&id).await?.resize_container(&id, width, height).await?;
    Ok(StatusCode::OK)
}

#[derive(Debug, Deserialize)]
struct TopQuery {
    ps_args: Option<String>,
}

async fn processes(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<TopQuery>,
) -> Result<Json<ContainerTopResponse>, ApiError> {
    let columns = top::columns(query.ps_args.as_deref().unwrap_or("-ef"))?;
    let reply = state.engine_for(&id).await?.top(&id).await?;
    let (titles, processes) = top::table(&columns, &reply);
    Ok(Json(ContainerTopResponse { titles: Some(titles), processes: Some(processes) }))
}
