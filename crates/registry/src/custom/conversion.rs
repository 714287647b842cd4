//! Conversion between the versions of a custom resource by its definition's webhook.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::{ApiError, Gvk, Reason, Value, go, json, object};
use kybern_apiserver::BoxFuture;
use kybern_apiserver::resource::Conversion;
use kybern_schema::structural::Upkeep;
use kybern_webhook::{ClientConfig, ClientManager};

use crate::tree::{list, text};

/// What keeps the objects of each version.
pub(super) type Upkeeps = HashMap<String, Arc<Upkeep>>;

/// How a definition's versions are converted; `None` where they differ in name only.
pub(super) fn of(
    definition: &Value,
    upkeeps: &Arc<Upkeeps>,
    webhooks: &Arc<ClientManager>,
) -> Option<Arc<dyn Conversion>> {
    let conversion = &definition["spec"]["conversion"];
    if text(conversion, "strategy") != "Webhook" {
        let mut schemas = upkeeps.values().map(|upkeep| &upkeep.schema);
        let first = schemas.next()?;
        let same = schemas.all(|schema| schema == first);
        return (!same).then(|| Arc::new(Renaming(upkeeps.clone())) as Arc<dyn Conversion>);
    }
    let webhook = &conversion["webhook"];
    let understood = list(webhook, "conversionReviewVersions").iter().filter_map(Value::as_str);
    Some(Arc::new(Webhook {
        config: ClientConfig::from_value(&webhook["clientConfig"]),
        review: understood.map(str::to_owned).find(|version| matches!(version.as_str(), "v1" | "v1beta1")),
        webhooks: webhooks.clone(),
        upkeeps: upkeeps.clone(),
    }))
}

/// Drops what the schema of the version that an object is in now does not know.
fn pruned(upkeeps: &Upkeeps, object: &mut Value) {
    let version = object::api_version(object).rsplit('/').next().unwrap_or_default();
    if let Some(upkeep) = upkeeps.get(version).cloned() {
        upkeep.prune(object);
    }
}

/// Versions of other schemas, which nobody translates: what both know stays.
struct Renaming(Arc<Upkeeps>);

impl Conversion for Renaming {
    fn convert<'a>(&'a self, objects: Vec<Value>, api_version: &'a str) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        let renamed = objects.into_iter().map(|mut object| {
            object::set(&mut object, &["apiVersion"], api_version);
            pruned(&self.0, &mut object);
            object
        });
        let renamed = renamed.collect();
        Box::pin(async move { Ok(renamed) })
    }
}

struct Webhook {
    config: Result<ClientConfig, String>,
    /// The version in which it is asked.
    review: Option<String>,
    webhooks: Arc<ClientManager>,
    upkeeps: Arc<Upkeeps>,
}

impl Conversion for Webhook {
    fn convert<'a>(&'a self, objects: Vec<Value>, api_version: &'a str) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move {
            let of = objects.first().and_then(object::gvk).map_or_else(String::new, |gvk: Gvk| gvk.to_string());
            // As upstream passes them on.
            let failed = |what: String| ApiError::new(Reason::Unknown, format!("conversion webhook for {of} {what}"));
            let answered = self.ask(&objects, api_version).await.map_err(|cause| failed(format!("failed: {cause}")))?;
            if answered.len() != objects.len() {
                let (got, expected) = (answered.len(), objects.len());
                return Err(failed(format!("returned {got} objects, expected {expected}")));
            }
            let checked = objects.iter().zip(answered).map(|(original, converted)| {
                let mut converted =
                    restored(original, converted, api_version).map_err(|cause| failed(cause.to_string()))?;
                pruned(&self.upkeeps, &mut converted);
                Ok(converted)
            });
            checked.collect()
        })
    }
}

impl Webhook {
    async fn ask(&self, objects: &[Value], api_version: &str) -> Result<Vec<Value>, String> {
        let client = self.webhooks.client(self.config.as_ref().map_err(Clone::clone)?)?;
        let version = self.review.as_deref().ok_or("no supported conversion review versions")?;
        let uid = kybern_component_base::uuid::v4();
        let review = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{version}"),
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        });
        let answer = client.post(review.to_string().into(), None).await.map_err(|error| error.to_string())?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|error| format!("its answer is no JSON: {error}"))?;
        let response = &answer["response"];
        if version == "v1"
            && (object::kind(&answer) != "ConversionReview" || answer["apiVersion"] != review["apiVersion"])
        {
            let got = object::gvk(&answer).map_or_else(|| "/, Kind=".to_owned(), |gvk| gvk.to_string());
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {got}"
            ));
        }
        if !response.is_object() {
            return Err("no response provided".to_owned());
        }
        if version == "v1" && text(response, "uid") != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
        }
        let result = &response["result"];
        match (text(result, "status"), text(result, "message")) {
            ("Success", _) => Ok(list(response, "convertedObjects").to_vec()),
            (status, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
            (_, message) => Err(message.to_owned()),
        }
    }
}

