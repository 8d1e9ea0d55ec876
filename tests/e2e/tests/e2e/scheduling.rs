//! A pod that fits nowhere says so.

use podium_testkit::{images, wait_for};

use crate::{LIMIT, becomes, cluster};

#[test]
fn a_pod_that_fits_nowhere_stays_pending_with_the_reason() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: huge}}, spec: {{containers: [{{name: main, image: {}, \
         resources: {{requests: {{cpu: '1000'}}}}}}]}}}}",
        images::BUSYBOX
    ));
    let message = "{.status.conditions[?(@.type=='PodScheduled')].message}";
    let wanted = "0/1 nodes are available: 1 Insufficient cpu.";
    wait_for("the reason", LIMIT, || kubectl.get("pod huge", message), |seen| seen.starts_with(wanted));
    becomes(&kubectl, "pod huge", "{.status.phase}", "Pending");
    wait_for(
        "the event",
        LIMIT,
        || kubectl.run("get events").stdout,
        |text| text.contains("FailedScheduling") && text.contains(wanted),
    );
}
