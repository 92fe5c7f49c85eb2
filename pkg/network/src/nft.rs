//! nftables: transactions over netlink. One [`Batch`] is one transaction on one table of the
//! family inet: all of it happens, or nothing.

mod batch;
mod expr;

pub use batch::{Batch, ChainType, Hook, SetSpec};
pub use expr::{AnonMap, Expr, Rule, Verdict, Write};

use crate::types::Protocol;
use std::net::IpAddr;

/// The datatypes of nftables' own command line, so that its listings read well.
pub mod datatype {
    /// A number in the machine's order.
    pub const INTEGER: u32 = 4;
    /// An IPv4 address.
    pub const IPV4: u32 = 7;
    /// An IPv6 address.
    pub const IPV6: u32 = 8;
    /// An IP protocol number.
    pub const PROTO: u32 = 12;
    /// A port.
    pub const PORT: u32 = 13;
    /// A verdict (as the data of a map).
    pub const VERDICT: u32 = 0xffff_ff00;

    /// Several side by side.
    pub fn concat(parts: &[u32]) -> u32 {
        parts.iter().fold(0, |a, p| a << 6 | p)
    }
}

/// The first 32-bit register.
pub const R0: u32 = 8;
/// The verdict register.
pub const VERDICT_REG: u32 = 0;

/// An IP version, with what differs between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpFamily {
    /// That of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
    /// The kernel's number of it.
    pub fn nfproto(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
    /// Bytes of an address.
    pub fn addr_len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }
    /// 32-bit registers of an address.
    pub fn regs(self) -> u32 {
        self.addr_len() / 4
    }
    /// The datatype of an address.
    pub fn datatype(self) -> u32 {
        match self {
            Self::V4 => datatype::IPV4,
            Self::V6 => datatype::IPV6,
        }
    }
    /// The digit at the end of our names.
    pub fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
    /// Where the source address is in the header.
    pub fn saddr(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }
    /// Where the destination address is in the header.
    pub fn daddr(self) -> u32 {
        match self {
            Self::V4 => 16,
            Self::V6 => 24,
        }
    }
}

/// An address as a key or datum.
pub fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// `address . protocol . port` as a key.
pub fn ip_proto_port(ip: IpAddr, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut k = ip_bytes(ip);
    k.extend(proto_port(protocol, port));
    k
}

/// `protocol . port` as a key.
pub fn proto_port(protocol: Protocol, port: u16) -> Vec<u8> {
    let p = port.to_be_bytes();
    vec![protocol.number(), 0, 0, 0, p[0], p[1], 0, 0]
}

/// `address . port` as a datum.
pub fn ip_port(ip: IpAddr, port: u16) -> Vec<u8> {
    let mut k = ip_bytes(ip);
    let p = port.to_be_bytes();
    k.extend([p[0], p[1], 0, 0]);
    k
}

/// `address . address` as a key.
pub fn ip_ip(a: IpAddr, b: IpAddr) -> Vec<u8> {
    let mut k = ip_bytes(a);
    k.extend(ip_bytes(b));
    k
}

/// An interface's name as it is compared: 16 bytes.
pub fn ifname(name: &str) -> Vec<u8> {
    let mut b = name.as_bytes().to_vec();
    b.resize(16, 0);
    b
}

#[cfg(test)]
mod tests;
