//! How an object is written, whatever the verb: admission, managed fields, metadata, strategy, checks, commit.

use std::sync::Arc;

use bytes::Bytes;
use kybern_apimachinery::field::FieldError;
use kybern_apimachinery::{ApiError, Budget, GroupResource, Reason, Value, object};
use kybern_storage::{Revision, StorageError, Txn};

use crate::access::UserInfo;
use crate::admission::{AdmissionRequest, Operation};
use crate::cache::{Entry, KindCache, canonical};
use crate::exchange::Exchange;
use crate::options::WriteOptions;
use crate::resource::{Resource, SubresourceHandler};
use crate::server::Server;
use crate::strategy::{Strategy, StrategyContext};
use crate::warnings::Warnings;
use crate::{convert, managed, metadata};

/// Tries of a write that names no revision, when the object changes meanwhile.
pub(crate) const TRIES: u32 = 5;
/// Tries of a generated name.
const NAME_TRIES: u32 = 8;
/// Larger objects are refused, as etcd refuses them.
const MAX_OBJECT_BYTES: usize = 3 << 19;

/// Why an update did not happen.
pub(crate) enum Failure {
    /// The object changed since it was read: read it again.
    Changed,
    Refused(ApiError),
}

impl Failure {
    pub(crate) fn into_api_error(self, resource: &GroupResource, name: &str) -> ApiError {
        match self {
            Self::Changed => ApiError::stale(resource, name),
            Self::Refused(error) => error,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// What the store's errors are to a client.
pub(crate) fn storage_error(error: &StorageError) -> ApiError {
    match error {
        StorageError::Closed => ApiError::new(Reason::ServiceUnavailable, "the server is shutting down: try again"),
        // As upstream passes on etcd's own words.
        StorageError::Unavailable(text) => ApiError::new(Reason::Unknown, text.as_str()),
        other => ApiError::internal(other),
    }
}

/// One write request.
pub(crate) struct Writer<'a> {
    pub(crate) server: &'a Server,
    pub(crate) resource: &'a Resource,
    pub(crate) user: &'a UserInfo,
    pub(crate) namespace: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) options: &'a WriteOptions,
    pub(crate) now: jiff::Timestamp,
    /// A server-side apply, which has set the managed fields itself.
    pub(crate) applies: bool,
    pub(crate) warnings: Arc<Warnings>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(exchange: &'a Exchange, options: &'a WriteOptions) -> Self {
        Self {
            server: &exchange.server,
            resource: &exchange.resource,
            user: &exchange.user,
            namespace: &exchange.info.namespace,
            subresource: &exchange.info.subresource,
            options,
            now: exchange.now,
            applies: false,
            warnings: exchange.warnings.clone(),
        }
    }

    fn strategy(&self) -> &'a dyn Strategy {
        match self.resource.subresource(self.subresource).map(|s| &s.handler) {
            Some(SubresourceHandler::Part(strategy)) => &**strategy,
            _ => &*self.resource.strategy,
        }
    }

