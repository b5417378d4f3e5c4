//! Ids and names of containers.

use port_layer::container::record::is_name;
use port_layer::container::table::Table;
use uuid::Uuid;

use crate::error::ApiError;

/// An id that nobody has: 64 hexadecimal digits.
pub(super) fn id() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// Checks a name that a client gives; none is as good.
pub(super) fn check(name: &str) -> Result<(), ApiError> {
    if name.is_empty() || is_name(name) {
        return Ok(());
    }
    // Docker's words, which its tests look for.
    let allowed = "[a-zA-Z0-9][a-zA-Z0-9_.-]";
    Err(ApiError::Bad(format!("Invalid container name ({name}), only {allowed} are allowed")))
}

const LEFT: [&str; 32] = [
    "amber", "brave", "bright", "calm", "clever", "crisp", "daring", "eager", "fair", "gentle", "glad", "golden",
    "happy", "honest", "jolly", "keen", "kind", "lively", "lucky", "mellow", "neat", "noble", "patient", "proud",
    "quick", "quiet", "serene", "steady", "sunny", "swift", "warm", "wise",
];
const RIGHT: [&str; 32] = [
    "babbage", "bell", "bohr", "boole", "cerf", "curie", "darwin", "dijkstra", "edison", "euler", "faraday", "fermat",
    "franklin", "galileo", "gauss", "hamilton", "hopper", "kepler", "knuth", "lamport", "liskov", "lovelace",
    "maxwell", "meitner", "newton", "noether", "pascal", "ritchie", "shannon", "tesla", "turing", "wilson",
];

/// A name for a container that was given none.
pub(super) fn random(table: &Table) -> String {
    loop {
        let bytes = Uuid::new_v4().into_bytes();
        // All of a UUID's bytes but two are random.
        let pick = |list: &[&'static str], byte: u8| list[usize::from(byte) % list.len()];
        let name = format!("{}_{}{}", pick(&LEFT, bytes[0]), pick(&RIGHT, bytes[1]), u16::from(bytes[2]) % 100);
        if table.find(&name).is_err() {
            return name;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_made() {
        for good in ["", "web", "a1", "A.b-c_d"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["a", "-web", "we b", "web/", "ü1"] {
            assert!(check(bad).unwrap_err().to_string().starts_with("Invalid container name"), "{bad}");
        }
        let name = random(&Table::default());
        assert_eq!(check(&name), Ok(()), "{name}");
        assert!(id().len() == 64 && id() != id());
    }
}
