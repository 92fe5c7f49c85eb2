//! Container logs in CRI's format: `<time> <stream> <P|F> <text>`.
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

mod follow;
pub mod rotate;
pub use follow::{Options, stream};

/// One line of a log file.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    /// When written, as text.
    pub time: &'a str,
    /// `stdout`, `stderr`.
    pub stream: &'a str,
    /// Whether more of the same line follows.
    pub partial: bool,
    /// The text, with its newline unless partial.
    pub text: &'a [u8],
}

/// Reads one line, with or without its newline.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tags = parts.next()?;
    let text = parts.next().unwrap_or_default();
    Some(Line {
        time,
        stream,
        partial: tags.split(|b| *b == b':').any(|t| t == b"P"),
        text,
    })
}

/// When a line was written.
pub fn time_of(line: &Line<'_>) -> Option<Timestamp> {
    line.time.parse().ok()
}

/// The end of a log as text: at most so many lines and bytes; empty when it cannot be read.
pub fn tail(path: &Path, lines: usize, bytes: usize) -> String {
    let Ok(start) = tail_offset(path, lines) else {
        return String::new();
    };
    let Ok(mut f) = File::open(path) else {
        return String::new();
    };
    let mut raw = Vec::new();
    if f.seek(SeekFrom::Start(start)).is_err() || f.read_to_end(&mut raw).is_err() {
        return String::new();
    }
    let mut out = Vec::new();
    for l in raw.split_inclusive(|b| *b == b'\n') {
        if let Some(l) = parse(l) {
            out.extend_from_slice(l.text);
            if !l.partial {
                out.push(b'\n');
            }
        }
    }
    let cut = out.len().saturating_sub(bytes);
    String::from_utf8_lossy(&out[cut..]).into_owned()
}

/// Where the last `lines` lines of a file begin (lines of the container, not of the file).
pub fn tail_offset(path: &Path, lines: usize) -> io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let mut f = File::open(path)?;
    let end = f.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut from = end;
    let mut data: Vec<u8> = Vec::new();
    loop {
        let start = from.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(from - start).unwrap_or(0)];
        f.seek(SeekFrom::Start(start))?;
        f.read_exact(&mut block)?;
        block.append(&mut data);
        data = block;
        from = start;
        // count whole lines from the end; the first piece may be cut
        let mut seen = 0;
        let mut at = data.len();
        let mut begin = None;
        let mut it = data.split_inclusive(|b| *b == b'\n').collect::<Vec<_>>();
        if start > 0 && !it.is_empty() {
            it.remove(0);
        }
        let mut prev_full_end = None;
        for piece in it.iter().rev() {
            let full = parse(piece).is_some_and(|l| !l.partial);
            if full {
                if seen == lines {
                    begin = prev_full_end;
                    break;
                }
                seen += 1;
            } else if prev_full_end.is_none() {
                // an unfinished last line counts as one
                seen += usize::from(seen == 0);
            }
            at -= piece.len();
            prev_full_end = Some(at);
        }
        if let Some(b) = begin {
            return Ok(start + b as u64);
        }
        if start == 0 {
            return Ok(0);
        }
    }
}

/// Log files of a container instance from oldest to current, rotated ones first.
pub fn files(current: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (current.parent(), current.file_name().and_then(|n| n.to_str()))
    else {
        return vec![current.to_path_buf()];
    };
    let prefix = format!("{name}.");
    let mut old: Vec<PathBuf> = std::fs::read_dir(dir)
        .map(|entries| {
            entries
                .flatten()
                .map(|e| e.path())
                .filter(|p| {
                    p.file_name()
                        .and_then(|n| n.to_str())
                        .is_some_and(|n| n.starts_with(&prefix))
                })
                .collect()
        })
        .unwrap_or_default();
    old.sort();
    old.push(current.to_path_buf());
    old
}

#[cfg(test)]
mod tests;
