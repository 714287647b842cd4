//! No more requests at once than the server is to take, and everyone their share of them.

use http::{HeaderName, HeaderValue};
use kybern_apimachinery::{ApiError, GroupResource};

use super::{Context, Next, Outcome};
use crate::BoxFuture;
use crate::flow::Size;
use crate::options::ListOptions;

const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

pub(super) fn stage(context: Context, next: Next) -> BoxFuture<'static, Outcome> {
    let watches = context.info.verb == "watch";
    if context.info.is_long_running() && !watches {
        return next.run(context);
    }
    let Some(flow) = context.server.flow.clone() else { return in_flight(context, next, watches) };
    Box::pin(async move {
        let entry = flow.enter(&context.user, &context.info, &size(&context)).await;
        for (name, uid) in [(SCHEMA, &entry.schema_uid), (LEVEL, &entry.level_uid)] {
            context.headers.lock().extend(HeaderValue::from_str(uid).ok().map(|uid| (name, uid)));
        }
        let seat = entry.seat.ok_or_else(too_many)?;
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

fn too_many() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", 1)
}

/// With `--enable-priority-and-fairness=false`.
fn in_flight(context: Context, next: Next, watches: bool) -> BoxFuture<'static, Outcome> {
    if watches {
        return next.run(context);
    }
    match context.server.in_flight.enter(context.info.writes()) {
        Some(seat) => context.held.keep(seat),
        // An administrator always gets an answer.
        None if context.user.in_group("system:masters") => {}
        None => return Box::pin(async { Err(too_many()) }),
    }
    next.run(context)
}

/// How much work a request is, roughly as upstream takes it.
fn size(context: &Context) -> Size {
    let info = &context.info;
    if !info.resource_request {
        return Size::One;
    }
    let resource = GroupResource::new(&info.group, &info.resource);
    let kind = || {
        let row = context.server.row(&resource.group, &resource.resource).ok()?;
        context.server.kind(&row).ok()
    };
    match info.verb {
        "list" | "watch" => {
            let initial = info.verb == "list" || context.query.flag("sendInitialEvents");
            // Found by its name; and what another server has is not work of this one.
            let Some(kind) = kind().filter(|_| initial && info.name.is_empty()) else { return Size::One };
            let Ok(options) = ListOptions::parse(&context.query) else { return Size::One };
            // Without a limit, or from any state, all are gone through; else at most so many, twice.
            let all = kind.len();
            let limited = options.limit > 0 && options.resource_version != "0" && info.verb == "list";
            Size::Objects(if limited { all.min(2 * options.limit) } else { all })
        }
        // Tokens are no events.
        "create" if info.resource == "serviceaccounts" && info.subresource == "token" => Size::One,
        "create" | "update" | "patch" | "delete" => kind().map_or(Size::One, |kind| Size::Watchers(kind.watchers())),
        _ => Size::One,
    }
}
