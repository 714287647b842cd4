//! `kybern backup` and `kybern restore`: copies of the store, and copies put back.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use kybern_storage::etcd::{self, Etcd};
use kybern_storage::sqlite::{self, Summary};

use super::storage::EtcdFlags;

/// The folder of the store below the data directory.
pub(super) fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("server/db")
}

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to make.
    file: PathBuf,
    /// The data directory whose store is copied; a server may be using it.
    #[arg(long, default_value = "/var/lib/kybern")]
    data_dir: PathBuf,
    #[command(flatten)]
    etcd: EtcdFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// A file that `kybern backup` made.
    file: PathBuf,
    /// The data directory that gets the store; no server may be using it.
    #[arg(long, default_value = "/var/lib/kybern")]
    data_dir: PathBuf,
}

pub(crate) async fn backup(options: Backup) -> Result<()> {
    if let Some(etcd) = options.etcd.etcd() {
        return of_etcd(etcd, &options.file).await;
    }
    let summary = sqlite::backup(&folder(&options.data_dir), &options.file)?;
    println!("{}: {}", options.file.display(), describe(&summary));
    Ok(())
}

/// An etcd's own snapshot, which `etcdutl snapshot restore` puts back.
async fn of_etcd(options: etcd::Options, file: &Path) -> Result<()> {
    if file.exists() {
        bail!("{} exists already: name another file, or remove it", file.display());
    }
    let etcd = Etcd::new(options)?;
    let partial = PathBuf::from(format!("{}.partial", file.display()));
    let written = write_snapshot(&etcd, &partial).await;
    let bytes = match written {
        Ok(bytes) => bytes,
        Err(error) => {
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    };
    std::fs::rename(&partial, file).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}: {bytes} bytes; put it back with: etcdutl snapshot restore {}", file.display(), file.display());
    Ok(())
}

async fn write_snapshot(etcd: &Etcd, path: &Path) -> Result<u64> {
    use std::os::unix::fs::OpenOptionsExt;
    let shown = || format!("cannot write {}", path.display());
    let _ = std::fs::remove_file(path);
    let mut file =
        std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).with_context(shown)?;
    let mut snapshot = etcd.snapshot().await?;
    let mut bytes = 0;
    while let Some(piece) = snapshot.next().await? {
        file.write_all(&piece).with_context(shown)?;
        bytes += piece.len() as u64;
    }
    file.sync_all().with_context(shown)?;
    Ok(bytes)
}

pub(crate) fn restore(options: &Restore) -> Result<()> {
    let (summary, replaced) = sqlite::restore(&options.file, &folder(&options.data_dir))?;
    println!("{}: {}", options.data_dir.display(), describe(&summary));
    if let Some(replaced) = replaced {
        println!("what was there before is kept in {}", replaced.display());
    }
    Ok(())
}

pub(super) fn describe(summary: &Summary) -> String {
    format!("revision {}, {} objects, {} bytes", summary.revision, summary.keys, summary.bytes)
}
