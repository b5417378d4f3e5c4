//! What has happened: vSphere's event list.

use std::collections::VecDeque;

use vim25_types::{
    AnyEvent, Event, UserLoginSessionEvent, UserLogoutSessionEvent, VmCreatedEvent, VmEvent, VmEventArgument,
    VmGuestShutdownEvent, VmPoweredOffEvent, VmPoweredOnEvent, VmReconfiguredEvent, VmRemovedEvent, VmRenamedEvent,
};

use super::{Object, World};

/// How many events are remembered.
const KEPT: usize = 5000;

/// The event list.
#[derive(Debug, Default)]
pub(crate) struct Events {
    next: i32,
    list: VecDeque<AnyEvent>,
}

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// A VM was made.
    Created,
    /// A VM was removed.
    Removed,
    /// A VM's configuration was changed.
    Reconfigured,
    /// A VM was renamed.
    Renamed,
    /// A VM was powered on.
    PoweredOn,
    /// A VM is off.
    PoweredOff,
    /// A guest was asked to shut down.
    GuestShutdown,
}

impl World {
    fn add_event(
        &mut self,
        user: &str,
        vm: Option<VmEventArgument>,
        text: String,
        wrap: impl FnOnce(Event) -> AnyEvent,
    ) {
        self.events.next += 1;
        let event = Event {
            key: self.events.next,
            chain_id: self.events.next,
            created_time: super::now(),
            user_name: user.into(),
            vm,
            full_formatted_message: Some(text),
            ..Event::default()
        };
        self.events.list.push_back(wrap(event));
        if self.events.list.len() > KEPT {
            self.events.list.pop_front();
        }
        self.bump();
    }

    /// Records an event of a VM.
    pub(crate) fn vm_event(&mut self, user: &str, vm: &str, kind: EventKind) {
        let Some(entry) = self.get(vm) else { return };
        if !matches!(entry.object, Object::Vm(_)) {
            return;
        }
        let name = entry.name.clone();
        let mut argument = VmEventArgument { vm: entry.moref(), ..VmEventArgument::default() };
        argument.name.clone_from(&name);
        let wrap = |event: Event| {
            let base = VmEvent { base: event, ..VmEvent::default() };
            match kind {
                EventKind::Created => VmCreatedEvent { base }.into(),
                EventKind::Removed => VmRemovedEvent { base }.into(),
                EventKind::Reconfigured => VmReconfiguredEvent { base, ..Default::default() }.into(),
                EventKind::Renamed => VmRenamedEvent { base, new_name: name.clone(), ..Default::default() }.into(),
                EventKind::PoweredOn => VmPoweredOnEvent { base }.into(),
                EventKind::PoweredOff => VmPoweredOffEvent { base }.into(),
                EventKind::GuestShutdown => VmGuestShutdownEvent { base }.into(),
            }
        };
        let verb = match kind {
            EventKind::Created => "was created",
            EventKind::Removed => "was removed",
            EventKind::Reconfigured => "was reconfigured",
            EventKind::Renamed => "was renamed",
            EventKind::PoweredOn => "is powered on",
            EventKind::PoweredOff => "is powered off",
            EventKind::GuestShutdown => "was asked to shut down",
        };
        let text = format!("{name} {verb}");
        self.add_event(user, Some(argument), text, wrap);
    }

    /// Records the begin or the end of a session.
    pub(crate) fn session_event(&mut self, user: &str, begin: bool) {
        let text = format!("User {user} logged {}", if begin { "in" } else { "out" });
        self.add_event(user, None, text, |event| {
            if begin {
                let mut login = UserLoginSessionEvent::default();
                *std::ops::DerefMut::deref_mut(&mut login.base) = event;
                login.into()
            } else {
                let mut logout = UserLogoutSessionEvent::default();
                *std::ops::DerefMut::deref_mut(&mut logout.base) = event;
                logout.into()
            }
        });
    }

    /// The events, oldest first.
    pub(crate) fn events(&self) -> impl DoubleEndedIterator<Item = &AnyEvent> {
        self.events.list.iter()
    }
}
