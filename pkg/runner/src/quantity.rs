//! Resource quantities as whole numbers.

/// Parses a quantity to thousandths of its unit, rounding up. `None` where it is malformed.
pub fn parse_milli(s: &str) -> Option<i128> {
    let s = s.trim();
    let end = s
        .char_indices()
        .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && (*c == '-' || *c == '+'))))
        .map_or(s.len(), |(i, _)| i);
    let (num, suffix) = s.split_at(end);
    let (neg, num) = match num.strip_prefix('-') {
        Some(n) => (true, n),
        None => (false, num.strip_prefix('+').unwrap_or(num)),
    };
    let (int, frac) = num.split_once('.').unwrap_or((num, ""));
    if int.is_empty() && frac.is_empty() {
        return None;
    }
    // value = digits / 10^scale * mul / div, in milli
    let digits: i128 = format!("{int}{frac}").parse().ok()?;
    let mut den: i128 = 10i128.checked_pow(u32::try_from(frac.len()).ok()?)?;
    let mut mul: i128 = 1000;
    match suffix {
        "" => {}
        "n" => den = den.checked_mul(1_000_000_000)?,
        "u" => den = den.checked_mul(1_000_000)?,
        "m" => mul = 1,
        "k" => mul *= 1000,
        "M" => mul *= 1_000_000,
        "G" => mul *= 1_000_000_000,
        "T" => mul *= 1_000_000_000_000,
        "P" => mul *= 1_000_000_000_000_000,
        "E" => mul *= 1_000_000_000_000_000_000,
        "Ki" => mul <<= 10,
        "Mi" => mul <<= 20,
        "Gi" => mul <<= 30,
        "Ti" => mul <<= 40,
        "Pi" => mul <<= 50,
        "Ei" => mul <<= 60,
        other => {
            let exp: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            let p = 10i128.checked_pow(exp.unsigned_abs())?;
            if exp < 0 {
                den = den.checked_mul(p)?;
            } else {
                mul = mul.checked_mul(p)?;
            }
        }
    }
    let x = digits.checked_mul(mul)?;
    let v = x / den + i128::from(x % den != 0);
    Some(if neg { -v } else { v })
}

fn clamp(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

/// Thousandths (for CPU); malformed counts as 0.
pub fn milli(s: &str) -> i64 {
    clamp(parse_milli(s).unwrap_or(0))
}

/// Whole units (bytes, counts), rounded up; malformed counts as 0.
pub fn value(s: &str) -> i64 {
    let m = parse_milli(s).unwrap_or(0);
    clamp(m.div_euclid(1000) + i128::from(m.rem_euclid(1000) != 0))
}

/// Formats thousandths canonically in decimal units.
pub fn format_milli(v: i128) -> String {
    if v % 1000 != 0 {
        return format!("{v}m");
    }
    let mut u = v / 1000;
    let mut i = 0;
    const SUFFIX: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    while u != 0 && u % 1000 == 0 && i < 6 {
        u /= 1000;
        i += 1;
    }
    format!("{u}{}", SUFFIX[i])
}

/// Formats a sum in the notation (binary or decimal) of `like`.
pub fn format_like(v: i128, like: &str) -> String {
    if like.ends_with('i') && v % 1000 == 0 {
        let mut u = v / 1000;
        let mut i = 0;
        const SUFFIX: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        while u != 0 && u % 1024 == 0 && i < 6 {
            u /= 1024;
            i += 1;
        }
        return format!("{u}{}", SUFFIX[i]);
    }
    format_milli(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(milli("100m"), 100);
        assert_eq!(milli("1.5"), 1500);
        assert_eq!(value("1Ki"), 1024);
        assert_eq!(value("1.5Gi"), 1_610_612_736);
        assert_eq!(value("1e3"), 1000);
        assert_eq!(value("100m"), 1);
        assert_eq!(parse_milli("abc"), None);
        assert_eq!(parse_milli("1x"), None);
        assert_eq!(format_milli(1500), "1500m");
        assert_eq!(format_milli(2_000_000), "2k");
        assert_eq!(format_like(2048 * 1000, "1Ki"), "2Ki");
    }
}
