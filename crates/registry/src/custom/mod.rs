//! Custom resources: definitions get their names, are established, served while the server runs, and removed with all their
//! objects. Upstream does this in half a dozen controllers; here one task takes what changed.

mod columns;
mod conditions;
mod conversion;
mod removal;
mod rows;
mod strategy;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kybern_apimachinery::field::FieldPath;
use kybern_apimachinery::{ApiError, Reason, Value, object};
use kybern_apiserver::Server;
use kybern_apiserver::connect::{Objects, Observer};
use kybern_apiserver::resource::Resource;
use kybern_schema::structural;
use kybern_webhook::ClientManager;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::tree::{list, text};
pub(crate) use conditions::{Condition, FINALIZER, approval, is_protected, is_true, set as set_condition};
use conditions::{InUse, advance};

const GROUP: &str = "apiextensions.k8s.io";
const RESOURCE: &str = "customresourcedefinitions";
/// After this, what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// So many faults of a schema are told in its definition's status.
const MAX_VIOLATIONS: usize = 100;

/// The definitions that there are, as far as others have to know them.
#[derive(Clone, Default)]
pub struct Definitions(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told of changes, and of the end.
    changed: Arc<Notify>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

/// What others have to know of a definition.
struct Known {
    group: String,
    /// The names that it was granted.
    granted: Value,
    revision: u64,
    terminating: bool,
}

#[derive(Default)]
struct State {
    known: HashMap<String, Known>,
    /// Names of definitions, by group.
    groups: HashMap<String, BTreeSet<String>>,
    /// Those to be looked at.
    dirty: BTreeSet<String>,
}

impl Observer for Shared {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, RESOURCE)]
    }

    fn changed(&self, _: &str, _: &str, _: &str, name: &str, definition: Option<&Value>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let before = state.known.remove(name);
        let granted = definition.map(|d| d["status"]["acceptedNames"].clone());
        // What it gives back another may want.
        if let Some(before) = &before
            && granted.as_ref() != Some(&before.granted)
            && let Some(others) = state.groups.get(&before.group)
        {
            state.dirty.extend(others.iter().cloned());
        }
        match (definition, granted) {
            (Some(definition), Some(granted)) => {
                let group = text(&definition["spec"], "group").to_owned();
                state.groups.entry(group.clone()).or_default().insert(name.to_owned());
                let revision = object::resource_version(definition).parse().unwrap_or_default();
                let terminating = is_true(definition, "Terminating");
                state.known.insert(name.to_owned(), Known { group, granted, revision, terminating });
            }
            _ => {
                if let Some(before) = before
                    && let Some(names) = state.groups.get_mut(&before.group)
                {
                    names.remove(name);
                    if names.is_empty() {
                        state.groups.remove(&before.group);
                    }
                }
            }
        }
        state.dirty.insert(name.to_owned());
        self.changed.notify_one();
    }
}

impl Shared {
    /// The names that a group's other definitions have been granted.
    fn in_use(&self, group: &str, but: &str) -> InUse {
        let state = self.state.lock();
        let mut in_use = InUse::default();
        for name in state.groups.get(group).into_iter().flatten().filter(|name| *name != but) {
            if let Some(known) = state.known.get(name) {
                in_use.add(&known.granted);
            }
        }
        in_use
    }

    /// The revision that a definition is at, and whether it is being removed.
    fn standing(&self, name: &str) -> Option<(u64, bool)> {
        self.state.lock().known.get(name).map(|known| (known.revision, known.terminating))
    }

    fn take(&self) -> Option<String> {
        self.state.lock().dirty.pop_first()
    }

    fn again(&self, name: &str) {
        self.state.lock().dirty.insert(name.to_owned());
        self.changed.notify_one();
    }
}

impl Definitions {
    /// What shows it the definitions.
    pub fn observer(&self) -> Arc<dyn Observer> {
        self.0.clone()
    }

    /// Serves every definition that there is, and from then on what becomes of them, for as long as the server is there.
    /// `webhooks` convert objects where a definition says so.
    pub async fn start(&self, server: &Arc<Server>, webhooks: Arc<ClientManager>) -> Result<(), ApiError> {
        let mut controller = Controller {
            shared: Arc::downgrade(&self.0),
            webhooks,
            server: Arc::downgrade(server),
            removing: Arc::default(),
            served: HashMap::new(),
        };
        let mut groups = BTreeSet::new();
        let names: Vec<String> = self.0.state.lock().known.keys().cloned().collect();
        for name in names {
            let definition = server.get(GROUP, RESOURCE, "", &name).await?;
            if controller.take_in(&name, &definition) {
                groups.insert(text(&definition["spec"], "group").to_owned());
            }
        }
        let rows = groups.into_iter().map(|group| (group.clone(), controller.rows(&self.0, &group))).collect();
        server.replace_groups(rows).await.map_err(ApiError::internal)?;
        tokio::spawn(controller.run(self.0.changed.clone()));
        Ok(())
    }
}

/// A definition that is served.
struct Served {
    group: String,
    /// What its rows were made of.
    made_of: Value,
    rows: Vec<Arc<Resource>>,
}

