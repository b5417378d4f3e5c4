//! The command line of `vic-lab`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use secret::Secret;

use crate::control::{Answer, Request, Status, ask};
use crate::dir::LabDir;
use crate::error::{Error, Result};
use crate::faults::{Effect, Rule};
use crate::net::{Published, Range};
use crate::process;
use crate::settings::{Settings, Wanted};

/// vSphere on one machine: the vim25 API with real VMs under QEMU.
#[derive(Debug, Parser)]
#[command(name = "vic-lab", version)]
pub struct Cli {
    /// Folder of the lab.
    #[arg(long, global = true, env = "VIC_LAB_DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the lab; one that runs already is left as it is.
    Up(Up),
    /// Stop the VMs and the lab; the inventory stays.
    Down {
        /// Remove the inventory and the datastores too.
        #[arg(long)]
        wipe: bool,
    },
    /// What the lab is and what runs in it.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Run a command inside the lab's network namespace.
    Exec {
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Print shell exports that point vic-machine at the lab.
    Env {
        /// The address that is reached from inside the lab's networks.
        #[arg(long)]
        inside: bool,
    },
    /// Publish a port of a VM on the machine, or stop doing so.
    Publish {
        /// `[ADDRESS:]PORT:VMNAME:GUESTPORT`.
        what: Published,
        /// Stop publishing it.
        #[arg(long)]
        remove: bool,
    },
    /// Rules that make the lab misbehave.
    #[command(subcommand)]
    Faults(Faults),
    /// The daemon itself.
    #[command(hide = true)]
    Daemon,
}

#[derive(Debug, Args)]
struct Up {
    /// One ESXi host instead of a vCenter.
    #[arg(long)]
    esxi: bool,
    /// Number of hosts in the cluster.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    hosts: Option<u32>,
    /// Where the API listens on the machine (127.0.0.1:8989 at first; port 0 takes a free one).
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Network of "VM Network" (192.168.100.0/24 at first).
    #[arg(long)]
    range: Option<Range>,
    /// Password of the administrator (made up at the first start).
    #[arg(long, env = "VIC_LAB_PASSWORD", hide_env_values = true)]
    password: Option<Secret>,
    /// One more user, with the same password and the read-only role.
    #[arg(long, value_name = "NAME")]
    readonly_user: Vec<String>,
    /// Publish a VM's port: `[ADDRESS:]PORT:VMNAME:GUESTPORT`.
    #[arg(long)]
    publish: Vec<Published>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Drop {
    Before,
    After,
}

#[derive(Debug, Subcommand)]
enum Faults {
    /// Add a rule.
    Add(Box<AddFault>),
    /// List the rules and how often each has matched.
    List,
    /// Remove a rule, or all.
    Clear {
        /// Number of the rule.
        id: Option<u64>,
    },
}

#[derive(Debug, Args)]
// Not `#[group]`: that would take in every option of the struct.
#[command(group(
    clap::ArgGroup::new("effect").required(true).args([
        "fault", "drop", "expire_session", "delay", "kill_vm", "question", "lose_files", "restart", "fill_datastore",
        "preset",
    ])
))]
struct AddFault {
    /// Calls of this method, `*` matches any text.
    #[arg(long, default_value = "*")]
    method: String,
    /// On the object of this id or name, `*` matches any text.
    #[arg(long, default_value = "*")]
    object: String,
    /// The first call that it holds for.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    nth: u64,
    /// For how many calls it holds (for ever when left out).
    #[arg(long)]
    times: Option<u64>,
    /// Fail with this vim25 fault.
    #[arg(long)]
    fault: Option<String>,
    /// The call succeeds, and its task fails.
    // `requires` alone is waived where its option is shut out by another effect.
    #[arg(long, requires = "fault", conflicts_with_all = ["drop", "expire_session", "delay", "kill_vm", "question", "lose_files", "restart", "fill_datastore", "preset"])]
    in_task: bool,
    /// Close the connection before or after the effect.
    #[arg(long, value_enum)]
    drop: Option<Drop>,
    /// End the caller's session.
    #[arg(long)]
    expire_session: bool,
    /// Answer this many milliseconds later.
    #[arg(long, value_name = "MILLISECONDS")]
    delay: Option<u64>,
    /// And up to this many milliseconds more.
    #[arg(long, requires = "delay", default_value_t = 0, value_name = "MILLISECONDS", conflicts_with_all = ["fault", "drop", "expire_session", "kill_vm", "question", "lose_files", "restart", "fill_datastore", "preset"])]
    jitter: u64,
    /// Kill the QEMU process of this VM.
    #[arg(long, value_name = "VM")]
    kill_vm: Option<String>,
    /// The VM that is called asks this, `msg.id:TEXT`; a power-on waits for the answer.
    #[arg(long, value_name = "TEXT")]
    question: Option<String>,
    /// Start the lab's daemon anew: connections, sessions and rules are gone, VMs and the inventory are not.
    #[arg(long)]
    restart: bool,
    /// This datastore is full until the rule is removed, whatever is called.
    #[arg(long, value_name = "DATASTORE")]
    fill_datastore: Option<String>,
    /// The files of this VM are out of reach until the rule is removed, whatever is called.
    #[arg(long, value_name = "VM")]
    lose_files: Option<String>,
    /// The rules of a preset: `vcenter`.
    #[arg(long)]
    preset: Option<String>,
}

