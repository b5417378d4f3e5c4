//! The faults that the lab answers with, each with the message that vSphere gives.

use vim25_types::soap::Fault;
use vim25_types::xml::Element;
use vim25_types::{
    AlreadyExists, AnyMethodFault, ConcurrentAccess, DuplicateName, FileAlreadyExists, FileFault, FileLocked,
    FileNotFound, GenericVmConfigFault, InvalidArgument, InvalidDatastorePath, InvalidDeviceSpec, InvalidName,
    InvalidPowerState, InvalidProperty, InvalidRequest, InvalidState, LocalizedMethodFault, ManagedObjectNotFound,
    ManagedObjectReference as Moref, NoDiskSpace, NoPermission, NotAuthenticated, NotFound, NotSupported,
    QuestionPending, ResourceInUse, SystemError, TaskInProgress, Value, VirtualMachinePowerState,
};

use crate::error::Error;
use crate::world::DatastorePath;

/// A fault known by its name only: one that the rules ask for.
pub(super) fn named(name: &str) -> Fault {
    let mut element = Element::new("fault");
    element.xsi_type = Some(name.to_owned());
    let detail = AnyMethodFault::decode(&element)
        .unwrap_or_else(|_| AnyMethodFault::Unknown { type_name: name.into(), base: Default::default() });
    Fault::new(detail, format!("{name} (a fault rule of the lab)"))
}

pub(super) fn not_authenticated() -> Fault {
    Fault::new(NotAuthenticated::default(), "The session is not authenticated.")
}

pub(super) fn no_permission(object: Moref, privilege: &str) -> Fault {
    let detail = NoPermission { object: Some(object), privilege_id: Some(privilege.into()), ..NoPermission::default() };
    Fault::new(detail, format!("Permission to perform this operation was denied. (It needs {privilege}.)"))
}

pub(super) fn not_found(object: &Moref) -> Fault {
    let message = format!("The object '{object}' has already been deleted or has not been completely created");
    Fault::new(ManagedObjectNotFound { obj: object.clone(), ..Default::default() }, message)
}

pub(super) fn invalid_request(reason: &str) -> Fault {
    Fault::new(InvalidRequest::default(), format!("Unable to resolve the request: {reason}"))
}

pub(super) fn not_supported(what: &str) -> Fault {
    Fault::new(NotSupported::default(), format!("The operation is not supported on the object: {what}"))
}

pub(super) fn invalid_argument(parameter: &str, reason: &str) -> Fault {
    let detail = InvalidArgument { invalid_property: Some(parameter.into()), ..Default::default() };
    Fault::new(detail, format!("A specified parameter was not correct: {parameter} ({reason})"))
}

pub(super) fn invalid_property(name: &str) -> Fault {
    Fault::new(InvalidProperty { name: name.into(), ..Default::default() }, format!("invalid property: {name}"))
}

pub(super) fn duplicate_name(name: &str, object: Moref) -> Fault {
    let message = format!("The name '{name}' already exists.");
    Fault::new(DuplicateName { name: name.into(), object, ..Default::default() }, message)
}

pub(super) fn invalid_name(name: &str) -> Fault {
    Fault::new(InvalidName { name: name.into(), ..Default::default() }, format!("The name '{name}' is invalid."))
}

pub(super) fn power_state(existing: VirtualMachinePowerState, requested: Option<VirtualMachinePowerState>) -> Fault {
    let message = format!(
        "The attempted operation cannot be performed in the current state ({}).",
        match existing {
            VirtualMachinePowerState::PoweredOn => "Powered on",
            _ => "Powered off",
        }
    );
    let detail =
        InvalidPowerState { requested_state: requested, existing_state: existing, ..InvalidPowerState::default() };
    Fault::new(detail, message)
}

pub(super) fn invalid_state(reason: &str) -> Fault {
    Fault::new(InvalidState::default(), format!("The operation is not allowed in the current state: {reason}"))
}

