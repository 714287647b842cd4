//! Many who watch: the fan-out of writes to 1,000 watchers, 500 informers that begin at once, 5,000 watches of nothing new.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hyper::body::Incoming;
use kybern_apimachinery::{Gvr, Value, json};
use kybern_client::{Client, Patch};
use parking_lot::Mutex;

use crate::connection::{Connection, Dialer, JSON, PROTOBUF, next};
use crate::memory::Processor;
use crate::report::{Budget, Report, percentile};
use crate::server::Server;
use crate::{Site, memory};

const WATCHERS: usize = 1_000;
/// Writes a second, first few, so that lag is seen without a queue, then as many as the budget says.
const RATES: [u64; 2] = [50, 1_000];
const SECONDS: u64 = 6;
/// Objects that are written to in turn.
const WRITTEN: u64 = 64;
const INFORMERS: usize = 500;
const OBJECTS: usize = 2_000;
const IDLE: usize = 5_000;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Stands in every written object, before the time of its write.
const MARK: &[u8] = b"written-at-";

pub(crate) async fn measure(site: &Site) -> Result<Report> {
    let mut report = Report::default();
    for (form, accept) in [("JSON", JSON), ("protobuf", PROTOBUF)] {
        for rate in RATES {
            let (server, _) = Server::start(site, &format!("watches-{form}-{rate}")).await?;
            fan_out(&server, form, accept, rate, &mut report).await?;
        }
    }
    let (server, _) = Server::start(site, "informers").await?;
    informers(&server, &mut report).await?;
    drop(server);
    let (server, _) = Server::start(site, "idle").await?;
    idle(&server, &mut report).await?;
    Ok(report)
}

/// What all watchers have seen together.
#[derive(Default)]
struct Seen {
    events: AtomicU64,
    bytes: AtomicU64,
    /// Milliseconds from before the write was sent to the event, of the first event in each piece that came.
    lags: Mutex<Vec<f64>>,
    is_over: AtomicBool,
}

