//! The same inputs give the same bytes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says how it fails by panicking")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use appliance_iso::{
    build::Build,
    error::Error,
    iso,
    recipe::{Content, Recipe},
    source::{self, Package, PackageSource},
    tree::Files,
};

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../appliance.toml");

fn build(source: &dyn PackageSource, recipe: &Recipe, folder: &Path, name: &str) -> Result<Vec<u8>, Error> {
    let program = folder.join(format!("{name}-program"));
    std::fs::write(&program, "the program").unwrap();
    let inputs: BTreeMap<String, PathBuf> = [("vic-endpoint".to_owned(), program)].into();
    let out = folder.join(name);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("iso-cache");
    let build = Build { recipe, cache: &cache, version: "1.2.3", inputs: &inputs, epoch: recipe.epoch, out: &out };
    build.run(source)?;
    Ok(std::fs::read(out).unwrap())
}

fn has_xorriso() -> bool {
    let found = Command::new("xorriso").arg("-version").output().is_ok();
    if !found {
        println!("skipped: xorriso is not installed");
    }
    found
}

#[test]
fn the_appliance_built_twice_is_identical_and_says_its_version() {
    if !has_xorriso() {
        return;
    }
    let recipe = Recipe::load(Path::new(RECIPE)).unwrap();
    let source = source::open(&recipe.source);
    let folder = tempfile::tempdir().unwrap();
    let first = match build(&*source, &recipe, folder.path(), "first") {
        Ok(bytes) => bytes,
        Err(error @ (Error::Tool { .. } | Error::NoPackage { .. })) => {
            println!("skipped: Debian's packages cannot be had here: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    // The clock that the staged files are dated by must not show either: ISO 9660 tells seconds.
    let second_of = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let now = second_of();
    while second_of() == now {
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let second = build(&*source, &recipe, folder.path(), "second").unwrap();
    assert!(first == second, "two builds differ");
    assert_eq!(iso::version(&first).as_deref(), Some("1.2.3"));
    assert!(first.len() < 80_000_000, "{} bytes are over the budget", first.len());
    let bill = std::fs::read_to_string(folder.path().join("first.spdx.json")).unwrap();
    assert!(bill.contains("linux-image-") && bill.contains("ca-certificates"), "{bill}");
    let sum = Command::new("sha256sum").arg("-c").arg("first.sha256").current_dir(folder.path()).output().unwrap();
    assert!(sum.status.success(), "{sum:?}");
}

/// Packages that are made up here.
struct Invented(BTreeMap<&'static str, Vec<(&'static str, &'static [u8])>>);

impl PackageSource for Invented {
    fn resolve(&self, names: &[&str], _: &Path) -> Result<Vec<Package>, Error> {
        let find = |name: &&str| match self.0.contains_key(name) {
            true => Ok(Package { name: (*name).to_owned(), ..Package::default() }),
            false => Err(Error::NoPackage { package: (*name).into(), reason: "it is not invented".into() }),
        };
        names.iter().map(find).collect()
    }

    fn fetch(&self, _: &Package, _: &Path) -> Result<PathBuf, Error> {
        Ok(PathBuf::new())
    }

    fn unpack(&self, package: &Package, _: &Path) -> Result<Files, Error> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, bytes) in &self.0[package.name.as_str()] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, *bytes).unwrap();
        }
        Ok(Files::from_tar(archive.into_inner().unwrap().as_slice()).unwrap())
    }
}

fn invented() -> Invented {
    Invented(BTreeMap::from([
        ("isolinux", vec![("usr/lib/ISOLINUX/isolinux.bin", &b"loader"[..])]),
        ("syslinux-common", vec![("usr/lib/syslinux/modules/bios/ldlinux.c32", &b"module"[..])]),
        ("ca-certificates", vec![("usr/share/ca-certificates/mozilla/a.crt", &b"-----"[..])]),
        ("linux-image-cloud-amd64", vec![("boot/vmlinuz-6.1", &b"kernel"[..])]),
    ]))
}

#[test]
fn what_is_missing_is_named() {
    let recipe = Recipe::load(Path::new(RECIPE)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let error = |change: &dyn Fn(&mut Invented, &mut Recipe)| {
        let (mut source, mut recipe) = (invented(), recipe.clone());
        recipe.kernel.modules.clear();
        recipe.kernel.late_modules.clear();
        recipe.files.retain(|file| match &file.content {
            Content::Package { package, .. } | Content::Concatenated { package, .. } => package == "ca-certificates",
            _ => true,
        });
        change(&mut source, &mut recipe);
        build(&source, &recipe, folder.path(), "x").unwrap_err().to_string()
    };
    assert_eq!(
        error(&|source, _| drop(source.0.remove("isolinux"))),
        "the package isolinux cannot be found: it is not invented"
    );
    assert_eq!(
        error(&|source, _| source.0.insert("ca-certificates", vec![]).map(drop).unwrap()),
        "the package ca-certificates holds no file usr/share/ca-certificates/mozilla/*.crt"
    );
    assert_eq!(
        error(&|_, recipe| recipe.kernel.modules.push("vmxnet3".into())),
        "the kernel 6.1 has no module vmxnet3"
    );
    assert_eq!(
        error(&|source, _| source.0.insert("linux-image-cloud-amd64", vec![]).map(drop).unwrap()),
        "the package linux-image-cloud-amd64 holds no file boot/vmlinuz-*"
    );
}
