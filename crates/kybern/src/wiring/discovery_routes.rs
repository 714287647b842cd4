//! The paths by which others learn to verify service-account tokens.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, header};
use kybern_apiserver::{Body, BoxFuture, Route, body};
use kybern_auth::token::{Discovery, Issuer};

struct Document {
    content_type: &'static str,
    bytes: Bytes,
}

impl Route for Document {
    fn serve(&self, _request: Request<Body>) -> BoxFuture<'_, Response<Body>> {
        let mut response = Response::new(body::full(self.bytes.clone()));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(self.content_type));
        Box::pin(async move { response })
    }
}

pub(super) fn of(issuer: &Issuer) -> Vec<(String, Arc<dyn Route>)> {
    let Discovery { openid_configuration, jwks } = issuer.discovery("");
    let route = |path: &str, content_type, bytes: Vec<u8>| -> (String, Arc<dyn Route>) {
        (path.to_owned(), Arc::new(Document { content_type, bytes: bytes.into() }))
    };
    vec![
        route(Discovery::CONFIGURATION_PATH, "application/json", openid_configuration),
        route(Discovery::JWKS_PATH, "application/jwk-set+json", jwks),
    ]
}
