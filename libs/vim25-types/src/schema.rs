//! The schema as data: what a strict reader checks, and where a property path leads.

use crate::generated::tables::{ENUMS, MANAGED, METHODS, TYPES};
use crate::xml::Element;

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A primitive of XML Schema.
    Xsd,
    /// An enumeration.
    Enum,
    /// A data object.
    Data,
    /// A managed object reference; the field's type is the object's.
    Ref,
    /// Any value, with an `xsi:type`.
    Any,
    /// A data object that is not curated: its place is known, its inside is not.
    Opaque,
}

/// A field, property or parameter.
#[derive(Debug)]
pub struct FieldDesc {
    /// Element name.
    pub name: &'static str,
    /// Type of one item.
    pub ty: &'static str,
    /// What `ty` is.
    pub kind: Kind,
    /// The element repeats.
    pub array: bool,
    /// It may be absent.
    pub optional: bool,
}

/// A data object type.
#[derive(Debug)]
pub struct TypeDesc {
    /// Name.
    pub name: &'static str,
    /// Name of the base type, or empty.
    pub base: &'static str,
    /// Its own fields, in order.
    pub fields: &'static [FieldDesc],
}

/// A managed object type.
#[derive(Debug)]
pub struct ManagedDesc {
    /// Name.
    pub name: &'static str,
    /// Itself and the types it derives from, nearest first.
    pub supers: &'static [&'static str],
    /// Names of its curated methods, those of its bases not included.
    pub methods: &'static [&'static str],
    /// All its properties, inherited ones included.
    pub props: &'static [FieldDesc],
}

/// A method.
#[derive(Debug)]
pub struct MethodDesc {
    /// Name on the wire.
    pub name: &'static str,
    /// Privilege that the caller needs, or empty.
    pub privilege: &'static str,
    /// Parameters, in order.
    pub params: &'static [FieldDesc],
}

impl FieldDesc {
    /// The type's name as an `xsi:type` of a whole property value.
    pub fn xsi_type(&self) -> String {
        let item = if self.kind == Kind::Ref { "ManagedObjectReference" } else { self.ty };
        if self.array {
            let (first, rest) = item.split_at(1);
            format!("ArrayOf{}{rest}", first.to_uppercase())
        } else {
            item.to_owned()
        }
    }
}

/// The data object type of that name.
pub fn data_type(name: &str) -> Option<&'static TypeDesc> {
    TYPES.binary_search_by(|t| t.name.cmp(name)).ok().map(|i| &TYPES[i])
}

/// The managed object type of that name.
pub fn managed_type(name: &str) -> Option<&'static ManagedDesc> {
    MANAGED.binary_search_by(|t| t.name.cmp(name)).ok().map(|i| &MANAGED[i])
}

/// The method of that name.
pub fn method(name: &str) -> Option<&'static MethodDesc> {
    METHODS.binary_search_by(|t| t.name.cmp(name)).ok().map(|i| &METHODS[i])
}

/// The privileges that the curated methods need, repeated as often as they are needed.
pub fn privileges() -> Vec<&'static str> {
    METHODS.iter().map(|m| m.privilege).collect()
}

/// Whether the managed type `name` is `ancestor` or derives from it.
pub fn managed_is_a(name: &str, ancestor: &str) -> bool {
    name == ancestor || managed_type(name).is_some_and(|m| m.supers.contains(&ancestor))
}

/// Whether `method` can be called on the managed type `name`.
pub fn has_method(name: &str, method: &str) -> bool {
    managed_type(name)
        .is_some_and(|m| m.supers.iter().filter_map(|s| managed_type(s)).any(|s| s.methods.contains(&method)))
}

/// Whether the data type `name` is `ancestor` or derives from it.
pub fn data_is_a(name: &str, ancestor: &str) -> bool {
    let mut at = Some(name);
    while let Some(n) = at {
        if n == ancestor {
            return true;
        }
        at = data_type(n).map(|t| t.base).filter(|b| !b.is_empty());
    }
    false
}

/// All fields of a data type in wire order, those of its bases first.
pub fn fields_of(name: &str) -> Vec<&'static FieldDesc> {
    let Some(t) = data_type(name) else { return Vec::new() };
    let mut fields = if t.base.is_empty() { Vec::new() } else { fields_of(t.base) };
    fields.extend(t.fields);
    fields
}

