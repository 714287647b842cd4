//! Probes and lifecycle handlers.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::format::{self, Errors};
use crate::tree::{has, int, list, text};

/// What probes and hooks need to know of their pod.
pub(crate) struct Pod {
    /// `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
}

/// `livenessProbe` and `startupProbe` must succeed once; readiness may want more, but ends nothing.
pub(crate) fn probe(out: &mut Errors, path: &FieldPath, probe: &Value, readiness: bool, pod: &Pod) {
    handler(out, path, probe, &["exec", "httpGet", "tcpSocket", "grpc"], pod);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        format::not_negative(out, &path.child(field), int(probe, field));
    }
    let (grace, successes) = (int(probe, "terminationGracePeriodSeconds"), int(probe, "successThreshold").unwrap_or(0));
    let grace_path = path.child("terminationGracePeriodSeconds");
    if let Some(seconds) = grace.filter(|s| *s <= 0) {
        out.push(FieldError::invalid(&grace_path, seconds, "must be greater than 0"));
    }
    if !readiness && successes != 1 {
        out.push(FieldError::invalid(&path.child("successThreshold"), successes, "must be 1"));
    }
    if let Some(seconds) = grace.filter(|_| readiness) {
        out.push(FieldError::invalid(&grace_path, seconds, "must not be set for readinessProbes"));
    }
}

/// `lifecycle`.
pub(crate) fn lifecycle(out: &mut Errors, path: &FieldPath, lifecycle: &Value, pod: &Pod) {
    for hook in ["postStart", "preStop"] {
        if let Some(value) = lifecycle.get(hook).filter(|v| !v.is_null()) {
            handler(out, &path.child(hook), value, &["exec", "httpGet", "tcpSocket", "sleep"], pod);
        }
    }
}

fn handler(out: &mut Errors, path: &FieldPath, value: &Value, known: &[&str], pod: &Pod) {
    let given: Vec<&str> = known.iter().copied().filter(|h| has(value, h)).collect();
    for (i, name) in given.iter().enumerate() {
        let (path, action) = (path.child(name), &value[*name]);
        if i > 0 {
            out.push(FieldError::forbidden(&path, "may not specify more than 1 handler type"));
            continue;
        }
        match *name {
            "exec" if list(action, "command").is_empty() => out.push(FieldError::required(&path.child("command"), "")),
            "httpGet" => {
                if text(action, "path").is_empty() {
                    out.push(FieldError::required(&path.child("path"), ""));
                }
                format::port(out, &path.child("port"), &action["port"]);
                format::one_of(out, &path.child("scheme"), text(action, "scheme"), &["HTTP", "HTTPS"]);
                for header in list(action, "httpHeaders") {
                    let name = text(header, "name");
                    format::invalid(out, &path.child("httpHeaders"), name, format::header_name(name));
                }
            }
            "tcpSocket" => format::port(out, &path.child("port"), &action["port"]),
            "grpc" => format::port_number(out, &path.child("port"), int(action, "port").unwrap_or(0)),
            "sleep" => {
                let seconds = int(action, "seconds").unwrap_or(0);
                if let Some(grace) = pod.grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
                    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    out.push(FieldError::invalid(&path, seconds, detail));
                }
            }
            _ => {}
        }
    }
    if given.is_empty() {
        out.push(FieldError::required(path, "must specify a handler type"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    #[test]
    fn a_probe_has_one_handler() {
        let check = |value: Value, expect: &str| {
            let mut out = Vec::new();
            let mut value = value;
            crate::tree::default(&mut value, "successThreshold", 1);
            probe(&mut out, &FieldPath::new("p"), &value, false, &Pod { grace: Some(30) });
            assert_eq!(out.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "), expect);
        };
        check(json!({"tcpSocket": {"port": 80}}), "");
        check(json!({}), "p: Required value: must specify a handler type");
        check(
            json!({"exec": {"command": ["a"]}, "grpc": {"port": 1}}),
            "p.grpc: Forbidden: may not specify more than 1 handler type",
        );
        check(
            json!({"httpGet": {"path": "/", "port": 0, "scheme": "HTTP"}}),
            "p.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        );
        check(
            json!({"tcpSocket": {"port": "http"}, "successThreshold": 2}),
            "p.successThreshold: Invalid value: 2: must be 1",
        );
    }
}
