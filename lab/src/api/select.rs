//! Which objects a property read is about, and what their properties are.
//!
//! A property path is followed through the schema's tables: a name that the schema does not have is an error, one that
//! has no value is absent.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use vim25_types::schema::{self, FieldDesc, Kind};
use vim25_types::soap::Fault;
use vim25_types::xml::Element;
use vim25_types::{AnySelectionSpec, ManagedObjectReference as Moref, PropertyFilterSpec, TraversalSpec, Value};

use super::dispatch::Cx;
use super::fault;
use super::session::Session;
use crate::lab::Lab;
use crate::world::{Singletons, World};

/// What can be seen from a session.
pub(super) struct Scope<'a> {
    pub(super) world: &'a World,
    pub(super) lab: &'a Lab,
    pub(super) session: Option<&'a Arc<Session>>,
}

/// What a filter finds: for each object its properties, in the order in which they were asked for.
pub(super) type Found = BTreeMap<Moref, Vec<(String, Option<Element>)>>;

/// The type of the object that `this` names, if it exists and is of the type that `this` says.
pub(super) fn kind_of(cx: &Cx, this: &Moref) -> Option<String> {
    cx.lab.read(|world| Scope { world, lab: &cx.lab, session: cx.session.as_ref() }.kind(this))
}

/// The host or datastore that an object such as `firewallSystem-host-20` is a part of.
pub(super) fn whole<'a>(part: &'a Moref, prefix: &str) -> Option<&'a str> {
    part.value.strip_prefix(prefix)?.strip_prefix('-')
}

/// Properties of one object by path; `None` for one that is unset.
pub(super) type Properties = Vec<(String, Option<Element>)>;

