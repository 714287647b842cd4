//! Compression of large lists, for clients that ask for it.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// Smaller answers are not worth it: upstream's threshold.
pub(crate) const THRESHOLD: usize = 128 << 10;

/// Whether the client takes gzip.
pub(crate) fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|v| v.split(';').next().is_some_and(|name| name.trim() == "gzip"))
}

/// Compresses piece by piece; never holds more than a piece's worth.
pub(crate) fn compress(mut pieces: impl Iterator<Item = Bytes> + Send) -> impl Iterator<Item = Bytes> + Send {
    // Upstream's level: speed counts more than size.
    let mut encoder = Some(GzEncoder::new(Vec::new(), Compression::new(1)));
    std::iter::from_fn(move || {
        loop {
            let writer = encoder.as_mut()?;
            // Writing to memory cannot fail.
            let Some(piece) = pieces.next() else { return encoder.take()?.finish().ok().map(Bytes::from) };
            writer.write_all(&piece).ok()?;
            let out = std::mem::take(writer.get_mut());
            if !out.is_empty() {
                return Some(out.into());
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_compressed_comes_back() {
        let pieces: Vec<Bytes> = (0..100).map(|i| Bytes::from(format!("piece {i} ").repeat(100))).collect();
        let expect: Vec<u8> = pieces.iter().flatten().copied().collect();
        let sent: Vec<u8> = compress(pieces.into_iter()).flatten().collect();
        assert!(sent.len() < expect.len() / 4);
        let mut got = Vec::new();
        flate2::read::GzDecoder::new(&*sent).read_to_end(&mut got).unwrap();
        assert_eq!(got, expect);
    }
}
