//! The operations of a resource, in neither notation yet.

use kybern_apimachinery::{GroupVersion, Gvk, Value, json};

use super::{Served, ServedSubresource};
use crate::builtin;
use crate::types::{Field, ListType, Type};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A path and what can be done there.
pub(super) struct Path {
    pub(super) path: String,
    /// Parameters of all operations.
    pub(super) parameters: Vec<Parameter>,
    pub(super) operations: Vec<Operation>,
}

#[derive(Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    /// `path` or `query`.
    pub(super) place: &'static str,
    pub(super) ty: &'static str,
}

#[derive(Clone)]
pub(super) struct Operation {
    /// `get`, `put`, `post`, `delete`, `patch`; `head` and `options` of proxies.
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
pub(super) const BODIES: &[&str] = &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
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
pub(super) const READ: &[(&str, &str)] = &[("200", "OK"), UNAUTHORIZED];
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

fn words(group: &str) -> std::str::Split<'_, [char; 2]> {
    let group = group.trim_end_matches(".k8s.io");
    if group.is_empty() { "core" } else { group }.split(['.', '-'])
}

/// `apps` and `v1` as operation ids have them: `AppsV1`, `CoreV1`, `RbacAuthorizationV1`.
pub(super) fn camel(group: &str, version: &str) -> String {
    words(group).chain([version]).map(capitalized).collect()
}

/// `core`, `rbacAuthorization`.
pub(super) fn group_tag(group: &str) -> String {
    let mut words = words(group);
    let first = words.next().unwrap_or_default();
    format!("{first}{}", words.map(capitalized).collect::<String>())
}

/// `core_v1`, `rbacAuthorization_v1`.
pub(super) fn tag(of: &GroupVersion) -> String {
    format!("{}_{}", group_tag(&of.group), of.version)
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
    let build = Build { served, camel: camel(&served.gvk.group, &served.gvk.version), scope };
    let has = |verb: &str| served.verbs.iter().any(|v| v == verb);
    let mut paths = Vec::new();
    let mut add = |path: String, names: &[&str], operations: Vec<Operation>| {
        if let Some(first) = operations.first() {
            // What another server answers is not made readable.
            let pretty: &[(&str, &str)] = if first.action == "connect" { &[] } else { &[("pretty", "string")] };
            let parameters = in_path(names).into_iter().chain(query(pretty)).collect();
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
        let operations = build.subresource(sub);
        if is_proxy(sub) {
            let names: Vec<&str> = named.iter().copied().chain(["path"]).collect();
            let deeper = |o: &Operation| Operation { id: format!("{}WithPath", o.id), ..o.clone() };
            add(format!("{one}/{}/{{path}}", sub.name), &names, operations.iter().map(deeper).collect());
        }
        add(format!("{one}/{}", sub.name), &named, operations);
    }
    // Deprecated, and never offered for custom resources.
    if has("watch") && served.schema.is_none() {
        let one = format!("{gvr_root}/watch{namespaces}/{}", served.resource);
        paths.push(build.watch(one.clone(), namespace, "watchlist", "List"));
        paths.push(build.watch(format!("{one}/{{name}}"), &named, "watch", ""));
        if served.namespaced {
            let everywhere = Build { served, camel: build.camel.clone(), scope: "" };
            let path = format!("{gvr_root}/watch/{}", served.resource);
            paths.push(everywhere.watch(path, &[], "watchlist", "ListForAllNamespaces"));
        }
    }
    paths
}

/// What leads to another server, with any method and any path.
fn is_proxy(sub: &ServedSubresource) -> bool {
    sub.gvk.kind.ends_with("ProxyOptions")
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
            tag: tag(&self.served.group_version()),
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

    /// The path of a watch in the older form: its parameters are those of the path.
    fn watch(&self, path: String, names: &[&str], action: &'static str, rest: &str) -> Path {
        let answer = format!("{META}.WatchEvent");
        let watch = Operation {
            produces: STREAMS,
            ..self.operation("get", action, self.id("watch", rest), &self.served.gvk, &answer)
        };
        let parameters = in_path(names).into_iter().chain(query(LIST)).chain(query(&[("pretty", "string")]));
        Path { path, parameters: parameters.collect(), operations: vec![watch] }
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
            let any = [("head", "head"), ("options", "options")].into_iter().filter(|_| is_proxy(sub));
            let methods = methods.into_iter().filter(|(verb, _)| has(verb)).chain(any);
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
    // Of times upstream makes no parameter.
    let is_parameter = |f: &&Field| !matches!(f.name.as_ref(), "apiVersion" | "kind") && f.ty != Type::Time;
    let own = kind.root().fields.iter().filter(is_parameter);
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
