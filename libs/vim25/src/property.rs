//! Reads through the property collector.

use std::collections::BTreeMap;

use vim25_types::soap::Fault;
use vim25_types::{
    AnyMethodFault, AnySelectionSpec, AnyValue, ManagedObjectReference, Method, MissingProperty, ObjectContent,
    ObjectSpec, PropertyFilterSpec, PropertySpec, RetrieveOptions, RetrieveResult, SelectionSpec, TraversalSpec, Value,
    methods,
};

use crate::{Error, Result, Session};

/// Objects per answer; vSphere may send fewer.
const PAGE: i32 = 500;

/// Some properties of one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Object {
    /// The object.
    pub reference: ManagedObjectReference,
    /// Its properties by path; one that is unset or not readable is absent.
    pub properties: BTreeMap<String, AnyValue>,
}

impl Object {
    /// A property, when it is set.
    ///
    /// # Errors
    /// [`Error::Protocol`] when it is of another type.
    pub fn get<T: Value>(&self, path: &str) -> Result<Option<T>> {
        self.properties.get(path).map(|v| v.get().map_err(|e| self.wrong(path, &e))).transpose()
    }

    /// A property that must be set.
    ///
    /// # Errors
    /// [`Error::Protocol`] when it is unset or of another type.
    pub fn require<T: Value>(&self, path: &str) -> Result<T> {
        self.get(path)?.ok_or_else(|| self.wrong(path, &"it is not set, or this user may not read it"))
    }

    /// An array property; empty when it is unset.
    ///
    /// # Errors
    /// [`Error::Protocol`] when an item is of another type.
    pub fn all<T: Value>(&self, path: &str) -> Result<Vec<T>> {
        self.properties.get(path).map_or(Ok(Vec::new()), |v| v.get_all().map_err(|e| self.wrong(path, &e)))
    }

    fn wrong(&self, path: &str, reason: &dyn std::fmt::Display) -> Error {
        Error::Protocol { what: format!("property {path} of {}", self.reference), reason: reason.to_string() }
    }
}

impl From<ObjectContent> for Object {
    fn from(content: ObjectContent) -> Self {
        let properties = content.prop_set.into_iter().map(|p| (p.name, p.val)).collect();
        Self { reference: content.obj, properties }
    }
}

/// Names properties of a managed object type; subtypes are included.
pub fn paths(kind: &str, paths: &[&str]) -> PropertySpec {
    PropertySpec { type_: kind.to_owned(), all: Some(false), path_set: paths.iter().map(|&p| p.to_owned()).collect() }
}

/// One step of a traversal: from objects of type `kind` along their property `path`, then on along the named steps.
pub fn step(name: &str, kind: &str, path: &str, then: &[&str]) -> AnySelectionSpec {
    TraversalSpec {
        base: SelectionSpec { name: Some(name.to_owned()) },
        type_: kind.to_owned(),
        path: path.to_owned(),
        skip: Some(false),
        select_set: then.iter().map(|&n| SelectionSpec { name: Some(n.to_owned()) }.into()).collect(),
    }
    .into()
}

/// Everything reachable from `root` along `steps` of which `specs` asks something.
pub fn reachable(
    root: ManagedObjectReference,
    specs: Vec<PropertySpec>,
    steps: Vec<AnySelectionSpec>,
) -> PropertyFilterSpec {
    let object = ObjectSpec { obj: root, skip: Some(false), select_set: steps };
    PropertyFilterSpec { prop_set: specs, object_set: vec![object], ..Default::default() }
}

/// The given objects themselves.
pub fn these(objects: &[ManagedObjectReference], specs: Vec<PropertySpec>) -> PropertyFilterSpec {
    let object_set = objects.iter().map(|o| ObjectSpec { obj: o.clone(), skip: Some(false), ..Default::default() });
    PropertyFilterSpec { prop_set: specs, object_set: object_set.collect(), ..Default::default() }
}

fn missing(page: &RetrieveResult) -> impl Iterator<Item = &MissingProperty> {
    page.objects.iter().flat_map(|object| &object.missing_set)
}

