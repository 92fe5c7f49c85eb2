//! A network for nodes that are containers of this machine: a bridge with an address of the host,
//! one port for each node, and a way out through the host.

use crate::Error;
use crate::cidr::Cidr;
use crate::lease::io;
use crate::ledger::Ledger;
use crate::netlink::Socket;
use crate::netlink::route::{Mac, Veth};
use crate::nft::{Batch, ChainType, Expr, Hook, IpFamily, Rule};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// How such a network is set up.
#[derive(Debug, Clone)]
pub struct NodesConfig {
    /// The bridge's name (at most 11 bytes); ports are this name, `n` and a number.
    pub bridge: String,
    /// The nodes' range; its first address is the host's.
    pub cidr: String,
    /// The nftables table (family inet) with masquerading.
    pub table: String,
    /// Where changed settings of the host are noted.
    pub ledger: PathBuf,
}

/// The network of a cluster whose nodes are containers.
#[derive(Debug)]
pub struct NodesNetwork {
    cfg: NodesConfig,
    cidr: Cidr,
}

fn mac_of(ip: Ipv4Addr) -> Mac {
    let o = ip.octets();
    [0x0a, 0x58, o[0], o[1], o[2], o[3]]
}

impl NodesNetwork {
    /// The network as configured, made or not.
    ///
    /// # Errors
    /// A range that makes no sense.
    pub fn new(cfg: NodesConfig) -> Result<Self, Error> {
        let cidr = Cidr::parse("cidr", &cfg.cidr)?;
        Ok(Self { cfg, cidr })
    }

    /// Whether neither the bridge's name nor an address of the range is in use on this machine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_free(&self) -> Result<bool, Error> {
        let mut route = Socket::route()?;
        if route.link(&self.cfg.bridge)?.is_some() {
            return Ok(false);
        }
        let inside = |ip: Ipv4Addr| self.cidr.contains(ip);
        let addresses = route.addresses()?.into_iter().any(|(_, ip, _)| inside(ip));
        Ok(!addresses && !route.routes()?.into_iter().any(|(r, _)| r.prefix > 0 && inside(r.dst)))
    }

    /// The host's address in it.
    #[must_use]
    pub fn host(&self) -> Ipv4Addr {
        self.cidr.at(1)
    }

    /// The `n`th node's address, from 0.
    #[must_use]
    pub fn node(&self, n: u32) -> Ipv4Addr {
        self.cidr.at(u64::from(n) + 2)
    }

    /// The host's end of the `n`th node's cable.
    #[must_use]
    pub fn port(&self, n: u32) -> String {
        format!("{}n{n}", self.cfg.bridge)
    }

    /// Makes the bridge with the host's address, forwarding and masquerading. May be repeated.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(&self) -> Result<(), Error> {
        let mut route = Socket::route()?;
        if route.link(&self.cfg.bridge)?.is_none() {
            route.add_bridge(&self.cfg.bridge, mac_of(self.host()), 1500)?;
        }
        let index = route.link(&self.cfg.bridge)?.map_or(0, |l| l.index);
        route.add_address(index, self.host(), self.cidr.prefix)?;
        let mut ledger = Ledger::open(self.cfg.ledger.clone());
        let forward = Path::new("/proc/sys/net/ipv4/ip_forward");
        if !std::fs::read_to_string(forward).is_ok_and(|v| v.trim() == "1") {
            // The kernel changes this one along with forwarding.
            ledger.note(Path::new("/proc/sys/net/ipv4/conf/all/accept_redirects"))?;
        }
        ledger.set(forward, "1")?;
        let mut b = Batch::new(&self.cfg.table);
        b.reset_table();
        b.add_base_chain("postrouting", ChainType::Nat, Hook::Postrouting, 100);
        let outward = Rule::family(IpFamily::V4)
            .saddr_in(self.cidr.base.into(), self.cidr.prefix, true)
            .oif(&self.cfg.bridge, false);
        b.add_rule("postrouting", &outward.with(Expr::Masquerade));
        b.commit(&mut Socket::netfilter()?, "masquerade the nodes' network")
    }

    /// Connects the `n`th node: in its network namespace, eth0 with its address and the default
    /// route.
    ///
    /// # Errors
    /// The kernel's; a namespace that is gone.
    pub fn attach(&self, n: u32, netns: &Path) -> Result<(), Error> {
        let file = std::fs::File::open(netns).map_err(io("open namespace", netns))?;
        let mut route = Socket::route()?;
        let master = route.link(&self.cfg.bridge)?.map_or(0, |l| l.index);
        let (name, ip) = (self.port(n), self.node(n));
        route.delete_link(&name)?;
        route.add_veth(&Veth {
            name: &name,
            master,
            peer_netns: file.as_fd(),
            peer_name: "eth0",
            peer_mac: mac_of(ip),
            mtu: 1500,
        })?;
        let mut inside = crate::bridge::socket_in(file.as_fd())?;
        let index = inside.link("eth0")?.map_or(0, |l| l.index);
        inside.configure_node(index, ip, self.cidr.prefix, self.host())
    }

    /// Cuts the `n`th node off, or connects it again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect(&self, n: u32, connected: bool) -> Result<(), Error> {
        Socket::route()?.set_up(&self.port(n), connected)
    }

    /// Whether the `n`th node is connected.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_connected(&self, n: u32) -> Result<bool, Error> {
        Ok(Socket::route()?.link(&self.port(n))?.is_some_and(|l| l.up))
    }

    /// Removes all of it and puts the host's settings back.
    ///
    /// # Errors
    /// The first; the rest is tried all the same.
    pub fn remove(&self, nodes: u32) -> Result<(), Error> {
        let mut route = Socket::route()?;
        let mut first = Ok(());
        for n in 0..nodes {
            first = first.and(route.delete_link(&self.port(n)));
        }
        first = first.and(route.delete_link(&self.cfg.bridge));
        let mut b = Batch::new(&self.cfg.table);
        b.add_table();
        b.delete_table();
        first = first.and(b.commit(&mut Socket::netfilter()?, "delete table"));
        first.and(Ledger::open(self.cfg.ledger.clone()).restore())
    }
}
