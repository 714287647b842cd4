//! What APIServices say of groups and versions: in which order discovery lists them, and which are another server's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kybern_apimachinery::Value;
use parking_lot::{Mutex, RwLock};

use crate::resource::version_priority;
use crate::routes::PrefixRoute;

/// What one APIService says.
#[derive(Clone)]
pub struct Registration {
    pub group_priority: i64,
    pub version_priority: i64,
    /// `None`: this server has the version itself.
    pub remote: Option<Remote>,
}

/// What is known of a version that another server has.
#[derive(Clone)]
pub struct Remote {
    pub route: Arc<dyn PrefixRoute>,
    /// What aggregated discovery lists: an `APIVersionDiscovery` with its freshness.
    pub discovery: Value,
    /// The part of its `/openapi/v2` that is about this version, once it is known.
    pub openapi_v2: Option<Arc<OpenApiPart>>,
    /// Under what URL it has its document of `/openapi/v3`, once it is known.
    pub openapi_v3: Option<String>,
}

/// See [`crate::openapi_part`].
pub struct OpenApiPart {
    pub document: Value,
    /// Changes whenever the document does.
    pub hash: String,
}

type Key = (String, String);

/// By group and version. Empty where nobody registers anything: then everything is this server's own.
#[derive(Default)]
pub struct Registrations {
    known: RwLock<BTreeMap<Key, Arc<Registration>>>,
    changes: AtomicU64,
}

/// A version of a group, as discovery orders it.
pub(crate) struct Listed {
    pub(crate) version: String,
    pub(crate) registration: Arc<Registration>,
}

impl Registrations {
    /// Sets what is known of a group's version; `None` forgets it.
    pub fn set(&self, group: &str, version: &str, registration: Option<Registration>) {
        let key = (group.to_owned(), version.to_owned());
        let mut known = self.known.write();
        match registration {
            Some(registration) => drop(known.insert(key, Arc::new(registration))),
            None => drop(known.remove(&key)),
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Another number after every change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The versions of a group, the preferred one first.
    pub(crate) fn versions(&self, group: &str) -> Vec<Listed> {
        let known = self.known.read();
        let from = (group.to_owned(), String::new());
        let own = known.range(from..).take_while(|((name, _), _)| name == group);
        sorted(own.map(|((_, version), registration)| (version, registration)))
    }

    /// Every group but the core one with its versions, in the order of `/apis`.
    pub(crate) fn groups(&self) -> Vec<(String, Vec<Listed>)> {
        let known = self.known.read();
        let mut groups: Vec<(&str, i64, Vec<_>)> = Vec::new();
        for ((group, version), registration) in known.iter().filter(|((group, _), _)| !group.is_empty()) {
            match groups.last_mut().filter(|(name, ..)| name == group) {
                Some((_, priority, versions)) => {
                    *priority = registration.group_priority.max(*priority);
                    versions.push((version, registration));
                }
                None => groups.push((group, registration.group_priority, vec![(version, registration)])),
            }
        }
        // Stable: of equal priority by name.
        groups.sort_by_key(|(_, priority, _)| std::cmp::Reverse(*priority));
        groups.into_iter().map(|(name, _, versions)| (name.to_owned(), sorted(versions))).collect()
    }

    /// Those of other servers, by group, but for the core group.
    pub(crate) fn remotes(&self) -> HashMap<String, Vec<Listed>> {
        let known = self.known.read();
        let mut remotes: HashMap<String, Vec<Listed>> = HashMap::new();
        for ((group, version), registration) in known.iter() {
            if registration.remote.is_some() && !group.is_empty() {
                let listed = Listed { version: version.clone(), registration: registration.clone() };
                remotes.entry(group.clone()).or_default().push(listed);
            }
        }
        remotes
    }

    /// What is known of a version that is another server's.
    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<Remote> {
        self.known.read().get(&(group.to_owned(), version.to_owned()))?.remote.clone()
    }
}

fn sorted<'a>(versions: impl IntoIterator<Item = (&'a String, &'a Arc<Registration>)>) -> Vec<Listed> {
    let listed = |(version, registration): (&String, &Arc<Registration>)| Listed {
        version: version.clone(),
        registration: registration.clone(),
    };
    let mut versions: Vec<Listed> = versions.into_iter().map(listed).collect();
    versions.sort_by_key(|v| std::cmp::Reverse((v.registration.version_priority, version_priority(&v.version))));
    versions
}

/// Something that was made of the registrations, as long as they are the same.
pub(crate) struct Kept<T>(Mutex<Option<(u64, Arc<T>)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Kept<T> {
    /// What was made of the current registrations, or is made now.
    pub(crate) fn get(&self, registrations: &Registrations, make: impl FnOnce() -> T) -> Arc<T> {
        let changes = registrations.changes();
        if let Some((of, kept)) = &*self.0.lock()
            && *of == changes
        {
            return kept.clone();
        }
        // Not under the lock: others are served meanwhile. What changed since has another number.
        let made = Arc::new(make());
        *self.0.lock() = Some((changes, made.clone()));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(group_priority: i64, version_priority: i64) -> Registration {
        Registration { group_priority, version_priority, remote: None }
    }

    #[test]
    fn priorities_order_groups_and_versions() {
        let registrations = Registrations::default();
        for (group, version, priorities) in [
            ("", "v1", (18_000, 1)),
            ("b.example", "v1", (100, 10)),
            ("b.example", "v2", (2000, 9)),
            ("a.example", "v1beta1", (1000, 100)),
            ("a.example", "v1", (1000, 100)),
            ("c.example", "v1", (1000, 100)),
        ] {
            registrations.set(group, version, Some(local(priorities.0, priorities.1)));
        }
        let listed = || -> Vec<String> {
            let groups = registrations.groups();
            let name = |(group, versions): (String, Vec<Listed>)| {
                let versions: Vec<String> = versions.into_iter().map(|v| v.version).collect();
                format!("{group} {}", versions.join(","))
            };
            groups.into_iter().map(name).collect()
        };
        assert_eq!(listed(), ["b.example v1,v2", "a.example v1,v1beta1", "c.example v1"]);
        let (made, count) = (Kept::default(), std::cell::Cell::new(0));
        let get = || made.get(&registrations, || count.replace(count.get() + 1));
        assert_eq!((*get(), *get()), (0, 0));
        registrations.set("b.example", "v2", None);
        assert_eq!((*get(), listed()[0].as_str()), (1, "a.example v1,v1beta1"));
        assert!(registrations.remotes().is_empty());
    }
}
