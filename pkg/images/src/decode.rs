//! Reading layers: compressed or not, whole or still growing; with their digests.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// `sha256:` and the digest of what was hashed.
pub(crate) fn digest_text(hasher: Sha256) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hasher.finalize() {
        use std::fmt::Write;
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
    }
    text
}

/// The digest of bytes in memory.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    digest_text(Sha256::new_with_prefix(bytes))
}

/// Hashes what passes through.
pub(crate) struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
        }
    }

    /// Reads what is left and gives the digest of all.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(digest_text(self.hasher))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

/// Undoes the compression that the first bytes tell of.
pub(crate) fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let mut magic = [0u8; 4];
    let mut have = 0;
    while have < magic.len() {
        match reader.read(&mut magic[have..])? {
            0 => break,
            n => have += n,
        }
    }
    let whole = io::Cursor::new(magic).take(have as u64).chain(reader);
    Ok(match magic {
        [0x1f, 0x8b, ..] if have >= 2 => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::stream::read::Decoder::new(whole)?;
            decoder.window_log_max(27)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}

/// How far a download has come.
#[derive(Debug, Default)]
pub(crate) struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    len: u64,
    end: Option<Result<(), ()>>,
}

impl Growth {
    /// The file has this many good bytes now.
    pub(crate) fn grown(&self, len: u64) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).len = len;
        self.changed.notify_all();
    }

    /// Nothing more will come; `ok` tells whether it is all there.
    pub(crate) fn ended(&self, ok: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.end.is_none() {
            state.end = Some(ok.then_some(()).ok_or(()));
        }
        drop(state);
        self.changed.notify_all();
    }
}

/// Reads a file that is still being written.
pub(crate) struct Follow {
    pub(crate) file: File,
    pub(crate) at: u64,
    pub(crate) growth: Arc<Growth>,
}

impl Read for Follow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self
            .growth
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let have = loop {
            if state.len > self.at {
                break state.len - self.at;
            }
            match state.end {
                Some(Ok(())) => return Ok(0),
                Some(Err(())) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the download ended early",
                    ));
                }
                None => {
                    state = self
                        .growth
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        drop(state);
        let want = buf.len().min(usize::try_from(have).unwrap_or(usize::MAX));
        let n = self.file.read(&mut buf[..want])?;
        if n == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}
