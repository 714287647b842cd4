//! WATCH: events from a revision on, or everything and then events.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response};
use kybern_apimachinery::{ApiError, Gvk, Reason, Value, json};
use kybern_storage::Revision;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Exchange;
use crate::cache::{Cache, EventKind, KindCache, Selection, Subscription, TooOld, WatchEvent};
use crate::negotiate::{Encoding, Shape};
use crate::options::ListOptions;
use crate::resource::Resource;
use crate::respond::Presentation;
use crate::{Body, body, codec, respond, table};

/// How often a watcher that wants bookmarks gets one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// A watch ends after this, or up to twice this, when the client names no time.
const MIN_TIMEOUT: u64 = 1800;
/// No watch lasts longer, whatever the client asks for.
const MAX_TIMEOUT: u64 = 7 * 86_400;
/// Events are gathered up to this many bytes before they are sent.
const PIECE: usize = 64 << 10;

pub(super) async fn watch(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let options = ListOptions::parse(&exchange.query)?;
    options.validate_watch()?;
    let presentation = exchange.presentation()?;
    let server = &exchange.server;
    let kind = server.kind(&exchange.resource)?;
    let mut selection = Selection::new(&kind.kind, &exchange.info.namespace, options.labels.clone(), &options.fields)?;
    if !exchange.info.name.is_empty() {
        selection.name = exchange.info.name.clone();
    }
    let selection = Arc::new(selection);
    let revision = options.revision()?.filter(|revision| *revision > 0);
    let initial = options.send_initial_events;
    match (revision, initial) {
        // Everything that there is, as recent as asked for.
        (Some(revision), Some(true)) => super::list::wait_for(server, revision).await?,
        // `resourceVersion=0` is content with any state.
        (None, None) if options.resource_version == "0" => {}
        (None, _) => server.catch_up().await?,
        _ => {}
    }
    let subscription = match (revision, initial) {
        (_, Some(true)) | (None, None) => Ok(kind.watch_from_now(selection.clone(), || server.cache.revision())),
        (None, Some(false)) => kind.watch(selection.clone(), server.cache.revision()),
        (Some(revision), _) => kind.watch(selection.clone(), revision),
    };
    if !server.served.load().table.serves(&exchange.resource) {
        // Its watches were ended while this one began.
        return Err(ApiError::new(Reason::ServiceUnavailable, "the resource has just changed: try again"));
    }
    let timeout = options.timeout_seconds.unwrap_or_else(|| MIN_TIMEOUT + spread(MIN_TIMEOUT)).min(MAX_TIMEOUT);
    let encoder = Encoder { resource: exchange.resource.clone(), presentation, first: true };
    let media = encoder.media_type();
    let watcher = match subscription {
        Err(too_old) => Watcher::refused(encoder, too_old),
        Ok(subscription) => {
            let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
            bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Watcher {
                encoder,
                refusal: None,
                feed: Some(Feed {
                    cache: server.cache.clone(),
                    kind,
                    selection,
                    last: subscription.revision,
                    subscription,
                    bookmarks: options.allow_bookmarks.then_some(bookmarks),
                }),
                end_of_initial: initial == Some(true) && options.allow_bookmarks,
                pending: Vec::new(),
                deadline: Instant::now() + Duration::from_secs(timeout),
            }
        }
    };
    let pieces = futures_util::stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|piece| (piece, watcher))
    });
    let mut response = Response::new(body::stream(pieces));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media));
    Ok(response)
}

/// A random number below `limit`, so that watches do not all end at once.
fn spread(limit: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without randomness they just end together.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % limit
}

struct Watcher {
    encoder: Encoder,
    /// An error to be sent instead of events.
    refusal: Option<ApiError>,
    /// `None` after the last event.
    feed: Option<Feed>,
    /// Whether the bookmark that ends the initial events is still to be sent.
    end_of_initial: bool,
    /// Events to be sent, last first.
    pending: Vec<WatchEvent>,
    deadline: Instant,
}

struct Feed {
    cache: Arc<Cache>,
    kind: Arc<KindCache>,
    selection: Arc<Selection>,
    subscription: Subscription,
    /// The revision up to which the client knows everything.
    last: Revision,
    bookmarks: Option<Interval>,
}

/// What a wait brought.
enum Wake {
    Event(WatchEvent),
    Behind,
    Bookmark,
    Deadline,
}

