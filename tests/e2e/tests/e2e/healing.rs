//! What breaks is mended, and says what it is meanwhile.

use podium_testkit::{Kubectl, http, images, wait_for};

use crate::{LIMIT, becomes, cluster, deploy_example, listens, pods, service_address, told, told_in};

fn restarts(kubectl: &Kubectl, pod: &str) -> String {
    kubectl.get(&format!("-n production pod {pod}"), "{.status.containerStatuses[0].restartCount}")
}

#[test]
fn killed_failing_unready_and_deleted_pods_are_mended() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    deploy_example(&kubectl);
    let address = service_address(&kubectl, "production", "web-app-service");
    let names = pods(&kubectl, "production", "app=web-app");
    let pod_address = |name: &str| {
        let ip = kubectl.get(&format!("-n production pod {name}"), "{.status.podIP}");
        format!("{ip}:3000").parse().expect("a pod address")
    };

    // A process that ends is started again in place.
    let _ = http::get(pod_address(&names[0]), "/exit?code=3");
    wait_for("a restart", LIMIT, || restarts(&kubectl, &names[0]), |count| count == "1");
    becomes(
        &kubectl,
        &format!("-n production pod {}", names[0]),
        "{.status.containerStatuses[0].ready}",
        "true",
    );
    let last = kubectl.get(
        &format!("-n production pod {}", names[0]),
        "{.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].lastState.terminated.reason}",
    );
    assert_eq!(last, "3 Error");
    assert!(
        kubectl
            .run(&format!("-n production logs {} --previous", names[0]))
            .ok()
            .contains("web v2.0.0 listening")
    );

    // A failing liveness probe restarts the container.
    http::get(pod_address(&names[1]), "/fail").unwrap();
    wait_for("a restart by the probe", LIMIT, || restarts(&kubectl, &names[1]), |count| count == "1");
    told_in(
        &kubectl,
        "production",
        &format!("involvedObject.name={}", names[1]),
        &[
            "Liveness probe failed: HTTP probe failed with statuscode: 500",
            "failed liveness probe, will be restarted",
        ],
    );
    becomes(&kubectl, "-n production deployment web-app", "{.status.readyReplicas}", "3");

    // A failing readiness probe takes the pod out of the slice, and it gets no traffic.
    http::get(pod_address(&names[2]), "/unready").unwrap();
    let ready = "{.items[0].endpoints[?(@.conditions.ready==true)].targetRef.name}";
    let slices = "-n production endpointslices -l kubernetes.io/service-name=web-app-service";
    wait_for("two ready endpoints", LIMIT, || kubectl.get(slices, ready), |seen| !seen.contains(&names[2]));
    wait_for(
        "no traffic to the unready pod",
        LIMIT,
        || (0..20).filter(|_| http::get(address, "/").is_ok_and(|a| a.body.contains(&names[2]))).count(),
        |hits| *hits == 0,
    );
    http::get(pod_address(&names[2]), "/recover").unwrap();
    wait_for("three ready endpoints", LIMIT, || kubectl.get(slices, ready), |seen| seen.contains(&names[2]));

    // A deleted pod is replaced.
    kubectl.args(&["-n", "production", "delete", "pod", &names[0], "--wait=false"]).ok();
    wait_for(
        "a replacement",
        LIMIT,
        || pods(&kubectl, "production", "app=web-app"),
        |now| now.len() == 3 && !now.contains(&names[0]),
    );
    becomes(&kubectl, "-n production deployment web-app", "{.status.readyReplicas}", "3");
}

#[test]
fn states_appear_as_kubectl_users_know_them() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    let busybox = images::BUSYBOX;
    let pod = |name: &str, image: &str, restart: &str, command: &str, extra: &str| {
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: {restart}, \
             terminationGracePeriodSeconds: 0, containers: [{{name: main, image: '{image}', command: {command}{extra}}}]}}}}"
        ));
    };
    pod("done", busybox, "Never", "[sh, -c, 'echo bye']", "");
    pod("failed", busybox, "Never", "[sh, -c, 'exit 7']", "");
    pod("crash", busybox, "Always", "[sh, -c, 'echo going down; exit 1']", "");
    pod("never", "podium.test/absent:1", "Always", "[x]", ", imagePullPolicy: Never");
    pod("hungry", "podium.test/web:v2.0.0", "Never", "[/web]", ", resources: {limits: {memory: 64Mi}}");
    let status = |name: &str| {
        let line = kubectl.args(&["get", "pod", name, "--no-headers"]).stdout;
        line.split_whitespace().nth(2).unwrap_or_default().to_owned()
    };
    let shows = |name: &str, wanted: &[&str]| {
        wait_for(
            &format!("{name} to show {wanted:?}"),
            LIMIT,
            || status(name),
            |seen| wanted.contains(&seen.as_str()),
        );
    };
    // Its first state is to be seen for three seconds after each try, and tries become rare: nothing else comes before.
    pod("absent", "podium.test/absent:1", "Always", "[x]", "");
    shows("absent", &["ErrImagePull"]);
    shows("absent", &["ImagePullBackOff"]);
    shows("done", &["Completed"]);
    shows("failed", &["Error"]);
    shows("never", &["ErrImageNeverPull"]);
    shows("crash", &["CrashLoopBackOff"]);
    let back_off = "Back-off restarting failed container main in pod crash_default(";
    told(&kubectl, "involvedObject.name=crash", &[back_off]);
    told(&kubectl, "involvedObject.name=absent", &["Back-off pulling image"]);
    assert_eq!(kubectl.run("logs done").ok(), "bye\n");
    becomes(&kubectl, "pod failed", "{.status.containerStatuses[0].state.terminated.exitCode}", "7");

    becomes(&kubectl, "pod hungry", "{.status.phase}", "Running");
    listens(&kubectl, "pod hungry");
    let ip = kubectl.get("pod hungry", "{.status.podIP}");
    let _ = http::get(format!("{ip}:3000").parse().unwrap(), "/eat-memory");
    shows("hungry", crate::out_of_memory());
    becomes(&kubectl, "pod hungry", "{.status.containerStatuses[0].state.terminated.exitCode}", "137");
}
