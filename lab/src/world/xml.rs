//! vim25 values in JSON documents: as the XML that they are on the wire.

use serde::{Deserialize, Deserializer, Serializer, de};
use vim25_types::Value;
use vim25_types::xml::Element;

pub(crate) fn serialize<T: Value, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::new();
    let mut element = value.encode("value");
    element.xsi_type.get_or_insert_with(|| value.type_name().to_owned());
    element.write(&mut text);
    serializer.serialize_str(&text)
}

pub(crate) fn deserialize<'de, T: Value, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    let element = Element::parse(&text).map_err(de::Error::custom)?;
    T::decode(&element).map_err(de::Error::custom)
}
