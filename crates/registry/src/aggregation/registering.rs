//! Which APIServices there ought to be of what this server serves itself, and what is to be done about each (upstream's
//! autoregister controller). Those of built-in groups are brought about once, when a server starts; those of custom resources
//! for as long as they are served. What somebody else has made is left alone.

use std::collections::{BTreeMap, BTreeSet};

use kybern_apimachinery::{ApiError, GroupVersion, Reason, Value, json, object};
use kybern_apiserver::Server;
use kybern_apiserver::connect::Objects;
use parking_lot::Mutex;

use super::api_service::{ALWAYS, ApiService, MANAGED, ON_START};
use super::{GROUP, RESOURCE};

/// Where custom resources stand among all groups.
const CUSTOM: (i64, i64) = (1000, 100);

/// An APIService that there ought to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    of: GroupVersion,
    priorities: (i64, i64),
    managed: &'static str,
}

impl Wanted {
    pub(super) fn on_start(of: GroupVersion, priorities: (i64, i64)) -> Self {
        Self { of, priorities, managed: ON_START }
    }

    fn always(name: &str) -> Option<Self> {
        let (version, group) = name.split_once('.')?;
        Some(Self { of: GroupVersion::new(group, version), priorities: CUSTOM, managed: ALWAYS })
    }

    fn object(&self) -> Value {
        let GroupVersion { group, version } = &self.of;
        json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "APIService",
            "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: self.managed}},
            "spec": self.spec(),
        })
    }

    fn spec(&self) -> Value {
        let mut spec = json!({
            "version": self.of.version, "groupPriorityMinimum": self.priorities.0, "versionPriority": self.priorities.1,
        });
        if !self.of.group.is_empty() {
            spec["group"] = self.of.group.as_str().into();
        }
        spec
    }

    fn is(&self, current: &ApiService) -> bool {
        (&current.group, &current.version) == (&self.of.group, &self.of.version)
            && (current.group_priority, current.version_priority) == self.priorities
            && current.backend.is_none()
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Create,
    Update,
    Delete,
}

/// `at_start`: it was there when this server started. `synced`: it was brought about once.
fn step(wanted: Option<&Wanted>, current: Option<&ApiService>, at_start: bool, synced: bool) -> Step {
    let once = |managed: &str| managed == ON_START;
    match (wanted, current) {
        (Some(wanted), _) if once(wanted.managed) && synced => Step::Nothing,
        (None, None) => Step::Nothing,
        (Some(_), None) => Step::Create,
        (_, Some(current)) if !matches!(current.managed.as_str(), ON_START | ALWAYS) => Step::Nothing,
        (_, Some(current)) if once(&current.managed) && (!at_start || synced) => Step::Nothing,
        (None, Some(_)) => Step::Delete,
        (Some(wanted), Some(current)) if wanted.is(current) => Step::Nothing,
        (Some(_), Some(_)) => Step::Update,
    }
}

pub(super) struct Registering {
    /// Of built-in groups, by name.
    own: BTreeMap<String, Wanted>,
    at_start: BTreeSet<String>,
    synced: Mutex<BTreeSet<String>>,
}

impl Registering {
    pub(super) fn new(own: BTreeMap<String, Wanted>, at_start: BTreeSet<String>) -> Self {
        Self { own, at_start, synced: Mutex::default() }
    }

    pub(super) fn own_names(&self) -> Vec<String> {
        self.own.keys().cloned().collect()
    }

    /// `custom`: a definition of custom resources serves it.
    pub(super) async fn sync(
        &self,
        server: &Server,
        name: &str,
        current: Option<&ApiService>,
        custom: bool,
    ) -> Result<(), ApiError> {
        let wanted = match self.own.get(name) {
            Some(own) => Some(own.clone()),
            None if custom => Wanted::always(name),
            None => None,
        };
        let synced = self.synced.lock().contains(name);
        let done = match step(wanted.as_ref(), current, self.at_start.contains(name), synced) {
            Step::Nothing => Ok(()),
            Step::Create => {
                let object = wanted.as_ref().map(Wanted::object).unwrap_or_default();
                server.create(GROUP, RESOURCE, object).await.map(|_| ())
            }
            Step::Update => {
                let (uid, spec) =
                    (current.map(|c| c.uid.clone()), wanted.as_ref().map(Wanted::spec).unwrap_or_default());
                let change = |object: &mut Value| {
                    if uid.as_deref() == Some(object::uid(object)) {
                        object["spec"] = spec.clone();
                    }
                    Ok(())
                };
                server.update(GROUP, RESOURCE, "", name, &change).await.map(drop)
            }
            Step::Delete => {
                let uid = current.map(|c| c.uid.as_str()).unwrap_or_default();
                let options = json!({
                    "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid},
                });
                server.delete(GROUP, RESOURCE, "", name, options).await.map(|_| ())
            }
        };
        match done {
            // Somebody was faster; what became of it is told.
            Err(error) if matches!(error.reason(), Reason::AlreadyExists | Reason::NotFound | Reason::Conflict) => {}
            done => done?,
        }
        if !synced {
            self.synced.lock().insert(name.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_upstreams_table() {
        let own = Wanted::on_start(GroupVersion::new("apps", "v1"), (17_800, 15));
        let custom = Wanted::always("v1.example.com").unwrap();
        let current = |managed: &str, priority: i64| {
            let labels = json!({MANAGED: managed});
            let spec =
                json!({"group": "apps", "version": "v1", "groupPriorityMinimum": priority, "versionPriority": 15});
            ApiService::read(&json!({"metadata": {"name": "v1.apps", "labels": labels}, "spec": spec}))
        };
        let (theirs, once, always) = (current("", 1), current(ON_START, 1), current(ALWAYS, 1));
        let right = current(ON_START, 17_800);
        use Step::{Create, Delete, Nothing, Update};
        for (wanted, current, at_start, synced, expect) in [
            (None, None, false, false, Nothing),
            (Some(&own), None, false, false, Create),
            // Whoever removes one of a built-in group's has it come again with the next start.
            (Some(&own), None, true, true, Nothing),
            (Some(&custom), None, true, true, Create),
            (None, Some(&theirs), true, false, Nothing),
            (Some(&own), Some(&theirs), true, false, Nothing),
            (Some(&custom), Some(&theirs), true, false, Nothing),
            (None, Some(&once), false, false, Nothing),
            (Some(&custom), Some(&once), false, false, Nothing),
            (None, Some(&once), true, false, Delete),
            (None, Some(&once), true, true, Nothing),
            (Some(&own), Some(&once), true, false, Update),
            (Some(&own), Some(&once), true, true, Nothing),
            (Some(&own), Some(&right), true, false, Nothing),
            (None, Some(&always), false, true, Delete),
            (Some(&custom), Some(&always), false, true, Update),
        ] {
            assert_eq!(step(wanted, current, at_start, synced), expect, "{wanted:?} {current:?} {at_start} {synced}");
        }
    }
}
