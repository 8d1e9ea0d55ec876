//! Texts that must have a form: times, base64. Each is checked in upstream's words and brought into canonical form.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;

/// Padding required, as Go's standard encoding.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true),
);

/// Checks base64 text; line ends are taken out.
pub(super) fn base64(text: &str) -> Result<String, String> {
    let clean = if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], "") } else { text.to_owned() };
    match BASE64.decode(clean.as_bytes()) {
        Ok(_) => Ok(clean),
        Err(_) => Err(format!("illegal base64 data at input byte {}", base64_fault(text))),
    }
}

/// Where Go's decoder stops: at the first character that cannot be there.
fn base64_fault(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut read = 0;
    let mut quantum_start = 0;
    let mut index = 0;
    while index < bytes.len() {
        let byte = bytes[index];
        index += 1;
        if byte == b'\n' || byte == b'\r' {
            continue;
        }
        let valid = byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
        if valid {
            if read % 4 == 0 {
                quantum_start = index - 1;
            }
            read += 1;
            continue;
        }
        if byte != b'=' || read % 4 < 2 {
            return index - 1;
        }
        // Padding: one or two, then nothing more.
        if read % 4 == 2 {
            if bytes.get(index) != Some(&b'=') {
                return index.min(bytes.len());
            }
            index += 1;
        }
        return index;
    }
    // The text ends inside a group of four.
    if read % 4 == 0 { bytes.len() } else { quantum_start }
}

/// A `metav1.Time`: RFC 3339, kept in UTC with whole seconds.
pub(super) fn time(text: &str) -> Result<String, String> {
    let parsed = parse(text, "2006-01-02T15:04:05Z07:00")?;
    Ok(format_seconds(parsed.as_second()))
}

/// A `metav1.MicroTime`: RFC 3339, kept in UTC with six digits of a second.
pub(super) fn micro_time(text: &str) -> Result<String, String> {
    const LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";
    let parsed = parse(text, LAYOUT)?;
    // Go wants as many digits as the layout has.
    let rest = text.get("2006-01-02T15:04:05".len()..).unwrap_or_default();
    let fraction = rest.strip_prefix(['.', ',']).unwrap_or_default();
    if fraction.bytes().take_while(u8::is_ascii_digit).count() < 6 {
        return Err(format!("parsing time {text:?} as {LAYOUT:?}: cannot parse {rest:?} as \".000000\""));
    }
    Ok(format_micros(parsed))
}

/// Whole seconds since 1970 as a `metav1.Time`.
pub(super) fn format_seconds(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as a `metav1.MicroTime`.
pub(super) fn format_micros(time: Timestamp) -> String {
    let micros = time.as_microsecond();
    let seconds = micros.div_euclid(1_000_000);
    let text = format_seconds(seconds);
    format!("{}.{:06}Z", text.trim_end_matches('Z'), micros.rem_euclid(1_000_000))
}

/// RFC 3339 as Go reads it; `layout` is only for the message.
fn parse(text: &str, layout: &str) -> Result<Timestamp, String> {
    let fault = |rest: &str, element: &str| {
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}")
    };
    let range = |what: &str| format!("parsing time {text:?}: {what} out of range");
    let mut rest = text;
    let mut numbers = [0u32; 6];
    let parts: [(usize, &str, &str); 6] =
        [(4, "2006", "-"), (2, "01", "-"), (2, "02", "T"), (2, "15", ":"), (2, "04", ":"), (2, "05", "")];
    for (number, (width, element, separator)) in numbers.iter_mut().zip(parts) {
        let digits = rest.get(..width).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        *number = digits.and_then(|d| d.parse().ok()).ok_or_else(|| fault(rest, element))?;
        rest = &rest[width..];
        rest = rest.strip_prefix(separator).ok_or_else(|| fault(rest, separator))?;
    }
    let mut nanos = 0u32;
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            let padded: String = fraction[..digits].chars().chain(std::iter::repeat('0')).take(9).collect();
            nanos = padded.parse().unwrap_or(0);
            rest = &fraction[digits..];
        }
    }
    let offset_minutes = match rest.as_bytes() {
        [b'Z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2]
            if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) =>
        {
            let two = |a: &u8, b: &u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
            let minutes = two(h1, h2) * 60 + two(m1, m2);
            if *sign == b'-' { -minutes } else { minutes }
        }
        [b'Z', ..] => {
            return Err(format!("parsing time {text:?}: extra text: {:?}", &rest[1..]));
        }
        _ => return Err(fault(rest, "Z07:00")),
    };
    let [year, month, day, hour, minute, second] = numbers;
    for (value, limit, what) in [(hour, 23, "hour"), (minute, 59, "minute"), (second, 59, "second")] {
        if value > limit {
            return Err(range(what));
        }
    }
    if !(1..=12).contains(&month) {
        return Err(range("month"));
    }
    let small = |n: u32| i8::try_from(n).unwrap_or(0);
    let date = jiff::civil::Date::new(i16::try_from(year).unwrap_or(0), small(month), small(day))
        .map_err(|_| range("day"))?;
    let local = date.at(small(hour), small(minute), small(second), i32::try_from(nanos).unwrap_or(0));
    let utc = jiff::tz::TimeZone::UTC.to_timestamp(local).map_err(|_| range("year"))?;
    utc.checked_sub(jiff::SignedDuration::from_secs(offset_minutes * 60)).map_err(|_| range("year"))
}
