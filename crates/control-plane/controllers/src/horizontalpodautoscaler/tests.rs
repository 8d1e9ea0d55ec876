//! What figures ask for, how fast a scale may follow, and what an autoscaler says about itself.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, MetricSpec};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::Autoscaling;
use super::behavior::History;
use super::decide::{Aim, aim, judge};
use super::figures::{Figures, of_outside, of_pods, of_resource};
use super::replicas::{Failure, Proposal, propose};
use super::status::Condition;
use super::usage::Around;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, pass, pod, time};

const CONTROLLER: &str = "horizontal-pod-autoscaler-controller";
const AUTOSCALERS: &str = "autoscaling/horizontalpodautoscalers";
const METRICS: &str = "metrics.k8s.io/pods";

fn autoscaler(change: Value) -> HorizontalPodAutoscaler {
    let mut object = json!({"metadata": {"name": "h", "namespace": "ns"},
        "spec": {"minReplicas": 1, "maxReplicas": 100,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let Value::Object(fields) = change else { panic!("fields of the spec") };
    fields.into_iter().for_each(|(field, value)| object["spec"][field] = value);
    serde_json::from_value(object).unwrap()
}

/// A pod that asks for a whole core and has been ready for long.
fn worker(name: &str) -> Pod {
    let container = json!([{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]);
    pod(name).labelled(&[("app", "web")]).ready(0).edit(|pod| {
        pod.spec.as_mut().unwrap().containers = serde_json::from_value(container).unwrap();
        pod.status.as_mut().unwrap().start_time = Some(time(0));
    })
}

fn usage(pods: &[(&str, &str)]) -> Value {
    let items: Vec<_> = pods
        .iter()
        .map(|(name, cpu)| {
            json!({"metadata": {"name": name}, "timestamp": at(9_000).to_string(), "window": "30s",
                "containers": [{"name": "c", "usage": {"cpu": cpu, "memory": "512Mi"}}]})
        })
        .collect();
    json!({"items": items})
}

/// What a metric asks for of three replicas at ten thousand seconds.
fn asked(spec: &Value, figures: Result<Figures, String>, pods: &[Pod]) -> Result<Proposal, Failure> {
    asked_by(&Autoscaling::default(), spec, figures, pods)
}

fn asked_by(
    settings: &Autoscaling,
    spec: &Value,
    figures: Result<Figures, String>,
    pods: &[Pod],
) -> Result<Proposal, Failure> {
    let spec: MetricSpec = serde_json::from_value(spec.clone()).unwrap();
    let pods: Vec<&Pod> = pods.iter().collect();
    let autoscaler = autoscaler(json!({}));
    let autoscaler = &autoscaler;
    let around = Around { autoscaler, settings, pods: &pods, wanted: 3, there: 3, now: at(10_000) };
    propose(&spec, figures, &around)
}

fn cpu(target: &Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

#[test]
fn replicas_follow_what_pods_use() {
    let half = json!({"type": "Utilization", "averageUtilization": 50});
    let three = || vec![worker("a"), worker("b"), worker("c")];
    let with = |last: Pod| vec![worker("a"), worker("b"), last];
    let young = || {
        worker("c").condition("Ready", "False", 9_990).edit(|pod| {
            pod.status.as_mut().unwrap().start_time = Some(time(9_950));
        })
    };
    for (case, pods, figures, expected) in [
        ("on target", three(), vec![("a", "500m"), ("b", "500m"), ("c", "500m")], 3),
        ("within tolerance", three(), vec![("a", "540m"), ("b", "540m"), ("c", "540m")], 3),
        ("twice the target", three(), vec![("a", "1"), ("b", "1"), ("c", "1")], 6),
        ("a third of it", three(), vec![("a", "160m"), ("b", "160m"), ("c", "160m")], 1),
        ("rounded up", three(), vec![("a", "600m"), ("b", "600m"), ("c", "600m")], 4),
        ("of one nothing is known, which might use little", three(), vec![("a", "1"), ("b", "1")], 4),
        ("of one nothing is known, which might use much", three(), vec![("a", "100m"), ("b", "100m")], 3),
        ("one is starting and burns", with(young()), vec![("a", "500m"), ("b", "500m"), ("c", "9")], 3),
        (
            "one is pending while others burn",
            with(worker("c").phase("Pending")),
            vec![("a", "1"), ("b", "1")],
            4,
        ),
        ("one is going", with(worker("c").deleting()), vec![("a", "1"), ("b", "1"), ("c", "1")], 4),
    ] {
        let figures = of_resource(&usage(&figures), "cpu", None);
        let proposal = asked(&cpu(&half), figures, &pods).unwrap();
        assert_eq!(proposal.replicas, expected, "{case}");
        assert_eq!(proposal.name, "cpu resource utilization (percentage of request)");
    }
}

#[test]
fn each_kind_of_metric_reports_what_it_saw() {
    let pods = [worker("a"), worker("b"), worker("c")];
    let figures = usage(&[("a", "1"), ("b", "1"), ("c", "1")]);
    let total = |list: &Value| of_outside(list);
    let object = json!({"apiVersion": "v1", "kind": "Service", "name": "s"});
    for (spec, figures, replicas, name, current) in [
        (
            cpu(&json!({"type": "AverageValue", "averageValue": "250m"})),
            of_resource(&figures, "cpu", None),
            12,
            "cpu resource",
            json!({"averageValue": "1"}),
        ),
        (
            json!({"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
                "target": {"type": "Utilization", "averageUtilization": 25}}}),
            of_resource(&figures, "memory", Some("c")),
            6,
            "memory container resource utilization (percentage of request)",
            json!({"averageUtilization": 50, "averageValue": "512Mi"}),
        ),
        (
            json!({"type": "Pods", "pods": {"metric": {"name": "hits"}, "target": {"type": "AverageValue", "averageValue": "5"}}}),
            of_pods(
                &json!({"items": [{"describedObject": {"name": "a"}, "value": "10"}, {"describedObject": {"name": "b"}, "value": "10"},
                {"describedObject": {"name": "c"}, "value": "10"}]}),
            ),
            6,
            "pods metric hits",
            json!({"averageValue": "10"}),
        ),
        (
            json!({"type": "Object", "object": {"describedObject": object, "metric": {"name": "hits"}, "target": {"type": "Value", "value": "10"}}}),
            total(&json!({"items": [{"value": "20"}]})),
            6,
            "Service metric hits",
            json!({"value": "20"}),
        ),
        (
            json!({"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "10"}}}),
            total(&json!({"items": [{"value": "20"}, {"value": "31"}]})),
            6,
            "external metric queue(nil)",
            json!({"averageValue": "17"}),
        ),
    ] {
        let proposal = asked(&spec, figures, &pods).unwrap();
        assert_eq!((proposal.replicas, proposal.name.as_str()), (replicas, name));
        let status = serde_json::to_value(&proposal.status).unwrap();
        let field = spec.as_object().unwrap().keys().find(|key| *key != "type").unwrap();
        assert_eq!(status["type"], spec["type"]);
        let seen = &status[field]["current"];
        assert_eq!(seen, &current, "{name}");
    }
}

#[test]
fn what_is_wrong_is_said_in_upstreams_words() {
    let half = cpu(&json!({"type": "Utilization", "averageUtilization": 50}));
    let unserved = "unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)";
    let modest = worker("a").edit(|pod| pod.spec.as_mut().unwrap().containers[0].resources = None);
    let one = |cpu: &str| of_resource(&usage(&[("a", cpu)]), "cpu", None);
    for (figures, pods, why) in [
        (
            Err(unserved.to_owned()),
            vec![worker("a")],
            format!("unable to get metrics for resource cpu: {unserved}"),
        ),
        (one("1"), vec![], "no pods returned by selector while calculating replica count".to_owned()),
        (one("1"), vec![modest], "missing request for cpu in container c of Pod a".to_owned()),
        (
            one("1"),
            vec![worker("a").phase("Pending")],
            "did not receive metrics for targeted pods (pods might be unready)".to_owned(),
        ),
    ] {
        let failure = asked(&half, figures, &pods).unwrap_err();
        let why = format!("failed to get cpu utilization: {why}");
        assert_eq!(failure.summary, format!("failed to get cpu resource metric value: {why}"));
        assert_eq!((failure.reason, failure.why), ("FailedGetResourceMetric", why));
    }
    let elsewhere = json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "x",
        "target": {"type": "Utilization", "averageUtilization": 50}}});
    let failure = asked(&elsewhere, one("1"), &[worker("a")]).unwrap_err();
    assert_eq!(failure.why, "failed to get cpu utilization: container x not found in Pod a");
}

fn settled(
    history: &mut History,
    autoscaler: &HorizontalPodAutoscaler,
    change: (i32, i32),
    now: i64,
) -> (i32, String, String) {
    settled_by(&Autoscaling::default(), history, autoscaler, change, now)
}

fn settled_by(
    settings: &Autoscaling,
    history: &mut History,
    autoscaler: &HorizontalPodAutoscaler,
    change: (i32, i32),
    now: i64,
) -> (i32, String, String) {
    let bounds = super::decide::bounds(autoscaler);
    let (allowed, [able, limited]) = history.settle(autoscaler, settings, change, bounds, at(now));
    (allowed, able.reason, limited.reason)
}

#[test]
fn shrinking_waits_for_five_minutes_and_growing_doubles() {
    let plain = autoscaler(json!({}));
    let mut history = History::default();
    history.begin(10, at(0));
    let mut check = |change, now, expected: (i32, &str, &str)| {
        let (allowed, able, limited) = settled(&mut history, &plain, change, now);
        assert_eq!((allowed, able.as_str(), limited.as_str()), expected, "{change:?} at {now}");
    };
    check((10, 3), 15, (10, "ScaleDownStabilized", "DesiredWithinRange"));
    check((10, 30), 30, (20, "ReadyForNewScale", "ScaleUpLimit"));
    check((1, 9), 45, (4, "ScaleDownStabilized", "ScaleUpLimit"));
    check((60, 500), 331, (100, "ReadyForNewScale", "TooManyReplicas"));
    check((60, 5), 700, (5, "ReadyForNewScale", "DesiredWithinRange"));
    check((60, 0), 1400, (1, "ReadyForNewScale", "TooFewReplicas"));
}

#[test]
fn rules_bound_the_pace_in_both_directions() {
    let rules = |up: Value, down: Value| autoscaler(json!({"behavior": {"scaleUp": up, "scaleDown": down}}));
    let pods = |value: i32| json!({"type": "Pods", "value": value, "periodSeconds": 60});
    let percent = |value: i32| json!({"type": "Percent", "value": value, "periodSeconds": 60});
    let policy = |select: &str, policies: &[Value]| json!({"selectPolicy": select, "policies": policies, "stabilizationWindowSeconds": 0});
    for (case, up, down, change, expected) in [
        ("the larger", policy("Max", &[pods(2), percent(50)]), json!({}), (10, 50), (15, "ScaleUpLimit")),
        ("the smaller", policy("Min", &[pods(2), percent(50)]), json!({}), (10, 50), (12, "ScaleUpLimit")),
        ("never", policy("Disabled", &[pods(2)]), json!({}), (10, 50), (10, "ScaleUpLimit")),
        ("less", json!({}), policy("Max", &[pods(2), percent(50)]), (10, 1), (5, "ScaleDownLimit")),
        ("little less", json!({}), policy("Min", &[pods(2), percent(50)]), (10, 1), (8, "ScaleDownLimit")),
        ("to the end", json!({}), policy("Max", &[percent(100)]), (10, 0), (1, "TooFewReplicas")),
        ("by default", json!({}), json!({}), (10, 500), (20, "ScaleUpLimit")),
        ("a percent in whole pods", policy("Max", &[percent(10)]), json!({}), (11, 50), (13, "ScaleUpLimit")),
    ] {
        let (allowed, _, reason) = settled(&mut History::default(), &rules(up, down), change, 0);
        assert_eq!((allowed, reason.as_str()), expected, "{case}");
    }
    // What was added within the period counts.
    let steady = rules(policy("Max", &[pods(4)]), json!({}));
    let mut history = History::default();
    history.scaled(&steady, 10, 13, at(0));
    assert_eq!(settled(&mut history, &steady, (13, 50), 30).0, 14);
    assert_eq!(settled(&mut history, &steady, (13, 50), 61).0, 17);
    // And growth waits where a window says so.
    let slow = rules(json!({"stabilizationWindowSeconds": 60}), json!({}));
    let mut history = History::default();
    history.begin(3, at(0));
    assert_eq!(
        settled(&mut history, &slow, (3, 6), 30),
        (3, "ScaleUpStabilized".into(), "DesiredWithinRange".into())
    );
    assert_eq!(settled(&mut history, &slow, (3, 6), 61).0, 6);
}

#[test]
fn what_the_operator_chose_holds_where_an_autoscaler_does_not_say() {
    let chosen = Autoscaling {
        tolerance: 0.5,
        downscale_stabilization: Duration::from_secs(60),
        cpu_initialization: Duration::from_secs(20),
        initial_readiness_delay: Duration::from_secs(100),
        ..Autoscaling::default()
    };
    let half = cpu(&json!({"type": "Utilization", "averageUtilization": 50}));
    let three = |last: Pod| vec![worker("a"), worker("b"), last];
    // Ready or not since then, of a pod that started fifty seconds ago.
    let young = |ready: &str, since: i64| {
        worker("c").condition("Ready", ready, since).edit(|pod| {
            pod.status.as_mut().unwrap().start_time = Some(time(9_950));
        })
    };
    let of = |used: &[(&str, &str)]| of_resource(&usage(used), "cpu", None);
    let modest = [("a", "700m"), ("b", "700m"), ("c", "700m")];
    let burning = [("a", "500m"), ("b", "500m"), ("c", "9")];
    let plain = Autoscaling::default();
    let eager = Autoscaling { cpu_initialization: Duration::from_secs(20), ..plain };
    for (case, settings, pods, used, expected) in [
        ("beyond the tolerance", &plain, three(worker("c")), &modest, 5),
        ("within one that was chosen", &chosen, three(worker("c")), &modest, 3),
        ("ready, but its figure is from its start", &plain, three(young("True", 9_960)), &burning, 3),
        ("its start is taken to be over", &chosen, three(young("True", 9_960)), &burning, 20),
        ("unready since its start, so never ready", &chosen, three(young("False", 9_990)), &burning, 3),
        ("it was ready before", &eager, three(young("False", 9_990)), &burning, 20),
    ] {
        assert_eq!(asked_by(settings, &half, of(used), &pods).unwrap().replicas, expected, "{case}");
    }
    for behavior in [json!(null), json!({"scaleDown": {}})] {
        let autoscaler = autoscaler(json!({"behavior": behavior}));
        let mut history = History::default();
        history.begin(10, at(0));
        let mut replicas = |now| settled_by(&chosen, &mut history, &autoscaler, (10, 8), now).0;
        assert_eq!((replicas(59), replicas(61)), (10, 8), "{behavior}");
    }
}

#[test]
fn the_largest_proposal_wins_and_a_failure_keeps_from_shrinking() {
    let proposal =
        |replicas| Ok(Proposal { replicas, name: format!("m{replicas}"), status: Default::default() });
    let failure = || {
        Err(Failure { reason: "FailedGetPodsMetric", why: "no".to_owned(), summary: "failed: no".to_owned() })
    };
    let judged = |proposals: &[Result<Proposal, Failure>]| {
        let (autoscaler, settings) = (autoscaler(json!({})), Autoscaling::default());
        let now = Timestamp::UNIX_EPOCH;
        let verdict = judge(&autoscaler, 3, proposals, &mut History::default(), &settings, now);
        let active: Vec<Condition> =
            verdict.conditions.into_iter().filter(|it| it.type_ == "ScalingActive").collect();
        (verdict.replicas, active[0].reason.clone(), verdict.error)
    };
    let some = |replicas, why: &str| Some((replicas, why.to_owned()));
    let wrong =
        |of: usize| Some(format!("invalid metrics (1 invalid out of {of}), first error is: failed: no"));
    let valid = || "ValidMetricFound".to_owned();
    assert_eq!(judged(&[proposal(2), proposal(5)]), (some(5, "m5 above target"), valid(), None));
    assert_eq!(judged(&[proposal(2)]), (some(2, "All metrics below target"), valid(), None));
    assert_eq!(judged(&[failure(), proposal(5)]), (some(5, "m5 above target"), valid(), wrong(2)));
    assert_eq!(judged(&[proposal(2), failure()]), (None, "FailedGetPodsMetric".to_owned(), wrong(2)));
    assert_eq!(judged(&[failure()]), (None, "FailedGetPodsMetric".to_owned(), wrong(1)));
    let narrow = autoscaler(json!({"minReplicas": 2, "maxReplicas": 4}));
    let why = "Current number of replicas above Spec.MaxReplicas";
    assert_eq!(aim(&narrow, 5), Aim::Correct { replicas: 4, why });
    assert_eq!((aim(&narrow, 0), aim(&narrow, 3)), (Aim::Off, Aim::Measure));
}

fn deployment(replicas: i32) -> Value {
    json!({"metadata": {"name": "d", "namespace": "ns"}, "status": {"replicas": replicas},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {}}})
}

fn condition(api: &FakeApi, type_: &str) -> (String, String) {
    let autoscaler: HorizontalPodAutoscaler = api.get(AUTOSCALERS, "ns", "h").unwrap();
    let conditions = autoscaler.status.and_then(|status| status.conditions).unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition.type_ == type_).unwrap_or_default();
    (found.reason.unwrap_or_default(), found.message.unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn an_autoscaler_says_what_it_lacks_and_scales_when_it_has_it() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[CONTROLLER]);
    api.create(AUTOSCALERS, &autoscaler(json!({})));
    let reason = |api: &FakeApi, type_: &str| condition(api, type_).0;
    api.until("there is no target", |_| {}, |api| reason(api, "AbleToScale") == "FailedGetScale").await;
    api.create("apps/deployments", &deployment(3));
    for name in ["a", "b", "c"] {
        api.create("/pods", &worker(name));
        api.edit("/pods", "ns", name, |stored| {
            stored["status"] = serde_json::to_value(worker(name).status).unwrap();
        });
    }
    api.until("no metrics", |_| {}, |api| reason(api, "ScalingActive") == "FailedGetResourceMetric").await;
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)";
    let message = format!("the HPA was unable to compute the replica count: {why}");
    assert_eq!(condition(&api, "ScalingActive").1, message);
    assert_eq!(reason(&api, "AbleToScale"), "SucceededGetScale");
    api.until("that is told", |_| {}, |api| !api.events("FailedComputeMetricsReplicas").is_empty()).await;
    let whole = format!(
        "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: {why}"
    );
    assert_eq!(api.events("FailedComputeMetricsReplicas")[0], whole);
    assert_eq!(api.events("FailedGetResourceMetric")[0], why);
    for name in ["a", "b", "c"] {
        let mut metrics = usage(&[(name, "1")])["items"][0].clone();
        metrics["metadata"]["namespace"] = json!("ns");
        api.create(METRICS, &metrics);
    }
    let replicas = |api: &FakeApi| {
        let deployment: Deployment = api.get("apps/deployments", "ns", "d").unwrap();
        deployment.spec.unwrap().replicas
    };
    api.until("it is scaled", |_| {}, |api| replicas(api) == Some(6)).await;
    api.until("it says so", |_| {}, |api| reason(api, "AbleToScale") == "SucceededRescale").await;
    let why = "New size: 6; reason: cpu resource utilization (percentage of request) above target";
    api.until("that is told", |_| {}, |api| api.events("SuccessfulRescale") == [why]).await;
    let stored: HorizontalPodAutoscaler = api.get(AUTOSCALERS, "ns", "h").unwrap();
    let status = stored.status.unwrap();
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(3), 6));
    assert!(status.last_scale_time.is_some());
    let current = status.current_metrics.unwrap()[0].resource.clone().unwrap().current;
    assert_eq!((current.average_utilization, current.average_value.unwrap().0.as_str()), (Some(100), "1"));
    // Somebody turns it off.
    api.edit("apps/deployments", "ns", "d", |deployment| deployment["spec"]["replicas"] = json!(0));
    api.until("it is off", |_| {}, |api| reason(api, "ScalingActive") == "ScalingDisabled").await;
    // A second one that counts the same pods is told, and so is the first.
    api.edit("apps/deployments", "ns", "d", |deployment| deployment["spec"]["replicas"] = json!(3));
    let mut other = autoscaler(json!({}));
    other.metadata.name = Some("i".to_owned());
    api.create(AUTOSCALERS, &other);
    api.until("both count", |_| {}, |api| reason(api, "ScalingActive") == "AmbiguousSelector").await;
    api.delete(AUTOSCALERS, "ns", "i", "Background");
    api.until("one is gone", |_| {}, |api| reason(api, "ScalingActive") == "ValidMetricFound").await;
    pass(1).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_number_out_of_bounds_is_corrected_without_figures() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[CONTROLLER]);
    api.create("apps/deployments", &deployment(9));
    api.create(AUTOSCALERS, &autoscaler(json!({"maxReplicas": 4})));
    let why = "New size: 4; reason: Current number of replicas above Spec.MaxReplicas";
    api.until("it is scaled", |_| {}, |api| api.events("SuccessfulRescale") == [why]).await;
    api.create(AUTOSCALERS, &{
        let mut odd =
            autoscaler(json!({"scaleTargetRef": {"apiVersion": "e.io/v1", "kind": "Odd", "name": "o"}}));
        odd.metadata.name = Some("odd".to_owned());
        odd
    });
    api.until("that kind is unknown", |_| {}, |api| api.events("FailedGetScale").len() == 1).await;
    assert_eq!(api.events("FailedGetScale"), ["no matches for kind \"Odd\" in group \"e.io\""]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn looks_and_figures_are_counted_by_what_came_of_them() {
    let api = FakeApi::default();
    let running = Running::start(&api, &[CONTROLLER]);
    let named = |name: &str, change: Value| {
        let mut autoscaler = autoscaler(change);
        autoscaler.metadata.name = Some(name.to_owned());
        autoscaler
    };
    api.create("apps/deployments", &deployment(9));
    api.create(AUTOSCALERS, &named("counted", json!({"maxReplicas": 4})));
    api.until("it is scaled", |_| {}, |api| !api.events("SuccessfulRescale").is_empty()).await;
    api.until("no metrics", |_| {}, |api| !api.events("FailedGetResourceMetric").is_empty()).await;
    let odd = json!({"scaleTargetRef": {"apiVersion": "a/b/c", "kind": "Deployment", "name": "d"}});
    api.create(AUTOSCALERS, &named("odd", odd));
    api.until("that is no version", |_| {}, |api| !api.events("FailedGetScale").is_empty()).await;
    // It is counted a moment after it is told.
    pass(1).await;
    running.stop().await;
    let mut text = String::new();
    crate::collect_metrics(&mut text);
    let begin = "horizontal_pod_autoscaler_controller_";
    for row in [
        "reconciliations_total{action=\"scale_down\",error=\"none\"} ",
        "reconciliations_total{action=\"none\",error=\"internal\"} ",
        "reconciliations_total{action=\"none\",error=\"spec\"} ",
        "reconciliation_duration_seconds_count{action=\"scale_down\",error=\"none\"} ",
        "metric_computation_total{action=\"none\",error=\"internal\",metric_type=\"Resource\"} ",
        "metric_computation_duration_seconds_count{action=\"none\",error=\"internal\",metric_type=\"Resource\"} ",
        "desired_replicas{namespace=\"ns\",hpa_name=\"counted\"} 4\n",
        "num_horizontal_pod_autoscalers ",
    ] {
        assert!(text.contains(&format!("{begin}{row}")), "{row}\n{text}");
    }
}
