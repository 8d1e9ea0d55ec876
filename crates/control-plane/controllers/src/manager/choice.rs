//! Which controllers run: `--controllers`, with upstream's names, old and new.

use std::collections::BTreeSet;

use super::{Error, OFF_BY_DEFAULT, names};

/// Names that controllers had before v1.28 and that still stand for them. Source: `cmd/kube-controller-manager/app`.
const ALIASES: &[(&str, &str)] = &[
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("cloud-node-lifecycle", "cloud-node-lifecycle-controller"),
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
    ("route", "node-route-controller"),
    ("service", "service-lb-controller"),
    ("service-ca-cert-publisher", "service-ca-certificate-publisher-controller"),
    ("serviceaccount", "serviceaccount-controller"),
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("statefulset", "statefulset-controller"),
    ("storage-version-gc", "storageversion-garbage-collector-controller"),
    ("svm", "storage-version-migrator-controller"),
    ("tokencleaner", "token-cleaner-controller"),
    ("ttl", "ttl-controller"),
    ("ttl-after-finished", "ttl-after-finished-controller"),
];

/// Upstream's controllers that do nothing there either, and why: to ask for one is fine and changes nothing.
const IDLE: &[(&str, &str)] = &[
    ("cloud-node-lifecycle-controller", NO_CLOUD),
    (
        "kube-apiserver-serving-clustertrustbundle-publisher-controller",
        "the feature gate ClusterTrustBundle is off",
    ),
    ("node-route-controller", NO_CLOUD),
    ("podcertificaterequest-cleaner-controller", "the feature gate PodCertificateRequest is off"),
    ("podgroup-protection-controller", "the feature gate GenericWorkload is off"),
    ("resourcepoolstatusrequest-controller", "the feature gate DRAResourcePoolStatus is off"),
    ("service-lb-controller", NO_CLOUD),
    ("storage-version-migrator-controller", "the feature gate StorageVersionMigrator is off"),
];
const NO_CLOUD: &str = "there is no cloud provider";

/// Upstream's controllers, and OpenShift's, that are off by default and missing in [`ENTRIES`]: to leave one out is fine, to ask for
/// it is not.
///
/// [`ENTRIES`]: super::ENTRIES
const NOT_BUILT: &[&str] = &["selinux-warning-controller", "service-ca-certificate-publisher-controller"];

/// An entry of a list: whether it leaves out, and the name that it stands for today.
fn entry(wanted: &str) -> (bool, &str) {
    let (leave_out, given) = match wanted.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, wanted),
    };
    (leave_out, ALIASES.iter().find(|(alias, _)| *alias == given).map_or(given, |(_, name)| name))
}

/// Which of those that were asked for by name do nothing, and why.
pub(super) fn in_vain(wanted: &[String]) -> impl Iterator<Item = (&'static str, &'static str)> {
    IDLE.iter().copied().filter(|(idle, _)| wanted.iter().any(|wanted| entry(wanted) == (false, *idle)))
}

