//! Network devices that move into the container, with their addresses.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use knarr_sys::netlink;
use knarr_sys::{Errno, Result};

const NEWLINK: u16 = 16;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE_NEW: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_F_PERMANENT: u8 = 0x80;
const IFF_UP: u32 = 1;

/// A device of the host, and what it had there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetDevice {
    /// Its name on the host.
    pub host: String,
    /// Its name in the container.
    pub name: String,
    index: u32,
    addresses: Vec<Address>,
}

/// An address of a device: the kernel's own message, but for the device's index.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<u8>,
}

/// What the devices have in the calling process's network namespace.
///
/// # Errors
/// The device's name and the error.
pub fn look_up(
    devices: &[(String, String)],
) -> std::result::Result<Vec<NetDevice>, (String, Errno)> {
    let one = |(host, name): &(String, String)| {
        let index = netlink::if_index(host)?;
        Ok(NetDevice {
            host: host.clone(),
            name: name.clone(),
            index,
            addresses: addresses(index)?,
        })
    };
    devices
        .iter()
        .map(|d| one(d).map_err(|e| (d.0.clone(), e)))
        .collect()
}

/// Moves a device to a network namespace, under its new name.
///
/// # Errors
/// `EEXIST` when the name is taken there; others of rtnetlink.
pub fn send_away(device: &NetDevice, namespace: &OwnedFd) -> Result<()> {
    let mut body = link(device.index, 0, 0);
    let fd = namespace.as_raw_fd() as u32;
    attribute(&mut body, IFLA_NET_NS_FD, &fd.to_ne_bytes());
    let mut name = device.name.clone().into_bytes();
    name.push(0);
    attribute(&mut body, IFLA_IFNAME, &name);
    ask(NEWLINK, ACK, &body)
}

/// Gives a device that has arrived its addresses back, and brings it up.
///
/// # Errors
/// Those of rtnetlink.
pub fn settle(device: &NetDevice) -> Result<()> {
    let index = netlink::if_index(&device.name)?;
    for a in &device.addresses {
        let mut body = vec![a.family, a.prefix, IFA_F_PERMANENT, 0];
        body.extend_from_slice(&index.to_ne_bytes());
        body.extend_from_slice(&a.attributes);
        match ask(NEWADDR, ACK | CREATE_NEW, &body) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    ask(NEWLINK, ACK, &link(index, IFF_UP, IFF_UP))
}

fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0u8; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&change.to_ne_bytes());
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + body.len());
    out.extend_from_slice(&((16 + body.len()) as u32).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(body);
    out
}

/// Sends a request and waits for its acknowledgement.
fn ask(kind: u16, flags: u16, body: &[u8]) -> Result<()> {
    let socket = netlink::open(netlink::ROUTE)?;
    netlink::send(socket.as_fd(), &message(kind, flags, body))?;
    let mut buf = Vec::new();
    let n = netlink::recv(socket.as_fd(), &mut buf, true)?;
    let answer = messages(buf.get(..n).unwrap_or_default()).next();
    match answer {
        Some((ERROR, body)) => match int(body, 0) {
            Some(0) => Ok(()),
            Some(e) => Err(Errno(-e)),
            None => Err(Errno::INVAL),
        },
        _ => Err(Errno::INVAL),
    }
}

/// The permanent addresses of a device that are good beyond its own link.
fn addresses(index: u32) -> Result<Vec<Address>> {
    let socket = netlink::open(netlink::ROUTE)?;
    netlink::send(socket.as_fd(), &message(GETADDR, DUMP, &[0; 8]))?;
    let mut found = Vec::new();
    let mut buf = Vec::new();
    loop {
        let n = netlink::recv(socket.as_fd(), &mut buf, true)?;
        for (kind, body) in messages(buf.get(..n).unwrap_or_default()) {
            match (kind, body) {
                (DONE, _) => return Ok(found),
                (ERROR, body) => return Err(Errno(-int(body, 0).unwrap_or(-22))),
                (NEWADDR, [family, prefix, flags, 0, rest @ ..])
                    if int(rest, 0) == Some(index as i32) && flags & IFA_F_PERMANENT != 0 =>
                {
                    found.push(Address {
                        family: *family,
                        prefix: *prefix,
                        attributes: kept(rest.get(4..).unwrap_or_default()),
                    });
                }
                _ => {}
            }
        }
    }
}

/// Address, local address and broadcast address; not the label, which names the device.
fn kept(attributes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = attributes;
    while let Some(length) = short(rest, 0).map(usize::from).filter(|l| *l >= 4) {
        let (Some(kind), Some(value)) = (short(rest, 2), rest.get(4..length)) else {
            break;
        };
        if matches!(kind, 1 | 2 | 4) {
            attribute(&mut out, kind, value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The messages of a datagram: kind and body.
fn messages(datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = usize::try_from(int(rest, 0)?).ok().filter(|l| *l >= 16)?;
        let (kind, body) = (short(rest, 4)?, rest.get(16..length)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}
