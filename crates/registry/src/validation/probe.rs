//! Probes and lifecycle handlers.

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};

use super::format::{self, Errors};
use crate::tree::{has, int, list, text};

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// `livenessProbe` and `startupProbe` must succeed once; readiness may want more.
pub(crate) fn probe(out: &mut Errors, path: &FieldPath, probe: &Value, once: bool) {
    handler(out, path, probe, &HANDLERS[..4]);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        format::not_negative(out, &path.child(field), int(probe, field));
    }
    if let Some(seconds) = int(probe, "terminationGracePeriodSeconds").filter(|s| *s <= 0) {
        out.push(FieldError::invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0"));
    }
    if once && int(probe, "successThreshold").is_some_and(|n| n != 1) {
        out.push(FieldError::invalid(
            &path.child("successThreshold"),
            int(probe, "successThreshold").unwrap_or(0),
            "must be 1",
        ));
    }
}

/// `lifecycle`.
pub(crate) fn lifecycle(out: &mut Errors, path: &FieldPath, lifecycle: &Value) {
    for hook in ["postStart", "preStop"] {
        if let Some(value) = lifecycle.get(hook).filter(|v| !v.is_null()) {
            handler(out, &path.child(hook), value, &["exec", "httpGet", "tcpSocket", "sleep"]);
        }
    }
}

fn handler(out: &mut Errors, path: &FieldPath, value: &Value, known: &[&str]) {
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
                for (j, header) in list(action, "httpHeaders").iter().enumerate() {
                    let name = text(header, "name");
                    if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
                        let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex \
                                      used for validation is '[-A-Za-z0-9]+')";
                        out.push(FieldError::invalid(&path.child("httpHeaders").index(j).child("name"), name, detail));
                    }
                }
            }
            "tcpSocket" => format::port(out, &path.child("port"), &action["port"]),
            "grpc" => format::port_number(out, &path.child("port"), int(action, "port").unwrap_or(0)),
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
            probe(&mut out, &FieldPath::new("p"), &value, true);
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
