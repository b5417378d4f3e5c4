//! Rules for names that the admin gives.

use crate::problem::Problem;

/// Longest name of a VCH: it also names a vSwitch on ESXi, and those end at 31.
const MAX_VCH_NAME: usize = 31;
/// Characters that vSphere objects, datastore folders or flags cannot carry.
const FORBIDDEN: &str = "%&*$#@!\\/:?\"<>;'|";

/// Checks the name of a VCH.
pub(crate) fn check_vch_name(name: &str) -> Result<(), Problem> {
    let fault = |why: String, remedy: &str| {
        Err(Problem::validation(format!("--name {name:?} cannot be used")).why(why).remedy(remedy))
    };
    if name.trim().is_empty() || name.trim() != name {
        return fault("it is empty, or begins or ends with a blank".into(), "give a name of 1 to 31 characters");
    }
    let length = name.chars().count();
    if length > MAX_VCH_NAME {
        return fault(
            format!("it has {length} characters and exceeds the permitted {MAX_VCH_NAME} characters limit"),
            "choose a shorter name",
        );
    }
    if let Some(c) = name.chars().find(|c| FORBIDDEN.contains(*c) || c.is_control()) {
        return fault(format!("it contains {c:?}"), "use letters, digits, blanks, '-', '_', '.', '(' and ')'");
    }
    if name.starts_with('.') {
        return fault("it begins with a dot".into(), "begin the name with a letter or a digit");
    }
    Ok(())
}

/// `did you mean` for a name that was not found: the nearest candidates first, at most five.
pub(crate) fn nearest(wanted: &str, candidates: &[String]) -> Vec<String> {
    let mut scored: Vec<(f64, &String)> =
        candidates.iter().map(|c| (strsim::jaro_winkler(&wanted.to_lowercase(), &c.to_lowercase()), c)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    scored.into_iter().take(5).map(|(_, c)| c.clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_held_to_the_limits_of_vsphere() {
        assert!(check_vch_name("virtual-container-host").is_ok());
        assert!(check_vch_name(&"x".repeat(31)).is_ok());
        let long = check_vch_name(&"x".repeat(32)).unwrap_err().to_string();
        assert!(long.contains("exceeds the permitted 31 characters limit"), "{long}");
        for bad in ["", " a", "a ", "a/b", "a%b", "a\u{7}b", ".a", "a;b", "it's"] {
            assert!(check_vch_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_nearest_name_comes_first() {
        let names = ["datastore1", "nfs", "vsanDatastore"].map(String::from);
        assert_eq!(nearest("datstore1", &names)[0], "datastore1");
    }

    proptest! {
        #[test]
        fn no_name_panics_and_good_names_have_no_bad_character(name in ".*") {
            if check_vch_name(&name).is_ok() {
                prop_assert!(name.chars().count() <= 31 && !name.contains(|c| FORBIDDEN.contains(c)));
            }
        }
    }
}
