//! `vic-machine`: creates, lists, inspects and deletes Virtual Container Hosts on vSphere.
//!
//! Three layers: [`cli`] (raw options), the commands' own settings (what the options mean), the commands.  [`printer`]
//! owns the terminal, [`problem`] carries what went wrong, and every path from a login leads to a logout, here.

mod certs;
mod cli;
mod connect;
mod create;
mod delete;
mod inspect;
mod interrupt;
mod iso;
mod lease;
mod ls;
mod names;
mod printer;
mod problem;
mod remove;
mod report;
mod vch;

use std::process::ExitCode;

use vim25::Session;

use cli::{Command, Stop};
use connect::Target;
use interrupt::Interrupt;
use printer::{Output, Printer};
use problem::Problem;

/// The version of this tool, and of the appliance that belongs to it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Stop::Clap(e)) => {
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { problem::Exit::Usage as u8 } else { 0 });
        }
        Err(Stop::Problem(p)) => return fail("", Printer::new(Output::Text, false), &[*p]),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let p = Problem::new(problem::Exit::Failed, "the runtime cannot be started").why(e);
            return fail("", Printer::new(Output::Text, false), &[p]);
        }
    };
    let (name, target) = match &cli.command {
        Command::Create(a) => ("create", &a.target),
        Command::Ls(a) => ("ls", &a.target),
        Command::Inspect(a) => ("inspect", &a.target),
        Command::Delete(a) => ("delete", &a.target),
        Command::Version(a) => {
            let printer = Printer::new(a.output, false);
            printer.data(format!("vic-machine version {VERSION}"));
            printer.json(&serde_json::json!({"ok": true, "version": VERSION}));
            return ExitCode::SUCCESS;
        }
    };
    let printer = Printer::new(target.output, target.debug > 0);
    // Ctrl-C while connecting: nothing has been done, and there is no session yet.
    let outcome = runtime.block_on(async {
        let target = Target::resolve(target).map_err(|p| vec![p])?;
        let session = Interrupt::new(None, printer).cut(target.connect()).await.map_err(|p| vec![p])?;
        printer.debug(format!("logged in to {}", session.content().about.full_name));
        let outcome = Box::pin(command(&cli.command, &target, &session, printer)).await;
        if let Err(e) = session.logout().await {
            printer.debug(format!("logout: {e}"));
        }
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => fail(name, printer, &problems),
    }
}

async fn command(command: &Command, target: &Target, session: &Session, printer: Printer) -> Result<(), Vec<Problem>> {
    let one = |p: Problem| vec![p];
    match command {
        Command::Create(args) => Box::pin(create::run(args, target, session, printer)).await,
        Command::Delete(args) => delete::run(args, session, printer).await.map_err(one),
        Command::Ls(args) => {
            let mut interrupt = Interrupt::new(args.target.timeout, printer);
            interrupt.cut(ls::run(args, target, session, printer)).await.map_err(one)
        }
        Command::Inspect(args) => {
            let mut interrupt = Interrupt::new(args.target.timeout, printer);
            interrupt.cut(inspect::run(args, session, printer)).await.map_err(one)
        }
        Command::Version(_) => Ok(()),
    }
}

fn fail(command: &str, printer: Printer, problems: &[Problem]) -> ExitCode {
    printer.problems(command, problems);
    ExitCode::from(problems.first().map_or(1, |p| p.exit as u8))
}
