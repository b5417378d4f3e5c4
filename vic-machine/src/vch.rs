//! VCHs as they stand in the inventory.

use std::collections::BTreeMap;

use vch_config::{
    Document as _, EndpointStatus, KEY_CONFIG, KEY_OPERATION, KEY_STATUS, Operation, Role, Stage, VchConfig,
};
use vim25::Session;
use vim25::inventory::{Inventory, Lookup, Node};
use vim25::property::Object;
use vim25::types::{ManagedObjectReference, OptionValue, VirtualMachinePowerState, methods};

use crate::cli::WhichArgs;
use crate::names;
use crate::problem::{Exit, Problem};

/// `alternateGuestName` of endpoint VMs begins so: a VCH is found without reading every VM's extraConfig.
pub(crate) const GUEST_NAME: &str = "Virtual Container Host endpoint";

/// A VCH, found by its endpoint VM.
#[derive(Debug, Clone)]
pub(crate) struct Vch {
    pub(crate) vm: ManagedObjectReference,
    pub(crate) name: String,
    /// The vApp or resource pool that holds the endpoint VM.
    pub(crate) pool: Option<ManagedObjectReference>,
    pub(crate) power: VirtualMachinePowerState,
    pub(crate) config: Result<VchConfig, String>,
    pub(crate) status: Option<EndpointStatus>,
    /// What is being done to it, or was when the run that did it died.
    pub(crate) operation: Option<Operation>,
}

/// The last value of each key.
pub(crate) fn extra_config(object: &Object) -> Result<BTreeMap<String, String>, vim25::Error> {
    let options: Vec<OptionValue> = object.all("config.extraConfig")?;
    let text = |o: OptionValue| o.value.and_then(|v| v.get::<String>().ok()).map(|v| (o.key, v));
    Ok(options.into_iter().filter_map(text).collect())
}

/// What is being done to the VCH with this extraConfig.
pub(crate) fn operation(extra: &BTreeMap<String, String>) -> Option<Operation> {
    extra.get(KEY_OPERATION).and_then(|text| Operation::from_text(text).ok())
}

/// vSphere's clock, in seconds since 1970.
pub(crate) async fn clock(session: &Session) -> Result<i64, vim25::Error> {
    let this = ManagedObjectReference::new("ServiceInstance", "ServiceInstance");
    let now = session.call(&methods::CurrentTime { this }).await?.0;
    let format = &time::format_description::well_known::Rfc3339;
    let now = time::OffsetDateTime::parse(&now, format)
        .map_err(|e| vim25::Error::Protocol { what: "CurrentTime".into(), reason: format!("{now:?}: {e}") })?;
    Ok(now.unix_timestamp())
}

impl Vch {
    fn read(object: &Object) -> Result<Self, vim25::Error> {
        let extra = extra_config(object)?;
        let config = match extra.get(KEY_CONFIG) {
            Some(text) => VchConfig::from_text(text).map_err(|e| e.to_string()),
            None => Err(format!("{KEY_CONFIG} is missing")),
        };
        Ok(Self {
            vm: object.reference.clone(),
            name: object.get("name")?.unwrap_or_default(),
            pool: object.get("resourcePool")?,
            power: object.get("runtime.powerState")?.unwrap_or_default(),
            config,
            operation: operation(&extra),
            status: extra.get(KEY_STATUS).and_then(|t| EndpointStatus::from_text(t).ok()),
        })
    }

    /// The address of a role without its prefix, as the guest reports it.
    pub(crate) fn address(&self, role: Role) -> Option<String> {
        let addresses = &self.status.as_ref()?.addresses;
        addresses.get(&role)?.first().map(|a| a.split('/').next().unwrap_or(a).to_owned())
    }

    /// Whether the guest of this VCH, not of one before, has said that the Docker API answers.
    pub(crate) fn is_ready(&self) -> bool {
        let id = self.config.as_ref().ok().map(|c| &c.id);
        self.status.as_ref().is_some_and(|s| s.stage == Stage::Ready && Some(&s.vch_id) == id)
    }

    /// One word on how it is.
    pub(crate) fn state(&self) -> String {
        match (&self.config, &self.power, &self.status) {
            (Err(_), _, _) => "unreadable".into(),
            _ if self.operation.is_some() && !self.is_ready() => "creating".into(),
            (_, VirtualMachinePowerState::PoweredOn, Some(status)) => {
                serde_json::to_value(status.stage).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
            }
            (_, VirtualMachinePowerState::PoweredOn, None) => "starting".into(),
            (_, power, _) => power.as_str().to_owned(),
        }
    }
}

