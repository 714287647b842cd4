//! Custom resources: definitions get their names, are established, served while the server runs, and removed with all their
//! objects. Upstream does this in half a dozen controllers; here one task takes what changed.

mod columns;
mod conditions;
mod conversion;
mod removal;
mod rows;
mod strategy;

use std::collections::{BTreeSet, HashMap, HashSet};
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
    granted: InUse,
    revision: u64,
    terminating: bool,
}

#[derive(Default)]
struct State {
    known: HashMap<String, Known>,
    groups: HashMap<String, Group>,
    /// Those to be looked at.
    dirty: BTreeSet<String>,
}

/// The definitions of a group.
#[derive(Default)]
struct Group {
    names: BTreeSet<String>,
    /// Who was granted which name. One that is being taken over may have two owners for a moment.
    resources: HashMap<String, BTreeSet<String>>,
    kinds: HashMap<String, BTreeSet<String>>,
}

impl Group {
    fn grant(&mut self, owner: &str, granted: &InUse) {
        for (owners, names) in [(&mut self.resources, &granted.resources), (&mut self.kinds, &granted.kinds)] {
            for name in names {
                owners.entry(name.clone()).or_default().insert(owner.to_owned());
            }
        }
    }

    fn take_back(&mut self, owner: &str, granted: &InUse) {
        for (owners, names) in [(&mut self.resources, &granted.resources), (&mut self.kinds, &granted.kinds)] {
            for name in names {
                let Some(of_name) = owners.get_mut(name) else { continue };
                of_name.remove(owner);
                if of_name.is_empty() {
                    owners.remove(name);
                }
            }
        }
    }

    /// Those of the wanted names that another has.
    fn in_use(&self, wanted: InUse, but: &str) -> InUse {
        let taken = |owners: &HashMap<String, BTreeSet<String>>, names: HashSet<String>| {
            let others = |name: &String| owners.get(name).is_some_and(|owners| owners.iter().any(|o| o != but));
            names.into_iter().filter(others).collect()
        };
        InUse { resources: taken(&self.resources, wanted.resources), kinds: taken(&self.kinds, wanted.kinds) }
    }
}

impl Observer for Shared {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[(GROUP, RESOURCE)]
    }

    fn changed(&self, _: &str, _: &str, _: &str, name: &str, definition: Option<&Value>) {
        let mut state = self.state.lock();
        let State { known, groups, dirty } = &mut *state;
        let granted = definition.map(|d| InUse::of(&d["status"]["acceptedNames"]));
        if let Some(before) = known.remove(name)
            && let Some(group) = groups.get_mut(&before.group)
        {
            group.take_back(name, &before.granted);
            group.names.remove(name);
            // What it gives back another may want.
            if before.granted.has_more_than(granted.as_ref().unwrap_or(&InUse::default())) {
                dirty.extend(group.names.iter().cloned());
            }
            if group.names.is_empty() {
                groups.remove(&before.group);
            }
        }
        if let (Some(definition), Some(granted)) = (definition, granted) {
            let of = text(&definition["spec"], "group").to_owned();
            let group = groups.entry(of.clone()).or_default();
            group.names.insert(name.to_owned());
            group.grant(name, &granted);
            let revision = object::resource_version(definition).parse().unwrap_or_default();
            let terminating = is_true(definition, "Terminating");
            known.insert(name.to_owned(), Known { group: of, granted, revision, terminating });
        }
        dirty.insert(name.to_owned());
        drop(state);
        self.changed.notify_one();
    }
}

impl Shared {
    /// Those of the names that a definition wants which another of its group has been granted.
    fn in_use(&self, definition: &Value) -> InUse {
        let (spec, wanted) = (&definition["spec"], InUse::of(&definition["spec"]["names"]));
        let state = self.state.lock();
        let group = state.groups.get(text(spec, "group"));
        group.map(|group| group.in_use(wanted, object::name(definition))).unwrap_or_default()
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
            if controller.take_in(&name, &definition).await {
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
        let read = definition.clone();
        let violations = aside(move || violations(&read)).await.map_err(ApiError::internal)?;
        let now = server.now();
        let advanced = |definition: &mut Value| {
            advance(definition, &shared.in_use(definition), &violations, now);
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
    async fn take_in(&mut self, name: &str, definition: &Value) -> bool {
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
        let (read, shared, webhooks) = (definition.clone(), self.shared.clone(), self.webhooks.clone());
        let rows = aside(move || rows::of(&read, &shared, &webhooks)).await.and_then(|rows| rows);
        let rows = rows.unwrap_or_else(|problem| {
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
        let names = state.groups.get(group).into_iter().flat_map(|group| &group.names);
        names.filter_map(|name| self.served.get(name)).flat_map(|served| served.rows.clone()).collect()
    }

    async fn serve(
        &mut self,
        shared: &Shared,
        server: &Server,
        name: &str,
        definition: &Value,
    ) -> Result<(), ApiError> {
        if self.take_in(name, definition).await {
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

/// Runs what a large definition makes take long: not where requests wait.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
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
