//! Two connections, of which each gets what the other says: how a server that stands between passes an upgraded one on.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::upgrade::Transport;

/// What is held of a frame before it is passed on in pieces.
const BUFFER: usize = 16 * 1024;

/// Relays until both sides have ended, or either fails.
///
/// A WebSocket's frames are written one by one. Beneath TLS each is then a record of its own, as from a Go server; several
/// in one would be read at once by clients that wait on the socket and do not ask TLS for what it still holds (the Python
/// client's `stream`): they would see the first and wait for ever.
pub async fn relay<A, B>(mut near: A, mut far: B, transport: Option<Transport>) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if transport != Some(Transport::WebSocket) {
        return tokio::io::copy_bidirectional(&mut near, &mut far).await.map(|_| ());
    }
    let (from_near, to_near) = tokio::io::split(near);
    let (from_far, to_far) = tokio::io::split(far);
    tokio::try_join!(copy_frames(from_near, to_far), copy_frames(from_far, to_near)).map(|_| ())
}

async fn copy_frames(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(BUFFER);
    // Of a frame that was too large to be held.
    let mut rest = 0u64;
    loop {
        while let Some((length, left)) = piece(&buffer, rest) {
            to.write_all(&buffer[..length]).await?;
            buffer.advance(length);
            rest = left;
        }
        to.flush().await?;
        buffer.reserve(BUFFER);
        if from.read_buf(&mut buffer).await? == 0 {
            to.write_all(&buffer).await?;
            return to.shutdown().await;
        }
    }
}

/// How much of the front is to be written at once, and what of its frame comes later: a whole frame, or of a large one what
/// is there.
fn piece(buffer: &[u8], rest: u64) -> Option<(usize, u64)> {
    let frame = if rest > 0 { rest } else { frame_length(buffer)? };
    match usize::try_from(frame) {
        Ok(frame) if frame <= buffer.len() => Some((frame, 0)),
        _ if buffer.len() >= BUFFER => Some((buffer.len(), frame - buffer.len() as u64)),
        _ => None,
    }
}

/// Head and payload of the frame that begins here (RFC 6455, 5.2), once its head is complete.
fn frame_length(buffer: &[u8]) -> Option<u64> {
    let second = *buffer.get(1)?;
    let (head, payload) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(buffer.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(buffer.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    // A length beyond all reason is the other side's to refuse.
    Some(payload.saturating_add(head + mask))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;

    /// Keeps what each write brought.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl AsyncWrite for &mut Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(data.to_vec());
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn frame(payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..126 => frame.push(payload as u8 | mask),
            126..0x1_0000 => {
                frame.push(126 | mask);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(127 | mask);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend(vec![7; payload + if masked { 4 } else { 0 }]);
        frame
    }

    async fn written(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut reader = one_by_one(chunks);
        let mut writes = Writes::default();
        copy_frames(&mut reader, &mut writes).await.unwrap();
        writes.0.retain(|write| !write.is_empty());
        writes.0
    }

    /// Gives each chunk to one read.
    fn one_by_one(chunks: &[&[u8]]) -> impl AsyncRead + Unpin + use<> {
        let chunks: Vec<io::Result<bytes::Bytes>> =
            chunks.iter().map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk))).collect();
        tokio_util::io::StreamReader::new(futures_util::stream::iter(chunks))
    }

    #[tokio::test]
    async fn frames_that_come_together_are_written_apart() {
        let frames = [frame(1, false), frame(0, false), frame(300, false), frame(5, true), frame(125, true)];
        assert_eq!(written(&[&frames.concat()]).await, frames);
    }

    #[tokio::test]
    async fn a_frame_that_comes_in_parts_is_written_whole() {
        let (first, second) = (frame(300, true), frame(9, false));
        let all = [first.clone(), second.clone()].concat();
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        assert_eq!(written(&bytes).await, [first, second]);
    }

    #[tokio::test]
    async fn a_large_frame_is_not_held_and_the_next_is_its_own() {
        let (large, next) = (frame(100_000, false), frame(3, false));
        let all = [large.clone(), next.clone()].concat();
        let chunks: Vec<&[u8]> = all.chunks(5000).collect();
        let written = written(&chunks).await;
        assert!(written.iter().all(|write| write.len() < 2 * BUFFER));
        assert_eq!(written.last(), Some(&next));
        assert_eq!(written[..written.len() - 1].concat(), large);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_passed_on_at_the_end() {
        assert_eq!(written(&[&[0x82]]).await, [[0x82]]);
        let endless = [&[0x82, 0xff][..], &[0xff; 8], &[0; 10]].concat();
        assert_eq!(written(&[&endless]).await.concat(), endless);
    }
}
