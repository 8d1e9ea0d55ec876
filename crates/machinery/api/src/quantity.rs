//! Resource quantities such as `250m`, `1.5Gi` and `2e3`, exact, with upstream's grammar, rounding and canonical text.
//!
//! A quantity is a whole number of nanos (10^-9), which is upstream's finest step; finer values round away from zero.
//! Sums saturate at about 1.7e29, far above anything a cluster holds, instead of overflowing.
//! Source: `apimachinery/pkg/api/resource` (quantity.go, suffix.go) and the API conventions on quantities.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use serde_json::Value;

const NANOS: i128 = 1_000_000_000;

/// How a quantity is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`, and whatever has no suffix
    #[default]
    DecimalSi,
}

/// Why a text is not a quantity, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not have the shape of a quantity.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The digits are not a number.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An exact amount. Equality, order and hash are those of the amount; the format only affects the text.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// `value` whole units.
    pub const fn from_int(value: i64, format: Format) -> Self {
        Quantity { nanos: value as i128 * NANOS, format }
    }

    /// `value` thousandths, written with decimal suffixes.
    pub const fn from_milli(value: i64) -> Self {
        Quantity { nanos: value as i128 * 1_000_000, format: Format::DecimalSi }
    }

    /// The amount of a JSON value: a text or a number. Anything else is not a quantity.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(QuantityError::Format),
        }
    }

    /// The whole units, rounded away from zero; saturates.
    pub fn value(&self) -> i64 {
        self.scaled(NANOS)
    }

    /// The thousandths, rounded away from zero; saturates.
    pub fn milli_value(&self) -> i64 {
        self.scaled(1_000_000)
    }

    /// The exact amount in nanos.
    pub const fn nanos(&self) -> i128 {
        self.nanos
    }

    /// How it was written.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether it is nothing.
    pub const fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub const fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// -1, 0 or 1.
    pub const fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The amount as a float, which may lose digits.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    fn scaled(&self, unit: i128) -> i64 {
        let whole = div_away(self.nanos, unit);
        whole.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }
}

/// The text under which upstream stores a quantity written as `text`: canonical, except for the few
/// non-canonical spellings that upstream's fast path keeps (`1.500`, `+5`).
pub fn normalize(text: &str) -> Result<Cow<'_, str>, QuantityError> {
    let text = text.trim();
    let parts = Parts::scan(text)?;
    let suffix = Suffix::interpret(parts.suffix)?;
    if parts.keeps_spelling(&suffix) {
        return Ok(Cow::Borrowed(text));
    }
    let quantity = parts.amount(&suffix)?;
    Ok(Cow::Owned(quantity.to_string()))
}

/// What a scan of the text finds; digits only in `whole` and `fraction`, leading zeros of `whole` gone.
struct Parts<'a> {
    text: &'a str,
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn scan(text: &'a str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let negative = text.starts_with('-');
        let unsigned = if negative || text.starts_with('+') { &text[1..] } else { text };
        let rest = unsigned.trim_start_matches('0');
        let (whole, rest) = split_digits(rest);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", rest),
        };
        let tail = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
        if !tail.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        Ok(Parts { text, negative, whole, fraction, suffix })
    }

    /// Upstream keeps the client's spelling where its cheap test finds it canonical.
    fn keeps_spelling(&self, suffix: &Suffix) -> bool {
        if self.text == "0" {
            return true;
        }
        match *suffix {
            Suffix::Binary(exponent) => {
                let precision =
                    15 - self.whole.len().max(1) as i32 - (exponent as f32 * 3.0 / 10.0) as i32 - 1;
                self.fraction.is_empty()
                    && precision >= 0
                    && self.whole.parse::<i64>().is_ok_and(|v| v & 7 != 0)
            }
            Suffix::Decimal(exponent) | Suffix::Exponent(exponent) => {
                let scale = i64::from(exponent) - self.fraction.len() as i64;
                let last = if self.fraction.is_empty() { self.whole } else { self.fraction };
                self.whole.len().max(1) + self.fraction.len() <= 18
                    && scale >= -9
                    && scale % 3 == 0
                    && !self.whole.is_empty()
                    && !(last.ends_with("000")
                        || self.whole.len() + self.fraction.len() >= 3
                            && trailing_zeros(self.whole, self.fraction) >= 3)
            }
        }
    }

    fn amount(&self, suffix: &Suffix) -> Result<Quantity, QuantityError> {
        let (nanos, format) = match *suffix {
            Suffix::Binary(exponent) => (self.binary(exponent), Format::BinarySi),
            Suffix::Decimal(exponent) => (self.decimal(exponent), Format::DecimalSi),
            Suffix::Exponent(exponent) => (self.decimal(exponent), Format::DecimalExponent),
        };
        let format =
            if format == Format::BinarySi && nanos > 0 && nanos < NANOS { Format::DecimalSi } else { format };
        let nanos = if self.negative { -nanos } else { nanos };
        Ok(Quantity { nanos, format })
    }

    /// Units are `2^exponent`; at most 2^63-1, as upstream caps binary quantities.
    fn binary(&self, exponent: u32) -> i128 {
        let cap = i128::from(i64::MAX) * NANOS;
        let whole: i128 = if self.whole.is_empty() { 0 } else { self.whole.parse().unwrap_or(i128::MAX) };
        let whole = whole.checked_mul(1 << exponent).and_then(|v| v.checked_mul(NANOS)).unwrap_or(i128::MAX);
        // 18 digits keep the products below within i128: 10^18 * 2^60 < 2^127. What is cut off still rounds up.
        let cut = self.fraction.len().min(18);
        let digits: i128 = self.fraction[..cut].parse().unwrap_or(0);
        let lost = self.fraction[cut..].bytes().any(|b| b != b'0');
        let unit = 10_i128.pow(cut as u32);
        let scaled = digits << exponent;
        let below = (scaled % unit) * NANOS;
        let mut nanos = (scaled / unit) * NANOS + below / unit;
        if below % unit != 0 || lost {
            nanos += 1;
        }
        whole.saturating_add(nanos).min(cap)
    }

    fn decimal(&self, exponent: i32) -> i128 {
        // Digits beyond i128 only matter for amounts that saturate, or as a remainder that rounds up.
        let digits = self.whole.bytes().chain(self.fraction.bytes());
        let mut power = i64::from(exponent) - self.fraction.len() as i64 + 9;
        let mut value: i128 = 0;
        let mut lost = false;
        let mut full = false;
        for digit in digits {
            let digit = i128::from(digit - b'0');
            match value.checked_mul(10).and_then(|v| v.checked_add(digit)) {
                Some(next) if !full => value = next,
                _ => {
                    full = true;
                    lost |= digit != 0;
                    power += 1;
                }
            }
        }
        if value == 0 {
            return 0;
        }
        if power >= 0 {
            return u32::try_from(power)
                .ok()
                .and_then(|p| 10_i128.checked_pow(p))
                .and_then(|unit| value.checked_mul(unit))
                .unwrap_or(i128::MAX);
        }
        match u32::try_from(-power).ok().and_then(|p| 10_i128.checked_pow(p)) {
            Some(unit) => value / unit + i128::from(value % unit != 0 || lost),
            None => 1,
        }
    }
}