impl Scope<'_> {
    /// As [`kind_of`].
    pub(super) fn kind(&self, this: &Moref) -> Option<String> {
        let actual = self.actual_kind(this)?;
        schema::managed_is_a(&actual, &this.kind).then_some(actual)
    }

    fn actual_kind(&self, this: &Moref) -> Option<String> {
        if let Some(entry) = self.world.get(&this.value) {
            return Some(entry.kind().into());
        }
        if let Some(kind) = Singletons(self.world.shape()).kind(&this.value) {
            return Some(kind.into());
        }
        if self.world.task(&this.value).is_some() {
            return Some("Task".into());
        }
        for (prefix, kind) in [
            ("firewallSystem", "HostFirewallSystem"),
            ("networkSystem", "HostNetworkSystem"),
            ("datastoreBrowser", "HostDatastoreBrowser"),
        ] {
            if let Some(id) = whole(this, prefix) {
                return self.world.get(id).map(|_| kind.into());
            }
        }
        let holdings = self.session?.holdings();
        if holdings.views.contains_key(&this.value) {
            return Some("ContainerView".into());
        }
        if holdings.events.contains_key(&this.value) {
            return Some("EventHistoryCollector".into());
        }
        if holdings.collectors.contains_key(&this.value) {
            return Some("PropertyCollector".into());
        }
        holdings.collectors.values().any(|c| c.has_filter(&this.value)).then(|| "PropertyFilter".into())
    }

    /// The elements of a property of an object.
    fn property(&self, object: &Moref, kind: &str, name: &str) -> Vec<Element> {
        if let Some(entry) = self.world.get(&object.value) {
            return self.world.property(entry, name);
        }
        match (kind, name) {
            ("Task", "info") => self.world.task(&object.value).map(|t| t.encode(name)).into_iter().collect(),
            ("SessionManager", "currentSession") => self.session.iter().map(|s| s.show().encode(name)).collect(),
            ("SessionManager", "sessionList") => self.lab.sessions().list().iter().map(|s| s.encode(name)).collect(),
            ("SessionManager", "defaultLocale") => vec![Element::with_text(name, "en")],
            ("ContainerView", _) => self.view_property(object, name),
            ("HostFirewallSystem", _) => {
                self.world.host_part_property(kind, whole(object, "firewallSystem").unwrap_or_default(), name)
            }
            ("HostNetworkSystem", _) => {
                self.world.host_part_property(kind, whole(object, "networkSystem").unwrap_or_default(), name)
            }
            ("HostDatastoreBrowser", "datastore") => self.world.datastores().iter().map(|d| d.encode(name)).collect(),
            _ => self.world.singleton_property(kind, name),
        }
    }

    fn view_property(&self, object: &Moref, name: &str) -> Vec<Element> {
        let Some(view) = self.session.and_then(|s| s.holdings().views.get(&object.value).cloned()) else {
            return Vec::new();
        };
        match name {
            "container" => vec![view.container.encode(name)],
            "type" => view.kinds.iter().map(|k| k.encode(name)).collect(),
            "recursive" => vec![view.recursive.encode(name)],
            "view" => self.view_members(&view).iter().map(|m| m.encode(name)).collect(),
            _ => Vec::new(),
        }
    }

    fn view_members(&self, view: &super::session::View) -> Vec<Moref> {
        let wanted = |m: &Moref| view.kinds.is_empty() || view.kinds.iter().any(|k| schema::managed_is_a(&m.kind, k));
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut open = vec![view.container.clone()];
        while let Some(at) = open.pop() {
            for child in self.contained(&at) {
                if !seen.insert(child.clone()) {
                    continue;
                }
                if wanted(&child) {
                    found.push(child.clone());
                }
                if view.recursive {
                    open.push(child);
                }
            }
        }
        found.sort();
        found
    }

    /// What an object contains, for container views.
    fn contained(&self, at: &Moref) -> Vec<Moref> {
        let paths: &[&str] = match at.kind.as_str() {
            "Folder" => &["childEntity"],
            "Datacenter" => &["vmFolder", "hostFolder", "datastoreFolder", "networkFolder"],
            "ComputeResource" | "ClusterComputeResource" => &["host", "resourcePool"],
            "ResourcePool" | "VirtualApp" => &["resourcePool", "vm"],
            "VmwareDistributedVirtualSwitch" => &["portgroup"],
            _ => &[],
        };
        paths.iter().flat_map(|path| self.property(at, &at.kind, path)).filter_map(|e| Moref::decode(&e).ok()).collect()
    }

    /// The value at `path` of an object, wrapped as the property collector gives it.
    ///
    /// # Errors
    /// `InvalidProperty` when the schema has no such path.
    pub(super) fn value(&self, object: &Moref, kind: &str, path: &str) -> Result<Option<Element>, Fault> {
        let bad = || fault::invalid_property(path);
        let mut steps = steps(path).ok_or_else(bad)?.into_iter();
        let first = steps.next().ok_or_else(bad)?;
        let managed = schema::managed_type(kind).ok_or_else(bad)?;
        let mut field = managed.props.iter().find(|f| f.name == first.name).ok_or_else(bad)?;
        let mut elements = self.property(object, kind, first.name);
        let mut whole_array = field.array && first.key.is_none();
        pick(&mut elements, field, first.key).ok_or_else(bad)?;
        let mut unset = false;
        for step in steps {
            // Of what is not there no array is empty: it is unset, too.
            unset |= elements.is_empty();
            if whole_array || !matches!(field.kind, Kind::Data) {
                return Err(bad());
            }
            let ty = elements.first().and_then(|e| e.xsi_type.as_deref()).unwrap_or(field.ty).to_owned();
            let next = schema::fields_of(&ty).into_iter().find(|f| f.name == step.name).ok_or_else(bad)?;
            elements =
                elements.into_iter().flat_map(|e| e.children.into_iter().filter(|c| c.name == step.name)).collect();
            whole_array = next.array && step.key.is_none();
            pick(&mut elements, next, step.key).ok_or_else(bad)?;
            field = next;
        }
        Ok(if unset { None } else { wrap(elements, field, whole_array) })
    }

    /// Everything that a filter's spec finds.  Objects that are named in the spec and are gone are in `missing`.
    pub(super) fn find(&self, spec: &PropertyFilterSpec, missing: &mut Vec<Moref>) -> Result<Found, Fault> {
        let mut found = Found::new();
        for root in &spec.object_set {
            let Some(kind) = self.kind(&root.obj) else {
                missing.push(root.obj.clone());
                continue;
            };
            let mut named = BTreeMap::new();
            collect_named(&root.select_set, &mut named);
            let mut members = Vec::new();
            let root_object = Moref::new(kind, &root.obj.value);
            if root.skip != Some(true) {
                members.push(root_object.clone());
            }
            let mut seen = HashSet::new();
            self.traverse(&root_object, &root.select_set, &named, &mut seen, &mut members)?;
            for object in members {
                if !found.contains_key(&object)
                    && let Some(properties) = self.properties(&object, spec)?
                {
                    found.insert(object, properties);
                }
            }
        }
        Ok(found)
    }

    fn traverse<'s>(
        &self,
        object: &Moref,
        select: &'s [AnySelectionSpec],
        named: &BTreeMap<&'s str, &'s TraversalSpec>,
        seen: &mut HashSet<(Moref, *const TraversalSpec)>,
        members: &mut Vec<Moref>,
    ) -> Result<(), Fault> {
        for selection in select {
            let traversal = match selection {
                AnySelectionSpec::TraversalSpec(traversal) => traversal,
                other => {
                    let name = other.name.as_deref().unwrap_or_default();
                    *named.get(name).ok_or_else(|| {
                        fault::invalid_argument("specSet.objectSet.selectSet.name", &format!("there is no {name:?}"))
                    })?
                }
            };
            if !schema::managed_is_a(&object.kind, &traversal.type_) || !seen.insert((object.clone(), traversal)) {
                continue;
            }
            let value = self.value(object, &object.kind, &traversal.path)?;
            for target in references(value) {
                let Some(kind) = self.kind(&target) else { continue };
                let target = Moref::new(kind, target.value);
                if traversal.skip != Some(true) {
                    members.push(target.clone());
                }
                self.traverse(&target, &traversal.select_set, named, seen, members)?;
            }
        }
        Ok(())
    }

    /// The properties that a spec wants of an object; `None` when it wants no object of that type.
    fn properties(&self, object: &Moref, spec: &PropertyFilterSpec) -> Result<Option<Properties>, Fault> {
        let mut wanted = false;
        let mut all = Properties::new();
        for set in spec.prop_set.iter().filter(|p| schema::managed_is_a(&object.kind, &p.type_)) {
            wanted = true;
            let known = schema::managed_type(&set.type_).map(|t| t.props).unwrap_or_default();
            let paths: Vec<&str> = if set.all == Some(true) {
                known.iter().map(|f| f.name).collect()
            } else {
                set.path_set.iter().map(String::as_str).collect()
            };
            for path in paths {
                let first = path.split(['.', '[']).next().unwrap_or_default();
                if !known.iter().any(|f| f.name == first) {
                    return Err(fault::invalid_property(path));
                }
                if !all.iter().any(|(p, _)| p == path) {
                    all.push((path.to_owned(), self.value(object, &object.kind, path)?));
                }
            }
        }
        Ok(wanted.then_some(all))
    }
}

