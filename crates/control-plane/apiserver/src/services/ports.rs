//! The node ports of Services. Pure: whether a port is free is asked of the caller.
//!
//! Source: upstream's `initNodePorts`, `updateNodePorts` and `updateHealthCheckNodePort`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use podium_api::field::{Errors, Path};
use podium_api::kinds::service::{has_node_ports, needs_health_check};
use podium_api::status::ApiError;
use serde_json::{Value, json};

use super::{Held, RANDOM_TRIES};

/// The ports that one write takes.
pub(super) struct Operation<'a> {
    range: &'a RangeInclusive<u16>,
    free: &'a dyn Fn(u16) -> bool,
    taken: BTreeSet<u16>,
}

impl<'a> Operation<'a> {
    pub(super) fn new(range: &'a RangeInclusive<u16>, free: &'a dyn Fn(u16) -> bool) -> Self {
        Operation { range, free, taken: BTreeSet::new() }
    }

    /// Gives a Service the ports that it needs and does not have.
    ///
    /// Errors: 422 where a port asked for cannot be had, 500 where none is left.
    pub(super) fn fill(mut self, new: &mut Value, old: Option<&Value>, name: &str) -> Result<(), ApiError> {
        let spec = &mut new["spec"];
        if has_node_ports(spec) {
            let allocates =
                spec["type"] == "NodePort" || spec["allocateLoadBalancerNodePorts"] != json!(false);
            let ports = spec["ports"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
            match old {
                None => self.fill_new(ports, allocates, name)?,
                Some(old) => self.fill_changed(ports, allocates, &Held::of(old).ports, name)?,
            }
        }
        if needs_health_check(spec) && !old.is_some_and(|old| needs_health_check(&old["spec"])) {
            self.fill_health_check(spec)?;
        }
        Ok(())
    }

    /// Ports of one number share their node port, as DNS over UDP and TCP wants.
    fn fill_new(&mut self, ports: &mut [Value], allocates: bool, name: &str) -> Result<(), ApiError> {
        let mut shared: BTreeMap<i64, i64> = BTreeMap::new();
        for index in 0..ports.len() {
            let (own, wanted) = (number(&ports[index], "port"), number(&ports[index], "nodePort"));
            if wanted == 0 && !allocates {
                continue;
            }
            let given = match shared.get(&own) {
                None => {
                    let asked = ports
                        .iter()
                        .filter(|port| number(port, "port") == own)
                        .map(|port| number(port, "nodePort"))
                        .find(|number| *number != 0);
                    let given = match asked {
                        Some(asked) => self.take(asked).map_err(|why| refused(name, index, asked, &why))?,
                        None => self.next().ok_or_else(none_left)?,
                    };
                    shared.insert(own, given);
                    given
                }
                Some(known) if wanted == 0 || wanted == *known => *known,
                Some(_) => self.take(wanted).map_err(|why| refused(name, index, wanted, &why))?,
            };
            ports[index]["nodePort"] = json!(given);
        }
        Ok(())
    }

    fn fill_changed(
        &mut self,
        ports: &mut [Value],
        allocates: bool,
        held: &BTreeSet<u16>,
        name: &str,
    ) -> Result<(), ApiError> {
        for (index, port) in ports.iter_mut().enumerate() {
            let wanted = number(port, "nodePort");
            let has = u16::try_from(wanted).is_ok_and(|it| held.contains(&it) || self.taken.contains(&it));
            if wanted == 0 && allocates {
                port["nodePort"] = json!(self.next().ok_or_else(none_left)?);
            } else if wanted != 0 && !has {
                self.take(wanted).map_err(|why| refused(name, index, wanted, &why))?;
            }
        }
        Ok(())
    }

    fn fill_health_check(&mut self, spec: &mut Value) -> Result<(), ApiError> {
        let wanted = number(spec, "healthCheckNodePort");
        if wanted == 0 {
            let chosen = self.next().ok_or_else(|| {
                ApiError::internal("failed to allocate a HealthCheck NodePort 0: range is full")
            })?;
            spec["healthCheckNodePort"] = json!(chosen);
            return Ok(());
        }
        self.take(wanted).map(drop).map_err(|why| {
            ApiError::internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {why}"))
        })
    }

    /// Takes this port.
    fn take(&mut self, wanted: i64) -> Result<i64, String> {
        let port = u16::try_from(wanted).ok().filter(|port| self.range.contains(port));
        let Some(port) = port else {
            let (start, end) = (self.range.start(), self.range.end());
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {start}-{end}"
            ));
        };
        if !(self.free)(port) || !self.taken.insert(port) {
            return Err("provided port is already allocated".to_owned());
        }
        Ok(wanted)
    }

    /// Takes any port.
    fn next(&mut self) -> Option<i64> {
        let (start, end) = (*self.range.start(), *self.range.end());
        let size = end.saturating_sub(start);
        // The lower part is for numbers that people choose. Source: KEP-3668.
        let low = start + (size / 32).clamp(16, 128).min(size);
        let free = |number: &u16| !self.taken.contains(number) && (self.free)(*number);
        let random = (0..RANDOM_TRIES).map(|_| fastrand::u16(low..=end)).find(free);
        let chosen = random.or_else(|| (low..=end).chain(start..low).find(free))?;
        self.taken.insert(chosen);
        Some(i64::from(chosen))
    }
}

