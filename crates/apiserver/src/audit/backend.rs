//! Where events go, and how: at once or in batches, cut to a size. Nothing that becomes of an event keeps its request waiting
//! but the writing itself, where that was asked for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::event::Event;
use super::file::{FileOptions, LogFile};
use super::policy::Level;
use super::stats::Stats;

/// Takes events: a file, a webhook. May block.
pub trait Sink: Send + Sync + 'static {
    /// Upstream's name of the plugin, for metrics.
    fn name(&self) -> &'static str;

    /// The error says why some or all of the events were not taken.
    fn send(&self, events: &[Arc<Event>]) -> Result<(), String>;
}

/// `--audit-log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Legacy,
}

struct FileSink {
    file: LogFile,
    format: Format,
}

impl Sink for FileSink {
    fn name(&self) -> &'static str {
        "log"
    }

    fn send(&self, events: &[Arc<Event>]) -> Result<(), String> {
        let mut failed = None;
        for event in events {
            let line = match self.format {
                Format::Json => event.to_json(),
                Format::Legacy => event.to_legacy(),
            };
            failed = self.file.write(&line).err().or(failed);
        }
        failed.map_or(Ok(()), |error| Err(error.to_string()))
    }
}

/// `--audit-*-mode` and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Batch(Batching),
    /// A request waits until its events are written; that they are not is counted and logged.
    Blocking,
    /// And a request whose first event is not written is refused.
    BlockingStrict,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batching {
    /// Events that wait; more are dropped, and counted.
    pub buffer: usize,
    pub max_size: usize,
    pub max_wait: Duration,
    /// Batches a second, and at once.
    pub throttle: Option<(f32, u32)>,
}

/// `--audit-*-truncate-*`: bytes of an event.
#[derive(Clone, Copy, Debug)]
pub struct Truncation {
    pub max_event_size: usize,
    pub max_batch_size: usize,
}

/// One place where events go.
pub struct Backend {
    sink: Arc<dyn Sink>,
    strict: bool,
    queue: Option<Queue>,
    truncation: Option<Truncation>,
}

impl Backend {
    pub fn file(
        options: FileOptions,
        format: Format,
        mode: Mode,
        truncation: Option<Truncation>,
    ) -> std::io::Result<Self> {
        Self::new(Arc::new(FileSink { file: LogFile::open(options)?, format }), mode, truncation)
    }

    pub fn new(sink: Arc<dyn Sink>, mode: Mode, truncation: Option<Truncation>) -> std::io::Result<Self> {
        let queue = match mode {
            Mode::Batch(batching) => Some(Queue::start(sink.clone(), batching, truncation)?),
            Mode::Blocking | Mode::BlockingStrict => None,
        };
        Ok(Self { sink, strict: mode == Mode::BlockingStrict, queue, truncation })
    }

    /// Whether the request may go on.
    pub(super) fn take(&self, event: &Arc<Event>, stats: &Arc<Stats>) -> bool {
        let mut event = event.clone();
        if let Some(Truncation { max_event_size, .. }) = self.truncation {
            match truncated(event, max_event_size) {
                Ok(fits) => event = fits,
                Err(size) => {
                    let text = format!("event is too large even after truncating: it has {size} bytes");
                    stats.failed("truncate", 1, &text);
                    return true;
                }
            }
        }
        if let Some(queue) = &self.queue {
            if let Err(why) = queue.push(event, stats) {
                stats.failed("buffered", 1, why);
            }
            return true;
        }
        match self.sink.send(&[event]) {
            Ok(()) => true,
            Err(error) => {
                stats.failed(self.sink.name(), 1, &error);
                !self.strict
            }
        }
    }
}

/// An event that has at most so many bytes, or its size without what can be left out.
fn truncated(event: Arc<Event>, most: usize) -> Result<Arc<Event>, usize> {
    if event.to_json().len() <= most {
        return Ok(event);
    }
    let mut event = Event::clone(&event);
    if event.level >= Level::Request {
        (event.request_object, event.response_object) = (None, None);
        event.annotations.insert("audit.k8s.io/truncated".to_owned(), "true".to_owned());
    }
    match event.to_json().len() {
        size if size <= most => Ok(Arc::new(event)),
        size => Err(size),
    }
}

/// An event, and where its loss is counted.
type Waiting = (Arc<Event>, Arc<Stats>);

/// Events that wait to be sent by a thread of their own.
struct Queue {
    sender: Mutex<Option<SyncSender<Waiting>>>,
    /// Hears nothing but the thread's end.
    ended: Mutex<Receiver<()>>,
}

/// How long the end of a server waits for what is still to be written.
const LAST_WAIT: Duration = Duration::from_secs(5);

impl Queue {
    fn start(sink: Arc<dyn Sink>, batching: Batching, truncation: Option<Truncation>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(batching.buffer.max(1));
        let (end, ended) = sync_channel::<()>(1);
        std::thread::Builder::new().name(format!("audit-{}", sink.name())).spawn(move || {
            let _end = end;
            drain(&*sink, batching, truncation.map(|t| t.max_batch_size), &receiver);
        })?;
        Ok(Self { sender: Mutex::new(Some(sender)), ended: Mutex::new(ended) })
    }

    fn push(&self, event: Arc<Event>, stats: &Arc<Stats>) -> Result<(), &'static str> {
        match &*self.sender.lock() {
            Some(sender) => sender.try_send((event, stats.clone())).map_err(|error| match error {
                TrySendError::Full(_) => "audit buffer queue blocked",
                TrySendError::Disconnected(_) => "audit backend shut down",
            }),
            None => Err("audit backend shut down"),
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.sender.lock().take());
        let _ = self.ended.lock().recv_timeout(LAST_WAIT);
    }
}

