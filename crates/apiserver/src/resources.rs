//! Every served resource, by its coordinates. Replaced as a whole when rows come or go.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kybern_apimachinery::Gvr;

use crate::resource::{Resource, Subresource};

/// See the module.
#[derive(Default)]
pub(crate) struct ResourceTable {
    by_gvr: HashMap<Gvr, Arc<Resource>>,
    /// Groups in the order that rows first name them; in each, versions by priority, in each, rows by name.
    groups: Vec<Group>,
}

/// An API group as discovery lists it.
pub(crate) struct Group {
    pub(crate) name: String,
    /// The preferred version first.
    pub(crate) versions: Vec<(String, Vec<Arc<Resource>>)>,
}

impl ResourceTable {
    pub(crate) fn new(rows: impl IntoIterator<Item = Resource>) -> Self {
        let mut table = Self::default();
        let mut groups: BTreeMap<String, BTreeMap<String, Vec<Arc<Resource>>>> = BTreeMap::new();
        let mut order = Vec::new();
        for row in rows {
            let row = Arc::new(row);
            if !order.contains(&row.gvr.group) {
                order.push(row.gvr.group.clone());
            }
            groups
                .entry(row.gvr.group.clone())
                .or_default()
                .entry(row.gvr.version.clone())
                .or_default()
                .push(row.clone());
            table.by_gvr.insert(row.gvr.clone(), row);
        }
        for name in order {
            let Some(versions) = groups.remove(&name) else { continue };
            let mut versions: Vec<_> = versions.into_iter().collect();
            versions.sort_by(|(a, _), (b, _)| priority(b).cmp(&priority(a)).then(a.cmp(b)));
            for (_, rows) in &mut versions {
                rows.sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
            }
            table.groups.push(Group { name, versions });
        }
        table
    }

    pub(crate) fn get(&self, gvr: &Gvr) -> Option<&Arc<Resource>> {
        self.by_gvr.get(gvr)
    }

    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_gvr.values()
    }

    /// The rows of all served versions of a resource's kind.
    pub(crate) fn versions(&self, resource: &Resource) -> Vec<Arc<Resource>> {
        self.rows().filter(|r| r.stored.prefix == resource.stored.prefix).cloned().collect()
    }

    /// The row that serves the stored version of a resource.
    pub(crate) fn stored(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        let group = self.groups.iter().find(|g| g.name == group)?;
        let rows = || group.versions.iter().flat_map(|(_, rows)| rows).filter(|r| r.gvr.resource == resource);
        rows()
            .find(|r| r.stored.gvk.group == r.gvr.group && r.stored.gvk.version == r.gvr.version)
            .or_else(|| rows().next())
    }
}

/// `v2` before `v1` before `v1beta2` before `v1alpha1`: upstream's order of versions.
fn priority(version: &str) -> (u8, u64, u64) {
    let number = |text: &str| text.parse::<u64>().ok();
    let Some(rest) = version.strip_prefix('v') else { return (0, 0, 0) };
    for (stage, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(stage) {
            return number(major).zip(number(minor)).map_or((0, 0, 0), |(major, minor)| (rank, major, minor));
        }
    }
    number(rest).map_or((0, 0, 0), |major| (3, major, 0))
}

impl Resource {
    pub(crate) fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    pub(crate) fn api_version(&self) -> String {
        self.gvr.group_version().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::priority;

    #[test]
    fn versions_are_ordered_as_upstream() {
        let mut versions = ["v1alpha1", "v2", "v1beta2", "foo", "v1", "v10", "v1beta10"];
        versions.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }
}
