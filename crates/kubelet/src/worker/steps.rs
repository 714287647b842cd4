//! Beginning the plan's actions and taking in how they ended.

use jiff::{SignedDuration, Timestamp};

use super::Worker;
use super::start::{self, StartError};
use crate::pod::backoff::go_duration;
use crate::pod::memory::{
    CRASH_LOOP_BACK_OFF, ERR_IMAGE_PULL, Failure, IMAGE_PULL_BACK_OFF, StepKey, Waiting, crash_key,
};
use crate::pod::{Action, spec};

/// How long to wait after an error before the next attempt, as upstream's pod workers do.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

const FIRST_RETRY: SignedDuration = SignedDuration::from_millis(500);

/// How long a thing that could not be removed is left alone.
const REMOVE_RETRY: std::time::Duration = std::time::Duration::from_secs(10);

/// How a step ended.
pub enum Done {
    Volumes(Result<Option<Timestamp>, String>),
    Sandbox(Result<String, super::sandbox::Failure>),
    Start(Result<String, StartError>),
    Killed(Result<(), String>),
    Removed,
    Settled,
    TornDown(Result<(), String>),
    Published(super::publish::Outcome),
    Deleted(super::publish::Outcome),
}

impl Worker {
    pub(super) fn begin(&mut self, action: Action, now: Timestamp) {
        match action {
            Action::PrepareVolumes => self.prepare_volumes(),
            Action::CreateSandbox { attempt } => self.create_sandbox(attempt),
            Action::Start { container, attempt } => self.start(container, attempt),
            Action::Kill { id, container, message, grace } => self.kill(id, container, message, grace),
            Action::BackOffCrash { container, until } => self.back_off_crash(container, until, now),
            Action::BackOffPull { container } => self.back_off_pull(&container),
            Action::Fail { reason, message } => {
                self.shared.events.normal(&self.pod, None, reason, message);
                self.memory.failure =
                    Some(Failure { reason: reason.to_owned(), message: message.to_owned(), rejected: false });
            }
            Action::RemoveContainer { id } => {
                let runtime = self.shared.runtime.clone();
                self.step(StepKey::Remove(id.clone()), async move {
                    if let Err(error) = runtime.remove_container(&id).await {
                        tracing::warn!(%error, container = id, "cannot remove a dead container");
                        tokio::time::sleep(REMOVE_RETRY).await;
                    }
                    Done::Removed
                });
            }
            Action::RemoveSandbox { id } => {
                let runtime = self.shared.runtime.clone();
                self.step(StepKey::Remove(id.clone()), async move {
                    if let Err(error) = runtime.remove_pod_sandbox(&id).await {
                        tracing::warn!(%error, sandbox = id, "cannot remove a dead sandbox");
                        tokio::time::sleep(REMOVE_RETRY).await;
                    }
                    Done::Removed
                });
            }
            Action::Teardown => self.tear_down(),
        }
    }

    pub(super) fn finish(&mut self, key: StepKey, done: Done) {
        self.memory.busy.remove(&key);
        self.aborts.remove(&key);
        let now = Timestamp::now();
        match done {
            Done::Volumes(Ok(renew_at)) => {
                self.renew_at = renew_at;
                self.memory.volumes_ready = true;
                self.failures = 0;
                self.memory.retry_at = None;
                if std::mem::take(&mut self.volumes_again) {
                    self.prepare_volumes();
                }
            }
            Done::Volumes(Err(message)) => {
                self.shared.events.warning(&self.pod, None, "FailedMount", message);
                // What the volumes are made of has changed meanwhile: that may have been what was missing.
                let retry = if std::mem::take(&mut self.volumes_again) { now } else { self.retry_at(now) };
                self.renew_at = self.memory.volumes_ready.then_some(retry);
                self.memory.retry_at = Some(retry);
            }
            Done::Sandbox(Ok(id)) => {
                self.ids.sandboxes.insert(id);
                self.failures = 0;
                self.memory.retry_at = None;
                self.stale = true;
            }
            Done::Sandbox(Err((reason, message))) => {
                self.shared.events.warning(&self.pod, None, reason, message);
                self.memory.retry_at = Some(self.retry_at(now));
                self.stale = true;
            }
            Done::Start(result) => self.started(key, result, now),
            Done::Killed(result) => {
                if let Err(error) = result {
                    tracing::warn!(pod = %spec::full_name(&self.pod), error, "cannot stop a container");
                }
                self.stale = true;
            }
            Done::Removed | Done::Settled => self.stale = true,
            Done::TornDown(Ok(())) => {
                self.memory.torn_down = true;
                self.stale = true;
            }
            Done::TornDown(Err(message)) => {
                self.failures += 1;
                self.shared.events.warning(&self.pod, None, "FailedKillPod", format!("error killing pod: {message}"));
            }
            Done::Published(outcome) => self.took_status(outcome, now),
            Done::Deleted(outcome) => self.took_deletion(outcome, now),
        }
    }

