//! What is for pods of Windows alone, and what is not for them. Kybern runs none, but keeps them as anyone's.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::validation::dns1123_subdomain;

use super::format::{self, Errors};
use crate::tree::{flag, has, list, text};

const SORTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The containers of all sorts with their paths.
fn containers<'a>(path: &'a FieldPath, spec: &'a Value) -> impl Iterator<Item = (FieldPath, &'a Value)> {
    SORTS.into_iter().flat_map(move |sort| {
        list(spec, sort).iter().enumerate().map(move |(i, container)| (path.child(sort).index(i), container))
    })
}

/// `windowsOptions` of a security context.
pub(super) fn options(out: &mut Errors, path: &FieldPath, context: &Value) {
    let (options, path) = (&context["windowsOptions"], path.child("windowsOptions"));
    let given = |field: &str| options.get(field).and_then(Value::as_str);
    if let Some(name) = given("gmsaCredentialSpecName") {
        format::invalid(out, &path.child("gmsaCredentialSpecName"), name, dns1123_subdomain(name));
    }
    let mut invalid = |field: &str, value: &str, detail: &str| {
        out.push(FieldError::invalid(&path.child(field), value, detail));
    };
    match given("gmsaCredentialSpec") {
        Some("") => invalid("gmsaCredentialSpec", "", "gmsaCredentialSpec cannot be an empty string"),
        Some(spec) if spec.len() > 64 << 10 => {
            invalid("gmsaCredentialSpec", spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
        _ => {}
    }
    if let Some(name) = given("runAsUserName") {
        for detail in user_name(name) {
            invalid("runAsUserName", name, &format!("runAsUserName{detail}"));
        }
    }
}

/// What is wrong with `DOMAIN\user`.
fn user_name(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec![" cannot be an empty string"];
    }
    if name.contains(|c: char| c.is_ascii_control()) {
        return vec![" cannot contain control characters"];
    }
    let (domain, user) = match name.split('\\').collect::<Vec<_>>().as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec![" cannot contain more than one backslash"],
    };
    let mut texts = Vec::new();
    let mut add = |wrong: bool, text: &'static str| texts.extend(wrong.then_some(text));
    add(domain.is_some_and(|d| d.len() >= 256), "'s Domain length must be under 256 characters");
    let forbidden = |c: char| "\\/:*?\"<>|".contains(c);
    let net_bios = |d: &str| !d.is_empty() && d.len() <= 15 && !d.starts_with('.') && !d.contains(forbidden);
    let label = |l: &str| {
        let inner = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
        !l.is_empty() && l.len() <= 63 && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-')
    };
    let known = domain.is_none_or(|d| net_bios(d) || d.split('.').all(label));
    add(!known, "'s Domain doesn't match the NetBios nor the DNS format");
    add(user.is_empty(), "'s User cannot be empty");
    add(user.len() > 104, "'s User length must not be longer than 104 characters");
    add(!user.is_empty() && user.bytes().all(|c| b". ".contains(&c)), "'s User cannot contain only periods or spaces");
    let wrong = user.contains(|c: char| "\"/\\:;|=,+*?<>@[]".contains(c));
    add(wrong, "'s User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    texts
}

/// Containers that are processes of the host are so all together, and on its network.
pub(super) fn host_process(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let wish = |owner: &Value| owner["securityContext"]["windowsOptions"].get("hostProcess").and_then(Value::as_bool);
    let pod = wish(spec);
    let (mut all, mut on_host) = (0, 0);
    for (path, container) in containers(path, spec) {
        let own = wish(container);
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            let path = path.child("securityContext").child("windowsOptions").child("hostProcess");
            let detail = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            out.push(FieldError::invalid(&path, own, detail));
        }
        all += 1;
        on_host += usize::from(own.or(pod) == Some(true));
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        out.push(FieldError::invalid(path, "", detail));
    }
    if !flag(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        out.push(FieldError::invalid(&path.child("hostNetwork"), false, detail));
    }
}

/// `os`, and what a pod of that system may not say.
pub(super) fn os(out: &mut Errors, path: &FieldPath, spec: &Value) {
    if !has(spec, "os") {
        return;
    }
    match text(&spec["os"], "name") {
        "" => out.push(FieldError::required(&path.child("os").child("name"), "")),
        "linux" => linux(out, path, spec),
        "windows" => windows(out, path, spec),
        other => out.push(FieldError::not_supported(&path.child("os"), other, &["linux", "windows"])),
    }
}

fn linux(out: &mut Errors, path: &FieldPath, spec: &Value) {
    let pod = std::iter::once((path.clone(), spec));
    for (path, owner) in pod.chain(containers(path, spec)) {
        if has(&owner["securityContext"], "windowsOptions") {
            let path = path.child("securityContext").child("windowsOptions");
            out.push(FieldError::forbidden(&path, "windows options cannot be set for a linux pod"));
        }
    }
}

fn windows(out: &mut Errors, path: &FieldPath, spec: &Value) {
    const DETAIL: &str = "cannot be set for a windows pod";
    let context = &spec["securityContext"];
    let inner = path.child("securityContext");
    let mut refuse = |owner: &Value, path: &FieldPath, fields: &[&str]| {
        for field in fields {
            // Upstream's host namespaces are plain flags, and false is as good as absent.
            if owner
                .get(field)
                .is_some_and(|v| !(v.is_null() || field.starts_with("host") && *field != "hostUsers" && v == false))
            {
                out.push(FieldError::forbidden(&path.child(field), DETAIL));
            }
        }
    };
    refuse(context, &inner, &["appArmorProfile", "seLinuxOptions"]);
    refuse(spec, path, &["hostUsers", "hostPID", "hostIPC"]);
    refuse(context, &inner, &["seccompProfile", "fsGroup", "fsGroupChangePolicy", "sysctls"]);
    refuse(spec, path, &["shareProcessNamespace"]);
    let more = ["runAsUser", "runAsGroup", "supplementalGroups", "supplementalGroupsPolicy", "seLinuxChangePolicy"];
    refuse(context, &inner, &more);
    for (path, container) in containers(path, spec) {
        let fields = [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ];
        refuse(&container["securityContext"], &path.child("securityContext"), &fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn user_names() {
        for (name, wrong) in [("a", 0), ("CORP\\a", 0), ("a\\b\\c", 1), ("", 1), ("..", 1), ("CORP\\", 1), ("a:b", 1)] {
            assert_eq!(user_name(name).len(), wrong, "{name}");
        }
    }

    #[test]
    fn a_windows_pod_has_no_linux_settings() {
        let mut out = Vec::new();
        let spec = json!({"os": {"name": "windows"}, "hostPID": false, "securityContext": {"runAsUser": 1},
            "containers": [{"securityContext": {"privileged": false}}]});
        os(&mut out, &FieldPath::new("spec"), &spec);
        assert_eq!(
            out.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                "spec.containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
            ]
        );
    }
}
