//! Tables from upstream's documented examples, and properties.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Quantity {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn canonical_text() {
    for (text, canonical) in [
        ("0", "0"),
        ("0.0", "0"),
        ("-0", "0"),
        ("1", "1"),
        ("0.5", "500m"),
        (".5", "500m"),
        ("1.5", "1500m"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("1024", "1024"),
        ("1024Ki", "1Mi"),
        ("1023Ki", "1023Ki"),
        ("0.5Ki", "512"),
        ("1.1Ki", "1126400m"),
        ("1000m", "1"),
        ("100m", "100m"),
        ("1000k", "1M"),
        ("1e3", "1e3"),
        ("1E3", "1e3"),
        ("10e2", "1e3"),
        ("1e-3", "1e-3"),
        ("12e6", "12e6"),
        ("0.1n", "1n"),
        ("0.1m", "100u"),
        ("1000000000n", "1"),
        ("-1.5Gi", "-1536Mi"),
        ("+5", "5"),
        ("100", "100"),
        ("1000", "1k"),
        ("9Ei", "9223372036854775807"),
        ("1Ei", "1Ei"),
        ("1E", "1E"),
        ("1000E", "1000E"),
    ] {
        assert_eq!(parse(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn stored_text_keeps_the_spellings_upstream_keeps() {
    for (text, stored) in [
        ("0.5", "500m"),
        ("1.500", "1.500"),
        ("+5", "+5"),
        ("1.5Gi", "1536Mi"),
        ("1000m", "1"),
        ("1024Mi", "1Gi"),
        ("250m", "250m"),
        ("256Mi", "256Mi"),
        ("0", "0"),
        ("1000", "1k"),
        ("100", "100"),
        ("1E3", "1E3"),
    ] {
        assert_eq!(normalize(text).unwrap(), stored, "{text}");
    }
}

#[test]
fn refuses_what_upstream_refuses() {
    for (text, error) in [
        ("", QuantityError::Format),
        ("a", QuantityError::Suffix.max_of("a")),
        ("1.2.3", QuantityError::Format),
        ("1 Gi", QuantityError::Format),
        ("1Gib", QuantityError::Format),
        ("1gi", QuantityError::Format),
        ("1GG", QuantityError::Suffix),
        ("1mm", QuantityError::Suffix),
        ("1e", QuantityError::Suffix),
        ("1m5", QuantityError::Suffix),
        ("--1", QuantityError::Suffix),
        ("1%", QuantityError::Format),
    ] {
        assert_eq!(text.parse::<Quantity>(), Err(error), "{text}");
    }
}

impl QuantityError {
    /// `a` is no suffix letter at all, so the shape is wrong already.
    fn max_of(self, text: &str) -> QuantityError {
        if text.bytes().all(|b| b"eEinumkKMGTP".contains(&b)) { self } else { QuantityError::Format }
    }
}

#[test]
fn values_round_away_from_zero() {
    for (text, value, milli) in [
        ("250m", 1, 250),
        ("1", 1, 1000),
        ("1.1", 2, 1100),
        ("1u", 1, 1),
        ("-1.1", -2, -1100),
        ("64Mi", 67_108_864, 67_108_864_000),
        ("100E", i64::MAX, i64::MAX),
    ] {
        let quantity = parse(text);
        assert_eq!((quantity.value(), quantity.milli_value()), (value, milli), "{text}");
    }
}

#[test]
fn sums_take_the_format_of_the_first_nonzero() {
    assert_eq!((Quantity::ZERO + parse("1Gi") + parse("512Mi")).to_string(), "1536Mi");
    assert_eq!((parse("1") + parse("500m")).to_string(), "1500m");
    assert_eq!((parse("1Gi") - parse("1Gi")).to_string(), "0");
    assert_eq!([parse("100m"), parse("900m")].into_iter().sum::<Quantity>(), parse("1"));
    assert!(parse("1Gi") > parse("1G"));
}

#[test]
fn json_numbers_and_texts() {
    assert_eq!(Quantity::from_value(&serde_json::json!(2)).unwrap(), parse("2"));
    assert_eq!(Quantity::from_value(&serde_json::json!(0.5)).unwrap(), parse("500m"));
    assert_eq!(Quantity::from_value(&serde_json::json!("1Gi")).unwrap(), parse("1Gi"));
    assert!(Quantity::from_value(&serde_json::json!([])).is_err());
}

proptest! {
    #[test]
    fn text_round_trips(nanos in any::<i64>(), format in 0..3u8) {
        let format = [Format::DecimalExponent, Format::BinarySi, Format::DecimalSi][format as usize];
        let quantity = Quantity { nanos: i128::from(nanos), format };
        prop_assert_eq!(parse(&quantity.to_string()), quantity);
        let stored = normalize(&quantity.to_string()).unwrap().into_owned();
        prop_assert_eq!(parse(&stored), quantity);
    }

    #[test]
    fn whole_binary_round_trips(value in any::<i64>()) {
        let quantity = Quantity::from_int(value, Format::BinarySi);
        prop_assert_eq!(parse(&quantity.to_string()).value(), value);
    }

    #[test]
    fn never_panics(text in "[-+]?[0-9.]{0,45}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,11}") {
        if let Ok(quantity) = text.parse::<Quantity>() {
            let _ = (quantity.value(), quantity.milli_value(), quantity.to_string(), quantity + quantity);
        }
    }

    #[test]
    fn arithmetic_matches_integers(a in -1_000_000_000_000i64..1_000_000_000_000, b in -1_000_000_000_000i64..1_000_000_000_000) {
        let (x, y) = (Quantity::from_milli(a), Quantity::from_milli(b));
        prop_assert_eq!((x + y).milli_value(), a + b);
        prop_assert_eq!((x - y).milli_value(), a - b);
        prop_assert_eq!(x.cmp(&y), a.cmp(&b));
    }
}
