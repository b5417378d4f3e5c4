//! [`Recipe`]: what an image is made of, as its TOML file says it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::Error;

/// One image.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the image: `appliance`, `bootstrap`.
    pub name: String,
    /// ISO 9660 volume identifier, at most 32 characters.
    pub volume_id: String,
    /// Seconds since 1970 that stand in every date of the image; `SOURCE_DATE_EPOCH` wins over it.
    pub epoch: i64,
    /// How the root file system is compressed.
    pub compression: Compression,
    /// The kernel's command line.
    pub command_line: String,
    /// Where packages come from.
    pub source: Source,
    /// The kernel and its modules.
    pub kernel: Kernel,
    /// The boot loader.
    pub boot_loader: BootLoader,
    /// Files of the root file system.
    #[serde(default, rename = "file")]
    pub files: Vec<File>,
    /// Symbolic links of the root file system.
    #[serde(default, rename = "link")]
    pub links: Vec<Link>,
}

/// How the root file system is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard.
    Zstd,
    /// gzip.
    Gzip,
    /// Not at all.
    None,
}

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// The build machine's apt, as its sources.list says.
    Debian {},
}

/// The kernel and its modules.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The package that holds `boot/vmlinuz-*`, or a meta package that depends on it.
    pub package: String,
    /// Modules that init loads first; what they need is found out.
    pub modules: Vec<String>,
    /// Modules that init loads once the services answer.
    #[serde(default)]
    pub late_modules: Vec<String>,
}

/// The boot loader.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootLoader {
    /// Package that holds `isolinux.bin`.
    pub isolinux_package: String,
    /// Package that holds `ldlinux.c32`.
    pub syslinux_package: String,
}

/// One file of the root file system.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct File {
    /// Its path, without a leading slash.
    pub to: String,
    /// Its permissions.
    #[serde(default = "default_mode")]
    pub mode: u32,
    /// Where its bytes come from.
    #[serde(flatten)]
    pub content: Content,
}

/// Where a file's bytes come from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// A file that the command line gives: `--file NAME=PATH`.
    Input {
        /// NAME.
        input: String,
    },
    /// The text itself.
    Text {
        /// The text.
        text: String,
    },
    /// One file of a package.
    Package {
        /// The package.
        package: String,
        /// Path in it.
        from: String,
    },
    /// Several files of a package, in the order of their names, one after the other.
    Concatenated {
        /// The package.
        package: String,
        /// Path in it, with at most one `*`.
        concatenate: String,
    },
}

/// One symbolic link of the root file system.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Its path, without a leading slash.
    pub at: String,
    /// Where it points.
    pub to: String,
}

fn default_mode() -> u32 {
    0o644
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Error::Read`] or [`Error::Recipe`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::parse(&text).map_err(|reason| Error::Recipe { path: path.into(), reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let recipe: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        if recipe.volume_id.len() > 32 || recipe.volume_id.is_empty() {
            return Err(format!("volume_id {:?} must have 1 to 32 characters", recipe.volume_id));
        }
        let paths = recipe.files.iter().map(|f| &f.to).chain(recipe.links.iter().map(|l| &l.at));
        for path in paths {
            let plain = PathBuf::from(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if path.is_empty() || !plain {
                return Err(format!("the path {path:?} must be relative to the root and without `..`"));
            }
        }
        Ok(recipe)
    }

    /// All packages that the recipe names, without the kernel's.
    pub fn packages(&self) -> Vec<&str> {
        let mut names = vec![self.boot_loader.isolinux_package.as_str(), self.boot_loader.syslinux_package.as_str()];
        for file in &self.files {
            if let Content::Package { package, .. } | Content::Concatenated { package, .. } = &file.content {
                names.push(package);
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APPLIANCE: &str = include_str!("../../appliance.toml");

    #[test]
    fn the_appliances_recipe_is_valid() {
        let recipe = Recipe::parse(APPLIANCE).unwrap();
        let packages = recipe.packages();
        assert!(["ca-certificates", "e2fsprogs", "isolinux"].iter().all(|p| packages.contains(p)), "{packages:?}");
        assert!(packages.is_sorted_by(|a, b| a < b), "{packages:?}");
        assert!(recipe.command_line.contains("console=ttyS0"));
        assert!(!recipe.command_line.contains("mitigations=off"));
    }

    #[test]
    fn the_other_recipes_are_valid_and_the_bare_boot_has_the_appliances_command_line() {
        let bootstrap = Recipe::parse(include_str!("../../../bootstrap/bootstrap.toml")).unwrap();
        // What tether loads beside everything else.
        assert_eq!(bootstrap.kernel.late_modules, ["vmxnet3"]);
        let bare = Recipe::parse(include_str!("../../endpoint/benches/bare/recipe.toml")).unwrap();
        assert_eq!(bare.command_line, Recipe::parse(APPLIANCE).unwrap().command_line);
    }

    #[test]
    fn a_path_that_leaves_the_root_is_refused() {
        for path in ["../etc/passwd", "/etc/passwd", "", "a/../../b"] {
            let text = APPLIANCE.replace("to = \"etc/passwd\"", &format!("to = \"{path}\""));
            assert!(Recipe::parse(&text).unwrap_err().contains("relative to the root"), "{path}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let text = format!("colour = \"blue\"\n{APPLIANCE}");
        assert!(Recipe::parse(&text).unwrap_err().contains("colour"));
    }
}