struct Controller {
    shared: Weak<Shared>,
    server: Weak<Server>,
    webhooks: Arc<ClientManager>,
    /// Definitions whose objects are being deleted.
    removing: Arc<Mutex<BTreeSet<String>>>,
    served: HashMap<String, Served>,
}

impl Controller {
    async fn run(mut self, changed: Arc<Notify>) {
        loop {
            while let (Some(shared), Some(server)) = (self.shared.upgrade(), self.server.upgrade()) {
                let Some(name) = shared.take() else { break };
                if let Err(error) = self.sync(&shared, &server, &name).await {
                    tracing::warn!(%error, definition = name, "a custom resource's definition is tried again");
                    let shared = self.shared.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(RETRY_AFTER).await;
                        shared.upgrade().inspect(|shared| shared.again(&name));
                    });
                }
            }
            if self.shared.strong_count() == 0 || self.server.strong_count() == 0 {
                return;
            }
            changed.notified().await;
        }
    }

    async fn sync(&mut self, shared: &Arc<Shared>, server: &Arc<Server>, name: &str) -> Result<(), ApiError> {
        let mut definition = match server.get(GROUP, RESOURCE, "", name).await {
            Ok(definition) => definition,
            Err(error) if error.reason() == Reason::NotFound => return self.forget(shared, server, name).await,
            Err(error) => return Err(error),
        };
        let in_use = shared.in_use(text(&definition["spec"], "group"), name);
        let violations = violations(&definition);
        let now = server.now();
        let advanced = |definition: &mut Value| {
            advance(definition, &in_use, &violations, now);
            if object::is_deleting(definition) && object::finalizers(definition).any(|f| f == FINALIZER) {
                removal::begin(definition, now);
            }
            Ok(())
        };
        advanced(&mut definition)?;
        // Who reads that it is established finds it served.
        self.serve(shared, server, name, &definition).await?;
        match server.update(GROUP, RESOURCE, "", name, &advanced).await {
            Err(error) if error.reason() == Reason::NotFound => {}
            done => drop(done?),
        }
        if removal::is_begun(&definition) && self.removing.lock().insert(name.to_owned()) {
            let (shared, removing, of) = (self.shared.clone(), self.removing.clone(), name.to_owned());
            removal::spawn(self.server.clone(), name.to_owned(), definition, move |again| {
                removing.lock().remove(&of);
                if again {
                    shared.upgrade().inspect(|shared| shared.again(&of));
                }
            });
        }
        Ok(())
    }

    /// Notes a definition's rows; answers whether others are to be served now.
    fn take_in(&mut self, name: &str, definition: &Value) -> bool {
        let is_served = is_true(definition, "NamesAccepted") || is_true(definition, "Established");
        let made_of = kybern_apimachinery::json!([
            definition["spec"],
            definition["status"]["acceptedNames"],
            is_true(definition, "Terminating"),
            object::uid(definition),
        ]);
        if !is_served {
            return self.served.remove(name).is_some();
        }
        if self.served.get(name).is_some_and(|served| served.made_of == made_of) {
            return false;
        }
        let rows = rows::of(definition, &self.shared, &self.webhooks).unwrap_or_else(|problem| {
            tracing::error!(definition = name, problem, "a custom resource cannot be served");
            Vec::new()
        });
        let group = text(&definition["spec"], "group").to_owned();
        self.served.insert(name.to_owned(), Served { group, made_of, rows });
        true
    }

    /// All rows of a group.
    fn rows(&self, shared: &Shared, group: &str) -> Vec<Arc<Resource>> {
        let state = shared.state.lock();
        let names = state.groups.get(group).into_iter().flatten();
        names.filter_map(|name| self.served.get(name)).flat_map(|served| served.rows.clone()).collect()
    }

    async fn serve(
        &mut self,
        shared: &Shared,
        server: &Server,
        name: &str,
        definition: &Value,
    ) -> Result<(), ApiError> {
        if self.take_in(name, definition) {
            let group = text(&definition["spec"], "group").to_owned();
            let rows = self.rows(shared, &group);
            server.replace_groups(vec![(group, rows)]).await.map_err(ApiError::internal)?;
        }
        Ok(())
    }

    async fn forget(&mut self, shared: &Shared, server: &Server, name: &str) -> Result<(), ApiError> {
        let Some(served) = self.served.remove(name) else { return Ok(()) };
        let rows = self.rows(shared, &served.group);
        server.replace_groups(vec![(served.group, rows)]).await.map_err(ApiError::internal)
    }
}

/// What keeps a definition's schemas from being structural.
fn violations(definition: &Value) -> String {
    let spec = &definition["spec"];
    let mut found: Vec<String> = Vec::new();
    if spec["preserveUnknownFields"] == true {
        found.push("spec.preserveUnknownFields: Invalid value: true: must be false".to_owned());
    }
    for (i, version) in list(spec, "versions").iter().enumerate() {
        let path = FieldPath::new(&format!("spec.versions[{i}].schema.openAPIV3Schema"));
        for fault in structural::violations(&version["schema"]["openAPIV3Schema"], &path) {
            let text = fault.to_string();
            if !found.contains(&text) {
                found.push(text);
            }
        }
    }
    found.truncate(MAX_VIOLATIONS);
    match found.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        more => format!("[{}]", more.join(", ")),
    }
}
