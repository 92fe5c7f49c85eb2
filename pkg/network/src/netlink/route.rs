//! Links, addresses, routes and traffic shaping.

use super::{ACK, Buf, CREATE, EXCL, REPLACE, Socket, attr};
use crate::Error;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWQDISC: u16 = 36;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
/// The interface group of what is being deleted ("knrr").
const DYING: u32 = 0x6b6e_7272;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;
const BRPORT_MODE: u16 = 4;
const BR_FORWARD_DELAY: u16 = 1;
const BR_STP_STATE: u16 = 5;
const BR_MCAST_SNOOPING: u16 = 23;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u16 = 10;
/// The protocol number that marks our own routes.
pub const PROTO_KNARR: u8 = 107;
const TABLE_MAIN: u8 = 254;
const SCOPE_LINK: u8 = 253;
const SCOPE_UNIVERSE: u8 = 0;
const ONLINK: u32 = 4;

/// A hardware address.
pub type Mac = [u8; 6];

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is set up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// The index of the bridge it is a port of, or 0.
    pub master: u32,
    /// Its kind (`bridge`, `veth`, …), or empty.
    pub kind: String,
    /// Its hardware address.
    pub mac: Mac,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Destination.
    pub dst: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// The next hop.
    pub gateway: Option<Ipv4Addr>,
    /// The interface's index, or 0 for that which leads to the gateway.
    pub oif: u32,
    /// The preferred source address.
    pub src: Option<Ipv4Addr>,
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut b = [0; 16];
    b[4..8].copy_from_slice(&index.to_ne_bytes());
    b[8..12].copy_from_slice(&flags.to_ne_bytes());
    b[12..16].copy_from_slice(&change.to_ne_bytes());
    b
}

