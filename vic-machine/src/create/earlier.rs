//! An earlier create of the same VCH that was killed: completed when its guest is ready, else undone.

use vch_config::OperationKind;
use vim25::Session;
use vim25::inventory::Inventory;

use super::settings::Settings;
use crate::printer::Printer;
use crate::problem::Problem;
use crate::vch::{self, Vch};
use crate::{delete, lease};

/// Deals with it.  The VCH that it made, if all that was missing is the end of the operation.
pub(crate) async fn settle(
    settings: &Settings,
    dry_run: bool,
    session: &Session,
    printer: Printer,
) -> Result<Option<Vch>, Problem> {
    let inventory = Inventory::load(session).await?;
    let place = settings.compute_resource.as_deref().and_then(|wanted| vch::compute(&inventory, None, wanted).ok());
    let is_half_made = |v: &Vch| {
        v.name == settings.name
            && v.operation.as_ref().is_some_and(|o| o.kind == OperationKind::Create)
            && place.as_ref().is_none_or(|place| vch::is_within(&inventory, v, place))
    };
    let Some(found) = vch::all(session).await?.into_iter().find(is_half_made) else { return Ok(None) };
    if dry_run {
        printer.info(format!("An earlier create of VCH {:?} has not ended: it would be dealt with first", found.name));
        return Ok(None);
    }
    lease::wait_until_free(session, &found, printer).await?;
    if found.is_ready() {
        printer
            .info(format!("An earlier create of VCH {:?} was interrupted at its very end: completing it", found.name));
        return Ok(Some(found));
    }
    printer.info(format!("An earlier create of VCH {:?} was interrupted: undoing it first", found.name));
    let leftovers = delete::leftovers(session, &inventory, &found.name, Some(&found));
    delete::everything(session, &inventory, Some(&found), &leftovers, printer).await?;
    Ok(None)
}
