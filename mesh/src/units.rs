//! Shares and durations as people write them: `99%`, `0.5%`, `50ms`, `2.5s`.
//!
//! Both directions move the decimal point of the text and never multiply, so every value that was
//! written comes back exactly.

/// `1%` is 0.01. `None` when `text` is not digits, with or without a fraction, and `%`.
pub(crate) fn parse_percent(text: &str) -> Option<f64> {
    scaled(text.strip_suffix('%')?, -2)
}

/// Seconds: `50ms` is 0.05. `None` when `text` is not digits, with or without a fraction, and `us`, `ms` or `s`.
pub(crate) fn parse_duration(text: &str) -> Option<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (digits, unit) = text.split_at(at);
    let exponent = match unit {
        "us" => -6,
        "ms" => -3,
        "s" => 0,
        _ => return None,
    };
    scaled(digits, exponent)
}

/// Bit/s: `100Mbit` is 1e8. `None` when `text` is not digits, with or without a fraction, and `kbit`, `Mbit` or `Gbit`.
pub(crate) fn parse_rate(text: &str) -> Option<f64> {
    let at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (digits, unit) = text.split_at(at);
    let exponent = match unit {
        "kbit" => 3,
        "Mbit" => 6,
        "Gbit" => 9,
        _ => return None,
    };
    scaled(digits, exponent)
}

/// `bits` per second in the largest unit in which it is at least 1.
pub(crate) fn format_rate(bits: f64) -> String {
    let (places, unit) = match bits {
        _ if bits >= 1e9 => (-9, "Gbit"),
        _ if bits >= 1e6 => (-6, "Mbit"),
        _ => (-3, "kbit"),
    };
    format!("{}{unit}", plain(bits, places))
}

pub(crate) fn format_percent(share: f64) -> String {
    format!("{}%", plain(share, 2))
}

/// `seconds` in the largest unit in which it is at least 1.
pub(crate) fn format_duration(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{}s", plain(seconds, 0))
    } else if seconds >= 0.001 {
        format!("{}ms", plain(seconds, 3))
    } else {
        format!("{}us", plain(seconds, 6))
    }
}

/// Enough for every shortest decimal text of a share or a duration that is accepted.
const MAX_DIGITS: usize = 32;

fn scaled(digits: &str, exponent: i32) -> Option<f64> {
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if digits.len() > MAX_DIGITS || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    format!("{digits}e{exponent}").parse().ok()
}

/// The shortest decimal text of `value` with its point moved right by `places`.
fn plain(value: f64, places: i32) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    // Where the point stands, counted in digits from the left.
    let point = 1 + exponent.parse::<i32>().unwrap_or(0) + places;
    match usize::try_from(point) {
        Ok(point) if point >= digits.len() => digits.clone() + &"0".repeat(point - digits.len()),
        Ok(point) if point > 0 => format!("{}.{}", &digits[..point], &digits[point..]),
        _ => format!("0.{}{digits}", "0".repeat(point.unsigned_abs() as usize)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percent_and_duration_are_exact() {
        for (text, share) in [
            ("1%", 0.01),
            ("0.1%", 0.001),
            ("0.07%", 0.0007),
            ("99%", 0.99),
            ("99.95%", 0.9995),
            ("100%", 1.0),
            ("0%", 0.0),
        ] {
            assert_eq!(parse_percent(text), Some(share), "{text}");
            assert_eq!(format_percent(share), text);
        }
        for (text, seconds) in [
            ("50ms", 0.05),
            ("2.5s", 2.5),
            ("1s", 1.0),
            ("120s", 120.0),
            ("1.25ms", 0.001_25),
            ("999us", 0.000_999),
        ] {
            assert_eq!(parse_duration(text), Some(seconds), "{text}");
            assert_eq!(format_duration(seconds), text);
        }
    }

    #[test]
    fn rates_are_exact() {
        for (text, bits) in [
            ("100Mbit", 1e8),
            ("2.5Gbit", 2.5e9),
            ("999kbit", 999e3),
            ("0.5kbit", 500.0),
        ] {
            assert_eq!(parse_rate(text), Some(bits), "{text}");
            assert_eq!(format_rate(bits), text);
        }
        for text in [
            "100",
            "Mbit",
            "100mbit",
            "100MB",
            "100Mbit/s",
            "-1Mbit",
            "1 Mbit",
        ] {
            assert_eq!(parse_rate(text), None, "{text}");
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "", "%", "1", "1 %", "-1%", "+1%", "1e2%", ".5%", "5.%", "1.2.3%", "inf%", "1%%", "१%",
        ] {
            assert_eq!(parse_percent(text), None, "{text}");
        }
        for text in [
            "", "ms", "50", "50 ms", "-5ms", "5m", "1h", "5MS", "1_0ms", "infs", "1e3s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
        assert_eq!(parse_percent(&("9".repeat(100) + "%")), None);
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in 1e-7..1e4f64) {
            prop_assert_eq!(parse_duration(&format_duration(value)), Some(value));
            prop_assert_eq!(parse_percent(&format_percent(value)), Some(value));
            prop_assert_eq!(parse_rate(&format_rate(value * 1e6)), Some(value * 1e6));
        }
    }
}
