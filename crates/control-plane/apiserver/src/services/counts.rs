//! How often addresses and ports of Services were given out, or could not be, as metrics.
//!
//! Counted when the Service is stored: neither a dry run nor a write that lost a race gives anything out.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use podium_client::metrics::head;

use crate::config::Cidr;

/// Who chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// The server.
    Dynamic,
    /// The client.
    Static,
}

const SCOPES: [&str; 2] = ["dynamic", "static"];

impl Scope {
    pub(super) fn of(asked: bool) -> Scope {
        if asked { Scope::Static } else { Scope::Dynamic }
    }

    fn name(self) -> &'static str {
        SCOPES[self as usize]
    }
}

/// What one Service is given.
#[derive(Debug, Default)]
pub(crate) struct Allocations {
    pub(super) addresses: Vec<(Cidr, Scope)>,
    pub(super) ports: Vec<Scope>,
}

/// Good ones, and those that failed.
type Outcomes = [u64; 2];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By block; there are few.
    addresses: Mutex<BTreeMap<(String, Scope), Outcomes>>,
    ports: [[AtomicU64; 2]; SCOPES.len()],
}

impl Counts {
    pub(super) fn add(&self, allocations: Allocations) {
        for (block, scope) in allocations.addresses {
            self.addresses.lock().entry((block.to_string(), scope)).or_default()[0] += 1;
        }
        for scope in allocations.ports {
            self.ports[scope as usize][0].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn address_failed(&self, block: Cidr, scope: Scope) {
        self.addresses.lock().entry((block.to_string(), scope)).or_default()[1] += 1;
    }

    pub(super) fn port_failed(&self, scope: Scope) {
        self.ports[scope as usize][1].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn render(&self, out: &mut String) {
        let addresses = self.addresses.lock().clone();
        for (index, name) in ["allocation_total", "allocation_errors_total"].into_iter().enumerate() {
            let name = format!("kube_apiserver_clusterip_allocator_{name}");
            let help = [
                "[ALPHA] Number of Cluster IPs allocations",
                "[ALPHA] Number of errors trying to allocate Cluster IPs",
            ];
            head(out, &name, "counter", help[index]);
            for ((block, scope), outcomes) in &addresses {
                if outcomes[index] > 0 {
                    let scope = scope.name();
                    let _ = writeln!(out, "{name}{{cidr=\"{block}\",scope=\"{scope}\"}} {}", outcomes[index]);
                }
            }
        }
        for (index, name) in ["allocation_total", "allocation_errors_total"].into_iter().enumerate() {
            let name = format!("kube_apiserver_nodeport_allocator_{name}");
            let help = [
                "[ALPHA] Number of NodePort allocations",
                "[ALPHA] Number of errors trying to allocate NodePort",
            ];
            head(out, &name, "counter", help[index]);
            for (scope, outcomes) in SCOPES.iter().zip(&self.ports) {
                let count = outcomes[index].load(Ordering::Relaxed);
                if count > 0 {
                    let _ = writeln!(out, "{name}{{scope=\"{scope}\"}} {count}");
                }
            }
        }
    }
}
