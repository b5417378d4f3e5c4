//! Waiting until the VCH serves.  Each stage has a deadline of its own, and the message names the stage.
//!
//! ```text
//! powered on -> booted -> network -> services -> ready
//!     BOOT        STAGE      STAGE      STAGE
//! ```

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use vch_config::{Document as _, EndpointStatus, KEY_STATUS, Stage};
use vim25::Session;
use vim25::property::Object;
use vim25::types::{ManagedObjectReference, VirtualMachinePowerState};

use super::plan::Plan;
use crate::printer::Printer;
use crate::problem::{Exit, Problem};
use crate::vch::{self, Vch};

/// From power-on to the first sign of life of the guest.
const BOOT: Duration = Duration::from_secs(180);
/// For each stage after that.
const STAGE: Duration = Duration::from_secs(120);

/// What the guest has said so far.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    PoweredOff,
    Nothing,
    Status(Box<EndpointStatus>),
}

/// Waits until the endpoint VM says that the Docker API answers.
pub(crate) async fn verify(
    plan: &Plan,
    vm: &ManagedObjectReference,
    session: &Session,
    printer: Printer,
) -> Result<Vch, Problem> {
    let mut activity = printer.wait("wait for the appliance");
    let mut watch = session.watch(vm, &["config.extraConfig", "runtime.powerState"]).await?;
    let mut last = Seen::Nothing;
    let mut deadline = Instant::now() + BOOT;
    loop {
        let change = watch.until(vm, |object| {
            let now = seen(object, &plan.id)?;
            Ok::<_, vim25::Error>((now != last).then_some(now))
        });
        let now = match timeout_at(deadline, change).await {
            Ok(now) => now?,
            Err(_) => return Err(late(&last)),
        };
        if stage(&now) != stage(&last) {
            deadline = Instant::now() + STAGE;
        }
        last = now;
        match &last {
            // Power-on has succeeded before we came here.
            Seen::PoweredOff => {
                return Err(Problem::new(Exit::Failed, "the endpoint VM has powered off while it was starting")
                    .remedy("its console log is endpoint.log in the VM's datastore folder; create with --keep-failed to keep it"));
            }
            Seen::Nothing => {}
            Seen::Status(status) => {
                activity.note(&words(status));
                match status.stage {
                    Stage::Ready => break,
                    Stage::Failed => return Err(failed(status)),
                    _ => {}
                }
            }
        }
    }
    activity.done();
    let found = vch::all(session).await?.into_iter().find(|v| v.vm == *vm);
    found.ok_or_else(|| Problem::new(Exit::Failed, "the VCH has vanished from the inventory"))
}

fn seen(object: &Object, id: &str) -> Result<Seen, vim25::Error> {
    if object.get::<VirtualMachinePowerState>("runtime.powerState")? == Some(VirtualMachinePowerState::PoweredOff) {
        return Ok(Seen::PoweredOff);
    }
    let status = vch::extra_config(object)?.get(KEY_STATUS).and_then(|t| EndpointStatus::from_text(t).ok());
    Ok(status.filter(|s| s.vch_id == id).map_or(Seen::Nothing, |s| Seen::Status(Box::new(s))))
}

fn stage(seen: &Seen) -> Option<Stage> {
    match seen {
        Seen::Status(status) => Some(status.stage),
        _ => None,
    }
}

fn words(status: &EndpointStatus) -> String {
    match status.stage {
        Stage::Booted => "booted".into(),
        Stage::Network => format!("waiting for addresses ({} so far)", status.addresses.len()),
        Stage::Services => "starting services".into(),
        Stage::Ready => "the Docker API answers".into(),
        Stage::Degraded | Stage::Failed => status.problem.clone(),
    }
}

fn failed(status: &EndpointStatus) -> Problem {
    let mut problem = Problem::new(Exit::Failed, "the appliance cannot start").why(&status.problem);
    for (name, service) in status.services.iter().filter(|(_, s)| !s.last_words.is_empty()) {
        problem = problem.why(format!("{name}: {}", service.last_words));
    }
    problem
}

/// The deadline has passed: say in which stage, and what to look at.
fn late(last: &Seen) -> Problem {
    let exceeded = |what: &str| Problem::new(Exit::Deadline, format!("Creating VCH exceeded time limit: {what}"));
    match last {
        Seen::PoweredOff | Seen::Nothing => exceeded("the appliance gave no sign of life after power-on")
            .why(format!("nothing came from the guest in {} s", BOOT.as_secs()))
            .remedy(
                "look at the VM's console, or create with --keep-failed and read endpoint.log in its datastore folder",
            ),
        Seen::Status(status) => {
            let problem = exceeded(&format!("the appliance stays at {:?}", words(status)));
            let problem = if status.problem.is_empty() { problem } else { problem.why(&status.problem) };
            match status.stage {
                Stage::Booted | Stage::Network => problem.remedy(
                    "check that the network's DHCP server answers, or give a static address with --public-network-ip",
                ),
                _ => problem.remedy(
                    "create with --keep-failed and --debug 1, and read endpoint.log in the VM's datastore folder",
                ),
            }
        }
    }
}
