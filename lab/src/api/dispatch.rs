//! From an envelope to the function that answers it.
//!
//! The order of the checks is vSphere's: is it XML, is it a method, does it fit the schema, who asks, does the object
//! exist, has it such a method, may the caller.  Fault rules are asked before the caller is, because they may end its
//! session; a request that no vSphere would have understood they do not see.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use vim25_types::schema::{self, FieldDesc, Kind, MethodDesc};
use vim25_types::soap::{self, Body, Fault};
use vim25_types::xml::Element;
use vim25_types::{ManagedObjectReference as Moref, Method, Value, methods as m};

use super::session::Session;
use super::{
    access, collector, datastore, disk, fault, host, inventory, managers, question, search, session, ticket, vm,
    vm_power,
};
use crate::faults::Effect;
use crate::lab::Lab;

/// Every managed object has it and no published schema: one property by its name.  pyVmomi reads with it.
static FETCH: MethodDesc = MethodDesc {
    name: "Fetch",
    privilege: "System.View",
    params: &[FieldDesc { name: "prop", ty: "string", kind: Kind::Xsd, array: false, optional: false }],
};

/// What goes back to the client.
#[derive(Debug)]
pub(super) enum Reply {
    /// A response, with the session to be remembered.
    Response { text: String, cookie: Option<String> },
    /// A fault.
    Fault { text: String },
    /// There is no room for one more session.
    TooManySessions,
    /// Nothing: the connection is closed.
    Dropped,
}

/// What a method knows of its call.
#[derive(Debug, Clone)]
pub(crate) struct Cx {
    pub(crate) lab: Arc<Lab>,
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) peer: IpAddr,
    /// Where the caller has reached the API.
    pub(crate) at: SocketAddr,
    pub(crate) agent: String,
    pub(crate) method: String,
    cookie: Arc<Mutex<Option<String>>>,
    /// The fault that a rule wants the call's task to end with.
    pub(super) task_fault: Option<Fault>,
    /// What a rule wants the VM to ask before it is powered on.
    pub(super) question: Option<String>,
}

impl Cx {
    /// The caller's session.
    pub(super) fn session(&self) -> Result<Arc<Session>, Fault> {
        self.session.clone().ok_or_else(fault::not_authenticated)
    }

    /// The caller's name, for tasks and events.
    pub(super) fn user(&self) -> String {
        self.session.as_ref().map(|s| s.user.clone()).unwrap_or_default()
    }

    /// Gives the client a session.
    pub(super) fn set_cookie(&self, key: &str) {
        *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = Some(key.to_owned());
    }
}

/// Answers an envelope.
pub(super) async fn answer(
    lab: Arc<Lab>,
    peer: IpAddr,
    at: SocketAddr,
    agent: String,
    cookie: Option<String>,
    text: &str,
) -> Reply {
    let call = match soap::open(text) {
        Ok(Body::Call(call)) => call,
        Ok(Body::Fault(_)) => return failed(&fault::invalid_request("a fault is not a request")),
        Err(error) => return failed(&fault::invalid_request(&error.to_string())),
    };
    let description = if call.name == FETCH.name { Some(&FETCH) } else { schema::method(&call.name) };
    let Some(description) = description else {
        return failed(&fault::invalid_request(&format!("there is no method {}", call.name)));
    };
    if let Some(violation) = schema::violation(description, &call) {
        return failed(&fault::invalid_request(&violation));
    }
    let Some(Ok(this)) = call.child("_this").map(Moref::decode) else {
        return failed(&fault::invalid_request("_this is missing"));
    };
    let mut session = cookie.as_deref().and_then(|key| lab.sessions().find(key));

    let verdict = {
        let name = lab.read(|w| w.get(&this.value).map(|e| e.name.clone())).unwrap_or_default();
        let mut names = vec![this.value.as_str()];
        if !name.is_empty() {
            names.push(&name);
        }
        let mut verdict = lab.faults().judge(&call.name, &names);
        if call.name == "ReconfigVM_Task" {
            verdict.delay += disk_delay(&lab, &call, &names);
        }
        verdict
    };
    if !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    let (mut task_fault, mut asked) = (None, None);
    let mut drop_after = false;
    match verdict.effect {
        Some(Effect::Fault { fault, in_task: true }) => task_fault = Some(fault::named(&fault)),
        Some(Effect::Fault { fault, in_task: false }) => return failed(&fault::named(&fault)),
        Some(Effect::DropBefore) => return Reply::Dropped,
        Some(Effect::DropAfter) => drop_after = true,
        Some(Effect::ExpireSession) => {
            if let Some(session) = session.take() {
                lab.sessions().end(&session.key);
            }
        }
        Some(Effect::Restart) => {
            crate::daemon::restart();
            return Reply::Dropped;
        }
        Some(Effect::KillVm { vm }) => vm::kill(&lab, &vm),
        Some(Effect::Ask { question }) if call.name == "PowerOnVM_Task" => asked = Some(question),
        Some(Effect::Ask { question }) => question::ask(&lab, &this, &question).await,
        Some(Effect::Delay { .. } | Effect::FillDatastore { .. } | Effect::LoseFiles { .. }) | None => {}
    }

    let open = matches!(call.name.as_str(), "RetrieveServiceContent" | "CurrentTime" | "Login" | "SessionIsActive");
    let greeting = matches!(call.name.as_str(), "RetrieveProperties" | "RetrievePropertiesEx")
        && asks_for_content(&call)
        || call.name == FETCH.name && this.value == "ServiceInstance";
    if session.is_none() && !open && !greeting {
        return failed(&fault::not_authenticated());
    }
    if call.name == "Login" && !lab.sessions().has_room() {
        return Reply::TooManySessions;
    }
    let (method, cookie) = (call.name.clone(), Arc::default());
    let cx = Cx { lab, session, peer, at, agent, method, cookie, task_fault, question: asked };
    if let Err(fault) = check_object(&cx, &this, &call) {
        return failed(&fault);
    }
    let outcome = Box::pin(call_method(&cx, this, &call)).await;
    if drop_after {
        return Reply::Dropped;
    }
    match outcome {
        Ok(text) => {
            let cookie = cx.cookie.lock().unwrap_or_else(PoisonError::into_inner).take();
            Reply::Response { text, cookie }
        }
        Err(fault) => failed(&fault),
    }
}

