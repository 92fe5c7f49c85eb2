//! Network namespaces for tests: each with a thread inside that runs what it is given.

use crate::Error;
use crate::netlink::Socket;
use crate::netlink::route::{Link, Veth};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace that ends with this value.
pub struct Netns {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

impl Netns {
    /// A new one with lo up; `None`, with the reason on standard error, if this process may not.
    pub fn new() -> Option<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let body = move || {
            let made = knarr_sys::process::unshare(0x4000_0000)
                .and_then(|()| knarr_sys::net::loopback_up());
            let path = std::fs::read_link("/proc/thread-self").map(|p| {
                Path::new("/proc").join(p).join("ns/net")
            });
            if tell.send((made, path)).is_ok() {
                todo.into_iter().for_each(|job| job());
            }
        };
        std::thread::spawn(body);
        match told.recv() {
            Ok((Ok(()), Ok(path))) => Some(Self { jobs, path }),
            other => {
                eprintln!("skipped: no network namespace of our own (root needed): {other:?}");
                None
            }
        }
    }

    /// A path that opens it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs this inside; its panic becomes the caller's.
    pub fn run<R: Send + 'static>(&self, f: impl FnOnce() -> R + Send + 'static) -> R {
        let (tx, rx) = mpsc::channel();
        let job = Box::new(move || {
            let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            let _ = tx.send(r);
        });
        assert!(self.jobs.send(job).is_ok(), "the namespace's thread is gone");
        match rx.recv() {
            Ok(Ok(r)) => r,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(_) => panic!("the namespace's thread died"),
        }
    }

    /// A machine beside this one, at the far end of a network of their own: this one is
    /// 192.168.9.1, the other 192.168.9.2.
    ///
    /// # Errors
    /// The kernel's.
    pub fn neighbour(&self) -> Result<Self, Error> {
        let nothing = || crate::netlink::failed("look up interface", "", knarr_sys::Errno::NOENT);
        let other = Self::new().ok_or_else(nothing)?;
        let up = move |name: &str, last: u8| -> Result<(Socket, Link), Error> {
            let mut s = Socket::route()?;
            let link = s.link(name)?.ok_or_else(nothing)?;
            s.configure_link(link.index, None, 0)?;
            s.add_address(link.index, Ipv4Addr::new(192, 168, 9, last), 24)?;
            Ok((s, link))
        };
        let path = other.path.clone();
        self.run(move || {
            Socket::route()?.add_bridge("ext0", [2, 0, 0, 0, 0, 1], 1500)?;
            let (mut s, link) = up("ext0", 1)?;
            let ns = std::fs::File::open(&path).map_err(crate::lease::io("open", &path))?;
            s.add_veth(&Veth {
                name: "ext1",
                master: link.index,
                peer_netns: ns.as_fd(),
                peer_name: "eth0",
                peer_mac: [2, 0, 0, 0, 0, 2],
                mtu: 1500,
            })
        })?;
        other.run(move || up("eth0", 2).map(|_| ()))?;
        Ok(other)
    }
}
