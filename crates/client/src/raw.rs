//! The untyped verbs: any resource, as JSON trees.

use http::Method;
use kybern_apimachinery::{Gvr, Value, object};

use crate::client::{Call, JSON, path_of, some};
use crate::options::{DeleteOptions, ListOptions, Patch};
use crate::split::{elements, members};
use crate::watch::Watcher;
use crate::{Client, ClientError, PartialMetadata};

/// What the server reduces objects to when asked for metadata only.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// One resource of the server. Namespaces are empty for cluster-scoped kinds, or to list all.
#[derive(Clone, Debug)]
pub struct Raw {
    client: Client,
    gvr: Gvr,
    metadata_only: bool,
}

/// One page of a list; the items are slices of the response.
pub(crate) struct Page<'a> {
    pub(crate) resource_version: String,
    pub(crate) continue_token: String,
    pub(crate) items: Vec<&'a [u8]>,
}

impl Raw {
    pub(crate) fn new(client: Client, gvr: Gvr) -> Self {
        Self { client, gvr, metadata_only: false }
    }

    /// The same resource, read as `PartialObjectMetadata`.
    #[must_use]
    pub fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub fn gvr(&self) -> &Gvr {
        &self.gvr
    }

    fn collection(&self, namespace: &str) -> String {
        self.gvr.path(some(namespace))
    }

    fn path(&self, namespace: &str, name: &str, subresource: Option<&str>) -> String {
        path_of(&self.gvr, namespace, name, subresource)
    }

    async fn value(&self, call: Call) -> Result<Value, ClientError> {
        let bytes = self.client.call(call).await?;
        serde_json::from_slice(&bytes)
            .map_err(|e| ClientError::Decode(format!("cannot decode the answer about {}: {e}", self.gvr)))
    }

    async fn identity(&self, call: Call) -> Result<PartialMetadata, ClientError> {
        Ok(PartialMetadata::from_json(&self.client.call(call).await?)?)
    }

    pub async fn get(&self, namespace: &str, name: &str) -> Result<Value, ClientError> {
        self.value(Call::new(Method::GET, self.path(namespace, name, None)).accept(self.accept())).await
    }

    /// Reads identity, finalizers and owners of one object.
    pub async fn get_metadata(&self, namespace: &str, name: &str) -> Result<PartialMetadata, ClientError> {
        self.identity(Call::new(Method::GET, self.path(namespace, name, None)).accept(METADATA)).await
    }

    pub async fn list(&self, namespace: &str, options: &ListOptions) -> Result<Vec<Value>, ClientError> {
        let page = self.list_bytes(namespace, options).await?;
        let items = parse_list(&page)?.items;
        items.iter().map(|item| serde_json::from_slice(item).map_err(|e| ClientError::Decode(e.to_string()))).collect()
    }

