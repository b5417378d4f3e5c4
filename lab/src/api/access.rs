//! Who may do what: the roles of the lab's users, and the privilege that each method needs.
//!
//! Most methods' privileges stand in the schema.  Where it names none, or one that everybody has, vSphere checks inside
//! the method, against what the request asks for: those are here (vSphere Web Services API reference, "Required
//! Privileges" of each method).

use vim25_types::soap::Fault;
use vim25_types::xml::Element;
use vim25_types::{ManagedObjectReference as Moref, schema};

use super::fault;
use crate::lab::Lab;
use crate::world::DatastorePath;

/// What a user may do, everywhere in the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    Administrator,
    /// To look.
    ReadOnly,
}

impl Role {
    /// vSphere's number of the role.
    pub(super) fn id(self) -> i32 {
        match self {
            Self::Administrator => -1,
            Self::ReadOnly => -2,
        }
    }

    /// Whether the role has a privilege.
    pub(super) fn grants(self, privilege: &str) -> bool {
        self == Self::Administrator || matches!(privilege, "" | "System.Anonymous" | "System.View" | "System.Read")
    }
}

/// Who logs in with that name and password: the account's own name, and its role.
pub(super) fn authenticate(lab: &Lab, user: &str, password: &str) -> Option<(String, Role)> {
    let settings = lab.settings();
    if password != settings.password.reveal() {
        return None;
    }
    let admin = settings.shape.user();
    if same_user(user, admin) {
        return Some((admin.into(), Role::Administrator));
    }
    let reader = settings.readonly.iter().find(|known| same_user(user, known))?;
    Some((reader.clone(), Role::ReadOnly))
}

/// vSphere's own users may be written either way round, with or without their domain, and in any case.
fn same_user(given: &str, known: &str) -> bool {
    given.eq_ignore_ascii_case(known)
        || known.split_once('@').is_some_and(|(name, domain)| {
            given.eq_ignore_ascii_case(&format!("{domain}\\{name}")) || given.eq_ignore_ascii_case(name)
        })
}

/// The datastore that a call on a file is about, where its path names one; else the object itself.
fn datastore(lab: &Lab, this: &Moref, call: &Element) -> Moref {
    let names = ["name", "datastorePath", "sourceName"];
    let path = names.iter().find_map(|n| call.child(n)?.text.parse::<DatastorePath>().ok());
    let found = path.and_then(|p| lab.read(|w| w.datastore_named(&p.datastore).map(|(e, _)| e.moref())));
    found.unwrap_or_else(|| this.clone())
}

/// The first privilege that a change of a VM needs.
fn reconfigure(spec: Option<&Element>) -> &'static str {
    for child in spec.iter().flat_map(|s| &s.children) {
        let privilege = match child.name.as_str() {
            "name" => "VirtualMachine.Config.Rename",
            "annotation" => "VirtualMachine.Config.Annotation",
            "numCPUs" | "numCoresPerSocket" => "VirtualMachine.Config.CPUCount",
            "memoryMB" => "VirtualMachine.Config.Memory",
            "cpuAllocation" | "memoryAllocation" => "VirtualMachine.Config.Resource",
            "extraConfig" => "VirtualMachine.Config.AdvancedConfig",
            "managedBy" => "VirtualMachine.Config.ManagedBy",
            "deviceChange" => device(child),
            _ => continue,
        };
        return privilege;
    }
    "VirtualMachine.Config.Settings"
}

fn device(change: &Element) -> &'static str {
    let operation = change.child("operation").map_or("edit", |o| o.text.trim());
    let disk = change.child("device").and_then(|d| d.xsi_type.as_deref()) == Some("VirtualDisk");
    match (operation, disk) {
        ("add", true) if change.child("fileOperation").is_some() => "VirtualMachine.Config.AddNewDisk",
        ("add", true) => "VirtualMachine.Config.AddExistingDisk",
        ("remove", true) => "VirtualMachine.Config.RemoveDisk",
        ("edit", _) => "VirtualMachine.Config.EditDevice",
        _ => "VirtualMachine.Config.AddRemoveDevice",
    }
}

/// The privilege that a call needs, and the object that it is needed on.
fn needed(lab: &Lab, kind: &str, this: &Moref, call: &Element) -> (&'static str, Moref) {
    let privilege = match (call.name.as_str(), kind) {
        ("Destroy_Task", "VirtualMachine") => "VirtualMachine.Inventory.Delete",
        ("Destroy_Task", "ResourcePool") | ("DestroyChildren", _) => "Resource.DeletePool",
        ("Destroy_Task", "VirtualApp") => "VApp.Delete",
        ("Destroy_Task", "Folder") => "Folder.Delete",
        ("Destroy_Task", "Datacenter") => "Datacenter.Delete",
        ("Destroy_Task", "Datastore") => "Datastore.Delete",
        ("Destroy_Task", "Network") => "Network.Delete",
        ("Destroy_Task", _) => "Host.Inventory.EditCluster",
        ("Rename_Task", "VirtualMachine") => "VirtualMachine.Config.Rename",
        ("Rename_Task", "ResourcePool") => "Resource.RenamePool",
        ("Rename_Task", "VirtualApp") => "VApp.Rename",
        ("Rename_Task", "Folder") => "Folder.Rename",
        ("Rename_Task", "Datacenter") => "Datacenter.Rename",
        ("Rename_Task", "Datastore") => "Datastore.Rename",
        ("Rename_Task", _) => "Host.Inventory.EditCluster",
        ("ReconfigVM_Task", _) => reconfigure(call.child("spec")),
        ("UpdateConfig", _) => "Resource.EditPool",
        ("UpdateVAppConfig", _) => "VApp.ApplicationConfig",
        ("MoveIntoResourcePool", _) => "Resource.AssignVMToPool",
        ("MoveIntoFolder_Task", _) => "VirtualMachine.Inventory.Move",
        ("UpdateOptions", _) => "Global.Settings",
        ("CancelTask", _) => "Global.CancelTask",
        // Whoever has a session may ask after it.
        ("SessionIsActive", _) => "System.View",
        ("SearchDatastore_Task" | "SearchDatastoreSubFolders_Task", _) => {
            return ("Datastore.Browse", datastore(lab, this, call));
        }
        (_, "FileManager") => return ("Datastore.FileManagement", datastore(lab, this, call)),
        (method, "VirtualDiskManager") if method != "QueryVirtualDiskUuid" => {
            return ("Datastore.FileManagement", datastore(lab, this, call));
        }
        (method, _) => schema::method(method).map_or("", |m| m.privilege),
    };
    (privilege, this.clone())
}

/// Whether the role may make the call.
///
/// # Errors
/// `NoPermission`, with the object and the privilege that is missing on it.
pub(super) fn check(lab: &Lab, role: Role, kind: &str, this: &Moref, call: &Element) -> Result<(), Fault> {
    let (privilege, object) = needed(lab, kind, this, call);
    if role.grants(privilege) {
        return Ok(());
    }
    Err(fault::no_permission(object, privilege))
}
