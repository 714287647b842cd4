//! How an object is written, whatever the verb: admission, managed fields, metadata, strategy, checks, commit.

use std::sync::Arc;

use bytes::Bytes;
use kybern_apimachinery::field::FieldError;
use kybern_apimachinery::{ApiError, Budget, GroupResource, Gvk, Reason, Value, object};
use kybern_storage::{Revision, StorageError, Txn};

use crate::access::UserInfo;
use crate::admission::{AdmissionRequest, Operation, Reinvocation, Step, Versions};
use crate::audit::Record;
use crate::cache::{Entry, KindCache, canonical};
use crate::contention::Tries;
use crate::exchange::Exchange;
use crate::options::WriteOptions;
use crate::resource::{Resource, SubresourceHandler};
use crate::server::Server;
use crate::strategy::{Strategy, StrategyContext};
use crate::transaction::{StepError, Transaction};
use crate::warnings::Warnings;
use crate::{convert, managed, metadata};

/// Tries of a generated name.
const NAME_TRIES: u32 = 8;
/// Larger objects are refused, as etcd refuses them.
const MAX_OBJECT_BYTES: usize = 3 << 19;

/// Tries of what is claimed besides the object, when others claim the same meanwhile.
pub(crate) const CLAIM_TRIES: u32 = 256;

/// Why a write did not happen.
pub(crate) enum Failure {
    /// The object changed since it was read: read it again.
    Changed,
    /// Something that is committed with it did: claim that again.
    Contended,
    Refused(ApiError),
}

impl Failure {
    /// Whether the write of a key is to be tried again, after a wait for its turn; other failures are its answer.
    pub(crate) async fn retry(self, tries: &mut Tries<'_>, key: &str) -> Result<(), Self> {
        if matches!(self, Self::Changed) && tries.lost(key).await { Ok(()) } else { Err(self) }
    }

    pub(crate) fn into_api_error(self, resource: &GroupResource, name: &str) -> ApiError {
        match self {
            Self::Changed => ApiError::stale(resource, name),
            Self::Contended => ApiError::new(
                Reason::ServerTimeout,
                format!("too many writers claim what {} {name:?} needs at once: try again", resource.resource),
            ),
            Self::Refused(error) => error,
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// The refusal of an object that names another namespace than the request.
pub(crate) const OTHER_NAMESPACE: &str =
    "the namespace of the provided object does not match the namespace sent on the request";

/// What the store's errors are to a client.
pub(crate) fn storage_error(error: &StorageError) -> ApiError {
    match error {
        StorageError::Closed => ApiError::new(Reason::ServiceUnavailable, "the server is shutting down: try again"),
        // As upstream passes on etcd's own words.
        StorageError::Unavailable(text) | StorageError::Refused(text) => ApiError::new(Reason::Unknown, text.as_str()),
        other => ApiError::internal(other),
    }
}

/// Another form of an object, in which a subresource reads and writes it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) kind: &'a Gvk,
    /// Of an object in the request's version.
    pub(crate) show: &'a (dyn Fn(&Value) -> Value + Send + Sync),
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
    pub(crate) audit: Arc<Record>,
    /// What admission sees instead of the object.
    pub(crate) view: Option<View<'a>>,
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
            audit: exchange.audit.clone(),
            view: None,
        }
    }