/// Splits leading ASCII digits off.
fn split_digits(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// Trailing zeros of the digits `whole` followed by `fraction`.
fn trailing_zeros(whole: &str, fraction: &str) -> usize {
    whole.bytes().chain(fraction.bytes()).rev().take_while(|b| *b == b'0').count()
}

enum Suffix {
    /// A power of two.
    Binary(u32),
    /// A power of ten by letter.
    Decimal(i32),
    /// A power of ten by number.
    Exponent(i32),
}

impl Suffix {
    fn interpret(suffix: &str) -> Result<Self, QuantityError> {
        Ok(match suffix {
            "" => Suffix::Decimal(0),
            "n" => Suffix::Decimal(-9),
            "u" => Suffix::Decimal(-6),
            "m" => Suffix::Decimal(-3),
            "k" => Suffix::Decimal(3),
            "M" => Suffix::Decimal(6),
            "G" => Suffix::Decimal(9),
            "T" => Suffix::Decimal(12),
            "P" => Suffix::Decimal(15),
            "E" => Suffix::Decimal(18),
            "Ki" => Suffix::Binary(10),
            "Mi" => Suffix::Binary(20),
            "Gi" => Suffix::Binary(30),
            "Ti" => Suffix::Binary(40),
            "Pi" => Suffix::Binary(50),
            "Ei" => Suffix::Binary(60),
            _ => {
                let number = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
                let exponent: i64 = number.parse().map_err(|_| QuantityError::Suffix)?;
                Suffix::Exponent(exponent.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32)
            }
        })
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let parts = Parts::scan(text)?;
        let suffix = Suffix::interpret(parts.suffix)?;
        parts.amount(&suffix)
    }
}

impl TryFrom<&WireQuantity> for Quantity {
    type Error = QuantityError;

    fn try_from(wire: &WireQuantity) -> Result<Self, QuantityError> {
        wire.0.trim().parse()
    }
}

impl From<Quantity> for WireQuantity {
    fn from(quantity: Quantity) -> Self {
        WireQuantity(quantity.to_string())
    }
}

impl From<Quantity> for Value {
    fn from(quantity: Quantity) -> Self {
        Value::String(quantity.to_string())
    }
}

/// The canonical text: no fraction, the largest exponent that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        // Small and fractional amounts have no binary spelling.
        let binary = self.format == Format::BinarySi
            && self.nanos % NANOS == 0
            && self.nanos.unsigned_abs() >= 1024 * NANOS.unsigned_abs();
        if binary {
            let mut value = self.nanos / NANOS;
            let mut step = 0;
            while step < 6 && value % 1024 == 0 {
                value /= 1024;
                step += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]);
        }
        let (mut value, mut exponent) = (self.nanos, -9);
        let limit = if self.format == Format::DecimalExponent { i32::MAX } else { 18 };
        while exponent < limit && value % 1000 == 0 {
            value /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{value}"),
            (Format::DecimalExponent, _) => write!(f, "{value}e{exponent}"),
            _ => {
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][(exponent / 3 + 3) as usize];
                write!(f, "{value}{suffix}")
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Hash for Quantity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.nanos.hash(state);
    }
}

/// A zero takes the format of what is added to it, as upstream does.
impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Quantity {
        Quantity { nanos: self.nanos.saturating_neg(), format: self.format }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Quantity) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Quantity) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Quantity>>(iter: I) -> Quantity {
        iter.fold(Quantity::ZERO, Add::add)
    }
}

/// Division that rounds away from zero.
fn div_away(value: i128, unit: i128) -> i128 {
    let whole = value / unit;
    if value % unit == 0 { whole } else { whole + value.signum() }
}

#[cfg(test)]
mod tests;
