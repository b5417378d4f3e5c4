//! [`Lease`]: while a run changes a VCH, others keep away; when it dies, the next may go on.
//!
//! ```text
//! begin -> the VM is made with `vic.operation` -> beats while work goes on -> end (the key is removed)
//!                                              -> killed: the beats stop, and others wait until the lease is over
//! ```
//! A run of this machine that has ended without tidying up is known at once: it held a lock on a file in the temporary
//! folder, and the system has released it.

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use vch_config::{BEAT_SECONDS, Document as _, KEY_OPERATION, Operation, OperationKind};
use vim25::Session;
use vim25::types::{AnyValue, ManagedObjectReference, OptionValue, VirtualMachineConfigSpec, methods};

use crate::printer::Printer;
use crate::problem::{Exit, Problem};
use crate::vch::{self, Vch};

/// vSphere's clock, which all who look at a VCH share.
#[derive(Debug, Clone, Copy)]
struct Clock {
    base: i64,
    read: Instant,
}

impl Clock {
    async fn read(session: &Session) -> Result<Self, vim25::Error> {
        Ok(Self { base: vch::clock(session).await?, read: Instant::now() })
    }

    /// Seconds since 1970.
    fn now(self) -> i64 {
        self.base.saturating_add(i64::try_from(self.read.elapsed().as_secs()).unwrap_or(i64::MAX))
    }
}

/// The right of this run to change a VCH.
#[derive(Debug)]
pub(crate) struct Lease {
    operation: Operation,
    clock: Clock,
    lock: Option<File>,
}

impl Lease {
    /// A lease for a VCH that is yet to be made.
    pub(crate) async fn begin(session: &Session, kind: OperationKind) -> Result<Self, vim25::Error> {
        let clock = Clock::read(session).await?;
        let owner = uuid::Uuid::new_v4().to_string();
        // Without the file others wait until the lease is over: no reason to fail.
        let lock = File::create(lock_path(&owner)).ok().filter(|f| f.try_lock().is_ok());
        Ok(Self { operation: Operation::begin(kind, owner, host_name(), clock.now()), clock, lock })
    }

    /// Notes the step that begins.
    pub(crate) fn step(&mut self, step: impl ToString) {
        self.operation.step = step.to_string();
    }

    /// The journal for the VM's extraConfig, as of now.
    pub(crate) fn option(&mut self) -> OptionValue {
        self.operation.beat = self.clock.now();
        OptionValue { key: KEY_OPERATION.into(), value: Some(AnyValue::of(&self.operation.to_text())) }
    }

    /// Runs `work`, which changes nothing on the VM itself, and beats meanwhile.
    pub(crate) async fn during<T>(
        &mut self,
        session: &Session,
        vm: &ManagedObjectReference,
        work: impl Future<Output = T>,
    ) -> T {
        let mut work = Box::pin(work);
        loop {
            tokio::select! {
                outcome = &mut work => return outcome,
                () = sleep(Duration::from_secs(BEAT_SECONDS)) => {}
            }
            let option = self.option();
            // A beat that fails is made up for by the next one.
            let mut beat = pin!(timeout(Duration::from_secs(BEAT_SECONDS), write(session, vm, option)));
            tokio::select! {
                outcome = &mut work => {
                    let _ = beat.await;
                    return outcome;
                }
                _ = &mut beat => {}
            }
        }
    }

    /// The operation is complete: removes the journal.
    pub(crate) async fn end(self, session: &Session, vm: &ManagedObjectReference) -> Result<(), vim25::Error> {
        write(session, vm, OptionValue { key: KEY_OPERATION.into(), value: Some(AnyValue::of(&String::new())) })
            .await?;
        self.tidy();
        Ok(())
    }

    /// No journal of this run is left in vSphere, so nobody will ask whether it lives.
    pub(crate) fn tidy(self) {
        if self.lock.is_some() {
            let _ = std::fs::remove_file(lock_path(&self.operation.owner));
        }
    }
}

/// Waits until nobody else changes the VCH.
///
/// Whoever does so shows it by the next beat, which is a conflict; whoever is silent until the lease is over has died.
pub(crate) async fn wait_until_free(session: &Session, vch: &Vch, printer: Printer) -> Result<(), Problem> {
    let Some(operation) = &vch.operation else { return Ok(()) };
    if died_here(operation) {
        return Ok(());
    }
    let Some(left) = operation.holds_for(vch::clock(session).await?) else { return Ok(()) };
    let what = format!("see whether {} on {} still works on VCH {:?}", kind(operation), operation.host, vch.name);
    let activity = printer.wait(&format!("{what} (at most {left} s)"));
    let mut watch = session.watch(&vch.vm, &["config.extraConfig"]).await?;
    let next = watch.until(&vch.vm, |object| {
        let now = vch::operation(&vch::extra_config(object)?);
        Ok::<_, vim25::Error>((now.as_ref() != Some(operation)).then_some(now))
    });
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(0));
    match timeout(left, next).await {
        Err(_) | Ok(Ok(None)) => {
            activity.done();
            Ok(())
        }
        Ok(Ok(Some(now))) => {
            Err(Problem::new(Exit::Conflict, format!("VCH {:?} is being worked on by another vic-machine", vch.name))
                .why(format!("{} on {} is at step {:?}", kind(&now), now.host, now.step))
                .remedy("wait until it has ended"))
        }
        Ok(Err(e)) if e.is_not_found() => Ok(()),
        Ok(Err(e)) => Err(e.into()),
    }
}

fn kind(operation: &Operation) -> &'static str {
    match operation.kind {
        OperationKind::Create => "create",
    }
}

/// Whether the run was one of this machine and has ended without tidying up.
fn died_here(operation: &Operation) -> bool {
    let path = lock_path(&operation.owner);
    let died = File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
    if died {
        let _ = std::fs::remove_file(path);
    }
    died
}

fn lock_path(owner: &str) -> PathBuf {
    // The owner may come from another's document: it must not lead out of the folder.
    let safe: String = owner.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    std::env::temp_dir().join(format!("vic-machine-{safe}.lock"))
}

fn host_name() -> String {
    let from_env = ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|n| std::env::var(n).ok());
    let from_file = || std::fs::read_to_string("/etc/hostname").ok().map(|s| s.trim().to_owned());
    from_env.or_else(from_file).filter(|n| !n.is_empty()).unwrap_or_else(|| "an unnamed machine".into())
}

async fn write(session: &Session, vm: &ManagedObjectReference, option: OptionValue) -> Result<(), vim25::Error> {
    let spec = VirtualMachineConfigSpec { extra_config: vec![option], ..Default::default() };
    session.run(&methods::ReconfigVMTask { this: vm.clone(), spec }).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_died_here_is_known_by_its_lock() {
        let owner = uuid::Uuid::new_v4().to_string();
        let operation = Operation::begin(OperationKind::Create, owner.clone(), "h".into(), 0);
        assert!(!died_here(&operation), "one of another machine left no file here");
        let file = File::create(lock_path(&owner)).unwrap();
        file.try_lock().unwrap();
        assert!(!died_here(&operation), "it lives");
        drop(file);
        assert!(died_here(&operation));
        assert!(!lock_path(&owner).exists());
        assert_eq!(lock_path("../../x").parent(), Some(std::env::temp_dir().as_path()));
    }
}
