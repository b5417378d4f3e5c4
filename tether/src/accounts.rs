//! Who the process runs as: the users and groups of the image, by Docker's rules.

use std::collections::{BTreeSet, HashMap};

/// A user and its groups, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// All groups, the first is its own.
    pub(crate) groups: Vec<u32>,
    /// Home folder; `/` for a user that the image does not know.
    pub(crate) home: String,
}

/// The names of users by their numbers, as an /etc/passwd has them; the first of several counts.
pub(crate) fn names(passwd: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for user in users(passwd) {
        names.entry(user.uid).or_insert_with(|| user.name.to_owned());
    }
    names
}

/// One line of /etc/passwd.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// One line of /etc/group.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

fn users(text: &str) -> impl Iterator<Item = User<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        Some(User { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

fn groups(text: &str) -> impl Iterator<Item = Group<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [name, _, gid, rest @ ..] = fields.as_slice() else { return None };
        let members = rest.first().map(|list| list.split(',').collect()).unwrap_or_default();
        Some(Group { name, gid: gid.parse().ok()?, members })
    })
}

/// Resolves `USER[:GROUP]` and further groups against the texts of the image's /etc/passwd and /etc/group.
///
/// A name wins over a number.  A number need not be known.  Without GROUP the user's own group counts, and all groups that
/// name the user as a member.
///
/// # Errors
/// A name that the image does not know, in Docker's words.
pub(crate) fn resolve(user: &str, further: &[String], passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, wanted_group) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let known = users(passwd)
        .find(|known| known.name == user)
        .or_else(|| number.and_then(|uid| users(passwd).find(|known| known.uid == uid)));
    let mut identity = match (&known, number) {
        (Some(known), _) => {
            Identity { uid: known.uid, gid: known.gid, groups: Vec::new(), home: known.home.to_owned() }
        }
        (None, Some(uid)) => Identity { uid, gid: 0, groups: Vec::new(), home: String::new() },
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    if identity.home.is_empty() {
        "/".clone_into(&mut identity.home);
    }
    if !wanted_group.is_empty() {
        identity.gid = gid(wanted_group, group)?;
    } else if let Some(known) = &known {
        identity.groups.extend(groups(group).filter(|g| g.members.contains(&known.name)).map(|g| g.gid));
    }
    for name in further {
        identity.groups.push(gid(name, group)?);
    }
    // The primary group is among them: without it a process that gives it up would pass where its members may not.
    identity.groups.insert(0, identity.gid);
    let mut seen = BTreeSet::new();
    identity.groups.retain(|gid| seen.insert(*gid));
    Ok(identity)
}

fn gid(name: &str, text: &str) -> Result<u32, String> {
    groups(text)
        .find(|group| group.name == name)
        .map(|group| group.gid)
        .or_else(|| name.parse().ok())
        .ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/false\n7:x:700:700::/seven:\nbad line\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:4:web,other\ntty:x:5:other\nstaff:x:50\n";

    fn of(user: &str, further: &[&str]) -> Result<Identity, String> {
        let further: Vec<_> = further.iter().map(|name| (*name).to_owned()).collect();
        resolve(user, &further, PASSWD, GROUP)
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        let identity = |uid, gid, groups: &[u32], home: &str| {
            Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.to_owned() })
        };
        assert_eq!(of("", &[]), identity(0, 0, &[0], "/root"));
        assert_eq!(of("web", &[]), identity(101, 102, &[102, 4], "/srv"));
        assert_eq!(of("101", &["logs"]), identity(101, 102, &[102, 4], "/srv"));
        assert_eq!(of("101:0", &[]), identity(101, 0, &[0], "/srv"));
        assert_eq!(of("web:staff", &["tty", "9"]), identity(101, 50, &[50, 5, 9], "/srv"));
        assert_eq!(of("4000", &[]), identity(4000, 0, &[0], "/"));
        assert_eq!(of(":logs", &[]), identity(0, 4, &[4], "/root"));
        // A name that looks like a number is a name.
        assert_eq!(of("7", &[]), identity(700, 700, &[700], "/seven"));
    }

    #[test]
    fn names_that_are_not_there_are_named() {
        assert_eq!(of("nobody", &[]).unwrap_err(), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(of("web:x", &[]).unwrap_err(), "unable to find group x: no matching entries in group file");
        assert!(of("web", &["x"]).is_err());
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic(passwd in "[a-z0-9:,\n]{0,80}", group in "[a-z0-9:,\n]{0,80}", user in "[a-z0-9:]{0,6}") {
            let _ = resolve(&user, &[], &passwd, &group);
        }
    }
}
