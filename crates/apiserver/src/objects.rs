//! The stored objects for the server's own parts: connectors, admission plugins, allocators, bootstrap.

use std::sync::Arc;

use kybern_apimachinery::selector::{FieldSelector, LabelSelector};
use kybern_apimachinery::{ApiError, Gvk, Value, object};
use kybern_storage::RangeRequest;

use crate::BoxFuture;
use crate::access::UserInfo;
use crate::cache::Selection;
use crate::connect::{Objects, Place, Stored};
use crate::convert;
use crate::deletion::{Deleted, Deletion, Shown};
use crate::options::{DeleteOptions, FieldValidation, Query, WriteOptions};
use crate::resource::Resource;
use crate::server::Server;
use crate::transaction::Transaction;
use crate::write::{Writer, encode, storage_error};
use crate::{managed, metadata};

/// Who the server's own parts are to admission.
fn own_user() -> UserInfo {
    UserInfo {
        name: "system:apiserver".to_owned(),
        groups: vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
        ..UserInfo::default()
    }
}

/// Who makes the first objects of a group to those who ask which manager set a field.
fn own_manager(group: &str) -> &'static str {
    match group {
        "flowcontrol.apiserver.k8s.io" => "api-priority-and-fairness-config-producer-v1",
        _ => "kube-apiserver",
    }
}

fn own_options(manager: &str) -> WriteOptions {
    WriteOptions {
        dry_run: false,
        field_manager: manager.to_owned(),
        field_validation: FieldValidation::Warn,
        force: None,
        object: Value::Null,
    }
}

fn own_writer<'a>(
    server: &'a Server,
    resource: &'a Resource,
    user: &'a UserInfo,
    namespace: &'a str,
    subresource: &'a str,
    options: &'a WriteOptions,
) -> Writer<'a> {
    let now = server.clock.now();
    let (warnings, audit, view) = Default::default();
    Writer { server, resource, user, namespace, subresource, options, now, applies: false, warnings, audit, view }
}

fn row_of(server: &Server, kind: &Gvk) -> Option<Arc<Resource>> {
    server.served.load().table.group(&kind.group)?.rows().find(|row| row.ty.gvk == *kind).cloned()
}

impl Server {
    /// What [`Objects::update`] does, as a writer of a subresource: `status`.
    pub async fn update_part(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        subresource: &str,
        change: &(dyn Fn(&mut Value) -> Result<(), ApiError> + Send + Sync),
    ) -> Result<u64, ApiError> {
        let row = self.row(group, resource)?;
        let (kind, resource) = (self.kind(&row)?, row.gvr.group_resource());
        let mut tries = self.turns.tries();
        loop {
            self.catch_up().await?;
            let old = kind.get(namespace, name).ok_or_else(|| ApiError::not_found(&resource, name))?;
            let before = convert::internal(&row, &old).await?;
            let mut object = before.clone();
            // Whoever asks may do so of one revision only.
            object::set(&mut object, &["metadata", "resourceVersion"], old.revision.to_string());
            change(&mut object)?;
            object::remove(&mut object, &["metadata", "resourceVersion"]);
            if object == before {
                return Ok(old.revision);
            }
            let (user, options) = (own_user(), own_options(own_manager(group)));
            if !subresource.is_empty() {
                let manager = options.field_manager.as_str();
                let author =
                    managed::Author { server: self, resource: &row, subresource, manager, now: self.clock.now() };
                managed::track(author, Some(&before), &mut object).await?;
            }
            let writer = own_writer(self, &row, &user, namespace, subresource, &options);
            match writer.replace(&old, &before, &object, &Transaction::default()).await {
                Ok(new) => return Ok(new.revision),
                Err(failure) => {
                    failure
                        .retry(&mut tries, &old.key)
                        .await
                        .map_err(|failure| failure.into_api_error(&resource, name))?;
                }
            }
        }
    }

    /// Applies the status of an object without a namespace, as one of the server's own managers of fields.
    pub(crate) async fn apply_status(
        &self,
        group: &str,
        resource: &str,
        manager: &str,
        config: &Value,
    ) -> Result<(), ApiError> {
        let row = self.row(group, resource)?;
        let (kind, resource, name) = (self.kind(&row)?, row.gvr.group_resource(), object::name(config));
        let (user, options, subresource) = (own_user(), own_options(manager), "status");
        let mut tries = self.turns.tries();
        loop {
            self.catch_up().await?;
            let old = kind.get("", name).ok_or_else(|| ApiError::not_found(&resource, name))?;
            let live = convert::to_served(&row, convert::internal(&row, &old).await?).await?;
            let author = managed::Author { server: self, resource: &row, subresource, manager, now: self.clock.now() };
            let applied = managed::apply_as(author, true, Some(&live), config).await?;
            let mut writer = own_writer(self, &row, &user, "", subresource, &options);
            writer.applies = true;
            match writer.update(&old, applied).await {
                Ok(_) => return Ok(()),
                Err(failure) => {
                    failure
                        .retry(&mut tries, &old.key)
                        .await
                        .map_err(|failure| failure.into_api_error(&resource, name))?;
                }
            }
        }
    }
}

impl Objects for Server {
    fn place(&self, kind: &Gvk) -> Option<Place> {
        let row = row_of(self, kind)?;
        Some(Place { gvr: row.gvr.clone(), namespaced: row.namespaced })
    }