fn drain(sink: &dyn Sink, batching: Batching, max_bytes: Option<usize>, receiver: &Receiver<Waiting>) {
    let mut throttle = batching.throttle.map(|(rate, burst)| Throttle::new(rate, burst));
    // Until there is one event there is nothing to wait for.
    while let Ok((first, stats)) = receiver.recv() {
        let mut batch = vec![first];
        let end = Instant::now() + batching.max_wait;
        while batch.len() < batching.max_size {
            match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok((event, _)) => batch.push(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        for batch in split(&batch, max_bytes) {
            if let Some(throttle) = &mut throttle {
                throttle.wait();
            }
            if let Err(error) = sink.send(batch) {
                stats.failed(sink.name(), batch.len(), &error);
            }
        }
    }
}

/// Batches of at most so many bytes, or of one event.
fn split(events: &[Arc<Event>], max_bytes: Option<usize>) -> Vec<&[Arc<Event>]> {
    let Some(most) = max_bytes else { return vec![events] };
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (i, event) in events.iter().enumerate() {
        let size = event.to_json().len();
        if i > start && bytes + size > most {
            parts.push(&events[start..i]);
            (start, bytes) = (i, 0);
        }
        bytes += size;
    }
    parts.push(&events[start..]);
    parts
}

/// A bucket of tokens.
struct Throttle {
    rate: f32,
    burst: f32,
    tokens: f32,
    at: Instant,
}

impl Throttle {
    fn new(rate: f32, burst: u32) -> Self {
        let burst = burst.max(1) as f32;
        Self { rate: rate.max(0.001), burst, tokens: burst, at: Instant::now() }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.at).as_secs_f32() * self.rate).min(self.burst);
        self.at = now;
        if self.tokens < 1.0 {
            std::thread::sleep(Duration::from_secs_f32((1.0 - self.tokens) / self.rate));
            self.tokens = 1.0;
            self.at = Instant::now();
        }
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::json;

    use super::*;

    /// Takes what it is given as long as it is open.
    #[derive(Default)]
    struct Taker {
        shut: Mutex<()>,
        fails: bool,
        batches: Mutex<Vec<Vec<String>>>,
    }
    impl Sink for Taker {
        fn name(&self) -> &'static str {
            "taker"
        }
        fn send(&self, events: &[Arc<Event>]) -> Result<(), String> {
            let _open = self.shut.lock();
            self.batches.lock().push(events.iter().map(|e| e.id.clone()).collect());
            if self.fails { Err("no".to_owned()) } else { Ok(()) }
        }
    }

    fn event(id: &str) -> Arc<Event> {
        Arc::new(Event { id: id.to_owned(), ..Event::default() })
    }

    const BATCHING: Batching = Batching { buffer: 3, max_size: 2, max_wait: Duration::from_millis(20), throttle: None };

    #[test]
    fn a_sink_that_hangs_holds_nobody_up_and_loses_only_what_does_not_fit() {
        let (taker, stats) = (Arc::new(Taker::default()), Arc::new(Stats::default()));
        let shut = taker.shut.lock();
        let backend = Backend::new(taker.clone(), Mode::Batch(BATCHING), None).unwrap();
        assert!(backend.take(&event("first"), &stats));
        // The thread takes some of them in hand.
        std::thread::sleep(Duration::from_millis(100));
        let started = Instant::now();
        for i in 0..10 {
            assert!(backend.take(&event(&i.to_string()), &stats));
        }
        assert!(started.elapsed() < Duration::from_secs(1));
        assert_eq!(stats.errors("buffered"), 7);
        drop(shut);
        // The end waits for what is queued.
        drop(backend);
        let batches = taker.batches.lock().clone();
        assert_eq!(batches.concat(), ["first", "0", "1", "2"]);
        assert!(batches.iter().all(|batch| batch.len() <= 2), "{batches:?}");
    }

    #[test]
    fn only_the_strict_mode_refuses_requests() {
        let stats = Arc::new(Stats::default());
        let failing = || Arc::new(Taker { fails: true, ..Taker::default() });
        for (mode, expect) in [(Mode::Blocking, true), (Mode::BlockingStrict, false), (Mode::Batch(BATCHING), true)] {
            let backend = Backend::new(failing(), mode, None).unwrap();
            assert_eq!(backend.take(&event("a"), &stats), expect, "{mode:?}");
        }
        assert_eq!(stats.errors("taker"), 3);
    }

    #[test]
    fn what_is_too_large_loses_its_objects_first() {
        let stats = Arc::new(Stats::default());
        let taker = Arc::new(Taker::default());
        let truncation = Some(Truncation { max_event_size: 600, max_batch_size: 1000 });
        let backend = Backend::new(taker.clone(), Mode::Blocking, truncation).unwrap();
        let big = Some(json!({"data": "x".repeat(1000)}));
        let level = Level::Request;
        let event = |id: &str| Event { id: id.to_owned(), level, request_object: big.clone(), ..Event::default() };
        let cut = truncated(Arc::new(event("a")), 600).unwrap();
        assert!(cut.request_object.is_none() && cut.annotations["audit.k8s.io/truncated"] == "true");
        assert!(backend.take(&Arc::new(event("a")), &stats));
        assert!(backend.take(&Arc::new(Event { request_uri: "y".repeat(1000), ..event("b") }), &stats));
        assert_eq!((taker.batches.lock().concat(), stats.errors("truncate")), (vec!["a".to_owned()], 1));
        let events: Vec<_> = ["a", "b", "c"].map(|id| Arc::new(event(id))).into();
        let sizes = |most| split(&events, most).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!((sizes(None), sizes(Some(3000)), sizes(Some(10))), (vec![3], vec![2, 1], vec![1, 1, 1]));
    }
}
