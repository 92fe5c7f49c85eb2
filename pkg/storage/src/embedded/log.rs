//! The files of the embedded engine.
//!
//! ```text
//! <dir>/VERSION              "knarr-store 1\n"
//! <dir>/LOCK                 held by flock(2) while the engine runs
//! <dir>/snapshot-<revision>  every live pair and lease at that revision
//! <dir>/log-<revision>       changes after that revision, in batches
//! ```
//! Both kinds of file are a sequence of batches:
//!
//! | bytes | meaning |
//! |---|---|
//! | 4 | magic `KNB1` |
//! | 4 | length of the body, little endian |
//! | 4 | CRC-32 of the body |
//! | n | the body: records |
//!
//! A record is a tag byte and its fields, integers little endian: `1` put (revision u64, created
//! u64, lease i64, key length u32, key, value length u32, value), `2` delete (revision u64, key
//! length u32, key), `3` lease (id i64, end in Unix seconds i64; end 0 revokes), `4` end of a
//! snapshot (revision u64, number of pairs u64).
//!
//! A batch is written and synced before any write in it is acknowledged, and the next batch is
//! written only then. So an unreadable batch is a torn write exactly if no readable batch stands
//! behind it; otherwise the disk has lost acknowledged data and the engine refuses to start. Log
//! files are allocated ahead; the zeros at the end are no batch.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::state::{Change, Version};
use crate::{Error, Revision};

const MAGIC: &[u8; 4] = b"KNB1";
const HEADER: usize = 12;
/// How far ahead of its end a log file is allocated, in bytes.
const AHEAD: u64 = 4 << 20;

/// One record of a batch.
#[derive(Clone, Debug)]
pub(super) enum Record {
    Change(Change),
    Lease { id: i64, expires: i64 },
    End { revision: Revision, pairs: u64 },
}

/// Adds a record to a batch body.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    let text = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match record {
        Record::Change(Change { key, version }) => match &version.value {
            Some(value) => {
                out.push(1);
                out.extend_from_slice(&version.revision.to_le_bytes());
                out.extend_from_slice(&version.created.to_le_bytes());
                out.extend_from_slice(&version.lease.to_le_bytes());
                text(out, key.as_bytes());
                text(out, value);
            }
            None => {
                out.push(2);
                out.extend_from_slice(&version.revision.to_le_bytes());
                text(out, key.as_bytes());
            }
        },
        Record::Lease { id, expires } => {
            out.push(3);
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&expires.to_le_bytes());
        }
        Record::End { revision, pairs } => {
            out.push(4);
            out.extend_from_slice(&revision.to_le_bytes());
            out.extend_from_slice(&pairs.to_le_bytes());
        }
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<&'a [u8]> {
        let n = u32::from_le_bytes(self.take(4)?.try_into().ok()?);
        self.take(n as usize)
    }
    fn key(&mut self) -> Option<Arc<str>> {
        Some(std::str::from_utf8(self.text()?).ok()?.into())
    }
    fn record(&mut self) -> Option<Record> {
        Some(match self.take(1)?[0] {
            1 => {
                let (revision, created, lease) = (self.u64()?, self.u64()?, self.i64()?);
                let key = self.key()?;
                let value = Some(Bytes::copy_from_slice(self.text()?));
                Record::Change(Change { key, version: Version { revision, created, lease, value } })
            }
            2 => {
                let revision = self.u64()?;
                let key = self.key()?;
                let version = Version { revision, created: 0, lease: 0, value: None };
                Record::Change(Change { key, version })
            }
            3 => Record::Lease { id: self.i64()?, expires: self.i64()? },
            4 => Record::End { revision: self.u64()?, pairs: self.u64()? },
            _ => return None,
        })
    }
}

/// Decodes a batch body whose checksum was right.
fn decode(body: &[u8]) -> Option<Vec<Record>> {
    let mut cursor = Cursor(body);
    let mut records = Vec::new();
    while !cursor.0.is_empty() {
        records.push(cursor.record()?);
    }
    Some(records)
}

/// The body of the batch that begins at `at`, if it is whole.
fn batch(data: &[u8], at: usize) -> Option<&[u8]> {
    let mut cursor = Cursor(data.get(at..)?);
    if cursor.take(4)? != MAGIC {
        return None;
    }
    let length = u32::from_le_bytes(cursor.take(4)?.try_into().ok()?) as usize;
    let sum = u32::from_le_bytes(cursor.take(4)?.try_into().ok()?);
    let body = cursor.take(length)?;
    (crc32fast::hash(body) == sum).then_some(body)
}

