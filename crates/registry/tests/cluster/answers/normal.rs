//! What differs from run to run, replaced as the recordings have it.

use kybern_apimachinery::Value;
use regex_lite::Regex;

use super::printed;

pub(super) struct Normal {
    uid: Regex,
    time: Regex,
    cluster_ip: Regex,
    api_access: Regex,
    age: Regex,
    diff: Regex,
    twice: Regex,
    node_port: Regex,
    /// Whether managed fields are compared.
    managed_fields: bool,
}

impl Normal {
    pub(super) fn new(managed_fields: bool) -> Self {
        let regex = |text| Regex::new(text).unwrap();
        Self {
            uid: regex(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
            time: regex(r"20(2[5-9]|[3-9][0-9])-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?Z"),
            cluster_ip: regex(r"\b10\.96\.[0-9]{1,3}\.[0-9]{1,3}(\b|x)"),
            api_access: regex(r"kube-api-access-[a-z0-9]{5}\b"),
            age: regex("^([0-9]+[ydhms]){1,2}$"),
            node_port: regex(r":(3[0-9]{4})/"),
            twice: regex(r"duplicate nodePort: \{TCP 3[0-9]{4}\}"),
            diff: regex(r"(\n(@@|[-+ ])[^\n]*)+\n"),
            managed_fields,
        }
    }

    pub(super) fn apply(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                let uid = self.uid.replace_all(text, "<uid>");
                let time = self.time.replace_all(&uid, "<time>");
                let ip = self.cluster_ip.replace_all(&time, |found: &regex_lite::Captures<'_>| {
                    if &found[0] == "10.96.77.7" { found[0].to_owned() } else { format!("<cluster-ip>{}", &found[1]) }
                });
                let access = self.api_access.replace_all(&ip, "kube-api-access-<5>");
                // Upstream shows Go's structs, field by field; here it is the paths that differ.
                let diff = self.diff.replace_all(&access, "\n<diff>\n");
                *text = printed::normal(&self.twice.replace_all(&diff, "duplicate nodePort: {TCP <node-port>}"));
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.apply(item)),
            Value::Object(fields) => {
                if !self.managed_fields {
                    fields.remove("managedFields");
                }
                for (key, value) in fields {
                    match (key.as_str(), &mut *value) {
                        ("resourceVersion", Value::String(text)) if text != "<rv>" => *value = "<rv>".into(),
                        // Those that a request names, and the one after that a dry run shows.
                        ("nodePort", Value::Number(n)) if n.as_i64() != Some(30080) => *value = "<node-port>".into(),
                        ("healthCheckNodePort", Value::Number(n)) if n.as_i64() != Some(30081) => {
                            *value = "<node-port>".into();
                        }
                        ("managedFields", Value::Array(entries)) => {
                            entries.sort_by_key(|e| {
                                let text = |key: &str| e[key].as_str().unwrap_or("").to_owned();
                                (text("operation"), text("manager"), text("subresource"), text("apiVersion"))
                            });
                            for entry in entries {
                                // Upstream forgets when something was scaled.
                                if let Some(entry) =
                                    entry.as_object_mut().filter(|e| e.get("subresource") == Some(&"scale".into()))
                                {
                                    entry.remove("time");
                                }
                                self.apply(entry);
                            }
                        }
                        // Upstream tells a cause as often as it checks for it, and conflicts in no order.
                        ("causes", Value::Array(causes)) => {
                            causes.iter_mut().for_each(|cause| self.apply(cause));
                            let mut seen = Vec::new();
                            causes.retain(|cause| {
                                let new = !seen.contains(cause);
                                seen.push(cause.clone());
                                new
                            });
                            if causes.iter().any(|cause| cause["reason"] == "FieldManagerConflict") {
                                causes.sort_by_key(|cause| cause.to_string());
                            }
                        }
                        // Our own words.
                        ("columnDefinitions", Value::Array(columns)) => {
                            for column in columns.iter_mut().filter_map(Value::as_object_mut) {
                                column.remove("description");
                            }
                        }
                        // How long the recording took, and a busy machine.
                        ("cells", Value::Array(cells)) => {
                            for cell in cells {
                                if let Value::String(text) = cell {
                                    let port = |found: &regex_lite::Captures<'_>| match &found[1] {
                                        "30080" | "30081" => found[0].to_owned(),
                                        _ => ":<node-port>/".to_owned(),
                                    };
                                    let ports = self.node_port.replace_all(text, port);
                                    *text =
                                        if self.age.is_match(&ports) { "<age>".to_owned() } else { ports.into_owned() };
                                }
                                self.apply(cell);
                            }
                        }
                        // The committed bytes are sent, and those have both.
                        ("items", Value::Array(items)) => {
                            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                                item.remove("apiVersion");
                                item.remove("kind");
                            }
                            items.iter_mut().for_each(|item| self.apply(item));
                        }
                        _ => self.apply(value),
                    }
                }
            }
            _ => {}
        }
    }
}
