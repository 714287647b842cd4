//! `authorizer`: may the user of a request, or a service account, do something?

use std::fmt;
use std::sync::Arc;

use kybern_apimachinery::validation;

use crate::decl::Functions;
use crate::error::EvalError;
use crate::opaque::Opaque;
use crate::value::Value;

use super::{of, opaque, str};

/// Answers the checks of expressions, for the user of the request or a service account.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, check: &Check<'_>) -> Decision;
}

/// What an expression asks.
#[derive(Debug)]
pub struct Check<'c> {
    /// Namespace and name; else it is about the user of the request.
    pub service_account: Option<(&'c str, &'c str)>,
    pub verb: &'c str,
    pub what: What<'c>,
}

#[derive(Debug)]
pub enum What<'c> {
    Path(&'c str),
    Resource(&'c ResourceCheck),
}

#[derive(Clone, Debug, Default)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
    pub error: Option<String>,
}

/// The value of the variable `authorizer`.
#[derive(Clone)]
pub struct Authorization {
    authorizer: Arc<dyn Authorizer>,
    service_account: Option<(String, String)>,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("service_account", &self.service_account).finish_non_exhaustive()
    }
}

impl Authorization {
    fn check(&self, verb: &str, what: What<'_>) -> Decision {
        let service_account = self.service_account.as_ref().map(|(namespace, name)| (&**namespace, &**name));
        self.authorizer.authorize(&Check { service_account, verb, what })
    }
}

#[derive(Clone, Debug)]
pub struct PathCheck {
    by: Authorization,
    path: String,
}

#[derive(Clone, Debug)]
pub struct ResourceCheck {
    by: Authorization,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub field_selector: String,
    pub label_selector: String,
}

impl<'a> Value<'a> {
    /// The value of the variable `authorizer`.
    pub fn authorizer(authorizer: Arc<dyn Authorizer>) -> Self {
        of(Opaque::Authorizer(Authorization { authorizer, service_account: None }))
    }

    /// The value of the variable `authorizer.requestResource`: the check of what the request is about.
    pub fn resource_check(
        authorizer: Arc<dyn Authorizer>,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Self {
        of(Opaque::ResourceCheck(ResourceCheck {
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..group_check(Authorization { authorizer, service_account: None }, group)
        }))
    }
}

fn group_check(by: Authorization, group: &str) -> ResourceCheck {
    ResourceCheck {
        by,
        group: group.to_owned(),
        resource: String::new(),
        subresource: String::new(),
        namespace: String::new(),
        name: String::new(),
        field_selector: String::new(),
        label_selector: String::new(),
    }
}

fn authorization<'v>(value: &'v Value<'_>) -> Result<&'v Authorization, EvalError> {
    match opaque(value)? {
        Opaque::Authorizer(authorization) => Ok(authorization),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn decision<'v>(value: &'v Value<'_>) -> Result<&'v Decision, EvalError> {
    match opaque(value)? {
        Opaque::Decision(decision) => Ok(decision),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The check with one of its parts set.
fn with<'a>(a: &[Value<'a>], set: fn(&mut ResourceCheck, String)) -> super::Result<'a> {
    let Opaque::ResourceCheck(check) = opaque(&a[0])? else { return Err(EvalError::no_such_overload()) };
    let mut check = check.clone();
    set(&mut check, str(&a[1])?.to_string());
    Ok(of(Opaque::ResourceCheck(check)))
}

fn service_account<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let (by, namespace, name) = (authorization(&a[0])?, str(&a[1])?, str(&a[2])?);
    if !validation::dns1123_subdomain(name).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !validation::dns1123_label(namespace).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    let service_account = Some((namespace.to_string(), name.to_string()));
    Ok(of(Opaque::Authorizer(Authorization { authorizer: by.authorizer.clone(), service_account })))
}

fn check<'a>(a: &[Value<'a>]) -> super::Result<'a> {
    let verb = str(&a[1])?;
    Ok(of(Opaque::Decision(match opaque(&a[0])? {
        Opaque::PathCheck(check) => check.by.check(verb, What::Path(&check.path)),
        Opaque::ResourceCheck(check) => check.by.check(verb, What::Resource(check)),
        _ => return Err(EvalError::no_such_overload()),
    })))
}

pub(super) fn declare(f: &mut Functions) {
    let mut add = |name, id, signature: &str, native| {
        let signature = signature.replace('@', "kubernetes.authorization.");
        f.add(name, id, &signature, native);
    };
    add("path", "authorizer_path", "@Authorizer.(string) -> @PathCheck", |a| {
        let (by, path) = (authorization(&a[0])?, str(&a[1])?);
        if path.trim().is_empty() {
            return Err(EvalError::new("path must not be empty"));
        }
        Ok(of(Opaque::PathCheck(PathCheck { by: by.clone(), path: path.to_string() })))
    });
    add("group", "authorizer_group", "@Authorizer.(string) -> @GroupCheck", |a| {
        Ok(of(Opaque::GroupCheck(group_check(authorization(&a[0])?.clone(), str(&a[1])?))))
    });
    add("serviceAccount", "authorizer_serviceaccount", "@Authorizer.(string, string) -> @Authorizer", service_account);
    add("resource", "groupcheck_resource", "@GroupCheck.(string) -> @ResourceCheck", |a| {
        let Opaque::GroupCheck(group) = opaque(&a[0])? else { return Err(EvalError::no_such_overload()) };
        let resource = str(&a[1])?;
        if resource.trim().is_empty() {
            return Err(EvalError::new("resource must not be empty"));
        }
        Ok(of(Opaque::ResourceCheck(ResourceCheck { resource: resource.to_string(), ..group.clone() })))
    });
    let on_resource = "@ResourceCheck.(string) -> @ResourceCheck";
    add("subresource", "resourcecheck_subresource", on_resource, |a| with(a, |check, s| check.subresource = s));
    add("namespace", "resourcecheck_namespace", on_resource, |a| with(a, |check, s| check.namespace = s));
    add("name", "resourcecheck_name", on_resource, |a| with(a, |check, s| check.name = s));
    add("fieldSelector", "authorizer_fieldselector", on_resource, |a| with(a, |check, s| check.field_selector = s));
    add("labelSelector", "authorizer_labelselector", on_resource, |a| with(a, |check, s| check.label_selector = s));
    add("check", "pathcheck_check", "@PathCheck.(string) -> @Decision", check);
    add("check", "resourcecheck_check", "@ResourceCheck.(string) -> @Decision", check);
    add("errored", "decision_errored", "@Decision.() -> bool", |a| Ok(Value::Bool(decision(&a[0])?.error.is_some())));
    add("error", "decision_error", "@Decision.() -> string", |a| {
        Ok(Value::string(decision(&a[0])?.error.clone().unwrap_or_default()))
    });
    add("allowed", "decision_allowed", "@Decision.() -> bool", |a| Ok(Value::Bool(decision(&a[0])?.allowed)));
    add("reason", "decision_reason", "@Decision.() -> string", |a| Ok(Value::string(decision(&a[0])?.reason.as_str())));
}