/// Every VCH that the user can see, by name.
pub(crate) async fn all(session: &Session) -> Result<Vec<Vch>, vim25::Error> {
    let root = &session.content().root_folder;
    let found = session.contained(root, "VirtualMachine", true, &["name", "config.alternateGuestName"]).await?;
    let mut endpoints = Vec::new();
    for object in found {
        if object.get::<String>("config.alternateGuestName")?.is_some_and(|n| n.starts_with(GUEST_NAME)) {
            endpoints.push(object.reference);
        }
    }
    let wanted = ["name", "resourcePool", "runtime.powerState", "config.extraConfig"];
    let objects = session.read_all(&endpoints, &wanted).await?;
    let mut vchs = objects.iter().map(Vch::read).collect::<Result<Vec<_>, _>>()?;
    vchs.sort_by(|a, b| (&a.name, &a.vm).cmp(&(&b.name, &b.vm)));
    Ok(vchs)
}

/// The VCH that the options name.
pub(crate) async fn one(session: &Session, inventory: &Inventory, which: &WhichArgs) -> Result<Option<Vch>, Problem> {
    let all = all(session).await?;
    let within = which.compute_resource.as_deref().map(|wanted| compute(inventory, None, wanted)).transpose()?;
    let mut hits: Vec<&Vch> = all
        .iter()
        .filter(|v| match &which.id {
            Some(id) => v.vm.value == *id,
            None => v.name == which.name && within.as_ref().is_none_or(|w| is_within(inventory, v, w)),
        })
        .collect();
    if hits.len() > 1 {
        return Err(Problem::new(Exit::Conflict, format!("there are {} VCHs named {:?}", hits.len(), which.name))
            .remedy(format!(
                "choose one with --id: {}",
                hits.iter().map(|v| v.vm.value.as_str()).collect::<Vec<_>>().join(", ")
            )));
    }
    Ok(hits.pop().cloned())
}

/// [`one`], or the error that says which there are.
pub(crate) async fn require(session: &Session, inventory: &Inventory, which: &WhichArgs) -> Result<Vch, Problem> {
    if let Some(vch) = one(session, inventory, which).await? {
        return Ok(vch);
    }
    let names: Vec<String> = all(session).await?.into_iter().map(|v| v.name).collect();
    let what = match &which.id {
        Some(id) => format!("id {id:?} could not be found"),
        None => format!("there is no VCH named {:?}", which.name),
    };
    let problem = Problem::new(Exit::NotFound, what);
    Err(match names::nearest(&which.name, &names).as_slice() {
        [] => problem.remedy("vic-machine ls shows the VCHs that you can see: there is none"),
        near => problem.remedy(format!("VCHs that you can see: {}", near.join(", "))),
    })
}

/// Whether the VCH's pool is `node` or lies in it.
pub(crate) fn is_within(inventory: &Inventory, vch: &Vch, node: &Node) -> bool {
    vch.pool
        .as_ref()
        .is_some_and(|p| *p == node.reference || inventory.ancestors(p).any(|a| a.reference == node.reference))
}

/// A cluster, host or resource pool by name or path.
pub(crate) fn compute(
    inventory: &Inventory,
    datacenter: Option<&ManagedObjectReference>,
    wanted: &str,
) -> Result<Node, Problem> {
    let flag = "--compute-resource";
    // A pool named like its cluster is rarer than a cluster: the cluster wins.
    match inventory.find(&["ComputeResource"], datacenter, wanted) {
        Lookup::Found(node) => return Ok(node),
        Lookup::Ambiguous(paths) => return Err(ambiguous(flag, wanted, &paths)),
        Lookup::NotFound(_) => {}
    }
    match inventory.find(&["ResourcePool"], datacenter, wanted) {
        Lookup::Found(node) => Ok(node),
        Lookup::Ambiguous(paths) => Err(ambiguous(flag, wanted, &paths)),
        Lookup::NotFound(_) => {
            let all = inventory.candidates(&["ComputeResource", "ResourcePool"], datacenter);
            Err(not_found(flag, wanted, &inventory.suggestions(&all)))
        }
    }
}

/// A name that stands for nothing, with those that would do.
pub(crate) fn not_found(flag: &str, wanted: &str, candidates: &[String]) -> Problem {
    let problem = Problem::validation(format!("{flag}: {wanted:?} not found"));
    match names::nearest(wanted, candidates).as_slice() {
        [] => problem.remedy("there is none that this user can see"),
        near => problem.remedy(format!("Suggested values for {flag}: {}", near.join(", "))),
    }
}

/// A name that stands for several.
pub(crate) fn ambiguous(flag: &str, wanted: &str, paths: &[String]) -> Problem {
    Problem::validation(format!("{flag}: {wanted:?} is ambiguous")).remedy(format!("use one of: {}", paths.join(", ")))
}
