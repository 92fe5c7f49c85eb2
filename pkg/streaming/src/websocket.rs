//! WebSocket (RFC 6455), the server's side: handshake and framing.

pub(crate) mod channels;
mod frames;
pub(crate) mod raw;

pub(crate) use frames::{BINARY, CLOSE, Event, FrameReader, PONG, TEXT, encode};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, header};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether the request asks for a WebSocket.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|v| v.to_str().ok());
    upgrade.is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

/// The answer to a handshake's key. None when the handshake is not valid.
pub(crate) fn accept_key(headers: &HeaderMap) -> Option<String> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION)?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?.as_bytes();
    if version.as_bytes() != b"13" || STANDARD.decode(key).ok()?.len() != 16 {
        return None;
    }
    let mut digest = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    digest.update(key);
    digest.update(GUID);
    Some(STANDARD.encode(digest.finish()))
}

/// The subprotocols a client offers, in its order.
pub(crate) fn offered(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    values
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_owned())
        .filter(|v| !v.is_empty())
        .collect()
}