impl AddFault {
    fn request(self) -> Request {
        if let Some(name) = self.preset {
            return Request::AddPreset { name };
        }
        let effect = if let Some(fault) = self.fault {
            Effect::Fault { fault, in_task: self.in_task }
        } else if let Some(milliseconds) = self.delay {
            Effect::Delay { milliseconds, jitter: self.jitter }
        } else if let Some(vm) = self.kill_vm {
            Effect::KillVm { vm }
        } else if let Some(question) = self.question {
            Effect::Ask { question }
        } else if let Some(vm) = self.lose_files {
            Effect::LoseFiles { vm }
        } else if self.restart {
            Effect::Restart
        } else if let Some(datastore) = self.fill_datastore {
            Effect::FillDatastore { datastore }
        } else {
            match self.drop {
                Some(Drop::Before) => Effect::DropBefore,
                Some(Drop::After) => Effect::DropAfter,
                // The group demands one of the flags, and this is the one that is left.
                None => Effect::ExpireSession,
            }
        };
        Request::AddFault(Rule {
            id: 0,
            method: self.method,
            object: self.object,
            skip: self.nth - 1,
            times: self.times,
            effect,
            seen: 0,
        })
    }
}

/// Runs a command; what it prints goes to `out`.
///
/// # Errors
/// The reason for exit status 1.
pub async fn run(cli: Cli, out: &mut impl Write) -> Result<()> {
    let root = cli.dir.unwrap_or_else(LabDir::default_root);
    let dir = LabDir::open(&root)?;
    let mut say = |text: String| writeln!(out, "{text}").map_err(Error::system("write to standard output"));
    match cli.command {
        Command::Up(up) => {
            let wanted = Wanted {
                esxi: up.esxi,
                hosts: up.hosts,
                listen: up.listen,
                range: up.range,
                password: up.password,
                readonly: up.readonly_user,
                publish: up.publish,
            };
            let status = self::up(&dir, &wanted).await?;
            say(describe(&status))
        }
        Command::Down { wipe } => {
            down(&dir).await?;
            if wipe {
                dir.wipe()?;
            }
            say("the lab is down".into())
        }
        Command::Status { output } => {
            let status = status(&dir).await?;
            match output {
                Output::Text => say(describe(&status)),
                Output::Json => say(serde_json::to_string_pretty(&status)
                    .map_err(|e| Error::Refused(format!("the status cannot be written: {e}")))?),
            }
        }
        Command::Exec { command } => exec(&dir, &command),
        Command::Env { inside } => {
            let status = status(&dir).await?;
            let settings = Settings::load(&dir)?.ok_or_else(|| not_running(&dir))?;
            let url = if inside { &status.inner_url } else { &status.url };
            say(format!("export VIC_MACHINE_TARGET={url}"))?;
            say(format!("export VIC_MACHINE_USER={}", settings.shape.user()))?;
            say(format!("export VIC_MACHINE_PASSWORD='{}'", settings.password.reveal().replace('\'', r"'\''")))?;
            // Where guests reach it: a VCH is one.
            say(format!("export VIC_MACHINE_VSPHERE_ADDRESS={}", status.inner_url.trim_start_matches("https://")))?;
            say(format!("export VIC_MACHINE_THUMBPRINT={}", status.thumbprint))
        }
        Command::Publish { what, remove } => {
            let request =
                if remove { Request::Unpublish { listen: what.listen } } else { Request::Publish(what.clone()) };
            match demand(&dir, &request).await? {
                Answer::Published(p) => say(format!("{} leads to {} port {}", p.listen, p.target.vm, p.target.port)),
                _ => say(format!("{} is no longer published", what.listen)),
            }
        }
        Command::Faults(faults) => {
            let request = match faults {
                Faults::Add(add) => add.request(),
                Faults::List => Request::ListFaults,
                Faults::Clear { id } => Request::ClearFaults { id },
            };
            match demand(&dir, &request).await? {
                Answer::Faults { rules } => rules
                    .iter()
                    .try_for_each(|rule| say(serde_json::to_string(rule).map_err(|e| Error::Refused(e.to_string()))?)),
                _ => Ok(()),
            }
        }
        Command::Daemon => crate::daemon::run(&dir).await,
    }
}

