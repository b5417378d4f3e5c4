//! `vic-machine delete`: from the inventory alone, idempotent, the endpoint VM last.
//!
//! What an interrupted delete or create left is found again: the endpoint VM as long as it exists, then the empty vApp,
//! pool or folder of the VCH's name.

use vim25::Session;
use vim25::inventory::Inventory;
use vim25::types::ManagedObjectReference;

use crate::cli::DeleteArgs;
use crate::interrupt::Interrupt;
use crate::lease;
use crate::printer::Printer;
use crate::problem::{Exit, Problem};
use crate::remove;
use crate::vch::{self, Vch};

pub(crate) async fn run(args: &DeleteArgs, session: &Session, printer: Printer) -> Result<(), Problem> {
    let mut interrupt = Interrupt::new(args.target.timeout, printer);
    let work = async {
        let inventory = Inventory::load(session).await?;
        let found = vch::one(session, &inventory, &args.which).await?;
        let leftovers = match (&found, &args.which.id) {
            (None, Some(_)) => Vec::new(),
            _ => leftovers(session, &inventory, &args.which.name, found.as_ref()),
        };
        if found.is_none() && leftovers.is_empty() {
            return vch::require(session, &inventory, &args.which).await.map(drop);
        }
        if let Some(vch) = &found {
            check(args, session, vch).await?;
        }
        if args.dry_run {
            let name = found.as_ref().map_or(&args.which.name, |v| &v.name);
            let containers = match &found {
                Some(vch) => containers(session, vch).await?,
                None => Vec::new(),
            };
            show(name, &inventory, found.as_ref(), &leftovers, &containers, printer);
            return Ok(());
        }
        if let (Some(vch), false) = (&found, args.force) {
            lease::wait_until_free(session, vch, printer).await?;
        }
        everything(session, &inventory, found.as_ref(), &leftovers, printer).await.map_err(|mut p| {
            p.exit = if p.exit == Exit::Failed { Exit::Resumable } else { p.exit };
            p.remedy("run the same command again: it goes on where it stopped")
        })?;
        printer.json(&serde_json::json!({"ok": true, "deleted": found.as_ref().map(|v| &v.name)}));
        printer.info("Completed successfully");
        Ok(())
    };
    interrupt.cut(work).await
}

/// Removes the VCH and its leftovers.
pub(crate) async fn everything(
    session: &Session,
    inventory: &Inventory,
    found: Option<&Vch>,
    leftovers: &[ManagedObjectReference],
    printer: Printer,
) -> Result<(), Problem> {
    if let Some(vch) = found {
        let pool = vch.pool.clone().unwrap_or_default();
        let datacenter = datacenter(inventory, &pool)?;
        for container in &containers(session, vch).await? {
            let name = &container.name;
            let activity = printer.wait(&format!("remove container {name:?} ({})", container.vm.value));
            // First the endpoint VM, lest it make another; when there is none, this costs nothing.
            remove::stop(session, &vch.vm).await.map_err(|e| doing("the endpoint VM", &vch.name, &e))?;
            remove::container(session, &datacenter, container).await.map_err(|e| doing("container", name, &e))?;
            activity.done();
        }
        let activity = printer.wait(&format!("remove endpoint VM {:?} ({}) and its files", vch.name, vch.vm.value));
        if let Ok(config) = &vch.config {
            let removed = remove::image_folder(session, &datacenter, config).await;
            removed.map_err(|e| doing("the images", &config.storage.image_store, &e))?;
        }
        let bridge = vch.config.as_ref().ok().and_then(|c| c.bridge.made.as_ref());
        remove::endpoint(session, &datacenter, &vch.vm, bridge)
            .await
            .map_err(|e| doing("the endpoint VM", &vch.name, &e))?;
        activity.done();
    }
    for leftover in leftovers {
        let name = inventory.path(leftover);
        let activity = printer.wait(&format!("remove {} {name}", leftover.kind));
        remove::if_empty(session, leftover).await.map_err(|e| doing(&leftover.kind, &name, &e))?;
        activity.done();
    }
    Ok(())
}

/// The VCH's containers; none when its configuration cannot be read.
async fn containers(session: &Session, vch: &Vch) -> Result<Vec<remove::Container>, Problem> {
    let (Ok(config), Some(pool)) = (&vch.config, &vch.pool) else { return Ok(Vec::new()) };
    let found = remove::containers(session, pool, &config.id).await;
    found.map_err(|e| Problem::doing(format!("cannot list the containers of VCH {:?}", vch.name), &e))
}

fn doing(what: &str, name: &str, error: &vim25::Error) -> Problem {
    Problem::doing(format!("cannot remove {what} {name:?}"), error)
}