fn number(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap_or(0)
}

fn refused(name: &str, index: usize, port: i64, why: &str) -> ApiError {
    let mut errors = Errors::new();
    let spec = Path::new("spec");
    errors.invalid(&spec.child("ports").index(index).child("nodePort"), port, why);
    ApiError::invalid("", "Service", name, &errors)
}

fn none_left() -> ApiError {
    ApiError::internal("failed to allocate a nodePort: range is full")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ports 30000 to 30003, of which 30001 is another's.
    fn fill(new: &Value, old: Option<&Value>) -> Result<Value, String> {
        let mut new = json!({"spec": new});
        let old = old.map(|old| json!({"spec": old}));
        let range = 30000..=30003;
        let operation = Operation::new(&range, &|port| port != 30001);
        operation.fill(&mut new, old.as_ref(), "s").map_err(|error| error.message)?;
        Ok(new["spec"].take())
    }

    fn ports(spec: &Value) -> Vec<i64> {
        spec["ports"].as_array().unwrap().iter().map(|port| number(port, "nodePort")).collect()
    }

    #[test]
    fn new_services_get_what_they_ask_for_and_share_it() {
        let dns = fill(
            &json!({"type": "NodePort", "ports": [{"port": 53}, {"port": 53, "nodePort": 30002}]}),
            None,
        );
        assert_eq!(ports(&dns.unwrap()), [30002, 30002]);
        let two =
            fill(&json!({"type": "NodePort", "ports": [{"port": 80}, {"port": 81}, {"port": 80}]}), None)
                .unwrap();
        let given = ports(&two);
        assert!(given[0] == given[2] && given[0] != given[1] && !given.contains(&30001), "{given:?}");
        let none = fill(
            &json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}),
            None,
        );
        assert_eq!(ports(&none.unwrap()), [0]);
        let inside = fill(&json!({"type": "ClusterIP", "ports": [{"port": 80}]}), None);
        assert_eq!(ports(&inside.unwrap()), [0]);
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for (ports, fault) in [
            (
                json!([{"port": 80, "nodePort": 30001}]),
                "[0].nodePort: Invalid value: 30001: provided port is already allocated",
            ),
            (
                json!([{"port": 80}, {"port": 81, "nodePort": 70000}]),
                "[1].nodePort: Invalid value: 70000: provided port is not in the valid range. The range of valid ports is 30000-30003",
            ),
            (
                json!([{"port": 80, "nodePort": 30002}, {"port": 81, "nodePort": 30002}]),
                "[1].nodePort: Invalid value: 30002: provided port is already allocated",
            ),
        ] {
            let refused = fill(&json!({"type": "NodePort", "ports": ports}), None).unwrap_err();
            assert_eq!(refused, format!("Service \"s\" is invalid: spec.ports{fault}"));
        }
        let many: Vec<Value> = (0..4).map(|port| json!({"port": 80 + port})).collect();
        let refused = fill(&json!({"type": "NodePort", "ports": many}), None).unwrap_err();
        assert!(refused.ends_with("failed to allocate a nodePort: range is full"), "{refused}");
    }

    #[test]
    fn a_change_keeps_what_it_has() {
        let old = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]});
        let new = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}, {"port": 81}]});
        let given = ports(&fill(&new, Some(&old)).unwrap());
        assert!(given[0] == 30001 && (30000..=30003).contains(&given[1]), "{given:?}");
        let new = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30009}]});
        assert!(fill(&new, Some(&old)).unwrap_err().contains("not in the valid range"));
    }

    #[test]
    fn nodes_are_asked_for_their_health_at_a_port() {
        let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [],
            "allocateLoadBalancerNodePorts": false});
        let given = fill(&local, None).unwrap();
        assert!((30000..=30003).contains(&number(&given, "healthCheckNodePort")), "{given}");
        assert_eq!(fill(&given, Some(&given)).unwrap(), given);
        let mut taken = local;
        taken["healthCheckNodePort"] = json!(30001);
        let refused = fill(&taken, None).unwrap_err();
        assert!(
            refused.contains(
                "failed to allocate requested HealthCheck NodePort 30001: provided port is already allocated"
            ),
            "{refused}"
        );
    }
}
