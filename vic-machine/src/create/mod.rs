//! `vic-machine create`.
//!
//! ```text
//! resolve (options -> Settings) -> validate (-> Site) -> plan (-> Plan) -> apply (-> Vch) -> verify
//! ```
//! Everything up to the plan only reads.  From `apply` on, a failure, Ctrl-C or the end of `--timeout` undoes what was
//! done, from the inventory.

mod apply;
mod networks;
mod plan;
mod settings;
mod site;
mod verify;

use vch_config::{ApiTls, Role};
use vim25::Session;

use crate::cli::CreateArgs;
use crate::connect::Target;
use crate::interrupt;
use crate::printer::Printer;
use crate::problem::Problem;
use crate::report;

/// Runs the command on an open session.
pub(crate) async fn run(
    args: &CreateArgs,
    target: &Target,
    session: &Session,
    printer: Printer,
) -> Result<(), Vec<Problem>> {
    let settings = settings::resolve(args, target)?;
    let site = site::validate(&settings, session, printer).await?;
    let plan = plan::Plan::new(settings, site);
    if args.dry_run {
        plan.show(printer);
        return Ok(());
    }
    let mut made = apply::Made::default();
    let outcome = interrupt::unless(args.target.timeout, async {
        apply::apply(&plan, session, printer, &mut made).await?;
        verify::verify(&plan, &made, session, printer).await
    })
    .await;
    match outcome {
        Ok(vch) => {
            let certs = &plan.settings.certificates;
            let env = report::Environment {
                client: certs.client.as_ref(),
                verify: matches!(plan.api_tls(), ApiTls::Mutual { .. }),
                tls: !matches!(plan.api_tls(), ApiTls::None),
            };
            let host = plan.docker_host(&vch);
            let file = report::write_env_file(&plan.settings.certificate_folder, &plan.settings.name, &host, &env)
                .map_err(|p| vec![p])?;
            report::vch(printer, &vch, &host, &env, Some(&file));
            if let Some(address) = vch.address(Role::Public) {
                printer.info(format!("Published ports can be reached at: {address}"));
            }
            printer.info("Installer completed successfully");
            Ok(())
        }
        Err(problem) if args.keep_failed => {
            Err(vec![problem.remedy("everything was left in place (--keep-failed); vic-machine delete removes it")])
        }
        Err(problem) => {
            printer.info("Undoing what was done ...");
            let mut problems = vec![problem];
            problems.extend(apply::undo(&plan, &made, session).await);
            Err(problems)
        }
    }
}
