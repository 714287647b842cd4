//! Service-account tokens, checked against the live service account and the object that the token is bound to.

use std::sync::Arc;

use kybern_apimachinery::object;
use kybern_apimachinery::time::Clock;
use kybern_apiserver::BoxFuture;
use kybern_apiserver::connect::ObjectsSlot;

use super::{TokenAuthenticator, TokenUser};
use crate::token::{Claims, Issuer};

/// What a token's bound object may be, and where it lives.
const BOUND: [(&str, &str, bool); 3] = [("Pod", "pods", true), ("Secret", "secrets", true), ("Node", "nodes", false)];

pub struct ServiceAccountTokens {
    issuer: Arc<Issuer>,
    objects: ObjectsSlot,
    clock: Arc<dyn Clock>,
}

impl ServiceAccountTokens {
    pub fn new(issuer: Arc<Issuer>, objects: ObjectsSlot, clock: Arc<dyn Clock>) -> Self {
        Self { issuer, objects, clock }
    }

    async fn check_alive(&self, claims: &Claims) -> Result<(), String> {
        let objects = &self.objects.get().map_err(|e| e.to_string())?;
        let uid = |resource: &'static str, namespace: String, name: String| async move {
            objects.get("", resource, &namespace, &name).await.ok().map(|o| object::uid(&o).to_owned())
        };
        let (namespace, name) = (claims.namespace.clone(), claims.service_account.clone());
        if uid("serviceaccounts", namespace.clone(), name.clone()).await.as_deref()
            != Some(claims.service_account_uid.as_str())
        {
            return Err(format!("service account {namespace}/{name} has been deleted"));
        }
        let Some(bound) = &claims.bound else { return Ok(()) };
        let Some((_, resource, namespaced)) = BOUND.iter().find(|(kind, ..)| *kind == bound.kind) else {
            return Err(format!("the token is bound to a {}, which is not supported", bound.kind));
        };
        let scope = if *namespaced { namespace } else { String::new() };
        if uid(resource, scope, bound.name.clone()).await.as_deref() != Some(bound.uid.as_str()) {
            return Err(format!(
                "the {} {:?} that the token is bound to has been deleted",
                bound.kind.to_lowercase(),
                bound.name
            ));
        }
        Ok(())
    }
}

impl TokenAuthenticator for ServiceAccountTokens {
    fn authenticate_token<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<Option<TokenUser>, String>> {
        Box::pin(async move {
            if !self.issuer.issued(token) {
                return Ok(None);
            }
            self.issuer.refresh_for(token).await;
            let claims = self.issuer.verify(token, audiences, self.clock.now()).map_err(|e| e.to_string())?;
            self.check_alive(&claims).await?;
            Ok(Some(TokenUser { user: claims.user(), audiences: Some(claims.audiences), notes: Vec::new() }))
        })
    }
}
