//! What kubelets and schedulers may write into the status of a pod.

use super::*;

#[test]
fn ended_containers_stay_ended_unless_they_restart() {
    let check = |policy: &str, code: i64, faults: usize| {
        let mut old = stored(pod(json!({"restartPolicy": policy})));
        old["status"]["containerStatuses"] =
            json!([{"name": "c", "state": {"terminated": {"exitCode": code}}}]);
        let mut new = old.clone();
        new["status"]["containerStatuses"] = json!([{"name": "c", "state": {"running": {}}}]);
        let mut errors = Errors::new();
        Pod.validate_update(
            &new,
            &old,
            &Context { part: Part::Status, now: NOW, requester: Requester::NOBODY },
            &mut errors,
        );
        assert_eq!(errors.0.len(), faults, "{policy} {code}");
    };
    check("Always", 0, 0);
    check("OnFailure", 1, 0);
    check("OnFailure", 0, 1);
    check("Never", 1, 1);
}

/// What kubelets report must be possible, and is refused in upstream's words.
#[test]
fn statuses_say_what_is_possible() {
    let claims = json!([{"name": "gpu", "resourceClaimName": "mine"}, {"name": "net", "resourceClaimTemplateName": "t"}]);
    let mut old = stored(pod(json!({"resourceClaims": claims})));
    old["spec"]["containers"][0]["resources"] = json!({
        "requests": {"example.com/tpu": "1"}, "claims": [{"name": "gpu"}, {"name": "net", "request": "fast"}]});
    let check = |status: Value, expected: &[&str]| {
        let mut new = old.clone();
        for (key, value) in status.as_object().cloned().unwrap_or_default() {
            new["status"][key.as_str()] = value;
        }
        let mut errors = Errors::new();
        let part = Context { part: Part::Status, now: NOW, requester: Requester::NOBODY };
        Pod.validate_update(&new, &old, &part, &mut errors);
        let texts: Vec<String> = errors.0.iter().map(|error| error.to_string()[7..].to_owned()).collect();
        assert_eq!(texts, expected);
    };
    let container = |more: Value| {
        let mut status = json!({"name": "c"});
        for (key, value) in more.as_object().cloned().unwrap_or_default() {
            status[key.as_str()] = value;
        }
        json!({"containerStatuses": [status]})
    };
    let healthy = |id: &str| json!({"resourceID": id, "health": "Healthy", "message": "well"});
    check(json!({"resourceClaimStatuses": [{"name": "net", "resourceClaimName": "p-net-x"}]}), &[]);
    check(
        json!({"resourceClaimStatuses": [{"name": "net"}, {"name": "net", "resourceClaimName": "A"}, {"name": "odd"}]}),
        &[
            "resourceClaimStatuses[1].name: Duplicate value: \"net\"",
            "resourceClaimStatuses[1].resourceClaimName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            "resourceClaimStatuses[2].name: Invalid value: \"odd\": must match the name of an entry in `spec.resourceClaims`",
        ],
    );
    let mapping = |container: &str, resource: &str| json!({"containerName": container, "resourceName": resource, "requestName": "r"});
    check(
        json!({"extendedResourceClaimStatus": {"resourceClaimName": "x", "requestMappings": [mapping("c", "example.com/tpu")]}}),
        &[],
    );
    check(
        json!({"extendedResourceClaimStatus": {"requestMappings": [mapping("d", "a"), mapping("c", "cpu")]}}),
        &[
            "extendedResourceClaimStatus.requestMappings[0].containerName: Invalid value: \"d\": must match the name of an entry in spec.initContainers.name or spec.containers.name",
            "extendedResourceClaimStatus.requestMappings[1].resourceName: Invalid value: \"cpu\": must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests",
            "extendedResourceClaimStatus.resourceClaimName: Required value",
        ],
    );
    check(container(json!({"user": {"linux": {"uid": 0, "gid": 0, "supplementalGroups": [1]}}})), &[]);
    check(
        container(json!({"user": {"linux": {"uid": -1, "gid": 0, "supplementalGroups": [1, -2]}}})),
        &[
            "containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "containerStatuses[0].user.linux.supplementalGroups[1]: Invalid value: -2: must be between 0 and 2147483647, inclusive",
        ],
    );
    check(
        container(json!({"allocatedResourcesStatus": [
            {"name": "example.com/tpu", "resources": [healthy("a"), healthy("b")]},
            {"name": "claim:gpu", "resources": []}, {"name": "claim:net/fast", "resources": []}]})),
        &[],
    );
    check(
        container(json!({"allocatedResourcesStatus": [
            {"name": "claim:net", "resources": [healthy("a"), healthy("a")]},
            {"name": "cpu", "resources": [{"resourceID": "b", "health": "Odd", "message": ""}]}]})),
        &[
            "containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: \"claim:net\": must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
            "containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: Duplicate value: \"a\"",
            "containerStatuses[0].allocatedResourcesStatus[1].name: Invalid value: \"cpu\": must match one of the container's resource requests",
            "containerStatuses[0].allocatedResourcesStatus[1].resources[0].health: Unsupported value: \"Odd\": supported values: \"Healthy\", \"Unhealthy\", \"Unknown\"",
            "containerStatuses[0].allocatedResourcesStatus[1].resources[0].message: Required value: must be non-empty if specified",
        ],
    );
    // A container that is gone from the pod is left alone.
    check(
        json!({"containerStatuses": [{"name": "gone", "allocatedResourcesStatus": [{"name": "cpu", "resources": []}]}]}),
        &[],
    );
    check(
        json!({"ephemeralContainerStatuses": [{"name": "e", "allocatedResourcesStatus": [{"name": "cpu", "resources": []}]}]}),
        &[
            "ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden: must not be specified in container status",
        ],
    );
    let image = |reference: &str| {
        container(
            json!({"volumeMounts": [{"name": "v", "volumeStatus": {"image": {"imageRef": reference}}}]}),
        )
    };
    check(image("example.com/a@sha256:0"), &[]);
    check(
        image(""),
        &[
            "containerStatuses[0].volumeMounts[0].volumeStatus.imageVolumeStatus.imageRef: Required value: imageRef must not be empty",
        ],
    );
    let mut annotated = old.clone();
    annotated["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "a", "container.apparmor.security.beta.kubernetes.io/c": "unconfined"});
    let mut errors = Errors::new();
    let part = Context { part: Part::Status, now: NOW, requester: Requester::NOBODY };
    Pod.validate_update(&annotated, &old, &part, &mut errors);
    let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: Forbidden: may not add AppArmor annotations",
            "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation",
        ]
    );
}