fn not_running(dir: &LabDir) -> Error {
    Error::Refused(format!("no lab runs in {}: start it with `vic-lab up`", dir.root().display()))
}

async fn demand(dir: &LabDir, request: &Request) -> Result<Answer> {
    ask(&dir.control(), request).await?.ok_or_else(|| not_running(dir))
}

async fn status(dir: &LabDir) -> Result<Status> {
    match demand(dir, &Request::Status).await? {
        Answer::Status(status) => Ok(status),
        _ => Err(Error::Refused("the daemon is of another version: restart it".into())),
    }
}

fn describe(status: &Status) -> String {
    let mut text = format!(
        "{}  {}\n  inside the lab  {}\n  thumbprint      {}\n  accelerator     {}\n  namespace       {}",
        status.url,
        match status.shape {
            crate::settings::Shape::Vcenter => "vCenter",
            crate::settings::Shape::Esxi => "ESXi",
        },
        status.inner_url,
        status.thumbprint,
        status.accelerator.name(),
        status.namespace
    );
    for vm in &status.vms {
        text.push_str(&format!("\n  VM {}  {}  {}", vm.name, vm.power, vm.address.as_deref().unwrap_or("-")));
    }
    for p in &status.published {
        text.push_str(&format!("\n  {} leads to {} port {}", p.listen, p.target.vm, p.target.port));
    }
    text
}

/// How long a daemon may take to answer: an accelerator probe, a certificate, VMs to adopt.
const UP_PATIENCE: Duration = Duration::from_secs(30);

