//! What came out, beside upstream's figures on a machine of this kind and the least that the project wants.

use std::time::Duration;

/// Upstream's figures and our floors, by the name of the work.
pub(crate) type Anchors = &'static [(&'static str, &'static str, &'static str)];

/// Those of an API server. Source: the project's anchors: Kubernetes v1.36.2 with etcd 3.6 on a quiet 2-core machine.
pub(crate) const API: Anchors = &[
    ("start, empty", "3,400 ms", "1,000 ms"),
    ("create pods, one writer", "170 /s", "1,000 /s"),
    ("create pods, 64 writers", "506 /s", "6,000 /s"),
    ("resident, 10,000 pods stored", "1,298 MB", "150 MB"),
    ("resident, after all reads, writes, watches", "", "150 MB"),
    ("get a pod, 32 readers", "1,835 /s", "25,000 /s"),
    ("list 10,000 pods, JSON", "979 ms", "60 ms"),
    ("list 10,000 pods, protobuf", "515 ms", "90 ms"),
    ("list by label, 1 %", "29 ms", "2 ms"),
    ("list, one page of 500", "57 ms", "4 ms"),
    ("merge patch, 32 writers", "339 /s", "5,000 /s"),
    ("watch, 1 watcher, 1 writer", "3.5 ms", "1 ms"),
    ("watch, 200 watchers, 4 writers", "15 ms", "1.5 ms"),
    ("delete pods, 64 writers", "378 /s", "5,000 /s"),
    ("list 300,000 small objects", "", "500 ms"),
    ("start over what is stored", "", "2,000 ms"),
];

/// One work done: how long in all, and each request's time.
pub(crate) struct Run {
    took: Duration,
    /// Ascending.
    times: Vec<Duration>,
    bytes: usize,
}

impl Run {
    pub(crate) fn new(took: Duration, mut times: Vec<Duration>, bytes: usize) -> Run {
        times.sort_unstable();
        Run { took, times, bytes }
    }

    /// The time that this share of the requests stayed below.
    fn quantile(&self, share: f64) -> Duration {
        let index = (self.times.len().saturating_sub(1)) as f64 * share;
        self.times.get(index as usize).copied().unwrap_or_default()
    }

    fn spread(&self) -> String {
        format!("p50 {}, p99 {}", text(self.quantile(0.5)), text(self.quantile(0.99)))
    }
}

/// Prints rows as they come.
pub(crate) struct Report {
    anchors: Anchors,
    only: Option<String>,
}

impl Report {
    pub(crate) fn new(anchors: Anchors, only: Option<String>) -> Report {
        println!("{:<44} {:>12} {:>12} {:>10} {:>10}", "", "here", "upstream", "ratio", "floor");
        Report { anchors, only }
    }

    /// Whether this work was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|only| name.contains(only))
    }

    /// Requests a second.
    pub(crate) fn rate(&mut self, name: &str, run: &Run) {
        let rate = run.times.len() as f64 / run.took.as_secs_f64();
        self.row(name, rate, &format!("{rate:.0} /s"), true, &run.spread());
    }

    /// The median time of a request, with how much came.
    pub(crate) fn milliseconds_of(&mut self, name: &str, run: &Run) {
        let size = run.bytes as f64 / run.times.len().max(1) as f64 / 1e6;
        let median = run.quantile(0.5);
        self.row(name, millis(median), &text(median), false, &format!("{}, {size:.1} MB", run.spread()));
    }

    /// The median time of a delivery.
    pub(crate) fn latency(&mut self, name: &str, run: &Run) {
        let rate = run.times.len() as f64 / run.took.as_secs_f64();
        let median = run.quantile(0.5);
        let more = format!("{}, {rate:.0} events/s", run.spread());
        self.row(name, millis(median), &text(median), false, &more);
    }

    /// One time.
    pub(crate) fn milliseconds(&mut self, name: &str, took: Duration) {
        self.row(name, millis(took), &text(took), false, "");
    }

    /// Time of processors, as a share of one.
    pub(crate) fn processor(&mut self, name: &str, used: Duration, window: Duration, note: &str) {
        let percent = used.as_secs_f64() / window.as_secs_f64() * 100.0;
        self.row(name, percent, &format!("{percent:.2} %"), false, note);
    }

    /// Memory.
    pub(crate) fn memory(&mut self, name: &str, bytes: u64) {
        let megabytes = bytes as f64 / 1e6;
        let digits = if megabytes < 10.0 { 2 } else { 0 };
        self.row(name, megabytes, &format!("{megabytes:.digits$} MB"), false, "");
    }

    fn row(&mut self, name: &str, number: f64, shown: &str, more_is_better: bool, note: &str) {
        if !self.wants(name) {
            return;
        }
        let anchor = self.anchors.iter().find(|(work, _, _)| *work == name);
        let (upstream, floor) = anchor.map_or(("", ""), |(_, upstream, floor)| (*upstream, *floor));
        let ratio = leading_number(upstream)
            .map(|theirs| if more_is_better { number / theirs } else { theirs / number })
            .map_or_else(String::new, |ratio| format!("{ratio:.1} x"));
        let short = leading_number(floor)
            .is_some_and(|floor| if more_is_better { number < floor } else { number > floor });
        let mark = if short { "  SHORT" } else { "" };
        println!("{name:<44} {shown:>12} {upstream:>12} {ratio:>10} {floor:>10}  {note}{mark}");
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn text(time: Duration) -> String {
    let number = millis(time);
    if number < 10.0 { format!("{number:.2} ms") } else { format!("{number:.0} ms") }
}

/// The number a figure begins with.
fn leading_number(text: &str) -> Option<f64> {
    text.split(' ').next()?.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_numbers() {
        let run = Run::new(Duration::from_secs(1), (0..101).rev().map(Duration::from_millis).collect(), 0);
        assert_eq!(run.quantile(0.5), Duration::from_millis(50));
        assert_eq!(run.quantile(0.99), Duration::from_millis(99));
        assert_eq!(leading_number("1,835 /s"), Some(1835.0));
        assert_eq!(leading_number(""), None);
        assert!(API.iter().all(|(_, _, floor)| leading_number(floor).is_some()));
    }
}