    /// Reads identity, finalizers and owners of all objects.
    pub async fn list_metadata(
        &self,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Vec<PartialMetadata>, ClientError> {
        let page = self.clone().metadata_only().list_bytes(namespace, options).await?;
        parse_list(&page)?.items.iter().map(|item| Ok(PartialMetadata::from_json(item)?)).collect()
    }

    pub(crate) async fn list_bytes(&self, namespace: &str, options: &ListOptions) -> Result<bytes::Bytes, ClientError> {
        let path = format!("{}{}", self.collection(namespace), options.query(false));
        let accept = if self.metadata_only { METADATA_LIST } else { JSON };
        self.client.call(Call::new(Method::GET, path).accept(accept)).await
    }

    /// Starts a watch. It ends when the server ends it; see [`crate::Informer`] for one that goes on.
    pub async fn watch(&self, namespace: &str, options: &ListOptions) -> Result<Watcher, ClientError> {
        let path = format!("{}{}", self.collection(namespace), options.query(true));
        let request = Call::new(Method::GET, path).accept(self.accept()).to_request()?;
        Ok(Watcher::new(self.client.stream(request).await?.into_body()))
    }

    /// Creates in the namespace that the object names.
    pub async fn create(&self, object: &Value) -> Result<Value, ClientError> {
        let path = self.collection(object::namespace(object));
        self.value(Call::json(Method::POST, path, object.to_string())).await
    }

    /// Creates from an encoded object, in a namespace.
    pub async fn create_bytes(&self, namespace: &str, object: impl Into<bytes::Bytes>) -> Result<Value, ClientError> {
        self.value(Call::json(Method::POST, self.collection(namespace), object)).await
    }

    /// As [`Raw::create_bytes`]; of the answer only its identity is read.
    pub async fn create_briefly(
        &self,
        namespace: &str,
        object: impl Into<bytes::Bytes>,
    ) -> Result<PartialMetadata, ClientError> {
        self.identity(Call::json(Method::POST, self.collection(namespace), object)).await
    }

    /// Posts to a subresource such as `binding`, `eviction` or `token`.
    pub async fn create_subresource(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, ClientError> {
        let path = self.path(namespace, name, Some(subresource));
        self.value(Call::json(Method::POST, path, body.to_string())).await
    }

    pub async fn update(&self, object: &Value) -> Result<Value, ClientError> {
        self.put(object, None).await
    }

    pub async fn update_status(&self, object: &Value) -> Result<Value, ClientError> {
        self.put(object, Some("status")).await
    }

    /// Writes an object, or one of its subresources: `status`, `finalize`, `approval`, `scale`.
    pub async fn put(&self, object: &Value, subresource: Option<&str>) -> Result<Value, ClientError> {
        let (namespace, name) = (object::namespace(object), object::name(object));
        self.put_bytes(namespace, name, subresource, object.to_string()).await
    }

    /// Writes an encoded object, or one of its subresources.
    pub async fn put_bytes(
        &self,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        object: impl Into<bytes::Bytes>,
    ) -> Result<Value, ClientError> {
        self.value(Call::json(Method::PUT, self.path(namespace, name, subresource), object)).await
    }

    pub async fn patch(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
        subresource: Option<&str>,
    ) -> Result<Value, ClientError> {
        self.value(Call::patch(self.path(namespace, name, subresource), patch)).await
    }

    /// As [`Raw::put_bytes`]; of the answer only its identity is read.
    pub async fn put_briefly(
        &self,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        object: impl Into<bytes::Bytes>,
    ) -> Result<PartialMetadata, ClientError> {
        self.identity(Call::json(Method::PUT, self.path(namespace, name, subresource), object)).await
    }

    /// As [`Raw::patch`]; of the answer only its identity is read.
    pub async fn patch_briefly(
        &self,
        namespace: &str,
        name: &str,
        patch: &Patch,
        subresource: Option<&str>,
    ) -> Result<PartialMetadata, ClientError> {
        self.identity(Call::patch(self.path(namespace, name, subresource), patch)).await
    }

    /// As [`Raw::delete`]; the answer is not read.
    pub async fn delete_briefly(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let body = options.to_value().to_string();
        self.client.call(Call::json(Method::DELETE, self.path(namespace, name, None), body)).await.map(drop)
    }

    /// Deletes one object. The answer is the object as it now waits for its end, or a `Status` when it is gone.
    pub async fn delete(&self, namespace: &str, name: &str, options: &DeleteOptions) -> Result<Value, ClientError> {
        let body = options.to_value().to_string();
        self.value(Call::json(Method::DELETE, self.path(namespace, name, None), body)).await
    }

    /// Deletes every object that `select` selects.
    pub async fn delete_collection(
        &self,
        namespace: &str,
        options: &DeleteOptions,
        select: &ListOptions,
    ) -> Result<(), ClientError> {
        let path = format!("{}{}", self.collection(namespace), select.query(false));
        self.client.call(Call::json(Method::DELETE, path, options.to_value().to_string())).await?;
        Ok(())
    }

    fn accept(&self) -> &'static str {
        if self.metadata_only { METADATA } else { JSON }
    }
}

/// Cuts a list into its items.
pub(crate) fn parse_list(json: &[u8]) -> Result<Page<'_>, ClientError> {
    let malformed = |_| ClientError::Decode("the answer to a list is no JSON list".to_owned());
    let mut page = Page { resource_version: String::new(), continue_token: String::new(), items: Vec::new() };
    for (key, value) in members(json).map_err(malformed)? {
        match key {
            b"metadata" => {
                let metadata: Value = serde_json::from_slice(value).unwrap_or_default();
                let text = |key: &str| metadata[key].as_str().unwrap_or("").to_owned();
                (page.resource_version, page.continue_token) = (text("resourceVersion"), text("continue"));
            }
            b"items" => page.items = elements(value).map_err(malformed)?,
            _ => {}
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_into_items() {
        let json = br#"{"kind":"PodList","metadata":{"resourceVersion":"9","continue":"c"},"items":[{"a":1},{"a":2}]}"#;
        let page = parse_list(json).unwrap();
        assert_eq!((page.resource_version.as_str(), page.continue_token.as_str()), ("9", "c"));
        assert_eq!(page.items, [&br#"{"a":1}"#[..], br#"{"a":2}"#]);
        assert!(parse_list(b"nonsense").is_err());
        assert!(parse_list(br#"{"items":null,"metadata":{}}"#).unwrap().items.is_empty());
    }
}
