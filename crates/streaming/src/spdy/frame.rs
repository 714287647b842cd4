//! Frames: eight bytes of head, and a body that the head says the length of.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The most that a frame may hold; peers send far less.
pub const MAX_FRAME: usize = 1 << 20;

const HEAD: usize = 8;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const STREAM_MASK: u32 = 0x7fff_ffff;

/// What is wrong with what a peer sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("malformed SPDY {0}")]
    Malformed(&'static str),
    #[error("SPDY {0} is too large")]
    TooLarge(&'static str),
    #[error("SPDY version {0} is not supported; only 3 is")]
    Version(u16),
    #[error("SPDY header compression: {0}")]
    Zlib(String),
}

/// One frame. Header blocks are still compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Settings,
    Ping(u32),
    GoAway {
        last: u32,
        status: u32,
    },
    Headers {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    WindowUpdate {
        id: u32,
        delta: u32,
    },
    Data {
        id: u32,
        fin: bool,
        data: Bytes,
    },
    /// A control frame of an unknown type, to be passed over.
    Unknown(u16),
}

impl Frame {
    /// Takes one frame off `buffer`; `None` when it is not complete yet.
    pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLarge("frame"));
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        let mut head = buffer.split_to(HEAD);
        let mut body = buffer.split_to(length).freeze();
        let first = head.get_u32();
        let fin = head.get_u8() & FLAG_FIN != 0;
        if first & !STREAM_MASK == 0 {
            return Ok(Some(Frame::Data { id: first, fin, data: body }));
        }
        let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let need = |body: &Bytes, length: usize, what| {
            if body.len() < length { Err(FrameError::Malformed(what)) } else { Ok(()) }
        };
        Ok(Some(match kind {
            1 => {
                need(&body, 10, "SYN_STREAM")?;
                let id = body.get_u32() & STREAM_MASK;
                body.advance(6);
                Frame::SynStream { id, fin, block: body }
            }
            2 => {
                need(&body, 4, "SYN_REPLY")?;
                Frame::SynReply { id: body.get_u32() & STREAM_MASK, fin, block: body }
            }
            3 => {
                need(&body, 8, "RST_STREAM")?;
                Frame::Reset { id: body.get_u32() & STREAM_MASK, status: body.get_u32() }
            }
            4 => Frame::Settings,
            6 => {
                need(&body, 4, "PING")?;
                Frame::Ping(body.get_u32())
            }
            7 => {
                need(&body, 8, "GOAWAY")?;
                Frame::GoAway { last: body.get_u32() & STREAM_MASK, status: body.get_u32() }
            }
            8 => {
                need(&body, 4, "HEADERS")?;
                Frame::Headers { id: body.get_u32() & STREAM_MASK, fin, block: body }
            }
            9 => {
                need(&body, 8, "WINDOW_UPDATE")?;
                Frame::WindowUpdate { id: body.get_u32() & STREAM_MASK, delta: body.get_u32() & STREAM_MASK }
            }
            other => Frame::Unknown(other),
        }))
    }

    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let flag = |fin: bool| if fin { FLAG_FIN } else { 0 };
        let control = |out: &mut BytesMut, kind: u16, flags: u8, length: usize| {
            out.put_u16(0x8000 | VERSION);
            out.put_u16(kind);
            out.put_u32(u32::from(flags) << 24 | length as u32);
        };
        match self {
            Frame::SynStream { id, fin, block } => {
                control(out, 1, flag(*fin), 10 + block.len());
                out.put_u32(*id);
                out.put_bytes(0, 6);
                out.put_slice(block);
            }
            Frame::SynReply { id, fin, block } => {
                control(out, 2, flag(*fin), 4 + block.len());
                out.put_u32(*id);
                out.put_slice(block);
            }
            Frame::Reset { id, status } => {
                control(out, 3, 0, 8);
                out.put_u32(*id);
                out.put_u32(*status);
            }
            Frame::Settings => {
                control(out, 4, 0, 4);
                out.put_u32(0);
            }
            Frame::Ping(id) => {
                control(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway { last, status } => {
                control(out, 7, 0, 8);
                out.put_u32(*last);
                out.put_u32(*status);
            }
            Frame::Headers { id, fin, block } => {
                control(out, 8, flag(*fin), 4 + block.len());
                out.put_u32(*id);
                out.put_slice(block);
            }
            Frame::WindowUpdate { id, delta } => {
                control(out, 9, 0, 8);
                out.put_u32(*id);
                out.put_u32(*delta);
            }
            Frame::Data { id, fin, data } => {
                out.put_u32(*id);
                out.put_u32(u32::from(flag(*fin)) << 24 | data.len() as u32);
                out.put_slice(data);
            }
            Frame::Unknown(kind) => control(out, *kind, 0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: Frame, bytes: &[u8]) {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        assert_eq!(&out[..], bytes, "{frame:?}");
        for cut in 0..bytes.len() {
            assert_eq!(Frame::decode(&mut BytesMut::from(&bytes[..cut])), Ok(None));
        }
        assert_eq!(Frame::decode(&mut out), Ok(Some(frame)));
        assert!(out.is_empty());
    }

    #[test]
    fn golden_frames() {
        check(Frame::Ping(1), &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        check(Frame::Data { id: 5, fin: true, data: Bytes::from_static(b"hi") }, &[0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i']);
        check(Frame::GoAway { last: 3, status: 0 }, &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0]);
        check(Frame::Reset { id: 1, status: 5 }, &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]);
        check(Frame::WindowUpdate { id: 1, delta: 2 }, &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2]);
        check(
            Frame::SynStream { id: 1, fin: false, block: Bytes::from_static(b"z") },
            &[0x80, 3, 0, 1, 0, 0, 0, 11, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, b'z'],
        );
        check(
            Frame::SynReply { id: 1, fin: true, block: Bytes::from_static(b"z") },
            &[0x80, 3, 0, 2, 1, 0, 0, 5, 0, 0, 0, 1, b'z'],
        );
    }

    #[test]
    fn bad_frames() {
        let decode = |bytes: &[u8]| Frame::decode(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x80, 2, 0, 6, 0, 0, 0, 0]), Err(FrameError::Version(2)));
        assert_eq!(decode(&[0x80, 3, 0, 6, 0, 0, 0, 0]), Err(FrameError::Malformed("PING")));
        assert_eq!(decode(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]), Err(FrameError::TooLarge("frame")));
    }
}
