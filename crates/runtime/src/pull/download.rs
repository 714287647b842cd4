//! One blob on its way to disk. What comes from the network is hashed and written by a thread that may block, for a slow
//! disk must not hold up whoever else the process serves.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::PullError;
use crate::disk;
use crate::image::{Descriptor, digest_text};
use crate::registry::{RegistryError, Session, explained};

/// How often a blob's download is begun anew or resumed before the pull fails.
pub(super) const ATTEMPTS_MAX: u32 = 5;

/// How long a registry may send nothing in the middle of a blob.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How many pieces may wait for the disk before the network has to.
const PIECES_MAX: usize = 8;

/// Downloads a blob into a file of its own at `path` and verifies it. A broken connection is taken up where it broke,
/// so that there are at most so many attempts.
pub(super) async fn download(
    session: &Session,
    blob: &Descriptor,
    path: PathBuf,
    attempts: u32,
) -> Result<Partial, PullError> {
    let mut download = Download { blob, writer: Writer::start(path), sent: 0 };
    if let Err(error) = download.run(session, attempts).await {
        // Its file goes with it.
        let _ = download.writer.finish().await;
        return Err(error);
    }
    let (found, partial) = download.writer.finish().await?;
    if found != blob.digest {
        let host = session.host();
        return Err(PullError::Invalid(format!(
            "{host} sent a blob with the digest {found} instead of {}: its data is damaged or was tampered with",
            blob.digest
        )));
    }
    Ok(partial)
}

struct Download<'a> {
    blob: &'a Descriptor,
    writer: Writer,
    /// How much of the blob the writer has been given.
    sent: u64,
}

impl Download<'_> {
    async fn run(&mut self, session: &Session, attempts: u32) -> Result<(), PullError> {
        let mut attempt = 1;
        loop {
            match self.attempt(session).await {
                Err(PullError::Registry(RegistryError::Io(_))) if attempt < attempts => {
                    tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(attempt)).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn attempt(&mut self, session: &Session) -> Result<(), PullError> {
        let (begins, mut body) = session.blob(&self.blob.digest, self.sent).await?;
        if begins != self.sent {
            self.writer.give(Piece::Restart).await?;
            self.sent = 0;
        }
        let Descriptor { digest, size, .. } = self.blob;
        while let Some(data) = next(&mut body).await.map_err(|error| self.broken(error))? {
            self.sent += data.len() as u64;
            if self.sent > *size {
                let host = session.host();
                let text = format!("{host} sent more for {digest} than the {size} bytes that its manifest says");
                return Err(PullError::Invalid(text));
            }
            self.writer.give(Piece::Data(data)).await?;
        }
        if self.sent < *size {
            return Err(self.broken(io::Error::from(io::ErrorKind::UnexpectedEof)));
        }
        Ok(())
    }

    fn broken(&self, error: io::Error) -> PullError {
        let Descriptor { digest, size, .. } = self.blob;
        let text = format!("{digest} broke off after {} of {size} bytes: {error}", self.sent);
        RegistryError::Io(io::Error::new(error.kind(), text)).into()
    }
}

/// The next piece of a body; `None` at its end.
async fn next(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(STALL_TIMEOUT, body.frame()).await;
        let stalled =
            |_| io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {} s", STALL_TIMEOUT.as_secs()));
        match frame.map_err(stalled)? {
            None => return Ok(None),
            Some(frame) => {
                if let Ok(data) = frame.map_err(|error| explained(&error))?.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// An unfinished file. It goes with its owner, unless it is moved to where it belongs.
pub(super) struct Partial(Option<PathBuf>);

impl Partial {
    pub(super) fn move_to(mut self, target: &Path) -> io::Result<()> {
        if let Some(path) = &self.0 {
            // Written and renamed: the store's list, written last, makes it durable.
            fs::rename(path, target).map_err(|error| disk::named(error, target))?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|path| disk::remove_all(&path)) {
            tracing::warn!(%error, "cannot remove an unfinished download");
        }
    }
}

enum Piece {
    Data(Bytes),
    /// What came so far does not count.
    Restart,
}

/// The thread that hashes and writes; it ends, and its file goes, when this is dropped.
struct Writer {
    pieces: mpsc::Sender<Piece>,
    /// `None` once it has ended.
    written: Option<JoinHandle<io::Result<(String, Partial)>>>,
}

impl Writer {
    fn start(path: PathBuf) -> Writer {
        let (pieces, queue) = mpsc::channel(PIECES_MAX);
        Writer { pieces, written: Some(tokio::task::spawn_blocking(move || write(path, queue))) }
    }

    /// Fails when the thread could not write what it was given before.
    async fn give(&mut self, piece: Piece) -> Result<(), PullError> {
        if self.pieces.send(piece).await.is_ok() {
            return Ok(());
        }
        self.ended().await.map(drop)
    }

    /// The digest of what was written, and the file.
    async fn finish(mut self) -> Result<(String, Partial), PullError> {
        // The queue's end is what the thread waits for.
        self.pieces = mpsc::channel(1).0;
        self.ended().await
    }

    async fn ended(&mut self) -> Result<(String, Partial), PullError> {
        let failed = || PullError::Invalid("the download's writer failed".to_owned());
        let written = self.written.take().ok_or_else(failed)?;
        Ok(written.await.map_err(|_| failed())??)
    }
}

fn write(path: PathBuf, mut queue: mpsc::Receiver<Piece>) -> io::Result<(String, Partial)> {
    let named = |error| disk::named(error, &path);
    let new_hash = || ring::digest::Context::new(&ring::digest::SHA256);
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(named)?;
    let (partial, mut hash) = (Partial(Some(path.clone())), new_hash());
    while let Some(piece) = queue.blocking_recv() {
        match piece {
            Piece::Data(data) => {
                hash.update(&data);
                file.write_all(&data).map_err(named)?;
            }
            Piece::Restart => {
                file.set_len(0).and_then(|()| file.rewind()).map_err(named)?;
                hash = new_hash();
            }
        }
    }
    Ok((digest_text(hash.finish().as_ref()), partial))
}
