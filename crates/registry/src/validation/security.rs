//! Security contexts of pods and containers.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::format::{self, Errors};
use crate::tree::{flag, has, int, list, text};

fn id(out: &mut Errors, path: &FieldPath, context: &Value, field: &str) {
    if let Some(id) = int(context, field).filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        out.push(FieldError::invalid(&path.child(field), id, "must be between 0 and 2147483647, inclusive"));
    }
}

fn profile(out: &mut Errors, path: &FieldPath, context: &Value, field: &str) {
    let Some(profile) = context.get(field).filter(|p| !p.is_null()) else { return };
    let path = path.child(field);
    let (kind, local) = (text(profile, "type"), profile.get("localhostProfile").and_then(Value::as_str));
    format::required_one_of(out, &path.child("type"), kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    match local {
        None | Some("") if kind == "Localhost" => {
            out.push(FieldError::required(
                &path.child("localhostProfile"),
                format!("must be set when {} type is Localhost", name(field)),
            ));
        }
        Some(local) if kind == "Localhost" => {
            format::local_descending_path(out, &path.child("localhostProfile"), local)
        }
        Some(local) => {
            let detail = format!("can only be set when {} type is Localhost", name(field));
            out.push(FieldError::invalid(&path.child("localhostProfile"), local, detail));
        }
        None => {}
    }
}

fn name(field: &str) -> &str {
    field.strip_suffix("Profile").unwrap_or(field)
}

/// `spec.securityContext`, with the host namespaces beside it.
pub(crate) fn pod(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let context = &spec["securityContext"];
    let inner = path.child("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(out, &inner, context, field);
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        if group.as_i64().is_none_or(|g| !(0..=i64::from(i32::MAX)).contains(&g)) {
            let path = inner.child("supplementalGroups").index(i);
            out.push(FieldError::invalid(&path, group.clone(), "must be between 0 and 2147483647, inclusive"));
        }
    }
    if has(context, "fsGroupChangePolicy") {
        format::one_of(
            out,
            &inner.child("fsGroupChangePolicy"),
            text(context, "fsGroupChangePolicy"),
            &["Always", "OnRootMismatch"],
        );
    }
    sysctls(out, &inner.child("sysctls"), spec, context);
    profile(out, &inner, context, "seccompProfile");
    profile(out, &inner, context, "appArmorProfile");
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        out.push(FieldError::invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    if spec.get("hostUsers").and_then(Value::as_bool) == Some(false) {
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            if flag(spec, field) {
                out.push(FieldError::forbidden(&path.child(field), "when `hostUsers` is false"));
            }
        }
    }
}

fn sysctls(out: &mut Errors, path: &FieldPath, spec: &Value, context: &Value) {
    const RULE: &str = "must have at most 253 characters and match regex \
                        ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let word = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(|c| edge(*c))
            && bytes.last().is_some_and(|c| edge(*c))
            && bytes.iter().all(|c| edge(*c) || b"-_".contains(c))
    };
    let mut names = std::collections::BTreeSet::new();
    for (i, sysctl) in list(context, "sysctls").iter().enumerate() {
        let (path, name) = (path.index(i).child("name"), text(sysctl, "name"));
        if name.is_empty() {
            out.push(FieldError::required(&path, ""));
        } else if name.len() > 253 || !name.split(['.', '/']).all(word) {
            out.push(FieldError::invalid(&path, name, RULE));
        } else if !names.insert(name) {
            out.push(FieldError::duplicate(&path, name));
        }
        let dotted = name.replace('/', ".");
        let of_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
            out.push(FieldError::invalid(&path, name, "may not be specified when 'hostNetwork' is true"));
        } else if flag(spec, "hostIPC") && of_ipc {
            out.push(FieldError::invalid(&path, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

/// A container's `securityContext`.
pub(crate) fn container(out: &mut Errors, path: &FieldPath, context: &Value) {
    for field in ["runAsUser", "runAsGroup"] {
        id(out, path, context, field);
    }
    profile(out, path, context, "seccompProfile");
    profile(out, path, context, "appArmorProfile");
    if has(context, "procMount") {
        format::one_of(out, &path.child("procMount"), text(context, "procMount"), &["Default", "Unmasked"]);
    }
    if context.get("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        if flag(context, "privileged") {
            out.push(FieldError::invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        let added = list(context.get("capabilities").unwrap_or(&Value::Null), "add");
        if added.iter().any(|c| c == "CAP_SYS_ADMIN" || c == "SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            out.push(FieldError::invalid(path, context.clone(), detail));
        }
    }
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