fn collect_named<'s>(select: &'s [AnySelectionSpec], named: &mut BTreeMap<&'s str, &'s TraversalSpec>) {
    for selection in select {
        if let AnySelectionSpec::TraversalSpec(traversal) = selection {
            if let Some(name) = &traversal.name {
                named.insert(name, traversal);
            }
            collect_named(&traversal.select_set, named);
        }
    }
}

/// The references in a property's value.
fn references(value: Option<Element>) -> Vec<Moref> {
    let Some(value) = value else { return Vec::new() };
    if value.kind.is_some() {
        return Moref::decode(&value).into_iter().collect();
    }
    value.children.iter().filter_map(|c| Moref::decode(c).ok()).collect()
}

struct Step<'p> {
    name: &'p str,
    key: Option<&'p str>,
}

/// Takes a path apart: `config.extraConfig["a.b"].value`.
fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    let mut rest = path;
    loop {
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        let name = &rest[..end];
        if name.is_empty() {
            return None;
        }
        rest = &rest[end..];
        let mut key = None;
        if let Some(inner) = rest.strip_prefix('[') {
            if let Some(quoted) = inner.strip_prefix('"') {
                let close = quoted.find("\"]")?;
                key = Some(&quoted[..close]);
                rest = &quoted[close + 2..];
            } else {
                let close = inner.find(']')?;
                key = Some(&inner[..close]);
                rest = &inner[close + 1..];
            }
        }
        steps.push(Step { name, key });
        match rest.strip_prefix('.') {
            Some(more) => rest = more,
            None if rest.is_empty() => return Some(steps),
            None => return None,
        }
    }
}

/// Keeps the item with that key.  `None` when the field has no items to choose from.
fn pick(elements: &mut Vec<Element>, field: &FieldDesc, key: Option<&str>) -> Option<()> {
    let Some(key) = key else { return Some(()) };
    if !field.array {
        return None;
    }
    elements.retain(|e| e.child("key").is_some_and(|k| k.text == key) || e.text == key);
    Some(())
}

/// A property's value as `val` with its type.
fn wrap(elements: Vec<Element>, field: &FieldDesc, whole_array: bool) -> Option<Element> {
    let item = if field.kind == Kind::Ref { "ManagedObjectReference" } else { field.ty };
    if whole_array {
        let mut val = Element::new("val");
        val.xsi_type = Some(field.xsi_type());
        val.children = elements;
        for child in &mut val.children {
            item.clone_into(&mut child.name);
        }
        return Some(val);
    }
    let mut val = elements.into_iter().next()?;
    "val".clone_into(&mut val.name);
    if val.xsi_type.is_none() {
        val.xsi_type = Some(item.to_owned());
    }
    Some(val)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_name_an_item() {
        let parts = steps("config.extraConfig[\"guestinfo.a.b\"].value").unwrap();
        let parts: Vec<_> = parts.iter().map(|s| (s.name, s.key)).collect();
        assert_eq!(parts, [("config", None), ("extraConfig", Some("guestinfo.a.b")), ("value", None)]);
        assert_eq!(steps("config.hardware.device[4000]").unwrap()[2].key, Some("4000"));
        for wrong in ["", "a.", ".a", "a[", "a[1", "a[\"x]", "a[1]b"] {
            assert!(steps(wrong).is_none(), "{wrong}");
        }
    }
}
