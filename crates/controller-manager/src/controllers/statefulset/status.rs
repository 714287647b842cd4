//! What a set's status says: how many pods there are of which revision.

use kybern_api::Object;
use kybern_api::apps::v1::{StatefulSet, StatefulSetStatus};
use kybern_api::core::v1::Pod;

use super::identity;
use super::manage::Work;
use crate::controller::{Op, Plan};
use crate::history::History;
use crate::pods::{self, Availability};

pub(super) fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

impl Work<'_> {
    /// Writes the status where it is another. `replaced`: pods that go in this plan to be made anew. Asks for another look
    /// when pods become available by time alone.
    pub(super) fn status(
        &self,
        old: &StatefulSetStatus,
        history: &History,
        replaced: i32,
        plan: &mut Plan,
    ) -> Option<Op> {
        let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, -replaced, 0);
        for pod in self.pods.values() {
            replicas += 1;
            if is_running_and_ready(pod) {
                ready += 1;
                match pods::availability(pod, self.min_ready(), self.now) {
                    Availability::Available => available += 1,
                    Availability::In(time) => plan.requeue(time),
                    Availability::NotReady => {}
                }
            }
            if !pod.is_deleting() {
                let revision = identity::revision(pod);
                current += i32::from(revision == self.current.revision);
                updated += i32::from(revision == self.update.revision);
            }
        }
        let mut revision = self.current.revision;
        let wanted = self.spec.replicas.unwrap_or(1);
        if self.is_rolling() && [updated, ready, replicas] == [wanted; 3] {
            (current, revision) = (updated, self.update.revision);
        }
        let some = |n: i32| Some(n).filter(|n| *n > 0);
        let status = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(available),
            current_replicas: some(current),
            updated_replicas: some(updated),
            current_revision: Some(revision.to_owned()),
            update_revision: Some(self.update.revision.to_owned()),
            collision_count: history.collision_count,
            conditions: old.conditions.clone(),
        };
        (self.set.status.as_ref() != Some(&status))
            .then(|| Op::update_status(&StatefulSet { status: Some(status), ..(**self.set).clone() }))
    }
}
