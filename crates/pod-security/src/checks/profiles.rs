//! AppArmor, seccomp and SELinux: of pods, of containers, and in annotations.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::tree::{has, map, text};

use super::texts::{Setters, containers, plural, quoted};
use super::{Pod, Violation};

const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Who sets a profile of a type that is not allowed.
fn setters<'a>(pod: Pod<'a>, profile: &str) -> Setters<'a> {
    let mut setters = Setters::default();
    let bad = |object: &Value| {
        let context = &object["securityContext"];
        let kind = text(&context[profile], "type");
        let wrong = has(context, profile) && !matches!(kind, "RuntimeDefault" | "Localhost");
        wrong.then(|| kind.to_owned())
    };
    if let Some(kind) = bad(pod.spec) {
        setters.pod = true;
        setters.values.insert(kind);
    }
    for container in pod.containers() {
        if let Some(kind) = bad(container) {
            setters.container(container);
            setters.values.insert(kind);
        }
    }
    setters
}

pub(super) fn app_armor(pod: Pod<'_>) -> Option<Violation> {
    let setters = setters(pod, "appArmorProfile");
    let may = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let annotations = map(pod.metadata, "annotations").filter_map(|(key, value)| Some((key, value.as_str()?)));
    let annotations = annotations.filter(|(key, value)| key.starts_with(APP_ARMOR) && !may(value));
    let annotations: BTreeSet<String> = annotations.map(|(key, value)| format!("{key}={value:?}")).collect();
    let mut shown = setters.shown();
    if !annotations.is_empty() {
        shown.push(plural("annotation", "annotations", annotations.len()));
    }
    if shown.is_empty() {
        return None;
    }
    let values: Vec<String> = setters.values.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    Violation::new(reason, format!("{} must not set AppArmor profile type to {}", shown.join(" and "), quoted(values)))
}

pub(super) fn seccomp_annotations(pod: Pod<'_>) -> Option<Violation> {
    let may = |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let keys = std::iter::once(SECCOMP_POD.to_owned())
        .chain(pod.containers().map(|container| format!("{SECCOMP_CONTAINER}{}", text(container, "name"))));
    let values = keys.filter_map(|key| {
        let value = pod.metadata["annotations"].get(&key)?.as_str()?;
        (!may(value)).then(|| format!("{key}={value:?}"))
    });
    let forbidden: BTreeSet<String> = values.collect();
    if forbidden.is_empty() {
        return None;
    }
    let noun = plural("annotation", "annotations", forbidden.len());
    let shown = forbidden.into_iter().collect::<Vec<_>>().join(", ");
    Violation::new("seccompProfile", format!("forbidden {noun} {shown}"))
}

pub(super) fn seccomp_baseline(pod: Pod<'_>) -> Option<Violation> {
    let setters = setters(pod, "seccompProfile");
    if setters.is_empty() {
        return None;
    }
    let shown = setters.shown().join(" and ");
    let values = quoted(setters.values);
    Violation::new("seccompProfile", format!("{shown} must not set securityContext.seccompProfile.type to {values}"))
}

pub(super) fn seccomp_restricted(pod: Pod<'_>) -> Option<Violation> {
    if let Some(violation) = seccomp_baseline(pod) {
        return Some(violation);
    }
    let sets = |object: &Value| has(&object["securityContext"], "seccompProfile");
    if sets(pod.spec) {
        return None;
    }
    let silent: Vec<&str> = pod.containers().filter(|c| !sets(c)).map(|container| text(container, "name")).collect();
    if silent.is_empty() {
        return None;
    }
    let wanted = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    Violation::new("seccompProfile", format!("pod or {} {wanted}", containers(&silent)))
}

pub(super) fn seccomp_restricted_but_windows(pod: Pod<'_>) -> Option<Violation> {
    if pod.is_windows() { None } else { seccomp_restricted(pod) }
}

fn selinux(pod: Pod<'_>, types: &[&str]) -> Option<Violation> {
    let (mut setters, mut user, mut role) = (Setters::default(), false, false);
    let mut is_bad = |object: &Value| {
        let options = &object["securityContext"]["seLinuxOptions"];
        let kind = text(options, "type");
        let bad_type = !types.contains(&kind);
        let (sets_user, sets_role) = (!text(options, "user").is_empty(), !text(options, "role").is_empty());
        user |= sets_user;
        role |= sets_role;
        (bad_type || sets_user || sets_role).then(|| bad_type.then(|| kind.to_owned()))
    };
    if let Some(kind) = is_bad(pod.spec) {
        setters.pod = true;
        setters.values.extend(kind);
    }
    for container in pod.containers() {
        if let Some(kind) = is_bad(container) {
            setters.container(container);
            setters.values.extend(kind);
        }
    }
    if setters.is_empty() {
        return None;
    }
    let (shown, mut bad) = (setters.shown().join(" and "), Vec::new());
    if !setters.values.is_empty() {
        bad.push(format!("{} {}", plural("type", "types", setters.values.len()), quoted(setters.values)));
    }
    bad.extend(user.then(|| "user may not be set".to_owned()));
    bad.extend(role.then(|| "role may not be set".to_owned()));
    let detail = format!("{shown} set forbidden securityContext.seLinuxOptions: {}", bad.join("; "));
    Violation::new("seLinuxOptions", detail)
}

pub(super) fn selinux_1_0(pod: Pod<'_>) -> Option<Violation> {
    selinux(pod, &["", "container_t", "container_init_t", "container_kvm_t"])
}

pub(super) fn selinux_1_31(pod: Pod<'_>) -> Option<Violation> {
    selinux(pod, &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"])
}
