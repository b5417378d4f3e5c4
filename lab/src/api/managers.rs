//! The managers that are asked rather than told: views, options, licences, privileges, events, tasks.

use vim25_types::soap::Fault;
use vim25_types::{
    AnyEvent, AnyValue, DateTime, EntityPrivilege, EventFilterSpec, LicenseAssignmentManagerLicenseAssignment,
    ManagedObjectReference as Moref, OptionValue, Permission, PrivilegeAvailability, ServiceContent, TaskInfoState,
    UserPrivilegeResult, Value, methods as m,
};

use super::access::Role;
use super::dispatch::Cx;
use super::fault;
use super::session::{EventCollector, View};
use crate::world::{Object, Singletons, now};

pub(super) async fn service_content(cx: &Cx, _: m::RetrieveServiceContent) -> Result<ServiceContent, Fault> {
    Ok(cx.lab.read(|w| w.service_content()))
}

pub(super) async fn current_time(_: &Cx, _: m::CurrentTime) -> Result<DateTime, Fault> {
    Ok(now())
}

pub(super) async fn create_container_view(cx: &Cx, request: m::CreateContainerView) -> Result<Moref, Fault> {
    let kind = super::select::kind_of(cx, &request.container).ok_or_else(|| fault::not_found(&request.container))?;
    if let Some(unknown) = request.type_.iter().find(|t| vim25_types::schema::managed_type(t).is_none()) {
        return Err(fault::invalid_argument("type", unknown));
    }
    let session = cx.session()?;
    let id = format!("session[{}]{}", session.key, uuid::Uuid::new_v4());
    let container = Moref::new(kind, request.container.value);
    let view = View { container, kinds: request.type_, recursive: request.recursive };
    session.holdings().views.insert(id.clone(), view);
    Ok(Moref::new("ContainerView", id))
}

pub(super) async fn destroy_view(cx: &Cx, request: m::DestroyView) -> Result<(), Fault> {
    cx.session()?.holdings().views.remove(&request.this.value);
    // Filters over the view are told.
    cx.lab.change(crate::world::World::bump);
    Ok(())
}

pub(super) async fn cancel_task(cx: &Cx, request: m::CancelTask) -> Result<(), Fault> {
    cx.lab.read(|w| match w.task(&request.this.value) {
        Some(task) if task.state == TaskInfoState::Running => {
            Err(fault::not_supported("this task cannot be cancelled"))
        }
        _ => Err(fault::invalid_state("the task has completed")),
    })
}

// Options.

pub(super) async fn query_options(cx: &Cx, request: m::QueryOptions) -> Result<Vec<OptionValue>, Fault> {
    let wanted = request.name.unwrap_or_default();
    let found: Vec<OptionValue> = cx.lab.read(|w| {
        let fits =
            |key: &str| wanted.is_empty() || key == wanted || (wanted.ends_with('.') && key.starts_with(&wanted));
        let all = w.options().iter().filter(|(key, _)| fits(key));
        all.map(|(key, value)| OptionValue { key: key.clone(), value: Some(AnyValue::of(value)) }).collect()
    });
    if found.is_empty() && !wanted.is_empty() {
        return Err(Fault::new(
            vim25_types::InvalidName { name: wanted.clone(), ..Default::default() },
            format!("The name '{wanted}' is invalid."),
        ));
    }
    Ok(found)
}

pub(super) async fn update_options(cx: &Cx, request: m::UpdateOptions) -> Result<(), Fault> {
    for option in request.changed_value {
        let value = option.value.as_ref().map(|v| v.element().text.clone()).unwrap_or_default();
        cx.lab.change(|w| w.set_option(option.key, value)).map_err(|e| fault::system(&e))?;
    }
    Ok(())
}

// Licences.

