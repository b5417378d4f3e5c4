//! Inventory paths, names and suggestions.
//!
//! [`Inventory::load`] reads the containers of the inventory (not the virtual machines) in one call; everything else
//! is looked up in that picture.

use std::collections::BTreeMap;

use vim25_types::schema;
use vim25_types::{AnySelectionSpec, ManagedObjectReference};

use crate::property::{self, paths, step};
use crate::{Result, Session};

/// One object of the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The object.
    pub reference: ManagedObjectReference,
    /// Its name, percent-escapes of `/`, `\` and `%` decoded.
    pub name: String,
    /// What holds it.
    pub parent: Option<ManagedObjectReference>,
}

/// A picture of the inventory without its virtual machines.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    nodes: BTreeMap<ManagedObjectReference, Node>,
}

/// Why a name stands for no object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// The one object.
    Found(Node),
    /// None; the names that would do, nearest first.
    NotFound(Vec<String>),
    /// Several; their paths.
    Ambiguous(Vec<String>),
}

/// The way through the inventory, without virtual machines.
fn steps() -> Vec<AnySelectionSpec> {
    let pools = ["pool", "vapp"];
    vec![
        step(
            "folder",
            "Folder",
            "childEntity",
            &["folder", "dcvm", "dchost", "dcds", "dcnet", "crpool", "crhost", "pool", "vapp"],
        ),
        step("dcvm", "Datacenter", "vmFolder", &["folder"]),
        step("dchost", "Datacenter", "hostFolder", &["folder"]),
        step("dcds", "Datacenter", "datastoreFolder", &["folder"]),
        step("dcnet", "Datacenter", "networkFolder", &["folder"]),
        step("crpool", "ComputeResource", "resourcePool", &pools),
        step("crhost", "ComputeResource", "host", &[]),
        step("pool", "ResourcePool", "resourcePool", &pools),
        step("vapp", "VirtualApp", "resourcePool", &pools),
    ]
}

impl Inventory {
    /// Reads the picture.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn load(session: &Session) -> Result<Self> {
        // Subtypes are included: ComputeResource means clusters too, Network port groups of every kind.
        let kinds = [
            "Folder",
            "Datacenter",
            "ComputeResource",
            "HostSystem",
            "ResourcePool",
            "Datastore",
            "Network",
            "DistributedVirtualSwitch",
        ];
        let specs = kinds.iter().map(|kind| paths(kind, &["name", "parent"])).collect();
        let filter = property::reachable(session.content().root_folder.clone(), specs, steps());
        let mut nodes = BTreeMap::new();
        for object in session.retrieve(filter).await? {
            let name: String = object.get("name")?.unwrap_or_default();
            let node =
                Node { name: unescape(&name), parent: object.get("parent")?, reference: object.reference.clone() };
            nodes.insert(object.reference, node);
        }
        Ok(Self { nodes })
    }

    /// The object of that reference.
    pub fn node(&self, reference: &ManagedObjectReference) -> Option<&Node> {
        self.nodes.get(reference)
    }

    /// All objects of a type, subtypes included.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Node> {
        self.nodes.values().filter(move |n| schema::managed_is_a(&n.reference.kind, kind))
    }

    /// What holds `reference`, nearest first.
    pub fn ancestors<'a>(&'a self, reference: &ManagedObjectReference) -> impl Iterator<Item = &'a Node> {
        let mut at = self.nodes.get(reference).and_then(|n| n.parent.clone());
        std::iter::from_fn(move || {
            let node = self.nodes.get(&at.take()?)?;
            at.clone_from(&node.parent);
            Some(node)
        })
    }

    /// The inventory path, as vSphere clients write it: `/datacenter/host/cluster/Resources/pool`.
    pub fn path(&self, reference: &ManagedObjectReference) -> String {
        let mut names: Vec<&str> = self.nodes.get(reference).map(|n| n.name.as_str()).into_iter().collect();
        // The root folder has a name that no path shows.
        names.extend(self.ancestors(reference).filter(|n| n.parent.is_some()).map(|n| n.name.as_str()));
        names.reverse();
        format!("/{}", names.join("/"))
    }

    /// The objects of `kinds` below `within`, if given.
    pub fn candidates<'a>(&'a self, kinds: &'a [&'a str], within: Option<&'a ManagedObjectReference>) -> Vec<&'a Node> {
        let inside = |n: &Node| within.is_none_or(|w| self.ancestors(&n.reference).any(|a| a.reference == *w));
        let kind = |n: &Node| kinds.iter().any(|k| schema::managed_is_a(&n.reference.kind, k));
        self.nodes.values().filter(|n| kind(n) && inside(n)).collect()
    }

    /// Finds an object by name, by the end of its path (`cluster/pool`), or by its whole path.
    pub fn find(&self, kinds: &[&str], within: Option<&ManagedObjectReference>, wanted: &str) -> Lookup {
        let candidates = self.candidates(kinds, within);
        let tail = format!("/{}", wanted.trim_matches('/'));
        let mut hits: Vec<&&Node> = candidates
            .iter()
            .filter(|n| {
                let path = self.path(&n.reference);
                path == wanted || path.ends_with(&tail) || short(&path).ends_with(&tail)
            })
            .collect();
        if hits.len() > 1 {
            // An exact name wins over an end of a longer path.
            let exact: Vec<&&Node> = hits.iter().copied().filter(|n| self.path(&n.reference) == wanted).collect();
            if exact.len() == 1 {
                hits = exact;
            }
        }
        match hits.as_slice() {
            [one] => Lookup::Found((**one).clone()),
            [] => Lookup::NotFound(self.suggestions(&candidates)),
            many => Lookup::Ambiguous(many.iter().map(|n| self.path(&n.reference)).collect()),
        }
    }

    /// Names of the candidates; the path where a name stands for several.
    pub fn suggestions(&self, candidates: &[&Node]) -> Vec<String> {
        let mut names: Vec<String> = candidates
            .iter()
            .map(|n| {
                let same = candidates.iter().filter(|o| o.name == n.name).count();
                if same == 1 { n.name.clone() } else { self.path(&n.reference) }
            })
            .collect();
        names.sort();
        names
    }
}

