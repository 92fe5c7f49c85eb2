//! Connection tracking: forgetting the flows of a backend that is gone. TCP ends by itself; a
//! UDP client that keeps its port would be sent to the old place for as long as it speaks.

use crate::Error;
use crate::netlink::{Buf, Socket, attr};
use crate::types::Protocol;
use std::net::IpAddr;

const CT_GET: u16 = 0x101;
const CT_DELETE: u16 = 0x102;
const ACK: u16 = 4;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// Sender's port.
    pub src_port: u16,
    /// Receiver's port.
    pub dst_port: u16,
    /// The IP protocol number.
    pub protocol: u8,
}

/// A tracked connection: as it was sent, and as its answers arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The first packet's direction, before any rewriting.
    pub original: Tuple,
    /// What answers look like before they are rewritten back: `reply.src` is the true backend.
    pub reply: Tuple,
}

fn ip_of(v: Option<&[u8]>) -> Option<IpAddr> {
    let v = v?;
    if let Ok(b) = <[u8; 4]>::try_from(v) {
        return Some(b.into());
    }
    <[u8; 16]>::try_from(v).ok().map(IpAddr::from)
}

fn tuple(b: &[u8]) -> Option<Tuple> {
    let ip = attr(b, 1)?;
    let proto = attr(b, 2)?;
    let port = |k| {
        attr(proto, k).and_then(|v| <[u8; 2]>::try_from(v).ok()).map_or(0, u16::from_be_bytes)
    };
    Some(Tuple {
        src: ip_of(attr(ip, 1).or_else(|| attr(ip, 3)))?,
        dst: ip_of(attr(ip, 2).or_else(|| attr(ip, 4)))?,
        src_port: port(2),
        dst_port: port(3),
        protocol: *attr(proto, 1)?.first()?,
    })
}

/// Forgets the flows of a protocol that `stale` picks, and gives their number.
///
/// # Errors
/// The kernel's. A flow that ended meanwhile is fine.
pub fn forget(
    socket: &mut Socket,
    protocol: Protocol,
    mut stale: impl FnMut(&Flow) -> bool,
) -> Result<usize, Error> {
    let mut found: Vec<(Vec<u8>, Option<Vec<u8>>, u8)> = Vec::new();
    socket.dump(CT_GET, &[0, 0, 0, 0], |_| {}, "list connections", |_, body| {
        let (Some(head), Some(a)) = (body.first(), body.get(4..)) else { return };
        let Some(orig) = attr(a, 1) else { return };
        let Some(original) = tuple(orig) else { return };
        if original.protocol != protocol.number() {
            return;
        }
        let Some(reply) = attr(a, 2).and_then(tuple) else { return };
        if stale(&Flow { original, reply }) {
            found.push((orig.to_vec(), attr(a, 18).map(<[u8]>::to_vec), *head));
        }
    })?;
    let count = found.len();
    for (orig, zone, family) in found {
        let mut b = Buf::new();
        b.message(CT_DELETE, ACK, &[family, 0, 0, 0], |b| {
            b.attr(1 | 0x8000, &orig);
            if let Some(z) = &zone {
                b.attr(18, z);
            }
        });
        match socket.request(&b, "forget connection") {
            Err(e) if e.errno() != Some(2) => return Err(e),
            _ => {}
        }
    }
    Ok(count)
}