impl Watcher {
    /// A watch from a revision that is gone: one error, and the end.
    fn refused(encoder: Encoder, too_old: TooOld) -> Self {
        let refusal = Some(expired(too_old));
        Self { encoder, refusal, feed: None, end_of_initial: false, pending: Vec::new(), deadline: Instant::now() }
    }

    /// The next bytes to send; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(error) = self.refusal.take() {
            return Some(self.encoder.status(&error));
        }
        let mut out = BytesMut::new();
        loop {
            let feed = self.feed.as_mut()?;
            if !feed.subscription.backlog.is_empty() {
                self.pending = std::mem::take(&mut feed.subscription.backlog);
                self.pending.reverse();
            }
            while let Some(event) = self.pending.pop() {
                feed.last = feed.last.max(event.entry.revision);
                self.encoder.event(&mut out, &event).await;
                if out.len() >= PIECE {
                    return Some(out.freeze());
                }
            }
            if std::mem::take(&mut self.end_of_initial) {
                let revision = feed.subscription.revision;
                feed.last = feed.last.max(revision);
                self.encoder.bookmark(&mut out, revision, true);
            }
            // What is there already goes along; only then wait.
            while let Ok(event) = feed.subscription.queue.try_recv() {
                feed.last = feed.last.max(event.entry.revision);
                self.encoder.event(&mut out, &event).await;
                if out.len() >= PIECE {
                    return Some(out.freeze());
                }
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
            match feed.wait(self.deadline).await {
                Wake::Event(event) => {
                    feed.last = feed.last.max(event.entry.revision);
                    self.encoder.event(&mut out, &event).await;
                }
                // The row is another now, or gone: whoever goes on watching finds out which.
                Wake::Behind if feed.kind.has_ended(&feed.subscription) => return None,
                Wake::Behind => match feed.kind.watch(feed.selection.clone(), feed.last) {
                    Ok(subscription) => feed.subscription = subscription,
                    Err(too_old) => {
                        self.feed = None;
                        return Some(self.encoder.status(&expired(too_old)));
                    }
                },
                Wake::Bookmark => {
                    // Read before the queue is emptied: every event up to it is then sent.
                    let revision = feed.cache.revision();
                    while let Ok(event) = feed.subscription.queue.try_recv() {
                        feed.last = feed.last.max(event.entry.revision);
                        self.encoder.event(&mut out, &event).await;
                    }
                    if !feed.subscription.queue.is_closed() && revision >= feed.last {
                        feed.last = revision;
                        self.encoder.bookmark(&mut out, revision, false);
                    }
                }
                Wake::Deadline => return None,
            }
        }
    }
}

impl Feed {
    async fn wait(&mut self, deadline: Instant) -> Wake {
        let bookmarks = self.bookmarks.as_mut();
        tokio::select! {
            biased;
            event = self.subscription.queue.recv() => event.map_or(Wake::Behind, Wake::Event),
            () = tokio::time::sleep_until(deadline) => Wake::Deadline,
            () = async {
                match bookmarks {
                    Some(bookmarks) => { bookmarks.tick().await; }
                    None => std::future::pending().await,
                }
            } => Wake::Bookmark,
        }
    }
}

fn expired(too_old: TooOld) -> ApiError {
    ApiError::expired(format!("too old resource version: {} ({})", too_old.requested, too_old.oldest))
}

/// Events in the form that the client asked for.
struct Encoder {
    resource: Arc<Resource>,
    presentation: Presentation,
    /// A table's columns are sent with its first event only.
    first: bool,
}

