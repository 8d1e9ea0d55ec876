//! The claims that this node knows. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A device of a claim, as its driver prepared it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) pool: String,
    pub(crate) device: String,
    pub(crate) share_id: Option<String>,
    /// The requests it was allocated for; none means all.
    pub(crate) requests: Vec<String>,
    pub(crate) cdi: Vec<String>,
}

/// A claim that pods here use, or one that has yet to be given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Uids of the pods.
    pub(crate) pods: BTreeSet<String>,
    /// By driver; empty until it has prepared the claim.
    pub(crate) drivers: BTreeMap<String, Vec<Device>>,
    /// In this life of the kubelet: what a driver did before may be gone with a boot of the machine, so it is asked again.
    #[serde(skip)]
    pub(crate) prepared: bool,
}

/// By namespace and name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims(BTreeMap<String, Claim>);

fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl Claims {
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.0.get(&key(namespace, name))
    }

    /// Notes that a pod uses a claim, before anything is done about it.
    pub(crate) fn refer(&mut self, claim: Claim, pod: &str) -> Result<(), String> {
        let uid = claim.uid.clone();
        let known = self.0.entry(key(&claim.namespace, &claim.name)).or_insert(claim);
        if known.uid != uid {
            return Err(format!(
                "old ResourceClaim with same name {} and different UID {} still exists (previous pod force-deleted?!)",
                known.name, known.uid
            ));
        }
        known.pods.insert(pod.to_owned());
        Ok(())
    }

    /// Notes what a driver has prepared.
    pub(crate) fn prepared_by(&mut self, uid: &str, driver: &str, devices: Vec<Device>) {
        if let Some(claim) = self.0.values_mut().find(|claim| claim.uid == uid) {
            claim.drivers.insert(driver.to_owned(), devices);
        }
    }

    /// Notes that all drivers have prepared a claim.
    pub(crate) fn prepared(&mut self, uid: &str) {
        for claim in self.0.values_mut().filter(|claim| claim.uid == uid) {
            claim.prepared = true;
        }
    }

    /// How many are prepared, by driver, and in all as `<any>`.
    pub(crate) fn in_use(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::from([("<any>".to_owned(), 0)]);
        for claim in self.0.values().filter(|claim| claim.prepared) {
            for driver in claim.drivers.keys().map(String::as_str).chain(["<any>"]) {
                *counts.entry(driver.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// What a pod uses.
    pub(crate) fn of_pod<'a>(&'a self, pod: &'a str) -> impl Iterator<Item = &'a Claim> {
        self.0.values().filter(move |claim| claim.pods.contains(pod))
    }

    /// Every pod that uses a claim.
    pub(crate) fn pods(&self) -> BTreeSet<&str> {
        self.0.values().flat_map(|claim| &claim.pods).map(String::as_str).collect()
    }

    /// A pod uses its claims no longer. Those that nobody uses then go; their drivers have been told.
    pub(crate) fn leave(&mut self, pod: &str) {
        self.0.retain(|_, claim| !claim.pods.remove(pod) || !claim.pods.is_empty());
    }
}

impl Claim {
    /// The CDI devices of one request of the claim, or of all of them.
    pub(crate) fn cdi<'a>(&'a self, request: Option<&'a str>) -> Vec<&'a str> {
        self.devices(request).flat_map(|(_, device)| &device.cdi).map(String::as_str).collect()
    }

    /// The devices of one request, or of all, with their drivers.
    pub(crate) fn devices<'a>(
        &'a self,
        request: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a str, &'a Device)> {
        let all =
            self.drivers.iter().flat_map(|(driver, list)| list.iter().map(move |one| (driver.as_str(), one)));
        all.filter(move |(_, device)| {
            let requests = &device.requests;
            request.is_none_or(|request| requests.is_empty() || requests.iter().any(|one| one == request))
        })
    }
}
