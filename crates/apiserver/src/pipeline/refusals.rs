//! Makes a response of an error, in the form the client asked for, and adds to every answer what all of them carry.

use http::HeaderValue;
use http::header::CACHE_CONTROL;

use super::{Context, Next, Outcome};
use crate::{BoxFuture, respond};

pub(super) fn stage(context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    let (form, warnings, headers) = (context.form, context.warnings.clone(), context.headers.clone());
    Box::pin(async move {
        let mut response = next.run(context).await.unwrap_or_else(|error| respond::refusal(&error, form));
        warnings.write(&mut response);
        response.headers_mut().extend(std::mem::take(&mut *headers.lock()));
        response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        Ok(response)
    })
}