/// Reads a list as `--controllers` has it. Later entries win.
pub(super) fn choose(wanted: &[String]) -> Result<BTreeSet<&'static str>, Error> {
    let mut chosen = BTreeSet::new();
    // The star first wherever it stands, so that "-x,*" leaves x out as it does upstream.
    if wanted.iter().any(|name| name == "*") {
        chosen.extend(names().filter(|name| !OFF_BY_DEFAULT.contains(name)));
    }
    for wanted in wanted.iter().filter(|name| *name != "*") {
        let (leave_out, name) = entry(wanted);
        match names().find(|known| *known == name) {
            Some(name) if leave_out => {
                chosen.remove(name);
            }
            Some(name) => {
                chosen.insert(name);
            }
            None if IDLE.iter().any(|(idle, _)| *idle == name) => {}
            None if !NOT_BUILT.contains(&name) => {
                return Err(Error::UnknownController(wanted.trim_start_matches('-').to_owned()));
            }
            None if leave_out => {}
            None => return Err(Error::NotBuilt(wanted.clone())),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::{ALIASES, IDLE, NOT_BUILT, choose, in_vain};
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
            let idle = IDLE.iter().any(|(idle, _)| idle == name);
            let known = names().any(|known| known == *name) || idle || NOT_BUILT.contains(name);
            assert!(known && names().all(|known| known != *alias), "{alias}");
        }
        assert_eq!(
            choose(&["-x".to_owned()]).unwrap_err().to_string(),
            "\"x\" is not in the list of known controllers"
        );
    }

    /// All names of upstream's v1.36, in its order, and whether `--controllers=*` has one running there. Source:
    /// `cmd/kube-controller-manager/names` and the descriptors in `app`, with the default feature gates.
    const UPSTREAM: &[(&str, bool)] = &[
        ("serviceaccount-token-controller", true),
        ("endpoints-controller", true),
        ("endpointslice-controller", true),
        ("endpointslice-mirroring-controller", true),
        ("replicationcontroller-controller", true),
        ("pod-garbage-collector-controller", true),
        ("resourcequota-controller", true),
        ("namespace-controller", true),
        ("serviceaccount-controller", true),
        ("garbage-collector-controller", true),
        ("daemonset-controller", true),
        ("job-controller", true),
        ("deployment-controller", true),
        ("replicaset-controller", true),
        ("horizontal-pod-autoscaler-controller", true),
        ("disruption-controller", true),
        ("statefulset-controller", true),
        ("cronjob-controller", true),
        ("certificatesigningrequest-signing-controller", true),
        ("certificatesigningrequest-approving-controller", true),
        ("certificatesigningrequest-cleaner-controller", true),
        ("podcertificaterequest-cleaner-controller", false),
        ("ttl-controller", true),
        ("bootstrap-signer-controller", false),
        ("token-cleaner-controller", false),
        ("node-ipam-controller", true),
        ("node-lifecycle-controller", true),
        ("taint-eviction-controller", true),
        ("device-taint-eviction-controller", true),
        ("persistentvolume-binder-controller", true),
        ("persistentvolume-attach-detach-controller", true),
        ("persistentvolume-expander-controller", true),
        ("clusterrole-aggregation-controller", true),
        ("persistentvolumeclaim-protection-controller", true),
        ("persistentvolume-protection-controller", true),
        ("podgroup-protection-controller", false),
        ("ttl-after-finished-controller", true),
        ("root-ca-certificate-publisher-controller", true),
        ("kube-apiserver-serving-clustertrustbundle-publisher-controller", false),
        ("ephemeral-volume-controller", true),
        ("storageversion-garbage-collector-controller", false),
        ("resourceclaim-controller", true),
        ("resourcepoolstatusrequest-controller", false),
        ("legacy-serviceaccount-token-cleaner-controller", true),
        ("validatingadmissionpolicy-status-controller", true),
        ("volumeattributesclass-protection-controller", true),
        ("service-cidr-controller", true),
        ("storage-version-migrator-controller", false),
        ("selinux-warning-controller", false),
        ("service-lb-controller", false),
        ("node-route-controller", false),
        ("cloud-node-lifecycle-controller", false),
    ];

    #[test]
    fn by_default_those_run_that_run_upstream() {
        let mut upstreams: Vec<_> =
            UPSTREAM.iter().filter(|(_, runs)| *runs).map(|(name, _)| *name).collect();
        upstreams.sort_unstable();
        assert_eq!(chosen(&["*"]), upstreams);
        for (name, _) in UPSTREAM {
            let without = format!("-{name}");
            assert!(!chosen(&["*", &without]).contains(name), "{name} can be left out");
            let asked = choose(&[(*name).to_owned()]);
            assert_eq!(asked.is_err(), *name == "selinux-warning-controller", "{name} can be asked for");
        }
        assert!(
            names().all(|ours| UPSTREAM.iter().any(|(name, _)| *name == ours)),
            "and there are no others"
        );
    }

    #[test]
    fn those_asked_for_that_do_nothing_are_told_of() {
        let list = ["*", "svm", "-route", "service", "job"].map(str::to_owned);
        let told: Vec<_> = in_vain(&list).map(|(name, _)| name).collect();
        assert_eq!(told, ["service-lb-controller", "storage-version-migrator-controller"]);
    }
}
