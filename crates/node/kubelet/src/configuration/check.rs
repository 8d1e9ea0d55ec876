//! What values a configuration may have: upstream's rules in upstream's words, and what this kubelet does not offer.

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderName, HeaderValue};
use podium_api::quantity::Quantity;

use super::{Configuration, Span, gates, tls};
use crate::{http_get::HttpTarget, images::verification::Policy};

/// Everything that is wrong.
pub(super) fn check(read: &Configuration) -> Vec<String> {
    let mut wrong = Wrong(Vec::new());
    access(read, &mut wrong);
    static_pods(read, &mut wrong);
    node(read, &mut wrong);
    shutdown(read, &mut wrong);
    resources(read, &mut wrong);
    reservations(read, &mut wrong);
    wrong.0.extend(tls::check(read));
    wrong.0.extend(gates::check(&read.feature_gates));
    wrong.0
}

struct Wrong(Vec<String>);

impl Wrong {
    fn unless(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.0.push(format!("invalid configuration: {}", text()));
        }
    }

    fn only(&mut self, fits: bool, field: &str, served: &str) {
        if !fits {
            self.0.push(format!("{field} is not supported: only {served} is"));
        }
    }
}

/// Who is let in: anonymous requests never are, tokens are always reviewed, and the API server always decides.
fn access(read: &Configuration, wrong: &mut Wrong) {
    wrong.only(!read.authentication.anonymous.enabled, "authentication.anonymous.enabled", "false");
    wrong.only(read.authentication.webhook.enabled, "authentication.webhook.enabled", "true");
    wrong.only(read.authorization.mode == "Webhook", "authorization.mode", "Webhook");
    // There is no TLS there, and nobody is asked who they are.
    wrong.only(read.healthz_bind_address.is_loopback(), "healthzBindAddress", "a loopback address");
    let both = read.tls_cert_file.is_some() == read.tls_private_key_file.is_some();
    wrong.unless(both, || "tlsCertFile and tlsPrivateKeyFile belong together".to_owned());
}

fn static_pods(read: &Configuration, wrong: &mut Wrong) {
    if let Some(url) = &read.static_pod_url {
        wrong.unless(HttpTarget::of(url, Vec::new()).is_some(), || {
            format!(
                "staticPodURL (--manifest-url) {url:?} must be a URL of http or https without a user in it"
            )
        });
    }
    for (name, values) in &read.static_pod_url_header {
        let good = HeaderName::from_bytes(name.as_bytes()).is_ok()
            && values.iter().all(|value| HeaderValue::from_str(value).is_ok());
        // A value may be a secret.
        wrong.unless(good, || {
            format!("staticPodURLHeader (--manifest-url-header) {name:?} is no header of HTTP")
        });
    }
}

fn node(read: &Configuration, wrong: &mut Wrong) {
    let driver = read.cgroup_driver.as_str();
    wrong.unless(matches!(driver, "cgroupfs" | "systemd"), || {
        format!("cgroupDriver {driver:?} must be one of cgroupfs, systemd")
    });
    wrong.unless(read.node_status_max_images >= -1, || {
        format!(
            "nodeStatusMaxImages (--node-status-max-images) {} must be -1 or greater",
            read.node_status_max_images
        )
    });
    let logs = read.pod_logs_dir.display();
    wrong.unless(read.pod_logs_dir.is_absolute(), || format!("pod logs path {logs:?} must be absolute path"));
    wrong.unless(read.container_log_max_files > 1, || {
        "containerLogMaxFiles must be greater than 1".to_owned()
    });
    wrong.unless(read.container_log_monitor_interval >= Span::seconds(3), || {
        "containerLogMonitorInterval must be a positive time duration greater than or equal to 3s".to_owned()
    });
    wrong.unless(read.log_bytes() > 0, || {
        format!("containerLogMaxSize {:?} is not a size such as 10Mi", read.container_log_max_size)
    });
    for taint in &read.register_with_taints {
        let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        wrong.unless(!taint.key.is_empty() && effects.contains(&taint.effect.as_str()), || {
            format!(
                "invalid taint: {}={}:{}",
                taint.key,
                taint.value.as_deref().unwrap_or_default(),
                taint.effect
            )
        });
        wrong.unless(taint.time_added.is_none(), || "taint.TimeAdded is not nil".to_owned());
    }
}

fn shutdown(read: &Configuration, wrong: &mut Wrong) {
    let (all, critical) = (read.shutdown_grace_period, read.shutdown_grace_period_critical_pods);
    wrong.unless(critical <= all, || {
        format!("shutdownGracePeriod {all} must be >= shutdownGracePeriodCriticalPods {critical}")
    });
    for (name, period) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        wrong.unless(period == Span::default() || period >= Span::seconds(1), || {
            format!("{name} {period} must be either zero or otherwise >= 1 sec")
        });
    }
    let groups = &read.shutdown_grace_period_by_pod_priority;
    wrong.unless(groups.is_empty() || (all == Span::default() && critical == Span::default()), || {
        "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time"
            .to_owned()
    });
    let mut seen = BTreeSet::new();
    for group in groups {
        let (priority, seconds) = (group.priority, group.shutdown_grace_period_seconds);
        wrong.unless(seen.insert(priority), || {
            format!("shutdownGracePeriodByPodPriority has priority {priority} more than once")
        });
        wrong.unless(seconds >= 0, || {
            format!("shutdownGracePeriodSeconds {seconds} of priority {priority} must not be negative")
        });
    }
}

