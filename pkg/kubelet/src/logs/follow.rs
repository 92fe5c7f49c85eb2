//! Streaming a log: from where, how much, and on as it grows, across rotation.
use std::{
    io::{self, SeekFrom},
    path::PathBuf,
};

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use nix::sys::inotify::AddWatchFlags;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    sync::mpsc,
};

use super::{parse, tail_offset, time_of};
use crate::inotify::Watch;

/// What part of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Go on as it grows, until the container ends.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<usize>,
    /// Only what is newer.
    pub since: Option<Timestamp>,
    /// Each line with its time.
    pub timestamps: bool,
    /// No more bytes than that.
    pub limit: Option<u64>,
    /// Only this stream.
    pub only: Option<String>,
}

/// Sends the log in pieces; ends at the end of the log, or when following, after the container
/// has ended (`ended` resolves) and all is read, or when nobody takes it any more.
pub async fn stream(
    path: PathBuf,
    options: Options,
    ended: impl Future<Output = ()> + Send,
    tx: mpsc::Sender<io::Result<Bytes>>,
) {
    if let Err(e) = run(path, options, ended, &tx).await {
        let _ = tx.send(Err(e)).await;
    }
}

async fn run(
    path: PathBuf,
    options: Options,
    ended: impl Future<Output = ()> + Send,
    tx: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let watch = if options.follow {
        let w = Watch::new()?;
        if let Some(dir) = path.parent() {
            w.add(
                dir,
                AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_FROM,
            )?;
        }
        Some(w)
    } else {
        None
    };
    let mut file = File::open(&path).await?;
    if let Some(lines) = options.tail {
        let p = path.clone();
        let at = tokio::task::spawn_blocking(move || tail_offset(&p, lines))
            .await
            .map_err(io::Error::other)??;
        file.seek(SeekFrom::Start(at)).await?;
    }
    let mut filter = Filter {
        left: options.limit,
        middle: false,
        options,
    };
    let mut ended = std::pin::pin!(ended);
    let mut over = false;
    let mut rest = BytesMut::new();
    loop {
        // all that is there
        loop {
            let n = file.read_buf(&mut rest).await?;
            if n == 0 {
                break;
            }
            let Some(last) = rest.iter().rposition(|b| *b == b'\n') else {
                continue;
            };
            let whole = rest.split_to(last + 1);
            let out = filter.apply(&whole);
            if !out.is_empty() && tx.send(Ok(out)).await.is_err() {
                return Ok(());
            }
            if filter.left == Some(0) {
                return Ok(());
            }
        }
        // rotated: go on with the new file, when the old one is read to its end
        if let Some(next) = rotated(&file, &path).await? {
            file = next;
            continue;
        }
        let Some(watch) = &watch else {
            return Ok(());
        };
        if over {
            return Ok(());
        }
        tokio::select! {
            events = watch.next() => { events?; }
            () = &mut ended => over = true,
            () = tx.closed() => return Ok(()),
        }
    }
}

/// The file that now has the name, when it is another than the open one.
async fn rotated(open: &File, path: &std::path::Path) -> io::Result<Option<File>> {
    use std::os::unix::fs::MetadataExt;
    let Ok(there) = tokio::fs::metadata(path).await else {
        return Ok(None);
    };
    if open.metadata().await?.ino() == there.ino() {
        return Ok(None);
    }
    Ok(Some(File::open(path).await?))
}

struct Filter {
    options: Options,
    left: Option<u64>,
    middle: bool,
}

impl Filter {
    fn apply(&mut self, lines: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(lines.len());
        for raw in lines.split_inclusive(|b| *b == b'\n') {
            let Some(l) = parse(raw) else { continue };
            if self.options.only.as_deref().is_some_and(|s| s != l.stream) {
                continue;
            }
            if let Some(since) = self.options.since
                && time_of(&l).is_some_and(|t| t < since)
            {
                continue;
            }
            if self.options.timestamps && !self.middle {
                out.extend_from_slice(l.time.as_bytes());
                out.extend_from_slice(b" ");
            }
            out.extend_from_slice(l.text);
            self.middle = l.partial;
            if !l.partial {
                out.extend_from_slice(b"\n");
            }
        }
        if let Some(left) = &mut self.left {
            let keep = usize::try_from(*left).unwrap_or(usize::MAX).min(out.len());
            out.truncate(keep);
            *left -= keep as u64;
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn all(path: PathBuf, options: Options) -> String {
        let (tx, mut rx) = mpsc::channel(4);
        tokio::spawn(stream(path, options, std::future::pending(), tx));
        let mut out = Vec::new();
        while let Some(piece) = rx.recv().await {
            out.extend_from_slice(&piece.expect("a piece"));
        }
        String::from_utf8(out).expect("text")
    }

    #[tokio::test]
    async fn options_choose_the_part() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        std::fs::write(
            &path,
            "2026-01-01T00:00:00Z stdout F a\n2026-01-01T00:00:01Z stderr P b\n2026-01-01T00:00:01Z stderr F c\n",
        )
        .expect("written");
        let o = Options::default;
        assert_eq!(all(path.clone(), o()).await, "a\nbc\n");
        assert_eq!(all(path.clone(), Options { tail: Some(1), ..o() }).await, "bc\n");
        assert_eq!(all(path.clone(), Options { limit: Some(1), ..o() }).await, "a");
        assert_eq!(
            all(path.clone(), Options { timestamps: true, ..o() }).await,
            "2026-01-01T00:00:00Z a\n2026-01-01T00:00:01Z bc\n"
        );
        let since = "2026-01-01T00:00:01Z".parse().ok();
        assert_eq!(all(path, Options { since, ..o() }).await, "bc\n");
    }

    #[tokio::test]
    async fn follows_across_rotation_to_the_last_byte() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F a\n").expect("written");
        let (tx, mut rx) = mpsc::channel(4);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let follow = Options { follow: true, ..Options::default() };
        tokio::spawn(stream(path.clone(), follow, async { let _ = ended.await; }, tx));
        assert_eq!(rx.recv().await.expect("a piece").expect("ok"), "a\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).expect("rotated");
        let mut f = tokio::fs::File::create(&path).await.expect("a new file");
        f.write_all(b"2026-01-01T00:00:00Z stdout F b\n").await.expect("written");
        f.flush().await.expect("written");
        assert_eq!(rx.recv().await.expect("a piece").expect("ok"), "b\n");
        f.write_all(b"2026-01-01T00:00:00Z stdout F last\n").await.expect("written");
        f.flush().await.expect("written");
        end.send(()).expect("following");
        assert_eq!(rx.recv().await.expect("a piece").expect("ok"), "last\n");
        assert!(rx.recv().await.is_none());
    }
}
