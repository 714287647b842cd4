//! No more requests at once than the server is to take, and everyone their share of them.

use http::HeaderName;
use kybern_apimachinery::ApiError;

use super::{Context, Next, Outcome};
use crate::BoxFuture;
use crate::cache::KindCache;
use crate::flow::Size;
use crate::options::{ListOptions, VersionMatch};
use crate::request_info::RequestInfo;

const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
/// A list that is sent as it is made is never more work than this.
const STREAMED: usize = 1_000_000;
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

pub(super) fn stage(context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    let watches = context.info.verb == "watch";
    if context.info.is_long_running() && !watches {
        return next.run(context);
    }
    let Some(flow) = context.server.flow.clone() else { return in_flight(context, next, watches) };
    Box::pin(async move {
        let entry = flow.enter(&context.user, &context.info, &size(&context)).await;
        let uids = [(SCHEMA, entry.schema_uid), (LEVEL, entry.level_uid)];
        context.headers.lock().extend(uids.into_iter().filter_map(|(name, uid)| Some((name, uid?))));
        let retry_after = entry.retry_after;
        let seat = entry.seat.ok_or_else(|| too_many(retry_after))?;
        if watches {
            // A watch is work until it has begun.
            let outcome = next.run(context).await;
            drop(seat);
            return outcome;
        }
        context.held.keep(seat);
        next.run(context).await
    })
}

fn too_many(retry_after: u32) -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", retry_after)
}

/// With `--enable-priority-and-fairness=false`.
fn in_flight(context: Box<Context>, next: Next, watches: bool) -> BoxFuture<'static, Outcome> {
    if watches {
        return next.run(context);
    }
    match context.server.in_flight.enter(context.info.writes()) {
        Some(seat) => context.held.keep(seat),
        // An administrator always gets an answer.
        None if context.user.in_group("system:masters") => {}
        None => return Box::pin(async { Err(too_many(1)) }),
    }
    next.run(context)
}

/// The bytes that a list has at once, as upstream estimates them.
fn bytes(info: &RequestInfo, options: &ListOptions, context: &Context, kind: &KindCache) -> usize {
    let (all, average) = kind.size();
    let limited = if options.limit > 0 { all.min(options.limit) } else { all };
    let selects = !context.query.get("labelSelector").is_empty() || !context.query.get("fieldSelector").is_empty();
    // What upstream reads from its store: a page that goes on, and a revision of the past.
    let exact = !options.continue_token.is_empty() || matches!(options.version_match(), Ok(VersionMatch::Exact(_)));
    let stored = info.verb == "list" && exact;
    let objects = match () {
        () if !info.name.is_empty() => 1,
        () if stored && selects => limited.max(all / 2),
        () => limited,
    };
    let bytes = objects.saturating_mul(average);
    if stored { bytes } else { bytes.min(STREAMED) }
}

/// How much work a request is, roughly as upstream takes it.
fn size(context: &Context) -> Size {
    let info = &context.info;
    if !info.resource_request {
        return Size::One;
    }
    let kind = || {
        let row = context.server.row(&info.group, &info.resource).ok()?;
        context.server.kind(&row).ok()
    };
    match info.verb {
        "list" | "watch" => {
            let initial = info.verb == "list" || context.query.flag("sendInitialEvents");
            // What another server has is not work of this one.
            let Some(kind) = kind().filter(|_| initial) else { return Size::One };
            // It will be refused; upstream takes it for the most.
            let Ok(options) = ListOptions::parse(&context.query) else { return Size::Bytes(usize::MAX) };
            Size::Bytes(bytes(info, &options, context, &kind))
        }
        // Tokens are no events.
        "create" if info.resource == "serviceaccounts" && info.subresource == "token" => Size::One,
        "create" | "update" | "patch" | "delete" => kind().map_or(Size::One, |kind| Size::Watchers(kind.watchers())),
        _ => Size::One,
    }
}
