//! The built-in kinds and resources of v1.35, parsed once from the tables that `cargo xtask schema` writes.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use kybern_apimachinery::Gvk;

use crate::table;
use crate::types::{KindType, Schema, StructId};

const TYPES: &str = include_str!("../table/v1.35.txt");
const DEFAULTS: &str = include_str!("../table/defaults.txt");
const RESOURCES: &str = include_str!("../table/resources-v1.35.txt");

/// Kinds that upstream registers with every group and version.
const OPTIONS: [&str; 7] =
    ["CreateOptions", "DeleteOptions", "GetOptions", "ListOptions", "PatchOptions", "UpdateOptions", "WatchEvent"];

/// Every built-in kind and resource.
#[derive(Debug)]
pub struct Builtin {
    schema: Arc<Schema>,
    kinds: Vec<(Gvk, StructId)>,
    by_gvk: HashMap<Gvk, StructId>,
    resources: Vec<ResourceRow>,
}

/// A resource that a group and version serves, as discovery shows it.
#[derive(Debug)]
pub struct ResourceRow {
    pub group: &'static str,
    pub version: &'static str,
    /// The plural: `deployments`.
    pub resource: &'static str,
    pub kind: &'static str,
    pub singular: &'static str,
    pub namespaced: bool,
    pub verbs: Vec<&'static str>,
    pub short_names: Vec<&'static str>,
    pub categories: Vec<&'static str>,
    pub subresources: Vec<SubresourceRow>,
}

impl ResourceRow {
    pub fn gvk(&self) -> Gvk {
        Gvk::new(self.group, self.version, self.kind)
    }
}

/// A subresource: `status`, `scale`, `exec`.
#[derive(Debug)]
pub struct SubresourceRow {
    pub name: &'static str,
    /// The kind of its body: `autoscaling/v1, Kind=Scale`; for `connect` the kind of its options.
    pub kind: Gvk,
    pub verbs: Vec<&'static str>,
}

/// The built-in kinds; parsed at the first call.
pub fn builtin() -> &'static Builtin {
    static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| {
        // The tables are compiled in and tested, so they parse.
        Builtin::parse(&[TYPES]).unwrap_or_else(|error| panic!("{error}"))
    });
    &BUILTIN
}

impl Builtin {
    fn parse(tables: &[&str]) -> Result<Self, table::TableError> {
        let (mut schema, kinds) = table::parse(tables)?;
        table::parse_defaults(&mut schema, DEFAULTS)?;
        let by_gvk = kinds.iter().cloned().collect();
        Ok(Self { schema: Arc::new(schema), kinds, by_gvk, resources: parse_resources(RESOURCES)? })
    }

    /// The built-in kinds and those of more tables in the same format: for fixtures of retired API versions.
    pub fn with_tables(more: &[&str]) -> Result<Self, table::TableError> {
        let tables: Vec<&str> = std::iter::once(TYPES).chain(more.iter().copied()).collect();
        Self::parse(&tables)
    }

    /// The shape of a kind; `None` for one that is not built in. The options of requests are kinds of every group and
    /// version, as they are upstream.
    pub fn kind(&self, gvk: &Gvk) -> Option<KindType> {
        let root = self.by_gvk.get(gvk).or_else(|| {
            let everywhere = OPTIONS.contains(&gvk.kind.as_str());
            everywhere.then(|| self.by_gvk.get(&Gvk::new("", "v1", gvk.kind.as_str()))).flatten()
        })?;
        Some(KindType { schema: self.schema.clone(), root: *root, gvk: gvk.clone() })
    }

    /// All kinds, lists and options among them.
    pub fn kinds(&self) -> impl Iterator<Item = &Gvk> {
        self.kinds.iter().map(|(gvk, _)| gvk)
    }

    /// Every struct of every built-in kind.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// A struct by its OpenAPI name: `io.k8s.api.core.v1.PodSpec`.
    pub fn structure(&self, name: &str) -> Option<StructId> {
        let index = self.schema.structs.iter().position(|s| s.name.as_ref() == name)?;
        u32::try_from(index).ok().map(StructId)
    }