/// What must be true before anything is removed.
async fn check(args: &DeleteArgs, session: &Session, vch: &Vch) -> Result<(), Problem> {
    if let (Ok(config), false) = (&vch.config, args.force)
        && config.version != crate::VERSION
    {
        return Err(Problem::validation(format!(
            "VCH version {:?} is different than installer version {}",
            config.version,
            crate::VERSION
        ))
        .remedy("use the vic-machine of that version, or --force"));
    }
    let containers = containers(session, vch).await?;
    let running: Vec<&str> = containers.iter().filter(|c| c.on).map(|c| c.name.as_str()).collect();
    if let (Some(first), false) = (running.first(), args.force) {
        return Err(Problem::new(
            Exit::Conflict,
            format!("VCH {:?} has {} running containers", vch.name, running.len()),
        )
        .why(format!("{first:?} is one of them"))
        .remedy("stop them, or delete them with the VCH: --force"));
    }
    // Only the VCH's own pool: a shared one holds other people's VMs.
    let own = vch.config.as_ref().ok().map(|c| c.vsphere.pool.as_str());
    let Some(pool) = vch.pool.as_ref().filter(|p| Some(p.value.as_str()) == own) else { return Ok(()) };
    let shared = session.read(pool, &["name"]).await?.get::<String>("name")?.as_deref() != Some(vch.name.as_str());
    let others: Vec<ManagedObjectReference> = remove::children(session, pool)
        .await?
        .into_iter()
        .filter(|c| *c != vch.vm && !containers.iter().any(|own| own.vm == *c))
        .collect();
    match others.first() {
        Some(other) if !shared && !args.force => Err(Problem::new(
            Exit::Conflict,
            format!("the pool of VCH {:?} holds {} more objects", vch.name, others.len()),
        )
        .why(format!("{} {} is one of them", other.kind, other.value))
        .remedy("move them elsewhere or remove them; --force deletes the VCH and leaves them and the pool in place")),
        _ => Ok(()),
    }
}

/// The VCH's vApp or pool and its folder: those its configuration names, and those of its name.
pub(crate) fn leftovers(
    session: &Session,
    inventory: &Inventory,
    name: &str,
    found: Option<&Vch>,
) -> Vec<ManagedObjectReference> {
    let name = found.map_or(name, |v| v.name.as_str());
    let config = found.and_then(|v| v.config.as_ref().ok());
    let mut out: Vec<ManagedObjectReference> = Vec::new();
    for kind in ["ResourcePool", "Folder"] {
        for node in inventory.of_kind(kind).filter(|n| n.name == name) {
            let own = match (config, kind) {
                (Some(c), "Folder") => node.reference.value == c.vsphere.folder,
                (Some(c), _) => node.reference.value == c.vsphere.pool,
                // Without a configuration only what create makes there counts: a folder of VMs, and a vApp, or on a lone
                // ESXi host, which has no vApps, a pool.
                (None, "Folder") => inventory.path(&node.reference).split('/').nth(2) == Some("vm"),
                (None, _) => node.reference.kind == "VirtualApp" || !session.is_vcenter(),
            };
            if own {
                out.push(node.reference.clone());
            }
        }
    }
    out
}

fn datacenter(inventory: &Inventory, pool: &ManagedObjectReference) -> Result<ManagedObjectReference, Problem> {
    inventory
        .ancestors(pool)
        .find(|n| n.reference.kind == "Datacenter")
        .map(|n| n.reference.clone())
        .ok_or_else(|| Problem::new(Exit::NotFound, format!("the datacenter of pool {} cannot be found", pool.value)))
}

fn show(
    name: &str,
    inventory: &Inventory,
    found: Option<&Vch>,
    leftovers: &[ManagedObjectReference],
    containers: &[remove::Container],
    printer: Printer,
) {
    printer.data("Plan (nothing has been changed):");
    let mut steps = Vec::new();
    if let Some(vch) = found {
        let list: Vec<String> = containers.iter().map(|c| format!("{:?}", c.name)).collect();
        if !list.is_empty() {
            steps.push(("containers", format!("remove {} containers: {}", list.len(), list.join(", "))));
        }
        if let Some(made) = vch.config.as_ref().ok().and_then(|c| c.bridge.made.as_ref()) {
            steps.push(("bridge", format!("remove switch and port group {:?}, which create made", made.name)));
        }
        let what = format!("power off and destroy endpoint VM {:?} ({}), with its ISOs", vch.name, vch.vm.value);
        steps.push(("endpoint", what));
    }
    let remains = |l: &ManagedObjectReference| format!("remove {} {} when it is empty", l.kind, inventory.path(l));
    steps.extend(leftovers.iter().map(|l| ("house", remains(l))));
    for (i, (_, what)) in steps.iter().enumerate() {
        printer.data(format!("  {}. {what}", i + 1));
    }
    let steps: Vec<_> = steps.iter().map(|(step, what)| serde_json::json!({"step": step, "what": what})).collect();
    printer.json(&serde_json::json!({"ok": true, "dry_run": true, "name": name, "steps": steps}));
}
