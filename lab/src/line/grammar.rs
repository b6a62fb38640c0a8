//! The text form of faults, filters and endpoints: one grammar for the command line, `line.json` and the
//! control socket. docs/lab-line.md lists it. Whatever is written here reads back to the same value.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::fault::{
    DfClear, DfSet, EndpointRef, Fault, FaultError, Filter, FlowKey, Jitter, Loss, Rule, Scope,
};
use super::unit::{
    DurationText, RateText, ShareText, parse_duration, parse_rate, parse_share, parse_size,
};

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blackhole => f.write_str("blackhole"),
            Self::Loss(Loss::Random { share }) => write!(f, "loss={}", ShareText(*share)),
            Self::Loss(Loss::Burst {
                enter,
                leave,
                bad,
                good,
            }) => write!(
                f,
                "loss=burst:{}:{}:{}:{}",
                ShareText(*enter),
                ShareText(*leave),
                ShareText(*bad),
                ShareText(*good)
            ),
            Self::Loss(Loss::Flows { buckets, key }) => match key {
                FlowKey::Inner => write!(f, "loss=flows:{buckets}"),
                FlowKey::Outer => write!(f, "loss=flows:{buckets}:outer"),
            },
            Self::Delay(extra) => write!(f, "delay={}", DurationText(*extra)),
            Self::Jitter(Jitter::Uniform { range }) => {
                write!(f, "jitter=uniform:{}", DurationText(*range))
            }
            Self::Jitter(Jitter::Normal { mean, deviation }) => {
                write!(
                    f,
                    "jitter=normal:{}:{}",
                    DurationText(*mean),
                    DurationText(*deviation)
                )
            }
            Self::Jitter(Jitter::Pareto { scale, shape, cap }) => {
                write!(
                    f,
                    "jitter=pareto:{}:{shape}:{}",
                    DurationText(*scale),
                    DurationText(*cap)
                )
            }
            Self::Jitter(Jitter::Bimodal { extra, share }) => {
                write!(
                    f,
                    "jitter=bimodal:{}:{}",
                    DurationText(*extra),
                    ShareText(*share)
                )
            }
            Self::Reorder { share, hold } => {
                write!(f, "reorder={}:{}", ShareText(*share), DurationText(*hold))
            }
            Self::Duplicate { share } => write!(f, "duplicate={}", ShareText(*share)),
            Self::Corrupt { share } => write!(f, "corrupt={}", ShareText(*share)),
            Self::Reset { share } => write!(f, "reset={}", ShareText(*share)),
            Self::Setup(extra) => write!(f, "setup={}", DurationText(*extra)),
            Self::Rate {
                bits_per_second,
                queue_bytes,
                burst_bytes,
            } => {
                write!(
                    f,
                    "rate={}:{queue_bytes}:{burst_bytes}",
                    RateText(*bits_per_second)
                )
            }
            Self::Mtu {
                bytes,
                df_set,
                df_clear,
            } => write!(f, "mtu={bytes}:{}", mtu_mode(*df_set, *df_clear)),
        }
    }
}

fn mtu_mode(df_set: DfSet, df_clear: DfClear) -> &'static str {
    match (df_set, df_clear) {
        (DfSet::PacketTooBig, DfClear::Fragment) => "ptb",
        (DfSet::PacketTooBig, DfClear::Drop) => "ptb-drop",
        (DfSet::Silent, DfClear::Drop) => "silent",
        (DfSet::Silent, DfClear::Fragment) => "fragment",
    }
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (name, arguments) = text.split_once('=').unwrap_or((text, ""));
        let arguments: Vec<&str> = if arguments.is_empty() {
            Vec::new()
        } else {
            arguments.split(':').collect()
        };
        match name {
            "blackhole" => match arguments[..] {
                [] => Ok(Self::Blackhole),
                _ => Err(FaultError::Form {
                    fault: "blackhole",
                    form: "blackhole",
                }),
            },
            "loss" => parse_loss(&arguments).map(Self::Loss),
            "delay" => one_delay(&arguments, "delay", "delay=50ms").map(Self::Delay),
            "jitter" => parse_jitter(&arguments).map(Self::Jitter),
            "reorder" => match arguments[..] {
                [at, hold] => Ok(Self::Reorder {
                    share: share("reorder", "share", at)?,
                    hold: duration("reorder", "hold", hold)?,
                }),
                _ => Err(FaultError::Form {
                    fault: "reorder",
                    form: "reorder=5%:10ms",
                }),
            },
            "duplicate" => one_share(&arguments, "duplicate", "duplicate=1%")
                .map(|share| Self::Duplicate { share }),
            "corrupt" => {
                one_share(&arguments, "corrupt", "corrupt=1%").map(|share| Self::Corrupt { share })
            }
            "reset" => {
                one_share(&arguments, "reset", "reset=1%").map(|share| Self::Reset { share })
            }
            "setup" => one_delay(&arguments, "setup", "setup=60ms").map(Self::Setup),
            "rate" => parse_rate_limit(&arguments),
            "mtu" => parse_mtu(&arguments),
            _ => Err(FaultError::Unknown(name.to_owned())),
        }
    }
}

