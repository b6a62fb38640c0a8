//! Text forms of the quantities that faults are made of: durations, shares, sizes and rates.
//! Every form written here is read back to the same value.

use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error(
        "`{0}` is not a duration; write a number and `ns`, `us`, `ms` or `s`, for example `50ms`"
    )]
    Duration(String),
    #[error("`{0}` is not a share between 0 and 1; write `5%` or `0.05`")]
    Share(String),
    #[error("`{0}` is not a size in bytes; write `1400`, `64k` or `4m` (1k is 1024)")]
    Size(String),
    #[error(
        "`{0}` is not a rate; write a number and `bit`, `kbit`, `mbit` or `gbit`, for example `10mbit`"
    )]
    Rate(String),
}

/// Longest duration accepted, so that sums of a few never overflow 64-bit nanoseconds.
pub const LONGEST: Duration = Duration::from_secs(60);

pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || UnitError::Duration(text.to_owned());
    let (number, unit) = split_unit(text);
    let scale = match unit {
        "ns" => 1.0,
        "us" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return Err(wrong()),
    };
    let nanos = parse_number(number).ok_or_else(wrong)? * scale;
    let duration = Duration::from_nanos(nanos.round() as u64);
    if duration > LONGEST {
        return Err(wrong());
    }
    Ok(duration)
}

/// Writes the largest unit that needs no decimals.
pub struct DurationText(pub Duration);

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let (scale, unit) = [
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
            (1, "ns"),
        ]
        .into_iter()
        .find(|(scale, _)| nanos.is_multiple_of(*scale))
        .unwrap_or((1, "ns"));
        write!(f, "{}{unit}", nanos / scale)
    }
}

pub fn parse_share(text: &str) -> Result<f64, UnitError> {
    let wrong = || UnitError::Share(text.to_owned());
    let share = match text.strip_suffix('%') {
        Some(percent) => parse_number(percent).ok_or_else(wrong)? / 100.0,
        None => parse_number(text).ok_or_else(wrong)?,
    };
    if share > 1.0 {
        return Err(wrong());
    }
    Ok(share)
}

/// Writes a percentage where that is exact, else the plain fraction.
pub struct ShareText(pub f64);

impl fmt::Display for ShareText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.0 * 100.0;
        let rounded = (percent * 1e6).round() / 1e6;
        if rounded / 100.0 == self.0 {
            write!(f, "{rounded}%")
        } else {
            write!(f, "{}", self.0)
        }
    }
}

pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let wrong = || UnitError::Size(text.to_owned());
    let (number, unit) = split_unit(text);
    let scale: u64 = match unit {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        _ => return Err(wrong()),
    };
    let count: u64 = number.parse().map_err(|_| wrong())?;
    count
        .checked_mul(scale)
        .filter(|bytes| *bytes <= 1 << 40)
        .ok_or_else(wrong)
}

/// Bits per second.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let wrong = || UnitError::Rate(text.to_owned());
    let (number, unit) = split_unit(text);
    let scale = match unit {
        "bit" => 1.0,
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return Err(wrong()),
    };
    let bits = parse_number(number).ok_or_else(wrong)? * scale;
    if !(1.0..=1e12).contains(&bits) {
        return Err(wrong());
    }
    Ok(bits.round() as u64)
}

pub struct RateText(pub u64);

impl fmt::Display for RateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scale, unit) = [
            (1_000_000_000, "gbit"),
            (1_000_000, "mbit"),
            (1_000, "kbit"),
        ]
        .into_iter()
        .find(|(scale, _)| self.0.is_multiple_of(*scale))
        .unwrap_or((1, "bit"));
        write!(f, "{}{unit}", self.0 / scale)
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Plain decimal notation only: no sign, no exponent, no `inf` or `nan`.
fn parse_number(text: &str) -> Option<f64> {
    if text.is_empty() || text.len() > 24 || !text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back() {
        for text in ["0s", "1ns", "50ms", "1500us", "2s", "60s"] {
            let value = parse_duration(text).unwrap();
            assert_eq!(
                parse_duration(&DurationText(value).to_string()).unwrap(),
                value
            );
        }
        assert_eq!(
            parse_duration("1.5ms").unwrap(),
            Duration::from_micros(1500)
        );
        for text in [
            "",
            "5",
            "ms",
            "-5ms",
            "5 ms",
            "1e3ms",
            "nan",
            "61s",
            "99999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares_read_back() {
        for value in [
            0.0,
            0.05,
            0.3,
            1.0,
            0.001,
            1.0 / 3.0,
            0.123_456_789_012,
            0.07,
        ] {
            assert_eq!(parse_share(&ShareText(value).to_string()).unwrap(), value);
        }
        assert_eq!(ShareText(0.05).to_string(), "5%");
        for text in ["", "%", "101%", "1.01", "-1%", "nan", "1..2"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_rates_read_back() {
        assert_eq!(parse_size("64k").unwrap(), 65_536);
        assert!(parse_size("1.5k").is_err());
        assert!(parse_size("99999999999999999999").is_err());
        for bits in [1, 1_500, 10_000_000, 2_500_000_000] {
            assert_eq!(parse_rate(&RateText(bits).to_string()).unwrap(), bits);
        }
        assert_eq!(parse_rate("1.5mbit").unwrap(), 1_500_000);
        for text in ["0bit", "10", "10mb", "9999gbit9"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
