//! POST to a collection.

use http::{Response, StatusCode};
use kybern_apimachinery::ApiError;

use super::{Exchange, read_object};
use crate::write::Writer;
use crate::{Body, respond};

pub(super) async fn create(exchange: &Exchange, body: Body) -> Result<Response<Body>, ApiError> {
    let presentation = exchange.presentation()?;
    let options = exchange.write_options("CreateOptions")?;
    let object = read_object(exchange, body, &options).await?;
    let mut writer = Writer::new(exchange, &options);
    let entry = writer.create(object).await?;
    respond::entry(&exchange.resource, &entry, presentation, StatusCode::CREATED).await
}
