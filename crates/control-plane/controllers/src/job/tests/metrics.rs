//! What is counted about Jobs and their pods.

use super::super::shell::ended_indexes;
use super::*;
use crate::metrics;

fn on_code(action: &str, code: i32) -> PodFailurePolicyRule {
    let on_exit_codes = PodFailurePolicyOnExitCodesRequirement {
        container_name: None,
        operator: "In".to_owned(),
        values: vec![code],
    };
    PodFailurePolicyRule {
        action: action.to_owned(),
        on_exit_codes: Some(on_exit_codes),
        on_pod_conditions: None,
    }
}

fn with_policy(job: Job) -> Job {
    let rules =
        vec![on_code("FailJob", 42), on_code("Ignore", 3), on_code("FailIndex", 7), on_code("Count", 5)];
    edited(job, |spec| spec.pod_failure_policy = Some(PodFailurePolicy { rules }))
}

#[test]
fn each_failed_pod_is_dealt_with_by_one_rule_once() {
    let strict = with_policy(job(3, 1));
    let noted = JobStatus {
        uncounted_terminated_pods: Some(UncountedTerminatedPods {
            failed: Some(vec!["a-uid".to_owned()]),
            succeeded: None,
        }),
        ..JobStatus::default()
    };
    let noted = with_status(&strict, noted);
    for (case, job, code, expected) in [
        ("the job fails", &strict, 42, vec!["FailJob"]),
        ("ignored", &strict, 3, vec!["Ignore"]),
        ("counted by a rule", &strict, 5, vec!["Count"]),
        ("by no rule", &strict, 1, vec![]),
        ("a success", &strict, 0, vec![]),
        ("noted before", &noted, 5, vec![]),
        ("without rules", &job(3, 1), 42, vec![]),
    ] {
        let decision = decided(job, vec![exited(ours("a"), code, 1)]);
        assert_eq!(decision.release.len(), 1, "{case}");
        assert_eq!(decision.handled, expected, "{case}");
    }
    assert_eq!(decided(&strict, vec![freed(exited(ours("a"), 3, 1))]).handled, Vec::<String>::new());
}

