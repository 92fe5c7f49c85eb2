//! Quantities: exact decimal numbers with Kubernetes' suffixes.

use std::{cmp::Ordering, fmt};

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `m`, `k`, `M`, …
    DecimalSi,
    /// `e3`, …
    DecimalExponent,
}

/// An exact number: `value` × 10^-9, with the form it was written in.
///
/// Whole numbers beyond ±2^63 are capped there, fractions below 1 n are rounded up, as upstream
/// does.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity; the words are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text does not have the form.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number part cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// There is no such suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// A whole number.
    pub fn from_int(value: i64) -> Self {
        Self { nanos: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// Thousandths.
    pub fn from_milli(value: i64) -> Self {
        Self { nanos: i128::from(value) * 1_000_000, format: Format::DecimalSi }
    }

    /// Reads a quantity.
    ///
    /// # Errors
    /// [`Error`] when the text is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let split = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, mut suffix) = rest.split_at(split);
        let mut fraction = "";
        if let Some(after) = suffix.strip_prefix('.') {
            let split = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            (fraction, suffix) = after.split_at(split);
        }
        if !suffix.bytes().all(|b| b.is_ascii_digit() || b"eEinumkKMGTP+-".contains(&b)) {
            return Err(Error::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(Error::Number);
        }
        let (base2, exponent, format) = scale(suffix)?;
        let mut nanos = exact(whole, fraction, base2, exponent);
        nanos = nanos.min(MAX);
        let format = if format == Format::BinarySi && nanos < 1024 * NANO && nanos % NANO != 0 { Format::DecimalSi } else { format };
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// The value, rounded up to a whole number.
    pub fn value(&self) -> i64 {
        ceil(self.nanos, NANO)
    }

    /// The value in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        ceil(self.nanos, 1_000_000)
    }

    /// The value as a float.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// How it is written.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Whether it is a whole number.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
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

fn ceil(value: i128, unit: i128) -> i64 {
    let whole = value.div_euclid(unit) + i128::from(value.rem_euclid(unit) != 0);
    // Away from zero, as upstream rounds.
    let whole = if value < 0 && value.rem_euclid(unit) != 0 { value.div_euclid(unit) } else { whole };
    i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
}

fn scale(suffix: &str) -> Result<(bool, i32, Format), Error> {
    let known = match suffix {
        "" => (false, 0, Format::DecimalSi),
        "n" => (false, -9, Format::DecimalSi),
        "u" => (false, -6, Format::DecimalSi),
        "m" => (false, -3, Format::DecimalSi),
        "k" => (false, 3, Format::DecimalSi),
        "M" => (false, 6, Format::DecimalSi),
        "G" => (false, 9, Format::DecimalSi),
        "T" => (false, 12, Format::DecimalSi),
        "P" => (false, 15, Format::DecimalSi),
        "E" => (false, 18, Format::DecimalSi),
        "Ki" => (true, 10, Format::BinarySi),
        "Mi" => (true, 20, Format::BinarySi),
        "Gi" => (true, 30, Format::BinarySi),
        "Ti" => (true, 40, Format::BinarySi),
        "Pi" => (true, 50, Format::BinarySi),
        "Ei" => (true, 60, Format::BinarySi),
        other => {
            let digits = other.strip_prefix(['e', 'E']).ok_or(Error::Suffix)?;
            let exponent: i32 = digits.parse().map_err(|_| Error::Suffix)?;
            return Ok((false, exponent, Format::DecimalExponent));
        }
    };
    Ok(known)
}

/// Magnitude in nanos, rounded up; saturates well above [`MAX`].
fn exact(whole: &str, fraction: &str, base2: bool, exponent: i32) -> i128 {
    let fraction = fraction.trim_end_matches('0');
    let digits: String = format!("{whole}{fraction}").trim_start_matches('0').to_owned();
    if digits.is_empty() {
        return 0;
    }
    let huge = MAX.saturating_mul(2);
    let mut ten = 9 - fraction.len() as i64;
    if !base2 {
        ten += i64::from(exponent);
    }
    // Digits beyond the unit only matter in that they round up.
    let mut number: i128 = 0;
    let keep = if ten < 0 { digits.len() as i64 + ten } else { digits.len() as i64 };
    let extra = if base2 { 20 } else { 0 };
    let keep_digits = (keep + extra).clamp(0, digits.len() as i64) as usize;
    if keep_digits > 37 {
        return huge;
    }
    for b in digits.as_bytes()[..keep_digits].iter() {
        number = number * 10 + i128::from(b - b'0');
    }
    let dropped = digits.len() - keep_digits;
    let mut round = digits.as_bytes()[keep_digits..].iter().any(|b| *b != b'0');
    let mut down = if ten < 0 { -ten - dropped as i64 } else { 0 };
    if base2 {
        number = match number.checked_mul(1i128 << exponent) {
            Some(n) => n,
            None => return huge,
        };
    }
    if ten < 0 && keep < 0 && !base2 {
        return 1;
    }
    while down > 0 {
        round |= number % 10 != 0;
        number /= 10;
        down -= 1;
    }
    while ten > 0 {
        number = match number.checked_mul(10) {
            Some(n) if n < huge => n,
            _ => return huge,
        };
        ten -= 1;
    }
    number + i128::from(round)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        if self.format == Format::BinarySi && whole && (self.nanos / NANO).abs() >= 1024 {
            let mut value = self.nanos / NANO;
            let mut power = 0;
            while value % 1024 == 0 && power < 6 {
                value /= 1024;
                power += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut value, mut power) = (self.nanos, -3);
        while value % 1000 == 0 && power < 6 {
            value /= 1000;
            power += 1;
        }
        if self.format == Format::BinarySi && whole {
            return write!(f, "{}", self.nanos / NANO);
        }
        match self.format {
            Format::DecimalExponent if power != 0 => write!(f, "{value}e{}", power * 3),
            Format::DecimalExponent => write!(f, "{value}"),
            _ => {
                let suffix = match power {
                    -3 => "n",
                    -2 => "u",
                    -1 => "m",
                    1 => "k",
                    2 => "M",
                    3 => "G",
                    4 => "T",
                    5 => "P",
                    6 => "E",
                    _ => "",
                };
                write!(f, "{value}{suffix}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
