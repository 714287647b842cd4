//! Taking over what a previous run has left: its pods go on, and what it left half-made is removed. Nobody waits for removals.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use kybern_linux::netns::NetNs;

use crate::container::Container;
use crate::disk;
use crate::engine::{Engine, blocking};
use crate::image::names;
use crate::purge::purge_sandbox;
use crate::sandbox::Sandbox;
use crate::shim::protocol::{Reply, Request};

/// So many shims are asked at a time.
const ASKED_AT_A_TIME: usize = 64;

/// How long a shim may take to answer before its pod is taken as it is on disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// So many sandboxes are removed at a time: the kernel takes namespaces and links apart one after the other anyway.
const REMOVED_AT_A_TIME: usize = 8;

/// What a previous run has left and nobody knows of.
#[derive(Default)]
pub(crate) struct Remains {
    /// Sandboxes that were being made.
    half_made: Vec<String>,
    /// Sandboxes' directories without a readable record.
    unrecorded: Vec<PathBuf>,
    netns: Vec<PathBuf>,
    layers: Vec<PathBuf>,
}

impl Engine {
    /// Takes over the sandboxes of a previous run.
    pub(crate) async fn take_over(self: &Arc<Self>) -> io::Result<Remains> {
        let runtime = self.clone();
        let (recorded, unrecorded) = blocking(move || runtime.load_sandboxes()).await.map_err(io::Error::other)??;
        let mut remains = Remains { unrecorded, ..Remains::default() };
        {
            let mut known = self.sandboxes.write();
            for (sandbox, containers) in &recorded {
                known.insert(sandbox.id.clone(), sandbox.clone());
                if containers.is_empty() && !sandbox.is_ready() {
                    remains.half_made.push(sandbox.id.clone());
                }
            }
        }
        let made = recorded.into_iter().filter(|(sandbox, names)| !names.is_empty() || sandbox.is_ready());
        let resumed = stream::iter(made).map(|(sandbox, names)| self.resume(sandbox, names));
        let resumed: Vec<io::Result<()>> = resumed.buffer_unordered(ASKED_AT_A_TIME).collect().await;
        resumed.into_iter().collect::<io::Result<()>>()?;
        self.find_remains(&mut remains)?;
        Ok(remains)
    }

    /// The sandboxes on disk, each with the names of its containers, and the directories that hold none.
    #[allow(clippy::type_complexity, reason = "used once")]
    fn load_sandboxes(&self) -> io::Result<(Vec<(Arc<Sandbox>, Vec<String>)>, Vec<PathBuf>)> {
        let (mut recorded, mut unrecorded) = (Vec::new(), Vec::new());
        for id in names(&self.config.sandboxes_dir())? {
            match Sandbox::load(self, &id) {
                Ok(sandbox) => {
                    let containers = names(&sandbox.containers_dir())?;
                    recorded.push((Arc::new(sandbox), containers));
                }
                Err(_) => unrecorded.push(self.config.sandboxes_dir().join(&id)),
            }
        }
        Ok((recorded, unrecorded))
    }

    async fn resume(self: &Arc<Self>, sandbox: Arc<Sandbox>, containers: Vec<String>) -> io::Result<()> {
        // A start that the previous run asked for may still be under way. The shim answers after it, and only then does what
        // is on disk say what runs.
        let asked = tokio::time::timeout(PATIENCE, sandbox.shim.call(&Request::Subscribe)).await;
        let alive = asked.is_ok_and(|answer| answer.is_ok());
        let (runtime, of) = (self.clone(), sandbox.clone());
        let loaded = blocking(move || {
            for name in containers {
                match Container::load(&of, &name) {
                    Ok(container) => drop(runtime.containers.write().insert(name, Arc::new(container))),
                    Err(_) => runtime.discard(&name, &of)?,
                }
            }
            io::Result::Ok(())
        });
        loaded.await.map_err(io::Error::other)??;
        if alive {
            self.follow(sandbox);
        } else {
            self.shim_gone(&sandbox).await;
        }
        Ok(())
    }

