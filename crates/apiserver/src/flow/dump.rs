//! `/debug/api_priority_and_fairness/…`: what waits and is served, as upstream shows it.

use super::Flow;
use super::queues::Work;

/// Columns as wide as what is in them, as Go's `tabwriter` sets them.
fn table(headers: &[&str], rows: Vec<Vec<String>>) -> String {
    let head = headers.iter().map(|text| (*text).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let last = headers.len() - 1;
    // With the comma, and a space after it.
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count() + 2).max().unwrap_or(0).max(8);
    let widths: Vec<usize> = (0..last).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        for (text, width) in row.iter().zip(&widths) {
            out.push_str(&format!("{:<width$}", format!("{text},")));
        }
        out.push_str(&row[last]);
        out.push('\n');
    }
    out
}

impl Flow {
    /// The text of a dump; `None` where there is none of the name.
    pub(crate) fn dump(&self, name: &str, details: bool) -> Option<String> {
        match name {
            "dump_priority_levels" => Some(self.dump_levels()),
            "dump_queues" => Some(self.dump_queues()),
            "dump_requests" => Some(self.dump_requests(details)),
            _ => None,
        }
    }

    fn dump_levels(&self) -> String {
        let state = self.state.lock();
        let rows = state.levels.iter().map(|(name, share)| {
            let (set, counts) = (&share.set, share.set.counts);
            let active = set.queues.iter().filter(|queue| !queue.waiting.is_empty()).count();
            let numbers = [counts.dispatched, counts.rejected, counts.timed_out, counts.cancelled];
            let mut row =
                vec![name.clone(), active.to_string(), set.is_idle().to_string(), share.quiescing.to_string()];
            row.extend([set.waiting(), set.running.len()].map(|n| n.to_string()));
            row.extend(numbers.map(|n| n.to_string()));
            row
        });
        let headers = [
            "PriorityLevelName",
            "ActiveQueues",
            "IsIdle",
            "IsQuiescing",
            "WaitingRequests",
            "ExecutingRequests",
            "DispatchedRequests",
            "RejectedRequests",
            "TimedoutRequests",
            "CancelledRequests",
        ];
        table(&headers, rows.collect())
    }

    fn dump_queues(&self) -> String {
        let state = self.state.lock();
        let queues = state
            .levels
            .iter()
            .flat_map(|(name, share)| share.set.queues.iter().enumerate().map(move |(at, queue)| (name, at, queue)));
        let rows = queues.map(|(name, at, queue)| {
            let work = |part: fn(&Work) -> f64| queue.waiting.iter().map(|item| part(&item.work)).sum::<f64>();
            vec![
                name.clone(),
                at.to_string(),
                queue.waiting.len().to_string(),
                queue.executing.to_string(),
                queue.seats.to_string(),
                format!("{:.8}ss", queue.next),
                work(|work| f64::from(work.seats)).to_string(),
                work(|work| f64::from(work.seats.max(work.final_seats))).to_string(),
                format!(
                    "{:.8}ss",
                    work(|w| f64::from(w.seats) * 0.003 + f64::from(w.final_seats) * w.after.as_secs_f64())
                ),
            ]
        });
        let headers = [
            "PriorityLevelName",
            "Index",
            "PendingRequests",
            "ExecutingRequests",
            "SeatsInUse",
            "NextDispatchR",
            "InitialSeatsSum",
            "MaxSeatsSum",
            "TotalWorkSum",
        ];
        table(&headers, rows.collect())
    }

    fn dump_requests(&self, details: bool) -> String {
        let state = self.state.lock();
        let (now, clock) = (self.now(), jiff::Timestamp::now());
        let time = |at: std::time::Duration| {
            let ago = jiff::SignedDuration::try_from(now.saturating_sub(at)).unwrap_or_default();
            (clock - ago).to_string()
        };
        let mut rows = Vec::new();
        for (name, share) in &state.levels {
            let waiting = share.set.queues.iter().enumerate().flat_map(|(queue, q)| {
                q.waiting
                    .iter()
                    .enumerate()
                    .map(move |(at, item)| (queue as i64, at as i64, item.id, item.work, item.arrived, None))
            });
            let running =
                share.set.running.iter().map(|(id, r)| {
                    (r.queue.map_or(-1, |queue| queue as i64), -1, *id, r.work, r.arrived, Some(r.started))
                });
            for (queue, at, id, work, arrived, started) in waiting.chain(running) {
                let Some(shown) = state.requests.get(&id) else { continue };
                let mut row = vec![name.clone(), shown.schema.name.clone(), queue.to_string(), at.to_string()];
                row.extend([
                    shown.flow().to_owned(),
                    time(arrived),
                    work.seats.to_string(),
                    work.final_seats.to_string(),
                ]);
                let never = "0001-01-01T00:00:00Z".to_owned();
                row.extend([format!("{:?}", work.after), started.map_or(never, time)]);
                if details {
                    let info = &shown.info;
                    let version = match info.group.as_str() {
                        "" => info.version.clone(),
                        group => format!("{group}/{}", info.version),
                    };
                    row.extend([shown.user.clone(), info.verb.to_owned(), info.path.clone(), info.namespace.clone()]);
                    row.extend([info.name.clone(), version, info.resource.clone(), info.subresource.clone()]);
                }
                rows.push(row);
            }
        }
        let headers = [
            "PriorityLevelName",
            "FlowSchemaName",
            "QueueIndex",
            "RequestIndexInQueue",
            "FlowDistingsher",
            "ArriveTime",
            "InitialSeats",
            "FinalSeats",
            "AdditionalLatency",
            "StartTime",
            "UserName",
            "Verb",
            "APIPath",
            "Namespace",
            "Name",
            "APIVersion",
            "Resource",
            "SubResource",
        ];
        table(&headers[..if details { 18 } else { 10 }], rows)
    }
}
