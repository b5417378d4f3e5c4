//! A string that cannot be printed.
//!
//! Passwords and private keys travel through the product as [`Secret`].  It has no `Display`, its `Debug` shows a
//! placeholder, it serialises only where a field asks for it by name (`#[serde(serialize_with = "secret::expose")]`),
//! and its memory is wiped when it is dropped.  Whoever needs the text calls [`Secret::reveal`], which is easy to find.

use serde::{Deserialize, Deserializer, Serializer};
use zeroize::Zeroizing;

/// What stands where a secret would have been shown.
pub const PLACEHOLDER: &str = "[secret]";

/// A secret text: a password, a PEM private key, a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one place that sends or stores it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(PLACEHOLDER)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// Serialises the text of a secret, for documents whose purpose is to carry it.
pub fn expose<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.reveal())
}

/// The same of one that there need not be.
pub fn expose_option<S: Serializer>(secret: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => serializer.serialize_some(secret.reveal()),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Serialize, Deserialize)]
    struct Carrier {
        #[serde(serialize_with = "expose")]
        key: Secret,
        #[serde(serialize_with = "expose_option")]
        other: Option<Secret>,
    }

    #[test]
    fn debug_shows_only_the_placeholder() {
        let carrier = Carrier { key: Secret::new("hunter2"), other: Some(Secret::new("hunter3")) };
        assert_eq!(format!("{carrier:?}"), "Carrier { key: [secret], other: Some([secret]) }");
    }

    #[test]
    fn a_document_that_asks_for_it_carries_the_text() {
        for (other, expected) in [(None, "null"), (Some(Secret::new("hunter3")), r#""hunter3""#)] {
            let json = serde_json::to_string(&Carrier { key: Secret::new("hunter2"), other: other.clone() }).unwrap();
            assert_eq!(json, format!(r#"{{"key":"hunter2","other":{expected}}}"#));
            let back: Carrier = serde_json::from_str(&json).unwrap();
            assert_eq!((back.key.reveal(), back.other), ("hunter2", other));
        }
    }
}
