//! What the expressions of admission policies and match conditions may use: upstream's `admission/plugin/cel`.

use std::sync::{Arc, LazyLock};

use kybern_cel::{DeclType, Env, Type};

/// Which variables there are beside those that always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub params: bool,
    pub authorizer: bool,
    /// `Object{}`, `JSONPatch{}` and what goes with them.
    pub patches: bool,
}

/// The environment with these variables, and `variables` without fields.
pub(crate) fn environment(options: Options) -> Env {
    stateless(options).clone().with_lazy("variables", [])
}

/// The environment with these variables.
pub(crate) fn stateless(options: Options) -> &'static Env {
    static ENVIRONMENTS: LazyLock<Vec<Env>> = LazyLock::new(|| {
        (0..8)
            .map(|bits| build(Options { params: bits & 1 > 0, authorizer: bits & 2 > 0, patches: bits & 4 > 0 }))
            .collect()
    });
    let index = usize::from(options.params) + 2 * usize::from(options.authorizer) + 4 * usize::from(options.patches);
    &ENVIRONMENTS[index]
}

fn build(options: Options) -> Env {
    let mut env = Env::kubernetes()
        .with_variable("object", Type::Dyn)
        .with_variable("oldObject", Type::Dyn)
        .with_declared("namespaceObject", Arc::new(namespace_type()))
        .with_declared("request", Arc::new(request_type()));
    if options.params {
        env = env.with_variable("params", Type::Dyn);
    }
    if options.authorizer {
        env = env
            .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"))
            .with_variable("authorizer.requestResource", Type::object("kubernetes.authorization.ResourceCheck"));
    }
    if options.patches {
        env = env.with_mutation();
    }
    env
}

fn texts() -> DeclType {
    DeclType::list(DeclType::string())
}

fn request_type() -> DeclType {
    let text = DeclType::string;
    let triple = |name: &str, last: &'static str| {
        DeclType::object(name, [("group", text()), ("version", text()), (last, text())])
    };
    let kind = || triple("kubernetes.GroupVersionKind", "kind");
    let resource = || triple("kubernetes.GroupVersionResource", "resource");
    let user = DeclType::object(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", texts()), ("extra", DeclType::map(texts()))],
    );
    DeclType::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", DeclType::bool()),
            ("options", DeclType::dynamic()),
        ],
    )
}

fn namespace_type() -> DeclType {
    let text = DeclType::string;
    let labels = || DeclType::map(DeclType::string());
    let condition = DeclType::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", DeclType::timestamp()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let metadata = DeclType::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", text()),
            ("creationTimestamp", DeclType::timestamp()),
            ("deletionGracePeriodSeconds", DeclType::int()),
            ("deletionTimestamp", DeclType::timestamp()),
            ("generation", DeclType::int()),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    let status =
        DeclType::object("kubernetes.NamespaceStatus", [("conditions", DeclType::list(condition)), ("phase", text())]);
    let spec = DeclType::object("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    DeclType::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
}
