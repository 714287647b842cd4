//! The operations of a resource, in neither notation yet.

use kybern_apimachinery::{Gvk, Value, json};

use super::{Served, ServedSubresource};
use crate::builtin;
use crate::types::{ListType, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A path and what can be done there.
pub(super) struct Path {
    pub(super) path: String,
    /// Parameters of all operations.
    pub(super) parameters: Vec<Parameter>,
    pub(super) operations: Vec<Operation>,
}

pub(super) struct Parameter {
    pub(super) name: String,
    /// `path` or `query`.
    pub(super) place: &'static str,
    pub(super) ty: &'static str,
}

pub(super) struct Operation {
    /// `get`, `put`, `post`, `delete`, `patch`.
    pub(super) method: &'static str,
    pub(super) id: String,
    /// `x-kubernetes-action`; empty for none.
    pub(super) action: &'static str,
    pub(super) gvk: Option<Gvk>,
    pub(super) tag: String,
    pub(super) parameters: Vec<Parameter>,
    /// The body's definition, and whether there must be one.
    pub(super) body: Option<(String, bool)>,
    pub(super) consumes: &'static [&'static str],
    pub(super) produces: &'static [&'static str],
    /// Codes with a short description; all but the last, 401, answer with this definition.
    pub(super) responses: &'static [(&'static str, &'static str)],
    /// The answer's definition; empty for a string.
    pub(super) answer: String,
}

const ANY: &[&str] = &["*/*"];
const BODIES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const STREAMS: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Custom resources have no strategic merge.
const CUSTOM_PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];

const UNAUTHORIZED: (&str, &str) = ("401", "Unauthorized");
const READ: &[(&str, &str)] = &[("200", "OK"), UNAUTHORIZED];
const WRITE: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), UNAUTHORIZED];
const CREATE: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted"), UNAUTHORIZED];
const DELETE: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted"), UNAUTHORIZED];

const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITES: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETES: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];

