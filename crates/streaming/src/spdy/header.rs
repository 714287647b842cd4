//! Header blocks: names and values, compressed with zlib in one context per direction and with SPDY's dictionary.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::FrameError;

/// The most that a header block may grow to.
const MAX_BLOCK: usize = 64 * 1024;

/// The words of the dictionary that are preceded by their length in four bytes, in order.
const COUNTED: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
user-agent vary via warning www-authenticate method get status";

/// What follows without lengths.
const PLAIN: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov \
Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,\
application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
utf-,*,enq=0.";

/// Appendix: "Name/Value Header Block" of the draft.
fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    let mut word = |word: &str| {
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    };
    COUNTED.split(' ').for_each(&mut word);
    for text in ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"] {
        word(text);
    }
    out.extend_from_slice(PLAIN.as_bytes());
    out
}

/// The headers of a stream, names in lower case.
pub type Headers = Vec<(String, String)>;

/// The value of a header; names match without regard to case.
pub fn get<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Compresses the blocks of one direction.
pub struct Deflater(Compress);

impl Deflater {
    pub fn new() -> Result<Self, FrameError> {
        let mut compress = Compress::new(Compression::best(), true);
        compress.set_dictionary(&dictionary()).map_err(|e| FrameError::Zlib(e.to_string()))?;
        Ok(Self(compress))
    }

    pub fn encode(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for text in headers.iter().flat_map(|(name, value)| [name.to_ascii_lowercase(), value.clone()]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        // Room for what does not compress, and for the flush's marker.
        let mut out = Vec::with_capacity(plain.len() + 64);
        let begin = self.0.total_in();
        loop {
            let from = (self.0.total_in() - begin) as usize;
            self.0
                .compress_vec(&plain[from..], &mut out, FlushCompress::Sync)
                .map_err(|e| FrameError::Zlib(e.to_string()))?;
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

/// Decompresses the blocks of one direction.
pub struct Inflater {
    inflate: Decompress,
    dictionary: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { inflate: Decompress::new(true), dictionary: dictionary() }
    }
}

impl Inflater {
    pub fn decode(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::with_capacity(1024);
        let begin = self.inflate.total_in();
        loop {
            let from = (self.inflate.total_in() - begin) as usize;
            match self.inflate.decompress_vec(&block[from..], &mut out, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) => {}
                Ok(Status::StreamEnd) => return Ok(out),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&self.dictionary).map_err(|e| FrameError::Zlib(e.to_string()))?;
                    continue;
                }
                Err(error) => return Err(FrameError::Zlib(error.to_string())),
            }
            let consumed = (self.inflate.total_in() - begin) as usize == block.len();
            if consumed && out.len() < out.capacity() {
                return Ok(out);
            }
            if out.len() >= MAX_BLOCK {
                return Err(FrameError::TooLarge("header block"));
            }
            if out.len() == out.capacity() {
                out.reserve(4096);
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, FrameError> {
    let short = || FrameError::Malformed("header block");
    let number = |block: &mut &[u8]| -> Result<usize, FrameError> {
        let (head, rest) = block.split_first_chunk::<4>().ok_or_else(short)?;
        *block = rest;
        Ok(u32::from_be_bytes(*head) as usize)
    };
    let count = number(&mut block)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let mut text = || -> Result<String, FrameError> {
            let length = number(&mut block)?;
            let (head, rest) = block.split_at_checked(length).ok_or_else(short)?;
            block = rest;
            Ok(String::from_utf8_lossy(head).into_owned())
        };
        let (name, value) = (text()?, text()?);
        headers.push((name, value));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Headers {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_dictionary_is_spdys() {
        let dictionary = dictionary();
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        // The checksum that every SPDY/3 header block announces.
        assert_eq!((dictionary.len(), (b << 16) | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_share_one_context() {
        let (mut deflate, mut inflate) = (Deflater::new().unwrap(), Inflater::default());
        let first = headers(&[("streamtype", "error")]);
        let second = headers(&[("streamtype", "stdout"), ("port", "80")]);
        let long = headers(&[("x", &"abcdefghij0123456789".repeat(300))]);
        for list in [&first, &second, &headers(&[]), &long] {
            let block = deflate.encode(list).unwrap();
            assert_eq!(inflate.decode(&block).unwrap(), *list);
        }
        assert_eq!(get(&second, "streamType"), Some("stdout"));
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(Inflater::default().decode(b"rubbish").is_err());
        assert!(parse(&[0, 0, 0, 1, 0, 0, 0, 9, b'x']).is_err());
        assert!(parse(&[0xff; 4]).is_err());
    }
}
