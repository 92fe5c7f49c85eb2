//! File changes as events.
use std::{io, os::fd::AsFd, path::Path};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::{Interest, unix::AsyncFd};

/// A watch of some folders or files.
pub struct Watch {
    fd: AsyncFd<Fd>,
}

struct Fd(Inotify);

impl std::os::fd::AsRawFd for Fd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Watches nothing yet.
    #[allow(deprecated)] // its replacement is unsafe; `Fd` owns its descriptor and never changes it
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Watch {
            fd: AsyncFd::with_interest(Fd(inotify), Interest::READABLE)?,
        })
    }

    /// Watches `path` too.
    pub fn add(&self, path: &Path, flags: AddWatchFlags) -> io::Result<()> {
        self.fd.get_ref().0.add_watch(path, flags)?;
        Ok(())
    }

    /// The next changes. Cancel safe.
    pub async fn next(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.fd.readable().await?;
            let read = ready.try_io(|fd| fd.get_ref().0.read_events().map_err(Into::into));
            match read {
                Ok(events) => return events,
                Err(_) => continue,
            }
        }
    }
}