/// Fails if a property is missing because the session has gone: the collector may answer without one, and tell so of each property.
/// Any other reason concerns that property alone, which is absent then.
pub(crate) fn authenticated<'a, M: Method>(
    method: &M,
    missing: impl IntoIterator<Item = &'a MissingProperty>,
) -> Result<()> {
    let mut faults = missing.into_iter().map(|property| &property.fault);
    match faults.find(|fault| matches!(*fault.fault, AnyMethodFault::NotAuthenticated(_))) {
        None => Ok(()),
        Some(fault) => {
            let message = fault.localized_message.clone().unwrap_or_default();
            let fault = Box::new(Fault { detail: (*fault.fault).clone(), message });
            Err(Error::Fault { method: M::NAME.to_owned(), object: method.this().clone(), fault })
        }
    }
}

impl Session {
    /// Reads what a filter selects, page by page.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn retrieve(&self, filter: PropertyFilterSpec) -> Result<Vec<Object>> {
        self.whole(|| self.retrieve_once(&filter)).await
    }

    /// All pages or none: they are a session's own, and what one has begun another cannot go on with.
    async fn retrieve_once(&self, filter: &PropertyFilterSpec) -> Result<Vec<Object>> {
        let this = self.content().property_collector.clone();
        let deadline = self.options().deadline;
        let options = RetrieveOptions { max_objects: Some(PAGE) };
        let first = methods::RetrievePropertiesEx { this: this.clone(), spec_set: vec![filter.clone()], options };
        let mut page = self.once(&first, deadline).await?;
        if let Some(page) = &page {
            authenticated(&first, missing(page))?;
        }
        let mut objects = Vec::new();
        while let Some(result) = page {
            objects.extend(result.objects.into_iter().map(Object::from));
            page = match result.token {
                Some(token) if !token.is_empty() => {
                    let next = methods::ContinueRetrievePropertiesEx { this: this.clone(), token };
                    let page = self.once(&next, deadline).await?;
                    authenticated(&next, missing(&page))?;
                    Some(page)
                }
                _ => None,
            };
        }
        Ok(objects)
    }

    /// Reads properties of one object.
    ///
    /// # Errors
    /// Those of the call; `ManagedObjectNotFound` when the object is gone.
    pub async fn read(&self, object: &ManagedObjectReference, wanted: &[&str]) -> Result<Object> {
        let filter = these(std::slice::from_ref(object), vec![paths(&object.kind, wanted)]);
        let found = self.retrieve(filter).await?.into_iter().next();
        Ok(found.unwrap_or_else(|| Object { reference: object.clone(), ..Default::default() }))
    }

    /// Reads the same properties of many objects of one type in one call.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn read_all(&self, objects: &[ManagedObjectReference], wanted: &[&str]) -> Result<Vec<Object>> {
        match objects.first() {
            None => Ok(Vec::new()),
            Some(first) => self.retrieve(these(objects, vec![paths(&first.kind, wanted)])).await,
        }
    }

    /// Reads properties of the objects of type `kind` in a folder, pool, vApp or host: its children, or everything below.
    ///
    /// # Errors
    /// Those of the calls.
    pub async fn contained(
        &self,
        container: &ManagedObjectReference,
        kind: &str,
        recursive: bool,
        wanted: &[&str],
    ) -> Result<Vec<Object>> {
        // A view, too, is a session's own.
        self.whole(|| self.contained_once(container, kind, recursive, wanted)).await
    }

    async fn contained_once(
        &self,
        container: &ManagedObjectReference,
        kind: &str,
        recursive: bool,
        wanted: &[&str],
    ) -> Result<Vec<Object>> {
        let this = self.content().view_manager.clone().ok_or_else(|| Error::Protocol {
            what: "RetrieveServiceContent".into(),
            reason: "no view manager".into(),
        })?;
        let type_ = vec![kind.to_owned()];
        let create = methods::CreateContainerView { this, container: container.clone(), type_, recursive };
        let deadline = self.options().deadline;
        let view = self.once(&create, deadline).await?;
        let steps = vec![step("view", "ContainerView", "view", &[])];
        let found = self.retrieve_once(&reachable(view.clone(), vec![paths(kind, wanted)], steps)).await;
        // A view that cannot be destroyed now ends with the session.
        let _ = self.once(&methods::DestroyView { this: view }, deadline).await;
        found
    }
}
