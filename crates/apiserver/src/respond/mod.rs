//! Objects and lists to responses: stored bytes as they are wherever the client asked for nothing else.

pub(crate) mod ahead;
mod messages;
mod pretty;
mod yaml;

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use kybern_apimachinery::{ApiError, Gvk, Map, Value, json};
use kybern_schema::proto::Writer;
use kybern_schema::types::KindType;

pub(crate) use self::messages::Form;
use self::messages::Messages;
use self::pretty::Indenter;
use crate::body;
use crate::cache::Entry;
use crate::convert::View;
use crate::negotiate::{Encoding, Format, Shape};
use crate::resource::Resource;
use crate::table::{self, Include};
use crate::{Body, codec, convert};

/// A refusal in the form that the client asked for.
pub(crate) fn refusal(error: &ApiError, form: Format) -> Response<Body> {
    let mut response = body::error(error);
    if form.encoding != Encoding::Json || form.pretty {
        static STATUS: LazyLock<Option<KindType>> =
            LazyLock::new(|| kybern_schema::builtin().kind(&Gvk::new("", "v1", "Status")));
        // Better in another form than not at all.
        if let Ok((media, bytes)) = codec::write(form, STATUS.as_ref(), &error.to_status()) {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
            response.headers_mut().insert(CONTENT_LENGTH, bytes.len().into());
            *response.body_mut() = body::full(bytes);
        }
    }
    response
}

/// How an answer is to be presented.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presentation {
    pub(crate) format: Format,
    pub(crate) include: Include,
    pub(crate) now: jiff::Timestamp,
}

/// The views of stored objects that an answer needs.
async fn views(
    resource: &Resource,
    items: &[Arc<Entry>],
    presentation: Presentation,
) -> Result<Option<Vec<View>>, ApiError> {
    let Presentation { format, include, .. } = presentation;
    let table = format.shape == Shape::Table;
    let serve = format.shape == Shape::Object || (table && include == Include::Object);
    convert::views(resource, items, serve, table).await
}

/// The view of one stored object.
pub(crate) async fn view(
    resource: &Resource,
    entry: &Arc<Entry>,
    presentation: Presentation,
) -> Result<View, ApiError> {
    let views = views(resource, std::slice::from_ref(entry), presentation).await?;
    Ok(views.and_then(|mut views| views.pop()).unwrap_or_default())
}

/// A stored object as a response.
pub(crate) async fn entry(
    resource: &Resource,
    entry: &Arc<Entry>,
    presentation: Presentation,
    code: StatusCode,
) -> Result<Response<Body>, ApiError> {
    let Presentation { format, include, now } = presentation;
    let view = view(resource, entry, presentation).await?;
    let plain = format.encoding == Encoding::Json && !format.pretty;
    if format.encoding == Encoding::Protobuf
        && let Some(form) = Form::new(resource, format)
    {
        let mut out = Writer::default();
        form.body(&mut out, &view, entry)?;
        return Ok(body::response(code, Encoding::Protobuf.media_type(), out.written().to_vec()));
    }
    let (media, bytes) = match format.shape {
        Shape::Object if plain => ("application/json", view.served_bytes(resource, entry)),
        Shape::Object => codec::write(format, Some(&resource.ty), &view.served_value(resource, entry)?)?,
        Shape::Metadata => reencode(
            format,
            meta_kind("PartialObjectMetadata", format.version),
            table::metadata(entry, format.version),
        )?,
        Shape::Table => {
            let head =
                table::head(resource, format.version, &json!({"resourceVersion": entry.revision.to_string()}), true);
            let row = table::row(resource, entry, &view, include, format.version, now);
            reencode(
                format,
                meta_kind("Table", format.version),
                [head.as_bytes(), &row, table::TAIL.as_bytes()].concat(),
            )?
        }
    };
    Ok(body::response(code, media, bytes))
}

/// The shape of a meta kind, where the table has it.
fn meta_kind(kind: &str, version: &str) -> Option<KindType> {
    kybern_schema::builtin().kind(&Gvk::new("meta.k8s.io", version, kind))
}

/// JSON that was put together by hand, in another encoding.
fn reencode(format: Format, kind: Option<KindType>, json: Vec<u8>) -> Result<(&'static str, Bytes), ApiError> {
    if format.encoding == Encoding::Json && !format.pretty {
        return Ok(("application/json", json.into()));
    }
    let value: Value = serde_json::from_slice(&json).map_err(ApiError::internal)?;
    codec::write(format, kind.as_ref(), &value)
}

/// `metadata` of a list.
pub(crate) fn list_metadata(revision: u64, continue_token: &str, remaining: Option<usize>) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), revision.to_string().into());
    if !continue_token.is_empty() {
        metadata.insert("continue".into(), continue_token.into());
        if let Some(remaining) = remaining {
            metadata.insert("remainingItemCount".into(), remaining.into());
        }
    }
    Value::Object(metadata)
}

