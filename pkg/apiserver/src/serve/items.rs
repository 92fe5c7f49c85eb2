//! A list of objects that is written while it is sent: no second copy of all of it is ever held.

use std::{
    io::Write,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use knarr_registry::Entry;

use crate::respond::BodyError;

/// A piece holds at least so many bytes, but for the last.
const PIECE: usize = 64 << 10;
const END: &[u8] = b"]}\n";

/// The JSON of a list, in pieces.
pub(crate) struct Items {
    /// Everything before the first item.
    head: String,
    items: std::vec::IntoIter<Arc<Entry>>,
    /// Whether each item says its `kind` and `apiVersion`.
    whole: bool,
    /// Bytes still to come.
    left: u64,
    first: bool,
    room: BytesMut,
}

impl Items {
    /// `head` ends with `[`; with `whole` items say their `kind` and `apiVersion`.
    pub(crate) fn new(head: String, items: Vec<Arc<Entry>>, whole: bool) -> Self {
        let length = |e: &Arc<Entry>| if whole { e.json().len() } else { 1 + e.tail().len() };
        let commas = items.len().saturating_sub(1);
        let size = head.len() + items.iter().map(length).sum::<usize>() + commas + END.len();
        Self { head, items: items.into_iter(), whole, left: size as u64, first: true, room: BytesMut::new() }
    }

    /// The whole list's bytes, before anything is taken.
    pub(crate) fn size(&self) -> u64 {
        self.left
    }

    fn piece(&mut self) -> Option<Bytes> {
        if self.left == 0 {
            return None;
        }
        let room = &mut self.room;
        // Given back by who has sent the last one.
        room.reserve(PIECE + (PIECE >> 2));
        room.extend_from_slice(std::mem::take(&mut self.head).as_bytes());
        while room.len() < PIECE {
            let Some(entry) = self.items.next() else {
                room.extend_from_slice(END);
                break;
            };
            if !std::mem::replace(&mut self.first, false) {
                room.extend_from_slice(b",");
            }
            if self.whole {
                room.extend_from_slice(entry.json());
            } else {
                room.extend_from_slice(b"{");
                room.extend_from_slice(entry.tail());
            }
        }
        let piece = room.split().freeze();
        self.left = self.left.saturating_sub(piece.len() as u64);
        Some(piece)
    }

    /// The list compressed.
    ///
    /// # Errors
    /// Never, as it goes to memory.
    pub(crate) fn gzip(mut self) -> std::io::Result<Vec<u8>> {
        let room = Vec::with_capacity(usize::try_from(self.left / 8).unwrap_or(0));
        let mut out = flate2::write::GzEncoder::new(room, flate2::Compression::fast());
        while let Some(piece) = self.piece() {
            out.write_all(&piece)?;
        }
        out.finish()
    }
}

impl http_body::Body for Items {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.piece().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
