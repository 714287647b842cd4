//! Making and keeping up to date a pod's volumes.

use jiff::Timestamp;

use super::Worker;
use super::steps::Done;
use crate::pod::Action;
use crate::pod::memory::StepKey;
use crate::pod::spec;
use crate::volume::{claims, payload, setup};

impl Worker {
    /// Brings every volume to what it should hold. When all is there, it changes nothing.
    pub(super) fn prepare_volumes(&mut self) {
        if self.memory.busy.contains(&StepKey::Volumes) {
            self.volumes_again = true;
            return;
        }
        let (shared, pod, references) = (self.shared.clone(), self.pod.clone(), self.references.clone());
        let (tokens, ready, whole) = (self.tokens.clone(), self.claims.clone(), self.whole.clone());
        let ips = self.observed.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default();
        self.step(StepKey::Volumes, async move {
            let work = async {
                let volumes = spec::spec(&pod).volumes.clone().unwrap_or_default();
                if !volumes.is_empty() {
                    references.synced().await?;
                }
                let now = Timestamp::now();
                let mut tokens = tokens.lock().await;
                tokens.refresh(&shared.client, &pod, now).await?;
                let facts = shared.downward(ips);
                let known = ready.lock().clone();
                let bound = claims::resolve(&shared.client, &shared.config.node_name, &pod, &known).await?;
                let mut jobs = Vec::with_capacity(volumes.len());
                for volume in volumes {
                    if claims::claim_name(&pod, &volume).is_some() {
                        continue;
                    }
                    let files = payload::payload(&pod, &volume, &references, &*tokens, &facts)
                        .map_err(|cause| format!("MountVolume.SetUp failed for volume {:?} : {cause}", volume.name))?;
                    jobs.push((volume, files));
                }
                let (root, stamp) = (shared.config.root_dir.clone(), now.as_nanosecond().to_string());
                let node_memory = shared.machine.memory_bytes;
                let uid = spec::uid(&pod).to_owned();
                bound.values().try_for_each(|bound| shared.holders.hold(bound, &uid))?;
                let own = shared.config.volumes_dir.clone();
                let written = whole.blocking(move || {
                    setup::make_pod_dirs(&root, spec::uid(&pod))
                        .map_err(|e| format!("cannot make the pod's directory: {e}"))?;
                    // What was made ready once may be in use: it is left alone.
                    let context = spec::spec(&pod).security_context.clone().unwrap_or_default();
                    let group = context.fs_group.and_then(|group| u32::try_from(group).ok());
                    let policy = context.fs_group_change_policy.as_deref();
                    let mut new = bound.iter().filter(|(name, _)| !known.contains_key(*name));
                    new.try_for_each(|(_, bound)| claims::set_up(bound, &own, group, policy))?;
                    *ready.lock() = std::sync::Arc::new(bound);
                    jobs.iter().try_for_each(|(volume, files)| {
                        setup::set_up(&root, &pod, volume, files.as_ref(), node_memory, &stamp)
                    })
                });
                written.await??;
                Ok(tokens.renew_at())
            };
            Done::Volumes(work.await)
        });
    }

    /// Renews the tokens that are due; answers when the next one is.
    pub(super) fn renew_tokens(&mut self, now: Timestamp) -> Option<Timestamp> {
        let at = self.renew_at.filter(|_| !self.memory.torn_down)?;
        if at > now {
            return Some(at);
        }
        if !crate::pod::plan::is_terminating(&self.pod, &self.memory) {
            self.renew_at = None;
            self.begin(Action::PrepareVolumes, now);
        }
        None
    }
}