    fn shown<'a>(&'a self, kind: &'a Gvk, mut objects: Vec<Value>) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move {
            let version = kind.api_version();
            if objects.iter().all(|object| object::api_version(object) == version) {
                return Ok(objects);
            }
            if let Some(conversion) = row_of(self, kind).and_then(|row| row.conversion.clone()) {
                return conversion.convert(objects, &version).await;
            }
            objects.iter_mut().for_each(|object| object["apiVersion"] = version.as_str().into());
            Ok(objects)
        })
    }

    fn get<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move {
            let row = self.row(group, resource)?;
            let kind = self.kind(&row)?;
            self.catch_up().await?;
            let entry = kind.get(namespace, name);
            let entry = entry.ok_or_else(|| ApiError::not_found(&row.gvr.group_resource(), name))?;
            convert::convert(&row, entry.value()?, &row.internal.api_version()).await
        })
    }

    fn list<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move {
            let (labels, fields) = (LabelSelector::everything(), FieldSelector::default());
            self.select(group, resource, namespace, &labels, &fields).await
        })
    }

    fn select<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        labels: &'a LabelSelector,
        fields: &'a FieldSelector,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(async move {
            let row = self.row(group, resource)?;
            let kind = self.kind(&row)?;
            self.catch_up().await?;
            let selection = Selection::new(&kind.kind, namespace, labels.clone(), fields)?;
            let listing = kind
                .list(&selection, None, 0, None, || self.cache.revision())
                .map_err(|_| ApiError::internal("the latest revision cannot be too old"))?;
            let objects = listing.items.iter().map(|e| e.value()).collect::<Result<_, _>>()?;
            convert::convert_all(&row, objects, &row.internal.api_version()).await
        })
    }

    fn update<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
        change: &'a (dyn Fn(&mut Value) -> Result<(), ApiError> + Send + Sync),
    ) -> BoxFuture<'a, Result<u64, ApiError>> {
        Box::pin(self.update_part(group, resource, namespace, name, "", change))
    }

    fn create<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        object: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move {
            let row = self.row(group, resource)?;
            let (user, options) = (own_user(), own_options(own_manager(group)));
            let refuse = |error: kybern_schema::DecodeError| error.into_api_error(&row.ty.gvk);
            let strictness = options.field_validation.into();
            let mut object = kybern_schema::decode_value(&row.ty, object, strictness).map_err(refuse)?.0;
            kybern_schema::apply_defaults(&row.ty, &mut object);
            let namespace = object::namespace(&object).to_owned();
            let mut writer = own_writer(self, &row, &user, &namespace, "", &options);
            let made = writer.create(object).await?;
            convert::convert(&row, made.value()?, &row.internal.api_version()).await
        })
    }

    fn made<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        mut object: Value,
    ) -> BoxFuture<'a, Result<Stored, ApiError>> {
        Box::pin(async move {
            let row = self.row(group, resource)?;
            let (kind, options, now) = (self.kind(&row)?, own_options(own_manager(group)), self.clock.now());
            object::set(&mut object, &["apiVersion"], row.internal.api_version());
            object::set(&mut object, &["kind"], row.kind.as_str());
            kybern_schema::apply_defaults(&row.ty, &mut object);
            let manager = options.field_manager.as_str();
            let author = managed::Author { server: self, resource: &row, subresource: "", manager, now };
            managed::track(author, None, &mut object).await?;
            metadata::prepare_for_create(&mut object, row.generation, now);
            let key = kind.key(object::namespace(&object), object::name(&object));
            Ok(Stored { key, value: encode(&row, &object).await?, revision: 0 })
        })
    }

    fn current<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<(Value, Stored)>, ApiError>> {
        Box::pin(async move {
            let row = self.row(group, resource)?;
            let Some(entry) = self.kind(&row)?.get(namespace, name) else { return Ok(None) };
            let object = convert::internal(&row, &entry).await?;
            let stored = Stored { key: entry.key.clone(), value: entry.bytes.clone(), revision: entry.revision };
            Ok(Some((object, stored)))
        })
    }

    fn encoded<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        object: &'a Value,
    ) -> BoxFuture<'a, Result<bytes::Bytes, ApiError>> {
        Box::pin(async move { encode(&*self.row(group, resource)?, object).await })
    }

    fn with_status<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        old: &'a Value,
        mut object: Value,
    ) -> BoxFuture<'a, Result<bytes::Bytes, ApiError>> {
        Box::pin(async move {
            let (row, options, now) = (self.row(group, resource)?, own_options(own_manager(group)), self.clock.now());
            let manager = options.field_manager.as_str();
            let author = managed::Author { server: self, resource: &row, subresource: "status", manager, now };
            managed::track(author, Some(old), &mut object).await?;
            encode(&row, &object).await
        })
    }

    fn raw<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Stored>, ApiError>> {
        Box::pin(async move {
            let request = RangeRequest { prefix: key, after: "", limit: 1, at: None };
            let page = self.storage.range(request).await.map_err(|error| storage_error(&error))?;
            let found = page.items.into_iter().find(|item| &*item.key == key);
            Ok(found.map(|item| Stored { key: item.key, value: item.value, revision: item.mod_revision }))
        })
    }

    fn caught_up(&self) -> BoxFuture<'_, Result<(), ApiError>> {
        Box::pin(self.catch_up())
    }

    fn delete<'a>(
        &'a self,
        group: &'a str,
        resource: &'a str,
        namespace: &'a str,
        name: &'a str,
        options: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        Box::pin(async move {
            let row = self.row(group, resource)?;
            let options = DeleteOptions::parse(&Query::default(), options)?;
            let user = own_user();
            let now = self.clock.now();
            let shown = Shown::Nothing;
            let deletion = Deletion { server: self, resource: &row, user: &user, options: &options, now, shown };
            match deletion.delete(namespace, name).await? {
                Deleted::Pending(entry) | Deleted::Gone(entry) => {
                    convert::convert(&row, entry.value()?, &row.internal.api_version()).await
                }
            }
        })
    }
}
