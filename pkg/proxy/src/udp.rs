//! Forgetting UDP flows to former backends, on a thread of its own: walking the kernel's table of
//! connections takes tens of milliseconds where it is large, and no service waits for that.

use crate::Error;
use crate::plan::UdpFront;
use knarr_network::netlink::Socket;
use knarr_network::{Protocol, conntrack};
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;

enum Job {
    Forget(Vec<UdpFront>),
    #[cfg(test)]
    Settled(mpsc::Sender<()>),
}

/// The way to the thread, which ends with this value.
pub(crate) struct Forgetter(mpsc::Sender<Job>);

impl Forgetter {
    /// For the network namespace of the calling thread.
    pub fn start(node_ips: HashSet<IpAddr>) -> Result<Self, Error> {
        let mut socket = Socket::netfilter()?;
        let (tx, rx) = mpsc::channel();
        let work = move || {
            while let Ok(job) = rx.recv() {
                let mut fronts = Vec::new();
                let mut next = Some(job);
                // All that is queued in one walk.
                while let Some(job) = next {
                    match job {
                        Job::Forget(f) => fronts.extend(f),
                        #[cfg(test)]
                        Job::Settled(tell) => {
                            forget(&mut socket, &node_ips, &std::mem::take(&mut fronts));
                            let _ = tell.send(());
                        }
                    }
                    next = rx.try_recv().ok();
                }
                forget(&mut socket, &node_ips, &fronts);
            }
        };
        std::thread::Builder::new()
            .name("knarr-proxy-udp".into())
            .spawn(work)
            .map_err(|e| Error::Died(e.to_string()))?;
        Ok(Self(tx))
    }

    /// Forgets the flows to these frontends that lead elsewhere than to their backends.
    pub fn forget(&self, fronts: Vec<UdpFront>) {
        if !fronts.is_empty() && self.0.send(Job::Forget(fronts)).is_err() {
            tracing::error!("the thread that forgets UDP flows is gone");
        }
    }

    #[cfg(test)]
    pub fn settle(&self) {
        let (tx, rx) = mpsc::channel();
        let _ = self.0.send(Job::Settled(tx));
        let _ = rx.recv();
    }
}

fn forget(socket: &mut Socket, here: &HashSet<IpAddr>, fronts: &[UdpFront]) {
    if fronts.is_empty() {
        return;
    }
    // Of one frontend, the news that came last holds.
    let gone = conntrack::forget(socket, Protocol::Udp, |flow| {
        let (to, port) = (flow.original.dst, flow.original.dst_port);
        let backend = SocketAddr::new(flow.reply.src, flow.reply.src_port);
        let front = fronts.iter().rev().find(|f| {
            let address = f.port == port && f.addresses.contains(&to);
            address || f.node_port == Some(port) && (here.contains(&to) || to.is_loopback())
        });
        front.is_some_and(|f| !f.backends.contains(&backend))
    });
    match gone {
        Ok(0) => {}
        Ok(flows) => tracing::debug!(flows, "forgot UDP flows to former backends"),
        Err(error) => tracing::warn!(%error, "UDP flows may go to former backends for a while"),
    }
}