/// What is wrong with a converted object.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("returned invalid object at index 0: {0}")]
    Type(String),
    #[error("returned invalid object: {0}")]
    Identity(String),
    #[error("returned invalid metadata: {0}")]
    Metadata(String),
}

/// A converted object with the metadata of the original: a webhook decides about labels and annotations only.
fn restored(original: &Value, mut converted: Value, api_version: &str) -> Result<Value, Fault> {
    if object::api_version(&converted) != api_version {
        let got = object::api_version(&converted);
        return Err(Fault::Type(format!("invalid groupVersion (expected {api_version}, received {got})")));
    }
    if object::kind(&converted) != object::kind(original) {
        let (expected, got) = (object::kind(original), object::kind(&converted));
        return Err(Fault::Type(format!("invalid kind (expected {expected}, received {got})")));
    }
    for (what, field) in [("name", "name"), ("namespace", "namespace"), ("UID", "uid")] {
        let of = |object: &Value| object::str_at(object, &["metadata", field]).to_owned();
        if of(original) != of(&converted) {
            let text = format!("must have the same {what}: {} != {}", of(original), of(&converted));
            return Err(Fault::Identity(text));
        }
    }
    match &converted["metadata"] {
        Value::Object(_) => {}
        Value::Null => return Err(Fault::Metadata("missing metadata in converted object".to_owned())),
        other => {
            let text = format!("invalid metadata of type {} in converted object", go::type_of(other));
            return Err(Fault::Metadata(text));
        }
    }
    let mut metadata = original["metadata"].clone();
    for field in ["labels", "annotations"] {
        object::remove(&mut metadata, &[field]);
        let Some(kept) = object::remove(&mut converted, &["metadata", field]).filter(|kept| !kept.is_null()) else {
            continue;
        };
        let Value::Object(texts) = &kept else {
            let text = format!("invalid metadata.{field} of type {} in converted object", go::type_of(&kept));
            return Err(Fault::Metadata(text));
        };
        if let Some((key, value)) = texts.iter().find(|(_, value)| !value.is_string()) {
            let text =
                format!("metadata.{field}[{key}] must be a string, but is {} in converted object", go::type_of(value));
            return Err(Fault::Metadata(text));
        }
        metadata[field] = kept;
    }
    converted["metadata"] = metadata;
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_changes_no_identity() {
        let original = json!({"apiVersion": "ex.io/v1", "kind": "Foo", "metadata": {"name": "a", "uid": "1", "finalizers": ["f"],
            "labels": {"a": "b"}}, "size": 1});
        let converted = |change: Value| {
            let mut converted = json!({"apiVersion": "ex.io/v2", "kind": "Foo", "metadata": {"name": "a", "uid": "1"}});
            for (key, value) in change.as_object().unwrap() {
                converted[key] = value.clone();
            }
            restored(&original, converted, "ex.io/v2")
        };
        let good = converted(json!({"metadata": {"name": "a", "uid": "1", "labels": {"c": "d"}}})).unwrap();
        assert_eq!(good["metadata"], json!({"name": "a", "uid": "1", "finalizers": ["f"], "labels": {"c": "d"}}));
        for (change, cause) in [
            (
                json!({"apiVersion": "ex.io/v3"}),
                "returned invalid object at index 0: invalid groupVersion (expected ex.io/v2, received ex.io/v3)",
            ),
            (json!({"kind": "Bar"}), "returned invalid object at index 0: invalid kind (expected Foo, received Bar)"),
            (
                json!({"metadata": {"name": "b", "uid": "1"}}),
                "returned invalid object: must have the same name: a != b",
            ),
            (json!({"metadata": {"name": "a", "uid": "2"}}), "returned invalid object: must have the same UID: 1 != 2"),
            (
                json!({"metadata": {"name": "a", "uid": "1", "labels": {"a": 1}}}),
                "returned invalid metadata: metadata.labels[a] must be a string, but is int64 in converted object",
            ),
        ] {
            assert_eq!(converted(change).unwrap_err().to_string(), cause);
        }
    }
}
