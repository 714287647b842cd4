//! What the expressions of admission policies and match conditions may use: upstream's `admission/plugin/cel`.

use std::sync::{Arc, LazyLock};

use kybern_apimachinery::Value;
use kybern_cel::{Env, Type};

use super::expression::Variables;
use crate::tree::{has, list, text};

/// Which variables there are beside those that always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub params: bool,
    pub authorizer: bool,
    /// `Object{}`, `JSONPatch{}` and what goes with them.
    pub patches: bool,
}

/// What the expressions of a policy are compiled in.
pub(crate) struct Environments {
    pub variables: Variables,
    /// Of all expressions but those that have one of their own below.
    pub all: Env,
    params: bool,
}

impl Environments {
    /// Of a policy's spec: with its parameters and its `variables`.
    pub(crate) fn of(spec: &Value) -> Self {
        let params = has(spec, "paramKind");
        let specs = list(spec, "variables").iter().map(|v| (text(v, "name"), text(v, "expression")));
        let with_authorizer = environment(Options { params, authorizer: true, patches: false });
        let (variables, all) = Variables::compile(with_authorizer, specs);
        Self { variables, all, params }
    }

    /// Of messages, which are not to depend on what others may do, except by variables.
    pub(crate) fn messages(&self) -> Env {
        self.with(Options { params: self.params, authorizer: false, patches: false })
    }

    /// Of mutations.
    pub(crate) fn patches(&self) -> Env {
        self.with(Options { params: self.params, authorizer: true, patches: true })
    }

    fn with(&self, options: Options) -> Env {
        let mut env = environment(options);
        for (name, of) in self.variables.types() {
            env = env.with_lazy_field("variables", name, of);
        }
        env
    }
}

/// The environment with these variables, and `variables` without fields.
fn environment(options: Options) -> Env {
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
        .with_declared("namespaceObject", Arc::new(kybern_cel::admission::namespace_type()))
        .with_declared("request", Arc::new(kybern_cel::admission::request_type()));
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
