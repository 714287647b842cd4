//! `--authorization-config`: the authorizers as a file lists them (`apiserver.config.k8s.io/v1` AuthorizationConfiguration).

use std::path::{Path, PathBuf};
use std::time::Duration;

use kybern_apimachinery::Value;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::time::parse_duration;
use kybern_apimachinery::validation::dns1123_subdomain;
use kybern_webhook::Backoff;

use super::conditions::AccessConditions;
use super::{AccessWebhookSettings, Mode};
use crate::config_file::{self, Shape, aggregate, list, text};

const TYPES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const CONDITIONS_MAX: usize = 64;

const FIELDS: &[(&str, Shape)] = &[(
    "authorizers",
    Shape::List(&Shape::Object(&[("type", Shape::Text), ("name", Shape::Text), ("webhook", Shape::Object(WEBHOOK))])),
)];
const WEBHOOK: &[(&str, Shape)] = &[
    ("authorizedTTL", Shape::Text),
    ("cacheAuthorizedRequests", Shape::Bool),
    ("unauthorizedTTL", Shape::Text),
    ("cacheUnauthorizedRequests", Shape::Bool),
    ("timeout", Shape::Text),
    ("subjectAccessReviewVersion", Shape::Text),
    ("matchConditionSubjectAccessReviewVersion", Shape::Text),
    ("failurePolicy", Shape::Text),
    ("connectionInfo", Shape::Object(&[("type", Shape::Text), ("kubeConfigFile", Shape::Text)])),
    ("matchConditions", Shape::List(&Shape::Object(&[("expression", Shape::Text)]))),
];

/// One authorizer of the file.
pub struct ConfiguredAuthorizer {
    pub mode: Mode,
    pub name: String,
    /// Of a webhook.
    pub webhook: Option<ConfiguredWebhook>,
}

pub struct ConfiguredWebhook {
    pub settings: AccessWebhookSettings,
    pub conditions: AccessConditions,
    pub connection: Connection,
}

/// How a webhook is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    KubeConfigFile(PathBuf),
    /// By the files of the pod that the API server runs in.
    InCluster,
}

/// Reads the authorizers of a file, which must be wholly valid.
pub fn parse_configuration(text: &str) -> Result<Vec<ConfiguredAuthorizer>, String> {
    let file = config_file::read(text, "AuthorizationConfiguration", FIELDS)
        .map_err(|e| format!("failed to load AuthorizationConfiguration from file: {e}"))?;
    let mut reader = Reader { errors: Vec::new() };
    let all = reader.authorizers(&file);
    aggregate(reader.errors.iter().map(ToString::to_string))?;
    aggregate(all.iter().filter(|one| one.mode != Mode::Webhook && one.name != one.mode.usual_name()).map(|one| {
        format!("expected name {} for authorizer {} instead of {}", one.mode.usual_name(), one.mode.as_str(), one.name)
    }))?;
    Ok(all)
}

struct Reader {
    errors: Vec<FieldError>,
}

impl Reader {
    fn authorizers(&mut self, file: &Value) -> Vec<ConfiguredAuthorizer> {
        let path = FieldPath::new("authorizers");
        let listed = list(file, "authorizers");
        if listed.is_empty() {
            self.errors.push(FieldError::required(&path, "at least one authorization mode must be defined"));
        }
        let (mut modes, mut names) = (Vec::new(), Vec::new());
        let mut all = Vec::new();
        for (index, authorizer) in listed.iter().enumerate() {
            let path = path.index(index);
            let (kind, name) = (text(authorizer, "type"), text(authorizer, "name"));
            if kind.is_empty() {
                self.errors.push(FieldError::required(&path.child("type"), ""));
                continue;
            }
            let Some(mode) = Mode::named(kind) else {
                self.errors.push(FieldError::not_supported(&path.child("type"), kind, &TYPES));
                continue;
            };
            if modes.contains(&mode) && mode != Mode::Webhook {
                self.errors.push(FieldError::duplicate(&path.child("type"), kind));
                continue;
            }
            modes.push(mode);
            let problems = dns1123_subdomain(name);
            if name.is_empty() {
                self.errors.push(FieldError::required(&path.child("name"), ""));
            } else if names.contains(&name) {
                self.errors.push(FieldError::duplicate(&path.child("name"), name));
            } else if !problems.is_empty() {
                let detail = format!("authorizer name is invalid: {}", problems.join(", "));
                self.errors.push(FieldError::invalid(&path.child("name"), name, detail));
            }
            names.push(name);
            let webhook = match (&authorizer["webhook"], mode) {
                (Value::Null, Mode::Webhook) => {
                    self.errors.push(FieldError::required(&path.child("webhook"), "required when type=Webhook"));
                    None
                }
                // Upstream tells of its fields without naming it.
                (webhook, Mode::Webhook) => self.webhook(&path, webhook),
                (Value::Null, _) => None,
                _ => {
                    let detail = "may only be specified when type=Webhook";
                    self.errors.push(FieldError::invalid(&path.child("webhook"), "non-null", detail));
                    None
                }
            };
            all.push(ConfiguredAuthorizer { mode, name: name.to_owned(), webhook });
        }
        all
    }

