//! The body of a page, with its links turned while it streams, compressed or not.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateDecoder, DeflateEncoder, GzEncoder, MultiGzDecoder};
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kybern_apiserver::Body;

use super::html::Page;
use super::rewrite::Rewriter;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What is inflated at once: a thousandfold of it may come out.
const PIECE: usize = 4 << 10;

/// How a page is compressed.
enum Coding {
    Plain,
    Gzip(MultiGzDecoder<Vec<u8>>, GzEncoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>, DeflateEncoder<Vec<u8>>),
}

struct Turning {
    body: Option<Body>,
    coding: Coding,
    page: Page,
}

/// The body with its links turned; `None` where its coding is not known.
pub(super) fn turned(body: Body, coding: &str, rewriter: Rewriter) -> Result<Body, Body> {
    let level = Compression::fast();
    let coding = match coding {
        "" => Coding::Plain,
        "gzip" => Coding::Gzip(MultiGzDecoder::new(Vec::new()), GzEncoder::new(Vec::new(), level)),
        "deflate" => Coding::Deflate(DeflateDecoder::new(Vec::new()), DeflateEncoder::new(Vec::new(), level)),
        _ => return Err(body),
    };
    let turning = Turning { body: Some(body), coding, page: Page::new(rewriter) };
    let pieces = stream::try_unfold(turning, |mut turning| async move {
        let piece = turning.next().await?;
        Ok::<_, Error>(piece.map(|piece| (Frame::data(piece), turning)))
    });
    Ok(StreamBody::new(pieces).boxed_unsync())
}

impl Turning {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(body) = &mut self.body {
            let mut out = Vec::new();
            match body.frame().await.transpose()? {
                Some(frame) => {
                    let Ok(data) = frame.into_data() else { continue };
                    for piece in data.chunks(PIECE) {
                        self.coding.take(piece, &mut self.page, &mut out)?;
                    }
                }
                None => {
                    self.body = None;
                    self.coding.finish(&mut self.page, &mut out)?;
                }
            }
            if !out.is_empty() {
                return Ok(Some(out.into()));
            }
        }
        Ok(None)
    }
}

impl Coding {
    fn take(&mut self, bytes: &[u8], page: &mut Page, out: &mut Vec<u8>) -> std::io::Result<()> {
        match self {
            Self::Plain => page.take(bytes, out),
            Self::Gzip(decoder, encoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                let mut plain = Vec::new();
                page.take(&std::mem::take(decoder.get_mut()), &mut plain);
                encoder.write_all(&plain)?;
                encoder.flush()?;
                out.append(encoder.get_mut());
            }
            Self::Deflate(decoder, encoder) => {
                decoder.write_all(bytes)?;
                decoder.flush()?;
                let mut plain = Vec::new();
                page.take(&std::mem::take(decoder.get_mut()), &mut plain);
                encoder.write_all(&plain)?;
                encoder.flush()?;
                out.append(encoder.get_mut());
            }
        }
        Ok(())
    }

    fn finish(&mut self, page: &mut Page, out: &mut Vec<u8>) -> std::io::Result<()> {
        let mut plain = Vec::new();
        match self {
            Self::Plain => page.finish(out),
            Self::Gzip(decoder, encoder) => {
                decoder.try_finish()?;
                page.take(&std::mem::take(decoder.get_mut()), &mut plain);
                page.finish(&mut plain);
                encoder.write_all(&plain)?;
                encoder.try_finish()?;
                out.append(encoder.get_mut());
            }
            Self::Deflate(decoder, encoder) => {
                decoder.try_finish()?;
                page.take(&std::mem::take(decoder.get_mut()), &mut plain);
                page.finish(&mut plain);
                encoder.write_all(&plain)?;
                encoder.try_finish()?;
                out.append(encoder.get_mut());
            }
        }
        Ok(())
    }
}
