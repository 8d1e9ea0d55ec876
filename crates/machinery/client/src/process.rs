//! What every program tells of itself by Prometheus' client libraries, under the same names.

use std::fmt::Write as _;
use std::fs;

/// Ticks of a second in `/proc`: Linux counts so on every machine that Rust runs on, whatever the kernel's own clock.
const TICKS: f64 = 100.0;

/// The metrics of this process in the text exposition format.
pub fn process_metrics() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let files = Files {
        stat: &read("/proc/self/stat"),
        status: &read("/proc/self/status"),
        limits: &read("/proc/self/limits"),
        network: &read("/proc/self/net/netstat"),
        machine: &read("/proc/stat"),
    };
    exposition(&files, open)
}

/// The texts that are read.
struct Files<'a> {
    stat: &'a str,
    status: &'a str,
    limits: &'a str,
    /// Of the network namespace that the process is in.
    network: &'a str,
    machine: &'a str,
}

fn exposition(files: &Files<'_>, open: usize) -> String {
    // Behind the name, which may hold anything; the kernel's manual counts from 1, and field 3 is the first here.
    let fields: Vec<&str> =
        files.stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |at: usize| fields.get(at - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let word = |text: &str, line: &str| -> f64 {
        let rest = text.lines().find_map(|it| it.strip_prefix(line));
        rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
    };
    let rows = [
        (
            "process_network_receive_bytes_total",
            "counter",
            "Number of bytes received by the process over the network.",
            column(files.network, "IpExt:", "InOctets"),
        ),
        (
            "process_network_transmit_bytes_total",
            "counter",
            "Number of bytes sent by the process over the network.",
            column(files.network, "IpExt:", "OutOctets"),
        ),
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            (field(14) + field(15)) / TICKS,
        ),
        (
            "process_max_fds",
            "gauge",
            "Maximum number of open file descriptors.",
            word(files.limits, "Max open files"),
        ),
        ("process_open_fds", "gauge", "Number of open file descriptors.", open as f64),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            word(files.status, "VmRSS:") * 1024.0,
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            word(files.machine, "btime ") + field(22) / TICKS,
        ),
        ("process_threads", "gauge", "Number of OS threads in the process.", field(20)),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23)),
        (
            "process_virtual_memory_max_bytes",
            "gauge",
            "Maximum amount of virtual memory available in bytes.",
            most_memory(files.limits),
        ),
    ];
    let mut out = String::new();
    for (name, kind, help, number) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {number}");
    }
    out
}

/// The number in a table of which each row comes twice: with the names of its columns, and with what is in them.
fn column(text: &str, row: &str, name: &str) -> f64 {
    let mut rows = text.lines().filter_map(|line| line.strip_prefix(row)).map(str::split_whitespace);
    let (Some(mut names), Some(mut numbers)) = (rows.next(), rows.next()) else { return 0.0 };
    let number = names.position(|it| it == name).and_then(|at| numbers.nth(at));
    number.and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Without a limit it is the largest number there is, as Go's client has it.
fn most_memory(limits: &str) -> f64 {
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max address space"));
    let limit = limit.and_then(|rest| rest.split_whitespace().next()).unwrap_or("unlimited");
    limit.parse().unwrap_or(u64::MAX as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str, name: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }

    #[test]
    fn the_kernels_texts_are_read() {
        let mut fields = vec!["0"; 50];
        for (at, text) in [(14, "150"), (15, "50"), (20, "7"), (22, "300"), (23, "8192")] {
            fields[at - 3] = text;
        }
        let files = Files {
            stat: &format!("1 (a) b) {}", fields.join(" ")),
            status: "Name:\ta\nVmRSS:\t    12 kB\n",
            limits: "Max open files            1024                 4096                 files\n\
                     Max address space         65536                unlimited            bytes\n",
            network: "TcpExt: SyncookiesSent\nTcpExt: 9\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 1 20 300\n",
            machine: "cpu 1 2\nbtime 1000\n",
        };
        let text = exposition(&files, 5);
        for (name, expected) in [
            ("process_cpu_seconds_total", 2.0),
            ("process_max_fds", 1024.0),
            ("process_network_receive_bytes_total", 20.0),
            ("process_network_transmit_bytes_total", 300.0),
            ("process_virtual_memory_max_bytes", 65536.0),
            ("process_open_fds", 5.0),
            ("process_resident_memory_bytes", 12288.0),
            ("process_start_time_seconds", 1003.0),
            ("process_threads", 7.0),
            ("process_virtual_memory_bytes", 8192.0),
        ] {
            assert_eq!(number(&text, name), expected, "{name}");
        }
    }

    #[test]
    fn no_limit_of_memory_is_the_largest_number() {
        for limits in ["", "Max address space         unlimited            unlimited            bytes\n"] {
            assert_eq!(most_memory(limits), u64::MAX as f64);
        }
    }

    #[test]
    fn a_process_measures_itself() {
        let text = process_metrics();
        assert!(number(&text, "process_resident_memory_bytes") > 1e6);
        assert!(number(&text, "process_open_fds") >= 3.0);
        assert!(number(&text, "process_start_time_seconds") > 1.6e9);
        assert!(number(&text, "process_threads") >= 1.0);
    }
}
