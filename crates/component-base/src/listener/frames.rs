//! HTTP/2 frames that cost the server work and the client nothing: pings, settings, resets, priorities, empty data, window
//! updates. Each takes a credit; time gives some back, and what the client reads gives more, because it pays for the window
//! updates of downloads. Whoever has none left is cut off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::Slot;

/// Credits at the start, and at most.
const MOST: u64 = 2000;
/// Credits that a second gives.
const PER_SECOND: u64 = 200;
/// Bytes sent to the client that give a credit.
const BYTES: u64 = 256;
/// `PRI * HTTP/2.0…`
const PREFACE: usize = 24;
const HEADER: usize = 9;

/// Counts the frames that come by a stream.
pub(super) struct Counted<S> {
    stream: S,
    slot: Slot,
    scanner: Scanner,
    credits: u64,
    /// Bytes sent that gave no credit yet.
    sent: u64,
    /// When time gave the last credit.
    given: Instant,
}

impl<S> Counted<S> {
    pub(super) fn new(stream: S, slot: Slot) -> Self {
        let scanner = Scanner { skip: PREFACE, header: [0; HEADER], filled: 0 };
        Self { stream, slot, scanner, credits: MOST, sent: 0, given: Instant::now() }
    }

    fn charge(&mut self, frames: u64) -> io::Result<()> {
        if frames == 0 {
            return Ok(());
        }
        let now = Instant::now();
        let earned = (now - self.given).as_millis() as u64 * PER_SECOND / 1000;
        if earned > 0 {
            self.given = now;
        }
        let earned = earned + self.sent / BYTES;
        self.sent %= BYTES;
        self.credits = (self.credits + earned).min(MOST);
        match self.credits.checked_sub(frames) {
            Some(left) => {
                self.credits = left;
                Ok(())
            }
            None => {
                self.slot.cut("flood");
                Err(io::Error::new(io::ErrorKind::InvalidData, "too many HTTP/2 frames that ask for nothing"))
            }
        }
    }
}

/// Finds the frames' heads in what comes.
struct Scanner {
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    header: [u8; HEADER],
    filled: usize,
}

impl Scanner {
    /// How many frames ended their head in these bytes that take a credit.
    fn scan(&mut self, mut bytes: &[u8]) -> u64 {
        let mut found = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return found;
            }
            let taken = (HEADER - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < HEADER {
                return found;
            }
            self.filled = 0;
            let [a, b, c, kind, ..] = self.header;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            let asks = match kind {
                // DATA that holds some, HEADERS.
                0 => self.skip > 0,
                1 => true,
                _ => false,
            };
            found += u64::from(!asks);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let frames = self.scanner.scan(&buf.filled()[before..]);
        Poll::Ready(self.charge(frames))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.sent += written as u64;
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload).unwrap().to_be_bytes();
        [&[a, b, c, kind, 0, 0, 0, 0, 1], &*vec![7; payload]].concat()
    }

    #[test]
    fn frames_are_found_wherever_reads_end() {
        let mut bytes = vec![0xff; PREFACE];
        for (kind, payload) in [(4, 18), (1, 300), (0, 70_000), (0, 0), (6, 8), (3, 4), (8, 4), (2, 5), (9, 10), (1, 0)]
        {
            bytes.extend(frame(kind, payload));
        }
        for piece in [1, 2, 7, 9, 1000, bytes.len()] {
            let mut scanner = Scanner { skip: PREFACE, header: [0; HEADER], filled: 0 };
            assert_eq!(bytes.chunks(piece).map(|b| scanner.scan(b)).sum::<u64>(), 7, "{piece}");
        }
    }
}