fn u32_of(v: Option<&[u8]>) -> u32 {
    v.and_then(|v| v.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn text_of(v: Option<&[u8]>) -> String {
    String::from_utf8_lossy(v.unwrap_or_default()).trim_end_matches('\0').to_owned()
}

fn parse_link(b: &[u8]) -> Option<Link> {
    let a = b.get(16..)?;
    let info = attr(a, IFLA_LINKINFO).unwrap_or_default();
    Some(Link {
        index: u32_of(b.get(4..8)),
        name: text_of(attr(a, IFLA_IFNAME)),
        up: u32_of(b.get(8..12)) & IFF_UP != 0,
        mtu: u32_of(attr(a, IFLA_MTU)),
        master: u32_of(attr(a, IFLA_MASTER)),
        kind: text_of(attr(info, INFO_KIND)),
        mac: attr(a, IFLA_ADDRESS).and_then(|m| m.try_into().ok()).unwrap_or_default(),
    })
}


/// A veth pair whose far end is made inside another network namespace.
pub struct Veth<'a> {
    /// The near end's name.
    pub name: &'a str,
    /// The bridge's index, of which the near end becomes a port in hairpin mode.
    pub master: u32,
    /// The far end's namespace.
    pub peer_netns: BorrowedFd<'a>,
    /// The far end's name there.
    pub peer_name: &'a str,
    /// The far end's hardware address.
    pub peer_mac: Mac,
    /// The MTU of both, in bytes.
    pub mtu: u32,
}

impl Socket {
    /// An interface by name.
    ///
    /// # Errors
    /// The kernel's; not being there is `Ok(None)`.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut b = Buf::new();
        b.message(GETLINK, 0, &ifinfo(0, 0, 0), |b| b.text(IFLA_IFNAME, name));
        match self.request(&b, &format!("look up interface {name}")) {
            Ok(a) => Ok(a.iter().find(|a| a.kind == NEWLINK).and_then(|a| parse_link(&a.body))),
            Err(e) if e.errno() == Some(ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All interfaces.
    ///
    /// # Errors
    /// The kernel's.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        let mut out = Vec::new();
        self.dump(GETLINK, &ifinfo(0, 0, 0), |_| {}, "list interfaces", |_, b| {
            out.extend(parse_link(b));
        })?;
        Ok(out)
    }

    /// Makes a bridge without spanning tree, and sets it up.
    ///
    /// # Errors
    /// The kernel's; `EEXIST`.
    pub fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> Result<(), Error> {
        let mut b = Buf::new();
        b.message(NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, IFF_UP, IFF_UP), |b| {
            b.text(IFLA_IFNAME, name);
            b.attr(IFLA_ADDRESS, &mac);
            b.u32(IFLA_MTU, mtu);
            b.nest(IFLA_LINKINFO, |b| {
                b.text(INFO_KIND, "bridge");
                b.nest(INFO_DATA, |b| {
                    b.u32(BR_FORWARD_DELAY, 0);
                    b.u32(BR_STP_STATE, 0);
                    b.attr(BR_MCAST_SNOOPING, &[0]);
                });
            });
        });
        self.request(&b, &format!("make bridge {name}")).map(|_| ())
    }

    /// Sets an interface's hardware address and MTU, and sets it up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn configure_link(&mut self, index: u32, mac: Option<Mac>, mtu: u32) -> Result<(), Error> {
        let mut b = Buf::new();
        b.message(NEWLINK, ACK, &ifinfo(index, IFF_UP, IFF_UP), |b| {
            if let Some(mac) = mac {
                b.attr(IFLA_ADDRESS, &mac);
            }
            if mtu != 0 {
                b.u32(IFLA_MTU, mtu);
            }
        });
        self.request(&b, "configure interface").map(|_| ())
    }

    /// Keeps an interface that is still down from giving itself IPv6 addresses, whose discovery
    /// messages would be the only traffic of an idle pod. A kernel without IPv6 needs no telling.
    pub fn no_v6_addresses(&mut self, name: &str) {
        let mut b = Buf::new();
        b.message(NEWLINK, ACK, &ifinfo(0, 0, 0), |b| {
            b.text(IFLA_IFNAME, name);
            b.nest(IFLA_AF_SPEC, |b| {
                b.nest(AF_INET6, |b| b.attr(INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]));
            });
        });
        if let Err(error) = self.request(&b, "switch automatic IPv6 addresses off") {
            tracing::debug!(%error, interface = name);
        }
    }

    /// Makes a veth pair, the near end up and a hairpin port of the bridge, the far end down.
    ///
    /// # Errors
    /// The kernel's; `EEXIST` when either name is taken.
    pub fn add_veth(&mut self, v: &Veth<'_>) -> Result<(), Error> {
        let mut b = Buf::new();
        b.message(NEWLINK, ACK | CREATE | EXCL, &ifinfo(0, 0, 0), |b| {
            b.text(IFLA_IFNAME, v.name);
            b.u32(IFLA_MTU, v.mtu);
            b.u32(IFLA_MASTER, v.master);
            b.nest(IFLA_LINKINFO, |b| {
                b.text(INFO_KIND, "veth");
                b.nest(INFO_DATA, |b| {
                    b.nest(VETH_INFO_PEER, |b| {
                        b.raw(&ifinfo(0, 0, 0));
                        b.text(IFLA_IFNAME, v.peer_name);
                        b.attr(IFLA_ADDRESS, &v.peer_mac);
                        b.u32(IFLA_MTU, v.mtu);
                        b.u32(IFLA_NET_NS_FD, v.peer_netns.as_raw_fd().cast_unsigned());
                    });
                });
            });
        });
        b.message(NEWLINK, ACK, &ifinfo(0, 0, 0), |b| {
            b.text(IFLA_IFNAME, v.name);
            b.nest(IFLA_LINKINFO, |b| {
                b.text(INFO_SLAVE_KIND, "bridge");
                b.nest(INFO_SLAVE_DATA, |b| b.attr(BRPORT_MODE, &[1]));
            });
        });
        let what = format!("make veth pair {}", v.name);
        self.request(&b, &what)?;
        self.no_v6_addresses(v.name);
        let mut b = Buf::new();
        b.message(NEWLINK, ACK, &ifinfo(0, IFF_UP, IFF_UP), |b| b.text(IFLA_IFNAME, v.name));
        self.request(&b, &what).map(|_| ())
    }

    /// Deletes an interface; one that is not there is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_link(&mut self, name: &str) -> Result<(), Error> {
        let mut b = Buf::new();
        b.message(DELLINK, ACK, &ifinfo(0, 0, 0), |b| b.text(IFLA_IFNAME, name));
        match self.request(&b, &format!("delete interface {name}")) {
            Err(e) if e.errno() != Some(ENODEV) => Err(e),
            _ => Ok(()),
        }
    }

    /// Deletes interfaces at once, which takes the kernel hardly longer than deleting one: they are
    /// put into a group of ours first. Those that are not there are fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_links(&mut self, names: &[String]) -> Result<(), Error> {
        if let [name] = names {
            return self.delete_link(name);
        }
        let tolerate = |r: Result<Vec<super::Answer>, Error>| match r {
            Err(e) if e.errno() != Some(ENODEV) => Err(e),
            _ => Ok(()),
        };
        for name in names {
            let mut b = Buf::new();
            b.message(NEWLINK, ACK, &ifinfo(0, 0, 0), |b| {
                b.text(IFLA_IFNAME, name);
                b.u32(IFLA_GROUP, DYING);
            });
            tolerate(self.request(&b, &format!("mark interface {name}")))?;
        }
        let mut b = Buf::new();
        b.message(DELLINK, ACK, &ifinfo(0, 0, 0), |b| b.u32(IFLA_GROUP, DYING));
        tolerate(self.request(&b, "delete interfaces"))
    }

    /// Gives an interface an address; one it has already is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_address(&mut self, index: u32, ip: Ipv4Addr, prefix: u8) -> Result<(), Error> {
        let mut b = Buf::new();
        push_address(&mut b, index, ip, prefix);
        self.request(&b, &format!("add address {ip}/{prefix}")).map(|_| ())
    }

    /// The IPv4 addresses of the host: interface index, address, prefix length.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Addr, u8)>, Error> {
        let mut out = Vec::new();
        self.dump(GETADDR, &[AF_INET, 0, 0, 0, 0, 0, 0, 0], |_| {}, "list addresses", |_, b| {
            let Some(a) = b.get(8..) else { return };
            let local = attr(a, 2).or_else(|| attr(a, 1));
            if let Some(ip) = local.and_then(|v| <[u8; 4]>::try_from(v).ok()) {
                out.push((u32_of(b.get(4..8)), Ipv4Addr::from(ip), b[1]));
            }
        })?;
        Ok(out)
    }

    /// Sets the pod's side up in one go: lo and the interface, the address, and routes by way of the gateway.
    ///
    /// # Errors
    /// The kernel's.
    pub fn configure_pod(
        &mut self,
        index: u32,
        ip: Ipv4Addr,
        gateway: Ipv4Addr,
    ) -> Result<(), Error> {
        let mut b = Buf::new();
        b.message(NEWLINK, ACK, &ifinfo(1, IFF_UP, IFF_UP), |_| {});
        b.message(NEWLINK, ACK, &ifinfo(index, IFF_UP, IFF_UP), |_| {});
        push_address(&mut b, index, ip, 32);
        let to_gateway =
            Route { dst: gateway, prefix: 32, gateway: None, oif: index, src: Some(ip) };
        push_route(&mut b, &to_gateway, 3);
        let default = Route {
            dst: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(gateway),
            oif: index,
            src: None,
        };
        push_route(&mut b, &default, 3);
        self.request(&b, "configure the pod's interface").map(|_| ())
    }

    /// Sets a node's side up: lo and the interface, its address in the nodes' network, and the
    /// default route.
    ///
    /// # Errors
    /// The kernel's.
    pub fn configure_node(
        &mut self,
        index: u32,
        ip: Ipv4Addr,
        prefix: u8,
        gateway: Ipv4Addr,
    ) -> Result<(), Error> {
        let mut b = Buf::new();
        b.message(NEWLINK, ACK, &ifinfo(1, IFF_UP, IFF_UP), |_| {});
        b.message(NEWLINK, ACK, &ifinfo(index, IFF_UP, IFF_UP), |_| {});
        push_address(&mut b, index, ip, prefix);
        let default = Route {
            dst: Ipv4Addr::UNSPECIFIED,
            prefix: 0,
            gateway: Some(gateway),
            oif: index,
            src: None,
        };
        push_route(&mut b, &default, 3);
        self.request(&b, "configure the node's interface").map(|_| ())
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<(), Error> {
        let mut b = Buf::new();
        let flags = if up { IFF_UP } else { 0 };
        b.message(NEWLINK, ACK, &ifinfo(0, flags, IFF_UP), |b| b.text(IFLA_IFNAME, name));
        self.request(&b, &format!("set interface {name} up or down")).map(|_| ())
    }

    /// Adds or replaces one of our routes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_route(&mut self, r: &Route) -> Result<(), Error> {
        let mut b = Buf::new();
        push_route(&mut b, r, PROTO_KNARR);
        self.request(&b, &format!("route {}/{}", r.dst, r.prefix)).map(|_| ())
    }

    /// Deletes one of our routes; one that is not there is fine.
    ///
    /// # Errors
    /// The kernel's.
    pub fn delete_route(&mut self, r: &Route) -> Result<(), Error> {
        let mut b = Buf::new();
        let body = rtmsg(r.prefix, PROTO_KNARR, 255, 0);
        b.message(DELROUTE, ACK, &body, |b| b.attr(1, &r.dst.octets()));
        match self.request(&b, &format!("delete route {}/{}", r.dst, r.prefix)) {
            Err(e) if e.errno() != Some(ESRCH) => Err(e),
            _ => Ok(()),
        }
    }

    /// The IPv4 routes of the main table, with the protocol number that made each.
    ///
    /// # Errors
    /// The kernel's.
    pub fn routes(&mut self) -> Result<Vec<(Route, u8)>, Error> {
        let mut out = Vec::new();
        self.dump(GETROUTE, &rtmsg(0, 0, 0, 0), |_| {}, "list routes", |_, b| {
            let Some(a) = b.get(12..) else { return };
            if b[4] != TABLE_MAIN {
                return;
            }
            let ip = |k| {
                attr(a, k).and_then(|v: &[u8]| <[u8; 4]>::try_from(v).ok()).map(Ipv4Addr::from)
            };
            out.push((
                Route {
                    dst: ip(1).unwrap_or(Ipv4Addr::UNSPECIFIED),
                    prefix: b[1],
                    gateway: ip(5),
                    oif: u32_of(attr(a, 4)),
                    src: ip(7),
                },
                b[5],
            ));
        })?;
        Ok(out)
    }

    /// Limits what leaves an interface to `bits` per second (a token bucket of 10 ms or 64 KiB,
    /// whichever is more, and 25 ms of queue).
    ///
    /// # Errors
    /// The kernel's; `ENOENT` where it has no tbf.
    pub fn shape(&mut self, index: u32, bits: u64) -> Result<(), Error> {
        let rate = (bits / 8).max(1);
        let burst = (rate / 100).clamp(64 * 1024, u64::from(u32::MAX / 2));
        let limit = (rate / 40 + burst).min(u64::from(u32::MAX));
        let mut parms = [0u8; 36];
        parms[1] = 1; // ethernet
        let rate32 = u32::try_from(rate).unwrap_or(u32::MAX);
        parms[8..12].copy_from_slice(&rate32.to_ne_bytes());
        parms[24..28].copy_from_slice(&u32::try_from(limit).unwrap_or(u32::MAX).to_ne_bytes());
        let mut b = Buf::new();
        let mut tcm = [0u8; 20];
        tcm[4..8].copy_from_slice(&index.to_ne_bytes());
        tcm[8..12].copy_from_slice(&0x0001_0000u32.to_ne_bytes()); // handle 1:
        tcm[12..16].copy_from_slice(&u32::MAX.to_ne_bytes()); // parent root
        b.message(NEWQDISC, ACK | CREATE | REPLACE, &tcm, |b| {
            b.text(1, "tbf");
            b.nest(2, |b| {
                b.attr(1, &parms);
                b.u32(6, u32::try_from(burst).unwrap_or(u32::MAX));
                if rate > u64::from(u32::MAX) {
                    b.attr(4, &rate.to_ne_bytes());
                }
            });
        });
        self.request(&b, "limit bandwidth").map(|_| ())
    }
}