    fn strategy(&self) -> &'a dyn Strategy {
        match self.resource.subresource(self.subresource).map(|s| &s.handler) {
            Some(SubresourceHandler::Part(strategy)) => &**strategy,
            _ => &*self.resource.strategy,
        }
    }

    fn context(&self) -> StrategyContext<'a> {
        let (now, dry_run, features) = (self.now, self.options.dry_run, &self.server.features);
        StrategyContext { user: self.user, now, dry_run, features }
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

    /// Shows what is to be written to the mutating chain. The name is the request's: a generated one is not there yet.
    pub(crate) async fn admit(
        &self,
        operation: Operation,
        object: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let (name, chain) = (object::name(object).to_owned(), Chain::default());
        self.server.admission.admit(&self.request(&name, operation, old, &chain), Some(object)).await
    }

    /// Shows what is about to be committed to the validating chain, which may add to the transaction.
    async fn validate(
        &self,
        operation: Operation,
        object: &Value,
        old: Option<&Value>,
        chain: &Chain,
    ) -> Result<(), ApiError> {
        let name = object::name(object);
        if self.server.admission.is_idle(Step::Validate, operation) {
            return Ok(());
        }
        let Some(view) = self.view else {
            let request = self.request(name, operation, old, chain);
            return self.server.admission.validate(&request, Some(object)).await;
        };
        let object = (view.show)(&convert::to_served(self.resource, object.clone()).await?);
        let old = match old {
            Some(old) => Some((view.show)(&convert::to_served(self.resource, old.clone()).await?)),
            None => None,
        };
        let request = self.request(name, operation, old.as_ref(), chain);
        self.server.admission.validate(&request, Some(&object)).await
    }

    fn request<'r>(
        &'r self,
        name: &'r str,
        operation: Operation,
        old: Option<&'r Value>,
        chain: &'r Chain,
    ) -> AdmissionRequest<'r> {
        AdmissionRequest {
            user: self.user,
            resource: self.resource,
            subresource: self.subresource,
            kind: self.view.map_or(&self.resource.ty.gvk, |view| view.kind),
            namespace: admitted_namespace(self.resource, self.namespace, name),
            name,
            operation,
            old,
            options: &self.options.object,
            dry_run: self.options.dry_run,
            warnings: &self.warnings,
            audit: &self.audit,
            reinvocation: &chain.reinvocation,
            transaction: &chain.transaction,
            versions: self.server,
        }
    }

    /// Drops owner references that are there twice, and warns of them.
    fn single_owners(&self, object: &mut Value, admitted: bool) {
        self.warnings.extend(metadata::drop_duplicate_owners(object, admitted));
    }

    /// Creates an object given in the served version, decoded and with its schema's defaults.
    pub(crate) async fn create(&mut self, object: Value) -> Result<Arc<Entry>, ApiError> {
        let mut object = convert::to_internal(self.resource, object).await?;
        self.resource.strategy.default(&mut object);
        if !self.applies {
            self.single_owners(&mut object, false);
            // What admission adds is nobody's.
            managed::track(self.author(), None, &mut object).await?;
        }
        self.admit(Operation::Create, &mut object, None).await?;
        self.single_owners(&mut object, true);
        let base = object::str_at(&object, &["metadata", "generateName"]).to_owned();
        if !object::name(&object).is_empty() || base.is_empty() {
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

    async fn create_named(&self, mut object: Value) -> Result<Arc<Entry>, ApiError> {
        // What was claimed is written into the object, and must not be taken for what was asked for.
        let asked = self.resource.strategy.claims().then(|| object.clone());
        let mut attempt = 1;
        loop {
            match self.try_create(&mut object).await {
                Err(Failure::Contended) if attempt < CLAIM_TRIES => attempt += 1,
                Ok(entry) => return Ok(entry),
                Err(Failure::Changed) => {
                    return Err(ApiError::already_exists(&self.resource.gvr.group_resource(), object::name(&object)));
                }
                Err(failure) => {
                    return Err(failure.into_api_error(&self.resource.gvr.group_resource(), object::name(&object)));
                }
            }
            if let Some(asked) = &asked {
                object = asked.clone();
            }
        }
    }

    /// Whatever admission made of it, an object is created where the request is.
    fn keep_namespace(&self, object: &mut Value) -> Result<(), ApiError> {
        if !self.resource.namespaced {
            object::remove(object, &["metadata", "namespace"]);
        } else if object::namespace(object).is_empty() {
            object::set(object, &["metadata", "namespace"], self.namespace);
        } else if object::namespace(object) != self.namespace {
            return Err(ApiError::bad_request(OTHER_NAMESPACE));
        }
        Ok(())
    }

    /// Fails as changed where the object exists.
    async fn try_create(&self, object: &mut Value) -> Result<Arc<Entry>, Failure> {
        let (resource, strategy, chain) = (self.resource, &*self.resource.strategy, Chain::default());
        let revision = object::resource_version(object).to_owned();
        self.keep_namespace(object)?;
        metadata::prepare_for_create(object, resource.generation, self.now);
        if self.has_status() && !strategy.keeps_status_on_create() {
            object::remove(object, &["status"]);
        }
        strategy.claim(&self.context(), object, None, &chain.transaction).await?;
        strategy.prepare_for_create(&self.context(), object);
        let mut errors = metadata::validate(object, resource.namespaced, strategy.qualified_finalizers(), |name| {
            strategy.validate_name(name)
        });
        errors.extend(strategy.validate(object));
        errors.extend(strategy.validate_create(object));
        self.invalid(object::name(object), &errors)?;
        self.warnings.extend(strategy.warnings(object, None));
        self.validate(Operation::Create, object, None, &chain).await?;
        // Only the store minds: what admission has against the object comes first.
        if !revision.is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Failure::Refused(ApiError::bad_request(message)));
        }
        let value = encode_own(resource, object).await?;
        let name = object::name(object);
        let kind = self.kind()?;
        let key = kind.key(object::namespace(object), name);
        if self.options.dry_run {
            self.server.catch_up().await?;
            if kind.get(object::namespace(object), name).is_some() {
                return Err(Failure::Changed);
            }
            return Ok(entry(&kind, key, &value, 0)?);
        }
        let revision = commit(self.server, &key, Txn::create(key.clone(), value.clone()), &chain.transaction).await?;
        Ok(self.committed(&kind, key, &value, revision).await?)
    }

    /// Replaces `old` by an object given in the served version, decoded and with its schema's defaults.
    pub(crate) async fn update(&mut self, old: &Arc<Entry>, object: Value) -> Result<Arc<Entry>, Failure> {
        let resource = self.resource;
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
        if self.view.is_none() {
            self.admit(Operation::Update, &mut object, Some(&before)).await?;
        }
        self.single_owners(&mut object, true);
        let asked = self.strategy().claims().then(|| object.clone());
        let mut attempt = 1;
        loop {
            match self.try_update(old, &before, &mut object).await {
                Err(Failure::Contended) if attempt < CLAIM_TRIES => attempt += 1,
                result => return result,
            }
            if let Some(asked) = &asked {
                object = asked.clone();
            }
        }
    }

    async fn try_update(&self, old: &Arc<Entry>, before: &Value, object: &mut Value) -> Result<Arc<Entry>, Failure> {
        let (resource, strategy, main) = (self.resource, self.strategy(), &*self.resource.strategy);
        let chain = Chain::default();
        strategy.claim(&self.context(), object, Some(before), &chain.transaction).await?;
        strategy.prepare_for_update(&self.context(), object, before);
        metadata::count_generation(object, before, resource.generation, self.subresource);
        let mut errors = metadata::validate(object, resource.namespaced, main.qualified_finalizers(), |name| {
            main.validate_name(name)
        });
        errors.extend(metadata::validate_update(object, before));
        errors.extend(strategy.validate(object));
        let mut warnings = Vec::new();
        errors.extend(strategy.check_update(object, before, &mut warnings));
        self.warnings.extend(warnings);
        self.invalid(object::name(object), &errors)?;
        self.warnings.extend(strategy.warnings(object, Some(before)));
        self.validate(Operation::Update, object, Some(before), &chain).await?;
        kybern_schema::apply::keep_times(before, object);
        let stored = old.api_version() == resource.stored.gvk.api_version()
            && !old.is_outdated()
            && !self.server.storage.wants_rewrite(&old.key);
        if object == before && stored && chain.transaction.is_empty() {
            return Ok(old.clone());
        }
        self.replace(old, before, object, &chain.transaction).await
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
        transaction: &Transaction,
    ) -> Result<Arc<Entry>, Failure> {
        let kind = self.kind()?;
        let value = encode(self.resource, object).await?;
        let key = old.key.clone();
        let gone = is_released(&*self.resource.strategy, object, before);
        if self.options.dry_run {
            return Ok(entry(&kind, key, &value, old.revision)?);
        }
        if gone {
            // What the update claims is not claimed any more, and what was before it is given up.
            let freed = Transaction::default();
            self.resource.strategy.release(before, &freed).await?;
            let revision = commit(self.server, &key, Txn::delete(key.clone(), old.revision), &freed).await?;
            self.server.cache.settle(revision).await;
            return Ok(entry(&kind, key, &value, revision)?);
        }
        let txn = Txn::update(key.clone(), old.revision, value.clone());
        let revision = commit(self.server, &key, txn, transaction).await?;
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

/// What one run of the chains shares.
#[derive(Default)]
pub(crate) struct Chain {
    pub(crate) reinvocation: Reinvocation,
    pub(crate) transaction: Transaction,
}

/// The namespace of a request: a Namespace's is itself.
pub(crate) fn admitted_namespace<'r>(resource: &Resource, namespace: &'r str, name: &'r str) -> &'r str {
    let is_namespace = resource.gvr.group.is_empty() && resource.gvr.resource == "namespaces";
    if is_namespace { name } else { namespace }
}

/// Commits the guarded write of a key, with what was added to it. A guard that fails is told once the cache knows why.
pub(crate) async fn commit(
    server: &Server,
    key: &Arc<str>,
    txn: Txn,
    transaction: &Transaction,
) -> Result<Revision, Failure> {
    let txn = match transaction.complete(txn).await {
        Ok(txn) => txn,
        Err(StepError::Contended) => {
            server.catch_up().await?;
            return Err(Failure::Contended);
        }
        Err(StepError::Refused(error)) => return Err(Failure::Refused(error)),
    };
    match server.storage.txn(txn).await {
        Ok(revision) => Ok(revision),
        Err(StorageError::Conflict { key: changed, .. }) => {
            server.catch_up().await?;
            Err(if changed == *key { Failure::Changed } else { Failure::Contended })
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
pub(crate) async fn encode(resource: &Resource, object: &Value) -> Result<Bytes, ApiError> {
    let reader = &resource.stored.reader;
    if reader.is_none() && is_stored_form(resource, object) {
        return written(resource, object);
    }
    let mut converted = convert::to_stored(resource, object.clone()).await?;
    reader.iter().for_each(|reader| reader.refresh(&mut converted));
    written(resource, &converted)
}

/// The same of an object that nobody else looks at: it is brought into its stored form in place.
async fn encode_own(resource: &Resource, object: &mut Value) -> Result<Bytes, ApiError> {
    match &resource.stored.reader {
        Some(reader) if is_stored_form(resource, object) => {
            reader.refresh(object);
            written(resource, object)
        }
        _ => encode(resource, object).await,
    }
}

fn is_stored_form(resource: &Resource, object: &Value) -> bool {
    object::api_version(object) == resource.stored.gvk.api_version()
}

fn written(resource: &Resource, object: &Value) -> Result<Bytes, ApiError> {
    Budget::STORED.check(object)?;
    let value =
        canonical(object).ok_or_else(|| ApiError::internal("the object has no apiVersion, kind or metadata"))?;
    if value.len() > MAX_OBJECT_BYTES {
        return Err(ApiError::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: the object has {} bytes, the limit is {MAX_OBJECT_BYTES}", value.len()),
        ));
    }
    resource.stored.reader.iter().for_each(|reader| reader.note(&value));
    Ok(value.into())
}

/// An entry of bytes that the cache does not hold.
pub(crate) fn entry(kind: &KindCache, key: Arc<str>, value: &[u8], revision: Revision) -> Result<Arc<Entry>, ApiError> {
    Entry::new(&kind.kind, kind.prefix.len(), key, value, revision).map(Arc::new).map_err(ApiError::internal)
}

impl Versions for Server {
    fn versions(&self, resource: &Resource) -> Vec<Arc<Resource>> {
        let mut rows = self.served.load().table.versions(resource);
        rows.sort_by_key(|row| row.gvr != resource.gvr);
        rows
    }
}

impl Server {
    /// Waits until the cache has everything that was committed before this call.
    pub(crate) async fn catch_up(&self) -> Result<(), ApiError> {
        self.cache.catch_up().await.map_err(|error| storage_error(&error))
    }
}
