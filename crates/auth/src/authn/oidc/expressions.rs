//! Expressions about a token's claims and about the user that they make (`apiserver/pkg/authentication/cel`).

use std::sync::{Arc, LazyLock};

use kybern_apimachinery::Value;
use kybern_apiserver::access::UserInfo;
use kybern_cel::{CompileError, DeclType, Env, Limits, Program, Type, Value as Cel, Variables, selections, unescape};
use serde_json::{Map, json};

/// What an expression is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Claims,
    User,
}

static CLAIMS: LazyLock<Env> =
    LazyLock::new(|| Env::kubernetes().with_declared("claims", Arc::new(DeclType::map(DeclType::dynamic()))));
static USER: LazyLock<Env> = LazyLock::new(|| Env::kubernetes().with_declared("user", Arc::new(user_type())));

/// `kubernetes.UserInfo`.
fn user_type() -> DeclType {
    let text = DeclType::string;
    let texts = || DeclType::list(text());
    DeclType::object(
        "kubernetes.UserInfo",
        [("username", text()), ("uid", text()), ("groups", texts()), ("extra", DeclType::map(texts()))],
    )
}

/// A compiled expression.
pub(super) struct Expression {
    text: String,
    about: About,
    program: Program,
    /// Names that it uses for others which are no identifiers: `a__dash__b` for `a-b`.
    escaped: Vec<(String, String)>,
}

impl Expression {
    /// Any type will do unless a rule is asked for. The error is upstream's detail of an invalid value.
    pub(super) fn compile(about: About, text: &str, rule: bool) -> Result<Self, String> {
        let env = if about == About::Claims { &CLAIMS } else { &USER };
        let program = env.compile(text).map_err(|error| match error {
            CompileError::Issues(issues) => format!("compilation failed: {issues}"),
            CompileError::Instantiation(message) => format!("program instantiation failed: {message}"),
        })?;
        if rule && *program.result_type() != Type::Bool {
            return Err("must evaluate to bool".to_owned());
        }
        let escaped = selections(text).into_iter().filter_map(|selected| {
            let name = unescape(&selected.field)?.into_owned();
            (name != selected.field).then_some((selected.field, name))
        });
        Ok(Self { text: text.to_owned(), about, program, escaped: escaped.collect() })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Evaluates, and lets `then` read the result.
    fn eval<T>(&self, value: &Value, then: impl FnOnce(Cel<'_>) -> T) -> Result<T, String> {
        let renamed = (!self.escaped.is_empty()).then(|| with_escaped(value, &self.escaped));
        let name = if self.about == About::Claims { "claims" } else { "user" };
        let variables = Variables::new().with(name, Cel::json(renamed.as_ref().unwrap_or(value)));
        let result = self.program.eval(&variables, Limits::default()).result;
        result.map(then).map_err(|error| format!("expression '{}' resulted in error: {error}", self.text))
    }

    /// A string; `None` where it is none.
    pub(super) fn string(&self, value: &Value) -> Result<Option<String>, String> {
        self.eval(value, |result| result.as_str().map(str::to_owned))
    }

    /// A string or a list of strings, without empty ones. Null is no string.
    pub(super) fn strings(&self, value: &Value) -> Result<Vec<String>, String> {
        let all = self.eval(value, |result| match &result {
            Cel::Null => Some(Vec::new()),
            Cel::List(list) => list.iter().map(|one| one.ok()?.as_str().map(str::to_owned)).collect(),
            other => other.as_str().map(|one| vec![one.to_owned()]),
        })?;
        let mut all = all.ok_or("expression must return a string or a list of strings")?;
        all.retain(|one| !one.is_empty());
        Ok(all)
    }

    /// Whether a rule holds.
    pub(super) fn holds(&self, value: &Value, message: &str) -> Result<(), String> {
        match self.eval(value, |result| result.as_bool())? {
            Some(true) => Ok(()),
            Some(false) => Err(format!("validation expression '{}' failed: {message}", self.text)),
            None => Err("validation expression must return a boolean".to_owned()),
        }
    }
}

/// The same with the escaped names of fields beside their own.
fn with_escaped(value: &Value, names: &[(String, String)]) -> Value {
    match value {
        Value::Array(list) => list.iter().map(|one| with_escaped(one, names)).collect(),
        Value::Object(fields) => {
            let mut all: Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), with_escaped(value, names))).collect();
            for (escaped, name) in names {
                if let Some(value) = all.get(name).cloned() {
                    all.insert(escaped.clone(), value);
                }
            }
            Value::Object(all)
        }
        other => other.clone(),
    }
}

/// What expressions see of a user.
pub(super) fn user_value(user: &UserInfo) -> Value {
    json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(text: &str) -> Expression {
        Expression::compile(About::Claims, text, false).unwrap()
    }

    #[test]
    fn claims_become_strings() {
        let token =
            json!({"sub": "a", "roles": ["x", "", "y"], "n": 7, "cluster-admin": true, "inner": {"a.b": "deep"}});
        assert_eq!(claims("'p:' + claims.sub").string(&token), Ok(Some("p:a".to_owned())));
        assert_eq!(claims("claims.n").string(&token), Ok(None));
        assert_eq!(claims("claims.roles").strings(&token), Ok(vec!["x".to_owned(), "y".to_owned()]));
        assert_eq!(claims("claims.sub").strings(&token), Ok(vec!["a".to_owned()]));
        assert_eq!(claims("claims.?none.orValue(null)").strings(&token), Ok(Vec::new()));
        assert!(claims("claims.n").strings(&token).unwrap_err().contains("must return a string or a list"));
        assert!(claims("[1, 2]").strings(&token).is_err());
        let missing = claims("claims.none").string(&token).unwrap_err();
        assert_eq!(missing, "expression 'claims.none' resulted in error: no such key: none");
        // Names that are no identifiers are written as fields of custom resources are.
        assert_eq!(claims("string(claims.cluster__dash__admin)").string(&token), Ok(Some("true".to_owned())));
        assert_eq!(claims("claims.inner.a__dot__b").string(&token), Ok(Some("deep".to_owned())));
    }

    #[test]
    fn rules_hold_or_do_not() {
        let rule = |about, text: &str| Expression::compile(about, text, true);
        let user = user_value(&UserInfo { name: "system:x".into(), groups: vec!["g".into()], ..UserInfo::default() });
        let no_system = rule(About::User, "!user.username.startsWith('system:')").unwrap();
        let told = "validation expression '!user.username.startsWith('system:')' failed: no system names";
        assert_eq!(no_system.holds(&user, "no system names"), Err(told.to_owned()));
        let quiet = rule(About::User, "user.groups.all(g, !g.startsWith('system:')) && user.extra.size() == 0");
        assert_eq!(quiet.unwrap().holds(&user, ""), Ok(()));
        assert_eq!(rule(About::Claims, "claims.ok").err().unwrap(), "must evaluate to bool");
        assert!(
            rule(About::User, "user.nothing == 'a'").err().unwrap().starts_with("compilation failed: ERROR: <input>")
        );
        assert!(rule(About::User, "claims.a == 'a'").is_err(), "each has its own variable");
    }
}