impl Encoder {
    fn media_type(&self) -> &'static str {
        match self.presentation.format.encoding {
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Encoding::Yaml | Encoding::Json => "application/json",
        }
    }

    async fn event(&mut self, out: &mut BytesMut, event: &WatchEvent) {
        let name = match event.kind {
            EventKind::Added => "ADDED",
            EventKind::Modified => "MODIFIED",
            EventKind::Deleted => "DELETED",
        };
        let view = match respond::view(&self.resource, &event.entry, self.presentation).await {
            Ok(view) => view,
            Err(error) => return self.unreadable(out, &error),
        };
        let Presentation { format, include, now: _ } = self.presentation;
        match format.shape {
            Shape::Object => {
                if format.encoding == Encoding::Protobuf {
                    return match view.served_value(&self.resource, &event.entry) {
                        Ok(value) => self.frame(out, name, &[], Some((&value, Some(&self.resource.ty.clone())))),
                        Err(error) => self.unreadable(out, &error.into()),
                    };
                }
                let pieces: Vec<Bytes> = view.served_pieces(&self.resource, &event.entry).collect();
                let pieces: Vec<&[u8]> = pieces.iter().map(|p| &p[..]).collect();
                self.frame(out, name, &pieces, None);
            }
            Shape::Metadata => {
                let json = table::metadata(&event.entry, format.version);
                self.shaped(out, name, "PartialObjectMetadata", &[&json]);
            }
            Shape::Table => {
                let metadata = json!({"resourceVersion": event.entry.revision.to_string()});
                let first = std::mem::take(&mut self.first);
                let head = table::head(&self.resource, format.version, &metadata, first);
                let now = jiff::Timestamp::now();
                let row = table::row(&self.resource, &event.entry, &view, include, format.version, now);
                self.shaped(out, name, "Table", &[head.as_bytes(), &row, table::TAIL.as_bytes()]);
            }
        }
    }

    /// A bookmark: an object of the kind with nothing but a revision.
    fn bookmark(&mut self, out: &mut BytesMut, revision: Revision, ends_initial: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let format = self.presentation.format;
        match format.shape {
            Shape::Object => {
                let object = json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata});
                match format.encoding {
                    Encoding::Protobuf => {
                        let ty = self.resource.ty.clone();
                        self.frame(out, "BOOKMARK", &[], Some((&object, Some(&ty))));
                    }
                    _ => self.frame(out, "BOOKMARK", &[object.to_string().as_bytes()], None),
                }
            }
            Shape::Metadata => {
                let version = format!("meta.k8s.io/{}", format.version);
                let object = json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": metadata});
                self.shaped(out, "BOOKMARK", "PartialObjectMetadata", &[object.to_string().as_bytes()]);
            }
            Shape::Table => {
                let first = std::mem::take(&mut self.first);
                let list_metadata = json!({"resourceVersion": revision.to_string()});
                let head = table::head(&self.resource, format.version, &list_metadata, first);
                let object =
                    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                let row = json!({"cells": [], "object": object}).to_string();
                self.shaped(out, "BOOKMARK", "Table", &[head.as_bytes(), row.as_bytes(), table::TAIL.as_bytes()]);
            }
        }
    }

    /// What is sent in place of an object that cannot be read or converted: the watcher must not take it for unchanged.
    fn unreadable(&mut self, out: &mut BytesMut, error: &ApiError) {
        tracing::error!(%error, "a watcher is told of an error instead of an object");
        out.extend_from_slice(&self.status(error));
    }

    /// An `ERROR` event.
    fn status(&mut self, error: &ApiError) -> Bytes {
        let mut out = BytesMut::new();
        let status = error.to_status();
        if self.presentation.format.encoding == Encoding::Protobuf {
            let kind = kybern_schema::builtin().kind(&Gvk::new("", "v1", "Status"));
            self.frame(&mut out, "ERROR", &[], Some((&status, kind.as_ref())));
        } else {
            self.frame(&mut out, "ERROR", &[status.to_string().as_bytes()], None);
        }
        out.freeze()
    }

    /// An event whose object is a meta kind, given as JSON.
    fn shaped(&mut self, out: &mut BytesMut, name: &str, kind: &str, json: &[&[u8]]) {
        let format = self.presentation.format;
        if format.encoding != Encoding::Protobuf {
            return self.frame(out, name, json, None);
        }
        let kind = kybern_schema::builtin().kind(&Gvk::new("meta.k8s.io", format.version, kind));
        match serde_json::from_slice::<Value>(&json.concat()) {
            Ok(value) => self.frame(out, name, &[], Some((&value, kind.as_ref()))),
            Err(error) => out.extend_from_slice(&self.status(&ApiError::internal(error))),
        }
    }

    fn frame(
        &mut self,
        out: &mut BytesMut,
        name: &str,
        json: &[&[u8]],
        protobuf: Option<(&Value, Option<&kybern_schema::types::KindType>)>,
    ) {
        if let Some((value, Some(kind))) = protobuf {
            out.extend_from_slice(&codec::protobuf_watch_frame(name, kind, value));
            return;
        }
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        for piece in json {
            out.extend_from_slice(piece);
        }
        out.extend_from_slice(b"}\n");
    }
}