const ENODEV: i32 = 19;
const ESRCH: i32 = 3;

fn push_address(b: &mut Buf, index: u32, ip: Ipv4Addr, prefix: u8) {
    let mut body = [AF_INET, prefix, 0, 0, 0, 0, 0, 0];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    b.message(NEWADDR, ACK | CREATE | REPLACE, &body, |b| {
        b.attr(2, &ip.octets());
        b.attr(1, &ip.octets());
    });
}

fn rtmsg(prefix: u8, protocol: u8, scope: u8, kind: u8) -> [u8; 12] {
    [AF_INET, prefix, 0, 0, TABLE_MAIN, protocol, scope, kind, 0, 0, 0, 0]
}

fn push_route(b: &mut Buf, r: &Route, protocol: u8) {
    let scope = if r.gateway.is_some() { SCOPE_UNIVERSE } else { SCOPE_LINK };
    let mut body = rtmsg(r.prefix, protocol, scope, 1);
    if r.gateway.is_some() && r.oif != 0 {
        body[8..12].copy_from_slice(&ONLINK.to_ne_bytes());
    }
    b.message(NEWROUTE, ACK | CREATE | REPLACE, &body, |b| {
        if r.prefix != 0 {
            b.attr(1, &r.dst.octets());
        }
        if r.oif != 0 {
            b.u32(4, r.oif);
        }
        if let Some(g) = r.gateway {
            b.attr(5, &g.octets());
        }
        if let Some(s) = r.src {
            b.attr(7, &s.octets());
        }
    });
}