fn failed(fault: &Fault) -> Reply {
    Reply::Fault { text: soap::fault(fault) }
}

/// Rules may tell a disk's attach from its detach.
fn disk_delay(lab: &Lab, call: &Element, names: &[&str]) -> std::time::Duration {
    let changes = call.child("spec").into_iter().flat_map(|s| s.children.iter()).filter(|c| c.name == "deviceChange");
    let is_disk =
        |c: &&Element| c.child("device").and_then(|d| d.xsi_type.as_deref()).is_some_and(|kind| kind == "VirtualDisk");
    changes
        .filter(is_disk)
        .map(|c| {
            let add = c.child("operation").is_none_or(|o| o.text.trim() == "add");
            let method = if add { "ReconfigVM_Task:attach" } else { "ReconfigVM_Task:detach" };
            lab.faults().judge(method, names).delay
        })
        .sum()
}

/// Whether a property read is only about the entry point, which clients read before they log in.
fn asks_for_content(call: &Element) -> bool {
    let sets: Vec<&Element> = call
        .children
        .iter()
        .filter(|c| c.name == "specSet")
        .flat_map(|s| s.children.iter())
        .filter(|c| c.name == "objectSet")
        .collect();
    !sets.is_empty()
        && sets.iter().all(|s| {
            s.child("selectSet").is_none() && s.child("obj").is_some_and(|o| o.text.trim() == "ServiceInstance")
        })
}

/// Whether the object exists and has the method, and the caller may call it.
fn check_object(cx: &Cx, this: &Moref, call: &Element) -> Result<(), Fault> {
    let kind = super::select::kind_of(cx, this).ok_or_else(|| fault::not_found(this))?;
    if cx.method != FETCH.name && !schema::has_method(&kind, &cx.method) {
        return Err(fault::invalid_request(&format!("{kind} has no method {}", cx.method)));
    }
    match &cx.session {
        Some(session) => access::check(&cx.lab, session.role, &kind, this, call),
        // What is open to everybody needs no privilege.
        None => Ok(()),
    }
}

/// Decodes the request, calls the function and encodes its result.
async fn run<M: Method>(
    cx: &Cx,
    this: Moref,
    call: &Element,
    function: impl AsyncFnOnce(&Cx, M) -> Result<M::Response, Fault>,
) -> Result<String, Fault> {
    let request = M::decode_params(this, call).map_err(|e| fault::invalid_request(&e.to_string()))?;
    Ok(soap::response::<M>(&function(cx, request).await?))
}

/// One line a method.
macro_rules! table {
    ($cx:expr, $this:expr, $call:expr, { $($method:ident => $function:path,)* }) => {
        match $call.name.as_str() {
            $(<m::$method as Method>::NAME => run::<m::$method>($cx, $this, $call, $function).await,)*
            // The only methods whose result is not a typed value.
            "Fetch" => collector::fetch($cx, $this, $call),
            "RetrieveProperties" => collector::retrieve_properties($cx, $this, $call),
            "RetrievePropertiesEx" => collector::retrieve_properties_ex($cx, $this, $call),
            "ContinueRetrievePropertiesEx" => collector::continue_retrieve($cx, $this, $call),
            "WaitForUpdatesEx" | "WaitForUpdates" | "CheckForUpdates" => collector::wait($cx, $this, $call).await,
            other => Err(fault::not_supported(other)),
        }
    };
}

