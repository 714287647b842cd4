//! ConfigMap, Secret and ServiceAccount.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kybern_apimachinery::field::{FieldError, FieldPath};
use kybern_apimachinery::{Value, object};
use kybern_apiserver::strategy::{Strategy, StrategyContext};
use kybern_schema::json_object_fault;

use crate::tree::{default, flag, map, text};
use crate::validation::{Errors, format, key_pair, update};

/// The largest total of an object's data, in bytes.
const MAX_DATA: usize = 1 << 20;

/// What neither may change once `immutable` is set.
fn immutability(object: &Value, old: &Value, data: &[&str]) -> Vec<FieldError> {
    let mut out = Vec::new();
    if flag(old, "immutable") {
        if !flag(object, "immutable") {
            out.push(FieldError::forbidden(&FieldPath::new("immutable"), "field is immutable when `immutable` is set"));
        }
        for field in data {
            if object.get(field) != old.get(field) {
                out.push(FieldError::forbidden(&FieldPath::new(field), "field is immutable when `immutable` is set"));
            }
        }
    }
    out
}

fn keys(out: &mut Errors, object: &Value, field: &str) {
    for (key, _) in map(object, field) {
        let path = FieldPath::new(field).key(key);
        format::invalid(out, &path, key, format::config_key(key));
    }
}

/// What base64 data stands for.
fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or("")).unwrap_or_default()
}

/// The size of base64 data once decoded.
fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("");
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        for field in ["data", "binaryData"] {
            keys(&mut out, object, field);
        }
        for (key, _) in map(object, "binaryData") {
            if object["data"].get(key).is_some() {
                out.push(FieldError::invalid(
                    &FieldPath::new("data").key(key),
                    key.as_str(),
                    "duplicate of key present in binaryData",
                ));
            }
        }
        let plain: usize = map(object, "data").map(|(_, v)| v.as_str().map_or(0, str::len)).sum();
        let binary: usize = map(object, "binaryData").map(|(_, v)| decoded_len(v)).sum();
        if plain + binary > MAX_DATA {
            out.push(FieldError::too_long(&FieldPath::new("[]"), MAX_DATA));
        }
        out
    }

    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        immutability(object, old, &["data", "binaryData"])
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Secret;

/// The key that each type of Secret must have.
const REQUIRED_KEYS: [(&str, &[&str]); 4] = [
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

impl Strategy for Secret {
    fn default(&self, secret: &mut Value) {
        default(secret, "type", "Opaque");
        // Written in the clear for convenience, stored and read as data.
        let Some(Value::Object(clear)) = secret.as_object_mut().and_then(|s| s.remove("stringData")) else { return };
        if clear.is_empty() {
            return;
        }
        let data = object::map_at_mut(secret, &["data"]);
        for (key, value) in clear {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or("")).into());
        }
    }

    fn prepare_for_update(&self, _: &StrategyContext<'_>, secret: &mut Value, old: &Value) {
        // Clients from before types were written.
        if text(secret, "type").is_empty() {
            crate::tree::keep(secret, old, "type");
        }
    }

    fn validate(&self, secret: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        keys(&mut out, secret, "data");
        let total: usize = map(secret, "data").map(|(_, v)| decoded_len(v)).sum();
        let path = FieldPath::new("data");
        if total > MAX_DATA {
            out.push(FieldError::too_long(&path, MAX_DATA));
        }
        let kind = text(secret, "type");
        for (_, required) in REQUIRED_KEYS.iter().filter(|(k, _)| *k == kind) {
            for key in *required {
                match secret["data"].get(*key) {
                    None => out.push(FieldError::required(&path.key(key), "")),
                    // An empty key is none, while an empty certificate is only warned of.
                    Some(value) if kind == "kubernetes.io/ssh-auth" && value == "" => {
                        out.push(FieldError::required(&path.key(key), ""));
                    }
                    Some(value) if kind.starts_with("kubernetes.io/docker") => {
                        if let Some(fault) = json_object_fault(&bytes(value)) {
                            let shown = "<secret contents redacted>";
                            out.push(FieldError::invalid(&path.key(key), shown, fault));
                        }
                    }
                    Some(_) => {}
                }
            }
        }
        if kind == "kubernetes.io/basic-auth"
            && ["username", "password"].iter().all(|k| secret["data"].get(*k).is_none())
        {
            out.push(FieldError::required(&path.key("username"), ""));
            out.push(FieldError::required(&path.key("password"), ""));
        }
        if kind == "kubernetes.io/service-account-token"
            && object::annotation(secret, "kubernetes.io/service-account.name").is_none_or(str::is_empty)
        {
            out.push(FieldError::required(
                &FieldPath::new("metadata.annotations").key("kubernetes.io/service-account.name"),
                "",
            ));
        }
        out
    }

    fn validate_update(&self, secret: &Value, old: &Value) -> Vec<FieldError> {
        let mut out = Vec::new();
        update::immutable(&mut out, &FieldPath::new("type"), secret.get("type"), old.get("type"));
        out.extend(immutability(secret, old, &["data"]));
        out
    }

    fn warnings(&self, secret: &Value, _old: Option<&Value>) -> Vec<String> {
        if text(secret, "type") != "kubernetes.io/tls" {
            return Vec::new();
        }
        let part = |key: &str| secret["data"].get(key).map(bytes).unwrap_or_default();
        key_pair::fault(&part("tls.crt"), &part("tls.key")).into_iter().collect()
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServiceAccount;

impl Strategy for ServiceAccount {}

#[cfg(test)]
mod tests {
    use super::*;
    use kybern_apimachinery::json;

    fn texts(errors: &[FieldError]) -> String {
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn config_maps() {
        assert_eq!(texts(&ConfigMap.validate(&json!({"data": {"a.b": "x"}}))), "");
        assert!(
            texts(&ConfigMap.validate(&json!({"data": {"a b": "x"}})))
                .starts_with("data[a b]: Invalid value: \"a b\": a valid config key")
        );
        assert!(!ConfigMap.validate(&json!({"data": {"a": "x".repeat(MAX_DATA + 1)}})).is_empty());
        let old = json!({"immutable": true, "data": {"a": "1"}});
        assert_eq!(
            texts(&ConfigMap.validate_update(&json!({"immutable": true, "data": {"a": "2"}}), &old)),
            "data: Forbidden: field is immutable when `immutable` is set"
        );
    }

    #[test]
    fn secrets() {
        let mut secret = json!({"stringData": {"a": "x"}, "data": {"b": "eQ=="}});
        Secret.default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
        let tls = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}});
        assert_eq!(texts(&Secret.validate(&tls)), "data[tls.key]: Required value");
        assert_eq!(Secret.warnings(&tls, None), ["tls: failed to find any PEM data in certificate input"]);
        let ssh = json!({"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}});
        assert_eq!(texts(&Secret.validate(&ssh)), "data[ssh-privatekey]: Required value");
        let docker = |data: &str| {
            let data = STANDARD.encode(data);
            let secret = json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": data}});
            texts(&Secret.validate(&secret))
        };
        assert_eq!(docker("{}"), "");
        assert!(docker("").ends_with("\"<secret contents redacted>\": unexpected end of JSON input"));
        assert!(docker("0").ends_with("json: cannot unmarshal number into Go value of type map[string]interface {}"));
        assert_eq!(
            texts(&Secret.validate_update(&json!({"type": "a"}), &json!({"type": "Opaque"}))),
            "type: Invalid value: \"a\": field is immutable"
        );
        assert_eq!((decoded_len(&"eA==".into()), decoded_len(&"".into()), decoded_len(&"YWJj".into())), (1, 0, 3));
    }
}
