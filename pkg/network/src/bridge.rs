//! The built-in plugin: a bridge on the host, a veth pair for each pod.
//!
//! A pod has its address as a /32 and a route by way of the bridge's address, so that traffic
//! between pods of one node goes through the host's routing too: a service's rewriting is undone
//! on the way back whether or not the kernel filters bridged frames.

use crate::Error;
use crate::cidr::Cidr;
use crate::lease::{Lease, Leases, io};
use crate::ledger::Ledger;
use crate::netlink::Socket;
use crate::netlink::route::{Mac, PROTO_KNARR, Route, Veth};
use crate::types::{AddRequest, Attachment, Config, HostPort, Peer, Protocol, Status};
use crate::{conntrack, rules};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The pod network of this node. Methods block for a few milliseconds (call them where blocking
/// is fine) and may be called from any thread.
#[derive(Debug)]
pub struct Bridge {
    cfg: Config,
    pod_cidr: Cidr,
    gateway: Ipv4Addr,
    mtu: u32,
    index: u32,
    state: Mutex<State>,
    /// Of its own, for what takes the kernel long.
    deleter: Mutex<Socket>,
    /// Interfaces to be deleted with the next batch.
    waiting: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct State {
    route: Socket,
    netfilter: Socket,
    leases: Leases,
}

/// The hardware address that belongs to an IPv4 address: whoever has the address has it too, so
/// neighbours' caches are never wrong.
fn mac_of(ip: Ipv4Addr) -> Mac {
    let o = ip.octets();
    [0x0a, 0x58, o[0], o[1], o[2], o[3]]
}

fn mac_text(m: Mac) -> String {
    m.map(|b| format!("{b:02x}")).join(":")
}

fn fnv32(text: &str, salt: u32) -> u32 {
    let seed = 0x811c_9dc5u32 ^ salt.wrapping_mul(0x9e37_79b9);
    text.bytes()
        .fold(seed, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

fn sysctl(interface: &str, key: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf")
        .join(interface)
        .join(key)
}

fn is_pod_link(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|r| r.len() == 8 && r.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn default_mtu(route: &mut Socket) -> Result<u32, Error> {
    let default = route.routes()?.into_iter().find(|(r, _)| r.prefix == 0);
    let Some((r, _)) = default else {
        return Ok(1500);
    };
    let link = route.links()?.into_iter().find(|l| l.index == r.oif);
    Ok(link.map_or(1500, |l| l.mtu).clamp(1280, 65_535))
}

/// Opens a socket to the routing tables of another network namespace, from a thread of its own.
pub(crate) fn socket_in(netns: BorrowedFd<'_>) -> Result<Socket, Error> {
    std::thread::scope(|scope| {
        let t = std::thread::Builder::new()
            .name("knarr-netns".into())
            .spawn_scoped(scope, || {
                knarr_sys::process::setns(netns, CLONE_NEWNET)
                    .map_err(|e| crate::netlink::failed("enter network namespace", "", e))?;
                Socket::route()
            });
        let broken = |what: &str| {
            crate::netlink::failed("enter network namespace", what, knarr_sys::Errno::AGAIN)
        };
        t.map_err(|e| broken(&e.to_string()))?
            .join()
            .map_err(|_| broken("thread died"))?
    })
}

const CLONE_NEWNET: u64 = 0x4000_0000;

impl Bridge {
    /// Makes the bridge or takes over the one there, with forwarding, masquerading and the host
    /// ports of the leases on disk. Pods attached in an earlier life stay attached throughout.
    ///
    /// # Errors
    /// A range that makes no sense; the kernel's refusal; a data folder that cannot be used.
    pub fn open(cfg: Config) -> Result<Self, Error> {
        let pod_cidr = Cidr::parse("pod_cidr", &cfg.pod_cidr)?;
        if pod_cidr.prefix > 29 {
            return Err(Error::Invalid {
                field: "pod_cidr",
                value: cfg.pod_cidr,
                reason: "too small: at most /29".into(),
            });
        }
        let cluster = Cidr::parse("cluster_cidr", &cfg.cluster_cidr)?;
        let service = cfg.service_cidr.as_deref();
        let service = service
            .map(|s| Cidr::parse("service_cidr", s))
            .transpose()?;
        check_name("bridge", &cfg.bridge, 15)?;
        check_name("if_prefix", &cfg.if_prefix, 7)?;
        let gateway = pod_cidr.at(1);
        let leases = Leases::open(cfg.data_dir.join("leases"), pod_cidr)?;
        let mut route = Socket::route()?;
        let mut netfilter = Socket::netfilter()?;
        let mtu = if cfg.mtu == 0 {
            default_mtu(&mut route)?
        } else {
            cfg.mtu
        };

        match route.link(&cfg.bridge)? {
            None => route.add_bridge(&cfg.bridge, mac_of(gateway), mtu)?,
            Some(l) if l.kind == "bridge" => {
                route.configure_link(l.index, Some(mac_of(gateway)), mtu)?;
            }
            Some(l) => {
                return Err(Error::Invalid {
                    field: "bridge",
                    value: cfg.bridge,
                    reason: format!("an interface of kind {:?} has this name", l.kind),
                });
            }
        }
        let index = route.link(&cfg.bridge)?.map_or(0, |l| l.index);
        route.add_address(index, gateway, pod_cidr.prefix)?;
        if let Some(s) = service {
            route.set_route(&Route {
                dst: s.base,
                prefix: s.prefix,
                gateway: None,
                oif: index,
                src: Some(gateway),
            })?;
        }
        let mut ledger = Ledger::open(cfg.data_dir.join("sysctl.json"));
        let forward = Path::new("/proc/sys/net/ipv4/ip_forward");
        if !std::fs::read_to_string(forward).is_ok_and(|v| v.trim() == "1") {
            // The kernel changes this one along with forwarding.
            ledger.note(&sysctl("all", "accept_redirects"))?;
        }
        ledger.set(forward, "1")?;
        // A redirect would teach a pod a way to its peer that passes by the host.
        ledger.set(&sysctl("all", "send_redirects"), "0")?;
        // These two leave with the bridge.
        for (key, value) in [("send_redirects", "0"), ("route_localnet", "1")] {
            let file = sysctl(&cfg.bridge, key);
            std::fs::write(&file, value).map_err(io("write", &file))?;
        }
        rules::setup(&cfg.table, &cfg.bridge, pod_cidr, cluster, leases.iter())
            .commit(&mut netfilter, "set up the pod network's table")?;
        let state = Mutex::new(State {
            route,
            netfilter,
            leases,
        });
        let deleter = Mutex::new(Socket::route()?);
        Ok(Self {
            cfg,
            pod_cidr,
            gateway,
            mtu,
            index,
            state,
            deleter,
            waiting: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bridge's address: the pods' gateway.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    fn attachment(&self, l: &Lease) -> Attachment {
        Attachment {
            ips: vec![IpAddr::V4(l.ip)],
            mac: mac_text(mac_of(l.ip)),
            gateway: self.gateway,
            host_interface: l.host_interface.clone(),
        }
    }

    /// The attachment on record for a sandbox.
    pub fn get(&self, sandbox_id: &str) -> Option<Attachment> {
        self.lock()
            .leases
            .get(sandbox_id)
            .map(|l| self.attachment(l))
    }

    /// Attaches a sandbox: eth0 with an address, lo up, host ports open when this returns.
    /// Repeating it gives the same address and repairs what is missing.
    ///
    /// # Errors
    /// No address left, a host port that is taken, a namespace that is gone, the kernel's
    /// refusal. Nothing is left half-made.
    pub fn add(&self, req: AddRequest<'_>) -> Result<Attachment, Error> {
        let netns = std::fs::File::open(req.netns).map_err(io("open namespace", req.netns))?;
        let mut inside = socket_in(netns.as_fd())?;
        let mut state = self.lock();
        for p in &req.host_ports {
            if let Some(other) = state.leases.port_conflict(req.sandbox_id, p) {
                return Err(Error::PortTaken {
                    port: p.host_port,
                    protocol: p.protocol.name(),
                    host_ip: p
                        .specific_ip()
                        .map_or_else(|| "0.0.0.0".into(), |ip| ip.to_string()),
                    owner: other.sandbox_id.clone(),
                });
            }
        }
        let (lease, old_ports) = match state.leases.get(req.sandbox_id).cloned() {
            Some(mut l) => {
                let old = std::mem::replace(&mut l.host_ports, req.host_ports.clone());
                l.bandwidth = req.bandwidth;
                (l, Some(old))
            }
            None => (self.new_lease(&mut state, &req)?, None),
        };
        state.leases.put(lease.clone())?;
        let made = self.wire(
            &mut state,
            &lease,
            netns.as_fd(),
            &mut inside,
            old_ports.as_deref(),
        );
        if let Err(e) = made {
            if old_ports.is_none() {
                self.undo(&mut state, &lease);
            }
            return Err(e);
        }
        Ok(self.attachment(&lease))
    }

    fn new_lease(&self, state: &mut State, req: &AddRequest<'_>) -> Result<Lease, Error> {
        let (ip, sequence) = state.leases.pick()?;
        let used: HashSet<&str> = state
            .leases
            .iter()
            .map(|l| l.host_interface.as_str())
            .collect();
        let name = (0..64)
            .map(|salt| format!("{}{:08x}", self.cfg.if_prefix, fnv32(req.sandbox_id, salt)))
            .find(|n| !used.contains(n.as_str()))
            .unwrap_or_else(|| format!("{}{sequence:08x}", self.cfg.if_prefix));
        Ok(Lease {
            sandbox_id: req.sandbox_id.into(),
            ip,
            host_interface: name,
            namespace: req.namespace.into(),
            name: req.name.into(),
            host_ports: req.host_ports.clone(),
            bandwidth: req.bandwidth,
            sequence,
        })
    }

    fn wire(
        &self,
        state: &mut State,
        l: &Lease,
        netns: BorrowedFd<'_>,
        inside: &mut Socket,
        old_ports: Option<&[HostPort]>,
    ) -> Result<(), Error> {
        let mac = mac_of(l.ip);
        let mut eth0 = inside.link("eth0")?;
        let host = if eth0.is_some() || old_ports.is_some() {
            state.route.link(&l.host_interface)?
        } else {
            None
        };
        let whole = eth0.as_ref().is_some_and(|e| e.mac == mac && e.up)
            && host
                .as_ref()
                .is_some_and(|h| h.master == self.index && h.up);
        if !whole {
            if host.is_some() {
                state.route.delete_link(&l.host_interface)?;
                eth0 = inside.link("eth0")?;
            }
            if eth0.is_some() {
                inside.delete_link("eth0")?;
            }
            let veth = Veth {
                name: &l.host_interface,
                master: self.index,
                peer_netns: netns,
                peer_name: "eth0",
                peer_mac: mac,
                mtu: self.mtu,
            };
            match state.route.add_veth(&veth) {
                // Left by a sandbox of another life.
                Err(e) if e.errno() == Some(EEXIST) => {
                    state.route.delete_link(&l.host_interface)?;
                    state.route.add_veth(&veth)?;
                }
                other => other?,
            }
            inside.no_v6_addresses("eth0");
            eth0 = inside.link("eth0")?;
        }
        let eth0 = eth0.ok_or_else(|| {
            crate::netlink::failed("look up eth0", "it is gone", knarr_sys::Errno(ENODEV))
        })?;
        inside.configure_pod(eth0.index, l.ip, self.gateway)?;
        if let Some(rate) = l.bandwidth.egress {
            inside.shape(eth0.index, rate)?;
        }
        if let Some(rate) = l.bandwidth.ingress {
            let index = state.route.link(&l.host_interface)?.map_or(0, |h| h.index);
            state.route.shape(index, rate)?;
        }
        if old_ports.is_some() {
            // What the table has is not known for sure: make the pod's elements anew.
            self.clear_rules(state, l.ip, old_ports.unwrap_or_default());
            self.clear_rules(state, l.ip, &l.host_ports);
        }
        rules::pod(&self.cfg.table, l, true).commit(&mut state.netfilter, "open host ports")?;
        if l.host_ports.iter().any(|p| p.protocol == Protocol::Udp) {
            forget_udp(state, &l.host_ports, |backend| backend != IpAddr::V4(l.ip));
        }
        Ok(())
    }

    fn clear_rules(&self, state: &mut State, ip: Ipv4Addr, ports: &[HostPort]) {
        // One element a transaction: any may be missing.
        for b in rules::removals(&self.cfg.table, ip, ports) {
            let _ = b.commit(&mut state.netfilter, "close host port");
        }
    }

    fn undo(&self, state: &mut State, l: &Lease) {
        let name = &l.host_interface;
        if let Err(error) = state.route.delete_link(name) {
            tracing::warn!(%error, interface = name, "an interface stays until the next collection");
        }
        self.clear_rules(state, l.ip, &l.host_ports);
        if let Err(error) = state.leases.remove(&l.sandbox_id) {
            tracing::warn!(%error, sandbox = l.sandbox_id, "an address stays until the next collection");
        }
    }

    /// Detaches a sandbox and frees its address; one that is not attached, or whose namespace
    /// is gone, is fine.
    ///
    /// # Errors
    /// The kernel's; the address stays taken then.
    pub fn del(&self, sandbox_id: &str) -> Result<(), Error> {
        self.detach(&[sandbox_id.to_owned()])
    }

    fn detach(&self, ids: &[String]) -> Result<(), Error> {
        let mut state = self.lock();
        let leases: Vec<Lease> = ids
            .iter()
            .filter_map(|id| state.leases.get(id).cloned())
            .collect();
        for l in &leases {
            let closed = rules::pod(&self.cfg.table, l, false);
            if closed
                .commit(&mut state.netfilter, "close host ports")
                .is_err()
            {
                self.clear_rules(&mut state, l.ip, &l.host_ports);
            }
        }
        drop(state);
        // The kernel takes tens of milliseconds; others attach meanwhile. The leases still hold.
        self.delete_links(leases.iter().map(|l| l.host_interface.clone()).collect())?;
        let mut state = self.lock();
        for l in &leases {
            if l.host_ports.iter().any(|p| p.protocol == Protocol::Udp) {
                forget_udp(&mut state, &l.host_ports, |backend| {
                    backend == IpAddr::V4(l.ip)
                });
            }
            state.leases.remove(&l.sandbox_id)?;
        }
        Ok(())
    }

    /// Deletes interfaces together with those that other threads ask for meanwhile.
    fn delete_links(&self, names: Vec<String>) -> Result<(), Error> {
        let waiting = || self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting().extend(names.iter().cloned());
        let mut deleter = self.deleter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = std::mem::take(&mut *waiting());
        // Taken along by another thread, unless that failed.
        for name in names {
            if !all.contains(&name) && deleter.link(&name)?.is_some() {
                all.push(name);
            }
        }
        if all.is_empty() {
            Ok(())
        } else {
            deleter.delete_links(&all)
        }
    }

    /// Looks whether a sandbox is attached as it was made: its host end is there, up, and on the
    /// bridge.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(&self, sandbox_id: &str) -> Result<(), Error> {
        let mut state = self.lock();
        let broken = |reason: String| Error::Invalid {
            field: "sandbox",
            value: sandbox_id.to_owned(),
            reason,
        };
        let Some(name) = state
            .leases
            .get(sandbox_id)
            .map(|l| l.host_interface.clone())
        else {
            return Err(broken("it is not attached".to_owned()));
        };
        match state.route.link(&name)? {
            None => Err(broken(format!("its interface {name} is gone"))),
            Some(l) if !l.up => Err(broken(format!("its interface {name} is down"))),
            Some(l) if l.master != self.index => Err(broken(format!(
                "its interface {name} is not on bridge {}",
                self.cfg.bridge
            ))),
            Some(_) => Ok(()),
        }
    }

    /// Detaches every sandbox not named, and removes interfaces of ours that no lease names.
    ///
    /// # Errors
    /// The first; the rest is tried all the same.
    pub fn gc(&self, alive: &HashSet<String>) -> Result<(), Error> {
        let dead: Vec<String> = {
            let state = self.lock();
            let ids = state.leases.iter().map(|l| l.sandbox_id.clone());
            ids.filter(|id| !alive.contains(id)).collect()
        };
        let mut first = self.detach(&dead);
        let mut state = self.lock();
        let known: HashSet<String> = state
            .leases
            .iter()
            .map(|l| l.host_interface.clone())
            .collect();
        for l in state.route.links()? {
            let ours = l.kind == "veth" && is_pod_link(&l.name, &self.cfg.if_prefix);
            if ours && !known.contains(&l.name) {
                first = first.and(state.route.delete_link(&l.name));
            }
        }
        first
    }

    /// Whether pods can be attached, and who is.
    pub fn status(&self) -> Status {
        let mut state = self.lock();
        let message = match state.route.link(&self.cfg.bridge) {
            Ok(Some(l)) if l.up && l.index == self.index => String::new(),
            Ok(Some(l)) if l.up => format!("bridge {} was replaced", self.cfg.bridge),
            Ok(Some(_)) => format!("bridge {} is down", self.cfg.bridge),
            Ok(None) => format!("bridge {} is gone", self.cfg.bridge),
            Err(e) => e.to_string(),
        };
        let mut leases: Vec<_> = state
            .leases
            .iter()
            .map(|l| (l.sandbox_id.clone(), l.ip))
            .collect();
        leases.sort_by_key(|(_, ip)| *ip);
        Status {
            ready: message.is_empty(),
            message,
            gateway: self.gateway,
            leases,
            capacity: state.leases.capacity(),
        }
    }

    /// Sets the routes to other nodes' pods: adds what is missing, removes what is not named.
    ///
    /// # Errors
    /// The first; the rest is done all the same. A range that makes no sense, or the kernel's: a
    /// node address that is not on a network shared with this host is `ENETUNREACH`.
    pub fn set_peers(&self, peers: &[Peer]) -> Result<(), Error> {
        let mut wanted = Vec::new();
        let mut first = Ok(());
        for p in peers {
            match Cidr::parse("pod_cidr", &p.pod_cidr) {
                Ok(c) if c != self.pod_cidr => {
                    let gateway = Some(p.node_ip);
                    wanted.push(Route {
                        dst: c.base,
                        prefix: c.prefix,
                        gateway,
                        oif: 0,
                        src: None,
                    });
                }
                Ok(_) => {}
                Err(e) => first = first.and(Err(e)),
            }
        }
        let mut state = self.lock();
        let ours = state.route.routes()?;
        let ours: Vec<Route> = ours
            .into_iter()
            .filter(|(r, p)| *p == PROTO_KNARR && r.gateway.is_some())
            .map(|(r, _)| Route {
                oif: 0,
                src: None,
                ..r
            })
            .collect();
        for r in ours.iter().filter(|r| !wanted.contains(r)) {
            first = first.and(state.route.delete_route(r));
        }
        for r in wanted.iter().filter(|r| !ours.contains(r)) {
            first = first.and(state.route.set_route(r));
        }
        first
    }

    /// Removes all that a pod network of this configuration has made: bridge, pods' interfaces,
    /// routes, tables; settings go back to what they were; the data folder goes.
    ///
    /// # Errors
    /// The first; the rest is tried all the same.
    pub fn remove_all(cfg: &Config) -> Result<(), Error> {
        let mut first = Ok(());
        let mut route = Socket::route()?;
        for l in route.links()? {
            let pod = l.kind == "veth" && is_pod_link(&l.name, &cfg.if_prefix);
            if pod || (l.kind == "bridge" && l.name == cfg.bridge) {
                first = first.and(route.delete_link(&l.name));
            }
        }
        for (r, protocol) in route.routes()? {
            if protocol == PROTO_KNARR {
                first = first.and(route.delete_route(&r));
            }
        }
        let mut netfilter = Socket::netfilter()?;
        for table in [&cfg.table, &cfg.proxy_table] {
            let mut b = crate::nft::Batch::new(table);
            b.add_table();
            b.delete_table();
            first = first.and(b.commit(&mut netfilter, "delete table"));
        }
        first = first.and(Ledger::open(cfg.data_dir.join("sysctl.json")).restore());
        let dir = &cfg.data_dir;
        match std::fs::remove_dir_all(dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                first.and(Err(io("remove folder", dir)(e)))
            }
            _ => first,
        }
    }
}

const EEXIST: i32 = 17;
const ENODEV: i32 = 19;

fn forget_udp(state: &mut State, ports: &[HostPort], stale: impl Fn(IpAddr) -> bool) {
    let udp: HashSet<u16> = ports
        .iter()
        .filter(|p| p.protocol == Protocol::Udp)
        .map(|p| p.host_port)
        .collect();
    let gone = conntrack::forget(&mut state.netfilter, Protocol::Udp, |f| {
        udp.contains(&f.original.dst_port) && stale(f.reply.src)
    });
    if let Err(error) = gone {
        tracing::warn!(%error, "UDP flows to a host port may go to its former pod for a while");
    }
}

fn check_name(field: &'static str, name: &str, most: usize) -> Result<(), Error> {
    let fine = !name.is_empty()
        && name.len() <= most
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fine {
        return Ok(());
    }
    Err(Error::Invalid {
        field,
        value: name.into(),
        reason: format!("1 to {most} letters, digits or dashes"),
    })
}