/// What a strict reader holds against a request; `None` when it is as the schema wants it.
///
/// Checked: unknown, misordered, repeated and missing elements, the form of primitives and enumeration values,
/// `xsi:type` of derived types and of any-typed values, types of references.
pub fn violation(method: &MethodDesc, request: &Element) -> Option<String> {
    let mut children = request.children.iter();
    match children.next() {
        Some(this) if this.name == "_this" && this.kind.is_some() => {}
        _ => return Some(format!("{}: _this is missing or not first", method.name)),
    }
    let params: Vec<&FieldDesc> = method.params.iter().collect();
    sequence(&params, children, method.name).err()
}

fn sequence<'a>(
    fields: &[&'static FieldDesc],
    children: impl Iterator<Item = &'a Element>,
    path: &str,
) -> Result<(), String> {
    let mut at = 0;
    let mut present = vec![false; fields.len()];
    for child in children {
        let here = format!("{path}.{}", child.name);
        let Some(i) = fields.iter().position(|f| f.name == child.name) else {
            if matches!(child.name.as_str(), "dynamicType" | "dynamicProperty") {
                continue;
            }
            return Err(format!("{here}: unknown element"));
        };
        if i < at {
            return Err(format!("{here}: out of order, it must stand before {}", fields[at].name));
        }
        if present[i] && !fields[i].array {
            return Err(format!("{here}: repeated, and it is no array"));
        }
        at = i;
        present[i] = true;
        value(fields[i], child, &here)?;
    }
    match fields.iter().zip(&present).find(|(f, seen)| !f.optional && !f.array && !**seen) {
        Some((f, _)) => Err(format!("{path}.{}: required, and missing", f.name)),
        None => Ok(()),
    }
}

fn value(field: &FieldDesc, el: &Element, path: &str) -> Result<(), String> {
    match field.kind {
        Kind::Opaque => Ok(()),
        Kind::Xsd => primitive(field.ty, el, path),
        Kind::Enum => enumeration(field.ty, el, path),
        Kind::Ref => match &el.kind {
            None => Err(format!("{path}: managed object reference without type")),
            Some(kind)
                if managed_type(kind).is_some()
                    && !managed_is_a(kind, field.ty)
                    && managed_type(field.ty).is_some() =>
            {
                Err(format!("{path}: reference to {kind} where {} is wanted", field.ty))
            }
            Some(_) if el.text.trim().is_empty() => Err(format!("{path}: empty reference")),
            Some(_) => Ok(()),
        },
        Kind::Data => {
            let ty = el.xsi_type.as_deref().unwrap_or(field.ty);
            if data_type(ty).is_none() {
                return Err(format!("{path}: unknown xsi:type {ty}"));
            }
            if !data_is_a(ty, field.ty) {
                return Err(format!("{path}: xsi:type {ty} is no {}", field.ty));
            }
            sequence(&fields_of(ty), el.children.iter(), path)
        }
        Kind::Any => any(el, path),
    }
}

fn any(el: &Element, path: &str) -> Result<(), String> {
    let Some(ty) = el.xsi_type.as_deref() else { return Err(format!("{path}: anyType without xsi:type")) };
    if crate::xml::is_xsd(ty) {
        primitive(ty, el, path)
    } else if ENUMS.iter().any(|(name, _)| *name == ty) {
        enumeration(ty, el, path)
    } else if data_type(ty).is_some() {
        sequence(&fields_of(ty), el.children.iter(), path)
    } else if ty == "ManagedObjectReference" || ty.starts_with("ArrayOf") {
        Ok(())
    } else {
        Err(format!("{path}: unknown xsi:type {ty}"))
    }
}

fn enumeration(ty: &str, el: &Element, path: &str) -> Result<(), String> {
    let text = el.text.trim();
    match ENUMS.iter().find(|(name, _)| *name == ty) {
        Some((_, values)) if !values.contains(&text) => Err(format!("{path}: '{text}' is no {ty}")),
        _ => Ok(()),
    }
}

fn primitive(ty: &str, el: &Element, path: &str) -> Result<(), String> {
    if !el.children.is_empty() {
        return Err(format!("{path}: {ty} has child elements"));
    }
    let text = el.text.trim();
    let good = match ty {
        "boolean" => matches!(text, "true" | "false" | "1" | "0"),
        "byte" => text.parse::<i8>().is_ok(),
        "short" => text.parse::<i16>().is_ok(),
        "int" => text.parse::<i32>().is_ok(),
        "long" => text.parse::<i64>().is_ok(),
        "float" | "double" => text.parse::<f64>().is_ok(),
        "dateTime" => {
            text.len() >= 19 && text.as_bytes().get(4) == Some(&b'-') && text.as_bytes().get(10) == Some(&b'T')
        }
        _ => true,
    };
    if good { Ok(()) } else { Err(format!("{path}: '{text}' is no {ty}")) }
}
