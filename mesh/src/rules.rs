//! What mesh.yaml says about findings rather than about clusters: which are accepted for a while, what a check's failure does,
//! and who is meant to reach whom.

use crate::Link;

/// Waivers, severities and policies of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub accept: Vec<Waiver>,
    /// Check id or `family.*`, and what its failure does, sorted. The longest pattern that matches counts.
    pub severity: Vec<(String, Gravity)>,
    /// Whether pods of one cluster may open connections to pods of another; what is not listed is not meant either way.
    pub policies: Vec<PolicyRule>,
}

/// What is meant to hold between the pods of two clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    pub link: Link,
    pub access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Allow,
    Deny,
}

impl Rules {
    /// What mesh.yaml means for connections of this link, if anything.
    pub fn access(&self, link: &Link) -> Option<Access> {
        let rule = self.policies.iter().find(|rule| &rule.link == link);
        rule.map(|rule| rule.access)
    }

    /// Pods of the source must not reach pods of the target.
    pub fn denies(&self, link: &Link) -> bool {
        self.access(link) == Some(Access::Deny)
    }

    /// What mesh.yaml says that the failure of `id` does.
    pub fn gravity(&self, id: &str) -> Option<Gravity> {
        self.severity
            .iter()
            .filter(|(pattern, _)| names_check(pattern, id))
            .max_by_key(|(pattern, _)| pattern.len())
            .map(|(_, gravity)| *gravity)
    }
}

/// A finding that is known, and accepted until a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiver {
    /// A check id, or `family.*`.
    pub check: String,
    pub scope: WaiverScope,
    pub reason: String,
    /// Its last day.
    pub until: Day,
}

/// Where a waiver holds; what is absent matches anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaiverScope {
    pub source: Option<String>,
    pub target: Option<String>,
    /// The finding must be confined to this node.
    pub node: Option<String>,
}

/// What the failure of a check does to the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gravity {
    Gate,
    Warn,
    Info,
}

impl Gravity {
    pub fn word(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Warn => "warn",
            Self::Info => "info",
        }
    }
}

/// A day of the Gregorian calendar in UTC, `2026-12-31`: text that sorts by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(String);

impl Day {
    /// `None` when there is no such day.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() == 10
            && bytes.iter().enumerate().all(|(at, byte)| match at {
                4 | 7 => *byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        if !shaped {
            return None;
        }
        let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().ok();
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + u32::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        (1..=days).contains(&day).then(|| Self(text.to_owned()))
    }
}

impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The checks that mesh.yaml may name: `mesh` does not know them, so that whoever judges passes them in.
#[derive(Clone, Copy, Debug)]
pub struct KnownCheck<'a> {
    pub id: &'a str,
    /// Whether its severity may be changed, and if not, why.
    pub fixed: Option<&'a str>,
}

/// Whether `pattern`, an id or `family.*`, names `id`.
pub fn names_check(pattern: &str, id: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(head) => id.starts_with(head),
        None => pattern == id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_exist_and_sort() {
        for good in ["2026-12-31", "2024-02-29", "2000-02-29", "0001-01-01"] {
            assert_eq!(
                Day::parse(good).map(|day| day.to_string()).as_deref(),
                Some(good)
            );
        }
        for bad in [
            "2026-02-29",
            "1900-02-29",
            "2026-04-31",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "26-01-01",
            "2026-1-1",
            "2026/01/01",
            "2026-01-01T",
            "",
            "২০২৬-01",
            "+026-01-01",
        ] {
            assert_eq!(Day::parse(bad), None, "{bad}");
        }
        assert!(Day::parse("2026-09-30") < Day::parse("2026-10-01"));
    }

    #[test]
    fn patterns() {
        assert!(names_check("loss.udp", "loss.udp"));
        assert!(names_check("loss.*", "loss.udp"));
        assert!(names_check("*", "loss.udp"));
        assert!(!names_check("loss", "loss.udp"));
        assert!(!names_check("loss.*", "lossy.udp"));
    }
}
