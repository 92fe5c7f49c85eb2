use super::*;

/// The bytes of a call, put together by hand after the specification.
#[test]
fn a_call_is_encoded_as_the_specification_says() {
    let mut body = Writer::default();
    body.text("ab");
    let bytes = encode(7, "i.f", "M", "s", &body.bytes);
    let mut want = vec![b'l', 1, 0, 1];
    want.extend_from_slice(&7u32.to_le_bytes()); // length of the body: 4 + "ab" + NUL
    want.extend_from_slice(&7u32.to_le_bytes()); // serial
    let mut fields = Vec::new();
    let mut field = |code: u8, kind: u8, value: &str| {
        fields.resize(fields.len().next_multiple_of(8), 0u8);
        fields.extend_from_slice(&[code, 1, kind, 0]);
        fields.extend_from_slice(&(value.len() as u32).to_le_bytes());
        fields.extend_from_slice(value.as_bytes());
        fields.push(0);
    };
    field(1, b'o', "/org/freedesktop/systemd1");
    field(2, b's', "i.f");
    field(3, b's', "M");
    field(6, b's', "org.freedesktop.systemd1");
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend_from_slice(&[8, 1, b'g', 0, 1, b's', 0]);
    want.extend_from_slice(&(fields.len() as u32).to_le_bytes());
    want.extend_from_slice(&fields);
    want.resize(want.len().next_multiple_of(8), 0);
    want.extend_from_slice(&[2, 0, 0, 0, b'a', b'b', 0]);
    assert_eq!(bytes, want);
}

#[test]
fn properties_are_aligned() {
    let mut w = Writer::default();
    w.properties(&[("A", Value::Bool(true)), ("B", Value::Number(9))]);
    let mut want = vec![0u8; 8];
    // "A": length, letter, NUL; signature b; padded to 4; true.
    want.extend_from_slice(&[1, 0, 0, 0, b'A', 0, 1, b'b', 0, 0, 0, 0, 1, 0, 0, 0]);
    // "B": length, letter, NUL; signature t; padded to 8; nine.
    want.extend_from_slice(&[1, 0, 0, 0, b'B', 0, 1, b't', 0, 0, 0, 0, 0, 0, 0, 0]);
    want.extend_from_slice(&9u64.to_le_bytes());
    want[0] = (want.len() - 8) as u8;
    assert_eq!(w.bytes, want);
}

#[test]
fn broken_messages_are_told() {
    assert!(decode(2, &[0; 20], 4, 4).is_err());
    assert!(Reader::new(&[255, 255, 255, 255]).text().is_err());
    assert!(Reader::new(&[]).number().is_err());
}
