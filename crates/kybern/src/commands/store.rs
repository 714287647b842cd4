//! `kybern store …`: a look into the store of a data directory, or into a copy of one, whether or not a server uses it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use kybern_apimachinery::Value;
use kybern_schema::proto;
use kybern_storage::Revision;
use kybern_storage::sqlite::{self, Inspection};

use super::backup::{describe, folder};

#[derive(Debug, Args)]
pub(crate) struct Store {
    #[command(subcommand)]
    command: Command,
    /// The data directory whose store is looked into.
    #[arg(long, global = true, default_value = "/var/lib/kybern")]
    data_dir: PathBuf,
    /// A copy made by `kybern backup`, in place of a data directory's store.
    #[arg(long, global = true)]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists keys with their revisions and sizes.
    #[command(visible_alias = "ls")]
    List {
        /// What the keys begin with.
        #[arg(default_value = "/registry/")]
        prefix: String,
    },
    /// Prints the object under a key.
    Get {
        key: String,
        /// As it was at a revision that is kept.
        #[arg(long)]
        revision: Option<Revision>,
        #[arg(short, long, value_enum, default_value_t = Output::Yaml)]
        output: Output,
    },
    /// Lists the writes of a key that are kept.
    History { key: String },
    /// Prints figures: revisions, objects and bytes by kind.
    Stats,
    /// Reads all of the store and says what is wrong with it, if anything is.
    Verify,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Yaml,
    Json,
    /// The bytes as they are stored.
    Raw,
}

