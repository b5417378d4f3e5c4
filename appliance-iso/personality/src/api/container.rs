//! Containers: list, inspect, start, stop, kill, restart, wait, remove.

use std::sync::Arc;
use std::time::Duration;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use bollard_stubs::models::{
    ContainerInspectResponse, ContainerPruneResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryHostConfig, ContainerSummaryNetworkSettings, ContainerSummaryStateEnum, ContainerWaitResponse,
};
use futures_util::stream;
use image_store::index::Index;
use port_layer::container::health::Health;
use port_layer::container::phase::Phase;
use port_layer::container::record::FOREVER;
use port_layer::container::table::Container;
use port_layer::{Engine, Failure, Outcome, Until};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::sleep;

use super::container_filter::Filters;
use super::query::{moment, truth};
use super::words;
use super::{State, container_name, filter};
use crate::error::ApiError;

/// Pause between two looks for the way to vSphere.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/wait", post(wait))
        .route("/containers/prune", post(prune))
        .route("/containers/{id}", delete(remove))
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    all: Option<String>,
    limit: Option<i64>,
    size: Option<String>,
    filters: Option<String>,
}

async fn list(
    Shared(state): Shared<Arc<State>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<ContainerSummary>>, ApiError> {
    let mut filters = Filters::read(query.filters.as_deref().unwrap_or_default())?;
    let Some(engine) = state.engine().await? else { return Ok(Json(Vec::new())) };
    let (table, index) = (engine.table(), engine.images().index());
    filters.check(&table)?;
    filters.find_images(&index);
    let limit = query.limit.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    // Who asks for the newest or for a state means those that do not run, too.
    let all = truth(query.all.as_ref()) || limit.is_some() || filters.names_a_state();
    let mut found: Vec<(&Container, Phase, Option<Health>)> =
        table.iter().map(|c| (c, engine.phase(c), engine.health(c))).collect();
    found.sort_by_key(|(c, ..)| std::cmp::Reverse(c.record.created_ns));
    found.retain(|(c, phase, health)| (all || phase.is_up()) && filters.accept(c, phase, &table, health.as_ref()));
    found.truncate(limit.unwrap_or(usize::MAX));
    let (now, size) = (OffsetDateTime::now_utc(), truth(query.size.as_ref()));
    let shown = |(c, phase, health): (&Container, Phase, Option<Health>)| ContainerSummary {
        size_root_fs: if size { words::size(&c.record, &index) } else { None },
        ..summary(c, &phase, health.as_ref(), &index, now)
    };
    Ok(Json(found.into_iter().map(shown).collect()))
}

pub(super) fn summary(
    container: &Container,
    phase: &Phase,
    health: Option<&Health>,
    index: &Index,
    now: OffsetDateTime,
) -> ContainerSummary {
    let record = &container.record;
    let config = words::config(record);
    let argv = words::argv(&config);
    ContainerSummary {
        id: Some(record.id.clone()),
        names: Some(vec![format!("/{}", record.name)]),
        image: Some(words::image(record, index)),
        image_id: Some(record.image_id.clone()),
        command: Some(words::command(&argv)),
        created: i64::try_from(record.created_ns / 1_000_000_000).ok(),
        ports: Some(words::ports(record, phase)),
        labels: Some(config.labels.unwrap_or_default()),
        state: Some(match phase.status() {
            "running" => ContainerSummaryStateEnum::RUNNING,
            "paused" => ContainerSummaryStateEnum::PAUSED,
            "exited" => ContainerSummaryStateEnum::EXITED,
            "removing" => ContainerSummaryStateEnum::REMOVING,
            "restarting" => ContainerSummaryStateEnum::RESTARTING,
            _ => ContainerSummaryStateEnum::CREATED,
        }),
        status: Some(words::status(container, phase, health, now)),
        host_config: Some(ContainerSummaryHostConfig {
            network_mode: words::host_config(record).network_mode,
            ..Default::default()
        }),
        network_settings: Some(ContainerSummaryNetworkSettings { networks: Some(Default::default()) }),
        mounts: Some(Vec::new()),
        ..Default::default()
    }
}

#[derive(Debug, Deserialize)]
struct InspectQuery {
    size: Option<String>,
}

async fn inspect(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<InspectQuery>,
) -> Result<Json<Value>, ApiError> {
    let engine = state.engine_for(&id).await?;
    let table = engine.table();
    let container = table.find(&id).map_err(|e| ApiError::NotFound(e.to_string()))?;
    let phase = engine.phase(container);
    let record = &container.record;
    let config = words::config(record);
    let argv = words::argv(&config);
    let run = container.run.as_ref();
    let error = match &phase {
        Phase::Created { failed: Some((_, error)) } => error.clone(),
        _ => container.question.as_ref().map(|question| question.text.clone()).unwrap_or_default(),
    };
    let status = match phase.status() {
        "running" => ContainerStateStatusEnum::RUNNING,
        "paused" => ContainerStateStatusEnum::PAUSED,
        "exited" => ContainerStateStatusEnum::EXITED,
        "removing" => ContainerStateStatusEnum::REMOVING,
        "restarting" => ContainerStateStatusEnum::RESTARTING,
        _ => ContainerStateStatusEnum::CREATED,
    };
    let state = ContainerState {
        status: Some(status),
        running: Some(phase.is_up()),
        paused: Some(phase == Phase::Paused),
        restarting: Some(matches!(phase, Phase::Restarting { .. })),
        oom_killed: Some(matches!(
            phase,
            Phase::Exited { out_of_memory: true, .. } | Phase::Restarting { out_of_memory: true, .. }
        )),
        dead: Some(false),
        // In its own VM: it is none of the endpoint's.
        pid: Some(run.and_then(|run| run.pid).filter(|_| phase.is_alive()).unwrap_or_default().into()),
        exit_code: Some(phase.exit_code().into()),
        error: Some(error),
        started_at: Some(words::time(run.and_then(|r| r.started_ns))),
        finished_at: Some(words::time(run.and_then(|r| r.finished_ns).filter(|_| !phase.is_alive()))),
        health: engine.health(container).as_ref().map(words::health),
    };
    let answer = ContainerInspectResponse {
        id: Some(record.id.clone()),
        created: Some(words::time(Some(record.created_ns))),
        path: Some(argv.first().cloned().unwrap_or_default()),
        args: Some(argv.into_iter().skip(1).collect()),
        state: Some(state),
        image: Some(record.image_id.clone()),
        name: Some(format!("/{}", record.name)),
        restart_count: Some(container.restarts.count.into()),
        driver: Some("vsphere".to_owned()),
        platform: Some("linux".to_owned()),
        mounts: Some(Vec::new()),
        exec_ids: Some(engine.execs_of(&record.id)).filter(|ids| !ids.is_empty()),
        config: Some(config),
        ..Default::default()
    };
    let mut answer = serde_json::to_value(answer).map_err(|e| ApiError::Failed(e.to_string()))?;
    answer["HostConfig"] = words::whole_host_config(record);
    answer["NetworkSettings"] = words::network_settings(&words::ports(record, &phase));
    answer["GraphDriver"] = json!({"Name": "vsphere", "Data": {}});
    if truth(query.size.as_ref()) {
        // What the container's own disk has taken is the datastore's to know.
        answer["SizeRw"] = json!(0);
        answer["SizeRootFs"] = json!(words::size(record, &engine.images().index()).unwrap_or_default());
    }
    // Of a container that is one of the daemon's own processes, in files of its own; clients read them.
    for name in
        ["AppArmorProfile", "HostnamePath", "HostsPath", "LogPath", "MountLabel", "ProcessLabel", "ResolvConfPath"]
    {
        answer[name] = json!("");
    }
    Ok(Json(answer))
}

fn answer(outcome: Outcome) -> StatusCode {
    match outcome {
        Outcome::Done => StatusCode::NO_CONTENT,
        Outcome::Already => StatusCode::NOT_MODIFIED,
    }
}

async fn start(Shared(state): Shared<Arc<State>>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let engine = state.engine_for(&id).await?;
    done(async move { engine.start_container(&id).await }).await.map(answer)
}

#[derive(Debug, Deserialize)]
struct StopQuery {
    t: Option<i64>,
    signal: Option<String>,
}

impl StopQuery {
    /// The time to wait; a negative one is for ever.
    fn limit(&self) -> Option<Duration> {
        self.t.map(|t| Duration::from_secs(u64::try_from(t).map_or(FOREVER, |t| t.min(FOREVER))))
    }
}

async fn stop(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> Result<StatusCode, ApiError> {
    let (engine, limit) = (state.engine_for(&id).await?, query.limit());
    let signal = query.signal.filter(|signal| !signal.is_empty());
    done(async move { engine.stop_container(&id, signal.as_deref(), limit).await }).await.map(answer)
}

async fn restart(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<StopQuery>,
) -> Result<StatusCode, ApiError> {
    let (engine, limit) = (state.engine_for(&id).await?, query.limit());
    let signal = query.signal.filter(|signal| !signal.is_empty());
    done(async move { engine.restart_container(&id, signal.as_deref(), limit).await }).await.map(answer)
}

#[derive(Debug, Deserialize)]
struct KillQuery {
    signal: Option<String>,
}

async fn kill(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<KillQuery>,
) -> Result<StatusCode, ApiError> {
    let engine = state.engine_for(&id).await?;
    let signal = query.signal.filter(|signal| !signal.is_empty()).unwrap_or_else(|| "SIGKILL".to_owned());
    done(async move { engine.kill_container(&id, &signal).await }).await.map(answer)
}

#[derive(Debug, Deserialize)]
struct WaitQuery {
    condition: Option<String>,
}

async fn wait(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<WaitQuery>,
) -> Result<Response, ApiError> {
    let until = match query.condition.as_deref().unwrap_or_default() {
        "" | "not-running" => Until::NotRunning,
        "next-exit" => Until::NextExit,
        "removed" => Until::Removed,
        other => return Err(ApiError::Bad(format!("invalid condition: {other:?}"))),
    };
    let mut engine = state.engine_for(&id).await?;
    // The container is there: that much is known at once, and `docker run` waits for it before it starts the container.
    let mut wait = engine.begin_wait(&id, until)?;
    let ended = stream::once(async move {
        let code = loop {
            if let Ok(code) = engine.wait_on(&mut wait).await {
                break code;
            }
            // vSphere was lost, and not the container: the next engine knows how it fares, or how it ended meanwhile.
            loop {
                sleep(AGAIN).await;
                if let Ok(Some(next)) = state.engine().await {
                    engine = next;
                    break;
                }
            }
        };
        serde_json::to_vec(&ContainerWaitResponse { status_code: code.into(), error: None })
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(ended)).into_response())
}

#[derive(Debug, Deserialize)]
struct RenameQuery {
    name: Option<String>,
}

async fn rename(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<RenameQuery>,
) -> Result<StatusCode, ApiError> {
    let engine = state.engine_for(&id).await?;
    let name = query.name.as_deref().unwrap_or_default().trim_start_matches('/').to_owned();
    if name.is_empty() {
        return Err(ApiError::Bad("Neither old nor new names may be empty".to_owned()));
    }
    container_name::check(&name)?;
    if engine.table().find(&id).is_ok_and(|c| c.record.name == name) {
        return Err(ApiError::Bad("Renaming a container with the same name as its current name".to_owned()));
    }
    done(async move { engine.rename_container(&id, &name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct PruneQuery {
    filters: Option<String>,
}

async fn prune(
    Shared(state): Shared<Arc<State>>,
    Query(query): Query<PruneQuery>,
) -> Result<Json<ContainerPruneResponse>, ApiError> {
    let filters = filter::read(query.filters.as_deref().unwrap_or_default())?;
    if let Some(key) = filters.keys().find(|key| !["label", "label!", "until"].contains(&key.as_str())) {
        return Err(ApiError::Bad(format!("invalid filter '{key}'")));
    }
    let now = OffsetDateTime::now_utc();
    let until = filters.get("until").into_iter().flatten().map(|text| moment(text, now));
    let times = until.collect::<Result<Vec<_>, _>>()?;
    let mut deleted = Vec::new();
    if let Some(engine) = state.engine().await? {
        let meant = |c: &&Container| {
            let labels = words::config(&c.record).labels.unwrap_or_default();
            let all = |key: &str, expected: bool| {
                filters.get(key).into_iter().flatten().all(|v| words::has_label(&labels, v) == expected)
            };
            let before = times.is_empty() || times.iter().any(|t| c.record.created_ns < *t);
            !c.phase().is_up() && all("label", true) && all("label!", false) && before
        };
        let ids: Vec<String> = engine.table().iter().filter(meant).map(|c| c.record.id.clone()).collect();
        for id in ids {
            let (engine, which) = (Arc::clone(&engine), id.clone());
            // One that was started meanwhile stays.
            if done(async move { engine.remove_container(&which, false).await }).await.is_ok() {
                deleted.push(id);
            }
        }
    }
    // What a disk takes is the datastore's to know: nobody is asked for each.
    Ok(Json(ContainerPruneResponse { containers_deleted: Some(deleted), space_reclaimed: Some(0) }))
}

#[derive(Debug, Deserialize)]
struct RemoveQuery {
    force: Option<String>,
    link: Option<String>,
}

async fn remove(
    Shared(state): Shared<Arc<State>>,
    Path(id): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, ApiError> {
    let engine = state.engine_for(&id).await?;
    if truth(query.link.as_ref()) {
        // Not the container is meant, and there are no links.
        engine.table().find(&id).map_err(|e| ApiError::NotFound(e.to_string()))?;
        return Err(ApiError::Conflict("Conflict, cannot remove the default link name of the container".to_owned()));
    }
    let force = truth(query.force.as_ref());
    done(async move { engine.remove_container(&id, force).await }).await.map(answer)
}

/// Sees a change through although the client goes away.
pub(super) async fn done<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(ApiError::Failed("the operation ended without an answer".to_owned())),
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let text = failure.to_string();
        match failure {
            Failure::NotFound(_) | Failure::NoExec(_) | Failure::ImageGone(_) => Self::NotFound(text),
            Failure::Refused { .. } | Failure::NameTaken { .. } | Failure::ExecStarted(_) | Failure::Asks { .. } => {
                Self::Conflict(text)
            }
            Failure::Invalid(_) => Self::Bad(text),
            // Docker: the client's fault when the image has no such program.
            Failure::NoProcess { code: 126 | 127, .. } => Self::Bad(text),
            Failure::NoProcess { .. } | Failure::Late { .. } | Failure::Guest { .. } | Failure::NoChannel(_) => {
                Self::Failed(text)
            }
            Failure::Vsphere(error) => {
                let mut text = text;
                let mut cause = std::error::Error::source(&error);
                while let Some(inner) = cause {
                    text.push_str(&format!(": {inner}"));
                    cause = inner.source();
                }
                Self::Failed(format!("vSphere: {text}"))
            }
        }
    }
}

impl State {
    /// The port layer; none in a VCH that is given none.
    pub(super) async fn engine(&self) -> Result<Option<Arc<Engine>>, ApiError> {
        self.reach.engine().await
    }

    /// The port layer that knows container `id`.
    pub(super) async fn engine_for(&self, id: &str) -> Result<Arc<Engine>, ApiError> {
        self.engine().await?.ok_or_else(|| ApiError::NotFound(format!("No such container: {id}")))
    }
}
