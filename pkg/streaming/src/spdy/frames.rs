//! Frames as bytes.

use bytes::{BufMut, Bytes, BytesMut};

pub(super) const VERSION: u16 = 3;
pub(super) const SYN_STREAM: u16 = 1;
pub(super) const SYN_REPLY: u16 = 2;
pub(super) const RST_STREAM: u16 = 3;
pub(super) const SETTINGS: u16 = 4;
pub(super) const PING: u16 = 6;
pub(super) const GOAWAY: u16 = 7;
pub(super) const HEADERS: u16 = 8;
pub(super) const WINDOW_UPDATE: u16 = 9;

/// Flag of data and of opening frames: nothing more from this side on this stream.
pub(super) const FIN: u8 = 1;
/// The window that a stream begins with.
pub(super) const INITIAL_WINDOW: i64 = 64 << 10;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub(super) const SETTING_WINDOW: u32 = 7;
/// `REFUSED_STREAM`.
pub(super) const REFUSED: u32 = 3;

/// A frame's first eight bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    Control { kind: u16, flags: u8, length: u32 },
    Data { stream: u32, flags: u8, length: u32 },
}

impl Head {
    /// None for another version.
    pub(super) fn parse(bytes: [u8; 8]) -> Option<Head> {
        let [a, b, c, d, flags, l1, l2, l3] = bytes;
        let length = u32::from_be_bytes([0, l1, l2, l3]);
        if a & 0x80 == 0 {
            return Some(Head::Data {
                stream: u32::from_be_bytes([a, b, c, d]),
                flags,
                length,
            });
        }
        let version = u16::from_be_bytes([a & 0x7F, b]);
        let kind = u16::from_be_bytes([c, d]);
        (version == VERSION).then_some(Head::Control {
            kind,
            flags,
            length,
        })
    }
}

fn control(kind: u16, payload: &[&[u8]]) -> Bytes {
    let length: usize = payload.iter().map(|p| p.len()).sum();
    let mut frame = BytesMut::with_capacity(8 + length);
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(length as u32);
    for part in payload {
        frame.put_slice(part);
    }
    frame.freeze()
}

pub(super) fn data(stream: u32, fin: bool, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_u32(stream & 0x7FFF_FFFF);
    frame.put_u32((if fin { u32::from(FIN) << 24 } else { 0 }) | bytes.len() as u32);
    frame.put_slice(bytes);
    frame.freeze()
}

pub(super) fn syn_reply(stream: u32, headers: &[u8]) -> Bytes {
    control(SYN_REPLY, &[&stream.to_be_bytes(), headers])
}

pub(super) fn rst(stream: u32, status: u32) -> Bytes {
    control(RST_STREAM, &[&stream.to_be_bytes(), &status.to_be_bytes()])
}

pub(super) fn ping(id: u32) -> Bytes {
    control(PING, &[&id.to_be_bytes()])
}

pub(super) fn goaway(last: u32) -> Bytes {
    control(GOAWAY, &[&last.to_be_bytes(), &[0; 4]])
}

pub(super) fn window_update(stream: u32, by: u32) -> Bytes {
    control(WINDOW_UPDATE, &[&stream.to_be_bytes(), &by.to_be_bytes()])
}
