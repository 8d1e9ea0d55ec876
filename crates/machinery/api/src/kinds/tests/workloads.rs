//! Kinds that make pods from templates.

use serde_json::{Value, json};

use super::*;

fn template(extra: Value) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:v1"}]},
    });
    for (key, value) in extra.as_object().cloned().unwrap_or_default() {
        template["spec"][key.as_str()] = value;
    }
    template
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "d"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template(json!({}))},
    })
}

#[test]
fn deployments() {
    let object = created("apps", "Deployment", deployment());
    assert_eq!(
        (
            &object["spec"]["replicas"],
            &object["spec"]["revisionHistoryLimit"],
            &object["spec"]["progressDeadlineSeconds"]
        ),
        (&json!(1), &json!(10), &json!(600))
    );
    assert_eq!(
        object["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert!(
        object["spec"]["template"]["spec"].get("enableServiceLinks").is_none(),
        "templates do not get it"
    );
    assert_eq!(object["status"], json!({}));
    check("apps", "Deployment", deployment(), &[]);
    let mut bad = deployment();
    bad["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    bad["spec"]["replicas"] = json!(-1);
    bad["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
    check(
        "apps",
        "Deployment",
        bad,
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        ],
    );
    let mut bad = deployment();
    bad["spec"]["selector"] = json!({});
    bad["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    check(
        "apps",
        "Deployment",
        bad,
        &[
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ],
    );
    check_update(
        "apps",
        "Deployment",
        deployment(),
        |new| {
            new["spec"]["selector"]["matchLabels"] = json!({"app": "v2"});
            new["spec"]["template"]["metadata"]["labels"] = json!({"app": "v2"});
        },
        &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"v2\"}}: field is immutable"],
    );
    let rules = rules("apps", "Deployment");
    let mut annotated = object.clone();
    annotated["metadata"]["annotations"] = json!({"a": "b"});
    assert!(rules.spec_changed(&annotated, &object), "annotations count");
    let mut labelled = object.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(!rules.spec_changed(&labelled, &object), "labels do not");
    let mut status = object.clone();
    status["status"] = json!({"replicas": 3, "readyReplicas": 4});
    let mut errors = Errors::new();
    rules.validate_update(&status, &object, &context(Part::Status), &mut errors);
    assert_eq!(
        errors.0[0].to_string(),
        "status.readyReplicas: Invalid value: 4: cannot be greater than status.replicas"
    );
    let mut shown = object;
    shown["status"] = json!({"readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1});
    check_row("apps", "Deployment", shown, "x | 1/1 | 1 | 1 | 5m | c | web:v1 | app=web");
}

#[test]
fn other_workloads() {
    for kind in ["ReplicaSet", "StatefulSet", "DaemonSet"] {
        check("apps", kind, deployment(), &[]);
    }
    let set = created("apps", "StatefulSet", deployment());
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(
        set["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    check_update(
        "apps",
        "StatefulSet",
        deployment(),
        |new| new["spec"]["serviceName"] = json!("other"),
        &[
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ],
    );
    let mut with_claims = deployment();
    with_claims["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
    with_claims["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/d"}]);
    check("apps", "StatefulSet", with_claims, &[]);
    check_row(
        "apps",
        "ReplicaSet",
        json!({"metadata": {}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template(json!({}))},
            "status": {"replicas": 2, "readyReplicas": 1}}),
        "x | 3 | 2 | 1 | 5m | c | web:v1 | a=b",
    );
    check_row(
        "apps",
        "DaemonSet",
        json!({"metadata": {}, "spec": {"template": template(json!({"nodeSelector": {"disk": "ssd"}}))},
            "status": {"desiredNumberScheduled": 2, "numberReady": 1}}),
        "x | 2 | 0 | 1 | 0 | 0 | disk=ssd | 5m | c | web:v1 | <none>",
    );
}

#[test]
fn jobs() {
    let job = json!({"metadata": {"name": "j", "uid": "u1"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let object = created("batch", "Job", job.clone());
    assert_eq!(
        (&object["spec"]["completions"], &object["spec"]["parallelism"], &object["spec"]["backoffLimit"]),
        (&json!(1), &json!(1), &json!(6))
    );
    assert_eq!(
        object["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}})
    );
    assert_eq!(object["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    check("batch", "Job", job.clone(), &[]);
    let mut bad = job.clone();
    bad["spec"]["template"]["spec"].as_object_mut().unwrap().remove("restartPolicy");
    check(
        "batch",
        "Job",
        bad,
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    let mut done = object;
    done["status"] = json!({"succeeded": 1, "startTime": "2026-01-01T23:56:00Z", "completionTime": "2026-01-01T23:56:10Z",
        "conditions": [{"type": "Complete", "status": "True"}]});
    check_row(
        "batch",
        "Job",
        done,
        "x | Complete | 1/1 | 10s | 5m | c | i | batch.kubernetes.io/controller-uid=u1",
    );
    let cron = |schedule: &str| json!({"metadata": {"name": "c"}, "spec": {"schedule": schedule, "jobTemplate": {"spec": job["spec"]}}});
    for good in ["*/5 * * * *", "0 0 1 jan mon-fri", "@hourly", "0,30 8-18/2 * * 1"] {
        check("batch", "CronJob", cron(good), &[]);
    }
    for (bad, fault) in [
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("@never", "unrecognized descriptor: @never"),
    ] {
        check("batch", "CronJob", cron(bad), &[&format!("spec.schedule: Invalid value: {bad:?}: {fault}")]);
    }
    check_row(
        "batch",
        "CronJob",
        json!({"metadata": {}, "spec": {"schedule": "@hourly", "suspend": false}, "status": {"active": [{}]}}),
        "x | @hourly | <none> | False | 1 | <none> | 5m |  |  | <none>",
    );
}

#[test]
fn time_zones_of_cron_jobs() {
    let cron = |zone: Value| {
        json!({"metadata": {"name": "c"}, "spec": {"schedule": "@hourly", "timeZone": zone,
            "jobTemplate": {"spec": {"template": template(json!({"restartPolicy": "Never"}))}}}})
    };
    for good in [Value::Null, json!("UTC"), json!("Europe/Berlin"), json!("Etc/GMT+3")] {
        check("batch", "CronJob", cron(good), &[]);
    }
    for bad in
        ["x", "europe/berlin", "Europe/Berlin/", "../UTC", "-a/b", "Europe/Berlin_and_beyond", "posix/UTC"]
    {
        let fault = format!("spec.timeZone: Invalid value: {bad:?}: unknown time zone {bad}");
        check("batch", "CronJob", cron(json!(bad)), &[&fault]);
    }
    let explicit = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
    let fault = |zone: &str, why: &str| format!("spec.timeZone: Invalid value: {zone:?}: {why}");
    check("batch", "CronJob", cron(json!("Local")), &[&fault("Local", explicit)]);
    let unknown = "unknown time zone local";
    check("batch", "CronJob", cron(json!("local")), &[&fault("local", explicit), &fault("local", unknown)]);
    let empty = "timeZone must be nil or non-empty string";
    check("batch", "CronJob", cron(json!("")), &[&fault("", empty)]);
    // What is stored may stay, whatever it is.
    check_update("batch", "CronJob", cron(json!("x")), |new| new["spec"]["suspend"] = json!(true), &[]);
    let moved = fault("y", "unknown time zone y");
    check_update("batch", "CronJob", cron(json!("x")), |new| new["spec"]["timeZone"] = json!("y"), &[&moved]);
    // The same of a zone in the schedule, which is not to be told twice.
    let mut old = cron(Value::Null);
    old["spec"]["schedule"] = json!("TZ=UTC 0 * * * *");
    let set = |schedule: &'static str, zone: Value| {
        move |new: &mut Value| {
            new["spec"]["schedule"] = json!(schedule);
            new["spec"]["timeZone"] = zone.clone();
        }
    };
    check_update("batch", "CronJob", old.clone(), set("TZ=UTC 1 * * * *", Value::Null), &[]);
    check_update(
        "batch",
        "CronJob",
        old.clone(),
        set("TZ=UTC 1 * * * *", json!("UTC")),
        &[
            "spec.schedule: Invalid value: \"TZ=UTC 1 * * * *\": cannot use both timeZone field and TZ or CRON_TZ in schedule",
        ],
    );
    check_update(
        "batch",
        "CronJob",
        old,
        set("TZ=x 1 * * * *", Value::Null),
        &["spec.schedule: Invalid value: \"TZ=x 1 * * * *\": provided bad location x: unknown time zone x"],
    );
}

#[test]
fn autoscalers_and_budgets() {
    let scaler = created(
        "autoscaling",
        "HorizontalPodAutoscaler",
        json!({"metadata": {}, "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}),
    );
    assert_eq!(scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    let mut shown = scaler;
    shown["status"] = json!({"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 35}}}]});
    check_row(
        "autoscaling",
        "HorizontalPodAutoscaler",
        shown,
        "x | Deployment/web | cpu: 35%/80% | 1 | 5 | 2 | 5m",
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"metadata": {}, "spec": {"minAvailable": 1, "maxUnavailable": "101%"}}),
        &[
            "spec: Invalid value: {\"MinAvailable\":1,\"Selector\":null,\"MaxUnavailable\":\"101%\",\"UnhealthyPodEvictionPolicy\":null}: minAvailable and maxUnavailable cannot be both set",
            "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ],
    );
    check_row(
        "policy",
        "PodDisruptionBudget",
        json!({"metadata": {}, "spec": {"minAvailable": "50%"}}),
        "x | 50% | N/A | 0 | 5m",
    );
}
