//! `matchConditions` of a webhook of access: expressions about the SubjectAccessReview that all have to be true before it is
//! asked.

use std::sync::{Arc, LazyLock};

use kybern_apimachinery::Value;
use kybern_cel::{CompileError, DeclType, Env, Limits, Program, Type, Value as Cel, Variables};

/// Compiled conditions; none match everything.
#[derive(Default)]
pub struct AccessConditions(Vec<(String, Program)>);

static ENV: LazyLock<Env> = LazyLock::new(|| Env::kubernetes().with_declared("request", Arc::new(spec_type())));

/// `kubernetes.SubjectAccessReviewSpec`.
fn spec_type() -> DeclType {
    let text = DeclType::string;
    let texts = || DeclType::list(text());
    let selector = |name: &str| {
        let requirement = DeclType::object(
            "kubernetes.SelectorRequirement",
            [("key", text()), ("operator", text()), ("values", texts())],
        );
        DeclType::object(name, [("rawSelector", text()), ("requirements", DeclType::list(requirement))])
    };
    let resource = DeclType::object(
        "kubernetes.ResourceAttributes",
        [
            ("namespace", text()),
            ("verb", text()),
            ("group", text()),
            ("version", text()),
            ("resource", text()),
            ("subresource", text()),
            ("name", text()),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
        ],
    );
    let other = DeclType::object("kubernetes.NonResourceAttributes", [("path", text()), ("verb", text())]);
    DeclType::object(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", other),
            ("user", text()),
            ("groups", texts()),
            ("extra", DeclType::map(texts())),
            ("uid", text()),
        ],
    )
}

/// With every field that is a text or about the user, be it empty: expressions need not ask whether it is there.
fn filled(mut spec: Value) -> Value {
    const RESOURCE: [&str; 7] = ["namespace", "verb", "group", "version", "resource", "subresource", "name"];
    let mut fill = |owner: &str, fields: &[&str], empty: Value| {
        let owner = if owner.is_empty() { Some(&mut spec) } else { spec.get_mut(owner) };
        let Some(Value::Object(owner)) = owner else { return };
        for field in fields {
            owner.entry(*field).or_insert_with(|| empty.clone());
        }
    };
    fill("", &["user", "uid"], "".into());
    fill("", &["groups"], Value::Array(Vec::new()));
    fill("", &["extra"], Value::Object(Default::default()));
    fill("resourceAttributes", &RESOURCE, "".into());
    fill("nonResourceAttributes", &["path", "verb"], "".into());
    spec
}

impl AccessConditions {
    /// Compiles one more condition; the error is upstream's detail of an invalid value.
    pub fn add(&mut self, expression: &str) -> Result<(), String> {
        let program = ENV.compile(expression).map_err(|error| match error {
            CompileError::Issues(issues) => format!("compilation failed: {issues}"),
            CompileError::Instantiation(message) => format!("program instantiation failed: {message}"),
        })?;
        if *program.result_type() != Type::Bool {
            return Err(format!("must evaluate to bool but got {}", program.result_type()));
        }
        self.0.push((expression.to_owned(), program));
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all are true of the `spec` of a review, in v1. One that is false decides, whatever cannot be evaluated.
    pub fn match_all(&self, spec: &Value) -> Result<bool, String> {
        if self.is_empty() {
            return Ok(true);
        }
        let spec = filled(spec.clone());
        let variables = Variables::new().with("request", Cel::json(&spec));
        let mut errors = Vec::new();
        for (expression, program) in &self.0 {
            match program.eval(&variables, Limits::default()).result.map(|value| value.as_bool()) {
                Ok(Some(true)) => {}
                Ok(Some(false)) => return Ok(false),
                Ok(None) => errors
                    .push(format!("cel evaluation error: expression '{expression}' eval result type should be bool")),
                Err(error) => {
                    errors.push(format!("cel evaluation error: expression '{expression}' resulted in error: {error}"));
                }
            }
        }
        match errors.len() {
            0 => Ok(true),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_look_at_the_review() {
        let conditions = |texts: &[&str]| {
            let mut conditions = AccessConditions::default();
            texts.iter().for_each(|text| conditions.add(text).unwrap());
            conditions
        };
        let spec = json!({
            "user": "joe", "groups": ["dev"], "extra": {},
            "resourceAttributes": {"namespace": "prod", "verb": "list", "group": "", "version": "v1", "resource": "pods"},
        });
        for (texts, expect) in [
            (&["has(request.resourceAttributes)", "request.resourceAttributes.namespace == 'prod'"][..], Ok(true)),
            (&["!('dev' in request.groups)"], Ok(false)),
            (&["request.nonResourceAttributes.path == '/x'", "request.user == 'eve'"], Ok(false)),
            // What is empty is there.
            (&["request.uid == '' && request.resourceAttributes.name == ''"], Ok(true)),
            (&[], Ok(true)),
        ] {
            assert_eq!(conditions(texts).match_all(&spec), expect, "{texts:?}");
        }
        let error = conditions(&["request.nonResourceAttributes.path == '/x'"]).match_all(&spec).unwrap_err();
        assert!(error.starts_with("cel evaluation error: expression 'request.nonResourceAttributes.path"), "{error}");
        let mut bad = AccessConditions::default();
        assert!(bad.add("request.nothing == 1").unwrap_err().contains("undefined field 'nothing'"));
        assert_eq!(bad.add("request.user"), Err("must evaluate to bool but got string".to_owned()));
    }
}