    /// When to try again what the whole pod waits for: soon at first, for what is missing mostly comes within moments.
    fn retry_at(&mut self, now: Timestamp) -> Timestamp {
        let wait = (FIRST_RETRY * 2_i32.pow(self.failures.min(10))).min(RETRY);
        self.failures += 1;
        now + wait
    }

    fn started(&mut self, key: StepKey, result: Result<String, StartError>, now: Timestamp) {
        let StepKey::Start(name) = key else { return };
        self.stale = true;
        let error = match result {
            Ok(id) => {
                self.ids.containers.insert(id);
                self.memory.waiting.remove(&name);
                return;
            }
            Err(error) => error,
        };
        self.ids.containers.extend(error.id.clone());
        let retry_at = if error.reason == ERR_IMAGE_PULL {
            let image = spec::container(&self.pod, &name).and_then(|(_, c)| c.image).unwrap_or_default();
            let backoff = self.memory.pull.entry(image).or_default();
            backoff.advance(now, now);
            now + SignedDuration::try_from(backoff.delay()).unwrap_or(RETRY)
        } else if error.id.is_some() {
            // It exists: its restart is what backs off.
            now
        } else {
            now + RETRY
        };
        if error.reason != start::POST_START_ERROR {
            let text = format!("Error: {}", if error.reason == ERR_IMAGE_PULL { error.reason } else { &error.message });
            self.shared.events.warning(&self.pod, Some(&name), "Failed", text);
        }
        let waiting = Waiting { reason: error.reason.to_owned(), message: error.message, since: now, retry_at };
        self.memory.waiting.insert(name, waiting);
    }

    fn back_off_crash(&mut self, container: String, until: Timestamp, now: Timestamp) {
        let key = spec::container(&self.pod, &container).map(|(_, c)| crash_key(&c));
        let backoff = key.and_then(|key| self.memory.crash.get(&key));
        let delay = backoff.map(|b| go_duration(b.delay())).unwrap_or_default();
        let pod = spec::full_name(&self.pod);
        let text = format!("Back-off restarting failed container {container} in pod {pod}");
        self.shared.events.warning(&self.pod, Some(&container), "BackOff", text);
        let message = format!("back-off {delay} restarting failed container={container} pod={pod}");
        let waiting = Waiting { reason: CRASH_LOOP_BACK_OFF.to_owned(), message, since: now, retry_at: until };
        self.memory.waiting.insert(container, waiting);
    }

    fn back_off_pull(&mut self, container: &str) {
        let Some(waiting) = self.memory.waiting.get_mut(container) else { return };
        let image = spec::container(&self.pod, container).and_then(|(_, c)| c.image).unwrap_or_default();
        waiting.message = format!("Back-off pulling image {image:?}: {ERR_IMAGE_PULL}: {}", waiting.message);
        waiting.reason = IMAGE_PULL_BACK_OFF.to_owned();
        let events = &self.shared.events;
        events.normal(&self.pod, Some(container), "BackOff", format!("Back-off pulling image {image:?}"));
        events.warning(&self.pod, Some(container), "Failed", format!("Error: {IMAGE_PULL_BACK_OFF}"));
    }
}
