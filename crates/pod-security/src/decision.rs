//! What becomes of a write of a pod, or of an object that makes pods.

use kybern_apimachinery::field::FieldError;
use kybern_apimachinery::tree::{list, text};
use kybern_apimachinery::{Value, object};

use crate::PREFIX;
use crate::checks::{Violation, check, details};
use crate::configuration::Configuration;
use crate::policy::{Level, LevelVersion, Policy};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Audit,
    Warn,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
            Self::Warn => "warn",
        }
    }
}

/// One of a policy's modes, asked; for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evaluation {
    pub mode: Mode,
    pub policy: LevelVersion,
    pub allowed: bool,
}

/// What is decided, and what is to be told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Why it is forbidden.
    pub refusal: Option<String>,
    pub warnings: Vec<String>,
    /// For the audit log, without [`PREFIX`].
    pub annotations: Vec<(&'static str, String)>,
    pub evaluations: Vec<Evaluation>,
    pub exempt: bool,
    /// The namespace's labels could not be read.
    pub failed: bool,
}

impl Decision {
    fn exempt(why: &str) -> Self {
        Self { exempt: true, annotations: vec![("exempt", why.to_owned())], ..Self::default() }
    }
}

/// A pod, or the template of some.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub user: &'a str,
    pub namespace: &'a str,
    pub metadata: &'a Value,
    pub spec: &'a Value,
    /// Pods are refused; templates only warned of.
    pub is_pod: bool,
}

fn is_in(name: &str, names: &[String]) -> bool {
    !name.is_empty() && names.iter().any(|other| other == name)
}

pub fn decide(subject: &Subject<'_>, namespace: &Value, configuration: &Configuration) -> Decision {
    let Subject { metadata, spec, is_pod, .. } = *subject;
    if is_in(subject.namespace, &configuration.namespaces) {
        return Decision::exempt("namespace");
    }
    if is_in(subject.user, &configuration.usernames) {
        return Decision::exempt("user");
    }
    let (policy, errors) = Policy::of(namespace, &configuration.defaults);
    if errors.is_empty() && is_pod && policy.is_fully_privileged() {
        return Decision {
            annotations: vec![("enforce-policy", LevelVersion::PRIVILEGED.to_string())],
            evaluations: vec![Evaluation { mode: Mode::Enforce, policy: policy.enforce, allowed: true }],
            ..Decision::default()
        };
    }
    let untold = [policy.warn, policy.audit].iter().all(|mode| mode.level == Level::Privileged);
    if errors.is_empty() && !is_pod && untold {
        return Decision::default();
    }
    if is_in(text(spec, "runtimeClassName"), &configuration.runtime_classes) {
        return Decision::exempt("runtimeClass");
    }
    let mut decision = Decision::default();
    if !errors.is_empty() {
        decision.failed = true;
        decision.annotations.push(("error", format!("Failed to parse policy: {}", together(&errors))));
    }
    let mut known: Vec<(LevelVersion, Vec<Violation>)> = Vec::new();
    let mut violations = |policy: LevelVersion| match known.iter().find(|(other, _)| *other == policy) {
        Some((_, violations)) => violations.clone(),
        None => {
            let violations = check(policy, metadata, spec);
            known.push((policy, violations.clone()));
            violations
        }
    };
    if is_pod {
        let found = violations(policy.enforce);
        decision.annotations.push(("enforce-policy", policy.enforce.to_string()));
        decision.evaluations.push(Evaluation {
            mode: Mode::Enforce,
            policy: policy.enforce,
            allowed: found.is_empty(),
        });
        if !found.is_empty() {
            decision.refusal = Some(format!("violates PodSecurity \"{}\": {}", policy.enforce, details(&found)));
        }
    }
    let found = violations(policy.audit);
    if !found.is_empty() {
        let text = format!("would violate PodSecurity \"{}\": {}", policy.audit, details(&found));
        decision.annotations.push(("audit-violations", text));
        decision.evaluations.push(Evaluation { mode: Mode::Audit, policy: policy.audit, allowed: false });
    }
    if decision.refusal.is_none() {
        let found = violations(policy.warn);
        if !found.is_empty() {
            let text = format!("would violate PodSecurity \"{}\": {}", policy.warn, details(&found));
            decision.warnings.push(text);
            decision.evaluations.push(Evaluation { mode: Mode::Warn, policy: policy.warn, allowed: false });
        }
    }
    decision
}

/// As Go shows several errors.
fn together(errors: &[FieldError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if texts.len() == 1 { texts[0].clone() } else { format!("[{}]", texts.join(", ")) }
}

/// Whether an update of a pod changes what is checked: only images and containers can.
pub fn is_significant_update(pod: &Value, old: &Value) -> bool {
    let (spec, before) = (&pod["spec"], &old["spec"]);
    let changed = ["containers", "initContainers"].iter().any(|field| {
        let (now, then) = (list(spec, field), list(before, field));
        now.len() != then.len() || now.iter().zip(then).any(|(a, b)| text(a, "image") != text(b, "image"))
    });
    changed
        || list(spec, "ephemeralContainers").iter().any(|container| {
            let same = |other: &&Value| text(other, "name") == text(container, "name");
            let old = list(before, "ephemeralContainers").iter().find(same);
            old.is_none_or(|old| text(old, "image") != text(container, "image"))
        })
}

/// What is told of labels on a namespace in which they do not count.
pub fn exempt_namespace_warning(namespace: &Value, policy: &Policy, configuration: &Configuration) -> Option<String> {
    if policy.is_fully_privileged() || policy.is_equivalent(&configuration.defaults) {
        return None;
    }
    let label = |name: &str| object::label(namespace, &format!("{PREFIX}{name}")).is_some();
    let modes = [("enforce", policy.enforce), ("audit", policy.audit), ("warn", policy.warn)];
    let labelled = |name: &str| label(name) || label(&format!("{name}-version"));
    let shown = modes.iter().filter(|(name, mode)| mode.level != Level::Privileged && labelled(name));
    let shown: Vec<String> = shown.map(|(name, mode)| format!("{name}={mode}")).collect();
    let name = object::name(namespace);
    Some(format!(
        "namespace {name:?} is exempt from Pod Security, and the policy ({}) will be ignored",
        shown.join(", ")
    ))
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
