//! WATCH: events from a revision on, or everything and then events.

mod frames;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response};
use kybern_apimachinery::{ApiError, Reason};
use kybern_storage::Revision;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};

use self::frames::Encoder;
use super::Exchange;
use super::converted::{self, Converted};
use crate::cache::{Behind, Cache, KindCache, Selection, Subscription, TooOld, WatchEvent};
use crate::negotiate::{Encoding, not_streamed};
use crate::options::ListOptions;
use crate::{Body, body, codec};

/// How often a watcher that wants bookmarks gets one.
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);
/// A watch ends after this, or up to twice this, when the client names no time.
const MIN_TIMEOUT: u64 = 1800;
/// No watch lasts longer, whatever the client asks for.
const MAX_TIMEOUT: u64 = 7 * 86_400;
/// Events are gathered up to this many bytes before they are sent.
const PIECE: usize = 64 << 10;

pub(super) async fn watch(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let mut options = ListOptions::parse(&exchange.query)?;
    options.validate_watch()?;
    let converted = converted::split(&exchange.resource, &mut options.fields);
    let presentation = exchange.presentation()?;
    if presentation.format.encoding == Encoding::Yaml {
        return Err(not_streamed(codec::has_protobuf(&exchange.resource.ty)));
    }
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
    if revision.is_none() || initial == Some(true) {
        kind.check_all_readable(&selection)?;
    }
    let subscription = match (revision, initial) {
        (_, Some(true)) | (None, None) => Ok(kind.watch_from_now(&selection, || server.cache.revision())),
        (None, Some(false)) => kind.watch(&selection, server.cache.revision()),
        (Some(revision), _) => kind.watch(&selection, revision),
    };
    if !server.served.load().table.serves(&exchange.resource) {
        // Its watches were ended while this one began.
        return Err(ApiError::new(Reason::ServiceUnavailable, "the resource has just changed: try again"));
    }
    let timeout = options.timeout_seconds.unwrap_or_else(|| MIN_TIMEOUT + spread(MIN_TIMEOUT)).min(MAX_TIMEOUT);
    let encoder = Encoder::new(exchange.resource.clone(), presentation, exchange.server.clock.clone());
    let media = encoder.media_type();
    let watcher = match subscription {
        Err(too_old) => Watcher::refused(encoder, too_old),
        Ok(subscription) => {
            let mut bookmarks = tokio::time::interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
            bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            Watcher {
                encoder,
                converted,
                refusal: None,
                feed: Some(Feed {
                    cache: server.cache.clone(),
                    kind,
                    last: subscription.revision,
                    subscription,
                    bookmarks: options.allow_bookmarks.then_some(bookmarks),
                    deadline: Box::pin(tokio::time::sleep(Duration::from_secs(timeout))),
                }),
                end_of_initial: initial == Some(true) && options.allow_bookmarks,
                pending: VecDeque::new(),
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
    converted: Option<Converted>,
    /// An error to be sent instead of events.
    refusal: Option<ApiError>,
    /// `None` after the last event.
    feed: Option<Feed>,
    /// Whether the bookmark that ends the initial events is still to be sent.
    end_of_initial: bool,
    /// Events to be sent.
    pending: VecDeque<WatchEvent>,
}

struct Feed {
    cache: Arc<Cache>,
    kind: Arc<KindCache>,
    subscription: Subscription,
    /// The revision that the client was told last.
    last: Revision,
    bookmarks: Option<Interval>,
    /// Made once: a timer for each wait would be a good part of what an event costs.
    deadline: Pin<Box<Sleep>>,
}

/// What a wait brought.
enum Wake {
    Events,
    Behind,
    Bookmark,
    Deadline,
}

impl Watcher {
    /// A watch from a revision that is gone: one error, and the end.
    fn refused(encoder: Encoder, too_old: TooOld) -> Self {
        let refusal = Some(expired(too_old));
        let (end_of_initial, pending) = (false, VecDeque::new());
        Self { encoder, converted: None, refusal, feed: None, end_of_initial, pending }
    }

    /// What is there already, and the error that ends the watch.
    fn broken(&mut self, mut out: Piece, error: &ApiError) -> Bytes {
        self.feed = None;
        out.add(self.encoder.status(error));
        out.take()
    }

    /// The next bytes to send; `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(error) = self.refusal.take() {
            return Some(self.encoder.status(&error));
        }
        let mut out = Piece::default();
        loop {
            let feed = self.feed.as_mut()?;
            while let Some(place) = feed.subscription.place() {
                let shared = self.encoder.shared().filter(|_| self.converted.is_none()).cloned();
                if let Some(bytes) = shared.as_ref().and_then(|form| feed.subscription.joined_before(form)) {
                    out.add(bytes);
                } else {
                    let mut made = Piece::default();
                    while feed.subscription.place().is_some()
                        && !made.is_full()
                        && let Some(event) = feed.subscription.before()
                    {
                        match frame(&mut self.encoder, self.converted.as_ref(), event).await {
                            Ok(frame) => made.add(frame),
                            Err(error) => {
                                out.add(made.take());
                                return Some(self.broken(out, &error));
                            }
                        }
                    }
                    let bytes = made.take();
                    if let Some(form) = &shared {
                        feed.subscription.share_before(form, place, &bytes);
                    }
                    out.add(bytes);
                }
                feed.last = feed.last.max(feed.subscription.revision);
                if out.is_full() {
                    return Some(out.take());
                }
            }
            while let Some(event) = feed.subscription.before() {
                feed.last = feed.last.max(event.entry.revision);
                match frame(&mut self.encoder, self.converted.as_ref(), event).await {
                    Ok(frame) => out.add(frame),
                    Err(error) => return Some(self.broken(out, &error)),
                }
                if out.is_full() {
                    return Some(out.take());
                }
            }
            if std::mem::take(&mut self.end_of_initial) {
                let revision = feed.subscription.revision;
                feed.last = feed.last.max(revision);
                out.add(self.encoder.bookmark(revision, true));
            }
            // What is there already goes along; only then wait.
            let (mut behind, mut is_whole) = (false, false);
            loop {
                while let Some(event) = self.pending.pop_front() {
                    feed.last = feed.last.max(event.entry.revision);
                    match frame(&mut self.encoder, self.converted.as_ref(), event).await {
                        Ok(frame) => out.add(frame),
                        Err(error) => return Some(self.broken(out, &error)),
                    }
                    if out.is_full() {
                        return Some(out.take());
                    }
                }
                let shared = self.encoder.shared().filter(|_| self.converted.is_none());
                if let Some(form) = shared {
                    if is_whole {
                        feed.subscription.share(form, &out.share());
                    } else if let Some(bytes) = feed.subscription.joined(form) {
                        out.add(bytes);
                        feed.last = feed.last.max(feed.subscription.seen());
                        if out.is_full() {
                            return Some(out.take());
                        }
                        continue;
                    }
                }
                is_whole = out.is_empty() && shared.is_some();
                match feed.subscription.read() {
                    Ok(events) if events.is_empty() => break,
                    Ok(events) => self.pending = events.into(),
                    Err(Behind) => {
                        behind = true;
                        break;
                    }
                }
            }
            if !out.is_empty() {
                return Some(out.take());
            }
            match if behind { Wake::Behind } else { feed.wait().await } {
                Wake::Events => {}
                // The row is another now, or gone: whoever goes on watching finds out which.
                Wake::Behind if feed.kind.has_ended(&feed.subscription) => return None,
                Wake::Behind => {
                    if let Err(too_old) = feed.kind.resume(&mut feed.subscription) {
                        self.feed = None;
                        return Some(self.encoder.status(&expired(too_old)));
                    }
                    // The same, if it was ended just now.
                    if feed.kind.has_ended(&feed.subscription) {
                        return None;
                    }
                }
                Wake::Bookmark => {
                    // Looked at before the events are read: every event up to it is then sent.
                    let revision = feed.cache.revision();
                    let mut all = !feed.subscription.is_closed();
                    loop {
                        match feed.subscription.read() {
                            Ok(events) if events.is_empty() => break,
                            Ok(events) => {
                                for event in events {
                                    feed.last = feed.last.max(event.entry.revision);
                                    match frame(&mut self.encoder, self.converted.as_ref(), event).await {
                                        Ok(frame) => out.add(frame),
                                        Err(error) => return Some(self.broken(out, &error)),
                                    }
                                }
                            }
                            Err(Behind) => {
                                all = false;
                                break;
                            }
                        }
                    }
                    if all && revision >= feed.last {
                        feed.last = revision;
                        out.add(self.encoder.bookmark(revision, false));
                    }
                }
                Wake::Deadline => return None,
            }
        }
    }
}

/// An event's bytes; none for one that the watcher is not to see.
async fn frame(encoder: &mut Encoder, converted: Option<&Converted>, event: WatchEvent) -> Result<Bytes, ApiError> {
    let Some(converted) = converted else { return Ok(encoder.event(&event).await) };
    Ok(match converted.seen(event).await? {
        Some(event) => encoder.event(&event).await,
        None => Bytes::new(),
    })
}

impl Feed {
    async fn wait(&mut self) -> Wake {
        let bookmarks = self.bookmarks.as_mut();
        tokio::select! {
            biased;
            told = self.subscription.wait() => told.map_or(Wake::Behind, |()| Wake::Events),
            () = self.deadline.as_mut() => Wake::Deadline,
            () = async {
                match bookmarks {
                    Some(bookmarks) => { bookmarks.tick().await; }
                    None => std::future::pending().await,
                }
            } => Wake::Bookmark,
        }
    }
}

/// Frames that are sent together; a single one as it is, without a copy.
#[derive(Default)]
struct Piece {
    first: Bytes,
    rest: BytesMut,
}

impl Piece {
    fn add(&mut self, frame: Bytes) {
        if frame.is_empty() {
            return;
        }
        if self.first.is_empty() {
            self.first = frame;
            return;
        }
        if self.rest.is_empty() {
            self.rest.reserve(self.first.len() + frame.len());
            self.rest.extend_from_slice(&self.first);
        }
        self.rest.extend_from_slice(&frame);
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    fn is_full(&self) -> bool {
        self.first.len().max(self.rest.len()) >= PIECE
    }

    /// What there is, in one piece for others, too.
    fn share(&mut self) -> Bytes {
        self.first = self.take();
        self.first.clone()
    }

    fn take(&mut self) -> Bytes {
        let Self { first, rest } = std::mem::take(self);
        if rest.is_empty() { first } else { rest.freeze() }
    }
}

fn expired(too_old: TooOld) -> ApiError {
    ApiError::expired(format!("too old resource version: {} ({})", too_old.requested, too_old.oldest))
}
