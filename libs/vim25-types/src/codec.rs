//! How Rust values stand in an element tree.

use crate::xml::Element;

/// Why an element is not the value that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("element {path}: {reason}")]
pub struct DecodeError {
    /// Names of the elements down to the one at fault.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

impl DecodeError {
    /// An error at the element `name`.
    pub fn new(name: &str, reason: impl Into<String>) -> Self {
        Self { path: name.to_owned(), reason: reason.into() }
    }

    fn inside(mut self, name: &str) -> Self {
        self.path = format!("{name}/{}", self.path);
        self
    }
}

/// A value that one element carries.
pub trait Value: Sized {
    /// Name of its type in an `xsi:type` attribute.
    fn type_name(&self) -> &str;
    /// The element named `name` that carries it.
    fn encode(&self, name: &str) -> Element;
    /// Reads it from an element.
    ///
    /// # Errors
    /// [`DecodeError`] when the element carries something else.
    fn decode(el: &Element) -> Result<Self, DecodeError>;
}

/// A data object: a struct of the schema.
pub trait Data: Sized {
    /// Name of its type.
    const TYPE: &'static str;
    /// Appends the fields in the schema's order, those of the bases first.
    fn encode_fields(&self, out: &mut Vec<Element>);
    /// Reads the fields; elements that are not known are passed over.
    ///
    /// # Errors
    /// [`DecodeError`] when a required field is missing or a field has the wrong type.
    fn decode_fields(el: &Element) -> Result<Self, DecodeError>;
}

/// A method's request.
pub trait Method: Sized {
    /// Name on the wire.
    const NAME: &'static str;
    /// What it returns.
    type Response;
    /// The object that it is called on.
    fn this(&self) -> &ManagedObjectReference;
    /// Appends the parameters in order.
    fn encode_params(&self, out: &mut Vec<Element>);
    /// Reads the parameters.
    ///
    /// # Errors
    /// [`DecodeError`] when a parameter is missing or of the wrong type.
    fn decode_params(this: ManagedObjectReference, el: &Element) -> Result<Self, DecodeError>;
    /// Reads the result from the response element.
    ///
    /// # Errors
    /// [`DecodeError`] when the result is missing or of the wrong type.
    fn decode_response(el: &Element) -> Result<Self::Response, DecodeError>;
    /// Appends the result's elements.
    fn encode_response(response: &Self::Response, out: &mut Vec<Element>);
}

/// Reference to a managed object: its type and its id.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagedObjectReference {
    /// Type, such as `VirtualMachine`.
    pub kind: String,
    /// Id, such as `vm-42`.
    pub value: String,
}

impl ManagedObjectReference {
    /// A reference.
    pub fn new(kind: impl Into<String>, value: impl Into<String>) -> Self {
        Self { kind: kind.into(), value: value.into() }
    }
}

impl std::fmt::Display for ManagedObjectReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind, self.value)
    }
}

impl Value for ManagedObjectReference {
    fn type_name(&self) -> &str {
        "ManagedObjectReference"
    }
    fn encode(&self, name: &str) -> Element {
        let mut el = Element::with_text(name, &self.value);
        el.kind = Some(self.kind.clone());
        el
    }
    fn decode(el: &Element) -> Result<Self, DecodeError> {
        let kind = el.kind.clone().ok_or_else(|| DecodeError::new(&el.name, "a reference without a type"))?;
        Ok(Self { kind, value: el.text.trim().to_owned() })
    }
}

/// A point in time as it stands on the wire (`xsd:dateTime`).
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DateTime(pub String);

impl Value for DateTime {
    fn type_name(&self) -> &str {
        "dateTime"
    }
    fn encode(&self, name: &str) -> Element {
        Element::with_text(name, &self.0)
    }
    fn decode(el: &Element) -> Result<Self, DecodeError> {
        Ok(Self(el.text.trim().to_owned()))
    }
}

impl Value for String {
    fn type_name(&self) -> &str {
        "string"
    }
    fn encode(&self, name: &str) -> Element {
        Element::with_text(name, self)
    }
    fn decode(el: &Element) -> Result<Self, DecodeError> {
        Ok(el.text.clone())
    }
}

