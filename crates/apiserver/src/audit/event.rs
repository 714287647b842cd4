//! What is recorded of a request: `audit.k8s.io/v1` `Event`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kybern_apimachinery::{ApiError, Map, Value, json, time};
use serde::{Serialize, Serializer};

use super::policy::{Level, Stage};
use crate::access::UserInfo;

/// One line of the log. The order of the fields is upstream's.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub(super) kind: &'static str,
    pub(super) api_version: &'static str,
    pub(super) level: Level,
    #[serde(rename = "auditID")]
    pub(super) id: String,
    pub(super) stage: Stage,
    #[serde(rename = "requestURI")]
    pub(super) request_uri: String,
    pub(super) verb: String,
    pub(super) user: Person,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) impersonated_user: Option<Person>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub(super) source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_object: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_object: Option<Value>,
    #[serde(serialize_with = "micro")]
    pub(super) request_received_timestamp: Timestamp,
    #[serde(serialize_with = "micro")]
    pub(super) stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

fn micro<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time::to_rfc3339_micro(*time))
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Person {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for Person {
    fn from(user: &UserInfo) -> Self {
        let UserInfo { name, uid, groups, extra } = user.clone();
        Self { username: name, uid, groups, extra }
    }
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) subresource: String,
}

impl Default for Event {
    fn default() -> Self {
        Self {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: Level::None,
            id: String::new(),
            stage: Stage::RequestReceived,
            request_uri: String::new(),
            verb: String::new(),
            user: Person::default(),
            impersonated_user: None,
            source_ips: Vec::new(),
            user_agent: String::new(),
            object_ref: None,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: Timestamp::UNIX_EPOCH,
            stage_timestamp: Timestamp::UNIX_EPOCH,
            annotations: BTreeMap::new(),
        }
    }
}

/// `responseStatus` of a `Status`: without what says that it is one.
pub(super) fn status_of(status: &Value) -> Value {
    let mut out = Map::from_iter([("metadata".to_owned(), json!({}))]);
    for field in ["status", "message", "reason", "details", "code"] {
        if let Some(value) = status.get(field).filter(|value| !value.is_null()) {
            out.insert(field.to_owned(), value.clone());
        }
    }
    Value::Object(out)
}

pub(super) fn status_of_error(error: &ApiError) -> Value {
    status_of(&error.to_status())
}

/// Without who owns which field.
pub(super) fn without_managed_fields(mut object: Value) -> Value {
    let clean = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    clean(&mut object);
    let below = |object: &mut Value, list: &str, within: Option<&str>| {
        for item in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            match within {
                Some(within) => item.get_mut(within).into_iter().for_each(clean),
                None => clean(item),
            }
        }
    };
    below(&mut object, "items", None);
    below(&mut object, "rows", Some("object"));
    object
}

impl Event {
    pub(super) fn to_json(&self) -> Vec<u8> {
        // Maps with text for keys: it cannot fail.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// The one line of upstream's format `legacy`.
    pub(super) fn to_legacy(&self) -> Vec<u8> {
        let list = |groups: &[String]| groups.iter().map(|g| format!("{g:?}")).collect::<Vec<_>>().join(",");
        let or = |text: &str, none: &str| if text.is_empty() { none.to_owned() } else { text.to_owned() };
        let user = or(&self.user.username, "<none>");
        let groups =
            if self.user.username.is_empty() { "<none>".to_owned() } else { or(&list(&self.user.groups), "<none>") };
        let (as_user, as_groups) = match &self.impersonated_user {
            None => ("<self>".to_owned(), "<lookup>".to_owned()),
            Some(person) => (person.username.clone(), or(&list(&person.groups), "<lookup>")),
        };
        let namespace = or(self.object_ref.as_ref().map_or("", |r| r.namespace.as_str()), "<none>");
        let code = self.response_status.as_ref().map(|s| s["code"].as_u64().unwrap_or(0).to_string());
        let ip = self.source_ips.first().map_or("<unknown>", String::as_str);
        let line = format!(
            "{} AUDIT: id={:?} stage=\"{:?}\" ip={ip:?} method={:?} user={user:?} groups={groups:?} as={as_user:?} \
             asgroups={as_groups:?} user-agent={:?} namespace={namespace:?} uri={:?} response=\"{}\"\n",
            self.request_received_timestamp,
            self.id,
            self.stage,
            self.verb,
            self.user_agent,
            self.request_uri,
            code.as_deref().unwrap_or("<deferred>"),
        );
        line.into_bytes()
    }
}