pub(super) fn concurrent_access(reason: &str) -> Fault {
    Fault::new(ConcurrentAccess::default(), format!("The operation was overtaken by another: {reason}"))
}

/// `text` is what the VM asks.
pub(super) fn question_pending(text: &str) -> Fault {
    let message = format!(
        "The operation cannot be allowed at the current time because the virtual machine has a question pending: '{text}'."
    );
    Fault::new(QuestionPending { text: text.into(), ..QuestionPending::default() }, message)
}

/// A power-on that was asked whether it is to go on, and is not.
pub(super) fn cancelled(text: &str) -> Fault {
    let reason = format!("the question was answered so that it does not go on: {text}");
    let message = format!("Failed to power on the virtual machine: {reason}");
    Fault::new(GenericVmConfigFault { reason, ..GenericVmConfigFault::default() }, message)
}

/// `task` is the id of the task that is in the way.
pub(super) fn in_progress(task: &str) -> Fault {
    let detail = TaskInProgress { task: Moref::new("Task", task), ..Default::default() };
    Fault::new(detail, "Another task is already in progress.")
}

pub(super) fn datastore_path(path: &str) -> Fault {
    let mut detail = InvalidDatastorePath::default();
    path.clone_into(&mut detail.datastore_path);
    Fault::new(detail, format!("Invalid datastore path '{path}'."))
}

pub(super) fn file_not_found(file: &str) -> Fault {
    let base = FileFault { file: file.into(), ..FileFault::default() };
    Fault::new(FileNotFound { base }, format!("File {file} was not found"))
}

pub(super) fn file_exists(file: &str) -> Fault {
    let base = FileFault { file: file.into(), ..FileFault::default() };
    Fault::new(
        FileAlreadyExists { base },
        format!("Cannot complete the operation because the file {file} already exists"),
    )
}

pub(super) fn no_disk_space(file: &DatastorePath) -> Fault {
    let base = FileFault { file: file.to_string(), ..FileFault::default() };
    let datastore = file.datastore.clone();
    let message = format!("There is not enough space on the file system of datastore {datastore} for {file}.");
    Fault::new(NoDiskSpace { base, datastore }, message)
}

pub(super) fn file_locked(file: &str) -> Fault {
    let base = FileFault { file: file.into(), ..FileFault::default() };
    Fault::new(FileLocked { base }, format!("Unable to access file {file} since it is locked"))
}

pub(super) fn already_exists(name: &str) -> Fault {
    let detail = AlreadyExists { name: Some(name.into()), ..AlreadyExists::default() };
    Fault::new(detail, format!("The specified key, name, or identifier '{name}' already exists."))
}

/// Something that is named, not referred to.
pub(super) fn no_such(what: &str, name: &str) -> Fault {
    Fault::new(NotFound::default(), format!("The object or item referred to could not be found: {what} '{name}'"))
}

pub(super) fn resource_in_use(kind: &str, name: &str) -> Fault {
    let detail = ResourceInUse { type_: Some(kind.into()), name: Some(name.into()), ..ResourceInUse::default() };
    Fault::new(detail, format!("The resource '{name}' is in use."))
}

pub(super) fn device(index: usize, reason: &str) -> Fault {
    let detail = InvalidDeviceSpec { device_index: i32::try_from(index).unwrap_or_default(), ..Default::default() };
    Fault::new(detail, format!("Invalid configuration for device '{index}': {reason}"))
}

/// The lab itself could not do it.
pub(super) fn system(error: &Error) -> Fault {
    let text = error.chain();
    let mut detail = SystemError::default();
    text.clone_into(&mut detail.reason);
    Fault::new(detail, format!("A general system error occurred: {text}"))
}

/// A fault as it stands inside a data object: vim25 wraps it, with its message, where it is not thrown.
pub(super) fn localized(fault: Fault) -> LocalizedMethodFault {
    let (fault, localized_message) = (Box::new(fault.detail), Some(fault.message));
    LocalizedMethodFault { fault, localized_message, ..LocalizedMethodFault::default() }
}
