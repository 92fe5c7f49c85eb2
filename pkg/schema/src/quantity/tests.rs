use super::*;

fn canonical(text: &str) -> String {
    Quantity::parse(text).unwrap().to_string()
}

#[test]
fn canonical_form() {
    for (text, want) in [
        ("100m", "100m"), ("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1e3", "1e3"), ("1000", "1k"),
        ("0", "0"), ("1.5Gi", "1536Mi"), ("100Ki", "100Ki"), ("1025", "1025"), ("0.1n", "1n"), ("1E", "1E"),
        ("-1.5", "-1500m"), ("1.0", "1"), ("2e-3", "2e-3"), ("12Ei", "9223372036854775807"), ("0.5Ki", "512"),
        ("0.001Ki", "1024m"), (".5", "500m"), ("5.", "5"),
    ] {
        assert_eq!(canonical(text), want, "{text}");
    }
}

#[test]
fn bad_text() {
    assert_eq!(Quantity::parse("").unwrap_err(), Error::Format);
    assert_eq!(Quantity::parse("1x").unwrap_err(), Error::Format);
    assert_eq!(Quantity::parse("1Kx").unwrap_err(), Error::Format);
    assert_eq!(Quantity::parse("1mm").unwrap_err(), Error::Suffix);
    assert_eq!(Quantity::parse("m").unwrap_err(), Error::Number);
}

#[test]
fn rounding_and_order() {
    assert_eq!(Quantity::parse("100m").unwrap().value(), 1);
    assert_eq!(Quantity::parse("-100m").unwrap().value(), -1);
    assert_eq!(Quantity::parse("1.5").unwrap().milli_value(), 1500);
    assert!(Quantity::parse("1Ki").unwrap() > Quantity::parse("1k").unwrap());
}
