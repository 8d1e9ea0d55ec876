//! Which controllers run: `--controllers`, with upstream's names, old and new.

use std::collections::BTreeSet;

use super::{Error, OFF_BY_DEFAULT, names};

/// Names that controllers had before v1.28 and that still stand for them. Source: `cmd/kube-controller-manager/app`.
const ALIASES: &[(&str, &str)] = &[
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("clusterrole-aggregation", "clusterrole-aggregation-controller"),
    ("cronjob", "cronjob-controller"),
    ("csrapproving", "certificatesigningrequest-approving-controller"),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("csrsigning", "certificatesigningrequest-signing-controller"),
    ("daemonset", "daemonset-controller"),
    ("deployment", "deployment-controller"),
    ("disruption", "disruption-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslice", "endpointslice-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("ephemeral-volume", "ephemeral-volume-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("job", "job-controller"),
    ("legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
    ("namespace", "namespace-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("persistentvolume-binder", "persistentvolume-binder-controller"),
    ("persistentvolume-expander", "persistentvolume-expander-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("replicaset", "replicaset-controller"),
    ("replicationcontroller", "replicationcontroller-controller"),
    ("resource-claim-controller", "resourceclaim-controller"),
    ("resourcequota", "resourcequota-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("serviceaccount", "serviceaccount-controller"),
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("statefulset", "statefulset-controller"),
    ("storage-version-gc", "storageversion-garbage-collector-controller"),
    ("tokencleaner", "token-cleaner-controller"),
    ("ttl", "ttl-controller"),
    ("ttl-after-finished", "ttl-after-finished-controller"),
];

/// Upstream's controllers that may be missing in [`ENTRIES`]: to leave one out is fine, to ask for it is not. Source:
/// `cmd/kube-controller-manager/names`.
const UPSTREAM_ONLY: &[&str] = &[
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    "podcertificaterequest-cleaner-controller",
    "podgroup-protection-controller",
    "resourcepoolstatusrequest-controller",
    "selinux-warning-controller",
    "service-ca-certificate-publisher-controller",
    "storage-version-migrator-controller",
];

/// Reads a list as `--controllers` has it. Later entries win.
pub(super) fn choose(wanted: &[String]) -> Result<BTreeSet<&'static str>, Error> {
    let mut chosen = BTreeSet::new();
    // The star first wherever it stands, so that "-x,*" leaves x out as it does upstream.
    if wanted.iter().any(|name| name == "*") {
        chosen.extend(names().filter(|name| !OFF_BY_DEFAULT.contains(name)));
    }
    for wanted in wanted.iter().filter(|name| *name != "*") {
        let (leave_out, given) = match wanted.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, wanted.as_str()),
        };
        let name = ALIASES.iter().find(|(alias, _)| *alias == given).map_or(given, |(_, name)| name);
        match names().find(|known| *known == name) {
            Some(name) if leave_out => {
                chosen.remove(name);
            }
            Some(name) => {
                chosen.insert(name);
            }
            None if !UPSTREAM_ONLY.contains(&name) => return Err(Error::UnknownController(given.to_owned())),
            None if leave_out => {}
            None => return Err(Error::NotBuilt(given.to_owned())),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::{ALIASES, UPSTREAM_ONLY, choose};
    use crate::manager::{OFF_BY_DEFAULT, names};

    fn chosen(list: &[&str]) -> Vec<&'static str> {
        let list: Vec<String> = list.iter().map(|name| (*name).to_owned()).collect();
        choose(&list).unwrap().into_iter().collect()
    }

    #[test]
    fn the_list_adds_and_takes_away() {
        let by_default = names().count() - OFF_BY_DEFAULT.len();
        assert_eq!(chosen(&["*"]).len(), by_default);
        assert_eq!(chosen(&["*", "token-cleaner-controller"]).len(), by_default + 1);
        assert_eq!(chosen(&["deployment-controller"]), ["deployment-controller"]);
        for list in [["*", "-deployment-controller"], ["-deployment-controller", "*"]] {
            assert!(!chosen(&list).contains(&"deployment-controller"));
            assert_eq!(chosen(&list).len(), by_default - 1);
        }
        let error = choose(&["nonsense".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "\"nonsense\" is not in the list of known controllers");
        assert!(chosen(&[]).is_empty());
    }

    #[test]
    fn upstreams_names_are_known_old_ones_too() {
        let by_default = names().count() - OFF_BY_DEFAULT.len();
        assert_eq!(chosen(&["*", "bootstrapsigner", "tokencleaner"]).len(), by_default + 2);
        assert_eq!(chosen(&["job"]), ["job-controller"]);
        assert_eq!(chosen(&["*", "-service-ca-certificate-publisher-controller"]).len(), by_default);
        assert_eq!(chosen(&["persistentvolume-expander"]), ["persistentvolume-expander-controller"]);
        let asked = choose(&["selinux-warning-controller".to_owned()]);
        assert!(asked.is_err(), "a name that is known and not built");
        for (alias, name) in ALIASES {
            let known = names().any(|known| known == *name) || UPSTREAM_ONLY.contains(name);
            assert!(known && names().all(|known| known != *alias), "{alias}");
        }
    }
}