/// Reads all batches of a file; returns the records and where the next batch belongs.
///
/// # Errors
/// [`Error::Corrupt`] if a readable batch stands behind an unreadable one.
pub(super) fn read(path: &Path) -> Result<(Vec<Record>, u64), Error> {
    let data = std::fs::read(path).map_err(|e| unavailable(path, &e))?;
    let mut records = Vec::new();
    let mut at = 0;
    while let Some(body) = batch(&data, at) {
        records.extend(decode(body).ok_or_else(|| corrupt(path, "a record cannot be read"))?);
        at += HEADER + body.len();
    }
    let behind = data[at..]
        .windows(MAGIC.len())
        .enumerate()
        .skip(1)
        .any(|(i, window)| window == MAGIC && batch(&data, at + i).is_some());
    if behind {
        return Err(corrupt(path, "a batch in the middle is damaged; restore a snapshot"));
    }
    Ok((records, at as u64))
}

/// An error about a file that is damaged.
pub(super) fn corrupt(path: &Path, reason: &str) -> Error {
    Error::Corrupt { path: path.display().to_string(), reason: reason.to_owned() }
}

/// An error about a file that cannot be read or written now.
pub(super) fn unavailable(path: &Path, error: &io::Error) -> Error {
    Error::Unavailable(format!("{}: {error}", path.display()))
}

/// A log file open for appending.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    /// Where the next batch goes.
    end: u64,
    allocated: u64,
    /// A sync failed: what is on disk is unknown, so nothing more may be acknowledged.
    failed: bool,
}

impl Log {
    /// Opens `path` to append at `end`, clearing a torn batch behind it.
    pub(super) fn open(path: &Path, end: u64) -> Result<Self, Error> {
        let open = || -> io::Result<File> {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .mode(0o600)
                .open(path)?;
            file.set_len(end)?;
            file.sync_all()?;
            sync_dir(path)?;
            Ok(file)
        };
        let file = open().map_err(|e| unavailable(path, &e))?;
        Ok(Log { path: path.to_owned(), file, end, allocated: end, failed: false })
    }

    /// Bytes in use.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    /// Writes one batch and syncs it. On an error nothing of it is in the log.
    pub(super) fn append(&mut self, body: &[u8]) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Unavailable(format!(
                "{}: an earlier sync failed; restart to recover",
                self.path.display()
            )));
        }
        let frame = frame(body).map_err(|e| unavailable(&self.path, &e))?;
        let length = frame.len() as u64;
        if self.end + length > self.allocated {
            let target = self.end + length + AHEAD;
            let grow = target - self.allocated;
            let (from, grow) = (
                i64::try_from(self.allocated).unwrap_or(i64::MAX),
                i64::try_from(grow).unwrap_or(i64::MAX),
            );
            // A file system without fallocate grows by the write itself.
            match nix::fcntl::posix_fallocate(&self.file, from, grow) {
                Ok(()) => self.allocated = target,
                Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::EINVAL) => {}
                Err(e) => return Err(unavailable(&self.path, &e.into())),
            }
        }
        if let Err(e) = self.file.write_all_at(&frame, self.end) {
            // Whatever got there must not be taken for a batch.
            let blank = [0_u8; HEADER];
            let undone = self
                .file
                .write_all_at(&blank, self.end)
                .or_else(|_| self.file.set_len(self.end))
                .and_then(|()| self.file.sync_data());
            self.failed = undone.is_err();
            return Err(unavailable(&self.path, &e));
        }
        if let Err(e) = self.file.sync_data() {
            self.failed = true;
            return Err(unavailable(&self.path, &e));
        }
        self.end += length;
        Ok(())
    }
}

fn frame(body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a batch over 4 GiB"))?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

/// Makes a rename or creation in the folder of `path` durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Writes a file of batches under a temporary name and puts it in place whole.
#[derive(Debug)]
pub(super) struct SnapshotWriter {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    pairs: u64,
}

impl SnapshotWriter {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let temporary = path.with_extension("tmp");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        Ok(SnapshotWriter { path: path.to_owned(), temporary, file, pairs: 0 })
    }

    pub(super) fn write(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        let mut body = Vec::new();
        for record in records {
            encode(record, &mut body);
            self.pairs += u64::from(matches!(record, Record::Change(_)));
        }
        self.file.write_all(&frame(&body)?)
    }

    pub(super) fn finish(mut self, revision: Revision) -> io::Result<()> {
        let end = Record::End { revision, pairs: self.pairs };
        self.write(&[end])?;
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        sync_dir(&self.path)
    }
}

/// Reads a small text file whole.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(4096).read_to_string(&mut text)?;
    Ok(text)
}