    fn context(&self) -> StrategyContext<'a> {
        StrategyContext { user: self.user, now: self.now, dry_run: self.options.dry_run }
    }

    fn author(&self) -> managed::Author<'_> {
        let (server, resource, subresource) = (self.server, self.resource, self.subresource);
        managed::Author { server, resource, subresource, manager: &self.options.field_manager, now: self.now }
    }

    fn has_status(&self) -> bool {
        self.resource.subresource("status").is_some()
    }

    fn kind(&self) -> Result<Arc<KindCache>, ApiError> {
        self.server.kind(self.resource)
    }

    fn invalid(&self, name: &str, errors: &[FieldError]) -> Result<(), ApiError> {
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(&self.resource.stored.gvk.group_kind(), name, errors))
        }
    }

    fn admission<'r>(&'r self, name: &'r str, operation: Operation, old: Option<&'r Value>) -> AdmissionRequest<'r> {
        AdmissionRequest {
            user: self.user,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name,
            operation,
            old,
            options: &self.options.object,
            dry_run: self.options.dry_run,
        }
    }

    async fn admit(&self, operation: Operation, object: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        let name = object::name(object).to_owned();
        for plugin in &self.server.admission {
            plugin.admit(&self.admission(&name, operation, old), Some(object)).await?;
        }
        Ok(())
    }

    async fn validate(&self, operation: Operation, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let request = self.admission(object::name(object), operation, old);
        for plugin in &self.server.admission {
            plugin.validate(&request, Some(object)).await?;
        }
        Ok(())
    }

    /// Drops owner references that are there twice, and warns of them.
    fn single_owners(&self, object: &mut Value, admitted: bool) {
        self.warnings.extend(metadata::drop_duplicate_owners(object, admitted));
    }

    /// Creates an object given in the served version, decoded and with its schema's defaults.
    pub(crate) async fn create(&mut self, object: Value) -> Result<Arc<Entry>, ApiError> {
        let generated = object::name(&object).is_empty();
        let base = object::str_at(&object, &["metadata", "generateName"]).to_owned();
        if !generated || base.is_empty() {
            return self.create_named(object).await;
        }
        let mut attempt = 1;
        loop {
            let mut object = object.clone();
            object::set(&mut object, &["metadata", "name"], metadata::generate_name(&base));
            match self.create_named(object).await {
                Err(error) if error.reason() == Reason::AlreadyExists && attempt < NAME_TRIES => attempt += 1,
                result => return result,
            }
        }
    }

    async fn create_named(&mut self, object: Value) -> Result<Arc<Entry>, ApiError> {
        let (resource, strategy) = (self.resource, &*self.resource.strategy);
        let mut object = convert::to_internal(resource, object).await?;
        strategy.default(&mut object);
        if !self.applies {
            self.single_owners(&mut object, false);
            // What admission adds is nobody's.
            managed::track(self.author(), None, &mut object).await?;
        }
        self.admit(Operation::Create, &mut object, None).await?;
        self.single_owners(&mut object, true);
        metadata::prepare_for_create(&mut object, resource.generation, self.now);
        if self.has_status() && !strategy.keeps_status_on_create() {
            object::remove(&mut object, &["status"]);
        }
        let reservation = strategy.reserve(&mut object, None, self.options.dry_run).await?;
        strategy.prepare_for_create(&self.context(), &mut object);
        let mut errors = metadata::validate(&object, resource.namespaced, |name| strategy.validate_name(name));
        errors.extend(strategy.validate(&object));
        errors.extend(strategy.validate_create(&object));
        self.invalid(object::name(&object), &errors)?;
        self.warnings.extend(strategy.warnings(&object, None));
        self.validate(Operation::Create, &object, None).await?;
        let name = object::name(&object).to_owned();
        let kind = self.kind()?;
        let key = kind.key(object::namespace(&object), &name);
        let namespace = object::namespace(&object).to_owned();
        let value = encode(resource, object).await?;
        if self.options.dry_run {
            self.server.catch_up().await?;
            if kind.get(&namespace, &name).is_some() {
                return Err(ApiError::already_exists(&resource.gvr.group_resource(), &name));
            }
            return entry(&kind, key, &value, 0);
        }
        let revision = match self.server.storage.txn(Txn::create(key.clone(), value.clone())).await {
            Ok(revision) => revision,
            Err(StorageError::Conflict { current, .. }) => {
                // Whoever is told of the conflict finds the object.
                self.server.cache.settle(current.unwrap_or(0)).await;
                return Err(ApiError::already_exists(&resource.gvr.group_resource(), &name));
            }
            Err(error) => return Err(storage_error(&error)),
        };
        if let Some(reservation) = reservation {
            reservation.commit();
        }
        self.committed(&kind, key, &value, revision).await
    }

    /// Replaces `old` by an object given in the served version, decoded and with its schema's defaults.
    pub(crate) async fn update(&mut self, old: &Arc<Entry>, object: Value) -> Result<Arc<Entry>, Failure> {
        let (resource, strategy) = (self.resource, self.strategy());
        let main = &*resource.strategy;
        let before = convert::internal(resource, old).await?;
        let mut object = convert::to_internal(resource, object).await?;
        self.check_identity(&object, &before)?;
        main.default(&mut object);
        match self.subresource {
            "" if self.has_status() => keep(&mut object, &before, |field| field == "status"),
            "status" => keep(&mut object, &before, |field| field != "status" && field != "metadata"),
            _ => {}
        }
        metadata::prepare_for_update(&mut object, &before);
        if !self.applies {
            self.single_owners(&mut object, false);
            managed::track(self.author(), Some(&before), &mut object).await?;
        }
        self.admit(Operation::Update, &mut object, Some(&before)).await?;
        self.single_owners(&mut object, true);
        let reservation = strategy.reserve(&mut object, Some(&before), self.options.dry_run).await?;
        strategy.prepare_for_update(&self.context(), &mut object, &before);
        metadata::count_generation(&mut object, &before, resource.generation, self.subresource);
        let mut errors = metadata::validate(&object, resource.namespaced, |name| main.validate_name(name));
        errors.extend(metadata::validate_update(&object, &before));
        errors.extend(strategy.validate(&object));
        errors.extend(strategy.validate_update(&object, &before));
        self.invalid(object::name(&object), &errors)?;
        self.warnings.extend(strategy.warnings(&object, Some(&before)));
        self.validate(Operation::Update, &object, Some(&before)).await?;
        kybern_schema::apply::keep_times(&before, &mut object);
        if object == before && old.api_version() == resource.stored.gvk.api_version() {
            return Ok(old.clone());
        }
        let entry = self.replace(old, &before, &object).await?;
        if let Some(reservation) = reservation {
            reservation.commit();
        }
        Ok(entry)
    }

    /// An update is of the object it was read from, not of a later one with the same name.
    fn check_identity(&self, object: &Value, before: &Value) -> Result<(), ApiError> {
        let (wanted, is) = (object::uid(object), object::uid(before));
        if wanted.is_empty() || wanted == is {
            return Ok(());
        }
        let cause = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {is}");
        Err(ApiError::conflict(&self.resource.gvr.group_resource(), object::name(before), &cause))
    }

    /// Commits an object in the internal version in place of `old`; deletes it instead when that was all it waited for.
    pub(crate) async fn replace(
        &self,
        old: &Arc<Entry>,
        before: &Value,
        object: &Value,
    ) -> Result<Arc<Entry>, Failure> {
        let kind = self.kind()?;
        let value = encode(self.resource, object.clone()).await?;
        let key = old.key.clone();
        let gone = is_released(&*self.resource.strategy, object, before);
        if self.options.dry_run {
            return Ok(entry(&kind, key, &value, old.revision)?);
        }
        let txn = if gone {
            Txn::delete(key.clone(), old.revision)
        } else {
            Txn::update(key.clone(), old.revision, value.clone())
        };
        let revision = commit(self.server, txn).await?;
        if gone {
            self.server.cache.settle(revision).await;
            self.resource.strategy.after_delete(object);
            return Ok(entry(&kind, key, &value, revision)?);
        }
        Ok(self.committed(&kind, key, &value, revision).await?)
    }

    /// The committed object, once the cache has it.
    async fn committed(
        &self,
        kind: &KindCache,
        key: Arc<str>,
        value: &[u8],
        revision: Revision,
    ) -> Result<Arc<Entry>, ApiError> {
        self.server.cache.settle(revision).await;
        match kind.at_key(&key).filter(|entry| entry.revision == revision) {
            Some(entry) => Ok(entry),
            // Changed again already.
            None => entry(kind, key, value, revision),
        }
    }
}

