//! `matchConditions`: expressions that all have to be true of a request before a webhook is asked.

use std::sync::{Arc, LazyLock};

use kybern_apimachinery::{Value, json};
use kybern_apiserver::access::Authorizer;
use kybern_apiserver::admission::{AdmissionRequest, Equivalent};
use kybern_cel::{
    Budget, CompileError, Env, Limits, MATCH_CONDITIONS_COST_BUDGET, Program, Type, Value as Cel, Variables,
};

use crate::admission::authorization::Answers;
use crate::tree::text;

/// The conditions of one webhook.
pub(super) struct Conditions {
    all: Vec<Condition>,
    /// Whether a webhook whose conditions cannot be evaluated is left out; else the request is refused.
    ignore_failure: bool,
}

struct Condition {
    text: String,
    program: Result<Program, String>,
}

static ENV: LazyLock<Env> = LazyLock::new(|| {
    Env::kubernetes()
        .with_variable("object", Type::Dyn)
        .with_variable("oldObject", Type::Dyn)
        .with_variable("request", Type::Dyn)
        .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"))
        .with_variable("authorizer.requestResource", Type::object("kubernetes.authorization.ResourceCheck"))
});

/// What conditions are evaluated against.
pub(super) struct Inputs<'a> {
    pub(super) object: &'a Value,
    pub(super) old: &'a Value,
    pub(super) request: &'a AdmissionRequest<'a>,
    /// As what the webhook sees the request.
    pub(super) seen: &'a Equivalent,
    pub(super) authorizer: &'a Arc<dyn Authorizer>,
}

impl Conditions {
    pub(super) fn compile(conditions: &[Value], ignore_failure: bool) -> Self {
        let compile = |condition: &Value| {
            let text = text(condition, "expression").to_owned();
            let program = ENV.compile(&text).map_err(|error| match error {
                CompileError::Issues(issues) => format!("compilation error: compilation failed: {issues}"),
                CompileError::Instantiation(message) => format!("compilation error: {message}"),
            });
            Condition { text, program }
        };
        Self { all: conditions.iter().map(compile).collect(), ignore_failure }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the webhook is to be asked. One that is false decides; what cannot be evaluated is an error, unless failures
    /// are to be ignored.
    pub(super) async fn match_all(&self, inputs: &Inputs<'_>) -> Result<bool, String> {
        let request = request_value(inputs.request, inputs.seen);
        let answers = Arc::new(Answers::new(inputs.authorizer.clone(), inputs.request.user.clone()));
        loop {
            let matched = self.evaluate(inputs, &request, &answers);
            if !answers.find_out().await {
                return matched;
            }
        }
    }

    fn evaluate(&self, inputs: &Inputs<'_>, request: &Value, answers: &Arc<Answers>) -> Result<bool, String> {
        let gvr = &inputs.request.resource.gvr;
        let check = answers.clone();
        let (group, resource, sub) = (gvr.group.as_str(), gvr.resource.as_str(), inputs.request.subresource);
        let (namespace, name) = (inputs.request.namespace, inputs.request.name);
        let requested = Cel::resource_check(check.clone(), group, resource, sub, namespace, name);
        let variables = Variables::new()
            .with("object", Cel::json(inputs.object))
            .with("oldObject", Cel::json(inputs.old))
            .with("request", Cel::json(request))
            .with("authorizer", Cel::authorizer(check))
            .with("authorizer.requestResource", requested);
        let mut budget = Budget::new(MATCH_CONDITIONS_COST_BUDGET);
        let mut errors = Vec::new();
        for condition in &self.all {
            let program = match &condition.program {
                Ok(program) => program,
                Err(error) => {
                    errors.push(error.clone());
                    continue;
                }
            };
            let evaluation = program.eval(&variables, Limits::default());
            if budget.spend(evaluation.cost).is_err() {
                let text =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                errors.push(text.to_owned());
                break;
            }
            match evaluation.result {
                Ok(value) if value.as_bool() == Some(false) => return Ok(false),
                Ok(value) if value.as_bool() == Some(true) => {}
                Ok(_) => errors.push(format!("expression '{}' did not evaluate to bool", condition.text)),
                Err(error) => errors.push(format!("expression '{}' resulted in error: {error}", condition.text)),
            }
        }
        match (errors.len(), self.ignore_failure) {
            (0, _) => Ok(true),
            (_, true) => Ok(false),
            (1, false) => Err(errors.remove(0)),
            (_, false) => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

/// The variable `request`: everything is there, be it empty.
fn request_value(request: &AdmissionRequest<'_>, seen: &Equivalent) -> Value {
    let user = request.user;
    let kind =
        |kind: &kybern_apimachinery::Gvk| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let resource =
        |of: &kybern_apimachinery::Gvr| json!({"group": of.group, "version": of.version, "resource": of.resource});
    json!({
        "kind": kind(&seen.kind), "resource": resource(&seen.resource), "subResource": request.subresource,
        "requestKind": kind(request.kind), "requestResource": resource(&request.resource.gvr),
        "requestSubResource": request.subresource, "name": request.name, "namespace": request.namespace,
        "operation": request.operation.as_str(), "dryRun": request.dry_run, "options": request.options,
        "userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra},
    })
}
