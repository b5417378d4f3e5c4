//! Which files of the kernel's package a list of module names needs, in the order in which to load them.
//!
//! `modules.dep` is made on the machine that a kernel is installed on, so a package has none.  What it would say stands in each
//! module's `.modinfo` section: `depends=` (must be loaded before) and `softdep=pre:` (should be).

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectSection};

use crate::{error::Error, tree::Files};

/// The modules of one kernel.
#[derive(Debug)]
pub struct Modules<'a> {
    kernel: String,
    /// Path and bytes by name, `-` written as `_`.
    files: BTreeMap<String, (&'a str, &'a [u8])>,
    builtin: BTreeSet<String>,
}

/// What a module says it needs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    depends: Vec<String>,
    before: Vec<String>,
}

/// The kernel takes `-` and `_` for the same in module names.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The module's name of a path such as `kernel/net/foo-bar.ko`.
fn name_of(path: &str) -> Option<String> {
    path.rsplit('/').next()?.strip_suffix(".ko").map(canonical)
}

impl<'a> Modules<'a> {
    /// Finds the modules in the files of a kernel's package.
    pub fn of(package: &'a Files, kernel: &str) -> Self {
        let root = format!("lib/modules/{kernel}/");
        let inside =
            |path: &'a str| path.strip_prefix(&root).or_else(|| path.strip_prefix("usr/")?.strip_prefix(&root));
        let mut files = BTreeMap::new();
        let mut builtin = BTreeSet::new();
        for (path, bytes) in package.iter() {
            let Some(path) = inside(path) else { continue };
            if path == "modules.builtin" {
                builtin.extend(String::from_utf8_lossy(bytes).lines().filter_map(name_of));
            } else if let Some(name) = name_of(path) {
                files.insert(name, (path, bytes));
            }
        }
        Self { kernel: kernel.to_owned(), files, builtin }
    }

    /// The modules of `wanted` and all that they need, each after what it needs, none twice; built-in ones left out.
    ///
    /// # Errors
    /// [`Error::NoModule`] or [`Error::BadModule`].
    pub fn closure(&self, wanted: &[String]) -> Result<Vec<(String, &'a [u8])>, Error> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.visit(name, None, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        needed_by: Option<&str>,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<(String, &'a [u8])>,
    ) -> Result<(), Error> {
        let name = canonical(name);
        if self.builtin.contains(&name) || !seen.insert(name.clone()) {
            return Ok(());
        }
        let Some((path, bytes)) = self.files.get(&name) else {
            return Err(Error::NoModule {
                kernel: self.kernel.clone(),
                module: name,
                needed_by: needed_by.map(str::to_owned),
            });
        };
        let needs = needs(bytes).map_err(|reason| Error::BadModule { path: (*path).to_owned(), reason })?;
        for before in needs.before {
            // A soft dependency may name an alias (`crypto-crc32c`) or what this kernel does not have.
            if self.files.contains_key(&canonical(&before)) {
                self.visit(&before, Some(&name), seen, order)?;
            }
        }
        for depends in needs.depends {
            self.visit(&depends, Some(&name), seen, order)?;
        }
        order.push((name, bytes));
        Ok(())
    }
}

fn needs(module: &[u8]) -> Result<Needs, String> {
    let elf = object::File::parse(module).map_err(|e| e.to_string())?;
    let section = elf.section_by_name(".modinfo").ok_or("it has no .modinfo section")?;
    Ok(parse_modinfo(section.data().map_err(|e| e.to_string())?))
}

/// Reads `key=value` texts that end in NUL.
fn parse_modinfo(section: &[u8]) -> Needs {
    let mut needs = Needs::default();
    for text in section.split(|&b| b == 0).filter_map(|t| std::str::from_utf8(t).ok()) {
        if let Some(list) = text.strip_prefix("depends=") {
            needs.depends.extend(list.split(',').filter(|n| !n.is_empty()).map(str::to_owned));
        } else if let Some(list) = text.strip_prefix("softdep=") {
            let mut before = false;
            for word in list.split_whitespace() {
                match word {
                    "pre:" => before = true,
                    "post:" => before = false,
                    name if before => needs.before.push(name.to_owned()),
                    _ => {}
                }
            }
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_says_what_a_module_needs() {
        let text = b"license=GPL\0depends=mbcache,jbd2\0softdep=pre: crc32c x post: y\0depends=\0";
        assert_eq!(
            parse_modinfo(text),
            Needs { depends: vec!["mbcache".into(), "jbd2".into()], before: vec!["crc32c".into(), "x".into()] }
        );
    }

    #[test]
    fn a_module_that_is_not_there_is_named_with_who_needs_it() {
        let modules = Modules { kernel: "6.1".into(), files: BTreeMap::new(), builtin: BTreeSet::new() };
        let text = modules.closure(&["vmx-net".into()]).unwrap_err().to_string();
        assert_eq!(text, "the kernel 6.1 has no module vmx_net");
    }

    #[test]
    fn a_built_in_module_needs_no_file() {
        let modules = Modules { kernel: "6.1".into(), files: BTreeMap::new(), builtin: ["ext4".to_owned()].into() };
        assert_eq!(modules.closure(&["ext4".into()]).unwrap(), []);
    }
}