fn query(parameters: &[(&str, &'static str)]) -> Vec<Parameter> {
    parameters.iter().map(|(name, ty)| Parameter { name: (*name).to_owned(), place: "query", ty }).collect()
}

fn in_path(names: &[&str]) -> Vec<Parameter> {
    names.iter().map(|name| Parameter { name: (*name).to_owned(), place: "path", ty: "string" }).collect()
}

/// `apps` and `v1` as operation ids have them: `AppsV1`, `CoreV1`, `RbacAuthorizationV1`.
fn camel(served: &Served) -> String {
    let group = served.gvk.group.trim_end_matches(".k8s.io");
    let words = if group.is_empty() { "core" } else { group }.split(['.', '-']).chain([served.gvk.version.as_str()]);
    words.map(capitalized).collect()
}

/// `core_v1`, `rbacAuthorization_v1`.
fn tag(served: &Served) -> String {
    let group = served.gvk.group.trim_end_matches(".k8s.io");
    let mut words = if group.is_empty() { "core" } else { group }.split(['.', '-']);
    let first = words.next().unwrap_or_default();
    format!("{first}{}_{}", words.map(capitalized).collect::<String>(), served.gvk.version)
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// The paths of a resource and its subresources.
pub(super) fn of(served: &Served) -> Vec<Path> {
    let gvr_root = match served.gvk.group.as_str() {
        "" => format!("/api/{}", served.gvk.version),
        group => format!("/apis/{group}/{}", served.gvk.version),
    };
    let (scope, namespaces) = if served.namespaced { ("Namespaced", "/namespaces/{namespace}") } else { ("", "") };
    let namespace: &[&str] = if served.namespaced { &["namespace"] } else { &[] };
    let collection = format!("{gvr_root}{namespaces}/{}", served.resource);
    let build = Build { served, camel: camel(served), scope };
    let has = |verb: &str| served.verbs.iter().any(|v| v == verb);
    let mut paths = Vec::new();
    let mut add = |path: String, names: &[&str], operations: Vec<Operation>| {
        if !operations.is_empty() {
            let parameters = in_path(names).into_iter().chain(query(&[("pretty", "string")])).collect();
            paths.push(Path { path, parameters, operations });
        }
    };

    let mut operations = Vec::new();
    operations.extend(has("list").then(|| build.list("")));
    operations.extend(has("create").then(|| build.create()));
    operations.extend(has("deletecollection").then(|| build.delete_collection()));
    add(collection.clone(), namespace, operations);
    if served.namespaced && has("list") {
        let everywhere = Build { served, camel: build.camel.clone(), scope: "" }.list("ForAllNamespaces");
        add(format!("{gvr_root}/{}", served.resource), &[], vec![everywhere]);
    }
    let named: Vec<&str> = ["name"].into_iter().chain(namespace.iter().copied()).collect();
    let mut operations = Vec::new();
    operations.extend(has("get").then(|| build.get(&served.gvk, &served.definition, "")));
    operations.extend(has("update").then(|| build.put(&served.gvk, &served.definition, "")));
    operations.extend(has("patch").then(|| build.patch(&served.gvk, &served.definition, "")));
    operations.extend(has("delete").then(|| build.delete()));
    let one = format!("{collection}/{{name}}");
    add(one.clone(), &named, operations);
    for sub in &served.subresources {
        add(format!("{one}/{}", sub.name), &named, build.subresource(sub));
    }
    paths
}

struct Build<'a> {
    served: &'a Served,
    camel: String,
    /// `Namespaced` or nothing.
    scope: &'static str,
}

impl Build<'_> {
    fn operation(&self, method: &'static str, action: &'static str, id: String, gvk: &Gvk, answer: &str) -> Operation {
        Operation {
            method,
            id,
            action,
            gvk: Some(gvk.clone()),
            tag: tag(self.served),
            parameters: Vec::new(),
            body: None,
            consumes: ANY,
            produces: BODIES,
            responses: READ,
            answer: answer.to_owned(),
        }
    }

    /// `readAppsV1NamespacedDeploymentStatus`.
    fn id(&self, verb: &str, rest: &str) -> String {
        format!("{verb}{}{}{}{rest}", self.camel, self.scope, self.served.gvk.kind)
    }

    fn get(&self, gvk: &Gvk, definition: &str, sub: &str) -> Operation {
        self.operation("get", "get", self.id("read", sub), gvk, definition)
    }

    fn list(&self, rest: &str) -> Operation {
        Operation {
            parameters: query(LIST),
            produces: STREAMS,
            ..self.operation("get", "list", self.id("list", rest), &self.served.gvk, &self.served.list_definition)
        }
    }

    fn create(&self) -> Operation {
        Operation {
            parameters: query(WRITES),
            body: Some((self.served.definition.clone(), true)),
            responses: CREATE,
            ..self.operation("post", "post", self.id("create", ""), &self.served.gvk, &self.served.definition)
        }
    }

    fn put(&self, gvk: &Gvk, definition: &str, sub: &str) -> Operation {
        Operation {
            parameters: query(WRITES),
            body: Some((definition.to_owned(), true)),
            responses: WRITE,
            ..self.operation("put", "put", self.id("replace", sub), gvk, definition)
        }
    }

    fn patch(&self, gvk: &Gvk, definition: &str, sub: &str) -> Operation {
        Operation {
            parameters: query(PATCH),
            body: Some((format!("{META}.Patch"), true)),
            consumes: if self.served.schema.is_some() { CUSTOM_PATCHES } else { PATCHES },
            responses: WRITE,
            ..self.operation("patch", "patch", self.id("patch", sub), gvk, definition)
        }
    }

    fn delete(&self) -> Operation {
        Operation {
            parameters: query(DELETES),
            body: Some((format!("{META}.DeleteOptions"), false)),
            responses: DELETE,
            ..self.operation("delete", "delete", self.id("delete", ""), &self.served.gvk, &format!("{META}.Status"))
        }
    }

    fn delete_collection(&self) -> Operation {
        let selecting = LIST.iter().filter(|(name, _)| !matches!(*name, "allowWatchBookmarks" | "watch"));
        let parameters: Vec<_> = selecting.chain(DELETES).copied().collect();
        let id = format!("delete{}Collection{}{}", self.camel, self.scope, self.served.gvk.kind);
        Operation {
            parameters: query(&parameters),
            body: Some((format!("{META}.DeleteOptions"), false)),
            ..self.operation("delete", "deletecollection", id, &self.served.gvk, &format!("{META}.Status"))
        }
    }

    fn subresource(&self, sub: &ServedSubresource) -> Vec<Operation> {
        let name = capitalized(&sub.name);
        let has = |verb: &str| sub.verbs.iter().any(|v| v == verb);
        // Connections have options for a kind.
        if sub.gvk.kind.ends_with("Options") {
            let methods =
                [("get", "get"), ("create", "post"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];
            let methods = methods.into_iter().filter(|(verb, _)| has(verb));
            let connect = |(_, method): (&str, &'static str)| Operation {
                parameters: options(&sub.gvk),
                produces: ANY,
                ..self.operation(
                    method,
                    "connect",
                    format!("connect{}{}{}{}{name}", self.camel, capitalized(method), self.scope, self.served.gvk.kind),
                    &sub.gvk,
                    "",
                )
            };
            return methods.map(connect).collect();
        }
        let mut operations = Vec::new();
        if has("get") {
            let mut get = self.get(&sub.gvk, &sub.definition, &name);
            if sub.name == "log" {
                get.parameters = options(&Gvk::new("", "v1", "PodLogOptions"));
                get.answer.clear();
            }
            operations.push(get);
        }
        operations.extend(has("update").then(|| self.put(&sub.gvk, &sub.definition, &name)));
        operations.extend(has("patch").then(|| self.patch(&sub.gvk, &sub.definition, &name)));
        operations.extend(has("create").then(|| Operation {
            parameters: query(WRITES),
            body: Some((sub.definition.clone(), true)),
            responses: CREATE,
            ..self.operation("post", "post", self.id("create", &name), &sub.gvk, &sub.definition)
        }));
        operations
    }
}

/// The query parameters that a kind of options holds.
fn options(gvk: &Gvk) -> Vec<Parameter> {
    let Some(kind) = builtin().kind(gvk) else { return Vec::new() };
    let own = kind.root().fields.iter().filter(|f| !matches!(f.name.as_ref(), "apiVersion" | "kind"));
    own.map(|f| Parameter { name: f.name.to_string(), place: "query", ty: simple(&f.ty) }).collect()
}

fn simple(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "boolean",
        Type::Int32 | Type::Int64 => "integer",
        Type::List(list) => {
            let ListType { item, .. } = &**list;
            simple(item)
        }
        _ => "string",
    }
}

/// The extensions that name action and kind.
pub(super) fn extensions(operation: &Operation) -> Vec<(&'static str, Value)> {
    let mut extensions = Vec::new();
    if !operation.action.is_empty() {
        extensions.push(("x-kubernetes-action", operation.action.into()));
    }
    if let Some(gvk) = &operation.gvk {
        let gvk = json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind});
        extensions.push(("x-kubernetes-group-version-kind", gvk));
    }
    extensions
}
