//! exec, attach, port-forward and run.

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Body, Context, text};

pub async fn exec(_request: Request<Incoming>, _context: &Context, _path: &[&str]) -> Response<Body> {
    text(StatusCode::NOT_FOUND, "")
}
pub async fn attach(_request: Request<Incoming>, _context: &Context, _path: &[&str]) -> Response<Body> {
    text(StatusCode::NOT_FOUND, "")
}
pub async fn port_forward(_request: Request<Incoming>, _context: &Context, _path: &[&str]) -> Response<Body> {
    text(StatusCode::NOT_FOUND, "")
}
pub async fn run(_context: &Context, _namespace: &str, _pod: &str, _container: &str, _query: &str) -> Response<Body> {
    text(StatusCode::NOT_FOUND, "")
}