/// Stored objects as a list. `gzip` compresses what is not small.
pub(crate) async fn list(
    resource: &Arc<Resource>,
    items: Vec<Arc<Entry>>,
    metadata: &Value,
    presentation: Presentation,
    gzip: bool,
) -> Result<Response<Body>, ApiError> {
    let format = presentation.format;
    // Before the first byte is sent: what cannot be converted is an answer of its own, and no gap in a list.
    let views = views(resource, &items, presentation).await?;
    let list_kind = format!("{}List", resource.kind);
    if format.encoding == Encoding::Protobuf {
        let list = Messages::new(resource, format, items, views).ok_or_else(|| {
            ApiError::internal(format!("{list_kind} has no protobuf form, though {} has one", resource.kind))
        })?;
        return messages(list, metadata, gzip).await;
    }
    let is_small = !is_larger(&items, SMALL);
    let head = list_head(resource, metadata, presentation);
    let items = list_items(resource, items, views, presentation);
    let yaml = format.encoding == Encoding::Yaml;
    let pieces: Box<dyn Iterator<Item = Bytes> + Send> = if yaml {
        Box::new(body::coalesce(yaml::pieces(&head, items)?))
    } else {
        Box::new(body::coalesce(json_pieces(head, items)))
    };
    // What is only copied is made in passing. A table's cells need each object's tree, and so does YAML.
    let aside = !is_small && (gzip || yaml || format.pretty || format.shape == Shape::Table);
    let pieces: Box<dyn Iterator<Item = Bytes> + Send> = if format.pretty && !yaml {
        let mut indenter = Indenter::default();
        Box::new(pieces.map(move |piece| indenter.feed(&piece).into()))
    } else {
        Box::new(pieces)
    };
    let pieces = if gzip { Box::new(crate::gzip::compress(pieces)) } else { pieces };
    let mut response =
        Response::new(if aside { body::made_aside(pieces) } else { body::stream(futures_util::stream::iter(pieces)) });
    let headers = response.headers_mut();
    let media = if yaml { Encoding::Yaml } else { Encoding::Json }.media_type();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    if gzip {
        compressed(headers);
    }
    Ok(response)
}

/// Whether objects have more JSON than a bound: known without a look at all of them.
pub(crate) fn is_larger(items: &[Arc<Entry>], bound: usize) -> bool {
    let mut weight = 0;
    items.iter().any(|entry| {
        weight += entry.bytes.len();
        weight > bound
    })
}

/// Lists of less JSON are written at once.
const SMALL: usize = 256 << 10;

/// Held while the lengths of a large list's messages are found, which takes all processors.
static MEASURING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A list in protobuf.
async fn messages(mut list: Messages, metadata: &Value, gzip: bool) -> Result<Response<Body>, ApiError> {
    let is_small = !is_larger(list.items(), SMALL);
    let length = if is_small {
        list.measure(metadata)?
    } else if let Some(length) = list.measure_known(metadata)? {
        length
    } else {
        let metadata = metadata.clone();
        // Many who ask for the same at once do not all go through it.
        let turn = if list.is_remembered() { Some(MEASURING.lock().await) } else { None };
        let measured = tokio::task::spawn_blocking(move || {
            if turn.is_some() {
                list.find_lengths(std::thread::available_parallelism().map_or(1, usize::from))?;
            }
            drop(turn);
            list.measure(&metadata).map(|length| (length, list))
        });
        let length;
        (length, list) = measured.await.map_err(ApiError::internal)??;
        length
    };
    let mut response = if gzip {
        let mut response = Response::new(body::made_aside(crate::gzip::compress(list)));
        compressed(response.headers_mut());
        response
    } else if is_small {
        let mut bytes = Vec::with_capacity(length);
        list.for_each(|piece| bytes.extend_from_slice(&piece));
        Response::new(body::full(bytes))
    } else {
        Response::new(body::made_aside(list))
    };
    let headers = response.headers_mut();
    if !gzip {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(Encoding::Protobuf.media_type()));
    Ok(response)
}

fn compressed(headers: &mut HeaderMap) {
    headers.insert(http::header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(http::header::VARY, HeaderValue::from_static("Accept-Encoding"));
}

/// A list's JSON up to its first item. The name of the items' field is its last.
fn list_head(resource: &Resource, metadata: &Value, presentation: Presentation) -> String {
    let Format { shape, version, .. } = presentation.format;
    match shape {
        Shape::Object => format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            resource.kind,
            resource.api_version()
        ),
        Shape::Metadata => format!(
            "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{metadata},\"items\":["
        ),
        Shape::Table => table::head(resource, version, metadata, true),
    }
}

/// The JSON of a list's items, each made as it is sent, in one piece or two.
fn list_items(
    resource: &Arc<Resource>,
    mut items: Vec<Arc<Entry>>,
    views: Option<Vec<View>>,
    presentation: Presentation,
) -> impl Iterator<Item = [Option<Bytes>; 2]> + Send + use<> {
    let Presentation { format: Format { shape, version, .. }, include, now } = presentation;
    let resource = resource.clone();
    // Only kinds that are stored as they are served have an order of their own.
    if let (Shape::Table, Some(order), None) = (shape, resource.columns.order, &views) {
        items.sort_by_cached_key(|entry| entry.value().map_or(0, |object| order(&object)));
    }
    items.into_iter().enumerate().map(move |(i, entry)| {
        let view = views.as_ref().and_then(|views| views.get(i)).unwrap_or(&View::PLAIN);
        match shape {
            Shape::Object => view.item_pieces(&resource, &entry),
            Shape::Metadata => [Some(table::metadata(&entry, version).into()), None],
            Shape::Table => [Some(table::row(&resource, &entry, view, include, version, now)), None],
        }
    })
}

fn json_pieces(
    head: String,
    items: impl Iterator<Item = [Option<Bytes>; 2]> + Send,
) -> impl Iterator<Item = Bytes> + Send {
    let items = items.enumerate().flat_map(|(i, pieces)| {
        let comma = (i > 0).then(|| Bytes::from_static(b","));
        comma.into_iter().chain(pieces.into_iter().flatten())
    });
    std::iter::once(Bytes::from(head)).chain(items).chain(std::iter::once(Bytes::from_static(b"]}\n")))
}

/// A tree of any kind as a response.
pub(crate) fn value(
    format: Format,
    kind: Option<&KindType>,
    value: &Value,
    code: StatusCode,
) -> Result<Response<Body>, ApiError> {
    let (media, bytes) = codec::write(format, kind, value)?;
    Ok(body::response(code, media, bytes))
}
