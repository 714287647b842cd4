//! A request that does not last has an end: the server's, or an earlier one of the client's.

use std::time::Duration;

use kybern_apimachinery::{ApiError, Reason, json};
use kybern_schema::duration;

use super::{Context, Next, Outcome, audit};
use crate::{BoxFuture, body};

pub(super) fn stage(context: Box<Context>, next: Next) -> BoxFuture<'static, Outcome> {
    if context.info.is_long_running() {
        return next.run(context);
    }
    let limit = match limit(context.query.get("timeout"), context.server.request_timeout) {
        Ok(limit) => limit,
        Err(error) => {
            audit::failed(&context, error.message(), error.code());
            return Box::pin(async move { Err(error) });
        }
    };
    let (deadline, record) = (context.received + limit, context.audit.clone());
    Box::pin(async move {
        match tokio::time::timeout_at(deadline, next.run(context)).await {
            // What is sent piece by piece has to be sent by then, too.
            Ok(outcome) => outcome.map(|response| response.map(|body| body::until(body, deadline))),
            Err(_) => {
                let error = late();
                record.refused(&error);
                Err(error)
            }
        }
    })
}

fn late() -> ApiError {
    let text = "Timeout: request did not complete within the allotted timeout";
    ApiError::new(Reason::Timeout, text).with_details(json!({}))
}

/// The client's time where it is shorter than the server's.
fn limit(asked: &str, most: Duration) -> Result<Duration, ApiError> {
    if asked.is_empty() {
        return Ok(most);
    }
    let nanos = duration::parse(asked).ok_or_else(|| {
        let text = format!("invalid timeout specified in the request URL - time: invalid duration {asked:?}");
        ApiError::bad_request(text)
    })?;
    let asked = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    Ok(if asked.is_zero() { most } else { asked.min(most) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_time_counts() {
        let most = Duration::from_secs(60);
        let seconds = |asked: &str| limit(asked, most).map(|d| d.as_secs_f64()).ok();
        for (asked, expect) in [("", 60.0), ("5s", 5.0), ("1h", 60.0), ("0", 60.0), ("-3s", 60.0), ("250ms", 0.25)] {
            assert_eq!(seconds(asked), Some(expect), "{asked}");
        }
        for bad in ["x", "5", "1d"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