    fn webhook(&mut self, path: &FieldPath, webhook: &Value) -> Option<ConfiguredWebhook> {
        let timeout = self.duration(path, webhook, "timeout", Duration::ZERO);
        if timeout.is_zero() {
            self.errors.push(FieldError::required(&path.child("timeout"), ""));
        } else if timeout > Duration::from_secs(30) {
            let given = text(webhook, "timeout");
            self.errors.push(FieldError::invalid(&path.child("timeout"), given, "must be > 0s and <= 30s"));
        }
        let kept = |reader: &mut Self, field: &str, cache: &str, usual: u64| {
            let time = reader.duration(path, webhook, field, Duration::from_secs(usual));
            if webhook[cache] == false { Duration::ZERO } else { time }
        };
        let authorized_ttl = kept(self, "authorizedTTL", "cacheAuthorizedRequests", 300);
        let unauthorized_ttl = kept(self, "unauthorizedTTL", "cacheUnauthorizedRequests", 30);
        let version = self.choice(path, webhook, "subjectAccessReviewVersion", &["v1", "v1beta1"]);
        let policy = self.choice(path, webhook, "failurePolicy", &["NoOpinion", "Deny"]);
        let connection = self.connection(&path.child("connectionInfo"), &webhook["connectionInfo"]);
        let conditions = self.conditions(path, webhook);
        let settings = AccessWebhookSettings {
            v1: version == "v1",
            authorized_ttl,
            unauthorized_ttl,
            timeout,
            deny_on_error: policy == "Deny",
            backoff: Backoff::default(),
        };
        Some(ConfiguredWebhook { settings, conditions, connection: connection? })
    }

    fn duration(&mut self, path: &FieldPath, value: &Value, field: &str, usual: Duration) -> Duration {
        match &value[field] {
            Value::Null => usual,
            Value::String(text) => match parse_duration(text) {
                Some(time) if time.is_zero() => usual,
                Some(time) => time,
                None => {
                    self.errors.push(FieldError::invalid(&path.child(field), text.as_str(), "must be > 0s"));
                    usual
                }
            },
            other => {
                self.errors.push(FieldError::invalid(
                    &path.child(field),
                    other.clone(),
                    "must be a duration such as 3s",
                ));
                usual
            }
        }
    }

    fn choice<'v>(&mut self, path: &FieldPath, value: &'v Value, field: &str, choices: &[&str]) -> &'v str {
        let chosen = text(value, field);
        if chosen.is_empty() {
            self.errors.push(FieldError::required(&path.child(field), ""));
        } else if !choices.contains(&chosen) {
            self.errors.push(FieldError::not_supported(&path.child(field), chosen, choices));
        }
        chosen
    }

    fn conditions(&mut self, path: &FieldPath, webhook: &Value) -> AccessConditions {
        let listed = list(webhook, "matchConditions");
        let field = "matchConditionSubjectAccessReviewVersion";
        match text(webhook, field) {
            "" if listed.is_empty() => {}
            "" => {
                let detail = "required if match conditions are specified";
                self.errors.push(FieldError::required(&path.child(field), detail));
            }
            "v1" => {}
            other => self.errors.push(FieldError::not_supported(&path.child(field), other, &["v1"])),
        }
        let path = path.child("matchConditions");
        let mut conditions = AccessConditions::default();
        if listed.len() > CONDITIONS_MAX {
            self.errors.push(FieldError::too_many(&path, listed.len(), CONDITIONS_MAX));
            return conditions;
        }
        let mut seen = Vec::new();
        for (index, condition) in listed.iter().enumerate() {
            let path = path.index(index).child("expression");
            let expression = text(condition, "expression");
            if expression.trim().is_empty() {
                self.errors.push(FieldError::required(&path, ""));
            } else if seen.contains(&expression) {
                self.errors.push(FieldError::duplicate(&path, expression));
            } else {
                seen.push(expression);
                if let Err(detail) = conditions.add(expression) {
                    self.errors.push(FieldError::invalid(&path, expression, detail));
                }
            }
        }
        conditions
    }

    fn connection(&mut self, path: &FieldPath, info: &Value) -> Option<Connection> {
        let (kind, file) = (text(info, "type"), text(info, "kubeConfigFile"));
        let path_of_file = path.child("kubeConfigFile");
        match kind {
            "" => self.errors.push(FieldError::required(&path.child("type"), "")),
            "InClusterConfig" if file.is_empty() => return Some(Connection::InCluster),
            "InClusterConfig" => {
                let detail = "can only be set when type=KubeConfigFile";
                self.errors.push(FieldError::invalid(&path_of_file, file, detail));
            }
            "KubeConfigFile" if file.is_empty() => self.errors.push(FieldError::required(&path_of_file, "")),
            "KubeConfigFile" if !Path::new(file).is_absolute() => {
                self.errors.push(FieldError::invalid(&path_of_file, file, "must be an absolute path"));
            }
            "KubeConfigFile" => match std::fs::metadata(file) {
                Ok(found) if found.is_file() => return Some(Connection::KubeConfigFile(file.into())),
                Ok(_) => self.errors.push(FieldError::invalid(&path_of_file, file, "must be a regular file")),
                Err(error) => {
                    let detail = format!("error loading file: stat {file}: {}", cause(&error));
                    self.errors.push(FieldError::invalid(&path_of_file, file, detail));
                }
            },
            other => {
                let kinds = ["InClusterConfig", "KubeConfigFile"];
                self.errors.push(FieldError::not_supported(&path.child("type"), other, &kinds));
            }
        }
        None
    }
}