pub(crate) fn run(options: &Store) -> Result<()> {
    let path = options.file.clone().unwrap_or_else(|| folder(&options.data_dir).join(sqlite::FILE));
    let mut out = Vec::new();
    serve(&options.command, &path, &mut out)?;
    use std::io::Write;
    match std::io::stdout().write_all(&out) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn serve(command: &Command, path: &Path, out: &mut Vec<u8>) -> Result<()> {
    use std::io::Write;
    match command {
        Command::List { prefix } => {
            for listed in Inspection::open(path)?.list(prefix)? {
                writeln!(out, "{:>10} {:>9} {}", listed.mod_revision, listed.bytes, listed.key)?;
            }
        }
        Command::Get { key, revision, output } => {
            let found = Inspection::open(path)?.get(key, *revision)?;
            let Some(found) = found else { bail!("{} holds nothing under {key}", path.display()) };
            out.extend_from_slice(&shown(key, &found.value, found.mod_revision, *output)?);
        }
        Command::History { key } => {
            let history = Inspection::open(path)?.history(key)?;
            if history.is_empty() {
                bail!("{} keeps no write of {key}", path.display());
            }
            for change in history {
                let what = match &change.value {
                    None => "deleted".to_owned(),
                    Some(value) if change.create_revision == change.revision => {
                        format!("created, {} bytes", value.len())
                    }
                    Some(value) => format!("changed, {} bytes", value.len()),
                };
                writeln!(out, "{:>10} {what}", change.revision)?;
            }
        }
        Command::Stats => {
            let stats = Inspection::open(path)?.stats()?;
            writeln!(out, "revision {}, history since {}", stats.revision, stats.oldest)?;
            writeln!(
                out,
                "{} objects of {} bytes, {} writes of {} bytes",
                stats.keys, stats.live_bytes, stats.writes, stats.bytes
            )?;
            writeln!(out, "file of {} bytes, {} of them free", stats.file_bytes, stats.free_bytes)?;
            for (kind, keys, bytes) in stats.kinds {
                writeln!(out, "{keys:>10} {bytes:>12} {kind}")?;
            }
        }
        Command::Verify => writeln!(out, "{}: {}", path.display(), describe(&sqlite::verify(path)?))?,
    }
    Ok(())
}

/// A stored value in the form asked for.
fn shown(key: &str, value: &[u8], revision: Revision, output: Output) -> Result<Vec<u8>> {
    if matches!(output, Output::Raw) {
        return Ok(value.to_vec());
    }
    let mut object =
        tree(value).with_context(|| format!("the value of {key} is no object that can be shown; see -o raw"))?;
    kybern_apimachinery::object::set(&mut object, &["metadata", "resourceVersion"], revision.to_string());
    let mut text = match output {
        Output::Json => serde_json::to_string_pretty(&object)?,
        _ => serde_saphyr::to_string(&object)?,
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text.into_bytes())
}

fn tree(value: &[u8]) -> Result<Value> {
    if let Some(rest) = value.strip_prefix(b"k8s:enc:") {
        let head: Vec<&[u8]> = rest.splitn(4, |byte| *byte == b':').take(3).collect();
        bail!("it is encrypted: {}", String::from_utf8_lossy(&head.join(&b':')));
    }
    if !value.starts_with(proto::MAGIC) {
        return Ok(serde_json::from_slice(value)?);
    }
    let envelope = proto::Envelope::open(value)?;
    let kind = envelope.gvk().and_then(|gvk| kybern_schema::builtin().kind(&gvk));
    let kind = kind.with_context(|| format!("it is protobuf of the unknown kind {:?}", envelope.kind))?;
    Ok(proto::decode(&kind, value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::{Gvk, json};
    use kybern_storage::sqlite::{Options, Sqlite};
    use kybern_storage::{Storage, Txn};

    fn run(path: &Path, command: Command) -> Result<String> {
        let mut out = Vec::new();
        serve(&command, path, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn what_is_stored_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Sqlite::open(directory.path(), Options::default()).unwrap();
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "on"}});
        let key = "/registry/configmaps/ns/a";
        storage.txn(Txn::create(key.into(), object.to_string().into())).await.unwrap();
        let ty = kybern_schema::builtin().kind(&Gvk::new("", "v1", "ConfigMap")).unwrap();
        let protobuf = proto::encode(&ty, &object).unwrap();
        storage.txn(Txn::update(key.into(), 2, protobuf.into())).await.unwrap();
        storage.txn(Txn::create("/registry/secrets/ns/s".into(), "k8s:enc:aesgcm:v1:key1:x".into())).await.unwrap();
        let path = directory.path().join(sqlite::FILE);

        let list = run(&path, Command::List { prefix: "/registry/configmaps/".into() }).unwrap();
        assert!(list.trim_start().starts_with("3 ") && list.ends_with(" /registry/configmaps/ns/a\n"), "{list}");
        let get = |key: &str, revision, output| run(&path, Command::Get { key: key.into(), revision, output });
        for (revision, expect) in [(None, "\"3\""), (Some(2), "\"2\"")] {
            let yaml = get(key, revision, Output::Yaml).unwrap();
            assert!(yaml.contains("kind: ConfigMap") && yaml.contains(expect), "{yaml}");
            let read: Value = serde_saphyr::from_str(&yaml).unwrap();
            assert_eq!(read["data"]["k"], "on", "{yaml}");
        }
        assert!(get(key, None, Output::Json).unwrap().contains("\"kind\": \"ConfigMap\""));
        assert!(get(key, Some(1), Output::Yaml).unwrap_err().to_string().contains("holds nothing"));
        let encrypted = format!("{:#}", get("/registry/secrets/ns/s", None, Output::Yaml).unwrap_err());
        assert!(encrypted.contains("it is encrypted: aesgcm:v1:key1"), "{encrypted}");
        assert_eq!(get("/registry/secrets/ns/s", None, Output::Raw).unwrap(), "k8s:enc:aesgcm:v1:key1:x");
        let history = run(&path, Command::History { key: key.into() }).unwrap();
        assert_eq!(
            history.lines().map(|l| l.split_whitespace().nth(1).unwrap()).collect::<Vec<_>>(),
            ["created,", "changed,"]
        );
        let stats = run(&path, Command::Stats).unwrap();
        assert!(stats.starts_with("revision 4, history since 1\n2 objects") && stats.contains(" secrets\n"), "{stats}");
        assert!(run(&path, Command::Verify).unwrap().contains("revision 4, 2 objects"));
        let missing = run(&directory.path().join("none"), Command::Stats).unwrap_err().to_string();
        assert!(missing.contains("there is no such store"), "{missing}");
    }
}
