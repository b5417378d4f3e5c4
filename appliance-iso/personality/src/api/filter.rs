//! The parameter `filters`, as every client sends it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::error::ApiError;

/// Old clients send a list, new ones a set.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Values {
    Set(BTreeMap<String, bool>),
    List(Vec<String>),
}

/// The values of each key; what a key means is the endpoint's.
pub(super) fn read(text: &str) -> Result<BTreeMap<String, BTreeSet<String>>, ApiError> {
    if text.is_empty() {
        return Ok(BTreeMap::new());
    }
    let read: BTreeMap<String, Values> =
        serde_json::from_str(text).map_err(|e| ApiError::Bad(format!("invalid filter: {e}")))?;
    let values = |values| match values {
        Values::Set(set) => set.into_keys().collect(),
        Values::List(list) => list.into_iter().collect(),
    };
    Ok(read.into_iter().map(|(key, v)| (key, values(v))).collect())
}
