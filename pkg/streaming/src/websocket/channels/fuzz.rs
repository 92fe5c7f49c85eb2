//! Whatever a client sends on its channels: every byte goes where it was sent, and nothing stands
//! still.

use std::time::Duration;

use super::*;
use crate::testing::Dice;

/// A frame as a client sends it, masked with zeros.
fn frame(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![opcode | u8::from(last) << 7];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

/// Serves one client that sends these bytes and leaves; gives what its channels 0 to 4 got.
async fn serve(dialect: Dialect, bytes: &[u8]) -> (Vec<Vec<u8>>, Result<(), Error>) {
    let (outgoing, mut answers) = mpsc::channel(4);
    let mut channels = BTreeMap::new();
    let mut readers = Vec::new();
    for number in 0..5 {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(2);
        channels.insert(number, sender);
        readers.push(tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(bytes) = receiver.recv().await {
                all.extend_from_slice(&bytes);
            }
            all
        }));
    }
    let drain = tokio::spawn(async move { while answers.recv().await.is_some() {} });
    let done = receive(FrameReader::new(bytes), dialect, channels, outgoing);
    let done = tokio::time::timeout(Duration::from_secs(10), done)
        .await
        .expect("it stands still");
    let mut got = Vec::new();
    for reader in readers {
        let read = tokio::time::timeout(Duration::from_secs(10), reader).await;
        got.push(read.expect("a channel stays open").unwrap());
    }
    drain.await.unwrap();
    (got, done)
}

#[tokio::test]
async fn channels_survive_any_bytes() {
    let mut dice = Dice::new(5);
    for round in 0..900 {
        let dialect = Dialect {
            base64: round % 3 == 0,
            closes: round % 3 == 1,
        };
        let mut sent: Vec<Vec<u8>> = vec![Vec::new(); 5];
        let mut open = [true; 5];
        let mut bytes = Vec::new();
        for _ in 0..dice.below(8) {
            let number = dice.below(7) as u8;
            let body = dice.bytes(300);
            let message = if dialect.base64 {
                [vec![b'0' + number], STANDARD.encode(&body).into_bytes()].concat()
            } else {
                [vec![number], body.clone()].concat()
            };
            let cut = dice.below(message.len() + 1);
            let opcode = if dialect.base64 { TEXT } else { BINARY };
            bytes.extend(frame(opcode, false, &message[..cut]));
            bytes.extend(frame(0, true, &message[cut..]));
            // Nobody reads other channels; what comes for them is dropped.
            if let Some(channel) = sent.get_mut(usize::from(number))
                && open[usize::from(number)]
            {
                channel.extend(&body);
            }
            if dialect.closes && dice.below(6) == 0 {
                let closed = dice.below(5);
                bytes.extend(frame(BINARY, true, &[CLOSE_CHANNEL, closed as u8]));
                open[closed] = false;
            }
        }
        let mut good = bytes.clone();
        good.extend(frame(CLOSE, true, &NORMAL));
        let (got, done) = serve(dialect, &good).await;
        done.unwrap();
        assert_eq!(got, sent);
        dice.spoil(&mut bytes);
        let (got, _) = serve(dialect, &bytes).await; // an error is fine
        assert!(got.iter().map(Vec::len).sum::<usize>() <= bytes.len());
    }
    for _ in 0..300 {
        let dialect = Dialect {
            base64: false,
            closes: true,
        };
        let _ = serve(dialect, &dice.bytes(1000)).await;
    }
}