#[test]
fn digests_of_image_volumes_are_dropped() {
    let status = |mount: Value| json!({"containerStatuses": [{"name": "c", "volumeMounts": [mount]}]});
    let with = json!({"name": "v", "volumeStatus": {"image": {"imageRef": "a@sha256:0"}}});
    let mut old = stored(pod(json!({})));
    let mut new = old.clone();
    new["status"] = status(with.clone());
    let part = Context { part: Part::Status, now: NOW, requester: Requester::NOBODY };
    Pod.prepare_update(&mut new, &old, &part);
    assert_eq!(new["status"]["containerStatuses"][0]["volumeMounts"][0], json!({"name": "v"}));
    // One that has them from a server where the feature was on keeps them.
    old["status"] = status(with.clone());
    new["status"] = status(with.clone());
    Pod.prepare_update(&mut new, &old, &part);
    assert_eq!(new["status"]["containerStatuses"][0]["volumeMounts"][0], with);
}

#[test]
fn odd_addresses_of_a_status_are_warned_about() {
    let old = stored(pod(json!({})));
    let mut new = old.clone();
    new["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "FD00::1"}]);
    new["status"]["hostIPs"] = json!([{"ip": "010.0.0.2"}, {"ip": "::ffff:10.0.0.3"}, {"ip": "fd00::2"}]);
    assert_eq!(
        Pod.warnings(&new, Some(&old)),
        [
            "status.podIPs[1].ip: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")",
            "status.hostIPs[0].ip: non-standard IP address \"010.0.0.2\" is invalid: use \"10.0.0.2\"",
            "status.hostIPs[1].ip: non-standard IP address \"::ffff:10.0.0.3\" is invalid: use \"10.0.0.3\"",
        ]
    );
    assert_eq!(Pod.warnings(&new, Some(&new)), Vec::<String>::new());
}
