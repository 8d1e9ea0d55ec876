//! Distributions, counted without a lock.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// A distribution over fixed buckets, counted without a lock.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One per bound; larger ones are in the count only.
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    /// The bits of a float.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one; `bounds` are upper ends, ascending.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Histogram {
        Histogram {
            bounds,
            buckets: bounds.iter().map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one.
    pub fn observe(&self, value: f64) {
        if let Some(index) = self.bounds.iter().position(|bound| value <= *bound) {
            self.buckets[index].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let add = |bits| Some((f64::from_bits(bits) + value).to_bits());
        // It always succeeds: `add` always gives a value.
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Writes it, unless nothing was counted. `labels` are without braces, may be empty.
    pub fn render(&self, out: &mut String, name: &str, labels: &str) {
        // Buckets are read before the count, so that they are never more.
        let buckets: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let count = self.count.load(Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (bound, bucket) in self.bounds.iter().zip(buckets) {
            total += bucket;
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{}\"}} {total}", number(*bound));
        }
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", count.max(total));
        let braces = |text: &str| if text.is_empty() { String::new() } else { format!("{{{text}}}") };
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        let _ = writeln!(out, "{name}_sum{} {sum}", braces(labels));
        let _ = writeln!(out, "{name}_count{} {}", braces(labels), count.max(total));
    }
}

/// A bound as Go prints it: very large and very small ones with an exponent of at least two digits.
fn number(bound: f64) -> String {
    if bound == 0.0 || (1e-4..1e6).contains(&bound.abs()) {
        return format!("{bound}");
    }
    let text = format!("{bound:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    match exponent.strip_prefix('-') {
        Some(exponent) => format!("{mantissa}e-{exponent:0>2}"),
        None => format!("{mantissa}e+{exponent:0>2}"),
    }
}

/// The two lines before a metric's rows; `help` begins with its stability.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// `COUNT` bounds, each `factor` times the one before it.
#[must_use]
pub const fn exponential<const COUNT: usize>(start: f64, factor: f64) -> [f64; COUNT] {
    let mut bounds = [start; COUNT];
    let mut at = 1;
    while at < COUNT {
        bounds[at] = bounds[at - 1] * factor;
        at += 1;
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_as_upstream_does() {
        let histogram = Histogram::new(&[0.5, 1.0, 1e6]);
        let mut out = String::new();
        histogram.render(&mut out, "x", "");
        assert_eq!(out, "");
        for value in [0.5, 0.7, 2.0, 1e9] {
            histogram.observe(value);
        }
        histogram.render(&mut out, "x", "a=\"b\"");
        assert_eq!(
            out,
            "x_bucket{a=\"b\",le=\"0.5\"} 1\nx_bucket{a=\"b\",le=\"1\"} 2\nx_bucket{a=\"b\",le=\"1e+06\"} 3\nx_bucket{a=\"b\",le=\"+Inf\"} 4\nx_sum{a=\"b\"} 1000000003.2\nx_count{a=\"b\"} 4\n"
        );
    }
    #[test]
    fn bounds_are_those_of_upstreams_queues() {
        static BOUNDS: [f64; 10] = exponential(1e-8, 10.0);
        let texts: Vec<String> = BOUNDS.iter().map(|bound| number(*bound)).collect();
        assert_eq!(texts[..4], ["1e-08", "1e-07", "1e-06", "9.999999999999999e-06"]);
        assert_eq!(number(0.0001), "0.0001");
        assert_eq!(number(2.5e7), "2.5e+07");
    }
}
