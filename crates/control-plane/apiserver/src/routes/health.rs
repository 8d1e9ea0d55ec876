//! `/healthz`, `/livez` and `/readyz`: named checks, all at once or one alone.

use std::sync::atomic::Ordering;

use http::StatusCode;
pub(super) use podium_api::healthz::of_path;
use podium_api::healthz::{self, Check, ENDPOINTS};

use crate::core::Core;
use crate::request::Query;
use crate::response::{self, Reply};

/// Every path there is.
pub(super) fn paths(core: &Core) -> Vec<String> {
    let of_kind = |kind: &'static str| {
        let checks = checks(core, kind).into_iter().map(move |check| format!("/{kind}/{}", check.name));
        std::iter::once(format!("/{kind}")).chain(checks)
    };
    ENDPOINTS.into_iter().flat_map(of_kind).collect()
}

/// The checks of an endpoint, with whether each passes, in upstream's order.
///
/// Not here, because nothing here stands for them: the hooks of custom resources (`start-apiextensions-*`,
/// `crd-informer-synced`), of aggregation (`apiservice-*`, `start-kube-aggregator-informers`, `autoregister-completion`,
/// `aggregator-reload-proxy-client-cert`), of the servers' identity leases, of the tracking of old tokens, and
/// `loopback-serving-certificate`: the process' own parts call without TLS.
fn checks(core: &Core, kind: &str) -> Vec<Check> {
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
    let fault = |good: bool| (!good).then(|| "not finished".to_owned());
    checks.into_iter().map(|(name, good)| Check::new(name, fault(good))).collect()
}

pub(super) fn serve(core: &Core, kind: &str, only: &str, query: &Query) -> Reply {
    let checks = checks(core, kind);
    let observe = |name: &str, good| core.metrics.checks.observe(kind, name, good);
    let answer = match only {
        "" => Some(healthz::all(kind, &checks, query.all("exclude"), query.has("verbose"), observe)),
        only => healthz::one(&checks, only),
    };
    let Some((code, text)) = answer else { return response::no_page() };
    response::text(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), text)
}