pub(super) async fn assigned_licenses(
    cx: &Cx,
    request: m::QueryAssignedLicenses,
) -> Result<Vec<LicenseAssignmentManagerLicenseAssignment>, Fault> {
    Ok(cx.lab.read(|w| {
        let licensed = w.entries().filter(|e| matches!(e.object, Object::Host(_)));
        let instance = w.settings().instance.clone();
        let mut all: Vec<(String, String)> = licensed.map(|e| (e.id.clone(), e.name.clone())).collect();
        all.push((instance, "vCenter".into()));
        all.retain(|(id, _)| request.entity_id.as_ref().is_none_or(|wanted| wanted == id));
        all.into_iter()
            .map(|(id, name)| LicenseAssignmentManagerLicenseAssignment {
                entity_id: id,
                entity_display_name: Some(name),
                assigned_license: w.license(),
                ..Default::default()
            })
            .collect()
    }))
}

// Privileges: an account has one role everywhere.

pub(super) async fn has_privilege(cx: &Cx, request: m::HasPrivilegeOnEntities) -> Result<Vec<EntityPrivilege>, Fault> {
    exist(cx, &request.entity)?;
    let role = cx.session()?.role;
    let granted = |id: &String| PrivilegeAvailability { priv_id: id.clone(), is_granted: role.grants(id) };
    let of = |entity| EntityPrivilege { entity, priv_availability: request.priv_id.iter().map(granted).collect() };
    Ok(request.entity.into_iter().map(of).collect())
}

pub(super) async fn entity_permissions(
    cx: &Cx,
    request: m::RetrieveEntityPermissions,
) -> Result<Vec<Permission>, Fault> {
    exist(cx, std::slice::from_ref(&request.entity))?;
    let root = cx.lab.read(|w| Singletons(w.shape()).root());
    if root.value != request.entity.value && !request.inherited {
        return Ok(Vec::new());
    }
    let settings = cx.lab.settings();
    let grant = |principal: &str, role: Role| Permission {
        entity: Some(root.clone()),
        principal: principal.into(),
        group: false,
        role_id: role.id(),
        propagate: true,
    };
    let mut all = vec![grant(settings.shape.user(), Role::Administrator)];
    all.extend(settings.readonly.iter().map(|user| grant(user, Role::ReadOnly)));
    Ok(all)
}

pub(super) async fn user_privileges(
    cx: &Cx,
    request: m::FetchUserPrivilegeOnEntities,
) -> Result<Vec<UserPrivilegeResult>, Fault> {
    exist(cx, &request.entities)?;
    // Every privilege that a method of the schema names.
    let mut privileges: Vec<String> =
        vim25_types::schema::privileges().into_iter().filter(|p| !p.is_empty()).map(str::to_owned).collect();
    privileges.sort();
    privileges.dedup();
    let role = cx.session()?.role;
    privileges.retain(|p| role.grants(p));
    Ok(request
        .entities
        .into_iter()
        .map(|entity| UserPrivilegeResult { entity, privileges: privileges.clone() })
        .collect())
}

fn exist(cx: &Cx, entities: &[Moref]) -> Result<(), Fault> {
    match entities.iter().find(|e| super::select::kind_of(cx, e).is_none()) {
        Some(missing) => Err(fault::not_found(missing)),
        None => Ok(()),
    }
}

// Events.

fn matching(cx: &Cx, filter: &EventFilterSpec) -> Vec<AnyEvent> {
    let wanted_types = filter.event_type_id.iter().chain(&filter.type_);
    let names: Vec<&str> = wanted_types.map(|t| t.rsplit('.').next().unwrap_or(t)).collect();
    cx.lab.read(|w| {
        let about = |event: &AnyEvent| match &filter.entity {
            None => true,
            Some(of) => {
                let Some(vm) = &event.vm else { return false };
                let id = of.entity.value.as_str();
                vm.vm.value == id
                    || w.is_below(&vm.vm.value, id)
                    || w.get(id).is_some_and(|e| matches!(e.object, Object::Folder { .. }) && e.parent.is_none())
            }
        };
        let begin = filter.time.as_ref().and_then(|t| t.begin_time.as_ref());
        let end = filter.time.as_ref().and_then(|t| t.end_time.as_ref());
        w.events()
            .filter(|e| names.is_empty() || names.contains(&e.type_name()))
            .filter(|e| begin.is_none_or(|t| e.created_time >= *t) && end.is_none_or(|t| e.created_time <= *t))
            .filter(|e| about(e))
            .cloned()
            .collect()
    })
}