fn duration(fault: &'static str, key: &'static str, text: &str) -> Result<Duration, FaultError> {
    parse_duration(text).map_err(|source| FaultError::Value { fault, key, source })
}

fn share(fault: &'static str, key: &'static str, text: &str) -> Result<f64, FaultError> {
    parse_share(text).map_err(|source| FaultError::Value { fault, key, source })
}

fn one_share(
    arguments: &[&str],
    fault: &'static str,
    form: &'static str,
) -> Result<f64, FaultError> {
    match arguments {
        [at] => share(fault, "share", at),
        _ => Err(FaultError::Form { fault, form }),
    }
}

fn one_delay(
    arguments: &[&str],
    fault: &'static str,
    form: &'static str,
) -> Result<Duration, FaultError> {
    match arguments {
        [extra] => duration(fault, "extra", extra),
        _ => Err(FaultError::Form { fault, form }),
    }
}

fn parse_loss(arguments: &[&str]) -> Result<Loss, FaultError> {
    const FAULT: &str = "loss";
    match arguments {
        ["burst", enter, leave, rest @ ..] if rest.len() <= 2 => {
            let enter = share(FAULT, "enter", enter)?;
            let leave = share(FAULT, "leave", leave)?;
            if leave == 0.0 {
                return Err(FaultError::Bound {
                    fault: FAULT,
                    key: "leave",
                    bound: "above 0",
                });
            }
            let bad = rest
                .first()
                .map_or(Ok(1.0), |text| share(FAULT, "bad", text))?;
            let good = rest
                .get(1)
                .map_or(Ok(0.0), |text| share(FAULT, "good", text))?;
            Ok(Loss::Burst {
                enter,
                leave,
                bad,
                good,
            })
        }
        ["flows", buckets, rest @ ..] if rest.len() <= 1 => {
            const BOUND: FaultError = FaultError::Bound {
                fault: FAULT,
                key: "buckets",
                bound: "from 1 to 65536",
            };
            let buckets = buckets.parse().map_err(|_| BOUND)?;
            if !(1..=65_536).contains(&buckets) {
                return Err(BOUND);
            }
            let key = match rest {
                [] | ["inner"] => FlowKey::Inner,
                ["outer"] => FlowKey::Outer,
                _ => {
                    return Err(FaultError::Form {
                        fault: FAULT,
                        form: "loss=flows:4[:inner|outer]",
                    });
                }
            };
            Ok(Loss::Flows { buckets, key })
        }
        [at] => Ok(Loss::Random {
            share: share(FAULT, "share", at)?,
        }),
        _ => Err(FaultError::Form {
            fault: FAULT,
            form: "loss=5% | loss=burst:ENTER%:LEAVE%[:BAD%[:GOOD%]] | loss=flows:4[:inner|outer]",
        }),
    }
}

