//! Header blocks: pairs of strings, compressed with one stream for the whole connection.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::dictionary;
use crate::error::Error;

/// No header block is longer, compressed or not.
pub(super) const MAX_BLOCK: usize = 64 << 10;
/// No block has more headers.
const MAX_HEADERS: u32 = 128;

fn broken(what: &'static str) -> Error {
    Error::Protocol {
        protocol: "spdy",
        what,
    }
}

/// Reads header blocks in the order they come.
#[derive(Debug)]
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Inflater {
        Inflater(Decompress::new(true))
    }

    pub(super) fn block(&mut self, compressed: &[u8]) -> Result<Vec<(String, String)>, Error> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = compressed;
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= MAX_BLOCK {
                    return Err(broken("headers that are too long"));
                }
                plain.reserve(plain.capacity());
            }
            let (before_in, before_out) = (self.0.total_in(), plain.len());
            let status = match self
                .0
                .decompress_vec(rest, &mut plain, FlushDecompress::Sync)
            {
                Ok(status) => status,
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| broken("headers with another dictionary"))?;
                    Status::Ok
                }
                Err(_) => return Err(broken("headers that do not inflate")),
            };
            let used = (self.0.total_in() - before_in) as usize;
            rest = &rest[used.min(rest.len())..];
            let stuck = used == 0 && plain.len() == before_out && plain.len() < plain.capacity();
            if status == Status::StreamEnd {
                return Err(broken("headers that end the compression"));
            }
            if rest.is_empty() && plain.len() < plain.capacity() {
                break;
            }
            if stuck && status == Status::BufError {
                return Err(broken("headers that are cut off"));
            }
        }
        parse(&plain)
    }
}

fn parse(plain: &[u8]) -> Result<Vec<(String, String)>, Error> {
    fn number(rest: &mut &[u8]) -> Result<u32, Error> {
        let (head, tail) = rest
            .split_first_chunk::<4>()
            .ok_or(broken("headers cut off"))?;
        *rest = tail;
        Ok(u32::from_be_bytes(*head))
    }
    fn string(rest: &mut &[u8]) -> Result<String, Error> {
        let length = number(rest)? as usize;
        let (text, tail) = rest
            .split_at_checked(length)
            .ok_or(broken("headers cut off"))?;
        *rest = tail;
        String::from_utf8(text.to_vec()).map_err(|_| broken("headers that are not text"))
    }
    let mut rest = plain;
    let count = number(&mut rest)?;
    if count > MAX_HEADERS {
        return Err(broken("too many headers"));
    }
    (0..count)
        .map(|_| Ok((string(&mut rest)?.to_ascii_lowercase(), string(&mut rest)?)))
        .collect()
}

/// Writes header blocks.
#[derive(Debug)]
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Result<Deflater, Error> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&dictionary())
            .map_err(|_| broken("the compression takes no dictionary"))?;
        Ok(Deflater(compress))
    }

    pub(super) fn block(&mut self, headers: &[(&str, &str)]) -> Result<Vec<u8>, Error> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            self.0
                .compress_vec(&plain[done..], &mut out, FlushCompress::Sync)
                .map_err(|_| broken("headers that do not deflate"))?;
            if out.len() < out.capacity() && (self.0.total_in() - start) as usize == plain.len() {
                return Ok(out);
            }
            out.reserve(out.capacity());
        }
    }
}

#[test]
fn blocks_round_trip_and_share_their_compression() {
    let mut deflater = Deflater::new().unwrap();
    let mut inflater = Inflater::new();
    let long = "x".repeat(5000);
    for headers in [
        vec![("streamtype", "data"), ("port", "80"), ("requestid", "0")],
        vec![],
        vec![("streamtype", "error"), ("port", long.as_str())],
    ] {
        let block = deflater.block(&headers).unwrap();
        let got = inflater.block(&block).unwrap();
        let got: Vec<_> = got.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(got, headers);
    }
}

#[test]
fn bad_blocks_are_refused() {
    for block in [&b""[..], b"\0\0\0\x01", b"\x78\x9c\x03\x00\x00\x00\x00\x01"] {
        assert!(Inflater::new().block(block).is_err(), "{block:?}");
    }
    let mut bomb = Compress::new(Compression::best(), true);
    bomb.set_dictionary(&dictionary()).unwrap();
    let mut out = Vec::with_capacity(1 << 20);
    bomb.compress_vec(&vec![0; 64 << 20], &mut out, FlushCompress::Sync)
        .unwrap();
    assert!(Inflater::new().block(&out).is_err());
}
