//! `vic-machine ls`.

use vim25::Session;
use vim25::inventory::Inventory;

use crate::cli::LsArgs;
use crate::connect::Target;
use crate::printer::Printer;
use crate::problem::Problem;
use crate::vch::{self, Vch};

pub(crate) async fn run(args: &LsArgs, target: &Target, session: &Session, printer: Printer) -> Result<(), Problem> {
    let inventory = Inventory::load(session).await?;
    let within = args.compute_resource.as_deref().map(|w| vch::compute(&inventory, None, w)).transpose()?;
    let mut vchs = vch::all(session).await?;
    vchs.retain(|v| within.as_ref().is_none_or(|w| vch::is_within(&inventory, v, w)));
    if let Some(datacenter) = &target.datacenter {
        let prefix = format!("/{datacenter}/");
        vchs.retain(|v| v.pool.as_ref().is_none_or(|p| inventory.path(p).starts_with(&prefix)));
    }
    let rows: Vec<[String; 6]> = vchs.iter().map(|v| row(&inventory, v)).collect();
    let header = ["ID", "PATH", "NAME", "VERSION", "UPGRADE STATUS", "STATE"].map(str::to_owned);
    let widths: Vec<usize> = (0..header.len())
        .map(|i| std::iter::once(&header).chain(&rows).map(|r| r[i].chars().count()).max().unwrap_or(0))
        .collect();
    for line in std::iter::once(&header).chain(&rows) {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
        printer.data(cells.join("  ").trim_end());
    }
    printer.json(&serde_json::json!({
        "ok": true,
        "vchs": rows.iter().map(|[id, path, name, version, upgrade, state]| serde_json::json!({
            "id": id, "path": path, "name": name, "version": version, "upgrade_status": upgrade, "state": state,
        })).collect::<Vec<_>>(),
    }));
    Ok(())
}

fn row(inventory: &Inventory, vch: &Vch) -> [String; 6] {
    // The pool of the VCH's own name is not part of the path to it.
    let pool = vch.pool.as_ref().map(|p| inventory.path(p)).unwrap_or_default();
    let path = pool.strip_suffix(&format!("/{}", vch.name)).unwrap_or(&pool).to_owned();
    let (version, upgrade) = match &vch.config {
        Ok(config) if config.version == crate::VERSION => (config.version.clone(), "Up to date".to_owned()),
        Ok(config) => (config.version.clone(), format!("Differs from {}", crate::VERSION)),
        Err(why) => (String::new(), format!("Unknown: {why}")),
    };
    [vch.vm.value.clone(), path, vch.name.clone(), version, upgrade, vch.state()]
}
