//! `kybern image …`: the node's images, whether or not a server runs.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use kybern_runtime::{ImageArchives, StoredImage};

use crate::paths::Directories;
use crate::wiring::node;

#[derive(Debug, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    directories: Directories,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds the images of archives made by `docker save` or in OCI's layout.
    Import {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Writes images to an archive in OCI's layout, which Docker loads, too.
    Export {
        #[arg(required = true)]
        images: Vec<String>,
        /// The archive to write.
        archive: PathBuf,
    },
    /// Fetches images from their registries.
    Pull {
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Lists the images.
    #[command(visible_alias = "ls")]
    List,
    /// Removes images, or only their tags where they have others.
    #[command(visible_alias = "rm")]
    Remove {
        #[arg(required = true)]
        images: Vec<String>,
    },
}

pub(crate) async fn run(options: Image) -> Result<()> {
    let config = node::runtime_config(&options.directories.paths()?)?;
    let open = || {
        let shown = options.directories.data_dir.display();
        ImageArchives::open(&config).with_context(|| format!("cannot open the images below {shown}"))
    };
    match &options.command {
        Command::Import { archives } => {
            let store = open()?;
            for archive in archives {
                let shown = archive.display();
                for image in store.import(archive).with_context(|| format!("cannot import {shown}"))? {
                    println!("imported {}", names(&image).join(", "));
                }
            }
        }
        Command::Export { images, archive } => {
            let store = open()?;
            let shown = archive.display();
            let file = std::fs::File::create(archive).with_context(|| format!("cannot write {shown}"))?;
            let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
            let mut out = BufWriter::new(file);
            let exported = store.export(images, &mut out).map_err(anyhow::Error::from);
            let written = exported.and_then(|()| Ok(out.flush()?));
            if written.is_err() && regular {
                // Half an archive is worth nothing.
                let _ = std::fs::remove_file(archive);
            }
            written.with_context(|| format!("cannot export to {shown}"))?;
        }
        Command::Pull { images } => {
            let store = open()?;
            for image in images {
                let id = store.pull(image).await?;
                println!("{image} {id}");
            }
        }
        Command::List => list(&open()?.list()?),
        Command::Remove { images } => {
            let store = open()?;
            for image in images {
                store.remove(image).with_context(|| format!("cannot remove {image}"))?;
            }
        }
    }
    Ok(())
}

fn names(image: &StoredImage) -> Vec<String> {
    let names: Vec<String> = image.tags.iter().chain(&image.digests).cloned().collect();
    if names.is_empty() { vec![image.id.clone()] } else { names }
}

fn list(images: &[StoredImage]) {
    println!("{:<50} {:<24} {:<14} {:>10}", "IMAGE", "TAG", "IMAGE ID", "SIZE");
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let megabytes = format!("{:.1} MB", image.size as f64 / 1e6);
        let untagged = image.tags.is_empty().then_some("<none>:<none>");
        for name in image.tags.iter().map(String::as_str).chain(untagged) {
            let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
            println!("{repository:<50} {tag:<24} {id:<14} {megabytes:>10}");
        }
    }
}
