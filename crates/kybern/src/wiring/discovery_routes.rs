//! The paths by which others learn to verify service-account tokens.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, header};
use kybern_apiserver::{Body, BoxFuture, Route, body};
use kybern_auth::token::{Discovery, Issuer};

struct Document {
    issuer: Arc<Issuer>,
    content_type: &'static str,
    of: fn(Discovery) -> Vec<u8>,
}

impl Route for Document {
    fn serve(&self, _request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        let (documents, life) = self.issuer.discovery();
        let mut response = Response::new(body::full((self.of)(documents)));
        let life = HeaderValue::from_str(&format!("public, max-age={}", life.as_secs()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        response.headers_mut().insert(header::CACHE_CONTROL, life.expect("a number is a header's value"));
        Box::pin(async move { response })
    }
}

pub(super) fn of(issuer: &Arc<Issuer>) -> Vec<(String, Arc<dyn Route>)> {
    let route = |path: &str, content_type, of: fn(Discovery) -> Vec<u8>| -> (String, Arc<dyn Route>) {
        (path.to_owned(), Arc::new(Document { issuer: Arc::clone(issuer), content_type, of }))
    };
    vec![
        route(Discovery::CONFIGURATION_PATH, "application/json", |documents| documents.openid_configuration),
        route(Discovery::JWKS_PATH, "application/jwk-set+json", |documents| documents.jwks),
    ]
}
