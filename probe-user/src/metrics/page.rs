//! One exposition as data, and its encoding.

use std::fmt;

use probe_common::Histogram;
use probe_common::histogram::CLASSIC_SECONDS;
use probe_common::histogram::{BUCKETS, buckets_up_to};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::definitions::{ALL, Definition, Kind};

/// Upper edges of the classic buckets, seconds: edges of the kernel's own histogram, so nothing is interpolated.
pub const EDGES: [f64; 16] = *CLASSIC_SECONDS
    .first_chunk()
    .expect("a ladder of 16 or more");

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Count(u64),
    Number(f64),
    /// Sum in seconds, count, and buckets not cumulated.
    Distribution(f64, u64, Vec<(f64, u64)>),
}

impl From<&Histogram> for Value {
    fn from(histogram: &Histogram) -> Self {
        let mut buckets = Vec::with_capacity(EDGES.len() + 1);
        let mut from = 0;
        for edge in EDGES {
            // Held by a unit test: every edge is one.
            let to = buckets_up_to(edge).unwrap_or(from);
            buckets.push((edge, histogram.buckets[from..to].iter().sum()));
            from = to;
        }
        buckets.push((f64::INFINITY, histogram.buckets[from..BUCKETS].iter().sum()));
        Self::Distribution(histogram.sum_ns as f64 / 1e9, histogram.count(), buckets)
    }
}

#[derive(Debug)]
struct Sample {
    definition: &'static Definition,
    labels: Vec<String>,
    value: Value,
}

/// All samples of one exposition.
#[derive(Debug, Default)]
pub struct Page {
    samples: Vec<Sample>,
}

/// A type whose labels are known only at run time.
struct Labels<'a>(&'a Sample);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        for (name, value) in self.0.definition.labels.iter().zip(&self.0.labels) {
            // An empty label is no label.
            if !value.is_empty() {
                (*name, value.as_str()).encode(encoder.encode_label())?;
            }
        }
        Ok(())
    }
}

impl Page {
    /// `labels` in the order of the definition.
    pub fn add<const N: usize>(
        &mut self,
        definition: &'static Definition,
        labels: [&str; N],
        value: impl Into<Value>,
    ) {
        debug_assert_eq!(definition.labels.len(), N, "{}", definition.name);
        self.samples.push(Sample {
            definition,
            labels: labels.map(str::to_owned).into(),
            value: value.into(),
        });
    }

    /// Counters by their exposed name, summed over labels.
    pub fn counters(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.samples.iter().filter_map(|sample| match sample.value {
            Value::Count(count) if sample.definition.kind == Kind::Counter => {
                Some((sample.definition.exposed_name(), count))
            }
            _ => None,
        })
    }

    /// OpenMetrics text, version 1.0.0.
    pub fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for definition in ALL {
            let mut samples = self
                .samples
                .iter()
                .filter(|sample| std::ptr::eq(sample.definition, *definition))
                .peekable();
            if samples.peek().is_none() {
                continue;
            }
            let mut family = encoder.encode_descriptor(
                definition.name,
                definition.help,
                None,
                match definition.kind {
                    Kind::Counter => MetricType::Counter,
                    Kind::Gauge => MetricType::Gauge,
                    Kind::Histogram => MetricType::Histogram,
                },
            )?;
            for sample in samples {
                let labels = Labels(sample);
                let mut metric = family.encode_family(&labels)?;
                match (&sample.value, definition.kind) {
                    (Value::Count(count), Kind::Counter) => {
                        metric.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(
                            count, None,
                        )?;
                    }
                    (Value::Number(number), Kind::Counter) => {
                        metric.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(
                            number, None,
                        )?;
                    }
                    (Value::Count(count), _) => metric.encode_gauge(count)?,
                    (Value::Number(number), _) => metric.encode_gauge(number)?,
                    (Value::Distribution(sum, count, buckets), _) => {
                        metric.encode_histogram::<prometheus_client::encoding::NoLabelSet>(
                            *sum, *count, buckets, None,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::definitions::{BUILD, RECORDS, TCP_CONNECT_DURATION};
    use super::*;

    #[test]
    fn every_edge_is_an_edge_of_the_kernels_histogram() {
        let mut last = 0;
        for edge in EDGES {
            let buckets = buckets_up_to(edge).unwrap_or_else(|| panic!("{edge} is no edge"));
            assert!(buckets > last);
            last = buckets;
        }
    }

    #[test]
    fn buckets_hold_what_they_say() {
        let mut histogram = Histogram::EMPTY;
        for ns in [
            1,
            390_625,
            390_626,
            100_000_000,
            100_000_001,
            60_000_000_000,
            200_000_000_000,
        ] {
            histogram.record(ns);
        }
        let Value::Distribution(sum, count, buckets) = Value::from(&histogram) else {
            panic!("a distribution");
        };
        assert!((sum - 260.200_781_253).abs() < 1e-6, "{sum}");
        assert_eq!(count, 7);
        let at = |edge: f64| buckets.iter().find(|(le, _)| *le == edge).unwrap().1;
        assert_eq!(at(0.000_390_625), 2, "an edge belongs to the bucket below");
        assert_eq!(at(0.000_781_25), 1);
        assert_eq!(at(0.1), 1);
        assert_eq!(at(0.25), 1);
        assert_eq!(at(f64::INFINITY), 2);
        assert_eq!(buckets.iter().map(|(_, n)| n).sum::<u64>(), 7);
    }

    #[test]
    fn the_text_is_openmetrics_and_labels_are_escaped() {
        let mut page = Page::default();
        let mut histogram = Histogram::EMPTY;
        histogram.record(50_000_000);
        page.add(&BUILD, ["1", "east", "e\"1\n", "pod"], 1);
        page.add(&RECORDS, ["east"], 3);
        page.add(
            &TCP_CONNECT_DURATION,
            ["probe", "east", "west", "", "other"],
            &histogram,
        );
        let text = page.into_text().unwrap();
        assert!(
            text.contains(
                "aggrik8s_build_info{version=\"1\",source_cluster=\"east\",node=\"e\\\"1\\n\",plane=\"pod\"} 1\n"
            ),
            "{text}"
        );
        assert!(text.contains("aggrik8s_connection_records{source_cluster=\"east\"} 3\n"));
        assert!(
            text.contains(
                "aggrik8s_tcp_connect_duration_seconds_bucket{le=\"0.1\",origin=\"probe\",source_cluster=\"east\",target_cluster=\"west\",class=\"other\"} 1\n"
            ),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }
}
