//! `/statusz` and `/flagz`: what this server is, and how it was started.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use podium_api::zpages::{self, Component, Page};

use super::{Asked, paths};
use crate::config::Config;
use crate::core::Core;
use crate::response::{self, Reply};

/// As upstream's API server calls itself on these pages.
const NAME: &str = "apiserver";

/// `/statusz`.
pub(super) fn statusz(core: &Core, asked: Asked<'_>) -> Reply {
    let paths = paths(core);
    let component = Component::of_build(NAME, core.started, &paths);
    answer(Page::Statusz(component), asked)
}

/// `/flagz`.
pub(super) fn flagz(core: &Core, asked: Asked<'_>) -> Reply {
    answer(Page::Flagz { name: NAME, flags: &flags(&core.config, core.advertised_port()) }, asked)
}

fn answer(page: Page<'_>, asked: Asked<'_>) -> Reply {
    let accept = asked.accept();
    let pick = fastrand::usize(..);
    let asked = zpages::Asked { accept, pretty: asked.pretty, now: Timestamp::now(), pick };
    let answer = zpages::answer(page, asked);
    let code = StatusCode::from_u16(answer.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = response::bytes(code, answer.content_type, answer.body);
    if let Some(warning) = answer.warning {
        reply.headers_mut().insert("warning", HeaderValue::from_static(warning));
    }
    reply
}

/// What the server was told, under the names of upstream's flags; those that it does not have here are not listed.
/// None of them is a secret: keys are told as files to who starts the server, and never get here.
fn flags(config: &Config, port: u16) -> BTreeMap<String, String> {
    let issuer = config.issuer.as_ref();
    let limits = &config.limits;
    let features = config.features;
    let gates = [
        ("ClusterTrustBundle", features.cluster_trust_bundle),
        ("ClusterTrustBundleProjection", features.cluster_trust_bundle_projection),
    ];
    let gates: Vec<String> =
        gates.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name}=true")).collect();
    let flags = [
        ("advertise-address", config.advertise_address.to_string()),
        ("api-audiences", list(issuer.map(|issuer| issuer.audiences.as_slice()).unwrap_or_default())),
        ("bind-address", config.bind.ip().to_string()),
        ("event-ttl", go_duration(limits.event_ttl)),
        ("feature-gates", gates.join(",")),
        ("max-mutating-requests-inflight", limits.mutating.to_string()),
        ("max-requests-inflight", limits.reading.to_string()),
        ("request-timeout", go_duration(limits.request)),
        ("requestheader-allowed-names", list(&config.authentication.proxy_names)),
        ("secure-port", port.to_string()),
        (
            "service-account-issuer",
            list(&issuer.map(|issuer| issuer.issuer.clone()).into_iter().collect::<Vec<_>>()),
        ),
        ("service-cluster-ip-range", config.service_cidr.to_string()),
        ("service-node-port-range", format!("{}-{}", config.node_ports.start(), config.node_ports.end())),
    ];
    flags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A list as the flags' library prints it.
fn list(values: &[String]) -> String {
    format!("[{}]", values.join(","))
}

/// Whole seconds as Go prints them: `45s`, `1m0s`, `1h0m0s`.
fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (seconds, text) in [(0, "0s"), (45, "45s"), (60, "1m0s"), (3600, "1h0m0s"), (3725, "1h2m5s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
    }
}
