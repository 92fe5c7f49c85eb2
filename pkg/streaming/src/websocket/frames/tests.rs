use super::*;

/// A frame as a client sends it.
fn client(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![if fin { 0x80 } else { 0 } | opcode];
    match payload.len() {
        n @ 0..=125 => frame.push(0x80 | n as u8),
        n @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(0x80 | 127);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
    frame
}

async fn messages(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let mut reader = FrameReader::new(bytes);
    let mut all = Vec::new();
    let mut current = Vec::new();
    loop {
        match reader.next().await? {
            Event::Close => return Ok(all),
            Event::Ping(payload) => all.push([b"ping ".as_slice(), &payload].concat()),
            Event::Piece { first, last, bytes } => {
                assert_eq!(first, current.is_empty() && !bytes.is_empty() || first);
                current.extend_from_slice(&bytes);
                if last {
                    all.push(std::mem::take(&mut current));
                }
            }
        }
    }
}

#[tokio::test]
async fn messages_come_out_whole() {
    let long = vec![7; 100_000];
    let mut bytes = client(true, BINARY, b"short");
    bytes.extend(client(true, BINARY, &long));
    bytes.extend(client(false, BINARY, b"in "));
    bytes.extend(client(true, PING, b"x"));
    bytes.extend(client(false, CONTINUATION, b""));
    bytes.extend(client(true, CONTINUATION, b"parts"));
    bytes.extend(client(true, CLOSE, &1000_u16.to_be_bytes()));
    let got = messages(&bytes).await.unwrap();
    assert_eq!(
        got,
        [
            b"short".to_vec(),
            long,
            b"ping x".to_vec(),
            b"in parts".to_vec()
        ]
    );
}

#[tokio::test]
async fn bad_frames_are_refused() {
    let mut unmasked = client(true, BINARY, b"x");
    unmasked[1] &= 0x7F;
    let bad = [
        unmasked,
        client(true, CONTINUATION, b"x"),
        client(true, 0x43, b"x"),
        client(false, PING, b"x"),
        client(true, PING, &[0; 126]),
        client(true, BINARY, b"cut off")[..8].to_vec(),
        [client(false, BINARY, b"x"), client(true, BINARY, b"y")].concat(),
    ];
    for bytes in bad {
        assert!(messages(&bytes).await.is_err(), "{bytes:?}");
    }
}

#[tokio::test]
async fn any_bytes_end() {
    // Whatever comes, the reader comes to an end and does not panic.
    let mut state = 1_u64;
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..200)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8 | 0x80
            })
            .collect();
        let mut reader = FrameReader::new(bytes.as_slice());
        while !matches!(reader.next().await, Ok(Event::Close) | Err(_)) {}
    }
}

#[tokio::test]
async fn any_bytes_are_an_error_or_messages() {
    let mut dice = crate::testing::Dice::new(3);
    for _ in 0..1500 {
        // What a client sends, in frames of any size with others in between.
        let (mut bytes, mut sent) = (Vec::new(), Vec::new());
        for _ in 0..dice.below(5) {
            let message = dice.bytes(400);
            let cut = dice.below(message.len() + 1);
            let whole = dice.below(2) == 0;
            if whole {
                bytes.extend(client(true, BINARY, &message));
            } else {
                bytes.extend(client(false, BINARY, &message[..cut]));
                if dice.below(2) == 0 {
                    bytes.extend(client(true, PONG, b"unasked"));
                }
                bytes.extend(client(true, CONTINUATION, &message[cut..]));
            }
            sent.push(message);
        }
        assert_eq!(messages(&bytes).await.unwrap(), sent);
        dice.spoil(&mut bytes);
        if let Ok(got) = messages(&bytes).await {
            assert!(got.iter().map(Vec::len).sum::<usize>() <= bytes.len() + 5 * got.len());
        }
    }
    for _ in 0..2000 {
        let _ = messages(&dice.bytes(600)).await; // an error is fine, a panic is not
    }
}