/// A path without the folder names that every vSphere inventory has: `/dc/host/cluster/Resources/pool` is `/dc/cluster/pool`.
fn short(path: &str) -> String {
    let parts = path
        .split('/')
        .enumerate()
        .filter(|(i, p)| !(*i == 2 && matches!(*p, "host" | "vm" | "network" | "datastore")) && *p != "Resources");
    parts.map(|(_, p)| p).collect::<Vec<_>>().join("/")
}

/// vSphere escapes `%`, `/` and `\` in names.
fn unescape(name: &str) -> String {
    name.replace("%2f", "/").replace("%2F", "/").replace("%5c", "\\").replace("%5C", "\\").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(nodes: &[(&str, &str, &str, &str)]) -> Inventory {
        let kinds: BTreeMap<&str, &str> = nodes.iter().map(|n| (n.1, n.0)).collect();
        let reference = |id: &str| ManagedObjectReference::new(kinds[id], id);
        let node = |n: &(&str, &str, &str, &str)| Node {
            reference: reference(n.1),
            name: n.2.into(),
            parent: (!n.3.is_empty()).then(|| reference(n.3)),
        };
        Inventory { nodes: nodes.iter().map(|n| (reference(n.1), node(n))).collect() }
    }

    fn example() -> Inventory {
        inventory(&[
            ("Folder", "root", "Datacenters", ""),
            ("Datacenter", "dc", "dc1", "root"),
            ("Folder", "hosts", "host", "dc"),
            ("ClusterComputeResource", "c1", "cluster1", "hosts"),
            ("ClusterComputeResource", "c2", "cluster2", "hosts"),
            ("ResourcePool", "r1", "Resources", "c1"),
            ("ResourcePool", "r2", "Resources", "c2"),
            ("ResourcePool", "p1", "team", "r1"),
            ("ResourcePool", "p2", "team", "r2"),
            ("ResourcePool", "p3", "lone", "r2"),
        ])
    }

    #[test]
    fn names_ends_of_paths_and_whole_paths_find() {
        let i = example();
        for wanted in
            ["lone", "cluster2/lone", "Resources/lone", "/dc1/host/cluster2/Resources/lone", "/dc1/cluster2/lone"]
        {
            match i.find(&["ResourcePool"], None, wanted) {
                Lookup::Found(n) => assert_eq!(n.reference.value, "p3", "{wanted}"),
                other => panic!("{wanted}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_name_of_several_is_ambiguous_and_one_of_none_gets_suggestions() {
        let i = example();
        let paths =
            vec!["/dc1/host/cluster1/Resources/team".to_owned(), "/dc1/host/cluster2/Resources/team".to_owned()];
        assert_eq!(i.find(&["ResourcePool"], None, "team"), Lookup::Ambiguous(paths));
        let names = vec!["cluster1".to_owned(), "cluster2".to_owned()];
        assert_eq!(i.find(&["ComputeResource"], None, "clutser1"), Lookup::NotFound(names));
    }
}
