//! `knarr images`: the node's image store, with the node running or not.

use std::{
    io::{IsTerminal, stdin},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use knarr_images::Images;

use crate::{layout::Layout, reset, say};

/// What can be done with images.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// List the images of this node
    List,
    /// Import an OCI or Docker archive (`-` for standard input), compressed or not
    Import {
        /// The archive
        file: PathBuf,
        /// The name of an image that the archive does not name
        #[arg(long)]
        name: Option<String>,
    },
    /// Write images into an archive
    Export {
        /// The archive to write
        file: PathBuf,
        /// The images
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Pull an image from its registry
    Pull {
        /// The image
        image: String,
    },
    /// Remove an image
    Remove {
        /// The images
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// Opens the node's image store.
///
/// # Errors
/// If the data folder is not ours or cannot be used.
pub fn open(layout: &Layout) -> Result<Arc<Images>> {
    reset::claim(&layout.data_dir)?;
    let registries = layout.data_dir.join("registries.yaml");
    Ok(Images::open(layout.data_dir.join("images"), registries)?)
}

/// Runs one command.
///
/// # Errors
/// If it cannot be done.
pub async fn run(layout: &Layout, command: Command) -> Result<()> {
    let images = open(layout)?;
    match command {
        Command::List => list(&images)?,
        Command::Import { file, name } => {
            let (name, shown) = (name.as_deref(), file.display());
            let imported = if file == Path::new("-") {
                if stdin().is_terminal() {
                    bail!("an archive is expected on standard input");
                }
                images.import_reader(stdin().lock(), name)
            } else {
                images.import(&file, name)
            }
            .with_context(|| format!("cannot import {shown}"))?;
            for image in imported {
                let tags: Vec<_> = image.tags.iter().map(String::as_str).collect();
                say(&format!("imported {} {}", tags.join(" "), image.id));
            }
        }
        Command::Export { file, images: names } => {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let out = std::fs::File::create(&file)
                .with_context(|| format!("cannot write {}", file.display()))?;
            images.export(&names, out)?;
        }
        Command::Pull { image } => {
            let pulled = images.pull(&image, None).await?;
            say(&format!("pulled {image} {}", pulled.id));
        }
        Command::Remove { images: names } => {
            for name in names {
                images.remove(&name)?;
                say(&format!("removed {name}"));
            }
        }
    }
    Ok(())
}

fn list(images: &Images) -> Result<()> {
    say(&format!("{:<48} {:<20} {:>10}", "IMAGE", "ID", "SIZE"));
    for image in images.list()? {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let size = format!("{:.1} MB", image.size as f64 / 1e6);
        let names: Vec<_> = if image.tags.is_empty() {
            image.digests.iter().collect()
        } else {
            image.tags.iter().collect()
        };
        for name in names {
            say(&format!("{name:<48} {id:<20} {size:>10}"));
        }
    }
    Ok(())
}
