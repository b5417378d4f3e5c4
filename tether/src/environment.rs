//! The process's environment: what the container says, and what Docker adds.

use std::collections::BTreeMap;

/// Docker's PATH for a container that sets none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables, each name once; what `given` says wins.  An entry without `=` takes a variable away.
pub(crate) fn variables(given: &[String], host_name: &str, home: &str, tty: bool) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> =
        [("PATH", PATH), ("HOSTNAME", host_name), ("HOME", home)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    if tty {
        variables.insert("TERM".to_owned(), "xterm".to_owned());
    }
    for entry in given {
        match entry.split_once('=') {
            // The kernel takes any bytes; what cannot be a variable is left out rather than failing the start.
            Some((name, value)) if !name.is_empty() && !entry.contains('\0') => {
                variables.insert(name.to_owned(), value.to_owned());
            }
            Some(_) => {}
            None => {
                variables.remove(entry);
            }
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_wins_over_docker() {
        let given = ["A=1", "A=2", "PATH=/x", "B=a=b", "HOSTNAME", "=odd"].map(str::to_owned);
        let found = variables(&given, "web", "/root", true);
        let text: Vec<_> = found.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(text, ["A=2", "B=a=b", "HOME=/root", "PATH=/x", "TERM=xterm"]);
        assert_eq!(variables(&[], "web", "/", false)["HOSTNAME"], "web");
    }
}