fn parse_jitter(arguments: &[&str]) -> Result<Jitter, FaultError> {
    const FAULT: &str = "jitter";
    match arguments {
        ["uniform", range] => Ok(Jitter::Uniform {
            range: duration(FAULT, "range", range)?,
        }),
        ["normal", mean, deviation] => {
            let mean = duration(FAULT, "mean", mean)?;
            let deviation = duration(FAULT, "deviation", deviation)?;
            // Beyond this the cut-off distribution would mostly be redrawn.
            if deviation > mean {
                return Err(FaultError::Bound {
                    fault: FAULT,
                    key: "deviation",
                    bound: "at most the mean",
                });
            }
            Ok(Jitter::Normal { mean, deviation })
        }
        ["pareto", scale, shape, cap] => {
            const BOUND: FaultError = FaultError::Bound {
                fault: FAULT,
                key: "shape",
                bound: "from 0.5 to 50",
            };
            let scale = duration(FAULT, "scale", scale)?;
            let shape: f64 = shape.parse().map_err(|_| BOUND)?;
            if !(0.5..=50.0).contains(&shape) {
                return Err(BOUND);
            }
            Ok(Jitter::Pareto {
                scale,
                shape,
                cap: duration(FAULT, "cap", cap)?,
            })
        }
        ["bimodal", extra, at] => Ok(Jitter::Bimodal {
            extra: duration(FAULT, "extra", extra)?,
            share: share(FAULT, "share", at)?,
        }),
        _ => Err(FaultError::Form {
            fault: FAULT,
            form: "jitter=uniform:5ms | jitter=normal:MEAN:DEVIATION | jitter=pareto:SCALE:SHAPE:CAP | jitter=bimodal:EXTRA:SHARE%",
        }),
    }
}

/// Enough for 40 ms at 10 Mbit/s, as cheap switches have.
const DEFAULT_QUEUE_BYTES: u64 = 48 * 1024;

fn parse_rate_limit(arguments: &[&str]) -> Result<Fault, FaultError> {
    const FAULT: &str = "rate";
    let value = |key, source| FaultError::Value {
        fault: FAULT,
        key,
        source,
    };
    match arguments {
        [rate, rest @ ..] if rest.len() <= 2 => {
            let size = |index: usize, key, default| {
                rest.get(index).map_or(Ok(default), |text| {
                    parse_size(text).map_err(|source| value(key, source))
                })
            };
            let queue_bytes = size(0, "queue", DEFAULT_QUEUE_BYTES)?;
            if queue_bytes == 0 {
                return Err(FaultError::Bound {
                    fault: FAULT,
                    key: "queue",
                    bound: "above 0",
                });
            }
            let bits_per_second = parse_rate(rate).map_err(|source| value("rate", source))?;
            Ok(Fault::Rate {
                bits_per_second,
                queue_bytes,
                burst_bytes: size(1, "burst", 0)?,
            })
        }
        _ => Err(FaultError::Form {
            fault: FAULT,
            form: "rate=10mbit[:QUEUE_BYTES[:BURST_BYTES]]",
        }),
    }
}

/// Every IPv4 router must pass 68 bytes unfragmented (RFC 791).
const SMALLEST_MTU: u16 = 68;

fn parse_mtu(arguments: &[&str]) -> Result<Fault, FaultError> {
    const FORM: FaultError = FaultError::Form {
        fault: "mtu",
        form: "mtu=1400:ptb|ptb-drop|silent|fragment",
    };
    let [bytes, mode] = arguments else {
        return Err(FORM);
    };
    let bytes = bytes
        .parse()
        .ok()
        .filter(|bytes| *bytes >= SMALLEST_MTU)
        .ok_or(FaultError::Bound {
            fault: "mtu",
            key: "bytes",
            bound: "from 68 to 65535",
        })?;
    let (df_set, df_clear) = match *mode {
        "ptb" => (DfSet::PacketTooBig, DfClear::Fragment),
        "ptb-drop" => (DfSet::PacketTooBig, DfClear::Drop),
        "silent" => (DfSet::Silent, DfClear::Drop),
        "fragment" => (DfSet::Silent, DfClear::Fragment),
        _ => return Err(FORM),
    };
    Ok(Fault::Mtu {
        bytes,
        df_set,
        df_clear,
    })
}

const FILTERS: [(Filter, &str); 8] = [
    (Filter::Any, "any"),
    (Filter::Tcp, "tcp"),
    (Filter::Udp, "udp"),
    (Filter::Icmp, "icmp"),
    (Filter::Vxlan, "vxlan"),
    (Filter::InnerTcp, "inner-tcp"),
    (Filter::InnerUdp, "inner-udp"),
    (Filter::InnerIcmp, "inner-icmp"),
];

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FILTERS
            .iter()
            .find(|(filter, _)| filter == self)
            .map_or("any", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Filter {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        FILTERS
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(filter, _)| *filter)
            .ok_or_else(|| FaultError::Filter(text.to_owned()))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.filter {
            Filter::Any => write!(f, "{}", self.fault),
            filter => write!(f, "{}@{filter}", self.fault),
        }
    }
}

