//! Virtual machines and vApps, on and off.

use std::sync::Arc;

use vim25_types::soap::Fault;
use vim25_types::{ManagedObjectReference as Moref, ToolsUnavailable, VirtualMachinePowerState, methods as m};

use super::dispatch::Cx;
use super::vm::{check_locks, failed, runtime, vm};
use super::{fault, question, vm_config};
use crate::lab::Lab;
use crate::vm::Tclo;
use crate::world::{EventKind, VmObject, World};

pub(super) async fn power_on(cx: &Cx, request: m::PowerOnVMTask) -> Result<Moref, Fault> {
    let (lab, this, question) = (cx.lab.clone(), request.this.clone(), cx.question.clone());
    Ok(cx.task("VirtualMachine.powerOn", &request.this, async move {
        turn_on(&lab, &this, question.as_deref()).await?;
        Ok(None)
    }))
}

/// `question` is what the VM asks before.
async fn turn_on(lab: &Arc<Lab>, this: &Moref, question: Option<&str>) -> Result<(), Fault> {
    let spec = lab.read(|w| {
        let known = vm(w, this)?;
        if known.is_on() {
            let on = VirtualMachinePowerState::PoweredOn;
            return Err(fault::power_state(on.clone(), Some(on)));
        }
        for device in known.devices() {
            check_locks(w, &this.value, device)?;
        }
        vm_config::hardware(w, &this.value, known)
    })?;
    if let Some(question) = question {
        question::ask_first(lab, this, question).await?;
    }
    runtime(lab, this).power_on(spec).await.map_err(|e| failed(&e))?;
    connect_all(lab, this, true);
    Ok(())
}

/// What starts connected is connected while the VM is on.
fn connect_all(lab: &Lab, this: &Moref, on: bool) {
    lab.change(|w| {
        let Some(vm) = w.vm_mut(&this.value) else { return };
        for device in &mut vm.config.hardware.device {
            if let Some(connect) = &mut device.connectable {
                connect.connected = on && connect.start_connected;
                connect.status = Some(if connect.connected { "ok" } else { "untried" }.into());
            }
        }
    });
}

pub(super) async fn power_off(cx: &Cx, request: m::PowerOffVMTask) -> Result<Moref, Fault> {
    let (lab, this) = (cx.lab.clone(), request.this.clone());
    Ok(cx.task("VirtualMachine.powerOff", &request.this, async move {
        turn_off(&lab, &this).await?;
        Ok(None)
    }))
}

pub(super) async fn turn_off(lab: &Arc<Lab>, this: &Moref) -> Result<(), Fault> {
    must_be_on(lab, this)?;
    if let Err(error) = runtime(lab, this).power_off().await {
        // It may have gone off by itself meanwhile.
        must_be_on(lab, this)?;
        return Err(failed(&error));
    }
    connect_all(lab, this, false);
    Ok(())
}

fn must_be_on(lab: &Lab, this: &Moref) -> Result<(), Fault> {
    if lab.read(|w| vm(w, this).map(VmObject::is_on))? {
        return Ok(());
    }
    Err(fault::power_state(VirtualMachinePowerState::PoweredOff, Some(VirtualMachinePowerState::PoweredOn)))
}

pub(super) async fn reset(cx: &Cx, request: m::ResetVMTask) -> Result<Moref, Fault> {
    let (lab, this) = (cx.lab.clone(), request.this.clone());
    Ok(cx.task("VirtualMachine.reset", &request.this, async move {
        must_be_on(&lab, &this)?;
        runtime(&lab, &this).reset().await.map_err(|e| failed(&e))?;
        Ok(None)
    }))
}

/// Asks the guest; vSphere answers as soon as the tools have taken the request.
async fn ask_guest(cx: &Cx, this: &Moref, what: Tclo) -> Result<(), Fault> {
    must_be_on(&cx.lab, this)?;
    question::must_not_ask(&cx.lab, this)?;
    let message = "Cannot complete operation because VMware Tools is not running in this virtual machine.";
    let unavailable = || Fault::new(ToolsUnavailable::default(), message);
    if !cx.lab.read(|w| vm(w, this).map(|v| v.tools))? {
        return Err(unavailable());
    }
    runtime(&cx.lab, this).ask_guest(what).await.map_err(|_| unavailable())?;
    if what == Tclo::Halt {
        let user = cx.user();
        cx.lab.change(|w| w.vm_event(&user, &this.value, EventKind::GuestShutdown));
    }
    Ok(())
}

pub(super) async fn shutdown_guest(cx: &Cx, request: m::ShutdownGuest) -> Result<(), Fault> {
    ask_guest(cx, &request.this, Tclo::Halt).await
}

pub(super) async fn reboot_guest(cx: &Cx, request: m::RebootGuest) -> Result<(), Fault> {
    ask_guest(cx, &request.this, Tclo::Reboot).await
}

/// The VMs of a vApp in the order in which they start.
fn start_order(world: &World, this: &Moref) -> Vec<Moref> {
    let order = |id: &str| {
        let vapp = world.pool(&this.value).and_then(|p| p.vapp.as_ref())?;
        let entity = vapp.config.entity_config.iter().find(|e| e.key.as_ref().is_some_and(|k| k.value == id))?;
        entity.start_order
    };
    let mut all: Vec<Moref> = world.vms_in_pool(&this.value).map(|(e, _)| e.moref()).collect();
    all.sort_by_key(|m| (order(&m.value).unwrap_or(0), m.value.clone()));
    all
}

pub(super) async fn power_on_vapp(cx: &Cx, request: m::PowerOnVAppTask) -> Result<Moref, Fault> {
    let (lab, this) = (cx.lab.clone(), request.this.clone());
    Ok(cx.task("VirtualApp.powerOn", &request.this, async move {
        let vms = lab.read(|w| start_order(w, &this));
        for vm in vms {
            if lab.read(|w| w.vm(&vm.value).is_some_and(|v| !v.is_on())) {
                turn_on(&lab, &vm, None).await?;
            }
        }
        Ok(None)
    }))
}

pub(super) async fn power_off_vapp(cx: &Cx, request: m::PowerOffVAppTask) -> Result<Moref, Fault> {
    let (lab, this) = (cx.lab.clone(), request.this.clone());
    Ok(cx.task("VirtualApp.powerOff", &request.this, async move {
        let vms = lab.read(|w| start_order(w, &this));
        for vm in vms.into_iter().rev() {
            if lab.read(|w| w.vm(&vm.value).is_some_and(VmObject::is_on)) {
                turn_off(&lab, &vm).await?;
            }
        }
        Ok(None)
    }))
}