impl Value for bool {
    fn type_name(&self) -> &str {
        "boolean"
    }
    fn encode(&self, name: &str) -> Element {
        Element::with_text(name, if *self { "true" } else { "false" })
    }
    fn decode(el: &Element) -> Result<Self, DecodeError> {
        match el.text.trim() {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(DecodeError::new(&el.name, format!("{other:?} is no boolean"))),
        }
    }
}

macro_rules! number_value {
    ($($ty:ty = $name:literal),*) => { $(
        impl Value for $ty {
            fn type_name(&self) -> &str {
                $name
            }
            fn encode(&self, name: &str) -> Element {
                Element::with_text(name, self.to_string())
            }
            fn decode(el: &Element) -> Result<Self, DecodeError> {
                let text = el.text.trim();
                text.parse().map_err(|_| DecodeError::new(&el.name, format!("{text:?} is no {}", $name)))
            }
        }
    )* };
}
number_value!(i8 = "byte", i16 = "short", i32 = "int", i64 = "long", f32 = "float", f64 = "double");

impl<T: Value> Value for Box<T> {
    fn type_name(&self) -> &str {
        (**self).type_name()
    }
    fn encode(&self, name: &str) -> Element {
        (**self).encode(name)
    }
    fn decode(el: &Element) -> Result<Self, DecodeError> {
        T::decode(el).map(Self::new)
    }
}

/// `xsd:anyType`: a value that names its own type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnyValue(Element);

impl AnyValue {
    /// Wraps a value.
    pub fn of<T: Value>(value: &T) -> Self {
        let mut el = value.encode("val");
        el.xsi_type = Some(value.type_name().to_owned());
        Self(el)
    }

    /// Wraps an array: `ArrayOf<Item>` in vim25, its elements named after the item's type.
    pub fn of_all<T: Value>(item_type: &str, values: &[T]) -> Self {
        let mut el = Element::new("val");
        let mut capital = item_type.to_owned();
        capital[..1].make_ascii_uppercase();
        el.xsi_type = Some(format!("ArrayOf{capital}"));
        el.children = values.iter().map(|v| v.encode(item_type)).collect();
        Self(el)
    }

    /// Wraps an element that carries its type in `xsi_type`.
    pub fn from_element(mut el: Element) -> Self {
        // The element's name belongs to the place where the value stands.
        "val".clone_into(&mut el.name);
        Self(el)
    }

    /// The element as it stood on the wire.
    pub fn element(&self) -> &Element {
        &self.0
    }

    /// The name of the value's type; empty when it has none.
    pub fn type_name(&self) -> &str {
        self.0.xsi_type.as_deref().unwrap_or("")
    }

    /// Reads the value as a `T`.
    ///
    /// # Errors
    /// [`DecodeError`] when it is something else.
    pub fn get<T: Value>(&self) -> Result<T, DecodeError> {
        T::decode(&self.0)
    }

    /// Reads the value as an array of `T`.
    ///
    /// # Errors
    /// [`DecodeError`] when an element is something else.
    pub fn get_all<T: Value>(&self) -> Result<Vec<T>, DecodeError> {
        self.0.children.iter().map(|c| T::decode(c).map_err(|e| e.inside(&self.0.name))).collect()
    }
}

impl Value for AnyValue {
    fn type_name(&self) -> &str {
        Self::type_name(self)
    }
    fn encode(&self, name: &str) -> Element {
        let mut el = self.0.clone();
        name.clone_into(&mut el.name);
        el
    }
    fn decode(el: &Element) -> Result<Self, DecodeError> {
        Ok(Self::from_element(el.clone()))
    }
}

pub(crate) fn put<T: Value>(out: &mut Vec<Element>, name: &str, value: &T) {
    out.push(value.encode(name));
}

pub(crate) fn put_some<T: Value>(out: &mut Vec<Element>, name: &str, value: &Option<T>) {
    out.extend(value.as_ref().map(|v| v.encode(name)));
}

pub(crate) fn put_all<T: Value>(out: &mut Vec<Element>, name: &str, values: &[T]) {
    out.extend(values.iter().map(|v| v.encode(name)));
}

pub(crate) fn get<T: Value>(el: &Element, name: &str) -> Result<T, DecodeError> {
    get_some(el, name)?.ok_or_else(|| DecodeError::new(&el.name, format!("{name} is missing")))
}

