//! `vic-machine create`.
//!
//! ```text
//! resolve (options -> Settings) -> validate (-> Site) -> plan (-> Plan) -> apply (-> Vch) -> verify
//! ```
//! Everything up to the plan only reads, except that an earlier create of the same VCH that died is dealt with first
//! ([`earlier`]).  From `apply` on, a failure, Ctrl-C or the end of `--timeout` undoes what was done, from the inventory.

mod apply;
mod earlier;
mod networks;
mod plan;
mod settings;
mod site;
mod verify;

use vch_config::{OperationKind, Role};
use vim25::Session;

use self::settings::Settings;
use crate::certs::Mode;
use crate::cli::CreateArgs;
use crate::connect::Target;
use crate::interrupt::Interrupt;
use crate::lease::Lease;
use crate::printer::Printer;
use crate::problem::Problem;
use crate::report;
use crate::vch::Vch;

/// Runs the command on an open session.
pub(crate) async fn run(
    args: &CreateArgs,
    target: &Target,
    session: &Session,
    printer: Printer,
) -> Result<(), Vec<Problem>> {
    let settings = settings::resolve(args, target)?;
    let mut interrupt = Interrupt::new(args.target.timeout, printer);
    let one = |p: Problem| vec![p];
    if let Some(vch) = interrupt.cut(earlier::settle(&settings, args.dry_run, session, printer)).await.map_err(one)? {
        let lease = interrupt.cut(async { Ok(Lease::begin(session, OperationKind::Create).await?) }).await;
        return complete(&settings, &vch, lease.map_err(one)?, session, printer).await.map_err(one);
    }
    let mut all = Vec::new();
    let validation = async {
        site::validate(&settings, session, printer).await.map_err(|problems| {
            all = problems;
            Problem::validation("validation failed")
        })
    };
    let site = match interrupt.cut(validation).await {
        Ok(site) => site,
        Err(problem) => return Err(if all.is_empty() { vec![problem] } else { all }),
    };
    let plan = plan::Plan::new(settings, site);
    if args.dry_run {
        plan.show(printer);
        return Ok(());
    }
    let mut made = apply::Made::default();
    let lease = interrupt.cut(async { Ok(Lease::begin(session, OperationKind::Create).await?) }).await;
    let mut lease = lease.map_err(one)?;
    match make(&plan, session, printer, &mut interrupt, &mut lease, &mut made).await {
        Ok(vch) => complete(&plan.settings, &vch, lease, session, printer).await.map_err(one),
        Err(problem) if args.keep_failed => {
            Err(vec![problem.remedy("everything was left in place (--keep-failed); vic-machine delete removes it")])
        }
        Err(problem) => {
            printer.info("Undoing what was done ...");
            interrupt.rearm();
            let mut problems = vec![problem];
            match interrupt.cut(async { Ok(apply::undo(&plan, &made, session).await) }).await {
                Ok(more) if more.is_empty() => lease.tidy(),
                Ok(more) => problems.extend(more),
                Err(again) => problems.push(again.remedy("vic-machine delete removes what is left")),
            }
            Err(problems)
        }
    }
}

async fn make(
    plan: &plan::Plan,
    session: &Session,
    printer: Printer,
    interrupt: &mut Interrupt,
    lease: &mut Lease,
    made: &mut apply::Made,
) -> Result<Vch, Problem> {
    apply::apply(plan, session, printer, interrupt, lease, made).await?;
    lease.step("verify");
    let vm = made.vm()?.clone();
    let work = lease.during(session, &vm, verify::verify(plan, &vm, session, printer));
    interrupt.cut(work).await
}

/// The VCH runs: writes the environment file, ends the lease, tells how to use it.
async fn complete(
    settings: &Settings,
    vch: &Vch,
    lease: Lease,
    session: &Session,
    printer: Printer,
) -> Result<(), Problem> {
    let env = report::Environment {
        client: settings.certificates.client.as_ref(),
        verify: settings.mode == Mode::Mutual,
        tls: settings.mode != Mode::None,
    };
    let host = report::docker_host(vch, printer).await.unwrap_or_default();
    let file = report::write_env_file(&settings.certificate_folder, &settings.name, &host, &env)?;
    if let Err(e) = lease.end(session, &vch.vm).await {
        // It serves all the same; whoever finds the journal next sees that the lease is over.
        printer.warn(Problem::doing("the journal of this create could not be removed", &e));
    }
    report::vch(printer, vch, &host, &env, Some(&file));
    if let Some(address) = vch.address(Role::Public) {
        printer.info(format!("Published ports can be reached at: {address}"));
    }
    printer.info("Installer completed successfully");
    Ok(())
}
