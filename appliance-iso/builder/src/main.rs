//! `appliance-iso`: builds an ISO from a recipe.

use std::{collections::BTreeMap, error::Error as _, io::Write, path::PathBuf, process::ExitCode};

use appliance_iso::{build::Build, error::Error, iso, recipe::Recipe, source};
use clap::{Parser, Subcommand};

/// Builds bootable, reproducible ISOs.
#[derive(Debug, Parser)]
#[command(name = "appliance-iso", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the ISO that a recipe describes.
    Build {
        /// The recipe (TOML).
        recipe: PathBuf,
        /// The ISO to write; its checksum and bill of materials go beside it.
        #[arg(long)]
        out: PathBuf,
        /// Folder that downloaded packages are kept in.
        #[arg(long, env = "VIC_ISO_CACHE", default_value = "target/iso-cache")]
        cache: PathBuf,
        /// Version written into the volume descriptor.
        #[arg(long = "version", value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
        iso_version: String,
        /// A file that the recipe asks for.
        #[arg(long = "file", value_name = "NAME=PATH", value_parser = input)]
        files: Vec<(String, PathBuf)>,
        /// Words to add to the kernel's command line.
        #[arg(long, value_name = "WORDS")]
        append: Option<String>,
        /// Seconds since 1970 for every date in the image; the recipe's when not given.
        #[arg(long, env = "SOURCE_DATE_EPOCH")]
        epoch: Option<i64>,
    },
    /// Print the version in an ISO's volume descriptor.
    Version {
        /// The ISO.
        iso: PathBuf,
    },
}

fn input(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("write it as NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

fn run(command: Command) -> Result<String, Error> {
    match command {
        Command::Build { recipe: path, out, cache, iso_version, files, append, epoch } => {
            let mut recipe = Recipe::load(&path)?;
            if let Some(words) = append {
                recipe.command_line = format!("{} {words}", recipe.command_line);
            }
            let inputs: BTreeMap<_, _> = files.into_iter().collect();
            let epoch = epoch.unwrap_or(recipe.epoch);
            let source = source::open(&recipe.source);
            let build =
                Build { recipe: &recipe, cache: &cache, version: &iso_version, inputs: &inputs, epoch, out: &out };
            let built = build.run(&*source)?;
            Ok(format!(
                "{}: {} bytes, kernel {}, root file system {} bytes, sha256 {}",
                out.display(),
                built.size,
                built.kernel,
                built.unpacked,
                built.sha256
            ))
        }
        Command::Version { iso: path } => {
            let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
            iso::version(&bytes)
                .ok_or_else(|| Error::NoFile { package: path.display().to_string(), path: "VIC ENGINE version".into() })
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(text) if writeln!(std::io::stdout(), "{text}").is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "appliance-iso: {error}");
            let mut cause = error.source();
            while let Some(inner) = cause {
                let _ = writeln!(stderr, "  because: {inner}");
                cause = inner.source();
            }
            if let Some(remedy) = error.remedy() {
                let _ = writeln!(stderr, "  remedy: {remedy}");
            }
            ExitCode::FAILURE
        }
    }
}
