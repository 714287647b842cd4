//! An APIService as the aggregator reads it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::{Value, json, object, time};

use crate::tree::{flag, int, list, text};

/// Says how an APIService is kept, and by whom: by the server that finds it.
pub(super) const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
pub(super) const ON_START: &str = "onstart";
pub(super) const ALWAYS: &str = "true";

#[derive(Clone, Debug, PartialEq)]
pub(super) struct ApiService {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) group: String,
    pub(super) version: String,
    pub(super) group_priority: i64,
    pub(super) version_priority: i64,
    /// The value of [`MANAGED`].
    pub(super) managed: String,
    /// `None`: this server serves it.
    pub(super) backend: Option<Backend>,
    /// `Available`.
    pub(super) condition: Condition,
}

/// Where another server is, and how it is recognized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: u16,
    /// PEM; empty for the system's authorities.
    pub(super) ca_bundle: Vec<u8>,
    pub(super) insecure: bool,
}

/// The condition `Available` but for its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Condition {
    pub(super) fn new(status: &str, reason: &str, message: impl Into<String>) -> Self {
        Self { status: status.to_owned(), reason: reason.to_owned(), message: message.into() }
    }

    pub(super) fn local() -> Self {
        Self::new("True", "Local", "Local APIServices are always available")
    }

    pub(super) fn is_true(&self) -> bool {
        self.status == "True"
    }

    fn of(object: &Value) -> Self {
        let all = list(&object["status"], "conditions");
        let found = all.iter().find(|condition| text(condition, "type") == "Available");
        found.map_or_else(Self::default, |c| Self::new(text(c, "status"), text(c, "reason"), text(c, "message")))
    }

    /// Writes it into an object; its time changes with its status.
    pub(super) fn set(&self, object: &mut Value, now: jiff::Timestamp) {
        if Self::of(object) == *self {
            return;
        }
        if !object["status"]["conditions"].is_array() {
            object::set(object, &["status", "conditions"], json!([]));
        }
        let Some(all) = object["status"]["conditions"].as_array_mut() else { return };
        let at = all.iter().position(|condition| text(condition, "type") == "Available").unwrap_or_else(|| {
            all.push(json!({"type": "Available"}));
            all.len() - 1
        });
        let condition = &mut all[at];
        if condition["status"] != self.status.as_str() {
            condition["status"] = self.status.as_str().into();
            condition["lastTransitionTime"] = time::to_rfc3339(now).into();
        }
        condition["reason"] = self.reason.as_str().into();
        condition["message"] = self.message.as_str().into();
    }
}

impl ApiService {
    pub(super) fn read(object: &Value) -> Self {
        let spec = &object["spec"];
        let service = &spec["service"];
        let backend = service.is_object().then(|| Backend {
            namespace: text(service, "namespace").to_owned(),
            name: text(service, "name").to_owned(),
            port: int(service, "port").and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            ca_bundle: STANDARD.decode(text(spec, "caBundle")).unwrap_or_default(),
            insecure: flag(spec, "insecureSkipTLSVerify"),
        });
        Self {
            name: object::name(object).to_owned(),
            uid: object::uid(object).to_owned(),
            group: text(spec, "group").to_owned(),
            version: text(spec, "version").to_owned(),
            group_priority: int(spec, "groupPriorityMinimum").unwrap_or(0),
            version_priority: int(spec, "versionPriority").unwrap_or(0),
            managed: object::label(object, MANAGED).unwrap_or_default().to_owned(),
            backend,
            condition: Condition::of(object),
        }
    }

    /// Where requests for it begin: the core group is served below a path of its own.
    pub(super) fn path(&self) -> String {
        if self.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}/{}", self.group, self.version) }
    }

    /// What every server of it has to answer.
    pub(super) fn discovery_path(&self) -> String {
        if self.group.is_empty() { format!("/api/{}", self.version) } else { self.path() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conditions_time_changes_with_its_status() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let mut object = json!({"status": {"conditions": [{"type": "Other", "status": "True"}]}});
        let time = |object: &Value| object["status"]["conditions"][1]["lastTransitionTime"].as_str().map(str::to_owned);
        Condition::new("False", "A", "a").set(&mut object, at("2026-11-28T00:00:00Z"));
        Condition::new("False", "B", "b").set(&mut object, at("2026-11-28T00:00:01Z"));
        assert_eq!(time(&object).unwrap(), "2026-11-28T00:00:00Z");
        assert_eq!(Condition::of(&object), Condition::new("False", "B", "b"));
        Condition::local().set(&mut object, at("2026-11-28T00:00:02Z"));
        assert_eq!(time(&object).unwrap(), "2026-11-28T00:00:02Z");
        assert_eq!(object["status"]["conditions"].as_array().unwrap().len(), 2);
        let mut empty = json!({});
        Condition::local().set(&mut empty, at("2026-11-28T00:00:02Z"));
        assert!(Condition::of(&empty).is_true());
    }
}