    /// What each group and version serves, in discovery's order.
    pub fn resources(&self) -> &[ResourceRow] {
        &self.resources
    }
}

fn parse_resources(text: &'static str) -> Result<Vec<ResourceRow>, table::TableError> {
    let mut rows: Vec<ResourceRow> = Vec::new();
    for (line, text) in text.lines().enumerate().filter(|(_, l)| !l.starts_with('#')) {
        let failed = |problem: &str| table::TableError { line: line + 1, problem: problem.to_owned() };
        let split = |list: &'static str| list.split(',').collect();
        let group = |name: &'static str| if name == "core" { "" } else { name };
        let words: Vec<&'static str> = text.split(' ').collect();
        match words[..] {
            [name, in_group, version, kind, verbs] => {
                let name = name.strip_prefix('/').ok_or_else(|| failed("a subresource starts with a slash"))?;
                let parent = rows.last_mut().ok_or_else(|| failed("a subresource before any resource"))?;
                let kind = Gvk::new(group(in_group), version, kind);
                parent.subresources.push(SubresourceRow { name, kind, verbs: split(verbs) });
            }
            [in_group, version, resource, kind, singular, scope, verbs, ref rest @ ..] => {
                let attribute =
                    |key: &str| rest.iter().find_map(|w| w.strip_prefix(key)).map(split).unwrap_or_default();
                rows.push(ResourceRow {
                    group: group(in_group),
                    version,
                    resource,
                    kind,
                    singular,
                    namespaced: scope == "Namespaced",
                    verbs: split(verbs),
                    short_names: attribute("short="),
                    categories: attribute("categories="),
                    subresources: Vec::new(),
                });
            }
            _ => return Err(failed("neither a resource nor a subresource")),
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ListKind, Presence, ProtoTag, Type};

    #[test]
    fn facts_of_pods() {
        let pod = builtin().kind(&Gvk::new("", "v1", "Pod")).unwrap();
        let Type::Struct(spec) = pod.root().field("spec").unwrap().ty else { panic!("spec is a struct") };
        let spec = pod.schema.get(spec);
        assert_eq!(spec.name.as_ref(), "io.k8s.api.core.v1.PodSpec");
        let containers = spec.field("containers").unwrap();
        assert!(containers.required && containers.patch.merge);
        let Type::List(list) = &containers.ty else { panic!("containers is a list") };
        assert_eq!(list.kind, ListKind::Map(vec!["name".into()]));
        assert_eq!(spec.field("nodeName").unwrap().presence, Presence::OmitEmpty);
        assert_eq!(spec.field("priority").unwrap().presence, Presence::Pointer);
        let Type::List(volumes) = &spec.field("volumes").unwrap().ty else { panic!("volumes is a list") };
        let Type::Struct(volume) = volumes.item else { panic!("a volume is a struct") };
        assert_eq!(Some(pod.schema.get(volume).field("emptyDir").unwrap().proto), ProtoTag::new(&[2, 2]));
    }

    #[test]
    fn options_are_kinds_of_every_group() {
        let options = builtin().kind(&Gvk::new("apps", "v1", "DeleteOptions")).unwrap();
        assert_eq!(options.root().name.as_ref(), "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
        assert!(builtin().kind(&Gvk::new("apps", "v1", "Status")).is_none());
        assert!(builtin().kind(&Gvk::new("meta.k8s.io", "v1beta1", "Table")).is_some());
    }

    #[test]
    fn every_resource_has_its_kind() {
        for row in builtin().resources() {
            assert!(builtin().kind(&row.gvk()).is_some(), "{}", row.gvk());
            for sub in &row.subresources {
                assert!(builtin().kind(&sub.kind).is_some(), "{}/{}: {}", row.resource, sub.name, sub.kind);
            }
        }
        let deployments = builtin().resources().iter().find(|r| r.resource == "deployments").unwrap();
        assert_eq!(deployments.short_names, ["deploy"]);
        assert_eq!(deployments.subresources[0].kind, Gvk::new("autoscaling", "v1", "Scale"));
    }
}
