//! Making sandboxes and taking them down. A sandbox is known, and can be taken down, from before there is anything of it until
//! after the last of it is gone.

use std::sync::Arc;
use std::time::Duration;

use kybern_cri::{ContainerEventType, CriError, PodSandboxConfig};
use kybern_linux::netns::NetNs;
use tokio::sync::RwLockWriteGuard;

use crate::disk;
use crate::engine::{Engine, blocking, internal, new_id};
use crate::sandbox::{Sandbox, kill_shim};
use crate::shim::client::ShimClient;

/// How long what is being made in a sandbox may hold up its end, before its shim is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    pub(crate) async fn run_sandbox(self: &Arc<Self>, config: PodSandboxConfig) -> Result<String, CriError> {
        let id = new_id()?;
        let sandbox = Arc::new(Sandbox::unmade(self, id.clone(), config));
        let making = sandbox.gate.read().await;
        self.sandboxes.write().insert(id.clone(), sandbox.clone());
        self.announce(ContainerEventType::Created, &sandbox, "");
        let made = self.set_up(&sandbox).await;
        if made.is_ok() {
            self.follow(sandbox.clone());
            self.announce(ContainerEventType::Started, &sandbox, "");
        }
        drop(making);
        if made.is_err() {
            // What went wrong first is what the user must hear of. What cannot be removed stays known, to be removed later.
            if let Err(cleanup) = self.remove_sandbox(&id).await {
                tracing::warn!(sandbox = id, error = %cleanup, "cannot take down a sandbox that failed to start");
            }
        }
        made.map(|()| id)
    }

    async fn set_up(&self, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        let making = sandbox.clone();
        blocking(move || {
            disk::make_dirs(&making.dir, 0o711)?;
            making.save()?;
            making.make_files()?;
            making.netns.as_deref().map_or(Ok(()), |path| NetNs::create(path).map(drop))
        })
        .await?
        .map_err(|error| internal("failed to create pod sandbox", error))?;
        // The shim starts while the network is set up.
        let spec = sandbox.shim_spec();
        let shim = async {
            ShimClient::spawn(&sandbox.dir, &self.config.executable, &spec)
                .await
                .map_err(|error| internal("failed to start sandbox", error))
        };
        let network = async {
            match (sandbox.pod_net(), &self.config.network) {
                (None, _) => Ok(Vec::new()),
                (Some(_), None) => {
                    Err(CriError::FailedPrecondition("no pod network is configured on this node".into()))
                }
                (Some(net), Some(network)) => {
                    sandbox.set_connected(true);
                    network.add(&net).await.map_err(|error| {
                        CriError::Internal(format!("failed to setup network for sandbox {:?}: {error}", sandbox.id))
                    })
                }
            }
        };
        let (shim, ips) = tokio::join!(shim, network);
        shim?;
        sandbox.set_ready(ips?);
        sandbox.save().map_err(|error| internal("save sandbox", error))
    }

    /// Waits until nobody makes anything in the sandbox any more; from then on nobody does.
    async fn close<'a>(&self, sandbox: &'a Sandbox) -> RwLockWriteGuard<'a, bool> {
        let mut closed = match tokio::time::timeout(PATIENCE, sandbox.gate.write()).await {
            Ok(closed) => closed,
            Err(_) => {
                // Whoever waits for an answer of the shim's learns that there will be none.
                kill_shim(&sandbox.dir);
                sandbox.gate.write().await
            }
        };
        *closed = true;
        closed
    }

    /// Takes down network, shim, mounts and namespace names. Idempotent.
    async fn tear_down(&self, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        if let (Some(net), Some(network)) = (sandbox.pod_net().filter(|_| sandbox.is_connected()), &self.config.network)
        {
            network.del(&net).await.map_err(|error| {
                CriError::Internal(format!("failed to destroy network for sandbox {:?}: {error}", sandbox.id))
            })?;
            sandbox.set_connected(false);
        }
        sandbox.end_shim().await;
        let unmounting = sandbox.clone();
        blocking(move || unmounting.unmount()).await?.map_err(|error| internal("failed to unmount sandbox", error))
    }

    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _closed = self.close(&sandbox).await;
        self.stop_closed(&sandbox).await
    }

    async fn stop_closed(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        for container in self.containers_of(&sandbox.id) {
            if let Err(error) = self.stop(&container, Duration::ZERO).await {
                tracing::warn!(sandbox = sandbox.id, %error, "a sandbox's shim does not stop a container; killing both");
                kill_shim(&sandbox.dir);
                self.lost(&container).await;
            }
            // The pod's own group can only go when those in it have gone.
            self.remove_cgroup(&container).await;
        }
        self.tear_down(sandbox).await?;
        self.mark_not_ready(sandbox);
        Ok(())
    }

    pub(crate) fn mark_not_ready(&self, sandbox: &Sandbox) {
        if sandbox.set_not_ready() {
            if let Err(error) = sandbox.save() {
                tracing::warn!(sandbox = sandbox.id, %error, "cannot record that a sandbox has stopped");
            }
            self.announce(ContainerEventType::Stopped, sandbox, "");
        }
    }

    /// Removes all that there is of a sandbox. What fails may be tried again: the sandbox is known until all is gone.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), CriError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _closed = self.close(&sandbox).await;
        self.stop_closed(&sandbox).await?;
        for container in self.containers_of(id) {
            self.remove_closed(&container).await?;
        }
        let (runtime, removed) = (self.clone(), sandbox.clone());
        let files = blocking(move || {
            // Of containers that could not be made, and then not be removed.
            for name in crate::image::names(&removed.containers_dir())? {
                runtime.discard(&name, &removed)?;
            }
            disk::remove_all(&removed.dir)
        });
        files.await?.map_err(|error| internal("failed to remove sandbox", error))?;
        self.sandboxes.write().remove(id);
        self.announce(ContainerEventType::Deleted, &sandbox, "");
        Ok(())
    }
}
