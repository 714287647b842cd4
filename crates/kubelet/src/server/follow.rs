//! `/containerLogs`: the log of a container as a stream; following waits for inotify, not for time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use kybern_cri::{ContainerState, ContainerStatus, rotated_logs};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::logs::{LogFilter, LogOptions, tail_offset};
use super::{Body, Context, query_pairs, text};
use crate::pod::memory::{ERR_IMAGE_PULL, IMAGE_PULL_BACK_OFF};
use crate::pod::spec;
use crate::worker::View;

const CHUNK: usize = 64 * 1024;

/// Answers one request for a log.
pub async fn serve(context: &Context, namespace: &str, pod: &str, container: &str, query: &str) -> Response<Body> {
    let pairs = query_pairs(query);
    let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let options = match LogOptions::parse(pairs, Timestamp::now()) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::UNPROCESSABLE_ENTITY, message),
    };
    let Some(view) = context.pods.find(namespace, pod) else {
        return text(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} not found\n"));
    };
    let status = match choose(&view.borrow(), pod, container, options.previous) {
        Ok(status) => status,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let path = PathBuf::from(&status.log_path);
    let opened = tokio::task::spawn_blocking({
        let (path, options) = (path.clone(), options.clone());
        move || open(&path, &options)
    });
    let file = match opened.await.map_err(io::Error::other).and_then(|opened| opened) {
        Ok(file) => file,
        Err(error) => {
            let message = format!("unable to retrieve container logs for {}: {error}", status.container.id);
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
    };
    let (sender, receiver) = mpsc::channel(4);
    let reader = Reader { path, file, filter: LogFilter::new(options.clone()), id: status.container.id, view, sender };
    tokio::spawn(reader.run(options.follow));
    let stream = tokio_stream(receiver).map(|bytes: Bytes| Ok::<_, io::Error>(Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

fn tokio_stream(mut receiver: mpsc::Receiver<Bytes>) -> impl futures_util::Stream<Item = Bytes> + Send {
    futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))
}

/// Which start of the container is meant; an error is upstream's text.
fn choose(view: &View, pod: &str, container: &str, previous: bool) -> Result<ContainerStatus, String> {
    if spec::container(&view.pod, container).is_none() {
        return Err(format!("container {container} is not valid for pod {pod}"));
    }
    let mut starts = view.observed.starts(container).filter(|s| s.container.state != ContainerState::Created);
    let latest = starts.next();
    if previous {
        // While a crashed container waits for its restart, the crashed start is the previous one.
        let ended = |s: &&ContainerStatus| s.container.state == ContainerState::Exited;
        return starts
            .find(ended)
            .or(latest.filter(ended))
            .cloned()
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {pod:?} not found"));
    }
    latest.cloned().ok_or_else(|| {
        let lists = view.pod.status.as_ref().map(|s| [&s.container_statuses, &s.init_container_statuses]);
        let status = lists.iter().flatten().flat_map(|l| l.iter().flatten()).find(|s| s.name == container);
        let reason = status.and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
        let cause = match reason.as_deref().unwrap_or("ContainerCreating") {
            ERR_IMAGE_PULL => "image can't be pulled",
            IMAGE_PULL_BACK_OFF => "trying and failing to pull image",
            reason => reason,
        };
        format!("container {container:?} in pod {pod:?} is waiting to start: {cause}")
    })
}

fn open(path: &Path, options: &LogOptions) -> io::Result<File> {
    let mut file = File::open(path)?;
    let offset = match options.tail_lines {
        Some(lines) => tail_offset(&mut file, lines)?,
        None => 0,
    };
    file.seek(SeekFrom::Start(offset))?;
    Ok(file)
}

struct Reader {
    path: PathBuf,
    file: File,
    filter: LogFilter,
    id: String,
    view: watch::Receiver<View>,
    sender: mpsc::Sender<Bytes>,
}

impl Reader {
    async fn run(mut self, follow: bool) {
        // Before the first read, so that nothing that is written after it goes unseen.
        let mut watch = follow.then(|| LogWatch::new(&self.path)).and_then(Result::ok);
        loop {
            // Whether it still ran is asked before reading, so that its last words are read after that.
            let ran = self.is_running();
            if !self.drain().await || self.filter.is_full() {
                return;
            }
            let Some(watch) = &mut watch else { return };
            match self.successor() {
                Ok(Some(next)) => {
                    // What was written to the old file after the last look and before the new one was made.
                    if !self.drain().await || self.filter.is_full() {
                        return;
                    }
                    self.file = next;
                    continue;
                }
                Ok(None) => {}
                Err(_) => return,
            }
            if !ran {
                return;
            }
            tokio::select! {
                () = self.sender.closed() => return,
                changed = self.view.changed() => if changed.is_err() { return },
                changed = watch.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The file that the log goes on in, if it was moved aside: the one that was begun next, which may have been moved since.
    fn successor(&self) -> io::Result<Option<File>> {
        let own = self.file.metadata()?.ino();
        let newest = match File::open(&self.path) {
            // Between the two steps of a move: the watch tells when the new file comes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            newest => newest?,
        };
        if newest.metadata()?.ino() == own {
            return Ok(None);
        }
        let mut aside = rotated_logs(&self.path)?.into_iter();
        let is_own = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|meta| meta.ino() == own);
        let next = if aside.clone().any(|path| is_own(&path)) {
            aside.skip_while(|path| !is_own(path)).nth(1)
        } else {
            // This reader was so slow that its file is gone: on with the oldest that is left.
            aside.next()
        };
        Ok(Some(next.and_then(|path| File::open(path).ok()).unwrap_or(newest)))
    }

    fn is_running(&self) -> bool {
        let view = self.view.borrow();
        view.observed.by_id(&self.id).is_some_and(|c| c.container.state == ContainerState::Running)
    }

    /// Sends what the file has; `false` when the client is gone or the file fails.
    async fn drain(&mut self) -> bool {
        loop {
            let Ok(file) = self.file.try_clone() else { return false };
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = Vec::with_capacity(CHUNK);
                file.take(CHUNK as u64).read_to_end(&mut chunk).map(|_| chunk)
            });
            let Ok(Ok(chunk)) = read.await else { return false };
            if chunk.is_empty() {
                return true;
            }
            let mut out = Vec::with_capacity(chunk.len());
            self.filter.take(&chunk, &mut out);
            if !out.is_empty() && self.sender.send(out.into()).await.is_err() {
                return false;
            }
            if self.filter.is_full() {
                return true;
            }
        }
    }
}

/// Tells of changes in the directory of a container's logs.
struct LogWatch(AsyncFd<std::os::fd::OwnedFd>);

impl LogWatch {
    fn new(log: &Path) -> io::Result<Self> {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        add_watch(&fd, log.parent().unwrap_or(log), flags)?;
        // An owned descriptor cannot be closed or replaced behind the reactor's back, so the safe constructor is sound here.
        #[expect(deprecated, reason = "its replacement is unsafe, which only the crate linux may use")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    /// Waits for a change, and takes all that there are.
    async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0; 4096];
        loop {
            match rustix::io::read(ready.get_inner(), &mut buffer) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