    /// What no sandbox or container answers for. Asked before anything new is made.
    fn find_remains(&self, remains: &mut Remains) -> io::Result<()> {
        let sandboxes = self.sandboxes.read();
        let namespaces: BTreeSet<_> = sandboxes.values().filter_map(|s| s.netns.clone()).collect();
        let in_netns_dir = names(&self.config.netns_dir)?.into_iter().map(|name| self.config.netns_dir.join(name));
        remains.netns = in_netns_dir.filter(|path| !namespaces.contains(path)).collect();
        let mut containers: BTreeSet<String> = self.containers.read().keys().cloned().collect();
        for sandbox in sandboxes.values() {
            // Of what is half made, too, the sandbox answers for its own.
            containers.extend(names(&sandbox.containers_dir())?);
        }
        let layers = names(&self.config.containers_dir())?.into_iter().filter(|name| !containers.contains(name));
        remains.layers = layers.map(|name| self.config.containers_dir().join(name)).collect();
        Ok(())
    }

    /// Removes them.
    pub(crate) async fn remove_remains(self: Arc<Self>, remains: Remains) {
        let removals = stream::iter(remains.half_made).map(|id| {
            let runtime = self.clone();
            async move {
                if let Err(error) = runtime.remove_sandbox(&id).await {
                    tracing::warn!(sandbox = id, %error, "cannot remove a half-made sandbox");
                }
            }
        });
        removals.buffer_unordered(REMOVED_AT_A_TIME).collect::<Vec<()>>().await;
        let cgroups = self.cgroups.clone();
        let files = blocking(move || {
            let failed = |what: PathBuf| move |error| tracing::warn!(%error, path = %what.display(), "cannot remove");
            for dir in remains.unrecorded {
                purge_sandbox(&cgroups, &dir).unwrap_or_else(failed(dir));
            }
            for path in remains.netns {
                NetNs::remove(&path).unwrap_or_else(failed(path));
            }
            for path in remains.layers {
                disk::remove_all(&path).unwrap_or_else(failed(path));
            }
        });
        let _ = files.await;
        if let Some(network) = &self.config.network {
            // A sandbox is known before its network is: what is attached and not known is of a previous run.
            let runtime = self.clone();
            let alive = Arc::new(move |id: &str| runtime.sandboxes.read().contains_key(id));
            if let Err(error) = network.collect_garbage(alive).await {
                tracing::warn!(%error, "cannot release the addresses of sandboxes that are gone");
            }
        }
    }

    /// Follows a shim's events until it ends.
    pub(crate) fn follow(self: &Arc<Self>, sandbox: Arc<Sandbox>) {
        let runtime = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                let lost = async {
                    let mut connection = sandbox.shim.connect().await?;
                    connection.send(&Request::Subscribe).await?;
                    while let Some((reply, _)) = connection.receive().await? {
                        let Some(runtime) = runtime.upgrade() else { return Ok(()) };
                        match reply {
                            Reply::Exit { container, state } => {
                                let found = runtime.containers.read().get(&container).cloned();
                                if let Some(container) = found {
                                    runtime.exited(&container, state).await;
                                }
                            }
                            // Subscribed: whatever happened before is on disk.
                            Reply::Done => runtime.catch_up(&sandbox).await,
                            _ => {}
                        }
                    }
                    io::Result::Ok(())
                };
                let ended = lost.await;
                let Some(runtime) = runtime.upgrade() else { return };
                if ended.is_err() || sandbox.shim.connect().await.is_err() {
                    runtime.shim_gone(&sandbox).await;
                    return;
                }
            }
        });
    }

    /// Takes the states that the shim wrote while nobody listened.
    async fn catch_up(self: &Arc<Self>, sandbox: &Sandbox) {
        for container in self.containers_of(&sandbox.id) {
            if let Ok(state) = container.read_state()
                && state.exit.is_some()
            {
                self.exited(&container, state).await;
            }
        }
    }

    /// A shim has ended: with it went the streams and namespaces, so what still runs is ended too and reported.
    async fn shim_gone(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        for container in self.containers_of(&sandbox.id) {
            self.lost(&container).await;
        }
        // Whoever stops a sandbox holds its gate, or has closed it.
        let is_stopped = sandbox.gate.try_read().map_or(true, |closed| *closed);
        if sandbox.is_ready() && !is_stopped {
            tracing::warn!(sandbox = sandbox.id, pod = sandbox.config.metadata.name, "the sandbox's shim has ended");
        }
        self.mark_not_ready(sandbox);
    }
}
