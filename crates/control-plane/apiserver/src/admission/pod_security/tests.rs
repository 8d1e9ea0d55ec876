//! Upstream's passing and failing pods, and the handling of labels.

use std::path::{Path as FilePath, PathBuf};

use serde_json::json;

use super::*;

fn files(directory: &FilePath) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn upstreams_pods_pass_and_fail() {
    let top = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data/pod-security");
    if !top.exists() {
        println!("skipped: {} is absent", top.display());
        return;
    }
    let mut seen = 0;
    for (level, name) in [(Level::Baseline, "baseline"), (Level::Restricted, "restricted")] {
        for version in [Version::Minor(35), Version::Latest] {
            let standard = Standard { level, version };
            for passes in [true, false] {
                let directory = top.join(name).join("v1.35").join(if passes { "pass" } else { "fail" });
                for file in files(&directory) {
                    let pod: Value = serde_norway::from_slice(&std::fs::read(&file).unwrap()).unwrap();
                    let found = checks::evaluate(&pod, standard);
                    assert_eq!(found.is_empty(), passes, "{standard} {}: {found:?}", file.display());
                    seen += 1;
                    assert!(
                        checks::evaluate(&pod, Standard { level: Level::Privileged, version }).is_empty()
                    );
                }
            }
        }
    }
    assert!(seen > 200, "{seen}");
}

#[track_caller]
fn check(standard: (Level, Version), spec: &Value, expected: &str) {
    let pod = json!({"metadata": {"name": "p"}, "spec": spec});
    let found = checks::evaluate(&pod, Standard { level: standard.0, version: standard.1 });
    assert_eq!(detail(&found), expected);
}

#[test]
fn details_are_worded_as_upstream() {
    use Level::{Baseline, Restricted};
    use Version::{Latest, Minor};
    let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    check((Baseline, Latest), &plain, "");
    check(
        (Restricted, Latest),
        &plain,
        "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers \"a\", \"b\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or containers \"a\", \"b\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or containers \"a\", \"b\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    );
    let host = json!({"hostNetwork": true, "hostPID": true, "containers": [{"name": "a",
        "ports": [{"hostPort": 80}, {"hostPort": 443}], "securityContext": {"privileged": true}}]});
    check(
        (Baseline, Latest),
        &host,
        "host namespaces (hostNetwork=true, hostPID=true), hostPort (container \"a\" uses hostPorts 443, 80), \
         privileged (container \"a\" must not set securityContext.privileged=true)",
    );
    let volumes = json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}, {"name": "w", "nfs": {}}]});
    check((Baseline, Latest), &volumes, "hostPath volumes (volume \"v\")");
    check(
        (Restricted, Latest),
        &volumes,
        "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")",
    );
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}});
    check((Baseline, Minor(31)), &sysctl, "forbidden sysctls (net.ipv4.tcp_rmem)");
    check((Baseline, Minor(32)), &sysctl, "");
    let probe = json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "x"}}}]});
    check((Baseline, Minor(33)), &probe, "");
    check(
        (Baseline, Minor(34)),
        &probe,
        "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"x\")",
    );
    let selinux = json!({"securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}});
    check(
        (Baseline, Latest),
        &selinux,
        "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set)",
    );
}

/// SECURITY.md, "Admission bypass": every kind of container is looked at.
#[test]
fn admission_bypass_no_container_kind_escapes() {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let spec = json!({ list: [{"name": "a", "securityContext": {"privileged": true}}] });
        check(
            (Level::Baseline, Version::Latest),
            &spec,
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        );
    }
}

fn labelled(labels: &[(&str, &str)]) -> Value {
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(key, value)| (format!("{PREFIX}{key}"), json!(value))).collect();
    json!({"metadata": {"name": "n", "labels": labels}})
}

#[test]
fn labels_make_the_policy() {
    let defaults = Policy::enforcing(Level::Privileged);
    let show = |labels: &[(&str, &str)]| {
        let (policy, errors) = Policy::of(&labelled(labels), &defaults);
        let errors: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        format!("{} {} {} {}", policy.enforce, policy.audit, policy.warn, errors.join(", "))
    };
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[], "privileged:latest privileged:latest privileged:latest "),
        (&[("enforce", "baseline")], "baseline:latest privileged:latest baseline:latest "),
        (
            &[("enforce", "restricted"), ("enforce-version", "v1.25"), ("warn", "baseline")],
            "restricted:v1.25 privileged:latest baseline:latest ",
        ),
        (
            &[("audit", "restricted"), ("audit-version", "v1.0")],
            "privileged:latest restricted:v1.0 privileged:latest ",
        ),
        (
            &[("enforce", "strict")],
            "restricted:latest privileged:latest privileged:latest \
             metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
             must be one of privileged, baseline, restricted",
        ),
        (
            &[("warn-version", "v1.01")],
            "privileged:latest privileged:latest privileged:latest \
             metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"v1.01\": \
             must be \"latest\" or \"v1.x\"",
        ),
    ];
    for (labels, expected) in cases {
        assert_eq!(show(labels), expected, "{labels:?}");
    }
}

#[test]
fn raising_a_level_warns_about_pods_that_are_there() {
    let pod = |name: &str, owner: Option<&str>, spec: Value| {
        let owners: Vec<Value> =
            owner.map(|uid| json!({"controller": true, "uid": uid})).into_iter().collect();
        json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec})
    };
    let pods = [
        pod("b", Some("1"), json!({"hostPID": true})),
        pod("a", Some("1"), json!({"hostPID": true})),
        pod("c", Some("1"), json!({"hostPID": true})),
        pod("d", None, json!({"containers": [{"name": "x", "ports": [{"hostPort": 1}]}]})),
        pod("e", None, json!({})),
    ];
    let standard = Standard { level: Level::Baseline, version: Version::Latest };
    assert_eq!(
        namespace_warnings("n", standard, pods.iter()),
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 2 other pods): host namespaces",
            "d: hostPort",
        ]
    );
    assert!(namespace_warnings("n", standard, pods[4..].iter()).is_empty());
}
