//! How many addresses and ports of Services are taken, and how many are free, as metrics.

use std::fmt::Write;
use std::net::IpAddr;

use podium_client::metrics::head;
use podium_store::{KeyRange, RangeOptions};

use super::addresses::Pool;
use super::{Services, ports_prefix};
use crate::catalogue::prefix;
use crate::config::Cidr;
use crate::core::Core;

impl Services {
    /// Counts what is stored at this moment.
    pub(crate) fn render(&self, core: &Core, out: &mut String) {
        let taken = addresses(core);
        let blocks: Vec<(Cidr, u64)> = Pool { core, own: self.cidr() }
            .blocks()
            .into_iter()
            .map(|block| (block, taken.iter().filter(|address| block.contains(**address)).count() as u64))
            .collect();
        let name = "kube_apiserver_clusterip_allocator_allocated_ips";
        head(out, name, "gauge", "[ALPHA] Addresses of the block that are taken.");
        for (block, taken) in &blocks {
            let _ = writeln!(out, "{name}{{cidr=\"{block}\"}} {taken}");
        }
        let name = "kube_apiserver_clusterip_allocator_available_ips";
        head(out, name, "gauge", "[ALPHA] Addresses of the block that are free.");
        for (block, taken) in &blocks {
            let _ = writeln!(out, "{name}{{cidr=\"{block}\"}} {}", usable(block).saturating_sub(*taken));
        }
        let ports = core.store.count(&KeyRange::prefix(ports_prefix()));
        let all = self.ports().len() as u64;
        for (name, help, number) in [
            ("allocated_ports", "Ports of Services on nodes that are taken.", ports),
            ("available_ports", "Ports of Services on nodes that are free.", all.saturating_sub(ports)),
        ] {
            let name = format!("kube_apiserver_nodeport_allocator_{name}");
            head(out, &name, "gauge", &format!("[ALPHA] {help}"));
            let _ = writeln!(out, "{name} {number}");
        }
        self.counts.render(out);
    }
}

/// How many addresses of the block Services may have.
fn usable(block: &Cidr) -> u64 {
    let ends = [block.at(0), block.at(block.size() - 1)];
    block.size() - ends.into_iter().filter(|end| block.is_edge(*end)).count() as u64
}

fn addresses(core: &Core) -> Vec<IpAddr> {
    let prefix = prefix("networking.k8s.io", "ipaddresses");
    let found = core.store.range(&KeyRange::prefix(&prefix), RangeOptions::default());
    let records = found.map(|found| found.records).unwrap_or_default();
    records
        .iter()
        .filter_map(|record| {
            std::str::from_utf8(record.key.as_bytes().get(prefix.len()..)?).ok()?.parse().ok()
        })
        .collect()
}
