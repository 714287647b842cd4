//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::format::{self, Errors};
use super::windows;
use crate::tree::{flag, has, int, list, text};

fn id(out: &mut Errors, path: &FieldPath, context: &Value, field: &str) {
    format::range(out, &path.child(field), int(context, field), 0, i64::from(i32::MAX));
}

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(out: &mut Errors, path: &FieldPath, context: &Value) {
    let Some(profile) = context.get("seccompProfile").filter(|p| !p.is_null()) else { return };
    let path = path.child("seccompProfile");
    let (kind, local) = (text(profile, "type"), profile.get("localhostProfile").and_then(Value::as_str));
    if kind.is_empty() {
        out.push(FieldError::required(&path.child("type"), "type is required when seccompProfile is set"));
    } else {
        format::one_of(out, &path.child("type"), kind, &PROFILES);
    }
    let path = path.child("localhostProfile");
    match local {
        None if kind == "Localhost" => {
            out.push(FieldError::required(&path, "must be set when seccomp type is Localhost"));
        }
        Some(local) if kind == "Localhost" => format::local_descending_path(out, &path, local),
        Some(_) => {
            out.push(FieldError::invalid(&path, profile.clone(), "can only be set when seccomp type is Localhost"));
        }
        None => {}
    }
}

/// `appArmorProfile`.
fn app_armor(out: &mut Errors, path: &FieldPath, context: &Value) {
    const MAX: usize = 4095;
    let Some(profile) = context.get("appArmorProfile").filter(|p| !p.is_null()) else { return };
    let path = path.child("appArmorProfile");
    let at = path.child("localhostProfile");
    let missing = "must be set when AppArmor type is Localhost";
    match (text(profile, "type"), profile.get("localhostProfile").and_then(Value::as_str)) {
        ("Localhost", None) => out.push(FieldError::required(&at, missing)),
        ("Localhost", Some(local)) => {
            if local != local.trim() {
                out.push(FieldError::invalid(&at, local, "must not be padded with whitespace"));
            } else if local.is_empty() {
                out.push(FieldError::required(&at, missing));
            }
            if local.len() > MAX {
                out.push(FieldError::too_long(&at, MAX));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(local)) => {
            out.push(FieldError::invalid(&at, local, "can only be set when AppArmor type is Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            out.push(FieldError::required(&path.child("type"), "type is required when appArmorProfile is set"));
        }
        (other, _) => out.push(FieldError::not_supported(&path.child("type"), other, &PROFILES)),
    }
}

/// `spec.securityContext`. Upstream's type holds the host's namespaces, too.
pub(crate) fn pod(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let context = &spec["securityContext"];
    let path = path.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(out, &path, context, field);
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        let group = Some(group.as_i64().unwrap_or(0));
        format::range(out, &path.child("supplementalGroups").index(i), group, 0, i64::from(i32::MAX));
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        out.push(FieldError::invalid(&path.child("shareProcessNamespace"), true, detail));
    }
    sysctls(out, &path.child("sysctls"), spec);
    let choice = |out: &mut Errors, field: &str, words: &[&str]| {
        if has(context, field) {
            format::one_of(out, &path.child(field), text(context, field), words);
        }
    };
    choice(out, "fsGroupChangePolicy", &["Always", "OnRootMismatch"]);
    seccomp(out, &path, context);
    windows::options(out, &path, context);
    app_armor(out, &path, context);
    choice(out, "supplementalGroupsPolicy", &["Merge", "Strict"]);
    choice(out, "seLinuxChangePolicy", &["MountOption", "Recursive"]);
}

/// A pod that has users of its own cannot have the host's namespaces.
pub(crate) fn host_users(out: &mut Errors, path: &FieldPath, spec: &Value) {
    if spec.get("hostUsers").and_then(Value::as_bool) != Some(false) {
        return;
    }
    for (field, name) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if flag(spec, field) {
            out.push(FieldError::forbidden(&path.child(name), "when `hostUsers` is false"));
        }
    }
    for sort in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in list(spec, sort).iter().enumerate() {
            if !list(container, "volumeDevices").is_empty() {
                let path = path.child(sort).index(i).child("volumeDevices");
                out.push(FieldError::forbidden(&path, "when `hostUsers` is false"));
            }
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let segment = |part: &str| {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_".contains(&c);
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with(['-', '_']) && !part.ends_with(['-', '_'])
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn sysctls(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let mut seen = BTreeSet::new();
    for (i, sysctl) in list(&spec["securityContext"], "sysctls").iter().enumerate() {
        let (path, name) = (path.index(i).child("name"), text(sysctl, "name"));
        if name.is_empty() {
            out.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            let detail = "must have at most 253 characters and match regex \
                          ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            out.push(FieldError::invalid(&path, name, detail));
        } else if seen.contains(name) {
            out.push(FieldError::duplicate(&path, name));
        }
        seen.insert(name);
        let dotted = name.replace('/', ".");
        let ipc =
            ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p)) || dotted == "kernel.sem";
        if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
            out.push(FieldError::invalid(&path, name, "may not be specified when 'hostNetwork' is true"));
        } else if flag(spec, "hostIPC") && ipc {
            out.push(FieldError::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

/// A container's `securityContext`.
pub(crate) fn container(out: &mut Errors, path: &FieldPath, context: &Value, host_users: bool) {
    for field in ["runAsUser", "runAsGroup"] {
        id(out, path, context, field);
    }
    if has(context, "procMount") {
        let (path, mount) = (path.child("procMount"), text(context, "procMount"));
        format::one_of(out, &path, mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            out.push(FieldError::invalid(&path, mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    seccomp(out, path, context);
    if context.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        if flag(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            out.push(FieldError::invalid(path, context.clone(), detail));
        }
        let added = list(context.get("capabilities").unwrap_or(&Value::Null), "add");
        for _ in added.iter().filter(|c| *c == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            out.push(FieldError::invalid(path, context.clone(), detail));
        }
    }
    windows::options(out, path, context);
    app_armor(out, path, context);
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    #[test]
    fn sysctl_names() {
        let check = |host: &str, names: &[&str], expect: &str| {
            let all: Vec<Value> = names.iter().map(|name| json!({"name": name, "value": "1"})).collect();
            let mut out = Vec::new();
            let mut spec = json!({"securityContext": {"sysctls": all}});
            spec[host] = true.into();
            pod(&mut out, &FieldPath::new("spec"), &spec);
            let texts: Vec<String> = out.iter().map(ToString::to_string).collect();
            assert_eq!(texts.join("; ").replace("spec.securityContext.sysctls", "S"), expect, "{names:?}");
        };
        let rule = "must have at most 253 characters and match regex \
                    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
        let wrong = |name: &str| format!("S[0].name: Invalid value: {name:?}: {rule}");
        check("no", &["kernel.shmmax", "safe-and-unsafe", "net/ipv4/tcp_syncookies"], "");
        for name in ["foo-", "bar..", ".a", "A.b", "-a", "a/-b"] {
            check("no", &[name], &wrong(name));
        }
        check("no", &[&"a".repeat(254)], &wrong(&"a".repeat(254)));
        check("no", &["", "a", "a"], "S[0].name: Required value; S[2].name: Duplicate value: \"a\"");
        let of_net = "S[0].name: Invalid value: \"net.x\": may not be specified when 'hostNetwork' is true";
        check("hostNetwork", &["net.x", "kernel.msgmax"], of_net);
        let of_ipc = "S[1].name: Invalid value: \"kernel/msgmax\": may not be specified when 'hostIPC' is true";
        check("hostIPC", &["net.x", "kernel/msgmax"], of_ipc);
    }
}
