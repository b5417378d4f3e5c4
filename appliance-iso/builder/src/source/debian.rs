//! Debian: the build machine's own apt says what there is and downloads it; nothing is installed, no root is needed.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

use super::{Package, PackageSource};
use crate::{error::Error, tree::Files};

/// apt of the build machine.
#[derive(Debug, Clone, Copy)]
pub struct Debian;

impl PackageSource for Debian {
    fn resolve(&self, names: &[&str], cache: &Path) -> Result<Vec<Package>, Error> {
        let cache = folder(cache)?;
        // apt reads its lists of some hundred thousand packages anew for every call, unless it may keep the result; it notices
        // by itself when the lists have changed.
        let index = format!("Dir::Cache::pkgcache={}", cache.join("apt-index.bin").display());
        let mut arguments = vec!["-o", index.as_str(), "show", "--no-all-versions", "--"];
        arguments.extend(names);
        let look_up = format!("look up {}", names.join(" "));
        // It fails when it finds none of them; which ones it does not find is seen below in either case.
        let (text, reason) = match run("apt-cache", &arguments, None, &look_up) {
            Ok(text) => (text, "apt-cache shows no record of it".to_owned()),
            Err(error) => (String::new(), error.to_string()),
        };
        let known: Vec<Package> = text.split("\n\n").filter_map(parse_record).collect();
        let find = |name: &str| known.iter().find(|package| package.name == name).cloned();
        names
            .iter()
            .map(|name| {
                find(name).ok_or_else(|| Error::NoPackage { package: (*name).to_owned(), reason: reason.clone() })
            })
            .collect()
    }

    fn fetch(&self, package: &Package, cache: &Path) -> Result<PathBuf, Error> {
        let file = cache.join(format!("{}.deb", package.sha256));
        if !file.exists() {
            let cache = folder(cache)?;
            let folder = tempfile::tempdir_in(&cache).map_err(|source| Error::Write { path: cache.clone(), source })?;
            let wanted = format!("{}={}", package.name, package.version);
            // The sandbox user cannot write into our folder; apt verifies signatures and hashes without it.
            let arguments = ["-q", "-o", "APT::Sandbox::User=root", "download", &wanted];
            run("apt-get", &arguments, Some(folder.path()), &format!("download {wanted}"))?;
            let downloaded = std::fs::read_dir(folder.path())
                .map_err(|source| Error::Read { path: folder.path().into(), source })?
                .flatten()
                .find(|entry| entry.path().extension().is_some_and(|e| e == "deb"))
                .ok_or_else(|| Error::NoPackage {
                    package: package.name.clone(),
                    reason: "apt-get download left no file".into(),
                })?;
            std::fs::rename(downloaded.path(), &file).map_err(|source| Error::Write { path: file.clone(), source })?;
        }
        let bytes = std::fs::read(&file).map_err(|source| Error::Read { path: file.clone(), source })?;
        let found = crate::hex(&Sha256::digest(&bytes));
        if found != package.sha256 {
            return Err(Error::Checksum { package: package.name.clone(), expected: package.sha256.clone(), found });
        }
        Ok(file)
    }

    fn unpack(&self, package: &Package, file: &Path) -> Result<Files, Error> {
        let bad = |reason: String| Error::Unpack { package: package.name.clone(), reason };
        let deb = std::fs::File::open(file).map_err(|source| Error::Read { path: file.into(), source })?;
        let mut archive = ar::Archive::new(std::io::BufReader::new(deb));
        while let Some(member) = archive.next_entry() {
            let member = member.map_err(|e| bad(e.to_string()))?;
            let name = String::from_utf8_lossy(member.header().identifier()).trim_end_matches('/').to_owned();
            let Some(suffix) = name.strip_prefix("data.tar") else { continue };
            let reader: Box<dyn Read + '_> = match suffix {
                "" => Box::new(member),
                ".gz" => Box::new(flate2::read::GzDecoder::new(member)),
                ".xz" => Box::new(lzma_rust2::XzReader::new(member, true)),
                ".zst" => Box::new(ruzstd::decoding::StreamingDecoder::new(member).map_err(|e| bad(e.to_string()))?),
                other => return Err(bad(format!("its data is compressed as {other:?}, which is not known"))),
            };
            return Files::from_tar(reader).map_err(|e| bad(e.to_string()));
        }
        Err(bad("it holds no data.tar".into()))
    }
}

/// Makes the folder; returns its absolute path, for apt takes a relative one as one of its own.
fn folder(path: &Path) -> Result<PathBuf, Error> {
    std::fs::create_dir_all(path)
        .and_then(|()| path.canonicalize())
        .map_err(|source| Error::Write { path: path.into(), source })
}

/// Runs a tool of apt in `folder` and returns its standard output.
fn run(tool: &'static str, arguments: &[&str], folder: Option<&Path>, purpose: &str) -> Result<String, Error> {
    let failed = |reason: String| Error::Tool { tool, purpose: purpose.to_owned(), reason };
    let mut command = Command::new(tool);
    command.args(arguments).env("LC_ALL", "C");
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    let output = command.output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads one record of `apt-cache show`.
fn parse_record(record: &str) -> Option<Package> {
    let field = |name: &str| {
        record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|v| v.trim().to_owned()))
    };
    let (name, version, sha256) = (field("Package")?, field("Version")?, field("SHA256")?);
    let word = |text: &str| text.trim().split([' ', ':']).next().unwrap_or_default().to_owned();
    let depends = field("Depends").unwrap_or_default();
    Some(Package {
        source: field("Source").map_or_else(|| name.clone(), |s| word(&s)),
        depends: depends
            .split(',')
            .map(|d| word(d.split('|').next().unwrap_or_default()))
            .filter(|d| !d.is_empty())
            .collect(),
        purl: format!("pkg:deb/debian/{name}@{version}?arch={}", field("Architecture")?),
        name,
        version,
        sha256,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_apt_cache_is_read() {
        let text = "Package: linux-image-cloud-amd64\nSource: linux-signed-amd64 (6.1.192+2)\nVersion: 6.1.192-2\n\
                    Architecture: amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), kmod | other, awk:any\n\
                    SHA256: 00be\n";
        let package = parse_record(text).unwrap();
        assert_eq!(package.source, "linux-signed-amd64");
        assert_eq!(package.depends, ["linux-image-6.1.0-56-cloud-amd64", "kmod", "awk"]);
        assert_eq!(package.purl, "pkg:deb/debian/linux-image-cloud-amd64@6.1.192-2?arch=amd64");
    }

    #[test]
    fn a_record_without_a_checksum_is_none() {
        assert_eq!(parse_record("Package: a\nVersion: 1\nArchitecture: all\n"), None);
    }
}
