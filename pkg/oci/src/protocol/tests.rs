use super::Message;

#[test]
fn every_message_survives_the_wire() {
    let all = [
        Message::Proceed,
        Message::Hooks,
        Message::Console,
        Message::SeccompListener,
        Message::Ready,
        Message::Usher(4711),
        Message::Start,
        Message::Failed {
            step: "mount /proc".into(),
            cause: "operation not permitted".into(),
            errno: 1,
        },
    ];
    for message in all {
        assert_eq!(Message::decode(&message.encode()), Some(message));
    }
}

#[test]
fn rubbish_is_refused() {
    for packet in [
        &[][..],
        &[99],
        &[6, 1],
        &[8, 0, 0, 0, 0, 255, 255, 255, 255],
        &[8, 0, 0, 0, 0, 9, 0, 0, 0, 1],
    ] {
        assert_eq!(Message::decode(packet), None);
    }
}