async fn up(dir: &LabDir, wanted: &Wanted) -> Result<Status> {
    let known = Settings::load(dir)?;
    let settings = Settings::settle(known, wanted)?;
    if ask(&dir.control(), &Request::Status).await?.is_some() {
        for publish in &wanted.publish {
            demand(dir, &Request::Publish(publish.clone())).await?;
        }
        return status(dir).await;
    }
    settings.store(dir)?;
    let path = dir.log();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file("open", &path))?;
    let errors = log.try_clone().map_err(Error::file("share", &path))?;
    let program = std::env::current_exe().map_err(Error::system("find the lab's own program"))?;
    let start = log.metadata().map(|m| m.len()).unwrap_or_default();
    let mut daemon = std::process::Command::new(program)
        .arg("--dir")
        .arg(dir.root())
        .arg("daemon")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|source| Error::Spawn { program: "the lab's daemon".into(), source })?;
    let deadline = tokio::time::Instant::now() + UP_PATIENCE;
    loop {
        if ask(&dir.control(), &Request::Status).await?.is_some() {
            return status(dir).await;
        }
        let ended = daemon.try_wait().map_err(Error::system("watch the daemon"))?;
        if ended.is_some() || tokio::time::Instant::now() > deadline {
            let said = std::fs::read(&path).unwrap_or_default();
            let new = said.get(usize::try_from(start).unwrap_or_default()..).unwrap_or_default();
            return Err(Error::Program {
                program: "the lab's daemon".into(),
                status: ended.map_or_else(|| "still not answering".into(), |s| s.to_string()),
                what: "start".into(),
                output: process::tail(new),
            });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn down(dir: &LabDir) -> Result<()> {
    if ask(&dir.control(), &Request::Stop).await?.is_some() {
        // The daemon removes its run folder last and then lets go of its lock.
        let lock = dir.lock();
        let file = std::fs::File::open(&lock).map_err(Error::file("open", &lock))?;
        let gone = tokio::task::spawn_blocking(move || file.lock());
        gone.await.map_err(|e| Error::Refused(e.to_string()))?.map_err(Error::file("wait for", &lock))?;
        return Ok(());
    }
    // The daemon died: what it left is ended here.
    crate::daemon::clean_up(dir).await
}

fn exec(dir: &LabDir, command: &[String]) -> Result<()> {
    use std::os::unix::process::CommandExt;
    crate::net::enter(&dir.namespace())?;
    // This thread is the one that is inside, and it becomes the command.
    let source = std::process::Command::new(&command[0]).args(&command[1..]).exec();
    Err(Error::Spawn { program: command[0].clone(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, clap::Error> {
        let cli = Cli::try_parse_from(text.split(' '))?;
        match cli.command {
            Command::Faults(Faults::Add(add)) => Ok(add.request()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_reference_names_every_command_and_option() {
        let page = include_str!("../../docs/reference/lab.md");
        let mut open = vec![<Cli as clap::CommandFactory>::command()];
        while let Some(command) = open.pop() {
            for option in command.get_arguments().filter(|a| !a.is_hide_set()).filter_map(|a| a.get_long()) {
                let known = matches!(option, "help" | "version") || page.contains(&format!("--{option}"));
                assert!(known, "docs/reference/lab.md does not name --{option} of {}", command.get_name());
            }
            for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
                assert!(page.contains(inner.get_name()), "docs/reference/lab.md does not name {}", inner.get_name());
                open.push(inner.clone());
            }
        }
    }

    #[test]
    fn a_rule_has_one_effect_and_any_of_the_conditions() {
        let Request::AddFault(rule) =
            parse("vic-lab faults add --method Login --object x* --nth 3 --times 2 --delay 5 --jitter 1").unwrap()
        else {
            panic!("no rule");
        };
        assert_eq!((rule.method.as_str(), rule.object.as_str(), rule.skip, rule.times), ("Login", "x*", 2, Some(2)));
        assert_eq!(rule.effect, Effect::Delay { milliseconds: 5, jitter: 1 });
        for right in [
            "--drop after",
            "--expire-session",
            "--kill-vm a",
            "--question a",
            "--lose-files a",
            "--restart",
            "--fill-datastore a",
            "--preset vcenter",
        ] {
            parse(&format!("vic-lab faults add {right}")).unwrap();
        }
        for wrong in ["--method Login", "--drop after --delay 3", "--in-task --drop after", "--jitter 3 --drop after"] {
            parse(&format!("vic-lab faults add {wrong}")).unwrap_err();
        }
    }
}
