//! `NOTIFY_SOCKET`: a container tells the service manager that it is ready.
//!
//! The container gets a socket of its own (`<root>/<id>/notify/notify.sock`); what says `READY=1`
//! there is passed on to the manager's, with the pid that the manager is to watch.

use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use knarr_sys::{fs, process};

use crate::args::Problem;

/// The manager's socket, when there is one.
pub fn wanted() -> Option<String> {
    std::env::var("NOTIFY_SOCKET")
        .ok()
        .filter(|path| !path.is_empty())
}

/// Both ends of what is passed on.
pub struct Relay {
    ours: UnixDatagram,
    manager: String,
}

impl Relay {
    /// Binds the container's socket; `None` without a manager, or when the container was made
    /// without one.
    pub fn bind(root: &str, id: &str) -> Result<Option<Self>, Problem> {
        let folder = PathBuf::from(root).join(id).join("notify");
        let Some(manager) = wanted().filter(|_| folder.is_dir()) else {
            return Ok(None);
        };
        let path = folder.join("notify.sock");
        let failed = |e: std::io::Error| Problem::new(format!("notify socket {path:?}: {e}"));
        let ours = UnixDatagram::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(failed)?;
        Ok(Some(Self { ours, manager }))
    }

    /// Waits until the container is ready or has ended, and passes the former on, naming `main`.
    pub fn pass_on(self, container: i32, main: i32) {
        let Ok(pidfd) = process::pidfd_open(container) else {
            return;
        };
        let mut buf = [0u8; 4096];
        loop {
            let Ok(ready) = fs::poll_many(&[self.ours.as_fd(), pidfd.as_fd()], -1) else {
                return;
            };
            if ready.first() == Some(&true)
                && let Ok(n) = self.ours.recv(&mut buf)
                && let text = String::from_utf8_lossy(&buf[..n])
                && text.lines().any(|l| l == "READY=1")
            {
                let _ = self.tell("READY=1");
                let _ = self.tell(&format!("MAINPID={main}"));
                return;
            }
            if ready.get(1) == Some(&true) {
                return;
            }
        }
    }

    fn tell(&self, text: &str) -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        match self.manager.strip_prefix('@') {
            Some(name) => {
                let address = SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(text.as_bytes(), &address)?;
            }
            None => {
                socket.send_to(text.as_bytes(), Path::new(&self.manager))?;
            }
        }
        Ok(())
    }
}
