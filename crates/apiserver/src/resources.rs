//! Every served resource, by its coordinates. A table is never changed: another one takes its place, which shares with it
//! every group that stays as it is. So one of ten thousand groups comes or goes without a look into the others.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kybern_apimachinery::Gvr;
use kybern_schema::openapi::Served;

use crate::openapi_parts::{Base, Kept, Others};
use crate::resource::{Resource, Subresource, version_priority};

/// See the module.
#[derive(Clone, Default)]
pub(crate) struct ResourceTable {
    by_name: HashMap<Arc<str>, Arc<Group>>,
    /// Those of built-in kinds in the order that rows first name them, then the others by name.
    groups: Vec<Arc<Group>>,
    /// The part of what is built in, in the OpenAPI document about everything: JSON and protobuf.
    pub(crate) openapi_base: Arc<[OnceLock<Base>; 2]>,
    /// Documents of `/openapi/v3` about paths that are no resources.
    pub(crate) openapi_others: Arc<OnceLock<Others>>,
}

/// An API group as discovery lists it.
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    /// The preferred version first.
    pub(crate) versions: Vec<Version>,
    /// Rows that stay, whatever else is added to the group.
    fixed: Vec<Arc<Resource>>,
    /// What discovery says of it, once it was asked for.
    pub(crate) discovery: OnceLock<String>,
}

/// What a group serves in one version.
pub(crate) struct Version {
    pub(crate) name: String,
    /// By name.
    pub(crate) rows: Vec<Arc<Resource>>,
    /// What OpenAPI says of it, once it was asked for.
    pub(crate) openapi: OnceLock<Part>,
}

impl Version {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), rows: Vec::new(), openapi: OnceLock::new() }
    }
}

/// The part of a group and version in OpenAPI's documents.
pub(crate) struct Part {
    pub(crate) served: Vec<Served>,
    /// Changes whenever the part does.
    pub(crate) hash: String,
    /// Its own document, compressed: JSON and protobuf.
    pub(crate) documents: [OnceLock<Bytes>; 2],
    /// What it adds to the document about everything.
    pub(crate) whole: Kept,
}

impl Group {
    /// A version that has fixed rows has no others.
    fn new(name: &str, fixed: Vec<Arc<Resource>>, added: &[Arc<Resource>]) -> Self {
        let mut versions: Vec<Version> = Vec::new();
        let is_fixed = |row: &Resource| fixed.iter().any(|f| f.gvr.version == row.gvr.version);
        for row in fixed.iter().chain(added.iter().filter(|row| !is_fixed(row))) {
            match versions.iter_mut().find(|v| v.name == row.gvr.version) {
                Some(version) => version.rows.push(row.clone()),
                None => {
                    versions.push(Version { rows: vec![row.clone()], ..Version::new(&row.gvr.version) });
                }
            }
        }
        versions.sort_by(|a, b| version_priority(&b.name).cmp(&version_priority(&a.name)).then(a.name.cmp(&b.name)));
        for version in &mut versions {
            version.rows.sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
        }
        Self { name: name.into(), versions, fixed, discovery: OnceLock::new() }
    }

    /// Whether it has rows that stay.
    pub(crate) fn is_built_in(&self) -> bool {
        !self.fixed.is_empty()
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.versions.iter().flat_map(|version| &version.rows)
    }
}

impl ResourceTable {
    /// A table of rows that stay.
    pub(crate) fn new(rows: impl IntoIterator<Item = Resource>) -> Self {
        let mut order: Vec<String> = Vec::new();
        let mut by_group: HashMap<String, Vec<Arc<Resource>>> = HashMap::new();
        for row in rows {
            if !by_group.contains_key(&row.gvr.group) {
                order.push(row.gvr.group.clone());
            }
            by_group.entry(row.gvr.group.clone()).or_default().push(Arc::new(row));
        }
        let groups = order.iter().map(|name| Group::new(name, by_group.remove(name).unwrap_or_default(), &[]));
        let groups: Vec<Arc<Group>> = groups.map(Arc::new).collect();
        let by_name = groups.iter().map(|g| (g.name.clone(), g.clone())).collect();
        Self { by_name, groups, openapi_base: Arc::default(), openapi_others: Arc::default() }
    }