impl FromStr for Rule {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        match text.split_once('@') {
            Some((fault, filter)) => Ok(Self {
                fault: fault.parse()?,
                filter: filter.parse()?,
            }),
            None => Ok(Self::new(text.parse()?)),
        }
    }
}

impl fmt::Display for EndpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cluster, &self.node) {
            (None, _) => f.write_str("*"),
            (Some(cluster), None) => f.write_str(cluster),
            (Some(cluster), Some(node)) => write!(f, "{cluster}/{node}"),
        }
    }
}

impl FromStr for EndpointRef {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let named = |name: &str| {
            !name.is_empty()
                && name.len() <= 253
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        };
        match text.split_once('/') {
            None if text == "*" => Ok(Self::any()),
            None if named(text) => Ok(Self::cluster(text)),
            Some((cluster, node)) if named(cluster) && named(node) => Ok(Self::node(cluster, node)),
            _ => Err(FaultError::Endpoint(text.to_owned())),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.source, self.target)
    }
}

macro_rules! serde_as_text {
    ($($type:ty),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|error: FaultError| {
                    use std::error::Error as _;
                    match error.source() {
                        Some(source) => serde::de::Error::custom(format!("{error}: {source}")),
                        None => serde::de::Error::custom(error),
                    }
                })
            }
        }
    )+};
}

serde_as_text!(Rule, EndpointRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back() {
        for text in [
            "blackhole",
            "blackhole@udp",
            "loss=5%",
            "loss=0.12345678912345",
            "loss=burst:1%:25%:100%:0%",
            "loss=flows:4",
            "loss=flows:4:outer@vxlan",
            "delay=50ms@inner-tcp",
            "jitter=uniform:5ms",
            "jitter=normal:5ms:1ms",
            "jitter=pareto:1ms:1.5:200ms",
            "jitter=bimodal:20ms:10%",
            "reorder=5%:10ms",
            "duplicate=1%",
            "corrupt=0.5%",
            "reset=2%@inner-tcp",
            "setup=60ms",
            "rate=10mbit:65536:0",
            "mtu=1400:ptb",
            "mtu=1400:ptb-drop",
            "mtu=1400:silent",
            "mtu=1400:fragment@udp",
        ] {
            let rule: Rule = text
                .parse()
                .unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(rule.to_string(), text);
            let json = serde_json::to_string(&rule).unwrap();
            assert_eq!(serde_json::from_str::<Rule>(&json).unwrap(), rule);
            rule.validate().unwrap();
        }
    }

    #[test]
    fn defaults_are_filled_in() {
        assert_eq!(
            "loss=burst:1%:25%".parse::<Rule>().unwrap().to_string(),
            "loss=burst:1%:25%:100%:0%"
        );
        assert_eq!(
            "rate=10mbit".parse::<Rule>().unwrap().to_string(),
            "rate=10mbit:49152:0"
        );
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for (text, part) in [
            ("", "unknown fault"),
            ("los=5%", "unknown fault"),
            ("loss", "needs the form"),
            ("loss=500%", "`share` in `loss`"),
            ("loss=burst:1%:0%", "above 0"),
            ("loss=flows:0", "from 1"),
            ("loss=flows:4:sideways", "needs the form"),
            ("blackhole=1", "needs the form"),
            ("delay=50", "`extra` in `delay`"),
            ("jitter=gauss:5ms", "needs the form"),
            ("jitter=normal:1ms:2ms", "at most the mean"),
            ("jitter=pareto:1ms:nan:5ms", "from 0.5"),
            ("corrupt=2", "`share` in `corrupt`"),
            ("reset", "needs the form"),
            ("setup=60", "`extra` in `setup`"),
            ("rate=10", "`rate` in `rate`"),
            ("rate=10mbit:0", "above 0"),
            ("mtu=40:ptb", "from 68"),
            ("mtu=1400", "needs the form"),
            ("delay=5ms@quic", "unknown filter"),
        ] {
            let error = text.parse::<Rule>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        let rule = Rule::new(Fault::Loss(Loss::Random { share: f64::NAN }));
        assert!(rule.validate().is_err());
    }

    #[test]
    fn endpoints_read_back() {
        for text in ["*", "talos-east", "talos-east/wrk-e-1"] {
            let endpoint: EndpointRef = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), text);
        }
        for text in ["", "/", "a/", "/b", "a/b/c", "a b", "a\nb"] {
            assert!(text.parse::<EndpointRef>().is_err(), "{text:?}");
        }
    }
}