pub(crate) fn get_some<T: Value>(el: &Element, name: &str) -> Result<Option<T>, DecodeError> {
    el.child(name).map(|c| T::decode(c).map_err(|e| e.inside(&el.name))).transpose()
}

pub(crate) fn get_all<T: Value>(el: &Element, name: &str) -> Result<Vec<T>, DecodeError> {
    el.children.iter().filter(|c| c.name == name).map(|c| T::decode(c).map_err(|e| e.inside(&el.name))).collect()
}

/// An enumeration of the schema, with a fallback for values of newer versions.
macro_rules! string_enum {
    ($doc:literal $name:ident { $($variant:ident = $text:literal,)* }) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $text] $variant,)*
            /// A value that this build does not know.
            Other(String),
        }
        impl $name {
            /// The value as it stands on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(text) => text,
                }
            }
        }
        impl Default for $name {
            fn default() -> Self {
                Self::Other(String::new())
            }
        }
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }
        impl Value for $name {
            fn type_name(&self) -> &str {
                stringify!($name)
            }
            fn encode(&self, name: &str) -> Element {
                Element::with_text(name, self.as_str())
            }
            fn decode(el: &Element) -> Result<Self, DecodeError> {
                Ok(Self::from(el.text.trim()))
            }
        }
    };
}

/// The fields of a base type are reached through the derived one, as the schema's inheritance has it.
macro_rules! inherit {
    ($name:ident: $base:ident) => {
        impl std::ops::Deref for $name {
            type Target = $base;
            fn deref(&self) -> &$base {
                &self.base
            }
        }
        impl std::ops::DerefMut for $name {
            fn deref_mut(&mut self) -> &mut $base {
                &mut self.base
            }
        }
    };
}

/// An element carries a data object by its fields.
macro_rules! data_value {
    ($name:ident) => {
        impl Value for $name {
            fn type_name(&self) -> &str {
                Self::TYPE
            }
            fn encode(&self, name: &str) -> Element {
                let mut el = Element::new(name);
                self.encode_fields(&mut el.children);
                el
            }
            fn decode(el: &Element) -> Result<Self, DecodeError> {
                Self::decode_fields(el)
            }
        }
    };
}

/// A type and its descendants.
macro_rules! any_of {
    ($doc:literal $any:ident: $base:ident { $($variant:ident),* }) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq)]
        pub enum $any {
            $(#[doc = concat!("`", stringify!($variant), "`")] $variant($variant),)*
            /// A derived type that this build does not know, with the fields that it has in common.
            Unknown {
                /// The name of the type.
                type_name: String,
                /// The fields of the base type.
                base: $base,
            },
        }
        impl Default for $any {
            fn default() -> Self {
                Self::$base($base::default())
            }
        }
        impl std::ops::Deref for $any {
            type Target = $base;
            fn deref(&self) -> &$base {
                match self {
                    $(Self::$variant(v) => v,)*
                    Self::Unknown { base, .. } => base,
                }
            }
        }
        impl std::ops::DerefMut for $any {
            fn deref_mut(&mut self) -> &mut $base {
                match self {
                    $(Self::$variant(v) => v,)*
                    Self::Unknown { base, .. } => base,
                }
            }
        }
        $(impl From<$variant> for $any {
            fn from(v: $variant) -> Self {
                Self::$variant(v)
            }
        })*
        impl Value for $any {
            fn type_name(&self) -> &str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)*
                    Self::Unknown { type_name, .. } => type_name,
                }
            }
            fn encode(&self, name: &str) -> Element {
                let mut el = match self {
                    $(Self::$variant(v) => v.encode(name),)*
                    Self::Unknown { base, .. } => base.encode(name),
                };
                if self.type_name() != $base::TYPE {
                    el.xsi_type = Some(self.type_name().to_owned());
                }
                el
            }
            fn decode(el: &Element) -> Result<Self, DecodeError> {
                match el.xsi_type.as_deref().unwrap_or($base::TYPE) {
                    $(stringify!($variant) => $variant::decode(el).map(Self::$variant),)*
                    other => Ok(Self::Unknown { type_name: other.to_owned(), base: $base::decode(el)? }),
                }
            }
        }
    };
}

pub(crate) use {any_of, data_value, inherit, string_enum};
