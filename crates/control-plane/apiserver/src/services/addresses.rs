//! The cluster addresses of Services: from the server's own block and from every ServiceCIDR that is ready.

use std::net::IpAddr;

use podium_api::field::{Errors, Path};
use podium_api::status::ApiError;
use podium_store::{KeyRange, RangeOptions};
use serde_json::{Value, json};

use super::{RANDOM_TRIES, address_key};
use crate::catalogue::prefix;
use crate::config::Cidr;
use crate::core::Core;
use crate::storage;

/// Where addresses are looked for.
pub(super) struct Pool<'a> {
    pub(super) core: &'a Core,
    /// The block that the server was started with.
    pub(super) own: Cidr,
}

impl Pool<'_> {
    /// Gives a Service that needs one its address; one that has an address keeps it.
    ///
    /// Errors: 422 where the address asked for cannot be had, 500 where none is left.
    pub(super) fn fill(&self, new: &mut Value, old: Option<&Value>, name: &str) -> Result<(), ApiError> {
        let spec = &mut new["spec"];
        let addressed = |spec: &Value| spec["type"] != "ExternalName";
        if !addressed(spec)
            || spec["clusterIPs"][0] == "None"
            || old.is_some_and(|old| addressed(&old["spec"]))
        {
            return Ok(());
        }
        let wanted = spec["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
        let address = if wanted.is_empty() {
            self.choose().ok_or_else(|| {
                let why = "range is full";
                ApiError::internal(format!("failed to allocate a serviceIP for Service {name:?}: {why}"))
            })?
        } else {
            self.check(&wanted).map_err(|why| {
                let mut errors = Errors::new();
                let why = format!("failed to allocate IP {wanted}: {why}");
                errors.invalid(&Path::new("spec").child("clusterIPs"), spec["clusterIPs"].clone(), &why);
                ApiError::invalid("", "Service", name, &errors)
            })?;
            wanted
        };
        spec["clusterIP"] = json!(address);
        spec["clusterIPs"] = json!([address]);
        Ok(())
    }

    /// The blocks to allocate from, the server's own first.
    pub(super) fn blocks(&self) -> Vec<Cidr> {
        let mut blocks = vec![self.own];
        blocks.extend(service_cidrs(self.core).iter().filter(|cidr| is_ready(cidr)).flat_map(blocks_of));
        blocks.retain(|block| block.is_ipv4() == self.own.is_ipv4());
        blocks
    }

    /// The block that an address is of: the server's own where it is of none any more.
    pub(super) fn block_of(&self, address: IpAddr) -> Cidr {
        self.blocks().into_iter().find(|block| block.contains(address)).unwrap_or(self.own)
    }

    fn check(&self, wanted: &str) -> Result<(), String> {
        let address: IpAddr = wanted.parse().map_err(|_| "it is not an address".to_owned())?;
        let blocks = self.blocks();
        let Some(block) = blocks.iter().find(|block| block.contains(address)) else {
            return Err("the provided network does not match the current range".to_owned());
        };
        if block.is_edge(address) {
            return Err(format!(
                "the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {block}"
            ));
        }
        if self.core.store.get(&address_key(address)).is_some() {
            return Err("provided IP is already allocated".to_owned());
        }
        Ok(())
    }

    fn choose(&self) -> Option<String> {
        self.blocks().iter().find_map(|block| self.choose_in(*block))
    }

    /// A free address, from the upper part of the block as upstream does, so that the lower part stays free for
    /// addresses that people choose.
    fn choose_in(&self, block: Cidr) -> Option<String> {
        let size = block.size();
        // The first address and the last are never given to Services.
        let (first, last) = (1, size.saturating_sub(2));
        let reserved = (size / 16).clamp(16, 256);
        let low = if reserved < last { reserved + 1 } else { first };
        let free = |offset: u64| {
            let address = block.at(offset);
            self.core.store.get(&address_key(address)).is_none().then(|| address.to_string())
        };
        if low <= last {
            for _ in 0..RANDOM_TRIES {
                if let Some(address) = free(fastrand::u64(low..=last)) {
                    return Some(address);
                }
            }
        }
        (low..=last).chain(first..low).find_map(free)
    }
}

/// Every ServiceCIDR object. They are few.
fn service_cidrs(core: &Core) -> Vec<Value> {
    let range = KeyRange::prefix(prefix("networking.k8s.io", "servicecidrs"));
    match core.store.range(&range, RangeOptions::default()) {
        Ok(found) => found.records.iter().filter_map(|record| storage::parse(record).ok()).collect(),
        Err(error) => {
            tracing::error!(%error, "service blocks could not be read");
            Vec::new()
        }
    }
}

/// The blocks of one ServiceCIDR.
pub(super) fn blocks_of(cidr: &Value) -> Vec<Cidr> {
    let blocks = cidr["spec"]["cidrs"].as_array().into_iter().flatten();
    blocks.filter_map(|block| block.as_str()?.parse().ok()).collect()
}

/// Nothing is allocated from a block that is being deleted, or not ready yet.
fn is_ready(cidr: &Value) -> bool {
    let conditions = cidr["status"]["conditions"].as_array().into_iter().flatten();
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    cidr["metadata"]["deletionTimestamp"].is_null() && conditions.into_iter().any(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ready_blocks_are_allocated_from() {
        let cidr = |status: &str, deleted: Value| {
            json!({"metadata": {"deletionTimestamp": deleted}, "spec": {"cidrs": ["10.9.0.0/24", "fd00::/112", "nonsense"]},
                "status": {"conditions": [{"type": "Ready", "status": status}]}})
        };
        assert!(is_ready(&cidr("True", Value::Null)));
        assert!(!is_ready(&cidr("False", Value::Null)));
        assert!(!is_ready(&cidr("True", json!("2026-01-01T00:00:00Z"))));
        assert!(!is_ready(&json!({})));
        let blocks: Vec<String> =
            blocks_of(&cidr("True", Value::Null)).iter().map(ToString::to_string).collect();
        assert_eq!(blocks, ["10.9.0.0/24", "fd00::/112"]);
    }
}