/// Whether a deleted object has nothing left to wait for.
fn is_released(strategy: &dyn Strategy, object: &Value, before: &Value) -> bool {
    let grace = object::at(before, &["metadata", "deletionGracePeriodSeconds"]).and_then(Value::as_i64).unwrap_or(0);
    object::is_deleting(before)
        && grace == 0
        && object::finalizers(object).next().is_none()
        && !strategy.deletion_pending(object)
}

/// Commits a guarded transaction. A guard that fails is [`Failure::Changed`], told once the cache knows why.
pub(crate) async fn commit(server: &Server, txn: Txn) -> Result<Revision, Failure> {
    match server.storage.txn(txn).await {
        Ok(revision) => Ok(revision),
        Err(StorageError::Conflict { .. }) => {
            server.catch_up().await?;
            Err(Failure::Changed)
        }
        Err(error) => Err(Failure::Refused(storage_error(&error))),
    }
}

/// Takes over the top-level fields that `kept` names.
fn keep(object: &mut Value, old: &Value, kept: impl Fn(&str) -> bool) {
    let (Some(object), Some(old)) = (object.as_object_mut(), old.as_object()) else { return };
    object.retain(|field, _| !kept(field));
    object.extend(old.iter().filter(|(field, _)| kept(field)).map(|(k, v)| (k.clone(), v.clone())));
}

/// An internal object's stored bytes: within the bounds that every reader relies on, whatever admission and conversion made of it.
pub(crate) async fn encode(resource: &Resource, object: Value) -> Result<Bytes, ApiError> {
    let object = convert::to_stored(resource, object).await?;
    Budget::STORED.check(&object)?;
    let value =
        canonical(&object).ok_or_else(|| ApiError::internal("the object has no apiVersion, kind or metadata"))?;
    if value.len() > MAX_OBJECT_BYTES {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: the object has {} bytes, the limit is {MAX_OBJECT_BYTES}", value.len()),
        ));
    }
    Ok(value.into())
}

/// An entry of bytes that the cache does not hold.
pub(crate) fn entry(kind: &KindCache, key: Arc<str>, value: &[u8], revision: Revision) -> Result<Arc<Entry>, ApiError> {
    Entry::new(&kind.kind, kind.prefix.len(), key, value, revision).map(Arc::new).map_err(ApiError::internal)
}

impl Server {
    /// Waits until the cache has everything that was committed before this call.
    pub(crate) async fn catch_up(&self) -> Result<(), ApiError> {
        self.cache.catch_up().await.map_err(|error| storage_error(&error))
    }
}