async fn fan_out(server: &Server, form: &str, accept: &str, rate: u64, report: &mut Report) -> Result<()> {
    let client = server.client()?;
    for number in 0..WRITTEN {
        client.raw(&Gvr::new("", "v1", "configmaps")).create(&config_map(&format!("written-{number}"), 64)).await?;
    }
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion=0&allowWatchBookmarks=true");
    let watches = open(server, &path, accept, WATCHERS).await?;
    let seen = Arc::new(Seen::default());
    let mut tasks = Vec::new();
    let mut connections = Vec::new();
    for (connection, body) in watches {
        connections.push(connection);
        tasks.push(tokio::spawn(count(body, seen.clone())));
    }
    // What was there when they began.
    tokio::time::sleep(Duration::from_secs(1)).await;
    seen.lags.lock().clear();
    let before = (seen.events.load(Ordering::Relaxed), seen.bytes.load(Ordering::Relaxed));
    let processor = Processor::of(server.pid());
    let start = Instant::now();
    let written = write(&client, rate).await?;
    let writing = start.elapsed();
    // Until the last has its last event, or nothing more comes.
    let wanted = before.0 + written * WATCHERS as u64;
    let mut last = 0;
    while seen.events.load(Ordering::Relaxed) < wanted && seen.events.load(Ordering::Relaxed) > last {
        last = seen.events.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let cores = processor.cores();
    seen.is_over.store(true, Ordering::Relaxed);
    let events = seen.events.load(Ordering::Relaxed) - before.0;
    let bytes = seen.bytes.load(Ordering::Relaxed) - before.1;
    let each = cores.server * elapsed / events as f64 * 1e6;
    let note = format!(
        "{cores}; {:.0} writes/s, {:.2} µs of the server's and {} bytes for each event; {} of {} events came",
        written as f64 / writing.as_secs_f64(),
        each,
        bytes / events.max(1),
        events,
        wanted - before.0
    );
    let what = format!("{WATCHERS} watchers, {rate} writes/s, {form}");
    let enough = if rate == 1_000 { Budget::AtLeast(1_000_000.0) } else { Budget::None };
    report.add_with(format!("{what}: events"), events as f64 / elapsed, "/s", enough, note);
    let mut lags = std::mem::take(&mut *seen.lags.lock());
    let note = format!("p50 {:.1} ms", percentile(&mut lags, 50.0));
    report.add_with(format!("{what}: lag, p99"), percentile(&mut lags, 99.0), "ms", Budget::AtMost(20.0), note);
    tasks.iter().for_each(|task| task.abort());
    Ok(())
}

/// So many watches, each on a connection of its own.
async fn open(server: &Server, path: &str, accept: &str, count: usize) -> Result<Vec<(Connection, Incoming)>> {
    let dialer = Dialer::new(server)?;
    let open = async || {
        let mut connection = dialer.dial().await?;
        let body = connection.get(path, accept).await?;
        anyhow::Ok((connection, body))
    };
    stream::iter(0..count).map(|_| open()).buffer_unordered(32).try_collect().await
}

/// Counts the events of a watch by the marks of the objects: each has one.
async fn count(mut body: Incoming, seen: Arc<Seen>) -> Result<()> {
    let finder = memchr::memmem::Finder::new(MARK);
    let mut rest = Vec::new();
    while let Some(piece) = next(&mut body).await? {
        if seen.is_over.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A mark may be cut in two.
        rest.extend_from_slice(&piece);
        let (mut events, mut end) = (0, 0);
        for at in finder.find_iter(&rest) {
            let text = rest.get(at + MARK.len()..at + MARK.len() + DIGITS);
            let Some(text) = text else { break };
            if events == 0 {
                let sent: u64 = std::str::from_utf8(text)?.parse()?;
                seen.lags.lock().push(now().saturating_sub(sent) as f64 / 1e3);
            }
            events += 1;
            end = at + MARK.len() + DIGITS;
        }
        let keep = (rest.len() - end).min(MARK.len() + DIGITS - 1);
        rest.drain(..rest.len() - keep);
        seen.events.fetch_add(events, Ordering::Relaxed);
        seen.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Digits of microseconds since 1970.
const DIGITS: usize = 16;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Writes at a rate for some seconds; answers how often.
async fn write(client: &Client, rate: u64) -> Result<u64> {
    let configs = client.raw(&Gvr::new("", "v1", "configmaps"));
    let start = Instant::now();
    let one = |number: u64| {
        let configs = configs.clone();
        async move {
            let due = Duration::from_micros(number * 1_000_000 / rate);
            tokio::time::sleep(due.saturating_sub(start.elapsed())).await;
            let patch = Patch::Merge(json!({"data": {"value": mark()}}));
            configs.patch("default", &format!("written-{}", number % WRITTEN), &patch, None).await.map(drop)
        }
    };
    stream::iter(0..rate * SECONDS).map(one).buffered(WRITTEN as usize / 2).try_collect::<Vec<()>>().await?;
    Ok(rate * SECONDS)
}

fn mark() -> String {
    format!("{}{:016}", String::from_utf8_lossy(MARK), now())
}

fn config_map(name: &str, bytes: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"},
        "data": {"value": mark(), "more": "x".repeat(bytes)},
    })
}

/// Watches that begin with everything there is, as client-go's informers do.
async fn informers(server: &Server, report: &mut Report) -> Result<()> {
    let client = server.client()?;
    let configs = client.raw(&Gvr::new("", "v1", "configmaps"));
    let create = |number: usize| {
        let configs = configs.clone();
        async move { configs.create(&config_map(&format!("object-{number}"), 700)).await.map(drop) }
    };
    stream::iter(0..OBJECTS).map(create).buffer_unordered(64).try_collect::<Vec<()>>().await?;
    let dialer = Dialer::new(server)?;
    let idle: Vec<Connection> =
        stream::iter(0..INFORMERS).map(|_| dialer.dial()).buffer_unordered(32).try_collect().await?;
    let before = memory::resident(server.pid());
    memory::forget_peak(server.pid())?;
    let processor = Processor::of(server.pid());
    let start = Instant::now();
    let synced = async |mut connection: Connection| {
        let path = format!(
            "{CONFIG_MAPS}?watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
        );
        let mut body = connection.get(&path, PROTOBUF).await?;
        let mut end = Vec::new();
        loop {
            let piece = next(&mut body).await?.context("the watch ended before its first events were there")?;
            end.extend_from_slice(&piece);
            if memchr::memmem::find(&end, b"k8s.io/initial-events-end").is_some() {
                return anyhow::Ok(start.elapsed().as_secs_f64());
            }
            end.drain(..end.len().saturating_sub(64));
        }
    };
    let mut times: Vec<f64> =
        stream::iter(idle).map(synced).buffer_unordered(INFORMERS).try_collect::<Vec<f64>>().await?;
    let cores = processor.cores();
    let what = format!("{INFORMERS} informers at once, {OBJECTS} objects, protobuf");
    let note = format!("{cores}; p50 {:.2} s", percentile(&mut times, 50.0));
    report.add_with(format!("{what}: until the last has all"), percentile(&mut times, 100.0), "s", Budget::None, note);
    let more = memory::peak(server.pid()) - before;
    report.add(format!("{what}: memory besides"), more, "MiB", Budget::None);
    Ok(())
}

async fn idle(server: &Server, report: &mut Report) -> Result<()> {
    let before = memory::resident(server.pid());
    let path = format!("{CONFIG_MAPS}?watch=true&fieldSelector=metadata.name%3Dnone");
    let watches = open(server, &path, JSON, IDLE).await?;
    let each = (memory::resident(server.pid()) - before) * 1024.0 / IDLE as f64;
    report.add(format!("{IDLE} idle watches on connections of their own: memory of each"), each, "KiB", Budget::None);
    let processor = Processor::of(server.pid());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let percent = processor.cores().server * 100.0;
    report.add(format!("{IDLE} idle watches: processor time of one core"), percent, "%", Budget::None);
    drop(watches);
    Ok(())
}
