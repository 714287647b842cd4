//! `/containerLogs`: the log of a container as a stream; following waits for inotify, not for time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use kybern_cri::{ContainerState, ContainerStatus};
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
        let mut inotify = follow.then(|| Inotify::new(&self.path)).and_then(Result::ok);
        loop {
            // Whether it still ran is asked before reading, so that its last words are read after that.
            let ran = self.is_running();
            if !self.drain().await || self.filter.is_full() {
                return;
            }
            let Some(inotify) = &mut inotify else { return };
            if !ran {
                return;
            }
            tokio::select! {
                () = self.sender.closed() => return,
                changed = self.view.changed() => if changed.is_err() { return },
                rotated = inotify.changed() => match rotated {
                    Ok(false) => {}
                    Ok(true) => {
                        if !self.drain().await || !self.reopen(inotify) {
                            return;
                        }
                    }
                    Err(_) => return,
                },
            }
        }
    }

    fn is_running(&self) -> bool {
        let view = self.view.borrow();
        view.observed.by_id(&self.id).is_some_and(|c| c.container.state == ContainerState::Running)
    }

    /// Goes on with the file that a rotation put in place.
    fn reopen(&mut self, inotify: &mut Inotify) -> bool {
        match File::open(&self.path).and_then(|file| Ok((file, Inotify::new(&self.path)?))) {
            Ok((file, fresh)) => {
                self.file = file;
                *inotify = fresh;
                true
            }
            // The rotation is between its two steps: the directory tells when the new file comes.
            Err(_) => Inotify::new(self.path.parent().unwrap_or(&self.path)).map(|fresh| *inotify = fresh).is_ok(),
        }
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

struct Inotify(AsyncFd<std::os::fd::OwnedFd>);

impl Inotify {
    fn new(path: &Path) -> io::Result<Self> {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::MODIFY
            | WatchFlags::MOVE_SELF
            | WatchFlags::DELETE_SELF
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO;
        add_watch(&fd, path, flags)?;
        // An owned descriptor cannot be closed or replaced behind the reactor's back, so the safe constructor is sound here.
        #[expect(deprecated, reason = "its replacement is unsafe, which only the crate linux may use")]
        let fd = AsyncFd::new(fd)?;
        Ok(Self(fd))
    }

    /// Waits for a change; `true` when the file was moved away or a new one came.
    async fn changed(&mut self) -> io::Result<bool> {
        use rustix::fs::inotify::{ReadFlags, Reader};
        loop {
            let mut ready = self.0.readable().await?;
            let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 4096];
            let mut reader = Reader::new(ready.get_inner(), &mut buffer);
            match reader.next() {
                Ok(first) => {
                    let mut flags = first.events();
                    while !reader.is_buffer_empty() {
                        flags |= reader.next()?.events();
                    }
                    let moved = ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF | ReadFlags::CREATE | ReadFlags::MOVED_TO;
                    return Ok(flags.intersects(moved));
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