async fn call_method(cx: &Cx, this: Moref, call: &Element) -> Result<String, Fault> {
    table!(cx, this, call, {
        RetrieveServiceContent => managers::service_content,
        CurrentTime => managers::current_time,
        Login => session::login,
        Logout => session::logout,
        SessionIsActive => session::is_active,
        TerminateSession => session::terminate,
        AcquireGenericServiceTicket => ticket::acquire,
        CancelRetrievePropertiesEx => collector::cancel_retrieve,
        CreateFilter => collector::create_filter,
        DestroyPropertyFilter => collector::destroy_filter,
        CancelWaitForUpdates => collector::cancel_wait,
        CreatePropertyCollector => collector::create,
        DestroyPropertyCollector => collector::destroy,
        CreateContainerView => managers::create_container_view,
        DestroyView => managers::destroy_view,
        FindByInventoryPath => search::find_by_path,
        FindByUuid => search::find_by_uuid,
        FindAllByUuid => search::find_all_by_uuid,
        FindChild => search::find_child,
        FindByIp => search::find_by_ip,
        FindByDatastorePath => search::find_by_datastore_path,
        CreateFolder => inventory::create_folder,
        CreateResourcePool => inventory::create_pool,
        CreateVApp => inventory::create_vapp,
        UpdateConfig => inventory::update_pool,
        UpdateVAppConfig => inventory::update_vapp,
        DestroyChildren => inventory::destroy_children,
        MoveIntoResourcePool => inventory::move_into_pool,
        MoveIntoFolderTask => inventory::move_into_folder,
        RenameTask => inventory::rename,
        DestroyTask => inventory::destroy,
        Reload => inventory::reload,
        CreateVMTask => vm::create,
        CreateChildVMTask => vm::create_child,
        ReconfigVMTask => vm::reconfigure,
        RelocateVMTask => vm::relocate,
        CreateSnapshotTask => vm::create_snapshot,
        RemoveAllSnapshotsTask => vm::remove_all_snapshots,
        AnswerVM => question::answer,
        PowerOnVMTask => vm_power::power_on,
        PowerOffVMTask => vm_power::power_off,
        ResetVMTask => vm_power::reset,
        ShutdownGuest => vm_power::shutdown_guest,
        RebootGuest => vm_power::reboot_guest,
        UnregisterVM => vm::unregister,
        PowerOnVAppTask => vm_power::power_on_vapp,
        PowerOffVAppTask => vm_power::power_off_vapp,
        CancelTask => managers::cancel_task,
        QueryEvents => managers::query_events,
        CreateCollectorForEvents => managers::create_event_collector,
        ReadNextEvents => managers::read_next_events,
        ReadPreviousEvents => managers::read_previous_events,
        RewindCollector => managers::rewind_collector,
        ResetCollector => managers::reset_collector,
        SetCollectorPageSize => managers::set_page_size,
        DestroyCollector => managers::destroy_collector,
        QueryAssignedLicenses => managers::assigned_licenses,
        QueryOptions => managers::query_options,
        UpdateOptions => managers::update_options,
        HasPrivilegeOnEntities => managers::has_privilege,
        RetrieveEntityPermissions => managers::entity_permissions,
        FetchUserPrivilegeOnEntities => managers::user_privileges,
        EnableRuleset => host::enable_ruleset,
        DisableRuleset => host::disable_ruleset,
        RefreshFirewall => host::refresh_firewall,
        AddVirtualSwitch => host::add_switch,
        RemoveVirtualSwitch => host::remove_switch,
        AddPortGroup => host::add_port_group,
        RemovePortGroup => host::remove_port_group,
        SearchDatastoreTask => datastore::search,
        SearchDatastoreSubFoldersTask => datastore::search_sub_folders,
        MakeDirectory => datastore::make_directory,
        DeleteDatastoreFileTask => datastore::delete_file,
        MoveDatastoreFileTask => datastore::move_file,
        CopyDatastoreFileTask => datastore::copy_file,
        CreateVirtualDiskTask => disk::create,
        DeleteVirtualDiskTask => disk::delete,
        CopyVirtualDiskTask => disk::copy,
        MoveVirtualDiskTask => disk::move_disk,
        QueryVirtualDiskUuid => disk::query_uuid,
    })
}