#[test]
fn pods_are_created_for_a_reason() {
    let replacing =
        |policy: &str| edited(job(3, 3), |spec| spec.pod_replacement_policy = Some(policy.to_owned()));
    let (failed, leaving) = (exited(ours("a"), 1, 1), ours("a").deleting());
    for (case, job, pods, expected) in [
        ("at first", replacing("Failed"), vec![], "new"),
        ("one has failed", replacing("Failed"), vec![failed.clone()], "recreate_failed"),
        (
            "one has failed, and others need not have ended",
            replacing("TerminatingOrFailed"),
            vec![failed],
            "recreate_terminating_or_failed",
        ),
        (
            "one is on its way",
            replacing("TerminatingOrFailed"),
            vec![leaving],
            "recreate_terminating_or_failed",
        ),
        (
            "none are missing",
            replacing("Failed"),
            vec![ours("a").ready(1), ours("b").ready(1), ours("c").ready(1)],
            "",
        ),
    ] {
        let decision = decided(&job, pods);
        assert_eq!(decision.why_create, expected, "{case}");
        assert_eq!(decision.create.is_empty(), expected.is_empty(), "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn indexes_and_pods_are_counted_as_they_end() {
    let indexes = |status: &str| metrics::JOB_INDEXES_FINISHED.with(["perIndex", status]).value();
    let by_rule = || metrics::JOB_POD_FAILURES.with(["FailIndex"]).value();
    let held = |event: &str| metrics::JOB_PODS_HELD.with([event]).value();
    let created = || metrics::JOB_PODS_CREATED.with(["new", "succeeded"]).value();
    let before = (indexes("succeeded"), indexes("failed"), by_rule());
    let pods = (held("add"), held("delete"), created());
    let api = FakeApi::default();
    let work = edited(with_policy(indexed(3, 3)), |spec| spec.backoff_limit_per_index = Some(0));
    api.create("batch/jobs", &work);
    let running = Running::start(&api, CONTROLLER);
    let end = |api: &FakeApi| {
        for pod in api.list::<Pod>("/pods") {
            let meta = &pod.metadata;
            let (name, index) =
                (meta.name.clone().unwrap(), meta.annotations.as_ref().unwrap()[INDEX].clone());
            if !crate::pods::is_finished(&pod) {
                let code = if index == "1" { 7 } else { 0 };
                let like = serde_json::to_value(exited(pod, code, 1_000_000)).unwrap();
                api.edit("/pods", "ns", &name, |pod| pod["status"] = like["status"].clone());
            }
        }
    };
    let finished = |api: &FakeApi| {
        let stored: Job = api.get("batch/jobs", "ns", "work").unwrap();
        stored.status.is_some_and(|status| status::is_finished(&status))
    };
    api.until("it ends", end, finished).await;
    api.settle().await;
    running.stop().await;
    // Other tests of this process count too, the simulations of such Jobs among them.
    let after = (indexes("succeeded"), indexes("failed"), by_rule());
    assert!(after.0 >= before.0 + 2 && after.1 > before.1 && after.2 > before.2, "{before:?} {after:?}");
    assert!(held("add") >= pods.0 + 3 && held("delete") >= pods.1 + 3 && created() >= pods.2 + 3);
    let mut text = String::new();
    metrics::collect(&mut text);
    let row = "job_controller_job_finished_indexes_total{backoffLimit=\"perIndex\",status=\"failed\"} ";
    assert!(text.contains(row), "{text}");
}

#[test]
fn an_index_is_counted_by_the_status_that_tells_of_it_first() {
    let limited = edited(indexed(6, 3), |spec| spec.backoff_limit_per_index = Some(0));
    let status = |completed: &str, failed: &str| JobStatus {
        completed_indexes: Some(completed.to_owned()),
        failed_indexes: Some(failed.to_owned()),
        ..JobStatus::default()
    };
    for (case, job, before, after, expected) in [
        (
            "the first",
            &limited,
            JobStatus::default(),
            status("0,3-4", "1"),
            vec![(["perIndex", "succeeded"], 3), (["perIndex", "failed"], 1)],
        ),
        (
            "some more",
            &limited,
            status("0", "1"),
            status("0,3-4", "1-2"),
            vec![(["perIndex", "succeeded"], 2), (["perIndex", "failed"], 1)],
        ),
        (
            "nothing new",
            &limited,
            status("0,3-4", "1"),
            status("0,3-4", "1"),
            vec![(["perIndex", "succeeded"], 0), (["perIndex", "failed"], 0)],
        ),
        (
            "a limit for all",
            &indexed(6, 3),
            status("0", ""),
            status("0-1", ""),
            vec![(["global", "succeeded"], 1)],
        ),
    ] {
        assert_eq!(ended_indexes(job, &before, &after), expected, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_of_other_controllers_are_counted_by_those() {
    let of = |manager: &str| metrics::JOBS_MANAGED_ELSEWHERE.with([manager]).value();
    let api = FakeApi::default();
    let by = |name: &str, manager: &str| {
        let mut job = edited(job(1, 1), |spec| spec.managed_by = Some(manager.to_owned()));
        job.metadata.name = Some(name.to_owned());
        job
    };
    api.create("batch/jobs", &by("old", "example.com/queue"));
    let running = Running::start(&api, CONTROLLER);
    api.create("batch/jobs", &by("new", "example.com/queue"));
    api.create("batch/jobs", &by("own", "kubernetes.io/job-controller"));
    api.until("they are seen", |_| {}, |api| !api.list::<Pod>("/pods").is_empty()).await;
    api.settle().await;
    api.edit("batch/jobs", "ns", "new", |job| job["spec"]["parallelism"] = 2.into());
    api.settle().await;
    running.stop().await;
    assert_eq!((of("example.com/queue"), of("kubernetes.io/job-controller")), (2, 0));
}
