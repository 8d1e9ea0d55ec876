//! `/healthz`, `/livez` and `/readyz`: named checks, all at once or one alone.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use http::StatusCode;

use crate::authorization::go_quote;
use crate::core::Core;
use crate::request::Query;
use crate::response::{self, Reply};

/// The endpoints.
const KINDS: [&str; 3] = ["healthz", "livez", "readyz"];

/// The endpoint of a path, and the one check that it asks for; empty for all.
pub(super) fn of_path(path: &str) -> Option<(&'static str, &str)> {
    let rest = path.strip_prefix('/')?;
    let kind = KINDS.into_iter().find(|kind| rest.starts_with(kind))?;
    match &rest[kind.len()..] {
        "" => Some((kind, "")),
        rest => rest.strip_prefix('/').filter(|check| !check.is_empty()).map(|check| (kind, check)),
    }
}

/// Every path there is.
pub(super) fn paths(core: &Core) -> Vec<String> {
    let of_kind = |kind: &'static str| {
        let checks = checks(core, kind).into_iter().map(move |(name, _)| format!("/{kind}/{name}"));
        std::iter::once(format!("/{kind}")).chain(checks)
    };
    KINDS.into_iter().flat_map(of_kind).collect()
}

/// The checks of an endpoint, with whether each passes, in upstream's order.
///
/// Not here, because nothing here stands for them: the hooks of custom resources (`start-apiextensions-*`,
/// `crd-informer-synced`), of aggregation (`apiservice-*`, `start-kube-aggregator-informers`, `autoregister-completion`,
/// `aggregator-reload-proxy-client-cert`), of the servers' identity leases, of the tracking of old tokens, and
/// `loopback-serving-certificate`: the process' own parts call without TLS.
fn checks(core: &Core, kind: &str) -> Vec<(&'static str, bool)> {
    let booted = core.booted.load(Ordering::Acquire);
    let mut checks = vec![("ping", true), ("log", true), ("etcd", core.store.revision() > 0)];
    if kind == "readyz" {
        checks.push(("etcd-readiness", core.store.revision() > 0));
        checks.push(("informer-sync", true));
    }
    checks.extend([
        ("poststarthook/start-apiserver-admission-initializer", true),
        ("poststarthook/generic-apiserver-start-informers", true),
        ("poststarthook/priority-and-fairness-config-consumer", true),
        ("poststarthook/priority-and-fairness-filter", true),
        ("poststarthook/storage-object-count-tracker-hook", true),
        ("poststarthook/rbac/bootstrap-roles", booted),
        ("poststarthook/scheduling/bootstrap-system-priority-classes", booted),
        ("poststarthook/priority-and-fairness-config-producer", booted),
        ("poststarthook/bootstrap-controller", booted),
        ("poststarthook/start-system-namespaces-controller", booted),
        // What extension servers are told is written with the rest, and so is the ServiceCIDR; its addresses and
        // the Services' ports are looked after as soon as that is done.
        ("poststarthook/start-cluster-authentication-info-controller", booted),
        ("poststarthook/start-kubernetes-service-cidr-controller", booted),
        ("poststarthook/start-service-ip-repair-controllers", booted),
    ]);
    if kind == "readyz" {
        checks.push(("shutdown", !core.shutdown.is_cancelled()));
    }
    checks
}

/// Source: upstream's `apiserver/pkg/server/healthz`.
pub(super) fn serve(core: &Core, kind: &str, only: &str, query: &Query) -> Reply {
    let checks = checks(core, kind);
    if !only.is_empty() {
        let Some((name, good)) = checks.into_iter().find(|(name, _)| *name == only) else {
            return response::no_page();
        };
        return match good {
            true => response::text(StatusCode::OK, "ok"),
            // Who may ask for one check may know why it fails.
            false => response::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("internal server error: {name}: not finished\n"),
            ),
        };
    }
    let mut unknown: BTreeSet<&str> = query.all("exclude").collect();
    let excluded = unknown.clone();
    let mut text = String::new();
    let mut failed = false;
    for (name, good) in &checks {
        if excluded.contains(name) {
            unknown.remove(name);
            let _ = writeln!(text, "[+]{name} excluded: ok");
            continue;
        }
        core.metrics.checks.observe(kind, name, *good);
        if *good {
            let _ = writeln!(text, "[+]{name} ok");
        } else {
            failed = true;
            let _ = writeln!(text, "[-]{name} failed: reason withheld");
        }
    }
    if !unknown.is_empty() {
        let names: Vec<String> = unknown.into_iter().map(go_quote).collect();
        let names = names.join(",");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {names}");
    }
    if failed {
        let _ = writeln!(text, "{kind} check failed");
        return response::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    if query.has("verbose") {
        let _ = writeln!(text, "{kind} check passed");
        return response::text(StatusCode::OK, text);
    }
    response::text(StatusCode::OK, "ok")
}

#[cfg(test)]
mod tests {
    use super::of_path;

    #[test]
    fn paths_of_checks() {
        assert_eq!(of_path("/livez"), Some(("livez", "")));
        assert_eq!(of_path("/readyz/poststarthook/a/b"), Some(("readyz", "poststarthook/a/b")));
        for none in ["/livez/", "/livezz", "livez", "/", "/live"] {
            assert_eq!(of_path(none), None, "{none}");
        }
    }
}
