//! Recipe + package source + input files -> ISO, checksum and bill of materials.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    compress::compress,
    error::Error,
    hex, iso,
    modules::Modules,
    recipe::{Content, Recipe},
    sbom,
    source::{Package, PackageSource},
    tree::{Files, Tree},
};

/// Where init finds the modules to load, and in which order.
const MODULE_LIST: &str = "etc/vic/modules";
const LATE_MODULE_LIST: &str = "etc/vic/modules-late";

/// One build.
#[derive(Debug)]
pub struct Build<'a> {
    /// What to build.
    pub recipe: &'a Recipe,
    /// Folder that downloaded packages are kept in.
    pub cache: &'a Path,
    /// Version of the image.
    pub version: &'a str,
    /// Files that the recipe takes from the command line.
    pub inputs: &'a BTreeMap<String, PathBuf>,
    /// Seconds since 1970 for every date in the image.
    pub epoch: i64,
    /// The ISO to write.
    pub out: &'a Path,
}

/// What was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Bytes of the ISO.
    pub size: u64,
    /// Bytes of the initramfs before it was compressed.
    pub unpacked: usize,
    /// Version of the kernel.
    pub kernel: String,
    /// SHA-256 of the ISO, lower-case hex.
    pub sha256: String,
}

impl Build<'_> {
    /// Builds the image and writes `OUT`, `OUT.sha256` and `OUT.spdx.json`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn run(&self, source: &dyn PackageSource) -> Result<Built, Error> {
        let mut names = self.recipe.packages();
        names.push(&self.recipe.kernel.package);
        let mut wanted = source.resolve(&names, self.cache)?;
        let meta = wanted.pop().unwrap_or_default();
        let kernel = match kernel_package(&meta) {
            None => meta,
            Some(name) => source.resolve(&[name], self.cache)?.pop().unwrap_or_default(),
        };
        let kernel_package = kernel.name.clone();
        wanted.push(kernel);
        let mut packages = BTreeMap::new();
        for package in wanted {
            let files = source.unpack(&package, &source.fetch(&package, self.cache)?)?;
            packages.insert(package.name.clone(), (package, files));
        }

        let (kernel, image) = kernel_of(&packages[&kernel_package].1)
            .ok_or_else(|| Error::NoFile { package: kernel_package.clone(), path: "boot/vmlinuz-*".into() })?;
        let tree = self.root(&packages, &Modules::of(&packages[&kernel_package].1, kernel))?;
        let mtime = u32::try_from(self.epoch).unwrap_or_default();
        let memory = |source| Error::Write { path: self.out.into(), source };
        let mut archive = Vec::new();
        tree.write_cpio(&mut archive, mtime).map_err(memory)?;
        let initramfs = compress(&archive, self.recipe.compression).map_err(memory)?;

        let loader = &self.recipe.boot_loader;
        iso::write(
            &iso::Contents {
                volume_id: &self.recipe.volume_id,
                version: self.version,
                kernel: image,
                initramfs: &initramfs,
                command_line: &self.recipe.command_line,
                isolinux: file(&packages, &loader.isolinux_package, "usr/lib/ISOLINUX/isolinux.bin")?,
                ldlinux: file(&packages, &loader.syslinux_package, "usr/lib/syslinux/modules/bios/ldlinux.c32")?,
                epoch: self.epoch,
            },
            self.out,
        )?;
        let bytes = std::fs::read(self.out).map_err(|source| Error::Read { path: self.out.into(), source })?;
        let sha256 = hex(&Sha256::digest(&bytes));
        let name = self.out.file_name().unwrap_or_default().to_string_lossy();
        self.beside(".sha256", &format!("{sha256}  {name}\n"))?;
        let subject =
            sbom::Subject { name: &self.recipe.name, version: self.version, sha256: &sha256, epoch: self.epoch };
        let list: Vec<Package> = packages.values().map(|(package, _)| package.clone()).collect();
        self.beside(".spdx.json", &sbom::document(&subject, &list))?;
        Ok(Built { size: bytes.len() as u64, unpacked: archive.len(), kernel: kernel.to_owned(), sha256 })
    }

    fn beside(&self, suffix: &str, text: &str) -> Result<(), Error> {
        let mut path = self.out.as_os_str().to_owned();
        path.push(suffix);
        std::fs::write(&path, text).map_err(|source| Error::Write { path: path.into(), source })
    }

    /// The root file system.
    fn root(&self, packages: &Packages, modules: &Modules<'_>) -> Result<Tree, Error> {
        let mut tree = Tree::default();
        for folder in ["dev", "proc", "run", "sys", "tmp", "var/log"] {
            tree.directory(folder);
        }
        // Before init mounts /dev: what it writes to, and what stands in for it on a machine without a console.
        tree.device("dev/console", 5, 1);
        tree.device("dev/null", 1, 3);
        let early = modules.closure(&self.recipe.kernel.modules)?;
        let mut all = self.recipe.kernel.modules.clone();
        all.extend(self.recipe.kernel.late_modules.iter().cloned());
        let all = modules.closure(&all)?;
        // The closure of a longer list begins with the closure of its beginning.
        let (first, late) = all.split_at(early.len());
        for (list, path) in [(first, MODULE_LIST), (late, LATE_MODULE_LIST)] {
            let mut text = String::new();
            for (name, bytes) in list {
                let path = format!("lib/modules/{name}.ko");
                let _ = writeln!(text, "/{path}");
                tree.file(&path, 0o644, bytes.to_vec());
            }
            tree.file(path, 0o644, text.into_bytes());
        }
        for entry in &self.recipe.files {
            tree.file(&entry.to, entry.mode, self.content(&entry.content, packages)?);
        }
        for link in &self.recipe.links {
            tree.link(&link.at, &link.to);
        }
        tree.file("etc/vic/version", 0o644, format!("{}\n", self.version).into_bytes());
        Ok(tree)
    }

    fn content(&self, content: &Content, packages: &Packages) -> Result<Vec<u8>, Error> {
        Ok(match content {
            Content::Text { text } => text.clone().into_bytes(),
            Content::Input { input } => {
                let path = self.inputs.get(input).ok_or_else(|| Error::MissingInput { name: input.clone() })?;
                std::fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?
            }
            Content::Package { package, from } => file(packages, package, from)?.to_vec(),
            Content::Concatenated { package, concatenate } => {
                let mut bytes = Vec::new();
                for (_, part) in packages[package].1.matching(concatenate) {
                    bytes.extend_from_slice(part);
                    if !part.ends_with(b"\n") {
                        bytes.push(b'\n');
                    }
                }
                if bytes.is_empty() {
                    return Err(Error::NoFile { package: package.clone(), path: concatenate.clone() });
                }
                bytes
            }
        })
    }
}

type Packages = BTreeMap<String, (Package, Files)>;

fn file<'a>(packages: &'a Packages, package: &str, path: &str) -> Result<&'a [u8], Error> {
    packages
        .get(package)
        .and_then(|(_, files)| files.get(path))
        .ok_or_else(|| Error::NoFile { package: package.to_owned(), path: path.to_owned() })
}

/// The package that holds the kernel, when `package` is a meta package that only depends on it.
fn kernel_package(package: &Package) -> Option<&str> {
    let concrete = |name: &&String| {
        name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    package.depends.iter().find(concrete).map(String::as_str)
}

/// Version and bytes of the kernel in its package.
fn kernel_of(files: &Files) -> Option<(&str, &[u8])> {
    files.iter().find_map(|(path, bytes)| Some((path.strip_prefix("boot/vmlinuz-")?, bytes)))
}
