//! Kubernetes quantities: `100m`, `64Mi`, `1.5e3`, as exact thousandths.
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths, rounded up; `None` when it is not a quantity or is too large.
pub fn milli(q: &Quantity) -> Option<i128> {
    let text = q.0.trim();
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    // (numerator, denominator) of the suffix
    let (mul, div): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exp if exp.starts_with(['e', 'E']) => {
            let power: i32 = exp[1..].parse().ok()?;
            if !(-18..=18).contains(&power) {
                return None;
            }
            let ten = 10i128.pow(power.unsigned_abs());
            if power < 0 { (1, ten) } else { (ten, 1) }
        }
        _ => return None,
    };
    let (negative, number) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 15 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = 10i128.pow(u32::try_from(fraction.len()).ok()?);
    let numerator = digits.checked_mul(mul)?.checked_mul(1000)?;
    let denominator = scale.checked_mul(div)?;
    let value = numerator.div_euclid(denominator)
        + i128::from(numerator.rem_euclid(denominator) != 0);
    Some(if negative { -value } else { value })
}

/// The value in whole units, rounded up.
pub fn units(q: &Quantity) -> Option<i64> {
    let m = milli(q)?;
    i64::try_from(m.div_euclid(1000) + i128::from(m.rem_euclid(1000) != 0)).ok()
}

/// Thousandths of a core (or of anything), for CPU.
pub fn milli_units(q: &Quantity) -> Option<i64> {
    i64::try_from(milli(q)?).ok()
}

/// `value / divisor` rounded up, as the downward API prints it; both in thousandths.
pub fn divide(value_milli: i128, divisor_milli: i128) -> i128 {
    if divisor_milli <= 0 {
        return value_milli;
    }
    value_milli.div_euclid(divisor_milli) + i128::from(value_milli.rem_euclid(divisor_milli) != 0)
}

/// Whether two quantities are the same amount.
pub fn same(a: &Quantity, b: &Quantity) -> bool {
    match (milli(a), milli(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a.0 == b.0,
    }
}

#[cfg(test)]
mod tests;