pub(super) async fn query_events(cx: &Cx, request: m::QueryEvents) -> Result<Vec<AnyEvent>, Fault> {
    Ok(matching(cx, &request.filter))
}

pub(super) async fn create_event_collector(cx: &Cx, request: m::CreateCollectorForEvents) -> Result<Moref, Fault> {
    let session = cx.session()?;
    let id = format!("session[{}]{}", session.key, uuid::Uuid::new_v4());
    let collector = EventCollector { filter: request.filter, position: 0, backwards: None };
    session.holdings().events.insert(id.clone(), collector);
    Ok(Moref::new("EventHistoryCollector", id))
}

fn event_collector(cx: &Cx, this: &Moref) -> Result<EventCollector, Fault> {
    cx.session()?.holdings().events.get(&this.value).cloned().ok_or_else(|| fault::not_found(this))
}

fn count(max: i32) -> Result<usize, Fault> {
    usize::try_from(max)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| fault::invalid_argument("maxCount", "it must be positive"))
}

pub(super) async fn read_next_events(cx: &Cx, request: m::ReadNextEvents) -> Result<Vec<AnyEvent>, Fault> {
    let mut collector = event_collector(cx, &request.this)?;
    let mut events = matching(cx, &collector.filter);
    events.retain(|e| e.key > collector.position);
    events.truncate(count(request.max_count)?);
    if let Some(last) = events.last() {
        collector.position = last.key;
        cx.session()?.holdings().events.insert(request.this.value, collector);
    }
    Ok(events)
}

pub(super) async fn read_previous_events(cx: &Cx, request: m::ReadPreviousEvents) -> Result<Vec<AnyEvent>, Fault> {
    let mut collector = event_collector(cx, &request.this)?;
    let mut events = matching(cx, &collector.filter);
    events.retain(|e| collector.backwards.is_none_or(|k| e.key < k));
    let skip = events.len().saturating_sub(count(request.max_count)?);
    events.drain(..skip);
    if let Some(first) = events.first() {
        collector.backwards = Some(first.key);
        cx.session()?.holdings().events.insert(request.this.value, collector);
    }
    Ok(events)
}

fn set_position(cx: &Cx, this: &Moref, change: impl FnOnce(&mut EventCollector)) -> Result<(), Fault> {
    let session = cx.session()?;
    let mut holdings = session.holdings();
    change(holdings.events.get_mut(&this.value).ok_or_else(|| fault::not_found(this))?);
    Ok(())
}

pub(super) async fn rewind_collector(cx: &Cx, request: m::RewindCollector) -> Result<(), Fault> {
    set_position(cx, &request.this, |c| c.position = 0)
}

pub(super) async fn reset_collector(cx: &Cx, request: m::ResetCollector) -> Result<(), Fault> {
    let newest = cx.lab.read(|w| w.events().next_back().map_or(0, |e| e.key));
    set_position(cx, &request.this, |c| {
        c.position = newest;
        c.backwards = None;
    })
}

pub(super) async fn set_page_size(_: &Cx, request: m::SetCollectorPageSize) -> Result<(), Fault> {
    count(request.max_count).map(|_| ())
}

pub(super) async fn destroy_collector(cx: &Cx, request: m::DestroyCollector) -> Result<(), Fault> {
    cx.session()?.holdings().events.remove(&request.this.value);
    Ok(())
}
