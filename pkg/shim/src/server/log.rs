//! The container's log in CRI format: `TIME STREAM TAG TEXT`, tag `F` for a whole line, `P` for
//! a part of one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[cfg(test)]
mod tests;

/// A longer line is written in parts of this size.
pub(super) const MAX_LINE: usize = 16 << 10;

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Stream::Stdout => b"stdout",
            Stream::Stderr => b"stderr",
        }
    }
}

/// The log file. Writes go straight through; what the disk does not take is dropped and counted.
#[derive(Debug)]
pub(super) struct Log {
    path: Option<PathBuf>,
    file: Option<File>,
    batch: Vec<u8>,
    /// Bytes that could not be written.
    pub(super) dropped: u64,
}

impl Log {
    pub(super) fn open(path: Option<&Path>) -> io::Result<Log> {
        let mut log = Log {
            path: path.map(Path::to_path_buf),
            file: None,
            batch: Vec::new(),
            dropped: 0,
        };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the file by its name again. On an error the old one stays in use.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path)?;
            self.file = Some(file);
        }
        Ok(())
    }

    fn flush(&mut self) {
        let Some(file) = &mut self.file else {
            self.batch.clear();
            return;
        };
        let mut done = 0;
        while done < self.batch.len() {
            match file.write(&self.batch[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if done < self.batch.len() {
            self.dropped += u64::try_from(self.batch.len()).unwrap_or(u64::MAX);
            // Half a line would spoil the file for its readers.
            if done > 0
                && let Ok(facts) = file.metadata()
            {
                let _ = file.set_len(facts.len().saturating_sub(done as u64));
            }
        }
        self.batch.clear();
    }
}

/// Cuts one stream's bytes into lines. Holds at most [`MAX_LINE`] bytes.
#[derive(Debug)]
pub(super) struct Lines {
    stream: Stream,
    partial: Vec<u8>,
}

impl Lines {
    pub(super) fn new(stream: Stream) -> Lines {
        Lines {
            stream,
            partial: Vec::new(),
        }
    }

    /// Takes what was read and writes the lines that are complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], log: &mut Log) {
        if log.file.is_none() {
            return;
        }
        let time = timestamp(SystemTime::now());
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            match window.iter().position(|&b| b == b'\n') {
                Some(end) => {
                    self.emit(&time, b'F', &bytes[..end], log);
                    bytes = &bytes[end + 1..];
                }
                // More than a whole part without an end of line.
                None if window.len() > room => {
                    self.emit(&time, b'P', &bytes[..room], log);
                    bytes = &bytes[room..];
                }
                None => {
                    self.partial.extend_from_slice(bytes);
                    bytes = &[];
                }
            }
        }
        log.flush();
    }

    /// The stream has ended: what is left is a part without its end.
    pub(super) fn finish(&mut self, log: &mut Log) {
        if !self.partial.is_empty() {
            self.emit(&timestamp(SystemTime::now()), b'P', &[], log);
            log.flush();
        }
        self.partial = Vec::new();
    }

    fn emit(&mut self, time: &[u8], tag: u8, rest: &[u8], log: &mut Log) {
        let batch = &mut log.batch;
        batch.extend_from_slice(time);
        batch.push(b' ');
        batch.extend_from_slice(self.stream.name());
        batch.push(b' ');
        batch.push(tag);
        batch.push(b' ');
        batch.extend_from_slice(&self.partial);
        batch.extend_from_slice(rest);
        batch.push(b'\n');
        self.partial.clear();
        if batch.len() >= 2 * MAX_LINE {
            log.flush();
        }
    }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// RFC 3339 in UTC with nine digits of a second.
fn timestamp(time: SystemTime) -> Vec<u8> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
    .into_bytes()
}

/// The Gregorian date of a day since 1970. Years are counted from March, so that a leap day is
/// a year's last.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const ERA: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let (era, day) = (days / ERA, days % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}