fn resources(read: &Configuration, wrong: &mut Wrong) {
    let period = read.cpu_cfs_quota_period;
    wrong.unless((Duration::from_millis(1)..=Duration::from_secs(1)).contains(&period.0), || {
        format!("cpuCFSQuotaPeriod (--cpu-cfs-quota-period) {period} must be between 1ms and 1sec, inclusive")
    });
    let (high, low) = (read.image_gc_high_threshold_percent, read.image_gc_low_threshold_percent);
    for (percent, name) in [
        (high, "imageGCHighThresholdPercent (--image-gc-high-threshold)"),
        (low, "imageGCLowThresholdPercent (--image-gc-low-threshold)"),
    ] {
        wrong.unless(percent <= 100, || format!("{name} {percent} must be between 0 and 100, inclusive"));
    }
    wrong.unless(low < high, || {
        format!(
            "imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
        )
    });
    let (least, most) = (read.image_minimum_gc_age, read.image_maximum_gc_age);
    wrong.unless(most == Span::default() || most > least, || {
        format!("imageMaximumGCAge {most} must be greater than imageMinimumGCAge {least}")
    });
    wrong.unless(read.oom_score_adj.is_none_or(|score| (-1000..=1000).contains(&score)), || {
        format!(
            "oomScoreAdj (--oom-score-adj) {} must be between range [-1000, 1000]",
            read.oom_score_adj.unwrap_or_default()
        )
    });
    wrong.unless(read.max_parallel_image_pulls != Some(0), || {
        "maxParallelImagePulls 0 must be a positive number".to_owned()
    });
    wrong.0.extend(Policy::of(read).err().map(|why| format!("invalid configuration: {why}")));
    let serial = read.serialize_image_pulls == Some(true);
    wrong.unless(!serial || read.max_parallel_image_pulls.is_none_or(|most| most < 2), || {
        "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls (--serialize-image-pulls) is set to false"
            .to_owned()
    });
    let behavior = read.memory_swap.swap_behavior.as_str();
    wrong.unless(matches!(behavior, "" | "NoSwap" | "LimitedSwap"), || {
        format!("memorySwap.swapBehavior {behavior:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"")
    });
    let longest = read.crash_loop_back_off.max_container_restart_period;
    let bounds = Span::seconds(1)..=Span::seconds(300);
    wrong.unless(longest.is_none_or(|longest| bounds.contains(&longest)), || {
        let seconds = longest.unwrap_or_default().0.as_secs_f64();
        format!(
            "CrashLoopBackOff.MaxContainerRestartPeriod (got: {seconds} seconds) must be set between 1s and 300s"
        )
    });
    wrong.0.extend(
        crate::eviction::thresholds::parse(read).err().map(|why| format!("invalid configuration: {why}")),
    );
    for pattern in &read.allowed_unsafe_sysctls {
        wrong.unless(crate::sysctls::is_pattern(pattern), || {
            format!("sysctl whitelist entry {pattern:?} is neither a known sysctl name nor a sysctl pattern")
        });
    }
}

fn reservations(read: &Configuration, wrong: &mut Wrong) {
    for reservation in &read.reserved_memory {
        for (resource, amount) in &reservation.limits {
            let valid = amount.parse::<Quantity>().is_ok_and(|amount| amount > Quantity::ZERO);
            wrong.unless(valid, || {
                format!(
                    "reservedMemory of NUMA node {}: {resource} {amount:?} must be a quantity above zero",
                    reservation.numa_node
                )
            });
        }
    }
    for (field, list) in [("kubeReserved", &read.kube_reserved), ("systemReserved", &read.system_reserved)] {
        for (resource, amount) in list {
            let known = matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage" | "pid")
                || resource.starts_with("hugepages-");
            wrong.unless(known, || format!("cannot reserve {resource:?} resource ({field})"));
            wrong.unless(amount.parse::<Quantity>().is_ok_and(|amount| amount >= Quantity::ZERO), || {
                format!(
                    "{field}: quantity for {resource:?} resource cannot be negative or unreadable: {amount:?}"
                )
            });
        }
    }
    let mut seen = BTreeSet::new();
    for option in &read.enforce_node_allocatable {
        let flag = "enforceNodeAllocatable (--enforce-node-allocatable)";
        wrong.unless(seen.insert(option), || format!("duplicated enforcements {option:?} in {flag}"));
        let group = match option.as_str() {
            "pods" => continue,
            "none" => {
                wrong.unless(read.enforce_node_allocatable.len() == 1, || {
                    format!("{flag} may not contain additional enforcements when \"none\" is specified")
                });
                continue;
            }
            "system-reserved" | "system-reserved-compressible" => &read.system_reserved_cgroup,
            "kube-reserved" | "kube-reserved-compressible" => &read.kube_reserved_cgroup,
            other => {
                wrong.unless(false, || format!("option {other:?} specified for {flag}"));
                continue;
            }
        };
        let name = if option.starts_with("kube") { "kubeReservedCgroup" } else { "systemReservedCgroup" };
        wrong.unless(!group.is_empty(), || {
            format!("{name} must be specified when {option:?} included in {flag}")
        });
    }
}
