//! What `podium up` shows: each step with its time, as it happens.

use std::io::Write;
use std::time::{Duration, Instant};

/// The running account of a start.
#[derive(Debug)]
pub(crate) struct Steps {
    started: Instant,
    last: Instant,
}

impl Steps {
    pub(crate) fn start() -> Self {
        let now = Instant::now();
        Steps { started: now, last: now }
    }

    /// Reports a step that just ended.
    pub(crate) fn done(&mut self, name: &str, detail: &str) {
        let now = Instant::now();
        say(&line(name, now - self.last, detail));
        self.last = now;
    }

    /// Reports the end of it all.
    pub(crate) fn ready(&self, what: &str) {
        say(&format!("{what} ready in {:.1} s", self.started.elapsed().as_secs_f64()));
    }
}

fn line(name: &str, took: Duration, detail: &str) -> String {
    let text = format!("  {name:<12} {:>7.3} s", took.as_secs_f64());
    if detail.is_empty() { text } else { format!("{text}  {detail}") }
}

/// Prints a line. A reader that has gone away is no reason to stop a cluster.
pub(crate) fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{text}");
    let _ = output.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_align() {
        assert_eq!(line("store", Duration::from_millis(12), ""), "  store          0.012 s");
        assert_eq!(
            line("API server", Duration::from_millis(1234), "port 1"),
            "  API server     1.234 s  port 1"
        );
    }
}
