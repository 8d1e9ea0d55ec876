//! When Jobs go.
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};

use super::decide::expires_at;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{at, meta, time};

fn job(ttl: Option<i32>, finished: Option<i64>) -> Job {
    let condition = |seconds| JobCondition {
        type_: "Complete".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(time(seconds)),
        ..JobCondition::default()
    };
    Job {
        metadata: meta("work"),
        spec: Some(JobSpec { ttl_seconds_after_finished: ttl, ..JobSpec::default() }),
        status: Some(JobStatus {
            conditions: finished.map(|it| vec![condition(it)]),
            ..JobStatus::default()
        }),
    }
}

#[test]
fn only_finished_jobs_with_a_limit_expire() {
    assert_eq!(expires_at(&job(Some(10), Some(100))), Some(at(110)));
    assert_eq!(expires_at(&job(None, Some(100))), None);
    assert_eq!(expires_at(&job(Some(10), None)), None);
    let mut going = job(Some(10), Some(100));
    going.metadata.deletion_timestamp = Some(time(101));
    assert_eq!(expires_at(&going), None);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_deleted_in_time() {
    let api = FakeApi::default();
    api.create("batch/jobs", &job(Some(60), Some(1_000_000)));
    let running = Running::start(&api, &["ttl-after-finished-controller"]);
    crate::testing::pass(55).await;
    let going = |api: &FakeApi| {
        api.get::<Job>("batch/jobs", "ns", "work").is_none_or(|job| job.metadata.deletion_timestamp.is_some())
    };
    assert!(!going(&api));
    crate::testing::pass(6).await;
    api.until("it goes", |_| {}, going).await;
    running.stop().await;
}
