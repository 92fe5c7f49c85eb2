//! Anything may come from a client: nothing but an orderly end, or an error, may come of it.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::sync::mpsc;

use super::connection::receive;
use super::frames::{Head, SETTINGS, SYN_STREAM, WINDOW_UPDATE};
use super::headers::{Deflater, Inflater};
use crate::testing::Dice;

/// A control frame with any payload.
fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | payload.len() as u32);
    out.put_slice(payload);
    out.to_vec()
}

/// What a client might send: good frames, in an order that makes sense.
fn conversation(dice: &mut Dice) -> Vec<u8> {
    let mut deflater = Deflater::new().unwrap();
    let mut out = Vec::new();
    for n in 0..dice.below(6) {
        let id = 2 * n as u32 + 1;
        let mut payload = [id.to_be_bytes(), [0; 4]].concat();
        payload.extend([0, 0]);
        let kind = ["data", "error", "stdin"][dice.below(3)];
        payload.extend(
            deflater
                .block(&[("streamtype", kind), ("port", "80")])
                .unwrap(),
        );
        out.extend(control(SYN_STREAM, 0, &payload));
        for _ in 0..dice.below(4) {
            let bytes = dice.bytes(300);
            out.extend(super::frames::data(id, dice.below(5) == 0, &bytes));
        }
        let update = [id.to_be_bytes(), (dice.below(1 << 20) as u32).to_be_bytes()].concat();
        out.extend(control(WINDOW_UPDATE, 0, &update));
        out.extend(control(SETTINGS, 0, &dice.bytes(20)));
    }
    out
}

/// Serves one client that sends these bytes and leaves; gives how much came out of its streams.
async fn serve(bytes: Vec<u8>) -> usize {
    let (outgoing, mut answers) = mpsc::channel(16);
    let (incoming, mut streams) = mpsc::channel::<super::NewStream>(16);
    let drain = tokio::spawn(async move { while answers.recv().await.is_some() {} });
    let read = tokio::spawn(async move {
        let mut readers = Vec::new();
        while let Some(mut stream) = streams.recv().await {
            readers.push(tokio::spawn(async move {
                tokio::io::copy(&mut stream.reader, &mut tokio::io::sink())
                    .await
                    .unwrap()
            }));
        }
        let mut total = 0;
        for reader in readers {
            total += reader.await.unwrap() as usize;
        }
        total
    });
    // Both ends are fine; standing still or a panic is not.
    let done = receive(bytes.as_slice(), outgoing, incoming);
    let _ = tokio::time::timeout(Duration::from_secs(10), done)
        .await
        .expect("it stands still");
    let total = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("a stream stays open");
    drain.await.unwrap();
    total.unwrap()
}

#[tokio::test]
async fn a_connection_survives_any_bytes() {
    let mut dice = Dice::new(1);
    for _ in 0..600 {
        let mut bytes = conversation(&mut dice);
        let length = bytes.len();
        if dice.below(8) > 0 {
            dice.spoil(&mut bytes);
        }
        assert!(
            serve(bytes).await <= 2 * length + 4096,
            "more came out than went in"
        );
    }
    for _ in 0..300 {
        serve(dice.bytes(2000)).await;
    }
}

#[test]
fn heads_and_blocks_survive_any_bytes() {
    let mut dice = Dice::new(2);
    for _ in 0..20_000 {
        let mut head = [0; 8];
        head.copy_from_slice(&dice.exactly(8));
        match Head::parse(head) {
            Some(Head::Data { stream, length, .. }) => {
                assert!(stream < 1 << 31 && length < 1 << 24)
            }
            Some(Head::Control { length, .. }) => assert!(length < 1 << 24),
            None => assert_ne!(head[0] & 0x80, 0, "data frames have no version"),
        }
    }
    for _ in 0..3000 {
        let mut deflater = Deflater::new().unwrap();
        let value = String::from_utf8_lossy(&dice.bytes(200)).into_owned();
        let mut block = deflater.block(&[("port", &value), ("x", "y")]).unwrap();
        let sound = Inflater::new().block(&block).unwrap();
        assert_eq!(
            sound,
            [("port".to_owned(), value), ("x".to_owned(), "y".to_owned())]
        );
        dice.spoil(&mut block);
        // An error or other headers.
        let _ = Inflater::new().block(&block);
    }
}