/// As Go tells it: without the number.
fn cause(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- {type: Node, name: node}
- type: Webhook
  name: first.example
  webhook:
    timeout: 3s
    unauthorizedTTL: 10s
    cacheAuthorizedRequests: false
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: /etc/hostname}
    matchConditions:
    - expression: has(request.resourceAttributes)
- type: Webhook
  name: second
  webhook:
    timeout: 30s
    subjectAccessReviewVersion: v1beta1
    failurePolicy: NoOpinion
    connectionInfo: {type: InClusterConfig}
- {type: RBAC, name: rbac}
";

    #[test]
    fn a_file_lists_authorizers() {
        let all = parse_configuration(FILE).unwrap();
        let modes: Vec<Mode> = all.iter().map(|a| a.mode).collect();
        assert_eq!(modes, [Mode::Node, Mode::Webhook, Mode::Webhook, Mode::Rbac]);
        let (first, second) = (all[1].webhook.as_ref().unwrap(), all[2].webhook.as_ref().unwrap());
        let settings = first.settings;
        assert!(settings.v1 && settings.deny_on_error && settings.authorized_ttl.is_zero());
        assert_eq!((settings.timeout.as_secs(), settings.unauthorized_ttl.as_secs()), (3, 10));
        assert_eq!(first.connection, Connection::KubeConfigFile("/etc/hostname".into()));
        assert!(!first.conditions.is_empty() && second.conditions.is_empty());
        assert_eq!((second.settings.authorized_ttl.as_secs(), second.settings.v1), (300, false));
        assert_eq!(second.connection, Connection::InCluster);
    }

    #[test]
    fn what_is_wrong_is_told_where_it_is() {
        for (from, to, expect) in [
            ("type: Node", "type: Nod", "authorizers[0].type: Unsupported value: \"Nod\": supported values: "),
            ("name: node", "name: second", "authorizers[2].name: Duplicate value: \"second\""),
            ("type: RBAC", "type: Node", "authorizers[3].type: Duplicate value: \"Node\""),
            ("timeout: 3s", "timeout: 31s", "authorizers[1].timeout: Invalid value: \"31s\": must be > 0s and <= 30s"),
            ("    timeout: 3s\n", "", "authorizers[1].timeout: Required value"),
            ("timeout: 3s", "x: 1", "strict decoding error: unknown field \"authorizers[1].webhook.x\""),
            ("name: rbac", "name: roles", "expected name rbac for authorizer RBAC instead of roles"),
            (
                "/etc/hostname",
                "/etc",
                "authorizers[1].connectionInfo.kubeConfigFile: Invalid value: \"/etc\": must be a reg",
            ),
            ("/etc/hostname", "/no/file", "error loading file: stat /no/file: no such file or directory"),
            (
                "failurePolicy: Deny",
                "failurePolicy: Allow",
                "authorizers[1].failurePolicy: Unsupported value: \"Allow\"",
            ),
            ("/etc/hostname", "authz.yaml", "kubeConfigFile: Invalid value: \"authz.yaml\": must be an absolute path"),
            ("has(request.resourceAttributes)", "request.user", "must evaluate to bool but got string"),
            ("    matchConditionSubjectAccessReviewVersion: v1\n", "", "required if match conditions are specified"),
            ("kind: Auth", "kind: X", "no kind \"XorizationConfiguration\" is registered"),
        ] {
            let error = parse_configuration(&FILE.replacen(from, to, 1)).err().unwrap_or_else(|| panic!("{to}"));
            assert!(error.contains(expect), "{error}");
        }
        let none = "{apiVersion: apiserver.config.k8s.io/v1, kind: AuthorizationConfiguration}";
        let told = "authorizers: Required value: at least one authorization mode must be defined";
        assert_eq!(parse_configuration(none).err().unwrap(), told);
    }
}
