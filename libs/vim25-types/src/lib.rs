//! The vSphere API's wire types (SOAP, namespace `urn:vim25`).
//!
//! Shared by the client (`libs/vim25`) and the lab, which share nothing else:
//! * [`xml`]: a small element tree, read and written;
//! * [`codec`]: how Rust values stand in it;
//! * generated structs, enums and request types, re-exported here.  Field order is the schema's, as vSphere demands.
//!   A type with curated descendants has an enum `Any<Type>` beside it, with a fallback that keeps an unknown type's name;
//! * [`schema`]: the schema as data, for strict validation and property paths;
//! * [`soap`]: envelopes and faults.

pub mod codec;
mod generated;
pub mod schema;
pub mod soap;
pub mod xml;

pub use codec::{AnyValue, Data, DateTime, DecodeError, ManagedObjectReference, Method, Value};
pub use generated::data::*;
pub use generated::methods;
