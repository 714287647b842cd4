//! `serviceaccount-token`: Secrets of the type kubernetes.io/service-account-token get a token of the account that they name,
//! and go with it (`pkg/controller/serviceaccount/tokens_controller.go`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use kybern_api::core::v1::{Secret, ServiceAccount};
use kybern_api::{ByteString, Object};
use kybern_auth::token::{LegacyToken, SigningKey};

use crate::controller::{Context, Controller, Op, Plan};
use crate::snapshot::{NAMESPACE, Snapshot};
use crate::watches::Watches;

/// The Secrets' type, by which the store selects them.
pub(crate) const SELECTOR: &str = "type=kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

pub struct ServiceAccountTokens {
    pub key: Arc<ArcSwap<SigningKey>>,
    /// PEM; without it the Secrets hold no authority.
    pub ca: Option<String>,
}

fn annotation<'s>(secret: &'s Secret, key: &str) -> &'s str {
    secret.metadata.annotations.as_ref().and_then(|all| all.get(key)).map_or("", String::as_str)
}

/// The account that a Secret names, if it is there and the one that is meant.
pub(crate) fn account_of(secret: &Secret, snapshot: &Snapshot) -> Option<Arc<ServiceAccount>> {
    let account = snapshot.service_accounts.get_in(secret.namespace(), annotation(secret, ACCOUNT))?;
    let uid = annotation(secret, ACCOUNT_UID);
    (uid.is_empty() || uid == account.uid()).then_some(account)
}

/// Whether an account lists a Secret of this name.
pub(crate) fn refers_to(account: &ServiceAccount, name: &str) -> bool {
    account.secrets.iter().flatten().any(|secret| secret.name.as_deref() == Some(name))
}

impl Controller for ServiceAccountTokens {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    /// It makes what the others authenticate with.
    fn account(&self) -> &'static str {
        ""
    }

    fn watches(&self, watches: &mut Watches<'_>) {
        let snapshot = watches.snapshot.clone();
        watches.primary(&snapshot.token_secrets);
        watches.on(&snapshot.service_accounts, |change, snapshot| {
            let account = change.object();
            let secrets = snapshot.token_secrets.by_index(NAMESPACE, account.namespace());
            let own = secrets.iter().filter(|secret| annotation(secret, ACCOUNT) == account.name());
            own.map(|secret| secret.key()).collect()
        });
    }

    fn reconcile(&self, key: &str, snapshot: &Snapshot, _: &Context) -> Plan {
        let Some(secret) = snapshot.token_secrets.get(key) else { return unlist(key, snapshot) };
        let name = annotation(&secret, ACCOUNT);
        if name.is_empty() || secret.is_deleting() {
            return Plan::idle();
        }
        match account_of(&secret, snapshot) {
            Some(account) => self.fill(&secret, &account),
            None => {
                // The store may be behind: the server is asked before a token is thrown away.
                let absent = Op::RequireAbsent {
                    gvr: ServiceAccount::gvr(),
                    namespace: secret.namespace().to_owned(),
                    name: name.to_owned(),
                    uid: annotation(&secret, ACCOUNT_UID).to_owned(),
                };
                Plan::of(vec![absent, Op::delete(&*secret)])
            }
        }
    }
}

impl ServiceAccountTokens {
    fn fill(&self, secret: &Secret, account: &ServiceAccount) -> Plan {
        let held = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map_or(&[][..], |bytes| &bytes.0);
        let mut missing: Vec<(&str, Vec<u8>)> = Vec::new();
        if let Some(ca) = self.ca.as_ref().filter(|ca| held("ca.crt") != ca.as_bytes()) {
            missing.push(("ca.crt", ca.clone().into_bytes()));
        }
        if held("namespace").is_empty() {
            missing.push(("namespace", secret.namespace().as_bytes().to_vec()));
        }
        if held("token").is_empty() {
            let token = LegacyToken {
                namespace: secret.namespace().to_owned(),
                service_account: account.name().to_owned(),
                service_account_uid: account.uid().to_owned(),
                secret: secret.name().to_owned(),
            };
            match token.sign(&self.key.load()) {
                Ok(token) => missing.push(("token", token.into_bytes())),
                Err(cause) => return Plan::of(vec![Op::Fail(format!("cannot make the token of a Secret: {cause}"))]),
            }
        }
        if missing.is_empty() {
            return Plan::idle();
        }
        let mut new = secret.clone();
        let annotations = new.metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT.to_owned(), account.name().to_owned());
        annotations.insert(ACCOUNT_UID.to_owned(), account.uid().to_owned());
        let data = new.data.get_or_insert_default();
        data.extend(missing.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))));
        Plan::of(vec![Op::update(&new)])
    }
}

/// A Secret is gone: no account lists it any more.
fn unlist(key: &str, snapshot: &Snapshot) -> Plan {
    let Some((namespace, name)) = key.split_once('/') else { return Plan::idle() };
    let accounts = snapshot.service_accounts.list_in(namespace);
    let update = |account: &Arc<ServiceAccount>| {
        let mut new = (**account).clone();
        new.secrets.get_or_insert_default().retain(|secret| secret.name.as_deref() != Some(name));
        Op::update(&new)
    };
    Plan::of(accounts.iter().filter(|account| refers_to(account, name)).map(update).collect())
}

#[cfg(test)]
#[path = "legacy_token_tests.rs"]
mod tests;