    /// A table in which each of these groups has these rows besides those that stay.
    pub(crate) fn with(&self, changed: &[(String, Vec<Arc<Resource>>)]) -> Self {
        let mut table = self.clone();
        for (name, rows) in changed {
            let fixed = table.by_name.get(name.as_str()).map_or_else(Vec::new, |group| group.fixed.clone());
            let group = Arc::new(Group::new(name, fixed, rows));
            let at = table.place(name);
            if group.versions.is_empty() {
                table.by_name.remove(name.as_str());
                at.map(|at| table.groups.remove(at)).ok();
                continue;
            }
            match at {
                Ok(at) => table.groups[at] = group.clone(),
                Err(at) => table.groups.insert(at, group.clone()),
            }
            table.by_name.insert(group.name.clone(), group);
        }
        table
    }

    /// Where a group is, or where it belongs.
    fn place(&self, name: &str) -> Result<usize, usize> {
        let built_in = self.groups.partition_point(|group| !group.fixed.is_empty());
        if let Some(at) = self.groups[..built_in].iter().position(|group| *group.name == *name) {
            return Ok(at);
        }
        let found = self.groups[built_in..].binary_search_by(|group| (*group.name).cmp(name));
        found.map(|at| built_in + at).map_err(|at| built_in + at)
    }

    pub(crate) fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<Resource>> {
        let version = self.by_name.get(group)?.versions.iter().find(|v| v.name == version)?;
        let found = version.rows.binary_search_by(|row| row.gvr.resource.as_str().cmp(resource));
        found.ok().map(|at| &version.rows[at])
    }

    /// Whether a row is still the one that is served.
    pub(crate) fn serves(&self, row: &Arc<Resource>) -> bool {
        let Gvr { group, version, resource } = &row.gvr;
        self.get(group, version, resource).is_some_and(|now| Arc::ptr_eq(now, row))
    }

    pub(crate) fn groups(&self) -> &[Arc<Group>] {
        &self.groups
    }

    pub(crate) fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.by_name.get(name)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.iter().flat_map(|group| group.rows())
    }

    /// The rows of all served versions of a resource's kind. Only built-in kinds have some in two groups.
    pub(crate) fn versions(&self, resource: &Resource) -> Vec<Arc<Resource>> {
        let groups = self.groups.iter().take_while(|group| !group.fixed.is_empty());
        let own = self.by_name.get(resource.gvr.group.as_str()).filter(|group| group.fixed.is_empty());
        let rows = groups.chain(own).flat_map(|group| group.rows());
        rows.filter(|r| r.stored.prefix == resource.stored.prefix).cloned().collect()
    }

    /// The row that serves the stored version of a resource.
    pub(crate) fn stored(&self, group: &str, resource: &str) -> Option<&Arc<Resource>> {
        let group = self.by_name.get(group)?;
        let rows = || group.rows().filter(|r| r.gvr.resource == resource);
        rows()
            .find(|r| r.stored.gvk.group == r.gvr.group && r.stored.gvk.version == r.gvr.version)
            .or_else(|| rows().next())
    }
}

impl Resource {
    pub(crate) fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether a text is its `apiVersion`.
    pub(crate) fn is_of_version(&self, text: &str) -> bool {
        let Gvr { group, version, .. } = &self.gvr;
        if group.is_empty() {
            return text == version;
        }
        text.strip_prefix(group.as_str()).and_then(|rest| rest.strip_prefix('/')) == Some(version)
    }

    pub(crate) fn api_version(&self) -> String {
        let Gvr { group, version, .. } = &self.gvr;
        if group.is_empty() { version.clone() } else { [group, "/", version].concat() }
    }
}

#[cfg(test)]
mod tests {
    use super::version_priority;

    #[test]
    fn versions_are_ordered_as_upstream() {
        let mut versions = ["v1alpha1", "v2", "v1beta2", "foo", "v1", "v10", "v1beta10"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_priority(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta10", "v1beta2", "v1alpha1", "foo"]);
    }
}
